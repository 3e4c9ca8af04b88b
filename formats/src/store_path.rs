//! Store paths: their text form and how each kind of object gets its path.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::derivation::Method;
use crate::hash::{Hash, HashAlgo, Sha256};
use crate::nix32;

/// The longest allowed name, so that `<hash>-<name>` plus a suffix for temporary files fits a file name.
pub const MAX_NAME_LEN: usize = 211;

const HASH_DIGITS: usize = 32;

/// The absolute directory that store paths are written under; part of every path's hash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreDir(String);

impl StoreDir {
    /// Checks and wraps a directory.
    ///
    /// # Errors
    /// [`StorePathError::BadStoreDir`] unless it is absolute, has no trailing or doubled `/`, and no `.` or `..` parts.
    pub fn new(dir: impl Into<String>) -> Result<Self, StorePathError> {
        let dir = dir.into();
        let sound = dir.strip_prefix('/').is_some_and(|rest| {
            rest.split('/')
                .all(|part| !part.is_empty() && part != "." && part != ".." && !part.contains('\0'))
        });
        if sound {
            Ok(Self(dir))
        } else {
            Err(StorePathError::BadStoreDir(dir))
        }
    }

    /// Returns the directory, without a trailing `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `/nix/store`.
impl Default for StoreDir {
    fn default() -> Self {
        Self("/nix/store".to_owned())
    }
}

impl fmt::Display for StoreDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Why something is not a store path, or why no path can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StorePathError {
    /// The store directory is not a clean absolute path.
    #[error("`{0}` is not a usable store directory")]
    BadStoreDir(String),
    /// The path is not below the store directory.
    #[error("path `{path}` is not in the store directory `{dir}`")]
    NotInStore {
        /// The path as given.
        path: String,
        /// The store directory.
        dir: String,
    },
    /// The path names something inside a store object where the object itself was wanted.
    #[error("path `{0}` is inside a store object, not the object itself")]
    Inside(String),
    /// The base name does not start with 32 nix32 digits and a dash.
    #[error("`{0}` does not begin with a store path hash and a dash")]
    BadHash(String),
    /// The name is empty.
    #[error("the name of a store path is empty")]
    EmptyName,
    /// The name is longer than [`MAX_NAME_LEN`].
    #[error("name `{0}` is longer than 211 characters")]
    LongName(String),
    /// A character outside `0-9a-zA-Z+-._?=`.
    #[error("name `{name}` contains {found:?}, which a store path may not hold")]
    BadCharacter {
        /// The name as given.
        name: String,
        /// The first bad character.
        found: char,
    },
    /// The name is `.` or `..` or begins with one of them and a dash.
    #[error("name `{0}` begins like the directory `.` or `..`")]
    DotName(String),
    /// This way of hashing cannot hold references to other store paths.
    #[error(
        "`{name}` may not refer to store paths: its path is made by the {method} method with {algo}"
    )]
    ReferencesNotAllowed {
        /// The name of the object.
        name: String,
        /// The ingestion method.
        method: &'static str,
        /// The hash algorithm.
        algo: HashAlgo,
    },
    /// This way of hashing is defined for one algorithm only.
    #[error("the {method} method needs a {expected} hash, not {found}")]
    WrongAlgo {
        /// The ingestion method.
        method: &'static str,
        /// The only algorithm that works.
        expected: HashAlgo,
        /// The algorithm given.
        found: HashAlgo,
    },
}

/// The path of a store object, without the store directory: `<32 nix32 digits>-<name>`.
///
/// Cheap to clone. The order is that of the base name as bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath(Arc<str>);

impl StorePath {
    /// Makes a path from its hash and name.
    ///
    /// # Errors
    /// When the name is not legal, see [`check_name`].
    pub fn new(hash: [u8; 20], name: &str) -> Result<Self, StorePathError> {
        check_name(name)?;
        let mut base = [b'-'; HASH_DIGITS + 1 + MAX_NAME_LEN];
        nix32::encode_into(&hash, &mut base[..HASH_DIGITS]);
        let base = &mut base[..HASH_DIGITS + 1 + name.len()];
        base[HASH_DIGITS + 1..].copy_from_slice(name.as_bytes());
        // Digits and a name that was checked are ASCII.
        Ok(Self(str::from_utf8(base).unwrap_or_default().into()))
    }

