//! Disks of root filesystems, without a network and without starting them: `tests/boot` does that.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use crate::support::steps::ROOTFS;
use crate::support::user::User;
use crate::support::{World, is_root, peer, run, skip};

const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// A system with what a disk looks at: a kernel of no use, and the loader and stub of this machine.
const RECIPE: &str = r##"{ sos, ... }: let
  edit = import ./rootfs.nix "rootfs-edit";
  system = version: edit {
    name = "system-${version}";
    files = [
      { path = "/boot/vmlinuz-6.1.0-1"; content = "kernel ${version}"; }
      { path = "/usr/lib/os-release"; content = "ID=test\nPRETTY_NAME=Test\n"; }
      { path = "/etc/motd"; content = "version ${version}\n"; }
    ];
  };
  efi = name: builtins.path { path = /. + "/usr/lib/systemd/boot/efi/${name}"; };
  of = version: more: sos.disk ({
    name = "test";
    rootfs = system version;
    epoch = 1782864000;
    inherit version;
    slots = 2;
    root-size = "24M";
    esp-size = "64M";
    cmdline = [ "quiet" ];
    loader = efi "systemd-bootx64.efi";
    stub = efi "linuxx64.efi.stub";
  } // more);
in rec {
  disk = of "1" { };
  entries = of "1" { boot = "entries"; };
  next = of "2" { };
  third = of "3" { };
  inherit (disk) qcow2 uki;
  squashed = of "1" { filesystem = "squashfs"; };
  bad.word = of "1" { boot = "grub"; };
  bad.size = of "1" { root-size = "24X"; };
  bad.field = of "1" { root-sise = "24M"; };
  bad.module = (of "1" { initrd = "own"; modules = [ "nonsense" ]; boot = "uki"; }).uki;
  bad.kernel = sos.disk { name = "none"; epoch = 1; rootfs = edit { name = "empty"; files = [ ]; }; loader = efi "systemd-bootx64.efi"; };
}
"##;

fn world() -> Option<World> {
    if !Path::new(STUB).exists() {
        skip("no systemd-boot-efi");
        return None;
    }
    let w = World::new();
    w.write("sos.nix", RECIPE);
    w.write("rootfs.nix", ROOTFS);
    Some(w)
}

fn build(w: &World, target: &str) -> String {
    w.sos(["build", "--no-link", target])
        .ok()
        .stdout
        .trim()
        .to_owned()
}

/// Runs a program that must be content, if it is installed.
fn content(program: &str, args: &[&str]) -> Option<String> {
    let found = run(Command::new(peer(program)?).args(args)).ok();
    Some(found.stdout + &found.stderr)
}

#[test]
fn a_disk_is_sound_sparse_and_the_same_for_everybody() {
    let Some(w) = world() else { return };
    let path = build(&w, ".#disk");
    let disk = w.physical(&path);
    let plain = disk.to_str().expect("plain");
    if let Some(said) = content("sgdisk", &["-v", plain]) {
        assert!(said.contains("No problems found"), "{said}");
    }
    if let Some(said) = content("mdir", &["-b", "-/", "-i", &format!("{plain}@@1M"), "::"]) {
        for part in [
            "EFI/BOOT/BOOTX64.EFI",
            "EFI/Linux/test_1.efi",
            "loader/loader.conf",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    let meta = std::fs::metadata(&disk).expect("the disk");
    assert_eq!(meta.size(), (1 + 64 + 24 + 24 + 1) << 20);
    assert!(
        meta.blocks() * 512 < meta.size() / 2,
        "{} of {} bytes",
        meta.blocks() * 512,
        meta.size()
    );
    // Another user, another place, another umask, one core.
    let user = if is_root() {
        User::new("disk", true)
    } else {
        None
    };
    let mut other = World::new();
    other.write("sos.nix", RECIPE);
    other.write("rootfs.nix", ROOTFS);
    other.set("TZ", "Pacific/Kiritimati");
    other.set("SOURCE_DATE_EPOCH", "1");
    let _copy = user.as_ref().map(|user| other.with_program_for(user));
    let sos = other.command();
    let mut command = Command::new("sh");
    command
        .args(["-c", "umask 077; exec \"$@\"", "sh"])
        .arg(sos.get_program());
    command.args([
        "build",
        "--no-link",
        "-j",
        "1",
        "--config",
        "build.cores=1",
        ".#disk",
        ".#qcow2",
    ]);
    command
        .env_clear()
        .envs(sos.get_envs().filter_map(|(k, v)| Some((k, v?))))
        .current_dir(other.project());
    if let Some(user) = &user {
        user.becomes(&mut command);
    }
    let made = run(&mut command).ok().stdout;
    assert_eq!(
        made.lines().next(),
        Some(path.as_str()),
        "the address follows from the content"
    );
    let qcow2 = build(&w, ".#qcow2");
    assert_eq!(made.lines().nth(1), Some(qcow2.as_str()));
    content(
        "qemu-img",
        &[
            "compare",
            plain,
            w.physical(&qcow2).to_str().expect("plain"),
        ],
    );
}

#[test]
fn an_exported_disk_is_signed_and_has_its_holes() {
    let Some(w) = world() else { return };
    let (key, cert) = ("key.pem", "cert.pem");
    let Some(openssl) = peer("openssl") else {
        return;
    };
    let mut command = Command::new(openssl);
    command
        .args([
            "req", "-newkey", "rsa:2048", "-nodes", "-x509", "-subj", "/CN=test", "-keyout", key,
            "-out", cert,
        ])
        .current_dir(w.project());
    run(&mut command).ok();
    w.sos([
        "export",
        ".#disk",
        "disk:signed.raw",
        "--secure-boot-key",
        key,
        "--secure-boot-cert",
        cert,
    ])
    .ok()
    .says(&[
        "signed `EFI/BOOT/BOOTX64.EFI`",
        "signed `EFI/Linux/test_1.efi`",
    ]);
    let file = w.project().join("signed.raw");
    let meta = std::fs::metadata(&file).expect("the disk");
    assert!(meta.blocks() * 512 < meta.size() / 2);
    w.sos(["export", ".#disk", "disk:signed.raw"])
        .fails(2)
        .says(&["is there already"]);
    w.sos([
        "export",
        ".#disk",
        "dir:d",
        "--secure-boot-key",
        key,
        "--secure-boot-cert",
        cert,
    ])
    .fails(2)
    .says(&["disk:FILE"]);
    let at = format!("{}@@1M", file.display());
    let out = w.project().join("uki.efi");
    let out = out.to_str().expect("plain");
    if content("mcopy", &["-i", &at, "::EFI/Linux/test_1.efi", out]).is_none() {
        return;
    }
    content(
        "sbverify",
        &[
            "--cert",
            w.project().join(cert).to_str().expect("plain"),
            out,
        ],
    );
    if let Some(said) = content("sgdisk", &["-v", file.to_str().expect("plain")]) {
        assert!(said.contains("No problems found"), "{said}");
    }
}

#[test]
fn a_device_gets_one_version_after_the_other() {
    let Some(w) = world() else { return };
    let file = w.project().join("device");
    std::fs::File::create(&file)
        .and_then(|f| f.set_len(200 << 20))
        .expect("a device");
    // The plan is all that happens without `--yes`.
    w.sos(["provision", "apply", "device", ".#disk"])
        .ok()
        .says(&["nothing was done"]);
    let plan = w.sos(["provision", "plan", "device", ".#disk"]).ok().stdout;
    assert!(
        plan.contains("everything on the device") && plan.contains("root-a"),
        "{plan}"
    );
    assert_eq!(std::fs::metadata(&file).expect("there").blocks(), 0);
    w.sos(["provision", "apply", "device", ".#disk", "--yes"])
        .ok();
    w.sos(["provision", "drift", "device", ".#disk"]).ok();
    let again = w.sos(["provision", "plan", "device", ".#disk"]).ok().stdout;
    assert_eq!(again, "test 1 is there already\n");
    w.sos(["provision", "drift", "device", ".#next"])
        .fails(1)
        .says(&["is not as test 2 says"]);
    w.sos(["provision", "apply", "device", ".#next", "--yes"])
        .ok();
    w.sos(["provision", "drift", "device", ".#next"]).ok();
    let plan = w
        .sos(["provision", "plan", "device", ".#third"])
        .ok()
        .stdout;
    assert!(
        plan.contains("`root-a`") && plan.contains("`EFI/Linux/test_3+3.efi`"),
        "{plan}"
    );
    let at = format!("{}@@1M", file.display());
    if let Some(said) = content("mdir", &["-b", "-i", &at, "::EFI/Linux"]) {
        assert!(
            said.contains("test_1.efi") && said.contains("test_2+3.efi"),
            "{said}"
        );
    }
    if let Some(said) = content("sgdisk", &["-v", file.to_str().expect("plain")]) {
        assert!(said.contains("No problems found"), "{said}");
    }
    // The slot has the file system of the new version.
    if let (Some(_), Some(dd)) = (peer("e2fsck"), peer("dd")) {
        let root = w.project().join("root-b");
        let mut cut = Command::new(dd);
        cut.arg(format!("if={}", file.display()))
            .arg(format!("of={}", root.display()));
        run(cut.args(["bs=1M", "skip=89", "count=24", "status=none"])).ok();
        content("e2fsck", &["-fn", root.to_str().expect("plain")]);
        let motd = content(
            "debugfs",
            &["-R", "cat /etc/motd", root.to_str().expect("plain")],
        );
        assert!(motd.is_none_or(|motd| motd.contains("version 2")));
    }
    std::fs::write(w.project().join("other"), vec![1; 8 << 20]).expect("written");
    w.sos(["provision", "plan", "other", ".#disk"])
        .fails(4)
        .says(&["--wipe"]);
    w.sos(["provision", "plan", "nowhere", ".#disk"])
        .fails(4)
        .says(&["truncate"]);
}

#[test]
fn what_is_wrong_is_told_where_it_was_written() {
    let Some(w) = world() else { return };
    for (target, parts) in [
        ("word", &["unknown boot `grub`", "uki, entries, none"][..]),
        ("size", &["bad `root-size`", "512M"]),
        ("field", &["unknown field `root-sise`", "root-size"]),
    ] {
        w.sos(["build", "--no-link", &format!(".#bad.{target}")])
            .fails(3)
            .says(parts);
    }
    w.sos(["build", "--no-link", ".#bad.kernel"])
        .fails(3)
        .says(&["no kernel", "linux-image-amd64"]);
    w.sos(["build", "--no-link", ".#bad.module"])
        .fails(3)
        .says(&["no module `nonsense`"]);
    w.sos(["boot", "run", ".#bad.kernel"]).fails(3);
    w.sos([
        "boot", "run", "sos.nix", "-A", "uki", "--write", "--expect", "x",
    ])
    .fails(2)
    .says(&["disk:FILE"]);
}
