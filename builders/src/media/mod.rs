//! Media that a bootstrap without a kernel begins from: the image that builder-hex0 boots, and the payload beside it.

mod extract;
mod hex0;
mod payload;

pub use extract::RootfsFileBuilder;
pub use hex0::BuilderHex0Builder;
pub use payload::PayloadBuilder;

use std::path::Path;

use sos_engine::BuilderError;

/// Makes the error for a file that cannot be read or written.
fn failed(what: &str, path: &Path, error: std::io::Error) -> BuilderError {
    BuilderError::io(format!("{what} `{}`", path.display()), error)
}
