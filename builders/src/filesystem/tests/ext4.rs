//! ext4, as e2fsprogs and the kernel read it.

use std::os::unix::fs::MetadataExt as _;

use super::*;
use crate::peers::skip;

pub(super) fn checked(image: &Path) {
    run("e2fsck", &["-fn", &text(image)]);
}

#[test]
fn comes_back_equal() {
    let fake = Fake::new();
    let mut plant = Plant::new(&fake, 1);
    plant.grow();
    plant.lists();
    let root = plant.finish();
    let options = options();
    let image = make(&fake, Kind::Ext4, &root, &options, "image");
    checked(&image);
    mounted(&fake, Kind::Ext4, &image, |at| {
        compare(&fake, &root, at, true);
    });
    let taken = image.metadata().expect("the image").blocks() * 512;
    assert!(
        taken < 60 << 20,
        "holes stay holes: {taken} bytes are taken"
    );
}

/// `resize2fs` grows what was made, with the blocks that are kept for that.
#[test]
fn can_grow() {
    let fake = Fake::new();
    let mut plant = Plant::new(&fake, 10);
    plant.files();
    plant.hole();
    let root = plant.finish();
    let image = make(&fake, Kind::Ext4, &root, &options(), "image");
    checked(&image);
    if run("resize2fs", &[&text(&image), "40G"]).is_none() {
        return;
    }
    checked(&image);
    mounted(&fake, Kind::Ext4, &image, |at| {
        compare(&fake, &root, at, true);
    });
}

/// The kernel writes into what was made, and nothing is wrong afterwards.
#[test]
fn can_be_written_to() {
    let fake = Fake::new();
    let mut plant = Plant::new(&fake, 11);
    plant.files();
    plant.hole();
    let meta = Meta {
        mode: 0o755,
        ..Meta::default()
    };
    plant.put("/many", meta.clone(), SpecKind::Dir);
    for at in 0..2000 {
        plant.file(&format!("/many/{at}"), meta.clone(), b"x");
    }
    let root = plant.finish();
    let options = Options {
        free: 64 << 20,
        ..options()
    };
    let image = make(&fake, Kind::Ext4, &root, &options, "image");
    let at = fake.path("mounted");
    std::fs::create_dir(&at).expect("a directory");
    let Some(output) = peer("mount", &["-o", "loop", &text(&image), &text(&at)]) else {
        return;
    };
    if !output.status.success() {
        skip(&format!("ext4 cannot be mounted: {}", said(&output)));
        return;
    }
    for nth in 0..3000 {
        std::fs::write(at.join(format!("many/new {nth}")), b"new").expect("a new file");
    }
    for nth in 0..1000 {
        std::fs::remove_file(at.join(format!("many/{nth}"))).expect("removed");
    }
    std::fs::write(at.join("large"), vec![7; 20 << 20]).expect("a large file");
    run("umount", &[&text(&at)]);
    checked(&image);
}

/// A tree with a `lost+found` of its own keeps it.
#[test]
fn lost_and_found_is_not_made_twice() {
    let fake = Fake::new();
    let mut plant = Plant::new(&fake, 0);
    let meta = Meta {
        mode: 0o750,
        gid: 7,
        ..Meta::default()
    };
    plant.put("/lost+found", meta.clone(), SpecKind::Dir);
    plant.file("/lost+found/x", meta.clone(), b"found");
    let root = plant.finish();
    let image = make(&fake, Kind::Ext4, &root, &options(), "image");
    checked(&image);
    let Some(said) = run("debugfs", &["-R", "stat /lost+found", &text(&image)]) else {
        return;
    };
    assert!(
        said.contains("Inode: 11") && said.contains("Group:     7"),
        "{said}"
    );
    let mut plant = Plant::new(&fake, 0);
    plant.file("/lost+found", meta, b"no directory");
    let root = plant.finish();
    let image = FileImage::create(&fake.path("refused")).expect("an image");
    let error = write(&fake, Kind::Ext4, &root, &options(), &image).expect_err("refused");
    assert!(
        matches!(error, BuilderError::Diagnostic(problem) if problem.code == "filesystem-unfit")
    );
}

#[test]
fn debugfs_sees_what_is_special() {
    let fake = Fake::new();
    let mut plant = Plant::new(&fake, 0);
    let mut meta = Meta {
        mode: 0o4755,
        uid: 3_000_000,
        gid: 65_536,
        mtime_secs: 5,
        ..Meta::default()
    };
    meta.xattrs
        .insert(b"user.note".to_vec(), b"a\0b=c".to_vec());
    plant.file("/tool", meta.clone(), b"#!");
    let kind = SpecKind::CharDev {
        major: 4095,
        minor: 70_000,
    };
    plant.put("/device", Meta::default(), kind);
    let root = plant.finish();
    let image = make(&fake, Kind::Ext4, &root, &options(), "image");
    let ask = |question: &str| run("debugfs", &["-R", question, &text(&image)]);
    let Some(said) = ask("stat /tool") else {
        return;
    };
    for part in ["Mode:  04755", "User: 3000000", "Group: 65536"] {
        assert!(said.contains(part), "{said}");
    }
    let said = ask("ea_list /tool").expect("it is there");
    assert!(said.contains("user.note (5)"), "{said}");
    let said = ask("stat /device").expect("it is there");
    assert!(
        said.contains("Device major/minor number: 4095:70000"),
        "{said}"
    );
}
