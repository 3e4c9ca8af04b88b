//! A binary cache as the engine asks it before it builds.

use serde_json::Value;
use sos_engine::{Substituter, Transfer};
use sos_formats::diagnostic::Diagnostic;
use sos_formats::narinfo::{self, NarInfo};
use sos_formats::store_path::{StoreDir, StorePath};
use sos_store::{Ingested, Store};

use super::{Mirror, is_gone};
use crate::fetch::{Download as _, Observer};

impl Mirror {
    /// Fetches a small file of the cache; none when it has none of that name.
    fn small(&self, name: &str) -> Result<Option<Vec<u8>>, Box<Diagnostic>> {
        let url = format!("{}/{name}", self.url);
        match self.fetcher.bytes(&[url], narinfo::MAX_LEN as u64, None) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(why) if is_gone(&why) => Ok(None),
            Err(why) => Err(why),
        }
    }

    /// Which path a signed record names.
    fn realised(&self, bytes: &[u8], id: &str) -> Option<Option<StorePath>> {
        let mut record: Value = serde_json::from_slice(bytes).ok()?;
        let record_of = record.get("id")?.as_str()? == id;
        let path = StorePath::from_base(record.get("outPath")?.as_str()?).ok()?;
        let signatures = record.as_object_mut()?.remove("signatures");
        let signatures: Vec<narinfo::Signature> = match signatures {
            Some(Value::Array(all)) => all
                .iter()
                .filter_map(|one| narinfo::Signature::parse(one.as_str()?))
                .take(narinfo::MAX_SIGNATURES)
                .collect(),
            _ => Vec::new(),
        };
        // Signed is the record without its signatures, with its keys in order and no blanks.
        record.sort_all_objects();
        let is_signed = record_of && self.trusts_text(&signatures, &record.to_string());
        Some(is_signed.then_some(path))
    }
}

/// Passes on what a transfer tells.
struct Told<'a>(&'a dyn Transfer);

impl Observer for Told<'_> {
    fn progress(&self, done: u64, total: Option<u64>) {
        self.0.progress(done, total);
    }

    fn note(&self, text: &str) {
        tracing::debug!(text, "fetch from a mirror");
    }

    fn cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

impl Substituter for Mirror {
    fn url(&self) -> &str {
        &self.url
    }

    fn about(&self, dir: &StoreDir) -> Result<(), Box<Diagnostic>> {
        let Some(about) = self.small("nix-cache-info")? else {
            return Err(self.problem(
                "mirror-none",
                "it is no binary cache: it has no `nix-cache-info`",
            ));
        };
        let about = String::from_utf8_lossy(&about);
        let theirs = about
            .lines()
            .find_map(|line| line.strip_prefix("StoreDir:"))
            .map_or(dir.as_str(), str::trim);
        if theirs == dir.as_str() {
            return Ok(());
        }
        Err(self.problem(
            "mirror-other-store",
            format!("it is for stores at `{theirs}`, and this one is at `{dir}`"),
        ))
    }

    fn info(&self, dir: &StoreDir, path: &StorePath) -> Result<Option<NarInfo>, Box<Diagnostic>> {
        let name = format!("{}.narinfo", path.hash_str());
        match self.small(&name)? {
            Some(bytes) => self.parsed(dir, path, &bytes).map(Some),
            None => Ok(None),
        }
    }

    fn is_signed(&self, dir: &StoreDir, info: &NarInfo) -> bool {
        self.trusts(dir, info)
    }

    fn unsigned(&self, info: &NarInfo) -> Box<Diagnostic> {
        let why = self.untrusted(info);
        Box::new(why.help(
            "if you know its key, add it to `trusted-keys` of the configuration; until then all of this is built here",
        ))
    }

    fn realisation(&self, hash: &str, output: &str) -> Result<Option<StorePath>, Box<Diagnostic>> {
        let id = format!("sha256:{hash}!{output}");
        let Some(bytes) = self.small(&format!("realisations/{id}.doi"))? else {
            return Ok(None);
        };
        self.realised(&bytes, &id).ok_or_else(|| {
            self.problem(
                "mirror-bad-realisation",
                "what it says of the result of a derivation is malformed",
            )
        })
    }

    fn nar(
        &self,
        store: &Store,
        info: &NarInfo,
        transfer: &dyn Transfer,
    ) -> Result<Ingested, Box<Diagnostic>> {
        match self.nar_observed(store, info, &Told(transfer)) {
            // It answers, and what it promised is not there.
            Err(why) if is_gone(&why) => Err(self.unreadable(info, &"the mirror does not have it")),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::TrustedKey;
    use super::*;
    use crate::fetch::Fetcher;
    use crate::mirrors::Mirrors;

    /// Written by `nix copy --to file://…` of Nix 2.8.0, which built with `secret-key-files`, with a key that it made.
    const KEY: &str = "cache-1:NgPxofKDADi7mR1eBaeLt/fGDMyqV28otImTp/nZcMU=";
    const ID: &str = "sha256:5b16780561b7100801dcc4d03b1f2f1ac75835d1ef0a26d02511a1c55028ca34!out";
    const RECORD: &str = r#"{"dependentRealisations":{},"id":"sha256:5b16780561b7100801dcc4d03b1f2f1ac75835d1ef0a26d02511a1c55028ca34!out","outPath":"20358y39a0qp8drpx2nk3zmq2fd76qhd-ca","signatures":["cache-1:kGIeDRhrHVeTgeLFd05Kk4p4zDzMCWGA3LLav0cj7dd/a7duWZS7mphBo/1kcx5wTLTMZHhwk9zUqYzj5vsJAw=="]}"#;

    fn mirror(key: &str) -> Mirror {
        let keys = vec![TrustedKey::parse(key).unwrap()];
        Mirror::new("http://x", Fetcher::new(Mirrors::default(), true), keys)
    }

    #[test]
    fn records_that_nix_signed_are_believed_and_no_others() {
        let here = mirror(KEY);
        let path = here.realised(RECORD.as_bytes(), ID).unwrap();
        assert!(path.is_some_and(|path| RECORD.contains(path.as_str())));
        // Of another derivation, by another key, with another path, without a signature.
        assert_eq!(here.realised(RECORD.as_bytes(), "sha256:0!out"), Some(None));
        let other = mirror(&KEY.replace("cache-1", "other-1"));
        assert_eq!(other.realised(RECORD.as_bytes(), ID), Some(None));
        let lie = RECORD.replace("-ca\"", "-cb\"");
        assert_ne!(lie, RECORD);
        assert_eq!(here.realised(lie.as_bytes(), ID), Some(None));
        let bare = format!(r#"{{"id":"{ID}","outPath":"{}-x"}}"#, "1".repeat(32));
        assert_eq!(here.realised(bare.as_bytes(), ID), Some(None));
        for none in ["", "[]", r#"{"id":"x","outPath":7}"#] {
            assert_eq!(here.realised(none.as_bytes(), ID), None);
        }
    }
}
