//! What the media of a bootstrap without a kernel hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_lang::{FileType, Host, Plain};

use super::checkout::{Checkout, Result};
use super::files::{Files, at_source, at_text};
use super::lower::distfile;
use super::manifest;
use super::plan::{Settings, extensions, known_extension, starting_variables};
use super::sources::{self, Digests, Distfile};
use super::stage0;
use super::variables::{Mode, Variables};
use crate::plain::{Set, text, texts};
use crate::problems::Problems;

/// The directive behind which files come from the payload.
const IMPORT: &str = "import_payload";
/// Where the boot loader is in a checkout.
const LOADER: &str = "builder-hex0/builder-hex0-x86";

/// Returns what `bootstrap.nix` makes the image of: its boot loader, its files, and the commands that run first.
///
/// # Errors
/// Problems of what the checkout says; an architecture that the boot loader is not for.
pub(crate) fn image(
    checkout: &Checkout<'_>,
    settings: &Settings,
) -> std::result::Result<Plain, Vec<Diagnostic>> {
    let variables = variables(checkout, settings)?;
    let one = |e: Box<Diagnostic>| vec![*e];
    let trees = trees(checkout, &variables)?;
    let mut files = files(checkout, &trees).map_err(one)?;
    files.push(at_text("/steps/bootstrap.cfg", &variables.to_cfg()));
    let split = split(checkout, &trees)?;
    let stage = |n: u8| {
        let path = format!("{LOADER}-stage{n}.hex0");
        match checkout.resolve(&path)? {
            Some(real) => Ok(Plain::Path(checkout.absolute(&real))),
            None => Err(Box::new(checkout.missing(&path).help(
                "the boot loader is a submodule: `git submodule update --init builder-hex0` fetches it",
            ))),
        }
    };
    Ok(Set::new()
        .with("stage1", stage(1).map_err(one)?)
        .with("stage2", stage(2).map_err(one)?)
        .with("files", Plain::List(files))
        .with("commands", texts(COMMANDS))
        .with("distfiles", lowered(&split.image))
        .done())
}

/// Returns what `bootstrap.nix` makes the payload of: its files, if the manifest, which is named, imports one.
///
/// # Errors
/// As those of [`image`].
pub(crate) fn payload_image(
    checkout: &Checkout<'_>,
    settings: &Settings,
) -> std::result::Result<Plain, Vec<Diagnostic>> {
    let variables = variables(checkout, settings)?;
    let split = split(checkout, &trees(checkout, &variables)?)?;
    Ok(Set::new()
        .with_some("files", split.payload.as_deref().map(lowered))
        .with("manifest", text(checkout.shown("steps/manifest")))
        .done())
}

fn lowered(list: &[Distfile]) -> Plain {
    Plain::List(list.iter().map(distfile).collect())
}

/// The variables of a medium, which is for x86.
fn variables(
    checkout: &Checkout<'_>,
    settings: &Settings,
) -> std::result::Result<Variables, Vec<Diagnostic>> {
    let variables = starting_variables(checkout, &of_kernel(settings))?;
    let arch = variables.get("ARCH");
    if arch != "x86" {
        let message = format!("builder-hex0 boots x86 alone, and ARCH is `{arch}`");
        let problem = Diagnostic::error("bootstrap-arch", Class::Recipe, message)
            .help("leave `--set ARCH` out: x86 is what a tree is for without it");
        return Err(vec![problem]);
    }
    Ok(variables)
}

/// Returns the files of the payload of the checkout at `root`, which messages call `shown`; nothing when its manifest imports none.
///
/// # Errors
/// Problems of the manifests and of the lists of sources.
pub fn payload(
    host: &dyn Host,
    root: &Path,
    shown: &str,
    settings: &Settings,
) -> std::result::Result<Option<Vec<Distfile>>, Vec<Diagnostic>> {
    let checkout = Checkout::open(host, root, shown).map_err(|e| vec![*e])?;
    let variables = starting_variables(&checkout, &of_kernel(settings))?;
    let trees = trees(&checkout, &variables)?;
    Ok(split(&checkout, &trees)?.payload)
}

/// A medium is for a machine without a kernel unless something else is said.
fn of_kernel(settings: &Settings) -> Settings {
    Settings {
        mode: Some(settings.mode.unwrap_or(Mode::Kernel)),
        ..settings.clone()
    }
}

