//! What is in a layer: entries in canonical order, and how they become a tar stream.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use sos_engine::BuilderError;
use sos_formats::Bytes;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Blake3;
use sos_formats::manifest::{Entry, Kind, Meta};
use sos_formats::tar::{self, EntryKind, TarError};
use sos_store::Store;

use super::compress::LayerWriter;
use crate::build::Build;
pub(super) use crate::unfit::Unfit;
use crate::walk::join;
use crate::walk::walk;

/// Bytes of all extended attributes of an entry: what readers of archives take for a header, without what else stands there.
const MAX_XATTRS_BYTES: u64 = tar::MAX_EXTRA_LEN - (64 << 10);
/// Octal digits of a header have no larger number, and there is no other way to write that of a device.
const MAX_DEVICE: u32 = 0o7_777_777;
/// The prefix of names that mean something else in a layer.
const WHITEOUT: &[u8] = b".wh.";

/// Owner, mode, time and xattrs as they stand in a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime_secs: i64,
    pub(super) xattrs: BTreeMap<Bytes, Bytes>,
}

impl Attributes {
    /// Takes what a layer can and should hold of a manifest's metadata.
    pub(super) fn of(meta: &Meta, epoch: i64) -> Self {
        let xattrs = meta
            .xattrs
            .iter()
            .filter(|(key, _)| is_kept(key))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        Self {
            mode: meta.mode & 0o7777,
            uid: meta.uid,
            gid: meta.gid,
            mtime_secs: meta.mtime_secs.min(epoch),
            xattrs,
        }
    }

    /// Makes plain attributes.
    pub(super) fn plain(mode: u16, (uid, gid): (u32, u32), epoch: i64) -> Self {
        Self {
            mode,
            uid,
            gid,
            mtime_secs: epoch.max(0),
            xattrs: BTreeMap::new(),
        }
    }

    /// Tells whether a root directory with these can go without saying.
    pub(super) fn is_usual_root(&self) -> bool {
        self.mode == 0o755 && self.uid == 0 && self.gid == 0 && self.xattrs.is_empty()
    }
}

/// Whether an xattr belongs into a layer: labels are set anew by runtimes, and marks of overlays mean something else there.
pub(super) fn is_kept(key: &[u8]) -> bool {
    key != b"security.selinux" && !key.starts_with(b"trusted.overlay.")
}

/// What an entry is, and where its bytes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Data {
    Dir,
    /// A file out of the CAS; names with the same group are one file.
    Blob {
        id: Blake3,
        size: u64,
        group: Option<[u8; 16]>,
    },
    /// A file of a tree.
    Path {
        path: PathBuf,
        size: u64,
    },
    Symlink {
        target: Bytes,
    },
    Hardlink {
        target: Bytes,
    },
    Fifo,
    CharDev {
        major: u32,
        minor: u32,
    },
    BlockDev {
        major: u32,
        minor: u32,
    },
    /// An empty file that hides a name of the layers below.
    Whiteout,
}

/// One entry of a layer. The path has no slash at either end; the root is the empty path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LayerEntry {
    pub(super) path: Bytes,
    pub(super) attributes: Attributes,
    pub(super) data: Data,
}

impl LayerEntry {
    /// Makes the entry of a manifest's entry.
    pub(super) fn of(path: Bytes, entry: &Entry, epoch: i64) -> Self {
        let data = match &entry.kind {
            Kind::File {
                size,
                blob,
                hardlink,
            } => Data::Blob {
                id: *blob,
                size: *size,
                group: *hardlink,
            },
            Kind::Dir { .. } => Data::Dir,
            Kind::Symlink { target } => Data::Symlink {
                target: target.clone(),
            },
            Kind::Fifo => Data::Fifo,
            Kind::CharDev { major, minor } => Data::CharDev {
                major: *major,
                minor: *minor,
            },
            Kind::BlockDev { major, minor } => Data::BlockDev {
                major: *major,
                minor: *minor,
            },
        };
        Self {
            path,
            attributes: Attributes::of(&entry.meta, epoch),
            data,
        }
    }

    /// Makes the entry that hides `name` in the directory `dir`.
    pub(super) fn whiteout(dir: &[u8], name: &[u8], epoch: i64) -> Self {
        let path = join(dir, &[WHITEOUT, name].concat());
        Self {
            path,
            attributes: Attributes::plain(0o644, (0, 0), epoch),
            data: Data::Whiteout,
        }
    }

    fn size(&self) -> u64 {
        match &self.data {
            Data::Blob { size, .. } | Data::Path { size, .. } => *size,
            _ => 0,
        }
    }
}

