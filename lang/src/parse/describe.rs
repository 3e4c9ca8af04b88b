//! What is wrong with a text, in words. Our parser stops at the first problem; rnix's goes on and knows more of what it wanted, so
//! a text that has an error is read again by it, and this module adds what it did not notice.

use rnix::SyntaxKind::*;
use rnix::{SyntaxKind, TextRange, TextSize};

use super::{SyntaxError, tokens};

/// What may stand after a dot.
const NAME: &str = "identifier or 'or' or '${' or '\"'";

/// The better one of two descriptions of an error: that of `e`, or what rnix finds.
pub(super) fn better(e: Box<SyntaxError>, text: &str) -> Box<SyntaxError> {
    if e.too_deep || !e.message.starts_with("syntax error") {
        return e;
    }
    match rnix::Root::parse(text).errors().first() {
        None | Some(rnix::ParseError::RecursionLimitExceeded) => e,
        Some(found) => describe(found, text),
    }
}

fn describe(e: &rnix::ParseError, text: &str) -> Box<SyntaxError> {
    use rnix::ParseError as E;
    let span = |r: &TextRange| usize::from(r.start())..usize::from(r.end());
    let end = text.len()..text.len();
    let all = Tokens::of(text);
    let at = match e {
        E::Unexpected(r)
        | E::UnexpectedExtra(r)
        | E::UnexpectedWanted(_, r, _)
        | E::UnexpectedDoubleBind(r)
        | E::DuplicatedArgs(r, _) => span(r),
        _ => end.clone(),
    };
    if let Some(e) = trailing_slash(text, &at) {
        return e;
    }
    if let Some(e) = all.unfinished_string(text, &at) {
        return e;
    }
    if let Some(e) = all.invalid(text, &at, e) {
        return e;
    }
    if let Some(e) = all.mismatch(&at) {
        return e;
    }
    match e {
        E::Unexpected(r) => SyntaxError::new(
            format!("syntax error, unexpected {}", all.name_at(text, r.start())),
            span(r),
        ),
        E::UnexpectedExtra(r) => SyntaxError::new(
            format!(
                "syntax error, unexpected {}, expecting end of file",
                all.name_at(text, r.start())
            ),
            span(r),
        ),
        E::UnexpectedWanted(got, _, want) => SyntaxError::new(
            format!(
                "syntax error, unexpected {}{}",
                tokens::name(*got, ""),
                all.wanted(want, at.start)
            ),
            at.start..all.end_of(at.start, text),
        ),
        E::UnexpectedDoubleBind(r) => {
            SyntaxError::new("syntax error, unexpected '@', expecting ':'", span(r))
        }
        E::UnexpectedEOF => all.ended("", end),
        E::UnexpectedEOFWanted(want) => all.ended(&all.wanted(want, at.start), end),
        E::DuplicatedArgs(r, name) => SyntaxError::new(
            format!("duplicate formal function argument '{name}'"),
            span(r),
        ),
        E::RecursionLimitExceeded => {
            SyntaxError::too_deep("the expression is nested too deeply", end)
        }
        _ => SyntaxError::new("syntax error", end),
    }
}

/// What is said of an attribute name in `''`.
pub(super) fn indented_name(text: &str, at: TextSize) -> Box<SyntaxError> {
    let at = usize::from(at);
    let expecting = Tokens::of(text).wanted(&[TOKEN_IDENT, TOKEN_OR], at);
    SyntaxError::new(
        format!("syntax error, unexpected start of an indented string{expecting}"),
        at..at + 2,
    )
}

/// A path that ends in a slash is an invalid token to rnix.
fn trailing_slash(text: &str, span: &std::ops::Range<usize>) -> Option<Box<SyntaxError>> {
    let word = text.get(span.start..)?.split_whitespace().next()?;
    let end = span.start + word.len();
    let path =
        word.len() > 1 && word.ends_with('/') && !word.ends_with("//") && !word.starts_with('"');
    path.then(|| SyntaxError::new("path has a trailing slash", end..end))
}

