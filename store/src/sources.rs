//! Sources: files of the user that become objects whose path follows from their content.

use std::collections::BTreeSet;
use std::path::Path;

use sos_formats::derivation::Method;
use sos_formats::hash::{Blake3, Hash, HashAlgo, Sha256};
use sos_formats::store_path::{self, StorePath};

use crate::clock;
use crate::db;
use crate::error::{Result, StoreError};
use crate::ingest::{Hashes, Ingested, NarSink};
use crate::listing::{Filter, ListOptions, Listing};
use crate::objects::Registration;
use crate::store::Store;

/// A source that was looked at: the path that it would have.
struct Looked {
    listing: Listing,
    /// The time before anything was looked at.
    started_nanos: i128,
    /// The hash over the listing, when the content of every file is known without reading it.
    known: Option<(Sha256, u64)>,
    /// Those contents, by the places of the files in the listing.
    contents: Vec<(usize, Blake3)>,
}

impl Store {
    /// Adds a file or a tree as a source object; symlinks are not followed, except a root that the caller resolved.
    ///
    /// A tree that was added before and has not changed is not read again: its files are recognised by inode,
    /// size and times.
    ///
    /// # Errors
    /// When a file cannot be read, is no part of a NAR or the method does not fit (`Flat` needs a regular file).
    pub fn add_path(
        &self,
        src: &Path,
        name: &str,
        method: Method,
        filter: Option<Filter<'_>>,
    ) -> Result<StorePath> {
        store_path::check_name(name)?;
        let looked = self.look(src, method, filter)?;
        if self.is_read_only() {
            // What is here already needs no writing.
            let path =
                self.source_path(name, method, Self::source_hash_of(&looked, src, method)?)?;
            return if self.is_present(&path)? {
                Ok(path)
            } else {
                Err(self.db().refusal())
            };
        }
        let known = match looked.known {
            Some((sha256, _)) => Some(sha256),
            // Adding a file of the store's own links it once more, which changes its times: whether it is needed is found out by
            // reading, or it would be added anew each time.
            None if src.starts_with(self.root().join("tree")) => {
                let (hashes, contents) = Self::hash_tree(src, &looked.listing, flat_of(method))?;
                let sha256 = hashes.for_method(method, src)?;
                let path = self.source_path(name, method, sha256)?;
                self.remember(&looked, method, &contents, sha256, hashes.nar_size, &path)?;
                Some(sha256)
            }
            None => None,
        };
        if let Some(sha256) = known {
            let path = self.source_path(name, method, sha256)?;
            // Held first: a collection between the question and the answer would make the answer wrong.
            self.hold(std::slice::from_ref(&path))?;
            if self.is_present(&path)? {
                self.note_known(&looked, &path);
                return Ok(path);
            }
        }
        let sink = NarSink::new(&[], None);
        let (tree, contents) =
            self.stage(src, &looked.listing, false, sink, flat_of(method), None)?;
        let sha256 = source_hash(method, &tree, src)?;
        let path = self.source_path(name, method, sha256)?;
        self.remember(&looked, method, &contents, sha256, tree.nar_size, &path)?;
        let ca = Some(content_address(method, sha256));
        let registration = Registration {
            path: path.clone(),
            references: BTreeSet::new(),
            deriver: None,
            ca,
        };
        self.commit_tree(tree, registration)?;
        Ok(path)
    }

    /// Computes the path that [`Store::add_path`] would return, and stores nothing but what was learnt about the files.
    ///
    /// # Errors
    /// As [`Store::add_path`].
    pub fn compute_path(
        &self,
        src: &Path,
        name: &str,
        method: Method,
        filter: Option<Filter<'_>>,
    ) -> Result<StorePath> {
        store_path::check_name(name)?;
        let looked = self.look(src, method, filter)?;
        let Some((sha256, _)) = looked.known else {
            let (hashes, contents) = Self::hash_tree(src, &looked.listing, flat_of(method))?;
            let sha256 = hashes.for_method(method, src)?;
            let path = self.source_path(name, method, sha256)?;
            if !self.is_read_only() {
                self.remember(&looked, method, &contents, sha256, hashes.nar_size, &path)?;
            }
            return Ok(path);
        };
        let path = self.source_path(name, method, sha256)?;
        self.note_known(&looked, &path);
        Ok(path)
    }

