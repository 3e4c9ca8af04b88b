//! Builds that are stopped, put aside or killed while they draw.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use super::{Stage, WAIT, check_end, check_frame};
use crate::support::peer;
use crate::support::process::{all_gone, descendants};
use crate::support::terminal::Terminal;

/// What the first Ctrl-C is answered with, and what the next one and other signals are.
const DRAINS: &str = "starting nothing more, what runs comes to its end; Ctrl-C once more stops it";
const STOPS: &str = "stopping; one more signal ends sos at once";

/// Stops a build by its keyboard or by a signal.
fn stopped(stop: impl FnOnce(&mut Terminal), code: i32, word: &str) {
    let Some(stage) = Stage::new() else {
        return;
    };
    stage.jobs(3, &format!("echo line @; {WAIT}; echo x > $out"));
    let Some(mut terminal) = Terminal::start(&stage.build(&["-j", "2"]), 24, 80) else {
        return;
    };
    terminal.at_every_frame(check_frame);
    terminal.wait_for_text("next: ");
    stop(&mut terminal);
    assert_eq!(terminal.finish(), code);
    let rows = check_end(&mut terminal);
    let at = |text: &str| {
        let found: Vec<usize> = (0..rows.len())
            .filter(|at| rows[*at].contains(text))
            .collect();
        assert_eq!(found.len(), 1, "`{text}` in {rows:#?}");
        found[0]
    };
    assert!(at(STOPS) < at("built 0, cached 0, stopped 2, not tried 2"));
    assert!(
        rows.last().is_some_and(|row| row.contains(word)),
        "{rows:#?}"
    );
}

/// The builders are in no group of the terminal: Ctrl-C reaches them only through `sos`.
#[test]
fn ctrl_c_starts_nothing_more_and_what_runs_comes_to_its_end() {
    let Some(mut stage) = Stage::new() else {
        return;
    };
    stage.jobs(3, &format!("echo line @; {WAIT}; echo x > $out"));
    let Some(mut terminal) = Terminal::start(&stage.build(&["-j", "2"]), 24, 80) else {
        return;
    };
    terminal.at_every_frame(check_frame);
    terminal.wait_for_text("next: ");
    terminal.send(b"\x03");
    terminal.wait_for_text(DRAINS);
    // One after the other: the slot of the first is free while the second runs.
    for n in 1..=2 {
        stage.open();
        terminal.wait_for("a line", |screen| {
            screen.contents().matches(" ✓ job-").count() == n
        });
    }
    assert_eq!(terminal.finish(), 130);
    let rows = check_end(&mut terminal);
    let has = |text: &str| rows.iter().any(|row| row.contains(text));
    assert!(
        has("built 2, cached 0, not tried 2") && !has(STOPS),
        "{rows:#?}"
    );
    assert!(
        rows.last().is_some_and(|row| row.contains("interrupted")),
        "{rows:#?}"
    );
    // What was built is there.
    stage.open();
    stage
        .world
        .sos(["build", "--no-link", "f.nix"])
        .ok()
        .says(&["built 2, cached 2"]);
}

#[test]
fn ctrl_c_twice_stops_what_runs_and_leaves_a_clean_screen() {
    let twice = |terminal: &mut Terminal| {
        terminal.send(b"\x03");
        terminal.wait_for_text(DRAINS);
        terminal.send(b"\x03");
    };
    stopped(twice, 130, "interrupted");
}

/// A build that is told to stop waits for the database, which somebody else holds: one more Ctrl-C does not.
#[test]
fn a_third_ctrl_c_ends_at_once_and_leaves_a_clean_screen() {
    let (Some(stage), Some(python)) = (Stage::new(), peer("python3")) else {
        return;
    };
    stage.jobs(3, &format!("echo line @; {WAIT}; echo x > $out"));
    let Some(mut terminal) = Terminal::start(&stage.build(&["-j", "2"]), 24, 80) else {
        return;
    };
    terminal.at_every_frame(check_frame);
    terminal.wait_for_text("next: ");
    let database = stage.world.store().join("db/sos.sqlite");
    assert!(database.exists(), "{}", database.display());
    let hold = "import sqlite3, sys\n\
        db = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)\n\
        db.execute('BEGIN IMMEDIATE')\n\
        print('held', flush=True)\n\
        sys.stdin.read()\n";
    let mut holder = Command::new(python)
        .args(["-c", hold])
        .arg(&database)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python runs");
    let mut said = String::new();
    let stdout = holder.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut said).expect("a line");
    assert_eq!(said, "held\n");
    let family = descendants(terminal.pid());
    assert!(family.len() > 1, "{family:?}");
    for answer in [DRAINS, STOPS] {
        terminal.send(b"\x03");
        terminal.wait_for_text(answer);
    }
    terminal.send(b"\x03");
    assert_eq!(terminal.finish(), 130);
    let rows = terminal.history();
    // No summary, and nothing of what was drawn.
    for text in ["built 0", "next: ", "done", "line "] {
        assert!(
            !rows.iter().any(|row| row.contains(text)),
            "`{text}` in {rows:#?}"
        );
    }
    drop(holder.stdin.take());
    holder.wait().expect("python ends");
    all_gone(&family, stage.world.root());
    stage.world.sos(["store", "check"]).ok();
}

