//! The one error for a fetch that no source could satisfy.

use std::fmt;
use std::io;

use reqwest::Url;
use sos_formats::diagnostic::{Class, Diagnostic};

use super::failure::Failure;
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

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.url, self.failure)
    }
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

/// Makes the error that lists every source tried.
pub(super) fn none_worked(request: &Request<'_>, attempts: &[Attempt]) -> Diagnostic {
    let name = request.name;
    let lines: Vec<String> = attempts.iter().map(ToString::to_string).collect();
    if let Some(Attempt {
        failure: Failure::Write(error),
        ..
    }) = attempts.last()
    {
        if error.kind() == io::ErrorKind::StorageFull {
            let message = format!("the disk is full: cannot write the download of `{name}`");
            return Diagnostic::error("env-disk-full", Class::Machine, message)
                .help("`sos gc` frees what nothing needs any more");
        }
        let message = format!("cannot write the download of `{name}`: {error}");
        return Diagnostic::error("fetch-write", Class::Machine, message);
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
    let sources = match attempts.len() {
        0 => "it has no source".to_owned(),
        1 => "its only source does not deliver".to_owned(),
        n => format!("none of its {n} sources delivers"),
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
            format!("cannot fetch `{name}`: {sources}"),
        )
    };
    for line in lines {
        diagnostic = diagnostic.note(line);
    }
    let mut found: Vec<&str> = attempts
        .iter()
        .filter_map(|attempt| found_sri(&attempt.failure))
        .collect();
    found.dedup();
    match found.as_slice() {
        [one] => diagnostic.help(format!("if you trust what arrived, its hash is `{one}`")),
        [_, _, ..] => diagnostic.help(
            "the sources disagree with each other: find out which of them serves the real file",
        ),
        [] => diagnostic,
    }
}

/// Gives the hash of a file that arrived and was not the right one.
fn found_sri(failure: &Failure) -> Option<&str> {
    match failure {
        Failure::Mismatch { found_sri, .. } => Some(found_sri),
        _ => None,
    }
}
