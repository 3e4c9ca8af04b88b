//! `sos export`: results as other programs take them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::support::process::ended;
use crate::support::steps::ROOTFS;
use crate::support::{LIMIT, World, finish, is_root, peer, run as run_command, start};

const RECIPE: &str = r##"{ sos, ... }: let
  edit = import ./rootfs.nix "rootfs-edit";
in rec {
  first = edit {
    name = "first";
    files = [
      { path = "/etc/motd"; content = "hello\n"; mode = "0640"; }
      { path = "/usr/bin/tool"; content = "#!/bin/sh\n"; mode = "4755"; }
    ];
  };
  second = edit {
    name = "second";
    rootfs = "${first}";
    epoch = 1700000001;
    files = [ { path = "/etc/motd"; content = "goodbye\n"; } ];
  };
  one = sos.ostree { name = "one"; ref = "os/main"; rootfs = first; epoch = 1700000000; version = "1"; subject = "first"; };
  two = sos.ostree { name = "two"; ref = "os/main"; rootfs = second; epoch = 1700000001; version = "2"; subject = "second"; parent = one; };
  bare = sos.ostree { name = "bare"; rootfs = first; mode = "bare-user"; };
  tree = sos.ociLayer { rootfs = first; epoch = 1700000000; };
  deep = sos.ostree { name = "deep"; ref = "os/main/deep"; rootfs = first; epoch = 1700000000; };
  file = sos.ext4 { rootfs = first; size = "8M"; epoch = 1700000000; };
}
"##;

fn world() -> World {
    let w = World::new();
    w.write("sos.nix", RECIPE);
    w.write("rootfs.nix", ROOTFS);
    w
}

fn ostree(repo: &Path, args: &[&str]) -> Option<String> {
    let mut command = std::process::Command::new(peer("ostree")?);
    command.arg(format!("--repo={}", repo.display())).args(args);
    Some(run_command(&mut command).ok().stdout)
}

#[test]
fn commits_go_into_a_repository_one_after_the_other() {
    let w = world();
    let repo = w.project().join("repo");
    let first = w.sos(["export", ".#one", "ostree:repo"]).ok().stdout;
    let commit = first
        .split_whitespace()
        .next()
        .expect("a commit")
        .to_owned();
    assert_eq!(first, format!("{commit} os/main\n"));
    // What is there is not written again.
    w.sos(["export", ".#one", "ostree:repo"])
        .ok()
        .says(&["wrote 0 objects"]);
    let second = w
        .sos(["export", ".#two", "ostree:repo:os/next"])
        .ok()
        .stdout;
    assert!(second.ends_with(" os/next\n"), "{second}");
    if ostree(&repo, &["fsck"]).is_none() {
        return;
    }
    let refs = ostree(&repo, &["refs"]).expect("installed");
    let mut refs: Vec<&str> = refs.lines().collect();
    refs.sort_unstable();
    assert_eq!(refs, ["os/main", "os/next"]);
    let log = ostree(&repo, &["log", "os/next"]).expect("installed");
    assert!(log.contains(&format!("\ncommit {commit}\n")), "{log}");
    let summary = ostree(&repo, &["summary", "-v"]).expect("installed");
    assert!(
        summary.contains("os/main") && summary.contains("os/next"),
        "{summary}"
    );
    let motd = ostree(&repo, &["cat", "os/next", "/etc/motd"]).expect("installed");
    assert_eq!(motd, "goodbye\n");
}

