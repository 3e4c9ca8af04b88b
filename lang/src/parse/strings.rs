//! Unescaping of the two kinds of strings, with the rules of Nix's own lexer.
//!
//! What matters in them is ASCII, so everything works on bytes; these are UTF-8 again as soon as the pieces of a text are together.

use super::ast::{Ast, Part};
use super::source::encode;

/// A raw part: source text, or an interpolated expression.
pub(super) enum Raw<'a> {
    Text(&'a str),
    Expr(Ast),
}

/// Parts of a `"` string.
pub(super) fn plain(raw: Vec<Raw<'_>>, foreign: bool) -> Vec<Part> {
    let mut out = Vec::with_capacity(raw.len());
    for r in raw {
        match r {
            Raw::Expr(e) => out.push(Part::Expr(e)),
            Raw::Text(t) => push(&mut out, unescape(t.as_bytes())),
        }
    }
    finish(out, foreign)
}

fn push(out: &mut Vec<Part>, bytes: Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    if let Some(Part::Text(t)) = out.last_mut() {
        t.extend_from_slice(&bytes);
    } else {
        out.push(Part::Text(bytes));
    }
}

/// Private characters become the bytes they stand for.
fn finish(mut parts: Vec<Part>, foreign: bool) -> Vec<Part> {
    if foreign {
        for p in &mut parts {
            if let Part::Text(t) = p {
                *t = encode(&String::from_utf8_lossy(t), true);
            }
        }
    }
    parts
}

fn unescape(t: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(t.len());
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
    out
}

/// A piece of an indented string: expression, or text that either counts for the indentation or was escaped.
enum Piece<'a> {
    Text(&'a [u8], bool),
    Expr(Ast),
}

/// Parts of a `''` string.
pub(super) fn indented(raw: Vec<Raw<'_>>, foreign: bool) -> Vec<Part> {
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
    let mut out = Vec::new();
    let mut at_start = true;
    let mut dropped = 0;
    let n = pieces.len();
    for (i, p) in pieces.into_iter().enumerate() {
        match p {
            Piece::Expr(e) => {
                at_start = false;
                dropped = 0;
                out.push(Part::Expr(e));
            }
            Piece::Text(t, _) => {
                let mut s = Vec::with_capacity(t.len());
                for &c in t {
                    if at_start && c == b' ' {
                        if dropped >= indent {
                            s.push(c);
                        }
                        dropped += 1;
                        continue;
                    }
                    at_start = c == b'\n';
                    dropped = 0;
                    s.push(c);
                }
                if i + 1 == n
                    && let Some(p) = memchr::memrchr(b'\n', &s)
                    && s[p + 1..].iter().all(|b| *b == b' ')
                {
                    s.truncate(p + 1);
                }
                push(&mut out, s);
            }
        }
    }
    finish(out, foreign)
}

fn skip_blank_first_line(t: &[u8]) -> &[u8] {
    match memchr::memchr(b'\n', t) {
        Some(p) if t[..p].iter().all(|b| *b == b' ') => &t[p + 1..],
        _ => t,
    }
}

fn split<'a>(t: &'a [u8], out: &mut Vec<Piece<'a>>) {
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
        let (piece, len): (&'a [u8], usize) = match (t[i], at(i + 1), at(i + 2)) {
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

fn common_indent(pieces: &[Piece<'_>]) -> usize {
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
