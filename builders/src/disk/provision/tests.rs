//! A file in the place of a device: made, updated, compared.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use sos_formats::manifest::Meta;
use sos_formats::uuid::Uuid;
use sos_store::rootfs::RootTree;

use super::super::assemble::Format;
use super::apply::apply;
use super::drift::drift;
use super::plan::plan;
use super::*;
use crate::build::fake::Fake;
use crate::filesystem::Kind;
use crate::peers::{peer, said};

mod device;
mod kept;
mod room;
mod stopped;

const MIB: u64 = 1 << 20;

fn partition(name: &str, kind: &str, size: u64) -> PartitionAttrs {
    PartitionAttrs {
        name: name.to_owned(),
        kind: kind.to_owned(),
        uuid: Uuid::derived("test", name).to_string(),
        size: Some(size),
        filesystem_uuid: Uuid::derived("test", &format!("{name} fs")).to_string(),
        ..PartitionAttrs::default()
    }
}

fn text(text: &str) -> FileFrom {
    FileFrom::Text {
        text: text.to_owned(),
    }
}

/// Version `version` of a system with two slots.
fn spec(version: &str) -> Spec {
    named("t", version)
}

/// The same of a system with a name.
fn named(image: &str, version: &str) -> Spec {
    let entry = |slot: &str| {
        let root = Uuid::derived("test", slot);
        let mut files = BTreeMap::new();
        let body = format!(
            "title t\nversion {version}\nlinux /EFI/{image}/{version}-linux\noptions root=PARTUUID={root} ro\n"
        );
        files.insert(
            format!("loader/entries/{image}_{version}.conf"),
            text(&body),
        );
        files.insert(
            format!("EFI/{image}/{version}-linux"),
            text(&format!("kernel {version}")),
        );
        files
    };
    let mut root = partition("root-a", "root", 8 * MIB);
    root.filesystem = Some(Format::Root(Kind::Squashfs));
    root.rootfs = Some(format!("root {version}"));
    let mut esp = partition("esp", "esp", 40 * MIB);
    esp.filesystem = Some(Format::Vfat);
    esp.files = entry("root-a");
    esp.files
        .insert("EFI/BOOT/BOOTX64.EFI".to_owned(), text("loader"));
    Spec {
        image: image.to_owned(),
        version: version.to_owned(),
        uuid: Uuid::derived("test", "disk").to_string(),
        size: None,
        epoch: 1_700_000_000,
        partitions: vec![esp, root, partition("root-b", "root", 8 * MIB)],
        slots: ["root-a", "root-b"]
            .map(|name| Slot {
                name: name.to_owned(),
                files: entry(name),
                images: BTreeMap::new(),
            })
            .to_vec(),
        root: format!("root {version}"),
        filesystem: Kind::Squashfs,
        tries: 3,
    }
}

/// What is told of a damage, the damage, and the step that repairs it.
type Case<'a> = (&'a str, Box<dyn Fn() + 'a>, Step);

struct World {
    fake: Fake,
    path: PathBuf,
}

impl World {
    fn new() -> Self {
        let mut fake = Fake::new();
        for version in ["1", "2", "3"] {
            let meta = Meta {
                mode: 0o755,
                ..Meta::default()
            };
            let mut tree = RootTree::empty_in(&fake.store, meta.clone());
            let text = format!("version {version}").into_bytes();
            tree.write_file("motd", text, meta).expect("a file");
            let id = tree.finish(&fake.store).expect("a root");
            fake.roots.insert(format!("root {version}"), id);
        }
        let path = fake.path("device");
        File::create_new(&path)
            .and_then(|file| file.set_len(64 * MIB))
            .expect("a device");
        Self { fake, path }
    }

