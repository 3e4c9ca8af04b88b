//! A repository as a rootfs object: objects by the first two digits of their names, refs, configuration.

use std::collections::BTreeMap;

use sos_engine::BuilderError;
use sos_formats::Bytes;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::{Blake3, Sha256};
use sos_formats::manifest::{Entry, Kind, Meta, Node, Root};
use sos_formats::ostree::{
    ARCHIVE_CONFIG, BARE_USER_CONFIG, Commit, ObjectKind, REPOSITORY_DIRS, Summary, SummaryRef,
    object_name,
};
use sos_store::Store;

use super::Mode;
use super::content::Content;
use super::source::OSTREE_META;

/// The largest ref that is read, in bytes: 64 digits and the end of the line.
const MAX_REF_BYTES: u64 = 128;

/// A repository being made.
pub(super) struct Repository<'a> {
    store: &'a Store,
    mode: Mode,
    epoch: i64,
    /// Objects by directory and name.
    objects: BTreeMap<String, BTreeMap<String, Entry>>,
}

impl<'a> Repository<'a> {
    pub(super) fn new(store: &'a Store, mode: Mode, epoch: i64) -> Self {
        Self {
            store,
            mode,
            epoch,
            objects: BTreeMap::new(),
        }
    }

    /// Adds a content object.
    pub(super) fn content(&mut self, content: &Content) {
        let (kind, mode) = match self.mode {
            Mode::Archive => (ObjectKind::Filez, 0o644),
            Mode::BareUser if content.executable => (ObjectKind::File, 0o755),
            Mode::BareUser => (ObjectKind::File, 0o644),
        };
        let mut meta = self.meta(mode);
        let about = content.meta.clone();
        meta.xattrs
            .extend(about.map(|about| (OSTREE_META.to_vec(), about)));
        self.object(&content.checksum, kind, meta, (content.blob, content.size));
    }

    /// Adds a metadata object and gives its checksum.
    pub(super) fn metadata(
        &mut self,
        kind: ObjectKind,
        bytes: &[u8],
    ) -> Result<Sha256, BuilderError> {
        let checksum = Sha256::of(bytes);
        let (dir, name) = object_name(&checksum, kind);
        // Most directories have the dirmeta of another one.
        if !self
            .objects
            .get(&dir)
            .is_some_and(|d| d.contains_key(&name))
        {
            let blob = self.store.put_blob_bytes(bytes)?;
            self.object(
                &checksum,
                kind,
                self.meta(0o644),
                (blob, bytes.len() as u64),
            );
        }
        Ok(checksum)
    }

    /// Adds a commit and gives its checksum.
    pub(super) fn commit(&mut self, commit: &Commit) -> Result<Sha256, BuilderError> {
        self.metadata(ObjectKind::Commit, &commit.encode())
    }

    /// Takes over everything of another repository; gives the commit of its ref of that name, which is also looked for in the
    /// others when it has only one.
    pub(super) fn continue_from(
        &mut self,
        root: &Blake3,
        shown: &str,
        branch: &str,
    ) -> Result<Sha256, BuilderError> {
        let refused = |what: &str| {
            let message = format!("`{shown}` cannot be the parent of a commit: {what}");
            BuilderError::from(Diagnostic::error("ostree-parent", Class::Recipe, message))
        };
        let top = self.store.get_node(&self.store.get_root(root)?.node)?;
        let Some(config) = self.file(&top, b"config")? else {
            return Err(refused("it is no OSTree repository"));
        };
        if config != self.config().as_bytes() {
            return Err(refused("it keeps its files in another mode"));
        }
        for dir in self.entries(&top, b"objects")? {
            let Kind::Dir { node } = dir.kind else {
                continue;
            };
            let into = self
                .objects
                .entry(String::from_utf8_lossy(&dir.name).into_owned())
                .or_default();
            for entry in self.store.get_node(&node)?.entries {
                into.entry(String::from_utf8_lossy(&entry.name).into_owned())
                    .or_insert(entry);
            }
        }
        let refs = Node {
            entries: self.entries(&top, b"refs")?,
        };
        let mut at = Node {
            entries: self.entries(&refs, b"heads")?,
        };
        let (dirs, name) = branch.rsplit_once('/').map_or(("", branch), |pair| pair);
        for dir in dirs.split('/').filter(|dir| !dir.is_empty()) {
            at = Node {
                entries: self.entries(&at, dir.as_bytes())?,
            };
        }
        let commit = self.file(&at, name.as_bytes())?;
        let commit = commit.and_then(|text| {
            let text = String::from_utf8(text).ok()?;
            text.trim_end().parse().ok()
        });
        commit.ok_or_else(|| refused(&format!("it has no ref `{branch}`")))
    }

