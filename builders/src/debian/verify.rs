//! Signatures of release files: which keys are trusted, which of them signed, and what to say when none did.

use std::collections::BTreeSet;

use pgp::composed::{Deserializable, DetachedSignature, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType};
use pgp::ser::Serialize;
use pgp::types::{KeyDetails, VerifyingKey};
use sos_formats::deb::ClearSigned;
use sos_formats::deb::release::format_date;
use sos_formats::diagnostic::{Class, Diagnostic};

/// The keys of the Debian archive; `seeds/debian/README.md` says where the file is from.
const DEBIAN_KEYS: &[u8] = include_bytes!("../../../seeds/debian/archive-keyring.pgp");

/// The keys that may sign the release files of an archive.
#[derive(Debug, Clone)]
pub struct Keyring {
    name: String,
    keys: Vec<SignedPublicKey>,
}

/// Text whose signature was good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The signed text, and nothing else.
    pub text: String,
    /// The fingerprints of the primary keys that signed, sorted, in capital hexadecimal.
    pub keys: Vec<String>,
}

/// Why one signature does not count.
enum Rejected {
    UnknownKey,
    Expired(i64),
    Revoked,
    WeakHash(HashAlgorithm),
    NotForSigning,
    Bad,
}

impl Keyring {
    /// Gives the keys of the Debian archive that this program carries.
    pub fn debian() -> Result<Self, Box<Diagnostic>> {
        Self::parse("debian", DEBIAN_KEYS)
    }