    fn device(&self) -> Device {
        loop {
            match Device::open(&self.path, true) {
                Ok(device) => return device,
                // A process that another test starts has the lock until it is the other program.
                Err(BuilderError::Diagnostic(problem)) if problem.code == "provision-in-use" => {
                    std::thread::yield_now();
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    fn plan(&self, spec: &Spec, running: &str) -> Plan {
        let wish = Wish {
            running,
            ..Wish::default()
        };
        plan(&self.fake, spec, &self.device(), wish).expect("a plan")
    }

    fn apply(&self, spec: &Spec, plan: &Plan) {
        apply(&self.fake, spec, &self.device(), plan, None).expect("done");
    }

    fn drift(&self, spec: &Spec) -> Vec<String> {
        let differences = self.report(spec).differences;
        differences.iter().map(ToString::to_string).collect()
    }

    fn report(&self, spec: &Spec) -> Report {
        drift(&self.fake, spec, &self.device()).expect("compared")
    }

    fn slots(&self, spec: &Spec) -> Vec<String> {
        let slots = self.report(spec).slots;
        slots.iter().map(ToString::to_string).collect()
    }

    /// What is said of a plan that cannot be carried out: message, notes and advice.
    fn refusal(&self, spec: &Spec) -> String {
        let before = fs::read(&self.path).expect("read");
        let error = plan(&self.fake, spec, &self.device(), Wish::default()).expect_err("refused");
        assert!(fs::read(&self.path).expect("read") == before);
        let BuilderError::Diagnostic(problem) = error else {
            panic!("{error:?}");
        };
        assert_eq!(
            (problem.code, problem.class),
            ("provision-small", Class::Machine)
        );
        let lines = [&[problem.message][..], &problem.notes, &problem.helps].concat();
        lines.join("\n")
    }

    fn change(&self, offset: u64, bytes: &[u8]) {
        let file = File::options().write(true).open(&self.path);
        file.and_then(|file| file.write_all_at(bytes, offset))
            .expect("written");
    }

    /// Where a partition begins.
    fn offset(&self, name: &str) -> u64 {
        let table = self.device().table().expect("read").expect("a table");
        let mut partitions = table.partitions.iter();
        let found = partitions.find(|one| one.name == name);
        found.expect("a partition").offset()
    }

    /// Works on the EFI system partition.
    fn on_esp<T>(&self, work: impl FnOnce(&volume::Volume) -> T) -> T {
        let device = self.device();
        let table = device.table().expect("read").expect("a table");
        let volume = volume::Volume::open(&device, &table.partitions[0]).expect("a volume");
        let done = work(&volume);
        volume.close().expect("closed");
        done
    }

    fn rename(&self, from: &str, to: &str) {
        self.on_esp(|volume| {
            let bytes = volume.read(from).expect("read").expect("there");
            volume.remove(from).expect("removed");
            volume.write(to, &mut &bytes[..]).expect("written");
        });
    }

    /// What is on the device but for zeros, in pieces of 64 KiB.
    fn data(&self) -> Vec<(u64, Vec<u8>)> {
        const PIECE: u32 = 64 << 10;
        let piece = u64::from(PIECE);
        let file = File::open(&self.path).expect("the device");
        let mut found = Vec::new();
        let mut at = 0;
        while let Ok(next) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
            at = next - next % piece;
            let mut bytes = vec![0; PIECE as usize];
            let count = file.read_at(&mut bytes, at).expect("read");
            bytes.truncate(count);
            if bytes.iter().any(|byte| *byte != 0) {
                found.push((at, bytes));
            }
            at += piece;
        }
        found
    }

    /// Makes the device what it was.
    fn restore(&self, data: &[(u64, Vec<u8>)]) {
        let file = File::options().write(true).open(&self.path);
        let file = file.expect("the device");
        let len = file.metadata().expect("a look").len();
        file.set_len(0)
            .and_then(|()| file.set_len(len))
            .expect("empty");
        for (at, bytes) in data {
            file.write_all_at(bytes, *at).expect("written");
        }
    }

    fn is_sound(&self) {
        let path = self.path.to_str().expect("plain");
        if let Some(output) = peer("sgdisk", &["-v", path]) {
            assert!(
                said(&output).contains("No problems found"),
                "{}",
                said(&output)
            );
        }
        let table = self.device().table().expect("read").expect("a table");
        let esp = &table.partitions[0];
        let volume = self.fake.path("esp");
        let file = File::create(&volume).expect("made");
        file.set_len(esp.size()).expect("a length");
        for (at, bytes) in self.data() {
            let end = esp.offset() + esp.size();
            if (esp.offset()..end).contains(&at) {
                file.write_all_at(&bytes, at - esp.offset())
                    .expect("written");
            }
        }
        if let Some(output) = peer("fsck.vfat", &["-n", volume.to_str().expect("plain")]) {
            assert!(output.status.success(), "{}", said(&output));
        }
    }

    fn listed(&self, dir: &str) -> Vec<String> {
        let at = format!("{}@@1M", self.path.display());
        let output = peer("mdir", &["-b", "-i", &at, &format!("::{dir}")]);
        let said = output.map(|o| said(&o)).unwrap_or_default();
        said.lines()
            .map(|line| line.trim_start_matches("::/").to_owned())
            .collect()
    }
}

#[test]
fn an_empty_device_gets_the_layout_and_then_versions_in_turn() {
    let w = World::new();
    let first = w.plan(&spec("1"), "");
    assert!(first.wipes);
    w.apply(&spec("1"), &first);
    w.is_sound();
    assert!(w.drift(&spec("1")).is_empty(), "{:?}", w.drift(&spec("1")));
    assert_eq!(w.plan(&spec("1"), ""), Plan::default());

    let second = w.plan(&spec("2"), "");
    assert_eq!(second.slot.as_deref(), Some("root-b"));
    assert_eq!(
        second.steps.last(),
        Some(&Step::File {
            path: "loader/entries/t_2+3.conf".to_owned()
        })
    );
    assert_eq!(
        w.drift(&spec("2")),
        ["version 2: is in no slot; version 1 is there"]
    );
    w.apply(&spec("2"), &second);
    w.is_sound();
    let listed = w.listed("loader/entries");
    if !listed.is_empty() {
        assert!(
            listed.iter().any(|l| l.ends_with("t_1.conf"))
                && listed.iter().any(|l| l.ends_with("t_2+3.conf")),
            "{listed:?}"
        );
    }
    assert!(w.drift(&spec("2")).is_empty());

    // From the second version the third goes over the first.
    let running = format!("root=PARTUUID={}", Uuid::derived("test", "root-b"));
    let third = w.plan(&spec("3"), &running);
    assert_eq!(third.slot.as_deref(), Some("root-a"));
    assert!(
        third.steps.contains(&Step::Remove {
            path: "EFI/t/1-linux".to_owned()
        }),
        "{third:?}"
    );
    w.apply(&spec("3"), &third);
    w.is_sound();
    let drift = w.drift(&spec("1"));
    assert!(
        drift
            .iter()
            .any(|d| d.contains("versions 2 and 3") || d.contains("versions 3 and 2")),
        "{drift:?}"
    );
}

#[test]
fn what_failed_is_replaced_and_what_runs_is_not() {
    let w = World::new();
    w.apply(&spec("1"), &w.plan(&spec("1"), ""));
    w.apply(&spec("2"), &w.plan(&spec("2"), ""));
    // The loader has used the second version up, and the first one runs.
    w.rename("loader/entries/t_2+3.conf", "loader/entries/t_2+0-3.conf");
    let drift = w.drift(&spec("2"));
    assert!(
        drift.iter().any(|d| d.contains("did not start")),
        "{drift:?}"
    );
    let next = w.plan(&spec("3"), "");
    assert_eq!(next.slot.as_deref(), Some("root-b"));
    assert!(next.steps.contains(&Step::Remove {
        path: "loader/entries/t_2+0-3.conf".to_owned()
    }));
}

#[test]
fn a_version_that_works_is_lost_last() {
    let w = World::new();
    w.apply(&spec("1"), &w.plan(&spec("1"), ""));
    w.apply(&spec("2"), &w.plan(&spec("2"), ""));
    // The second one was never started, nor is this machine one of its roots.
    let other = format!("root=PARTUUID={}", Uuid::derived("test", "elsewhere"));
    for running in ["", &other] {
        let third = w.plan(&spec("3"), running);
        assert_eq!(third.slot.as_deref(), Some("root-b"));
        assert_eq!(
            third.notes,
            ["`root-b` is written over: t 2, which has not proven itself yet; what stays: t 1"]
        );
    }
    // It works: now the first one is older.
    w.rename("loader/entries/t_2+3.conf", "loader/entries/t_2.conf");
    let third = w.plan(&spec("3"), "");
    assert_eq!(third.slot.as_deref(), Some("root-a"));
    assert_eq!(
        third.notes,
        ["`root-a` is written over: t 1; what stays: t 2"]
    );
    w.apply(&spec("3"), &third);
    // What runs stays, whatever its name says.
    let running = format!("root=PARTUUID={}", Uuid::derived("test", "root-a"));
    let again = w.plan(&spec("1"), &running);
    assert_eq!(again.slot.as_deref(), Some("root-b"));
}

#[test]
fn what_differs_is_told_and_repaired() {
    let w = World::new();
    w.apply(&spec("1"), &w.plan(&spec("1"), ""));
    w.apply(&spec("2"), &w.plan(&spec("2"), ""));
    let spec = spec("2");
    let loader = "EFI/BOOT/BOOTX64.EFI";
    let (kernel, entry) = ("EFI/t/2-linux", "loader/entries/t_2+3.conf");
    let write = |path: &str| {
        w.on_esp(|volume| volume.write(path, &mut &b"other"[..]).expect("written"));
    };
    let file = |path: &str| Step::File {
        path: path.to_owned(),
    };
    let partition = Step::Partition {
        name: "root-b".to_owned(),
        with: "t 2".to_owned(),
    };
    let root = w.offset("root-b");
    let cases: Vec<Case<'_>> = vec![
        (
            "EFI/BOOT/BOOTX64.EFI: has other",
            Box::new(|| write(loader)),
            file(loader),
        ),
        (
            "EFI/t/2-linux: has other",
            Box::new(|| write(kernel)),
            file(kernel),
        ),
        (
            "EFI/t/2-linux: is missing",
            Box::new(|| w.on_esp(|volume| volume.remove(kernel).expect("removed"))),
            file(kernel),
        ),
        (
            "loader/entries/t_2.conf: has other",
            Box::new(|| {
                let text = format!("options root=PARTUUID={}", Uuid::derived("test", "root-b"));
                w.on_esp(|volume| volume.write(entry, &mut text.as_bytes()).expect("written"));
            }),
            file(entry),
        ),
        (
            "root-b: has other content from byte 5 on",
            Box::new(|| w.change(root + 5, &[0xff])),
            partition,
        ),
        (
            "the device: the first copy",
            Box::new(|| w.change(512, &[0; 512])),
            Step::Mend,
        ),
        (
            "the device: the second copy",
            Box::new(|| w.change(64 * MIB - 512, &[0; 512])),
            Step::Mend,
        ),
    ];
    for (told, damage, step) in cases {
        damage();
        let found = w.drift(&spec);
        assert!(found.len() == 1 && found[0].starts_with(told), "{found:?}");
        let plan = w.plan(&spec, "");
        assert_eq!(plan.steps, [step], "{told}");
        w.apply(&spec, &plan);
        assert!(w.drift(&spec).is_empty(), "{told}: {:?}", w.drift(&spec));
        w.is_sound();
    }
    // What all versions have in common comes with the next one too.
    write(loader);
    let third = w.plan(&self::spec("3"), "");
    assert_eq!(third.steps.first(), Some(&file(loader)));
    // A machine does not write over its own root.
    w.change(root + 5, &[0xff]);
    let running = format!("root=PARTUUID={}", Uuid::derived("test", "root-b"));
    let plan = w.plan(&spec, &running);
    assert_eq!(plan.steps, [file(loader)]);
    assert!(plan.left.len() == 1 && plan.left[0].contains("runs from it: raise `version`"));
    // And starts it with what belongs to it.
    write(entry);
    assert_eq!(w.plan(&spec, &running).steps, [file(loader)]);
}

#[test]
fn a_root_that_is_written_to_is_known_by_its_superblock() {
    let w = World::new();
    let ext4 = |version: &str| {
        let mut spec = spec(version);
        spec.filesystem = Kind::Ext4;
        spec.partitions[1].filesystem = Some(Format::Root(Kind::Ext4));
        spec
    };
    w.apply(&ext4("1"), &w.plan(&ext4("1"), ""));
    assert!(w.drift(&ext4("1")).is_empty(), "{:?}", w.drift(&ext4("1")));
    let report = w.report(&ext4("1"));
    assert!(
        report.not_compared[0].contains("files in `root-a` and `root-b`"),
        "{report:?}"
    );
    let root = w.offset("root-a");
    // Another label and id: it may be somebody's.
    w.change(root + 1024 + 0x78, b"mine");
    let plan = w.plan(&ext4("1"), "");
    assert_eq!(
        w.drift(&ext4("1")),
        ["root-a: has the label `mine` instead of ``"]
    );
    assert!(plan.steps.is_empty() && plan.left.len() == 1, "{plan:?}");
    w.change(root + 1024 + 0x68, &[7; 16]);
    assert_eq!(w.drift(&ext4("1")).len(), 2);
    w.change(root + 1024, &[0; 1024]);
    assert_eq!(
        w.drift(&ext4("1")),
        ["root-a: has no file system ext4: its superblock is gone"]
    );
    // Where another version is wanted, this one is told but not brought back.
    let next = w.plan(&ext4("2"), "");
    assert_eq!((next.slot.as_deref(), next.left.len()), (Some("root-b"), 1));
    w.apply(&ext4("1"), &w.plan(&ext4("1"), ""));
    assert!(w.drift(&ext4("1")).is_empty());
}

#[test]
fn a_layout_that_nothing_starts_has_no_versions_to_miss() {
    let w = World::new();
    let mut plain = spec("1");
    for slot in &mut plain.slots {
        slot.files.clear();
    }
    plain.partitions[0].files.clear();
    w.apply(&plain, &w.plan(&plain, ""));
    let report = w.report(&plain);
    assert!(
        report.differences.is_empty() && report.slots.is_empty(),
        "{report:?}"
    );
    assert!(
        report.not_compared[0].contains("which version is where"),
        "{report:?}"
    );
}

#[test]
fn the_versions_in_the_slots_are_told() {
    let w = World::new();
    w.apply(&spec("1"), &w.plan(&spec("1"), ""));
    assert_eq!(
        w.slots(&spec("1")),
        [
            "slot root-a: version 1, the recipe's; starts next",
            "slot root-b: no version"
        ]
    );
    w.apply(&spec("2"), &w.plan(&spec("2"), ""));
    let second = "slot root-b: version 2, the recipe's; not proven yet, 3 starts left; starts next";
    assert_eq!(w.slots(&spec("2")), ["slot root-a: version 1", second]);
    assert!(w.drift(&spec("2")).is_empty());
    // What is in the other slot is not looked at, and that is said.
    let left = w.report(&spec("2")).not_compared;
    assert!(
        left[0].contains("`root-a`") && left[0].contains("version 1"),
        "{left:?}"
    );
    // The first version is there, but it is not what starts.
    assert_eq!(
        w.drift(&spec("1")),
        ["version 1: is there, and version 2 starts in its place"]
    );
    let plan = w.plan(&spec("1"), "");
    assert!(plan.steps.is_empty(), "{plan:?}");
    assert!(
        plan.left[0].contains("give the recipe a higher one"),
        "{plan:?}"
    );
    assert_eq!(
        w.drift(&spec("3")),
        ["version 3: is in no slot; versions 1 and 2 are there"]
    );
    // Once it has used its starts up, the first one does.
    w.rename("loader/entries/t_2+3.conf", "loader/entries/t_2+0-3.conf");
    assert!(w.drift(&spec("1")).is_empty(), "{:?}", w.drift(&spec("1")));
    assert_eq!(
        w.slots(&spec("1")),
        [
            "slot root-a: version 1, the recipe's; starts next",
            "slot root-b: version 2; it did not start"
        ]
    );
}

#[test]
fn a_system_may_have_any_name() {
    for image in ["a_b", "a_2_b", "a+b", "a+3-b", "a+3", "a.b=c"] {
        let w = World::new();
        let spec = |version: &str| named(image, version);
        w.apply(&spec("1"), &w.plan(&spec("1"), ""));
        assert!(w.drift(&spec("1")).is_empty(), "{:?}", w.drift(&spec("1")));
        let second = w.plan(&spec("2"), "");
        assert_eq!(second.slot.as_deref(), Some("root-b"), "{image}");
        w.apply(&spec("2"), &second);
        assert!(w.drift(&spec("2")).is_empty(), "{:?}", w.drift(&spec("2")));
        assert_eq!(w.slots(&spec("2"))[0], "slot root-a: version 1", "{image}");
        // The second did not start: the first one stays.
        let entry = |counter: &str| format!("loader/entries/{image}_2{counter}.conf");
        w.rename(&entry("+3"), &entry("+0-3"));
        let third = w.plan(&spec("3"), "");
        assert_eq!(third.slot.as_deref(), Some("root-b"), "{image}");
        let note = format!(
            "`root-b` is written over: {image} 2, which did not start; what stays: {image} 1"
        );
        assert_eq!(third.notes, [note]);
        w.apply(&spec("3"), &third);
        assert!(w.drift(&spec("3")).is_empty(), "{:?}", w.drift(&spec("3")));
        w.is_sound();
    }
}

#[test]
fn names_have_no_letters_of_two_sizes() {
    let w = World::new();
    w.apply(&spec("1"), &w.plan(&spec("1"), ""));
    w.rename("loader/entries/t_1.conf", "loader/entries/T_1.CONF");
    assert!(w.drift(&spec("1")).is_empty(), "{:?}", w.drift(&spec("1")));
    assert_eq!(w.plan(&spec("1"), ""), Plan::default());
    let next = w.plan(&spec("2"), "");
    assert_eq!(next.slot.as_deref(), Some("root-b"));
    w.apply(&spec("2"), &next);
    w.rename("loader/entries/t_2+3.conf", "LOADER/ENTRIES/T_2.CONF");
    let third = w.plan(&spec("3"), "");
    assert!(
        third.steps.contains(&Step::Remove {
            path: "loader/entries/T_1.CONF".to_owned()
        }),
        "{third:?}"
    );
}

#[test]
fn what_is_on_a_device_is_not_lost_by_mistake() {
    let w = World::new();
    File::options()
        .write(true)
        .open(&w.path)
        .and_then(|f| f.write_all_at(b"data", 4096))
        .expect("written");
    let error = plan(&w.fake, &spec("1"), &w.device(), Wish::default()).expect_err("refused");
    assert!(format!("{error:?}").contains("provision-not-blank"));
    let wipe = Wish {
        wipe: true,
        ..Wish::default()
    };
    let wiped = plan(&w.fake, &spec("1"), &w.device(), wipe).expect("a plan");
    assert!(wiped.wipes);
    // Somebody else's table.
    let w = World::new();
    let mut other = spec("1");
    for partition in &mut other.partitions {
        partition.uuid = Uuid::derived("other", &partition.name).to_string();
    }
    w.apply(&other, &w.plan(&other, ""));
    let error = plan(&w.fake, &spec("1"), &w.device(), Wish::default()).expect_err("refused");
    assert!(format!("{error:?}").contains("provision-other-layout"));
    assert!(!w.drift(&spec("1")).is_empty());
    for (path, code) in [("missing", "there is no"), ("small", "which is no disk")] {
        let path = w.fake.path(path);
        if code.starts_with("which") {
            fs::write(&path, "x").expect("written");
        }
        assert!(format!("{:?}", Device::open(&path, false).expect_err("refused")).contains(code));
    }
}
