//! What a person sees: the program on a terminal, its output read by a parser that others wrote.

use std::cell::RefCell;
use std::fs::File;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::rc::Rc;

use rustix::process::Signal;

use super::builds::recipe;
use crate::support::terminal::Terminal;
use crate::support::{World, peer, run};

/// A world on a terminal, whose builds wait for a word at a gate.
pub(super) struct Stage {
    pub(super) world: World,
    /// Both ends of a pipe that builds see as `/gate/go`: one line lets one of them on. Since it is open here, nobody waits for it
    /// to be opened, and nobody meets its end.
    gate: File,
}

/// Lets a build wait for the gate.
pub(super) const WAIT: &str = "read word < /gate/go";

impl Stage {
    pub(super) fn new() -> Option<Self> {
        let busybox = peer("busybox")?;
        let mut world = World::new();
        let dir = world.root().join("gate");
        std::fs::create_dir(&dir).expect("a directory");
        let go = dir.join("go");
        let mode = rustix::fs::Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(rustix::fs::CWD, &go, rustix::fs::FileType::Fifo, mode, 0)
            .expect("a pipe");
        // What the mode is, whatever the mask of this process.
        rustix::fs::chmod(&go, mode).expect("a mode");
        world.write(
            "../home/.config/sos/config.toml",
            &format!(
                "[build]\nsandbox-paths = [\"/bin/busybox={}\", \"/gate={}\"]\n",
                busybox.display(),
                dir.display()
            ),
        );
        world.set("TERM", "xterm-256color");
        let gate = File::options().read(true).write(true).open(go);
        let gate = gate.expect("both ends");
        Some(Self { world, gate })
    }

    /// Lets one build on.
    pub(super) fn open(&mut self) {
        self.gate.write_all(b"\n").expect("it can be written");
    }

    /// Several derivations `job-N`, each of which runs a script in which `@` stands for its number, and one more that needs them.
    pub(super) fn jobs(&self, count: usize, script: &str) {
        let jobs: Vec<String> = (0..count)
            .map(|n| {
                let script = script.replace('@', &n.to_string());
                format!("({})", recipe(&format!("job-{n}"), &script, ""))
            })
            .collect();
        let last = recipe(
            "last",
            "echo x > $out",
            &format!("jobs = [ {} ];", jobs.join(" ")),
        );
        self.world.write("f.nix", &last);
    }

    fn build(&self, more: &[&str]) -> Command {
        let mut command = self.world.command_of(&["build", "--no-link", "f.nix"]);
        command.args(more);
        command
    }
}

/// The row of the headline and the rows below it that are not empty, if anything is drawn.
fn region(screen: &vt100::Screen) -> Vec<String> {
    let (row, _) = screen.cursor_position();
    let (_, columns) = screen.size();
    let mut rows: Vec<String> = screen
        .rows(0, columns)
        .skip(usize::from(row))
        .map(|row| row.trim_end().to_owned())
        .collect();
    while rows.last().is_some_and(String::is_empty) {
        rows.pop();
    }
    rows
}

/// What holds whenever a frame is complete.
fn check_frame(screen: &vt100::Screen) {
    let (height, width) = screen.size();
    let (row, column) = screen.cursor_position();
    let region = region(screen);
    let shown = screen.contents();
    assert_eq!(
        column, 0,
        "the cursor waits at the start of a row:\n{shown}"
    );
    assert!(!screen.hide_cursor() && !screen.alternate_screen());
    let limit = if height < 8 || width < 60 {
        1
    } else {
        usize::from(height / 3).min(10)
    };
    assert!(region.len() <= limit, "{height}x{width}:\n{shown}");
    if let Some(first) = region.first() {
        assert!(first.starts_with(['━', '=']), "a headline:\n{shown}");
    }
    for at in 0..region.len() {
        let at = row + u16::try_from(at).expect("a row");
        assert!(!screen.row_wrapped(at), "row {at} is too wide:\n{shown}");
    }
}

