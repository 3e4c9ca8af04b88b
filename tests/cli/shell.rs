//! `sos shell` is where the builder is: compared with what builders saw, typed into, killed.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::Signal;

use super::builds::{recipe, world_with_busybox};
use crate::support::process::{all_gone, descendants, wait_until};
use crate::support::terminal::Terminal;
use crate::support::tiny::{self, Tiny};
use crate::support::user::User;
use crate::support::{World, left_nothing, run, store_is_clean};

/// Says all that a process can find out about where it runs.
const LOOK: &str = "cat /proc/$$/environ; echo; cat /proc/$$/mountinfo; \
    grep -E '^(Umask|Uid|Gid|Groups|NSpid|SigIgn|Cap|NoNewPrivs|Seccomp)' /proc/$$/status; \
    cat /proc/$$/limits; id; cat /proc/sys/kernel/hostname; pwd; stat -c '%n %A %u:%g %t:%T' /dev/*; cat /etc/passwd /etc/hosts; cat /proc/net/dev; \
    ls /proc/self/fd";

/// The same without what two sandboxes never share: numbers of mounts, private directories.
fn comparable(look: &str) -> Vec<String> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        let is_mount = fields.len() > 9 && fields.contains(&"-");
        if is_mount && fields[2].contains(':') {
            // The root of a mount within its file system has the name of the run in it.
            let end = fields[3].rsplit('/').next().unwrap_or_default();
            let said = format!("{end} {}", fields[4..].join(" "));
            // An overlay names its layers by descriptors of whoever mounted it.
            let without = |part: &str| {
                part.trim_start_matches(|c: char| c.is_ascii_digit())
                    .to_owned()
            };
            return said.split("/proc/self/fd/").map(without).collect();
        }
        line.to_owned()
    };
    look.lines().map(line).collect()
}

fn cat(w: &World, path: &str) -> String {
    w.sos(["store", "cat", path.trim()]).ok().stdout
}

#[test]
fn it_is_where_the_builder_runs() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let dep = recipe("dep", "echo of dep > $out", "");
    let more = format!(
        "dep = {dep}; text = \"words of a file\"; passAsFile = [ \"text\" ]; HOME = \"/mine\"; out2 = \"a b\\n c\";"
    );
    let script = format!("({LOOK}; cat $textPath $dep; ls -A /build /nix/store) > $out");
    w.write("f.nix", &recipe("looked", &script, &more));
    let path = w.sos(["build", "--no-link", "f.nix"]).ok().stdout;
    let built = cat(&w, &path);
    let look = format!("{LOOK}; cat $textPath $dep; echo > $out; ls -A /build /nix/store");
    let shell = w.sos(["shell", "f.nix", "-c", &look]).ok();
    assert_eq!(shell.stderr, "", "a command has standard error to itself");
    assert!(
        built.contains("HOME=/mine")
            && built.contains("words of a file")
            && built.contains("of dep"),
        "{built}"
    );
    assert!(
        built.contains("NoNewPrivs:\t1") && built.contains("Seccomp:\t2"),
        "{built}"
    );
    assert_eq!(comparable(&shell.stdout), comparable(&built));
    // A build of known content has the network, and so has its shell.
    let fixed = "outputHashMode = \"flat\"; outputHashAlgo = \"sha256\"; outputHash = \"0000000000000000000000000000000000000000000000000000000000000000\";";
    w.write("fixed.nix", &recipe("fixed", "true", fixed));
    let shown = |file: &str| {
        w.sos([
            "shell",
            file,
            "-c",
            "cat /etc/nsswitch.conf; echo $NIX_OUTPUT_CHECKED",
        ])
        .stdout
    };
    assert_eq!(shown("fixed.nix"), "hosts: files dns\nservices: files\n1\n");
    assert_eq!(shown("f.nix"), "\n");
    store_is_clean(&w);
}

