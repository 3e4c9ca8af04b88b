//! Names, tags and digests, as the distribution specification writes them.

/// The longest name of an image.
const MAX_NAME_BYTES: usize = 255;
/// The tag of an image that names none.
pub(super) const LATEST: &str = "latest";

/// Whether a text can name an image: parts of small letters and digits joined by `.`, `_`, `__` or `-`, between slashes.
pub(crate) fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME_BYTES && !text.is_empty() && text.split('/').all(is_part)
}

fn is_part(part: &str) -> bool {
    let small = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    if !bytes.first().copied().is_some_and(small) || !bytes.last().copied().is_some_and(small) {
        return false;
    }
    let mut joined = bytes
        .split(|byte| small(*byte))
        .filter(|run| !run.is_empty());
    joined.all(|run| matches!(run, b"." | b"_" | b"__") || run.iter().all(|byte| *byte == b'-'))
}

/// Makes a name for an image out of the name of its object.
pub(crate) fn name_from(text: &str) -> String {
    let mut name = String::new();
    for c in text.chars() {
        let c = c.to_ascii_lowercase();
        let joins = !name.is_empty() && name.ends_with(|c: char| c.is_ascii_alphanumeric());
        match c {
            'a'..='z' | '0'..='9' => name.push(c),
            '.' | '_' if joins => name.push(c),
            _ if joins => name.push('-'),
            _ => {}
        }
    }
    name.truncate(MAX_NAME_BYTES);
    let name = name.trim_end_matches(['.', '_', '-']);
    if name.is_empty() {
        "image".to_owned()
    } else {
        name.to_owned()
    }
}

/// Whether a text can be a tag.
pub(super) fn is_tag(text: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let first = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    text.len() <= 128 && text.as_bytes().first().is_some_and(first) && text.bytes().all(rest)
}

/// The tag in the name that a layout gives an image: all of it, or what stands behind the last colon.
pub(super) fn tag_of(reference: Option<&str>) -> String {
    let last = reference.and_then(|text| text.rsplit(['/', ':']).next());
    let whole = reference.is_some_and(|text| text.contains('/') && !text.contains(':'));
    last.filter(|tag| !whole && is_tag(tag))
        .unwrap_or(LATEST)
        .to_owned()
}

/// The algorithm and the digits of a digest; none when it is no digest, or one by an algorithm that no layout here has.
pub(super) fn digest(text: &str) -> Option<(&str, &str)> {
    let (algo, hex) = text.split_once(':')?;
    let length = match algo {
        "sha256" => 64,
        "sha512" => 128,
        _ => return None,
    };
    let digits = hex
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (hex.len() == length && digits).then_some((algo, hex))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_specification() {
        for good in ["a", "web", "team/web", "a.b_c__d-e--f/0", "a---b"] {
            assert!(is_name(good), "{good}");
        }
        for bad in [
            "", "/", "a/", "/a", "A", "a..b", "a___b", "-a", "a-", "a._b", "a b", "é", "a//b",
        ] {
            assert!(!is_name(bad), "{bad}");
        }
        assert!(!is_name(&"a".repeat(256)));
    }

    #[test]
    fn every_object_gets_a_name() {
        for (object, name) in [
            ("web", "web"),
            ("Web-1.2", "web-1.2"),
            ("a+b=c", "a-b-c"),
            (".x._y-", "x.y"),
            ("?", "image"),
            ("a--b__c", "a-b_c"),
        ] {
            assert_eq!(name_from(object), name);
            assert!(is_name(&name_from(object)), "{object}");
        }
    }

    #[test]
    fn tags_come_from_the_names_of_layouts() {
        for (reference, tag) in [
            (None, "latest"),
            (Some("v1.0"), "v1.0"),
            (Some("web:2"), "2"),
            (Some("host:5000/os/web:2"), "2"),
            (Some("os/web"), "latest"),
            (Some("a+b"), "latest"),
            (Some(""), "latest"),
        ] {
            assert_eq!(tag_of(reference), tag, "{reference:?}");
        }
        assert!(is_tag("_x") && !is_tag(".x") && !is_tag(&"a".repeat(129)));
    }

    #[test]
    fn digests_have_the_digits_of_their_algorithm() {
        let hex = "0a".repeat(32);
        assert!(digest(&format!("sha256:{hex}")).is_some());
        assert!(digest(&format!("sha512:{hex}{hex}")).is_some());
        for bad in [
            hex.clone(),
            format!("sha512:{hex}"),
            format!("sha256:{}", hex.to_uppercase()),
            "sha256:../..".into(),
        ] {
            assert!(digest(&bad).is_none(), "{bad}");
        }
    }
}
