//! `sos build` takes from binary caches what it need not build: from `sos serve`, and from a cache that real Nix made. Lies and
//! silence cost a warning.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Serving;
use super::nix::{RECIPE, keys, nix};
use crate::support::server::Server;
use crate::support::{Events, World, peer, world_with_busybox};

/// A world of its own with the same recipe, that asks `url` and believes `key`.
pub(super) fn client(url: &str, key: &str) -> World {
    let w = world_with_busybox().expect("it was there before");
    w.write("f.nix", RECIPE);
    let config = w.root().join("home/.config/sos/config.toml");
    let text = std::fs::read_to_string(&config).expect("a configuration");
    let text = format!("substituters = [\"{url}\"]\ntrusted-keys = \"{key}\"\n{text}");
    std::fs::write(&config, text).expect("a configuration");
    w
}

/// Built and fetched.
pub(super) fn counts(events: &Events) -> (u64, u64) {
    let summary = events.summary();
    let count = |name: &str| summary[name].as_u64().expect("a number");
    (count("built"), count("fetched"))
}

/// Codes of the warnings, in order; nothing else may be told.
pub(super) fn warnings(events: &Events) -> Vec<String> {
    let told = events.0.iter().filter(|e| e["type"] == "diagnostic");
    told.map(|event| {
        let diagnostic = &event["diagnostic"];
        assert_eq!(diagnostic["severity"], "warning", "{diagnostic}");
        diagnostic["code"].as_str().expect("a code").to_owned()
    })
    .collect()
}

/// The mirrors that did not have what was built, by name.
fn missed(events: &Events) -> Vec<(String, Vec<Value>)> {
    let started = events.0.iter().filter(|e| e["type"] == "build.started");
    started
        .filter_map(|event| {
            let also = event["cause"]["also"].as_array()?;
            let miss = also.iter().find(|cause| cause["kind"] == "mirror-miss")?;
            let name = event["name"].as_str()?.to_owned();
            Some((name, miss["urls"].as_array()?.clone()))
        })
        .collect()
}

/// Makes what `attr` of the recipe is with real Nix, and a cache of it; returns the cache.
fn cache_of_nix(w: &World, attr: &str, secret: Option<&str>) -> PathBuf {
    let busybox = peer("busybox").expect("it was there before");
    let place = |name: &str| w.root().join(name).display().to_string();
    let (at, cache) = (place("nix-store"), place("cache"));
    let file = w.project().join("f.nix").display().to_string();
    let shown = format!("/bin/busybox={}", busybox.display());
    let args = ["--store", &at, "--no-out-link", "-A", attr, &file];
    let more = ["--option", "sandbox-paths", &shown];
    let none = ["--option", "substituters", ""];
    let built = nix(
        w,
        "nix-build",
        "home-nix",
        &[&args[..], &more, &none].concat(),
    )
    .expect("Nix is there")
    .ok();
    let mut to = format!("file://{cache}");
    if let Some(secret) = secret {
        to.push_str(&format!("?secret-key={secret}"));
    }
    let path = built.stdout.trim().to_owned();
    let args = ["copy", "--store", &at, "--to", &to, &path];
    nix(w, "nix", "home-nix", &args).expect("Nix is there").ok();
    PathBuf::from(cache)
}

/// The one file below `dir` whose name ends so.
fn only(dir: &Path, end: &str) -> PathBuf {
    let all = std::fs::read_dir(dir).expect("a directory");
    let mut all = all.map(|entry| entry.expect("an entry").path());
    let found = all.find(|path| path.to_string_lossy().ends_with(end));
    found.expect("such a file")
}

#[test]
fn what_another_sos_serves_is_not_built() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("f.nix", RECIPE);
    let Some((secret, public)) = keys(&w, "test-1") else {
        return;
    };
    let mut paths = Vec::new();
    for attr in ["top", "ca"] {
        let built = w.sos(["build", "--no-link", &format!("f.nix#{attr}")]).ok();
        paths.push(built.stdout.trim().to_owned());
    }
    let serving = Serving::start(&w, &["f.nix#top", "f.nix#ca", "--key", &secret]);
    let c = client(&serving.url, &public);
    let plan = c.sos(["build", "-n", "f.nix#top"]).ok().stdout;
    assert!(plan.contains("2 to build"), "{plan}");
    let events = c.events(&["f.nix#top", "f.nix#ca"]);
    assert_eq!(counts(&events), (0, 2), "{events:?}");
    assert!(warnings(&events).is_empty());
    assert_eq!(events.names("fetch.finished"), ["ca", "top"]);
    for path in &paths {
        let dump = |w: &World| {
            let place = w.physical(path);
            let text = std::fs::read_to_string(place.join(if path.ends_with("-ca") {
                "x"
            } else {
                "refs"
            }));
            text.expect("a file")
        };
        assert_eq!(dump(&c), dump(&w));
    }
    // What it refers to came along, and all is what it was.
    c.sos(["store", "check"]).ok();
    let why = c.sos(["why", "top"]).ok().stdout;
    assert!(why.starts_with("top was fetched in build 1 "), "{why}");
    // Everything is there: the mirror is gone, and nobody misses it.
    drop(serving);
    let again = c.sos(["build", "--no-link", "f.nix#top"]).ok();
    assert_eq!(again.stdout.trim(), paths[0]);
    assert!(!again.stderr.contains("warning"), "{}", again.stderr);
    // What is changed is compared with what came.
    c.write("f.nix", &RECIPE.replace("echo dep >", "echo other >"));
    let events = c.events(&["f.nix#dep", "--no-substitute"]);
    assert_eq!(counts(&events), (1, 0));
    let started = events.0.iter().find(|e| e["type"] == "build.started");
    let kind = &started.expect("a build")["cause"]["kind"];
    assert_eq!(kind, "never-built", "only `top` and `ca` are known by name");
}

