//! Spoils texts: bytes changed, pieces cut out, doubled, put together from several.

use crate::random::Random;

/// The largest text that comes out.
const MAX_BYTES: usize = 4000;

/// What the language is made of.
const TOKENS: &[&str] = &[
    "let ",
    " in ",
    "rec {",
    "{ ",
    " }",
    "[ ",
    " ]",
    "(",
    ")",
    "\"",
    "''",
    "${",
    "$${",
    "''${",
    "inherit ",
    "with ",
    "; ",
    "assert ",
    "if ",
    " then ",
    " else ",
    " or ",
    " ? ",
    " // ",
    " ++ ",
    " + ",
    " - ",
    " * ",
    " / ",
    " == ",
    " -> ",
    " && ",
    "!",
    "-",
    ":",
    "@",
    ",",
    "...",
    "=",
    ".",
    "/",
    "./x",
    "~/x",
    "<nixpkgs>",
    "http://a.b/c",
    "1",
    "1.5e300",
    "9223372036854775808",
    "null",
    "builtins.",
    "__functor",
    "__toString",
    "outPath",
    "import ",
    "derivation ",
    "throw ",
    "abort \"\" ",
    "#\n",
    "/*",
    "*/",
    "\u{0}",
    "\u{feff}",
    "\r\n",
    "\\",
    "ä",
    "|> ",
    "<| ",
    "__curPos",
    "__overrides",
    "let { body = 1; }",
];

/// A text from one or two others.
pub(super) fn mutate(r: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut text = corpus[r.below(corpus.len())].clone();
    for _ in 0..1 + r.below(6) {
        let at = r.below(text.len() + 1);
        match r.below(9) {
            0 => {
                let byte = r.next().to_le_bytes()[0];
                if let Some(b) = text.get_mut(at) {
                    *b = byte;
                }
            }
            1 | 2 => insert(&mut text, at, TOKENS[r.below(TOKENS.len())].as_bytes()),
            3 => {
                let end = (at + r.below(20)).min(text.len());
                text.drain(at..end);
            }
            4 => {
                let end = (at + r.below(40)).min(text.len());
                let piece = text[at..end].to_vec();
                insert(&mut text, at, &piece);
            }
            5 => {
                let other = &corpus[r.below(corpus.len())];
                let from = r.below(other.len() + 1);
                let piece = other[from..].to_vec();
                text.truncate(at);
                text.extend(piece);
            }
            6 => {
                // Deep: the same opening many times.
                let token = TOKENS[r.below(TOKENS.len())].repeat(r.below(300));
                insert(&mut text, at, token.as_bytes());
            }
            7 => text.truncate(at),
            _ => {
                // Small: a loop that counts to a billion is no finding.
                let number = r.below(600) as i64 - 100;
                insert(&mut text, at, number.to_string().as_bytes());
            }
        }
    }
    text.truncate(MAX_BYTES);
    text
}

fn insert(text: &mut Vec<u8>, at: usize, piece: &[u8]) {
    text.splice(at..at, piece.iter().copied());
}
