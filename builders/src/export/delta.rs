//! Static deltas of a repository outside the store: what a commit needs, packed, for those who have nothing or the commit before.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use liblzma::stream::{Check, Stream};
use liblzma::write::XzEncoder;
use sos_engine::BuilderError;
use sos_formats::hash::Sha256;
use sos_formats::ostree::{
    DeltaPart, Fallback, ObjectKind, PartEntry, Superblock, delta_dir, object_name, parse_delta_dir,
};

use super::directory::failed;
use crate::ostree::source::{Reachable, Source};

/// Bytes of objects in one part; one object more may go beyond.
const PART_BYTES: u64 = 16 << 20;
/// Files of more bytes are not packed: readers fetch them alone, and hold no part of that size in memory.
const MAX_PACKED_BYTES: u64 = 128 << 20;
/// Level of xz.
const LEVEL: u32 = 6;

/// An object to be packed.
enum Wanted {
    Metadata(ObjectKind, Sha256),
    File(Sha256),
}

/// Writes the delta that leads from `from`, or from nothing, to `to`, into the repository in `repo`; gives its size in bytes.
pub(super) fn write(
    repo: &Path,
    from: Option<&Sha256>,
    to: &Sha256,
    cores: usize,
) -> Result<u64, BuilderError> {
    let source = Source::open(repo)?;
    let needed = |commit: &Sha256| {
        source
            .commit(commit)?
            .ok_or_else(|| BuilderError::failed(format!("the repository has no commit {commit}")))
    };
    let (commit, view) = needed(to)?;
    let mut reachable = source.reachable(&view)?;
    if let Some(from) = from {
        let old = source.reachable(&needed(from)?.1)?;
        reachable.trees.retain(|one| !old.trees.contains(one));
        reachable.metas.retain(|one| !old.metas.contains(one));
        reachable.files.retain(|one| !old.files.contains(one));
    }
    let (groups, fallbacks) = divide(&source, reachable)?;
    let dir = repo.join(delta_dir(from, to));
    // A delta that is there was made of the same objects, perhaps by another program: what it was is replaced whole.
    let staged = repo
        .join("tmp")
        .join(format!("sos-delta-{}", std::process::id()));
    let _stale = fs::remove_dir_all(&staged).is_ok();
    fs::create_dir_all(&staged).map_err(|e| failed("make the directory", &staged, e))?;
    let parts = pack(&source, &groups, &staged, cores)?;
    let detached = detached(repo, to)?;
    let superblock = Superblock {
        from: from.copied(),
        to: *to,
        commit: &commit,
        timestamp: view.timestamp,
        parts,
        fallbacks,
        detached: detached.as_deref(),
    };
    let bytes = superblock.encode();
    let file = staged.join("superblock");
    fs::write(&file, &bytes).map_err(|e| failed("write", &file, e))?;
    let _old = fs::remove_dir_all(&dir).is_ok();
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).map_err(|e| failed("make the directory", parent, e))?;
    }
    fs::rename(&staged, &dir).map_err(|e| failed("make", &dir, e))?;
    let parts = superblock.parts.iter().map(|part| part.size);
    Ok(parts.sum::<u64>() + bytes.len() as u64)
}

/// Whether such a delta is there.
pub(super) fn exists(repo: &Path, from: Option<&Sha256>, to: &Sha256) -> bool {
    repo.join(delta_dir(from, to)).join("superblock").is_file()
}

/// Where the detached metadata of a commit is: it has the name of the commit with `meta` at the end.
pub(super) fn detached_file(repo: &Path, commit: &Sha256) -> PathBuf {
    let (dir, name) = object_name(commit, ObjectKind::Commit);
    repo.join("objects").join(dir).join(format!("{name}meta"))
}

/// Reads it, if there is any.
pub(super) fn detached(repo: &Path, commit: &Sha256) -> Result<Option<Vec<u8>>, BuilderError> {
    let file = detached_file(repo, commit);
    match fs::read(&file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("read", &file, e)),
    }
}

