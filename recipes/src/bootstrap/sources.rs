//! `sources`: the files that a step takes from outside, each with its digest.

use std::collections::BTreeMap;
use std::ops::Range;

use sos_formats::diagnostic::{Label, SourceFile};
use sos_formats::file_name;
use sos_formats::store_path::MAX_NAME_LEN;

use crate::problems::Problems;

/// One file from outside, under the name that steps find it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distfile {
    /// Name in `/external/distfiles`, and on mirrors.
    pub name: String,
    /// 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Alternatives, in the order of the file; may be empty, when only mirrors have it.
    pub urls: Vec<String>,
    /// What a `g` line says: `URL~REF` of a repository that it is the archive of.
    pub git: Option<String>,
}

/// One line.
struct Source<'t> {
    git: Option<&'t str>,
    url: Option<&'t str>,
    sha256: &'t str,
    name: &'t str,
    place: Range<usize>,
}

/// The digest that each name was given first, and where: steps share one directory of files, in which a name is one file.
#[derive(Debug, Default)]
pub(crate) struct Digests(BTreeMap<String, (String, Option<Label>)>);

/// Reads a `sources` file: lines of one name and digest are alternative addresses of one file, in the order of their first lines.
/// A name that has another digest in an earlier file is refused as one that has two in this file; `digests` is what is known of
/// those files, and learns of this one.
pub(crate) fn read(
    file: &SourceFile,
    digests: &mut Digests,
    problems: &mut Problems,
) -> Vec<Distfile> {
    let mut out: Vec<(Distfile, Range<usize>)> = Vec::new();
    for source in lines(&file.text, problems) {
        let known = out.iter_mut().find(|(d, _)| d.name == source.name);
        let Some((known, first)) = known else {
            let place = Some(source.place.clone());
            match digests.0.get(source.name) {
                Some((digest, first)) if digest != source.sha256 => {
                    two_digests(source.name, &place, first.clone(), problems);
                }
                Some(_) => {}
                None => {
                    let first = problems.label(&place, FIRST);
                    let known = (source.sha256.to_owned(), first);
                    digests.0.insert(source.name.to_owned(), known);
                }
            }
            out.push((
                Distfile {
                    name: source.name.to_owned(),
                    sha256: source.sha256.to_owned(),
                    urls: source.url.iter().map(|s| (*s).to_owned()).collect(),
                    git: source.git.map(str::to_owned),
                },
                source.place,
            ));
            continue;
        };
        if known.sha256 != source.sha256 {
            let first = problems.label(&Some(first.clone()), FIRST);
            two_digests(source.name, &Some(source.place), first, problems);
        } else if let Some(url) = source.url {
            known.urls.push(url.to_owned());
        }
    }
    out.into_iter().map(|(distfile, _)| distfile).collect()
}

/// What the place of the first digest is called.
const FIRST: &str = "the first one";

fn two_digests(
    name: &str,
    place: &Option<Range<usize>>,
    first: Option<Label>,
    problems: &mut Problems,
) {
    let message = format!("`{name}` has two digests");
    let problem = problems
        .error("bootstrap-two-digests", message, place, "another digest")
        .with_labels(first)
        .help("steps find files by name, so that two need two names: give one a name as its last word");
    problems.add(problem);
}

fn lines<'t>(text: &'t str, problems: &mut Problems) -> Vec<Source<'t>> {
    let mut out = Vec::new();
    let mut start = 0;
    for line in text.split('\n') {
        let offset = start;
        start += line.len() + 1;
        if let Some(at) = line.find('\r') {
            let at = offset + at;
            let problem = problems.error(
                "bootstrap-sources",
                "a carriage return in a list of sources is part of the word before it",
                &Some(at..at + 1),
                "here",
            );
            problems
                .add(problem.help(
                    "lines end with a line feed alone: `sed -i 's/\\r$//'` repairs the file",
                ));
            continue;
        }
        let words: Vec<(&str, Range<usize>)> = line
            .split([' ', '\t', '\u{b}', '\u{c}'])
            .filter(|word| !word.is_empty())
            .map(|word| {
                let at = offset + (word.as_ptr() as usize - line.as_ptr() as usize);
                (word, at..at + word.len())
            })
            .collect();
        if words.is_empty() {
            continue;
        }
        let whole = offset..offset + line.len();
        match source(&words, whole) {
            Ok(found) => out.push(found),
            Err((message, place, label)) => {
                let problem = problems.error("bootstrap-sources", message, &Some(place), label);
                problems.add(problem.note(
                    "lines are `f URL SHA256 [NAME]` or `g REPOSITORY~REF URL|_ SHA256 [NAME]`",
                ));
            }
        }
    }
    out
}

