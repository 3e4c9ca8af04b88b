//! From text to syntax: rnix finds the tokens, this module makes a small AST of them and closes the gaps between rnix and Nix.

pub(crate) mod ast;
mod attrs;
mod binds;
mod limits;
mod literals;
mod parser;
mod source;
mod strings;
mod tokens;

pub(crate) use literals::no_nul;
pub(crate) use parser::parse;
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
