//! From files and links to content objects: their checksums, and what a repository stores of them.

use std::io::{self, Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use sos_engine::BuilderError;
use sos_formats::hash::{Blake3, HashAlgo, Hasher, Sha256};
use sos_formats::ostree::{FileHeader, Xattrs, dirmeta};
use sos_store::{Derived, Store};

use super::Mode;
use crate::build::Build;
use crate::fragments::{self, Deflater, FINAL, Fragment, LEVEL, MIN_BYTES, read_block};

/// Bytes read of a file at once.
const PIECE_BYTES: usize = 128 << 10;

/// Everything that decides about the checksum of a file or link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileKey {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// With the type bits.
    pub(super) mode: u32,
    pub(super) xattrs: Xattrs,
    /// Of a link.
    pub(super) target: String,
    /// Of a file: its bytes and how many.
    pub(super) blob: Option<(Blake3, u64)>,
}

impl FileKey {
    fn header(&self) -> FileHeader<'_> {
        FileHeader {
            uid: self.uid,
            gid: self.gid,
            mode: self.mode,
            target: &self.target,
            xattrs: &self.xattrs,
        }
    }

    /// What is known of this file is kept under this.
    fn kept_under(&self, mode: Mode) -> Blake3 {
        let what = match mode {
            Mode::Archive => format!("ostree filez {LEVEL} of fragments, 2\0"),
            Mode::BareUser => "ostree file\0".to_owned(),
        };
        let blob = self.blob.map(|(blob, _)| blob.0).unwrap_or_default();
        Blake3::of(&[what.as_bytes(), &blob, &self.header().framed()].concat())
    }
}

/// A content object.
#[derive(Clone, Debug)]
pub(super) struct Content {
    /// Its name.
    pub(super) checksum: Sha256,
    /// What the repository stores: a blob of the store, and its size.
    pub(super) blob: Blake3,
    pub(super) size: u64,
    /// Whether the file of a bare-user repository may be executed.
    pub(super) executable: bool,
    /// `user.ostreemeta` of a bare-user repository.
    pub(super) meta: Option<Vec<u8>>,
}

impl Content {
    fn compressed(checksum: Sha256, blob: Blake3, size: u64) -> Self {
        Self {
            checksum,
            blob,
            size,
            executable: false,
            meta: None,
        }
    }
}

/// Finds the content objects of all files, in their order, on as many threads as the build may use.
pub(super) fn describe(
    build: &dyn Build,
    files: &[FileKey],
    mode: Mode,
) -> Result<Vec<Content>, BuilderError> {
    let store = build.store();
    let keys: Vec<Blake3> = files.iter().map(|file| file.kept_under(mode)).collect();
    let known = store.derived(&keys)?;
    let work = Work {
        store,
        mode,
        files,
        keys: &keys,
        known: &known,
        next: AtomicUsize::new(0),
        done: files.iter().map(|_| Mutex::new(None)).collect(),
        new: Mutex::new(Vec::new()),
        failure: Mutex::new(None),
    };
    std::thread::scope(|scope| {
        for _ in 1..build.cores().clamp(1, files.len().max(1)) {
            scope.spawn(|| work.run(&|_| true));
        }
        // This thread works too, and speaks with the engine.
        work.run(&|so_far| {
            build.progress(so_far as u64, files.len() as u64);
            !build.cancelled()
        });
    });
    if let Some(error) = unlock(work.failure) {
        return Err(error);
    }
    store.keep_derived(&unlock(work.new))?;
    let found = work.done.into_iter().map(unlock);
    found
        .collect::<Option<Vec<Content>>>()
        .ok_or(BuilderError::Cancelled)
}

/// The files of one commit, shared by the threads that read them.
struct Work<'a> {
    store: &'a Store,
    mode: Mode,
    files: &'a [FileKey],
    keys: &'a [Blake3],
    known: &'a [Option<Vec<u8>>],
    next: AtomicUsize,
    done: Vec<Mutex<Option<Content>>>,
    /// What was worked out and shall be kept.
    new: Mutex<Vec<Derived>>,
    failure: Mutex<Option<BuilderError>>,
}

