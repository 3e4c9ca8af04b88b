//! Hard links in a [`RootTree`]. In a manifest a group is named by the path of its first member; so when members come,
//! go or move, the names of the groups concerned are found anew, and of no other.

use std::collections::{BTreeMap, BTreeSet};

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
            match &item.kind {
                ItemKind::File {
                    group: Some(group), ..
                } => found.push(*group),
                ItemKind::Dir(dir) => self.walk_linked(
                    dir,
                    &mut Vec::new(),
                    names.len(),
                    None,
                    &mut |_, _, group| {
                        found.push(group);
                        Ok(())
                    },
                )?,
                _ => {}
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
            self.walk_linked(
                dir,
                &mut top.clone(),
                names.len(),
                None,
                &mut |path, _, group| {
                    found.push((path.to_vec(), group));
                    Ok(())
                },
            )?;
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
        let wanted = BTreeSet::from([wanted]);
        self.walk_linked(
            &self.top,
            &mut Vec::new(),
            0,
            Some(&wanted),
            &mut |path, _, _| {
                found.push(path.to_vec());
                Ok(())
            },
        )?;
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
        let mut add = |path: &[u8], item: &Item, group: Group| {
            let ItemKind::File { size, blob, .. } = &item.kind else {
                return Ok(());
            };
            let content = (*size, *blob);
            let members = groups.entry(group).or_insert_with(|| Members {
                paths: Vec::new(),
                meta: item.meta.clone(),
                content,
            });
            if members.content != content || members.meta != item.meta {
                return Err(StoreError::root_path(path, RootPathProblem::UnequalLinks));
            }
            members.paths.push(path.to_vec());
            Ok(())
        };
        self.walk_linked(&self.top, &mut Vec::new(), 0, Some(&self.touched), &mut add)?;
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
