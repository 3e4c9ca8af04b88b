//! `//`: the union of two sets, with the shape of the result remembered per pair of shapes.

use std::cell::RefCell;
use std::rc::Rc;

use rustc_hash::FxHashMap;

use crate::heap::{Attrs, Shape, Sym};
use crate::ir::Pos;

/// Where each value of the result comes from: index in the left or, with this bit, in the right set.
const RIGHT: u32 = 1 << 31;

struct Plan {
    shape: &'static Shape,
    from: Box<[u32]>,
}

/// The addresses of two shapes.
type Shapes = (usize, usize);

/// Remembered results.
#[derive(Default)]
pub(crate) struct Cache {
    plans: RefCell<FxHashMap<Shapes, Option<Rc<Plan>>>>,
}

impl Cache {
    /// The attributes of both; those of `b` win.
    pub(crate) fn update(&self, a: Attrs, b: Attrs) -> Attrs {
        if a.len() == 0 {
            return b;
        }
        if b.len() == 0 {
            return a;
        }
        let key = (
            std::ptr::from_ref(a.shape()) as usize,
            std::ptr::from_ref(b.shape()) as usize,
        );
        let known = self.plans.borrow().get(&key).cloned();
        match known {
            Some(Some(plan)) => apply(&plan, a, b),
            // The second time the same two shapes meet it pays to remember.
            Some(None) => {
                let plan = Rc::new(plan(a.shape(), b.shape()));
                self.plans.borrow_mut().insert(key, Some(plan.clone()));
                apply(&plan, a, b)
            }
            None => {
                self.plans.borrow_mut().insert(key, None);
                apply(&plan(a.shape(), b.shape()), a, b)
            }
        }
    }
}

fn apply(p: &Plan, a: Attrs, b: Attrs) -> Attrs {
    let (x, y) = (a.values(), b.values());
    let r = Attrs::build(p.shape, |i| {
        let f = p.from[i];
        Ok::<_, std::convert::Infallible>(if f & RIGHT == 0 {
            x[f as usize]
        } else {
            y[(f & !RIGHT) as usize]
        })
    });
    match r {
        Ok(r) => r,
    }
}

fn plan(a: &'static Shape, b: &'static Shape) -> Plan {
    let n = a.len() + b.len();
    let mut syms: Vec<Sym> = Vec::with_capacity(n);
    let mut from: Vec<u32> = Vec::with_capacity(n);
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < b.len() {
        let (x, y) = (a.syms[i], b.syms[j]);
        if x < y {
            syms.push(x);
            from.push(i as u32);
            i += 1;
        } else {
            if x == y {
                i += 1;
            }
            syms.push(y);
            from.push(j as u32 | RIGHT);
            j += 1;
        }
    }
    syms.extend_from_slice(&a.syms[i..]);
    from.extend(i as u32..a.len() as u32);
    syms.extend_from_slice(&b.syms[j..]);
    from.extend((j as u32..b.len() as u32).map(|j| j | RIGHT));
    let pos: Vec<Pos> = if a.pos.is_empty() && b.pos.is_empty() {
        Vec::new()
    } else {
        from.iter()
            .map(|&f| {
                if f & RIGHT == 0 {
                    a.pos_at(f as usize)
                } else {
                    b.pos_at((f & !RIGHT) as usize)
                }
            })
            .collect()
    };
    let shape = if syms.len() == a.len() && *syms == *a.syms && *pos == *a.pos {
        a
    } else if syms.len() == b.len() && *syms == *b.syms && *pos == *b.pos {
        b
    } else if pos.is_empty() {
        Shape::of(&syms)
    } else {
        Shape::new(syms.into(), pos.into())
    };
    Plan {
        shape,
        from: from.into(),
    }
}
