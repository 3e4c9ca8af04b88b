//! An empty store for a test.

use sos_formats::store_path::StoreDir;
use sos_store::{OpenOptions, Store};

/// Makes one; it goes with the directory.
pub(crate) fn test_store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = OpenOptions {
        root: dir.path().join("store"),
        store_dir: StoreDir::default(),
        read_only: false,
    };
    let store = Store::open(options).expect("a new store");
    (dir, store)
}
