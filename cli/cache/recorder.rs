//! Notes everything that an evaluation asks of the world.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use sos_formats::Bytes;
use sos_formats::derivation::{Derivation, Method};
use sos_formats::flake_ref;
use sos_formats::hash::{Blake3, Hash};
use sos_formats::store_path::{StoreDir, StorePath};
use sos_lang::{FetchRequest, FetchedTree, FileType, Host, HostError, PathFilter, TreeRequest};
use sos_store::{StatKey, Store};

use super::ahead::is_large_program;
use super::inputs::{Asked, Built, Inputs, Local, Message, Seen, Tree};
use super::local::{self, Kind};
use super::look;
use super::names::{Met, Names};
use super::sources::Sources;
use super::walk::{self, Print};
use crate::host::StoreHost;

/// Messages that are kept for the next time; an evaluation that says more is not cached.
const MAX_MESSAGES: usize = 1000;

/// A host that passes everything on to another one and remembers the answers.
pub(crate) struct Recorder {
    inner: Rc<StoreHost>,
    store: Store,
    inputs: RefCell<Inputs>,
    /// Directories of this machine that were copied to the store.
    sources: RefCell<Sources>,
    /// Large programs that were read, in their order.
    programs: RefCell<Vec<PathBuf>>,
    /// Why the result cannot be used again.
    refused: Cell<Option<&'static str>>,
    /// Before anything was read.
    since_nanos: i128,
}

impl Recorder {
    pub(crate) fn new(inner: Rc<StoreHost>, store: Store) -> Self {
        Self {
            inner,
            store,
            inputs: RefCell::default(),
            sources: RefCell::default(),
            programs: RefCell::default(),
            refused: Cell::new(None),
            since_nanos: sos_store::now_nanos(),
        }
    }

    /// Notes the text of a file that was read without this host.
    pub(crate) fn note_text(&self, path: &Path, text: Option<&str>) {
        let answer = text.map(|t| Blake3::of(t.as_bytes()));
        self.note(path, Asked::Content, answer, None);
    }

    /// Says that the result must not be used again.
    pub(crate) fn refuse(&self, why: &'static str) {
        self.refused.set(Some(why));
    }

    /// The large programs that were read, in their order; some more than once.
    pub(super) fn take_programs(&self) -> Vec<PathBuf> {
        self.programs.take()
    }

    /// What was noted so far; nothing when the result must not be used again.
    pub(super) fn take_inputs(&self) -> Option<Inputs> {
        if let Some(why) = self.refused.get() {
            tracing::debug!(why, "evaluation is not cached");
            return None;
        }
        let mut inputs = self.inputs.take();
        let sources = self.sources.borrow();
        for local in &mut inputs.locals {
            local.named = !sources.is_open(&local.path);
        }
        Some(inputs)
    }

    /// Where a path in an object has come from, as long as only what is read of the object counts.
    fn origin(&self, path: &Path) -> Option<PathBuf> {
        self.sources.borrow().origin(self.inner.store_dir(), path)
    }

    /// Notes an answer about a path in an object for the place where it has come from, if the answer is the same there. If it is not,
    /// all of the object counts.
    fn note_origin(&self, path: &Path, asked: Asked, answer: Option<Blake3>) {
        let Some(origin) = self.origin(path) else {
            return;
        };
        let stat = match asked {
            Asked::Content | Asked::Listing => look::stat(&origin),
            Asked::Type | Asked::Target => None,
        };
        if look::ask(&origin, asked) == answer {
            self.note(&origin, asked, answer, stat);
        } else {
            self.object_named(path);
        }
    }

    fn note(&self, path: &Path, asked: Asked, answer: Option<Blake3>, stat: Option<StatKey>) {
        let stat = stat.filter(|key| answer.is_some() && !key.is_racy(self.since_nanos));
        let mut inputs = self.inputs.borrow_mut();
        let seen = inputs
            .files
            .entry((path.to_owned(), asked))
            .or_insert(Seen { answer, stat });
        if seen.answer != answer {
            self.refuse("a file changed while it was evaluated");
        }
    }

