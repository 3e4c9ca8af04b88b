//! What a mirror has: a Nix binary cache, asked for one path at a time.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use sos_formats::deb::Codec;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::{HashAlgo, Hasher, Sha256};
use sos_formats::narinfo::{self, Compression, NarInfo};
use sos_formats::store_path::{StoreDir, StorePath};
use sos_store::{Ingested, Store};

mod substituter;

use crate::debian::codec;
use crate::fetch::{
    Download as _, FetchError, Fetcher, FileSink, Observer, Placed, Quiet, Request, unwritable,
};

/// A larger compressed archive is not fetched.
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
        let bytes = self
            .fetcher
            .bytes(&[url], limit, None)
            .map_err(|why| self.not_there(dir, path, *why))?;
        let info = self.parsed(dir, path, &bytes)?;
        if !self.keys.is_empty() && !self.trusts(dir, &info) {
            return Err(self.untrusted(&info));
        }
        Ok(info)
    }

    /// Reads what the cache says of a path.
    fn parsed(
        &self,
        dir: &StoreDir,
        path: &StorePath,
        bytes: &[u8],
    ) -> Result<NarInfo, Box<Diagnostic>> {
        let info = NarInfo::parse(bytes, dir).map_err(|e| {
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
        Ok(info)
    }

    /// Tells whether a trusted key signed what the cache says of a path.
    fn trusts(&self, dir: &StoreDir, info: &NarInfo) -> bool {
        self.trusts_text(&info.signatures, &info.fingerprint(dir))
    }

    fn trusts_text(&self, signatures: &[narinfo::Signature], text: &str) -> bool {
        signatures
            .iter()
            .any(|signature| self.keys.iter().any(|key| key.signed(signature, text)))
    }

    fn untrusted(&self, info: &NarInfo) -> Box<Diagnostic> {
        let listed = |names: Vec<&str>| match names.as_slice() {
            [] => "none".to_owned(),
            names => names.join(", "),
        };
        let found = info.signatures.iter().map(|s| s.key.as_str()).collect();
        let keys = self.keys.iter().map(|k| k.name.as_str()).collect();
        Box::new(
            Diagnostic::error(
                "trust-unsigned",
                Class::Fetch,
                format!(
                    "{} offers `{}` without a good signature from a trusted key",
                    self.url,
                    info.path.name()
                ),
            )
            .note(format!(
                "signatures found: {}; trusted keys: {}",
                listed(found),
                listed(keys)
            )),
        )
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

    /// Says why the cache said nothing of a path: it lacks it, or there is no cache.
    fn not_there(&self, dir: &StoreDir, path: &StorePath, why: Diagnostic) -> Box<Diagnostic> {
        if why.code != "fetch-failed" || !is_gone(&why) {
            return Box::new(Diagnostic {
                helps: vec![
                    "the mirror may answer later; `curl -I URL/nix-cache-info` tries it".to_owned(),
                ],
                ..why
            });
        }
        let about = format!("{}/nix-cache-info", self.url);
        let limit = narinfo::MAX_LEN as u64;
        match self.fetcher.bytes(&[about], limit, None) {
            Ok(_) => Box::new(
                Diagnostic::error(
                    "verify-not-there",
                    Class::Fetch,
                    format!("{} does not have `{}`", self.url, path.absolute(dir)),
                )
                .help("ask a mirror that has it, or build it twice here with `--rounds 1`"),
            ),
            Err(why) => {
                let missing = Diagnostic::error(
                    "fetch-failed",
                    Class::Fetch,
                    format!("there is no binary cache at {}", self.url),
                );
                let missing = why.notes.into_iter().fold(missing, Diagnostic::note);
                Box::new(missing.help(
                    "correct the address: a binary cache has the file `nix-cache-info` at its top",
                ))
            }
        }
    }

    /// Fetches the archive of a path and unpacks it to a private place; nothing is registered.
    ///
    /// # Errors
    /// When it cannot be fetched, is malformed, or is not what the cache says.
    pub fn nar(&self, store: &Store, info: &NarInfo) -> Result<Ingested, Box<Diagnostic>> {
        self.nar_observed(store, info, &Quiet)
    }

    fn nar_observed(
        &self,
        store: &Store,
        info: &NarInfo,
        observer: &dyn Observer,
    ) -> Result<Ingested, Box<Diagnostic>> {
        let packed = self.packed(store, info, observer)?;
        let failed = |e: &dyn std::fmt::Display| self.unreadable(info, e);
        let mut reader = decoder(info, packed).map_err(|e| failed(&e))?;
        let ingested = store
            .ingest_nar(&mut reader, info.nar_size)
            .map_err(|e| failed(&e))?;
        let more = reader.read(&mut [0]).unwrap_or(1);
        if more > 0 {
            return Err(failed(&io::Error::other("bytes after its end")));
        }
        let found = ingested.nar_sha256;
        let found = found.ok_or_else(|| failed(&"it was not hashed"))?;
        self.right_hash(info, found, ingested.nar_size)?;
        Ok(ingested)
    }

    /// Fetches the archive of a path, reads it to its end and keeps nothing: what the cache says of it is true, or an error.
    ///
    /// # Errors
    /// As [`Mirror::nar`].
    pub fn check(&self, store: &Store, info: &NarInfo) -> Result<(), Box<Diagnostic>> {
        let packed = self.packed(store, info, &Quiet)?;
        let failed = |e: &dyn std::fmt::Display| self.unreadable(info, e);
        let reader = decoder(info, packed).map_err(|e| failed(&e))?;
        let mut hasher = Hasher::new(HashAlgo::Sha256);
        // One byte more shows that it is too long, whatever it would unpack to.
        let size = io::copy(
            &mut reader.take(info.nar_size.saturating_add(1)),
            &mut hasher,
        )
        .map_err(|e| failed(&e))?;
        if size > info.nar_size {
            return Err(failed(&format_args!(
                "longer than its {} bytes",
                info.nar_size
            )));
        }
        let found = hasher.finish().as_sha256();
        let found = found.ok_or_else(|| failed(&"it has no SHA-256"))?;
        self.right_hash(info, found, size)
    }

    /// The archive as it is transferred, in a file without a name.
    fn packed(
        &self,
        store: &Store,
        info: &NarInfo,
        observer: &dyn Observer,
    ) -> Result<File, Box<Diagnostic>> {
        let urls = [format!("{}/{}", self.url, info.url)];
        let name = info.path.name();
        let request = Request {
            name,
            urls: &urls,
            hash: None,
            written: None,
            size: info.file_size,
            limit: info.file_size.unwrap_or(MAX_FILE_BYTES).min(MAX_FILE_BYTES),
            fixed_output: false,
            offline: false,
        };
        let dir = store
            .temp_dir("nar")
            .map_err(|e| Box::new(Diagnostic::from(e)))?;
        let place = dir.path().join("packed");
        let failed = |e: io::Error| Box::new(unwritable(name, &Placed::error(&place, e)));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&place)
            .map_err(failed)?;
        // The open file is all that is needed of it.
        drop(dir);
        let mut sink = FileSink::new(file, &place);
        match self.fetcher.fetch(&request, &mut sink, observer) {
            Ok(_) => {}
            Err(FetchError::Failed(mut why)) => {
                if why.class != Class::Machine {
                    why.helps = vec![
                        "the mirror says that it has this archive: tell who keeps it".to_owned(),
                    ];
                }
                return Err(why);
            }
            Err(FetchError::Cancelled) => {
                return Err(Box::new(Diagnostic::error(
                    "fetch-failed",
                    Class::Interrupted,
                    format!("fetching `{name}` was interrupted"),
                )));
            }
        }
        let mut file = sink.into_file();
        file.rewind().map_err(failed)?;
        Ok(file)
    }

    fn unreadable(&self, info: &NarInfo, why: &dyn std::fmt::Display) -> Box<Diagnostic> {
        self.problem(
            "mirror-bad-archive",
            format!(
                "its archive of `{}` cannot be read: {why}",
                info.path.name()
            ),
        )
    }

    fn right_hash(&self, info: &NarInfo, found: Sha256, size: u64) -> Result<(), Box<Diagnostic>> {
        if found == info.nar_hash && size == info.nar_size {
            return Ok(());
        }
        Err(self.problem(
            "mirror-wrong-archive",
            format!(
                "its archive of `{}` is not the one that it describes: expected sha256:{}, found sha256:{found}",
                info.path.name(),
                info.nar_hash,
            ),
        ))
    }

    fn problem(&self, code: &'static str, message: impl std::fmt::Display) -> Box<Diagnostic> {
        Box::new(Diagnostic::error(
            code,
            Class::Fetch,
            format!("{}: {message}", self.url),
        ))
    }
}

/// Whether a server answered that it has no such file.
fn is_gone(why: &Diagnostic) -> bool {
    // Stores of objects say 403 for what they lack.
    let signs = [
        "answered 403",
        "answered 404",
        "answered 410",
        "No such file",
    ];
    why.notes
        .iter()
        .any(|note| signs.iter().any(|sign| note.contains(sign)))
}

/// Streams the archive that a file holds.
fn decoder(info: &NarInfo, packed: File) -> io::Result<Box<dyn Read + Send>> {
    let codec = match info.compression {
        Compression::None => Codec::Plain,
        Compression::Bzip2 => Codec::Bzip2,
        Compression::Gzip => Codec::Gzip,
        Compression::Xz => Codec::Xz,
        Compression::Zstd => Codec::Zstd,
    };
    codec::decoder(codec, BufReader::new(packed))
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
