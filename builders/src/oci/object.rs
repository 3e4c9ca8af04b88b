//! Layers as an object of blobs, which is not read again when it is registered: its name follows from the names of the blobs, and those
//! were found while they were written.

use std::path::PathBuf;

use sos_engine::{BuilderCtx, BuilderError};
use sos_formats::hash::Blake3;
use sos_formats::manifest::{Entry, Kind, Meta, Node, Root};
use sos_store::Store;

use crate::build::Build;

/// Whether the derivation says that its output is such an object, and not a tree.
pub(super) fn is_object(ctx: &BuilderCtx<'_>) -> bool {
    let mode = ctx.attrs.get("outputHashMode");
    mode.and_then(serde_json::Value::as_str) == Some("rootfs")
}

/// Makes an object of blobs of the store, each with its name and its size in bytes, and of one more file that says what they are.
pub(super) fn object(
    store: &Store,
    blobs: &[(&str, Blake3, u64)],
    (name, about): (&str, &[u8]),
) -> Result<Blake3, BuilderError> {
    let about = (name, store.put_blob_bytes(about)?, about.len() as u64);
    let meta = |mode| Meta {
        mode,
        ..Meta::default()
    };
    let entry = |(name, blob, size): &(&str, Blake3, u64)| Entry {
        name: name.as_bytes().to_vec(),
        meta: meta(0o644),
        kind: Kind::File {
            size: *size,
            blob: *blob,
            hardlink: None,
        },
    };
    let node = Node::new(blobs.iter().chain([&about]).map(entry).collect());
    let node = node.map_err(|error| BuilderError::failed(error.to_string()))?;
    let root = Root {
        meta: meta(0o755),
        node: store.put_node(&node)?,
    };
    Ok(store.put_root(&root)?)
}

/// Layers as they were made: a tree, or an object of blobs.
pub(super) enum Layers<'a> {
    Tree(PathBuf),
    Object(&'a Store, Node),
}

impl<'a> Layers<'a> {
    /// Opens an input.
    pub(super) fn open(build: &'a dyn Build, input: &str) -> Result<Self, BuilderError> {
        let store = build.store();
        Ok(match build.rootfs(input) {
            Ok(root) => Self::Object(store, store.get_node(&store.get_root(&root)?.node)?),
            Err(_) => Self::Tree(build.tree(input)?),
        })
    }

    /// The blob that a file of it is.
    pub(super) fn blob(&self, name: &str) -> Option<Blake3> {
        match self {
            Self::Tree(_) => None,
            Self::Object(_, node) => match node.get(name.as_bytes())?.kind {
                Kind::File { blob, .. } => Some(blob),
                _ => None,
            },
        }
    }

    /// Where a file of it is.
    pub(super) fn place(&self, name: &str) -> Option<PathBuf> {
        match self {
            Self::Tree(dir) => Some(dir.join(name)).filter(|place| place.is_file()),
            Self::Object(store, _) => {
                let blob = self.blob(name)?;
                // Both forms of a blob have the same bytes.
                [false, true]
                    .map(|executable| store.blob_path(&blob, executable))
                    .into_iter()
                    .find(|place| place.is_file())
            }
        }
    }
}
