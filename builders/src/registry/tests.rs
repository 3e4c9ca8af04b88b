//! Pushes and pulls against a registry that breaks, forgets and lies.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sos_engine::BuilderError;
use sos_formats::diagnostic::Diagnostic;
use sos_formats::hash::Sha256;

use super::access::Access;
use super::auth::AuthFiles;
use super::pull::{PullAttrs, pull};
use super::push::{Pushed, push};
use super::reference::Reference;
use super::resolve::resolve;
use super::test_registry::{Registry, State};
use crate::build::fake::Fake;
use crate::fetch::{Fetcher, Limits};
use crate::mirrors::Mirrors;

/// base64 of user:secret.
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

pub(super) fn fetcher() -> Fetcher {
    let limits = Limits {
        backoff: Duration::from_millis(1),
        max_backoff: Duration::from_millis(5),
        ..Limits::default()
    };
    Fetcher::with_limits(Mirrors::default(), false, limits)
}

/// A layout of layers that need not be any; gives its place and the digest of the manifest.
pub(super) fn layout(dir: &Path, layers: &[Vec<u8>], base: Option<&str>) -> (PathBuf, String) {
    layout_with(dir, layers, |manifest| {
        if let Some(base) = base {
            manifest["annotations"] =
                serde_json::json!({ "org.opencontainers.image.base.name": base });
        }
    })
}

/// The same with a manifest that has more, or other things, in it.
pub(super) fn layout_with(
    dir: &Path,
    layers: &[Vec<u8>],
    change: impl FnOnce(&mut serde_json::Value),
) -> (PathBuf, String) {
    let place = dir.join("image");
    let blobs = place.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a directory");
    let put = |kind: &str, bytes: &[u8]| {
        let hex = Sha256::of(bytes).to_string();
        fs::write(blobs.join(&hex), bytes).expect("write");
        serde_json::json!({ "mediaType": kind, "digest": format!("sha256:{hex}"), "size": bytes.len() })
    };
    let layers: Vec<serde_json::Value> = layers
        .iter()
        .map(|bytes| put("application/vnd.oci.image.layer.v1.tar", bytes))
        .collect();
    let config = put(
        "application/vnd.oci.image.config.v1+json",
        br#"{"os":"linux"}"#,
    );
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let mut manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers,
    });
    change(&mut manifest);
    let top = put(kind, &serde_json::to_vec(&manifest).expect("memory"));
    let digest = top["digest"].as_str().expect("a digest").to_owned();
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [top] });
    fs::write(place.join("index.json"), index.to_string()).expect("write");
    fs::write(
        place.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .expect("write");
    (place, digest)
}

pub(super) fn noise(len: usize, seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_le_bytes()[3]
        })
        .collect()
}

fn auth(dir: &Path, registry: &Registry) -> Access {
    let file = dir.join("auth.json");
    let auth = BASIC.trim_start_matches("Basic ");
    let json = serde_json::json!({ "auths": { &registry.host: { "auth": auth } } });
    fs::write(&file, json.to_string()).expect("write");
    of(file)
}

fn of(file: PathBuf) -> Access {
    Access {
        auth: AuthFiles::new(vec![file]),
        ..Access::default()
    }
}

pub(super) fn to(registry: &Registry) -> Reference {
    Reference::parse(&format!("{}/os/web:1.0", registry.host)).expect("a name")
}

pub(super) fn sent(
    registry: &Registry,
    place: &Path,
    auth: &Access,
) -> Result<Pushed, BuilderError> {
    push(&fetcher(), auth, place, &to(registry), &[])
}

pub(super) fn why<T>(result: Result<T, BuilderError>) -> Diagnostic {
    match result.err().expect("refused") {
        BuilderError::Diagnostic(why) => *why,
        other => panic!("no words for the user: {other:?}"),
    }
}

pub(super) fn pulled(
    registry: &Registry,
    auth: &Access,
    digest: &str,
) -> Result<Fake, BuilderError> {
    let fake = Fake::new();
    let attrs = PullAttrs {
        reference: to(registry).to_string(),
        digest: digest.to_owned(),
        arch: "amd64".to_owned(),
    };
    let out = fake.path("out");
    pull(&fake, &fetcher(), auth, &attrs, &out).map(|()| fake)
}

