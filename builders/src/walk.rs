//! The way through a rootfs object that everything takes which lists one whole. What was changed and is not saved yet has another:
//! `RootTree::walk`.

use sos_engine::BuilderError;
use sos_formats::Bytes;
use sos_formats::hash::Blake3;
use sos_formats::manifest::{Entry, Kind};
use sos_store::Store;

/// What is done on the way.
pub(crate) trait Visit {
    /// Sees an entry, a directory before what is in it; says whether a directory is gone into.
    fn entry(&mut self, path: &[u8], entry: Entry) -> Result<bool, BuilderError>;

    /// Comes back out of a directory that was gone into.
    fn leave(&mut self) -> Result<(), BuilderError>;
}

/// Visits everything below a directory in canonical order: depth first, names by their bytes. The directory itself is left last.
pub(crate) fn visit(
    store: &Store,
    top: &[u8],
    node: Blake3,
    visitor: &mut dyn Visit,
) -> Result<(), BuilderError> {
    let mut levels = vec![(top.to_vec(), store.get_node(&node)?.entries.into_iter())];
    while let Some((dir, entries)) = levels.last_mut() {
        let Some(entry) = entries.next() else {
            levels.pop();
            visitor.leave()?;
            continue;
        };
        let path = join(dir, &entry.name);
        let below = match entry.kind {
            Kind::Dir { node } => Some(node),
            _ => None,
        };
        if visitor.entry(&path, entry)?
            && let Some(node) = below
        {
            levels.push((path, store.get_node(&node)?.entries.into_iter()));
        }
    }
    Ok(())
}

/// The same for those who only list.
pub(crate) fn walk(
    store: &Store,
    top: &[u8],
    node: Blake3,
    list: &mut dyn FnMut(Bytes, &Entry),
) -> Result<(), BuilderError> {
    struct List<'a>(&'a mut dyn FnMut(Bytes, &Entry));
    impl Visit for List<'_> {
        fn entry(&mut self, path: &[u8], entry: Entry) -> Result<bool, BuilderError> {
            (self.0)(path.to_vec(), &entry);
            Ok(true)
        }
        fn leave(&mut self) -> Result<(), BuilderError> {
            Ok(())
        }
    }
    visit(store, top, node, &mut List(list))
}

/// Joins a directory, which may be the root, and a name.
pub(crate) fn join(dir: &[u8], name: &[u8]) -> Bytes {
    if dir.is_empty() {
        name.to_vec()
    } else {
        [dir, b"/", name].concat()
    }
}
