//! Debian's ostree takes the root for one of its own.

use super::*;
use crate::build::fake::Fake;
use crate::export::{Owners, write_rootfs};
use crate::ostree::{OstreeAttrs, make as commit};
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
    // What keeps each commit, as libostree names it.
    for (place, name) in ["os/2", "os/1"].into_iter().enumerate() {
        let of = |name: &str| ostree(&["rev-parse", &repo, name]).expect("there");
        assert_eq!(of(&format!("ostree/1/1/{place}")), of(name));
    }
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
    let motd = std::fs::read_to_string(dir.join(way).join("etc/motd")).expect("the configuration");
    assert_eq!((motd.as_str(), way.ends_with("/0")), ("2", true));
    let second = std::fs::read_to_string(dir.join("boot/loader/entries/ostree-1-web.conf"))
        .expect("an entry");
    assert!(second.contains("/1\n"), "{second}");
    if !rustix::process::geteuid().is_root() {
        crate::peers::skip("`ostree admin` is for root");
        return;
    }
    // It lists both, the one that starts first and the one before it.
    let status = ostree(&["admin", &format!("--sysroot={at}"), "status"]).expect("installed above");
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
    let attrs = SysrootAttrs {
        os: "web".to_owned(),
        deployments: vec![system(&mut fake, "2"), system(&mut fake, "2")],
        ..SysrootAttrs::default()
    };
    assert!(said(attrs, &fake).contains("among `deployments` twice"));
}

#[test]
fn a_root_filesystem_is_that_of_its_commit() {
    let mut fake = Fake::new();
    let one = system(&mut fake, "1");
    let two = system(&mut fake, "2");
    let mixed = Deployment {
        rootfs: one.rootfs.clone(),
        ..two
    };
    let attrs = SysrootAttrs {
        os: "web".to_owned(),
        deployments: vec![one, mixed],
        ..SysrootAttrs::default()
    };
    let BuilderError::Diagnostic(refused) = make(&fake, &attrs).expect_err("another's files")
    else {
        panic!("no words for the user");
    };
    assert_eq!(refused.code, "ostree-sysroot");
    assert_eq!(
        refused.message,
        "`root 1` is not the root filesystem of the commit `repository 2`"
    );
}
