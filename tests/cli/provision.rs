//! What `sos provision` and `sos boot run` say when they cannot do what was asked for.

use std::fs::File;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};

use super::disk::world;
use crate::support::user::User;
use crate::support::{World, peer, run};

const MIB: u64 = 1 << 20;
/// What the layout of the recipe takes: 64 MiB, two times 24, and 2 for the table.
const LAYOUT: u64 = 114 * MIB;

fn device(w: &World, name: &str, bytes: u64) -> File {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(w.project().join(name));
    let file = file.expect("a device");
    file.set_len(bytes).expect("a length");
    file
}

#[test]
fn a_device_without_room_is_told_before_anything_is_written() {
    let Some(w) = world() else { return };
    let file = device(&w, "device", LAYOUT - MIB);
    let says = [
        &format!("`device` has {} bytes", LAYOUT - MIB)[..],
        &format!("layout of test 1 needs {LAYOUT}"),
        &format!("`esp` {}, `root-a` {}", 64 * MIB, 24 * MIB),
        &format!("truncate -s {LAYOUT} device"),
    ];
    for args in [
        &["provision", "plan", "device", ".#disk"][..],
        &["provision", "apply", "device", ".#disk"],
        &["provision", "apply", "device", ".#disk", "--yes"],
        &["provision", "apply", "device", ".#disk", "--wipe", "--yes"],
    ] {
        let told = w.sos(args).fails(4).says(&says);
        assert_eq!(told.stdout, "");
        assert_eq!(file.metadata().expect("a look").blocks(), 0);
    }
    file.set_len(LAYOUT).expect("a length");
    w.sos(["provision", "plan", "device", ".#disk"]).ok();
    w.sos(["provision", "apply", "device", ".#disk", "--yes"])
        .ok();
}

#[test]
fn drift_says_which_version_is_where() {
    let Some(w) = world() else { return };
    device(&w, "device", LAYOUT);
    let drift = |target: &str| w.sos(["provision", "drift", "device", target]);
    let none = drift(".#disk").fails(1);
    assert_eq!(
        none.stdout,
        "recipe: test version 1\nthe device: has no partition table\n"
    );
    w.sos(["provision", "apply", "device", ".#disk", "--yes"])
        .ok();
    assert_eq!(
        drift(".#disk").ok().stdout,
        "recipe: test version 1\n\
         slot root-a: version 1, the recipe's; starts next\n\
         slot root-b: no version\n"
    );
    // The version of the recipe is in no slot: that is what the exit code is for.
    let next = drift(".#next").fails(1);
    assert_eq!(
        next.stdout,
        "recipe: test version 2\n\
         slot root-a: version 1; starts next\n\
         slot root-b: no version\n\
         version 2: is in no slot; version 1 is there\n"
    );
    w.sos(["provision", "apply", "device", ".#next", "--yes"])
        .ok();
    drift(".#next").ok();
    // The first is still there, and another one starts.
    drift(".#disk").fails(1);
    let told = w
        .sos(["provision", "drift", "device", ".#disk", "--json"])
        .fails(1);
    let told: serde_json::Value = serde_json::from_str(&told.stdout).expect("JSON");
    assert_eq!(
        (&told["image"], &told["version"]),
        (&"test".into(), &"1".into())
    );
    assert_eq!(
        told["slots"][1],
        serde_json::json!({ "name": "root-b", "version": "2", "triesLeft": 3, "isRecipe": false, "isNext": true, "isDraft": false })
    );
    assert_eq!(told["slots"][0]["isRecipe"], true);
    assert_eq!(told["differences"][0]["what"], "version 1");
    let left = told["notCompared"][0].as_str().expect("a text");
    assert!(left.contains("files in `root-a` and `root-b`"), "{left}");
    let help = w.sos(["provision", "drift", "--help"]).ok().stdout;
    for part in ["is in no slot", "on standard error", "Exit codes: 0"] {
        assert!(help.contains(part), "{part}: {help}");
    }
}

