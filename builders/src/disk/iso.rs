//! `builtin:iso`: an image for optical drives that UEFI firmware starts, and that starts from a memory stick as well.
//!
//! ```text
//! 0          partition table; its one partition is the EFI system partition
//! 32 KiB     ISO 9660: descriptors, catalog, directories
//! 1 MiB      EFI system partition (FAT), which the catalog names
//! last MiB   the table again
//! ```
//!
//! Both directories, that of the FAT volume and that of ISO 9660, name the same files, whose bytes are there once.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::gpt::{self, Partition, Table};
use sos_formats::iso9660;
use sos_formats::uuid::Uuid;

use super::assemble::of_fat;
use super::esp::{FileFrom, volume};
use super::fat;
use crate::build::Build;
use crate::filesystem::{FileImage, Image as _, Window};

/// What the partition and the FAT volume are called.
const ESP: &str = "esp";
const ESP_LABEL: [u8; 11] = *b"ESP        ";

/// Makes an image for optical drives.
#[derive(Clone, Copy, Debug, Default)]
pub struct IsoBuilder;

impl Builder for IsoBuilder {
    fn name(&self) -> &'static str {
        "builtin:iso"
    }
    fn pool(&self) -> Pool {
        Pool::Build
    }
    fn revision(&self) -> u32 {
        1
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let attrs: IsoAttrs = ctx.attrs_as()?;
        let out = ctx.out_path("out");
        make(ctx, &attrs, &out)
    }
}

/// What a recipe says about the image.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct IsoAttrs {
    /// The name of the volume.
    pub(super) label: String,
    /// The id of the image as a disk.
    pub(super) uuid: String,
    pub(super) partition_uuid: String,
    pub(super) filesystem_uuid: String,
    /// What is on it, by path.
    pub(super) files: BTreeMap<String, FileFrom>,
    pub(super) epoch: i64,
}

/// Writes the image.
pub(super) fn make(build: &dyn Build, attrs: &IsoAttrs, out: &Path) -> Result<(), BuilderError> {
    let parsed = |uuid: &str| -> Result<Uuid, BuilderError> {
        uuid.parse()
            .map_err(|e| refused(format!("{}: {e}", attrs.label)))
    };
    let io = |what: &'static str| move |e| BuilderError::io(what, e);
    let image = FileImage::create(out).map_err(io("cannot make the image"))?;
    let mut esp = volume(build, &attrs.files)?;
    esp.align = iso9660::SECTOR;
    esp.size = fat::size_for(esp.files.values().map(|source| source.size));
    let filesystem = parsed(&attrs.filesystem_uuid)?;
    esp.serial = u32::from_be_bytes([
        filesystem.0[0],
        filesystem.0[1],
        filesystem.0[2],
        filesystem.0[3],
    ]);
    esp.label = ESP_LABEL;
    esp.epoch = attrs.epoch;
    let mut iso = iso9660::Volume {
        label: attrs.label.clone(),
        epoch: attrs.epoch,
        size: 0,
        boot: 0,
        boot_size: esp.size,
        files: esp
            .files
            .iter()
            .map(|(path, source)| iso9660::File {
                path: path.clone(),
                offset: 0,
                size: source.size,
            })
            .collect(),
    };
    let of_iso = |e: iso9660::IsoError| refused(e.to_string());
    let start = (iso9660::SYSTEM_AREA_BYTES + iso.encode().map_err(of_iso)?.len() as u64)
        .next_multiple_of(gpt::ALIGN);
    esp.hidden = u32::try_from(start / gpt::SECTOR).unwrap_or(0);
    let places = esp
        .write(&Window::new(&image, start, esp.size))
        .map_err(|e| of_fat(ESP, e))?;
    build.log(&format!(
        "{} files, {} bytes at {start}",
        places.len(),
        esp.size
    ));
    iso.size = start + esp.size + gpt::ALIGN;
    iso.boot = start;
    for file in &mut iso.files {
        // An empty file is nowhere; any sector will do.
        file.offset = start + places.get(&file.path).copied().unwrap_or(0);
    }
    let table = Table {
        disk: parsed(&attrs.uuid)?,
        sectors: iso.size / gpt::SECTOR,
        partitions: vec![Partition {
            kind: gpt::type_of(ESP).unwrap_or(Uuid([0; 16])),
            uuid: parsed(&attrs.partition_uuid)?,
            first: start / gpt::SECTOR,
            last: (start + esp.size) / gpt::SECTOR - 1,
            attributes: 0,
            name: ESP.to_owned(),
        }],
    };
    let (head, tail) = table.encode().map_err(|e| refused(e.to_string()))?;
    let volume = iso.encode().map_err(of_iso)?;
    image
        .write_at(0, &head)
        .and_then(|()| image.write_at(iso9660::SYSTEM_AREA_BYTES, &volume))
        .and_then(|()| image.write_at(iso.size - tail.len() as u64, &tail))
        .and_then(|()| image.set_len(iso.size))
        .map_err(io("cannot write the image"))
}

fn refused(message: String) -> BuilderError {
    Diagnostic::error("disk-layout", Class::Recipe, message).into()
}
