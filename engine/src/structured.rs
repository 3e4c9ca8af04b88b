//! Structured attributes as a builder reads them: `.attrs.json` and `.attrs.sh`, to the byte as Nix writes them.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Map, Number, Value};

/// Writes a value as Nix does: keys sorted, no spaces, numbers in its notation.
pub(crate) fn to_json(value: &Value) -> String {
    let mut out = String::new();
    json(value, &mut out);
    out
}

/// Recursion is bounded: the reader of JSON refuses what is nested too deep.
fn json(value: &Value, out: &mut String) {
    match value {
        Value::Array(list) => {
            out.push('[');
            for (n, value) in list.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                json(value, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (n, (key, value)) in sorted(map).into_iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                json(value, out);
            }
            out.push('}');
        }
        Value::Number(number) => out.push_str(&number_text(number)),
        other => out.push_str(&other.to_string()),
    }
}

fn sorted(map: &Map<String, Value>) -> BTreeMap<&String, &Value> {
    map.iter().collect()
}

/// Writes a number as the JSON library of Nix does: a float always shows that it is one, and gets an exponent
/// of at least two digits when it has more than 15 digits before the point or four zeros behind it.
fn number_text(number: &Number) -> String {
    let float = match number.as_f64() {
        Some(float) if number.is_f64() => float,
        _ => return number.to_string(),
    };
    if float == 0.0 {
        return if float.is_sign_negative() {
            "-0.0"
        } else {
            "0.0"
        }
        .to_owned();
    }
    // `1.234e-5`: the shortest digits that read back as the same number.
    let text = format!("{:e}", float.abs());
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let digits = mantissa.replace('.', "");
    let exponent: i32 = exponent.parse().unwrap_or(0);
    // How many digits stand before the point.
    let point = exponent + 1;
    let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    let zeros = |n: i32| "0".repeat(usize::try_from(n).unwrap_or(0));
    let body = if count <= point && point <= 15 {
        format!("{digits}{}.0", zeros(point - count))
    } else if 0 < point && point <= 15 {
        let (before, after) = digits.split_at(usize::try_from(point).unwrap_or(0));
        format!("{before}.{after}")
    } else if -4 < point && point <= 0 {
        format!("0.{}{digits}", zeros(-point))
    } else {
        let (first, rest) = digits.split_at(1);
        let dot = if rest.is_empty() { "" } else { "." };
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{first}{dot}{rest}e{sign}{:02}", exponent.abs())
    };
    if float < 0.0 {
        format!("-{body}")
    } else {
        body
    }
}

/// Writes attributes as declarations for bash; what bash cannot hold is left out.
pub(crate) fn to_shell(map: &Map<String, Value>) -> String {
    let mut out = String::new();
    for (name, value) in sorted(map) {
        if !is_shell_name(name) {
            continue;
        }
        // Writing to a string cannot fail.
        let _infallible = match value {
            Value::Array(list) => match list.iter().map(simple).collect::<Option<Vec<_>>>() {
                Some(items) => {
                    let items: String = items.iter().map(|i| format!("{i} ")).collect();
                    writeln!(out, "declare -a {name}=({items})")
                }
                None => continue,
            },
            Value::Object(inner) => {
                let items: Option<Vec<String>> = sorted(inner)
                    .into_iter()
                    .map(|(key, v)| Some(format!("[{}]={} ", quoted(key), simple(v)?)))
                    .collect();
                match items {
                    Some(items) => writeln!(out, "declare -A {name}=({})", items.concat()),
                    None => continue,
                }
            }
            other => match simple(other) {
                Some(text) => writeln!(out, "declare {name}={text}"),
                None => continue,
            },
        };
    }
    out
}

fn is_shell_name(name: &str) -> bool {
    let ok = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(ok) && name.chars().next().is_some_and(|c| !c.is_ascii_digit())
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn simple(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(quoted(s)),
        Value::Null => Some("''".to_owned()),
        Value::Bool(b) => Some(if *b { "1" } else { "" }.to_owned()),
        Value::Number(n) => whole(n),
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// Writes a whole number as Nix does, which takes it for one of 32 bits.
#[allow(
    clippy::cast_possible_truncation,
    reason = "what C does with the same numbers is what is wanted"
)]
fn whole(number: &Number) -> Option<String> {
    if let Some(n) = number.as_i64() {
        return Some((n as i32).to_string());
    }
    if let Some(n) = number.as_u64() {
        return Some((n as i32).to_string());
    }
    let float = number.as_f64()?;
    let rounded = float as f32;
    if rounded.ceil() != rounded {
        return None;
    }
    let fits = float > f64::from(i32::MIN) - 1.0 && float < f64::from(i32::MAX) + 1.0;
    Some(if fits { float as i32 } else { i32::MIN }.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, json: &str) {
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(to_json(&value), json);
    }

    #[test]
    fn json_has_the_notation_of_nix() {
        check(
            r#"{ "b": [ 1, null ], "a": {"d":true,"c":"x"} }"#,
            r#"{"a":{"c":"x","d":true},"b":[1,null]}"#,
        );
        check(
            r#""ä\u0001\"\\\n\u007f/""#,
            "\"ä\\u0001\\\"\\\\\\n\u{7f}/\"",
        );
        for (text, json) in [
            ("1.5", "1.5"),
            ("1.0", "1.0"),
            ("-0.0", "-0.0"),
            ("100000.0", "100000.0"),
            ("123456789012345.0", "123456789012345.0"),
            ("1e15", "1e+15"),
            ("1.25e22", "1.25e+22"),
            ("0.001", "0.001"),
            ("0.00012", "0.00012"),
            ("0.000012", "1.2e-05"),
            ("-2.5e-300", "-2.5e-300"),
            ("18446744073709551615", "18446744073709551615"),
            ("-9", "-9"),
            ("9007199254740993.0", "9.007199254740992e+15"),
        ] {
            check(text, json);
        }
    }

    #[test]
    fn numbers_in_the_shell_have_32_bits() {
        let value: Map<String, Value> = serde_json::from_str(
            r#"{"a":1,"b":4294967297,"c":2.0,"d":2.5,"e":1e12,"f":16777216.5,"l":[1,2.5]}"#,
        )
        .unwrap();
        assert_eq!(
            to_shell(&value),
            "declare a=1\ndeclare b=1\ndeclare c=2\ndeclare e=-2147483648\ndeclare f=16777216\n"
        );
    }
}
