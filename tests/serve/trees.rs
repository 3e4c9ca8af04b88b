//! Trees that are addressed by what their files hold, which no other program does: real Nix takes them all the same, and sos knows them
//! by their names.

use std::path::Path;

use super::Serving;
use super::nix::{keys, nix, same};
use super::substitute::{client, counts, warnings};
use crate::support::{World, world_with_busybox};

/// A tree that refers to another one.
const RECIPE: &str = r#"let
  made = name: script: more: derivation ({
    inherit name; system = "x86_64-linux"; builder = "/bin/busybox"; args = [ "sh" "-c" script ];
  } // more);
  tree = { __contentAddressed = true; outputHashMode = "tree"; outputHashAlgo = "blake3"; };
in rec {
  dep = made "dep" "/bin/busybox mkdir -p $out/lib; /bin/busybox seq 100000 > $out/lib/numbers" tree;
  top = made "top" "/bin/busybox mkdir -p $out/bin; echo ${dep} > $out/refs; /bin/busybox ln -s ../refs $out/bin/x" tree;
  own = made "own" "/bin/busybox mkdir $out; echo $out > $out/x" tree;
  one = made "one" "echo one > $out" tree;
}
"#;

fn world() -> Option<(World, String, (String, String))> {
    let w = world_with_busybox()?;
    w.write("f.nix", RECIPE);
    let keys = keys(&w, "test-1")?;
    let top = w.sos(["build", "--no-link", "f.nix#top"]).ok().stdout;
    Some((w, top.trim().to_owned(), keys))
}

fn record(serving: &Serving, path: &str) -> String {
    let hash = &path["/nix/store/".len()..][..32];
    let record = serving.get(&format!("/{hash}.narinfo"), &[]).is(200);
    record.text()
}

#[test]
fn nix_takes_a_tree_that_a_trusted_key_signed() {
    let Some((w, top, (secret, public))) = world() else {
        return;
    };
    let serving = Serving::start(&w, &["--key", &secret]);
    // It would refuse a record with an address of a kind that it does not know.
    let record = record(&serving, &top);
    assert!(record.contains("\nSosCA: fixed:tree:blake3:"), "{record}");
    assert!(!record.contains("\nCA: "), "{record}");
    let at = w.root().join("nix").display().to_string();
    let args = ["copy", "--from", &serving.url, "--to", &at, &top];
    let trust = ["--option", "trusted-public-keys", &public];
    nix(&w, "nix", "home-nix", &[&args[..], &trust].concat())
        .expect("as nix-store is")
        .ok();
    same(&w, Path::new(&at), &top);
}

#[test]
fn another_sos_takes_a_tree_and_finds_it_whole() {
    let Some((w, top, (secret, public))) = world() else {
        return;
    };
    let serving = Serving::start(&w, &["f.nix#top", "--key", &secret]);
    let c = client(&serving.url, &public);
    c.write("f.nix", RECIPE);
    let events = c.events(&["f.nix#top"]);
    assert_eq!(counts(&events), (0, 1), "{events:?}");
    assert_eq!(warnings(&events), [""; 0]);
    assert_eq!(events.output(), top);
    c.sos(["store", "check"]).ok();
    let args = ["verify", "f.nix#top", "--against", &serving.url];
    let told = w
        .sos([&args[..], &["--trusted-key", &public]].concat())
        .ok();
    assert_eq!(told.stdout, format!("top^out: equal at {}\n", serving.url));
    let told = w.sos(["verify", "f.nix#top"]).ok().stdout;
    assert!(told.contains("equal"), "{told}");
}

#[test]
fn a_damaged_tree_is_found_and_not_described() {
    let Some((w, top, _)) = world() else {
        return;
    };
    let place = w.physical(&top);
    let writable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&place, writable).expect("the right");
    std::fs::write(place.join("more"), "x").expect("a file");
    let told = w.sos(["store", "check"]).fails(1);
    told.says(&["-top", "its id is"]);
    // The hash of its archive is taken when somebody asks for it, and would be that of something else.
    let serving = Serving::start(&w, &[]);
    let hash = &top["/nix/store/".len()..][..32];
    serving.get(&format!("/{hash}.narinfo"), &[]).is(500);
}

#[test]
fn a_tree_is_a_directory_or_a_file_without_its_own_name() {
    let Some((w, ..)) = world() else {
        return;
    };
    w.sos(["build", "--no-link", "f.nix#own"])
        .fails(100)
        .says(&["output `out` holds its own path", "outputHashMode"]);
    let one = w.sos(["build", "--no-link", "f.nix#one"]).ok().stdout;
    let text = std::fs::read_to_string(w.physical(one.trim())).expect("a file");
    assert_eq!(text, "one\n");
    w.sos(["store", "check"]).ok();
}

#[test]
fn nix_and_another_sos_take_a_file_that_is_a_tree() {
    let Some((w, _, (secret, public))) = world() else {
        return;
    };
    let one = w.sos(["build", "--no-link", "f.nix#one"]).ok().stdout;
    let one = one.trim();
    let serving = Serving::start(&w, &["f.nix#one", "--key", &secret]);
    let at = w.root().join("nix").display().to_string();
    let args = ["copy", "--from", &serving.url, "--to", &at, one];
    let trust = ["--option", "trusted-public-keys", &public];
    nix(&w, "nix", "home-nix", &[&args[..], &trust].concat())
        .expect("as nix-store is")
        .ok();
    same(&w, Path::new(&at), one);
    let c = client(&serving.url, &public);
    c.write("f.nix", RECIPE);
    let events = c.events(&["f.nix#one"]);
    assert_eq!(counts(&events), (0, 1), "{events:?}");
    assert_eq!(events.output(), one);
    c.sos(["store", "check"]).ok();
    let file = w.physical(one);
    let writable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&file, writable).expect("the right");
    std::fs::write(&file, "won\n").expect("a file");
    w.sos(["store", "check"])
        .fails(1)
        .says(&["-one", "its id is"]);
}
