//! Manifest nodes that were read lately. Steps that follow each other read the same few directories again and again: to move a
//! working tree, to look up what a step changed, to find the names of files with hard links.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};

use sos_formats::hash::Blake3;
use sos_formats::manifest::Node;
use zstd::bulk::{Compressor, Decompressor};

use super::below::{Below, MAX_KEPT};
use super::nodes::LEVEL;
use crate::db;
use crate::error::Result;
use crate::store::Store;

/// Encoded bytes of the nodes of one generation; two are kept.
const GENERATION_BYTES: usize = 8 << 20;
/// The most idle contexts for compression; one has more than a megabyte.
const MAX_IDLE: usize = 4;

#[derive(Default)]
pub(crate) struct NodeCache {
    kept: Mutex<Kept>,
    compressors: Mutex<Vec<Compressor<'static>>>,
    decompressors: Mutex<Vec<Decompressor<'static>>>,
}

#[derive(Default)]
struct Kept {
    young: HashMap<Blake3, (Arc<Node>, usize)>,
    young_bytes: usize,
    old: HashMap<Blake3, (Arc<Node>, usize)>,
    below: HashMap<Blake3, Below>,
}

impl Kept {
    fn get(&mut self, id: &Blake3) -> Option<Arc<Node>> {
        if let Some((node, _)) = self.young.get(id) {
            return Some(Arc::clone(node));
        }
        let (node, bytes) = self.old.remove(id)?;
        self.put(*id, Arc::clone(&node), bytes);
        Some(node)
    }

    fn put(&mut self, id: Blake3, node: Arc<Node>, bytes: usize) {
        if self.young_bytes + bytes > GENERATION_BYTES {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        if bytes <= GENERATION_BYTES && self.young.insert(id, (node, bytes)).is_none() {
            self.young_bytes += bytes;
        }
    }
}

impl NodeCache {
    /// What is special below a directory, if it was asked for before.
    pub(super) fn below(&self, id: &Blake3) -> Option<Below> {
        db::lock(&self.kept).below.get(id).cloned()
    }

    pub(super) fn keep_below(&self, id: Blake3, below: &Below) {
        let mut kept = db::lock(&self.kept);
        if kept.below.len() >= MAX_KEPT {
            kept.below.clear();
        }
        kept.below.insert(id, below.clone());
    }

    /// Compresses with a context that was used before: making one takes longer than a small directory.
    pub(super) fn compress(&self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let idle = db::lock(&self.compressors).pop();
        let mut compressor = match idle {
            Some(compressor) => compressor,
            None => Compressor::new(LEVEL)?,
        };
        let packed = compressor.compress(bytes)?;
        give_back(&self.compressors, compressor);
        Ok(packed)
    }

    /// Decompresses to at most `limit` bytes.
    pub(super) fn decompress(&self, packed: &[u8], limit: usize) -> io::Result<Vec<u8>> {
        let idle = db::lock(&self.decompressors).pop();
        let mut decompressor = match idle {
            Some(decompressor) => decompressor,
            None => Decompressor::new()?,
        };
        let bytes = decompressor.decompress(packed, limit)?;
        give_back(&self.decompressors, decompressor);
        Ok(bytes)
    }
}

fn give_back<T>(idle: &Mutex<Vec<T>>, one: T) {
    let mut idle = db::lock(idle);
    if idle.len() < MAX_IDLE {
        idle.push(one);
    }
}

impl Store {
    /// One directory of a manifest, as it is on the disk or was when it was read lately: it may have been collected since.
    /// To look whether it is here, use [`Store::get_node`].
    ///
    /// # Errors
    /// As [`Store::get_node`].
    pub fn read_node(&self, id: &Blake3) -> Result<Arc<Node>> {
        let kept = &self.nodes().kept;
        if let Some(node) = db::lock(kept).get(id) {
            return Ok(node);
        }
        let (node, bytes) = self.get_node_sized(id)?;
        let node = Arc::new(node);
        db::lock(kept).put(*id, Arc::clone(&node), bytes);
        Ok(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_nodes_go_and_used_ones_stay() {
        let mut kept = Kept::default();
        let id = |n: u32| Blake3::of(&n.to_le_bytes());
        let part = GENERATION_BYTES / 4;
        for n in 0..40 {
            kept.put(id(n), Arc::new(Node::default()), part);
            assert!(kept.get(&id(0)).is_some(), "{n}");
            assert!(kept.young.len() + kept.old.len() <= 8);
        }
        assert!(kept.get(&id(39)).is_some());
        assert!(kept.get(&id(20)).is_none());
        kept.put(id(99), Arc::new(Node::default()), GENERATION_BYTES + 1);
        assert!(kept.get(&id(99)).is_none());
    }
}
