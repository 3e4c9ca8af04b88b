use super::*;

fn sample() -> SosLock {
    let digest = |b: u8| Sha256([b; 32]);
    let mut lock = SosLock::new();
    lock.set_url(UrlEntry {
        url: "https://z.example/a".into(),
        sha256: digest(9),
        size: 3,
    });
    lock.set_url(UrlEntry {
        url: "https://a.example/\"q\"\\\u{1}".into(),
        sha256: digest(8),
        size: 0,
    });
    for name in ["z.example/os/web:1", "a.example/base"] {
        lock.set_image(ImageEntry {
            reference: name.into(),
            digest: digest(7),
        });
    }
    let package = |name: &str, phase, batch, auto| LockedPackage {
        name: name.into(),
        version: "1:5.2.15-2+b13~x".into(),
        arch: "amd64".into(),
        sha256: digest(3),
        size: 1_490_652,
        path: format!("pool/main/b/{name}/{name}.deb"),
        suite: Some(0),
        phase,
        batch,
        reason: "essential".into(),
        auto,
    };
    let mut local = package("tool", Phase::Rest, 2, false);
    local.suite = None;
    lock.set_rootfs(RootfsEntry {
        recipe: "web.rootfs.toml".into(),
        arch: "amd64".into(),
        digest: "sha256-abc=".into(),
        locked: RootfsLocked {
            solver: "sos-debian 1".into(),
            suites: vec![LockedSuite {
                uri: "mirror://debian".into(),
                suite: "bookworm".into(),
                components: vec!["main".into(), "contrib".into()],
                inrelease: LockedRelease {
                    sha256: digest(1),
                    size: 151_075,
                    date: "2026-07-11T10:16:37Z".into(),
                    keys: vec!["AB12".into()],
                },
                index: vec![LockedIndex {
                    path: "main/binary-amd64/Packages.xz".into(),
                    sha256: digest(2),
                    size: 8_790_396,
                }],
                snapshot: Some("20260711T101637Z".into()),
            }],
            packages: vec![
                package("bash", Phase::Essential, 0, false),
                package("zlib1g", Phase::Rest, 1, true),
                local,
            ],
        },
    });
    lock
}

#[test]
fn text_is_canonical() {
    let lock = sample();
    let text = lock.to_text();
    let again = SosLock::parse(&text).unwrap();
    assert_eq!(again, lock);
    assert_eq!(again.to_text(), text);
    assert_eq!(
        lock.url_entries()[0].url,
        "https://a.example/\"q\"\\\u{1}",
        "sorted whatever the order of insertion"
    );
}

#[test]
fn an_image_is_taken_out() {
    let mut lock = sample();
    assert!(!lock.remove_image("b.example/base"));
    assert!(lock.remove_image("a.example/base"));
    assert_eq!(lock.image("a.example/base"), None);
    assert!(lock.image("z.example/os/web:1").is_some());
}

#[test]
fn empty_lock() {
    let text = SosLock::new().to_text();
    assert!(SosLock::parse(&text).unwrap().is_empty());
    assert_eq!(SosLock::parse("version = 1").unwrap().to_text(), text);
}

