//! NAR archives in and out of the store.

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use sos_formats::hash::{Hash, HashAlgo, Hasher, Sha256};
use sos_formats::nar::{self, Visitor};
use sos_formats::store_path::StorePath;

use crate::cas::{self, IN_MEMORY_BYTES};
use crate::db;
use crate::error::{IoContext, Result, StoreError};
use crate::ingest::{Ingested, NarSink, Staged, nar_error, seal_directory};
use crate::listing::{ItemKind, ListOptions, Listing};
use crate::objects::{ObjectKind, PathInfo};
use crate::place::{Content, Job, Placer, State};
use crate::store::Store;
use crate::sys;
use crate::tree_id::tree_id;

impl Store {
    /// Unpacks a NAR into a staged tree; nothing of it can end up outside.
    ///
    /// `limit_bytes` caps the size of the archive: for a signed one, the size that was signed.
    ///
    /// # Errors
    /// [`StoreError::Nar`] for a malformed archive, [`StoreError::TooLarge`] beyond the limit.
    pub fn ingest_nar(&self, reader: &mut dyn Read, limit_bytes: u64) -> Result<Ingested> {
        self.ingest_nar_scanning(reader, limit_bytes, &[])
    }

    /// Unpacks a NAR and looks for references among the candidates.
    ///
    /// # Errors
    /// As [`Store::ingest_nar`].
    pub fn ingest_nar_scanning(
        &self,
        reader: &mut dyn Read,
        limit_bytes: u64,
        candidates: &[StorePath],
    ) -> Result<Ingested> {
        let dir = self.temp_dir("nar")?;
        let root = dir.path().join("x");
        // The reader accepts one encoding of a tree only, so the hash of the stream is the hash of the tree.
        let mut source = Metered {
            source: reader,
            sink: NarSink::new(candidates, None),
            left: limit_bytes,
            over: false,
        };
        let (unpacked, _) = Placer::run(self.cas(), |placer| {
            let mut unpacker = Unpacker {
                placer,
                place: root.clone(),
                depth: 0,
                directories: Vec::new(),
                flat: None,
                executable: false,
                files: 0,
                failure: None,
            };
            let result = nar::read(&mut source, &mut unpacker);
            match (result, unpacker.failure.take()) {
                (Err(_), _) if source.over => Err(StoreError::TooLarge { limit_bytes }),
                (_, Some(failure)) => Err(failure),
                (Err(nar::NarError::Visitor(source)), None) => {
                    Err(StoreError::io("write", &root, source))
                }
                (Err(err), None) => Err(nar_error(err)),
                (Ok(()), None) => Ok(Unpacked {
                    directories: unpacker.directories,
                    flat: unpacker.flat,
                    executable: unpacker.executable,
                }),
            }
        })?;
        for (at, directory) in unpacked.directories.iter().enumerate().rev() {
            seal_directory(directory, at == 0)?;
        }
        let hashes = source.sink.finish(unpacked.flat)?;
        let staged = Staged {
            path: root,
            is_dir: !unpacked.directories.is_empty(),
            _dir: Some(dir),
        };
        Ok(Ingested::new(hashes, staged, unpacked.executable))
    }

    /// Writes a tree object as a NAR.
    ///
    /// # Errors
    /// [`StoreError::NotValid`] when it is not here or is no tree, and when reading or writing fails.
    pub fn nar_dump(&self, path: &StorePath, writer: &mut dyn Write) -> Result<()> {
        let info = self
            .query(path)?
            .filter(|info| info.kind == ObjectKind::Tree);
        if info.is_none() {
            return Err(StoreError::NotValid { path: path.clone() });
        }
        dump_tree(&self.physical(path), writer)
    }

