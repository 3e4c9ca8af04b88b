//! What any web server has to stand, and how this one ends.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use rustix::process::Signal;

use super::{Reply, Serving};
use crate::support::{World, store_is_clean};

/// More than what the kernel and the server keep for a client that does not read.
const LARGE: usize = 64 << 20;

#[test]
fn signals_end_it_with_success_and_leave_nothing() {
    let w = World::new();
    w.write("x", "x");
    w.sos(["store", "add", "x"]).ok();
    for signal in [Signal::INT, Signal::TERM] {
        let serving = Serving::start(&w, &[]);
        // One that is idle does not keep it.
        let _idle = TcpStream::connect(serving.host()).expect("it listens");
        serving.get("/", &[]).is(200);
        serving.stop(signal).ok();
        store_is_clean(&w);
    }
}

#[test]
fn an_address_that_cannot_be_is_said() {
    let w = World::new();
    let serving = Serving::start(&w, &[]);
    w.sos(["serve", "--listen", serving.host()])
        .fails(4)
        .says(&["error[serve-listen]", serving.host(), "port 0"]);
    for bad in ["8089", "127.0.0.1", "127.0.0.1:99999", "127.0.0.1:http", ""] {
        w.sos(["serve", "--listen", bad])
            .fails(2)
            .says(&["error[serve-address]", "127.0.0.1:8089"]);
    }
    w.sos(["serve", "--key", "absent"])
        .fails(2)
        .says(&["error[serve-no-key]", "`absent`"]);
    w.write("key", "a-1:AAAA\n");
    w.sos(["serve", "--key", "key"]).fails(2).says(&[
        "error[serve-bad-key]",
        "64 bytes",
        "in `key`",
    ]);
    w.sos(["serve", "--listen", "127.0.0.1:0", "absent.nix"])
        .fails(3)
        .says(&["error[target-not-found]"]);
}

#[test]
fn requests_that_are_none_are_refused() {
    let w = World::new();
    let serving = Serving::start(&w, &[]);
    let send = |request: &[u8]| {
        let mut stream = serving.connect("");
        let _gone = stream.write_all(request).is_err();
        let mut bytes = Vec::new();
        let _reset = stream.read_to_end(&mut bytes).is_err();
        bytes
    };
    let long = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "a".repeat(100_000)
    );
    assert_eq!(Reply::of(&send(long.as_bytes())).status, 431);
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(100));
    assert_eq!(Reply::of(&send(many.as_bytes())).status, 431);
    let path = format!(
        "GET /{} HTTP/1.1\r\nConnection: close\r\n\r\n",
        "a".repeat(5000)
    );
    assert_eq!(Reply::of(&send(path.as_bytes())).status, 400);
    for none in [
        &b"\x16\x03\x01\x02\x00\x01\x00"[..],
        b"GET\r\n\r\n",
        b"\r\n\0\r\n\r\n",
    ] {
        let told = send(none);
        assert!(
            told.is_empty() || told.starts_with(b"HTTP/1.1 400"),
            "{told:?}"
        );
    }
    for (path, status) in [
        ("/..%2f..%2fetc%2fpasswd", 400),
        ("/../../etc/passwd", 404),
        ("/nar/../../x", 404),
        ("/v2/../x", 404),
        ("/%00", 400),
        ("/a/b/c", 404),
    ] {
        serving.get(path, &[]).is(status);
    }
    for method in ["PUT", "DELETE", "POST", "PATCH"] {
        let refused = serving
            .ask(method, "/nix-cache-info", &["Content-Length: 0"])
            .is(405);
        assert_eq!(refused.header("allow"), Some("get, head"));
    }
    // It is as well as before, and one connection serves many requests.
    let mut stream = serving.connect(
        "GET /nix-cache-info HTTP/1.1\r\nHost: x\r\n\r\nGET /absent HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    );
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("two answers");
    assert!(
        text.starts_with("HTTP/1.1 200") && text.contains("HTTP/1.1 404"),
        "{text}"
    );
}

#[test]
fn the_page_lists_what_is_there_and_escapes_it() {
    let w = World::new();
    w.write("a=b?.tar", "x");
    w.sos(["store", "add", "--flat", "a=b?.tar"]).ok();
    let serving = Serving::start(&w, &[]);
    let page = serving.get("/", &[]).is(200);
    let text = page.text();
    assert!(text.contains("href=\"/a%3Db%3F.tar\""), "{text}");
    assert!(
        text.contains("sha256:") && text.contains(serving.host()),
        "{text}"
    );
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.contains("default-src 'none'"), "{policy}");
    assert!(!text.contains("<script"), "{text}");
    let style = serving.get("/-/style.css", &[]).is(200);
    assert_eq!(
        style.header("content-type"),
        Some("text/css; charset=utf-8")
    );
    // What a client calls this server is shown only when it can be a name.
    let mut stream = serving.connect(
        "GET / HTTP/1.1\r\nHost: \"><script>alert(1)</script>\r\nConnection: close\r\n\r\n",
    );
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an answer");
    assert!(!String::from_utf8_lossy(&bytes).contains("<script"));
}

