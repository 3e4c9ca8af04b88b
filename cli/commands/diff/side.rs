//! What is compared: from a word on the command line to everything that is known of it.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use serde_json::Value;
use sos_builders::oci::{self, Image};
use sos_formats::deb::Paragraphs;
use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;
use sos_store::compare::{ItemKind, Snapshot};
use sos_store::{BuildId, BuildRecord, ObjectKind, PathInfo, Store};

use super::target_args;
use crate::args::LockFlags;
use crate::commands::{build, builds, store as store_verb};
use crate::evaluate::{self, Item, Mode};
use crate::failure::Failure;
use crate::session::Session;

/// Where Debian keeps what is installed.
const DPKG_STATUS: &[u8] = b"var/lib/dpkg/status";
/// A longer list of packages is none.
const STATUS_BYTES_MAX: u64 = 256 << 20;

/// One side of a comparison.
pub(super) struct Side {
    /// As the person named it.
    pub(super) name: String,
    /// What it is: `tree`, `rootfs`, `image`, `directory`.
    pub(super) kind: &'static str,
    /// Where it is.
    pub(super) path: String,
    /// Everything in it.
    pub(super) files: Snapshot,
    /// Versions of what is installed in it.
    pub(super) packages: BTreeMap<String, String>,
    /// Versions of the store objects that it needs at run time, itself left out.
    pub(super) closure: BTreeMap<String, String>,
    /// Bytes of all of them.
    pub(super) closure_bytes: Option<u64>,
    /// What built it.
    pub(super) drv: Option<Derivation>,
    /// Keeps the unpacked layers.
    _image: Option<Image>,
}

/// Finds a side and reads it.
pub(super) fn find(session: &Session, text: &str, lock: LockFlags) -> Result<Side, Failure> {
    let store = session.store()?;
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && !Path::new(text).exists() {
        let path = of_build(store, text)?;
        return of_object(store, text, &path);
    }
    let logical = store_verb::logical(store, text);
    let prefix = format!("{}/", store.store_dir());
    if logical.starts_with(&prefix) && !text.contains(['#', '^']) {
        let (path, rest) = StorePath::split_absolute(store.store_dir(), &logical)?;
        if rest.trim_matches('/').is_empty() && !path.name().ends_with(".drv") {
            return of_object(store, text, &path);
        }
    }
    let (place, tag) = match text.rsplit_once(':') {
        Some((dir, tag)) if oci::is_layout(Path::new(dir)) => (dir, Some(tag)),
        _ => (text, None),
    };
    let place = Path::new(place);
    if oci::is_layout(place) {
        return of_image(store, text, place, tag);
    }
    let is_recipe = |dir: &Path| {
        ["sos.nix", "flake.nix"]
            .iter()
            .any(|f| dir.join(f).is_file())
            || has_rootfs_recipe(dir)
    };
    if place.is_dir() && !is_recipe(place) {
        let files = Snapshot::of_tree(place)?;
        return plain(store, text, "directory", place.display().to_string(), files);
    }
    of_target(session, store, text, lock)
}

fn has_rootfs_recipe(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|entries| {
        let mut names = entries.flatten().map(|e| e.file_name());
        names.any(|name| name.to_string_lossy().ends_with(".rootfs.toml"))
    })
}

/// What a build in the journal gave.
fn of_build(store: &Store, number: &str) -> Result<StorePath, Failure> {
    let id = number.parse().unwrap_or(i64::MAX);
    let record = builds::find(store, id)?;
    let events = store.build_events(BuildId(id))?;
    let outputs: Vec<String> = events
        .iter()
        .rev()
        .filter_map(|event| serde_json::from_str::<Value>(event).ok())
        .find(|event| event["type"] == "summary")
        .and_then(|event| serde_json::from_value(event["outputs"].clone()).ok())
        .unwrap_or_default();
    match outputs.as_slice() {
        [one] => Ok(StorePath::from_absolute(store.store_dir(), one)?),
        [] => Err(Failure::new(
            Diagnostic::error(
                "diff-no-result",
                Class::Other,
                format!("build {number} gave nothing: {}", ended(&record)),
            )
            .help(format!("`sos builds {number}` tells what became of it")),
        )),
        several => Err(Failure::new(
            Diagnostic::error(
                "diff-several-results",
                Class::Usage,
                format!("build {number} gave {} results", several.len()),
            )
            .note(several.join("\n"))
            .help("name one of them"),
        )),
    }
}

