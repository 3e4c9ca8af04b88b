//! Messages between `sos` and its helpers: a length, JSON, and open descriptors, over a Unix socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, send, sendmsg,
};
use serde::{Serialize, de::DeserializeOwned};

/// The longest message: the plan of a build with some hundred thousand inputs.
const MAX_MESSAGE_BYTES: usize = 256 << 20;
/// The most descriptors in one message.
const MAX_FDS: usize = 4;
/// How long to wait when the kernel takes no more descriptors.
const IN_FLIGHT_PAUSE: std::time::Duration = std::time::Duration::from_millis(1);

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed message")
}

fn frame<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let len = u32::try_from(frame.len() - 4).map_err(io::Error::other)?;
    frame[..4].copy_from_slice(&len.to_le_bytes());
    Ok(frame)
}

fn length(header: [u8; 4]) -> io::Result<usize> {
    let len = usize::try_from(u32::from_le_bytes(header)).map_err(io::Error::other)?;
    if len > MAX_MESSAGE_BYTES {
        return Err(malformed());
    }
    Ok(len)
}

/// One end of a socket that carries messages with descriptors.
pub(super) struct Channel {
    socket: OwnedFd,
}

impl Channel {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Makes two connected ends.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (a, b) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self::new(a), b))
    }

    /// Ends the conversation, which asks the other end to stop. What it still has to say nobody reads: it may wait for that already.
    pub(super) fn close(&self) {
        // Fails only when the other end is gone, which is what it asks for.
        let _gone = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }

    pub(super) fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let frame = frame(message)?;
        let mut sent = 0;
        while sent < frame.len() {
            let result = if sent == 0 && !fds.is_empty() {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !control.push(SendAncillaryMessage::ScmRights(fds)) {
                    return Err(malformed());
                }
                sendmsg(
                    &self.socket,
                    &[IoSlice::new(&frame)],
                    &mut control,
                    SendFlags::NOSIGNAL,
                )
            } else {
                send(&self.socket, &frame[sent..], SendFlags::NOSIGNAL)
            };
            match result {
                Ok(n) => sent += n,
                Err(rustix::io::Errno::INTR) => {}
                // Too many descriptors under way: the other end takes them out one by one.
                Err(rustix::io::Errno::TOOMANYREFS) => std::thread::sleep(IN_FLIGHT_PAUSE),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn receive_some(&self, into: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(into)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Err(rustix::io::Errno::INTR) => {}
                // The other end died with something unread: an end like any other.
                Err(rustix::io::Errno::CONNRESET) => return Ok(0),
                other => break other?,
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        Ok(received.bytes)
    }

    /// Waits for one message; `None` when the other end closed.
    pub(super) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut fds = Vec::new();
        let mut header = [0; 4];
        if !self.receive_exact(&mut header, &mut fds)? {
            return Ok(None);
        }
        let mut body = vec![0; length(header)?];
        if !self.receive_exact(&mut body, &mut fds)? {
            return Ok(None);
        }
        Ok(Some((serde_json::from_slice(&body)?, fds)))
    }

    fn receive_exact(&self, into: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<bool> {
        let mut got = 0;
        while got < into.len() {
            match self.receive_some(&mut into[got..], fds)? {
                0 => return Ok(false),
                n => got += n,
            }
        }
        Ok(true)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn messages_and_descriptors_arrive_in_order() {
        let (a, b) = Channel::pair().unwrap();
        let b = Channel::new(b);
        let null = File::open("/dev/null").unwrap();
        a.send(&"with", &[null.as_fd(), null.as_fd()]).unwrap();
        a.send(&"without", &[]).unwrap();
        let (text, fds) = b.receive::<String>().unwrap().unwrap();
        assert_eq!((text.as_str(), fds.len()), ("with", 2));
        let (text, fds) = b.receive::<String>().unwrap().unwrap();
        assert_eq!((text.as_str(), fds.len()), ("without", 0));
        a.close();
        assert!(b.receive::<String>().unwrap().is_none());
    }

    #[test]
    fn absurd_lengths_are_refused() {
        assert!(length([0xff; 4]).is_err());
        assert_eq!(length([9, 0, 0, 0]).unwrap(), 9);
    }

    #[test]
    fn a_message_that_is_cut_is_an_end() {
        let (a, b) = Channel::pair().unwrap();
        let b = Channel::new(b);
        send(&a, &[9, 0, 0, 0, b'"'], SendFlags::NOSIGNAL).unwrap();
        a.close();
        assert!(b.receive::<String>().unwrap().is_none());
    }
    #[test]
    fn who_waits_for_a_reader_that_has_given_up_goes_on() {
        let (a, b) = Channel::pair().unwrap();
        let b = Channel::new(b);
        let long = "x".repeat(8 << 20);
        let error = std::thread::scope(|scope| {
            let sender = scope.spawn(|| b.send(&long, &[]).unwrap_err().kind());
            // Its first bytes: it is on its way, and has no room for the rest.
            let mut header = [0; 4];
            assert!(a.receive_exact(&mut header, &mut Vec::new()).unwrap());
            a.close();
            sender.join().unwrap()
        });
        assert_eq!(error, io::ErrorKind::BrokenPipe);
    }
}
