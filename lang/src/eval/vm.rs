//! The state of an evaluation.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustc_hash::FxHashMap;
use sos_formats::derivation::Method;
use sos_formats::store_path::StorePath;

use super::context::Contexts;
use super::sources::Sources;
use super::stack;
use crate::error::{Error, Kind, R};
use crate::heap::{Sym, Value};
use crate::host::{Host, HostError, Options};
use crate::ir::Pos;

macro_rules! syms {
    ($($field:ident = $text:literal),* $(,)?) => {
        /// Names that the evaluator itself uses.
        #[derive(Clone, Copy)]
        pub(crate) struct Syms { $(pub(crate) $field: Sym,)* }
        impl Syms {
            fn new() -> Self { Syms { $($field: Sym::new($text.as_bytes()),)* } }
        }
    };
}

syms! {
    functor = "__functor", to_string = "__toString", out_path = "outPath", drv_path = "drvPath", typ = "type", name = "name",
    value = "value", file = "file", line = "line", column = "column", key = "key", operator = "operator", start_set = "startSet",
    success = "success", right = "right", wrong = "wrong", path = "path", prefix = "prefix", outputs = "outputs",
    all_outputs = "allOutputs", overrides = "__overrides", output_name = "outputName",
    recurse = "recurseForDerivations", all = "all", drv_attrs = "drvAttrs", version = "version", url = "url",
    sha256 = "sha256", filter = "filter", recursive = "recursive", hash = "hash", hash_algo = "hashAlgo",
    to_hash_format = "toHashFormat", ignore_nulls = "__ignoreNulls", structured_attrs = "__structuredAttrs",
}

/// The state of an evaluation.
pub(crate) struct Vm {
    pub(crate) host: Rc<dyn Host>,
    pub(crate) options: Options,
    pub(crate) s: Syms,
    depth: Cell<u32>,
    /// How deep calls may nest; nothing more is called once it is zero.
    pub(crate) call_limit: Arc<AtomicU32>,
    /// How many more calls are counted before one finds that it was asked to stop.
    #[cfg(test)]
    pub(crate) calls_left: Cell<Option<u64>>,
    /// The outermost call of a named function in what is being evaluated, which somebody wrote as one expression.
    pub(crate) site: Cell<Pos>,
    stack_limit: usize,
    pub(crate) sources: RefCell<Sources>,
    pub(crate) contexts: RefCell<Contexts>,
    globals: OnceCell<FxHashMap<Sym, Value>>,
    /// Values of imported files by resolved path, and by the paths that led there.
    pub(crate) imports: RefCell<FxHashMap<Vec<u8>, Value>>,
    /// Files whose values are being computed, outermost first.
    pub(crate) loading: RefCell<Vec<Vec<u8>>>,
    /// What `readDir` found, by path as it was given.
    pub(crate) dirs: RefCell<FxHashMap<Vec<u8>, Value>>,
    /// Store paths of copied sources.
    pub(crate) copied: RefCell<FxHashMap<Vec<u8>, StorePath>>,
    /// What texts that were added to the store refer to, for those that refer to something.
    pub(crate) text_refs: RefCell<FxHashMap<StorePath, BTreeSet<StorePath>>>,
    pub(crate) regexes: RefCell<crate::regex::Cache>,
    /// What parsing works with, while no text is being parsed.
    pub(crate) workspace: Cell<Option<crate::parse::Workspace>>,
    /// The same for lowering.
    pub(crate) scopes: Cell<Option<crate::ir::Scopes>>,
    /// What is parsed on another thread, if anything.
    pub(crate) ahead: RefCell<Option<crate::parse::Ahead>>,
    pub(crate) drv_hashes: RefCell<sos_formats::derivation::DrvHashes>,
    /// Derivations that were read back, by path.
    pub(crate) drvs: RefCell<FxHashMap<StorePath, Rc<sos_formats::derivation::Derivation>>>,
    /// Where the derivations of this evaluation were written.
    pub(crate) drv_places: RefCell<FxHashMap<StorePath, Pos>>,
    /// What a library says of the places of its derivations.
    pub(crate) drv_given: RefCell<FxHashMap<StorePath, crate::heap::Attrs>>,
    pub(crate) files_read: RefCell<BTreeSet<PathBuf>>,
    /// Environment variables that were asked for and are not there, or not shown, and where that was first.
    pub(crate) no_env: RefCell<Vec<(String, Pos)>>,
    pub(crate) updates: super::update::Cache,
    pub(crate) access: super::access::Access,
    pub(crate) trees: crate::flake::Trees,
}

