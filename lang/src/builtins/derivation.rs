//! `derivation`, `derivationStrict`, `placeholder`.

pub(super) mod place;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use sos_formats::Bytes;
use sos_formats::derivation::{Derivation, Draft, Method, Output};
use sos_formats::hash::{Hash, HashAlgo};
use sos_formats::store_path::{self, StorePath};

use super::{Prim, p};
use crate::error::{Error, Kind, R, Traced};
use crate::eval::context::Collector;
use crate::eval::{Coerce, Vm};
use crate::heap::{Attrs, Native, Str, Sym, Value};
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

/// What was read from the attributes. Their texts live as long as the evaluation.
#[derive(Default)]
struct Input {
    system: Cow<'static, str>,
    builder: &'static [u8],
    args: Vec<&'static [u8]>,
    env: Vec<(&'static [u8], &'static [u8])>,
    ctx: Collector,
    structured: Option<BTreeMap<&'static [u8], Bytes>>,
    outputs: Vec<Cow<'static, str>>,
    output_hash: Option<&'static [u8]>,
    output_hash_algo: Option<&'static [u8]>,
    output_hash_mode: Option<&'static [u8]>,
    content_addressed: bool,
    has_builder: bool,
}

fn fail<T>(pos: Pos, m: impl Into<String>) -> R<T> {
    Err(Error::new(Kind::Derivation, pos, m))
}

fn flag(vm: &Vm, set: Attrs, name: Sym, pos: Pos) -> R<bool> {
    match set.get(name) {
        Some(v) => vm.force_bool(v, pos).traced(
            || {
                format!(
                    "while evaluating the `{}` attribute passed to builtins.derivationStrict",
                    name.text()
                )
            },
            pos,
        ),
        None => Ok(false),
    }
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

fn read_attrs(vm: &Vm, set: Attrs, given: Option<Attrs>, name: &str, pos: Pos) -> R<Input> {
    let mut i = Input {
        outputs: vec!["out".into()],
        env: Vec::with_capacity(set.len()),
        ..Input::default()
    };
    let ignore_nulls = flag(vm, set, vm.s.ignore_nulls, pos)?;
    if flag(vm, set, vm.s.structured_attrs, pos)? {
        i.structured = Some(BTreeMap::new());
    }
    for (k, (s, v)) in set.iter_by_name().enumerate() {
        let key = s.bytes();
        if key == b"__ignoreNulls" || (key == place::NAME && given.is_some()) {
            continue;
        }
        if ignore_nulls && vm.force(v)? == Value::NULL {
            continue;
        }
        let own = || set.shape().pos_at(set.shape().by_name()[k] as usize);
        let at = match given {
            Some(given) => place::of(vm, given, s),
            None => own(),
        };
        let at = at.or(pos);
        read_attr(vm, &mut i, key, v, at).map_err(|e| {
            let what = format!(
                "while evaluating attribute '{}' of derivation '{name}'",
                s.text()
            );
            crate::eval::step(e, s, at).frame(what, at)
        })?;
    }
    if let Some(json) = i.structured.take() {
        let mut out = b"{".to_vec();
        for (n, (k, v)) in json.iter().enumerate() {
            if n > 0 {
                out.push(b',');
            }
            super::json::quote(&mut out, k, pos)?;
            out.push(b':');
            out.extend_from_slice(v);
        }
        out.push(b'}');
        i.env.push((b"__json", Str::new(&out, 0).bytes()));
    }
    Ok(i)
}

fn text(vm: &Vm, i: &mut Input, v: Value, pos: Pos) -> R<&'static [u8]> {
    let s = vm.coerce(v, Coerce::ENV, pos)?;
    i.ctx.add(s.ctx());
    Ok(s.bytes())
}

fn read_attr(vm: &Vm, i: &mut Input, key: &'static [u8], v: Value, pos: Pos) -> R<()> {
    match key {
        // Only a false one reaches the builder.
        b"__contentAddressed" if vm.force_bool(v, pos)? => {
            i.content_addressed = true;
            return Ok(());
        }
        b"__impure" if vm.force_bool(v, pos)? => {
            return fail(pos, "impure derivations are not supported");
        }
        b"args" => {
            for x in vm.force_list(v, pos)? {
                let s = text(vm, i, *x, pos).traced(
                    || "while evaluating an element of the argument list".into(),
                    pos,
                )?;
                i.args.push(s);
            }
            return Ok(());
        }
        _ => {}
    }
    if i.structured.is_some() {
        return read_structured(vm, i, key, v, pos);
    }
    let s = text(vm, i, v, pos)?;
    match key {
        b"builder" => {
            i.has_builder = true;
            i.builder = s;
        }
        b"system" => i.system = String::from_utf8_lossy(s),
        b"outputHash" => i.output_hash = Some(s),
        b"outputHashAlgo" => i.output_hash_algo = Some(s),
        b"outputHashMode" => {
            i.output_hash_mode = Some(s);
            method(i, pos)?;
        }
        b"outputs" => {
            let words = s
                .split(|b| b.is_ascii_whitespace())
                .filter(|w| !w.is_empty());
            set_outputs(i, words, pos)?;
        }
        _ => {}
    }
    i.env.push((key, s));
    Ok(())
}

