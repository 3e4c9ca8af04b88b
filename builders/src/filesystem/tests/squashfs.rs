//! Squashfs, as its programs and the kernel read it.

use std::os::unix::fs::MetadataExt as _;

use super::compare::is_root;
use super::*;

#[test]
fn comes_back_equal() {
    let fake = Fake::new();
    let mut plant = Plant::new(&fake, 6);
    plant.grow();
    let root = plant.finish();
    let image = make(&fake, Kind::Squashfs, &root, &squashfs_options(), "image");
    let out = fake.path("out");
    if is_root() {
        run(
            "unsquashfs",
            &["-n", "-no-exit", "-d", &text(&out), &text(&image)],
        );
        compare(&fake, &root, &out, false);
    } else {
        run("unsquashfs", &["-lln", &text(&image)]);
    }
    mounted(&fake, Kind::Squashfs, &image, |at| {
        compare(&fake, &root, at, false);
    });
}

/// Without its list a file allows its group what the list allowed it, not what it allowed somebody else.
#[test]
fn access_control_lists_are_left_out_or_refused() {
    let fake = Fake::new();
    let mut plant = Plant::new(&fake, 12);
    plant.lists();
    let root = plant.finish();
    let drop = Options {
        acls: Acls::Drop,
        ..squashfs_options()
    };
    let image = make(&fake, Kind::Squashfs, &root, &drop, "image");
    assert!(fake.logged("warning[filesystem-acl]"));
    assert!(fake.logged("`/acl`, `/acls`"));
    if let Some(said) = run("unsquashfs", &["-lln", &text(&image)]) {
        // 0771 under a mask of 7, and the group has 5: without what the user does not have who may be of it, and others without what
        // either that user or the other group does not have.
        for part in ["-rwxr-----", "drwxr-----"] {
            assert!(said.contains(part), "{said}");
        }
    }
    let image = FileImage::create(&fake.path("refused")).expect("an image");
    let error =
        write(&fake, Kind::Squashfs, &root, &squashfs_options(), &image).expect_err("refused");
    let BuilderError::Diagnostic(problem) = error else {
        panic!("{error}");
    };
    assert_eq!(problem.code, "filesystem-unfit");
    assert_eq!(
        problem.notes,
        ["/acl", "/acls"]
            .map(|path| format!("`{path}`: squashfs has no access control lists, and it has one"))
    );
    assert!(problem.helps[0].contains("`acls = \"drop\"`"));
}

/// The kernel begins to look for a name where the index of the directory says.
#[test]
fn names_of_long_directories_are_found_by_an_index() {
    let fake = Fake::new();
    let mut plant = Plant::new(&fake, 8);
    let meta = plant.random.meta(&[0o755]);
    plant.put("/many", meta, SpecKind::Dir);
    let mut expected = BTreeMap::new();
    for number in 0..2_000 {
        // Of all lengths, and not in the order of their numbers.
        let name = format!("{:x}{}", number * 7919 % 2_003, "-".repeat(number % 90));
        let meta = plant.random.meta(&[0o644]);
        expected.insert(name.clone(), meta.uid);
        plant.put(&format!("/many/{name}"), meta, SpecKind::Fifo);
    }
    let root = plant.finish();
    let image = make(&fake, Kind::Squashfs, &root, &squashfs_options(), "image");
    if let Some(said) = run("unsquashfs", &["-lln", &text(&image)]) {
        assert_eq!(said.matches("/many/").count(), 2_000);
    }
    mounted(&fake, Kind::Squashfs, &image, |at| {
        let many = at.join("many");
        let found = std::fs::read_dir(&many).expect("a directory").count();
        assert_eq!(found, expected.len());
        for (name, uid) in &expected {
            let meta = many.join(name).symlink_metadata();
            assert_eq!(meta.expect("it is there").uid(), *uid, "{name}");
            let other = many.join(format!("{name}.")).symlink_metadata();
            assert!(other.is_err(), "{name}.");
        }
    });
}