#[test]
fn what_real_nix_has_put_in_a_cache_is_taken_when_its_key_is_trusted() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("f.nix", RECIPE);
    let Some((secret, public)) = keys(&w, "nix-1") else {
        return;
    };
    let (_, other) = keys(&w, "other-1").expect("as before");
    let cache = cache_of_nix(&w, "top", Some(&secret));
    let server = Server::start(&cache);
    let c = client(&server.url(), &public);
    let events = c.events(&["f.nix#top"]);
    assert_eq!(counts(&events), (0, 1), "{events:?}");
    assert!(warnings(&events).is_empty());
    let asked = server.asked();
    assert!(asked.contains(&"/nix-cache-info".to_owned()), "{asked:?}");
    c.sos(["store", "check"]).ok();
    let there = c.physical(&events.output());
    let refs = std::fs::read_to_string(there.join("refs")).expect("a file");
    assert!(refs.contains("-dep") && refs.contains("-top"), "{refs}");
    // A no-op asks nobody.
    assert_eq!(counts(&c.events(&["f.nix#top"])), (0, 0));
    assert_eq!(server.asked(), asked);
    // Another key: refused and built, and told once.
    let c = client(&server.url(), &other);
    let events = c.events(&["f.nix#top"]);
    assert_eq!(counts(&events), (2, 0), "{events:?}");
    assert_eq!(warnings(&events), ["trust-unsigned"]);
    // Nobody is asked.
    let before = server.asked().len();
    let c = client(&server.url(), &public);
    assert_eq!(counts(&c.events(&["f.nix#top", "--no-substitute"])), (2, 0));
    assert_eq!(counts(&c.events(&["f.nix#one", "--offline"])), (1, 0));
    assert_eq!(server.asked().len(), before);
    // It does not have this one: built, and noted so.
    let c = client(&server.url(), &public);
    let events = c.events(&["f.nix#one"]);
    assert_eq!(counts(&events), (1, 0));
    let url = Value::from(server.url());
    assert_eq!(missed(&events), [("one-1.0+x".to_owned(), vec![url])]);
    let why = c.sos(["why", "one-1.0+x"]).ok().stdout;
    let note = format!("\n  {} did not have it\n", server.url());
    assert!(why.ends_with(&note), "{why}");
    // Its archive is another one: of `top` the rest is taken, and it is built.
    let narinfo = only(&cache, ".narinfo");
    let text = std::fs::read_to_string(&narinfo).expect("a record");
    let archive = text.lines().find_map(|line| line.strip_prefix("URL: "));
    let archive = cache.join(archive.expect("an address"));
    let mut bytes = std::fs::read(&archive).expect("an archive");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&archive, &bytes).expect("an archive");
    let c = client(&server.url(), &public);
    let events = c.events(&["f.nix#top"]);
    let (built, fetched) = counts(&events);
    assert!(built >= 1 && built + fetched == 2, "{events:?}");
    let told = warnings(&events);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("mirror-"), "{told:?}");
    c.sos(["store", "check"]).ok();
    // It fails for good.
    server.break_down();
    let c = client(&server.url(), &public);
    let events = c.events(&["f.nix#top"]);
    assert_eq!(counts(&events), (2, 0));
    assert_eq!(warnings(&events), ["mirror-no-answer"]);
    assert!(missed(&events).is_empty());
}

