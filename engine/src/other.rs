//! Builds of others: who is at one, and what it says.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use sos_formats::store_path::StorePath;
use sos_store::{LockHolder, Store};

use crate::clock::{Clock, SystemClock};
use crate::executor::{Locked, Outcome};

/// Letters of a command that are shown.
const COMMAND_MAX: usize = 120;
/// The longest line that is passed on, in bytes; the rest of it is a line of its own.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Reading a log from its beginning may take this part of the time, at the most.
const READING_SHARE: u32 = 10;

/// Tells who holds a lock.
pub(crate) fn locked(lock: StorePath, holder: Option<LockHolder>) -> Outcome {
    let (pid, log_of) = holder.map_or((None, None), |holder| (Some(holder.pid), holder.drv));
    Outcome::Locked(Locked {
        lock,
        pid,
        command: pid.and_then(command_of).map(Into::into),
        // Another derivation of this very run tells its lines itself.
        log_of: log_of.filter(|_| pid != Some(std::process::id())),
    })
}

/// Returns the command of a process, which may be gone or hidden.
fn command_of(pid: u32) -> Option<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    words(&line)
}

fn words(line: &[u8]) -> Option<String> {
    let words: Vec<String> = line
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let (program, rest) = words.split_first()?;
    // Where the program lies matters to nobody.
    let program = program.rsplit('/').next().unwrap_or(program);
    let all = std::iter::once(program).chain(rest.iter().map(String::as_str));
    let text: String = all
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .filter(|c| !c.is_control())
        .collect();
    if text.chars().count() <= COMMAND_MAX {
        return Some(text);
    }
    let mut cut: String = text.chars().take(COMMAND_MAX).collect();
    cut.push('…');
    Some(cut)
}

/// The log that another process is writing.
pub(crate) struct OtherLog<'a> {
    store: &'a Store,
    drv: StorePath,
    clock: SystemClock,
    /// When the other process began; an older log is that of an earlier build.
    since: Option<SystemTime>,
    seen: Option<(u64, u64)>,
    passed: u64,
    partial: Vec<u8>,
    not_before: Duration,
}

impl<'a> OtherLog<'a> {
    pub(crate) fn new(store: &'a Store, drv: StorePath, lock: &StorePath) -> Self {
        Self {
            since: store.locked_since(lock),
            store,
            drv,
            clock: SystemClock::new(),
            seen: None,
            passed: 0,
            partial: Vec::new(),
            not_before: Duration::ZERO,
        }
    }

    /// Passes on what is new; `over` tells that nothing more comes.
    pub(crate) fn pass(&mut self, over: bool, line: &mut dyn FnMut(&str)) {
        let began = self.clock.monotonic();
        if began < self.not_before && !over {
            return;
        }
        // It only shows what happens: what cannot be read is not shown.
        let bytes = self.new_bytes().unwrap_or_default();
        self.partial.extend_from_slice(&bytes);
        self.passed += bytes.len() as u64;
        self.not_before = began + (self.clock.monotonic() - began) * READING_SHARE;
        let mut rest = std::mem::take(&mut self.partial);
        while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
            let after = rest.split_off(at + 1);
            tell(&rest, line);
            rest = after;
        }
        if !rest.is_empty() && (over || rest.len() > LINE_BYTES_MAX) {
            tell(&rest, line);
            rest.clear();
        }
        self.partial = rest;
    }

    fn new_bytes(&mut self) -> Option<Vec<u8>> {
        let meta = std::fs::metadata(self.store.log_path(&self.drv)).ok()?;
        if meta.modified().ok()? < self.since? {
            return None;
        }
        let state = Some((meta.ino(), meta.len()));
        if state == self.seen {
            return None;
        }
        self.seen = state;
        let mut log = self.store.read_log(&self.drv).ok().flatten()?;
        // A stream of zstd cannot be taken up in the middle: it is read again from its beginning.
        std::io::copy(&mut (&mut log).take(self.passed), &mut std::io::sink()).ok()?;
        let mut bytes = Vec::new();
        // Whatever comes before an end that is not written yet is good.
        let _cut = log.read_to_end(&mut bytes).is_err();
        Some(bytes)
    }
}

fn tell(bytes: &[u8], line: &mut dyn FnMut(&str)) {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches(['\n', '\r']);
    line(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_by_their_words() {
        assert_eq!(
            words(b"/usr/bin/sos\0build\0.#x\0").as_deref(),
            Some("sos build .#x")
        );
        assert_eq!(words(b""), None);
        assert_eq!(words(b"a\x1b[1m\0").as_deref(), Some("a[1m"));
        let long = words(&[b'x'; 500]).unwrap();
        assert_eq!(long.chars().count(), COMMAND_MAX + 1);
    }
}