/// Whatever type the partition with the root filesystem has, and however it is written.
#[test]
fn a_partition_with_the_root_is_a_slot() {
    let Some(w) = world() else { return };
    for kind in ["plain-root", "uuid-root"] {
        device(&w, kind, 98 * MIB);
        let target = format!(".#{kind}");
        let run = |verb: &str, more: &[&str]| {
            let args = ["provision", verb, kind, &target];
            w.sos(args.iter().chain(more))
        };
        run("apply", &["--yes"]).ok();
        assert_eq!(
            run("drift", &[]).ok().stdout,
            "recipe: test version 1\nslot root: version 1, the recipe's; starts next\n",
            "{kind}"
        );
        run("apply", &["--yes"]).ok();
        let again = run("plan", &[]).ok().stdout;
        assert_eq!(again, "test 1 is there already\n", "{kind}");
        w.sos(["provision", "apply", kind, &format!("{target}2"), "--yes"])
            .fails(4)
            .says(&[
                "provision-no-slot",
                "no slot for another version beside the one that starts now",
            ]);
    }
    device(&w, "two", LAYOUT);
    for (target, slot) in [(".#two-slots1", "root-a"), (".#two-slots2", "root-b")] {
        w.sos(["provision", "apply", "two", target, "--yes"]).ok();
        let told = w.sos(["provision", "drift", "two", target]).ok().stdout;
        assert!(
            told.lines()
                .any(|line| line.starts_with(&format!("slot {slot}: version"))
                    && line.contains("the recipe's")),
            "{target}: {told}"
        );
    }
}

/// A script can tell a plan from what was done.
#[test]
fn apply_without_yes_is_told_apart() {
    let Some(w) = world() else { return };
    device(&w, "device", LAYOUT);
    let done = |verb: &str, yes: bool, code: i32| {
        let mut args = vec!["provision", verb, "device", ".#disk", "--json"];
        args.extend(yes.then_some("--yes"));
        let told = w.sos(args);
        assert_eq!(told.code, code, "{}", told.stderr);
        let told: serde_json::Value = serde_json::from_str(&told.stdout).expect("JSON");
        told["done"].as_bool().expect("a word")
    };
    assert!(!done("plan", false, 0));
    assert!(!done("apply", false, 2));
    w.sos(["provision", "apply", "device", ".#disk"])
        .fails(2)
        .says(&["provision-unconfirmed", "`--yes` does it"]);
    assert!(done("apply", true, 0));
    // There is nothing to confirm.
    assert!(done("apply", false, 0));
    assert!(!done("plan", false, 0));
}

#[test]
fn another_kernel_under_the_same_version_is_refused() {
    let Some(w) = world() else { return };
    device(&w, "device", LAYOUT);
    w.sos(["provision", "apply", "device", ".#disk", "--yes"])
        .ok();
    let recipe = std::fs::read_to_string(w.project().join("sos.nix")).expect("read");
    w.write(
        "sos.nix",
        &recipe.replace("vmlinuz-6.1.0-1", "vmlinuz-6.1.0-2"),
    );
    for verb in [&["plan"][..], &["apply", "--yes"]] {
        let args = [&["provision"], verb, &["device", ".#disk"]].concat();
        w.sos(args).fails(4).says(&[
            "provision-same-version",
            "with the kernel 6.1.0-1",
            "raise `version`",
        ]);
    }
    w.sos(["provision", "drift", "device", ".#disk"]).fails(1);
    // With a higher one both are there.
    w.sos(["provision", "apply", "device", ".#next", "--yes"])
        .ok();
    w.sos(["provision", "drift", "device", ".#next"]).ok();
}

#[test]
fn another_way_to_start_or_another_root_under_the_same_version_is_refused() {
    let Some(w) = world() else { return };
    device(&w, "device", LAYOUT);
    let apply = |target: &str, more: &[&str]| {
        let args = ["provision", "apply", "device", target, "--yes"];
        w.sos(args.iter().chain(more))
    };
    apply(".#disk", &[]).ok();
    for verb in [&["plan"][..], &["apply", "--yes"]] {
        let args = [&["provision"], verb, &["device", ".#entries"]].concat();
        w.sos(args).fails(4).says(&[
            "provision-same-version",
            "`EFI/Linux/test_1.efi`",
            "`loader/entries/test_1.conf`",
            "raise `version`",
        ]);
    }
    w.sos(["provision", "drift", "device", ".#entries"])
        .fails(1);
    apply(".#next-entries", &[]).ok();
    w.sos(["provision", "drift", "device", ".#next-entries"])
        .ok();
    // A root to which nothing writes, and that starts.
    let recipe = std::fs::read_to_string(w.project().join("sos.nix")).expect("read");
    let squashed = recipe.replace(
        "root-size =",
        "filesystem = \"squashfs\"; initrd = \"none\"; root-size =",
    );
    w.write("sos.nix", &squashed);
    apply(".#disk", &["--wipe"]).ok();
    let other = squashed.replace("version ${version}", "version ${version}!");
    w.write("sos.nix", &other);
    apply(".#disk", &[]).fails(4).says(&[
        "provision-same-version",
        "has other content from byte",
        "raise `version`",
        "`--repair`",
    ]);
    apply(".#disk", &["--repair"]).ok();
    w.sos(["provision", "drift", "device", ".#disk"]).ok();
}

