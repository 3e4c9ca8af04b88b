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
mod verity;

use sos_engine::BuilderError;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Blake3;
use sos_formats::label;

pub use builder::{FilesystemBuilder, VerityBuilder};
pub(crate) use image::Measured;
pub use image::{FileImage, Image, Window};
pub use options::{Acls, Kind, Options, Written, parse_size};
pub use verity::{Hashed, Verity};

use crate::build::Build;

/// Writes the root filesystem with the manifest `root` into an image that is empty. Where the image keeps nothing this only says how
/// long it would be, and what does not fit.
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
    if let Err(wrong) = label::check(kind.name(), &options.label) {
        let message = format!("bad `label` of `{}`: {wrong}", build.name());
        let mut problem = Diagnostic::error("filesystem-attrs", Class::Recipe, message);
        let instead = wrong.instead();
        problem
            .helps
            .extend(instead.map(|instead| format!("write `label = \"{instead}\"`")));
        return Err(problem.into());
    }
    match kind {
        Kind::Ext4 => ext4::write(build, root, options, image),
        Kind::Erofs => erofs::write(build, root, options, image),
        Kind::Squashfs => squashfs::write(build, root, options, image),
    }
}
