//! Unescaping of the two kinds of strings, with the rules of Nix's own lexer.
//!
//! What matters in them is ASCII, so everything works on bytes; these are UTF-8 again as soon as the pieces of a text are together.

use bumpalo::Bump;
use bumpalo::collections::Vec as BumpVec;

use super::ast::{Ast, Part};
use super::source::encode;

/// A raw part: source text, or an interpolated expression.
pub(super) enum Raw<'a> {
    Text(&'a str),
    Expr(Ast<'a>),
}

/// Parts of a `"` string.
pub(super) fn plain<'a>(raw: Vec<Raw<'a>>, foreign: bool, bump: &'a Bump) -> &'a [Part<'a>] {
    let mut out = Parts::new(foreign, bump);
    for r in raw {
        match r {
            Raw::Expr(e) => out.expr(e),
            Raw::Text(t) => unescape(t.as_bytes(), &mut out.text),
        }
    }
    out.finish()
}

/// Collects the parts of a string.
struct Parts<'a> {
    all: BumpVec<'a, Part<'a>>,
    /// The text behind the last part.
    text: Vec<u8>,
    foreign: bool,
    bump: &'a Bump,
}

impl<'a> Parts<'a> {
    fn new(foreign: bool, bump: &'a Bump) -> Self {
        Self {
            all: BumpVec::new_in(bump),
            text: Vec::new(),
            foreign,
            bump,
        }
    }

    fn expr(&mut self, e: Ast<'a>) {
        self.flush();
        self.all.push(Part::Expr(e));
    }

    fn flush(&mut self) {
        if self.text.is_empty() {
            return;
        }
        // Private characters become the bytes they stand for.
        let text = if self.foreign {
            let text = encode(&String::from_utf8_lossy(&self.text), true);
            self.bump.alloc_slice_copy(&text)
        } else {
            self.bump.alloc_slice_copy(&self.text)
        };
        self.all.push(Part::Text(text));
        self.text.clear();
    }

    fn finish(mut self) -> &'a [Part<'a>] {
        self.flush();
        self.all.into_bump_slice()
    }
}

fn unescape(t: &[u8], out: &mut Vec<u8>) {
    let mut rest = t;
    while let Some(i) = memchr::memchr2(b'\\', b'\r', rest) {
        out.extend_from_slice(&rest[..i]);
        let next = rest.get(i + 1).copied();
        let mut used = 2;
        match (rest[i], next) {
            (b'\\', Some(b'n')) => out.push(b'\n'),
            (b'\\', Some(b'r')) => out.push(b'\r'),
            (b'\\', Some(b't')) => out.push(b'\t'),
            (b'\\', Some(c)) => out.push(c),
            (b'\\', None) => used = 1,
            (_, Some(b'\n')) => out.push(b'\n'),
            (..) => {
                out.push(b'\n');
                used = 1;
            }
        }
        rest = &rest[i + used..];
    }
    out.extend_from_slice(rest);
}

