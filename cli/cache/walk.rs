//! What `stat` says about many files, in one number: the short way to tell that none of them has changed.
//!
//! A walk uses a few threads, looks up names relative to open directories, and reads no file. The number does not depend on the
//! order in which the files are met.

use std::ffi::{CString, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, Stat};
use sos_formats::hash::Blake3;
use sos_lang::FileType;
use sos_store::StatKey;

use super::bytes::Writer;
use super::inputs::type_byte;
use super::look::{trusts, trusts_device};

/// Threads of a walk; more do not help one disk or one kernel.
const MAX_THREADS: usize = 8;
/// Names of one directory that one thread looks up at a time.
pub(super) const PART: usize = 512;
/// Work that is worth a further thread.
const WORTH_A_THREAD: usize = 16;
/// A source with more entries than this is read again instead.
pub(super) const MAX_ENTRIES: usize = 4_000_000;

/// Whether an entry counts; nothing when that is not known.
pub(super) type Taken<'a> = &'a (dyn Fn(&Path, FileType) -> Option<bool> + Sync);

/// The sum, modulo 2^256, of the digests of what was seen: a digest of a set.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Print {
    sum: [u64; 4],
    /// Something is so young that it may change unseen, or on a file system whose times tell nothing.
    racy: bool,
}

impl Print {
    /// Adds one entry. Of a directory and of what does not count only name and kind are told.
    pub(super) fn add(&mut self, below: &Path, kind: FileType, key: Option<&StatKey>, taken: bool) {
        let mut writer = Writer::default();
        writer.path(below);
        writer.byte(type_byte(kind));
        writer.byte(u8::from(taken));
        if let Some(key) = key {
            for number in [key.dev, key.ino, key.size, key.mtime_ns, key.ctime_ns] {
                writer.signed(number);
            }
        }
        self.add_digest(&Blake3::of(&writer.0));
    }

    fn add_key(&mut self, below: &Path, kind: FileType, key: &StatKey, now_nanos: i128) {
        self.racy |= key.is_racy(now_nanos);
        self.add(below, kind, Some(key), true);
    }

    fn add_digest(&mut self, digest: &Blake3) {
        let mut carry = false;
        for (sum, part) in self.sum.iter_mut().zip(digest.0.as_chunks::<8>().0) {
            let (with_part, over) = sum.overflowing_add(u64::from_le_bytes(*part));
            let (with_carry, over_again) = with_part.overflowing_add(u64::from(carry));
            *sum = with_carry;
            carry = over || over_again;
        }
    }

    /// Adds what another thread saw.
    pub(super) fn merge(&mut self, other: &Self) {
        let mut digest = [0; 32];
        for (to, part) in digest.as_chunks_mut::<8>().0.iter_mut().zip(other.sum) {
            *to = part.to_le_bytes();
        }
        self.add_digest(&Blake3(digest));
        self.racy |= other.racy;
    }

    /// The digest, unless something is so young that it may change unseen.
    pub(super) fn finish(self) -> Option<Blake3> {
        let mut writer = Writer::default();
        for part in self.sum {
            writer.0.extend_from_slice(&part.to_le_bytes());
        }
        (!self.racy).then(|| Blake3::of(&writer.0))
    }

    /// Adds what a store met while it took a source.
    pub(super) fn add_met(
        &mut self,
        below: &Path,
        meta: &std::fs::Metadata,
        taken: bool,
        now_nanos: i128,
    ) {
        let kind = kind_of_std(meta.file_type());
        if taken && kind != FileType::Directory {
            self.add_key(below, kind, &StatKey::of(meta), now_nanos);
        } else {
            self.add(below, kind, None, taken);
        }
    }
}

/// How a tree is looked at.
#[derive(Clone, Copy)]
pub(super) struct Look<'a> {
    /// Before anything was looked at.
    pub(super) now_nanos: i128,
    /// What of it counts; everything when there is no rule.
    pub(super) taken: Option<Taken<'a>>,
    /// Whether the times of directories count.
    pub(super) directory_times: bool,
    /// Something that is left out, and what is in it.
    pub(super) skip: Option<&'a Path>,
}

