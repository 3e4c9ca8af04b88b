//! Matching, on the automata of regex-automata.

use std::cell::RefCell;

use regex_automata::dfa::onepass;
use regex_automata::hybrid;
use regex_automata::nfa::thompson::{self, NFA, pikevm};
use regex_automata::util::primitives::NonMaxUsize;
use regex_automata::{Anchored, Input, MatchKind};
use regex_syntax::hir::{Capture, Class, ClassBytes, ClassBytesRange, Hir, Look, Repetition};

use super::parse::{self, Node};

/// Where a group matched.
pub(crate) type Span = Option<(usize, usize)>;

/// A compiled pattern.
pub(crate) struct Regex {
    groups: usize,
    captures: Captures,
    finder: Finder,
}

/// Finds the groups of a text that ends where the match ends.
enum Captures {
    /// One pass over the text, for patterns where each step is clear.
    OnePass(Box<onepass::DFA>, RefCell<onepass::Cache>),
    /// Any pattern, in time proportional to text and pattern.
    Pike(Box<pikevm::PikeVM>, RefCell<pikevm::Cache>),
}

/// Finds where matches are.
enum Finder {
    /// The pattern is one set of bytes.
    Byte(Box<[bool; 256]>),
    /// First the leftmost start, then the longest end.
    Dfa(Box<Dfas>),
}

/// Automata that are built as they run.
struct Dfas {
    first: hybrid::regex::Regex,
    longest: hybrid::dfa::DFA,
    caches: RefCell<(hybrid::regex::Cache, hybrid::dfa::Cache)>,
}

/// Limit of what is built from one pattern.
const MAX_SIZE: usize = 16 << 20;

/// Repetitions inside repetitions whose body is copied: each makes the pattern three times as large.
const MAX_COPIED: u32 = 4;

/// The pattern for the automata; `copied` counts the repetitions around it that were copied.
fn hir(n: &Node, copied: u32) -> Hir {
    match n {
        Node::Empty => Hir::empty(),
        Node::Set(set) => {
            let bytes = (0..=255u8)
                .filter(|b| set[*b as usize])
                .map(|b| ClassBytesRange::new(b, b));
            Hir::class(Class::Bytes(ClassBytes::new(bytes)))
        }
        Node::Start => Hir::look(Look::Start),
        Node::End => Hir::look(Look::End),
        Node::Group(i, x) => Hir::capture(Capture {
            index: *i,
            name: None,
            sub: Box::new(hir(x, copied)),
        }),
        Node::Concat(v) => Hir::concat(v.iter().map(|x| hir(x, copied)).collect()),
        Node::Alternate(v) => Hir::alternation(v.iter().map(|x| hir(x, copied)).collect()),
        Node::Repeat {
            node,
            min: min @ (0 | 1),
            max: None,
        } if copied < MAX_COPIED && node.has_group() && node.can_be_empty() => {
            // The library goes through the loop once more at the end when that can match nothing, and the groups in it are
            // then empty. An automaton is in each state once at each place, so that it takes copies of the body to do the
            // same: after one copy there is always another that was not entered at this place.
            let x = hir(node, copied + 1);
            let pairs = repeat(Hir::concat(vec![x.clone(), x.clone()]), 0, None);
            let last = repeat(x.clone(), 0, Some(1));
            if *min == 0 {
                Hir::concat(vec![pairs, last])
            } else {
                Hir::concat(vec![x, pairs, last])
            }
        }
        Node::Repeat { node, min, max } => repeat(hir(node, copied), *min, *max),
    }
}

fn repeat(sub: Hir, min: u32, max: Option<u32>) -> Hir {
    Hir::repetition(Repetition {
        min,
        max,
        greedy: true,
        sub: Box::new(sub),
    })
}

fn too_complex<E>(_: E) -> String {
    "the expression is too complex".to_owned()
}

fn compile(h: &Hir, config: thompson::Config) -> Result<NFA, String> {
    let config = config.utf8(false).nfa_size_limit(Some(MAX_SIZE));
    thompson::Compiler::new()
        .configure(config)
        .build_from_hir(h)
        .map_err(too_complex)
}

impl Regex {
    /// Compiles a pattern.
    pub(crate) fn new(pattern: &[u8]) -> Result<Regex, String> {
        let p = parse::parse(pattern)?;
        let body = hir(&p.node, 0);
        // Group 0 is the whole: numbers in the pattern begin at 1.
        let whole = Hir::capture(Capture {
            index: 0,
            name: None,
            sub: Box::new(body.clone()),
        });
        let to_end = compile(
            &Hir::concat(vec![whole, Hir::look(Look::End)]),
            thompson::Config::new(),
        )?;
        Ok(Regex {
            groups: p.groups as usize,
            captures: Self::captures(to_end)?,
            finder: Self::finder(&p.node, &body)?,
        })
    }

