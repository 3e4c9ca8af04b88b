//! Looks whether everything that an evaluation read is still the same.

use std::io;
use std::path::{Path, PathBuf};

use sos_formats::hash::Blake3;
use sos_lang::FileType;
use sos_store::Store;

use super::inputs::{Asked, Inputs, Seen, Tree};
use super::local;
use super::look::{self, Followed, Same};
use super::names::Names;
use super::walk;
use crate::environment::Environment;
use crate::host::StoreHost;

/// Paths that are worth a second thread.
const FILES_PER_THREAD: usize = 200;

/// Compares; a difference is told by the name of what differs. Otherwise says whether something is known better than before.
pub(super) fn check(
    inputs: &mut Inputs,
    store: &Store,
    host: &StoreHost,
    env: &Environment,
    dry: bool,
) -> Result<bool, String> {
    let now_nanos = sos_store::now_nanos();
    for (name, value) in &inputs.env {
        if env.all.get(name) != value.as_ref() {
            return Err(name.clone());
        }
    }
    check_objects(inputs, store, dry)?;
    let mut news = check_files(inputs, now_nanos)?;
    for tree in &mut inputs.trees {
        news |= check_tree(tree, store, now_nanos)?;
    }
    for tree in &mut inputs.locals {
        news |= local::check(tree, host, now_nanos)?;
    }
    Ok(news)
}

fn check_objects(inputs: &Inputs, store: &Store, dry: bool) -> Result<(), String> {
    let is_valid = |path| store.is_valid(path).unwrap_or(false);
    for (path, valid) in &inputs.objects {
        if is_valid(path) != *valid {
            return Err(path.base());
        }
    }
    for path in inputs.added.iter().filter(|_| !dry) {
        if !is_valid(path) {
            return Err(path.base());
        }
    }
    for built in &inputs.built {
        let there = if built.follows {
            is_valid(&built.path)
        } else {
            // The store names only outputs that are valid.
            let known = store.drv_output(&built.drv, &built.output);
            known.ok().flatten().as_ref() == Some(&built.path)
        };
        if !there {
            return Err(built.path.base());
        }
    }
    Ok(())
}

fn check_files(inputs: &mut Inputs, now_nanos: i128) -> Result<bool, String> {
    let mut files: Vec<_> = inputs.files.iter_mut().collect();
    let part = files.len().div_ceil(2).max(FILES_PER_THREAD);
    std::thread::scope(|scope| {
        let mut parts = files.chunks_mut(part);
        let mine = parts.next().unwrap_or_default();
        let others: Vec<_> = parts
            .map(|files| scope.spawn(move || check_some(files, now_nanos)))
            .collect();
        let mut news = check_some(mine, now_nanos)?;
        for other in others {
            news |= other
                .join()
                .unwrap_or_else(|_| Err("a file that could not be looked at".to_owned()))?;
        }
        Ok(news)
    })
}

/// The files of the machine whose content is another one than was read.
pub(super) fn changed_files(inputs: &Inputs, now_nanos: i128) -> Vec<PathBuf> {
    let mut followed = Followed::default();
    let contents = inputs
        .files
        .iter()
        .filter(|((_, asked), _)| *asked == Asked::Content);
    contents
        .filter(|((path, asked), seen)| {
            look::same(path, *asked, seen, now_nanos, &mut followed).is_err()
        })
        .map(|((path, _), _)| path.clone())
        .collect()
}

/// A path, what was asked of it, and the answer.
type File<'a> = (&'a (PathBuf, Asked), &'a mut Seen);

fn check_some(files: &mut [File<'_>], now_nanos: i128) -> Result<bool, String> {
    let mut news = false;
    let mut followed = Followed::default();
    // What a path is needs no look if it is the inode that it was: giving another name to an inode changes its `ctime`.
    let mut unchanged: Option<(&Path, Blake3)> = None;
    for ((path, asked), seen) in files {
        let path = path.as_path();
        if *asked == Asked::Type
            && unchanged.is_some_and(|(p, t)| p == path && seen.answer == Some(t))
        {
            continue;
        }
        match look::same(path, *asked, seen, now_nanos, &mut followed) {
            Err(()) => return Err(path.display().to_string()),
            Ok(Same::Untouched) => match asked {
                Asked::Content => {
                    unchanged = Some((path, look::known_type_digest(FileType::Regular)));
                }
                Asked::Listing => {
                    unchanged = Some((path, look::known_type_digest(FileType::Directory)));
                }
                Asked::Type | Asked::Target => {}
            },
            Ok(Same::Asked(None)) => {}
            Ok(Same::Asked(Some(better))) => {
                **seen = better;
                news = true;
            }
        }
    }
    Ok(news)
}

fn check_tree(tree: &mut Tree, store: &Store, now_nanos: i128) -> Result<bool, String> {
    if tree.names.as_ref().is_some_and(|n| n.are_same(&tree.path)) {
        return Ok(false);
    }
    let chosen = tree.chosen.as_ref();
    // What a filter says follows from path and type, and from what was noted when it was asked.
    let taken = |below: &Path, kind: FileType| match chosen {
        None => Some(true),
        Some(chosen) => chosen
            .get(below)
            .filter(|(was, _)| *was == kind)
            .map(|(_, taken)| *taken),
    };
    let print = walk::source(&tree.path, Some(&taken), now_nanos);
    // A directory may have another time, and the same in it as before.
    let better = || Names::of(&tree.path, Some(&taken), now_nanos);
    if print.is_some() && print == tree.print {
        let names = better();
        let news = names.is_some();
        tree.names = names;
        return Ok(news);
    }
    let root = tree.path.as_path();
    let mut filter = |file: &Path, kind: sos_store::FileType| {
        let below = file.strip_prefix(root).unwrap_or(file);
        taken(below, language_type(kind)).ok_or_else(|| io::Error::other("a new name"))
    };
    let filter: Option<sos_store::Filter<'_>> = chosen.map(|_| &mut filter as _);
    let found = store.compute_path(root, &tree.name, tree.method, filter);
    if found.ok().as_ref() != Some(&tree.object) {
        return Err(root.display().to_string());
    }
    let names = better();
    let news = print.is_some();
    tree.print = print;
    tree.names = names;
    Ok(news)
}

fn language_type(kind: sos_store::FileType) -> FileType {
    match kind {
        sos_store::FileType::Regular => FileType::Regular,
        sos_store::FileType::Directory => FileType::Directory,
        sos_store::FileType::Symlink => FileType::Symlink,
        sos_store::FileType::Other => FileType::Unknown,
    }
}
