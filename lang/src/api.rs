//! The evaluator as other crates use it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sos_formats::diagnostic::{Diagnostic, Label};
use sos_formats::flake_ref::FlakeRef;
use sos_formats::store_path::StorePath;

use crate::error::{Error, Kind, R};
use crate::eval::{Coerce, Surroundings, Text, Vm, canon_path, path_bytes};
use crate::heap::{Attrs, Fun, Sym, Tag, Value};
use crate::host::{ContextElem, FlakeLocks, Host, HostError, Options, Plain};
use crate::ir::{Formals, Lambda, Pos};
use crate::parse::Ahead;

/// Answers of the evaluator.
pub type Answer<T> = Result<T, Box<Diagnostic>>;

/// What functions get that are called because a target leads to or through them.
#[derive(Debug, Clone, Default)]
pub struct Arguments {
    /// For every function that takes them, be it by `...`, as the options of a command line are.
    pub given: BTreeMap<String, Value>,
    /// Only for functions that ask for them by name.
    pub offered: BTreeMap<String, Value>,
}

/// A derivation that an expression names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrvRef {
    /// The derivation.
    pub drv_path: StorePath,
    /// All its outputs, the one that is meant first.
    pub outputs: Vec<String>,
    /// Its name.
    pub name: String,
    /// Where it was found below the value, `a.b`; empty for the value itself.
    pub attr: String,
}

/// Stops an evaluation from another thread.
#[derive(Debug, Clone)]
pub struct Interrupter {
    limit: Arc<AtomicU32>,
    max: u32,
}

impl Interrupter {
    /// The evaluation fails at its next call of a function, with `eval-interrupted`.
    pub fn interrupt(&self) {
        self.limit.store(0, Ordering::Relaxed);
    }

    /// Takes that back. Returns whether there was something to take back.
    pub fn clear(&self) -> bool {
        self.limit.swap(self.max, Ordering::Relaxed) != self.max
    }
}

/// Evaluates expressions. Runs on the caller's thread: use [`crate::with_big_stack`] around everything that deals with values.
pub struct Evaluator {
    vm: Rc<Vm>,
}

impl Evaluator {
    /// Makes an evaluator.
    pub fn new(host: Rc<dyn Host>, options: Options) -> Evaluator {
        Evaluator {
            vm: Vm::new(host, options),
        }
    }

    /// What stops its evaluations.
    pub fn interrupter(&self) -> Interrupter {
        Interrupter {
            limit: self.vm.call_limit.clone(),
            max: self.vm.options.max_call_depth,
        }
    }

    /// Begins to parse files that will probably be read, in this order, on a thread of its own. `read` reads them for it; what the
    /// evaluation itself reads still comes from the host alone, and only a tree of the very same text is used.
    pub fn parse_ahead(
        &self,
        files: Vec<PathBuf>,
        read: impl FnMut(&Path) -> std::io::Result<Vec<u8>> + Send + 'static,
    ) {
        let ahead = Ahead::start(files, self.vm.options.dialect, Box::new(read));
        self.vm.ahead.replace(ahead);
    }

    /// How many texts the evaluation took from those that were parsed ahead.
    pub fn parsed_ahead(&self) -> usize {
        self.vm.ahead.borrow().as_ref().map_or(0, Ahead::used)
    }

    fn out<T>(&self, r: R<T>) -> Answer<T> {
        r.map_err(|e| self.vm.diagnostic(e))
    }

    /// Evaluates a file, or `default.nix` in a directory. The path must be absolute.
    pub fn eval_file(&self, path: &Path) -> Answer<Value> {
        let p = canon_path(&path_bytes(path.to_path_buf()));
        self.vm.forget_dirs();
        self.out(self.vm.import_file(&p, Pos::NONE))
    }

    /// Evaluates a text; `name` is shown in messages, relative paths start at `base_dir`.
    pub fn eval_str(&self, text: &str, name: &str, base_dir: &Path) -> Answer<Value> {
        self.eval_bytes(text.as_bytes(), name, base_dir)
    }

