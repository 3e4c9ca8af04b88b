//! Parsing on a second thread, ahead of the evaluator.
//!
//! Which files an evaluation will read is known when it went nearly the same way before. Their trees wait under the text that they
//! were parsed from, not under a path: the evaluator reads each file itself, as ever, and takes a tree only for the very text
//! that it has read. So what was guessed wrong costs time of the other thread, and can change no result.
//!
//! Names are interned by thread. The trees hold the symbols of the thread that parsed; lowering looks them up in [`Names`].

#![allow(
    unsafe_code,
    reason = "a tree moves between threads together with the memory that it lies in"
)]

use std::collections::hash_map::Entry;
use std::hash::Hasher;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustc_hash::{FxHashMap, FxHashSet, FxHasher};

use super::ast::Ast;
use super::{Workspace, decode, parse};
use crate::heap::Sym;
use crate::host::Dialect;

/// Bytes of text whose trees may wait.
const MAX_WAITING: usize = 8 << 20;
/// The parser counts how deep it is, and comes to the end of this stack in no build.
const STACK: usize = 512 << 20;

/// How the thread reads a file.
pub(crate) type Read = Box<dyn FnMut(&Path) -> io::Result<Vec<u8>> + Send>;

/// A text with its tree.
struct Parsed {
    text: Box<str>,
    foreign: bool,
    /// Lies in the workspace and in the text, both of which stay where they are on the heap.
    tree: Ast<'static>,
    work: Workspace,
}

// A tree is left behind, not dropped: the order in which the parts of `Parsed` are dropped does not matter.
const _: () = assert!(!std::mem::needs_drop::<Ast<'_>>());

// SAFETY: what keeps a tree from other threads are its references to the workspace's allocator. All of them are inside of this
// value, so that whoever has it has all of them.
unsafe impl Send for Parsed {}

#[derive(Default)]
struct State {
    ready: FxHashMap<u64, Parsed>,
    /// Texts that the evaluator has asked for.
    asked: FxHashSet<u64>,
    /// The text that is being parsed.
    current: Option<u64>,
    /// Bytes of the texts in `ready`.
    waiting: usize,
    /// The names of the other thread's symbols, by number.
    names: Vec<&'static [u8]>,
    /// Workspaces to use again.
    spare: Vec<Workspace>,
    stop: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        while_: impl FnMut(&mut State) -> bool,
    ) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_while(state, while_);
        waited.unwrap_or_else(PoisonError::into_inner)
    }
}

/// The symbols of this thread for those of a tree.
#[derive(Default)]
pub(crate) struct Names(Vec<Sym>);

impl Names {
    /// The symbol of this thread for one of the tree's.
    #[inline]
    pub(crate) fn get(&self, foreign: Sym) -> Sym {
        self.0[foreign.index()]
    }
}

/// The thread, seen from the evaluator.
pub(crate) struct Ahead {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    names: Names,
    used: usize,
}

impl Ahead {
    /// Starts to parse files in the given order. Nothing when there can be no thread.
    pub(crate) fn start(files: Vec<PathBuf>, dialect: Dialect, mut read: Read) -> Option<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let thread = std::thread::Builder::new()
            .name("parse".into())
            .stack_size(STACK)
            .spawn(move || {
                for file in files {
                    if let Ok(bytes) = read(&file)
                        && !one(&theirs, bytes, dialect)
                    {
                        break;
                    }
                }
            });
        Some(Self {
            shared,
            thread: Some(thread.ok()?),
            names: Names::default(),
            used: 0,
        })
    }

    /// How many trees were used.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Hands the tree of a text to `f`, if there is one or will be soon.
    pub(crate) fn with<T>(
        &mut self,
        text: &str,
        foreign: bool,
        f: impl FnOnce(&Ast<'_>, &Names) -> T,
    ) -> Option<T> {
        let key = key(text);
        let mut state = self.shared.state();
        state.asked.insert(key);
        state = self.shared.wait(state, |state| state.current == Some(key));
        let Entry::Occupied(found) = state.ready.entry(key) else {
            return None;
        };
        if &*found.get().text != text || found.get().foreign != foreign {
            return None;
        }
        let parsed = found.remove();
        state.waiting -= parsed.text.len();
        let known = self.names.0.len();
        let new = state.names[known..].to_vec();
        drop(state);
        self.shared.changed.notify_all();
        self.used += 1;
        self.names.0.extend(new.into_iter().map(Sym::new));
        let result = f(&parsed.tree, &self.names);
        let Parsed { mut work, .. } = parsed;
        work.clear();
        self.shared.state().spare.push(work);
        Some(result)
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.shared.state().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It ends after the text that it is at; a panic of it has cost nothing but its help.
            drop(thread.join());
        }
    }
}

