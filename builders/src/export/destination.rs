//! The repository that commits are added to: what is there, and what is made of nothing or of what was left.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use sos_engine::BuilderError;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::ostree::REPOSITORY_DIRS;

use super::directory::failed;

/// How the names of files begin that are being written; the process and a number follow. Of deltas `delta-` and the process do.
pub(super) const STAGED: &str = "sos-";

/// Looks whether a ref can be beside those that are there: each is a file, and none can lie in another.
pub(super) fn check_ref(dest: &Path, name: &str) -> Result<(), BuilderError> {
    let heads = dest.join("refs/heads");
    let is_ref = |name: &&str| heads.join(name).is_file();
    let mut above = name.match_indices('/').map(|(at, _)| &name[..at]);
    let below = || {
        let mut all = walkdir::WalkDir::new(heads.join(name))
            .min_depth(1)
            .into_iter();
        let first = all.find_map(|entry| entry.ok().filter(|entry| entry.file_type().is_file()))?;
        let path = first.path().strip_prefix(&heads).ok()?;
        Some(path.to_string_lossy().into_owned())
    };
    let Some(other) = above.find(is_ref).map(str::to_owned).or_else(below) else {
        return Ok(());
    };
    let message = format!(
        "the repository `{}` has the ref `{other}`, and beside that there can be no `{name}`",
        dest.display()
    );
    let problem = Diagnostic::error("export-destination", Class::Usage, message);
    Err(problem
        .help(format!("name another ref behind the repository, or remove the other one first: `ostree refs --delete {other}`"))
        .into())
}

/// Looks whether `dest` is a repository or can become one. Nothing is written.
///
/// # Errors
/// `Diagnostic` when something else is there, `Io` when it cannot be read.
pub fn check_repository(dest: &Path) -> Result<(), BuilderError> {
    config_of(dest).map(|_| ())
}

/// Reads the configuration of the repository that is there, if something is there.
pub(super) fn config_of(dest: &Path) -> Result<Option<String>, BuilderError> {
    look(dest, false)
}

fn look(dest: &Path, is_second: bool) -> Result<Option<String>, BuilderError> {
    let other = |what: &str| {
        let message = format!("`{}` is no OSTree repository", dest.display());
        Diagnostic::error("export-not-a-repository", Class::Usage, message)
            .note(format!("it is {what}"))
            .help("name a repository, or a directory that is not there yet")
            .into()
    };
    match fs::metadata(dest) {
        Ok(there) if there.is_dir() => {}
        Ok(_) => return Err(other("no directory, but a file")),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return match fs::symlink_metadata(dest) {
                Ok(_) => Err(other("a link that leads nowhere")),
                Err(_) => Ok(None),
            };
        }
        Err(error) => return Err(failed("read", dest, error)),
    }
    let file = dest.join("config");
    match fs::read(&file) {
        Ok(found) => {
            let found = String::from_utf8_lossy(&found).into_owned();
            // One that was begun on a full disk.
            if found.is_empty() && is_begun(dest).unwrap_or(false) {
                return Ok(None);
            }
            // Without a mode it is a bare one; a repository of git has a `config`, too.
            if !found.lines().any(|line| line.starts_with("repo_version")) {
                return Err(other(
                    "a directory whose `config` is that of something else",
                ));
            }
            Ok(Some(found))
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) => {
            if is_begun(dest).map_err(|e| failed("read", dest, e))? {
                return Ok(None);
            }
            // Another export may just have made it.
            if !is_second && error.kind() == ErrorKind::NotFound && file.exists() {
                return look(dest, true);
            }
            Err(other("a directory with something else in it"))
        }
        Err(error) => Err(failed("read", &file, error)),
    }
}

/// Whether there is nothing in a directory but what [`prepare`] makes before the configuration is whole: directories, and that file
/// without a byte in it.
fn is_begun(dest: &Path) -> std::io::Result<bool> {
    for entry in walkdir::WalkDir::new(dest).min_depth(1) {
        let entry = entry?;
        let path = entry.path().strip_prefix(dest).unwrap_or(entry.path());
        let mut known = REPOSITORY_DIRS.iter().chain(&["objects"]);
        let fits = if entry.file_type().is_dir() {
            known.any(|dir| Path::new(dir).starts_with(path))
        } else {
            let is_draft = path.parent() == Some(Path::new("tmp"))
                && entry.file_name().as_bytes().starts_with(STAGED.as_bytes());
            entry.file_type().is_file()
                && (is_draft || path == Path::new("config") && entry.metadata()?.len() == 0)
        };
        if !fits {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes the directories of a repository, or looks whether the one that is there keeps its files in the same way.
pub(super) fn prepare(dest: &Path, config: &[u8]) -> Result<(), BuilderError> {
    let Some(found) = config_of(dest)? else {
        let make =
            |dir: &Path| fs::create_dir_all(dir).map_err(|e| failed("make the directory", dir, e));
        // The place itself first, which is what can be wrong.
        make(dest)?;
        for dir in REPOSITORY_DIRS.iter().chain(&["objects"]) {
            make(&dest.join(dir))?;
        }
        // Last, and whole or not at all: what has it is a repository.
        let (file, staged) = (
            dest.join("config"),
            dest.join(format!("tmp/{STAGED}{}-0", std::process::id())),
        );
        let written = fs::write(&staged, config).and_then(|()| fs::rename(&staged, &file));
        return written.map_err(|e| {
            // The error tells more than what is left of the file.
            let _left = fs::remove_file(&staged).is_err();
            failed("write", &file, e)
        });
    };
    let mode = |text: &str| {
        let mut lines = text.lines().map(str::trim);
        let mode = lines.find_map(|line| line.strip_prefix("mode=").map(str::to_owned));
        let mode = mode.unwrap_or_else(|| "bare".to_owned());
        mode.trim_end_matches("-z2").to_owned()
    };
    let (there, here) = (mode(&found), mode(&String::from_utf8_lossy(config)));
    if there == here {
        return Ok(());
    }
    let message = format!(
        "the repository `{}` keeps its files in another mode",
        dest.display()
    );
    Err(
        Diagnostic::error("export-repository-mode", Class::Usage, message)
            .note(format!("it is `{there}`, the commit is for `{here}`"))
            .help("name a repository of that mode, or a directory that is not there yet")
            .into(),
    )
}

/// Removes what exports have left that were killed, for who has the lock of the repository: nobody else is at work there.
pub(super) fn clear_left(dest: &Path) {
    let is_number = |part: &str| part.parse::<u64>().is_ok();
    for entry in fs::read_dir(dest.join("tmp"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let left = name.to_str().and_then(|name| name.strip_prefix(STAGED));
        let _stays = match left.and_then(|left| left.split_once('-')) {
            Some(("delta", of)) if is_number(of) => fs::remove_dir_all(entry.path()).is_err(),
            Some((of, number)) if is_number(of) && is_number(number) => {
                fs::remove_file(entry.path()).is_err()
            }
            _ => false,
        };
    }
}
