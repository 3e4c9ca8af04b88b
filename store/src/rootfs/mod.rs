//! Rootfs objects: manifests in `man/` whose files are blobs, and a tree to edit them with.

mod edit;
mod links;
mod nodes;
mod register;
mod tree;

pub use nodes::MAX_NODE_BYTES;
pub use tree::{EntryView, FileSpec, KindView, MAX_DEPTH, RootTree, SpecKind};
