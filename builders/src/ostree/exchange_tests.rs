//! Commits leave for other programs and come back: checkouts, static deltas, signatures.

use std::path::{Path, PathBuf};

use sos_formats::hash::Sha256;
use sos_formats::manifest::Meta;
use sos_formats::ostree::{ObjectKind, object_name, read_byte_arrays, read_dict};
use sos_store::rootfs::{FileSpec, KindView, RootTree, SpecKind};

use super::import::{CheckoutAttrs, checkout, import};
use super::source::Source;
use super::tests::{EPOCH, attrs, ostree, plant};
use super::*;
use crate::build::fake::Fake;
use crate::export::{AddOptions, Signers, add_to_repository};
use crate::fetch::test_server::{Server, reply};
use crate::peers::{peer, said};

/// One name, as far as a commit knows it.
type Plain = (u16, u32, u32, BTreeMap<Vec<u8>, Vec<u8>>, String);

/// Everything of a root filesystem that a commit keeps: no times and no hard links.
fn plain(fake: &Fake, root: &Blake3) -> BTreeMap<Vec<u8>, Plain> {
    let tree = RootTree::load(&fake.store, root).expect("the tree");
    let mut found = BTreeMap::new();
    let mut add = |path: &[u8], meta: &Meta, kind: String| {
        let about = (meta.mode, meta.uid, meta.gid, meta.xattrs.clone(), kind);
        found.insert(path.to_vec(), about);
    };
    add(b"", tree.root_meta(), "dir".into());
    tree.walk(|path, meta, kind| {
        let (mode, kind) = match kind {
            KindView::File { size, blob, .. } => (meta.mode, format!("{size} {blob}")),
            KindView::Dir => (meta.mode, "dir".into()),
            // A link has no mode of its own.
            KindView::Symlink { target } => (0, format!("-> {}", String::from_utf8_lossy(target))),
            other => panic!("{other:?}"),
        };
        let meta = Meta {
            mode,
            ..meta.clone()
        };
        add(path, &meta, kind);
        Ok(())
    })
    .expect("walked");
    found
}

/// A second root filesystem, much like the first.
fn changed(fake: &Fake, root: &Blake3) -> Blake3 {
    let mut tree = RootTree::load(&fake.store, root).expect("the tree");
    let meta = Meta {
        mode: 0o4755,
        uid: 3_000_000,
        ..Meta::default()
    };
    let text = "new\n".repeat(1000);
    tree.write_file("new", text, meta.clone()).expect("a file");
    let kind = SpecKind::Symlink {
        target: b"new".to_vec(),
    };
    tree.insert("link", FileSpec { meta, kind })
        .expect("a link");
    tree.finish(&fake.store).expect("a root filesystem")
}

/// Two commits, one after the other: their root filesystems and the repository with both.
fn history(fake: &mut Fake, seed: u64, mode: Mode) -> (Blake3, Blake3, Blake3) {
    let first = plant(fake, seed, true);
    let second = changed(fake, &first);
    fake.roots.insert("root".into(), first);
    let before = make(fake, &attrs(mode)).expect("a repository");
    fake.roots.insert("before".into(), before);
    fake.roots.insert("root".into(), second);
    let mut after = attrs(mode);
    after.parent = Some("before".into());
    after.epoch = EPOCH + 1;
    let repository = make(fake, &after).expect("a repository");
    (first, second, repository)
}

fn tip(dir: &Path) -> (Sha256, Sha256) {
    let source = Source::open(dir).expect("a repository");
    let tip = source
        .reference("test/amd64/main")
        .expect("a ref")
        .expect("there");
    let (_, view) = source.commit(&tip).expect("readable").expect("there");
    (tip, view.parent.expect("a parent"))
}

/// Makes a repository of libostree, which does not sync: none of these outlives its test.
fn init(dir: &Path, mode: &str) -> Option<String> {
    let repo = repo_arg(dir);
    ostree(&[&repo, "init", mode])?;
    ostree(&[&repo, "config", "set", "core.fsync", "false"])?;
    Some(repo)
}

