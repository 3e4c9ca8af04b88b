//! In what the roots on a device differ from the description.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt as _;

use sos_engine::BuilderError;
use sos_formats::gpt::{Partition, Table};
use sos_formats::uuid::Uuid;

use super::super::assemble;
use super::super::input::InputFile;
use super::apply::of_partition;
use super::device::Device;
use super::drift::{Difference, Repair, difference};
use super::{Slot, Spec, room};
use crate::build::Build;
use crate::filesystem::{FileImage, Image as _, Kind};

/// Where ext4 keeps its superblock, and what stands where in it (kernel: Documentation/filesystems/ext4/super.rst).
const SUPERBLOCK: u64 = 1024;
const MAGIC: std::ops::Range<usize> = 0x38..0x3a;
const UUID: std::ops::Range<usize> = 0x68..0x78;
const LABEL: std::ops::Range<usize> = 0x78..0x88;

/// Whether a running system may write into the root of a slot, so that what is in it says nothing.
pub(super) fn is_written_to(spec: &Spec, slot: &Slot) -> bool {
    spec.filesystem == Kind::Ext4 && slot.images.is_empty()
}

/// Compares what tells an ext4 file system from another.
pub(super) fn of_ext4(
    device: &Device,
    partition: &Partition,
    attrs: &assemble::PartitionAttrs,
    repair: Repair,
    found: &mut Vec<Difference>,
) -> Result<(), BuilderError> {
    let mut block = [0; 1024];
    device
        .file
        .read_exact_at(&mut block, partition.offset() + SUPERBLOCK)
        .map_err(unreadable)?;
    if block[MAGIC] != [0x53, 0xef] {
        let how = "has no file system ext4: its superblock is gone";
        found.push(difference(&attrs.name, how, repair));
        return Ok(());
    }
    // Somebody else's data may be in it.
    let other = || Repair::None("what is in it may be wanted");
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&block[UUID]);
    let uuid = Uuid(uuid);
    if !attrs
        .filesystem_uuid
        .eq_ignore_ascii_case(&uuid.to_string())
    {
        let how = format!(
            "has the file system {uuid} instead of {}",
            attrs.filesystem_uuid
        );
        found.push(difference(&attrs.name, &how, other()));
    }
    let label = block[LABEL]
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default();
    if label != attrs.label.as_bytes() {
        let label = String::from_utf8_lossy(label);
        let how = format!("has the label `{label}` instead of `{}`", attrs.label);
        found.push(difference(&attrs.name, &how, other()));
    }
    Ok(())
}

/// Compares a root that nothing may have written to, block by block.
pub(super) fn of_root(
    sources: &dyn Build,
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
    let dir = sources.store().temp_dir("drift")?;
    let path = dir.path().join("root");
    let image = FileImage::create(&path).map_err(unreadable)?;
    let content = room::root_in(spec, attrs);
    let len = assemble::fill(sources, &content, None, spec.epoch, 0, &image)?;
    image.set_len(len).map_err(unreadable)?;
    let mut wanted = File::open(&path).map_err(unreadable)?;
    found.extend(compared(&mut wanted, len, device, partition, &slot.name)?);
    Ok(())
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
                Repair::Partition(name.to_owned()),
            )));
        }
        at += piece as u64;
    }
    Ok(None)
}

fn unreadable(error: std::io::Error) -> BuilderError {
    BuilderError::io("cannot compare the root", error)
}
