//! Flakes: trees of files named by references, locks, and the value of a flake.
//!
//! Fetching and writing is the host's; what is here decides what to fetch, from what is written in `flake.nix` and `flake.lock`.

mod call;
mod inputs;
mod lock;
mod tree;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use sos_formats::flake_ref::{Attrs, FlakeRef};
use sos_formats::store_path::StorePath;

use crate::error::{Error, Kind};
use crate::heap::Value;
use crate::host::FetchedTree;
use crate::ir::Pos;

pub(crate) use call::LockFlags;
pub(crate) use tree::{Wants, attr_of_value};

/// What was fetched: name of the object, place of relative paths, attributes.
type TreeKey = (String, Option<Vec<u8>>, Attrs);
/// What was downloaded without a hash: URL, name, whether it was unpacked.
type UrlKey = (String, String, bool);

/// What was fetched in this evaluation.
#[derive(Default)]
pub(crate) struct Trees {
    fetched: RefCell<BTreeMap<TreeKey, Rc<FetchedTree>>>,
    urls: RefCell<BTreeMap<UrlKey, StorePath>>,
    /// Values of flakes by URL.
    flakes: RefCell<BTreeMap<String, Value>>,
    /// Which directory of this machine an object is a copy of, by its absolute path.
    pub(crate) origins: RefCell<BTreeMap<String, Vec<u8>>>,
}

impl Trees {
    /// Downloads without a hash.
    pub(crate) fn urls(&self) -> &RefCell<BTreeMap<UrlKey, StorePath>> {
        &self.urls
    }
}

/// The URL of a reference, for messages.
pub(crate) fn shown(reference: &FlakeRef) -> String {
    reference
        .to_url()
        .unwrap_or_else(|_| sos_formats::flake_ref::to_json(&reference.to_attrs()).to_string())
}

/// An error about a flake.
#[cold]
pub(crate) fn fail(pos: Pos, message: impl Into<String>) -> Box<Error> {
    Error::new(Kind::Flake, pos, message)
}
