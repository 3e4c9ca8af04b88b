//! Root filesystems, repositories and images outside the store, as other programs take them.

mod delta;
mod destination;
mod directory;
mod draft;
mod image;
mod lock;
mod repository;
mod sign;
mod sparse;
#[cfg(test)]
pub(crate) mod waiting;

pub use destination::check_repository;
pub use directory::{LeftOut, Owners, write_rootfs, write_tree};
pub use draft::{Draft, taken};
pub(crate) use image::Exportable;
pub use image::{ExportedImage, add_to_layout, write_archive};
pub use lock::OnWait;
pub use repository::{AddOptions, Exported, add_to_repository};
pub use sign::Signers;
pub use sparse::write_sparse;
