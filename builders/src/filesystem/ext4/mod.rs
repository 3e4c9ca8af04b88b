//! ext4: first everything gets its place, then it is written, the files straight out of the store.
//!
//! # Format
//! Blocks of 4096 bytes, inodes of 256, groups of 32,768 blocks whose bitmaps and inodes lie together in the first of up to 16
//! groups. What files take is one after the other from the first free block on, in canonical order: the journal, `lost+found`, then
//! each inode's blocks, its list of extents, its xattrs. Everything behind is free, so that a bitmap is known by where that ends.
//!
//! # Source
//! The kernel's `Documentation/filesystems/ext4`; e2fsprogs for what it leaves open.

mod extents;
mod geometry;
mod hash;
mod inode;
mod names;
mod sums;
mod superblock;
mod xattrs;

use sos_engine::BuilderError;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Blake3;

use extents::{Extent, add, tree, tree_blocks};
use geometry::{Free, Geometry, MAX_BLOCKS};
pub(super) use inode::device_number;
use inode::{EXTENTS, Fields, INDEX, MAX_TIME, MIN_TIME, device, unused};
use names::{Name, directory, is_small, lost_and_found};
use sums::Sums;
use superblock::{Used, journal, resize_inode};
use xattrs::Attributes;

use super::data::{BLOCK, Run, Shares, blocks, put, runs, unwritten};
use super::image::Image;
use super::options::{Kind, Options, Written};
use super::tree::{Content, Inode, Tree};
use crate::build::Build;
use crate::unfit::Unfit;

const BLOCK_BYTES: usize = 4096;
const INODE_BYTES: usize = 256;
const ROOT_INODE: u32 = 2;
const RESIZE_INODE: u32 = 7;
const JOURNAL_INODE: u32 = 8;
/// The first that is not reserved; `lost+found` has it.
const FIRST_INODE: u32 = 11;
const LOST_AND_FOUND: &[u8] = b"lost+found";
/// Blocks of `lost+found`.
const LOST_BLOCKS: u64 = 4;
/// The most names of a file; a directory with more subdirectories counts none.
const MAX_LINKS: u32 = 65_000;
/// The longest target of a link that stands in the inode.
const MAX_FAST_LINK: usize = 59;

/// What names are hashed with.
struct Seeds {
    hash: [u32; 4],
}

impl Seeds {
    /// Hashes follow from the UUID, as everything else that must differ between file systems.
    fn new(uuid: &[u8; 16]) -> Self {
        let digest = Blake3::of(&[b"ext4 names\0".as_slice(), uuid].concat());
        let mut hash = [0; 4];
        for (word, bytes) in hash.iter_mut().zip(digest.0.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        Self { hash }
    }
}

/// What an inode needs.
struct Need {
    /// Blocks with data.
    runs: Vec<Run>,
    attributes: Attributes,
}

/// Where an inode's blocks are.
#[derive(Default)]
struct Place {
    extents: Vec<Extent>,
    tree: Vec<u64>,
    xattrs: Option<u64>,
}

impl Place {
    fn blocks(&self) -> u64 {
        let data: u64 = self.extents.iter().map(|extent| extent.count).sum();
        data + self.tree.len() as u64 + u64::from(self.xattrs.is_some())
    }
}

/// Where everything is.
struct Layout {
    geometry: Geometry,
    journal: Place,
    /// The block of the inode for growing.
    resize: u64,
    /// Of the `lost+found` that is added, if it is.
    lost: Option<Place>,
    places: Vec<Place>,
    /// The first free block.
    end: u64,
}

/// Writes an ext4 file system.
pub(super) fn write(
    build: &dyn Build,
    root: &Blake3,
    options: &Options,
    image: &dyn Image,
) -> Result<Written, BuilderError> {
    let found = Tree::read(build, root, options.epoch)?;
    let writer = Writer::new(build, &found, options)?;
    let layout = writer.place()?;
    build.log(&format!(
        "ext4: {} inodes, {} of {} blocks in use",
        found.inodes.len(),
        layout.end,
        layout.geometry.blocks
    ));
    let len = options
        .size
        .map_or(layout.geometry.blocks, |size| size / BLOCK)
        * BLOCK;
    image.set_len(len).map_err(unwritten)?;
    if image.is_kept() {
        writer.write(&layout, image)?;
    }
    Ok(Written { len })
}

/// One file system being made.
struct Writer<'a> {
    build: &'a dyn Build,
    tree: &'a Tree,
    options: &'a Options,
    sums: Sums,
    seeds: Seeds,
    needs: Vec<Need>,
    /// Of every inode of the tree.
    numbers: Vec<u32>,
    last_inode: u32,
    /// Whether the tree has no `lost+found` of its own.
    adds_lost: bool,
}

