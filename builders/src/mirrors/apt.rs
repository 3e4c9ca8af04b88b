//! The machine's APT sources, read for the servers they name (sources.list(5)).

use std::collections::BTreeMap;
use std::path::Path;

use sos_formats::deb::Paragraphs;

/// Sources files are small; anything larger is not one.
const MAX_BYTES: u64 = 1 << 20;

/// Reads the sources below a root directory. What cannot be read is skipped: it is only a place to look.
pub(super) fn read(root: &Path) -> BTreeMap<String, Vec<String>> {
    let etc = root.join("etc/apt");
    let mut files = vec![etc.join("sources.list")];
    if let Ok(entries) = std::fs::read_dir(etc.join("sources.list.d")) {
        let mut parts: Vec<_> = entries
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .collect();
        parts.sort();
        files.extend(parts);
    }
    let mut found = Vec::new();
    for file in files {
        let small =
            std::fs::metadata(&file).is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_BYTES);
        let Some(text) = small.then(|| std::fs::read_to_string(&file).ok()).flatten() else {
            continue;
        };
        match file.extension().and_then(|e| e.to_str()) {
            Some("sources") => found.extend(from_deb822(&text)),
            Some("list") => found.extend(from_lines(&text)),
            _ => {}
        }
    }
    by_name(found)
}

/// One server of one entry, with what the entry says about its keys.
struct Entry {
    uri: String,
    signed_by: Option<String>,
}

/// Groups servers by the last part of their path. Those where it is the whole path come first: a third party's
/// archive may also end in `/debian`, but hardly has nothing before it.
fn by_name(entries: Vec<Entry>) -> BTreeMap<String, Vec<String>> {
    let mut named: BTreeMap<String, Vec<(usize, String)>> = BTreeMap::new();
    for entry in entries {
        let Some((name, depth)) = name_of(&entry.uri) else {
            continue;
        };
        // A key of the archive's own says that it is the archive; another's key says that it is not.
        if entry
            .signed_by
            .is_some_and(|keys| !is_archive_key(&keys, &name))
        {
            continue;
        }
        let list = named.entry(name).or_default();
        let uri = entry.uri.trim_end_matches('/').to_owned();
        if !list.iter().any(|(_, known)| *known == uri) {
            list.push((depth, uri));
        }
    }
    let finish = |mut list: Vec<(usize, String)>| {
        list.sort_by_key(|(depth, _)| *depth);
        list.into_iter().map(|(_, uri)| uri).collect()
    };
    named
        .into_iter()
        .map(|(name, list)| (name, finish(list)))
        .collect()
}

fn name_of(uri: &str) -> Option<(String, usize)> {
    let rest = ["https://", "http://"]
        .iter()
        .find_map(|scheme| uri.strip_prefix(scheme))?;
    let mut parts = rest
        .trim_end_matches('/')
        .split('/')
        .filter(|part| !part.is_empty());
    parts.next()?;
    let path: Vec<&str> = parts.collect();
    let name = path.last()?;
    // Only these are known to hold what their name says.
    ["debian", "debian-security", "debian-ports", "ubuntu"]
        .contains(name)
        .then(|| ((*name).to_owned(), path.len()))
}

fn is_archive_key(signed_by: &str, name: &str) -> bool {
    let distribution = name.split('-').next().unwrap_or(name);
    let own = |file: &str| {
        file.rsplit('/')
            .next()
            .is_some_and(|base| base.starts_with(distribution))
    };
    signed_by
        .split([',', ' ', '\n'])
        .map(str::trim)
        .filter(|word| word.starts_with('/'))
        .all(own)
}

fn from_deb822(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    for paragraph in Paragraphs::with_comments(text).map_while(Result::ok) {
        let words = |name| -> Vec<&str> {
            let lines = paragraph
                .field(name)
                .into_iter()
                .flat_map(|field| field.lines());
            lines.flat_map(str::split_ascii_whitespace).collect()
        };
        let disabled = paragraph.get("Enabled").is_some_and(|v| {
            ["no", "false", "0", "off"].contains(&v.to_ascii_lowercase().as_str())
        });
        if disabled || !words("Types").contains(&"deb") {
            continue;
        }
        // An embedded key block begins in the middle of the field and says nothing about whose it is.
        let signed_by = paragraph
            .get("Signed-By")
            .filter(|v| v.starts_with('/'))
            .map(str::to_owned);
        entries.extend(words("URIs").into_iter().map(|uri| Entry {
            uri: uri.to_owned(),
            signed_by: signed_by.clone(),
        }));
    }
    entries
}

fn from_lines(text: &str) -> Vec<Entry> {
    text.lines().filter_map(from_line).collect()
}

fn from_line(line: &str) -> Option<Entry> {
    let line = line.split('#').next()?.trim();
    let rest = line
        .strip_prefix("deb")
        .filter(|rest| rest.starts_with([' ', '\t']))?
        .trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(inner) => inner.split_once(']')?,
        None => ("", rest),
    };
    let option = |word: &str| {
        word.split_once('=')
            .filter(|(name, _)| name.eq_ignore_ascii_case("signed-by"))
            .map(|(_, v)| v.to_owned())
    };
    Some(Entry {
        uri: rest.split_ascii_whitespace().next()?.to_owned(),
        signed_by: options.split_ascii_whitespace().find_map(option),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(entries: Vec<Entry>, name: &str, expected: &[&str]) {
        assert_eq!(by_name(entries).remove(name).unwrap_or_default(), expected);
    }

    #[test]
    fn one_line_entries() {
        let text = "# deb http://off.example/debian x main\ndeb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://a.example/debian/ x main\n\
            deb-src http://s.example/debian x main\ndeb cdrom:[disc]/ x main\ndeb http://deep.example/pub/debian x main # here\ndeb http://b.example/debian x\n\
            deb [signed-by=/etc/apt/keyrings/vendor.asc] https://vendor.example/linux/debian x stable\ndeb http://sec.example/debian-security x main\n";
        check(
            from_lines(text),
            "debian",
            &[
                "http://a.example/debian",
                "http://b.example/debian",
                "http://deep.example/pub/debian",
            ],
        );
        check(
            from_lines(text),
            "debian-security",
            &["http://sec.example/debian-security"],
        );
    }

    #[test]
    fn deb822_entries() {
        let text = "Types: deb deb-src\n# note\nURIs: http://a.example/debian\n https://b.example/debian/\nSuites: x\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
            Types: deb\nURIs: http://off.example/debian\nEnabled: no\n\nTypes: deb-src\nURIs: http://src.example/debian\n\nTypes: deb\nURIs: https://v.example/debian\nSigned-By: /etc/vendor.gpg\n";
        check(
            from_deb822(text),
            "debian",
            &["http://a.example/debian", "https://b.example/debian"],
        );
        check(from_deb822(text), "vendor", &[]);
    }
}
