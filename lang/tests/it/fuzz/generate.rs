//! Writes random expressions that mean something: mostly of the right type, all names bound, loops short.

use crate::random::Random;

/// The type of an expression, as far as it is planned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Int,
    Bool,
    Str,
    List,
    Set,
    Fun,
}

use Type::{Bool, Fun, Int, List, Set, Str};

const TYPES: [Type; 6] = [Int, Bool, Str, List, Set, Fun];

/// Names that sets have.
const NAMES: [&str; 5] = ["a", "b", "c", "\"d e\"", "x'"];

/// Writes one expression.
pub(super) struct Generator<'a> {
    r: &'a mut Random,
    /// Chance, in percent, that a place gets something of another type.
    chaos: usize,
    /// What names mean here; each name is given once.
    scope: Vec<(String, Type)>,
    fresh: usize,
    /// What may still be written.
    budget: usize,
}

impl<'a> Generator<'a> {
    pub(super) fn new(r: &'a mut Random, chaos: usize) -> Self {
        let budget = 10 + r.below(120);
        Self {
            r,
            chaos,
            scope: Vec::new(),
            fresh: 0,
            budget,
        }
    }

    /// An expression of any type but a function.
    pub(super) fn expression(&mut self) -> String {
        let of = TYPES[self.r.below(5)];
        self.of(of)
    }

    fn of(&mut self, wanted: Type) -> String {
        if self.budget == 0 {
            return self.leaf(wanted);
        }
        self.budget -= 1;
        let wanted = if self.r.chance(self.chaos) {
            TYPES[self.r.below(TYPES.len())]
        } else {
            wanted
        };
        match self.r.below(14) {
            0 => self.leaf(wanted),
            1 => format!(
                "(if {} then {} else {})",
                self.of(Bool),
                self.of(wanted),
                self.of(wanted)
            ),
            2 => self.bound(wanted),
            3 => {
                let name = self.name();
                let of = TYPES[self.r.below(5)];
                let argument = self.of(of);
                self.scope.push((name.clone(), of));
                let body = self.of(wanted);
                self.scope.pop();
                format!("(({name}: {body}) {argument})")
            }
            4 => format!("(with {}; {})", self.of(Set), self.of(wanted)),
            5 => format!("(assert {}; {})", self.truth(), self.of(wanted)),
            6 => self.called(wanted),
            7 => format!(
                "({{ v = {}; w = {}; }}.v)",
                self.of(wanted),
                self.expression()
            ),
            8 => format!("({}.nothing or {})", self.of(Set), self.of(wanted)),
            9 => format!("(builtins.seq {} {})", self.expression(), self.of(wanted)),
            _ => self.operation(wanted),
        }
    }

    fn truth(&mut self) -> String {
        format!("({} || true)", self.of(Bool))
    }

    fn name(&mut self) -> String {
        self.fresh += 1;
        format!("n{}", self.fresh)
    }

    fn bound(&mut self, wanted: Type) -> String {
        let mark = self.scope.len();
        let mut bindings = String::new();
        for _ in 0..1 + self.r.below(3) {
            let of = TYPES[self.r.below(TYPES.len())];
            let value = self.of(of);
            let name = self.name();
            bindings.push_str(&format!("{name} = {value}; "));
            self.scope.push((name, of));
        }
        let body = self.of(wanted);
        let inherited = self.scope.last().map(|(name, _)| name.clone());
        self.scope.truncate(mark);
        match inherited.filter(|_| self.r.chance(20)) {
            Some(name) => {
                format!("(let {bindings} in (rec {{ inherit {name}; value = {body}; }}).value)")
            }
            None if self.r.chance(30) => format!("(rec {{ {bindings} value = {body}; }}).value"),
            None => format!("(let {bindings} in {body})"),
        }
    }

    fn called(&mut self, wanted: Type) -> String {
        let (name, body) = (self.name(), wanted);
        self.scope.push((name.clone(), Int));
        let body = self.of(body);
        self.scope.pop();
        match self.r.below(4) {
            0 => format!(
                "(({{ {name} ? {}, ... }}: {body}) {})",
                self.of(Int),
                self.of(Set)
            ),
            1 => format!(
                "(({{ {name}, other ? {name} }}@all: {body}) {{ {name} = {}; }})",
                self.of(Int)
            ),
            2 => format!("({{ __functor = self: {name}: {body}; }} {})", self.of(Int)),
            _ => format!(
                "(builtins.foldl' (acc: {name}: {body}) {} [ 1 2 ])",
                self.of(wanted)
            ),
        }
    }

