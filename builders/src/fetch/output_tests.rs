//! Fixed outputs: executables, NARs and archives, and what happens when a source serves something else.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sos_engine::BuilderError;
use sos_formats::derivation::Method;
use sos_formats::diagnostic::Class;
use sos_formats::hash::{Hash, HashAlgo};
use sos_formats::{nar, tar};

use super::output::{Unpack, Wish, fetch_output};
use super::test_server::{Server, reply};
use super::{Fetcher, Quiet};
use crate::mirrors::Mirrors;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        fs::create_dir(dir.path().join("work")).expect("mkdir");
        Self { dir }
    }
    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }
    fn fetch(&self, wish: &Wish<'_>) -> Result<String, BuilderError> {
        let fetcher = Fetcher::new(Mirrors::default(), false);
        let work = self.dir.path().join("work");
        Ok(fetch_output(&fetcher, wish, &self.out(), &work, &Quiet)?.url)
    }
}

fn sha256(bytes: &[u8]) -> Hash {
    Hash::of(HashAlgo::Sha256, bytes)
}

fn wish<'a>(urls: &'a [String], method: Method, hash: Hash) -> Wish<'a> {
    Wish {
        name: "x",
        written: None,
        urls,
        method,
        hash,
        executable: false,
        unpack: Unpack::Nothing,
        size: None,
        offline: false,
    }
}

/// A tree of `bin/tool` (executable), `data` and a link, as a NAR.
fn sample_nar() -> Vec<u8> {
    let mut nar = nar::Writer::new(Vec::new()).expect("begin");
    nar.directory().expect("dir");
    nar.entry(b"bin").expect("entry");
    nar.directory().expect("dir");
    nar.entry(b"tool").expect("entry");
    nar.regular(true, 4, &mut b"tool".as_slice()).expect("file");
    nar.end().expect("end");
    nar.entry(b"data").expect("entry");
    nar.regular(false, 4, &mut b"data".as_slice())
        .expect("file");
    nar.entry(b"link").expect("entry");
    nar.symlink(b"data").expect("link");
    nar.end().expect("end");
    nar.finish().expect("finish")
}

/// The same tree as a tar archive below one directory.
fn sample_tar() -> Vec<u8> {
    use tar::EntryKind::{Dir, File, Hardlink, Symlink};
    let mut archive = tar::Writer::new(Vec::new());
    for (path, kind, mode, data, link) in [
        ("x-1.0", Dir, 0o755, "", ""),
        ("x-1.0/bin/tool", File, 0o755, "tool", ""),
        ("x-1.0/old", File, 0o664, "data", ""),
        ("x-1.0/data", Hardlink, 0o664, "", "x-1.0/old"),
        ("x-1.0/link", Symlink, 0o777, "", "data"),
    ] {
        let entry = tar::Entry {
            path: path.into(),
            kind,
            mode,
            size: data.len() as u64,
            link: link.into(),
            ..tar::Entry::default()
        };
        archive
            .append(&entry, &mut data.as_bytes())
            .expect("append");
    }
    archive.finish().expect("finish")
}

fn check_tree(out: &Path) {
    assert_eq!(fs::read(out.join("bin/tool")).expect("read"), b"tool");
    assert_eq!(
        fs::metadata(out.join("bin/tool"))
            .expect("stat")
            .permissions()
            .mode()
            & 0o111,
        0o111
    );
    assert_eq!(fs::read(out.join("data")).expect("read"), b"data");
    assert_eq!(
        fs::metadata(out.join("data"))
            .expect("stat")
            .permissions()
            .mode()
            & 0o111,
        0
    );
    assert_eq!(
        fs::read_link(out.join("link")).expect("link"),
        Path::new("data")
    );
}

/// Serves each path with fixed bytes.
fn serve(files: BTreeMap<&'static str, Vec<u8>>) -> Server {
    Server::start(move |asked, _| match files.get(asked.path.as_str()) {
        Some(bytes) => reply("200 OK", "", bytes),
        None => reply("404 Not Found", "", b""),
    })
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 6);
    encoder.write_all(bytes).expect("xz");
    encoder.finish().expect("xz")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("gzip");
    encoder.finish().expect("gzip")
}

#[test]
fn a_plain_file() {
    let server = serve(BTreeMap::from([
        ("/bad", b"bad".to_vec()),
        ("/good", b"good".to_vec()),
    ]));
    let urls = [server.url("/gone"), server.url("/bad"), server.url("/good")];
    let place = Place::new();
    let url = place
        .fetch(&wish(&urls, Method::Flat, sha256(b"good")))
        .expect("fetched");
    assert_eq!(url, urls[2]);
    assert_eq!(fs::read(place.out()).expect("read"), b"good");
    assert_eq!(
        fs::metadata(place.out())
            .expect("stat")
            .permissions()
            .mode()
            & 0o111,
        0
    );
}

