//! An editable rootfs in memory. Directories are read when they are looked into; those that nothing changed keep
//! their node, so an edit costs what it touches.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::{Arc, OnceLock};

use sos_formats::Bytes;
use sos_formats::hash::Blake3;
use sos_formats::manifest::{self, Entry, Kind, Meta, Node, Root};

use super::entry::{EntryView, KindView};
use crate::error::{IoContext, Result, RootPathProblem, StoreError};
use crate::store::Store;

/// The deepest nesting of directories: more than a path of 4096 bytes that anybody uses.
pub const MAX_DEPTH: usize = 1024;

/// The most symlinks that one look-up follows, as in Linux.
const MAX_SYMLINKS: usize = 40;

pub(super) type Group = [u8; 16];

/// Called with the path, the item and the group of a file with hard links.
type OnLinked<'a> = dyn FnMut(&[u8], &Item, Group) -> Result<()> + 'a;

/// An editable view of a rootfs.
///
/// Paths are bytes, with or without a leading `/`; the empty path is the root directory. `..` is refused except by
/// [`RootTree::resolve`]. Nothing is written before [`RootTree::finish`].
#[derive(Clone, Debug)]
pub struct RootTree {
    pub(super) store: Option<Store>,
    pub(super) meta: Meta,
    pub(super) top: Dir,
    /// Hard-link groups with a member that came, went or moved: their ids are to be found anew.
    pub(super) touched: BTreeSet<Group>,
    pub(super) next_group: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Dir {
    /// The node that says the same, for as long as nothing has changed.
    pub(super) saved: Option<Blake3>,
    entries: OnceLock<BTreeMap<Bytes, Item>>,
}

#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) meta: Meta,
    pub(super) kind: ItemKind,
}

#[derive(Clone, Debug)]
pub(super) enum ItemKind {
    File {
        size: u64,
        blob: Blake3,
        group: Option<Group>,
        data: Option<Arc<[u8]>>,
    },
    Dir(Dir),
    Symlink {
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
}

/// What a look-up does with symlinks and with what is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Follow {
    /// The last component is followed, too, and need not exist.
    All,
    /// The last component is meant itself, and need not exist.
    Parents,
    /// As `Parents`, but nothing needs to exist.
    Making,
}

impl Item {
    pub(super) fn view(&self) -> EntryView<'_> {
        let kind = match &self.kind {
            ItemKind::File {
                size, blob, group, ..
            } => KindView::File {
                size: *size,
                blob: *blob,
                hardlink: *group,
            },
            ItemKind::Dir(_) => KindView::Dir,
            ItemKind::Symlink { target } => KindView::Symlink { target },
            ItemKind::Fifo => KindView::Fifo,
            ItemKind::CharDev { major, minor } => KindView::CharDev {
                major: *major,
                minor: *minor,
            },
            ItemKind::BlockDev { major, minor } => KindView::BlockDev {
                major: *major,
                minor: *minor,
            },
        };
        EntryView {
            meta: &self.meta,
            kind,
        }
    }
}

impl From<Entry> for Item {
    fn from(entry: Entry) -> Self {
        let kind = match entry.kind {
            Kind::File {
                size,
                blob,
                hardlink,
            } => ItemKind::File {
                size,
                blob,
                group: hardlink,
                data: None,
            },
            Kind::Dir { node } => ItemKind::Dir(Dir::shared(node)),
            Kind::Symlink { target } => ItemKind::Symlink { target },
            Kind::Fifo => ItemKind::Fifo,
            Kind::CharDev { major, minor } => ItemKind::CharDev { major, minor },
            Kind::BlockDev { major, minor } => ItemKind::BlockDev { major, minor },
        };
        Self {
            meta: entry.meta,
            kind,
        }
    }
}

impl Dir {
    pub(super) fn empty() -> Self {
        Self {
            saved: None,
            entries: OnceLock::from(BTreeMap::new()),
        }
    }