/// What makes the seeds from their sources, and begins: there are no programs on the medium but the boot sector.
const COMMANDS: [&str; 7] = [
    "src 0 /bootstrap-seeds",
    "src 0 /bootstrap-seeds/POSIX",
    "src 0 /bootstrap-seeds/POSIX/x86",
    "hex0 /x86/hex0_x86.hex0 /bootstrap-seeds/POSIX/x86/hex0-seed",
    "hex0 /x86/kaem-minimal.hex0 /bootstrap-seeds/POSIX/x86/kaem-optional-seed",
    "hex0 /x86/kaem-minimal.hex0 /init",
    "/bootstrap-seeds/POSIX/x86/kaem-optional-seed /kaem.x86",
];

/// The main tree, and the extensions that run after it: the main manifest may ask for one, too.
fn trees(
    checkout: &Checkout<'_>,
    variables: &Variables,
) -> std::result::Result<Vec<String>, Vec<Diagnostic>> {
    let main = checkout.need_text("steps/manifest").map_err(|e| vec![*e])?;
    let mut problems = Problems::in_file(&main);
    let mut after = variables.clone();
    manifest::interpret(&main.text, &mut after, &mut problems);
    let problems = problems.finish();
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut trees = vec!["steps".to_owned()];
    for extension in extensions(&after) {
        known_extension(checkout, &extension).map_err(|e| vec![*e])?;
        trees.push(extension);
    }
    Ok(trees)
}

/// stage0 without its programs, the files of the seed over it, and the steps of every tree.
fn files(checkout: &Checkout<'_>, trees: &[String]) -> Result<Vec<Plain>> {
    let mut placed: BTreeMap<String, Plain> = BTreeMap::new();
    for (name, _) in checkout.list(stage0::DIR)? {
        if name != "bootstrap-seeds" && !name.contains(".git") {
            let at = format!("/{name}");
            placed.insert(
                name.clone(),
                at_source(checkout, &at, &format!("{}/{name}", stage0::DIR)),
            );
        }
    }
    for (name, kind) in checkout.list("seed")? {
        if kind == FileType::Regular {
            let at = format!("/{name}");
            placed.insert(
                name.clone(),
                at_source(checkout, &at, &format!("seed/{name}")),
            );
        }
    }
    let mut steps = Files::new(checkout);
    for tree in trees {
        steps.dir(&format!("/{tree}"), tree, 0)?;
    }
    let steps = steps.found.iter().map(|shown| shown.to_plain(checkout));
    Ok(placed.into_values().chain(steps).collect())
}

struct Split {
    image: Vec<Distfile>,
    /// None when the manifest has no place where a payload is imported.
    payload: Option<Vec<Distfile>>,
}

/// Tells which files from outside go where. Predicates do not count, as upstream has it: a medium is made before they are known.
/// Extensions come after the whole main tree, so that theirs are of the payload if there is one, and of nothing once steps in the
/// main tree have a network.
fn split(checkout: &Checkout<'_>, trees: &[String]) -> std::result::Result<Split, Vec<Diagnostic>> {
    let mut lines: Vec<(&str, Vec<String>)> = Vec::new();
    for tree in trees {
        let manifest = checkout
            .need_text(&format!("{tree}/manifest"))
            .map_err(|e| vec![*e])?;
        let words = |line: &str| -> Vec<String> {
            let line = line.split('#').next().unwrap_or_default();
            line.split(' ').map(str::to_owned).collect()
        };
        lines.extend(
            manifest
                .text
                .lines()
                .map(|line| (tree.as_str(), words(line))),
        );
    }
    let mut found = Split {
        image: Vec::new(),
        payload: None,
    };
    let is = |line: &[String], kind: &str| line.first().is_some_and(|word| word == kind);
    let imports = lines.iter().any(|(tree, line)| {
        // What an extension imports, the image would have to hold: it is asked for too late.
        *tree == "steps" && is(line, "improve:") && line.get(1).is_some_and(|name| name == IMPORT)
    });
    let mut seen = BTreeSet::new();
    let mut digests = Digests::default();
    let mut steps = BTreeSet::new();
    let mut online = false;
    for (tree, line) in &lines {
        let Some(name) = line.get(1) else { continue };
        if is(line, "improve:") {
            if imports && name == IMPORT {
                found.payload.get_or_insert_default();
            }
            online |= !imports && name.contains("network");
        }
        let sources = format!("{tree}/{name}/sources");
        if !is(line, "build:") || online || !steps.insert(sources.clone()) {
            continue;
        }
        let Some(file) = checkout.text(&sources).map_err(|e| vec![*e])? else {
            continue;
        };
        let mut problems = Problems::in_file(&file);
        let files = sources::read(&file, &mut digests, &mut problems);
        let problems = problems.finish();
        if !problems.is_empty() {
            return Err(problems);
        }
        for file in files {
            if seen.insert(file.name.clone()) {
                found
                    .payload
                    .as_mut()
                    .unwrap_or(&mut found.image)
                    .push(file);
            }
        }
    }
    Ok(found)
}