#[test]
fn an_executable_is_hashed_as_a_tree() {
    let mut nar = nar::Writer::new(Vec::new()).expect("begin");
    nar.regular(true, 4, &mut b"good".as_slice()).expect("file");
    let hash = sha256(&nar.finish().expect("finish"));
    let server = serve(BTreeMap::from([
        ("/bad", b"a longer bad file".to_vec()),
        ("/good", b"good".to_vec()),
    ]));
    let urls = [server.url("/bad"), server.url("/good")];
    let place = Place::new();
    let wish = Wish {
        executable: true,
        ..wish(&urls, Method::Recursive, hash)
    };
    assert_eq!(place.fetch(&wish).expect("fetched"), urls[1]);
    assert_eq!(fs::read(place.out()).expect("read"), b"good");
    assert_eq!(
        fs::metadata(place.out())
            .expect("stat")
            .permissions()
            .mode()
            & 0o111,
        0o111
    );
}

#[test]
fn a_nar_is_unpacked() {
    let nar = sample_nar();
    let hash = sha256(&nar);
    let mut broken = nar.clone();
    broken.truncate(nar.len() - 8);
    let other = {
        let mut nar = nar::Writer::new(Vec::new()).expect("begin");
        nar.regular(false, 1, &mut b"x".as_slice()).expect("file");
        nar.finish().expect("finish")
    };
    let files = BTreeMap::from([
        ("/plain", nar.clone()),
        ("/x.nar.xz", xz(&nar)),
        ("/broken", broken),
        ("/other", xz(&other)),
    ]);
    let server = serve(files);
    for good in ["/plain", "/x.nar.xz"] {
        let urls = [
            server.url("/broken"),
            server.url("/other"),
            server.url(good),
        ];
        let place = Place::new();
        let wish = Wish {
            unpack: Unpack::Nar,
            ..wish(&urls, Method::Recursive, hash)
        };
        assert_eq!(place.fetch(&wish).expect("fetched"), urls[2]);
        check_tree(&place.out());
    }
}

#[test]
fn an_archive_is_unpacked_without_its_top() {
    let mut tree = nar::Writer::new(Vec::new()).expect("begin");
    tree.directory().expect("dir");
    tree.entry(b"bin").expect("entry");
    tree.directory().expect("dir");
    tree.entry(b"tool").expect("entry");
    tree.regular(true, 4, &mut b"tool".as_slice())
        .expect("file");
    tree.end().expect("end");
    for name in [b"data".as_slice(), b"link", b"old"] {
        tree.entry(name).expect("entry");
        match name {
            b"link" => tree.symlink(b"data").expect("link"),
            _ => tree
                .regular(false, 4, &mut b"data".as_slice())
                .expect("file"),
        }
    }
    tree.end().expect("end");
    let hash = sha256(&tree.finish().expect("finish"));
    let archive = sample_tar();
    let zstd = zstd::encode_all(archive.as_slice(), 3).expect("zstd");
    let files = BTreeMap::from([
        ("/x.tar", archive.clone()),
        ("/x.tar.gz", gzip(&archive)),
        ("/x.tar.xz", xz(&archive)),
        ("/x.tar.zst", zstd),
    ]);
    let server = serve(files);
    for good in ["/x.tar", "/x.tar.gz", "/x.tar.xz", "/x.tar.zst"] {
        let urls = [server.url(good)];
        let place = Place::new();
        let wish = Wish {
            unpack: Unpack::Archive,
            ..wish(&urls, Method::Recursive, hash)
        };
        place.fetch(&wish).expect("fetched");
        check_tree(&place.out());
    }
}