    /// Adds a text object, as `builtins.toFile` makes it.
    ///
    /// # Errors
    /// [`StoreError::MissingReference`] when it refers to something that is not valid.
    pub fn add_text(
        &self,
        name: &str,
        contents: &[u8],
        references: &BTreeSet<StorePath>,
    ) -> Result<StorePath> {
        let sha256 = Sha256::of(contents);
        let path = store_path::make_text(self.store_dir(), name, &sha256, references)?;
        self.hold(std::slice::from_ref(&path))?;
        if self.is_present(&path)? {
            return Ok(path);
        }
        let dir = self.temp_dir("text")?;
        let file = dir.path().join("x");
        {
            use std::io::Write as _;
            let mut out = crate::cas::create_private(&file)?;
            out.write_all(contents)
                .map_err(|err| StoreError::io("write", &file, err))?;
        }
        let tree = self.ingest(
            &file,
            crate::ingest::IngestOptions {
                take: true,
                ..Default::default()
            },
        )?;
        let ca = Some(format!("text:sha256:{}", Hash::from(sha256).to_nix32()));
        let registration = Registration {
            path: path.clone(),
            references: references.clone(),
            deriver: None,
            ca,
        };
        self.commit_tree(tree, registration)?;
        Ok(path)
    }

    /// The store path of a source, and whether it was read before and has not changed since. One that would have to be read to
    /// tell is, when it is a file of at most `small_bytes`; for others there is no answer. Whether the object is there is not
    /// looked at, and nothing is written.
    ///
    /// # Errors
    /// A name that no object can have; what cannot be read; when the database fails.
    pub fn name_source(
        &self,
        src: &Path,
        name: &str,
        method: Method,
        small_bytes: u64,
    ) -> Result<Option<(StorePath, bool)>> {
        store_path::check_name(name)?;
        let looked = self.look(src, method, None)?;
        if let Some((sha256, _)) = looked.known {
            return Ok(Some((self.source_path(name, method, sha256)?, true)));
        }
        let meta = std::fs::symlink_metadata(src).map_err(|e| StoreError::io("read", src, e))?;
        if !meta.is_file() || meta.len() > small_bytes {
            return Ok(None);
        }
        let (hashes, _) = Self::hash_tree(src, &looked.listing, flat_of(method))?;
        let sha256 = hashes.for_method(method, src)?;
        Ok(Some((self.source_path(name, method, sha256)?, false)))
    }

    fn source_hash_of(looked: &Looked, src: &Path, method: Method) -> Result<Sha256> {
        match looked.known {
            Some((sha256, _)) => Ok(sha256),
            None => Self::hash_tree(src, &looked.listing, flat_of(method))?
                .0
                .for_method(method, src),
        }
    }

    fn look(&self, src: &Path, method: Method, filter: Option<Filter<'_>>) -> Result<Looked> {
        let started_nanos = clock::now_nanos();
        let listing = Listing::read(
            src,
            ListOptions {
                filter,
                take: false,
            },
        )?;
        let mut contents = Vec::new();
        let known = self.db().read(|db| {
            // One transaction: SQLite would lock and unlock its file for every question.
            let db = &*db.unchecked_transaction()?;
            for (at, key) in listing.files() {
                match db::find_stat(db, key)? {
                    Some(hash) => contents.push((at, hash)),
                    None => return Ok(None),
                }
            }
            match fingerprint(&listing, method, &contents) {
                Some(fingerprint) => db::find_listing(db, &fingerprint),
                None => Ok(None),
            }
        })?;
        Ok(Looked {
            listing,
            started_nanos,
            known,
            contents,
        })
    }