#[test]
fn an_image_goes_there_and_comes_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let (place, digest) = layout(dir.path(), &[noise(3000, 1), noise(9 << 20, 2)], None);
    let registry = Registry::start(State {
        bearer: Some(BASIC.to_owned()),
        ..State::default()
    });
    let auth = auth(dir.path(), &registry);
    let done = sent(&registry, &place, &auth).expect("pushed");
    assert_eq!(
        (done.sent, done.present, done.digest.as_str()),
        (4, 0, digest.as_str())
    );
    // The manifest is the last thing that is sent.
    let last = registry.with(|state| state.seen.last().map(|(line, _)| line.clone()));
    assert_eq!(last.as_deref(), Some("PUT /v2/os/web/manifests/1.0"));
    let again = sent(&registry, &place, &auth).expect("pushed");
    assert_eq!((again.sent, again.present), (0, 4));
    // A new tag needs no blob.
    registry.with(|state| state.manifests.clear());
    let manifest = sent(&registry, &place, &auth).expect("pushed");
    assert_eq!((manifest.sent, manifest.present), (1, 3));

    let fake = pulled(&registry, &auth, &digest).expect("pulled");
    for blob in fs::read_dir(place.join("blobs/sha256")).expect("a directory") {
        let blob = blob.expect("a blob");
        let came = fake.path("out/blobs/sha256").join(blob.file_name());
        assert_eq!(
            fs::read(came).expect("a blob"),
            fs::read(blob.path()).expect("a blob")
        );
    }
}

#[test]
fn what_is_damaged_or_elsewhere_is_not_sent() {
    let dir = tempfile::tempdir().expect("a directory");
    let content = noise(5000, 1);
    let (place, _) = layout(dir.path(), std::slice::from_ref(&content), None);
    let blob = place
        .join("blobs/sha256")
        .join(Sha256::of(&content).to_hex());
    let registry = Registry::start(State::default());
    let auth = auth(dir.path(), &registry);
    let digest = format!("sha256:{}", Sha256::of(&content));
    let refused = |what: &str| {
        let told = why(sent(&registry, &place, &auth));
        assert_eq!(told.code, "oci-bad-layout", "{what}");
        // It was asked for, and no upload was begun for it.
        let seen = registry.with(|state| {
            state
                .seen
                .iter()
                .map(|(line, _)| line.clone())
                .collect::<Vec<_>>()
        });
        let about = |verb: &str| {
            seen.iter()
                .any(|line| line.starts_with(verb) && line.contains(&digest))
        };
        assert!(about("HEAD") && !about("PUT"), "{what}: {seen:?}");
    };
    fs::write(&blob, noise(5000, 2)).expect("write");
    refused("other bytes");
    fs::remove_file(&blob).expect("removed");
    std::os::unix::fs::symlink("/etc/passwd", &blob).expect("a link");
    refused("a file of this machine");
    fs::remove_file(&blob).expect("removed");
    refused("nothing");
}

#[test]
fn an_image_for_another_machine_is_not_taken() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = br#"{"os":"linux","architecture":"arm64"}"#;
    let digest = format!("sha256:{}", Sha256::of(config));
    let (place, _) = layout(dir.path(), &[noise(10, 1)], None);
    fs::write(place.join("blobs/sha256").join(&digest[7..]), config).expect("write");
    let index = fs::read(place.join("index.json")).expect("an index");
    let mut index: serde_json::Value = serde_json::from_slice(&index).expect("JSON");
    let old = index["manifests"][0]["digest"].as_str().expect("text")[7..].to_owned();
    let manifest = fs::read(place.join("blobs/sha256").join(old)).expect("a manifest");
    let mut manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
    manifest["config"]["digest"] = digest.into();
    manifest["config"]["size"] = config.len().into();
    let bytes = manifest.to_string();
    let digest = format!("sha256:{}", Sha256::of(bytes.as_bytes()));
    fs::write(place.join("blobs/sha256").join(&digest[7..]), &bytes).expect("write");
    index["manifests"][0]["digest"] = digest.clone().into();
    index["manifests"][0]["size"] = bytes.len().into();
    fs::write(place.join("index.json"), index.to_string()).expect("write");
    let registry = Registry::start(State::default());
    let auth = auth(dir.path(), &registry);
    sent(&registry, &place, &auth).expect("pushed");
    let refused = why(pulled(&registry, &auth, &digest));
    assert_eq!(refused.code, "oci-arch");
    assert_eq!(
        refused.helps[0],
        "write `arch = \"arm64\"`, which is \"amd64\" where it is left out; or name an image for amd64"
    );
}

