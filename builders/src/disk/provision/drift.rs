//! In what a device differs from its description.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt as _;

use sos_engine::BuilderError;
use sos_formats::gpt::{self, Partition, Table};

use super::super::assemble;
use super::super::esp;
use super::super::input::InputFile;
use super::apply::{esp_of, of_partition};
use super::device::Device;
use super::entries::Entry;
use super::plan::root_id;
use super::volume::Volume;
use super::{Slot, Sources, Spec};
use crate::filesystem::{FileImage, Image as _, Kind};

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// A partition, or a file on the EFI system partition.
    pub what: String,
    /// What is different.
    pub how: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.how)
    }
}

/// Compares the partition table, the files that start the system, and roots that nothing may write to. What a running system changes
/// in its root or adds to the EFI system partition is no difference.
///
/// # Errors
/// When the device or the store cannot be read.
pub fn drift(
    sources: &Sources<'_>,
    spec: &Spec,
    device: &Device,
) -> Result<Vec<Difference>, BuilderError> {
    let mut found = Vec::new();
    let Some(table) = device.table()? else {
        found.push(difference("the device", "has no partition table"));
        return Ok(found);
    };
    for attrs in &spec.partitions {
        match of_partition(&table, &attrs.uuid) {
            None => found.push(difference(
                &attrs.name,
                &format!("there is no partition with the id {}", attrs.uuid),
            )),
            Some(partition) => of_table(attrs, partition, &mut found),
        }
    }
    for partition in &table.partitions {
        let uuid = partition.uuid.to_string();
        if !spec
            .partitions
            .iter()
            .any(|attrs| attrs.uuid.eq_ignore_ascii_case(&uuid))
        {
            found.push(difference(&partition.name, "is no partition of the layout"));
        }
    }
    let Ok(esp) = esp_of(spec, &table) else {
        return Ok(found);
    };
    let volume = Volume::open(device, esp)?;
    // What starts one version is looked at where that version is.
    let of_slots = |path: &String| spec.slots.iter().any(|slot| slot.files.contains_key(path));
    for attrs in spec
        .partitions
        .iter()
        .filter(|attrs| attrs.uuid.eq_ignore_ascii_case(&esp.uuid.to_string()))
    {
        for (path, from) in attrs.files.iter().filter(|(path, _)| !of_slots(path)) {
            of_file(sources, &volume, path, path, from, &mut found)?;
        }
    }
    let entries = Entry::of(&volume, &spec.image)?;
    let id = format!("{}_{}", spec.image, spec.version);
    let current = entries.iter().find(|entry| entry.id == id);
    let slot = current.and_then(|entry| {
        let mut slots = spec.slots.iter();
        slots.find(|slot| entry.root.is_some() && root_id(&table, spec, slot) == entry.root)
    });
    match (current, slot) {
        (Some(entry), Some(slot)) => of_version(sources, spec, &volume, entry, slot, &mut found)?,
        (Some(entry), None) => found.push(difference(
            &entry.path,
            "starts a root that is none of the slots",
        )),
        (None, _) => {
            let others: Vec<&str> = entries.iter().map(Entry::version).collect();
            let how = match others.is_empty() {
                true => "no version is there".to_owned(),
                false => format!("version {} is there", others.join(" and ")),
            };
            found.push(difference(
                &format!("version {}", spec.version),
                &format!("is missing; {how}"),
            ));
        }
    }
    if let Some(slot) = slot
        && spec.filesystem != Kind::Ext4
    {
        of_root(sources, spec, device, &table, slot, &mut found)?;
    }
    Ok(found)
}

fn of_table(attrs: &assemble::PartitionAttrs, partition: &Partition, found: &mut Vec<Difference>) {
    let name = &attrs.name;
    if gpt::type_of(&attrs.kind) != Some(partition.kind) {
        let how = format!(
            "has the type {} instead of {}",
            gpt::type_name(partition.kind),
            attrs.kind
        );
        found.push(difference(name, &how));
    }
    if partition.name != *name {
        found.push(difference(name, &format!("is called `{}`", partition.name)));
    }
    let size = attrs
        .size
        .filter(|_| !attrs.rest)
        .map(|size| size.next_multiple_of(gpt::ALIGN));
    if let Some(size) = size.filter(|size| *size != partition.size()) {
        found.push(difference(
            name,
            &format!("has {} bytes instead of {size}", partition.size()),
        ));
    }
    if attrs.attribute_bits() != partition.attributes {
        let how = format!(
            "has the attributes {:#x} instead of {:#x}",
            partition.attributes,
            attrs.attribute_bits()
        );
        found.push(difference(name, &how));
    }
}

