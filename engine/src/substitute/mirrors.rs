//! The mirrors of one run: asks them, all at once and each path once, and takes paths from them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use sos_formats::diagnostic::{Class, Diagnostic, Severity};
use sos_formats::narinfo::NarInfo;
use sos_formats::store_path::{StoreDir, StorePath};
use sos_store::{Registration, Store, StoreError};

use super::{Substituter, Transfer, claim};
use crate::cancel::Cancel;
use crate::diagnose::store_failed;
use crate::event::{Event, EventSink, Text};

/// Questions at once: they wait for the network, not for this machine.
const ASKED_AT_ONCE: usize = 32;
/// Bytes between two events of one transfer.
const TOLD_EVERY: u64 = 256 << 10;

/// The mirrors of one run.
pub(crate) struct Mirrors {
    store: Store,
    events: EventSink,
    cancel: Cancel,
    all: Vec<One>,
    /// What they said of paths.
    answers: Mutex<BTreeMap<StorePath, Arc<Answer>>>,
    /// Derivations that mirrors were asked for and do not have.
    missed: Mutex<BTreeMap<StorePath, Vec<String>>>,
    taken: Mutex<BTreeMap<StorePath, State>>,
    /// Something in `taken` is over.
    over: Condvar,
}

struct One {
    source: Arc<dyn Substituter>,
    /// It does not answer, or is no mirror for this store.
    off: AtomicBool,
    /// Codes of problems that were told: each once, not for every path.
    told: Mutex<BTreeSet<&'static str>>,
}

/// What all mirrors said of a path.
#[derive(Default)]
struct Answer {
    /// What can be believed, in the order of the mirrors.
    offers: Vec<(usize, NarInfo)>,
    /// Addresses of those that do not have it.
    lacking: Vec<String>,
}

enum Look {
    Has(Box<NarInfo>),
    Lacks,
    Nothing,
}

#[derive(Clone, Copy)]
enum State {
    Now,
    Done,
    Failed,
}

/// Paths to take, each after those that it refers to.
pub(crate) type Ordered = Vec<StorePath>;

impl Mirrors {
    /// Looks which mirrors there are; gives none without any.
    pub(crate) fn of(
        store: &Store,
        events: &EventSink,
        cancel: &Cancel,
        sources: &[Arc<dyn Substituter>],
    ) -> Option<Arc<Self>> {
        if sources.is_empty() {
            return None;
        }
        let one = |source: &Arc<dyn Substituter>| One {
            source: source.clone(),
            off: AtomicBool::new(false),
            told: Mutex::default(),
        };
        let mirrors = Self {
            store: store.clone(),
            events: events.clone(),
            cancel: cancel.clone(),
            all: sources.iter().map(one).collect(),
            answers: Mutex::default(),
            missed: Mutex::default(),
            taken: Mutex::default(),
            over: Condvar::new(),
        };
        in_parallel(&mirrors.all, ASKED_AT_ONCE, |one| {
            if let Err(why) = one.source.about(store.store_dir()) {
                one.off.store(true, Ordering::SeqCst);
                mirrors.trouble(one, *why);
            }
        });
        Some(Arc::new(mirrors))
    }

    pub(crate) fn store_dir(&self) -> &StoreDir {
        self.store.store_dir()
    }

    pub(crate) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Tells whether there is nobody to ask.
    pub(crate) fn are_off(&self) -> bool {
        self.cancel.is_stopping() || self.all.iter().all(One::is_off)
    }