#[test]
fn structured_attributes_are_there() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let more = "__structuredAttrs = true; list = [ 1 \"x y\" ];";
    let script = "cat /build/.attrs.sh /build/.attrs.json; echo $NIX_ATTRS_SH_FILE";
    w.write("f.nix", &recipe("attrs", script, more));
    let shell = w.sos(["shell", "f.nix", "-c", script]).ok().stdout;
    assert!(
        shell.contains("declare -a list=(1 'x y' )") && shell.ends_with("/build/.attrs.sh\n"),
        "{shell}"
    );
    // The builder itself says the same.
    let builder = format!("/bin/busybox sh -c '{script}'");
    let rerun = w.sos(["shell", "f.nix", "-c", &builder]).ok().stdout;
    assert_eq!(rerun, shell);
}

#[test]
fn streams_and_exit_codes_are_those_of_the_command() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("f.nix", &recipe("job", "echo x > $out", ""));
    let shell = |command: &str| w.sos(["shell", "f.nix", "-c", command]);
    shell("true").ok();
    shell("exit 7").fails(7);
    shell("kill -9 $$").fails(137);
    shell("kill -TERM $$").fails(143);
    let said = shell("echo out; echo err >&2; printf '\\000\\377' | wc -c").ok();
    assert_eq!(
        (said.stdout.as_str(), said.stderr.as_str()),
        ("out\n2\n", "err\n")
    );
    // Much in both directions, with neither side waiting for the other.
    let mut child = w
        .command_of(&["shell", "f.nix", "-c", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut input = child.stdin.take().expect("its input");
    let sent: Vec<u8> = (0..3_000_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    let given = sent.clone();
    let writer = std::thread::spawn(move || input.write_all(&given));
    let out = child.wait_with_output().expect("it ends");
    writer
        .join()
        .expect("a thread")
        .expect("all of it is taken");
    assert!(
        out.status.success() && out.stdout == sent,
        "{} bytes",
        out.stdout.len()
    );
    // Commands come from a file, too.
    std::fs::write(w.project().join("commands"), "echo $name; exit 3\n").expect("a file");
    let commands = std::fs::File::open(w.project().join("commands")).expect("it is there");
    let out = w
        .command_of(&["shell", "f.nix"])
        .stdin(commands)
        .output()
        .expect("it runs");
    assert_eq!(
        (out.stdout.as_slice(), out.status.code()),
        (b"job\n".as_slice(), Some(3))
    );
    // Whoever stops listening ends what talks without end.
    let mut child = w
        .command_of(&["shell", "f.nix", "-c", "yes"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(child.stdout.take());
    assert!(!child.wait().expect("it ends").success());
    left_nothing(&w, "job");
}

#[test]
fn which_shell_it_is() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let tool = recipe(
        "tool",
        "mkdir -p $out/bin; cp /bin/busybox $out/bin/busybox; echo '#!/bin/busybox sh' > $out/bin/odd; chmod +x $out/bin/odd",
        "",
    );
    let with = |more: &str| {
        format!(
            "derivation {{ name = \"odd\"; system = \"x86_64-linux\"; builder = \"${{{tool}}}/bin/odd\"; {more} }}"
        )
    };
    w.write("f.nix", &with(""));
    let who = "readlink /proc/$$/exe";
    // Its builder is no shell: that of its input is taken.
    let shell = w.sos(["shell", "f.nix", "-c", who]).ok().stdout;
    assert!(shell.trim().ends_with("-tool/bin/busybox"), "{shell}");
    let shell = w
        .sos(["shell", "f.nix", "--shell", "/bin/busybox", "-c", who])
        .ok()
        .stdout;
    assert_eq!(shell, "/bin/busybox\n");
    w.sos(["shell", "f.nix", "--shell", "/bin/zsh", "-c", who])
        .fails(1)
        .says(&["error[shell-none]", "there is no `/bin/zsh` in it"]);
    // A derivation whose sandbox has none at all, and the way out.
    w.write(
        "none.nix",
        "derivation { name = \"none\"; system = \"x86_64-linux\"; builder = \"/bin/true\"; }",
    );
    let bare = ["--config", "build.sandbox-paths=[]"];
    w.sos(["shell", "none.nix", "-c", who].iter().chain(&bare))
        .fails(1)
        .says(&[
            "error[shell-none]",
            "--shell STORE_PATH",
            "build.sandbox-paths",
        ]);
    let tool = w.sos(["build", "--no-link", "-E", &tool]).ok().stdout;
    let shell = w
        .sos(
            ["shell", "none.nix", "--shell", tool.trim(), "-c", who]
                .iter()
                .chain(&bare),
        )
        .ok();
    assert!(
        shell.stdout.ends_with("-tool/bin/busybox\n"),
        "{}",
        shell.stdout
    );
}

#[test]
fn a_failed_build_can_be_entered() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let fail =
        "echo said; echo half > work; mkdir $out; echo part > $out/x; ln -s nowhere link; exit 3";
    w.write("f.nix", &recipe("bad-1.0", fail, ""));
    w.sos(["shell", "f.nix", "--at-failure"]).fails(1).says(&[
        "error[shell-no-state]",
        "build.keep-failed-states",
        "none is kept of any build",
    ]);
    let failed = w.sos(["build", "--no-link", "f.nix"]).fails(100);
    w.write("g.nix", &recipe("good", "echo x > $out", ""));
    w.sos(["shell", "g.nix", "--at-failure"])
        .fails(1)
        .says(&["error[shell-no-state]", "kept are those of `bad-1.0`"]);
    // The very command of the message.
    let line = failed
        .stderr
        .lines()
        .find(|l| l.contains("--at-failure"))
        .expect("a way in");
    let command = line.split('`').nth(1).expect("a command");
    let mut words: Vec<&str> = command.split(' ').skip(1).collect();
    assert_eq!(words, ["shell", "bad-1.0", "--at-failure"]);
    words.extend(["-c", "cat work $out/x; readlink link; echo again >> work"]);
    let shell = w.sos(&words).ok();
    assert_eq!(shell.stdout, "half\npart\nnowhere\n");
    // By target, by name, by derivation; and what was changed is still changed.
    let drv = w
        .sos(["eval", "--raw", "-E", "(import ./f.nix).drvPath"])
        .ok()
        .stdout;
    for name in ["f.nix", "bad", &drv] {
        let shell = w
            .sos(["shell", name, "--at-failure", "-c", "cat work"])
            .ok();
        assert_eq!(shell.stdout, "half\nagain\n", "{name}");
    }
    // One that succeeds and makes nothing can be looked at as well.
    w.write("none.nix", &recipe("none", "echo made > elsewhere", ""));
    w.sos(["build", "--no-link", "none.nix"])
        .fails(100)
        .says(&["build-no-output", "--at-failure`"]);
    let none = w
        .sos(["shell", "none", "--at-failure", "-c", "cat elsewhere"])
        .ok();
    assert_eq!(none.stdout, "made\n");
    // Without, it is as before the build, and the log of the failure is not touched.
    let files = w.sos(["shell", "bad", "-c", "ls -A /build"]).ok();
    assert_eq!(
        files.stdout, "",
        "the builder begins with an empty directory"
    );
    assert_eq!(w.sos(["log", "bad"]).ok().stdout, "said\n");
    left_nothing(&w, "bad-1.0");
    w.sos(["gc", "--dry-run"]).ok().says(&[
        "would remove 2 kept states of failed builds, which `sos shell NAME --at-failure` enters",
    ]);
    w.sos(["gc"])
        .ok()
        .says(&["\nremoved 2 kept states of failed builds"]);
    assert!(!w.sos(["gc"]).ok().stderr.contains("kept state"));
    w.sos(words).fails(1).says(&["error[shell-no-state]"]);
    // Of a derivation that is not known any more nothing but its name is left.
    w.sos(["shell", "forgotten-1.0", "--at-failure"]).says(&[
        "error[shell-no-state]: there is no kept state of a failed build of the name `forgotten-1.0`",
        "build it again",
    ]);
    w.sos(["shell", "f.nix", "--at-failure"])
        .fails(1)
        .says(&["error[shell-no-state]"]);
}

#[test]
fn a_refused_output_can_be_looked_at() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let refused = |name: &str, script: &str, more: &str| {
        w.write("f.nix", &recipe(name, script, more));
        w.sos(["build", "--no-link", "f.nix"])
            .fails(100)
            .says(&["build-bad-output", "--at-failure`"]);
        let look = "cat $out/f; chmod u+w $out/f; echo spoiled > $out/f; cat $out/f";
        let shell = w.sos(["shell", name, "--at-failure", "-c", look]).ok();
        assert_eq!(shell.stdout, "kept\nspoiled\n", "{name}");
    };
    let fifo = "mkdir $out; echo kept > $out/f; /bin/busybox mkfifo $out/p";
    refused("piped", fifo, "");
    // Refused when it has been read into the store: what the shell writes must not get there.
    let own = "mkdir $out; echo kept > $out/f; echo $out > $out/own";
    refused("checked", own, "allowedReferences = [ ];");
    w.write("g.nix", &recipe("same", "echo kept > $out", ""));
    let same = w.sos(["build", "--no-link", "g.nix"]).ok().stdout;
    assert_eq!(w.sos(["store", "cat", same.trim()]).ok().stdout, "kept\n");
    w.sos(["store", "check"]).ok();
}

/// The commands that a message advises for looking at states of failed builds.
fn ways_in(stderr: &str) -> Vec<Vec<String>> {
    let lines = stderr.lines().filter(|line| line.contains("--at-failure`"));
    lines
        .map(|line| {
            let command = line.split('`').nth(1).expect("a command");
            command.split(' ').skip(1).map(str::to_owned).collect()
        })
        .collect()
}

#[test]
fn what_is_advised_after_a_failure_finds_its_state() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let enter = |way: &[String]| {
        let words = way.iter().map(String::as_str);
        w.sos(words.chain(["-c", "cat work"])).ok().stdout
    };
    let fail = |what: &str| recipe("bad-1.0", &format!("echo {what} > work; exit 3"), "");
    w.write("f.nix", &fail("first"));
    let failed = w.sos(["build", "--no-link", "f.nix"]).fails(100);
    // Neither the new recipe nor a directory of that name is what was advised.
    w.write("f.nix", &fail("edited"));
    w.write("bad-1.0/file", "");
    w.sos(["shell", "f.nix", "--at-failure"]).fails(1).says(&[
        "error[shell-no-state]",
        "has changed since",
        "`sos shell bad-1.0 --at-failure`",
    ]);
    let ways = ways_in(&failed.stderr);
    assert_eq!(ways.len(), 1, "{}", failed.stderr);
    assert_eq!(enter(&ways[0]), "first\n");
    // Two of one name are told apart, in the log as well.
    let both = format!("{{ a = {}; b = {}; }}", fail("one"), fail("two"));
    w.write("f.nix", &both);
    let build = ["build", "--no-link", "-k", "-j1", "f.nix#a", "f.nix#b"];
    let failed = w.sos(build).fails(100);
    let mut said: Vec<String> = ways_in(&failed.stderr)
        .iter()
        .map(|way| enter(way))
        .collect();
    said.sort();
    assert_eq!(said, ["one\n", "two\n"], "{}", failed.stderr);
    // Nothing is advised that is not there.
    let few = ["--config", "build.keep-failed-states=1"];
    let failed = w.sos(build.iter().chain(&few)).fails(100);
    let ways = ways_in(&failed.stderr);
    assert_eq!(ways.len(), 1, "{}", failed.stderr);
    enter(&ways[0]);
    assert_eq!(states(&w).len(), 1);
}

