//! Root filesystems and repositories outside the store, as other programs take them.

mod delta;
mod directory;
mod repository;
mod sign;

pub use directory::{LeftOut, Owners, write_rootfs, write_tree};
pub use repository::{AddOptions, Exported, add_to_repository};
pub use sign::Signers;