    fn captures(nfa: NFA) -> Result<Captures, String> {
        let config = onepass::Config::new()
            .match_kind(MatchKind::LeftmostFirst)
            .size_limit(Some(1 << 20));
        if let Ok(d) = onepass::Builder::new()
            .configure(config)
            .build_from_nfa(nfa.clone())
        {
            let cache = RefCell::new(d.create_cache());
            return Ok(Captures::OnePass(Box::new(d), cache));
        }
        let vm = pikevm::Builder::new()
            .build_from_nfa(nfa)
            .map_err(too_complex)?;
        let cache = RefCell::new(vm.create_cache());
        Ok(Captures::Pike(Box::new(vm), cache))
    }

    fn finder(node: &Node, body: &Hir) -> Result<Finder, String> {
        let single = match node {
            Node::Concat(v) => match v.as_slice() {
                [Node::Set(s)] => Some(s),
                _ => None,
            },
            _ => None,
        };
        if let Some(set) = single {
            return Ok(Finder::Byte(set.clone()));
        }
        let none = thompson::Config::new().which_captures(thompson::WhichCaptures::None);
        let forward = compile(body, none.clone())?;
        let backward = compile(body, none.reverse(true))?;
        let config = hybrid::dfa::Config::new().skip_cache_capacity_check(true);
        let build = |nfa: NFA, kind| {
            hybrid::dfa::Builder::new()
                .configure(config.clone().match_kind(kind))
                .build_from_nfa(nfa)
                .map_err(too_complex)
        };
        let first = hybrid::regex::Builder::new().build_from_dfas(
            build(forward.clone(), MatchKind::LeftmostFirst)?,
            build(backward, MatchKind::All)?,
        );
        let longest = build(forward, MatchKind::All)?;
        let caches = RefCell::new((first.create_cache(), longest.create_cache()));
        Ok(Finder::Dfa(Box::new(Dfas {
            first,
            longest,
            caches,
        })))
    }

    /// Number of groups.
    pub(crate) fn groups(&self) -> usize {
        self.groups
    }

    /// Groups of the match that spans `text` from `start` to its end.
    fn groups_on(&self, text: &[u8], start: usize) -> Option<Vec<Span>> {
        let input = Input::new(text).range(start..).anchored(Anchored::Yes);
        let mut slots: Vec<Option<NonMaxUsize>> = vec![None; (self.groups + 1) * 2];
        match &self.captures {
            Captures::OnePass(d, c) => d
                .try_search_slots(&mut c.borrow_mut(), &input, &mut slots)
                .ok()??,
            Captures::Pike(vm, c) => vm.search_slots(&mut c.borrow_mut(), &input, &mut slots)?,
        };
        let spans = slots.chunks(2).skip(1).map(|s| match s {
            [Some(a), Some(b)] => Some((a.get(), b.get())),
            _ => None,
        });
        Some(spans.collect())
    }

    /// The groups when the whole text matches.
    pub(crate) fn full_match(&self, text: &[u8]) -> Option<Vec<Span>> {
        self.groups_on(text, 0)
    }

    /// The next match at or after `from`: its span and groups.
    pub(crate) fn find(&self, text: &[u8], from: usize) -> Option<((usize, usize), Vec<Span>)> {
        let (start, end) = match &self.finder {
            Finder::Byte(set) => {
                let at = from + text[from..].iter().position(|b| set[*b as usize])?;
                return Some(((at, at + 1), Vec::new()));
            }
            Finder::Dfa(d) => {
                let Dfas {
                    first,
                    longest,
                    caches,
                } = &**d;
                let mut caches = caches.borrow_mut();
                let (first_cache, longest_cache) = &mut *caches;
                let m = first
                    .try_search(first_cache, &Input::new(text).range(from..))
                    .ok()??;
                let input = Input::new(text).range(m.start()..).anchored(Anchored::Yes);
                let end = longest.try_search_fwd(longest_cache, &input).ok()??;
                (m.start(), end.offset())
            }
        };
        if self.groups == 0 {
            return Some(((start, end), Vec::new()));
        }
        let groups = self
            .groups_on(&text[..end], start)
            .unwrap_or_else(|| vec![None; self.groups]);
        Some(((start, end), groups))
    }
}
