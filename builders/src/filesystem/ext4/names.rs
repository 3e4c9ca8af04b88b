//! Blocks of directories.

use sos_formats::Bytes;

use super::BLOCK_BYTES;
use super::hash::half_md4;
use super::sums::Sums;

/// Bytes of a block that names can take: the rest holds the checksum.
const LEAF_BYTES: usize = BLOCK_BYTES - 12;
/// Entries of the block that an index begins with.
const ROOT_LIMIT: usize = (BLOCK_BYTES - 32 - 8) / 8;
/// Entries of the other blocks of an index.
const NODE_LIMIT: usize = (BLOCK_BYTES - 8 - 8) / 8;
/// Half of MD4, over bytes whose sign the superblock tells.
const HASH_VERSION: u8 = 1;

/// One name.
#[derive(Clone, Debug)]
pub(super) struct Name<'a> {
    pub(super) name: &'a [u8],
    pub(super) inode: u32,
    pub(super) kind: u8,
}

/// What a directory consists of.
pub(super) struct Directory {
    /// One block after the other.
    pub(super) bytes: Bytes,
    /// Whether the first is an index.
    pub(super) indexed: bool,
}

/// Bytes that an entry takes at least.
fn entry_len(name: &[u8]) -> usize {
    8 + name.len().next_multiple_of(4)
}

/// Tells whether the names fit into one block, beside `.` and `..`.
pub(super) fn is_small<'a>(names: impl Iterator<Item = &'a [u8]>) -> bool {
    names.map(entry_len).sum::<usize>() + 24 <= LEAF_BYTES
}

