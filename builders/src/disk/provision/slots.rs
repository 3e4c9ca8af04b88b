//! Which slot a version goes to.

use std::cmp::Ordering;
use std::io::Read as _;

use sos_engine::BuilderError;
use sos_formats::gpt::Table;
use sos_formats::uuid::Uuid;

use super::apply::of_partition;
use super::device::Device;
use super::entries::{Entry, place_of, same};
use super::volume::Volume;
use super::{Slot, Spec, refused, report};

/// The id of the partition of a slot.
pub(super) fn root_id(table: &Table, spec: &Spec, slot: &Slot) -> Option<Uuid> {
    let partition = spec
        .partitions
        .iter()
        .find(|partition| partition.name == slot.name)?;
    of_partition(table, &partition.uuid).map(|partition| partition.uuid)
}

/// The entries of a system. What is damaged names no root: when nothing else names one of them in which something is, that is its root.
pub(super) fn entries(
    spec: &Spec,
    device: &Device,
    table: &Table,
    volume: &Volume,
) -> Result<Vec<Entry>, BuilderError> {
    let mut entries = Entry::of(volume, &spec.image)?;
    if entries.iter().all(|entry| entry.root.is_some()) {
        return Ok(entries);
    }
    let mut unnamed = Vec::new();
    for slot in &spec.slots {
        let root = root_id(table, spec, slot);
        let is_named = entries.iter().any(|entry| entry.root == root);
        if root.is_some() && !is_named && !is_blank(spec, device, table, slot)? {
            unnamed.push(root);
        }
    }
    let mut without = entries.iter_mut().filter(|entry| entry.root.is_none());
    if let ([root], Some(entry), None) = (unnamed.as_slice(), without.next(), without.next()) {
        entry.root = *root;
    }
    Ok(entries)
}

/// The entry of the version of a recipe: of several the one with the most to lose, then the one that the recipe would write, then the
/// one with the most starts left.
pub(super) fn current<'e>(spec: &Spec, entries: &'e [Entry]) -> Option<&'e Entry> {
    let id = report::id(spec);
    let own = entries.iter().filter(|entry| same(&entry.id, &id));
    own.max_by_key(|entry| (entry.worth(), is_of_recipe(spec, entry), entry.left))
}

/// Whether an entry is of the kind that the recipe writes: a kernel image, or a text that names a kernel.
pub(super) fn is_of_recipe(spec: &Spec, entry: &Entry) -> bool {
    let place = place_of(&entry.path);
    let mut files = spec.slots.iter().flat_map(|slot| slot.files.keys());
    files.any(|path| place.is_some() && place_of(path) == place)
}

/// A slot for a new version, and the entries that go with it. The one that this machine runs from stays, else the best that has
/// proven itself, else the one that is tried next. Of the others one without anything to lose is taken first, then one that has not
/// proven itself, then the oldest.
pub(super) fn free_slot<'a>(
    spec: &'a Spec,
    device: &Device,
    table: &Table,
    entries: &'a [Entry],
    running: Option<Uuid>,
) -> Result<(&'a Slot, Vec<&'a Entry>), BuilderError> {
    struct Room<'a> {
        slot: &'a Slot,
        root: Uuid,
        best: Option<&'a Entry>,
        is_blank: bool,
    }
    let mut slots: Vec<Room<'_>> = Vec::new();
    for slot in &spec.slots {
        let Some(root) = root_id(table, spec, slot) else {
            continue;
        };
        let own = entries.iter().filter(|entry| entry.root == Some(root));
        slots.push(Room {
            slot,
            root,
            best: own.max_by(|a, b| a.worth().cmp(&b.worth()).then_with(|| a.compare(b))),
            is_blank: is_blank(spec, device, table, slot)?,
        });
    }
    let worth = |room: &Room<'_>| room.best.map_or(0, Entry::worth);
    slots.sort_by(|a, b| {
        let by_entry = || match (a.best, b.best) {
            (Some(a), Some(b)) => a.compare(b),
            // What failed to start before what nobody can name.
            (None, None) => b.is_blank.cmp(&a.is_blank),
            (None, Some(_)) if a.is_blank => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) if b.is_blank => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
        };
        worth(a).cmp(&worth(b)).then_with(by_entry)
    });
    let kept = slots
        .iter()
        .find(|room| running == Some(room.root))
        .or_else(|| slots.iter().rfind(|room| worth(room) > 0))
        .map(|room| room.root);
    let free = slots.iter().find(|room| kept != Some(room.root));
    let free = free.ok_or_else(|| {
        refused(
            "provision-no-slot",
            "there is no slot for another version beside the one that starts now",
        )
        .help("a layout with two slots has room: `slots = 2` and `root-size` in `[disk]`")
    })?;
    // Somebody's data may be in any of them, and what starts it may only be lost.
    if kept.is_none() && free.best.is_none() && !free.is_blank {
        let names: Vec<String> = slots
            .iter()
            .filter(|room| room.best.is_none())
            .map(|room| format!("`{}`", room.slot.name))
            .collect();
        let message = format!(
            "no entry of the loader says what is in {}, and nothing is written over what nobody can name",
            names.join(" and ")
        );
        return Err(refused("provision-no-slot", message)
            .note("entries are in `EFI/Linux` and `loader/entries` on the EFI system partition")
            .help("put the lost entry back there; or `--wipe` makes the whole layout anew, and everything on the disk is lost")
            .into());
    }
    let own = entries.iter().filter(|entry| entry.root == Some(free.root));
    Ok((free.slot, own.collect()))
}

/// Whether the beginning of the partition of a slot is empty, so that no file system is in it.
pub(super) fn is_blank(
    spec: &Spec,
    device: &Device,
    table: &Table,
    slot: &Slot,
) -> Result<bool, BuilderError> {
    let mut all = spec.partitions.iter();
    let attrs = all.find(|attrs| attrs.name == slot.name);
    let Some(partition) = attrs.and_then(|attrs| of_partition(table, &attrs.uuid)) else {
        return Ok(true);
    };
    let mut head = Vec::new();
    device
        .part(partition)
        .take(1 << 20)
        .read_to_end(&mut head)
        .map_err(|e| BuilderError::io(format!("cannot read `{}`", slot.name), e))?;
    Ok(head.iter().all(|byte| *byte == 0))
}
