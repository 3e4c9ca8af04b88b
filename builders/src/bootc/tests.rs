//! What is moved where, and that every rule can be broken.

use sos_formats::manifest::Meta;
use sos_store::rootfs::{FileSpec, KindView, SpecKind};

use super::*;
use crate::build::fake::Fake;
use crate::export::{Owners, write_rootfs};
use crate::peers::{peer, said};

const EPOCH: i64 = 1_700_000_000;

fn meta(mode: u16) -> Meta {
    layout::plain(mode, EPOCH)
}

/// Writes files, and the directories above them; a name that ends in `/` is a directory, ` -> ` makes a link.
fn tree(fake: &Fake, entries: &[(&str, &str)]) -> Blake3 {
    let mut tree = RootTree::empty_in(&fake.store, meta(0o755));
    for (path, content) in entries {
        if let Some((path, target)) = path.split_once(" -> ") {
            let (parent, _) = path.rsplit_once('/').unwrap_or_default();
            tree.mkdir_p(parent, &meta(0o755)).expect("directories");
            layout::put_link(&mut tree, path, target, EPOCH).expect("a link");
            continue;
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        tree.mkdir_p(parent, &meta(0o755)).expect("directories");
        if !name.is_empty() {
            tree.write_file(path, *content, meta(0o644))
                .expect("a file");
        }
    }
    tree.finish(&fake.store).expect("a root filesystem")
}

const DEBIAN: &[(&str, &str)] = &[
    ("bin -> usr/bin", ""),
    ("boot/vmlinuz-6.1.0", "kernel"),
    ("boot/initrd.img-6.1.0", "initrd"),
    ("boot/config-6.1.0", "CONFIG_X=y"),
    ("vmlinuz -> boot/vmlinuz-6.1.0", ""),
    ("dev/", ""),
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nweb:x:980:980::/var/lib/web:/bin/false\n",
    ),
    ("etc/group", "root:x:0:\nweb:x:980:\ntape:x:26:\n"),
    ("home/", ""),
    ("root/.profile", "umask 022\n"),
    ("run/lock/", ""),
    ("tmp/left", "over"),
    ("usr/lib/modules/6.1.0/modules.dep", ""),
    ("usr/lib/os-release", "ID=debian\n"),
    (
        "usr/lib/ostree/prepare-root.conf",
        "[composefs]\nenabled = true\n",
    ),
    (
        "usr/lib/sysusers.d/web.conf",
        "u web 980 - /var/lib/web\ng tape 26\n",
    ),
    (
        "usr/lib/bootc/kargs.d/console.toml",
        "kargs = [\"console=ttyS0\"]\nmatch-architectures = [\"x86_64\"]\n",
    ),
    ("var/lib/dpkg/status", "Package: x\n"),
    ("var/lib/with space/100%", "state"),
    ("var/log/dpkg.log", "now"),
    ("var/run -> /run", ""),
];

fn made(
    fake: &mut Fake,
    entries: &[(&str, &str)],
    attrs: &BootcAttrs,
) -> Result<RootTree, BuilderError> {
    let root = tree(fake, entries);
    fake.roots.insert("root".into(), root);
    let attrs = BootcAttrs {
        rootfs: "root".into(),
        epoch: EPOCH,
        ..attrs.clone()
    };
    let root = make(fake, &attrs)?;
    fake.roots.insert("made".into(), root);
    Ok(RootTree::load(&fake.store, &root).expect("the tree"))
}