impl<'a> Writer<'a> {
    /// Looks at everything, and refuses what does not fit.
    fn new(
        build: &'a dyn Build,
        tree: &'a Tree,
        options: &'a Options,
    ) -> Result<Self, BuilderError> {
        let mut unfit = Kind::Ext4.unfit();
        let own_lost = own_lost(tree);
        let mut numbers = Vec::with_capacity(tree.inodes.len());
        let mut next = FIRST_INODE;
        for at in 0..tree.inodes.len() {
            numbers.push(match at {
                0 => ROOT_INODE,
                _ if Some(at) == own_lost => FIRST_INODE,
                _ => {
                    next = next.saturating_add(1);
                    next
                }
            });
        }
        let mut needs = Vec::with_capacity(tree.inodes.len());
        for (at, (inode, runs)) in tree.inodes.iter().zip(runs(build, tree)?).enumerate() {
            if Some(at) == own_lost && !matches!(inode.content, Content::Dir { .. }) {
                unfit.push(&inode.path, "`lost+found` must be a directory");
            }
            let attributes = Attributes::new(&inode.meta.xattrs).unwrap_or_else(|rule| {
                unfit.push(&inode.path, &rule);
                Attributes::default()
            });
            check(inode, &mut unfit);
            needs.push(Need { runs, attributes });
        }
        unfit.finish()?;
        let mut writer = Self {
            build,
            tree,
            options,
            sums: Sums::new(&options.uuid),
            seeds: Seeds::new(&options.uuid),
            needs,
            numbers,
            last_inode: next,
            adds_lost: own_lost.is_none(),
        };
        for (at, inode) in tree.inodes.iter().enumerate() {
            let count = match &inode.content {
                Content::Dir { .. } => writer.directory_blocks(at)?,
                Content::Symlink { target } if target.len() > MAX_FAST_LINK => 1,
                _ => continue,
            };
            writer.needs[at].runs.push(Run { first: 0, count });
        }
        Ok(writer)
    }

    /// Finds the size, and a place for everything.
    fn place(&self) -> Result<Layout, BuilderError> {
        let inodes = u64::from(self.last_inode);
        if let Some(size) = self.options.size {
            let geometry = Geometry::new((size / BLOCK).max(1), inodes);
            if size / BLOCK <= MAX_BLOCKS
                && geometry.is_sound()
                && let Some(layout) = self.lay_out(geometry)
            {
                return Ok(layout);
            }
            return Err(self.full(size, inodes));
        }
        self.smallest(inodes, blocks(self.options.free))
            .ok_or_else(|| self.full(u64::MAX, inodes))
    }

    /// The smallest file system that leaves so many blocks.
    fn smallest(&self, inodes: u64, free: u64) -> Option<Layout> {
        let needed = self.needs.iter().flat_map(|need| &need.runs);
        let mut wanted = free + needed.map(|run| run.count).sum::<u64>();
        while wanted <= MAX_BLOCKS {
            let geometry = Geometry::new(wanted, inodes);
            if geometry.is_sound()
                && let Some(mut layout) = self.lay_out(geometry)
                && layout.end + free <= layout.geometry.blocks
            {
                layout.geometry.shorten(layout.end + free);
                return Some(layout);
            }
            wanted += (wanted / 100).max(64);
        }
        None
    }

