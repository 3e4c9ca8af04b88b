//! Repositories read: directories of the machine and objects of the store. Every object is checked against its name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::PathBuf;

use flate2::bufread::DeflateDecoder;
use sos_engine::BuilderError;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::gvariant::GVariantError;
use sos_formats::hash::{Blake3, HashAlgo, Hasher, Sha256};
use sos_formats::manifest::{Kind, Node};
use sos_formats::ostree::{
    CommitView, DirTreeView, FRAME_BYTES, FileHeader, FileView, MAX_METADATA_BYTES, MODE_SYMLINK,
    ObjectKind, TYPE_FILE, TYPE_MASK, object_name, read_dirmeta, read_dirtree, read_filez_header,
    read_frame,
};
use sos_store::Store;

use super::Mode;

/// The name of the xattr in which bare-user repositories keep owner, mode and xattrs.
pub(crate) const OSTREE_META: &[u8] = b"user.ostreemeta";
/// The largest link target that is read, in bytes: more than any system allows.
const MAX_TARGET_BYTES: u64 = 64 << 10;
/// The largest configuration or ref that is read, in bytes.
const MAX_SMALL_BYTES: u64 = 64 << 10;
/// Directories of one tree; more than any system has.
const MAX_DIRS: usize = 4 << 20;

/// Where objects come from.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    mode: Mode,
    place: Place<'a>,
}

#[derive(Debug)]
enum Place<'a> {
    Dir(PathBuf),
    Store {
        store: &'a Store,
        top: Node,
        /// Directories below `objects`.
        objects: BTreeMap<Vec<u8>, Node>,
    },
}

/// An object as it is stored.
struct Stored {
    file: File,
    size: u64,
    /// `user.ostreemeta`.
    meta: Option<Vec<u8>>,
}

/// All objects that a commit needs, besides itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reachable {
    pub(crate) trees: BTreeSet<Sha256>,
    pub(crate) metas: BTreeSet<Sha256>,
    pub(crate) files: BTreeSet<Sha256>,
}

impl<'a> Source<'a> {
    /// Opens a directory.
    pub(crate) fn open(dir: impl Into<PathBuf>) -> Result<Self, BuilderError> {
        let dir = dir.into();
        let config = fs::read(dir.join("config")).map_err(|e| {
            BuilderError::io(format!("cannot read the repository `{}`", dir.display()), e)
        })?;
        let shown = dir.display().to_string();
        Ok(Self {
            mode: mode_of(&config, &shown)?,
            place: Place::Dir(dir),
        })
    }

    /// Opens a rootfs object of the store that holds a repository; `shown` names it in messages.
    pub(crate) fn in_store(
        store: &'a Store,
        root: &Blake3,
        shown: &str,
    ) -> Result<Self, BuilderError> {
        let top = store.get_node(&store.get_root(root)?.node)?;
        let mut objects = BTreeMap::new();
        if let Some(Kind::Dir { node }) = top.get(b"objects").map(|entry| &entry.kind) {
            for entry in store.get_node(node)?.entries {
                if let Kind::Dir { node } = entry.kind {
                    objects.insert(entry.name, store.get_node(&node)?);
                }
            }
        }
        let mut source = Self {
            mode: Mode::Archive,
            place: Place::Store {
                store,
                top,
                objects,
            },
        };
        let Some(config) = source.small("config")? else {
            let message = format!("`{shown}` is no OSTree repository");
            return Err(
                Diagnostic::error("ostree-no-repository", Class::Recipe, message)
                    .help("`sos.ostree { name; rootfs; }` makes one of a root filesystem")
                    .into(),
            );
        };
        source.mode = mode_of(&config, shown)?;
        Ok(source)
    }

