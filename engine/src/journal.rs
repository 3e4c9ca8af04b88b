//! The journal: what happens in a build, kept in the store. Events as they are, and beside them what became of each derivation.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sos_formats::derivation::Derivation;
use sos_formats::store_path::StorePath;
use sos_store::{BuildId, Step, Store};

use crate::cause::Causes;
use crate::event::{Event, Status, Text};
use crate::resolve::{OutputPaths, Resolved};

/// Events that are written at once, unless they wait too long: each transaction writes whole pages, and the indexes of its steps
/// have their keys all over.
const BATCH_EVENTS: usize = 512;
/// Derivations that are noted as seen at once.
const BATCH_SEEN: usize = 4096;
/// Derivations whose steps are written at once when a build ends before they do.
const BATCH_LEFT: usize = 1024;
/// Parts of the journal that wait to be written before builds wait too.
const WAITING_PARTS: usize = 2;
/// How long what happened waits to be written: somebody may be looking, and a killed run has only what was written.
const BEHIND: Duration = Duration::from_millis(250);

/// What the journal keeps of a derivation besides its times.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct StepDetail {
    /// Base name of the derivation with every input a store path: two with the same one are the same build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Its builder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builder: Option<String>,
    /// What it is built from, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<StepInput>,
    /// Base names of the derivations of the same run that it waited for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// Other processes that it waited for; 0 for one that cannot be told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waited_for: Vec<u32>,
}

/// An input as the builder saw it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StepInput {
    /// Base name of the store object.
    pub path: String,
    /// Digest of its content: `sha256:` of the NAR of a tree, `blake3:` of the manifest of a root filesystem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Base name of the derivation that it is an output of; none for a source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drv: Option<String>,
}

/// What came out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StepOutput {
    /// Base name of the store object.
    pub path: String,
    /// Bytes of its archive; of a root filesystem, of all its files.
    pub bytes: u64,
}

/// Takes the events of one build.
pub(crate) struct Journal {
    store: Store,
    build: BuildId,
    /// By which attribute paths derivations were asked for.
    attrs: BTreeMap<StorePath, String>,
    digests: Mutex<BTreeMap<StorePath, Option<String>>>,
    state: Arc<Mutex<State>>,
    scribe: Mutex<Option<Scribe>>,
}

/// What is written at once.
struct Part {
    events: Vec<String>,
    steps: Vec<Step>,
    seen: Vec<StorePath>,
}

/// The thread that writes: what decides about builds does not wait for the disk.
struct Scribe {
    parts: SyncSender<Part>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    events: Vec<String>,
    steps: BTreeMap<Text, Entry>,
    /// Steps with news.
    changed: BTreeSet<Text>,
    seen: Vec<StorePath>,
    summary: Option<String>,
}

/// What is known of a derivation. There may be 100,000 that wait: of those only what nobody else knows is kept.
enum Entry {
    Waiting { needs: Box<[Text]>, since_ms: u64 },
    Open(Box<Open>),
}

/// A derivation of which more may come.
struct Open {
    step: Step,
    detail: StepDetail,
    is_over: bool,
}

