//! A registry that lies, forgets and breaks as a test wants it to, on a port of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use sos_formats::hash::Sha256;

/// What the registry has and how it behaves.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) blobs: BTreeMap<String, Vec<u8>>,
    pub(super) manifests: BTreeMap<String, (String, Vec<u8>)>,
    pub(super) uploads: BTreeMap<String, Vec<u8>>,
    /// Every request line, in order, with the header that shows who asks.
    pub(super) seen: Vec<(String, Option<String>)>,
    /// Wants a bearer token, that of `/token`, which wants this `Authorization`.
    pub(super) bearer: Option<String>,
    /// Tokens that count.
    pub(super) tokens: BTreeSet<String>,
    /// After so many requests with a token, it counts no more.
    pub(super) token_lasts: Option<usize>,
    pub(super) used: usize,
    /// Keeps half of a piece and hangs up, so many times.
    pub(super) cut: usize,
    /// Forgets all uploads, once.
    pub(super) forget: bool,
    /// Answers to a question for a blob with an address on another host.
    pub(super) redirect: Option<String>,
    /// The same for manifests.
    pub(super) moved: Option<String>,
    /// Answers with this status to what begins so.
    pub(super) answers: Option<(&'static str, u16)>,
    /// Sends bodies without saying how long they are.
    pub(super) unmeasured: bool,
    /// Says that it keeps another manifest.
    pub(super) lie: bool,
    /// Keeps lists of what is about an image, and says so.
    pub(super) referrers: bool,
    /// Repositories from which blobs can be taken over.
    pub(super) mountable: BTreeSet<String>,
}

/// A registry; it ends with the test's process.
pub(super) struct Registry {
    pub(super) host: String,
    pub(super) state: Arc<Mutex<State>>,
}

impl Registry {
    pub(super) fn start(state: State) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        let state = Arc::new(Mutex::new(state));
        let (shared, name) = (state.clone(), host.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, name) = (shared.clone(), name.clone());
                thread::spawn(move || serve(stream, &shared, &name));
            }
        });
        Self { host, state }
    }

    pub(super) fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().expect("no panic"))
    }

    /// How many requests begin with this.
    pub(super) fn count(&self, start: &str) -> usize {
        self.with(|state| {
            let lines = state
                .seen
                .iter()
                .filter(|(line, _)| line.starts_with(start));
            lines.count()
        })
    }
}