    /// Asks all mirrors for each of the paths.
    pub(crate) fn ask_all<'a>(&self, paths: impl IntoIterator<Item = &'a StorePath>) {
        let paths: BTreeSet<&StorePath> = paths.into_iter().collect();
        let paths: Vec<&StorePath> = paths.into_iter().collect();
        in_parallel(&paths, ASKED_AT_ONCE, |path| {
            self.ask(path);
        });
    }

    /// Tells whether a mirror has a path.
    pub(crate) fn has(&self, path: &StorePath) -> bool {
        !self.ask(path).offers.is_empty()
    }

    fn ask(&self, path: &StorePath) -> Arc<Answer> {
        if let Some(known) = lock(&self.answers).get(path) {
            return known.clone();
        }
        let looks = in_parallel(&self.all, ASKED_AT_ONCE, |one| self.look(one, path));
        let mut answer = Answer::default();
        for (number, look) in looks.into_iter().enumerate() {
            match look {
                Look::Has(info) => answer.offers.push((number, *info)),
                Look::Lacks => {
                    let url = self.all[number].source.url();
                    answer.lacking.push(url.to_owned());
                }
                Look::Nothing => {}
            }
        }
        let answer = Arc::new(answer);
        lock(&self.answers).insert(path.clone(), answer.clone());
        answer
    }

    fn look(&self, one: &One, path: &StorePath) -> Look {
        if one.is_off() || self.cancel.is_stopping() {
            return Look::Nothing;
        }
        match one.source.info(self.store.store_dir(), path) {
            Ok(None) => Look::Lacks,
            Ok(Some(info)) if self.is_believed(one, &info) => Look::Has(Box::new(info)),
            Ok(Some(info)) => {
                self.trouble(one, *one.source.unsigned(&info));
                Look::Nothing
            }
            Err(why) => {
                self.trouble(one, *why);
                Look::Nothing
            }
        }
    }

    fn is_believed(&self, one: &One, info: &NarInfo) -> bool {
        let dir = self.store.store_dir();
        one.source.is_signed(dir, info) || claim(dir, info).is_some()
    }

    /// Tells which path mirrors have for an output of a content-addressed derivation, and who does not know.
    pub(crate) fn realisation(&self, hash: &str, output: &str) -> Result<StorePath, Vec<String>> {
        let found = in_parallel(&self.all, ASKED_AT_ONCE, |one| {
            if one.is_off() || self.cancel.is_stopping() {
                return Err(None);
            }
            match one.source.realisation(hash, output) {
                Ok(Some(path)) => Ok(path),
                Ok(None) => Err(Some(one.source.url().to_owned())),
                Err(why) => {
                    self.trouble(one, *why);
                    Err(None)
                }
            }
        });
        let mut lacking = Vec::new();
        for one in found {
            match one {
                Ok(path) => return Ok(path),
                Err(url) => lacking.extend(url),
            }
        }
        Err(lacking)
    }

    /// Notes that mirrors do not have what a derivation makes.
    pub(crate) fn miss(&self, drv: &StorePath, urls: Vec<String>) {
        if !urls.is_empty() {
            lock(&self.missed).insert(drv.clone(), urls);
        }
    }

    /// Notes that mirrors do not have all of these outputs of a derivation.
    pub(crate) fn miss_paths<'a>(
        &self,
        drv: &StorePath,
        paths: impl IntoIterator<Item = &'a StorePath>,
    ) {
        let mut urls = BTreeSet::new();
        for path in paths {
            urls.extend(self.ask(path).lacking.iter().cloned());
        }
        self.miss(drv, urls.into_iter().collect());
    }

    /// Returns the mirrors that were asked for a derivation and do not have it.
    pub(crate) fn missed(&self, drv: &StorePath) -> Option<Vec<String>> {
        lock(&self.missed).get(drv).cloned()
    }

    /// Asks for everything that these paths refer to, one after the other.
    pub(crate) fn gather(&self, paths: BTreeSet<StorePath>) -> Result<(), StoreError> {
        let mut met = BTreeSet::new();
        let mut wave = paths;
        while !wave.is_empty() && !self.cancel.is_stopping() {
            self.ask_all(&wave);
            let mut next = BTreeSet::new();
            for path in &wave {
                let answer = self.ask(path);
                if let Some((_, info)) = answer.offers.first() {
                    next.extend(info.references.iter().cloned());
                }
            }
            met.append(&mut wave);
            for path in next {
                if !met.contains(&path) && !self.store.is_present(&path)? {
                    wave.insert(path);
                }
            }
        }
        Ok(())
    }

    /// Puts what has to be taken for these paths in order; gives none when something of it cannot be had.
    pub(crate) fn order<'a>(
        &self,
        paths: impl IntoIterator<Item = &'a StorePath>,
    ) -> Result<Option<Ordered>, StoreError> {
        let mut order = Vec::new();
        let mut there = Vec::new();
        // Whether all of it stands in the order already.
        let mut met: BTreeMap<StorePath, bool> = BTreeMap::new();
        let mut todo: Vec<(StorePath, bool)> = Vec::new();
        todo.extend(paths.into_iter().map(|path| (path.clone(), false)));
        while let Some((path, is_last)) = todo.pop() {
            if is_last {
                met.insert(path.clone(), true);
                order.push(path);
                continue;
            }
            match met.get(&path) {
                Some(true) => continue,
                // A circle: no store has one.
                Some(false) => return Ok(None),
                None => {}
            }
            if self.store.is_present(&path)? {
                there.push(path.clone());
                met.insert(path, true);
                continue;
            }
            let answer = self.ask(&path);
            let Some((_, info)) = answer.offers.first() else {
                return Ok(None);
            };
            met.insert(path.clone(), false);
            todo.push((path.clone(), true));
            let references = info.references.iter();
            todo.extend(
                references
                    .filter(|reference| **reference != path && met.get(*reference) != Some(&true))
                    .map(|reference| (reference.clone(), false)),
            );
        }
        // One that a collection takes before that is missed when what refers to it is registered.
        self.store.hold(&there)?;
        Ok(Some(order))
    }

    /// Takes paths in their order; gives the bytes of their archives, or nothing when one of them cannot be had.
    pub(crate) fn take(&self, order: &Ordered, watch: &Watch<'_>) -> Option<u64> {
        let mut bytes = 0;
        for path in order {
            bytes += self.take_one(path, watch)?;
        }
        Some(bytes)
    }

    fn take_one(&self, path: &StorePath, watch: &Watch<'_>) -> Option<u64> {
        let mut taken = lock(&self.taken);
        loop {
            match taken.get(path) {
                None => break,
                Some(State::Done) => return Some(0),
                Some(State::Failed) => return None,
                // Whoever takes it waits for nothing that refers to it.
                Some(State::Now) => {
                    taken = self
                        .over
                        .wait(taken)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        taken.insert(path.clone(), State::Now);
        drop(taken);
        let mut end = End {
            mirrors: self,
            path,
            state: State::Failed,
        };
        let bytes = self.fetch(path, watch)?;
        end.state = State::Done;
        Some(bytes)
    }

    fn fetch(&self, path: &StorePath, watch: &Watch<'_>) -> Option<u64> {
        for (number, info) in &self.ask(path).offers {
            let one = &self.all[*number];
            if one.is_off() || self.cancel.is_stopping() {
                continue;
            }
            match self.fetch_from(one, info, watch) {
                Ok(bytes) => return Some(bytes),
                Err(why) => self.trouble(one, *why),
            }
            // What it says may have changed since it was asked.
            if let Look::Has(new) = self.look(one, path)
                && *new != *info
                && new.references == info.references
                && let Ok(bytes) = self.fetch_from(one, &new, watch)
            {
                return Some(bytes);
            }
        }
        None
    }

    fn fetch_from(
        &self,
        one: &One,
        info: &NarInfo,
        watch: &Watch<'_>,
    ) -> Result<u64, Box<Diagnostic>> {
        let dir = self.store.store_dir();
        let ingested = one.source.nar(&self.store, info, watch)?;
        let mut ca = None;
        if let Some(claim) = claim(dir, info)
            && claim.holds(&info.path, &ingested).unwrap_or(false)
        {
            ca.clone_from(&info.ca);
        }
        if ca.is_none() && !one.source.is_signed(dir, info) {
            return Err(Box::new(Diagnostic::error(
                "mirror-wrong-archive",
                Class::Fetch,
                format!(
                    "{}: its archive of `{}` is not what its name says",
                    one.source.url(),
                    info.path.name()
                ),
            )));
        }
        let registration = Registration {
            path: info.path.clone(),
            references: info.references.clone(),
            deriver: info.deriver.clone(),
            ca,
        };
        self.store
            .commit_many(vec![(ingested, registration)])
            .map_err(store_failed)?;
        self.store
            .add_signatures(&info.path, &info.signatures)
            .map_err(store_failed)?;
        watch.done(info.nar_size);
        Ok(info.nar_size)
    }

    /// Tells a problem of a mirror, which is none of the build. One that does not answer is not asked again.
    fn trouble(&self, one: &One, why: Diagnostic) {
        if self.cancel.is_cancelled() {
            return;
        }
        let url = one.source.url();
        let mut why = if why.code.starts_with("fetch-") {
            one.off.store(true, Ordering::SeqCst);
            let silent = Diagnostic::error(
                "mirror-no-answer",
                Class::Fetch,
                format!("{url} does not answer, and is not asked again in this run"),
            );
            let notes = why.notes.into_iter();
            notes.fold(silent, Diagnostic::note)
        } else {
            why
        };
        if !lock(&one.told).insert(why.code) {
            return;
        }
        why.severity = Severity::Warning;
        if why.helps.is_empty() {
            why = why.help("what it cannot give is built; `--no-substitute` asks no mirror");
        }
        self.events.emit(Event::Diagnostic {
            diagnostic: Box::new(why),
        });
    }
}

impl One {
    fn is_off(&self) -> bool {
        self.off.load(Ordering::SeqCst)
    }
}

/// Notes how the taking of a path ended, also when it panicked: others wait for it.
struct End<'a> {
    mirrors: &'a Mirrors,
    path: &'a StorePath,
    state: State,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        lock(&self.mirrors.taken).insert(self.path.clone(), self.state);
        self.mirrors.over.notify_all();
    }
}

