//! `sos serve`: real clients take what it serves, and nothing that a client does hurts it.

mod commits;
mod distfiles;
mod http;
mod images;
mod nix;
mod substitute;
mod trees;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Child;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{Run, World, finish, process, start};

/// A server of a world; it ends with the value.
pub(crate) struct Serving {
    child: Option<Child>,
    /// `http://127.0.0.1:PORT`.
    pub(crate) url: String,
}

impl Serving {
    /// Serves on a port of its own; returns once it listens.
    #[track_caller]
    pub(crate) fn start(w: &World, args: &[&str]) -> Self {
        let mut command = w.command();
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(args);
        let mut child = start(&mut command);
        let stdout = child.stdout.take().expect("a pipe");
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("a line of text");
        let Some(url) = line.strip_suffix("/\n") else {
            panic!("{line:?}: {:?}", finish(child, Duration::from_secs(60)));
        };
        assert!(url.starts_with("http://127.0.0.1:"), "{url}");
        Self {
            url: url.to_owned(),
            child: Some(child),
        }
    }

    /// `127.0.0.1:PORT`.
    fn host(&self) -> &str {
        &self.url["http://".len()..]
    }

    fn child(&self) -> &Child {
        self.child.as_ref().expect("it runs")
    }

    /// Sends a signal and waits for the end.
    fn stop(mut self, signal: Signal) -> Run {
        let child = self.child.take().expect("it runs");
        process::signal(&child, signal);
        finish(child, Duration::from_secs(60))
    }

    /// A connection on which a request was sent; the answer is still to be read.
    fn connect(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.host()).expect("it listens");
        let limit = Some(Duration::from_secs(120));
        stream.set_read_timeout(limit).expect("a limit");
        stream.write_all(request.as_bytes()).expect("it reads");
        stream
    }

    fn get(&self, path: &str, headers: &[&str]) -> Reply {
        self.ask("GET", path, headers)
    }

    fn ask(&self, method: &str, path: &str, headers: &[&str]) -> Reply {
        let more: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let host = self.host();
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n");
        let mut bytes = Vec::new();
        // Who gives up may reset the connection; what has come until then is looked at.
        let _reset = self.connect(&request).read_to_end(&mut bytes).is_err();
        Reply::of(&bytes)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            process::signal(&child, Signal::KILL);
            drop(child.wait());
        }
    }
}

/// An answer.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Reply {
    #[track_caller]
    fn of(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no head: {}", String::from_utf8_lossy(bytes)));
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Self {
            status: status.expect("a status"),
            head,
            body: bytes[end + 4..].to_vec(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| line.strip_prefix(&format!("{name}: ")))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}\n{}", self.head, self.text());
        self
    }
}
