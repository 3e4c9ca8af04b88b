//! Making values for the Nix language.

use std::collections::BTreeMap;

use sos_lang::{ContextElem, Plain};

/// Makes a string.
pub(crate) fn text(s: impl AsRef<str>) -> Plain {
    Plain::Str {
        s: s.as_ref().as_bytes().to_vec(),
        context: Vec::new(),
    }
}

/// Makes a string that mentions store paths.
pub(crate) fn text_with(s: &str, context: &[ContextElem]) -> Plain {
    Plain::Str {
        s: s.as_bytes().to_vec(),
        context: context.to_vec(),
    }
}

/// Makes a list of strings.
pub(crate) fn texts<S: AsRef<str>>(list: impl IntoIterator<Item = S>) -> Plain {
    Plain::List(list.into_iter().map(text).collect())
}

/// Makes an integer. Sizes past 2^63 do not occur: they are of files that were read.
pub(crate) fn int(n: impl TryInto<i64>) -> Plain {
    Plain::Int(n.try_into().unwrap_or(i64::MAX))
}

/// An attribute set in the making.
#[derive(Debug, Default)]
pub(crate) struct Set(BTreeMap<String, Plain>);

impl Set {
    /// Starts with nothing.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds an attribute.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: Plain) -> Self {
        self.0.insert(name.to_owned(), value);
        self
    }

    /// Adds an attribute when there is a value for it.
    #[must_use]
    pub(crate) fn with_some(self, name: &str, value: Option<Plain>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Adds a list when it is not empty.
    #[must_use]
    pub(crate) fn with_list(self, name: &str, list: Vec<Plain>) -> Self {
        if list.is_empty() {
            self
        } else {
            self.with(name, Plain::List(list))
        }
    }

    /// Returns the attribute set.
    pub(crate) fn done(self) -> Plain {
        Plain::Attrs(self.0)
    }
}
