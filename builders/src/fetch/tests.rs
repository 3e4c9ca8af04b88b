//! Servers that misbehave in every way that was seen in the wild.

use std::cell::RefCell;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::{Hash, HashAlgo};

use super::test_server::{Asked, Reply, Server, Then, cut, reply};
use super::{
    Download as _, FetchError, Fetched, Fetcher, Limits, MemorySink, Observer, Quiet, Request,
};
use crate::mirrors::Mirrors;

fn limits() -> Limits {
    Limits {
        connect: Duration::from_millis(500),
        answer: Duration::from_millis(500),
        stall: Duration::from_millis(300),
        backoff: Duration::from_millis(1),
        max_backoff: Duration::from_millis(5),
        ..Limits::default()
    }
}

pub(super) fn fetcher() -> Fetcher {
    Fetcher::with_limits(Mirrors::default(), false, limits())
}

/// A file large enough that a reset comes after some of it was read.
pub(super) fn content() -> Vec<u8> {
    (0..300_000_u32)
        .flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect()
}

pub(super) fn get(
    fetcher: &Fetcher,
    urls: &[String],
    hash: Option<&Hash>,
) -> Result<(Vec<u8>, Fetched), Box<Diagnostic>> {
    let mut sink = MemorySink::default();
    let request = Request {
        written: None,
        name: "file",
        urls,
        hash,
        size: None,
        limit: 1 << 24,
        fixed_output: true,
        offline: false,
    };
    match fetcher.fetch(&request, &mut sink, &Quiet) {
        Ok(fetched) => Ok((sink.into_bytes(), fetched)),
        Err(FetchError::Failed(diagnostic)) => Err(diagnostic),
        Err(error) => panic!("{error}"),
    }
}

pub(super) fn sha256(bytes: &[u8]) -> Hash {
    Hash::of(HashAlgo::Sha256, bytes)
}

/// Fetches `content()` from a server that behaves as told; gives the result and what was asked.
pub(super) fn against(
    handler: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static,
) -> (Result<Vec<u8>, Box<Diagnostic>>, Vec<Asked>) {
    let server = Server::start(handler);
    let result = get(
        &fetcher(),
        &[server.url("/file")],
        Some(&sha256(&content())),
    )
    .map(|(bytes, _)| bytes);
    (result, server.asked())
}

#[track_caller]
pub(super) fn check_fails(result: Result<Vec<u8>, Box<Diagnostic>>, code: &str, note: &str) {
    let diagnostic = result.expect_err("must not be accepted");
    assert_eq!(diagnostic.code, code, "{diagnostic:?}");
    assert!(
        diagnostic.notes.iter().any(|line| line.contains(note)),
        "{:?}",
        diagnostic.notes
    );
}

#[test]
fn a_good_server() {
    let (result, asked) = against(|_, _| reply("200 OK", "", &content()));
    assert_eq!(result.expect("fetched"), content());
    assert_eq!(asked.len(), 1);
    assert!(asked[0].headers["user-agent"].starts_with("sos/"));
    assert!(!asked[0].headers.contains_key("authorization"));
    assert!(!asked[0].headers.contains_key("range"));
}

#[test]
fn missing_is_final_at_this_server() {
    let (result, asked) = against(|_, _| reply("404 Not Found", "", b""));
    check_fails(result, "fetch-failed", "404 Not Found");
    assert_eq!(asked.len(), 1);
}

#[test]
fn server_errors_are_tried_again() {
    let (result, asked) = against(|_, n| match n {
        0 | 1 => reply("503 Service Unavailable", "Retry-After: 3600\r\n", b""),
        _ => reply("200 OK", "", &content()),
    });
    assert_eq!(result.expect("fetched"), content());
    assert_eq!(asked.len(), 3);
}

#[test]
fn server_errors_end() {
    let (result, asked) = against(|_, _| reply("500 Internal Server Error", "", b""));
    check_fails(result, "fetch-failed", "500 Internal Server Error");
    assert_eq!(asked.len(), 4);
}

