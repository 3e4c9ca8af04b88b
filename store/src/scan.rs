//! The search for references: an output refers to an input when the 32 digits of the input's hash occur in it.

use std::collections::{BTreeMap, BTreeSet};

use sos_formats::store_path::StorePath;

/// The number of digits of the hash in a store path.
const DIGITS: usize = 32;

/// Looks for the hash parts of known store paths in a stream, also where one spans two writes.
pub(crate) struct RefScanner {
    /// By the first eight digits, to compare most windows by one look-up.
    candidates: BTreeMap<[u8; DIGITS], StorePath>,
    found: BTreeSet<StorePath>,
    /// The last bytes of the stream so far, fewer than one hash part.
    tail: Vec<u8>,
}

/// Which bytes can be digits of a hash part: nix32.
const IS_DIGIT: [bool; 256] = {
    let mut table = [false; 256];
    let digits = b"0123456789abcdfghijklmnpqrsvwxyz";
    let mut at = 0;
    while at < digits.len() {
        table[digits[at] as usize] = true;
        at += 1;
    }
    table
};

impl RefScanner {
    pub(crate) fn new<'a>(candidates: impl IntoIterator<Item = &'a StorePath>) -> Self {
        let mut map = BTreeMap::new();
        for path in candidates {
            if let Ok(digits) = <[u8; DIGITS]>::try_from(path.hash_str().as_bytes()) {
                map.insert(digits, path.clone());
            }
        }
        Self {
            candidates: map,
            found: BTreeSet::new(),
            tail: Vec::with_capacity(2 * DIGITS),
        }
    }

    /// Looks at the next bytes of the stream.
    pub(crate) fn update(&mut self, data: &[u8]) {
        if self.candidates.is_empty() {
            return;
        }
        // The seam: what is left of the last write with the beginning of this one.
        let head = data.len().min(DIGITS - 1);
        if !self.tail.is_empty() {
            let mut seam = std::mem::take(&mut self.tail);
            seam.extend_from_slice(&data[..head]);
            self.search(&seam);
            self.tail = seam;
        } else {
            self.tail.extend_from_slice(&data[..head]);
        }
        self.search(data);
        if data.len() >= DIGITS {
            self.tail.clear();
            self.tail
                .extend_from_slice(&data[data.len() - (DIGITS - 1)..]);
        } else if self.tail.len() > DIGITS - 1 {
            let surplus = self.tail.len() - (DIGITS - 1);
            self.tail.drain(..surplus);
        }
    }

    /// The paths that were found.
    pub(crate) fn finish(self) -> BTreeSet<StorePath> {
        self.found
    }

    /// Goes over the data in steps of up to a whole hash part: a byte that is no digit excludes every window
    /// that holds it.
    fn search(&mut self, data: &[u8]) {
        let mut start = 0;
        while let Some(window) = data.get(start..start + DIGITS) {
            if let Some(at) = window
                .iter()
                .rposition(|&byte| !IS_DIGIT[usize::from(byte)])
            {
                start += at + 1;
                continue;
            }
            if let Some(path) = <&[u8; DIGITS]>::try_from(window)
                .ok()
                .and_then(|key| self.candidates.get(key))
            {
                self.found.insert(path.clone());
            }
            start += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(digits: &str) -> StorePath {
        StorePath::from_base(&format!("{digits}-x")).unwrap()
    }

    #[test]
    fn a_hash_is_found_wherever_the_stream_is_cut() {
        let wanted = path("0123456789abcdfghijklmnpqrsvwxyz");
        let other = path("1123456789abcdfghijklmnpqrsvwxyz");
        let text = b"....0123456789abcdfghijklmnpqrsvwxyz-x\0";
        for cut in 0..=text.len() {
            for second in cut..=text.len() {
                let mut scanner = RefScanner::new([&wanted, &other]);
                scanner.update(&text[..cut]);
                scanner.update(&text[cut..second]);
                scanner.update(&text[second..]);
                assert_eq!(
                    scanner.finish(),
                    BTreeSet::from([wanted.clone()]),
                    "{cut} {second}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn cutting_changes_nothing(
            before in proptest::collection::vec(prop_oneof![Just(b'0'), Just(b'a'), Just(b'e'), Just(b'/')], 0..80),
            present: bool,
            sizes in proptest::collection::vec(1usize..40, 1..40),
        ) {
            let wanted = path("00000000000000000000000000000aaa");
            let mut text = before;
            if present {
                text.extend_from_slice(wanted.hash_str().as_bytes());
            }
            let naive = text.windows(32).any(|window| window == wanted.hash_str().as_bytes());
            let mut scanner = RefScanner::new([&wanted]);
            let mut rest = text.as_slice();
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*size).min(rest.len()));
                scanner.update(now);
                rest = later;
            }
            prop_assert_eq!(!scanner.finish().is_empty(), naive);
        }
    }
}
