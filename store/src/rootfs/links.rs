//! Hard links in a [`RootTree`]. In a manifest a group is named by the path of its first member; so when members come,
//! go or move, the names of the groups concerned are found anew, and of no other.

use std::collections::BTreeMap;

use sos_formats::Bytes;
use sos_formats::manifest::{Meta, hardlink_group};

use super::tree::{Group, Item, ItemKind, RootTree, components};
use crate::error::{Result, RootPathProblem, StoreError};

impl RootTree {
    /// A group id that nothing has: stored ones are hashes.
    pub(super) fn fresh_group(&mut self) -> Group {
        self.next_group += 1;
        let mut group = *b"sos-new:........";
        group[8..].copy_from_slice(&self.next_group.to_be_bytes());
        group
    }

    /// Notes that the groups of an entry and of all below it are about to change.
    pub(super) fn touch_below(&mut self, names: &[&[u8]]) -> Result<()> {
        let mut found = Vec::new();
        if let Some(item) = self.item(names)? {
            let mut note = |item: &Item| {
                if let ItemKind::File {
                    group: Some(group), ..
                } = &item.kind
                {
                    found.push(*group);
                }
            };
            note(item);
            if let ItemKind::Dir(dir) = &item.kind {
                self.walk_dir(dir, &mut Vec::new(), names.len(), &mut |_, item| {
                    note(item);
                    Ok(())
                })?;
            }
        }
        self.touched.extend(found);
        Ok(())
    }

    /// Gives the groups below a directory that came from another manifest ids of their own: there, too, they are
    /// named by paths, so a group that has the same path here would be taken for the same.
    pub(super) fn separate_below(&mut self, names: &[&[u8]]) -> Result<()> {
        let top = names.join(&b'/');
        let mut found: Vec<(Bytes, Group)> = Vec::new();
        if let Some(Item {
            kind: ItemKind::Dir(dir),
            ..
        }) = self.item(names)?
        {
            self.walk_dir(dir, &mut top.clone(), names.len(), &mut |path, item| {
                if let ItemKind::File {
                    group: Some(group), ..
                } = &item.kind
                {
                    found.push((path.to_vec(), *group));
                }
                Ok(())
            })?;
        }
        let mut renamed: BTreeMap<Group, Group> = BTreeMap::new();
        for (path, old) in found {
            let new = match renamed.get(&old) {
                Some(new) => *new,
                None => {
                    let new = self.fresh_group();
                    renamed.insert(old, new);
                    self.touched.insert(new);
                    new
                }
            };
            self.set_group(&path, Some(new))?;
        }
        Ok(())
    }

    fn set_group(&mut self, path: &[u8], name: Option<Group>) -> Result<()> {
        let names = components(path)?;
        if let Some((last, parent)) = names.split_last()
            && let Some(Item {
                kind: ItemKind::File { group, .. },
                ..
            }) = self.dir_mut(path, parent)?.get_mut(*last)
        {
            *group = name;
        }
        Ok(())
    }

    /// All names of the file at a path, in canonical order: one, unless it has hard links.
    ///
    /// # Errors
    /// When it is missing or no regular file, or a directory cannot be read.
    pub fn names_of(&self, path: impl AsRef<[u8]>) -> Result<Vec<Bytes>> {
        let path = path.as_ref();
        match self.item(&components(path)?)?.map(|item| &item.kind) {
            Some(ItemKind::File { group: None, .. }) => Ok(vec![path.to_vec()]),
            Some(ItemKind::File {
                group: Some(group), ..
            }) => self.group_members(*group),
            Some(_) => Err(StoreError::root_path(path, RootPathProblem::NotAFile)),
            None => Err(StoreError::root_path(path, RootPathProblem::Missing)),
        }
    }

    /// The paths of a group, in canonical order.
    pub(super) fn group_members(&self, wanted: Group) -> Result<Vec<Bytes>> {
        let mut found = Vec::new();
        self.walk_dir(&self.top, &mut Vec::new(), 0, &mut |path, item| {
            if matches!(&item.kind, ItemKind::File { group: Some(group), .. } if *group == wanted) {
                found.push(path.to_vec());
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Gives the groups that were touched the names that the format wants.
    pub(super) fn settle_links(&mut self) -> Result<()> {
        if self.touched.is_empty() {
            return Ok(());
        }
        struct Members {
            paths: Vec<Bytes>,
            meta: Meta,
            content: (u64, sos_formats::hash::Blake3),
        }
        let mut groups: BTreeMap<Group, Members> = BTreeMap::new();
        let touched = &self.touched;
        self.walk_dir(&self.top, &mut Vec::new(), 0, &mut |path, item| {
            let ItemKind::File {
                size,
                blob,
                group: Some(group),
                ..
            } = &item.kind
            else {
                return Ok(());
            };
            if !touched.contains(group) {
                return Ok(());
            }
            let content = (*size, *blob);
            let members = groups.entry(*group).or_insert_with(|| Members {
                paths: Vec::new(),
                meta: item.meta.clone(),
                content,
            });
            if members.content != content || members.meta != item.meta {
                return Err(StoreError::root_path(path, RootPathProblem::UnequalLinks));
            }
            members.paths.push(path.to_vec());
            Ok(())
        })?;
        for (old, members) in groups {
            let name = match members.paths.as_slice() {
                // One name left: an ordinary file.
                [] | [_] => None,
                [first, ..] => Some(hardlink_group(first)),
            };
            if name == Some(old) {
                continue;
            }
            for path in &members.paths {
                self.set_group(path, name)?;
            }
        }
        self.touched.clear();
        Ok(())
    }
}
