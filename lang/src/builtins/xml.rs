//! XML.

use super::{Prim, p};
use crate::error::{R, Traced};
use crate::eval::context::Collector;
use crate::eval::{Vm, int_text};
use crate::heap::{Attrs, Fun, Tag, Value};
use crate::ir::Pos;

pub(super) static TABLE: &[Prim] = &[p("toXML", 1, 0, to_xml_builtin, "Writes a value as XML.")];

fn to_xml_builtin(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let (text, ctx) = to_xml(vm, a[0], false, pos)?;
    Ok(Value::string_ctx(&text, ctx))
}

/// A value as XML, with the context of its strings; evaluates it completely.
pub(crate) fn to_xml(vm: &Vm, v: Value, locations: bool, pos: Pos) -> R<(Vec<u8>, u32)> {
    let mut w = Writer {
        vm,
        out: Vec::new(),
        ctx: Collector::default(),
        depth: 0,
        locations,
        drvs: Default::default(),
        around: Vec::new(),
    };
    w.out
        .extend_from_slice(b"<?xml version='1.0' encoding='utf-8'?>\n");
    w.open("expr", &[]);
    w.value(v, pos)?;
    w.close("expr");
    Ok((w.out, w.ctx.finish(vm)))
}

struct Writer<'a> {
    vm: &'a Vm,
    out: Vec<u8>,
    ctx: Collector,
    depth: usize,
    locations: bool,
    /// Derivations written already, by path.
    drvs: std::collections::BTreeSet<Vec<u8>>,
    /// The lists and sets that are being written, outermost first. One that contains itself would fill the memory long before the
    /// nesting is too deep: the same attributes again on each level, and further to the right.
    around: Vec<Value>,
}

type Attributes<'a> = Vec<(&'a str, Vec<u8>)>;

