//! Whole images and back: whatever a root filesystem holds comes out of its image equal.

use serde_json::Value;
use sos_store::rootfs::KindView;

use super::*;
use crate::export::OnWait;
use crate::oci::chunks::{ChunkAttrs, make_chunks};
use crate::oci::dates::DateAttrs;
use crate::oci::documents::Platform;
use crate::oci::index::{IndexAttrs, make_index};
use crate::oci::source::Layout;
use crate::oci::unpack::{RootfsAttrs, make_rootfs};

/// Numbers that depend on a seed only.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        let at = self.roll(list.len() as u64);
        &list[usize::try_from(at).expect("small")]
    }

    fn name(&mut self) -> Vec<u8> {
        let number = self.roll(1_000_000);
        match self.roll(8) {
            0 => format!("{}-{number}", "long".repeat(30)).into_bytes(),
            1 => format!("grüße {number}").into_bytes(),
            2 => [b"\xff=\n\\".as_slice(), number.to_string().as_bytes()].concat(),
            3 => format!(".{number}").into_bytes(),
            _ => format!("n{number}").into_bytes(),
        }
    }

    fn meta(&mut self) -> Meta {
        let mut made = Meta {
            mode: *self.of(&[0o644, 0o755, 0o4755, 0o2711, 0o1777, 0o600, 0]),
            uid: *self.of(&[0, 0, 1000, 3_000_000]),
            gid: *self.of(&[0, 0, 50, 3_000_000]),
            mtime_secs: i64::try_from(self.roll(1_600_000_000)).expect("small"),
            ..Meta::default()
        };
        if self.roll(5) == 0 {
            let capability = vec![1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            made.xattrs = BTreeMap::from([
                (b"security.capability".to_vec(), capability),
                (b"user.a.b".to_vec(), b"x=\0y\n=\xff".to_vec()),
                (b"user.blank".to_vec(), b" ".to_vec()),
            ]);
        }
        made
    }

    fn data(&mut self) -> Vec<u8> {
        let len = *self.of(&[0, 1, 511, 512, 513, 5_000, 40_000, 1_200_000]);
        let seed = self.roll(5);
        (0..len)
            .map(|i: u64| ((i * i) >> 9).wrapping_add(seed).to_le_bytes()[0])
            .collect()
    }

    /// Puts something new into one of the directories.
    fn grow(&mut self, tree: &mut RootTree, dirs: &mut Vec<Vec<u8>>, files: &mut Vec<Vec<u8>>) {
        let dir = self.of(dirs).clone();
        let path = join(&dir, &self.name());
        if tree.get(&path).expect("a path").is_some() {
            return;
        }
        let meta = self.meta();
        let kind = match self.roll(12) {
            0..=2 => {
                dirs.push(path.clone());
                SpecKind::Dir
            }
            3 => SpecKind::Symlink {
                target: [
                    b"/x/".as_slice(),
                    &b"t".repeat(1 + usize::try_from(self.roll(200)).expect("small")),
                ]
                .concat(),
            },
            4 => SpecKind::Fifo,
            5 => SpecKind::CharDev {
                major: 1,
                minor: u32::try_from(self.roll(300)).expect("small"),
            },
            6 => SpecKind::BlockDev { major: 8, minor: 1 },
            7 if !files.is_empty() => {
                let to = self.of(files).clone();
                tree.link(&to, &path).expect("a link");
                files.push(path);
                return;
            }
            _ => {
                tree.write_file(&path, self.data(), meta).expect("a file");
                files.push(path);
                return;
            }
        };
        add(tree, path, meta, kind);
    }

    fn tree(&mut self, fake: &Fake) -> RootTree {
        let top = Meta {
            mtime_secs: 5,
            ..meta(0o711, 0, 0)
        };
        let mut tree = RootTree::empty_in(&fake.store, top);
        let (mut dirs, mut files) = (vec![Vec::new()], Vec::new());
        for _ in 0..60 {
            self.grow(&mut tree, &mut dirs, &mut files);
        }
        tree
    }

    /// Changes a tree in ways that a layer has to say.
    fn change(&mut self, fake: &Fake, base: &Blake3) -> RootTree {
        let mut tree = RootTree::load(&fake.store, base).expect("a root");
        let mut all = Vec::new();
        tree.walk(|path, _, kind| {
            let is_dir = matches!(kind, KindView::Dir);
            all.push((path.to_vec(), is_dir, matches!(kind, KindView::File { .. })));
            Ok(())
        })
        .expect("a walk");
        for _ in 0..10 {
            let (path, ..) = self.of(&all).clone();
            if tree.get(&path).ok().flatten().is_none() {
                continue;
            }
            match self.roll(4) {
                0 => {
                    tree.remove(&path).expect("there");
                }
                1 => tree.set_meta(&path, self.meta()).expect("there"),
                // In place of whatever is there.
                2 => {
                    tree.remove(&path).expect("there");
                    tree.write_file(&path, self.data(), self.meta())
                        .expect("a file");
                }
                _ => {
                    tree.remove(&path).expect("there");
                    add(&mut tree, &path, self.meta(), SpecKind::Dir);
                }
            }
        }
        let there = |tree: &RootTree, want_dir: bool| -> Vec<Vec<u8>> {
            let mut found = Vec::new();
            tree.walk(|path, _, kind| {
                let fits = match kind {
                    KindView::Dir => want_dir,
                    KindView::File { .. } => !want_dir,
                    _ => false,
                };
                if fits {
                    found.push(path.to_vec());
                }
                Ok(())
            })
            .expect("a walk");
            found
        };
        let (mut dirs, mut files) = (there(&tree, true), there(&tree, false));
        dirs.push(Vec::new());
        for _ in 0..10 {
            self.grow(&mut tree, &mut dirs, &mut files);
        }
        tree
    }
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    crate::walk::join(dir, name)
}

