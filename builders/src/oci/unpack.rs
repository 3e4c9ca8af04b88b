//! `builtin:oci-rootfs`: the layers of an image as a root filesystem.
//!
//! What an unpacker with all rights would leave on disk is what the object holds: owners, modes, xattrs, hard links, devices.
//! Labels of SELinux and marks of overlays are left out, as they are when layers are written.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufReader, Read};
use std::path::Path;

use serde::Deserialize;
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::Bytes;
use sos_formats::hash::{Blake3, HashAlgo, Hasher};
use sos_formats::manifest::Meta;
use sos_formats::tar::{Entry, EntryKind, Reader};
use sos_store::StoreError;
use sos_store::rootfs::{FileSpec, KindView, RootTree, SpecKind};

use super::archive;
use super::contents::{ancestors, is_kept, shown};
use super::machine::{is_for, wanted};
use super::read::{MAX_ENTRIES, MAX_UNPACKED_BYTES, Meaning, check_link, decoded, why};
use super::source::{Layout, ManifestDocument};
use super::way::{Seen, Way, follow, split};
use crate::build::Build;
use crate::walk::join;

/// No layer unpacks to more than this many times its size, once it is larger than [`FREE_BYTES`]: deflate cannot do more.
const MAX_RATIO: u64 = 1100;
/// Where the ratio begins to count: zeros compress well.
const FREE_BYTES: u64 = 1 << 30;

/// Makes a root filesystem of an image.
#[derive(Clone, Copy, Debug, Default)]
pub struct OciRootfsBuilder;

impl Builder for OciRootfsBuilder {
    fn name(&self) -> &'static str {
        "builtin:oci-rootfs"
    }
    fn pool(&self) -> Pool {
        Pool::Build
    }
    fn revision(&self) -> u32 {
        5
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let attrs: RootfsAttrs = ctx.attrs_as()?;
        let root = make_rootfs(ctx, &attrs)?;
        ctx.set_rootfs("out", root);
        Ok(())
    }
}

/// What a recipe says about the image.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RootfsAttrs {
    pub(super) image: String,
    pub(super) tag: Option<String>,
    pub(super) arch: Option<String>,
}

/// Finds the manifest that is meant: of several machines that of `arch`.
pub(super) fn manifest_of(
    layout: &Layout,
    tag: Option<&str>,
    arch: Option<&str>,
) -> Result<ManifestDocument, BuilderError> {
    let platform = arch.map(wanted).transpose()?;
    Ok(layout.manifest(tag, platform.as_ref())?.1)
}

/// Makes the root filesystem and gives its root id.
pub(super) fn make_rootfs(build: &dyn Build, attrs: &RootfsAttrs) -> Result<Blake3, BuilderError> {
    let store = build.store();
    let place = build.tree(&attrs.image)?;
    let opened = archive::open(store, &place, &attrs.image)?;
    let layout = &opened.layout;
    let manifest = manifest_of(layout, attrs.tag.as_deref(), attrs.arch.as_deref())?;
    layout.has_files(&manifest)?;
    let config = layout.json(&manifest.config)?;
    if let Some(arch) = attrs.arch.as_deref() {
        is_for(&config, &wanted(arch)?, &attrs.image)?;
    }
    let Some(diff_ids) = config["rootfs"]["diff_ids"].as_array() else {
        let (digest, kind) = (&manifest.config.digest, &manifest.config.media_type);
        return Err(layout
            .bad(&format!(
                "its configuration {digest} names no layers (`rootfs.diff_ids`)"
            ))
            .note(format!("that is of the kind `{kind}`"))
            .help("name an image: registries and layouts hold other things, too")
            .into());
    };
    let diff_ids: Vec<&str> = diff_ids.iter().filter_map(|id| id.as_str()).collect();
    if diff_ids.len() != manifest.layers.len() {
        let (layers, ids) = (manifest.layers.len(), diff_ids.len());
        return Err(layout
            .bad(&format!(
                "it has {layers} layers, and its configuration names {ids}"
            ))
            .into());
    }
    let mut unpacker = Unpacker {
        build,
        tree: RootTree::empty_in(store, parent_meta()),
        bytes_left: MAX_UNPACKED_BYTES,
        entries_left: MAX_ENTRIES,
    };
    for (number, (layer, diff_id)) in manifest.layers.iter().zip(diff_ids).enumerate() {
        let blob = layout.checked(layer)?;
        let found = unpacker
            .layer(&blob, layer.size)
            .map_err(|error| match error {
                // What no root filesystem can hold is the fault of the image, too.
                BuilderError::Io { .. }
                | BuilderError::Failed { .. }
                | BuilderError::Store(StoreError::RootPath { .. }) => layout
                    .bad(&format!("its layer {}: {error}", layer.digest))
                    .help("name another image: whoever made this one must mend it")
                    .into(),
                other => other,
            })?;
        if found != diff_id {
            let what = format!(
                "the layer {} unpacks to {found}, and its configuration says {diff_id}",
                layer.digest
            );
            return Err(layout.bad(&what).into());
        }
        build.progress(number as u64 + 1, manifest.layers.len() as u64);
    }
    Ok(unpacker.tree.finish(store)?)
}

