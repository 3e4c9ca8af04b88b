//! Reading the fields of a table: unknown ones are reported at once, wrong types when they are asked for.

use sos_formats::diagnostic::Diagnostic;

use crate::problems::{Problems, with_suggestion};
use crate::tree::{Field, Node, Place, Value};

/// A value that knows where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Located<T> {
    pub(crate) value: T,
    pub(crate) place: Place,
}

/// The fields that a table may have, and other spellings of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    pub(crate) names: &'static [&'static str],
    /// (accepted spelling, name)
    pub(crate) aliases: &'static [(&'static str, &'static str)],
}

/// A table whose fields are all known.
#[derive(Debug)]
pub(crate) struct Fields<'t> {
    /// How messages call the table: `the recipe`, `file 3`.
    what: String,
    place: Place,
    /// Name without aliases, and the field.
    fields: Vec<(&'static str, &'t Field)>,
}

impl<'t> Fields<'t> {
    /// Opens a table, reporting what it may not have. Nothing when the value is no table.
    pub(crate) fn open(
        node: &'t Node,
        what: impl Into<String>,
        known: Known,
        problems: &mut Problems,
    ) -> Option<Self> {
        let what = what.into();
        let Value::Table(all) = &node.value else {
            let problem = wrong_type(problems, &what, node, "a table");
            problems.add(problem);
            return None;
        };
        let mut fields: Vec<(&'static str, &'t Field)> = Vec::new();
        for field in all {
            let alias = known
                .aliases
                .iter()
                .find(|(alias, _)| *alias == field.name)
                .map(|(_, name)| *name);
            let name = alias.or_else(|| known.names.iter().copied().find(|n| *n == field.name));
            let Some(name) = name else {
                unknown_field(problems, &what, field, known);
                continue;
            };
            if let Some((_, first)) = fields.iter().find(|(n, _)| *n == name) {
                let message = format!(
                    "`{}` and `{}` in {what} are the same field",
                    first.name, field.name
                );
                problems.duplicate(message, &field.place, &first.place);
                continue;
            }
            fields.push((name, field));
        }
        Some(Self {
            what,
            place: node.place.clone(),
            fields,
        })
    }

