//! Devices that somebody else uses, or that hold what nobody can read.

use super::*;

#[test]
fn a_device_is_written_by_one_at_a_time() {
    let w = World::new();
    let first = w.device();
    // Whatever was opened and closed in between.
    apply(
        &w.fake,
        &spec("1"),
        &first,
        &plan(&w.fake, &spec("1"), &first, Wish::default()).expect("a plan"),
        None,
    )
    .expect("done");
    let second = Device::open(&w.path, true).expect_err("refused");
    let said = format!("{second:?}");
    assert!(
        said.contains("provision-in-use") && said.contains("another `sos provision apply`"),
        "{said}"
    );
    assert!(used_by(&w.path).is_some());
    // To look at it nobody has to be asked.
    Device::open(&w.path, false).expect("for reading");
    drop(first);
    w.device();
}

#[test]
fn an_esp_that_cannot_be_read_is_a_difference() {
    let w = World::new();
    w.apply(&spec("1"), &w.plan(&spec("1"), ""));
    w.change(w.offset("esp"), &vec![0; 1 << 20]);
    let report = w.report(&spec("1"));
    let told: Vec<String> = report.differences.iter().map(ToString::to_string).collect();
    assert!(
        told.len() == 1 && told[0].starts_with("esp: the EFI system partition `esp` holds no FAT"),
        "{told:?}"
    );
    assert!(report.slots.is_empty() && report.not_compared.len() == 1);
    let error = plan(&w.fake, &spec("1"), &w.device(), Wish::default()).expect_err("refused");
    let BuilderError::Diagnostic(problem) = error else {
        panic!("{error:?}");
    };
    assert_eq!(problem.code, "provision-damaged");
    assert!(problem.helps[0].contains("`--wipe`"));
    let wipe = Wish {
        wipe: true,
        ..Wish::default()
    };
    let anew = plan(&w.fake, &spec("1"), &w.device(), wipe).expect("a plan");
    w.apply(&spec("1"), &anew);
    assert!(w.drift(&spec("1")).is_empty());
}

#[test]
fn a_partition_without_a_name_is_told_by_its_id() {
    let w = World::new();
    w.apply(&spec("1"), &w.plan(&spec("1"), ""));
    let id = Uuid::derived("test", "more");
    let args = [
        "-n",
        "9:0:0",
        "-u",
        &format!("9:{id}"),
        "-c",
        "9:",
        w.path.to_str().expect("plain"),
    ];
    let Some(output) = peer("sgdisk", &args) else {
        return;
    };
    let found = w.drift(&spec("1"));
    let told = format!("a partition without a name ({id}): is no partition of the layout");
    assert_eq!(found, [told], "{}", said(&output));
}

#[test]
fn another_id_of_the_disk_is_told_and_given_back() {
    let w = World::new();
    w.apply(&spec("1"), &w.plan(&spec("1"), ""));
    let (own, other) = (
        Uuid::derived("test", "disk"),
        Uuid::derived("test", "another disk"),
    );
    w.device().mend(Some(other)).expect("written");
    assert_eq!(
        w.drift(&spec("1")),
        [format!("the device: has the id {other} instead of {own}")]
    );
    let plan = w.plan(&spec("1"), "");
    assert_eq!(plan.steps, [Step::Identify { id: own }]);
    assert_eq!(
        plan.steps[0].to_string(),
        format!("give the disk the id {own} in both copies of the partition table")
    );
    w.apply(&spec("1"), &plan);
    assert!(w.drift(&spec("1")).is_empty(), "{:?}", w.drift(&spec("1")));
    w.is_sound();
    // Beside another difference of the table, and beside that of a new version.
    w.device().mend(Some(other)).expect("written");
    w.change(64 * MIB - 512, &[0; 512]);
    let steps = w.plan(&spec("2"), "").steps;
    assert_eq!(steps[..2], [Step::Mend, Step::Identify { id: own }]);
    w.apply(&spec("2"), &w.plan(&spec("2"), ""));
    assert!(w.drift(&spec("2")).is_empty(), "{:?}", w.drift(&spec("2")));
    w.is_sound();
}

