//! A world in memory.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use sos_formats::derivation::{Derivation, Method};
use sos_formats::flake_ref::{Attr, kind, text as attr_text};
use sos_formats::hash::{Hash, HashAlgo, Sha256};
use sos_formats::store_path::{self, StoreDir, StorePath};
use sos_lang::{FetchRequest, FetchedTree, FileType, Host, HostError, PathFilter, TreeRequest};

/// Files, derivations and messages in memory.
#[derive(Default)]
pub(crate) struct MemoryHost {
    pub(crate) files: BTreeMap<PathBuf, Vec<u8>>,
    pub(crate) drvs: RefCell<BTreeMap<StorePath, Derivation>>,
    pub(crate) texts: RefCell<BTreeMap<PathBuf, Vec<u8>>>,
    pub(crate) messages: RefCell<Vec<String>>,
    pub(crate) fetched: RefCell<Vec<FetchRequest>>,
    dir: StoreDir,
}

impl MemoryHost {
    pub(crate) fn new(files: &[(&str, &str)]) -> Rc<MemoryHost> {
        let files = files
            .iter()
            .map(|(p, t)| (PathBuf::from(p), t.as_bytes().to_vec()))
            .collect();
        Rc::new(MemoryHost {
            files,
            ..MemoryHost::default()
        })
    }

    fn content(&self, p: &Path) -> Option<Vec<u8>> {
        self.files
            .get(p)
            .cloned()
            .or_else(|| self.texts.borrow().get(p).cloned())
    }
}

fn text(e: impl std::fmt::Display) -> HostError {
    HostError::Message(e.to_string())
}

