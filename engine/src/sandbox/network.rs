//! Whether a run left something in its network namespace.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

use super::protocol::{Failure, Naming};

/// The counters of the network namespace that this process is in.
pub(super) struct Network {
    /// By descriptor: they are read when this process has another root directory.
    tables: OwnedFd,
}

impl Network {
    pub(super) fn open() -> Result<Self, Failure> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let tables = rustix::fs::open("/proc/self/net", flags, Mode::empty())
            .naming(|| "open /proc/self/net".to_owned())?;
        Ok(Self { tables })
    }

    /// Tells whether the namespace holds nothing of the run: no socket, not even one that waits out its time. Asked from
    /// the counters: the tables of sockets take milliseconds to read, however empty they are.
    pub(super) fn is_clean(&self) -> bool {
        ["sockstat", "sockstat6"].iter().all(|table| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            match rustix::fs::openat(&self.tables, *table, flags, Mode::empty()) {
                Ok(file) => {
                    let mut text = [0; 2048];
                    match rustix::io::read(file, &mut text) {
                        Ok(n) if n < text.len() => {
                            std::str::from_utf8(&text[..n]).is_ok_and(no_socket)
                        }
                        _ => false,
                    }
                }
                // A kernel without IPv6.
                Err(e) => e == rustix::io::Errno::NOENT && *table == "sockstat6",
            }
        })
    }
}

/// Reads `TCP: inuse 0 orphan 0 tw 0 alloc 1 mem 72` and the like; an old kernel counts `tw` for the whole machine,
/// which only makes the answer more careful.
fn no_socket(counters: &str) -> bool {
    counters.lines().all(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            if matches!(name, "inuse" | "tw") && value != "0" {
                return false;
            }
        }
        true
    })
}

#[cfg(test)]
mod tests {
    use super::no_socket;

    #[test]
    fn counters_of_sockets() {
        let clean =
            "sockets: used 2\nTCP: inuse 0 orphan 3 tw 0 alloc 1 mem 72\nUDP: inuse 0 mem 0\n";
        assert!(no_socket(clean));
        assert!(!no_socket(&clean.replace("tw 0", "tw 1")));
        assert!(!no_socket(&clean.replace("UDP: inuse 0", "UDP: inuse 1")));
    }
}