fn repo_arg(dir: &Path) -> String {
    format!("--repo={}", dir.display())
}

fn serve(dir: &Path) -> Server {
    let dir = dir.to_owned();
    Server::start(move |asked, _| {
        let path = dir.join(asked.path.trim_start_matches('/'));
        match std::fs::read(path) {
            Ok(bytes) => reply("200 OK", "", &bytes),
            Err(_) => reply("404 Not Found", "", b""),
        }
    })
}

#[test]
fn a_commit_comes_back_as_it_was() {
    for (seed, mode) in [
        (50, Mode::Archive),
        (51, Mode::BareUser),
        (52, Mode::Archive),
    ] {
        let mut fake = Fake::new();
        let (first, second, repository) = history(&mut fake, seed, mode);
        fake.roots.insert("repository".into(), repository);
        let back = |attrs: CheckoutAttrs| {
            let attrs = CheckoutAttrs {
                repository: "repository".into(),
                ..attrs
            };
            checkout(&fake, &attrs)
        };
        let by_ref = CheckoutAttrs {
            branch: Some("test/amd64/main".into()),
            ..CheckoutAttrs::default()
        };
        let latest = back(by_ref.clone()).expect("a root filesystem");
        assert_eq!(plain(&fake, &latest), plain(&fake, &second), "seed {seed}");
        assert_eq!(back(by_ref).expect("again"), latest);

        let dir = fake.path("repo");
        add_to_repository(&fake.store, &repository, &dir, &AddOptions::default())
            .expect("an export");
        let (_, parent) = tip(&dir);
        let by_commit = CheckoutAttrs {
            commit: Some(parent.to_string()),
            ..CheckoutAttrs::default()
        };
        let old = back(by_commit).expect("the parent");
        assert_eq!(plain(&fake, &old), plain(&fake, &first), "seed {seed}");
        let meta = RootTree::load(&fake.store, &old)
            .expect("the tree")
            .root_meta()
            .clone();
        assert_eq!(meta.mtime_secs, EPOCH);

        for (attrs, part) in [
            (
                CheckoutAttrs {
                    commit: Some("ab".into()),
                    ..CheckoutAttrs::default()
                },
                "names no commit",
            ),
            (
                CheckoutAttrs {
                    commit: Some(Sha256::of(b"no").to_string()),
                    ..CheckoutAttrs::default()
                },
                "has no commit",
            ),
            (
                CheckoutAttrs {
                    branch: Some("x".into()),
                    ..CheckoutAttrs::default()
                },
                "no ref `x`",
            ),
            (CheckoutAttrs::default(), "neither a commit nor a ref"),
        ] {
            let error = back(attrs).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}

#[test]
fn what_is_damaged_does_not_come_back() {
    let mut fake = Fake::new();
    let (_, _, repository) = history(&mut fake, 53, Mode::Archive);
    let dir = fake.path("repo");
    add_to_repository(&fake.store, &repository, &dir, &AddOptions::default()).expect("an export");
    let (commit, _) = tip(&dir);
    let source = Source::open(&dir).expect("a repository");
    let (_, view) = source.commit(&commit).expect("readable").expect("there");
    let reachable = source.reachable(&view).expect("whole");
    let file = |checksum: &Sha256, kind| {
        let (sub, name) = object_name(checksum, kind);
        dir.join("objects").join(sub).join(name)
    };
    for (checksum, kind) in [
        (reachable.files.first().expect("a file"), ObjectKind::Filez),
        (
            reachable.trees.first().expect("a tree"),
            ObjectKind::DirTree,
        ),
        (
            reachable.metas.first().expect("a dirmeta"),
            ObjectKind::DirMeta,
        ),
        (&commit, ObjectKind::Commit),
    ] {
        let path = file(checksum, kind);
        let good = std::fs::read(&path).expect("an object");
        for at in [0, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, bad).expect("written");
            import(&fake, &source, &commit).expect_err("damaged");
        }
        std::fs::write(&path, &good[..good.len() - 1]).expect("written");
        import(&fake, &source, &commit).expect_err("cut");
        std::fs::remove_file(&path).expect("removed");
        import(&fake, &source, &commit).expect_err("missing");
        std::fs::write(&path, good).expect("written");
    }
    import(&fake, &source, &commit).expect("whole again");
}

#[test]
fn static_deltas_lead_from_nothing_and_from_the_parent() {
    for mode in [Mode::Archive, Mode::BareUser] {
        let mut fake = Fake::new();
        let (_, second, repository) = history(&mut fake, 54, mode);
        let dir = fake.path("repo");
        let options = |cores| AddOptions {
            deltas: true,
            cores,
            ..AddOptions::default()
        };
        let exported =
            add_to_repository(&fake.store, &repository, &dir, &options(1)).expect("an export");
        assert!(exported.deltas > 0);
        let files = |dir: &Path| {
            let mut found = BTreeMap::new();
            for entry in walkdir::WalkDir::new(dir.join("deltas")) {
                let entry = entry.expect("an entry");
                if entry.file_type().is_file() {
                    let bytes = std::fs::read(entry.path()).expect("a file");
                    let name = entry.path().strip_prefix(dir).expect("below").to_owned();
                    found.insert(name, bytes);
                }
            }
            found
        };
        let again = fake.path("again");
        add_to_repository(&fake.store, &repository, &again, &options(5)).expect("an export");
        assert_eq!(files(&dir), files(&again), "whatever the number of threads");
        let superblocks: Vec<PathBuf> = files(&dir)
            .into_keys()
            .filter(|name| name.ends_with("superblock"))
            .collect();
        let (commit, parent) = tip(&dir);
        let of = |between: bool| {
            let mut found = superblocks.iter();
            let found = found.find(|p| p.display().to_string().contains('-') == between);
            dir.join(found.expect("a delta"))
                .parent()
                .expect("a directory")
                .to_owned()
        };

        let Some(listed) = ostree(&[repo_arg(&dir).as_str(), "static-delta", "list"]) else {
            return;
        };
        let mut listed: Vec<&str> = listed.lines().collect();
        listed.sort_unstable();
        let mut expected = [commit.to_string(), format!("{parent}-{commit}")];
        expected.sort();
        assert_eq!(listed, expected);
        // The summary says how large the commit is, as libostree itself says it.
        if mode == Mode::Archive {
            let size = || {
                let told = ostree(&[repo_arg(&dir).as_str(), "summary", "--view"]);
                let told = told.expect("installed").replace('\u{a0}', " ");
                let line = told.lines().find(|line| line.contains("Latest Commit"));
                line.expect("a commit").trim().to_owned()
            };
            let ours = std::fs::read(dir.join("summary")).expect("a summary");
            let (sub, name) = object_name(&commit, ObjectKind::Commit);
            let object = std::fs::metadata(dir.join("objects").join(sub).join(name));
            let bytes = object.expect("a commit").len();
            assert_eq!(size(), format!("Latest Commit ({bytes} bytes):"));
            ostree(&[repo_arg(&dir).as_str(), "summary", "--update"]).expect("installed");
            assert_eq!(size(), format!("Latest Commit ({bytes} bytes):"));
            std::fs::write(dir.join("summary"), ours).expect("written");
        }

        // From nothing.
        let empty = fake.path("empty");
        init(&empty, "--mode=bare-user").expect("installed");
        let apply = |into: &Path, delta: &Path| {
            let delta = delta.display().to_string();
            ostree(&[
                repo_arg(into).as_str(),
                "static-delta",
                "apply-offline",
                &delta,
            ])
            .expect("installed");
        };
        apply(&empty, &of(false));
        let source = Source::open(&empty).expect("a repository");
        let back = import(&fake, &source, &commit).expect("all objects are there");
        assert_eq!(plain(&fake, &back), plain(&fake, &second));

        // From the parent.
        let having = fake.path("having");
        init(&having, "--mode=bare-user").expect("installed");
        let (local, parent) = (dir.display().to_string(), parent.to_string());
        ostree(&[repo_arg(&having).as_str(), "pull-local", &local, &parent]).expect("installed");
        apply(&having, &of(true));
        let source = Source::open(&having).expect("a repository");
        let back = import(&fake, &source, &commit).expect("all objects are there");
        assert_eq!(plain(&fake, &back), plain(&fake, &second));

        if mode == Mode::BareUser {
            continue;
        }
        // Over the network, with deltas alone.
        let server = serve(&dir);
        for start in [None, Some(&parent)] {
            let client = fake.path(&format!("client{}", start.is_some()));
            let repo = init(&client, "--mode=bare-user").expect("installed");
            ostree(&[&repo, "remote", "add", "--no-gpg-verify", "o", &server.base])
                .expect("installed");
            if let Some(start) = start {
                let at = format!("test/amd64/main@{start}");
                ostree(&[repo.as_str(), "pull", "o", &at]).expect("installed");
            }
            ostree(&[
                repo.as_str(),
                "pull",
                "--require-static-deltas",
                "o",
                "test/amd64/main",
            ])
            .expect("installed");
            ostree(&[repo.as_str(), "fsck"]).expect("installed");
            let pulled = ostree(&[repo.as_str(), "rev-parse", "o:test/amd64/main"]);
            assert_eq!(pulled.expect("installed").trim(), commit.to_string());
        }
        let asked = server.asked();
        assert!(asked.iter().any(|asked| asked.path.ends_with("superblock")));
    }
}

#[test]
fn gpg_signatures_are_what_libostree_accepts() {
    let mut fake = Fake::new();
    let (_, _, repository) = history(&mut fake, 55, Mode::Archive);
    let home = fake.path("gpg");
    std::fs::create_dir(&home).expect("a directory");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&home, private).expect("mode");
    let home = home.display().to_string();
    let gpg = |args: &[&str]| {
        let all = [&["--homedir", &home, "--batch", "--yes"], args].concat();
        let output = peer("gpg", &all)?;
        assert!(output.status.success(), "{}", said(&output));
        Some(output.stdout)
    };
    let make_key = |name: &str, algorithm: &str| {
        let id = format!("{name}@example.org");
        gpg(&[
            "--passphrase",
            "",
            "--quick-gen-key",
            &id,
            algorithm,
            "sign",
            "never",
        ])?;
        let (secret, public) = (fake.path(&format!("{name}.secret")), fake.path(name));
        let armour = ["--armor", "--export-secret-keys", &id];
        std::fs::write(&secret, gpg(&armour)?).expect("written");
        std::fs::write(&public, gpg(&["--export", &id])?).expect("written");
        Some((secret, public))
    };
    let (Some((elliptic, elliptic_public)), Some((rsa, rsa_public)), Some((_, other))) = (
        make_key("elliptic", "ed25519"),
        make_key("rsa", "rsa2048"),
        make_key("other", "ed25519"),
    ) else {
        return;
    };
    let dir = fake.path("repo");
    let export_with = |keys: &[&Path], deltas: bool| {
        let mut signers = Signers::default();
        for key in keys {
            signers.add_gpg(key).expect("a key");
        }
        let options = AddOptions {
            signers,
            deltas,
            cores: 2,
            ..AddOptions::default()
        };
        add_to_repository(&fake.store, &repository, &dir, &options).expect("an export");
    };
    let export = |keys: &[&Path]| export_with(keys, false);
    let pull = |server: &Server, key: &Path, name: &str| {
        let client = fake.path(name);
        let _old = std::fs::remove_dir_all(&client).is_ok();
        // Clients that keep archives would not take deltas.
        let repo = init(&client, "--mode=bare-user")?;
        let import = format!("--gpg-import={}", key.display());
        let summary = "--set=gpg-verify-summary=true";
        ostree(&[&repo, "remote", "add", &import, summary, "o", &server.base])?;
        peer("ostree", &[&repo, "pull", "o", "test/amd64/main"])
    };
    export(&[&elliptic]);
    let server = serve(&dir);
    let Some(good) = pull(&server, &elliptic_public, "a") else {
        return;
    };
    assert!(good.status.success(), "{}", said(&good));
    let bad = pull(&server, &other, "b").expect("installed");
    assert!(!bad.status.success());
    let (commit, _) = tip(&dir);
    let (sub, name) = object_name(&commit, ObjectKind::Commit);
    let signatures = dir.join("objects").join(sub).join(format!("{name}meta"));
    let read = || std::fs::read(&signatures).expect("signatures");
    let first = read();
    // Signing again changes nothing, and a second key does not take the first one's place.
    export(&[&elliptic]);
    assert_eq!(read(), first);
    export(&[&rsa]);
    let both = read_dict(&read()).expect("a dictionary");
    assert_eq!(
        read_byte_arrays(&both["ostree.gpgsigs"])
            .expect("signatures")
            .len(),
        2
    );
    let summary = pull(&server, &rsa_public, "c").expect("installed");
    assert!(summary.status.success(), "{}", said(&summary));
    // A delta brings the signatures along, of those who sign later too.
    export_with(&[&elliptic], true);
    let delta = |client: &str, key: &Path| {
        let before = server.asked().len();
        let pulled = pull(&server, key, client).expect("installed");
        assert!(pulled.status.success(), "{}", said(&pulled));
        let asked = server.asked();
        let mut asked = asked[before..].iter();
        assert!(asked.any(|asked| asked.path.ends_with("/superblock")));
    };
    delta("d", &elliptic_public);
    assert!(
        !pull(&server, &other, "e")
            .expect("installed")
            .status
            .success()
    );
    std::fs::remove_file(&signatures).expect("removed");
    export(&[&rsa]);
    delta("f", &rsa_public);
    // A summary that nobody signed has no signature of another one beside it.
    std::fs::remove_file(dir.join("refs/heads/test/amd64/main")).expect("removed");
    let renamed = AddOptions {
        branch: Some("renamed"),
        ..AddOptions::default()
    };
    let add = || add_to_repository(&fake.store, &repository, &dir, &renamed).expect("an export");
    assert!(add().unsigned);
    assert!(!dir.join("summary.sig").exists());
    assert!(!add().unsigned);
}

