//! `sos export` of images: layouts, archives, and what the tools in use make of them.

use std::path::Path;
use std::process::Command;

use crate::support::steps::ROOTFS;
use crate::support::{LIMIT, World, finish, peer, run as run_command, shared, start};

const RECIPE: &str = r##"{ sos, ... }: let
  edit = import ./rootfs.nix "rootfs-edit";
in rec {
  base = edit {
    name = "base";
    files = [
      { path = "/etc/motd"; content = "hello\n"; mode = "0640"; }
      { path = "/usr/bin/tool"; content = "#!/bin/sh\n"; mode = "4755"; }
    ];
  };
  image = sos.oci { name = "image"; rootfs = base; epoch = 1700000000; tag = "1.0"; config.cmd = [ "/bin/sh" ]; };
  other = sos.oci { name = "other"; rootfs = base; epoch = 1700000000; config.env.A = "b"; };
}
"##;

pub(super) fn world() -> World {
    let w = World::new();
    w.write("sos.nix", RECIPE);
    w.write("rootfs.nix", ROOTFS);
    w
}

/// An independent checker finds nothing in a layout or an archive.
fn check(place: &Path) {
    let (Some(python), Some(checker)) = (peer("python3"), shared("checks/oci_check.py")) else {
        return;
    };
    let found = run_command(
        Command::new(python)
            .arg(checker)
            .args(["--strict", "--epoch", "1700000000"])
            .arg(place),
    )
    .ok();
    assert!(
        found.stdout.contains("problems=0 repro=0"),
        "{}",
        found.stdout
    );
}

fn skopeo(args: &[&str], dir: &Path) -> Option<String> {
    let mut command = Command::new(peer("skopeo")?);
    command.arg("--insecure-policy").args(args).current_dir(dir);
    Some(run_command(&mut command).ok().stdout)
}

#[test]
fn images_are_added_to_a_layout() {
    let w = world();
    let layout = w.project().join("images");
    let first = w.sos(["export", ".#image", "oci:images"]).ok().stdout;
    let digest = first
        .split_whitespace()
        .next()
        .expect("a digest")
        .to_owned();
    assert_eq!(first, format!("{digest} 1.0\n"));
    let index = std::fs::read(layout.join("index.json")).expect("an index");
    w.sos(["export", ".#image", "oci:images"])
        .ok()
        .says(&["wrote 0 blobs, 3 were there"]);
    let again = std::fs::read(layout.join("index.json")).expect("an index");
    assert_eq!(again, index);
    // Under a second name, and another image under the first one.
    w.sos(["export", ".#image", "oci:images:old"]).ok();
    w.sos(["export", ".#other", "oci:images:1.0"]).ok();
    check(&layout);
    let Some(old) = skopeo(&["inspect", "oci:images:old"], &w.project()) else {
        return;
    };
    assert!(old.contains(&digest), "{old}");
    let new = skopeo(&["inspect", "--config", "oci:images:1.0"], &w.project());
    assert!(new.is_some_and(|new| new.contains("A=b")));
    // What sos copied out is the user's to change.
    let blob = layout
        .join("blobs/sha256")
        .join(digest.trim_start_matches("sha256:"));
    std::fs::write(&blob, "x").expect("a file of the user");
    w.sos(["export", ".#image", "oci:images"]).ok();
    assert_ne!(std::fs::read(&blob).expect("a blob"), b"x");
}

