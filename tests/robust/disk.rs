//! A full disk is said to be full; it is not blamed on the builder, and what is there can be freed.

use std::process::Command;

use super::{job, text, unshared, world_with_busybox};
use crate::support::server::Server;
use crate::support::{peer, run};

/// Runs `script` with a small disk for the store; its lines `step NAME COMMAND..` leave `NAME.code`, `NAME.out` and `NAME.err` beside
/// the project.
fn on_a_small_disk(w: &crate::support::World, megabytes: u32, script: &str) -> Option<()> {
    let store = w.store();
    std::fs::create_dir_all(&store).expect("the place of the store");
    let script = format!(
        "set -u\nstep() {{ n=$1; shift; \"$@\" >../$n.out 2>../$n.err; echo $? >../$n.code; }}\nmount -t tmpfs -o size={megabytes}m,mode=0700 none {0}\n{script}\nls -A {0}/tmp >../left\n",
        store.display()
    );
    run(&mut unshared(w, &["-rm"], &script)?).ok();
    Some(())
}

#[test]
fn a_build_that_fills_the_disk() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("big.nix", &job("big", "/bin/busybox mkdir $out; /bin/busybox dd if=/dev/zero of=$out/zeros bs=65536 count=2000"));
    w.write("small.nix", &job("small", "echo small > $out"));
    let script = "step small $SOS build --no-link small.nix
        step big $SOS build --no-link big.nix
        step check $SOS store check
        step ls $SOS store ls
        step again $SOS build --no-link small.nix";
    if on_a_small_disk(&w, 48, script).is_none() {
        return;
    }
    let at = |file: &str| text(&w.root().join(file));
    assert_eq!(at("small.code"), "0\n", "{}", at("small.err"));
    assert_eq!(at("big.code"), "4\n", "{}", at("big.err"));
    assert!(
        at("big.err").contains("error[env-disk-full]")
            && at("big.err").contains("big")
            && at("big.err").contains("sos gc"),
        "{}",
        at("big.err")
    );
    assert_eq!(at("check.code"), "0\n", "{}", at("check.err"));
    assert!(
        !at("ls.out").contains("-big\n") && at("ls.out").contains("-small\n"),
        "{}",
        at("ls.out")
    );
    assert_eq!(at("again.code"), "0\n", "{}", at("again.err"));
    assert_eq!(at("left"), "");
}

#[test]
fn outputs_and_logs_that_fill_the_disk_leave_room_for_the_next_build() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    // Ends well on a disk that is full to the last byte.
    w.write(
        "output.nix",
        &job(
            "whole",
            "/bin/busybox dd if=/dev/urandom of=$out bs=1M count=100; exit 0",
        ),
    );
    w.write(
        "log.nix",
        &job(
            "loud",
            "/bin/busybox dd if=/dev/urandom bs=1M count=100; echo x > $out",
        ),
    );
    w.write(
        "small.nix",
        &job(
            "small",
            "/bin/busybox dd if=/dev/zero of=$out bs=1M count=4",
        ),
    );
    w.write(
        "other.nix",
        &job(
            "other",
            "/bin/busybox dd if=/dev/zero of=$out bs=1M count=5",
        ),
    );
    let script = "step output $SOS build --no-link output.nix
        step small $SOS build --no-link small.nix
        step log $SOS build --no-link log.nix
        step other $SOS build --no-link other.nix
        step check $SOS store check";
    if on_a_small_disk(&w, 40, script).is_none() {
        return;
    }
    let at = |file: &str| text(&w.root().join(file));
    assert_eq!(at("output.code"), "4\n", "{}", at("output.err"));
    for part in [
        "error[env-disk-full]",
        "the disk holding the store",
        "`whole`",
        "`out`",
        "nothing was added",
    ] {
        assert!(
            at("output.err").contains(part),
            "no {part}: {}",
            at("output.err")
        );
    }
    assert_eq!(at("small.code"), "0\n", "{}", at("small.err"));
    assert_eq!(at("log.code"), "4\n", "{}", at("log.err"));
    assert_eq!(at("other.code"), "0\n", "{}", at("other.err"));
    assert_eq!(at("check.code"), "0\n", "{}", at("check.err"));
    assert_eq!(at("left"), "");
}