/// How a build without a result ended.
fn ended(record: &BuildRecord) -> &'static str {
    match builds::status(record) {
        "running" => "it is still running",
        "interrupted" | "killed" => "it was interrupted",
        "failed" => "it failed",
        _ => "it had nothing to make",
    }
}

fn of_target(
    session: &Session,
    store: &Store,
    text: &str,
    lock: LockFlags,
) -> Result<Side, Failure> {
    let args = target_args(text);
    let targets = evaluate::targets(session, &args)?;
    let evaluated = build::resolve(session, &args, &targets, &Mode::planning(lock))?;
    let items: Vec<Item> = evaluated.values.into_iter().flatten().collect();
    let [item] = items.as_slice() else {
        return Err(Failure::new(Diagnostic::error(
            "diff-several-results",
            Class::Usage,
            format!("`{text}` is {} derivations, expected one", items.len()),
        )));
    };
    let (drv, outputs) = match item {
        Item::Object(path) => return of_object(store, text, path),
        Item::Derivation { drv, outputs } => (drv, outputs),
    };
    let derivation = match evaluated.graph.texts.get(drv) {
        Some(aterm) => Some(aterm.to_vec()),
        None => store.get_drv(drv)?,
    }
    .and_then(|aterm| Derivation::parse_aterm(&aterm, store.store_dir()).ok())
    .or_else(|| evaluated.graph.drvs.get(drv).map(|drv| (**drv).clone()));
    let known = |output: &str| -> Result<Option<StorePath>, Failure> {
        if let Some(path) = store.drv_output(drv, output)? {
            return Ok(Some(path));
        }
        let name = Derivation::name_from_path(drv);
        let told = derivation
            .as_ref()
            .and_then(|d| d.output_path(store.store_dir(), name, output));
        match told {
            Some(path) if store.is_valid(&path)? => Ok(Some(path)),
            _ => Ok(None),
        }
    };
    let output = outputs.first().map_or("out", String::as_str);
    let Some(path) = known(output)? else {
        return Err(Failure::new(
            Diagnostic::error(
                "diff-not-built",
                Class::Other,
                format!("`{text}` is not in the store as it is now"),
            )
            .help(format!("`sos build {text}` makes it")),
        ));
    };
    let mut side = of_object(store, text, &path)?;
    side.drv = derivation.or(side.drv);
    Ok(side)
}

fn of_object(store: &Store, name: &str, path: &StorePath) -> Result<Side, Failure> {
    let info = store.query(path)?;
    let info = info.ok_or_else(|| store_verb::not_there(store, path))?;
    let place = store.physical(path);
    let mut side = if info.kind == ObjectKind::Tree && oci::is_layout(&place) {
        of_image(store, name, &place, None)?
    } else {
        let files = Snapshot::of_object(store, &info)?;
        plain(store, name, store_verb::kind(&info), String::new(), files)?
    };
    side.path = path.absolute(store.store_dir());
    side.drv = derivation_of(store, &info)?;
    let mut bytes = 0;
    for member in store.closure(std::slice::from_ref(path))? {
        bytes += store.query(&member)?.map_or(0, |info| info.nar_size);
        if member == *path {
            continue;
        }
        let (name, version) = split_version(member.name());
        let versions = side.closure.entry(name.to_owned()).or_default();
        if !versions.is_empty() {
            versions.push_str(", ");
        }
        versions.push_str(if version.is_empty() {
            member.hash_str()
        } else {
            version
        });
    }
    side.closure_bytes = Some(bytes);
    Ok(side)
}