#[test]
fn a_short_length_is_a_mismatch() {
    let (result, _) = against(|_, _| reply("200 OK", "", &content()[..1000]));
    check_fails(result, "fetch-hash-mismatch", "(1000 bytes)");
}

#[test]
fn a_flipped_byte_is_a_mismatch() {
    let (result, _) = against(|_, _| {
        let mut all = content();
        all[123_456] ^= 1;
        reply("200 OK", "", &all)
    });
    let diagnostic = result.expect_err("must not be accepted");
    assert_eq!(
        (diagnostic.code, diagnostic.class),
        ("fetch-hash-mismatch", Class::HashMismatch)
    );
    assert!(
        diagnostic.notes[0].contains(&sha256(&content()).to_hex()),
        "{:?}",
        diagnostic.notes
    );
    assert!(
        diagnostic.helps[0].contains("sha256-"),
        "{:?}",
        diagnostic.helps
    );
}

#[test]
fn a_web_page_is_called_one() {
    let (result, _) = against(|_, _| {
        reply(
            "200 OK",
            "Content-Type: text/html\r\n",
            b"<html>please log in</html>",
        )
    });
    check_fails(
        result,
        "fetch-hash-mismatch",
        "the mirror answered with a web page",
    );
}

#[test]
fn silence_in_the_body_ends() {
    let (result, asked) = against(|_, _| cut("200 OK", "", 1000, b"abc", Then::Hang));
    check_fails(result, "fetch-failed", "stalled after 3 bytes");
    assert_eq!(asked.len(), 2);
}

