//! Signatures of commits and summaries, made when a repository is written outside the store.
//!
//! Keys come from files and go nowhere else. A signature has the time of what it signs, so that it is the same whenever it is made.
//!
//! Source: `ostree-sign-ed25519.c` and `ostree-repo.c` of libostree; RFC 9580 for OpenPGP, RFC 8410 for Ed25519 in PKCS #8.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::Signer as _;
use pgp::composed::{Deserializable as _, SignedSecretKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{SignatureConfig, SignatureType, Subpacket, SubpacketData};
use pgp::ser::Serialize as _;
use pgp::types::{Password, SigningKey, Timestamp};
use sos_engine::BuilderError;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::gvariant::{self, Variant};
use sos_formats::ostree::{read_byte_arrays, read_dict};

/// The key under which OpenPGP signatures are kept.
const GPG: &str = "ostree.gpgsigs";
/// The key under which Ed25519 signatures are kept.
const ED25519: &str = "ostree.sign.ed25519";
/// The largest file with a key that is read, in bytes.
const MAX_KEY_BYTES: u64 = 1 << 20;
/// What a PKCS #8 file of an Ed25519 key begins with, before its 32 bytes.
const PKCS8_ED25519: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// How 32 bytes become a key.
const HALF_A_KEY: &str = "name the file with the secret key; of a seed alone, `(echo SEED | base64 -d; echo PUBLIC | base64 -d) | base64 -w0 > FILE` makes the 64 bytes";

/// Keys that sign.
#[derive(Default)]
pub struct Signers {
    gpg: Vec<SignedSecretKey>,
    ed25519: Vec<ed25519_dalek::SigningKey>,
}

impl std::fmt::Debug for Signers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Nothing of a key gets into a log.
        let (gpg, ed25519) = (self.gpg.len(), self.ed25519.len());
        write!(f, "Signers {{ gpg: {gpg}, ed25519: {ed25519} }}")
    }
}

impl Signers {
    /// Whether nothing will be signed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.gpg.is_empty() && self.ed25519.is_empty()
    }

    /// Adds an OpenPGP secret key, armoured or not, without a passphrase.
    ///
    /// # Errors
    /// `Diagnostic` when the file holds no such key.
    pub fn add_gpg(&mut self, file: &Path) -> Result<(), BuilderError> {
        let bytes = read(file)?;
        let help = "export one with `gpg --export-secret-keys KEY > FILE`";
        // What the parser says of a file that it does not understand has the file in it: nothing of it is shown.
        let none = || {
            let message = format!("no OpenPGP secret key in `{}`", file.display());
            BuilderError::from(Diagnostic::error("export-key", Class::Usage, message).help(help))
        };
        let (mut keys, _headers) =
            SignedSecretKey::from_reader_many(bytes.as_slice()).map_err(|_content| none())?;
        let key = keys.next().and_then(Result::ok).ok_or_else(none)?;
        if signing(&key).is_locked() {
            return Err(unusable(
                file,
                "it is protected by a passphrase",
                "sign with a key of its own for this repository, without one, in a file that only you can read",
            ));
        }
        self.gpg.push(key);
        Ok(())
    }

    /// Adds an Ed25519 secret key: base 64 of 64 bytes (seed and public key) as libostree reads it, or PKCS #8 in PEM as
    /// `openssl genpkey` writes it. 32 bytes are no key: they would be a seed or a public key, and nobody can tell which.
    ///
    /// # Errors
    /// `Diagnostic` when the file holds no such key.
    pub fn add_ed25519(&mut self, file: &Path) -> Result<(), BuilderError> {
        let bytes = read(file)?;
        let help = "make one with `openssl genpkey -algorithm ed25519 -out FILE`";
        let text = String::from_utf8_lossy(&bytes);
        let pem = text.contains("-----BEGIN PRIVATE KEY-----");
        let body: String = text
            .lines()
            .filter(|line| !line.starts_with("-----"))
            .map(str::trim)
            .collect();
        let decoded = STANDARD
            .decode(body)
            .map_err(|_content| unusable(file, "it is not base 64", help))?;
        let seed = if pem {
            decoded.strip_prefix(&PKCS8_ED25519)
        } else {
            match decoded.len() {
                // Taken for a seed, a public key would make one whose secret everybody has.
                32 => {
                    return Err(unusable(
                        file,
                        "its 32 bytes may be a public key; a secret key is 64 bytes in base 64, the seed and its public key",
                        HALF_A_KEY,
                    ));
                }
                64 => decoded.get(..32),
                _ => None,
            }
        };
        let Some(seed) = seed.and_then(|seed| <[u8; 32]>::try_from(seed).ok()) else {
            return Err(unusable(file, "it is no Ed25519 secret key", help));
        };
        let key = ed25519_dalek::SigningKey::from_bytes(&seed);
        if let Some(public) = decoded.get(32..64).filter(|_| !pem)
            && public != key.verifying_key().as_bytes()
        {
            return Err(unusable(
                file,
                "its public half does not belong to its secret half",
                help,
            ));
        }
        self.ed25519.push(key);
        Ok(())
    }

    /// Signs bytes, and writes the signatures into an `a{sv}`: that which is there, if any, keeps all else.
    ///
    /// # Errors
    /// When what is there cannot be read, or a key refuses.
    pub(super) fn sign(
        &self,
        bytes: &[u8],
        time_secs: u64,
        there: Option<&[u8]>,
    ) -> Result<Vec<u8>, BuilderError> {
        let wrong = |e| BuilderError::failed(format!("the signatures that are there: {e}"));
        let mut entries = there
            .map(read_dict)
            .transpose()
            .map_err(wrong)?
            .unwrap_or_default();
        let mut add = |key: &str, new: Vec<Vec<u8>>| -> Result<(), BuilderError> {
            if new.is_empty() {
                return Ok(());
            }
            let old = entries.get(key).map(|boxed| read_byte_arrays(boxed));
            let mut all = old.transpose().map_err(wrong)?.unwrap_or_default();
            for one in new {
                if !all.contains(&one) {
                    all.push(one);
                }
            }
            entries.insert(key.to_owned(), Variant::ByteArrays(all).boxed());
            Ok(())
        };
        let keys = self.gpg.iter();
        add(
            GPG,
            keys.map(|key| gpg_signature(key, bytes, time_secs))
                .collect::<Result<_, _>>()?,
        )?;
        let keys = self.ed25519.iter();
        add(
            ED25519,
            keys.map(|key| key.sign(bytes).to_bytes().to_vec())
                .collect(),
        )?;
        Ok(gvariant::dict_of_boxed(&entries))
    }
}

