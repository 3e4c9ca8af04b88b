//! A shell of this machine, shown to the sandbox of a step whose root filesystem has none. No build ever sees it.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

/// Where it is in the sandbox: nothing of a root filesystem has this name.
pub(super) const PLACE: &str = "/.sos-shell";
/// Programs that may be one, best first: busybox brings what a shell is of little use without.
const NAMES: [&str; 9] = [
    "busybox",
    "busybox.static",
    "bash-static",
    "mksh-static",
    "zsh-static",
    "dash",
    "bash",
    "ash",
    "sh",
];
/// What busybox is also called there, as far as it has it.
const TOOLS: &str = "awk basename cat chmod chown cmp cp cut date dd df diff dirname du env expr find grep gunzip gzip head hexdump \
    id ln ls md5sum mkdir mv od patch printenv ps pwd readlink realpath rm rmdir sed seq sha256sum sleep sort stat strings tail \
    tar tee touch tr tree uname uniq unxz vi wc which xargs xxd zcat less more";
/// As much of a program as tells how it is loaded.
const HEAD_BYTES: u64 = 64 << 10;

/// Returns the first program in `dirs` that is a shell and needs no other file.
pub(super) fn find(dirs: &[PathBuf]) -> Option<PathBuf> {
    let all = NAMES
        .iter()
        .flat_map(|name| dirs.iter().map(move |dir| dir.join(name)));
    let mut usable = all.filter(|path| is_usable(path).unwrap_or(false));
    usable.next()
}

fn is_usable(path: &Path) -> io::Result<bool> {
    let meta = fs::metadata(path)?;
    if !meta.is_file() || meta.mode() & 0o111 == 0 {
        return Ok(false);
    }
    let mut head = Vec::new();
    File::open(path)?.take(HEAD_BYTES).read_to_end(&mut head)?;
    Ok(is_static(&head, machine()).unwrap_or(false))
}

/// Number of this machine's processors in a program's header.
fn machine() -> u16 {
    match std::env::consts::ARCH {
        "x86_64" => 62,
        "aarch64" => 183,
        "riscv64" => 243,
        "x86" => 3,
        _ => 0,
    }
}

/// Tells whether a program for such processors asks for no loader. Nothing when its header is cut off. Format: elf(5).
fn is_static(head: &[u8], machine: u16) -> Option<bool> {
    let at = |offset: usize, size: usize| -> Option<usize> {
        let bytes = head.get(offset..offset.checked_add(size)?)?;
        let number = bytes.iter().rev();
        Some(number.fold(0, |n, b| n << 8 | usize::from(*b)))
    };
    // Little-endian; the executable ones of its types.
    if head.get(..4)? != b"\x7fELF" || at(5, 1)? != 1 || !matches!(at(16, 2)?, 2 | 3) {
        return Some(false);
    }
    if at(18, 2)? != usize::from(machine) {
        return Some(false);
    }
    let (table, size, count) = match at(4, 1)? {
        2 => (at(32, 8)?, at(54, 2)?, at(56, 2)?),
        _ => (at(28, 4)?, at(42, 2)?, at(44, 2)?),
    };
    for i in 0..count {
        let entry = table.checked_add(i.checked_mul(size)?)?;
        // PT_INTERP
        if at(entry, 4)? == 3 {
            return Some(false);
        }
    }
    Some(count > 0)
}

/// Puts the program into a new directory as it is shown in the sandbox: `sh`, and of busybox its tools.
///
/// # Errors
/// When the directory cannot be written.
pub(super) fn lay_out(program: &Path, dir: &Path) -> io::Result<()> {
    fs::create_dir(dir)?;
    let sh = dir.join("sh");
    let is_box = program
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("busybox"));
    let own = if is_box {
        dir.join("busybox")
    } else {
        sh.clone()
    };
    fs::copy(program, &own)?;
    // Whatever it may do here, it does in there as whoever runs it.
    fs::set_permissions(&own, fs::Permissions::from_mode(0o755))?;
    if is_box {
        for name in TOOLS.split_whitespace().chain(["sh"]) {
            symlink("busybox", dir.join(name))?;
        }
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program with one entry in its table.
    fn program(kind: u8, machine: u8, entry: u8) -> Vec<u8> {
        let mut head = vec![0; 64 + 56];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (head[16], head[18], head[32], head[54], head[56]) = (kind, machine, 64, 56, 1);
        head[64] = entry;
        head
    }

    #[test]
    fn a_program_that_names_a_loader_is_not_static() {
        assert_eq!(is_static(&program(2, 62, 1), 62), Some(true));
        assert_eq!(is_static(&program(3, 62, 1), 62), Some(true));
        assert_eq!(is_static(&program(3, 62, 3), 62), Some(false));
        assert_eq!(is_static(&program(2, 183, 1), 62), Some(false));
        assert_eq!(is_static(&program(1, 62, 1), 62), Some(false));
        assert_eq!(is_static(&program(2, 62, 1)[..100], 62), Some(true));
        assert_eq!(is_static(&program(2, 62, 1)[..60], 62), None);
        assert_eq!(is_static(b"#!/bin/sh\n", 62), Some(false));
        assert_eq!(is_static(b"", 62), None);
    }
}
