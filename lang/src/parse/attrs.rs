//! Attribute sets: paths unfolded into nested sets, sets merged, duplicates refused.

use bumpalo::Bump;
use bumpalo::collections::Vec as BumpVec;

use super::SyntaxError;
use super::ast::{Ast, Attr, AttrDef, AttrSet, AttrValue, DynAttr, Node};
use crate::heap::Sym;

type Res<T> = Result<T, Box<SyntaxError>>;

/// Sets with more attributes have an index: big ones are the rule in package collections, small ones everywhere else.
const SMALL: usize = 8;

/// A set that grows by one definition after the other.
pub(super) struct Builder<'a> {
    bump: &'a Bump,
    pub(super) set: AttrSet<'a>,
    /// Where each name is in the set; empty as long as the set is small.
    index: rustc_hash::FxHashMap<Sym, usize>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(recursive: bool, bump: &'a Bump) -> Self {
        Self {
            bump,
            set: AttrSet::new(recursive, bump),
            index: rustc_hash::FxHashMap::default(),
        }
    }

    fn find(&self, name: Sym) -> Option<usize> {
        if self.index.is_empty() {
            self.set.attrs.iter().position(|d| d.name == name)
        } else {
            self.index.get(&name).copied()
        }
    }

    /// Adds a definition whose name is new.
    fn push(&mut self, d: AttrDef<'a>) {
        self.set.attrs.push(d);
        let n = self.set.attrs.len();
        if n > SMALL {
            let new = if self.index.is_empty() { 0 } else { n - 1 };
            let names = self.set.attrs[new..].iter().zip(new..);
            self.index.extend(names.map(|(d, i)| (d.name, i)));
        }
    }

    /// Adds `path = value;`.
    pub(super) fn add(
        &mut self,
        path: BumpVec<'a, Attr<'a>>,
        value: Ast<'a>,
        pos: u32,
        end: u32,
    ) -> Res<()> {
        let bump = self.bump;
        if let Some(Attr::Name(name, _)) = path.first()
            && let Some(i) = self.find(*name)
        {
            let whole = show(&path);
            let mut rest = path.into_iter();
            rest.next();
            let d = Def {
                value,
                pos,
                end,
                whole: &whole,
            };
            return merge(&mut self.set.attrs[i], rest, d, bump);
        }
        let mut path = path.into_iter();
        match path.next() {
            None => {}
            Some(Attr::Dynamic(name)) => {
                let value = nest(path, value, pos, bump);
                self.set.dynamic.push(DynAttr { name, value, pos });
            }
            Some(Attr::Name(name, _)) => {
                let value = AttrValue::Plain(nest(path, value, pos, bump));
                self.push(AttrDef { name, pos, value });
            }
        }
        Ok(())
    }

    /// Adds an inherited name.
    pub(super) fn inherit(
        &mut self,
        name: Sym,
        pos: u32,
        end: u32,
        value: AttrValue<'a>,
    ) -> Res<()> {
        if let Some(i) = self.find(name) {
            return Err(duplicate(&name.text(), pos, end, self.set.attrs[i].pos));
        }
        self.push(AttrDef { name, pos, value });
        Ok(())
    }
}

fn nest<'a>(path: Path<'a>, value: Ast<'a>, pos: u32, bump: &'a Bump) -> Ast<'a> {
    path.rev().fold(value, |value, a| {
        let (start, end) = (value.start, value.end);
        let mut set = AttrSet::new(false, bump);
        match a {
            Attr::Name(name, _) => set.attrs.push(AttrDef {
                name,
                pos,
                value: AttrValue::Plain(value),
            }),
            Attr::Dynamic(name) => set.dynamic.push(DynAttr { name, value, pos }),
        }
        Ast::new(start, end, Node::Attrs(bump.alloc(set)))
    })
}

/// The rest of an attribute path.
type Path<'a> = bumpalo::collections::vec::IntoIter<'a, Attr<'a>>;

/// A definition: its value, where it is, and the whole path for messages.
struct Def<'a, 'w> {
    value: Ast<'a>,
    pos: u32,
    end: u32,
    whole: &'w str,
}

fn merge<'a>(
    old: &mut AttrDef<'a>,
    mut path: Path<'a>,
    def: Def<'a, '_>,
    bump: &'a Bump,
) -> Res<()> {
    let Def {
        value,
        pos,
        end,
        whole,
    } = def;
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
            let value = nest(path, value, pos, bump);
            set.dynamic.push(DynAttr { name, value, pos });
            Ok(())
        }
        Some(Attr::Name(name, _)) => match set.attrs.iter_mut().find(|d| d.name == name) {
            Some(d) => {
                let def = Def {
                    value,
                    pos,
                    end,
                    whole,
                };
                merge(d, path, def, bump)
            }
            None => {
                let value = nest(path, value, pos, bump);
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
fn merge_sets<'a>(set: &mut AttrSet<'a>, new: &mut AttrSet<'a>, whole: &str) -> Res<()> {
    let shift = set.from.len();
    for mut d in new.attrs.drain(..) {
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
    set.dynamic.append(&mut new.dynamic);
    set.from.append(&mut new.from);
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

fn show(path: &[Attr<'_>]) -> String {
    let parts: Vec<String> = path
        .iter()
        .map(|a| match a {
            Attr::Name(s, _) => show_name(*s),
            Attr::Dynamic(_) => "${...}".to_owned(),
        })
        .collect();
    parts.join(".")
}
