//! The builtins: one table per group, with arity and documentation.

mod attrs;
mod context;
mod control;
mod derivation;
mod fetch;
mod files;
mod hash;
mod json;
mod lists;
mod math;
mod regex;
mod strings;
mod toml;
mod trees;
mod types;
mod versions;
mod xml;

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use self::derivation::place;
use crate::error::{Error, R};
use crate::eval::Vm;
use crate::heap::{Attrs, Env, Sym, Value};
use crate::ir::{E, Pos};

pub(crate) use json::to_json;
pub(crate) use types::type_name;
pub(crate) use xml::to_xml;

/// Says more about an error, given a value of the program.
type Explain = fn(&Vm, Box<Error>, Value, Pos) -> Box<Error>;

/// A builtin function.
pub(crate) struct Prim {
    /// Its name in `builtins`.
    pub(crate) name: &'static str,
    /// How many arguments it takes.
    pub(crate) arity: u32,
    /// Bit n: argument n is always forced, and nothing can be seen before that; callers may evaluate it at once. See `FUNCTION_FIRST`.
    strict: u8,
    /// For what returns its second argument, and otherwise only says more about an error of that: given the error and the first.
    pub(crate) on_error: Option<Explain>,
    /// What it does.
    pub(crate) doc: &'static str,
    /// The code.
    pub(crate) run: fn(&Vm, &[Value], Pos) -> R,
}

/// Among the bits of `strict`: the first argument must be a function, and that is found out before the next one is forced.
const FUNCTION_FIRST: u8 = 1 << 7;

impl Prim {
    /// Whether callers may evaluate an argument at once.
    #[inline(always)]
    pub(crate) fn is_strict(&self, arg: usize) -> bool {
        self.strict >> arg & 1 != 0
    }
}

impl Vm {
    /// The arguments of a builtin, as early as it allows. `late`: the builtin turned out to be one only when it was called, so that an
    /// error of an argument is one of the call.
    #[inline(always)]
    pub(crate) fn prim_args(
        &self,
        prim: &'static Prim,
        args: &'static [E],
        pos: Pos,
        env: Env,
        late: bool,
    ) -> R<[Value; 3]> {
        let mut out = [Value::NULL; 3];
        for (i, a) in args.iter().enumerate() {
            if !prim.is_strict(i) {
                out[i] = self.delay(a, env);
                continue;
            }
            let function = i == 0 && prim.strict & FUNCTION_FIRST != 0;
            let mut r = self.eval(a, env);
            if function {
                r = r.and_then(|f| self.force_fun(f, pos).map_err(|e| e.among(&[f], pos)));
            }
            out[i] = match r {
                Ok(v) => v,
                Err(e) if late || function => return Err(crate::eval::in_prim(e, prim, pos)),
                Err(e) => return Err(e),
            };
        }
        Ok(out)
    }
}

/// One line of a table.
const fn p(
    name: &'static str,
    arity: u32,
    strict: u8,
    run: fn(&Vm, &[Value], Pos) -> R,
    doc: &'static str,
) -> Prim {
    Prim {
        name,
        arity,
        strict,
        on_error: None,
        doc,
        run,
    }
}

/// A builtin that is handed to code of the evaluator's own, and stands in no table.
pub(crate) const fn internal(
    name: &'static str,
    arity: u32,
    run: fn(&Vm, &[Value], Pos) -> R,
    doc: &'static str,
) -> Prim {
    p(name, arity, 0, run, doc)
}

/// All tables.
pub(crate) static TABLES: &[&[Prim]] = &[
    types::TABLE,
    xml::TABLE,
    fetch::TABLE,
    trees::TABLE,
    regex::TABLE,
    toml::TABLE,
    versions::TABLE,
    lists::TABLE,
    attrs::TABLE,
    strings::TABLE,
    math::TABLE,
    control::TABLE,
    files::TABLE,
    context::TABLE,
    derivation::TABLE,
    hash::TABLE,
    json::TABLE,
];

/// Names that are in scope without `builtins.`.
const BARE: &[&str] = &[
    "abort",
    "baseNameOf",
    "break",
    "derivation",
    "derivationStrict",
    "dirOf",
    "fetchGit",
    "fetchMercurial",
    "fetchTarball",
    "fetchTree",
    "fromTOML",
    "import",
    "isNull",
    "map",
    "placeholder",
    "removeAttrs",
    "scopedImport",
    "throw",
    "toString",
    "true",
    "false",
    "null",
];

/// The version of Nix whose language this is.
const NIX_VERSION: &str = "2.31.0";
const LANG_VERSION: i64 = 6;

static EXTENSION: Prim = p(
    "extension",
    2,
    1,
    call_extension,
    "Calls a builtin that a recipe front end added.",
);