#[test]
fn archives_that_are_refused() {
    use tar::EntryKind::{CharDev, Dir, File, Hardlink, Symlink};
    let make = |entries: &[(&str, tar::EntryKind, &str)]| {
        let mut archive = tar::Writer::new(Vec::new());
        for (path, kind, link) in entries {
            let entry = tar::Entry {
                path: (*path).into(),
                kind: *kind,
                link: (*link).into(),
                ..tar::Entry::default()
            };
            archive.append_empty(&entry).expect("append");
        }
        archive.finish().expect("finish")
    };
    let mut corrupt = gzip(&[sample_tar(), vec![0; 100_000]].concat());
    let middle = corrupt.len() / 2;
    corrupt[middle..middle + 20].fill(0xff);
    let mut cut = sample_tar();
    cut.truncate(1600);
    for (archive, part) in [
        (
            make(&[("a", Dir, ""), ("b", Dir, "")]),
            "2 entries at its top",
        ),
        (make(&[]), "0 entries at its top"),
        (
            make(&[
                ("a", Dir, ""),
                ("a/l", Symlink, "/etc"),
                ("a/l/x", File, ""),
            ]),
            "used as a directory",
        ),
        (
            make(&[("a", Dir, ""), ("a/h", Hardlink, "a/none")]),
            "not in the archive before it",
        ),
        (make(&[("a", Dir, ""), ("a/d", CharDev, "")]), "device"),
        (
            make(&[("a", Dir, ""), ("a", File, "")]),
            "first a directory",
        ),
        (cut, "cannot unpack"),
        (corrupt, "cannot unpack"),
        (b"PK\x03\x04rest".to_vec(), "zip archive"),
        (b"not an archive".to_vec(), "at byte 0"),
        (gzip(&sample_tar())[..100].to_vec(), "cannot"),
    ] {
        let server = serve(BTreeMap::from([("/x", archive)]));
        let urls = [server.url("/x")];
        let wish = Wish {
            unpack: Unpack::Archive,
            ..wish(&urls, Method::Recursive, sha256(b""))
        };
        let place = Place::new();
        let Err(BuilderError::Diagnostic(error)) = place.fetch(&wish) else {
            panic!("{part} was accepted")
        };
        assert_eq!(error.code, "fetch-failed", "{part}");
        assert!(error.notes[0].contains(part), "{part}: {:?}", error.notes);
    }
}

#[test]
fn a_tree_with_another_hash() {
    let server = serve(BTreeMap::from([
        ("/x", sample_nar()),
        ("/page", b"<html>".to_vec()),
    ]));
    let urls = [server.url("/x"), server.url("/page")];
    let wish = Wish {
        unpack: Unpack::Nar,
        ..wish(&urls, Method::Recursive, sha256(b""))
    };
    let Err(BuilderError::Diagnostic(error)) = Place::new().fetch(&wish) else {
        panic!("was accepted")
    };
    assert_eq!(
        (error.code, error.class),
        ("fetch-hash-mismatch", Class::HashMismatch)
    );
    assert!(error.notes[1].contains("web page"), "{:?}", error.notes);
    assert!(
        error.helps[0].contains(&sha256(&sample_nar()).to_sri()),
        "{:?}",
        error.helps
    );
}

#[test]
fn wishes_that_make_no_sense() {
    let urls = ["file:///nowhere".to_owned()];
    let flat = || wish(&urls, Method::Flat, sha256(b""));
    for wish in [
        Wish {
            executable: true,
            ..flat()
        },
        Wish {
            unpack: Unpack::Archive,
            ..flat()
        },
        Wish {
            method: Method::Text,
            ..flat()
        },
    ] {
        let Err(BuilderError::Diagnostic(error)) = Place::new().fetch(&wish) else {
            panic!("was accepted")
        };
        assert_eq!((error.code, error.class), ("fetch-attrs", Class::Recipe));
    }
}

#[test]
fn mirrors_are_expanded() {
    let server = serve(BTreeMap::from([("/debian/pool/x", b"good".to_vec())]));
    let bases = vec![server.url("/gone"), server.url("/debian/")];
    let config = BTreeMap::from([("debian".to_owned(), bases)]);
    let place = Place::new();
    let fetcher = Fetcher::new(
        Mirrors::new(&config, &BTreeMap::new(), place.dir.path()),
        false,
    );
    let urls = ["mirror://debian/pool/x".to_owned()];
    let wish = wish(&urls, Method::Flat, sha256(b"good"));
    let fetched = fetch_output(
        &fetcher,
        &wish,
        &place.out(),
        &place.dir.path().join("work"),
        &Quiet,
    )
    .expect("fetched");
    assert_eq!(fetched.url, server.url("/debian/pool/x"));
    assert_eq!(fetched.given_up.len(), 1);
    let urls = ["mirror://unknown/x".to_owned()];
    let unknown = Wish {
        urls: &urls,
        ..wish
    };
    let place = Place::new();
    let Err(BuilderError::Diagnostic(error)) = place.fetch(&unknown) else {
        panic!("was accepted")
    };
    assert!(error.message.contains("unknown"), "{error}");
}
