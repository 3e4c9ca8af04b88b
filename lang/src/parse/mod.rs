//! From text to syntax: rnix, behind a fast lane for plain tokens, finds the tokens; this module makes a small AST of them and closes
//! the gaps between rnix and Nix.

mod ahead;
pub(crate) mod ast;
mod attrs;
mod binds;
mod describe;
mod find;
mod lex;
mod limits;
mod lint;
mod literals;
mod parser;
mod source;
mod strings;
mod tokens;

pub(crate) use ahead::{Ahead, Names};
pub(crate) use find::{Place, part};
pub(crate) use literals::no_nul;
pub(crate) use parser::{Workspace, parse};
pub(crate) use source::decode;

/// Why a text is not an expression.
#[derive(Debug, Clone)]
pub(crate) struct SyntaxError {
    /// One line.
    pub(crate) message: String,
    /// Where, as byte offsets of the decoded text.
    pub(crate) span: std::ops::Range<usize>,
    /// The earlier place this one is in conflict with.
    pub(crate) other: Option<usize>,
    /// Whether it may be an expression, but a larger one than can be parsed.
    pub(crate) too_deep: bool,
    /// Words at the place.
    pub(crate) label: String,
    /// Another place that explains it, and how.
    pub(crate) with: Option<(usize, &'static str)>,
}

impl SyntaxError {
    fn new(message: impl Into<String>, span: std::ops::Range<usize>) -> Box<Self> {
        Box::new(Self {
            message: message.into(),
            span,
            other: None,
            too_deep: false,
            label: String::new(),
            with: None,
        })
    }

    fn with(mut self: Box<Self>, at: usize, text: &'static str) -> Box<Self> {
        self.with = Some((at, text));
        self
    }

    fn labelled(mut self: Box<Self>, text: String) -> Box<Self> {
        self.label = text;
        self
    }

    fn too_deep(message: &str, span: std::ops::Range<usize>) -> Box<Self> {
        Box::new(Self {
            too_deep: true,
            ..*Self::new(message, span)
        })
    }
}
