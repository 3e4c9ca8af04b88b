//! Terminals that can do less or more, and streams that are none.

use std::process::{Command, Stdio};

use super::super::builds::recipe;
use super::{Stage, WAIT, check_end, check_frame};
use crate::support::run;
use crate::support::terminal::Terminal;

/// A build of three, with what a display could want to say of it.
fn three(stage: &Stage) {
    stage.jobs(2, "echo hello @ é; echo x > $out");
}

#[test]
fn a_dumb_terminal_gets_lines() {
    let Some(mut stage) = Stage::new() else {
        return;
    };
    stage.world.set("TERM", "dumb");
    three(&stage);
    let Some(mut terminal) = Terminal::start(&stage.build(&["-L"]), 24, 80) else {
        return;
    };
    assert_eq!(terminal.finish(), 0);
    assert!(!terminal.raw.contains(&0x1b));
    let rows = terminal.history();
    assert!(rows.contains(&"job-0> hello 0 é".to_owned()), "{rows:#?}");
    assert!(rows.iter().any(|r| r.starts_with("[3/3] built last in ")));
    // A terminal of a machine that builds for nobody is no better.
    stage.world.set("TERM", "xterm-256color");
    stage.world.set("CI", "true");
    stage.jobs(1, "echo ci; echo x > $out");
    let mut terminal =
        Terminal::start(&stage.build(&["--color", "never"]), 24, 80).expect("as before");
    assert_eq!(terminal.finish(), 0);
    assert!(!terminal.raw.contains(&0x1b));
    stage.world.set("TERM", "dumb");
    // Nor does it help to ask for more.
    stage.jobs(1, "echo more; echo x > $out");
    let build = stage.build(&["--progress", "tty"]);
    let mut terminal = Terminal::start(&build, 24, 80).expect("as before");
    assert_eq!(terminal.finish(), 0);
    assert!(!terminal.raw.contains(&0x1b));
}

/// Whether some of what was written sets a colour.
fn has_color(raw: &[u8]) -> bool {
    raw.windows(2).any(|w| w == b"\x1b[") && {
        let text = String::from_utf8_lossy(raw);
        text.split("\u{1b}[").skip(1).any(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != ';');
            end.is_some_and(|end| rest[end..].starts_with('m'))
        })
    }
}

#[test]
fn colour_is_a_matter_of_flags_then_of_variables() {
    let Some(mut stage) = Stage::new() else {
        return;
    };
    let mut n = 0;
    let mut colored = |stage: &mut Stage, more: &[&str]| -> Option<bool> {
        n += 1;
        stage.jobs(1, &format!("echo {n}; echo x > $out"));
        let mut terminal = Terminal::start(&stage.build(more), 24, 80)?;
        assert_eq!(terminal.finish(), 0);
        check_end(&mut terminal);
        Some(has_color(&terminal.raw))
    };
    let Some(plain) = colored(&mut stage, &[]) else {
        return;
    };
    assert!(plain, "a terminal has colours");
    assert_eq!(colored(&mut stage, &["--color", "never"]), Some(false));
    stage.world.set("NO_COLOR", "1");
    assert_eq!(colored(&mut stage, &[]), Some(false));
    stage.world.set("CLICOLOR_FORCE", "1");
    assert_eq!(colored(&mut stage, &[]), Some(false), "NO_COLOR is first");
    assert_eq!(colored(&mut stage, &["--color", "always"]), Some(true));
    stage.world.set("NO_COLOR", "");
    stage.world.set("TERM", "dumb");
    assert_eq!(colored(&mut stage, &["-L"]), Some(false), "lines have none");
    let script = r"printf '\033[31mred\033[0m\n'; exit 1";
    stage.world.write("f.nix", &recipe("red", script, ""));
    let run = run(&mut stage.build(&["-L"])).fails(100);
    assert!(
        run.stderr.contains("red> \u{1b}[31mred\u{1b}[0m"),
        "{run:?}"
    );
}