fn read_structured(vm: &Vm, i: &mut Input, key: &'static [u8], v: Value, pos: Pos) -> R<()> {
    if key == b"__structuredAttrs" {
        return Ok(());
    }
    let mut json = Vec::new();
    super::json::write(vm, v, true, &mut json, &mut i.ctx, pos)?;
    if let Some(map) = &mut i.structured {
        map.insert(key, json);
    }
    let string = |i: &mut Input| -> R<&'static [u8]> {
        let s = vm.force_str(v, pos)?;
        i.ctx.add(s.ctx());
        Ok(s.bytes())
    };
    match key {
        b"builder" => {
            i.builder = string(i)?;
            i.has_builder = true;
        }
        b"system" => {
            i.system = String::from_utf8_lossy(vm.force_str_no_ctx(v, pos)?);
        }
        b"outputHash" => i.output_hash = Some(vm.force_str_no_ctx(v, pos)?),
        b"outputHashAlgo" => i.output_hash_algo = Some(vm.force_str_no_ctx(v, pos)?),
        b"outputHashMode" => {
            i.output_hash_mode = Some(vm.force_str_no_ctx(v, pos)?);
            method(i, pos)?;
        }
        b"outputs" => {
            let mut names = Vec::new();
            for x in vm.force_list(v, pos)? {
                names.push(vm.force_str_no_ctx(*x, pos)?);
            }
            set_outputs(i, names.into_iter(), pos)?;
        }
        _ => {}
    }
    Ok(())
}

fn set_outputs(i: &mut Input, names: impl Iterator<Item = &'static [u8]>, pos: Pos) -> R<()> {
    i.outputs.clear();
    for n in names {
        let n = String::from_utf8_lossy(n);
        if i.outputs.contains(&n) {
            return fail(pos, format!("duplicate derivation output '{n}'"));
        }
        if n == "drvPath" || n == "drv" {
            return fail(pos, format!("invalid derivation output name '{n}'"));
        }
        store_path::check_name(&n).map_err(|_e| {
            Error::new(
                Kind::Derivation,
                pos,
                format!("invalid derivation output name '{n}'"),
            )
        })?;
        i.outputs.push(n);
    }
    if i.outputs.is_empty() {
        return fail(pos, "derivation cannot have an empty set of outputs");
    }
    Ok(())
}

fn method(i: &Input, pos: Pos) -> R<Method> {
    Ok(match i.output_hash_mode {
        None | Some(b"flat") => Method::Flat,
        Some(b"recursive" | b"nar") => Method::Recursive,
        Some(b"text") => Method::Text,
        Some(b"rootfs") => Method::Rootfs,
        Some(m) => {
            return fail(
                pos,
                format!(
                    "invalid value '{}' for 'outputHashMode' attribute",
                    String::from_utf8_lossy(m)
                ),
            );
        }
    })
}

fn algo(i: &Input, pos: Pos) -> R<Option<HashAlgo>> {
    match i.output_hash_algo {
        None | Some(b"") => Ok(None),
        Some(a) => {
            let a = String::from_utf8_lossy(a);
            a.parse().map(Some).map_err(|_e| {
                Error::new(
                    Kind::Derivation,
                    pos,
                    format!("unknown hash algorithm '{a}', expect 'blake3', 'md5', 'sha1', 'sha256', or 'sha512'"),
                )
            })
        }
    }
}

/// The outputs, in order of names.
fn outputs<'a>(vm: &Vm, i: &'a Input, pos: Pos) -> R<Vec<(&'a str, Output)>> {
    if let Some(h) = i.output_hash {
        if i.outputs != ["out"] {
            return fail(
                pos,
                "multiple outputs are not supported in fixed-output derivations",
            );
        }
        let text = String::from_utf8_lossy(h);
        let algo = algo(i, pos)?;
        let hash = if text.is_empty() {
            let algo = algo.ok_or_else(|| {
                Error::new(
                    Kind::Derivation,
                    pos,
                    "empty hash requires explicit hash algorithm",
                )
            })?;
            unknown_hash(vm, algo, pos)?
        } else {
            Hash::parse_any(&text, algo)
                .map_err(|e| Error::new(Kind::Derivation, pos, e.to_string()))?
        };
        let method = method(i, pos)?;
        return Ok(vec![("out", Output::Fixed { method, hash })]);
    }
    let how = if i.content_addressed {
        let method = if i.output_hash_mode.is_none() {
            Method::Recursive
        } else {
            method(i, pos)?
        };
        let default = if method == Method::Rootfs {
            HashAlgo::Blake3
        } else {
            HashAlgo::Sha256
        };
        Output::Floating {
            method,
            algo: algo(i, pos)?.unwrap_or(default),
        }
    } else {
        Output::Deferred
    };
    let mut all: Vec<_> = i.outputs.iter().map(|o| (&**o, how.clone())).collect();
    all.sort_unstable_by_key(|o| o.0);
    Ok(all)
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
