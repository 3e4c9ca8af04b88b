//! Signatures of objects: who vouches for them, as in a narinfo file.

use sos_formats::narinfo::{MAX_SIGNATURES, Signature};
use sos_formats::store_path::StorePath;

use crate::db;
use crate::error::{Result, StoreError};
use crate::store::Store;

impl Store {
    /// The signatures of an object, in the order in which they came; none of one that is not valid.
    ///
    /// # Errors
    /// When the database fails.
    pub fn signatures(&self, path: &StorePath) -> Result<Vec<Signature>> {
        let lines = self.db().read(|db| db::signatures(db, path))?;
        Ok(read(&lines.unwrap_or_default()))
    }

    /// Keeps signatures of an object beside those that it has; each once. They are forgotten when it is made anew. Whether they
    /// are good is for the caller to know. No more than [`MAX_SIGNATURES`] are kept.
    ///
    /// # Errors
    /// [`StoreError::NotValid`] when the object is not here, and when the database fails.
    pub fn add_signatures(&self, path: &StorePath, new: &[Signature]) -> Result<()> {
        self.require_writable()?;
        self.db().write(|db| {
            let Some(lines) = db::signatures(db, path)? else {
                return Err(StoreError::NotValid { path: path.clone() });
            };
            let mut all = read(&lines);
            for signature in new {
                let fits = !signature.to_string().contains(char::is_whitespace);
                if fits && all.len() < MAX_SIGNATURES && !all.contains(signature) {
                    all.push(signature.clone());
                }
            }
            let lines: Vec<String> = all.iter().map(ToString::to_string).collect();
            db::set_signatures(db, path, &lines.join("\n"))
        })
    }
}

fn read(lines: &str) -> Vec<Signature> {
    lines.lines().filter_map(Signature::parse).collect()
}
