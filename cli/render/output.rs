//! Standard output, which carries results only. A reader that goes away is no error.

use std::io::{ErrorKind, Write as _};

use super::live;
use crate::failure::Failure;

/// Writes bytes as they are.
///
/// # Errors
/// Any failure to write but a closed pipe.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::io("cannot write to standard output", &e))
        }
        _ => Ok(()),
    }
}

/// Writes a line.
///
/// # Errors
/// As [`bytes`].
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    bytes(format!("{text}\n").as_bytes())
}

/// Writes a JSON value, indented when it is for reading.
///
/// # Errors
/// As [`bytes`].
pub(crate) fn json(value: &serde_json::Value) -> Result<(), Failure> {
    line(&serde_json::to_string_pretty(value).unwrap_or_default())
}

/// A message for the person on standard error, never part of the result.
pub(crate) fn message(text: &str) {
    live::message(text);
}