    /// Returns how messages call the table.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// Returns where the table begins.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Returns a field as it is.
    pub(crate) fn field(&self, name: &str) -> Option<&'t Field> {
        self.fields
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, f)| *f)
    }

    /// A text that stands as the key of the table where there is one, and otherwise as a field.
    pub(crate) fn text_or_key(
        &self,
        name: &str,
        key: Option<Located<String>>,
        problems: &mut Problems,
    ) -> Option<Located<String>> {
        let Some(key) = key else {
            self.required(name, problems)?;
            return self.text(name, problems);
        };
        if let Some(field) = self.field(name) {
            problems.duplicate(
                format!("the {name} is given as the key and as a field"),
                &field.place,
                &key.place,
            );
        }
        Some(key)
    }

    /// Returns the value of a field; null in Nix means that it is not given.
    pub(crate) fn node(&self, name: &str) -> Option<&'t Node> {
        self.field(name)
            .map(|f| &f.node)
            .filter(|n| n.value != Value::Null)
    }

    /// Returns a field that must be there, or reports that it is not.
    pub(crate) fn required(&self, name: &str, problems: &mut Problems) -> Option<&'t Node> {
        let node = self.node(name);
        if node.is_none() {
            let message = format!("{} needs the field `{name}`", self.what);
            let problem = problems.error(
                "recipe-missing-field",
                message,
                &self.place,
                format!("no `{name}`"),
            );
            problems.add(problem);
        }
        node
    }

    /// Returns a text field.
    pub(crate) fn text(&self, name: &str, problems: &mut Problems) -> Option<Located<String>> {
        text(&format!("`{name}`"), self.node(name)?, problems)
    }

    /// Returns a boolean field.
    pub(crate) fn flag(&self, name: &str, problems: &mut Problems) -> Option<bool> {
        let node = self.node(name)?;
        if let Value::Bool(b) = node.value {
            return Some(b);
        }
        let mut problem = wrong_type(problems, &format!("`{name}`"), node, "a boolean");
        if let Value::Str(s, _) = &node.value
            && (s == "true" || s == "false")
        {
            problem = problem.help(format!("write `{name} = {s}` without quotes"));
        }
        problems.add(problem);
        None
    }

    /// Returns an integer field.
    pub(crate) fn int(&self, name: &str, problems: &mut Problems) -> Option<Located<i64>> {
        let node = self.node(name)?;
        match &node.value {
            Value::Int(n) => Some(Located {
                value: *n,
                place: node.place.clone(),
            }),
            Value::HugeInt(s) => {
                problems.bad_value(
                    format!("`{name}` is out of range: {s}"),
                    &node.place,
                    "at most 64 bits with sign",
                );
                None
            }
            _ => {
                let problem = wrong_type(problems, &format!("`{name}`"), node, "an integer");
                problems.add(problem);
                None
            }
        }
    }

    /// Returns a list of texts; empty when the field is not given.
    pub(crate) fn texts(&self, name: &str, problems: &mut Problems) -> Vec<Located<String>> {
        match self.node(name) {
            None => Vec::new(),
            Some(node) => texts(name, node, problems),
        }
    }

    /// Returns the elements of a list of anything; empty when the field is not given.
    pub(crate) fn list(&self, name: &str, problems: &mut Problems) -> &'t [Node] {
        match self.node(name) {
            None => &[],
            Some(Node {
                value: Value::List(list),
                ..
            }) => list,
            Some(node) => {
                let problem = wrong_type(problems, &format!("`{name}`"), node, "a list");
                problems.add(problem);
                &[]
            }
        }
    }
}

/// Reads a text.
pub(crate) fn text(what: &str, node: &Node, problems: &mut Problems) -> Option<Located<String>> {
    if let Value::Str(s, _) = &node.value {
        return Some(Located {
            value: s.clone(),
            place: node.place.clone(),
        });
    }
    let mut problem = wrong_type(problems, what, node, "a string");
    match &node.value {
        Value::Int(n) => problem = problem.help(format!("put it in quotes: \"{n}\"")),
        Value::HugeInt(n) => problem = problem.help(format!("put it in quotes: \"{n}\"")),
        _ => {}
    }
    problems.add(problem);
    None
}

fn texts(name: &str, node: &Node, problems: &mut Problems) -> Vec<Located<String>> {
    let Value::List(list) = &node.value else {
        let mut problem = wrong_type(problems, &format!("`{name}`"), node, "a list of strings");
        if let Value::Str(s, _) = &node.value {
            problem = problem.help(format!("write `{name} = [\"{s}\"]`"));
        }
        problems.add(problem);
        return Vec::new();
    };
    list.iter()
        .filter_map(|n| text(&format!("an element of `{name}`"), n, problems))
        .collect()
}

/// Makes the error for a value of the wrong type.
pub(crate) fn wrong_type(
    problems: &Problems,
    what: &str,
    node: &Node,
    expected: &str,
) -> Diagnostic {
    let message = format!("{what} must be {expected}, not {}", node.value.kind());
    problems.error(
        "recipe-wrong-type",
        message,
        &node.place,
        format!("expected {expected}"),
    )
}

fn unknown_field(problems: &mut Problems, what: &str, field: &Field, known: Known) {
    let message = format!("unknown field `{}` in {what}", field.name);
    let problem = problems.error("recipe-unknown-field", message, &field.place, "not a field");
    // Underscores are the usual slip: fields of several words have hyphens.
    let hyphens = field.name.replace('_', "-");
    let mut problem = with_suggestion(problem, &hyphens, known.names.iter().copied());
    if let Some((wrong, _)) = &mut problem.spelling {
        wrong.clone_from(&field.name);
    }
    problems.add(problem);
}
