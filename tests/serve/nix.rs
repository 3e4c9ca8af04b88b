//! The binary cache: real Nix and sos take from it, and an independent checker finds nothing.

use std::path::Path;
use std::process::Command;

use super::Serving;
use crate::support::{Run, World, peer, run, shared, world_with_busybox};

/// Three outputs: `top` refers to `dep` and to itself, `one` is a single executable file.
pub(super) const RECIPE: &str = r#"let
  made = name: script: more: derivation ({
    inherit name; system = "x86_64-linux"; builder = "/bin/busybox"; args = [ "sh" "-c" script ];
  } // more);
in rec {
  dep = made "dep" "/bin/busybox mkdir -p $out/lib; echo dep > $out/lib/x; /bin/busybox seq 100000 > $out/lib/numbers" { };
  top = made "top" "/bin/busybox mkdir $out; echo ${dep} $out > $out/refs; /bin/busybox ln -s ${dep}/lib $out/lib; /bin/busybox mkdir $out/empty" { };
  ca = made "ca" "/bin/busybox mkdir $out; echo ${dep} > $out/x" {
    __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";
  };
  one = made "one-1.0+x" "echo hi > $out; /bin/busybox chmod +x $out" { };
}
"#;

/// What Nix 2.8 does only when it is told to.
const FEATURES: &str = "nix-command ca-derivations";

fn world() -> Option<(World, [String; 3])> {
    let w = world_with_busybox()?;
    w.write("f.nix", RECIPE);
    let mut paths = ["dep", "top", "one"].map(|attr| {
        let built = w.sos(["build", "--no-link", &format!("f.nix#{attr}")]).ok();
        built.stdout.trim().to_owned()
    });
    paths.sort_by_key(|path| path.contains("-one"));
    Some((w, paths))
}

/// Nix with a home of its own, in which nothing is cached.
pub(super) fn nix(w: &World, program: &str, home: &str, args: &[&str]) -> Option<Run> {
    let home = w.root().join(home);
    std::fs::create_dir_all(&home).expect("a directory");
    let mut command = Command::new(peer(program)?);
    command
        .args(["--extra-experimental-features", FEATURES])
        .args(["--option", "build-users-group", ""])
        .args(args)
        .env("HOME", &home)
        .env("NIX_STATE_DIR", home.join("state"))
        .env_remove("NIX_REMOTE")
        .env_remove("XDG_CACHE_HOME");
    Some(run(&mut command))
}

/// A pair of keys; the file of the secret one, and the public one.
pub(super) fn keys(w: &World, name: &str) -> Option<(String, String)> {
    let place = |end: &str| w.root().join(format!("{name}.{end}")).display().to_string();
    let (secret, public) = (place("secret"), place("public"));
    let args = ["--generate-binary-cache-key", name, &secret, &public];
    nix(w, "nix-store", "keys", &args)?.ok();
    let text = std::fs::read_to_string(&public).expect("a key");
    Some((secret, text.trim().to_owned()))
}

/// The archives of a path as real Nix writes them are the same in both stores.
#[track_caller]
pub(super) fn same(w: &World, at: &Path, path: &str) {
    let dump = |place: &Path| {
        let out = Command::new("nix-store").arg("--dump").arg(place).output();
        out.expect("nix-store runs").stdout
    };
    let theirs = dump(&at.join(path.trim_start_matches('/')));
    assert!(theirs.len() > 100, "{path} was not copied");
    assert_eq!(theirs, dump(&w.physical(path)), "{path}");
}

#[test]
fn nix_copies_what_a_trusted_key_signed() {
    let Some((w, [dep, top, one])) = world() else {
        return;
    };
    let Some((secret, public)) = keys(&w, "test-1") else {
        return;
    };
    for compression in ["none", "zstd", "xz"] {
        let serving = Serving::start(&w, &["--key", &secret, "--compression", compression]);
        let at = w.root().join(format!("nix-{compression}"));
        let store = at.display().to_string();
        let args = ["copy", "--from", &serving.url, "--to", &store, &top, &one];
        let trust = ["--option", "trusted-public-keys", &public];
        let home = format!("home-{compression}");
        nix(&w, "nix", &home, &[&args[..], &trust].concat())
            .expect("as nix-store is")
            .ok();
        for path in [&dep, &top, &one] {
            same(&w, &at, path);
        }
        checked(&serving, &[&top, &one], &["--closure", "--key", &public]);
    }
}

/// The independent checker finds nothing.
#[track_caller]
fn checked(serving: &Serving, paths: &[&str], more: &[&str]) {
    let (Some(python), Some(checker)) = (peer("python3"), shared("checks/narinfo_check.py")) else {
        return;
    };
    let mut command = Command::new(python);
    command
        .arg(checker)
        .arg(&serving.url)
        .args(paths)
        .args(more);
    let told = run(&mut command).ok();
    assert!(!told.stdout.contains("FAIL"), "{}", told.stdout);
}

#[test]
fn nix_realises_from_it_as_a_substituter_and_refuses_other_keys() {
    let Some((w, [dep, top, _])) = world() else {
        return;
    };
    let Some((secret, public)) = keys(&w, "test-1") else {
        return;
    };
    let (_, other) = keys(&w, "other-1").expect("as before");
    let serving = Serving::start(&w, &["--key", &secret]);
    let realise = |home: &str, key: &str| {
        let at = w.root().join(home).join("store").display().to_string();
        let args = ["-r", &top, "--store", &at];
        let from = ["--option", "substituters", &serving.url];
        let trust = ["--option", "trusted-public-keys", key];
        nix(&w, "nix-store", home, &[&args[..], &from, &trust].concat()).expect("as before")
    };
    let refused = realise("refused", &other);
    assert_ne!(refused.code, 0, "{refused:?}");
    realise("realised", &public).ok();
    for path in [&dep, &top] {
        same(&w, &w.root().join("realised/store"), path);
    }
    // Without a key nothing is signed, and Nix takes nothing.
    drop(serving);
    let serving = Serving::start(&w, &[]);
    let at = w.root().join("unsigned").display().to_string();
    let args = ["copy", "--from", &serving.url, "--to", &at, &top];
    let unsigned = nix(&w, "nix", "unsigned-home", &args).expect("as before");
    assert_ne!(unsigned.code, 0, "{unsigned:?}");
    let args = [&args[..], &["--no-check-sigs"]].concat();
    nix(&w, "nix", "unsigned-home", &args)
        .expect("as before")
        .ok();
    same(&w, Path::new(&at), &top);
}

#[test]
fn sos_compares_itself_with_it() {
    let Some((w, _)) = world() else {
        return;
    };
    let Some((secret, public)) = keys(&w, "test-1") else {
        return;
    };
    let serving = Serving::start(&w, &["--key", &secret]);
    let url = serving.url.clone();
    let args = [
        "verify",
        "f.nix#top",
        "--against",
        &url,
        "--trusted-key",
        &public,
    ];
    let told = w.sos(args).ok();
    assert_eq!(told.stdout, format!("top^out: equal at {url}\n"));
    let (_, other) = keys(&w, "other-1").expect("as before");
    let args = [
        "verify",
        "f.nix#top",
        "--against",
        &url,
        "--trusted-key",
        &other,
    ];
    w.sos(args).fails(5).says(&["trust-unsigned", "test-1"]);
}

#[test]
fn what_only_a_build_can_name_is_named() {
    let Some((w, _)) = world() else {
        return;
    };
    let Some((secret, public)) = keys(&w, "test-1") else {
        return;
    };
    let built = w.sos(["build", "--no-link", "f.nix#ca"]).ok().stdout;
    let serving = Serving::start(&w, &["f.nix#ca", "--key", &secret]);
    let at = w.root().join("taken").display().to_string();
    let file = w.project().join("f.nix").display().to_string();
    // No job may run, so what comes was not built.
    let args = [
        "--store",
        &at,
        "--no-out-link",
        "--max-jobs",
        "0",
        "-A",
        "ca",
        &file,
    ];
    let from = ["--option", "substituters", &serving.url];
    let trust = ["--option", "trusted-public-keys", &public];
    let args = [&args[..], &from, &trust].concat();
    let taken = nix(&w, "nix-build", "taken-home", &args)
        .expect("as before")
        .ok();
    assert_eq!(taken.stdout, built);
    same(&w, Path::new(&at), built.trim());
    let args = ["verify", "f.nix#ca", "--against", &serving.url];
    let told = w.sos(args).ok().stdout;
    assert_eq!(told, format!("ca^out: equal at {}\n", serving.url));
    serving.get("/realisations/sha256:0!out.doi", &[]).is(404);
}

#[test]
fn records_and_archives_are_cached_and_resumed_as_they_may() {
    let Some((w, [dep, ..])) = world() else {
        return;
    };
    let serving = Serving::start(&w, &["--compression", "none"]);
    let about = serving.get("/nix-cache-info", &[]).is(200);
    assert_eq!(
        about.text(),
        "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n"
    );
    let hash = &dep["/nix/store/".len()..][..32];
    let record = serving.get(&format!("/{hash}.narinfo"), &[]).is(200);
    assert_eq!(record.header("content-type"), Some("text/x-nix-narinfo"));
    let tag = record.header("etag").expect("a tag").to_owned();
    let again = format!("If-None-Match: {tag}");
    let unchanged = serving.get(&format!("/{hash}.narinfo"), &[&again]).is(304);
    assert!(unchanged.body.is_empty());
    for absent in [
        "/00000000000000000000000000000000.narinfo",
        "/0.narinfo",
        "/eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee.narinfo",
        "/nar/x.nar",
        "/nar/",
    ] {
        serving.get(absent, &[]).is(404);
    }
    let text = record.text();
    let url = text.lines().find_map(|line| line.strip_prefix("URL: "));
    let url = format!("/{}", url.expect("an address"));
    let whole = serving.get(&url, &[]).is(200);
    let size = format!("NarSize: {}\n", whole.body.len());
    assert!(text.contains(&size), "{text}");
    assert!(
        whole
            .header("cache-control")
            .is_some_and(|c| c.contains("immutable"))
    );
    let head = serving.ask("HEAD", &url, &[]).is(200);
    assert!(head.body.is_empty());
    assert_eq!(
        head.header("content-length"),
        whole.header("content-length")
    );
    let rest = serving.get(&url, &["Range: bytes=300000-"]).is(206);
    assert_eq!(rest.body, whole.body[300_000..]);
    let part = serving.get(&url, &["Range: bytes=96-4095"]).is(206);
    assert_eq!(part.body, whole.body[96..4096]);
    let range = format!("bytes 96-4095/{}", whole.body.len());
    assert_eq!(part.header("content-range"), Some(range.as_str()));
    serving.get(&url, &["Range: bytes=999999999-"]).is(416);
    // The hash of another archive is not that of this one.
    let (start, _) = url.rsplit_once('-').expect("two hashes");
    let other = format!("{start}-{}.nar", "0".repeat(52));
    serving.get(&other, &[]).is(404);
}
