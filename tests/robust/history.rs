//! Fetches for which `git` runs: what the keys of a terminal mean for it, and that it does not outlive `sos`.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::support::process::{Process, all_gone, descendants, pid, signal, wait_until};
use crate::support::server::Server;
use crate::support::terminal::Terminal;
use crate::support::{World, finish, peer, run, start};

const DRAINS: &str = "starting nothing more, what runs comes to its end; Ctrl-C once more stops it";

/// A repository behind a web server that does not answer yet, and a recipe that needs an archive of it.
struct Stage {
    world: World,
    server: Server,
}

impl Stage {
    fn new() -> Option<Self> {
        let git = peer("git")?;
        let world = World::new();
        let place = world.root().join("served/thing.git");
        std::fs::create_dir_all(&place).expect("a directory");
        let told = |at: &Path, words: &[&str]| {
            let mut command = Command::new(&git);
            command.current_dir(at).args(words);
            for role in ["AUTHOR", "COMMITTER"] {
                command.env(format!("GIT_{role}_NAME"), "somebody");
                command.env(format!("GIT_{role}_EMAIL"), "somebody@example.org");
                command.env(format!("GIT_{role}_DATE"), "1700000000 +0000");
            }
            run(&mut command).ok().stdout
        };
        let work = world.root().join("work");
        std::fs::create_dir_all(&work).expect("a directory");
        told(&work, &["init", "--quiet"]);
        std::fs::write(work.join("file"), "content\n").expect("a file");
        told(&work, &["add", "."]);
        told(&work, &["commit", "--quiet", "--message", "first"]);
        told(&work, &["tag", "v1"]);
        told(&place, &["init", "--quiet", "--bare"]);
        let to = place.display().to_string();
        told(&work, &["push", "--quiet", &to, "HEAD", "v1"]);
        // What a server needs that only hands out files.
        told(&place, &["update-server-info"]);
        let archive = world.root().join("archive.tar");
        let out = format!("--output={}", archive.display());
        told(&work, &["archive", "--prefix=thing-1/", &out, "v1"]);
        let sum = run(Command::new(peer("sha256sum")?).arg(&archive))
            .ok()
            .stdout;
        let hash = sum.split_whitespace().next().expect("a hash");
        let server = Server::start(&world.root().join("served"));
        server.hold();
        let fetch = format!(
            r#"derivation {{ name = "thing-1.tar"; system = "builtin"; builder = "builtin:fetch"; __structuredAttrs = true;
  urls = [ ]; git = "{}/thing.git~v1"; outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "{hash}"; }}"#,
            server.url()
        );
        world.write("f.nix", &fetch);
        Some(Self { world, server })
    }

    fn build(&self) -> Command {
        self.world.command_of(&["build", "--no-link", "f.nix"])
    }

    /// Waits until `git` waits for an answer. Returns it, with what it has started.
    fn asks(&self, of: rustix::process::Pid) -> Vec<Process> {
        wait_until("a request", || !self.server.asked().is_empty());
        let family = descendants(of);
        assert!(
            family.iter().filter(|one| one.runs("git")).count() >= 2,
            "git and what it speaks through: {family:?}"
        );
        family
    }
}

/// A clone that waits for an answer, in a terminal in which Ctrl-C was pressed once; what the clone consists of comes with it.
fn interrupted() -> Option<(Stage, Terminal, Vec<Process>)> {
    let stage = Stage::new()?;
    let mut terminal = Terminal::start(&stage.build(), 24, 100)?;
    let family = stage.asks(terminal.pid());
    terminal.send(b"\x03");
    terminal.wait_for_text(DRAINS);
    Some((stage, terminal, family))
}

#[test]
fn ctrl_c_lets_a_clone_come_to_its_end() {
    let Some((stage, mut terminal, family)) = interrupted() else {
        return;
    };
    // Not even a signal that it has not been given yet is left for it.
    let now = descendants(terminal.pid());
    assert!(family.iter().all(|one| now.contains(one)), "{now:?}");
    stage.server.open();
    assert_eq!(terminal.finish(), 130);
    let rows = terminal.history().join("\n");
    assert!(rows.contains("fetched 1"), "{rows}");
    let again = ["build", "--no-link", "--offline", "f.nix"];
    stage.world.sos(again).ok();
}

#[test]
fn ctrl_c_twice_ends_a_clone() {
    let Some((stage, mut terminal, family)) = interrupted() else {
        return;
    };
    terminal.send(b"\x03");
    assert_eq!(terminal.finish(), 130);
    all_gone(&family, stage.world.root());
    let rows = terminal.history().join("\n");
    assert!(
        rows.contains("stopped 1") && !rows.contains("cannot fetch"),
        "{rows}"
    );
}

/// Kills `sos` while `git` waits for a server that never says anything: nothing is left of it.
fn killed(stage: &Stage, words: &[&str]) {
    let child = start(&mut stage.world.command_of(words));
    let family = stage.asks(pid(&child));
    signal(&child, Signal::KILL);
    finish(child, std::time::Duration::from_secs(60)).fails(-1);
    all_gone(&family, stage.world.root());
}

#[test]
fn a_clone_ends_with_a_sos_that_is_killed() {
    let Some(stage) = Stage::new() else { return };
    killed(&stage, &["build", "--no-link", "f.nix"]);
    // That of an evaluation, too.
    let Some(stage) = Stage::new() else { return };
    let url = stage.server.url();
    let code = format!(
        "(builtins.fetchGit {{ url = \"{url}/thing.git\"; ref = \"refs/tags/v1\"; }}).outPath"
    );
    killed(&stage, &["eval", "--impure", "--expr", &code]);
}

/// Kills one process alone while `git` waits for a server that never says anything: that of this number on the way from the `git` that
/// was started up to `sos`.
fn killed_alone(up: usize) {
    let Some(stage) = Stage::new() else { return };
    let child = start(&mut stage.build());
    let family = stage.asks(pid(&child));
    let parent = |of: &Process| family.iter().find(|one| of.has_parent(one));
    let is_first =
        |one: &&Process| one.runs("git") && !parent(one).is_some_and(|by| by.runs("git"));
    let git = family.iter().find(is_first).expect("git");
    let way: Vec<&Process> = std::iter::successors(Some(git), |one| parent(one)).collect();
    assert_eq!(way.len(), 3, "git and its guards: {family:?}");
    way[up].signal(Signal::KILL);
    let ended = finish(child, std::time::Duration::from_secs(60)).fails(5);
    let told = "cannot fetch `thing-1.tar`: its git repository gives no archive";
    assert!(ended.stderr.contains(told), "{}", ended.stderr);
    let told = "`git` ended with signal: 9 (SIGKILL)\n";
    assert!(ended.stderr.contains(told), "{}", ended.stderr);
    all_gone(&family, stage.world.root());
}

#[test]
fn a_clone_ends_with_a_git_that_is_killed() {
    killed_alone(0);
}

#[test]
fn a_clone_ends_with_a_guard_that_is_killed() {
    killed_alone(1);
    killed_alone(2);
}