#[test]
fn silence_before_the_answer_costs_one_timeout_a_run() {
    let server = Server::start(|_, _| Reply {
        bytes: Vec::new(),
        then: Then::Hang,
    });
    let fetcher = fetcher();
    let hash = sha256(b"x");
    let urls = [server.url("/a")];
    check_fails(
        get(&fetcher, &urls, Some(&hash)).map(|_| Vec::new()),
        "fetch-failed",
        "no answer within",
    );
    let urls = [server.url("/b")];
    check_fails(
        get(&fetcher, &urls, Some(&hash)).map(|_| Vec::new()),
        "fetch-failed",
        "failed earlier in this run",
    );
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn a_closed_port_moves_on_and_is_not_asked_again() {
    let port = TcpListener::bind("127.0.0.1:0")
        .expect("bind")
        .local_addr()
        .expect("address")
        .port();
    let dead = format!("http://127.0.0.1:{port}/file");
    let server = Server::start(|_, _| reply("200 OK", "", b"good"));
    let fetcher = fetcher();
    let urls = [dead, server.url("/file")];
    let (bytes, fetched) = get(&fetcher, &urls, Some(&sha256(b"good"))).expect("fetched");
    assert_eq!(bytes, b"good");
    assert_eq!(fetched.url, urls[1]);
    assert!(
        fetched.given_up[0].contains("cannot connect"),
        "{:?}",
        fetched.given_up
    );
    let (_, fetched) = get(&fetcher, &urls, Some(&sha256(b"good"))).expect("fetched");
    assert!(
        fetched.given_up[0].contains("failed earlier in this run"),
        "{:?}",
        fetched.given_up
    );
}

#[test]
fn a_redirect_is_followed_and_a_circle_is_not() {
    let server = Server::start(|asked, _| match asked.path.as_str() {
        "/moved" => reply("302 Found", "Location: /file\r\n", b""),
        "/file" => reply("200 OK", "", b"good"),
        "/user" => reply(
            "302 Found",
            "Location: http://me:secret@127.0.0.1/\r\n",
            b"",
        ),
        _ => reply("302 Found", "Location: /circle\r\n", b""),
    });
    let hash = sha256(b"good");
    assert_eq!(
        get(&fetcher(), &[server.url("/moved")], Some(&hash))
            .expect("fetched")
            .0,
        b"good"
    );
    let circle = get(&fetcher(), &[server.url("/circle")], Some(&hash)).map(|_| Vec::new());
    check_fails(circle, "fetch-failed", "redirected in a circle");
    let user = get(&fetcher(), &[server.url("/user")], Some(&hash)).map(|_| Vec::new());
    check_fails(user, "fetch-failed", "sos sends no credentials");
}

#[test]
fn every_source_is_in_the_error() {
    let server = Server::start(|asked, _| match asked.path.as_str() {
        "/404" => reply("404 Not Found", "", b""),
        "/page" => reply("200 OK", "", b"<!doctype html>"),
        _ => reply("200 OK", "", b"bad"),
    });
    let urls = ["/404", "/page", "/bad", "/404"].map(|path| server.url(path));
    let diagnostic = get(&fetcher(), &urls, Some(&sha256(b"good"))).expect_err("none is good");
    assert_eq!(diagnostic.code, "fetch-hash-mismatch");
    assert_eq!(diagnostic.notes.len(), 3, "{:?}", diagnostic.notes);
    for (note, part) in diagnostic
        .notes
        .iter()
        .zip(["404", "web page", "found sha256"])
    {
        assert!(note.contains(part), "{note}");
    }
}

#[test]
fn size_and_limit_are_checked_before_the_body() {
    let server = Server::start(|_, _| cut("200 OK", "", 1 << 40, b"", Then::Hang));
    let urls = [server.url("/file")];
    check_fails(
        get(&fetcher(), &urls, None).map(|_| Vec::new()),
        "fetch-failed",
        "larger than the limit",
    );
    let mut sink = MemorySink::default();
    let request = Request {
        written: None,
        name: "file",
        urls: &urls,
        hash: None,
        size: Some(5),
        limit: 1 << 41,
        fixed_output: false,
        offline: false,
    };
    let Err(FetchError::Failed(diagnostic)) = fetcher().fetch(&request, &mut sink, &Quiet) else {
        panic!("must not be accepted")
    };
    assert!(
        diagnostic.notes[0].contains("expected 5"),
        "{:?}",
        diagnostic.notes
    );
}

#[test]
fn a_body_without_length_is_cut_at_the_limit() {
    let server = Server::start(|_, _| Reply {
        bytes: [
            b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec(),
            vec![1; 100],
        ]
        .concat(),
        then: Then::Close,
    });
    let error = fetcher()
        .bytes(&[server.url("/file")], 99, None)
        .expect_err("too large");
    assert!(error.notes[0].contains("limit of 99"), "{:?}", error.notes);
    assert_eq!(
        fetcher()
            .bytes(&[server.url("/file")], 100, None)
            .expect("fits"),
        vec![1; 100]
    );
}

#[test]
fn local_files_work_offline_and_nothing_else_does() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("a b");
    std::fs::write(&path, b"good").expect("write");
    let offline = Fetcher::with_limits(Mirrors::default(), true, limits());
    let local = format!("file://{}/a%20b", dir.path().display());
    assert_eq!(
        get(
            &offline,
            std::slice::from_ref(&local),
            Some(&sha256(b"good"))
        )
        .expect("read")
        .0,
        b"good"
    );
    check_fails(
        get(&offline, &[local], Some(&sha256(b"bad"))).map(|_| Vec::new()),
        "fetch-hash-mismatch",
        "a%20b",
    );
    let remote = "https://mirror.example/x.tar".to_owned();
    let error = get(&offline, std::slice::from_ref(&remote), None).expect_err("offline");
    assert_eq!((error.code, error.class), ("fetch-offline", Class::Fetch));
    assert!(error.message.contains("`file`"));
    assert!(error.notes[0].contains(&remote));
}

#[test]
fn odd_urls_are_refused() {
    for (url, note) in [
        ("ftp://mirror.example/x", "scheme `ftp`"),
        ("no url", "not a URL"),
        ("file://otherhost/x", "another machine"),
        (
            "https://me:secret@mirror.example/x",
            "sos sends no credentials",
        ),
    ] {
        let error = get(&fetcher(), &[url.to_owned()], None).expect_err(url);
        assert!(error.notes[0].contains(note), "{:?}", error.notes);
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    }
}