    /// Reads a base name, `<hash>-<name>`.
    ///
    /// # Errors
    /// When hash or name are not legal.
    pub fn from_base(base: &str) -> Result<Self, StorePathError> {
        let sound = base.as_bytes().get(HASH_DIGITS) == Some(&b'-')
            && nix32::is_digits(&base.as_bytes()[..HASH_DIGITS]);
        if !sound {
            return Err(StorePathError::BadHash(base.to_owned()));
        }
        check_name(&base[HASH_DIGITS + 1..])?;
        Ok(Self(base.into()))
    }

    /// Reads the absolute path of a store object.
    ///
    /// # Errors
    /// When it is not exactly `<dir>/<hash>-<name>`.
    pub fn from_absolute(dir: &StoreDir, path: &str) -> Result<Self, StorePathError> {
        let (found, rest) = Self::split_absolute(dir, path)?;
        if rest.is_empty() {
            Ok(found)
        } else {
            Err(StorePathError::Inside(path.to_owned()))
        }
    }

    /// Reads an absolute path at or below a store object; the rest is empty or begins with `/`.
    ///
    /// # Errors
    /// When the path is not below the store directory, or its first component is no store path.
    pub fn split_absolute<'a>(
        dir: &StoreDir,
        path: &'a str,
    ) -> Result<(Self, &'a str), StorePathError> {
        let inside = path
            .strip_prefix(dir.as_str())
            .and_then(|rest| rest.strip_prefix('/'))
            .ok_or_else(|| StorePathError::NotInStore {
                path: path.to_owned(),
                dir: dir.as_str().to_owned(),
            })?;
        let end = inside.find('/').unwrap_or(inside.len());
        Ok((Self::from_base(&inside[..end])?, &inside[end..]))
    }

    /// Returns the 32 nix32 digits.
    pub fn hash_part(&self) -> String {
        self.hash_str().to_owned()
    }

    /// Returns the 32 nix32 digits as a slice.
    pub fn hash_str(&self) -> &str {
        &self.0[..HASH_DIGITS]
    }

    /// Returns the 20 bytes of the hash.
    pub fn hash_bytes(&self) -> [u8; 20] {
        let mut out = [0; 20];
        // The constructors checked the digits, and 32 digits are exactly 20 bytes.
        if let Ok(bytes) = nix32::decode(self.hash_str()) {
            out.copy_from_slice(&bytes);
        }
        out
    }

    /// Returns the part after the hash.
    pub fn name(&self) -> &str {
        &self.0[HASH_DIGITS + 1..]
    }

    /// Returns `<hash>-<name>`.
    pub fn base(&self) -> String {
        self.0.as_ref().to_owned()
    }

    /// Returns `<hash>-<name>` as a slice.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns `<dir>/<hash>-<name>`.
    pub fn absolute(&self, dir: &StoreDir) -> String {
        [dir.as_str(), "/", &self.0].concat()
    }

    /// Says whether the name ends in `.drv`.
    pub fn is_derivation(&self) -> bool {
        self.0.ends_with(".drv")
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for StorePath {
    type Err = StorePathError;

    fn from_str(s: &str) -> Result<Self, StorePathError> {
        Self::from_base(s)
    }
}

impl Serialize for StorePath {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for StorePath {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let base = String::deserialize(d)?;
        Self::from_base(&base).map_err(serde::de::Error::custom)
    }
}

/// Checks the name part of a store path.
///
/// # Errors
/// Unless it is 1 to 211 characters of `0-9a-zA-Z+-._?=`, and not `.`, `..`, `.-…` or `..-…`.
///
/// # Source
/// `NixOS/nix` `src/libstore/path.cc`, `checkName` (2.36).
pub fn check_name(name: &str) -> Result<(), StorePathError> {
    if name.is_empty() {
        return Err(StorePathError::EmptyName);
    }
    if name.len() > MAX_NAME_LEN {
        return Err(StorePathError::LongName(name.to_owned()));
    }
    let legal =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.' | b'_' | b'?' | b'=');
    if let Some(at) = name.bytes().position(|b| !legal(b)) {
        // What comes before is ASCII, so a character begins here.
        let found = name[at..].chars().next().unwrap_or_default();
        return Err(StorePathError::BadCharacter {
            name: name.to_owned(),
            found,
        });
    }
    let after = name.strip_prefix("..").or(name.strip_prefix('.'));
    if after.is_some_and(|rest| rest.is_empty() || rest.starts_with('-')) {
        return Err(StorePathError::DotName(name.to_owned()));
    }
    Ok(())
}

/// Makes the path of a text object: a derivation, or what `toFile` writes. References come in ascending order, each once.
///
/// # Errors
/// When the name is not legal.
///
/// # Source
/// `NixOS/nix` `doc/manual/source/protocols/store-path.md`.
pub fn make_text<'a>(
    dir: &StoreDir,
    name: &str,
    contents: &Sha256,
    refs: impl IntoIterator<Item = &'a StorePath>,
) -> Result<StorePath, StorePathError> {
    let kind = with_references("text", dir, refs, false);
    make(dir, &kind, contents, name)
}

