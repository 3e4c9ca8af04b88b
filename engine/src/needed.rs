//! What has to be done to get the wanted outputs: a walk from them that stops at everything that is there.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::{StoreDir, StorePath, make_scratch};
use sos_store::{Store, StoreError};

use crate::builder::{Pool, Registry};
use crate::choice::{pool_of, slot_of};
use crate::diagnose::{refuse_impure, store_failed};
use crate::features;
use crate::graph::{Graph, Wanted, wanted_outputs};
use crate::nix_shape;
use crate::resolve::{OutputPaths, is_dynamic};

/// A derivation as it was given, or where it is. Large graphs are given as texts, which take a fraction of the memory, and are
/// only in the store while they are built.
#[derive(Clone)]
pub(crate) enum Held {
    Parsed(Arc<Derivation>),
    Text(Arc<[u8]>),
    Kept(Store),
}

/// Names of outputs, each once, in order.
pub(crate) type OutputNames = Box<[Arc<str>]>;

/// A derivation that must be built, or found by its resolved inputs. There may be 100,000: only what is needed of it all the
/// time is here, the rest is read again when its turn comes.
pub(crate) struct Node {
    /// Its path.
    pub(crate) path: StorePath,
    /// Itself.
    pub(crate) held: Held,
    /// Outputs that are needed of it.
    pub(crate) outputs: OutputNames,
    /// Nodes that must be done before.
    pub(crate) needs: Box<[u32]>,
    /// For which system it is.
    pub(crate) system: Arc<str>,
    /// Whether it counts as built or as fetched.
    pub(crate) pool: Pool,
    /// Whose slot it takes.
    pub(crate) slot: Pool,
    /// Its outputs are known beforehand.
    pub(crate) fixed: bool,
    /// Its output paths are known only when its inputs are.
    pub(crate) dynamic: bool,
    /// It asks for features of the machine.
    pub(crate) demanding: bool,
    /// It may have attributes with which it cannot be built.
    pub(crate) wishing: bool,
    /// It is there, and is built all the same.
    pub(crate) forced: bool,
}

impl Node {
    /// Reads the derivation.
    pub(crate) fn drv(&self, dir: &StoreDir) -> Result<Arc<Derivation>, Box<Diagnostic>> {
        match &self.held {
            Held::Parsed(drv) => Ok(drv.clone()),
            Held::Text(text) => parse(dir, &self.path, text).map(Arc::new),
            Held::Kept(store) => parse(dir, &self.path, &kept(store, &self.path)?).map(Arc::new),
        }
    }

    /// Tells whether the store has it.
    pub(crate) fn is_kept(&self) -> bool {
        matches!(self.held, Held::Kept(_))
    }

    /// Returns its text.
    pub(crate) fn text(&self, dir: &StoreDir) -> Result<Cow<'_, [u8]>, Box<Diagnostic>> {
        let name = Derivation::name_from_path(&self.path);
        match &self.held {
            Held::Text(text) => Ok(Cow::Borrowed(text)),
            Held::Kept(store) => kept(store, &self.path).map(Cow::Owned),
            Held::Parsed(drv) => drv.to_aterm(dir, name).map(Cow::Owned).map_err(|e| {
                Box::new(Diagnostic::error(
                    "drv-malformed",
                    Class::Other,
                    format!("derivation `{name}` cannot be written: {e}"),
                ))
            }),
        }
    }

    pub(crate) fn name(&self) -> &str {
        Derivation::name_from_path(&self.path)
    }

    /// Returns the numbers of the nodes that must be done before.
    pub(crate) fn needs(&self) -> impl Iterator<Item = usize> + '_ {
        self.needs.iter().map(|id| *id as usize)
    }
}

/// Paths of outputs by name.
pub(crate) type Made = Box<[(Arc<str>, StorePath)]>;