#[test]
fn a_device_that_became_larger_or_smaller_is_told() {
    let w = World::new();
    w.apply(&spec("1"), &w.plan(&spec("1"), ""));
    let resize = |bytes: u64| {
        let file = File::options().write(true).open(&w.path);
        file.and_then(|file| file.set_len(bytes)).expect("resized");
    };
    let mut before = 64 * MIB;
    // The partitions end at 57 MiB; the second copy of the table needs 33 sectors behind them.
    for bytes in [100 * MIB, 57 * MIB + 33 * 512, 64 * MIB] {
        resize(bytes);
        assert_eq!(
            w.drift(&spec("1")),
            [format!(
                "the device: its partition table is of a disk of {before} bytes, so that the second copy is not at the end"
            )]
        );
        let plan = w.plan(&spec("1"), "");
        assert_eq!(plan.steps, [Step::Mend]);
        w.apply(&spec("1"), &plan);
        assert!(w.drift(&spec("1")).is_empty(), "{:?}", w.drift(&spec("1")));
        w.is_sound();
        before = bytes;
    }
    // Without that room nothing is written over the end of the last partition.
    resize(57 * MIB + 32 * 512);
    let told = w.drift(&spec("1"));
    assert_eq!(
        told,
        [
            "the device: has a partition table that cannot be used: the partition `root-b` overlaps another one or does not fit on the disk"
        ]
    );
    let error = plan(&w.fake, &spec("1"), &w.device(), Wish::default()).expect_err("refused");
    assert!(format!("{error:?}").contains("provision-table"));
}

#[test]
fn a_table_is_repaired_where_nothing_else_can_be() {
    let w = World::new();
    let mut bare = spec("1");
    // Without what firmware looks into nothing tells which version is where.
    bare.partitions.remove(0);
    w.apply(&bare, &w.plan(&bare, ""));
    let refused = || {
        let error = plan(&w.fake, &bare, &w.device(), Wish::default()).expect_err("refused");
        assert!(format!("{error:?}").contains("provision-no-esp"));
    };
    refused();
    let file = File::options().write(true).open(&w.path);
    file.and_then(|file| file.set_len(100 * MIB))
        .expect("resized");
    let plan = w.plan(&bare, "");
    assert_eq!(plan.steps, [Step::Mend]);
    w.apply(&bare, &plan);
    assert!(w.drift(&bare).is_empty(), "{:?}", w.drift(&bare));
    refused();
}

#[test]
fn what_is_behind_the_first_mib_is_seen() {
    // Where file systems have their second superblock, where a table has its second copy, and anywhere.
    for at in [1 << 20, 33 << 20, (64 << 20) - 512] {
        let w = World::new();
        w.change(at, b"data");
        let error = plan(&w.fake, &spec("1"), &w.device(), Wish::default()).expect_err("refused");
        assert!(
            format!("{error:?}").contains("provision-not-blank"),
            "{at}: {error:?}"
        );
        // Zeros that were written are nothing.
        w.change(at, &[0; 512]);
        assert!(w.plan(&spec("1"), "").wipes);
    }
}

#[test]
fn a_file_with_something_in_it_is_not_to_be_made_a_disk() {
    let w = World::new();
    let path = w.fake.path("passwd");
    let help = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("written");
        let error = Device::open(&path, false).expect_err("refused");
        let BuilderError::Diagnostic(problem) = error else {
            panic!("{error:?}");
        };
        problem.helps.join("\n")
    };
    let own = format!("truncate -s 8G {}", path.display());
    assert!(help(b"").contains(&own));
    assert!(help(&[0; 4096]).contains(&own));
    let told = help(b"root:x:0:0:root:/root:/bin/sh\n");
    assert!(
        !told.contains(&own) && told.contains("name a block device"),
        "{told}"
    );
}

#[test]
fn another_layout_with_a_nameless_partition_is_told_by_its_id() {
    let w = World::new();
    let mut other = spec("1");
    for partition in &mut other.partitions {
        partition.uuid = Uuid::derived("other", &partition.name).to_string();
    }
    w.apply(&other, &w.plan(&other, ""));
    let path = w.path.to_str().expect("plain");
    if peer("sgdisk", &["-c", "3:", path]).is_none() {
        return;
    }
    let error = plan(&w.fake, &spec("1"), &w.device(), Wish::default()).expect_err("refused");
    let id = Uuid::derived("other", "root-b");
    let told = format!("it has `esp`, `root-a`, a partition without a name ({id})");
    assert!(format!("{error:?}").contains(&told), "{error:?}");
}

#[test]
fn a_damaged_esp_is_told_with_what_can_be_done() {
    let w = World::new();
    w.apply(&spec("1"), &w.plan(&spec("1"), ""));
    let esp = w.offset("esp");
    // The number of free clusters is not known, and the table ends early.
    w.change(esp + 512 + 488, &[0xff; 4]);
    w.change(esp + 36, &1u32.to_le_bytes());
    let error = plan(&w.fake, &spec("2"), &w.device(), Wish::default()).expect_err("refused");
    let said = format!("{error:?}");
    assert!(
        said.contains("provision-damaged") && said.contains("`fsck.vfat` may repair it"),
        "{said}"
    );
}
