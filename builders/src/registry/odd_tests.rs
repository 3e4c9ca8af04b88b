//! Registries and images that are not as they should be: what is refused, and with which words.

use serde_json::{Value, json};
use sos_formats::diagnostic::Diagnostic;
use sos_formats::hash::Sha256;

use super::access::{Access, PlainHttp};
use super::reference::Reference;
use super::resolve::resolve;
use super::test_registry::{Registry, State};
use super::tests::{fetcher, layout, layout_with, noise, pulled, sent, to, why};
use crate::fetch::{Download as _, Fetcher};
use crate::mirrors::Mirrors;

/// A registry with an image, whose manifest has another member or two.
fn with_image(change: impl FnOnce(&mut Value)) -> (Registry, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let (place, digest) = layout(dir.path(), &[noise(3000, 1)], None);
    let registry = Registry::start(State::default());
    sent(&registry, &place, &Access::default()).expect("pushed");
    // What nobody would send is put there.
    let digest = registry.with(|state| {
        let (kind, bytes) = state.manifests[&digest].clone();
        let mut manifest: Value = serde_json::from_slice(&bytes).expect("JSON");
        change(&mut manifest);
        put(state, &kind, &manifest)
    });
    (registry, digest)
}

fn put(state: &mut State, kind: &str, document: &Value) -> String {
    let bytes = document.to_string().into_bytes();
    let digest = format!("sha256:{}", Sha256::of(&bytes));
    let entry = (kind.to_owned(), bytes);
    state.manifests.insert(digest.clone(), entry);
    digest
}

fn refused(registry: &Registry, digest: &str) -> Diagnostic {
    why(pulled(registry, &Access::default(), digest))
}

fn says(problem: &Diagnostic, code: &str, parts: &[&str]) {
    assert_eq!(problem.code, code, "{problem:?}");
    let all = [
        vec![problem.message.clone()],
        problem.notes.clone(),
        problem.helps.clone(),
    ];
    let text = all.concat().join("\n");
    for part in parts {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    assert!(!problem.helps.is_empty(), "{text}");
    // Neither is there a list of addresses, nor was something sent.
    assert!(!text.contains("`urls`") && !text.contains("what was sent"));
    assert!(!text.contains("if you trust"), "{text}");
}

#[test]
fn sizes_are_those_of_the_manifest() {
    let (registry, digest) = with_image(|_| ());
    pulled(&registry, &Access::default(), &digest).expect("as it is");
    let blobs = registry.with(|state| state.blobs.clone());
    assert_eq!(blobs.len(), 2, "a layer and a configuration");
    for (name, bytes) in blobs {
        for (change, unmeasured) in [(-1, false), (-1, true), (1, false), (1, true)] {
            let size = bytes.len().checked_add_signed(change).expect("small");
            registry.with(|state| {
                let mut other = bytes.clone();
                other.resize(size, 0);
                state.blobs.insert(name.clone(), other);
                state.unmeasured = unmeasured;
            });
            let whole = bytes.len();
            let what = match (change, unmeasured) {
                (1, true) => format!("more than the {whole} bytes that its manifest says"),
                _ => format!("sent {size} bytes, where its manifest says {whole}"),
            };
            let parts = [&what, name.as_str(), "another registry"];
            says(&refused(&registry, &digest), "oci-bad-image", &parts);
        }
        registry.with(|state| state.blobs.insert(name, bytes));
    }
}

#[test]
fn a_blob_has_one_size_and_no_absurd_one() {
    let twice = |size: u64| {
        with_image(move |manifest| {
            let mut again = manifest["layers"][0].clone();
            again["size"] = size.into();
            let layers = manifest["layers"].as_array_mut().expect("a list");
            layers.push(again);
        })
    };
    let (registry, digest) = twice(3000);
    pulled(&registry, &Access::default(), &digest).expect("one blob twice");
    let (registry, digest) = twice(2999);
    let problem = refused(&registry, &digest);
    says(
        &problem,
        "oci-bad-image",
        &["has 2999 bytes, and it has 3000"],
    );
    let (registry, digest) = twice(u64::MAX);
    let problem = refused(&registry, &digest);
    says(
        &problem,
        "oci-bad-image",
        &[&u64::MAX.to_string(), "64 GiB"],
    );
    let (registry, digest) = with_image(|manifest| manifest["config"]["size"] = json!(-1));
    let problem = refused(&registry, &digest);
    says(
        &problem,
        "oci-bad-image",
        &["expected a whole number of bytes"],
    );
    let (registry, digest) =
        with_image(|manifest| manifest["layers"][0]["digest"] = json!("md5:0"));
    let problem = refused(&registry, &digest);
    says(
        &problem,
        "oci-bad-image",
        &["`md5:0`", "only `sha256:` and 64 digits"],
    );
}

#[test]
fn an_index_says_what_it_has_and_is_held_to_it() {
    let (registry, digest) = with_image(|_| ());
    let size = registry.with(|state| state.manifests[&digest].1.len());
    let index = |manifests: Value| {
        let kind = "application/vnd.oci.image.index.v1+json";
        let document = json!({ "schemaVersion": 2, "mediaType": kind, "manifests": manifests });
        registry.with(|state| put(state, kind, &document))
    };
    let entry = |arch: &str, size: usize| {
        json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size,
            "platform": { "architecture": arch, "os": "linux" },
        })
    };
    let good = index(json!([entry("amd64", size)]));
    pulled(&registry, &Access::default(), &good).expect("an image");
    for wrong in [size - 1, size + 1] {
        let bad = index(json!([entry("amd64", wrong)]));
        let what = format!("{digest} has {wrong} bytes, and it has {size}");
        says(&refused(&registry, &bad), "oci-bad-image", &[&what]);
    }
    let empty = index(json!([]));
    let what = format!("its index {empty} names no image: its `manifests` is empty");
    says(&refused(&registry, &empty), "oci-bad-image", &[&what]);
    let other = index(json!([entry("arm64", size)]));
    let problem = refused(&registry, &other);
    says(
        &problem,
        "oci-arch",
        &[
            "no image for linux/amd64; it has linux/arm64",
            "write `arch = \"arm64\"`, which is \"amd64\" where it is left out; or name an image for amd64",
        ],
    );
    let mut deep = good;
    for _ in 0..4 {
        let mut above = entry("amd64", 0);
        above["size"] = registry.with(|state| state.manifests[&deep].1.len()).into();
        above["digest"] = deep.into();
        deep = index(json!([above]));
    }
    says(
        &refused(&registry, &deep),
        "oci-bad-image",
        &["more than 4 deep"],
    );
}

