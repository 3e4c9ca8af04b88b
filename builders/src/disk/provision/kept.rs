//! What stays of a version that a device has, when the recipe calls something else the same version.

use std::io::Read as _;

use sos_engine::BuilderError;

use super::super::{esp, pe};
use super::drift::{Difference, Repair};
use super::entries::{Entry, same, uncounted};
use super::plan::{Plan, Step};
use super::roots::is_written_to;
use super::volume::Volume;
use super::{Slot, Spec, refused};
use crate::build::Build;

const RAISE: &str =
    "raise `version` in the recipe: it goes into a free slot then, and what is there stays";

/// Refuses another kind of entry for a version that starts: with both there would be two of it, and in between none.
pub(super) fn entry(
    spec: &Spec,
    entry: &Entry,
    slot: &Slot,
    found: &[Difference],
) -> Result<(), BuilderError> {
    match found.iter().find(|one| one.repair == Repair::Raise) {
        None => Ok(()),
        Some(difference) => {
            let message = format!(
                "version {} is in `{}`, and the recipe calls what starts in another way the same version",
                spec.version, slot.name
            );
            Err(refused("provision-same-version", message)
                .note(difference.to_string())
                .help(format!(
                    "{RAISE}; or give `boot` the value that `{}` was made with",
                    entry.path
                ))
                .into())
        }
    }
}

/// Refuses to write over a root that has started and differs from the recipe's, unless it can only be damage: until the last byte is
/// written nothing could start it.
pub(super) fn proven(
    spec: &Spec,
    entry: &Entry,
    slot: &Slot,
    found: &[Difference],
) -> Result<(), BuilderError> {
    let is_proven = entry.left.is_none();
    if !is_proven || is_written_to(spec, slot) {
        return Ok(());
    }
    let mut roots = found
        .iter()
        .filter(|one| matches!(one.repair, Repair::Partition(_)));
    let Some(root) = roots.next() else {
        return Ok(());
    };
    // The entry of a root with hashes says of which root they are.
    let is_entry =
        |one: &Difference| matches!(&one.repair, Repair::File(path) if same(path, &entry.path));
    if !slot.images.is_empty() && !found.iter().any(is_entry) {
        return Ok(());
    }
    let message = format!(
        "version {} has started from `{}`, and its root is not the recipe's",
        spec.version, slot.name
    );
    Err(refused("provision-same-version", message)
        .note(root.to_string())
        .help(format!("if the recipe has changed, {RAISE}"))
        .help("if the device is damaged, `--repair` writes the root of the recipe over it")
        .into())
}

/// Refuses to put another kernel beside a root to which a system writes, and which keeps its modules, and says of other files that
/// the root stays as it is. Files of the version are in `plan`.
pub(super) fn root(
    sources: &dyn Build,
    spec: &Spec,
    volume: &Volume,
    slot: &Slot,
    plan: &mut Plan,
) -> Result<(), BuilderError> {
    let is_root = |step: &Step| matches!(step, Step::Partition { name, .. } if *name == slot.name);
    if !is_written_to(spec, slot) || plan.steps.iter().any(is_root) {
        return Ok(());
    }
    let mut files = false;
    for step in &plan.steps {
        let Step::File { path } = step else {
            continue;
        };
        let bare = uncounted(path);
        let mut own = slot.files.iter();
        let own = own.find(|(plain, _)| same(plain, path) || same(plain, &bare));
        let Some((_, from)) = own else {
            continue;
        };
        files = true;
        let source = esp::source(sources, from)?;
        let mut wanted = Vec::new();
        (source.open)()
            .and_then(|mut reader| reader.read_to_end(&mut wanted))
            .map_err(|e| BuilderError::io(format!("cannot read what becomes `{path}`"), e))?;
        let there = volume.read(path)?.and_then(|bytes| kernel_in(&bytes));
        let (Some(there), Some(wanted)) = (there, kernel_in(&wanted)) else {
            continue;
        };
        if there != wanted {
            let message = format!(
                "version {} is in `{}` with the kernel {there}, and the recipe calls one with the kernel {wanted} the same version",
                spec.version, slot.name
            );
            return Err(refused("provision-same-version", message)
                .note(format!(
                    "`{}` keeps the files that it has, and a kernel needs the modules that came with it",
                    slot.name
                ))
                .help(RAISE)
                .into());
        }
    }
    if files {
        plan.notes.push(format!(
            "`{}` keeps the files that it has, and only what starts it is written: if the root filesystem of the recipe has changed too, \
             raise `version`",
            slot.name
        ));
    }
    Ok(())
}

/// The version of the kernel in a kernel image, or in a kernel alone (kernel: Documentation/arch/x86/boot.rst, arch/arm64/booting.rst);
/// none when it says none, as one that is compressed as a whole.
fn kernel_in(bytes: &[u8]) -> Option<String> {
    const ARM64: (std::ops::Range<usize>, &[u8]) = (0x38..0x3c, b"ARM\x64");
    const BANNER: &[u8] = b"Linux version ";
    const MAGIC: std::ops::Range<usize> = 0x202..0x206;
    const VERSION_AT: usize = 0x20e;
    const SETUP: usize = 0x200;
    if let Some(sections) = pe::sections(bytes)
        && let Some((_, version)) = sections.iter().find(|(name, _)| name == ".uname")
    {
        return Some(String::from_utf8_lossy(version).trim().to_owned());
    }
    let text = if bytes.get(ARM64.0)? == ARM64.1 {
        let at = memchr::memmem::find(bytes, BANNER)?;
        &bytes[at + BANNER.len()..]
    } else if bytes.get(MAGIC)? == b"HdrS" {
        let at = bytes.get(VERSION_AT..VERSION_AT + 2)?;
        let at = usize::from(u16::from_le_bytes([at[0], at[1]]));
        bytes.get(SETUP + at..).filter(|_| at != 0)?
    } else {
        return None;
    };
    let text = text.split(|byte| matches!(byte, 0 | b'\n')).next()?;
    let is_text = text.len() < 1024 && text.iter().all(|byte| (b' '..=b'~').contains(byte));
    is_text.then(|| String::from_utf8_lossy(text).into_owned())
}
