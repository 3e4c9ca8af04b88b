//! A world that reads the disk and remembers what would be in the store.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use sos_formats::derivation::{Derivation, Method};
use sos_formats::hash::{Hash, HashAlgo, Sha256};
use sos_formats::nar;
use sos_formats::store_path::{self, StoreDir, StorePath};
use sos_lang::{FetchRequest, FileType, Host, HostError, PathFilter};

/// What an evaluation put into its store: name and, for derivations, text.
#[derive(Default)]
pub(crate) struct DiskHost {
    pub(crate) objects: RefCell<BTreeMap<String, Option<Vec<u8>>>>,
    drvs: RefCell<BTreeMap<StorePath, Derivation>>,
    dir: StoreDir,
}

impl DiskHost {
    pub(crate) fn new() -> Rc<Self> {
        Rc::default()
    }

    fn put(&self, path: &StorePath, text: Option<&[u8]>) {
        let text = text.map(<[u8]>::to_vec);
        self.objects.borrow_mut().insert(path.base(), text);
    }
}

fn text(e: impl std::fmt::Display) -> HostError {
    HostError::Message(e.to_string())
}

fn kind(t: fs::FileType) -> FileType {
    if t.is_dir() {
        FileType::Directory
    } else if t.is_symlink() {
        FileType::Symlink
    } else {
        FileType::Regular
    }
}

fn names(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut all: Vec<PathBuf> = fs::read_dir(path)?
        .map(|e| Ok(e?.path()))
        .collect::<io::Result<_>>()?;
    all.sort();
    Ok(all)
}

fn write_nar(
    w: &mut nar::Writer<Vec<u8>>,
    path: &Path,
    filter: &mut Option<PathFilter<'_>>,
) -> Result<(), HostError> {
    let meta = fs::symlink_metadata(path)?;
    if meta.is_symlink() {
        let target = fs::read_link(path)?;
        return w.symlink(target.as_os_str().as_bytes()).map_err(text);
    }
    if meta.is_file() {
        let executable = meta.permissions().mode() & 0o100 != 0;
        let bytes = fs::read(path)?;
        return w
            .regular(executable, bytes.len() as u64, &mut &bytes[..])
            .map_err(text);
    }
    w.directory().map_err(text)?;
    for entry in names(path)? {
        let kind = kind(fs::symlink_metadata(&entry)?.file_type());
        if let Some(filter) = filter
            && !filter(&entry, kind)?
        {
            continue;
        }
        let name = entry.file_name().unwrap_or_default();
        w.entry(name.as_bytes()).map_err(text)?;
        write_nar(w, &entry, filter)?;
    }
    w.end().map_err(text)
}

impl Host for DiskHost {
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<(Vec<u8>, FileType)>> {
        fs::read_dir(path)?
            .map(|e| {
                let e = e?;
                Ok((e.file_name().as_bytes().to_vec(), kind(e.file_type()?)))
            })
            .collect()
    }
    fn file_type(&self, path: &Path) -> io::Result<Option<FileType>> {
        Ok(fs::symlink_metadata(path).ok().map(|m| kind(m.file_type())))
    }
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        fs::canonicalize(path)
    }
    fn add_path(
        &self,
        path: &Path,
        name: &str,
        method: Method,
        filter: Option<PathFilter<'_>>,
        _expected: Option<&Hash>,
    ) -> Result<StorePath, HostError> {
        let mut filter = filter;
        let bytes = if method == Method::Flat {
            fs::read(path)?
        } else {
            let mut w = nar::Writer::new(Vec::new()).map_err(text)?;
            write_nar(&mut w, path, &mut filter)?;
            w.finish().map_err(text)?
        };
        let hash = Hash::of(HashAlgo::Sha256, &bytes);
        let made = store_path::make_fixed(&self.dir, name, method, &hash, &BTreeSet::new(), false)
            .map_err(text)?;
        self.put(&made, None);
        Ok(made)
    }
    fn add_text(
        &self,
        name: &str,
        contents: &[u8],
        references: &BTreeSet<StorePath>,
    ) -> Result<StorePath, HostError> {
        let hash = Sha256::of(contents);
        let made = store_path::make_text(&self.dir, name, &hash, references).map_err(text)?;
        self.put(&made, None);
        Ok(made)
    }
    fn add_derivation(&self, path: &StorePath, aterm: &[u8]) -> Result<(), HostError> {
        self.put(path, Some(aterm));
        let drv = Derivation::parse_aterm(aterm, &self.dir).map_err(text)?;
        self.drvs.borrow_mut().insert(path.clone(), drv);
        Ok(())
    }
    fn read_derivation(&self, path: &StorePath) -> Result<Derivation, HostError> {
        let known = self.drvs.borrow().get(path).cloned();
        known.ok_or_else(|| text(format!("no derivation {path}")))
    }
    fn realise(&self, _wanted: &[(StorePath, String)]) -> Result<Vec<StorePath>, HostError> {
        Err(text("nothing is built here"))
    }
    fn is_valid_path(&self, path: &StorePath) -> Result<bool, HostError> {
        Ok(self.objects.borrow().contains_key(&path.base()))
    }
    fn fetch_url(&self, _request: &FetchRequest) -> Result<StorePath, HostError> {
        Err(text("nothing is fetched here"))
    }
    fn env(&self, _name: &str) -> Option<String> {
        None
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
    fn trace(&self, _message: &str) {}
    fn warn(&self, _message: &str) {}
}
