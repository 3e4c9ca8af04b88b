//! The difference of two rootfs objects as a layer. Directories with the same node id are not even read.

use std::collections::{BTreeMap, BTreeSet};

use sos_engine::BuilderError;
use sos_formats::Bytes;
use sos_formats::hash::Blake3;
use sos_formats::manifest::{Entry, Kind};
use sos_store::Store;

use super::contents::{Attributes, Data, LayerEntry, ancestors};
use crate::walk::{join, walk};

/// Lists what must be laid over `base` to get `root`.
pub(super) fn difference(
    store: &Store,
    base: &Blake3,
    root: &Blake3,
    epoch: i64,
) -> Result<Vec<LayerEntry>, BuilderError> {
    let (base, root) = (store.get_root(base)?, store.get_root(root)?);
    let mut found = Difference {
        store,
        epoch,
        entries: BTreeMap::new(),
        dirs: BTreeMap::new(),
    };
    let top = Attributes::of(&root.meta, epoch);
    let mut old_top = Attributes::of(&base.meta, epoch);
    old_top.mtime_secs = top.mtime_secs;
    if old_top != top {
        found.add(LayerEntry {
            path: Bytes::new(),
            attributes: top,
            data: Data::Dir,
        });
    }
    found.run(base.node, root.node)?;
    found.whole_groups(root.node)?;
    found.parents();
    Ok(found.entries.into_values().collect())
}

struct Difference<'a> {
    store: &'a Store,
    epoch: i64,
    entries: BTreeMap<Bytes, LayerEntry>,
    /// The directories that are on both sides and were looked into.
    dirs: BTreeMap<Bytes, Attributes>,
}

impl Difference<'_> {
    fn add(&mut self, entry: LayerEntry) {
        self.entries.insert(entry.path.clone(), entry);
    }

    /// Adds an entry and all that is below it.
    fn add_tree(&mut self, path: Bytes, entry: &Entry) -> Result<(), BuilderError> {
        if let Kind::Dir { node } = entry.kind {
            let epoch = self.epoch;
            let entries = &mut self.entries;
            walk(self.store, &path, node, &mut |path, entry| {
                entries.insert(path.clone(), LayerEntry::of(path, entry, epoch));
            })?;
        }
        self.add(LayerEntry::of(path, entry, self.epoch));
        Ok(())
    }

    fn run(&mut self, base: Blake3, root: Blake3) -> Result<(), BuilderError> {
        let mut todo = vec![(Bytes::new(), base, root)];
        while let Some((dir, old_id, new_id)) = todo.pop() {
            if old_id == new_id {
                continue;
            }
            let (old, new) = (self.store.get_node(&old_id)?, self.store.get_node(&new_id)?);
            for gone in old
                .entries
                .iter()
                .filter(|entry| new.get(&entry.name).is_none())
            {
                self.add(LayerEntry::whiteout(&dir, &gone.name, self.epoch));
            }
            for entry in &new.entries {
                let path = join(&dir, &entry.name);
                let attributes = Attributes::of(&entry.meta, self.epoch);
                match old.get(&entry.name) {
                    Some(Entry {
                        meta,
                        kind: Kind::Dir { node: below },
                        ..
                    }) => {
                        let Kind::Dir { node } = entry.kind else {
                            self.add_tree(path, entry)?;
                            continue;
                        };
                        if Attributes::of(meta, self.epoch) != attributes {
                            self.add(LayerEntry::of(path.clone(), entry, self.epoch));
                        }
                        self.dirs.insert(path.clone(), attributes);
                        todo.push((path, *below, node));
                    }
                    Some(before)
                        if before.kind == entry.kind
                            && Attributes::of(&before.meta, self.epoch) == attributes => {}
                    _ => self.add_tree(path, entry)?,
                }
            }
        }
        Ok(())
    }

    /// Adds the other names of every file with hard links that is in the layer: a link into a lower layer would
    /// be copied up by some unpackers and refused by others.
    fn whole_groups(&mut self, root: Blake3) -> Result<(), BuilderError> {
        let touched: BTreeSet<[u8; 16]> = self.entries.values().filter_map(group).collect();
        if touched.is_empty() {
            return Ok(());
        }
        let epoch = self.epoch;
        let (entries, dirs) = (&mut self.entries, &mut self.dirs);
        walk(self.store, b"", root, &mut |path, entry| {
            let made = LayerEntry::of(path, entry, epoch);
            if made.data == Data::Dir {
                dirs.insert(made.path, made.attributes);
            } else if group(&made).is_some_and(|group| touched.contains(&group)) {
                entries.insert(made.path.clone(), made);
            }
        })
    }

    /// Adds the directories above, with the attributes that they have anyway: else unpackers invent some.
    fn parents(&mut self) {
        let needed: BTreeSet<Bytes> = self
            .entries
            .keys()
            .flat_map(|path| ancestors(path))
            .map(<[u8]>::to_vec)
            .collect();
        for path in needed {
            if let Some(attributes) = self
                .dirs
                .get(&path)
                .filter(|_| !self.entries.contains_key(&path))
            {
                let entry = LayerEntry {
                    path: path.clone(),
                    attributes: attributes.clone(),
                    data: Data::Dir,
                };
                self.entries.insert(path, entry);
            }
        }
    }
}

fn group(entry: &LayerEntry) -> Option<[u8; 16]> {
    match entry.data {
        Data::Blob { group, .. } => group,
        _ => None,
    }
}