#[test]
fn a_debian_is_laid_out_without_a_doubt() {
    let strict = BootcAttrs {
        strict: true,
        ..BootcAttrs::default()
    };
    let mut fake = Fake::new();
    let tree = made(&mut fake, DEBIAN, &strict).expect("no finding at all");
    let text =
        |path: &str| String::from_utf8(tree.read_file(path).unwrap_or_default()).expect("text");
    assert_eq!(text("usr/lib/modules/6.1.0/vmlinuz"), "kernel");
    assert_eq!(text("usr/lib/modules/6.1.0/initramfs.img"), "initrd");
    assert_eq!(text("usr/lib/modules/6.1.0/config"), "CONFIG_X=y");
    assert_eq!(tree.get("vmlinuz").expect("look"), None);
    for dir in ["boot", "run", "tmp", "dev", "sysroot"] {
        assert_eq!(tree.list(dir).expect("a directory"), Vec::<Vec<u8>>::new());
    }
    assert_eq!(
        tree.get("tmp").expect("look").expect("there").meta.mode,
        0o755
    );
    let target = |path: &str| match tree.get(path).expect("look").map(|view| view.kind) {
        Some(KindView::Symlink { target }) => String::from_utf8_lossy(target).into_owned(),
        other => panic!("{path}: {other:?}"),
    };
    assert_eq!(target("ostree"), "sysroot/ostree");
    assert_eq!(target("home"), "var/home");
    assert_eq!(target("root"), "var/roothome");
    assert_eq!(target("var/lib/dpkg"), "../../usr/lib/sysimage/dpkg");
    assert_eq!(text("usr/lib/sysimage/dpkg/status"), "Package: x\n");
    assert_eq!(
        text("usr/share/factory/var/roothome/.profile"),
        "umask 022\n"
    );
    assert!(tree.get("etc/passwd").expect("look").is_some());
    let lines = text(volatile::TMPFILES);
    insta::assert_snapshot!(lines, @r#"
    # What /var begins with; made by sos.bootc.
    d /var/home 0755 0 0 -
    d /var/lib 0755 0 0 -
    L /var/lib/dpkg - - - - ../../usr/lib/sysimage/dpkg
    d "/var/lib/with space" 0755 0 0 -
    C "/var/lib/with space/100%%" 0644 0 0 - /usr/share/factory/var/lib/with space/100%%
    d /var/log 0755 0 0 -
    d /var/mnt 0755 0 0 -
    d /var/opt 0755 0 0 -
    d /var/roothome 0755 0 0 -
    C /var/roothome/.profile 0644 0 0 - /usr/share/factory/var/roothome/.profile
    L /var/run - - - - /run
    d /var/srv 0755 0 0 -
    "#);
    let again = make(
        &fake,
        &BootcAttrs {
            rootfs: "made".into(),
            epoch: EPOCH,
            arrange: Some(false),
            ..strict
        },
    );
    assert_eq!(again.expect("it keeps the rules"), fake.roots["made"]);
}

#[test]
fn a_commit_has_its_configuration_below_usr() {
    let mut fake = Fake::new();
    let attrs = BootcAttrs {
        layout: Layout::Ostree,
        strict: true,
        ..BootcAttrs::default()
    };
    let tree = made(&mut fake, DEBIAN, &attrs).expect("no finding");
    assert_eq!(tree.get("etc").expect("look"), None);
    assert!(tree.get("usr/etc/passwd").expect("look").is_some());
    assert!(tree.list("var").expect("a directory").is_empty());
}

#[test]
fn systemd_makes_var_as_it_was() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root may give files to others");
        return;
    }
    let mut fake = Fake::new();
    let attrs = BootcAttrs {
        layout: Layout::Ostree,
        ..BootcAttrs::default()
    };
    made(&mut fake, DEBIAN, &attrs).expect("no error");
    let dir = fake.path("host");
    write_rootfs(&fake.store, &fake.roots["made"], &dir, Owners::Kept).expect("a directory");
    let root = format!("--root={}", dir.display());
    let config = dir.join(volatile::TMPFILES).display().to_string();
    let Some(output) = peer("systemd-tmpfiles", &["--create", &root, &config]) else {
        return;
    };
    assert!(output.status.success(), "{}", said(&output));
    let read = |path: &str| std::fs::read_to_string(dir.join(path)).expect("a file");
    assert_eq!(read("var/lib/with space/100%"), "state");
    assert_eq!(read("var/roothome/.profile"), "umask 022\n");
    assert_eq!(read("var/lib/dpkg/status"), "Package: x\n");
    assert!(dir.join("var/home").is_dir() && dir.join("var/log").is_dir());
    assert!(!dir.join("var/log/dpkg.log").exists());
}