fn seeds() -> std::ops::Range<u64> {
    #[allow(
        clippy::disallowed_methods,
        reason = "a test may be told where to begin"
    )]
    let first = std::env::var("SOS_TEST_SEED").ok();
    let first = first.and_then(|text| text.parse().ok()).unwrap_or(1);
    println!("seeds from {first}: SOS_TEST_SEED");
    first..first + 12
}

#[track_caller]
fn image(fake: &mut Fake, name: &str, attrs: ImageAttrs) -> PathBuf {
    let out = fake.path(name);
    let attrs = ImageAttrs {
        arch: "amd64".to_owned(),
        epoch: EPOCH,
        ..attrs
    };
    make_image(fake, attrs, &out).expect("an image");
    fake.trees.insert(name.to_owned(), out.clone());
    out
}

fn unpacked(fake: &Fake, name: &str) -> Result<Blake3, BuilderError> {
    let attrs = RootfsAttrs {
        image: name.to_owned(),
        arch: Some("amd64".to_owned()),
        ..RootfsAttrs::default()
    };
    make_rootfs(fake, &attrs)
}

/// What differs between two roots, for people.
fn differences(fake: &Fake, a: &Blake3, b: &Blake3) -> String {
    let lines = |id: &Blake3| {
        let tree = RootTree::load(&fake.store, id).expect("a root");
        let mut lines = BTreeMap::new();
        tree.walk(|path, meta, kind| {
            let path = String::from_utf8_lossy(path).into_owned();
            lines.insert(path, format!("{meta:?} {kind:?}"));
            Ok(())
        })
        .expect("a walk");
        lines
    };
    let (a, b) = (lines(a), lines(b));
    let mut text = String::new();
    for path in a.keys().chain(b.keys()) {
        let (a, b) = (a.get(path), b.get(path));
        if a != b {
            text.push_str(&format!("{path}\n  {a:?}\n  {b:?}\n"));
        }
    }
    text
}

