//! Rootfs objects: manifests in `man/` whose files are blobs, and a tree to edit them with.

mod below;
pub(crate) mod cache;
mod devices;
mod edit;
mod entry;
mod links;
mod nodes;
mod register;
mod tree;

pub use below::Below;
pub use entry::{EntryView, FileSpec, KindView, SpecKind};
pub use nodes::MAX_NODE_BYTES;
pub use tree::{MAX_DEPTH, RootTree};