    fn full(&self, size: u64, inodes: u64) -> BuilderError {
        if size != u64::MAX && size / BLOCK > MAX_BLOCKS {
            let most = MAX_BLOCKS * BLOCK;
            let message = format!(
                "an ext4 file system of {size} bytes is larger than they can be here: it has numbers of 32 bits for its blocks"
            );
            return Diagnostic::error("filesystem-large", Class::Recipe, message)
                .help(format!(
                    "give it at most {most} bytes, {BLOCK} less than 16 TiB"
                ))
                .into();
        }
        let message = if size == u64::MAX {
            "this root filesystem is larger than an ext4 file system can be".to_owned()
        } else {
            format!("this root filesystem does not fit into an ext4 file system of {size} bytes")
        };
        let mut problem = Diagnostic::error("filesystem-full", Class::Recipe, message);
        if let Some(smallest) = self.smallest(inodes, 0) {
            let bytes = smallest.geometry.blocks * BLOCK;
            problem = problem.help(format!(
                "it needs at least {bytes} bytes, nothing of it free"
            ));
        }
        problem.into()
    }

    /// Gives everything its place; `None` when there is not enough room.
    fn lay_out(&self, geometry: Geometry) -> Option<Layout> {
        let mut free = Free::new(&geometry);
        let resize = *free.take_each(1)?.first()?;
        let plain = |count| [Run { first: 0, count }];
        let journal = place(&mut free, &plain(geometry.journal_blocks), false)?;
        let lost = if self.adds_lost {
            Some(place(&mut free, &plain(LOST_BLOCKS), false)?)
        } else {
            None
        };
        let mut places = Vec::with_capacity(self.needs.len());
        for need in &self.needs {
            places.push(place(&mut free, &need.runs, need.attributes.needs_block())?);
        }
        let end = free.end();
        Some(Layout {
            geometry,
            journal,
            resize,
            lost,
            places,
            end,
        })
    }

    fn names(&self, at: usize) -> (Vec<Name<'_>>, u32, u32) {
        let mut names = Vec::new();
        let mut above = ROOT_INODE;
        if let Content::Dir { parent, entries } = &self.tree.inodes[at].content {
            above = self.numbers[*parent];
            names.extend(entries.iter().map(|(name, to)| Name {
                name,
                inode: self.numbers[*to],
                kind: self.tree.inodes[*to].content.entry_type(),
            }));
            if at == 0 && self.adds_lost {
                let place = names.partition_point(|name| name.name < LOST_AND_FOUND);
                let lost = Name {
                    name: LOST_AND_FOUND,
                    inode: FIRST_INODE,
                    kind: 2,
                };
                names.insert(place, lost);
            }
        }
        (names, self.numbers[at], above)
    }

    fn directory_blocks(&self, at: usize) -> Result<u64, BuilderError> {
        let (names, _, _) = self.names(at);
        if is_small(names.iter().map(|name| name.name)) {
            return Ok(1);
        }
        Ok(blocks(self.directory(at)?.bytes.len() as u64))
    }

    fn directory(&self, at: usize) -> Result<names::Directory, BuilderError> {
        let (names, own, above) = self.names(at);
        let found = directory(&names, own, above, self.seeds.hash, &self.sums);
        found.ok_or_else(|| {
            let mut unfit = Kind::Ext4.unfit();
            unfit.push(
                &self.tree.inodes[at].path,
                "a directory has at most some 20 million names",
            );
            match unfit.finish() {
                Err(error) => error,
                Ok(()) => BuilderError::failed("a directory has too many names"),
            }
        })
    }

