//! EROFS, not compressed: read-only, and read where it lies.
//!
//! # Format
//! The superblock, then the inodes with their xattrs and the ends of their files, then whole blocks of data. Inodes are in canonical
//! order, always of the long form, which alone has times and large ids. A file with holes is a list of chunks. Files of the same
//! content share their blocks.
//!
//! # Source
//! The kernel's `Documentation/filesystems/erofs.rst` and `fs/erofs/erofs_fs.h`.

mod inode;
mod names;
mod xattrs;

use std::collections::BTreeMap;

use sos_engine::BuilderError;
use sos_formats::Bytes;
use sos_formats::crc32c;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Blake3;

use inode::{Body, INODE_BYTES, Layout, encode};
use names::{Listed, listing};

use super::data::{BLOCK, Run, Shares, blocks, put, read_part, runs, unwritten};
use super::ext4::device_number;
use super::image::Image;
use super::options::{Kind, Options, Written};
use super::parallel::each;
use super::tree::{Content, Inode, Tree};
use crate::build::Build;

const BLOCK_BYTES: usize = 4096;
/// Where inodes begin, behind the superblock.
const FIRST_OFFSET: u64 = 1024 + 128;
/// The distance of two numbers of inodes.
const SLOT: u64 = 32;
/// An end of a file goes into another block than its inode would, if it is no longer than this.
const MAX_MOVED: u64 = BLOCK / 2;
/// The blocks of the smallest chunk, as a power of two: as many zeros make a hole.
const CHUNK_LOG: u32 = 4;
/// A file has no more chunks than this, unless they would be too large.
const MAX_CHUNKS: u64 = 1 << 16;
/// A chunk that is a hole.
const NO_BLOCK: u32 = u32::MAX;
/// Inodes that one thread makes at once, in bytes.
const PART_BYTES: u64 = 256 << 10;
const MAGIC: u32 = 0xe0f5_e1e2;

/// One inode being placed.
struct Planned {
    /// The offset of the inode.
    offset: u64,
    xattrs: Bytes,
    layout: Layout,
    /// Blocks that data takes, and bytes of the end that follow the inode.
    whole: u64,
    tail: u64,
    /// Where data begins, counted in blocks.
    first: u64,
    /// Of a file with holes.
    chunks: Option<Chunks>,
    /// Of a directory.
    size: u64,
}

/// A file with holes.
struct Chunks {
    /// Blocks of a chunk, as a power of two.
    log: u32,
    /// Where each chunk lies, counted in blocks from the first of the file; `None` for holes.
    places: Vec<Option<u64>>,
}

/// Writes an EROFS file system.
pub(super) fn write(
    build: &dyn Build,
    root: &Blake3,
    options: &Options,
    image: &dyn Image,
) -> Result<Written, BuilderError> {
    let tree = Tree::read(build, root, options.epoch)?;
    let runs = runs(build, &tree)?;
    let mut planned = plan(&tree, &runs)?;
    let total = place(&tree, &mut planned);
    let len = match options.size {
        None => total * BLOCK,
        Some(size) if size / BLOCK >= total => size / BLOCK * BLOCK,
        Some(size) => return Err(full(size, total).into()),
    };
    let Ok(total) = u32::try_from(total) else {
        return Err(full(u64::from(u32::MAX) * BLOCK, total).into());
    };
    build.log(&format!(
        "erofs: {} inodes, {total} blocks",
        tree.inodes.len()
    ));
    image.set_len(len).map_err(unwritten)?;
    if !image.is_kept() {
        return Ok(Written { len });
    }
    write_inodes(build, &tree, &planned, image)?;
    write_data(build, &tree, &planned, image)?;
    write_superblock(&tree, &planned, total, options, image)?;
    Ok(Written { len })
}

fn full(size: u64, total: u64) -> Diagnostic {
    let message =
        format!("this root filesystem does not fit into an EROFS file system of {size} bytes");
    Diagnostic::error("filesystem-full", Class::Recipe, message)
        .help(format!("it needs {} bytes", total.saturating_mul(BLOCK)))
}