/// Parses one text; whether to go on.
fn one(shared: &Shared, bytes: Vec<u8>, dialect: Dialect) -> bool {
    let (text, foreign) = decode(bytes.into());
    let text = text.into_boxed_str();
    let key = key(&text);
    let mut state = shared.wait(shared.state(), |state| {
        state.waiting > MAX_WAITING && !state.stop
    });
    if state.stop {
        return false;
    }
    if state.asked.contains(&key) || state.ready.contains_key(&key) {
        return true;
    }
    state.current = Some(key);
    let mut work = state.spare.pop().unwrap_or_default();
    drop(state);
    let parsed = tree(&text, foreign, dialect, &mut work);
    let mut state = shared.state();
    let known = state.names.len();
    state.names.extend(Sym::names_from(known));
    state.current = None;
    match parsed {
        Some(tree) => {
            state.waiting += text.len();
            state.ready.insert(
                key,
                Parsed {
                    text,
                    foreign,
                    tree,
                    work,
                },
            );
        }
        None => {
            work.clear();
            state.spare.push(work);
        }
    }
    drop(state);
    shared.changed.notify_all();
    true
}

/// The tree of a text that there is nothing to say about: errors and warnings are for the evaluator to find.
fn tree(text: &str, foreign: bool, dialect: Dialect, work: &mut Workspace) -> Option<Ast<'static>> {
    let warned = std::cell::Cell::new(false);
    let warn = |_: &str, _: usize| warned.set(true);
    let tree = parse(text, foreign, dialect, &warn, work).ok()?;
    // SAFETY: the tree refers to `text` and to the memory of `work`. Both go with it into `Parsed`, which neither changes nor frees
    // them before the tree was used for the last time, and which hands the tree out for a shorter life only.
    let tree = unsafe { std::mem::transmute::<Ast<'_>, Ast<'static>>(tree) };
    (!warned.get()).then_some(tree)
}

fn key(text: &str) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(text.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An `Ahead` over texts, each in a "file" named by its number.
    fn over(texts: &[&str]) -> Ahead {
        let texts: Vec<String> = texts.iter().map(|t| (*t).to_owned()).collect();
        let files = (0..texts.len()).map(|i| PathBuf::from(i.to_string()));
        let read = move |p: &Path| {
            let i: usize = p
                .to_str()
                .and_then(|t| t.parse().ok())
                .unwrap_or(usize::MAX);
            let text = texts.get(i).ok_or(io::ErrorKind::NotFound)?;
            Ok(text.clone().into_bytes())
        };
        Ahead::start(files.collect(), Dialect::default(), Box::new(read)).unwrap()
    }

    fn until_done(ahead: &mut Ahead) {
        ahead.thread.take().unwrap().join().unwrap();
    }

    #[test]
    fn a_tree_is_found_by_its_text_once_and_its_names_are_ours() {
        // Ours have other numbers than theirs.
        let _ = (Sym::new(b"zz"), Sym::new(b"yy"), Sym::new(b"xx"));
        let mut ahead = over(&["xx", "yy", "yy # other"]);
        until_done(&mut ahead);
        for (text, name) in [("yy # other", "yy"), ("xx", "xx")] {
            let found = ahead.with(text, false, |tree, names| match &tree.node {
                super::super::ast::Node::Var(s) => names.get(*s),
                other => panic!("{other:?}"),
            });
            assert_eq!(found, Some(Sym::new(name.as_bytes())));
        }
        assert!(ahead.with("xx", false, |_, _| ()).is_none());
        assert!(ahead.with("yy", true, |_, _| ()).is_none());
        assert!(ahead.with("zz", false, |_, _| ()).is_none());
    }

    #[test]
    fn what_is_wrong_is_left_to_the_evaluator() {
        let mut ahead = over(&["{ a = ", "1"]);
        until_done(&mut ahead);
        assert!(ahead.with("{ a = ", false, |_, _| ()).is_none());
        assert!(ahead.with("1", false, |_, _| ()).is_some());
    }

    #[test]
    fn the_deepest_text_fits_the_stack() {
        let text = format!("{}1{}", "(".repeat(9_990), ")".repeat(9_990));
        let list = format!("{}1{}", "[".repeat(9_990), "]".repeat(9_990));
        let mut ahead = over(&[&text, &list]);
        until_done(&mut ahead);
        assert!(ahead.with(&text, false, |_, _| ()).is_some());
        assert!(ahead.with(&list, false, |_, _| ()).is_some());
    }

    #[test]
    fn it_waits_when_nobody_takes_and_ends_when_nobody_will() {
        let big: Vec<String> = (0..8)
            .map(|i| format!("{i} + \"{}\"", "x".repeat(MAX_WAITING / 2)))
            .collect();
        let texts: Vec<&str> = big.iter().map(String::as_str).collect();
        let mut ahead = over(&texts);
        for text in &texts {
            // Either in time or not; the thread must not stand still for good.
            let _ = ahead.with(text, false, |_, _| ());
        }
        drop(over(&texts));
    }
}
