//! Results that were built elsewhere: what mirrors of the store have is taken instead of built, if it can be believed.
//!
//! A path is believed when a trusted key signed what the mirror says of it, or when its name follows from its content. What
//! cannot be had, or is not what it should be, is built: no mirror makes a build fail.

mod before;
mod mirrors;

use sos_formats::derivation::{Derivation, Method};
use sos_formats::diagnostic::Diagnostic;
use sos_formats::hash::Hash;
use sos_formats::narinfo::NarInfo;
use sos_formats::store_path::{StoreDir, StorePath, make_fixed};
use sos_store::{Ingested, Store, tree_id};

use crate::attributes::Attributes;
use crate::hashing::{HashingError, hash_flat, hash_modulo, hash_plain};
use crate::rewrite::digits;

pub(crate) use before::Taken;
pub(crate) use mirrors::{Mirrors, Ordered, Watch};

/// Who is told how far a transfer is.
pub trait Transfer: Sync {
    /// Bytes that have come, and how many there are if that is known.
    fn progress(&self, done: u64, total: Option<u64>);
    /// Tells whether nobody waits any more.
    fn is_cancelled(&self) -> bool;
}

/// A mirror of a store. Its methods block, and are called from several threads.
pub trait Substituter: Send + Sync {
    /// Returns its address, for people.
    fn url(&self) -> &str;

    /// Looks whether it is a mirror of stores with this directory.
    ///
    /// # Errors
    /// When it is none, or does not answer.
    fn about(&self, dir: &StoreDir) -> Result<(), Box<Diagnostic>>;

    /// Asks what it has under a path; none when it lacks it.
    ///
    /// # Errors
    /// When it does not answer, or what it says is malformed or of another path; codes of the latter begin with `mirror-`.
    fn info(&self, dir: &StoreDir, path: &StorePath) -> Result<Option<NarInfo>, Box<Diagnostic>>;

    /// Tells whether a trusted key signed what it says.
    fn is_signed(&self, dir: &StoreDir, info: &NarInfo) -> bool;

    /// The problem that none did.
    fn unsigned(&self, info: &NarInfo) -> Box<Diagnostic>;

    /// Asks which path it has for an output of a content-addressed derivation, by the hash that
    /// [`crate::Engine::realisation_hash`] gives. Only an answer that a trusted key signed is one.
    ///
    /// # Errors
    /// As [`Self::info`].
    fn realisation(&self, hash: &str, output: &str) -> Result<Option<StorePath>, Box<Diagnostic>>;

    /// Fetches an archive and unpacks it to a private place of the store. Its hash and size are those that `info` says.
    ///
    /// # Errors
    /// When it cannot be fetched, is malformed, or is not what `info` says.
    fn nar(
        &self,
        store: &Store,
        info: &NarInfo,
        transfer: &dyn Transfer,
    ) -> Result<Ingested, Box<Diagnostic>>;
}

/// How the name of a path follows from its content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Claim {
    method: Method,
    hash: Hash,
    /// The content holds its own name.
    own: bool,
}

/// Returns how the name of a path follows from its content, if a mirror says so and the name does.
fn claim(dir: &StoreDir, info: &NarInfo) -> Option<Claim> {
    let ca = info.ca.as_deref()?;
    let (method, hash) = match ca.strip_prefix("text:") {
        Some(hash) => (Method::Text, hash),
        None => {
            let fixed = ca.strip_prefix("fixed:")?;
            let methods = [Method::Recursive, Method::Tree].into_iter();
            let mut methods = methods.filter_map(|m| Some((m, fixed.strip_prefix(m.prefix())?)));
            methods.next().unwrap_or((Method::Flat, fixed))
        }
    };
    let hash = Hash::parse_any(hash, None).ok()?;
    let mut references = info.references.clone();
    let own = references.remove(&info.path);
    let path = make_fixed(dir, info.path.name(), method, &hash, &references, own).ok()?;
    (path == info.path).then_some(Claim { method, hash, own })
}

