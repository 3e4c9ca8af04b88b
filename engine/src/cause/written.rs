//! What is written in a derivation, without the store paths in it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use sos_formats::derivation::Derivation;
use sos_formats::nix32::ALPHABET;
use sos_formats::store_path::StoreDir;

use crate::rewrite::HASH_DIGITS;

/// Digits of a placeholder, which stands for the path of an output that is not known yet.
const PLACEHOLDER_DIGITS: usize = 52;

/// What stands in the environment besides, and is compared by itself.
const TWICE: [&str; 2] = ["builder", "system"];

/// The builder of downloads, and its attribute that says only what has to be there before: nothing of it reaches the content.
const ORDERED: (&[u8], &str) = (b"builtin:fetch", "after");

/// The derivation without what only puts it into an order, and without the inputs that are named nowhere else.
pub(super) fn without_order<'a>(dir: &StoreDir, drv: &'a Derivation) -> Cow<'a, Derivation> {
    let (builder, name) = ORDERED;
    if drv.builder != builder {
        return Cow::Borrowed(drv);
    }
    let mut attrs = raw_attrs(drv);
    let Some(order) = attrs.remove(name) else {
        return Cow::Borrowed(drv);
    };
    let only_before = named_in(dir, std::iter::once(&order));
    let used = named_in(dir, attrs.values());
    let mut drv = drv.clone();
    drv.input_srcs.retain(|path| {
        let base = path.base();
        !only_before.contains(&base) || used.contains(&base)
    });
    drv.env.remove(name.as_bytes());
    if let Some(json) = drv.env.get_mut(b"__json".as_slice())
        && let Ok(mut map) = serde_json::from_slice::<Map<String, Value>>(json)
    {
        map.remove(name);
        *json = Value::Object(map).to_string().into_bytes();
    }
    Cow::Owned(drv)
}

/// The base names of the store paths in texts.
fn named_in<'a>(dir: &StoreDir, texts: impl Iterator<Item = &'a Vec<u8>>) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for text in texts {
        mask(dir, text, &mut |base| {
            named.insert(base.to_owned());
        });
    }
    named
}

/// The texts of a derivation without store paths.
pub(super) struct Texts {
    pub(super) builder: Vec<u8>,
    pub(super) args: Vec<Vec<u8>>,
    /// Variables and attributes; those of `env` in structured attributes stand for themselves.
    pub(super) attrs: BTreeMap<String, Vec<u8>>,
    /// The values are JSON.
    structured: bool,
}

impl Texts {
    pub(super) fn of(dir: &StoreDir, drv: &Derivation) -> Self {
        let attrs = raw_attrs(drv).into_iter();
        Self {
            builder: masked(dir, &drv.builder),
            args: drv.args.iter().map(|arg| masked(dir, arg)).collect(),
            attrs: attrs
                .map(|(name, value)| (name, masked(dir, &value)))
                .collect(),
            structured: drv.env.contains_key(b"__json".as_slice()),
        }
    }

    /// The text that a value is for a person: a string of structured attributes is what it stands for.
    pub(super) fn text(&self, value: &[u8]) -> Option<String> {
        if self.structured
            && let Ok(text) = serde_json::from_slice::<String>(value)
        {
            return Some(text);
        }
        String::from_utf8(value.to_vec()).ok()
    }
}

/// Variables and attributes as they are; those of `env` in structured attributes stand for themselves.
pub(super) fn raw_attrs(drv: &Derivation) -> BTreeMap<String, Vec<u8>> {
    let mut attrs = BTreeMap::new();
    for (key, value) in &drv.env {
        let structured = (key == b"__json")
            .then(|| serde_json::from_slice::<Map<String, Value>>(value).ok())
            .flatten();
        match structured {
            Some(map) => add_all(map, &mut attrs),
            None => {
                attrs.insert(String::from_utf8_lossy(key).into_owned(), value.clone());
            }
        }
    }
    for name in TWICE {
        attrs.remove(name);
    }
    attrs
}

fn add_all(map: Map<String, Value>, attrs: &mut BTreeMap<String, Vec<u8>>) {
    for (name, value) in map {
        match value {
            Value::Object(inner) if name == "env" => {
                for (name, value) in inner {
                    attrs.insert(name, value.to_string().into_bytes());
                }
            }
            value => {
                attrs.insert(name, value.to_string().into_bytes());
            }
        }
    }
}

fn masked(dir: &StoreDir, text: &[u8]) -> Vec<u8> {
    mask(dir, text, &mut |_| {})
}

/// The text with every store path in it, and every placeholder of one, replaced by a mark. The base names of the paths are told.
pub(super) fn mask(dir: &StoreDir, text: &[u8], met: &mut dyn FnMut(&str)) -> Vec<u8> {
    let prefix = format!("{}/", dir.as_str()).into_bytes();
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let path = rest.strip_prefix(prefix.as_slice()).and_then(path_len);
        let path = path.map(|len| prefix.len() + len);
        match path.or_else(|| placeholder_len(rest)) {
            Some(len) => {
                let base = path.and_then(|len| rest.get(prefix.len()..len));
                if let Some(Ok(base)) = base.map(str::from_utf8) {
                    met(base);
                }
                out.extend_from_slice(b"<store path>");
                rest = rest.get(len..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// The length of a placeholder that the text begins with.
fn placeholder_len(text: &[u8]) -> Option<usize> {
    let digits = text.strip_prefix(b"/")?.iter();
    let len = digits.take_while(|b| ALPHABET.contains(b)).count();
    (len == PLACEHOLDER_DIGITS).then_some(1 + len)
}

/// The length of the base name of a store path that the text begins with.
fn path_len(text: &[u8]) -> Option<usize> {
    let hash = text.get(..HASH_DIGITS)?;
    if !hash.iter().all(|b| ALPHABET.contains(b)) || text.get(HASH_DIGITS) != Some(&b'-') {
        return None;
    }
    let is_name = |b: &u8| b.is_ascii_alphanumeric() || b"+-._?=".contains(b);
    let name = text[HASH_DIGITS + 1..].iter().take_while(|b| is_name(b));
    Some(HASH_DIGITS + 1 + name.count())
}

/// A name up to its version, which may be a single number: `libc-1` and `libc-2` are the same input.
pub(super) fn unversioned(name: &str) -> &str {
    let bytes = name.as_bytes();
    let version =
        (1..bytes.len()).find(|at| bytes[at - 1] == b'-' && !bytes[*at].is_ascii_alphabetic());
    version.map_or(name, |at| &name[..at - 1])
}