#[test]
fn without_a_tag_that_of_the_image_is_taken() {
    let dir = tempfile::tempdir().expect("a directory");
    let (place, digest) = layout(dir.path(), &[noise(10, 1)], None);
    let name = |registry: &Registry, end: &str| format!("{}/os/web{end}", registry.host);
    let registry = Registry::start(State::default());
    let auth = auth(dir.path(), &registry);
    let sent_to = |end: &str| {
        let to = Reference::parse(&name(&registry, end)).expect("a name");
        push(&fetcher(), &auth, &place, &to, &[]).expect("pushed")
    };
    let call = |tag: &str| {
        let index = fs::read(place.join("index.json")).expect("an index");
        let mut index: serde_json::Value = serde_json::from_slice(&index).expect("JSON");
        index["manifests"][0]["annotations"] =
            serde_json::json!({ "org.opencontainers.image.ref.name": tag });
        fs::write(place.join("index.json"), index.to_string()).expect("write");
    };
    // Without any, and with a name that is no tag there, its digest is all that leads to it.
    let pushed = sent_to("");
    assert_eq!((pushed.name, pushed.by_digest), (name(&registry, ""), true));
    call("os/web:1.0");
    assert!(sent_to("").by_digest);
    call("2.0");
    let pushed = sent_to("");
    assert_eq!(
        (pushed.name, pushed.by_digest),
        (name(&registry, ":2.0"), false)
    );
    assert!(registry.with(|state| state.manifests.contains_key("2.0")));
    // What is asked for is what is done.
    let by_digest = format!("@{digest}");
    assert_eq!(sent_to(&by_digest).name, name(&registry, &by_digest));
    assert_eq!(sent_to(":3.0").name, name(&registry, ":3.0"));
    let tags = registry.with(|state| state.manifests.keys().cloned().collect::<Vec<_>>());
    assert_eq!(
        tags.iter()
            .filter(|tag| !tag.starts_with("sha256:"))
            .count(),
        2
    );
}

#[test]
fn who_is_not_known_is_told_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let (place, digest) = layout(dir.path(), &[noise(10, 1)], None);
    let registry = Registry::start(State {
        bearer: Some(BASIC.to_owned()),
        ..State::default()
    });
    let none = of(dir.path().join("none.json"));
    let refused = why(sent(&registry, &place, &none));
    assert_eq!(refused.code, "registry-denied");
    assert!(refused.helps[0].contains("podman login"), "{refused:?}");
    assert!(refused.notes.iter().any(|note| note.contains("none.json")));
    assert_eq!(
        why(pulled(&registry, &none, &digest)).code,
        "registry-denied"
    );
    // With anonymous tokens nobody needs to be known.
    registry.with(|state| state.bearer = Some(String::new()));
    sent(&registry, &place, &none).expect("pushed");
}

#[test]
fn tokens_that_run_out_are_renewed() {
    let dir = tempfile::tempdir().expect("a directory");
    let layers: Vec<Vec<u8>> = (0..6).map(|seed| noise(4000, seed)).collect();
    let (place, digest) = layout(dir.path(), &layers, None);
    let registry = Registry::start(State {
        bearer: Some(BASIC.to_owned()),
        token_lasts: Some(5),
        ..State::default()
    });
    let auth = auth(dir.path(), &registry);
    sent(&registry, &place, &auth).expect("pushed");
    pulled(&registry, &auth, &digest).expect("pulled");
    assert!(registry.count("GET /token") > 3);
}

#[test]
fn broken_uploads_go_on_where_they_stood() {
    let dir = tempfile::tempdir().expect("a directory");
    let (place, _) = layout(dir.path(), &[noise(30 << 20, 1)], None);
    let registry = Registry::start(State {
        cut: 2,
        ..State::default()
    });
    let none = Access::default();
    sent(&registry, &place, &none).expect("pushed");
    // One upload for the layer, one for the configuration, none begun anew.
    assert_eq!(registry.count("POST /v2/os/web/blobs/uploads/"), 2);
    let there = registry.with(|state| state.blobs.values().map(Vec::len).max());
    assert_eq!(there, Some(30 << 20));
}

#[test]
fn forgotten_uploads_begin_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    let (place, _) = layout(dir.path(), &[noise(20 << 20, 1)], None);
    let registry = Registry::start(State {
        forget: true,
        ..State::default()
    });
    sent(&registry, &place, &Access::default()).expect("pushed");
    assert!(registry.count("POST /v2/os/web/blobs/uploads/") >= 3);
}

