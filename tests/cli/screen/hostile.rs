//! Nothing that a build or a recipe writes drives the terminal.

use super::super::builds::recipe;
use super::{Stage, WAIT, check_end, check_frame};
use crate::support::run;
use crate::support::terminal::Terminal;

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
