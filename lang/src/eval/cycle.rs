//! What an infinite recursion goes through, in words.

use super::Vm;
use crate::error::{Error, Kind};
use crate::heap::{Attrs, Sym, Thunk, Value};
use crate::ir::{Lambda, Pos};
use crate::parse::Place;

/// The way from a value that is being evaluated back to itself, collected while the error travels outwards.
pub(crate) struct Cycle {
    start: Thunk,
    closed: bool,
    /// The value whose evaluation was left last, and whether it is known how that was asked for.
    inner: Thunk,
    named: bool,
    /// What was followed and where, innermost first.
    steps: Vec<(What, Pos)>,
    /// How the value was asked for at first.
    name: Option<What>,
    /// Elements and attributes that are still looked at for the value that was left.
    patience: usize,
}

/// What leads to a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Name(Sym),
    /// An element of a list, and which argument of the call or operator at a place that list is, of how many.
    Element(usize, Option<(Pos, usize, usize)>),
}

/// Steps that are kept.
const MAX_STEPS: usize = 1000;
/// Names that a message holds, and places that are shown.
const MAX_SHOWN: usize = 4;
/// Elements and attributes that are looked at for one error.
pub(super) const PATIENCE: usize = 1 << 20;
/// Lists and sets inside each other that are looked into.
pub(super) const NESTED: u32 = 3;
/// Different calls that are counted.
const MAX_THROUGH: usize = 64;
/// How many times less often than the most frequent one a call may be met that is a part of the same recursion.
const RARE: usize = 8;
/// Bytes of an expression that stands for a list in a message.
const MAX_LIST: usize = 40;

const MESSAGE: &str = "infinite recursion encountered";

/// The error of a value that needs itself.
#[cold]
pub(super) fn infinite(start: Thunk) -> Box<Error> {
    let mut e = Error::new(Kind::Cycle, Pos::NONE, MESSAGE);
    e.cycle = Some(Box::new(Cycle {
        start,
        closed: false,
        inner: start,
        named: false,
        steps: Vec::new(),
        name: None,
        patience: PATIENCE,
    }));
    e
}

/// The error leaves the evaluation of a value.
#[cold]
pub(super) fn leave(mut e: Box<Error>, value: Thunk) -> Box<Error> {
    if let Some(cycle) = &mut e.cycle {
        cycle.closed |= cycle.start == value;
        cycle.inner = value;
        cycle.named = false;
    }
    e
}

impl Cycle {
    fn step(&mut self, what: What, pos: Pos) {
        self.named = true;
        if self.closed {
            self.name.get_or_insert(what);
        } else if self.steps.len() < MAX_STEPS {
            self.steps.push((what, pos));
        }
    }

    /// How one of some values leads to the value that was left.
    fn find(&mut self, values: &[Value], pos: Pos, written: bool) -> Option<What> {
        let inner = self.inner;
        let patience = &mut self.patience;
        let mut is_it = |x: Value| x.as_thunk() == Some(inner);
        values.iter().enumerate().find_map(|(arg, v)| {
            let v = v.peel();
            if let Some(items) = v.as_list() {
                let mut all = items.iter();
                let index = all.position(|x| holds(*x, NESTED, patience, &mut is_it))?;
                let list = written.then_some((pos, arg, values.len()));
                Some(What::Element(index, list))
            } else {
                let mut all = v.as_attrs()?.iter();
                all.find(|x| holds(x.1, NESTED, patience, &mut is_it))
                    .map(|x| What::Name(x.0))
            }
        })
    }
}

/// Whether a value is the one that is looked for, or has it inside, so many lists and sets deep. Nothing is evaluated.
pub(super) fn holds(
    v: Value,
    deep: u32,
    patience: &mut usize,
    is_it: &mut impl FnMut(Value) -> bool,
) -> bool {
    let Some(left) = patience.checked_sub(1) else {
        return false;
    };
    *patience = left;
    if is_it(v) {
        return true;
    }
    let Some(deep) = deep.checked_sub(1) else {
        return false;
    };
    let v = v.peel();
    if let Some(items) = v.as_list() {
        items.iter().any(|x| holds(*x, deep, patience, is_it))
    } else {
        v.as_attrs()
            .is_some_and(|set| set.iter().any(|x| holds(x.1, deep, patience, is_it)))
    }
}

