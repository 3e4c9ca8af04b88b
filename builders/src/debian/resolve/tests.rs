use std::collections::BTreeMap;

use std::sync::{Arc, Mutex};

use super::*;
use crate::fetch::test_server::{Reply, Server, reply};
use crate::fetch::{Accept, Download, Downloaded, Fetcher};
use crate::mirrors::Mirrors;
use sos_formats::lock::{self, Variant};

/// 2026-11-20.
const NOW: i64 = 1_795_132_800;
const KEYS: &[u8] = include_bytes!("../fixtures/keys.asc");
const IN_RELEASE: &[u8] = include_bytes!("../fixtures/archive/InRelease");
const EXPIRED: &[u8] = include_bytes!("../fixtures/archive/expired.InRelease");
const PACKAGES: &[u8] = include_bytes!("../fixtures/archive/Packages.xz");

/// Serves files from memory, and remembers what it was asked for.
#[derive(Default, Clone)]
struct Memory(BTreeMap<String, Vec<u8>>, Arc<Mutex<Vec<String>>>);

fn resolve(
    request: &RootfsRequest,
    archive: &Memory,
    now_secs: i64,
) -> Result<RootfsLocked, Vec<Diagnostic>> {
    Archive::new(archive.clone(), now_secs).resolve(request)
}

impl Memory {
    fn archive(in_release: &[u8]) -> Self {
        let mut files = BTreeMap::new();
        let by_hash = Sha256::of(PACKAGES);
        let base = "mirror://test/dists/test";
        files.insert(format!("{base}/InRelease"), in_release.to_vec());
        files.insert(
            format!("{base}/main/binary-amd64/by-hash/SHA256/{by_hash}"),
            PACKAGES.to_vec(),
        );
        Self(files, Arc::default())
    }
}

impl Download for Memory {
    fn accepted(
        &self,
        urls: &[String],
        _limit: u64,
        _expected: Option<&[u8; 32]>,
        accept: &Accept<'_>,
    ) -> Result<Downloaded, Box<Diagnostic>> {
        let found = urls.iter().find_map(|url| self.0.get_key_value(url));
        let (url, bytes) = found.ok_or_else(|| {
            Box::new(Diagnostic::error(
                "fetch-failed",
                Class::Fetch,
                format!("no {urls:?}"),
            ))
        })?;
        self.1.lock().expect("lock").push(url.clone());
        accept(bytes)?;
        Ok(Downloaded {
            bytes: bytes.clone(),
            given_up: Vec::new(),
        })
    }
}

fn wanted(text: &str) -> Wanted {
    Wanted {
        text: text.into(),
        label: None,
    }
}

fn request(variant: Variant, include: &[&str], recommends: bool) -> RootfsRequest {
    RootfsRequest {
        name: "t".into(),
        arch: "amd64".into(),
        sources: vec![RootfsSource {
            uri: "mirror://test".into(),
            suites: vec![wanted("test")],
            components: vec![wanted("main")],
            keyring: lock::Keyring::File {
                name: "keys.asc".into(),
                bytes: KEYS.to_vec(),
            },
            snapshot: None,
        }],
        variant,
        include: include.iter().map(|t| wanted(t)).collect(),
        exclude: Vec::new(),
        recommends,
        debs: Vec::new(),
    }
}

#[track_caller]
fn fails(request: &RootfsRequest, archive: &Memory, expected: &str) {
    let problems = resolve(request, archive, NOW).expect_err("must fail");
    let shown: Vec<_> = problems
        .iter()
        .map(|d| format!("{}: {}", d.code, d.message))
        .collect();
    assert!(shown.join("\n").starts_with(expected), "{shown:#?}");
}

#[test]
fn a_lock_has_phases_batches_and_reasons() {
    let locked = resolve(
        &request(Variant::Minbase, &["web"], true),
        &Memory::archive(IN_RELEASE),
        NOW,
    )
    .expect("resolves");
    let show = |p: &LockedPackage| {
        format!(
            "{} {} {} {} {} auto={}",
            p.name,
            p.version,
            p.phase.as_str(),
            p.batch,
            p.reason,
            p.auto
        )
    };
    let shown: Vec<_> = locked.packages.iter().map(show).collect();
    assert_eq!(
        shown,
        [
            "base 1 essential 0 essential auto=false",
            "init-data 2.0-1 rest 0 depends:init auto=true",
            "docs 1 rest 0 recommends:web auto=true",
            "libweb 3 rest 0 depends:web auto=true",
            "web 1:3 rest 0 requested auto=false",
            "init 2.0-1 rest 1 variant auto=false",
        ]
    );
    assert_eq!(locked.packages[0].path, "pool/main/b/base/base_1_all.deb");
    let suite = &locked.suites[0];
    assert_eq!(
        (suite.inrelease.date.as_str(), suite.inrelease.keys.len()),
        ("2026-07-11T10:16:37Z", 1)
    );
    assert_eq!(suite.index[0].path, "main/binary-amd64/Packages.xz");
    // Resolving is a function of its inputs.
    assert_eq!(
        resolve(
            &request(Variant::Minbase, &["web"], true),
            &Memory::archive(IN_RELEASE),
            NOW
        )
        .expect("resolves"),
        locked
    );
}

#[test]
fn impossible_wishes_are_explained() {
    let problems = resolve(
        &request(Variant::Essential, &["broken"], false),
        &Memory::archive(IN_RELEASE),
        NOW,
    )
    .expect_err("must fail");
    assert_eq!(problems[0].code, "deb-unsatisfiable");
    assert_eq!(
        problems[0].notes,
        ["`broken` 1 needs `gone (>= 2)`, which no package provides"]
    );
}