#[test]
fn a_repository_leaves_signed_and_packed() {
    let w = world();
    let (Some(openssl), Some(_)) = (peer("openssl"), peer("ostree")) else {
        return;
    };
    let key = w.project().join("key.pem");
    let mut make = std::process::Command::new(openssl);
    make.args(["genpkey", "-algorithm", "ed25519", "-out"])
        .arg(&key);
    run_command(&mut make).ok();
    let sign = ["--sign-ed25519", "key.pem", "--deltas"];
    w.sos([&["export", ".#one", "ostree:repo"][..], &sign].concat())
        .ok();
    let told = w
        .sos([&["export", ".#two", "ostree:repo"][..], &sign].concat())
        .ok();
    told.says(&["wrote static deltas of"]);
    let repo = w.project().join("repo");
    let deltas = ostree(&repo, &["static-delta", "list"]).expect("installed");
    // Both commits from nothing, and the way from one to the other.
    assert_eq!(deltas.lines().count(), 3, "{deltas}");
    let meta = ostree(
        &repo,
        &[
            "show",
            "--print-detached-metadata-key=ostree.sign.ed25519",
            "os/main",
        ],
    );
    // One signature; how its bytes are written depends on them.
    let meta = meta.expect("installed");
    assert!(meta.starts_with("[[") || meta.starts_with("[b"), "{meta}");
    assert!(repo.join("summary.sig").exists());
    ostree(&repo, &["fsck"]).expect("installed");
    // The key went nowhere.
    let secret = std::fs::read(&key).expect("the key");
    for place in [w.store(), repo] {
        for entry in walkdir::WalkDir::new(place) {
            let entry = entry.expect("an entry");
            if entry.file_type().is_file() {
                let bytes = std::fs::read(entry.path()).unwrap_or_default();
                assert!(!bytes.windows(secret.len()).any(|part| part == secret));
            }
        }
    }
    w.sos(["export", ".#one", "ostree:other", "--sign-gpg", "key.pem"])
        .fails(2)
        .says(&["error[export-key]", "`key.pem`"]);
    w.sos(["export", ".#first", "dir:out", "--deltas"])
        .fails(2)
        .says(&["error[export-destination]"]);
    let check = w.sos(["export", ".#one", "ostree:checked", "--fsck"]);
    if cfg!(feature = "libostree") {
        check.ok().says(&["all are sound"]);
    } else {
        check
            .fails(4)
            .says(&["error[export-not-built-in]", "libostree-dev"]);
        assert!(!w.project().join("checked").exists());
    }
}

#[test]
fn a_commit_elsewhere_is_pulled_by_its_checksum() {
    let w = world();
    let told = w.sos(["export", ".#two", "ostree:repo"]).ok().stdout;
    let commit = told.split_whitespace().next().expect("a commit").to_owned();
    let repo = w.project().join("repo");
    let recipe = |commit: &str| {
        let url = format!("file://{}", repo.display());
        w.write(
            "pull.nix",
            &format!("{{ sos, ... }}: {{ it = sos.ostree.pull {{ url = \"{url}\"; commit = \"{commit}\"; }}; }}"),
        );
    };
    recipe(&commit);
    let pulled = w.sos(["export", "./pull.nix#it", "dir:pulled"]);
    if cfg!(not(feature = "libostree")) {
        pulled
            .fails(4)
            .says(&["error[ostree-not-built-in]", "libostree-dev"]);
        return;
    }
    pulled.ok();
    let text = std::fs::read_to_string(w.project().join("pulled/etc/motd")).expect("a file");
    assert_eq!(text, "goodbye\n");
    recipe(&"0".repeat(64));
    w.sos(["build", "--no-link", "./pull.nix#it"])
        .fails(5)
        .says(&["error[ostree-pull]", "ostree remote refs"]);
    recipe("abc");
    w.sos(["build", "--no-link", "./pull.nix#it"])
        .fails(3)
        .says(&["error[ostree-attrs]", "`abc` names no commit"]);
}

