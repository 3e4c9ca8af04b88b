//! File contents by BLAKE3. `cas/ab/cdef…` has mode 0444; `cas/ab/cdef….x`, mode 0555, is the executable twin, for
//! the mode belongs to an inode and trees are made of hard links.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sos_formats::hash::Blake3;

use crate::error::{IoContext, Result, StoreError};
use crate::store::Store;
use crate::sys;

/// Data up to this size is hashed in memory, so that content which is known already is never written.
pub(crate) const IN_MEMORY_BYTES: usize = 1 << 20;

const BUFFER_BYTES: usize = 256 << 10;

/// The directory of blobs.
pub(crate) struct Cas {
    dir: PathBuf,
}

impl Cas {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The place of a blob.
    pub(crate) fn path(&self, hash: &Blake3, executable: bool) -> PathBuf {
        let hex = hash.to_hex();
        let (shard, rest) = hex.split_at(2);
        let mut path = self.dir.join(shard);
        path.push(if executable {
            format!("{rest}.x")
        } else {
            rest.to_owned()
        });
        path
    }

    /// Whether a blob of that size is in its place.
    pub(crate) fn has(&self, hash: &Blake3, executable: bool, size: u64) -> bool {
        std::fs::symlink_metadata(self.path(hash, executable))
            .is_ok_and(|meta| meta.is_file() && meta.len() == size)
    }

    /// Gives a finished file, with its mode and time set, a second name as a blob. `false`: the blob is there
    /// already, as another inode.
    pub(crate) fn adopt(
        &self,
        file: &Path,
        hash: &Blake3,
        executable: bool,
        size: u64,
    ) -> Result<bool> {
        let blob = self.path(hash, executable);
        let mut attempts = 0;
        loop {
            match sys::hard_link(file, &blob) {
                Ok(()) => return Ok(true),
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
                    match std::fs::symlink_metadata(&blob) {
                        Ok(meta) if meta.is_file() && meta.len() == size => return Ok(false),
                        // Cut short by a power failure: put the good one in its place.
                        Ok(_) => return self.replace(file, &blob).map(|()| true),
                        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                        Err(err) => return Err(StoreError::io("look at", blob, err)),
                    }
                }
                // The directory was not there; somebody else may make it, or a collection remove it, at any time.
                Err(err)
                    if err.kind() == io::ErrorKind::NotFound
                        && attempts < MAX_ATTEMPTS
                        && file.symlink_metadata().is_ok() =>
                {
                    attempts += 1;
                    make_parent(&blob)?;
                }
                Err(err) => return Err(StoreError::io("make a link at", blob, err)),
            }
        }
    }

    /// Moves a finished file to the place of its blob, unless that is there already.
    pub(crate) fn move_in(&self, file: &Path, hash: &Blake3, size: u64) -> Result<()> {
        let blob = self.path(hash, false);
        let mut attempts = 0;
        loop {
            match sys::rename_new(file, &blob) {
                Ok(()) => return Ok(()),
                Err(err) if err.kind() == io::ErrorKind::NotFound && attempts == 0 => {
                    attempts += 1;
                    make_parent(&blob)?;
                }
                Err(err) if err.kind() == io::ErrorKind::NotFound => {
                    return Err(StoreError::io("move into the store", file, err));
                }
                // There already, or a file system that cannot rename in this way.
                Err(_) => return self.adopt(file, hash, false, size).map(drop),
            }
        }
    }

    /// Puts a file in the place of a blob that is damaged, or whose inode can take no more names.
    pub(crate) fn replace(&self, file: &Path, blob: &Path) -> Result<()> {
        let second = beside(file, ".blob");
        sys::hard_link(file, &second).at("make a link at", &second)?;
        make_parent(blob)?;
        std::fs::rename(&second, blob).at("replace", blob)
    }

    /// Opens a blob in either form.
    pub(crate) fn open(&self, hash: &Blake3) -> io::Result<File> {
        match File::open(self.path(hash, false)) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => File::open(self.path(hash, true)),
            other => other,
        }
    }
}

/// A name beside a path in a private directory that no file of a tree has. Names of 255 bytes leave no room for a
/// suffix, so it is made anew.
pub(crate) fn beside(place: &Path, suffix: &str) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let name = place
        .file_name()
        .map(|name| name.as_bytes().to_vec())
        .unwrap_or_default();
    let short = Blake3::of(&name).to_hex();
    place.with_file_name(format!(".sos-{}{suffix}", &short[..24]))
}

fn make_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    std::fs::create_dir_all(parent).at("make the directory", parent)
}