/// The states that are kept.
fn states(w: &World) -> Vec<PathBuf> {
    let dir = std::fs::read_dir(w.store().join("failed"));
    dir.into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect()
}

#[test]
fn few_states_are_kept_and_none_in_use_is_freed() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let fail = |name: &str| {
        w.write(
            "f.nix",
            &recipe(name, "echo $name > who; echo > $out; exit 1", ""),
        );
        w.sos([
            "build",
            "--no-link",
            "f.nix",
            "--config",
            "build.keep-failed-states=2",
        ])
        .fails(100);
    };
    for name in ["a", "b", "c", "c"] {
        fail(name);
    }
    assert_eq!(states(&w).len(), 2);
    let who = |name: &str| w.sos(["shell", name, "--at-failure", "-c", "cat who"]);
    assert_eq!(who("b").ok().stdout, "b\n");
    assert_eq!(who("c").ok().stdout, "c\n");
    assert_ne!(who("a").code, 0, "it was the third newest");
    // No state is kept of what the machine lacks, or when none is wanted.
    w.sos([
        "build",
        "--no-link",
        "f.nix",
        "--config",
        "build.keep-failed-states=0",
    ])
    .fails(100);
    let mut child = w
        .command_of(&[
            "shell",
            "b",
            "--at-failure",
            "-c",
            "echo here; cat; cat who",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut said = child.stdout.take().expect("its output");
    let mut line = [0; 5];
    std::io::Read::read_exact(&mut said, &mut line).expect("it is inside");
    who("b").fails(1).says(&["error[shell-state-in-use]"]);
    w.sos(["gc"]).ok();
    assert_eq!(states(&w).len(), 1, "the one in use");
    drop(child.stdin.take());
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut said, &mut rest).expect("it ends");
    assert_eq!(rest, "b\n");
    assert!(child.wait().expect("it ends").success());
    w.sos(["gc"]).ok();
    assert_eq!(states(&w).len(), 0);
    store_is_clean(&w);
}

