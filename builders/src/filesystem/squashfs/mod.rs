//! Squashfs, compressed with zstd: the smallest, for reading only.
//!
//! # Format
//! The superblock; the data of all files in blocks of 128 KiB, each file's last part together with others' in fragments; then the
//! tables: inodes, directories, fragments, owners, xattrs. Tables are cut into blocks of 8 KiB, and an inode is named by where its
//! block begins and its place in it. Directories name inodes, so an inode is written after all that lead further down.
//! Files of the same content share their data. Times have whole seconds.
//!
//! # Source
//! The kernel's `Documentation/filesystems/squashfs.rst` and `fs/squashfs/squashfs_fs.h`.

mod acls;
mod contents;
mod dirs;
mod tables;
mod xattrs;

use std::collections::BTreeMap;

use sos_engine::BuilderError;
use sos_formats::Bytes;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Blake3;

use contents::{Contents, Stored};
use dirs::{Index, Listed, runs};
use tables::{Metadata, table};
use xattrs::Attributes;

use super::data::{BLOCK, put, unwritten};
use super::ext4::device_number;
use super::image::Image;
use super::options::{Acls, Kind, Options, Written};
use super::tree::{Content, Inode, Tree};
use crate::build::Build;
use crate::unfit::Unfit;

const MAGIC: u32 = 0x7371_7368;
const SUPERBLOCK_BYTES: usize = 96;
/// The size of a block of data, as a power of two.
const BLOCK_LOG: u16 = 17;
const DATA_BYTES: u64 = 1 << BLOCK_LOG;
const ZSTD: u16 = 6;
/// What is compressed is compressed with this.
const LEVEL: i32 = 15;
/// Files share data; no xattrs.
const FLAG_DUPLICATES: u16 = 0x40;
const FLAG_NO_XATTRS: u16 = 0x200;
/// Stands for no table, no fragment, no xattrs.
const NONE: u32 = u32::MAX;
/// The most owners and groups together.
const MAX_IDS: usize = 65_535;

/// Writes a squashfs file system.
pub(super) fn write(
    build: &dyn Build,
    root: &Blake3,
    options: &Options,
    image: &dyn Image,
) -> Result<Written, BuilderError> {
    let mut tree = Tree::read(build, root, options.epoch)?;
    let mut attributes = Attributes::default();
    let mut owners = Owners::default();
    let mut unfit = Kind::Squashfs.unfit();
    match options.acls {
        Acls::Drop => acls::drop_all(build, &mut tree, &mut unfit),
        Acls::Refuse => acls::refuse_all(&mut tree, &mut unfit),
    }
    let mut xattrs = Vec::with_capacity(tree.inodes.len());
    for inode in &tree.inodes {
        check(inode, &mut unfit);
        owners.add(inode.meta.uid);
        owners.add(inode.meta.gid);
        xattrs.push(attributes.add(&inode.meta.xattrs).unwrap_or_else(|rule| {
            unfit.push(&inode.path, &rule);
            NONE
        }));
    }
    if owners.list.len() > MAX_IDS {
        unfit.push(
            &tree.inodes[0].path,
            "files have at most 65535 different owners and groups",
        );
    }
    unfit.finish()?;
    if let Some(size) = options.size.filter(|_| !image.is_kept())
        && most_bytes(&tree) <= size
    {
        return Ok(Written {
            len: size / BLOCK * BLOCK,
        });
    }
    let begin = SUPERBLOCK_BYTES as u64;
    let contents = Contents::write(build, &tree, begin, image)?;
    let mut writer = Writer {
        tree: &tree,
        contents: &contents,
        owners: &owners,
        xattrs: &xattrs,
        inodes: Metadata::default(),
        dirs: Metadata::default(),
        places: vec![0; tree.inodes.len()],
    };
    writer.all()?;
    let Writer {
        inodes,
        dirs,
        places,
        ..
    } = writer;
    let mut out = Tail {
        image,
        at: contents.end,
    };
    let inode_table = out.put(&inodes.finish()?)?;
    let directory_table = out.put(&dirs.finish()?)?;
    let fragment_table = out.table(&contents.fragment_bytes())?;
    let id_table = out.table(&owners.bytes())?;
    let xattr_table = match attributes.is_empty() {
        true => u64::MAX,
        false => attributes.write(&mut out)?,
    };
    let used = out.at;
    let len = match options.size {
        None => used.next_multiple_of(BLOCK),
        Some(size) if size / BLOCK * BLOCK >= used => size / BLOCK * BLOCK,
        Some(size) => return Err(full(size, used).into()),
    };
    let mut block = [0; SUPERBLOCK_BYTES];
    let mut put_at = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    put_at(0, &MAGIC.to_le_bytes());
    put_at(4, &small(tree.inodes.len()));
    put_at(8, &options.epoch.to_le_bytes()[..4]);
    put_at(12, &DATA_BYTES.to_le_bytes()[..4]);
    put_at(16, &small(contents.fragments.len()));
    put_at(20, &ZSTD.to_le_bytes());
    put_at(22, &BLOCK_LOG.to_le_bytes());
    let no_xattrs = if attributes.is_empty() {
        FLAG_NO_XATTRS
    } else {
        0
    };
    put_at(24, &(FLAG_DUPLICATES | no_xattrs).to_le_bytes());
    put_at(26, &small(owners.list.len())[..2]);
    put_at(28, &4_u16.to_le_bytes());
    for (at, value) in [
        (32, places[0]),
        (40, used),
        (48, id_table),
        (56, xattr_table),
        (64, inode_table),
        (72, directory_table),
        (80, fragment_table),
        (88, u64::MAX),
    ] {
        put_at(at, &value.to_le_bytes());
    }
    put(image, 0, &block)?;
    image.set_len(len).map_err(unwritten)?;
    build.log(&format!(
        "squashfs: {} inodes, {used} bytes",
        tree.inodes.len()
    ));
    Ok(Written { len })
}

