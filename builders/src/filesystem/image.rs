//! Where the bytes of an image go.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

/// A sparse image: what nobody wrote reads as zeros, and takes no room.
///
/// Many threads write at once, each to places of its own. Writers rely on zeros where they write nothing, so an image, or the
/// part of it that a [`Window`] shows, must be new.
pub trait Image: Sync {
    /// Writes bytes at an offset, and makes the image longer if it must.
    ///
    /// # Errors
    /// When writing fails, or the place is outside what the image may be.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Reads bytes that were written, or zeros; the whole buffer must be inside the image.
    ///
    /// # Errors
    /// When reading fails, and `UnexpectedEof` behind the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Sets the length in bytes, which is at least what was written.
    ///
    /// # Errors
    /// When that fails, or is more than the image may have.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Whether bytes go anywhere. If not, a writer that knows how long it all is may leave them out.
    fn is_kept(&self) -> bool {
        true
    }
}

/// An image that takes everything and keeps nothing: whether things fit is known before anything is lost for them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Measured;

impl Image for Measured {
    fn write_at(&self, _offset: u64, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn read_at(&self, _offset: u64, _buffer: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn is_kept(&self) -> bool {
        false
    }
}

/// An image that is a file; what is not written is a hole of it.
#[derive(Debug)]
pub struct FileImage {
    file: Arc<File>,
}

impl FileImage {
    fn new(file: File) -> Self {
        Self::of(Arc::new(file))
    }

    /// A file that is open already.
    pub(crate) fn of(file: Arc<File>) -> Self {
        Self { file }
    }

    /// Makes a file that does not exist yet.
    ///
    /// # Errors
    /// When it exists or cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        options.open(path).map(Self::new)
    }

    /// Opens a file as it is, to read it or to write into places that are still holes.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path, writable: bool) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(writable);
        options.open(path).map(Self::new)
    }

    /// The length in bytes.
    ///
    /// # Errors
    /// When the file cannot be looked at.
    pub fn len_bytes(&self) -> io::Result<u64> {
        self.file.metadata().map(|meta| meta.len())
    }
}

impl Image for FileImage {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}

/// A part of an image, as a partition is of a disk.
#[derive(Clone, Copy)]
pub struct Window<'a> {
    image: &'a dyn Image,
    start: u64,
    len: u64,
}

impl<'a> Window<'a> {
    /// Shows `len` bytes of an image from `start` on.
    pub fn new(image: &'a dyn Image, start: u64, len: u64) -> Self {
        Self { image, start, len }
    }

    /// The offset in the image, if that many bytes from there are inside the window.
    fn place(&self, offset: u64, len: u64) -> io::Result<u64> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len);
        let start = self.start.checked_add(offset);
        end.and(start).ok_or_else(|| {
            let message = format!(
                "{len} bytes at {offset} are not inside a part of {} bytes",
                self.len
            );
            io::Error::new(io::ErrorKind::StorageFull, message)
        })
    }
}

impl Image for Window<'_> {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let place = self.place(offset, bytes.len() as u64)?;
        self.image.write_at(place, bytes)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let place = self.place(offset, buffer.len() as u64)?;
        self.image.read_at(place, buffer)
    }

    /// The length of the whole image is for whoever makes the whole; here it is only compared with the window.
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.place(0, len).map(|_| ())
    }

    fn is_kept(&self) -> bool {
        self.image.is_kept()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_keeps_to_its_part() {
        let dir = tempfile::tempdir().expect("a directory");
        let image = FileImage::create(&dir.path().join("image")).expect("an image");
        image.set_len(100).expect("a length");
        let window = Window::new(&image, 10, 20);
        window.write_at(19, b"x").expect("the last byte");
        for offset in [20, u64::MAX] {
            let error = window.write_at(offset, b"x").expect_err("outside");
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        }
        assert!(window.set_len(20).is_ok() && window.set_len(21).is_err());
        let mut byte = [0];
        image.read_at(29, &mut byte).expect("the byte");
        assert_eq!(byte, *b"x");
        assert_eq!(image.len_bytes().expect("a length"), 100);
        assert!(FileImage::create(&dir.path().join("image")).is_err());
    }
}