    /// Ends the repository with one ref; gives the id of its manifest.
    pub(super) fn finish(
        self,
        branch: &str,
        checksum: &Sha256,
        commit: &Commit,
    ) -> Result<Blake3, BuilderError> {
        let mut objects = Vec::with_capacity(self.objects.len());
        for (dir, entries) in &self.objects {
            let node = Node::new(entries.values().cloned().collect()).map_err(unsound)?;
            objects.push(self.dir(dir, self.store.put_node(&node)?));
        }
        let mut top = vec![
            self.text("config", self.config())?,
            self.dir("objects", self.put(objects)?),
        ];
        let mut refs = Vec::new();
        for path in REPOSITORY_DIRS {
            let empty = self.put(Vec::new())?;
            match path.split_once('/') {
                None => top.push(self.dir(path, empty)),
                Some((_, "heads")) => refs.push(self.dir("heads", self.heads(branch, checksum)?)),
                Some((_, name)) => refs.push(self.dir(name, empty)),
            }
        }
        top.push(self.dir("refs", self.put(refs)?));
        if self.mode == Mode::Archive {
            let summary = Summary {
                refs: BTreeMap::from([(
                    branch.to_owned(),
                    SummaryRef {
                        commit: *checksum,
                        size: commit.encode().len() as u64,
                        timestamp: commit.timestamp,
                        version: match commit.metadata.get("version") {
                            Some(sos_formats::gvariant::Variant::Text(version)) => {
                                Some(version.clone())
                            }
                            _ => None,
                        },
                    },
                )]),
                ..Summary::default()
            };
            top.push(self.bytes("summary", &summary.encode())?);
        }
        let root = Root {
            meta: self.meta(0o755),
            node: self.put(top)?,
        };
        Ok(self.store.put_root(&root)?)
    }

    fn heads(&self, branch: &str, checksum: &Sha256) -> Result<Blake3, BuilderError> {
        let mut names = branch.rsplit('/');
        let name = names.next().unwrap_or(branch);
        let mut entry = self.text(name, &format!("{checksum}\n"))?;
        for dir in names {
            entry = self.dir(dir, self.put(vec![entry])?);
        }
        self.put(vec![entry])
    }

    fn config(&self) -> &'static str {
        match self.mode {
            Mode::Archive => ARCHIVE_CONFIG,
            Mode::BareUser => BARE_USER_CONFIG,
        }
    }

    fn object(&mut self, checksum: &Sha256, kind: ObjectKind, meta: Meta, blob: (Blake3, u64)) {
        let (dir, name) = object_name(checksum, kind);
        let entry = file(&name, meta, blob);
        self.objects.entry(dir).or_default().insert(name, entry);
    }

    fn meta(&self, mode: u16) -> Meta {
        Meta {
            mode,
            mtime_secs: self.epoch,
            ..Meta::default()
        }
    }

    fn dir(&self, name: &str, node: Blake3) -> Entry {
        Entry {
            name: name.as_bytes().to_vec(),
            meta: self.meta(0o755),
            kind: Kind::Dir { node },
        }
    }

    fn text(&self, name: &str, text: &str) -> Result<Entry, BuilderError> {
        self.bytes(name, text.as_bytes())
    }

    fn bytes(&self, name: &str, bytes: &[u8]) -> Result<Entry, BuilderError> {
        let blob = self.store.put_blob_bytes(bytes)?;
        Ok(file(name, self.meta(0o644), (blob, bytes.len() as u64)))
    }

    fn put(&self, entries: Vec<Entry>) -> Result<Blake3, BuilderError> {
        Ok(self.store.put_node(&Node::new(entries).map_err(unsound)?)?)
    }

    fn entries(&self, node: &Node, name: &[u8]) -> Result<Vec<Entry>, BuilderError> {
        match node.get(name).map(|entry| &entry.kind) {
            Some(Kind::Dir { node }) => Ok(self.store.get_node(node)?.entries),
            _ => Ok(Vec::new()),
        }
    }

    fn file(&self, node: &Node, name: &[u8]) -> Result<Option<Bytes>, BuilderError> {
        let Some(Kind::File { blob, size, .. }) = node.get(name).map(|entry| &entry.kind) else {
            return Ok(None);
        };
        if *size > MAX_REF_BYTES.max(BARE_USER_CONFIG.len() as u64) {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let read = std::io::Read::read_to_end(&mut self.store.open_blob(blob)?, &mut bytes);
        read.map_err(|e| BuilderError::io(format!("cannot read the blob {blob}"), e))?;
        Ok(Some(bytes))
    }
}

fn file(name: &str, meta: Meta, (blob, size): (Blake3, u64)) -> Entry {
    Entry {
        name: name.as_bytes().to_vec(),
        meta,
        kind: Kind::File {
            size,
            blob,
            hardlink: None,
        },
    }
}

/// Names come from objects and refs, which manifests can hold.
#[allow(clippy::needless_pass_by_value, reason = "as `map_err` calls it")]
fn unsound(error: sos_formats::manifest::ManifestError) -> BuilderError {
    BuilderError::failed(format!("cannot describe the repository: {error}"))
}