impl Host for MemoryHost {
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.content(path)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<(Vec<u8>, FileType)>> {
        let mut out: BTreeMap<Vec<u8>, FileType> = BTreeMap::new();
        for p in self.files.keys() {
            if let Ok(rest) = p.strip_prefix(path) {
                let mut parts = rest.components();
                if let Some(first) = parts.next() {
                    let kind = if parts.next().is_some() {
                        FileType::Directory
                    } else {
                        FileType::Regular
                    };
                    out.insert(first.as_os_str().as_encoded_bytes().to_vec(), kind);
                }
            }
        }
        if out.is_empty() {
            Err(io::ErrorKind::NotFound.into())
        } else {
            Ok(out.into_iter().collect())
        }
    }
    fn file_type(&self, path: &Path) -> io::Result<Option<FileType>> {
        if self.content(path).is_some() {
            return Ok(Some(FileType::Regular));
        }
        let below = self.files.keys().any(|p| p.starts_with(path))
            || self.texts.borrow().keys().any(|p| p.starts_with(path));
        Ok(below.then_some(FileType::Directory))
    }
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_path_buf())
    }
    fn add_path(
        &self,
        path: &Path,
        name: &str,
        method: Method,
        filter: Option<PathFilter<'_>>,
        _expected: Option<&Hash>,
    ) -> Result<StorePath, HostError> {
        let mut all = Vec::new();
        let mut filter = filter;
        for (p, t) in self.files.iter().filter(|(p, _)| p.starts_with(path)) {
            if let Some(f) = &mut filter
                && !f(p, FileType::Regular)?
            {
                continue;
            }
            all.extend_from_slice(p.as_os_str().as_encoded_bytes());
            all.extend_from_slice(t);
        }
        if !self.files.keys().any(|p| p.starts_with(path)) {
            return Err(io::Error::from(io::ErrorKind::NotFound).into());
        }
        let hash = Hash::of(HashAlgo::Sha256, &all);
        store_path::make_fixed(&self.dir, name, method, &hash, &BTreeSet::new(), false)
            .map_err(text)
    }
    fn add_text(
        &self,
        name: &str,
        contents: &[u8],
        references: &BTreeSet<StorePath>,
    ) -> Result<StorePath, HostError> {
        let p = store_path::make_text(&self.dir, name, &Sha256::of(contents), references)
            .map_err(text)?;
        self.texts
            .borrow_mut()
            .insert(p.absolute(&self.dir).into(), contents.to_vec());
        Ok(p)
    }
    fn add_derivation(&self, path: &StorePath, aterm: &[u8]) -> Result<(), HostError> {
        let drv = Derivation::parse_aterm(aterm, &self.dir).map_err(text)?;
        self.drvs.borrow_mut().insert(path.clone(), drv);
        Ok(())
    }
    fn read_derivation(&self, path: &StorePath) -> Result<Derivation, HostError> {
        self.drvs
            .borrow()
            .get(path)
            .cloned()
            .ok_or_else(|| text(format!("no derivation {path}")))
    }
    fn realise(&self, wanted: &[(StorePath, String)]) -> Result<Vec<StorePath>, HostError> {
        // "Builds" by making a Nix file that says what was built.
        let mut out = Vec::new();
        for (drv, output) in wanted {
            let d = self.read_derivation(drv)?;
            let name = Derivation::name_from_path(drv);
            let p = d
                .output_path(&self.dir, name, output)
                .ok_or_else(|| text("not known"))?;
            let content = format!("\"built {name} {output}\"").into_bytes();
            self.texts
                .borrow_mut()
                .insert(p.absolute(&self.dir).into(), content);
            out.push(p);
        }
        Ok(out)
    }
    fn is_valid_path(&self, _path: &StorePath) -> Result<bool, HostError> {
        Ok(true)
    }
    fn fetch_url(&self, request: &FetchRequest) -> Result<StorePath, HostError> {
        self.fetched.borrow_mut().push(request.clone());
        self.add_text(&request.name, request.url.as_bytes(), &BTreeSet::new())
    }
    fn fetch_tree(&self, request: &TreeRequest) -> Result<FetchedTree, HostError> {
        let named = attr_text(&request.attrs, "path").or(attr_text(&request.attrs, "url"));
        let named = Path::new(named.unwrap_or_default().trim_start_matches("file://"));
        let from = match &request.base {
            Some(base) => base.join(named.strip_prefix("./").unwrap_or(named)),
            None => named.to_owned(),
        };
        let texts = self.texts.borrow().clone();
        let all: BTreeMap<PathBuf, Vec<u8>> = self
            .files
            .clone()
            .into_iter()
            .chain(texts)
            .filter_map(|(p, t)| Some((p.strip_prefix(&from).ok()?.to_owned(), t)))
            .collect();
        if all.is_empty() {
            return Err(text(format!("path '{}' does not exist", from.display())));
        }
        let hash = Hash::of(HashAlgo::Sha256, format!("{all:?}").as_bytes());
        let path = store_path::make_fixed(
            &self.dir,
            &request.name,
            Method::Recursive,
            &hash,
            &BTreeSet::new(),
            false,
        )
        .map_err(text)?;
        let place = PathBuf::from(path.absolute(&self.dir));
        let copies = all.into_iter().map(|(p, t)| (place.join(p), t));
        self.texts.borrow_mut().extend(copies);
        let mut attrs = request.attrs.clone();
        attrs.insert("narHash".into(), Attr::Str(hash.to_sri()));
        attrs.insert("lastModified".into(), Attr::Int(1_704_164_645));
        if kind(&attrs) == "git" {
            attrs.insert("rev".into(), Attr::Str("ab".repeat(20)));
        }
        self.fetched.borrow_mut().push(FetchRequest {
            url: from.display().to_string(),
            name: request.name.clone(),
            sha256: None,
            written: None,
            unpack: true,
        });
        Ok(FetchedTree { path, attrs })
    }
    fn write_flake_lock(&self, path: &Path, text: &str) -> Result<(), HostError> {
        let text = text.as_bytes().to_vec();
        self.texts.borrow_mut().insert(path.to_owned(), text);
        Ok(())
    }
    fn env(&self, name: &str) -> Option<String> {
        (name == "HOME").then(|| "/home/me".to_owned())
    }
    fn current_time(&self) -> i64 {
        1_700_000_000
    }
    fn system(&self) -> &'static str {
        "x86_64-linux"
    }
    fn store_dir(&self) -> &StoreDir {
        &self.dir
    }
    fn trace(&self, message: &str) {
        self.messages.borrow_mut().push(format!("trace: {message}"));
    }
    fn warn(&self, message: &str) {
        self.messages
            .borrow_mut()
            .push(format!("warning: {message}"));
    }
}

/// Evaluates completely and prints, on a big stack.
pub(crate) fn eval(expr: &str) -> Result<String, String> {
    let expr = expr.to_owned();
    sos_lang::with_big_stack(move || {
        let e = sos_lang::Evaluator::new(
            MemoryHost::new(&[("/src/a.nix", "{ x = 1; }")]),
            sos_lang::Options::default(),
        );
        let v = e
            .eval_str(&expr, "test.nix", Path::new("/src"))
            .and_then(|v| e.force_deep(v));
        v.map(|v| e.print(v))
            .map_err(|d| format!("{}: {}", d.code, d.message))
    })
}
