//! Who holds a lease: a process named so that a recycled pid or a reboot cannot be mistaken for it.

use std::fs;
use std::sync::OnceLock;

/// The identity of a process: its pid, when it started (clock ticks since boot) and which boot that was.
///
/// Liveness never depends on the wall clock, so setting the clock back or forward frees nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessId {
    /// The number of the process.
    pub pid: u32,
    /// Its start time in clock ticks after boot; 0 when `/proc` could not tell.
    pub start_ticks: u64,
    /// The id of the boot in which it started; empty when `/proc` could not tell.
    pub boot_id: String,
}

impl ProcessId {
    /// Names the calling process.
    pub fn current() -> Self {
        static CURRENT: OnceLock<(u32, u64)> = OnceLock::new();
        let pid = std::process::id();
        let &(known_pid, known_start) =
            CURRENT.get_or_init(|| (pid, start_ticks(pid).unwrap_or(0)));
        let start = if known_pid == pid {
            known_start
        } else {
            start_ticks(pid).unwrap_or(0)
        };
        Self {
            pid,
            start_ticks: start,
            boot_id: boot_id().to_owned(),
        }
    }

    /// Tells whether that very process still runs.
    pub fn is_alive(&self) -> bool {
        if self.boot_id != boot_id() {
            return false;
        }
        match start_ticks(self.pid) {
            Some(start) => start == self.start_ticks || self.start_ticks == 0,
            None => false,
        }
    }
}

/// The id of this boot, or an empty string where the kernel does not tell.
fn boot_id() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map(|text| text.trim().to_owned())
            .unwrap_or_default()
    })
}

/// When a process started, or `None` when there is none (a zombie counts as none: it holds nothing).
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&stat)
}

/// Reads the state and the 22nd field of `/proc/<pid>/stat`; the second field may hold anything, `)` too.
fn parse_stat(stat: &[u8]) -> Option<u64> {
    let after = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(stat.get(after + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_bracket_does_not_shift_the_fields() {
        let line = b"12 (a ) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        assert_eq!(parse_stat(line), Some(4711));
        assert_eq!(parse_stat(b"12 (a) Z 1 2 3"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn this_process_lives_and_one_of_another_boot_does_not() {
        let me = ProcessId::current();
        assert!(me.is_alive());
        assert!(
            !ProcessId {
                boot_id: "other".into(),
                ..me.clone()
            }
            .is_alive()
        );
        assert!(
            !ProcessId {
                start_ticks: me.start_ticks + 1,
                ..me
            }
            .is_alive()
        );
    }
}