#[track_caller]
fn same(fake: &Fake, seed: u64, a: &Blake3, b: &Blake3) {
    assert!(a == b, "seed {seed}:\n{}", differences(fake, a, b));
}

#[test]
fn random_roots_come_back_equal() {
    for seed in seeds() {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut fake = Fake::new();
        let tree = dice.tree(&fake);
        let first = store_root(&mut fake, "first", tree);
        let tree = dice.change(&fake, &first);
        let second = store_root(&mut fake, "second", tree);
        let compression = *dice.of(&[Compression::Gzip, Compression::Zstd, Compression::None]);
        let bottom = LayerAttrs {
            rootfs: Some("first".into()),
            compression,
            ..attrs()
        };
        layer(&mut fake, "bottom", &bottom);
        let over = LayerAttrs {
            rootfs: Some("second".into()),
            base: Some("first".into()),
            diff: true,
            compression,
            ..attrs()
        };
        layer(&mut fake, "over", &over);
        let layers = |names: &[&str]| ImageAttrs {
            layers: names.iter().map(|name| (*name).to_owned()).collect(),
            ..ImageAttrs::default()
        };
        image(&mut fake, "base", layers(&["bottom"]));
        same(
            &fake,
            seed,
            &first,
            &unpacked(&fake, "base").expect("an image"),
        );
        let whole = image(&mut fake, "whole", layers(&["bottom", "over"]));
        same(
            &fake,
            seed,
            &second,
            &unpacked(&fake, "whole").expect("an image"),
        );
        // Over the first image, whose layers stay as they are.
        let from = ImageAttrs {
            from: Some("base".into()),
            ..layers(&["over"])
        };
        let above = image(&mut fake, "above", from);
        same(
            &fake,
            seed,
            &second,
            &unpacked(&fake, "above").expect("an image"),
        );
        if seed % 4 == 1 {
            for place in [whole, above] {
                check_strictly(&place);
            }
        }
    }
}

/// An independent checker finds nothing.
fn check_strictly(layout: &Path) {
    let checker = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/checks/oci_check.py");
    if !checker.exists() {
        crate::peers::skip("no ../shared/checks/oci_check.py");
        return;
    }
    let epoch = EPOCH.to_string();
    let mut args = vec![checker.as_os_str()];
    for arg in ["--strict", "--epoch", &epoch] {
        args.push(arg.as_ref());
    }
    args.push(layout.as_os_str());
    if let Some(output) = peer("python3", &args) {
        assert!(
            said(&output).contains("problems=0 repro=0"),
            "{}",
            said(&output)
        );
    }
}

fn config(layout: &Path) -> Value {
    let layout = Layout::at(layout);
    let platform = Platform {
        architecture: "amd64".to_owned(),
        os: "linux".to_owned(),
        variant: None,
    };
    let (_, manifest) = layout.manifest(None, Some(&platform)).expect("a manifest");
    layout.json(&manifest.config).expect("a configuration")
}

