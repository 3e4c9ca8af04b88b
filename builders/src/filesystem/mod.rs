//! File systems, written straight out of the store: no mount, no temporary tree, no root.
//!
//! [`write`] puts a root filesystem into an [`Image`], which is a file, or a part of a disk through a [`Window`]. It writes every
//! byte that is not zero, and sets the length. The bytes follow from the manifest and the options alone.

mod image;
mod options;

use sos_engine::BuilderError;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Blake3;

pub use image::{FileImage, Image, Window};
pub use options::{Kind, Options, Written};

use crate::build::Build;

/// Writes the root filesystem with the manifest `root` into an image that is empty.
///
/// # Errors
/// When the tree has something that the file system cannot hold, when it does not fit, and when reading or writing fails.
#[allow(dead_code, reason = "its caller comes with the first file system")]
pub(crate) fn write(
    build: &dyn Build,
    kind: Kind,
    root: &Blake3,
    options: &Options,
    image: &dyn Image,
) -> Result<Written, BuilderError> {
    let _ = (build, root, options, image);
    let message = format!("{} is not written yet", kind.name());
    Err(Diagnostic::error("filesystem-kind", Class::Recipe, message).into())
}
