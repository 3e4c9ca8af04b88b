//! The id of a file tree: that of a manifest of it, in which everything is root's and has no time.
//!
//! It says as much as the hash of a NAR, but follows from the hashes of the files: what is known of those is not read again. A tree that is
//! one file or link alone has the id of a directory with it that nobody may enter, which no other tree has.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sos_formats::hash::Blake3;
use sos_formats::manifest::{Entry, Kind, Meta, Node, Root};

use crate::error::{Result, StoreError};
use crate::ingest::hash_files;
use crate::listing::{Item, ItemKind, ListOptions, Listing};

/// The blobs that files of a tree are links of, by their paths in it.
pub type Known = BTreeMap<PathBuf, Blake3>;

/// Modes of directories and of files that can be run, and of other files: those that a NAR tells apart.
const EXECUTABLE: u16 = 0o555;
const PLAIN: u16 = 0o444;
/// The mode of what stands around a file or a link that is a tree by itself, and its name there.
const NONE: u16 = 0;
const ALONE: &[u8] = b"alone";

/// Reads a tree and gives its id.
///
/// # Errors
/// When something cannot be read or is no part of a tree.
pub fn tree_id(tree: &Path) -> Result<Blake3> {
    let listing = Listing::read(tree, ListOptions::default())?;
    let hashes = hash_files(tree, &listing)?;
    of_listing(tree, &listing, &hashes)
}

/// Gives the id of a listed tree whose files have these hashes, by their places in the list.
pub(crate) fn of_listing(
    tree: &Path,
    listing: &Listing,
    hashes: &[(usize, Blake3)],
) -> Result<Blake3> {
    let hashes: BTreeMap<usize, Blake3> = hashes.iter().copied().collect();
    // The entries of the directories that are open, the top first.
    let mut open: Vec<Vec<Entry>> = Vec::new();
    let mut names: Vec<&Item> = Vec::new();
    for (index, item) in listing.items.iter().enumerate() {
        while open.len() > item.depth.max(1) {
            close(tree, &mut open, &mut names)?;
        }
        let kind = match &item.kind {
            ItemKind::Directory => {
                open.push(Vec::new());
                names.push(item);
                continue;
            }
            ItemKind::Symlink { target } => Kind::Symlink {
                target: target.clone(),
            },
            ItemKind::File { size, .. } => Kind::File {
                size: *size,
                blob: *hashes
                    .get(&index)
                    .ok_or_else(|| refused(tree, "one of its files was not read"))?,
                hardlink: None,
            },
        };
        match open.last_mut() {
            Some(entries) => entries.push(entry(item, kind)),
            None => {
                let mut alone = entry(item, kind);
                alone.name = ALONE.to_vec();
                return root(tree, NONE, vec![alone]);
            }
        }
    }
    while open.len() > 1 {
        close(tree, &mut open, &mut names)?;
    }
    root(tree, EXECUTABLE, open.pop().unwrap_or_default())
}

/// The id of a directory at the top.
fn root(tree: &Path, mode: u16, entries: Vec<Entry>) -> Result<Blake3> {
    let node = node(tree, entries)?;
    Ok(Root {
        meta: meta(mode),
        node,
    }
    .id())
}

/// Ends the innermost directory.
fn close(tree: &Path, open: &mut Vec<Vec<Entry>>, names: &mut Vec<&Item>) -> Result<()> {
    let (Some(entries), Some(item)) = (open.pop(), names.pop()) else {
        return Ok(());
    };
    let node = node(tree, entries)?;
    if let Some(above) = open.last_mut() {
        above.push(entry(item, Kind::Dir { node }));
    }
    Ok(())
}

fn node(tree: &Path, entries: Vec<Entry>) -> Result<Blake3> {
    let node = Node::new(entries).map_err(|error| refused(tree, &error.to_string()))?;
    Ok(node.id())
}

fn entry(item: &Item, kind: Kind) -> Entry {
    let executable = matches!(
        item.kind,
        ItemKind::Directory
            | ItemKind::File {
                executable: true,
                ..
            }
    );
    let name = item.path.file_name().unwrap_or_default();
    Entry {
        name: name.as_encoded_bytes().to_vec(),
        meta: meta(if executable { EXECUTABLE } else { PLAIN }),
        kind,
    }
}

fn meta(mode: u16) -> Meta {
    Meta {
        mode,
        ..Meta::default()
    }
}

fn refused(tree: &Path, detail: &str) -> StoreError {
    StoreError::NoTreeId {
        path: tree.to_owned(),
        detail: detail.to_owned(),
    }
}
