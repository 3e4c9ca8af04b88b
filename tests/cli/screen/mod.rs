//! What a person sees: the program on a terminal, its output read by a parser that others wrote.

mod hostile;
mod kinds;
mod stops;
mod windows;

use std::fs::File;
use std::io::Write as _;
use std::process::Command;

use super::builds::recipe;
use crate::support::terminal::Terminal;
use crate::support::{World, peer};

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