    /// Keeps what is known of the files of a source that was not read. It only explains later: a full disk is no reason to fail.
    fn note_known(&self, looked: &Looked, path: &StorePath) {
        if looked.known.is_none() {
            return;
        }
        if let Err(error) = self.note_known_files(path, &looked.listing, &looked.contents) {
            tracing::debug!(%error, "the files of a source were not noted");
        }
    }

    /// Notes what was learnt by reading; files that changed just now are left out of what spares reading them again.
    fn remember(
        &self,
        looked: &Looked,
        method: Method,
        contents: &[(usize, Blake3)],
        sha256: Sha256,
        nar_size: u64,
        path: &StorePath,
    ) -> Result<()> {
        self.db().write(|db| {
            Self::put_files(db, path, &looked.listing, contents)?;
            for (at, key) in looked.listing.files() {
                if key.is_racy(looked.started_nanos) {
                    continue;
                }
                if let Some(hash) = content_at(contents, at) {
                    db::put_stat(db, key, &hash)?;
                }
            }
            match fingerprint(&looked.listing, method, contents) {
                Some(fingerprint) => db::put_listing(db, &fingerprint, &sha256, nar_size),
                None => Ok(()),
            }
        })
    }

    fn source_path(&self, name: &str, method: Method, sha256: Sha256) -> Result<StorePath> {
        let hash = Hash::from(sha256);
        Ok(store_path::make_fixed(
            self.store_dir(),
            name,
            method,
            &hash,
            &BTreeSet::new(),
            false,
        )?)
    }
}

/// How a file is hashed besides as a NAR.
fn flat_of(method: Method) -> Option<HashAlgo> {
    (method != Method::Recursive).then_some(HashAlgo::Sha256)
}

/// The hash over a listing; a flat file and the same file as a NAR have different results, so the method is in it.
fn fingerprint(listing: &Listing, method: Method, contents: &[(usize, Blake3)]) -> Option<Blake3> {
    let listed = listing.fingerprint(&|at| content_at(contents, at))?;
    let mut text = listed.0.to_vec();
    text.extend_from_slice(method.as_str().as_bytes());
    Some(Blake3::of(&text))
}

/// Both lists are in order.
fn content_at(contents: &[(usize, Blake3)], at: usize) -> Option<Blake3> {
    let found = contents
        .binary_search_by_key(&at, |(index, _)| *index)
        .ok()?;
    contents.get(found).map(|(_, hash)| *hash)
}

impl Hashes {
    fn for_method(&self, method: Method, src: &Path) -> Result<Sha256> {
        match method {
            Method::Recursive => self.nar_sha256.ok_or_else(|| unhashed(src)),
            _ => self.flat.as_ref().and_then(Hash::as_sha256).ok_or_else(|| {
                StoreError::SpecialFile {
                    path: src.to_owned(),
                }
            }),
        }
    }
}

fn unhashed(src: &Path) -> StoreError {
    StoreError::Nar {
        detail: format!("{} was not hashed", src.display()),
    }
}

fn source_hash(method: Method, tree: &Ingested, src: &Path) -> Result<Sha256> {
    match method {
        Method::Recursive => tree.nar_sha256.ok_or_else(|| unhashed(src)),
        _ => tree
            .flat
            .as_ref()
            .and_then(Hash::as_sha256)
            .ok_or_else(|| StoreError::SpecialFile {
                path: src.to_owned(),
            }),
    }
}

/// The `CA` field of a fixed object.
fn content_address(method: Method, sha256: Sha256) -> String {
    let hash = Hash::from(sha256).to_nix32();
    match method {
        Method::Recursive => format!("fixed:r:sha256:{hash}"),
        Method::Text => format!("text:sha256:{hash}"),
        _ => format!("fixed:sha256:{hash}"),
    }
}
