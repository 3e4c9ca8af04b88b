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
use std::io::Cursor;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::gpt::{self, Partition, Table};
use sos_formats::iso9660;
use sos_formats::uuid::Uuid;

use super::assemble::of_fat;
use super::esp::{FileFrom, volume};
use super::fat::{self, Source, Volume};
use super::provision::{self, Device};
use super::sign::{Signer, is_program};
use crate::build::Build;
use crate::filesystem::{FileImage, Image as _, Window};

/// What the partition and the FAT volume are called.
const ESP: &str = "esp";
const ESP_LABEL: [u8; 11] = *b"ESP        ";
/// Where a FAT32 volume has its serial number.
const SERIAL_AT: u64 = 67;

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
        2
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

/// An image in the making: what it holds, and what it is called.
struct Parts<'a> {
    label: String,
    disk: Uuid,
    partition: Uuid,
    /// With files, serial number and time.
    esp: Volume<'a>,
}

/// Writes the image that a recipe describes.
pub(super) fn make(build: &dyn Build, attrs: &IsoAttrs, out: &Path) -> Result<(), BuilderError> {
    let parsed = |uuid: &str| -> Result<Uuid, BuilderError> {
        uuid.parse()
            .map_err(|e| refused(format!("{}: {e}", attrs.label)))
    };
    let mut esp = volume(build, &attrs.files)?;
    let [a, b, c, d, ..] = parsed(&attrs.filesystem_uuid)?.0;
    esp.serial = u32::from_be_bytes([a, b, c, d]);
    esp.epoch = attrs.epoch;
    let parts = Parts {
        label: attrs.label.clone(),
        disk: parsed(&attrs.uuid)?,
        partition: parsed(&attrs.partition_uuid)?,
        esp,
    };
    build.log(&format!("{} files", parts.esp.files.len()));
    write(parts, out)
}

/// Whether a device or file has a volume of ISO 9660.
pub(super) fn is_on(device: &Device) -> Result<bool, BuilderError> {
    Ok(iso9660::identity(&descriptor(device)?).is_some())
}

/// Makes an image again with its EFI programs signed: a file that became longer is elsewhere for both of its directories.
pub(super) fn sign(device: &Device, signer: &Signer) -> Result<Vec<String>, BuilderError> {
    let broken = || refused(format!("`{}` is no image of `#iso`", device.path.display()));
    let (label, epoch) = iso9660::identity(&descriptor(device)?).ok_or_else(broken)?;
    let table = device.table()?.ok_or_else(broken)?;
    let [partition] = table.partitions.as_slice() else {
        return Err(broken());
    };
    let mut serial = [0; 4];
    device
        .file
        .read_exact_at(&mut serial, partition.offset() + SERIAL_AT)
        .map_err(|e| BuilderError::io(format!("cannot read `{}`", device.path.display()), e))?;
    let volume = provision::volume::Volume::open(device, partition)?;
    let (mut files, mut done) = (BTreeMap::new(), Vec::new());
    for path in volume.all() {
        let mut bytes = volume.read(&path)?.unwrap_or_default();
        if is_program(&path) {
            bytes = signer.sign(&bytes)?;
            done.push(path.clone());
        }
        files.insert(path, held(bytes.into()));
    }
    let parts = Parts {
        label,
        disk: table.disk,
        partition: partition.uuid,
        esp: Volume {
            size: 0,
            label: ESP_LABEL,
            serial: u32::from_le_bytes(serial),
            epoch,
            files,
            hidden: 0,
            align: 0,
        },
    };
    let mut draft = device.path.clone().into_os_string();
    draft.push(".signed");
    write(parts, Path::new(&draft))?;
    std::fs::rename(&draft, &device.path)
        .map_err(|e| BuilderError::io(format!("cannot write `{}`", device.path.display()), e))?;
    Ok(done)
}

/// A file that is in memory.
fn held<'a>(bytes: Arc<[u8]>) -> Source<'a> {
    Source {
        size: bytes.len() as u64,
        open: Box::new(move || Ok(Box::new(Cursor::new(Arc::clone(&bytes))))),
    }
}

/// The sector behind the system area.
fn descriptor(device: &Device) -> Result<Vec<u8>, BuilderError> {
    let mut sector = vec![0; 2048];
    let read = device
        .file
        .read_exact_at(&mut sector, iso9660::SYSTEM_AREA_BYTES);
    read.map_err(|e| BuilderError::io(format!("cannot read `{}`", device.path.display()), e))?;
    Ok(sector)
}

fn write(mut parts: Parts<'_>, out: &Path) -> Result<(), BuilderError> {
    let io = |what: &'static str| move |e| BuilderError::io(what, e);
    let image = FileImage::create(out).map_err(io("cannot make the image"))?;
    let esp = &mut parts.esp;
    esp.label = ESP_LABEL;
    esp.align = iso9660::SECTOR;
    esp.size = fat::size_for(esp.files.values().map(|source| source.size));
    let of_source = |(path, source): (&String, &Source<'_>)| iso9660::File {
        path: path.clone(),
        offset: 0,
        size: source.size,
    };
    let mut iso = iso9660::Volume {
        label: parts.label,
        epoch: esp.epoch,
        size: 0,
        boot: 0,
        boot_size: esp.size,
        files: esp.files.iter().map(of_source).collect(),
    };
    let of_iso = |e: iso9660::IsoError| refused(e.to_string());
    let start = (iso9660::SYSTEM_AREA_BYTES + iso.encode().map_err(of_iso)?.len() as u64)
        .next_multiple_of(gpt::ALIGN);
    esp.hidden = u32::try_from(start / gpt::SECTOR).unwrap_or(0);
    let places = esp
        .write(&Window::new(&image, start, esp.size))
        .map_err(|e| of_fat(ESP, e))?;
    iso.size = start + esp.size + gpt::ALIGN;
    iso.boot = start;
    for file in &mut iso.files {
        // An empty file is nowhere; any sector will do.
        file.offset = start + places.get(&file.path).copied().unwrap_or(0);
    }
    let table = Table {
        disk: parts.disk,
        sectors: iso.size / gpt::SECTOR,
        partitions: vec![Partition {
            kind: gpt::type_of(ESP).unwrap_or(Uuid([0; 16])),
            uuid: parts.partition,
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
