//! The files of a commit, written from the objects of its repository.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Stdio;

use sos_formats::diagnostic::{Class, Diagnostic};

use super::repository::{Repository, no_git};
use super::{Answer, io, problem};

/// Entries of one commit.
const MAX_ENTRIES: usize = 8 << 20;
/// The longest target of a link.
const MAX_LINK_BYTES: u64 = 4096;

/// One entry of a tree object.
struct Entry<'a> {
    mode: &'a [u8],
    id: &'a str,
    path: &'a [u8],
}

/// Writes a commit to the new directory `out`, without what is ignored; returns its submodules: path and commit.
pub(super) fn write(
    repository: &Repository,
    rev: &str,
    out: &Path,
    ignored: &BTreeSet<Vec<u8>>,
) -> Answer<Vec<(Vec<u8>, String)>> {
    let mut list = repository.command();
    list.args(["ls-tree", "-r", "-t", "-z", "--full-tree", rev]);
    let listed = list.output().map_err(|e| no_git(&e))?;
    if !listed.status.success() {
        return Err(repository.failed(&listed));
    }
    let broken = |what: &str| broken(repository, rev, what);
    let mut entries = Vec::new();
    for line in listed.stdout.split(|b| *b == 0).filter(|l| !l.is_empty()) {
        if entries.len() >= MAX_ENTRIES {
            return Err(broken("has too many files"));
        }
        let entry = parse(line).ok_or_else(|| broken("has an entry that cannot be read"))?;
        if !is_clean(entry.path) {
            return Err(broken("has a file whose name leads out of the tree"));
        }
        if !is_ignored(entry.path, ignored) {
            entries.push(entry);
        }
    }
    fs::create_dir(out).map_err(|e| io("make", out, &e))?;
    let mut links = Vec::new();
    let mut directories: BTreeSet<&[u8]> = BTreeSet::new();
    let mut files = Vec::new();
    for entry in &entries {
        let parent = memchr(entry.path).map_or(&b""[..], |i| &entry.path[..i]);
        if !parent.is_empty() && !directories.contains(parent) {
            return Err(broken("has a file below something that is no directory"));
        }
        let place = out.join(OsStr::from_bytes(entry.path));
        match entry.mode {
            b"040000" | b"160000" => {
                fs::create_dir(&place).map_err(|e| io("make", &place, &e))?;
                if entry.mode == b"160000" {
                    links.push((entry.path.to_vec(), entry.id.to_owned()));
                } else {
                    directories.insert(entry.path);
                }
            }
            b"100644" | b"100664" | b"100755" | b"120000" => files.push(entry),
            _ => return Err(broken("has an entry of an unknown kind")),
        }
    }
    contents(repository, rev, out, &files)?;
    // Git has no empty directories: those that hold only ignored files are not there either.
    if !ignored.is_empty() {
        for dir in directories.iter().rev() {
            // One that holds something stays.
            let _kept = fs::remove_dir(out.join(OsStr::from_bytes(dir)));
        }
    }
    Ok(links)
}

/// Asks for all objects at once and writes them as they come.
fn contents(repository: &Repository, rev: &str, out: &Path, files: &[&Entry<'_>]) -> Answer<()> {
    let mut batch = repository.command();
    batch.args(["cat-file", "--batch"]);
    batch
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = batch.spawn().map_err(|e| no_git(&e))?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let ids: String = files.iter().map(|f| format!("{}\n", f.id)).collect();
    let result = std::thread::scope(|scope| {
        scope.spawn(move || input.map(|mut i| i.write_all(ids.as_bytes())));
        let Some(output) = output else { return Ok(()) };
        let mut output = BufReader::with_capacity(128 * 1024, output);
        files
            .iter()
            .try_for_each(|file| one(repository, rev, out, file, &mut output))
    });
    if result.is_err() {
        // It may still be writing what nobody reads.
        let _ended = child.kill();
    }
    let status = child.wait().map_err(|e| no_git(&e))?;
    result?;
    if !status.success() {
        return Err(broken(repository, rev, "cannot be read whole"));
    }
    Ok(())
}

fn one(
    repository: &Repository,
    rev: &str,
    out: &Path,
    file: &Entry<'_>,
    from: &mut impl std::io::BufRead,
) -> Answer<()> {
    let broken = |what: &str| broken(repository, rev, what);
    let mut head = Vec::new();
    from.by_ref()
        .take(256)
        .read_until(b'\n', &mut head)
        .map_err(|e| no_git(&e))?;
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut parts = head.split_whitespace();
    let size = match (parts.next(), parts.next(), parts.next()) {
        (Some(id), Some("blob"), Some(size)) if id == file.id => size.parse::<u64>().ok(),
        _ => None,
    };
    let size = size.ok_or_else(|| broken("lacks an object"))?;
    let place = out.join(OsStr::from_bytes(file.path));
    let mut body = from.by_ref().take(size);
    if file.mode == b"120000" {
        if size > MAX_LINK_BYTES {
            return Err(broken("has a link that is too long"));
        }
        let mut target = Vec::new();
        body.read_to_end(&mut target).map_err(|e| no_git(&e))?;
        symlink(OsStr::from_bytes(&target), &place).map_err(|e| io("make", &place, &e))?;
    } else {
        let mut file_out = File::create_new(&place).map_err(|e| io("create", &place, &e))?;
        let copied =
            std::io::copy(&mut body, &mut file_out).map_err(|e| io("write", &place, &e))?;
        if copied != size {
            return Err(broken("ends in the middle of a file"));
        }
        if file.mode == b"100755" {
            file_out
                .set_permissions(Permissions::from_mode(0o755))
                .map_err(|e| io("write", &place, &e))?;
        }
    }
    let mut end = [0];
    from.read_exact(&mut end)
        .map_err(|_cut| broken("ends in the middle of a file"))
}

/// `mode type id TAB path`
fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let tab = line.iter().position(|b| *b == b'\t')?;
    let mut parts = line[..tab].split(|b| *b == b' ').filter(|p| !p.is_empty());
    let (mode, _, id) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Entry {
        mode,
        id: std::str::from_utf8(id).ok()?,
        path: &line[tab + 1..],
    })
}

fn memchr(path: &[u8]) -> Option<usize> {
    path.iter().rposition(|b| *b == b'/')
}

/// Whether a path stays below the directory that it starts at.
fn is_clean(path: &[u8]) -> bool {
    path.split(|b| *b == b'/')
        .all(|part| !matches!(part, b"" | b"." | b".."))
}

/// Whether a path or a directory above it is ignored.
fn is_ignored(path: &[u8], ignored: &BTreeSet<Vec<u8>>) -> bool {
    if ignored.is_empty() {
        return false;
    }
    let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/');
    ends.map(|(i, _)| &path[..i])
        .chain([path])
        .any(|p| ignored.contains(p))
}

fn broken(repository: &Repository, rev: &str, what: &str) -> Box<Diagnostic> {
    problem(
        "git-broken",
        Class::Fetch,
        format!("commit {rev} of '{}' {what}", repository.url()),
    )
}
