//! A file in the place of a device: made, updated, compared.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use sos_formats::uuid::Uuid;

use super::super::assemble::Format;
use super::*;
use crate::build::fake::Fake;
use crate::filesystem::Kind;
use crate::peers::{peer, said};

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

/// Version `version` of a system with two slots, whose roots are what the partition of the first one is copied from.
fn spec(version: &str) -> Spec {
    let entry = |slot: &str| {
        let root = Uuid::derived("test", slot);
        let mut files = BTreeMap::new();
        let body = format!(
            "title t\nversion {version}\nlinux /EFI/t/{version}-linux\noptions root=PARTUUID={root} ro\n"
        );
        files.insert(format!("loader/entries/t_{version}.conf"), text(&body));
        files.insert(
            format!("EFI/t/{version}-linux"),
            text(&format!("kernel {version}")),
        );
        files
    };
    let mut esp = partition("esp", "esp", 40 * MIB);
    esp.filesystem = Some(Format::Vfat);
    esp.files = entry("root-a");
    esp.files
        .insert("EFI/BOOT/BOOTX64.EFI".to_owned(), text("loader"));
    Spec {
        image: "t".to_owned(),
        version: version.to_owned(),
        uuid: Uuid::derived("test", "disk").to_string(),
        size: None,
        epoch: 1_700_000_000,
        partitions: vec![
            esp,
            partition("root-a", "root", 8 * MIB),
            partition("root-b", "root", 8 * MIB),
        ],
        slots: ["root-a", "root-b"]
            .map(|name| Slot {
                name: name.to_owned(),
                files: entry(name),
                images: BTreeMap::new(),
            })
            .to_vec(),
        root: String::new(),
        filesystem: Kind::Squashfs,
        tries: 3,
    }
}

struct World {
    fake: Fake,
    path: PathBuf,
}

impl World {
    fn new() -> Self {
        let fake = Fake::new();
        let path = fake.path("device");
        File::create_new(&path)
            .and_then(|file| file.set_len(64 * MIB))
            .expect("a device");
        Self { fake, path }
    }

    fn device(&self) -> Device {
        Device::open(&self.path, true).expect("a device")
    }

    fn plan(&self, spec: &Spec, running: &str) -> Plan {
        plan(spec, &self.device(), running, false).expect("a plan")
    }

    fn apply(&self, spec: &Spec, plan: &Plan) {
        let sources = Sources {
            store: &self.fake.store,
            cores: 1,
            told: &|_| {},
        };
        // A root filesystem is written by tests with whole systems; here only what is around it.
        let plan = Plan {
            steps: plan
                .steps
                .iter()
                .filter(|step| plan.wipes || !matches!(step, Step::Partition { .. }))
                .cloned()
                .collect(),
            ..plan.clone()
        };
        apply(&sources, spec, &self.device(), &plan).expect("done");
    }

    fn drift(&self, spec: &Spec) -> Vec<String> {
        let sources = Sources {
            store: &self.fake.store,
            cores: 1,
            told: &|_| {},
        };
        let mut spec = spec.clone();
        // Of a root that may be written to nothing is compared.
        spec.filesystem = Kind::Ext4;
        let found = drift(&sources, &spec, &self.device()).expect("compared");
        found.iter().map(ToString::to_string).collect()
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
        let mut bytes = vec![0; usize::try_from(esp.size()).expect("small")];
        File::open(&self.path)
            .and_then(|f| f.read_exact_at(&mut bytes, esp.offset()))
            .expect("read");
        let volume = self.fake.path("esp");
        fs::write(&volume, bytes).expect("written");
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
        ["version 2: is missing; version 1 is there"]
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
            .any(|d| d.contains("version 2 and 3") || d.contains("version 3 and 2")),
        "{drift:?}"
    );
}

#[test]
fn what_failed_is_replaced_and_what_runs_is_not() {
    let w = World::new();
    w.apply(&spec("1"), &w.plan(&spec("1"), ""));
    w.apply(&spec("2"), &w.plan(&spec("2"), ""));
    // The loader has used the second version up, and the first one runs.
    let device = w.device();
    let table = device.table().expect("read").expect("a table");
    let volume = volume::Volume::open(&device, &table.partitions[0]).expect("a volume");
    let bytes = volume
        .read("loader/entries/t_2+3.conf")
        .expect("read")
        .expect("there");
    volume.remove("loader/entries/t_2+3.conf").expect("removed");
    volume
        .write("loader/entries/t_2+0-3.conf", &mut &bytes[..])
        .expect("written");
    volume.close().expect("closed");
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
fn what_is_on_a_device_is_not_lost_by_mistake() {
    let w = World::new();
    File::options()
        .write(true)
        .open(&w.path)
        .and_then(|f| f.write_all_at(b"data", 4096))
        .expect("written");
    let error = plan(&spec("1"), &w.device(), "", false).expect_err("refused");
    assert!(format!("{error:?}").contains("provision-not-blank"));
    assert!(
        plan(&spec("1"), &w.device(), "", true)
            .expect("a plan")
            .wipes
    );
    // Somebody else's table.
    let w = World::new();
    let mut other = spec("1");
    for partition in &mut other.partitions {
        partition.uuid = Uuid::derived("other", &partition.name).to_string();
    }
    w.apply(&other, &w.plan(&other, ""));
    let error = plan(&spec("1"), &w.device(), "", false).expect_err("refused");
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