#[test]
fn what_has_no_sandbox_says_so() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let file = w.write("data", "x");
    w.write(
        "f.nix",
        &format!("builtins.derivation {{ name = \"got\"; system = \"builtin\"; builder = \"builtin:fetchurl\"; url = \"file://{}\"; outputHash = \"sha256-LXEWQrcmsEQBYnyp+6wy9chTD7GQPMTbAiWHF5IaxIE=\"; outputHashMode = \"flat\"; outputHashAlgo = \"sha256\"; }}", file.display()),
    );
    w.sos(["shell", "f.nix"])
        .fails(2)
        .says(&["error[shell-no-sandbox]", "`builtin:fetchurl`"]);
    w.sos(["shell", "f.nix", "two"])
        .fails(2)
        .says(&["error[shell-one-target]"]);
}

#[test]
fn a_conversation_in_a_terminal() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("f.nix", &recipe("talk", "echo x > $out", ""));
    let Some(mut t) = Terminal::start(&w.command_of(&["shell", "f.nix"]), 31, 99) else {
        return;
    };
    let modes = t.modes().local_modes;
    t.expect("sandbox of `talk`");
    t.expect("/build/.sos-run runs it");
    t.expect("$ ");
    assert_ne!(t.modes().local_modes, modes, "keys go through as they are");
    t.send(b"stty size; tty; echo do$((1))ne\n");
    let said = t.expect("do1ne\r\n");
    // Its terminal is that of the sandbox, the first and only one there.
    assert!(
        said.contains("31 99\r\n") && said.contains("/dev/pts/0\r\n"),
        "{said}"
    );
    // The shell reads ahead, so it must have come to the end of what it does before it is told more.
    t.expect("$ ");
    t.send(b"echo re$((1))ady; cat\n");
    t.expect("re1ady\r\n");
    t.send(b"an echo\n");
    t.expect("an echo\r\nan echo\r\n");
    // Ctrl-C is for the program that runs inside.
    t.send(b"\x03");
    t.expect("$ ");
    t.send(b"echo $?; echo al$((3))ive\n");
    let said = t.expect("al3ive");
    assert!(said.contains("130\r\n"), "{said}");
    // A program in the foreground is told that the window has changed.
    t.expect("$ ");
    let waits = "trap \"stty size; exit\" WINCH; echo re$((2))ady; while :; do sleep 0.1; done";
    t.send(format!("/bin/busybox sh -c '{waits}'\n").as_bytes());
    t.expect("re2ady\r\n");
    t.resize(20, 70);
    t.expect("20 70\r\n");
    t.expect("$ ");
    t.send(b"sleep 300 & exit 9\n");
    let family = descendants(t.pid());
    let (code, after) = (t.finish(), t.modes());
    assert_eq!(code, 9);
    assert_eq!(after.local_modes, modes, "the terminal is as it was");
    all_gone(&family, w.root());
    left_nothing(&w, "talk");
}

