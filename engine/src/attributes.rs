//! Attributes of a derivation, wherever they stand: in the environment or in `__json`.

use serde_json::{Map, Value};
use sos_formats::derivation::Derivation;

/// The attributes of one derivation.
pub(crate) struct Attributes<'a> {
    drv: &'a Derivation,
    json: Option<Map<String, Value>>,
}

impl<'a> Attributes<'a> {
    /// Reads the attributes; the error says what is wrong with `__json`.
    pub(crate) fn of(drv: &'a Derivation) -> Result<Self, String> {
        let json = match drv.env.get(b"__json".as_slice()) {
            None => None,
            Some(text) => match serde_json::from_slice(text) {
                Ok(Value::Object(map)) => Some(map),
                Ok(_) => return Err("`__json` is not an object".to_owned()),
                Err(e) => return Err(format!("`__json` is not JSON: {e}")),
            },
        };
        Ok(Self { drv, json })
    }

    /// Returns the structured attributes, if the derivation has them.
    pub(crate) fn structured(&self) -> Option<&Map<String, Value>> {
        self.json.as_ref()
    }

    /// Returns an attribute as a list of strings: a JSON list, or words.
    pub(crate) fn list(&self, name: &str) -> Option<Vec<String>> {
        match &self.json {
            Some(map) => strings(map.get(name)?),
            None => {
                let value = self.drv.env.get(name.as_bytes())?;
                let value = String::from_utf8_lossy(value);
                Some(value.split_ascii_whitespace().map(str::to_owned).collect())
            }
        }
    }

    /// Returns a list of one output's checks: `outputChecks.<output>.<name>`, or the attribute of all outputs.
    pub(crate) fn output_list(&self, output: &str, name: &str) -> Option<Vec<String>> {
        match &self.json {
            Some(map) => strings(map.get("outputChecks")?.get(output)?.get(name)?),
            None => self.list(name),
        }
    }

    /// Tells whether the attribute is there at all.
    pub(crate) fn has(&self, name: &str) -> bool {
        match &self.json {
            Some(map) => map.contains_key(name),
            None => self.drv.env.contains_key(name.as_bytes()),
        }
    }
}

fn strings(value: &Value) -> Option<Vec<String>> {
    let list = value.as_array()?;
    Some(
        list.iter()
            .filter_map(|v| v.as_str().map(str::to_owned))
            .collect(),
    )
}

/// Returns the attributes as one JSON value: the parsed `__json`, or the environment as strings.
pub(crate) fn as_json(drv: &Derivation) -> Result<Value, String> {
    let attributes = Attributes::of(drv)?;
    if let Some(map) = attributes.json {
        return Ok(Value::Object(map));
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Value::Object(
        drv.env
            .iter()
            .map(|(key, value)| (text(key), Value::String(text(value))))
            .collect(),
    ))
}
