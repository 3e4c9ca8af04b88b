//! The sources of one evaluation: recipes need their store paths at once, but not the objects.
//!
//! A source that has not changed since it was last read is named without being read; the store is asked for all of them together
//! whether it has them. Small files that are new are hashed at once and added by a thread of their own: recipes have many of
//! them, and the file system takes its time for each.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use sos_formats::derivation::Method;
use sos_formats::store_path::StorePath;
use sos_store::{Store, StoreError};

/// Files up to this size are read twice, to be hashed and to be added, by the two threads.
const SMALL_BYTES: u64 = 64 << 10;

/// A source as it is added.
#[derive(Clone)]
struct Source {
    physical: PathBuf,
    name: String,
    method: Method,
}

/// Sources whose paths were given away.
pub(crate) struct Sources {
    store: Store,
    /// Those that the store may not have or keep yet.
    unsettled: RefCell<BTreeMap<StorePath, Source>>,
    adder: RefCell<Option<Adder>>,
}

impl Sources {
    /// No sources yet.
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            unsettled: RefCell::default(),
            adder: RefCell::default(),
        }
    }

    /// The store path of a source that will be in the store when it is needed; nothing when it should be added at once.
    ///
    /// # Errors
    /// What cannot be read; a name that no object can have.
    pub(crate) fn name(
        &self,
        physical: &Path,
        name: &str,
        method: Method,
    ) -> Result<Option<StorePath>, StoreError> {
        if self.store.is_read_only() {
            return Ok(None);
        }
        let named = self
            .store
            .name_source(physical, name, method, SMALL_BYTES)?;
        let Some((path, known)) = named else {
            return Ok(None);
        };
        let source = Source {
            physical: physical.to_path_buf(),
            name: name.to_owned(),
            method,
        };
        if !known {
            let mut adder = self.adder.borrow_mut();
            adder
                .get_or_insert_with(|| Adder::start(&self.store))
                .add(source.clone());
        }
        self.unsettled.borrow_mut().insert(path.clone(), source);
        Ok(Some(path))
    }

    /// Sees to it that the store has, and keeps, the sources whose paths were given away.
    ///
    /// # Errors
    /// [`StoreError::Changed`] for a file that is not what it was any more; what cannot be added.
    pub(crate) fn settle(&self) -> Result<(), StoreError> {
        // They stay until all is well: who cannot fail here leaves it to the next one.
        let sources = self.unsettled.borrow().clone();
        if sources.is_empty() {
            return Ok(());
        }
        if let Some(adder) = self.adder.take() {
            adder.finish();
        }
        let paths: Vec<StorePath> = sources.keys().cloned().collect();
        for path in self.store.hold_present(&paths)? {
            let Source {
                physical,
                name,
                method,
            } = &sources[&path];
            if self.store.add_path(physical, name, *method, None)? != path {
                return Err(StoreError::Changed {
                    path: physical.clone(),
                });
            }
        }
        self.unsettled.borrow_mut().clear();
        Ok(())
    }
}

/// The thread that adds sources. What it cannot add is found missing afterwards, and fails there.
struct Adder {
    queue: Option<Sender<Source>>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Adder {
    fn start(store: &Store) -> Self {
        let (queue, sources) = channel();
        let stopped = Arc::new(AtomicBool::new(false));
        let (store, stop) = (store.clone(), Arc::clone(&stopped));
        let thread = std::thread::Builder::new()
            .name("sources".to_owned())
            .spawn(move || add_all(&store, &sources, &stop));
        Self {
            queue: Some(queue),
            stopped,
            thread: thread.ok(),
        }
    }

    fn add(&self, source: Source) {
        if let Some(Err(unsent)) = self.queue.as_ref().map(|queue| queue.send(source)) {
            tracing::debug!(name = unsent.0.name, "a source is added later");
        }
    }

    fn finish(mut self) {
        self.queue = None;
        self.join();
    }

    fn join(&mut self) {
        if self.thread.take().is_some_and(|t| t.join().is_err()) {
            tracing::debug!("adding sources failed");
        }
    }
}

impl Drop for Adder {
    fn drop(&mut self) {
        // An evaluation that failed needs none of them.
        self.stopped.store(true, Ordering::Relaxed);
        self.queue = None;
        self.join();
    }
}

fn add_all(store: &Store, sources: &Receiver<Source>, stopped: &AtomicBool) {
    for Source {
        physical,
        name,
        method,
    } in sources
    {
        if stopped.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = store.add_path(&physical, &name, method, None) {
            tracing::debug!(%error, "a source cannot be added");
        }
    }
}
