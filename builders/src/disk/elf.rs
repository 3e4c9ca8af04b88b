//! What a program for Linux needs to run: its loader and its shared libraries, found in a root filesystem.

use std::collections::{BTreeMap, BTreeSet};

use sos_engine::BuilderError;
use sos_formats::Bytes;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_store::rootfs::RootTree;

use super::input::InputFile;
use crate::build::Build;

/// Where loaders look without being told, in their order.
const LIBRARY_DIRS: &[&str] = &[
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
];
const MAX_SEGMENTS: usize = 128;
const MAX_DYNAMIC: usize = 4096;
/// Libraries of one program, all together.
const MAX_LIBRARIES: usize = 256;
const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;

/// What one ELF file names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// The loader, which a static program does not have.
    pub(super) loader: Option<String>,
    /// Libraries by their short names.
    pub(super) libraries: Vec<String>,
}

impl Needs {
    /// Reads them; none when it is no sound ELF file of 64 bits in little-endian order.
    pub(super) fn of(elf: &[u8]) -> Option<Self> {
        if elf.get(..6)? != [0x7f, b'E', b'L', b'F', 2, 1] {
            return None;
        }
        let start = index(number(elf, 32, 8)?)?;
        let (size, count) = (index(number(elf, 54, 2)?)?, index(number(elf, 56, 2)?)?);
        if count > MAX_SEGMENTS || count > 0 && size < 56 {
            return None;
        }
        // Kind, place in the file, address, length.
        let mut segments = Vec::new();
        for i in 0..count {
            let at = start.checked_add(i * size)?;
            segments.push((
                number(elf, at, 4)?,
                number(elf, at.checked_add(8)?, 8)?,
                number(elf, at.checked_add(16)?, 8)?,
                number(elf, at.checked_add(32)?, 8)?,
            ));
        }
        let mut needs = Self::default();
        let mut tags = Vec::new();
        for (kind, place, _, len) in &segments {
            let (from, to) = (index(*place)?, index(place.checked_add(*len)?)?);
            match *kind {
                PT_INTERP => needs.loader = Some(text_at(elf.get(..to)?, from)?),
                PT_DYNAMIC => {
                    let (entries, _) = elf.get(from..to)?.as_chunks::<16>();
                    let read =
                        |entry: &[u8; 16]| Some((number(entry, 0, 8)?, number(entry, 8, 8)?));
                    tags.extend(entries.iter().take(MAX_DYNAMIC).filter_map(read));
                }
                _ => {}
            }
        }
        let Some((_, strings)) = tags.iter().find(|(tag, _)| *tag == DT_STRTAB) else {
            return Some(needs);
        };
        let table = segments.iter().find_map(|(kind, place, address, len)| {
            let inside = strings
                .checked_sub(*address)
                .filter(|inside| inside < len)?;
            (*kind == PT_LOAD)
                .then(|| place.checked_add(inside))
                .flatten()
        })?;
        for (_, name) in tags.iter().filter(|(tag, _)| *tag == DT_NEEDED) {
            needs
                .libraries
                .push(text_at(elf, index(table.checked_add(*name)?)?)?);
        }
        Some(needs)
    }
}

/// A program of a root filesystem with all that it needs, by the paths where it looks for them.
pub(super) fn closure(
    build: &dyn Build,
    tree: &RootTree,
    program: &str,
) -> Result<BTreeMap<String, Bytes>, BuilderError> {
    let mut found = BTreeMap::new();
    let mut pending = vec![program.to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(path) = pending.pop() {
        if found.contains_key(&path) {
            continue;
        }
        if found.len() > MAX_LIBRARIES {
            return Err(refused(
                program,
                &format!("needs more than {MAX_LIBRARIES} files"),
            ));
        }
        let bytes = InputFile::in_rootfs(build, tree, &path)?.read()?;
        let needs = Needs::of(&bytes).ok_or_else(|| {
            refused(
                program,
                &format!("needs `{path}`, which is no program or library for 64 bits"),
            )
        })?;
        pending.extend(needs.loader);
        for name in needs.libraries {
            if seen.insert(name.clone()) {
                pending.push(library(build, tree, program, &name)?);
            }
        }
        found.insert(path, bytes);
    }
    Ok(found)
}

fn library(
    build: &dyn Build,
    tree: &RootTree,
    program: &str,
    name: &str,
) -> Result<String, BuilderError> {
    for dir in LIBRARY_DIRS {
        let path = format!("{dir}/{name}");
        if !name.contains('/') && InputFile::look_up(build, tree, &path)?.is_some() {
            return Ok(path);
        }
    }
    Err(refused(
        program,
        &format!("needs the library `{name}`, which the root filesystem does not have"),
    ))
}

fn refused(program: &str, why: &str) -> BuilderError {
    let message = format!("`{program}` cannot be part of an initrd: it {why}");
    Diagnostic::error("disk-program", Class::Recipe, message).into()
}

fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let found = bytes.get(at..at.checked_add(len)?)?;
    Some(
        found
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte)),
    )
}

fn index(value: u64) -> Option<usize> {
    usize::try_from(value).ok()
}

fn text_at(bytes: &[u8], at: usize) -> Option<String> {
    let rest = bytes.get(at..)?;
    let end = rest.iter().take(4096).position(|byte| *byte == 0)?;
    String::from_utf8(rest[..end].to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::{peer, said};

    #[test]
    fn a_program_of_this_machine_needs_what_objdump_says() {
        let Ok(elf) = std::fs::read("/bin/sh") else {
            return;
        };
        let needs = Needs::of(&elf).expect("a program");
        let Some(output) = peer("objdump", &["-p", "/bin/sh"]) else {
            return;
        };
        let said = said(&output);
        let theirs: Vec<&str> = said
            .lines()
            .filter_map(|line| line.trim().strip_prefix("NEEDED"))
            .map(str::trim)
            .collect();
        assert_eq!(needs.libraries, theirs);
        assert!(
            needs
                .loader
                .is_some_and(|loader| loader.starts_with("/lib"))
        );
    }

    #[test]
    fn damaged_programs_give_an_answer() {
        let Ok(elf) = std::fs::read("/bin/sh") else {
            return;
        };
        for end in [0, 5, 63, 64, 100, 700, 5000] {
            let _answer = Needs::of(elf.get(..end).unwrap_or(&elf));
        }
        for at in 0..1024.min(elf.len()) {
            let mut bad = elf.clone();
            bad[at] ^= 0xff;
            let _answer = Needs::of(&bad);
        }
        assert_eq!(Needs::of(b"#!/bin/sh\n"), None);
    }
}
