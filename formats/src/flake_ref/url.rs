//! URLs in the few parts that references use.

use std::collections::BTreeMap;

use super::RefError;

/// A URL taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// `git+file`
    pub scheme: String,
    /// Host and port; none when there is no `//`.
    pub authority: Option<String>,
    /// The path, percent-decoded.
    pub path: String,
    /// What follows `?`, decoded.
    pub query: BTreeMap<String, String>,
    /// What follows `#`, decoded.
    pub fragment: String,
}

impl Url {
    /// Parses a URL.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self, RefError> {
        let bad = || RefError(format!("'{text}' is not a valid URL"));
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (scheme, rest) = rest.split_once(':').ok_or_else(bad)?;
        let mut letters = scheme.bytes();
        if !letters.next().is_some_and(|b| b.is_ascii_alphabetic())
            || !letters.all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        {
            return Err(bad());
        }
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => {
                let at = rest.find('/').unwrap_or(rest.len());
                (Some(rest[..at].to_owned()), &rest[at..])
            }
            None => (None, rest),
        };
        if path.contains([' ', '\n', '^']) {
            return Err(bad());
        }
        if scheme.rsplit('+').next() == Some("file")
            && authority.as_ref().is_some_and(|a| !a.is_empty())
        {
            return Err(RefError(format!(
                "file:// URL '{text}' has unexpected authority '{}'",
                authority.unwrap_or_default()
            )));
        }
        Ok(Self {
            scheme: scheme.to_owned(),
            authority,
            path: decode(path).ok_or_else(bad)?,
            query: decode_query(query).ok_or_else(bad)?,
            fragment: decode(fragment).ok_or_else(bad)?,
        })
    }

    /// The scheme in front of `+`, as in `git+file`, and the one that transports.
    pub fn layers(&self) -> (Option<&str>, &str) {
        match self.scheme.split_once('+') {
            Some((outer, inner)) => (Some(outer), inner),
            None => (None, &self.scheme),
        }
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:", self.scheme)?;
        if let Some(authority) = &self.authority {
            write!(f, "//{authority}")?;
        }
        f.write_str(&encode(&self.path, ":@/!$&'()*+,;="))?;
        let mut mark = '?';
        for (name, value) in &self.query {
            write!(f, "{mark}{}={}", encode(name, ""), encode(value, ":@/?"))?;
            mark = '&';
        }
        if !self.fragment.is_empty() {
            write!(f, "#{}", encode(&self.fragment, ":@/?"))?;
        }
        Ok(())
    }
}

/// Replaces `%41` by `A`; none when an escape is cut short or the result is no text.
pub(super) fn decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let digits = tail.get(..2)?;
            out.extend(crate::hash::decode_hex(std::str::from_utf8(digits).ok()?)?);
            rest = &tail[2..];
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    if out.contains(&0) {
        return None;
    }
    String::from_utf8(out).ok()
}

/// Replaces all but letters, digits, `-._~` and `keep` by escapes.
pub(super) fn encode(text: &str, keep: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        let c = char::from(b);
        if b.is_ascii_alphanumeric() || "-._~".contains(c) || (b.is_ascii() && keep.contains(c)) {
            out.push(c);
        } else {
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

/// `a=b&c=d`; what has no `=` is passed over, as Nix does.
pub(super) fn decode_query(text: &str) -> Option<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for part in text.split('&') {
        if let Some((name, value)) = part.split_once('=') {
            out.insert(decode(name)?, decode(value)?);
        }
    }
    Some(out)
}