    /// Reads a keyring, binary or armoured, with any number of keys.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self, Box<Diagnostic>> {
        let fail = |why: String| {
            let message = format!("cannot read the keyring `{name}`: {why}");
            Box::new(
                Diagnostic::error("deb-bad-keyring", Class::Recipe, message)
                    .help("export one with `gpg --export KEY > FILE`"),
            )
        };
        let keys = parse_keys(bytes).map_err(|err| fail(err.to_string()))?;
        if keys.is_empty() {
            return Err(fail("it holds no public key".into()));
        }
        Ok(Self {
            name: name.to_owned(),
            keys,
        })
    }

    /// Lists the fingerprints of the primary keys, in capital hexadecimal.
    pub fn fingerprints(&self) -> Vec<String> {
        self.keys
            .iter()
            .map(|key| hex(key.primary_key.fingerprint().as_bytes()))
            .collect()
    }

    /// Verifies clear-signed bytes such as an `InRelease` file. `what` names them in messages.
    pub fn verify_clear_signed(
        &self,
        bytes: &[u8],
        now_secs: i64,
        what: &str,
    ) -> Result<Verified, Box<Diagnostic>> {
        let parts = ClearSigned::parse(bytes).map_err(|err| {
            let message = format!("`{what}` is not a signed release file: {err}");
            Box::new(Diagnostic::error(
                "deb-bad-signature",
                Class::Fetch,
                message,
            ))
        })?;
        let keys = self.verify(
            &parts.canonical(),
            parts.signature.as_bytes(),
            now_secs,
            what,
        )?;
        Ok(Verified {
            text: parts.text,
            keys,
        })
    }

    /// Verifies bytes such as a `Release` file against a detached signature.
    pub fn verify_detached(
        &self,
        bytes: &[u8],
        signature: &[u8],
        now_secs: i64,
        what: &str,
    ) -> Result<Verified, Box<Diagnostic>> {
        let keys = self.verify(bytes, signature, now_secs, what)?;
        let text = String::from_utf8(bytes.to_vec()).map_err(|_err| {
            Box::new(Diagnostic::error(
                "deb-bad-index",
                Class::Fetch,
                format!("`{what}` is not UTF-8"),
            ))
        })?;
        Ok(Verified { text, keys })
    }

    fn verify(
        &self,
        signed: &[u8],
        signature: &[u8],
        now_secs: i64,
        what: &str,
    ) -> Result<Vec<String>, Box<Diagnostic>> {
        let signatures = parse_signatures(signature).map_err(|err| {
            let message = format!("cannot read the signature of `{what}`: {err}");
            Box::new(Diagnostic::error(
                "deb-bad-signature",
                Class::Fetch,
                message,
            ))
        })?;
        let mut good = BTreeSet::new();
        let mut rejected = Vec::new();
        for signature in &signatures {
            match self.verify_one(signed, signature, now_secs) {
                Ok(fingerprint) => {
                    good.insert(fingerprint);
                }
                Err(why) => rejected.push((issuer(signature), why)),
            }
        }
        // One trusted key is enough: archives sign with the keys of several releases at once.
        if good.is_empty() {
            Err(Box::new(self.explain(what, &rejected)))
        } else {
            Ok(good.into_iter().collect())
        }
    }

    fn verify_one(
        &self,
        signed: &[u8],
        signature: &Signature,
        now_secs: i64,
    ) -> Result<String, Rejected> {
        let mut why = Rejected::UnknownKey;
        for key in &self.keys {
            let checked = if names_key(signature, &key.primary_key) {
                check_primary(key, now_secs)
                    .and_then(|()| check_data(signed, signature, &key.primary_key, now_secs))
            } else if let Some(subkey) = key
                .public_subkeys
                .iter()
                .find(|s| names_key(signature, &s.key))
            {
                let usable =
                    check_primary(key, now_secs).and_then(|()| check_subkey(key, subkey, now_secs));
                usable.and_then(|()| check_data(signed, signature, &subkey.key, now_secs))
            } else {
                continue;
            };
            match checked {
                Ok(()) => return Ok(hex(key.primary_key.fingerprint().as_bytes())),
                Err(reason) => why = reason,
            }
        }
        Err(why)
    }

    fn explain(&self, what: &str, rejected: &[(String, Rejected)]) -> Diagnostic {
        let only_unknown = rejected
            .iter()
            .all(|(_, why)| matches!(why, Rejected::UnknownKey));
        let message = if rejected.is_empty() {
            format!("`{what}` carries no signature")
        } else if only_unknown {
            format!(
                "`{what}` is not signed by a key of the keyring `{}`",
                self.name
            )
        } else {
            format!(
                "`{what}` has no good signature by a key of the keyring `{}`",
                self.name
            )
        };
        let mut diagnostic = Diagnostic::error("deb-bad-signature", Class::Fetch, message);
        for (key, why) in rejected {
            diagnostic = diagnostic.note(match why {
                Rejected::UnknownKey => format!("signed by {key}, which the keyring does not hold"),
                Rejected::Expired(when) => {
                    format!("signed by {key}, which expired on {}", format_date(*when))
                }
                Rejected::Revoked => format!("signed by {key}, which is revoked"),
                Rejected::WeakHash(hash) => {
                    format!("signed by {key} with {hash}, which is too weak")
                }
                Rejected::NotForSigning => format!("signed by {key}, which may not sign"),
                Rejected::Bad => format!(
                    "the signature by {key} does not match the text: it was changed after signing"
                ),
            });
        }
        let held = self.fingerprints().join(", ");
        diagnostic = diagnostic.note(format!("the keyring `{}` holds {held}", self.name));
        if only_unknown && !rejected.is_empty() {
            diagnostic = diagnostic.help("if you trust the signer, put its public key in a file and name it as `keyring` of the source");
        }
        diagnostic
    }
}

fn parse_keys(bytes: &[u8]) -> pgp::errors::Result<Vec<SignedPublicKey>> {
    let mut keys = Vec::new();
    for block in armour_blocks(bytes, "-----BEGIN PGP PUBLIC KEY BLOCK-----") {
        let (found, _headers) = SignedPublicKey::from_reader_many(block)?;
        for key in found {
            keys.push(key?);
        }
    }
    Ok(keys)
}

fn parse_signatures(bytes: &[u8]) -> pgp::errors::Result<Vec<Signature>> {
    let mut signatures = Vec::new();
    for block in armour_blocks(bytes, "-----BEGIN PGP SIGNATURE-----") {
        let (found, _headers) = DetachedSignature::from_reader_many(block)?;
        for signature in found {
            signatures.push(signature?.signature);
        }
    }
    Ok(signatures)
}

/// Cuts armoured text into its blocks, since people make keyrings with `cat`; anything else is one block.
fn armour_blocks<'a>(bytes: &'a [u8], begin: &str) -> Vec<&'a [u8]> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return vec![bytes];
    };
    let starts: Vec<usize> = text.match_indices(begin).map(|(at, _)| at).collect();
    if starts.is_empty() {
        return vec![bytes];
    }
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(start, end)| &bytes[*start..end])
        .collect()
}

