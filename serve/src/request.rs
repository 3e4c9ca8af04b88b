//! What of a request decides about the answer.

use hyper::header::{HOST, HeaderName, IF_NONE_MATCH, IF_RANGE, RANGE};
use hyper::http::request::Parts;

/// The longest path that anything is looked up by, in bytes.
const MAX_PATH_BYTES: usize = 4096;

/// A request, read.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Whether only the head of the answer is wanted.
    pub(crate) head: bool,
    /// Whether something is to be changed, which nobody can here.
    pub(crate) writes: bool,
    /// The path between slashes, decoded; none when it cannot be read.
    pub(crate) path: Option<Vec<String>>,
    /// What a file that is asked for may be called: the path as it is meant, then as clients write it that encode nothing, for whom a
    /// `?` is part of the name. None below a directory.
    pub(crate) names: Vec<String>,
    query: String,
    /// The name by which the client knows this server.
    pub(crate) host: Option<String>,
    pub(crate) range: Option<String>,
    pub(crate) if_range: Option<String>,
    pub(crate) if_none_match: Option<String>,
}

impl Asked {
    pub(crate) fn read(parts: &Parts) -> Self {
        let header = |name: HeaderName| {
            let value = parts.headers.get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        let head = parts.method == hyper::Method::HEAD;
        Self {
            head,
            writes: !head && parts.method != hyper::Method::GET,
            path: segments(parts.uri.path()),
            names: names(parts.uri.path(), parts.uri.query()),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            host: header(HOST),
            range: header(RANGE),
            if_range: header(IF_RANGE),
            if_none_match: header(IF_NONE_MATCH),
        }
    }

    /// The value of a key behind the question mark.
    pub(crate) fn query(&self, key: &str) -> Option<String> {
        self.query.split('&').find_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if name == key { decoded(value) } else { None }
        })
    }
}

fn segments(path: &str) -> Option<Vec<String>> {
    if path.len() > MAX_PATH_BYTES {
        return None;
    }
    let path = path.strip_prefix('/')?;
    // A name with a slash in it would look like two.
    let name = |part| decoded(part).filter(|name| !name.contains('/'));
    path.split('/').map(name).collect()
}

fn names(path: &str, query: Option<&str>) -> Vec<String> {
    let Some(name) = path.strip_prefix('/') else {
        return Vec::new();
    };
    if path.len() + query.map_or(0, str::len) > MAX_PATH_BYTES {
        return Vec::new();
    }
    // The more that was said goes into it, the more likely it is the one.
    let long = query.map(|query| format!("{name}?{query}"));
    let written = long.iter().map(String::as_str).chain([name]);
    let mut found: Vec<String> = Vec::new();
    for one in written.flat_map(|text| [decoded(text), Some(text.to_owned())]) {
        found.extend(one.filter(|one| !one.contains('/') && !found.contains(one)));
    }
    found
}

/// What stands behind percent signs; none when that is no text.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        let (high, low) = (digit(rest.first()?)?, digit(rest.get(1)?)?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
        rest = &rest[2..];
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.contains('\0')).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(uri: &str) -> Asked {
        let request = hyper::Request::builder().uri(uri).body(()).unwrap();
        Asked::read(&request.into_parts().0)
    }

    #[test]
    fn a_name_may_be_encoded_or_not() {
        let names = |uri: &str| asked(uri).names;
        assert_eq!(names("/x%7E1"), ["x~1", "x%7E1"]);
        assert_eq!(names("/x~1"), ["x~1"]);
        assert_eq!(
            names("/a%2Bb?x=%2B"),
            ["a+b?x=+", "a%2Bb?x=%2B", "a+b", "a%2Bb"]
        );
        assert_eq!(names("/100%.tar"), ["100%.tar"]);
        assert!(names("/a/b").is_empty());
        assert_eq!(names("/a%2Fb"), ["a%2Fb"]);
    }

    #[test]
    fn paths_and_queries_are_decoded() {
        let path = |uri: &str| asked(uri).path;
        assert_eq!(path("/a/b%2bc").unwrap(), ["a", "b+c"]);
        assert_eq!(path("/").unwrap(), [""]);
        assert_eq!(path("//a//").unwrap(), ["", "a", "", ""]);
        assert_eq!(path("/a+b%3F").unwrap(), ["a+b?"]);
        for bad in ["/a%2fb", "/%00", "/%ff", "/%", "/%4", "/%zz"] {
            assert_eq!(path(bad), None, "{bad}");
        }
        assert_eq!(path(&format!("/{}", "a".repeat(5000))), None);
        let one = asked("/x?n=5&last=a%2Bb&empty&bad=%ff");
        assert_eq!(one.query("n").as_deref(), Some("5"));
        assert_eq!(one.query("last").as_deref(), Some("a+b"));
        assert_eq!(one.query("empty").as_deref(), Some(""));
        assert_eq!(one.query("bad"), None);
        assert_eq!(one.query("other"), None);
        assert_eq!(asked("/?a=b%2Fc").query("a").as_deref(), Some("b/c"));
    }
}