#[test]
fn ed25519_signatures_are_what_openssl_accepts() {
    let mut fake = Fake::new();
    let (_, _, repository) = history(&mut fake, 56, Mode::Archive);
    let at = |name: &str| fake.path(name).display().to_string();
    let openssl = |args: &[&str]| {
        let output = peer("openssl", args)?;
        assert!(output.status.success(), "{}", said(&output));
        Some(output.stdout)
    };
    let (secret, public) = (at("secret.pem"), at("public.pem"));
    if openssl(&["genpkey", "-algorithm", "ed25519", "-out", &secret]).is_none() {
        return;
    }
    openssl(&["pkey", "-in", &secret, "-pubout", "-out", &public]).expect("installed");
    // The same key as libostree keeps it: seed and public key.
    let der = |args: &[&str]| openssl(args).expect("installed");
    let seed = der(&["pkey", "-in", &secret, "-outform", "DER"]);
    let point = der(&["pkey", "-in", &secret, "-pubout", "-outform", "DER"]);
    let both = [&seed[seed.len() - 32..], &point[point.len() - 32..]].concat();
    let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, both);
    std::fs::write(fake.path("secret.ostree"), text + "\n").expect("written");
    let dir = fake.path("repo");
    let mut seen = Vec::new();
    for key in ["secret.pem", "secret.ostree"] {
        let mut signers = Signers::default();
        signers.add_ed25519(&fake.path(key)).expect("a key");
        let options = AddOptions {
            signers,
            ..AddOptions::default()
        };
        add_to_repository(&fake.store, &repository, &dir, &options).expect("an export");
        let (commit, _) = tip(&dir);
        let (sub, name) = object_name(&commit, ObjectKind::Commit);
        let object = dir.join("objects").join(sub).join(&name);
        let meta = object.with_file_name(format!("{name}meta"));
        for (signed, signatures) in [
            (object, meta),
            (dir.join("summary"), dir.join("summary.sig")),
        ] {
            let bytes = std::fs::read(signatures).expect("signatures");
            let entries = read_dict(&bytes).expect("a dictionary");
            let found = read_byte_arrays(&entries["ostree.sign.ed25519"]).expect("signatures");
            let [one] = found.as_slice() else {
                panic!("{found:?}");
            };
            std::fs::write(fake.path("signature"), one).expect("written");
            let (signed, signature) = (signed.display().to_string(), at("signature"));
            let told = openssl(&[
                "pkeyutl", "-verify", "-pubin", "-inkey", &public, "-rawin", "-in", &signed,
                "-sigfile", &signature,
            ]);
            assert!(String::from_utf8_lossy(&told.expect("installed")).contains("Success"));
            seen.push(bytes);
        }
    }
    // Both files hold the same key.
    assert_eq!(seen[..2], seen[2..]);
}