struct Heard {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

struct Told {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    hang_up: bool,
    /// The body ends where the connection does.
    unmeasured: bool,
}

fn told(status: u16) -> Told {
    Told {
        status,
        headers: Vec::new(),
        body: Vec::new(),
        hang_up: false,
        unmeasured: false,
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>, host: &str) {
    let mut out = stream.try_clone().expect("a socket");
    let mut input = BufReader::new(stream);
    // Where TLS begins: what speaks http only says so, in clear text.
    if input
        .fill_buf()
        .is_ok_and(|begin| begin.first() == Some(&0x16))
    {
        let told = out.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
        assert!(told.is_ok(), "{told:?}");
        return;
    }
    while let Some(heard) = hear(&mut input) {
        let answer = answer(&heard, &mut state.lock().expect("no panic"), host);
        if answer.hang_up {
            let _closed = out.shutdown(std::net::Shutdown::Both).is_ok();
            return;
        }
        let mut head = format!("HTTP/1.1 {} x\r\n", answer.status);
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let length = answer.body.len();
        head.push_str(&if answer.unmeasured {
            "Connection: close\r\n\r\n".to_owned()
        } else {
            format!("Content-Length: {length}\r\n\r\n")
        });
        let mut bytes = head.into_bytes();
        if heard.method != "HEAD" {
            bytes.extend_from_slice(&answer.body);
        }
        if out.write_all(&bytes).is_err() || answer.unmeasured {
            let _closed = out.shutdown(std::net::Shutdown::Both).is_ok();
            return;
        }
    }
}

fn hear(input: &mut BufReader<TcpStream>) -> Option<Heard> {
    let mut line = String::new();
    input.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        input.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length");
    let length = length.and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    input.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let url = reqwest::Url::parse(&format!("http://x/?{query}")).ok()?;
    Some(Heard {
        method,
        path: path.to_owned(),
        query: url.query_pairs().into_owned().collect(),
        headers,
        body,
    })
}

fn answer(heard: &Heard, state: &mut State, host: &str) -> Told {
    let who = heard.headers.get("authorization").cloned();
    let line = format!("{} {}", heard.method, heard.path);
    let failed = state
        .answers
        .filter(|(begin, _)| line.starts_with(begin))
        .map(|(_, status)| told(status));
    state.seen.push((line, who.clone()));
    if let Some(failed) = failed {
        return failed;
    }
    if heard.path == "/token" {
        return token(heard, state, who.as_deref());
    }
    if state.bearer.is_some() {
        let token = who.as_deref().and_then(|who| who.strip_prefix("Bearer "));
        state.used += 1;
        if state.token_lasts.is_some_and(|most| state.used > most) {
            state.tokens.clear();
            state.used = 0;
        }
        if !token.is_some_and(|token| state.tokens.contains(token)) {
            let mut answer = told(401);
            let challenge = format!(
                "Bearer realm=\"http://{host}/token\",service=\"s\",scope=\"repository:os/web:pull\""
            );
            answer.headers.push(("WWW-Authenticate", challenge));
            answer.body =
                br#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#.to_vec();
            return answer;
        }
    }
    let Some((name, rest)) = heard.path.strip_prefix("/v2/").and_then(|path| {
        path.split_once("/blobs/")
            .or(path.split_once("/manifests/"))
    }) else {
        return told(404);
    };
    if heard.path.contains("/manifests/") {
        manifests(heard, state, rest)
    } else {
        blobs(heard, state, name, rest)
    }
}

fn token(heard: &Heard, state: &mut State, who: Option<&str>) -> Told {
    if who != state.bearer.as_deref() && state.bearer.as_deref() != Some("") {
        return told(401);
    }
    assert_eq!(heard.query.get("service").map(String::as_str), Some("s"));
    let token = format!("t{}", state.seen.len());
    state.tokens.insert(token.clone());
    state.used = 0;
    let mut answer = told(200);
    answer.body = format!(r#"{{"token":"{token}","expires_in":60}}"#).into_bytes();
    answer
}

fn manifests(heard: &Heard, state: &mut State, name: &str) -> Told {
    if heard.method == "PUT" {
        let digest = format!("sha256:{}", Sha256::of(&heard.body));
        let kind = heard.headers["content-type"].clone();
        for name in [name, &digest] {
            state
                .manifests
                .insert(name.to_owned(), (kind.clone(), heard.body.clone()));
        }
        let mut answer = told(201);
        let kept = if state.lie {
            format!("sha256:{}", "0".repeat(64))
        } else {
            digest
        };
        answer.headers.push(("Docker-Content-Digest", kept));
        let body: serde_json::Value = serde_json::from_slice(&heard.body).unwrap_or_default();
        if let Some(subject) = body["subject"]["digest"].as_str()
            && state.referrers
        {
            answer.headers.push(("OCI-Subject", subject.to_owned()));
        }
        return answer;
    }
    if let Some(other) = &state.moved {
        let mut answer = told(307);
        let place = format!("http://{other}/{name}");
        answer.headers.push(("Location", place));
        return answer;
    }
    let Some((kind, bytes)) = state.manifests.get(name) else {
        return told(404);
    };
    let mut answer = told(200);
    answer.headers.push(("Content-Type", kind.clone()));
    let digest = format!("sha256:{}", Sha256::of(bytes));
    answer.headers.push(("Docker-Content-Digest", digest));
    answer.body.clone_from(bytes);
    answer
}

fn blobs(heard: &Heard, state: &mut State, name: &str, rest: &str) -> Told {
    let at = |state: &State, id: &str, status: u16| {
        let mut answer = told(status);
        let size = state.uploads.get(id).map_or(0, Vec::len);
        // A relative address that holds a question already.
        let place = format!("/v2/{name}/blobs/uploads/{id}?state=x%2By");
        answer.headers.push(("Location", place));
        answer
            .headers
            .push(("Range", format!("0-{}", size.saturating_sub(1))));
        answer
    };
    let Some(id) = rest.strip_prefix("uploads/") else {
        if let Some(other) = &state.redirect
            && heard.method == "GET"
        {
            let mut answer = told(307);
            answer
                .headers
                .push(("Location", format!("http://{other}/{rest}")));
            return answer;
        }
        return match state.blobs.get(rest) {
            Some(bytes) => {
                let mut answer = told(200);
                answer.body.clone_from(bytes);
                answer.unmeasured = state.unmeasured && heard.method == "GET";
                answer
            }
            None => told(404),
        };
    };
    if heard.method == "POST" {
        let mount = heard.query.get("mount");
        if let (Some(digest), Some(from)) = (mount, heard.query.get("from"))
            && state.mountable.contains(from)
        {
            state.blobs.insert(digest.clone(), b"mounted".to_vec());
            return told(201);
        }
        let id = format!("u{}", state.seen.len());
        state.uploads.insert(id.clone(), Vec::new());
        return at(state, &id, 202);
    }
    assert_eq!(heard.query.get("state").map(String::as_str), Some("x+y"));
    if state.forget && heard.method != "GET" {
        state.forget = false;
        state.uploads.clear();
    }
    let Some(upload) = state.uploads.get_mut(id) else {
        return told(404);
    };
    if heard.method == "GET" {
        return at(state, id, 204);
    }
    if let Some(range) = heard.headers.get("content-range")
        && range.split('-').next() != Some(&upload.len().to_string())
    {
        return at(state, id, 416);
    }
    if state.cut > 0 && heard.body.len() > 1 {
        state.cut -= 1;
        upload.extend_from_slice(&heard.body[..heard.body.len() / 2]);
        let mut answer = told(500);
        answer.hang_up = true;
        return answer;
    }
    upload.extend_from_slice(&heard.body);
    if heard.method == "PATCH" {
        return at(state, id, 202);
    }
    let bytes = state.uploads.remove(id).unwrap_or_default();
    let digest = format!("sha256:{}", Sha256::of(&bytes));
    if heard.query.get("digest") != Some(&digest) {
        let mut answer = told(400);
        answer.body = br#"{"errors":[{"code":"DIGEST_INVALID","message":"other bytes"}]}"#.to_vec();
        return answer;
    }
    state.blobs.insert(digest, bytes);
    told(201)
}
