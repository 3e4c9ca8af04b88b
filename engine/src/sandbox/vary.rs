//! What a run sees of the machine, made different on purpose: whatever depends on it shows in the output.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use super::protocol::{Failure, Naming};
use super::sys;

/// What is different from every other run; the default is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vary {
    /// The file mode creation mask, 022 otherwise.
    pub umask: Option<u32>,
    /// Addresses of programs, libraries and stacks are random.
    pub random_addresses: bool,
    /// `uname` tells of a kernel 2.6.
    pub old_kernel: bool,
    /// The most processors that the program may run on.
    pub processors: Option<usize>,
    /// Seconds by which the machine seems to have been up for longer.
    pub uptime_secs: Option<u32>,
    /// Directories list in another order: the build directory, and these inputs by their base names, are in memory.
    pub reordered: Option<Vec<String>>,
    /// A directory below `/tmp` that a step finds there, which anybody may write to.
    pub temporary: Option<PathBuf>,
}

/// Moves the clocks that count from the start of the machine, for what this process starts.
pub(super) fn move_uptime(secs: u32) -> io::Result<()> {
    sys::unshare(UnshareFlags::NEWTIME)?;
    // Both at once: each write sets what it names, before anything lives in the namespace.
    let offsets = format!("monotonic {secs} 0\nboottime {secs} 0\n");
    fs::write("/proc/self/timens_offsets", offsets)
}

/// Tells whether these clocks can be moved here: `CLONE_VFORK` enters a time namespace since Linux 6.3 at the latest.
pub(crate) fn can_move_uptime() -> bool {
    Path::new("/proc/self/timens_offsets").exists()
        && is_since(&rustix::system::uname().release().to_string_lossy(), (6, 3))
}

/// Compares a release of the kernel, as `6.18.4-amd64`, with a version.
fn is_since(release: &str, version: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|n| n.parse::<u32>().ok());
    matches!((next(), next()), (Some(major), Some(minor)) if (major, minor) >= version)
}

/// Confines this process to at most `count` of its processors.
pub(super) fn confine(count: usize) -> io::Result<()> {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let all = sched_getaffinity(None)?;
    let mut some = CpuSet::new();
    let allowed = (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu));
    for cpu in allowed.take(count.max(1)) {
        some.set(cpu);
    }
    sched_setaffinity(None, &some)?;
    Ok(())
}

/// A memory filesystem with copies of directories that list in another order than the originals.
pub(super) struct Reordered {
    top: PathBuf,
    /// A name made later is listed first.
    newest_first: bool,
}

impl Reordered {
    /// Mounts it in a private directory, in the mount namespace of this run.
    pub(super) fn mount(scratch: &Path) -> Result<Self, Failure> {
        let top = scratch.join("reordered");
        let what = || "mount a memory filesystem for copies".to_owned();
        fs::create_dir(&top).naming(what)?;
        rustix::mount::mount(
            "none",
            &top,
            "tmpfs",
            MountFlags::NOSUID | MountFlags::NODEV,
            c"mode=0755",
        )
        .naming(what)?;
        let newest_first = newest_first(&top.join("probe")).naming(what)?;
        Ok(Self { top, newest_first })
    }

    /// Copies a tree; gives where the copy is.
    pub(super) fn copy(&self, from: &Path, name: &OsStr) -> Result<PathBuf, Failure> {
        let to = self.top.join(name);
        self.copy_to(from, &to)
            .naming(|| format!("copy {}", from.display()))?;
        Ok(to)
    }

    fn copy_to(&self, from: &Path, to: &Path) -> io::Result<()> {
        // Explicit, so that a deep tree costs no stack. Modes of directories come last: one may not be writable.
        let mut pending = vec![(from.to_owned(), to.to_owned())];
        let mut modes = Vec::new();
        while let Some((from, to)) = pending.pop() {
            let meta = fs::symlink_metadata(&from)?;
            if meta.is_dir() {
                match fs::create_dir(&to) {
                    // Made with the names of its parent.
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                    other => other?,
                }
                for name in self.order(names(&from)?) {
                    // The order of a directory is that in which its names are made: a directory is filled afterwards.
                    let (from, to) = (from.join(&name), to.join(&name));
                    if fs::symlink_metadata(&from)?.is_dir() {
                        fs::create_dir(&to)?;
                        pending.push((from, to));
                    } else {
                        copy_one(&from, &to)?;
                    }
                }
                modes.push((to, meta));
            } else {
                copy_one(&from, &to)?;
            }
        }
        for (to, meta) in modes {
            fs::set_permissions(&to, meta.permissions())?;
            set_time(&to, &meta)?;
        }
        Ok(())
    }

    /// The order in which names are made so that they list the other way round.
    fn order(&self, mut names: Vec<OsString>) -> Vec<OsString> {
        if !self.newest_first {
            names.reverse();
        }
        names
    }
}

fn copy_one(from: &Path, to: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(from)?;
    if meta.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    fs::copy(from, to)?;
    set_time(to, &meta)
}

/// Times of inputs are part of what a build may see.
fn set_time(to: &Path, meta: &fs::Metadata) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let time = rustix::fs::Timespec {
        tv_sec: meta.mtime(),
        tv_nsec: meta.mtime_nsec(),
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(
        rustix::fs::CWD,
        to,
        &times,
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
    )?;
    Ok(())
}

fn names(dir: &Path) -> io::Result<Vec<OsString>> {
    fs::read_dir(dir)?.map(|e| Ok(e?.file_name())).collect()
}

/// Kernels differ in this.
fn newest_first(probe: &Path) -> io::Result<bool> {
    fs::create_dir(probe)?;
    for name in ["1", "2", "3"] {
        fs::create_dir(probe.join(name))?;
    }
    let first = names(probe)?.into_iter().next();
    fs::remove_dir_all(probe)?;
    Ok(first.is_some_and(|name| name == "3"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_the_kernel_are_numbers() {
        for release in ["6.3.0", "6.18.44-fc", "10.0"] {
            assert!(is_since(release, (6, 3)), "{release}");
        }
        for release in ["6.2.99", "5.19", "6", ""] {
            assert!(!is_since(release, (6, 3)), "{release}");
        }
    }

    #[test]
    fn copies_have_the_same_files_and_times() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::write(from.join("a/b/f"), "x").unwrap();
        symlink("f", from.join("a/link")).unwrap();
        let reordered = Reordered {
            top: dir.path().to_owned(),
            newest_first: false,
        };
        let to = reordered.copy(&from, OsStr::new("to")).unwrap();
        assert_eq!(fs::read_to_string(to.join("a/b/f")).unwrap(), "x");
        assert_eq!(fs::read_link(to.join("a/link")).unwrap(), Path::new("f"));
        let time = |path: &Path| fs::symlink_metadata(path).unwrap().modified().unwrap();
        assert_eq!(time(&to.join("a")), time(&from.join("a")));
        let order = reordered.order(vec!["1".into(), "2".into()]);
        assert_eq!(order, ["2", "1"]);
    }
}
