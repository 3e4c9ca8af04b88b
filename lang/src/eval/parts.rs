//! Errors about one element of a list or attribute of a set that was given to a builtin: where that is written.

use sos_formats::diagnostic::Label;

use super::Vm;
use super::cycle::{NESTED, PATIENCE, holds};
use crate::error::Error;
use crate::heap::{Code, Fun, Sym, Tag, Value};
use crate::ir::Pos;
use crate::parse::Place;

/// An element of a list that is an argument of the call or operator at a place.
pub(crate) struct Part {
    call: Pos,
    /// Which argument, and how many there are at least.
    arg: usize,
    count: usize,
    index: usize,
    /// Elements of the whole list.
    len: usize,
    /// Whether the error is that this element is of a wrong kind, and not what came of it.
    wrong: bool,
    /// Whether the call is done, and a thunk that it made failed: the call itself must be shown too, and whether it is that of a builtin
    /// is to be seen from the text only.
    later: bool,
}

impl Part {
    /// The element that is the wrong value, among those of the lists in `values`.
    pub(crate) fn wrong(wrong: Value, values: &[Value], call: Pos) -> Option<Part> {
        // A function of the program may have given a number that is equal to an element and has nothing to do with it.
        let plain = matches!(wrong.tag(), Tag::Int | Tag::Imm);
        let written = |f: &Value| match f.peel().as_fun() {
            Some(Fun::Closure(..)) => true,
            Some(Fun::Partial(f, _)) => matches!(f.as_fun(), Some(Fun::Closure(..))),
            Some(Fun::Prim(_)) | None => false,
        };
        if plain && values.iter().any(written) {
            return None;
        }
        let is_it = |x: Value| x.peel() == wrong.peel();
        let mut patience = PATIENCE;
        values.iter().enumerate().find_map(|(arg, v)| {
            let items = v.peel().as_list()?;
            let itself = items.iter().position(|x| is_it(*x));
            let inside = |x: &Value| holds(*x, NESTED, &mut patience, &mut { is_it });
            Some(Part {
                call,
                arg,
                count: values.len(),
                index: itself.or_else(|| items.iter().position(inside))?,
                len: items.len(),
                wrong: itself.is_some(),
                later: false,
            })
        })
    }
}

/// The error leaves a thunk that calls a function on a part of something.
#[cold]
pub(super) fn of_thunk(e: Box<Error>, code: Code) -> Box<Error> {
    match code {
        Code::App(f, x) => of_call(e, f, x, None),
        Code::App2(f, name, x) => of_call(e, f, x, name.as_str().map(|n| Sym::of(n.bytes()))),
        Code::Expr(..) | Code::Native(..) => e,
    }
}

fn of_call(mut e: Box<Error>, f: Value, x: Value, name: Option<Sym>) -> Box<Error> {
    let Some((_, call, whole)) = f.place() else {
        return e;
    };
    if e.pos != call || e.part.is_some() || e.operand.is_some() {
        return e;
    }
    let wrong = e.wrong.take().is_some_and(|w| w.peel() == x.peel());
    let whole = whole.peel();
    if let Some(items) = whole.as_list() {
        // Of several equal ones the first fails first.
        if let Some(index) = items.iter().position(|i| i.peel() == x.peel()) {
            e.part = Some(Box::new(Part {
                call,
                arg: 1,
                count: 2,
                index,
                len: items.len(),
                wrong,
                later: true,
            }));
        }
        return e;
    }
    let says = std::mem::take(&mut e.label);
    if let (Some(set), Some(name)) = (whole.as_attrs(), name) {
        let shape = set.shape();
        let at = shape.find(name).map_or(Pos::NONE, |i| shape.pos_at(i));
        return e.other(at, if wrong { &*says } else { "for this attribute" });
    }
    match (name, x.small_int()) {
        (Some(name), _) => e.label(format!("for the attribute `{}`", name.text())),
        (None, Some(i)) if whole == Value::NULL => e.label(format!("for the number {i}")),
        _ => e,
    }
}

impl Vm {
    /// What thunks are to call in place of `f`, on so many arguments, for the parts of `whole`, for the builtin that was called at `pos`. Most functions have
    /// places of their own inside.
    pub(crate) fn for_parts(&self, f: Value, args: usize, pos: Pos, whole: Value) -> Value {
        let has_places = |f: Value, args: usize| match f.as_fun() {
            // One that takes fewer arguments gives a function, which may be another one.
            Some(Fun::Closure(l, _)) => l.formals.is_none() && l.arity as usize >= args,
            _ => false,
        };
        let known = match f.as_fun() {
            Some(Fun::Partial(g, have)) => has_places(g, have.len() + args),
            _ => has_places(f, args),
        };
        if known || pos == Pos::NONE {
            f
        } else {
            Value::placed(f, pos, whole)
        }
    }

    /// Shows an error at the element that it is about. Gives a label beside the primary one.
    pub(super) fn place_part(&self, e: &mut Error) -> Option<Label> {
        let part = e.part.take()?;
        if part.call != e.pos {
            return None;
        }
        let place = Place {
            index: part.arg,
            count: part.count,
            element: Some((part.index, part.len)),
            mapped: part.later,
        };
        let found = self.find_place(e.pos, &place);
        // What was said of the element does not hold for the call.
        let says = if part.wrong || !part.later {
            std::mem::take(&mut e.label)
        } else {
            String::new()
        };
        let (start, end, exact) = found?;
        if exact && part.wrong {
            let call = self.label(e.pos, Pos::NONE, "for each element");
            (e.pos, e.end, e.label) = (start, end, says);
            return call.filter(|_| part.later);
        }
        let text = match (exact, says.strip_prefix("this is ")) {
            (true, _) => "for this element".to_owned(),
            (false, Some(kind)) => format!("element {} of this is {kind}", part.index),
            (false, None) => format!("for element {} of this", part.index),
        };
        self.label(start, end, &text)
    }
}
