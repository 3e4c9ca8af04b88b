//! Root filesystems and repositories outside the store, as other programs take them.

mod directory;
mod repository;

pub use directory::{Owners, write_rootfs};
pub use repository::{Exported, add_to_repository};
