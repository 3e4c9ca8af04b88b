//! EROFS, as its programs and the kernel read it.

use std::os::unix::ffi::OsStrExt as _;

use super::compare::same_bytes;
use super::*;
use crate::filesystem::tree::{Content, Tree};

#[test]
fn comes_back_equal() {
    let fake = Fake::new();
    let mut plant = Plant::new(&fake, 3);
    plant.grow();
    plant.lists();
    plant.long_xattrs();
    let root = plant.finish();
    let image = make(&fake, Kind::Erofs, &root, &options(), "image");
    run("fsck.erofs", &[&text(&image)]);
    run("dump.erofs", &["-s", &text(&image)]);
    mounted(&fake, Kind::Erofs, &image, |at| {
        compare(&fake, &root, at, true);
    });
}

/// Plain files only: this program leaves holes out when it extracts.
#[test]
fn is_extracted_equal() {
    let fake = Fake::new();
    let mut plant = Plant::new(&fake, 5);
    plant.files();
    let root = plant.finish();
    let image = make(&fake, Kind::Erofs, &root, &options(), "image");
    let out = fake.path("out");
    let Some(output) = peer(
        "fsck.erofs",
        &[format!("--extract={}", text(&out)), text(&image)],
    ) else {
        return;
    };
    assert!(output.status.success(), "{}", said(&output));
    let tree = Tree::read(&fake, &root, EPOCH).expect("a tree");
    for inode in &tree.inodes {
        if let Content::File { blob, .. } = &inode.content {
            let name = std::ffi::OsStr::from_bytes(&inode.path);
            same_bytes(&fake, blob, &out.join(name));
        }
    }
}
