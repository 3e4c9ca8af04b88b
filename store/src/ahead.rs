//! A stream that is read by a thread of its own while what was read before is worked on.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::Scope;

/// How much is read at once.
const PART_BYTES: usize = 256 << 10;
/// Parts that are read and not taken yet, at most.
const PARTS: usize = 2;

/// The reader's end.
pub(crate) struct Ahead {
    parts: Receiver<io::Result<Vec<u8>>>,
    /// Buffers go back to be filled again.
    back: Sender<Vec<u8>>,
    part: Vec<u8>,
    at: usize,
}

impl Ahead {
    /// Starts to read `source` to its end or the first error.
    pub(crate) fn start<'s>(
        scope: &'s Scope<'s, '_>,
        source: impl Read + Send + 's,
    ) -> io::Result<Self> {
        let (send, parts) = sync_channel(PARTS);
        let (back, buffers) = channel();
        std::thread::Builder::new()
            .name("read ahead".into())
            .spawn_scoped(scope, move || read(source, &send, &buffers))?;
        Ok(Self {
            parts,
            back,
            part: Vec::new(),
            at: 0,
        })
    }
}

/// Reads until there is no more, or nobody takes it.
fn read(
    mut source: impl Read,
    parts: &SyncSender<io::Result<Vec<u8>>>,
    buffers: &Receiver<Vec<u8>>,
) {
    loop {
        let mut part = buffers.try_recv().unwrap_or_default();
        part.resize(PART_BYTES, 0);
        match source.read(&mut part) {
            Ok(0) => return,
            Ok(count) => {
                part.truncate(count);
                if parts.send(Ok(part)).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                drop(parts.send(Err(error)));
                return;
            }
        }
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.part.len() {
            // Without a sender the thread is at its end.
            let Ok(next) = self.parts.recv() else {
                return Ok(0);
            };
            let done = std::mem::replace(&mut self.part, next?);
            self.at = 0;
            drop(self.back.send(done));
        }
        let rest = &self.part[self.at..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a few bytes at a time, and at its end an error where one is wanted.
    struct Source {
        left: usize,
        fails: bool,
    }

    impl Read for Source {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.left.min(buffer.len()).min(100_003);
            if count == 0 && self.fails {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            for byte in &mut buffer[..count] {
                *byte = self.left.to_le_bytes()[0];
                self.left -= 1;
            }
            Ok(count)
        }
    }

    #[test]
    fn what_is_read_is_what_was_there() {
        for left in [0, 1, 100_003, 3 << 20] {
            let expected: Vec<u8> = (1..=left as u64)
                .rev()
                .map(|n| n.to_le_bytes()[0])
                .collect();
            let mut got = Vec::new();
            std::thread::scope(|scope| {
                let source = Source { left, fails: false };
                Ahead::start(scope, source)
                    .expect("a thread")
                    .read_to_end(&mut got)
                    .expect("read");
            });
            assert!(got == expected, "{left}");
        }
    }

    #[test]
    fn an_error_comes_after_what_was_before_it() {
        std::thread::scope(|scope| {
            let source = Source {
                left: 1 << 20,
                fails: true,
            };
            let mut got = Vec::new();
            let error = Ahead::start(scope, source)
                .expect("a thread")
                .read_to_end(&mut got)
                .expect_err("it fails");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            assert_eq!(got.len(), 1 << 20);
        });
    }

    #[test]
    fn who_reads_may_stop() {
        std::thread::scope(|scope| {
            let mut ahead = Ahead::start(scope, io::repeat(7)).expect("a thread");
            let mut some = [0; 10];
            ahead.read_exact(&mut some).expect("read");
            assert_eq!(some, [7; 10]);
        });
    }
}