#[test]
fn a_name_with_an_underscore_has_two_slots() {
    let Some(w) = world() else { return };
    let recipe = std::fs::read_to_string(w.project().join("sos.nix")).expect("read");
    w.write(
        "sos.nix",
        &recipe.replace("name = \"test\";", "name = \"a_b\";"),
    );
    device(&w, "device", LAYOUT);
    for (target, slot) in [(".#disk", "root-a"), (".#next", "root-b")] {
        w.sos(["provision", "apply", "device", target, "--yes"])
            .ok();
        let told = w.sos(["provision", "drift", "device", target]).ok().stdout;
        let version = if slot == "root-a" { 1 } else { 2 };
        assert!(
            told.contains(&format!("slot {slot}: version {version}, the recipe's")),
            "{told}"
        );
    }
}

#[test]
fn what_is_no_disk_is_not_called_a_missing_attribute() {
    let Some(w) = world() else { return };
    device(&w, "device", LAYOUT);
    for (target, says) in [
        (".#disk.uki", "`.#disk.uki` has no layout"),
        (".#plain.initrd", "`.#plain.initrd` has no layout"),
    ] {
        w.sos(["provision", "plan", "device", target])
            .fails(2)
            .says(&[says, "name a disk, as in `.#disk`", "`sos.ostreeDisk`"]);
    }
    let built = super::disk::build(&w, ".#disk.uki");
    w.sos(["provision", "plan", "device", &built])
        .fails(2)
        .says(&[
            "made for something else",
            &format!("`{built}` does not describe a disk"),
        ]);
    w.sos(["boot", "run", ".#nonsense", "--expect", "x"])
        .fails(3);
}

#[test]
fn what_somebody_uses_is_left_alone() {
    let Some(w) = world() else { return };
    let file = device(&w, "device", LAYOUT);
    w.sos(["provision", "apply", "device", ".#disk", "--yes"])
        .ok();
    // As a virtual machine does.
    let lock = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    rustix::fs::fcntl_lock(&file, lock).expect("a lock");
    let in_use = "`device` is in use: another process has locked it";
    w.sos(["provision", "apply", "device", ".#next", "--yes"])
        .fails(4)
        .says(&[in_use]);
    let plan = w.sos(["provision", "plan", "device", ".#next"]).ok().stdout;
    assert!(plan.starts_with(&format!("warning: {in_use}")), "{plan}");
    w.sos(["provision", "drift", "device", ".#disk"]).ok();
    if peer("qemu-system-x86_64").is_some() {
        w.sos(["boot", "run", "device", "--write", "--expect", "x"])
            .fails(4)
            .says(&[in_use, "two that write to one disk"]);
        // Without firmware, which not every machine has; QEMU looks itself where nothing is written.
        w.sos(["boot", "run", "device", "--bios", "--expect", "x"])
            .fails(4)
            .says(&["the image is in use", "QEMU says:"]);
    }
    drop(file);
    w.sos(["provision", "apply", "device", ".#next", "--yes"])
        .ok();
}

