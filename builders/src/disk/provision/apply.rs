//! A plan, carried out.

use sos_engine::BuilderError;
use sos_formats::gpt::{self, Partition, Table};
use sos_formats::uuid::Uuid;

use super::super::assemble::{self, DiskAttrs};
use super::super::esp;
use super::super::input::InputFile;
use super::device::Device;
use super::entries::counted;
use super::plan::{Plan, Step};
use super::volume::Volume;
use super::{Sources, Spec, refused};
use crate::filesystem::Window;

/// The EFI system partition, by its type.
const ESP: &str = "esp";

/// Does what a plan says. Each part is on the disk before the next begins.
///
/// # Errors
/// When something cannot be read or written; the version that started before still does.
pub fn apply(
    sources: &Sources<'_>,
    spec: &Spec,
    device: &Device,
    plan: &Plan,
) -> Result<(), BuilderError> {
    if plan.wipes {
        return whole(sources, spec, device);
    }
    let table = device
        .table()?
        .ok_or_else(|| refused("provision-table", "the partition table is gone"))?;
    for step in &plan.steps {
        match step {
            Step::Table { .. } => {}
            Step::Partition { name, .. } => partition(sources, spec, device, &table, plan, name)?,
            Step::Remove { path } => on_volume(spec, device, &table, |volume| volume.remove(path))?,
            Step::File { path } => file(sources, spec, device, &table, plan, path)?,
        }
        (sources.told)(&step.to_string());
        device.sync()?;
    }
    Ok(())
}

/// Makes the whole layout.
fn whole(sources: &Sources<'_>, spec: &Spec, device: &Device) -> Result<(), BuilderError> {
    if spec.size.is_some_and(|size| size > device.size) {
        let message = format!(
            "`{}` has {} bytes, which is too little",
            device.path.display(),
            device.size
        );
        return Err(refused("provision-small", message)
            .note(format!(
                "the layout is for {} bytes",
                spec.size.unwrap_or_default()
            ))
            .into());
    }
    let cleared = device.clear(0, device.size);
    cleared
        .map_err(|e| BuilderError::io(format!("cannot write `{}`", device.path.display()), e))?;
    let attrs = DiskAttrs {
        size: Some(device.size),
        uuid: spec.uuid.clone(),
        partitions: spec.partitions.clone(),
        epoch: spec.epoch,
    };
    let image = device.image()?;
    let whole = Window::new(&image, 0, device.size);
    assemble::write(sources, &attrs, &whole)?;
    device.sync()
}

/// Writes the root filesystem, or what was made of it, into a partition of a slot.
fn partition(
    sources: &Sources<'_>,
    spec: &Spec,
    device: &Device,
    table: &Table,
    plan: &Plan,
    name: &str,
) -> Result<(), BuilderError> {
    let attrs = spec
        .partitions
        .iter()
        .find(|partition| partition.name == name);
    let attrs =
        attrs.ok_or_else(|| BuilderError::failed(format!("there is no partition `{name}`")))?;
    let partition = of_partition(table, &attrs.uuid).ok_or_else(|| {
        BuilderError::failed(format!("there is no partition `{name}` on the device"))
    })?;
    let cleared = device.clear(partition.offset(), partition.size());
    cleared.map_err(|e| BuilderError::io(format!("cannot write `{name}`"), e))?;
    let image = device.image()?;
    let window = Window::new(&image, partition.offset(), partition.size());
    let mut slots = spec.slots.iter();
    let slot = slots.find(|slot| plan.slot.as_ref() == Some(&slot.name));
    if let Some(path) = slot.and_then(|slot| slot.images.get(name)) {
        let file = InputFile::find(sources, path)?;
        if file.size > partition.size() {
            let message = format!(
                "the partition `{name}` has {} bytes, and {} have to go into it",
                partition.size(),
                file.size
            );
            return Err(refused("provision-small", message)
                .help("raise `root-size` before the device is made anew: both slots are as large as any version will be")
                .into());
        }
        return assemble::copy(&file, &window, path).map(|_| ());
    }
    let content = assemble::PartitionAttrs {
        rootfs: Some(spec.root.clone()),
        filesystem: Some(assemble::Format::Root(spec.filesystem)),
        image: None,
        ..attrs.clone()
    };
    let hidden = u32::try_from(partition.first).unwrap_or(0);
    assemble::fill(
        sources,
        &content,
        Some(partition.size()),
        spec.epoch,
        hidden,
        &window,
    )
    .map(|_| ())
}

/// Writes one file of the slot to the EFI system partition.
fn file(
    sources: &Sources<'_>,
    spec: &Spec,
    device: &Device,
    table: &Table,
    plan: &Plan,
    path: &str,
) -> Result<(), BuilderError> {
    let slot = spec
        .slots
        .iter()
        .find(|slot| plan.slot.as_ref() == Some(&slot.name));
    let from = slot.and_then(|slot| {
        let is_it = |plain: &String| counted(plain, spec.tries).as_deref().unwrap_or(plain) == path;
        slot.files
            .iter()
            .find(|(plain, _)| is_it(plain))
            .map(|(_, from)| from)
    });
    let from = from.ok_or_else(|| BuilderError::failed(format!("nothing becomes `{path}`")))?;
    let source = esp::source(sources, from)?;
    let mut reader = (source.open)()
        .map_err(|e| BuilderError::io(format!("cannot read what becomes `{path}`"), e))?;
    on_volume(spec, device, table, |volume| {
        volume.write(path, &mut reader)
    })
}

fn on_volume(
    spec: &Spec,
    device: &Device,
    table: &Table,
    work: impl FnOnce(&Volume) -> Result<(), BuilderError>,
) -> Result<(), BuilderError> {
    let volume = Volume::open(device, esp_of(spec, table)?)?;
    work(&volume)?;
    volume.close()
}

/// The EFI system partition of the layout, on the device.
pub(super) fn esp_of<'t>(spec: &Spec, table: &'t Table) -> Result<&'t Partition, BuilderError> {
    let attrs = spec
        .partitions
        .iter()
        .find(|partition| gpt::type_of(&partition.kind) == gpt::type_of(ESP));
    attrs
        .and_then(|attrs| of_partition(table, &attrs.uuid))
        .ok_or_else(|| {
            refused(
                "provision-no-esp",
                "the layout has no EFI system partition, so nothing can be updated in it",
            )
            .into()
        })
}

/// The partition of an id.
pub(super) fn of_partition<'t>(table: &'t Table, uuid: &str) -> Option<&'t Partition> {
    let uuid: Uuid = uuid.parse().ok()?;
    table
        .partitions
        .iter()
        .find(|partition| partition.uuid == uuid)
}
