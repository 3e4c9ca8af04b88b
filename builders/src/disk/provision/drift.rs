//! In what a device differs from its description.

use std::fmt;
use std::io::Read as _;

use sos_engine::BuilderError;
use sos_formats::gpt::{self, GptError, Partition, Table};
use sos_formats::uuid::Uuid;

use super::super::assemble;
use super::super::esp;
use super::super::sign;
use super::apply::{esp_of, of_partition};
use super::device::Device;
use super::entries::{Entry, same};
use super::report::{Report, SlotState, id, next};
use super::slots::root_id;
use super::volume::{DAMAGED, Volume};
use super::{Slot, Spec, roots, slots};
use crate::build::Build;
use crate::filesystem::Kind;

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// A partition, or a file on the EFI system partition.
    pub what: String,
    /// What is different.
    pub how: String,
    pub(super) repair: Repair,
}

/// What makes a difference go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Repair {
    /// Both copies of the partition table from the sound one.
    Table,
    /// The id of the disk, in both copies.
    Id(Uuid),
    /// A file that all versions have in common.
    Shared(String),
    /// A file of the version, by its path on the device.
    File(String),
    /// A draft gets its name, which is this.
    Finish(String),
    /// A second entry of the version, by the file that it is in.
    Second(String),
    /// What is in a partition of the version's slot.
    Partition(String),
    /// The version in a free slot.
    Version,
    /// A higher version: under this one there is something that starts and that the recipe would not bring back.
    Raise,
    /// No step of a plan; why not.
    None(&'static str),
}

const LAYOUT: Repair = Repair::None("only a new layout changes it");

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.how)
    }
}

/// See [`super::Sources::drift`].
pub(super) fn drift(
    sources: &dyn Build,
    spec: &Spec,
    device: &Device,
) -> Result<Report, BuilderError> {
    let mut report = Report::default();
    let mut found = Vec::new();
    let table = match device.decoded()? {
        Ok(table) => table,
        Err(error) => {
            let how = match error {
                GptError::Missing => "has no partition table".to_owned(),
                error => format!("has a partition table that cannot be used: {error}"),
            };
            found.push(difference("the device", &how, LAYOUT));
            report.differences = found;
            return Ok(report);
        }
    };
    of_layout(spec, device, &table, &mut found)?;
    let Ok(esp) = esp_of(spec, &table) else {
        report.differences = found;
        report.not_compared.push(
            "what is in the partitions: there is no EFI system partition, whose files tell which version is where".to_owned(),
        );
        return Ok(report);
    };
    let volume = match Volume::open(device, esp) {
        Err(BuilderError::Diagnostic(problem)) if problem.code == DAMAGED => {
            found.push(difference(&esp.name, &problem.message, LAYOUT));
            report.differences = found;
            report.not_compared.push(
                "what is in the other partitions: the files on the EFI system partition tell which version is where".to_owned(),
            );
            return Ok(report);
        }
        opened => opened?,
    };
    // What starts one version is looked at where that version is.
    let of_slots = |path: &String| spec.slots.iter().any(|slot| slot.files.contains_key(path));
    for attrs in spec
        .partitions
        .iter()
        .filter(|attrs| attrs.uuid.eq_ignore_ascii_case(&esp.uuid.to_string()))
    {
        for (path, from) in attrs.files.iter().filter(|(path, _)| !of_slots(path)) {
            let repair = Repair::Shared(path.clone());
            of_file(sources, &volume, path, from, repair, None, &mut found)?;
        }
    }
    let entries = slots::entries(spec, device, &table, &volume)?;
    let id = id(spec);
    for draft in entries.iter().filter(|entry| entry.is_draft) {
        let how = "is there as a draft only, which an update that was stopped has left";
        // Finished, it would start in the place of the version that is wanted.
        let is_wanted = same(&draft.id, &id) || !entries.iter().any(Entry::starts);
        let repair = match is_wanted {
            true => Repair::Finish(draft.path.clone()),
            false => Repair::None("`apply` with the recipe of that version finishes it"),
        };
        found.push(difference(&draft.path, how, repair));
    }
    // A layout that nothing starts says of no slot what is in it.
    let starts = starts(spec);
    if starts {
        report.slots = SlotState::all(spec, &table, &entries);
    }
    let current = slots::current(spec, &entries);
    let others = entries.iter().filter(|entry| {
        let is_current = current.is_some_and(|current| current.path == entry.path);
        same(&entry.id, &id) && !is_current && !entry.is_draft
    });
    for entry in others {
        let how = format!("is a second entry of version {}", spec.version);
        found.push(difference(&entry.path, &how, Repair::Second(entry.place())));
    }
    let slot = current.and_then(|entry| {
        let mut slots = spec.slots.iter();
        slots.find(|slot| entry.root.is_some() && root_id(&table, spec, slot) == entry.root)
    });
    if let (Some(current), Some(next)) = (current, next(&entries))
        && current.starts()
        && !same(&next.id, &id)
    {
        let how = format!(
            "is there, and version {} starts in its place",
            next.version()
        );
        let why = "the loader takes the highest version: give the recipe a higher one";
        found.push(difference(
            &format!("version {}", spec.version),
            &how,
            Repair::None(why),
        ));
    }
    let is_used = |slot: &Slot| {
        let root = root_id(&table, spec, slot);
        entries
            .iter()
            .any(|entry| entry.root.is_some() && entry.root == root)
    };
    match (current, slot) {
        (Some(entry), Some(slot)) if slots::is_of_recipe(spec, entry) => {
            of_version(sources, spec, &volume, entry, slot, &mut found)?;
        }
        (Some(entry), Some(slot)) => {
            let mut files = slot.files.keys();
            let own = files.find(|path| super::entries::place_of(path).is_some());
            let how = match own {
                Some(own) => format!("starts the version that the recipe starts with `{own}`"),
                None => "starts the version, and the recipe has no entry of a loader".to_owned(),
            };
            found.push(difference(&entry.path, &how, Repair::Raise));
        }
        (Some(entry), None) => found.push(difference(
            &entry.path,
            "starts a root that is none of the slots",
            Repair::Version,
        )),
        (None, _) if !starts => {}
        (None, _) => {
            let others: Vec<&str> = entries.iter().map(Entry::version).collect();
            let how = match others.as_slice() {
                [] => "no version is there".to_owned(),
                [other] => format!("version {other} is there"),
                others => format!("versions {} are there", others.join(" and ")),
            };
            found.push(difference(
                &format!("version {}", spec.version),
                &format!("is in no slot; {how}"),
                Repair::Version,
            ));
        }
    }
    if let Some(slot) = slot
        && !roots::is_written_to(spec, slot)
    {
        roots::of_root(sources, spec, device, &table, slot, &mut found)?;
    }
    for attrs in &spec.partitions {
        let Some(partition) = of_partition(&table, &attrs.uuid) else {
            continue;
        };
        let own = spec.slots.iter().find(|slot| slot.name == attrs.name);
        let (is_ext4, repair) = match own {
            Some(own) if slot.is_some_and(|slot| slot.name == own.name) => (
                roots::is_written_to(spec, own),
                Repair::Partition(attrs.name.clone()),
            ),
            Some(own) => {
                let why = "another version is in it, whose own recipe brings it back";
                (
                    roots::is_written_to(spec, own) && is_used(own),
                    Repair::None(why),
                )
            }
            None => (
                attrs.filesystem == Some(assemble::Format::Root(Kind::Ext4)),
                Repair::None("it is no part of a version, and what was in it is in no recipe"),
            ),
        };
        if is_ext4 {
            roots::of_ext4(device, partition, attrs, repair, &mut found)?;
        }
    }
    report.not_compared = not_compared(spec, slot, &report.slots);
    report.differences = found;
    Ok(report)
}

