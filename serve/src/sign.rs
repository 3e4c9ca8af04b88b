//! Signs what a binary cache says.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use sos_formats::narinfo::Signature;

use crate::error::{Result, ServeError};

/// A key that signs, in the form in which Nix keeps them: `NAME:BASE64` of a seed and its public key, 32 bytes each.
#[derive(Clone)]
pub struct SecretKey {
    name: String,
    key: SigningKey,
}

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretKey")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl SecretKey {
    /// Reads a key; blanks and ends of lines around it do not matter.
    ///
    /// # Errors
    /// [`ServeError::BadKey`] when it is none, or its two halves do not fit.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |what| ServeError::BadKey(what);
        let (name, encoded) = text
            .trim()
            .split_once(':')
            .ok_or_else(|| bad("it has no `:` behind the name of the key"))?;
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(bad("the key has no name"));
        }
        let bytes = STANDARD
            .decode(encoded)
            .map_err(|_malformed| bad("what stands behind the name is not base64"))?;
        let bytes: [u8; 64] = bytes
            .try_into()
            .map_err(|bytes: Vec<u8>| match bytes.len() {
                32 => bad("it has 32 bytes, as a public key has"),
                _ => bad("it does not have 64 bytes"),
            })?;
        let key = SigningKey::from_keypair_bytes(&bytes)
            .map_err(|_mismatch| bad("its public half is not that of its secret half"))?;
        Ok(Self {
            name: name.to_owned(),
            key,
        })
    }

    /// The name of the key.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The public key, as clients are told to trust it.
    #[must_use]
    pub fn public(&self) -> String {
        let bytes = self.key.verifying_key().to_bytes();
        format!("{}:{}", self.name, STANDARD.encode(bytes))
    }

    /// Signs a text.
    pub(crate) fn sign(&self, text: &str) -> Signature {
        Signature {
            key: self.name.clone(),
            base64: STANDARD.encode(self.key.sign(text.as_bytes()).to_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8032, section 7.1, test 1: the seed, the public key, and the signature of the empty text.
    const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    const SIGNED: &str = "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b";

    fn bytes(hex: &str) -> Vec<u8> {
        sos_formats::hash::decode_hex(hex).unwrap()
    }

    #[test]
    fn a_key_signs_as_the_standard_says() {
        let both = [bytes(SEED), bytes(PUBLIC)].concat();
        let key = SecretKey::parse(&format!("cache-1:{}\n", STANDARD.encode(both))).unwrap();
        assert_eq!(key.sign("").base64, STANDARD.encode(bytes(SIGNED)));
        assert_eq!(key.sign("").key, "cache-1");
        assert_eq!(
            key.public(),
            format!("cache-1:{}", STANDARD.encode(bytes(PUBLIC)))
        );
        assert!(!format!("{key:?}").contains(&STANDARD.encode(bytes(SEED))[..10]));
    }

    #[test]
    fn what_is_no_key_is_told() {
        let told = |text: &str| SecretKey::parse(text).unwrap_err().to_string();
        assert!(told("").contains("no `:`"));
        assert!(told(":AAAA").contains("no name"));
        assert!(told("k:!").contains("not base64"));
        assert!(told(&format!("k:{}", STANDARD.encode([0; 32]))).contains("public key"));
        assert!(told(&format!("k:{}", STANDARD.encode([0; 12]))).contains("64 bytes"));
        assert!(told(&format!("k:{}", STANDARD.encode([7; 64]))).contains("public half"));
    }
}
