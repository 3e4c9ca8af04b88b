//! The syntax of extended regular expressions.

use super::names;

/// A set of bytes.
pub(super) type Class = [bool; 256];

/// A node of a pattern.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Empty,
    Set(Box<Class>),
    Start,
    End,
    /// A group with its number, from 1.
    Group(u32, Box<Node>),
    Concat(Vec<Node>),
    Alternate(Vec<Node>),
    Repeat {
        node: Box<Node>,
        min: u32,
        max: Option<u32>,
    },
}

impl Node {
    /// Whether it can match nothing.
    pub(super) fn can_be_empty(&self) -> bool {
        match self {
            Node::Empty | Node::Start | Node::End => true,
            Node::Set(_) => false,
            Node::Group(_, x) => x.can_be_empty(),
            Node::Concat(v) => v.iter().all(Node::can_be_empty),
            Node::Alternate(v) => v.iter().any(Node::can_be_empty),
            Node::Repeat { node, min, .. } => *min == 0 || node.can_be_empty(),
        }
    }

    /// Whether there is a group in it.
    pub(super) fn has_group(&self) -> bool {
        match self {
            Node::Empty | Node::Start | Node::End | Node::Set(_) => false,
            Node::Group(..) => true,
            Node::Concat(v) | Node::Alternate(v) => v.iter().any(Node::has_group),
            Node::Repeat { node, .. } => node.has_group(),
        }
    }
}

/// A parsed pattern.
pub(super) struct Pattern {
    pub(super) node: Node,
    pub(super) groups: u32,
}

/// Groups inside groups.
const MAX_DEPTH: u32 = 250;
/// Largest count of a bounded repetition.
const MAX_COUNT: u32 = 10_000;

/// Parses a pattern.
pub(super) fn parse(pattern: &[u8]) -> Result<Pattern, String> {
    let mut p = Parser {
        text: pattern,
        at: 0,
        groups: 0,
        depth: 0,
    };
    let node = p.alternation()?;
    if p.at < pattern.len() {
        return Err("unmatched ')'".into());
    }
    Ok(Pattern {
        node,
        groups: p.groups,
    })
}

/// A part of a bracket expression: a character, which may begin a range, or characters that were added already.
enum Element {
    Byte(u8),
    Set,
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    groups: u32,
    depth: u32,
}

