//! Damages valid bytes at every position and feeds them to every reader: each answers, none panics.
//!
//! The damage is the same in every run. Where a format has one form only, what is still accepted must be written
//! back as the same bytes.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::io::{self, Read};

use sos_formats::derivation::Derivation;
use sos_formats::flake_lock::FlakeLock;
use sos_formats::flake_ref::FlakeRef;
use sos_formats::manifest::{Node, Root};
use sos_formats::store_path::{StoreDir, StorePath};
use sos_formats::{hash::Hash, nar, nix32, tar};

const NAR: &[u8] = include_bytes!("fixtures/nar/tree.nar");
const NODE: &[u8] = include_bytes!("fixtures/manifest/node.bin");
const ROOT: &[u8] = include_bytes!("fixtures/manifest/root.bin");
const DRV: &[u8] = include_bytes!("fixtures/drv/9iyzm7jfsjqjan2d7gz2mm75k5inmy5q-multi.drv");
const FIXED: &[u8] = include_bytes!("fixtures/drv/ys23ifcrw7yps6wi8h6v69p2cj0i3ig4-fx.drv");
const USTAR: &[u8] = include_bytes!("fixtures/tar/ustar.tar");
const GNU: &[u8] = include_bytes!("fixtures/tar/gnu.tar");
const PAX: &[u8] = include_bytes!("fixtures/tar/pax.tar");

/// A small generator of numbers without a pattern.
struct Xorshift(u64);

impl Xorshift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }
}

/// Calls with damaged versions of some bytes: at each position every kind of damage.
fn damaged(valid: &[u8], mut test: impl FnMut(&[u8])) {
    let mut random = Xorshift(0x5053_4f53_2026_0001);
    test(valid);
    for at in 0..valid.len() {
        for kind in 0..KINDS {
            test(&damage(valid, at, kind, &mut random));
        }
    }
}

/// As [`damaged`], but with one kind of damage at each position, and few positions within runs of zeros: for inputs
/// that are large and mostly padding.
fn damaged_once(valid: &[u8], mut test: impl FnMut(&[u8])) {
    let mut random = Xorshift(0x5053_4f53_2026_0002);
    test(valid);
    for at in 0..valid.len() {
        if at % 16 != 0 && valid[at - 1..=at] == [0, 0] {
            continue;
        }
        let kind = random.below(KINDS);
        test(&damage(valid, at, kind, &mut random));
    }
}

const KINDS: usize = 7;

fn damage(valid: &[u8], at: usize, kind: usize, random: &mut Xorshift) -> Vec<u8> {
    let mut bytes = valid.to_vec();
    match kind {
        0 => bytes.truncate(at),
        1 => bytes[at] ^= 1 << (random.next() % 8),
        2 => bytes[at] = random.byte(),
        3 => bytes[at] = [0, 0xff, 0x80, b'"', b'/', b'='][random.below(6)],
        4 => bytes.insert(at, random.byte()),
        5 => {
            bytes.remove(at);
        }
        // A piece from elsewhere: keeps words of the format whole.
        _ => {
            let from = random.below(valid.len());
            let end = valid.len().min(from + 1 + random.below(64));
            bytes.splice(at..at, valid[from..end].iter().copied());
        }
    }
    bytes
}

#[test]
fn nars() {
    let mut accepted = 0;
    damaged(NAR, |bytes| {
        let mut copy = nar::Writer::new(Vec::new()).unwrap();
        if nar::read(bytes, &mut copy).is_ok() {
            assert_eq!(copy.finish().unwrap(), bytes);
            accepted += 1;
        }
    });
    assert!(accepted > 1);
}

#[test]
fn derivations() {
    let dir = StoreDir::default();
    for (valid, name) in [(DRV, "multi"), (FIXED, "fx")] {
        let mut accepted = 0;
        damaged(valid, |bytes| {
            if let Ok(drv) = Derivation::parse_aterm(bytes, &dir) {
                assert_eq!(drv.to_aterm(&dir, name).unwrap(), bytes);
                accepted += 1;
            }
        });
        assert!(accepted > 1);
    }
}

#[test]
fn manifests() {
    let mut accepted = 0;
    damaged(NODE, |bytes| {
        if let Ok(node) = Node::decode(bytes) {
            assert_eq!(node.encode(), bytes);
            accepted += 1;
        }
        assert!(Root::decode(bytes).is_err());
    });
    damaged(ROOT, |bytes| {
        if let Ok(root) = Root::decode(bytes) {
            assert_eq!(root.encode(), bytes);
            accepted += 1;
        }
        assert!(Node::decode(bytes).is_err());
    });
    assert!(accepted > 2);
}

