//! Directories of a checkout as they are for upstream, which copies what links lead to in their place.

use std::collections::BTreeSet;

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_lang::{FileType, Plain};

use super::checkout::{Checkout, Result};
use crate::plain::{Set, text};

/// The deepest directory that is looked into.
const MAX_DEPTH: usize = 32;

/// A file or directory of the checkout at an absolute path.
pub(super) fn at_source(checkout: &Checkout<'_>, at: &str, source: &str) -> Plain {
    Set::new()
        .with("at", text(at))
        .with("source", Plain::Path(checkout.absolute(source)))
        .done()
}

/// A text at an absolute path.
pub(super) fn at_text(at: &str, content: &str) -> Plain {
    Set::new()
        .with("at", text(at))
        .with("text", text(content))
        .done()
}

/// A file or directory of the checkout, and where a step finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The absolute path that it has for the step.
    pub at: String,
    /// Its path in the checkout, links followed.
    pub source: String,
}

impl Shown {
    pub(super) fn new(at: impl Into<String>, source: impl Into<String>) -> Self {
        Self {
            at: at.into(),
            source: source.into(),
        }
    }

    pub(super) fn to_plain(&self, checkout: &Checkout<'_>) -> Plain {
        at_source(checkout, &self.at, &self.source)
    }
}

/// Finds what has to be placed.
pub(super) struct Files<'a> {
    checkout: &'a Checkout<'a>,
    /// What was found.
    pub(super) found: Vec<Shown>,
    seen: BTreeSet<String>,
}

impl<'a> Files<'a> {
    pub(super) fn new(checkout: &'a Checkout<'a>) -> Self {
        Self {
            checkout,
            found: Vec::new(),
            seen: BTreeSet::new(),
        }
    }

    /// Everything in a directory of a step: the directory without its links, and for each link what it leads to.
    pub(super) fn dir(&mut self, at: &str, source: &str, depth: usize) -> Result<()> {
        let Some(real) = self.checkout.resolve(source)? else {
            return Ok(());
        };
        if depth > MAX_DEPTH {
            let message = format!(
                "`{}` is deeper than {MAX_DEPTH} directories",
                self.checkout.shown(source)
            );
            return Err(Box::new(Diagnostic::error(
                "bootstrap-bad-link",
                Class::Recipe,
                message,
            )));
        }
        self.found.push(Shown::new(at, &real));
        self.links(at, &real, depth)
    }

    fn links(&mut self, at: &str, source: &str, depth: usize) -> Result<()> {
        for (name, kind) in self.checkout.list(source)? {
            let (at, path) = (format!("{at}/{name}"), format!("{source}/{name}"));
            match kind {
                FileType::Directory if depth < MAX_DEPTH => self.links(&at, &path, depth + 1)?,
                FileType::Symlink => match self.checkout.resolve(&path)? {
                    Some(real) if self.checkout.kind(&real)? == Some(FileType::Directory) => {
                        // A link to a directory that it is in would have no end.
                        if !self.seen.insert(real.clone()) || path.starts_with(&format!("{real}/"))
                        {
                            let message =
                                format!("`{}` is a circle of links", self.checkout.shown(&path));
                            return Err(Box::new(Diagnostic::error(
                                "bootstrap-bad-link",
                                Class::Recipe,
                                message,
                            )));
                        }
                        self.dir(&at, &real, depth + 1)?;
                        self.seen.remove(&real);
                    }
                    Some(real) => self.found.push(Shown::new(at, real)),
                    None => {
                        let message = format!("`{}` leads nowhere", self.checkout.shown(&path));
                        let problem =
                            Diagnostic::error("bootstrap-bad-link", Class::Recipe, message)
                                .help("remove it, or make it lead to a file of its own tree");
                        return Err(Box::new(problem));
                    }
                },
                _ => {}
            }
        }
        Ok(())
    }
}
