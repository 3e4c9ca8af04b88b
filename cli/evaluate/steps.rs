//! Trees of bootstrap steps as values: what `sos.bootstrap` gives, whether a directory or a recipe asked for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sos_formats::diagnostic::{Class, Diagnostic, suggest};
use sos_lang::{Arguments, Evaluator, Plain, Value};

use super::missing::missing;
use super::{Mode, cached, values};
use crate::args::{LockFlags, TargetArgs};
use crate::failure::Failure;
use crate::session::Session;
use crate::target::{Source, Target};

/// The attribute by which the value is known: what `sos.bootstrap` was called with.
const KNOWN_BY: &str = "bootstrap";

/// What `sos.bootstrap` was called with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    /// The directory that holds `steps/manifest`.
    pub(crate) tree: PathBuf,
    /// `NAME=VALUE` words.
    pub(crate) settings: Vec<String>,
    /// The first step is run by a shell that the root brings.
    pub(crate) shell: bool,
    /// Files from outside that steps see besides their own, by name of the step.
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

/// Tells whether a value is a tree of steps. Of one that cannot be evaluated it does not: who evaluates it says why.
pub(super) fn is_tree(evaluator: &Evaluator, value: Value) -> bool {
    asked_of(evaluator, value).is_some()
}

fn asked_of(evaluator: &Evaluator, value: Value) -> Option<Value> {
    if evaluator.type_of(value).ok()? != "set" {
        return None;
    }
    let asked = evaluator.attr(value, KNOWN_BY).ok()??;
    // Anybody may call an attribute so.
    evaluator.attr(value, "steps").ok()??;
    evaluator.attr(value, "pins").ok()??;
    (evaluator.type_of(asked).ok()? == "set").then_some(asked)
}

/// Returns the attribute of a target in a tree of steps. Names of steps have dots in them, and need no quotes.
///
/// # Errors
/// `eval-attr-missing`, with the passes that the step has.
pub(super) fn select(
    evaluator: &Evaluator,
    whole: Value,
    target: &Target,
    arguments: &Arguments,
) -> Result<Value, Box<Diagnostic>> {
    let names = |set: &str| -> Result<Vec<String>, Box<Diagnostic>> {
        match evaluator.attr(whole, set)? {
            Some(value) => evaluator.attr_names(value),
            None => Ok(Vec::new()),
        }
    };
    let steps = names("steps")?;
    let mut sets = Vec::new();
    // The commands of stage0, or the steps of an extension.
    if let Some((set, _)) = target.attr.split_once('.')
        && (set == "stage0" || set.starts_with("steps-"))
    {
        sets.push((set, names(set)?));
    }
    let attr = sos_recipes::bootstrap::attr_path(&target.attr, &steps, &sets);
    evaluator
        .select_with(whole, &attr, arguments)
        .map_err(|why| match why.code {
            "eval-attr-missing" => {
                let meant = Target {
                    attr,
                    ..target.clone()
                };
                no_pass(evaluator, whole, &meant)
                    .or_else(|| no_step(evaluator, whole, &meant, &steps))
                    .or_else(|| missing(evaluator, whole, &meant, arguments))
                    .unwrap_or(why)
            }
            _ => why,
        })
}

/// Says which passes a step has, of one that it has not. `pass2` is a pass, too, as scripts are called.
fn no_pass(evaluator: &Evaluator, whole: Value, target: &Target) -> Option<Box<Diagnostic>> {
    let parts = sos_lang::attr_path(&target.attr)?;
    let [set, step, pass, ..] = parts.as_slice() else {
        return None;
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let pass = pass.strip_prefix("pass").unwrap_or(pass);
    if !(set == "steps" || set.starts_with("steps-")) || !is_number(pass) {
        return None;
    }
    let steps = evaluator.attr(whole, set).ok()??;
    let root = evaluator.attr(steps, step).ok()??;
    let mut passes = evaluator.attr_names(root).ok()?;
    passes.retain(|name| is_number(name));
    passes.sort_by_key(|pass| (pass.len(), pass.clone()));
    let is_there = passes.iter().any(|known| known == pass);
    let message = match is_there {
        false => format!("step `{step}` has no pass {pass}"),
        // Asked for in other words, or for something that its root has not.
        true if parts.len() == 3 => format!("pass {pass} of `{step}` is `{set}.{step}.{pass}`"),
        true => return None,
    };
    let note = match passes.as_slice() {
        [one] => format!("its only pass is {one}"),
        several => format!("its passes are {}", several.join(", ")),
    };
    let problem = Diagnostic::error("eval-attr-missing", Class::Recipe, message);
    Some(Box::new(problem.note(note)))
}

/// Says which step was looked for: the language would name the part before the first dot.
fn no_step(
    evaluator: &Evaluator,
    whole: Value,
    target: &Target,
    steps: &[String],
) -> Option<Box<Diagnostic>> {
    let parts = sos_lang::attr_path(&target.attr)?;
    let first = parts.first()?;
    let name = match target.attr.strip_prefix("steps.") {
        Some(name) if !steps.contains(parts.get(1)?) => name,
        None if evaluator.attr(whole, first).ok()?.is_none() => target.attr.as_str(),
        _ => return None,
    };
    let name = match name.strip_prefix('"').and_then(|name| name.split_once('"')) {
        Some((quoted, _)) => quoted.to_owned(),
        None => without_pass(&name.replace('"', ""), steps).to_owned(),
    };
    let message = format!("no step of `{}` is called `{name}`", place(&target.text));
    let problem = Diagnostic::error("eval-attr-missing", Class::Recipe, message)
        .note("`sos recipe show` lists the steps")
        .suggest(&name, steps.iter().map(String::as_str));
    Some(Box::new(problem))
}

/// The name of a step that is not there without the pass behind it. A number may also be the end of a version: then it belongs to the
/// name, as far as steps of nearly that name tell.
fn without_pass<'a>(name: &'a str, steps: &[String]) -> &'a str {
    let Some((step, pass)) = name.rsplit_once('.') else {
        return name;
    };
    let is_number = !pass.is_empty() && pass.bytes().all(|b| b.is_ascii_digit());
    let near = |name: &str| suggest(name, steps.iter().map(String::as_str));
    let has_version = || {
        let mut parts = step.split('-').skip(1);
        parts.any(|part| part.starts_with(|c: char| c.is_ascii_digit()))
    };
    let is_pass = match near(name).first() {
        // The number is one that the nearest step has not.
        Some(nearest) => nearest.matches('.').count() < name.matches('.').count(),
        None => !near(step).is_empty() || !has_version(),
    };
    if is_number && is_pass { step } else { name }
}

