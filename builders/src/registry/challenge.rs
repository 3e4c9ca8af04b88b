//! What a server says when it wants to know who asks.

use std::collections::BTreeMap;

/// One way of showing who asks, from a `WWW-Authenticate` header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    /// `basic`, `bearer`, in lower case.
    pub(super) scheme: String,
    /// Its parameters, names in lower case.
    pub(super) parameters: BTreeMap<String, String>,
}

/// Reads a header, which may hold several challenges. What cannot be understood ends the list.
///
/// # Source
/// RFC 9110, section 11.6.1.
pub(super) fn parse(header: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    let mut rest = header.trim_start_matches([' ', ',']);
    while !rest.is_empty() {
        let word = token(rest);
        if word.is_empty() {
            break;
        }
        rest = rest[word.len()..].trim_start();
        let name = word.to_ascii_lowercase();
        match (rest.strip_prefix('='), found.last_mut()) {
            (Some(after), Some(challenge)) => {
                let Some((value, after)) = value(after.trim_start()) else {
                    break;
                };
                challenge.parameters.insert(name, value);
                rest = after;
            }
            (Some(_), None) => break,
            (None, _) => found.push(Challenge {
                scheme: name,
                parameters: BTreeMap::new(),
            }),
        }
        rest = rest.trim_start_matches([' ', ',']);
    }
    found
}

fn token(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)));
    &text[..end.unwrap_or(text.len())]
}

/// Reads a token or a quoted string; gives what follows too.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let word = token(text);
        return (!word.is_empty()).then(|| (word.to_owned(), &text[word.len()..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let header = r#"Basic realm="a, \"b\"", Bearer realm="https://x.example/t?a=b",service=s ,scope="repository:a/b:pull,push""#;
        let found = parse(header);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].scheme, "basic");
        assert_eq!(found[0].parameters["realm"], "a, \"b\"");
        assert_eq!(found[1].scheme, "bearer");
        assert_eq!(found[1].parameters["realm"], "https://x.example/t?a=b");
        assert_eq!(found[1].parameters["service"], "s");
        assert_eq!(found[1].parameters["scope"], "repository:a/b:pull,push");
        for odd in ["", "=", "a=b", "\"", "Bearer realm=\"open", "Basic =", "é"] {
            assert!(parse(odd).len() < 2, "{odd}");
        }
    }
}
