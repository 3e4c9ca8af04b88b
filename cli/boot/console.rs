//! A running machine: its console is shown, and watched for what is expected.

use std::ffi::OsString;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use regex_automata::Input;
use regex_automata::meta::Regex;
use rustix::process::{Pid, Signal, kill_process};
use sos_engine::Cancel;
use sos_formats::diagnostic::{Class, Diagnostic};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use super::machine::not_started;
use crate::failure::Failure;
use crate::render::output;

/// How long a machine has to write its disks after it is told to end.
const END: Duration = Duration::from_secs(5);
/// Console that is kept to be searched, in bytes; what was searched is forgotten.
const KEPT: usize = 4 << 20;

/// What a console is watched for.
#[derive(Debug)]
pub(crate) struct Watch {
    /// Patterns that must come, in this order.
    pub(crate) expect: Vec<String>,
    /// Patterns that must not come before.
    pub(crate) reject: Vec<String>,
    pub(crate) timeout: Duration,
    /// Whether the machine must end by itself afterwards.
    pub(crate) until_end: bool,
    /// Whether the console goes to standard output.
    pub(crate) show: bool,
}

/// How a watch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All that was expected has come.
    Seen,
    /// A pattern that must not come.
    Rejected(String),
    /// The time was over while this was waited for.
    TimedOut(String),
    /// The machine ended while this was waited for.
    Ended(String),
    /// There was no machine: what QEMU says.
    Failed(String),
    Cancelled,
}

/// Lends the terminal to the machine until it ends.
///
/// # Errors
/// When the program is not there.
pub(crate) fn converse(program: &OsString, args: &[OsString]) -> Result<ExitStatus, Failure> {
    std::process::Command::new(program)
        .args(args)
        .status()
        .map_err(|e| not_started(&program.to_string_lossy(), &e.to_string()))
}

/// Runs the machine until its console has shown what is expected, then ends it. Returns what happened, and the end of the console.
///
/// # Errors
/// When the program is not there, or a pattern is none.
pub(crate) async fn watch(
    program: &OsString,
    args: &[OsString],
    watch: &Watch,
    cancel: &Cancel,
) -> Result<(Outcome, String), Failure> {
    let expect = patterns(&watch.expect)?;
    let reject = patterns(&watch.reject)?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| not_started(&program.to_string_lossy(), &e.to_string()))?;
    let mut screen = Screen::new(expect, reject, watch);
    let outcome = screen.follow(&mut child, cancel).await?;
    end(&mut child).await;
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        // What QEMU itself complains of; a console is not there then.
        let _partial = timeout(END, stderr.read_to_string(&mut said))
            .await
            .is_err();
    }
    let has_failed = matches!(child.try_wait(), Ok(Some(status)) if !status.success());
    let outcome = match outcome {
        Outcome::Ended(_) if has_failed && screen.is_empty() => {
            Outcome::Failed(said.trim().to_owned())
        }
        other => other,
    };
    Ok((outcome, screen.tail(&said)))
}

fn patterns(texts: &[String]) -> Result<Vec<(String, Regex)>, Failure> {
    let one = |text: &String| match Regex::new(&format!("(?m){text}")) {
        Ok(regex) => Ok((text.clone(), regex)),
        Err(error) => Err(Failure::new(Diagnostic::error(
            "boot-pattern",
            Class::Usage,
            format!("`{text}` is no regular expression: {error}"),
        ))),
    };
    texts.iter().map(one).collect()
}

/// What has come from a console, and what is looked for in it.
struct Screen<'a> {
    expect: std::iter::Peekable<std::vec::IntoIter<(String, Regex)>>,
    reject: Vec<(String, Regex)>,
    watch: &'a Watch,
    text: String,
    /// Where the search goes on.
    at: usize,
    escape: Escape,
}

/// Where in a control sequence the last byte was.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Escape {
    No,
    Start,
    /// Until a letter.
    Sequence,
    /// Until the end of a title.
    Title,
}

