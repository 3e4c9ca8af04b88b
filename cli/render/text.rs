//! Text that comes from builds, made harmless for a terminal, and measured for it.

use std::iter::Peekable;
use std::str::Chars;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// The longest parameters of a colour that are passed on.
const COLOR_MAX: usize = 64;

/// A line of a build without control characters, so that a log cannot move the cursor or set a title.
pub(crate) fn printable(line: &str) -> String {
    reduced(line, false)
}

/// The name of a file in one line that no other name gives: what is no printable text is written as in the C language.
pub(crate) fn file_name(name: &[u8]) -> String {
    let mut shown = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => shown.push_str("\\\\"),
                '\n' => shown.push_str("\\n"),
                '\t' => shown.push_str("\\t"),
                '\r' => shown.push_str("\\r"),
                c if (c as u32) < 0x80 && c.is_control() => {
                    shown.push_str(&format!("\\x{:02x}", c as u32));
                }
                // Controls of other kinds, and what turns the direction of writing.
                c if c.width().is_none() || c.width() == Some(0) => {
                    shown.push_str(&format!("\\u{{{:x}}}", c as u32));
                }
                c => shown.push(c),
            }
        }
        for byte in chunk.invalid() {
            shown.push_str(&format!("\\x{byte:02x}"));
        }
    }
    shown
}

/// The same with its colours, which end with the line.
pub(crate) fn colored(line: &str) -> String {
    let text = reduced(line, true);
    if text.contains('\u{1b}') {
        return text + "\u{1b}[0m";
    }
    text
}

/// A line for a row of its own that must not be wider than it is measured: without control characters, and without what terminals
/// disagree on how wide it is.
pub(crate) fn one_row(line: &str, unicode: bool) -> String {
    let mut text = printable(line);
    if text.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        return text;
    }
    text = text
        .chars()
        .filter(|c| !joins(*c))
        .map(|c| match c {
            '\t' => ' ',
            c if unicode || c.is_ascii() => c,
            _ => '?',
        })
        .collect();
    text
}

/// Joiners and selectors make one picture out of several characters, in terminals that know them.
fn joins(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}')
}

/// Characters that are not seen and change how others are: the order of a line, or where it ends.
fn unseen(c: char) -> bool {
    matches!(
        c,
        '\u{61c}'
            | '\u{180e}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

fn reduced(line: &str, colors: bool) -> String {
    if line
        .bytes()
        .all(|b| (0x20..0x7f).contains(&b) || b == b'\t')
    {
        return line.to_owned();
    }
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => escape(&mut chars, &mut out, colors),
            // What begins with two characters in seven bits has one of its own in eight.
            '\u{9b}' => control_sequence(&mut chars, &mut out, colors),
            '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}' => string(&mut chars),
            '\t' => out.push(c),
            c if c.is_control() || unseen(c) => {}
            c => out.push(c),
        }
    }
    out
}

/// Takes what follows an ESC.
fn escape(chars: &mut Peekable<Chars<'_>>, out: &mut String, colors: bool) {
    match chars.peek().copied() {
        Some('[') => {
            chars.next();
            control_sequence(chars, out, colors);
        }
        Some(']' | 'P' | 'X' | '^' | '_') => {
            chars.next();
            string(chars);
        }
        Some('\u{20}'..='\u{2f}') => {
            while chars
                .next_if(|c| ('\u{20}'..='\u{2f}').contains(c))
                .is_some()
            {}
            chars.next_if(|c| ('\u{30}'..='\u{7e}').contains(c));
        }
        Some('\u{30}'..='\u{7e}') => {
            chars.next();
        }
        // Anything else ends it, and is seen for what it is.
        _ => {}
    }
}

/// Takes a control sequence up to its final character; only one that sets colours is kept.
fn control_sequence(chars: &mut Peekable<Chars<'_>>, out: &mut String, colors: bool) {
    let mut parameters = String::new();
    loop {
        match chars.peek().copied() {
            Some(c @ '\u{20}'..='\u{3f}') => {
                chars.next();
                parameters.push(c);
            }
            Some(c @ '\u{40}'..='\u{7e}') => {
                chars.next();
                let is_color = c == 'm'
                    && parameters.len() <= COLOR_MAX
                    && parameters
                        .bytes()
                        .all(|b| b.is_ascii_digit() || b == b';' || b == b':');
                if colors && is_color {
                    out.push_str("\u{1b}[");
                    out.push_str(&parameters);
                    out.push('m');
                }
                return;
            }
            // These two end a sequence where it is. Terminals act on other controls in the middle of one and go on.
            Some('\u{18}' | '\u{1a}') => {
                chars.next();
                return;
            }
            Some(c) if c != '\u{1b}' && c < ' ' || c == '\u{7f}' => {
                chars.next();
            }
            _ => return,
        }
    }
}