#[test]
fn a_checkout_is_what_was_committed() {
    let w = world();
    w.write(
        "back.nix",
        "{ sos, ... }: { back = sos.ostree.checkout { repository = (import ./sos.nix { inherit sos; }).two; }; }",
    );
    w.sos(["export", "./back.nix#back", "dir:back"]).ok();
    let text = std::fs::read_to_string(w.project().join("back/etc/motd")).expect("a file");
    assert_eq!(text, "goodbye\n");
    let mode = std::fs::metadata(w.project().join("back/etc")).expect("a directory");
    assert_eq!(mode.permissions().mode() & 0o7777, 0o755);
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_nothing() {
    let w = world();
    w.sos(["export", ".#one", "ostree:repo"]).ok();
    w.sos(["export", ".#bare", "ostree:repo"]).fails(2).says(&[
        "error[export-repository-mode]",
        "`archive`",
        "`bare-user`",
    ]);
    w.write("other/file", "");
    std::os::unix::fs::symlink("gone", w.project().join("nowhere")).expect("a link");
    let long_name = format!("dir:{}", "n".repeat(256));
    let long_ref = format!("ostree:repo:{}", "r".repeat(300));
    w.sos(["export", ".#one", "ostree:other"])
        .fails(2)
        .says(&["error[export-not-a-repository]"]);
    for (dest, parts) in [
        (
            "ostree:other/file",
            ["error[export-not-a-repository]", "no directory, but a file"],
        ),
        (
            "ostree:git",
            ["error[export-not-a-repository]", "that of something else"],
        ),
        (
            "ostree:other/file/repo:os/main",
            ["error[export-no-place]", "other/file` is a file"],
        ),
        (
            "ostree:a/b/repo",
            ["error[export-no-place]", "a/b`, or name another place"],
        ),
        ("dir:a/b", ["error[export-no-place]", "`mkdir -p "]),
        ("disk:a/b", ["error[export-no-place]", "`mkdir -p "]),
        ("oci-archive:a/b", ["error[export-no-place]", "`mkdir -p "]),
        (
            "disk:other/file.raw/",
            ["error[export-no-place]", "write `disk:other/file.raw`"],
        ),
        (
            "disk:other/",
            ["it names a directory, and `disk:`", "`disk:other/NAME`"],
        ),
        (
            "oci-archive:other/x.tar/",
            ["error[export-no-place]", "write `oci-archive:other/x.tar`"],
        ),
        (
            "oci:other/file/a/b",
            ["error[export-no-place]", "is a file"],
        ),
        ("dir:new/.", ["error[export-no-place]", "write `dir:new`"]),
        ("disk:new/./", ["it names a directory", "write `disk:new`"]),
        ("disk:new/.", ["error[export-no-place]", "write `disk:new`"]),
        (
            "oci:nowhere",
            ["error[export-no-place]", "it is a link that leads nowhere"],
        ),
        (
            long_name.as_str(),
            [
                "error[export-no-place]",
                "at most 255 bytes, and this one has 256",
            ],
        ),
        (
            long_ref.as_str(),
            [
                "error[export-destination]",
                "it has 300 letters, and may have 255",
            ],
        ),
        ("sysroot:a/b", ["error[export-no-place]", "`mkdir -p "]),
    ] {
        w.write("git/config", "[core]\n\tbare = true\n");
        let told = w.sos(["export", ".#one", dest]).fails(2).says(&parts);
        // It was seen before anything was built.
        assert!(!told.stderr.contains("built"), "{dest}: {}", told.stderr);
    }
    assert!(!w.project().join("a").exists());
    let told = w
        .sos(["export", ".#one", "sysroot:other/file"])
        .fails(4)
        .says(&["error[export-deploy]", "it is no directory"]);
    assert!(!told.stderr.contains("built"), "{}", told.stderr);
    w.sos(["export", ".#first", "ostree:new"])
        .fails(2)
        .says(&["error[export-no-commit]", "`sos.ostree"]);
    w.sos(["export", ".#tree", "ostree:new"])
        .fails(2)
        .says(&["error[export-no-commit]"]);
    w.sos(["export", ".#one", "ostree:new:a b"])
        .fails(2)
        .says(&["error[export-destination]", "`a b` is not a ref"]);
    w.sos(["export", ".#one", "tape:x"])
        .fails(2)
        .says(&["error[export-destination]", "`dir:DIR`"]);
    w.sos(["export", ".#one", "dir:other"])
        .fails(2)
        .says(&["error[export-exists]"]);
    assert!(!w.project().join("new").exists());
}

#[test]
fn several_results_are_refused_before_they_are_built() {
    let w = world();
    for (words, code) in [
        (&["export", ".#one", ".#two", "dir:new"][..], "export-many"),
        (&["boot", "run", ".#one", ".#two"], "boot-many"),
    ] {
        let code = format!("error[{code}]");
        let told = w.sos(words).fails(2);
        let told = told.says(&[&code, "2 results", "name one target"]);
        assert!(!told.stderr.contains("built"), "{}", told.stderr);
    }
    assert!(!w.project().join("new").exists());
}

/// Root may write there.
#[test]
fn nothing_is_made_in_a_store() {
    let w = world();
    w.sos(["build", "-o", "result", ".#one"]).ok();
    for place in [
        "dir:result/new",
        "disk:result/new",
        "oci:result",
        "oci-archive:result/new",
        "ostree:result",
    ] {
        let told = w.sos(["export", ".#two", place]).fails(2);
        let told = told.says(&["error[export-no-place]", "it is in the store at"]);
        assert!(!told.stderr.contains("built"), "{}", told.stderr);
    }
}

#[test]
fn a_root_filesystem_becomes_a_directory() {
    let w = world();
    let told = w.sos(["export", ".#first", "dir:out"]).ok();
    let mode = |path: &str| {
        let meta = std::fs::metadata(w.project().join("out").join(path)).expect("a file");
        meta.permissions().mode() & 0o7777
    };
    assert_eq!(mode("etc/motd"), 0o640);
    if is_root() {
        assert_eq!(mode("usr/bin/tool"), 0o4755);
    } else {
        assert_eq!(mode("usr/bin/tool"), 0o755);
        told.says(&["without the rights of 1 program"]);
    }
    w.sos(["export", ".#tree", "dir:layer"]).ok();
    let text = std::fs::read_to_string(w.project().join("layer/layer.json")).expect("a file");
    assert!(text.contains("mediaType"), "{text}");
}

#[test]
fn what_is_stopped_does_not_look_finished() {
    let w = world();
    w.sos(["build", "--no-link", ".#file"]).ok();
    // Its end comes in the middle of the file: a limit that kills who writes more.
    let sos = w.command();
    let mut limited = std::process::Command::new("sh");
    limited
        .args(["-c", "ulimit -f 4096; exec \"$0\" \"$@\""])
        .arg(sos.get_program())
        .args(["export", ".#file", "disk:a.raw"])
        .env_clear()
        .envs(
            sos.get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .current_dir(w.project());
    assert_eq!(run_command(&mut limited).code, -1, "it was killed");
    let names = || {
        let all = std::fs::read_dir(w.project()).expect("a directory");
        let names = all.map(|one| {
            one.expect("a file")
                .file_name()
                .to_string_lossy()
                .into_owned()
        });
        let mut names: Vec<_> = names.filter(|name| name.starts_with("a.")).collect();
        names.sort();
        names
    };
    let left = names();
    let draft = left[0].clone();
    assert!(draft.starts_with("a.raw.sos-draft-"), "{left:?}");
    assert_eq!(left, [draft.clone(), format!("{draft}.lock")]);
    // What is of another file, or has no number, is somebody's. What somebody has locked is being written, whatever its number says.
    let ended = ended();
    w.write(&format!("a.raw2.sos-draft-{ended}"), "");
    w.write("a.raw.sos-draft-notes", "");
    w.write(&format!("a.raw.sos-draft-{ended}"), "half");
    let lock = w.write(&format!("a.raw.sos-draft-{ended}.lock"), "");
    let lock = std::fs::File::open(lock).expect("a file");
    lock.lock().expect("a lock");
    w.sos(["export", ".#file", "disk:a.raw"]).ok();
    let mut stays = vec![
        "a.raw".to_owned(),
        format!("a.raw.sos-draft-{ended}"),
        format!("a.raw.sos-draft-{ended}.lock"),
        "a.raw.sos-draft-notes".to_owned(),
        format!("a.raw2.sos-draft-{ended}"),
    ];
    assert_eq!(names(), stays);
    drop(lock);
    std::fs::remove_file(w.project().join("a.raw")).expect("removed");
    w.sos(["export", ".#file", "disk:a.raw"]).ok();
    stays.drain(1..3);
    assert_eq!(names(), stays);
    // This process has the number of one in another container that was killed.
    let number = std::process::id();
    w.write(&format!("a.dir.sos-draft-{number}/etc/motd"), "half");
    w.write(&format!("a.dir.sos-draft-{number}.lock"), "");
    w.sos(["export", ".#first", "dir:a.dir"]).ok();
    assert!(w.project().join("a.dir/etc/motd").is_file());
    // Of a build that is a tree, too.
    w.write(&format!("a.tree.sos-draft-{number}/blob"), "half");
    w.write(&format!("a.tree.sos-draft-{number}.lock"), "");
    w.sos(["export", ".#tree", "dir:a.tree"]).ok();
    stays.extend(["a.dir".to_owned(), "a.tree".to_owned()]);
    stays.sort();
    assert_eq!(names(), stays);
}

/// As long as file systems allow; that of what is written meanwhile is longer.
#[test]
fn what_can_have_its_name_can_be_exported_to() {
    let w = world();
    for (target, scheme) in [("file", "disk"), ("tree", "dir"), ("first", "dir")] {
        let mut name = format!("{target}-{}", "\u{e4}".repeat(130));
        while name.len() > 255 {
            name.pop();
        }
        let target = format!(".#{target}");
        w.sos(["export", &target, &format!("{scheme}:{name}")]).ok();
        assert!(w.project().join(&name).exists());
        w.sos(["export", &target, &format!("{scheme}:{name}")])
            .fails(2)
            .says(&["error[export-exists]"]);
    }
    let all = std::fs::read_dir(w.project()).expect("a directory");
    let mut names = all.map(|one| one.expect("a file").file_name());
    assert!(!names.any(|name| name.to_string_lossy().contains("sos-draft")));
}

#[test]
fn a_repository_that_was_only_begun_is_finished() {
    let w = world();
    for dir in ["objects", "refs/heads", "tmp"] {
        std::fs::create_dir_all(w.project().join("repo").join(dir)).expect("a directory");
    }
    // What a full disk leaves of it.
    for config in [None, Some("")] {
        if let Some(text) = config {
            w.write("repo/config", text);
        }
        w.write(&format!("repo/tmp/sos-{}-0", ended()), "[co");
        w.sos(["export", ".#one", "ostree:repo"]).ok();
        assert!(
            std::fs::read_to_string(w.project().join("repo/config"))
                .expect("a configuration")
                .contains("mode=archive")
        );
        std::fs::remove_dir_all(w.project().join("repo/objects")).expect("removed");
        std::fs::remove_dir_all(w.project().join("repo/refs")).expect("removed");
        for file in ["config", "summary"] {
            std::fs::remove_file(w.project().join("repo").join(file)).expect("removed");
        }
    }
    w.write("repo/config", "");
    w.write("repo/objects/mine", "");
    w.sos(["export", ".#one", "ostree:repo"])
        .fails(2)
        .says(&["error[export-not-a-repository]"]);
}

#[test]
fn refs_that_cannot_be_beside_each_other_are_told() {
    let w = world();
    w.sos(["export", ".#one", "ostree:repo"]).ok();
    w.sos(["export", ".#deep", "ostree:repo"])
        .fails(2)
        .says(&["has the ref `os/main`", "no `os/main/deep`"]);
    w.sos(["export", ".#one", "ostree:repo:os"])
        .fails(2)
        .says(&["has the ref `os/main`", "no `os`"]);
}

#[test]
fn an_export_says_what_it_waits_for() {
    let w = world();
    w.sos(["build", "--no-link", ".#one"]).ok();
    std::fs::create_dir(w.project().join("repo")).expect("a directory");
    let lock = std::fs::File::open(w.project().join("repo")).expect("a directory");
    for (quiet, says) in [(false, true), (true, false)] {
        lock.lock().expect("a lock");
        let mut command = w.command_of(&["export", ".#one", "ostree:repo"]);
        if quiet {
            command.arg("--quiet");
        }
        let export = start(&mut command);
        let pid = export.id();
        while !is_waited_for(&lock, pid) {
            std::thread::yield_now();
        }
        lock.unlock().expect("a lock");
        let told = finish(export, LIMIT).ok().stderr;
        let line = "waiting for another export into `repo` to end\n";
        assert_eq!(told.contains(line), says, "{told}");
        // What lies there was left by one that was killed, since nobody has the lock: it does not stay for long.
        let left = w
            .project()
            .join(format!("repo/tmp/sos-{}-9", std::process::id()));
        assert!(!left.exists());
        std::fs::write(left, "half").expect("written");
    }
}

/// Whether the kernel lists a process that waits for the lock of a file.
fn is_waited_for(file: &std::fs::File, pid: u32) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let number = file.metadata().expect("metadata").ino();
    let locks = std::fs::read_to_string("/proc/locks").expect("the locks of the machine");
    locks.lines().any(|line| {
        line.contains("->")
            && line.contains(&format!(" {pid} "))
            && line.contains(&format!(":{number} "))
    })
}

/// The summary tells of what all of them have brought.
#[test]
fn exports_at_once_into_one_repository_lose_nothing() {
    let w = world();
    w.sos(["build", "--no-link", ".#one"]).ok();
    let places: Vec<String> = (0..6).map(|n| format!("ostree:repo:many/{n}")).collect();
    let all: Vec<_> = places
        .iter()
        .map(|place| start(&mut w.command_of(&["export", ".#one", place])))
        .collect();
    for one in all {
        finish(one, LIMIT).ok();
    }
    let summary = std::fs::read(w.project().join("repo/summary")).expect("a summary");
    for n in 0..6 {
        let name = format!("many/{n}");
        let is_there = summary
            .windows(name.len())
            .any(|part| part == name.as_bytes());
        assert!(is_there, "{name}");
    }
    let tmp = std::fs::read_dir(w.project().join("repo/tmp")).expect("a directory");
    assert_eq!(tmp.count(), 0);
}