/// Finds what every inode needs, and where it and its end are.
fn plan(tree: &Tree, runs: &[Vec<Run>]) -> Result<Vec<Planned>, BuilderError> {
    let mut unfit = Kind::Erofs.unfit();
    let mut planned = Vec::with_capacity(tree.inodes.len());
    let mut next = FIRST_OFFSET;
    for (inode, runs) in tree.inodes.iter().zip(runs) {
        let xattrs = xattrs::encode(&inode.meta.xattrs).unwrap_or_else(|rule| {
            unfit.push(&inode.path, &rule);
            Bytes::new()
        });
        if let Content::CharDev { major, minor } | Content::BlockDev { major, minor } =
            inode.content
            && device_number(major, minor).is_none()
        {
            unfit.push(
                &inode.path,
                "device numbers are below 4096 (major) and 1048576 (minor)",
            );
        }
        let size = match &inode.content {
            Content::File { size, .. } => *size,
            Content::Symlink { target } => target.len() as u64,
            Content::Dir { entries, parent } => {
                names::size(listed(tree, entries, *parent, &[], 0).iter())
            }
            _ => 0,
        };
        let data: u64 = runs.iter().map(|run| run.count).sum();
        let is_file = matches!(inode.content, Content::File { .. });
        let chunks = (is_file && data < blocks(size)).then(|| chunks(size, runs));
        let one = put_one(&mut next, xattrs, size, chunks);
        planned.push(one);
    }
    unfit.finish()?;
    Ok(planned)
}

/// Lists what chunks of a file have data.
fn chunks(size: u64, runs: &[Run]) -> Chunks {
    let total = blocks(size);
    let mut log = CHUNK_LOG;
    while total.div_ceil(1 << log) > MAX_CHUNKS && log < 20 {
        log += 1;
    }
    let mut next = 0;
    let mut at = 0;
    let count = total.div_ceil(1 << log);
    let places = (0..count)
        .map(|chunk| {
            let (begin, end) = (chunk << log, ((chunk + 1) << log).min(total));
            while runs
                .get(at)
                .is_some_and(|run| run.first + run.count <= begin)
            {
                at += 1;
            }
            let has_data = runs.get(at).is_some_and(|run| run.first < end);
            has_data.then(|| {
                let place = next;
                next += end - begin;
                place
            })
        })
        .collect();
    Chunks { log, places }
}

/// Gives an inode its offset.
fn put_one(next: &mut u64, xattrs: Bytes, size: u64, chunks: Option<Chunks>) -> Planned {
    let own = INODE_BYTES as u64 + xattrs.len() as u64;
    let mut offset = next.next_multiple_of(SLOT);
    // An inode lies within one block.
    if offset % BLOCK + INODE_BYTES as u64 > BLOCK {
        offset = offset.next_multiple_of(BLOCK);
    }
    let (layout, whole, tail, behind);
    if let Some(chunks) = &chunks {
        let data = chunks.places.iter().enumerate().filter_map(|(at, place)| {
            let begin = (at as u64) << chunks.log;
            let end = (begin + (1 << chunks.log)).min(blocks(size));
            place.map(|_| end - begin)
        });
        (layout, whole, tail) = (Layout::Chunks, data.sum(), 0);
        behind = chunks.places.len() as u64 * 4;
    } else {
        let end = size % BLOCK;
        let fits = |offset: u64| (offset + own) % BLOCK + end <= BLOCK;
        let moved = offset.next_multiple_of(BLOCK);
        if end > 0 && fits(offset) {
            (layout, whole, tail) = (Layout::Inline, size / BLOCK, end);
        } else if end > 0 && end <= MAX_MOVED && fits(moved) {
            offset = moved;
            (layout, whole, tail) = (Layout::Inline, size / BLOCK, end);
        } else {
            (layout, whole, tail) = (Layout::Plain, blocks(size), 0);
        }
        behind = tail;
    }
    *next = offset + own + behind;
    Planned {
        offset,
        xattrs,
        layout,
        whole,
        tail,
        first: 0,
        chunks,
        size,
    }
}

