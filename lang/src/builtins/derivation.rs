//! `derivation`, `derivationStrict`, `placeholder`.

mod attrs;
pub(super) mod place;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use sos_formats::derivation::{Derivation, Draft};
use sos_formats::hash::{Hash, HashAlgo};
use sos_formats::store_path::{self, StorePath};

use self::attrs::{Input, fail, outputs, read_attrs};
use super::{Prim, p};
use crate::error::{Error, Kind, R, Traced};
use crate::eval::Vm;
use crate::heap::{Attrs, Native, Sym, Value};
use crate::host::ContextElem;
use crate::ir::Pos;

pub(super) static TABLE: &[Prim] = &[
    p(
        "derivationStrict",
        1,
        1,
        strict,
        "Makes a derivation and returns the paths of it and its outputs.",
    ),
    p(
        "placeholder",
        1,
        1,
        placeholder,
        "Returns a string that stands for an output path inside its own derivation.",
    ),
];

static DERIVATION: Prim = p(
    "derivation",
    1,
    1,
    derivation,
    "Makes a derivation, evaluated when one of its paths is needed.",
);

/// The function `derivation`.
pub(super) fn wrapper() -> Value {
    Value::prim(&DERIVATION)
}

fn placeholder(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let o = vm.force_str_no_ctx(a[0], pos)?;
    Ok(Value::string(
        store_path::placeholder(&String::from_utf8_lossy(o)).as_bytes(),
    ))
}

static STRICT: Native = Native {
    run: |vm, a| {
        make(vm, a[0], Pos::NONE, place::Call::unpack(a[1])).map_err(|e| {
            let name = a[0]
                .peel()
                .as_attrs()
                .and_then(|s| s.get(vm.s.name))
                .and_then(|n| n.peel().as_str());
            match name {
                Some(n) => e.frame(
                    format!(
                        "while evaluating derivation '{}'",
                        String::from_utf8_lossy(n.bytes())
                    ),
                    Pos::NONE,
                ),
                None => e,
            }
        })
    },
};
/// Selects an attribute (second word: its name) of a set that is computed when needed.
static SELECT: Native = Native {
    run: |vm, a| {
        let set = vm.force_attrs(a[0], Pos::NONE)?;
        let name = Sym::new(vm.force_str(a[1], Pos::NONE)?.bytes());
        match set.get(name) {
            Some(v) => vm.force(v),
            None => Err(vm.missing(set, name, Pos::NONE)),
        }
    },
};

/// The wrapper: `attrs // outputs // { all; drvAttrs; }`, and per output its path; nothing is computed before it is needed.
fn derivation(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let call = place::Call {
        pos,
        site: vm.site.get(),
    };
    let attrs = vm.force_attrs(a[0], pos)?;
    let drv_attrs = Value::attrs(attrs);
    let made = Value::thunk_native(&STRICT, drv_attrs, call.pack());
    let names: Vec<&'static [u8]> = match attrs.get(vm.s.outputs) {
        None => vec![b"out"],
        Some(o) => {
            let mut v = Vec::new();
            for x in vm.force_list(o, pos)? {
                v.push(vm.force_str(*x, pos)?.bytes());
            }
            v
        }
    };
    if names.is_empty() {
        return Err(Error::new(
            Kind::Derivation,
            pos,
            "derivation cannot have an empty set of outputs",
        ));
    }
    let none = Pos::NONE;
    // The outputs refer to each other, so thunks that are filled at the end tie the knot.
    let values: Vec<(Sym, Value, Pos)> = names
        .iter()
        .map(|n| (Sym::new(n), Value::thunk_native(&STRICT, made, made), none))
        .collect();
    let mut extra: Vec<(Sym, Value, Pos)> = values.clone();
    extra.push((
        vm.s.all,
        Value::list(&values.iter().map(|v| v.1).collect::<Vec<_>>()),
        none,
    ));
    extra.push((vm.s.drv_attrs, drv_attrs, none));
    let base = vm.updates.update(attrs, Attrs::from_pairs(extra));
    for (s, v, _) in &values {
        if let Some(t) = v.as_thunk() {
            t.finish(Value::attrs(
                vm.updates.update(base, output_attrs(vm, made, *s)),
            ));
        }
    }
    vm.force(values[0].1)
}

