//! Layouts that contradict themselves, or a disk: told before any work, by the name of the partition.

use sos_engine::BuilderError;
use sos_formats::manifest::Meta;
use sos_formats::uuid::Uuid;
use sos_store::rootfs::RootTree;

use super::assemble::{DiskAttrs, Format, PartitionAttrs, fill, make, needed};
use super::esp::FileFrom;
use super::tests::disk;
use crate::build::fake::Fake;
use crate::filesystem::{FileImage, Kind};

const MIB: u64 = 1 << 20;
const NIL: &str = "00000000-0000-0000-0000-000000000000";

fn partition(name: &str) -> PartitionAttrs {
    PartitionAttrs {
        name: name.to_owned(),
        kind: "linux".to_owned(),
        uuid: Uuid::derived("test", name).to_string(),
        size: Some(8 * MIB),
        filesystem: Some(Format::Root(Kind::Ext4)),
        filesystem_uuid: Uuid::derived("test fs", name).to_string(),
        ..PartitionAttrs::default()
    }
}

/// What is said of a disk: message and advice.
fn told(fake: &Fake, attrs: &DiskAttrs) -> String {
    let out = fake.path("disk.raw");
    let error = make(fake, attrs, &out).expect_err("refused");
    std::fs::remove_file(&out).ok();
    match error {
        BuilderError::Diagnostic(problem) => {
            format!(
                "{}: {} {}",
                problem.code,
                problem.message,
                problem.helps.join("; ")
            )
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    type Change = fn(&mut DiskAttrs);
    let cases: [(Change, &str); 18] = [
        (
            |d| {
                d.partitions[1].filesystem = None;
                d.partitions[1].label = "x".to_owned();
            },
            "the partition `b` has a `label`, and no `filesystem`",
        ),
        (
            |d| {
                d.partitions[1].files = [("/x".to_owned(), FileFrom::Path("x".to_owned()))].into();
            },
            "the partition `b` has `files`, which only",
        ),
        (
            |d| {
                d.partitions[1].filesystem = None;
                d.partitions[1].size = Some(MIB);
                d.partitions[1].files = [("/x".to_owned(), FileFrom::Path("x".to_owned()))].into();
            },
            "the partition `b` has `files`, which only",
        ),
        (
            |d| {
                d.partitions[1].filesystem = Some(Format::Vfat);
                d.partitions[1].rootfs = Some("x".to_owned());
            },
            "the partition `b` has a `rootfs`, and no `filesystem`",
        ),
        (|d| d.uuid = NIL.to_owned(), "the disk: a UUID of zeros"),
        (
            |d| d.partitions[0].uuid = NIL.to_owned(),
            "the partition `a`: a UUID of zeros",
        ),
        (
            |d| d.partitions[1].filesystem_uuid = NIL.to_owned(),
            "the file system of the partition `b`: a UUID of zeros",
        ),
        (
            |d| d.partitions[1].uuid = d.partitions[0].uuid.to_uppercase(),
            "the partition `a` and the partition `b` have the same UUID",
        ),
        (
            |d| d.uuid.clone_from(&d.partitions[1].uuid),
            "the disk and the partition `b` have the same UUID",
        ),
        (
            |d| d.partitions[1].filesystem_uuid = d.partitions[0].filesystem_uuid.to_uppercase(),
            "the file systems of the partition `a` and the partition `b` have the same UUID",
        ),
        (
            |d| d.partitions[0].kind = NIL.to_owned(),
            "is no type of a partition",
        ),
        (
            |d| d.partitions[0].size = Some(0),
            "the `size` of the partition `a` is 0",
        ),
        (
            |d| d.partitions[0].name = "x".repeat(37),
            "is 37 characters long",
        ),
        (
            |d| d.partitions[0].name = "😀".repeat(19),
            "is 38 characters long",
        ),
        (
            |d| d.partitions[0].name = "a\u{1}".to_owned(),
            "`a\\u{1}` of a partition is empty or",
        ),
        (
            |d| d.partitions[0].name.clear(),
            "is empty or has a control character",
        ),
        (
            |d| d.partitions[1].label = "longer than sixteen".to_owned(),
            "bad `label` of the partition `b`: ext4 has 16 bytes for a label, and `longer than sixteen` takes 19 write `label",
        ),
        (
            |d| {
                d.partitions[1].filesystem = Some(Format::Vfat);
                d.partitions[1].label = "boot".to_owned();
            },
            "bad `label` of the partition `b`: `b` cannot stand in a label of vfat",
        ),
    ];
    let fake = Fake::new();
    for (change, expected) in cases {
        let mut attrs = disk(vec![partition("a"), partition("b")]);
        change(&mut attrs);
        let told = told(&fake, &attrs);
        assert!(
            told.starts_with("disk-layout: ") && told.contains(expected),
            "{told}"
        );
    }
    let sound = disk(vec![partition("a"), partition("b")]);
    make(&fake, &sound, &fake.path("sound.raw")).expect("a disk");
}

/// A root of so many MiB of noise, which nothing makes shorter.
fn noise(fake: &mut Fake, mib: u64) {
    let meta = Meta {
        mode: 0o755,
        ..Meta::default()
    };
    let mut bytes = vec![0; usize::try_from(mib * MIB).expect("small")];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    let mut tree = RootTree::empty_in(&fake.store, meta.clone());
    tree.write_file("noise", bytes, meta).expect("a file");
    let id = tree.finish(&fake.store).expect("a root");
    fake.roots.insert("root".to_owned(), id);
}

#[test]
fn what_is_needed_is_enough_and_a_mib_less_is_not() {
    let mut fake = Fake::new();
    noise(&mut fake, 11);
    for kind in [Kind::Ext4, Kind::Erofs, Kind::Squashfs] {
        let mut root = partition("root");
        root.filesystem = Some(Format::Root(kind));
        root.rootfs = Some("root".to_owned());
        root.size = None;
        let mut attrs = disk(vec![partition("first"), root]);
        let found = needed(&fake, &attrs).expect("a size");
        let parts: u64 = found.partitions.iter().map(|(_, size)| size).sum();
        assert_eq!(found.bytes, parts + 2 * MIB);
        attrs.size = Some(found.bytes);
        make(&fake, &attrs, &fake.path(&format!("{kind:?}.raw"))).expect("it fits");
        // One less, and the message says how much it is for the partition, not how writing went wrong.
        attrs.size = Some(found.bytes - MIB);
        let root = found.partitions[1].1;
        let told = told(&fake, &attrs);
        let expected = format!(
            "the partition `root` needs {root} bytes, and {} are left",
            root - MIB
        );
        assert!(told.contains(&expected), "{told}");
    }
    // A partition with a size that is too small for its root says so by its name.
    let mut small = partition("small");
    small.rootfs = Some("root".to_owned());
    let told = told(&fake, &disk(vec![small]));
    assert!(
        told.starts_with("disk-full: the partition `small` is too small"),
        "{told}"
    );
    assert!(told.contains("it needs at least"), "{told}");
}

#[test]
fn what_is_too_large_or_a_directory_is_called_that() {
    let mut fake = Fake::new();
    noise(&mut fake, 1);
    let mut large = partition("large");
    large.filesystem = Some(Format::Root(Kind::Ext4));
    large.rootfs = Some("root".to_owned());
    large.size = Some(20 << 40);
    let said = told(&fake, &disk(vec![large.clone()]));
    assert!(
        said.starts_with("filesystem-large: the partition `large` is too large")
            && said.contains("17592186040320 bytes"),
        "{said}"
    );
    let tree = fake.path("tree");
    std::fs::create_dir(&tree).expect("a directory");
    fake.trees.insert("tree".to_owned(), tree);
    let mut volume = partition("volume");
    volume.filesystem = Some(Format::Vfat);
    volume.rootfs = None;
    volume.files = [("x".to_owned(), FileFrom::Path("tree".to_owned()))].into();
    let said = told(&fake, &disk(vec![volume]));
    assert!(said.contains("`tree` is a directory"), "{said}");
}

#[test]
fn file_systems_of_one_block_are_in_disks_what_they_are_alone() {
    let mut fake = Fake::new();
    let mut tree = RootTree::empty_in(&fake.store, Meta::default());
    tree.write_file("note", b"small".to_vec(), Meta::default())
        .expect("a file");
    let root = tree.finish(&fake.store).expect("a manifest");
    fake.roots.insert("small".to_owned(), root);
    let erofs = |name: &str| PartitionAttrs {
        filesystem: Some(Format::Root(Kind::Erofs)),
        label: name.to_owned(),
        rootfs: Some("small".to_owned()),
        size: None,
        ..partition(name)
    };
    let sized = PartitionAttrs {
        size: Some(2 * MIB),
        ..erofs("sized")
    };
    let empty = PartitionAttrs {
        rootfs: None,
        ..erofs("empty")
    };
    let partitions = vec![erofs("first"), sized, empty];
    let out = fake.path("disk.raw");
    let attrs = disk(partitions.clone());
    make(&fake, &attrs, &out).expect("a disk");
    let whole = std::fs::read(&out).expect("readable");
    // Each begins where the one before ends.
    for (one, start) in partitions.iter().zip([MIB, 2 * MIB, 4 * MIB]) {
        let alone = fake.path(&one.name);
        let image = FileImage::create(&alone).expect("an image");
        fill(&fake, one, one.size, attrs.epoch, 0, &image).expect("a file system");
        let alone = std::fs::read(&alone).expect("readable");
        let start = usize::try_from(start).expect("small");
        assert_eq!(alone[1024..1028], 0xe0f5_e1e2_u32.to_le_bytes());
        assert!(whole[start..start + alone.len()] == alone, "{}", one.name);
    }
}
