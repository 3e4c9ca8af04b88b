//! The fast lane of the lexer: the tokens that most of a text is made of, found bytewise.
//!
//! rnix looks ahead over a run of characters before every token, since nearly anything can be the beginning of a path. Here that is done
//! once per run, and white space, comments, names, punctuation and plain strings are recognised; all else is left to rnix. A test holds
//! both to the same tokens.

use rnix::SyntaxKind::{self, *};

/// What stands at a place.
pub(super) enum Step {
    /// White space and comments, up to the lexer's new place.
    Space,
    /// A token, up to the lexer's new place.
    Token(SyntaxKind),
    /// A string without escapes and interpolations, with quotes of so many bytes.
    Plain(usize),
    /// Something that rnix must look at.
    Other,
    End,
}

pub(super) struct Lexer<'a> {
    bytes: &'a [u8],
    pub(super) at: usize,
    /// No path and no URI begins before this place.
    clean: usize,
}

/// Characters of paths, without the slash.
const RUN: u8 = 1;
const NAME: u8 = 2;
const DIGIT: u8 = 4;
const URI: u8 = 8;
/// What else is white space to rnix is an error to Nix.
const SPACE: u8 = 16;
/// Characters behind the beginning of a name that can make it a longer name, a path or a URI.
const MORE: u8 = 32;

/// The classes that each byte belongs to.
static CLASSES: [u8; 256] = {
    let mut all = [0; 256];
    let mut b = 0;
    while b < 256 {
        let c = b as u8;
        let letter = c.is_ascii_alphabetic();
        let digit = c.is_ascii_digit();
        let run = letter || digit || matches!(c, b'_' | b'.' | b'+' | b'-');
        if run {
            all[b] |= RUN;
        }
        if letter || digit || matches!(c, b'_' | b'-' | b'\'') {
            all[b] |= NAME;
        }
        if digit {
            all[b] |= DIGIT;
        }
        if run
            || matches!(
                c,
                b'/' | b'%' | b'?' | b':' | b'@' | b'&' | b'=' | b'$' | b',' | b'!' | b'~' | b'*'
            )
            || c == b'\''
        {
            all[b] |= URI;
        }
        if matches!(c, b' ' | b'\t' | b'\n' | b'\r') {
            all[b] |= SPACE;
        }
        if matches!(c, b'.' | b'+' | b'\'' | b'/' | b':') {
            all[b] |= MORE;
        }
        b += 1;
    }
    all
};

fn is(class: u8, b: u8) -> bool {
    CLASSES[b as usize] & class != 0
}

