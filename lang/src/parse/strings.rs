//! Unescaping of the two kinds of strings, with the rules of Nix's own lexer.

use super::ast::{Ast, Part};
use super::source::encode;

/// A raw part: source text, or an interpolated expression.
pub(super) enum Raw {
    Text(String),
    Expr(Ast),
}

/// Parts of a `"` string.
pub(super) fn plain(raw: Vec<Raw>, foreign: bool) -> Vec<Part> {
    let mut out = Vec::new();
    for r in raw {
        match r {
            Raw::Expr(e) => out.push(Part::Expr(e)),
            Raw::Text(t) => push(&mut out, unescape(&t, foreign)),
        }
    }
    out
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

fn unescape(t: &str, foreign: bool) -> Vec<u8> {
    let mut s = String::with_capacity(t.len());
    let mut it = t.chars().peekable();
    while let Some(c) = it.next() {
        match c {
            '\\' => match it.next() {
                Some('n') => s.push('\n'),
                Some('r') => s.push('\r'),
                Some('t') => s.push('\t'),
                Some(c) => s.push(c),
                None => {}
            },
            '\r' => {
                it.next_if_eq(&'\n');
                s.push('\n');
            }
            c => s.push(c),
        }
    }
    encode(&s, foreign)
}

/// A piece of an indented string: expression, or text that either counts for the indentation or was escaped.
enum Piece {
    Text(String, bool),
    Expr(Ast),
}

/// Parts of a `''` string.
pub(super) fn indented(raw: Vec<Raw>, foreign: bool) -> Vec<Part> {
    let mut pieces = Vec::new();
    for (i, r) in raw.into_iter().enumerate() {
        match r {
            Raw::Expr(e) => pieces.push(Piece::Expr(e)),
            Raw::Text(t) => {
                let t = t.replace("\r\n", "\n");
                let t = if i == 0 {
                    skip_blank_first_line(&t)
                } else {
                    &t
                };
                split(t, &mut pieces);
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
                let mut s = String::with_capacity(t.len());
                for c in t.chars() {
                    if at_start && c == ' ' {
                        if dropped >= indent {
                            s.push(c);
                        }
                        dropped += 1;
                        continue;
                    }
                    at_start = c == '\n';
                    dropped = 0;
                    s.push(c);
                }
                if i + 1 == n
                    && let Some(p) = s.rfind('\n')
                    && s[p + 1..].bytes().all(|b| b == b' ')
                {
                    s.truncate(p + 1);
                }
                push(&mut out, encode(&s, foreign));
            }
        }
    }
    out
}

fn skip_blank_first_line(t: &str) -> &str {
    match t.find('\n') {
        Some(p) if t[..p].bytes().all(|b| b == b' ') => &t[p + 1..],
        _ => t,
    }
}

fn split(t: &str, out: &mut Vec<Piece>) {
    let cs: Vec<char> = t.chars().collect();
    let at = |i: usize| cs.get(i).copied();
    let mut i = 0;
    let mut text = String::new();
    while i < cs.len() {
        let run = match (cs[i], at(i + 1)) {
            ('$', Some(c)) if c != '{' && c != '\'' => 2,
            ('\'', Some(c)) if c != '$' && c != '\'' => 2,
            ('$' | '\'', _) => 0,
            _ => 1,
        };
        if run > 0 {
            text.extend(&cs[i..i + run]);
            i += run;
            continue;
        }
        if !text.is_empty() {
            out.push(Piece::Text(std::mem::take(&mut text), true));
        }
        let (piece, len) = match (cs[i], at(i + 1), at(i + 2)) {
            ('\'', Some('\''), Some('$')) => ("$".to_owned(), 3),
            ('\'', Some('\''), Some('\'')) => ("''".to_owned(), 3),
            ('\'', Some('\''), Some('\\')) => {
                let c = match at(i + 3) {
                    Some('n') => '\n',
                    Some('r') => '\r',
                    Some('t') => '\t',
                    Some(c) => c,
                    None => '\\',
                };
                (c.to_string(), 4)
            }
            (c, ..) => (c.to_string(), 1),
        };
        out.push(Piece::Text(piece, false));
        i += len;
    }
    if !text.is_empty() {
        out.push(Piece::Text(text, true));
    }
}

fn common_indent(pieces: &[Piece]) -> usize {
    let mut min = usize::MAX;
    let mut at_start = true;
    let mut cur = 0;
    for p in pieces {
        match p {
            Piece::Text(t, true) => {
                for c in t.chars() {
                    match c {
                        '\n' => {
                            at_start = true;
                            cur = 0;
                        }
                        ' ' if at_start => cur += 1,
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