    /// Whether a path is not in an object of our store; objects do not change, so that it is enough to note that one is there.
    fn outside(&self, path: &Path) -> bool {
        let text = path.to_str().unwrap_or_default();
        let Ok((object, _)) = StorePath::split_absolute(self.inner.store_dir(), text) else {
            return true;
        };
        if self.inputs.borrow().objects.get(&object) == Some(&true) {
            return false;
        }
        let valid = self.store.is_valid(&object).unwrap_or(false);
        self.note_object(&object, valid);
        !valid
    }

    /// Whether a path is in no object of the store, there or not.
    fn outside_of_store(&self, path: &Path) -> bool {
        let text = path.to_str().unwrap_or_default();
        StorePath::split_absolute(self.inner.store_dir(), text).is_err()
    }

    fn note_object(&self, object: &StorePath, valid: bool) {
        let mut inputs = self.inputs.borrow_mut();
        let before = inputs.objects.insert(object.clone(), valid);
        if before.is_some_and(|before| before != valid) {
            drop(inputs);
            self.refuse("a store object came or went while it was evaluated");
        }
    }

    fn say(&self, kind: Message, message: &str) {
        let mut inputs = self.inputs.borrow_mut();
        if inputs.messages.len() < MAX_MESSAGES {
            inputs.messages.push((kind, message.to_owned()));
        } else {
            self.refuse("it says too much");
        }
    }

    fn note_tree(&self, tree: Tree) {
        let mut inputs = self.inputs.borrow_mut();
        inputs.added.insert(tree.object.clone());
        inputs.trees.push(tree);
    }

    /// Adds an object, or a part of one, and whatever the filter takes of it. Without a filter what was copied to the store may stand
    /// for the object.
    fn add_of_object(
        &self,
        path: &Path,
        (name, method): (&str, Method),
        filter: Option<PathFilter<'_>>,
        expected: Option<&Hash>,
    ) -> Result<StorePath, HostError> {
        let filtered = filter.is_some();
        let added = self.inner.add_path(path, name, method, filter, expected)?;
        self.inputs.borrow_mut().added.insert(added.clone());
        let Some(origin) = self.origin(path) else {
            return Ok(added);
        };
        let print = walk::source(&origin, None, self.since_nanos);
        let same = || self.store.compute_path(&origin, name, method, None);
        if filtered || !same().is_ok_and(|path| path == added) {
            self.object_named(path);
            return Ok(added);
        }
        let names = Names::of(&origin, None, self.since_nanos);
        self.note_tree(Tree {
            path: origin,
            name: name.to_owned(),
            method,
            object: added.clone(),
            chosen: None,
            print,
            names,
        });
        Ok(added)
    }

    /// Adds files of the machine; what the store asks for on its way through them is noted.
    fn add_source(
        &self,
        path: &Path,
        (name, method): (&str, Method),
        filter: Option<PathFilter<'_>>,
        expected: Option<&Hash>,
    ) -> Result<StorePath, HostError> {
        let meta = std::fs::symlink_metadata(path).ok();
        let is_directory = meta.as_ref().is_some_and(Metadata::is_dir);
        let timed = meta.filter(|_| look::keeps_times(path));
        let mut seen = timed.map(|meta| {
            let mut seen = (Print::default(), Met::default());
            self.met(&mut seen, Path::new(""), &meta, true);
            seen
        });
        let mut chosen = filter.is_some().then(BTreeMap::new);
        let mut filter = filter;
        let mut asked = |file: &Path, kind: FileType| {
            let taken = match filter.as_mut() {
                Some(filter) => filter(file, kind)?,
                None => true,
            };
            let below = file.strip_prefix(path).unwrap_or(file);
            match (std::fs::symlink_metadata(file), seen.as_mut()) {
                // Another file system may be mounted on a directory or file of a source.
                (Ok(meta), Some(seen)) if !taken || look::trusts(&meta, file) => {
                    self.met(seen, below, &meta, taken);
                }
                _ => seen = None,
            }
            if let Some(chosen) = &mut chosen {
                chosen.insert(below.to_owned(), (kind, taken));
            }
            Ok(taken)
        };
        let filter: Option<PathFilter<'_>> = Some(&mut asked);
        let added = self.inner.add_path(path, name, method, filter, expected)?;
        let (print, names) = seen.unzip();
        self.note_tree(Tree {
            path: path.to_owned(),
            name: name.to_owned(),
            method,
            object: added.clone(),
            chosen,
            print: print.and_then(Print::finish),
            names: names
                .filter(|_| is_directory)
                .and_then(|names| names.finish(self.since_nanos)),
        });
        Ok(added)
    }

