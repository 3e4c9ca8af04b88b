//! TOML.

use super::{Prim, p};
use crate::error::{Error, Kind, R};
use crate::eval::Vm;
use crate::heap::{Attrs, Sym, Value};
use crate::ir::Pos;

pub(super) static TABLE: &[Prim] = &[p("fromTOML", 1, 1, from_toml, "Reads TOML.")];

fn from_toml(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let s = vm.force_str_no_ctx(a[0], pos)?;
    let fail = |m: String| Error::new(Kind::Json, pos, format!("while parsing TOML: {m}"));
    let text = std::str::from_utf8(s).map_err(|_e| fail("invalid UTF-8".into()))?;
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
        let place = e.span().map_or_else(String::new, |s| {
            let before = &text.as_bytes()[..s.start.min(text.len())];
            let line = memchr::memchr_iter(b'\n', before).count() + 1;
            format!(" at line {line}")
        });
        fail(format!("{}{place}", e.message()))
    })?;
    convert_table(vm, table, pos)
}

fn convert_table(vm: &Vm, t: toml::Table, pos: Pos) -> R {
    let mut all = Vec::with_capacity(t.len());
    for (k, v) in t {
        no_nul(&k, pos)?;
        all.push((Sym::new(k.as_bytes()), convert(vm, v, pos)?, Pos::NONE));
    }
    Ok(Value::attrs(Attrs::from_pairs(all)))
}

fn no_nul(s: &str, pos: Pos) -> R<()> {
    if s.contains('\0') {
        return Err(Error::new(
            Kind::Json,
            pos,
            format!("while parsing TOML: error: {}", crate::parse::no_nul(s)),
        ));
    }
    Ok(())
}

fn convert(vm: &Vm, v: toml::Value, pos: Pos) -> R {
    Ok(match v {
        toml::Value::String(s) => {
            no_nul(&s, pos)?;
            Value::string(s.as_bytes())
        }
        toml::Value::Integer(i) => Value::int(i),
        toml::Value::Float(f) => Value::float(f),
        toml::Value::Boolean(b) => Value::bool(b),
        toml::Value::Datetime(d) if vm.options.toml_timestamps => timestamp(&d),
        toml::Value::Datetime(_) => {
            return Err(Error::new(
                Kind::Json,
                pos,
                "while parsing TOML: Dates and times are not supported",
            ));
        }
        toml::Value::Array(l) => {
            let items = l
                .into_iter()
                .map(|x| convert(vm, x, pos))
                .collect::<R<Vec<Value>>>()?;
            Value::list(&items)
        }
        toml::Value::Table(t) => convert_table(vm, t, pos)?,
    })
}

/// A date or time as text; fractions of seconds have 3, 6 or 9 digits, or none when there is nothing to say.
fn timestamp(d: &toml::value::Datetime) -> Value {
    let mut out = String::new();
    if let Some(d) = d.date {
        out += &format!("{:04}-{:02}-{:02}", d.year, d.month, d.day);
    }
    if let Some(t) = d.time {
        if !out.is_empty() {
            out.push('T');
        }
        let seconds = t.second.unwrap_or_default();
        out += &format!("{:02}:{:02}:{seconds:02}", t.hour, t.minute);
        let nanos = t.nanosecond.unwrap_or_default();
        out += &match (nanos, nanos % 1_000_000, nanos % 1_000) {
            (0, ..) => String::new(),
            (_, 0, _) => format!(".{:03}", nanos / 1_000_000),
            (_, _, 0) => format!(".{:06}", nanos / 1_000),
            _ => format!(".{nanos:09}"),
        };
    }
    match d.offset {
        None => {}
        Some(toml::value::Offset::Z) => out.push('Z'),
        Some(toml::value::Offset::Custom { minutes }) => {
            let sign = if minutes < 0 { '-' } else { '+' };
            let minutes = minutes.unsigned_abs();
            out += &format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60);
        }
    }
    Value::attrs(Attrs::from_pairs(vec![
        (Sym::new(b"_type"), Value::string(b"timestamp"), Pos::NONE),
        (Sym::new(b"value"), Value::string(out.as_bytes()), Pos::NONE),
    ]))
}
