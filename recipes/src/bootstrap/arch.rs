//! Architectures of bootstrap steps.

use sos_formats::diagnostic::{Class, Diagnostic};

use super::checkout::{Checkout, Result};

/// Architectures as upstream calls them, with the systems that run their programs.
const SYSTEMS: [(&str, &str); 4] = [
    ("x86", "i686-linux"),
    ("amd64", "x86_64-linux"),
    ("aarch64", "aarch64-linux"),
    ("riscv64", "riscv64-linux"),
];

/// What others call them.
const ALIASES: [(&str, &str); 9] = [
    ("x86_64", "amd64"),
    ("x86-64", "amd64"),
    ("x64", "amd64"),
    ("i386", "x86"),
    ("i486", "x86"),
    ("i586", "x86"),
    ("i686", "x86"),
    ("arm64", "aarch64"),
    ("riscv", "riscv64"),
];

/// The system whose programs the steps of an architecture are.
///
/// # Errors
/// `bootstrap-arch` when no system is, at the line of `steps/bootstrap.cfg` if that says so.
pub(super) fn system(checkout: &Checkout<'_>, arch: &str) -> Result<&'static str> {
    if let Some((_, system)) = SYSTEMS.iter().find(|(known, _)| *known == arch) {
        return Ok(system);
    }
    let message = format!("ARCH is `{arch}`, which no system runs");
    let mut problem = Diagnostic::error("bootstrap-arch", Class::Recipe, message);
    // Where it was said, unless it was somewhere else than in the file.
    if let Some(file) = checkout.text("steps/bootstrap.cfg")? {
        let said = format!("ARCH={arch}");
        let mut start = 0;
        for line in file.text.split_inclusive('\n') {
            if line.trim_end_matches('\n') == said {
                problem = problem.label(&file, start..start + said.len(), "said here");
                break;
            }
            start += line.len();
        }
    }
    let problem = problem.note("known are `x86`, `amd64`, `aarch64` and `riscv64`");
    let known = SYSTEMS.iter().map(|(known, _)| *known);
    // A system is an architecture and a kernel.
    let bare = arch.strip_suffix("-linux").unwrap_or(arch);
    let alias = ALIASES
        .iter()
        .find(|(other, _)| other.eq_ignore_ascii_case(bare));
    let alias = alias.map_or(bare, |(_, known)| *known);
    Err(Box::new(
        match known
            .clone()
            .find(|known| known.eq_ignore_ascii_case(alias))
        {
            // Upstream has both: the directories of stage0 are called otherwise.
            Some(known) => problem.help(format!("did you mean `{known}`?")),
            None => problem.suggest(arch, known),
        },
    ))
}