/// Whether the layout has entries of the loader, which tell the versions.
fn starts(spec: &Spec) -> bool {
    let mut files = spec.slots.iter().flat_map(|slot| slot.files.keys());
    files.any(|path| super::entries::counted(path, spec.tries).is_some())
}

/// What is not looked at on a device whose version is in `slot`, and why.
fn not_compared(spec: &Spec, slot: Option<&Slot>, states: &[SlotState]) -> Vec<String> {
    let quoted = |names: &[&str]| format!("`{}`", names.join("` and `"));
    let mut found = Vec::new();
    if !starts(spec) {
        found.push(
            "which version is where: the recipe has no entry of a loader, which would tell"
                .to_owned(),
        );
    }
    let written = spec
        .slots
        .iter()
        .filter(|slot| roots::is_written_to(spec, slot));
    let written: Vec<&str> = written.map(|slot| slot.name.as_str()).collect();
    if !written.is_empty() {
        found.push(format!(
            "files in {}, to which a running system writes",
            quoted(&written)
        ));
    }
    for state in states
        .iter()
        .filter(|state| !written.contains(&&*state.name))
    {
        if slot.is_some_and(|slot| slot.name == state.name) {
            continue;
        }
        if let Some(version) = &state.version {
            found.push(format!(
                "what is in `{}`, of which the recipe of version {version} knows",
                state.name
            ));
        }
    }
    let is_of_slot = |name: &str| {
        let mut slots = spec.slots.iter();
        slots.any(|slot| slot.name == name || slot.images.contains_key(name))
    };
    let esp = gpt::type_of("esp");
    let others = spec.partitions.iter().filter(|attrs| {
        let has_content = attrs.filesystem.is_some() || attrs.image.is_some();
        has_content && !is_of_slot(&attrs.name) && gpt::type_of(&attrs.kind) != esp
    });
    let others: Vec<&str> = others.map(|attrs| attrs.name.as_str()).collect();
    if !others.is_empty() {
        found.push(format!(
            "what is in {}, which no update writes",
            quoted(&others)
        ));
    }
    found.push("files on the EFI system partition that the recipe does not name".to_owned());
    found
}

