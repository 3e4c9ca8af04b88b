//! Whether a file is one of a store, by whatever name it is reached.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the directory of the store in which a file lies, links followed; none when it lies in none, or is not there.
///
/// What is in a store is never changed: it is known by its hash, and other files may share its bytes.
#[must_use]
pub fn store_of(path: &Path) -> Option<PathBuf> {
    let real = fs::canonicalize(path).ok()?;
    let mut above = real.ancestors().skip(1);
    above.find(|dir| is_store(dir)).map(Path::to_owned)
}

fn is_store(dir: &Path) -> bool {
    dir.join("version").is_file()
        && ["cas", "db", "tree"]
            .iter()
            .all(|part| dir.join(part).is_dir())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use sos_formats::store_path::StoreDir;

    use super::*;
    use crate::{OpenOptions, Store};

    #[test]
    fn a_file_of_a_store_is_known_by_any_name() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        let options = OpenOptions {
            root: root.clone(),
            store_dir: StoreDir::default(),
            read_only: false,
        };
        let store = Store::open(options).unwrap();
        let file = store.work_dir().join("file");
        fs::create_dir_all(store.work_dir()).unwrap();
        fs::write(&file, "x").unwrap();
        let link = dir.path().join("result");
        symlink(&file, &link).unwrap();
        let found = fs::canonicalize(&root).unwrap();
        for path in [&file, &link] {
            assert_eq!(store_of(path).as_ref(), Some(&found));
        }
        fs::write(dir.path().join("own"), "x").unwrap();
        assert_eq!(store_of(&dir.path().join("own")), None);
        assert_eq!(store_of(&dir.path().join("missing")), None);
    }
}