impl Writer<'_> {
    fn indent(&mut self) {
        self.out.resize(self.out.len() + self.depth * 2, b' ');
    }

    fn tag(&mut self, name: &str, attrs: &[(&str, Vec<u8>)]) {
        self.indent();
        self.out.push(b'<');
        self.out.extend_from_slice(name.as_bytes());
        let mut sorted: Vec<_> = attrs.iter().collect();
        sorted.sort_by_key(|a| a.0);
        for (k, v) in sorted {
            self.out.push(b' ');
            self.out.extend_from_slice(k.as_bytes());
            self.out.extend_from_slice(b"=\"");
            for &b in v {
                match b {
                    b'"' => self.out.extend_from_slice(b"&quot;"),
                    b'<' => self.out.extend_from_slice(b"&lt;"),
                    b'>' => self.out.extend_from_slice(b"&gt;"),
                    b'&' => self.out.extend_from_slice(b"&amp;"),
                    b'\n' => self.out.extend_from_slice(b"&#xA;"),
                    b => self.out.push(b),
                }
            }
            self.out.push(b'"');
        }
    }

    fn open(&mut self, name: &str, attrs: &[(&str, Vec<u8>)]) {
        self.tag(name, attrs);
        self.out.extend_from_slice(b">\n");
        self.depth += 1;
    }

    fn close(&mut self, name: &str) {
        self.depth -= 1;
        self.indent();
        self.out
            .extend_from_slice(format!("</{name}>\n").as_bytes());
    }

    fn empty(&mut self, name: &str, attrs: &[(&str, Vec<u8>)]) {
        self.tag(name, attrs);
        self.out.extend_from_slice(b" />\n");
    }

    fn place(&self, pos: Pos, attrs: &mut Attributes<'_>) {
        if !self.locations {
            return;
        }
        let sources = self.vm.sources.borrow();
        if let Some((s, line, column)) = sources.line_column(pos) {
            attrs.push(("path", s.file.name.clone().into_bytes()));
            attrs.push(("line", line.to_string().into_bytes()));
            attrs.push(("column", column.to_string().into_bytes()));
        }
    }

    /// Sets and lists may contain themselves, so the nesting counts as that of calls does.
    fn value(&mut self, v: Value, pos: Pos) -> R<()> {
        let vm = self.vm;
        vm.deeper(pos, || self.content(v, pos))
    }

    fn content(&mut self, v: Value, pos: Pos) -> R<()> {
        let v = self.vm.force(v)?;
        match v.tag() {
            Tag::Int => self.int(v),
            Tag::Imm if v == Value::NULL => self.empty("null", &[]),
            Tag::Imm => {
                let t: &[u8] = if v == Value::TRUE { b"true" } else { b"false" };
                self.empty("bool", &[("value", t.to_vec())]);
            }
            Tag::Str => {
                let s = self.vm.force_str(v, pos)?;
                self.ctx.add(s.ctx());
                self.empty("string", &[("value", s.bytes().to_vec())]);
            }
            Tag::List => {
                self.go_inside(v, pos)?;
                self.open("list", &[]);
                for x in v.as_list().unwrap_or_default() {
                    self.value(*x, pos)?;
                }
                self.close("list");
                self.around.pop();
            }
            Tag::Attrs => self.attrs(v, pos)?,
            Tag::Fun => self.function(v),
            Tag::Thunk => self.empty("unevaluated", &[]),
            Tag::Boxed => {
                if let Some(f) = v.as_float() {
                    self.empty("float", &[("value", crate::print::general(f).into_bytes())]);
                } else if let Some(p) = v.as_path() {
                    self.vm.path_named(p);
                    self.empty("path", &[("value", p.to_vec())]);
                } else {
                    self.int(v);
                }
            }
        }
        Ok(())
    }

    fn int(&mut self, v: Value) {
        self.empty(
            "int",
            &[(
                "value",
                int_text(v.as_int().unwrap_or_default(), &mut [0; 20]).to_vec(),
            )],
        );
    }

    fn function(&mut self, v: Value) {
        let lambda = match v.as_fun() {
            Some(Fun::Closure(l, _)) => Some((l, 0)),
            Some(Fun::Partial(g, have)) => match g.as_fun() {
                Some(Fun::Closure(l, _)) => Some((l, have.len())),
                _ => None,
            },
            _ => None,
        };
        let Some((l, have)) = lambda else {
            return self.empty("unevaluated", &[]);
        };
        let mut attrs = Vec::new();
        self.place(l.pos, &mut attrs);
        self.open("function", &attrs);
        match &l.formals {
            Some(f) if have + 1 == l.arity as usize => {
                let mut attrs: Attributes<'_> = Vec::new();
                if let Some(b) = f.bind {
                    attrs.push(("name", b.bytes().to_vec()));
                }
                if f.ellipsis {
                    attrs.push(("ellipsis", b"1".to_vec()));
                }
                self.open("attrspat", &attrs);
                let mut names: Vec<&'static [u8]> =
                    f.names.iter().map(|n| n.name.bytes()).collect();
                names.sort_unstable();
                for n in names {
                    self.empty("attr", &[("name", n.to_vec())]);
                }
                self.close("attrspat");
            }
            _ => self.empty(
                "varpat",
                &[(
                    "name",
                    l.params
                        .get(have)
                        .map_or_else(Vec::new, |s| s.bytes().to_vec()),
                )],
            ),
        }
        self.close("function");
    }

    fn go_inside(&mut self, v: Value, pos: Pos) -> R<()> {
        if self.around.contains(&v) {
            return Err(self.vm.too_deep(pos));
        }
        self.around.push(v);
        Ok(())
    }

    fn attrs(&mut self, v: Value, pos: Pos) -> R<()> {
        let set = self.vm.force_attrs(v, pos)?;
        if !self.vm.is_derivation(set)? {
            self.go_inside(v, pos)?;
            self.open("attrs", &[]);
            self.entries(set)?;
            self.close("attrs");
            self.around.pop();
            return Ok(());
        }
        let mut attrs: Attributes<'_> = Vec::new();
        let mut path = None;
        for (key, name) in [
            (self.vm.s.drv_path, "drvPath"),
            (self.vm.s.out_path, "outPath"),
        ] {
            if let Some(v) = set.get(key) {
                let v = self.vm.force(v)?;
                if let Some(s) = v.as_str() {
                    if name == "drvPath" {
                        path = Some(s.bytes().to_vec());
                    }
                    self.ctx.add(s.ctx());
                    attrs.push((name, s.bytes().to_vec()));
                }
            }
        }
        let _ = pos;
        self.open("derivation", &attrs);
        match path {
            Some(p) if self.drvs.insert(p.clone()) => self.entries(set)?,
            _ => self.empty("repeated", &[]),
        }
        self.close("derivation");
        Ok(())
    }

    fn entries(&mut self, set: Attrs) -> R<()> {
        for (s, v) in set.iter_by_name() {
            let at = set
                .shape()
                .find(s)
                .map_or(Pos::NONE, |i| set.shape().pos_at(i));
            let mut attrs = vec![("name", s.bytes().to_vec())];
            self.place(at, &mut attrs);
            self.open("attr", &attrs);
            self.value(v, at).traced(
                || format!("while evaluating the attribute '{}'", s.text()),
                at,
            )?;
            self.close("attr");
        }
        Ok(())
    }
}