impl Claim {
    /// Tells whether content is what the name says.
    fn holds(&self, path: &StorePath, ingested: &Ingested) -> Result<bool, HashingError> {
        let (place, algo) = (ingested.staged_path(), self.hash.algo());
        let found = match self.method {
            Method::Recursive if self.own => {
                hash_modulo(place, self.method, algo, digits(path.hash_str()))
            }
            Method::Recursive if self.hash.as_sha256().is_some() => {
                return Ok(self.hash.as_sha256() == ingested.nar_sha256);
            }
            Method::Tree => return Ok(tree_id(place).is_ok_and(|id| Hash::from(id) == self.hash)),
            Method::Recursive => hash_plain(place, algo),
            _ => hash_flat(place, algo),
        }?;
        Ok(found == self.hash)
    }
}

/// Tells whether a derivation lets its results come from elsewhere.
pub(crate) fn may_come_from_elsewhere(drv: &Derivation) -> bool {
    const NAME: &str = "allowSubstitutes";
    // What is wrong with the attributes is told when it is built.
    let Ok(attributes) = Attributes::of(drv) else {
        return false;
    };
    match attributes.structured() {
        Some(map) => map.get(NAME) != Some(&serde_json::Value::Bool(false)),
        None => drv
            .env
            .get(NAME.as_bytes())
            .is_none_or(|value| value == b"1"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sos_formats::hash::{HashAlgo, Sha256};
    use sos_formats::narinfo::Compression;

    use super::*;

    fn info(path: StorePath, references: BTreeSet<StorePath>, ca: &str) -> NarInfo {
        NarInfo {
            path,
            url: "nar/x.nar".to_owned(),
            compression: Compression::None,
            file_hash: None,
            file_size: None,
            nar_hash: Sha256::of(b"x"),
            nar_size: 1,
            references,
            deriver: None,
            signatures: Vec::new(),
            ca: Some(ca.to_owned()),
        }
    }

    #[test]
    fn a_claim_counts_only_if_the_name_follows() {
        let dir = StoreDir::default();
        let hash = Hash::of(HashAlgo::Sha256, b"content");
        let ca = format!("fixed:r:sha256:{}", hash.to_nix32());
        let none = BTreeSet::new();
        let path = make_fixed(&dir, "x", Method::Recursive, &hash, &none, false).unwrap();
        let good = claim(&dir, &info(path.clone(), none.clone(), &ca));
        assert_eq!(
            good.map(|c| (c.method, c.own)),
            Some((Method::Recursive, false))
        );
        // Another reference gives another name, and so does a reference to itself.
        for reference in [path.clone(), path_of("y")] {
            let refers = info(path.clone(), [reference].into(), &ca);
            assert_eq!(claim(&dir, &refers), None);
        }
        for ca in ["", "fixed:r:sha256:x", "text:sha1:0", "r:sha256:0"] {
            assert_eq!(claim(&dir, &info(path.clone(), none.clone(), ca)), None);
        }
        let own = make_fixed(&dir, "x", Method::Recursive, &hash, &none, true).unwrap();
        let good = claim(&dir, &info(own.clone(), [own].into(), &ca));
        assert_eq!(good.map(|c| c.own), Some(true));
        let flat = make_fixed(&dir, "x", Method::Flat, &hash, &none, false).unwrap();
        let ca = format!("fixed:sha256:{}", hash.to_nix32());
        assert!(claim(&dir, &info(flat, none, &ca)).is_some());
    }

    fn path_of(name: &str) -> StorePath {
        StorePath::new([7; 20], name).unwrap()
    }

    #[test]
    fn a_derivation_may_forbid_it() {
        let with = |name: &str, value: &str| Derivation {
            env: [(name.into(), value.into())].into(),
            ..Derivation::default()
        };
        assert!(may_come_from_elsewhere(&Derivation::default()));
        assert!(may_come_from_elsewhere(&with("allowSubstitutes", "1")));
        assert!(!may_come_from_elsewhere(&with("allowSubstitutes", "")));
        let structured = with("__json", r#"{"allowSubstitutes":false}"#);
        assert!(!may_come_from_elsewhere(&structured));
        assert!(may_come_from_elsewhere(&with("__json", "{}")));
    }
}
