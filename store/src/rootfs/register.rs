//! Makes a finished manifest a store object.

use std::collections::{BTreeMap, BTreeSet};

use sos_formats::derivation::Method;
use sos_formats::hash::{Blake3, Hash};
use sos_formats::manifest::{Kind, Node};
use sos_formats::store_path::{self, StorePath};

use super::below::Gather;
use super::tree::MAX_DEPTH;
use crate::clock;
use crate::db::{self, NodeFacts};
use crate::error::{Result, StoreError};
use crate::fault;
use crate::objects::{ObjectKind, PathInfo};
use crate::store::Store;

/// How often the verification begins anew because a collection took something that it had relied on.
const MAX_ATTEMPTS: usize = 8;

/// A manifest that was found to be complete.
struct Verified {
    /// Nodes that no registered object has.
    fresh: BTreeMap<Blake3, NodeFacts>,
    /// Nodes that are complete because a registered object has them.
    known: BTreeSet<Blake3>,
    size: u64,
}

/// One directory on the way down.
struct Level {
    id: Blake3,
    node: Node,
    next: usize,
    size: u64,
    below: Gather,
}

impl Level {
    fn add(&mut self, facts: &NodeFacts) {
        self.size = self.size.saturating_add(facts.size);
        if let Some(below) = &facts.below {
            self.below.add(below);
        }
    }
}

impl Store {
    /// The path of the rootfs object with that manifest and name.
    ///
    /// # Errors
    /// When the name is not legal.
    pub fn rootfs_path(&self, root_id: &Blake3, name: &str) -> Result<StorePath> {
        let hash = Hash::from(*root_id);
        Ok(store_path::make_fixed(
            self.store_dir(),
            name,
            Method::Rootfs,
            &hash,
            &BTreeSet::new(),
            false,
        )?)
    }

    /// Registers a manifest as an object, after looking that all its nodes and blobs are here. Parts that other
    /// objects have are not looked at again. The object is held for as long as this store is open.
    ///
    /// # Errors
    /// [`StoreError::MissingNode`] and [`StoreError::MissingBlob`] when something is not here.
    pub fn add_rootfs(
        &self,
        root_id: Blake3,
        name: &str,
        deriver: Option<&StorePath>,
    ) -> Result<PathInfo> {
        let path = self.rootfs_path(&root_id, name)?;
        self.hold(std::slice::from_ref(&path))?;
        for _ in 0..MAX_ATTEMPTS {
            if let Some(info) = self.query(&path)? {
                return Ok(info);
            }
            self.session()?.pin([root_id])?;
            let root = self.get_root(&root_id)?;
            let verified = self.verify_nodes(root.node)?;
            fault::point("rootfs.nodes");
            self.sync()?;
            let registered = clock::now_secs();
            let info = PathInfo {
                path: path.clone(),
                kind: ObjectKind::Rootfs,
                nar_sha256: None,
                nar_size: verified.size,
                root: Some(root_id),
                references: BTreeSet::new(),
                deriver: deriver.cloned(),
                ca: Some(format!(
                    "fixed:rootfs:blake3:{}",
                    Hash::from(root_id).to_nix32()
                )),
                registered_secs: registered,
            };
            let done = self.db().write(|db| {
                if db::path_id(db, &path)?.is_some() {
                    return Ok(true);
                }
                // A collection may have taken the object that these nodes were known from.
                for node in &verified.known {
                    if db::node_facts(db, node)?.is_none() {
                        return Ok(false);
                    }
                }
                db::insert_path(db, &info, registered)?;
                db::insert_nodes(db, &verified.fresh)?;
                fault::point("rootfs.before-commit");
                Ok(true)
            })?;
            if done {
                return Ok(self.query(&path)?.unwrap_or(info));
            }
        }
        Err(StoreError::MissingNode { hash: root_id })
    }

    /// Looks that a node and all below it are here.
    fn verify_nodes(&self, top: Blake3) -> Result<Verified> {
        self.db().read(|db| {
            let mut verified = Verified {
                fresh: BTreeMap::new(),
                known: BTreeSet::new(),
                size: 0,
            };
            if let Some(facts) = db::node_facts(db, &top)? {
                verified.known.insert(top);
                verified.size = facts.size;
                return Ok(verified);
            }
            let mut stack = vec![self.open_level(top)?];
            while let Some(level) = stack.last_mut() {
                let Some(entry) = level.node.entries.get(level.next) else {
                    let Some(level) = stack.pop() else { break };
                    let facts = NodeFacts {
                        size: level.size,
                        below: Some(level.below.finish()),
                    };
                    match stack.last_mut() {
                        Some(parent) => parent.add(&facts),
                        None => verified.size = facts.size,
                    }
                    verified.fresh.insert(level.id, facts);
                    continue;
                };
                level.next += 1;
                match &entry.kind {
                    Kind::File { size, .. } => level.size = level.size.saturating_add(*size),
                    Kind::Dir { node } => {
                        let node = *node;
                        if let Some(facts) = verified.fresh.get(&node) {
                            level.add(facts);
                        } else if let Some(mut facts) = db::node_facts(db, &node)? {
                            if facts.below.is_none() {
                                facts.below = Some(self.below(&node)?);
                            }
                            level.add(&facts);
                            verified.known.insert(node);
                        } else {
                            if stack.len() >= MAX_DEPTH {
                                let path = self.manifest_path(&node);
                                return Err(StoreError::TooDeep {
                                    path,
                                    limit: MAX_DEPTH,
                                });
                            }
                            stack.push(self.open_level(node)?);
                        }
                    }
                    _ => {}
                }
            }
            Ok(verified)
        })
    }

    /// Reads a node and looks that its files are here. Pinned first, looked at second: see [`Session::pin`].
    ///
    /// [`Session::pin`]: crate::session::Session::pin
    fn open_level(&self, id: Blake3) -> Result<Level> {
        let session = self.session()?;
        session.pin([id])?;
        let node = self.get_node(&id)?;
        let files = || {
            node.entries.iter().filter_map(|entry| match &entry.kind {
                Kind::File { blob, size, .. } => Some((blob, *size)),
                _ => None,
            })
        };
        session.pin(files().map(|(blob, _)| *blob))?;
        for (blob, size) in files() {
            if self.cas().has(blob, false, size) || self.cas().has(blob, true, size) {
                continue;
            }
            // Either missing, or in the hands of a collection for a moment.
            let file = self.open_blob(blob)?;
            let found = file
                .metadata()
                .map_err(|err| StoreError::io("look at", self.cas().dir(), err))?
                .len();
            if found != size {
                let path = self.blob_path(blob, false);
                return Err(StoreError::Corrupt {
                    path,
                    detail: format!("it has {found} bytes, not {size}"),
                });
            }
        }
        Ok(Level {
            id,
            below: Gather::of(&node),
            node,
            next: 0,
            size: 0,
        })
    }
}