#[test]
fn without_a_utf8_locale_everything_is_ascii() {
    let Some(mut stage) = Stage::new() else {
        return;
    };
    stage.world.set("LANG", "C");
    stage.jobs(2, &format!("echo hello @ é; {WAIT}; echo x > $out"));
    let Some(mut terminal) = Terminal::start(&stage.build(&["-L"]), 24, 80) else {
        return;
    };
    terminal.at_every_frame(check_frame);
    terminal.wait_for_text("hello 1 ?");
    stage.open();
    stage.open();
    assert_eq!(terminal.finish(), 0);
    assert!(terminal.raw.is_ascii());
    let rows = check_end(&mut terminal);
    assert!(rows.iter().any(|r| r.starts_with(" ok last ")), "{rows:#?}");
}

#[test]
fn the_taskbar_is_used_where_it_is_known() {
    let Some(mut stage) = Stage::new() else {
        return;
    };
    stage.jobs(1, &format!("{WAIT}; echo x > $out"));
    let Some(mut terminal) = Terminal::start(&stage.build(&[]), 24, 80) else {
        return;
    };
    terminal.wait_for_text("0/2 done");
    stage.open();
    assert_eq!(terminal.finish(), 0);
    assert!(terminal.seen().taskbar.is_empty(), "not known");
    stage.world.set("WT_SESSION", "a");
    stage.jobs(1, &format!("{WAIT}; echo y > $out"));
    let mut terminal = Terminal::start(&stage.build(&[]), 24, 80).expect("as before");
    terminal.wait_for_text("0/2 done");
    stage.open();
    assert_eq!(terminal.finish(), 0);
    check_end(&mut terminal);
    let told = &terminal.seen().taskbar;
    assert_eq!(told.first().map(String::as_str), Some("1;0"));
    assert_eq!(told.last().map(String::as_str), Some("0;0"), "{told:?}");
}

#[test]
fn streams_that_are_closed_do_not_matter() {
    let Some(stage) = Stage::new() else {
        return;
    };
    for (n, (redirect, stdout)) in [("2>&-", true), (">&-", false), (">&- 2>&-", false)]
        .into_iter()
        .enumerate()
    {
        stage.jobs(1, &format!("echo {n}; echo x > $out"));
        let build = stage.build(&["-L"]);
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &format!("exec \"$0\" \"$@\" {redirect}")]);
        shell.arg(build.get_program()).args(build.get_args());
        shell.env_clear();
        shell.envs(build.get_envs().filter_map(|(k, v)| Some((k, v?))));
        shell.current_dir(stage.world.project());
        let run = run(&mut shell).ok();
        assert_eq!(run.stdout.starts_with("/nix/store/"), stdout, "{redirect}");
    }
    // A reader that goes away at once.
    for progress in ["json", "plain"] {
        stage.jobs(1, &format!("echo {progress}; echo x > $out"));
        let mut build = stage.build(&["--progress", progress]);
        build.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = build.spawn().expect("it starts");
        drop(child.stdout.take());
        let out = child.wait_with_output().expect("it ends");
        assert!(out.status.success(), "{out:?}");
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(!stderr.contains("error"), "{stderr}");
    }
}

/// Where a log of GitHub would take a line for a command.
fn commands(text: &str) -> Vec<&str> {
    text.lines()
        .map(str::trim_start)
        .filter(|line| line.starts_with("::") || line.starts_with("##["))
        .collect()
}

#[test]
fn github_gets_errors_with_their_place_and_no_commands_of_builds() {
    let Some(mut stage) = Stage::new() else {
        return;
    };
    stage.world.set("GITHUB_ACTIONS", "true");
    let script = "echo ::add-mask::owned; echo '##[error]owned'; exit 1";
    stage.world.write("f.nix", &recipe("ci", script, ""));
    let run = run(&mut stage.build(&["-L"])).fails(100);
    let found = commands(&run.stderr);
    assert_eq!(found.len(), 1, "{}", run.stderr);
    assert!(
        found[0].starts_with("::error file=f.nix,line=1,col=") && found[0].contains("`ci` failed"),
        "{}",
        found[0]
    );
    let last = run.stderr.trim_end().lines().last().expect("a line");
    assert!(
        last.starts_with("built 0, cached 0, failed 1 in "),
        "{last}"
    );
}
