//! Completes the lock of a flake: what the old lock has and is still meant stays as it is, the rest is fetched and pinned.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;

use sos_formats::flake_lock::{Edge, FlakeLock, Node, Pinned, ROOT};
use sos_formats::flake_ref::{self, FlakeRef};

use super::inputs::{Flake, Input, Inputs, bad_lock};
use super::tree::no_registry;
use super::{LockFlags, Wants, fail, shown};
use crate::error::{Error, R};
use crate::eval::Vm;
use crate::ir::Pos;

/// Nodes of one lock.
const MAX_NODES: usize = 20_000;

/// A node of a lock that was there before.
type Old = Option<(Rc<FlakeLock>, usize)>;

struct Locker<'a> {
    vm: &'a Vm,
    flags: &'a LockFlags,
    pos: Pos,
    new: FlakeLock,
    /// What flakes further up say of inputs, by path from the root.
    overrides: BTreeMap<Vec<String>, Input>,
    used: BTreeSet<Vec<String>>,
    /// The flakes that are being looked at.
    parents: Vec<FlakeRef>,
}

/// Where an input stands.
struct Place<'a> {
    /// Its inputs go to this node.
    node: usize,
    /// Names from the root.
    path: &'a [String],
    /// What a lock of before has at this node.
    old: &'a Old,
    /// Where `follows` of that lock start.
    lock_root: &'a [String],
    /// Where relative paths start; none when the flake was not fetched.
    base: Option<&'a [u8]>,
    /// Whether the lock of before was made for exactly these inputs.
    trust: bool,
}

