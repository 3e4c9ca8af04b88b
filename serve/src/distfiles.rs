//! Files that are pinned by the hash of their content, each under its name: what recipes fetch from the network.
//!
//! The name is that of the file, and not of its store path, which may hold fewer characters. Scripts put names behind the address as
//! they are, programs write them as URLs have them; both find the file.

use std::collections::BTreeMap;

use hyper::StatusCode;
use sos_formats::file_name::{of_store, to_store};
use sos_formats::hash::{Hash, Sha256};
use sos_store::{ObjectKind, PathInfo, Store};

use crate::answer::{Answer, Cache};
use crate::files;
use crate::mirror::Mirror;

/// `/<NAME>`: the first of `names` that a file has.
pub(crate) fn answer(mirror: &Mirror, names: &[String]) -> Answer {
    let mut found = Vec::new();
    let mut name = "";
    for asked in names {
        name = asked;
        match named(mirror, name) {
            Ok(files) => found = files,
            Err(error) => return Answer::broken(&error.to_string()),
        }
        if !found.is_empty() {
            break;
        }
    }
    let one = match found.as_slice() {
        [] => return Answer::missing(),
        [one] => one,
        several => {
            let mut text = format!(
                "`{name}` is the name of {} files with different content:",
                several.len()
            );
            for info in several {
                text.push_str(&format!("\n  {}", pin(info)));
            }
            text.push_str("\nserve the recipe of one of them, from a store of its own if need be");
            return Answer::plain(StatusCode::CONFLICT, &text);
        }
    };
    // Open is as good as held: what is open stays until it is closed.
    match files::open_inside(&mirror.store.physical(&one.path), &[]) {
        Ok((file, size)) => {
            let answer = Answer::file(file, size, "application/octet-stream");
            // The name may stand for another file one day.
            let answer = answer.keep(Cache::Short);
            match one.nar_sha256 {
                Some(hash) => answer.tagged(&hash.to_hex()),
                None => answer,
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Answer::missing(),
        Err(error) => Answer::broken(&error.to_string()),
    }
}

/// Whether a file has one of the names.
pub(crate) fn is_any(mirror: &Mirror, names: &[String]) -> bool {
    let mut names = names.iter();
    names.any(|name| named(mirror, name).is_ok_and(|found| !found.is_empty()))
}

/// The files of a name; more than one when they differ. What the targets pin goes before what else is in the store.
fn named(mirror: &Mirror, name: &str) -> sos_store::Result<Vec<PathInfo>> {
    let mut found = mirror.store.query_name(&to_store(name))?;
    found.retain(is_pinned);
    if found.is_empty() {
        // No file of that name: then what somebody has called the path itself so.
        found = mirror.store.query_name(name)?;
        found.retain(is_pinned);
    }
    if found
        .iter()
        .any(|info| mirror.offers.pins.contains(&info.path))
    {
        found.retain(|info| mirror.offers.pins.contains(&info.path));
    }
    // Pins by different algorithms may mean the same content.
    let mut seen: Vec<Option<Sha256>> = Vec::new();
    found.retain(|info| {
        let new = !seen.contains(&info.nar_sha256);
        seen.push(info.nar_sha256);
        new
    });
    Ok(found)
}

/// Whether the path of an object says the hash of a single file.
fn is_pinned(info: &PathInfo) -> bool {
    let hash = info.ca.as_deref().and_then(|ca| ca.strip_prefix("fixed:"));
    let flat = hash.is_some_and(|hash| hash.split(':').count() == 2);
    info.kind == ObjectKind::Tree && flat
}

/// The hash by which an object is pinned, in the digits that lists of sources have.
pub(crate) fn pin(info: &PathInfo) -> String {
    let ca = info.ca.as_deref().unwrap_or_default();
    let pin = ca.strip_prefix("fixed:").unwrap_or(ca);
    match Hash::parse_any(pin, None) {
        Ok(hash) => format!("{}:{}", hash.algo().as_str(), hash.to_hex()),
        Err(_) => pin.to_owned(),
    }
}

/// All pinned files by name.
pub(crate) fn all(store: &Store) -> sos_store::Result<BTreeMap<String, Vec<PathInfo>>> {
    let mut found: BTreeMap<String, Vec<PathInfo>> = BTreeMap::new();
    for info in store.list()?.into_iter().filter(is_pinned) {
        found
            .entry(of_store(info.path.name()))
            .or_default()
            .push(info);
    }
    Ok(found)
}
