//! What is looked at before rnix gets the text: what it would let through, and what it would never come to an end with.

use rnix::SyntaxKind::*;

use super::SyntaxError;

/// Brackets, interpolations and signs may nest this deep: the time to parse grows with the square of it.
const MAX_DEPTH: usize = 10_000;
/// The tokenizer looks through a run of the characters of paths once for each token in it; so many characters take it a second.
const MAX_LOOKS: usize = 1 << 28;
/// Runs that are shorter than this cost nothing.
const SHORT_RUN: usize = 8 * 1024;

/// Refuses white space that Nix does not know, and what is nested too deeply.
pub(super) fn check(text: &str) -> Result<(), Box<SyntaxError>> {
    let plain = text.is_ascii() && !text.bytes().any(|b| matches!(b, 0x0b | 0x0c));
    if plain && is_harmless(text.as_bytes()) {
        return Ok(());
    }
    let (mut at, mut depth, mut signs) = (0, 0, 0);
    let (mut run_end, mut looks) = (0, 0);
    let mut tokens = rnix::tokenize(text);
    loop {
        if at >= run_end {
            run_end = at + run(&text.as_bytes()[at..]);
        }
        looks += run_end - at;
        if looks > MAX_LOOKS {
            let message = "the expression has too many tokens that nothing separates";
            return Err(SyntaxError::too_deep(message, at..at + 1));
        }
        let Some((kind, s)) = tokens.next() else {
            return Ok(());
        };
        let span = at..at + s.len();
        match kind {
            TOKEN_WHITESPACE => {
                let known = |c: &char| matches!(c, ' ' | '\t' | '\r' | '\n');
                if let Some((i, c)) = s.char_indices().find(|(_, c)| !known(c)) {
                    return Err(SyntaxError::new(
                        format!("syntax error, unexpected character U+{:04X}", c as u32),
                        at + i..at + i + c.len_utf8(),
                    ));
                }
            }
            TOKEN_COMMENT => {}
            TOKEN_SUB | TOKEN_INVERT => signs += 1,
            _ => signs = 0,
        }
        match kind {
            TOKEN_L_BRACE | TOKEN_L_BRACK | TOKEN_L_PAREN | TOKEN_INTERPOL_START => depth += 1,
            TOKEN_R_BRACE | TOKEN_R_BRACK | TOKEN_R_PAREN | TOKEN_INTERPOL_END => {
                depth = usize::saturating_sub(depth, 1);
            }
            _ => {}
        }
        if depth.max(signs) > MAX_DEPTH {
            return Err(SyntaxError::too_deep(
                "the expression is nested too deeply",
                span,
            ));
        }
        at += s.len();
    }
}

/// Whether a text cannot reach any of the limits, told by its bytes alone.
fn is_harmless(text: &[u8]) -> bool {
    let (mut openers, mut length) = (0, 0);
    for &b in text {
        length = if in_run(b) { length + 1 } else { 0 };
        openers += usize::from(matches!(b, b'{' | b'[' | b'(' | b'-' | b'!'));
        if length > SHORT_RUN || openers > MAX_DEPTH {
            return false;
        }
    }
    true
}

fn in_run(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_' | b'.' | b'+' | b'-')
}

fn run(text: &[u8]) -> usize {
    text.iter().take_while(|b| in_run(**b)).count()
}
