//! `builtin:disk`: a raw disk image: a partition table, and in each partition a file system made in its place.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::gpt::{self, GptError, Partition, Table};
use sos_formats::label;
use sos_formats::manifest::Meta;
use sos_formats::uuid::Uuid;
use sos_store::rootfs::RootTree;

use super::esp::{FileFrom, volume};
use super::fat;
use super::input::InputFile;
use crate::build::Build;
use crate::filesystem::{self, Acls, FileImage, Image, Kind, Measured, Options, Window};

/// Larger than any disk that can be bought, and far from where sums overflow.
const MAX_BYTES: u64 = 1 << 50;
/// Partitions of a disk.
const MAX_PARTITIONS: usize = 128;
/// An EFI system partition without a size is at least this large.
const ESP_BYTES: u64 = 64 << 20;

/// Makes a disk image.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskBuilder;

impl Builder for DiskBuilder {
    fn name(&self) -> &'static str {
        "builtin:disk"
    }
    fn pool(&self) -> Pool {
        Pool::Build
    }
    fn revision(&self) -> u32 {
        3
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let attrs: DiskAttrs = ctx.attrs_as()?;
        let out = ctx.out_path("out");
        make(ctx, &attrs, &out).map(|_table| ())
    }
}

/// What a recipe says about a disk.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::disk) struct DiskAttrs {
    /// Bytes; as many as the partitions need when it is not given.
    pub(in crate::disk) size: Option<u64>,
    pub(in crate::disk) uuid: String,
    pub(in crate::disk) partitions: Vec<PartitionAttrs>,
    pub(in crate::disk) epoch: i64,
}

/// What a recipe says about a partition.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::disk) struct PartitionAttrs {
    pub(in crate::disk) name: String,
    /// A word of [`gpt::TYPES`], or a UUID.
    #[serde(rename = "type")]
    pub(in crate::disk) kind: String,
    pub(in crate::disk) uuid: String,
    /// Bytes; as many as its content needs when it is not given.
    pub(in crate::disk) size: Option<u64>,
    /// Whether it takes what is left of the disk; only of the last one.
    pub(in crate::disk) rest: bool,
    pub(in crate::disk) attributes: Vec<Attribute>,
    pub(in crate::disk) filesystem: Option<Format>,
    pub(in crate::disk) filesystem_uuid: String,
    pub(in crate::disk) label: String,
    /// What the file system holds; it is empty without.
    pub(in crate::disk) rootfs: Option<String>,
    /// Bytes that stay free where no size is given.
    pub(in crate::disk) free: u64,
    /// What becomes of access control lists in squashfs.
    pub(in crate::disk) acls: Acls,
    /// What a FAT volume holds, by path.
    pub(in crate::disk) files: BTreeMap<String, FileFrom>,
    /// Bytes that are copied as they are, in place of a file system.
    pub(in crate::disk) image: Option<String>,
}

/// Bits of a partition that the boot process looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::disk) enum Attribute {
    ReadOnly,
    NoAuto,
    Grow,
}

impl PartitionAttrs {
    /// All attributes, as the table has them.
    pub(in crate::disk) fn attribute_bits(&self) -> u64 {
        self.attributes
            .iter()
            .fold(0, |bits, attribute| bits | attribute.bit())
    }
}

impl Attribute {
    fn bit(self) -> u64 {
        match self {
            Self::ReadOnly => 1 << 60,
            Self::NoAuto => 1 << 63,
            Self::Grow => 1 << 59,
        }
    }
}

/// File systems of partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::disk) enum Format {
    Vfat,
    #[serde(untagged)]
    Root(Kind),
}

/// Writes the disk into a new file.
pub(in crate::disk) fn make(
    build: &dyn Build,
    attrs: &DiskAttrs,
    out: &Path,
) -> Result<Table, BuilderError> {
    let image =
        FileImage::create(out).map_err(|e| BuilderError::io("cannot make the disk image", e))?;
    write(build, attrs, &image)
}

