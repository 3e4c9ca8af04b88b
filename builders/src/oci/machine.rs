//! The machines that images are for, and how they are named.

use sos_engine::BuilderError;
use sos_formats::architecture::{ARCHITECTURES, Architecture};
use sos_formats::diagnostic::{Class, Diagnostic};

use super::documents::Platform;

/// Gives Go's name and variant of an architecture named in Go's, Debian's, the kernel's or Nix's way.
pub(crate) fn platform(arch: &str) -> Option<(&'static str, Option<&'static str>)> {
    Architecture::named(arch).map(|found| (found.go, found.variant))
}

/// Gives the platform that a recipe names.
///
/// # Errors
/// `oci-arch` when images have no name for it.
pub(crate) fn wanted(arch: &str) -> Result<Platform, BuilderError> {
    let Some((architecture, variant)) = platform(arch) else {
        let known = ARCHITECTURES.iter().map(|known| known.debian);
        let message = format!("images have no name for the architecture `{arch}`");
        let problem = Diagnostic::error("oci-arch", Class::Recipe, message);
        return Err(problem.suggest(arch, known).into());
    };
    Ok(Platform {
        architecture: architecture.to_owned(),
        os: "linux".to_owned(),
        variant: variant.map(str::to_owned),
    })
}

/// The error for an image of another machine than the one that is meant, which may be written nowhere: it is amd64 then. Both are Go's names.
pub(super) fn other_machine(message: String, found: &str, wanted: &str) -> Diagnostic {
    other_machines(message, &[found.to_owned()], wanted)
}

/// The same for an image of several machines, `found`.
pub(super) fn other_machines(message: String, found: &[String], wanted: &str) -> Diagnostic {
    let problem = Diagnostic::error("oci-arch", Class::Recipe, message);
    let name = format!("name an image for {wanted}");
    let mut words: Vec<String> = Vec::new();
    for found in found.iter().filter(|found| platform(found).is_some()) {
        let word = format!("`arch = \"{found}\"`");
        if !words.contains(&word) {
            words.push(word);
        }
    }
    if words.is_empty() {
        return problem.help(name);
    }
    let words = words.join(" or ");
    problem.help(format!(
        "write {words}, which is \"amd64\" where it is left out; or {name}"
    ))
}

/// Looks whether an image is for the machine that was asked for: only indexes are searched for it, and a manifest is alone. What says
/// nothing of machines fits.
///
/// # Errors
/// `oci-arch` when the configuration names another one.
pub(crate) fn is_for(
    config: &serde_json::Value,
    wanted: &Platform,
    image: &str,
) -> Result<(), BuilderError> {
    let wanted = &wanted.architecture;
    match config["architecture"].as_str() {
        Some(found) if found != wanted => {
            let message = format!("the image `{image}` is for {found}, and not for {wanted}");
            Err(other_machine(message, found, wanted).into())
        }
        _ => Ok(()),
    }
}
