//! Limits of the server, and what only foreign objects have.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use sos_formats::derivation::Method;
use sos_formats::diagnostic::Diagnostic;
use sos_formats::hash::Sha256;
use sos_formats::manifest::Meta;
use sos_formats::narinfo::{NarInfo, Signature};
use sos_formats::store_path::{StoreDir, StorePath};
use sos_serve::{
    Compression, Limits, Mirror, MirrorOptions, Offered, Offers, SecretKey, ServeError, Server,
    Target,
};
use sos_store::rootfs::RootTree;
use sos_store::{OpenOptions, Store};

/// A store in a directory of its own.
struct World {
    dir: tempfile::TempDir,
    store: Store,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(OpenOptions {
            root: dir.path().join("store"),
            store_dir: StoreDir::default(),
            read_only: false,
        });
        Self {
            store: store.unwrap(),
            dir,
        }
    }

    fn place(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn add(&self, name: &str) -> StorePath {
        let added = self
            .store
            .add_path(&self.place(name), name, Method::Recursive, None);
        added.unwrap()
    }

    /// Serves until the sender is dropped.
    fn serve(&self, offers: Offers, key: Option<SecretKey>, limits: Limits) -> Running {
        let server = Server::bind("127.0.0.1:0", limits).unwrap();
        let address = server.address();
        let options = MirrorOptions {
            key,
            compression: Compression::None,
            address: address.to_string(),
        };
        let mirror = Mirror::new(self.store.clone(), offers, options);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build();
            let stopped = async { drop(stopped.await) };
            runtime
                .unwrap()
                .block_on(server.run(mirror, stopped))
                .unwrap();
        });
        Running {
            address,
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

struct Running {
    address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

impl Running {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        stream
    }

    fn get(&self, path: &str) -> (String, Vec<u8>) {
        let mut stream = self.connect();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        (head, bytes[end + 4..].to_vec())
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&self.get(path).1).unwrap()
    }
}

fn limits() -> Limits {
    Limits {
        connections: 2,
        head: Duration::from_millis(200),
        stall: Duration::from_millis(200),
        grace: Duration::from_millis(200),
    }
}

#[test]
fn clients_that_do_not_speak_or_do_not_listen_are_dropped() {
    let w = World::new();
    let large = vec![7; 64 << 20];
    std::fs::write(w.place("large"), &large).unwrap();
    let path = w.add("large");
    let running = w.serve(Offers::default(), None, limits());
    let record = running.get(&format!("/{}.narinfo", path.hash_str())).1;
    let info = NarInfo::parse(&record, &StoreDir::default()).unwrap();
    let drained = |mut stream: TcpStream| {
        let mut bytes = Vec::new();
        let _reset = stream.read_to_end(&mut bytes).is_err();
        bytes
    };
    // All slots are taken by who says nothing, or not all of it.
    let silent = running.connect();
    let mut slow = running.connect();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: ").unwrap();
    // A third one waits until one of them is given up.
    assert!(running.get("/nix-cache-info").0.starts_with("HTTP/1.1 200"));
    assert!(drained(silent).is_empty());
    let told = drained(slow);
    assert!(!told.starts_with(b"HTTP/1.1 200"), "{told:?}");
    // Nor is a slot kept by who does not take what is sent.
    let stalled: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut stream = running.connect();
            write!(stream, "GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", info.url).unwrap();
            stream
        })
        .collect();
    assert!(running.get("/nix-cache-info").0.starts_with("HTTP/1.1 200"));
    // One of the two was given up; the other may have been spared, and goes on now that it is read.
    let mut cut = stalled
        .into_iter()
        .map(|stream| drained(stream).len() as u64);
    assert!(cut.any(|length| length < info.nar_size));
}

#[test]
fn signatures_of_others_are_passed_on_beside_ours() {
    let w = World::new();
    std::fs::write(w.place("x"), "x").unwrap();
    let path = w.add("x");
    let others = ["other-1:AAAA", "own-1:BBBB"].map(|text| Signature::parse(text).unwrap());
    w.store.add_signatures(&path, &others).unwrap();
    let record = |key: Option<SecretKey>| {
        let running = w.serve(Offers::default(), key, limits());
        let text = running.get(&format!("/{}.narinfo", path.hash_str())).1;
        NarInfo::parse(&text, &StoreDir::default()).unwrap()
    };
    assert_eq!(record(None).signatures, others);
    // The pair of RFC 8032, section 7.1, test 1.
    let key = "own-1:nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2DXWpgBgrEKt9VL/tPJZAc6DuFy89qmIyWvAhpo9wdRGg==";
    let signed = record(Some(SecretKey::parse(key).unwrap()));
    assert_eq!(signed.signatures[0], others[0]);
    assert_eq!(
        signed.signatures.len(),
        2,
        "one of that name which is not good goes"
    );
    assert_eq!(signed.signatures[1].key, "own-1");
    assert_ne!(signed.signatures[1], others[1]);
}

