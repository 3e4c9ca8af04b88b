//! Flakes as targets: which one is meant, and which of its outputs.

use std::path::{Path, PathBuf};

use sos_builders::tree::{Settings, Trees};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::flake_ref::{self, Attr, FlakeRef};
use sos_lang::{Evaluator, FlakeLocks, Value};
use sos_recipes::LockMode;

use crate::evaluate::Mode;
use crate::failure::Failure;
use crate::run;
use crate::session::Session;
use crate::target::Target;

/// What begins a reference that is no path.
const SCHEMES: &[&str] = &[
    "path:",
    "git:",
    "git+",
    "hg+",
    "tarball+",
    "file+",
    "file:",
    "http:",
    "https:",
    "github:",
    "gitlab:",
    "sourcehut:",
    "flake:",
];

/// Whether a text names a flake by a URL.
pub(crate) fn is_url(text: &str) -> bool {
    SCHEMES.iter().any(|s| text.starts_with(s))
}

/// The flake that a URL names, and the attribute behind `#`.
///
/// # Errors
/// `target-bad-flake` when it names none.
pub(crate) fn of_url(text: &str) -> Result<(FlakeRef, String), Box<Diagnostic>> {
    let (mut reference, attr) = FlakeRef::parse(text, true).map_err(|e| bad(text, &e.0))?;
    if reference.is_relative() {
        let path = flake_ref::text(&reference.tree, "path").unwrap_or_default();
        let path = tidy(Path::new(path));
        let path = path.to_string_lossy().into_owned();
        reference.tree.insert("path".into(), Attr::Str(path));
    }
    Ok((reference, attr))
}

fn bad(text: &str, why: &str) -> Box<Diagnostic> {
    Box::new(
        Diagnostic::error(
            "target-bad-flake",
            Class::Usage,
            format!("`{text}` names no flake: {why}"),
        )
        .help("flakes are named as in `path:/dir`, `git+file:///dir`, `github:owner/repo`, or by their directory"),
    )
}

/// The flake in a directory: part of the git repository around it, or the directory as it is.
///
/// # Errors
/// `target-bad-flake` when the path cannot be written as a URL.
pub(crate) fn of_directory(dir: &Path) -> Result<FlakeRef, Box<Diagnostic>> {
    let dir = tidy(dir);
    // `git+file:` names the place where it really is.
    let dir = std::fs::canonicalize(&dir).unwrap_or(dir);
    let shown = dir.display().to_string();
    let top = dir.ancestors().find(|d| d.join(".git").exists());
    let text = |p: &Path| {
        p.to_str()
            .map(str::to_owned)
            .ok_or_else(|| bad(&shown, "its path is not UTF-8"))
    };
    let mut attrs = flake_ref::Attrs::new();
    let mut add = |k: &str, v: String| attrs.insert(k.to_owned(), Attr::Str(v));
    match top {
        Some(top) => {
            add("type", "git".into());
            let url = flake_ref::Url {
                scheme: "file".into(),
                authority: Some(String::new()),
                path: text(top)?,
                query: std::collections::BTreeMap::new(),
                fragment: String::new(),
            };
            add("url", url.to_string());
            let inside = dir.strip_prefix(top).unwrap_or(Path::new(""));
            if !inside.as_os_str().is_empty() {
                add("dir", text(inside)?);
            }
            if top.join(".git/shallow").is_file() {
                attrs.insert("shallow".into(), Attr::Bool(true));
            }
        }
        None => {
            add("type", "path".into());
            add("path", text(&dir)?);
        }
    }
    FlakeRef::from_attrs(attrs).map_err(|e| bad(&shown, &e.0))
}

