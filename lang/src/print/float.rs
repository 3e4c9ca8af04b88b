//! Floats as C's `%g` and as JSON.

/// `%g` with six significant digits.
pub(crate) fn general(f: f64) -> String {
    const PRECISION: i32 = 6;
    if f.is_nan() {
        return if f.is_sign_negative() {
            "-nan".into()
        } else {
            "nan".into()
        };
    }
    if f.is_infinite() {
        return if f < 0.0 { "-inf".into() } else { "inf".into() };
    }
    if f == 0.0 {
        return if f.is_sign_negative() {
            "-0".into()
        } else {
            "0".into()
        };
    }
    let sci = format!("{f:.5e}");
    let (mantissa, exp) = sci.split_once('e').unwrap_or((&sci, "0"));
    let exp: i32 = exp.parse().unwrap_or(0);
    if (-4..PRECISION).contains(&exp) {
        let digits = usize::try_from(PRECISION - 1 - exp).unwrap_or(0);
        return trim(&format!("{f:.digits$}")).to_owned();
    }
    let sign = if exp < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trim(mantissa), exp.unsigned_abs())
}

fn trim(s: &str) -> &str {
    if s.contains('.') {
        s.trim_end_matches('0').trim_end_matches('.')
    } else {
        s
    }
}

/// The shortest text that gives the same number back, as JSON writes it; `None` when it is not a number.
pub(crate) fn json_number(f: f64) -> Option<String> {
    if !f.is_finite() {
        return None;
    }
    if f == 0.0 {
        return Some(if f.is_sign_negative() {
            "-0.0".into()
        } else {
            "0.0".into()
        });
    }
    let sci = format!("{f:e}");
    let (mantissa, exp) = sci.split_once('e').unwrap_or((&sci, "0"));
    let exp: i32 = exp.parse().unwrap_or(0);
    let (sign, mantissa) = mantissa
        .strip_prefix('-')
        .map_or(("", mantissa), |m| ("-", m));
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    let n = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    if (-4..15).contains(&exp) {
        let body = if exp < 0 {
            format!(
                "0.{}{digits}",
                "0".repeat(usize::try_from(-exp - 1).unwrap_or(0))
            )
        } else if n <= exp + 1 {
            format!(
                "{digits}{}.0",
                "0".repeat(usize::try_from(exp + 1 - n).unwrap_or(0))
            )
        } else {
            let at = usize::try_from(exp + 1).unwrap_or(0);
            format!("{}.{}", &digits[..at], &digits[at..])
        };
        return Some(format!("{sign}{body}"));
    }
    let frac = if n > 1 {
        format!(".{}", &digits[1..])
    } else {
        String::new()
    };
    let esign = if exp < 0 { '-' } else { '+' };
    Some(format!(
        "{sign}{}{frac}e{esign}{:02}",
        &digits[..1],
        exp.unsigned_abs()
    ))
}