/// Divides objects into parts, each of at most about [`PART_BYTES`].
fn divide(
    source: &Source<'_>,
    reachable: Reachable,
) -> Result<(Vec<Vec<Wanted>>, Vec<Fallback>), BuilderError> {
    let (mut groups, mut fallbacks) = (Vec::new(), Vec::new());
    let (mut group, mut size) = (Vec::new(), 0);
    let mut add = |wanted: Wanted, bytes: u64| {
        if size > 0 && size + bytes > PART_BYTES {
            groups.push(std::mem::take(&mut group));
            size = 0;
        }
        group.push(wanted);
        size += bytes;
    };
    let metadata = reachable
        .trees
        .into_iter()
        .map(|one| (ObjectKind::DirTree, one));
    let metadata = metadata.chain(
        reachable
            .metas
            .into_iter()
            .map(|one| (ObjectKind::DirMeta, one)),
    );
    for (kind, checksum) in metadata {
        let bytes = source.needed(&checksum, kind)?.len() as u64;
        add(Wanted::Metadata(kind, checksum), bytes);
    }
    for checksum in reachable.files {
        let content = source.content(&checksum)?;
        if content.size > MAX_PACKED_BYTES {
            fallbacks.push(Fallback {
                checksum,
                stored_size: content.stored_size,
                size: content.size,
            });
            continue;
        }
        let bytes = content.size + content.view.target.len() as u64;
        add(Wanted::File(checksum), bytes);
    }
    if !group.is_empty() {
        groups.push(group);
    }
    Ok((groups, fallbacks))
}

/// Writes the parts, on several threads: each is compressed by itself, so that nobody can tell how many there were.
fn pack(
    source: &Source<'_>,
    groups: &[Vec<Wanted>],
    dir: &Path,
    cores: usize,
) -> Result<Vec<PartEntry>, BuilderError> {
    let next = AtomicUsize::new(0);
    let done: Vec<Mutex<Option<Result<PartEntry, BuilderError>>>> =
        groups.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..cores.clamp(1, groups.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(group) = groups.get(at) else {
                        return;
                    };
                    let made = part(source, group, &dir.join(at.to_string()));
                    *done[at].lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
                }
            });
        }
    });
    done.into_iter()
        .map(|one| {
            one.into_inner()
                .unwrap_or_else(PoisonError::into_inner)
                .unwrap_or(Err(BuilderError::Cancelled))
        })
        .collect()
}

fn part(source: &Source<'_>, group: &[Wanted], file: &Path) -> Result<PartEntry, BuilderError> {
    let mut part = DeltaPart::new();
    for wanted in group {
        match wanted {
            Wanted::Metadata(kind, checksum) => {
                part.metadata(*kind, checksum, &source.needed(checksum, *kind)?);
            }
            Wanted::File(checksum) => {
                let mut content = source.content(checksum)?;
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut content, &mut bytes).map_err(|e| {
                    BuilderError::io(format!("cannot read the object {checksum}"), e)
                })?;
                let view = content.finish()?;
                if !view.target.is_empty() {
                    bytes = view.target.into_bytes();
                }
                part.file(checksum, &view.attributes, &bytes);
            }
        }
    }
    let (plain, objects, objects_size) = part.finish();
    let wrong = |e: std::io::Error| failed("write", file, e);
    let stream = Stream::new_easy_encoder(LEVEL, Check::Crc64).map_err(|e| wrong(e.into()))?;
    // The letter says that xz data follows.
    let mut encoder = XzEncoder::new_stream(vec![b'x'], stream);
    std::io::Write::write_all(&mut encoder, &plain).map_err(wrong)?;
    let bytes = encoder.finish().map_err(wrong)?;
    fs::write(file, &bytes).map_err(wrong)?;
    Ok(PartEntry {
        checksum: Sha256::of(&bytes),
        size: bytes.len() as u64,
        objects_size,
        objects,
    })
}

/// Lists the deltas of a repository with the checksums of their superblocks, as a summary names them.
pub(super) fn list(repo: &Path) -> Result<Vec<(String, Sha256)>, BuilderError> {
    let mut found = Vec::new();
    let top = repo.join("deltas");
    for dir in names(&top)? {
        for rest in names(&top.join(&dir))? {
            let Some((from, to)) = parse_delta_dir(&dir, &rest) else {
                continue;
            };
            let file = top.join(&dir).join(&rest).join("superblock");
            let bytes = match fs::read(&file) {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(failed("read", &file, e)),
            };
            let name = from.map_or(to.to_string(), |from| format!("{from}-{to}"));
            found.push((name, Sha256::of(&bytes)));
        }
    }
    found.sort();
    Ok(found)
}

fn names(dir: &Path) -> Result<Vec<String>, BuilderError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed("read", dir, e)),
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names
        .collect::<std::io::Result<_>>()
        .map_err(|e| failed("read", dir, e))
}
