//! The JSON schema of the event stream, made from the types themselves.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use super::{EVENT_VERSION, EventRecord};

/// Returns the schema of one line of the stream, in the draft of 2020-12.
#[must_use]
pub fn event_schema() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let schema = settings
        .into_generator()
        .into_root_schema_for::<EventRecord>();
    let mut schema = Value::from(schema);
    schema["properties"]["v"]["const"] = EVENT_VERSION.into();
    schema["properties"]["t"]["format"] = "date-time".into();
    schema
}

/// A place in a source file. Offsets are bytes; lines and columns count from 1.
#[derive(JsonSchema)]
#[allow(dead_code, reason = "a description of what another crate writes")]
#[schemars(rename = "label", rename_all = "camelCase")]
struct Label {
    /// The file as it is named to the user.
    file: String,
    /// The first byte.
    start: usize,
    /// The byte behind the last one.
    end: usize,
    /// The line of the first byte.
    line: usize,
    /// The character of the first byte in its line.
    column: usize,
    /// The line of the end.
    end_line: usize,
    /// The character of the end in its line.
    end_column: usize,
    /// What is there.
    text: String,
}

/// A change that would mend a file.
#[derive(JsonSchema)]
#[allow(dead_code, reason = "a description of what another crate writes")]
#[schemars(rename = "edit")]
struct Edit {
    /// The file as it is named to the user.
    file: String,
    /// The first byte that goes.
    start: usize,
    /// The byte behind the last one that goes.
    end: usize,
    /// What comes there.
    replacement: String,
}

/// Changes that belong together.
#[derive(JsonSchema)]
#[allow(dead_code, reason = "a description of what another crate writes")]
#[schemars(rename = "fix")]
struct Fix {
    /// What they do.
    description: String,
    /// `sos check --fix` makes them without being asked.
    safe: bool,
    /// The changes.
    edits: Vec<Edit>,
}

/// A step of an evaluation.
#[derive(JsonSchema)]
#[allow(dead_code, reason = "a description of what another crate writes")]
#[schemars(rename = "frame")]
struct Frame {
    /// What it did.
    message: String,
    /// Where.
    label: Option<Label>,
}

/// A hash that content does not have.
#[derive(JsonSchema)]
#[allow(dead_code, reason = "a description of what another crate writes")]
#[schemars(rename = "wrong-hash")]
struct WrongHash {
    /// What was fetched or built.
    name: String,
    /// The hash of the recipe.
    expected: String,
    /// The hash of the content.
    found: Option<String>,
}

/// A problem.
#[derive(JsonSchema)]
#[allow(dead_code, reason = "a description of what another crate writes")]
#[schemars(rename = "diagnostic", rename_all = "camelCase")]
struct Diagnostic {
    /// Its name, for `sos explain`.
    code: String,
    /// The exit code that it leads to, by itself.
    exit_code: u8,
    /// How bad it is.
    severity: Severity,
    /// What it is, in one line.
    message: String,
    /// Where it is; the first one is the main place.
    labels: Vec<Label>,
    /// What else is known.
    notes: Vec<String>,
    /// What can be done.
    helps: Vec<String>,
    /// Changes that would mend it.
    fixes: Vec<Fix>,
    /// How an evaluation came there, the innermost step first.
    trace: Vec<Frame>,
    /// Hashes that are wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hashes: Vec<WrongHash>,
}

/// How bad a problem is.
#[derive(JsonSchema)]
#[allow(dead_code, reason = "a description of what another crate writes")]
#[schemars(rename = "severity", rename_all = "lowercase")]
enum Severity {
    /// The command cannot do what was asked.
    Error,
    /// It can, but the result may surprise.
    Warning,
    /// For information.
    Note,
}

/// What a diagnostic is as JSON; its crate writes it by hand.
pub(super) fn diagnostic(generator: &mut SchemaGenerator) -> Schema {
    let inner = generator.subschema_for::<Diagnostic>();
    json_schema!({ "allOf": [inner] })
}
