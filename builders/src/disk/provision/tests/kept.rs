//! The same version with another root.

use super::*;

/// A kernel as the boot protocol of x86 has it, of no use but for its version.
fn kernel(version: &str, more: char) -> String {
    let mut image = [more].repeat(0x400);
    let mut put = |at: usize, text: &str| {
        let letters: Vec<char> = text.chars().collect();
        image[at..at + letters.len()].copy_from_slice(&letters);
    };
    put(0x202, "HdrS");
    put(0x20e, "\u{1}\u{1}");
    put(0x301, &format!("{version} (x) #1\0"));
    image.into_iter().collect()
}

fn ext4(image: &str) -> Spec {
    let mut spec = spec("1");
    spec.filesystem = Kind::Ext4;
    spec.partitions[1].filesystem = Some(Format::Root(Kind::Ext4));
    for slot in &mut spec.slots {
        slot.files.insert("EFI/t/1-linux".to_owned(), text(image));
    }
    spec.partitions[0].files.extend(spec.slots[0].files.clone());
    spec
}

/// What is said of a version that the recipe must not call the same.
fn refused(w: &World, spec: &Spec) -> String {
    let before = w.data();
    let error = plan(&w.fake, spec, &w.device(), Wish::default()).expect_err("refused");
    assert!(w.data() == before);
    let said = format!("{error:?}");
    assert!(said.contains("provision-same-version"), "{said}");
    said
}

/// A kernel as the boot protocol of arm64 has it: its version is in its banner only.
fn arm64(version: &str) -> String {
    let banner = format!("Linux version {version} (x@y) #1\n\0");
    format!("{}ARM\u{64}{}{banner}", "x".repeat(0x38), "x".repeat(0x400))
}

#[test]
fn the_banner_of_a_kernel_tells_its_version() {
    let w = World::new();
    w.apply(
        &ext4(&arm64("6.1.0-1")),
        &w.plan(&ext4(&arm64("6.1.0-1")), ""),
    );
    let said = refused(&w, &ext4(&arm64("6.1.0-2")));
    let part = "with the kernel 6.1.0-1 (x@y) #1, and the recipe calls one with the kernel 6.1.0-2 (x@y) #1";
    assert!(said.contains(part), "{said}");
}

/// The same version as a kernel image, which is one file.
fn as_image(mut spec: Spec) -> Spec {
    let image = format!("EFI/Linux/{}_{}.efi", spec.image, spec.version);
    for slot in &mut spec.slots {
        slot.files = BTreeMap::from([(image.clone(), text("image"))]);
    }
    let loader = spec.partitions[0].files.remove("EFI/BOOT/BOOTX64.EFI");
    spec.partitions[0].files = spec.slots[0].files.clone();
    spec.partitions[0]
        .files
        .extend(loader.map(|loader| ("EFI/BOOT/BOOTX64.EFI".to_owned(), loader)));
    spec
}

#[test]
fn another_kind_of_entry_is_another_version() {
    let w = World::new();
    w.apply(&spec("1"), &w.plan(&spec("1"), ""));
    let told = "loader/entries/t_1.conf: starts the version that the recipe starts with `EFI/Linux/t_1.efi`";
    assert_eq!(w.drift(&as_image(spec("1"))), [told]);
    let said = refused(&w, &as_image(spec("1")));
    for part in [told, "version 1 is in `root-a`", "raise `version`"] {
        assert!(said.contains(part), "{said}");
    }
    // With a higher version both are there.
    let next = as_image(spec("2"));
    w.apply(&next, &w.plan(&next, ""));
    assert!(
        w.listed("EFI/Linux")
            .iter()
            .any(|l| l.ends_with("t_2+3.efi"))
    );
    assert!(
        w.listed("loader/entries")
            .iter()
            .any(|l| l.ends_with("t_1.conf"))
    );
    w.is_sound();
}

