//! Finds a part of an expression again, for a message about it: code that runs knows only where the whole begins.

use super::ast::{Ast, Attr, AttrSet, AttrValue, Node, Param, Part};

/// The byte range of operand `index` of the operator at `offset`, or of an argument of the call that begins there and has at least
/// `count` of them.
pub(crate) fn operand(
    tree: &Ast<'_>,
    offset: u32,
    index: usize,
    count: usize,
) -> Option<std::ops::Range<u32>> {
    // Explicit, so that a deep tree costs no stack.
    let mut todo = vec![tree];
    while let Some(ast) = todo.pop() {
        let found = match &ast.node {
            Node::Bin(_, at, x, y) if *at == offset => [*x, *y].get(index).copied(),
            Node::Not(x) | Node::Neg(x) if ast.start == offset && index == 0 => Some(*x),
            Node::Call([_, args @ ..]) if ast.start == offset && args.len() >= count => {
                args.get(index)
            }
            _ => None,
        };
        if let Some(part) = found {
            return Some(part.start..part.end);
        }
        children(ast, &mut todo);
    }
    None
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
