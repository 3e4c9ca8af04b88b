//! The search path of `<name>`: `-I` and `NIX_PATH`.

use std::path::{Path, PathBuf};

/// Splits `NIX_PATH` at colons, but not inside URLs.
pub(crate) fn split(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for part in text.split(':') {
        match out.last_mut() {
            Some(last) if continues(last, part) => {
                last.push(':');
                last.push_str(part);
            }
            _ => out.push(part.to_owned()),
        }
    }
    out.retain(|e| !e.is_empty());
    out
}

/// Whether a part belongs to the URL before it: behind its scheme, or as the port of its server.
fn continues(before: &str, part: &str) -> bool {
    let value = before.split_once('=').map_or(before, |(_, v)| v);
    if matches!(value, "channel" | "flake") {
        return true;
    }
    let word = |s: &str| {
        !s.is_empty()
            && s.chars()
                .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    };
    if word(value) && part.starts_with("//") {
        return true;
    }
    // `flake:path:/x`, but not `flake:name:/x`.
    if let Some(scheme) = value.strip_prefix("flake:") {
        let schemes = ["path", "github", "gitlab", "sourcehut", "git+file"];
        if schemes.contains(&scheme) {
            return true;
        }
    }
    let server = value.split_once("://").map(|(_, rest)| rest);
    server.is_some_and(|s| !s.contains('/'))
        && part.bytes().next().is_some_and(|b| b.is_ascii_digit())
}

/// One entry: prefix and place. URLs stay as they are, paths become absolute.
///
/// # Errors
/// When the current directory is gone.
pub(crate) fn entry(text: &str, here: &Path) -> std::io::Result<(String, PathBuf)> {
    let (prefix, place) = text.split_once('=').unwrap_or(("", text));
    let url = place.contains("://") || place.starts_with("flake:") || place.starts_with("channel:");
    let place = if url {
        PathBuf::from(place)
    } else {
        std::path::absolute(here.join(place))?
    };
    Ok((prefix.to_owned(), place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_not_split() {
        assert_eq!(
            split("/a:x=/b::n=http://h:80/t.tar:m=https://h/t.tar:c=flake:n:d=flake:path:/x:/e"),
            [
                "/a",
                "x=/b",
                "n=http://h:80/t.tar",
                "m=https://h/t.tar",
                "c=flake:n",
                "d=flake:path:/x",
                "/e"
            ]
        );
    }

    #[test]
    fn urls_stay_as_they_are() {
        let here = Path::new("/h");
        let of = |t| entry(t, here).unwrap();
        assert_eq!(of("n=a/b"), ("n".into(), "/h/a/b".into()));
        assert_eq!(of("n=http://h/x"), ("n".into(), "http://h/x".into()));
    }
}