    pub(super) fn shared(node: Blake3) -> Self {
        Self {
            saved: Some(node),
            entries: OnceLock::new(),
        }
    }

    /// What is in the directory, read now if it was not before.
    pub(super) fn entries(&self, store: Option<&Store>) -> Result<&BTreeMap<Bytes, Item>> {
        if let Some(entries) = self.entries.get() {
            return Ok(entries);
        }
        let mut entries = BTreeMap::new();
        if let Some(id) = &self.saved {
            let store = store.ok_or(StoreError::MissingNode { hash: *id })?;
            for entry in &store.read_node(id)?.entries {
                entries.insert(entry.name.clone(), Item::from(entry.clone()));
            }
        }
        Ok(self.entries.get_or_init(|| entries))
    }

    /// What is in the directory, to be changed: it no longer is the node that it was.
    pub(super) fn entries_mut(
        &mut self,
        store: Option<&Store>,
    ) -> Result<&mut BTreeMap<Bytes, Item>> {
        self.entries(store)?;
        self.saved = None;
        Ok(self
            .entries
            .get_mut()
            .expect("the entries were read just above"))
    }

    /// What is in the directory if it was read, to note what was saved.
    fn peek_mut(&mut self) -> Option<&mut BTreeMap<Bytes, Item>> {
        self.entries.get_mut()
    }
}

impl RootTree {
    /// An empty root directory.
    pub fn empty(meta: Meta) -> Self {
        Self {
            store: None,
            meta,
            top: Dir::empty(),
            touched: BTreeSet::new(),
            next_group: 0,
        }
    }

    /// An empty root directory that can take shared directories of a store and read files of it.
    pub fn empty_in(store: &Store, meta: Meta) -> Self {
        Self {
            store: Some(store.clone()),
            ..Self::empty(meta)
        }
    }

    /// The rootfs of a manifest; only its top is read now.
    ///
    /// # Errors
    /// When the manifest is not here or damaged.
    pub fn load(store: &Store, root_id: &Blake3) -> Result<Self> {
        let root = store.get_root(root_id)?;
        Ok(Self {
            store: Some(store.clone()),
            meta: root.meta,
            top: Dir::shared(root.node),
            touched: BTreeSet::new(),
            next_group: 0,
        })
    }

    /// What the root directory itself has.
    pub fn root_meta(&self) -> &Meta {
        &self.meta
    }