#[test]
fn a_command_in_a_terminal_has_one() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("f.nix", &recipe("talk", "echo x > $out", ""));
    let command = w.command_of(&[
        "shell",
        "f.nix",
        "-c",
        "stty size; read x; echo got $x; exit 4",
    ]);
    let Some(mut t) = Terminal::start(&command, 11, 44) else {
        return;
    };
    let said = t.expect("11 44\r\n");
    // Once, and on standard error: where that is no terminal, nothing is said but what the command says.
    assert_eq!(said.matches("sandbox of `talk`").count(), 1, "{said}");
    assert!(said.ends_with("inputs   none\r\n11 44\r\n"), "{said}");
    t.send(b"it\n");
    t.expect("got it\r\n");
    assert_eq!(t.finish(), 4);
}

/// Ends a shell from outside once it runs.
fn ended(by: Signal, code: i32) {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("f.nix", &recipe("talk", "echo x > $out", ""));
    let Some(mut t) = Terminal::start(&w.command_of(&["shell", "f.nix"]), 24, 80) else {
        return;
    };
    let modes = t.modes().local_modes;
    t.expect("$ ");
    t.send(b"sleep 400 & sleep 500\n");
    wait_until("the programs", || descendants(t.pid()).len() >= 5);
    let family = descendants(t.pid());
    t.signal(by);
    let (ended, after) = (t.finish(), t.modes());
    assert_eq!(ended, code);
    if by != Signal::KILL {
        assert_eq!(after.local_modes, modes, "the terminal is as it was");
    }
    all_gone(&family, w.root());
    // What a killed one leaves, the next one sweeps.
    w.sos(["build", "--no-link", "f.nix"]).ok();
    w.sos(["gc"]).ok();
    store_is_clean(&w);
}

