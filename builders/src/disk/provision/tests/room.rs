//! What does not fit, told while everything is still there.

use super::*;

/// Sizes in MiB of the layout of [`spec`]: 40, two times 8, and 2 for the table.
const LAYOUT_MIB: u64 = 58;

#[test]
fn a_device_without_room_is_refused_before_anything_is_lost() {
    let w = World::new();
    let resize = |mib: u64| {
        let file = File::options()
            .write(true)
            .open(&w.path)
            .expect("the device");
        file.set_len(mib * MIB).expect("a length");
    };
    resize(LAYOUT_MIB - 1);
    let told = w.refusal(&spec("1"));
    for part in [
        format!("has {} bytes", (LAYOUT_MIB - 1) * MIB),
        format!("needs {}", LAYOUT_MIB * MIB),
        format!("`root-a` {}", 8 * MIB),
        format!("truncate -s {}", LAYOUT_MIB * MIB),
    ] {
        assert!(told.contains(&part), "{part}: {told}");
    }
    // A root without a size takes what it needs, and the last one what is left.
    let mut open = spec("1");
    open.partitions[1].size = None;
    open.partitions[1].filesystem = Some(Format::Root(Kind::Ext4));
    open.partitions[1].free = 40 * MIB;
    let told = w.refusal(&open);
    let needed = told
        .split("needs ")
        .nth(1)
        .and_then(|rest| rest.lines().next());
    let needed: u64 = needed.and_then(|n| n.parse().ok()).expect("a number");
    let mut rest = spec("1");
    rest.partitions[2].rest = true;
    rest.partitions[2].size = None;
    resize(LAYOUT_MIB - 8);
    assert!(
        w.refusal(&rest)
            .contains(&format!("needs {}", (LAYOUT_MIB - 7) * MIB))
    );
    // The size that the recipe gives the disk, though less would do.
    let mut given = spec("1");
    given.size = Some(100 * MIB);
    resize(LAYOUT_MIB);
    let told = w.refusal(&given);
    assert!(
        told.contains(&format!("needs {}", 100 * MIB)) && told.contains("`size` in the recipe"),
        "{told}"
    );
    // What was said to be needed is enough, and not too much.
    w.apply(&spec("1"), &w.plan(&spec("1"), ""));
    w.is_sound();
    let w = World::new();
    let file = File::options()
        .write(true)
        .open(&w.path)
        .expect("the device");
    file.set_len(needed - MIB).expect("a length");
    assert!(w.refusal(&open).contains(&format!("needs {needed}")));
    file.set_len(needed).expect("a length");
    w.apply(&open, &w.plan(&open, ""));
    w.is_sound();
}

#[test]
fn a_version_without_room_is_refused_before_anything_is_lost() {
    let mut w = World::new();
    w.apply(&spec("1"), &w.plan(&spec("1"), ""));
    let meta = Meta {
        mode: 0o755,
        ..Meta::default()
    };
    // Bytes that do not compress.
    let mut noise = vec![0; 9 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let mut tree = RootTree::empty_in(&w.fake.store, meta.clone());
    tree.write_file("large", noise, meta).expect("a file");
    let id = tree.finish(&w.fake.store).expect("a root");
    w.fake.roots.insert("root 2".to_owned(), id);
    let told = w.refusal(&spec("2"));
    for part in [
        format!(
            "`root-b` on the device has {} bytes, which t 2 does not fit",
            8 * MIB
        ),
        "it needs ".to_owned(),
        "root-size".to_owned(),
    ] {
        assert!(told.contains(&part), "{part}: {told}");
    }
    // The same of what was made beforehand.
    let image = w.fake.path("image");
    File::create_new(&image)
        .and_then(|file| file.set_len(8 * MIB + 1))
        .expect("an image");
    w.fake.trees.insert("image".to_owned(), image);
    let mut made = spec("3");
    for slot in &mut made.slots {
        slot.images.insert(slot.name.clone(), "image".to_owned());
    }
    let told = w.refusal(&made);
    assert!(
        told.contains(&format!("it needs {} bytes", 8 * MIB + 1)),
        "{told}"
    );
    // A kernel for which the EFI system partition is too small.
    let mut heavy = spec("3");
    for slot in &mut heavy.slots {
        let kernel = text(&"k".repeat(41 << 20));
        slot.files.insert("EFI/t/3-linux".to_owned(), kernel);
    }
    let told = w.refusal(&heavy);
    for part in [
        "EFI system partition has ",
        "`EFI/t/3-linux`",
        "nothing was written",
        "esp-size",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(w.drift(&spec("1")).is_empty());
}
