//! Outputs that are named by their content: the same names as real Nix gives them, and nothing is built after equal ones.

use super::builds::{recipe, world_with_busybox};
use crate::support::{World, peer};

/// A tree that holds its own name.
const OWN: &str = "BB mkdir $out; echo $out > $out/self; BB ln -s $out/self $out/l";

/// Every kind of output, by name: how it is hashed, and a script with `BB` for busybox.
const KINDS: [(&str, &str, &str, &str); 20] = [
    (
        "tree",
        "recursive",
        "sha256",
        "BB mkdir -p $out/a/b; echo hi > $out/a/b/f; echo x > $out/x; BB chmod +x $out/x; BB ln -s a/b/f $out/l; BB mkdir $out/empty",
    ),
    ("file", "recursive", "sha256", "echo hi > $out"),
    (
        "program",
        "recursive",
        "sha256",
        "echo hi > $out; BB chmod +x $out",
    ),
    ("link", "recursive", "sha256", "BB ln -s /nowhere $out"),
    ("dir", "recursive", "sha256", "BB mkdir $out"),
    (
        "own",
        "recursive",
        "sha256",
        "BB mkdir $out; echo $out > $out/self; BB ln -s $out/self $out/l; BB printf %s aa$out/bb$out > $out/two",
    ),
    ("ownfile", "recursive", "sha256", "echo $out > $out"),
    ("ownlink", "recursive", "sha256", "BB ln -s $out/x $out"),
    (
        "ownname",
        "recursive",
        "sha256",
        "BB mkdir $out; echo > $out/$(BB basename $out)",
    ),
    ("flat", "flat", "sha256", "echo hi > $out"),
    ("flat1", "flat", "sha1", "echo hi > $out"),
    ("flat512", "flat", "sha512", "echo hi > $out"),
    (
        "recmd5",
        "recursive",
        "md5",
        "BB mkdir $out; echo hi > $out/a",
    ),
    (
        "rec1",
        "recursive",
        "sha1",
        "BB mkdir $out; echo hi > $out/a",
    ),
    (
        "rec512",
        "recursive",
        "sha512",
        "BB mkdir $out; echo hi > $out/a",
    ),
    ("own1", "recursive", "sha1", OWN),
    ("ownmd5", "recursive", "md5", OWN),
    ("own512", "recursive", "sha512", OWN),
    ("ownflat", "flat", "sha256", "echo $out > $out"),
    ("ownflat1", "flat", "sha1", "echo $out > $out"),
];

fn addressed(name: &str, mode: &str, algo: &str, script: &str, more: &str) -> String {
    let more = format!(
        "__contentAddressed = true; outputHashMode = \"{mode}\"; outputHashAlgo = \"{algo}\"; {more}"
    );
    recipe(name, &script.replace("BB", "/bin/busybox"), &more)
}

/// All kinds, and what refers to them.
fn all_kinds() -> String {
    let mut text = "rec {\n".to_owned();
    for (name, mode, algo, script) in KINDS {
        let one = addressed(name, mode, algo, script, "");
        text.push_str(&format!("{name} = {one};\n"));
    }
    let plain = |name: &str, script: &str, more: &str| {
        let one = addressed(name, "recursive", "sha256", script, more);
        format!("{name} = {one};\n")
    };
    text.push_str(&plain(
        "multi",
        "BB mkdir $out $lib $dev; echo $lib > $out/l; echo $out $lib > $dev/d; echo $lib > $lib/self; echo $dev > $dev/self",
        "outputs = [ \"out\" \"lib\" \"dev\" ];",
    ));
    text.push_str(&plain(
        "user",
        "echo ${own}/self ${multi.dev} ${file} > $out; echo ${program} >> $out",
        "",
    ));
    text.push_str(&plain(
        "far",
        "BB mkdir $out; BB ln -s ${user} $out/u; BB ln -s $out/u $out/v; echo ${link} > $out/z",
        "",
    ));
    text.push_str(&format!(
        "deferred = {};\n}}",
        recipe("deferred", "echo ${far} $out > $out", "")
    ));
    text
}

