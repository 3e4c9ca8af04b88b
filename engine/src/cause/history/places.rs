//! Where derivations are written.

use std::collections::BTreeMap;
use std::sync::Arc;

use sos_formats::diagnostic::{Label, SourceFile};
use sos_formats::store_path::StorePath;

use crate::event::Text;

/// Where derivations are written. There may be 100,000, in one file: a text for each would be most of what is remembered.
#[derive(Default)]
pub(super) struct Places {
    files: Vec<String>,
    /// Number of the file, line and column, both counted from 1.
    at: BTreeMap<StorePath, (u32, u32, u32)>,
}

impl Places {
    pub(super) fn of<'a>(labels: impl Iterator<Item = (StorePath, &'a Label)>) -> Self {
        let mut lines = Lines::default();
        let at = labels
            .map(|(drv, label)| (drv, lines.place(label)))
            .collect();
        let files = lines.files.iter().map(|(file, _)| file.name.clone());
        Self {
            files: files.collect(),
            at,
        }
    }

    /// The file that a derivation is written in; none if others are written in the same place, as those are that a function makes.
    pub(super) fn own_file(&self, drv: &StorePath) -> Option<&str> {
        let place = self.at.get(drv)?;
        let is_other = |(other, at): (&StorePath, &(u32, u32, u32))| at == place && other != drv;
        if self.at.iter().any(is_other) {
            return None;
        }
        self.files.get(place.0 as usize).map(String::as_str)
    }

    /// A place as file, line and column.
    pub(super) fn get(&self, drv: &StorePath) -> Option<Text> {
        let (file, line, column) = self.at.get(drv)?;
        let file = self.files.get(*file as usize)?;
        Some(Text::from(format!("{file}:{line}:{column}")))
    }
}

/// Where the lines of files begin. Some files hold all the packages that there are: they are not gone through for each.
#[derive(Default)]
struct Lines {
    files: Vec<(Arc<SourceFile>, Vec<usize>)>,
}

impl Lines {
    /// A place as the number of its file, line and column, both counted from 1.
    fn place(&mut self, label: &Label) -> (u32, u32, u32) {
        let known = self
            .files
            .iter()
            .rposition(|(file, _)| Arc::ptr_eq(file, &label.file));
        let at = known.unwrap_or_else(|| {
            let ends = label.file.text.match_indices('\n');
            let starts = std::iter::once(0).chain(ends.map(|(at, _)| at + 1));
            self.files.push((label.file.clone(), starts.collect()));
            self.files.len() - 1
        });
        let (file, starts) = &self.files[at];
        let line = starts.partition_point(|start| *start <= label.span.start);
        let start = starts.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let before = file.text.get(start..label.span.start).unwrap_or_default();
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        (small(at), small(line), small(before.chars().count() + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_the_file() {
        let file = SourceFile::new("f.nix", "ab\né x\n");
        let drv = StorePath::from_base(&format!("{}-x.drv", "1".repeat(32))).unwrap();
        for offset in [0, 1, 3, 6, 7] {
            let (line, column) = file.line_column(offset);
            let label = Label::new(&file, offset..offset, "");
            let places = Places::of([(drv.clone(), &label)].into_iter());
            let place = places.get(&drv).unwrap();
            assert_eq!(place.as_str(), format!("f.nix:{line}:{column}"), "{offset}");
        }
    }
}
