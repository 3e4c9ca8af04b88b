//! Store objects: what is known about them and how they are registered.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use sos_formats::hash::{Blake3, Hash, Sha256};
use sos_formats::narinfo::OWN_CA;
use sos_formats::store_path::StorePath;

use crate::clock;
use crate::db;
use crate::error::{IoContext, Result, StoreError};
use crate::fault;
use crate::ingest::Ingested;
use crate::store::Store;
use crate::sys;
use crate::temp::TempDir;

/// The two kinds of store objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// Files with NAR semantics, below `tree/`.
    Tree,
    /// A root file system with owners, modes, devices and times: a manifest.
    Rootfs,
}

/// What is known about a valid object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// The object.
    pub path: StorePath,
    /// Tree or rootfs.
    pub kind: ObjectKind,
    /// The hash of its NAR; trees only, and of one that is addressed by its id only when somebody has asked for it, see
    /// [`Store::nar_sha256`].
    pub nar_sha256: Option<Sha256>,
    /// The size of the NAR in bytes; for a rootfs, the sum of its files' sizes.
    pub nar_size: u64,
    /// The id of the manifest; rootfs objects only.
    pub root: Option<Blake3>,
    /// What it refers to, itself perhaps included.
    pub references: BTreeSet<StorePath>,
    /// The derivation that made it.
    pub deriver: Option<StorePath>,
    /// How its path follows from its content, as in a narinfo file.
    pub ca: Option<String>,
    /// When it was registered, in seconds since 1970.
    pub registered_secs: i64,
}

impl PathInfo {
    /// The id of the tree, where that is what it is addressed by.
    pub fn tree_id(&self) -> Option<Blake3> {
        let hash = self.ca.as_deref()?.strip_prefix(OWN_CA)?;
        Hash::parse_any(hash, None).ok()?.as_blake3()
    }
}

/// What is to be said about a tree that becomes an object.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The path to register.
    pub path: StorePath,
    /// What it refers to; all of it must be valid, or registered with it.
    pub references: BTreeSet<StorePath>,
    /// The derivation that made it.
    pub deriver: Option<StorePath>,
    /// How the path follows from the content, as in a narinfo file.
    pub ca: Option<String>,
}

impl Store {
    /// Looks an object up.
    ///
    /// # Errors
    /// When the database fails.
    pub fn query(&self, path: &StorePath) -> Result<Option<PathInfo>> {
        self.db()
            .read(|db| Ok(db::find_path(db, path)?.map(|row| row.info)))
    }

    /// Looks an object up by the digest in its path, which no two have in common.
    ///
    /// # Errors
    /// When the database fails.
    pub fn query_digest(&self, digest: &[u8; 20]) -> Result<Option<PathInfo>> {
        self.db().read(|db| db::find_digest(db, digest))
    }

    /// Lists the objects of a name in order; the references are left empty.
    ///
    /// # Errors
    /// When the database fails.
    pub fn query_name(&self, name: &str) -> Result<Vec<PathInfo>> {
        self.db().read(|db| db::find_named(db, name))
    }

    /// Whether an object is valid.
    ///
    /// # Errors
    /// When the database fails.
    pub fn is_valid(&self, path: &StorePath) -> Result<bool> {
        self.db().read(|db| Ok(db::path_id(db, path)?.is_some()))
    }

    /// Whether an object is valid and lies there: its tree, or the manifest of its root filesystem. Only the top is looked at;
    /// [`Store::check`] looks at everything.
    ///
    /// # Errors
    /// When the database fails.
    pub fn is_present(&self, path: &StorePath) -> Result<bool> {
        Ok(self.query(path)?.is_some_and(|info| self.lies_there(&info)))
    }