impl Vm {
    pub(crate) fn new(host: Rc<dyn Host>, options: Options) -> Rc<Vm> {
        let hashes = sos_formats::derivation::DrvHashes::new(host.store_dir().clone());
        let access = super::access::Access::new(&options);
        let max_call_depth = options.max_call_depth;
        let vm = Rc::new(Vm {
            host,
            options,
            s: Syms::new(),
            depth: Cell::new(0),
            call_limit: Arc::new(AtomicU32::new(max_call_depth)),
            #[cfg(test)]
            calls_left: Cell::new(None),
            site: Cell::new(Pos::NONE),
            stack_limit: stack::limit(),
            sources: RefCell::default(),
            contexts: RefCell::default(),
            globals: OnceCell::new(),
            imports: RefCell::default(),
            loading: RefCell::default(),
            dirs: RefCell::default(),
            copied: RefCell::default(),
            text_refs: RefCell::default(),
            regexes: RefCell::default(),
            workspace: Cell::default(),
            ahead: RefCell::default(),
            scopes: Cell::default(),
            drv_hashes: RefCell::new(hashes),
            drvs: RefCell::default(),
            drv_places: RefCell::default(),
            drv_given: RefCell::default(),
            files_read: RefCell::default(),
            no_env: RefCell::default(),
            updates: super::update::Cache::default(),
            access,
            trees: crate::flake::Trees::default(),
        });
        if vm.options.restricted && !vm.options.pure {
            for (_, path) in &vm.options.nix_path {
                vm.allow(path.as_os_str().as_bytes());
            }
        }
        for root in &vm.options.roots {
            vm.allow(root.as_os_str().as_bytes());
        }
        vm
    }

    /// The global names.
    pub(crate) fn globals(&self) -> &FxHashMap<Sym, Value> {
        self.globals.get_or_init(|| crate::builtins::globals(self))
    }

    /// How deep calls are nested.
    #[inline(always)]
    pub(crate) fn depth(&self) -> u32 {
        self.depth.get()
    }

    #[inline(always)]
    pub(crate) fn set_depth(&self, d: u32) {
        self.depth.set(d);
    }

    /// Counts a call.
    #[inline(always)]
    pub(crate) fn enter(&self, pos: Pos) -> R<()> {
        #[cfg(test)]
        self.count_down();
        let d = self.depth.get() + 1;
        self.depth.set(d);
        if d > self.call_limit.load(Ordering::Relaxed) {
            Err(self.too_deep(pos))
        } else {
            Ok(())
        }
    }

    #[cfg(test)]
    fn count_down(&self) {
        match self.calls_left.get() {
            None => {}
            Some(0) => self.call_limit.store(0, Ordering::Relaxed),
            Some(n) => self.calls_left.set(Some(n - 1)),
        }
    }

    /// For long work that calls nothing: fails when somebody asked to stop.
    #[inline]
    pub(crate) fn go_on(&self, pos: Pos) -> R<()> {
        if self.call_limit.load(Ordering::Relaxed) == 0 {
            return Err(self.too_deep(pos));
        }
        Ok(())
    }

    /// The error of what nests too deep, or would without end.
    #[cold]
    pub(crate) fn too_deep(&self, pos: Pos) -> Box<Error> {
        if self.call_limit.load(Ordering::Relaxed) == 0 && self.options.max_call_depth > 0 {
            return Error::new(Kind::Interrupted, pos, "interrupted");
        }
        Error::new(Kind::Depth, pos, "stack overflow; max-call-depth exceeded").help(format!(
            "calls may nest {} deep; a function that calls itself without end is the usual cause",
            self.options.max_call_depth
        ))
    }

    /// Counts a step down into a value as a call: values may be as deep as calls, and one without end must fail soon.
    #[inline]
    pub(crate) fn deeper<T>(&self, pos: Pos, f: impl FnOnce() -> R<T>) -> R<T> {
        self.check_stack()?;
        let depth = self.depth();
        let r = self.enter(pos).and_then(|()| f());
        self.set_depth(depth);
        r
    }

