//! The one error for a fetch that no source could satisfy.

use std::fmt;
use std::io;

use reqwest::Url;
use sos_engine::in_notation_of;
use sos_formats::diagnostic::{Class, Diagnostic, WrongHash};
use sos_formats::hash::Hash;
use sos_store::is_disk_full;

use super::failure::{Failure, Placed};
use super::fetcher::{self, Request};

/// One source and why it was given up.
#[derive(Debug)]
pub(super) struct Attempt {
    url: String,
    failure: Failure,
}

impl Attempt {
    pub(super) fn new(url: &str, failure: Failure) -> Self {
        Self {
            url: shown(url),
            failure,
        }
    }
}

impl Attempt {
    /// The same as [`fmt::Display`] gives, with hashes in the notation of the recipe.
    fn told(&self, request: &Request<'_>) -> String {
        match (&self.failure, request.written) {
            (
                Failure::Mismatch {
                    expected,
                    found,
                    size,
                },
                Some(written),
            ) if means(written, expected) => format!(
                "{}: expected {written}, found {} ({size} bytes)",
                self.url,
                in_notation_of(written, found)
            ),
            _ => self.to_string(),
        }
    }

    /// What can be done about it.
    fn advice(&self, request: &Request<'_>) -> Option<String> {
        let mirror = request
            .urls
            .iter()
            .find_map(|url| url.strip_prefix("mirror://")?.split('/').next());
        let other = mirror.map_or_else(
            || "add another address to `urls`".to_owned(),
            |name| {
                format!("name another mirror in `mirrors.{name}` of the configuration; `sos doctor` tries those that are known")
            },
        );
        match &self.failure {
            Failure::Status {
                code: 404 | 410, ..
            } => Some(format!(
                "the server has no such file: correct the address, or {other}"
            )),
            Failure::Read(error) if error.kind() == io::ErrorKind::NotFound => Some(format!(
                "there is no such file: correct the address, or {other}"
            )),
            Failure::Status { .. }
            | Failure::Connect { .. }
            | Failure::ConnectTimeout { .. }
            | Failure::NoAnswer { .. }
            | Failure::Stalled { .. }
            | Failure::Broken { .. }
            | Failure::Truncated { .. }
            | Failure::Down { .. } => Some(format!("run the command again later, or {other}")),
            Failure::NotHttps => Some(format!(
                "write `http://` in place of `https://`, or {other}"
            )),
            Failure::WebPage { .. } => Some(format!(
                "log in to the network if it asks for that, or {other}"
            )),
            Failure::Redirect { .. } | Failure::Url { .. } => {
                Some("correct the address in the recipe".to_owned())
            }
            _ => None,
        }
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.url, self.failure)
    }
}

/// Whether a hash in a recipe is this one; else it is not what the user will look for.
fn means(written: &str, hash: &Hash) -> bool {
    Hash::parse_any(written, Some(hash.algo())).is_ok_and(|parsed| parsed == *hash)
}

/// Gives a URL as it may be shown: without user and password.
pub(super) fn shown(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut parsed) if !parsed.username().is_empty() || parsed.password().is_some() => {
            let cleaned = parsed
                .set_username("")
                .and_then(|()| parsed.set_password(None));
            if cleaned.is_ok() {
                parsed.to_string()
            } else {
                format!("{}:...", parsed.scheme())
            }
        }
        _ => url.to_owned(),
    }
}

/// Makes the error for a download, or for what is unpacked of it, that this machine cannot write.
pub(crate) fn unwritable(name: &str, error: &io::Error) -> Diagnostic {
    let what = match error.get_ref().and_then(|e| e.downcast_ref::<Placed>()) {
        Some(placed) => format!("`{}` of the download of `{name}`", placed.path.display()),
        None => format!("the download of `{name}`"),
    };
    if is_disk_full(error) {
        let message = format!("the disk is full: cannot write {what}");
        return Diagnostic::error("env-disk-full", Class::Machine, message)
            .help("`sos gc` frees what nothing needs any more");
    }
    let why = error.get_ref().and_then(|e| e.source());
    let why = why.map_or_else(|| error.to_string(), ToString::to_string);
    let message = format!("cannot write {what}: {why}");
    Diagnostic::error("fetch-write", Class::Machine, message)
}