/// The mode of a file of the store.
pub(crate) fn file_mode(executable: bool) -> u32 {
    if executable { 0o555 } else { 0o444 }
}

/// Makes a new file that only this process can read yet.
pub(crate) fn create_private(path: &Path) -> Result<File> {
    File::options()
        .write(true)
        .read(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .at("make", path)
}

/// Gives a file its final mode and time.
pub(crate) fn seal(file: &File, path: &Path, executable: bool) -> Result<()> {
    sys::set_mode_fd(file, file_mode(executable)).at("set the mode of", path)?;
    sys::set_store_mtime_fd(file).at("set the time of", path)
}

/// Copies a stream to a writer, hashing it; returns hash and size.
pub(crate) fn copy_hashed(
    reader: &mut dyn Read,
    writer: &mut dyn Write,
    first: &[u8],
) -> io::Result<(Blake3, u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut size = 0u64;
    let mut put = |data: &[u8]| -> io::Result<()> {
        hasher.update(data);
        size += data.len() as u64;
        writer.write_all(data)
    };
    put(first)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => put(&buffer[..count])?,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok((Blake3(*hasher.finalize().as_bytes()), size))
}

impl Store {
    /// Stores the bytes of a stream; returns their hash and number.
    ///
    /// A blob that no object refers to is safe while this store is open, and collected later.
    ///
    /// # Errors
    /// When reading or writing fails.
    pub fn put_blob(&self, reader: &mut dyn Read) -> Result<(Blake3, u64)> {
        let mut first = Vec::new();
        let limit = IN_MEMORY_BYTES as u64 + 1;
        Read::take(&mut *reader, limit)
            .read_to_end(&mut first)
            .at("read the data for", self.cas().dir())?;
        if first.len() <= IN_MEMORY_BYTES {
            return Ok((self.put_blob_bytes(&first)?, first.len() as u64));
        }
        let path = self.session()?.new_file();
        let mut file = create_private(&path)?;
        let result = copy_hashed(reader, &mut file, &first)
            .at("write", &path)
            .and_then(|(hash, size)| {
                self.finish_blob(&file, &path, &hash, size)?;
                Ok((hash, size))
            });
        discard(&path);
        result
    }

    /// Stores bytes; returns their hash.
    ///
    /// # Errors
    /// When writing fails.
    pub fn put_blob_bytes(&self, data: &[u8]) -> Result<Blake3> {
        let hash = Blake3::of(data);
        let session = self.session()?;
        session.pin([hash])?;
        if self.cas().has(&hash, false, data.len() as u64) {
            return Ok(hash);
        }
        let path = session.new_file();
        let mut file = create_private(&path)?;
        let result = file
            .write_all(data)
            .at("write", &path)
            .and_then(|()| self.finish_blob(&file, &path, &hash, data.len() as u64));
        discard(&path);
        result.map(|()| hash)
    }

    /// Stores the content of a file; returns hash and size. With `take` the file is gone afterwards: its inode may
    /// have become the blob, without a copy. Nobody may be writing to it then.
    ///
    /// # Errors
    /// [`StoreError::SpecialFile`] when it is not a regular file (symlinks are not followed), and when reading or writing fails.
    pub fn put_blob_file(&self, path: &Path, take: bool) -> Result<(Blake3, u64)> {
        let session = self.session()?;
        let mut source = open_regular(path)?;
        let meta = source.metadata().at("look at", path)?;
        if take && may_adopt(&meta) && !sys::has_attributes(&source).at("look at", path)? {
            let (hash, size) = copy_hashed(&mut source, &mut io::sink(), &[]).at("read", path)?;
            session.pin([hash])?;
            if !self.cas().has(&hash, false, size) {
                seal(&source, path, false)?;
                match self.cas().adopt(path, &hash, false, size) {
                    Ok(_) => {}
                    Err(StoreError::Io { source: err, .. }) if sys::is_link_refused(&err) => {
                        self.copy_blob_file(&mut File::open(path).at("open", path)?, path)?;
                    }
                    Err(err) => return Err(err),
                }
            }
            std::fs::remove_file(path).at("remove", path)?;
            return Ok((hash, size));
        }
        let stored = self.copy_blob_file(&mut source, path)?;
        if take {
            std::fs::remove_file(path).at("remove", path)?;
        }
        Ok(stored)
    }

    /// Copies an open file into the store, sharing its data where the file system can.
    fn copy_blob_file(&self, source: &mut File, shown: &Path) -> Result<(Blake3, u64)> {
        let size = source.metadata().at("look at", shown)?.len();
        if size <= IN_MEMORY_BYTES as u64 {
            return self.put_blob(source);
        }
        let path = self.session()?.new_file();
        let mut file = create_private(&path)?;
        // A clone is hashed after it was made: what is stored is what was hashed, whatever happens to the source.
        let result = match sys::clone_file(source, &file) {
            Ok(()) => copy_hashed(&mut file, &mut io::sink(), &[]).at("read", &path),
            Err(_) => copy_hashed(source, &mut file, &[]).at("write", &path),
        };
        let result = result.and_then(|(hash, size)| {
            self.finish_blob(&file, &path, &hash, size)?;
            Ok((hash, size))
        });
        discard(&path);
        result
    }

    /// Turns a finished private file into a blob.
    pub(crate) fn finish_blob(
        &self,
        file: &File,
        path: &Path,
        hash: &Blake3,
        size: u64,
    ) -> Result<()> {
        self.session()?.pin([*hash])?;
        seal(file, path, false)?;
        self.cas().move_in(path, hash, size)
    }

    /// Whether the bytes of a hash are in the store.
    pub fn has_blob(&self, hash: &Blake3) -> bool {
        self.cas().path(hash, false).exists() || self.cas().path(hash, true).exists()
    }

    /// Opens the bytes of a hash.
    ///
    /// # Errors
    /// [`StoreError::MissingBlob`] when they are not here.
    pub fn open_blob(&self, hash: &Blake3) -> Result<File> {
        let mut attempts = 0;
        loop {
            match self.cas().open(hash) {
                Ok(file) => return Ok(file),
                Err(err) if err.kind() == io::ErrorKind::NotFound => {
                    // A collection that saw the pin too late has it in its hands and puts it back.
                    let pinned = self
                        .current_session()
                        .is_some_and(|session| session.is_pinned(hash));
                    if !pinned || attempts >= 100 {
                        return Err(StoreError::MissingBlob { hash: *hash });
                    }
                    attempts += 1;
                    // Also what a collection had in its hands when it was killed.
                    for executable in [false, true] {
                        put_back(&self.cas().path(hash, executable)).ok();
                    }
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
                Err(err) => return Err(StoreError::io("open", self.cas().path(hash, false), err)),
            }
        }
    }

    /// Where the bytes of a hash are, if they are there in that form: a blob may exist in one of the two only.
    pub fn blob_path(&self, hash: &Blake3, executable: bool) -> PathBuf {
        self.cas().path(hash, executable)
    }
}

/// How often a directory that vanishes is made again before that is an error.
const MAX_ATTEMPTS: u32 = 100;

/// The name under which a collection holds a file while it asks a last time whether anybody needs it.
pub(crate) fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ASIDE);
    PathBuf::from(name)
}