#[test]
fn bad_keys_are_refused() {
    let fake = Fake::new();
    let file = fake.path("key");
    for (content, part) in [
        ("", "it is no Ed25519 secret key"),
        ("!!", "it is not base 64"),
        ("AAAA", "it is no Ed25519 secret key"),
        // A public key, or a seed: that of zeros, whose public key is another one.
        (
            &("A".repeat(43) + "="),
            "its 32 bytes may be a public key; a secret key is 64 bytes in base 64",
        ),
        (&"A".repeat(86), "it is not base 64"),
        (&("A".repeat(85) + "A=="), "its public half does not belong"),
        (
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "it is no Ed25519",
        ),
    ] {
        std::fs::write(&file, content).expect("written");
        let error = Signers::default()
            .add_ed25519(&file)
            .expect_err(part)
            .to_string();
        assert!(error.contains(part), "{content}: {error}");
        let error = Signers::default()
            .add_gpg(&file)
            .expect_err("no OpenPGP key")
            .to_string();
        assert!(error.contains("no OpenPGP secret key in"), "{error}");
    }
    // Whatever was named by mistake stays a secret, as bytes or as text.
    let body = "c2VjcmV0IGJ5dGVzIG9mIGEga2V5";
    for content in [
        format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n"),
        format!(
            "-----BEGIN OPENSSH PRIVATE KEY-----\n{body}!\n-----END OPENSSH PRIVATE KEY-----\n"
        ),
        format!(
            "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n{body}\n=AAAA\n-----END PGP PRIVATE KEY BLOCK-----\n"
        ),
        format!("{body}~"),
    ] {
        std::fs::write(&file, &content).expect("written");
        for error in [
            Signers::default().add_gpg(&file),
            Signers::default().add_ed25519(&file),
        ] {
            let error = error.expect_err("no key");
            for shown in [format!("{error}"), format!("{error:?}")] {
                let bytes = format!(
                    "{}, {}, {}",
                    body.as_bytes()[0],
                    body.as_bytes()[1],
                    body.as_bytes()[2]
                );
                assert!(!shown.contains(body) && !shown.contains(&bytes), "{shown}");
                assert!(!shown.contains("secret bytes"), "{shown}");
            }
        }
    }
    let none = Signers::default()
        .add_gpg(&fake.path("none"))
        .expect_err("missing");
    assert!(none.to_string().contains("cannot read the key"), "{none}");
}