fn call_extension(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let i = vm.force_int(a[0], pos)?;
    let b = vm
        .options
        .extensions
        .iter()
        .flat_map(|e| &e.builtins)
        .nth(usize::try_from(i).unwrap_or(usize::MAX));
    let Some(b) = b else { return Ok(Value::NULL) };
    let (argument, written) = without_place(vm, a[1])?;
    let arg = vm.plain(argument, pos)?;
    let mut places = BTreeMap::new();
    vm.places(argument, &mut Vec::new(), &mut places);
    let call = crate::host::ExtCall {
        label: vm
            .label_outside(pos)
            .or_else(|| vm.label_outside(written))
            .or_else(|| places.values().next().cloned()),
        places,
        host: &*vm.host,
        made: std::cell::RefCell::default(),
    };
    match (b.fun)(&call, arg) {
        Ok(v) => Ok(vm.from_plain(&v, &mut Vec::new(), &call.made.borrow())),
        Err(d) => Err(vm.host_error(crate::host::HostError::Diagnostic(d), pos, "")),
    }
}

/// The argument without what a library says of its place, which is not to be evaluated, and that place.
fn without_place(vm: &Vm, argument: Value) -> R<(Value, Pos)> {
    let argument = vm.force(argument)?;
    let Some(set) = argument.as_attrs() else {
        return Ok((argument, Pos::NONE));
    };
    let Some(given) = place::given(vm, set)? else {
        return Ok((argument, Pos::NONE));
    };
    let name = Sym::new(place::NAME);
    let rest = set.entries().filter(|(s, ..)| *s != name).collect();
    Ok((
        Value::attrs(Attrs::from_pairs(rest)),
        place::find(vm, given),
    ))
}

/// Makes the names that every program sees.
pub(crate) fn globals(vm: &Vm) -> FxHashMap<Sym, Value> {
    let mut set: Vec<(Sym, Value, Pos)> = Vec::new();
    let mut add = |name: &str, v: Value| set.push((Sym::new(name.as_bytes()), v, Pos::NONE));
    for prim in TABLES.iter().copied().flatten() {
        if prim.arity > 0 {
            add(prim.name, Value::prim(prim));
        }
    }
    add("true", Value::TRUE);
    add("false", Value::FALSE);
    add("null", Value::NULL);
    add("langVersion", Value::int(LANG_VERSION));
    add("nixVersion", Value::string(NIX_VERSION.as_bytes()));
    add(
        "storeDir",
        Value::string(vm.host.store_dir().as_str().as_bytes()),
    );
    add(
        "nixPath",
        if vm.options.pure {
            Value::list(&[])
        } else {
            vm.nix_path_value()
        },
    );
    if !vm.options.pure {
        add("currentSystem", Value::string(vm.host.system().as_bytes()));
        // Asked for only when it is used: a host may care whether a result depends on it.
        add(
            "currentTime",
            Value::thunk_native(&CURRENT_TIME, Value::NULL, Value::NULL),
        );
    }
    add("derivation", derivation::wrapper());
    // Those of extensions are no attributes of `builtins`: a program that lists these sees what Nix has.
    let mut extensions = Vec::new();
    for (i, b) in vm
        .options
        .extensions
        .iter()
        .flat_map(|e| &e.builtins)
        .enumerate()
    {
        extensions.push((
            Sym::new(b.name.as_bytes()),
            Value::partial(Value::prim(&EXTENSION), &[&[Value::int(i as i64)]]),
        ));
    }
    // `builtins.builtins` is the set itself.
    let myself = Value::thunk_native(&BUILTINS, Value::NULL, Value::NULL);
    set.push((Sym::new(b"builtins"), myself, Pos::NONE));
    let all = Attrs::from_pairs(set);
    let value = Value::attrs(all);
    if let Some(t) = myself.as_thunk() {
        t.finish(value);
    }
    let mut globals = FxHashMap::default();
    globals.insert(Sym::new(b"builtins"), value);
    globals.extend(extensions);
    for (s, v) in all.iter() {
        let name = s.text();
        if BARE.contains(&&*name) {
            globals.insert(s, v);
        } else if name != "builtins" {
            globals.insert(Sym::new(format!("__{name}").as_bytes()), v);
        }
    }
    globals
}

static CURRENT_TIME: crate::heap::Native = crate::heap::Native {
    run: |vm, _| Ok(Value::int(vm.host.current_time())),
};

static BUILTINS: crate::heap::Native = crate::heap::Native {
    run: |vm, _| Ok(vm.globals()[&Sym::new(b"builtins")]),
};

/// Why a text cannot be the name of a store path, in Nix's words.
fn name_problem(name: &str) -> Option<String> {
    use sos_formats::store_path::{MAX_NAME_LEN, check_name};
    if name.is_empty() {
        return Some("name must not be empty".into());
    }
    if name.len() > MAX_NAME_LEN {
        return Some(format!(
            "name '{name}' must be no longer than {MAX_NAME_LEN} characters"
        ));
    }
    if let Some(c) = name
        .chars()
        .find(|c| !(c.is_ascii_alphanumeric() || "+-._?=".contains(*c)))
    {
        return Some(format!("name '{name}' contains illegal character '{c}'"));
    }
    check_name(name)
        .err()
        .map(|_| format!("name '{name}' is not valid"))
}

/// What an I/O error says, in words that do not depend on the platform.
pub(crate) fn io_text(e: &std::io::Error) -> String {
    use std::io::ErrorKind as K;
    match e.kind() {
        K::NotFound => "no such file or directory".into(),
        K::PermissionDenied => "permission denied".into(),
        K::IsADirectory => "is a directory".into(),
        K::NotADirectory => "not a directory".into(),
        _ => e.to_string().to_lowercase(),
    }
}