#[test]
fn an_upload_that_never_ends_is_given_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let (place, _) = layout(dir.path(), &[noise(2, 1)], None);
    let registry = Registry::start(State {
        cut: usize::MAX,
        ..State::default()
    });
    let problem = why(sent(&registry, &place, &Access::default()));
    assert_eq!(problem.code, "registry-failed");
    assert_eq!(registry.count("PUT /v2/os/web/manifests"), 0);
}

#[test]
fn a_registry_that_lies_is_found_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let (place, digest) = layout(dir.path(), &[noise(5000, 1)], None);
    let registry = Registry::start(State {
        lie: true,
        ..State::default()
    });
    let none = Access::default();
    let problem = why(sent(&registry, &place, &none));
    assert_eq!(problem.code, "registry-failed");
    assert!(problem.message.contains("another manifest"), "{problem:?}");
    // Another manifest under the digest, then another blob.
    registry.with(|state| {
        let (kind, bytes) = state.manifests[&digest].clone();
        let other = [&bytes[..], b"\n"].concat();
        state.manifests.insert(digest.clone(), (kind, other));
    });
    let problem = why(pulled(&registry, &none, &digest));
    assert_eq!(problem.code, "oci-bad-image");
    registry.with(|state| {
        let (kind, bytes) = state.manifests[&digest].clone();
        let whole = bytes[..bytes.len() - 1].to_vec();
        state.manifests.insert(digest.clone(), (kind, whole));
        for bytes in state.blobs.values_mut() {
            bytes[0] ^= 1;
        }
    });
    let problem = why(pulled(&registry, &none, &digest));
    assert_eq!(problem.code, "oci-bad-image");
    assert!(problem.message.contains("sent other bytes"), "{problem:?}");
    // What it should have been, and what it is; the digest is right wherever it came from.
    assert!(problem.notes[1].contains("what it sent is sha256:"));
    assert!(problem.helps[0].contains("another registry"), "{problem:?}");
    assert!(problem.hashes.is_empty());
}

#[test]
fn layers_of_the_image_below_are_taken_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let registry = Registry::start(State {
        mountable: ["os/base".to_owned()].into(),
        ..State::default()
    });
    let base = format!("{}/os/base:1", registry.host);
    let (place, _) = layout(dir.path(), &[noise(5000, 1)], Some(&base));
    let done = sent(&registry, &place, &Access::default()).expect("pushed");
    assert_eq!((done.mounted, done.sent), (2, 1));
    assert_eq!(registry.count("PATCH"), 0);
}

#[test]
fn another_host_never_learns_who_asks() {
    let dir = tempfile::tempdir().expect("a directory");
    let (place, digest) = layout(dir.path(), &[noise(5000, 1)], None);
    let registry = Registry::start(State {
        bearer: Some(BASIC.to_owned()),
        ..State::default()
    });
    let auth = auth(dir.path(), &registry);
    sent(&registry, &place, &auth).expect("pushed");
    let blobs = registry.with(|state| state.blobs.clone());
    let other = Registry::start(State {
        blobs,
        ..State::default()
    });
    registry.with(|state| state.redirect = Some(format!("{}/v2/x/blobs", other.host)));
    pulled(&registry, &auth, &digest).expect("pulled");
    assert_eq!(other.count("GET /v2/x/blobs/"), 2);
    assert!(other.with(|state| state.seen.iter().all(|(_, who)| who.is_none())));
    assert!(registry.with(|state| state.seen.iter().any(|(_, who)| who.is_some())));
}

#[test]
fn offline_nothing_is_asked() {
    let dir = tempfile::tempdir().expect("a directory");
    let (place, _) = layout(dir.path(), &[noise(10, 1)], None);
    let registry = Registry::start(State::default());
    let fetcher = Fetcher::new(Mirrors::default(), true);
    let result = push(&fetcher, &Access::default(), &place, &to(&registry), &[]);
    assert_eq!(why(result).code, "fetch-offline");
    assert_eq!(registry.count(""), 0);
}

