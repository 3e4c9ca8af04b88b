//! `builtin:ostree-sysroot`: the root of a disk that OSTree systems start from, laid out as `ostree admin deploy` leaves it.
//!
//! ```text
//! /ostree/repo                                    a bare repository: files with their owners, as they are
//! /ostree/deploy/OS/deploy/COMMIT.0               one system; its files are names of those in the repository
//! /ostree/deploy/OS/var                           what all of them share
//! /ostree/boot.1 -> boot.1.1/OS/BOOTCSUM/0        which system a kernel belongs to
//! /boot/ostree/OS-BOOTCSUM, /boot/loader.1        kernels and the entries of the loader, the first system first
//! ```
//!
//! It is a manifest: nothing is deployed, no file is copied, and no root is needed.

use std::collections::BTreeMap;

use serde::Deserialize;
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::{Blake3, HashAlgo, Hasher, Sha256};
use sos_formats::manifest::{Kind, Meta, Node};
use sos_formats::ostree::{MODE_SYMLINK, ObjectKind, TYPE_FILE, object_name};
use sos_store::rootfs::{FileSpec, KindView, RootTree, SpecKind};

use super::content::{self, FileKey};
use super::{Mode, is_ref, trees};
use crate::build::Build;

const CONFIG: &str =
    "[core]\nrepo_version=1\nmode=bare\n[sysroot]\nbootloader=none\nreadonly=false\n";
const REPO: &str = "ostree/repo";
/// The most systems on a disk.
const MAX_DEPLOYMENTS: usize = 16;

/// Makes the root of a disk with OSTree systems.
#[derive(Clone, Copy, Debug, Default)]
pub struct SysrootBuilder;

impl Builder for SysrootBuilder {
    fn name(&self) -> &'static str {
        "builtin:ostree-sysroot"
    }
    fn pool(&self) -> Pool {
        Pool::Build
    }
    fn revision(&self) -> u32 {
        2
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let attrs: SysrootAttrs = ctx.attrs_as()?;
        let root = make(ctx, &attrs)?;
        ctx.set_rootfs("out", root);
        Ok(())
    }
}

/// What a recipe says about a disk of OSTree systems.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SysrootAttrs {
    /// The name under which the systems share `/var`.
    pub(super) os: String,
    /// The one that starts first.
    pub(super) deployments: Vec<Deployment>,
    /// What the kernel is told besides which system it is for.
    pub(super) options: String,
    /// Used where a system has no initramfs beside its kernel.
    pub(super) initrd: Option<String>,
    pub(super) epoch: i64,
}

/// One system.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Deployment {
    /// The root filesystem that was committed.
    pub(super) rootfs: String,
    /// The repository with the commit.
    pub(super) repository: String,
    #[serde(rename = "ref")]
    pub(super) branch: String,
}

struct Sysroot<'a> {
    build: &'a dyn Build,
    attrs: &'a SysrootAttrs,
    tree: RootTree,
}

/// Makes the manifest and gives its root id.
pub(super) fn make(build: &dyn Build, attrs: &SysrootAttrs) -> Result<Blake3, BuilderError> {
    let is_name = is_ref(&attrs.os) && !attrs.os.contains('/');
    if !is_name {
        return Err(wrong(&format!(
            "`{}` is no name of a system; write letters, digits, `.`, `_` and `-`",
            attrs.os
        )));
    }
    if attrs.deployments.is_empty() || attrs.deployments.len() > MAX_DEPLOYMENTS {
        return Err(wrong(&format!(
            "it has {} systems; a disk has 1 to {MAX_DEPLOYMENTS}",
            attrs.deployments.len()
        )));
    }
    let mut sysroot = Sysroot {
        build,
        attrs,
        tree: RootTree::empty_in(build.store(), dir_meta()),
    };
    for dir in [
        "boot", "dev", "home", "proc", "run", "sys", "sysroot", "tmp",
    ] {
        sysroot.tree.mkdir_p(dir, &dir_meta())?;
    }
    for dir in [
        "objects",
        "refs/heads",
        "refs/remotes",
        "refs/mirrors",
        "tmp",
        "state",
        "extensions",
    ] {
        sysroot.tree.mkdir_p(format!("{REPO}/{dir}"), &dir_meta())?;
    }
    sysroot.text(&format!("{REPO}/config"), CONFIG)?;
    // libostree sees by the time of this directory whether it has read the systems below; it takes 0 for "not changed since".
    let deploy = Meta {
        mtime_secs: attrs.epoch.max(1),
        ..dir_meta()
    };
    sysroot.tree.mkdir_p("ostree/deploy", &deploy)?;
    let var = format!("ostree/deploy/{}/var", attrs.os);
    for dir in ["lib", "log", "cache", "tmp", "spool"] {
        sysroot.tree.mkdir_p(format!("{var}/{dir}"), &dir_meta())?;
    }
    for (dir, target) in [("lock", "/run/lock"), ("run", "/run")] {
        sysroot.link(&format!("{var}/{dir}"), target)?;
    }
    let mut serials: BTreeMap<Sha256, u32> = BTreeMap::new();
    for (number, deployment) in attrs.deployments.iter().enumerate() {
        sysroot.deploy(number, deployment, &mut serials)?;
    }
    sysroot.link("boot/loader", "loader.1")?;
    sysroot.link("ostree/boot.1", "boot.1.1")?;
    Ok(sysroot.tree.finish(build.store())?)
}

