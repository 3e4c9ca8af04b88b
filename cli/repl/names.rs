//! What names mean in a conversation.

use std::collections::BTreeMap;

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_lang::{Evaluator, Value};

use crate::evaluate::Interactive;

/// Names given by the person, and the files that they came from.
pub(super) struct Names {
    values: BTreeMap<String, Value>,
    files: Vec<String>,
}

impl Names {
    pub(super) fn new() -> Self {
        Self {
            values: BTreeMap::new(),
            files: Vec::new(),
        }
    }

    /// The names that begin like that.
    pub(super) fn starting(&self, with: &str) -> Vec<String> {
        let all = self.values.keys();
        all.filter(|n| n.starts_with(with)).cloned().collect()
    }

    /// Evaluates a text in which the names are known.
    pub(super) fn eval(&self, world: &Interactive, text: &str) -> Result<Value, Box<Diagnostic>> {
        world
            .evaluator
            .eval_with(text, "input", &world.here, &self.values)
    }

    /// Makes the attributes of a set names; says how many.
    pub(super) fn add(
        &mut self,
        evaluator: &Evaluator,
        set: Value,
    ) -> Result<usize, Box<Diagnostic>> {
        let kind = evaluator.type_of(set)?;
        if kind != "set" {
            return Err(Box::new(Diagnostic::error(
                "repl-not-a-set",
                Class::Recipe,
                format!(
                    "expected a set, whose attributes become names, and found a value of type {kind}"
                ),
            )));
        }
        let names = evaluator.attr_names(set)?;
        for name in &names {
            if let Some(value) = evaluator.attr(set, name)? {
                self.values.insert(name.clone(), value);
            }
        }
        Ok(names.len())
    }

    /// Loads a file, and again whenever [`Names::reload`] is called.
    pub(super) fn load(
        &mut self,
        world: &Interactive,
        file: &str,
    ) -> Result<usize, Box<Diagnostic>> {
        if !self.files.iter().any(|f| f == file) {
            self.files.push(file.to_owned());
        }
        // An import would give what was read before: the evaluator reads no file twice.
        let mut path = world.here.join(file);
        if path.is_dir() {
            let own = path.join("sos.nix");
            path = if own.is_file() {
                own
            } else {
                path.join("default.nix")
            };
        }
        let text = std::fs::read_to_string(&path).map_err(|e| {
            Box::new(Diagnostic::error(
                "repl-cannot-load",
                Class::Recipe,
                format!("cannot read `{}`: {e}", path.display()),
            ))
        })?;
        let base = path.parent().unwrap_or(&world.here);
        let evaluator = &world.evaluator;
        let value = evaluator.eval_str(&text, file, base)?;
        let value = evaluator.auto_call(value, &world.arguments)?;
        self.add(evaluator, value)
    }

    /// Loads all files again.
    pub(super) fn reload(&mut self, world: &Interactive) -> Result<usize, Box<Diagnostic>> {
        let files = self.files.clone();
        files
            .iter()
            .try_fold(0, |sum, file| Ok(sum + self.load(world, file)?))
    }
}
