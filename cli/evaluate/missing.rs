//! What is said of an attribute that a target names and nobody defines.

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_lang::{Arguments, Evaluator, Value};

use crate::target::{Source, Target};

/// Refuses an attribute that no rootfs recipe has before its packages are looked for.
pub(super) fn known_attribute(target: &Target) -> Result<(), Box<Diagnostic>> {
    let first = target.attr.split('.').next().unwrap_or_default();
    let first = first.trim_matches('"');
    let shown = sos_recipes::ROOTFS_TARGETS;
    let mut known = shown.iter().chain(sos_recipes::ROOTFS_ATTRS);
    if first.is_empty() || known.any(|known| *known == first) {
        return Ok(());
    }
    let problem = Diagnostic::error(
        "eval-attr-missing",
        Class::Recipe,
        format!("attribute `{first}` of `{}` not found", target.text),
    )
    .note(format!("a rootfs recipe has `{}`", shown.join("`, `")))
    .suggest(first, shown.iter().copied());
    Err(Box::new(problem))
}

/// Names of a set that are listed.
const NAMES_SHOWN: usize = 10;

/// Says of an attribute that is missing where it was looked for and what is there. Nothing when it is there after all.
pub(super) fn missing(
    evaluator: &Evaluator,
    whole: Value,
    target: &Target,
    arguments: &Arguments,
) -> Option<Box<Diagnostic>> {
    let parts = sos_lang::attr_path(&target.attr)?;
    let mut set = evaluator.auto_call(whole, arguments).ok()?;
    let mut way: Vec<&str> = Vec::new();
    for part in &parts {
        if evaluator.type_of(set).ok()? != "set" {
            // An element of a list is named by its number: what the language says of it is enough.
            return None;
        }
        let names = evaluator.attr_names(set).ok()?;
        if let Some(value) = evaluator.attr(set, part).ok()? {
            set = evaluator.auto_call(value, arguments).ok()?;
            way.push(part);
            continue;
        }
        let file = match &target.source {
            Source::Nix(file) => {
                let here = std::env::current_dir().unwrap_or_default();
                let shown = file.strip_prefix(&here).unwrap_or(file);
                format!(" of `{}`", shown.display())
            }
            Source::Expression(_) => " of the expression".to_owned(),
            _ => String::new(),
        };
        let place = if way.is_empty() {
            file
        } else {
            format!(" of `{}`{}", way.join("."), file.replacen(" of", " in", 1))
        };
        let problem = Diagnostic::error(
            "eval-attr-missing",
            Class::Recipe,
            format!("attribute `{part}`{place} not found"),
        );
        let total = names.len();
        let listed = listed(evaluator, set, &names);
        let note = match total - listed.len() {
            _ if total == 0 => "the set is empty".to_owned(),
            0 => format!("it has `{}`", listed.join("`, `")),
            more => format!("it has `{}` and {more} more", listed.join("`, `")),
        };
        return Some(Box::new(
            problem
                .note(note)
                .suggest(part, names.iter().map(String::as_str)),
        ));
    }
    None
}

/// The first names of a set, those of derivations before the others.
fn listed(evaluator: &Evaluator, set: Value, names: &[String]) -> Vec<String> {
    let is_drv = |name: &String| {
        // A large set is not evaluated for the sake of a message.
        names.len() <= NAMES_LOOKED_AT
            && evaluator
                .attr(set, name)
                .ok()
                .flatten()
                .and_then(|value| evaluator.attr(value, "type").ok().flatten())
                .and_then(|kind| evaluator.to_str(kind).ok())
                .is_some_and(|(text, _)| text == b"derivation")
    };
    let (drvs, others): (Vec<&String>, Vec<&String>) = names.iter().partition(|name| is_drv(name));
    let all = drvs.into_iter().chain(others);
    all.take(NAMES_SHOWN).cloned().collect()
}

/// A set with more names is not looked into.
const NAMES_LOOKED_AT: usize = 200;
