//! Puts files in their places in a staged tree, as hard links of blobs, on a few threads.
//!
//! Reading and hashing a NAR has an order, making links has none and costs more. The result does not depend on
//! which thread does what: names and contents are given, and equal contents are equal.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::Scope;

use sos_formats::hash::Blake3;

use crate::cas::{self, Cas, beside};
use crate::db::lock;
use crate::error::{IoContext, Result, StoreError};
use crate::sys;

/// Files that are placed before threads are started: most objects are smaller.
const INLINE_FILES: usize = 24;
/// Files in the queue; each holds at most [`cas::IN_MEMORY_BYTES`].
const QUEUE: usize = 32;
const MAX_THREADS: usize = 4;

/// A file to be placed.
pub(crate) struct Job {
    /// The number by which its hash is returned.
    pub(crate) index: usize,
    pub(crate) place: PathBuf,
    pub(crate) executable: bool,
    pub(crate) content: Content,
    pub(crate) state: State,
}

pub(crate) enum Content {
    /// All of it, not hashed yet.
    Bytes(Vec<u8>),
    /// Known from reading it as a stream; the file holds it.
    Hashed { hash: Blake3, size: u64 },
}

/// What is at the place of a file already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing.
    Absent,
    /// The file itself, and its inode may become a blob.
    Adoptable,
    /// The file itself, but others have names for it or own it: it must be replaced by a copy.
    Foreign,
}

/// Takes jobs while a tree is read.
pub(crate) struct Placer<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    shared: Arc<Shared<'env>>,
    queue: Option<SyncSender<Job>>,
    accepted: usize,
}

struct Shared<'env> {
    cas: &'env Cas,
    hashes: Mutex<Vec<(usize, Blake3)>>,
    failure: Mutex<Option<StoreError>>,
}

impl<'scope, 'env> Placer<'scope, 'env> {
    /// Places files for as long as `work` runs; returns its value and the hash of every file by its number.
    pub(crate) fn run<T>(
        cas: &'env Cas,
        work: impl for<'s> FnOnce(&mut Placer<'s, 'env>) -> Result<T>,
    ) -> Result<(T, Vec<(usize, Blake3)>)> {
        let shared = Arc::new(Shared {
            cas,
            hashes: Mutex::default(),
            failure: Mutex::default(),
        });
        let result = std::thread::scope(|scope| {
            let mut placer = Placer {
                scope,
                shared: Arc::clone(&shared),
                queue: None,
                accepted: 0,
            };
            work(&mut placer)
            // Dropping the placer closes the queue, and leaving the scope waits for the threads.
        });
        // A failed placement is the cause of whatever the reader may have met after it.
        if let Some(failure) = lock(&shared.failure).take() {
            return Err(failure);
        }
        let value = result?;
        let mut hashes = std::mem::take(&mut *lock(&shared.hashes));
        hashes.sort_unstable_by_key(|(index, _)| *index);
        Ok((value, hashes))
    }

    /// Places a file, now or soon.
    pub(crate) fn submit(&mut self, job: Job) -> Result<()> {
        self.accepted += 1;
        if self.accepted <= INLINE_FILES {
            return self.shared.work(job);
        }
        if self.queue.is_none() {
            self.queue = Some(self.start());
        }
        if let Some(failure) = lock(&self.shared.failure).take() {
            return Err(failure);
        }
        match &self.queue {
            Some(queue) => match queue.send(job) {
                Ok(()) => Ok(()),
                // All threads are gone, which they are only after a panic; do it here.
                Err(returned) => self.shared.work(returned.0),
            },
            None => self.shared.work(job),
        }
    }

    fn start(&self) -> SyncSender<Job> {
        let (sender, receiver) = sync_channel(QUEUE);
        let receiver = Arc::new(Mutex::new(receiver));
        let count = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(MAX_THREADS);
        for _ in 0..count {
            let shared = Arc::clone(&self.shared);
            let receiver = Arc::clone(&receiver);
            self.scope.spawn(move || shared.serve(&receiver));
        }
        sender
    }
}

impl Shared<'_> {
    fn serve(&self, queue: &Mutex<Receiver<Job>>) {
        loop {
            let job = lock(queue).recv();
            let Ok(job) = job else { return };
            if lock(&self.failure).is_some() {
                // The queue is emptied so that the reader is not left waiting.
                continue;
            }
            if let Err(err) = self.work(job) {
                lock(&self.failure).get_or_insert(err);
            }
        }
    }

    fn work(&self, job: Job) -> Result<()> {
        let index = job.index;
        let hash = place(self.cas, job)?;
        lock(&self.hashes).push((index, hash));
        Ok(())
    }
}

