//! A plan, carried out.

use std::io::Read as _;

use sos_engine::BuilderError;
use sos_formats::gpt::{self, Partition, Table};
use sos_formats::uuid::Uuid;

use super::super::assemble;
use super::super::esp;
use super::super::input::InputFile;
use super::super::sign::{self, Signer};
use super::device::Device;
use super::entries::{same, uncounted};
use super::plan::{Plan, Step};
use super::volume::Change;
use super::{Spec, refused, room};
use crate::build::Build;
use crate::filesystem::Window;

/// The EFI system partition, by its type.
const ESP: &str = "esp";

/// See [`super::Sources::apply`].
pub(super) fn apply(
    sources: &dyn Build,
    spec: &Spec,
    device: &Device,
    plan: &Plan,
    signer: Option<&Signer>,
) -> Result<(), BuilderError> {
    if plan.wipes {
        whole(sources, spec, device)?;
        return match signer {
            Some(signer) => sign::sign_disk(device, signer).map(|_paths| ()),
            None => Ok(()),
        };
    }
    let table = device
        .table()?
        .ok_or_else(|| refused("provision-table", "the partition table is gone"))?;
    // What an update left that was stopped, which may be all that there is to do.
    if let Ok(esp) = esp_of(spec, &table) {
        Change::of(device, esp).tidy()?;
    }
    for step in &plan.steps {
        match step {
            Step::Table { .. } => {}
            Step::Mend => device.mend(None)?,
            Step::Identify { id } => device.mend(Some(*id))?,
            Step::Partition { name, .. } => partition(sources, spec, device, &table, plan, name)?,
            Step::Remove { path } => Change::of(device, esp_of(spec, &table)?).remove(path)?,
            Step::Finish { path } => Change::of(device, esp_of(spec, &table)?).finish(path)?,
            Step::File { path } => {
                let from = origin(spec, plan, path)?;
                let source = esp::source(sources, from)?;
                let unreadable =
                    |e| BuilderError::io(format!("cannot read what becomes `{path}`"), e);
                let mut reader = (source.open)().map_err(unreadable)?;
                if let Some(signer) = signer.filter(|_| sign::is_program(path)) {
                    let mut program = Vec::new();
                    reader.read_to_end(&mut program).map_err(unreadable)?;
                    reader = Box::new(std::io::Cursor::new(signer.sign(&program)?));
                }
                Change::of(device, esp_of(spec, &table)?).write(path, &mut reader)?;
            }
        }
        sources.log(&step.to_string());
        device.sync()?;
    }
    Ok(())
}

/// Makes the whole layout.
fn whole(sources: &dyn Build, spec: &Spec, device: &Device) -> Result<(), BuilderError> {
    let cleared = device.clear(0, device.size);
    cleared
        .map_err(|e| BuilderError::io(format!("cannot write `{}`", device.path.display()), e))?;
    let image = device.image();
    let whole = Window::new(&image, 0, device.size);
    assemble::write(sources, &room::layout(spec, device.size), &whole)?;
    device.sync()
}

/// Writes the root filesystem, or what was made of it, into a partition of a slot.
fn partition(
    sources: &dyn Build,
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
    let image = device.image();
    let window = Window::new(&image, partition.offset(), partition.size());
    let mut slots = spec.slots.iter();
    let slot = slots.find(|slot| plan.slot.as_ref() == Some(&slot.name));
    if let Some(path) = slot.and_then(|slot| slot.images.get(name)) {
        let file = InputFile::find(sources, path)?;
        return assemble::copy(&file, &window, path).map(|_| ());
    }
    let content = room::root_in(spec, attrs);
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

/// What a file of the EFI system partition is made of.
pub(super) fn origin<'a>(
    spec: &'a Spec,
    plan: &Plan,
    path: &str,
) -> Result<&'a esp::FileFrom, BuilderError> {
    let bare = uncounted(path);
    let is_it = |plain: &String| same(plain, path) || same(plain, &bare);
    let mut slots = spec.slots.iter();
    let slot = slots.find(|slot| plan.slot.as_ref() == Some(&slot.name));
    let mut own = slot.into_iter().flat_map(|slot| &slot.files);
    if let Some((_, from)) = own.find(|(plain, _)| is_it(plain)) {
        return Ok(from);
    }
    let mut shared = spec.partitions.iter().flat_map(|attrs| &attrs.files);
    let found = shared.find(|(plain, _)| same(plain, path));
    let none = || BuilderError::failed(format!("nothing becomes `{path}`"));
    found.map(|(_, from)| from).ok_or_else(none)
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