fn output_attrs(vm: &Vm, made: Value, output: Sym) -> Attrs {
    let none = Pos::NONE;
    Attrs::from_pairs(vec![
        (
            vm.s.out_path,
            Value::thunk_native(&SELECT, made, output.value()),
            none,
        ),
        (
            vm.s.drv_path,
            Value::thunk_native(&SELECT, made, vm.s.drv_path.value()),
            none,
        ),
        (vm.s.typ, Value::string(b"derivation"), none),
        (vm.s.output_name, output.value(), none),
    ])
}

fn strict(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let call = place::Call {
        pos,
        site: vm.site.get(),
    };
    make(vm, a[0], pos, call)
}

fn make(vm: &Vm, attrs: Value, pos: Pos, call: place::Call) -> R {
    let set = vm.force_attrs(attrs, pos)?;
    let Some(name_at) = set.shape().find(vm.s.name) else {
        return Err(vm.missing(set, vm.s.name, pos).frame(
            "in the attrset passed as argument to builtins.derivationStrict",
            pos,
        ));
    };
    let pos = pos.or(set.shape().pos_at(name_at));
    let name = vm.force_str_no_ctx(set.values()[name_at], pos).traced(
        || "while evaluating the `name` attribute passed to builtins.derivationStrict".into(),
        pos,
    )?;
    let name = String::from_utf8_lossy(name).into_owned();
    let given = place::given(vm, set)?;
    let place = match given {
        Some(given) => place::find(vm, given),
        None => place::of_call(vm, set, call),
    };
    // What a library gives a derivation is shown where the user called the library.
    let pos = if given.is_some() { place.or(pos) } else { pos };
    if let Some(why) = super::name_problem(&name) {
        return fail(
            pos,
            format!("invalid derivation name: {why}. Please pass a different 'name'."),
        );
    }
    let input = read_attrs(vm, set, given, &name, pos)
        .map_err(|e| crate::eval::step(e, Sym::new(name.as_bytes()), pos))?;
    instantiate(vm, input, &name, pos, place, given).map_err(|e| {
        e.at(pos)
            .frame(format!("while evaluating derivation '{name}'"), pos)
    })
}

/// Derivations with all that they need.
#[derive(Default)]
struct Closure {
    /// Derivations and sources, as what they are.
    srcs: BTreeSet<StorePath>,
    /// Derivations with all outputs.
    drvs: BTreeMap<StorePath, Rc<Derivation>>,
}

impl Closure {
    /// Adds a derivation and all it needs: every derivation below it with all outputs, and every source.
    fn add(&mut self, vm: &Vm, root: StorePath, pos: Pos) -> R<()> {
        let mut todo = vec![root];
        while let Some(p) = todo.pop() {
            if !self.srcs.insert(p.clone()) {
                continue;
            }
            if !p.is_derivation() {
                if let Some(refs) = vm.text_refs.borrow().get(&p) {
                    todo.extend(refs.iter().cloned());
                }
                continue;
            }
            let d = vm.read_drv(&p, pos)?;
            todo.extend(d.input_drvs.keys().cloned());
            todo.extend(d.input_srcs.iter().cloned());
            self.drvs.insert(p, d);
        }
        Ok(())
    }
}

impl Vm {
    /// A derivation by its path.
    pub(crate) fn read_drv(&self, p: &StorePath, pos: Pos) -> R<Rc<Derivation>> {
        if let Some(d) = self.drvs.borrow().get(p) {
            return Ok(d.clone());
        }
        let d = Rc::new(
            self.host
                .read_derivation(p)
                .map_err(|e| self.host_error(e, pos, &format!("cannot read '{p}'")))?,
        );
        self.drvs.borrow_mut().insert(p.clone(), d.clone());
        Ok(d)
    }
}

