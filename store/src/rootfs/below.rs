//! What is special below a directory of a manifest: which files with hard links, and whether devices. It is kept with every node of
//! a registered object, so that a directory that holds nothing of interest is passed by without being read.

use std::collections::BTreeSet;
use std::sync::Arc;

use sos_formats::hash::Blake3;
use sos_formats::manifest::{Kind, Node};

use super::tree::{Group, MAX_DEPTH};
use crate::db;
use crate::error::{Result, StoreError};
use crate::store::Store;

/// Groups that are listed for one directory. Above that only its own directories are asked, which list fewer: what is kept for the
/// directories near the top must not grow with the whole.
const MAX_LISTED: usize = 64;
/// The most directories that are remembered in memory.
pub(super) const MAX_KEPT: usize = 1 << 18;
/// There are devices.
const DEVICES: u8 = 1;
/// There are more groups than are listed.
const MANY: u8 = 2;

/// What is special below a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Below {
    /// Hard-link groups, sorted; none of them when there are too many to list.
    groups: Arc<[Group]>,
    many: bool,
    devices: bool,
}

impl Below {
    /// Tells whether files with hard links are below.
    #[must_use]
    pub fn has_links(&self) -> bool {
        self.many || !self.groups.is_empty()
    }

    /// Tells whether devices are below.
    #[must_use]
    pub fn has_devices(&self) -> bool {
        self.devices
    }

    /// Tells whether files of these groups may be below. Where they are many, only a look tells.
    #[must_use]
    pub fn may_have(&self, wanted: &BTreeSet<Group>) -> bool {
        self.many || self.groups.iter().any(|group| wanted.contains(group))
    }

    /// As the database has it: a byte of flags, and 16 for each group.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + self.groups.len() * size_of::<Group>());
        bytes.push(u8::from(self.devices) * DEVICES + u8::from(self.many) * MANY);
        bytes.extend(self.groups.iter().flatten());
        bytes
    }

    /// Reads [`Self::to_bytes`].
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (flags, groups) = bytes.split_first()?;
        let (groups, rest) = groups.as_chunks::<{ size_of::<Group>() }>();
        (rest.is_empty() && *flags <= DEVICES + MANY).then(|| Self {
            groups: groups.into(),
            many: flags & MANY != 0,
            devices: flags & DEVICES != 0,
        })
    }
}

/// Puts together what is below a directory.
#[derive(Default)]
pub(super) struct Gather {
    groups: BTreeSet<Group>,
    many: bool,
    devices: bool,
}

impl Gather {
    /// Begins with the entries of the directory itself.
    pub(super) fn of(node: &Node) -> Self {
        let mut gather = Self::default();
        for entry in &node.entries {
            match &entry.kind {
                Kind::File {
                    hardlink: Some(group),
                    ..
                } => {
                    gather.groups.insert(*group);
                }
                Kind::CharDev { .. } | Kind::BlockDev { .. } => gather.devices = true,
                _ => {}
            }
        }
        gather
    }

    /// Adds what is below one of its directories.
    pub(super) fn add(&mut self, below: &Below) {
        self.many |= below.many;
        self.devices |= below.devices;
        self.groups.extend(below.groups.iter());
    }

    pub(super) fn finish(self) -> Below {
        let many = self.many || self.groups.len() > MAX_LISTED;
        Below {
            groups: if many {
                Arc::default()
            } else {
                self.groups.into_iter().collect()
            },
            many,
            devices: self.devices,
        }
    }
}

impl Store {
    /// What is special in a directory of a manifest and below it.
    ///
    /// # Errors
    /// When a directory that no registered object has cannot be read, or they are nested too deeply.
    pub fn below(&self, id: &Blake3) -> Result<Below> {
        self.look_below(id, 0)
    }

    fn look_below(&self, id: &Blake3, depth: usize) -> Result<Below> {
        if let Some(below) = self.nodes().below(id) {
            return Ok(below);
        }
        // A store of an older sos that is open for reading only does not have it.
        let noted = self.db().read(|db| db::node_facts(db, id));
        if let Some(below) = noted.ok().flatten().and_then(|facts| facts.below) {
            self.nodes().keep_below(*id, &below);
            return Ok(below);
        }
        if depth >= MAX_DEPTH {
            return Err(StoreError::TooDeep {
                path: self.manifest_path(id),
                limit: MAX_DEPTH,
            });
        }
        // Not through the cache of nodes: a look at all of a root filesystem would push everything else out.
        let node = self.get_node(id)?;
        let mut gather = Gather::of(&node);
        for entry in &node.entries {
            if let Kind::Dir { node } = &entry.kind {
                gather.add(&self.look_below(node, depth + 1)?);
            }
        }
        let below = gather.finish();
        self.nodes().keep_below(*id, &below);
        Ok(below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(n: usize) -> Group {
        let mut group = [0; 16];
        group[..8].copy_from_slice(&n.to_be_bytes());
        group
    }

    fn of(groups: std::ops::Range<usize>, devices: bool) -> Below {
        let gather = Gather {
            groups: groups.map(group).collect(),
            many: false,
            devices,
        };
        gather.finish()
    }

    #[test]
    fn few_groups_are_listed_and_many_are_looked_for() {
        let few = of(0..MAX_LISTED, false);
        assert!(few.has_links() && few.may_have(&[group(3)].into()));
        assert!(!few.may_have(&[group(MAX_LISTED)].into()));
        let many = of(0..MAX_LISTED + 1, true);
        assert!(many.has_links() && many.may_have(&[group(1000)].into()));
        let mut above = Gather::default();
        above.add(&few);
        assert_eq!(above.finish(), few);
        let mut above = Gather::default();
        above.add(&few);
        above.add(&many);
        assert_eq!(above.finish(), many);
        assert!(!of(0..0, true).has_links() && of(0..0, true).has_devices());
    }

    #[test]
    fn what_the_database_has_is_read_back() {
        for below in [of(0..0, false), of(3..5, true), of(0..1000, false)] {
            let bytes = below.to_bytes();
            assert!(bytes.len() <= 1 + 16 * MAX_LISTED);
            assert_eq!(Below::from_bytes(&bytes), Some(below));
        }
        for bytes in [&[][..], &[4], &[0, 1], &[0; 16]] {
            assert_eq!(Below::from_bytes(bytes), None);
        }
    }
}
