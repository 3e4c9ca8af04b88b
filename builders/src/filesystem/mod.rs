//! File systems, written straight out of the store: no mount, no temporary tree, no root.
//!
//! `write` puts a root filesystem into an [`Image`], which is a file, or a part of a disk through a [`Window`]. It writes every
//! byte that is not zero, and sets the length. The bytes follow from the manifest and the options alone.

mod builder;
mod data;
mod erofs;
mod ext4;
mod image;
mod options;
mod parallel;
mod squashfs;
#[cfg(test)]
mod tests;
mod tree;
mod unfit;
mod verity;

use sos_engine::BuilderError;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Blake3;

pub use builder::{FilesystemBuilder, VerityBuilder};
pub use image::{FileImage, Image, Window};
pub use options::{Acls, Kind, Options, Written, parse_size};
pub use verity::{Hashed, Verity};

use crate::build::Build;

/// Writes the root filesystem with the manifest `root` into an image that is empty.
///
/// # Errors
/// When the tree has something that the file system cannot hold, when it does not fit, and when reading or writing fails.
pub(crate) fn write(
    build: &dyn Build,
    kind: Kind,
    root: &Blake3,
    options: &Options,
    image: &dyn Image,
) -> Result<Written, BuilderError> {
    if options.label.len() > kind.max_label_bytes() || options.label.contains('\0') {
        let most = kind.max_label_bytes();
        let message = format!(
            "the label `{}` is too long: {} has {most} bytes for it",
            options.label,
            kind.name()
        );
        return Err(Diagnostic::error("filesystem-attrs", Class::Recipe, message).into());
    }
    match kind {
        Kind::Ext4 => ext4::write(build, root, options, image),
        Kind::Erofs => erofs::write(build, root, options, image),
        Kind::Squashfs => squashfs::write(build, root, options, image),
    }
}
