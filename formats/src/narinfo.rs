//! `<hash>.narinfo`: what a binary cache says of a store path.
//!
//! Signed are the path, the hash and the size of its archive, and its references; not signed are where the archive is and how
//! it is compressed.

use std::collections::BTreeSet;

use crate::hash::{Hash, HashAlgo, Sha256};
use crate::store_path::{StoreDir, StorePath};

/// The most bytes of a document that are looked at: the longest lists of references of real caches are a tenth of it.
pub const MAX_LEN: usize = 1 << 20;
/// The most references.
pub const MAX_REFERENCES: usize = 20_000;
/// The most signatures.
pub const MAX_SIGNATURES: usize = 64;

/// How an address begins that is of a kind that Nix does not have, and where it stands: Nix refuses a document whose `CA` it does not understand, and
/// skips a key that it does not know.
pub const OWN_CA: &str = "fixed:tree:";
const OWN_CA_KEY: &str = "SosCA";

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// bzip2, also what no word means.
    Bzip2,
    /// gzip.
    Gzip,
    /// xz.
    Xz,
    /// Zstandard.
    Zstd,
}

/// A signature: the name of the key, and 64 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The name of the key that made it.
    pub key: String,
    /// The signature in base64, as it was written.
    pub base64: String,
}

/// What a cache says of a store path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarInfo {
    /// The path.
    pub path: StorePath,
    /// Where the archive is, relative to the cache.
    pub url: String,
    /// How it is compressed.
    pub compression: Compression,
    /// The hash of the compressed file.
    pub file_hash: Option<Hash>,
    /// The size of the compressed file.
    pub file_size: Option<u64>,
    /// The hash of the archive.
    pub nar_hash: Sha256,
    /// The size of the archive, not zero.
    pub nar_size: u64,
    /// What it refers to.
    pub references: BTreeSet<StorePath>,
    /// What built it.
    pub deriver: Option<StorePath>,
    /// Who signed it.
    pub signatures: Vec<Signature>,
    /// By what content it is addressed.
    pub ca: Option<String>,
}

/// Why a document is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NarInfoError {
    /// Longer than any real one.
    #[error("longer than {MAX_LEN} bytes")]
    TooLong,
    /// Not UTF-8.
    #[error("not text")]
    NotText,
    /// The last line has no end, so the document may have been cut.
    #[error("the last line does not end")]
    Cut,
    /// A line without a colon and a blank.
    #[error("line {0} is not `Key: value`")]
    NoKey(usize),
    /// A key that may stand once stands twice.
    #[error("line {1} gives `{0}` again")]
    Twice(&'static str, usize),
    /// A key that must be there is not.
    #[error("no `{0}`")]
    Missing(&'static str),
    /// A value that cannot be understood.
    #[error("line {1}: `{0}` has a value that is none")]
    Bad(&'static str, usize),
}

impl Compression {
    /// Returns the word of the document.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Bzip2 => "bzip2",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }

    /// Returns the end of the name of an archive, behind `.nar`.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Bzip2 => ".bz2",
            Self::Gzip => ".gz",
            Self::Xz => ".xz",
            Self::Zstd => ".zst",
        }
    }
}

impl Signature {
    /// Reads `NAME:BASE64`; none when it has no name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (key, base64) = text.split_once(':').filter(|(key, _)| !key.is_empty())?;
        Some(Self {
            key: key.to_owned(),
            base64: base64.to_owned(),
        })
    }
}

impl std::fmt::Display for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.key, self.base64)
    }
}

impl NarInfo {
    /// Writes the document, in the order in which Nix does.
    #[must_use]
    pub fn to_text(&self, dir: &StoreDir) -> String {
        let mut text = String::new();
        let mut line = |key: &str, value: &str| {
            text.push_str(key);
            text.push_str(": ");
            text.push_str(value);
            text.push('\n');
        };
        line("StorePath", &self.path.absolute(dir));
        line("URL", &self.url);
        line("Compression", self.compression.as_str());
        if let Some(hash) = &self.file_hash {
            line(
                "FileHash",
                &format!("{}:{}", hash.algo().as_str(), hash.to_nix32()),
            );
        }
        if let Some(size) = self.file_size {
            line("FileSize", &size.to_string());
        }
        let hash = Hash::from(self.nar_hash).to_nix32();
        line("NarHash", &format!("sha256:{hash}"));
        line("NarSize", &self.nar_size.to_string());
        let references: Vec<&str> = self.references.iter().map(StorePath::as_str).collect();
        line("References", &references.join(" "));
        if let Some(deriver) = &self.deriver {
            line("Deriver", deriver.as_str());
        }
        for signature in &self.signatures {
            line("Sig", &signature.to_string());
        }
        if let Some(ca) = &self.ca {
            let own = ca.starts_with(OWN_CA);
            line(if own { OWN_CA_KEY } else { "CA" }, ca);
        }
        text
    }