#[test]
fn text_shape() {
    let mut lock = sample();
    lock.url.truncate(1);
    lock.image.truncate(1);
    lock.rootfs[0].locked.packages.truncate(1);
    insta::assert_snapshot!(lock.to_text(), @r#"
    # Written by sos and read by it; `sos lock --update` moves what is pinned here.
    version = 1

    [[rootfs]]
    recipe = "web.rootfs.toml"
    arch = "amd64"
    digest = "sha256-abc="
    solver = "sos-debian 1"

    [[rootfs.suite]]
    uri = "mirror://debian"
    suite = "bookworm"
    components = ["main", "contrib"]
    inrelease = { sha256 = "0101010101010101010101010101010101010101010101010101010101010101", size = 151075, date = "2026-07-11T10:16:37Z", keys = ["AB12"] }
    index = [
      { path = "main/binary-amd64/Packages.xz", sha256 = "0202020202020202020202020202020202020202020202020202020202020202", size = 8790396 },
    ]
    snapshot = "20260711T101637Z"

    [[rootfs.package]]
    name = "bash"
    version = "1:5.2.15-2+b13~x"
    arch = "amd64"
    sha256 = "0303030303030303030303030303030303030303030303030303030303030303"
    size = 1490652
    path = "pool/main/b/bash/bash.deb"
    suite = 0
    phase = "essential"
    batch = 0
    reason = "essential"
    auto = false

    [[url]]
    url = "https://a.example/\"q\"\\\u0001"
    sha256 = "0808080808080808080808080808080808080808080808080808080808080808"
    size = 0

    [[image]]
    ref = "a.example/base"
    digest = "sha256:0707070707070707070707070707070707070707070707070707070707070707"
    "#);
}

#[track_caller]
fn refused(from: &str, to: &str, expect: &str) {
    let text = sample().to_text();
    assert!(text.contains(from), "the sample has `{from}`");
    let error = SosLock::parse(&text.replacen(from, to, 1)).unwrap_err();
    assert!(
        error.to_string().contains(expect),
        "{error} does not say `{expect}`"
    );
}

#[test]
fn damage_is_refused() {
    refused("version = 1\n", "version = 2\nnew_field = 3\n", "version 2");
    refused("version = 1\n", "", "missing field `version`");
    refused("size = 3", "sise = 3", "unknown field `sise`");
    refused(
        "sha256 = \"0303",
        "sha256 = \"03zz",
        "not 64 hexadecimal digits",
    );
    refused(
        "digest = \"sha256:07",
        "digest = \"07",
        "not `sha256:` and 64",
    );
    refused("z.example/os/web:1", "a.example/base", "is pinned twice");
    refused("suite = 0", "suite = 1", "not the number of a locked suite");
    refused(
        "path = \"pool/main",
        "path = \"pool/../main",
        "not a clean relative path",
    );
    refused(
        "path = \"pool/main",
        "path = \"/pool/main",
        "not a clean relative path",
    );
    refused(
        "phase = \"rest\"",
        "phase = \"late\"",
        "not `essential` or `rest`",
    );
    refused("name = \"bash\"", "name = \"--force\"", "not a word");
    refused(
        "name = \"zlib1g\"",
        "name = \"bash\"",
        "`bash:amd64` is pinned twice",
    );
    refused(
        "https://z.example/a",
        "https://a.example/\\\"q\\\"\\\\\\u0001",
        "is pinned twice",
    );
}

#[test]
fn digest_sees_what_resolving_sees() {
    let wanted = |s: &str| Wanted {
        text: s.into(),
        label: None,
    };
    let request = RootfsRequest {
        name: "web".into(),
        arch: "amd64".into(),
        sources: vec![RootfsSource {
            uri: "mirror://debian".into(),
            suites: vec![wanted("bookworm")],
            components: vec![wanted("main")],
            keyring: Keyring::Debian,
            snapshot: None,
        }],
        variant: Variant::Minbase,
        include: vec![wanted("nginx-light")],
        exclude: vec![],
        recommends: false,
        debs: vec![],
    };
    let base = request.digest();
    let changed = |change: &dyn Fn(&mut RootfsRequest)| {
        let mut r = request.clone();
        change(&mut r);
        r.digest() != base
    };
    assert!(
        !changed(&|r| r.name = "other".into()),
        "the name chooses no package"
    );
    assert!(!changed(
        &|r| r.sources[0].snapshot = Some("https://s.example".into())
    ));
    assert!(changed(&|r| r.arch = "arm64".into()));
    assert!(changed(&|r| r.recommends = true));
    assert!(changed(&|r| r.variant = Variant::Apt));
    assert!(changed(&|r| r.include.push(wanted("curl"))));
    assert!(changed(&|r| r.exclude.push(wanted("curl"))));
    assert!(changed(&|r| r.sources[0]
        .suites
        .push(wanted("bookworm-updates"))));
    assert!(changed(&|r| r.sources[0].keyring = Keyring::File {
        name: "k".into(),
        bytes: vec![1]
    }));
}