    /// Looks an entry up. No symlink is followed: below one there is nothing.
    ///
    /// # Errors
    /// For a path that cannot be one, and when a directory cannot be read.
    pub fn get(&self, path: impl AsRef<[u8]>) -> Result<Option<EntryView<'_>>> {
        let path = path.as_ref();
        let names = components(path)?;
        if names.is_empty() {
            return Ok(Some(EntryView {
                meta: &self.meta,
                kind: KindView::Dir,
            }));
        }
        Ok(self.item(&names)?.map(Item::view))
    }

    /// Follows symlinks, none of which leads out of the root, to the path that is meant (without leading `/`).
    /// The last component need not exist.
    ///
    /// # Errors
    /// When a directory on the way is missing or is none, or links lead in a circle.
    pub fn resolve(&self, path: impl AsRef<[u8]>) -> Result<Bytes> {
        self.follow(path.as_ref(), Follow::All)
    }

    /// As [`RootTree::resolve`], but a symlink as the last component is meant itself.
    ///
    /// # Errors
    /// As [`RootTree::resolve`].
    pub fn resolve_parent(&self, path: impl AsRef<[u8]>) -> Result<Bytes> {
        self.follow(path.as_ref(), Follow::Parents)
    }

    /// As [`RootTree::resolve_parent`], for who makes the directories on the way that are missing, those included that a symlink
    /// leads to.
    ///
    /// # Errors
    /// When something on the way is no directory, when links lead in a circle, or one leads over `..` of what is missing: the path
    /// of the error is what is in the way.
    pub fn resolve_made(&self, path: impl AsRef<[u8]>) -> Result<Bytes> {
        self.follow(path.as_ref(), Follow::Making)
    }

    fn follow(&self, path: &[u8], how: Follow) -> Result<Bytes> {
        let problem = |found: &[Bytes], problem| match how {
            Follow::Making => StoreError::root_path(&found.join(&b'/'), problem),
            Follow::All | Follow::Parents => StoreError::root_path(path, problem),
        };
        // What is still to be walked, last first.
        let mut pending: Vec<Bytes> = split_reversed(path);
        let mut found: Vec<Bytes> = Vec::new();
        let mut links = 0;
        // From here on nothing is there.
        let mut missing = false;
        while let Some(name) = pending.pop() {
            if name == b".." {
                if missing {
                    return Err(problem(&found, RootPathProblem::Missing));
                }
                found.pop();
                continue;
            }
            check_component(path, &name)?;
            if found.len() >= MAX_DEPTH {
                return Err(problem(&found, RootPathProblem::BadName));
            }
            found.push(name);
            let names: Vec<&[u8]> = found.iter().map(Vec::as_slice).collect();
            match self.item(&names)?.map(|item| &item.kind) {
                Some(ItemKind::Symlink { target }) if how == Follow::All || !pending.is_empty() => {
                    links += 1;
                    if links > MAX_SYMLINKS {
                        return Err(problem(&found, RootPathProblem::TooManySymlinks));
                    }
                    if target.first() == Some(&b'/') {
                        found.clear();
                    } else {
                        found.pop();
                    }
                    pending.extend(split_reversed(target));
                }
                Some(ItemKind::Dir(_)) => {}
                Some(_) if !pending.is_empty() => {
                    return Err(problem(&found, RootPathProblem::NotADirectory));
                }
                None if !pending.is_empty() && how != Follow::Making => {
                    return Err(problem(&found, RootPathProblem::Missing));
                }
                None => missing = true,
                Some(_) => {}
            }
        }
        Ok(found.join(&b'/'))
    }

    /// The names in a directory, in order.
    ///
    /// # Errors
    /// When it is missing or no directory.
    pub fn list(&self, path: impl AsRef<[u8]>) -> Result<Vec<Bytes>> {
        let path = path.as_ref();
        Ok(self
            .dir(path)?
            .entries(self.store.as_ref())?
            .keys()
            .cloned()
            .collect())
    }

    /// The node of a directory, if nothing has changed in it or below since it was read.
    ///
    /// # Errors
    /// When it is missing or no directory.
    pub fn unchanged_node(&self, path: impl AsRef<[u8]>) -> Result<Option<Blake3>> {
        Ok(self.dir(path.as_ref())?.saved)
    }

    /// Reads a file whole; symlinks are not followed.
    ///
    /// # Errors
    /// When it is missing, no regular file, or its content is not in the store.
    pub fn read_file(&self, path: impl AsRef<[u8]>) -> Result<Vec<u8>> {
        let path = path.as_ref();
        let names = components(path)?;
        let item = self
            .item(&names)?
            .ok_or_else(|| StoreError::root_path(path, RootPathProblem::Missing))?;
        let ItemKind::File {
            size, blob, data, ..
        } = &item.kind
        else {
            return Err(StoreError::root_path(path, RootPathProblem::NotAFile));
        };
        if let Some(data) = data {
            return Ok(data.to_vec());
        }
        let store = self
            .store
            .as_ref()
            .ok_or(StoreError::MissingBlob { hash: *blob })?;
        let mut bytes = Vec::with_capacity(usize::try_from(*size).unwrap_or(0).min(64 << 20));
        let place = store.blob_path(blob, false);
        store
            .open_blob(blob)?
            .read_to_end(&mut bytes)
            .at("read", place)?;
        Ok(bytes)
    }

    /// Visits every entry below the root, each directory before what is in it, in order of names.
    ///
    /// # Errors
    /// The first error of the visitor, and when a directory cannot be read.
    pub fn walk(
        &self,
        mut visit: impl FnMut(&[u8], &Meta, KindView<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut path = Vec::new();
        self.walk_dir(&self.top, &mut path, 0, &mut |path, item| {
            let view = item.view();
            visit(path, view.meta, view.kind)
        })
    }

    pub(super) fn walk_dir(
        &self,
        dir: &Dir,
        path: &mut Bytes,
        depth: usize,
        visit: &mut dyn FnMut(&[u8], &Item) -> Result<()>,
    ) -> Result<()> {
        self.check_depth(path, depth)?;
        for (name, item) in dir.entries(self.store.as_ref())? {
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            visit(path, item)?;
            if let ItemKind::Dir(below) = &item.kind {
                self.walk_dir(below, path, depth + 1, visit)?;
            }
            path.truncate(length);
        }
        Ok(())
    }

    /// Visits the files with hard links in a directory and below it: all, or those of the `wanted` groups. Saved
    /// directories without such a file are not looked into.
    pub(super) fn walk_linked(
        &self,
        dir: &Dir,
        path: &mut Bytes,
        depth: usize,
        wanted: Option<&BTreeSet<Group>>,
        visit: &mut OnLinked<'_>,
    ) -> Result<()> {
        self.check_depth(path, depth)?;
        if let (Some(store), Some(node)) = (&self.store, &dir.saved) {
            let below = store.below(node)?;
            if !wanted.map_or(below.has_links(), |wanted| below.may_have(wanted)) {
                return Ok(());
            }
        }
        for (name, item) in dir.entries(self.store.as_ref())? {
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            match &item.kind {
                ItemKind::File {
                    group: Some(group), ..
                } if wanted.is_none_or(|wanted| wanted.contains(group)) => {
                    visit(path, item, *group)?;
                }
                ItemKind::Dir(below) => self.walk_linked(below, path, depth + 1, wanted, visit)?,
                _ => {}
            }
            path.truncate(length);
        }
        Ok(())
    }

    fn check_depth(&self, path: &[u8], depth: usize) -> Result<()> {
        if depth < MAX_DEPTH {
            return Ok(());
        }
        use std::os::unix::ffi::OsStrExt;
        let path = std::ffi::OsStr::from_bytes(path).into();
        Err(StoreError::TooDeep {
            path,
            limit: MAX_DEPTH,
        })
    }

    /// Writes what has changed and returns the id of the whole; the tree can be edited further.
    ///
    /// # Errors
    /// When members of a hard-link group differ, something breaks the rules of the format, or writing fails.
    pub fn finish(&mut self, store: &Store) -> Result<Blake3> {
        self.settle_links()?;
        if self.store.is_none() {
            self.store = Some(store.clone());
        }
        let node = save(&mut self.top, store, 0)?;
        store.put_root(&Root {
            meta: self.meta.clone(),
            node,
        })
    }

    pub(super) fn item(&self, names: &[&[u8]]) -> Result<Option<&Item>> {
        let mut dir = &self.top;
        let mut found = None;
        for (at, name) in names.iter().enumerate() {
            let Some(item) = dir.entries(self.store.as_ref())?.get(*name) else {
                return Ok(None);
            };
            match &item.kind {
                ItemKind::Dir(below) => dir = below,
                _ if at + 1 < names.len() => return Ok(None),
                _ => {}
            }
            found = Some(item);
        }
        Ok(found)
    }

    fn dir(&self, path: &[u8]) -> Result<&Dir> {
        let names = components(path)?;
        if names.is_empty() {
            return Ok(&self.top);
        }
        match self.item(&names)?.map(|item| &item.kind) {
            Some(ItemKind::Dir(dir)) => Ok(dir),
            Some(_) => Err(StoreError::root_path(path, RootPathProblem::NotADirectory)),
            None => Err(StoreError::root_path(path, RootPathProblem::Missing)),
        }
    }

    /// The directory at a path, to be changed; all directories above it count as changed, too.
    pub(super) fn dir_mut(
        &mut self,
        path: &[u8],
        names: &[&[u8]],
    ) -> Result<&mut BTreeMap<Bytes, Item>> {
        let store = self.store.clone();
        // Look first, so that a failure leaves everything as it was.
        let mut looked = &self.top;
        for name in names {
            match looked
                .entries(store.as_ref())?
                .get(*name)
                .map(|item| &item.kind)
            {
                Some(ItemKind::Dir(below)) => looked = below,
                Some(_) => return Err(StoreError::root_path(path, RootPathProblem::NotADirectory)),
                None => return Err(StoreError::root_path(path, RootPathProblem::Missing)),
            }
        }
        let mut dir = &mut self.top;
        for name in names {
            match dir
                .entries_mut(store.as_ref())?
                .get_mut(*name)
                .map(|item| &mut item.kind)
            {
                Some(ItemKind::Dir(below)) => dir = below,
                _ => return Err(StoreError::root_path(path, RootPathProblem::Missing)),
            }
        }
        dir.entries_mut(store.as_ref())
    }
}