/// Everything that must be done, and what is there already.
#[derive(Default)]
pub(crate) struct Needed {
    /// What to do; numbered by place.
    pub(crate) nodes: Vec<Node>,
    /// Valid outputs that were met.
    pub(crate) known: BTreeMap<StorePath, Made>,
    /// Every source that is used, each with the first node that uses it.
    pub(crate) sources: BTreeMap<StorePath, u32>,
    /// One of them is a step.
    pub(crate) has_step: bool,
    /// One of them runs a program as Nix does.
    pub(crate) has_program: bool,
}

impl Needed {
    /// Returns the number of derivations that were met and need nothing.
    pub(crate) fn cached(&self) -> usize {
        self.only_known().count()
    }

    /// Returns the derivations that were met and need nothing.
    pub(crate) fn only_known(&self) -> impl Iterator<Item = &StorePath> {
        let nodes: BTreeSet<&StorePath> = self.nodes.iter().map(|n| &n.path).collect();
        self.known.keys().filter(move |p| !nodes.contains(p))
    }

    /// Lets go of the derivations, which were written to the store: each is read there when its turn comes.
    pub(crate) fn are_kept(&mut self, store: &Store) {
        for node in &mut self.nodes {
            node.held = Held::Kept(store.clone());
        }
    }

    /// Returns every derivation that was met.
    pub(crate) fn met(&self) -> BTreeSet<StorePath> {
        let nodes = self.nodes.iter().map(|node| &node.path);
        nodes.chain(self.known.keys()).cloned().collect()
    }

    /// Returns every output that is there.
    pub(crate) fn known_paths(&self) -> impl Iterator<Item = &StorePath> {
        self.known
            .values()
            .flat_map(|made| made.iter().map(|(_, path)| path))
    }

    /// Returns where the inputs of a node are, or will be; one whose content decides gets a path that nothing has.
    pub(crate) fn expected_inputs(
        &self,
        dir: &StoreDir,
        node: &Node,
        drv: &Derivation,
    ) -> Result<OutputPaths, Box<Diagnostic>> {
        let mut needs = BTreeMap::new();
        for id in node.needs() {
            let one = &self.nodes[id];
            needs.insert(&one.path, one.drv(dir)?);
        }
        let mut inputs = OutputPaths::new();
        for (input, outputs) in &drv.input_drvs {
            let known = self.known.get(input);
            for output in outputs {
                let there = known.and_then(|made| find(made, output)).cloned();
                let name = Derivation::name_from_path(input);
                let expected = there.or_else(|| {
                    let needed = needs.get(input)?;
                    needed.output_path(dir, name, output)
                });
                let path = match expected {
                    Some(path) => path,
                    None => make_scratch(dir, input, output).map_err(|e| {
                        Box::new(Diagnostic::error(
                            "build-unresolved",
                            Class::Bug,
                            format!("`{}` cannot be resolved: {e}", node.name()),
                        ))
                    })?,
                };
                let paths = inputs.entry(input.clone()).or_default();
                paths.insert(output.clone(), path);
            }
        }
        Ok(inputs)
    }
}

/// Returns the path of an output.
pub(crate) fn find<'a>(made: &'a Made, output: &str) -> Option<&'a StorePath> {
    made.iter()
        .find(|(name, _)| &**name == output)
        .map(|(_, path)| path)
}

/// Adds outputs; one of the same name is replaced.
pub(crate) fn add(made: &mut Made, outputs: impl IntoIterator<Item = (Arc<str>, StorePath)>) {
    let mut all: BTreeMap<Arc<str>, StorePath> = std::mem::take(made).into_iter().collect();
    all.extend(outputs);
    *made = all.into_iter().collect();
}

/// One text for each name, however often it is met.
#[derive(Default)]
pub(crate) struct Names(BTreeSet<Arc<str>>);

impl Names {
    pub(crate) fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return known.clone();
        }
        let new: Arc<str> = name.into();
        self.0.insert(new.clone());
        new
    }
}

/// Looks derivations up: first in the graph, then in the store.
///
/// # Errors
/// When it is in neither, or cannot be read.
pub fn load(
    store: &Store,
    graph: &Graph,
    path: &StorePath,
) -> Result<Arc<Derivation>, Box<Diagnostic>> {
    load_held(store, graph, path).map(|(drv, _)| drv)
}

