//! A terminal for one program: a pseudo terminal, and a parser that others wrote for what comes out of it.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::process::{Signal, WaitId, WaitIdOptions};
use rustix::pty::OpenptFlags;
use rustix::termios::{Termios, Winsize};

use super::{peer, process};

/// How long any one wait may take; a program that is silent for longer hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// Lines that are kept after they have left the screen.
const HISTORY: usize = 10_000;

/// Ends a frame of a live region: terminals show what came since the frame began at once.
const FRAME_END: &[u8] = b"\x1b[?2026l";

/// What the parser met that does not change the screen.
#[derive(Default)]
pub(crate) struct Seen {
    /// Everything that a display has no business to send, in words.
    pub(crate) strange: Vec<String>,
    /// The parameters of every `OSC 9 ; 4`, which is the progress in the taskbar.
    pub(crate) taskbar: Vec<String>,
}

impl vt100::Callbacks for Seen {
    fn audible_bell(&mut self, _: &mut vt100::Screen) {
        self.strange.push("bell".to_owned());
    }
    fn visual_bell(&mut self, _: &mut vt100::Screen) {
        self.strange.push("visual bell".to_owned());
    }
    fn resize(&mut self, _: &mut vt100::Screen, size: (u16, u16)) {
        self.strange.push(format!("resize {size:?}"));
    }
    fn set_window_icon_name(&mut self, _: &mut vt100::Screen, name: &[u8]) {
        self.strange.push(format!("icon {}", name.escape_ascii()));
    }
    fn set_window_title(&mut self, _: &mut vt100::Screen, title: &[u8]) {
        self.strange.push(format!("title {}", title.escape_ascii()));
    }
    fn copy_to_clipboard(&mut self, _: &mut vt100::Screen, _: &[u8], data: &[u8]) {
        self.strange
            .push(format!("clipboard {}", data.escape_ascii()));
    }
    fn paste_from_clipboard(&mut self, _: &mut vt100::Screen, _: &[u8]) {
        self.strange.push("clipboard read".to_owned());
    }
    fn unhandled_char(&mut self, _: &mut vt100::Screen, c: char) {
        // What stands for bytes that are no text; the parser leaves it out.
        if c == '\u{fffd}' {
            return;
        }
        self.strange.push(format!("character {c:?}"));
    }
    fn unhandled_control(&mut self, _: &mut vt100::Screen, byte: u8) {
        self.strange.push(format!("control {byte:#x}"));
    }
    fn unhandled_escape(&mut self, _: &mut vt100::Screen, a: Option<u8>, b: Option<u8>, c: u8) {
        // The end of an OSC.
        if (a, b, c) == (None, None, b'\\') {
            return;
        }
        self.strange.push(format!("escape {a:?} {b:?} {c:#x}"));
    }
    fn unhandled_csi(
        &mut self,
        _: &mut vt100::Screen,
        a: Option<u8>,
        b: Option<u8>,
        parameters: &[&[u16]],
        end: char,
    ) {
        // The marks around a frame, and that rows are not wrapped, for which this parser is too simple.
        let harmless = parameters == [[2026].as_slice()] || parameters == [[7].as_slice()];
        if a == Some(b'?') && harmless && matches!(end, 'h' | 'l') {
            return;
        }
        self.strange
            .push(format!("CSI {a:?} {b:?} {parameters:?} {end}"));
    }
    fn unhandled_osc(&mut self, _: &mut vt100::Screen, parameters: &[&[u8]]) {
        let words: Vec<_> = parameters
            .iter()
            .map(|word| String::from_utf8_lossy(word))
            .collect();
        match words.as_slice() {
            [nine, four, rest @ ..] if nine == "9" && four == "4" => {
                self.taskbar.push(rest.join(";"));
            }
            _ => self.strange.push(format!("OSC {}", words.join(";"))),
        }
    }
}

/// What a test looks at when a frame is complete.
type Look = Box<dyn FnMut(&vt100::Screen)>;

/// A running program and the terminal that it sees on its three streams.
pub(crate) struct Terminal {
    pty: File,
    child: Child,
    parser: vt100::Parser<Seen>,
    look: Option<Look>,
    /// Everything that the program wrote.
    pub(crate) raw: Vec<u8>,
    /// What of it the parser has had.
    parsed: usize,
    /// What of it a test has asked for in turn.
    expected: usize,
    /// Frames that were complete so far.
    pub(crate) frames: usize,
    ended: bool,
}