/// Writes a directory and those below it that have changed; returns its node.
fn save(dir: &mut Dir, store: &Store, depth: usize) -> Result<Blake3> {
    if let Some(saved) = dir.saved {
        return Ok(saved);
    }
    if depth >= MAX_DEPTH {
        return Err(StoreError::TooDeep {
            path: Default::default(),
            limit: MAX_DEPTH,
        });
    }
    let mut entries = Vec::new();
    if let Some(items) = dir.peek_mut() {
        for (name, item) in items {
            let kind = match &mut item.kind {
                ItemKind::File {
                    size,
                    blob,
                    group,
                    data,
                } => {
                    if let Some(bytes) = data.take() {
                        store.put_blob_bytes(&bytes)?;
                    }
                    Kind::File {
                        size: *size,
                        blob: *blob,
                        hardlink: *group,
                    }
                }
                ItemKind::Dir(below) => Kind::Dir {
                    node: save(below, store, depth + 1)?,
                },
                ItemKind::Symlink { target } => Kind::Symlink {
                    target: target.clone(),
                },
                ItemKind::Fifo => Kind::Fifo,
                ItemKind::CharDev { major, minor } => Kind::CharDev {
                    major: *major,
                    minor: *minor,
                },
                ItemKind::BlockDev { major, minor } => Kind::BlockDev {
                    major: *major,
                    minor: *minor,
                },
            };
            entries.push(Entry {
                name: name.clone(),
                meta: item.meta.clone(),
                kind,
            });
        }
    }
    let node = store.put_node(&Node { entries })?;
    dir.saved = Some(node);
    Ok(node)
}

/// Splits a path into names that can be in a directory.
pub(super) fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    let names: Vec<&[u8]> = path
        .split(|&byte| byte == b'/')
        .filter(|name| !matches!(*name, b"" | b"."))
        .collect();
    if names.len() > MAX_DEPTH {
        return Err(StoreError::root_path(path, RootPathProblem::BadName));
    }
    for name in &names {
        check_component(path, name)?;
    }
    Ok(names)
}

fn check_component(path: &[u8], name: &[u8]) -> Result<()> {
    manifest::check_name(name)
        .map_err(|_refused| StoreError::root_path(path, RootPathProblem::BadName))
}

fn split_reversed(path: &[u8]) -> Vec<Bytes> {
    path.split(|&byte| byte == b'/')
        .filter(|name| !matches!(*name, b"" | b"."))
        .rev()
        .map(<[u8]>::to_vec)
        .collect()
}