#[test]
fn termination_ends_it() {
    ended(Signal::TERM, 143);
}

#[test]
fn a_kill_ends_it() {
    ended(Signal::KILL, 137);
}

/// A world with a step over a tiny root filesystem.
fn step(script: &str) -> Option<World> {
    let Tiny { world, .. } = Tiny::new()?;
    world.write("tiny.rootfs.toml", &tiny::recipe(&["greeter"], ""));
    world.write("look", script);
    world.write(
        "f.nix",
        "{ sos, ... }: sos.run { name = \"stepped\"; rootfs = sos.debian.rootfs ./tiny.rootfs.toml; script = builtins.readFile ./look; mounts.\"/opt/data\" = ./data; env.WORD = \"hi\"; }",
    );
    world.write("data/file", "mounted\n");
    Some(world)
}

#[test]
fn a_step_can_be_entered() {
    let look = format!("({LOOK}; cat /opt/data/file; ls -A / /run/sos) > $out || true");
    let Some(w) = step(&look) else { return };
    let built = w.sos(["build", "--no-link", "f.nix"]).ok().stdout;
    let built = cat(&w, &built);
    let inside = format!("echo > $out; {LOOK}; cat /opt/data/file; ls -A / /run/sos");
    let shell = w.sos(["shell", "f.nix", "-c", &inside]).ok();
    assert!(
        built.contains("WORD=hi") && built.contains("mounted"),
        "{built}"
    );
    assert_eq!(comparable(&shell.stdout), comparable(&built));
    // What is changed is changed for nobody else.
    w.sos(["shell", "f.nix", "-c", "echo x > /etc/new; rm /etc/group"])
        .ok();
    w.sos([
        "shell",
        "f.nix",
        "-c",
        "ls /etc/group; ! ls /etc/new 2>/dev/null",
    ])
    .ok();
    store_is_clean(&w);
}

