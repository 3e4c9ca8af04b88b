//! What every code of a problem means, what causes it, and what helps.
//!
//! The texts stand in files beside this one. An entry is three lines: the code with its meaning, the cause, what to do; between
//! entries is an empty line.

/// The files, by what the codes are about.
const FILES: [&str; 6] = [
    include_str!("artifacts.txt"),
    include_str!("build.txt"),
    include_str!("eval.txt"),
    include_str!("fetch.txt"),
    include_str!("rootfs.txt"),
    include_str!("store.txt"),
];

/// What is known of one code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Explained {
    /// The code, as it stands in brackets behind `error`.
    pub(crate) code: &'static str,
    /// What it says.
    pub(crate) meaning: &'static str,
    /// How it comes to that.
    pub(crate) cause: &'static str,
    /// What to do.
    pub(crate) fix: &'static str,
}

/// Every code, in the order of the files.
pub(crate) fn all() -> impl Iterator<Item = Explained> {
    FILES
        .iter()
        .flat_map(|file| file.split("\n\n"))
        .filter_map(entry)
}

/// What is known of a code.
pub(crate) fn find(code: &str) -> Option<Explained> {
    all().find(|one| one.code == code)
}

fn entry(text: &'static str) -> Option<Explained> {
    let mut lines = text.trim().lines().map(str::trim);
    let (code, meaning) = lines.next()?.split_once(": ")?;
    Some(Explained {
        code,
        meaning,
        cause: lines.next()?,
        fix: lines.next()?,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_entry_is_whole_and_there_once() {
        let written = FILES.iter().flat_map(|file| file.trim().split("\n\n"));
        let mut codes = BTreeSet::new();
        for text in written {
            let one = entry(text).unwrap_or_else(|| panic!("not three lines:\n{text}"));
            assert_eq!(text.lines().count(), 3, "{text}");
            assert!(codes.insert(one.code), "{} is explained twice", one.code);
            assert!(
                !one.meaning.ends_with('.') && one.cause.ends_with('.') && one.fix.ends_with('.'),
                "{text}"
            );
        }
        assert_eq!(codes.len(), all().count());
    }
}
