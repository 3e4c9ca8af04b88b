//! What a person sees: the program on a terminal, its output read by a parser that others wrote.

use super::builds::{recipe, world_with_busybox};
use crate::support::terminal::Terminal;

#[test]
fn a_build_on_a_terminal_ends_with_its_summary_and_its_path() {
    let Some(mut w) = world_with_busybox() else {
        return;
    };
    w.set("TERM", "xterm-256color");
    w.write("f.nix", &recipe("shown", "echo x > $out", ""));
    let build = w.command_of(&["build", "--no-link", "f.nix"]);
    let Some(mut terminal) = Terminal::start(&build, 24, 80) else {
        return;
    };
    assert_eq!(terminal.finish(), 0);
    let rows = terminal.history();
    assert!(rows[0].starts_with(" ✓ shown "), "{rows:#?}");
    assert!(rows[1].starts_with("built 1, cached 0 in "), "{rows:#?}");
    assert!(
        rows[2].starts_with("/nix/store/") && rows.len() == 3,
        "{rows:#?}"
    );
    assert_eq!(terminal.screen().cursor_position(), (3, 0));
}
