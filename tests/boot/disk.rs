//! Disks that start by themselves.

use std::process::Command;

use super::{RUNNING, all_wanted, with_machine};
use crate::support::run;

/// The disk of the example, without an initrd, under UEFI with systemd-boot.
#[test]
fn the_disk_of_the_example_starts() {
    with_machine(|machine| {
        machine.starts(".#disk", &["--expect", RUNNING]);
        let disk = machine.world.physical(&machine.build(".#disk"));
        let verified = Command::new("sgdisk")
            .arg("-v")
            .arg(&disk)
            .output()
            .expect("sgdisk");
        assert!(String::from_utf8_lossy(&verified.stdout).contains("No problems found"));
    });
}

/// Entries of the first type, with an initrd of our own, over another bus.
#[test]
fn an_initrd_of_our_own_finds_the_root() {
    if !all_wanted() {
        return;
    }
    with_machine(|machine| {
        machine.world.write(
            "initrd.nix",
            "{ sos, ... }: let e = import ./sos.nix { inherit sos; }; in { disk = sos.disk { name = \"own\"; rootfs = e.machine; boot = \"entries\"; initrd = \"own\"; }; }",
        );
        machine.starts(
            "./initrd.nix#disk",
            &["--bus", "virtio", "--expect", RUNNING],
        );
    });
}

/// A new version that cannot start is tried once; then the one before starts again.
#[test]
fn a_bad_slot_falls_back() {
    if !all_wanted() {
        return;
    }
    with_machine(|machine| {
        machine.world.write("slots.nix", SLOTS);
        machine.starts(
            "./slots.nix#disk",
            &[
                "--reboot",
                "--expect",
                "Kernel panic - not syncing: VFS: Unable to mount root fs",
                "--expect",
                RUNNING,
            ],
        );
    });
}

/// The second version is an image whose root, the second slot, is empty.
const SLOTS: &str = r#"
{ sos, ... }:
let
  rootfs = (import ./sos.nix { inherit sos; }).machine;
  slot = name: content: { inherit name; type = "root"; size = "1G"; } // content;
  full = { filesystem = "ext4"; rootfs = true; };
  cmdline = [ "mitigations=off" ];
  bad = sos.disk {
    name = "slots";
    version = "2";
    tries = 1;
    inherit rootfs cmdline;
    partitions = [ { name = "esp"; type = "esp"; size = "64M"; } (slot "root-b" full) ];
  };
in
{
  disk = sos.disk {
    name = "slots";
    version = "1";
    inherit rootfs cmdline;
    partitions = [
      { name = "esp"; type = "esp"; size = "256M"; files."EFI/Linux/slots_2+1.efi" = "${bad.uki}"; }
      (slot "root-a" full)
      (slot "root-b" { })
    ];
  };
}
"#;

/// Everything over the network: kernel, initrd and a compressed root that stays in memory; and all of it as one EFI program, which
/// firmware loads by HTTP.
#[test]
fn the_network_is_enough() {
    if !all_wanted() {
        return;
    }
    with_machine(|machine| {
        machine.starts(".#netboot", &["--expect", RUNNING]);
        let directory = machine.world.physical(&machine.build(".#netboot"));
        machine.starts(
            directory.join("web_1.efi").to_str().expect("plain"),
            &["--memory", "2560", "--expect", RUNNING],
        );
    });
}

/// Two commits on one disk: the first entry starts the new one, the second the one before.
#[test]
fn ostree_systems_start_from_one_disk() {
    if !all_wanted() {
        return;
    }
    with_machine(|machine| {
        machine.world.write(
            "commits.nix",
            "{ sos, ... }: import ./ostree.nix { inherit sos; inherit (import ./sos.nix { inherit sos; }) machine; }",
        );
        for (target, commit, version) in [
            (".#ostree-disk", "two", 2),
            ("./commits.nix#rolledBack", "one", 1),
        ] {
            let repository = machine.build(&format!("./commits.nix#{commit}"));
            let found = machine
                .world
                .sos(["store", "cat", &format!("{repository}/refs/heads/os")])
                .ok()
                .stdout;
            let told = format!("this is version {version}, commit {}.0", found.trim());
            machine.starts(target, &["--expect", &told, "--expect", RUNNING]);
        }
    });
}

/// From an optical drive: firmware finds the loader by the catalog, and everything else is in memory.
#[test]
fn the_optical_drive_is_enough() {
    if !all_wanted() {
        return;
    }
    with_machine(|machine| {
        machine.starts(".#iso", &["--expect", RUNNING]);
        let image = machine.world.physical(&machine.build(".#iso"));
        // The same bytes on a memory stick, which is a disk with a partition table.
        let stick = machine.world.project().join("stick.raw");
        std::fs::copy(&image, &stick).expect("copied");
        let verified = run(Command::new("sgdisk").arg("-v").arg(&stick)).ok();
        assert!(
            verified.stdout.contains("No problems found"),
            "{}",
            verified.stdout
        );
        let mut listed = Command::new("xorriso");
        listed.args([
            "-indev",
            image.to_str().expect("plain"),
            "-report_el_torito",
            "plain",
            "-find",
            "/",
        ]);
        let said = run(&mut listed).ok().stdout;
        for part in [
            "UEFI",
            "'/EFI/BOOT/BOOTX64.EFI'",
            "'/EFI/Linux/web_1.efi'",
            "'/loader/loader.conf'",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    });
}

/// A root that is EROFS: what the system writes to it stays in memory, or it may not write and its services have places of their own.
#[test]
fn a_root_for_reading_only_starts() {
    if !all_wanted() {
        return;
    }
    with_machine(|machine| {
        machine.world.write("reading.nix", READING);
        machine.starts("./reading.nix#over", &["--expect", RUNNING]);
        machine.starts("./reading.nix#none", &["--expect", RUNNING]);
    });
}

const READING: &str = r#"
{ sos, ... }:
let
  machine = (import ./sos.nix { inherit sos; }).machine;
  of = more: sos.disk ({ name = "web"; filesystem = "erofs"; cmdline = [ "quiet" "mitigations=off" ]; } // more);
in
{
  over = of { rootfs = machine; };
  none = of {
    volatile = "none";
    rootfs = sos.rootfs.edit {
      name = "machine-tmpfs";
      rootfs = machine;
      file = [
        {
          path = "/etc/fstab";
          content = ''
            tmpfs /var/log/nginx tmpfs mode=755 0 0
            tmpfs /var/lib/nginx tmpfs mode=755 0 0
          '';
        }
      ];
    };
  };
}
"#;
