//! Root filesystems and repositories outside the store, as other programs take them.

mod directory;
mod repository;
mod sparse;

pub use directory::{LeftOut, Owners, write_rootfs, write_tree};
pub use repository::{Exported, add_to_repository};
pub use sparse::write_sparse;