fn names_key(signature: &Signature, key: &impl KeyDetails) -> bool {
    let fingerprints = signature.issuer_fingerprint();
    if fingerprints.is_empty() {
        return signature
            .issuer_key_id()
            .into_iter()
            .any(|id| *id == key.legacy_key_id());
    }
    fingerprints
        .into_iter()
        .any(|print| *print == key.fingerprint())
}

fn issuer(signature: &Signature) -> String {
    let print = signature
        .issuer_fingerprint()
        .first()
        .map(|print| hex(print.as_bytes()));
    let id = || signature.issuer_key_id().first().map(|id| hex(id.as_ref()));
    print.or_else(id).unwrap_or_else(|| "an unnamed key".into())
}

fn check_data(
    signed: &[u8],
    signature: &Signature,
    key: &impl VerifyingKey,
    now_secs: i64,
) -> Result<(), Rejected> {
    if !matches!(
        signature.typ(),
        Some(SignatureType::Binary | SignatureType::Text)
    ) {
        return Err(Rejected::Bad);
    }
    if let Some(hash) = signature.hash_alg().filter(|hash| is_weak(*hash)) {
        return Err(Rejected::WeakHash(hash));
    }
    signature
        .verify(key, signed)
        .map_err(|_err| Rejected::Bad)?;
    let lifetime = signature
        .signature_expiration_time()
        .map_or(0, |d| i64::from(d.as_secs()));
    let made = signature.created().map_or(0, |t| i64::from(t.as_secs()));
    match lifetime {
        0 => Ok(()),
        _ if made + lifetime > now_secs => Ok(()),
        _ => Err(Rejected::Expired(made + lifetime)),
    }
}

fn is_weak(hash: HashAlgorithm) -> bool {
    !matches!(
        hash,
        HashAlgorithm::Sha256
            | HashAlgorithm::Sha384
            | HashAlgorithm::Sha512
            | HashAlgorithm::Sha3_256
            | HashAlgorithm::Sha3_512
    )
}

fn check_primary(key: &SignedPublicKey, now_secs: i64) -> Result<(), Rejected> {
    let primary = &key.primary_key;
    let revoked = key.details.revocation_signatures.iter();
    if revoked
        .filter(|s| s.typ() == Some(SignatureType::KeyRevocation))
        .any(|s| s.verify_key(primary).is_ok())
    {
        return Err(Rejected::Revoked);
    }
    // The newest self-signature that verifies says how long the key lives.
    let users = key.details.users.iter();
    let on_users = users.flat_map(|user| {
        let certifies = |s: &&Signature| {
            s.is_certification()
                && s.verify_certification(primary, pgp::types::Tag::UserId, &user.id)
                    .is_ok()
        };
        user.signatures.iter().filter(certifies)
    });
    let direct = key
        .details
        .direct_signatures
        .iter()
        .filter(|s| s.verify_key(primary).is_ok());
    let newest = on_users
        .chain(direct)
        .max_by_key(|s| created_secs(s))
        .ok_or(Rejected::Bad)?;
    check_lifetime(primary, newest, now_secs)
}

fn check_subkey(
    key: &SignedPublicKey,
    subkey: &SignedPublicSubKey,
    now_secs: i64,
) -> Result<(), Rejected> {
    let primary = &key.primary_key;
    let valid = |s: &&Signature| s.verify_subkey_binding(primary, &subkey.key).is_ok();
    if subkey
        .signatures
        .iter()
        .filter(valid)
        .any(|s| s.typ() == Some(SignatureType::SubkeyRevocation))
    {
        return Err(Rejected::Revoked);
    }
    let bindings = subkey
        .signatures
        .iter()
        .filter(|s| s.typ() == Some(SignatureType::SubkeyBinding))
        .filter(valid);
    let newest = bindings
        .max_by_key(|s| created_secs(s))
        .ok_or(Rejected::Bad)?;
    // Without the signature back, anybody could claim another's signing key as a subkey.
    let back = newest
        .embedded_signature()
        .is_some_and(|s| s.verify_primary_key_binding(&subkey.key, primary).is_ok());
    if !newest.key_flags().sign() || !back {
        return Err(Rejected::NotForSigning);
    }
    check_lifetime(&subkey.key, newest, now_secs)
}

