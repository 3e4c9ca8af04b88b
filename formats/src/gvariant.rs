//! GVariant, the serialisation of GLib that OSTree's metadata is written in.
//!
//! A value is written where its alignment puts it. Containers whose members have no fixed size say at their end where
//! members end: one offset each, little-endian, in the smallest width that can name every place of the container, the
//! offsets included. Integers are written in the byte order that the caller chooses; OSTree takes big-endian.
//!
//! Source: the GVariant specification of GLib; what OSTree does with it stands in its `ostree-core.h`.
//!
//! # Example
//! `("a", [1u8, 2])` of type `(say)`:
//! ```
//! use sos_formats::gvariant::Tuple;
//! let mut tuple = Tuple::new();
//! tuple.text("a");
//! tuple.bytes(&[1, 2]);
//! assert_eq!(tuple.finish(), b"a\0\x01\x02\x02");
//! ```

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::Bytes;

/// Widths of offsets, in bytes.
const WIDTHS: [usize; 4] = [1, 2, 4, 8];

/// Returns the width of the offsets of a container with `body` bytes of members and `count` offsets.
fn width_of(body: usize, count: usize) -> usize {
    let fits = |width: &usize| {
        let total = body + count * width;
        *width == 8 || total < 1 << (8 * width)
    };
    WIDTHS.into_iter().find(fits).unwrap_or(8)
}

fn pad(bytes: &mut Bytes, align: usize) {
    bytes.resize(bytes.len().next_multiple_of(align), 0);
}

fn put_offset(bytes: &mut Bytes, offset: usize, width: usize) {
    bytes.extend_from_slice(&(offset as u64).to_le_bytes()[..width]);
}

/// Writes the members of a tuple, or of a dictionary entry, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Tuple {
    bytes: Bytes,
    /// Ends of the members without a fixed size.
    ends: Vec<usize>,
    align: usize,
    /// The last member has no fixed size: its end is that of the tuple.
    open: bool,
}

impl Tuple {
    /// Begins a tuple.
    #[must_use]
    pub fn new() -> Self {
        Self {
            align: 1,
            ..Self::default()
        }
    }

    /// Appends a `u`, big-endian.
    pub fn u32_be(&mut self, value: u32) -> &mut Self {
        self.fixed(4, &value.to_be_bytes())
    }

    /// Appends a `t`, big-endian.
    pub fn u64_be(&mut self, value: u64) -> &mut Self {
        self.fixed(8, &value.to_be_bytes())
    }

    /// Appends a `u`, little-endian.
    pub fn u32_le(&mut self, value: u32) -> &mut Self {
        self.fixed(4, &value.to_le_bytes())
    }

    /// Appends a `t`, little-endian.
    pub fn u64_le(&mut self, value: u64) -> &mut Self {
        self.fixed(8, &value.to_le_bytes())
    }

    /// Appends a `y`.
    pub fn byte(&mut self, value: u8) -> &mut Self {
        self.fixed(1, &[value])
    }

    /// Appends an `s`; the text must not hold NUL.
    pub fn text(&mut self, value: &str) -> &mut Self {
        self.align_to(1);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.end()
    }

    /// Appends an `ay`.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.variable(1, value)
    }

    /// Appends a finished value of a type without a fixed size and with the given alignment.
    pub fn variable(&mut self, align: usize, value: &[u8]) -> &mut Self {
        self.align_to(align);
        self.bytes.extend_from_slice(value);
        self.end()
    }

    fn fixed(&mut self, align: usize, value: &[u8]) -> &mut Self {
        self.align_to(align);
        self.bytes.extend_from_slice(value);
        self.open = false;
        self
    }

    fn align_to(&mut self, align: usize) {
        pad(&mut self.bytes, align);
        self.align = self.align.max(align);
    }

    fn end(&mut self) -> &mut Self {
        self.ends.push(self.bytes.len());
        self.open = true;
        self
    }

    /// Ends the tuple and returns its bytes.
    #[must_use]
    pub fn finish(mut self) -> Bytes {
        if self.ends.is_empty() {
            // Only a tuple of a fixed size is padded: its size is part of its type.
            pad(&mut self.bytes, self.align);
            return self.bytes;
        }
        if self.open {
            self.ends.pop();
        }
        let width = width_of(self.bytes.len(), self.ends.len());
        for end in self.ends.iter().rev() {
            put_offset(&mut self.bytes, *end, width);
        }
        self.bytes
    }
}

