//! Finds a part of an expression again, for a message about it: code that runs knows only where the whole begins.

use super::ast::{Ast, Attr, AttrSet, AttrValue, Node, Param, Part};

/// What part of an operator or call is looked for.
pub(crate) struct Place {
    /// Which operand or argument.
    pub(crate) index: usize,
    /// A call has at least as many arguments.
    pub(crate) count: usize,
    /// Which element of a list of how many, when the list is written there.
    pub(crate) element: Option<(usize, usize)>,
    /// Only in a call of something named `map`.
    pub(crate) mapped: bool,
}

impl Place {
    /// An operand, or an argument of a call that has at least `count` of them.
    pub(crate) fn argument(index: usize, count: usize) -> Self {
        Self {
            index,
            count,
            element: None,
            mapped: false,
        }
    }
}

/// The byte range of a part of the operator at `offset`, or of the call that begins there; and whether it is the element that was
/// asked for, and not the whole argument.
pub(crate) fn part(
    tree: &Ast<'_>,
    offset: u32,
    place: &Place,
) -> Option<(std::ops::Range<u32>, bool)> {
    // Explicit, so that a deep tree costs no stack.
    let mut todo = vec![tree];
    while let Some(ast) = todo.pop() {
        let found = match &ast.node {
            Node::Bin(_, at, x, y) if *at == offset => [*x, *y].get(place.index).copied(),
            Node::Not(x) | Node::Neg(x) if ast.start == offset && place.index == 0 => Some(*x),
            Node::Call([f, args @ ..])
                if ast.start == offset
                    && args.len() >= place.count
                    && (!place.mapped || is_map(f)) =>
            {
                args.get(place.index)
            }
            _ => None,
        };
        if let Some(part) = found {
            let Some((index, len)) = place.element else {
                return Some((part.start..part.end, true));
            };
            return Some(match &part.node {
                Node::List(items) if items.len() == len && index < len => {
                    (items[index].start..items[index].end, true)
                }
                _ => (part.start..part.end, false),
            });
        }
        children(ast, &mut todo);
    }
    None
}

fn is_map(f: &Ast<'_>) -> bool {
    match &f.node {
        Node::Var(name) => [&b"map"[..], b"__map"].contains(&name.bytes()),
        Node::Select(s) => matches!(s.path, [.., Attr::Name(name, ..)] if name.bytes() == b"map"),
        _ => false,
    }
}

fn children<'t, 'a>(ast: &'t Ast<'a>, to: &mut Vec<&'t Ast<'a>>) {
    match &ast.node {
        Node::Int(_) | Node::Float(_) | Node::SearchPath(_) | Node::Var(_) | Node::CurPos => {}
        Node::Str(parts) | Node::Path(parts) => {
            to.extend(parts.iter().filter_map(|part| match part {
                Part::Expr(e) => Some(e),
                Part::Text(_) => None,
            }));
        }
        Node::Lambda(param, body) => {
            if let Param::Formals { formals, .. } = param {
                to.extend(formals.iter().filter_map(|f| f.default.as_ref()));
            }
            to.push(body);
        }
        Node::Call(items) => to.extend(items.iter()),
        Node::List(items) => to.extend(items.iter()),
        Node::Select(s) => {
            to.push(&s.base);
            to.extend(names(s.path));
            to.extend(s.default.as_ref());
        }
        Node::HasAttr(h) => {
            to.push(&h.base);
            to.extend(names(h.path));
        }
        Node::Attrs(set) => attrs(set, to),
        Node::Let(set, body) => {
            attrs(set, to);
            to.push(body);
        }
        Node::If(parts) => to.extend(parts.iter()),
        Node::With(a, b) | Node::Assert(a, b) | Node::Bin(_, _, a, b) => to.extend([*a, *b]),
        Node::Not(x) | Node::Neg(x) => to.push(x),
    }
}

fn names<'t, 'a>(path: &'t [Attr<'a>]) -> impl Iterator<Item = &'t Ast<'a>> {
    path.iter().filter_map(|name| match name {
        Attr::Dynamic(e) => Some(e),
        Attr::Name(..) => None,
    })
}

fn attrs<'t, 'a>(set: &'t AttrSet<'a>, to: &mut Vec<&'t Ast<'a>>) {
    to.extend(set.attrs.iter().filter_map(|def| match &def.value {
        AttrValue::Plain(e) => Some(e),
        AttrValue::Inherit | AttrValue::From(_) => None,
    }));
    to.extend(set.dynamic.iter().flat_map(|d| [&d.name, &d.value]));
    to.extend(set.from.iter());
}
