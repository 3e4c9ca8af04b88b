//! Why something is built: the new derivation is compared with what was built before in its place.

mod alike;
mod compare;
mod files;
mod history;
mod kinds;
mod pairing;
mod text;
mod written;

use std::collections::{BTreeMap, BTreeSet};

use sos_formats::derivation::Derivation;
use sos_formats::store_path::StorePath;
use sos_store::{BuildId, Built, Step, Store, StoreError};

use crate::event::Text;
use crate::journal::StepDetail;
use crate::resolve::{OutputPaths, Resolved, resolve};
use alike::{Alike, read_kept};
use compare::{Difference, Side};
use history::built_of;
pub(crate) use history::{History, noted_name};
pub use kinds::{Cause, Causes, ChangedFile, Only};
pub use text::TextChange;

/// Earlier builds of one name that are compared with; the closest one is taken.
const COMPARED: u32 = 64;

/// Runs that are looked at for a failure of one derivation.
const TRIED: u32 = 16;

/// Files of one source that are named; of more only the number is told.
const FILES_NAMED: usize = 16;

/// A derivation whose cause is asked for.
pub(crate) struct Asked<'a> {
    pub(crate) path: &'a StorePath,
    pub(crate) drv: &'a Derivation,
    pub(crate) resolved: &'a Resolved,
    /// What its inputs made.
    pub(crate) inputs: &'a OutputPaths,
    /// Outputs that are needed of it.
    pub(crate) outputs: &'a BTreeSet<String>,
    pub(crate) history: &'a History,
}

/// Tells whether a derivation is built for the first time, where that can be told by its name alone.
pub(crate) fn is_first(
    store: &Store,
    history: &History,
    drv: &StorePath,
) -> Result<Option<Causes>, StoreError> {
    let is_known =
        history.knows(Derivation::name_from_path(drv)) || history.before.contains_key(drv);
    if is_known || !store.drv_outputs(drv)?.is_empty() {
        return Ok(None);
    }
    let first = match failed_before(store, history, drv)? {
        None => Cause::NeverBuilt,
        Some(step) if step.drv == *drv => Cause::FailedBefore {
            build: step.build.0,
            earlier: false,
        },
        // What was changed since then is not told by its name.
        Some(_) => return Ok(None),
    };
    Ok(Some(Causes {
        at: history.place(drv),
        ..first.into()
    }))
}

/// The last failure of what never succeeded, or of its earlier form.
fn failed_before(
    store: &Store,
    history: &History,
    drv: &StorePath,
) -> Result<Option<Step>, StoreError> {
    let has_failed = |step: &Step| step.status == "failed";
    let same = store.steps_of_drv(drv, BuildId(i64::MAX), TRIED)?;
    if let Some(step) = same.into_iter().find(has_failed) {
        return Ok(Some(step));
    }
    // Its earlier form, which was corrected since; other projects have derivations of the same names, and so has this one.
    let name = Derivation::name_from_path(drv);
    let named = store.steps_named(name)?.into_iter();
    let attr = history.attr(drv);
    let may_be = |step: &Step| {
        let other_attr = matches!((&step.attr, attr), (Some(was), Some(is)) if was != is);
        step.name == name && has_failed(step) && !other_attr && !history.is_of_another(&step.drv)
    };
    for step in named.filter(may_be) {
        let run = store.build_record(step.build)?;
        if run.is_some_and(|run| run.project == history.project)
            && history.shares_recipe(store, drv, &step.drv)?
        {
            return Ok(Some(step));
        }
    }
    Ok(None)
}

/// The cause of what never succeeded: it may have been tried, and changed since.
fn first_time(
    store: &Store,
    asked: &Asked<'_>,
    new: &Side<'_>,
    from: &dyn Fn(&StorePath) -> Option<StorePath>,
) -> Result<Causes, StoreError> {
    let Some(step) = failed_before(store, asked.history, asked.path)? else {
        return Ok(Cause::NeverBuilt.into());
    };
    let earlier = step.drv != *asked.path;
    let failed = Causes::from(Cause::FailedBefore {
        build: step.build.0,
        earlier,
    });
    let old = if earlier {
        failed_form(store, &step)?
    } else {
        None
    };
    let Some(old) = old else {
        return Ok(failed);
    };
    let old = Side {
        name: &step.name,
        drv: &old,
    };
    let read = |drv: &StorePath| read_kept(store, drv);
    let alike = Alike::new(store, &step.drv, from, Some(&asked.history.before), &read);
    let in_common = |old: &StorePath, new: &StorePath| alike.in_common(old, new);
    let Some(found) = compare::compare(store.store_dir(), &old, new, &in_common) else {
        // Of the same name, and no form of it.
        return Ok(Cause::NeverBuilt.into());
    };
    Ok(Causes {
        also: told(store, found, from)?,
        was: Some(Text::from(step.drv.absolute(store.store_dir()))),
        ..failed
    })
}

