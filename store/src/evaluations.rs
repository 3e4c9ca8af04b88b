//! The cache of evaluations: what a command's evaluation gave, and from what. What the bytes mean is the caller's affair.

use std::io::Read as _;
use std::path::Path;

use sos_formats::hash::Blake3;

use crate::clock;
use crate::db;
use crate::error::{IoContext as _, Result};
use crate::statcache::StatKey;
use crate::store::Store;

/// What all results of evaluations together may take; the longest unused go first.
pub const MAX_EVALUATION_BYTES: u64 = 256 << 20;

/// Results that nobody used for this long go with the next collection.
pub(crate) const EVALUATION_DAYS: i64 = 30;

/// A use is written down when the last one is older than this: a hit should cost no write.
const TOUCH_SECS: i64 = 24 * 60 * 60;

/// A result that was kept.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// When it was last used, as far as that was noted.
    pub(crate) used_secs: i64,
    /// What the evaluation gave.
    pub result: Vec<u8>,
    /// What it was computed from.
    pub inputs: Vec<u8>,
}

/// A result to keep.
#[derive(Clone, Copy, Debug)]
pub struct NewEvaluation<'a> {
    /// What the evaluation gave.
    pub result: &'a [u8],
    /// What it was computed from.
    pub inputs: &'a [u8],
    /// What is only needed when something must be built.
    pub graph: Option<&'a [u8]>,
}

impl Store {
    /// What the evaluation with that key gave, whether or not its inputs are still the same.
    ///
    /// # Errors
    /// When the database fails.
    pub fn evaluation(&self, key: &Blake3) -> Result<Option<Evaluation>> {
        self.db().read(|db| db::find_evaluation(db, key))
    }

    /// The graph that was kept with a result.
    ///
    /// # Errors
    /// When the database fails.
    pub fn evaluation_graph(&self, key: &Blake3) -> Result<Option<Vec<u8>>> {
        self.db().read(|db| db::find_graph(db, key))
    }

    /// Keeps what an evaluation gave.
    ///
    /// # Errors
    /// When the database fails or the store is read-only.
    pub fn keep_evaluation(&self, key: &Blake3, new: NewEvaluation<'_>) -> Result<()> {
        self.db().write(|db| {
            db::put_evaluation(db, key, new, clock::now_secs())?;
            db::trim_evaluations(db, i64::MIN, MAX_EVALUATION_BYTES)?;
            Ok(())
        })
    }

    /// Notes that a result was used, with what is known better about its inputs. Costs nothing if there is no news.
    ///
    /// # Errors
    /// When the database fails.
    pub fn evaluation_used(
        &self,
        key: &Blake3,
        found: &Evaluation,
        inputs: Option<&[u8]>,
    ) -> Result<()> {
        let now = clock::now_secs();
        if self.is_read_only() || inputs.is_none() && (now - found.used_secs).abs() < TOUCH_SECS {
            return Ok(());
        }
        self.db()
            .write(|db| db::touch_evaluation(db, key, inputs, now))
    }

    /// The BLAKE3 of a file outside the store; read only if it changed since it was last asked for.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn file_digest(&self, path: &Path) -> Result<Blake3> {
        let now = clock::now_nanos();
        let mut file = std::fs::File::open(path).at("open", path)?;
        let key = StatKey::of(&file.metadata().at("look at", path)?);
        if let Some(known) = self.db().read(|db| db::find_stat(db, &key))? {
            return Ok(known);
        }
        let mut hasher = blake3::Hasher::new();
        let mut chunk = vec![0; 1 << 17];
        loop {
            match file.read(&mut chunk).at("read", path)? {
                0 => break,
                n => hasher.update(&chunk[..n]),
            };
        }
        let digest = Blake3(*hasher.finalize().as_bytes());
        if !self.is_read_only() && !key.is_racy(now) {
            self.db().write(|db| db::put_stat(db, &key, &digest))?;
        }
        Ok(digest)
    }
}