/// Gives every directory above a path, nearest last; the root is not among them.
pub(super) fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'/')
        .map(|(at, _)| &path[..at])
}

/// Puts entries into the order of a layer and turns all but the first name of a file into hard links.
///
/// The order is depth first with children sorted by raw bytes; comparing paths component by component gives just that.
/// A whiteout sorts like any other name: it acts on the layers below only, so its place among its siblings has no
/// meaning, and a plain order can be checked by anybody.
pub(super) fn arrange(mut entries: Vec<LayerEntry>) -> Result<Vec<LayerEntry>, BuilderError> {
    check_names(&entries)?;
    check_rules(&entries)?;
    entries.sort_by(|a, b| {
        a.path
            .split(|byte| *byte == b'/')
            .cmp(b.path.split(|byte| *byte == b'/'))
    });
    for pair in entries.windows(2) {
        if pair[0].path == pair[1].path {
            let message = format!("`/{}` would be in one layer twice", shown(&pair[0].path));
            return Err(Diagnostic::error("oci-path-clash", Class::Recipe, message).into());
        }
    }
    let mut first: BTreeMap<[u8; 16], Bytes> = BTreeMap::new();
    for entry in &mut entries {
        let Data::Blob {
            group: Some(group), ..
        } = &entry.data
        else {
            continue;
        };
        match first.get(group) {
            Some(target) => {
                entry.data = Data::Hardlink {
                    target: target.clone(),
                }
            }
            None => {
                first.insert(*group, entry.path.clone());
            }
        }
    }
    Ok(entries)
}

/// Refuses names that a layer gives another meaning.
fn check_names(entries: &[LayerEntry]) -> Result<(), BuilderError> {
    let fix = "rename these files, or remove them before the layer is made";
    let mut unfit = Unfit::new("oci-whiteout-name", "an image layer", fix);
    for entry in entries {
        let path = match entry.data {
            Data::Whiteout => entry
                .path
                .rsplitn(2, |byte| *byte == b'/')
                .nth(1)
                .unwrap_or_default(),
            _ => &entry.path,
        };
        if path
            .split(|byte| *byte == b'/')
            .any(|name| name.starts_with(WHITEOUT))
        {
            unfit.push(
                &entry.path,
                "names that begin with `.wh.` mark deleted files there",
            );
        }
    }
    unfit.finish()
}

/// Refuses what would not come back from a layer as it was.
fn check_rules(entries: &[LayerEntry]) -> Result<(), BuilderError> {
    let fix = "change or remove these files before the layer is made";
    let mut unfit = Unfit::new("oci-unfit", "an image layer", fix);
    for entry in entries {
        let path = &entry.path;
        // docker and containerd make 1970 of them.
        if entry.attributes.mtime_secs < 0 {
            let seconds = -i128::from(entry.attributes.mtime_secs);
            unfit.push(path, &format!("times are those since 1970, and that of this one is {seconds} seconds before; `touch -h -d @0` gives it another one"));
        }
        let xattrs = &entry.attributes.xattrs;
        if let Some(key) = xattrs.keys().find(|key| key.contains(&b'=')) {
            let key = shown(key);
            unfit.push(path, &format!("names of extended attributes end at a `=`, and one is called `{key}`; `setfattr -x` removes it"));
        }
        // Records of a header without a value are passed over: umoci, podman and docker find no attribute there.
        if let Some((key, _)) = xattrs.iter().find(|(_, value)| value.is_empty()) {
            let key = shown(key);
            unfit.push(path, &format!("extended attributes have a value, and `{key}` has none; `setfattr -x {key}` removes it"));
        }
        let bytes: usize = xattrs
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        if bytes as u64 > MAX_XATTRS_BYTES {
            unfit.push(path, &format!("extended attributes of a file have at most {MAX_XATTRS_BYTES} bytes, and these have {bytes}"));
        }
        if let Data::CharDev { major, minor } | Data::BlockDev { major, minor } = entry.data
            && major.max(minor) > MAX_DEVICE
        {
            unfit.push(
                path,
                &format!(
                    "numbers of devices are at most {MAX_DEVICE}, and these are {major} and {minor}"
                ),
            );
        }
    }
    unfit.finish()
}

/// Gives a path as text for people.
pub(super) fn shown(path: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(path)
}

/// Lists a whole rootfs object.
pub(super) fn whole(
    store: &Store,
    root: &Blake3,
    epoch: i64,
) -> Result<Vec<LayerEntry>, BuilderError> {
    let root = store.get_root(root)?;
    let mut entries = Vec::new();
    let attributes = Attributes::of(&root.meta, epoch);
    // Unpackers make the root themselves, as 0755 of root; an entry is needed only if it differs.
    if !attributes.is_usual_root() {
        entries.push(LayerEntry {
            path: Bytes::new(),
            attributes,
            data: Data::Dir,
        });
    }
    walk(store, b"", root.node, &mut |path, entry| {
        entries.push(LayerEntry::of(path, entry, epoch));
    })?;
    Ok(entries)
}

