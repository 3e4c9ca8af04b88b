//! Images that nobody should make: what is refused, and what is left out of the root filesystem.

use serde_json::{Value, json};
use sos_store::rootfs::KindView;

use super::*;
use crate::oci::documents::Platform;
use crate::oci::source::Layout;
use crate::oci::unpack::{RootfsAttrs, make_rootfs};

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A layout that is filled by hand.
struct Hand {
    fake: Fake,
    place: PathBuf,
}

impl Hand {
    fn new() -> Self {
        let mut fake = Fake::new();
        let place = fake.path("image");
        fs::create_dir_all(place.join("blobs/sha256")).expect("a directory");
        fs::write(place.join("oci-layout"), "{}").expect("write");
        fake.trees.insert("image".into(), place.clone());
        Self { fake, place }
    }

    fn put(&self, kind: &str, bytes: &[u8]) -> Value {
        let digest = Sha256::of(bytes).to_string();
        fs::write(self.place.join("blobs/sha256").join(&digest), bytes).expect("write");
        json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len() })
    }

    fn index(&self, manifests: &[Value]) {
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        fs::write(self.place.join("index.json"), index.to_string()).expect("write");
    }

    /// Makes the one image that is there.
    fn image(&self, layers: &[(&str, Vec<u8>)]) {
        let ids: Vec<String> = layers
            .iter()
            .map(|(_, bytes)| format!("sha256:{}", Sha256::of(bytes)))
            .collect();
        let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": ids } });
        self.with_config(layers, "application/vnd.oci.image.config.v1+json", &config);
    }

    fn with_config(&self, layers: &[(&str, Vec<u8>)], kind: &str, config: &Value) {
        let config = self.put(kind, config.to_string().as_bytes());
        let layers: Vec<Value> = layers
            .iter()
            .map(|(kind, bytes)| self.put(kind, bytes))
            .collect();
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
        let top = self.put(MANIFEST, manifest.to_string().as_bytes());
        self.index(&[top]);
    }

    fn made(&self) -> Result<Blake3, BuilderError> {
        let attrs = RootfsAttrs {
            image: "image".to_owned(),
            ..RootfsAttrs::default()
        };
        make_rootfs(&self.fake, &attrs)
    }

    fn tree(&self) -> RootTree {
        let root = self.made().expect("an image");
        RootTree::load(&self.fake.store, &root).expect("a root")
    }

    #[track_caller]
    fn refused(&self, part: &str) -> Diagnostic {
        let BuilderError::Diagnostic(why) = self.made().expect_err(part) else {
            panic!("no words for the user: {part}");
        };
        assert_eq!(why.code, "oci-bad-layout");
        assert!(why.message.contains(part), "{}", why.message);
        *why
    }
}

fn names(tree: &RootTree) -> Vec<String> {
    let mut names = Vec::new();
    tree.walk(|path, _, _| {
        names.push(String::from_utf8_lossy(path).into_owned());
        Ok(())
    })
    .expect("a walk");
    names
}

#[test]
fn links_that_lead_nowhere() {
    use EntryKind::{Dir, File, Hardlink};
    let hand = Hand::new();
    let below = archive(&[("h", File, "x"), ("d", Dir, ""), ("d/x", File, "x")]);
    for (entries, part) in [
        // Also where a file of that name was there before, in this layer or in one below.
        (
            vec![("h", Hardlink, "h")],
            "the hard link `/h` is to itself",
        ),
        (
            vec![("h", File, "y"), ("h", Hardlink, "h")],
            "the hard link `/h` is to itself",
        ),
        (
            vec![("d", Hardlink, "d/x")],
            "the hard link `/d` is to `/d/x`, in whose way it is",
        ),
        (
            vec![("l", Hardlink, "none")],
            "the hard link `/l` is to `/none`, which is not there",
        ),
        (
            vec![("l", Hardlink, "d")],
            "the hard link `/l` is to `/d`, which is a directory",
        ),
    ] {
        let layer = archive(&entries);
        let digest = format!("its layer sha256:{}", Sha256::of(&layer));
        hand.image(&[(TAR, below.clone()), (TAR, layer)]);
        let told = hand.refused(part);
        assert!(told.message.contains(&digest), "{}", told.message);
        assert!(!told.helps.is_empty());
    }
    hand.image(&[(TAR, archive(&[("h", Hardlink, "h")]))]);
    hand.refused("is to itself");
}

