//! What was built under which name, as its builder saw it. From this the cause of the next build is told.

use std::collections::BTreeSet;

use sos_formats::store_path::StorePath;

use crate::clock;
use crate::db;
use crate::error::Result;
use crate::outputs::Trace;
use crate::packed;
use crate::store::Store;

/// Texts that are kept of the builds of one name and system.
const TEXTS_KEPT: u32 = 256;
/// The largest text that is kept, in bytes: a longer one is known by its name only.
const TEXT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Days after which a note is forgotten.
pub(crate) const DAYS_KEPT: i64 = 400;

/// A build to note.
#[derive(Clone, Copy, Debug)]
pub struct NewBuilt<'a> {
    /// The derivation as it was asked for.
    pub drv: &'a StorePath,
    /// The same with every input a store path: two with the same one are the same build.
    pub identity: &'a StorePath,
    /// The text of that.
    pub aterm: &'a [u8],
    /// Under which name it is looked for later.
    pub name: &'a str,
    /// For which system.
    pub system: &'a str,
}

/// A build that was noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// The derivation as it was asked for.
    pub drv: StorePath,
    /// The same with every input a store path.
    pub identity: StorePath,
    /// Whether a garbage collection took an output of it since.
    pub collected: bool,
    /// The text of the derivation with every input a store path; none when it is too old or too long.
    pub aterm: Option<Vec<u8>>,
}

/// A row of the table.
pub(crate) struct BuiltRow {
    pub(crate) drv: StorePath,
    pub(crate) identity: StorePath,
    pub(crate) collected: bool,
    pub(crate) packed: Option<Vec<u8>>,
}

impl BuiltRow {
    fn unpack(self) -> Built {
        // A text that cannot be read any more is as good as none: it only explains.
        let aterm = self
            .packed
            .and_then(|packed| packed::unpack(&packed, TEXT_BYTES_MAX).ok());
        Built {
            drv: self.drv,
            identity: self.identity,
            collected: self.collected,
            aterm,
        }
    }
}

impl Store {
    /// Notes a build, together with its results, in one transaction.
    ///
    /// # Errors
    /// When the database fails.
    pub fn record_build(&self, traces: &[Trace], built: &NewBuilt<'_>) -> Result<()> {
        let row = pack(built);
        self.db().write(|db| {
            for trace in traces {
                db::insert_trace(db, trace)?;
                db::set_output(db, &trace.drv, &trace.output, &trace.path)?;
            }
            insert(db, &row, built)
        })
    }

    /// Notes that derivations turned out to be builds that were made before, and their outputs, in one transaction.
    ///
    /// # Errors
    /// When the database fails.
    pub fn record_equal_builds<'a, O>(
        &self,
        builds: impl IntoIterator<Item = (O, NewBuilt<'a>)>,
    ) -> Result<()>
    where
        O: IntoIterator<Item = (&'a str, &'a StorePath)>,
    {
        self.db().write(|db| {
            for (outputs, built) in builds {
                for (output, path) in outputs {
                    db::set_output(db, built.drv, output, path)?;
                }
                // The text is that of a build that is noted already, unless that was long ago.
                if !db::has_built_text(db, built.identity)? {
                    insert(db, &pack(&built), &built)?;
                }
            }
            Ok(())
        })
    }

    /// Finds the note of a derivation.
    ///
    /// # Errors
    /// When the database fails.
    pub fn built(&self, drv: &StorePath) -> Result<Option<Built>> {
        let found = self.read_built(|db| db::built_of(db, drv))?;
        Ok(found.flatten().map(BuiltRow::unpack))
    }

    /// Finds the newest note of a build by the derivation with every input a store path.
    ///
    /// # Errors
    /// When the database fails.
    pub fn built_as(&self, identity: &StorePath) -> Result<Option<Built>> {
        let found = self.read_built(|db| db::built_as(db, identity))?;
        Ok(found.flatten().map(BuiltRow::unpack))
    }

    /// Lists the builds of a name that are kept with their text, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub fn built_before(&self, name: &str, system: &str, limit: u32) -> Result<Vec<Built>> {
        let found = self.read_built(|db| db::built_before(db, name, system, limit))?;
        let found = found.unwrap_or_default();
        Ok(found.into_iter().map(BuiltRow::unpack).collect())
    }

    /// The names of everything that was built and is noted, in order.
    ///
    /// # Errors
    /// When the database fails.
    pub fn built_names(&self) -> Result<BTreeSet<String>> {
        let names = self.read_built(db::built_names)?.unwrap_or_default();
        let names = names.into_iter();
        Ok(names
            .map(|name| name.strip_suffix(".drv").unwrap_or(&name).to_owned())
            .collect())
    }

    /// Asks the table, if there is one: a store that is open for reading keeps the form that it has.
    fn read_built<T>(
        &self,
        ask: impl FnOnce(&rusqlite::Connection) -> Result<T>,
    ) -> Result<Option<T>> {
        self.db().read(|db| {
            if self.is_read_only() && !db::has_built(db)? {
                return Ok(None);
            }
            ask(db).map(Some)
        })
    }
}

fn pack(built: &NewBuilt<'_>) -> BuiltRow {
    let fits = built.aterm.len() <= TEXT_BYTES_MAX;
    BuiltRow {
        drv: built.drv.clone(),
        identity: built.identity.clone(),
        collected: false,
        packed: fits.then(|| packed::pack(built.aterm).ok()).flatten(),
    }
}

fn insert(db: &rusqlite::Connection, row: &BuiltRow, built: &NewBuilt<'_>) -> Result<()> {
    let now = clock::now_secs();
    db::insert_built(db, row, built.name, built.system, now, TEXTS_KEPT)
}
