//! A file that is written past the memory of the kernel, in pieces of one size.
//!
//! What nobody reads soon has no place in the page cache: fresh pages for all of it cost processor time, and push out what others have in
//! use. Where a file system cannot do without, the file is written as any other.

use std::fs::File;
use std::io::{self, Write};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

/// What goes to the disk at once.
pub(crate) const PIECE_BYTES: usize = 1 << 20;
/// Where a piece begins in memory and in the file: no disk asks for more than a page.
const ALIGNMENT: usize = 4096;

/// Takes the bytes of a file, which is empty. What is below one piece is kept until the end.
pub(crate) struct Direct {
    file: File,
    /// A piece, and room to align it.
    room: Vec<u8>,
    /// How many bytes of the piece there are.
    len: usize,
    way: Way,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// No piece was written yet.
    Unknown,
    Past,
    Through,
}

impl Direct {
    pub(crate) fn new(file: File) -> Self {
        Self {
            file,
            room: vec![0; PIECE_BYTES + ALIGNMENT],
            len: 0,
            way: Way::Unknown,
        }
    }

    /// The file, to which the kernel may have written only a part.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Whether pieces went through the memory of the kernel and are to be sent to the disk.
    pub(crate) fn is_in_memory(&self) -> bool {
        self.way == Way::Through
    }

    /// Takes bytes.
    pub(crate) fn write_all(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let begin = self.begin();
            let rest = &mut self.room[begin + self.len..begin + PIECE_BYTES];
            let (taken, left) = data.split_at(data.len().min(rest.len()));
            rest[..taken.len()].copy_from_slice(taken);
            self.len += taken.len();
            data = left;
            if self.len == PIECE_BYTES {
                self.piece()?;
            }
        }
        Ok(())
    }

    /// Writes what is left.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        if self.way == Way::Past {
            self.ask(false)?;
        }
        let begin = self.begin();
        self.file.write_all(&self.room[begin..begin + self.len])?;
        self.len = 0;
        Ok(())
    }

    /// Where the piece begins in the room.
    fn begin(&self) -> usize {
        // The most that it can be is a page less one byte.
        self.room.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT)
    }

    /// Asks to be let past the memory of the kernel, or not any more.
    fn ask(&self, past: bool) -> io::Result<()> {
        let mut flags = fcntl_getfl(&self.file)?;
        flags.set(OFlags::DIRECT, past);
        Ok(fcntl_setfl(&self.file, flags)?)
    }

    /// Writes a whole piece.
    fn piece(&mut self) -> io::Result<()> {
        if self.way == Way::Unknown {
            self.way = match self.ask(true) {
                Ok(()) => Way::Past,
                Err(_) => Way::Through,
            };
        }
        let begin = self.begin();
        let mut left = &self.room[begin..begin + self.len];
        while !left.is_empty() {
            match self.file.write(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => left = &left[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Some file systems take the flag and refuse the write; and after a part of a piece what is left is not aligned.
                Err(error)
                    if self.way == Way::Past
                        && Errno::from_io_error(&error) == Some(Errno::INVAL) =>
                {
                    self.ask(false)?;
                    self.way = Way::Through;
                }
                Err(error) => return Err(error),
            }
        }
        self.len = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    fn sample(len: usize) -> Vec<u8> {
        (0..len)
            .map(|n| u8::try_from(n % 251).expect("small"))
            .collect()
    }

    /// Writes in parts of an odd size after `first`; gives what the file has then.
    fn written(first: &[u8], data: &[u8]) -> (Vec<u8>, Way) {
        // Beside the test, as the usual place may be memory.
        let program = std::env::current_exe().expect("a path");
        let mut file =
            tempfile::tempfile_in(program.parent().expect("a directory")).expect("a file");
        file.write_all(first).expect("room");
        let mut writer = Direct::new(file);
        for part in data.chunks(77_777) {
            writer.write_all(part).expect("room");
        }
        writer.finish().expect("room");
        let mut file = writer.file().try_clone().expect("a handle");
        file.rewind().expect("the beginning");
        let mut back = Vec::new();
        file.read_to_end(&mut back).expect("bytes");
        (back, writer.way)
    }

    #[test]
    fn whatever_the_size_all_is_there() {
        for len in [
            0,
            1,
            PIECE_BYTES - 1,
            PIECE_BYTES,
            PIECE_BYTES + 1,
            3 * PIECE_BYTES + 777,
        ] {
            let data = sample(len);
            let (back, way) = written(b"", &data);
            assert!(back == data, "{len}");
            assert_eq!(way == Way::Unknown, len < PIECE_BYTES, "{len}");
        }
    }

    #[test]
    fn where_the_kernel_refuses_it_the_file_is_written_as_any_other() {
        let data = sample(3 * PIECE_BYTES + 777);
        // No disk writes from an odd place on.
        let (back, way) = written(b"x", &data);
        assert!(back[1..] == data && back[0] == b'x');
        assert!(way == Way::Through);
    }
}
