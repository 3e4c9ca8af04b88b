//! Derivations, their outputs, and the results of builds (traces).

use sos_formats::store_path::StorePath;

use crate::db;
use crate::error::Result;
use crate::store::Store;

/// The result of one build of one output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The BLAKE3 of what was built: the resolved derivation and the revision of its builder.
    pub key: [u8; 32],
    /// The derivation as it was asked for.
    pub drv: StorePath,
    /// The name of the output.
    pub output: String,
    /// What came out.
    pub path: StorePath,
    /// Who built it.
    pub builder: String,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// When it began, in seconds since 1970.
    pub started_secs: i64,
    /// The derivation under which its log is, if there is one.
    pub log: Option<StorePath>,
    /// The machine that built it, if it is known.
    pub host: Option<String>,
}

/// What came out when an output that is there was built again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuild {
    /// The output that is there.
    pub path: StorePath,
    /// The derivation.
    pub drv: StorePath,
    /// The name of the output.
    pub output: String,
    /// Whether the same came out.
    pub same: bool,
    /// The hash of what came out: `sha256:..` of the archive of a tree, `blake3:..` of a root filesystem.
    pub found: String,
    /// What was varied.
    pub conditions: String,
    /// The machine.
    pub host: String,
    /// When it began, in seconds since 1970.
    pub started_secs: i64,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// A rebuild as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebuildRecord {
    /// Counts up with every rebuild.
    pub id: i64,
    /// The rebuild.
    pub rebuild: Rebuild,
}

/// A trace as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceRecord {
    /// Counts up with every trace.
    pub id: i64,
    /// The trace.
    pub trace: Trace,
}

impl Store {
    /// Keeps the text of a derivation.
    ///
    /// # Errors
    /// When the database fails.
    pub fn put_drv(&self, path: &StorePath, aterm: &[u8]) -> Result<()> {
        self.put_drvs([(path, aterm)])
    }

    /// Keeps the texts of many derivations in one transaction.
    ///
    /// # Errors
    /// When the database fails.
    pub fn put_drvs<'a>(
        &self,
        drvs: impl IntoIterator<Item = (&'a StorePath, &'a [u8])>,
    ) -> Result<()> {
        let mut drvs: Vec<_> = drvs.into_iter().collect();
        // In the order of the index, which touches each page once.
        drvs.sort_by_cached_key(|(path, _)| path.hash_bytes());
        self.db().write(|db| {
            drvs.iter()
                .try_for_each(|(path, aterm)| db::put_drv(db, path, aterm))
        })
    }

    /// Finds the text of a derivation.
    ///
    /// # Errors
    /// When the database fails.
    pub fn get_drv(&self, path: &StorePath) -> Result<Option<Vec<u8>>> {
        self.db().read(|db| db::get_drv(db, path))
    }

    /// The output of a derivation, if it is known and valid.
    ///
    /// # Errors
    /// When the database fails.
    pub fn drv_output(&self, drv: &StorePath, output: &str) -> Result<Option<StorePath>> {
        self.db().read(|db| db::get_output(db, drv, output))
    }

    /// All outputs of a derivation that are known and valid, by name.
    ///
    /// # Errors
    /// When the database fails.
    pub fn drv_outputs(&self, drv: &StorePath) -> Result<Vec<(String, StorePath)>> {
        self.db().read(|db| db::outputs_of(db, drv))
    }

    /// Notes the output of a derivation; it counts for as long as that path is valid.
    ///
    /// # Errors
    /// When the database fails.
    pub fn set_drv_output(&self, drv: &StorePath, output: &str, path: &StorePath) -> Result<()> {
        self.set_drv_outputs([(drv, output, path)])
    }

    /// Notes many outputs in one transaction.
    ///
    /// # Errors
    /// When the database fails.
    pub fn set_drv_outputs<'a>(
        &self,
        outputs: impl IntoIterator<Item = (&'a StorePath, &'a str, &'a StorePath)>,
    ) -> Result<()> {
        self.db().write(|db| {
            outputs
                .into_iter()
                .try_for_each(|(drv, output, path)| db::set_output(db, drv, output, path))
        })
    }

    /// The newest valid result for a key.
    ///
    /// # Errors
    /// When the database fails.
    pub fn trace(&self, key: &[u8; 32], output: &str) -> Result<Option<StorePath>> {
        self.db().read(|db| db::find_trace(db, key, output))
    }

    /// Adds a result; earlier ones for the same key stay, so that builds can be compared.
    ///
    /// # Errors
    /// When the database fails.
    pub fn record_trace(&self, trace: &Trace) -> Result<()> {
        self.db().write(|db| db::insert_trace(db, trace))
    }

    /// Adds several results and notes the outputs of their derivations, in one transaction.
    ///
    /// # Errors
    /// When the database fails.
    pub fn record_traces(&self, traces: &[Trace]) -> Result<()> {
        self.db().write(|db| {
            traces.iter().try_for_each(|trace| {
                db::insert_trace(db, trace)?;
                db::set_output(db, &trace.drv, &trace.output, &trace.path)
            })
        })
    }

    /// All results that made a path, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub fn traces_of(&self, path: &StorePath) -> Result<Vec<TraceRecord>> {
        self.db().read(|db| db::traces_of(db, path))
    }

    /// All results of what was built, oldest first: more than one path for one output means that builds of it differ.
    ///
    /// # Errors
    /// When the database fails.
    pub fn traces_of_key(&self, key: &[u8; 32]) -> Result<Vec<TraceRecord>> {
        self.db().read(|db| db::traces_of_key(db, key))
    }

    /// Remembers what came out when outputs were built again, for as long as they are there.
    ///
    /// # Errors
    /// When the database fails.
    pub fn record_rebuilds(&self, rebuilds: &[Rebuild]) -> Result<()> {
        self.db().write(|db| {
            rebuilds
                .iter()
                .try_for_each(|rebuild| db::insert_rebuild(db, rebuild))
        })
    }

    /// What came out when a path was built again, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub fn rebuilds_of(&self, path: &StorePath) -> Result<Vec<RebuildRecord>> {
        self.db().read(|db| db::rebuilds_of(db, path))
    }

    /// Whether a derivation was built here and what came out is remembered.
    ///
    /// # Errors
    /// When the database fails.
    pub fn was_built(&self, drv: &StorePath) -> Result<bool> {
        self.db().read(|db| db::has_result(db, drv))
    }
}
