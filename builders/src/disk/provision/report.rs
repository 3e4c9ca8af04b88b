//! What a device has, beside what it should have.

use std::fmt;

use sos_formats::gpt::Table;

use super::Spec;
use super::drift::Difference;
use super::entries::{Entry, same};
use super::slots::root_id;

/// What was found on a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order of the layout; empty when the device has no such slots.
    pub slots: Vec<SlotState>,
    /// In what the device differs.
    pub differences: Vec<Difference>,
    /// What was not looked at, and why.
    pub not_compared: Vec<String>,
}

/// What starts a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotState {
    /// The name of its partition.
    pub name: String,
    /// The version that is in it, as its entry of the loader says; none when nothing starts it.
    pub version: Option<String>,
    /// Starts that are left to a version that has not proven itself yet; 0 when it did not start.
    pub left: Option<u32>,
    /// Whether it is the version of the recipe.
    pub is_wanted: bool,
    /// Whether the loader takes it next.
    pub is_next: bool,
    /// Whether an update that was stopped has left only a draft of its entry, which the loader does not see.
    pub is_draft: bool,
}

impl fmt::Display for SlotState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {}: ", self.name)?;
        let Some(version) = &self.version else {
            return f.write_str("no version");
        };
        write!(f, "version {version}")?;
        if self.is_wanted {
            f.write_str(", the recipe's")?;
        }
        match self.left {
            _ if self.is_draft => f.write_str("; only a draft of its entry is there")?,
            None => {}
            Some(0) => f.write_str("; it did not start")?,
            Some(1) => f.write_str("; not proven yet, 1 start left")?,
            Some(left) => write!(f, "; not proven yet, {left} starts left")?,
        }
        f.write_str(if self.is_next { "; starts next" } else { "" })
    }
}

impl SlotState {
    /// All slots of a layout, by the entries of the loader.
    pub(super) fn all(spec: &Spec, table: &Table, entries: &[Entry]) -> Vec<Self> {
        let wanted = id(spec);
        let next = next(entries);
        let slots = spec.slots.iter().filter_map(|slot| {
            let root = root_id(table, spec, slot)?;
            let own = entries.iter().filter(|entry| entry.root == Some(root));
            let best = own.max_by(|a, b| a.worth().cmp(&b.worth()).then_with(|| a.compare(b)));
            Some(Self {
                name: slot.name.clone(),
                version: best.map(|entry| entry.version().to_owned()),
                left: best.and_then(|entry| entry.left),
                is_draft: best.is_some_and(|entry| entry.is_draft),
                is_wanted: best.is_some_and(|entry| same(&entry.id, &wanted)),
                is_next: best.is_some_and(|entry| next.is_some_and(|next| next.path == entry.path)),
            })
        });
        slots.collect()
    }
}

/// The name of the entry of a version.
pub(super) fn id(spec: &Spec) -> String {
    format!("{}_{}", spec.image, spec.version)
}

/// What the loader takes next.
pub(super) fn next(entries: &[Entry]) -> Option<&Entry> {
    let entries = entries.iter().filter(|entry| entry.starts());
    entries.max_by(|a, b| a.compare(b))
}
