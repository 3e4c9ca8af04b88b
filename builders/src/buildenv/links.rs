//! The tree of links while it is made.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;

use sos_engine::BuilderError;

use crate::build::Build;

/// One place of the environment.
#[derive(Debug)]
pub(super) enum Node {
    /// A directory of its own.
    Dir(BTreeMap<OsString, Node>),
    /// A link to a file or a whole directory of one package.
    Link {
        /// Absolute.
        target: String,
        /// Of the package.
        priority: i64,
    },
}

impl Node {
    fn link(target: String, priority: i64) -> Self {
        Self::Link { target, priority }
    }
}

/// Files that every package has and no environment wants: how their paths end.
const LEFT_OUT: [&str; 7] = [
    "/propagated-build-inputs",
    "/nix-support",
    "/perllocal.pod",
    "/info/dir",
    "/log",
    "/manifest.nix",
    "/manifest.json",
];

/// Where a package names others that come with it.
const PULLS_IN: &str = "nix-support/propagated-user-env-packages";
/// The most bytes of such a list.
const MAX_LIST_BYTES: u64 = 1 << 20;
/// The most links that are followed to a file, as in the kernel.
const MAX_LINKS: usize = 40;
/// How deep packages may be; archives are no deeper.
const MAX_DEPTH: usize = 64;

pub(super) struct Links<'a> {
    build: &'a dyn Build,
    root: BTreeMap<OsString, Node>,
    done: BTreeSet<String>,
    pulled_in: BTreeSet<String>,
}

impl<'a> Links<'a> {
    pub(super) fn new(build: &'a dyn Build) -> Self {
        Self {
            build,
            root: BTreeMap::new(),
            done: BTreeSet::new(),
            pulled_in: BTreeSet::new(),
        }
    }

    /// Adds a package, unless it is there.
    pub(super) fn add(&mut self, path: &str, priority: i64) -> Result<(), BuilderError> {
        if !self.done.insert(path.to_owned()) {
            return Ok(());
        }
        let mut root = std::mem::take(&mut self.root);
        let added = self.merge(path, &mut root, priority, 0);
        self.root = root;
        added?;
        let list = format!("{path}/{PULLS_IN}");
        let Some((place, meta)) = self.follow(&list)? else {
            return Ok(());
        };
        if !meta.is_file() {
            return Ok(());
        }
        let mut text = String::new();
        let failed = |e| BuilderError::io(format!("cannot read `{list}`"), e);
        fs::File::open(self.build.tree(&place)?)
            .map_err(failed)?
            .take(MAX_LIST_BYTES)
            .read_to_string(&mut text)
            .map_err(failed)?;
        let named = text.split([' ', '\n']).filter(|word| !word.is_empty());
        self.pulled_in.extend(named.map(str::to_owned));
        Ok(())
    }

    /// Returns the packages that those added so far name, besides those that are there.
    pub(super) fn take_pulled_in(&mut self) -> BTreeSet<String> {
        let mut next = std::mem::take(&mut self.pulled_in);
        next.retain(|path| !self.done.contains(path));
        next
    }

    pub(super) fn finish(self) -> Node {
        Node::Dir(self.root)
    }

    /// Lays links to what is in `source` into a directory.
    fn merge(
        &self,
        source: &str,
        into: &mut BTreeMap<OsString, Node>,
        priority: i64,
        depth: usize,
    ) -> Result<(), BuilderError> {
        let found = self.follow(source)?;
        let Some((place, meta)) = found else {
            return Err(BuilderError::failed(format!("there is no `{source}`")));
        };
        if !meta.is_dir() {
            self.build
                .log(&format!("`{source}` is left out: it is no directory"));
            return Ok(());
        }
        if depth > MAX_DEPTH {
            return Err(BuilderError::failed(format!("`{source}` is too deep")));
        }
        for name in self.names(&place)? {
            if name.as_bytes().starts_with(b".") {
                continue;
            }
            let Some(text) = name.to_str() else {
                return Err(BuilderError::failed(format!(
                    "a name in `{source}` is not UTF-8: `{}`",
                    name.to_string_lossy()
                )));
            };
            let file = format!("{source}/{text}");
            let Some((_, meta)) = self.follow(&file)? else {
                self.build
                    .log(&format!("`{file}` is left out: it leads nowhere"));
                continue;
            };
            if LEFT_OUT.iter().any(|end| file.ends_with(end)) {
                continue;
            }
            if meta.is_dir() {
                self.directory(file, name, into, priority, depth)?;
            } else {
                file_into(file, name, into, priority)?;
            }
        }
        Ok(())
    }

