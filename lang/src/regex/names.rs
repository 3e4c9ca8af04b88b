//! The names of characters in `[.name.]`, as POSIX lists them.

/// Names of the characters from 0 to 127, in order.
const NAMES: &str = "NUL SOH STX ETX EOT ENQ ACK alert backspace tab newline vertical-tab form-feed carriage-return SO SI \
DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM SUB ESC IS4 IS3 IS2 IS1 \
space exclamation-mark quotation-mark number-sign dollar-sign percent-sign ampersand apostrophe \
left-parenthesis right-parenthesis asterisk plus-sign comma hyphen period slash \
zero one two three four five six seven eight nine colon semicolon less-than-sign equals-sign greater-than-sign question-mark \
commercial-at A B C D E F G H I J K L M N O P Q R S T U V W X Y Z \
left-square-bracket backslash right-square-bracket circumflex underscore \
grave-accent a b c d e f g h i j k l m n o p q r s t u v w x y z \
left-curly-bracket vertical-line right-curly-bracket tilde DEL";

/// The character with a name.
pub(super) fn named(name: &[u8]) -> Option<u8> {
    let at = NAMES
        .split_ascii_whitespace()
        .position(|n| n.as_bytes() == name)?;
    u8::try_from(at).ok()
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn every_name_is_at_its_place() {
        for (name, c) in [
            ("NUL", 0),
            ("space", b' '),
            ("hyphen", b'-'),
            ("zero", b'0'),
            ("A", b'A'),
            ("z", b'z'),
            ("DEL", 127),
        ] {
            assert_eq!(named(name.as_bytes()), Some(c), "{name}");
        }
        assert_eq!(named(b"-"), None);
    }
}
