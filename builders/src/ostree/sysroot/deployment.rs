//! One system on the disk: its objects in the repository, and its files, which are names of those.

use std::collections::BTreeMap;

use sos_engine::BuilderError;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::{Blake3, Sha256};
use sos_formats::manifest::{Kind, Meta, Node};
use sos_formats::ostree::{MODE_SYMLINK, ObjectKind, TYPE_FILE, object_name};
use sos_store::rootfs::{FileSpec, KindView, RootTree, SpecKind};

use super::{Deployment, REPO, Sysroot, dir_meta, file_meta, wrong};
use crate::ostree::content::{self, FileKey};
use crate::ostree::repository::Repository;
use crate::ostree::source::{Source, missing};
use crate::ostree::{EmptyXattrs, Mode, trees};

impl Sysroot<'_> {
    /// Adds one system: its objects, its files, its kernel and its entry.
    pub(super) fn deploy(
        &mut self,
        number: usize,
        deployment: &Deployment,
        serials: &mut BTreeMap<Sha256, u32>,
    ) -> Result<(), BuilderError> {
        let (build, os) = (self.build, &self.attrs.os);
        let commit = self.metadata(number, deployment)?;
        let place = format!("ostree/deploy/{os}/deploy/{commit}.0");
        if self.tree.get(&place)?.is_some() {
            return Err(wrong(&format!(
                "the commit {commit} is among `deployments` twice; leave one of them out"
            )));
        }
        let root = build.rootfs(&deployment.rootfs)?;
        let tree = RootTree::load(build.store(), &root)?;
        if tree.get("usr/etc")?.is_none() || tree.get("etc")?.is_some() {
            return Err(wrong(
                "a root filesystem that is deployed has its configuration in `/usr/etc`, and no `/etc`",
            ));
        }
        // The commit was made already: that it has the same files is what is looked at.
        let top = build.store().get_root(&root)?;
        let found = trees::read(build, &top, EmptyXattrs::Drop)?;
        let contents = content::describe(build, &found.files, Mode::BareUser)?;
        self.is_of_commit(deployment, &commit, &found, &contents)?;
        let known: BTreeMap<&FileKey, Sha256> = found
            .files
            .iter()
            .zip(&contents)
            .map(|(key, content)| (key, content.checksum))
            .collect();
        // Bare repositories have links as links; each content is one file with all its names.
        self.tree.mkdir_p(&place, &zero(tree.root_meta()))?;
        let mut all: Vec<(String, FileSpec, Option<FileKey>)> = Vec::new();
        tree.walk(|path, meta, kind| {
            let Ok(path) = std::str::from_utf8(path) else {
                return Ok(());
            };
            if path.starts_with("dev/") {
                return Ok(());
            }
            let (kind, key) = match kind {
                KindView::Dir => (SpecKind::Dir, None),
                KindView::File { size, blob, .. } => {
                    let key = file_key(
                        meta,
                        TYPE_FILE | u32::from(meta.mode),
                        "",
                        Some((blob, size)),
                    );
                    (
                        SpecKind::File {
                            size,
                            blob,
                            hardlink: None,
                        },
                        Some(key),
                    )
                }
                KindView::Symlink { target } => {
                    let key = file_key(meta, MODE_SYMLINK, &String::from_utf8_lossy(target), None);
                    (
                        SpecKind::Symlink {
                            target: target.to_vec(),
                        },
                        Some(key),
                    )
                }
                // `trees::read` has refused them.
                _ => return Ok(()),
            };
            all.push((
                path.to_owned(),
                FileSpec {
                    meta: zero(meta),
                    kind,
                },
                key,
            ));
            Ok(())
        })?;
        for (path, mut spec, key) in all {
            if let Some(checksum) = key.and_then(|key| known_as(&known, key)) {
                let (dir, name) = object_name(&checksum, ObjectKind::File);
                if let SpecKind::File { hardlink, .. } = &mut spec.kind {
                    let mut group = [0; 16];
                    group.copy_from_slice(&checksum.0[..16]);
                    *hardlink = Some(group);
                }
                self.object(&dir, &name, spec.clone())?;
            }
            // The configuration of the machine begins as a copy, which may change.
            if let Some(below) = path
                .strip_prefix("usr/etc")
                .filter(|b| b.is_empty() || b.starts_with('/'))
            {
                let mut own = spec.clone();
                if let SpecKind::File { hardlink, .. } = &mut own.kind {
                    *hardlink = None;
                }
                self.tree.insert(format!("{place}/etc{below}"), own)?;
            }
            self.tree.insert(format!("{place}/{path}"), spec)?;
        }
        for dir in ["boot", "dev", "proc", "run", "sys", "sysroot", "tmp", "var"] {
            if self.tree.get(format!("{place}/{dir}"))?.is_none() {
                self.tree.mkdir_p(format!("{place}/{dir}"), &dir_meta())?;
            }
        }
        self.text(
            &format!("{place}.origin"),
            &format!("[origin]\nrefspec={}\n", deployment.branch),
        )?;
        self.kernel(number, &tree, &commit, serials)
    }

    /// Takes the metadata objects and the ref of a repository; gives the commit.
    fn metadata(&mut self, number: usize, deployment: &Deployment) -> Result<Sha256, BuilderError> {
        let store = self.build.store();
        let repository = RootTree::load(store, &self.build.rootfs(&deployment.repository)?)?;
        let path = format!("refs/heads/{}", deployment.branch);
        let none = || {
            wrong(&format!(
                "`{}` has no ref `{}`",
                deployment.repository, deployment.branch
            ))
        };
        let text = repository.read_file(&path).map_err(|_e| none())?;
        let commit: Sha256 = String::from_utf8_lossy(&text)
            .trim_end()
            .parse()
            .map_err(|_e| none())?;
        for dir in repository.list("objects")? {
            let Some(node) = repository.unchanged_node([b"objects/", &dir[..]].concat())? else {
                continue;
            };
            let node: Node = store.get_node(&node)?;
            for entry in node.entries {
                let (Kind::File { blob, size, .. }, Ok(name)) =
                    (entry.kind, String::from_utf8(entry.name))
                else {
                    continue;
                };
                if [".commit", ".dirtree", ".dirmeta"]
                    .iter()
                    .any(|kind| name.ends_with(kind))
                {
                    let kind = SpecKind::File {
                        size,
                        blob,
                        hardlink: None,
                    };
                    let dir = String::from_utf8_lossy(&dir).into_owned();
                    self.object(
                        &dir,
                        &name,
                        FileSpec {
                            meta: file_meta(),
                            kind,
                        },
                    )?;
                }
            }
        }
        // Of two systems with one ref the one that starts first is the newer one.
        let head = format!("{REPO}/refs/heads/{}", deployment.branch);
        if self.tree.get(&head)?.is_none() {
            self.text(&head, &format!("{commit}\n"))?;
        }
        // What keeps the commit, wherever the ref goes: the boot version, its sub-version, and the place among the systems.
        self.text(
            &format!("{REPO}/refs/heads/ostree/1/1/{number}"),
            &format!("{commit}\n"),
        )?;
        Ok(commit)
    }

    /// Looks whether a commit holds just this root filesystem: its files become those of the repository, where each has to be what the
    /// commit names.
    fn is_of_commit(
        &self,
        deployment: &Deployment,
        commit: &Sha256,
        found: &trees::Found,
        contents: &[content::Content],
    ) -> Result<(), BuilderError> {
        let store = self.build.store();
        let repository = self.build.rootfs(&deployment.repository)?;
        let source = Source::in_store(store, &repository, &deployment.repository)?;
        let (_, view) = source
            .commit(commit)?
            .ok_or_else(|| missing(commit, ObjectKind::Commit))?;
        // Only for the checksums: of the right root filesystem the store has all of these objects.
        let mut other = Repository::new(store, Mode::BareUser, self.attrs.epoch);
        if trees::write(found, contents, &mut other)? == (view.tree, view.meta) {
            return Ok(());
        }
        let message = format!(
            "`{}` is not the root filesystem of the commit `{}`",
            deployment.rootfs, deployment.repository
        );
        Err(
            Diagnostic::error("ostree-sysroot", Class::Recipe, message)
                .note(format!("the commit {commit} of the ref `{}` holds other files", deployment.branch))
                .help("name the root filesystem that the commit was made of: `{ rootfs = one; commit = sos.ostree { rootfs = one; … }; }`")
                .into(),
        )
    }

    fn object(&mut self, dir: &str, name: &str, spec: FileSpec) -> Result<(), BuilderError> {
        let path = format!("{REPO}/objects/{dir}/{name}");
        if self.tree.get(format!("{REPO}/objects/{dir}"))?.is_none() {
            self.tree
                .mkdir_p(format!("{REPO}/objects/{dir}"), &dir_meta())?;
        } else if self.tree.get(&path)?.is_some() {
            return Ok(());
        }
        Ok(self.tree.insert(path, spec)?)
    }
}

fn file_key(meta: &Meta, mode: u32, target: &str, blob: Option<(Blake3, u64)>) -> FileKey {
    FileKey {
        uid: meta.uid,
        gid: meta.gid,
        mode,
        xattrs: meta.xattrs.clone(),
        target: target.to_owned(),
        blob,
    }
}

/// The object of a file. A commit may have left out the attributes that have no value.
fn known_as(known: &BTreeMap<&FileKey, Sha256>, mut key: FileKey) -> Option<Sha256> {
    if let Some(found) = known.get(&key) {
        return Some(*found);
    }
    key.xattrs.retain(|_, value| !value.is_empty());
    known.get(&key).copied()
}

/// What a deployed file has: OSTree has no times, so that all of them are 0, and no extended attributes without a value.
fn zero(meta: &Meta) -> Meta {
    Meta {
        mtime_secs: 0,
        mtime_nsecs: 0,
        xattrs: {
            let with_value = meta.xattrs.iter().filter(|(_, value)| !value.is_empty());
            with_value.map(|(k, v)| (k.clone(), v.clone())).collect()
        },
        ..meta.clone()
    }
}
