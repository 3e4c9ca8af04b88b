//! Images by the distribution API: skopeo and podman pull them.

use std::process::Command;

use serde_json::Value;

use super::Serving;
use crate::support::steps::ROOTFS;
use crate::support::{World, is_root, left_to_root, peer, run};

const RECIPE: &str = r##"{ sos, ... }: let
  edit = import ./rootfs.nix "rootfs-edit";
  tree = text: edit { name = "tree"; files = [ { path = "/etc/motd"; content = text; } ]; };
  image = name: tag: text: sos.oci { inherit name tag; rootfs = tree text; epoch = 1700000000; config.entrypoint = [ "/x" ]; };
in {
  web = image "Web" "v1" "one";
  next = image "Web" "v2" "two";
  again = image "Web" "v1" "three";
  files = tree "one";
}
"##;

fn world() -> World {
    let w = World::new();
    w.write("sos.nix", RECIPE);
    w.write("rootfs.nix", ROOTFS);
    w
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn skopeo_and_podman_pull_images() {
    let w = world();
    let serving = Serving::start(&w, &[".#web", "team/next=.#next"]);
    let built = w.sos(["build", "--no-link", ".#web"]).ok().stdout;
    let layout = w.physical(built.trim());
    let index = std::fs::read_to_string(layout.join("index.json")).expect("an index");
    let digest = json(&index)["manifests"][0]["digest"].clone();
    let digest = digest.as_str().expect("a digest");
    if let Some(skopeo) = peer("skopeo") {
        for (from, to) in [
            ("web:v1".to_owned(), "by-tag"),
            (format!("web@{digest}"), "by-digest"),
            ("team/next:v2".to_owned(), "other"),
        ] {
            let out = w.root().join(to);
            let mut command = Command::new(&skopeo);
            command.args(["--insecure-policy", "copy", "--src-tls-verify=false"]);
            command.arg(format!("docker://{}/{from}", serving.host()));
            command.arg(format!("oci:{}:x", out.display()));
            run(command.env("HOME", w.root().join("home"))).ok();
        }
        for entry in std::fs::read_dir(layout.join("blobs/sha256")).expect("blobs") {
            let entry = entry.expect("a blob");
            let copy = w.root().join("by-tag/blobs/sha256").join(entry.file_name());
            let copy = std::fs::read(copy).expect("a blob");
            assert!(copy == std::fs::read(entry.path()).expect("a blob"));
        }
        let mut command = Command::new(&skopeo);
        command.args(["inspect", "--tls-verify=false"]);
        command.arg(format!("docker://{}/web", serving.host()).replace("/web", "/web:v1"));
        let told = run(command.env("HOME", w.root().join("home"))).ok().stdout;
        assert_eq!(json(&told)["Digest"], digest, "{told}");
        assert_eq!(json(&told)["RepoTags"], serde_json::json!(["v1"]), "{told}");
    }
    let Some(podman) = peer("podman") else { return };
    if !is_root() {
        left_to_root("podman needs a set-up of its own");
        return;
    }
    let scratch = w.root().join("podman");
    let place = |name: &str| scratch.join(name).display().to_string();
    let mut command = Command::new(podman);
    command.args(["--storage-driver", "vfs", "--root", &place("root")]);
    command.args(["--runroot", &place("runroot"), "--tmpdir", &place("tmp")]);
    command.args(["pull", "--quiet", "--tls-verify=false"]);
    command.arg(format!("{}/web:v1", serving.host()));
    let pulled = run(command.env("TMPDIR", w.root())).ok().stdout;
    let manifest = serving
        .get(&format!("/v2/web/manifests/{digest}"), &[])
        .is(200);
    let config = json(&manifest.text())["config"]["digest"].clone();
    assert_eq!(
        format!("sha256:{}", pulled.trim()),
        config.as_str().expect("a digest")
    );
}

#[test]
fn answers_are_those_of_the_specification() {
    let w = world();
    let serving = Serving::start(&w, &[".#web", "web=.#next"]);
    let get = |path: &str| serving.get(path, &[]);
    assert_eq!(get("/v2/").is(200).text(), "{}");
    get("/v2").is(200);
    let tags = get("/v2/web/tags/list").is(200).text();
    assert_eq!(
        json(&tags),
        serde_json::json!({ "name": "web", "tags": ["v1", "v2"] })
    );
    let first = get("/v2/web/tags/list?n=1").is(200);
    assert_eq!(json(&first.text())["tags"], serde_json::json!(["v1"]));
    let next = "</v2/web/tags/list?n=1&last=v1>; rel=\"next\"";
    assert_eq!(first.header("link"), Some(next));
    let last = get("/v2/web/tags/list?n=1&last=v1").is(200);
    assert_eq!(json(&last.text())["tags"], serde_json::json!(["v2"]));
    assert_eq!(last.header("link"), None);
    let names = get("/v2/_catalog").is(200).text();
    assert_eq!(json(&names)["repositories"], serde_json::json!(["web"]));
    let by_tag = get("/v2/web/manifests/v1").is(200);
    let digest = by_tag
        .header("docker-content-digest")
        .expect("a digest")
        .to_owned();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    assert_eq!(by_tag.header("content-type"), Some(kind));
    assert_eq!(by_tag.header("cache-control"), Some("no-cache"));
    let head = serving
        .ask("HEAD", &format!("/v2/web/manifests/{digest}"), &[])
        .is(200);
    assert!(head.body.is_empty() && head.head.contains("immutable"));
    assert_eq!(
        head.header("content-length"),
        by_tag.header("content-length")
    );
    let layer = json(&by_tag.text())["layers"][0].clone();
    let blob = format!(
        "/v2/web/blobs/{}",
        layer["digest"].as_str().expect("a digest")
    );
    let whole = get(&blob).is(200);
    assert_eq!(
        whole.body.len() as u64,
        layer["size"].as_u64().expect("a size")
    );
    assert_eq!(
        whole.header("docker-content-digest"),
        layer["digest"].as_str()
    );
    let part = serving.get(&blob, &["Range: bytes=5-9"]).is(206);
    assert_eq!(part.body, whole.body[5..10]);
    let tag = whole.header("etag").expect("a tag");
    serving
        .get(&blob, &[&format!("If-None-Match: {tag}")])
        .is(304);
    let about = get(&format!("/v2/web/referrers/{digest}")).is(200);
    assert_eq!(json(&about.text())["manifests"], serde_json::json!([]));
    let nothing = format!("sha256:{}", "0".repeat(64));
    for (path, status, code) in [
        ("/v2/other/manifests/v1".to_owned(), 404, "NAME_UNKNOWN"),
        ("/v2/Web/manifests/v1".to_owned(), 400, "NAME_INVALID"),
        ("/v2/web/manifests/v3".to_owned(), 404, "MANIFEST_UNKNOWN"),
        (
            format!("/v2/web/manifests/{nothing}"),
            404,
            "MANIFEST_UNKNOWN",
        ),
        (
            "/v2/web/manifests/sha256:0".to_owned(),
            400,
            "DIGEST_INVALID",
        ),
        (format!("/v2/web/blobs/{nothing}"), 404, "BLOB_UNKNOWN"),
        ("/v2/web/blobs/..".to_owned(), 400, "DIGEST_INVALID"),
        ("/v2/web/referrers/x".to_owned(), 400, "DIGEST_INVALID"),
        ("/v2/web/x/y".to_owned(), 404, "UNSUPPORTED"),
    ] {
        let reply = get(&path).is(status);
        assert_eq!(json(&reply.text())["errors"][0]["code"], code, "{path}");
        assert_eq!(reply.header("content-type"), Some("application/json"));
    }
    let page = get("/").is(200).text();
    assert!(page.contains("web:v1") && page.contains(&digest), "{page}");
    let push = serving
        .ask("POST", "/v2/web/blobs/uploads/", &["Content-Length: 0"])
        .is(405);
    assert_eq!(json(&push.text())["errors"][0]["code"], "UNSUPPORTED");
}

#[test]
fn names_that_cannot_be_are_refused_before_anything_is_served() {
    let w = world();
    let serve = |args: &[&str]| {
        let all = [&["serve", "--listen", "127.0.0.1:0"], args].concat();
        w.sos(all)
    };
    serve(&[".#web", ".#again"]).fails(2).says(&[
        "error[serve-name-taken]",
        "two images would be `web:v1`",
        "NAME=TARGET",
    ]);
    serve(&["Team/web=.#web"])
        .fails(2)
        .says(&["error[serve-bad-name]", "`Team/web`"]);
    serve(&["team/web=.#files"]).fails(2).says(&[
        "error[serve-name-unused]",
        "`.#files` is no image",
        "`team/web`",
    ]);
}
