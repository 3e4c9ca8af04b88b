//! Large files, read from their beginning to their end.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// Reads a file whose holes are not read: the kernel would make pages of zeros of each, and images of disks have many.
pub(crate) struct Sparse {
    file: File,
    at: u64,
    /// Where what is at `at` ends.
    end: u64,
    is_hole: bool,
}

impl Sparse {
    /// Begins at the beginning, wherever the file was read last.
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let meta = file.metadata()?;
        let has_holes = meta.blocks().saturating_mul(512) < meta.len();
        Ok(Self {
            file,
            at: 0,
            end: if has_holes { 0 } else { u64::MAX },
            is_hole: false,
        })
    }

    /// Passes over a hole, where one is here: how many bytes of it, at most so many; 0 where data begins, or at the end.
    pub(crate) fn skip(&mut self, most: usize) -> io::Result<usize> {
        if self.at >= self.end {
            self.look()?;
        }
        if !self.is_hole {
            return Ok(0);
        }
        let count = usize::try_from(self.end - self.at).map_or(most, |left| left.min(most));
        self.at += count as u64;
        Ok(count)
    }

    /// Looks what comes next.
    fn look(&mut self) -> io::Result<()> {
        (self.is_hole, self.end) = match rustix::fs::seek(&self.file, SeekFrom::Data(self.at)) {
            Ok(data) if data > self.at => (true, data),
            Ok(_) => match rustix::fs::seek(&self.file, SeekFrom::Hole(self.at)) {
                Ok(hole) if hole > self.at => (false, hole),
                _ => (false, u64::MAX),
            },
            // Nothing but a hole to the end, which may be right here.
            Err(Errno::NXIO) => match self.file.metadata()?.len() {
                len if len > self.at => (true, len),
                _ => (false, u64::MAX),
            },
            // A file system that cannot tell: all of it is data.
            Err(_) => (false, u64::MAX),
        };
        Ok(())
    }
}

impl Read for Sparse {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.end {
            self.look()?;
        }
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let part = buffer.len().min(left);
        let buffer = &mut buffer[..part];
        let count = if self.is_hole {
            buffer.fill(0);
            part
        } else {
            self.file.read_at(buffer, self.at)?
        };
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_read_as_zeros() {
        const PAGE: u64 = 64 << 10;
        for (data, size) in [
            (&[][..], 0),
            (&[], 5 * PAGE),
            (&[0], PAGE),
            (&[0], 9 * PAGE + 7),
            (&[3, 4, 8], 9 * PAGE),
            (&[2], 3 * PAGE - 1),
        ] {
            let file = tempfile::tempfile().expect("a file");
            file.set_len(size).expect("a length");
            for page in data {
                let bytes = vec![7; 1000];
                file.write_all_at(&bytes, page * PAGE + 9).expect("bytes");
            }
            let mut expected = vec![0; usize::try_from(size).expect("small")];
            file.read_exact_at(&mut expected, 0).expect("bytes");
            let mut found = Vec::new();
            let mut sparse = Sparse::new(file).expect("a file");
            sparse.read_to_end(&mut found).expect("bytes");
            assert!(found == expected, "{data:?} of {size}");
        }
    }

    #[test]
    fn holes_are_passed_over() {
        const PAGE: u64 = 64 << 10;
        let file = tempfile::tempfile().expect("a file");
        file.set_len(9 * PAGE).expect("a length");
        file.write_all_at(&[7; 1 << 16], 4 * PAGE).expect("bytes");
        let mut sparse = Sparse::new(file).expect("a file");
        let (mut holes, mut data) = (0, 0);
        loop {
            match sparse.skip(100_000).expect("a look") {
                0 => {}
                count => {
                    assert!(count <= 100_000);
                    holes += count;
                    continue;
                }
            }
            match sparse.read(&mut [0; 1000]).expect("bytes") {
                0 => break,
                count => data += count,
            }
        }
        assert_eq!((holes + data) as u64, 9 * PAGE);
        // A file system that has no holes says that all of it is data.
        assert!(data as u64 == PAGE || holes == 0, "{holes} and {data}");
    }

    #[test]
    fn a_file_that_shrinks_ends_sooner() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(1 << 20).expect("a length");
        let mut sparse = Sparse::new(file.try_clone().expect("a handle")).expect("a file");
        file.set_len(1000).expect("a length");
        let mut found = Vec::new();
        sparse.read_to_end(&mut found).expect("bytes");
        assert_eq!(found.len(), 1000);
    }
}
