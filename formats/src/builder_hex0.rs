//! Disk images that builder-hex0 boots: a boot sector, the text of the second stage, and files as a stream of commands.
//!
//! # Format
//! stage 1, 512 bytes; the text of stage 2 and zeros to a multiple of 512; then commands without padding: `src 0 PATH\n` is a
//! directory, `src SIZE PATH\n` a file with SIZE bytes behind the line, and `hex0 FROM TO\n` or a program by its path runs.
//! Zeros follow to the next MiB.
//!
//! # Source
//! `ironmeld/builder-hex0`, README.md; `fosslinux/live-bootstrap`, `lib/generator.py`.

use std::io::{self, Read, Write};

/// The size of a boot sector, and of what stages are padded to, in bytes.
pub const SECTOR_BYTES: usize = 512;
/// What images are padded to, in bytes.
pub const MEBIBYTE: u64 = 1 << 20;

/// Why an image cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Something else than pairs of hexadecimal digits, blanks and comments.
    #[error("line {line} of stage 1 is no hex0: found {found:?}")]
    Hex {
        /// Line, from 1.
        line: usize,
        /// What was found.
        found: char,
    },
    /// Stage 1 is not one sector.
    #[error("stage 1 has {bytes} bytes; it must have {SECTOR_BYTES}")]
    Sector {
        /// How many it has.
        bytes: usize,
    },
    /// A path with a line feed in it, which would end the line.
    #[error("the path {path:?} has a line feed in it")]
    Path {
        /// The path.
        path: String,
    },
    /// A file is shorter than it was said to be.
    #[error("`{path}` ended after {bytes} bytes")]
    Short {
        /// The path.
        path: String,
        /// The bytes that it had.
        bytes: u64,
    },
}

/// Returns what the text of stage 1 stands for: pairs of digits; what follows `#` or `;` on a line is a comment.
///
/// # Errors
/// [`ImageError::Hex`], and [`ImageError::Sector`] when it is not one sector.
pub fn stage1(text: &str) -> Result<Vec<u8>, ImageError> {
    let mut out = Vec::with_capacity(SECTOR_BYTES);
    for (index, line) in text.lines().enumerate() {
        let code = line.find(['#', ';']).map_or(line, |at| &line[..at]);
        let mut high = None;
        for c in code.chars().filter(|c| !c.is_whitespace()) {
            let line = index + 1;
            let digit = c.to_digit(16).ok_or(ImageError::Hex { line, found: c })?;
            let digit = u8::try_from(digit).unwrap_or_default();
            high = match high {
                None => Some(digit),
                Some(high) => {
                    out.push(high << 4 | digit);
                    None
                }
            };
        }
        if high.is_some() {
            let line = index + 1;
            return Err(ImageError::Hex { line, found: '\n' });
        }
    }
    if out.len() == SECTOR_BYTES {
        Ok(out)
    } else {
        Err(ImageError::Sector { bytes: out.len() })
    }
}

/// Writes the parts of an image one after the other, and counts.
pub struct ImageWriter<'a> {
    out: &'a mut dyn Write,
    bytes: u64,
}

impl<'a> ImageWriter<'a> {
    /// Begins with both stages.
    ///
    /// # Errors
    /// As [`stage1`], or when writing fails.
    pub fn begin(out: &'a mut dyn Write, first: &str, second: &[u8]) -> Result<Self, ImageError> {
        let first = stage1(first)?;
        let mut image = Self { out, bytes: 0 };
        image.put(&first)?;
        image.put(second)?;
        let over = image.bytes % SECTOR_BYTES as u64;
        if over > 0 {
            image.zeros(SECTOR_BYTES as u64 - over)?;
        }
        Ok(image)
    }

    /// Adds a directory.
    ///
    /// # Errors
    /// [`ImageError::Path`], or when writing fails.
    pub fn directory(&mut self, path: &str) -> Result<(), ImageError> {
        self.record(0, path)
    }