    /// What a ref names, or nothing when it is not there.
    pub(crate) fn reference(&self, name: &str) -> Result<Option<Sha256>, BuilderError> {
        let Some(text) = self.small(&format!("refs/heads/{name}"))? else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&text);
        let commit = text
            .trim_end()
            .parse()
            .map_err(|e| BuilderError::failed(format!("the ref `{name}` names no commit: {e}")))?;
        Ok(Some(commit))
    }

    /// Reads a commit; nothing when it is not there.
    pub(crate) fn commit(
        &self,
        checksum: &Sha256,
    ) -> Result<Option<(Vec<u8>, CommitView)>, BuilderError> {
        let Some(bytes) = self.metadata(checksum, ObjectKind::Commit)? else {
            return Ok(None);
        };
        let view = CommitView::decode(&bytes).map_err(|e| broken(checksum, e))?;
        Ok(Some((bytes, view)))
    }

    /// Reads a dirtree.
    pub(crate) fn tree(&self, checksum: &Sha256) -> Result<DirTreeView, BuilderError> {
        let bytes = self.needed(checksum, ObjectKind::DirTree)?;
        read_dirtree(&bytes).map_err(|e| broken(checksum, e))
    }

    /// Reads a metadata object, which must be there.
    pub(crate) fn needed(
        &self,
        checksum: &Sha256,
        kind: ObjectKind,
    ) -> Result<Vec<u8>, BuilderError> {
        self.metadata(checksum, kind)?
            .ok_or_else(|| missing(checksum, kind))
    }

    fn metadata(
        &self,
        checksum: &Sha256,
        kind: ObjectKind,
    ) -> Result<Option<Vec<u8>>, BuilderError> {
        let Some(stored) = self.stored(checksum, kind)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let limit = MAX_METADATA_BYTES as u64 + 1;
        let read = stored.file.take(limit).read_to_end(&mut bytes);
        read.map_err(|e| unreadable(checksum, e))?;
        if bytes.len() > MAX_METADATA_BYTES {
            let why = GVariantError("it is larger than metadata may be");
            return Err(broken(checksum, why));
        }
        if Sha256::of(&bytes) != *checksum {
            return Err(damaged(checksum));
        }
        Ok(Some(bytes))
    }

    /// Opens a file or link, which must be there.
    pub(crate) fn content(&self, checksum: &Sha256) -> Result<Content, BuilderError> {
        let kind = match self.mode {
            Mode::Archive => ObjectKind::Filez,
            Mode::BareUser => ObjectKind::File,
        };
        let stored = self
            .stored(checksum, kind)?
            .ok_or_else(|| missing(checksum, kind))?;
        let wrong = |e: GVariantError| broken(checksum, e);
        let unreadable = |e| unreadable(checksum, e);
        let mut file = BufReader::new(stored.file);
        let (view, size, data): (_, _, Box<dyn Read + Send>) = match self.mode {
            Mode::Archive => {
                let mut frame = [0; FRAME_BYTES];
                file.read_exact(&mut frame).map_err(unreadable)?;
                let mut header = vec![0; read_frame(frame).map_err(wrong)?];
                file.read_exact(&mut header).map_err(unreadable)?;
                let (size, view) = read_filez_header(&header).map_err(wrong)?;
                (view, size, Box::new(DeflateDecoder::new(file)))
            }
            Mode::BareUser => {
                let meta = stored.meta.ok_or_else(|| {
                    BuilderError::failed(format!(
                        "the object {checksum} has no xattr `user.ostreemeta`"
                    ))
                })?;
                let attributes = read_dirmeta(&meta).map_err(wrong)?;
                let mut target = String::new();
                if attributes.mode == MODE_SYMLINK {
                    let mut text = file.take(MAX_TARGET_BYTES);
                    text.read_to_string(&mut target).map_err(unreadable)?;
                    // libostree ends it with NUL.
                    target.truncate(target.trim_end_matches('\0').len());
                    (FileView { attributes, target }, 0, Box::new(io::empty()))
                } else {
                    (FileView { attributes, target }, stored.size, Box::new(file))
                }
            }
        };
        let is_link = view.attributes.mode == MODE_SYMLINK;
        if !is_link && view.attributes.mode & TYPE_MASK != TYPE_FILE {
            return Err(wrong(GVariantError("it is neither a file nor a link")));
        }
        let mut hasher = Hasher::new(HashAlgo::Sha256);
        let header = FileHeader {
            uid: view.attributes.uid,
            gid: view.attributes.gid,
            mode: view.attributes.mode,
            target: &view.target,
            xattrs: &view.attributes.xattrs,
        };
        hasher.update(&header.framed());
        Ok(Content {
            checksum: *checksum,
            // What follows of a link counts for nothing.
            data: if is_link { Box::new(io::empty()) } else { data },
            size: if is_link { 0 } else { size },
            view,
            stored_size: stored.size,
            hasher,
            read: 0,
        })
    }

    /// Finds all that a commit needs.
    pub(crate) fn reachable(&self, commit: &CommitView) -> Result<Reachable, BuilderError> {
        let mut found = Reachable::default();
        let mut todo = vec![commit.tree];
        found.trees.insert(commit.tree);
        found.metas.insert(commit.meta);
        while let Some(tree) = todo.pop() {
            let tree = self.tree(&tree)?;
            found.files.extend(tree.files.into_values());
            for (below, meta) in tree.dirs.into_values() {
                found.metas.insert(meta);
                if found.trees.insert(below) {
                    todo.push(below);
                }
            }
            if found.trees.len() > MAX_DIRS {
                let message = format!("a commit has more than {MAX_DIRS} directories");
                return Err(BuilderError::failed(message));
            }
        }
        Ok(found)
    }

    fn stored(&self, checksum: &Sha256, kind: ObjectKind) -> Result<Option<Stored>, BuilderError> {
        let (dir, name) = object_name(checksum, kind);
        match &self.place {
            Place::Dir(top) => {
                let path = top.join("objects").join(dir).join(name);
                let file = match File::open(&path) {
                    Ok(file) => file,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(e) => return Err(unreadable(checksum, e)),
                };
                let size = file.metadata().map_err(|e| unreadable(checksum, e))?.len();
                let meta = if kind == ObjectKind::File {
                    xattr(&file).map_err(|e| unreadable(checksum, e))?
                } else {
                    None
                };
                Ok(Some(Stored { file, size, meta }))
            }
            Place::Store { store, objects, .. } => {
                let node = objects.get(dir.as_bytes());
                let Some(entry) = node.and_then(|node| node.get(name.as_bytes())) else {
                    return Ok(None);
                };
                let Kind::File { blob, size, .. } = &entry.kind else {
                    return Ok(None);
                };
                Ok(Some(Stored {
                    file: store.open_blob(blob)?,
                    size: *size,
                    meta: entry.meta.xattrs.get(OSTREE_META).cloned(),
                }))
            }
        }
    }

    fn small(&self, path: &str) -> Result<Option<Vec<u8>>, BuilderError> {
        let io = |e| BuilderError::io(format!("cannot read `{path}` of a repository"), e);
        let file = match &self.place {
            Place::Dir(top) => match File::open(top.join(path)) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(io(e)),
            },
            Place::Store { store, top, .. } => {
                let (dirs, name) = path.rsplit_once('/').unwrap_or(("", path));
                let mut at = top.clone();
                for dir in dirs.split('/').filter(|dir| !dir.is_empty()) {
                    let Some(Kind::Dir { node }) = at.get(dir.as_bytes()).map(|e| &e.kind) else {
                        return Ok(None);
                    };
                    at = store.get_node(node)?;
                }
                let Some(Kind::File { blob, .. }) = at.get(name.as_bytes()).map(|e| &e.kind) else {
                    return Ok(None);
                };
                store.open_blob(blob)?
            }
        };
        let mut bytes = Vec::new();
        file.take(MAX_SMALL_BYTES)
            .read_to_end(&mut bytes)
            .map_err(io)?;
        Ok(Some(bytes))
    }
}

