//! Changes to a [`RootTree`].

use std::sync::Arc;

use sos_formats::hash::Blake3;
use sos_formats::manifest::{self, ManifestError, Meta};

use super::entry::{FileSpec, SpecKind};
use super::tree::{Dir, Item, ItemKind, RootTree, components};
use crate::error::{Result, RootPathProblem, StoreError};

impl RootTree {
    /// Inserts an entry in place of what is there, with all below it; a directory over a directory keeps what is in it.
    /// The parent must be there.
    ///
    /// # Errors
    /// When the parent is missing or no directory, or the path is the root and the entry is no directory.
    pub fn insert(&mut self, path: impl AsRef<[u8]>, spec: FileSpec) -> Result<()> {
        let path = path.as_ref();
        let names = components(path)?;
        check_spec(path, &spec)?;
        let Some((name, parent)) = names.split_last() else {
            return self.insert_root(path, spec);
        };
        if spec.kind == SpecKind::Dir
            && let Some(Item {
                kind: ItemKind::Dir(_),
                ..
            }) = self.item(&names)?
        {
            return self.set_meta(path, spec.meta);
        }
        self.check_parent(path, parent)?;
        self.touch_below(&names)?;
        let (kind, group) = match spec.kind {
            SpecKind::File {
                size,
                blob,
                hardlink,
            } => (
                ItemKind::File {
                    size,
                    blob,
                    group: hardlink,
                    data: None,
                },
                hardlink,
            ),
            SpecKind::Dir => (ItemKind::Dir(Dir::empty()), None),
            SpecKind::SharedDir { node } => (ItemKind::Dir(Dir::shared(node)), None),
            SpecKind::Symlink { target } => (ItemKind::Symlink { target }, None),
            SpecKind::Fifo => (ItemKind::Fifo, None),
            SpecKind::CharDev { major, minor } => (ItemKind::CharDev { major, minor }, None),
            SpecKind::BlockDev { major, minor } => (ItemKind::BlockDev { major, minor }, None),
        };
        let shared = matches!(&kind, ItemKind::Dir(dir) if dir.saved.is_some());
        self.dir_mut(path, parent)?.insert(
            name.to_vec(),
            Item {
                meta: spec.meta,
                kind,
            },
        );
        self.touched.extend(group);
        if shared {
            self.separate_below(&names)?;
        }
        Ok(())
    }

    fn insert_root(&mut self, path: &[u8], spec: FileSpec) -> Result<()> {
        match spec.kind {
            SpecKind::Dir => {}
            SpecKind::SharedDir { node } => {
                self.top = Dir::shared(node);
                self.touched.clear();
            }
            _ => return Err(StoreError::root_path(path, RootPathProblem::IsRoot)),
        }
        self.meta = spec.meta;
        Ok(())
    }

    /// Makes a directory and those above it that are missing, all with the same metadata; existing ones stay as they are.
    ///
    /// # Errors
    /// When something on the way is no directory.
    pub fn mkdir_p(&mut self, path: impl AsRef<[u8]>, meta: &Meta) -> Result<()> {
        let path = path.as_ref();
        let names = components(path)?;
        for length in 1..=names.len() {
            let (upper, _) = names.split_at(length);
            match self.item(upper)?.map(|item| &item.kind) {
                Some(ItemKind::Dir(_)) => {}
                Some(_) => return Err(StoreError::root_path(path, RootPathProblem::NotADirectory)),
                None => {
                    let spec = FileSpec {
                        meta: meta.clone(),
                        kind: SpecKind::Dir,
                    };
                    self.insert(upper.join(&b'/'), spec)?;
                }
            }
        }
        Ok(())
    }

    /// Removes an entry with all below it; tells whether it was there.
    ///
    /// # Errors
    /// When the path is the root, or a directory cannot be read.
    pub fn remove(&mut self, path: impl AsRef<[u8]>) -> Result<bool> {
        let path = path.as_ref();
        let names = components(path)?;
        let Some((name, parent)) = names.split_last() else {
            return Err(StoreError::root_path(path, RootPathProblem::IsRoot));
        };
        if self.item(&names)?.is_none() {
            return Ok(false);
        }
        self.touch_below(&names)?;
        self.dir_mut(path, parent)?.remove(*name);
        Ok(true)
    }

