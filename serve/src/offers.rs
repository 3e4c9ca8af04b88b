//! Which targets are there, and under which names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use sos_formats::file_name::of_store;
use sos_formats::hash::Sha256;
use sos_formats::store_path::StorePath;
use sos_store::{ObjectKind, Store, StoreError};

use crate::error::{Result, ServeError};
use crate::mirror::is_own;
use crate::oci::{Images, is_name, name_from};
use crate::ostree::Commits;

/// Something that is to be offered.
#[derive(Clone, Debug)]
pub struct Target {
    /// The object.
    pub path: StorePath,
    /// The name that an image shall have; else it is that of the object.
    pub name: Option<String>,
}

/// What a target is offered as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offered {
    /// An image.
    Image {
        /// The name of the repository.
        name: String,
        /// The tag.
        tag: String,
        /// The digest of its manifest or index.
        digest: String,
    },
    /// A commit.
    Ref {
        /// The ref.
        branch: String,
        /// The commit.
        commit: Sha256,
    },
    /// A file with its hash in its path.
    File {
        /// The name, which may hold what no URL does.
        name: String,
    },
    /// The same with a name at which the server has something else.
    Hidden {
        /// The name.
        name: String,
    },
    /// A path of the binary cache.
    Tree,
    /// A root filesystem: no protocol here carries one.
    Nothing,
}

/// What is offered beside the trees of the store.
#[derive(Debug, Default)]
pub struct Offers {
    pub(crate) images: Images,
    pub(crate) commits: Commits,
    /// Files that the recipes pin: under a name that other files of the store have too, these are meant.
    pub(crate) pins: BTreeSet<StorePath>,
    /// Results of content-addressed derivations, by what Nix asks for them with: `sha256:<hash>!<output>`.
    pub(crate) realisations: BTreeMap<String, StorePath>,
}

impl Offers {
    /// Offers nothing yet, but knows which files the recipes of the targets pin.
    #[must_use]
    pub fn new(pins: BTreeSet<StorePath>) -> Self {
        Self {
            pins,
            ..Self::default()
        }
    }

    /// Tells what came out of a content-addressed derivation, whose path nobody knows before it is built. The hash is the one by which
    /// binary caches know it.
    pub fn realised(&mut self, hash: &str, output: &str, path: StorePath) {
        self.realisations
            .insert(format!("sha256:{hash}!{output}"), path);
    }

    /// Offers the OSTree repository in a directory outside the store as it is; says which refs it has. It is the only one then.
    ///
    /// # Errors
    /// When it is none in mode `archive`, or commits of the store are offered already.
    pub fn add_repository(&mut self, dir: &Path) -> Result<Vec<Offered>> {
        let refs = self.commits.add_directory(dir)?.into_iter();
        Ok(refs
            .map(|(branch, commit)| Offered::Ref { branch, commit })
            .collect())
    }

    /// Offers a target, which stays in the store for as long as that is open; says as what.
    ///
    /// # Errors
    /// When it is not there or cannot be read, when its name is none, and when something else has it.
    pub fn add(&mut self, store: &Store, target: &Target) -> Result<Vec<Offered>> {
        let path = &target.path;
        store.hold(std::slice::from_ref(path))?;
        let Some(info) = store.query(path)? else {
            return Err(StoreError::NotValid { path: path.clone() }.into());
        };
        let shown = path.absolute(store.store_dir());
        if let (ObjectKind::Rootfs, Some(root)) = (info.kind, &info.root) {
            let refs = self.commits.add(store, root, &shown)?;
            let refs = refs.into_iter();
            let mut offered: Vec<Offered> = refs
                .map(|(branch, commit)| Offered::Ref { branch, commit })
                .collect();
            if offered.is_empty() {
                offered.push(Offered::Nothing);
            }
            return Ok(offered);
        }
        let dir = store.physical(path);
        if crate::files::open_inside(&dir, &["oci-layout"]).is_ok() {
            let name = match &target.name {
                Some(name) if is_name(name) => name.clone(),
                Some(name) => return Err(ServeError::BadName { name: name.clone() }),
                None => name_from(path.name()),
            };
            let tags = self.images.add(&name, &dir, &shown)?;
            let images = tags.into_iter().map(|(tag, digest)| Offered::Image {
                name: name.clone(),
                tag,
                digest,
            });
            return Ok(images.collect());
        }
        let flat = info
            .ca
            .is_some_and(|ca| ca.starts_with("fixed:") && ca.split(':').count() == 3);
        if !flat {
            return Ok(vec![Offered::Tree]);
        }
        let name = of_store(path.name());
        Ok(vec![if is_own(&name) {
            Offered::Hidden { name }
        } else {
            Offered::File { name }
        }])
    }
}