/// Writes a blob of a layout; gives its descriptor.
fn blob(dir: &Path, media_type: &str, content: &str) -> Value {
    let digest = Sha256::of(content.as_bytes());
    std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    std::fs::write(dir.join("blobs/sha256").join(digest.to_hex()), content).unwrap();
    json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": content.len() })
}

fn manifest(dir: &Path, config: &str, more: &Value) -> Value {
    let config = blob(dir, config, "{}");
    let mut document = json!({ "schemaVersion": 2, "config": config, "layers": [] });
    for (key, value) in more.as_object().unwrap() {
        document[key] = value.clone();
    }
    blob(dir, MANIFEST, &document.to_string())
}

fn layout(dir: &Path, manifests: &[Value]) -> String {
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let index = json!({ "schemaVersion": 2, "manifests": manifests }).to_string();
    std::fs::write(dir.join("index.json"), &index).unwrap();
    index
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

fn named(mut descriptor: Value, name: &str) -> Value {
    descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    descriptor
}

fn offer(w: &World, name: &str) -> Result<(Offers, Vec<Offered>), ServeError> {
    let path = w.add(name);
    let mut offers = Offers::default();
    let offered = offers.add(&w.store, &Target { path, name: None })?;
    Ok((offers, offered))
}

#[test]
fn what_is_about_an_image_is_found_by_it() {
    let w = World::new();
    let dir = w.place("img");
    let image = manifest(&dir, CONFIG, &json!({}));
    let about = |kind: &str, note: &str| {
        let more = json!({ "subject": image, "annotations": { "note": note } });
        manifest(&dir, kind, &more)
    };
    let (sbom, signature) = (about("example/sbom", "s"), about("example/signature", "t"));
    layout(
        &dir,
        &[named(image.clone(), "host/img:1"), sbom.clone(), signature],
    );
    let (offers, offered) = offer(&w, "img").unwrap();
    let digest = image["digest"].as_str().unwrap().to_owned();
    let expected = Offered::Image {
        name: "img".to_owned(),
        tag: "1".to_owned(),
        digest: digest.clone(),
    };
    assert_eq!(offered, [expected]);
    let running = w.serve(offers, None, limits());
    let all = running.json(&format!("/v2/img/referrers/{digest}"));
    assert_eq!(all["mediaType"], INDEX);
    assert_eq!(all["manifests"].as_array().unwrap().len(), 2);
    let address = format!("/v2/img/referrers/{digest}?artifactType=example%2Fsbom");
    let (head, one) = running.get(&address);
    assert!(head.contains("oci-filters-applied: artifactType"), "{head}");
    let one: Value = serde_json::from_slice(&one).unwrap();
    assert_eq!(
        one["manifests"],
        json!([{
            "mediaType": MANIFEST, "digest": sbom["digest"], "size": sbom["size"],
            "artifactType": "example/sbom", "annotations": { "note": "s" },
        }])
    );
}

#[test]
fn images_for_several_machines_are_one_index() {
    let w = World::new();
    let dir = w.place("many");
    let one = manifest(&dir, CONFIG, &json!({ "annotations": { "arch": "one" } }));
    let two = manifest(&dir, CONFIG, &json!({ "annotations": { "arch": "two" } }));
    let nested = blob(
        &dir,
        INDEX,
        &json!({ "schemaVersion": 2, "manifests": [one, two] }).to_string(),
    );
    layout(&dir, &[named(nested.clone(), "v1")]);
    let (offers, _) = offer(&w, "many").unwrap();
    let running = w.serve(offers, None, limits());
    let (head, _) = running.get("/v2/many/manifests/v1");
    assert!(head.contains(&format!("content-type: {INDEX}")), "{head}");
    for inner in [&one, &two] {
        let digest = inner["digest"].as_str().unwrap();
        let (head, bytes) = running.get(&format!("/v2/many/manifests/{digest}"));
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert_eq!(format!("sha256:{}", Sha256::of(&bytes)), digest);
    }
    drop(running);
    // The same without an index of their own: that of the layout is it.
    let index = layout(&dir, &[one, two]);
    let (offers, _) = offer(&w, "many").unwrap();
    let running = w.serve(offers, None, limits());
    let (_, bytes) = running.get("/v2/many/manifests/latest");
    assert_eq!(bytes, index.as_bytes());
}

#[test]
fn layouts_that_are_broken_or_lead_outside_are_refused() {
    let w = World::new();
    let refused = |change: &dyn Fn(&Path)| {
        let dir = w.place("bad");
        std::fs::create_dir_all(&dir).unwrap();
        let image = manifest(&dir, CONFIG, &json!({}));
        layout(&dir, &[image]);
        change(&dir);
        let error = offer(&w, "bad").unwrap_err();
        std::fs::remove_dir_all(&dir).unwrap();
        let text = error.to_string();
        assert_eq!(Diagnostic::from(error).code, "serve-bad-image");
        text
    };
    let index = |text: &'static str| {
        move |dir: &Path| std::fs::write(dir.join("index.json"), text).unwrap()
    };
    assert!(refused(&index("{")).contains("index.json"));
    assert!(refused(&index("{}")).contains("no image"));
    let strange = r#"{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:../../x"}]}"#;
    assert!(refused(&index(strange)).contains("not a digest"));
    let missing = format!(
        r#"{{"manifests":[{{"mediaType":"{MANIFEST}","digest":"sha256:{}"}}]}}"#,
        "0".repeat(64)
    );
    let text: &'static str = Box::leak(missing.into_boxed_str());
    assert!(refused(&index(text)).contains("sha256:0000"));
    assert!(
        refused(&|dir| {
            for entry in std::fs::read_dir(dir.join("blobs/sha256")).unwrap() {
                std::fs::write(entry.unwrap().path(), "{ }").unwrap();
            }
        })
        .contains("another digest")
    );
    // A link is not followed, wherever it leads.
    std::fs::write(w.place("secret"), "secret").unwrap();
    let dir = w.place("linked");
    std::fs::create_dir_all(&dir).unwrap();
    let image = manifest(&dir, CONFIG, &json!({}));
    layout(&dir, &[image]);
    let name = "0".repeat(64);
    std::os::unix::fs::symlink(w.place("secret"), dir.join("blobs/sha256").join(&name)).unwrap();
    let (offers, _) = offer(&w, "linked").unwrap();
    let running = w.serve(offers, None, limits());
    let (head, bytes) = running.get(&format!("/v2/linked/blobs/sha256:{name}"));
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    assert!(!bytes.windows(6).any(|w| w == b"secret"));
}

