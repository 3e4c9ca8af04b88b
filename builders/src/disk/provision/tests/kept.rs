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

#[test]
fn another_kernel_does_not_come_beside_a_root_that_stays() {
    let w = World::new();
    let first = ext4(&kernel("6.1.0-1", 'x'));
    w.apply(&first, &w.plan(&first, ""));
    let other = ext4(&kernel("6.1.0-2", 'x'));
    let before = fs::read(&w.path).expect("read");
    let error = plan(&w.fake, &other, &w.device(), Wish::default()).expect_err("refused");
    assert!(fs::read(&w.path).expect("read") == before);
    let said = format!("{error:?}");
    for part in [
        "provision-same-version",
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
    let plan = w.plan(&next, "");
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
