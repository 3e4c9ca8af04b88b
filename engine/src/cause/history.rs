//! What the causes of a run are told from: the project, what is built beside, and which earlier derivation stood in the place of
//! each one.
//!
//! The places are found by walking two graphs at once, from what was asked for by the same attribute path: the one of now, and the
//! one that the journal has of the last time. So two derivations of one name, as stages of a bootstrap are, are not taken for each
//! other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::{Label, SourceFile};
use sos_formats::store_path::StorePath;
use sos_store::{BuildId, Store, StoreError};

use super::compare::unversioned;
use crate::event::Text;
use crate::graph::{Graph, Wanted};
use crate::journal::StepDetail;
use crate::needed::{Needed, Node};
use crate::work::history_key;

/// Steps of one derivation that are looked at for one that tells its inputs.
const STEPS: u32 = 4;

/// What the causes of a run are told from.
#[derive(Default)]
pub(crate) struct History {
    /// Which project it is for.
    pub(super) project: String,
    /// Every derivation of the run: what one of them was before is not what another one was.
    beside: BTreeSet<StorePath>,
    /// What stood in the place of a derivation the last time.
    pub(super) before: BTreeMap<StorePath, StorePath>,
    /// All of these.
    taken: BTreeSet<StorePath>,
    /// Names without version of everything that was ever built.
    names: BTreeSet<String>,
    /// Where derivations are written.
    places: Places,
    /// By which attribute paths derivations are asked for.
    attrs: BTreeMap<StorePath, String>,
    /// Files that the recipe reads and that have changed.
    changed: Vec<String>,
}

impl History {
    /// Reads what is known for a run.
    pub(crate) fn of(
        store: &Store,
        project: &str,
        needed: &Needed,
        graph: &Graph,
        wanted: &[Wanted],
        attrs: &BTreeMap<StorePath, String>,
    ) -> Result<Self, StoreError> {
        let before = before(store, project, needed, wanted, attrs)?;
        Ok(Self {
            project: project.to_owned(),
            beside: needed.met(),
            taken: before.values().cloned().collect(),
            before,
            names: store
                .built_names()?
                .iter()
                .map(|name| history_key(name).to_owned())
                .collect(),
            places: Places::of(needed.nodes.iter().filter_map(|node| {
                let label = graph.places.get(&node.path)?;
                Some((node.path.clone(), label))
            })),
            attrs: attrs.clone(),
            changed: graph.changed.clone(),
        })
    }
}

/// Where derivations are written. There may be 100,000, in one file: a text for each would be most of what is remembered.
#[derive(Default)]
struct Places {
    files: Vec<String>,
    /// Number of the file, line and column, both counted from 1.
    at: BTreeMap<StorePath, (u32, u32, u32)>,
}

impl Places {
    fn of<'a>(labels: impl Iterator<Item = (StorePath, &'a Label)>) -> Self {
        let mut lines = Lines::default();
        let at = labels
            .map(|(drv, label)| (drv, lines.place(label)))
            .collect();
        let files = lines.files.iter().map(|(file, _)| file.name.clone());
        Self {
            files: files.collect(),
            at,
        }
    }

    /// A place as file, line and column.
    fn get(&self, drv: &StorePath) -> Option<Text> {
        let (file, line, column) = self.at.get(drv)?;
        let file = self.files.get(*file as usize)?;
        Some(Text::from(format!("{file}:{line}:{column}")))
    }
}

/// Where the lines of files begin. Some files hold all the packages that there are: they are not gone through for each.
#[derive(Default)]
struct Lines {
    files: Vec<(Arc<SourceFile>, Vec<usize>)>,
}

impl Lines {
    /// A place as the number of its file, line and column, both counted from 1.
    fn place(&mut self, label: &Label) -> (u32, u32, u32) {
        let known = self
            .files
            .iter()
            .rposition(|(file, _)| Arc::ptr_eq(file, &label.file));
        let at = known.unwrap_or_else(|| {
            let ends = label.file.text.match_indices('\n');
            let starts = std::iter::once(0).chain(ends.map(|(at, _)| at + 1));
            self.files.push((label.file.clone(), starts.collect()));
            self.files.len() - 1
        });
        let (file, starts) = &self.files[at];
        let line = starts.partition_point(|start| *start <= label.span.start);
        let start = starts.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let before = file.text.get(start..label.span.start).unwrap_or_default();
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        (small(at), small(line), small(before.chars().count() + 1))
    }
}

impl History {
    /// Where a derivation is written: file, line and column.
    pub(super) fn place(&self, drv: &StorePath) -> Option<Text> {
        self.places.get(drv)
    }
}

impl History {
    /// Files that may be what is behind a change of the recipe. None, if the file that a derivation is written in has changed: that
    /// is told already.
    pub(super) fn changed(&self, at: Option<&Text>) -> Vec<String> {
        let is_at = |file: &String| {
            at.and_then(|at| at.as_str().strip_prefix(file.as_str()))
                .is_some_and(|rest| rest.starts_with(':'))
        };
        if self.changed.iter().any(is_at) {
            return Vec::new();
        }
        self.changed
            .iter()
            .take(super::FILES_NAMED)
            .cloned()
            .collect()
    }