#[test]
fn a_bad_archive_is_refused() {
    let good = request(Variant::Minbase, &[], false);
    fails(
        &good,
        &Memory::default(),
        "fetch-failed: no [\"mirror://test/dists/test/InRelease\"]",
    );
    fails(
        &good,
        &Memory::archive(EXPIRED),
        "deb-release-expired: the release file of `test` was valid until 2026-07-18T10:16:37Z",
    );
    let mut changed = Memory::archive(IN_RELEASE);
    for bytes in changed.0.values_mut().filter(|b| *b == PACKAGES) {
        bytes[40] ^= 1;
    }
    fails(
        &good,
        &changed,
        "deb-bad-index: `main/binary-amd64/Packages.xz` of `test` is not the one",
    );
    let other_keys = request(Variant::Minbase, &[], false);
    let mut other_keys = other_keys;
    other_keys.sources[0].keyring = lock::Keyring::Debian;
    fails(
        &other_keys,
        &Memory::archive(IN_RELEASE),
        "deb-bad-signature: `test/InRelease` is not signed by a key of the keyring `debian`",
    );
}

#[test]
fn what_the_archive_does_not_have_is_said() {
    let mut component = request(Variant::Minbase, &[], false);
    component.sources[0].components = vec![wanted("contrb")];
    fails(
        &component,
        &Memory::archive(IN_RELEASE),
        "deb-unknown-component: `test` has no component `contrb`",
    );
    let mut arch = request(Variant::Minbase, &[], false);
    arch.arch = "arm64".into();
    fails(
        &arch,
        &Memory::archive(IN_RELEASE),
        "deb-unknown-arch: `test` has no packages for `arm64`",
    );
    let mut suite = request(Variant::Minbase, &[], false);
    suite.sources[0].suites[0].text = "other".into();
    let mut archive = Memory::archive(IN_RELEASE);
    archive.0.insert(
        "mirror://test/dists/other/InRelease".into(),
        IN_RELEASE.to_vec(),
    );
    fails(
        &suite,
        &archive,
        "deb-wrong-suite: the release file of `other` is that of another suite, `test` (stable)",
    );
    fails(
        &request(Variant::Minbase, &["wbe"], false),
        &Memory::archive(IN_RELEASE),
        "deb-unknown-package: no package `wbe` in test main (amd64)",
    );
}

#[test]
fn an_expired_snapshot_is_what_was_asked_for() {
    let mut old = request(Variant::Essential, &[], false);
    old.sources[0].uri = "https://snapshot.example/debian/20260711T101637Z".into();
    let mut archive = Memory::default();
    for (url, bytes) in Memory::archive(EXPIRED).0 {
        archive
            .0
            .insert(url.replace("mirror://test", &old.sources[0].uri), bytes);
    }
    assert_eq!(
        resolve(&old, &archive, NOW)
            .expect("resolves")
            .packages
            .len(),
        1
    );
}

#[test]
fn two_recipes_of_a_run_see_one_archive_and_fetch_it_once() {
    let memory = Memory::archive(IN_RELEASE);
    let archive = Archive::new(memory.clone(), NOW);
    let first = archive.resolve(&request(Variant::Minbase, &["web"], true));
    let second = archive.resolve(&request(Variant::Essential, &[], false));
    assert_eq!(
        first.expect("resolves").suites,
        second.expect("resolves").suites
    );
    assert_eq!(memory.1.lock().expect("lock").len(), 2);
    // Keys that do not hold for the file are not spared their look at it.
    let mut other_keys = request(Variant::Minbase, &[], false);
    other_keys.sources[0].keyring = lock::Keyring::Debian;
    let problems = archive.resolve(&other_keys).expect_err("must fail");
    assert_eq!(problems[0].code, "deb-bad-signature");
}

/// A server with the archive of the tests and this release file.
fn mirror(in_release: &'static [u8]) -> Server {
    let index = format!("/by-hash/SHA256/{}", Sha256::of(PACKAGES));
    Server::start(move |asked, _| -> Reply {
        match asked.path.as_str() {
            "/dists/test/InRelease" => reply("200 OK", "", in_release),
            path if path.ends_with(&index) => reply("200 OK", "", PACKAGES),
            _ => reply("404 Not Found", "", b""),
        }
    })
}

fn through(servers: &[&Server]) -> Archive {
    let bases = servers.iter().map(|server| server.base.clone()).collect();
    let config = [("test".to_owned(), bases)].into();
    let nowhere = std::path::Path::new("/nonexistent");
    let mirrors = Mirrors::new(&config, &BTreeMap::new(), nowhere);
    Archive::new(Fetcher::new(mirrors, false), NOW)
}

#[test]
fn a_mirror_that_is_stale_or_forged_gives_way_to_the_next() {
    let good = mirror(IN_RELEASE);
    let wish = request(Variant::Minbase, &["web"], true);
    let unsigned = b"Origin: nobody\nSuite: test\n";
    for (bad, code, why) in [
        (EXPIRED, "deb-release-expired", "valid until"),
        (&unsigned[..], "deb-bad-signature", "is not a signed"),
    ] {
        let bad = mirror(bad);
        let archive = through(&[&bad, &good]);
        archive.resolve(&wish).expect("the second mirror is good");
        let warnings = archive.take_warnings();
        assert!(
            warnings.len() == 1 && warnings[0].contains(&bad.base) && warnings[0].contains(why),
            "{warnings:?}"
        );
        let problems = through(&[&bad]).resolve(&wish).expect_err("no other");
        assert_eq!(problems[0].code, code);
        // A file that was refused is not asked for in another form.
        assert!(!bad.asked().iter().any(|a| a.path.ends_with("Release.gpg")));
    }
}