#[test]
fn an_archive_is_the_same_each_time() {
    let w = world();
    let left = w.write("one.tar.sos-draft-1", "half of it");
    w.write("one.tar.sos-draft-1.lock", "");
    let own = w.write("one.tar.sos-draft-2024", "of somebody");
    w.sos(["export", ".#image", "oci-archive:one.tar"]).ok();
    assert!(!left.exists() && own.exists());
    let name = format!("{}.tar", "n".repeat(251));
    w.sos(["export", ".#image", &format!("oci-archive:{name}")])
        .ok();
    assert!(w.project().join(name).exists());
    let told = w
        .sos(["--json", "export", ".#image", "oci-archive:two.tar:1.0"])
        .ok()
        .stdout;
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    let read = |name: &str| std::fs::read(w.project().join(name)).expect("an archive");
    assert_eq!(read("one.tar"), read("two.tar"));
    w.sos(["export", ".#image", "oci-archive:two.tar"])
        .fails(2)
        .says(&["error[export-exists]"]);
    check(&w.project().join("one.tar"));
    if skopeo(
        &["copy", "oci-archive:one.tar", "oci:copied:x"],
        &w.project(),
    )
    .is_none()
    {
        return;
    }
    let copied = skopeo(&["inspect", "oci:copied:x"], &w.project()).expect("installed");
    let digest = told["digest"].as_str().expect("a digest");
    assert!(copied.contains(digest), "{copied}");
    let Some(umoci) = peer("umoci") else { return };
    let mut command = Command::new(umoci);
    command
        .args(["unpack", "--rootless", "--image", "copied:x", "bundle"])
        .current_dir(w.project());
    run_command(&mut command).ok();
    let motd = std::fs::read_to_string(w.project().join("bundle/rootfs/etc/motd"));
    assert_eq!(motd.expect("unpacked"), "hello\n");
}

/// Whatever stopped an export: the same again goes on from what is there.
#[test]
fn an_export_that_was_stopped_goes_on() {
    let w = world();
    let export = || w.sos(["export", ".#image", "oci:dir"]);
    w.sos(["export", ".#image", "oci:whole"]).ok();
    let dir = w.project().join("dir");
    let blobs = dir.join("blobs/sha256");
    // One of a living process, in another container.
    let number = std::process::id();
    let whole = w.project().join("whole/blobs/sha256");
    let files = std::fs::read_dir(&whole).expect("a directory");
    let mut names: Vec<_> = files.map(|one| one.expect("a file").file_name()).collect();
    names.sort();
    for stage in 0..5 {
        if dir.exists() {
            std::fs::remove_dir_all(&dir).expect("removed");
        }
        std::fs::create_dir_all(if stage == 0 {
            dir.join("blobs")
        } else {
            blobs.clone()
        })
        .expect("a directory");
        if stage > 0 {
            let draft = format!("{}.sos-draft-{number}", names[0].display());
            std::fs::write(blobs.join(draft), "half").expect("written");
        }
        if stage > 1 {
            std::fs::copy(whole.join(&names[1]), blobs.join(&names[1])).expect("copied");
        }
        if stage > 2 {
            // As after a power failure: the size and nothing of it.
            let size = whole.join(&names[0]).metadata().expect("a file").len();
            let file = std::fs::File::create(blobs.join(&names[0])).expect("a file");
            file.set_len(size).expect("a size");
            w.write("dir/oci-layout", "");
        }
        if stage > 3 {
            w.write(&format!("dir/index.json.sos-draft-{number}"), "{");
        }
        export().ok();
        let same = run_command(
            Command::new("diff")
                .args(["-r", "whole", "dir"])
                .current_dir(w.project()),
        );
        same.ok();
    }
    // What is somebody's stays.
    std::fs::remove_file(dir.join("index.json")).expect("removed");
    for more in ["dir/notes", "dir/blobs/sha256/notes", "dir/blobs/notes"] {
        w.write(more, "mine");
        export().fails(2).says(&["error[export-not-a-layout]"]);
        std::fs::remove_file(w.project().join(more)).expect("removed");
    }
    export().ok();
}