/// Makes the path of an object addressed by its content.
///
/// # Format
/// `Recursive` with SHA-256: type `source`, inner hash = the NAR hash. `Text`: as [`make_text`]. `Tree`: type `tree`, with the
/// references as in the two before, inner hash = SHA-256 of `fixed:tree:<algo>:<hex>:`. All others:
/// type `output:out`, inner hash = SHA-256 of `fixed:out:<method prefix><algo>:<hex>:`; such a name does not tell whether the
/// object refers to itself, as in Nix 2.8.
///
/// # Errors
/// When the name is not legal, when references are given to a method that cannot hold them, or when `Text` comes
/// without SHA-256, or `Rootfs` or `Tree` without BLAKE3.
pub fn make_fixed(
    dir: &StoreDir,
    name: &str,
    method: Method,
    hash: &Hash,
    refs: &BTreeSet<StorePath>,
    self_ref: bool,
) -> Result<StorePath, StorePathError> {
    let not_allowed = || StorePathError::ReferencesNotAllowed {
        name: name.to_owned(),
        method: method.as_str(),
        algo: hash.algo(),
    };
    method.check_algo(hash.algo())?;
    match (method, hash.as_sha256()) {
        (Method::Recursive, Some(nar_hash)) => {
            let kind = with_references("source", dir, refs, self_ref);
            make(dir, &kind, &nar_hash, name)
        }
        (Method::Text, Some(_)) if self_ref => Err(not_allowed()),
        (Method::Text, Some(contents)) => make_text(dir, name, &contents, refs),
        (Method::Rootfs | Method::Tree, _) if self_ref => Err(not_allowed()),
        (Method::Tree, _) => {
            let kind = with_references("tree", dir, refs, false);
            let inner = format!("fixed:{}{hash}:", method.prefix());
            make(dir, &kind, &Sha256::of(inner.as_bytes()), name)
        }
        _ if !refs.is_empty() => Err(not_allowed()),
        _ => {
            let inner = format!("fixed:out:{}{hash}:", method.prefix());
            make(dir, "output:out", &Sha256::of(inner.as_bytes()), name)
        }
    }
}

/// Makes the path of an input-addressed output.
///
/// # Errors
/// When the name is not legal.
pub fn make_output(
    dir: &StoreDir,
    drv_hash: &Sha256,
    output: &str,
    drv_name: &str,
) -> Result<StorePath, StorePathError> {
    make(
        dir,
        &format!("output:{output}"),
        drv_hash,
        &output_name(drv_name, output),
    )
}

/// Makes the path that a content-addressed output has while it is being built.
///
/// # Errors
/// When the name is not legal.
///
/// # Source
/// `NixOS/nix` `src/libstore/unix/build/derivation-builder.cc`, `makeFallbackPath`.
pub fn make_scratch(
    dir: &StoreDir,
    drv: &StorePath,
    output: &str,
) -> Result<StorePath, StorePathError> {
    make(
        dir,
        &format!("rewrite:{drv}:name:{output}"),
        &Sha256([0; 32]),
        &output_name(drv_name(drv), output),
    )
}

/// Returns the string that stands for a derivation's own output of unknown path.
pub fn placeholder(output: &str) -> String {
    rendered_placeholder(&format!("nix-output:{output}"))
}

/// Returns the string that stands for an output of unknown path of another derivation.
///
/// # Source
/// `NixOS/nix` `src/libstore/downstream-placeholder.cc`, `unknownCaOutput`.
pub fn downstream_placeholder(drv: &StorePath, output: &str) -> String {
    rendered_placeholder(&format!(
        "nix-upstream-output:{}:{}",
        drv.hash_str(),
        output_name(drv_name(drv), output)
    ))
}

