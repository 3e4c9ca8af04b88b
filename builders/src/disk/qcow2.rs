//! `builtin:qcow2`: a disk image in the format of QEMU: what is zero takes no room, wherever the file is copied.
//!
//! ```text
//! cluster 0       header, version 3
//! then            refcount table, refcount blocks, L1 table, L2 tables, data; each in the order of the disk
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::SeekFrom;
use serde::Deserialize;
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::diagnostic::{Class, Diagnostic};

use crate::build::Build;

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Entries of 8 bytes in a cluster.
const PER_TABLE: u64 = CLUSTER / 8;
/// Counts of 16 bits in a cluster.
const PER_REFCOUNT: u64 = CLUSTER / 2;
/// Set in an entry whose cluster belongs to it alone.
const COPIED: u64 = 1 << 63;

/// Makes a qcow2 image of a raw one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Qcow2Builder;

impl Builder for Qcow2Builder {
    fn name(&self) -> &'static str {
        "builtin:qcow2"
    }
    fn pool(&self) -> Pool {
        Pool::Build
    }
    fn revision(&self) -> u32 {
        1
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let attrs: Qcow2Attrs = ctx.attrs_as()?;
        let disk = ctx.tree(&attrs.disk)?;
        write(&disk, &ctx.out_path("out"), &|done, total| {
            ctx.progress(done, total);
            !ctx.cancelled()
        })
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Qcow2Attrs {
    disk: String,
}

/// Where the parts of an image are, in clusters.
#[derive(Debug)]
struct Layout {
    refcount_table: u64,
    refcount_blocks: u64,
    l1: u64,
    l2: u64,
    total: u64,
}

/// Writes the raw image `disk` as a new file; `go_on` is told how far it is.
pub(super) fn write(
    disk: &Path,
    out: &Path,
    go_on: &dyn Fn(u64, u64) -> bool,
) -> Result<(), BuilderError> {
    let read = |e: io::Error| BuilderError::io(format!("cannot read `{}`", disk.display()), e);
    let put = |e: io::Error| BuilderError::io("cannot write the qcow2 image", e);
    let source = File::open(disk).map_err(read)?;
    let size = source.metadata().map_err(read)?.len();
    if !size.is_multiple_of(512) {
        let message = format!(
            "`{}` is no disk image: {size} bytes are no whole sectors",
            disk.display()
        );
        return Err(Diagnostic::error("disk-layout", Class::Recipe, message).into());
    }
    let used = used_clusters(&source, size, go_on)?;
    let (layout, tables) = lay_out(size, &used);
    let file = File::create_new(out).map_err(put)?;
    file.write_all_at(&header(size, &layout), 0).map_err(put)?;
    file.write_all_at(&refcounts(&layout), layout.refcount_table * CLUSTER)
        .map_err(put)?;
    let first_data = layout.l2 + tables.len() as u64;
    let mut l1 = Vec::new();
    let l1_size = size.div_ceil(CLUSTER * PER_TABLE);
    let mut data = first_data;
    let mut l2_at = layout.l2;
    let mut pieces = used.iter().copied().peekable();
    for table in 0..l1_size {
        if tables.binary_search(&table).is_err() {
            l1.extend_from_slice(&[0; 8]);
            continue;
        }
        l1.extend_from_slice(&((l2_at * CLUSTER) | COPIED).to_be_bytes());
        let mut l2 = vec![0; usize::try_from(CLUSTER).unwrap_or(0)];
        while let Some(cluster) = pieces.next_if(|cluster| cluster / PER_TABLE == table) {
            let at = usize::try_from(cluster % PER_TABLE * 8).unwrap_or(0);
            l2[at..at + 8].copy_from_slice(&((data * CLUSTER) | COPIED).to_be_bytes());
            let piece = cluster_of(&source, cluster, size).map_err(read)?;
            file.write_all_at(&piece, data * CLUSTER).map_err(put)?;
            data += 1;
        }
        file.write_all_at(&l2, l2_at * CLUSTER).map_err(put)?;
        l2_at += 1;
    }
    file.write_all_at(&l1, layout.l1 * CLUSTER).map_err(put)?;
    file.set_len(layout.total * CLUSTER).map_err(put)
}

/// The clusters that are not all zeros, in order. Holes of the file are not read.
fn used_clusters(
    source: &File,
    size: u64,
    go_on: &dyn Fn(u64, u64) -> bool,
) -> Result<Vec<u64>, BuilderError> {
    let failed = |e: io::Error| BuilderError::io("cannot read the disk image", e);
    let mut used = Vec::new();
    let mut at = 0;
    while at < size {
        // Where holes cannot be asked for, everything is data.
        let data = match rustix::fs::seek(source, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => break,
            Err(_) => at,
        };
        let hole = rustix::fs::seek(source, SeekFrom::Hole(data))
            .unwrap_or(size)
            .min(size);
        let first = (data / CLUSTER).max(at.div_ceil(CLUSTER));
        for cluster in first..hole.div_ceil(CLUSTER) {
            if cluster.is_multiple_of(1024) && !go_on(cluster * CLUSTER, size) {
                return Err(BuilderError::Cancelled);
            }
            let piece = cluster_of(source, cluster, size).map_err(failed)?;
            if piece.iter().any(|byte| *byte != 0) {
                used.push(cluster);
            }
        }
        at = hole.div_ceil(CLUSTER).max(first + 1) * CLUSTER;
    }
    Ok(used)
}

fn cluster_of(source: &File, cluster: u64, size: u64) -> io::Result<Vec<u8>> {
    let at = cluster * CLUSTER;
    let len = CLUSTER.min(size - at);
    let mut piece = vec![0; usize::try_from(CLUSTER).unwrap_or(0)];
    source.read_exact_at(&mut piece[..usize::try_from(len).unwrap_or(0)], at)?;
    Ok(piece)
}

/// Where everything goes, and which L2 tables there are.
fn lay_out(size: u64, used: &[u64]) -> (Layout, Vec<u64>) {
    let mut tables: Vec<u64> = used.iter().map(|cluster| cluster / PER_TABLE).collect();
    tables.dedup();
    let l1_clusters = size
        .div_ceil(CLUSTER * PER_TABLE)
        .div_ceil(PER_TABLE)
        .max(1);
    let fixed = 1 + l1_clusters + tables.len() as u64 + used.len() as u64;
    // What counts the clusters is counted too.
    let (mut blocks, mut table) = (1, 1);
    loop {
        let total = fixed + blocks + table;
        let wanted = total.div_ceil(PER_REFCOUNT);
        let wanted_table = wanted.div_ceil(PER_TABLE);
        if wanted <= blocks && wanted_table <= table {
            break;
        }
        (blocks, table) = (wanted.max(blocks), wanted_table.max(table));
    }
    let layout = Layout {
        refcount_table: 1,
        refcount_blocks: 1 + table,
        l1: 1 + table + blocks,
        l2: 1 + table + blocks + l1_clusters,
        total: fixed + blocks + table,
    };
    (layout, tables)
}

fn header(size: u64, layout: &Layout) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(112);
    let l1_size = u32::try_from(size.div_ceil(CLUSTER * PER_TABLE)).unwrap_or(u32::MAX);
    let table_clusters =
        u32::try_from(layout.refcount_blocks - layout.refcount_table).unwrap_or(u32::MAX);
    bytes.extend_from_slice(b"QFI\xfb");
    bytes.extend_from_slice(&3u32.to_be_bytes());
    bytes.extend_from_slice(&[0; 12]);
    bytes.extend_from_slice(&CLUSTER_BITS.to_be_bytes());
    bytes.extend_from_slice(&size.to_be_bytes());
    bytes.extend_from_slice(&0u32.to_be_bytes());
    bytes.extend_from_slice(&l1_size.to_be_bytes());
    bytes.extend_from_slice(&(layout.l1 * CLUSTER).to_be_bytes());
    bytes.extend_from_slice(&(layout.refcount_table * CLUSTER).to_be_bytes());
    bytes.extend_from_slice(&table_clusters.to_be_bytes());
    // No snapshots and no features.
    bytes.extend_from_slice(&[0; 12 + 24]);
    // Counts have 16 bits; the header has 104 bytes; no extensions follow.
    bytes.extend_from_slice(&4u32.to_be_bytes());
    bytes.extend_from_slice(&104u32.to_be_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes
}

/// The refcount table and its blocks: each cluster is used once.
fn refcounts(layout: &Layout) -> Vec<u8> {
    let mut bytes: Vec<u8> = (layout.refcount_blocks..layout.l1)
        .flat_map(|block| (block * CLUSTER).to_be_bytes())
        .collect();
    let table = (layout.refcount_blocks - layout.refcount_table) * CLUSTER;
    bytes.resize(usize::try_from(table).unwrap_or(0), 0);
    for _ in 0..layout.total {
        bytes.extend_from_slice(&1u16.to_be_bytes());
    }
    bytes
}
