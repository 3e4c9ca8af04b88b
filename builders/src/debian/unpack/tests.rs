use std::io::Write as _;

use sos_formats::tar::Writer;
use sos_store::rootfs::{KindView, RootTree};

use super::*;
use crate::build::fake::Fake;
use sos_formats::tar::{Entry, EntryKind};

const EPOCH: i64 = 1_700_000_000;

fn dir(path: &str, mode: u16) -> (Entry, &'static str) {
    (
        Entry {
            path: path.into(),
            kind: EntryKind::Dir,
            mode,
            mtime_secs: EPOCH - 5,
            ..Entry::default()
        },
        "",
    )
}

fn file(path: &str, text: &'static str) -> (Entry, &'static str) {
    let entry = Entry {
        path: path.into(),
        mode: 0o644,
        mtime_secs: EPOCH + 9,
        size: text.len() as u64,
        ..Entry::default()
    };
    (entry, text)
}

fn link(kind: EntryKind, path: &str, target: &str) -> (Entry, &'static str) {
    (
        Entry {
            path: path.into(),
            kind,
            mode: 0o777,
            link: target.into(),
            ..Entry::default()
        },
        "",
    )
}

fn tar(entries: &[(Entry, &'static str)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (entry, text) in entries {
        writer.append(entry, &mut text.as_bytes()).expect("memory");
    }
    writer.finish().expect("memory")
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut out = liblzma::write::XzEncoder::new(Vec::new(), 1);
    out.write_all(bytes).expect("memory");
    out.finish().expect("memory")
}

fn deb(name: &str, arch: &str, entries: &[(Entry, &'static str)]) -> Vec<u8> {
    let control: &'static str =
        format!("Package: {name}\nVersion: 1\nArchitecture: {arch}\n").leak();
    let members = [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar.xz", xz(&tar(&[file("control", control)]))),
        ("data.tar.xz", xz(&tar(entries))),
    ];
    let mut out = b"!<arch>\n".to_vec();
    for (name, data) in members {
        out.extend(
            format!(
                "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
                0,
                0,
                0,
                "100644",
                data.len()
            )
            .bytes(),
        );
        out.extend(&data);
        out.extend(if data.len() % 2 == 1 { &b"\n"[..] } else { b"" });
    }
    out
}

fn build(debs: &[Vec<u8>], merged_usr: bool, cores: usize) -> (Fake, Result<Blake3, BuilderError>) {
    let mut fake = Fake::new();
    fake.cores = cores;
    let mut names = Vec::new();
    for (i, bytes) in debs.iter().enumerate() {
        let path = fake.path(&format!("{i}.deb"));
        std::fs::write(&path, bytes).expect("write");
        fake.trees.insert(i.to_string(), path);
        names.push(i.to_string());
    }
    let result = unpack(
        &fake,
        &UnpackAttrs {
            debs: names,
            epoch: EPOCH,
            merged_usr,
        },
    );
    (fake, result)
}

#[track_caller]
fn message(debs: &[Vec<u8>]) -> String {
    match build(debs, true, 1).1.expect_err("must fail") {
        BuilderError::Diagnostic(d) => format!("{}: {}", d.code, d.message),
        other => other.to_string(),
    }
}

#[test]
fn packages_share_one_root_with_merged_usr() {
    let first = deb(
        "base",
        "amd64",
        &[
            dir("", 0o755),
            dir("bin", 0o700),
            file("bin/sh", "one"),
            dir("var", 0o755),
            dir("var/mail", 0o2775),
            dir("lib64", 0o755),
            link(EntryKind::Symlink, "lib64/ld.so", "/lib/ld.so"),
        ],
    );
    let second = deb(
        "more",
        "all",
        &[
            dir("var", 0o700),
            file("usr/bin/sh", "two"),
            link(EntryKind::Hardlink, "bin/dash", "bin/sh"),
            file("no/parent/x", "y"),
        ],
    );
    let (fake, root) = build(&[first, second], true, 2);
    let tree = RootTree::load(&fake.store, &root.expect("unpacks")).expect("loads");
    let target = |path: &str| match tree.get(path).expect("readable").map(|e| e.kind) {
        Some(KindView::Symlink { target }) => String::from_utf8_lossy(target).into_owned(),
        other => format!("{other:?}"),
    };
    // Links that something needs, and no others.
    assert_eq!(
        (target("bin"), target("lib64"), target("lib32")),
        ("usr/bin".into(), "usr/lib64".into(), "None".into())
    );
    assert_eq!(tree.read_file("usr/bin/sh").expect("file"), b"two");
    assert_eq!(tree.read_file("usr/bin/dash").expect("file"), b"two");
    let meta = |path: &str| {
        tree.get(path)
            .expect("readable")
            .expect("there")
            .meta
            .clone()
    };
    // The first package that has a directory decides about it; a link to one is as good.
    assert_eq!(
        (
            meta("var").mode,
            meta("var/mail").mode,
            meta("usr/bin").mode,
            meta("tmp").mode
        ),
        (0o755, 0o2775, 0o755, 0o1777)
    );
    assert_eq!(
        (meta("usr/bin/sh").mtime_secs, meta("var").mtime_secs),
        (EPOCH, EPOCH - 5)
    );
    assert_eq!(
        tree.read_file("var/lib/dpkg/arch").expect("file"),
        b"amd64\n"
    );
    assert_eq!(tree.read_file("var/lib/dpkg/status").expect("file"), b"");
    assert_eq!(tree.read_file("no/parent/x").expect("file"), b"y");
    assert!(fake.logged("more 1: 4 entries"));
}

#[test]
fn the_number_of_cores_does_not_show() {
    let debs: Vec<_> = (0..9)
        .map(|i| {
            deb(
                "p",
                "amd64",
                &[file("usr/x", ["a", "b", "c"][i % 3]), file("etc/y", "z")],
            )
        })
        .collect();
    let one = build(&debs, true, 1).1.expect("unpacks");
    assert_eq!(build(&debs, true, 4).1.expect("unpacks"), one);
}

#[test]
fn without_merged_usr_directories_stay() {
    let (fake, root) = build(
        &[deb("a", "amd64", &[dir("bin", 0o755), file("bin/sh", "x")])],
        false,
        1,
    );
    let tree = RootTree::load(&fake.store, &root.expect("unpacks")).expect("loads");
    assert_eq!(
        tree.get("bin").expect("readable").map(|e| e.kind),
        Some(KindView::Dir)
    );
}

#[test]
fn links_lead_nowhere_outside() {
    let hostile = deb(
        "h",
        "amd64",
        &[
            link(EntryKind::Symlink, "out", "../../../../etc"),
            file("out/passwd", "inside"),
        ],
    );
    let (fake, root) = build(&[hostile], true, 1);
    let tree = RootTree::load(&fake.store, &root.expect("unpacks")).expect("loads");
    assert_eq!(tree.read_file("etc/passwd").expect("file"), b"inside");
}

#[test]
fn damage_and_clashes_are_named() {
    let good = deb("a", "amd64", &[file("x", "content of some length")]);
    assert!(
        message(&[good[..good.len() - 40].to_vec()])
            .starts_with("deb-bad-package: the package `a` is damaged")
    );
    let mut flipped = good.clone();
    let at = flipped.len() - 60;
    flipped[at] ^= 0x55;
    assert!(message(&[flipped]).starts_with("deb-bad-package: the package `a` is damaged"));
    assert!(
        message(&[b"hello".to_vec()])
            .starts_with("deb-bad-package: the package `0.deb` is damaged: not an ar archive")
    );
    let clash = deb("b", "amd64", &[file("x/y", "1")]);
    assert_eq!(
        message(&[good.clone(), clash]),
        "deb-path-clash: package `b` cannot place `/x/y`: a directory above it is none"
    );
    let over = deb(
        "c",
        "amd64",
        &[dir("d", 0o755), file("d/e", "1"), file("d", "2")],
    );
    assert_eq!(
        message(&[over]),
        "deb-path-clash: package `c` cannot place `/d`: a directory that is not empty is there"
    );
    let dangling = deb("d", "amd64", &[link(EntryKind::Hardlink, "a", "gone")]);
    assert_eq!(
        message(&[dangling]),
        "deb-path-clash: package `d` cannot place `/a`: its other name is no file"
    );
}