    /// Evaluates a text in which the given names mean the given values, before all other names.
    pub fn eval_with(
        &self,
        text: &str,
        name: &str,
        base_dir: &Path,
        names: &BTreeMap<String, Value>,
    ) -> Answer<Value> {
        let dir = canon_path(&path_bytes(base_dir.to_path_buf()));
        let dir: &[u8] = if dir == b"/" { b"" } else { &dir };
        let names = names
            .iter()
            .map(|(k, v)| (Sym::new(k.as_bytes()), *v, Pos::NONE));
        self.vm.forget_dirs();
        self.out(self.vm.run_text(Text {
            bytes: text.as_bytes().into(),
            name: name.to_owned(),
            path: None,
            around: Surroundings {
                dir,
                extra: Some(Attrs::from_pairs(names.collect())),
            },
        }))
    }

    /// Evaluates a text that need not be UTF-8.
    pub fn eval_bytes(&self, text: &[u8], name: &str, base_dir: &Path) -> Answer<Value> {
        let dir = canon_path(&path_bytes(base_dir.to_path_buf()));
        let dir: &[u8] = if dir == b"/" { b"" } else { &dir };
        self.vm.forget_dirs();
        self.out(self.vm.run_text(Text {
            bytes: text.into(),
            name: name.to_owned(),
            path: None,
            around: Surroundings { dir, extra: None },
        }))
    }

    /// Evaluates a flake: the set of its outputs. `locks` says what may happen to a lock that lacks something; the inputs in
    /// `update` (`a`, `a/b`) are pinned anew, all of them when it is empty.
    pub fn eval_flake(
        &self,
        reference: &FlakeRef,
        locks: FlakeLocks,
        update: Option<&[String]>,
    ) -> Answer<Value> {
        let flags = crate::flake::LockFlags {
            write: locks,
            may_pin: true,
            update: update.map(<[String]>::to_vec),
        };
        self.out(self.vm.flake(reference, &flags, Pos::NONE))
    }

    /// Follows the first of several attribute paths that exists in a value, and calls nothing on the way.
    pub fn select_first(&self, v: Value, paths: &[String]) -> Answer<Option<Value>> {
        self.out(self.select_first_inner(v, paths))
    }

