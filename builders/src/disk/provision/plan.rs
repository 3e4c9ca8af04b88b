//! What will be done to a device.

use std::fmt;
use std::io::Read as _;

use sos_engine::BuilderError;
use sos_formats::gpt::Table;
use sos_formats::uuid::Uuid;

use super::super::{esp, sign};
use super::apply::{esp_of, of_partition};
use super::device::Device;
use super::drift::{Difference, Repair, drift};
use super::entries::{Entry, counted, leftovers, root_of, same, uncounted};
use super::slots::{free_slot, is_blank, root_id};
use super::volume::Volume;
use super::{Slot, Spec, kept, refused, report, room, slots};
use crate::build::Build;

/// One thing that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Everything on the device goes, and a partition table comes.
    Table {
        /// Names of the partitions.
        partitions: Vec<String>,
    },
    /// The copies of the partition table are written from the sound one.
    Mend,
    /// The disk gets an id, in both copies of the partition table.
    Identify {
        /// Its new id.
        id: Uuid,
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
    /// A file of the EFI system partition that has the name of its draft gets its own.
    Finish {
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
            Self::Mend => write!(
                f,
                "write both copies of the partition table from the sound one"
            ),
            Self::Identify { id } => {
                write!(
                    f,
                    "give the disk the id {id} in both copies of the partition table"
                )
            }
            Self::Partition { name, with } => write!(f, "write {with} to the partition `{name}`"),
            Self::Remove { path } => write!(f, "remove `{path}` from the EFI system partition"),
            Self::Finish { path } => write!(
                f,
                "give `{path}`, of which a stopped update has left the whole draft, its name on the EFI system partition"
            ),
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
    /// The slot that gets the new version, or has it.
    pub slot: Option<String>,
    /// What is good to know beforehand, such as what is lost with a slot.
    pub notes: Vec<String>,
    /// Differences that no step changes, and why.
    pub left: Vec<String>,
}

/// How a device is looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish<'a> {
    /// The command line of the kernel of this machine, whose root is never touched.
    pub running: &'a str,
    /// Whether whatever is on the device goes.
    pub wipe: bool,
    /// Whether EFI programs will be signed as they are written.
    pub signs: bool,
    /// Whether a root that has started is written over where it differs, because it is known to be damaged.
    pub repairs: bool,
}

/// See [`super::Sources::plan`].
pub(super) fn plan(
    sources: &dyn Build,
    spec: &Spec,
    device: &Device,
    wish: Wish<'_>,
) -> Result<Plan, BuilderError> {
    let table = if wish.wipe { None } else { device.table()? };
    let Some(table) = table else {
        if !wish.wipe && !device.is_blank()? {
            let message = format!(
                "`{}` has no partition table, but it is not empty",
                device.path.display()
            );
            return Err(refused("provision-not-blank", message)
                .help("`--wipe` takes it all the same; everything on it is lost")
                .into());
        }
        room::of_device(sources, spec, device)?;
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
    let found = drift(sources, spec, device)?;
    if esp_of(spec, &table).is_err()
        && let Some(plan) = of_table(&found.differences)
    {
        return Ok(plan);
    }
    update(sources, spec, device, &table, wish, &found.differences)
}

/// What can be done to a device without an EFI system partition: its partition table is repaired. None when it is sound.
fn of_table(found: &[Difference]) -> Option<Plan> {
    let mut plan = Plan::default();
    for difference in found {
        match &difference.repair {
            Repair::Table if plan.steps.contains(&Step::Mend) => {}
            Repair::Table => plan.steps.push(Step::Mend),
            Repair::Id(id) => plan.steps.push(Step::Identify { id: *id }),
            Repair::None(why) => plan.left.push(format!("{difference}; {why}")),
            _ => {}
        }
    }
    (!plan.steps.is_empty()).then_some(plan)
}

fn names(table: &Table) -> String {
    let names: Vec<String> = table
        .partitions
        .iter()
        .map(|p| match p.name.as_str() {
            "" => format!("a partition without a name ({})", p.uuid),
            name => format!("`{name}`"),
        })
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
        ..Plan::default()
    }
}