fn load_held(
    store: &Store,
    graph: &Graph,
    path: &StorePath,
) -> Result<(Arc<Derivation>, Held), Box<Diagnostic>> {
    if let Some(drv) = graph.drvs.get(path) {
        return Ok((drv.clone(), Held::Parsed(drv.clone())));
    }
    let dir = store.store_dir();
    if let Some(text) = graph.texts.get(path) {
        let drv = parse(dir, path, text)?;
        return Ok((Arc::new(drv), Held::Text(text.clone())));
    }
    let drv = parse(dir, path, &kept(store, path)?)?;
    Ok((Arc::new(drv), Held::Kept(store.clone())))
}

/// Reads a derivation that the store has.
fn kept(store: &Store, path: &StorePath) -> Result<Vec<u8>, Box<Diagnostic>> {
    store.get_drv(path).map_err(store_failed)?.ok_or_else(|| {
        Box::new(
            Diagnostic::error(
                "graph-missing-derivation",
                Class::Other,
                format!(
                    "derivation `{}` is neither in the graph nor in the store",
                    path.absolute(store.store_dir())
                ),
            )
            .note("`sos gc` forgets a derivation of which nothing is left, and the state of its failed build")
            .help("evaluate the recipe again: `sos build` writes the derivations that it needs"),
        )
    })
}

fn parse(dir: &StoreDir, path: &StorePath, text: &[u8]) -> Result<Derivation, Box<Diagnostic>> {
    Derivation::parse_aterm(text, dir).map_err(|e| {
        Box::new(Diagnostic::error(
            "drv-malformed",
            Class::Other,
            format!("derivation `{}` cannot be read: {e}", path.absolute(dir)),
        ))
    })
}

/// Returns the path of an output if it is there.
///
/// # Errors
/// When the store fails.
pub fn present_output(
    store: &Store,
    path: &StorePath,
    drv: &Derivation,
    output: &str,
) -> Result<Option<StorePath>, Box<Diagnostic>> {
    let name = Derivation::name_from_path(path);
    let found = match drv.output_path(store.store_dir(), name, output) {
        Some(found) => Some(found),
        None => store.drv_output(path, output).map_err(store_failed)?,
    };
    let Some(found) = found else {
        return Ok(None);
    };
    // Registered is not enough: whoever deleted its files by hand gets it built again.
    let present = store.is_present(&found).map_err(store_failed)?;
    Ok(present.then_some(found))
}

/// Answers wanted outputs that are all there, and holds them while the store is open. Gives none if one is missing.
pub(crate) fn answer_at_once(
    store: &Store,
    graph: &Graph,
    wanted: &[Wanted],
) -> Result<Option<OutputPaths>, Box<Diagnostic>> {
    let mut paths = OutputPaths::new();
    for want in wanted {
        let drv = load(store, graph, &want.drv)?;
        for output in wanted_outputs(want, &drv) {
            check_output(store, &want.drv, &drv, &output)?;
            match present_output(store, &want.drv, &drv, &output)? {
                Some(path) => {
                    paths
                        .entry(want.drv.clone())
                        .or_default()
                        .insert(output, path);
                }
                None => return Ok(None),
            }
        }
    }
    let found: Vec<StorePath> = paths.values().flat_map(BTreeMap::values).cloned().collect();
    // Whoever gets the answer uses it, and may make roots of it. On a full disk it is true without being held.
    match store.hold(&found) {
        Err(StoreError::DiskFull { .. }) => {}
        other => other.map_err(store_failed)?,
    }
    // A collection may have taken one between the look and the hold.
    for path in &found {
        if !store.is_valid(path).map_err(store_failed)? {
            return Ok(None);
        }
    }
    Ok(Some(paths))
}