/// The part of a key that signs.
enum Part<'a> {
    Primary(&'a pgp::packet::SecretKey),
    Subkey(&'a pgp::packet::SecretSubkey),
}

impl Part<'_> {
    fn is_locked(&self) -> bool {
        match self {
            Self::Primary(key) => key.secret_params().is_encrypted(),
            Self::Subkey(key) => key.secret_params().is_encrypted(),
        }
    }
}

/// Finds it: a subkey that may sign, as gpg prefers them, else the primary key.
fn signing(key: &SignedSecretKey) -> Part<'_> {
    let subkey = key
        .secret_subkeys
        .iter()
        .find(|subkey| subkey.signatures.iter().any(|s| s.key_flags().sign()));
    if let Some(subkey) = subkey {
        return Part::Subkey(&subkey.key);
    }
    Part::Primary(&key.primary_key)
}

fn gpg_signature(
    key: &SignedSecretKey,
    bytes: &[u8],
    time_secs: u64,
) -> Result<Vec<u8>, BuilderError> {
    let signature = match signing(key) {
        Part::Primary(key) => made_by(key, bytes, time_secs),
        Part::Subkey(key) => made_by(key, bytes, time_secs),
    };
    signature.map_err(|e| BuilderError::failed(format!("cannot sign: {e}")))
}

fn made_by(key: &impl SigningKey, bytes: &[u8], time_secs: u64) -> pgp::errors::Result<Vec<u8>> {
    // Nobody believes a signature that is older than its key.
    let time = u32::try_from(time_secs)
        .unwrap_or(u32::MAX)
        .max(key.created_at().as_secs());
    let mut config = SignatureConfig::v4(
        SignatureType::Binary,
        key.algorithm(),
        HashAlgorithm::Sha512,
    );
    config.hashed_subpackets = vec![
        Subpacket::regular(SubpacketData::IssuerFingerprint(key.fingerprint()))?,
        Subpacket::regular(SubpacketData::SignatureCreationTime(Timestamp::from_secs(
            time,
        )))?,
    ];
    config.unhashed_subpackets = vec![Subpacket::regular(SubpacketData::IssuerKeyId(
        key.legacy_key_id(),
    ))?];
    let signature = config.sign(key, &Password::empty(), bytes)?;
    // With the header of its packet, as a file of gpg has it.
    pgp::composed::DetachedSignature::new(signature).to_bytes()
}

fn read(file: &Path) -> Result<Vec<u8>, BuilderError> {
    let failed = |e: std::io::Error| {
        let message = format!("cannot read the key `{}`: {e}", file.display());
        BuilderError::from(
            Diagnostic::error("export-key", Class::Usage, message)
                .help("name a file with a secret key"),
        )
    };
    let size = fs::metadata(file).map_err(failed)?.len();
    if size > MAX_KEY_BYTES {
        return Err(unusable(
            file,
            "it is larger than 1 MiB",
            "name a file with one key",
        ));
    }
    fs::read(file).map_err(failed)
}

fn unusable(file: &Path, why: &str, help: &str) -> BuilderError {
    let message = format!("the key `{}` cannot sign: {why}", file.display());
    Diagnostic::error("export-key", Class::Usage, message)
        .help(help)
        .into()
}
