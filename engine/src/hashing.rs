//! The hash of a tree that holds its own name.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sos_formats::derivation::Method;
use sos_formats::hash::{Hash, HashAlgo, Hasher};
use sos_formats::nar::{self, NarError};

use crate::rewrite::{HASH_DIGITS, ModuloHasher};

/// Why a tree cannot be hashed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HashingError {
    /// A flat hash is of one plain file.
    #[error("a flat hash needs a regular file that is not executable")]
    NotFlat,
    /// The tree holds something that an archive cannot hold.
    #[error("`{}` is neither a file, a directory nor a symlink", .0.display())]
    Special(PathBuf),
    /// The tree cannot be written as an archive.
    #[error(transparent)]
    Nar(#[from] NarError),
    /// A file cannot be read.
    #[error("cannot read `{}`: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> HashingError + '_ {
    move |source| HashingError::Io {
        path: path.to_owned(),
        source,
    }
}

/// Writes what a method hashes: the bytes of a file, or the archive of a tree.
fn write_to(path: &Path, method: Method, out: &mut dyn Write) -> Result<(), HashingError> {
    if method == Method::Recursive {
        let mut writer = nar::Writer::new(out)?;
        node(path, &mut writer)?;
        writer.finish()?;
        return Ok(());
    }
    let meta = fs::symlink_metadata(path).map_err(at(path))?;
    if !meta.is_file() || meta.permissions().mode() & 0o100 != 0 {
        return Err(HashingError::NotFlat);
    }
    let mut file = File::open(path).map_err(at(path))?;
    io::copy(&mut file, out).map_err(at(path))?;
    Ok(())
}

/// Recursion is bounded: the writer refuses trees deeper than the format allows.
fn node<W: Write>(path: &Path, writer: &mut nar::Writer<W>) -> Result<(), HashingError> {
    let meta = fs::symlink_metadata(path).map_err(at(path))?;
    if meta.is_symlink() {
        let target = fs::read_link(path).map_err(at(path))?;
        writer.symlink(&target.into_os_string().into_vec())?;
    } else if meta.is_dir() {
        writer.directory()?;
        let mut names = Vec::new();
        for entry in fs::read_dir(path).map_err(at(path))? {
            names.push(entry.map_err(at(path))?.file_name());
        }
        names.sort();
        for name in names {
            writer.entry(name.as_bytes())?;
            node(&path.join(&name), writer)?;
        }
        writer.end()?;
    } else if meta.is_file() {
        let executable = meta.permissions().mode() & 0o100 != 0;
        let mut file = File::open(path).map_err(at(path))?;
        writer.regular(executable, meta.len(), &mut file)?;
    } else {
        return Err(HashingError::Special(path.to_owned()));
    }
    Ok(())
}

/// Hashes the archive of a tree or file.
pub(crate) fn hash_plain(path: &Path, algo: HashAlgo) -> Result<Hash, HashingError> {
    let mut hasher = Hasher::new(algo);
    write_to(path, Method::Recursive, &mut hasher)?;
    Ok(hasher.finish())
}

/// Hashes the bytes of a file.
pub(crate) fn hash_flat(path: &Path, algo: HashAlgo) -> Result<Hash, HashingError> {
    let mut hasher = Hasher::new(algo);
    write_to(path, Method::Flat, &mut hasher)?;
    Ok(hasher.finish())
}

/// Hashes a tree or file modulo one hash part, so that content may hold its own name.
pub(crate) fn hash_modulo(
    path: &Path,
    method: Method,
    algo: HashAlgo,
    own: [u8; HASH_DIGITS],
) -> Result<Hash, HashingError> {
    let mut hasher = ModuloHasher::new(algo, own);
    write_to(path, method, &mut hasher)?;
    Ok(hasher.finish())
}
