//! Root filesystems, repositories and images outside the store, as other programs take them.

mod delta;
mod directory;
mod image;
mod repository;
mod sign;
mod sparse;

pub use directory::{LeftOut, Owners, write_rootfs, write_tree};
pub(crate) use image::Exportable;
pub use image::{ExportedImage, add_to_layout, write_archive};
pub use repository::{AddOptions, Exported, add_to_repository, check_repository};
pub use sign::Signers;
pub use sparse::write_sparse;