#[test]
fn what_a_name_leads_to() {
    let dir = tempfile::tempdir().expect("a directory");
    let (place, digest) = layout(dir.path(), &[noise(10, 1)], None);
    let registry = Registry::start(State {
        bearer: Some(BASIC.to_owned()),
        ..State::default()
    });
    let auth = auth(dir.path(), &registry);
    let ask = |name: &str| {
        let name = format!("{}/os/web{name}", registry.host);
        let found = resolve(&fetcher(), &auth, &Reference::parse(&name).expect("a name"));
        found.map(|found| format!("sha256:{}", found.digest))
    };
    sent(&registry, &place, &auth).expect("pushed");
    assert_eq!(ask(":1.0").expect("known"), digest);
    assert_eq!(ask(&format!("@{digest}")).expect("known"), digest);
    let problem = ask("").expect_err("there is no `latest`");
    assert_eq!(problem.code, "registry-failed");
    assert_eq!(registry.count("GET /v2/os/web/manifests/latest"), 2);
    // Other bytes than the name says, and bytes that are no image.
    registry.with(|state| {
        let manifest = state.manifests["1.0"].clone();
        state
            .manifests
            .insert("1.0".to_owned(), ("x".to_owned(), b"{}".to_vec()));
        let other = [&manifest.1[..], b"\n"].concat();
        state.manifests.insert(digest.clone(), (manifest.0, other));
    });
    for name in [":1.0", &format!("@{digest}")] {
        assert_eq!(ask(name).expect_err("unsound").code, "oci-bad-image");
    }
}

#[test]
fn what_is_about_an_image_is_listed() {
    let dir = tempfile::tempdir().expect("a directory");
    let subject = "5".repeat(64);
    let tag = format!("sha256-{subject}");
    let about = |name: &str| {
        let dir = dir.path().join(name);
        fs::create_dir(&dir).expect("a directory");
        layout_with(&dir, &[name.as_bytes().to_vec()], |manifest| {
            manifest["subject"] = serde_json::json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": format!("sha256:{subject}"), "size": 7,
            });
            if name == "bill" {
                manifest["artifactType"] = "application/x.bill".into();
                manifest["annotations"] = serde_json::json!({ "of": name });
            }
        })
    };
    let none = Access::default();
    let (bill, bill_digest) = about("bill");
    let (note, note_digest) = about("note");
    let registry = Registry::start(State::default());
    let list = || {
        let (kind, bytes) = registry.with(|state| state.manifests[&tag].clone());
        assert_eq!(kind, "application/vnd.oci.image.index.v1+json");
        serde_json::from_slice::<serde_json::Value>(&bytes).expect("JSON")
    };
    sent(&registry, &bill, &none).expect("pushed");
    assert_eq!(list()["manifests"][0]["digest"], bill_digest.as_str());
    assert_eq!(list()["manifests"][0]["artifactType"], "application/x.bill");
    assert_eq!(list()["manifests"][0]["annotations"]["of"], "bill");
    // What others wrote into the list stays.
    registry.with(|state| {
        let (_, bytes) = state.manifests.get_mut(&tag).expect("the list");
        let mut value: serde_json::Value = serde_json::from_slice(bytes).expect("JSON");
        value["annotations"] = serde_json::json!({ "kept": "yes" });
        *bytes = value.to_string().into_bytes();
    });
    sent(&registry, &note, &none).expect("pushed");
    let found = list();
    assert_eq!(found["annotations"]["kept"], "yes");
    let all = found["manifests"].as_array().expect("a list");
    let digests: Vec<_> = all.iter().map(|one| one["digest"].clone()).collect();
    assert_eq!(digests, [bill_digest.as_str(), note_digest.as_str()]);
    // Without a type of its own it is what its configuration is.
    assert_eq!(
        found["manifests"][1]["artifactType"],
        "application/vnd.oci.image.config.v1+json"
    );
    // A push that is cut short after the manifest is made good by the next one; a whole one writes nothing.
    registry.with(|state| state.manifests.remove(&tag));
    sent(&registry, &note, &none).expect("pushed");
    assert_eq!(list()["manifests"][0]["digest"], note_digest.as_str());
    let before = registry.count("PUT");
    sent(&registry, &note, &none).expect("pushed");
    assert_eq!(registry.count("PUT"), before);
    // Something else has the tag.
    registry.with(|state| {
        state.manifests.clear();
        state
            .manifests
            .insert(tag.clone(), ("x".to_owned(), b"{}".to_vec()));
    });
    let problem = why(sent(&registry, &note, &none));
    assert!(problem.message.contains("is no list"), "{problem:?}");

    // A registry that keeps the lists itself needs no tag.
    let registry = Registry::start(State {
        referrers: true,
        ..State::default()
    });
    sent(&registry, &bill, &none).expect("pushed");
    assert!(registry.with(|state| !state.manifests.contains_key(&tag)));
}