    /// Notes one file of a source, below its root.
    fn met(&self, seen: &mut (Print, Met), below: &Path, meta: &Metadata, taken: bool) {
        let (print, names) = seen;
        print.add_met(below, meta, taken, self.since_nanos);
        if taken {
            names.add(below, meta);
        }
    }
}

impl Host for Recorder {
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        if !self.outside(path) {
            let read = self.inner.read_file(path);
            if let Ok(bytes) = &read
                && is_large_program(path, bytes)
            {
                // The object of a source has another name once a file of it was changed.
                let place = self.origin(path).unwrap_or_else(|| path.to_owned());
                self.programs.borrow_mut().push(place);
            }
            self.note_origin(path, Asked::Content, read.as_deref().ok().map(Blake3::of));
            return read;
        }
        // Before the bytes: a change in between shows as a change.
        let stat = look::stat(path);
        let read = self.inner.read_file(path);
        if let Ok(bytes) = &read
            && is_large_program(path, bytes)
        {
            self.programs.borrow_mut().push(path.to_owned());
        }
        let answer = read.as_deref().ok().map(Blake3::of);
        self.note(path, Asked::Content, answer, stat);
        read
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<(Bytes, FileType)>> {
        if !self.outside(path) {
            let mut read = self.inner.read_dir(path);
            if let Ok(entries) = &mut read {
                entries.sort_by(|a, b| a.0.cmp(&b.0));
            }
            let answer = read.as_deref().ok().map(look::listing_digest);
            self.note_origin(path, Asked::Listing, answer);
            return read;
        }
        let stat = look::stat(path);
        let mut read = self.inner.read_dir(path);
        if let Ok(entries) = &mut read {
            entries.sort_by(|a, b| a.0.cmp(&b.0));
        }
        let answer = read.as_deref().ok().map(look::listing_digest);
        self.note(path, Asked::Listing, answer, stat);
        read
    }

    fn file_type(&self, path: &Path) -> io::Result<Option<FileType>> {
        let found = self.inner.file_type(path);
        let answer = match &found {
            Ok(Some(kind)) => Some(look::known_type_digest(*kind)),
            Ok(None) => Some(look::nothing_digest()),
            Err(_) => None,
        };
        if self.outside(path) {
            self.note(path, Asked::Type, answer, None);
        } else {
            self.note_origin(path, Asked::Type, answer);
        }
        found
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        let found = self.inner.canonicalize(path);
        if self.outside(path) {
            self.note(path, Asked::Target, look::ask(path, Asked::Target), None);
        } else {
            let target = found.as_deref().ok();
            match target.map(|target| self.origin(target)) {
                None => self.note_origin(path, Asked::Target, None),
                Some(Some(origin)) => {
                    let answer = Some(look::target_digest(&origin));
                    self.note_origin(path, Asked::Target, answer);
                }
                // It leads out of the object.
                Some(None) => self.object_named(path),
            }
        }
        found
    }

    fn add_path(
        &self,
        path: &Path,
        name: &str,
        method: Method,
        filter: Option<PathFilter<'_>>,
        expected: Option<&Hash>,
    ) -> Result<StorePath, HostError> {
        if self.outside(path) {
            self.add_source(path, (name, method), filter, expected)
        } else {
            self.add_of_object(path, (name, method), filter, expected)
        }
    }

    fn add_text(
        &self,
        name: &str,
        contents: &[u8],
        references: &BTreeSet<StorePath>,
    ) -> Result<StorePath, HostError> {
        let added = self.inner.add_text(name, contents, references)?;
        self.inputs.borrow_mut().added.insert(added.clone());
        Ok(added)
    }

    fn add_derivation(&self, path: &StorePath, aterm: &[u8]) -> Result<(), HostError> {
        self.inner.add_derivation(path, aterm)
    }

    fn read_derivation(&self, path: &StorePath) -> Result<Derivation, HostError> {
        // Its text follows from its name.
        self.inner.read_derivation(path)
    }