/// What directories get that no layer describes.
fn parent_meta() -> Meta {
    Meta {
        mode: 0o755,
        ..Meta::default()
    }
}

struct Unpacker<'a> {
    build: &'a dyn Build,
    tree: RootTree,
    bytes_left: u64,
    entries_left: usize,
}

/// A file of aufs's own, which only hard links lead to.
struct Book {
    spec: FileSpec,
    /// The name that it got first.
    first: Option<Bytes>,
}

/// What an entry says of itself, without what is not taken over.
fn meta_of(entry: &Entry) -> Meta {
    let mut xattrs = entry.xattrs.clone();
    xattrs.retain(|key, _| is_kept(key));
    Meta {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime_secs: entry.mtime_secs,
        mtime_nsecs: 0,
        xattrs,
    }
}

/// Hashes what passes, and lets only so much pass.
struct Bounded<R> {
    inner: R,
    hasher: Hasher,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(n as u64)
            .ok_or_else(|| io::Error::other("it unpacks to too much"))?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

/// Keeps why reading failed.
struct Noted<'a> {
    inner: &'a mut dyn Read,
    failed: Option<String>,
}

impl Read for Noted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer);
        if let Err(error) = &read
            && error.kind() != io::ErrorKind::Interrupted
        {
            self.failed = Some(error.to_string());
        }
        read
    }
}

