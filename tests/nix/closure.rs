//! A closure whose programs come out of a Debian root filesystem that `sos.run` turned into a tree.

use super::Both;
use crate::support::tiny::{Tiny, recipe};

#[test]
fn derivations_over_a_debian_tree_build_as_under_nix() {
    let Some(tiny) = Tiny::new() else { return };
    tiny.world.write("tiny.rootfs.toml", &recipe(&[], ""));
    tiny.world.write(
        "debian.nix",
        "{ sos, ... }: sos.run { name = \"debian\"; rootfs = sos.debian.rootfs ./tiny.rootfs.toml; script = \"mkdir $out; cp -a /usr $out/; if ! [ -L /lib64 ]; then cp -a /lib64 $out/usr/; fi\"; }",
    );
    let tree = tiny
        .world
        .sos(["build", "--no-link", "debian.nix"])
        .ok()
        .stdout;
    let Some(both) = Both::over(tiny.world) else {
        return;
    };
    both.world.write("closure.nix", include_str!("closure.nix"));
    let place = both.world.physical(tree.trim()).display().to_string();
    let drv = both.instantiate("closure.nix", "system", &["--argstr", "tree", &place]);
    let outputs = both.same(&drv);
    // Everything below it, too.
    for path in both.nix_query("--requisites", &outputs[0]) {
        both.same_object(&path);
    }
    let graph = both
        .world
        .sos(["store", "cat", &format!("{}/graph", outputs[0])])
        .ok();
    assert!(graph.stdout.contains("-hello.deb\n"), "{graph:?}");
}
