//! Layers and layouts, checked by reading them back, by an independent checker and by the tools in use.

mod images;
mod strange;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use sos_engine::BuilderError;
use sos_formats::diagnostic::Diagnostic;
use sos_formats::hash::{Blake3, Sha256};
use sos_formats::manifest::Meta;
use sos_formats::tar::{self, EntryKind};
use sos_store::rootfs::{FileSpec, RootTree, SpecKind};

use super::compress::Compression;
use super::layer::{LayerAttrs, LayerInfo, make_layer};
use super::layout::{ImageAttrs, make_image};
use crate::build::fake::Fake;
use crate::peers::{peer, said};

const EPOCH: i64 = 1_700_000_000;

fn meta(mode: u16, uid: u32, gid: u32) -> Meta {
    Meta {
        mode,
        uid,
        gid,
        mtime_secs: EPOCH - 1000,
        ..Meta::default()
    }
}

fn add(tree: &mut RootTree, path: impl AsRef<[u8]>, meta: Meta, kind: SpecKind) {
    tree.insert(path, FileSpec { meta, kind }).expect("insert");
}

fn dir(tree: &mut RootTree, path: &str, meta: Meta) {
    add(tree, path, meta, SpecKind::Dir);
}

/// A root with everything that a layer can hold, and some things that it must drop.
fn rich(fake: &Fake) -> RootTree {
    let mut tree = RootTree::empty_in(&fake.store, meta(0o755, 0, 0));
    for path in [
        "dev",
        "etc",
        "tmp",
        "usr",
        "usr/bin",
        "usr/lib",
        "usr/share",
        "var",
        "home",
    ] {
        let mode = if path == "tmp" { 0o1777 } else { 0o755 };
        dir(&mut tree, path, meta(mode, 0, 0));
    }
    add(
        &mut tree,
        "bin",
        meta(0o777, 0, 0),
        SpecKind::Symlink {
            target: b"usr/bin".to_vec(),
        },
    );
    tree.write_file("usr/bin/sudo", *b"#!sudo", meta(0o4755, 0, 0))
        .expect("write");
    tree.write_file("usr/bin/gunzip", vec![b'g'; 3000], meta(0o755, 0, 0))
        .expect("write");
    tree.link("usr/bin/gunzip", "usr/bin/uncompress")
        .expect("link");
    tree.link("usr/bin/gunzip", "etc/zz").expect("link");
    let mut with_xattrs = meta(0o644, 0, 0);
    with_xattrs.xattrs = BTreeMap::from([
        (b"user.odd".to_vec(), b"a=b\0c\n\xff".to_vec()),
        (
            b"security.capability".to_vec(),
            vec![1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
        (
            b"security.selinux".to_vec(),
            b"system_u:object_r:etc_t:s0\0".to_vec(),
        ),
        (b"trusted.overlay.opaque".to_vec(), b"y".to_vec()),
    ]);
    tree.write_file("etc/xattrs", *b"x", with_xattrs)
        .expect("write");
    let late = Meta {
        mtime_secs: EPOCH + 5000,
        mtime_nsecs: 7,
        ..meta(0o600, 1000, 100_000)
    };
    tree.write_file("home/late", *b"late", late).expect("write");
    let long = format!("usr/share/{}", "d".repeat(120));
    dir(&mut tree, &long, meta(0o750, 3_000_000, 3_000_000));
    tree.write_file(
        format!("{long}/{}", "f".repeat(250)),
        *b"long",
        meta(0o644, 0, 0),
    )
    .expect("write");
    tree.write_file("usr/share/grüße", *b"utf8", meta(0o644, 0, 0))
        .expect("write");
    let target = format!("/{}", "t/".repeat(120)).into_bytes();
    add(
        &mut tree,
        "usr/share/far",
        meta(0o777, 0, 0),
        SpecKind::Symlink { target },
    );
    tree.write_file("usr/share/empty", *b"", meta(0o644, 0, 0))
        .expect("write");
    let big: Vec<u8> = (0..3_000_000_u32)
        .flat_map(|i| (i / 7).to_le_bytes())
        .collect();
    tree.write_file("usr/lib/big", big, meta(0o644, 0, 0))
        .expect("write");
    add(
        &mut tree,
        "dev/null",
        meta(0o666, 0, 0),
        SpecKind::CharDev { major: 1, minor: 3 },
    );
    add(
        &mut tree,
        "dev/sda",
        meta(0o660, 0, 6),
        SpecKind::BlockDev { major: 8, minor: 0 },
    );
    add(&mut tree, "dev/initctl", meta(0o600, 0, 0), SpecKind::Fifo);
    tree
}

/// An archive with links, files, directories.
fn archive(entries: &[(&str, EntryKind, &str)]) -> Vec<u8> {
    let mut writer = tar::Writer::new(Vec::new());
    for (path, kind, data) in entries {
        let mut entry = tar::Entry {
            path: path.as_bytes().to_vec(),
            kind: *kind,
            mode: 0o755,
            ..tar::Entry::default()
        };
        if *kind == EntryKind::File {
            entry.size = data.len() as u64;
        } else {
            entry.link = data.as_bytes().to_vec();
        }
        let mut data = data.as_bytes().take(entry.size);
        writer.append(&entry, &mut data).expect("an entry");
    }
    writer.finish().expect("memory")
}

fn store_root(fake: &mut Fake, name: &str, mut tree: RootTree) -> Blake3 {
    let id = tree.finish(&fake.store).expect("finish");
    fake.roots.insert(name.to_owned(), id);
    id
}

fn attrs() -> LayerAttrs {
    LayerAttrs {
        epoch: EPOCH,
        ..LayerAttrs::default()
    }
}

#[track_caller]
fn layer(fake: &mut Fake, name: &str, attrs: &LayerAttrs) -> LayerInfo {
    let out = fake.path(name);
    let info = make_layer(fake, attrs, &out).expect("a layer");
    fake.trees.insert(name.to_owned(), out);
    info
}

fn blob(fake: &Fake, name: &str) -> Vec<u8> {
    fs::read(fake.path(name).join("blob")).expect("blob")
}

/// Reads an uncompressed layer as lines: kind, mode, owner, path, link.
fn listing(tar_bytes: &[u8]) -> Vec<String> {
    let mut reader = tar::Reader::new(tar_bytes);
    let mut lines = Vec::new();
    while let Some(entry) = reader.next_entry().expect("a sound tar") {
        let mut data = Vec::new();
        reader.read_to_end(&mut data).expect("data");
        let kind = match entry.kind {
            EntryKind::File => "file",
            EntryKind::Hardlink => "link",
            EntryKind::Symlink => "sym",
            EntryKind::Dir => "dir",
            EntryKind::CharDev | EntryKind::BlockDev => "dev",
            EntryKind::Fifo => "fifo",
        };
        let mut line = format!(
            "{kind} {:04o} {}:{} {}",
            entry.mode,
            entry.uid,
            entry.gid,
            String::from_utf8_lossy(&entry.path)
        );
        if !entry.link.is_empty() {
            line += &format!(" -> {}", String::from_utf8_lossy(&entry.link));
        }
        assert!(entry.mtime_secs <= EPOCH, "{line}");
        lines.push(line);
    }
    lines
}

fn plain(fake: &mut Fake, mut attrs: LayerAttrs) -> Vec<String> {
    attrs.compression = Compression::None;
    let name = format!("plain-{}", fake.trees.len());
    layer(fake, &name, &attrs);
    listing(&blob(fake, &name))
}

#[track_caller]
fn problem(result: Result<LayerInfo, BuilderError>) -> Box<Diagnostic> {
    match result.expect_err("must be refused") {
        BuilderError::Diagnostic(diagnostic) => diagnostic,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_same_bytes_whatever_the_cores() {
    for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
        let mut fake = Fake::new();
        let tree = rich(&fake);
        store_root(&mut fake, "root", tree);
        let attrs = LayerAttrs {
            rootfs: Some("root".into()),
            compression,
            ..attrs()
        };
        fake.cores = 1;
        let one = layer(&mut fake, "one", &attrs);
        fake.cores = 4;
        let four = layer(&mut fake, "four", &attrs);
        assert_eq!(one, four);
        let bytes = blob(&fake, "one");
        assert_eq!(bytes, blob(&fake, "four"));
        assert_eq!(one.digest, format!("sha256:{}", Sha256::of(&bytes)));
        let mut tar = Vec::new();
        match compression {
            Compression::Gzip => {
                flate2::bufread::GzDecoder::new(bytes.as_slice())
                    .read_to_end(&mut tar)
                    .expect("gzip");
            }
            Compression::Zstd => tar = zstd::decode_all(bytes.as_slice()).expect("zstd"),
            Compression::None => tar = bytes,
        }
        assert_eq!(one.diff_id, format!("sha256:{}", Sha256::of(&tar)));
        assert_eq!(one.files, listing(&tar).len() as u64);
    }
}

#[test]
fn order_links_and_attributes() {
    let mut fake = Fake::new();
    let tree = rich(&fake);
    store_root(&mut fake, "root", tree);
    let lines = plain(
        &mut fake,
        LayerAttrs {
            rootfs: Some("root".into()),
            ..attrs()
        },
    );
    let long = "d".repeat(120);
    let expected = [
        "sym 0777 0:0 bin -> usr/bin".to_owned(),
        "dir 0755 0:0 dev".into(),
        "fifo 0600 0:0 dev/initctl".into(),
        "dev 0666 0:0 dev/null".into(),
        "dev 0660 0:6 dev/sda".into(),
        "dir 0755 0:0 etc".into(),
        "file 0644 0:0 etc/xattrs".into(),
        "file 0755 0:0 etc/zz".into(),
        "dir 0755 0:0 home".into(),
        "file 0600 1000:100000 home/late".into(),
        "dir 1777 0:0 tmp".into(),
        "dir 0755 0:0 usr".into(),
        "dir 0755 0:0 usr/bin".into(),
        "link 0755 0:0 usr/bin/gunzip -> etc/zz".into(),
        "file 4755 0:0 usr/bin/sudo".into(),
        "link 0755 0:0 usr/bin/uncompress -> etc/zz".into(),
        "dir 0755 0:0 usr/lib".into(),
        "file 0644 0:0 usr/lib/big".into(),
        "dir 0755 0:0 usr/share".into(),
        format!("dir 0750 3000000:3000000 usr/share/{long}"),
        format!("file 0644 0:0 usr/share/{long}/{}", "f".repeat(250)),
        "file 0644 0:0 usr/share/empty".into(),
        format!("sym 0777 0:0 usr/share/far -> /{}", "t/".repeat(120)),
        "file 0644 0:0 usr/share/grüße".into(),
        "dir 0755 0:0 var".into(),
    ];
    assert_eq!(lines, expected);
    let bytes = blob(&fake, "plain-0");
    let has = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    assert!(has(b"SCHILY.xattr.user.odd=a=b\0c\n\xff\n"));
    assert!(has(b"SCHILY.xattr.security.capability="));
    assert!(!has(b"selinux") && !has(b"trusted.overlay"));
}

#[test]
fn a_root_that_is_unusual_has_an_entry() {
    let mut fake = Fake::new();
    let tree = RootTree::empty_in(&fake.store, meta(0o700, 5, 5));
    store_root(&mut fake, "root", tree);
    let lines = plain(
        &mut fake,
        LayerAttrs {
            rootfs: Some("root".into()),
            ..attrs()
        },
    );
    assert_eq!(lines, ["dir 0700 5:5 "]);
}

#[test]
fn a_name_that_means_a_whiteout_is_refused() {
    let mut fake = Fake::new();
    let mut tree = rich(&fake);
    dir(&mut tree, "usr/.wh.x", meta(0o755, 0, 0));
    dir(&mut tree, "usr/.wh.y", meta(0o755, 0, 0));
    store_root(&mut fake, "root", tree);
    let out = fake.path("out");
    let attrs = LayerAttrs {
        rootfs: Some("root".into()),
        ..attrs()
    };
    let error = problem(make_layer(&fake, &attrs, &out));
    assert_eq!(error.code, "oci-whiteout-name");
    let rule = "names that begin with `.wh.` mark deleted files there";
    let notes = ["x", "y"].map(|end| format!("`/usr/.wh.{end}`: {rule}"));
    assert_eq!(error.notes, notes);
}

#[test]
fn what_would_not_come_back_is_refused_by_its_rule() {
    let mut fake = Fake::new();
    let mut tree = rich(&fake);
    let early = |secs| Meta {
        mtime_secs: secs,
        ..meta(0o755, 0, 0)
    };
    dir(&mut tree, "usr/early", early(-5));
    dir(&mut tree, "usr/first", early(i64::MIN));
    let mut odd = meta(0o755, 0, 0);
    odd.xattrs.insert(b"user.a=b".to_vec(), b"c".to_vec());
    dir(&mut tree, "usr/odd", odd);
    let mut none = meta(0o755, 0, 0);
    none.xattrs.insert(b"user.none".to_vec(), Vec::new());
    dir(&mut tree, "usr/none", none);
    let mut many = meta(0o755, 0, 0);
    for number in 0..17 {
        let key = format!("user.{number}").into_bytes();
        many.xattrs.insert(key, vec![b'x'; 64 << 10]);
    }
    dir(&mut tree, "usr/many", many);
    let device = FileSpec {
        meta: meta(0o600, 0, 0),
        kind: SpecKind::CharDev {
            major: 1,
            minor: 2_097_152,
        },
    };
    tree.insert("usr/tty", device).expect("a device");
    store_root(&mut fake, "root", tree);
    let out = fake.path("out");
    let attrs = LayerAttrs {
        rootfs: Some("root".into()),
        ..attrs()
    };
    let error = problem(make_layer(&fake, &attrs, &out));
    assert_eq!(error.code, "oci-unfit");
    let says = [
        "`/usr/early`: times are those since 1970, and that of this one is 5 seconds before",
        "`/usr/first`: times are those since 1970, and that of this one is 9223372036854775808 seconds before",
        "`/usr/many`: extended attributes of a file have at most 983040 bytes",
        "`/usr/none`: extended attributes have a value, and `user.none` has none; `setfattr -x user.none` removes it",
        "`/usr/odd`: names of extended attributes end at a `=`, and one is called `user.a=b`",
        "`/usr/tty`: numbers of devices are at most 2097151, and these are 1 and 2097152",
    ];
    assert_eq!(error.notes.len(), says.len(), "{error:?}");
    for (note, says) in error.notes.iter().zip(says) {
        assert!(note.starts_with(says), "{note}");
    }
    assert!(error.helps[0].contains("change or remove"), "{error:?}");
}

/// The rich root, changed in every way.
fn changed(fake: &Fake, base: &Blake3) -> RootTree {
    let mut tree = RootTree::load(&fake.store, base).expect("load");
    tree.remove("usr/bin/sudo").expect("remove");
    tree.remove("home").expect("remove");
    tree.write_file("var/new", *b"new", meta(0o644, 0, 0))
        .expect("write");
    // A directory becomes a file, a file becomes a directory.
    tree.remove("usr/lib").expect("remove");
    tree.write_file("usr/lib", *b"file", meta(0o644, 0, 0))
        .expect("write");
    tree.remove("usr/share/empty").expect("remove");
    dir(&mut tree, "usr/share/empty", meta(0o700, 0, 0));
    tree.write_file("usr/share/empty/in", *b"", meta(0o644, 0, 0))
        .expect("write");
    // Another name of a file that is otherwise unchanged.
    tree.link("etc/zz", "etc/zzz").expect("link");
    tree.set_meta("tmp", meta(0o777, 0, 0)).expect("meta");
    tree
}

#[test]
fn differences() {
    let mut fake = Fake::new();
    let tree = rich(&fake);
    let base = store_root(&mut fake, "base", tree);
    let tree = changed(&fake, &base);
    store_root(&mut fake, "new", tree);
    let both = LayerAttrs {
        base: Some("base".into()),
        rootfs: Some("new".into()),
        diff: true,
        ..attrs()
    };
    let lines = plain(&mut fake, both.clone());
    assert_eq!(
        lines,
        [
            "file 0644 0:0 .wh.home",
            "dir 0755 0:0 etc",
            "file 0755 0:0 etc/zz",
            "link 0755 0:0 etc/zzz -> etc/zz",
            "dir 0777 0:0 tmp",
            "dir 0755 0:0 usr",
            "dir 0755 0:0 usr/bin",
            "file 0644 0:0 usr/bin/.wh.sudo",
            "link 0755 0:0 usr/bin/gunzip -> etc/zz",
            "link 0755 0:0 usr/bin/uncompress -> etc/zz",
            "file 0644 0:0 usr/lib",
            "dir 0755 0:0 usr/share",
            "dir 0700 0:0 usr/share/empty",
            "file 0644 0:0 usr/share/empty/in",
            "dir 0755 0:0 var",
            "file 0644 0:0 var/new",
        ]
    );
    let none = LayerAttrs {
        rootfs: Some("base".into()),
        ..both
    };
    assert!(
        plain(&mut fake, none).is_empty(),
        "nothing differs from itself"
    );
}

fn sample_tree(fake: &mut Fake) {
    let top = fake.path("tree");
    fs::create_dir_all(top.join("bin")).expect("mkdir");
    fs::write(top.join("bin/tool"), "#!tool").expect("write");
    fs::set_permissions(top.join("bin/tool"), fs::Permissions::from_mode(0o555)).expect("chmod");
    fs::create_dir_all(top.join("new/deep")).expect("mkdir");
    fs::write(top.join("new/deep/data"), "data").expect("write");
    std::os::unix::fs::symlink("tool", top.join("bin/alias")).expect("symlink");
    fake.trees.insert("tree".into(), top.clone());
    fake.trees.insert("tool".into(), top.join("bin/tool"));
}

#[test]
fn placed_trees_and_files_follow_the_base() {
    let mut fake = Fake::new();
    let mut base = rich(&fake);
    dir(&mut base, "usr/local", meta(0o2775, 0, 50));
    store_root(&mut fake, "base", base);
    sample_tree(&mut fake);
    let placed = LayerAttrs {
        base: Some("base".into()),
        tree: Some("tree".into()),
        files: BTreeMap::from([
            ("/usr/local/sbin/x".into(), "tool".into()),
            ("/bin/y".into(), "tool".into()),
        ]),
        owner: Some("7:8".into()),
        ..attrs()
    };
    assert_eq!(
        plain(&mut fake, placed.clone()),
        [
            "dir 0755 7:8 new",
            "dir 0755 7:8 new/deep",
            "file 0644 7:8 new/deep/data",
            "dir 0755 0:0 usr",
            "dir 0755 0:0 usr/bin",
            "sym 0777 7:8 usr/bin/alias -> tool",
            "file 0755 7:8 usr/bin/tool",
            "file 0755 7:8 usr/bin/y",
            "dir 2775 0:50 usr/local",
            "dir 0755 0:0 usr/local/sbin",
            "file 0755 7:8 usr/local/sbin/x",
        ]
    );
    let free = LayerAttrs {
        base: None,
        files: BTreeMap::new(),
        at: Some("/opt/x/".into()),
        ..placed
    };
    assert_eq!(
        plain(&mut fake, free),
        [
            "dir 0755 0:0 opt",
            "dir 0755 7:8 opt/x",
            "dir 0755 7:8 opt/x/bin",
            "sym 0777 7:8 opt/x/bin/alias -> tool",
            "file 0755 7:8 opt/x/bin/tool",
            "dir 0755 7:8 opt/x/new",
            "dir 0755 7:8 opt/x/new/deep",
            "file 0644 7:8 opt/x/new/deep/data",
        ]
    );
}

#[test]
fn layers_that_make_no_sense() {
    let mut fake = Fake::new();
    let tree = rich(&fake);
    store_root(&mut fake, "base", tree);
    sample_tree(&mut fake);
    let files = |at: &str| LayerAttrs {
        base: Some("base".into()),
        files: BTreeMap::from([(at.to_owned(), "tool".to_owned())]),
        ..attrs()
    };
    let root = LayerAttrs {
        rootfs: Some("base".into()),
        ..attrs()
    };
    let both = BTreeMap::from([
        ("/x".to_owned(), "tool".to_owned()),
        ("/x/y".to_owned(), "tool".to_owned()),
    ]);
    for (attrs, code) in [
        (files("/usr/bin"), "oci-path-clash"),
        (files("/usr/lib/big/x"), "oci-path-clash"),
        (files("/../x"), "oci-bad-path"),
        (files("x"), "oci-bad-path"),
        (
            LayerAttrs {
                files: both,
                ..attrs()
            },
            "oci-path-clash",
        ),
        (
            LayerAttrs {
                owner: Some("root:root".into()),
                ..files("/x")
            },
            "oci-attrs",
        ),
        (attrs(), "oci-attrs"),
        (
            LayerAttrs {
                diff: true,
                ..root.clone()
            },
            "oci-attrs",
        ),
        (
            LayerAttrs {
                level: Some(22),
                ..root.clone()
            },
            "oci-attrs",
        ),
        (
            LayerAttrs {
                epoch: -1,
                ..root.clone()
            },
            "oci-attrs",
        ),
        (
            LayerAttrs {
                tree: Some("tree".into()),
                ..root
            },
            "oci-attrs",
        ),
    ] {
        let error = problem(make_layer(&fake, &attrs, &fake.path("out")));
        assert_eq!(error.code, code, "{attrs:?}: {error}");
    }
}

/// Makes an image of three layers: a whole root, a difference, placed files.
fn image(fake: &mut Fake, compression: Compression) -> PathBuf {
    let tree = rich(fake);
    let base = store_root(fake, "base", tree);
    let tree = changed(fake, &base);
    store_root(fake, "new", tree);
    sample_tree(fake);
    let whole = LayerAttrs {
        rootfs: Some("base".into()),
        compression,
        ..attrs()
    };
    layer(fake, "layer0", &whole);
    let diff = LayerAttrs {
        base: Some("base".into()),
        rootfs: Some("new".into()),
        diff: true,
        ..whole
    };
    layer(fake, "layer1", &diff);
    let placed = LayerAttrs {
        rootfs: None,
        base: Some("new".into()),
        tree: Some("tree".into()),
        diff: false,
        ..diff
    };
    layer(fake, "layer2", &placed);
    let out = fake.path(&format!("image-{compression:?}"));
    let attrs: ImageAttrs = serde_json::from_value(serde_json::json!({
        "name": "test", "system": "builtin", "builder": "builtin:oci",
        "layers": ["layer0", "layer1", "layer2"],
        "config": {
            "entrypoint": ["/bin/tool"], "cmd": ["-v"], "env": {"B": "2", "A": "1"}, "user": "1000", "workdir": "/srv",
            "labels": {"z": "last", "a": "first"}, "exposedPorts": ["80/tcp"], "volumes": ["/data"], "stopSignal": "SIGTERM",
        },
        "tag": "v1", "arch": "x86_64-linux", "epoch": EPOCH, "annotations": {"org.example.note": "ü \"quoted\""},
    }))
    .expect("attributes");
    make_image(fake, attrs, &out).expect("an image");
    out
}

fn only_blob(out: &Path, index: &serde_json::Value) -> serde_json::Value {
    let digest = index["digest"].as_str().expect("digest");
    let bytes = fs::read(
        out.join("blobs/sha256")
            .join(digest.trim_start_matches("sha256:")),
    )
    .expect("blob");
    assert_eq!(format!("sha256:{}", Sha256::of(&bytes)), digest);
    serde_json::from_slice(&bytes).expect("JSON")
}

#[test]
fn documents_have_one_form() {
    let mut fake = Fake::new();
    let out = image(&mut fake, Compression::Gzip);
    assert_eq!(
        fs::read_to_string(out.join("oci-layout")).expect("read"),
        r#"{"imageLayoutVersion":"1.0.0"}"#
    );
    let index = fs::read_to_string(out.join("index.json")).expect("read");
    assert!(index.starts_with(r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:"#), "{index}");
    assert!(index.ends_with(r#","annotations":{"org.opencontainers.image.ref.name":"v1"},"platform":{"architecture":"amd64","os":"linux"}}]}"#), "{index}");
    let index: serde_json::Value = serde_json::from_str(&index).expect("JSON");
    let manifest = only_blob(&out, &index["manifests"][0]);
    assert_eq!(manifest["annotations"]["org.example.note"], "ü \"quoted\"");
    let config = only_blob(&out, &manifest["config"]);
    let expected = r#"{"User":"1000","ExposedPorts":{"80/tcp":{}},"Env":["A=1","B=2"],"Entrypoint":["/bin/tool"],"Cmd":["-v"],"Volumes":{"/data":{}},"WorkingDir":"/srv","Labels":{"a":"first","z":"last"},"StopSignal":"SIGTERM"}"#;
    assert_eq!(config["config"].to_string(), expected);
    assert_eq!(config["created"], "2023-11-14T22:13:20Z");
    assert_eq!(config["history"].as_array().map(Vec::len), Some(3));
    // The layer is the same file as in the layer's own output.
    let blob = fs::metadata(fake.path("layer0/blob")).expect("blob");
    let digest = manifest["layers"][0]["digest"]
        .as_str()
        .expect("digest")
        .trim_start_matches("sha256:");
    assert_eq!(
        fs::metadata(out.join("blobs/sha256").join(digest))
            .expect("blob")
            .ino(),
        blob.ino()
    );
}

#[test]
fn another_reader_understands_the_documents() {
    use oci_spec::image::{ImageConfiguration, ImageIndex, ImageManifest};
    let mut fake = Fake::new();
    let out = image(&mut fake, Compression::Zstd);
    let index = ImageIndex::from_file(out.join("index.json")).expect("index");
    let blob = |digest: &str| out.join("blobs/sha256").join(digest);
    let manifest =
        ImageManifest::from_file(blob(index.manifests()[0].digest().digest())).expect("manifest");
    let config =
        ImageConfiguration::from_file(blob(manifest.config().digest().digest())).expect("config");
    assert_eq!(manifest.layers().len(), 3);
    assert_eq!(config.rootfs().diff_ids().len(), 3);
    assert_eq!(config.architecture().to_string(), "amd64");
    assert_eq!(
        config
            .labels_of_config()
            .and_then(|labels| labels.get("a"))
            .map(String::as_str),
        Some("first")
    );
}

#[test]
fn images_that_make_no_sense() {
    let mut fake = Fake::new();
    let tree = rich(&fake);
    store_root(&mut fake, "root", tree);
    layer(
        &mut fake,
        "layer0",
        &LayerAttrs {
            rootfs: Some("root".into()),
            ..attrs()
        },
    );
    for (change, part) in [
        (serde_json::json!({"layers": []}), "no layers"),
        (serde_json::json!({"tag": "a b"}), "not a tag"),
        (serde_json::json!({"arch": "amd46"}), "architecture `amd46`"),
        (serde_json::json!({"config": {"env": ["A"]}}), "NAME=value"),
        (
            serde_json::json!({"config": {"env": ["A=1", "A=2"]}}),
            "twice",
        ),
        (
            serde_json::json!({"config": {"exposedPorts": ["http"]}}),
            "not a port",
        ),
        (
            serde_json::json!({"config": {"workdir": "srv"}}),
            "absolute path",
        ),
        (
            serde_json::json!({"config": {"user": "a b:c"}}),
            "`user` is",
        ),
        (
            serde_json::json!({"config": {"user": "a:b:c"}}),
            "`user` is",
        ),
        (
            serde_json::json!({"config": {"volumes": ["rel"]}}),
            "such as `/rel`",
        ),
        (
            serde_json::json!({"config": {"stopSignal": "SIGNOPE"}}),
            "must be a signal",
        ),
        (
            serde_json::json!({"layers": ["nowhere"]}),
            "no tree nowhere",
        ),
    ] {
        let mut attrs = serde_json::json!({"layers": ["layer0"], "arch": "amd64"});
        for (key, value) in change.as_object().expect("object") {
            attrs[key] = value.clone();
        }
        let attrs = serde_json::from_value(attrs).expect("attributes");
        let error = make_image(&fake, attrs, &fake.path(part)).expect_err(part);
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn an_independent_checker_finds_nothing() {
    let checker = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/checks/oci_check.py");
    if !checker.exists() {
        // It is no program that could be installed.
        println!("skipped: no ../shared/checks/oci_check.py");
        return;
    }
    for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
        let mut fake = Fake::new();
        let out = image(&mut fake, compression);
        let args = [
            checker.as_os_str(),
            out.as_os_str(),
            "--strict".as_ref(),
            "--epoch".as_ref(),
        ];
        let epoch = EPOCH.to_string();
        let Some(output) = peer("python3", &[&args[..], &[epoch.as_ref()]].concat()) else {
            return;
        };
        let text = said(&output);
        assert!(output.status.success(), "{compression:?}: {text}");
        assert!(
            text.contains("problems=0 repro=0 warnings=0 images=1 layers=3"),
            "{text}"
        );
    }
}

#[test]
fn skopeo_copies_it() {
    for compression in [Compression::Gzip, Compression::Zstd] {
        let mut fake = Fake::new();
        let out = image(&mut fake, compression);
        let from = format!("oci:{}:v1", out.display());
        let to = format!("oci-archive:{}", fake.path("archive.tar").display());
        let Some(output) = peer("skopeo", &["--insecure-policy", "copy", &from, &to]) else {
            return;
        };
        assert!(output.status.success(), "{}", said(&output));
    }
}

#[test]
fn umoci_unpacks_it_to_the_same_tree() {
    let mut fake = Fake::new();
    let out = image(&mut fake, Compression::Gzip);
    let bundle = fake.path("bundle");
    let root = rustix::process::geteuid().is_root();
    let name = format!("{}:v1", out.display());
    let mut args = vec!["unpack", "--image", &name];
    if !root {
        args.push("--rootless");
    }
    let target = bundle.display().to_string();
    args.push(&target);
    let Some(output) = peer("umoci", &args) else {
        return;
    };
    assert!(output.status.success(), "{}", said(&output));
    let rootfs = bundle.join("rootfs");
    assert!(!rootfs.join("home").exists() && !rootfs.join("usr/bin/sudo").exists());
    assert_eq!(fs::read(rootfs.join("usr/lib")).expect("read"), b"file");
    assert_eq!(fs::read(rootfs.join("bin/tool")).expect("read"), b"#!tool");
    let inode = |path: &str| fs::metadata(rootfs.join(path)).expect(path).ino();
    assert_eq!(inode("etc/zz"), inode("usr/bin/gunzip"));
    assert_eq!(inode("etc/zz"), inode("etc/zzz"));
    let checker = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/checks/oci_check.py");
    if root && checker.exists() {
        let args = [
            checker.as_os_str(),
            out.as_os_str(),
            "--tree".as_ref(),
            rootfs.as_os_str(),
        ];
        let Some(output) = peer("python3", &args) else {
            return;
        };
        assert!(output.status.success(), "{}", said(&output));
    }
}