    /// Reads a document; keys that are not known are skipped.
    ///
    /// # Errors
    /// What is wrong with it, and in which line.
    pub fn parse(bytes: &[u8], dir: &StoreDir) -> Result<Self, NarInfoError> {
        if bytes.len() > MAX_LEN {
            return Err(NarInfoError::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|_invalid| NarInfoError::NotText)?;
        if !text.ends_with('\n') {
            return Err(NarInfoError::Cut);
        }
        let mut fields = Fields::default();
        for (at, line) in text.lines().enumerate() {
            fields.line(dir, line, at + 1)?;
        }
        Ok(Self {
            path: fields.path.ok_or(NarInfoError::Missing("StorePath"))?,
            url: fields.url.ok_or(NarInfoError::Missing("URL"))?,
            compression: fields.compression.unwrap_or(Compression::Bzip2),
            file_hash: fields.file_hash,
            file_size: fields.file_size,
            nar_hash: fields.nar_hash.ok_or(NarInfoError::Missing("NarHash"))?,
            nar_size: fields.nar_size.ok_or(NarInfoError::Missing("NarSize"))?,
            references: fields.references.unwrap_or_default(),
            deriver: fields.deriver,
            signatures: fields.signatures,
            ca: fields.ca,
        })
    }

    /// Returns the text that is signed.
    #[must_use]
    pub fn fingerprint(&self, dir: &StoreDir) -> String {
        let references: Vec<String> = self.references.iter().map(|r| r.absolute(dir)).collect();
        format!(
            "1;{};sha256:{};{};{}",
            self.path.absolute(dir),
            Hash::from(self.nar_hash).to_nix32(),
            self.nar_size,
            references.join(",")
        )
    }
}

#[derive(Default)]
struct Fields {
    path: Option<StorePath>,
    url: Option<String>,
    compression: Option<Compression>,
    file_hash: Option<Hash>,
    file_size: Option<u64>,
    nar_hash: Option<Sha256>,
    nar_size: Option<u64>,
    references: Option<BTreeSet<StorePath>>,
    deriver: Option<StorePath>,
    signatures: Vec<Signature>,
    ca: Option<String>,
}

impl Fields {
    fn line(&mut self, dir: &StoreDir, line: &str, at: usize) -> Result<(), NarInfoError> {
        let (key, value) = line.split_once(": ").ok_or(NarInfoError::NoKey(at))?;
        let bad = |key: &'static str| NarInfoError::Bad(key, at);
        let base = |key: &'static str, text: &str| {
            StorePath::from_base(text).map_err(|_malformed| bad(key))
        };
        let hash = |key: &'static str| Hash::parse_any(value, None).map_err(|_malformed| bad(key));
        let size = |key: &'static str| {
            let number = value.parse::<u64>().map_err(|_malformed| bad(key))?;
            if number == 0 {
                Err(bad(key))
            } else {
                Ok(number)
            }
        };
        match key {
            "StorePath" => {
                let path = StorePath::from_absolute(dir, value);
                let path = path.map_err(|_malformed| bad("StorePath"))?;
                once(&mut self.path, path, "StorePath", at)?;
            }
            "URL" => {
                if value.is_empty() || value.contains(char::is_control) {
                    return Err(bad("URL"));
                }
                once(&mut self.url, value.to_owned(), "URL", at)?;
            }
            "Compression" => {
                let compression = match value {
                    "none" => Compression::None,
                    "bzip2" | "" => Compression::Bzip2,
                    "gzip" => Compression::Gzip,
                    "xz" => Compression::Xz,
                    "zstd" => Compression::Zstd,
                    _ => return Err(bad("Compression")),
                };
                once(&mut self.compression, compression, "Compression", at)?;
            }
            "FileHash" => once(&mut self.file_hash, hash("FileHash")?, "FileHash", at)?,
            "FileSize" => once(&mut self.file_size, size("FileSize")?, "FileSize", at)?,
            "NarHash" => {
                let hash = hash("NarHash")?;
                let sha256 = (hash.algo() == HashAlgo::Sha256).then(|| hash.as_sha256());
                let sha256 = sha256.flatten().ok_or_else(|| bad("NarHash"))?;
                once(&mut self.nar_hash, sha256, "NarHash", at)?;
            }
            "NarSize" => once(&mut self.nar_size, size("NarSize")?, "NarSize", at)?,
            "References" => {
                let mut all = BTreeSet::new();
                for word in value.split(' ').filter(|word| !word.is_empty()) {
                    if all.len() >= MAX_REFERENCES {
                        return Err(bad("References"));
                    }
                    all.insert(base("References", word)?);
                }
                once(&mut self.references, all, "References", at)?;
            }
            "Deriver" if value != "unknown-deriver" => {
                once(&mut self.deriver, base("Deriver", value)?, "Deriver", at)?;
            }
            "Sig" => {
                let signature = Signature::parse(value).ok_or_else(|| bad("Sig"))?;
                if self.signatures.len() >= MAX_SIGNATURES {
                    return Err(bad("Sig"));
                }
                self.signatures.push(signature);
            }
            "CA" if !value.is_empty() => once(&mut self.ca, value.to_owned(), "CA", at)?,
            OWN_CA_KEY if value.starts_with(OWN_CA) => {
                once(&mut self.ca, value.to_owned(), OWN_CA_KEY, at)?;
            }
            _ => {}
        }
        Ok(())
    }
}