    fn select_first_inner(&self, v: Value, paths: &[String]) -> R<Option<Value>> {
        'paths: for path in paths {
            let mut at = self.vm.force(v)?;
            for part in split_attr_path(path)? {
                let s = Sym::new(part.as_bytes());
                let Some(next) = at.as_attrs().and_then(|set| set.get(s)) else {
                    continue 'paths;
                };
                at = self.vm.force(next)?;
            }
            return Ok(Some(at));
        }
        Ok(None)
    }

    /// Calls a function that takes a set with those of the arguments that it wants; other values stay as they are.
    pub fn auto_call(&self, v: Value, args: &Arguments) -> Answer<Value> {
        self.out(self.auto_call_inner(v, args))
    }

    /// Whether a value is a function whose pattern has the name of something that is only offered.
    pub fn asks_for_offered(&self, v: Value, args: &Arguments) -> Answer<bool> {
        let v = self.force(v)?;
        let asks = |name: &Sym| args.offered.contains_key(&*name.text());
        Ok(pattern(v).is_some_and(|(_, formals)| formals.names.iter().any(|f| asks(&f.name))))
    }

    fn auto_call_inner(&self, v: Value, args: &Arguments) -> R {
        let vm = &self.vm;
        let mut v = vm.force(v)?;
        if let Some(f) = v.as_attrs().and_then(|a| a.get(vm.s.functor)) {
            let g = vm.call(f, &[v], Pos::NONE)?;
            return self.auto_call_inner(g, args);
        }
        let Some((l, formals)) = pattern(v) else {
            return Ok(v);
        };
        let mut given: Vec<_> = args
            .given
            .iter()
            .filter(|_| formals.ellipsis)
            .map(|(k, v)| (Sym::new(k.as_bytes()), *v, Pos::NONE))
            .collect();
        for f in &formals.names {
            let name = f.name.text();
            match args.given.get(&*name) {
                Some(_) if formals.ellipsis => {}
                Some(v) => given.push((f.name, *v, Pos::NONE)),
                None => match args.offered.get(&*name) {
                    Some(v) => given.push((f.name, *v, Pos::NONE)),
                    // With `...` the call itself says what is missing.
                    None if f.default.is_none() && !formals.ellipsis => {
                        return Err(Error::new(
                            Kind::Argument,
                            f.pos,
                            format!("cannot evaluate a function that has an argument without a value ('{}')", f.name.text()),
                        )
                        .help("values for arguments can be given with `--arg` or `--argstr`"));
                    }
                    None => {}
                },
            }
        }
        v = vm.call(v, &[Value::attrs(Attrs::from_pairs(given))], l.pos)?;
        Ok(v)
    }

    /// Follows an attribute path such as `a.b."c d".0`; empty means the value itself. Functions on the way are called without arguments.
    pub fn select(&self, v: Value, path: &str) -> Answer<Value> {
        let none = Arguments::default();
        let v = self.select_with(v, path, &none)?;
        self.auto_call(v, &none)
    }

    /// Follows an attribute path; functions on the way get the given arguments, and one at its end is not called.
    pub fn select_with(&self, v: Value, path: &str, args: &Arguments) -> Answer<Value> {
        let parts = self.out(split_attr_path(path))?;
        let mut v = v;
        for p in parts {
            v = self.auto_call(v, args)?;
            v = self.out(self.step(v, &p, path))?;
        }
        Ok(v)
    }

    fn step(&self, v: Value, part: &str, whole: &str) -> R {
        let vm = &self.vm;
        if let Some(l) = v.as_list()
            && let Ok(i) = part.parse::<usize>()
        {
            return match l.get(i) {
                Some(x) => vm.force(*x),
                None => Err(Error::new(
                    Kind::AttrMissing,
                    Pos::NONE,
                    format!("list index {i} in selection path '{whole}' is out of range"),
                )),
            };
        }
        let Some(set) = v.as_attrs() else {
            return Err(Error::new(
                Kind::Type,
                Pos::NONE,
                format!(
                    "the expression selected by '{whole}' should be a set at '{part}' but is {}: {}",
                    vm.show_type(v),
                    vm.show_short(v)
                ),
            ));
        };
        let s = Sym::new(part.as_bytes());
        match set.get(s) {
            Some(x) => vm.force(x),
            None => {
                let mut e = vm.missing(set, s, Pos::NONE);
                e.message = format!("attribute '{part}' in selection path '{whole}' not found");
                Err(e)
            }
        }
    }

    /// Where the user wrote a derivation of this evaluation.
    pub fn drv_position(&self, drv: &StorePath) -> Option<Label> {
        let pos = self.vm.drv_places.borrow().get(drv).copied()?;
        self.vm.label_outside(pos)
    }

    /// Where what a library gave a derivation was written, by the names that the library uses for it.
    pub fn drv_attributes(&self, drv: &StorePath) -> BTreeMap<String, Label> {
        let given = self.vm.drv_given.borrow().get(drv).copied();
        let entries = given.iter().flat_map(|set| set.entries());
        entries
            .filter_map(|(name, _, pos)| {
                let label = self.vm.label_outside(pos)?;
                Some((name.text().into_owned(), label))
            })
            .collect()
    }

    /// Evaluates far enough to know the type.
    pub fn force(&self, v: Value) -> Answer<Value> {
        self.out(self.vm.force(v))
    }

    /// Evaluates completely.
    pub fn force_deep(&self, v: Value) -> Answer<Value> {
        self.out(self.vm.force_deep(v, Pos::NONE))
    }

    /// Calls a function.
    pub fn call(&self, f: Value, args: &[Value]) -> Answer<Value> {
        self.out(self.vm.call(f, args, Pos::NONE))
    }

    /// The value in the syntax of the language; what is not evaluated is shown as `<CODE>`.
    pub fn print(&self, v: Value) -> String {
        self.vm.show(v)
    }

    /// The same as bytes: strings need not be UTF-8.
    pub fn print_bytes(&self, v: Value) -> Vec<u8> {
        self.vm.show_bytes(v)
    }

    /// The value as JSON; paths are written as they are.
    pub fn to_json(&self, v: Value) -> Answer<String> {
        let r = crate::builtins::to_json(&self.vm, v, false, Pos::NONE);
        self.out(r.map(|x| String::from_utf8_lossy(&x.0).into_owned()))
    }

    /// A text in the canonical form of `nix-instantiate --parse`.
    pub fn parse_canonical(&self, text: &[u8], name: &str, base_dir: &Path) -> Answer<Vec<u8>> {
        let dir = canon_path(&path_bytes(base_dir.to_path_buf()));
        let dir: &[u8] = if dir == b"/" { b"" } else { &dir };
        self.out(self.vm.parse_canonical(Text {
            bytes: text.into(),
            name: name.to_owned(),
            path: None,
            around: Surroundings { dir, extra: None },
        }))
    }

    /// The value as XML.
    pub fn to_xml(&self, v: Value, locations: bool) -> Answer<Vec<u8>> {
        let r = crate::builtins::to_xml(&self.vm, v, locations, Pos::NONE);
        self.out(r.map(|x| x.0))
    }

    /// The name of the value's type: `int`, `set`, ...
    pub fn type_of(&self, v: Value) -> Answer<&'static str> {
        self.out(self.vm.force(v).map(crate::builtins::type_name))
    }

    /// The names of a set, sorted; nothing for other values.
    pub fn attr_names(&self, v: Value) -> Answer<Vec<String>> {
        let v = self.force(v)?;
        Ok(v.as_attrs().map_or_else(Vec::new, |a| {
            a.iter_by_name().map(|x| x.0.text().into_owned()).collect()
        }))
    }

    /// An attribute of a set, not evaluated.
    pub fn attr(&self, v: Value, name: &str) -> Answer<Option<Value>> {
        let v = self.force(v)?;
        Ok(Sym::find(name.as_bytes()).and_then(|s| v.as_attrs()?.get(s)))
    }

    /// The items of a list, not evaluated; nothing for other values.
    pub fn list_items(&self, v: Value) -> Answer<Vec<Value>> {
        Ok(self.force(v)?.as_list().unwrap_or_default().to_vec())
    }

    /// The bytes of a string and what it depends on, for values that can be coerced to one.
    pub fn to_str(&self, v: Value) -> Answer<(Vec<u8>, Vec<ContextElem>)> {
        let s = self.out(self.vm.coerce(v, Coerce::PLAIN, Pos::NONE))?;
        Ok((s.bytes().to_vec(), self.vm.ctx_elems(s.ctx())))
    }

    /// Everything in the value as plain data; functions are an error.
    pub fn to_plain(&self, v: Value) -> Answer<Plain> {
        self.out(self.vm.plain(v, Pos::NONE))
    }

    /// A value from plain data.
    pub fn from_plain(&self, p: &Plain) -> Value {
        self.vm.from_plain(p, &mut Vec::new(), &BTreeMap::new())
    }

    /// The derivations that a value names: itself, or those in a list or set, as nix-build finds them.
    pub fn derivations(&self, v: Value) -> Answer<Vec<DrvRef>> {
        self.out(crate::drvs::find(&self.vm, v))
    }

    /// The builtins with their number of arguments and what they do, sorted by name.
    pub fn builtins(&self) -> Vec<(&'static str, u32, &'static str)> {
        let mut all: Vec<_> = crate::builtins::TABLES
            .iter()
            .copied()
            .flatten()
            .map(|p| (p.name, p.arity, p.doc))
            .collect();
        all.sort_unstable();
        all
    }

    /// The files and directories that were read.
    pub fn files_read(&self) -> Vec<PathBuf> {
        self.vm.files_read.borrow().iter().cloned().collect()
    }

    /// Bytes of memory that values take in this thread.
    pub fn heap_bytes(&self) -> usize {
        crate::heap::bytes_used()
    }
}

