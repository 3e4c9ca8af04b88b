//! Commits out of a repository in the store, added to a repository of the machine.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::XattrFlags;
use sos_engine::BuilderError;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::{Blake3, Sha256};
use sos_formats::manifest::{Entry, Kind, Node};
use sos_formats::ostree::{CommitView, ObjectKind, Summary, SummaryRef, object_name};
use sos_store::Store;

use super::delta;
use super::destination::{STAGED, check_ref, clear_left, config_of, prepare};
use super::directory::{copy_blob, failed};
use super::lock::{Alone, OnWait};
use super::sign::Signers;

/// What was added to a repository.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Exported {
    /// Objects that were not there.
    pub objects: u64,
    /// Objects that were there.
    pub present: u64,
    /// Refs with the commits that they name now.
    pub refs: BTreeMap<String, Sha256>,
    /// Size of the static deltas that were written, in bytes.
    pub deltas: u64,
    /// The summary had a signature, which is gone: it was that of another summary.
    pub unsigned: bool,
}

/// What is done with a repository besides adding objects.
#[derive(Debug, Default)]
pub struct AddOptions<'a> {
    /// The name of the one ref; else refs keep theirs.
    pub branch: Option<&'a str>,
    /// Who signs commits and the summary.
    pub signers: Signers,
    /// Whether static deltas are written: from nothing, and from the commit before.
    pub deltas: bool,
    /// How many threads may work.
    pub cores: usize,
    /// Who is told that another export is at work there.
    pub on_wait: OnWait<'a>,
}

/// Adds everything of the repository `root` of the store to the one in `dest`, which is made when it is not there. Waits for another export into it.
///
/// Objects come before what names them and refs come last, after all is on the disk: whatever stops this, `dest` is sound.
///
/// # Errors
/// `Diagnostic` when `dest` is no repository of that mode or `root` none at all, `Io` when writing fails.
pub fn add_to_repository(
    store: &Store,
    root: &Blake3,
    dest: &Path,
    options: &AddOptions<'_>,
) -> Result<Exported, BuilderError> {
    let top = store.get_node(&store.get_root(root)?.node)?;
    let config = match top.get(b"config").map(|entry| &entry.kind) {
        Some(Kind::File { blob, .. }) => read_blob(store, blob)?,
        _ => {
            return Err(Diagnostic::error(
                "export-no-commit",
                Class::Usage,
                "this root filesystem is no OSTree commit",
            )
            .help("`sos.ostree { name; rootfs; }` makes one of it")
            .into());
        }
    };
    if config_of(dest)?.is_none() {
        fs::create_dir_all(dest).map_err(|e| failed("make the directory", dest, e))?;
    }
    // The summary tells of all refs, those of other exports among them.
    let alone = Alone::of(dest, options.on_wait)?;
    prepare(dest, &config)?;
    if alone.is_certain() {
        clear_left(dest);
    }
    let refs = Node {
        entries: children(store, &top, b"refs")?,
    };
    let mut found = BTreeMap::new();
    let heads = Node {
        entries: children(store, &refs, b"heads")?,
    };
    collect_refs(store, &heads, "", &mut found)?;
    for name in found.keys() {
        check_ref(dest, options.branch.unwrap_or(name))?;
    }
    let mut exported = Exported::default();
    let mut writer = Writer {
        store,
        dest,
        staged: 0,
    };
    // The order of kinds is that of what names what.
    let mut by_kind: BTreeMap<usize, Vec<(String, Entry)>> = BTreeMap::new();
    for dir in children(store, &top, b"objects")? {
        let Kind::Dir { node } = dir.kind else {
            continue;
        };
        let dir = String::from_utf8_lossy(&dir.name).into_owned();
        for entry in store.get_node(&node)?.entries {
            by_kind
                .entry(rank(&entry.name))
                .or_default()
                .push((dir.clone(), entry));
        }
    }
    for (dir, entry) in by_kind.into_values().flatten() {
        if writer.object(&dir, &entry)? {
            exported.objects += 1;
        } else {
            exported.present += 1;
        }
    }
    sync(dest)?;
    for commit in found.values() {
        let signed = !options.signers.is_empty() && writer.sign_commit(commit, &options.signers)?;
        let parent = read_commit(dest, commit)?.1.parent;
        for from in [None, parent.as_ref()]
            .into_iter()
            .take(1 + usize::from(parent.is_some()))
        {
            // Deltas carry the signatures of their commit, so that those there are written anew when somebody else signs.
            if options.deltas || signed && delta::exists(dest, from, commit) {
                exported.deltas += delta::write(dest, from, commit, options.cores)?;
            }
        }
    }
    sync(dest)?;
    for (name, commit) in found {
        let name = options.branch.map_or(name, str::to_owned);
        writer.replace(
            &dest.join("refs/heads").join(&name),
            format!("{commit}\n").as_bytes(),
        )?;
        exported.refs.insert(name, commit);
    }
    if top.get(b"summary").is_some() {
        exported.unsigned = writer.summary(&options.signers)?;
    }
    sync(dest)?;
    Ok(exported)
}