fn update(
    sources: &dyn Build,
    spec: &Spec,
    device: &Device,
    table: &Table,
    wish: Wish<'_>,
    found: &[Difference],
) -> Result<Plan, BuilderError> {
    let esp = esp_of(spec, table)?;
    let volume = Volume::open(device, esp)?;
    let entries = slots::entries(spec, device, table, &volume)?;
    let id = report::id(spec);
    let is_it = |entry: &&Entry| same(&entry.id, &id);
    let running = root_of(wish.running);
    let current = slots::current(spec, &entries).filter(|entry| entry.worth() > 0);
    let slot_of = |entry: &Entry| {
        let mut slots = spec.slots.iter();
        slots.find(|slot| entry.root.is_some() && root_id(table, spec, slot) == entry.root)
    };
    let mut plan = Plan::default();
    let here = current.and_then(slot_of);
    let is_running = here.is_some_and(|slot| root_id(table, spec, slot) == running);
    if let (Some(entry), Some(slot)) = (current, here) {
        kept::entry(spec, entry, slot, found)?;
        if !wish.repairs && !is_running {
            kept::proven(spec, entry, slot, found)?;
        }
    }
    // What starts a root belongs to it.
    let is_kept = is_running
        && found
            .iter()
            .any(|one| matches!(one.repair, Repair::Partition(_)));
    let repairs = found.iter().filter(|one| match one.repair {
        Repair::File(_) if is_kept => false,
        // These are of the version, which comes as a whole.
        Repair::File(_) | Repair::Second(_) | Repair::Partition(_) => here.is_some(),
        _ => true,
    });
    repair(spec, &volume, wish, repairs, is_running, &mut plan)?;
    let leftovers = leftovers(&volume, &spec.image, &entries).into_iter();
    plan.steps
        .splice(0..0, leftovers.map(|path| Step::Remove { path }));
    if let Some(slot) = here {
        if !plan.steps.is_empty() {
            plan.slot = Some(slot.name.clone());
        }
        kept::root(sources, spec, &volume, slot, &mut plan)?;
        if let Some(entry) = current {
            tried_anew(spec, entry, slot, &mut plan);
        }
        room::of_files(sources, spec, &volume, &plan, wish.signs)?;
        return Ok(plan);
    }
    let (slot, mut going) = free_slot(spec, device, table, &entries, running)?;
    // What else has its name would start something else under it.
    for entry in entries.iter().filter(is_it) {
        if !going.iter().any(|other| other.path == entry.path) {
            going.push(entry);
        }
    }
    room::of_slot(sources, spec, table, slot)?;
    note_loss(&entries, &going, slot, &mut plan);
    if going.is_empty() && !is_blank(spec, device, table, slot)? {
        plan.notes.push(format!(
            "warning: `{}` is written over: it is not empty, and no entry of the loader says what is in it",
            slot.name
        ));
    }
    let steps = &mut plan.steps;
    let is_going = |path: &String| going.iter().any(|entry| entry.path == *path);
    steps.retain(|step| !matches!(step, Step::Finish { path } if is_going(path)));
    // What starts the old content goes before the content does.
    for entry in &going {
        steps.push(Step::Remove {
            path: entry.place(),
        });
    }
    for entry in going_files(&entries, &going) {
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
    plan.slot = Some(slot.name.clone());
    room::of_files(sources, spec, &volume, &plan, wish.signs)?;
    if !wish.signs {
        let loss = unsigned(sources, &volume, slot)?;
        plan.notes.extend(loss);
    }
    Ok(plan)
}

/// Gives a version that has not proven itself all its starts again when something of it is written: what failed before is not what
/// will start. The entry with the new counter is whole before the other goes.
fn tried_anew(spec: &Spec, entry: &Entry, slot: &Slot, plan: &mut Plan) {
    let is_of_version = |step: &Step| match step {
        Step::Partition { .. } => true,
        Step::File { path } => {
            same(path, &entry.path) || slot.files.keys().any(|plain| same(plain, path))
        }
        _ => false,
    };
    let is_tried = entry.left.is_some_and(|left| left < spec.tries);
    let plain = uncounted(&entry.path);
    let (true, Some(path)) = (
        is_tried && plan.steps.iter().any(is_of_version),
        counted(&plain, spec.tries),
    ) else {
        return;
    };
    let is_entry = |step: &Step| match step {
        Step::File { path } | Step::Finish { path } => same(path, &entry.path),
        _ => false,
    };
    plan.steps.retain(|step| !is_entry(step));
    plan.steps.push(Step::File { path });
    plan.steps.push(Step::Remove {
        path: entry.place(),
    });
}

/// Says of a new version without signatures that it comes beside one with them: firmware that looks would start the old one only.
fn unsigned(
    sources: &dyn Build,
    volume: &Volume,
    slot: &Slot,
) -> Result<Option<String>, BuilderError> {
    let Some(signed) = sign::signed_on(volume)? else {
        return Ok(None);
    };
    for (path, from) in &slot.files {
        if !sign::is_program(path) {
            continue;
        }
        let source = esp::source(sources, from)?;
        let mut program = Vec::new();
        (source.open)()
            .and_then(|mut reader| reader.read_to_end(&mut program))
            .map_err(|e| BuilderError::io(format!("cannot read what becomes `{path}`"), e))?;
        // A distribution may have signed its kernel.
        if !sign::is_signed(&program) {
            return Ok(Some(format!(
                "warning: `{signed}` is signed, and `{path}` will not be: firmware with Secure Boot does not start it; \
                 `--secure-boot-key` signs it"
            )));
        }
    }
    Ok(None)
}

/// Adds the steps that make differences go, other than that a version is not there.
fn repair<'f>(
    spec: &Spec,
    volume: &Volume,
    wish: Wish<'_>,
    found: impl Iterator<Item = &'f Difference>,
    is_running: bool,
    plan: &mut Plan,
) -> Result<(), BuilderError> {
    let mut left = |difference: &Difference, why: &str| {
        plan.left.push(format!("{difference}; {why}"));
    };
    let is_unsigned = |path: &str| -> Result<bool, BuilderError> {
        let there = volume.read(path)?.unwrap_or_default();
        Ok(!wish.signs && sign::is_program(path) && sign::is_signed(&there))
    };
    for difference in found {
        let step = match &difference.repair {
            Repair::Table => Step::Mend,
            Repair::Id(id) => Step::Identify { id: *id },
            Repair::Shared(path) | Repair::File(path) if is_unsigned(path)? => {
                left(
                    difference,
                    "what is there is signed: `apply --secure-boot-key` replaces it",
                );
                continue;
            }
            Repair::Shared(path) | Repair::File(path) => Step::File { path: path.clone() },
            Repair::Second(path) => Step::Remove { path: path.clone() },
            Repair::Finish(path) => Step::Finish { path: path.clone() },
            Repair::Partition(_) if is_running => {
                left(
                    difference,
                    "this machine runs from it: raise `version`, and the recipe's goes into a free slot",
                );
                continue;
            }
            Repair::Partition(name) => Step::Partition {
                name: name.clone(),
                with: format!("{} {}", spec.image, spec.version),
            },
            Repair::Version | Repair::Raise => continue,
            Repair::None(why) => {
                left(difference, why);
                continue;
            }
        };
        if !plan.steps.contains(&step) {
            plan.steps.push(step);
        }
    }
    // The table first: what follows is found by it. What starts a root comes behind the root.
    plan.steps.sort_by_key(|step| match step {
        Step::Mend | Step::Identify { .. } => 0,
        Step::Partition { .. } => 1,
        _ => 2,
    });
    Ok(())
}