/// What only its inputs name is asked for when they are there: the mirror has it, and does not say what `ca` is.
#[test]
fn what_inputs_name_is_taken_once_they_are_built() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let after = r#"after = made "after" "read l < ${ca}/x; echo $l > $out" { };
  one ="#;
    let recipe = RECIPE.replacen("one =", after, 1);
    w.write("f.nix", &recipe);
    let Some((secret, public)) = keys(&w, "test-1") else {
        return;
    };
    let built = w.sos(["build", "--no-link", "f.nix#after"]).ok().stdout;
    let serving = Serving::start(&w, &["--key", &secret]);
    let c = client(&serving.url, &public);
    c.write("f.nix", &recipe);
    let events = c.events(&["f.nix#after"]);
    assert_eq!(counts(&events), (1, 2), "{events:?}");
    assert_eq!(events.output(), built.trim());
    assert_eq!(events.names("build.started"), ["ca"]);
    assert_eq!(events.names("fetch.finished"), ["after", "dep"]);
    let url = Value::from(serving.url.clone());
    assert_eq!(missed(&events), [("ca".to_owned(), vec![url])]);
    assert!(warnings(&events).is_empty());
    let text = std::fs::read_to_string(c.physical(built.trim()));
    assert!(text.expect("a file").contains("-dep"));
}

#[test]
fn what_is_named_by_its_content_needs_no_signature() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let text = r#"rec {
  fixed = derivation {
    name = "fixed"; system = "x86_64-linux"; builder = "/bin/busybox"; args = [ "sh" "-c" "echo hi > $out" ];
    outputHashMode = "recursive"; outputHashAlgo = "sha256"; outputHash = "HASH";
  };
}"#;
    let hash = "sha256-nH3Ep9zoT6cLMnRd6HEXkZ6bXqXcvEyYm5tF7VqOAJ4=";
    w.write("f.nix", &text.replace("HASH", hash));
    if keys(&w, "unused-1").is_none() {
        return;
    }
    // The right hash stands in the message.
    let told = w.sos(["build", "--no-link", "f.nix#fixed"]).fails(102);
    let found = told
        .stderr
        .split_whitespace()
        .find(|word| word.starts_with("sha256-") && *word != hash)
        .expect("the hash that was found")
        .to_owned();
    let recipe = text.replace("HASH", &found);
    w.write("f.nix", &recipe);
    let cache = cache_of_nix(&w, "fixed", None);
    let server = Server::start(&cache);
    let fresh = || {
        let c = client(
            &server.url(),
            "none-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        );
        c.write("f.nix", &recipe);
        c
    };
    let c = fresh();
    let events = c.events(&["f.nix#fixed"]);
    assert_eq!(counts(&events), (0, 1), "{events:?}");
    assert!(warnings(&events).is_empty());
    // Another content, well described: only its name gives it away.
    let narinfo = only(&cache, ".narinfo");
    let record = std::fs::read_to_string(&narinfo).expect("a record");
    let lie = w.root().join("lie");
    std::fs::write(&lie, "ho\n").expect("a file");
    let dump = std::process::Command::new("nix-store")
        .arg("--dump")
        .arg(&lie)
        .output()
        .expect("nix-store runs");
    std::fs::write(cache.join("nar/lie.nar"), &dump.stdout).expect("an archive");
    let digest = sos_formats::hash::Sha256::of(&dump.stdout);
    let digest = sos_formats::hash::Hash::from(digest).to_nix32();
    let record: String = record
        .lines()
        .filter(|line| !line.starts_with("File"))
        .map(|line| match line.split_once(": ") {
            Some(("URL", _)) => "URL: nar/lie.nar\n".to_owned(),
            Some(("Compression", _)) => "Compression: none\n".to_owned(),
            Some(("NarHash", _)) => format!("NarHash: sha256:{digest}\n"),
            Some(("NarSize", _)) => format!("NarSize: {}\n", dump.stdout.len()),
            _ => format!("{line}\n"),
        })
        .collect();
    std::fs::write(&narinfo, &record).expect("a record");
    let c = fresh();
    let events = c.events(&["f.nix#fixed"]);
    let summary = events.summary();
    assert_eq!(summary["exit_code"], 0, "{events:?}");
    assert_eq!(warnings(&events), ["mirror-wrong-archive"]);
    let there = std::fs::read_to_string(c.physical(&events.output()));
    assert_eq!(there.expect("a file"), "hi\n");
    // A project may not say whom to believe.
    c.write("sos.toml", "trusted-keys = [\"x-1:AAAA\"]\n");
    c.sos(["build", "--no-link", "f.nix#fixed"])
        .fails(2)
        .says(&["`trusted-keys`, which a project may not decide"]);
}

#[test]
fn an_address_without_a_cache_is_told_and_no_more() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let server = Server::start(&w.project());
    let key = "none-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let c = client(&server.url(), key);
    let events = c.events(&["f.nix#one"]);
    assert_eq!(counts(&events), (1, 0));
    assert_eq!(warnings(&events), ["mirror-none"]);
    assert_eq!(server.asked(), ["/nix-cache-info"]);
    let examined = c.sos(["doctor"]).stdout;
    assert!(examined.contains("has no `nix-cache-info`"), "{examined}");
    w.write("nix-cache-info", "StoreDir: /other/store\n");
    let c = client(&server.url(), key);
    let events = c.events(&["f.nix#one"]);
    assert_eq!(counts(&events), (1, 0));
    assert_eq!(warnings(&events), ["mirror-other-store"]);
}
