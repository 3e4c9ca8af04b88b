//! Files of trees and of root filesystems, opened so that nothing outside of them can be meant.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sos_formats::hash::Blake3;
use sos_formats::manifest::Kind;
use sos_store::{Store, StoreError};

/// Opens a regular file in a directory, with its size. No link is followed, on the way or at the end: a tree may hold links to anywhere.
pub(crate) fn open_inside(dir: &Path, below: &[&str]) -> io::Result<(File, u64)> {
    let mut place = dir.to_owned();
    let mut kind = std::fs::symlink_metadata(&place)?;
    for name in below {
        if !kind.is_dir() || name.is_empty() || *name == "." || *name == ".." {
            return Err(io::ErrorKind::NotFound.into());
        }
        place.push(name);
        kind = std::fs::symlink_metadata(&place)?;
    }
    if !kind.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let file = File::open(&place)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

/// Reads a file in a directory whole, if it has at most `limit` bytes.
pub(crate) fn read_inside(dir: &Path, below: &[&str], limit: u64) -> io::Result<Vec<u8>> {
    let (file, size) = open_inside(dir, below)?;
    if size > limit {
        return Err(io::Error::other(format!("it is larger than {limit} bytes")));
    }
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What is at a path below a directory of a manifest.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    File { blob: Blake3, size: u64 },
    Dir(Blake3),
}

/// Looks up what is below a directory of a manifest. Links are not followed.
///
/// # Errors
/// When a node is missing or damaged.
pub(crate) fn find(
    store: &Store,
    top: &Blake3,
    path: &[&str],
) -> Result<Option<Found>, StoreError> {
    let mut at = Found::Dir(*top);
    for name in path {
        let Found::Dir(node) = at else {
            return Ok(None);
        };
        let node = store.read_node(&node)?;
        at = match node.get(name.as_bytes()).map(|entry| &entry.kind) {
            Some(Kind::Dir { node }) => Found::Dir(*node),
            Some(Kind::File { blob, size, .. }) => Found::File {
                blob: *blob,
                size: *size,
            },
            _ => return Ok(None),
        };
    }
    Ok(Some(at))
}

/// Reads a file of a manifest whole; none when it is not there or larger than `limit` bytes.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn read(
    store: &Store,
    top: &Blake3,
    path: &[&str],
    limit: u64,
) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(Found::File { blob, size }) = find(store, top, path)? else {
        return Ok(None);
    };
    if size > limit {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let read = store.open_blob(&blob)?.take(limit).read_to_end(&mut bytes);
    match read {
        Ok(_) => Ok(Some(bytes)),
        Err(_) => Err(StoreError::MissingBlob { hash: blob }),
    }
}