/// Says which versions go and what is left to start.
fn note_loss(entries: &[Entry], going: &[&Entry], slot: &Slot, plan: &mut Plan) {
    let name = |entry: &Entry| {
        let how = match entry.worth() {
            0 => ", which did not start",
            1 => ", which has not proven itself yet",
            _ => "",
        };
        format!("{}{how}", entry.shown())
    };
    let listed = |all: Vec<&Entry>| {
        let all: Vec<String> = all.into_iter().map(name).collect();
        all.join("; ")
    };
    if going.is_empty() {
        return;
    }
    let staying = entries
        .iter()
        .filter(|entry| !going.iter().any(|other| other.path == entry.path));
    let staying: Vec<&Entry> = staying.collect();
    let rest = match staying.is_empty() {
        true => "nothing else can start until this is done".to_owned(),
        false => format!("what stays: {}", listed(staying)),
    };
    plan.notes.push(format!(
        "`{}` is written over: {}; {rest}",
        slot.name,
        listed(going.to_vec())
    ));
}

/// Kernels and initrds that only entries that go name.
fn going_files(entries: &[Entry], going: &[&Entry]) -> Vec<String> {
    let is_going = |entry: &&Entry| going.iter().any(|other| other.path == entry.path);
    let (going, staying): (Vec<&Entry>, Vec<&Entry>) = entries.iter().partition(is_going);
    let mut files: Vec<String> = going
        .iter()
        .flat_map(|entry| &entry.files)
        .filter(|file| {
            let mut named = staying.iter().flat_map(|entry| &entry.files);
            !named.any(|other| same(other, file))
        })
        .cloned()
        .collect();
    files.sort_unstable();
    files.dedup();
    files
}
