//! The summary of a repository: which refs it has.

use std::collections::BTreeMap;

use crate::Bytes;
use crate::gvariant::{self, Array, Tuple, Variant};
use crate::hash::Sha256;

/// One ref.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SummaryRef {
    /// The commit that it names.
    pub commit: Sha256,
    /// Size of that commit object, in bytes.
    pub size: u64,
    /// Time of that commit, seconds since 1970.
    pub timestamp: u64,
    /// `version` of that commit.
    pub version: Option<String>,
}

/// A summary, `(a(s(taya{sv}))a{sv})`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// The refs by name.
    pub refs: BTreeMap<String, SummaryRef>,
}

impl Summary {
    /// Writes the summary. It was last modified when its newest commit was made: no clock is asked.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut refs = Array::new(8);
        for (name, one) in &self.refs {
            let mut about = Vec::new();
            let time = Variant::U64Be(one.timestamp);
            about.push(("ostree.commit.timestamp", &time));
            let version = one.version.clone().map(Variant::Text);
            about.extend(version.as_ref().map(|v| ("ostree.commit.version", v)));
            let mut commit = Tuple::new();
            commit.u64_be(one.size).bytes(&one.commit.0);
            commit.variable(8, &gvariant::dict(about));
            let mut entry = Tuple::new();
            entry.text(name).variable(8, &commit.finish());
            refs.push(&entry.finish());
        }
        let newest = self.refs.values().map(|one| one.timestamp).max();
        let (indexed, modified) = (
            Variant::Bool(false),
            Variant::U64Be(newest.unwrap_or_default()),
        );
        let mode = Variant::Text("archive-z2".to_owned());
        let tombstones = Variant::Bool(false);
        let global = gvariant::dict([
            ("ostree.summary.indexed-deltas", &indexed),
            ("ostree.summary.last-modified", &modified),
            ("ostree.summary.mode", &mode),
            ("ostree.summary.tombstone-commits", &tombstones),
        ]);
        let mut tuple = Tuple::new();
        tuple.variable(8, &refs.finish()).variable(8, &global);
        tuple.finish()
    }
}
