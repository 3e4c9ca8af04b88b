//! Images, commits, file systems and disks are the same for everybody: another user, another place, another time of the files, another
//! umask, one core instead of all.

use std::path::Path;
use std::process::Command;

use crate::support::steps::ROOTFS;
use crate::support::user::User;
use crate::support::{World, is_root, peer, run, skip};

const RECIPE: &str = r##"{ sos, ... }: let
  edit = import ./rootfs.nix "rootfs-edit";
  os = sos.rootfs.edit {
    name = "os";
    rootfs = edit {
      name = "base";
      files = [
        { path = "/etc/motd"; content = "hello\n"; mode = "0640"; }
        { path = "/usr/bin/tool"; content = "#!/bin/sh\n"; mode = "4755"; }
      ];
    };
    files = [
      { path = "/usr/lib/large"; source = ./large; owner = "0:0"; }
      { path = "/usr/lib/again"; source = ./large; owner = "33:44"; }
      { path = "/usr/lib/medium"; source = ./medium; owner = "0:0"; }
    ];
  };
  epoch = 1700000000;
in rec {
  whole = sos.oci { name = "whole"; rootfs = os; inherit epoch; };
  zstd = sos.oci { name = "zstd"; rootfs = os; inherit epoch; compression = "zstd"; };
  nine = sos.oci { name = "nine"; rootfs = os; inherit epoch; level = 9; };
  steps = sos.oci { name = "steps"; rootfs = os; inherit epoch; layering = "steps"; };
  commit = sos.ostree { name = "commit"; rootfs = os; inherit epoch; };
  bare = sos.ostree { name = "bare"; rootfs = os; mode = "bare-user"; inherit epoch; };
  container = sos.ostree.container { repository = commit; };
  ext4 = sos.ext4 { rootfs = os; inherit epoch; };
  erofs = sos.erofs { rootfs = os; inherit epoch; };
  squashfs = sos.squashfs { rootfs = os; inherit epoch; };
  verity = sos.verity { image = erofs; };
  disk = sos.disk {
    name = "disk";
    boot = "none";
    rootfs = os;
    inherit epoch;
    partitions = [
      { name = "root"; type = "root"; filesystem = "ext4"; rootfs = true; }
      { name = "data"; type = "linux"; filesystem = "vfat"; size = "40M"; files."/large" = ./large; }
    ];
  };
  qcow2 = disk.qcow2;
}
"##;

const TARGETS: [&str; 13] = [
    "whole",
    "zstd",
    "nine",
    "steps",
    "commit",
    "bare",
    "container",
    "ext4",
    "erofs",
    "squashfs",
    "verity",
    "disk",
    "qcow2",
];

/// Several blocks of what every writer cuts, compressible in parts.
fn large(len: usize) -> Vec<u8> {
    let mut state = 7_u32;
    let mut bytes: Vec<u8> = (0..len)
        .map(|at| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            match at / 50_000 % 3 {
                0 => state.to_le_bytes()[3],
                1 => b"some text"[at % 9],
                _ => state.to_le_bytes()[3] & 15,
            }
        })
        .collect();
    // A hole.
    bytes[len / 3..len / 3 + 300_000].fill(0);
    bytes
}

