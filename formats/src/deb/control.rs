//! Control text (deb822): paragraphs of fields, borrowed from the input so that large indexes parse quickly.

use memchr::memchr;

/// Why control text is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// A continuation line before any field.
    #[error("line {line}: a continuation line without a field before it")]
    Continuation {
        /// The line, counted from 1.
        line: usize,
    },
    /// A line that is no field.
    #[error("line {line}: expected `Name: value`")]
    Field {
        /// The line, counted from 1.
        line: usize,
    },
    /// The same field twice in one paragraph.
    #[error("line {line}: field `{name}` was already given on line {first}")]
    Duplicate {
        /// The line of the second field.
        line: usize,
        /// The line of the first.
        first: usize,
        /// The name as written the second time.
        name: String,
    },
    /// The bytes are not UTF-8.
    #[error("line {line}: not UTF-8")]
    Encoding {
        /// The line, counted from 1.
        line: usize,
    },
}

impl ControlError {
    /// Names the line of the problem, counted from 1.
    pub fn line(&self) -> usize {
        match self {
            Self::Continuation { line }
            | Self::Field { line }
            | Self::Duplicate { line, .. }
            | Self::Encoding { line } => *line,
        }
    }
}

/// One field, with its value as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name as written.
    pub name: &'a str,
    /// The value without surrounding blanks; continuation lines keep their newline and first blank.
    pub value: &'a str,
    /// The line of the name, counted from 1.
    pub line: usize,
}

impl<'a> Field<'a> {
    /// Iterates over the lines of the value, blanks removed, an empty first line and comments left out.
    pub fn lines(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let skip_first = self.value.starts_with('\n');
        // A continuation begins with a blank, so only a comment can have `#` in the first column.
        let lines = self
            .value
            .split('\n')
            .enumerate()
            .filter(|(i, line)| *i == 0 || !line.starts_with('#'));
        lines
            .skip(usize::from(skip_first))
            .map(|(_, line)| line.trim())
    }
}

/// The fields between two blank lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paragraph<'a> {
    fields: Vec<Field<'a>>,
}

impl<'a> Paragraph<'a> {
    /// Finds a field by name, in any case.
    pub fn field(&self, name: &str) -> Option<&Field<'a>> {
        self.fields
            .iter()
            .find(|f| f.name.eq_ignore_ascii_case(name))
    }

    /// Finds the value of a field by name, in any case.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.field(name).map(|f| f.value)
    }

    /// Lists the fields in the order written.
    pub fn fields(&self) -> &[Field<'a>] {
        &self.fields
    }

    /// Names the line of the first field, counted from 1.
    pub fn line(&self) -> usize {
        self.fields.first().map_or(1, |f| f.line)
    }
}

/// Iterates over the paragraphs of a text.
#[derive(Debug, Clone)]
pub struct Paragraphs<'a> {
    text: &'a str,
    pos: usize,
    line: usize,
    comments: bool,
    failed: bool,
}

impl<'a> Paragraphs<'a> {
    /// Reads text that a program wrote: lines beginning with `#` are errors.
    pub fn new(text: &'a str) -> Self {
        Self {
            text,
            pos: 0,
            line: 1,
            comments: false,
            failed: false,
        }
    }

    /// Reads text that people write, such as APT sources: lines beginning with `#` are skipped.
    pub fn with_comments(text: &'a str) -> Self {
        Self {
            comments: true,
            ..Self::new(text)
        }
    }

    /// Checks the encoding of a whole file, for the constructors take text.
    pub fn decode(bytes: &[u8]) -> Result<&str, ControlError> {
        std::str::from_utf8(bytes).map_err(|err| {
            let newlines = bytes[..err.valid_up_to()]
                .iter()
                .filter(|b| **b == b'\n')
                .count();
            ControlError::Encoding { line: newlines + 1 }
        })
    }

