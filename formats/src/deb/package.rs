//! The members of a `.deb`: which come in which order, and how they are compressed (deb(5)).

use std::io::{self, Read};

use super::ar::{ArError, ArReader, Member};

/// How a member of a package is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    Plain,
    /// gzip, suffix `.gz`.
    Gzip,
    /// xz, suffix `.xz`.
    Xz,
    /// bzip2, suffix `.bz2`.
    Bzip2,
    /// The old LZMA format, suffix `.lzma`.
    Lzma,
    /// Zstandard, suffix `.zst`.
    Zstd,
}

impl Codec {
    /// Finds the codec of a file name's suffix after `stem`, such as `.xz` in `data.tar.xz`.
    pub fn from_suffix(suffix: &str) -> Option<Self> {
        Some(match suffix {
            "" => Self::Plain,
            ".gz" => Self::Gzip,
            ".xz" => Self::Xz,
            ".bz2" => Self::Bzip2,
            ".lzma" => Self::Lzma,
            ".zst" => Self::Zstd,
            _ => return None,
        })
    }
}

/// Why a `.deb` is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DebError {
    /// The container is malformed.
    #[error(transparent)]
    Ar(#[from] ArError),
    /// A member is not the one that must stand there.
    #[error("expected member `{expected}`, found {}", found.as_ref().map_or_else(|| "the end".into(), |name| format!("`{name}`")))]
    Member {
        /// What must stand there.
        expected: &'static str,
        /// What does.
        found: Option<String>,
    },
    /// The format version is not 2.x.
    #[error("unsupported format version {found:?}, expected 2.x")]
    Version {
        /// The text of `debian-binary`.
        found: String,
    },
    /// A member is compressed in a way that nothing here reads.
    #[error("member `{name}` has an unknown compression")]
    Codec {
        /// The member.
        name: String,
    },
    /// The underlying reader failed.
    #[error("cannot read the package")]
    Io(#[from] io::Error),
}

/// Reads a `.deb` in one pass: first the control member, then the data member.
///
/// Reading from it gives the still compressed bytes of the member entered last.
#[derive(Debug)]
pub struct DebReader<R> {
    ar: ArReader<R>,
}

impl<R: Read> DebReader<R> {
    /// Reads the format version.
    pub fn new(inner: R) -> Result<Self, DebError> {
        let mut ar = ArReader::new(inner)?;
        let found = ar.next_member()?;
        if found.as_ref().is_none_or(|m| m.name != "debian-binary") {
            return Err(DebError::Member {
                expected: "debian-binary",
                found: found.map(|m| m.name),
            });
        }
        let mut text = Vec::new();
        ar.by_ref().take(64).read_to_end(&mut text)?;
        // The minor number may grow, and further lines may follow; both are ignored, as deb(5) asks.
        if !text.starts_with(b"2.") || !text.contains(&b'\n') {
            return Err(DebError::Version {
                found: String::from_utf8_lossy(&text).into_owned(),
            });
        }
        Ok(Self { ar })
    }

    /// Enters the control member.
    pub fn control(&mut self) -> Result<Codec, DebError> {
        self.enter("control.tar")
    }

    /// Enters the data member, skipping the control member if it was not read.
    pub fn data(&mut self) -> Result<Codec, DebError> {
        loop {
            match self.enter("data.tar") {
                Err(DebError::Member {
                    found: Some(name), ..
                }) if name.starts_with("control.tar") => {}
                other => return other,
            }
        }
    }

    /// Skips what is left and checks that nothing but ignorable members follows.
    pub fn finish(mut self) -> Result<(), DebError> {
        match self.next_relevant()? {
            None => Ok(()),
            // Members after data.tar are reserved for signatures and the like: dpkg ignores them too.
            Some(member)
                if member.name.starts_with("data.tar")
                    || member.name.starts_with("control.tar") =>
            {
                Err(DebError::Member {
                    expected: "the end",
                    found: Some(member.name),
                })
            }
            Some(_) => Ok(()),
        }
    }

    fn enter(&mut self, stem: &'static str) -> Result<Codec, DebError> {
        let found = self.next_relevant()?;
        let Some(member) = found else {
            return Err(DebError::Member {
                expected: stem,
                found: None,
            });
        };
        let Some(suffix) = member.name.strip_prefix(stem) else {
            return Err(DebError::Member {
                expected: stem,
                found: Some(member.name),
            });
        };
        Codec::from_suffix(suffix).ok_or(DebError::Codec {
            name: member.name.clone(),
        })
    }

    fn next_relevant(&mut self) -> Result<Option<Member>, ArError> {
        loop {
            match self.ar.next_member()? {
                Some(member) if member.name.starts_with('_') => {}
                other => return Ok(other),
            }
        }
    }
}

impl<R: Read> Read for DebReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.ar.read(buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deb(members: &[(&str, &str)]) -> Vec<u8> {
        let mut out = b"!<arch>\n".to_vec();
        for (name, data) in members {
            out.extend(
                format!(
                    "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n{data}",
                    0,
                    0,
                    0,
                    "100644",
                    data.len()
                )
                .bytes(),
            );
            if data.len() % 2 == 1 {
                out.push(b'\n');
            }
        }
        out
    }

    #[test]
    fn the_data_member_is_found_past_control_and_ignored_members() {
        let bytes = deb(&[
            ("debian-binary", "2.0\n"),
            ("_gpgbuilder", "x"),
            ("control.tar.gz", "c"),
            ("data.tar.zst", "payload"),
        ]);
        let mut reader = DebReader::new(&bytes[..]).expect("version");
        assert_eq!(reader.data().expect("data"), Codec::Zstd);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        assert_eq!(text, "payload");
        reader.finish().expect("nothing follows");
    }

    #[test]
    fn wrong_order_version_or_codec_is_refused() {
        let fails = |members: &[(&str, &str)]| {
            let bytes = deb(members);
            DebReader::new(&bytes[..])
                .and_then(|mut r| r.control().and_then(|_| r.data()))
                .expect_err("must fail")
                .to_string()
        };
        assert!(fails(&[("control.tar", "")]).contains("debian-binary"));
        assert!(fails(&[("debian-binary", "3.0\n")]).contains("3.0"));
        assert!(fails(&[("debian-binary", "2.0\n"), ("data.tar", "")]).contains("control.tar"));
        assert!(fails(&[("debian-binary", "2.0\n"), ("control.tar", "")]).contains("the end"));
        assert!(
            fails(&[
                ("debian-binary", "2.0\n"),
                ("control.tar", ""),
                ("data.tar.zip", "")
            ])
            .contains("unknown compression")
        );
    }
}
