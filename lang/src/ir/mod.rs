//! The program as the evaluator runs it: names resolved to slots, constants folded, attribute names interned and sorted.
//!
//! A *block* is code that runs at once: the body of a function or of a thunk. A function's block has one frame, made by the call, that
//! also holds the variables of every `let` that runs in the block; a `let` in a thunk makes a frame of its own. So an environment is a
//! short chain of frames whose sizes are known here, and a variable is a number of frames to go up and a slot.

mod lower;
mod pos;
mod scope;
mod sets;
mod strict;

use std::cell::Cell;

use crate::builtins::Prim;
use crate::heap::{Kept, Shape, Sym, Value};

pub(crate) use lower::{LowerError, Scope, lower};
pub(crate) use pos::Pos;
pub(crate) use scope::Scopes;

/// A reference to a node: nodes live as long as the thread that evaluates.
pub(crate) type E = &'static Expr;

/// Remembers where an attribute was found last: the shape and the index, or `ABSENT`.
#[derive(Default)]
pub(crate) struct ShapeCache {
    shape: Cell<usize>,
    index: Cell<u32>,
}

const ABSENT: u32 = u32::MAX;

impl ShapeCache {
    /// Index of `sym` in `shape`.
    #[inline(always)]
    pub(crate) fn find(&self, shape: &'static Shape, sym: Sym) -> Option<usize> {
        let at = std::ptr::from_ref(shape) as usize;
        if self.shape.get() == at {
            let i = self.index.get();
            return if i == ABSENT { None } else { Some(i as usize) };
        }
        let r = shape.find(sym);
        self.shape.set(at);
        self.index.set(r.map_or(ABSENT, |i| i as u32));
        r
    }
}

/// A component of an attribute path.
pub(crate) enum Name {
    /// A name known here.
    Static(Sym, ShapeCache),
    /// A computed name.
    Dynamic(E),
}

/// Arithmetic and comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BinOp {
    Add,
    Sub,
    Mul,
    Div,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// A node.
pub(crate) enum Expr {
    /// A value that needs no environment.
    Const(Value),
    /// A variable of the innermost frame.
    Local(u32, Sym, Pos),
    /// A variable of the frame one level up.
    Up1(u32, Sym, Pos),
    /// A variable further up: levels, slot.
    Up(u32, u32, Sym, Pos),
    /// A name that only `with` can define; scopes from the inside out.
    WithVar {
        sym: Sym,
        pos: Pos,
        scopes: Kept<(u32, u32, ShapeCache)>,
    },
    /// A function.
    Lambda(&'static Lambda),
    /// A call of a function that is not known here.
    Call {
        fun: E,
        args: Kept<E>,
        pos: Pos,
    },
    /// A call of a builtin with all its arguments.
    Prim {
        prim: &'static Prim,
        args: Kept<E>,
        pos: Pos,
    },
    /// `e.a`
    Select {
        base: E,
        sym: Sym,
        cache: ShapeCache,
        pos: Pos,
    },
    /// `e.a.b or c`, computed names
    SelectPath {
        base: E,
        path: Kept<Name>,
        default: Option<E>,
        pos: Pos,
    },
    /// `e ? a.b`
    HasAttr {
        base: E,
        path: Kept<Name>,
        pos: Pos,
    },
    /// An attribute set literal; values in the order of the shape.
    Attrs(&'static AttrsLit),
    /// A list literal.
    List(Kept<E>),
    /// Variables put into slots of the innermost frame, then the body.
    Let(Kept<(u32, E)>, E),
    /// A new frame, then the body.
    Block(u32, E),
    /// `with`: the set goes into a slot.
    With(u32, E, E),
    If(E, E, E),
    Assert {
        cond: E,
        body: E,
        pos: Pos,
        end: Pos,
    },
    And(E, E, Pos),
    Or(E, E, Pos),
    Implies(E, E, Pos),
    Not(E, Pos),
    Neg(E, Pos),
    Bin {
        op: BinOp,
        a: E,
        b: E,
        pos: Pos,
        cheap: bool,
    },
    /// Arithmetic with a small constant on the right.
    BinConst {
        op: BinOp,
        a: E,
        b: i64,
        pos: Pos,
        cheap: bool,
    },
    Concat(E, E, Pos),
    Update(E, E, Pos),
    /// A string of several parts.
    Interp(Kept<(E, Pos)>, Pos),
    /// A path of several parts.
    PathInterp(Kept<(E, Pos)>, Pos),
}

/// An attribute set literal.
pub(crate) struct AttrsLit {
    /// The static names.
    pub(crate) shape: &'static Shape,
    /// Their values in the order of the shape.
    pub(crate) values: Kept<E>,
    /// Slots to fill first: variables of a recursive set, sources of `inherit (e)`.
    pub(crate) pre: Kept<(u32, E)>,
    /// Names that are computed: name, value, place.
    pub(crate) dynamic: Kept<(E, E, Pos)>,
    /// Whether the set is recursive and defines `__overrides`.
    pub(crate) overrides: bool,
    /// The slot of each attribute of a recursive set, for `__overrides`.
    pub(crate) slots: Kept<u32>,
    pub(crate) pos: Pos,
}

impl AttrsLit {
    /// Whether the set can be made as soon as a thunk for it: few values, and nothing to run first.
    pub(crate) fn is_small(&self) -> bool {
        self.values.len() <= 4 && self.pre.is_empty() && self.dynamic.is_empty()
    }
}

/// A function: one or more parameters and a body.
pub(crate) struct Lambda {
    /// Number of arguments that a call needs. Parameters are the first slots.
    pub(crate) arity: u32,
    /// Slots of the frame.
    pub(crate) slots: u32,
    pub(crate) body: E,
    /// Parameters that the function forces before it does anything else, in that order: callers may evaluate these arguments at once.
    pub(crate) first: Kept<u32>,
    /// The other parameters.
    pub(crate) later: Kept<u32>,
    /// The set pattern of the last parameter.
    pub(crate) formals: Option<Formals>,
    /// Names of the parameters, for printing.
    pub(crate) params: Kept<Sym>,
    /// The name it is bound to, for messages.
    pub(crate) name: Cell<Option<Sym>>,
    pub(crate) pos: Pos,
}

/// A set pattern. The set itself is in the slot of the parameter, the names in the slots after the parameters.
pub(crate) struct Formals {
    /// Sorted by symbol.
    pub(crate) names: Kept<Formal>,
    pub(crate) ellipsis: bool,
    /// Whether `@name` is there.
    pub(crate) bind: Option<Sym>,
    /// The shape of the set that was matched last and, per name, the index in it.
    pub(crate) seen: FormalsCache,
}

/// Remembers how the last argument matched.
#[derive(Default)]
pub(crate) struct FormalsCache {
    pub(crate) shape: Cell<usize>,
    pub(crate) index: std::cell::RefCell<Vec<u32>>,
}

/// A name in a set pattern.
pub(crate) struct Formal {
    pub(crate) name: Sym,
    pub(crate) slot: u32,
    pub(crate) default: Option<E>,
    pub(crate) pos: Pos,
    /// Place in the source order.
    pub(crate) order: u32,
}