/// A derivation as its builder saw it when it failed; none when its text is not kept any more.
fn failed_form(store: &Store, step: &Step) -> Result<Option<Derivation>, StoreError> {
    let text = store.get_drv(&step.drv)?;
    let drv = text.and_then(|text| Derivation::parse_aterm(&text, store.store_dir()).ok());
    let Some(mut drv) = drv else {
        return Ok(None);
    };
    let detail = step.detail.as_deref();
    let detail: Option<StepDetail> = detail.and_then(|text| serde_json::from_str(text).ok());
    let inputs = detail.map(|detail| detail.inputs).unwrap_or_default();
    let mut made = OutputPaths::new();
    for input in &inputs {
        let of = input
            .drv
            .as_deref()
            .and_then(|drv| StorePath::from_base(drv).ok());
        let outputs = of.as_ref().and_then(|of| drv.input_drvs.get(of));
        // Which of several it was, was not noted.
        if let (Some(of), Some(outputs), Ok(path)) =
            (of, outputs, StorePath::from_base(&input.path))
            && let Some(output) = outputs.first().filter(|_| outputs.len() == 1)
        {
            made.insert(of, BTreeMap::from([(output.clone(), path)]));
        }
    }
    // With the paths in its texts, which tell what an input is for.
    if let Ok(resolved) = resolve(store.store_dir(), &step.drv, &drv, &made) {
        return Ok(Some(resolved.drv));
    }
    if !inputs.is_empty() {
        let paths = inputs.iter().map(|input| StorePath::from_base(&input.path));
        drv.input_srcs = paths.filter_map(Result::ok).collect();
    }
    drv.input_drvs.clear();
    Ok(Some(drv))
}

/// The cause of what is there and built all the same, because somebody asked for it.
pub(crate) fn forced(store: &Store, history: &History, drv: &StorePath) -> Causes {
    Causes {
        at: history.place(drv),
        was: Some(Text::from(drv.absolute(store.store_dir()))),
        ..Cause::Forced.into()
    }
}

/// Tells why a derivation is built, from what the store remembers.
pub(crate) fn causes(store: &Store, asked: &Asked<'_>) -> Result<Causes, StoreError> {
    let found = causes_without_place(store, asked)?;
    let at = asked.history.place(asked.path);
    let read = if found.all().any(Cause::is_of_recipe) {
        asked.history.changed(at.as_ref())
    } else {
        Vec::new()
    };
    Ok(Causes { at, read, ..found })
}

fn causes_without_place(store: &Store, asked: &Asked<'_>) -> Result<Causes, StoreError> {
    let shown = |drv: &StorePath| Some(Text::from(drv.absolute(store.store_dir())));
    let mut same = store.built(asked.path)?;
    if same.is_none() {
        same = store.built_as(&asked.resolved.identity)?;
    }
    if let Some(same) = same {
        return Ok(Causes {
            was: shown(&same.drv),
            ..lost(store, asked, &same)?.into()
        });
    }
    if !store.drv_outputs(asked.path)?.is_empty() {
        // Built by an sos that noted no more than that.
        return Ok(Cause::OutputMissing.into());
    }
    let new = Side {
        name: Derivation::name_from_path(asked.path),
        drv: &asked.resolved.drv,
    };
    let made: BTreeMap<&StorePath, &StorePath> = asked
        .inputs
        .iter()
        .flat_map(|(drv, outputs)| outputs.values().map(move |path| (path, drv)))
        .collect();
    let from = |path: &StorePath| made.get(path).map(|drv| (*drv).clone());
    let Some((was, found)) = closest(store, asked, &new, &from)? else {
        return first_time(store, asked, &new, &from);
    };
    // Known content that nothing asks for otherwise than before: it is there no more.
    if found.is_empty()
        && new.drv.is_fixed()
        && let Some(same) = built_of(store, &was)?
    {
        return Ok(Causes {
            was: shown(&was),
            ..lost(store, asked, &same)?.into()
        });
    }
    Ok(Causes::of(told(store, found, &from)?, shown(&was)))
}