/// What holds at the end: the summary is there, and nothing of the region.
#[track_caller]
fn check_end(terminal: &mut Terminal) -> Vec<String> {
    let rows = terminal.history();
    let left: Vec<&String> = rows
        .iter()
        .filter(|row| {
            row.starts_with(['━', '='])
                || row.contains(" next: ")
                || row.contains("   and ")
                || row.chars().any(|c| ('\u{2800}'..='\u{28ff}').contains(&c))
        })
        .collect();
    assert!(left.is_empty(), "left of the region: {left:?}\n{rows:#?}");
    let screen = terminal.screen();
    assert_eq!(screen.cursor_position().1, 0);
    assert!(!screen.hide_cursor() && !screen.alternate_screen() && !screen.bracketed_paste());
    assert_eq!(
        (screen.fgcolor(), screen.bgcolor(), screen.bold()),
        (vt100::Color::Default, vt100::Color::Default, false)
    );
    assert_eq!(terminal.seen().strange, Vec::<String>::new());
    rows
}

#[test]
fn a_build_on_a_terminal_ends_with_its_summary_and_its_path() {
    let Some(stage) = Stage::new() else {
        return;
    };
    stage
        .world
        .write("f.nix", &recipe("shown", "echo x > $out", ""));
    let Some(mut terminal) = Terminal::start(&stage.build(&[]), 24, 80) else {
        return;
    };
    assert_eq!(terminal.finish(), 0);
    let rows = check_end(&mut terminal);
    assert!(rows[0].starts_with(" ✓ shown "), "{rows:#?}");
    assert!(rows[1].starts_with("built 1, cached 0 in "), "{rows:#?}");
    assert!(
        rows[2].starts_with("/nix/store/") && rows.len() == 3,
        "{rows:#?}"
    );
    assert_eq!(terminal.screen().cursor_position(), (3, 0));
}

/// Builds eleven things, four at once, in a window, and looks at every frame.
fn in_a_window(height: u16, width: u16) {
    const JOBS: usize = 10;
    let Some(mut stage) = Stage::new() else {
        return;
    };
    stage.jobs(
        JOBS,
        &format!("echo line @ of 日本語 🦀; {WAIT}; echo x > $out"),
    );
    let Some(mut terminal) = Terminal::start(&stage.build(&["-j", "4"]), height, width) else {
        return;
    };
    let most = Rc::new(RefCell::new(0));
    let seen = most.clone();
    terminal.at_every_frame(move |screen| {
        check_frame(screen);
        let mut most = seen.borrow_mut();
        *most = region(screen).len().max(*most);
    });
    for done in 0..JOBS {
        terminal.wait_for_text(&format!("━ {done}/{} done", JOBS + 1));
        if height == 24 {
            terminal.wait_for_text("line ");
            terminal.wait_for_text("next: ");
        }
        stage.open();
    }
    assert_eq!(terminal.finish(), 0);
    // Four run and more wait: the window is used as far as it may.
    let rows = match (height, width) {
        (..8, _) | (_, ..60) => 1,
        _ => usize::from(height / 3).min(6),
    };
    assert_eq!(*most.borrow(), rows, "{height}x{width}");
    let rows = check_end(&mut terminal);
    let ended: Vec<&str> = rows
        .iter()
        .filter_map(|row| row.strip_prefix(" ✓ ")?.split(' ').next())
        .collect();
    assert_eq!(ended.len(), JOBS + 1, "{rows:#?}");
    assert_eq!(ended.last(), Some(&"last"));
    // Each of them once, in the order in which they were written.
    let raw = String::from_utf8_lossy(&terminal.raw);
    let mut places: Vec<(usize, &str)> = (0..JOBS)
        .map(|n| {
            let marked = ended.iter().find(|name| **name == format!("job-{n}"));
            let name = marked.unwrap_or_else(|| panic!("no job-{n}: {rows:#?}"));
            let line = format!("✓\u{1b}[0m \u{1b}[36m{name} ");
            assert_eq!(raw.matches(&line).count(), 1);
            (raw.find(&line).expect("a line"), *name)
        })
        .collect();
    places.sort_unstable();
    let written: Vec<&str> = places.into_iter().map(|(_, name)| name).collect();
    assert_eq!(written, ended[..JOBS]);
    let foot: Vec<&String> = rows.iter().rev().take(3).collect();
    let summary = foot.iter().any(|row| row.starts_with("built 11, cached 0"));
    assert!(summary, "{rows:#?}");
}