/// Compares a file of the EFI system partition.
fn of_file(
    sources: &Sources<'_>,
    volume: &Volume,
    path: &str,
    place: &str,
    from: &esp::FileFrom,
    found: &mut Vec<Difference>,
) -> Result<(), BuilderError> {
    let Some(there) = volume.read(place)? else {
        found.push(difference(path, "is missing"));
        return Ok(());
    };
    let source = esp::source(sources, from)?;
    let mut wanted = Vec::new();
    (source.open)()
        .and_then(|mut reader| reader.read_to_end(&mut wanted))
        .map_err(|e| BuilderError::io(format!("cannot read what `{path}` is made of"), e))?;
    if there != wanted {
        found.push(difference(path, "has other content"));
    }
    Ok(())
}

/// Compares what starts the version.
fn of_version(
    sources: &Sources<'_>,
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
        ));
    }
    for (path, from) in &slot.files {
        // The loader changes the counter in the name.
        let is_entry = super::entries::counted(path, spec.tries).is_some();
        let place = if is_entry { &entry.path } else { path };
        of_file(sources, volume, path, place, from, found)?;
    }
    Ok(())
}

/// Compares a root that nothing may have written to, block by block.
fn of_root(
    sources: &Sources<'_>,
    spec: &Spec,
    device: &Device,
    table: &Table,
    slot: &Slot,
    found: &mut Vec<Difference>,
) -> Result<(), BuilderError> {
    let of_name = |name: &String| {
        let attrs = spec.partitions.iter().find(|attrs| attrs.name == *name);
        attrs.and_then(|attrs| Some((attrs, of_partition(table, &attrs.uuid)?)))
    };
    if !slot.images.is_empty() {
        for (name, path) in &slot.images {
            if let Some((_, partition)) = of_name(name) {
                let file = InputFile::find(sources, path)?;
                let mut wanted = file.open().map_err(unreadable)?;
                found.extend(compared(&mut wanted, file.size, device, partition, name)?);
            }
        }
        return Ok(());
    }
    let Some((attrs, partition)) = of_name(&slot.name) else {
        return Ok(());
    };
    let dir = sources.store.temp_dir("drift")?;
    let path = dir.path().join("root");
    let image = FileImage::create(&path).map_err(unreadable)?;
    let content = assemble::PartitionAttrs {
        rootfs: Some(spec.root.clone()),
        filesystem: Some(assemble::Format::Root(spec.filesystem)),
        ..attrs.clone()
    };
    let len = assemble::fill(sources, &content, None, spec.epoch, 0, &image)?;
    image.set_len(len).map_err(unreadable)?;
    let mut wanted = File::open(&path).map_err(unreadable)?;
    found.extend(compared(&mut wanted, len, device, partition, &slot.name)?);
    Ok(())
}

fn unreadable(error: std::io::Error) -> BuilderError {
    BuilderError::io("cannot compare the root", error)
}

/// The first byte in which the beginning of a partition differs from what it was made of.
fn compared(
    wanted: &mut dyn Read,
    len: u64,
    device: &Device,
    partition: &Partition,
    name: &str,
) -> Result<Option<Difference>, BuilderError> {
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    while at < len {
        let piece = usize::try_from(len - at).unwrap_or(a.len()).min(a.len());
        wanted.read_exact(&mut a[..piece]).map_err(unreadable)?;
        device
            .file
            .read_exact_at(&mut b[..piece], partition.offset() + at)
            .map_err(unreadable)?;
        if a[..piece] != b[..piece] {
            let byte = a.iter().zip(&b).position(|(a, b)| a != b).unwrap_or(0) as u64;
            return Ok(Some(difference(
                name,
                &format!("has other content from byte {} on", at + byte),
            )));
        }
        at += piece as u64;
    }
    Ok(None)
}

fn difference(what: &str, how: &str) -> Difference {
    Difference {
        what: what.to_owned(),
        how: how.to_owned(),
    }
}