#[test]
fn every_broken_rule_is_named() {
    let check = |entries: &[(&str, &str)], layout: Layout| {
        let fake = Fake::new();
        let root = tree(&fake, entries);
        let tree = RootTree::load(&fake.store, &root).expect("the tree");
        let findings = lint::check(&tree, layout).expect("lints");
        let rules = findings
            .into_iter()
            .map(|found| (found.rule, found.severity));
        rules.collect::<Vec<_>>()
    };
    use Severity::{Error, Warning};
    let good = {
        let mut fake = Fake::new();
        let tree = made(&mut fake, DEBIAN, &BootcAttrs::default()).expect("good");
        let mut entries = Vec::new();
        tree.walk(|path, _, kind| {
            let path = String::from_utf8_lossy(path).into_owned();
            match kind {
                KindView::Dir => entries.push((format!("{path}/"), String::new())),
                KindView::Symlink { target } => {
                    let target = String::from_utf8_lossy(target);
                    entries.push((format!("{path} -> {target}"), String::new()));
                }
                _ => {
                    let text = tree.read_file(&path)?;
                    entries.push((path, String::from_utf8_lossy(&text).into_owned()));
                }
            }
            Ok(())
        })
        .expect("walked");
        entries
    };
    let with = |without: &[&str], more: &[(&str, &str)]| {
        let kept = good
            .iter()
            .map(|(path, text)| (path.as_str(), text.as_str()))
            .filter(|(path, _)| !without.contains(path));
        check(
            &kept.chain(more.iter().copied()).collect::<Vec<_>>(),
            Layout::Container,
        )
    };
    assert_eq!(with(&[], &[]), []);
    for (without, more, rule, severity) in [
        (vec!["sysroot/"], vec![], "bootc-base-dirs", Error),
        (
            vec!["tmp/"],
            vec![("tmp -> var/tmp", "")],
            "bootc-base-dirs",
            Error,
        ),
        (
            vec!["ostree -> sysroot/ostree"],
            vec![],
            "bootc-ostree-link",
            Error,
        ),
        (
            vec!["ostree -> sysroot/ostree"],
            vec![("ostree -> /sysroot/ostree", "")],
            "bootc-ostree-link",
            Error,
        ),
        (vec![], vec![("usr/etc/x", "")], "bootc-two-etc", Error),
        (
            vec!["usr/lib/modules/6.1.0/vmlinuz"],
            vec![],
            "bootc-kernel",
            Error,
        ),
        (
            vec![],
            vec![("usr/lib/modules/6.2/vmlinuz", "")],
            "bootc-kernel",
            Error,
        ),
        (
            vec!["usr/lib/modules/6.1.0/initramfs.img"],
            vec![],
            "bootc-initramfs",
            Warning,
        ),
        (
            vec!["var/run -> /run"],
            vec![("var/run/", "")],
            "bootc-var-run",
            Error,
        ),
        (
            vec![],
            vec![("usr/lib/bootc/kargs.d/a.toml", "karg = []")],
            "bootc-kargs",
            Error,
        ),
        (
            vec![],
            vec![("usr/lib/bootc/kargs.d/a.toml", "kargs = \"a\"")],
            "bootc-kargs",
            Error,
        ),
        (
            vec![],
            vec![("usr/lib/bootc/kargs.d/a.toml", "kargs = [")],
            "bootc-kargs",
            Error,
        ),
        (
            vec![],
            vec![("var/log/x.log", "")],
            "bootc-var-log",
            Warning,
        ),
        (vec![], vec![("var/lib/state", "x")], "bootc-var", Warning),
        (
            vec![],
            vec![("boot/grub/grub.cfg", "x")],
            "bootc-not-empty",
            Warning,
        ),
        (vec![], vec![("run/x", "x")], "bootc-not-empty", Warning),
        (
            vec![],
            vec![("etc/hostname", "")],
            "bootc-empty-config",
            Warning,
        ),
        (
            vec!["usr/lib/ostree/prepare-root.conf"],
            vec![(
                "etc/ostree/prepare-root.conf",
                "[composefs]\nenabled = no\n",
            )],
            "bootc-prepare-root",
            Warning,
        ),
        (
            vec!["usr/lib/sysusers.d/web.conf"],
            vec![],
            "bootc-sysusers",
            Warning,
        ),
        (
            vec!["usr/lib/os-release"],
            vec![],
            "bootc-os-release",
            Warning,
        ),
    ] {
        assert_eq!(
            with(&without, &more),
            [(rule, severity)],
            "{without:?} {more:?}"
        );
    }
    let as_commit: Vec<(&str, &str)> = good
        .iter()
        .map(|(path, text)| (path.as_str(), text.as_str()))
        .collect();
    assert_eq!(
        check(&as_commit, Layout::Ostree)[0],
        ("bootc-no-usr-etc", Error)
    );

    let mut fake = Fake::new();
    let mut special = RootTree::load(&fake.store, &tree(&fake, DEBIAN)).expect("the tree");
    for (path, kind) in [
        (b"usr/pipe".as_slice(), SpecKind::Fifo),
        (b"usr/\xff".as_slice(), SpecKind::Dir),
    ] {
        let meta = meta(0o644);
        special
            .insert(path, FileSpec { meta, kind })
            .expect("inserted");
    }
    let root = special.finish(&fake.store).expect("a root filesystem");
    fake.roots.insert("special".into(), root);
    let attrs = BootcAttrs {
        rootfs: "special".into(),
        epoch: EPOCH,
        ..BootcAttrs::default()
    };
    let error = make(&fake, &attrs).expect_err("a name").to_string();
    assert!(error.contains("`/usr/\u{fffd}`"), "{error}");
    assert!(fake.logged("warning[bootc-special]"));
    let strict = BootcAttrs {
        strict: true,
        ..attrs
    };
    let BuilderError::Diagnostic(both) = make(&fake, &strict).expect_err("both") else {
        panic!("a diagnostic");
    };
    assert_eq!(both.code, "rootfs-not-for-bootc");
    assert_eq!(both.notes.len(), 2, "{both:?}");
}