fn read_tar(bytes: &[u8]) -> Result<(), tar::TarError> {
    let mut reader = tar::Reader::new(bytes);
    let mut writer = tar::Writer::new(io::sink());
    while let Some(entry) = reader.next_entry()? {
        for path in [&entry.path, &entry.link] {
            let is_link = entry.kind == tar::EntryKind::Symlink;
            let inside = path.split(|b| *b == b'/').all(|part| part != b"..");
            assert!(inside && !path.starts_with(b"/") || is_link);
        }
        let mut data = Vec::new();
        if reader.read_to_end(&mut data).is_ok() {
            assert_eq!(data.len() as u64, entry.size);
            // What is read can be written, but for devices of base-256 size.
            if entry.major.max(entry.minor) < 1 << 21 {
                writer.append(&entry, &mut data.as_slice()).unwrap();
            }
        }
    }
    Ok(())
}

/// Makes the checksums of all blocks that look like headers right again, to get past them.
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for block in out.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    out
}

#[test]
fn tars() {
    for valid in [USTAR, GNU, PAX] {
        read_tar(valid).unwrap();
        let mut outcomes = [0, 0];
        damaged_once(valid, |bytes| {
            for bytes in [bytes, &with_checksums(bytes)] {
                let accepted = read_tar(bytes).is_ok();
                outcomes[usize::from(accepted)] += 1;
            }
        });
        assert!(outcomes.iter().all(|n| *n > 100), "{outcomes:?}");
    }
}

#[test]
fn short_texts() {
    let base = "626r0y233qi55bxb7b3j2blbpc00a150-t";
    let dir = StoreDir::default();
    for text in [
        base,
        "/nix/store/626r0y233qi55bxb7b3j2blbpc00a150-t",
        "sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=",
        "sha256:00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq",
    ] {
        damaged(text.as_bytes(), |bytes| {
            let text = String::from_utf8_lossy(bytes);
            if let Ok(path) = StorePath::from_base(&text) {
                assert_eq!(path.base(), text);
                assert_eq!(StorePath::new(path.hash_bytes(), path.name()), Ok(path));
            }
            if let Ok((path, rest)) = StorePath::split_absolute(&dir, &text) {
                assert_eq!(format!("{}{rest}", path.absolute(&dir)), text);
            }
            if let Ok(hash) = Hash::parse_any(&text, None) {
                assert_eq!(Hash::parse_any(&hash.to_sri(), None), Ok(hash));
            }
            if let Ok(bytes) = nix32::decode(&text) {
                assert_eq!(nix32::encode(&bytes), text);
            }
        });
    }
}

#[test]
fn flake_locks() {
    let valid = r#"{"nodes":{"a":{"inputs":{"b":["c","d"]},"locked":{"lastModified":1,"narHash":"sha256-x","path":"/a","type":"path"},"original":{"path":"/a","type":"path"}},"c":{"flake":false,"locked":{"rev":"6fed4a6b5ca343cf68e12c14507e901269c67c21","type":"git","url":"file:///r"},"original":{"id":"n","type":"indirect"}},"root":{"inputs":{"a":"a","c":"c"}}},"root":"root","version":7}"#;
    FlakeLock::parse(valid.as_bytes()).unwrap();
    let mut accepted = 0;
    damaged(valid.as_bytes(), |bytes| {
        if let Ok(lock) = FlakeLock::parse(bytes) {
            accepted += 1;
            let _dangling = lock.dangling();
            let text = lock.to_text();
            let again = FlakeLock::parse(text.as_bytes()).unwrap();
            assert_eq!(again.to_text(), text);
        }
    });
    assert!(accepted > 100, "{accepted}");
}

#[test]
fn flake_references() {
    for text in [
        "path:/a/b%20c?lastModified=7&narHash=sha256-x#x.y",
        "git+https://h.example:80/r?ref=main&rev=6fed4a6b5ca343cf68e12c14507e901269c67c21&dir=d",
        "github:o/r/main?dir=lib&host=h.example",
        "tarball+https://h.example/a?x=1",
        "./a/../b?dir=c",
        "flake:n/branch/6fed4a6b5ca343cf68e12c14507e901269c67c21",
    ] {
        damaged(text.as_bytes(), |bytes| {
            let text = String::from_utf8_lossy(bytes);
            if let Ok((reference, _)) = FlakeRef::parse(&text, false) {
                let attrs = reference.to_attrs();
                assert_eq!(FlakeRef::from_attrs(attrs).unwrap(), reference, "{text}");
                // What is printed is read again as the same.
                if let Ok(url) = reference.to_url() {
                    assert_eq!(
                        FlakeRef::parse(&url, false).unwrap().0,
                        reference,
                        "{text} {url}"
                    );
                }
            }
        });
    }
}