fn check_lifetime(
    key: &(impl KeyDetails + Serialize),
    binding: &Signature,
    now_secs: i64,
) -> Result<(), Rejected> {
    let lifetime = binding
        .key_expiration_time()
        .map_or(0, |d| i64::from(d.as_secs()));
    let until = i64::from(key.created_at().as_secs()) + lifetime;
    if lifetime == 0 || until > now_secs {
        Ok(())
    } else {
        Err(Rejected::Expired(until))
    }
}

fn created_secs(signature: &Signature) -> u32 {
    signature
        .created()
        .map_or(0, pgp::types::Timestamp::as_secs)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-20, when the fixtures were made.
    const NOW: i64 = 1_795_132_800;
    const GOOD: &[u8] = include_bytes!("fixtures/good.InRelease");
    const TWICE: &[u8] = include_bytes!("fixtures/twice.InRelease");
    const KEYS: &[u8] = include_bytes!("fixtures/keys.asc");

    fn keyring() -> Keyring {
        Keyring::parse("test", KEYS).expect("the fixture holds keys")
    }

    #[track_caller]
    fn fails(bytes: &[u8], now: i64, expected: &str) {
        let err = keyring()
            .verify_clear_signed(bytes, now, "x/InRelease")
            .expect_err("must fail");
        assert_eq!(err.code, "deb-bad-signature");
        let text = format!("{} {}", err.message, err.notes.join(" "));
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn one_good_key_is_enough() {
        let got = keyring().verify_clear_signed(GOOD, NOW, "x").expect("good");
        assert!(got.text.starts_with("Origin: Test\n"));
        assert_eq!(got.keys.len(), 1);
        // Signed by a key that is not in the ring, too.
        keyring()
            .verify_clear_signed(TWICE, NOW, "x")
            .expect("good");
    }

    #[test]
    fn a_changed_text_is_refused() {
        let text = String::from_utf8(GOOD.to_vec())
            .expect("text")
            .replace("Origin: Test", "Origin: Evil");
        fails(text.as_bytes(), NOW, "does not match the text");
    }

    #[test]
    fn keys_that_do_not_count_are_named() {
        fails(
            include_bytes!("fixtures/other.InRelease"),
            NOW,
            "which the keyring does not hold",
        );
        fails(
            include_bytes!("fixtures/expired.InRelease"),
            NOW,
            "which expired on 2020-",
        );
        fails(
            include_bytes!("fixtures/revoked.InRelease"),
            NOW,
            "which is revoked",
        );
        fails(include_bytes!("fixtures/sha1.InRelease"), NOW, "too weak");
        fails(GOOD, 4_000_000_000, "which expired on 2089-");
    }

    #[test]
    fn a_subkey_signs_for_its_primary() {
        let got = keyring()
            .verify_clear_signed(include_bytes!("fixtures/subkey.InRelease"), NOW, "x")
            .expect("good");
        assert!(keyring().fingerprints().contains(&got.keys[0]));
    }

    #[test]
    fn detached_signatures_verify() {
        let text = include_bytes!("fixtures/Release");
        let signature = include_bytes!("fixtures/Release.gpg");
        keyring()
            .verify_detached(text, signature, NOW, "x")
            .expect("good");
        let mut changed = text.to_vec();
        changed[0] = b'o';
        assert!(
            keyring()
                .verify_detached(&changed, signature, NOW, "x")
                .is_err()
        );
    }

    #[test]
    fn the_carried_keys_are_the_listed_ones() {
        let listed = include_str!("../../../seeds/debian/README.md");
        let keyring = Keyring::debian().expect("readable");
        assert_eq!(keyring.keys.len(), 9);
        for print in keyring.fingerprints() {
            assert!(
                listed.contains(&print),
                "{print} is not in seeds/debian/README.md"
            );
        }
        for key in &keyring.keys {
            assert!(
                check_primary(key, NOW).is_ok(),
                "a key does not verify itself"
            );
        }
    }

    #[test]
    fn no_keys_is_an_error() {
        assert_eq!(
            Keyring::parse("x", b"").expect_err("empty").code,
            "deb-bad-keyring"
        );
        assert_eq!(
            Keyring::parse("x", b"hello").expect_err("text").code,
            "deb-bad-keyring"
        );
    }
}