    /// Whether anything was ever built that a derivation could be a next form of.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.names.contains(history_key(name))
    }

    /// The attribute path by which a derivation is asked for.
    pub(super) fn attr(&self, drv: &StorePath) -> Option<&String> {
        self.attrs.get(drv)
    }

    /// Whether a derivation is wanted now, or stood in the place of one that is known: then it was not an earlier form of any other.
    pub(super) fn is_of_another(&self, drv: &StorePath) -> bool {
        self.beside.contains(drv) || self.taken.contains(drv)
    }
}

/// The name under which a build is noted for later comparison: other projects have derivations of the same names.
pub(crate) fn noted_name(project: &str, name: &str) -> String {
    format!("{project}\n{}", history_key(name))
}

fn before(
    store: &Store,
    project: &str,
    needed: &Needed,
    wanted: &[Wanted],
    attrs: &BTreeMap<StorePath, String>,
) -> Result<BTreeMap<StorePath, StorePath>, StoreError> {
    let nodes: BTreeMap<&StorePath, &Node> =
        needed.nodes.iter().map(|node| (&node.path, node)).collect();
    let mut found = BTreeMap::new();
    let mut todo = VecDeque::new();
    for want in wanted {
        let Some(attr) = attrs
            .get(&want.drv)
            .filter(|_| nodes.contains_key(&want.drv))
        else {
            continue;
        };
        if let Some(step) = store.step_of_attr(project, attr)?
            && step.drv != want.drv
            && !found.contains_key(&want.drv)
        {
            found.insert(want.drv.clone(), step.drv.clone());
            todo.push_back((want.drv.clone(), step.drv));
        }
    }
    // Nearest first: a derivation that is reached on several ways gets what the shortest one says.
    while let Some((new, old)) = todo.pop_front() {
        // One that cannot be read is an error when its turn comes.
        let drv = nodes
            .get(&new)
            .and_then(|node| node.drv(store.store_dir()).ok());
        let Some(drv) = drv else {
            continue;
        };
        for (now, was) in pairs(&drv, &inputs_of(store, &old)?) {
            if nodes.contains_key(&now) && !found.contains_key(&now) {
                found.insert(now.clone(), was.clone());
                todo.push_back((now, was));
            }
        }
    }
    Ok(found)
}

/// The derivations from which one was built, as the journal has it.
fn inputs_of(store: &Store, drv: &StorePath) -> Result<BTreeSet<StorePath>, StoreError> {
    for step in store.steps_of_drv(drv, BuildId(i64::MAX), STEPS)? {
        let detail: Option<StepDetail> = step
            .detail
            .and_then(|text| serde_json::from_str(&text).ok());
        let inputs = detail.map(|detail| detail.inputs).unwrap_or_default();
        if !inputs.is_empty() {
            let drvs = inputs.into_iter().filter_map(|input| input.drv);
            return Ok(drvs
                .filter_map(|drv| StorePath::from_base(&drv).ok())
                .collect());
        }
    }
    Ok(BTreeSet::new())
}

/// Which new input stands in the place of which old one: by name, then by name without version, where there is one of each.
fn pairs(drv: &Derivation, old: &BTreeSet<StorePath>) -> Vec<(StorePath, StorePath)> {
    let mut was: Vec<&StorePath> = old
        .iter()
        .filter(|path| !drv.input_drvs.contains_key(*path))
        .collect();
    let mut now: Vec<&StorePath> = drv
        .input_drvs
        .keys()
        .filter(|path| !old.contains(*path))
        .collect();
    let mut found = Vec::new();
    for name in [(|p| p) as fn(&str) -> &str, unversioned] {
        let named =
            |all: &[&StorePath], key: &str| all.iter().filter(|p| name(p.name()) == key).count();
        let all: Vec<&StorePath> = now.clone();
        for new in all {
            let key = name(new.name());
            if named(&now, key) != 1 || named(&was, key) != 1 {
                continue;
            }
            if let Some(at) = was.iter().position(|p| name(p.name()) == key) {
                found.push((new.clone(), was.remove(at).clone()));
                now.retain(|p| *p != new);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(digit: char, name: &str) -> StorePath {
        StorePath::from_base(&format!("{}-{name}", digit.to_string().repeat(32))).unwrap()
    }

    #[test]
    fn places_are_those_of_the_file() {
        let file = SourceFile::new("f.nix", "ab\né x\n");
        let drv = path('1', "x.drv");
        for offset in [0, 1, 3, 6, 7] {
            let (line, column) = file.line_column(offset);
            let label = Label::new(&file, offset..offset, "");
            let places = Places::of([(drv.clone(), &label)].into_iter());
            let place = places.get(&drv).unwrap();
            assert_eq!(place.as_str(), format!("f.nix:{line}:{column}"), "{offset}");
        }
    }

    #[test]
    fn inputs_are_paired_by_name_where_that_is_one() {
        let drv = Derivation {
            input_drvs: [
                path('1', "same.drv"),
                path('2', "libc-2.drv"),
                path('3', "tool.drv"),
                path('4', "twin.drv"),
                path('5', "twin.drv"),
            ]
            .map(|p| (p, BTreeSet::new()))
            .into(),
            ..Derivation::default()
        };
        let old = [
            path('1', "same.drv"),
            path('6', "libc-1.drv"),
            path('7', "tool.drv"),
            path('8', "twin.drv"),
            path('9', "gone.drv"),
        ]
        .into();
        assert_eq!(
            pairs(&drv, &old),
            [
                (path('3', "tool.drv"), path('7', "tool.drv")),
                (path('2', "libc-2.drv"), path('6', "libc-1.drv")),
            ]
        );
    }
}
