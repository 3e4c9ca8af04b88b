//! The lock files of a session: read when first asked, kept in memory, written once at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use sos_formats::diagnostic::{Class, Diagnostic, SourceFile};
use sos_formats::lock::{ImageEntry, RootfsEntry, RootfsLocked, RootfsRequest, SosLock, UrlEntry};

use crate::report::{Change, LockReport};

/// Name of the lock file.
pub const LOCK_FILE: &str = "sos.lock";

/// What may happen to the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockMode {
    /// What is missing or stale is resolved and written, as `sos build` does.
    Create,
    /// Nothing may change: what is missing or stale is an error (`--locked`).
    Locked,
    /// Everything that is used is resolved again; with names (of recipe files, URLs or images), only that (`sos lock --update NAME`).
    Update(Vec<String>),
    /// Nothing is fetched and nothing fails: what is missing counts as empty (`sos check`). The plan is not fit to be built.
    Preview,
}

/// How the world outside is asked for what a recipe leaves open.
pub trait Pins: Send + Sync {
    /// Resolves the packages of a root filesystem.
    ///
    /// # Errors
    /// Every problem that was found.
    fn lock_rootfs(&self, request: &RootfsRequest) -> Result<RootfsLocked, Vec<Diagnostic>>;

    /// Fetches a URL and returns the digest and size of its content.
    ///
    /// # Errors
    /// Why it could not be fetched.
    fn lock_url(&self, url: &str) -> Result<UrlEntry, Box<Diagnostic>>;

    /// Asks a registry what an image's name leads to now: `HOST/NAME[:TAG]`, `latest` when there is no tag.
    ///
    /// # Errors
    /// Why the registry did not tell.
    fn lock_image(&self, reference: &str) -> Result<ImageEntry, Box<Diagnostic>>;
}

/// One lock file that was opened.
#[derive(Debug)]
struct Open {
    /// The text on disk; absent when there is no file.
    original: Option<String>,
    lock: SosLock,
    changes: Vec<Change>,
    /// What was resolved in this session and is fresh, whatever the mode says.
    fresh: BTreeSet<String>,
}

/// All lock files of a session, by directory.
#[derive(Debug)]
pub(crate) struct Locks {
    mode: LockMode,
    /// What to run when something is not pinned.
    command: String,
    open: BTreeMap<PathBuf, Open>,
}

/// Where an entry stands in relation to its recipe.
enum State {
    Fresh,
    Missing,
    Stale,
}

impl Locks {
    pub(crate) fn new(mode: LockMode, command: &str) -> Self {
        Self {
            mode,
            command: command.to_owned(),
            open: BTreeMap::new(),
        }
    }

    /// Returns the paths of the lock files that were asked for, whether they exist or not.
    pub(crate) fn paths(&self) -> impl Iterator<Item = PathBuf> {
        self.open.keys().map(|dir| dir.join(LOCK_FILE))
    }

    /// Returns the text of every lock file that was asked for, as it was when the answers came from it; none for a file that
    /// does not exist. None at all when a lock changed and was not written.
    pub(crate) fn texts(&self) -> Option<Vec<(PathBuf, Option<String>)>> {
        let text = |(dir, open): (&PathBuf, &Open)| {
            let path = dir.join(LOCK_FILE);
            open.changes
                .is_empty()
                .then(|| (path, open.original.clone()))
        };
        self.open.iter().map(text).collect()
    }

    /// Returns the packages of a recipe, resolving them where the mode allows.
    pub(crate) fn rootfs(
        &mut self,
        dir: &Path,
        recipe: &str,
        request: &RootfsRequest,
        pins: &dyn Pins,
    ) -> Result<RootfsLocked, Vec<Diagnostic>> {
        let (mode, command) = (self.mode.clone(), self.command.clone());
        let open = self.open(dir).map_err(|e| vec![*e])?;
        let digest = request.digest();
        let entry = open.lock.rootfs(recipe, &request.arch);
        let state = match entry {
            None => State::Missing,
            Some(e) if e.digest != digest => State::Stale,
            Some(_) => State::Fresh,
        };
        let again = mode.updates(recipe) && !open.fresh.contains(recipe);
        match (&state, &mode) {
            (State::Fresh, _) if !again => {
                return Ok(entry.map(|e| e.locked.clone()).unwrap_or_default());
            }
            (State::Missing, LockMode::Preview) => return Ok(RootfsLocked::default()),
            (_, LockMode::Preview) => {
                return Ok(entry.map(|e| e.locked.clone()).unwrap_or_default());
            }
            (State::Missing, LockMode::Locked) => {
                let what = format!("the packages of `{recipe}`");
                return Err(vec![missing(&what, open, &command)]);
            }
            (State::Stale, LockMode::Locked) => return Err(vec![stale(recipe, &command)]),
            _ => {}
        }
        let before = entry.cloned();
        let locked = pins.lock_rootfs(request)?;
        let after = RootfsEntry {
            recipe: recipe.to_owned(),
            arch: request.arch.clone(),
            digest,
            locked: locked.clone(),
        };
        open.fresh.insert(recipe.to_owned());
        open.lock.set_rootfs(after.clone());
        if before.as_ref() != Some(&after) {
            open.changes.push(Change::Rootfs { before, after });
        }
        Ok(locked)
    }