/// The earlier build that the new one is the next form of, with what differs.
fn closest(
    store: &Store,
    asked: &Asked<'_>,
    new: &Side<'_>,
    from: &dyn Fn(&StorePath) -> Option<StorePath>,
) -> Result<Option<(StorePath, Vec<Difference>)>, StoreError> {
    let history = asked.history;
    let compare = |old: &Built| compare_with(store, old, new, from, Some(&history.before));
    // What stood in the same place of the same graph needs no search.
    if let Some(before) = history.before.get(asked.path)
        && let Some(old) = built_of(store, before)?
        && let Some(found) = compare(&old)
    {
        return Ok(Some((old.drv, found)));
    }
    let noted = noted_name(&history.project, new.name);
    let before = store.built_before(&noted, &asked.drv.system, COMPARED)?;
    let mut found: Vec<(StorePath, Vec<Difference>)> = before
        .into_iter()
        .filter(|one| !history.is_of_another(&one.drv))
        .filter_map(|one| {
            let found = compare(&one)?;
            Some((one.drv, found))
        })
        .collect();
    // The first of equals is the newest.
    found.sort_by_key(|(_, found)| found.len());
    for (drv, found) in found {
        if history.shares_recipe(store, asked.path, &drv)? {
            return Ok(Some((drv, found)));
        }
    }
    Ok(None)
}

fn compare_with(
    store: &Store,
    old: &Built,
    new: &Side<'_>,
    from: &dyn Fn(&StorePath) -> Option<StorePath>,
    before: Option<&BTreeMap<StorePath, StorePath>>,
) -> Option<Vec<Difference>> {
    let dir = store.store_dir();
    let drv = Derivation::parse_aterm(old.aterm.as_deref()?, dir).ok()?;
    let side = Side {
        name: Derivation::name_from_path(&old.drv),
        drv: &drv,
    };
    let read = |drv: &StorePath| read_kept(store, drv);
    let alike = Alike::new(store, &old.drv, from, before, &read);
    let in_common = |old: &StorePath, new: &StorePath| alike.in_common(old, new);
    compare::compare(dir, &side, new, &in_common)
}

/// Tells in what two builds that were noted differ. `from` says which derivation made an input of the new one.
pub(crate) fn between(
    store: &Store,
    old: &StorePath,
    new: &StorePath,
    from: &dyn Fn(&StorePath) -> Option<StorePath>,
) -> Result<Option<Causes>, StoreError> {
    let dir = store.store_dir();
    let (Some(old), Some(new)) = (built_of(store, old)?, built_of(store, new)?) else {
        return Ok(None);
    };
    let Some(Ok(drv)) = new
        .aterm
        .as_deref()
        .map(|text| Derivation::parse_aterm(text, dir))
    else {
        return Ok(None);
    };
    let side = Side {
        name: Derivation::name_from_path(&new.drv),
        drv: &drv,
    };
    let Some(found) = compare_with(store, &old, &side, from, None) else {
        return Ok(None);
    };
    let was = Some(Text::from(old.drv.absolute(dir)));
    Ok(Some(Causes::of(told(store, found, from)?, was)))
}

/// Adds to inputs that differ what is known of them: where they come from, which files of them changed.
fn told(
    store: &Store,
    found: Vec<Difference>,
    from: &dyn Fn(&StorePath) -> Option<StorePath>,
) -> Result<Vec<Cause>, StoreError> {
    let dir = store.store_dir();
    let shown = |path: &StorePath| Text::from(path.absolute(dir));
    let mut all = Vec::with_capacity(found.len());
    for difference in found {
        let Cause::InputChanged { input, .. } = difference.cause else {
            all.push(difference.cause);
            continue;
        };
        let maker = difference.new.as_ref().and_then(from);
        let mut changes = Vec::new();
        let mut text = None;
        if let (Some(old), Some(new), None) = (&difference.old, &difference.new, &maker) {
            changes = files::changes(store, old, new)?;
            text = text::change(store, old, new)?;
        }
        let named = |change: &ChangedFile| !change.file.is_empty();
        let file = changes.first().filter(|c| named(c)).map(|c| c.file.clone());
        let more_files = changes.len().saturating_sub(FILES_NAMED);
        changes.truncate(FILES_NAMED);
        all.push(Cause::InputChanged {
            input,
            file,
            files: changes,
            more_files,
            text,
            old: difference.old.as_ref().map(shown),
            new: difference.new.as_ref().map(shown),
            from: maker.as_ref().map(shown),
        });
    }
    Ok(all)
}

/// Why something is built that was built as it is.
fn lost(store: &Store, asked: &Asked<'_>, same: &Built) -> Result<Cause, StoreError> {
    if same.collected {
        return Ok(Cause::GcEd);
    }
    let outputs = store.drv_outputs(&same.drv)?;
    for wanted in asked.outputs {
        let found = outputs.iter().find(|(output, _)| output == wanted);
        match found {
            Some((_, path)) if store.is_present(path)? => {}
            _ => return Ok(Cause::OutputMissing),
        }
    }
    // All is there, and does not count: a newer builder makes other bytes.
    Ok(Cause::BuilderChanged {
        old: None,
        new: None,
    })
}
