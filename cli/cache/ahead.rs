//! Which large programs an evaluation read last: the next one, after a change, probably reads them again, and can have them parsed
//! ahead. A small one is parsed in the time that it takes to hand its tree over.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use sos_formats::hash::Blake3;
use sos_store::NewEvaluation;

use super::Cache;
use super::bytes::{Reader, Writer};

/// A smaller file is not worth it.
const LARGE: usize = 16 << 10;
/// More are not remembered.
const MANY: usize = 50_000;
/// A file above this size is left to the evaluator.
const MAX_FILE: u64 = 64 << 20;

/// Changes when the layout does.
const VERSION: &str = "sos programs 1";

impl Cache {
    /// What a directory's last evaluation is remembered under: whatever was asked, most of what it reads is the same.
    pub(super) fn programs_key(here: &Path) -> Blake3 {
        let mut w = Writer::default();
        w.text(VERSION);
        w.path(here);
        Blake3::of(&w.0)
    }

    /// The programs that the last evaluation in this directory read, in its order.
    pub(crate) fn programs_before(&self) -> Vec<PathBuf> {
        let found = self.store.evaluation(&self.programs);
        let found = found.ok().flatten().map(|found| found.result);
        let files: Option<Vec<PathBuf>> =
            found.and_then(|result| Reader(&result).list(Reader::path));
        files.unwrap_or_default()
    }

    /// Remembers the programs of an evaluation.
    pub(super) fn keep_programs(&self, read: Vec<PathBuf>) {
        let mut seen = BTreeSet::new();
        let files: Vec<PathBuf> = read
            .into_iter()
            .filter(|file| seen.insert(file.clone()))
            .take(MANY)
            .collect();
        let before = self.programs_before();
        if files == before {
            return;
        }
        let mut w = Writer::default();
        w.list(files.iter(), |w, file| w.path(file));
        let new = NewEvaluation {
            result: &w.0,
            inputs: &[],
            graph: None,
        };
        if let Err(error) = self.store.keep_evaluation(&self.programs, new) {
            tracing::debug!(%error, "the programs that were read are not remembered");
        }
    }
}

/// Whether what was read is a large program, by the name of the file.
pub(super) fn is_large_program(path: &Path, bytes: &[u8]) -> bool {
    bytes.len() >= LARGE && path.extension().is_some_and(|extension| extension == "nix")
}

/// Reads a program for the thread that parses.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_program(path: &Path) -> io::Result<Vec<u8>> {
    read(path, MAX_FILE)
}

/// Reads a file that may have become anything since it was read last.
///
/// # Errors
/// When it is no regular file of at most `max` bytes that can be read.
pub(super) fn read(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = std::fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() > max {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, max), &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.nix");
        std::fs::write(&file, "1").unwrap();
        assert_eq!(read_program(&file).unwrap(), b"1");
        assert!(read_program(dir.path()).is_err());
        assert!(read_program(&dir.path().join("none")).is_err());
        let pipe = dir.path().join("pipe.nix");
        make_pipe(&pipe);
        assert!(read_program(&pipe).is_err());
        let (large, small) = ([0; LARGE], [0; LARGE - 1]);
        assert!(is_large_program(&file, &large));
        assert!(!is_large_program(&file, &small));
        assert!(!is_large_program(dir.path(), &large));
    }

    /// A pipe that nobody writes to: opening it the usual way never ends.
    fn make_pipe(path: &Path) {
        let made = std::process::Command::new("mkfifo").arg(path).status();
        assert!(made.unwrap().success());
    }
}
