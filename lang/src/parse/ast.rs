//! The syntax tree after normalisation: nested attribute paths merged, strings unescaped, names interned.

use crate::heap::Sym;

/// A node with the byte range it came from.
#[derive(Debug, Clone)]
pub(crate) struct Ast {
    pub(crate) start: u32,
    pub(crate) end: u32,
    pub(crate) node: Node,
}

/// The kinds of nodes.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    Int(i64),
    Float(f64),
    /// Parts of a string; no parts is the empty string.
    Str(Vec<Part>),
    /// A path with interpolations; the first part is text.
    Path(Vec<Part>),
    SearchPath(String),
    Var(Sym),
    Lambda(Param, Box<Ast>),
    Call(Box<Ast>, Vec<Ast>),
    Select(Box<Ast>, Vec<Attr>, Option<Box<Ast>>),
    HasAttr(Box<Ast>, Vec<Attr>),
    Attrs(AttrSet),
    Let(AttrSet, Box<Ast>),
    List(Vec<Ast>),
    With(Box<Ast>, Box<Ast>),
    If(Box<Ast>, Box<Ast>, Box<Ast>),
    Assert(Box<Ast>, Box<Ast>),
    Not(Box<Ast>),
    Neg(Box<Ast>),
    Bin(Op, u32, Box<Ast>, Box<Ast>),
    CurPos,
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
#[derive(Debug, Clone)]
pub(crate) enum Part {
    Text(Vec<u8>),
    Expr(Ast),
}

/// One component of an attribute path.
#[derive(Debug, Clone)]
pub(crate) enum Attr {
    Name(Sym, u32),
    Dynamic(Ast),
}

/// The parameter of a function.
#[derive(Debug, Clone)]
pub(crate) enum Param {
    Name(Sym),
    Formals {
        formals: Vec<Formal>,
        ellipsis: bool,
        bind: Option<Sym>,
    },
}

/// One name of a set pattern.
#[derive(Debug, Clone)]
pub(crate) struct Formal {
    pub(crate) name: Sym,
    pub(crate) pos: u32,
    pub(crate) default: Option<Ast>,
}

/// The body of an attribute set or `let`.
#[derive(Debug, Clone, Default)]
pub(crate) struct AttrSet {
    pub(crate) recursive: bool,
    pub(crate) attrs: Vec<AttrDef>,
    pub(crate) dynamic: Vec<DynAttr>,
    /// The expressions of `inherit (e) ...`.
    pub(crate) from: Vec<Ast>,
}

/// A statically named attribute.
#[derive(Debug, Clone)]
pub(crate) struct AttrDef {
    pub(crate) name: Sym,
    pub(crate) pos: u32,
    pub(crate) value: AttrValue,
}

/// What defines an attribute.
#[derive(Debug, Clone)]
pub(crate) enum AttrValue {
    Plain(Ast),
    /// `inherit x;`
    Inherit,
    /// `inherit (e) x;` with the index of `e`.
    From(usize),
}

/// An attribute whose name is computed.
#[derive(Debug, Clone)]
pub(crate) struct DynAttr {
    pub(crate) name: Ast,
    pub(crate) value: Ast,
    pub(crate) pos: u32,
}

impl Ast {
    pub(crate) fn new(start: u32, end: u32, node: Node) -> Ast {
        Ast { start, end, node }
    }
}
