//! Logs are whole: large ones, long lines, bytes of any kind, of builds that fail, by any name that a build has.

use std::process::Command;

use blake3::Hasher;

use super::builds::{recipe, world_with_busybox};
use crate::support::{World, gate, one_at_a_time, peer, run, start};

/// Bytes of the long line.
const LINE: usize = 10 * 1024 * 1024;
/// Lines of the large log, each of 1000 bytes with its end.
const LINES: usize = 200_000;
/// Kilobytes of memory that this may cost, however large it is.
const MEMORY_KB: u64 = 64 << 10;

/// A run, and what `busybox time -v` says was the most memory that it had, in kilobytes.
#[track_caller]
fn measured(w: &World, args: &[&str]) -> (String, u64) {
    let busybox = peer("busybox").expect("it was there");
    let sos = w.command();
    let mut command = Command::new(busybox);
    command
        .args(["time", "-v"])
        .arg(sos.get_program())
        .args(args)
        .current_dir(w.project())
        .env_clear();
    for (name, value) in sos.get_envs() {
        command.envs(value.map(|value| (name, value)));
    }
    let out = run(&mut command).ok();
    let line = out.stderr.lines().find_map(|l| {
        l.trim()
            .strip_prefix("Maximum resident set size (kbytes): ")
    });
    let kb: Option<u64> = line.and_then(|kb| kb.parse().ok());
    let kb = kb.unwrap_or_else(|| panic!("no peak in:\n{}", out.stderr));
    (out.stdout, kb)
}

#[test]
fn a_log_of_200_mb_with_a_line_of_10_mb_is_whole_and_needs_little_memory() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let _alone = one_at_a_time();
    // `x` doubled to a kilobyte, written 200,000 times; then a line of 10 MiB without an end in between.
    let script = format!(
        "busybox() {{ /bin/busybox \"$@\"; }}; \
         busybox yes $(busybox printf '%0999d' 0) | busybox head -n {LINES}; \
         busybox head -c {LINE} /dev/zero | busybox tr '\\0' 'y'; echo; echo end; echo x > $out"
    );
    w.write("small.nix", &recipe("small", "echo x; echo x > $out", ""));
    w.write("f.nix", &recipe("large", &script, ""));
    let (_, small) = measured(&w, &["build", "--no-link", "small.nix"]);
    let (_, building) = measured(&w, &["build", "--no-link", "f.nix"]);
    assert!(
        building < small + MEMORY_KB,
        "{building} KB while building, {small} KB for a small one"
    );
    let mut expect = Hasher::new();
    let line = "0".repeat(999) + "\n";
    for _ in 0..LINES {
        expect.update(line.as_bytes());
    }
    expect.update(&vec![b'y'; LINE]);
    expect.update(b"\nend\n");
    let size = LINES * 1000 + LINE + 5;
    let expect = (expect.finalize(), size);
    let (_, small_log) = measured(&w, &["log", "small"]);
    let mut peaks = Vec::new();
    for args in [["log", "large", "--raw"], ["log", "large", "--color=never"]] {
        let (out, peak) = measured(&w, &args);
        assert_eq!(
            (blake3::hash(out.as_bytes()), out.len()),
            expect,
            "{args:?}"
        );
        assert!(
            peak < small_log + MEMORY_KB,
            "{peak} KB for {args:?}, {small_log} KB for a small log"
        );
        peaks.push(peak);
    }
    crate::support::say(&format!(
        "logs: peak of {building} KB building (small: {small}), {peaks:?} KB printing (small: {small_log})"
    ));
}

#[test]
fn bytes_of_any_kind_are_kept_also_of_a_build_that_fails() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let script = "/bin/busybox printf 'a\\377\\376\\000b\\303\\251\\n\\033[31mred\\033[0m\\r\\n'; /bin/busybox printf 'no end'; exit 3";
    w.write("f.nix", &recipe("odd", script, ""));
    w.sos(["build", "--no-link", "f.nix"]).fails(100);
    let out = w
        .command_of(&["log", "--raw", "odd"])
        .output()
        .expect("a log");
    assert_eq!(
        out.stdout,
        b"a\xff\xfe\x00b\xc3\xa9\n\x1b[31mred\x1b[0m\r\nno end"
    );
    assert_eq!(
        w.sos(["log", "odd"]).ok().stdout,
        "a\u{fffd}\u{fffd}b\u{e9}\nred\nno end"
    );
    assert_eq!(
        w.sos(["log", "--failed"]).ok().stdout,
        w.sos(["log", "f.nix"]).ok().stdout
    );
    // By the number of the build.
    assert_eq!(
        w.sos(["log", "1"]).ok().stdout,
        w.sos(["log", "odd"]).ok().stdout
    );
}

#[test]
fn the_logs_of_a_build_are_printed_together() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let one = recipe("one", "echo from one; echo x > $out", "");
    let two = recipe("two", "echo from two; echo $one > $out", "one = one;");
    let silent = recipe("silent", "echo $two > $out", "two = two;");
    w.write(
        "f.nix",
        &format!("let one = {one}; two = {two}; in {silent}"),
    );
    w.sos(["build", "--no-link", "f.nix"]).ok();
    assert_eq!(
        w.sos(["log", "1"]).ok().stdout,
        "==> one <==\nfrom one\n==> two <==\nfrom two\n==> silent <==\n"
    );
    assert_eq!(
        w.sos(["log", "1", "--raw"]).ok().stdout,
        "from one\nfrom two\n"
    );
}

#[test]
fn a_running_build_is_followed_to_its_end() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let pipe = gate(&w);
    w.write(
        "f.nix",
        &recipe(
            "slow",
            "echo first; read x < /go; echo $x; echo done > $out",
            "",
        ),
    );
    let building = start(&mut w.command_of(&["build", "--no-link", "f.nix"]));
    // Until the first line can be read, nobody opens the pipe.
    let first = (0..100_000).any(|_| w.sos(["log", "slow"]).stdout == "first\n");
    assert!(first, "what is written can be read while it is built");
    let follower = start(&mut w.command_of(&["log", "-f", "slow"]));
    let by_number = start(&mut w.command_of(&["log", "-f", "1"]));
    std::fs::write(&pipe, "second\n").expect("the pipe");
    for follower in [follower, by_number] {
        let out = crate::support::finish(follower, std::time::Duration::from_secs(600)).ok();
        assert_eq!(out.stdout, "first\nsecond\n");
    }
    crate::support::finish(building, std::time::Duration::from_secs(600)).ok();
}
