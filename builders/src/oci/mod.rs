//! OCI images: layers as tar streams out of the store, and the layout that names them.
//!
//! `builtin:oci-layer` makes one layer (`blob` and `layer.json`), `builtin:oci-chunks` those of the packages of a root
//! filesystem, `builtin:oci` makes the image layout of any number of them, `builtin:oci-index` one layout of images for several
//! machines. Layers are derivations of their own, so that an image whose last layer changed compresses one layer only.
//! `builtin:oci-rootfs` goes the other way, from an image to a root filesystem.

pub(crate) mod archive;
mod batch;
mod chunks;
mod compress;
mod contents;
mod dates;
mod deflate;
mod diff;
pub(crate) mod documents;
mod index;
mod kept;
mod layer;
mod layout;
pub(crate) mod machine;
mod member;
pub(crate) mod names;
mod object;
mod packages;
mod placed;
mod read;
mod settings;
pub(crate) mod source;
pub(crate) mod strict;
mod unpack;
mod way;

#[cfg(test)]
mod tests;

pub use chunks::OciChunksBuilder;
pub use compress::Compression;
pub(crate) use dates::DateAttrs;
pub use index::OciIndexBuilder;
pub use layer::OciLayerBuilder;
pub use layout::OciBuilder;
pub(crate) use machine::platform;
pub use names::is_ref_name;
pub(crate) use names::rfc3339;
pub use read::{Image, is_layout, read};
pub use unpack::OciRootfsBuilder;
