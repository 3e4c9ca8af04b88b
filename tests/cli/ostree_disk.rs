//! A disk of OSTree systems, mounted and read by Debian's ostree.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::disk::content;
use crate::support::steps::ROOTFS;
use crate::support::{World, is_root, peer, run, skip};

/// Two versions under one ref. The kernel is of no use, and what an initrd needs is built into it.
const RECIPE: &str = r##"{ sos, ... }: let
  edit = import ./rootfs.nix "rootfs-edit";
  system = version: sos.bootc {
    name = "system-${version}";
    layout = "ostree";
    epoch = 1782864000;
    rootfs = edit {
      name = "files-${version}";
      files = [
        { path = "/boot/vmlinuz-6.1"; content = "kernel ${version}"; }
        { path = "/boot/initrd.img-6.1"; content = "initrd ${version}"; }
        { path = "/usr/lib/modules/6.1/modules.builtin"; content = "kernel/ext4.ko\n"; }
        { path = "/usr/lib/os-release"; content = "ID=test\nPRETTY_NAME=Test ${version}\n"; }
        { path = "/usr/lib/ostree/prepare-root.conf"; content = "[composefs]\nenabled = true\n"; }
        { path = "/usr/bin/tool"; content = "#!/bin/sh\n"; mode = "4755"; }
        { path = "/etc/motd"; content = "version ${version}\n"; }
      ];
    };
  };
  commit = version: parent: sos.ostree {
    name = "commit-${version}";
    ref = "os/amd64";
    rootfs = system version;
    bootable = true;
    epoch = 1782864000;
    inherit version parent;
  };
in rec {
  one = commit "1" null;
  two = commit "2" one;
  disk = sos.ostreeDisk {
    name = "os";
    arch = "amd64";
    epoch = 1782864000;
    busybox = builtins.path { path = /. + "/bin/busybox"; };
    loader = builtins.path { path = /. + "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"; };
    deployments = [ { rootfs = system "2"; commit = two; } { rootfs = system "1"; commit = one; } ];
    esp-size = 67108864;
    free = 33554432;
  };
}
"##;

/// A partition of a disk that is mounted as long as the value lives.
struct Mounted(PathBuf);

impl Mounted {
    /// Mounts the partition called `root`; nothing, and a word why, where that cannot be done here.
    fn root_of(image: &Path, at: &Path) -> Option<Self> {
        let dump = content("sfdisk", &["--dump", image.to_str().expect("plain")])?;
        let line = dump.lines().find(|line| line.contains("name=\"root\""));
        let line = line.expect("the partition");
        let field = |key: &str| -> u64 {
            let (_, rest) = line.split_once(key).expect(key);
            let digits = rest.trim_start().split(',').next().expect("a number");
            digits.trim().parse().expect("a number")
        };
        let (offset, len) = (field("start=") * 512, field("size=") * 512);
        std::fs::create_dir(at).expect("a directory");
        let mut mount = Command::new(peer("mount")?);
        let options = format!("loop,offset={offset},sizelimit={len}");
        let tried = run(mount.args(["-t", "ext4", "-o", &options]).args([image, at]));
        if tried.code != 0 {
            skip(&format!("no loop mounts here: {}", tried.stderr));
            return None;
        }
        Some(Self(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // What ostree deploys it makes immutable, which would not go away with the directory; the image goes as a whole.
        let _gone = Command::new("umount").arg(&self.0).status().is_ok();
    }
}

/// The commits that `ostree admin status` lists, in its order.
fn listed(status: &str) -> Vec<String> {
    let commits = status
        .lines()
        .filter_map(|line| line.trim().strip_prefix("os "));
    commits
        .map(|rest| rest.chars().take(64).collect())
        .collect()
}

/// The order in which the loader offers the systems: its entries, those with the highest version first.
fn offered(root: &Path) -> Vec<String> {
    let dir = root.join("boot/loader/entries");
    let mut entries: Vec<(u32, String)> = std::fs::read_dir(dir)
        .expect("entries")
        .map(|entry| {
            let text = std::fs::read_to_string(entry.expect("an entry").path()).expect("text");
            let field = |key: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(key));
                line.unwrap_or_else(|| panic!("no {key}: {text}"))
                    .trim()
                    .to_owned()
            };
            let options = field("options ");
            let way = options
                .split(' ')
                .find_map(|word| word.strip_prefix("ostree=/"));
            let system = root.join(way.expect("a way")).canonicalize();
            let system = system.expect("it leads to a system");
            let name = system.file_name().expect("a name").to_string_lossy();
            assert!(root.join("boot").join(field("linux /")).is_file(), "{text}");
            let version = field("version ").parse().expect("a number");
            (version, name.chars().take(64).collect())
        })
        .collect();
    entries.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    entries.into_iter().map(|(_, commit)| commit).collect()
}

#[test]
fn debians_ostree_reads_the_disk_and_deploys_onto_it() {
    if !is_root() {
        skip("only root mounts disks, and `ostree admin` is for root");
        return;
    }
    let Some(ostree) = peer("ostree") else { return };
    if peer("busybox").is_none() {
        return;
    }
    let w = World::new();
    w.write("sos.nix", RECIPE);
    w.write("rootfs.nix", ROOTFS);
    w.sos(["export", ".#disk", "disk:os.raw"]).ok();
    let at = w.root().join("mounted");
    let Some(mounted) = Mounted::root_of(&w.project().join("os.raw"), &at) else {
        return;
    };
    let said = |args: &[&str]| run(Command::new(&ostree).args(args)).ok().stdout;
    let repo = format!("--repo={}", at.join("ostree/repo").display());
    let sysroot = format!("--sysroot={}", at.display());
    let admin = |words: &[&str]| said(&[&["admin", &sysroot], words].concat());
    assert!(said(&["fsck", &repo]).contains("no errors found"));
    // The new version starts first, and the one before is what there is to go back to.
    let two = said(&["rev-parse", &repo, "os/amd64"]).trim().to_owned();
    let one = said(&["rev-parse", &repo, "os/amd64^"]).trim().to_owned();
    let status = admin(&["status"]);
    let versions = |status: &str| -> Vec<String> {
        let lines = status.lines().map(str::trim);
        let versions = lines.filter_map(|line| line.strip_prefix("Version: "));
        versions.map(str::to_owned).collect()
    };
    assert_eq!(listed(&status), [two.clone(), one.clone()], "{status}");
    assert_eq!(versions(&status), ["2", "1"], "{status}");
    assert_eq!(offered(&at), [two.clone(), one.clone()]);
    let tool = at.join(format!("ostree/deploy/os/deploy/{two}.0/usr/bin/tool"));
    let mode = std::fs::metadata(tool).expect("the program").mode();
    assert_eq!(mode & 0o7777, 0o4755);
    // Back to the first: it is the one that starts, and the second is kept, with what it needs.
    admin(&["deploy", "--os=os", &one]);
    let status = admin(&["status"]);
    assert_eq!(listed(&status), [one.clone(), two.clone()], "{status}");
    assert_eq!(offered(&at), [one.clone(), two.clone()]);
    admin(&["cleanup"]);
    assert!(said(&["fsck", &repo]).contains("no errors found"));
    assert_eq!(listed(&admin(&["status"])), [one, two.clone()]);
    // And forward again, from where the ref is.
    admin(&["deploy", "--os=os", "os/amd64"]);
    let status = admin(&["status"]);
    assert_eq!(listed(&status).first(), Some(&two), "{status}");
    drop(mounted);
}