#[test]
fn entries_go_where_links_on_their_way_lead() {
    use EntryKind::{Dir, File, Hardlink, Symlink};
    let hand = Hand::new();
    let merged = archive(&[
        ("usr", Dir, ""),
        ("usr/lib", Dir, ""),
        ("usr/lib/gone", File, "x"),
        ("usr/share", Dir, ""),
        ("usr/share/old", File, "x"),
        ("lib", Symlink, "usr/lib"),
        // In the layer of the link, too.
        ("lib/same", File, "x"),
    ]);
    let over = archive(&[
        // Out of the root leads nothing, and what is not there yet is made.
        ("up", Symlink, "../../srv/./data"),
        ("up/x/y", File, "x"),
        ("again", Symlink, "/lib"),
        ("again/new", File, "new"),
        ("lib/link", Hardlink, "again/new"),
        ("lib/.wh.gone", File, ""),
        ("s", Symlink, "usr/share"),
        ("s/.wh..wh..opq", File, ""),
        ("s/own", File, "x"),
    ]);
    hand.image(&[(TAR, merged.clone()), (TAR, over)]);
    let tree = hand.tree();
    assert_eq!(
        names(&tree),
        [
            "again",
            "lib",
            "s",
            "srv",
            "srv/data",
            "srv/data/x",
            "srv/data/x/y",
            "up",
            "usr",
            "usr/lib",
            "usr/lib/link",
            "usr/lib/new",
            "usr/lib/same",
            "usr/share",
            "usr/share/own",
        ]
    );
    assert_eq!(tree.read_file("usr/lib/link").expect("a file"), b"new");
    // `..` is that of where a link leads.
    let out = archive(&[
        ("usr/lib/a", Symlink, "/usr/share/deep"),
        ("usr/share/deep", Dir, ""),
        ("o", Symlink, "usr/lib/a/.."),
        ("o/x", File, "x"),
        ("o/.wh.old", File, ""),
    ]);
    hand.image(&[(TAR, merged.clone()), (TAR, out)]);
    let tree = hand.tree();
    assert_eq!(tree.read_file("usr/share/x").expect("a file"), b"x");
    assert!(tree.get("usr/share/old").expect("read").is_none());
    // A directory of its own takes the place of a link.
    let own = archive(&[("lib", Dir, ""), ("lib/own", File, "x")]);
    hand.image(&[(TAR, merged.clone()), (TAR, own)]);
    let tree = hand.tree();
    assert!(tree.get("lib/own").expect("read").is_some());
    for (entries, part) in [
        (
            vec![("f", File, ""), ("f/x", File, "")],
            "`/f/x` is in `/f`, which is no directory",
        ),
        (
            vec![("lib/same/x", Dir, "")],
            "`/lib/same/x` is in `/usr/lib/same`, which is no directory",
        ),
        (
            vec![("a", Symlink, "b"), ("b", Symlink, "a"), ("a/x", File, "")],
            "the way to `/a/x` leads over more than 255 links",
        ),
        // No kernel goes there, and when there is something else in its place, it leads elsewhere.
        (
            vec![("o", Symlink, "usr/lib/a/.."), ("o/x", File, "")],
            "the way to `/o/x` leads over a link to `..` of `/usr/lib/a`, which is not there",
        ),
        (
            vec![
                ("o", Symlink, "usr/lib/a/../b"),
                ("o/x", File, ""),
                ("usr/lib/a", Symlink, "/usr/share/old"),
            ],
            "the way to `/o/x` leads over a link to `..` of `/usr/lib/a`, which is not there",
        ),
    ] {
        let layer = archive(&entries);
        let digest = format!("its layer sha256:{}", Sha256::of(&layer));
        hand.image(&[(TAR, merged.clone()), (TAR, layer)]);
        let told = hand.refused(part);
        assert!(told.message.contains(&digest), "{}", told.message);
    }
}