#[test]
fn an_image_over_another_takes_its_layers_and_settings_over() {
    let mut fake = Fake::new();
    let tree = rich(&fake);
    let first = store_root(&mut fake, "first", tree);
    let tree = changed(&fake, &first);
    store_root(&mut fake, "second", tree);
    let bottom = LayerAttrs {
        rootfs: Some("first".into()),
        ..attrs()
    };
    layer(&mut fake, "bottom", &bottom);
    let over = |rootfs: &str| LayerAttrs {
        rootfs: Some(rootfs.into()),
        base: Some("first".into()),
        diff: true,
        ..attrs()
    };
    layer(&mut fake, "over", &over("second"));
    layer(&mut fake, "nothing", &over("first"));
    let run: super::super::documents::RunAttrs = serde_json::from_value(serde_json::json!({
        "env": ["A=1", "B=2"], "entrypoint": ["/init"], "cmd": ["x"], "labels": { "l": "1", "m": "1" }, "user": "u",
    }))
    .expect("settings");
    let base = ImageAttrs {
        layers: vec!["bottom".into()],
        config: run,
        ..ImageAttrs::default()
    };
    let base = image(&mut fake, "base", base);
    let run = serde_json::from_value(serde_json::json!({
        "env": ["B=3", "C=4"], "entrypoint": ["/other"], "labels": { "m": "2" },
    }))
    .expect("settings");
    let above = ImageAttrs {
        layers: vec!["nothing".into(), "over".into()],
        from: Some("base".into()),
        config: run,
        ..ImageAttrs::default()
    };
    let above = image(&mut fake, "above", above);
    let digests = |place: &Path| {
        let layout = Layout::at(place);
        let (_, manifest) = layout.manifest(None, None).expect("a manifest");
        let layers = manifest.layers.into_iter();
        layers.map(|layer| layer.digest).collect::<Vec<_>>()
    };
    // The empty layer is left out.
    assert_eq!(digests(&above).len(), 2);
    assert_eq!(digests(&above)[0], digests(&base)[0]);
    let config = config(&above);
    assert_eq!(
        config["config"],
        serde_json::json!({
            "User": "u", "Env": ["A=1", "B=3", "C=4"], "Entrypoint": ["/other"], "Labels": { "l": "1", "m": "2" },
        })
    );
    assert_eq!(config["history"].as_array().map(Vec::len), Some(2));
    check_strictly(&above);
    let other = ImageAttrs {
        from: Some("base".into()),
        arch: "arm64".into(),
        ..ImageAttrs::default()
    };
    let out = fake.path("other");
    let refused = make_image(&fake, other, &out).expect_err("another machine");
    assert!(matches!(refused, BuilderError::Diagnostic(why) if why.code == "oci-arch"));
}

#[test]
fn a_configuration_is_taken_over_when_it_is_one() {
    let sound = serde_json::json!({
        "User": "u", "Env": ["A=1"], "Labels": null, "Volumes": { "/v": {} }, "Other": 3,
    });
    assert_eq!(super::super::layout::ill_formed(&sound), None);
    assert_eq!(super::super::layout::ill_formed(&Value::Null), None);
    for (name, wrong) in [
        ("Env", serde_json::json!({ "Env": "notalist" })),
        ("Env", serde_json::json!({ "Env": [1] })),
        ("Labels", serde_json::json!({ "Labels": [1] })),
        ("User", serde_json::json!({ "User": 5 })),
        (
            "ExposedPorts",
            serde_json::json!({ "ExposedPorts": ["80"] }),
        ),
        ("config", serde_json::json!([])),
    ] {
        assert_eq!(
            super::super::layout::ill_formed(&wrong),
            Some(name),
            "{wrong}"
        );
    }
}