/// Writes the elements of an array whose elements have no fixed size.
#[derive(Clone, Debug)]
pub struct Array {
    bytes: Bytes,
    ends: Vec<usize>,
    align: usize,
}

impl Array {
    /// Begins an array of elements with this alignment.
    #[must_use]
    pub fn new(align: usize) -> Self {
        Self {
            bytes: Bytes::new(),
            ends: Vec::new(),
            align,
        }
    }

    /// Appends a finished element.
    pub fn push(&mut self, element: &[u8]) -> &mut Self {
        pad(&mut self.bytes, self.align);
        self.bytes.extend_from_slice(element);
        self.ends.push(self.bytes.len());
        self
    }

    /// Ends the array and returns its bytes.
    #[must_use]
    pub fn finish(mut self) -> Bytes {
        let width = width_of(self.bytes.len(), self.ends.len());
        for end in &self.ends {
            put_offset(&mut self.bytes, *end, width);
        }
        self.bytes
    }
}

/// A value of a `v` or of an `a{sv}`, as far as OSTree's metadata needs them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Variant {
    /// `b`
    Bool(bool),
    /// `y`
    Byte(u8),
    /// `t`, big-endian, as OSTree stores times and sizes in its metadata.
    U64Be(u64),
    /// `s`
    Text(String),
    /// `as`
    Texts(Vec<String>),
    /// `ay`
    Bytes(Bytes),
    /// `aay`
    ByteArrays(Vec<Bytes>),
    /// `a{sv}`
    Dict(Vec<(String, Variant)>),
}

impl Variant {
    /// Returns the value with its type, as a `v` is written.
    #[must_use]
    pub fn boxed(&self) -> Bytes {
        let mut bytes = self.value();
        bytes.push(0);
        bytes.extend_from_slice(self.signature().as_bytes());
        bytes
    }

    fn signature(&self) -> &'static str {
        match self {
            Self::Bool(_) => "b",
            Self::Byte(_) => "y",
            Self::U64Be(_) => "t",
            Self::Text(_) => "s",
            Self::Texts(_) => "as",
            Self::Bytes(_) => "ay",
            Self::ByteArrays(_) => "aay",
            Self::Dict(_) => "a{sv}",
        }
    }

    fn value(&self) -> Bytes {
        let text = |text: &String| [text.as_bytes(), b"\0"].concat();
        match self {
            Self::Bool(value) => vec![u8::from(*value)],
            Self::Byte(value) => vec![*value],
            Self::U64Be(value) => value.to_be_bytes().to_vec(),
            Self::Text(value) => text(value),
            Self::Texts(values) => {
                let mut array = Array::new(1);
                for value in values {
                    array.push(&text(value));
                }
                array.finish()
            }
            Self::Bytes(value) => value.clone(),
            Self::ByteArrays(values) => {
                let mut array = Array::new(1);
                for value in values {
                    array.push(value);
                }
                array.finish()
            }
            Self::Dict(entries) => dict(entries.iter().map(|(key, value)| (key.as_str(), value))),
        }
    }
}

/// Writes an `a{sv}` with its entries in the order given.
pub fn dict<'a>(entries: impl IntoIterator<Item = (&'a str, &'a Variant)>) -> Bytes {
    let mut array = Array::new(8);
    for (key, value) in entries {
        array.push(&entry(key, &value.boxed()));
    }
    array.finish()
}

/// Writes an `a{sv}` of values that are written already, each as [`Variant::boxed`] gives it.
#[must_use]
pub fn dict_of_boxed(entries: &BTreeMap<String, Bytes>) -> Bytes {
    let mut array = Array::new(8);
    for (key, boxed) in entries {
        array.push(&entry(key, boxed));
    }
    array.finish()
}