/// A kind of token and where it begins.
type Token = (SyntaxKind, usize);

/// Follows the nesting of brackets and strings; returns what the token closes.
fn nest(open: &mut Vec<Token>, t: Token) -> Option<Token> {
    match t.0 {
        TOKEN_STRING_START | TOKEN_INTERPOL_START | TOKEN_L_BRACE | TOKEN_L_BRACK
        | TOKEN_L_PAREN => open.push(t),
        TOKEN_STRING_END | TOKEN_INTERPOL_END | TOKEN_R_BRACE | TOKEN_R_BRACK | TOKEN_R_PAREN => {
            return open.pop();
        }
        _ => {}
    }
    None
}

/// The tokens of a text without space and comments, with their places.
struct Tokens(Vec<Token>);

impl Tokens {
    fn of(text: &str) -> Self {
        let mut at = 0;
        let mut out = Vec::new();
        for (kind, s) in rnix::tokenize(text) {
            if !matches!(kind, TOKEN_WHITESPACE | TOKEN_COMMENT) {
                out.push((kind, at));
            }
            at += s.len();
        }
        Self(out)
    }

    /// The token before a place.
    fn before(&self, at: usize) -> Option<SyntaxKind> {
        let n = self.0.partition_point(|t| t.1 < at);
        n.checked_sub(1).map(|i| self.0[i].0)
    }

    /// Where the token ends that begins at a place.
    fn end_of(&self, at: usize, text: &str) -> usize {
        let len = rnix::tokenize(&text[at..]).next().map_or(0, |t| t.1.len());
        at + len
    }

    fn name_at(&self, text: &str, at: TextSize) -> String {
        let at = usize::from(at);
        match self.0.binary_search_by_key(&at, |t| t.1) {
            Ok(i) => match (self.0[i].0, text[at..].starts_with("''")) {
                (TOKEN_STRING_START, true) => "start of an indented string".to_owned(),
                (kind, _) => tokens::name(kind, ""),
            },
            Err(_) => "token".to_owned(),
        }
    }

    /// The brackets and strings that are open at a place, outermost first.
    fn open(&self, until: usize) -> Vec<Token> {
        let mut open = Vec::new();
        for t in self.0.iter().take_while(|t| t.1 < until) {
            nest(&mut open, *t);
        }
        open
    }

    /// A string without an end swallows the rest of the text, so that all else is only a consequence.
    fn unfinished_string(
        &self,
        text: &str,
        at: &std::ops::Range<usize>,
    ) -> Option<Box<SyntaxError>> {
        let (kind, start) = *self.open(text.len()).last()?;
        if kind != TOKEN_STRING_START || at.start < start {
            return None;
        }
        let indented = text[start..].starts_with("''");
        if indented && matches!(self.before(start), Some(TOKEN_DOT | TOKEN_QUESTION)) {
            return Some(indented_name(text, TextSize::new(start as u32)));
        }
        let quote = if indented {
            "end of an indented string"
        } else {
            "'\"'"
        };
        let end = text.len();
        let message = format!("syntax error, unexpected end of file, expecting {quote}");
        Some(SyntaxError::new(message, end..end).with(start, "this string has no end"))
    }

