//! Text that comes from builds, made harmless for a terminal.

/// A line of a build without control characters, so that a log cannot move the cursor or set a title.
pub(crate) fn printable(line: &str) -> String {
    reduced(line, false)
}

/// The same with its colours, which end with the line.
pub(crate) fn colored(line: &str) -> String {
    let text = reduced(line, true);
    if text.contains('\u{1b}') {
        return text + "\u{1b}[0m";
    }
    text
}

fn reduced(line: &str, colors: bool) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            // An escape sequence is dropped whole: to its final byte for CSI, to BEL or ST for OSC.
            match chars.next() {
                Some('[') => {
                    let mut parameters = String::new();
                    let mut end = None;
                    for c in chars.by_ref() {
                        if ('\u{40}'..='\u{7e}').contains(&c) {
                            end = Some(c);
                            break;
                        }
                        parameters.push(c);
                    }
                    let is_number = |c: char| c.is_ascii_digit() || c == ';' || c == ':';
                    if colors && end == Some('m') && parameters.chars().all(is_number) {
                        out.push_str(&format!("\u{1b}[{parameters}m"));
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
        assert_eq!(
            colored("a\u{1b}[1;31mred\u{1b}[2J\u{1b}]0;title\u{7}\u{1b}[?1mb"),
            "a\u{1b}[1;31mredb\u{1b}[0m"
        );
        assert_eq!(colored("plain"), "plain");
    }
}