/// Writes the disk into an image that is empty, and sets its length.
pub(in crate::disk) fn write(
    build: &dyn Build,
    attrs: &DiskAttrs,
    image: &dyn Image,
) -> Result<Table, BuilderError> {
    check(attrs)?;
    let mut table = Table {
        disk: parsed(&attrs.uuid, "the disk")?,
        sectors: 0,
        partitions: Vec::new(),
    };
    // The copy of the table at the end takes the last whole MiB and what is behind it, so that every partition ends at a whole one.
    let whole = |size| size - size % gpt::ALIGN;
    let end = whole(attrs.size.unwrap_or(MAX_BYTES)).saturating_sub(gpt::ALIGN);
    let mut start = gpt::ALIGN;
    for (number, partition) in attrs.partitions.iter().enumerate() {
        if build.cancelled() {
            return Err(BuilderError::Cancelled);
        }
        let room = end.saturating_sub(start);
        let size = match (partition.rest, partition.size) {
            (true, _) => Some(room),
            (false, size) => size.map(|size| size.next_multiple_of(gpt::ALIGN)),
        };
        if size.is_some_and(|size| size > room || size == 0) {
            return Err(too_small(partition, size.unwrap_or(0), room, attrs));
        }
        let hidden = u32::try_from(start / gpt::SECTOR).unwrap_or(0);
        let window = Window::new(image, start, size.unwrap_or(room));
        let used = match fill(build, partition, size, attrs.epoch, hidden, &window) {
            // What has no size takes what it needs, and has come to the end of the disk, if not of the one that the image is on.
            Err(BuilderError::Io { source, context })
                if size.is_none() && source.kind() == io::ErrorKind::StorageFull =>
            {
                let used = fill(build, partition, None, attrs.epoch, hidden, &Measured)?;
                if used.next_multiple_of(gpt::ALIGN) <= room {
                    return Err(BuilderError::Io { context, source });
                }
                used
            }
            done => done?,
        };
        let size = size.unwrap_or_else(|| used.next_multiple_of(gpt::ALIGN));
        if size == 0 || size > room {
            return Err(too_small(partition, size, room, attrs));
        }
        build.log(&format!("{}: {size} bytes at {start}", partition.name));
        table.partitions.push(Partition {
            kind: kind_of(partition)?,
            uuid: parsed(&partition.uuid, &of(partition))?,
            first: start / gpt::SECTOR,
            last: (start + size) / gpt::SECTOR - 1,
            attributes: partition.attribute_bits(),
            name: partition.name.clone(),
        });
        start += size;
        build.progress(number as u64 + 1, attrs.partitions.len() as u64);
    }
    let size = attrs.size.unwrap_or(start + gpt::ALIGN);
    table.sectors = size / gpt::SECTOR;
    let (head, tail) = table.encode().map_err(|e| of_table(&e))?;
    let put = |at: u64, bytes: &[u8]| image.write_at(at, bytes);
    put(0, &head)
        .and_then(|()| put(size - tail.len() as u64, &tail))
        .and_then(|()| image.set_len(size))
        .map_err(|e| BuilderError::io("cannot write the partition table", e))?;
    Ok(table)
}

/// The bytes that a disk must have at least for its partitions and what is in them.
///
/// # Errors
/// When a partition is too small for what goes into it, on however large a disk.
pub(in crate::disk) fn needed(
    build: &dyn Build,
    attrs: &DiskAttrs,
) -> Result<Needed, BuilderError> {
    check(attrs)?;
    let mut found = Needed {
        bytes: 2 * gpt::ALIGN,
        partitions: Vec::new(),
    };
    for partition in &attrs.partitions {
        let size = partition.size.filter(|_| !partition.rest);
        let size = size.map(|size| size.next_multiple_of(gpt::ALIGN));
        let used = fill(build, partition, size, attrs.epoch, 0, &Measured)?;
        let size = size.unwrap_or_else(|| used.next_multiple_of(gpt::ALIGN).max(gpt::ALIGN));
        found.bytes += size;
        found.partitions.push((partition.name.clone(), size));
    }
    Ok(found)
}

/// See [`needed`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::disk) struct Needed {
    pub(in crate::disk) bytes: u64,
    /// By name.
    pub(in crate::disk) partitions: Vec<(String, u64)>,
}

/// Writes the content of one partition; returns how many bytes it takes.
pub(in crate::disk) fn fill(
    build: &dyn Build,
    partition: &PartitionAttrs,
    size: Option<u64>,
    epoch: i64,
    hidden: u32,
    window: &dyn Image,
) -> Result<u64, BuilderError> {
    if let Some(path) = &partition.image {
        let file = InputFile::find(build, path)?;
        if let Some(room) = size.filter(|room| file.size > *room) {
            return Err(image_too_large(partition, path, file.size, room));
        }
        if !window.is_kept() {
            return Ok(file.size);
        }
        return copy(&file, window, path);
    }
    match partition.filesystem {
        None => Ok(size.unwrap_or(0)),
        Some(Format::Vfat) => {
            let mut volume = volume(build, &partition.files)?;
            let sizes = volume.files.values().map(|source| source.size);
            // Room for the next version beside this one, and for one that is being written.
            volume.size = size.unwrap_or_else(|| (3 * fat::size_for(sizes)).max(ESP_BYTES));
            let uuid = parsed(&partition.filesystem_uuid, &of(partition))?;
            volume.serial = u32::from_be_bytes([uuid.0[0], uuid.0[1], uuid.0[2], uuid.0[3]]);
            volume.label = fat_label(partition)?;
            volume.epoch = epoch;
            volume.hidden = hidden;
            volume
                .write(window)
                .map_err(|e| of_fat(&partition.name, e))?;
            Ok(volume.size)
        }
        Some(Format::Root(kind)) => {
            let root = match &partition.rootfs {
                Some(path) => build.rootfs(path)?,
                None => RootTree::empty_in(
                    build.store(),
                    Meta {
                        mode: 0o755,
                        mtime_secs: epoch,
                        ..Meta::default()
                    },
                )
                .finish(build.store())?,
            };
            let options = Options {
                acls: partition.acls,
                uuid: parsed(&partition.filesystem_uuid, &of(partition))?.0,
                label: partition.label.clone(),
                epoch,
                size,
                free: partition.free,
            };
            let written = filesystem::write(build, kind, &root, &options, window);
            Ok(written.map_err(|e| of_filesystem(partition, e))?.len)
        }
    }
}