/// A tree with two large files in the store, and the hash in its path; nothing keeps it from being collected.
fn large(w: &World) -> (String, String) {
    // What no compression makes small.
    let mut state = 1u64;
    let mut content: Vec<u8> = (0..LARGE / 8)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect();
    for name in ["a", "b"] {
        let file = w.project().join("tree").join(name);
        std::fs::create_dir_all(file.parent().expect("a parent")).expect("a directory");
        std::fs::write(file, &content).expect("a file");
        content.rotate_left(1);
    }
    let path = w
        .sos(["store", "add", "tree"])
        .ok()
        .stdout
        .trim()
        .to_owned();
    (path.clone(), path["/nix/store/".len()..][..32].to_owned())
}

fn archive(serving: &Serving, hash: &str) -> String {
    let record = serving.get(&format!("/{hash}.narinfo"), &[]).is(200).text();
    let url = record.lines().find_map(|line| line.strip_prefix("URL: "));
    format!("/{}", url.expect("an address"))
}

/// Reads the head of an answer and some of its body, no more.
fn begin(serving: &Serving, path: &str) -> (TcpStream, Vec<u8>) {
    let host = serving.host();
    let mut stream = serving.connect(&format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    ));
    let mut first = vec![0; 1000];
    stream.read_exact(&mut first).expect("a beginning");
    (stream, first)
}

#[test]
fn what_is_being_sent_is_not_collected() {
    let w = World::new();
    let (path, hash) = large(&w);
    let serving = Serving::start(&w, &["--compression", "none"]);
    let url = archive(&serving, &hash);
    let (mut stream, mut bytes) = begin(&serving, &url);
    w.sos(["gc"]).ok();
    assert!(w.sos(["store", "ls"]).ok().stdout.contains(&path));
    stream.read_to_end(&mut bytes).expect("the rest");
    let whole = Reply::of(&bytes).is(200);
    let length = whole.body.len().to_string();
    assert_eq!(whole.header("content-length"), Some(length.as_str()));
    let other = serving.get(&url, &[]).is(200);
    assert!(whole.body == other.body);
    // The lease ends with the thread that has written the last bytes.
    crate::support::process::wait_until("the end of the lease", || {
        w.sos(["gc"]).ok();
        !w.sos(["store", "ls"]).ok().stdout.contains(&path)
    });
    serving.get(&url, &[]).is(404);
    serving.get(&format!("/{hash}.narinfo"), &[]).is(404);
    serving.stop(Signal::TERM).ok();
    store_is_clean(&w);
}

#[test]
fn what_goes_away_ends_the_connection_early() {
    let w = World::new();
    let (path, hash) = large(&w);
    for compression in ["none", "zstd"] {
        let serving = Serving::start(&w, &["--compression", compression]);
        let url = archive(&serving, &hash);
        let place = w.physical(&path);
        let (held, away) = (place.join("b"), w.root().join("b"));
        let mode = |mode| {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&place, mode).expect("a mode");
        };
        let whole = serving.get(&url, &[]).is(200).body;
        mode(0o755);
        let (mut stream, mut bytes) = begin(&serving, &url);
        std::fs::rename(&held, &away).expect("a file moves");
        let _reset = stream.read_to_end(&mut bytes).is_err();
        std::fs::rename(&away, &held).expect("a file moves");
        mode(0o555);
        let cut = Reply::of(&bytes).is(200);
        assert!(cut.body.len() < whole.len(), "{compression}");
        match cut.header("content-length") {
            Some(length) => assert_eq!(length, whole.len().to_string()),
            // Chunks without the last one: the client sees that something is missing.
            None => {
                assert!(whole.ends_with(b"\r\n0\r\n\r\n"));
                assert!(!cut.body.ends_with(b"\r\n0\r\n\r\n"));
            }
        }
        // The server goes on.
        assert!(serving.get(&url, &[]).is(200).body == whole);
    }
}

#[test]
fn answers_under_way_end_when_it_stops() {
    let w = World::new();
    let (_, hash) = large(&w);
    let serving = Serving::start(&w, &["--compression", "none"]);
    let url = archive(&serving, &hash);
    let (mut stream, mut bytes) = begin(&serving, &url);
    crate::support::process::signal(serving.child(), Signal::INT);
    stream.read_to_end(&mut bytes).expect("the rest");
    let whole = Reply::of(&bytes).is(200);
    assert!(whole.body.len() > 2 * LARGE);
    serving.stop(Signal::CONT).ok();
    store_is_clean(&w);
}