#[test]
fn whiteouts_act_below_wherever_they_stand() {
    let mut fake = Fake::new();
    use EntryKind::{Dir, File, Hardlink, Symlink};
    let low = archive(&[
        ("a", Dir, ""),
        ("a/x", File, "one"),
        ("a/y", File, "two"),
        ("b", Dir, ""),
        ("b/z", File, "three"),
        ("bin", Symlink, "usr/bin"),
        ("c", Dir, ""),
        ("c/d", File, "four"),
        ("g", Dir, ""),
        ("g/old", File, "old"),
    ]);
    let high = archive(&[
        ("a/.wh.x", File, ""),
        ("a/y", File, "TWO"),
        ("a/w", Hardlink, "a/y"),
        // Behind what it must not act on.
        ("b/n", File, "new"),
        ("b/.wh..wh..opq", File, ""),
        ("bin/sh", File, "sh"),
        ("c", File, "a file now"),
        ("g/new", File, "new"),
        (".wh.g", File, ""),
    ]);
    let out = fake.path("image");
    let blobs = out.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a directory");
    let put = |bytes: &[u8], kind: &str| {
        let digest = Sha256::of(bytes).to_string();
        fs::write(blobs.join(&digest), bytes).expect("write");
        serde_json::json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len() })
    };
    let kind = "application/vnd.oci.image.layer.v1.tar";
    let layers = [put(&low, kind), put(&high, kind)];
    let ids = [layers[0]["digest"].clone(), layers[1]["digest"].clone()];
    let make = |ids: &[Value]| {
        let config = serde_json::json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": ids } });
        let config = put(
            config.to_string().as_bytes(),
            "application/vnd.oci.image.config.v1+json",
        );
        let manifest =
            serde_json::json!({ "schemaVersion": 2, "config": config, "layers": layers });
        let top = put(
            manifest.to_string().as_bytes(),
            "application/vnd.oci.image.manifest.v1+json",
        );
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": [top] });
        fs::write(out.join("index.json"), index.to_string()).expect("write");
        fs::write(out.join("oci-layout"), "{}").expect("write");
    };
    make(&ids);
    fake.trees.insert("image".into(), out.clone());
    let root = unpacked(&fake, "image").expect("an image");
    let tree = RootTree::load(&fake.store, &root).expect("a root");
    let mut names = Vec::new();
    tree.walk(|path, _, _| {
        names.push(String::from_utf8_lossy(path).into_owned());
        Ok(())
    })
    .expect("a walk");
    assert_eq!(
        names,
        [
            "a",
            "a/w",
            "a/y",
            "b",
            "b/n",
            "bin",
            "c",
            "g",
            "g/new",
            "usr",
            "usr/bin",
            "usr/bin/sh"
        ]
    );
    assert_eq!(tree.read_file("a/w").expect("a file"), b"TWO");
    // Something that is not what the configuration says is refused.
    make(&[ids[0].clone(), ids[0].clone()]);
    let refused = unpacked(&fake, "image").expect_err("another layer");
    assert!(matches!(refused, BuilderError::Diagnostic(why) if why.code == "oci-bad-layout"));
    make(&[ids[0].clone()]);
    assert!(unpacked(&fake, "image").is_err());
}

fn installed(fake: &Fake, packages: &[(&str, &str, usize)]) -> RootTree {
    let mut tree = RootTree::empty_in(&fake.store, meta(0o755, 0, 0));
    tree.mkdir_p("var/lib/dpkg/info", &meta(0o755, 0, 0))
        .expect("a directory");
    tree.mkdir_p("usr/share", &meta(0o755, 0, 0))
        .expect("a directory");
    let mut status = String::new();
    for (name, version, size) in packages {
        status.push_str(&format!(
            "Package: {name}\nVersion: {version}\nStatus: install ok installed\n\n"
        ));
        let path = format!("usr/share/{name}");
        let data: Vec<u8> = (0..*size).map(|i| (i / 3).to_le_bytes()[0]).collect();
        tree.write_file(&path, data, meta(0o644, 0, 0))
            .expect("a file");
        let list = format!("/.\n/usr\n/usr/share\n/{path}\n");
        tree.write_file(
            format!("var/lib/dpkg/info/{name}.list"),
            list.into_bytes(),
            meta(0o644, 0, 0),
        )
        .expect("a file");
    }
    tree.write_file(
        "var/lib/dpkg/status",
        status.into_bytes(),
        meta(0o644, 0, 0),
    )
    .expect("a file");
    tree
}

