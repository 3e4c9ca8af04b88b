//! A small signed Debian archive, made by the test itself: packages, indexes and a release file with a signature.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgp::composed::{
    ArmorOptions, CleartextSignedMessage, EncryptionCaps, KeyType, SecretKeyParamsBuilder,
    SignedPublicKey, SignedSecretKey,
};
use pgp::types::Password;
use sha2::{Digest as _, Sha256};

use super::{peer, run};

/// A key that signs release files.
pub(crate) struct Signer(SignedSecretKey);

impl Signer {
    pub(crate) fn new(name: &str) -> Self {
        let mut key = SecretKeyParamsBuilder::default();
        key.key_type(KeyType::Ed25519Legacy)
            .can_certify(true)
            .can_sign(true)
            .can_encrypt(EncryptionCaps::None)
            .primary_user_id(format!("{name} <{name}@mirror.example>"));
        let key = key
            .build()
            .expect("parameters of a key")
            .generate(rand::thread_rng())
            .expect("a key");
        Self(key)
    }

    /// The public key, armoured.
    pub(crate) fn public(&self) -> String {
        SignedPublicKey::from(self.0.clone())
            .to_armored_string(ArmorOptions::default())
            .expect("armour")
    }

    /// The fingerprint, in capital hexadecimal.
    pub(crate) fn fingerprint(&self) -> String {
        use pgp::types::KeyDetails as _;
        self.0.fingerprint().to_string().to_uppercase()
    }

    /// The text, signed in the clear.
    pub(crate) fn sign(&self, text: &str) -> String {
        let signed =
            CleartextSignedMessage::sign(rand::thread_rng(), text, &*self.0, &Password::empty())
                .expect("a signature");
        signed
            .to_armored_string(ArmorOptions::default())
            .expect("armour")
    }
}

/// A binary package before it is built.
#[derive(Clone)]
pub(crate) struct Package {
    name: String,
    version: String,
    fields: Vec<(String, String)>,
    files: Vec<(String, u32, Vec<u8>)>,
    links: Vec<(String, String)>,
    scripts: Vec<(String, String)>,
}

impl Package {
    pub(crate) fn new(name: &str, version: &str) -> Self {
        Self {
            name: name.into(),
            version: version.into(),
            fields: Vec::new(),
            files: Vec::new(),
            links: Vec::new(),
            scripts: Vec::new(),
        }
    }

    /// With one more field in the control file.
    pub(crate) fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }

    /// With a file, named without leading slash.
    pub(crate) fn file(mut self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        self.files
            .push((path.into(), mode, content.as_ref().to_vec()));
        self
    }

    /// With a symbolic link.
    pub(crate) fn link(mut self, path: &str, target: &str) -> Self {
        self.links.push((path.into(), target.into()));
        self
    }

    /// With a maintainer script.
    pub(crate) fn script(mut self, name: &str, text: &str) -> Self {
        self.scripts
            .push((name.into(), format!("#!/bin/sh\nset -e\n{text}\n")));
        self
    }

    fn control(&self) -> String {
        let mut text = format!(
            "Package: {}\nVersion: {}\nArchitecture: amd64\nMaintainer: Nobody <nobody@mirror.example>\n",
            self.name, self.version
        );
        if !self.fields.iter().any(|(name, _)| name == "Priority") {
            text.push_str("Priority: optional\n");
        }
        for (name, value) in &self.fields {
            let _ = writeln!(text, "{name}: {value}");
        }
        text.push_str("Section: misc\nDescription: made by a test\n");
        text
    }

    /// Lays the package out in `tree` as `dpkg-deb` takes it.
    fn lay_out(&self, tree: &Path) {
        let place = |path: &str, mode: u32, content: &[u8]| {
            let full = tree.join(path);
            std::fs::create_dir_all(full.parent().expect("a parent")).expect("directories");
            std::fs::write(&full, content).expect("a file");
            std::fs::set_permissions(&full, std::fs::Permissions::from_mode(mode))
                .expect("its mode");
        };
        place("DEBIAN/control", 0o644, self.control().as_bytes());
        for (name, text) in &self.scripts {
            place(&format!("DEBIAN/{name}"), 0o755, text.as_bytes());
        }
        for (path, mode, content) in &self.files {
            place(path, *mode, content);
        }
        for (path, target) in &self.links {
            let full = tree.join(path);
            std::fs::create_dir_all(full.parent().expect("a parent")).expect("directories");
            std::os::unix::fs::symlink(target, full).expect("a link");
        }
    }
}