fn rank(name: &[u8]) -> usize {
    let order: [&[u8]; 3] = [b".dirmeta", b".dirtree", b".commit"];
    order
        .iter()
        .position(|ending| name.ends_with(ending))
        .map_or(0, |at| at + 1)
}

struct Writer<'a> {
    store: &'a Store,
    dest: &'a Path,
    staged: u64,
}

impl Drop for Writer<'_> {
    /// What stopped it has left one file at most: the last.
    fn drop(&mut self) {
        let last = self.dest.join(self.name());
        let _gone = fs::remove_file(last).is_err();
    }
}

impl Writer<'_> {
    /// Adds an object; `false` when it is there.
    fn object(&mut self, dir: &str, entry: &Entry) -> Result<bool, BuilderError> {
        let Kind::File { blob, .. } = &entry.kind else {
            return Ok(false);
        };
        let dir = self.dest.join("objects").join(dir);
        let path = dir.join(OsStr::from_bytes(&entry.name));
        if fs::symlink_metadata(&path).is_ok() {
            return Ok(false);
        }
        let staged = self.stage();
        copy_blob(self.store, blob, &staged)?;
        for (key, value) in &entry.meta.xattrs {
            rustix::fs::setxattr(&staged, key.as_slice(), value, XattrFlags::empty())
                .map_err(|e| failed("set an xattr of", &staged, e.into()))?;
        }
        let mode = std::os::unix::fs::PermissionsExt::from_mode(u32::from(entry.meta.mode));
        fs::set_permissions(&staged, mode).map_err(|e| failed("set the mode of", &staged, e))?;
        if !dir.is_dir() {
            fs::create_dir_all(&dir).map_err(|e| failed("make the directory", &dir, e))?;
        }
        fs::rename(&staged, &path).map_err(|e| failed("make", &path, e))?;
        Ok(true)
    }

    /// Signs a commit, besides those who have signed it already; `false` when all of them have.
    fn sign_commit(&mut self, commit: &Sha256, signers: &Signers) -> Result<bool, BuilderError> {
        let (bytes, view) = read_commit(self.dest, commit)?;
        let there = delta::detached(self.dest, commit)?;
        let signed = signers.sign(&bytes, view.timestamp, there.as_deref())?;
        if there.as_ref() != Some(&signed) {
            self.replace(&delta::detached_file(self.dest, commit), &signed)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Writes the summary, and its signatures when there is somebody to sign.
    /// Tells whether one that was signed no longer is.
    fn summary(&mut self, signers: &Signers) -> Result<bool, BuilderError> {
        let summary = summarise(self.dest)?;
        let bytes = summary.encode();
        let (file, signatures) = (self.dest.join("summary"), self.dest.join("summary.sig"));
        if fs::read(&file).is_ok_and(|there| there == bytes) && signers.is_empty() {
            return Ok(false);
        }
        // A signature of another summary would make every reader refuse this one.
        let was_signed = match fs::remove_file(&signatures) {
            Ok(()) => true,
            Err(e) if e.kind() == ErrorKind::NotFound => false,
            Err(e) => return Err(failed("remove", &signatures, e)),
        };
        self.replace(&file, &bytes)?;
        if !signers.is_empty() {
            let signed = signers.sign(&bytes, summary.modified(), None)?;
            self.replace(&signatures, &signed)?;
        }
        Ok(was_signed && signers.is_empty())
    }

    /// Replaces a file in one step.
    fn replace(&mut self, path: &Path, bytes: &[u8]) -> Result<(), BuilderError> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| failed("make the directory", parent, e))?;
        }
        let staged = self.stage();
        let write = || {
            let mut file = File::create_new(&staged)?;
            file.write_all(bytes)?;
            file.sync_data()?;
            fs::rename(&staged, path)
        };
        write().map_err(|e| failed("write", path, e))
    }

    fn name(&self) -> String {
        format!("tmp/{STAGED}{}-{}", std::process::id(), self.staged)
    }

    fn stage(&mut self) -> PathBuf {
        loop {
            self.staged += 1;
            let path = self.dest.join(self.name());
            // What a killed process with the same number left.
            if fs::symlink_metadata(&path).is_err() {
                return path;
            }
        }
    }
}

pub(super) fn sync(dest: &Path) -> Result<(), BuilderError> {
    let dir = File::open(dest).map_err(|e| failed("open", dest, e))?;
    rustix::fs::syncfs(&dir).map_err(|e| failed("write to the disk of", dest, e.into()))
}