impl Sysroot<'_> {
    /// Adds one system: its objects, its files, its kernel and its entry.
    fn deploy(
        &mut self,
        number: usize,
        deployment: &Deployment,
        serials: &mut BTreeMap<Sha256, u32>,
    ) -> Result<(), BuilderError> {
        let (build, os) = (self.build, &self.attrs.os);
        let commit = self.metadata(deployment)?;
        let root = build.rootfs(&deployment.rootfs)?;
        let tree = RootTree::load(build.store(), &root)?;
        if tree.get("usr/etc")?.is_none() || tree.get("etc")?.is_some() {
            return Err(wrong(
                "a root filesystem that is deployed has its configuration in `/usr/etc`, and no `/etc`",
            ));
        }
        let found = trees::read(build, &build.store().get_root(&root)?)?;
        let contents = content::describe(build, &found.files, Mode::BareUser)?;
        let known: BTreeMap<&FileKey, Sha256> = found
            .files
            .iter()
            .zip(&contents)
            .map(|(key, content)| (key, content.checksum))
            .collect();
        // Bare repositories have links as links; each content is one file with all its names.
        let place = format!("ostree/deploy/{os}/deploy/{commit}.0");
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
            if let Some(checksum) = key.and_then(|key| known.get(&key).copied()) {
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
    fn metadata(&mut self, deployment: &Deployment) -> Result<Sha256, BuilderError> {
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
        self.text(
            &format!("{REPO}/refs/heads/{}", deployment.branch),
            &format!("{commit}\n"),
        )?;
        Ok(commit)
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

    /// Puts kernel and initramfs where the loader finds them, and writes the entry.
    fn kernel(
        &mut self,
        number: usize,
        tree: &RootTree,
        commit: &Sha256,
        serials: &mut BTreeMap<Sha256, u32>,
    ) -> Result<(), BuilderError> {
        let os = &self.attrs.os;
        let versions = tree.list("usr/lib/modules").unwrap_or_default();
        let versions: Vec<String> = versions
            .into_iter()
            .filter_map(|v| String::from_utf8(v).ok())
            .collect();
        let mut with_kernel = Vec::new();
        for version in &versions {
            if tree
                .get(format!("usr/lib/modules/{version}/vmlinuz"))?
                .is_some()
            {
                with_kernel.push(version);
            }
        }
        let [version] = with_kernel[..] else {
            return Err(wrong(&format!(
                "a system that starts has one kernel, `/usr/lib/modules/<version>/vmlinuz`, and this one has {}",
                with_kernel.len()
            )));
        };
        let dir = format!("usr/lib/modules/{version}");
        let kernel = tree.read_file(format!("{dir}/vmlinuz"))?;
        let inside = format!("{dir}/initramfs.img");
        let initramfs = match (&self.attrs.initrd, tree.get(&inside)?) {
            (_, Some(_)) => tree.read_file(&inside)?,
            (Some(path), None) => {
                let place = self.build.tree(path)?;
                std::fs::read(&place)
                    .map_err(|e| BuilderError::io(format!("cannot read `{path}`"), e))?
            }
            (None, None) => {
                return Err(wrong(&format!(
                    "there is no `/{inside}` and no `initrd`, so nothing would find the system"
                )));
            }
        };
        let mut hasher = Hasher::new(HashAlgo::Sha256);
        hasher.update(&kernel);
        hasher.update(&initramfs);
        let sum = hasher
            .finish()
            .as_sha256()
            .ok_or_else(|| BuilderError::failed("no SHA-256"))?;
        let boot = format!("ostree/{os}-{sum}");
        let serial = *serials
            .entry(sum)
            .and_modify(|serial| *serial += 1)
            .or_insert(0);
        if serial == 0 {
            self.tree.mkdir_p(format!("boot/{boot}"), &dir_meta())?;
            self.bytes(&format!("boot/{boot}/vmlinuz-{version}"), &kernel)?;
            self.bytes(&format!("boot/{boot}/initramfs-{version}.img"), &initramfs)?;
        }
        let place = format!("ostree/boot.1.1/{os}/{sum}");
        self.tree.mkdir_p(&place, &dir_meta())?;
        self.link(
            &format!("{place}/{serial}"),
            &format!("../../../deploy/{os}/deploy/{commit}.0"),
        )?;
        let order = self.attrs.deployments.len() - number;
        let entry = format!(
            "title {os} {order} (ostree:{number})\nversion {order}\noptions {} ostree=/ostree/boot.1/{os}/{sum}/{serial}\n\
             linux /{boot}/vmlinuz-{version}\ninitrd /{boot}/initramfs-{version}.img\n",
            self.attrs.options
        );
        self.tree.mkdir_p("boot/loader.1/entries", &dir_meta())?;
        self.text(
            &format!("boot/loader.1/entries/ostree-{order}-{os}.conf"),
            &entry,
        )
    }

    fn text(&mut self, path: &str, text: &str) -> Result<(), BuilderError> {
        self.bytes(path, text.as_bytes())
    }

    fn bytes(&mut self, path: &str, bytes: &[u8]) -> Result<(), BuilderError> {
        if let Some((dir, _)) = path.rsplit_once('/') {
            self.tree.mkdir_p(dir, &dir_meta())?;
        }
        let blob = self.build.store().put_blob_bytes(bytes)?;
        let kind = SpecKind::File {
            size: bytes.len() as u64,
            blob,
            hardlink: None,
        };
        Ok(self.tree.insert(
            path,
            FileSpec {
                meta: file_meta(),
                kind,
            },
        )?)
    }

    fn link(&mut self, path: &str, target: &str) -> Result<(), BuilderError> {
        let kind = SpecKind::Symlink {
            target: target.as_bytes().to_vec(),
        };
        let meta = Meta {
            mode: 0o777,
            ..Meta::default()
        };
        Ok(self.tree.insert(path, FileSpec { meta, kind })?)
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

/// OSTree has no times: all of them are 0.
fn zero(meta: &Meta) -> Meta {
    Meta {
        mtime_secs: 0,
        mtime_nsecs: 0,
        ..meta.clone()
    }
}

fn dir_meta() -> Meta {
    Meta {
        mode: 0o755,
        ..Meta::default()
    }
}

fn file_meta() -> Meta {
    Meta {
        mode: 0o644,
        ..Meta::default()
    }
}

fn wrong(what: &str) -> BuilderError {
    Diagnostic::error(
        "ostree-sysroot",
        Class::Recipe,
        format!("the OSTree disk is not well described: {what}"),
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::super::{OstreeAttrs, make as commit};
    use super::*;
    use crate::build::fake::Fake;
    use crate::export::{Owners, write_rootfs};
    use crate::peers::{peer, said};

    /// A root filesystem as it is deployed, whose files belong to whoever runs the test.
    fn system(fake: &mut Fake, version: &str) -> Deployment {
        let (uid, gid) = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        let own = |mode| Meta {
            mode,
            uid,
            gid,
            ..Meta::default()
        };
        let mut tree = RootTree::empty_in(&fake.store, own(0o755));
        for dir in [
            "usr/etc/below",
            "usr/lib/modules/6.1",
            "var",
            "sysroot",
            "usr/bin",
        ] {
            tree.mkdir_p(dir, &own(0o755)).expect("a directory");
        }
        for (path, text, mode) in [
            ("usr/etc/motd", version, 0o644),
            ("usr/etc/below/same", "the same in both", 0o600),
            ("usr/lib/modules/6.1/vmlinuz", "kernel", 0o644),
            ("usr/lib/modules/6.1/initramfs.img", "initramfs", 0o644),
            ("usr/bin/tool", "#!/bin/sh", 0o755),
        ] {
            let blob = fake.store.put_blob_bytes(text.as_bytes()).expect("a blob");
            let kind = SpecKind::File {
                size: text.len() as u64,
                blob,
                hardlink: None,
            };
            tree.insert(
                path,
                FileSpec {
                    meta: own(mode),
                    kind,
                },
            )
            .expect("placed");
        }
        let kind = SpecKind::Symlink {
            target: b"sysroot/ostree".to_vec(),
        };
        tree.insert(
            "ostree",
            FileSpec {
                meta: own(0o777),
                kind,
            },
        )
        .expect("placed");
        let rootfs = format!("root {version}");
        let root = tree.finish(&fake.store).expect("a manifest");
        fake.roots.insert(rootfs.clone(), root);
        let attrs = OstreeAttrs {
            rootfs: rootfs.clone(),
            branch: format!("os/{version}"),
            bootable: true,
            ..OstreeAttrs::default()
        };
        let repository = format!("repository {version}");
        let made = commit(&*fake, &attrs).expect("a repository");
        fake.roots.insert(repository.clone(), made);
        Deployment {
            rootfs,
            repository,
            branch: attrs.branch,
        }
    }

    #[test]
    fn ostree_finds_the_repository_sound_and_the_way_leads_to_the_system() {
        let mut fake = Fake::new();
        let deployments = vec![system(&mut fake, "2"), system(&mut fake, "1")];
        let attrs = SysrootAttrs {
            os: "web".to_owned(),
            deployments,
            options: "root=LABEL=x rw".to_owned(),
            ..SysrootAttrs::default()
        };
        let root = make(&fake, &attrs).expect("a root");
        assert_eq!(root, make(&fake, &attrs).expect("the same"));
        let dir = fake.path("sysroot");
        let owners = if rustix::process::geteuid().is_root() {
            Owners::Kept
        } else {
            Owners::Caller
        };
        write_rootfs(&fake.store, &root, &dir, owners).expect("a directory");
        let at = dir.to_str().expect("plain");
        let ostree = |args: &[&str]| {
            let output = peer("ostree", args)?;
            assert!(output.status.success(), "{args:?}: {}", said(&output));
            Some(said(&output))
        };
        let repo = format!("--repo={at}/ostree/repo");
        if ostree(&["fsck", &repo]).is_none() {
            return;
        }
        let newest = ostree(&["rev-parse", &repo, "os/2"]).expect("there");
        let system = format!("ostree/deploy/web/deploy/{}.0", newest.trim());
        assert!(dir.join(system).join("usr/bin/tool").is_file());
        let entry = std::fs::read_to_string(dir.join("boot/loader/entries/ostree-2-web.conf"))
            .expect("an entry");
        assert!(
            entry.contains("root=LABEL=x rw ostree=/ostree/boot.1/web/"),
            "{entry}"
        );
        // The way that the kernel is told leads to the system, and the second one has a number of its own.
        let way = entry
            .split("ostree=/")
            .nth(1)
            .and_then(|rest| rest.lines().next())
            .expect("a way");
        let motd =
            std::fs::read_to_string(dir.join(way).join("etc/motd")).expect("the configuration");
        assert_eq!((motd.as_str(), way.ends_with("/0")), ("2", true));
        let second = std::fs::read_to_string(dir.join("boot/loader/entries/ostree-1-web.conf"))
            .expect("an entry");
        assert!(second.contains("/1\n"), "{second}");
        if !rustix::process::geteuid().is_root() {
            crate::peers::skip("`ostree admin` is for root");
            return;
        }
        // It lists both, the one that starts first and the one before it.
        let status =
            ostree(&["admin", &format!("--sysroot={at}"), "status"]).expect("installed above");
        let listed: Vec<&str> = status.lines().filter(|l| l.contains("web ")).collect();
        let older = ostree(&["rev-parse", &repo, "os/1"]).expect("there");
        assert_eq!(listed.len(), 2, "{status}");
        assert!(listed[0].contains(newest.trim()), "{status}");
        assert!(listed[1].contains(older.trim()), "{status}");
    }

    #[test]
    fn what_cannot_start_is_refused() {
        let mut fake = Fake::new();
        let one = system(&mut fake, "1");
        let said = |attrs: SysrootAttrs, fake: &Fake| {
            format!("{:?}", make(fake, &attrs).expect_err("refused"))
        };
        let attrs = SysrootAttrs {
            os: "a/b".to_owned(),
            ..SysrootAttrs::default()
        };
        assert!(said(attrs, &fake).contains("no name of a system"));
        let attrs = SysrootAttrs {
            os: "web".to_owned(),
            ..SysrootAttrs::default()
        };
        assert!(said(attrs, &fake).contains("0 systems"));
        let other = Deployment {
            branch: "other".to_owned(),
            ..one
        };
        let attrs = SysrootAttrs {
            os: "web".to_owned(),
            deployments: vec![other],
            ..SysrootAttrs::default()
        };
        assert!(said(attrs, &fake).contains("no ref `other`"));
    }
}