/// Copies a file into a partition. Blocks of zeros are left out, where they are zeros already.
pub(in crate::disk) fn copy(
    file: &InputFile,
    window: &dyn Image,
    shown: &str,
) -> Result<u64, BuilderError> {
    let failed = |e: io::Error| BuilderError::io(format!("cannot copy `{shown}` to the disk"), e);
    let mut reader = file.open().map_err(failed)?;
    let mut piece = vec![0; 1 << 16];
    let mut at = 0;
    loop {
        let mut filled = 0;
        while filled < piece.len() {
            match reader.read(&mut piece[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(e)),
            }
        }
        if filled == 0 {
            return Ok(at);
        }
        if piece[..filled].iter().any(|byte| *byte != 0) {
            window.write_at(at, &piece[..filled]).map_err(failed)?;
        }
        at += filled as u64;
    }
}

/// Checks what can be checked before any work.
pub(in crate::disk) fn check(attrs: &DiskAttrs) -> Result<(), BuilderError> {
    if attrs.partitions.is_empty() {
        return Err(wrong("the disk has no partitions".to_owned()));
    }
    if attrs.partitions.len() > MAX_PARTITIONS {
        return Err(wrong(format!(
            "{} partitions; a disk holds {MAX_PARTITIONS}",
            attrs.partitions.len()
        )));
    }
    if attrs.size.is_some_and(|size| size > MAX_BYTES) {
        return Err(wrong(format!(
            "a disk cannot be larger than {MAX_BYTES} bytes"
        )));
    }
    if let Some(size) = attrs.size.filter(|size| !size.is_multiple_of(gpt::SECTOR)) {
        return Err(wrong(format!(
            "a disk is a whole number of sectors of {} bytes, and {size} bytes are none",
            gpt::SECTOR
        )));
    }
    let last = attrs.partitions.len() - 1;
    let mut ids = BTreeMap::from([(parsed(&attrs.uuid, "the disk")?, "the disk".to_owned())]);
    let mut filesystems: BTreeMap<Uuid, String> = BTreeMap::new();
    for (i, partition) in attrs.partitions.iter().enumerate() {
        let name = &partition.name;
        gpt::check_name(name).map_err(|e| of_table(&e))?;
        kind_of(partition)?;
        if partition.size == Some(0) && !partition.rest {
            return Err(wrong(format!(
                "the `size` of the partition `{name}` is 0: give it at least 1 MiB, or leave `size` out"
            )));
        }
        if partition.rest && (i != last || attrs.size.is_none()) {
            return Err(wrong(format!(
                "the partition `{name}` is to take what is left: it must be the last one of a disk with a `size`"
            )));
        }
        let no_content = partition.image.is_none() && partition.filesystem.is_none();
        if no_content && partition.size.is_none() && !partition.rest {
            return Err(wrong(format!(
                "the partition `{name}` needs a `size`, a `filesystem` or an `image`"
            )));
        }
        if partition.filesystem.is_some() && partition.image.is_some() {
            return Err(wrong(format!(
                "the partition `{name}` has both a `filesystem` and an `image`"
            )));
        }
        if no_content && !partition.label.is_empty() {
            return Err(wrong(format!(
                "the partition `{name}` has a `label`, and no `filesystem` that it could be of: its own name is `name`"
            )));
        }
        // Nothing that a recipe names is left out without a word.
        if !partition.files.is_empty() && partition.filesystem != Some(Format::Vfat) {
            return Err(wrong(format!(
                "the partition `{name}` has `files`, which only `filesystem = \"vfat\"` takes: those of another one are files of its `rootfs`, into which `sos.rootfs.edit` puts them"
            )));
        }
        if partition.rootfs.is_some() && !matches!(partition.filesystem, Some(Format::Root(_))) {
            return Err(wrong(format!(
                "the partition `{name}` has a `rootfs`, and no `filesystem` that could hold its owners and modes: ext4, erofs and squashfs do"
            )));
        }
        let what = of(partition);
        if let Some(other) = ids.insert(parsed(&partition.uuid, &what)?, what.clone()) {
            return Err(wrong(format!("{other} and {what} have the same UUID")));
        }
        if let Some(format) = partition.filesystem {
            let id = parsed(
                &partition.filesystem_uuid,
                &format!("the file system of {what}"),
            )?;
            if let Some(other) = filesystems.insert(id, what.clone()) {
                return Err(wrong(format!(
                    "the file systems of {other} and {what} have the same UUID"
                )));
            }
            check_label(partition, format)?;
        }
    }
    Ok(())
}