#[test]
fn layers_follow_packages_and_one_update_changes_two() {
    let mut fake = Fake::new();
    let packages: Vec<(String, usize)> = (0..40)
        .map(|i| {
            (
                format!("p{i}"),
                if i % 10 == 0 { 400_000 } else { 3_000 + i },
            )
        })
        .collect();
    let list = |version: &'static str| -> Vec<(&str, &'static str, usize)> {
        packages
            .iter()
            .map(|(name, size)| {
                let touched = name == "p7";
                let version = if touched { version } else { "1" };
                (
                    name.as_str(),
                    version,
                    size + usize::from(touched && version != "1"),
                )
            })
            .collect()
    };
    let tree = installed(&fake, &list("1"));
    let old = store_root(&mut fake, "old", tree);
    let tree = installed(&fake, &list("2"));
    store_root(&mut fake, "new", tree);
    let chunks = |fake: &mut Fake, name: &str| {
        let attrs = ChunkAttrs {
            rootfs: name.to_owned(),
            epoch: EPOCH,
            max_layers: Some(20),
            ..ChunkAttrs::default()
        };
        let place = format!("{name}-layers");
        let out = fake.path(&place);
        let made = make_chunks(fake, &attrs, &out).expect("layers");
        fake.trees.insert(place.clone(), out);
        made
    };
    let (before, after) = (chunks(&mut fake, "old"), chunks(&mut fake, "new"));
    assert!(before.len() > 6 && before.len() <= 20, "{}", before.len());
    assert!(before.iter().any(|one| one.holds.as_deref() == Some("p10")));
    let digests: Vec<&str> = before.iter().map(|one| one.digest.as_str()).collect();
    let other = after
        .iter()
        .filter(|one| !digests.contains(&one.digest.as_str()));
    assert_eq!(other.count(), 2, "that of the package and the last one");
    // A limit holds for every number, the layer of what no package owns included.
    for most in [1, 2, 3, 4, 5, 6, 8, 10, 11, 64, 400] {
        let attrs = ChunkAttrs {
            rootfs: "old".to_owned(),
            epoch: EPOCH,
            max_layers: Some(most),
            ..ChunkAttrs::default()
        };
        let out = fake.path(&format!("limit-{most}"));
        let made = make_chunks(&fake, &attrs, &out).expect("layers");
        let entries: u64 = made.iter().map(|one| one.files).sum();
        assert!((1..=most).contains(&made.len()), "{most}: {}", made.len());
        assert!(entries > 30, "{most}: {entries}");
    }
    let attrs = ImageAttrs {
        layers: vec!["old-layers".into()],
        ..ImageAttrs::default()
    };
    let place = image(&mut fake, "image", attrs);
    check_strictly(&place);
    // Its date is there for images above it.
    let dates = DateAttrs::of("image");
    assert_eq!(dates.or(&fake, 0).expect("a date"), EPOCH);
    let mut tree = RootTree::load(&fake.store, &old).expect("a root");
    let top = Meta {
        mode: 0o755,
        ..Meta::default()
    };
    // Of a usual root directory an image does not have the time.
    tree.set_meta("", top).expect("the root");
    let expected = tree.finish(&fake.store).expect("a root");
    same(
        &fake,
        0,
        &expected,
        &unpacked(&fake, "image").expect("an image"),
    );
    let tree = rich(&fake);
    store_root(&mut fake, "plain", tree);
    let attrs = ChunkAttrs {
        rootfs: "plain".into(),
        epoch: EPOCH,
        ..ChunkAttrs::default()
    };
    let refused = make_chunks(&fake, &attrs, &fake.path("none")).expect_err("no packages");
    assert!(matches!(refused, BuilderError::Diagnostic(why) if why.code == "oci-no-packages"));
}

