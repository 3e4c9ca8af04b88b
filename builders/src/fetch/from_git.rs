//! An archive of a revision of a git repository, as the makers of upstream's pins write it.
//!
//! The bytes of such an archive depend on the programs that write it, so they are the ones that upstream's `mirror.sh` runs: `git archive`
//! and, for its output, `gzip -n` or `xz -T1`. What they write is taken only when it has the digest that was asked for.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sos_formats::hash::{Hash, Hasher};
use sos_store::is_disk_full;

use super::limits::MAX_OUTPUT_BYTES;
use crate::build::Build;
use crate::vcs;

/// How often a running program is looked at, for a build that was cancelled.
const LOOK: Duration = Duration::from_millis(20);
/// The last bytes of what a program said that a message repeats.
const MAX_SAID_BYTES: usize = 400;

/// Why there is no archive.
#[derive(Debug)]
pub(super) enum NotMade {
    /// The build is to end.
    Cancelled,
    /// The disk is full; what could not be written.
    NoRoom(PathBuf),
    /// A sentence for the list of places where the file was looked for.
    Because(String),
}

impl From<String> for NotMade {
    fn from(why: String) -> Self {
        Self::Because(why)
    }
}

/// What an archive is made of.
#[derive(Debug, PartialEq, Eq)]
struct Wanted<'a> {
    repository: &'a str,
    reference: &'a str,
    /// The directory that everything in the archive is in, with its slash.
    prefix: String,
}

impl<'a> Wanted<'a> {
    /// Reads `REPOSITORY~REF`; the reference is behind the last `~`.
    fn parse(text: &'a str) -> Option<Self> {
        let (repository, reference) = text.rsplit_once('~')?;
        // Neither is to be taken for an option.
        if [repository, reference]
            .iter()
            .any(|word| word.is_empty() || word.starts_with('-'))
        {
            return None;
        }
        let base = repository.trim_end_matches('/');
        let base = base.rsplit('/').next().unwrap_or(base);
        let base = base.strip_suffix(".git").unwrap_or(base);
        // Forges leave the `v` of a version away, but for one.
        let version = reference
            .strip_prefix('v')
            .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            .filter(|_| !repository.contains("gitlab"))
            .unwrap_or(reference);
        Some(Self {
            repository,
            reference,
            prefix: format!("{base}-{version}/"),
        })
    }
}

/// Writes the archive `name` of `from`, which is `REPOSITORY~REF`, into the new file `out`, and checks its digest. `work` is an empty
/// directory.
///
/// # Errors
/// Why it cannot be made.
pub(super) fn write(
    build: &dyn Build,
    from: &str,
    name: &str,
    hash: &Hash,
    out: &Path,
    work: &Path,
) -> Result<(), NotMade> {
    let wanted = Wanted::parse(from).ok_or_else(|| format!("`{from}` is not `REPOSITORY~REF`"))?;
    let failed = |why: String| NotMade::from(format!("git archive of {from}: {why}"));
    let run = |command: Command| match finish(build, work, command) {
        Err(NotMade::Because(why)) => Err(failed(why)),
        ended => ended,
    };
    let copy = work.join("repository");
    build.log(&format!("making {name} from {from}"));
    let mut clone = vcs::git_of_build();
    clone
        .stdout(Stdio::null())
        .args(["clone", "--quiet", "--bare", "--template=", "--"])
        .arg(wanted.repository)
        .arg(&copy);
    run(clone)?;
    let tar = work.join("archive.tar");
    let mut archive = vcs::git_of_build();
    archive
        .stdout(Stdio::null())
        .arg("--git-dir")
        .arg(&copy)
        .args(["archive", "--format=tar", "--prefix"])
        .arg(&wanted.prefix)
        .arg("--output")
        .arg(&tar)
        .arg(wanted.reference);
    run(archive)?;
    let compressor: &[&str] = if name.ends_with(".gz") || name.ends_with(".tgz") {
        &["gzip", "-n", "-c"]
    } else if name.ends_with(".xz") {
        &["xz", "-T1", "-c"]
    } else {
        &[]
    };
    let io = |error: std::io::Error| {
        if is_disk_full(&error) {
            NotMade::NoRoom(out.to_owned())
        } else {
            failed(error.to_string())
        }
    };
    let tar = File::open(&tar).map_err(io)?;
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(out)
        .map_err(io)?;
    match compressor {
        [] => {
            std::io::copy(&mut &tar, &mut file).map_err(io)?;
        }
        [program, arguments @ ..] => {
            let mut command = vcs::of_build(program);
            // What a person has set for these programs would change what they write.
            command.args(arguments).env_remove("GZIP");
            command.env_remove("XZ_OPT").env_remove("XZ_DEFAULTS");
            command.stdin(tar).stdout(file.try_clone().map_err(io)?);
            run(command)?;
        }
    }
    let found = digest(&mut file, hash).map_err(io)?;
    if found == *hash {
        return Ok(());
    }
    drop(file);
    let _gone = fs::remove_file(out);
    Err(failed(format!(
        "it has {} {}",
        found.algo(),
        found.to_hex()
    )))
}