/// The error leaves a builtin or operator that was given these values, and may have followed an element of one. `written`: they are
/// what is written at `pos`.
#[cold]
pub(super) fn item(mut e: Box<Error>, values: &[Value], pos: Pos, written: bool) -> Box<Error> {
    if let Some(cycle) = &mut e.cycle
        && !cycle.named
        && let Some(what) = cycle.find(values, pos, written)
    {
        cycle.step(what, pos);
    }
    e
}

/// What calls go through that nest too deep.
pub(crate) struct Through {
    what: Called,
    at: Pos,
    /// How often it did.
    times: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Called {
    /// The value of an attribute, by the place of that.
    Attr(Sym),
    /// A function, by its own place.
    Function(Option<Sym>),
    /// Whatever is called at a place.
    Here,
}

/// The error of calls that nest too deep leaves what was called for an attribute of `set`, so many times.
#[cold]
pub(super) fn through(e: Box<Error>, set: Value, name: Sym, times: usize) -> Box<Error> {
    let shape = set.peel().as_attrs().map(Attrs::shape);
    let at = shape.and_then(|s| Some(s.pos_at(s.find(name)?)));
    through_at(e, Called::Attr(name), at.unwrap_or(Pos::NONE), times)
}

/// The same for a function.
#[cold]
pub(super) fn through_function(e: Box<Error>, l: &Lambda) -> Box<Error> {
    through_at(e, Called::Function(l.name.get()), l.pos, 1)
}

/// The same for so many calls that ended in the next one, the last of them here.
#[cold]
pub(super) fn through_call(e: Box<Error>, at: Pos, times: usize) -> Box<Error> {
    if at == Pos::NONE {
        return e;
    }
    through_at(e, Called::Here, at, times.max(1))
}

fn through_at(mut e: Box<Error>, what: Called, at: Pos, times: usize) -> Box<Error> {
    if e.kind != Kind::Depth {
        return e;
    }
    let all = &mut e.through;
    if let Some(known) = all.iter_mut().find(|t| (t.what, t.at) == (what, at)) {
        known.times += times;
    } else if all.len() < MAX_THROUGH {
        all.push(Through { what, at, times });
    }
    e
}

/// The error leaves a name that was followed.
#[cold]
pub(crate) fn step(mut e: Box<Error>, name: Sym, pos: Pos) -> Box<Error> {
    if let Some(cycle) = &mut e.cycle {
        cycle.step(What::Name(name), pos);
    }
    e
}

/// The error of files that import each other, each the next one and the last the first, before they have a value.
#[cold]
pub(super) fn of_files(files: &[Vec<u8>], pos: Pos) -> Box<Error> {
    let quoted = |file: &Vec<u8>| format!("`{}`", String::from_utf8_lossy(file));
    let Some((first, others)) = files.split_first() else {
        return Error::new(Kind::Cycle, pos, MESSAGE);
    };
    let mut message = format!("{MESSAGE}: {} imports ", quoted(first));
    if others.is_empty() {
        message += "itself";
    } else {
        for file in others.iter().take(MAX_SHOWN) {
            message += &format!("{}, which imports ", quoted(file));
        }
        if let Some(more @ 1..) = others.len().checked_sub(MAX_SHOWN) {
            let word = if more == 1 { "file" } else { "files" };
            message += &format!("{more} more {word}, and these import ");
        }
        message += &quoted(first);
    }
    Error::new(Kind::Cycle, pos, message)
}

impl Vm {
    fn quoted(&self, what: What) -> String {
        let (index, list) = match what {
            What::Name(s) => return format!("`{}`", s.text()),
            What::Element(index, list) => (index, list),
        };
        let written = list.and_then(|(at, arg, count)| {
            let (start, end, _) = self.find_place(at, &Place::argument(arg, count))?;
            self.text_between(start, end)
        });
        // A name, or what is selected from one.
        let name = |text: &String| {
            text.len() <= MAX_LIST
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"_-'.".contains(&b))
        };
        match written.filter(name) {
            Some(text) => format!("element {index} of `{text}`"),
            None => format!("element {index} of a list"),
        }
    }

