//! Calling functions.

use super::{R, Vm};
use crate::builtins::Prim;
use crate::error::{Error, Kind, Traced};
use crate::heap::{Attrs, Env, Fun, Sym, Tag, Value};
use crate::ir::{Formals, Lambda, Pos};

/// Arguments that are usually few.
const FEW: usize = 8;

const ABSENT: u32 = u32::MAX;

impl Vm {
    /// Calls a function with one or more arguments.
    pub(crate) fn call(&self, f: Value, args: &[Value], pos: Pos) -> R {
        let depth = self.depth();
        let r = self.enter(pos).and_then(|()| match f.as_fun() {
            Some(Fun::Closure(l, env)) if l.arity as usize == args.len() => {
                self.call_closure(l, env, args, &[], pos)
            }
            _ => self.call_inner(f, args, pos),
        });
        self.set_depth(depth);
        r
    }

    #[inline(never)]
    fn call_inner(&self, f: Value, args: &[Value], pos: Pos) -> R {
        let f = self.force(f)?;
        let r = self.call_parts(f, args, pos);
        match r {
            Err(e) if f.tag() == Tag::Attrs => Err(super::cycle::through(e, f, self.s.functor, 1)),
            r => r,
        }
    }

    /// Calls a function with as many arguments as it takes, then its result with the others.
    fn call_parts(&self, mut f: Value, mut args: &[Value], pos: Pos) -> R {
        let mut functors = 0;
        while !args.is_empty() {
            let Some(fun) = f.as_fun() else {
                // A functor that gives itself would go on without end.
                functors += 1;
                self.enter(pos)
                    .map_err(|e| super::cycle::through(e, f, self.s.functor, functors))?;
                f = self
                    .call_functor(f, pos)
                    .map_err(|e| super::cycle::through(e, f, self.s.functor, functors))?;
                continue;
            };
            let (arity, have): (usize, &[Value]) = match fun {
                Fun::Closure(l, _) => (l.arity as usize, &[]),
                Fun::Prim(p) => (p.arity as usize, &[]),
                Fun::Partial(g, have) => match g.as_fun() {
                    Some(Fun::Closure(l, _)) => (l.arity as usize, have),
                    Some(Fun::Prim(p)) => (p.arity as usize, have),
                    _ => (0, have),
                },
            };
            let head = if let Fun::Partial(g, _) = fun { g } else { f };
            let missing = arity.saturating_sub(have.len());
            if args.len() < missing {
                return Ok(Value::partial(head, &[have, args]));
            }
            let (now, rest) = args.split_at(missing);
            f = match head.as_fun() {
                Some(Fun::Closure(l, env)) => self.call_closure(l, env, have, now, pos)?,
                Some(Fun::Prim(p)) if have.is_empty() => self.call_prim(p, now, pos)?,
                Some(Fun::Prim(p)) => {
                    let mut buf = [Value::NULL; FEW];
                    let all = have.iter().chain(now);
                    for (b, a) in buf.iter_mut().zip(all) {
                        *b = *a;
                    }
                    self.call_prim(p, &buf[..arity], pos)?
                }
                _ => return Err(self.not_a_function(head, pos)),
            };
            args = rest;
        }
        Ok(f)
    }

    /// Calls a closure with exactly as many arguments as it takes, given in two parts.
    fn call_closure(
        &self,
        l: &'static Lambda,
        env: Env,
        first: &[Value],
        rest: &[Value],
        pos: Pos,
    ) -> R {
        let frame = Env::filled(env, l.slots, first, rest);
        if let Some(formals) = &l.formals {
            self.bind_formals(l, formals, frame, pos)?;
        }
        let r = self.eval(l.body, frame);
        frame.release();
        r.map_err(|e| self.in_call(e, l, pos))
    }

    #[cold]
    pub(crate) fn in_call(&self, e: Box<Error>, l: &Lambda, pos: Pos) -> Box<Error> {
        let name = l.name.get().map_or_else(
            || "anonymous lambda".to_owned(),
            |s| format!("'{}'", s.text()),
        );
        let e = super::cycle::through_function(e, l).frame(format!("while calling {name}"), l.pos);
        if pos == Pos::NONE {
            e
        } else {
            e.frame("from call site", pos)
        }
    }

    /// Calls a builtin with all its arguments.
    #[inline]
    pub(crate) fn call_prim(&self, p: &'static Prim, args: &[Value], pos: Pos) -> R {
        match (p.run)(self, args, pos) {
            Ok(v) => Ok(v),
            Err(e) => Err(in_prim(super::cycle::item(e, args, pos, false), p, pos)),
        }
    }

    fn call_functor(&self, f: Value, pos: Pos) -> R {
        match f.as_attrs().and_then(|a| a.get(self.s.functor)) {
            Some(g) => self.call(g, &[f], pos).traced(
                || "while calling a functor (an attribute set with a '__functor' attribute)".into(),
                pos,
            ),
            None => Err(self.not_a_function(f, pos)),
        }
    }

    #[cold]
    pub(crate) fn not_a_function(&self, f: Value, pos: Pos) -> Box<Error> {
        Error::new(
            Kind::Type,
            pos,
            format!(
                "attempt to call something which is not a function but {}: {}",
                self.show_type(f),
                self.show_short(f)
            ),
        )
        .label(format!("this is {}", self.show_type(f)))
    }