/// Tells whether every wanted output is in the store; what cannot be asked about counts as missing.
///
/// # Errors
/// When the store fails.
pub fn all_there(store: &Store, graph: &Graph, wanted: &[Wanted]) -> Result<bool, Box<Diagnostic>> {
    for want in wanted {
        let drv = load(store, graph, &want.drv)?;
        for output in wanted_outputs(want, &drv) {
            if !drv.outputs.contains_key(&output)
                || present_output(store, &want.drv, &drv, &output)?.is_none()
            {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Walks from the wanted outputs to everything that must be done for them. With `rebuild`, what is wanted is done even if it is
/// there.
pub(crate) fn find_needed(
    store: &Store,
    builders: &Registry,
    graph: &Graph,
    wanted: &[Wanted],
    rebuild: bool,
) -> Result<Needed, Box<Diagnostic>> {
    let mut walk = Walk::default();
    let mut todo: Vec<Asked> = Vec::new();
    for want in wanted.iter().rev() {
        let drv = load(store, graph, &want.drv)?;
        let asked = walk.asked(&want.drv, &wanted_outputs(want, &drv))?;
        walk.met[asked.of as usize].forced = rebuild;
        todo.push(asked);
    }
    while let Some(asked) = todo.pop() {
        let path = walk.met[asked.of as usize].path.clone();
        let mut outputs: Vec<Arc<str>> = asked.outputs.to_vec();
        outputs.retain(|output| !walk.was_looked_at(asked.of, output));
        if outputs.is_empty() {
            continue;
        }
        let (drv, held) = load_held(store, graph, &path)?;
        for output in outputs {
            check_output(store, &path, &drv, &output)?;
            let found = present_output(store, &path, &drv, &output)?;
            let forced = found.is_some() && walk.met[asked.of as usize].forced;
            if let Some(found) = found.filter(|_| !forced) {
                add(
                    walk.needed.known.entry(path.clone()).or_default(),
                    [(output, found)],
                );
                continue;
            }
            if let Some(id) = walk.met[asked.of as usize].node {
                let node = &mut walk.needed.nodes[id as usize];
                node.forced &= forced;
                let mut all: BTreeSet<Arc<str>> = node.outputs.iter().cloned().collect();
                all.insert(output);
                node.outputs = all.into_iter().collect();
                continue;
            }
            refuse_impure(Derivation::name_from_path(&path), &drv).map_err(|diagnostic| {
                Box::new(diagnostic.with_labels(graph.places.get(&path).cloned()))
            })?;
            walk.add(builders, asked.of, &drv, held.clone(), output)?;
            if let Some(node) = walk.needed.nodes.last_mut() {
                node.forced = forced;
            }
            let first = walk.edges.len();
            for (input, outputs) in &drv.input_drvs {
                let edge = walk.asked(input, outputs)?;
                walk.edges.push(edge);
            }
            walk.begins.push(first);
            // The first input is looked at first.
            todo.extend(walk.edges[first..].iter().rev().cloned());
        }
    }
    walk.connect();
    Ok(walk.needed)
}

/// Outputs of a derivation that was met, by its number.
#[derive(Clone)]
struct Asked {
    of: u32,
    outputs: Arc<[Arc<str>]>,
}

/// A derivation that was met.
struct Met {
    path: StorePath,
    /// The number of its node, if it has one.
    node: Option<u32>,
    /// It is built even if it is there.
    forced: bool,
}

#[derive(Default)]
struct Walk {
    needed: Needed,
    met: Vec<Met>,
    number_of: BTreeMap<StorePath, u32>,
    /// What nodes ask of others, in one list: the part of a node begins where `begins` says.
    edges: Vec<Asked>,
    begins: Vec<usize>,
    names: Names,
    /// One list for each set of outputs, however often it is met: nearly always only `out`.
    lists: BTreeMap<OutputNames, Arc<[Arc<str>]>>,
}

impl Walk {
    fn asked(
        &mut self,
        path: &StorePath,
        outputs: &BTreeSet<String>,
    ) -> Result<Asked, Box<Diagnostic>> {
        let of = match self.number_of.get(path) {
            Some(number) => *number,
            None => {
                let number = number(self.met.len())?;
                self.number_of.insert(path.clone(), number);
                self.met.push(Met {
                    path: path.clone(),
                    node: None,
                    forced: false,
                });
                number
            }
        };
        let names: Box<[Arc<str>]> = outputs.iter().map(|name| self.names.get(name)).collect();
        let outputs = match self.lists.get(&names) {
            Some(list) => list.clone(),
            None => {
                let list: Arc<[Arc<str>]> = names.to_vec().into();
                self.lists.insert(names, list.clone());
                list
            }
        };
        Ok(Asked { of, outputs })
    }

    /// Tells whether an output was looked at.
    fn was_looked_at(&self, of: u32, output: &str) -> bool {
        let met = &self.met[of as usize];
        let to_do = met.node.is_some_and(|id| {
            let outputs = &self.needed.nodes[id as usize].outputs;
            outputs.iter().any(|one| &**one == output)
        });
        to_do
            || self
                .needed
                .known
                .get(&met.path)
                .is_some_and(|made| find(made, output).is_some())
    }

    fn add(
        &mut self,
        builders: &Registry,
        of: u32,
        drv: &Derivation,
        held: Held,
        output: Arc<str>,
    ) -> Result<(), Box<Diagnostic>> {
        let id = number(self.needed.nodes.len())?;
        let met = &mut self.met[of as usize];
        met.node = Some(id);
        for source in &drv.input_srcs {
            self.needed.sources.entry(source.clone()).or_insert(id);
        }
        self.needed.has_step |= drv.builder == b"builtin:step";
        self.needed.has_program |= !drv.builder.starts_with(b"builtin:");
        self.needed.nodes.push(Node {
            path: met.path.clone(),
            held,
            outputs: [output].into(),
            needs: Box::default(),
            system: self.names.get(&drv.system),
            pool: pool_of(builders, drv, Derivation::name_from_path(&met.path)),
            slot: slot_of(builders, drv, Derivation::name_from_path(&met.path)),
            wishing: nix_shape::may_wish(drv),
            fixed: drv.is_fixed(),
            dynamic: is_dynamic(drv),
            demanding: !features::required(drv).is_empty(),
            forced: false,
        });
        Ok(())
    }

    /// Tells every node which others it needs.
    fn connect(&mut self) {
        for (id, first) in self.begins.iter().enumerate() {
            let end = self.begins.get(id + 1).copied();
            let edges = &self.edges[*first..end.unwrap_or(self.edges.len())];
            let nodes = &self.needed.nodes;
            let needs = edges.iter().filter_map(|edge| {
                let need = self.met[edge.of as usize].node?;
                let mut to_make = nodes[need as usize].outputs.iter();
                to_make
                    .any(|one| edge.outputs.contains(one))
                    .then_some(need)
            });
            let needs: Box<[u32]> = needs.collect();
            self.needed.nodes[id].needs = needs;
        }
    }
}

fn number(of: usize) -> Result<u32, Box<Diagnostic>> {
    u32::try_from(of).map_err(|_too_many| {
        Box::new(Diagnostic::error(
            "graph-too-large",
            Class::Other,
            "the graph has more than four thousand million derivations",
        ))
    })
}

fn check_output(
    store: &Store,
    path: &StorePath,
    drv: &Derivation,
    output: &str,
) -> Result<(), Box<Diagnostic>> {
    if drv.outputs.contains_key(output) {
        return Ok(());
    }
    let names: Vec<String> = drv.outputs.keys().map(|o| format!("`{o}`")).collect();
    Err(Box::new(
        Diagnostic::error(
            "build-unknown-output",
            Class::Usage,
            format!(
                "`{}` has no output `{output}`",
                path.absolute(store.store_dir())
            ),
        )
        .note(format!("its outputs are {}", names.join(", ")))
        .suggest(output, drv.outputs.keys().map(String::as_str)),
    ))
}