    /// A character that begins no token, when nothing before it is wrong.
    fn invalid(
        &self,
        text: &str,
        at: &std::ops::Range<usize>,
        e: &rnix::ParseError,
    ) -> Option<Box<SyntaxError>> {
        let start = self
            .0
            .iter()
            .find(|t| t.0 == TOKEN_ERROR && t.1 <= at.start)?
            .1;
        let c = text[start..].chars().next()?;
        let expecting = match e {
            rnix::ParseError::UnexpectedExtra(r) if usize::from(r.start()) == start => {
                ", expecting end of file".to_owned()
            }
            rnix::ParseError::UnexpectedWanted(_, r, want) if usize::from(r.start()) == start => {
                self.wanted(want, start)
            }
            _ => String::new(),
        };
        let message = format!("syntax error, unexpected invalid token{expecting}");
        let note = if text[start..].starts_with("/*") {
            "this comment has no end".to_owned()
        } else if let [byte] = super::source::encode(c.encode_utf8(&mut [0; 4]), true)[..]
            && byte >= 0x80
        {
            format!("byte 0x{byte:02x} is not UTF-8, which text outside of strings must be")
        } else {
            format!("no expression has `{}` here", c.escape_debug())
        };
        Some(SyntaxError::new(message, start..start + c.len_utf8()).labelled(note))
    }

    /// A bracket that closes another one than is open, when nothing before it is wrong.
    fn mismatch(&self, at: &std::ops::Range<usize>) -> Option<Box<SyntaxError>> {
        let mut open = Vec::new();
        let ((got, place), (kind, start)) = self
            .0
            .iter()
            .take_while(|t| t.1 <= at.start)
            .find_map(|t| {
                let closed = nest(&mut open, *t)?;
                let fits = match closed.0 {
                    TOKEN_L_PAREN => t.0 == TOKEN_R_PAREN,
                    TOKEN_L_BRACK => t.0 == TOKEN_R_BRACK,
                    _ => true,
                };
                (!fits).then_some((*t, closed))
            })?;
        let (expecting, what) = if kind == TOKEN_L_PAREN {
            (", expecting ')'", "this parenthesis is not closed")
        } else {
            ("", "this list is not closed")
        };
        let message = format!(
            "syntax error, unexpected {}{expecting}",
            tokens::name(got, "")
        );
        Some(SyntaxError::new(message, place..place + 1).with(start, what))
    }

    /// The text ends within something.
    fn ended(&self, expecting: &str, end: std::ops::Range<usize>) -> Box<SyntaxError> {
        let open = self.open(end.start).pop();
        let (close, what) = match open.map(|o| o.0) {
            Some(TOKEN_L_PAREN) => (", expecting ')'", "this parenthesis is not closed"),
            Some(TOKEN_L_BRACK) => (", expecting ']'", "this list is not closed"),
            Some(TOKEN_L_BRACE) => ("", "this brace is not closed"),
            Some(TOKEN_INTERPOL_START) => ("", "this interpolation is not closed"),
            _ => ("", ""),
        };
        let whole = matches!(
            self.0.last().map(|t| t.0),
            Some(TOKEN_IDENT | TOKEN_INTEGER | TOKEN_FLOAT | TOKEN_STRING_END | TOKEN_R_BRACE)
        );
        let expecting = if expecting.is_empty() && whole {
            close
        } else {
            expecting
        };
        let e = SyntaxError::new(
            format!("syntax error, unexpected end of file{expecting}"),
            end,
        );
        match open.filter(|_| !what.is_empty()) {
            Some((_, start)) => e.with(start, what),
            None => e,
        }
    }

    fn wanted(&self, kinds: &[SyntaxKind], at: usize) -> String {
        if kinds.contains(&TOKEN_IDENT) && kinds.contains(&TOKEN_OR) {
            return match self.before(at) {
                Some(TOKEN_DOT | TOKEN_QUESTION) => format!(", expecting {NAME}"),
                Some(TOKEN_INHERIT | TOKEN_R_PAREN) => ", expecting an attribute name".into(),
                _ => ", expecting 'inherit' or an attribute name".into(),
            };
        }
        if kinds == [TOKEN_ASSIGN] {
            return ", expecting '.' or '='".into();
        }
        if kinds == [TOKEN_R_BRACE] {
            return ", expecting '}' or ','".into();
        }
        if kinds.is_empty() || kinds.len() > 4 {
            return String::new();
        }
        let names: Vec<String> = kinds.iter().map(|k| tokens::name(*k, "")).collect();
        format!(", expecting {}", names.join(" or "))
    }
}
