//! Commits as root filesystems: `builtin:ostree-checkout`.
//!
//! A commit knows no times and no hard links: everything has the time of the commit, and each name is a file of its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::{Blake3, Sha256};
use sos_formats::manifest::{Entry, Kind, Meta, Node, Root};
use sos_formats::ostree::{Attributes, CommitView, DirTreeView, ObjectKind, read_dirmeta};

use super::source::Source;
use crate::build::Build;

/// Directories below each other; as deep as root filesystems go.
const MAX_DEPTH: usize = 1024;

/// Makes a rootfs object of a commit of a repository in the store.
#[derive(Clone, Copy, Debug, Default)]
pub struct OstreeCheckoutBuilder;

impl Builder for OstreeCheckoutBuilder {
    fn name(&self) -> &'static str {
        "builtin:ostree-checkout"
    }
    fn pool(&self) -> Pool {
        Pool::Build
    }
    fn revision(&self) -> u32 {
        1
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let attrs: CheckoutAttrs = ctx.attrs_as()?;
        let root = checkout(ctx, &attrs)?;
        ctx.set_rootfs("out", root);
        Ok(())
    }
}

/// What a recipe says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CheckoutAttrs {
    pub(super) repository: String,
    #[serde(rename = "ref")]
    pub(super) branch: Option<String>,
    pub(super) commit: Option<String>,
}

/// Makes the rootfs object and gives its root id.
pub(super) fn checkout(build: &dyn Build, attrs: &CheckoutAttrs) -> Result<Blake3, BuilderError> {
    let root = build.rootfs(&attrs.repository)?;
    let source = Source::in_store(build.store(), &root, &attrs.repository)?;
    let refused = |message: String, help: &str| {
        BuilderError::from(Diagnostic::error("ostree-no-commit", Class::Recipe, message).help(help))
    };
    let commit: Sha256 = match (&attrs.commit, &attrs.branch) {
        (Some(commit), _) => commit.parse().map_err(|e| {
            refused(
                format!("`{commit}` names no commit: {e}"),
                "write its checksum, 64 hexadecimal digits",
            )
        })?,
        (None, Some(branch)) => source.reference(branch)?.ok_or_else(|| {
            refused(
                format!("the repository has no ref `{branch}`"),
                "name a ref that it has, or a commit",
            )
        })?,
        (None, None) => {
            return Err(refused(
                "neither a commit nor a ref is named".into(),
                "name one of them",
            ));
        }
    };
    import(build, &source, &commit)
}

/// Brings a commit into the store as a rootfs object; gives its root id.
pub(crate) fn import(
    build: &dyn Build,
    source: &Source<'_>,
    commit: &Sha256,
) -> Result<Blake3, BuilderError> {
    let Some((_, view)) = source.commit(commit)? else {
        let message = format!("the repository has no commit {commit}");
        return Err(Diagnostic::error("ostree-no-commit", Class::Recipe, message).into());
    };
    let reachable = source.reachable(&view)?;
    let wanted: Vec<Sha256> = reachable.files.into_iter().collect();
    let files = contents(build, source, &wanted)?;
    let mut metas = BTreeMap::new();
    for meta in reachable.metas {
        let bytes = source.needed(&meta, ObjectKind::DirMeta)?;
        let read = read_dirmeta(&bytes)
            .map_err(|e| BuilderError::failed(format!("the object {meta}: {e}")))?;
        metas.insert(meta, read);
    }
    Import {
        build,
        source,
        files,
        metas,
        time: i64::try_from(view.timestamp).unwrap_or(i64::MAX),
        done: BTreeMap::new(),
    }
    .whole(&view)
}

