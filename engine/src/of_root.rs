//! Files of a step's own that its root has itself: its programs find what an earlier step left there, and not what the tree says.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use sos_store::Store;
use sos_store::rootfs::{KindView, RootTree};

use crate::output::Stop;
use crate::sandbox::StepSpec;

/// Files that are looked at.
const LOOKED_AT_MAX: usize = 1 << 14;
/// Files that are named.
const NAMED_MAX: usize = 12;

/// Adds to the failure of a step which of the files of its own it found in its root, those of the highest directories first.
pub(crate) fn explain(store: &Store, spec: &StepSpec, stop: Stop) -> Stop {
    let Stop::Problem(mut problem) = stop else {
        return stop;
    };
    let mut found = in_root(store, spec);
    found.sort_by_key(|path| (path.components().count(), path.clone()));
    if !found.is_empty() {
        let named = found.iter().take(NAMED_MAX);
        let named: Vec<String> = named.map(|path| format!("`{}`", path.display())).collect();
        let rest = match found.len() - named.len() {
            0 => String::new(),
            rest => format!(" and {rest} more"),
        };
        let note = format!(
            "of the files of its own it found these as an earlier step left them: {}{rest}",
            named.join(", ")
        );
        problem = Box::new(problem.note(note));
    }
    Stop::Problem(problem)
}

/// Lists those files by their absolute paths; what cannot be looked at is not told of.
fn in_root(store: &Store, spec: &StepSpec) -> Vec<PathBuf> {
    let Some(root) = spec
        .rootfs
        .and_then(|root| RootTree::load(store, &root).ok())
    else {
        return Vec::new();
    };
    let is_file_there = |path: &Path| {
        let Ok(place) = root.resolve(path.as_os_str().as_bytes()) else {
            return false;
        };
        let there = root.get(&place).ok().flatten();
        there.is_some_and(|there| matches!(there.kind, KindView::File { .. }))
    };
    // What is there, and where its programs find it.
    let layers = spec.layers.iter();
    let mut pending: Vec<(PathBuf, PathBuf)> = layers
        .map(|layer| (layer.outside.clone(), Path::new("/").join(&layer.inside)))
        .collect();
    let (mut found, mut looked_at) = (Vec::new(), 0);
    while let Some((outside, inside)) = pending.pop() {
        let Ok(meta) = fs::symlink_metadata(&outside) else {
            continue;
        };
        looked_at += 1;
        if looked_at > LOOKED_AT_MAX {
            break;
        }
        if meta.is_dir() {
            for entry in fs::read_dir(&outside).into_iter().flatten().flatten() {
                pending.push((entry.path(), inside.join(entry.file_name())));
            }
        } else if meta.is_file() && is_file_there(&inside) {
            found.push(inside);
        }
    }
    found
}
