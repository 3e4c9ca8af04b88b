//! Files from outside: what upstream's own clients take from `sos serve`, and archives that are made of git repositories.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use super::small::recipe;
use super::{upstream, write_tree};
use crate::serve::Serving;
use crate::support::{World, peer, process, run, skip};

/// Nobody listens there.
const NOWHERE: &str = "http://127.0.0.1:9";

#[track_caller]
fn digest(path: &Path) -> String {
    let out = run(Command::new("sha256sum").arg(path)).ok().stdout;
    out.split(' ').next().expect("a digest").to_owned()
}

/// Two files that a store has, with their digests.
fn kept(w: &World) -> [(&'static str, String); 2] {
    let files = [
        ("one-1.0.tar", "1".repeat(300_000)),
        ("two.txt", "2\n".to_owned()),
    ];
    files.map(|(name, text)| {
        let path = w.write(name, &text);
        w.sos(["store", "add", "--flat", name]).ok();
        (name, digest(&path))
    })
}

/// Writes a tree with one step that has these sources.
fn one_step(w: &World, sources: &str) {
    write_tree(
        w,
        &[
            ("steps/manifest", "build: a\n"),
            ("steps/bootstrap.cfg", "ARCH=amd64\n"),
            ("steps/env", ""),
            ("steps/helpers.sh", ""),
            ("steps/a/sources", sources),
            ("steps/a/pass1.sh", ""),
        ],
    );
}

#[test]
fn scripts_of_upstream_take_what_is_served() {
    let Some(tree) = upstream() else { return };
    if peer("curl").is_none() {
        return;
    }
    let w = World::new();
    let files = kept(&w);
    let serving = Serving::start(&w, &[]);
    let sources = |base: &str| -> String {
        let lines = files
            .iter()
            .map(|(name, sum)| format!("f {base}/{name} {sum}\n"));
        lines.collect()
    };
    let same = |dir: &Path| {
        for (name, sum) in &files {
            assert_eq!(&digest(&dir.join(name)), sum, "{name}");
        }
    };
    // The mirror script goes to the addresses themselves, and on where it stopped.
    w.write("m/steps/a/sources", &sources(&serving.url));
    w.write("m/dest/one-1.0.tar", &"1".repeat(1000));
    run(Command::new("sh")
        .arg(tree.join("mirror.sh"))
        .args(["dest", "state"])
        .current_dir(w.project().join("m")))
    .ok();
    same(&w.project().join("m/dest"));
    // The others ask the mirror first.
    w.write("d/steps/manifest", "build: a\n");
    w.write("d/steps/a/sources", &sources(NOWHERE));
    let script = w.project().join("d/download-distfiles.sh");
    fs::copy(tree.join("download-distfiles.sh"), &script).expect("a script");
    run(Command::new("bash").arg(&script).arg(&serving.url)).ok();
    same(&w.project().join("d/distfiles"));
}

/// Names that no store path can have, and pairs that would be one there.
const ODD: [&str; 9] = [
    "lib+c++-1.0~rc1.tar.gz",
    "x~1.tar",
    "x-1.tar",
    "x=7e=1.tar",
    "x%7E2.tar",
    "100%.tar",
    "q.tar?a=b&c=%2B",
    ".hidden,(1)",
    "\u{e9}\u{4e16}.txt",
];

#[test]
fn a_file_is_served_under_the_name_that_sources_have() {
    let Some(recipe) = recipe() else { return };
    let Some(curl) = peer("curl") else { return };
    let mut w = World::new();
    let mirror = w.root().join("mirror");
    fs::create_dir(&mirror).expect("a directory");
    let files = ODD.map(|name| {
        let path = mirror.join(name);
        fs::write(&path, format!("this is {name}\n")).expect("a file");
        (name, digest(&path))
    });
    w.set(
        "SOS_MIRRORS_DISTFILES",
        &format!("file://{}", mirror.display()),
    );
    let sources: String = files
        .iter()
        .map(|(name, sum)| format!("f {NOWHERE}/z {sum} {name}\n"))
        .collect();
    one_step(&w, &sources);
    w.write("sos.nix", &recipe);
    let command = w
        .command()
        .args(["serve", "--listen", "127.0.0.1:0", ".#distfiles"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn();
    let mut child = command.expect("a server");
    let mut said = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(child.stdout.take().expect("a pipe")),
        &mut said,
    )
    .expect("its address");
    let url = said.trim().trim_end_matches('/').to_owned();
    let got = |address: &str| {
        let out = Command::new(&curl)
            .args(["-sf", "--globoff", "--path-as-is", address])
            .output();
        String::from_utf8_lossy(&out.expect("curl").stdout).into_owned()
    };
    for (name, _) in &files {
        let text = format!("this is {name}\n");
        let all: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
        assert_eq!(got(&format!("{url}/{all}")), text, "{name}, encoded");
        assert_eq!(got(&format!("{url}/{name}")), text, "{name}, as it is");
    }
    // Two names that are not there, and would be the names of paths.
    for absent in ["lib+c++-1.0-rc1.tar.gz", "x=7e=2.tar"] {
        assert_eq!(got(&format!("{url}/{absent}")), "", "{absent}");
    }
    // Upstream's script writes names as they are.
    if let Some(tree) = upstream() {
        w.write("d/steps/manifest", "build: a\n");
        w.write("d/steps/a/sources", &sources);
        let script = w.project().join("d/download-distfiles.sh");
        fs::copy(tree.join("download-distfiles.sh"), &script).expect("a script");
        run(Command::new("bash").arg(&script).arg(&url)).ok();
        for (name, sum) in &files {
            let there = w.project().join("d/distfiles").join(name);
            assert_eq!(&digest(&there), sum, "{name}");
        }
    }
    // Another store takes all of them from there.
    let mut other = World::new();
    other.set("SOS_MIRRORS_DISTFILES", &url);
    run(Command::new("cp")
        .arg("-a")
        .arg(w.project().join("tree"))
        .arg(w.project().join("sos.nix"))
        .arg(other.project()))
    .ok();
    let built = other.sos(["build", "--no-link", ".#distfiles"]).ok().stdout;
    assert_eq!(built.lines().count(), ODD.len(), "{built}");
    process::signal(&child, Signal::INT);
    let said = child.wait_with_output().expect("its end");
    let said = String::from_utf8_lossy(&said.stderr);
    for (name, sum) in &files {
        let line = said.lines().find(|line| {
            let address = line.split_whitespace().last().unwrap_or_default();
            line.starts_with("file") && got_name(address) == *name
        });
        assert!(line.is_some(), "{name} {sum}: {said}");
    }
}

/// The name at the end of an address.
fn got_name(address: &str) -> String {
    let last = address.rsplit('/').next().unwrap_or_default();
    let mut bytes = Vec::new();
    let mut rest = last.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        let hidden = (*first == b'%').then(|| &after[..2]);
        let hidden = hidden.and_then(|two| std::str::from_utf8(two).ok());
        let byte = hidden.and_then(|two| u8::from_str_radix(two, 16).ok());
        if byte.is_some() {
            rest = &rest[2..];
        }
        bytes.push(byte.unwrap_or(*first));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn the_program_of_upstream_takes_what_is_served() {
    let Some(tree) = upstream() else { return };
    let Some(python) = peer("python3") else {
        return;
    };
    // The one in PATH may be a script that looks for the real one.
    let real = "import requests, sys; print(sys.executable)";
    let real = run(Command::new(python).args(["-c", real]));
    if real.code != 0 {
        skip("no requests for python3");
        return;
    }
    let python = real.stdout.trim().to_owned();
    let w = World::new();
    let files = kept(&w);
    let serving = Serving::start(&w, &[]);
    let copy = w.project().join("up");
    run(Command::new("cp").arg("-a").arg(&tree).arg(&copy)).ok();
    let sources: String = files
        .iter()
        .map(|(name, sum)| format!("f {NOWHERE}/{name} {sum}\n"))
        .collect();
    w.write("up/steps/manifest", "build: a\n");
    w.write("up/steps/a/sources", &sources);
    // It prepares everything and then looks for `chroot`, which is not to be found: the run itself is no part of this.
    let bin = w.root().join("bin");
    fs::create_dir(&bin).expect("a directory");
    std::os::unix::fs::symlink(&python, bin.join("python3")).expect("a link");
    for name in ["sudo", "env"] {
        let shim = bin.join(name);
        fs::write(&shim, "#!/bin/sh\nexit 3\n").expect("a script");
        fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).expect("its mode");
    }
    let mut command = Command::new(&python);
    command
        .args([
            "-B",
            "rootfs.py",
            "--chroot",
            "--external-sources",
            "--arch",
            "amd64",
        ])
        .args(["-m", &serving.url, "-t"])
        .arg(w.root().join("target"))
        .current_dir(&copy)
        .env("PATH", &bin);
    let _stopped = run(&mut command);
    for (name, sum) in &files {
        let there = w.root().join("target/external/distfiles").join(name);
        assert_eq!(&digest(&there), sum, "{name}");
    }
}

/// A repository with one version, and the digest of what `git archive` makes of it.
fn repository(w: &World, suffix: &str, compressor: &str) -> (String, String) {
    let repository = w.project().join("tool.git");
    if !repository.exists() {
        w.write("tool.git/src/main.c", "int main(void) { return 0; }\n");
        w.write("tool.git/run", "#!/bin/sh\n");
        w.write("tool.git/secret", "not in archives\n");
        w.write("tool.git/.gitattributes", "secret export-ignore\n");
        for words in [
            &["init", "--quiet"][..],
            &["add", "."],
            &[
                "-c",
                "user.name=a",
                "-c",
                "user.email=a@b",
                "commit",
                "--quiet",
                "-m",
                "first",
            ],
            &["tag", "v1.0"],
        ] {
            run(Command::new("git").args(words).current_dir(&repository)).ok();
        }
    }
    let name = format!("made{suffix}");
    let setting = format!("tar{suffix}.command={compressor}");
    let out = w.root().join(&name);
    run(Command::new("git")
        .args([
            "-c",
            &setting,
            "archive",
            "v1.0",
            "--prefix",
            "tool-1.0/",
            "-o",
        ])
        .arg(&out)
        .current_dir(&repository))
    .ok();
    (format!("file://{}", repository.display()), digest(&out))
}

#[test]
fn an_archive_of_a_repository_is_made_when_nobody_has_it() {
    if ["git", "gzip", "xz"]
        .iter()
        .any(|name| peer(name).is_none())
    {
        return;
    }
    let mut w = World::new();
    w.set("SOS_MIRRORS_DISTFILES", "file:///nonexistent");
    let forms = [
        (".tar.gz", "gzip -n"),
        (".tar.xz", "xz -T1"),
        (".tar", "cat"),
    ];
    let made = forms.map(|(suffix, compressor)| {
        let (url, sum) = repository(&w, suffix, compressor);
        (format!("tool{suffix}"), url, sum)
    });
    let sources: String = made
        .iter()
        .map(|(name, url, sum)| format!("g {url}~v1.0 _ {sum} {name}\n"))
        .collect();
    one_step(&w, &sources);
    let Some(recipe) = recipe() else { return };
    w.write("sos.nix", &recipe);
    let out = w.sos(["build", "--no-link", ".#distfiles"]).ok().stdout;
    assert_eq!(out.lines().count(), 3, "{out}");
    for path in out.lines() {
        let (name, _, sum) = made
            .iter()
            .find(|(name, _, _)| path.ends_with(&format!("-{name}")))
            .expect("one of the three");
        assert_eq!(&digest(&w.physical(path)), sum, "{name}");
    }
    // Upstream's script makes the same of the same line.
    if let Some(tree) = upstream() {
        let lines: String = sources
            .lines()
            .take(2)
            .map(|line| format!("{line}\n"))
            .collect();
        w.write("m/steps/a/sources", &lines);
        w.write("m/dest/.keep", "");
        run(Command::new("sh")
            .arg(tree.join("mirror.sh"))
            .args(["dest", "state"])
            .current_dir(w.project().join("m")))
        .ok();
        for (name, _, sum) in &made[..2] {
            assert_eq!(
                &digest(&w.project().join("m/dest").join(name)),
                sum,
                "{name}"
            );
        }
    }
    // What is made must be what was asked for, and the message says what was tried.
    let wrong = format!("g {}~v1.0 _ {} other.tar.gz\n", made[0].1, made[1].2);
    w.write("tree/steps/a/sources", &wrong);
    w.sos(["build", "--no-link", ".#distfiles"])
        .fails(5)
        .says(&[
            "`other.tar.gz`",
            "`a-pass1`",
            "git archive of file://",
            &made[0].2,
        ]);
    let wrong = format!("g {}~v2.0 _ {} other.tar.gz\n", made[0].1, made[0].2);
    w.write("tree/steps/a/sources", &wrong);
    w.sos(["build", "--no-link", ".#distfiles"])
        .fails(5)
        .says(&["v2.0", "`git` ended with"]);
}