    /// Writes everything.
    fn write(&self, layout: &Layout, image: &dyn Image) -> Result<(), BuilderError> {
        let epoch = self.options.epoch;
        let geometry = &layout.geometry;
        let groups = usize::try_from(geometry.groups).unwrap_or(0);
        let mut dirs = vec![0_u32; groups];
        let mut count = |inode: u32| {
            let group = usize::try_from(geometry.inode_place(inode).0).unwrap_or(0);
            dirs[group] += 1;
        };
        let mut table = Table::new(geometry, image);
        for inode in 1..FIRST_INODE {
            table.put(inode, &unused(inode, &self.sums))?;
        }
        let (fields, map) = resize_inode(geometry, layout.resize, epoch, image)?;
        let none = Attributes::default();
        table.put(
            RESIZE_INODE,
            &fields.encode(RESIZE_INODE, &map, &none, &self.sums),
        )?;
        let own = |mode, size, links| Fields {
            mode,
            links,
            size,
            flags: EXTENTS,
            time: (epoch, 0),
            ..Fields::default()
        };
        let journal_fields = own(0o100_600, geometry.journal_blocks * BLOCK, 1);
        let journal_map = self.put_inode(
            JOURNAL_INODE,
            journal_fields,
            &layout.journal,
            &none,
            &mut table,
        )?;
        let journal = journal(geometry.journal_blocks, self.options);
        put_blocks(image, &layout.journal.extents, &journal)?;
        if let Some(place) = &layout.lost {
            let fields = own(0o040_700, LOST_BLOCKS * BLOCK, 2);
            self.put_inode(FIRST_INODE, fields, place, &none, &mut table)?;
            let bytes = lost_and_found(FIRST_INODE, LOST_BLOCKS, &self.sums);
            put_blocks(image, &place.extents, &bytes)?;
            count(FIRST_INODE);
        }
        let mut shares = Shares::default();
        for (at, inode) in self.tree.inodes.iter().enumerate() {
            if let Content::Dir { .. } = inode.content {
                count(self.numbers[at]);
            }
            self.put_file(at, &layout.places[at], &mut shares, &mut table)?;
        }
        table.finish()?;
        shares.copy(self.build, image)?;
        let used = Used {
            geometry,
            end: layout.end,
            last_inode: self.last_inode,
            dirs,
        };
        superblock::write(&used, self.options, &self.seeds, &journal_map, image)
    }

    /// Writes an inode of the tree and what is no file's content; notes what is.
    fn put_file(
        &self,
        at: usize,
        place: &Place,
        shares: &mut Shares,
        table: &mut Table<'_>,
    ) -> Result<(), BuilderError> {
        let inode = &self.tree.inodes[at];
        let number = self.numbers[at];
        let attributes = &self.needs[at].attributes;
        let mut fields = Fields {
            mode: inode.mode(),
            uid: inode.meta.uid,
            gid: inode.meta.gid,
            size: 0,
            links: u16::try_from(inode.links).unwrap_or(u16::MAX),
            blocks: 0,
            flags: 0,
            time: (inode.meta.mtime_secs, inode.meta.mtime_nsecs),
            xattr_block: 0,
        };
        match &inode.content {
            Content::File { blob, size } => {
                (fields.size, fields.flags) = (*size, EXTENTS);
                for extent in &place.extents {
                    let to = extent.block * BLOCK;
                    shares.add((*blob, *size), extent.first, extent.count, to);
                }
            }
            Content::Dir { .. } => {
                let made = self.directory(at)?;
                let added = u32::from(at == 0 && self.adds_lost);
                let links = inode.links + added;
                fields.links = match u16::try_from(links) {
                    Ok(count) if links < MAX_LINKS => count,
                    // Too many to count.
                    _ => 1,
                };
                fields.size = made.bytes.len() as u64;
                fields.flags = EXTENTS | if made.indexed { INDEX } else { 0 };
                put_blocks(table.image, &place.extents, &made.bytes)?;
            }
            Content::Symlink { target } => {
                fields.size = target.len() as u64;
                if target.len() > MAX_FAST_LINK {
                    fields.flags = EXTENTS;
                    put_blocks(table.image, &place.extents, target)?;
                }
            }
            Content::Fifo | Content::CharDev { .. } | Content::BlockDev { .. } => {}
        }
        if fields.flags & EXTENTS != 0 {
            self.put_inode(number, fields, place, attributes, table)?;
            return Ok(());
        }
        let map = match &inode.content {
            Content::Symlink { target } => {
                let mut map = [0; 60];
                map[..target.len()].copy_from_slice(target);
                map
            }
            content => device(content).unwrap_or([0; 60]),
        };
        self.put_xattrs(&mut fields, place, attributes, table)?;
        fields.blocks = place.blocks();
        table.put(number, &fields.encode(number, &map, attributes, &self.sums))
    }

