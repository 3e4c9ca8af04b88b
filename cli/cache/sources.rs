//! Directories of this machine that were copied to the store whole, of which an evaluation may need only a few files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sos_formats::store_path::{StoreDir, StorePath};

/// Where objects have come from; nothing for one whose name was seen, so that all of it counts.
#[derive(Debug, Default)]
pub(super) struct Sources(BTreeMap<StorePath, Option<PathBuf>>);

impl Sources {
    /// A directory was copied. Two that are equal are one object, and cannot be told apart by it.
    pub(super) fn add(&mut self, object: &StorePath, place: &Path) {
        let Ok(place) = std::fs::canonicalize(place) else {
            return self.name(object);
        };
        match self.0.get(object) {
            None => {
                self.0.insert(object.clone(), Some(place));
            }
            Some(Some(known)) if *known == place => {}
            Some(_) => self.name(object),
        }
    }

    /// The name of an object was seen.
    pub(super) fn name(&mut self, object: &StorePath) {
        self.0.insert(object.clone(), None);
    }

    /// Whether only what is read of an object counts.
    pub(super) fn is_open(&self, object: &StorePath) -> bool {
        matches!(self.0.get(object), Some(Some(_)))
    }

    /// Where a path in such an object has come from.
    pub(super) fn origin(&self, dir: &StoreDir, path: &Path) -> Option<PathBuf> {
        let (object, below) = StorePath::split_absolute(dir, path.to_str()?).ok()?;
        let place = self.0.get(&object)?.as_ref()?;
        let below = below.trim_start_matches('/');
        Some(if below.is_empty() {
            place.clone()
        } else {
            place.join(below)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_counts_by_its_files_until_its_name_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let place = std::fs::canonicalize(dir.path()).unwrap();
        let store = StoreDir::default();
        let object = StorePath::from_base("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-source").unwrap();
        let at = |below: &str| PathBuf::from(object.absolute(&store) + below);
        let mut sources = Sources::default();
        assert_eq!(sources.origin(&store, &at("/x")), None);
        sources.add(&object, dir.path());
        sources.add(&object, &place);
        assert_eq!(sources.origin(&store, &at("/x/y")), Some(place.join("x/y")));
        assert_eq!(sources.origin(&store, &at("")), Some(place));
        assert!(sources.is_open(&object));
        let other = tempfile::tempdir().unwrap();
        sources.add(&object, other.path());
        assert!(!sources.is_open(&object));
        assert_eq!(sources.origin(&store, &at("/x")), None);
        // Once seen, always seen.
        sources.add(&object, dir.path());
        assert!(!sources.is_open(&object));
    }
}
