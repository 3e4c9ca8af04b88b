//! What an infinite recursion goes through, in words.

use super::Vm;
use crate::error::{Error, Kind};
use crate::heap::{Sym, Thunk};
use crate::ir::Pos;

/// The way from a value that is being evaluated back to itself, collected while the error travels outwards.
pub(crate) struct Cycle {
    start: Thunk,
    closed: bool,
    /// The names that were followed and where, innermost first.
    steps: Vec<(Sym, Pos)>,
    /// The name by which the value was asked for at first.
    name: Option<Sym>,
}

/// Steps that are kept.
const MAX_STEPS: usize = 1000;
/// Names that a message holds, and places that are shown.
const MAX_SHOWN: usize = 4;

const MESSAGE: &str = "infinite recursion encountered";

/// The error of a value that needs itself.
#[cold]
pub(super) fn infinite(start: Thunk) -> Box<Error> {
    let mut e = Error::new(Kind::Cycle, Pos::NONE, MESSAGE);
    e.cycle = Some(Box::new(Cycle {
        start,
        closed: false,
        steps: Vec::new(),
        name: None,
    }));
    e
}

/// The error leaves the evaluation of a value.
#[cold]
pub(super) fn leave(mut e: Box<Error>, value: Thunk) -> Box<Error> {
    if let Some(cycle) = &mut e.cycle
        && cycle.start == value
    {
        cycle.closed = true;
    }
    e
}

/// The error leaves a name that was followed.
#[cold]
pub(crate) fn step(mut e: Box<Error>, name: Sym, pos: Pos) -> Box<Error> {
    if let Some(cycle) = &mut e.cycle {
        if cycle.closed {
            cycle.name.get_or_insert(name);
        } else if cycle.steps.len() < MAX_STEPS {
            cycle.steps.push((name, pos));
        }
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
    /// Puts the names of the cycle into the message, and their places beside it.
    pub(super) fn explain_cycle(&self, e: &mut Error) {
        let Some(cycle) = e.cycle.take().filter(|c| c.closed) else {
            return;
        };
        let mut steps = cycle.steps;
        steps.retain(|s| !self.is_library(s.1));
        // Steps outermost first; one name that is followed several times in a row is one step.
        steps.reverse();
        steps.dedup_by_key(|s| s.0);
        let Some(&(last, at)) = steps.last() else {
            return;
        };
        let first = cycle.name.unwrap_or(last);
        let quoted = |s: Sym| format!("`{}`", s.text());
        let back = if first == last {
            quoted(first)
        } else {
            format!("{}, which is {}", quoted(last), quoted(first))
        };
        let between = &steps[..steps.len() - 1];
        let mut message = format!("{MESSAGE}: {} needs ", quoted(first));
        if between.is_empty() && first == last {
            message += "itself";
        } else {
            for s in between.iter().take(MAX_SHOWN) {
                message += &format!("{}, which needs ", quoted(s.0));
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
        for (i, &(name, pos)) in steps.iter().enumerate() {
            let says = if owner == name {
                format!("{} needs itself", quoted(owner))
            } else {
                format!("{} needs {}", quoted(owner), quoted(name))
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
