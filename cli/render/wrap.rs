//! Lines of words that fit a terminal, which itself breaks a line wherever it ends.

use super::text::columns;

/// How much deeper a line goes on than it began.
const DEEPER: usize = 4;

/// Breaks lines between words where they get longer than so many columns. A word that is longer alone is left to the terminal.
pub(crate) fn wrapped(text: &str, width: usize) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let words = line.trim_start_matches(' ');
        let indent = line.len() - words.len();
        // Where there is little room, none of it is for blanks.
        let deeper = indent + DEEPER;
        let deeper = if deeper * 2 > width { 0 } else { deeper };
        out.extend(std::iter::repeat_n(' ', indent));
        let mut used = indent;
        for (at, word) in words.split(' ').enumerate() {
            let wide = columns(word);
            if at > 0 && used + 1 + wide > width {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', deeper));
                used = deeper;
            } else if at > 0 {
                out.push(' ');
                used += 1;
            }
            out.push_str(word);
            used += wide;
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, width: usize, expect: &str) {
        assert_eq!(wrapped(text, width), expect);
    }

    #[test]
    fn lines_are_broken_between_words() {
        check("a b\n  c\n", 80, "a b\n  c\n");
        check("one two three\n", 13, "one two three\n");
        check("one two three\n", 12, "one two\n    three\n");
        check("  one two three\n", 12, "  one two\n      three\n");
        check("one  two\n", 80, "one  two\n");
        check(
            "日本 語 x\n",
            8,
            "日本 語 x\n".replace(" x", "\n    x").as_str(),
        );
        check("", 5, "");
    }

    #[test]
    fn a_narrow_terminal_has_no_room_for_blanks() {
        check("one two three\n", 5, "one\ntwo\nthree\n");
        check("one two three\n", 1, "one\ntwo\nthree\n");
    }
}