#[test]
fn a_failed_step_can_be_entered() {
    let Some(w) = step(
        "echo half > /etc/half; chown 33:44 /etc/half; rm /etc/group; echo part > $out; exit 5",
    ) else {
        return;
    };
    w.sos(["build", "--no-link", "f.nix"]).fails(100).says(&[
        "`sos shell stepped --at-failure`",
        "as it stopped, but for `/tmp`",
    ]);
    let look = "cat /etc/half $out; stat -c %u:%g /etc/half; ls /etc/group 2>/dev/null; cat /run/sos/script; echo more >> /etc/half";
    let shell = w
        .sos(["shell", "stepped", "--at-failure", "-c", look])
        .fails(0)
        .stdout;
    assert!(shell.starts_with("half\npart\n33:44\necho half"), "{shell}");
    let shell = w
        .sos(["shell", "f.nix", "--at-failure", "-c", "cat /etc/half"])
        .ok()
        .stdout;
    assert_eq!(shell, "half\nmore\n");
    let fresh = w
        .sos([
            "shell",
            "f.nix",
            "-c",
            "ls /etc/half 2>/dev/null; ls /etc/group",
        ])
        .ok()
        .stdout;
    assert_eq!(fresh, "/etc/group\n");
    w.sos(["gc"]).ok();
    assert_eq!(states(&w).len(), 0);
    store_is_clean(&w);
}

#[test]
fn an_ordinary_user_has_it_too() {
    let Some(mut w) = step("echo half > /etc/half; exit 1") else {
        return;
    };
    let Some(user) = User::new("shell", true) else {
        return;
    };
    let _copy = w.with_program_for(&user);
    let as_user = |args: &[&str]| run(user.becomes(&mut w.command_of(args)));
    as_user(&["build", "--no-link", "f.nix"]).fails(100);
    let shell = as_user(&[
        "shell",
        "stepped",
        "--at-failure",
        "-c",
        "cat /etc/half; id -u; exit 6",
    ])
    .fails(6);
    assert_eq!(shell.stdout, "half\n0\n");
    w.write("plain.nix", &recipe("plain", "exit 1", ""));
    let busybox = Path::new("/bin/busybox")
        .canonicalize()
        .or_else(|_| Path::new("/usr/bin/busybox").canonicalize());
    let shown = format!(
        "build.sandbox-paths=[\"/bin/busybox={}\"]",
        busybox.expect("busybox").display()
    );
    let shell = as_user(&[
        "shell",
        "plain.nix",
        "--config",
        &shown,
        "-c",
        "id -u; echo x > $out; cat $out",
    ])
    .ok();
    assert_eq!(shell.stdout, "1000\nx\n");
    as_user(&["gc"]).ok();
}

#[test]
fn it_waits_for_its_inputs_only() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let bad = recipe("broken-input", "exit 1", "");
    w.write(
        "f.nix",
        &recipe("job", "echo x > $out", &format!("dep = {bad};")),
    );
    w.sos(["shell", "f.nix", "-c", "true"])
        .fails(100)
        .says(&["`broken-input` failed"]);
}
