//! POSIX extended regular expressions as the C++ library that Nix uses understands them, on bytes.
//!
//! The overall match is the leftmost-longest one; the groups are those of the first way, in the order of alternatives, that reaches
//! that end; a group under a repetition keeps what it matched in an earlier round.

mod engine;
mod names;
mod parse;

use std::rc::Rc;

use rustc_hash::FxHashMap;

pub(crate) use engine::{Regex, Span};

/// Compiled patterns.
#[derive(Default)]
pub(crate) struct Cache {
    known: FxHashMap<Vec<u8>, Rc<Regex>>,
}

impl Cache {
    /// Compiles a pattern, once.
    pub(crate) fn get(&mut self, pattern: &[u8]) -> Result<Rc<Regex>, String> {
        if let Some(r) = self.known.get(pattern) {
            return Ok(r.clone());
        }
        let r = Rc::new(Regex::new(pattern)?);
        self.known.insert(pattern.to_vec(), r.clone());
        Ok(r)
    }
}

#[cfg(test)]
mod tests;