type Res<T> = Result<T, String>;

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn alternation(&mut self) -> Res<Node> {
        let mut all = vec![self.sequence()?];
        while self.peek() == Some(b'|') {
            self.at += 1;
            all.push(self.sequence()?);
        }
        Ok(match all.pop() {
            Some(one) if all.is_empty() => one,
            Some(last) => {
                all.push(last);
                Node::Alternate(all)
            }
            None => Node::Empty,
        })
    }

    fn sequence(&mut self) -> Res<Node> {
        let mut all = Vec::new();
        while let Some(b) = self.peek() {
            if b == b'|' || (b == b')' && self.depth > 0) {
                break;
            }
            let atom = self.atom(b)?;
            // An anchor cannot be repeated: what follows must be an atom of its own.
            all.push(if matches!(atom, Node::Start | Node::End) {
                atom
            } else {
                self.repeats(atom)?
            });
        }
        Ok(if all.is_empty() {
            Node::Empty
        } else {
            Node::Concat(all)
        })
    }

    fn atom(&mut self, b: u8) -> Res<Node> {
        self.at += 1;
        Ok(match b {
            b'(' => {
                self.groups += 1;
                let n = self.groups;
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return Err("groups are nested too deeply".into());
                }
                let inner = self.alternation()?;
                if self.peek() != Some(b')') {
                    return Err("unmatched '('".into());
                }
                self.at += 1;
                self.depth -= 1;
                Node::Group(n, Box::new(inner))
            }
            b')' => return Err("unmatched ')'".into()),
            b'*' | b'+' | b'?' => return Err("nothing to repeat".into()),
            b'{' => return Err("unexpected '{'".into()),
            b'^' => Node::Start,
            b'$' => Node::End,
            b'.' => {
                // Anything but NUL, which strings do not contain.
                Node::Set(Box::new([true; 256]))
            }
            b'[' => Node::Set(self.bracket()?),
            b'\\' => match self.peek() {
                Some(
                    c @ (b'^' | b'.' | b'[' | b'$' | b'(' | b')' | b'|' | b'*' | b'+' | b'?' | b'{'
                    | b'\\'),
                ) => {
                    self.at += 1;
                    single(c)
                }
                _ => return Err("unexpected escape character".into()),
            },
            b => single(b),
        })
    }

    fn repeats(&mut self, atom: Node) -> Res<Node> {
        let mut node = atom;
        let mut count = 0;
        loop {
            let (min, max) = match self.peek() {
                Some(b'*') => (0, None),
                Some(b'+') => (1, None),
                Some(b'?') => (0, Some(1)),
                Some(b'{') => {
                    let (min, max) = self.braces()?;
                    self.at -= 1;
                    (min, max)
                }
                _ => return Ok(node),
            };
            self.at += 1;
            count += 1;
            if count > MAX_DEPTH {
                return Err("too many repetitions of one expression".into());
            }
            // The same repetition twice is the same as once.
            if let Node::Repeat {
                min: 0, max: None, ..
            } = node
                && max.is_none()
            {
                continue;
            }
            node = Node::Repeat {
                node: Box::new(node),
                min,
                max,
            };
        }
    }

    fn number(&mut self) -> Res<Option<u32>> {
        let start = self.at;
        let mut n: u32 = 0;
        while let Some(d @ b'0'..=b'9') = self.peek() {
            n = n * 10 + u32::from(d - b'0');
            if n > MAX_COUNT {
                return Err("the count of a repetition is too large".into());
            }
            self.at += 1;
        }
        Ok((self.at > start).then_some(n))
    }

    fn braces(&mut self) -> Res<(u32, Option<u32>)> {
        self.at += 1;
        let Some(min) = self.number()? else {
            return Err("unexpected character in brace expression".into());
        };
        let max = if self.peek() == Some(b',') {
            self.at += 1;
            self.number()?
        } else {
            Some(min)
        };
        if self.peek() != Some(b'}') {
            return Err("unexpected character in brace expression".into());
        }
        self.at += 1;
        if max.is_some_and(|m| m < min) {
            return Err("invalid range in brace expression".into());
        }
        Ok((min, max))
    }

    fn bracket(&mut self) -> Res<Box<Class>> {
        let mut set: Box<Class> = Box::new([false; 256]);
        let negated = self.peek() == Some(b'^');
        self.at += usize::from(negated);
        let mut first = true;
        loop {
            let Some(b) = self.peek() else {
                return Err("unmatched '['".into());
            };
            if b == b']' && !first {
                self.at += 1;
                break;
            }
            // A `-` is a character only at the beginning, at the end, and as the end of a range.
            if b == b'-' && !first && self.text.get(self.at + 1) != Some(&b']') {
                return Err("invalid place of '-' in bracket expression".into());
            }
            first = false;
            let Element::Byte(low) = self.element(&mut set)? else {
                continue;
            };
            let range =
                self.peek() == Some(b'-') && self.text.get(self.at + 1).is_some_and(|c| *c != b']');
            if !range {
                set[low as usize] = true;
                continue;
            }
            self.at += 1;
            // A range begins with any character, but ends with a plain one.
            let plain = self.peek() != Some(b'[')
                || !matches!(self.text.get(self.at + 1), Some(b'.' | b'=' | b':'));
            let Some(Element::Byte(high)) = plain.then(|| self.element(&mut set)).transpose()?
            else {
                return Err("invalid end of range in bracket expression".into());
            };
            if high < low {
                return Err("invalid range in bracket expression".into());
            }
            set[low as usize..=high as usize].fill(true);
        }
        if negated {
            for x in set.iter_mut() {
                *x = !*x;
            }
        }
        Ok(set)
    }

    /// One part of a bracket expression. Classes are added to the set at once.
    fn element(&mut self, set: &mut Class) -> Res<Element> {
        let Some(b) = self.peek() else {
            return Err("unmatched '['".into());
        };
        let kind = match self.text.get(self.at + 1) {
            Some(kind @ (b'.' | b'=' | b':')) if b == b'[' => *kind,
            _ => {
                self.at += 1;
                return Ok(Element::Byte(b));
            }
        };
        if kind == b':' {
            self.class(set)?;
            return Ok(Element::Set);
        }
        let rest = &self.text[self.at + 2..];
        let Some(end) = rest.windows(2).position(|w| w == [kind, b']']) else {
            return Err("unmatched '['".into());
        };
        let named = names::named(&rest[..end]).ok_or("invalid name of a character")?;
        self.at += end + 4;
        if kind == b'=' {
            set[named as usize] = true;
            return Ok(Element::Set);
        }
        Ok(Element::Byte(named))
    }

    fn class(&mut self, set: &mut Class) -> Res<()> {
        let rest = &self.text[self.at + 2..];
        let Some(end) = rest.windows(2).position(|w| w == b":]") else {
            return Err("unmatched '['".into());
        };
        let test: fn(&u8) -> bool = match &rest[..end] {
            b"alpha" => u8::is_ascii_alphabetic,
            b"digit" | b"d" => u8::is_ascii_digit,
            b"alnum" => u8::is_ascii_alphanumeric,
            b"upper" => u8::is_ascii_uppercase,
            b"lower" => u8::is_ascii_lowercase,
            b"space" | b"s" => |b| matches!(b, b' ' | 9..=13),
            b"blank" => |b| matches!(b, b' ' | b'\t'),
            b"punct" => u8::is_ascii_punctuation,
            b"print" => |b| matches!(b, b' '..=b'~'),
            b"graph" => u8::is_ascii_graphic,
            b"cntrl" => u8::is_ascii_control,
            b"xdigit" => u8::is_ascii_hexdigit,
            b"w" => |b| b.is_ascii_alphanumeric() || *b == b'_',
            _ => return Err("invalid character class".into()),
        };
        for b in 0..=255u8 {
            if test(&b) {
                set[b as usize] = true;
            }
        }
        self.at += end + 4;
        Ok(())
    }
}

fn single(b: u8) -> Node {
    let mut set: Box<Class> = Box::new([false; 256]);
    set[b as usize] = true;
    Node::Set(set)
}
