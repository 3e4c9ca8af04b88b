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

    /// Returns an attribute that says yes or no: a JSON truth value, or `1` for yes.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, String> {
        match &self.json {
            Some(map) => match map.get(name) {
                None => Ok(false),
                Some(Value::Bool(value)) => Ok(*value),
                Some(_) => Err(format!("`{name}` is neither true nor false")),
            },
            None => Ok(self.drv.env.get(name.as_bytes()).is_some_and(|v| v == b"1")),
        }
    }

    /// Returns a list of one output's checks: `outputChecks.<output>.<name>`, or the attribute of all outputs.
    pub(crate) fn output_list(
        &self,
        output: &str,
        name: &str,
    ) -> Result<Option<Vec<String>>, String> {
        if self.json.is_none() {
            return Ok(self.list(name));
        }
        let Some(value) = self.output_check(output, name)? else {
            return Ok(None);
        };
        strings(value)
            .map(Some)
            .ok_or_else(|| format!("`outputChecks.{output}.{name}` is not a list of texts"))
    }

    /// Returns a number of one output's checks; only structured attributes have such.
    pub(crate) fn output_limit(&self, output: &str, name: &str) -> Result<Option<u64>, String> {
        let Some(value) = self.output_check(output, name)? else {
            return Ok(None);
        };
        value
            .as_u64()
            .map(Some)
            .ok_or_else(|| format!("`outputChecks.{output}.{name}` is not a number of bytes"))
    }

    /// Returns a truth value of one output's checks; only structured attributes have such.
    pub(crate) fn output_flag(&self, output: &str, name: &str) -> Result<Option<bool>, String> {
        let Some(value) = self.output_check(output, name)? else {
            return Ok(None);
        };
        value
            .as_bool()
            .map(Some)
            .ok_or_else(|| format!("`outputChecks.{output}.{name}` is neither true nor false"))
    }

    fn output_check(&self, output: &str, name: &str) -> Result<Option<&Value>, String> {
        let Some(checks) = self.json.as_ref().and_then(|map| map.get("outputChecks")) else {
            return Ok(None);
        };
        let no_set = |what: String| format!("`{what}` is not a set");
        let checks = checks
            .as_object()
            .ok_or_else(|| no_set("outputChecks".to_owned()))?;
        let Some(one) = checks.get(output) else {
            return Ok(None);
        };
        let one = one
            .as_object()
            .ok_or_else(|| no_set(format!("outputChecks.{output}")))?;
        Ok(one.get(name))
    }

    /// Tells whether nobody shall look for references in an output: `unsafeDiscardReferences.<output>`.
    pub(crate) fn discards_references(&self, output: &str) -> Result<bool, String> {
        let wanted = self
            .json
            .as_ref()
            .and_then(|map| map.get("unsafeDiscardReferences"));
        let Some(wanted) = wanted else {
            return Ok(false);
        };
        let wanted = wanted
            .as_object()
            .ok_or_else(|| "`unsafeDiscardReferences` is not a set".to_owned())?;
        match wanted.get(output) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(_) => Err(format!(
                "`unsafeDiscardReferences.{output}` is neither true nor false"
            )),
        }
    }
}

fn strings(value: &Value) -> Option<Vec<String>> {
    let list = value.as_array()?;
    list.iter().map(|v| v.as_str().map(str::to_owned)).collect()
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