    /// Fails when the native stack is nearly used up.
    #[inline(always)]
    pub(crate) fn check_stack(&self) -> R<()> {
        if stack::exhausted(self.stack_limit) {
            Err(out_of_stack())
        } else {
            Ok(())
        }
    }

    /// A problem the host reported.
    pub(crate) fn host_error(&self, e: HostError, pos: Pos, doing: &str) -> Box<Error> {
        match e {
            HostError::Io(e) => Error::new(
                Kind::Io,
                pos,
                format!("{doing}: {}", crate::builtins::io_text(&e)),
            ),
            HostError::Message(m) => Error::new(Kind::Host, pos, m),
            HostError::Diagnostic(d) => {
                let mut e = Error::new(Kind::Host, pos, d.message.clone());
                e.ready = Some(d);
                e
            }
        }
    }

    /// The absolute text of a store path.
    pub(crate) fn absolute(&self, p: &StorePath) -> String {
        p.absolute(self.host.store_dir())
    }

    /// Whether a path is a store object, and not below one.
    pub(crate) fn is_store_object(&self, path: &[u8]) -> bool {
        let dir = self.host.store_dir().as_str().as_bytes();
        path.strip_prefix(dir)
            .is_some_and(|rest| memchr::memrchr(b'/', rest).is_none_or(|at| at == 0))
    }

    /// Tells the host that the program has seen the name of the object that a path is in, if it is in one.
    pub(crate) fn path_named(&self, path: &[u8]) {
        if path.starts_with(self.host.store_dir().as_str().as_bytes()) {
            self.host.object_named(&super::files::os_path(path));
        }
    }

    /// The same for a comparison: two paths in one object are told apart without its name.
    pub(crate) fn paths_compared(&self, a: &[u8], b: &[u8]) {
        let dir = self.host.store_dir().as_str().len() + 1;
        let object = |p: &[u8]| {
            let rest = p.get(dir..).unwrap_or_default();
            let end = memchr::memchr(b'/', rest).map_or(p.len(), |at| dir + at);
            p[..end].to_vec()
        };
        if object(a) != object(b) {
            self.path_named(a);
            self.path_named(b);
        }
    }

    /// Copies a source into the store, once, and returns its store path.
    pub(crate) fn copy_to_store(&self, path: &[u8], pos: Pos) -> R<StorePath> {
        if let Some(p) = self.copied.borrow().get(path) {
            return Ok(p.clone());
        }
        if path.ends_with(b".drv") && path.starts_with(self.host.store_dir().as_str().as_bytes()) {
            return Err(Error::new(
                Kind::Context,
                pos,
                format!(
                    "file names are not allowed to end in '.drv': '{}'",
                    String::from_utf8_lossy(path)
                ),
            ));
        }
        let base = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
        let name = String::from_utf8_lossy(base).into_owned();
        let os = super::files::os_path(path);
        match self.file_type(path) {
            Ok(None) => {
                return Err(self.io_error(&std::io::ErrorKind::NotFound.into(), path, pos));
            }
            Err(e) if super::access::refusal(&e).is_some() => {
                return Err(self.io_error(&e, path, pos));
            }
            _ => {}
        }
        let p = self
            .host
            .add_path(&os, &name, Method::Recursive, None, None)
            .map_err(|e| {
                self.host_error(
                    e,
                    pos,
                    &format!(
                        "cannot copy '{}' to the store",
                        String::from_utf8_lossy(path)
                    ),
                )
            })?;
        self.allow_object(&p);
        self.files_read.borrow_mut().insert(os);
        self.copied.borrow_mut().insert(path.to_vec(), p.clone());
        Ok(p)
    }
}

#[cold]
fn out_of_stack() -> Box<Error> {
    Error::new(
        Kind::Depth,
        Pos::NONE,
        "stack overflow; values or expressions are nested too deeply",
    )
}

/// Adds "did you mean" to an error.
#[cold]
pub(crate) fn suggest<'a>(
    e: Box<Error>,
    wanted: &str,
    known: impl Iterator<Item = &'a str>,
) -> Box<Error> {
    let near = sos_formats::diagnostic::suggest(wanted, known);
    if near.is_empty() {
        return e;
    }
    let names: Vec<String> = near.iter().map(|n| format!("`{n}`")).collect();
    e.help(format!("did you mean {}?", names.join(" or ")))
        .spelling(wanted, &near)
}
