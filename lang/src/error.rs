//! Errors as they travel through the evaluator; turned into diagnostics at its border.

use sos_formats::diagnostic::Diagnostic;

use crate::eval::{Part, Through};
use crate::heap::Value;
use crate::ir::Pos;

/// What went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Throw,
    Assert,
    /// A `<path>` that is not in the search path.
    NotFound,
    Abort,
    Type,
    AttrMissing,
    Undefined,
    Cycle,
    Depth,
    Arith,
    Argument,
    Syntax,
    /// More nesting than the parser can take.
    Nesting,
    Io,
    /// A wrong value given to a builtin.
    Value,
    Derivation,
    Regex,
    Json,
    Context,
    Pure,
    /// A flake, its inputs or its lock.
    Flake,
    /// Somebody asked it to stop.
    Interrupted,
    /// Reported by the host or an extension.
    Host,
}

impl Kind {
    /// The stable code of the diagnostic.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Kind::Throw => "eval-throw",
            Kind::Assert => "eval-assert",
            Kind::NotFound => "eval-path-not-found",
            Kind::Abort => "eval-abort",
            Kind::Type => "eval-type",
            Kind::AttrMissing => "eval-attr-missing",
            Kind::Undefined => "eval-undefined-variable",
            Kind::Cycle => "eval-cycle",
            Kind::Depth => "eval-too-deep",
            Kind::Arith => "eval-arithmetic",
            Kind::Argument => "eval-argument",
            Kind::Syntax => "parse-syntax",
            Kind::Nesting => "parse-too-deep",
            Kind::Io => "eval-io",
            Kind::Value => "eval-value",
            Kind::Derivation => "eval-derivation",
            Kind::Regex => "eval-regex",
            Kind::Json => "eval-format",
            Kind::Context => "eval-context",
            Kind::Pure => "eval-impure",
            Kind::Flake => "eval-flake",
            Kind::Interrupted => "eval-interrupted",
            Kind::Host => "eval-host",
        }
    }

    /// Whether `tryEval` catches it.
    pub(crate) fn catchable(self) -> bool {
        matches!(self, Kind::Throw | Kind::Assert | Kind::NotFound)
    }
}

/// An error with what is known about it.
pub(crate) struct Error {
    pub(crate) kind: Kind,
    pub(crate) message: String,
    pub(crate) pos: Pos,
    /// End of the primary place, when it is more than one token.
    pub(crate) end: Pos,
    /// Words at the primary place.
    pub(crate) label: String,
    pub(crate) others: Vec<(Pos, String)>,
    pub(crate) notes: Vec<String>,
    pub(crate) helps: Vec<String>,
    /// Innermost first.
    pub(crate) trace: Vec<(String, Pos)>,
    /// Which of these the program itself has said.
    pub(crate) said: Vec<usize>,
    pub(crate) ready: Option<Box<Diagnostic>>,
    /// The way around, when it is an infinite recursion.
    pub(crate) cycle: Option<Box<crate::eval::Cycle>>,
    /// The value that it is about.
    pub(crate) wrong: Option<Value>,
    /// Which operand or argument that is, of what is at a place: its number, and how many there are at least.
    pub(crate) operand: Option<(Pos, usize, usize)>,
    /// Which part of an argument it is about.
    pub(crate) part: Option<Box<Part>>,
    /// What it went through on its way outwards, when calls nest too deep; innermost first.
    pub(crate) through: Vec<Through>,
    /// A misspelt name and the right one.
    pub(crate) spelling: Option<(String, String)>,
}

/// A result of the evaluator.
pub(crate) type R<T = Value> = Result<T, Box<Error>>;

/// Frames kept of a trace: the innermost ones.
const MAX_TRACE: usize = 200;

/// Bytes of a message about a name.
const LONG: usize = 1000;

