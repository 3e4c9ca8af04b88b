//! Flake references: what a flake or a tree of files is named by, as a URL and as attributes.
//!
//! # Source
//! Nix manual, "nix flake", section "Flake references"; NixOS/nix `src/libfetchers`.

mod print;
mod read;
#[cfg(test)]
mod tests;
mod url;

use std::collections::BTreeMap;

use serde_json::Value;

pub use url::Url;

/// One attribute of a reference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attr {
    /// Text.
    Str(String),
    /// A number: times and counts.
    Int(u64),
    /// A switch.
    Bool(bool),
}

/// The attributes of a tree of files; `type` says how it is fetched.
pub type Attrs = BTreeMap<String, Attr>;

/// Why a text or a set is no reference, in the words of Nix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RefError(pub String);

/// A tree of files, and the directory in it that holds the flake.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlakeRef {
    /// The tree.
    pub tree: Attrs,
    /// The directory in the tree; empty for its root.
    pub dir: String,
}

impl FlakeRef {
    /// Makes a reference from attributes; `dir` names the directory.
    ///
    /// # Errors
    /// When the attributes do not fit their `type`.
    pub fn from_attrs(mut attrs: Attrs) -> Result<Self, RefError> {
        let dir = match attrs.remove("dir") {
            Some(Attr::Str(dir)) => dir,
            None => String::new(),
            Some(_) => return Err(RefError("input attribute 'dir' is not a string".into())),
        };
        Ok(Self {
            tree: check(attrs)?,
            dir,
        })
    }

    /// The attributes, with `dir` when the flake is not at the root.
    pub fn to_attrs(&self) -> Attrs {
        let mut attrs = self.tree.clone();
        if !self.dir.is_empty() {
            attrs.insert("dir".into(), Attr::Str(self.dir.clone()));
        }
        attrs
    }

    /// Parses a reference, and gives the fragment behind `#`. Relative paths stay relative. With `tree` an archive is meant
    /// even where a URL does not look like one.
    ///
    /// # Errors
    /// When the text is no reference.
    pub fn parse(text: &str, tree: bool) -> Result<(Self, String), RefError> {
        read::reference(text, tree)
    }

    /// The reference as a URL.
    ///
    /// # Errors
    /// When the attributes do not fit their `type`.
    pub fn to_url(&self) -> Result<String, RefError> {
        print::url(&self.tree, &self.dir)
    }

    /// Whether the path of the tree starts at the flake that names it.
    pub fn is_relative(&self) -> bool {
        kind(&self.tree) == "path" && !text(&self.tree, "path").is_some_and(|p| p.starts_with('/'))
    }
}

/// How a tree is fetched; empty when `type` is missing.
pub fn kind(tree: &Attrs) -> &str {
    text(tree, "type").unwrap_or_default()
}

/// A text attribute.
pub fn text<'a>(tree: &'a Attrs, name: &str) -> Option<&'a str> {
    match tree.get(name)? {
        Attr::Str(s) => Some(s),
        _ => None,
    }
}

/// A switch; absent means off.
pub fn flag(tree: &Attrs, name: &str) -> bool {
    matches!(tree.get(name), Some(Attr::Bool(true)))
}

/// Whether what the tree holds can never change: it names a commit or the hash of its content.
pub fn is_locked(tree: &Attrs) -> bool {
    let has = |name| text(tree, name).is_some();
    match kind(tree) {
        "git" | "hg" => has("rev"),
        "github" | "gitlab" | "sourcehut" => has("rev"),
        "path" | "tarball" | "file" => has("narHash"),
        _ => false,
    }
}

/// The attributes as a JSON object.
pub fn to_json(attrs: &Attrs) -> Value {
    let all = attrs.iter().map(|(name, value)| {
        let value = match value {
            Attr::Str(s) => Value::from(s.as_str()),
            Attr::Int(i) => Value::from(*i),
            Attr::Bool(b) => Value::from(*b),
        };
        (name.clone(), value)
    });
    Value::Object(all.collect())
}

