//! Reading: a stream in, calls on a [`Visitor`] out.

use std::io::{self, BufReader, Read};

use super::{
    MAX_DEPTH, MAX_NAME_LEN, MAX_TAG_LEN, MAX_TARGET_LEN, NarError, NarProblem, check_name,
    check_target, padding,
};
use crate::Bytes;

/// Receives a file tree, depth first, each directory's entries in order of names.
///
/// The name is empty for the root. Names are single path components, checked to be neither `.` nor `..`.
/// What a visitor has received is to be trusted only after [`read`] has returned without error.
pub trait Visitor {
    /// Enters a directory.
    ///
    /// # Errors
    /// Any error ends the reading.
    fn directory(&mut self, name: &[u8]) -> io::Result<()>;

    /// Leaves the directory entered last.
    ///
    /// # Errors
    /// Any error ends the reading.
    fn directory_end(&mut self) -> io::Result<()>;

    /// Receives a regular file; what is not read from `contents` is skipped.
    ///
    /// # Errors
    /// Any error ends the reading.
    fn file(
        &mut self,
        name: &[u8],
        executable: bool,
        size: u64,
        contents: &mut dyn Read,
    ) -> io::Result<()>;

    /// Receives a symbolic link.
    ///
    /// # Errors
    /// Any error ends the reading.
    fn symlink(&mut self, name: &[u8], target: &[u8]) -> io::Result<()>;
}

/// Reads a NAR to the end of the stream.
///
/// # Errors
/// [`NarError::Malformed`] for anything that is not exactly the one encoding of a tree, also for bytes after it;
/// [`NarError::Read`] and [`NarError::Visitor`] when one of the two sides fails.
pub fn read<R: Read>(stream: R, visitor: &mut impl Visitor) -> Result<(), NarError> {
    let mut r = Reader {
        stream: BufReader::with_capacity(64 * 1024, stream),
        offset: 0,
    };
    r.expect("nix-archive-1")?;
    // One element for each open directory: the last name in it.
    let mut open: Vec<Bytes> = Vec::new();
    let mut name: Bytes = Vec::new();
    loop {
        r.expect("(")?;
        r.expect("type")?;
        let mut closed = true;
        match r.tag()?.as_slice() {
            b"regular" => r.file(&name, visitor)?,
            b"symlink" => {
                r.expect("target")?;
                let target = r.string(MAX_TARGET_LEN)?;
                check_target(&target).or_else(|p| r.fail(p))?;
                r.expect(")")?;
                visitor.symlink(&name, &target).map_err(NarError::Visitor)?;
            }
            b"directory" => {
                if open.len() >= MAX_DEPTH {
                    return r.fail(NarProblem::TooDeep);
                }
                visitor.directory(&name).map_err(NarError::Visitor)?;
                open.push(Vec::new());
                closed = false;
            }
            other => {
                return r.fail(NarProblem::Expected {
                    expected: "a type of file",
                    found: other.to_vec(),
                });
            }
        }
        // Go on to the next node: either an entry of the directory just opened, or one that follows.
        loop {
            if closed && !open.is_empty() {
                r.expect(")")?;
            }
            let Some(last) = open.last_mut() else {
                return r.end();
            };
            match r.tag()?.as_slice() {
                b")" => {
                    open.pop();
                    visitor.directory_end().map_err(NarError::Visitor)?;
                    closed = true;
                }
                b"entry" => {
                    r.expect("(")?;
                    r.expect("name")?;
                    name = r.string(MAX_NAME_LEN)?;
                    check_name(&name).or_else(|p| r.fail(p))?;
                    if *last >= name {
                        return r.fail(NarProblem::NotSorted(name));
                    }
                    last.clone_from(&name);
                    r.expect("node")?;
                    break;
                }
                other => {
                    return r.fail(NarProblem::Expected {
                        expected: "`entry` or `)`",
                        found: other.to_vec(),
                    });
                }
            }
        }
    }
}

struct Reader<R> {
    stream: BufReader<R>,
    offset: u64,
}

