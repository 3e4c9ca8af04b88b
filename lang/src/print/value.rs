//! Values in the syntax of the language.

use crate::eval::{Vm, int_text};
use crate::heap::{Fun, Tag, Value};

/// How values are printed.
struct Style {
    /// For messages: cut short, with the words that Nix uses in errors.
    short: bool,
}

/// Limits of values in messages.
const SHORT_ITEMS: usize = 10;
const SHORT_DEPTH: u32 = 10;
const SHORT_STRING: usize = 1024;

const KEYWORDS: &[&str] = &[
    "if", "then", "else", "assert", "with", "let", "in", "rec", "inherit",
];

/// Writes an attribute name, quoted if needed.
pub(crate) fn attr_name(out: &mut Vec<u8>, name: &[u8]) {
    let plain = name
        .first()
        .is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_')
        && name
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'\'' | b'-'))
        && !KEYWORDS.iter().any(|k| k.as_bytes() == name);
    if plain {
        out.extend_from_slice(name);
    } else {
        string(out, name);
    }
}

/// Writes a string literal.
pub(crate) fn string(out: &mut Vec<u8>, s: &[u8]) {
    out.push(b'"');
    for (i, &b) in s.iter().enumerate() {
        match b {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', b]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'$' if s.get(i + 1) == Some(&b'{') => out.extend_from_slice(b"\\$"),
            b => out.push(b),
        }
    }
    out.push(b'"');
}

struct Printer<'a> {
    vm: &'a Vm,
    style: Style,
    seen: rustc_hash::FxHashSet<u64>,
    out: Vec<u8>,
    /// Attributes and list items that a message still shows.
    attrs_left: usize,
    items_left: usize,
}

impl Vm {
    /// A value as `nix-instantiate --eval` prints it.
    pub(crate) fn show(&self, v: Value) -> String {
        String::from_utf8_lossy(&self.show_bytes(v)).into_owned()
    }

    /// The same as bytes: strings need not be UTF-8.
    pub(crate) fn show_bytes(&self, v: Value) -> Vec<u8> {
        let mut p = Printer {
            vm: self,
            style: Style { short: false },
            seen: Default::default(),
            out: Vec::new(),
            attrs_left: usize::MAX,
            items_left: usize::MAX,
        };
        p.value(v, 0);
        p.out
    }

    /// A value in a message: not evaluated further, cut when long.
    pub(crate) fn show_short(&self, v: Value) -> String {
        let mut p = Printer {
            vm: self,
            style: Style { short: true },
            seen: Default::default(),
            out: Vec::new(),
            attrs_left: SHORT_ITEMS,
            items_left: SHORT_ITEMS,
        };
        p.value(v, 0);
        String::from_utf8_lossy(&p.out).into_owned()
    }
}

