//! What will be done to a device.

use std::fmt;

use sos_engine::BuilderError;
use sos_formats::gpt::Table;
use sos_formats::uuid::Uuid;

use super::apply::of_partition;
use super::device::Device;
use super::entries::{Entry, counted, root_of};
use super::volume::Volume;
use super::{Slot, Spec, refused};

/// One thing that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Everything on the device goes, and a partition table comes.
    Table {
        /// Names of the partitions.
        partitions: Vec<String>,
    },
    /// The content of a partition is replaced.
    Partition {
        /// Its name.
        name: String,
        /// What it is replaced by.
        with: String,
    },
    /// A file goes from the EFI system partition.
    Remove {
        /// Its path.
        path: String,
    },
    /// A file comes to the EFI system partition.
    File {
        /// Its path.
        path: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table { partitions } => {
                write!(f, "make a new partition table: {}", partitions.join(", "))
            }
            Self::Partition { name, with } => write!(f, "write {with} to the partition `{name}`"),
            Self::Remove { path } => write!(f, "remove `{path}` from the EFI system partition"),
            Self::File { path } => write!(f, "write `{path}` to the EFI system partition"),
        }
    }
}

/// What is done, in order; nothing when the device has the version already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
    /// Whether everything on the device is lost.
    pub wipes: bool,
    /// The slot that gets the new version.
    pub slot: Option<String>,
}

/// Looks at a device and decides what is to be done. `running` is the command line of the kernel of this machine, whose root is
/// never touched; with `wipe` whatever is on the device goes.
///
/// # Errors
/// When the device has something else on it, or no slot is free.
pub fn plan(spec: &Spec, device: &Device, running: &str, wipe: bool) -> Result<Plan, BuilderError> {
    let table = if wipe { None } else { device.table()? };
    let Some(table) = table else {
        if !wipe && !device.is_blank()? {
            let message = format!(
                "`{}` has no partition table, but it is not empty",
                device.path.display()
            );
            return Err(refused("provision-not-blank", message)
                .help("`--wipe` takes it all the same; everything on it is lost")
                .into());
        }
        return Ok(first(spec));
    };
    let missing = spec
        .partitions
        .iter()
        .find(|partition| of_partition(&table, &partition.uuid).is_none());
    if let Some(missing) = missing {
        let message = format!(
            "`{}` has another layout: there is no partition `{}` with the id {}",
            device.path.display(),
            missing.name,
            missing.uuid
        );
        return Err(refused("provision-other-layout", message)
            .note(format!("it has {}", names(&table)))
            .help("`sos provision drift` compares the two; `--wipe` makes the layout anew, and everything on the disk is lost")
            .into());
    }
    update(spec, device, &table, running)
}

fn names(table: &Table) -> String {
    let names: Vec<String> = table
        .partitions
        .iter()
        .map(|p| format!("`{}`", p.name))
        .collect();
    if names.is_empty() {
        "no partitions".to_owned()
    } else {
        names.join(", ")
    }
}

fn first(spec: &Spec) -> Plan {
    let partitions = spec.partitions.iter();
    let mut steps = vec![Step::Table {
        partitions: partitions.clone().map(|p| p.name.clone()).collect(),
    }];
    for partition in partitions {
        let with = match (&partition.filesystem, &partition.rootfs, &partition.image) {
            (_, _, Some(image)) => format!("`{image}`"),
            (Some(_), Some(_), _) => format!("{} {}", spec.image, spec.version),
            (Some(_), None, _) if partition.files.is_empty() => "an empty file system".to_owned(),
            (Some(_), None, _) => "the boot loader and its files".to_owned(),
            (None, ..) => continue,
        };
        steps.push(Step::Partition {
            name: partition.name.clone(),
            with,
        });
    }
    Plan {
        steps,
        wipes: true,
        slot: None,
    }
}

