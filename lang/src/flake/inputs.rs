//! What `flake.nix` says of its inputs.

use std::collections::BTreeMap;
use std::rc::Rc;

use sos_formats::flake_ref::{self, Attr, Attrs, FlakeRef};

use super::{Wants, attr_of_value, fail, shown};
use crate::error::{Error, R, Traced};
use crate::eval::Vm;
use crate::heap::{Attrs as Set, Fun, Value};
use crate::host::FetchedTree;
use crate::ir::Pos;

/// One input as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Input {
    /// What it is; none when it follows another one or only has overrides.
    pub(super) reference: Option<FlakeRef>,
    /// Whether it is a flake, or just files.
    pub(super) is_flake: bool,
    /// The input that it is the same as, from the root of the lock.
    pub(super) follows: Option<Vec<String>>,
    /// What is said about its own inputs.
    pub(super) overrides: Inputs,
    /// Where that is written; nowhere when a lock says it.
    pub(super) place: Pos,
}

/// Inputs by name.
pub(super) type Inputs = BTreeMap<String, Input>;

/// How deep overrides may nest.
const MAX_OVERRIDES: usize = 32;

/// A flake that was fetched.
pub(super) struct Flake {
    /// What it stands for now.
    pub(super) locked: FlakeRef,
    /// Its files.
    pub(super) tree: Rc<FetchedTree>,
    /// Its inputs.
    pub(super) inputs: Inputs,
    /// How it wants to be fetched itself: `inputs.self.submodules = true;`.
    wants: Attrs,
}

impl Flake {
    /// The directory that holds `flake.nix`, in the logical store.
    pub(super) fn directory(&self, vm: &Vm) -> Vec<u8> {
        let mut at = vm.absolute(&self.tree.path).into_bytes();
        if !self.locked.dir.is_empty() {
            at.push(b'/');
            at.extend_from_slice(self.locked.dir.as_bytes());
        }
        crate::eval::canon_path(&at)
    }
}

impl Vm {
    /// Fetches a flake and reads its inputs; what they follow is seen from `lock_root`.
    pub(super) fn read_flake(
        &self,
        reference: &FlakeRef,
        base: Option<&[u8]>,
        lock_root: &[String],
        pos: Pos,
    ) -> R<Flake> {
        let wants = Wants {
            base,
            ..Wants::default()
        };
        let tree = self.fetch_tree(&reference.tree, &wants, pos)?;
        let mut flake = Flake {
            locked: FlakeRef {
                tree: tree.attrs.clone(),
                dir: reference.dir.clone(),
            },
            tree,
            inputs: Inputs::new(),
            wants: Attrs::new(),
        };
        let mut file = flake.directory(self);
        file.extend_from_slice(b"/flake.nix");
        self.admit(&file)
            .map_err(|e| self.io_error(&e, &file, pos))?;
        if !matches!(self.file_type(&file), Ok(Some(_))) {
            let dir = &reference.dir;
            let slash = if dir.is_empty() { "" } else { "/" };
            let mut e = fail(
                pos,
                format!(
                    "source tree referenced by '{}' does not contain a '{dir}{slash}flake.nix' file",
                    shown(reference)
                ),
            );
            if flake_ref::kind(&reference.tree) == "git" {
                e = e.help(
                    "in a git repository only files that git tracks are seen: `git add flake.nix`",
                );
            }
            return Err(e);
        }
        let whole = self.import_file(&file, pos)?;
        let set = whole.as_attrs().ok_or_else(|| {
            fail(
                pos,
                format!(
                    "file '{}' must be an attribute set",
                    String::from_utf8_lossy(&file)
                ),
            )
        })?;
        self.read_top(&mut flake, set, reference, lock_root, pos)
            .traced(
                || format!("while reading the flake '{}'", shown(reference)),
                pos,
            )?;
        let missing = |(name, value)| reference.tree.get(name) != Some(value);
        if flake.wants.iter().any(missing) {
            let mut again = reference.clone();
            again.tree.extend(flake.wants);
            // The hash is that of the tree without what is wanted.
            again.tree.remove("narHash");
            return self.read_flake(&again, base, lock_root, pos);
        }
        Ok(flake)
    }

    fn read_top(
        &self,
        flake: &mut Flake,
        set: Set,
        reference: &FlakeRef,
        lock_root: &[String],
        pos: Pos,
    ) -> R<()> {
        for (name, _, at) in set.entries() {
            let text = name.text();
            if !["description", "inputs", "outputs", "nixConfig"].contains(&&*text) {
                return Err(fail(
                    at.or(pos),
                    format!(
                        "flake '{}' has an unsupported attribute '{text}'",
                        shown(reference)
                    ),
                )
                .help("a flake has `description`, `inputs`, `outputs` and `nixConfig`"));
            }
        }
        let find = |name: &[u8]| {
            let mut all = set.entries();
            let found = all.find(|(s, _, _)| s.bytes() == name);
            found.map(|(_, v, at)| (v, at.or(pos)))
        };
        if let Some((d, at)) = find(b"description") {
            self.force_str(d, at)?;
        }
        if let Some((inputs, at)) = find(b"inputs") {
            let inputs = self.force_attrs(inputs, at)?;
            if let Some((_, v, at)) = inputs.entries().find(|(s, _, _)| s.bytes() == b"self") {
                flake.wants = self.read_self(v, &reference.tree, at.or(pos))?;
            }
            flake.inputs = self.read_inputs(Value::attrs(inputs), lock_root, 0, at)?;
        }
        let Some((outputs, at)) = find(b"outputs") else {
            return Err(fail(
                pos,
                format!("flake '{}' lacks attribute 'outputs'", shown(reference)),
            ));
        };
        let outputs = self.force_fun(outputs, at)?;
        // An input need not be listed when the outputs ask for it: then its name is looked up in a registry.
        if let Some(Fun::Closure(l, _)) = outputs.as_fun()
            && l.arity == 1
        {
            for formal in l.formals.iter().flat_map(|f| &f.names) {
                let name = formal.name.text().into_owned();
                if name != "self" {
                    let entry = flake.inputs.entry(name);
                    entry.or_insert_with_key(|name| Input {
                        reference: Some(registered(name)),
                        is_flake: true,
                        follows: None,
                        overrides: Inputs::new(),
                        place: formal.pos,
                    });
                }
            }
        }
        Ok(())
    }