impl<'a> Screen<'a> {
    fn new(expect: Vec<(String, Regex)>, reject: Vec<(String, Regex)>, watch: &'a Watch) -> Self {
        Self {
            expect: expect.into_iter().peekable(),
            reject,
            watch,
            text: String::new(),
            at: 0,
            escape: Escape::No,
        }
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "how long a machine may take is asked for by a person"
    )]
    async fn follow(&mut self, child: &mut Child, cancel: &Cancel) -> Result<Outcome, Failure> {
        let deadline = Instant::now() + self.watch.timeout;
        let stop = Arc::new(Notify::new());
        let told = Arc::clone(&stop);
        let _asked = cancel.on_cancel(move || told.notify_one());
        let Some(mut stdout) = child.stdout.take() else {
            return Ok(Outcome::Ended(self.waits_for()));
        };
        let mut piece = vec![0; 1 << 16];
        loop {
            if let Some(outcome) = self.look() {
                return Ok(outcome);
            }
            let next = tokio::select! {
                next = timeout_at(deadline, stdout.read(&mut piece)) => next,
                () = stop.notified() => return Ok(Outcome::Cancelled),
            };
            match next {
                Err(_over) => return Ok(Outcome::TimedOut(self.waits_for())),
                Ok(Ok(0) | Err(_)) => {
                    let is_done = self.expect.peek().is_none() && self.watch.until_end;
                    return Ok(if is_done {
                        Outcome::Seen
                    } else {
                        Outcome::Ended(self.waits_for())
                    });
                }
                Ok(Ok(count)) => {
                    if self.watch.show {
                        output::bytes(&piece[..count])?;
                    }
                    self.take(&piece[..count]);
                }
            }
        }
    }

    fn waits_for(&mut self) -> String {
        let next = self.expect.peek().map(|(text, _)| text.clone());
        next.unwrap_or_else(|| "the machine to end".to_owned())
    }

    /// Adds bytes without control sequences and carriage returns.
    fn take(&mut self, bytes: &[u8]) {
        let mut plain = Vec::with_capacity(bytes.len());
        for byte in bytes {
            self.escape = match (self.escape, *byte) {
                (_, 0x1b) => Escape::Start,
                (Escape::Start, b'[' | b'(' | b')') => Escape::Sequence,
                (Escape::Start, b']') => Escape::Title,
                (Escape::Start, _) => Escape::No,
                (Escape::Sequence, 0x40..=0x7e) => Escape::No,
                (Escape::Sequence, _) => Escape::Sequence,
                (Escape::Title, 0x07) => Escape::No,
                (Escape::Title, _) => Escape::Title,
                (Escape::No, b'\r') => Escape::No,
                (Escape::No, byte) => {
                    plain.push(byte);
                    Escape::No
                }
            };
        }
        self.text.push_str(&String::from_utf8_lossy(&plain));
        if self.text.len() > KEPT {
            let mut cut = self.text.len() - KEPT / 2;
            while !self.text.is_char_boundary(cut) {
                cut += 1;
            }
            self.text.drain(..cut);
            self.at = self.at.saturating_sub(cut);
        }
    }

    /// Searches what has come since the last match.
    fn look(&mut self) -> Option<Outcome> {
        loop {
            if self.expect.peek().is_none() && !self.watch.until_end {
                return Some(Outcome::Seen);
            }
            let rest = Input::new(&self.text).range(self.at..);
            let found = self.expect.peek().and_then(|(_, regex)| regex.find(rest));
            let until = found
                .as_ref()
                .map_or(self.text.len(), regex_automata::Match::start);
            for (text, regex) in &self.reject {
                if regex
                    .find(Input::new(&self.text).range(self.at..until))
                    .is_some()
                {
                    return Some(Outcome::Rejected(text.clone()));
                }
            }
            self.at = found?.end();
            self.expect.next();
        }
    }

    /// Whether nothing has come.
    fn is_empty(&self) -> bool {
        self.text.trim().is_empty()
    }

    /// The last lines of the console, or what QEMU said when there was none.
    fn tail(&self, said: &str) -> String {
        let lines: Vec<&str> = self
            .text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        let last = lines.len().saturating_sub(15);
        if lines.is_empty() {
            said.trim().to_owned()
        } else {
            lines[last..].join("\n")
        }
    }
}

/// Ends a machine: it is asked to first, so that it writes its disks.
async fn end(child: &mut Child) {
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _gone = kill_process(pid, Signal::TERM).is_err();
    }
    if timeout(END, child.wait()).await.is_err() {
        let _gone = child.kill().await.is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked(expect: &[&str], reject: &[&str], pieces: &[&str]) -> Option<Outcome> {
        let own = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let watch = Watch {
            expect: own(expect),
            reject: own(reject),
            timeout: Duration::from_secs(1),
            until_end: false,
            show: false,
        };
        let compiled = |all: &[String]| patterns(all).unwrap_or_else(|_| panic!("patterns"));
        let mut screen = Screen::new(compiled(&watch.expect), compiled(&watch.reject), &watch);
        pieces.iter().find_map(|piece| {
            screen.take(piece.as_bytes());
            screen.look()
        })
    }

    #[test]
    fn patterns_come_in_order_and_across_pieces() {
        assert_eq!(
            looked(&["a+b", "^c$"], &[], &["xa", "aby\nc\n"]),
            Some(Outcome::Seen)
        );
        assert_eq!(looked(&["c", "a"], &[], &["a c"]), None);
        assert_eq!(
            looked(&["login:"], &[], &["lo\x1b[1;32mgin\x1b[0m:\r\n"]),
            Some(Outcome::Seen)
        );
    }

    #[test]
    fn what_must_not_come_counts_before_what_is_expected() {
        assert_eq!(
            looked(&["ok"], &["panic"], &["panic ok"]),
            Some(Outcome::Rejected("panic".to_owned()))
        );
        assert_eq!(
            looked(&["ok"], &["panic"], &["ok panic"]),
            Some(Outcome::Seen)
        );
    }
}
