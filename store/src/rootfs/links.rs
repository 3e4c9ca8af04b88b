//! Hard links in a [`RootTree`]. In a manifest a group is named by the path of its first member; so when members come,
//! go or move, the names of the groups concerned are found anew, and of no other.

use std::collections::BTreeMap;

use sos_formats::Bytes;
use sos_formats::manifest::{Meta, hardlink_group};

use super::tree::{Group, Item, ItemKind, RootTree, components};
use crate::error::{Result, RootPathProblem, StoreError};

impl RootTree {
    /// A group id that nothing has: stored ones are hashes, which do not begin with eight zeros.
    pub(super) fn fresh_group(&mut self) -> Group {
        self.next_group += 1;
        let mut group = [0; 16];
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
                let names = components(path)?;
                if let Some((last, parent)) = names.split_last()
                    && let Some(Item {
                        kind: ItemKind::File { group, .. },
                        ..
                    }) = self.dir_mut(path, parent)?.get_mut(*last)
                {
                    *group = name;
                }
            }
        }
        self.touched.clear();
        Ok(())
    }
}
