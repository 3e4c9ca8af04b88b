//! Reads a tree once: hashes it as a NAR, looks for references, and stages it as hard links of blobs.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sos_formats::hash::{Blake3, Hash, HashAlgo, Hasher, Sha256};
use sos_formats::nar::{self, NarError};
use sos_formats::store_path::StorePath;

use crate::cas::{self, IN_MEMORY_BYTES};
use crate::error::{IoContext, Result, StoreError};
use crate::fault;
use crate::large::{self, EarlySync};
use crate::listing::{Filter, Item, ItemKind, ListOptions, Listing};
use crate::place::{Content, Job, Placer, State};
use crate::scan::RefScanner;
use crate::store::Store;
use crate::sys;
use crate::temp::TempDir;
use crate::tree_id::{self, Known};

/// How to read a tree into the store.
#[derive(Default)]
pub struct IngestOptions<'a> {
    /// The tree is the caller's own and not needed afterwards: it may be changed and moved instead of copied.
    pub take: bool,
    /// The objects that it may refer to.
    pub candidates: &'a [StorePath],
    /// Leaves files out; not asked about the root.
    pub filter: Option<Filter<'a>>,
    /// With which algorithm to hash a regular file at the root; when not given, it is hashed as a NAR only.
    pub flat_algo: Option<HashAlgo>,
    /// A second algorithm for the NAR, where a fixed output asks for one.
    pub nar_algo: Option<HashAlgo>,
    /// The id of the tree is wanted and not the hash of its NAR. Where the tree can be taken, its files that are links of these blobs are
    /// not read: they are not looked through for references.
    pub tree: Option<&'a Known>,
    /// Asked while it is read, which takes long where much is to be hashed: `true` ends it with an error.
    pub stop: Option<Stop>,
}

/// Tells whether somebody wants an end.
pub type Stop = Arc<dyn Fn() -> bool + Send + Sync>;

/// A tree that has been read and staged, not yet registered. It is thrown away unless it is committed.
#[derive(Debug)]
pub struct Ingested {
    /// The SHA-256 of the NAR, unless [`IngestOptions::tree`] asks for the id of the tree.
    pub nar_sha256: Option<Sha256>,
    /// The size of the NAR in bytes.
    pub nar_size: u64,
    /// The id of the tree, if asked for.
    pub tree: Option<Blake3>,
    /// The NAR's hash by [`IngestOptions::nar_algo`], if asked for.
    pub nar_hash: Option<Hash>,
    /// The hash of the contents, when the root is a regular file and [`IngestOptions::flat_algo`] asks for it.
    pub flat: Option<Hash>,
    /// Whether the root is an executable file.
    pub executable: bool,
    /// Those of the candidates that occur in it.
    pub references: BTreeSet<StorePath>,
    pub(crate) staged: Staged,
}

/// Where a staged tree is; a temporary directory goes with it.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) path: PathBuf,
    pub(crate) is_dir: bool,
    pub(crate) _dir: Option<TempDir>,
}

/// What only reading a tree tells.
pub(crate) struct Hashes {
    pub(crate) nar_sha256: Option<Sha256>,
    pub(crate) nar_size: u64,
    pub(crate) nar_hash: Option<Hash>,
    pub(crate) flat: Option<Hash>,
    references: BTreeSet<StorePath>,
}

/// Takes the bytes of a NAR: everything about them that is needed, in one pass.
pub(crate) struct NarSink {
    buffer: Vec<u8>,
    sha256: Option<Hasher>,
    other: Option<Hasher>,
    scanner: RefScanner,
    size: u64,
    stop: Option<Stop>,
}

const SINK_BYTES: usize = 64 << 10;

impl NarSink {
    pub(crate) fn new(candidates: &[StorePath], other: Option<HashAlgo>) -> Self {
        Self {
            buffer: Vec::with_capacity(SINK_BYTES),
            sha256: Some(Hasher::new(HashAlgo::Sha256)),
            other: other.map(Hasher::new),
            scanner: RefScanner::new(candidates),
            size: 0,
            stop: None,
        }
    }

    /// Hashes nothing.
    fn unhashed(candidates: &[StorePath]) -> Self {
        Self {
            sha256: None,
            ..Self::new(candidates, None)
        }
    }

