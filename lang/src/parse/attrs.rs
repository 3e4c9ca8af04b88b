//! Attribute sets: paths unfolded into nested sets, sets merged, duplicates refused.

use super::SyntaxError;
use super::ast::{Ast, Attr, AttrDef, AttrSet, AttrValue, DynAttr, Node};
use crate::heap::Sym;

type Res<T> = Result<T, Box<SyntaxError>>;

/// The attribute `name` of a set, if defined statically. Big sets are the rule in package collections, so `index` is searched.
pub(super) struct Builder {
    pub(super) set: AttrSet,
    index: rustc_hash::FxHashMap<Sym, usize>,
}

impl Builder {
    pub(super) fn new(recursive: bool) -> Self {
        Self {
            set: AttrSet {
                recursive,
                ..AttrSet::default()
            },
            index: rustc_hash::FxHashMap::default(),
        }
    }

    /// Adds `path = value;`.
    pub(super) fn add(&mut self, path: Vec<Attr>, value: Ast, pos: u32, end: u32) -> Res<()> {
        let whole = show(&path);
        let mut path = path.into_iter();
        let Some(first) = path.next() else {
            return Ok(());
        };
        match first {
            Attr::Dynamic(name) => {
                let value = nest(path, value, pos);
                self.set.dynamic.push(DynAttr { name, value, pos });
                Ok(())
            }
            Attr::Name(name, _) => match self.index.get(&name) {
                None => {
                    self.index.insert(name, self.set.attrs.len());
                    let value = nest(path, value, pos);
                    self.set.attrs.push(AttrDef {
                        name,
                        pos,
                        value: AttrValue::Plain(value),
                    });
                    Ok(())
                }
                Some(&i) => merge(&mut self.set.attrs[i], path, value, pos, end, &whole),
            },
        }
    }

    /// Adds an inherited name.
    pub(super) fn inherit(&mut self, name: Sym, pos: u32, end: u32, value: AttrValue) -> Res<()> {
        if let Some(&i) = self.index.get(&name) {
            return Err(duplicate(&name.text(), pos, end, self.set.attrs[i].pos));
        }
        self.index.insert(name, self.set.attrs.len());
        self.set.attrs.push(AttrDef { name, pos, value });
        Ok(())
    }
}

fn nest(path: impl Iterator<Item = Attr>, value: Ast, pos: u32) -> Ast {
    let rest: Vec<Attr> = path.collect();
    rest.into_iter().rev().fold(value, |value, a| {
        let (start, end) = (value.start, value.end);
        let mut set = AttrSet::default();
        match a {
            Attr::Name(name, _) => set.attrs.push(AttrDef {
                name,
                pos,
                value: AttrValue::Plain(value),
            }),
            Attr::Dynamic(name) => set.dynamic.push(DynAttr { name, value, pos }),
        }
        Ast::new(start, end, Node::Attrs(set))
    })
}

fn merge(
    old: &mut AttrDef,
    mut path: std::vec::IntoIter<Attr>,
    value: Ast,
    pos: u32,
    end: u32,
    whole: &str,
) -> Res<()> {
    let old_pos = old.pos;
    let AttrValue::Plain(Ast {
        node: Node::Attrs(set),
        ..
    }) = &mut old.value
    else {
        return Err(duplicate(whole, pos, end, old_pos));
    };
    match path.next() {
        // `a = { .. };` again: the two literals become one.
        None => {
            let Node::Attrs(new) = value.node else {
                return Err(duplicate(whole, pos, end, old_pos));
            };
            merge_sets(set, new, whole)
        }
        Some(Attr::Dynamic(name)) => {
            let value = nest(path, value, pos);
            set.dynamic.push(DynAttr { name, value, pos });
            Ok(())
        }
        Some(Attr::Name(name, _)) => match set.attrs.iter_mut().find(|d| d.name == name) {
            Some(d) => merge(d, path, value, pos, end, whole),
            None => {
                let value = nest(path, value, pos);
                set.attrs.push(AttrDef {
                    name,
                    pos,
                    value: AttrValue::Plain(value),
                });
                Ok(())
            }
        },
    }
}

/// Adds the definitions of a set to another; sets in both are merged in turn.
fn merge_sets(set: &mut AttrSet, new: AttrSet, whole: &str) -> Res<()> {
    let shift = set.from.len();
    for mut d in new.attrs {
        if let AttrValue::From(i) = &mut d.value {
            *i += shift;
        }
        let Some(o) = set.attrs.iter_mut().find(|o| o.name == d.name) else {
            set.attrs.push(d);
            continue;
        };
        let path = format!("{whole}.{}", show_name(d.name));
        let (pos, old) = (d.pos, o.pos);
        match (&mut o.value, d.value) {
            (
                AttrValue::Plain(Ast {
                    node: Node::Attrs(x),
                    ..
                }),
                AttrValue::Plain(Ast {
                    node: Node::Attrs(y),
                    ..
                }),
            ) => {
                merge_sets(x, y, &path)?;
            }
            _ => return Err(duplicate(&path, pos, pos, old)),
        }
    }
    set.dynamic.extend(new.dynamic);
    set.from.extend(new.from);
    Ok(())
}

fn duplicate(name: &str, pos: u32, end: u32, old: u32) -> Box<SyntaxError> {
    let end = (end as usize).max(pos as usize + 1);
    Box::new(SyntaxError {
        other: Some(old as usize),
        ..*SyntaxError::new(
            format!("attribute '{name}' already defined"),
            pos as usize..end,
        )
    })
}

fn show_name(s: Sym) -> String {
    let mut out = Vec::new();
    crate::print::attr_name(&mut out, s.bytes());
    String::from_utf8_lossy(&out).into_owned()
}

fn show(path: &[Attr]) -> String {
    let parts: Vec<String> = path
        .iter()
        .map(|a| match a {
            Attr::Name(s, _) => show_name(*s),
            Attr::Dynamic(_) => "${...}".to_owned(),
        })
        .collect();
    parts.join(".")
}
