//! Trees of this machine that flakes and fetchers take: directories, and git repositories with their working trees.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use sos_formats::flake_ref::{self, Attrs, Url};
use sos_formats::hash::Blake3;
use sos_lang::TreeRequest;

use super::inputs::Local;
use super::look;
use super::names::Names;
use super::walk::{self, Look, Print};
use crate::host::StoreHost;

/// How a fetched tree can be told to be the same later.
pub(super) enum Kind {
    /// What was asked for says what comes.
    Pinned,
    /// It lies there and can be looked at.
    Local(PathBuf),
    /// It is a part of a tree that was fetched before it, which is at this path.
    Part(PathBuf),
    /// It may be another one tomorrow.
    Open,
}

/// Which kind a request is.
pub(super) fn kind(request: &TreeRequest) -> Kind {
    let attrs = &request.attrs;
    let text = |name| flake_ref::text(attrs, name);
    // Whatever hash is asked for: the tree that it is a part of may change, and then it is compared with what is there.
    if let Some(base) = &request.base
        && flake_ref::kind(attrs) == "path"
        && text("path").is_some_and(|path| !path.starts_with('/'))
    {
        return Kind::Part(base.clone());
    }
    if text("narHash").is_some() || (text("rev").is_some() && flake_ref::kind(attrs) != "tarball") {
        return Kind::Pinned;
    }
    match flake_ref::kind(attrs) {
        "path" => match text("path") {
            Some(path) if path.starts_with('/') => Kind::Local(path.into()),
            _ => Kind::Open,
        },
        "git" => match Url::parse(text("url").unwrap_or_default()) {
            Ok(url) if url.scheme == "file" => Kind::Local(url.path.into()),
            _ => Kind::Open,
        },
        _ => Kind::Open,
    }
}

/// Takes the print of everything that fetching may look at: all files, directories with their times; of a repository what says which
/// commit and which files are meant, and the files that it tracks. Nothing when that is not to be told by looking.
pub(super) fn print(
    place: &Path,
    attrs: &Attrs,
    tracked: &[u8],
    now_nanos: i128,
) -> Option<Blake3> {
    if flake_ref::flag(attrs, "submodules") {
        return None;
    }
    // Links on the way lead to the tree; those in it are part of it.
    let place = std::fs::canonicalize(place).ok()?;
    if !look::keeps_times(&place) {
        return None;
    }
    let look = Look {
        now_nanos,
        taken: None,
        directory_times: true,
        skip: None,
    };
    if flake_ref::kind(attrs) != "git" {
        return walk::tree(&place, look)?.finish();
    }
    let (own, common) = git_dirs(&place)?;
    let mut print = Print::default();
    for (dir, name) in [
        (&own, "HEAD"),
        (&own, "index"),
        (&common, "config"),
        (&common, "packed-refs"),
        (&common, "shallow"),
        (&common, "refs"),
        (&common, "info"),
    ] {
        let part = dir.join(name);
        // What is not there shows as that; the parts are told apart by their place in the sum.
        if std::fs::symlink_metadata(&part).is_err_and(|e| e.kind() == ErrorKind::NotFound) {
            print.add(Path::new(name), sos_lang::FileType::Unknown, None, false);
        } else {
            print.merge(&walk::tree(&part, look)?);
        }
    }
    let names: Vec<&[u8]> = tracked
        .split(|b| *b == 0)
        .filter(|n| !n.is_empty())
        .collect();
    print.merge(&walk::files(&place, &names, now_nanos)?);
    print.finish()
}

/// The names in a directory that is fetched as it is. Its place may be a link, which is noted by itself.
pub(super) fn names(place: &Path, attrs: &Attrs, now_nanos: i128) -> Option<Names> {
    let place = std::fs::canonicalize(place).ok()?;
    let whole = flake_ref::kind(attrs) == "path";
    whole.then(|| Names::of(&place, None, now_nanos)).flatten()
}

/// Where a working tree has its own state, and where what it shares with others is. Nothing for a repository without one.
fn git_dirs(place: &Path) -> Option<(PathBuf, PathBuf)> {
    let dot = place.join(".git");
    if std::fs::symlink_metadata(&dot).ok()?.is_dir() {
        return Some((dot.clone(), dot));
    }
    let text = std::fs::read_to_string(&dot).ok()?;
    let own = place.join(text.strip_prefix("gitdir: ")?.trim_end_matches('\n'));
    let common = std::fs::read_to_string(own.join("commondir")).ok()?;
    let common = own.join(common.trim_end_matches('\n'));
    Some((own, common))
}

/// What a request says that git tracks, for [`print()`]; of other trees nothing.
pub(super) fn tracked(place: &Path, attrs: &Attrs, host: &StoreHost) -> Vec<u8> {
    if flake_ref::kind(attrs) == "git" {
        host.tracked(place).unwrap_or_default()
    } else {
        Vec::new()
    }
}

/// Whether a fetched tree is still the same, fetching it again if looking does not tell. Says whether there is news.
pub(super) fn check(local: &mut Local, host: &StoreHost, now_nanos: i128) -> Result<bool, String> {
    if !local.named {
        return Ok(false);
    }
    let changed = || local.attrs.clone();
    let attrs = serde_json::from_str(&local.attrs).ok();
    let attrs = attrs.and_then(|json| flake_ref::from_json(&json).ok());
    let request = TreeRequest {
        attrs: attrs.ok_or_else(changed)?,
        name: local.name.clone(),
        base: None,
    };
    let Kind::Local(place) = kind(&request) else {
        return Err(changed());
    };
    if local.names.as_ref().is_some_and(|n| n.are_same(&place)) {
        return Ok(false);
    }
    let found = print(&place, &request.attrs, &local.tracked, now_nanos);
    if found.is_some() && found == local.print {
        return Ok(false);
    }
    let better = names(&place, &request.attrs, now_nanos);
    let names = tracked(&place, &request.attrs, host);
    let found = print(&place, &request.attrs, &names, now_nanos);
    let (tree, _) = host
        .fetch_tree_silently(&request)
        .map_err(|_error| changed())?;
    let answer = flake_ref::to_json(&tree.attrs).to_string();
    if tree.path != local.path || answer != local.answer {
        return Err(changed());
    }
    local.tracked = names;
    let news = found.is_some();
    local.print = found;
    local.names = better;
    Ok(news)
}
