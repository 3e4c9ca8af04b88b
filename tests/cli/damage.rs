//! What is deleted or altered in the store behind sos's back is found, taken away, and built again.

use std::os::unix::fs::PermissionsExt as _;

use super::builds::{recipe, world_with_busybox};
use crate::support::store_is_clean;
use crate::support::tiny::{Tiny, recipe as rootfs};

#[test]
fn a_result_whose_files_are_gone_is_built_again() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("f.nix", &recipe("gone", "echo x > $out", ""));
    let build = ["build", "--no-link", "f.nix"];
    let path = w.sos(build).ok().says(&["built 1"]).stdout;
    std::fs::remove_file(w.physical(path.trim())).expect("the result");
    w.sos(["store", "check"])
        .fails(1)
        .says(&["is missing", "sos store repair"]);
    assert_eq!(w.sos(build).ok().says(&["built 1"]).stdout, path);
    assert_eq!(w.sos(["store", "cat", path.trim()]).ok().stdout, "x\n");
    store_is_clean(&w);
}

#[test]
fn altered_content_is_told_and_repaired() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("f.nix", &recipe("altered", "echo good > $out", ""));
    let build = ["build", "--no-link", "f.nix"];
    let path = w.sos(build).ok().stdout.trim().to_owned();
    let file = w.physical(&path);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("its mode");
    std::fs::write(&file, "evil\n").expect("the result");
    // The mode does not hide the content.
    w.sos(["store", "check"])
        .fails(1)
        .says(&["it has mode 644", "its content has hash"]);
    assert_eq!(w.sos(["store", "repair"]).ok().stdout.trim(), path);
    w.sos(build).ok().says(&["built 1"]);
    assert_eq!(w.sos(["store", "cat", &path]).ok().stdout, "good\n");
    store_is_clean(&w);
    w.sos(["store", "repair"])
        .ok()
        .says(&["nothing is damaged"]);
}

#[test]
fn a_root_filesystem_that_lacks_a_file_is_repaired() {
    let Some(tiny) = Tiny::new() else { return };
    let w = &tiny.world;
    w.write("tiny.rootfs.toml", &rootfs(&["greeter"], ""));
    let build = ["build", "--no-link", "tiny.rootfs.toml"];
    let path = w.sos(build).ok().stdout;
    let script = "#!/bin/sh\ncat /usr/share/greeter/text\n";
    let content = walkdir::WalkDir::new(w.store().join("cas"))
        .into_iter()
        .flatten()
        .find(|e| std::fs::read(e.path()).is_ok_and(|bytes| bytes == script.as_bytes()))
        .expect("the content of a file");
    std::fs::remove_file(content.path()).expect("a content");
    w.sos(["store", "check"]).fails(1).says(&["is missing"]);
    w.sos(["store", "repair"]).ok();
    assert_eq!(w.sos(build).ok().stdout, path);
    store_is_clean(w);
}
