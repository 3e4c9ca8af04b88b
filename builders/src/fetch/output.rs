//! From a transfer to the output of a derivation: the executable bit, unpacking, hashes over trees.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sos_engine::BuilderError;
use sos_formats::derivation::Method;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::{Hash, Hasher};
use sos_formats::nar;

use super::archive;
use super::builder::io_error;
use super::failure::Failure;
use super::fetcher::{Fetched, Fetcher, Request};
use super::limits::{MAX_OUTPUT_BYTES, MAX_UNPACKED_BYTES};
use super::observer::Observer;
use super::sink::{FileSink, Sink};
use super::transfer::mismatch;

/// What happens to the transferred bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unpack {
    /// They are the output.
    Nothing,
    /// They are a NAR, perhaps compressed with xz.
    Nar,
    /// They are a tar archive, perhaps compressed; its single top directory is the output.
    Archive,
}

/// A fixed output to make.
pub(super) struct Wish<'a> {
    pub(super) name: &'a str,
    pub(super) urls: &'a [String],
    pub(super) method: Method,
    pub(super) hash: Hash,
    /// The same as the recipe has it, if it is known.
    pub(super) written: Option<&'a str>,
    pub(super) executable: bool,
    pub(super) unpack: Unpack,
    pub(super) size: Option<u64>,
    pub(super) offline: bool,
}

/// Makes a fixed output at `out`, using the empty directory `work`.
pub(super) fn fetch_output(
    fetcher: &Fetcher,
    wish: &Wish<'_>,
    out: &Path,
    work: &Path,
    observer: &dyn Observer,
) -> Result<Fetched, BuilderError> {
    check(wish)?;
    let place = match wish.unpack {
        Unpack::Nothing => out.to_owned(),
        _ => work.join("download"),
    };
    let mut options = File::options();
    let file = options.read(true).write(true).create_new(true).open(&place);
    let file = file.map_err(|error| io_error("cannot create", &place, error))?;
    let request = Request {
        name: wish.name,
        urls: wish.urls,
        hash: (wish.method == Method::Flat).then_some(&wish.hash),
        written: wish.written,
        size: wish.size,
        limit: MAX_OUTPUT_BYTES,
        fixed_output: true,
        offline: wish.offline,
    };
    let mut sink = OutputSink {
        file: FileSink::new(file, place),
        wish,
        out,
        work,
        size: 0,
    };
    Ok(fetcher.fetch(&request, &mut sink, observer)?)
}

/// Refuses wishes that cannot come true.
fn check(wish: &Wish<'_>) -> Result<(), BuilderError> {
    let what = match wish.method {
        Method::Flat if wish.executable => "an executable needs `outputHashMode = \"recursive\"`",
        Method::Flat if wish.unpack != Unpack::Nothing => {
            "unpacking needs `outputHashMode = \"recursive\"`"
        }
        Method::Text | Method::Rootfs => {
            "`outputHashMode` must be `flat` or `recursive` for what is fetched"
        }
        _ => return Ok(()),
    };
    let message = format!("`{}` cannot be fetched as described: {what}", wish.name);
    Err(Diagnostic::error("fetch-attrs", Class::Recipe, message).into())
}

/// Writes the file, and makes and checks the output when it is whole.
struct OutputSink<'a> {
    file: FileSink,
    wish: &'a Wish<'a>,
    out: &'a Path,
    work: &'a Path,
    size: u64,
}

impl Sink for OutputSink<'_> {
    fn restart(&mut self) -> io::Result<()> {
        self.size = 0;
        self.file.restart()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.size += bytes.len() as u64;
        self.file.write(bytes)
    }

    fn complete(&mut self) -> Result<(), Failure> {
        let wish = self.wish;
        let file = self.file.file_mut();
        file.rewind().map_err(Failure::Write)?;
        let found = match wish.unpack {
            Unpack::Nothing if wish.method == Method::Flat => return Ok(()),
            Unpack::Nothing => {
                if wish.executable {
                    file.set_permissions(fs::Permissions::from_mode(0o755))
                        .map_err(Failure::Write)?;
                }
                let mut nar = nar::Writer::new(Hasher::new(wish.hash.algo()))
                    .map_err(|error| broken(&error))?;
                nar.regular(wish.executable, self.size, file)
                    .map_err(|error| broken(&error))?;
                nar.finish().map_err(|error| broken(&error))?.finish()
            }
            Unpack::Nar => {
                // What an earlier source left there.
                remove(self.out).map_err(Failure::write_at(self.out))?;
                unpack_nar(file, self.out, Hasher::new(wish.hash.algo()))?
            }
            Unpack::Archive => {
                remove(self.out).map_err(Failure::write_at(self.out))?;
                let dir = self.work.join("unpacked");
                remove(&dir)
                    .and_then(|()| fs::create_dir(&dir))
                    .map_err(Failure::write_at(&dir))?;
                archive::unpack(file, &dir, self.out)?;
                let mut nar = nar::Writer::new(Hasher::new(wish.hash.algo()))
                    .map_err(|error| broken(&error))?;
                write_tree(&mut nar, self.out).map_err(Failure::write_at(self.out))?;
                nar.finish().map_err(|error| broken(&error))?.finish()
            }
        };
        if found == wish.hash {
            return Ok(());
        }
        Err(mismatch(&wish.hash, &found, self.size))
    }
}