#[test]
fn a_usual_window() {
    in_a_window(24, 80);
}

#[test]
fn large_windows() {
    in_a_window(60, 200);
    in_a_window(100, 300);
}

#[test]
fn small_windows() {
    in_a_window(8, 60);
    in_a_window(7, 59);
    in_a_window(5, 40);
}

#[test]
fn a_window_that_changes_its_size() {
    let Some(mut stage) = Stage::new() else {
        return;
    };
    stage.jobs(6, &format!("echo line @; {WAIT}; echo x > $out"));
    let Some(mut terminal) = Terminal::start(&stage.build(&["-j", "4"]), 24, 80) else {
        return;
    };
    terminal.wait_for_text("next: ");
    for (height, width) in [
        (24, 70),
        (9, 62),
        (40, 150),
        (5, 40),
        (6, 80),
        (50, 100),
        (24, 30),
        (24, 80),
    ] {
        terminal.resize(height, width);
        // The first may have been drawn for the window before.
        terminal.wait_for_frames(3);
        check_frame(terminal.screen());
        let rows = terminal.rows();
        let headlines = rows.iter().filter(|row| row.starts_with("━ ")).count();
        assert_eq!(headlines, 1, "{height}x{width}: {rows:#?}");
        assert!(!region(terminal.screen()).is_empty());
    }
    for _ in 0..6 {
        stage.open();
    }
    assert_eq!(terminal.finish(), 0);
    let rows = check_end(&mut terminal);
    let ended = rows.iter().filter(|row| row.starts_with(" ✓ ")).count();
    assert_eq!(ended, 7, "{rows:#?}");
}

/// What programs write that want to own the terminal, as `printf` of a shell writes it; each leaves `<N>` to be seen.
const HOSTILE: &[&str] = &[
    r"\033]0;owned\007<1>",
    r"\033]2;owned\033\\<2>",
    r"\033]52;c;b3duZWQ=\007<3>",
    r"\033Pq#0;2;0;0;0\033\\<4>",
    r"\033[2J\033[H<5>",
    r"\033[10A\033[99D<6>",
    r"\033[?1049h<7>",
    r"\033[2;3r<8>",
    r"\033[?2004h\033[?25l\033[?1000h<9>",
    r"\302\233\063\061m\302\235\060;owned\302\234<10>",
    r"\342\200\256<11>\342\201\246",
    r"\033c\033(0\033)0\016<12>",
    r"\033[31;1;7m<13>",
    r"\033[8;10;10t\033[6n\033[c\033]11;?\007<14>",
    r"\377\376\200\233\063\061m<15>",
    r"a\000b\007\010\010\013\014<16>",
    r"old\rnew<17>",
    r"\033_Gowned\033\\\033^owned\033\\\033Xowned\033\\<18>",
    r"\033[?7l\033[20h\033=\033#8<19>",
    r"\033]8;;file:///etc/passwd\033\\<20>\033]8;;\033\\",
    r"\033]0;never closed <0>",
];

/// Writes all of it, and a phase that is no better.
fn hostile_script() -> String {
    let lines: Vec<String> = HOSTILE
        .iter()
        .map(|line| format!("printf '{line}\\n'; echo after"))
        .collect();
    // The language knows two single quotes as the end of a string, and one before them as none.
    format!(
        r#"{}; echo '@nix {{"action":"setPhase","phase":"\u001b]0;owned\u0007bad\u001b[2JPhase"}}'"#,
        lines.join("; ")
    )
}

