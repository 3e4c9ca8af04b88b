//! The content-addressed store: blobs, trees, rootfs manifests, metadata, garbage collection.
//!
//! ```text
//! <root>/
//!   version                 format number; a newer one is refused
//!   db/sos.sqlite           what is valid, what refers to what, results, leases, caches, journal
//!   lock/{gc,add,drv/…}     files for flock
//!   cas/ab/cdef…            contents by BLAKE3, 0444; the executable twin ends in .x, 0555
//!   tree/<hash>-<name>      tree objects: directories of hard links to cas/, read-only, times 1
//!   man/ab/cdef…            manifest nodes of rootfs objects, zstd
//!   tmp/<pid>.<start>.<n>…  private directories, locked by their owners
//!   roots/ , roots/auto/    symlinks that keep objects alive
//!   log/ab/….zst            logs by derivation
//!   work/                   the engine's cached working trees
//!   failed/                 what failed builds have left, if that was asked for; gc empties it
//!   reserve                 8 MiB, given up first on a full disk
//! ```
//!
//! Invariants: an object is valid only by its row in the database; what a valid object refers to is valid; files are
//! written and synced before the row. Nothing here is asynchronous; a [`Store`] can be used from many threads.
#![forbid(unsafe_code)]

mod blob_writer;
mod built;
mod cas;
mod check;
mod clock;
pub mod compare;
mod db;
mod derived;
mod direct;
mod error;
mod evaluations;
#[doc(hidden)]
pub mod fault;
mod gc;
mod ingest;
mod journal;
mod large;
mod listing;
mod locks;
mod logs;
mod nar_in;
mod objects;
mod outputs;
mod packed;
mod place;
mod process;
mod remove;
mod repair;
pub mod rootfs;
mod roots;
mod scan;
mod session;
mod signatures;
mod source_files;
mod sources;
mod sparse;
mod statcache;
mod steps;
mod store;
mod sys;
mod targets;
mod temp;
mod tree_id;
mod within;

pub use blob_writer::BlobWriter;
pub use built::{Built, NewBuilt};
pub use check::{CheckOptions, CheckReport, Problem};
pub use derived::Derived;
pub use error::{Result, RootPathProblem, StoreError};
pub use evaluations::{Evaluation, MAX_EVALUATION_BYTES, NewEvaluation};
pub use gc::{GcOptions, GcReport, Progress};
pub use ingest::{IngestOptions, Ingested, Stop};
pub use journal::{BuildId, BuildRecord, NewBuild};
pub use listing::{FileType, Filter};
pub use locks::{DrvLock, LockHolder, RunningBuild, TryLock};
pub use logs::{LogReader, LogWriter};
pub use objects::{ObjectKind, PathInfo, Registration};
pub use outputs::{Rebuild, RebuildRecord, Trace, TraceRecord};
pub use process::ProcessId;
pub use remove::{PlainRemover, Remover};
pub use repair::Repaired;
pub use roots::GcRoot;
pub use session::Lease;
pub use source_files::{FileChange, SourceEntry, SourceFiles};
pub use statcache::{StatKey, now_nanos};
pub use steps::Step;
pub use store::{OpenOptions, Store};
pub use sys::is_disk_full;
pub use temp::{SweepReport, TempDir};
pub use tree_id::{Known, tree_id};
pub use within::store_of;
