//! Access control lists, for which squashfs has no place, on their way from a recipe into everything that has a squashfs in it.

use std::io::empty;
use std::path::Path;

use sos_formats::hash::Sha256;
use sos_formats::tar::{Entry, EntryKind, Writer};

use super::disk::{build, content, verify};
use crate::support::steps::ROOTFS;
use crate::support::{World, peer, skip};

const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// Roots with hashes and images for optical drives, of a system with an access control list: as it is said, and as it is not.
const RECIPE: &str = r##"{ sos, ... }: let
  efi = name: builtins.path { path = /. + "/usr/lib/systemd/boot/efi/${name}"; };
  rootfs = import ./rootfs.nix "rootfs-edit" {
    name = "system";
    rootfs = "${sos.oci.rootfs { image = ./image; }}";
    files = [
      { path = "/boot/vmlinuz-6.1.0-1"; content = "kernel"; }
      { path = "/usr/lib/os-release"; content = "ID=test\nPRETTY_NAME=Test\n"; }
      {
        path = "/usr/lib/modules/6.1.0-1/modules.builtin";
        content = builtins.concatStringsSep "" (map (one: "kernel/${one}.ko\n") [ "loop" "overlay" "squashfs" ]);
      }
    ];
  };
  of = name: more: sos.disk ({
    inherit name rootfs;
    epoch = 1782864000;
    busybox = builtins.path { path = /. + "/bin/busybox"; };
    loader = efi "systemd-bootx64.efi";
    stub = efi "linuxx64.efi.stub";
  } // more);
  # An initrd of no use: nothing here starts.
  hashed = { filesystem = "squashfs"; verity = true; initrd = ./sos.nix; slots = 2; root-size = "24M"; };
in {
  hashed = of "hashed" (hashed // { acls = "drop"; });
  refused-hashed = of "hashed" hashed;
  iso = (of "optical" { acls = "drop"; }).iso;
  refused-iso = (of "optical" { }).iso;
}
"##;

/// An image of one layer, with a directory that has an access control list, as Debian's systemd brings one: members of a group may look.
fn image_with_a_list(dir: &Path) {
    let mut list = 2_u32.to_le_bytes().to_vec();
    // The owner, its group, a named group, the most that groups may, and all others.
    for (tag, perm, id) in [
        (1_u16, 7_u16, u32::MAX),
        (4, 4, u32::MAX),
        (8, 5, 4),
        (16, 5, u32::MAX),
        (32, 1, u32::MAX),
    ] {
        list.extend([tag.to_le_bytes(), perm.to_le_bytes()].concat());
        list.extend(id.to_le_bytes());
    }
    let entry = Entry {
        path: b"journal".to_vec(),
        kind: EntryKind::Dir,
        mode: 0o751,
        xattrs: [(b"system.posix_acl_access".to_vec(), list)].into(),
        ..Entry::default()
    };
    let mut layer = Writer::new(Vec::new());
    layer.append(&entry, &mut empty()).expect("an entry");
    let layer = layer.finish().expect("a layer");
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("a directory");
    let put = |kind: &str, bytes: &[u8]| {
        let digest = Sha256::of(bytes);
        std::fs::write(blobs.join(digest.to_string()), bytes).expect("written");
        serde_json::json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": format!("sha256:{digest}"),
            "size": bytes.len(),
        })
    };
    let layer = put("layer.v1.tar", &layer);
    let config = serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
    });
    let config = put("config.v1+json", config.to_string().as_bytes());
    let manifest = serde_json::json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
    let manifest = put("manifest.v1+json", manifest.to_string().as_bytes());
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [manifest] });
    std::fs::write(dir.join("index.json"), index.to_string()).expect("written");
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("written");
}

#[test]
fn optical_images_and_roots_with_hashes_refuse_lists_or_drop_them() {
    if !Path::new(STUB).exists() {
        return skip("no systemd-boot-efi");
    }
    if peer("busybox").is_none() {
        return;
    }
    let w = World::new();
    w.write("sos.nix", RECIPE);
    w.write("rootfs.nix", ROOTFS);
    image_with_a_list(&w.project().join("image"));
    for target in [".#refused-hashed", ".#refused-iso"] {
        w.sos(["build", "--no-link", target]).fails(3).says(&[
            "error[filesystem-unfit]",
            "`/journal`: squashfs has no access control lists",
            "`acls = \"drop\"` leaves the lists out",
        ]);
    }
    let dropped = "warning[filesystem-acl]: squashfs has no access control lists, so those of `/journal` were left out";
    for target in [".#hashed", ".#iso"] {
        w.sos(["build", "--no-link", "--logs", target])
            .ok()
            .says(&[dropped]);
    }
    // What the kernel image vouches for is the root without them.
    let disk = w.physical(&build(&w, ".#hashed"));
    let uki = w.physical(&build(&w, ".#hashed.uki"));
    let Some(code) = verify(&w, &disk, "root-a", &uki) else {
        return;
    };
    assert_eq!(code, 0);
    let root = w.project().join("data");
    if let Some(said) = content("unsquashfs", &["-lln", root.to_str().expect("plain")]) {
        let line = said.lines().find(|line| line.ends_with("/journal"));
        // What the group had of its own, not the most that any group may.
        assert!(
            line.is_some_and(|line| line.starts_with("drwxr----x")),
            "{said}"
        );
    }
}