/// Compares the partition table with the layout.
fn of_layout(
    spec: &Spec,
    device: &Device,
    table: &Table,
    found: &mut Vec<Difference>,
) -> Result<(), BuilderError> {
    for how in device.damage()? {
        found.push(difference("the device", &how, Repair::Table));
    }
    if let Ok(id) = spec.uuid.parse::<Uuid>()
        && id != table.disk
    {
        let how = format!("has the id {} instead of {id}", table.disk);
        found.push(difference("the device", &how, Repair::Id(id)));
    }
    for attrs in &spec.partitions {
        match of_partition(table, &attrs.uuid) {
            None => found.push(difference(
                &attrs.name,
                &format!("there is no partition with the id {}", attrs.uuid),
                LAYOUT,
            )),
            Some(partition) => of_table(attrs, partition, found),
        }
    }
    for partition in &table.partitions {
        let uuid = partition.uuid.to_string();
        if !spec
            .partitions
            .iter()
            .any(|attrs| attrs.uuid.eq_ignore_ascii_case(&uuid))
        {
            let how = "is no partition of the layout";
            let name = match partition.name.as_str() {
                "" => format!("a partition without a name ({uuid})"),
                name => name.to_owned(),
            };
            found.push(difference(&name, how, LAYOUT));
        }
    }
    Ok(())
}

fn of_table(attrs: &assemble::PartitionAttrs, partition: &Partition, found: &mut Vec<Difference>) {
    let name = &attrs.name;
    if gpt::type_of(&attrs.kind) != Some(partition.kind) {
        let how = format!(
            "has the type {} instead of {}",
            gpt::type_name(partition.kind),
            attrs.kind
        );
        found.push(difference(name, &how, LAYOUT));
    }
    if partition.name != *name {
        let how = format!("is called `{}`", partition.name);
        found.push(difference(name, &how, LAYOUT));
    }
    let size = attrs
        .size
        .filter(|_| !attrs.rest)
        .map(|size| size.next_multiple_of(gpt::ALIGN));
    if let Some(size) = size.filter(|size| *size != partition.size()) {
        found.push(difference(
            name,
            &format!("has {} bytes instead of {size}", partition.size()),
            LAYOUT,
        ));
    }
    if attrs.attribute_bits() != partition.attributes {
        let how = format!(
            "has the attributes {:#x} instead of {:#x}",
            partition.attributes,
            attrs.attribute_bits()
        );
        found.push(difference(name, &how, LAYOUT));
    }
}

/// Compares a file of the EFI system partition; `repair` has its path there.
fn of_file(
    sources: &dyn Build,
    volume: &Volume,
    path: &str,
    from: &esp::FileFrom,
    repair: Repair,
    draft: Option<&Entry>,
    found: &mut Vec<Difference>,
) -> Result<(), BuilderError> {
    let (Repair::Shared(place) | Repair::File(place)) = &repair else {
        return Ok(());
    };
    let mut there = volume.read(place)?;
    if let Some(entry) = draft.filter(|entry| entry.path == *place) {
        there = volume.read(&entry.place())?;
    }
    let Some(there) = there else {
        found.push(difference(path, "is missing", repair));
        return Ok(());
    };
    let source = esp::source(sources, from)?;
    let mut wanted = Vec::new();
    (source.open)()
        .and_then(|mut reader| reader.read_to_end(&mut wanted))
        .map_err(|e| BuilderError::io(format!("cannot read what `{path}` is made of"), e))?;
    if there != wanted && !sign::is_same_program(&there, &wanted) {
        found.push(difference(path, "has other content", repair));
    }
    Ok(())
}

/// Compares what starts the version.
fn of_version(
    sources: &dyn Build,
    spec: &Spec,
    volume: &Volume,
    entry: &Entry,
    slot: &Slot,
    found: &mut Vec<Difference>,
) -> Result<(), BuilderError> {
    if entry.left == Some(0) {
        found.push(difference(
            &entry.path,
            "did not start as often as it was tried",
            Repair::Version,
        ));
    }
    for (path, from) in &slot.files {
        // The loader changes the counter in the name.
        let is_entry = super::entries::counted(path, spec.tries).is_some();
        let place = if is_entry { &entry.path } else { path };
        let repair = Repair::File(place.clone());
        of_file(
            sources,
            volume,
            path,
            from,
            repair,
            Some(entry).filter(|entry| entry.is_draft),
            found,
        )?;
    }
    Ok(())
}

pub(super) fn difference(what: &str, how: &str, repair: Repair) -> Difference {
    Difference {
        what: what.to_owned(),
        how: how.to_owned(),
        repair,
    }
}
