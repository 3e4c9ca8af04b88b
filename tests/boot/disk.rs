//! Disks that start by themselves.

use std::process::Command;

use super::{all_wanted, with_machine};

/// What a boot may take on a machine that does other things too, in seconds.
const LIMIT: &str = "400";
const RUNNING: &str = "the system is running";

/// The disk of the example, without an initrd, under UEFI with systemd-boot.
#[test]
fn the_disk_of_the_example_starts() {
    with_machine(|machine| {
        machine
            .world
            .sos([
                "boot",
                "run",
                ".#disk",
                "--expect",
                RUNNING,
                "--timeout",
                LIMIT,
            ])
            .ok();
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
        let run = machine.world.sos([
            "boot",
            "run",
            "./initrd.nix#disk",
            "--bus",
            "virtio",
            "--expect",
            RUNNING,
            "--timeout",
            LIMIT,
        ]);
        run.ok();
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
        let run = machine.world.sos([
            "boot",
            "run",
            "./slots.nix#disk",
            "--reboot",
            "--timeout",
            "600",
            "--expect",
            "Kernel panic - not syncing: VFS: Unable to mount root fs",
            "--expect",
            RUNNING,
        ]);
        run.ok();
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
    partitions = [ (slot "root-b" full) ];
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
        let start = |what: &str| {
            machine
                .world
                .sos([
                    "boot",
                    "run",
                    what,
                    "--memory",
                    "2560",
                    "--expect",
                    RUNNING,
                    "--timeout",
                    "600",
                ])
                .ok();
        };
        start(".#netboot");
        let directory = machine.world.physical(&machine.build(".#netboot"));
        start(directory.join("web_1.efi").to_str().expect("plain"));
    });
}

/// Two commits on one disk: the first entry starts the new one, the second the one before.
#[test]
fn ostree_systems_start_from_one_disk() {
    if !all_wanted() {
        return;
    }
    with_machine(|machine| {
        machine.world.write("ostree.nix", OSTREE);
        for (disk, commit, version) in [("new", "two", 2), ("old", "one", 1)] {
            let repository = machine.build(&format!("./ostree.nix#{commit}"));
            let found = machine
                .world
                .sos(["store", "cat", &format!("{repository}/refs/heads/os")])
                .ok()
                .stdout;
            let told = format!("this is version {version}, commit {}.0", found.trim());
            let target = format!("./ostree.nix#{disk}");
            machine
                .world
                .sos([
                    "boot",
                    "run",
                    &target,
                    "--expect",
                    &told,
                    "--expect",
                    RUNNING,
                    "--timeout",
                    LIMIT,
                ])
                .ok();
        }
    });
}

const OSTREE: &str = r##"
{ sos, ... }:
let
  machine = (import ./sos.nix { inherit sos; }).machine;
  # As OSTree wants it: the kernel beside its modules, the configuration in /usr/etc, nothing in /var.
  system = version: sos.run {
    name = "system-${version}";
    rootfs = sos.rootfs.edit {
      rootfs = machine;
      services.mask = [ "nginx.service" "hello.service" ];
      services.enable = [ "version.service" ];
      file = [
        { path = "/usr/version"; content = version; }
        {
          path = "/etc/systemd/system/version.service";
          content = ''
            [Unit]
            Before=console-state.service
            [Service]
            Type=oneshot
            ExecStart=/bin/sh -c 'o=$(sed "s/.*ostree=//;s/ .*//" /proc/cmdline); echo "this is version $(cat /usr/version), commit $(basename $(readlink -f /sysroot$o))" >/dev/console'
            [Install]
            WantedBy=multi-user.target
          '';
        }
      ];
    };
    result = "rootfs";
    script = ''
      kernel=$(ls /usr/lib/modules)
      mv "/boot/vmlinuz-$kernel" "/usr/lib/modules/$kernel/vmlinuz"
      rm -rf /boot/* /vmlinuz* /initrd* /var/* /efi
      mkdir -p /sysroot
      ln -s sysroot/ostree /ostree
      cp -a /etc /usr/etc
      rm -rf /etc
    '';
  };
  commit = version: parent: sos.ostree {
    name = "commit-${version}";
    ref = "os";
    rootfs = system version;
    bootable = true;
    inherit version parent;
  };
  disk = default: sos.ostreeDisk {
    name = "ostree";
    os = "web";
    cmdline = [ "quiet" "mitigations=off" ];
    deployments = [
      { rootfs = system "2"; commit = two; }
      { rootfs = system "1"; commit = one; }
    ];
    inherit default;
  };
  one = commit "1" null;
  two = commit "2" one;
in
{
  inherit one two;
  new = disk null;
  old = disk "ostree-1-*";
}
"##;