    /// Keeps objects from being collected, as [`Store::hold`] does, and returns those that are not there to be kept.
    ///
    /// # Errors
    /// When the database fails.
    pub fn hold_present(&self, paths: &[StorePath]) -> Result<Vec<StorePath>> {
        // Held first: a collection between the question and the answer would make the answer wrong.
        self.hold(paths)?;
        let found = self.db().read(|db| {
            // One transaction: SQLite would lock and unlock its file for every question.
            let db = &*db.unchecked_transaction()?;
            let find = |path| db::find_alone(db, path);
            paths.iter().map(find).collect::<Result<Vec<_>>>()
        })?;
        let there = |row: Option<db::PathRow>| row.is_some_and(|row| self.lies_there(&row.info));
        let all = paths.iter().zip(found);
        Ok(all
            .filter_map(|(path, row)| (!there(row)).then(|| path.clone()))
            .collect())
    }

    fn lies_there(&self, info: &PathInfo) -> bool {
        let place = match &info.root {
            Some(root) => self.manifest_path(root),
            None => self.physical(&info.path),
        };
        // What cannot be looked at for another reason is not missing.
        !matches!(std::fs::symlink_metadata(place), Err(err) if err.kind() == io::ErrorKind::NotFound)
    }

    /// Everything that the given objects need to work, themselves included; those that are not valid are left out.
    ///
    /// # Errors
    /// When the database fails.
    pub fn closure(&self, paths: &[StorePath]) -> Result<BTreeSet<StorePath>> {
        self.db().read(|db| db::closure(db, paths))
    }

    /// The objects that refer to one.
    ///
    /// # Errors
    /// When the database fails.
    pub fn referrers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>> {
        self.db().read(|db| match db::path_id(db, path)? {
            Some(id) => db::referrers(db, id),
            None => Ok(BTreeSet::new()),
        })
    }

    /// Lists all valid objects in order; the references are left empty.
    ///
    /// # Errors
    /// When the database fails.
    pub fn list(&self) -> Result<Vec<PathInfo>> {
        self.db()
            .read(|db| Ok(db::all_paths(db)?.into_iter().map(|row| row.info).collect()))
    }

    /// Registers a staged tree as an object. The object is held for as long as this store is open.
    ///
    /// # Errors
    /// [`StoreError::MissingReference`] when something it refers to is not valid, and what the disk says.
    pub fn commit_tree(&self, tree: Ingested, registration: Registration) -> Result<PathInfo> {
        let path = registration.path.clone();
        self.commit_many(vec![(tree, registration)])?
            .pop()
            .ok_or(StoreError::NotValid { path })
    }

    /// Registers several staged trees with one sync and one transaction: all of them or none. They may refer to
    /// each other. One that is valid already stays as it is, and the staged tree is thrown away; unless its tree is gone,
    /// which the staged one then replaces.
    ///
    /// # Errors
    /// As [`Store::commit_tree`].
    pub fn commit_many(&self, trees: Vec<(Ingested, Registration)>) -> Result<Vec<PathInfo>> {
        let session = self.session()?;
        refuse_cycles(&trees)?;
        let paths: Vec<StorePath> = trees
            .iter()
            .map(|(_, registration)| registration.path.clone())
            .collect();
        // First of all: from here on no collection takes these paths, valid or just moved into place.
        self.hold(&paths)?;
        fault::point("commit.leased");
        if let Some(infos) = self.all_there(&paths)? {
            // Early cutoff ends here: what is there was synced before it was registered.
            return Ok(infos);
        }
        self.sync()?;
        fault::point("commit.synced");
        let registered = clock::now_secs();
        // Made when it is needed, which is seldom: file systems remember every directory that is removed for a while, and new ones
        // come the slower for it.
        let mut trash = None;
        let infos = self.db().write(|db| {
            let mut infos = Vec::with_capacity(trees.len());
            let mut fresh = Vec::new();
            for (tree, registration) in &trees {
                let known = db::find_path(db, &registration.path)?;
                if let Some(row) = &known
                    && self.lies_there(&row.info)
                {
                    infos.push(row.info.clone());
                    continue;
                }
                // The write transaction keeps other adders and the collector away from `tree/` meanwhile.
                self.move_into_place(tree, registration, &mut trash)?;
                let info = PathInfo {
                    path: registration.path.clone(),
                    kind: ObjectKind::Tree,
                    nar_sha256: tree.nar_sha256,
                    nar_size: tree.nar_size,
                    root: None,
                    references: registration.references.clone(),
                    deriver: registration.deriver.clone(),
                    ca: registration.ca.clone(),
                    registered_secs: registered,
                };
                let id = match known {
                    None => db::insert_path(db, &info, registered)?,
                    Some(row) => {
                        // Built anew it may have come out differently.
                        db::renew_path(db, row.id, &info)?;
                        row.id
                    }
                };
                fresh.push((id, infos.len()));
                infos.push(info);
            }
            fault::point("commit.renamed");
            for (id, at) in fresh {
                if let Some(info) = infos.get(at) {
                    db::insert_refs(db, id, info)?;
                }
            }
            fault::point("commit.before-commit");
            Ok(infos)
        })?;
        fault::point("commit.done");
        drop((trash, trees, session));
        Ok(infos)
    }