/// Where the last inode ends, with what follows it, in bytes.
fn end_of_inodes(planned: &[Planned]) -> u64 {
    planned.last().map_or(FIRST_OFFSET, |last| {
        let chunks = last
            .chunks
            .as_ref()
            .map_or(0, |chunks| chunks.places.len() as u64 * 4);
        last.offset + INODE_BYTES as u64 + last.xattrs.len() as u64 + last.tail + chunks
    })
}

/// Gives all data its blocks; gives the number of all blocks.
fn place(tree: &Tree, planned: &mut [Planned]) -> u64 {
    let mut next = blocks(end_of_inodes(planned)).max(1);
    let mut known: BTreeMap<(Blake3, u64), u64> = BTreeMap::new();
    for (inode, one) in tree.inodes.iter().zip(planned) {
        if one.whole == 0 {
            continue;
        }
        one.first = next;
        if let Content::File { blob, .. } = inode.content {
            let first = *known.entry((blob, one.whole)).or_insert(next);
            if first != next {
                one.first = first;
                continue;
            }
        }
        next += one.whole;
    }
    next
}

/// The names of a directory with `.` and `..`, in order. Without places of inodes only their lengths are right.
fn listed<'a>(
    tree: &'a Tree,
    entries: &'a [(Bytes, usize)],
    parent: usize,
    planned: &[Planned],
    own: usize,
) -> Vec<Listed<'a>> {
    let number = |at: usize| planned.get(at).map_or(0, |one| one.offset / SLOT);
    let mut all: Vec<Listed<'a>> = entries
        .iter()
        .map(|(name, to)| Listed {
            name,
            number: number(*to),
            kind: tree.inodes[*to].content.entry_type(),
        })
        .collect();
    for (name, to) in [(b".".as_slice(), own), (b"..", parent)] {
        let place = all.partition_point(|one| one.name < name);
        let dir = Listed {
            name,
            number: number(to),
            kind: 2,
        };
        all.insert(place, dir);
    }
    all
}

/// Inodes that are made together.
struct Part {
    first: usize,
    end: usize,
}

fn parts(planned: &[Planned]) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for (at, one) in planned.iter().enumerate() {
        match parts.last_mut() {
            Some(part) if one.offset - planned[part.first].offset < PART_BYTES => part.end = at + 1,
            _ => parts.push(Part {
                first: at,
                end: at + 1,
            }),
        }
    }
    parts
}

/// Writes all inodes, with what follows each, and the whole blocks of directories and links.
fn write_inodes(
    build: &dyn Build,
    tree: &Tree,
    planned: &[Planned],
    image: &dyn Image,
) -> Result<(), BuilderError> {
    let store = build.store();
    let work = |part: &Part, _: &mut Vec<u8>| -> Result<(), BuilderError> {
        let begin = planned[part.first].offset;
        let mut bytes = Vec::new();
        for at in part.first..part.end {
            let (inode, one) = (&tree.inodes[at], &planned[at]);
            bytes.resize(usize::try_from(one.offset - begin).unwrap_or(0), 0);
            bytes.extend_from_slice(&inode_bytes(at, inode, one));
            bytes.extend_from_slice(&one.xattrs);
            if let Some(chunks) = &one.chunks {
                for place in &chunks.places {
                    let block = place.map_or(NO_BLOCK, |place| number(one.first + place));
                    bytes.extend_from_slice(&block.to_le_bytes());
                }
                continue;
            }
            let tail = usize::try_from(one.tail).unwrap_or(0);
            match &inode.content {
                Content::File { blob, .. } if tail > 0 => {
                    bytes.extend(read_part(store, blob, one.size - one.tail, tail)?);
                }
                Content::Dir { entries, parent } => {
                    let all = listing(&listed(tree, entries, *parent, planned, at));
                    let (whole, end) = all.split_at(all.len() - tail);
                    put(image, one.first * BLOCK, whole)?;
                    bytes.extend_from_slice(end);
                }
                Content::Symlink { target } => {
                    let (whole, end) = target.split_at(target.len() - tail);
                    put(image, one.first * BLOCK, whole)?;
                    bytes.extend_from_slice(end);
                }
                _ => {}
            }
        }
        put(image, begin, &bytes)
    };
    each(build, &parts(planned), &|_| 0, &work).map(drop)
}

