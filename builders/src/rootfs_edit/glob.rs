//! Patterns over paths: `?` and `*` stay within a name, `**` crosses directories, `[abc]` is one of several characters.

/// Tells whether a pattern matches a whole path; both without a leading slash.
///
/// It keeps the set of pattern positions that the text so far can be at, so no pattern is slow.
pub(super) fn matches(pattern: &[u8], path: &[u8]) -> bool {
    let tokens = parse(pattern);
    let mut at = vec![false; tokens.len() + 1];
    at[0] = true;
    skip_empty(&tokens, &mut at);
    for byte in path {
        let mut next = vec![false; tokens.len() + 1];
        for (i, token) in tokens.iter().enumerate().filter(|(i, _)| at[*i]) {
            match token {
                Token::Any => next[i] = true,
                Token::Many if *byte != b'/' => next[i] = true,
                Token::One if *byte != b'/' => next[i + 1] = true,
                Token::Set { bytes, negated }
                    if *byte != b'/' && bytes.contains(byte) != *negated =>
                {
                    next[i + 1] = true;
                }
                Token::Byte(wanted) if wanted == byte => next[i + 1] = true,
                _ => {}
            }
        }
        skip_empty(&tokens, &mut next);
        at = next;
    }
    at[tokens.len()]
}

#[derive(Debug)]
enum Token {
    Any,
    Many,
    One,
    Set { bytes: Vec<u8>, negated: bool },
    Byte(u8),
}

/// Stars match nothing too.
fn skip_empty(tokens: &[Token], at: &mut [bool]) {
    for (i, token) in tokens.iter().enumerate() {
        if at[i] && matches!(token, Token::Any | Token::Many) {
            at[i + 1] = true;
        }
    }
}

fn parse(pattern: &[u8]) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = pattern;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        tokens.push(match first {
            b'*' if after.first() == Some(&b'*') => {
                rest = &after[1..];
                Token::Any
            }
            b'*' => Token::Many,
            b'?' => Token::One,
            b'\\' if !after.is_empty() => {
                rest = &after[1..];
                Token::Byte(after[0])
            }
            b'[' => match set(after) {
                Some((token, end)) => {
                    rest = &after[end..];
                    token
                }
                None => Token::Byte(b'['),
            },
            byte => Token::Byte(*byte),
        });
    }
    tokens
}

/// Parses what follows a `[`; gives the token and where the pattern goes on.
fn set(after: &[u8]) -> Option<(Token, usize)> {
    let negated = matches!(after.first(), Some(b'!' | b'^'));
    let start = usize::from(negated);
    // A `]` that comes first is a member.
    let end = start
        + 1
        + after
            .get(start + 1..)?
            .iter()
            .position(|byte| *byte == b']')?;
    let inner = &after[start..end];
    let mut bytes = Vec::new();
    let mut i = 0;
    while i < inner.len() {
        if i + 2 < inner.len() && inner[i + 1] == b'-' {
            bytes.extend(inner[i]..=inner[i + 2]);
            i += 3;
        } else {
            bytes.push(inner[i]);
            i += 1;
        }
    }
    Some((Token::Set { bytes, negated }, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        for path in yes {
            assert!(
                matches(pattern.as_bytes(), path.as_bytes()),
                "{pattern} {path}"
            );
        }
        for path in no {
            assert!(
                !matches(pattern.as_bytes(), path.as_bytes()),
                "{pattern} {path}"
            );
        }
    }

    #[test]
    fn patterns() {
        check(
            "etc/ssh/ssh_host_*_key*",
            &["etc/ssh/ssh_host_rsa_key", "etc/ssh/ssh_host_rsa_key.pub"],
            &["etc/ssh/x"],
        );
        check(
            "usr/share/doc/*",
            &["usr/share/doc/a"],
            &["usr/share/doc/a/b", "usr/share/doc"],
        );
        check(
            "usr/share/doc/**",
            &["usr/share/doc/a", "usr/share/doc/a/b"],
            &["usr/share/doc"],
        );
        check("**/*.pyc", &["a/b.pyc", "x/a/b.pyc"], &["a/b.py"]);
        check("a?c", &["abc"], &["ac", "a/c"]);
        check("a[b-d]e", &["abe", "ade"], &["aee"]);
        check("a[!b]e", &["ace"], &["abe", "a/e"]);
        check("a[]x]", &["a]", "ax"], &["ab"]);
        check("a[b", &["a[b"], &["ab"]);
        check(r"a\*", &["a*"], &["ab"]);
        check("", &[""], &["a"]);
    }

    #[test]
    fn no_pattern_is_slow() {
        let pattern = "*a".repeat(200);
        assert!(!matches(
            pattern.as_bytes(),
            "a".repeat(10_000).as_bytes().get(..199).unwrap_or_default()
        ));
        assert!(!matches(
            b"**a**a**a**a**a**a**b",
            "a".repeat(20_000).as_bytes()
        ));
    }
}