/// A piece of an indented string: expression, or text that either counts for the indentation or was escaped.
enum Piece<'t, 'a> {
    Text(&'t [u8], bool),
    Expr(Ast<'a>),
}

/// Parts of a `''` string.
pub(super) fn indented<'a>(raw: Vec<Raw<'a>>, foreign: bool, bump: &'a Bump) -> &'a [Part<'a>] {
    // Only texts with carriage returns have to be copied before they are cut.
    let texts: Vec<std::borrow::Cow<'_, str>> = raw
        .iter()
        .filter_map(|r| match r {
            Raw::Text(t) if t.contains('\r') => Some(t.replace("\r\n", "\n").into()),
            Raw::Text(t) => Some((*t).into()),
            Raw::Expr(_) => None,
        })
        .collect();
    let mut texts = texts.iter();
    let mut pieces = Vec::new();
    for (i, r) in raw.into_iter().enumerate() {
        match r {
            Raw::Expr(e) => pieces.push(Piece::Expr(e)),
            Raw::Text(_) => {
                let t = texts.next().map_or(b"".as_slice(), |t| t.as_bytes());
                split(
                    if i == 0 { skip_blank_first_line(t) } else { t },
                    &mut pieces,
                );
            }
        }
    }
    let indent = common_indent(&pieces);
    let mut out = Parts::new(foreign, bump);
    let mut at_start = true;
    let mut dropped = 0;
    let n = pieces.len();
    for (i, p) in pieces.into_iter().enumerate() {
        match p {
            Piece::Expr(e) => {
                at_start = false;
                dropped = 0;
                out.expr(e);
            }
            Piece::Text(t, _) => {
                let s = &mut out.text;
                let begin = s.len();
                let mut rest = t;
                while !rest.is_empty() {
                    if at_start {
                        let spaces = rest.iter().take_while(|b| **b == b' ').count();
                        let gone = spaces.min(indent.saturating_sub(dropped));
                        dropped += spaces;
                        s.extend_from_slice(&rest[gone..spaces]);
                        rest = &rest[spaces..];
                        if rest.is_empty() {
                            break;
                        }
                    }
                    let line = memchr::memchr(b'\n', rest).map_or(rest.len(), |p| p + 1);
                    s.extend_from_slice(&rest[..line]);
                    at_start = rest[line - 1] == b'\n';
                    dropped = 0;
                    rest = &rest[line..];
                }
                if i + 1 == n
                    && let Some(p) = memchr::memrchr(b'\n', &s[begin..])
                    && s[begin + p + 1..].iter().all(|b| *b == b' ')
                {
                    s.truncate(begin + p + 1);
                }
            }
        }
    }
    out.finish()
}

fn skip_blank_first_line(t: &[u8]) -> &[u8] {
    match memchr::memchr(b'\n', t) {
        Some(p) if t[..p].iter().all(|b| *b == b' ') => &t[p + 1..],
        _ => t,
    }
}

fn split<'t>(t: &'t [u8], out: &mut Vec<Piece<'t, '_>>) {
    let at = |i: usize| t.get(i).copied();
    let (mut i, mut begin) = (0, 0);
    while i < t.len() {
        let run = match (t[i], at(i + 1)) {
            (b'$', Some(c)) if c != b'{' && c != b'\'' => 2,
            (b'\'', Some(c)) if c != b'$' && c != b'\'' => 2,
            (b'$' | b'\'', _) => 0,
            _ => 1,
        };
        if run > 0 {
            i += run;
            continue;
        }
        if begin < i {
            out.push(Piece::Text(&t[begin..i], true));
        }
        let (piece, len): (&'t [u8], usize) = match (t[i], at(i + 1), at(i + 2)) {
            (b'\'', Some(b'\''), Some(b'$')) => (b"$", 3),
            (b'\'', Some(b'\''), Some(b'\'')) => (b"''", 3),
            (b'\'', Some(b'\''), Some(b'\\')) => match at(i + 3) {
                Some(b'n') => (b"\n", 4),
                Some(b'r') => (b"\r", 4),
                Some(b't') => (b"\t", 4),
                Some(_) => (&t[i + 3..i + 4], 4),
                None => (b"\\", 3),
            },
            _ => (&t[i..=i], 1),
        };
        out.push(Piece::Text(piece, false));
        i += len;
        begin = i;
    }
    if begin < t.len() {
        out.push(Piece::Text(&t[begin..], true));
    }
}

fn common_indent(pieces: &[Piece<'_, '_>]) -> usize {
    let mut min = usize::MAX;
    let mut at_start = true;
    let mut cur = 0;
    for p in pieces {
        match p {
            Piece::Text(t, true) => {
                for c in *t {
                    match c {
                        b'\n' => {
                            at_start = true;
                            cur = 0;
                        }
                        b' ' if at_start => cur += 1,
                        _ if at_start => {
                            at_start = false;
                            min = min.min(cur);
                        }
                        _ => {}
                    }
                }
            }
            _ => {
                if at_start {
                    at_start = false;
                    min = min.min(cur);
                }
            }
        }
    }
    min
}