/// Tells how far the paths of one derivation are.
pub(crate) struct Watch<'a> {
    events: &'a EventSink,
    cancel: &'a Cancel,
    drv: Text,
    name: Text,
    /// Bytes of the archives that are done.
    before: AtomicU64,
    told: AtomicU64,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(events: &'a EventSink, cancel: &'a Cancel, drv: Text, name: Text) -> Self {
        Self {
            events,
            cancel,
            drv,
            name,
            before: AtomicU64::new(0),
            told: AtomicU64::new(0),
        }
    }

    fn done(&self, bytes: u64) {
        self.before.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Transfer for Watch<'_> {
    fn progress(&self, done: u64, total: Option<u64>) {
        let before = self.before.load(Ordering::Relaxed);
        let now = before + done;
        if now < self.told.load(Ordering::Relaxed) + TOLD_EVERY {
            return;
        }
        self.told.store(now, Ordering::Relaxed);
        self.events.emit(Event::FetchProgress {
            drv: self.drv.clone(),
            name: self.name.clone(),
            done: now,
            total: total.map_or(0, |total| before + total),
        });
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }
}

/// Does the same with all of them on some threads; the results stand in the order of the items.
pub(super) fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let threads = threads.min(items.len());
    if threads <= 1 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(items.len()));
    let turn = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return };
            let result = work(item);
            lock(&done).push((at, result));
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            // Without a thread the others do more.
            let _refused = thread::Builder::new().spawn_scoped(scope, turn).is_err();
        }
        turn();
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::in_parallel;

    #[test]
    fn results_stand_in_the_order_of_the_items() {
        let items: Vec<usize> = (0..100).collect();
        for threads in [0, 1, 7, 200] {
            let doubled = in_parallel(&items, threads, |n| n * 2);
            assert!(doubled.iter().enumerate().all(|(at, n)| *n == at * 2));
            assert_eq!(doubled.len(), 100);
        }
    }
}
