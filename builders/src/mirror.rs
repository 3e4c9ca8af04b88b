//! What a mirror has: a Nix binary cache, asked for one path at a time.

use std::io::{self, Cursor, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use sos_formats::deb::Codec;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::narinfo::{self, Compression, NarInfo};
use sos_formats::store_path::{StoreDir, StorePath};
use sos_store::{Ingested, Store};

use crate::debian::codec;
use crate::fetch::{Download as _, Fetcher};

/// More than this of a compressed archive is not taken into memory.
const MAX_FILE_BYTES: u64 = 4 << 30;

/// A key whose signatures are believed.
#[derive(Clone, Debug)]
pub struct TrustedKey {
    name: String,
    key: VerifyingKey,
}

impl TrustedKey {
    /// Reads `NAME:BASE64`, as Nix writes public keys.
    ///
    /// # Errors
    /// `trust-bad-key` when it is none.
    pub fn parse(text: &str) -> Result<Self, Box<Diagnostic>> {
        let bad = || {
            Box::new(
                Diagnostic::error(
                    "trust-bad-key",
                    Class::Usage,
                    format!("`{text}` is not a public key"),
                )
                .note("a key is `NAME:` and 32 bytes in base64"),
            )
        };
        let (name, encoded) = text.split_once(':').ok_or_else(bad)?;
        let bytes = STANDARD.decode(encoded).ok();
        let bytes: [u8; 32] = bytes.and_then(|b| b.try_into().ok()).ok_or_else(bad)?;
        let key = VerifyingKey::from_bytes(&bytes).ok().ok_or_else(bad)?;
        Ok(Self {
            name: name.to_owned(),
            key,
        })
    }

    /// Tells whether this key signed a text.
    fn signed(&self, signature: &narinfo::Signature, text: &str) -> bool {
        let bytes = STANDARD.decode(&signature.base64).ok();
        let Some(bytes) = bytes.and_then(|b| <[u8; 64]>::try_from(b).ok()) else {
            return false;
        };
        signature.key == self.name
            && self
                .key
                .verify_strict(text.as_bytes(), &Signature::from_bytes(&bytes))
                .is_ok()
    }
}

/// A binary cache.
pub struct Mirror {
    url: String,
    fetcher: Fetcher,
    keys: Vec<TrustedKey>,
}

impl Mirror {
    /// Makes a client of the cache at `url` (`https`, `http` or `file`). With keys, only what one of them signed is believed.
    #[must_use]
    pub fn new(url: &str, fetcher: Fetcher, keys: Vec<TrustedKey>) -> Self {
        Self {
            url: url.trim_end_matches('/').to_owned(),
            fetcher,
            keys,
        }
    }

    /// Asks what the cache says of a path.
    ///
    /// # Errors
    /// When it does not have it or does not answer, and when what it says is malformed, of another path, or not signed.
    pub fn info(&self, dir: &StoreDir, path: &StorePath) -> Result<NarInfo, Box<Diagnostic>> {
        let url = format!("{}/{}.narinfo", self.url, path.hash_str());
        let limit = narinfo::MAX_LEN as u64;
        let bytes = self.fetcher.bytes(&[url], limit, None)?;
        let info = NarInfo::parse(&bytes, dir).map_err(|e| {
            self.problem(
                "mirror-bad-narinfo",
                format!("what it says of `{}` is malformed: {e}", path.name()),
            )
        })?;
        if info.path != *path {
            let (asked, told) = (path.absolute(dir), info.path.absolute(dir));
            return Err(self.problem(
                "mirror-bad-narinfo",
                format!("asked for `{asked}`, it speaks of `{told}`"),
            ));
        }
        if !self.keys.is_empty() {
            let text = info.fingerprint(dir);
            let good = info
                .signatures
                .iter()
                .any(|signature| self.keys.iter().any(|key| key.signed(signature, &text)));
            if !good {
                let found: Vec<&str> = info.signatures.iter().map(|s| s.key.as_str()).collect();
                let keys: Vec<&str> = self.keys.iter().map(|k| k.name.as_str()).collect();
                let found = if found.is_empty() {
                    "none".to_owned()
                } else {
                    found.join(", ")
                };
                return Err(Box::new(
                    Diagnostic::error(
                        "trust-unsigned",
                        Class::Fetch,
                        format!(
                            "{} offers `{}` without a good signature from a trusted key",
                            self.url,
                            path.name()
                        ),
                    )
                    .note(format!(
                        "signatures found: {found}; trusted keys: {}",
                        keys.join(", ")
                    )),
                ));
            }
        }
        Ok(info)
    }

    /// Asks which path the cache has for an output of a content-addressed derivation, by the hash that
    /// [`sos_engine::Engine::realisation_hash`] gives; none when it has none, or does not answer.
    ///
    /// # Errors
    /// When what it says is malformed.
    pub fn realisation(
        &self,
        hash: &str,
        output: &str,
    ) -> Result<Option<StorePath>, Box<Diagnostic>> {
        let url = format!("{}/realisations/sha256:{hash}!{output}.doi", self.url);
        let limit = narinfo::MAX_LEN as u64;
        let Ok(bytes) = self.fetcher.bytes(&[url], limit, None) else {
            return Ok(None);
        };
        let path = serde_json::from_slice::<serde_json::Value>(&bytes)
            .ok()
            .and_then(|json| StorePath::from_base(json["outPath"].as_str()?).ok());
        path.map(Some).ok_or_else(|| {
            self.problem(
                "mirror-bad-realisation",
                "what it says of the result of a derivation is malformed".to_owned(),
            )
        })
    }

    /// Fetches the archive of a path and unpacks it to a private place; nothing is registered.
    ///
    /// # Errors
    /// When it cannot be fetched, is malformed, or is not what the cache says.
    pub fn nar(&self, store: &Store, info: &NarInfo) -> Result<Ingested, Box<Diagnostic>> {
        let url = format!("{}/{}", self.url, info.url);
        let limit = info.file_size.unwrap_or(MAX_FILE_BYTES).min(MAX_FILE_BYTES);
        let bytes = self.fetcher.bytes(&[url], limit, None)?;
        let codec = match info.compression {
            Compression::None => Codec::Plain,
            Compression::Bzip2 => Codec::Bzip2,
            Compression::Gzip => Codec::Gzip,
            Compression::Xz => Codec::Xz,
            Compression::Zstd => Codec::Zstd,
        };
        let failed = |e: &dyn std::fmt::Display| {
            self.problem(
                "mirror-bad-archive",
                format!("its archive of `{}` cannot be read: {e}", info.path.name()),
            )
        };
        let mut reader = codec::decoder(codec, Cursor::new(bytes)).map_err(|e| failed(&e))?;
        let ingested = store
            .ingest_nar(&mut reader, info.nar_size)
            .map_err(|e| failed(&e))?;
        let more = reader.read(&mut [0]).unwrap_or(1);
        if more > 0 {
            return Err(failed(&io::Error::other("bytes after its end")));
        }
        if ingested.nar_sha256 != info.nar_hash || ingested.nar_size != info.nar_size {
            return Err(self.problem(
                "mirror-wrong-archive",
                format!(
                    "its archive of `{}` is not the one that it describes: expected sha256:{}, found sha256:{}",
                    info.path.name(),
                    info.nar_hash,
                    ingested.nar_sha256
                ),
            ));
        }
        Ok(ingested)
    }

    fn problem(&self, code: &'static str, message: impl std::fmt::Display) -> Box<Diagnostic> {
        Box::new(Diagnostic::error(
            code,
            Class::Fetch,
            format!("{}: {message}", self.url),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_none_are_refused() {
        for text in ["", "name", "name:AAAA", "name:%%%"] {
            assert_eq!(TrustedKey::parse(text).unwrap_err().code, "trust-bad-key");
        }
    }
}
