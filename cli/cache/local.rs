//! Trees of this machine that flakes and fetchers take: directories, and git repositories with their working trees.

use std::path::{Path, PathBuf};

use sos_formats::flake_ref::{self, Attrs, Url};
use sos_formats::hash::Blake3;
use sos_lang::TreeRequest;

use super::inputs::Local;
use super::look;
use crate::host::StoreHost;

/// Entries of a tree that are looked at to spare fetching it again.
const MAX_ENTRIES: usize = 20_000;

/// How a fetched tree can be told to be the same later.
pub(super) enum Kind {
    /// What was asked for says what comes.
    Pinned,
    /// It lies there and can be looked at.
    Local(PathBuf),
    /// It may be another one tomorrow.
    Open,
}

/// Which kind a request is.
pub(super) fn kind(request: &TreeRequest) -> Kind {
    let attrs = &request.attrs;
    let text = |name| flake_ref::text(attrs, name);
    if text("narHash").is_some() || (text("rev").is_some() && flake_ref::kind(attrs) != "tarball") {
        return Kind::Pinned;
    }
    match flake_ref::kind(attrs) {
        "path" => match text("path") {
            Some(path) if path.starts_with('/') => Kind::Local(path.into()),
            // Relative to a tree that was fetched before it.
            Some(_) if request.base.is_some() => Kind::Pinned,
            _ => Kind::Open,
        },
        "git" => match Url::parse(text("url").unwrap_or_default()) {
            Ok(url) if url.scheme == "file" => Kind::Local(url.path.into()),
            _ => Kind::Open,
        },
        _ => Kind::Open,
    }
}

/// Takes the print of everything that fetching may look at: all files, directories with their times, and of a repository
/// what says which commit and which files are meant. Nothing when that is too much, or not to be told by looking.
pub(super) fn print(place: &Path, attrs: &Attrs, now_nanos: i128) -> Option<Blake3> {
    if flake_ref::flag(attrs, "submodules") {
        return None;
    }
    // Links on the way lead to the tree; those in it are part of it.
    let place = std::fs::canonicalize(place).ok()?;
    let place = place.as_path();
    let mut skip = None;
    let mut print = look::Print::new(place, now_nanos)?;
    if flake_ref::kind(attrs) == "git" {
        let dot = place.join(".git");
        // Elsewhere, or a repository without a working tree.
        if !std::fs::symlink_metadata(&dot).ok()?.is_dir() {
            return None;
        }
        for name in [
            "HEAD",
            "index",
            "config",
            "packed-refs",
            "shallow",
            "refs",
            "info",
        ] {
            print.add_all(&dot.join(name), None, MAX_ENTRIES)?;
        }
        skip = Some(dot);
    }
    print.add_all(place, skip.as_deref(), MAX_ENTRIES)?;
    print.finish()
}

/// Whether a fetched tree is still the same, fetching it again if looking does not tell. Says whether there is news.
pub(super) fn check(local: &mut Local, host: &StoreHost, now_nanos: i128) -> Result<bool, String> {
    let changed = || local.attrs.clone();
    let attrs = serde_json::from_str(&local.attrs).ok();
    let attrs = attrs.and_then(|json| flake_ref::from_json(&json).ok());
    let request = TreeRequest {
        attrs: attrs.ok_or_else(changed)?,
        name: local.name.clone(),
        base: None,
    };
    let print = match kind(&request) {
        Kind::Local(place) => print(&place, &request.attrs, now_nanos),
        _ => None,
    };
    if print.is_some() && print == local.print {
        return Ok(false);
    }
    let (found, _) = host
        .fetch_tree_silently(&request)
        .map_err(|_error| changed())?;
    let answer = flake_ref::to_json(&found.attrs).to_string();
    if found.path != local.path || answer != local.answer {
        return Err(changed());
    }
    let news = print.is_some();
    local.print = print;
    Ok(news)
}