impl Printer<'_> {
    fn text(&mut self, s: &str) {
        self.out.extend_from_slice(s.as_bytes());
    }

    fn value(&mut self, word: Value, depth: u32) {
        let mut v = word.peel();
        if !self.style.short
            && let Some(known) = self.vm.look_at_named(v)
        {
            v = known;
        }
        if self.vm.check_stack().is_err() {
            self.text("«too deep»");
            return;
        }
        match v.tag() {
            Tag::Thunk => match v.as_thunk().map(|t| t.state()) {
                Some(crate::heap::ThunkState::Hole) => self.text("«potential infinite recursion»"),
                _ if self.style.short => self.text("«thunk»"),
                _ => self.text("<CODE>"),
            },
            Tag::Int => self.int(v),
            Tag::Str => self.string(v),
            Tag::Imm if v == Value::NULL => self.text("null"),
            Tag::Imm => self.text(if v == Value::TRUE { "true" } else { "false" }),
            Tag::Fun => self.function(v),
            Tag::List => self.list(word, v, depth),
            Tag::Attrs => self.attrs(v, depth),
            Tag::Boxed => {
                if let Some(f) = v.as_float() {
                    self.text(&super::general(f));
                } else if let Some(p) = v.as_path() {
                    // A short form stands in errors only, and nothing depends on these.
                    if !self.style.short {
                        self.vm.path_named(p);
                    }
                    self.out.extend_from_slice(p);
                } else {
                    self.int(v);
                }
            }
        }
    }

    fn int(&mut self, v: Value) {
        self.out
            .extend_from_slice(int_text(v.as_int().unwrap_or_default(), &mut [0; 20]));
    }

    fn string(&mut self, v: Value) {
        let b = v.as_str().map_or(&b""[..], |s| s.bytes());
        if self.style.short && b.len() > SHORT_STRING {
            string(&mut self.out, &b[..SHORT_STRING]);
            self.text(&format!(" «{} bytes elided»", b.len() - SHORT_STRING));
        } else {
            string(&mut self.out, b);
        }
    }

    fn function(&mut self, v: Value) {
        let head = match v.as_fun() {
            Some(Fun::Partial(f, _)) => f.as_fun().map(|f| (f, true)),
            f => f.map(|f| (f, false)),
        };
        let Some((f, partial)) = head else { return };
        if !self.style.short {
            return self.text(match f {
                Fun::Prim(_) if partial => "<PRIMOP-APP>",
                Fun::Prim(_) => "<PRIMOP>",
                _ => "<LAMBDA>",
            });
        }
        match f {
            Fun::Prim(p) if partial => self.text(&format!("«partially applied primop {}»", p.name)),
            Fun::Prim(p) => self.text(&format!("«primop {}»", p.name)),
            Fun::Closure(l, _) => {
                let name = l
                    .name
                    .get()
                    .map_or_else(String::new, |s| format!(" {}", s.text()));
                let sources = self.vm.sources.borrow();
                let at = sources
                    .line_column(l.pos)
                    .map_or_else(String::new, |(s, line, col)| {
                        format!(" @ {}:{line}:{col}", s.file.name)
                    });
                drop(sources);
                self.text(&format!("«lambda{name}{at}»"));
            }
            Fun::Partial(..) => {}
        }
    }

    fn enter(&mut self, which: Value, v: Value, depth: u32, empty: bool) -> bool {
        if !empty && !self.seen.insert(which.identity()) {
            self.text("«repeated»");
            return false;
        }
        if self.style.short && depth >= SHORT_DEPTH {
            self.text(if v.tag() == Tag::List {
                "[ ... ]"
            } else {
                "{ ... }"
            });
            return false;
        }
        true
    }

    fn elided(&mut self, n: usize, one: &str, many: &str) {
        self.text(&format!(
            "«{n} {} elided» ",
            if n == 1 { one } else { many }
        ));
    }

    fn list(&mut self, word: Value, v: Value, depth: u32) {
        let items = v.as_list().unwrap_or_default();
        // Nix copies lists of one or two items with the value that holds them: what is recognised is that value.
        let which = if items.len() <= 2 { word } else { v };
        if !self.enter(which, v, depth, items.is_empty()) {
            return;
        }
        self.text("[ ");
        for (i, x) in items.iter().enumerate() {
            if self.items_left == 0 {
                self.elided(items.len() - i, "item", "items");
                break;
            }
            self.value(*x, depth + 1);
            self.items_left = self
                .items_left
                .saturating_sub(usize::from(self.style.short));
            self.text(" ");
        }
        self.text("]");
    }

    fn attrs(&mut self, v: Value, depth: u32) {
        let Some(set) = v.as_attrs() else { return };
        if !self.enter(v, v, depth, set.len() == 0) {
            return;
        }
        self.text("{ ");
        for (i, (s, x)) in set.iter_by_name().enumerate() {
            if self.attrs_left == 0 {
                self.elided(set.len() - i, "attribute", "attributes");
                break;
            }
            attr_name(&mut self.out, s.bytes());
            self.text(" = ");
            self.value(x, depth + 1);
            self.attrs_left = self
                .attrs_left
                .saturating_sub(usize::from(self.style.short));
            self.text("; ");
        }
        self.text("}");
    }
}