/// Returns the name of an output's path: that of the derivation, with the output's name unless it is `out`.
pub fn output_name(drv_name: &str, output: &str) -> String {
    if output == "out" {
        drv_name.to_owned()
    } else {
        format!("{drv_name}-{output}")
    }
}

fn drv_name(drv: &StorePath) -> &str {
    drv.name().strip_suffix(".drv").unwrap_or(drv.name())
}

fn rendered_placeholder(text: &str) -> String {
    format!("/{}", nix32::encode(&Sha256::of(text.as_bytes()).0))
}

fn with_references<'a>(
    kind: &str,
    dir: &StoreDir,
    refs: impl IntoIterator<Item = &'a StorePath>,
    self_ref: bool,
) -> String {
    // Most have few, of usual length.
    let mut out = String::with_capacity(512);
    out.push_str(kind);
    for path in refs {
        out.push(':');
        out.push_str(dir.as_str());
        out.push('/');
        out.push_str(&path.0);
    }
    if self_ref {
        out.push_str(":self");
    }
    out
}

fn make(
    dir: &StoreDir,
    kind: &str,
    inner: &Sha256,
    name: &str,
) -> Result<StorePath, StorePathError> {
    let hash = Sha256::of_parts(&[
        kind.as_bytes(),
        b":sha256:",
        &inner.hex_digits(),
        b":",
        dir.as_str().as_bytes(),
        b":",
        name.as_bytes(),
    ]);
    let mut folded = [0u8; 20];
    for (i, byte) in hash.0.iter().enumerate() {
        folded[i % 20] ^= byte;
    }
    StorePath::new(folded, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "626r0y233qi55bxb7b3j2blbpc00a150-t";

    fn no_refs() -> BTreeSet<StorePath> {
        BTreeSet::new()
    }

    #[test]
    fn text_forms() {
        let dir = StoreDir::default();
        let path = StorePath::from_base(BASE).unwrap();
        assert_eq!(path.base(), BASE);
        assert_eq!(path.name(), "t");
        assert_eq!(path.hash_part(), &BASE[..32]);
        assert_eq!(StorePath::new(path.hash_bytes(), "t"), Ok(path.clone()));
        let absolute = path.absolute(&dir);
        assert_eq!(absolute, format!("/nix/store/{BASE}"));
        assert_eq!(StorePath::from_absolute(&dir, &absolute), Ok(path.clone()));
        assert_eq!(
            StorePath::split_absolute(&dir, &format!("{absolute}/a/b")),
            Ok((path, "/a/b"))
        );
    }

    #[test]
    fn refused_paths() {
        let dir = StoreDir::default();
        for bad in [
            "".to_owned(),
            "/nix/store".to_owned(),
            "/nix/store/".to_owned(),
            "/nix/storeX/".to_owned() + BASE,
            "/gnu/store/".to_owned() + BASE,
            format!("/nix/store//{BASE}"),
            format!("/nix/store/{BASE}/"),
            format!("/nix/store/{BASE}/x"),
            format!("/nix/store/{}", &BASE[..32]),
            format!("/nix/store/{}", &BASE[..33]),
            format!("/nix/store/e{}", &BASE[1..]),
            format!("/nix/store/{}é-t", &BASE[..30]),
            format!("/nix/store/{}é-t", &BASE[..31]),
        ] {
            assert!(StorePath::from_absolute(&dir, &bad).is_err(), "{bad}");
        }
        for bad in [
            "",
            "nix/store",
            "/",
            "/nix/",
            "/nix//store",
            "/nix/../store",
            "/a\0",
        ] {
            assert!(StoreDir::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names() {
        let long = "a".repeat(211);
        for good in ["a", "A0+-._?=", ".a", "...", "-", "..a", &long] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        let too_long = "a".repeat(212);
        for bad in [
            "", ".", "..", ".-a", "..-", "a/b", "a b", "a\0", "é", "a~", &too_long,
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    // From Nix 2.8: `builtins.toFile "t" "hello\n"`.
    #[test]
    fn text_of_nix() {
        let path = make_text(
            &StoreDir::default(),
            "t",
            &Sha256::of(b"hello\n"),
            &no_refs(),
        );
        assert_eq!(path.unwrap().base(), BASE);
    }

    // From Nix 2.8: a fixed output, flat.
    #[test]
    fn fixed_of_nix() {
        let hash = Hash::of(HashAlgo::Sha256, b"hello\n");
        let path = make_fixed(
            &StoreDir::default(),
            "fx",
            Method::Flat,
            &hash,
            &no_refs(),
            false,
        );
        assert_eq!(path.unwrap().base(), "3a52d53v4xrhwhwjyd6sy9m0lh4w9kwp-fx");
    }

    // From Nix 2.8, a file with "hello\n": `nix-store --add`, and `--add-fixed` with other algorithms.
    #[test]
    fn sources_of_nix() {
        let mut nar = crate::nar::Writer::new(Vec::new()).unwrap();
        nar.regular(false, 6, &mut &b"hello\n"[..]).unwrap();
        let nar = nar.finish().unwrap();
        for (method, hash, expect) in [
            (
                Method::Recursive,
                Hash::of(HashAlgo::Sha256, &nar),
                "pi8axnzkz80qa3x5smwjwxcc9n9hjik0-h",
            ),
            (
                Method::Recursive,
                Hash::of(HashAlgo::Sha1, &nar),
                "rnnfmkispwwn3nls31fgijpp0py3x86y-h",
            ),
            (
                Method::Flat,
                Hash::of(HashAlgo::Sha512, b"hello\n"),
                "mwib1aj7nlvsdwnyz1v50r7423krli05-h",
            ),
        ] {
            let path = make_fixed(&StoreDir::default(), "h", method, &hash, &no_refs(), false);
            assert_eq!(path.unwrap().base(), expect);
        }
    }

    // From Nix 2.8: `nix store make-content-addressed` of an output that refers to a text and to itself.
    #[test]
    fn references_of_nix() {
        let dir = StoreDir::new("/n/store").unwrap();
        let hash = "sha256:1qhhqnirjsl3dph7q4gimnsrpf50jw407nrqlmq8kyis2x7qfn89"
            .parse()
            .unwrap();
        let refs = [StorePath::from_base("c308p525g51kyw8nqxynl1pqbd6nyihx-t").unwrap()].into();
        let path = make_fixed(&dir, "self", Method::Recursive, &hash, &refs, true);
        assert_eq!(
            path.unwrap().base(),
            "frd9zwd81b71a4lwan3vkq9bcs406amn-self"
        );
    }

    #[test]
    fn placeholders_of_nix() {
        assert_eq!(
            placeholder("out"),
            "/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9"
        );
    }

    #[test]
    fn methods_have_their_algorithms_and_references() {
        let dir = StoreDir::default();
        let sha = Hash::of(HashAlgo::Sha256, b"x");
        let blake = Hash::of(HashAlgo::Blake3, b"x");
        let one = BTreeSet::from([StorePath::from_base(BASE).unwrap()]);
        let make =
            |method, hash, refs: &BTreeSet<_>, own| make_fixed(&dir, "n", method, hash, refs, own);
        assert!(make(Method::Rootfs, &blake, &no_refs(), false).is_ok());
        assert!(make(Method::Recursive, &blake, &no_refs(), false).is_ok());
        assert!(make(Method::Recursive, &sha, &one, true).is_ok());
        assert!(make(Method::Text, &sha, &one, false).is_ok());
        assert!(make(Method::Flat, &sha, &no_refs(), true).is_ok());
        let tree = |refs: &BTreeSet<_>| make(Method::Tree, &blake, refs, false).unwrap();
        assert_ne!(tree(&no_refs()), tree(&one));
        assert_ne!(
            tree(&no_refs()),
            make(Method::Rootfs, &blake, &no_refs(), false).unwrap()
        );
        for (method, hash, refs, own) in [
            (Method::Rootfs, &sha, &no_refs(), false),
            (Method::Rootfs, &blake, &one, false),
            (Method::Text, &blake, &no_refs(), false),
            (Method::Text, &sha, &no_refs(), true),
            (Method::Flat, &sha, &one, false),
            (Method::Rootfs, &blake, &no_refs(), true),
            (Method::Tree, &sha, &no_refs(), false),
            (Method::Tree, &blake, &no_refs(), true),
            (Method::Recursive, &blake, &one, false),
        ] {
            assert!(make(method, hash, refs, own).is_err(), "{method:?} {hash}");
        }
    }
}