    fn leaf(&mut self, wanted: Type) -> String {
        let known: Vec<&String> = self
            .scope
            .iter()
            .filter(|(_, of)| *of == wanted)
            .map(|(name, _)| name)
            .collect();
        if !known.is_empty() && self.r.chance(60) {
            return known[self.r.below(known.len())].clone();
        }
        match wanted {
            Int => self
                .r
                .pick(&["0", "1", "2", "3", "7", "(-1)", "100", "1048576"])
                .to_owned(),
            Bool => self.r.pick(&["true", "false"]).to_owned(),
            Str => self
                .r
                .pick(&[
                    "\"\"",
                    "\"a\"",
                    "\"b.c\"",
                    "\"1.2.3\"",
                    "''\n  two\n    lines\n''",
                    "\"ä\\n\\\"$\"",
                    "''it''$is ''' ''",
                    "\"/x\"",
                    "\"A-b_c9\"",
                ])
                .to_owned(),
            List => self.r.pick(&["[ ]", "[ 1 2 3 ]", "[ 3 1 2 1 ]"]).to_owned(),
            Set => self
                .r
                .pick(&["{ }", "{ a = 1; b = 2; }", "{ c = { a = 3; }; a = \"s\"; }"])
                .to_owned(),
            Fun => self
                .r
                .pick(&[
                    "(z: z)",
                    "(z: 1)",
                    "(y: z: z)",
                    "toString",
                    "builtins.typeOf",
                ])
                .to_owned(),
        }
    }

    fn operation(&mut self, wanted: Type) -> String {
        match wanted {
            Int => self.int(),
            Bool => self.bool(),
            Str => self.str(),
            List => self.list(),
            Set => self.set(),
            Fun => {
                let name = self.name();
                self.scope.push((name.clone(), Int));
                let of = TYPES[self.r.below(5)];
                let body = self.of(of);
                self.scope.pop();
                format!("({name}: {body})")
            }
        }
    }

    fn int(&mut self) -> String {
        match self.r.below(9) {
            0 => format!("({} + {})", self.of(Int), self.of(Int)),
            1 => format!("({} - {})", self.of(Int), self.of(Int)),
            2 => format!("(builtins.bitXor {} {})", self.of(Int), self.of(Int)),
            3 => format!("(builtins.stringLength {})", self.of(Str)),
            4 => format!("(builtins.length {})", self.of(List)),
            5 => format!(
                "(builtins.compareVersions {} {})",
                self.of(Str),
                self.of(Str)
            ),
            6 => format!("({} / 3)", self.of(Int)),
            7 => format!("(builtins.bitAnd {} {})", self.of(Int), self.of(Int)),
            _ => format!("(builtins.length (builtins.attrNames {}))", self.of(Set)),
        }
    }

    fn bool(&mut self) -> String {
        let of = TYPES[self.r.below(5)];
        match self.r.below(9) {
            0 => format!("({} == {})", self.of(of), self.of(of)),
            1 => format!("({} < {})", self.of(Int), self.of(Int)),
            2 => format!("({} >= {})", self.of(Str), self.of(Str)),
            3 => format!("(!{})", self.of(Bool)),
            4 => format!("({} -> {})", self.of(Bool), self.of(Bool)),
            5 => format!("({} && {})", self.of(Bool), self.of(Bool)),
            6 => format!("({} ? {})", self.of(Set), self.r.pick(&NAMES)),
            7 => format!("(builtins.elem {} {})", self.of(Int), self.of(List)),
            _ => format!("(builtins.tryEval {}).success", self.of(of)),
        }
    }

