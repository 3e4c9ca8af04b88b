//! A web server on loopback that serves a directory, as a package mirror does, and can fall ill on demand.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// A running server; it ends with the value.
pub(crate) struct Server {
    address: std::net::SocketAddr,
    state: Arc<State>,
}

struct State {
    dir: PathBuf,
    asked: Mutex<Vec<String>>,
    broken: AtomicBool,
    ended: AtomicBool,
    /// Answers to paths that have this in them wait.
    held: Mutex<Option<String>>,
    opened: Condvar,
}

impl Server {
    /// Serves the files below `dir`.
    pub(crate) fn start(dir: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            dir: dir.to_owned(),
            asked: Mutex::default(),
            broken: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            held: Mutex::default(),
            opened: Condvar::new(),
        });
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.ended.load(Ordering::SeqCst) {
                    return;
                }
                let state = shared.clone();
                // A client that goes away in the middle is no concern of the test.
                std::thread::spawn(move || drop(state.serve(&stream)));
            }
        });
        Self { address, state }
    }

    /// The base address.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The paths asked for so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.state
            .asked
            .lock()
            .expect("no thread of the server panicked")
            .clone()
    }

    /// From now on no answer comes, until [`Server::open`].
    pub(crate) fn hold(&self) {
        self.hold_at("");
    }

    /// The same for paths that have `part` in them.
    pub(crate) fn hold_at(&self, part: &str) {
        *self.state.held.lock().expect("no thread panicked") = Some(part.to_owned());
    }

    /// What was asked meanwhile is answered, and so is what comes.
    pub(crate) fn open(&self) {
        *self.state.held.lock().expect("no thread panicked") = None;
        self.state.opened.notify_all();
    }

    /// From now on every answer is `503`.
    pub(crate) fn break_down(&self) {
        self.state.broken.store(true, Ordering::SeqCst);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        self.open();
        // Wakes the listening thread, which then sees the flag.
        drop(TcpStream::connect(self.address));
    }
}

impl State {
    fn serve(&self, stream: &TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream).lines();
        let request = lines.next().transpose()?.unwrap_or_default();
        for line in lines {
            if line?.is_empty() {
                break;
            }
        }
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        self.asked
            .lock()
            .expect("no thread of the server panicked")
            .push(path.clone());
        let held = self.held.lock().expect("no thread panicked");
        let is_held = |held: &mut Option<String>| held.as_ref().is_some_and(|at| path.contains(at));
        let held = self.opened.wait_while(held, is_held);
        drop(held.expect("no thread panicked"));
        let file = path.split_once('?').map_or(path.as_str(), |(file, _)| file);
        let relative = decoded(file.trim_start_matches('/'));
        let mut stream = stream;
        let content = if relative.split('/').any(|part| part == "..") {
            None
        } else {
            std::fs::read(self.dir.join(relative)).ok()
        };
        let (status, body) = match content {
            _ if self.broken.load(Ordering::SeqCst) => ("503 Service Unavailable", Vec::new()),
            Some(bytes) => ("200 OK", bytes),
            None => ("404 Not Found", Vec::new()),
        };
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        )?;
        stream.write_all(&body)
    }
}

/// The text behind the percent signs of an address.
fn decoded(path: &str) -> String {
    let mut parts = path.split('%');
    let mut out = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part
            .get(..2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
        {
            Some(byte) => {
                out.push(byte);
                out.extend_from_slice(&part.as_bytes()[2..]);
            }
            None => out.extend_from_slice(format!("%{part}").as_bytes()),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