fn entry(key: &str, boxed: &[u8]) -> Bytes {
    let mut entry = Tuple::new();
    entry.text(key);
    entry.variable(8, boxed);
    entry.finish()
}

/// Reads the members of a tuple whose type the caller knows.
#[derive(Clone, Copy, Debug)]
pub struct TupleReader<'a> {
    bytes: &'a [u8],
    at: usize,
    width: usize,
    /// Where the offset of the next member stands.
    offset: usize,
}

/// Bytes that are not what they are read as.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a sound GVariant: {0}")]
pub struct GVariantError(pub &'static str);

impl<'a> TupleReader<'a> {
    /// Begins to read a tuple that has members without a fixed size.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            width: width_of(bytes.len(), 0),
            offset: bytes.len(),
        }
    }

    /// Reads a member of a fixed size.
    ///
    /// # Errors
    /// When it does not fit in.
    pub fn fixed<const N: usize>(&mut self, align: usize) -> Result<[u8; N], GVariantError> {
        let start = self.at.next_multiple_of(align);
        let member = self
            .bytes
            .get(start..start + N)
            .and_then(|b| b.first_chunk());
        self.at = start + N;
        member.copied().ok_or(GVariantError("a member is cut off"))
    }

    /// Reads a member without a fixed size that is not the last.
    ///
    /// # Errors
    /// When its end lies outside.
    pub fn variable(&mut self, align: usize) -> Result<&'a [u8], GVariantError> {
        let at = self
            .offset
            .checked_sub(self.width)
            .ok_or(GVariantError("an offset is missing"))?;
        let end = read_offset(&self.bytes[at..self.offset])?;
        self.offset = at;
        self.member(align, end)
    }

    /// Reads the last member, which has no fixed size.
    ///
    /// # Errors
    /// When members overlap.
    pub fn last(mut self, align: usize) -> Result<&'a [u8], GVariantError> {
        self.member(align, self.offset)
    }

    fn member(&mut self, align: usize, end: usize) -> Result<&'a [u8], GVariantError> {
        let start = self.at.next_multiple_of(align);
        self.at = end;
        if end > self.offset {
            return Err(GVariantError("a member reaches into the offsets"));
        }
        self.bytes
            .get(start..end)
            .ok_or(GVariantError("an offset lies outside"))
    }
}

/// Reads an array whose elements have no fixed size.
///
/// # Errors
/// When an offset lies outside or elements overlap.
pub fn elements(bytes: &[u8], align: usize) -> Result<Vec<&[u8]>, GVariantError> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let width = width_of(bytes.len(), 0);
    let table = read_offset(&bytes[bytes.len() - width.min(bytes.len())..])?;
    if table >= bytes.len() || !(bytes.len() - table).is_multiple_of(width) {
        return Err(GVariantError("the table of offsets lies outside"));
    }
    let mut at = 0_usize;
    let mut found = Vec::new();
    for offset in bytes[table..].chunks_exact(width) {
        let (start, end) = (at.next_multiple_of(align), read_offset(offset)?);
        if end > table {
            return Err(GVariantError("an element reaches into the offsets"));
        }
        let element = bytes.get(start..end);
        found.push(element.ok_or(GVariantError("elements overlap"))?);
        at = end;
    }
    Ok(found)
}

fn read_offset(bytes: &[u8]) -> Result<usize, GVariantError> {
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    usize::try_from(u64::from_le_bytes(wide))
        .ok()
        .ok_or(GVariantError("an offset is too large"))
}

/// Reads an `s`.
///
/// # Errors
/// When it does not end in NUL or is not UTF-8.
pub fn text(bytes: &[u8]) -> Result<&str, GVariantError> {
    let (last, text) = bytes
        .split_last()
        .ok_or(GVariantError("a string is empty"))?;
    if *last != 0 || text.contains(&0) {
        return Err(GVariantError("a string does not end in NUL"));
    }
    std::str::from_utf8(text)
        .ok()
        .ok_or(GVariantError("a string is not UTF-8"))
}
