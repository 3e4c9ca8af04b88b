//! What a commit cannot hold, and what is wrong in the description of one.

use sos_engine::BuilderError;
use sos_formats::diagnostic::{Class, Diagnostic};

/// Places that one message names.
const SHOWN: usize = 10;

/// Names in a root filesystem that a commit has no place for.
#[derive(Debug, Default)]
pub(super) struct Unfit {
    special: Vec<String>,
    names: Vec<String>,
}

impl Unfit {
    /// Notes a device, pipe or the like.
    pub(super) fn special(&mut self, path: &[u8]) {
        self.special.push(shown(path));
    }

    /// Notes a name or link target that is not UTF-8.
    pub(super) fn name(&mut self, path: &[u8]) {
        self.names.push(shown(path));
    }

    /// Ends with an error if there is anything to complain of.
    pub(super) fn finish(self) -> Result<(), BuilderError> {
        if !self.special.is_empty() {
            return Err(listed(
                "ostree-special-file",
                "an OSTree commit holds files, links and directories only",
                &self.special,
            )
            .help("remove them before the commit is made; devices and pipes are made when the system boots")
            .into());
        }
        if !self.names.is_empty() {
            return Err(listed(
                "ostree-name",
                "an OSTree commit holds names and link targets in UTF-8 only",
                &self.names,
            )
            .help("rename them, or remove them before the commit is made")
            .into());
        }
        Ok(())
    }
}

/// Refuses extended attributes that a commit cannot hold.
pub(super) fn without_value(paths: &[String]) -> Diagnostic {
    listed(
        "ostree-empty-xattr",
        "an OSTree commit holds extended attributes with a value only",
        paths,
    )
    .help("give them a value, or remove them before the commit is made: `setfattr -x NAME FILE`")
    .help("`empty-xattrs = \"drop\"` leaves them out, as `ostree commit` does")
}

/// Tells of extended attributes that are left out.
pub(super) fn left_out(paths: &[String]) -> Diagnostic {
    let message = format!(
        "extended attributes without a value are left out of the commit, as `empty-xattrs = \"drop\"` says: those of {}",
        named(paths)
    );
    Diagnostic::warning("ostree-empty-xattr", Class::Recipe, message)
        .help("give them a value, or remove them before the commit is made")
}

fn listed(code: &'static str, message: &str, paths: &[String]) -> Diagnostic {
    let found = format!("found {}", named(paths));
    Diagnostic::error(code, Class::Recipe, message).note(found)
}

fn named(paths: &[String]) -> String {
    let mut names: Vec<String> = paths.iter().take(SHOWN).map(|p| format!("`{p}`")).collect();
    if paths.len() > SHOWN {
        names.push(format!("{} more", paths.len() - SHOWN));
    }
    names.join(", ")
}

/// A path as messages show it.
pub(super) fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}
