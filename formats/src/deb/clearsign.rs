//! The framing of clear-signed text (RFC 9580, section 7), as `InRelease` uses it.
//!
//! Everything outside the signed part is refused rather than skipped: what is not signed must never be read.

use std::borrow::Cow;

const BEGIN: &str = "-----BEGIN PGP SIGNED MESSAGE-----";
const SIGNATURE: &str = "-----BEGIN PGP SIGNATURE-----";
const END: &str = "-----END PGP SIGNATURE-----";

/// Why a clear-signed text is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClearSignError {
    /// The bytes are not UTF-8.
    #[error("the signed text is not UTF-8")]
    Encoding,
    /// The first line does not begin a signed message.
    #[error("line {line}: expected `-----BEGIN PGP SIGNED MESSAGE-----`")]
    Begin {
        /// The line, counted from 1.
        line: usize,
    },
    /// An armour header other than `Hash`.
    #[error("line {line}: expected a `Hash` header or an empty line")]
    Header {
        /// The line, counted from 1.
        line: usize,
    },
    /// A line in the text begins with a dash that is not escaped.
    #[error("line {line}: a line that begins with `-` is not escaped")]
    Dash {
        /// The line, counted from 1.
        line: usize,
    },
    /// The text ends before the signature does.
    #[error("the signature is missing or cut off")]
    Truncated,
    /// Something follows the signature.
    #[error("line {line}: text after the signature")]
    Trailing {
        /// The line, counted from 1.
        line: usize,
    },
}

/// A clear-signed text, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClearSigned<'a> {
    /// The text with dash-escapes undone: the only part that may be trusted once the signature verifies.
    pub text: String,
    /// The armoured signature, from its first to its last line.
    pub signature: &'a str,
    /// The digest names of the `Hash` headers.
    pub hashes: Vec<&'a str>,
}

impl<'a> ClearSigned<'a> {
    /// Says whether bytes begin as a clear-signed text does.
    pub fn is_clear_signed(bytes: &[u8]) -> bool {
        bytes.starts_with(BEGIN.as_bytes())
    }

    /// Takes a file apart.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ClearSignError> {
        let whole = std::str::from_utf8(bytes).map_err(|_err| ClearSignError::Encoding)?;
        let mut lines = Lines {
            rest: whole,
            line: 0,
        };
        if lines.next_trimmed() != Some(BEGIN) {
            return Err(ClearSignError::Begin { line: 1 });
        }
        let mut hashes = Vec::new();
        loop {
            match lines.next_trimmed().ok_or(ClearSignError::Truncated)? {
                "" => break,
                header => {
                    let names = header
                        .strip_prefix("Hash: ")
                        .ok_or(ClearSignError::Header { line: lines.line })?;
                    hashes.extend(names.split(',').map(str::trim));
                }
            }
        }
        let mut text = String::with_capacity(lines.rest.len());
        let signature_start = loop {
            let at = lines.rest;
            let line = lines.next_line().ok_or(ClearSignError::Truncated)?;
            if line.trim_end() == SIGNATURE {
                break at;
            }
            match line.strip_prefix('-') {
                None => text.push_str(line),
                Some(escaped) => text.push_str(
                    escaped
                        .strip_prefix(' ')
                        .ok_or(ClearSignError::Dash { line: lines.line })?,
                ),
            }
            text.push('\n');
        };
        while lines.next_trimmed().ok_or(ClearSignError::Truncated)? != END {}
        let signature = &signature_start[..signature_start.len() - lines.rest.len()];
        if !lines.rest.trim_ascii().is_empty() {
            return Err(ClearSignError::Trailing {
                line: lines.line + 1,
            });
        }
        Ok(Self {
            text,
            signature,
            hashes,
        })
    }

    /// Gives the bytes that the signature covers: no trailing blanks, CRLF between lines, no last line end.
    pub fn canonical(&self) -> Vec<u8> {
        canonical(self.text.strip_suffix('\n').unwrap_or(&self.text))
    }
}

fn canonical(text: &str) -> Vec<u8> {
    let lines = text
        .split('\n')
        .map(|line| Cow::Borrowed(line.trim_end_matches([' ', '\t', '\r'])));
    lines.collect::<Vec<_>>().join("\r\n").into_bytes()
}

struct Lines<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Lines<'a> {
    fn next_line(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
        self.rest = rest;
        self.line += 1;
        Some(line)
    }

    fn next_trimmed(&mut self) -> Option<&'a str> {
        self.next_line().map(str::trim_end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256, SHA512\n\nA: 1 \n- -dash\n\n-----BEGIN PGP SIGNATURE-----\n\nabc\n-----END PGP SIGNATURE-----\n";

    #[test]
    fn parts_and_canonical_form() {
        let got = ClearSigned::parse(GOOD.as_bytes()).expect("valid");
        assert_eq!(got.hashes, ["SHA256", "SHA512"]);
        assert_eq!(got.text, "A: 1 \n-dash\n\n");
        assert_eq!(got.canonical(), b"A: 1\r\n-dash\r\n");
        assert!(got.signature.starts_with(SIGNATURE) && got.signature.ends_with("-----\n"));
    }

    #[track_caller]
    fn fails(text: &str, expected: &ClearSignError) {
        assert_eq!(ClearSigned::parse(text.as_bytes()).as_ref(), Err(expected));
    }

    #[test]
    fn content_outside_the_signed_part_is_refused() {
        fails(
            &format!("Suite: evil\n{GOOD}"),
            &ClearSignError::Begin { line: 1 },
        );
        fails(&format!("\n{GOOD}"), &ClearSignError::Begin { line: 1 });
        fails(
            &format!("{GOOD}Suite: evil\n"),
            &ClearSignError::Trailing { line: 11 },
        );
        fails(
            &format!("{GOOD}{GOOD}"),
            &ClearSignError::Trailing { line: 11 },
        );
        fails(
            &GOOD.replace("Hash: SHA256, SHA512", "Suite: evil"),
            &ClearSignError::Header { line: 2 },
        );
        fails(
            &GOOD.replace("- -dash", "-dash"),
            &ClearSignError::Dash { line: 5 },
        );
        fails(
            &GOOD.replace("- -dash", BEGIN),
            &ClearSignError::Dash { line: 5 },
        );
        fails(
            &GOOD.replace("-----END", "----END"),
            &ClearSignError::Truncated,
        );
        fails(
            GOOD.split("-----BEGIN PGP SIGNATURE")
                .next()
                .expect("first"),
            &ClearSignError::Truncated,
        );
    }
}