impl Vm {
    /// The lock beside a flake; an empty one when there is none.
    pub(super) fn read_lock(&self, flake: &Flake, pos: Pos) -> R<FlakeLock> {
        let mut file = flake.directory(self);
        file.extend_from_slice(b"/flake.lock");
        match self.read_file(&file) {
            Ok(text) => FlakeLock::parse(&text).map_err(|e| bad_lock(&file, &e, pos)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(FlakeLock::default()),
            Err(e) => Err(self.io_error(&e, &file, pos)),
        }
    }

    /// The complete lock for a flake, from the one that it has.
    pub(super) fn complete_lock(
        &self,
        flake: &Flake,
        old: FlakeLock,
        flags: &LockFlags,
        pos: Pos,
    ) -> R<FlakeLock> {
        let mut locker = Locker {
            vm: self,
            flags,
            pos,
            new: FlakeLock::default(),
            overrides: BTreeMap::new(),
            used: BTreeSet::new(),
            parents: Vec::new(),
        };
        let directory = flake.directory(self);
        let place = Place {
            node: ROOT,
            path: &[],
            old: &Some((Rc::new(old), ROOT)).filter(|_| !flags.all()),
            lock_root: &[],
            base: Some(&directory),
            trust: true,
        };
        locker.inputs(&flake.inputs, &place)?;
        for path in locker.overrides.keys() {
            if !locker.used.contains(path) {
                let parent = path[..path.len() - 1].join("/");
                self.host.warn(&format!(
                    "input '{parent}' has an override for a non-existent input '{}'",
                    path.last().map_or("", String::as_str)
                ));
            }
        }
        if let Some((input, to)) = locker.new.dangling().into_iter().next() {
            return Err(fail(
                pos,
                format!("input '{input}' follows a non-existent input '{to}'"),
            ));
        }
        Ok(locker.new)
    }
}

/// Says which input needs a registry.
#[cold]
fn unknown(path: &[String], reference: &FlakeRef, at: Pos) -> Box<Error> {
    let message = format!(
        "cannot find flake '{}' of the input '{}' in the flake registries",
        shown(reference),
        path.join("/")
    );
    fail(at, message).help(no_registry(&reference.tree))
}

impl Locker<'_> {
    fn inputs(&mut self, inputs: &Inputs, place: &Place<'_>) -> R<()> {
        self.vm.check_stack()?;
        // What a flake further up said before counts more than what this one says.
        for (name, input) in inputs {
            for (inner, over) in &input.overrides {
                let mut path = place.path.to_vec();
                path.extend([name.clone(), inner.clone()]);
                self.overrides.entry(path).or_insert_with(|| over.clone());
            }
        }
        for (name, written) in inputs {
            let mut path = place.path.to_vec();
            path.push(name.clone());
            let over = self.overrides.get(&path).cloned();
            if let Some(over) = &over {
                self.used.insert(path.clone());
                // What is below it is meant for whatever it is.
                for (inner, below) in &over.overrides {
                    let mut path = path.clone();
                    path.push(inner.clone());
                    self.overrides.entry(path).or_insert_with(|| below.clone());
                }
            }
            let over = over.filter(|o| o.reference.is_some() || o.follows.is_some());
            let overridden = over.is_some();
            let input = match over {
                Some(over) => Input {
                    is_flake: written.is_flake,
                    ..over
                },
                None => written.clone(),
            };
            if let Some(follows) = input.follows {
                self.set(place.node, name, Edge::Follows(follows));
                continue;
            }
            let Some(reference) = input.reference.clone() else {
                continue;
            };
            let old = place.old.as_ref().and_then(|(lock, at)| {
                match lock.nodes.get(*at)?.inputs.get(name)? {
                    Edge::Node(n) => Some((lock.clone(), *n)),
                    Edge::Follows(_) => None,
                }
            });
            let kept = old.as_ref().and_then(|(lock, n)| {
                let pinned = lock.nodes.get(*n)?.pinned.as_ref()?;
                let same = pinned.original == reference
                    && pinned.is_flake == input.is_flake
                    && !overridden
                    && !self.flags.moves(&path)
                    // The tree around it may have changed.
                    && !(reference.is_relative() && pinned.parent.is_none());
                same.then(|| pinned.clone())
            });
            match (kept, &old) {
                (Some(pinned), Some((lock, n))) => {
                    self.keep(name, &path, pinned, (lock.clone(), *n), place)?;
                }
                _ if flake_ref::kind(&reference.tree) == "indirect" => {
                    return Err(unknown(&path, &reference, input.place.or(self.pos)));
                }
                _ => {
                    let original = written.reference.clone().unwrap_or(reference.clone());
                    self.pin(
                        name,
                        &path,
                        (&reference, original),
                        input.is_flake,
                        &old,
                        place,
                    )?;
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, node: usize, name: &str, edge: Edge) {
        self.new.nodes[node].inputs.insert(name.to_owned(), edge);
    }

    fn add(&mut self, place: &Place<'_>, name: &str, pinned: Pinned) -> R<usize> {
        if self.new.nodes.len() >= MAX_NODES {
            return Err(fail(
                self.pos,
                format!("the flake has more than {MAX_NODES} inputs"),
            ));
        }
        let node = self.new.add(Node {
            inputs: BTreeMap::new(),
            pinned: Some(pinned),
        });
        self.set(place.node, name, Edge::Node(node));
        Ok(node)
    }

    /// Takes an input from the lock of before. Its flake is fetched only when what is said about its inputs has changed.
    fn keep(
        &mut self,
        name: &str,
        path: &[String],
        pinned: Pinned,
        old: (Rc<FlakeLock>, usize),
        place: &Place<'_>,
    ) -> R<()> {
        let mut below = Inputs::new();
        let mut fetch = self.flags.moves_below(path);
        let of_lock = old.0.nodes.get(old.1);
        for (inner, edge) in of_lock.iter().flat_map(|n| &n.inputs) {
            let mut here = path.to_vec();
            here.push(inner.clone());
            let input = match edge {
                Edge::Node(n) => match old.0.nodes.get(*n).and_then(|n| n.pinned.as_ref()) {
                    Some(p) => {
                        fetch |= p.original.is_relative() && p.parent.is_none();
                        Input {
                            reference: Some(p.original.clone()),
                            is_flake: p.is_flake,
                            follows: None,
                            overrides: Inputs::new(),
                            place: Pos::NONE,
                        }
                    }
                    None => continue,
                },
                Edge::Follows(to) => {
                    // An override that was taken away leaves a hole that only the flake itself can fill.
                    fetch |= place.trust && !self.overrides.contains_key(&here);
                    let mut follows = place.lock_root.to_vec();
                    follows.extend(to.iter().cloned());
                    Input {
                        reference: None,
                        is_flake: true,
                        follows: Some(follows),
                        overrides: Inputs::new(),
                        place: Pos::NONE,
                    }
                }
            };
            below.insert(inner.clone(), input);
        }
        let is_flake = pinned.is_flake;
        let locked = pinned.locked.clone();
        let node = self.add(place, name, pinned)?;
        if !is_flake {
            return Ok(());
        }
        let mut directory = None;
        if fetch && (place.base.is_some() || !locked.is_relative()) {
            let flake = self.vm.read_flake(&locked, place.base, path, self.pos)?;
            directory = Some(flake.directory(self.vm));
            below = flake.inputs;
        }
        let old = Some(old);
        self.inputs(
            &below,
            &Place {
                node,
                path,
                old: &old,
                lock_root: place.lock_root,
                base: directory.as_deref(),
                trust: place.trust,
            },
        )
    }

    /// Fetches an input and pins what it is now.
    fn pin(
        &mut self,
        name: &str,
        path: &[String],
        (reference, original): (&FlakeRef, FlakeRef),
        is_flake: bool,
        old: &Old,
        place: &Place<'_>,
    ) -> R<()> {
        // What lies in the tree of another flake is as fixed as that is.
        let inside = reference.is_relative() && place.base.is_some();
        if !self.flags.may_pin && !inside && !flake_ref::is_locked(&reference.tree) {
            return Err(fail(
                self.pos,
                format!(
                    "cannot update unlocked flake input '{}' in pure mode",
                    path.join("/")
                ),
            ));
        }
        if !is_flake {
            let wants = Wants {
                base: place.base,
                ..Wants::default()
            };
            let tree = self.vm.fetch_tree(&reference.tree, &wants, self.pos)?;
            let locked = FlakeRef {
                tree: tree.attrs.clone(),
                dir: reference.dir.clone(),
            };
            self.add(
                place,
                name,
                Pinned {
                    original,
                    locked,
                    is_flake,
                    parent: None,
                },
            )?;
            return Ok(());
        }
        if self.parents.contains(reference) {
            return Err(fail(
                self.pos,
                format!("found circular import of flake '{}'", shown(reference)),
            ));
        }
        let flake = self.vm.read_flake(reference, place.base, path, self.pos)?;
        let node = self.add(
            place,
            name,
            Pinned {
                original,
                locked: flake.locked.clone(),
                is_flake,
                parent: None,
            },
        )?;
        self.parents.push(reference.clone());
        let directory = flake.directory(self.vm);
        // Unless this lock knew the input before, the flake's own lock says what its inputs are.
        let (old, lock_root): (Old, &[String]) = match old {
            Some(_) => (old.clone(), place.lock_root),
            None => (
                Some((Rc::new(self.vm.read_lock(&flake, self.pos)?), ROOT)),
                path,
            ),
        };
        self.inputs(
            &flake.inputs,
            &Place {
                node,
                path,
                old: &old,
                lock_root,
                base: Some(&directory),
                trust: false,
            },
        )?;
        self.parents.pop();
        Ok(())
    }
}