    /// Says which functions and attributes led back to themselves until calls were nested too deep.
    pub(super) fn explain_depth(&self, e: &mut Error) {
        let all = std::mem::take(&mut e.through);
        let most = all.iter().map(|t| t.times).max().unwrap_or(0);
        // Outermost first, as they call each other.
        let mut again: Vec<(String, &Through)> = Vec::new();
        for t in all.iter().rev() {
            if t.times < 2 || t.times < most / RARE || self.is_library(t.at) {
                continue;
            }
            let name = match t.what {
                Called::Attr(name) => Some(name.text().into_owned()),
                Called::Function(name) => name.map(|n| n.text().into_owned()),
                Called::Here => self.name_at(t.at),
            };
            if let Some(name) = name {
                again.push((format!("`{name}`"), t));
            }
        }
        let mut names: Vec<&String> = Vec::new();
        for (name, _) in &again {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let Some((first, others)) = names.split_first() else {
            return;
        };
        let mut message = format!("{}: {first} leads ", e.message);
        for name in others.iter().take(MAX_SHOWN) {
            message += &format!("to {name}, which leads ");
        }
        if let Some(more @ 1..) = others.len().checked_sub(MAX_SHOWN) {
            let word = if more == 1 { "name" } else { "names" };
            message += &format!("to {more} more {word}, and these lead ");
        }
        message += "back to ";
        message += if others.is_empty() { "itself" } else { first };
        for (name, t) in again.iter().take(MAX_SHOWN) {
            let known = |attr: &(String, &Through)| {
                attr.0 == *name && matches!(attr.1.what, Called::Attr(_))
            };
            let says = match t.what {
                Called::Here if others.is_empty() => format!("{name} leads back to itself"),
                Called::Here => format!("leads to {name}"),
                // The attribute says enough of the function in it.
                Called::Function(_) if again.iter().any(known) => continue,
                Called::Attr(_) | Called::Function(_) => format!("{name} leads back to itself"),
            };
            e.others.push((t.at, says));
        }
        e.message = message;
        e.helps = vec![format!(
            "calls may nest {} deep; `--max-call-depth` allows more where this has an end",
            self.options.max_call_depth,
        )];
    }

    /// Puts the names of the cycle into the message, and their places beside it.
    pub(super) fn explain_cycle(&self, e: &mut Error) {
        let Some(cycle) = e.cycle.take().filter(|c| c.closed) else {
            return;
        };
        let steps = cycle.steps.into_iter().rev();
        // Steps outermost first; one name that is followed several times in a row is one step.
        let mut steps: Vec<(String, Pos)> = steps
            .filter(|s| !self.is_library(s.1))
            .map(|(what, pos)| (self.quoted(what), pos))
            .collect();
        steps.dedup_by(|a, b| a.0 == b.0);
        let Some((last, at)) = steps.last().cloned() else {
            return;
        };
        let first = cycle
            .name
            .map_or_else(|| last.clone(), |what| self.quoted(what));
        let back = if first == last {
            first.clone()
        } else {
            format!("{last}, which is {first}")
        };
        let between = &steps[..steps.len() - 1];
        let mut message = format!("{MESSAGE}: {first} needs ");
        if between.is_empty() && first == last {
            message += "itself";
        } else {
            for s in between.iter().take(MAX_SHOWN) {
                message += &format!("{}, which needs ", s.0);
            }
            if let Some(more @ 1..) = between.len().checked_sub(MAX_SHOWN) {
                let names = if more == 1 { "name" } else { "names" };
                message += &format!("{more} more {names}, and these need ");
            }
            message += &back;
        }
        e.message = message;
        if e.pos == Pos::NONE {
            e.pos = at;
        }
        let mut owner = first;
        for (i, (name, pos)) in steps.into_iter().enumerate() {
            let says = if owner == name {
                format!("{owner} needs itself")
            } else {
                format!("{owner} needs {name}")
            };
            if pos == e.pos {
                e.label = says;
            } else if i < MAX_SHOWN {
                e.others.push((pos, says));
            }
            owner = name;
        }
    }
}
