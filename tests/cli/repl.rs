//! `sos repl`, without a terminal and on one.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::builds::{recipe, world_with_busybox};
use crate::support::World;
use crate::support::terminal::Terminal;

/// What a conversation prints on both streams.
fn talk(w: &World, args: &[&str], lines: &str) -> (String, String) {
    let mut command = w.command();
    command.arg("repl").args(args);
    run(command, lines)
}

fn run(mut command: Command, lines: &str) -> (String, String) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(lines.as_bytes()).expect("it reads");
    drop(stdin);
    let out = child.wait_with_output().expect("it ends");
    assert!(out.status.success(), "{out:?}");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (text(out.stdout), text(out.stderr))
}

#[test]
fn values_names_and_commands() {
    let w = World::new();
    let (out, err) = talk(
        &w,
        &[],
        "1 + 2\nx = { a = 1; b = [ 1 [ 2 ] ]; c.d = 3; }\nx\nx.b\n:p x.c\n:t x\n:a { y = x.a + 41; }\ny\nx = 5\nx + y\n:q\n9\n",
    );
    let expected =
        "3\n{ a = 1; b = [ ... ]; c = { ... }; }\n[ 1 [ ... ] ]\n{ d = 3; }\nset\n42\n47\n";
    assert_eq!((out.as_str(), err.as_str()), (expected, "1 name added\n"));
}

#[test]
fn a_line_goes_on_until_it_is_whole() {
    let w = World::new();
    let (out, err) = talk(
        &w,
        &[],
        "[ 1\n2 ]\n\"a\nb\"\nz =\n  7\nz\nlet q = 1; in\nq\n''\n  x\n''\n:p {\n}\n",
    );
    assert_eq!(out, "[ 1 2 ]\n\"a\\nb\"\n7\n1\n\"x\\n\"\n{ }\n");
    assert_eq!(err, "");
}

#[test]
fn problems_are_shown_and_forgotten() {
    let w = World::new();
    let (out, err) = talk(
        &w,
        &[],
        "nope\n)\n:zap\n:t\n{ a = throw \"no\"; b = 1; }\n:a 1\n:l missing.nix\n2\n",
    );
    assert_eq!(out, "{ a = «error: no»; b = 1; }\n2\n");
    for code in [
        "eval-undefined-variable",
        "parse-syntax",
        "repl-unknown-command",
        "repl-no-argument",
        "repl-not-a-set",
        "repl-cannot-load",
    ] {
        assert!(err.contains(code), "no {code} in {err}");
    }
}

#[test]
fn files_are_loaded_and_derivations_built() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let made = recipe("made", "echo made > $out", "");
    w.write(
        "f.nix",
        &format!("{{ n ? 1 }}: {{ inherit n; d = {made}; }}"),
    );
    let (out, err) = talk(&w, &["f.nix"], "n\nd\n:b d\nbuiltins.readFile d\n:r\n");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 4, "{out}{err}");
    assert_eq!(lines[0], "1");
    assert!(lines[1].starts_with("«derivation /nix/store/"), "{out}");
    assert!(lines[2].ends_with("-made"), "{out}");
    assert_eq!(lines[3], "\"made\\n\"");
}

#[test]
fn on_a_terminal_it_completes_and_remembers() {
    let mut w = World::new();
    w.set("TERM", "xterm");
    let Some(mut terminal) = Terminal::start(&w.command_of(&["repl"]), 24, 80) else {
        return;
    };
    // The tabulator key completes the name of the attribute.
    for line in ["x = { attribute = 41; }\r", "x.attr\t + 1\r", ":q\r"] {
        // The prompt is drawn again with every key, so one with nothing behind it is a new one; the keys are read by then.
        terminal.wait_for("a prompt", |screen| {
            let (row, _) = screen.cursor_position();
            let rows: Vec<String> = screen.rows(0, 80).collect();
            rows[usize::from(row)].trim_end() == "sos>"
        });
        terminal.send(line.as_bytes());
        terminal.wait_for("the line", |screen| {
            screen
                .contents()
                .contains(line.split(['\t', '\r']).next().unwrap_or(line))
        });
    }
    assert_eq!(terminal.finish(), 0);
    let rows = terminal.history();
    assert!(rows.iter().any(|row| row == "42"), "{rows:#?}");
    let history = w.root().join("home/.local/state/sos/repl_history");
    let history = std::fs::read_to_string(history).expect("the history");
    assert!(history.contains("x.attribute + 1"), "{history}");
}

#[test]
fn ctrl_c_stops_an_evaluation_and_the_session_goes_on() {
    let w = World::new();
    let mut command = w.command();
    command.arg("repl");
    let Some(mut terminal) = Terminal::start(&command, 24, 80) else {
        return;
    };
    terminal.wait_for_text("sos> ");
    terminal.send(b"kept = 41\r");
    // It would take days, and says so first.
    terminal.send(b"let go = n: builtins.foldl' (a: _: a + n) 0 (builtins.genList (x: x) 3000); in builtins.trace \"begun\" (builtins.foldl' (a: _: a + builtins.foldl' (b: _: b + go 1) 0 (builtins.genList (x: x) 3000)) 0 (builtins.genList (x: x) 3000))\r");
    terminal.wait_for_text("trace: begun");
    terminal.send(b"\x03");
    terminal.wait_for_text("eval-interrupted");
    terminal.send(b"kept + 1\r");
    terminal.wait_for_text("42");
    terminal.send(b"\x04");
    assert_eq!(terminal.finish(), 0);
}

#[test]
fn a_comment_is_nothing_to_wait_for() {
    let w = World::new();
    let (out, err) = talk(&w, &[], "# words\n:t 1\n[ 1 # more\n]\n");
    assert_eq!((out.as_str(), err.as_str()), ("int\n[ 1 ]\n", ""));
}