#[test]
fn repositories_that_are_broken_are_refused() {
    let w = World::new();
    let meta = |mode| Meta {
        mode,
        ..Meta::default()
    };
    let refused = |name: &str, text: &str| {
        let mut tree = RootTree::empty(meta(0o755));
        tree.mkdir_p(format!("refs/heads/{name}"), &meta(0o755))
            .unwrap();
        let config = sos_formats::ostree::ARCHIVE_CONFIG;
        tree.write_file("config", config, meta(0o644)).unwrap();
        tree.write_file(format!("refs/heads/{name}/x"), text, meta(0o644))
            .unwrap();
        let root = tree.finish(&w.store).unwrap();
        let path = w.store.add_rootfs(root, "repo", None).unwrap().path;
        let target = Target { path, name: None };
        let error = Offers::default().add(&w.store, &target).unwrap_err();
        let text = error.to_string();
        assert_eq!(Diagnostic::from(error).code, "serve-bad-repository");
        text
    };
    assert!(refused("a", "nothing").contains("`a/x` names no commit"));
    assert!(refused("a", &"0".repeat(1000)).contains("names no commit"));
    assert!(refused("a", &"0".repeat(64)).contains("`a/x` is not in it"));
    assert!(refused("a/".repeat(40).trim_end_matches('/'), "").contains("too deep"));
}

#[test]
fn no_request_hurts_the_server() {
    let w = World::new();
    std::fs::write(w.place("x"), "x").unwrap();
    let path = w.add("x");
    let running = w.serve(
        Offers::default(),
        None,
        Limits {
            connections: 64,
            ..limits()
        },
    );
    let record = format!("/{}.narinfo", path.hash_str());
    let good = format!(
        "GET {record}?a=b HTTP/1.1\r\nHost: x\r\nRange: bytes=0-5\r\nIf-None-Match: \"a\"\r\nConnection: close\r\n\r\n"
    );
    let mut state = 0x5eed_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    for _ in 0..500 {
        let mut request = good.clone().into_bytes();
        for _ in 0..=random(6) {
            let at = random(request.len().max(1));
            match random(4) {
                0 => request[at] = u8::try_from(random(256)).unwrap(),
                1 if request.len() > 1 => drop(request.remove(at)),
                2 => request.insert(at, b"\r\n %/\0:-="[random(9)]),
                _ => {
                    let part = request[at..].to_vec();
                    request.truncate(random(request.len()).max(1));
                    request.extend(part);
                }
            }
        }
        let mut stream = running.connect();
        let _refused = stream.write_all(&request).is_err();
        let _closed = stream.shutdown(std::net::Shutdown::Write).is_err();
        let mut bytes = Vec::new();
        let _reset = stream.read_to_end(&mut bytes).is_err();
        let shown = String::from_utf8_lossy(&request);
        assert!(bytes.is_empty() || bytes.starts_with(b"HTTP/1."), "{shown}");
        assert!(!bytes.starts_with(b"HTTP/1.1 5"), "{shown}");
    }
    assert!(running.get(&record).0.starts_with("HTTP/1.1 200"));
}