    /// The SHA-256 of the NAR of a tree. One that nobody has asked for before is taken now, and kept where that is possible.
    ///
    /// # Errors
    /// [`StoreError::NotValid`] when it is no tree, [`StoreError::Corrupt`] when it is not what it is addressed by, and when reading or
    /// the database fails.
    pub fn nar_sha256(&self, info: &PathInfo) -> Result<Sha256> {
        if let Some(known) = info.nar_sha256 {
            return Ok(known);
        }
        let no_tree = || StoreError::NotValid {
            path: info.path.clone(),
        };
        if info.kind != ObjectKind::Tree {
            return Err(no_tree());
        }
        let place = self.physical(&info.path);
        // Others will take the hash for the truth.
        if let Some(expected) = info.tree_id()
            && tree_id(&place)? != expected
        {
            return Err(StoreError::Corrupt {
                path: place,
                detail: format!("its id is not {expected}"),
            });
        }
        let (hash, _) = self.hash_physical(&info.path, HashAlgo::Sha256)?;
        let hash = hash.as_sha256().ok_or_else(no_tree)?;
        if self.require_writable().is_ok() {
            self.db()
                .write(|db| db::keep_nar_sha256(db, &info.path, &hash))?;
        }
        Ok(hash)
    }

    /// The hash of a tree that is in its place, by an algorithm, as a NAR.
    pub(crate) fn hash_physical(&self, path: &StorePath, algo: HashAlgo) -> Result<(Hash, u64)> {
        let mut sink = Counted {
            hasher: Hasher::new(algo),
            size: 0,
        };
        dump_tree(&self.physical(path), &mut sink)?;
        Ok((sink.hasher.finish(), sink.size))
    }
}

/// Writes a tree on the disk as a NAR.
pub(crate) fn dump_tree(root: &Path, writer: &mut dyn Write) -> Result<()> {
    let listing = Listing::read(root, ListOptions::default())?;
    let buffered = io::BufWriter::with_capacity(64 << 10, writer);
    let mut nar = nar::Writer::new(buffered).map_err(nar_error)?;
    let mut open = 0;
    for item in &listing.items {
        while open > item.depth {
            nar.end().map_err(nar_error)?;
            open -= 1;
        }
        if let Some(name) = item.path.file_name() {
            nar.entry(name.as_bytes()).map_err(nar_error)?;
        }
        match &item.kind {
            ItemKind::Directory => {
                nar.directory().map_err(nar_error)?;
                open += 1;
            }
            ItemKind::Symlink { target } => nar.symlink(target).map_err(nar_error)?,
            ItemKind::File {
                executable, size, ..
            } => {
                let place = if item.depth == 0 {
                    root.to_owned()
                } else {
                    root.join(&item.path)
                };
                let mut file = cas::open_regular(&place)?;
                nar.regular(*executable, *size, &mut file)
                    .map_err(nar_error)?;
            }
        }
    }
    while open > 0 {
        nar.end().map_err(nar_error)?;
        open -= 1;
    }
    let mut buffered = nar.finish().map_err(nar_error)?;
    buffered.flush().at("write the NAR of", root)
}

struct Counted {
    hasher: Hasher,
    size: u64,
}

impl Write for Counted {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.hasher.update(data);
        self.size += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hashes what passes, and stops at the limit.
struct Metered<'a> {
    source: &'a mut dyn Read,
    sink: NarSink,
    left: u64,
    over: bool,
}

impl Read for Metered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        if count as u64 > self.left {
            self.over = true;
            return Err(io::Error::other("the archive is larger than allowed"));
        }
        self.left -= count as u64;
        self.sink.write_all(&buffer[..count])?;
        Ok(count)
    }
}

struct Unpacked {
    directories: Vec<PathBuf>,
    flat: Option<Hasher>,
    executable: bool,
}

/// Makes the files of a NAR. Names come checked, single components, strictly ascending: nothing can lead outside
/// or through a symlink that the same archive has made.
struct Unpacker<'p, 's, 'e> {
    placer: &'p mut Placer<'s, 'e>,
    /// The root, then the directory that is open.
    place: PathBuf,
    depth: usize,
    directories: Vec<PathBuf>,
    flat: Option<Hasher>,
    executable: bool,
    files: usize,
    /// The cause, which an `io::Error` cannot carry.
    failure: Option<StoreError>,
}