    /// Writes an inode whose blocks are told by extents, and the blocks of its lists; gives its map.
    fn put_inode(
        &self,
        number: u32,
        mut fields: Fields,
        place: &Place,
        attributes: &Attributes,
        table: &mut Table<'_>,
    ) -> Result<[u8; 60], BuilderError> {
        let (map, blocks) = tree(&place.extents, &place.tree, number, &self.sums);
        for (block, bytes) in blocks {
            put(table.image, block * BLOCK, &bytes)?;
        }
        self.put_xattrs(&mut fields, place, attributes, table)?;
        fields.blocks = place.blocks();
        table.put(number, &fields.encode(number, &map, attributes, &self.sums))?;
        Ok(map)
    }

    fn put_xattrs(
        &self,
        fields: &mut Fields,
        place: &Place,
        attributes: &Attributes,
        table: &Table<'_>,
    ) -> Result<(), BuilderError> {
        if let Some(block) = place.xattrs {
            fields.xattr_block = block;
            let bytes = attributes.block(block, &self.sums);
            put(table.image, block * BLOCK, &bytes)?;
        }
        Ok(())
    }
}

/// The place in the tree of its own `lost+found`.
fn own_lost(tree: &Tree) -> Option<usize> {
    let Content::Dir { entries, .. } = &tree.inodes.first()?.content else {
        return None;
    };
    let found = entries.iter().find(|(name, _)| name == LOST_AND_FOUND);
    found.map(|(_, at)| *at)
}

/// Notes the rules that an inode breaks.
fn check(inode: &Inode, unfit: &mut Unfit) {
    if !matches!(inode.content, Content::Dir { .. }) && inode.links > MAX_LINKS {
        unfit.push(&inode.path, "a file has at most 65000 names");
    }
    if !(MIN_TIME..=MAX_TIME).contains(&inode.meta.mtime_secs) {
        unfit.push(&inode.path, "times are between the years 1901 and 2446");
    }
    if device(&inode.content).is_none() {
        unfit.push(
            &inode.path,
            "device numbers are below 4096 (major) and 1048576 (minor)",
        );
    }
    if let Content::File { size, .. } = inode.content
        && blocks(size) > u64::from(u32::MAX)
    {
        unfit.push(&inode.path, "a file has less than 16 TiB");
    }
}

/// Gives an inode its blocks.
fn place(free: &mut Free<'_>, runs: &[Run], xattrs: bool) -> Option<Place> {
    let mut found = Place::default();
    for run in runs {
        let mut first = run.first;
        for (block, count) in free.take(run.count)? {
            add(
                &mut found.extents,
                Extent {
                    first,
                    count,
                    block,
                },
            );
            first += count;
        }
    }
    found.tree = free.take_each(tree_blocks(found.extents.len()))?;
    if xattrs {
        found.xattrs = free.take_each(1)?.first().copied();
    }
    Some(found)
}

/// Writes bytes into the blocks of extents.
fn put_blocks(image: &dyn Image, extents: &[Extent], mut bytes: &[u8]) -> Result<(), BuilderError> {
    for extent in extents {
        let len = usize::try_from(extent.count * BLOCK).unwrap_or(usize::MAX);
        let (part, rest) = bytes.split_at(len.min(bytes.len()));
        put(image, extent.block * BLOCK, part)?;
        bytes = rest;
    }
    Ok(())
}

/// The inodes, written in pieces.
struct Table<'a> {
    geometry: &'a Geometry,
    image: &'a dyn Image,
    /// Where `bytes` go.
    begin: u64,
    bytes: Vec<u8>,
}

impl<'a> Table<'a> {
    const PIECE_BYTES: usize = 1 << 20;

    fn new(geometry: &'a Geometry, image: &'a dyn Image) -> Self {
        Self {
            geometry,
            image,
            begin: 0,
            bytes: Vec::new(),
        }
    }

    fn put(&mut self, inode: u32, bytes: &[u8; INODE_BYTES]) -> Result<(), BuilderError> {
        let offset = self.geometry.inode_offset(inode);
        let joined = self.begin + self.bytes.len() as u64 == offset;
        if !joined || self.bytes.len() >= Self::PIECE_BYTES {
            self.finish()?;
            self.begin = offset;
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), BuilderError> {
        put(self.image, self.begin, &self.bytes)?;
        self.bytes.clear();
        Ok(())
    }
}