#[test]
fn what_was_made_once_is_taken_as_it_is() {
    let mut fake = Fake::new();
    let tree = rich(&fake);
    let first = store_root(&mut fake, "first", tree);
    let mut tree = RootTree::load(&fake.store, &first).expect("a root");
    tree.write_file("etc/new", *b"new", meta(0o644, 0, 0))
        .expect("a file");
    store_root(&mut fake, "second", tree);
    let of = |rootfs: &str| LayerAttrs {
        rootfs: Some(rootfs.into()),
        ..attrs()
    };
    layer(&mut fake, "unknown", &of("second"));
    let made = layer(&mut fake, "one", &of("first"));
    // The engine puts outputs into the store.
    let (blob, _) = fake
        .store
        .put_blob_file(&fake.path("one/blob"), false)
        .expect("a blob");
    let big: Vec<u8> = (0..3_000_000_u32)
        .flat_map(|i| (i / 7).to_le_bytes())
        .collect();
    let found = crate::fragments::find(&fake.store, crate::fragments::LEVEL, &Blake3::of(&big))
        .expect("the database");
    assert_eq!(found.map(|fragment| fragment.container), Some(blob));
    let again = layer(&mut fake, "two", &of("first"));
    assert_eq!(made, again);
    let inode = |path: PathBuf| fs::metadata(path).expect("a file").ino();
    assert_eq!(
        inode(fake.path("two/blob")),
        inode(fake.store.blob_path(&blob, false))
    );
    // Pieces of it are in the next layer, which is the same as without them.
    layer(&mut fake, "known", &of("second"));
    assert_eq!(super::blob(&fake, "known"), super::blob(&fake, "unknown"));
}

/// Writes a document as a blob of a layout; gives its descriptor's digest and size.
fn put_document(place: &Path, document: &Value) -> (String, usize) {
    let bytes = document.to_string();
    let digest = Sha256::of(bytes.as_bytes()).to_hex();
    let blob = place.join("blobs/sha256").join(&digest);
    fs::write(blob, &bytes).expect("written");
    (format!("sha256:{digest}"), bytes.len())
}

/// Changes when an image says that it was created.
fn set_created(place: &Path, created: Option<&str>) {
    let read = |path: PathBuf| -> Value {
        serde_json::from_slice(&fs::read(path).expect("a file")).expect("a document")
    };
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().expect("a digest");
        place.join("blobs").join(digest.replace(':', "/"))
    };
    let describe = |descriptor: &mut Value, (digest, size): (String, usize)| {
        descriptor["digest"] = digest.into();
        descriptor["size"] = size.into();
    };
    let mut index = read(place.join("index.json"));
    let mut manifest = read(blob(&index["manifests"][0]));
    let mut config = read(blob(&manifest["config"]));
    match created {
        Some(created) => config["created"] = created.into(),
        None => {
            config.as_object_mut().expect("an object").remove("created");
        }
    }
    describe(&mut manifest["config"], put_document(place, &config));
    describe(&mut index["manifests"][0], put_document(place, &manifest));
    fs::write(place.join("index.json"), index.to_string()).expect("written");
}

#[test]
fn an_image_without_a_date_is_as_old_as_its_newest_file() {
    let mut fake = Fake::new();
    let mut tree = RootTree::empty_in(&fake.store, Meta::default());
    for (path, mtime_secs) in [("old", 5), ("new", EPOCH - 7), ("older", 3)] {
        let kind = SpecKind::Symlink {
            target: b"x".to_vec(),
        };
        let meta = Meta {
            mtime_secs,
            mode: 0o777,
            ..Meta::default()
        };
        tree.insert(path, FileSpec { meta, kind }).expect("placed");
    }
    store_root(&mut fake, "root", tree);
    let bottom = LayerAttrs {
        rootfs: Some("root".into()),
        ..attrs()
    };
    layer(&mut fake, "bottom", &bottom);
    let attrs = ImageAttrs {
        layers: vec!["bottom".into()],
        ..ImageAttrs::default()
    };
    let place = image(&mut fake, "image", attrs);
    let date = |fake: &Fake| DateAttrs::of("image").or(fake, 0);
    assert_eq!(date(&fake).expect("a date"), EPOCH);
    // Absent, or as Go writes a time that nobody has set.
    for created in [None, Some("0001-01-01T00:00:00Z"), Some("")] {
        set_created(&place, created);
        assert_eq!(date(&fake).expect("a date"), EPOCH - 7, "{created:?}");
    }
    set_created(&place, Some("last week"));
    let refused = date(&fake).expect_err("no date");
    assert!(matches!(refused, BuilderError::Diagnostic(why) if why.code == "oci-no-date"));
}