    /// What a flake says about how it is fetched itself.
    fn read_self(&self, v: Value, tree: &Attrs, pos: Pos) -> R<Attrs> {
        let mut wants = Attrs::new();
        for (name, v, at) in self.force_attrs(v, pos)?.entries() {
            let at = at.or(pos);
            let name = name.text().into_owned();
            if !matches!(name.as_str(), "submodules" | "lfs") {
                return Err(fail(
                    at,
                    format!("flake input attribute '{name}' cannot be set for 'self'"),
                ));
            }
            let on = self.force_bool(v, at)?;
            // Only git knows submodules; what is off is off anyway.
            if on && flake_ref::kind(tree) == "git" {
                wants.insert(name, Attr::Bool(on));
            }
        }
        Ok(wants)
    }

    fn read_inputs(&self, v: Value, lock_root: &[String], depth: usize, pos: Pos) -> R<Inputs> {
        if depth > MAX_OVERRIDES {
            return Err(fail(pos, "inputs of a flake are nested too deeply"));
        }
        let set = self.force_attrs(v, pos)?;
        let mut out = Inputs::new();
        for (name, v, at) in set.entries() {
            let name = name.text().into_owned();
            if name == "self" && depth == 0 {
                continue;
            }
            let input = self
                .read_input(&name, v, lock_root, depth, at.or(pos))
                .traced(|| format!("while reading the flake input '{name}'"), at)?;
            out.insert(name, input);
        }
        Ok(out)
    }

    fn read_input(
        &self,
        name: &str,
        v: Value,
        lock_root: &[String],
        depth: usize,
        pos: Pos,
    ) -> R<Input> {
        let set = self.force_attrs(v, pos)?;
        let mut input = Input {
            reference: None,
            is_flake: true,
            follows: None,
            overrides: Inputs::new(),
            place: pos,
        };
        let mut attrs = Attrs::new();
        let mut url = None;
        for (key, v, at) in set.entries() {
            let at = at.or(pos);
            match &*key.text() {
                "url" => {
                    let v = self.force(v)?;
                    let text = match v.as_path() {
                        Some(p) => p.to_vec(),
                        None => self.force_str(v, at)?.bytes().to_vec(),
                    };
                    let text = String::from_utf8_lossy(&text).into_owned();
                    attrs.insert("url".into(), Attr::Str(text.clone()));
                    url = Some((text, at));
                }
                "flake" => input.is_flake = self.force_bool(v, at)?,
                "inputs" => input.overrides = self.read_inputs(v, lock_root, depth + 1, at)?,
                "follows" => {
                    let text = self.force_str(v, at)?.bytes();
                    let text = String::from_utf8_lossy(text).into_owned();
                    let mut path = lock_root.to_vec();
                    path.extend(text.split('/').filter(|p| !p.is_empty()).map(str::to_owned));
                    input.follows = Some(path);
                }
                other => {
                    let attr = attr_of_value(self, other, v, "flake input", at)?;
                    attrs.insert(other.to_owned(), attr);
                }
            }
        }
        let bad = |e: flake_ref::RefError, at: Pos| fail(at, e.0);
        if attrs.contains_key("type") {
            input.reference = Some(FlakeRef::from_attrs(attrs).map_err(|e| bad(e, pos))?);
        } else {
            attrs.remove("url");
            if let Some(name) = attrs.keys().next() {
                return Err(fail(
                    pos,
                    format!("unexpected flake input attribute '{name}'"),
                ));
            }
            if let Some((url, at)) = url {
                let (reference, fragment) =
                    FlakeRef::parse(&url, input.is_flake).map_err(|e| bad(e, at))?;
                if !fragment.is_empty() {
                    return Err(fail(
                        at,
                        format!("unexpected fragment '{fragment}' in flake reference '{url}'"),
                    ));
                }
                input.reference = Some(reference);
                input.place = at;
            }
        }
        // What only speaks of the inputs of an input leaves the input itself as it is.
        if input.follows.is_none() && input.reference.is_none() && depth == 0 {
            input.reference = Some(registered(name));
        }
        Ok(input)
    }
}

/// The flake of that name in a registry.
fn registered(name: &str) -> FlakeRef {
    let tree = [("type", "indirect"), ("id", name)];
    FlakeRef {
        tree: tree
            .map(|(k, v)| (k.to_owned(), Attr::Str(v.to_owned())))
            .into(),
        dir: String::new(),
    }
}

/// The error of a lock that cannot be read.
#[cold]
pub(super) fn bad_lock(file: &[u8], e: &flake_ref::RefError, pos: Pos) -> Box<Error> {
    fail(
        pos,
        format!(
            "cannot read the lock '{}': {}",
            String::from_utf8_lossy(file),
            e.0
        ),
    )
    .help("remove the lock to have it made anew")
}