#[test]
fn a_root_with_hashes_is_known_to_be_damaged() {
    let mut w = World::new();
    for letter in ["a", "b"] {
        let image = w.fake.path(letter);
        fs::write(&image, letter.repeat(8192)).expect("written");
        w.fake.trees.insert(letter.to_owned(), image);
    }
    let hashed = |letter: &str| {
        let root = Uuid::derived("test", "root-a");
        let entry = format!("options root=PARTUUID={root} roothash={letter}\n");
        let mut spec = spec("1");
        let slot = &mut spec.slots[0];
        slot.images = BTreeMap::from([("root-a".to_owned(), letter.to_owned())]);
        slot.files = BTreeMap::from([("loader/entries/t_1.conf".to_owned(), text(&entry))]);
        spec.partitions[0].files = spec.slots[0].files.clone();
        let root = &mut spec.partitions[1];
        root.rootfs = None;
        root.filesystem = None;
        root.image = Some(letter.to_owned());
        spec
    };
    let first = hashed("a");
    w.apply(&first, &w.plan(&first, ""));
    assert!(w.drift(&first).is_empty(), "{:?}", w.drift(&first));
    // Its entry names the root of the recipe: what differs of it is damage.
    w.change(w.offset("root-a") + 5, b"x");
    let plan = w.plan(&first, "");
    assert!(
        matches!(&plan.steps[..], [Step::Partition { name, .. }] if name == "root-a"),
        "{plan:?}"
    );
    w.apply(&first, &plan);
    assert!(w.drift(&first).is_empty(), "{:?}", w.drift(&first));
    let said = refused(&w, &hashed("b"));
    assert!(said.contains("from byte 0 on"), "{said}");
}

#[test]
fn another_kernel_does_not_come_beside_a_root_that_stays() {
    let w = World::new();
    let first = ext4(&kernel("6.1.0-1", 'x'));
    w.apply(&first, &w.plan(&first, ""));
    let other = ext4(&kernel("6.1.0-2", 'x'));
    let said = refused(&w, &other);
    for part in [
        "`root-a` with the kernel 6.1.0-1 (x) #1, and the recipe calls one with the kernel 6.1.0-2 (x) #1",
        "raise `version`",
    ] {
        assert!(said.contains(part), "{said}");
    }
    // The same kernel with other bytes, or what was one: that the root stays is said.
    for new in [kernel("6.1.0-1", 'y'), "damage".to_owned()] {
        let new = ext4(&new);
        let plan = w.plan(&new, "");
        let path = "EFI/t/1-linux".to_owned();
        assert_eq!(plan.steps, [Step::File { path }]);
        assert!(
            plan.notes.len() == 1
                && plan.notes[0].starts_with("`root-a` keeps the files that it has"),
            "{plan:?}"
        );
        w.apply(&new, &plan);
        assert!(w.drift(&new).is_empty());
    }
    // A root to which nothing writes comes with its kernel, or stays with it.
    let w = World::new();
    let squash = |version: &str| {
        let mut spec = ext4(&kernel(version, 'x'));
        spec.filesystem = Kind::Squashfs;
        spec.partitions[1].filesystem = Some(Format::Root(Kind::Squashfs));
        spec
    };
    w.apply(&squash("1"), &w.plan(&squash("1"), ""));
    let mut next = squash("2");
    next.root = "root 2".to_owned();
    let said = refused(&w, &next);
    for part in [
        "version 1 has started from `root-a`, and its root is not the recipe's",
        "root-a: has other content from byte ",
        "raise `version`",
        "`--repair` writes the root of the recipe over it",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let repairs = Wish {
        repairs: true,
        ..Wish::default()
    };
    let plan = plan(&w.fake, &next, &w.device(), repairs).expect("a plan");
    let steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
    assert_eq!(
        steps,
        [
            "write t 1 to the partition `root-a`",
            "write `EFI/t/1-linux` to the EFI system partition"
        ]
    );
    let running = format!("root=PARTUUID={}", Uuid::derived("test", "root-a"));
    let plan = w.plan(&next, &running);
    assert!(plan.steps.is_empty() && plan.left.len() == 1, "{plan:?}");
}