/// How the names of such files end.
pub(crate) const ASIDE: &str = ".gc";

/// Gives a file that a collection has moved aside its name back.
pub(crate) fn put_back(path: &Path) -> io::Result<()> {
    let held = aside(path);
    let done = match sys::hard_link(&held, path) {
        Err(err) if err.kind() != io::ErrorKind::AlreadyExists => Err(err),
        // Written anew by somebody in the meantime, with the same content.
        _ => std::fs::remove_file(&held),
    };
    match done {
        // A reader and the collection may both do this: whoever comes second finds it done.
        Err(err) if err.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_ok() => {
            Ok(())
        }
        done => done,
    }
}

/// Whether the inode of a file can become a blob: nobody else has a name for it, and its mode is ours to set.
pub(crate) fn may_adopt(meta: &std::fs::Metadata) -> bool {
    meta.nlink() == 1 && meta.uid() == rustix::process::geteuid().as_raw()
}

/// Opens a regular file, never following a symlink, never blocking on a pipe.
pub(crate) fn open_regular(path: &Path) -> Result<File> {
    let file = match sys::open_nofollow(path) {
        Ok(file) => file,
        Err(err) => {
            let special = std::fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_file());
            return Err(if special {
                StoreError::SpecialFile {
                    path: path.to_owned(),
                }
            } else {
                StoreError::io("open", path, err)
            });
        }
    };
    if file.metadata().at("look at", path)?.is_file() {
        Ok(file)
    } else {
        Err(StoreError::SpecialFile {
            path: path.to_owned(),
        })
    }
}

/// Removes a private file; the sweep would otherwise.
pub(crate) fn discard(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(path = %path.display(), %error, "a temporary file could not be removed");
    }
}

/// A second handle of an open file, at its beginning.
pub(crate) fn open_regular_fd(file: &File, shown: &Path) -> Result<File> {
    use std::io::Seek;
    let mut second = file.try_clone().at("open", shown)?;
    second.rewind().at("read", shown)?;
    Ok(second)
}