#[cfg(not(feature = "libostree"))]
#[test]
fn without_libostree_a_pull_says_what_is_missing() {
    let fake = Fake::new();
    let attrs = pull::PullAttrs {
        url: "https://example.org/repo".into(),
        commit: Sha256::of(b"x").to_string(),
    };
    let error = pull::pull(&fake, &attrs)
        .expect_err("no libostree")
        .to_string();
    assert!(error.contains("built without libostree"), "{error}");
}

#[cfg(feature = "libostree")]
#[test]
fn libostree_pulls_and_checks_what_was_written() {
    for deltas in [false, true] {
        let mut fake = Fake::new();
        let (first, second, repository) = history(&mut fake, 57, Mode::Archive);
        let dir = fake.path("repo");
        let options = AddOptions {
            deltas,
            cores: 2,
            ..AddOptions::default()
        };
        add_to_repository(&fake.store, &repository, &dir, &options).expect("an export");
        assert!(crate::libostree::fsck(&dir).expect("sound") > 100);
        let (commit, parent) = tip(&dir);
        let server = serve(&dir);
        let file = format!("file://{}", dir.display());
        for (url, commit, root) in [
            (&server.base, &commit, &second),
            (&file, &commit, &second),
            (&server.base, &parent, &first),
        ] {
            let attrs = pull::PullAttrs {
                url: url.clone(),
                commit: commit.to_string(),
            };
            let back = pull::pull(&fake, &attrs).expect("pulled");
            assert_eq!(plain(&fake, &back), plain(&fake, root), "{url}");
        }
        for (url, commit, part) in [
            (
                server.base.as_str(),
                Sha256::of(b"none").to_string(),
                "cannot pull",
            ),
            (server.base.as_str(), "abc".into(), "names no commit"),
            ("ftp://x", commit.to_string(), "is no address"),
        ] {
            let attrs = pull::PullAttrs {
                url: url.into(),
                commit,
            };
            let error = pull::pull(&fake, &attrs).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
        let source = Source::open(&dir).expect("a repository");
        let (_, view) = source.commit(&commit).expect("readable").expect("there");
        let files = source.reachable(&view).expect("whole").files;
        let (sub, name) = object_name(files.first().expect("a file"), ObjectKind::Filez);
        let path = dir.join("objects").join(sub).join(name);
        let mut bytes = std::fs::read(&path).expect("an object");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).expect("written");
        let error = crate::libostree::fsck(&dir)
            .expect_err("damaged")
            .to_string();
        assert!(error.contains("are damaged"), "{error}");
    }
}

