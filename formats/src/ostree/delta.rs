//! Static deltas: objects of a commit, packed, for those who have another commit or none.
//!
//! # Format
//! A delta is a directory, `deltas/<2>/<41>[-<43>]`, whose name is the checksum of the commit that it begins at and that of the one
//! it leads to, or the latter alone, in base 64. In it are
//! * `superblock`, `(a{sv}tayay(a{sv}aya(say)sstayay)aya(uayttay)a(yaytt))`: metadata, time, from, to, the commit, what else is needed,
//!   the parts, objects that are to be fetched alone;
//! * parts `0`, `1`, ...: a byte, `0` for plain or `x` for xz, then `(a(uuu)aa(ayay)ayay)`: owners and modes, sets of xattrs, bytes,
//!   operations.
//!
//! Of the operations only `S` is written: an object whole. Its arguments are varints, seven bits a byte, lowest first: for metadata
//! length and offset of its bytes, for files the places of its mode and its xattrs, then length and offset. A link's bytes are its target.
//! Integers in the superblock are of the order that `ostree.endianness` names, except its time, which is big-endian; owners and modes
//! are big-endian. Detached metadata of the commit is in the superblock's metadata, under `<the directory>/commitmeta`.
//!
//! Source: `ostree-repo-static-delta-private.h` of libostree.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::{Attributes, ObjectKind, Xattrs};
use crate::Bytes;
use crate::gvariant::{self, Array, Tuple, Variant};
use crate::hash::Sha256;

/// The operation that writes an object whole.
const SPLICE: u8 = b'S';

/// Returns where a delta lies below the top of a repository, without a slash at the end.
#[must_use]
pub fn delta_dir(from: Option<&Sha256>, to: &Sha256) -> String {
    let name = |checksum: &Sha256| STANDARD_NO_PAD.encode(checksum.0).replace('/', "_");
    let first = name(from.unwrap_or(to));
    let (dir, rest) = first.split_at(2);
    match from {
        Some(_) => format!("deltas/{dir}/{rest}-{}", name(to)),
        None => format!("deltas/{dir}/{rest}"),
    }
}

/// Reads the name of a delta: the two levels of [`delta_dir`], without `deltas`.
#[must_use]
pub fn parse_delta_dir(dir: &str, rest: &str) -> Option<(Option<Sha256>, Sha256)> {
    let decode = |name: &str| {
        let bytes = STANDARD_NO_PAD.decode(name.replace('_', "/")).ok()?;
        bytes.try_into().ok().map(Sha256)
    };
    let name = format!("{dir}{rest}");
    match name.split_once('-') {
        Some((from, to)) => Some((Some(decode(from)?), decode(to)?)),
        None => Some((None, decode(&name)?)),
    }
}

/// A part of a delta as it is put together.
#[derive(Clone, Debug, Default)]
pub struct DeltaPart {
    modes: Vec<(u32, u32, u32)>,
    xattrs: Vec<Xattrs>,
    payload: Bytes,
    operations: Bytes,
    /// Each object: number of its kind, checksum.
    objects: Bytes,
}

impl DeltaPart {
    /// Begins an empty part.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes of objects so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.payload.len() as u64
    }

    /// Whether no object is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Adds a dirtree or dirmeta object.
    pub fn metadata(&mut self, kind: ObjectKind, checksum: &Sha256, bytes: &[u8]) {
        self.object(kind, checksum);
        let offset = self.payload.len();
        self.payload.extend_from_slice(bytes);
        self.operations.push(SPLICE);
        varint(&mut self.operations, bytes.len());
        varint(&mut self.operations, offset);
    }

    /// Adds a file with its content, or a link with its target.
    pub fn file(&mut self, checksum: &Sha256, attributes: &Attributes, bytes: &[u8]) {
        self.object(ObjectKind::File, checksum);
        let ids = (attributes.uid, attributes.gid, attributes.mode);
        let mode = place(&mut self.modes, &ids);
        let xattrs = place(&mut self.xattrs, &attributes.xattrs);
        let offset = self.payload.len();
        self.payload.extend_from_slice(bytes);
        self.operations.push(SPLICE);
        for number in [mode, xattrs, bytes.len(), offset] {
            varint(&mut self.operations, number);
        }
    }

    fn object(&mut self, kind: ObjectKind, checksum: &Sha256) {
        self.objects.push(kind.number());
        self.objects.extend_from_slice(&checksum.0);
    }

    /// Ends the part: its bytes before compression, the list of its objects, and the bytes of those.
    #[must_use]
    pub fn finish(self) -> (Bytes, Bytes, u64) {
        let mut modes = Bytes::new();
        for (uid, gid, mode) in &self.modes {
            for number in [uid, gid, mode] {
                modes.extend_from_slice(&number.to_be_bytes());
            }
        }
        let mut xattrs = Array::new(1);
        for one in &self.xattrs {
            xattrs.push(&super::xattr_bytes(one));
        }
        let size = self.size();
        let mut tuple = Tuple::new();
        tuple.variable(4, &modes).variable(1, &xattrs.finish());
        tuple.bytes(&self.payload).bytes(&self.operations);
        (tuple.finish(), self.objects, size)
    }
}

