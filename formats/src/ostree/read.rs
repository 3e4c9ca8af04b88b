//! Objects that somebody else may have written, read.

use std::collections::BTreeMap;

use super::{MAX_METADATA_BYTES, ObjectKind, Xattrs, checksum};
use crate::gvariant::{self, GVariantError, TupleReader};
use crate::hash::Sha256;

/// The largest header of a content object, in bytes; xattrs are far smaller.
pub const MAX_HEADER_BYTES: usize = 16 << 20;
/// Bytes before a header: its length, big-endian, and as much padding.
pub const FRAME_BYTES: usize = 8;

/// Owner, mode and xattrs, as dirmeta objects and `user.ostreemeta` hold them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// With the type bits.
    pub mode: u32,
    /// Names without NUL.
    pub xattrs: Xattrs,
}

/// A file or link, as the header of its content object describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileView {
    /// Owner, mode and xattrs.
    pub attributes: Attributes,
    /// The target of a link, else empty.
    pub target: String,
}

/// What a directory holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DirTreeView {
    /// Files and links by name, with their content objects.
    pub files: BTreeMap<String, Sha256>,
    /// Directories by name, with their dirtree and dirmeta objects.
    pub dirs: BTreeMap<String, (Sha256, Sha256)>,
}

/// Reads a dirmeta object.
///
/// # Errors
/// When the bytes are none.
pub fn read_dirmeta(bytes: &[u8]) -> Result<Attributes, GVariantError> {
    if bytes.len() > MAX_METADATA_BYTES {
        return Err(GVariantError("it is larger than metadata may be"));
    }
    let mut reader = TupleReader::new(bytes);
    let (uid, gid, mode) = ids(&mut reader)?;
    let xattrs = read_xattrs(reader.last(1)?)?;
    Ok(Attributes {
        uid,
        gid,
        mode,
        xattrs,
    })
}

/// Reads a dirtree object.
///
/// # Errors
/// When the bytes are none, or a name is not one of a file.
pub fn read_dirtree(bytes: &[u8]) -> Result<DirTreeView, GVariantError> {
    if bytes.len() > MAX_METADATA_BYTES {
        return Err(GVariantError("it is larger than metadata may be"));
    }
    let mut reader = TupleReader::new(bytes);
    let (files, dirs) = (reader.variable(1)?, reader.last(1)?);
    let mut view = DirTreeView::default();
    for entry in gvariant::elements(files, 1)? {
        let mut entry = TupleReader::new(entry);
        let name = file_name(entry.variable(1)?)?;
        view.files.insert(name, checksum(entry.last(1)?)?);
    }
    for entry in gvariant::elements(dirs, 1)? {
        let mut entry = TupleReader::new(entry);
        let name = file_name(entry.variable(1)?)?;
        let tree = checksum(entry.variable(1)?)?;
        if view.files.contains_key(&name) {
            return Err(GVariantError("a name is a file and a directory"));
        }
        view.dirs.insert(name, (tree, checksum(entry.last(1)?)?));
    }
    Ok(view)
}

/// Reads the header of a content object, without its frame.
///
/// # Errors
/// When the bytes are none.
pub fn read_header(bytes: &[u8]) -> Result<FileView, GVariantError> {
    header(TupleReader::new(bytes))
}

/// Reads the header of a `.filez` object, without its frame; gives the size of the file, in bytes, too.
///
/// # Errors
/// When the bytes are none.
pub fn read_filez_header(bytes: &[u8]) -> Result<(u64, FileView), GVariantError> {
    let mut reader = TupleReader::new(bytes);
    let size = u64::from_be_bytes(reader.fixed(8)?);
    Ok((size, header(reader)?))
}

/// Reads the frame of a header: how long it is.
///
/// # Errors
/// When it is longer than [`MAX_HEADER_BYTES`] or not padded with zeros.
pub fn read_frame(frame: [u8; FRAME_BYTES]) -> Result<usize, GVariantError> {
    let (len, padding) = frame.split_at(4);
    let len = len
        .iter()
        .fold(0_usize, |len, byte| len << 8 | usize::from(*byte));
    if padding != [0; 4] || len > MAX_HEADER_BYTES {
        return Err(GVariantError("the frame of a header is wrong"));
    }
    Ok(len)
}

/// Reads detached metadata or a `summary.sig`, `a{sv}`: each key with its value as a `v` is written.
///
/// # Errors
/// When the bytes are none.
pub fn read_dict(bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, GVariantError> {
    if bytes.len() > MAX_METADATA_BYTES {
        return Err(GVariantError("it is larger than metadata may be"));
    }
    let mut found = BTreeMap::new();
    for entry in gvariant::elements(bytes, 8)? {
        let mut reader = TupleReader::new(entry);
        let key = gvariant::text(reader.variable(1)?)?.to_owned();
        found.insert(key, reader.last(8)?.to_vec());
    }
    Ok(found)
}

/// Reads a boxed `aay`.
///
/// # Errors
/// When it is of another type.
pub fn read_byte_arrays(boxed: &[u8]) -> Result<Vec<Vec<u8>>, GVariantError> {
    let array = boxed
        .strip_suffix(b"\0aay")
        .ok_or(GVariantError("it is no array of byte arrays"))?;
    let elements = gvariant::elements(array, 1)?;
    Ok(elements.into_iter().map(<[u8]>::to_vec).collect())
}

impl ObjectKind {
    /// Returns the number that stands for the kind in static deltas; both forms of files are one kind.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::File | Self::Filez => 1,
            Self::DirTree => 2,
            Self::DirMeta => 3,
            Self::Commit => 4,
        }
    }
}

fn header(mut reader: TupleReader<'_>) -> Result<FileView, GVariantError> {
    let (uid, gid, mode) = ids(&mut reader)?;
    if reader.fixed::<4>(4)? != [0; 4] {
        return Err(GVariantError("a file has the number of a device"));
    }
    let target = gvariant::text(reader.variable(1)?)?.to_owned();
    let xattrs = read_xattrs(reader.last(1)?)?;
    Ok(FileView {
        attributes: Attributes {
            uid,
            gid,
            mode,
            xattrs,
        },
        target,
    })
}

fn ids(reader: &mut TupleReader<'_>) -> Result<(u32, u32, u32), GVariantError> {
    let mut number = || reader.fixed(4).map(u32::from_be_bytes);
    Ok((number()?, number()?, number()?))
}

fn read_xattrs(bytes: &[u8]) -> Result<Xattrs, GVariantError> {
    let mut xattrs = Xattrs::new();
    for pair in gvariant::elements(bytes, 1)? {
        let mut pair = TupleReader::new(pair);
        let name = pair.variable(1)?;
        let name = name.strip_suffix(b"\0").unwrap_or(name);
        if name.is_empty() || name.contains(&0) {
            return Err(GVariantError("an xattr has no name"));
        }
        xattrs.insert(name.to_vec(), pair.last(1)?.to_vec());
    }
    Ok(xattrs)
}

fn file_name(bytes: &[u8]) -> Result<String, GVariantError> {
    let name = gvariant::text(bytes)?;
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        return Err(GVariantError("a name is not one of a file"));
    }
    Ok(name.to_owned())
}
