//! Whether a plan can be carried out: everything fits before anything is lost for it.

use sos_engine::BuilderError;
use sos_formats::diagnostic::Diagnostic;
use sos_formats::gpt::{self, Table};

use super::super::assemble::{self, DiskAttrs, Format, PartitionAttrs};
use super::super::esp;
use super::super::input::InputFile;
use super::apply::{of_partition, origin};
use super::device::Device;
use super::plan::{Plan, Step};
use super::volume::Volume;
use super::{Slot, Spec, refused};
use crate::build::Build;
use crate::filesystem::Measured;

/// What a signature adds to a program, generously.
const SIGNATURE_BYTES: u64 = 16 << 10;

/// The layout as a disk of so many bytes.
pub(super) fn layout(spec: &Spec, size: u64) -> DiskAttrs {
    DiskAttrs {
        size: Some(size),
        uuid: spec.uuid.clone(),
        partitions: spec.partitions.clone(),
        epoch: spec.epoch,
    }
}

/// Refuses a device on which the layout has no room.
pub(super) fn of_device(
    sources: &dyn Build,
    spec: &Spec,
    device: &Device,
) -> Result<(), BuilderError> {
    let given = spec.size.filter(|size| *size > device.size);
    let unfit = assemble::write(sources, &layout(spec, device.size), &Measured);
    let (None, Ok(_)) = (given, &unfit) else {
        let needed = assemble::needed(sources, &layout(spec, device.size))?;
        let bytes = needed.bytes.max(given.unwrap_or(0));
        if bytes <= device.size {
            return unfit.map(drop);
        }
        let message = format!(
            "`{}` has {} bytes, and the layout of {} {} needs {bytes}",
            device.path.display(),
            device.size,
            spec.image,
            spec.version
        );
        let mut parts: Vec<String> = needed
            .partitions
            .iter()
            .map(|(name, size)| format!("`{name}` {size}"))
            .collect();
        parts.push(format!("the table {}", 2 * gpt::ALIGN));
        let mut problem = refused("provision-small", message)
            .note(format!("bytes of its parts: {}", parts.join(", ")));
        if let Some(size) = given {
            problem = problem.note(format!("`size` in the recipe makes the disk {size} bytes"));
        }
        return Err(larger(problem, device, bytes).into());
    };
    Ok(())
}

fn larger(problem: Diagnostic, device: &Device, bytes: u64) -> Diagnostic {
    problem.help(match device.is_block() {
        true => "name a larger device, or lower the sizes in the recipe".to_owned(),
        false => format!(
            "`truncate -s {bytes} {}` makes the file large enough",
            device.path.display()
        ),
    })
}

/// Refuses a version that is larger than the slot that it would go to.
pub(super) fn of_slot(
    sources: &dyn Build,
    spec: &Spec,
    table: &Table,
    slot: &Slot,
) -> Result<(), BuilderError> {
    let small = |name: &str, room: u64, needs: String| -> BuilderError {
        let message = format!(
            "the partition `{name}` on the device has {room} bytes, which {} {} does not fit into",
            spec.image, spec.version
        );
        let problem = refused("provision-small", message).note(needs);
        problem
            .help("raise `root-size` and make the device anew (`--wipe`): its slots are as large as any version will be")
            .into()
    };
    let place = |name: &str| {
        let mut all = spec.partitions.iter();
        let attrs = all.find(|attrs| attrs.name == name)?;
        Some((attrs, of_partition(table, &attrs.uuid)?.size()))
    };
    for (name, path) in &slot.images {
        let size = InputFile::find(sources, path)?.size;
        if let Some((_, room)) = place(name).filter(|(_, room)| size > *room) {
            return Err(small(name, room, format!("it needs {size} bytes")));
        }
    }
    if !slot.images.is_empty() {
        return Ok(());
    }
    let Some((attrs, room)) = place(&slot.name) else {
        return Ok(());
    };
    let content = root_in(spec, attrs);
    match assemble::fill(sources, &content, Some(room), spec.epoch, 0, &Measured) {
        Err(BuilderError::Diagnostic(problem)) if problem.code == "disk-full" => {
            let needs = problem.helps.join("; ");
            Err(small(&slot.name, room, needs))
        }
        done => done.map(drop),
    }
}

/// A partition of a slot with the root of the version in it.
pub(super) fn root_in(spec: &Spec, attrs: &PartitionAttrs) -> PartitionAttrs {
    PartitionAttrs {
        rootfs: Some(spec.root.clone()),
        filesystem: Some(Format::Root(spec.filesystem)),
        image: None,
        ..attrs.clone()
    }
}

/// Refuses files for which the EFI system partition has no room at the time when they are written.
pub(super) fn of_files(
    sources: &dyn Build,
    spec: &Spec,
    volume: &Volume,
    plan: &Plan,
    signs: bool,
) -> Result<(), BuilderError> {
    let (cluster, mut free) = volume.free()?;
    // What it is in, and the entry for it there.
    let taken = |size: u64| size.next_multiple_of(cluster) + cluster;
    for step in &plan.steps {
        match step {
            Step::Remove { path } => free += volume.size(path)?.next_multiple_of(cluster),
            Step::File { path } => {
                let from = origin(spec, plan, path)?;
                let mut size = esp::source(sources, from)?.size;
                if signs {
                    size += SIGNATURE_BYTES;
                }
                let old = volume.size(path)?.next_multiple_of(cluster);
                // The old one stays until the new one is whole.
                if taken(size) > free {
                    let message = format!(
                        "the EFI system partition has {free} bytes left for `{path}`, which needs {size}"
                    );
                    return Err(refused("provision-small", message)
                        .note("nothing was written")
                        .help("remove what is not needed any more from it, or raise `esp-size` and make the device anew (`--wipe`)")
                        .into());
                }
                free = free + old - taken(size);
            }
            _ => {}
        }
    }
    Ok(())
}