impl Error {
    #[cold]
    pub(crate) fn new(kind: Kind, pos: Pos, message: impl Into<String>) -> Box<Error> {
        let mut message = message.into();
        // Names come from the program, which may have been made by another; what it says itself is shown whole.
        if message.len() > LONG
            && matches!(kind, Kind::Undefined | Kind::AttrMissing | Kind::Argument)
        {
            let mut end = LONG;
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            message.truncate(end);
            message.push('…');
        }
        Box::new(Error {
            kind,
            message,
            pos,
            end: Pos::NONE,
            label: String::new(),
            others: Vec::new(),
            notes: Vec::new(),
            helps: Vec::new(),
            trace: Vec::new(),
            said: Vec::new(),
            ready: None,
            cycle: None,
            wrong: None,
            operand: None,
            part: None,
            through: Vec::new(),
            spelling: None,
        })
    }

    #[cold]
    pub(crate) fn frame(mut self: Box<Self>, message: impl Into<String>, pos: Pos) -> Box<Self> {
        if self.trace.len() < MAX_TRACE {
            self.trace.push((message.into(), pos));
        }
        self
    }

    /// Adds a frame with the program's own words, which are shown whatever else is not.
    #[cold]
    pub(crate) fn context(mut self: Box<Self>, message: String) -> Box<Self> {
        self.said.push(self.trace.len());
        self.frame(message, Pos::NONE)
    }

    /// Gives the error a place if it has none.
    #[cold]
    pub(crate) fn at(mut self: Box<Self>, pos: Pos) -> Box<Self> {
        if self.pos == Pos::NONE {
            self.pos = pos;
        }
        self
    }

    pub(crate) fn label(mut self: Box<Self>, text: impl Into<String>) -> Box<Self> {
        self.label = text.into();
        self
    }

    pub(crate) fn other(mut self: Box<Self>, pos: Pos, text: impl Into<String>) -> Box<Self> {
        if pos != Pos::NONE {
            self.others.push((pos, text.into()));
        }
        self
    }

    /// Says which value it is about.
    pub(crate) fn wrong(mut self: Box<Self>, v: Value) -> Box<Self> {
        self.wrong = Some(v);
        self
    }

    /// Says which operand of the operator at `pos` it is about.
    #[cold]
    pub(crate) fn operand(mut self: Box<Self>, pos: Pos, index: usize) -> Box<Self> {
        self.operand = Some((pos, index, 1));
        self
    }

    /// The error leaves the operator or call at `pos`: the value that it is about may be one of those given to that.
    #[cold]
    pub(crate) fn among(mut self: Box<Self>, values: &[Value], pos: Pos) -> Box<Self> {
        let Some(wrong) = self.wrong.take() else {
            return self;
        };
        if self.operand.is_some() || pos == Pos::NONE || ![pos, Pos::NONE].contains(&self.pos) {
            return self;
        }
        let mut found = (0..values.len()).filter(|i| values[*i].peel() == wrong.peel());
        // Of two that are equal it is not known which one was meant.
        if let (Some(index), None) = (found.next(), found.next()) {
            self.operand = Some((pos, index, values.len()));
            return self;
        }
        self.part = Part::wrong(wrong, values, pos).map(Box::new);
        self
    }

    /// Says which name is meant, when only one can be.
    pub(crate) fn spelling(mut self: Box<Self>, wrong: &str, near: &[String]) -> Box<Self> {
        if let [one] = near {
            self.spelling = Some((wrong.to_owned(), one.clone()));
        }
        self
    }

    pub(crate) fn help(mut self: Box<Self>, text: impl Into<String>) -> Box<Self> {
        self.helps.push(text.into());
        self
    }
}

/// Adds a frame to the error of a result.
pub(crate) trait Traced {
    fn traced(self, message: impl FnOnce() -> String, pos: Pos) -> Self;
}

impl<T> Traced for R<T> {
    #[inline(always)]
    fn traced(self, message: impl FnOnce() -> String, pos: Pos) -> Self {
        match self {
            Ok(v) => Ok(v),
            Err(e) => Err(e.frame(message(), pos)),
        }
    }
}