#[test]
fn a_registry_that_is_ill_is_told_from_a_push() {
    let (registry, digest) = with_image(|_| ());
    for (what, status, help) in [
        ("GET /v2/os/web/manifests", 500, "or name another registry"),
        ("GET /v2/os/web/manifests", 404, "correct `ref` or `digest`"),
        ("GET /v2/os/web/manifests", 400, "correct the host"),
        ("GET /v2/os/web/blobs", 500, "or name another registry"),
        ("GET /v2/os/web/blobs", 404, "not all of its blobs"),
    ] {
        registry.with(|state| state.answers = Some((what, status)));
        let answered = format!("it answered {status}");
        let parts = ["did not give", &answered, help];
        says(&refused(&registry, &digest), "registry-failed", &parts);
    }
    registry.with(|state| state.answers = Some(("GET /v2/os/web/blobs", 403)));
    // Asked in another way, it may have said who may: it did not.
    let problem = refused(&registry, &digest);
    says(
        &problem,
        "registry-failed",
        &["it answered 403", "podman login"],
    );
    let problem = resolve(&fetcher(), &Access::default(), &to(&registry));
    registry.with(|state| state.answers = Some(("GET", 500)));
    assert!(problem.is_ok(), "{problem:?}");
    let problem = resolve(&fetcher(), &Access::default(), &to(&registry)).expect_err("ill");
    says(&problem, "registry-failed", &["did not tell", "later"]);
    // With a push it is true.
    let dir = tempfile::tempdir().expect("a directory");
    let (place, _) = layout_with(dir.path(), &[noise(10, 7)], |_| ());
    registry.with(|state| state.answers = Some(("PUT", 500)));
    let problem = why(sent(&registry, &place, &Access::default()));
    assert!(problem.helps[0].contains("blobs that arrived whole are not sent again"));
    // One that takes nothing from anybody.
    registry.with(|state| state.answers = Some(("POST", 405)));
    let problem = why(sent(&registry, &place, &Access::default()));
    let parts = ["it answered 405", "this registry takes no images at all"];
    says(&problem, "registry-failed", &parts);
}

#[test]
fn what_is_no_registry_at_all() {
    let (registry, digest) = with_image(|_| ());
    let answer = |bytes: &[u8]| {
        let entry = ("text/html".to_owned(), bytes.to_vec());
        registry.with(|state| {
            state.manifests.insert(digest.clone(), entry.clone());
            state.manifests.insert("1.0".to_owned(), entry);
        });
        let found = resolve(&fetcher(), &Access::default(), &to(&registry));
        (*found.expect_err("none"), refused(&registry, &digest))
    };
    let (pinned, pulled) = answer(b"<!doctype html><p>log in");
    for problem in [pinned, pulled] {
        says(
            &problem,
            "registry-failed",
            &["with a web page", "correct the host"],
        );
    }
    let (pinned, pulled) = answer(b"[");
    says(&pinned, "oci-bad-image", &["cannot be read as JSON"]);
    says(&pulled, "oci-bad-image", &["sent other bytes"]);
    let before = registry.count("GET");
    let (pinned, pulled) = answer(&vec![b'x'; (4 << 20) + 1]);
    for problem in [pinned, pulled] {
        says(
            &problem,
            "registry-failed",
            &["what it sent is larger than the limit"],
        );
    }
    // It would not be smaller another time.
    assert_eq!(registry.count("GET"), before + 2);
}