    /// The objects at these paths, if all of them are valid and lie there.
    fn all_there(&self, paths: &[StorePath]) -> Result<Option<Vec<PathInfo>>> {
        let mut infos = Vec::with_capacity(paths.len());
        for path in paths {
            match self.query(path)? {
                Some(info) if self.lies_there(&info) => infos.push(info),
                _ => return Ok(None),
            }
        }
        Ok(Some(infos))
    }

    /// Moves a staged tree to its path below `tree/`. Whatever is there is not registered, so it is rubbish, and goes into `trash`.
    fn move_into_place(
        &self,
        tree: &Ingested,
        registration: &Registration,
        trash: &mut Option<TempDir>,
    ) -> Result<()> {
        let staged = &tree.staged.path;
        let target = self.physical(&registration.path);
        match std::fs::symlink_metadata(&target) {
            Ok(meta) => {
                if meta.is_dir() {
                    // As when staging: a directory must be writable to get another parent.
                    sys::set_mode(&target, 0o755).at("set the mode of", &target)?;
                }
                let trash = match trash {
                    Some(trash) => trash,
                    None => trash.insert(self.temp_dir("replaced")?),
                };
                let aside = trash.path().join(registration.path.base());
                std::fs::rename(&target, aside).at("move away", &target)?;
            }
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(StoreError::io("look at", target, err)),
        }
        std::fs::rename(staged, &target).at("move into the store", staged)?;
        if tree.staged.is_dir {
            sys::set_mode(&target, 0o555).at("set the mode of", &target)?;
        }
        Ok(())
    }
}

/// Refuses objects of one batch that refer to each other in a circle; across batches none can arise. A collection
/// deletes referrers first, which needs an order.
fn refuse_cycles(trees: &[(Ingested, Registration)]) -> Result<()> {
    let mut waiting: BTreeMap<&StorePath, Vec<&StorePath>> = BTreeMap::new();
    let batch: BTreeSet<&StorePath> = trees
        .iter()
        .map(|(_, registration)| &registration.path)
        .collect();
    for (_, registration) in trees {
        let inside = registration
            .references
            .iter()
            .filter(|to| **to != registration.path && batch.contains(to));
        waiting
            .entry(&registration.path)
            .or_default()
            .extend(inside);
    }
    loop {
        let ready: Vec<&StorePath> = waiting
            .iter()
            .filter(|(_, to)| !to.iter().any(|to| waiting.contains_key(to)))
            .map(|(path, _)| *path)
            .collect();
        for path in &ready {
            waiting.remove(path);
        }
        let Some((path, through)) = waiting.first_key_value() else {
            return Ok(());
        };
        if ready.is_empty() {
            let through = through
                .iter()
                .find(|to| waiting.contains_key(*to))
                .unwrap_or(path);
            return Err(StoreError::ReferenceCycle {
                path: (*path).clone(),
                through: (*through).clone(),
            });
        }
    }
}
