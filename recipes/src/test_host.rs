//! A host over a directory of the test, with a store that only remembers names; and pins that answer from memory.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use sos_formats::Bytes;
use sos_formats::derivation::{Derivation, Method};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::{Hash, HashAlgo, Sha256};
use sos_formats::lock::{
    ImageEntry, LockedIndex, LockedPackage, LockedRelease, LockedSuite, Phase, RootfsLocked,
    RootfsRequest, UrlEntry,
};
use sos_formats::store_path::{StoreDir, StorePath, make_fixed, make_text};
use sos_lang::{FetchRequest, FileType, Host, HostError, PathFilter};

use crate::locks::Pins;

/// The world of a test.
pub(crate) struct TestHost {
    store_dir: StoreDir,
    pub(crate) derivations: RefCell<BTreeMap<StorePath, Derivation>>,
}

impl TestHost {
    pub(crate) fn new() -> Self {
        Self {
            store_dir: StoreDir::default(),
            derivations: RefCell::default(),
        }
    }
}

fn file_type(t: fs::FileType) -> FileType {
    if t.is_dir() {
        FileType::Directory
    } else if t.is_symlink() {
        FileType::Symlink
    } else {
        FileType::Regular
    }
}

/// Not a NAR, but as good for telling trees apart.
fn digest(path: &Path) -> io::Result<Vec<u8>> {
    if !path.is_dir() {
        return fs::read(path);
    }
    let mut names: Vec<PathBuf> = fs::read_dir(path)?
        .map(|e| e.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    names.sort();
    let mut all = Vec::new();
    for name in names {
        all.extend(name.file_name().unwrap_or_default().as_encoded_bytes());
        all.extend(Sha256::of(&digest(&name)?).0);
    }
    Ok(all)
}

impl Host for TestHost {
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<(Bytes, FileType)>> {
        fs::read_dir(path)?
            .map(|e| e.and_then(|e| Ok((e.file_name().into_vec(), file_type(e.file_type()?)))))
            .collect()
    }
    fn file_type(&self, path: &Path) -> io::Result<Option<FileType>> {
        match fs::symlink_metadata(path) {
            Ok(m) => Ok(Some(file_type(m.file_type()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        fs::canonicalize(path)
    }
    fn add_path(
        &self,
        path: &Path,
        name: &str,
        method: Method,
        _filter: Option<PathFilter<'_>>,
        expected: Option<&Hash>,
    ) -> Result<StorePath, HostError> {
        let found = Hash::of(HashAlgo::Sha256, &digest(path)?);
        if expected.is_some_and(|e| *e != found) {
            return Err(HostError::Message(format!("`{name}` has another hash")));
        }
        make_fixed(
            &self.store_dir,
            name,
            method,
            &found,
            &BTreeSet::new(),
            false,
        )
        .map_err(|e| HostError::Message(e.to_string()))
    }
    fn add_text(
        &self,
        name: &str,
        contents: &[u8],
        references: &BTreeSet<StorePath>,
    ) -> Result<StorePath, HostError> {
        make_text(&self.store_dir, name, &Sha256::of(contents), references)
            .map_err(|e| HostError::Message(e.to_string()))
    }
    fn add_derivation(&self, path: &StorePath, aterm: &[u8]) -> Result<(), HostError> {
        let drv = Derivation::parse_aterm(aterm, &self.store_dir)
            .map_err(|e| HostError::Message(e.to_string()))?;
        self.derivations.borrow_mut().insert(path.clone(), drv);
        Ok(())
    }
    fn read_derivation(&self, path: &StorePath) -> Result<Derivation, HostError> {
        let found = self.derivations.borrow().get(path).cloned();
        found.ok_or_else(|| HostError::Message("no such derivation".to_owned()))
    }
    fn realise(&self, _wanted: &[(StorePath, String)]) -> Result<Vec<StorePath>, HostError> {
        Err(HostError::Message("tests build nothing".to_owned()))
    }
    fn is_valid_path(&self, _path: &StorePath) -> Result<bool, HostError> {
        Ok(false)
    }
    fn fetch_url(&self, _request: &FetchRequest) -> Result<StorePath, HostError> {
        Err(HostError::Message("tests fetch nothing".to_owned()))
    }
    fn env(&self, _name: &str) -> Option<String> {
        None
    }
    fn current_time(&self) -> i64 {
        0
    }
    fn system(&self) -> &str {
        "x86_64-linux"
    }
    fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }
    fn trace(&self, _message: &str) {}
    fn warn(&self, _message: &str) {}
}

/// Pins that know every package: dpkg and libc6 are essential, libssl3 comes with what is asked for.
#[derive(Default)]
pub(crate) struct TestPins {
    /// What was asked, in order.
    pub(crate) asked: Mutex<Vec<String>>,
    /// The version that packages have now.
    pub(crate) version: Mutex<String>,
}

impl TestPins {
    pub(crate) fn at(version: &str) -> Self {
        Self {
            asked: Mutex::default(),
            version: Mutex::new(version.to_owned()),
        }
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

impl Pins for TestPins {
    fn lock_rootfs(&self, request: &RootfsRequest) -> Result<RootfsLocked, Vec<Diagnostic>> {
        self.asked.lock().unwrap().push(request.name.clone());
        let unknown = request
            .include
            .iter()
            .filter(|w| w.text.starts_with("no-such"));
        let unknown: Vec<_> = unknown
            .map(|w| {
                let message = format!("no package `{}` in bookworm", w.text);
                Diagnostic::error("deb-unknown-package", Class::Recipe, message)
                    .with_labels(w.label.clone())
            })
            .collect();
        if !unknown.is_empty() {
            return Err(unknown);
        }
        let version = self.version.lock().unwrap().clone();
        let mut packages = Vec::new();
        let mut add = |name: &str, phase, batch, reason: &str, auto| {
            packages.push(LockedPackage {
                name: name.to_owned(),
                version: version.clone(),
                arch: "amd64".to_owned(),
                sha256: Sha256::of(format!("{name} {version}").as_bytes()),
                size: 1000,
                path: format!("pool/main/{name}/{name}_{version}~1_amd64.deb"),
                suite: Some(0),
                phase,
                batch,
                reason: reason.to_owned(),
                auto,
            });
        };
        add("libc6", Phase::Essential, 0, "depends:dpkg", true);
        add("dpkg", Phase::Essential, 0, "essential", false);
        if !request.include.is_empty() {
            add("libssl3", Phase::Rest, 0, "depends:x", true);
        }
        for w in &request.include {
            add(&w.text, Phase::Rest, 1, "requested", false);
        }
        let suites = request
            .sources
            .iter()
            .flat_map(|s| s.suites.iter().map(move |w| (s, w.text.clone())));
        let suites = suites.map(|(s, suite)| LockedSuite {
            uri: s.uri.clone(),
            suite,
            components: s.component_names(),
            inrelease: LockedRelease {
                sha256: Sha256([1; 32]),
                size: 1,
                date: "2026-07-11T10:16:37Z".to_owned(),
                keys: vec![],
            },
            index: vec![LockedIndex {
                path: "main/binary-amd64/Packages.xz".to_owned(),
                sha256: Sha256([2; 32]),
                size: 1,
            }],
            snapshot: Some("20260711T101637Z".to_owned()),
        });
        Ok(RootfsLocked {
            solver: "test 1".to_owned(),
            suites: suites.collect(),
            packages,
        })
    }

    fn lock_image(&self, reference: &str) -> Result<ImageEntry, Box<Diagnostic>> {
        self.asked.lock().unwrap().push(reference.to_owned());
        let version = self.version.lock().unwrap().clone();
        Ok(ImageEntry {
            reference: reference.to_owned(),
            digest: Sha256::of(format!("{reference} {version}").as_bytes()),
        })
    }

    fn lock_url(&self, url: &str) -> Result<UrlEntry, Box<Diagnostic>> {
        self.asked.lock().unwrap().push(url.to_owned());
        if url.ends_with("/missing") {
            let message = format!("`{url}` is missing");
            return Err(Box::new(Diagnostic::error(
                "fetch-failed",
                Class::Fetch,
                message,
            )));
        }
        let version = self.version.lock().unwrap().clone();
        Ok(UrlEntry {
            url: url.to_owned(),
            sha256: Sha256::of(format!("{url} {version}").as_bytes()),
            size: 7,
        })
    }
}