#[test]
fn what_no_root_filesystem_holds_is_a_fault_of_the_image() {
    let hand = Hand::new();
    let mut large = tar::Writer::new(Vec::new());
    let mut entry = tar::Entry {
        path: b"usr/x".to_vec(),
        kind: EntryKind::Dir,
        mode: 0o755,
        ..tar::Entry::default()
    };
    let value = vec![b'x'; 65_537];
    entry.xattrs.insert(b"user.x".to_vec(), value);
    large.append_empty(&entry).expect("an entry");
    let name = format!("usr/{}", "n".repeat(256));
    for (layer, part) in [
        (
            large.finish().expect("an archive"),
            "`usr/x` has an extended attribute of more than 65536 bytes",
        ),
        (
            archive(&[(&name, EntryKind::File, "x")]),
            "has a name that no directory can hold: they have 1 to 255 bytes",
        ),
    ] {
        let digest = format!("its layer sha256:{}", Sha256::of(&layer));
        hand.image(&[(TAR, layer)]);
        let told = hand.refused(part);
        assert!(told.message.contains(&digest), "{}", told.message);
        assert!(told.helps[0].contains("whoever made this one must mend it"));
    }
}

#[test]
fn an_image_for_another_machine_is_refused() {
    let hand = Hand::new();
    hand.image(&[(TAR, archive(&[("f", EntryKind::File, "x")]))]);
    let made = |arch: &str| {
        let attrs = RootfsAttrs {
            image: "image".to_owned(),
            arch: Some(arch.to_owned()),
            ..RootfsAttrs::default()
        };
        make_rootfs(&hand.fake, &attrs)
    };
    made("amd64").expect("that of the image");
    let refused = made("arm64").expect_err("another");
    let BuilderError::Diagnostic(refused) = refused else {
        panic!("no words for the user");
    };
    assert_eq!(refused.code, "oci-arch");
    assert_eq!(
        refused.message,
        "the image `image` is for amd64, and not for arm64"
    );
    // Who has written no `arch` is told of it.
    let help = "write `arch = \"amd64\"`, which is \"amd64\" where it is left out; or name an image for arm64";
    assert_eq!(refused.helps[0], help);
}

#[test]
fn a_layer_that_ends_within_a_file_is_a_bad_image() {
    let hand = Hand::new();
    let text = "x".repeat(4096);
    let mut cut = archive(&[("f", EntryKind::File, &text)]);
    cut.truncate(2048);
    hand.image(&[(TAR, cut)]);
    hand.refused("at byte 0 of the archive");
}

/// The manifest has hard links of files only: of everything else there are two that are the same.
#[test]
fn a_link_to_what_is_no_file_is_another_of_the_kind() {
    use EntryKind::{BlockDev, CharDev, Dir, Fifo, File, Hardlink, Symlink};
    let hand = Hand::new();
    let below = archive(&[
        ("s", Symlink, "else/where"),
        ("n", CharDev, ""),
        ("b", BlockDev, ""),
        ("p", Fifo, ""),
        ("l/s", File, "in the way"),
    ]);
    let above = archive(&[
        ("l", Dir, ""),
        ("l/s", Hardlink, "s"),
        ("l/n", Hardlink, "n"),
        ("l/b", Hardlink, "b"),
        ("l/p", Hardlink, "p"),
        // In one layer, and of a link.
        ("l/t", Symlink, "t"),
        ("l/u", Hardlink, "l/t"),
        ("l/v", Hardlink, "l/u"),
    ]);
    hand.image(&[(TAR, below), (TAR, above)]);
    let tree = hand.tree();
    for (name, link) in [
        ("s", "l/s"),
        ("n", "l/n"),
        ("b", "l/b"),
        ("p", "l/p"),
        ("l/t", "l/v"),
    ] {
        let at = |path: &str| tree.get(path).expect("a path").expect("there");
        assert_eq!(at(name), at(link), "{link}");
        assert!(!matches!(at(link).kind, KindView::File { .. }), "{link}");
    }
}

