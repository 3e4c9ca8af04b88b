//! Standard output, which carries results only. A reader that goes away is no error.

use std::io::{self, BufWriter, ErrorKind, Write};

use super::live;
use crate::failure::Failure;

/// Bytes that are collected before they are written.
const BUFFER_BYTES: usize = 64 << 10;

/// Writes bytes as they are.
///
/// # Errors
/// Any failure to write but a closed pipe.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    judged(out.write_all(bytes).and_then(|()| out.flush()))
}

/// Writes what `work` writes, piece by piece: nothing large is held.
///
/// # Errors
/// As [`bytes`].
pub(crate) fn pieces(work: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock());
    judged(work(&mut out).and_then(|()| out.flush()))
}

fn judged(written: io::Result<()>) -> Result<(), Failure> {
    match written {
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

/// Writes a value as JSON, indented for reading.
///
/// # Errors
/// As [`bytes`].
pub(crate) fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    pieces(|out| {
        serde_json::to_writer_pretty(&mut *out, value)?;
        out.write_all(b"\n")
    })
}

/// A list in JSON whose items are made as they are written.
pub(crate) struct Items<F>(pub(crate) F);

impl<T, I, F> serde::Serialize for Items<F>
where
    T: serde::Serialize,
    I: IntoIterator<Item = T>,
    F: Fn() -> I,
{
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq((self.0)())
    }
}

/// A message for the person on standard error, never part of the result.
pub(crate) fn message(text: &str) {
    live::message(text);
}
