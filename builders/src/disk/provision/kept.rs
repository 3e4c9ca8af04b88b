//! A root that keeps the files that it has, and what is about to start it.

use std::io::Read as _;

use sos_engine::BuilderError;

use super::super::{esp, pe};
use super::drift::is_written_to;
use super::entries::{same, uncounted};
use super::plan::{Plan, Step};
use super::volume::Volume;
use super::{Slot, Spec, refused};
use crate::build::Build;

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
                .help("raise `version` in the recipe: it goes into a free slot then, and what is there stays")
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

/// The version of the kernel in a kernel image, or in a kernel alone (kernel: Documentation/arch/x86/boot.rst); none when it says none.
fn kernel_in(bytes: &[u8]) -> Option<String> {
    const MAGIC: std::ops::Range<usize> = 0x202..0x206;
    const VERSION_AT: usize = 0x20e;
    const SETUP: usize = 0x200;
    if let Some(sections) = pe::sections(bytes)
        && let Some((_, version)) = sections.iter().find(|(name, _)| name == ".uname")
    {
        return Some(String::from_utf8_lossy(version).trim().to_owned());
    }
    if bytes.get(MAGIC)? != b"HdrS" {
        return None;
    }
    let at = bytes.get(VERSION_AT..VERSION_AT + 2)?;
    let at = usize::from(u16::from_le_bytes([at[0], at[1]]));
    let text = bytes.get(SETUP + at..).filter(|_| at != 0)?;
    let text = text.split(|byte| *byte == 0).next()?;
    let is_text = text.len() < 256 && text.iter().all(|byte| (b' '..=b'~').contains(byte));
    is_text.then(|| String::from_utf8_lossy(text).into_owned())
}