/// Nothing but colours, erasing to the end of a row or of the screen, and the ways of a frame came through.
#[track_caller]
fn check_hostile(terminal: &mut Terminal, shown: bool) {
    let rows = check_end(terminal);
    let all = rows.join("\n");
    // The log keeps the line that named a phase, which is text.
    let all = all.replace(r"\u001b]0;owned\u0007", "");
    assert!(!all.contains("owned"), "{all}");
    for n in 1..=20 {
        assert_eq!(all.contains(&format!("<{n}>")), shown, "<{n}>:\n{all}");
    }
    for forbidden in ['\u{202e}', '\u{2066}', '\u{9b}', '\u{9d}', '\0', '\u{8}'] {
        let raw = String::from_utf8_lossy(&terminal.raw);
        assert!(!raw.contains(forbidden), "{forbidden:?} in {all}");
    }
}

#[test]
fn logs_cannot_drive_the_terminal() {
    let Some(mut stage) = Stage::new() else {
        return;
    };
    let script = format!("{}; {WAIT}; echo x > $out", hostile_script());
    stage.world.write("f.nix", &recipe("hostile", &script, ""));
    let build = stage.build(&["-L"]);
    let Some(mut terminal) = Terminal::start(&build, 60, 100) else {
        return;
    };
    terminal.at_every_frame(check_frame);
    // The phase is that of the region, and so is the last line.
    terminal.wait_for("the phase", |screen| {
        screen.contents().contains("hostile  bad ")
    });
    let (row, _) = terminal.screen().cursor_position();
    for at in 0..row {
        let cell = |column| terminal.screen().cell(at, column).expect("a cell");
        let line: String = (0..20).map(|column| cell(column).contents()).collect();
        if line.starts_with("hostile> after") {
            let cell = cell(9);
            assert_eq!(cell.fgcolor(), vt100::Color::Default, "row {at}: {line}");
            assert!(!cell.bold() && !cell.inverse(), "row {at}: {line}");
        }
        if line.starts_with("hostile> <13>") {
            assert_eq!(cell(9).fgcolor(), vt100::Color::Idx(1), "colours are kept");
        }
    }
    stage.open();
    assert_eq!(terminal.finish(), 0);
    check_hostile(&mut terminal, true);

    // Without its lines, the region alone.
    let script = format!("{}; {WAIT}; echo y > $out", hostile_script());
    stage.world.write("f.nix", &recipe("hostile", &script, ""));
    let mut terminal = Terminal::start(&stage.build(&[]), 24, 80).expect("as before");
    terminal.at_every_frame(check_frame);
    terminal.wait_for("the phase", |screen| {
        screen.contents().contains("hostile  bad ")
    });
    stage.open();
    assert_eq!(terminal.finish(), 0);
    check_hostile(&mut terminal, false);

    // When it fails, its last lines are quoted; and the log is read.
    let script = format!("{}; exit 3", hostile_script().replace("; echo after", ""));
    stage.world.write("f.nix", &recipe("hostile", &script, ""));
    let mut terminal = Terminal::start(&stage.build(&[]), 80, 120).expect("as before");
    assert_eq!(terminal.finish(), 100);
    check_hostile(&mut terminal, true);
    let log = stage.world.command_of(&["log", "f.nix"]);
    let mut terminal = Terminal::start(&log, 80, 120).expect("as before");
    assert_eq!(terminal.finish(), 0);
    check_hostile(&mut terminal, true);
}

