//! `sos.bootc`: the layout, its lints, and an independent program that looks for the same.

use crate::support::steps::ROOTFS;
use crate::support::{World, peer, run, shared};

const RECIPE: &str = r##"{ sos, ... }: let
  edit = import ./rootfs.nix "rootfs-edit";
  file = path: content: { inherit path content; };
  files = [
    (file "/boot/vmlinuz-6.1" "kernel")
    (file "/boot/initrd.img-6.1" "initrd")
    (file "/usr/lib/modules/6.1/modules.dep" "")
    (file "/usr/lib/os-release" "ID=debian\n")
    (file "/etc/motd" "hello\n")
    (file "/var/lib/state" "x")
  ];
  of = files: edit { name = "system"; inherit files; };
in {
  good = sos.bootc { rootfs = of files; };
  strict = sos.bootc { rootfs = of files; strict = true; };
  bad = sos.bootc { rootfs = of (files ++ [ (file "/usr/lib/modules/6.2/vmlinuz" "") (file "/usr/etc/x" "") ]); };
  raw = sos.bootc { rootfs = of files; arrange = false; };
  committed = (sos.bootc { name = "os"; rootfs = of files; }).ostree;
  container = (sos.bootc { name = "os"; rootfs = of files; }).ostree.container;
}
"##;

fn world() -> World {
    let w = World::new();
    w.write("sos.nix", RECIPE);
    w.write("rootfs.nix", ROOTFS);
    w
}

#[test]
fn an_independent_checker_agrees() {
    let w = world();
    w.sos(["export", ".#good.oci", "dir:image"])
        .ok()
        .says(&["warning[bootc-prepare-root]", "while building `"]);
    let (Some(python), Some(checker)) = (peer("python3"), shared("checks/oci_check.py")) else {
        return;
    };
    let mut check = std::process::Command::new(python);
    check.arg(checker).arg("--strict").arg("--bootc");
    let said = run(check.arg(w.project().join("image"))).ok().stdout;
    assert!(said.contains("problems=0"), "{said}");
    // What it warns of, the build and the log have warned of.
    let log = w.sos(["log", ".#good"]).ok().stdout;
    assert!(log.contains("warning[bootc-prepare-root]"), "{log}");
    let warned = said
        .lines()
        .filter(|line| line.starts_with("W bootc-"))
        .count();
    assert_eq!(warned, 1, "{said}");
}

/// A warning stands on the terminal when it is built, at its place in the recipe, and does not stop the build.
#[test]
fn what_may_surprise_is_shown_where_it_was_written() {
    let w = world();
    let line = RECIPE.lines().position(|line| line.contains("  good ="));
    let place = format!("sos.nix:{}:", line.expect("it is there") + 1);
    let told = w.sos(["build", "--no-link", ".#good"]).ok();
    told.says(&[
        "warning[bootc-prepare-root]",
        &place,
        "/usr/lib/ostree/prepare-root.conf",
        "while building `",
    ]);
    let json = w.sos([
        "build",
        "--no-link",
        "--rebuild",
        "--progress",
        "json",
        ".#good",
    ]);
    let event = json.ok().stdout;
    let event = event
        .lines()
        .find(|line| line.contains("bootc-prepare-root") && line.contains("\"diagnostic\""))
        .expect("an event");
    assert!(event.contains("sos.nix"), "{event}");
}

/// The order of a commit in an image is that of its importer, which no order of paths can be: it wants the xattrs of an object before
/// the object, and in every order by name `<checksum>.file` comes before `<checksum>.file-xattrs-link`. All else is as it should be.
#[test]
fn of_a_commit_in_an_image_the_checker_dislikes_the_order_alone() {
    let w = world();
    w.sos(["export", ".#container", "dir:image"]).ok();
    let (Some(python), Some(checker)) = (peer("python3"), shared("checks/oci_check.py")) else {
        return;
    };
    let mut check = std::process::Command::new(python);
    check.arg(checker).arg("--strict").arg("--bootc");
    let said = run(check.arg(w.project().join("image"))).stdout;
    assert!(said.contains("problems=0"), "{said}");
    let others: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("R ") && !line.starts_with("R order "))
        .collect();
    assert!(others.is_empty(), "{said}");
}

#[test]
fn broken_rules_are_told_together_with_what_to_do() {
    let w = world();
    w.sos(["build", "--no-link", ".#bad"]).fails(3).says(&[
        "error[rootfs-not-for-bootc]",
        "bootc-kernel: there are 2 kernels",
        "bootc-two-etc: both `/etc` and `/usr/etc` are there",
    ]);
    w.sos(["build", "--no-link", ".#strict"]).fails(3).says(&[
        "error[bootc-prepare-root]",
        "/usr/lib/ostree/prepare-root.conf",
    ]);
    w.sos(["build", "--no-link", ".#raw"])
        .fails(3)
        .says(&["`/ostree` is missing", "there is no kernel"]);
}

#[test]
fn the_commit_boots_by_its_metadata() {
    let w = world();
    w.sos(["export", ".#committed", "ostree:repo"]).ok();
    let Some(ostree) = peer("ostree") else {
        return;
    };
    let of = |args: &[&str]| {
        let mut command = std::process::Command::new(&ostree);
        command
            .current_dir(w.project())
            .arg("--repo=repo")
            .args(args);
        run(&mut command).ok().stdout
    };
    let kernel = of(&["show", "--print-metadata-key=ostree.linux", "os"]);
    assert_eq!(kernel.trim(), "'6.1'");
    assert_eq!(of(&["cat", "os", "/usr/etc/motd"]), "hello\n");
    let top = of(&["ls", "os"]);
    assert!(!top.lines().any(|line| line.ends_with(" /etc")), "{top}");
    w.sos(["export", ".#container", "dir:image"]).ok();
    if let Some(skopeo) = peer("skopeo") {
        let mut inspect = std::process::Command::new(skopeo);
        let image = format!("oci:{}", w.project().join("image").display());
        let told = run(inspect.args(["inspect", &image])).ok().stdout;
        for label in [
            "ostree.final-diffid",
            "ostree.commit",
            "\"containers.bootc\": \"1\"",
            "\"ostree.linux\": \"6.1\"",
        ] {
            assert!(told.contains(label), "{told}");
        }
    }
}