/// What the superblock says of a part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartEntry {
    /// SHA-256 of the part's file.
    pub checksum: Sha256,
    /// Size of that file, in bytes.
    pub size: u64,
    /// Bytes of the objects in it.
    pub objects_size: u64,
    /// The list of its objects, as [`DeltaPart::finish`] gives it.
    pub objects: Bytes,
}

/// An object that is too large to be packed, and is fetched as others are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fallback {
    /// The checksum of the file.
    pub checksum: Sha256,
    /// Size as it is served, in bytes.
    pub stored_size: u64,
    /// Size of the file, in bytes.
    pub size: u64,
}

/// The beginning of a delta.
#[derive(Clone, Debug)]
pub struct Superblock<'a> {
    /// The commit that the reader has.
    pub from: Option<Sha256>,
    /// The commit that it leads to.
    pub to: Sha256,
    /// The object of the commit `to`.
    pub commit: &'a [u8],
    /// The time of that commit, seconds since 1970: a delta has no time of its own here.
    pub timestamp: u64,
    /// The parts in their order.
    pub parts: Vec<PartEntry>,
    /// What is not in them.
    pub fallbacks: Vec<Fallback>,
    /// The detached metadata of that commit, an `a{sv}`: its signatures. Readers verify the commit before they ask for anything else.
    pub detached: Option<&'a [u8]>,
}

impl Superblock<'_> {
    /// Writes it.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut about =
            BTreeMap::from([("ostree.endianness".to_owned(), Variant::Byte(b'l').boxed())]);
        if let Some(detached) = self.detached {
            let key = format!("{}/commitmeta", delta_dir(self.from.as_ref(), &self.to));
            about.insert(key, [detached, b"\0a{sv}"].concat());
        }
        let mut parts = Array::new(8);
        for part in &self.parts {
            let mut entry = Tuple::new();
            entry.u32_le(0).bytes(&part.checksum.0);
            entry.u64_le(part.size).u64_le(part.objects_size);
            entry.bytes(&part.objects);
            parts.push(&entry.finish());
        }
        let mut fallbacks = Array::new(8);
        for one in &self.fallbacks {
            let mut entry = Tuple::new();
            entry.byte(ObjectKind::File.number()).bytes(&one.checksum.0);
            entry.u64_le(one.stored_size).u64_le(one.size);
            fallbacks.push(&entry.finish());
        }
        let mut tuple = Tuple::new();
        tuple.variable(8, &gvariant::dict_of_boxed(&about));
        tuple.u64_be(self.timestamp);
        tuple.bytes(self.from.as_ref().map_or(&[][..], |from| &from.0));
        tuple.bytes(&self.to.0);
        tuple.variable(8, self.commit);
        // Other deltas that would have to be applied before.
        tuple.bytes(&[]);
        tuple.variable(8, &parts.finish());
        tuple.variable(8, &fallbacks.finish());
        tuple.finish()
    }
}

fn place<T: Clone + PartialEq>(list: &mut Vec<T>, value: &T) -> usize {
    list.iter().position(|one| one == value).unwrap_or_else(|| {
        list.push(value.clone());
        list.len() - 1
    })
}

fn varint(bytes: &mut Bytes, number: usize) {
    let mut rest = number;
    loop {
        let low = u8::try_from(rest & 0x7f).unwrap_or(0);
        rest >>= 7;
        if rest == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}