/// Describes a NAR that cannot be written: the tree is not one, or it changed meanwhile.
fn broken(error: &nar::NarError) -> Failure {
    Failure::Content {
        reason: error.to_string(),
    }
}

/// Removes whatever is at a path.
fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    }
}

/// Unpacks a NAR and gives its hash.
fn unpack_nar(file: &mut File, out: &Path, hasher: Hasher) -> Result<Hash, Failure> {
    let plain = archive::decompress(file)?;
    let mut tee = Tee {
        inner: plain.take(MAX_UNPACKED_BYTES),
        hasher,
    };
    let mut tree = Unpacker {
        path: out.to_owned(),
        failure: None,
    };
    match nar::read(&mut tee, &mut tree) {
        Ok(()) => {}
        Err(nar::NarError::Visitor(error)) => {
            let path = std::mem::take(&mut tree.path);
            return Err(tree
                .failure
                .unwrap_or_else(|| Failure::write_at(&path)(error)));
        }
        Err(other) => {
            return Err(Failure::Content {
                reason: other.to_string(),
            });
        }
    }
    Ok(tee.hasher.finish())
}

/// Hashes what is read through it.
struct Tee<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

/// Writes a visited tree to disk. Names come checked, and nothing is followed: every file is new.
struct Unpacker {
    path: PathBuf,
    /// Why the copying of a file ended, if it did.
    failure: Option<Failure>,
}

impl Unpacker {
    fn child(&self, name: &[u8]) -> PathBuf {
        if name.is_empty() {
            self.path.clone()
        } else {
            self.path.join(std::ffi::OsStr::from_bytes(name))
        }
    }
}

impl nar::Visitor for Unpacker {
    fn directory(&mut self, name: &[u8]) -> io::Result<()> {
        self.path = self.child(name);
        fs::create_dir(&self.path)
    }
    fn directory_end(&mut self) -> io::Result<()> {
        self.path.pop();
        Ok(())
    }
    fn file(
        &mut self,
        name: &[u8],
        executable: bool,
        _size: u64,
        contents: &mut dyn Read,
    ) -> io::Result<()> {
        let place = self.child(name);
        let mut file = File::create_new(&place)?;
        if let Err(failure) = archive::copy(contents, &mut file, &place) {
            self.failure = Some(failure);
            return Err(io::Error::other("the file ended early"));
        }
        if executable {
            file.set_permissions(fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }
    fn symlink(&mut self, name: &[u8], target: &[u8]) -> io::Result<()> {
        std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), self.child(name))
    }
}

/// Writes the tree at a path as the next node of a NAR. The depth is bounded by the NAR writer.
fn write_tree<W: Write>(nar: &mut nar::Writer<W>, path: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.is_symlink() {
        return nar
            .symlink(fs::read_link(path)?.as_os_str().as_bytes())
            .map_err(io::Error::other);
    }
    if !meta.is_dir() {
        let executable = meta.permissions().mode() & 0o111 != 0;
        return nar
            .regular(
                executable,
                meta.len(),
                &mut BufReader::new(File::open(path)?),
            )
            .map_err(io::Error::other);
    }
    nar.directory().map_err(io::Error::other)?;
    let mut names = fs::read_dir(path)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    for name in names {
        nar.entry(name.as_bytes()).map_err(io::Error::other)?;
        write_tree(nar, &path.join(name))?;
    }
    nar.end().map_err(io::Error::other)
}