/// Each adds its image to the index that the one before has written.
#[test]
fn exports_at_once_into_one_layout_lose_nothing() {
    let w = world();
    let image = |n: usize| {
        format!(
            "  i{n} = sos.oci {{ name = \"i{n}\"; rootfs = base; epoch = 1700000000; tag = \"i{n}\"; }};\n}}\n"
        )
    };
    let recipe = (0..6).fold(RECIPE.to_owned(), |text, n| {
        text.trim_end().trim_end_matches('}').to_owned() + &image(n)
    });
    w.write("sos.nix", &recipe);
    let targets: Vec<String> = (0..6).map(|n| format!(".#i{n}")).collect();
    let mut build = w.command_of(&["build", "--no-link"]);
    run_command(build.args(&targets)).ok();
    let all: Vec<_> = targets
        .iter()
        .map(|target| start(&mut w.command_of(&["export", target, "oci:lay"])))
        .collect();
    for one in all {
        finish(one, LIMIT).ok();
    }
    let index = std::fs::read_to_string(w.project().join("lay/index.json")).expect("an index");
    let index: serde_json::Value = serde_json::from_str(&index).expect("JSON");
    let manifests = index["manifests"].as_array().expect("a list");
    let mut names: Vec<&str> = manifests
        .iter()
        .filter_map(|one| one["annotations"]["org.opencontainers.image.ref.name"].as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["i0", "i1", "i2", "i3", "i4", "i5"]);
    check(&w.project().join("lay"));
    let top = std::fs::read_dir(w.project().join("lay")).expect("a directory");
    assert_eq!(top.count(), 3, "no lock and no draft is left");
}

#[test]
fn what_is_no_image_or_no_place_for_one_is_refused() {
    let w = world();
    w.write("dir/file", "");
    w.sos(["export", ".#base", "oci:new"])
        .fails(2)
        .says(&["error[export-no-image]", "`sos.oci"]);
    w.sos(["export", ".#image", "oci:dir"])
        .fails(2)
        .says(&["error[export-not-a-layout]"]);
    w.sos(["export", ".#image", "oci:new:a b"])
        .fails(2)
        .says(&["error[export-destination]", "`a b` is not a tag"]);
    w.sos(["export", ".#image", "oci:"])
        .fails(2)
        .says(&["error[export-destination]", "`oci:DIR[:TAG]`"]);
    assert!(!w.project().join("new").exists());
}

#[test]
fn a_destination_without_a_place_leaves_nothing() {
    let w = world();
    w.sos(["export", "--mount-from", "os/web", ".#image", "oci:images"])
        .fails(2)
        .says(&["error[export-destination]", "only in a registry"]);
    for to in ["oci::t", "oci-archive::t", "oci:"] {
        w.sos(["export", ".#image", to])
            .fails(2)
            .says(&["export-destination"]);
    }
    assert!(!w.project().join("blobs").exists());
}

/// A layer is not read when an image is made of it: what became of it on the disk is seen by whoever looks.
#[test]
fn a_damaged_layer_does_not_leave_the_store() {
    let w = world();
    let image = w.sos(["build", "--no-link", ".#image"]).ok().stdout;
    let blobs = w.physical(image.trim()).join("blobs/sha256");
    let files = std::fs::read_dir(blobs).expect("a directory");
    let mut files = files.map(|file| file.expect("a file").path());
    let is_gzip = |file: &std::path::PathBuf| {
        std::fs::read(file)
            .expect("bytes")
            .starts_with(&[0x1f, 0x8b])
    };
    let layer = files.find(is_gzip).expect("a layer");
    let writable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&layer, writable).expect("the right");
    let mut bytes = std::fs::read(&layer).expect("bytes");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&layer, bytes).expect("bytes");
    for to in ["oci:images", "oci-archive:image.tar"] {
        w.sos(["export", ".#image", to])
            .fails(1)
            .says(&["has other bytes than its digest says"]);
    }
    assert!(!w.project().join("images/index.json").exists());
    assert!(!w.project().join("image.tar").exists());
    w.sos(["verify", ".#image"]).fails(4).says(&[
        "cannot be verified: files of the store are damaged",
        "sos store check",
    ]);
    w.sos(["store", "check"]).fails(1).says(&["its id is"]);
}