#[test]
fn books_of_aufs_stay_outside() {
    use EntryKind::{Dir, File, Hardlink};
    let hand = Hand::new();
    hand.image(&[
        (TAR, archive(&[("a", File, "below"), ("gone", File, "")])),
        (
            TAR,
            archive(&[
                (".wh..wh.aufs", File, ""),
                (".wh..wh.orph", Dir, ""),
                (".wh..wh.plnk", Dir, ""),
                (".wh..wh.plnk/7.1", File, "linked"),
                (".wh..wh.plnk/8.1", File, "of nobody"),
                // A whiteout of aufs is a link.
                (".wh.gone", Hardlink, ".wh..wh.aufs"),
                ("a", Hardlink, ".wh..wh.plnk/7.1"),
                ("d", Dir, ""),
                ("d/.wh..wh.plnk", Dir, ""),
                ("d/.wh..wh.plnk/x", File, "x"),
                ("d/b", Hardlink, ".wh..wh.plnk/7.1"),
            ]),
        ),
    ]);
    let tree = hand.tree();
    assert_eq!(names(&tree), ["a", "d", "d/b"]);
    assert_eq!(tree.read_file("a").expect("a file"), b"linked");
    let group = |path: &str| match tree.get(path).expect("a path").expect("there").kind {
        KindView::File { hardlink, .. } => hardlink.expect("a link"),
        other => panic!("{other:?}"),
    };
    assert_eq!(group("a"), group("d/b"));
    // A link to what it does not have leads nowhere; and in a whiteout nothing can be.
    let lost = archive(&[("a", Hardlink, ".wh..wh.plnk/9.1")]);
    hand.image(&[(TAR, lost)]);
    hand.refused("is to `/.wh..wh.plnk/9.1`, which is not there");
    hand.image(&[(TAR, archive(&[("d/.wh.x/y", File, "")]))]);
    hand.refused("`/d/.wh.x/y` lies in a whiteout");
    hand.image(&[(TAR, archive(&[("d/.wh..", File, "")]))]);
    hand.refused("`/d/.wh..` is a whiteout of nothing");
}

#[test]
fn a_name_that_was_taken_again_is_no_link() {
    use EntryKind::{File, Hardlink};
    let hand = Hand::new();
    hand.image(&[(
        TAR,
        archive(&[
            (".wh..wh.plnk/7.1", File, "linked"),
            ("a", Hardlink, ".wh..wh.plnk/7.1"),
            ("a", File, "other"),
            ("b", Hardlink, ".wh..wh.plnk/7.1"),
        ]),
    )]);
    let tree = hand.tree();
    assert_eq!(tree.read_file("a").expect("a file"), b"other");
    assert_eq!(tree.read_file("b").expect("a file"), b"linked");
}

#[test]
fn kinds_of_layers() {
    let hand = Hand::new();
    let layer = archive(&[("a", EntryKind::File, "x")]);
    for kind in [
        TAR,
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
    ] {
        hand.image(&[(kind, layer.clone())]);
        assert_eq!(names(&hand.tree()), ["a"], "{kind}");
    }
    for kind in [
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
        "application/octet-stream",
    ] {
        hand.image(&[(TAR, layer.clone()), (kind, layer.clone())]);
        let told = hand.refused(&format!("is of the kind `{kind}`"));
        assert!(told.notes[0].contains("`+gzip` and `+zstd`"), "{told:?}");
        assert!(!told.helps.is_empty());
    }
    hand.image(&[("", layer.clone())]);
    hand.refused("says not of what kind it is");
    // Something that begins like an image.
    hand.with_config(&[(TAR, layer)], "application/vnd.example.thing", &json!({}));
    let told = hand.refused("names no layers");
    assert!(told.notes[0].contains("`application/vnd.example.thing`"));
}

