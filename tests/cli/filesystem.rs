//! Images of file systems, from a recipe to what other programs say of them.

use std::path::PathBuf;
use std::process::Command;

use crate::support::steps::ROOTFS;
use crate::support::{World, peer, run as run_command};

const RECIPE: &str = r##"{ sos, ... }: let
  edit = import ./rootfs.nix "rootfs-edit";
in rec {
  os = edit {
    name = "os";
    files = [
      { path = "/etc/motd"; content = "hello\n"; mode = "0640"; }
      { path = "/usr/bin/tool"; content = "#!/bin/sh\n"; mode = "4755"; }
    ];
  };
  ext4 = sos.ext4 { rootfs = os; label = "root"; size = "64M"; epoch = 1700000000; };
  small = sos.ext4 { rootfs = os; size = 40960; };
  named = sos.ext4 { rootfs = os; label = "a label that is too long"; };
  odd = sos.ext4 { rootfs = os; uuid = "1234"; };
  erofs = sos.erofs { rootfs = os; epoch = 1700000000; };
  squashfs = sos.squashfs { rootfs = os; epoch = 1700000000; };
  verity = sos.verity { image = erofs; salt = "00ff"; };
}
"##;

fn world() -> World {
    let w = World::new();
    w.write("sos.nix", RECIPE);
    w.write("rootfs.nix", ROOTFS);
    w
}

fn build(w: &World, target: &str) -> PathBuf {
    let out = w.sos(["build", "--no-link", target]).ok().stdout;
    w.physical(out.trim())
}

/// Runs a program that must find nothing wrong; gives what it says.
fn check(program: &str, args: &[&str]) -> Option<String> {
    let mut command = Command::new(peer(program)?);
    command.args(args);
    let done = run_command(&mut command).ok();
    Some(done.stdout + &done.stderr)
}

#[test]
fn every_kind_is_sound() {
    let w = world();
    let image = build(&w, ".#ext4");
    assert_eq!(image.metadata().expect("an image").len(), 64 << 20);
    let image = image.display().to_string();
    check("e2fsck", &["-fn", &image]);
    if let Some(said) = check("debugfs", &["-R", "cat /etc/motd", &image]) {
        assert!(said.contains("hello"), "{said}");
    }
    let erofs = build(&w, ".#erofs").display().to_string();
    check("fsck.erofs", &[&erofs]);
    let squashfs = build(&w, ".#squashfs").display().to_string();
    if let Some(said) = check("unsquashfs", &["-lln", &squashfs]) {
        assert!(said.contains("-rwsr-xr-x 0/0"), "{said}");
    }
    let verity = build(&w, ".#verity");
    let root = std::fs::read_to_string(verity.join("roothash")).expect("a hash");
    let hashes = verity.join("hashes").display().to_string();
    check("veritysetup", &["verify", &erofs, &hashes, root.trim()]);
}

#[test]
fn two_stores_make_the_same() {
    let (one, two) = (world(), world());
    for target in [".#ext4", ".#erofs", ".#squashfs", ".#verity"] {
        let path = |w: &World| w.sos(["build", "--no-link", target]).ok().stdout;
        assert_eq!(path(&one), path(&two), "{target}");
    }
}

#[test]
fn what_is_wrong_is_said() {
    let w = world();
    let fails = |target: &str, words: &[&str]| {
        w.sos(["build", "--no-link", target]).fails(3).says(words);
    };
    fails(
        ".#small",
        &["error[filesystem-full]", "40960 bytes", "at least"],
    );
    fails(".#named", &["error[filesystem-attrs]", "16 bytes"]);
    fails(".#odd", &["error[filesystem-attrs]", "`1234`"]);
}