fn update(
    spec: &Spec,
    device: &Device,
    table: &Table,
    running: &str,
) -> Result<Plan, BuilderError> {
    let esp = super::apply::esp_of(spec, table)?;
    let volume = Volume::open(device, esp)?;
    let entries = Entry::of(&volume, &spec.image)?;
    let id = format!("{}_{}", spec.image, spec.version);
    let current = entries
        .iter()
        .find(|entry| entry.id == id && entry.left != Some(0));
    if let Some(current) = current
        && current.root.is_some_and(|root| {
            spec.slots
                .iter()
                .any(|slot| root_id(table, spec, slot) == Some(root))
        })
    {
        return Ok(Plan::default());
    }
    let (slot, going) = free_slot(spec, table, &entries, running)?;
    let mut steps: Vec<Step> = Vec::new();
    // What starts the old content goes before the content does.
    for entry in going {
        steps.push(Step::Remove {
            path: entry.path.clone(),
        });
    }
    for entry in going_files(&entries, slot, spec, table) {
        steps.push(Step::Remove { path: entry });
    }
    let version = format!("{} {}", spec.image, spec.version);
    steps.push(Step::Partition {
        name: slot.name.clone(),
        with: version.clone(),
    });
    let beside = slot.images.keys().filter(|name| **name != slot.name);
    steps.extend(beside.map(|name| Step::Partition {
        name: name.clone(),
        with: format!("the hashes of {version}"),
    }));
    // The entry itself comes last: until then nothing starts the new version.
    let (mut last, mut others) = (Vec::new(), Vec::new());
    for path in slot.files.keys() {
        match counted(path, spec.tries) {
            Some(path) => last.push(Step::File { path }),
            None => others.push(Step::File { path: path.clone() }),
        }
    }
    steps.extend(others);
    steps.extend(last);
    Ok(Plan {
        steps,
        wipes: false,
        slot: Some(slot.name.clone()),
    })
}

/// The id of the partition of a slot.
pub(super) fn root_id(table: &Table, spec: &Spec, slot: &Slot) -> Option<Uuid> {
    let partition = spec
        .partitions
        .iter()
        .find(|partition| partition.name == slot.name)?;
    of_partition(table, &partition.uuid).map(|partition| partition.uuid)
}

/// A slot that is not running and that no entry needs, else the one whose entry the loader likes least; and the entries that go.
fn free_slot<'a>(
    spec: &'a Spec,
    table: &Table,
    entries: &'a [Entry],
    running: &str,
) -> Result<(&'a Slot, Vec<&'a Entry>), BuilderError> {
    let running = root_of(running);
    let best = entries
        .iter()
        .filter(|entry| entry.left != Some(0))
        .max_by(|a, b| a.compare(b));
    let mut candidates: Vec<(&Slot, Vec<&Entry>)> = Vec::new();
    for slot in &spec.slots {
        let Some(root) = root_id(table, spec, slot) else {
            continue;
        };
        let own: Vec<&Entry> = entries
            .iter()
            .filter(|entry| entry.root == Some(root))
            .collect();
        let is_running = running == Some(root);
        // While something else runs from this disk, what is best may be what just failed.
        let is_best = running.is_none() && best.is_some_and(|best| best.root == Some(root));
        if !is_running && !is_best {
            candidates.push((slot, own));
        }
    }
    candidates.sort_by_key(|(_, own)| own.iter().filter(|entry| entry.left != Some(0)).count());
    candidates.into_iter().next().ok_or_else(|| {
        refused(
            "provision-no-slot",
            "there is no slot for another version beside the one that starts now",
        )
        .help("a layout with two slots has room: `slots = 2` and `root-size` in `[disk]`")
        .into()
    })
}

/// Kernels and initrds that only entries of this slot name.
fn going_files(entries: &[Entry], slot: &Slot, spec: &Spec, table: &Table) -> Vec<String> {
    let root = root_id(table, spec, slot);
    let (going, staying): (Vec<&Entry>, Vec<&Entry>) =
        entries.iter().partition(|entry| entry.root == root);
    let mut files: Vec<String> = going
        .iter()
        .flat_map(|entry| &entry.files)
        .filter(|file| !staying.iter().any(|entry| entry.files.contains(file)))
        .cloned()
        .collect();
    files.sort_unstable();
    files.dedup();
    files
}
