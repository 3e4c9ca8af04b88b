//! What the causes of a run are told from: the project, what is built beside, and which earlier derivation stood in the place of
//! each one.
//!
//! The places are found by walking two graphs at once, from what was asked for by the same attribute path: the one of now, and the
//! one that the journal has of the last time. So two derivations of one name, as stages of a bootstrap are, are not taken for each
//! other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::{Label, SourceFile};
use sos_formats::store_path::StorePath;
use sos_store::{BuildId, Built, Store, StoreError};

use super::Causes;
use super::alike::{Alike, read_kept};
use super::compare::{Side, is_same_elsewhere, unversioned};
use super::pairing::Pairing;
use crate::event::Text;
use crate::graph::{Graph, Wanted};
use crate::journal::StepDetail;
use crate::needed::{Needed, Node};
use crate::resolve::resolve;
use crate::work::history_key;

/// Steps of one derivation that are looked at for one that tells its inputs.
const STEPS: u32 = 4;

/// Projects elsewhere in which a target of the same words is looked at.
const ELSEWHERE: u32 = 16;

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
    /// The recipe files of these.
    files: BTreeSet<String>,
    /// Those of earlier runs.
    files_of: Mutex<BTreeMap<i64, Arc<BTreeSet<String>>>>,
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
            files: attrs.values().map(|attr| file_of(attr)).collect(),
            files_of: Mutex::default(),
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

    /// The file that a derivation is written in; none if others are written in the same place, as those are that a function makes.
    fn own_file(&self, drv: &StorePath) -> Option<&str> {
        let place = self.at.get(drv)?;
        let is_other = |(other, at): (&StorePath, &(u32, u32, u32))| at == place && other != drv;
        if self.at.iter().any(is_other) {
            return None;
        }
        self.files.get(place.0 as usize).map(String::as_str)
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

impl History {
    /// Whether something was built for one of the recipe files of this run, as far as that is known, or is written in the same file
    /// as a derivation of it. What another recipe of the project has under the same name is no earlier form.
    pub(super) fn shares_recipe(
        &self,
        store: &Store,
        new: &StorePath,
        old: &StorePath,
    ) -> Result<bool, StoreError> {
        if self.files.is_empty() {
            return Ok(true);
        }
        let steps = store.steps_of_drv(old, BuildId(i64::MAX), STEPS)?;
        let mut is_known = false;
        for step in &steps {
            let files = self.files_of_build(store, step.build)?;
            if !files.is_disjoint(&self.files) {
                return Ok(true);
            }
            is_known |= !files.is_empty();
        }
        if !is_known {
            return Ok(true);
        }
        let Some(file) = self.places.own_file(new) else {
            return Ok(false);
        };
        let places = steps.iter().filter_map(|step| {
            let causes: Causes = serde_json::from_str(step.cause.as_deref()?).ok()?;
            causes.at
        });
        let is_there = |at: Text| {
            let rest = at.as_str().strip_prefix(file);
            rest.is_some_and(|rest| rest.starts_with(':'))
        };
        Ok(places.into_iter().any(is_there))
    }

    fn files_of_build(
        &self,
        store: &Store,
        build: BuildId,
    ) -> Result<Arc<BTreeSet<String>>, StoreError> {
        let lock = || self.files_of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(&build.0) {
            return Ok(known.clone());
        }
        let attrs = store.attrs_of_build(build)?;
        let files: Arc<BTreeSet<String>> = Arc::new(attrs.iter().map(|a| file_of(a)).collect());
        lock().insert(build.0, files.clone());
        Ok(files)
    }
}

/// The file, or flake, of an attribute path.
fn file_of(attr: &str) -> String {
    attr.split('#').next().unwrap_or(attr).to_owned()
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
    let walk = Walk {
        store,
        needed,
        nodes: needed.nodes.iter().map(|node| (&node.path, node)).collect(),
    };
    let mut found = BTreeMap::new();
    let mut todo = VecDeque::new();
    for want in wanted {
        let (Some(attr), Some(node)) = (attrs.get(&want.drv), walk.nodes.get(&want.drv)) else {
            continue;
        };
        if let Some(was) = walk.target(project, attr, node)?
            && was != want.drv
            && !found.contains_key(&want.drv)
        {
            found.insert(want.drv.clone(), was.clone());
            todo.push_back((want.drv.clone(), was));
        }
    }
    // Nearest first: a derivation that is reached on several ways gets what the shortest one says.
    while let Some((new, old)) = todo.pop_front() {
        let Some(node) = walk.nodes.get(&new) else {
            continue;
        };
        for (now, was) in walk.inputs(node, &old)? {
            if walk.nodes.contains_key(&now) && !found.contains_key(&now) {
                found.insert(now.clone(), was.clone());
                todo.push_back((now, was));
            }
        }
    }
    Ok(found)
}

/// What the two graphs are read from.
struct Walk<'a> {
    store: &'a Store,
    needed: &'a Needed,
    nodes: BTreeMap<&'a StorePath, &'a Node>,
}