impl<R: Read> Reader<R> {
    fn fail<T>(&self, problem: NarProblem) -> Result<T, NarError> {
        Err(NarError::Malformed {
            offset: self.offset,
            problem,
        })
    }

    fn fill(&mut self, buf: &mut [u8]) -> Result<(), NarError> {
        match self.stream.read_exact(buf) {
            Ok(()) => {
                self.offset += buf.len() as u64;
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => self.fail(NarProblem::Truncated),
            Err(e) => Err(NarError::Read(e)),
        }
    }

    fn length(&mut self) -> Result<u64, NarError> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn pad(&mut self, len: u64) -> Result<(), NarError> {
        let mut zeros = [0; 8];
        let zeros = &mut zeros[..padding(len)];
        self.fill(zeros)?;
        if zeros.iter().any(|b| *b != 0) {
            return self.fail(NarProblem::BadPadding);
        }
        Ok(())
    }

    fn string(&mut self, limit: usize) -> Result<Bytes, NarError> {
        let len = self.length()?;
        let n = match usize::try_from(len) {
            Ok(n) if n <= limit => n,
            _ => {
                return self.fail(NarProblem::TooLong {
                    len,
                    limit: limit as u64,
                });
            }
        };
        let mut out = vec![0; n];
        self.fill(&mut out)?;
        self.pad(len)?;
        Ok(out)
    }

    fn tag(&mut self) -> Result<Bytes, NarError> {
        self.string(MAX_TAG_LEN)
    }

    fn expect(&mut self, expected: &'static str) -> Result<(), NarError> {
        let found = self.tag()?;
        if found == expected.as_bytes() {
            Ok(())
        } else {
            self.fail(NarProblem::Expected { expected, found })
        }
    }

    fn file(&mut self, name: &[u8], visitor: &mut impl Visitor) -> Result<(), NarError> {
        let mut tag = self.tag()?;
        let executable = tag == b"executable";
        if executable {
            self.expect("")?;
            tag = self.tag()?;
        }
        if tag != b"contents" {
            return self.fail(NarProblem::Expected {
                expected: "contents",
                found: tag,
            });
        }
        let size = self.length()?;
        let limit = i64::MAX.unsigned_abs();
        if size > limit {
            return self.fail(NarProblem::TooLong { len: size, limit });
        }
        let mut contents = Contents {
            reader: self,
            left: size,
            failure: None,
        };
        let result = visitor.file(name, executable, size, &mut contents);
        if let Some(failure) = contents.failure {
            return Err(failure);
        }
        result.map_err(NarError::Visitor)?;
        io::copy(&mut contents, &mut io::sink())
            .map_err(|e| contents.failure.take().unwrap_or(NarError::Read(e)))?;
        self.pad(size)?;
        self.expect(")")
    }

    fn end(&mut self) -> Result<(), NarError> {
        let mut one = [0];
        loop {
            return match self.stream.read(&mut one) {
                Ok(0) => Ok(()),
                Ok(_) => self.fail(NarProblem::TrailingBytes),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => Err(NarError::Read(e)),
            };
        }
    }
}

/// The bytes of one file, as the visitor sees them.
struct Contents<'a, R> {
    reader: &'a mut Reader<R>,
    left: u64,
    // Kept apart from what the visitor makes of it, so that the caller learns which side failed.
    failure: Option<NarError>,
}

impl<R: Read> Read for Contents<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let end = buf.len().min(most);
        let buf = &mut buf[..end];
        if buf.is_empty() {
            return Ok(0);
        }
        match self.reader.stream.read(buf) {
            Ok(0) => {
                self.failure = self.reader.fail::<()>(NarProblem::Truncated).err();
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Ok(n) => {
                self.left -= n as u64;
                self.reader.offset += n as u64;
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => {
                let copy = io::Error::new(e.kind(), e.to_string());
                self.failure = Some(NarError::Read(e));
                Err(copy)
            }
        }
    }
}