/// What a machine starts from: the loader, the stub and the busybox are those of this machine.
const STARTING: &str = r##"{ sos, ... }: let
  edit = import ./rootfs.nix "rootfs-edit";
  efi = name: builtins.path { path = /. + "/usr/lib/systemd/boot/efi/${name}"; };
  busybox = builtins.path { path = /. + "/bin/busybox"; };
  loader = efi "systemd-bootx64.efi";
  epoch = 1700000000;
  files = edit {
    name = "files";
    files = [
      { path = "/boot/vmlinuz-6.1"; source = efi "linuxx64.efi.stub"; }
      { path = "/boot/initrd.img-6.1"; content = "initrd"; }
      { path = "/usr/lib/os-release"; content = "ID=test
PRETTY_NAME=Test
"; }
      { path = "/usr/lib/ostree/prepare-root.conf"; content = "[composefs]
enabled = true
"; }
      {
        path = "/usr/lib/modules/6.1/modules.builtin";
        content = builtins.concatStringsSep "" (map (one: "kernel/${one}.ko
") [ "ext4" "loop" "overlay" "squashfs" ]);
      }
      { path = "/etc/large"; source = ./medium; }
    ];
  };
  disk = sos.disk {
    name = "system";
    rootfs = files;
    slots = 2;
    root-size = "24M";
    stub = efi "linuxx64.efi.stub";
    inherit busybox loader epoch;
  };
  system = sos.bootc { name = "system"; layout = "ostree"; rootfs = files; inherit epoch; };
  commit = sos.ostree { name = "commit"; ref = "os"; rootfs = system; bootable = true; inherit epoch; };
in {
  inherit disk system;
  inherit (disk) uki initrd netboot iso provision;
  entries = sos.disk { name = "entries"; rootfs = files; boot = "entries"; initrd = "own"; inherit busybox loader epoch; };
  ostree-disk = sos.ostreeDisk {
    name = "os";
    arch = "amd64";
    deployments = [ { rootfs = system; inherit commit; } ];
    inherit busybox loader epoch;
  };
}
"##;

const STARTING_TARGETS: [&str; 9] = [
    "disk",
    "system",
    "uki",
    "initrd",
    "netboot",
    "iso",
    "provision",
    "entries",
    "ostree-disk",
];

#[test]
fn artifacts_are_the_same_for_everybody() {
    same_for_everybody("same", RECIPE, &TARGETS);
}

#[test]
fn what_starts_is_the_same_for_everybody() {
    if !Path::new("/usr/lib/systemd/boot/efi/linuxx64.efi.stub").exists() {
        skip("no systemd-boot-efi");
    } else if peer("busybox").is_some() {
        same_for_everybody("starts", STARTING, &STARTING_TARGETS);
    }
}

/// Builds here, and as a user of that name somewhere else.
fn same_for_everybody(user: &str, recipe: &str, names: &[&str]) {
    let plain = World::new();
    let targets: Vec<String> = names.iter().map(|name| format!(".#{name}")).collect();
    let files = [("large", large(5_000_000)), ("medium", large(900_000))];
    let write = |w: &World, below: &str| {
        w.write(&format!("{below}sos.nix"), recipe);
        w.write(&format!("{below}rootfs.nix"), ROOTFS);
        for (name, bytes) in &files {
            let place = w.project().join(below).join(name);
            std::fs::write(place, bytes).expect("a file");
        }
    };
    write(&plain, "");
    let here = plain.sos(
        ["build", "--no-link"]
            .into_iter()
            .chain(targets.iter().map(String::as_str)),
    );
    let here = here.ok().stdout;

    // Root can be somebody else; an ordinary user can only be in another place.
    let user = if is_root() {
        User::new(user, true)
    } else {
        None
    };
    let mut other = World::new();
    let below = "another/place for it/";
    write(&other, below);
    let deep = other.project().join(below);
    run(Command::new("touch")
        .args(["-d", "1985-10-26 01:21:00 UTC"])
        .args(files.each_ref().map(|(name, _)| deep.join(name))))
    .ok();
    run(Command::new("chmod").args(["-R", "go="]).arg(&deep)).ok();
    for (name, value) in [
        ("TZ", "Pacific/Kiritimati"),
        ("LANG", "tr_TR.UTF-8"),
        ("LC_ALL", "tr_TR.UTF-8"),
        ("SOURCE_DATE_EPOCH", "1"),
    ] {
        other.set(name, value);
    }
    let _copy = user.as_ref().map(|user| other.with_program_for(user));
    let sos = other.command();
    // One core in truth, not by what is said only.
    let pinned: &[&str] = match peer("taskset") {
        Some(_) => &["taskset", "-c", "0"],
        None => &[],
    };
    let mut command = Command::new("sh");
    command
        .args(["-c", "umask 077; exec \"$@\"", "sh"])
        .args(pinned)
        .arg(sos.get_program())
        .args(["build", "--no-link", "-j", "1"])
        .args(["--config", "build.cores=1"])
        .args(&targets)
        .env_clear()
        .envs(sos.get_envs().filter_map(|(k, v)| Some((k, v?))))
        .current_dir(&deep);
    if let Some(user) = &user {
        user.becomes(&mut command);
    }
    let there = run(&mut command).ok().stdout;
    // The path of each follows from its content.
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&here).len(), names.len(), "{here}");
    for ((name, here), there) in names.iter().zip(lines(&here)).zip(lines(&there)) {
        assert_eq!(here, there, "{name}");
    }
}
