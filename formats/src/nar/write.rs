//! Writing: calls in, a stream out.

use std::io::{self, BufRead, BufReader, Read, Write};

use super::{MAX_DEPTH, NarError, NarProblem, Visitor, check_name, check_target, padding};
use crate::Bytes;

/// What is read of a file at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// Writes a NAR piece by piece.
///
/// A tree is one node. A node is one call of [`regular`](Self::regular) or [`symlink`](Self::symlink), or
/// [`directory`](Self::directory), then for each entry [`entry`](Self::entry) and a node, then [`end`](Self::end).
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    // One element for each open directory: the last name in it.
    open: Vec<Bytes>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Node,
    Directory,
    Done,
}

impl<W: Write> Writer<W> {
    /// Starts an archive.
    ///
    /// # Errors
    /// When the stream fails.
    pub fn new(out: W) -> Result<Self, NarError> {
        let mut writer = Self {
            out,
            open: Vec::new(),
            state: State::Node,
        };
        writer.string(b"nix-archive-1")?;
        Ok(writer)
    }

    /// Writes a regular file of exactly `size` bytes.
    ///
    /// # Errors
    /// [`NarError::SizeChanged`] when `contents` has more or fewer bytes; the archive is then spoilt.
    pub fn regular(
        &mut self,
        executable: bool,
        size: u64,
        contents: &mut (impl Read + ?Sized),
    ) -> Result<(), NarError> {
        // One byte more, for the read after the last one.
        let room = usize::try_from(size).map_or(BUFFER_BYTES, |size| BUFFER_BYTES.min(size + 1));
        self.regular_buffered(
            executable,
            size,
            &mut BufReader::with_capacity(room, contents),
        )
    }

    /// Writes a regular file of exactly `size` bytes that are in memory piece by piece; they go into the stream without a copy.
    ///
    /// # Errors
    /// As [`regular`](Self::regular).
    pub fn regular_buffered(
        &mut self,
        executable: bool,
        size: u64,
        contents: &mut (impl BufRead + ?Sized),
    ) -> Result<(), NarError> {
        self.begin_node("a file")?;
        self.string(b"regular")?;
        if executable {
            self.string(b"executable")?;
            self.string(b"")?;
        }
        self.string(b"contents")?;
        self.raw(&size.to_le_bytes())?;
        self.copy(size, contents)?;
        self.raw(&[0; 8][..padding(size)])?;
        self.end_node()
    }

    fn copy(&mut self, size: u64, contents: &mut (impl BufRead + ?Sized)) -> Result<(), NarError> {
        let mut left = size;
        // The look after the last byte shows that the file did not grow.
        loop {
            let piece = match contents.fill_buf() {
                Ok(piece) => piece,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(NarError::Contents(e)),
            };
            let n = piece.len();
            if n == 0 && left == 0 {
                return Ok(());
            }
            if n == 0 || n as u64 > left {
                return Err(NarError::SizeChanged { expected: size });
            }
            self.raw(piece)?;
            contents.consume(n);
            left -= n as u64;
        }
    }

    /// Writes a symbolic link.
    ///
    /// # Errors
    /// When the target is empty, longer than 4095 bytes or holds NUL.
    pub fn symlink(&mut self, target: &[u8]) -> Result<(), NarError> {
        check_target(target).map_err(NarError::Unwritable)?;
        self.begin_node("a symbolic link")?;
        self.string(b"symlink")?;
        self.string(b"target")?;
        self.string(target)?;
        self.end_node()
    }

    /// Begins a directory.
    ///
    /// # Errors
    /// When directories are nested too deep.
    pub fn directory(&mut self) -> Result<(), NarError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(NarError::Unwritable(NarProblem::TooDeep));
        }
        self.begin_node("a directory")?;
        self.string(b"directory")?;
        self.open.push(Vec::new());
        self.state = State::Directory;
        Ok(())
    }

    /// Begins an entry of the open directory; its node comes next.
    ///
    /// # Errors
    /// When the name is not usable or not after the one before it.
    pub fn entry(&mut self, name: &[u8]) -> Result<(), NarError> {
        check_name(name).map_err(NarError::Unwritable)?;
        let last = match self.open.last_mut() {
            Some(last) if self.state == State::Directory => last,
            _ => return Err(NarError::OutOfOrder("an entry")),
        };
        if last.as_slice() >= name {
            return Err(NarError::Unwritable(NarProblem::NotSorted(name.to_vec())));
        }
        last.clear();
        last.extend_from_slice(name);
        self.state = State::Node;
        for word in [b"entry".as_slice(), b"(", b"name", name, b"node"] {
            self.string(word)?;
        }
        Ok(())
    }

    /// Ends the open directory.
    ///
    /// # Errors
    /// When none is open, or the node of an entry is missing.
    pub fn end(&mut self) -> Result<(), NarError> {
        if self.state != State::Directory {
            return Err(NarError::OutOfOrder("the end of a directory"));
        }
        self.open.pop();
        self.end_node()
    }

    /// Checks that the archive is complete, and returns the stream.
    ///
    /// # Errors
    /// When parts are missing.
    pub fn finish(self) -> Result<W, NarError> {
        if self.state != State::Done {
            return Err(NarError::OutOfOrder("the end of the archive"));
        }
        Ok(self.out)
    }

    fn begin_node(&mut self, what: &'static str) -> Result<(), NarError> {
        if self.state != State::Node {
            return Err(NarError::OutOfOrder(what));
        }
        self.string(b"(")?;
        self.string(b"type")
    }

    fn end_node(&mut self) -> Result<(), NarError> {
        self.string(b")")?;
        if self.open.is_empty() {
            self.state = State::Done;
            return Ok(());
        }
        self.state = State::Directory;
        self.string(b")")
    }

    fn string(&mut self, bytes: &[u8]) -> Result<(), NarError> {
        let len = bytes.len() as u64;
        self.raw(&len.to_le_bytes())?;
        self.raw(bytes)?;
        self.raw(&[0; 8][..padding(len)])
    }

    fn raw(&mut self, bytes: &[u8]) -> Result<(), NarError> {
        self.out.write_all(bytes).map_err(NarError::Write)
    }

    fn visited_entry(&mut self, name: &[u8]) -> Result<(), NarError> {
        if name.is_empty() {
            Ok(())
        } else {
            self.entry(name)
        }
    }
}

/// Writes what is visited, so that reading into a writer copies an archive.
impl<W: Write> Visitor for Writer<W> {
    fn directory(&mut self, name: &[u8]) -> io::Result<()> {
        self.visited_entry(name).map_err(io::Error::other)?;
        Self::directory(self).map_err(io::Error::other)
    }

    fn directory_end(&mut self) -> io::Result<()> {
        self.end().map_err(io::Error::other)
    }

    fn file(
        &mut self,
        name: &[u8],
        executable: bool,
        size: u64,
        contents: &mut dyn Read,
    ) -> io::Result<()> {
        self.visited_entry(name).map_err(io::Error::other)?;
        self.regular(executable, size, contents)
            .map_err(io::Error::other)
    }

    fn symlink(&mut self, name: &[u8], target: &[u8]) -> io::Result<()> {
        self.visited_entry(name).map_err(io::Error::other)?;
        Self::symlink(self, target).map_err(io::Error::other)
    }
}