/// Looks at a file, link or directory and at everything in it. Nothing when that cannot be done, when `taken` does not know
/// something, when something that counts is on a file system whose times tell nothing, or when there are too many entries.
pub(super) fn tree(root: &Path, look: Look<'_>) -> Option<Print> {
    let mut print = Print::default();
    let meta = std::fs::symlink_metadata(root).ok()?;
    if !trusts(&meta, root) {
        return None;
    }
    if meta.is_dir() {
        let key = look.directory_times.then(|| StatKey::of(&meta));
        print.racy = key.is_some_and(|key| key.is_racy(look.now_nanos));
        print.add(Path::new(""), FileType::Directory, key.as_ref(), true);
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        let top = rustix::fs::open(root, flags, Mode::empty()).ok()?;
        let walk = Walk::new(root, top, meta.dev(), look);
        print.merge(&walk.run()?);
    } else {
        let kind = kind_of_std(meta.file_type());
        print.add_key(Path::new(""), kind, &StatKey::of(&meta), look.now_nanos);
    }
    Some(print)
}

/// The digest of a source as it is copied to the store, of which everything or what `taken` says counts. Nothing where [`tree`] has
/// nothing, or when something is so young that it may change unseen.
pub(super) fn source(root: &Path, taken: Option<Taken<'_>>, now_nanos: i128) -> Option<Blake3> {
    let look = Look {
        now_nanos,
        taken,
        directory_times: false,
        skip: None,
    };
    tree(root, look).and_then(Print::finish)
}

/// Looks at files by their names below a directory; what is not there counts as that.
pub(super) fn files(root: &Path, names: &[&[u8]], now_nanos: i128) -> Option<Print> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH;
    let top = rustix::fs::open(root, flags, Mode::empty()).ok()?;
    let look = |top, names| some_files(root, top, names, now_nanos);
    let part = names.len().div_ceil(threads()).max(PART);
    std::thread::scope(|scope| {
        let top = top.as_fd();
        let mut parts = names.chunks(part);
        let mine = parts.next().unwrap_or_default();
        let others: Vec<_> = parts
            .map(|names| scope.spawn(move || look(top, names)))
            .collect();
        let mut print = look(top, mine);
        for other in others {
            print.merge(&other.join().ok()?);
        }
        Some(print)
    })
}

fn some_files(root: &Path, top: BorrowedFd<'_>, names: &[&[u8]], now_nanos: i128) -> Print {
    let mut print = Print::default();
    let mut device = None;
    for name in names {
        let below = Path::new(OsStr::from_bytes(name));
        match rustix::fs::statat(top, *name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                if device != Some(stat.st_dev) {
                    print.racy |= !trusts_stat(&stat, || root.join(below));
                    device = Some(stat.st_dev);
                }
                print.add_key(below, kind_of(&stat), &key_of(&stat), now_nanos);
            }
            Err(_) => print.add(below, FileType::Unknown, None, false),
        }
    }
    print
}

/// Threads that look at a tree.
pub(super) fn threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    cores.min(MAX_THREADS)
}

/// A piece of work.
enum Job {
    /// A directory below the root.
    Directory(PathBuf),
    /// Some of the names in an open directory.
    Names(Arc<Open>, std::ops::Range<usize>),
}

/// A directory whose names were read.
struct Open {
    below: PathBuf,
    fd: OwnedFd,
    names: Vec<CString>,
}

struct State {
    jobs: Vec<Job>,
    busy: usize,
    entries: usize,
    failed: bool,
}

struct Walk<'a> {
    root: &'a Path,
    top: OwnedFd,
    /// The file system of the root, which is trusted.
    device: u64,
    look: Look<'a>,
    state: Mutex<State>,
    more: Condvar,
}

impl<'a> Walk<'a> {
    fn new(root: &'a Path, top: OwnedFd, device: u64, look: Look<'a>) -> Self {
        let state = State {
            jobs: vec![Job::Directory(PathBuf::new())],
            busy: 0,
            entries: 0,
            failed: false,
        };
        Self {
            root,
            top,
            device,
            look,
            state: Mutex::new(state),
            more: Condvar::new(),
        }
    }