fn children(store: &Store, node: &Node, name: &[u8]) -> Result<Vec<Entry>, BuilderError> {
    match node.get(name).map(|entry| &entry.kind) {
        Some(Kind::Dir { node }) => Ok(store.get_node(node)?.entries),
        _ => Ok(Vec::new()),
    }
}

fn collect_refs(
    store: &Store,
    node: &Node,
    prefix: &str,
    found: &mut BTreeMap<String, Sha256>,
) -> Result<(), BuilderError> {
    for entry in &node.entries {
        let name = format!("{prefix}{}", String::from_utf8_lossy(&entry.name));
        match &entry.kind {
            Kind::Dir { node } => {
                let below = store.get_node(node)?;
                collect_refs(store, &below, &format!("{name}/"), found)?;
            }
            Kind::File { blob, .. } => {
                let text = read_blob(store, blob)?;
                let commit = String::from_utf8_lossy(&text).trim_end().parse();
                let commit = commit.map_err(|e| {
                    BuilderError::failed(format!("the ref `{name}` names no commit: {e}"))
                })?;
                found.insert(name, commit);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Describes the refs that a repository has now.
fn summarise(dest: &Path) -> Result<Summary, BuilderError> {
    let heads = dest.join("refs/heads");
    let mut summary = Summary::default();
    for entry in walkdir::WalkDir::new(&heads).sort_by_file_name() {
        let entry = entry.map_err(|e| BuilderError::failed(format!("cannot read refs: {e}")))?;
        let (path, Ok(name)) = (entry.path(), entry.path().strip_prefix(&heads)) else {
            continue;
        };
        if !entry.file_type().is_file() {
            continue;
        }
        let (text, name) = (
            fs::read_to_string(path).map_err(|e| failed("read", path, e))?,
            name.to_string_lossy().into_owned(),
        );
        let broken = |what: String| {
            BuilderError::failed(format!("the ref `{name}` of `{}` {what}", dest.display()))
        };
        let commit: Sha256 = text
            .trim_end()
            .parse()
            .map_err(|e| broken(format!("names no commit: {e}")))?;
        let (bytes, view) = read_commit(dest, &commit)?;
        summary.refs.insert(
            name,
            SummaryRef {
                commit,
                size: bytes.len() as u64,
                timestamp: view.timestamp,
                version: view.version,
            },
        );
    }
    summary.deltas = delta::list(dest)?.into_iter().collect();
    Ok(summary)
}

fn read_commit(dest: &Path, commit: &Sha256) -> Result<(Vec<u8>, CommitView), BuilderError> {
    let (dir, file) = object_name(commit, ObjectKind::Commit);
    let object = dest.join("objects").join(dir).join(file);
    let bytes = fs::read(&object).map_err(|e| failed("read", &object, e))?;
    let view = CommitView::decode(&bytes)
        .map_err(|e| BuilderError::failed(format!("the commit {commit} is damaged: {e}")))?;
    Ok((bytes, view))
}

fn read_blob(store: &Store, blob: &Blake3) -> Result<Vec<u8>, BuilderError> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut store.open_blob(blob)?, &mut bytes)
        .map_err(|e| BuilderError::io(format!("cannot read the blob {blob}"), e))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_killed_exports_left_goes() {
        let dir = tempfile::tempdir().expect("a directory");
        let tmp = dir.path().join("tmp");
        fs::create_dir_all(tmp.join("sos-delta-7")).expect("a directory");
        fs::create_dir(tmp.join("sos-delta-mine")).expect("a directory");
        // Numbers say nothing: this process has one in another container, too.
        let own = std::process::id();
        for name in ["sos-1-1", &format!("sos-{own}-9"), "sos-notes", "cache"] {
            fs::write(tmp.join(name), "half").expect("written");
        }
        fs::write(tmp.join("sos-delta-7/superblock"), "half").expect("written");
        clear_left(dir.path());
        let left = || {
            let all = fs::read_dir(&tmp).expect("a directory");
            let names = all.map(|one| one.expect("a file").file_name());
            let mut names: Vec<_> = names.map(|name| name.display().to_string()).collect();
            names.sort();
            names
        };
        let stays = ["cache", "sos-delta-mine", "sos-notes"];
        assert_eq!(left(), stays);
        // An error in the middle leaves nothing of its own.
        let store = crate::build::fake::Fake::new();
        let mut writer = Writer {
            store: &store.store,
            dest: dir.path(),
            staged: 0,
        };
        fs::write(writer.stage(), "half").expect("written");
        drop(writer);
        assert_eq!(left(), stays);
    }
}