impl Walk<'_> {
    /// A derivation of the run. One that cannot be read is an error when its turn comes.
    fn drv(&self, node: &Node) -> Option<Arc<Derivation>> {
        node.drv(self.store.store_dir()).ok()
    }

    /// What a target was the last time.
    fn target(
        &self,
        project: &str,
        attr: &str,
        node: &Node,
    ) -> Result<Option<StorePath>, StoreError> {
        if let Some(drv) = self.store.target(project, attr)? {
            return Ok(Some(drv));
        }
        // Of a store whose sos noted no targets.
        if let Some(step) = self.store.step_of_attr(project, attr)? {
            return Ok(Some(step.drv));
        }
        // The project may have been somewhere else: many projects have a target of the same words, and only one that is much alike
        // is taken for it.
        let elsewhere = self.store.targets_elsewhere(project, attr, ELSEWHERE)?;
        if elsewhere.is_empty() {
            return Ok(None);
        }
        let Some((resolved, from)) = self.resolved(node) else {
            return Ok(None);
        };
        for drv in elsewhere {
            if drv == node.path {
                return Ok(None);
            }
            let Some(old) = self.built(&drv)? else {
                continue;
            };
            let side = |drv, path| Side {
                name: Derivation::name_from_path(path),
                drv,
            };
            let from = |path: &StorePath| from.get(path).cloned();
            let read = |path: &StorePath| self.read(path);
            let alike = Alike::new(self.store, &drv, &from, None, &read);
            let is_same = is_same_elsewhere(
                self.store.store_dir(),
                &side(&old, &drv),
                &side(&resolved, &node.path),
                &|old, new| alike.in_common(old, new),
            );
            if is_same {
                return Ok(Some(drv));
            }
        }
        Ok(None)
    }

    /// Which derivations that one is made from now stand in the place of which ones that `old` was made from.
    fn inputs(
        &self,
        node: &Node,
        old: &StorePath,
    ) -> Result<Vec<(StorePath, StorePath)>, StoreError> {
        let Some(drv) = self.drv(node) else {
            return Ok(Vec::new());
        };
        let inputs = inputs_of(self.store, old)?;
        let was: BTreeSet<StorePath> = inputs.iter().filter_map(|(_, drv)| drv.clone()).collect();
        let (mut found, are_all) = pairs(&drv, &was);
        if !are_all {
            found.extend(self.of_equal_names(node, &drv, old, &inputs, &found)?);
        }
        Ok(found)
    }

    /// Pairs those of one name that [`pairs`] left, by what is told in the two derivations.
    fn of_equal_names(
        &self,
        node: &Node,
        drv: &Derivation,
        old: &StorePath,
        inputs: &[(StorePath, Option<StorePath>)],
        found: &[(StorePath, StorePath)],
    ) -> Result<Vec<(StorePath, StorePath)>, StoreError> {
        let (Some((resolved, from)), Some(old_drv)) = (self.resolved(node), self.built(old)?)
        else {
            return Ok(Vec::new());
        };
        let was: BTreeMap<&StorePath, &StorePath> = inputs
            .iter()
            .filter_map(|(path, drv)| Some((path, drv.as_ref()?)))
            .collect();
        let drvs_before: BTreeSet<&StorePath> = was.values().copied().collect();
        let is_left = |drv: &StorePath| !found.iter().any(|(now, was)| drv == now || drv == was);
        let mut removed: Vec<StorePath> = was
            .iter()
            .filter(|(_, maker)| !drv.input_drvs.contains_key(**maker) && is_left(maker))
            .map(|(path, _)| (*path).clone())
            .collect();
        let mut added: Vec<StorePath> = from
            .iter()
            .filter(|(_, maker)| !drvs_before.contains(maker) && is_left(maker))
            .map(|(path, _)| path.clone())
            .collect();
        let made = |path: &StorePath| from.get(path).cloned();
        let read = |path: &StorePath| self.read(path);
        let alike = Alike::new(self.store, old, &made, None, &read);
        let in_common = |old: &StorePath, new: &StorePath| alike.in_common(old, new);
        let pairing = Pairing::new(self.store.store_dir(), &old_drv, &resolved, &in_common);
        let paired = pairing.pair(&mut removed, &mut added).into_iter();
        Ok(paired
            .filter_map(|(old, new)| Some((from.get(&new)?.clone(), (*was.get(&old)?).clone())))
            .collect())
    }

    /// A derivation of the run with every input a store path, and which derivation makes each.
    fn resolved(&self, node: &Node) -> Option<(Derivation, BTreeMap<StorePath, StorePath>)> {
        let dir = self.store.store_dir();
        let drv = self.drv(node)?;
        let inputs = self.needed.expected_inputs(dir, node, &drv).ok()?;
        let resolved = resolve(dir, &node.path, &drv, &inputs).ok()?;
        let made = inputs.into_iter().flat_map(|(drv, outputs)| {
            let paths = outputs.into_values();
            paths.map(move |path| (path, drv.clone()))
        });
        Some((resolved.drv, made.collect()))
    }

    /// A derivation as its builder saw it.
    fn built(&self, drv: &StorePath) -> Result<Option<Derivation>, StoreError> {
        let text = built_of(self.store, drv)?.and_then(|built| built.aterm);
        Ok(text.and_then(|text| Derivation::parse_aterm(&text, self.store.store_dir()).ok()))
    }

    fn read(&self, drv: &StorePath) -> Option<Derivation> {
        match self.nodes.get(drv) {
            Some(node) => self.drv(node).map(Arc::unwrap_or_clone),
            None => read_kept(self.store, drv),
        }
    }
}