/// More than the file system takes, however badly everything compresses: only compressing tells how long it is, and most have much
/// more room.
fn most_bytes(tree: &Tree) -> u64 {
    let of = |inode: &Inode| {
        let xattrs = inode.meta.xattrs.iter();
        let xattrs: u64 = xattrs
            .map(|(key, value)| (key.len() + value.len() + 32) as u64)
            .sum();
        let content = match &inode.content {
            // Each block has its length in the inode.
            Content::File { size, .. } => size + 4 * size.div_ceil(DATA_BYTES),
            Content::Symlink { target } => target.len() as u64,
            Content::Dir { entries, .. } => {
                entries.iter().map(|(name, _)| name.len() as u64 + 32).sum()
            }
            _ => 0,
        };
        content + xattrs + 128
    };
    // Tables are cut into blocks, which have heads.
    let all: u64 = tree.inodes.iter().map(of).sum();
    all + all / 64 + (1 << 20)
}

fn full(size: u64, used: u64) -> Diagnostic {
    let message =
        format!("this root filesystem does not fit into a squashfs file system of {size} bytes");
    Diagnostic::error("filesystem-full", Class::Recipe, message)
        .help(format!("it needs {} bytes", used.next_multiple_of(BLOCK)))
}

/// Notes the rules that an inode breaks.
fn check(inode: &Inode, unfit: &mut Unfit) {
    if u32::try_from(inode.meta.mtime_secs).is_err() {
        unfit.push(&inode.path, "times are between the years 1970 and 2106");
    }
    if let Content::CharDev { major, minor } | Content::BlockDev { major, minor } = inode.content
        && device_number(major, minor).is_none()
    {
        unfit.push(
            &inode.path,
            "device numbers are below 4096 (major) and 1048576 (minor)",
        );
    }
}

/// Where the tables go, one after the other.
pub(super) struct Tail<'a> {
    image: &'a dyn Image,
    at: u64,
}

impl Tail<'_> {
    /// Writes bytes and gives where they begin.
    fn put(&mut self, bytes: &[u8]) -> Result<u64, BuilderError> {
        let begin = self.at;
        put(self.image, begin, bytes)?;
        self.at += bytes.len() as u64;
        Ok(begin)
    }

    /// Writes a table that is found through a list of where its blocks begin; gives where the list is.
    fn table(&mut self, bytes: &[u8]) -> Result<u64, BuilderError> {
        let (blocks, begins) = table(bytes, self.at)?;
        self.put(&blocks)?;
        self.put(&begins)
    }
}

/// Owners and groups, in the order in which they were met.
#[derive(Default)]
struct Owners {
    list: Vec<u32>,
    places: BTreeMap<u32, usize>,
}

impl Owners {
    fn add(&mut self, id: u32) {
        if !self.places.contains_key(&id) {
            self.places.insert(id, self.list.len());
            self.list.push(id);
        }
    }

    fn place(&self, id: u32) -> [u8; 2] {
        let at = self.places.get(&id).copied().unwrap_or(0);
        u16::try_from(at).unwrap_or(0).to_le_bytes()
    }

    fn bytes(&self) -> Bytes {
        self.list.iter().flat_map(|id| id.to_le_bytes()).collect()
    }
}

/// Inodes and directories being written.
struct Writer<'a> {
    tree: &'a Tree,
    contents: &'a Contents,
    owners: &'a Owners,
    xattrs: &'a [u32],
    inodes: Metadata,
    dirs: Metadata,
    /// Where each inode is: its block, and 16 bits for its place there.
    places: Vec<u64>,
}