impl Unpacker<'_> {
    /// Puts a layer on top; gives the digest of its archive.
    fn layer(&mut self, blob: &Path, size: u64) -> Result<String, BuilderError> {
        let io = |error| BuilderError::io("cannot be read", error);
        let most = size.saturating_mul(MAX_RATIO).saturating_add(FREE_BYTES);
        let bounded = Bounded {
            inner: decoded(blob).map_err(io)?,
            hasher: Hasher::new(HashAlgo::Sha256),
            left: self.bytes_left.min(most),
        };
        let allowed = bounded.left;
        let mut reader = Reader::new(BufReader::with_capacity(1 << 20, bounded)).without_globals();
        // What this layer has: its whiteouts do not act on that, wherever they stand.
        let mut added: BTreeSet<Bytes> = BTreeSet::new();
        let mut books = BTreeMap::new();
        let bad = |what: String| BuilderError::failed(what);
        while let Some(mut entry) = reader.next_entry().map_err(|e| bad(why(&e)))? {
            if self.build.cancelled() {
                return Err(BuilderError::Cancelled);
            }
            self.entries_left = self
                .entries_left
                .checked_sub(1)
                .ok_or_else(|| BuilderError::failed("it has too many entries"))?;
            match Meaning::of(&entry.path).map_err(bad)? {
                Meaning::Itself => {
                    entry.path = self.parents(&entry.path)?;
                    self.entry(&mut entry, &mut reader, &mut books)?;
                    added.insert(entry.path);
                }
                Meaning::Opaque(dir) => {
                    if let Way::To(dir) = self.way(&dir)? {
                        self.prune(&dir, &added)?;
                    }
                }
                Meaning::Hides(path) => {
                    if let Some(path) = self.placed(&path)? {
                        self.hide(&path, &added)?;
                    }
                }
                Meaning::Aufs if entry.kind == EntryKind::File => {
                    let (blob, size) = self.blob(&mut reader)?;
                    let spec = FileSpec {
                        meta: meta_of(&entry),
                        kind: SpecKind::File {
                            size,
                            blob,
                            hardlink: None,
                        },
                    };
                    books.insert(entry.path, Book { spec, first: None });
                }
                Meaning::Aufs => {}
            }
        }
        let mut bounded = reader.into_inner().into_inner();
        // The digest is of everything; the reader has seen that only zeros follow, as far as it looked.
        let mut rest = [0; 16 * 1024];
        loop {
            let n = bounded.read(&mut rest).map_err(io)?;
            if n == 0 {
                break;
            }
            if rest[..n].iter().any(|byte| *byte != 0) {
                return Err(BuilderError::failed("data follows the end of the archive"));
            }
        }
        self.bytes_left -= allowed - bounded.left;
        Ok(format!("sha256:{}", bounded.hasher.finish().to_hex()))
    }

    /// Stores the data of an entry. An archive that ends within it is a fault of the image, and not of the store.
    fn blob(&self, data: &mut dyn Read) -> Result<(Blake3, u64), BuilderError> {
        let mut noted = Noted {
            inner: data,
            failed: None,
        };
        let stored = self.build.store().put_blob(&mut noted);
        match noted.failed {
            Some(why) => Err(BuilderError::failed(why)),
            None => Ok(stored?),
        }
    }

    fn entry(
        &mut self,
        entry: &mut Entry,
        data: &mut dyn Read,
        books: &mut BTreeMap<Bytes, Book>,
    ) -> Result<(), BuilderError> {
        let meta = meta_of(entry);
        if entry.path.is_empty() {
            if entry.kind != EntryKind::Dir {
                return Err(BuilderError::failed("its root is no directory"));
            }
            let spec = FileSpec {
                meta,
                kind: SpecKind::Dir,
            };
            return Ok(self.tree.insert("", spec)?);
        }
        let kind = match entry.kind {
            EntryKind::Hardlink => {
                if !books.contains_key(&entry.link)
                    && let Some(link) = self.placed(&entry.link)?
                {
                    entry.link = link;
                }
                check_link(entry).map_err(BuilderError::failed)?;
                return match books.get_mut(&entry.link) {
                    Some(book) => self.link_to_book(entry, book),
                    None => self.link(&entry.link, &entry.path),
                };
            }
            EntryKind::File => {
                let (blob, size) = self.blob(data)?;
                SpecKind::File {
                    size,
                    blob,
                    hardlink: None,
                }
            }
            EntryKind::Dir => SpecKind::Dir,
            EntryKind::Symlink => SpecKind::Symlink {
                target: entry.link.clone(),
            },
            EntryKind::Fifo => SpecKind::Fifo,
            EntryKind::CharDev => SpecKind::CharDev {
                major: entry.major,
                minor: entry.minor,
            },
            EntryKind::BlockDev => SpecKind::BlockDev {
                major: entry.major,
                minor: entry.minor,
            },
        };
        Ok(self.tree.insert(&entry.path, FileSpec { meta, kind })?)
    }

    /// Gives something another name. The manifest has hard links of files only: of a symlink, a device or a pipe it gets another one
    /// that is the same, which nobody can tell from it but by its inode.
    fn link(&mut self, to: &[u8], path: &[u8]) -> Result<(), BuilderError> {
        let there = self.tree.get(to)?;
        let kind = match there.map(|there| there.kind) {
            Some(KindView::File { .. }) => {
                self.tree.remove(path)?;
                return Ok(self.tree.link(to, path)?);
            }
            Some(KindView::Symlink { target }) => SpecKind::Symlink {
                target: target.to_vec(),
            },
            Some(KindView::Fifo) => SpecKind::Fifo,
            Some(KindView::CharDev { major, minor }) => SpecKind::CharDev { major, minor },
            Some(KindView::BlockDev { major, minor }) => SpecKind::BlockDev { major, minor },
            found @ (Some(KindView::Dir) | None) => {
                return Err(BuilderError::failed(format!(
                    "the hard link `/{}` is to `/{}`, which is {}",
                    shown(path),
                    shown(to),
                    found.map_or("not there", |_| "a directory")
                )));
            }
        };
        let meta = there.map(|there| there.meta.clone()).unwrap_or_default();
        Ok(self.tree.insert(path, FileSpec { meta, kind })?)
    }

    /// Makes a name of a file of aufs: the first one is the file, further ones are links to that.
    fn link_to_book(&mut self, entry: &Entry, book: &mut Book) -> Result<(), BuilderError> {
        let SpecKind::File { blob: wanted, .. } = book.spec.kind else {
            return Ok(());
        };
        if let Some(first) = book.first.as_ref().filter(|first| **first != entry.path)
            // A later entry may have taken its place.
            && let Some(KindView::File { blob, .. }) = self.tree.get(first)?.map(|there| there.kind)
            && blob == wanted
        {
            return self.link(first, &entry.path);
        }
        book.first = Some(entry.path.clone());
        Ok(self.tree.insert(&entry.path, book.spec.clone())?)
    }

    /// Finds where an entry goes, and makes the directories above.
    fn parents(&mut self, path: &[u8]) -> Result<Bytes, BuilderError> {
        let (dir, name) = split(path);
        let real = match self.way(dir)? {
            Way::To(dir) => join(&dir, name),
            blocked => return Err(BuilderError::failed(blocked.problem(path))),
        };
        for dir in ancestors(&real) {
            if self.tree.get(dir)?.is_none() {
                let spec = FileSpec {
                    meta: parent_meta(),
                    kind: SpecKind::Dir,
                };
                self.tree.insert(dir, spec)?;
            }
        }
        Ok(real)
    }

    /// Where the way to a directory leads over the links that are there.
    fn way(&self, dir: &[u8]) -> Result<Way, BuilderError> {
        follow(dir, |path| {
            Ok(match self.tree.get(path)?.map(|there| there.kind) {
                None => Seen::Nothing,
                Some(KindView::Dir) => Seen::Dir,
                Some(KindView::Symlink { target }) => Seen::Link(target.to_vec()),
                Some(_) => Seen::Other,
            })
        })
    }

    /// The path itself behind the links on its way, or nothing when something is in the way.
    fn placed(&self, path: &[u8]) -> Result<Option<Bytes>, BuilderError> {
        let (dir, name) = split(path);
        Ok(match self.way(dir)? {
            Way::To(dir) => Some(join(&dir, name)),
            Way::Blocked(_) | Way::Circle(_) | Way::Missing(_) => None,
        })
    }

    /// Takes away what lower layers have at a path.
    fn hide(&mut self, path: &[u8], added: &BTreeSet<Bytes>) -> Result<(), BuilderError> {
        match self.there(path)? {
            None => Ok(()),
            Some(is_dir) if is_from(path, added) => {
                if is_dir {
                    self.prune(path, added)?;
                }
                Ok(())
            }
            Some(_) => Ok(self.tree.remove(path).map(|_| ())?),
        }
    }

    /// Takes away what lower layers have in a directory.
    fn prune(&mut self, dir: &[u8], added: &BTreeSet<Bytes>) -> Result<(), BuilderError> {
        let mut todo = vec![dir.to_vec()];
        while let Some(dir) = todo.pop() {
            if self.there(&dir)? != Some(true) {
                continue;
            }
            for name in self.tree.list(&dir)? {
                let path = join(&dir, &name);
                if is_from(&path, added) {
                    todo.push(path);
                } else {
                    self.tree.remove(&path)?;
                }
            }
        }
        Ok(())
    }

    /// Tells of what is at a path whether it is a directory. Nothing is there where something on the way is none.
    fn there(&self, path: &[u8]) -> Result<Option<bool>, BuilderError> {
        for dir in ancestors(path) {
            if !matches!(self.tree.get(dir)?.map(|e| e.kind), Some(KindView::Dir)) {
                return Ok(None);
            }
        }
        if path.is_empty() {
            return Ok(Some(true));
        }
        let found = self.tree.get(path)?.map(|entry| entry.kind);
        Ok(found.map(|kind| matches!(kind, KindView::Dir)))
    }
}

/// Whether a layer has a path, or something below it.
fn is_from(path: &[u8], added: &BTreeSet<Bytes>) -> bool {
    let below = [path, b"/"].concat();
    added.contains(path)
        || added
            .range(below.clone()..)
            .next()
            .is_some_and(|next| next.starts_with(&below))
}