fn instantiate(vm: &Vm, mut i: Input, name: &str, pos: Pos, place: Pos, given: Option<Attrs>) -> R {
    if !i.has_builder || i.builder.is_empty() {
        return fail(pos, "required attribute 'builder' missing");
    }
    if i.system.is_empty() {
        return fail(pos, "required attribute 'system' missing");
    }
    if name.ends_with(".drv") {
        return fail(pos, "derivation names are not allowed to end in '.drv'");
    }
    let ctx = std::mem::take(&mut i.ctx).finish(vm);
    let mut closure = Closure::default();
    let mut roots = Vec::new();
    vm.contexts.borrow().each(ctx, |e| {
        if let ContextElem::Closure(p) = e {
            roots.push(p.clone());
        }
    });
    for root in roots {
        closure.add(vm, root, pos)?;
    }
    let contexts = vm.contexts.borrow();
    let (args, env) = (std::mem::take(&mut i.args), std::mem::take(&mut i.env));
    let mut draft = Draft {
        outputs: outputs(vm, &i, pos)?,
        system: &i.system,
        builder: i.builder,
        args,
        env,
        ..Draft::default()
    };
    draft.input_srcs.extend(&closure.srcs);
    for (p, d) in &closure.drvs {
        draft.input_drvs.extend(d.outputs.keys().map(|o| (p, &**o)));
    }
    contexts.each(ctx, |e| match e {
        ContextElem::Opaque(p) => draft.input_srcs.push(p),
        ContextElem::Built(p, o) => draft.input_drvs.push((p, o)),
        ContextElem::Closure(_) => {}
    });
    let mut lookup = |p: &StorePath| -> Result<Derivation, String> {
        vm.read_drv(p, pos)
            .map(|d| Derivation::clone(&d))
            .map_err(|e| e.message)
    };
    let mut hashes = vm.drv_hashes.borrow_mut();
    let path = hashes
        .instantiate(&mut draft, name, &mut lookup)
        .map_err(|e| Error::new(Kind::Derivation, pos, e.to_string()))?;
    vm.host
        .add_derivation(&path, hashes.text())
        .map_err(|e| vm.host_error(e, pos, "cannot store the derivation"))?;
    drop(hashes);
    let dir = vm.host.store_dir();
    let outputs: Vec<(Sym, String)> = draft
        .outputs
        .iter()
        .map(|(o, how)| {
            let text = match how.path(dir, name, o) {
                Some(p) => vm.absolute(&p),
                None => store_path::downstream_placeholder(&path, o),
            };
            (Sym::new(o.as_bytes()), text)
        })
        .collect();
    drop(draft);
    drop(contexts);
    if place != Pos::NONE {
        // The same derivation may be written in several places: the first is as good as any.
        let mut places = vm.drv_places.borrow_mut();
        places.entry(path.clone()).or_insert(place);
        if let Some(given) = given {
            let mut all = vm.drv_given.borrow_mut();
            all.entry(path.clone()).or_insert(given);
        }
    }
    let mut all = Vec::with_capacity(1 + outputs.len());
    all.push((
        vm.s.drv_path,
        Value::string_ctx(
            vm.absolute(&path).as_bytes(),
            vm.ctx_one(ContextElem::Closure(path.clone())),
        ),
        Pos::NONE,
    ));
    for (o, text) in outputs {
        let ctx = vm.ctx_one(ContextElem::Built(path.clone(), o.text().into_owned()));
        all.push((o, Value::string_ctx(text.as_bytes(), ctx), Pos::NONE));
    }
    Ok(Value::attrs(Attrs::from_pairs(all)))
}

/// What an empty hash stands for: whoever does not know the hash yet writes none, and copies it from the error.
pub(super) fn unknown_hash(vm: &Vm, algo: HashAlgo, pos: Pos) -> R<Hash> {
    let zero = Hash::new(algo, &vec![0; algo.digest_len()])
        .map_err(|e| Error::new(Kind::Derivation, pos, e.to_string()))?;
    vm.host
        .warn(&format!("found empty hash, assuming '{}'", zero.to_sri()));
    Ok(zero)
}