impl Terminal {
    /// Starts a program with the words, the environment and the directory of `command`, and with nothing else. It leads a session
    /// whose terminal this is, as after a login. Nothing, with a printed reason, where that cannot be done.
    pub(crate) fn start(command: &Command, rows: u16, columns: u16) -> Option<Self> {
        let setsid = peer("setsid")?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let pty = rustix::pty::openpt(flags).expect("a pseudo terminal");
        rustix::pty::grantpt(&pty).expect("its other end");
        rustix::pty::unlockpt(&pty).expect("its other end");
        let name = rustix::pty::ptsname(&pty, Vec::new()).expect("its name");
        let stream = || -> Stdio {
            let mut options = File::options();
            options.read(true).write(true);
            options.custom_flags(i32::try_from(rustix::fs::OFlags::NOCTTY.bits()).expect("flags"));
            let path = name.to_str().expect("a name");
            options.open(path).expect("its other end").into()
        };
        let mut session = Command::new(setsid);
        session.arg("--ctty").arg(command.get_program());
        session.args(command.get_args()).env_clear();
        session.envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))));
        if let Some(dir) = command.get_current_dir() {
            session.current_dir(dir);
        }
        set_size(&pty, rows, columns);
        session.stdin(stream()).stdout(stream()).stderr(stream());
        let child = session.spawn().expect("it starts");
        // This process must not hold the other end, or the end of the program is never seen.
        drop(session);
        Some(Self {
            pty: pty.into(),
            child,
            parser: vt100::Parser::new_with_callbacks(rows, columns, HISTORY, Seen::default()),
            look: None,
            raw: Vec::new(),
            parsed: 0,
            expected: 0,
            frames: 0,
            ended: false,
        })
    }

    /// Calls `look` with the screen whenever a frame is complete.
    pub(crate) fn at_every_frame(&mut self, look: impl FnMut(&vt100::Screen) + 'static) {
        self.look = Some(Box::new(look));
    }

    /// The screen as it is.
    pub(crate) fn screen(&self) -> &vt100::Screen {
        self.parser.screen()
    }

    /// What was met beside the screen.
    pub(crate) fn seen(&self) -> &Seen {
        self.parser.callbacks()
    }

    /// The program.
    pub(crate) fn pid(&self) -> rustix::process::Pid {
        process::pid(&self.child)
    }

    /// Types something.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.pty.write_all(bytes).expect("it can be typed");
    }

    /// Sends a signal to the program.
    pub(crate) fn signal(&self, signal: Signal) {
        process::signal(&self.child, signal);
    }

    /// Waits until the program is stopped, as after Ctrl-Z, and takes in what it has written before.
    pub(crate) fn wait_stopped(&mut self) {
        let (pid, (stopped, wait)) = (self.pid(), std::sync::mpsc::channel());
        // The kernel tells it without a limit of time. A thread that is left waits for the end of the program, which is near then.
        std::thread::spawn(move || {
            let options = WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
            stopped
                .send(rustix::process::waitid(WaitId::Pid(pid), options))
                .is_ok()
        });
        let stopped = wait.recv_timeout(LIMIT);
        stopped.expect("it does not stop").expect("a child");
        while self.readable(Duration::ZERO) && self.read() {}
    }

    /// Changes the size of the window: the program gets SIGWINCH.
    pub(crate) fn resize(&mut self, rows: u16, columns: u16) {
        // What was written for the old window is drawn in it, so nothing may be under way.
        self.signal(Signal::STOP);
        self.wait_stopped();
        let (old_rows, _) = self.screen().size();
        let (row, column) = self.screen().cursor_position();
        // The parser cuts off the lower rows. Terminals let the upper ones scroll away when the cursor would be lost.
        if row >= rows {
            let away = row - (rows - 1);
            let scroll = format!(
                "\x1b[{old_rows};1H{}\x1b[{};{}H",
                "\n".repeat(usize::from(away)),
                rows,
                column + 1
            );
            self.parser.process(scroll.as_bytes());
        }
        self.parser.screen_mut().set_size(rows, columns);
        set_size(&self.pty, rows, columns);
        self.signal(Signal::CONT);
    }

    /// Takes in what the program writes until the screen is as wanted.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, what: &str, mut ready: impl FnMut(&vt100::Screen) -> bool) {
        let until = Instant::now() + LIMIT;
        while !ready(self.screen()) {
            let left = until.saturating_duration_since(Instant::now());
            let went_on = self.readable(left) && self.read();
            assert!(
                went_on || ready(self.screen()),
                "{what} did not come; the screen:\n{}\nthe end of what was written:\n{}",
                self.screen().contents(),
                self.raw[self.raw.len().saturating_sub(2000)..].escape_ascii()
            );
        }
    }

    /// Waits until a row holds `text`.
    #[track_caller]
    pub(crate) fn wait_for_text(&mut self, text: &str) {
        self.wait_for(text, |screen| screen.contents().contains(text));
    }

    /// Waits until `text` is written after what was waited for before, and returns all that was written up to it.
    #[track_caller]
    pub(crate) fn expect(&mut self, text: &str) -> String {
        let until = Instant::now() + LIMIT;
        let text = text.as_bytes();
        loop {
            let new = &self.raw[self.expected..];
            if let Some(at) = new.windows(text.len()).position(|w| w == text) {
                let said = String::from_utf8_lossy(&new[..at + text.len()]).into_owned();
                self.expected += at + text.len();
                return said;
            }
            let left = until.saturating_duration_since(Instant::now());
            let went_on = self.readable(left) && self.read();
            assert!(
                went_on,
                "{} did not come; last it wrote: {}",
                text.escape_ascii(),
                self.raw[self.expected..].escape_ascii()
            );
        }
    }

    /// How the terminal treats keys.
    pub(crate) fn modes(&self) -> Termios {
        rustix::termios::tcgetattr(&self.pty).expect("modes")
    }

    /// Waits for that many complete frames more.
    #[track_caller]
    pub(crate) fn wait_for_frames(&mut self, more: usize) {
        let until = Instant::now() + LIMIT;
        let wanted = self.frames + more;
        while self.frames < wanted {
            let left = until.saturating_duration_since(Instant::now());
            assert!(
                self.readable(left) && self.read(),
                "no more frames; the screen:\n{}",
                self.screen().contents()
            );
        }
    }

    /// Takes in everything to the end and returns the exit code; 128 and the signal when one ended it.
    #[track_caller]
    pub(crate) fn finish(&mut self) -> i32 {
        let until = Instant::now() + LIMIT;
        while !self.ended {
            let left = until.saturating_duration_since(Instant::now());
            assert!(
                self.readable(left),
                "it does not end; the screen:\n{}",
                self.screen().contents()
            );
            self.read();
        }
        let status = self.child.wait().expect("a child");
        status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }

    /// The rows that are on the screen, without blanks at their ends and without empty rows at the foot.
    pub(crate) fn rows(&self) -> Vec<String> {
        trimmed(rows_of(self.screen()))
    }

    /// Every row since the start: what has scrolled away, then the screen.
    pub(crate) fn history(&mut self) -> Vec<String> {
        let screen = self.parser.screen_mut();
        screen.set_scrollback(usize::MAX);
        let mut rows = Vec::new();
        for above in (1..=screen.scrollback()).rev() {
            screen.set_scrollback(above);
            rows.extend(rows_of(screen).into_iter().next());
        }
        screen.set_scrollback(0);
        rows.extend(rows_of(screen));
        trimmed(rows)
    }

    fn readable(&self, limit: Duration) -> bool {
        let mut fds = [PollFd::new(&self.pty, PollFlags::IN)];
        let limit = Timespec::try_from(limit).expect("a time");
        !self.ended && poll(&mut fds, Some(&limit)).is_ok_and(|ready| ready > 0)
    }

    /// Reads once; `false` at the end.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match self.pty.read(&mut buffer) {
            Ok(0) => self.ended = true,
            Ok(n) => self.raw.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            // The last one who had the other end has closed it.
            Err(_closed) => self.ended = true,
        }
        self.parse();
        !self.ended
    }

    fn parse(&mut self) {
        loop {
            let rest = &self.raw[self.parsed..];
            let end = rest
                .windows(FRAME_END.len())
                .position(|window| window == FRAME_END);
            let Some(end) = end else {
                break;
            };
            let take = end + FRAME_END.len();
            self.parser.process(&rest[..take]);
            self.parsed += take;
            self.frames += 1;
            if let Some(look) = &mut self.look {
                look(self.parser.screen());
            }
        }
        // A mark may be cut in two.
        let rest = &self.raw[self.parsed..];
        let begun = rest.iter().rposition(|b| *b == 0x1b);
        let begun = begun.filter(|at| !self.ended && FRAME_END.starts_with(&rest[*at..]));
        let take = begun.unwrap_or(rest.len());
        self.parser.process(&rest[..take]);
        self.parsed += take;
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A test that failed leaves nothing running.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn set_size(pty: impl std::os::fd::AsFd, rows: u16, columns: u16) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(pty, size).expect("a size");
}

fn rows_of(screen: &vt100::Screen) -> Vec<String> {
    let (_, columns) = screen.size();
    screen
        .rows(0, columns)
        .map(|row| row.trim_end().to_owned())
        .collect()
}

fn trimmed(mut rows: Vec<String>) -> Vec<String> {
    while rows.last().is_some_and(String::is_empty) {
        rows.pop();
    }
    rows
}
