//! How values are printed when not all of them is asked for.

use sos_formats::diagnostic::Diagnostic;
use sos_lang::{Evaluator, Value};

/// The value, and of sets and lists the items, each as far as it fits a line.
pub(super) fn shallow(evaluator: &Evaluator, value: Value) -> Result<Vec<u8>, Box<Diagnostic>> {
    let value = evaluator.force(value)?;
    match evaluator.type_of(value)? {
        "set" if !is_derivation(evaluator, value) => {
            let mut out = b"{ ".to_vec();
            for name in evaluator.attr_names(value)? {
                let Some(item) = evaluator.attr(value, &name)? else {
                    continue;
                };
                out.extend(written(&name).bytes());
                out.extend(b" = ");
                out.extend(item_text(evaluator, item)?);
                out.extend(b"; ");
            }
            out.push(b'}');
            Ok(out)
        }
        "list" => {
            let mut out = b"[ ".to_vec();
            for item in evaluator.list_items(value)? {
                out.extend(item_text(evaluator, item)?);
                out.push(b' ');
            }
            out.push(b']');
            Ok(out)
        }
        _ => item_text(evaluator, value),
    }
}

/// One item; what is in it stays closed. Its problem stands in its place; that somebody asked to stop is none of its own.
fn item_text(evaluator: &Evaluator, value: Value) -> Result<Vec<u8>, Box<Diagnostic>> {
    let value = match evaluator.force(value) {
        Ok(value) => value,
        Err(problem) if problem.code == "eval-interrupted" => return Err(problem),
        Err(problem) => return Ok(format!("«error: {}»", problem.message).into_bytes()),
    };
    Ok(match evaluator.type_of(value) {
        Ok("set") if is_derivation(evaluator, value) => {
            let drv = evaluator.attr(value, "drvPath").ok().flatten();
            let drv = drv.map(|v| evaluator.to_str(v));
            let mut out = "«derivation".as_bytes().to_vec();
            if let Some(Ok((path, _))) = drv {
                out.push(b' ');
                out.extend(path);
            }
            out.extend("»".bytes());
            out
        }
        Ok("set") if evaluator.attr_names(value).is_ok_and(|n| !n.is_empty()) => {
            b"{ ... }".to_vec()
        }
        Ok("list") if evaluator.list_items(value).is_ok_and(|l| !l.is_empty()) => {
            b"[ ... ]".to_vec()
        }
        _ => evaluator.print_bytes(value),
    })
}

fn is_derivation(evaluator: &Evaluator, value: Value) -> bool {
    let kind = evaluator.attr(value, "type").ok().flatten();
    kind.and_then(|v| evaluator.to_str(v).ok())
        .is_some_and(|(text, _)| text == b"derivation")
}

/// A name as it is written in a set.
fn written(name: &str) -> String {
    let plain = name.chars().enumerate().all(|(i, c)| {
        c == '_' || c.is_ascii_alphabetic() || (i > 0 && (c.is_ascii_digit() || "-'".contains(c)))
    });
    if plain && !name.is_empty() {
        name.to_owned()
    } else {
        format!("{name:?}")
    }
}