/// The part of a target before its attribute.
fn place(text: &str) -> &str {
    match text.split_once('#') {
        Some(("", _)) => ".",
        Some((place, _)) => place,
        None => text,
    }
}

/// Tells whether one of the targets is, or is in, a tree of steps.
///
/// # Errors
/// Problems of the recipes.
pub(crate) fn any_tree(
    session: &Session,
    args: &TargetArgs,
    targets: &[Target],
    mode: &Mode,
) -> Result<bool, Failure> {
    if targets
        .iter()
        .any(|target| matches!(target.source, Source::Bootstrap(_)))
    {
        return Ok(true);
    }
    // What the whole recipe is says whether an attribute of it is a step.
    let whole: Vec<Target> = targets
        .iter()
        .filter(|target| matches!(target.source, Source::Nix(_)))
        .map(|target| Target {
            attr: String::new(),
            ..target.clone()
        })
        .collect();
    if whole.is_empty() {
        return Ok(false);
    }
    let evaluated = cached(session, args, &whole, mode, "is a tree", |e, value, _| {
        Ok(vec![u8::from(is_tree(e, value))])
    })?;
    Ok(evaluated.values.iter().any(|is| is.as_slice() == [1]))
}

/// Returns what a recipe calls `sos.bootstrap` with; nothing when it gives something else, or `place` names no recipe.
///
/// # Errors
/// Problems of the recipe.
pub(crate) fn asked(
    session: &Session,
    place: &Path,
    set: &[String],
) -> Result<Option<Asked>, Failure> {
    let store_dir = session.store_dir()?;
    let target = Target::parse(&place.display().to_string(), store_dir.as_str());
    let Some(target) = target.ok().filter(|t| matches!(t.source, Source::Nix(_))) else {
        return Ok(None);
    };
    let args = TargetArgs {
        set: set.to_vec(),
        ..TargetArgs::default()
    };
    let mode = Mode::planning(LockFlags::default());
    let found = values(session, &args, &[target], &mode, |e, value, _| {
        let Some(asked) = asked_of(e, value) else {
            return Ok(None);
        };
        let plain = |name: &str| -> Result<Option<Plain>, Box<Diagnostic>> {
            e.attr(asked, name)?.map(|v| e.to_plain(v)).transpose()
        };
        let tree = match plain("tree")? {
            Some(Plain::Path(tree)) => tree,
            Some(Plain::Str { s, .. }) => PathBuf::from(String::from_utf8_lossy(&s).into_owned()),
            _ => return Ok(None),
        };
        let mut extra = BTreeMap::new();
        if let Some(Plain::Attrs(all)) = plain("extraDistfiles")? {
            extra.extend(all.into_iter().map(|(step, files)| (step, texts(files))));
        }
        Ok(Some(Asked {
            tree,
            settings: plain("settings")?.map(texts).unwrap_or_default(),
            shell: plain("shell")? == Some(Plain::Bool(true)),
            extra,
        }))
    })?;
    Ok(found.values.into_iter().flatten().next())
}

/// The strings of a list.
fn texts(list: Plain) -> Vec<String> {
    let Plain::List(list) = list else {
        return Vec::new();
    };
    let text = |one| match one {
        Plain::Str { s, .. } => String::from_utf8(s).ok(),
        _ => None,
    };
    list.into_iter().filter_map(text).collect()
}