/// Changes the kind of the first entry.
fn of_kind(mut archive: Vec<u8>, kind: u8) -> Vec<u8> {
    archive[156] = kind;
    archive[148..156].fill(b' ');
    let sum: u32 = archive[..512].iter().map(|byte| u32::from(*byte)).sum();
    archive[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    archive
}

#[test]
fn kinds_of_entries() {
    let hand = Hand::new();
    let two = [("a", EntryKind::File, ""), ("b", EntryKind::File, "b")];
    for kind in [b'S', b'M', b'V', b'D', b'A', b'Z', b'8'] {
        hand.image(&[(TAR, of_kind(archive(&two), kind))]);
        let part = format!("\"a\" is of type {:?}", char::from(kind));
        hand.refused(&part);
    }
    // What POSIX lets be a file is one.
    hand.image(&[(TAR, of_kind(archive(&two), b'7'))]);
    assert_eq!(names(&hand.tree()), ["a", "b"]);
    // Global records are no entry, and say nothing of the entries.
    let records = b"18 path=elsewhere\n";
    let global = archive(&[("pax_global_header", EntryKind::File, "18 path=elsewhere\n")]);
    let mut layer = of_kind(global, b'g');
    assert_eq!(&layer[512..][..records.len()], records);
    layer.truncate(1024);
    layer.extend(archive(&two));
    hand.image(&[(TAR, layer)]);
    assert_eq!(names(&hand.tree()), ["a", "b"]);
}

#[test]
fn indexes_without_images() {
    let hand = Hand::new();
    hand.index(&[]);
    let told = hand.refused("index.json names no image: its `manifests` is empty");
    assert!(!told.helps.is_empty());
    let empty = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] });
    let empty = hand.put(INDEX, empty.to_string().as_bytes());
    let digest = empty["digest"].as_str().expect("text").to_owned();
    hand.index(&[empty]);
    hand.refused(&format!("its index {digest} names no image"));
    let wanted = Platform {
        architecture: "amd64".to_owned(),
        os: "linux".to_owned(),
        variant: None,
    };
    let told = Layout::at(&hand.place).manifest(None, Some(&wanted));
    let told = told.expect_err("empty").message;
    assert!(told.ends_with("`manifests` is empty"), "{told}");
    // Of several machines, none of which is meant: who has written no `arch` is told of it.
    let images = ["arm64", "riscv64", "arm64"].map(|arch| {
        let mut one = hand.put(TAR, &archive(&[]));
        one["platform"] = json!({ "architecture": arch, "os": "linux" });
        one
    });
    let several = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": images });
    hand.index(&[hand.put(INDEX, several.to_string().as_bytes())]);
    let told = Layout::at(&hand.place).manifest(None, Some(&wanted));
    let told = told.expect_err("other machines");
    assert_eq!(told.code, "oci-arch");
    let says = "it has no image for linux/amd64; it has linux/arm64, linux/riscv64, linux/arm64";
    assert!(told.message.ends_with(says), "{told:?}");
    let help = "write `arch = \"arm64\"` or `arch = \"riscv64\"`, which is \"amd64\" where it is left out; or name an image for amd64";
    assert_eq!(told.helps, [help]);
    // A tag that no image has, where none has any.
    hand.image(&[(TAR, archive(&[]))]);
    let told = Layout::at(&hand.place).manifest(Some("x"), None);
    let told = told.expect_err("no tag");
    assert!(
        told.message.ends_with("no image of the tag `x`"),
        "{told:?}"
    );
    assert_eq!(told.notes, ["none of its images has a tag"]);
}