/// Makes the blocks of a directory. `owner` and `parent` are inodes; `None` when there are more names than an index can lead to.
pub(super) fn directory(
    names: &[Name<'_>],
    owner: u32,
    parent: u32,
    hash_seed: [u32; 4],
    sums: &Sums,
) -> Option<Directory> {
    let dots = [
        Name {
            name: b".",
            inode: owner,
            kind: 2,
        },
        Name {
            name: b"..",
            inode: parent,
            kind: 2,
        },
    ];
    if is_small(names.iter().map(|name| name.name)) {
        let mut bytes = Vec::new();
        let all: Vec<&Name<'_>> = dots.iter().chain(names).collect();
        leaf(&all, owner, sums, &mut bytes);
        return Some(Directory {
            bytes,
            indexed: false,
        });
    }
    let mut sorted: Vec<((u32, u32), &Name<'_>)> = names
        .iter()
        .map(|name| (half_md4(name.name, hash_seed), name))
        .collect();
    sorted.sort_by(|a, b| (a.0, a.1.name).cmp(&(b.0, b.1.name)));
    // Names in leaves, each with the hash it begins at; the lowest bit says that the leaf before has names of that hash too.
    let mut leaves: Vec<(u32, Vec<&Name<'_>>)> = Vec::new();
    let mut used = 0;
    let mut last = None;
    for ((hash, _), name) in sorted {
        let len = entry_len(name.name);
        match leaves.last_mut() {
            Some((_, leaf)) if used + len <= LEAF_BYTES => leaf.push(name),
            _ => {
                used = 0;
                let begin = if leaves.is_empty() {
                    0
                } else {
                    hash | u32::from(last == Some(hash))
                };
                leaves.push((begin, vec![name]));
            }
        }
        used += len;
        last = Some(hash);
    }
    let nodes = if leaves.len() <= ROOT_LIMIT {
        0
    } else {
        leaves.len().div_ceil(NODE_LIMIT)
    };
    if nodes > ROOT_LIMIT {
        return None;
    }
    // The root, then the nodes between if there are any, then the leaves.
    let number = |block: usize| u32::try_from(block).unwrap_or(u32::MAX);
    let begins: Vec<(u32, u32)> = leaves
        .iter()
        .enumerate()
        .map(|(at, (begin, _))| (*begin, number(1 + nodes + at)))
        .collect();
    let mut bytes = Vec::new();
    let mut root = vec![0; BLOCK_BYTES];
    entry(&mut root, 0, 12, &dots[0]);
    entry(&mut root, 12, BLOCK_BYTES - 12, &dots[1]);
    root[28..32].copy_from_slice(&[HASH_VERSION, 8, u8::from(nodes > 0), 0]);
    if nodes == 0 {
        index(&mut root, 32, ROOT_LIMIT, &begins, owner, sums);
        bytes.extend_from_slice(&root);
    } else {
        let parts: Vec<&[(u32, u32)]> = begins.chunks(NODE_LIMIT).collect();
        let top: Vec<(u32, u32)> = parts
            .iter()
            .enumerate()
            .map(|(at, part)| (part[0].0, number(1 + at)))
            .collect();
        index(&mut root, 32, ROOT_LIMIT, &top, owner, sums);
        bytes.extend_from_slice(&root);
        for part in parts {
            let mut node = vec![0; BLOCK_BYTES];
            put_len(&mut node, 4, BLOCK_BYTES);
            index(&mut node, 8, NODE_LIMIT, part, owner, sums);
            bytes.extend_from_slice(&node);
        }
    }
    for (_, names) in &leaves {
        leaf(names, owner, sums, &mut bytes);
    }
    Some(Directory {
        bytes,
        indexed: true,
    })
}

/// Makes the blocks of `lost+found`, with room for names, so that a repair need not find room first.
pub(super) fn lost_and_found(owner: u32, blocks: u64, sums: &Sums) -> Bytes {
    let dots = [
        Name {
            name: b".",
            inode: owner,
            kind: 2,
        },
        Name {
            name: b"..",
            inode: super::ROOT_INODE,
            kind: 2,
        },
    ];
    let mut bytes = Vec::new();
    leaf(&dots.iter().collect::<Vec<_>>(), owner, sums, &mut bytes);
    for _ in 1..blocks {
        leaf(&[], owner, sums, &mut bytes);
    }
    bytes
}

/// Adds a block of names.
fn leaf(names: &[&Name<'_>], owner: u32, sums: &Sums, out: &mut Bytes) {
    let begin = out.len();
    out.resize(begin + BLOCK_BYTES, 0);
    let block = &mut out[begin..];
    let mut at = 0;
    for (nth, name) in names.iter().enumerate() {
        let len = if nth + 1 == names.len() {
            LEAF_BYTES - at
        } else {
            entry_len(name.name)
        };
        entry(block, at, len, name);
        at += len;
    }
    if names.is_empty() {
        put_len(block, 4, LEAF_BYTES);
    }
    // The checksum looks like a name that is not used.
    put_len(block, LEAF_BYTES + 4, 12);
    block[LEAF_BYTES + 7] = 0xde;
    let sum = sums.of_inode(owner, &block[..LEAF_BYTES]);
    block[BLOCK_BYTES - 4..].copy_from_slice(&sum.to_le_bytes());
}

fn entry(block: &mut [u8], at: usize, len: usize, name: &Name<'_>) {
    block[at..at + 4].copy_from_slice(&name.inode.to_le_bytes());
    put_len(block, at + 4, len);
    // Manifests have names of up to 255 bytes.
    block[at + 6] = u8::try_from(name.name.len()).unwrap_or(u8::MAX);
    block[at + 7] = name.kind;
    block[at + 8..at + 8 + name.name.len()].copy_from_slice(name.name);
}

fn put_len(block: &mut [u8], at: usize, len: usize) {
    let len = u16::try_from(len).unwrap_or(u16::MAX);
    block[at..at + 2].copy_from_slice(&len.to_le_bytes());
}

/// Writes the entries of an index from `at` on: the first has the limit and the count where the others have a hash.
fn index(
    block: &mut [u8],
    at: usize,
    limit: usize,
    entries: &[(u32, u32)],
    owner: u32,
    sums: &Sums,
) {
    for (nth, (hash, number)) in entries.iter().enumerate() {
        let at = at + nth * 8;
        block[at..at + 4].copy_from_slice(&hash.to_le_bytes());
        block[at + 4..at + 8].copy_from_slice(&number.to_le_bytes());
    }
    put_len(block, at, limit);
    put_len(block, at + 2, entries.len());
    // Four bytes that are reserved, and the checksum itself as zero, count too.
    let covered = [&block[..at + entries.len() * 8], &[0; 8]].concat();
    let sum = sums.of_inode(owner, &covered);
    block[BLOCK_BYTES - 4..].copy_from_slice(&sum.to_le_bytes());
}