    /// Returns the pinned content of a URL, fetching it where the mode allows.
    pub(crate) fn url(
        &mut self,
        dir: &Path,
        url: &str,
        pins: &dyn Pins,
    ) -> Result<Option<UrlEntry>, Box<Diagnostic>> {
        let (mode, command) = (self.mode.clone(), self.command.clone());
        let open = self.open(dir)?;
        let before = open.lock.url(url).cloned();
        let again = mode.updates(url) && !open.fresh.contains(url);
        match (&before, &mode) {
            (Some(_), _) if !again => return Ok(before),
            (None, LockMode::Preview) => return Ok(None),
            (None, LockMode::Locked) => {
                let what = format!("the content of `{url}`");
                return Err(Box::new(missing(&what, open, &command)));
            }
            _ => {}
        }
        let after = UrlEntry {
            url: url.to_owned(),
            ..pins.lock_url(url)?
        };
        open.fresh.insert(url.to_owned());
        open.lock.set_url(after.clone());
        if before.as_ref() != Some(&after) {
            open.changes.push(Change::Url {
                before,
                after: after.clone(),
            });
        }
        Ok(Some(after))
    }

    /// Returns what an image of a registry is pinned to, asking the registry where the mode allows.
    pub(crate) fn image(
        &mut self,
        dir: &Path,
        reference: &str,
        pins: &dyn Pins,
    ) -> Result<Option<ImageEntry>, Box<Diagnostic>> {
        let (mode, command) = (self.mode.clone(), self.command.clone());
        let open = self.open(dir)?;
        let before = open.lock.image(reference).cloned();
        let again = mode.updates(reference) && !open.fresh.contains(reference);
        match (&before, &mode) {
            (Some(_), _) if !again => return Ok(before),
            (None, LockMode::Preview) => return Ok(None),
            (None, LockMode::Locked) => {
                let what = format!("the digest of the image `{reference}`");
                return Err(Box::new(missing(&what, open, &command)));
            }
            _ => {}
        }
        let after = ImageEntry {
            reference: reference.to_owned(),
            ..pins.lock_image(reference)?
        };
        open.fresh.insert(reference.to_owned());
        open.lock.set_image(after.clone());
        if before.as_ref() != Some(&after) {
            open.changes.push(Change::Image {
                before,
                after: after.clone(),
            });
        }
        Ok(Some(after))
    }

    fn open(&mut self, dir: &Path) -> Result<&mut Open, Box<Diagnostic>> {
        if !self.open.contains_key(dir) {
            let path = dir.join(LOCK_FILE);
            let original = match fs::read_to_string(&path) {
                Ok(text) => Some(text),
                Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                Err(e) => return Err(unreadable(&path, &e)),
            };
            let lock = match &original {
                Some(text) => {
                    SosLock::parse(text).map_err(|e| Box::new(damaged(&path, text, &e)))?
                }
                None => SosLock::new(),
            };
            let open = Open {
                original,
                lock,
                changes: Vec::new(),
                fresh: BTreeSet::new(),
            };
            self.open.insert(dir.to_owned(), open);
        }
        let closed = || {
            let message = "the lock was not opened".to_owned();
            Box::new(machine("lock-unreadable", message))
        };
        self.open.get_mut(dir).ok_or_else(closed)
    }

    /// Writes every lock that changed and says what changed in it.
    pub(crate) fn write(&mut self) -> Result<Vec<LockReport>, Box<Diagnostic>> {
        let mut reports = Vec::new();
        for (dir, open) in &mut self.open {
            if open.changes.is_empty() {
                continue;
            }
            let path = dir.join(LOCK_FILE);
            let text = open.lock.to_text();
            write_atomically(&path, text.as_bytes()).map_err(|e| unwritable(&path, &e))?;
            let created = open.original.replace(text).is_none();
            reports.push(LockReport {
                path,
                created,
                changes: std::mem::take(&mut open.changes),
            });
        }
        Ok(reports)
    }
}

impl LockReport {
    /// Takes back what this report says of images: their entries become what they were before, unless somebody has changed them since.
    /// A file that was made for them goes when nothing is left in it. Returns the references whose entries were taken back.
    ///
    /// # Errors
    /// `lock-unreadable`, `lock-damaged` or `lock-unwritable` when the file cannot be read or written.
    pub fn unpin(&self, references: &[&str]) -> Result<Vec<String>, Box<Diagnostic>> {
        let text = fs::read_to_string(&self.path).map_err(|e| unreadable(&self.path, &e))?;
        let mut lock =
            SosLock::parse(&text).map_err(|e| Box::new(damaged(&self.path, &text, &e)))?;
        let mut taken = Vec::new();
        for change in &self.changes {
            let Change::Image { before, after } = change else {
                continue;
            };
            let is_meant = references.contains(&after.reference.as_str());
            if !is_meant || lock.image(&after.reference) != Some(after) {
                continue;
            }
            match before {
                Some(before) => lock.set_image(before.clone()),
                None => {
                    lock.remove_image(&after.reference);
                }
            }
            taken.push(after.reference.clone());
        }
        let written = match (taken.is_empty(), self.created && lock.is_empty()) {
            (true, _) => Ok(()),
            (false, true) => fs::remove_file(&self.path),
            (false, false) => write_atomically(&self.path, lock.to_text().as_bytes()),
        };
        written.map_err(|e| unwritable(&self.path, &e))?;
        Ok(taken)
    }
}