#[test]
fn nobody_is_led_into_clear_text() {
    let (registry, digest) = with_image(|_| ());
    // Nothing is asked there: that this is no server of ours shows in the answer.
    let elsewhere = Some("192.0.2.7:8080".to_owned());
    let parts = [
        "it sends on to `http://192.0.2.7:8080`, which is clear text",
        "whoever runs the registry should make that https",
        "plain-http = [\"192.0.2.7:8080\"]",
        "SOS_PLAIN_HTTP_REGISTRIES=192.0.2.7:8080",
    ];
    registry.with(|state| state.redirect.clone_from(&elsewhere));
    says(&refused(&registry, &digest), "registry-failed", &parts);
    let asked = registry.count("");
    registry.with(|state| (state.redirect, state.moved) = (None, elsewhere));
    says(&refused(&registry, &digest), "registry-failed", &parts);
    // Waiting would not help.
    assert_eq!(registry.count(""), asked + 1);
}

#[test]
fn what_is_pinned_says_whether_it_can_be_used() {
    let pinned = |change: &dyn Fn(&mut Value)| {
        let (registry, digest) = with_image(change);
        let name = format!("{}/os/web@{digest}", registry.host);
        let name = Reference::parse(&name).expect("a name");
        resolve(&fetcher(), &Access::default(), &name)
    };
    let doubt = |change: &dyn Fn(&mut Value)| pinned(change).expect("it can be pulled").doubt;
    assert_eq!(doubt(&|_| ()), None);
    for (place, kind, says) in [
        (
            "layer",
            "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
            "can be pulled, and no root filesystem can be made of it: its layer sha256:",
        ),
        (
            "layer",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "can only be pulled where the registry has all of it: its layer sha256:",
        ),
        (
            "config",
            "application/vnd.oci.empty.v1+json",
            "is perhaps no image: its configuration sha256:",
        ),
    ] {
        let told = doubt(&|manifest| match place {
            "layer" => manifest["layers"][0]["mediaType"] = kind.into(),
            _ => manifest["config"]["mediaType"] = kind.into(),
        });
        let told = told.expect(kind);
        assert!(told.starts_with(says) && told.contains(kind), "{told}");
    }
    assert_eq!(
        doubt(&|manifest| manifest["config"]["mediaType"] =
            "application/vnd.docker.container.image.v1+json".into()),
        None
    );
    // What no registry could give is not pinned.
    let refused = pinned(&|manifest| {
        manifest["layers"][0]["digest"] = format!("sha512:{}", "0".repeat(128)).into();
    });
    let refused = refused.expect_err("no such digest");
    says(
        &refused,
        "oci-bad-image",
        &["cannot be pinned", "only `sha256:` and 64 digits"],
    );
}

#[test]
fn plain_http_is_spoken_with_whom_it_is_allowed() {
    let (registry, digest) = with_image(|_| ());
    // This machine under a name that does not say so.
    let host = registry.host.replace("127.0.0.1", "0.0.0.0");
    let name = Reference::parse(&format!("{host}/os/web@{digest}")).expect("a name");
    let before = registry.count("");
    let problem = resolve(&fetcher(), &Access::default(), &name).expect_err("https");
    let setting = format!("plain-http = [\"{host}\"]");
    let variable = format!("SOS_PLAIN_HTTP_REGISTRIES={host}");
    let parts = ["it speaks http, not https", &setting, &variable];
    says(&problem, "registry-failed", &parts);
    let allowed = Access {
        plain_http: PlainHttp::new(&[&host]).expect("a host"),
        ..Access::default()
    };
    let found = resolve(&fetcher(), &allowed, &name).expect("allowed");
    assert_eq!(format!("sha256:{}", found.digest), digest);
    // One more than the first bytes of TLS, which are no request.
    assert!(registry.count("GET /v2/os/web/manifests") > 0 && registry.count("") > before);
    // Only under the name that was allowed, and not what it sends to.
    registry.with(|state| state.moved = Some("192.0.2.7".to_owned()));
    let problem = resolve(&fetcher(), &allowed, &name).expect_err("elsewhere");
    says(&problem, "registry-failed", &["`http://192.0.2.7`"]);
    // Other downloads say it, too.
    let url = format!("https://{}/x", registry.host);
    let fetcher = Fetcher::new(Mirrors::default(), false);
    let problem = fetcher.bytes(&[url], 10, None).expect_err("https");
    assert!(
        problem.message.ends_with("it speaks http, not https"),
        "{problem:?}"
    );
    assert!(
        problem.helps[0].contains("`http://` in place of"),
        "{problem:?}"
    );
}