pub(super) fn in_path(b: u8) -> bool {
    b == b'/' || is(RUN, b)
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            bytes: text.as_bytes(),
            at: 0,
            clean: 0,
        }
    }

    fn peek(&self, n: usize) -> u8 {
        self.bytes.get(self.at + n).copied().unwrap_or(0)
    }

    /// How many bytes of a class follow.
    #[inline(always)]
    fn count(&self, class: u8) -> usize {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|b| !is(class, *b));
        end.unwrap_or(rest.len())
    }

    /// The length of a name that can be nothing else, most often the case.
    #[inline(always)]
    fn plain_name(&self) -> Option<usize> {
        let rest = &self.bytes[self.at..];
        let end = rest
            .iter()
            .position(|b| CLASSES[*b as usize] & (RUN | NAME) != RUN | NAME);
        match end {
            Some(end) if is(MORE, rest[end]) => None,
            Some(end) => Some(end),
            None => Some(rest.len()),
        }
    }

    /// Whether no path and no URI begins here. The answer holds to the end of the run of characters it was found for.
    fn is_clean(&mut self) -> bool {
        if self.at < self.clean {
            return true;
        }
        let run = self.count(RUN);
        let clean = match (self.peek(run), self.bytes.get(self.at + run + 1)) {
            (b'/', Some(b'/' | b'*') | None) => true,
            (b'/', Some(c)) => c.is_ascii_whitespace(),
            (b':', Some(c)) => !is(URI, *c),
            _ => true,
        };
        if clean {
            self.clean = self.at + run;
        }
        clean
    }

    /// Looks at what comes next and moves behind it, unless it is for rnix.
    pub(super) fn step(&mut self) -> Step {
        let Some(&b) = self.bytes.get(self.at) else {
            return Step::End;
        };
        let second = self.peek(1);
        let (kind, len) = match b {
            b' ' | b'\t' | b'\n' | b'\r' => {
                self.at += self.count(SPACE);
                return Step::Space;
            }
            b'#' => {
                let rest = &self.bytes[self.at..];
                self.at += memchr::memchr(b'\n', rest).unwrap_or(rest.len());
                return Step::Space;
            }
            b'/' if second == b'*' => {
                let body = &self.bytes[self.at + 2..];
                let Some(len) = memchr::memmem::find(body, b"*/") else {
                    return Step::Other;
                };
                self.at += len + 4;
                return Step::Space;
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
                let len = match self.plain_name() {
                    Some(len) => len,
                    None if self.is_clean() => self.count(NAME),
                    None => return Step::Other,
                };
                (word(&self.bytes[self.at..self.at + len]), len)
            }
            b'0'..=b'9' if self.is_clean() => {
                let len = self.count(DIGIT);
                if self.peek(len) == b'.' {
                    return Step::Other;
                }
                (TOKEN_INTEGER, len)
            }
            b'"' => return self.plain_string(),
            b'\'' if second == b'\'' => return self.plain_indented(),
            b'.' if second == b'.' && self.peek(2) == b'.' => (TOKEN_ELLIPSIS, 3),
            b'.' if !second.is_ascii_digit() && self.is_clean() => (TOKEN_DOT, 1),
            b'+' if self.is_clean() && second == b'+' => (TOKEN_CONCAT, 2),
            b'+' if self.is_clean() => (TOKEN_ADD, 1),
            b'-' if self.is_clean() && second == b'>' => (TOKEN_IMPLICATION, 2),
            b'-' if self.is_clean() => (TOKEN_SUB, 1),
            b'{' => (TOKEN_L_BRACE, 1),
            b'}' => (TOKEN_R_BRACE, 1),
            b'[' => (TOKEN_L_BRACK, 1),
            b']' => (TOKEN_R_BRACK, 1),
            b'(' => (TOKEN_L_PAREN, 1),
            b')' => (TOKEN_R_PAREN, 1),
            b'@' => (TOKEN_AT, 1),
            b':' => (TOKEN_COLON, 1),
            b',' => (TOKEN_COMMA, 1),
            b';' => (TOKEN_SEMICOLON, 1),
            b'?' => (TOKEN_QUESTION, 1),
            b'*' => (TOKEN_MUL, 1),
            b'=' if second == b'=' => (TOKEN_EQUAL, 2),
            b'=' => (TOKEN_ASSIGN, 1),
            b'!' if second == b'=' => (TOKEN_NOT_EQUAL, 2),
            b'!' => (TOKEN_INVERT, 1),
            b'&' if second == b'&' => (TOKEN_AND_AND, 2),
            b'|' if second == b'|' => (TOKEN_OR_OR, 2),
            b'>' if second == b'=' => (TOKEN_MORE_OR_EQ, 2),
            b'>' => (TOKEN_MORE, 1),
            b'<' if second == b'=' => (TOKEN_LESS_OR_EQ, 2),
            b'<' if second == b' ' => (TOKEN_LESS, 1),
            b'/' if second == b'/' => (TOKEN_UPDATE, 2),
            b'/' if second == b' ' => (TOKEN_DIV, 1),
            _ => return Step::Other,
        };
        self.at += len;
        Step::Token(kind)
    }

    fn plain_string(&mut self) -> Step {
        let body = &self.bytes[self.at + 1..];
        match memchr::memchr3(b'"', b'\\', b'$', body) {
            Some(len) if body[len] == b'"' => {
                self.at += len + 2;
                Step::Plain(1)
            }
            _ => Step::Other,
        }
    }

    fn plain_indented(&mut self) -> Step {
        let mut end = self.at + 2;
        while let Some(i) = memchr::memchr2(b'\'', b'$', &self.bytes[end..]) {
            end += i;
            match (self.bytes[end], self.bytes.get(end + 1)) {
                (b'$', Some(b'{')) | (_, None) => return Step::Other,
                (b'\'', Some(b'\'')) => {
                    if let Some(b'\'' | b'$' | b'\\') = self.bytes.get(end + 2) {
                        return Step::Other;
                    }
                    self.at = end + 2;
                    return Step::Plain(2);
                }
                (b'$', Some(b'$')) => end += 2,
                _ => end += 1,
            }
        }
        Step::Other
    }
}

fn word(name: &[u8]) -> SyntaxKind {
    match name {
        b"assert" => TOKEN_ASSERT,
        b"else" => TOKEN_ELSE,
        b"if" => TOKEN_IF,
        b"in" => TOKEN_IN,
        b"inherit" => TOKEN_INHERIT,
        b"let" => TOKEN_LET,
        b"or" => TOKEN_OR,
        b"rec" => TOKEN_REC,
        b"then" => TOKEN_THEN,
        b"with" => TOKEN_WITH,
        _ => TOKEN_IDENT,
    }
}
