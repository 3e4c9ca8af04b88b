//! The digests that a checkout says its results have.

use std::collections::BTreeMap;

use sos_formats::diagnostic::{Diagnostic, SourceFile};

use super::checkout::Checkout;
use crate::problems::Problems;

/// Reads the digests of the packages of a tree, by file name; the first line of a name counts.
///
/// # Errors
/// Lines that are no `DIGEST  NAME`.
pub(crate) fn packages(
    checkout: &Checkout<'_>,
    tree: &str,
) -> Result<BTreeMap<String, String>, Vec<Diagnostic>> {
    match checkout.text(&format!("{tree}/SHA256SUMS.pkgs")) {
        Ok(Some(file)) => read(&file),
        Ok(None) => Ok(BTreeMap::new()),
        Err(problem) => Err(vec![*problem]),
    }
}

/// Reads the digests of what a step in kaem installs: those of the architecture, or else those of all.
///
/// # Errors
/// Lines that are no `DIGEST  PATH`.
pub(crate) fn outputs(
    checkout: &Checkout<'_>,
    dir: &str,
    name: &str,
    arch: &str,
) -> Result<Option<BTreeMap<String, String>>, Vec<Diagnostic>> {
    for path in [
        format!("{dir}/{name}.{arch}.checksums"),
        format!("{dir}/{name}.checksums"),
    ] {
        if let Some(file) = checkout.text(&path).map_err(|e| vec![*e])? {
            return read(&file).map(Some);
        }
    }
    Ok(None)
}

/// Reads a file as `sha256sum` writes it, and returns digests by name.
///
/// # Errors
/// Lines that are something else.
pub(crate) fn read(
    file: &std::sync::Arc<SourceFile>,
) -> Result<BTreeMap<String, String>, Vec<Diagnostic>> {
    let mut problems = Problems::in_file(file);
    let mut out = BTreeMap::new();
    let mut start = 0;
    for line in file.text.split('\n') {
        let place = start..start + line.len();
        start += line.len() + 1;
        // The `sha256sum` of stage0 and those of the steps look for a file whose name ends with it, and find none.
        if let Some(at) = line.find('\r') {
            let at = place.start + at;
            let message = "a carriage return in a list of pins is part of the name before it";
            let problem = problems.error("bootstrap-bad-pin", message, &Some(at..at + 1), "here");
            problems
                .add(problem.help(
                    "lines end with a line feed alone: `sed -i 's/\\r$//'` repairs the file",
                ));
            continue;
        }
        if line.trim().is_empty() {
            continue;
        }
        let is_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        match line.split_once(' ') {
            Some((digest, name)) if digest.len() == 64 && digest.bytes().all(is_hex) => {
                let name = name.trim().to_owned();
                out.entry(name).or_insert_with(|| digest.to_owned());
            }
            _ => {
                let problem = problems.error(
                    "bootstrap-bad-pin",
                    "a pin is not 64 digits of 0-9 and a-f and a name",
                    &Some(place),
                    "this line",
                );
                problems.add(problem.note("lines are as `sha256sum` writes them: `DIGEST  NAME`"));
            }
        }
    }
    let found = problems.finish();
    if found.is_empty() {
        Ok(out)
    } else {
        Err(found)
    }
}
