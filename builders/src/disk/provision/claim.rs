//! Who uses a block device, or a file in the place of one.
//!
//! What the kernel itself knows of a block device is asked by claiming it (`O_EXCL`): that sees mounts of other mount namespaces too.
//! Loop devices claim nothing of what they are made of, so they are looked for one by one, on both sides of the device.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{FlockOperation, OFlags};

use super::loops::{Answer, Loop};

/// Claims a block device that is opened with it; nothing of files.
#[expect(
    clippy::cast_possible_wrap,
    reason = "the flag is one low bit, and open takes an int"
)]
pub(super) const EXCLUSIVE: i32 = OFlags::EXCL.bits() as i32;

/// Who uses a block device or file that is about to be written, in words; none when nobody does, as far as this user can see.
#[must_use]
pub fn used_by(path: &Path) -> Option<String> {
    let meta = fs::metadata(path).ok()?;
    in_use(path, &meta).or_else(|| {
        if meta.file_type().is_block_device() {
            return is_claimed(path).then(claimed);
        }
        let file = File::options().write(true).open(path);
        lock(&file.ok()?, false)
    })
}

/// Locks what is open for writing, for as long as it is open; says who has a lock, if somebody else has.
///
/// Virtual machines look at the locks of ranges, which go with the first descriptor of the file that this process closes. Other
/// runs of this program see those too, and the lock of the whole file, which no close of another descriptor ends.
pub(super) fn lock(file: &File, is_block: bool) -> Option<String> {
    let told = || {
        Some("another process has locked it, as a virtual machine does, or another `sos provision apply`".to_owned())
    };
    let whole = rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive);
    // Block devices are claimed instead; udev locks them for a moment whenever it looks at one.
    if whole == Err(rustix::io::Errno::WOULDBLOCK) && !is_block {
        return told();
    }
    match rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => told(),
        // A file system without locks tells nothing.
        Err(_) | Ok(()) => None,
    }
}

/// What is said of a device that the kernel gives to nobody else.
pub(super) fn claimed() -> String {
    "something has claimed it or a part of it: it is mounted in another mount namespace, as in a container, or another program holds it"
        .to_owned()
}

/// Whether something has claimed a block device; opened for reading, because a close after writing is an event for others.
fn is_claimed(path: &Path) -> bool {
    let mut options = File::options();
    let opened = options.read(true).custom_flags(EXCLUSIVE).open(path);
    opened.is_err_and(|e| e.kind() == io::ErrorKind::ResourceBusy)
}

/// Who uses a device or one of its partitions, in words.
pub(super) fn in_use(path: &Path, meta: &Metadata) -> Option<String> {
    uses(path, meta, &Loop::all(), &mut Vec::new())
}

/// The same, but for the loop devices that are `known`: those from which the question came.
fn uses(path: &Path, meta: &Metadata, loops: &[Loop], known: &mut Vec<String>) -> Option<String> {
    let mut ours = Vec::new();
    if meta.file_type().is_block_device() {
        ours = parts(path, meta)?;
        let by = held(&ours).or_else(|| mounted(&ours));
        if by.is_some() {
            return by;
        }
    }
    let is_of = |one: &Loop| match &one.below {
        Some(below) if below.file_type().is_block_device() => {
            let is_one = ours.iter().any(|(dev, _)| *dev == number(below.rdev()));
            if is_one { Answer::Yes } else { Answer::No }
        }
        _ => one.is_of(meta),
    };
    let others = loops.iter().filter(|one| !known.contains(&one.name));
    let answers: Vec<_> = others.map(|one| (is_of(one), &one.name)).collect();
    if let Some((_, name)) = answers.iter().find(|(answer, _)| *answer == Answer::Yes) {
        return Some(format!("it is behind `/dev/{name}`"));
    }
    if let Some((_, name)) = answers.iter().find(|(answer, _)| *answer == Answer::Maybe) {
        return Some(format!(
            "it may be behind `/dev/{name}`, which is made of a file of this size whose name is gone, and whose others only root is told"
        ));
    }
    // What a loop device is made of may be in use by others.
    let is_it = |one: &&Loop| {
        ours.first()
            .is_some_and(|(dev, _)| *dev == one.number && !known.contains(&one.name))
    };
    let own = loops.iter().find(is_it)?;
    known.push(own.name.clone());
    // A file without a name nobody else can have taken since.
    let below = own.below.as_ref()?;
    let by = uses(&own.backing, below, loops, known).or_else(|| {
        let is_block = below.file_type().is_block_device();
        (is_block && is_claimed(&own.backing)).then(claimed)
    });
    by.map(|by| {
        let below = own.backing.display();
        format!("`{below}`, of which it is made, is in use: {by}")
    })
}

fn number(rdev: u64) -> String {
    format!("{}:{}", rustix::fs::major(rdev), rustix::fs::minor(rdev))
}

/// A device and its partitions: their numbers and names.
fn parts(path: &Path, meta: &Metadata) -> Option<Vec<(String, String)>> {
    let whole = number(meta.rdev());
    let place = fs::canonicalize(format!("/sys/dev/block/{whole}")).ok()?;
    let mut ours = vec![(whole, path.display().to_string())];
    for below in fs::read_dir(&place).into_iter().flatten().flatten() {
        if let Ok(dev) = fs::read_to_string(below.path().join("dev")) {
            let name = format!("/dev/{}", below.file_name().to_string_lossy());
            ours.push((dev.trim().to_owned(), name));
        }
    }
    Some(ours)
}

/// Whether another device is made of one of these, as of the parts of a RAID.
fn held(ours: &[(String, String)]) -> Option<String> {
    let is_held = |dev: &str| {
        let holders = fs::read_dir(format!("/sys/dev/block/{dev}/holders"));
        holders.is_ok_and(|mut all| all.next().is_some())
    };
    let mut ours = ours.iter();
    let held = ours.any(|(dev, _)| is_held(dev));
    held.then(|| "another device is made of it".to_owned())
}

/// Where one of these is mounted in the mount namespace of this process, or that it is swap space.
fn mounted(ours: &[(String, String)]) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in mounts.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (Some(dev), Some(at)) = (words.get(2), words.get(4)) else {
            continue;
        };
        if let Some((_, name)) = ours.iter().find(|(own, _)| own == dev) {
            return Some(format!("`{name}` is mounted at `{at}`"));
        }
    }
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let swap = swaps
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next());
    let mut swap = swap.filter(|swap| ours.iter().any(|(_, name)| name == swap));
    swap.next().map(|swap| format!("`{swap}` is swap space"))
}