impl Work<'_> {
    /// Takes one file after the other while `go_on` says so.
    fn run(&self, go_on: &dyn Fn(usize) -> bool) {
        let mut deflate = Deflater::new(LEVEL);
        loop {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = self.files.get(at) else {
                return;
            };
            let content = if go_on(at) {
                self.one(at, file, &mut deflate)
            } else {
                Err(BuilderError::Cancelled)
            };
            match content {
                Ok(content) => *lock(&self.done[at]) = Some(content),
                Err(error) => {
                    lock(&self.failure).get_or_insert(error);
                    // Nobody finds another file.
                    self.next.store(self.files.len(), Ordering::Relaxed);
                }
            }
        }
    }

    fn one(
        &self,
        at: usize,
        file: &FileKey,
        deflate: &mut Deflater,
    ) -> Result<Content, BuilderError> {
        let known = self.known[at].as_deref();
        let Some((blob, size)) = file.blob else {
            return self.link(file);
        };
        let keep = |value: Vec<u8>| {
            lock(&self.new).push(Derived {
                key: self.keys[at],
                source: blob,
                value,
            });
        };
        match self.mode {
            Mode::BareUser => {
                let checksum = match known.and_then(|value| value.try_into().ok()) {
                    Some(known) => Sha256(known),
                    None => {
                        let checksum = checksum(self.store, file, &blob)?;
                        keep(checksum.0.to_vec());
                        checksum
                    }
                };
                Ok(Content {
                    checksum,
                    blob,
                    size,
                    executable: file.mode & 0o111 != 0,
                    meta: Some(bare_meta(file)),
                })
            }
            Mode::Archive => {
                if let Some((checksum, filez, size)) = known.and_then(unpacked)
                    && self.store.take_blob(&filez)?
                {
                    return Ok(Content::compressed(checksum, filez, size));
                }
                let (checksum, filez, stored) = self.compress(file, &blob, size, deflate)?;
                keep([&checksum.0[..], &filez.0, &stored.to_le_bytes()].concat());
                Ok(Content::compressed(checksum, filez, stored))
            }
        }
    }

    /// Works out the checksum of a file and stores its compressed form; gives that blob and its size too.
    fn compress(
        &self,
        file: &FileKey,
        blob: &Blake3,
        size: u64,
        deflate: &mut Deflater,
    ) -> Result<(Sha256, Blake3, u64), BuilderError> {
        let store = self.store;
        let header = file.header();
        let prefix = header.framed_filez(size);
        // Layers of images share what is worth it.
        let shared = size >= MIN_BYTES;
        if shared && let Some(known) = fragments::find(store, LEVEL, blob)? {
            let checksum = checksum(store, file, blob)?;
            let mut stream = prefix.chain(known.open(store)?).chain(&FINAL[..]);
            let (filez, stored) = store.put_blob(&mut stream)?;
            return Ok((checksum, filez, stored));
        }
        let mut hasher = Hasher::new(HashAlgo::Sha256);
        hasher.update(&header.framed());
        let offset = prefix.len() as u64;
        let mut stream = Compressing {
            source: store.open_blob(blob)?,
            hasher,
            crc: crc32fast::Hasher::new(),
            out: prefix,
            given: 0,
            deflate,
            ended: false,
            block: Vec::new(),
        };
        let (filez, stored) = store.put_blob(&mut stream)?;
        if shared {
            let fragment = Fragment {
                container: filez,
                offset,
                len: stored - offset - FINAL.len() as u64,
                crc: stream.crc.finalize(),
            };
            lock(&self.new).push(fragment.derived(LEVEL, blob, *blob));
        }
        Ok((sha256(stream.hasher)?, filez, stored))
    }

    fn link(&self, link: &FileKey) -> Result<Content, BuilderError> {
        let header = link.header();
        let (bytes, meta) = match self.mode {
            Mode::Archive => (header.framed_filez(0), None),
            // With NUL at the end, as libostree has it.
            Mode::BareUser => {
                let target = [link.target.as_bytes(), b"\0"].concat();
                (target, Some(bare_meta(link)))
            }
        };
        Ok(Content {
            checksum: Sha256::of(&header.framed()),
            blob: self.store.put_blob_bytes(&bytes)?,
            size: bytes.len() as u64,
            executable: false,
            meta,
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn unlock<T>(mutex: Mutex<T>) -> T {
    mutex
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn bare_meta(file: &FileKey) -> Vec<u8> {
    dirmeta(file.uid, file.gid, file.mode, &file.xattrs)
}

/// Works out the checksum of a file that is stored as it is.
fn checksum(store: &Store, file: &FileKey, blob: &Blake3) -> Result<Sha256, BuilderError> {
    let mut hasher = Hasher::new(HashAlgo::Sha256);
    hasher.update(&file.header().framed());
    let mut source = store.open_blob(blob)?;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match source.read(&mut piece) {
            Ok(0) => return sha256(hasher),
            Ok(n) => hasher.update(&piece[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(BuilderError::io(format!("cannot read the blob {blob}"), e)),
        }
    }
}

fn unpacked(value: &[u8]) -> Option<(Sha256, Blake3, u64)> {
    let (checksum, rest) = value.split_first_chunk::<32>()?;
    let (filez, rest) = rest.split_first_chunk::<32>()?;
    let size = u64::from_le_bytes(rest.try_into().ok()?);
    Some((Sha256(*checksum), Blake3(*filez), size))
}

fn sha256(hasher: Hasher) -> Result<Sha256, BuilderError> {
    let digest = hasher.finish().as_sha256();
    digest.ok_or_else(|| BuilderError::failed("a SHA-256 hasher gave another hash"))
}

/// A `.filez` object as it is made: header, then the file as raw deflate data, while its checksum is taken.
struct Compressing<'a, R> {
    source: R,
    hasher: Hasher,
    crc: crc32fast::Hasher,
    /// Made and not yet taken, from `given` on.
    out: Vec<u8>,
    given: usize,
    deflate: &'a mut Deflater,
    ended: bool,
    block: Vec<u8>,
}

impl<R: Read> Compressing<'_, R> {
    /// Makes some more bytes.
    fn step(&mut self) -> io::Result<()> {
        self.out.clear();
        self.given = 0;
        read_block(&mut self.source, &mut self.block)?;
        if self.block.is_empty() {
            self.out.extend_from_slice(&FINAL);
            self.ended = true;
            return Ok(());
        }
        self.hasher.update(&self.block);
        self.crc.update(&self.block);
        self.deflate.block(&self.block, &mut self.out)
    }
}

impl<R: Read> Read for Compressing<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.out.len() && !self.ended {
            self.step()?;
        }
        let n = (&mut &mut *buffer).write(&self.out[self.given..])?;
        self.given += n;
        Ok(n)
    }
}
