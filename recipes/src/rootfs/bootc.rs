//! `[bootc]`: how a root filesystem becomes one that hosts of bootc or OSTree boot.

use sos_lang::Plain;

use super::check::{self, Checked};
use super::fields::{Fields, Known};
use super::schema::{checked, word};
use crate::plain::{Set, text};
use crate::problems::Problems;

const IN_BOOTC: Known = Known {
    names: &["name", "layout", "arrange", "strict", "ref", "version"],
    aliases: &[],
};
const LAYOUTS: &[(&str, &str)] = &[("container", "container"), ("ostree", "ostree")];
/// The longest ref, as the builder of commits has it.
const MAX_REF_BYTES: usize = 255;

/// What `[bootc]` says; what it leaves out the library decides.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct BootcSpec {
    name: Option<String>,
    layout: Option<&'static str>,
    arrange: Option<bool>,
    strict: Option<bool>,
    branch: Option<String>,
    version: Option<String>,
}

/// Reads the table out of the recipe.
pub(super) fn read(top: &Fields<'_>, problems: &mut Problems) -> BootcSpec {
    let node = top.node("bootc");
    let fields = node.and_then(|node| Fields::open(node, "`[bootc]`", IN_BOOTC, problems));
    let Some(fields) = fields else {
        return BootcSpec::default();
    };
    BootcSpec {
        name: checked(&fields, "name", check::store_name, problems),
        layout: word(&fields, "layout", LAYOUTS, problems),
        arrange: fields.flag("arrange", problems),
        strict: fields.flag("strict", problems),
        branch: checked(&fields, "ref", branch, problems),
        version: checked(&fields, "version", check::line, problems),
    }
}

/// The arguments of `sos.bootc` that the table gives.
pub(crate) fn lower(spec: &BootcSpec) -> Plain {
    Set::new()
        .with_some("name", spec.name.as_ref().map(text))
        .with_some("layout", spec.layout.map(text))
        .with_some("arrange", spec.arrange.map(Plain::Bool))
        .with_some("strict", spec.strict.map(Plain::Bool))
        .with_some("ref", spec.branch.as_ref().map(text))
        .with_some("version", spec.version.as_ref().map(text))
        .done()
}

fn branch(s: &str) -> Checked {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let part =
        |part: &str| part.starts_with(word) && part.chars().all(|c| word(c) || ".-".contains(c));
    if s.len() <= MAX_REF_BYTES && s.split('/').all(part) {
        Ok(())
    } else {
        Err(
            "a ref: letters, digits, `.`, `_` and `-`, in parts joined by `/`, such as `os/amd64/stable`",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rootfs::schema;

    fn parse(text: &str) -> (Option<Plain>, Vec<String>) {
        let file = sos_formats::diagnostic::SourceFile::new("x.rootfs.toml", text);
        let (recipe, found) = schema::parse_file(&file, "x");
        (
            recipe.map(|recipe| lower(&recipe.bootc)),
            found.into_iter().map(|problem| problem.message).collect(),
        )
    }

    #[test]
    fn what_is_given_is_handed_on() {
        let (bootc, problems) = parse(
            "suite = \"bookworm\"\n[bootc]\nname = \"os\"\nlayout = \"ostree\"\narrange = false\nstrict = true\n\
             ref = \"os/amd64/stable\"\nversion = \"12.1\"\n",
        );
        assert_eq!(problems, Vec::<String>::new());
        let given = Set::new()
            .with("name", text("os"))
            .with("layout", text("ostree"))
            .with("arrange", Plain::Bool(false))
            .with("strict", Plain::Bool(true))
            .with("ref", text("os/amd64/stable"))
            .with("version", text("12.1"));
        assert_eq!(bootc, Some(given.done()));
        let (none, _) = parse("suite = \"bookworm\"\n[bootc]\n");
        assert_eq!(none, Some(Set::new().done()));
    }

    #[test]
    fn every_wrong_value_is_told() {
        let (bootc, problems) = parse(
            "suite = \"bookworm\"\n[bootc]\nname = \"a b\"\nlayout = \"ostre\"\nstrict = \"true\"\nref = \"a//b\"\nlabels = {}\n",
        );
        assert!(bootc.is_none());
        for part in [
            "bad `name`",
            "unknown layout `ostre`",
            "`strict`",
            "bad `ref`",
            "unknown field `labels`",
        ] {
            assert!(
                problems.iter().any(|problem| problem.contains(part)),
                "{part}: {problems:?}"
            );
        }
    }
}
