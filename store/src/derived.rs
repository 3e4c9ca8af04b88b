//! What was worked out of the content of blobs: checksums in other systems, compressed forms.

use sos_formats::hash::Blake3;

use crate::db;
use crate::error::Result;
use crate::store::Store;

/// A value that follows from the content of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Derived {
    /// The BLAKE3 of everything that decides about the value: what was worked out, how, and of which blob.
    pub key: Blake3,
    /// The blob; the value is forgotten with it.
    pub source: Blake3,
    /// The value.
    pub value: Vec<u8>,
}

impl Store {
    /// Finds values by their keys; the answers are in the order of the keys.
    ///
    /// # Errors
    /// When the database fails.
    pub fn derived(&self, keys: &[Blake3]) -> Result<Vec<Option<Vec<u8>>>> {
        self.db()
            .read(|db| keys.iter().map(|key| db::find_derived(db, key)).collect())
    }

    /// Keeps values for later, in one transaction.
    ///
    /// # Errors
    /// When the database fails.
    pub fn keep_derived(&self, values: &[Derived]) -> Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        self.db().write(|db| {
            values
                .iter()
                .try_for_each(|value| db::put_derived(db, value))
        })
    }

    /// Makes sure of a blob that may be here: if it is, it stays while this store is open.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub fn take_blob(&self, hash: &Blake3) -> Result<bool> {
        self.session()?.pin([*hash])?;
        Ok(self.has_blob(hash))
    }

    /// Forgets what is known of blobs that are gone.
    pub(crate) fn forget_derived(&self) -> Result<()> {
        let sources = self.db().read(db::derived_sources)?;
        let gone: Vec<Blake3> = sources
            .into_iter()
            .filter(|source| !self.has_blob(source))
            .collect();
        if gone.is_empty() {
            return Ok(());
        }
        self.db().write(|db| {
            gone.iter()
                .try_for_each(|source| db::delete_derived(db, source))
        })
    }
}