/// Splits `a.b."c.d"` into names; nothing when it is malformed.
#[must_use]
pub fn attr_path(path: &str) -> Option<Vec<String>> {
    split_attr_path(path).ok()
}

/// Splits `a.b."c.d"` into names.
fn split_attr_path(path: &str) -> R<Vec<String>> {
    let mut out = Vec::new();
    let mut cur = String::new();
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '.' => out.push(std::mem::take(&mut cur)),
            '"' => loop {
                match chars.next() {
                    Some('"') => break,
                    Some(c) => cur.push(c),
                    None => {
                        return Err(Error::new(
                            Kind::Value,
                            Pos::NONE,
                            format!("missing closing quote in selection path '{path}'"),
                        ));
                    }
                }
            },
            c => cur.push(c),
        }
    }
    if !path.is_empty() {
        out.push(cur);
    }
    if out.iter().any(String::is_empty) && !path.contains("\"\"") {
        return Err(Error::new(
            Kind::Value,
            Pos::NONE,
            format!("empty attribute name in selection path '{path}'"),
        ));
    }
    Ok(out)
}

impl Vm {
    /// A value as plain data.
    pub(crate) fn plain(&self, v: Value, pos: Pos) -> R<Plain> {
        self.check_stack()?;
        let v = self.force(v)?;
        Ok(match v.tag() {
            Tag::Imm => v.as_bool().map_or(Plain::Null, Plain::Bool),
            Tag::Str => {
                let s = self.force_str(v, pos)?;
                Plain::Str {
                    s: s.bytes().to_vec(),
                    context: self.ctx_elems(s.ctx()),
                }
            }
            Tag::List => {
                let items = v.as_list().unwrap_or_default();
                Plain::List(
                    items
                        .iter()
                        .map(|x| self.plain(*x, pos))
                        .collect::<R<_>>()?,
                )
            }
            Tag::Attrs => {
                let set = self.force_attrs(v, pos)?;
                // Derivations refer to themselves; what others need of them is the string.
                if set.get(self.s.out_path).is_some() {
                    let text = self.coerce(v, Coerce::INTERP, pos)?;
                    return self.plain(Value::from_str_obj(text), pos);
                }
                let mut map = BTreeMap::new();
                for (s, x) in set.iter() {
                    map.insert(s.text().into_owned(), self.plain(x, pos)?);
                }
                Plain::Attrs(map)
            }
            Tag::Fun | Tag::Thunk => {
                return Err(Error::new(
                    Kind::Type,
                    pos,
                    format!(
                        "expected plain data but found {}: {}",
                        self.show_type(v),
                        self.show_short(v)
                    ),
                ));
            }
            Tag::Int | Tag::Boxed => match (v.as_int(), v.as_float(), v.as_path()) {
                (Some(i), ..) => Plain::Int(i),
                (_, Some(f), _) => Plain::Float(f),
                (.., Some(p)) => {
                    self.path_named(p);
                    Plain::Path(crate::eval::os_path(p))
                }
                _ => Plain::Null,
            },
        })
    }