fn inode_bytes(at: usize, inode: &Inode, one: &Planned) -> [u8; INODE_BYTES] {
    let place = match &inode.content {
        Content::CharDev { major, minor } | Content::BlockDev { major, minor } => {
            device_number(*major, *minor).unwrap_or(0)
        }
        _ => match &one.chunks {
            // The size of a chunk, counted from that of a block.
            Some(chunks) => chunks.log,
            None if one.whole > 0 => number(one.first),
            None => 0,
        },
    };
    encode(
        inode,
        &Body {
            layout: one.layout,
            xattr_bytes: one.xattrs.len(),
            size: one.size,
            place,
            number: u32::try_from(at + 1).unwrap_or(u32::MAX),
        },
    )
}

/// Writes the whole blocks of files.
fn write_data(
    build: &dyn Build,
    tree: &Tree,
    planned: &[Planned],
    image: &dyn Image,
) -> Result<(), BuilderError> {
    let mut shares = Shares::default();
    let mut last = 0;
    for (at, blob, size) in tree.files() {
        let one = &planned[at];
        // Blocks before the last ones belong to a file with the same content.
        if one.whole == 0 || one.first < last {
            continue;
        }
        last = one.first + one.whole;
        let Some(chunks) = &one.chunks else {
            shares.add((blob, size), 0, one.whole, one.first * BLOCK);
            continue;
        };
        for (chunk, place) in chunks.places.iter().enumerate() {
            let Some(place) = place else {
                continue;
            };
            let begin = (chunk as u64) << chunks.log;
            let to = (one.first + place) * BLOCK;
            shares.add((blob, size), begin, 1 << chunks.log, to);
        }
    }
    shares.copy(build, image)
}

fn write_superblock(
    tree: &Tree,
    planned: &[Planned],
    total: u32,
    options: &Options,
    image: &dyn Image,
) -> Result<(), BuilderError> {
    let mut block = vec![0; BLOCK_BYTES];
    // Inodes are written already. Behind them nothing is in the first block, nor need there be anything: a disk ends where something
    // was written last, until it is whole.
    let end =
        usize::try_from(end_of_inodes(planned)).map_or(BLOCK_BYTES, |end| end.min(BLOCK_BYTES));
    image
        .read_at(0, &mut block[..end])
        .map_err(|error| BuilderError::io("cannot read the file system", error))?;
    let mut put_at = |at: usize, bytes: &[u8]| {
        let at = 1024 + at;
        block[at..at + bytes.len()].copy_from_slice(bytes);
    };
    let has_chunks = planned.iter().any(|one| one.chunks.is_some());
    put_at(0, &MAGIC.to_le_bytes());
    // A checksum; times of inodes are those of modification.
    put_at(8, &3_u32.to_le_bytes());
    put_at(12, &[12]);
    let root = planned.first().map_or(0, |root| root.offset / SLOT);
    put_at(14, &root.to_le_bytes()[..2]);
    put_at(16, &(tree.inodes.len() as u64).to_le_bytes());
    put_at(24, &options.epoch.to_le_bytes());
    put_at(36, &total.to_le_bytes());
    put_at(48, &options.uuid);
    put_at(64, options.label.as_bytes());
    put_at(80, &(u32::from(has_chunks) << 2).to_le_bytes());
    let sum = crc32c::update(!0, &block[1024..]);
    block[1028..1032].copy_from_slice(&sum.to_le_bytes());
    put(image, 0, &block)
}

/// Numbers of blocks were checked to fit.
fn number(block: u64) -> u32 {
    u32::try_from(block).unwrap_or(NO_BLOCK)
}
