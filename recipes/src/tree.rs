//! Recipe text as a tree of values that know where they were written.
//!
//! A recipe comes from a TOML file or from an attribute set of a Nix expression; both become this tree, so that one reader checks
//! both. In the second only attributes have places; a problem of anything else is shown at the call.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use sos_formats::diagnostic::{Label, SourceFile};
use sos_lang::{ContextElem, Plain};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Byte range of a value in the text of the recipe; absent where that is not known of a recipe written in Nix.
pub(crate) type Place = Option<Range<usize>>;

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// What a recipe can say.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// An integer that does not fit, as written.
    HugeInt(String),
    /// A TOML date, as written.
    Date(String),
    /// The context is that of Nix strings: the store paths that the text mentions.
    Str(String, Vec<ContextElem>),
    /// A path value of the Nix language.
    Path(PathBuf),
    List(Vec<Node>),
    Table(Vec<Field>),
}

/// One `key = value`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) node: Node,
}

impl Value {
    /// Returns the kind of the value with its article, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Int(_) | Self::HugeInt(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Date(_) => "a date",
            Self::Str(..) => "a string",
            Self::Path(_) => "a path",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

/// Problems of the TOML syntax: message and place.
pub(crate) type SyntaxErrors = Vec<(String, Place)>;

/// Reads TOML, collecting every syntax error.
pub(crate) fn from_toml(text: &str) -> Result<Node, SyntaxErrors> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(errors
            .iter()
            .map(|e| (e.message().to_owned(), e.span()))
            .collect());
    }
    let place = Some(table.span());
    Ok(Node {
        place,
        value: Value::Table(fields(table.into_inner())),
    })
}

fn fields(table: DeTable<'_>) -> Vec<Field> {
    let mut out: Vec<Field> = table
        .into_iter()
        .map(|(key, value)| Field {
            place: Some(key.span()),
            name: key.into_inner().into_owned(),
            node: node(value),
        })
        .collect();
    // In the order of the text, so that problems are reported from top to bottom.
    out.sort_by_key(|f| f.place.as_ref().map(|p| p.start));
    out
}

fn node(value: Spanned<DeValue<'_>>) -> Node {
    let place = Some(value.span());
    let value = match value.into_inner() {
        DeValue::String(s) => Value::Str(s.into_owned(), Vec::new()),
        DeValue::Integer(i) => match i64::from_str_radix(i.as_str(), i.radix()) {
            Ok(n) => Value::Int(n),
            Err(_) => Value::HugeInt(i.to_string()),
        },
        DeValue::Float(f) => f
            .as_str()
            .parse()
            .map_or_else(|_e| Value::HugeInt(f.to_string()), Value::Float),
        DeValue::Boolean(b) => Value::Bool(b),
        DeValue::Datetime(d) => Value::Date(d.to_string()),
        DeValue::Array(list) => Value::List(list.into_iter().map(node).collect()),
        DeValue::Table(table) => Value::Table(fields(table)),
    };
    Node { place, value }
}

/// Where the attributes of a Nix recipe were written: those in the file that holds the first of them. The labels of a
/// diagnostic are spans of one text, and a recipe is rarely spread over several.
#[derive(Debug, Default)]
pub(crate) struct Places<'a> {
    /// The file.
    pub(crate) file: Option<Arc<SourceFile>>,
    all: BTreeMap<&'a [String], &'a Label>,
}

impl<'a> Places<'a> {
    /// Takes the places below `prefix`.
    pub(crate) fn below(all: &'a BTreeMap<Vec<String>, Label>, prefix: &[&str]) -> Self {
        let below: BTreeMap<&[String], &Label> = all
            .iter()
            .filter(|(path, _)| path.len() > prefix.len())
            .filter(|(path, _)| path.iter().zip(prefix).all(|(a, b)| a == b))
            .map(|(path, label)| (&path[prefix.len()..], label))
            .collect();
        let file = below.values().next().map(|l| Arc::clone(&l.file));
        Self { file, all: below }
    }

    fn of(&self, path: &[String]) -> Place {
        let label = self.all.get(path)?;
        let file = self.file.as_ref()?;
        Arc::ptr_eq(&label.file, file).then(|| label.span.clone())
    }
}

/// Takes over a value of the Nix language. Bytes that are not UTF-8 are replaced: every field that allows more than ASCII is text.
pub(crate) fn from_plain(plain: Plain, places: &Places<'_>) -> Node {
    taken_over(plain, places, &mut Vec::new(), &None)
}

/// A value is shown at the name of the attribute that holds it.
fn taken_over(plain: Plain, places: &Places<'_>, path: &mut Vec<String>, place: &Place) -> Node {
    let value = match plain {
        Plain::Null => Value::Null,
        Plain::Bool(b) => Value::Bool(b),
        Plain::Int(n) => Value::Int(n),
        Plain::Float(f) => Value::Float(f),
        Plain::Str { s, context } => Value::Str(String::from_utf8_lossy(&s).into_owned(), context),
        Plain::Path(p) => Value::Path(p),
        Plain::List(list) => {
            let element = |(i, v): (usize, Plain)| {
                path.push(i.to_string());
                let node = taken_over(v, places, path, place);
                path.pop();
                node
            };
            Value::List(list.into_iter().enumerate().map(element).collect())
        }
        Plain::Attrs(attrs) => {
            let field = |(name, v): (String, Plain)| {
                path.push(name.clone());
                let place = places.of(path);
                let node = taken_over(v, places, path, &place);
                path.pop();
                Field { name, place, node }
            };
            Value::Table(attrs.into_iter().map(field).collect())
        }
    };
    Node {
        place: place.clone(),
        value,
    }
}
