//! What is looked at before rnix gets the text: what its tokenizer would never come to an end with.

use super::SyntaxError;

/// The tokenizer looks through a run of the characters of paths once for each token in it; so many characters take it a second.
const MAX_LOOKS: usize = 1 << 28;
/// Runs that are shorter than this cost nothing.
const SHORT_RUN: usize = 8 * 1024;

/// Refuses a text whose tokens would take too long to find.
pub(super) fn check(text: &str) -> Result<(), Box<SyntaxError>> {
    if is_harmless(text.as_bytes()) {
        return Ok(());
    }
    let (mut at, mut run_end, mut looks) = (0, 0, 0);
    let mut tokens = rnix::tokenize(text);
    loop {
        if at >= run_end {
            run_end = at + run(&text.as_bytes()[at..]);
        }
        looks += run_end - at;
        if looks > MAX_LOOKS {
            let message = "the expression has too many tokens that nothing separates";
            let help = "blanks or line breaks between what follows, as around each `+`, are enough";
            return Err(SyntaxError::too_deep(message, at..at + 1).labelled(help.to_owned()));
        }
        let Some((_, s)) = tokens.next() else {
            return Ok(());
        };
        at += s.len();
    }
}

/// Whether no run is long, told by a few of the bytes: a long run covers one of them.
fn is_harmless(text: &[u8]) -> bool {
    (SHORT_RUN..text.len()).step_by(SHORT_RUN).all(|at| {
        let before = text[..at].iter().rev().take_while(|b| in_run(**b)).count();
        before + run(&text[at..]) <= SHORT_RUN
    })
}

fn in_run(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_' | b'.' | b'+' | b'-')
}

fn run(text: &[u8]) -> usize {
    text.iter().take_while(|b| in_run(**b)).count()
}