    fn next_line(&mut self) -> Option<&'a str> {
        let rest = self.text.get(self.pos..).filter(|rest| !rest.is_empty())?;
        let end = memchr(b'\n', rest.as_bytes()).unwrap_or(rest.len());
        self.pos += (end + 1).min(rest.len());
        self.line += 1;
        Some(&rest[..end])
    }

    fn paragraph(&mut self) -> Result<Option<Paragraph<'a>>, ControlError> {
        let mut fields: Vec<Field<'a>> = Vec::with_capacity(24);
        // Where the value of the last field begins; it grows over continuation lines.
        let mut value_start = 0;
        loop {
            let (at, number) = (self.pos, self.line);
            let Some(text) = self.next_line() else { break };
            let end = at + text.len();
            match text.as_bytes().first() {
                Some(b' ' | b'\t') if !text.trim_ascii().is_empty() => {
                    let field = fields
                        .last_mut()
                        .ok_or(ControlError::Continuation { line: number })?;
                    field.value = &self.text[value_start..end];
                }
                Some(b'#') if self.comments => {}
                // A line of blanks separates paragraphs as an empty one does.
                _ if text.trim_ascii().is_empty() => {
                    if !fields.is_empty() {
                        break;
                    }
                }
                _ => {
                    let (name, value) =
                        split_field(text).ok_or(ControlError::Field { line: number })?;
                    if let Some(first) = fields.iter().find(|f| f.name.eq_ignore_ascii_case(name)) {
                        return Err(ControlError::Duplicate {
                            line: number,
                            first: first.line,
                            name: name.into(),
                        });
                    }
                    value_start = end - value.len();
                    fields.push(Field {
                        name,
                        value,
                        line: number,
                    });
                }
            }
        }
        for field in &mut fields {
            field.value = field.value.trim_end();
        }
        Ok((!fields.is_empty()).then_some(Paragraph { fields }))
    }
}

impl<'a> Iterator for Paragraphs<'a> {
    type Item = Result<Paragraph<'a>, ControlError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let item = self.paragraph();
        self.failed = item.is_err();
        item.transpose()
    }
}

fn split_field(line: &str) -> Option<(&str, &str)> {
    let colon = memchr(b':', line.as_bytes())?;
    let name = &line[..colon];
    let valid = !name.is_empty()
        && !name.starts_with(['-', '#'])
        && name.bytes().all(|b| b.is_ascii_graphic());
    valid.then(|| (name, line[colon + 1..].trim_start_matches([' ', '\t'])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Vec<(String, String)>>, ControlError> {
        let own = |f: &Field<'_>| (f.name.to_owned(), f.value.to_owned());
        Paragraphs::new(text)
            .map(|p| Ok(p?.fields().iter().map(own).collect()))
            .collect()
    }

    #[test]
    fn paragraphs_fields_and_continuations() {
        let text =
            "\n\nPackage: a\nDescription: short\n long\n .\n end\n\n \nPackage:b\r\nEmpty:\n";
        let got = parse(text).expect("valid");
        assert_eq!(got.len(), 2);
        assert_eq!(got[0][1].1, "short\n long\n .\n end");
        assert_eq!(got[1][0].1, "b");
        assert_eq!(got[1][1].1, "");
    }

    #[test]
    fn names_are_found_in_any_case_and_lists_by_line() {
        let mut all = Paragraphs::new("SHA256:\n aa 1 x\n bb 2 y");
        let paragraph = all.next().expect("one").expect("valid");
        let lines: Vec<_> = paragraph.field("sha256").expect("field").lines().collect();
        assert_eq!(lines, ["aa 1 x", "bb 2 y"]);
    }

    #[test]
    fn errors_name_the_line() {
        assert_eq!(
            parse("A: 1\n\n cont"),
            Err(ControlError::Continuation { line: 3 })
        );
        assert_eq!(parse("A: 1\nwhat"), Err(ControlError::Field { line: 2 }));
        assert_eq!(parse("# no"), Err(ControlError::Field { line: 1 }));
        assert_eq!(
            parse("A: 1\nB: 2\na: 3"),
            Err(ControlError::Duplicate {
                line: 3,
                first: 1,
                name: "a".into()
            })
        );
        assert_eq!(Paragraphs::decode(b"a\n\xff").expect_err("bad").line(), 2);
    }

    #[test]
    fn comments_are_skipped_where_people_write() {
        let got: Vec<_> =
            Paragraphs::with_comments("# x\nTypes: deb\n# y\nURIs: u\n#v\n z\n").collect();
        assert_eq!(got.len(), 1);
        let uris: Vec<_> = got[0]
            .as_ref()
            .expect("valid")
            .field("uris")
            .expect("field")
            .lines()
            .collect();
        assert_eq!(uris, ["u", "z"]);
    }
}