#[test]
fn what_is_there_can_be_freed_when_nothing_is_left() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("f.nix", &job("much", "/bin/busybox mkdir $out; /bin/busybox dd if=/dev/urandom of=$out/noise bs=65536 count=120"));
    w.write("small.nix", &job("small", "echo small > $out"));
    let script = format!(
        "step much $SOS build --no-link f.nix
        cat /dev/zero > {0}/filler 2>/dev/null
        step full $SOS build --no-link small.nix
        step gc $SOS gc
        df -k --output=avail {0} | tail -n 1 > ../free
        rm {0}/filler
        step check $SOS store check
        step after $SOS build --no-link small.nix",
        w.store().display()
    );
    if on_a_small_disk(&w, 64, &script).is_none() {
        return;
    }
    let at = |file: &str| text(&w.root().join(file));
    assert_eq!(at("much.code"), "0\n", "{}", at("much.err"));
    assert_eq!(at("full.code"), "4\n", "{}", at("full.err"));
    assert!(
        at("full.err").contains("error[env-disk-full]"),
        "{}",
        at("full.err")
    );
    assert_eq!(
        at("gc.code"),
        "0\n",
        "`sos gc` on a full disk: {}",
        at("gc.err")
    );
    let free: u64 = at("free").trim().parse().expect("a number");
    assert!(free > 7000, "{free} KiB free after gc: {}", at("gc.err"));
    assert_eq!(at("check.code"), "0\n", "{}", at("check.err"));
    assert_eq!(at("after.code"), "0\n", "{}", at("after.err"));
}

