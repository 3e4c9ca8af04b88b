//! From text to syntax: rnix makes the tree, this module turns it into a small AST of its own and closes the gaps between rnix
//! and Nix.

pub(crate) mod ast;
mod attrs;
mod convert;
mod limits;
mod source;
mod strings;

pub(crate) use convert::{no_nul, parse};
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
}

impl SyntaxError {
    fn new(message: impl Into<String>, span: std::ops::Range<usize>) -> Box<Self> {
        Box::new(Self {
            message: message.into(),
            span,
            other: None,
            too_deep: false,
        })
    }

    fn too_deep(message: &str, span: std::ops::Range<usize>) -> Box<Self> {
        Box::new(Self {
            too_deep: true,
            ..*Self::new(message, span)
        })
    }
}