#[test]
fn termination_leaves_a_clean_screen() {
    stopped(|terminal| terminal.signal(Signal::TERM), 143, "interrupted");
}

#[test]
fn ctrl_z_gives_the_terminal_back_and_later_draws_again() {
    let Some(mut stage) = Stage::new() else {
        return;
    };
    stage.jobs(2, &format!("echo line @; {WAIT}; echo x > $out"));
    let Some(mut terminal) = Terminal::start(&stage.build(&["-j", "2"]), 24, 80) else {
        return;
    };
    terminal.at_every_frame(check_frame);
    for _ in 0..2 {
        terminal.wait_for_text("next: last waits for 2");
        terminal.send(b"\x1a");
        terminal.wait_stopped();
        let rows = terminal.rows();
        // The keyboard shows what was typed.
        assert!(
            rows.iter().all(|row| row.is_empty() || row == "^Z"),
            "{rows:#?}"
        );
        terminal.signal(Signal::CONT);
        terminal.wait_for_frames(1);
    }
    stage.open();
    stage.open();
    assert_eq!(terminal.finish(), 0);
    check_end(&mut terminal);
}

#[test]
fn a_job_in_the_background_draws_nothing() {
    let Some(mut stage) = Stage::new() else {
        return;
    };
    stage.jobs(2, &format!("echo line @; {WAIT}; echo x > $out"));
    let build = stage.build(&["-j", "1"]);
    let mut shell = stage.world.command();
    let words: Vec<String> = std::iter::once(build.get_program())
        .chain(build.get_args())
        .map(|word| word.to_str().expect("text").to_owned())
        .collect();
    // With `-m` a shell gives each job a process group of its own, and keeps the terminal.
    let mut wrapped = Command::new("/bin/sh");
    wrapped
        .args(["-m", "-c", "\"$@\" & wait $!", "sh"])
        .args(&words);
    wrapped.current_dir(stage.world.project());
    wrapped.envs(shell.get_envs().filter_map(|(k, v)| Some((k, v?))));
    shell = wrapped;
    let Some(mut terminal) = Terminal::start(&shell, 24, 80) else {
        return;
    };
    for n in 1..=2 {
        stage.open();
        terminal.wait_for("a line", |screen| {
            screen.contents().matches(" ✓ job-").count() == n
        });
    }
    assert_eq!(terminal.finish(), 0);
    assert_eq!(terminal.frames, 0, "{}", terminal.raw.escape_ascii());
    let rows = check_end(&mut terminal);
    assert!(
        rows.iter().any(|row| row.starts_with("built 3,")),
        "{rows:#?}"
    );
}

#[test]
fn a_display_that_is_killed_leaves_a_terminal_that_works() {
    let Some(stage) = Stage::new() else {
        return;
    };
    stage.jobs(2, &format!("echo line @; {WAIT}; echo x > $out"));
    let Some(mut terminal) = Terminal::start(&stage.build(&[]), 24, 80) else {
        return;
    };
    terminal.wait_for_text("next: ");
    terminal.wait_for_frames(2);
    terminal.signal(Signal::KILL);
    assert_eq!(terminal.finish(), 137);
    // There was nobody to take the region away, and nothing else is there to be mended.
    check_frame(terminal.screen());
    assert_eq!(terminal.screen().fgcolor(), vt100::Color::Default);
    let wraps = |mode: &[u8]| {
        let found = terminal.raw.windows(mode.len()).rposition(|w| w == mode);
        found.expect("a mode")
    };
    assert!(wraps(b"\x1b[?7h") > wraps(b"\x1b[?7l"));
}