/// Gives the directories above all entries that are not entries themselves.
pub(super) fn missing_parents(entries: &[LayerEntry]) -> BTreeSet<Bytes> {
    let present: BTreeSet<&[u8]> = entries.iter().map(|entry| entry.path.as_slice()).collect();
    let above = entries.iter().flat_map(|entry| ancestors(&entry.path));
    above
        .filter(|dir| !present.contains(dir))
        .map(<[u8]>::to_vec)
        .collect()
}

/// Writes arranged entries as a tar stream into `out`.
pub(super) fn write<'s, W: Write + Send + 'static>(
    build: &dyn Build,
    entries: &[LayerEntry],
    out: LayerWriter<'s, W>,
) -> Result<LayerWriter<'s, W>, BuilderError> {
    let total: u64 = entries.iter().map(LayerEntry::size).sum();
    let mut done = 0;
    let mut tar = tar::Writer::new(out);
    for entry in entries {
        let mut data = Watched {
            build,
            inner: open(build.store(), entry)?,
            done,
            total,
        };
        let written = match &entry.data {
            Data::Blob { id, size, .. } => tar.append_with(&header(entry), |out| {
                out.file(id, *size, &mut data).map_err(TarError::Write)
            }),
            _ => tar.append(&header(entry), &mut data),
        };
        written.map_err(|error| {
            if build.cancelled() {
                BuilderError::Cancelled
            } else {
                failed(error)
            }
        })?;
        done += entry.size();
    }
    tar.finish().map_err(failed)
}

/// Gives the exact size of the tar stream.
pub(super) fn measure(entries: &[LayerEntry]) -> Result<u64, BuilderError> {
    struct Count(u64);
    impl Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut tar = tar::Writer::new(Count(0));
    for entry in entries {
        tar.append(&header(entry), &mut io::repeat(0).take(entry.size()))
            .map_err(failed)?;
    }
    Ok(tar.finish().map_err(failed)?.0)
}

fn failed(error: TarError) -> BuilderError {
    match error {
        TarError::Write(source) => BuilderError::io("cannot write the layer", source),
        TarError::Contents { path, cause } => BuilderError::io(
            format!("cannot read `/{}` for the layer", shown(&path)),
            cause,
        ),
        other => BuilderError::failed(format!("the layer cannot be made: {other}")),
    }
}

/// Makes the header of an entry.
fn header(entry: &LayerEntry) -> tar::Entry {
    let Attributes {
        mode,
        uid,
        gid,
        mtime_secs,
        xattrs,
    } = entry.attributes.clone();
    let mut header = tar::Entry {
        path: entry.path.clone(),
        mode,
        uid,
        gid,
        mtime_secs,
        xattrs,
        ..tar::Entry::default()
    };
    header.kind = match &entry.data {
        Data::Dir => EntryKind::Dir,
        Data::Blob { size, .. } | Data::Path { size, .. } => {
            header.size = *size;
            EntryKind::File
        }
        Data::Whiteout => EntryKind::File,
        Data::Symlink { target } => {
            header.link.clone_from(target);
            EntryKind::Symlink
        }
        Data::Hardlink { target } => {
            header.link.clone_from(target);
            EntryKind::Hardlink
        }
        Data::Fifo => EntryKind::Fifo,
        Data::CharDev { major, minor } => {
            (header.major, header.minor) = (*major, *minor);
            EntryKind::CharDev
        }
        Data::BlockDev { major, minor } => {
            (header.major, header.minor) = (*major, *minor);
            EntryKind::BlockDev
        }
    };
    header
}

fn open(store: &Store, entry: &LayerEntry) -> Result<Box<dyn Read>, BuilderError> {
    Ok(match &entry.data {
        Data::Blob { id, .. } => Box::new(store.open_blob(id)?),
        Data::Path { path, .. } => {
            let file = File::open(path);
            Box::new(file.map_err(|error| {
                BuilderError::io(format!("cannot open `{}`", path.display()), error)
            })?)
        }
        _ => Box::new(io::empty()),
    })
}

/// Tells the build how far it is, and ends when the build should.
struct Watched<'a> {
    build: &'a dyn Build,
    inner: Box<dyn Read>,
    done: u64,
    total: u64,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.build.cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        let n = self.inner.read(buffer)?;
        self.done += n as u64;
        self.build.progress(self.done, self.total);
        Ok(n)
    }
}