fn derivation_of(store: &Store, info: &PathInfo) -> Result<Option<Derivation>, Failure> {
    let traces = store.traces_of(&info.path)?;
    let last = traces.into_iter().last().map(|record| record.trace.drv);
    let Some(drv) = last.or_else(|| info.deriver.clone()) else {
        return Ok(None);
    };
    let aterm = store.get_drv(&drv)?;
    Ok(aterm.and_then(|aterm| Derivation::parse_aterm(&aterm, store.store_dir()).ok()))
}

fn of_image(store: &Store, name: &str, place: &Path, tag: Option<&str>) -> Result<Side, Failure> {
    let mut image = oci::read(store, place, tag)?;
    let files = std::mem::take(&mut image.files);
    let mut side = plain(store, name, "image", place.display().to_string(), files)?;
    // What is run, and in what environment, is a difference of its own.
    let config = image.config["config"].as_object();
    for (key, value) in config.into_iter().flatten() {
        side.packages
            .insert(format!("image configuration {key}"), value.to_string());
    }
    side._image = Some(image);
    Ok(side)
}

fn plain(
    store: &Store,
    name: &str,
    kind: &'static str,
    path: String,
    files: Snapshot,
) -> Result<Side, Failure> {
    Ok(Side {
        name: name.to_owned(),
        kind,
        path,
        packages: packages(store, &files)?,
        files,
        closure: BTreeMap::new(),
        closure_bytes: None,
        drv: None,
        _image: None,
    })
}

/// What dpkg says is installed; nothing where there is no dpkg.
fn packages(store: &Store, files: &Snapshot) -> Result<BTreeMap<String, String>, Failure> {
    let mut found = BTreeMap::new();
    let Some(item) = files.entries.get(DPKG_STATUS) else {
        return Ok(found);
    };
    if !matches!(item.kind, ItemKind::File { .. }) {
        return Ok(found);
    }
    let mut bytes = Vec::new();
    if let Some(file) = item.open(store)? {
        file.take(STATUS_BYTES_MAX)
            .read_to_end(&mut bytes)
            .map_err(|e| Failure::io("cannot read the list of packages", &e))?;
    }
    let text = String::from_utf8_lossy(&bytes);
    for paragraph in Paragraphs::new(&text) {
        // A list that is broken in the middle still tells of what comes before.
        let Ok(paragraph) = paragraph else { break };
        let (Some(name), Some(version)) = (paragraph.get("Package"), paragraph.get("Version"))
        else {
            continue;
        };
        let installed = paragraph
            .get("Status")
            .is_some_and(|status| status.ends_with(" installed"));
        if !installed {
            continue;
        }
        let architecture = paragraph.get("Architecture").unwrap_or("all");
        let key = if found.contains_key(name) {
            format!("{name}:{architecture}")
        } else {
            name.to_owned()
        };
        found.insert(key, version.to_owned());
    }
    Ok(found)
}

/// Splits `glibc-2.39` at the first dash that a digit follows, as Nix does.
fn split_version(name: &str) -> (&str, &str) {
    let bytes = name.as_bytes();
    let dash = (0..bytes.len().saturating_sub(1))
        .find(|at| bytes[*at] == b'-' && bytes[at + 1].is_ascii_digit());
    dash.map_or((name, ""), |at| (&name[..at], &name[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_names() {
        assert_eq!(split_version("glibc-2.39"), ("glibc", "2.39"));
        assert_eq!(split_version("gcc-wrapper-13.2"), ("gcc-wrapper", "13.2"));
        assert_eq!(split_version("source"), ("source", ""));
        assert_eq!(split_version("x-"), ("x-", ""));
    }
}
