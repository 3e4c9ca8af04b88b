//! Text that comes from builds, made harmless for a terminal.

/// A line of a build without control characters, so that a log cannot move the cursor or set a title.
pub(crate) fn printable(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            // An escape sequence is dropped whole: to its final byte for CSI, to BEL or ST for OSC.
            match chars.next() {
                Some('[') => {
                    for c in chars.by_ref() {
                        if ('\u{40}'..='\u{7e}').contains(&c) {
                            break;
                        }
                    }
                }
                Some(']') => {
                    while let Some(c) = chars.next() {
                        if c == '\u{7}' || (c == '\u{1b}' && chars.next_if_eq(&'\\').is_some()) {
                            break;
                        }
                    }
                }
                _ => {}
            }
        } else if c == '\t' || !c.is_control() {
            out.push(c);
        }
    }
    out
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
    }
}