/// The note of a derivation, or else that of the build which it turned out to be.
pub(super) fn built_of(store: &Store, drv: &StorePath) -> Result<Option<Built>, StoreError> {
    if let Some(built) = store.built(drv)? {
        return Ok(Some(built));
    }
    for step in store.steps_of_drv(drv, BuildId(i64::MAX), STEPS)? {
        let detail: Option<StepDetail> = step
            .detail
            .and_then(|text| serde_json::from_str(text.as_str()).ok());
        let identity = detail.and_then(|detail| StorePath::from_base(&detail.identity?).ok());
        if let Some(identity) = identity
            && let Some(same) = store.built_as(&identity)?
        {
            let drv = drv.clone();
            return Ok(Some(Built { drv, ..same }));
        }
    }
    Ok(None)
}

/// What a derivation was built from, each with the derivation that made it, as the journal has it.
pub(super) fn inputs_of(
    store: &Store,
    drv: &StorePath,
) -> Result<Vec<(StorePath, Option<StorePath>)>, StoreError> {
    for step in store.steps_of_drv(drv, BuildId(i64::MAX), STEPS)? {
        let detail: Option<StepDetail> = step
            .detail
            .and_then(|text| serde_json::from_str(text.as_str()).ok());
        let inputs = detail.map(|detail| detail.inputs).unwrap_or_default();
        if !inputs.is_empty() {
            let path = |base: &str| StorePath::from_base(base).ok();
            let inputs = inputs.into_iter().filter_map(|input| {
                let drv = input.drv.as_deref().and_then(path);
                Some((path(&input.path)?, drv))
            });
            return Ok(inputs.collect());
        }
    }
    Ok(Vec::new())
}

/// Which new input stands in the place of which old one: by name, then by name without version, where there is one of each. Also
/// whether that is all that names can tell.
fn pairs(drv: &Derivation, old: &BTreeSet<StorePath>) -> (Vec<(StorePath, StorePath)>, bool) {
    let was = old
        .iter()
        .filter(|path| !drv.input_drvs.contains_key(*path));
    let now = drv.input_drvs.keys().filter(|path| !old.contains(*path));
    let (mut was, mut now): (Vec<&StorePath>, Vec<&StorePath>) = (was.collect(), now.collect());
    let mut found = Vec::new();
    let mut are_all = true;
    for name in [(|p| p) as fn(&str) -> &str, unversioned] {
        let mut groups: BTreeMap<&str, (Vec<&StorePath>, Vec<&StorePath>)> = BTreeMap::new();
        for path in &was {
            groups.entry(name(path.name())).or_default().0.push(path);
        }
        for path in &now {
            groups.entry(name(path.name())).or_default().1.push(path);
        }
        for (olds, news) in groups.values() {
            match (olds.as_slice(), news.as_slice()) {
                ([old], [new]) => {
                    found.push(((*new).clone(), (*old).clone()));
                    was.retain(|path| path != old);
                    now.retain(|path| path != new);
                }
                ([], _) | (_, []) => {}
                _ => are_all = false,
            }
        }
    }
    (found, are_all)
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
        let (found, are_all) = pairs(&drv, &old);
        assert_eq!(
            found,
            [
                (path('3', "tool.drv"), path('7', "tool.drv")),
                (path('2', "libc-2.drv"), path('6', "libc-1.drv")),
            ]
        );
        assert!(!are_all, "one of two twins is that of before");
    }
}