#[test]
fn a_line_of_ten_megabytes() {
    let Some(stage) = Stage::new() else {
        return;
    };
    let script =
        "/bin/busybox head -c 10000000 /dev/zero | /bin/busybox tr '\\0' x; echo; echo end; exit 1";
    stage.world.write("f.nix", &recipe("long", script, ""));
    let Some(mut terminal) = Terminal::start(&stage.build(&["-L"]), 24, 80) else {
        return;
    };
    terminal.at_every_frame(check_frame);
    assert_eq!(terminal.finish(), 100);
    let rows = check_end(&mut terminal);
    assert!(rows.iter().any(|row| row == "long> end"));
    let raw = terminal.raw.iter().filter(|b| **b == b'x').count();
    assert!(raw >= 10_000_000, "all of it was shown: {raw}");
    // What is quoted of it is short.
    let quoted = rows
        .iter()
        .position(|row| row.contains("error[build-failed]"));
    let quoted = &rows[quoted.expect("an error")..];
    assert!(quoted.len() < 400, "{} rows", quoted.len());
    let log = run(&mut stage.world.command_of(&["log", "--raw", "f.nix"])).ok();
    assert_eq!(log.stdout.len(), 10_000_000 + "\nend\n".len());
}

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
    assert!(
        at("stopping; a second signal stops at once")
            < at("built 0, cached 0, stopped 2, not tried 2")
    );
    assert!(
        rows.last().is_some_and(|row| row.contains(word)),
        "{rows:#?}"
    );
}

#[test]
fn ctrl_c_leaves_a_clean_screen() {
    stopped(|terminal| terminal.send(b"\x03"), 130, "interrupted");
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

#[test]
fn a_failure_shows_the_end_of_its_log_the_first_error_and_the_command_for_the_rest() {
    let Some(stage) = Stage::new() else {
        return;
    };
    let script = "echo 'a.c:1: Error: early'; for i in 1 2 3 4; do for j in 0 1 2 3 4 5 6 7 8 9; do echo line $i$j.; done; done; exit 2";
    stage.world.write("f.nix", &recipe("talker", script, ""));
    let Some(mut terminal) = Terminal::start(&stage.build(&[]), 60, 100) else {
        return;
    };
    assert_eq!(terminal.finish(), 100);
    let rows = check_end(&mut terminal).join("\n");
    for (text, there) in [
        ("first error in the log:", true),
        ("a.c:1: Error: early", true),
        ("last 25 of 41 lines:", true),
        ("line 24.", false),
        ("line 25.", true),
        ("line 49.", true),
        ("`sos log talker` shows the whole log", true),
    ] {
        assert_eq!(rows.contains(text), there, "{text}:\n{rows}");
    }
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

#[test]
fn recipes_cannot_drive_the_terminal_either() {
    let Some(mut stage) = Stage::new() else {
        return;
    };
    let nasty = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{1b}[31mred";
    for (text, code) in [
        (format!("builtins.trace \"{nasty}<1>\" 1"), 0),
        (format!("throw \"{nasty}<1>\""), 3),
        (format!("{{ \"{nasty}\" = 1; }}.nothing # {nasty}<1>"), 3),
        (
            format!("builtins.addErrorContext \"{nasty}<1>\" (throw \"x\")"),
            3,
        ),
    ] {
        stage.world.write("e.nix", &text);
        let words = ["eval", "--file", "e.nix", "--show-trace"];
        let eval = stage.world.command_of(&words);
        let Some(mut terminal) = Terminal::start(&eval, 24, 80) else {
            return;
        };
        assert_eq!(terminal.finish(), code, "{}", terminal.screen().contents());
        let rows = terminal.history().join("\n");
        assert!(rows.contains("red") && rows.contains("<1>"), "{rows}");
        assert_eq!(terminal.seen().strange, Vec::<String>::new(), "{rows}");
        assert!(!terminal.raw.windows(3).any(|w| w == b"\x1b[2"), "{rows}");
    }
    stage.world.set("NO_COLOR", "1");
    stage
        .world
        .write("e.nix", &format!("builtins.trace \"{nasty}\" 1"));
    let words = ["eval", "--file", "e.nix"];
    let eval = stage.world.command_of(&words);
    let mut terminal = Terminal::start(&eval, 24, 80).expect("as before");
    assert_eq!(terminal.finish(), 0);
    assert!(!terminal.raw.contains(&0x1b));
}
