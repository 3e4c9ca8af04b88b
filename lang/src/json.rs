//! A JSON reader that makes values directly.

use crate::heap::{Attrs, Sym, Value};
use crate::ir::Pos;

/// Containers inside containers; deeper documents are refused so that nothing runs out of stack.
const MAX_DEPTH: u32 = 10_000;

/// Reads one document.
pub(crate) struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    pairs: Vec<(Sym, Value, Pos)>,
    buf: Vec<u8>,
    shapes: rustc_hash::FxHashMap<Box<[Sym]>, &'static crate::heap::Shape>,
}

type Res<T> = Result<T, String>;

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Reader {
            text,
            at: 0,
            stack: Vec::new(),
            pairs: Vec::new(),
            buf: Vec::new(),
            shapes: rustc_hash::FxHashMap::default(),
        }
    }

    /// Reads the whole text.
    pub(crate) fn document(&mut self) -> Res<Value> {
        let v = self.value(0)?;
        self.space();
        if self.at < self.text.len() {
            return self.fail("unexpected text after the value");
        }
        Ok(v)
    }

    fn fail<T>(&self, what: &str) -> Res<T> {
        let before = &self.text[..self.at.min(self.text.len())];
        let line = memchr::memchr_iter(b'\n', before).count() + 1;
        let column = before.len() - memchr::memrchr(b'\n', before).map_or(0, |i| i + 1) + 1;
        Err(format!(
            "failed to parse JSON: {what} at line {line}, column {column}"
        ))
    }

    fn space(&mut self) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&mut self) -> Option<u8> {
        self.space();
        self.text.get(self.at).copied()
    }

    fn value(&mut self, depth: u32) -> Res<Value> {
        if depth > MAX_DEPTH {
            return self.fail("nested too deeply");
        }
        match self.peek() {
            Some(b'"') => {
                let s = self.string()?;
                Ok(Value::string(s))
            }
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b't') => self.word("true", Value::TRUE),
            Some(b'f') => self.word("false", Value::FALSE),
            Some(b'n') => self.word("null", Value::NULL),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) => self.fail("unexpected character"),
            None => self.fail("unexpected end of input"),
        }
    }

    fn word(&mut self, w: &str, v: Value) -> Res<Value> {
        if self.text[self.at..].starts_with(w.as_bytes()) {
            self.at += w.len();
            return Ok(v);
        }
        self.fail("invalid literal")
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while matches!(self.text.get(self.at), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at - start
    }

    fn number(&mut self) -> Res<Value> {
        let start = self.at;
        if self.text[self.at] == b'-' {
            self.at += 1;
        }
        let first = self.text.get(self.at).copied();
        let n = self.digits();
        if n == 0 || (n > 1 && first == Some(b'0')) {
            return self.fail("invalid number");
        }
        let mut float = false;
        if self.text.get(self.at) == Some(&b'.') {
            float = true;
            self.at += 1;
            if self.digits() == 0 {
                return self.fail("invalid number; expected digit after '.'");
            }
        }
        if matches!(self.text.get(self.at), Some(b'e' | b'E')) {
            float = true;
            self.at += 1;
            if matches!(self.text.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits() == 0 {
                return self.fail("invalid number; expected digit after exponent");
            }
        }
        let text = std::str::from_utf8(&self.text[start..self.at]).unwrap_or_default();
        if !float && let Ok(i) = text.parse::<i64>() {
            return Ok(Value::int(i));
        }
        if !float && text.parse::<u64>().is_ok() {
            return Err(format!(
                "unsigned json number {text} outside of Nix integer range"
            ));
        }
        match text.parse::<f64>() {
            Ok(f) if f.is_finite() => Ok(Value::float(f)),
            _ => self.fail("number overflow"),
        }
    }

    fn hex4(&mut self) -> Res<u32> {
        let h = self
            .text
            .get(self.at..self.at + 4)
            .and_then(|h| std::str::from_utf8(h).ok());
        match h
            .filter(|h| h.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|h| u32::from_str_radix(h, 16).ok())
        {
            Some(v) => {
                self.at += 4;
                Ok(v)
            }
            None => self.fail("invalid string: '\\u' must be followed by 4 hex digits"),
        }
    }

    /// Reads a string; the result lives until the next one is read.
    fn string(&mut self) -> Res<&[u8]> {
        self.at += 1;
        let start = self.at;
        // Most strings have nothing to unescape.
        while let Some(&b) = self.text.get(self.at) {
            match b {
                b'"' => {
                    let s = &self.text[start..self.at];
                    self.at += 1;
                    if std::str::from_utf8(s).is_err() {
                        return self.fail("invalid string: ill-formed UTF-8 byte");
                    }
                    return Ok(s);
                }
                b'\\' | 0..=31 => break,
                _ => self.at += 1,
            }
        }
        self.buf.clear();
        self.buf.extend_from_slice(&self.text[start..self.at]);
        loop {
            let Some(&b) = self.text.get(self.at) else {
                return self.fail("invalid string: missing closing quote");
            };
            self.at += 1;
            match b {
                b'"' => break,
                b'\\' => self.escape()?,
                0..=31 => return self.fail("invalid string: control character must be escaped"),
                b => self.buf.push(b),
            }
        }
        let Ok(text) = std::str::from_utf8(&self.buf) else {
            return self.fail("invalid string: ill-formed UTF-8 byte");
        };
        if text.contains('\0') {
            return Err(crate::parse::no_nul(text));
        }
        Ok(&self.buf)
    }

    fn escape(&mut self) -> Res<()> {
        let c = self.text.get(self.at).copied();
        self.at += 1;
        let b = match c {
            Some(c @ (b'"' | b'\\' | b'/')) => c,
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => {
                let mut v = self.hex4()?;
                if (0xd800..0xdc00).contains(&v) {
                    if self.text.get(self.at..self.at + 2) != Some(b"\\u") {
                        return self.fail("invalid string: surrogate U+D800..U+DBFF must be followed by U+DC00..U+DFFF");
                    }
                    self.at += 2;
                    let low = self.hex4()?;
                    if !(0xdc00..0xe000).contains(&low) {
                        return self.fail("invalid string: surrogate U+D800..U+DBFF must be followed by U+DC00..U+DFFF");
                    }
                    v = 0x10000 + ((v - 0xd800) << 10) + (low - 0xdc00);
                }
                let Some(c) = char::from_u32(v) else {
                    return self.fail(
                        "invalid string: surrogate U+DC00..U+DFFF must follow U+D800..U+DBFF",
                    );
                };
                self.buf
                    .extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return self.fail("invalid string: forbidden character after backslash"),
        };
        self.buf.push(b);
        Ok(())
    }

    fn array(&mut self, depth: u32) -> Res<Value> {
        self.at += 1;
        let base = self.stack.len();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::list(&[]));
        }
        loop {
            let v = self.value(depth + 1)?;
            self.stack.push(v);
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return self.fail("expected ',' or ']'"),
            }
        }
        self.at += 1;
        let v = Value::list(&self.stack[base..]);
        self.stack.truncate(base);
        Ok(v)
    }

    fn object(&mut self, depth: u32) -> Res<Value> {
        self.at += 1;
        let base = self.pairs.len();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::attrs(Attrs::empty()));
        }
        loop {
            if self.peek() != Some(b'"') {
                return self.fail("expected a string as object key");
            }
            let s = Sym::new(self.string()?);
            if self.peek() != Some(b':') {
                return self.fail("expected ':'");
            }
            self.at += 1;
            let v = self.value(depth + 1)?;
            self.pairs.push((s, v, Pos::NONE));
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return self.fail("expected ',' or '}'"),
            }
        }
        self.at += 1;
        // The last of equal keys wins.
        let mut mine = self.pairs.split_off(base);
        mine.reverse();
        mine.sort_by_key(|x| x.0);
        mine.dedup_by_key(|x| x.0);
        let syms: Box<[Sym]> = mine.iter().map(|x| x.0).collect();
        let values: Vec<Value> = mine.iter().map(|x| x.1).collect();
        // Documents repeat the same few sets of keys.
        let shape = match self.shapes.get(&syms) {
            Some(s) => *s,
            None => {
                let s = crate::heap::Shape::new(syms.as_ref().into(), crate::heap::Kept::default());
                self.shapes.insert(syms, s);
                s
            }
        };
        Ok(Value::attrs(Attrs::new(shape, &values)))
    }
}
