//! Devices that are made from the description of a disk, brought to its version, and compared with it.
//!
//! `builtin:provision` keeps the description with all that it names. A device without a partition table gets the whole layout; one that
//! has it gets the new version into the slot that is not in use: root first, then what starts it, with a counter in its name, so
//! that the loader goes back to the version before when the new one does not start.

mod apply;
mod claim;
mod clusters;
mod device;
mod drift;
mod entries;
mod kept;
mod loops;
mod plan;
mod report;
mod room;
mod roots;
mod slots;
pub(in crate::disk) mod volume;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Blake3;
use sos_formats::store_path::StorePath;
use sos_store::Store;

pub use claim::used_by;
pub use device::Device;
pub use drift::Difference;
pub(in crate::disk) use entries::entry_kernels;
pub use plan::{Plan, Step, Wish};
pub use report::{Report, SlotState};

use super::assemble::PartitionAttrs;
use super::esp::FileFrom;
use super::sign::Signer;
use crate::build::Build;

/// The file with the description.
const LAYOUT: &str = "layout.json";
/// The largest description.
const MAX_LAYOUT: u64 = 16 << 20;

/// Keeps the description of a disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProvisionBuilder;

impl Builder for ProvisionBuilder {
    fn name(&self) -> &'static str {
        "builtin:provision"
    }
    fn pool(&self) -> Pool {
        Pool::Build
    }
    fn revision(&self) -> u32 {
        1
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        // Read once, so that what is wrong in it is told now.
        let _sound: Spec = ctx.attrs_as()?;
        let out = ctx.out_path("out");
        let write = |out: &Path| {
            std::fs::create_dir(out)?;
            std::fs::write(out.join(LAYOUT), serde_json::to_vec(&ctx.attrs)?)
        };
        write(&out).map_err(|e| BuilderError::io("cannot write the layout", e))
    }
}

/// What a device is to be.
#[derive(Clone, Debug, Deserialize)]
pub struct Spec {
    /// The name of the system, with which its entries begin.
    pub image: String,
    /// Its version.
    pub version: String,
    uuid: String,
    #[serde(default)]
    size: Option<u64>,
    epoch: i64,
    partitions: Vec<PartitionAttrs>,
    slots: Vec<Slot>,
    root: String,
    filesystem: crate::filesystem::Kind,
    /// How often a new version is tried.
    tries: u32,
}

/// A partition for a root, and the files on the EFI system partition that start it.
#[derive(Clone, Debug, Deserialize)]
struct Slot {
    name: String,
    files: BTreeMap<String, FileFrom>,
    /// What is copied into which partition, where the root was made beforehand: it and its hashes.
    #[serde(default)]
    images: BTreeMap<String, String>,
}

impl Spec {
    /// Reads the description out of what `builtin:provision` has made, which messages call `shown`.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(dir: &Path, shown: &str) -> Result<Self, BuilderError> {
        let file = dir.join(LAYOUT);
        let none = |why: String| {
            let message = format!("`{shown}` does not describe a disk: {why}");
            BuilderError::from(
                Diagnostic::error("provision-no-layout", Class::Usage, message)
                    .help("name a disk, as in `.#disk` or `./web.rootfs.toml#disk`"),
            )
        };
        let meta = std::fs::metadata(&file).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
                none("it was made for something else".to_owned())
            }
            _ => none(e.to_string()),
        })?;
        if meta.len() > MAX_LAYOUT {
            return Err(none("it is too large".to_owned()));
        }
        let bytes = std::fs::read(&file).map_err(|e| none(e.to_string()))?;
        serde_json::from_slice(&bytes).map_err(|e| none(e.to_string()))
    }
}

/// The store outside a build: what a description names is there, because it is kept with it.
pub struct Sources<'a> {
    /// The store.
    pub store: &'a Store,
    /// Threads that may work.
    pub cores: usize,
    /// Takes what is told on the way.
    pub told: &'a dyn Fn(&str),
}

impl Sources<'_> {
    /// Looks at a device and decides what is to be done: the whole layout, a new version in a free slot, or what differs of the
    /// version that is there.
    ///
    /// # Errors
    /// When the device has something else on it, no slot is free, or something has no room: nothing was written then.
    pub fn plan(&self, spec: &Spec, device: &Device, wish: Wish<'_>) -> Result<Plan, BuilderError> {
        plan::plan(self, spec, device, wish)
    }

    /// Does what a plan says, and tells each step. Each part is on the disk before the next begins. With a signer, EFI programs are
    /// signed as they are written.
    ///
    /// # Errors
    /// When something cannot be read or written; the version that started before still does.
    pub fn apply(
        &self,
        spec: &Spec,
        device: &Device,
        plan: &Plan,
        signer: Option<&Signer>,
    ) -> Result<(), BuilderError> {
        apply::apply(self, spec, device, plan, signer)
    }

    /// Says which version is in which slot, and compares the partition table, the files that start the system, and the root of the
    /// version if nothing may write to it. It is a difference when the version is in no slot, and when another one starts in its place;
    /// another version in another slot is none. Of a root that a system writes to, only what tells one file system from another is
    /// compared; what is added to the EFI system partition is no difference, and neither is a signature of an EFI program. The report
    /// lists what was not looked at.
    ///
    /// # Errors
    /// When the device or the store cannot be read.
    pub fn drift(&self, spec: &Spec, device: &Device) -> Result<Report, BuilderError> {
        drift::drift(self, spec, device)
    }

    fn split<'p>(&self, path: &'p str) -> Result<(StorePath, &'p str), BuilderError> {
        StorePath::split_absolute(self.store.store_dir(), path)
            .map_err(|e| BuilderError::failed(format!("`{path}` is no store path: {e}")))
    }
}

impl Build for Sources<'_> {
    fn name(&self) -> &str {
        "provision"
    }
    fn store(&self) -> &Store {
        self.store
    }
    fn rootfs(&self, path: &str) -> Result<Blake3, BuilderError> {
        let (object, _) = self.split(path)?;
        let info = self.store.query(&object)?;
        info.and_then(|info| info.root).ok_or_else(|| {
            BuilderError::failed(format!("`{path}` is no root filesystem in the store"))
        })
    }
    fn tree(&self, path: &str) -> Result<PathBuf, BuilderError> {
        let (object, rest) = self.split(path)?;
        let place = self.store.physical(&object);
        let rest = rest.trim_start_matches('/');
        Ok(if rest.is_empty() {
            place
        } else {
            place.join(rest)
        })
    }
    fn cores(&self) -> usize {
        self.cores
    }
    fn log(&self, line: &str) {
        (self.told)(line);
    }
    fn warn(&self, warning: Diagnostic) {
        (self.told)(&format!("warning: {}", warning.message));
    }
    fn progress(&self, _done: u64, _total: u64) {}
    fn cancelled(&self) -> bool {
        false
    }
}

fn refused(code: &'static str, message: impl Into<String>) -> Diagnostic {
    Diagnostic::error(code, Class::Machine, message)
}
