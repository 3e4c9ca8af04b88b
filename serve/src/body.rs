//! The body of an answer: bytes at hand, or what a thread writes while the client reads.

use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Bytes, Frame, SizeHint};
use tokio::sync::mpsc;

/// How many bytes go over at once.
const CHUNK_BYTES: usize = 64 << 10;
/// How many chunks wait for a slow client; then the thread that writes waits too.
const CHUNKS: usize = 4;

/// A body.
pub(crate) struct Body {
    source: Source,
    /// How many bytes are still to come, if that is known.
    left: Option<u64>,
}

enum Source {
    Whole(Option<Bytes>),
    Piped(mpsc::Receiver<io::Result<Bytes>>),
}

impl Body {
    /// Bytes at hand.
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            left: Some(bytes.len() as u64),
            source: Source::Whole(Some(bytes)),
        }
    }

    /// What `write` writes, on a thread that may block. When it fails, or writes less than `size`, the connection ends there.
    pub(crate) fn piped(
        size: Option<u64>,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(CHUNKS);
        tokio::task::spawn_blocking(move || {
            let mut pipe = Pipe {
                sender,
                chunk: Vec::with_capacity(CHUNK_BYTES),
            };
            let done = write(&mut pipe).and_then(|()| pipe.flush());
            if let Err(error) = done {
                // A client that has gone away reads no reason either.
                let _gone = pipe.sender.blocking_send(Err(error)).is_err();
            }
        });
        Self {
            source: Source::Piped(receiver),
            left: size,
        }
    }
}

/// Takes what is written, and passes it on in chunks.
struct Pipe {
    sender: mpsc::Sender<io::Result<Bytes>>,
    chunk: Vec<u8>,
}

impl Pipe {
    fn pass(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_BYTES));
        let sent = self.sender.blocking_send(Ok(chunk.into()));
        sent.map_err(|_gone| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

impl Write for Pipe {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let room = CHUNK_BYTES - self.chunk.len();
        let taken = data.len().min(room);
        self.chunk.extend_from_slice(&data[..taken]);
        if self.chunk.len() == CHUNK_BYTES {
            self.pass()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        self.pass()
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let next = match &mut this.source {
            Source::Whole(bytes) => bytes.take().filter(|bytes| !bytes.is_empty()).map(Ok),
            Source::Piped(receiver) => match receiver.poll_recv(cx) {
                Poll::Ready(next) => next,
                Poll::Pending => return Poll::Pending,
            },
        };
        Poll::Ready(match next {
            Some(Ok(bytes)) => {
                if let Some(left) = this.left.as_mut() {
                    // A file that has grown is not what was promised either.
                    let Some(rest) = left.checked_sub(bytes.len() as u64) else {
                        return Poll::Ready(Some(Err(io::ErrorKind::InvalidData.into())));
                    };
                    *left = rest;
                }
                Some(Ok(Frame::data(bytes)))
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "an answer ends early");
                Some(Err(error))
            }
            None if this.left.is_some_and(|left| left > 0) => {
                Some(Err(io::ErrorKind::UnexpectedEof.into()))
            }
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
