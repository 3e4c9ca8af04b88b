//! How much two inputs of one name have in common, where their places do not tell which new one stands for which old one.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use sos_formats::derivation::Derivation;
use sos_formats::store_path::StorePath;
use sos_store::{SourceFiles, Store};

use super::history::inputs_of;
use super::written::Texts;

/// A pair that was found to belong together otherwise.
const KNOWN: usize = usize::MAX;

/// What an equal variable counts where two derivations are compared; one with another value counts one.
const EQUAL_COUNTS: usize = 4;

/// Compares inputs of one old derivation with those of a new one. What cannot be read has nothing in common with anything.
pub(super) struct Alike<'a> {
    store: &'a Store,
    /// The old derivation.
    old: &'a StorePath,
    /// Which derivation made an input of the new one.
    from: &'a dyn Fn(&StorePath) -> Option<StorePath>,
    /// What stood in the place of a derivation.
    before: Option<&'a BTreeMap<StorePath, StorePath>>,
    /// Reads a derivation.
    read: &'a dyn Fn(&StorePath) -> Option<Derivation>,
    /// Which derivation made an input of the old one.
    makers: OnceCell<BTreeMap<StorePath, StorePath>>,
    files: RefCell<BTreeMap<StorePath, Option<Rc<SourceFiles>>>>,
    texts: RefCell<BTreeMap<StorePath, Option<Rc<Texts>>>>,
}

impl<'a> Alike<'a> {
    pub(super) fn new(
        store: &'a Store,
        old: &'a StorePath,
        from: &'a dyn Fn(&StorePath) -> Option<StorePath>,
        before: Option<&'a BTreeMap<StorePath, StorePath>>,
        read: &'a dyn Fn(&StorePath) -> Option<Derivation>,
    ) -> Self {
        Self {
            store,
            old,
            from,
            before,
            read,
            makers: OnceCell::new(),
            files: RefCell::default(),
            texts: RefCell::default(),
        }
    }

    pub(super) fn in_common(&self, old: &StorePath, new: &StorePath) -> usize {
        let makers = self.makers.get_or_init(|| {
            let inputs = inputs_of(self.store, self.old).unwrap_or_default();
            let made = inputs.into_iter();
            made.filter_map(|(path, drv)| Some((path, drv?))).collect()
        });
        match (makers.get(old), (self.from)(new)) {
            (None, None) => match (self.files(old), self.files(new)) {
                (Some(old), Some(new)) => old.in_common(&new),
                _ => 0,
            },
            (Some(old), Some(new)) => {
                let stood_there = self.before.and_then(|before| before.get(&new));
                if *old == new || stood_there == Some(old) {
                    return KNOWN;
                }
                match (self.texts(old), self.texts(&new)) {
                    (Some(old), Some(new)) => texts_in_common(&old, &new),
                    _ => 0,
                }
            }
            _ => 0,
        }
    }

    fn files(&self, source: &StorePath) -> Option<Rc<SourceFiles>> {
        let mut known = self.files.borrow_mut();
        let found = known
            .entry(source.clone())
            .or_insert_with(|| self.store.source_files(source).ok().flatten().map(Rc::new));
        found.clone()
    }

    fn texts(&self, drv: &StorePath) -> Option<Rc<Texts>> {
        let mut known = self.texts.borrow_mut();
        let read = || {
            Some(Rc::new(Texts::of(
                self.store.store_dir(),
                &(self.read)(drv)?,
            )))
        };
        known.entry(drv.clone()).or_insert_with(read).clone()
    }
}

/// A derivation as it is kept, or else as its builder saw it.
pub(super) fn read_kept(store: &Store, drv: &StorePath) -> Option<Derivation> {
    let kept = store.get_drv(drv).ok().flatten();
    let text = kept.or_else(|| store.built(drv).ok().flatten()?.aterm)?;
    Derivation::parse_aterm(&text, store.store_dir()).ok()
}

/// How much two derivations have in common.
fn texts_in_common(old: &Texts, new: &Texts) -> usize {
    let attrs = old.attrs.iter();
    let attrs: usize = attrs
        .map(|(name, value)| match new.attrs.get(name) {
            None => 0,
            Some(same) if same == value => EQUAL_COUNTS,
            Some(_) => 1,
        })
        .sum();
    let equal = |is_equal: bool| if is_equal { EQUAL_COUNTS } else { 0 };
    attrs + equal(old.args == new.args) + equal(old.builder == new.builder)
}