#[test]
fn a_captive_portal_is_noticed_without_a_hash() {
    let server = Server::start(|_, _| reply("200 OK", "", b"<HTML>pay first</HTML>"));
    let error = fetcher()
        .bytes(&[server.url("/InRelease")], 1000, None)
        .expect_err("a page");
    assert_eq!(error.code, "fetch-failed");
    assert!(error.notes[0].contains("web page"), "{:?}", error.notes);
}

#[test]
fn many_at_once_from_inside_a_runtime() {
    let server = Arc::new(Server::start(|asked, _| {
        reply("200 OK", "", asked.path.as_bytes())
    }));
    let fetcher = fetcher();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime");
    let tasks: Vec<_> = (0..20)
        .map(|i| {
            let (fetcher, url) = (fetcher.clone(), server.url(&format!("/{i}")));
            runtime.spawn(async move { fetcher.bytes(&[url], 100, None) })
        })
        .collect();
    for (i, task) in tasks.into_iter().enumerate() {
        let bytes = runtime.block_on(task).expect("no panic").expect("fetched");
        assert_eq!(bytes, format!("/{i}").into_bytes());
    }
}

#[test]
fn cancelling_ends_a_wait() {
    struct Stop(RefCell<u32>);
    impl Observer for Stop {
        fn progress(&self, _: u64, _: Option<u64>) {}
        fn note(&self, _: &str) {}
        fn cancelled(&self) -> bool {
            *self.0.borrow_mut() += 1;
            *self.0.borrow() > 2
        }
    }
    let server = Server::start(|_, _| Reply {
        bytes: Vec::new(),
        then: Then::Hang,
    });
    let urls = [server.url("/file")];
    let request = Request {
        written: None,
        name: "file",
        urls: &urls,
        hash: None,
        size: None,
        limit: 10,
        fixed_output: false,
        offline: false,
    };
    let patient = Fetcher::new(Mirrors::default(), false);
    let result = patient.fetch(&request, &mut MemorySink::default(), &Stop(RefCell::new(0)));
    assert!(matches!(result, Err(FetchError::Cancelled)), "{result:?}");
}

#[test]
fn a_drip_is_a_stall() {
    let server = Server::start(|_, _| cut("200 OK", "", 1 << 20, b"", Then::Drip));
    let limits = Limits {
        window: Duration::from_millis(200),
        window_bytes: 1000,
        ..limits()
    };
    let fetcher = Fetcher::with_limits(Mirrors::default(), false, limits);
    let result = get(&fetcher, &[server.url("/file")], Some(&sha256(b"x")));
    check_fails(result.map(|_| Vec::new()), "fetch-failed", "stalled after");
}

#[test]
fn a_full_disk_is_not_the_fault_of_a_mirror() {
    struct Full(std::io::ErrorKind);
    impl super::Sink for Full {
        fn restart(&mut self) -> std::io::Result<()> {
            Ok(())
        }
        fn write(&mut self, _: &[u8]) -> std::io::Result<()> {
            Err(self.0.into())
        }
    }
    let server = Server::start(|_, _| reply("200 OK", "", b"good"));
    let urls = [server.url("/a"), server.url("/b")];
    let hash = sha256(b"good");
    let request = Request {
        written: None,
        name: "file",
        urls: &urls,
        hash: Some(&hash),
        size: None,
        limit: 10,
        fixed_output: true,
        offline: false,
    };
    for (kind, code) in [
        (std::io::ErrorKind::StorageFull, "env-disk-full"),
        (std::io::ErrorKind::PermissionDenied, "fetch-write"),
    ] {
        let Err(FetchError::Failed(error)) = fetcher().fetch(&request, &mut Full(kind), &Quiet)
        else {
            panic!("must fail")
        };
        assert_eq!((error.code, error.class), (code, Class::Machine));
    }
    assert_eq!(server.asked().len(), 2, "no other mirror is asked");
}

#[test]
fn too_many_sources_are_not_all_tried() {
    let server = Server::start(|_, _| reply("404 Not Found", "", b""));
    let urls: Vec<String> = (0..100).map(|i| server.url(&format!("/{i}"))).collect();
    let error = get(&fetcher(), &urls, None).expect_err("none is there");
    assert_eq!(error.notes.len(), super::limits::MAX_SOURCES);
}