fn once<T>(
    slot: &mut Option<T>,
    value: T,
    key: &'static str,
    at: usize,
) -> Result<(), NarInfoError> {
    if slot.is_some() {
        return Err(NarInfoError::Twice(key, at));
    }
    *slot = Some(value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "StorePath: /nix/store/11111111111111111111111111111111-x\nURL: nar/1.nar.xz\nCompression: xz\nFileHash: sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s\nFileSize: 9\nNarHash: sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s\nNarSize: 112\nReferences: 22222222222222222222222222222222-b 11111111111111111111111111111111-x\nDeriver: 33333333333333333333333333333333-x.drv\nSig: k-1:AAAA\nSig: k-2:BBBB\nNew: thing\n";

    fn parse(text: &str) -> Result<NarInfo, NarInfoError> {
        NarInfo::parse(text.as_bytes(), &StoreDir::default())
    }

    #[test]
    fn every_field_is_read() {
        let info = parse(TEXT).unwrap();
        assert_eq!(info.compression, Compression::Xz);
        assert_eq!(info.nar_size, 112);
        assert_eq!(info.references.len(), 2);
        assert_eq!(info.signatures[1].key, "k-2");
        assert_eq!(
            info.fingerprint(&StoreDir::default()),
            "1;/nix/store/11111111111111111111111111111111-x;sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s;112;/nix/store/11111111111111111111111111111111-x,/nix/store/22222222222222222222222222222222-b"
        );
        let bare = TEXT.replace("Compression: xz\n", "");
        assert_eq!(parse(&bare).unwrap().compression, Compression::Bzip2);
        let empty = TEXT.replace(
            "References: 22222222222222222222222222222222-b 11111111111111111111111111111111-x",
            "References: ",
        );
        assert!(parse(&empty).unwrap().references.is_empty());
    }

    #[test]
    fn what_is_written_is_what_was_read() {
        let info = parse(TEXT).unwrap();
        let written = info.to_text(&StoreDir::default());
        // Sorted, as Nix writes them, and without what nobody knows.
        let references =
            "References: 11111111111111111111111111111111-x 22222222222222222222222222222222-b";
        let expected = TEXT.replace(
            "References: 22222222222222222222222222222222-b 11111111111111111111111111111111-x",
            references,
        );
        assert_eq!(written, expected.replace("New: thing\n", ""));
        assert_eq!(parse(&written).unwrap(), info);
        let bare = NarInfo {
            file_hash: None,
            file_size: None,
            references: BTreeSet::new(),
            deriver: None,
            signatures: Vec::new(),
            ca: Some("text:sha256:x".to_owned()),
            ..info
        };
        let written = bare.to_text(&StoreDir::default());
        assert!(written.contains("\nReferences: \nCA: text:sha256:x\n"));
        assert_eq!(parse(&written).unwrap(), bare);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let wrong = |from: &str, to: &str| parse(&TEXT.replace(from, to)).unwrap_err();
        assert_eq!(parse(TEXT.trim_end()).unwrap_err(), NarInfoError::Cut);
        assert_eq!(
            wrong("URL: nar/1.nar.xz\n", ""),
            NarInfoError::Missing("URL")
        );
        assert_eq!(
            wrong("NarSize: 112", "NarSize: 0"),
            NarInfoError::Bad("NarSize", 7)
        );
        assert_eq!(wrong("New: thing", "<html>"), NarInfoError::NoKey(12));
        assert_eq!(
            wrong("Compression: xz", "Compression: z"),
            NarInfoError::Bad("Compression", 3)
        );
        assert_eq!(
            wrong("New: thing", "URL: again"),
            NarInfoError::Twice("URL", 12)
        );
        assert_eq!(
            wrong("Sig: k-1:AAAA", "Sig: AAAA"),
            NarInfoError::Bad("Sig", 10)
        );
        assert_eq!(
            NarInfo::parse(&vec![b'a'; MAX_LEN + 1], &StoreDir::default()).unwrap_err(),
            NarInfoError::TooLong
        );
        assert_eq!(
            NarInfo::parse(b"\xff\n", &StoreDir::default()).unwrap_err(),
            NarInfoError::NotText
        );
    }
}