    fn str(&mut self) -> String {
        match self.r.below(12) {
            0 => format!("({} + {})", self.of(Str), self.of(Str)),
            1 => format!("\"x${{{}}}y\"", self.of(Str)),
            2 => format!("(toString {})", self.of(Int)),
            3 => format!(
                "(builtins.substring {} {} {})",
                self.r.below(4),
                self.r.below(5),
                self.of(Str)
            ),
            4 => format!(
                "(builtins.concatStringsSep {} (map toString {}))",
                self.of(Str),
                self.of(List)
            ),
            // What replaces is constant: newer versions look at it only when it is used.
            5 => format!(
                "(builtins.replaceStrings [ \"a\" \"\" ] [ \"bb\" \"-\" ] {})",
                self.of(Str)
            ),
            6 => format!("(builtins.toJSON {})", self.of(List)),
            7 => format!("(builtins.typeOf {})", self.expression()),
            8 => format!("(builtins.hashString \"sha256\" {})", self.of(Str)),
            9 => format!(
                "''\n  {}${{{}}}\n    b''",
                self.r.pick(&["a", " ", "''\\n", "''${"]),
                self.of(Str)
            ),
            10 => format!(
                "(builtins.head (builtins.attrNames ({} // {{ a = 1; }})))",
                self.of(Set)
            ),
            _ => format!(
                "(builtins.head (builtins.splitVersion ({} + \"v\")))",
                self.of(Str)
            ),
        }
    }

    fn list(&mut self) -> String {
        match self.r.below(12) {
            0 => format!("({} ++ {})", self.of(List), self.of(List)),
            1 => format!("[ {} {} ]", self.of(Int), self.of(Int)),
            2 => {
                let name = self.name();
                self.scope.push((name.clone(), Int));
                let body = self.of(Int);
                self.scope.pop();
                format!("(map ({name}: {body}) {})", self.of(List))
            }
            3 => format!(
                "(builtins.genList ({}) {})",
                self.fun_of_int(),
                self.r.below(6)
            ),
            4 => format!(
                "(builtins.filter (q: q > {}) {})",
                self.of(Int),
                self.of(List)
            ),
            5 => format!("(builtins.sort builtins.lessThan {})", self.of(List)),
            6 => format!("(builtins.concatMap (q: [ q q ]) {})", self.of(List)),
            7 => format!("(builtins.tail ([ 0 ] ++ {}))", self.of(List)),
            8 => format!(
                "(map builtins.stringLength (builtins.filter builtins.isString (builtins.split \"[ab]\" {})))",
                self.of(Str)
            ),
            9 => format!("(builtins.partition (q: q < 2) {}).right", self.of(List)),
            10 => format!("(builtins.fromJSON (builtins.toJSON {}))", self.of(List)),
            _ => format!(
                "(map (q: q.key) (builtins.genericClosure {{ startSet = [ {{ key = 0; }} ]; operator = q: if q.key < {} then [ {{ key = q.key + 1; }} ] else [ ]; }}))",
                self.r.below(6)
            ),
        }
    }

    fn fun_of_int(&mut self) -> String {
        let name = self.name();
        self.scope.push((name.clone(), Int));
        let body = self.of(Int);
        self.scope.pop();
        format!("{name}: {body}")
    }

    fn set(&mut self) -> String {
        match self.r.below(11) {
            0 => format!("({} // {})", self.of(Set), self.of(Set)),
            1 => {
                let of = TYPES[self.r.below(5)];
                format!("{{ {} = {}; }}", self.r.pick(&NAMES), self.of(of))
            }
            2 => format!(
                "(builtins.mapAttrs (k: v: {}) {})",
                self.of(Int),
                self.of(Set)
            ),
            3 => format!("(removeAttrs {} [ \"a\" {} ])", self.of(Set), self.of(Str)),
            4 => format!(
                "(builtins.listToAttrs (map (q: {{ name = toString q; value = {}; }}) {}))",
                self.of(Int),
                self.of(List)
            ),
            5 => format!(
                "(builtins.intersectAttrs {} {})",
                self.of(Set),
                self.of(Set)
            ),
            6 => format!(
                "{{ ${{{}}} = {}; b.c = {}; }}",
                self.of(Str),
                self.of(Int),
                self.of(Int)
            ),
            7 => format!("(builtins.groupBy toString {})", self.of(List)),
            8 => format!(
                "(builtins.zipAttrsWith (k: builtins.length) [ {} {} ])",
                self.of(Set),
                self.of(Set)
            ),
            9 => format!("(builtins.parseDrvName {})", self.of(Str)),
            _ => format!("(builtins.functionArgs ({{ a, b ? {} }}: a))", self.of(Int)),
        }
    }
}
