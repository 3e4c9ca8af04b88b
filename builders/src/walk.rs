//! The way through a rootfs object that everything takes which lists one whole.

use sos_engine::BuilderError;
use sos_formats::Bytes;
use sos_formats::hash::Blake3;
use sos_formats::manifest::{Entry, Kind};
use sos_store::Store;

/// Visits everything below a directory in canonical order: depth first, each directory before what is in it, names by their bytes.
pub(crate) fn walk(
    store: &Store,
    top: &[u8],
    node: Blake3,
    visit: &mut dyn FnMut(Bytes, &Entry),
) -> Result<(), BuilderError> {
    let mut levels = vec![(top.to_vec(), store.get_node(&node)?.entries.into_iter())];
    while let Some((dir, entries)) = levels.last_mut() {
        let Some(entry) = entries.next() else {
            levels.pop();
            continue;
        };
        let path = join(dir, &entry.name);
        visit(path.clone(), &entry);
        if let Kind::Dir { node } = entry.kind {
            levels.push((path, store.get_node(&node)?.entries.into_iter()));
        }
    }
    Ok(())
}

/// Joins a directory, which may be the root, and a name.
pub(crate) fn join(dir: &[u8], name: &[u8]) -> Bytes {
    if dir.is_empty() {
        name.to_vec()
    } else {
        [dir, b"/", name].concat()
    }
}