#[test]
fn every_kind_of_output_has_the_name_that_nix_gives_it() {
    let (Some(w), Some(nix), Some(busybox)) =
        (world_with_busybox(), peer("nix-build"), peer("busybox"))
    else {
        return;
    };
    w.write("f.nix", &all_kinds());
    let more = ["multi", "multi.lib", "multi.dev", "user", "far", "deferred"];
    let names = KINDS.iter().map(|kind| kind.0).chain(more);
    let mut nix = std::process::Command::new(nix);
    nix.args(["--extra-experimental-features", "ca-derivations"])
        .args([
            "--store",
            w.root().join("nix-store").to_str().expect("text"),
        ])
        .args(["--no-out-link", "--option", "sandbox", "true"])
        .args(["--option", "build-users-group", ""])
        .args(["--option", "substituters", ""])
        .args(["--option", "sandbox-paths"])
        .arg(format!("/bin/busybox={}", busybox.display()))
        .arg(w.project().join("f.nix"))
        .env("HOME", w.root().join("home"));
    let mut sos = vec!["build".to_owned(), "--no-link".to_owned()];
    for name in names {
        nix.args(["-A", name]);
        sos.push(format!("f.nix#{name}"));
    }
    let theirs = nix.output().expect("nix-build runs");
    assert!(
        theirs.status.success(),
        "{}",
        String::from_utf8_lossy(&theirs.stderr)
    );
    let ours = w.sos(&sos).ok();
    assert_eq!(ours.stdout, String::from_utf8_lossy(&theirs.stdout));
    w.sos(["store", "check"]).ok();
}

/// The names of what a run built.
fn built(w: &World, target: &str) -> Vec<String> {
    let events = w.events(&[target]).0;
    let started = events.iter().filter(|e| e["type"] == "build.started");
    started
        .map(|e| e["name"].as_str().expect("a name").to_owned())
        .collect()
}

#[test]
fn nothing_is_built_after_an_equal_output_of_any_kind() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    for (name, mode, algo, script) in KINDS {
        let write = |version: &str| {
            let input = addressed(name, mode, algo, &format!(": {version}; {script}"), "");
            let user = addressed("user", "recursive", "sha256", "echo ${input} > $out", "");
            let top = recipe("top", "echo ${user} > $out", "");
            w.write(
                "f.nix",
                &format!("let input = {input}; user = {user}; in {top}"),
            );
        };
        write("one");
        assert_eq!(built(&w, "f.nix"), [name, "user", "top"]);
        write("two");
        assert_eq!(built(&w, "f.nix"), [name], "the output is the same");
    }
}

#[test]
fn a_second_result_is_told_and_kept() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let script = "/bin/busybox head -c 20 /dev/urandom > $out; echo $out > $doc";
    let more = "outputs = [ \"out\" \"doc\" ]; __contentAddressed = true; outputHashMode = \"recursive\"; outputHashAlgo = \"sha256\";";
    w.write("f.nix", &recipe("odd", script, more));
    // Both results are kept; of the first one output is lost.
    let first = w.sos(["build", "f.nix^out", "-o", "first"]).ok();
    w.sos(["gc"]).ok();
    let doc = w.sos(["build", "f.nix^doc", "-o", "second"]).ok();
    assert!(
        doc.stderr.contains("build-not-reproducible"),
        "{}",
        doc.stderr
    );
    let info = w.sos(["store", "info", first.stdout.trim()]).ok().stdout;
    assert!(info.contains("other result"), "{info}");
    assert!(
        info.contains("the same derivation gave something else"),
        "{info}"
    );
}

#[test]
fn other_content_for_a_path_that_is_there_is_told() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let script = "/bin/busybox head -c 20 /dev/urandom > $out; echo x > $doc";
    w.write(
        "f.nix",
        &recipe("odd", script, "outputs = [ \"out\" \"doc\" ];"),
    );
    let first = w.sos(["build", "f.nix^out", "-o", "first"]).ok().stdout;
    let before = w.sos(["store", "cat", "first"]).ok().stdout;
    w.sos(["gc"]).ok();
    let again = w.sos(["build", "f.nix^doc", "-o", "second"]).ok();
    let told = again.stderr.contains("in the store with other content");
    assert!(
        told && again.stderr.contains(first.trim()),
        "{}",
        again.stderr
    );
    assert_eq!(w.sos(["store", "cat", "first"]).ok().stdout, before);
}