/// What a release file says beyond its indexes.
#[derive(Clone, Copy)]
pub(crate) struct Release<'a> {
    pub(crate) suite: &'a str,
    pub(crate) valid_until: Option<&'a str>,
}

/// The suite that the tests use.
pub(crate) const TEST: Release<'static> = Release {
    suite: "test",
    valid_until: None,
};

/// An archive on disk.
pub(crate) struct Archive {
    dir: PathBuf,
    /// Control file and place of each package.
    stanzas: Vec<(String, String, String)>,
}

impl Archive {
    /// An archive without packages; nothing when `dpkg-deb` is not on this machine.
    pub(crate) fn new(dir: &Path) -> Option<Self> {
        peer("dpkg-deb")?;
        std::fs::create_dir_all(dir).expect("a directory");
        Some(Self {
            dir: dir.to_owned(),
            stanzas: Vec::new(),
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The address of the archive as a directory of this machine.
    pub(crate) fn file_url(&self) -> String {
        format!("file://{}", self.dir.display())
    }

    /// Builds a package into the pool and returns its file.
    pub(crate) fn add(&mut self, package: &Package) -> PathBuf {
        let tree = self.dir.join(format!("tree-{}", package.name));
        package.lay_out(&tree);
        let pool = format!("pool/main/{}/{}", &package.name[..1], package.name);
        let file = format!(
            "{pool}/{}_{}_amd64.deb",
            package.name,
            package.version.replace(':', "%3a")
        );
        std::fs::create_dir_all(self.dir.join(&pool)).expect("directories");
        let full = self.dir.join(&file);
        // Packages of different ages are compressed differently, and a reader must take them all.
        let codec = ["-Zxz", "-Zgzip", "-Zzstd", "-Znone"][self.stanzas.len() % 4];
        run(Command::new("dpkg-deb")
            .args(["--root-owner-group", codec, "-z1", "--build"])
            .arg(&tree)
            .arg(&full)
            .env("SOURCE_DATE_EPOCH", "1700000000"))
        .ok();
        std::fs::remove_dir_all(&tree).expect("the tree is ours");
        self.stanzas.retain(|(name, ..)| *name != package.name);
        self.stanzas
            .push((package.name.clone(), package.control(), file));
        full
    }

    /// Takes a package out of the index and the pool, as archives do with old versions.
    pub(crate) fn remove(&mut self, name: &str) {
        for (_, _, file) in self.stanzas.iter().filter(|(n, ..)| n == name) {
            std::fs::remove_file(self.dir.join(file)).expect("the package was built");
        }
        self.stanzas.retain(|(n, ..)| n != name);
    }

    /// Writes the indexes and the signed release file of a suite.
    pub(crate) fn publish(&self, signer: &Signer, release: Release<'_>) {
        let mut index = String::new();
        for (_, control, file) in &self.stanzas {
            let bytes = std::fs::read(self.dir.join(file)).expect("the package was built");
            let _ = writeln!(
                index,
                "{control}Filename: {file}\nSize: {}\nSHA256: {}\n",
                bytes.len(),
                sha256(&bytes)
            );
        }
        let packed = xz(index.as_bytes());
        let dist = self.dir.join("dists").join(release.suite);
        let binary = dist.join("main/binary-amd64");
        std::fs::create_dir_all(binary.join("by-hash/SHA256")).expect("directories");
        std::fs::write(binary.join("Packages.xz"), &packed).expect("the index");
        std::fs::write(binary.join("by-hash/SHA256").join(sha256(&packed)), &packed)
            .expect("the index by hash");
        let mut text = format!(
            "Origin: Test\nLabel: Test\nSuite: {suite}\nCodename: {suite}\nDate: Mon, 01 Jul 2024 10:00:00 UTC\n",
            suite = release.suite
        );
        if let Some(until) = release.valid_until {
            let _ = writeln!(text, "Valid-Until: {until}");
        }
        // As archives do: the hash of the plain index is listed, the plain index is not there.
        let _ = write!(
            text,
            "Acquire-By-Hash: yes\nArchitectures: amd64\nComponents: main\nDescription: made by a test\nSHA256:\n {} {:>8} main/binary-amd64/Packages\n {} {:>8} main/binary-amd64/Packages.xz\n",
            sha256(index.as_bytes()),
            index.len(),
            sha256(&packed),
            packed.len()
        );
        std::fs::write(dist.join("InRelease"), signer.sign(&text)).expect("the release file");
    }

    /// The release file of a suite.
    pub(crate) fn inrelease(&self, suite: &str) -> PathBuf {
        self.dir.join("dists").join(suite).join("InRelease")
    }
}

/// The digest of some bytes, in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}