/// A file or link being read.
pub(crate) struct Content {
    checksum: Sha256,
    pub(crate) view: FileView,
    /// Bytes of the file; nothing for links.
    pub(crate) size: u64,
    /// Bytes that the repository keeps.
    pub(crate) stored_size: u64,
    data: Box<dyn Read + Send>,
    hasher: Hasher,
    read: u64,
}

impl Content {
    /// Whether it is a link.
    pub(crate) fn is_link(&self) -> bool {
        self.view.attributes.mode == MODE_SYMLINK
    }

    /// Ends the reading: the content must have been that of the name.
    pub(crate) fn finish(mut self) -> Result<FileView, BuilderError> {
        io::copy(&mut self, &mut io::sink()).map_err(|e| unreadable(&self.checksum, e))?;
        if self.read != self.size || self.hasher.finish().as_sha256() != Some(self.checksum) {
            return Err(damaged(&self.checksum));
        }
        Ok(self.view)
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // One byte more than there should be tells that there is more.
        let left = usize::try_from(self.size - self.read.min(self.size)).unwrap_or(usize::MAX);
        let most = buffer.len().min(left.saturating_add(1));
        let n = self.data.read(&mut buffer[..most])?;
        self.read += n as u64;
        if self.read > self.size {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it is larger than its header says",
            ));
        }
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

fn xattr(file: &File) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; 64 << 10];
    match rustix::fs::fgetxattr(file, OSTREE_META, value.as_mut_slice()) {
        Ok(n) => {
            value.truncate(n);
            Ok(Some(value))
        }
        Err(rustix::io::Errno::NODATA) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Reads the mode out of a repository's configuration.
fn mode_of(config: &[u8], shown: &str) -> Result<Mode, BuilderError> {
    let text = String::from_utf8_lossy(config);
    let mode = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .find(|(key, _)| key.trim() == "mode")
        .map(|(_, value)| value.trim());
    match mode {
        Some("archive" | "archive-z2") => Ok(Mode::Archive),
        Some("bare-user") => Ok(Mode::BareUser),
        other => {
            let other = other.unwrap_or("nothing");
            let message = format!(
                "the repository `{shown}` keeps its files in a mode that sos does not read"
            );
            Err(Diagnostic::error("ostree-mode", Class::Usage, message)
                .note(format!(
                    "`config` says `{other}`; sos reads `archive` and `bare-user`"
                ))
                .into())
        }
    }
}

pub(crate) fn missing(checksum: &Sha256, kind: ObjectKind) -> BuilderError {
    let message = format!(
        "the repository lacks the object {checksum}.{}",
        kind.extension()
    );
    Diagnostic::error("ostree-object-missing", Class::Fetch, message)
        .help("pull the commit again; `ostree fsck` lists all that is missing")
        .into()
}

fn damaged(checksum: &Sha256) -> BuilderError {
    let message = format!("the object {checksum} is not what its name says");
    Diagnostic::error("ostree-object-damaged", Class::HashMismatch, message)
        .help("delete it and pull the commit again")
        .into()
}

fn broken(checksum: &Sha256, error: GVariantError) -> BuilderError {
    let message = format!("the object {checksum} cannot be understood: {error}");
    Diagnostic::error("ostree-object-damaged", Class::HashMismatch, message).into()
}

fn unreadable(checksum: &Sha256, error: io::Error) -> BuilderError {
    BuilderError::io(format!("cannot read the object {checksum}"), error)
}
