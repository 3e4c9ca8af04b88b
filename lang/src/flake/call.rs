//! From a reference to the value of a flake.

use std::path::PathBuf;

use sos_formats::flake_lock::{Edge, FlakeLock, ROOT};
use sos_formats::flake_ref::{self, Attrs, FlakeRef};

use super::inputs::Flake;
use super::{Wants, attr_of_value, fail, shown};
use crate::builtins::Prim;
use crate::error::{Kind, R};
use crate::eval::{Vm, os_path};
use crate::heap::{Attrs as Set, Sym, Value};
use crate::host::FlakeLocks;
use crate::ir::Pos;

/// What may happen to the lock.
pub(crate) struct LockFlags {
    /// Whether a lock that changed is written.
    pub(crate) write: FlakeLocks,
    /// Whether inputs that can change may be pinned.
    pub(crate) may_pin: bool,
    /// The inputs that are pinned anew, as `a/b`; an empty list means all.
    pub(crate) update: Option<Vec<String>>,
}

impl LockFlags {
    /// Whether every input is pinned anew.
    pub(super) fn all(&self) -> bool {
        self.update.as_ref().is_some_and(Vec::is_empty)
    }

    /// Whether this input is pinned anew.
    pub(super) fn moves(&self, path: &[String]) -> bool {
        let path = path.join("/");
        self.update.iter().flatten().any(|u| *u == path)
    }

    /// Whether an input below this one is pinned anew.
    pub(super) fn moves_below(&self, path: &[String]) -> bool {
        let prefix = path.join("/") + "/";
        self.update.iter().flatten().any(|u| u.starts_with(&prefix))
    }
}

/// Fetches what a lock pins; the flake's own code cannot name it.
pub(crate) static FETCH_FINAL: Prim = crate::builtins::internal(
    "fetchFinalTree",
    2,
    fetch_final,
    "Fetches a tree that a lock pins.",
);

fn fetch_final(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let base = vm.force_str(a[0], pos)?.bytes();
    let set = vm.force_attrs(a[1], pos)?;
    let mut attrs = Attrs::new();
    for (name, v) in set.iter() {
        let name = name.text().into_owned();
        let attr = attr_of_value(vm, &name, v, "fetchFinalTree", pos)?;
        attrs.insert(name, attr);
    }
    attrs.remove("__final");
    let wants = Wants {
        base: Some(base).filter(|b| !b.is_empty()),
        ..Wants::default()
    };
    let tree = vm.fetch_tree(&attrs, &wants, pos)?;
    let both = [
        ("info", vm.tree_value(&tree, false, false)),
        ("place", vm.tree_place(&tree)),
    ];
    let both = both.map(|(k, v)| (Sym::new(k.as_bytes()), v, Pos::NONE));
    Ok(Value::attrs(Set::from_pairs(both.into())))
}

impl Vm {
    /// The value of a flake.
    pub(crate) fn flake(&self, reference: &FlakeRef, flags: &LockFlags, pos: Pos) -> R {
        let key = shown(reference);
        if let Some(v) = self.trees.flakes.borrow().get(&key) {
            return Ok(*v);
        }
        let mut flake = self.read_flake(reference, None, &[], pos)?;
        let old = self.read_lock(&flake, pos)?;
        for name in flags.update.iter().flatten() {
            let path: Vec<String> = name.split('/').map(str::to_owned).collect();
            let known = flake.inputs.contains_key(name) || old.find(&path).is_some();
            if !known {
                let e = fail(pos, format!("flake '{key}' has no input '{name}'"));
                let known = flake.inputs.keys().map(String::as_str);
                return Err(crate::eval::suggest(e, name, known));
            }
        }
        let new = self.complete_lock(&flake, old.clone(), flags, pos)?;
        let mut dirty = false;
        if new.to_json() != old.to_json() {
            match self.store_lock(reference, &old, &new, flags, pos)? {
                // The lock is part of the tree, which is another one now.
                true => {
                    self.forget_tree(&reference.tree);
                    flake = self.read_flake(reference, None, &[], pos)?;
                }
                false => dirty = true,
            }
        }
        let v = self.call_flake(&flake, &new, dirty, pos)?;
        self.trees.flakes.borrow_mut().insert(key, v);
        Ok(v)
    }

    /// Writes a lock that changed, where that can be done; says whether it was.
    fn store_lock(
        &self,
        reference: &FlakeRef,
        old: &FlakeLock,
        new: &FlakeLock,
        flags: &LockFlags,
        pos: Pos,
    ) -> R<bool> {
        let url = shown(reference);
        match flags.write {
            FlakeLocks::Refuse => {
                return Err(fail(
                    pos,
                    format!("flake '{url}' requires lock file changes but they're not allowed due to '--locked'"),
                )
                .help("run the same command once without `--locked`, and keep the `flake.lock` that it writes"));
            }
            FlakeLocks::Keep => return Ok(false),
            FlakeLocks::Write => {}
        }
        let Some(mut place) = local_directory(reference) else {
            return Err(fail(
                pos,
                format!("cannot write modified lock file of flake '{url}'"),
            )
            .help("the flake lacks an up-to-date `flake.lock`, and is not a directory of this machine that could be changed"));
        };
        if let Some(open) = new.unlocked().next() {
            self.host.warn(&format!(
                "will not write lock file of flake '{url}' because it has an unlocked input ('{}')",
                shown(open)
            ));
            return Ok(false);
        }
        place.push(&reference.dir);
        place.push("flake.lock");
        let changes = changes(old, new);
        let what = if *old == FlakeLock::default() {
            format!("creating lock file '{}'", place.display())
        } else {
            format!("updating lock file '{}'", place.display())
        };
        self.host
            .write_flake_lock(&place, &new.to_text())
            .map_err(|e| self.host_error(e, pos, &format!("cannot write '{}'", place.display())))?;
        self.host.warn(&format!("{what}{changes}"));
        Ok(true)
    }