/// Makes the error that lists every source tried.
pub(super) fn none_worked(request: &Request<'_>, attempts: &[Attempt]) -> Diagnostic {
    let name = request.name;
    let lines: Vec<String> = attempts.iter().map(|a| a.told(request)).collect();
    if let Some(Attempt {
        failure: Failure::Write(error),
        ..
    }) = attempts.last()
    {
        return unwritable(name, error);
    }
    if let Some(refused) = attempts.iter().find_map(|attempt| match &attempt.failure {
        Failure::Refused(why) => Some(why),
        _ => None,
    }) {
        // What arrived tells more than what did not; with one source there is nothing else to tell.
        let others = if lines.len() > 1 { lines } else { Vec::new() };
        return others
            .into_iter()
            .fold((**refused).clone(), Diagnostic::note);
    }
    // Without a hash a web page is recognised too, but then there is nothing that it fails to match.
    let hashed = request.hash.is_some() || request.fixed_output;
    let wrong = hashed
        && attempts
            .iter()
            .any(|attempt| attempt.failure.is_wrong_content());
    if !wrong
        && attempts
            .iter()
            .any(|attempt| matches!(attempt.failure, Failure::Offline))
    {
        return fetcher::offline(name, lines);
    }
    let mut what = name;
    let sources = match attempts {
        [] => "it has no source".to_owned(),
        [one] => {
            // The end of an address says nothing about what is wrong with the beginning.
            if matches!(one.failure, Failure::Url { .. }) {
                what = &one.url;
            }
            one.failure.to_string()
        }
        several => format!("none of its {} sources delivers", several.len()),
    };
    let mut diagnostic = if wrong {
        let class = if request.fixed_output {
            Class::HashMismatch
        } else {
            Class::Fetch
        };
        Diagnostic::error(
            "fetch-hash-mismatch",
            class,
            format!("`{name}` does not match its hash"),
        )
    } else {
        Diagnostic::error(
            "fetch-failed",
            Class::Fetch,
            format!("cannot fetch `{what}`: {sources}"),
        )
    };
    for line in lines {
        diagnostic = diagnostic.note(line);
    }
    let mut found: Vec<String> = attempts
        .iter()
        .filter_map(|attempt| found_hash(&attempt.failure, request.written))
        .collect();
    found.dedup();
    match found.as_slice() {
        [one] => {
            diagnostic
                .hashes
                .extend(request.written.map(|written| WrongHash {
                    name: name.to_owned(),
                    expected: written.to_owned(),
                    found: one.clone(),
                }));
            let help = format!("if you trust what arrived, its hash is `{one}`");
            diagnostic.help(match request.written {
                Some(_) => format!("{help}, which `sos check --fix` writes into the recipe"),
                None => help,
            })
        }
        [_, _, ..] => diagnostic.help(
            "the sources disagree with each other: find out which of them serves the real file",
        ),
        // The last source tells the most: the ones before it are often known to be away.
        [] => match attempts.last().and_then(|attempt| attempt.advice(request)) {
            Some(advice) => diagnostic.help(advice),
            None => diagnostic,
        },
    }
}

/// Gives the hash of a file that arrived and was not the right one, as it would stand in the recipe.
fn found_hash(failure: &Failure, written: Option<&str>) -> Option<String> {
    match failure {
        Failure::Mismatch { found, .. } => Some(match written {
            Some(written) => in_notation_of(written, found),
            None => found.to_sri(),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use sos_formats::hash::HashAlgo;

    use super::*;

    fn request<'a>(urls: &'a [String], written: Option<&'a str>) -> Request<'a> {
        Request {
            name: "x",
            urls,
            hash: None,
            written,
            size: None,
            limit: 1,
            fixed_output: true,
            offline: false,
        }
    }

    #[test]
    fn a_wrong_hash_is_told_in_the_notation_of_the_recipe() {
        let (right, wrong) = (
            Hash::of(HashAlgo::Sha256, b"right"),
            Hash::of(HashAlgo::Sha256, b"wrong"),
        );
        let attempt = Attempt::new(
            "http://mirror.example/x",
            Failure::Mismatch {
                expected: Box::new(right),
                found: Box::new(wrong),
                size: 5,
            },
        );
        let written = right.to_nix32();
        let told = none_worked(&request(&[], Some(&written)), &[attempt]);
        assert!(
            told.notes[0].contains(&written) && told.notes[0].contains(&wrong.to_nix32()),
            "{told:?}"
        );
        assert!(told.helps[0].contains(&wrong.to_nix32()), "{told:?}");
        assert!(told.helps[0].contains("`sos check --fix`"), "{told:?}");
        let hash = &told.hashes[0];
        assert_eq!((&hash.expected, &hash.found), (&written, &wrong.to_nix32()));
    }

    #[test]
    fn what_cannot_be_fetched_comes_with_a_way_out() {
        let urls = ["mirror://debian/dists/x/InRelease".to_owned()];
        let attempt = Attempt::new(
            "http://mirror.example/dists/x/InRelease",
            Failure::Status {
                status: "404 Not Found".into(),
                code: 404,
                retry_after: None,
            },
        );
        let told = none_worked(&request(&urls, None), &[attempt]);
        assert_eq!(told.message, "cannot fetch `x`: answered 404 Not Found");
        assert!(told.helps[0].contains("mirrors.debian"), "{told:?}");
        let urls = ["ftp://h.example/a/x".to_owned()];
        let reason = "the scheme `ftp` is not supported".to_owned();
        let attempt = Attempt::new(&urls[0], Failure::Url { reason });
        let told = none_worked(&request(&urls, None), &[attempt]);
        assert_eq!(
            told.message,
            "cannot fetch `ftp://h.example/a/x`: the scheme `ftp` is not supported"
        );
    }
}
