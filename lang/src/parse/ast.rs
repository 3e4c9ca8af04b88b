//! The syntax tree after normalisation: nested attribute paths merged, strings unescaped, names interned.
//!
//! The tree of a file lives from parsing to lowering only. It lies in a bump allocator that the next file uses again, so nodes are plain
//! references and nothing is dropped.

use bumpalo::Bump;
use bumpalo::collections::Vec;

use crate::heap::Sym;

/// A node with the byte range it came from.
#[derive(Debug)]
pub(crate) struct Ast<'a> {
    pub(crate) start: u32,
    pub(crate) end: u32,
    pub(crate) node: Node<'a>,
}

/// The kinds of nodes.
#[derive(Debug)]
pub(crate) enum Node<'a> {
    Int(i64),
    Float(f64),
    /// Parts of a string; no parts is the empty string.
    Str(&'a [Part<'a>]),
    /// A path with interpolations; the first part is text.
    Path(&'a [Part<'a>]),
    SearchPath(&'a str),
    Var(Sym),
    Lambda(&'a Param<'a>, &'a Ast<'a>),
    /// The function, then the arguments.
    Call(&'a mut [Ast<'a>]),
    Select(&'a Select<'a>),
    HasAttr(&'a HasAttr<'a>),
    Attrs(&'a mut AttrSet<'a>),
    Let(&'a AttrSet<'a>, &'a Ast<'a>),
    List(&'a [Ast<'a>]),
    With(&'a Ast<'a>, &'a Ast<'a>),
    /// Condition, then, else.
    If(&'a [Ast<'a>; 3]),
    Assert(&'a Ast<'a>, &'a Ast<'a>),
    Not(&'a Ast<'a>),
    Neg(&'a Ast<'a>),
    Bin(Op, u32, &'a Ast<'a>, &'a Ast<'a>),
    CurPos,
}

// Every rule of the grammar hands a node to the one above it.
const _: () = assert!(size_of::<Ast<'_>>() == 32);

/// `base.path or default`
#[derive(Debug)]
pub(crate) struct Select<'a> {
    pub(crate) base: Ast<'a>,
    pub(crate) path: &'a [Attr<'a>],
    pub(crate) default: Option<Ast<'a>>,
}

/// `base ? path`
#[derive(Debug)]
pub(crate) struct HasAttr<'a> {
    pub(crate) base: Ast<'a>,
    pub(crate) path: &'a [Attr<'a>],
}

/// Binary operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
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
    And,
    Or,
    Impl,
    Concat,
    Update,
}

/// A part of a string or path.
#[derive(Debug)]
pub(crate) enum Part<'a> {
    Text(&'a [u8]),
    Expr(Ast<'a>),
}

/// One component of an attribute path.
#[derive(Debug)]
pub(crate) enum Attr<'a> {
    Name(Sym, u32),
    Dynamic(Ast<'a>),
}

/// The parameter of a function.
#[derive(Debug)]
pub(crate) enum Param<'a> {
    Name(Sym),
    Formals {
        formals: &'a [Formal<'a>],
        ellipsis: bool,
        bind: Option<Sym>,
    },
}

/// One name of a set pattern.
#[derive(Debug)]
pub(crate) struct Formal<'a> {
    pub(crate) name: Sym,
    pub(crate) pos: u32,
    pub(crate) default: Option<Ast<'a>>,
}

/// The body of an attribute set or `let`.
#[derive(Debug)]
pub(crate) struct AttrSet<'a> {
    pub(crate) recursive: bool,
    pub(crate) attrs: Vec<'a, AttrDef<'a>>,
    pub(crate) dynamic: Vec<'a, DynAttr<'a>>,
    /// The expressions of `inherit (e) ...`.
    pub(crate) from: Vec<'a, Ast<'a>>,
}

/// A statically named attribute.
#[derive(Debug)]
pub(crate) struct AttrDef<'a> {
    pub(crate) name: Sym,
    pub(crate) pos: u32,
    pub(crate) value: AttrValue<'a>,
}

/// What defines an attribute.
#[derive(Debug)]
pub(crate) enum AttrValue<'a> {
    Plain(Ast<'a>),
    /// `inherit x;`
    Inherit,
    /// `inherit (e) x;` with the index of `e`.
    From(usize),
}

/// An attribute whose name is computed.
#[derive(Debug)]
pub(crate) struct DynAttr<'a> {
    pub(crate) name: Ast<'a>,
    pub(crate) value: Ast<'a>,
    pub(crate) pos: u32,
}

impl<'a> Ast<'a> {
    pub(crate) fn new(start: u32, end: u32, node: Node<'a>) -> Self {
        Self { start, end, node }
    }
}

impl<'a> AttrSet<'a> {
    pub(super) fn new(recursive: bool, bump: &'a Bump) -> Self {
        Self {
            recursive,
            attrs: Vec::new_in(bump),
            dynamic: Vec::new_in(bump),
            from: Vec::new_in(bump),
        }
    }
}