    fn stopped_by(self, stop: Option<Stop>) -> Self {
        Self { stop, ..self }
    }

    fn digest(&mut self, data: &[u8]) {
        for hasher in [&mut self.sha256, &mut self.other].into_iter().flatten() {
            hasher.update(data);
        }
        self.scanner.update(data);
        self.size += data.len() as u64;
    }

    fn drain(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        self.digest(&buffer);
        self.buffer = buffer;
        self.buffer.clear();
    }

    pub(crate) fn finish(mut self, flat: Option<Hasher>) -> Result<Hashes> {
        self.drain();
        Ok(Hashes {
            nar_sha256: self.sha256.and_then(|hasher| hasher.finish().as_sha256()),
            nar_size: self.size,
            nar_hash: self.other.map(Hasher::finish),
            flat: flat.map(Hasher::finish),
            references: self.scanner.finish(),
        })
    }
}

impl Write for NarSink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + data.len() > SINK_BYTES {
            if self.stop.as_ref().is_some_and(|stop| stop()) {
                return Err(io::Error::other("stopped"));
            }
            self.drain();
        }
        if data.len() >= SINK_BYTES {
            self.digest(data);
        } else {
            self.buffer.extend_from_slice(data);
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Receives what is read of a tree.
trait Target {
    fn directory(&mut self, item: &Item) -> Result<()>;
    fn symlink(&mut self, item: &Item, target: &[u8]) -> Result<()>;
    /// A file that was read into memory.
    fn small(&mut self, index: usize, item: &Item, executable: bool, data: Vec<u8>) -> Result<()>;
    /// Asks what happens to a large file while it is hashed.
    fn large_begin(&mut self, item: &Item) -> Result<Large>;
    fn large_end(
        &mut self,
        index: usize,
        item: &Item,
        executable: bool,
        hash: Blake3,
        size: u64,
    ) -> Result<()>;
}

/// What happens to a large file while it is hashed.
enum Large {
    /// Nothing.
    Hashed,
    /// It stays where it is, and becomes part of the store.
    Taken,
    /// It is written to a file, which has a place.
    Copied(std::fs::File, PathBuf),
}

/// Only hashes.
struct NoTarget {
    hashes: Vec<(usize, Blake3)>,
}

impl Target for NoTarget {
    fn directory(&mut self, _: &Item) -> Result<()> {
        Ok(())
    }
    fn symlink(&mut self, _: &Item, _: &[u8]) -> Result<()> {
        Ok(())
    }
    fn small(&mut self, index: usize, _: &Item, _: bool, data: Vec<u8>) -> Result<()> {
        self.hashes.push((index, Blake3::of(&data)));
        Ok(())
    }
    fn large_begin(&mut self, _: &Item) -> Result<Large> {
        Ok(Large::Hashed)
    }
    fn large_end(&mut self, index: usize, _: &Item, _: bool, hash: Blake3, _: u64) -> Result<()> {
        self.hashes.push((index, hash));
        Ok(())
    }
}

/// Builds the staged tree.
struct StageTarget<'p, 's, 'e> {
    placer: &'p mut Placer<'s, 'e>,
    root: &'p Path,
    in_place: bool,
}

impl StageTarget<'_, '_, '_> {
    fn place(&self, item: &Item) -> PathBuf {
        join(self.root, item)
    }

    fn state(&self, item: &Item) -> State {
        match &item.kind {
            _ if !self.in_place => State::Absent,
            ItemKind::File {
                adoptable: true, ..
            } => State::Adoptable,
            _ => State::Foreign,
        }
    }
}

