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
    /// SHA-256 of the superblocks of static deltas, by the commit that they lead to, or `<from>-<to>`.
    pub deltas: BTreeMap<String, Sha256>,
}

impl Summary {
    /// Returns when the summary was last modified: the time of its newest commit, seconds since 1970.
    #[must_use]
    pub fn modified(&self) -> u64 {
        let times = self.refs.values().map(|one| one.timestamp);
        times.max().unwrap_or_default()
    }

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
            // The order of whoever wrote it: libostree turns times, and not this.
            commit.u64_le(one.size).bytes(&one.commit.0);
            commit.variable(8, &gvariant::dict(about));
            let mut entry = Tuple::new();
            entry.text(name).variable(8, &commit.finish());
            refs.push(&entry.finish());
        }
        let (indexed, modified) = (Variant::Bool(false), Variant::U64Be(self.modified()));
        let deltas = self.deltas.iter();
        let deltas = deltas.map(|(name, sum)| (name.clone(), Variant::Bytes(sum.0.to_vec())));
        let deltas = Variant::Dict(deltas.collect());
        let mode = Variant::Text("archive-z2".to_owned());
        let tombstones = Variant::Bool(false);
        let mut global = Vec::new();
        if !self.deltas.is_empty() {
            global.push(("ostree.static-deltas", &deltas));
        }
        global.extend([
            ("ostree.summary.indexed-deltas", &indexed),
            ("ostree.summary.last-modified", &modified),
            ("ostree.summary.mode", &mode),
            ("ostree.summary.tombstone-commits", &tombstones),
        ]);
        let global = gvariant::dict(global);
        let mut tuple = Tuple::new();
        tuple.variable(8, &refs.finish()).variable(8, &global);
        tuple.finish()
    }
}