/// A partition, as messages name it.
fn of(partition: &PartitionAttrs) -> String {
    format!("the partition `{}`", partition.name)
}

fn check_label(partition: &PartitionAttrs, format: Format) -> Result<(), BuilderError> {
    let kind = match format {
        Format::Vfat => "vfat",
        Format::Root(kind) => kind.name(),
    };
    label::check(kind, &partition.label).map_err(|wrong| {
        let message = format!("bad `label` of {}: {wrong}", of(partition));
        let mut problem = Diagnostic::error("disk-layout", Class::Recipe, message);
        let instead = wrong.instead();
        problem
            .helps
            .extend(instead.map(|instead| format!("write `label = \"{instead}\"`")));
        problem.into()
    })
}

fn kind_of(partition: &PartitionAttrs) -> Result<Uuid, BuilderError> {
    gpt::type_of(&partition.kind).ok_or_else(|| {
        let message = format!("`{}` is no type of a partition", partition.kind);
        Diagnostic::error("disk-layout", Class::Recipe, message)
            .suggest(&partition.kind, gpt::TYPES.iter().map(|(name, _)| *name))
            .into()
    })
}

fn parsed(uuid: &str, what: &str) -> Result<Uuid, BuilderError> {
    Uuid::parse_id(uuid).map_err(|e| wrong(format!("{what}: {e}")))
}

fn fat_label(partition: &PartitionAttrs) -> Result<[u8; 11], BuilderError> {
    check_label(partition, Format::Vfat)?;
    let label = &partition.label;
    if label.is_empty() {
        return Ok(*b"NO NAME    ");
    }
    let mut padded = [b' '; 11];
    padded[..label.len()].copy_from_slice(label.as_bytes());
    Ok(padded)
}

fn too_small(partition: &PartitionAttrs, size: u64, room: u64, attrs: &DiskAttrs) -> BuilderError {
    let message = format!(
        "the partition `{}` needs {size} bytes, and {room} are left",
        partition.name
    );
    let problem = Diagnostic::error("disk-full", Class::Recipe, message);
    match attrs.size {
        Some(whole) => problem
            .help(format!("raise `size` of the disk, which is {whole} bytes"))
            .into(),
        None => problem.into(),
    }
}

fn image_too_large(partition: &PartitionAttrs, shown: &str, size: u64, room: u64) -> BuilderError {
    let message = format!(
        "the partition `{}` has {room} bytes, and its image `{shown}` needs {size}",
        partition.name
    );
    let problem = Diagnostic::error("disk-full", Class::Recipe, message);
    problem
        .help(format!(
            "give it `size = {size}` or more, or leave `size` out"
        ))
        .into()
}

fn of_table(error: &GptError) -> BuilderError {
    wrong(error.to_string())
}

/// Names the partition that a root filesystem does not fit into.
fn of_filesystem(partition: &PartitionAttrs, error: BuilderError) -> BuilderError {
    match error {
        BuilderError::Diagnostic(mut problem) if problem.code == "filesystem-full" => {
            problem.code = "disk-full";
            problem.message = format!("{} is too small: {}", of(partition), problem.message);
            BuilderError::Diagnostic(problem)
        }
        BuilderError::Diagnostic(mut problem) if problem.code == "filesystem-large" => {
            problem.message = format!("{} is too large: {}", of(partition), problem.message);
            BuilderError::Diagnostic(problem)
        }
        other => other,
    }
}

pub(in crate::disk) fn of_fat(name: &str, error: fat::FatError) -> BuilderError {
    match error {
        fat::FatError::Io { what, source } => BuilderError::io(what, source),
        fat::FatError::Full { needed, .. } => {
            let message = format!("the partition `{name}` is too small: {error}");
            Diagnostic::error("disk-full", Class::Recipe, message)
                .help(format!("give it `size = {needed}` or more"))
                .into()
        }
        other => wrong(format!("the partition `{name}`: {other}")),
    }
}

fn wrong(message: String) -> BuilderError {
    Diagnostic::error("disk-layout", Class::Recipe, message).into()
}