/// What is laid out and committed can be deployed, and the deployment before stays.
#[cfg(feature = "libostree")]
#[test]
fn libostree_deploys_one_after_the_other() {
    use crate::export::{AddOptions, add_to_repository};
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can deploy");
        return;
    }
    let mut fake = Fake::new();
    let attrs = BootcAttrs {
        layout: Layout::Ostree,
        ..BootcAttrs::default()
    };
    let (repo, sysroot) = (fake.path("repo"), fake.path("sysroot"));
    std::fs::create_dir(&sysroot).expect("a directory");
    let mut commits = Vec::new();
    for (n, version) in ["1", "2"].into_iter().enumerate() {
        let mut entries = DEBIAN.to_vec();
        entries.push(("usr/lib/version", version));
        made(&mut fake, &entries, &attrs).expect("no error");
        let commit = crate::ostree::commit_for_tests(&fake, "made", EPOCH + n as i64);
        add_to_repository(&fake.store, &commit, &repo, &AddOptions::default()).expect("exported");
        let deployed = crate::libostree::deploy(&repo, "os", &sysroot, "debian", &["quiet"]);
        commits.push(deployed.expect("deployed"));
    }
    assert_ne!(commits[0], commits[1]);
    let entry = |number: u32| {
        let name = format!("boot/loader/entries/ostree-{number}-debian.conf");
        std::fs::read_to_string(sysroot.join(name)).expect("a boot entry")
    };
    // The higher number boots.
    assert!(entry(2).contains("quiet") && entry(1).contains("ostree=/ostree/boot."));
    let deployment = |commit: &str| sysroot.join(format!("ostree/deploy/debian/deploy/{commit}.0"));
    for (commit, version) in commits.iter().zip(["1", "2"]) {
        let read = |path: &str| std::fs::read_to_string(deployment(commit).join(path));
        assert_eq!(read("usr/lib/version").expect("a file"), version);
        assert!(
            read("etc/passwd")
                .expect("made of /usr/etc")
                .contains("web:")
        );
        // Else nothing could remove it.
        let place = deployment(commit).display().to_string();
        let _none_here = peer("chattr", &["-i", &place]).is_none();
    }
    let missing = crate::libostree::deploy(&repo, "none", &sysroot, "debian", &[]);
    let error = missing.expect_err("no such ref").to_string();
    assert!(error.contains("cannot deploy `none`"), "{error}");
}