/// Takes a string of commands (a title, a clipboard, a picture) up to its end.
fn string(chars: &mut Peekable<Chars<'_>>) {
    while let Some(c) = chars.peek().copied() {
        match c {
            '\u{1b}' => {
                let mut ahead = chars.clone();
                ahead.next();
                if ahead.next_if_eq(&'\\').is_some() {
                    *chars = ahead;
                }
                // Another sequence begins, and ends this one.
                return;
            }
            '\u{7}' | '\u{9c}' | '\u{18}' | '\u{1a}' => {
                chars.next();
                return;
            }
            _ => {
                chars.next();
            }
        }
    }
}

/// The columns that a text takes, each character for itself.
pub(crate) fn columns(text: &str) -> usize {
    if text.is_ascii() {
        return text.width();
    }
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// The start of `text` that fits into so many columns.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += c.width().unwrap_or(0);
        if used > limit {
            return &text[..at];
        }
    }
    text
}

/// `text` in exactly so many columns, its middle left out when it is longer.
pub(crate) fn pad(text: &str, width: usize) -> String {
    const MIDDLE: &str = "..";
    let used = columns(text);
    if used <= width {
        return format!("{text}{}", " ".repeat(width - used));
    }
    if width <= MIDDLE.len() {
        return pad(cut(text, width), width);
    }
    let head = cut(text, width / 2);
    let room = width - columns(head) - MIDDLE.len();
    let mut tail = text.len();
    let mut taken = 0;
    for (at, c) in text.char_indices().rev() {
        taken += c.width().unwrap_or(0);
        if taken > room {
            break;
        }
        tail = at;
    }
    let out = format!("{head}{MIDDLE}{}", &text[tail..]);
    let missing = width - columns(&out);
    format!("{out}{}", " ".repeat(missing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_cannot_drive_the_terminal() {
        assert_eq!(
            printable("a\u{1b}[31mred\u{1b}[0m\u{1b}]0;title\u{7}\rb\tc"),
            "aredb\tc"
        );
        assert_eq!(printable("\u{1b}"), "");
        assert_eq!(
            colored("a\u{1b}[1;31mred\u{1b}[2J\u{1b}]0;title\u{7}\u{1b}[?1mb"),
            "a\u{1b}[1;31mredb\u{1b}[0m"
        );
        assert_eq!(colored("plain"), "plain");
    }

    #[test]
    fn every_kind_of_sequence_is_taken_whole() {
        for (line, seen) in [
            ("a\u{1b}Ptmux;x\u{1b}\\b", "ab"),
            ("a\u{1b}_Gpicture\u{1b}\\b", "ab"),
            ("a\u{1b}^x\u{9c}b", "ab"),
            ("a\u{1b}Xx\u{18}b", "ab"),
            ("a\u{9b}31mb", "ab"),
            ("a\u{9d}52;c;aGk=\u{9c}b", "ab"),
            ("a\u{1b}(0b\u{1b}#8c\u{1b}cd", "abcd"),
            ("a\u{1b}[1\u{7};5Hb\u{1b}[3\u{1a}c", "abc"),
            // A sequence within a string, or in another one, begins anew.
            ("a\u{1b}]0;x\u{1b}[31mb", "ab"),
            ("a\u{1b}[3\u{1b}[2Jb", "ab"),
            ("a\u{1b}\u{1b}[2Jb", "ab"),
            ("a\u{1b}é\u{1b}[1é", "aéé"),
            ("a\u{202e}b\u{2066}c\u{feff}\u{2028}d\0e\u{85}f", "abcdef"),
        ] {
            assert_eq!(printable(line), seen, "{line:?}");
            assert!(
                !colored(line).contains(['\u{7}', '\u{9b}', '\u{9d}']),
                "{line:?}"
            );
        }
        let long = format!("\u{1b}[{}mx", "1;".repeat(40));
        assert_eq!(colored(&long), "x");
    }

    #[test]
    fn a_row_holds_nothing_of_doubtful_width() {
        assert_eq!(one_row("a\tb\u{fe0f}\u{200d}é", true), "a bé");
        assert_eq!(one_row("日本 é", false), "?? ?");
    }

    #[test]
    fn long_names_are_cut_in_the_middle() {
        assert_eq!(pad("abc", 5), "abc  ");
        assert_eq!(pad("abcdefghijkl", 8), "abcd..kl");
        assert_eq!(columns(&pad("日本語日本語日本語", 10)), 10);
        assert_eq!(pad("abc", 2), "ab");
        assert_eq!(pad("abc", 0), "");
    }

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!(cut("日本語", 5), "日本");
        assert_eq!(columns("日本"), 4);
    }
}