    /// Moves an entry with all below it, in place of what is at the new path.
    ///
    /// # Errors
    /// When it is missing, the new parent is missing, or it would come below itself.
    pub fn rename(&mut self, from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Result<()> {
        let (from, to) = (from.as_ref(), to.as_ref());
        let (old, new) = (components(from)?, components(to)?);
        let (Some((old_name, old_parent)), Some((new_name, new_parent))) =
            (old.split_last(), new.split_last())
        else {
            return Err(StoreError::root_path(from, RootPathProblem::IsRoot));
        };
        if self.item(&old)?.is_none() {
            return Err(StoreError::root_path(from, RootPathProblem::Missing));
        }
        if old == new {
            return Ok(());
        }
        // The other way round, too: the entry would be replaced together with the directory that it is in.
        if new.starts_with(&old) || old.starts_with(&new) {
            return Err(StoreError::root_path(to, RootPathProblem::IntoItself));
        }
        self.check_parent(to, new_parent)?;
        self.touch_below(&old)?;
        self.touch_below(&new)?;
        if let Some(item) = self.dir_mut(from, old_parent)?.remove(*old_name) {
            self.dir_mut(to, new_parent)?
                .insert(new_name.to_vec(), item);
        }
        Ok(())
    }

    /// Makes a second name for a regular file, in place of what is at the new path.
    ///
    /// # Errors
    /// When the file is missing or not regular, or the new parent is missing.
    pub fn link(&mut self, existing: impl AsRef<[u8]>, new: impl AsRef<[u8]>) -> Result<()> {
        let (existing, new) = (existing.as_ref(), new.as_ref());
        let (names, target) = (components(existing)?, components(new)?);
        let mut copy = match self.item(&names)? {
            Some(item) if matches!(item.kind, ItemKind::File { .. }) => item.clone(),
            Some(_) => return Err(StoreError::root_path(existing, RootPathProblem::NotAFile)),
            None => return Err(StoreError::root_path(existing, RootPathProblem::Missing)),
        };
        let Some((name, parent)) = target.split_last() else {
            return Err(StoreError::root_path(new, RootPathProblem::IsRoot));
        };
        if names == target {
            return Ok(());
        }
        if names.starts_with(&target) {
            return Err(StoreError::root_path(new, RootPathProblem::IntoItself));
        }
        self.check_parent(new, parent)?;
        self.touch_below(&target)?;
        let fresh = self.fresh_group();
        let ItemKind::File { group, .. } = &mut copy.kind else {
            return Ok(());
        };
        let shared = *group.get_or_insert(fresh);
        self.touched.insert(shared);
        if let Some((old_name, old_parent)) = names.split_last()
            && let Some(Item {
                kind: ItemKind::File { group, .. },
                ..
            }) = self.dir_mut(existing, old_parent)?.get_mut(*old_name)
        {
            *group = Some(shared);
        }
        self.dir_mut(new, parent)?.insert(name.to_vec(), copy);
        Ok(())
    }

    /// Sets mode, owner, time and xattrs; of all names of a file with hard links.
    ///
    /// # Errors
    /// When it is missing, or the values break the rules of the format.
    pub fn set_meta(&mut self, path: impl AsRef<[u8]>, meta: Meta) -> Result<()> {
        let path = path.as_ref();
        check_meta(path, &meta)?;
        let names = components(path)?;
        let Some(_) = names.last() else {
            self.meta = meta;
            return Ok(());
        };
        let group = match self.item(&names)? {
            None => return Err(StoreError::root_path(path, RootPathProblem::Missing)),
            Some(item) if item.meta == meta => return Ok(()),
            Some(Item {
                kind: ItemKind::File { group, .. },
                ..
            }) => *group,
            Some(_) => None,
        };
        match group {
            None => self.set_one_meta(path, &meta),
            Some(group) => {
                for member in self.group_members(group)? {
                    self.set_one_meta(&member, &meta)?;
                }
                Ok(())
            }
        }
    }

    pub(super) fn set_one_meta(&mut self, path: &[u8], meta: &Meta) -> Result<()> {
        let names = components(path)?;
        if let Some((name, parent)) = names.split_last()
            && let Some(item) = self.dir_mut(path, parent)?.get_mut(*name)
        {
            item.meta = meta.clone();
        }
        Ok(())
    }

    /// Writes a regular file in place of what is there; other names of a file that was there keep the old content.
    ///
    /// # Errors
    /// When the parent is missing or no directory, or a directory is in the way.
    pub fn write_file(
        &mut self,
        path: impl AsRef<[u8]>,
        bytes: impl Into<Vec<u8>>,
        meta: Meta,
    ) -> Result<()> {
        let path = path.as_ref();
        check_meta(path, &meta)?;
        let names = components(path)?;
        let Some((name, parent)) = names.split_last() else {
            return Err(StoreError::root_path(path, RootPathProblem::IsRoot));
        };
        if let Some(Item {
            kind: ItemKind::Dir(_),
            ..
        }) = self.item(&names)?
        {
            return Err(StoreError::root_path(path, RootPathProblem::IsADirectory));
        }
        self.check_parent(path, parent)?;
        self.touch_below(&names)?;
        let bytes: Vec<u8> = bytes.into();
        let kind = ItemKind::File {
            size: bytes.len() as u64,
            blob: Blake3::of(&bytes),
            group: None,
            data: Some(Arc::from(bytes)),
        };
        self.dir_mut(path, parent)?
            .insert(name.to_vec(), Item { meta, kind });
        Ok(())
    }

    /// Sets every time that is later than `epoch_secs` to it, the root's too. Directories in which nothing is later stay shared.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn clamp_times(&mut self, epoch_secs: i64) -> Result<()> {
        let late = |meta: &Meta| {
            meta.mtime_secs > epoch_secs || (meta.mtime_secs == epoch_secs && meta.mtime_nsecs > 0)
        };
        let mut found = Vec::new();
        self.walk(|path, meta, _| {
            if late(meta) {
                found.push((path.to_vec(), meta.clone()));
            }
            Ok(())
        })?;
        let clamp = |meta: &mut Meta| {
            meta.mtime_secs = epoch_secs;
            meta.mtime_nsecs = 0;
        };
        for (path, mut meta) in found {
            clamp(&mut meta);
            // Members of a hard-link group all have the same time, so each is found by itself.
            self.set_one_meta(&path, &meta)?;
        }
        if late(&self.meta) {
            clamp(&mut self.meta);
        }
        Ok(())
    }