/// Attributes from a JSON object.
///
/// # Errors
/// When it is none, or a value is neither text, number nor switch.
pub fn from_json(value: &Value) -> Result<Attrs, RefError> {
    let Some(object) = value.as_object() else {
        return Err(RefError(format!("expected an object but found {value}")));
    };
    let mut attrs = Attrs::new();
    for (name, value) in object {
        let attr = match value {
            Value::String(s) => Attr::Str(s.clone()),
            Value::Bool(b) => Attr::Bool(*b),
            Value::Number(n) => match n.as_u64() {
                Some(i) => Attr::Int(i),
                None => return Err(RefError(format!("unsupported input attribute '{name}'"))),
            },
            _ => {
                return Err(RefError(format!(
                    "unsupported input attribute type of '{name}'"
                )));
            }
        };
        attrs.insert(name.clone(), attr);
    }
    Ok(attrs)
}

/// The attributes that each type takes besides those that every type takes.
const TYPES: &[(&str, &[&str], &[&str])] = &[
    ("path", &["path"], &["rev", "revCount"]),
    (
        "git",
        &["url"],
        &[
            "ref",
            "rev",
            "shallow",
            "submodules",
            "revCount",
            "allRefs",
            "exportIgnore",
            "lfs",
            "dirtyRev",
            "dirtyShortRev",
            "verifyCommit",
            "keytype",
            "publicKey",
            "publicKeys",
        ],
    ),
    ("hg", &["url"], &["ref", "rev", "revCount"]),
    ("tarball", &["url"], &["rev", "revCount"]),
    ("file", &["url"], &["rev", "revCount"]),
    (
        "github",
        &["owner", "repo"],
        &["ref", "rev", "host", "treeHash"],
    ),
    (
        "gitlab",
        &["owner", "repo"],
        &["ref", "rev", "host", "treeHash"],
    ),
    (
        "sourcehut",
        &["owner", "repo"],
        &["ref", "rev", "host", "treeHash"],
    ),
    ("indirect", &["id"], &["ref", "rev"]),
];

/// Attributes that every type takes; `__final` is what newer versions of Nix mark locked trees with.
const COMMON: &[&str] = &["type", "narHash", "lastModified", "name", "__final"];

/// Looks whether the attributes fit their type.
fn check(attrs: Attrs) -> Result<Attrs, RefError> {
    let Some(kind) = text(&attrs, "type") else {
        return Err(RefError("input attribute 'type' is missing".into()));
    };
    let Some((_, needed, more)) = TYPES.iter().find(|t| t.0 == kind) else {
        return Err(RefError(format!(
            "cannot find a fetcher for input '{}'",
            to_json(&attrs)
        )));
    };
    for name in *needed {
        if text(&attrs, name).is_none() {
            return Err(RefError(format!(
                "input attribute '{name}' is missing in input '{}'",
                to_json(&attrs)
            )));
        }
    }
    for name in attrs.keys().map(String::as_str) {
        if !COMMON.contains(&name) && !needed.contains(&name) && !more.contains(&name) {
            return Err(RefError(format!(
                "unsupported input attribute '{name}' for the '{kind}' scheme"
            )));
        }
    }
    if let Some(rev) = text(&attrs, "rev")
        && !is_rev(rev)
    {
        return Err(RefError(format!("invalid Git commit hash '{rev}'")));
    }
    if let Some(r) = text(&attrs, "ref") {
        let (ok, who) = match kind {
            "hg" => (is_hg_ref(r), "Mercurial"),
            _ => (is_ref(r), "Git"),
        };
        if !ok {
            return Err(RefError(format!("invalid {who} branch/tag name '{r}'")));
        }
    }
    Ok(attrs)
}

/// Whether a text is a whole commit id.
pub fn is_rev(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a text may name a branch or a tag.
pub fn is_ref(text: &str) -> bool {
    let bad = ["//", "/.", "..", "@{", ".lock/"];
    !text.is_empty()
        && text != "@"
        && !text.starts_with(['.', '-', '/'])
        && !text.ends_with(['/', '.'])
        && !text.ends_with(".lock")
        && !bad.iter().any(|b| text.contains(b))
        && !text
            .bytes()
            .any(|b| b <= b' ' || b == 0x7f || b"~^:?*[\\".contains(&b))
}

/// Whether a text may name a branch, a tag or a bookmark of Mercurial: the letters that Nix takes.
pub fn is_hg_ref(text: &str) -> bool {
    text.bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_./-@".contains(&b))
}

/// Whether a text is the name of a flake in a registry.
pub(super) fn is_id(text: &str) -> bool {
    text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}