impl Target for StageTarget<'_, '_, '_> {
    fn directory(&mut self, item: &Item) -> Result<()> {
        if self.in_place {
            return Ok(());
        }
        let place = self.place(item);
        std::fs::create_dir(&place).at("make the directory", place)
    }

    fn symlink(&mut self, item: &Item, target: &[u8]) -> Result<()> {
        let place = self.place(item);
        if self.in_place {
            if sys::set_store_mtime(&place).is_ok() {
                return Ok(());
            }
            // Another id's: a link of our own takes its place.
            std::fs::remove_file(&place).at("replace", &place)?;
        }
        std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), &place)
            .at("make the link", &place)?;
        sys::set_store_mtime(&place).at("set the time of", place)
    }

    fn small(&mut self, index: usize, item: &Item, executable: bool, data: Vec<u8>) -> Result<()> {
        let state = self.state(item);
        self.placer.submit(Job {
            index,
            place: self.place(item),
            executable,
            content: Content::Bytes(data),
            state,
        })
    }

    fn large_begin(&mut self, item: &Item) -> Result<Large> {
        if self.in_place {
            Ok(Large::Taken)
        } else {
            let place = self.place(item);
            Ok(Large::Copied(cas::create_private(&place)?, place))
        }
    }

    fn large_end(
        &mut self,
        index: usize,
        item: &Item,
        executable: bool,
        hash: Blake3,
        size: u64,
    ) -> Result<()> {
        let state = if self.in_place {
            self.state(item)
        } else {
            State::Adoptable
        };
        let content = Content::Hashed { hash, size };
        self.placer.submit(Job {
            index,
            place: self.place(item),
            executable,
            content,
            state,
        })
    }
}

impl Store {
    /// Reads a tree once: NAR hash, references, and a staged copy of hard links with canonical modes and times.
    ///
    /// # Errors
    /// When something cannot be read or written, is no part of a NAR, or changes meanwhile.
    pub fn ingest(&self, src: &Path, options: IngestOptions<'_>) -> Result<Ingested> {
        self.require_writable()?;
        let take = options.take && self.may_take(src)?;
        let listing = Listing::read(
            src,
            ListOptions {
                filter: options.filter,
                take,
            },
        )?;
        let Some(known) = options.tree else {
            let sink = NarSink::new(options.candidates, options.nar_algo).stopped_by(options.stop);
            let (ingested, _) = self.stage(src, &listing, take, sink, options.flat_algo, None)?;
            return Ok(ingested);
        };
        let sink = NarSink::unhashed(options.candidates).stopped_by(options.stop);
        let (mut ingested, contents) = self.stage(src, &listing, take, sink, None, Some(known))?;
        ingested.tree = Some(tree_id::of_listing(src, &listing, &contents)?);
        Ok(ingested)
    }

    /// Stages a listed tree; returns the hash of every file, too, by its place in the list.
    pub(crate) fn stage(
        &self,
        src: &Path,
        listing: &Listing,
        in_place: bool,
        sink: NarSink,
        flat: Option<HashAlgo>,
        known: Option<&Known>,
    ) -> Result<(Ingested, Vec<(usize, Blake3)>)> {
        let dir = if in_place {
            None
        } else {
            Some(self.temp_dir("add")?)
        };
        let root = match &dir {
            Some(dir) => dir.path().join("x"),
            None => src.to_owned(),
        };
        let (hashes, contents) = Placer::run(self.cas(), |placer| {
            let mut target = StageTarget {
                placer,
                root: &root,
                in_place,
            };
            // What is copied has to be read.
            let known = known.filter(|_| in_place);
            let blob_of = |item: &Item, place: &Path| self.blob_of(known?, item, place);
            read_tree(src, listing, sink, flat, &blob_of, &mut target)
        })?;
        let root_item = listing.items.first();
        let is_dir = root_item.is_some_and(|item| matches!(item.kind, ItemKind::Directory));
        let executable = root_item.is_some_and(|item| {
            matches!(
                item.kind,
                ItemKind::File {
                    executable: true,
                    ..
                }
            )
        });
        // Last, for adding a file to a directory changes its time. The root stays writable until it is moved:
        // renaming a directory to another parent writes to it.
        for item in listing.items.iter().rev() {
            if matches!(item.kind, ItemKind::Directory) {
                seal_directory(&join(&root, item), item.depth == 0)?;
            }
        }
        fault::point("ingest.staged");
        let staged = Staged {
            path: root,
            is_dir,
            _dir: dir,
        };
        Ok((Ingested::new(hashes, staged, executable), contents))
    }