/// Brings files into the store, on as many threads as the build may use.
fn contents(
    build: &dyn Build,
    source: &Source<'_>,
    wanted: &[Sha256],
) -> Result<BTreeMap<Sha256, (Attributes, Kind)>, BuilderError> {
    let store = build.store();
    let one = |checksum: &Sha256| {
        let mut content = source.content(checksum)?;
        if content.is_link() {
            let view = content.finish()?;
            let target = view.target.into_bytes();
            return Ok((view.attributes, Kind::Symlink { target }));
        }
        let (blob, size) = store.put_blob(&mut content)?;
        let view = content.finish()?;
        let kind = Kind::File {
            size,
            blob,
            hardlink: None,
        };
        Ok((view.attributes, kind))
    };
    let next = AtomicUsize::new(0);
    let done = Mutex::new(BTreeMap::new());
    let failure: Mutex<Option<BuilderError>> = Mutex::new(None);
    let run = |go_on: &dyn Fn(usize) -> bool| {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(checksum) = wanted.get(at) else {
                return;
            };
            let made = if go_on(at) {
                one(checksum)
            } else {
                Err(BuilderError::Cancelled)
            };
            match made {
                Ok(made) => {
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.insert(*checksum, made);
                }
                Err(error) => {
                    let mut first = failure.lock().unwrap_or_else(PoisonError::into_inner);
                    first.get_or_insert(error);
                    // Nobody finds another file.
                    next.store(wanted.len(), Ordering::Relaxed);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..build.cores().clamp(1, wanted.len().max(1)) {
            scope.spawn(|| run(&|_| true));
        }
        run(&|at| {
            build.progress(at as u64, wanted.len() as u64);
            !build.cancelled()
        });
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

struct Import<'a> {
    build: &'a dyn Build,
    source: &'a Source<'a>,
    files: BTreeMap<Sha256, (Attributes, Kind)>,
    metas: BTreeMap<Sha256, Attributes>,
    time: i64,
    /// Nodes of directories by their dirtrees.
    done: BTreeMap<Sha256, Blake3>,
}

/// A directory on the way down.
struct Level {
    checksum: Sha256,
    tree: DirTreeView,
    /// Directories that still have no node.
    left: Vec<Sha256>,
}

impl Import<'_> {
    fn whole(mut self, commit: &CommitView) -> Result<Blake3, BuilderError> {
        let mut stack = vec![self.enter(commit.tree)?];
        while let Some(level) = stack.last_mut() {
            if self.build.cancelled() {
                return Err(BuilderError::Cancelled);
            }
            match level.left.pop() {
                Some(below) if self.done.contains_key(&below) => {}
                Some(below) => {
                    if stack.len() >= MAX_DEPTH {
                        let message = format!("the commit is deeper than {MAX_DEPTH} directories");
                        return Err(BuilderError::failed(message));
                    }
                    stack.push(self.enter(below)?);
                }
                None => {
                    let Some(level) = stack.pop() else { break };
                    let node = self.node(level.tree)?;
                    self.done.insert(level.checksum, node);
                }
            }
        }
        let root = Root {
            meta: self.meta(&self.metas[&commit.meta])?,
            node: self.done[&commit.tree],
        };
        Ok(self.build.store().put_root(&root)?)
    }

    fn enter(&self, checksum: Sha256) -> Result<Level, BuilderError> {
        let tree = self.source.tree(&checksum)?;
        let left = tree.dirs.values().map(|(below, _)| *below).collect();
        Ok(Level {
            checksum,
            tree,
            left,
        })
    }

    fn node(&self, tree: DirTreeView) -> Result<Blake3, BuilderError> {
        let mut entries = Vec::with_capacity(tree.files.len() + tree.dirs.len());
        for (name, content) in tree.files {
            let (attributes, kind) = &self.files[&content];
            entries.push(Entry {
                name: name.into_bytes(),
                meta: self.meta(attributes)?,
                kind: kind.clone(),
            });
        }
        for (name, (below, meta)) in tree.dirs {
            entries.push(Entry {
                name: name.into_bytes(),
                meta: self.meta(&self.metas[&meta])?,
                kind: Kind::Dir {
                    node: self.done[&below],
                },
            });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let node = Node::new(entries)
            .map_err(|e| BuilderError::failed(format!("cannot describe a directory: {e}")))?;
        Ok(self.build.store().put_node(&node)?)
    }

    fn meta(&self, attributes: &Attributes) -> Result<Meta, BuilderError> {
        let mode = u16::try_from(attributes.mode & 0o7777)
            .map_err(|e| BuilderError::failed(e.to_string()))?;
        Ok(Meta {
            mode,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime_secs: self.time,
            xattrs: attributes.xattrs.clone(),
            ..Meta::default()
        })
    }
}
