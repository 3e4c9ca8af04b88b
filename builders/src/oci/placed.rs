//! Layers of plain files: a tree, or single files, put at given places over a base.
//!
//! Trees know neither owner nor mode beyond the executable bit, so those are given. Directories that the base has
//! already keep what they have there, and links among them are followed (`/bin/x` over a merged `/usr` is `usr/bin/x`).

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sos_engine::BuilderError;
use sos_formats::Bytes;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Blake3;
use sos_formats::manifest::{Entry, Kind};
use sos_store::Store;

use super::contents::{Attributes, Data, LayerEntry, missing_parents, shown};
use super::way::{Seen, Way, follow, split};
use crate::walk::join;

/// Entries of one layer of placed files.
const MAX_ENTRIES: usize = 1 << 20;

/// Where placed files get their owner and time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    pub(super) owner: (u32, u32),
    pub(super) epoch: i64,
}

/// Collects placed files.
pub(super) struct Placed<'a> {
    store: &'a Store,
    base: Option<Blake3>,
    style: Style,
    entries: BTreeMap<Bytes, LayerEntry>,
}

impl<'a> Placed<'a> {
    /// Begins an empty layer over a base, given by its root id.
    pub(super) fn new(
        store: &'a Store,
        base: Option<&Blake3>,
        style: Style,
    ) -> Result<Self, BuilderError> {
        let base = base
            .map(|id| store.get_root(id))
            .transpose()?
            .map(|root| root.node);
        Ok(Self {
            store,
            base,
            style,
            entries: BTreeMap::new(),
        })
    }

    /// Puts a file, a link or the contents of a directory at an absolute path.
    pub(super) fn place(&mut self, at: &str, source: &Path) -> Result<(), BuilderError> {
        let at = normal(at)?;
        let mut todo = vec![(at, source.to_owned())];
        while let Some((path, source)) = todo.pop() {
            let error =
                |error| BuilderError::io(format!("cannot read `{}`", source.display()), error);
            let meta = fs::symlink_metadata(&source).map_err(error)?;
            if !meta.is_dir() {
                self.leaf(&path, source, &meta)?;
                continue;
            }
            let dir = self.directory(&path)?;
            for child in fs::read_dir(&source).map_err(error)? {
                let child = child.map_err(error)?;
                todo.push((join(&dir, child.file_name().as_bytes()), child.path()));
            }
        }
        Ok(())
    }

    /// Gives everything placed, with the directories above.
    pub(super) fn finish(self) -> Result<Vec<LayerEntry>, BuilderError> {
        let mut entries: Vec<LayerEntry> = self.entries.values().cloned().collect();
        for path in missing_parents(&entries) {
            let attributes =
                self.base_dir(&path)?
                    .unwrap_or(Attributes::plain(0o755, (0, 0), self.style.epoch));
            entries.push(LayerEntry {
                path,
                attributes,
                data: Data::Dir,
            });
        }
        Ok(entries)
    }

    /// Adds a file or a link.
    fn leaf(&mut self, path: &[u8], source: PathBuf, meta: &Metadata) -> Result<(), BuilderError> {
        if path.is_empty() {
            return Err(clash("/", "is a directory, not a file"));
        }
        let (dir, name) = split(path);
        let path = join(&self.resolve(dir)?, name);
        let (mode, data) = if meta.is_symlink() {
            let target = fs::read_link(&source).map_err(|error| {
                BuilderError::io(format!("cannot read `{}`", source.display()), error)
            })?;
            (
                0o777,
                Data::Symlink {
                    target: target.into_os_string().into_vec(),
                },
            )
        } else if meta.is_file() {
            let mode = if meta.permissions().mode() & 0o111 == 0 {
                0o644
            } else {
                0o755
            };
            (
                mode,
                Data::Path {
                    path: source,
                    size: meta.len(),
                },
            )
        } else {
            return Err(BuilderError::failed(format!(
                "`{}` is neither file, link nor directory",
                source.display()
            )));
        };
        if self
            .lookup(&path)?
            .is_some_and(|entry| matches!(entry.kind, Kind::Dir { .. }))
        {
            return Err(clash(
                &shown(&path),
                "is a directory in the base, and a file would replace all of it",
            ));
        }
        self.insert(LayerEntry {
            path,
            attributes: Attributes::plain(mode, self.style.owner, self.style.epoch),
            data,
        })
    }