impl LockMode {
    fn updates(&self, name: &str) -> bool {
        match self {
            Self::Update(names) => names.is_empty() || names.iter().any(|n| n == name),
            _ => false,
        }
    }
}

fn missing(what: &str, open: &Open, command: &str) -> Diagnostic {
    let message = match open.original {
        None => format!("there is no `{LOCK_FILE}`, and {what} must come from it"),
        Some(_) => format!("{what} is not pinned in `{LOCK_FILE}`")
            .replace("packages of", "list of packages of"),
    };
    Diagnostic::error("lock-missing", Class::Recipe, message)
        .note("`--locked` allows no change of the lock")
        .help(format!("run `{command}` and commit the file"))
}

fn stale(recipe: &str, command: &str) -> Diagnostic {
    Diagnostic::error(
        "lock-stale",
        Class::Recipe,
        format!("`{recipe}` asks for other packages than `{LOCK_FILE}` pins"),
    )
    .note("the suites, packages or keys of the recipe changed after it was locked")
    .help(format!("run `{command}` and commit the file"))
}

fn damaged(path: &Path, text: &str, e: &sos_formats::lock::LockError) -> Diagnostic {
    let mut problem = Diagnostic::error(
        "lock-damaged",
        Class::Recipe,
        format!("`{LOCK_FILE}` cannot be used: {e}"),
    );
    if let Some(span) = e.span() {
        let file = SourceFile::new(path.display().to_string(), text);
        problem = problem.label(&file, span, "here");
    }
    problem.help(format!(
        "restore the file, or remove it and run `sos lock` ({})",
        path.display()
    ))
}

fn machine(code: &'static str, message: String) -> Diagnostic {
    Diagnostic::error(code, Class::Machine, message)
}

fn unreadable(path: &Path, e: &io::Error) -> Box<Diagnostic> {
    let message = format!("`{}` cannot be read: {e}", path.display());
    Box::new(machine("lock-unreadable", message))
}

fn unwritable(path: &Path, e: &io::Error) -> Box<Diagnostic> {
    let message = format!("`{}` cannot be written: {e}", path.display());
    Box::new(machine("lock-unwritable", message))
}

/// A reader sees the old file or the new one, never a part. The name of the new one is always the same: what a killed
/// run leaves behind is taken over by the next one that writes.
fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_file_name(format!(".{LOCK_FILE}.new"));
    let mut file = open_locked(&temporary)?;
    let written = file
        .set_len(0)
        .and_then(|()| file.write_all(bytes))
        .and_then(|()| file.sync_all());
    let done = written.and_then(|()| fs::rename(&temporary, path));
    if done.is_err() {
        // The first error is the one worth telling.
        let _ignored = fs::remove_file(&temporary);
    }
    done
}

/// Opens a file that no other process writes; waits for one that does.
fn open_locked(path: &Path) -> io::Result<fs::File> {
    loop {
        // A link in a project that somebody else made must not lead the text elsewhere.
        if fs::symlink_metadata(path).is_ok_and(|m| !m.is_file()) {
            fs::remove_file(path)?;
        }
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        file.lock()?;
        let mine = file.metadata()?;
        // Whoever held it has given it its real name by now.
        if fs::symlink_metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == (mine.dev(), mine.ino()))
        {
            return Ok(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn what_a_killed_run_left_goes_with_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LOCK_FILE);
        let left = dir.path().join(".sos.lock.new");
        fs::write(&left, "half of a much longer te").unwrap();
        write_atomically(&path, b"whole").unwrap();
        assert_eq!(names(dir.path()), [LOCK_FILE]);
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        // A link is not followed.
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &left).unwrap();
        write_atomically(&path, b"again").unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert_eq!(fs::read(&path).unwrap(), b"again");
    }

    #[test]
    fn two_who_write_at_once_leave_one_whole_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LOCK_FILE);
        std::thread::scope(|scope| {
            for byte in [b'a', b'b', b'c', b'd'] {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..20 {
                        write_atomically(path, &[byte; 5000]).unwrap();
                    }
                });
            }
        });
        let text = fs::read(&path).unwrap();
        assert!(text.len() == 5000 && text.iter().all(|b| *b == text[0]));
        assert_eq!(names(dir.path()), [LOCK_FILE]);
    }
}