    /// Hashes a listed tree without storing anything.
    pub(crate) fn hash_tree(
        src: &Path,
        listing: &Listing,
        flat: Option<HashAlgo>,
    ) -> Result<(Hashes, Vec<(usize, Blake3)>)> {
        let mut target = NoTarget { hashes: Vec::new() };
        let sink = NarSink::new(&[], None);
        let hashes = read_tree(src, listing, sink, flat, &|_, _| None, &mut target)?;
        Ok((hashes, target.hashes))
    }

    /// The blob that a file of a tree is a link of, where it is the one that it is said to be.
    fn blob_of(&self, known: &Known, item: &Item, place: &Path) -> Option<Blake3> {
        let hash = known.get(&item.path)?;
        let ItemKind::File { executable, .. } = item.kind else {
            return None;
        };
        let [file, blob] = [place, &self.cas().path(hash, executable)]
            .map(|path| std::fs::symlink_metadata(path).ok());
        let (file, blob) = (file?, blob?);
        (file.dev() == blob.dev() && file.ino() == blob.ino()).then_some(*hash)
    }

    /// Whether a tree can be taken as it is: on our file system, its directories ours.
    fn may_take(&self, src: &Path) -> Result<bool> {
        let meta = std::fs::symlink_metadata(src).at("look at", src)?;
        let root = self.root();
        let ours = std::fs::metadata(root).at("look at", root)?;
        if meta.dev() != ours.dev() {
            return Ok(false);
        }
        let user = rustix::process::geteuid().as_raw();
        // Directories have no hard links, so those of another owner are found before anything is changed.
        for entry in walkdir::WalkDir::new(src).follow_links(false) {
            let Ok(entry) = entry else {
                return Ok(meta.uid() == user);
            };
            if entry.file_type().is_dir() && entry.metadata().is_ok_and(|meta| meta.uid() != user) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Ingested {
    pub(crate) fn new(hashes: Hashes, staged: Staged, executable: bool) -> Self {
        Self {
            nar_sha256: hashes.nar_sha256,
            nar_size: hashes.nar_size,
            tree: None,
            nar_hash: hashes.nar_hash,
            flat: hashes.flat,
            executable,
            references: hashes.references,
            staged,
        }
    }

    /// `sha256:..` of the NAR, or `blake3:..`, the id of the tree.
    pub fn digest(&self) -> String {
        let nar = self.nar_sha256.map(|nar| format!("sha256:{nar}"));
        nar.or_else(|| self.tree.map(|tree| format!("blake3:{tree}")))
            .unwrap_or_default()
    }

    /// Where the staged tree is, to look into it before it is committed. Its files must not be changed.
    pub fn staged_path(&self) -> &Path {
        &self.staged.path
    }
}

/// Hashes the files of a listed tree, each by its place in the list.
pub(crate) fn hash_files(src: &Path, listing: &Listing) -> Result<Vec<(usize, Blake3)>> {
    let mut target = NoTarget { hashes: Vec::new() };
    let sink = NarSink::unhashed(&[]);
    read_tree(src, listing, sink, None, &|_, _| None, &mut target)?;
    Ok(target.hashes)
}

/// Writes a listed tree as a NAR into the sink, and gives every file to the target. A file of which `blob_of` knows the blob is not read.
fn read_tree(
    src: &Path,
    listing: &Listing,
    sink: NarSink,
    flat: Option<HashAlgo>,
    blob_of: &dyn Fn(&Item, &Path) -> Option<Blake3>,
    target: &mut dyn Target,
) -> Result<Hashes> {
    let mut nar = nar::Writer::new(sink).map_err(nar_error)?;
    let mut flat_hasher = None;
    let mut early = EarlySync::default();
    let mut open = 0;
    let mut unread = 0;
    for (index, item) in listing.items.iter().enumerate() {
        while open > item.depth {
            nar.end().map_err(nar_error)?;
            open -= 1;
        }
        if let Some(name) = item.path.file_name() {
            nar.entry(name.as_bytes()).map_err(nar_error)?;
        }
        match &item.kind {
            ItemKind::Directory => {
                nar.directory().map_err(nar_error)?;
                open += 1;
                target.directory(item)?;
            }
            ItemKind::Symlink { target: to } => {
                nar.symlink(to).map_err(nar_error)?;
                target.symlink(item, to)?;
            }
            ItemKind::File {
                executable, size, ..
            } => {
                if item.depth == 0 {
                    flat_hasher = flat.map(Hasher::new);
                }
                let place = join(src, item);
                if let Some(hash) = blob_of(item, &place) {
                    nar.regular_buffered(*executable, 0, &mut [].as_slice())
                        .map_err(nar_error)?;
                    unread += size.next_multiple_of(8);
                    target.large_end(index, item, *executable, hash, *size)?;
                    continue;
                }
                let flat = flat_hasher.as_mut().filter(|_| item.depth == 0);
                read_file(
                    &place,
                    index,
                    item,
                    *executable,
                    *size,
                    &mut nar,
                    flat,
                    &mut early,
                    target,
                )?;
            }
        }
    }
    while open > 0 {
        nar.end().map_err(nar_error)?;
        open -= 1;
    }
    let mut hashes = nar.finish().map_err(nar_error)?.finish(flat_hasher)?;
    hashes.nar_size += unread;
    Ok(hashes)
}

#[allow(
    clippy::too_many_arguments,
    reason = "one step of one loop; a struct would only rename the arguments"
)]
fn read_file(
    place: &Path,
    index: usize,
    item: &Item,
    executable: bool,
    size: u64,
    nar: &mut nar::Writer<NarSink>,
    mut flat: Option<&mut Hasher>,
    early: &mut EarlySync,
    target: &mut dyn Target,
) -> Result<()> {
    let mut file = cas::open_regular(place)?;
    let failed = |err, copied: Option<&Path>| match (err, copied) {
        (NarError::SizeChanged { .. }, _) => StoreError::Changed {
            path: place.to_owned(),
        },
        // Who reads has written, too: it is not the source that has no room.
        (NarError::Contents(source), Some(to)) if sys::is_disk_full(&source) => {
            StoreError::io("write", to, source)
        }
        (NarError::Contents(source), _) => StoreError::io("read", place, source),
        (other, _) => nar_error(other),
    };
    if size <= IN_MEMORY_BYTES as u64 {
        let mut data = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
        Read::take(&mut file, size + 1)
            .read_to_end(&mut data)
            .at("read", place)?;
        nar.regular_buffered(executable, size, &mut data.as_slice())
            .map_err(|err| failed(err, None))?;
        if let Some(flat) = flat.as_mut() {
            flat.update(&data);
        }
        return target.small(index, item, executable, data);
    }
    let (mut copy, copied) = match target.large_begin(item)? {
        Large::Copied(copy, to) => (Some(copy), Some(to)),
        Large::Taken => {
            early.begin(&file, size);
            (None, None)
        }
        Large::Hashed => (None, None),
    };
    if let Some(clone) = copy.as_ref()
        && sys::clone_file(&file, clone).is_ok()
    {
        // What is stored is what is hashed: from here on the clone is read.
        file = cas::open_regular_fd(clone, place)?;
        copy = None;
    }
    let hash = large::read(file, copy, flat, |contents| {
        nar.regular_buffered(executable, size, contents)
            .map_err(|err| failed(err, copied.as_deref()))
    })?;
    target.large_end(index, item, executable, hash, size)
}

/// Gives a directory its final time and mode. The root of a tree stays writable, see [`Store::stage`].
pub(crate) fn seal_directory(place: &Path, is_root: bool) -> Result<()> {
    sys::set_mode(place, if is_root { 0o755 } else { 0o555 }).at("set the mode of", place)?;
    sys::set_store_mtime(place).at("set the time of", place)
}

fn join(root: &Path, item: &Item) -> PathBuf {
    // Joining an empty path would add a slash, which follows a symlink.
    if item.depth == 0 {
        root.to_owned()
    } else {
        root.join(&item.path)
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it is what `map_err` passes")]
pub(crate) fn nar_error(err: NarError) -> StoreError {
    let mut detail = err.to_string();
    if let Some(source) = std::error::Error::source(&err) {
        detail.push_str(": ");
        detail.push_str(&source.to_string());
    }
    StoreError::Nar { detail }
}