    fn realise(&self, wanted: &[(StorePath, String)]) -> Result<Vec<StorePath>, HostError> {
        let paths = self.inner.realise(wanted)?;
        for ((drv, output), path) in wanted.iter().zip(&paths) {
            let text = self.inner.read_derivation(drv)?;
            let name = Derivation::name_from_path(drv);
            let follows = text.output_path(self.inner.store_dir(), name, output);
            self.inputs.borrow_mut().built.push(Built {
                drv: drv.clone(),
                output: output.clone(),
                path: path.clone(),
                follows: follows.as_ref() == Some(path),
            });
        }
        Ok(paths)
    }

    fn is_valid_path(&self, path: &StorePath) -> Result<bool, HostError> {
        let valid = self.inner.is_valid_path(path)?;
        self.note_object(path, valid);
        Ok(valid)
    }

    fn fetch_url(&self, request: &FetchRequest) -> Result<StorePath, HostError> {
        let path = self.inner.fetch_url(request)?;
        if request.sha256.is_some() {
            self.inputs.borrow_mut().added.insert(path.clone());
        } else {
            self.refuse("it fetches what no hash pins");
        }
        Ok(path)
    }

    fn fetch_tree(&self, request: &TreeRequest) -> Result<FetchedTree, HostError> {
        let kind = local::kind(request);
        let mut tracked = Vec::new();
        let mut print = None;
        let mut names = None;
        if let Kind::Local(place) = &kind {
            tracked = local::tracked(place, &request.attrs, &self.inner);
            print = local::print(place, &request.attrs, &tracked, self.since_nanos);
            names = local::names(place, &request.attrs, self.since_nanos);
        }
        let (tree, warnings) = self.inner.fetch_tree_silently(request)?;
        for warning in &warnings {
            self.warn(warning);
        }
        let mut inputs = self.inputs.borrow_mut();
        inputs.added.insert(tree.path.clone());
        let mut leads = None;
        match kind {
            Kind::Pinned => {}
            // Another file in the other tree may be another tree here.
            Kind::Part(base) if !self.outside_of_store(&base) => self.object_named(&base),
            Kind::Part(_) => self.refuse("it fetches a part of what may change"),
            Kind::Local(place) => {
                // What is known about a directory always has the same attributes; about a repository it has others when
                // a file was edited, and a program can ask for that without a look at any.
                if flake_ref::kind(&request.attrs) == "path" {
                    self.sources.borrow_mut().add(&tree.path, &place);
                    leads = Some((look::ask(&place, Asked::Target), place));
                } else {
                    self.sources.borrow_mut().name(&tree.path);
                }
                inputs.locals.push(Local {
                    attrs: flake_ref::to_json(&request.attrs).to_string(),
                    name: request.name.clone(),
                    path: tree.path.clone(),
                    answer: flake_ref::to_json(&tree.attrs).to_string(),
                    print,
                    names,
                    tracked,
                    named: true,
                });
            }
            Kind::Open => self.refuse("it fetches a tree that nothing pins"),
        }
        drop(inputs);
        if let Some((target, place)) = leads {
            self.note(&place, Asked::Target, target, None);
        }
        Ok(tree)
    }

    fn object_named(&self, path: &Path) {
        let text = path.to_str().unwrap_or_default();
        if let Ok((object, _)) = StorePath::split_absolute(self.inner.store_dir(), text) {
            self.sources.borrow_mut().name(&object);
        }
    }

    fn write_flake_lock(&self, path: &Path, text: &str) -> Result<(), HostError> {
        self.refuse("the lock of a flake changes");
        self.inner.write_flake_lock(path, text)
    }

    fn env(&self, name: &str) -> Option<String> {
        let value = self.inner.env(name);
        let mut inputs = self.inputs.borrow_mut();
        inputs.env.insert(name.to_owned(), value.clone());
        value
    }

    fn current_time(&self) -> i64 {
        self.refuse("it asks for the time");
        self.inner.current_time()
    }

    fn system(&self) -> &str {
        self.inner.system()
    }

    fn store_dir(&self) -> &StoreDir {
        self.inner.store_dir()
    }

    fn trace(&self, message: &str) {
        self.say(Message::Trace, message);
        self.inner.trace(message);
    }

    fn warn(&self, message: &str) {
        self.say(Message::Warning, message);
        self.inner.warn(message);
    }
}