impl Journal {
    /// Writes into a build that was begun.
    pub(crate) fn new(store: Store, build: BuildId, attrs: BTreeMap<StorePath, String>) -> Self {
        let (parts, waiting) = sync_channel(WAITING_PARTS);
        let state = Arc::<Mutex<State>>::default();
        let (kept, shared) = (store.clone(), state.clone());
        // Without a thread each part is written where it comes up.
        let scribe = thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || write_all(&kept, build, &waiting, &shared))
            .ok()
            .map(|thread| Scribe { parts, thread });
        Self {
            store,
            build,
            attrs,
            digests: Mutex::default(),
            state,
            scribe: Mutex::new(scribe),
        }
    }

    /// Returns the number of the build.
    pub(crate) fn build(&self) -> BuildId {
        self.build
    }

    /// Adds an event as JSON.
    pub(crate) fn add(&self, json: String) {
        let mut state = self.lock();
        state.events.push(json);
        if state.events.len() >= BATCH_EVENTS {
            self.write(&mut state);
        }
    }

    /// Notes what an event says about a derivation.
    pub(crate) fn note(&self, event: &Event, now_ms: u64) {
        match event {
            Event::BuildQueued { drv, needs, .. } => self.queued(drv, needs, now_ms),
            Event::BuildWaiting { drv, pid, .. } => {
                self.change(drv, |open| {
                    open.detail.waited_for.push(pid.unwrap_or(0));
                });
            }
            Event::BuildStarted {
                drv,
                builder,
                cause,
                ..
            } => {
                self.change(drv, |open| {
                    open.detail.builder = Some(builder.to_string());
                    open.started(cause, now_ms);
                });
            }
            Event::FetchStarted { drv, cause, .. } => {
                self.change(drv, |open| open.started(cause, now_ms));
            }
            Event::BuildFinished {
                drv,
                status,
                outputs,
                ..
            }
            | Event::FetchFinished {
                drv,
                status,
                outputs,
                ..
            } => {
                let outputs = self.outputs(outputs);
                self.change(drv, |open| {
                    status_text(*status).clone_into(&mut open.step.status);
                    open.step.finished_ms = Some(now_ms);
                    open.step.outputs = serde_json::to_string(&outputs).ok();
                    open.is_over = true;
                });
            }
            Event::Summary { .. } => self.lock().summary = serde_json::to_string(event).ok(),
            _ => {}
        }
    }

    /// Notes what a derivation is built from.
    pub(crate) fn note_inputs(&self, drv: &Text, resolved: &Resolved, inputs: &OutputPaths) {
        let made: BTreeMap<&StorePath, &StorePath> = inputs
            .iter()
            .flat_map(|(drv, outputs)| outputs.values().map(move |path| (path, drv)))
            .collect();
        let listed: Vec<StepInput> = resolved
            .drv
            .input_srcs
            .iter()
            .map(|path| StepInput {
                path: path.as_str().to_owned(),
                digest: self.digest(path),
                drv: made.get(path).map(|drv| drv.as_str().to_owned()),
            })
            .collect();
        let mut state = self.lock();
        let sources = resolved.drv.input_srcs.iter();
        let sources = sources.filter(|path| !made.contains_key(path)).cloned();
        state.seen.extend(sources);
        if let Some(open) = self.open(&mut state, drv) {
            open.detail.identity = Some(resolved.identity.as_str().to_owned());
            open.detail.inputs = listed;
        }
    }

    /// Writes what is left and how it ended.
    pub(crate) fn end(&self, status: &str) {
        let mut state = self.lock();
        // Those that wait become steps a few at a time.
        let left: Vec<Text> = state.steps.keys().cloned().collect();
        for part in left.chunks(BATCH_LEFT) {
            for drv in part {
                if let Some(open) = self.open(&mut state, drv).filter(|open| !open.is_over) {
                    let never = if open.step.started_ms.is_none() {
                        "skipped"
                    } else {
                        "cancelled"
                    };
                    never.clone_into(&mut open.step.status);
                    open.is_over = true;
                    state.changed.insert(drv.clone());
                }
            }
            self.write(&mut state);
        }
        self.write(&mut state);
        if let Some(scribe) = lock(&self.scribe).take() {
            drop(scribe.parts);
            // What it could not write it has said.
            let _panicked = scribe.thread.join().is_err();
        }
        let ended = self
            .store
            .journal_end_with(self.build, status, state.summary.as_deref());
        if let Err(error) = ended {
            tracing::warn!(%error, "the journal of this build is not ended");
        }
    }

    fn queued(&self, drv: &Text, needs: &[Text], now_ms: u64) {
        let Ok(path) = StorePath::from_absolute(self.store.store_dir(), drv.as_str()) else {
            return;
        };
        let waiting = Entry::Waiting {
            needs: needs.into(),
            since_ms: now_ms,
        };
        let mut state = self.lock();
        state.seen.push(path);
        state.steps.insert(drv.clone(), waiting);
        if state.seen.len() >= BATCH_SEEN {
            self.write(&mut state);
        }
    }

    /// The step of a derivation that was queued.
    fn open<'a>(&self, state: &'a mut State, drv: &Text) -> Option<&'a mut Open> {
        let entry = state.steps.get_mut(drv)?;
        if let Entry::Waiting { needs, since_ms } = entry {
            let path = StorePath::from_absolute(self.store.store_dir(), drv.as_str()).ok()?;
            let detail = StepDetail {
                needs: needs.iter().map(|need| base(need.as_str())).collect(),
                ..StepDetail::default()
            };
            let step = Step {
                build: self.build,
                name: Derivation::name_from_path(&path).to_owned(),
                attr: self.attrs.get(&path).cloned(),
                status: "queued".to_owned(),
                queued_ms: *since_ms,
                started_ms: None,
                finished_ms: None,
                cause: None,
                outputs: None,
                detail: None,
                drv: path,
            };
            *entry = Entry::Open(Box::new(Open {
                step,
                detail,
                is_over: false,
            }));
        }
        match entry {
            Entry::Open(open) => Some(open),
            Entry::Waiting { .. } => None,
        }
    }

    fn change(&self, drv: &Text, change: impl FnOnce(&mut Open)) {
        let mut state = self.lock();
        let Some(open) = self.open(&mut state, drv) else {
            return;
        };
        change(open);
        state.changed.insert(drv.clone());
    }

    fn digest(&self, path: &StorePath) -> Option<String> {
        let known = |digests: &BTreeMap<StorePath, Option<String>>| digests.get(path).cloned();
        if let Some(digest) = known(&lock(&self.digests)) {
            return digest;
        }
        let info = self.store.query(path).ok().flatten();
        let digest = info.and_then(
            |info| match (info.tree_id().or(info.root), info.nar_sha256) {
                (Some(id), _) => Some(format!("blake3:{}", id.to_hex())),
                (None, nar) => nar.map(|nar| format!("sha256:{}", nar.to_hex())),
            },
        );
        lock(&self.digests).insert(path.clone(), digest.clone());
        digest
    }

    fn outputs(&self, outputs: &BTreeMap<String, String>) -> BTreeMap<String, StepOutput> {
        outputs
            .iter()
            .filter_map(|(output, path)| {
                let path = StorePath::from_absolute(self.store.store_dir(), path).ok()?;
                let bytes = self.store.query(&path).ok().flatten()?.nar_size;
                let path = path.as_str().to_owned();
                Some((output.clone(), StepOutput { path, bytes }))
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn write(&self, state: &mut State) {
        let part = state.take_part();
        let refused = match &*lock(&self.scribe) {
            Some(scribe) => scribe.parts.send(part).err().map(|refused| refused.0),
            None => Some(part),
        };
        if let Some(part) = refused {
            write(&self.store, self.build, &part);
        }
    }
}

impl State {
    fn has_news(&self) -> bool {
        !(self.events.is_empty() && self.seen.is_empty() && self.changed.is_empty())
    }

    /// Takes what is to be written.
    fn take_part(&mut self) -> Part {
        let events = mem::take(&mut self.events);
        let seen = mem::take(&mut self.seen);
        let mut steps = Vec::new();
        for drv in mem::take(&mut self.changed) {
            let Some(Entry::Open(open)) = self.steps.get(&drv) else {
                continue;
            };
            steps.push(Step {
                detail: serde_json::to_string(&open.detail).ok(),
                ..open.step.clone()
            });
            if open.is_over {
                self.steps.remove(&drv);
            }
        }
        Part {
            events,
            steps,
            seen,
        }
    }
}

fn write_all(store: &Store, build: BuildId, parts: &Receiver<Part>, state: &Mutex<State>) {
    loop {
        match parts.recv_timeout(BEHIND) {
            Ok(part) => write(store, build, &part),
            Err(RecvTimeoutError::Timeout) => write_news(store, build, parts, state),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Writes what nobody has sent, since nothing more has happened.
fn write_news(store: &Store, build: BuildId, parts: &Receiver<Part>, state: &Mutex<State>) {
    let due = {
        // Whoever has it may be waiting for room among the parts, or sends one soon: never wait for it here.
        let mut state = match state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(state)) => state.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if !state.has_news() {
            return;
        }
        // What was sent is older. Nothing is sent without the lock, so that nothing newer is among it.
        let mut due: Vec<Part> = parts.try_iter().collect();
        due.push(state.take_part());
        due
    };
    for part in &due {
        write(store, build, part);
    }
}

fn write(store: &Store, build: BuildId, part: &Part) {
    // A build is worth more than its journal.
    if let Err(error) = store.journal_write(build, &part.events, &part.steps, &part.seen) {
        tracing::warn!(%error, "events are missing in the journal");
    }
}

impl Open {
    fn started(&mut self, cause: &Causes, now_ms: u64) {
        "running".clone_into(&mut self.step.status);
        self.step.started_ms = Some(now_ms);
        self.step.cause = serde_json::to_string(cause).ok();
    }
}

fn status_text(status: Status) -> &'static str {
    match status {
        Status::Built => "built",
        Status::Fetched => "fetched",
        Status::Cached => "cached",
        Status::Failed => "failed",
        Status::Cancelled => "cancelled",
        Status::Skipped => "skipped",
    }
}

fn base(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