impl Unpacker<'_, '_, '_> {
    fn place_of(&self, name: &[u8]) -> PathBuf {
        if name.is_empty() {
            self.place.clone()
        } else {
            self.place.join(std::ffi::OsStr::from_bytes(name))
        }
    }

    fn keep<T>(&mut self, result: Result<T>) -> io::Result<T> {
        result.map_err(|err| {
            let shown = io::Error::other(err.to_string());
            self.failure.get_or_insert(err);
            shown
        })
    }

    fn write_file(
        &mut self,
        place: PathBuf,
        executable: bool,
        size: u64,
        contents: &mut dyn Read,
    ) -> Result<()> {
        let is_root = self.depth == 0;
        let mut flat = if is_root {
            Some(Hasher::new(HashAlgo::Sha256))
        } else {
            None
        };
        let index = self.files;
        self.files += 1;
        let job = if size <= IN_MEMORY_BYTES as u64 {
            let mut data = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
            // Errors of the stream are told by the reader of the archive, with their place in it.
            contents.read_to_end(&mut data).at(READING, &place)?;
            if let Some(flat) = flat.as_mut() {
                flat.update(&data);
            }
            Job {
                index,
                place,
                executable,
                content: Content::Bytes(data),
                state: State::Absent,
            }
        } else {
            let mut file = cas::create_private(&place)?;
            let mut both = Both {
                file: &mut file,
                flat: flat.as_mut(),
            };
            let mut watched = Watched {
                source: contents,
                failed: false,
            };
            let copied = cas::copy_hashed(&mut watched, &mut both, &[]);
            let action = if watched.failed { READING } else { "write" };
            let (hash, size) = copied.at(action, &place)?;
            Job {
                index,
                place,
                executable,
                content: Content::Hashed { hash, size },
                state: State::Adoptable,
            }
        };
        if is_root {
            self.flat = flat;
            self.executable = executable;
        }
        self.placer.submit(job)
    }
}

/// What was being done when the stream failed, as opposed to the disk.
const READING: &str = "read the contents of";

/// Remembers that the failing side was the source.
struct Watched<'a> {
    source: &'a mut dyn Read,
    failed: bool,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.source.read(buffer);
        self.failed |= result
            .as_ref()
            .is_err_and(|err| err.kind() != io::ErrorKind::Interrupted);
        result
    }
}

struct Both<'a> {
    file: &'a mut std::fs::File,
    flat: Option<&'a mut Hasher>,
}

impl Write for Both<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = self.file.write(data)?;
        if let Some(flat) = self.flat.as_mut() {
            flat.update(&data[..count]);
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Visitor for Unpacker<'_, '_, '_> {
    fn directory(&mut self, name: &[u8]) -> io::Result<()> {
        let place = self.place_of(name);
        let made = std::fs::create_dir(&place).at("make the directory", &place);
        self.keep(made)?;
        self.directories.push(place.clone());
        self.place = place;
        self.depth += 1;
        Ok(())
    }

    fn directory_end(&mut self) -> io::Result<()> {
        self.depth = self.depth.saturating_sub(1);
        if self.depth > 0 {
            self.place.pop();
        }
        Ok(())
    }

    fn file(
        &mut self,
        name: &[u8],
        executable: bool,
        size: u64,
        contents: &mut dyn Read,
    ) -> io::Result<()> {
        let place = self.place_of(name);
        match self.write_file(place, executable, size, contents) {
            // The archive ended or its stream failed: the reader knows better.
            Err(StoreError::Io {
                action: READING,
                source,
                ..
            }) => Err(source),
            other => self.keep(other),
        }
    }

    fn symlink(&mut self, name: &[u8], target: &[u8]) -> io::Result<()> {
        let place = self.place_of(name);
        let made = std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), &place)
            .and_then(|()| sys::set_store_mtime(&place))
            .at("make the link", &place);
        self.keep(made)
    }
}
