//! What the targets of projects were the last time that all of them was there: the next form of one is compared with it. And what a run
//! is for that has not come to its end: what its steps have made is kept until then.

use rusqlite::Connection;
use sos_formats::store_path::StorePath;

use crate::clock;
use crate::db;
use crate::error::Result;
use crate::store::Store;

/// How many days after its beginning a run that nobody has gone on with keeps what its steps have made.
pub(crate) const UNFINISHED_DAYS: i64 = 90;

impl Store {
    /// Notes what targets of a project are, by their attribute paths. What is noted already costs a query and no write; on a store
    /// that is open for reading nothing is noted.
    ///
    /// # Errors
    /// When the database fails.
    pub fn note_targets<'a>(
        &self,
        project: &str,
        targets: impl IntoIterator<Item = (&'a str, &'a StorePath)>,
    ) -> Result<()> {
        let now = clock::now_secs();
        self.write_targets(
            targets,
            |attr, drv| Ok(self.target(project, attr)?.as_ref() != Some(drv)),
            |db, attr, drv| db::put_target(db, project, attr, drv, now),
        )
    }

    /// Writes of targets what is due, all at once; nothing where nothing is.
    fn write_targets<'a>(
        &self,
        targets: impl IntoIterator<Item = (&'a str, &'a StorePath)>,
        is_due: impl Fn(&str, &StorePath) -> Result<bool>,
        write: impl Fn(&Connection, &str, &StorePath) -> Result<()>,
    ) -> Result<()> {
        if self.is_read_only() {
            return Ok(());
        }
        let mut due = Vec::new();
        for (attr, drv) in targets {
            if is_due(attr, drv)? {
                due.push((attr, drv));
            }
        }
        if due.is_empty() {
            return Ok(());
        }
        self.db()
            .write(|db| due.iter().try_for_each(|(attr, drv)| write(db, attr, drv)))
    }

    /// Notes that a run begins for targets of a project, by their attribute paths. A collection keeps what its steps make, also when the
    /// run is killed, until [`Store::end_targets`], or until a later run for the same attribute path begins. The derivations that it is
    /// made of must be in the store.
    ///
    /// # Errors
    /// When the database fails.
    pub fn begin_targets<'a>(
        &self,
        project: &str,
        targets: impl IntoIterator<Item = (&'a str, &'a StorePath)>,
    ) -> Result<()> {
        let now = clock::now_secs();
        self.db().write(|db| {
            targets
                .into_iter()
                .try_for_each(|(attr, drv)| db::put_unfinished(db, project, attr, drv, now))
        })
    }

    /// Notes that targets of a project are there. Of one that nobody has begun it costs a query and no write.
    ///
    /// # Errors
    /// When the database fails.
    pub fn end_targets<'a>(
        &self,
        project: &str,
        targets: impl IntoIterator<Item = (&'a str, &'a StorePath)>,
    ) -> Result<()> {
        self.write_targets(
            targets,
            |attr, drv| {
                self.db()
                    .read(|db| db::is_unfinished(db, project, attr, drv))
            },
            |db, attr, drv| db::delete_unfinished(db, project, attr, drv),
        )
    }

    /// What a target of a project was the last time that it was noted.
    ///
    /// # Errors
    /// When the database fails.
    pub fn target(&self, project: &str, attr: &str) -> Result<Option<StorePath>> {
        let found = self.read_targets(|db| db::target(db, project, attr))?;
        Ok(found.flatten())
    }

    /// What the targets with this attribute path were in other projects, newest first, at most `limit`.
    ///
    /// # Errors
    /// When the database fails.
    pub fn targets_elsewhere(
        &self,
        project: &str,
        attr: &str,
        limit: u32,
    ) -> Result<Vec<StorePath>> {
        let found = self.read_targets(|db| db::targets_elsewhere(db, project, attr, limit))?;
        Ok(found.unwrap_or_default())
    }

    /// Asks the table, if there is one: a store that is open for reading keeps the form that it has.
    fn read_targets<T>(&self, ask: impl FnOnce(&Connection) -> Result<T>) -> Result<Option<T>> {
        self.db().read(|db| {
            if self.is_read_only() && !db::has_targets(db)? {
                return Ok(None);
            }
            ask(db).map(Some)
        })
    }
}

#[cfg(test)]
mod tests {
    use sos_formats::store_path::StoreDir;

    use super::*;
    use crate::store::OpenOptions;

    #[test]
    fn the_last_form_of_each_project_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(OpenOptions {
            root: dir.path().join("s"),
            store_dir: StoreDir::default(),
            read_only: false,
        })
        .unwrap();
        let path = |digit: &str| StorePath::from_base(&format!("{}-x.drv", digit.repeat(32)));
        let [one, two] = ["1", "2"].map(|digit| path(digit).unwrap());
        let note = |project, attr, drv| store.note_targets(project, [(attr, drv)]).unwrap();
        note("/a", "f.nix#x", &one);
        note("/a", "f.nix#y", &two);
        assert_eq!(store.target("/a", "f.nix#x").unwrap(), Some(one.clone()));
        assert_eq!(store.target("/b", "f.nix#x").unwrap(), None);
        note("/a", "f.nix#x", &two);
        assert_eq!(store.target("/a", "f.nix#x").unwrap(), Some(two.clone()));
        note("/b", "f.nix#x", &one);
        let elsewhere = |project| store.targets_elsewhere(project, "f.nix#x", 9).unwrap();
        assert_eq!(elsewhere("/a").first(), Some(&one));
        assert_eq!(elsewhere("/b").first(), Some(&two));
        assert_eq!(
            elsewhere("/c"),
            [one.clone(), two.clone()],
            "the newest first"
        );
        store
            .db()
            .write(|db| db::trim_targets(db, clock::now_secs() + 1))
            .unwrap();
        assert_eq!(store.target("/a", "f.nix#y").unwrap(), None);
    }
}