/// Root may write to what is in a store, and nothing else keeps it from that.
#[test]
fn what_is_in_a_store_or_of_somebody_else_is_not_written_over() {
    let Some(w) = world() else { return };
    w.sos(["build", "-o", "result", ".#disk"]).ok();
    let hash = || {
        let bytes = std::fs::read(w.project().join("result")).expect("read");
        blake3::hash(&bytes)
    };
    let before = hash();
    for more in [&[][..], &["--wipe"]] {
        let args = [
            &["provision", "apply", "result", ".#next", "--yes"][..],
            more,
        ]
        .concat();
        w.sos(args)
            .fails(4)
            .says(&["`result` is in the store at", "disk:FILE"]);
    }
    w.sos(["provision", "drift", "result", ".#disk"]).ok();
    if peer("qemu-system-x86_64").is_some() {
        let boot = |args: &[&str]| {
            let words = ["boot", "run", "--expect", "x", "--timeout", "2"];
            w.sos(words.iter().chain(args))
        };
        boot(&["result", "--write"])
            .fails(2)
            .says(&["error[boot-write]", "disk:FILE"]);
        w.write("precious", &"data".repeat(1 << 16));
        boot(&["result", "--vars", "precious"])
            .fails(2)
            .says(&["error[boot-vars]", "`precious` holds no variables"]);
        let kept = std::fs::read(w.project().join("precious")).expect("read");
        assert!(kept == "data".repeat(1 << 16).as_bytes());
        boot(&["result", "precious"])
            .fails(2)
            .says(&["error[boot-many]", "2 results"]);
        let pipe = w.project().join("pipe");
        run(std::process::Command::new("mkfifo").arg(&pipe)).ok();
        boot(&["pipe"])
            .fails(2)
            .says(&["`pipe` is nothing that starts"]);
    }
    assert_eq!(hash(), before);
}

#[test]
fn what_does_not_start_is_told_for_what_it_is() {
    let w = World::new();
    let boot = |args: &[&str]| {
        let words = ["boot", "run", "--expect", "x"];
        w.sos(words.iter().chain(args))
    };
    // Nothing is built for a machine that cannot start.
    w.write("sos.nix", "throw \"this is not looked at\"");
    let mut command = w.command_of(&["boot", "run", ".#disk"]);
    run(command.env("PATH", w.project())).fails(4).says(&[
        "`qemu-system-x86_64` cannot be started",
        "package `qemu-system-x86`",
    ]);
    if peer("qemu-system-x86_64").is_none() {
        return;
    }
    device(&w, "empty.raw", 4 * MIB);
    boot(&["empty.raw"]).fails(2).says(&[
        "`empty.raw` is nothing that starts",
        "no partition table",
        "disk:empty.raw",
    ]);
    // What would say nothing, or two things.
    let mut disk = vec![0; 4 << 20];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    std::fs::write(w.project().join("started"), disk).expect("written");
    boot(&["started", "--append", "quiet"])
        .fails(2)
        .says(&["boot-append", "this is none"]);
    boot(&["started", "--bios", "--uefi"])
        .fails(2)
        .says(&["cannot be used with"]);
    // A recipe is one, whatever is in it.
    boot(&["sos.nix"]).fails(3).says(&["this is not looked at"]);
    // QEMU's own words, not that a console showed nothing.
    let mut disk = vec![0; 1 << 20];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    std::fs::write(w.project().join("sector"), disk).expect("written");
    boot(&["sector", "--qemu=-nonsense"]).fails(1).says(&[
        "QEMU did not start the machine",
        "-nonsense: invalid option",
    ]);
}

#[test]
fn what_a_user_may_not_open_is_told_so() {
    let Some(mut w) = world() else { return };
    let Some(user) = User::new("open", false) else {
        return;
    };
    let _copy = w.with_program_for(&user);
    device(&w, "device", LAYOUT);
    let mode = |mode| {
        let place = w.project().join("device");
        std::fs::set_permissions(place, PermissionsExt::from_mode(mode)).expect("a mode");
    };
    let sos = |args: &[&str]| run(user.becomes(&mut w.command_of(args)));
    mode(0o600);
    let plan = ["provision", "plan", "device", ".#disk"];
    sos(&plan)
        .fails(4)
        .says(&["this user may not read `device`", "need root"]);
    let has_qemu = peer("qemu-system-x86_64").is_some();
    if has_qemu {
        sos(&["boot", "run", "device", "--expect", "x"])
            .fails(4)
            .says(&["cannot read `device`", "ls -l device"]);
    }
    mode(0o644);
    sos(&["provision", "apply", "device", ".#disk", "--yes"])
        .fails(4)
        .says(&["this user may not write to `device`"]);
    sos(&plan).ok();
    if has_qemu {
        w.sos(["provision", "apply", "device", ".#disk", "--yes"])
            .ok();
        sos(&["boot", "run", "device", "--write", "--expect", "x"])
            .fails(4)
            .says(&["cannot write to `device`", "without `--write`"]);
    }
}