/// An absolute path without `.` and `..`.
fn tidy(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(out.pop()),
            std::path::Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

/// The value of a target in a flake: `packages.<system>.X`, `legacyPackages.<system>.X`, or `X`.
///
/// # Errors
/// Problems of the flake; `flake-no-attribute` when it does not have the attribute.
pub(crate) fn value(
    session: &Session,
    evaluator: &Evaluator,
    reference: &FlakeRef,
    target: &Target,
    mode: &Mode,
) -> Result<Value, Box<Diagnostic>> {
    let locks = match (&mode.lock, mode.write_locks) {
        (LockMode::Locked, _) => FlakeLocks::Refuse,
        (_, true) => FlakeLocks::Write,
        (_, false) => FlakeLocks::Keep,
    };
    let update = match &mode.lock {
        LockMode::Update(names) => Some(names.as_slice()),
        _ => None,
    };
    let whole = evaluator.eval_flake(reference, locks, update)?;
    if mode.only_lock {
        return Ok(whole);
    }
    let system = &session.config.system;
    let attr = target.attr.as_str();
    let paths: Vec<String> = match attr.strip_prefix('.') {
        _ if attr.is_empty() => vec![
            format!("packages.{system}.default"),
            format!("defaultPackage.{system}"),
        ],
        Some(exact) => vec![exact.to_owned()],
        None => vec![
            format!("packages.{system}.{attr}"),
            format!("legacyPackages.{system}.{attr}"),
            attr.to_owned(),
        ],
    };
    if let Some(found) = evaluator.select_first(whole, &paths)? {
        return Ok(found);
    }
    let (last, before) = match paths.split_last() {
        Some((last, [])) => (format!("'{last}'"), String::new()),
        Some((last, before)) => (
            format!("'{last}'"),
            format!("'{}' or ", before.join("', '")),
        ),
        None => (String::new(), String::new()),
    };
    let mut d = Diagnostic::error(
        "flake-no-attribute",
        Class::Recipe,
        format!(
            "flake '{}' does not provide attribute {before}{last}",
            reference.to_url().unwrap_or_default()
        ),
    );
    let mut names = evaluator.attr_names(whole)?;
    let packages = [format!("packages.{system}")];
    if let Some(set) = evaluator.select_first(whole, &packages)? {
        names.extend(evaluator.attr_names(set)?);
    }
    d = d.suggest(attr, names.iter().map(String::as_str));
    Err(Box::new(d))
}

/// What fetches the trees of flakes and of `fetchGit`.
///
/// # Errors
/// When the store cannot be opened.
pub(crate) fn trees(session: &Session, offline: bool) -> Result<Trees, Failure> {
    let env = &session.env;
    let cache = env
        .all
        .get("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|p| p.is_absolute())
        .or_else(|| env.home.as_ref().map(|h| h.join(".cache")))
        .map_or_else(|| session.config.store_dir.join("cache"), |c| c.join("sos"));
    let forges = ["github", "gitlab", "sourcehut"].into_iter();
    let forges = forges.filter_map(|name| {
        let of_env = env.mirrors.get(name).map(String::as_str);
        let of_config = session.config.mirrors.get(name).and_then(|all| all.first());
        let template = of_env.or(of_config.map(String::as_str))?;
        Some((name.to_owned(), template.trim().to_owned()))
    });
    let settings = Settings {
        cache,
        environment: env.all.clone(),
        offline,
        forges: forges.collect(),
    };
    Ok(Trees::new(
        session.store()?.clone(),
        run::fetcher(session, offline),
        settings,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_in_a_repository_is_part_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let top = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::create_dir_all(top.join("a b/c")).unwrap();
        let plain = of_directory(&top.join("a b/./c/../c")).unwrap();
        assert_eq!(
            plain.to_url().unwrap(),
            format!("path:{}/a%20b/c", top.display())
        );
        std::fs::create_dir(top.join("a b/.git")).unwrap();
        let of_git = of_directory(&top.join("a b/c")).unwrap();
        assert_eq!(
            of_git.to_url().unwrap(),
            format!("git+file://{}/a%20b?dir=c", top.display())
        );
    }

    #[test]
    fn urls_are_told_from_paths() {
        assert!(is_url("path:./x"));
        assert!(is_url("github:o/r"));
        assert!(!is_url("./path:x"));
        assert!(!is_url("x.nix"));
        assert_eq!(of_url("nonsense+x:y").unwrap_err().code, "target-bad-flake");
        let (reference, attr) = of_url("path:./x#a.b").unwrap();
        assert!(!reference.is_relative());
        assert_eq!(attr, "a.b");
    }
}