#[test]
fn images_of_several_machines_are_one() {
    let mut fake = Fake::new();
    let tree = rich(&fake);
    store_root(&mut fake, "root", tree);
    let bottom = LayerAttrs {
        rootfs: Some("root".into()),
        ..attrs()
    };
    layer(&mut fake, "bottom", &bottom);
    for arch in ["amd64", "arm64", "armhf"] {
        let attrs = ImageAttrs {
            layers: vec!["bottom".into()],
            arch: arch.into(),
            epoch: EPOCH,
            tag: Some("x".into()),
            ..ImageAttrs::default()
        };
        let out = fake.path(arch);
        make_image(&fake, attrs, &out).expect("an image");
        fake.trees.insert(arch.into(), out);
    }
    let attrs = IndexAttrs {
        images: ["arm64", "amd64", "armhf"].map(str::to_owned).into(),
        tag: Some("all".into()),
        ..IndexAttrs::default()
    };
    let out = fake.path("index");
    make_index(&fake, &attrs, &out).expect("an index");
    check_strictly(&out);
    fake.trees.insert("index".into(), out.clone());
    assert_eq!(config(&out)["architecture"], "amd64");
    let exported = crate::export::add_to_layout(&out, &fake.path("copy"), None, OnWait::default())
        .expect("a copy");
    assert_eq!(exported.tag.as_deref(), Some("all"));
    check_strictly(&fake.path("copy"));
    let twice = IndexAttrs {
        images: ["arm64", "arm64"].map(str::to_owned).into(),
        ..IndexAttrs::default()
    };
    assert!(make_index(&fake, &twice, &fake.path("twice")).is_err());
    // What an image says of its blobs is looked at.
    let manifest = Layout::at(&fake.path("arm64"))
        .manifest(None, None)
        .expect("a manifest")
        .1;
    let place = fake
        .path("arm64/blobs/sha256")
        .join(manifest.layers[0].hex().expect("digits"));
    let again = |fake: &Fake, name: &str| {
        let attrs = IndexAttrs {
            images: vec!["arm64".into()],
            ..IndexAttrs::default()
        };
        make_index(fake, &attrs, &fake.path(name))
    };
    let bytes = fs::read(&place).expect("a blob");
    // A file elsewhere that is the blob is as good, and does not stay a link.
    let elsewhere = fake.path("elsewhere");
    fs::rename(&place, &elsewhere).expect("moved");
    std::os::unix::fs::symlink(&elsewhere, &place).expect("a link");
    again(&fake, "linked").expect("an index");
    let taken = fake
        .path("linked/blobs/sha256")
        .join(place.file_name().expect("a name"));
    assert!(fs::symlink_metadata(taken).expect("a blob").is_file());
    for (name, change) in [("flipped", Some(b"x".as_slice())), ("missing", None)] {
        fs::remove_file(&place).expect("removed");
        if let Some(bytes) = change {
            fs::write(&place, bytes).expect("write");
        }
        let refused = again(&fake, name).expect_err(name);
        let BuilderError::Diagnostic(why) = refused else {
            panic!("{refused:?}");
        };
        assert!(why.message.contains(&manifest.layers[0].digest), "{why:?}");
        if change.is_none() {
            fs::write(&place, &bytes).expect("write");
        }
    }
    // The archive of it is read like the layout.
    let archive = fake.path("index.tar");
    crate::export::write_archive(&out, &archive, None).expect("an archive");
    fake.trees.insert("archive".into(), archive);
    let (a, b) = (unpacked(&fake, "index"), unpacked(&fake, "archive"));
    assert_eq!(a.expect("an image"), b.expect("an image"));
}