impl Writer<'_> {
    /// Writes all inodes: first what is no directory, which may have names anywhere, then directories from the last to the first.
    fn all(&mut self) -> Result<(), BuilderError> {
        let is_dir = |at: &usize| matches!(self.tree.inodes[*at].content, Content::Dir { .. });
        let (dirs, others): (Vec<usize>, Vec<usize>) =
            (0..self.tree.inodes.len()).partition(is_dir);
        for at in others.into_iter().chain(dirs.into_iter().rev()) {
            let bytes = self.inode(at)?;
            self.places[at] = self.inodes.put(&bytes)?;
        }
        Ok(())
    }

    fn inode(&mut self, at: usize) -> Result<Bytes, BuilderError> {
        let inode = &self.tree.inodes[at];
        let xattrs = self.xattrs[at];
        let mut out = Vec::with_capacity(64);
        let (kind, body) = match &inode.content {
            Content::Dir { parent, entries } => {
                (8, self.directory(inode, *parent, entries, xattrs)?)
            }
            Content::File { size, .. } => (9, self.file(at, inode, *size, xattrs)),
            Content::Symlink { target } => {
                let mut body = inode.links.to_le_bytes().to_vec();
                let len = u32::try_from(target.len()).unwrap_or(u32::MAX);
                body.extend_from_slice(&len.to_le_bytes());
                body.extend_from_slice(target);
                body.extend_from_slice(&xattrs.to_le_bytes());
                (10, body)
            }
            Content::BlockDev { major, minor } => (11, device(inode, *major, *minor, xattrs)),
            Content::CharDev { major, minor } => (12, device(inode, *major, *minor, xattrs)),
            Content::Fifo => (
                13,
                [inode.links.to_le_bytes(), xattrs.to_le_bytes()].concat(),
            ),
        };
        let number = number_of(at);
        let time = inode.meta.mtime_secs.to_le_bytes();
        out.extend_from_slice(&u16::to_le_bytes(kind));
        out.extend_from_slice(&inode.meta.mode.to_le_bytes());
        out.extend_from_slice(&self.owners.place(inode.meta.uid));
        out.extend_from_slice(&self.owners.place(inode.meta.gid));
        out.extend_from_slice(&time[..4]);
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&body);
        Ok(out)
    }

    fn directory(
        &mut self,
        inode: &Inode,
        parent: usize,
        entries: &[(Bytes, usize)],
        xattrs: u32,
    ) -> Result<Bytes, BuilderError> {
        let listed: Vec<Listed<'_>> = entries
            .iter()
            .map(|(name, to)| Listed {
                name,
                place: self.places[*to],
                number: number_of(*to),
                kind: basic_kind(&self.tree.inodes[*to].content),
            })
            .collect();
        let place = self.dirs.place();
        let mut index = Index::default();
        let mut len = 0;
        for run in runs(&listed) {
            index.add(&run, len, self.dirs.put(&run.bytes)?);
            len += run.bytes.len();
        }
        let mut body = inode.links.to_le_bytes().to_vec();
        // Three more than there is, for the names that are not listed.
        let size = u32::try_from(len + 3)
            .map_err(|_large| BuilderError::failed("a directory is too large for squashfs"))?;
        body.extend_from_slice(&size.to_le_bytes());
        body.extend_from_slice(&(place >> 16).to_le_bytes()[..4]);
        // The root has a parent that is no inode.
        let above = if std::ptr::eq(inode, &raw const self.tree.inodes[0]) {
            number_of(self.tree.inodes.len())
        } else {
            number_of(parent)
        };
        body.extend_from_slice(&above.to_le_bytes());
        body.extend_from_slice(&index.count.to_le_bytes());
        body.extend_from_slice(&place.to_le_bytes()[..2]);
        body.extend_from_slice(&xattrs.to_le_bytes());
        body.extend_from_slice(&index.bytes);
        Ok(body)
    }

    fn file(&self, at: usize, inode: &Inode, size: u64, xattrs: u32) -> Bytes {
        let nothing = Stored::default();
        let stored = self.contents.of(at).unwrap_or(&nothing);
        let mut body = stored.begin.to_le_bytes().to_vec();
        body.extend_from_slice(&size.to_le_bytes());
        body.extend_from_slice(&stored.sparse.to_le_bytes());
        body.extend_from_slice(&inode.links.to_le_bytes());
        let (fragment, offset) = stored.fragment.unwrap_or((NONE, 0));
        for word in [fragment, offset, xattrs].iter().chain(&stored.sizes) {
            body.extend_from_slice(&word.to_le_bytes());
        }
        body
    }
}

fn device(inode: &Inode, major: u32, minor: u32, xattrs: u32) -> Bytes {
    let number = device_number(major, minor).unwrap_or(0);
    [inode.links, number, xattrs]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect()
}

/// The number of an inode of the tree.
fn number_of(at: usize) -> u32 {
    u32::try_from(at + 1).unwrap_or(u32::MAX)
}

/// The number that directories name a kind with.
fn basic_kind(content: &Content) -> u16 {
    match content {
        Content::Dir { .. } => 1,
        Content::File { .. } => 2,
        Content::Symlink { .. } => 3,
        Content::BlockDev { .. } => 4,
        Content::CharDev { .. } => 5,
        Content::Fifo => 6,
    }
}