/// Makes the file of a job a sealed hard link of its blob.
fn place(cas: &Cas, job: Job) -> Result<Blake3> {
    let Job {
        place,
        executable,
        content,
        state,
        ..
    } = job;
    let (hash, size) = match &content {
        Content::Bytes(data) => (Blake3::of(data), data.len() as u64),
        Content::Hashed { hash, size } => (*hash, *size),
    };
    let blob = cas.path(&hash, executable);
    if state == State::Foreign && size > 0 && is_linked(&blob, &place, size)? {
        return Ok(hash);
    }
    let mut exhausted = false;
    if state == State::Absent && size > 0 {
        match sys::hard_link(&blob, &place) {
            Ok(()) => {
                let found = std::fs::symlink_metadata(&place).at("look at", &place)?;
                if found.is_file() && found.len() == size {
                    return Ok(hash);
                }
                // Cut short by a power failure.
                std::fs::remove_file(&place).at("remove", &place)?;
            }
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) if sys::is_link_refused(&err) => exhausted = sys::is_too_many_links(&err),
            Err(err) => return Err(StoreError::io("make a link at", place, err)),
        }
    }
    match state {
        State::Absent => write_sealed(&place, &content, executable)?,
        State::Adoptable => {
            let file = cas::open_regular(&place)?;
            if sys::has_attributes(&file).at("look at", &place)? {
                replace_by_copy(&place, &content, &hash, executable)?;
            } else {
                cas::seal(&file, &place, executable)?;
            }
        }
        State::Foreign => replace_by_copy(&place, &content, &hash, executable)?,
    }
    if size == 0 {
        // Empty files share nothing, and one inode for all of them would run out of links first.
        return Ok(hash);
    }
    if exhausted {
        tracing::debug!(%hash, "the inode of a blob has all the names it can take; a new one takes its place");
        cas.replace(&place, &blob)?;
        return Ok(hash);
    }
    match cas.adopt(&place, &hash, executable, size) {
        Ok(true) => Ok(hash),
        Ok(false) => {
            share(&blob, &place, cas)?;
            Ok(hash)
        }
        // Without links the tree is whole all the same.
        Err(StoreError::Io { source, .. }) if sys::is_link_refused(&source) => Ok(hash),
        Err(err) => Err(err),
    }
}

/// Makes a file whose content is that of a blob a link of it, where that is here and whole: most files with other names are links of
/// blobs, put there by builders that take what other objects have.
fn is_linked(blob: &Path, place: &Path, size: u64) -> Result<bool> {
    let link = beside(place, ".link");
    match sys::hard_link(blob, &link) {
        Ok(()) => {}
        Err(err) if err.kind() == io::ErrorKind::NotFound || sys::is_link_refused(&err) => {
            return Ok(false);
        }
        Err(err) => return Err(StoreError::io("make a link at", link, err)),
    }
    let found = std::fs::symlink_metadata(&link).at("look at", &link)?;
    let is_whole = found.is_file() && found.len() == size;
    if is_whole {
        std::fs::rename(&link, place).at("replace", place)?;
    }
    // Renaming does nothing where both are one file already.
    match std::fs::remove_file(&link) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", link, err))
        }
        _ => Ok(is_whole),
    }
}

/// Replaces a sealed file by a link of the blob with the same content, if that can be had.
fn share(blob: &Path, place: &Path, cas: &Cas) -> Result<()> {
    let link = beside(place, ".link");
    match sys::hard_link(blob, &link) {
        Ok(()) => std::fs::rename(&link, place).at("replace", place),
        Err(err) if sys::is_too_many_links(&err) => cas.replace(place, blob),
        // Collected in this moment: the file is good by itself.
        Err(err) if err.kind() == io::ErrorKind::NotFound || sys::is_link_refused(&err) => Ok(()),
        Err(err) => Err(StoreError::io("make a link at", link, err)),
    }
}

/// Puts a fresh inode in the place of a file that must not be shared as it is.
fn replace_by_copy(place: &Path, content: &Content, hash: &Blake3, executable: bool) -> Result<()> {
    let fresh = beside(place, ".new");
    match content {
        Content::Bytes(_) => write_sealed(&fresh, content, executable)?,
        Content::Hashed { .. } => copy_sealed(place, &fresh, hash, executable)?,
    }
    std::fs::rename(&fresh, place).at("replace", place)
}

fn write_sealed(place: &Path, content: &Content, executable: bool) -> Result<()> {
    let mut file = cas::create_private(place)?;
    if let Content::Bytes(data) = content {
        file.write_all(data).at("write", place)?;
    }
    cas::seal(&file, place, executable)
}

fn copy_sealed(from: &Path, to: &Path, expected: &Blake3, executable: bool) -> Result<()> {
    let mut source = cas::open_regular(from)?;
    let mut file = cas::create_private(to)?;
    let (hash, _) = cas::copy_hashed(&mut source, &mut file, &[]).at("copy", from)?;
    if hash != *expected {
        return Err(StoreError::Changed {
            path: from.to_owned(),
        });
    }
    cas::seal(&file, to, executable)
}