/// Whatever it is that finds no room, the message says where that is, nothing is left behind, and with room it works.
#[test]
fn every_message_says_where_the_disk_is_full() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let (Some(git), Some(tar)) = (peer("git"), peer("tar")) else {
        return;
    };
    // What is no zeros cannot be packed; what is, fits as an archive and not as files.
    let noise: Vec<u8> = (0..3_000_000_u32)
        .map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[2])
        .collect();
    let served = w.root().join("served");
    let tree = served.join("tree");
    std::fs::create_dir_all(&tree).expect("a directory");
    std::fs::write(served.join("noise"), &noise).expect("a file");
    std::fs::write(tree.join("zeros"), vec![0; 3_000_000]).expect("a file");
    run(Command::new(tar)
        .current_dir(&served)
        .args(["-czf", "tree.tar.gz", "tree"]))
    .ok();
    let repository = w.root().join("repository");
    std::fs::create_dir_all(&repository).expect("a directory");
    std::fs::write(repository.join("zeros"), vec![0; 3_000_000]).expect("a file");
    for words in [
        &["init", "--quiet"][..],
        &["add", "."],
        &[
            "-c",
            "user.name=x",
            "-c",
            "user.email=x@example.org",
            "commit",
            "--quiet",
            "-m",
            "x",
        ],
    ] {
        run(Command::new(&git).current_dir(&repository).args(words)).ok();
    }
    let server = Server::start(&served);
    let url = server.url();
    let hash = run(Command::new("sha256sum").arg(served.join("noise")))
        .ok()
        .stdout;
    let hash = hash.split_whitespace().next().unwrap_or_default();
    w.write("small.nix", &job("small", "echo small > $out"));
    w.write(
        "loud.nix",
        &job(
            "loud",
            "/bin/busybox dd if=/dev/urandom bs=64k count=60; echo x > $out",
        ),
    );
    w.write(
        "fetch.nix",
        &format!(
            r#"derivation {{ name = "noise"; system = "builtin"; builder = "builtin:fetchurl"; url = "{url}/noise";
  outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "{hash}"; }}"#
        ),
    );
    w.write(
        "unpinned.nix",
        &format!(r#"builtins.fetchurl "{url}/noise""#),
    );
    w.write(
        "tarball.nix",
        &format!(r#"builtins.fetchTarball "{url}/tree.tar.gz""#),
    );
    w.write(
        "git.nix",
        &format!(
            r#"(builtins.fetchGit {{ url = "{}"; }}).outPath"#,
            repository.display()
        ),
    );
    w.write(
        "path.nix",
        &format!(
            r#"builtins.path {{ path = {}/noise; name = "noise"; }}"#,
            served.display()
        ),
    );
    w.write("tree.nix", &format!("\"${{{}}}\"", tree.display()));
    let cases = [
        ("small", "200k", "build --no-link --file small.nix"),
        ("loud", "1m", "build --no-link --file loud.nix"),
        ("fetch", "2m", "build --no-link --file fetch.nix"),
        ("unpinned", "2m", "eval --file unpinned.nix"),
        ("tarball", "2m", "eval --file tarball.nix"),
        ("git", "2m", "eval --file git.nix"),
        ("path", "2m", "eval --file path.nix"),
        ("tree", "2m", "eval --file tree.nix"),
    ];
    let store = w.store();
    std::fs::create_dir_all(&store).expect("the place of the store");
    let store = store.display().to_string();
    let mut script = format!(
        "set -u
        step() {{ s=$1; shift; \"$@\" >../$s.out 2>../$s.err; echo $? >../$s.code; }}
        try() {{ n=$1; size=$2; shift 2
          mount -t tmpfs -o size=$size,mode=0700 none {store}
          step $n \"$SOS\" \"$@\"; ls -A {store}/tmp >../$n.left
          # By its source too: else what the mount table says of its owner is asked for again, in numbers that this namespace may not have.
          mount -o remount,size=64m none {store}
          step $n-again \"$SOS\" \"$@\"; step $n-check \"$SOS\" store check
          umount {store}; }}\n"
    );
    for (name, size, words) in cases {
        script.push_str(&format!("try {name} {size} {words}\n"));
    }
    let Some(mut command) = unshared(&w, &["-rm"], &script) else {
        return;
    };
    run(&mut command).ok();
    for (name, _, _) in cases {
        let at = |file: &str| text(&w.root().join(format!("{name}{file}")));
        let said = at(".err");
        assert_eq!(at(".code"), "4\n", "{name}: {said}");
        assert!(
            said.contains("error[env-disk-full]") && said.contains("sos gc"),
            "{name}: {said}"
        );
        assert!(said.contains(&store), "{name} does not say where: {said}");
        let bare = said
            .lines()
            .find(|line| line.ends_with("No space left on device (os error 28)"));
        assert!(bare.is_none_or(|line| line.contains('`')), "{name}: {said}");
        assert_eq!(at(".left"), "", "{name}");
        assert_eq!(at("-again.code"), "0\n", "{name}: {}", at("-again.err"));
        assert_eq!(at("-check.code"), "0\n", "{name}: {}", at("-check.err"));
    }
}

/// What is full then is not the store, and no collection helps.
#[test]
fn an_export_says_where_the_disk_is_full() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let much = "/bin/busybox yes | /bin/busybox head -c 3000000 >";
    w.write("file.nix", &job("file", &format!("{much} $out")));
    w.write(
        "dir.nix",
        &job(
            "dir",
            &format!("/bin/busybox mkdir $out; {much} $out/noise"),
        ),
    );
    let script = "set -u
        step() { s=$1; shift; \"$@\" >../$s.out 2>../$s.err; echo $? >../$s.code; }
        mkdir out; mount -t tmpfs -o size=2m,mode=0700 none out
        step dir \"$SOS\" export --file dir.nix dir:out/dir; ls -A out >../dir.left
        step file \"$SOS\" export --file file.nix disk:out/file; ls -A out >../file.left
        umount out
        step again \"$SOS\" export --file file.nix disk:out/file\n";
    let Some(mut command) = unshared(&w, &["-rm"], script) else {
        return;
    };
    run(&mut command).ok();
    let at = |file: &str| text(&w.root().join(file));
    for (name, place) in [("dir", "out/dir/noise"), ("file", "out/file")] {
        let said = at(&format!("{name}.err"));
        let told = format!("error[export-failed]: cannot write `{place}`: No space left on device");
        assert!(said.contains(&told), "{said}");
        assert!(
            said.contains("help: make room there, or name a place on another disk"),
            "{said}"
        );
        assert!(!said.contains("sos gc"), "{said}");
        assert_eq!(at(&format!("{name}.code")), "4\n");
        assert_eq!(at(&format!("{name}.left")), "");
    }
    assert_eq!(at("again.code"), "0\n", "{}", at("again.err"));
}
