//! Root filesystems, repositories and images outside the store, as other programs take them.

mod directory;
mod image;
mod repository;
mod sparse;

pub use directory::{LeftOut, Owners, write_rootfs, write_tree};
pub(crate) use image::Exportable;
pub use image::{ExportedImage, add_to_layout, write_archive};
pub use repository::{Exported, add_to_repository};
pub use sparse::write_sparse;
