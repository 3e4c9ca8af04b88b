//! OCI images: layers as tar streams out of the store, and the layout that names them.
//!
//! `builtin:oci-layer` makes one layer (`blob` and `layer.json`), `builtin:oci` makes the image layout of any number
//! of them. Layers are derivations of their own, so that an image whose last layer changed compresses one layer only.

mod compress;
mod contents;
mod deflate;
mod diff;
mod documents;
mod layer;
mod layout;
mod names;
mod placed;
mod read;

#[cfg(test)]
mod tests;

pub use compress::Compression;
pub use layer::OciLayerBuilder;
pub use layout::OciBuilder;
pub(crate) use names::{is_ref_name, platform, rfc3339};
pub use read::{Image, is_layout, read};
