//! What is written is read back by a decoder that others wrote.

use std::io::Read as _;

use super::*;
use crate::hash::Sha256;

fn compressed(deflate: &mut Deflate, raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    deflate.stream(raw, &mut out);
    out
}

#[track_caller]
fn check(raw: &[u8]) -> usize {
    let out = compressed(&mut Deflate::new(), raw);
    assert!(out.ends_with(&[0, 0, 0xff, 0xff]));
    // Twice in a row, then the end: streams can be joined.
    let joined = [&out[..], &out, &[3, 0]].concat();
    let mut back = Vec::new();
    flate2::read::DeflateDecoder::new(joined.as_slice())
        .read_to_end(&mut back)
        .expect("sound");
    assert!(back == [raw, raw].concat(), "{} bytes", raw.len());
    out.len()
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    /// Words of a small language, in an order of chance.
    fn text(&mut self, len: usize) -> Vec<u8> {
        let words: Vec<Vec<u8>> = (0..200)
            .map(|_| {
                (0..2 + self.next() % 9)
                    .map(|_| b'a' + self.byte() % 26)
                    .collect()
            })
            .collect();
        let mut out = Vec::new();
        while out.len() < len {
            let word = usize::try_from(self.next() % 200).expect("small");
            out.extend_from_slice(&words[word]);
            out.push(b' ');
        }
        out.truncate(len);
        out
    }
}

#[test]
fn short_ones() {
    for len in 0..300 {
        check(&vec![b'x'; len]);
        check(&(0..=255).cycle().take(len).collect::<Vec<u8>>());
    }
    assert_eq!(check(b""), 5);
}

#[test]
fn text_noise_and_emptiness() {
    let mut random = Random(1);
    let edges = [
        BLOCK_BYTES - 1,
        BLOCK_BYTES,
        BLOCK_BYTES + 1,
        BLOCK_BYTES * 3 / 2,
        1 << 20,
    ];
    for len in edges {
        let text = random.text(len);
        assert!(check(&text) < len / 2);
        let noise: Vec<u8> = (0..len).map(|_| random.byte()).collect();
        let size = check(&noise);
        assert!(size < len + len / 5000 + 64, "{size} of {len}");
        assert!(check(&vec![0; len]) < len / 100);
    }
    // All of them in one stream, in pieces of any length.
    let mut mixed = Vec::new();
    for _ in 0..300 {
        let len = usize::try_from(random.next() % 9000).expect("small");
        match random.next() % 4 {
            0 => mixed.extend(random.text(len)),
            1 => mixed.extend((0..len).map(|_| random.byte())),
            2 => mixed.resize(mixed.len() + len, random.byte()),
            _ => {
                let from = usize::try_from(random.next()).expect("small") % (mixed.len() + 1);
                let again = mixed[from..mixed.len().min(from + len)].to_vec();
                mixed.extend(again);
            }
        }
    }
    check(&mixed);
}

/// Each symbol is rarer than the one before by so much that its best code would be longer than any may be.
#[test]
fn codes_have_a_longest_length() {
    let mut raw = Vec::new();
    let (mut a, mut b) = (1_usize, 1);
    for symbol in 0..26 {
        raw.extend(std::iter::repeat_n(symbol, a));
        (a, b) = (b, a + b);
    }
    // In an order in which nothing repeats for long.
    let mut random = Random(5);
    for at in (1..raw.len()).rev() {
        raw.swap(
            at,
            usize::try_from(random.next()).expect("small") % (at + 1),
        );
    }
    check(&raw);
    let counts: Vec<u32> = (0..40).map(|n| 1 << (n / 2)).collect();
    for longest in [6, 7, 15] {
        let found = lengths(&counts, longest);
        let taken: u32 = found.iter().map(|len| 1 << (longest - len)).sum();
        assert_eq!(taken, 1 << longest, "the code is complete");
        assert!(found.windows(2).all(|pair| pair[0] >= pair[1]), "{found:?}");
    }
}

#[test]
fn the_window_has_an_end() {
    let mut random = Random(9);
    let word: Vec<u8> = (0..60).map(|_| random.byte()).collect();
    // From 65,536 on a place looks like another one.
    for gap in [
        32_708, 32_709, 40_000, 65_475, 65_476, 65_477, 98_000, 131_012,
    ] {
        let filler = (0..gap).map(|_| random.byte());
        let raw: Vec<u8> = word
            .iter()
            .copied()
            .chain(filler)
            .chain(word.clone())
            .collect();
        check(&raw);
    }
}

#[test]
fn what_came_before_changes_nothing() {
    let mut random = Random(3);
    let texts: Vec<Vec<u8>> = (1..6).map(|n| random.text(50_000 * n)).collect();
    let alone: Vec<Vec<u8>> = texts
        .iter()
        .map(|text| compressed(&mut Deflate::new(), text))
        .collect();
    let mut deflate = Deflate::new();
    for round in 0..3 {
        for (text, alone) in texts.iter().zip(&alone) {
            assert!(compressed(&mut deflate, text) == *alone, "round {round}");
        }
    }
}

/// Blobs of images and repositories are named by these bytes: when they change, the revisions of what uses them have to be raised.
#[test]
fn the_bytes_stay_the_same() {
    let mut random = Random(7);
    let mut raw = random.text(200_000);
    raw.extend((0..50_000).map(|_| random.byte()));
    raw.extend(vec![0; 100_000]);
    let out = compressed(&mut Deflate::new(), &raw);
    assert_eq!(Sha256::of(&out).to_string(), PINNED);
}

const PINNED: &str = "cdb772f79b122e3e6e35b5eaac439c799f407ec0766e0eca39e53f8014f5524d";
