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