    /// Adds a directory and gives its real path.
    fn directory(&mut self, path: &[u8]) -> Result<Bytes, BuilderError> {
        let path = self.resolve(path)?;
        if path.is_empty()
            || matches!(
                self.entries.get(&path),
                Some(LayerEntry {
                    data: Data::Dir,
                    ..
                })
            )
        {
            return Ok(path);
        }
        let own = Attributes::plain(0o755, self.style.owner, self.style.epoch);
        let attributes = self.base_dir(&path)?.unwrap_or(own);
        self.insert(LayerEntry {
            path: path.clone(),
            attributes,
            data: Data::Dir,
        })?;
        Ok(path)
    }

    fn insert(&mut self, entry: LayerEntry) -> Result<(), BuilderError> {
        if self.entries.len() >= MAX_ENTRIES {
            return Err(BuilderError::failed(format!(
                "more than {MAX_ENTRIES} files in one layer"
            )));
        }
        match self.entries.insert(entry.path.clone(), entry) {
            None => Ok(()),
            Some(before) => Err(clash(&shown(&before.path), "is placed twice")),
        }
    }

    /// Follows the base's links so that the result names a real directory, there or yet to be made.
    fn resolve(&self, path: &[u8]) -> Result<Bytes, BuilderError> {
        let way = follow(path, |next| {
            match self.entries.get(next).map(|entry| &entry.data) {
                Some(Data::Dir) => return Ok(Seen::Dir),
                Some(_) => {
                    let what = "is placed both as a file and as a directory";
                    return Err(clash(&shown(next), what));
                }
                None => {}
            }
            Ok(match self.lookup(next)?.map(|entry| entry.kind) {
                None => Seen::Nothing,
                Some(Kind::Dir { .. }) => Seen::Dir,
                Some(Kind::Symlink { target }) => Seen::Link(target),
                Some(_) => Seen::Other,
            })
        })?;
        let (at, what) = match way {
            Way::To(dir) => return Ok(dir),
            Way::Blocked(at) => (at, "is a file in the base, not a directory"),
            Way::Circle(at) => (at, "is a link that goes in a circle in the base"),
            Way::Missing(at) => (
                at,
                "is not there in the base, and a link leads to `..` of it",
            ),
        };
        Err(clash(&shown(&at), what))
    }

    /// Gives the attributes of a directory of the base.
    fn base_dir(&self, path: &[u8]) -> Result<Option<Attributes>, BuilderError> {
        let entry = self
            .lookup(path)?
            .filter(|entry| matches!(entry.kind, Kind::Dir { .. }));
        Ok(entry.map(|entry| Attributes::of(&entry.meta, self.style.epoch)))
    }

    /// Finds a path of the base without following links.
    fn lookup(&self, path: &[u8]) -> Result<Option<Entry>, BuilderError> {
        let Some(mut node) = self.base else {
            return Ok(None);
        };
        let names = components(path);
        for (i, name) in names.iter().enumerate() {
            let Some(entry) = self.store.get_node(&node)?.get(name).cloned() else {
                return Ok(None);
            };
            if i + 1 == names.len() {
                return Ok(Some(entry));
            }
            let Kind::Dir { node: below } = entry.kind else {
                return Ok(None);
            };
            node = below;
        }
        Ok(None)
    }
}

fn components(path: &[u8]) -> Vec<Bytes> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

/// Checks a path of the recipe and takes its slashes off.
fn normal(path: &str) -> Result<Bytes, BuilderError> {
    let names = components(path.as_bytes());
    if !path.starts_with('/') || names.iter().any(|name| name == b"..") || path.contains('\0') {
        let message = format!("`{path}` is not a place in an image");
        return Err(Diagnostic::error("oci-bad-path", Class::Recipe, message)
            .help("write an absolute path without `..`, for example `/usr/local/bin/tool`")
            .into());
    }
    Ok(names.join(&b'/'))
}

fn clash(path: &str, what: &str) -> BuilderError {
    let message = format!("`/{}` {what}", path.trim_start_matches('/'));
    Diagnostic::error("oci-path-clash", Class::Recipe, message).into()
}