    fn check_parent(&self, path: &[u8], parent: &[&[u8]]) -> Result<()> {
        if parent.is_empty() {
            return Ok(());
        }
        match self.item(parent)?.map(|item| &item.kind) {
            Some(ItemKind::Dir(_)) => Ok(()),
            Some(_) => Err(StoreError::root_path(path, RootPathProblem::NotADirectory)),
            None => {
                // A file further up is the better explanation.
                for length in 1..parent.len() {
                    let (upper, _) = parent.split_at(length);
                    if self
                        .item(upper)?
                        .is_some_and(|item| !matches!(item.kind, ItemKind::Dir(_)))
                    {
                        return Err(StoreError::root_path(path, RootPathProblem::NotADirectory));
                    }
                }
                Err(StoreError::root_path(path, RootPathProblem::Missing))
            }
        }
    }
}

fn check_meta(path: &[u8], meta: &Meta) -> Result<()> {
    let problem = |refused| match refused {
        ManifestError::BadXattrKey(_) => RootPathProblem::BadXattrKey,
        ManifestError::LargeXattr(_) => RootPathProblem::LargeXattr,
        ManifestError::ManyXattrs(_) => RootPathProblem::ManyXattrs,
        _ => RootPathProblem::BadMeta,
    };
    meta.check()
        .map_err(|refused| StoreError::root_path(path, problem(refused)))
}

fn check_spec(path: &[u8], spec: &FileSpec) -> Result<()> {
    check_meta(path, &spec.meta)?;
    if let SpecKind::Symlink { target } = &spec.kind {
        manifest::check_target(target)
            .map_err(|_refused| StoreError::root_path(path, RootPathProblem::BadTarget))?;
    }
    Ok(())
}