    fn run(&self) -> Option<Print> {
        let mut print = Print::default();
        std::thread::scope(|scope| {
            // The first jobs show whether there is work for more than one.
            let mut helpers = Vec::new();
            self.work(&mut print, || {
                if helpers.is_empty() {
                    for _ in 1..threads() {
                        helpers.push(scope.spawn(|| {
                            let mut print = Print::default();
                            self.work(&mut print, || ());
                            print
                        }));
                    }
                }
            });
            for helper in helpers {
                match helper.join() {
                    Ok(seen) => print.merge(&seen),
                    Err(_) => self.locked().failed = true,
                }
            }
        });
        (!self.locked().failed).then_some(print)
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works until nothing is left; `busy_day` is called when there is work for others.
    fn work(&self, print: &mut Print, mut busy_day: impl FnMut()) {
        let mut buffer = vec![MaybeUninit::uninit(); 64 << 10];
        let mut state = self.locked();
        loop {
            if state.failed {
                return;
            }
            let Some(job) = state.jobs.pop() else {
                if state.busy == 0 {
                    return;
                }
                state = self
                    .more
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.busy += 1;
            let many = state.jobs.len() >= WORTH_A_THREAD;
            drop(state);
            if many {
                busy_day();
            }
            let done = self.job(job, print, &mut buffer);
            state = self.locked();
            state.busy -= 1;
            match done {
                Some((jobs, entries)) => {
                    state.jobs.extend(jobs);
                    state.entries += entries;
                    state.failed |= state.entries > MAX_ENTRIES;
                }
                None => state.failed = true,
            }
            if state.busy == 0 || state.failed || !state.jobs.is_empty() {
                self.more.notify_all();
            }
        }
    }

    /// Does one job; gives further ones, and the number of entries it met.
    fn job(
        &self,
        job: Job,
        print: &mut Print,
        buffer: &mut [MaybeUninit<u8>],
    ) -> Option<(Vec<Job>, usize)> {
        let (open, range) = match job {
            Job::Directory(below) => {
                let open = Arc::new(self.open(below, buffer)?);
                let all = open.names.len();
                if all > PART {
                    let parts = (0..all).step_by(PART);
                    let jobs = parts.map(|at| Job::Names(open.clone(), at..all.min(at + PART)));
                    return Some((jobs.collect(), 0));
                }
                (open, 0..all)
            }
            Job::Names(open, range) => (open, range),
        };
        let mut jobs = Vec::new();
        let count = range.len();
        for name in &open.names[range] {
            let below = open.below.join(OsStr::from_bytes(name.to_bytes()));
            if self.look.skip.is_some_and(|skip| skip == below) {
                continue;
            }
            let stat = rustix::fs::statat(&open.fd, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            let kind = kind_of(&stat);
            let taken = match self.look.taken {
                Some(taken) => taken(&below, kind)?,
                None => true,
            };
            let other = stat.st_dev != self.device;
            if taken && other && !trusts_stat(&stat, || self.root.join(&below)) {
                return None;
            }
            let directory = kind == FileType::Directory;
            if taken && (!directory || self.look.directory_times) {
                print.add_key(&below, kind, &key_of(&stat), self.look.now_nanos);
            } else {
                print.add(&below, kind, None, taken);
            }
            if taken && directory {
                jobs.push(Job::Directory(below));
            }
        }
        Some((jobs, count))
    }

    fn open(&self, below: PathBuf, buffer: &mut [MaybeUninit<u8>]) -> Option<Open> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY | OFlags::NOFOLLOW;
        let fd = if below.as_os_str().is_empty() {
            self.top.try_clone().ok()?
        } else {
            let opened = rustix::fs::openat(&self.top, &below, flags, Mode::empty());
            // A name that is too long in one piece.
            let opened =
                opened.or_else(|_| rustix::fs::open(self.root.join(&below), flags, Mode::empty()));
            opened.ok()?
        };
        let mut names = Vec::new();
        let mut entries = RawDir::new(fd.as_fd(), buffer);
        while let Some(entry) = entries.next() {
            let entry = entry.ok()?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name.to_owned());
            }
        }
        Some(Open { below, fd, names })
    }
}

