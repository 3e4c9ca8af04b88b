//! What the script of an `improve` or a `jump` looks at beside itself, read off its text.

use std::collections::BTreeSet;

use super::checkout::{Checkout, Result};
use super::files::Shown;

/// What it looks at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asks {
    /// The manifest of its tree.
    pub(super) manifest: bool,
    /// The lists of files of the steps.
    pub(super) sources: bool,
    /// The directory of files from outside, and not single files in it.
    pub(super) distfiles: bool,
}

impl Asks {
    /// Returns what of a tree it is shown: the manifest when it names that, and the `sources` of each step in the manifest, whether
    /// or not the variables leave it out, when it names those, too. Its own key is the only one that these are in.
    pub(super) fn shown(&self, checkout: &Checkout<'_>, tree: &str) -> Result<Vec<Shown>> {
        let path = format!("{tree}/manifest");
        let mut out = Vec::new();
        let Some(manifest) = checkout.resolve(&path)?.filter(|_| self.manifest) else {
            return Ok(out);
        };
        let text = checkout.need_text(&manifest)?;
        out.push(Shown::new(format!("/{path}"), manifest));
        if !self.sources {
            return Ok(out);
        }
        let builds = text.text.lines().filter_map(|l| l.strip_prefix("build: "));
        let names: BTreeSet<&str> = builds
            .filter_map(|rest| rest.split([' ', '#']).next())
            .filter(|name| !matches!(*name, "" | "." | "..") && !name.contains('/'))
            .collect();
        for name in names {
            let path = format!("{tree}/{name}/sources");
            if let Some(real) = checkout.resolve(&path)? {
                out.push(Shown::new(format!("/{path}"), real));
            }
        }
        Ok(out)
    }
}

/// Reads a script. Comments count for nothing.
pub(super) fn of(script: &str) -> Asks {
    let mut asks = Asks::default();
    for line in script.lines() {
        if line.trim_start().starts_with('#') {
            continue;
        }
        asks.manifest |= names(line, "manifest");
        asks.sources |= names(line, "sources");
        asks.distfiles |= lists(line);
    }
    asks
}

/// Tells whether the last part of a path on the line is `name`.
fn names(line: &str, name: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    line.match_indices(name)
        .any(|(at, _)| line[..at].ends_with('/') && !line[at + name.len()..].starts_with(is_letter))
}

/// Tells whether a line goes through the directory of files from outside, by a pattern or by a program that lists.
fn lists(line: &str) -> bool {
    ["DISTFILES", "/external/distfiles"].iter().any(|dir| {
        line.match_indices(dir).any(|(at, _)| {
            let rest = line[at + dir.len()..].trim_start_matches(['}', '"', '\'', '/']);
            let mut words = line[..at].split(|c: char| !c.is_ascii_alphanumeric());
            let is_end = rest.is_empty() || rest.starts_with([' ', ';', ')', '|']);
            rest.starts_with(['*', '?', '['])
                || (is_end && words.any(|word| matches!(word, "ls" | "find")))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::{Asks, of};

    #[test]
    fn what_is_named_is_asked_for() {
        let all = Asks {
            manifest: true,
            sources: true,
            distfiles: true,
        };
        let text = "awk 1 \"${SRCDIR}/manifest\"\nx < \"${SRCDIR}/${pkg}/sources\"\nfor f in \"${DISTFILES}/\"*; do :; done\n";
        assert_eq!(of(text), all);
        for listed in [
            "for f in $DISTFILES/*.xz",
            "x=$(ls \"${DISTFILES}\")",
            "find /external/distfiles -type f",
            "rm /external/distfiles/*",
        ] {
            assert!(of(listed).distfiles, "{listed}");
        }
    }

    #[test]
    fn what_is_not_looked_at_is_not_asked_for() {
        for text in [
            "# tar --exclude='/external/distfiles/*' /steps/manifest\n",
            "DISTFILES=${DISTFILES}\nunset DISTFILES\n",
            "cp ${DISTFILES}/x.tar ${SRCDIR}/manifest.bak\n",
            "ls /tmp; cat ${DISTFILES}/x\n",
            "echo the sources of the manifest\n",
        ] {
            assert_eq!(of(text), Asks::default(), "{text}");
        }
    }
}