    /// Matches the last argument of `frame` against a set pattern and puts the names into their slots.
    pub(crate) fn bind_formals(
        &self,
        l: &'static Lambda,
        f: &'static Formals,
        frame: Env,
        pos: Pos,
    ) -> R<()> {
        let slot = l.arity - 1;
        let Some(arg) = frame.get(slot) else {
            return Ok(());
        };
        let arg = self.force(arg)?;
        let set = arg.as_attrs().ok_or_else(|| {
            let e = self.type_error("a set", arg, pos);
            self.in_call(e, l, pos)
        })?;
        frame.set(slot, arg);
        let shape = set.shape();
        let at = std::ptr::from_ref(shape) as usize;
        if f.seen.shape.get() != at {
            let index = self.match_formals(l, f, set, pos)?;
            *f.seen.index.borrow_mut() = index;
            f.seen.shape.set(at);
        }
        let index = f.seen.index.borrow();
        let values = set.values();
        for (formal, &i) in f.names.iter().zip(index.iter()) {
            let v = if i == ABSENT {
                match formal.default {
                    Some(d) => self.delay(d, frame),
                    None => continue,
                }
            } else {
                values[i as usize]
            };
            frame.set(formal.slot, v);
        }
        Ok(())
    }

    fn match_formals(
        &self,
        l: &'static Lambda,
        f: &'static Formals,
        set: Attrs,
        pos: Pos,
    ) -> R<Vec<u32>> {
        let mut found = 0;
        let mut missing: Option<&crate::ir::Formal> = None;
        let mut index = Vec::with_capacity(f.names.len());
        for formal in &f.names {
            match set.shape().find(formal.name) {
                Some(i) => {
                    found += 1;
                    index.push(i as u32);
                }
                None => {
                    if formal.default.is_none() && missing.is_none_or(|m| m.order > formal.order) {
                        missing = Some(formal);
                    }
                    index.push(ABSENT);
                }
            }
        }
        let name = l
            .name
            .get()
            .map_or_else(|| "anonymous lambda".to_owned(), |s| s.text().into_owned());
        if let Some(m) = missing {
            let e = Error::new(
                Kind::Argument,
                pos,
                format!(
                    "function '{name}' called without required argument '{}'",
                    m.name.text()
                ),
            )
            .other(m.pos, "required here");
            return Err(misspelt(e, &m.name.text(), f, set));
        }
        if !f.ellipsis && found != set.len() {
            for (s, _) in set.iter_by_name() {
                if f.names.binary_search_by_key(&s, |x| x.name).is_err() {
                    let known: Vec<String> =
                        f.names.iter().map(|x| x.name.text().into_owned()).collect();
                    // A library hands on what it was given: the name itself is what its user wrote.
                    let written = set.shape().find(s).map(|i| set.shape().pos_at(i));
                    let written = written.filter(|p| self.is_library(pos) && self.is_outside(*p));
                    let e = Error::new(
                        Kind::Argument,
                        written.unwrap_or(pos),
                        format!(
                            "function '{name}' called with unexpected argument '{}'",
                            s.text()
                        ),
                    )
                    .other(given_at(set, s), "given here")
                    .other(l.pos, "the function takes only the names listed here");
                    return Err(crate::eval::vm::suggest(
                        e,
                        &s.text(),
                        known.iter().map(String::as_str),
                    ));
                }
            }
        }
        Ok(index)
    }
}

fn given_at(set: Attrs, s: Sym) -> Pos {
    let shape = set.shape();
    shape.find(s).map_or(Pos::NONE, |i| shape.pos_at(i))
}

/// A required argument is often there, under a name that is nearly right.
#[cold]
fn misspelt(e: Box<Error>, wanted: &str, f: &Formals, set: Attrs) -> Box<Error> {
    let unknown: Vec<Sym> = set
        .iter_by_name()
        .map(|x| x.0)
        .filter(|s| f.names.binary_search_by_key(s, |x| x.name).is_err())
        .collect();
    let texts: Vec<_> = unknown.iter().map(|s| s.text()).collect();
    let near = sos_formats::diagnostic::suggest(wanted, texts.iter().map(|t| &**t));
    let only = near.len() == 1;
    let Some(near) = near.first() else { return e };
    let at = unknown
        .iter()
        .find(|s| &*s.text() == near.as_str())
        .map_or(Pos::NONE, |s| given_at(set, *s));
    let right = wanted.to_owned();
    e.other(at, format!("`{near}` is given instead"))
        .help(format!("write `{wanted}` for `{near}`"))
        .spelling(
            near,
            if only {
                std::slice::from_ref(&right)
            } else {
                &[]
            },
        )
}

#[cold]
pub(crate) fn in_prim(e: Box<Error>, p: &Prim, pos: Pos) -> Box<Error> {
    // Errors that the program itself raises need no frame for the builtin that raises them.
    if e.trace.is_empty() && matches!(p.name, "throw" | "abort" | "addErrorContext") {
        return e.at(pos);
    }
    e.at(pos)
        .frame(format!("while calling the '{}' builtin", p.name), pos)
}