/// Runs a program to its end, or until the build is cancelled.
fn finish(build: &dyn Build, work: &Path, mut command: Command) -> Result<(), NotMade> {
    let program = command.get_program().to_string_lossy().into_owned();
    let said = work.join("said");
    let errors = File::create(&said).map_err(|error| error.to_string())?;
    let child = command.stderr(errors).spawn();
    let mut child = child.map_err(|error| format!("`{program}` cannot be run: {error}"))?;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if build.cancelled() => {
                vcs::end(&mut child);
                return Err(NotMade::Cancelled);
            }
            Ok(None) => std::thread::sleep(LOOK),
            Err(error) => return Err(error.to_string().into()),
        }
    };
    if status.success() {
        return Ok(());
    }
    let text = fs::read(&said).unwrap_or_default();
    let from = text.len().saturating_sub(MAX_SAID_BYTES);
    let text = String::from_utf8_lossy(&text[from..]);
    if vcs::has_no_room(&text) {
        return Err(NotMade::NoRoom(work.to_owned()));
    }
    let line = text.trim().lines().last().unwrap_or_default();
    let said = if line.is_empty() { "" } else { ": " };
    Err(format!("`{program}` ended with {status}{said}{line}").into())
}

/// The digest of a whole file, of the kind of `like`.
fn digest(file: &mut File, like: &Hash) -> std::io::Result<Hash> {
    file.rewind()?;
    let mut hasher = Hasher::new(like.algo());
    let mut buffer = vec![0; 1 << 16];
    let mut size = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hasher.finish());
        }
        size += count as u64;
        if size > MAX_OUTPUT_BYTES {
            return Err(std::io::Error::other("the archive is too large"));
        }
        hasher.update(&buffer[..count]);
    }
}

#[cfg(test)]
mod tests {
    use super::Wanted;

    #[track_caller]
    fn check(text: &str, reference: &str, prefix: &str) {
        let wanted = Wanted::parse(text).expect("as the test has it");
        assert_eq!((wanted.reference, &*wanted.prefix), (reference, prefix));
    }

    #[test]
    fn prefixes_are_those_of_forges() {
        check("https://x/a/b.git~v1.2", "v1.2", "b-1.2/");
        check("https://x/a/b~8f4538a5", "8f4538a5", "b-8f4538a5/");
        check("https://x/~u/b.git~vec", "vec", "b-vec/");
        check("https://gitlab.x/b.git~v1", "v1", "b-v1/");
        assert_eq!(Wanted::parse("https://x/b.git"), None);
        assert_eq!(Wanted::parse("--upload-pack=x~v1"), None);
        assert_eq!(Wanted::parse("https://x/b~-x"), None);
    }
}