    /// Calls the outputs function of a flake with its inputs.
    fn call_flake(&self, flake: &Flake, lock: &FlakeLock, dirty: bool, pos: Pos) -> R {
        let file = [super::super::eval::virtual_root(), b"nix/call-flake.nix"].concat();
        let call = self.import_file(&file, pos)?;
        let mut text = lock.to_json();
        // Every node learns which node lists it first: there a relative path starts.
        let owners = owners(&text);
        if let Some(nodes) = text.get_mut("nodes").and_then(|n| n.as_object_mut()) {
            for (child, owner) in owners {
                if let Some(node) = nodes.get_mut(&child).and_then(|n| n.as_object_mut()) {
                    node.insert("owner".into(), owner.into());
                }
            }
        }
        let root = self.tree_value(&flake.tree, false, dirty);
        let args = [
            ("lock", Value::string(text.to_string().as_bytes())),
            ("root", root),
            ("rootPlace", self.tree_place(&flake.tree)),
            ("rootDir", Value::string(flake.locked.dir.as_bytes())),
            ("fetch", Value::prim(&FETCH_FINAL)),
        ];
        let args = args.map(|(k, v)| (Sym::new(k.as_bytes()), v, Pos::NONE));
        self.call(call, &[Value::attrs(Set::from_pairs(args.into()))], pos)
    }

    /// `builtins.getFlake`.
    pub(crate) fn get_flake(&self, text: &str, pos: Pos) -> R {
        let (reference, fragment) = FlakeRef::parse(text, true).map_err(|e| fail(pos, e.0))?;
        if !fragment.is_empty() {
            return Err(fail(
                pos,
                format!("unexpected fragment '{fragment}' in flake reference '{text}'"),
            ));
        }
        if reference.is_relative() {
            return Err(fail(
                pos,
                format!("flake reference '{text}' is not an absolute path"),
            ));
        }
        let pure = self.options.pure;
        if pure && !flake_ref::is_locked(&reference.tree) {
            let e = crate::error::Error::new(
                Kind::Pure,
                pos,
                format!(
                    "cannot call 'getFlake' on unlocked flake reference '{text}', at {} (use --impure to override)",
                    self.show_pos(pos)
                ),
            );
            return Err(e);
        }
        let flags = LockFlags {
            write: FlakeLocks::Keep,
            may_pin: !pure,
            update: None,
        };
        self.flake(&reference, &flags, pos)
    }
}

/// The directory of this machine that a reference names, when it names its present state.
fn local_directory(reference: &FlakeRef) -> Option<PathBuf> {
    let tree = &reference.tree;
    let text = |name| flake_ref::text(tree, name);
    match flake_ref::kind(tree) {
        "path" if text("narHash").is_none() => text("path").map(|p| os_path(p.as_bytes())),
        "git" if text("rev").is_none() && text("ref").is_none() => {
            let url = flake_ref::Url::parse(text("url")?).ok()?;
            (url.scheme == "file").then(|| os_path(url.path.as_bytes()))
        }
        _ => None,
    }
}

/// The node that lists each node first, by key.
fn owners(lock: &serde_json::Value) -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> = Vec::new();
    let nodes = lock.get("nodes").and_then(|n| n.as_object());
    for (key, node) in nodes.into_iter().flatten() {
        let inputs = node.get("inputs").and_then(|i| i.as_object());
        for child in inputs
            .into_iter()
            .flatten()
            .filter_map(|(_, to)| to.as_str())
        {
            if out.iter().all(|(c, _)| c != child) {
                out.push((child.to_owned(), key.clone()));
            }
        }
    }
    out
}

/// What differs between two locks, for people.
fn changes(old: &FlakeLock, new: &FlakeLock) -> String {
    let inputs = |lock: &FlakeLock| -> std::collections::BTreeMap<String, String> {
        let root = lock.nodes[ROOT].inputs.iter();
        root.map(|(name, edge)| {
            let to = match edge {
                Edge::Node(n) => lock
                    .nodes
                    .get(*n)
                    .and_then(|n| n.pinned.as_ref())
                    .map_or_else(String::new, |p| format!("'{}'", shown(&p.locked))),
                Edge::Follows(path) => format!("follows '{}'", path.join("/")),
            };
            (name.clone(), to)
        })
        .collect()
    };
    let (old, new) = (inputs(old), inputs(new));
    let mut out = String::new();
    let mut line = |text: String| {
        out.push('\n');
        out.push_str(&text);
    };
    for (name, to) in &new {
        match old.get(name) {
            None => line(format!("• Added input '{name}':\n    {to}")),
            Some(was) if was != to => {
                line(format!("• Updated input '{name}':\n    {was}\n  → {to}"));
            }
            Some(_) => {}
        }
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        line(format!("• Removed input '{name}'"));
    }
    out
}