    /// Plain data as a value; `places` says where attributes were written, by path, and `at` is the path of the value.
    #[allow(
        clippy::wrong_self_convention,
        reason = "it makes a value in this evaluator"
    )]
    pub(crate) fn from_plain(
        &self,
        p: &Plain,
        at: &mut Vec<String>,
        places: &BTreeMap<Vec<String>, Label>,
    ) -> Value {
        match p {
            Plain::Null => Value::NULL,
            Plain::Bool(b) => Value::bool(*b),
            Plain::Int(i) => Value::int(*i),
            Plain::Float(f) => Value::float(*f),
            Plain::Str { s, context } => Value::string_ctx(s, self.ctx_of(context.iter().cloned())),
            Plain::Path(p) => Value::path(&canon_path(&path_bytes(p.clone()))),
            Plain::List(l) => {
                let mut all = Vec::with_capacity(l.len());
                for (i, x) in l.iter().enumerate() {
                    at.push(i.to_string());
                    all.push(self.from_plain(x, at, places));
                    at.pop();
                }
                Value::list(&all)
            }
            Plain::Attrs(m) => {
                let mut all = Vec::with_capacity(m.len());
                for (k, v) in m {
                    at.push(k.clone());
                    let pos = places.get(at).and_then(|label| self.pos_of(label));
                    let v = self.from_plain(v, at, places);
                    all.push((Sym::new(k.as_bytes()), v, pos.unwrap_or_default()));
                    at.pop();
                }
                Value::attrs(Attrs::from_pairs(all))
            }
        }
    }
}

impl From<String> for HostError {
    fn from(m: String) -> Self {
        HostError::Message(m)
    }
}

/// A function that takes a set by a pattern, and has all arguments before it.
fn pattern(v: Value) -> Option<(&'static Lambda, &'static Formals)> {
    let (l, have) = match v.as_fun()? {
        Fun::Closure(l, _) => (l, 0),
        Fun::Partial(g, have) => match g.as_fun()? {
            Fun::Closure(l, _) => (l, have.len()),
            _ => return None,
        },
        _ => return None,
    };
    let formals = l.formals.as_ref()?;
    (have + 1 == l.arity as usize).then_some((l, formals))
}

#[cfg(test)]
mod tests;