/// Tells whether a word begins with a scheme, which says who can fetch it.
fn is_address(word: &str) -> bool {
    word.split_once("://").is_some_and(|(scheme, _)| {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        scheme.starts_with(|first: char| first.is_ascii_alphabetic()) && scheme.bytes().all(is_part)
    })
}

type Wrong = (String, Range<usize>, &'static str);

fn source<'t>(words: &[(&'t str, Range<usize>)], whole: Range<usize>) -> Result<Source<'t>, Wrong> {
    let kind = words.first().map_or("", |(word, _)| word);
    let is_git = match kind {
        "f" | "file" => false,
        "g" | "git" => true,
        _ => {
            let place = words.first().map_or(whole, |(_, place)| place.clone());
            return Err((
                format!("unknown kind of source `{kind}`"),
                place,
                "neither `f` nor `g`",
            ));
        }
    };
    let first = if is_git { 2 } else { 1 };
    let (Some((url, url_place)), Some((sha256, digest_place))) =
        (words.get(first), words.get(first + 1))
    else {
        let end = whole.end;
        let what = if words.len() > first {
            "digest"
        } else {
            "address"
        };
        return Err((
            format!("a source without {what}"),
            end..end,
            "the line ends here",
        ));
    };
    let git = if is_git {
        let (git, place) = &words[1];
        let parts = git.rsplit_once('~');
        let named = parts.filter(|(repository, name)| !repository.is_empty() && !name.is_empty());
        let Some((repository, _)) = named else {
            let message = format!("`{git}` names no revision");
            return Err((message, place.clone(), "expected `REPOSITORY~REF`"));
        };
        if !is_address(repository) {
            let message = format!("`{repository}` is no address of a repository");
            return Err((message, place.clone(), "expected `SCHEME://…~REF`"));
        }
        Some(*git)
    } else {
        None
    };
    if *url != "_" && !is_address(url) {
        return Err((
            format!("`{url}` is no address"),
            url_place.clone(),
            "expected `SCHEME://…`, or `_` for none",
        ));
    }
    let is_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if sha256.len() != 64 || !sha256.bytes().all(is_hex) {
        let upper = sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit());
        let message = if upper {
            format!("the digest `{sha256}` has upper-case letters")
        } else {
            let bytes = if sha256.len() == 1 { "byte" } else { "bytes" };
            format!(
                "`{sha256}` is no SHA-256 digest: it has {} {bytes}",
                sha256.len()
            )
        };
        return Err((
            message,
            digest_place.clone(),
            "expected 64 digits of 0-9 and a-f",
        ));
    }
    if let Some((word, place)) = words.get(first + 3) {
        let message = format!("`{word}` is one word too many");
        return Err((message, place.clone(), "nothing is expected here"));
    }
    let (name, name_place) = match words.get(first + 2) {
        Some((name, place)) => (*name, place.clone()),
        None => (url.rsplit('/').next().unwrap_or(url), url_place.clone()),
    };
    if *url == "_" && words.get(first + 2).is_none() {
        let message = "a source without address needs a name".to_owned();
        return Err((
            message,
            url_place.clone(),
            "`_` says that there is no address",
        ));
    }
    if matches!(name, "" | "_" | "." | "..") || name.contains(['/', '\\', '\0']) {
        let message = format!("`{name}` cannot be the name of a file");
        return Err((message, name_place, "the name of the file"));
    }
    let length = file_name::to_store(name).len();
    if length > MAX_NAME_LEN {
        let message = format!(
            "the name of the file has {length} bytes as a store path has it, and at most {MAX_NAME_LEN} are possible"
        );
        return Err((
            message,
            name_place,
            "a shorter name as the last word of the line does",
        ));
    }
    Ok(Source {
        git,
        url: (*url != "_").then_some(*url),
        sha256,
        name,
        place: whole,
    })
}
