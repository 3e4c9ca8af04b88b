//! Which paths and URLs an evaluation may look at: everything, or under pure and restricted evaluation only below given roots.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;

use sos_formats::store_path::StorePath;

use super::files::VIRTUAL;
use super::{R, Vm, canon_path, os_path, path_bytes};
use crate::error::{Error, Kind};
use crate::host::Options;
use crate::ir::Pos;

/// The roots; none means that everything is allowed.
pub(crate) struct Access {
    roots: Option<RefCell<Roots>>,
}

#[derive(Default)]
struct Roots {
    allowed: BTreeSet<Vec<u8>>,
    /// Paths that were found to be all right.
    seen: BTreeSet<Vec<u8>>,
}

impl Roots {
    fn cover(&self, p: &[u8]) -> bool {
        let mut at = p.len();
        loop {
            let head = if at == 0 { b"/".as_slice() } else { &p[..at] };
            if self.allowed.contains(head) {
                return true;
            }
            match memchr::memrchr(b'/', &p[..at]) {
                Some(next) => at = next,
                None => return false,
            }
        }
    }
}

impl Access {
    pub(super) fn new(options: &Options) -> Access {
        let limited = options.pure || options.restricted;
        Access {
            roots: limited.then(RefCell::default),
        }
    }
}

/// Whether a part of a URL leads upwards. Whoever fetches it may resolve that, or not.
fn climbs(rest: &str) -> bool {
    let mut plain = rest.as_bytes().to_vec();
    // Readers of URLs pass over these.
    plain.retain(|b| !matches!(b, b'\t' | b'\n' | b'\r'));
    // A server behind another one may find what the first one left.
    for _ in 0..2 {
        plain = decoded(&plain);
    }
    plain
        .split(|b| matches!(b, b'/' | b'\\'))
        .any(|part| part.split(|b| b"?#;".contains(b)).next() == Some(b".."))
}

/// A part of a URL with what is written as `%` and two digits.
fn decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let digit = |i: usize| char::from(*tail.get(i)?).to_digit(16);
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

/// Travels inside an I/O error from where a path is refused to where the place is known.
#[derive(Debug)]
struct Forbidden(String);

impl std::fmt::Display for Forbidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Forbidden {}

/// The text of a refusal, when that is what an error is.
pub(super) fn refusal(e: &io::Error) -> Option<String> {
    let inner = e.get_ref()?.downcast_ref::<Forbidden>()?;
    Some(inner.0.clone())
}

impl Vm {
    /// Allows everything below a path.
    pub(crate) fn allow(&self, root: &[u8]) {
        let Some(roots) = &self.access.roots else {
            return;
        };
        let real = self.host.canonicalize(&os_path(root)).map(path_bytes);
        let mut roots = roots.borrow_mut();
        roots.allowed.insert(canon_path(root));
        roots.allowed.extend(real);
    }

    /// Allows a store object.
    pub(crate) fn allow_object(&self, p: &StorePath) {
        if self.access.roots.is_some() {
            self.allow(self.absolute(p).as_bytes());
        }
    }

    /// Refuses a path outside the roots, and one inside that leads outside through a link.
    pub(crate) fn admit(&self, p: &[u8]) -> io::Result<()> {
        match &self.access.roots {
            Some(roots) if !p.starts_with(VIRTUAL) => self.admit_limited(roots, p),
            _ => Ok(()),
        }
    }

    fn admit_limited(&self, roots: &RefCell<Roots>, p: &[u8]) -> io::Result<()> {
        let p = canon_path(p);
        if roots.borrow().seen.contains(&p) {
            return Ok(());
        }
        let refuse = |what: &str, p: &[u8], mode: &str| {
            let shown = String::from_utf8_lossy(p);
            let text = format!("access to {what} path '{shown}' is forbidden in {mode}");
            Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                Forbidden(text),
            ))
        };
        let mode = if self.options.pure {
            "pure evaluation mode (use '--impure' to override)"
        } else {
            "restricted mode"
        };
        if !roots.borrow().cover(&p) {
            return refuse("absolute", &p, mode);
        }
        // What does not exist has no links of its own, but what is above it may.
        let mut at = p.clone();
        let real = loop {
            match self.host.canonicalize(&os_path(&at)) {
                Ok(real) => break path_bytes(real),
                Err(_) if at.len() > 1 => {
                    at.truncate(memchr::memrchr(b'/', &at).unwrap_or(0).max(1));
                    if !roots.borrow().cover(&at) {
                        return Ok(());
                    }
                }
                Err(_) => return Ok(()),
            }
        };
        if !roots.borrow().cover(&real) {
            return refuse("canonical", &real, mode);
        }
        roots.borrow_mut().seen.insert(p);
        Ok(())
    }

    /// Refuses a URL that restricted evaluation does not allow.
    pub(crate) fn admit_url(&self, url: &str, pos: Pos) -> R<()> {
        if !self.options.restricted {
            return Ok(());
        }
        let below = |prefix: &String| {
            !prefix.is_empty()
                && url.strip_prefix(prefix.as_str()).is_some_and(|rest| {
                    (rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'))
                        && !climbs(rest)
                })
        };
        if self.options.allowed_uris.iter().any(below) {
            return Ok(());
        }
        let path = url
            .strip_prefix("file://")
            .or_else(|| url.starts_with('/').then_some(url));
        match path {
            // Which file it is in the end is known only to whoever fetches it.
            Some(p) => [p.as_bytes(), &decoded(p.as_bytes())]
                .into_iter()
                .try_for_each(|p| self.admit(p).map_err(|e| self.io_error(&e, p, pos))),
            None => Err(Error::new(
                Kind::Pure,
                pos,
                format!("access to URI '{url}' is forbidden in restricted mode"),
            )
            .help("`--allowed-uris` takes the beginnings of URLs that may be used")),
        }
    }
}
