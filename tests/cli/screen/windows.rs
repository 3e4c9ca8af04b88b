//! How large the window is, and what stands in it at the end.

use std::cell::RefCell;
use std::rc::Rc;

use super::super::builds::recipe;
use super::{Stage, WAIT, check_end, check_frame, region};
use crate::support::terminal::Terminal;

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
