//! Names of files as names of store paths, one for each, from which the file's name is read again.
//!
//! Store paths may hold `0-9a-zA-Z+-._?=` and begin with no dot; files are called otherwise at times. A run of other bytes becomes
//! `=HEX=`: `x~1.tar` is `x=7e=1.tar`. A name that already reads like that has its `=` written so, too.

use std::fmt::Write as _;

/// Returns the name that a store path has for a file: what a store path may hold stays as it is, and no two files get one name.
///
/// It may be longer than a store path allows.
pub fn to_store(name: &str) -> String {
    let plain = escaped(name, false);
    if unescaped(&plain).as_deref() == Some(name) {
        plain
    } else {
        escaped(name, true)
    }
}

/// Returns the name of the file that a store path was named for: the same name, unless it is one that [`to_store`] has changed.
pub fn of_store(name: &str) -> String {
    match unescaped(name) {
        Some(file) if to_store(&file) == name => file,
        _ => name.to_owned(),
    }
}

/// Returns the name as one part of the path of a URL.
pub fn in_url(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        // What URLs never have to hide, and what names of packages have besides.
        if byte.is_ascii_alphanumeric() || b"-._~+=".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a text does not fail.
            let _written = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn escaped(name: &str, equals: bool) -> String {
    let mut out = String::new();
    let mut inside = false;
    for (at, byte) in name.bytes().enumerate() {
        let fits = byte.is_ascii_alphanumeric()
            || b"+-_?".contains(&byte)
            || byte == b'.' && at > 0
            || byte == b'=' && !equals;
        if fits == inside {
            out.push('=');
            inside = !inside;
        }
        if fits {
            out.push(char::from(byte));
        } else {
            let _written = write!(out, "{byte:02x}");
        }
    }
    if inside {
        out.push('=');
    }
    out
}

/// None when what is escaped is no text.
fn unescaped(name: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut rest = name.as_bytes();
    while let [first, after @ ..] = rest {
        let end = after.iter().position(|byte| *byte == b'=');
        let digits = end.filter(|_| *first == b'=').map(|end| &after[..end]);
        match digits.and_then(bytes) {
            Some(bytes) => {
                rest = &after[2 * bytes.len() + 1..];
                out.extend(bytes);
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(out).ok()
}

fn bytes(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let pairs = digits.chunks(2);
    let bytes: Option<Vec<u8>> = pairs
        .map(|pair| Some(digit(*pair.first()?)? * 16 + digit(*pair.get(1)?)?))
        .collect();
    bytes.filter(|bytes| !bytes.is_empty())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::store_path::check_name;

    #[test]
    fn ordinary_names_stay_and_others_come_back() {
        for (file, store) in [
            ("bash-5.2.tar.gz", "bash-5.2.tar.gz"),
            ("notes+1?.txt", "notes+1?.txt"),
            ("a=1", "a=1"),
            ("x~1.tar", "x=7e=1.tar"),
            ("x~~é", "x=7e7ec3a9="),
            (".profile", "=2e=profile"),
            ("a.", "a."),
            ("x=7e=1.tar", "x=3d=7e=3d=1.tar"),
            ("==", "=="),
            ("=~", "==7e="),
            ("~=", "=7e=="),
        ] {
            assert_eq!(to_store(file), store, "{file}");
            assert_eq!(of_store(store), file, "{store}");
        }
        // Nothing that `to_store` makes: it is what it is.
        for other in ["x=7f", "x=61=", "x=ff=", "x=7E=", "x=2f", "==="] {
            assert_eq!(of_store(other), other);
        }
    }

    #[test]
    fn no_two_names_become_one() {
        let letters = ["=", "~", "7", "e", "3", "d", "."];
        let mut words = vec![String::new()];
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        for _ in 0..6 {
            let longer = words
                .iter()
                .flat_map(|word| letters.map(|letter| format!("{word}{letter}")));
            words = longer.collect();
            for word in &words {
                let store = to_store(word);
                assert_eq!(&of_store(&store), word, "{store}");
                check_name(&store).unwrap();
                let other = seen.insert(store, word.clone());
                assert_eq!(other, None, "{word}");
            }
        }
    }

    #[test]
    fn urls_hide_what_would_end_a_path() {
        assert_eq!(in_url("lib+c++-1.0~rc1=a.tar_"), "lib+c++-1.0~rc1=a.tar_");
        assert_eq!(in_url("a b?c#d%e/é"), "a%20b%3Fc%23d%25e%2F%C3%A9");
    }
}