    /// Adds a file of `size` bytes.
    ///
    /// # Errors
    /// [`ImageError::Path`], [`ImageError::Short`], or when reading or writing fails.
    pub fn file(
        &mut self,
        path: &str,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<(), ImageError> {
        self.record(size, path)?;
        let bytes = io::copy(&mut content.take(size), self.out)?;
        self.bytes += bytes;
        if bytes < size {
            let path = path.to_owned();
            return Err(ImageError::Short { path, bytes });
        }
        Ok(())
    }

    /// Adds a command.
    ///
    /// # Errors
    /// [`ImageError::Path`] for one with a line feed in it, or when writing fails.
    pub fn command(&mut self, command: &str) -> Result<(), ImageError> {
        self.line(command.to_owned())
    }

    /// Pads to the next MiB, to a whole one more when it ends at one, and then to `size` bytes, and returns how many there are.
    ///
    /// # Errors
    /// When writing fails.
    pub fn end(mut self, size: u64) -> Result<u64, ImageError> {
        let over = self.bytes % MEBIBYTE;
        self.zeros(MEBIBYTE - over)?;
        if self.bytes < size {
            self.zeros(size - self.bytes)?;
        }
        Ok(self.bytes)
    }

    fn record(&mut self, size: u64, path: &str) -> Result<(), ImageError> {
        self.line(format!("src {size} {path}"))
    }

    fn line(&mut self, line: String) -> Result<(), ImageError> {
        if line.contains('\n') {
            return Err(ImageError::Path { path: line });
        }
        self.put(line.as_bytes())?;
        self.put(b"\n")
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.out.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn zeros(&mut self, count: u64) -> Result<(), ImageError> {
        self.bytes += io::copy(&mut io::repeat(0).take(count), self.out)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector() -> String {
        "# boot\n".to_owned() + &"00 1f ; zero\n".repeat(256)
    }

    #[test]
    fn stage_1_is_one_sector() {
        let bytes = stage1(&sector()).unwrap();
        assert_eq!(bytes[..4], [0, 0x1f, 0, 0x1f]);
        let error = |text: &str| stage1(text).unwrap_err().to_string();
        assert_eq!(error("00"), "stage 1 has 1 bytes; it must have 512");
        assert_eq!(error("00\n0g"), "line 2 of stage 1 is no hex0: found 'g'");
        assert_eq!(error("0"), "line 1 of stage 1 is no hex0: found '\\n'");
    }

    #[test]
    fn an_image_is_as_the_format_says() {
        let mut out = Vec::new();
        let mut image = ImageWriter::begin(&mut out, &sector(), b"two").unwrap();
        image.directory(".").unwrap();
        image.file("./a b", 3, &mut &b"xyz"[..]).unwrap();
        image.command("hex0 /a /b").unwrap();
        assert!(image.file("./c\nd", 0, &mut &b""[..]).is_err());
        assert!(image.file("./c", 2, &mut &b"x"[..]).is_err());
        let size = image.end(0).unwrap();
        assert_eq!(size, MEBIBYTE);
        assert_eq!(out.len(), 1 << 20);
        assert_eq!(&out[512..516], b"two\0");
        let files = b"src 0 .\nsrc 3 ./a b\nxyzhex0 /a /b\n";
        assert_eq!(&out[1024..1024 + files.len()], files);
    }

    #[test]
    fn a_whole_mebibyte_gets_another_one() {
        let mut out = Vec::new();
        let image = ImageWriter::begin(&mut out, &sector(), &[b'x'; (1 << 20) - 512]).unwrap();
        assert_eq!(image.end(0).unwrap(), 2 * MEBIBYTE);
        let mut out = Vec::new();
        let image = ImageWriter::begin(&mut out, &sector(), b"x").unwrap();
        assert_eq!(image.end(3 * MEBIBYTE).unwrap(), 3 * MEBIBYTE);
    }
}