#[test]
fn a_container_holds_the_commit_as_it_is() {
    // All layers are counted, as by `rpm-ostree compose container-encapsulate --max-layers`.
    for layers in [5, 2, 1] {
        is_the_commit_in(layers);
    }
}

fn is_the_commit_in(count: u32) {
    use container::{ContainerAttrs, make_container};
    use sos_formats::tar::{EntryKind, Reader};
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can unpack files of other owners");
        return;
    }
    let mut fake = Fake::new();
    let (_, second, repository) = history(&mut fake, 58, Mode::Archive);
    fake.roots.insert("repository".into(), repository);
    let attrs = ContainerAttrs {
        repository: "repository".into(),
        branch: "test/amd64/main".into(),
        layers: count,
        ..ContainerAttrs::default()
    };
    let out = fake.path("image");
    make_container(&fake, &attrs, &out).expect("an image");
    fake.cores = 7;
    let again = fake.path("again");
    make_container(&fake, &attrs, &again).expect("an image");
    let read = |dir: &Path, name: &str| std::fs::read(dir.join(name)).expect("a file");
    assert_eq!(read(&out, "index.json"), read(&again, "index.json"));

    let json = |bytes: Vec<u8>| -> serde_json::Value {
        serde_json::from_slice(&bytes).expect("a document")
    };
    let blob = |value: &serde_json::Value| {
        let digest = value["digest"].as_str().expect("a digest");
        out.join("blobs/sha256")
            .join(digest.trim_start_matches("sha256:"))
    };
    let index = json(read(&out, "index.json"));
    let manifest = json(std::fs::read(blob(&index["manifests"][0])).expect("a manifest"));
    let config = json(std::fs::read(blob(&manifest["config"])).expect("a configuration"));
    let labels = &config["config"]["Labels"];
    assert_eq!(labels, &manifest["annotations"]);
    let diff_ids = config["rootfs"]["diff_ids"].as_array().expect("a list");
    assert_eq!(Some(&labels["ostree.final-diffid"]), diff_ids.last());
    assert_eq!(labels["version"], "1.2.3");
    let layers = manifest["layers"].as_array().expect("a list");
    assert_eq!(layers.len(), usize::try_from(count).expect("few"));
    assert_eq!(layers.len(), diff_ids.len());
    let commit = labels["ostree.commit"]
        .as_str()
        .expect("a commit")
        .to_owned();

    // The structure, entry by entry.
    let merged = fake.path("merged");
    std::fs::create_dir(&merged).expect("a directory");
    let object = |path: &[u8], ending: &str| {
        let path = String::from_utf8_lossy(path).into_owned();
        let rest = path
            .strip_prefix("sysroot/ostree/repo/objects/")?
            .to_owned();
        rest.strip_suffix(ending).map(|hex| hex.replace('/', ""))
    };
    for (at, layer) in layers.iter().enumerate() {
        let file = std::fs::File::open(blob(layer)).expect("a layer");
        // This decoder stops after one member, as bootc's does.
        let gzip = flate2::bufread::GzDecoder::new(std::io::BufReader::new(file));
        let mut reader = Reader::new(gzip);
        let mut seen = std::collections::BTreeSet::new();
        // As the importer reads it: the last link to xattrs is for the object that comes next.
        let (mut next, mut first, mut content) = (None, None, Vec::new());
        let mut kept = std::collections::BTreeSet::new();
        while let Some(entry) = reader.next_entry().expect("an entry") {
            assert!(seen.insert(entry.path.clone()), "twice: {entry:?}");
            assert_eq!(entry.mtime_secs, 0);
            if entry.kind == EntryKind::Hardlink {
                assert!(seen.contains(&entry.link), "{entry:?}");
            }
            assert!(!entry.path.starts_with(b"usr/etc"));
            let is_object = entry.path.starts_with(b"sysroot/ostree/repo/objects/");
            if is_object && entry.kind != EntryKind::Dir {
                first.get_or_insert_with(|| entry.path.clone());
            }
            if let Some(name) = object(&entry.path, ".file-xattrs-link") {
                let xattrs = object(&entry.link, ".file-xattrs").expect("xattrs");
                assert!(kept.contains(&xattrs), "they come before the link");
                assert_eq!(next.replace(name), None, "an object for each link");
            } else if let Some(name) = object(&entry.path, ".file-xattrs") {
                kept.insert(name);
            } else if let Some(name) = object(&entry.path, ".file") {
                assert_eq!(
                    next.take().as_ref(),
                    Some(&name),
                    "its xattrs come before it"
                );
                assert!(at > 0 || count == 1, "content is in layers of its own");
                content.push(name);
            }
        }
        assert_eq!(next, None);
        let is_commit = object(&first.expect("objects"), ".commit").is_some();
        assert_eq!(is_commit, at == 0, "the commit comes first");
        // What the importer leaves open is sorted.
        assert!(content.is_sorted());
        let layer = blob(layer).display().to_string();
        let into = merged.display().to_string();
        let args = ["-C", &into, "--same-owner", "-pxzf", &layer];
        let Some(output) = peer("tar", &args) else {
            return;
        };
        assert!(output.status.success(), "{}", said(&output));
    }
    // libostree reads what is there after unpacking.
    let repo = repo_arg(&merged.join("sysroot/ostree/repo"));
    let Some(shown) = ostree(&[repo.as_str(), "show", &commit]) else {
        return;
    };
    assert!(shown.contains("Version: 1.2.3"), "{shown}");
    ostree(&[repo.as_str(), "fsck"]).expect("installed");
    let client = fake.path("client");
    let into = init(&client, "--mode=archive").expect("installed");
    let local = merged.join("sysroot/ostree/repo").display().to_string();
    ostree(&[into.as_str(), "pull-local", &local, &commit]).expect("installed");
    let source = Source::open(&client).expect("a repository");
    let back = import(&fake, &source, &commit.parse().expect("a commit")).expect("whole");
    assert_eq!(plain(&fake, &back), plain(&fake, &second));
    // And every file is at its place.
    for (path, (_, _, _, _, kind)) in plain(&fake, &second) {
        let path = std::os::unix::ffi::OsStringExt::from_vec(path);
        let path: std::ffi::OsString = path;
        let found = std::fs::symlink_metadata(merged.join(path)).expect("there");
        assert_eq!(found.is_symlink(), kind.starts_with("-> "), "{kind}");
    }
    if let Some(checker) = peer("skopeo", &["inspect", &format!("oci:{}", out.display())]) {
        assert!(checker.status.success(), "{}", said(&checker));
    }
}