    fn directory(
        &self,
        source: String,
        name: OsString,
        into: &mut BTreeMap<OsString, Node>,
        priority: i64,
        depth: usize,
    ) -> Result<(), BuilderError> {
        match into.get_mut(&name) {
            None => {
                into.insert(name, Node::link(source, priority));
                Ok(())
            }
            Some(Node::Dir(entries)) => self.merge(&source, entries, priority, depth + 1),
            Some(Node::Link {
                target,
                priority: before,
            }) => {
                // Two packages have it: the link becomes a directory with the links of both.
                let found = self.follow(target)?;
                let Some((first, meta)) = found.filter(|(_, meta)| meta.is_dir()) else {
                    return Err(BuilderError::failed(format!(
                        "the directory `{source}` is in the way of the file `{target}`"
                    )));
                };
                debug_assert!(meta.is_dir());
                let mut entries = BTreeMap::new();
                self.merge(&first, &mut entries, *before, depth + 1)?;
                self.merge(&source, &mut entries, priority, depth + 1)?;
                into.insert(name, Node::Dir(entries));
                Ok(())
            }
        }
    }

    fn names(&self, place: &str) -> Result<BTreeSet<OsString>, BuilderError> {
        let failed = |e| BuilderError::io(format!("cannot read `{place}`"), e);
        fs::read_dir(self.build.tree(place)?)
            .map_err(failed)?
            .map(|entry| entry.map(|e| e.file_name()).map_err(failed))
            .collect()
    }

    /// Follows every link in a path as a builder would see it: those to other objects lead into the store of sos. Returns the
    /// path without links, and what is there; none when it leads nowhere or out of the inputs.
    fn follow(&self, path: &str) -> Result<Option<(String, Metadata)>, BuilderError> {
        let store = self.build.store().store_dir().to_string();
        let mut left: Vec<String> = parts(path);
        let mut at = String::new();
        let mut links = 0;
        while let Some(part) = left.pop() {
            match part.as_str() {
                "." => continue,
                ".." => {
                    at.truncate(at.rfind('/').unwrap_or(0));
                    continue;
                }
                _ => {}
            }
            let next = format!("{at}/{part}");
            if next.len() <= store.len() || !next.starts_with(&format!("{store}/")) {
                if !store.starts_with(&next) {
                    return Ok(None);
                }
                at = next;
                continue;
            }
            let Ok(place) = self.build.tree(&next) else {
                return Ok(None);
            };
            let meta = match place.symlink_metadata() {
                Ok(meta) => meta,
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) =>
                {
                    return Ok(None);
                }
                Err(e) => return Err(BuilderError::io(format!("cannot look at `{next}`"), e)),
            };
            if !meta.is_symlink() {
                at = next;
                if left.is_empty() {
                    return Ok(Some((at, meta)));
                }
                continue;
            }
            links += 1;
            let target = fs::read_link(&place)
                .map_err(|e| BuilderError::io(format!("cannot read `{next}`"), e))?;
            let Some(target) = target.to_str().filter(|_| links <= MAX_LINKS) else {
                return Ok(None);
            };
            if target.starts_with('/') {
                at.clear();
            }
            left.extend(parts(target));
        }
        let Ok(place) = self.build.tree(&at) else {
            return Ok(None);
        };
        Ok(place.symlink_metadata().ok().map(|meta| (at, meta)))
    }
}

/// The parts of a path, the last one first.
fn parts(path: &str) -> Vec<String> {
    path.split('/')
        .filter(|part| !part.is_empty())
        .rev()
        .map(str::to_owned)
        .collect()
}

fn file_into(
    source: String,
    name: OsString,
    into: &mut BTreeMap<OsString, Node>,
    priority: i64,
) -> Result<(), BuilderError> {
    match into.get(&name) {
        Some(Node::Dir(_)) => {
            return Err(BuilderError::failed(format!(
                "the file `{source}` is in the way of a directory of another package"
            )));
        }
        Some(Node::Link {
            target,
            priority: before,
        }) => {
            if *before == priority {
                return Err(BuilderError::failed(format!(
                    "`{source}` and `{target}` have the same priority {priority}, and there can be only one `{}`",
                    shown(&name)
                )));
            }
            if *before < priority {
                return Ok(());
            }
        }
        None => {}
    }
    into.insert(name, Node::link(source, priority));
    Ok(())
}

fn shown(name: &OsStr) -> String {
    name.to_string_lossy().into_owned()
}
