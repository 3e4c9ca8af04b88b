//! Versions and package names.

use std::cmp::Ordering;

use super::{Prim, p};
use crate::error::R;
use crate::eval::Vm;
use crate::heap::{Attrs, Value};
use crate::ir::Pos;

pub(super) static TABLE: &[Prim] = &[
    p(
        "compareVersions",
        2,
        3,
        compare_versions,
        "Compares two versions: -1, 0 or 1.",
    ),
    p(
        "splitVersion",
        1,
        1,
        split_version,
        "Splits a version into its components.",
    ),
    p(
        "parseDrvName",
        1,
        1,
        parse_drv_name,
        "Splits a package name into name and version.",
    ),
];

/// The next component: a run of digits or of anything else; separators are skipped.
fn component<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let skip = rest.iter().take_while(|b| matches!(b, b'.' | b'-')).count();
    *rest = &rest[skip..];
    let digit = rest.first().is_some_and(u8::is_ascii_digit);
    let n = rest
        .iter()
        .take_while(|b| !matches!(b, b'.' | b'-') && b.is_ascii_digit() == digit)
        .count();
    let (c, r) = rest.split_at(n);
    *rest = r;
    c
}

fn less(a: &[u8], b: &[u8]) -> bool {
    let number = |c: &[u8]| -> Option<u32> { std::str::from_utf8(c).ok()?.parse().ok() };
    match (number(a), number(b)) {
        (Some(x), Some(y)) => x < y,
        (None, Some(_)) if a.is_empty() => true,
        _ if a == b"pre" && b != b"pre" => true,
        _ if b == b"pre" => false,
        // Words come before numbers.
        (_, Some(_)) => true,
        (Some(_), _) => false,
        _ => a < b,
    }
}

fn compare(mut a: &[u8], mut b: &[u8]) -> Ordering {
    while !(a.is_empty() && b.is_empty()) {
        let (x, y) = (component(&mut a), component(&mut b));
        if less(x, y) {
            return Ordering::Less;
        }
        if less(y, x) {
            return Ordering::Greater;
        }
    }
    Ordering::Equal
}

fn compare_versions(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let x = vm.force_str_no_ctx(a[0], pos)?;
    let y = vm.force_str_no_ctx(a[1], pos)?;
    Ok(Value::int(compare(x, y) as i64))
}

fn split_version(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let mut rest = vm.force_str_no_ctx(a[0], pos)?;
    let mut out = Vec::new();
    loop {
        let c = component(&mut rest);
        if c.is_empty() {
            return Ok(Value::list(&out));
        }
        out.push(Value::string(c));
    }
}

fn parse_drv_name(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let s = vm.force_str_no_ctx(a[0], pos)?;
    let cut = s
        .windows(2)
        .position(|w| w[0] == b'-' && !w[1].is_ascii_alphabetic());
    let (name, version) = match cut {
        Some(i) => (&s[..i], &s[i + 1..]),
        None => (s, &b""[..]),
    };
    Ok(Value::attrs(Attrs::from_pairs(vec![
        (vm.s.name, Value::string(name), Pos::NONE),
        (vm.s.version, Value::string(version), Pos::NONE),
    ])))
}