/// What identifies the state of what was looked at.
pub(super) fn key_of(stat: &Stat) -> StatKey {
    let nanos = |secs: i64, nanos: i64| secs.saturating_mul(1_000_000_000).saturating_add(nanos);
    #[allow(
        clippy::cast_possible_wrap,
        clippy::unnecessary_cast,
        clippy::useless_conversion,
        reason = "the fields differ between machines, and the bits are what counts"
    )]
    StatKey {
        dev: stat.st_dev as i64,
        ino: stat.st_ino as i64,
        size: stat.st_size as i64,
        mtime_ns: nanos(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
        ctime_ns: nanos(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
    }
}

/// Whether the times of what is at a path tell something.
pub(super) fn trusts_stat(stat: &Stat, path: impl FnOnce() -> PathBuf) -> bool {
    trusts_device(stat.st_dev, kind_of(stat) == FileType::Symlink, path)
}

fn kind_of(stat: &Stat) -> FileType {
    match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
        rustix::fs::FileType::Directory => FileType::Directory,
        rustix::fs::FileType::Symlink => FileType::Symlink,
        rustix::fs::FileType::RegularFile => FileType::Regular,
        _ => FileType::Unknown,
    }
}

/// What an entry is.
pub(crate) fn kind_of_std(t: std::fs::FileType) -> FileType {
    if t.is_dir() {
        FileType::Directory
    } else if t.is_symlink() {
        FileType::Symlink
    } else if t.is_file() {
        FileType::Regular
    } else {
        FileType::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::Names;
    use super::*;

    fn whole(root: &Path, now_nanos: i128) -> Option<Blake3> {
        let look = Look {
            now_nanos,
            taken: None,
            directory_times: false,
            skip: None,
        };
        tree(root, look)?.finish()
    }

    #[test]
    fn a_store_and_a_walk_see_the_same() {
        let dir = tempfile::tempdir().unwrap();
        for d in 0..30 {
            let sub = dir.path().join(format!("d{d}/e"));
            std::fs::create_dir_all(&sub).unwrap();
            for f in 0..d * 40 {
                std::fs::write(sub.join(format!("f{f}")), "x").unwrap();
            }
        }
        std::os::unix::fs::symlink("d1", dir.path().join("link")).unwrap();
        let later = sos_store::now_nanos() + 10_000_000_000;
        let walked = whole(dir.path(), later).unwrap();
        let mut met = Print::default();
        let mut pending = vec![dir.path().to_owned()];
        while let Some(place) = pending.pop() {
            let meta = std::fs::symlink_metadata(&place).unwrap();
            let below = place.strip_prefix(dir.path()).unwrap();
            met.add_met(below, &meta, true, later);
            if meta.is_dir() {
                let names = std::fs::read_dir(&place).unwrap();
                pending.extend(names.map(|entry| entry.unwrap().path()));
            }
        }
        assert_eq!(met.finish().unwrap(), walked);
        assert_eq!(whole(dir.path(), later), Some(walked));
        // Too young to be believed.
        assert_eq!(whole(dir.path(), sos_store::now_nanos()), None);
        std::fs::rename(dir.path().join("d3/e/f1"), dir.path().join("d3/f1")).unwrap();
        assert_ne!(whole(dir.path(), later), Some(walked));
    }

    /// `/sys` is mounted inside a directory of another file system, and its files change without new times.
    #[test]
    fn what_is_mounted_in_a_tree_must_be_trusted_too() {
        let root = Path::new("/");
        let later = sos_store::now_nanos() + 10_000_000_000;
        let here = super::super::look::keeps_times(root);
        for (mounted, trusted) in [("sys", false), ("none", here)] {
            let taken =
                |below: &Path, _| Some([mounted, "sys/kernel"].map(Path::new).contains(&below));
            assert_eq!(source(root, Some(&taken), later).is_some(), trusted);
            assert_eq!(Names::of(root, Some(&taken), later).is_some(), trusted);
        }
        for (name, trusted) in [("sys/kernel/mm", false), ("none", here)] {
            let print = files(root, &[name.as_bytes()], later).unwrap();
            assert_eq!(print.finish().is_some(), trusted, "{name}");
        }
    }

    #[test]
    fn files_are_told_by_content_and_by_being_there() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "1").unwrap();
        let later = sos_store::now_nanos() + 10_000_000_000;
        let look = || files(dir.path(), &[b"a", b"b"], later).unwrap().finish();
        let before = look();
        assert_eq!(before, look());
        std::fs::write(dir.path().join("b"), "2").unwrap();
        let both = look();
        assert_ne!(before, both);
        std::fs::write(dir.path().join("a"), "12").unwrap();
        assert_ne!(both, look());
        // What is not listed does not matter.
        let now = look();
        std::fs::write(dir.path().join("c"), "3").unwrap();
        assert_eq!(now, look());
    }
}
