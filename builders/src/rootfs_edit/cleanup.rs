//! Removing what differs from build to build, or must not be shared by two machines.
//!
//! The list of logs and caches is that of mmdebstrap, so that the result can be compared with it; dpkg's own `*-old`
//! files stay, as they do there.

use sos_engine::BuilderError;

use super::attrs::CleanupAttrs;
use super::editor::{Editor, Kind, components, join, recipe_path, shown};
use super::glob::matches;

const LOGS: [&str; 8] = [
    "var/log/dpkg.log",
    "var/log/alternatives.log",
    "var/log/bootstrap.log",
    "var/log/apt/history.log",
    "var/log/apt/term.log",
    "var/log/apt/eipp.log.xz",
    "var/cache/ldconfig/aux-cache",
    "var/lib/dbus/machine-id",
];

/// What apt downloads or computes and can do without.
const APT_FILES: [&str; 2] = [
    "var/cache/apt/pkgcache.bin",
    "var/cache/apt/srcpkgcache.bin",
];
/// Directories of which apt expects the skeleton to be there.
const APT_DIRS: [&str; 2] = ["var/lib/apt/lists", "var/cache/apt/archives"];

/// Directories that are empty when a system boots.
const VOLATILE: [&str; 2] = ["run", "tmp"];

/// Removes what the recipe says. `keep_machine_id` when the recipe itself says what the machine id is.
pub(super) fn apply(
    editor: &mut Editor<'_>,
    cleanup: &CleanupAttrs,
    keep_machine_id: bool,
) -> Result<(), BuilderError> {
    for dir in VOLATILE {
        // Made by base-files when it is configured, and `/var/lock` leads there.
        empty(editor, dir.as_bytes(), &[b"lock"])?;
    }
    empty(editor, b"run/lock", &[])?;
    if cleanup.logs {
        if !keep_machine_id
            && let Some((meta, Kind::File { .. })) = editor.get(b"etc/machine-id")?
        {
            editor.rewrite(b"etc/machine-id", b"", meta)?;
        }
        for path in LOGS {
            // `/var/lib/dbus/machine-id` may be a link to the one in `/etc`, and that one is harmless.
            if let Some((_, Kind::File { .. })) = editor.get(path.as_bytes())? {
                editor.remove(path.as_bytes())?;
            }
        }
    }
    if cleanup.apt_lists {
        for path in APT_FILES {
            editor.remove(path.as_bytes())?;
        }
        for dir in APT_DIRS {
            empty(editor, dir.as_bytes(), &[b"lock", b"partial"])?;
            empty(editor, &join(dir.as_bytes(), b"partial"), &[])?;
        }
    }
    if cleanup.ssh_host_keys {
        for (name, _) in editor.list(b"etc/ssh")? {
            if matches(b"ssh_host_*_key", &name) || matches(b"ssh_host_*_key.pub", &name) {
                editor.remove(&join(b"etc/ssh", &name))?;
            }
        }
    }
    if cleanup.docs {
        docs(editor)?;
    }
    for pattern in &cleanup.paths {
        let removed = remove_matching(editor, &recipe_path(pattern)?)?;
        if removed == 0 {
            editor
                .build
                .log(&format!("cleanup: `{pattern}` matches nothing"));
        }
    }
    Ok(())
}

/// Removes everything in a directory but some names.
fn empty(editor: &mut Editor<'_>, dir: &[u8], keep: &[&[u8]]) -> Result<(), BuilderError> {
    // `/var/run` and the like may be links; only real directories are emptied.
    let Some((_, Kind::Dir)) = editor.get(dir)? else {
        return Ok(());
    };
    for (name, _) in editor.list(dir)? {
        if !keep.contains(&name.as_slice()) {
            editor.remove(&join(dir, &name))?;
        }
    }
    Ok(())
}

/// Removes documentation, but the copyright files: Debian requires them where the package is.
fn docs(editor: &mut Editor<'_>) -> Result<(), BuilderError> {
    for (package, kind) in editor.list(b"usr/share/doc")? {
        let path = join(b"usr/share/doc", &package);
        if matches!(kind, Kind::Dir) {
            empty(editor, &path, &[b"copyright"])?;
        }
    }
    for dir in [
        "usr/share/man",
        "usr/share/info",
        "usr/share/lintian",
        "usr/share/doc-base",
    ] {
        empty(editor, dir.as_bytes(), &[])?;
    }
    Ok(())
}

/// Removes everything that a pattern matches; gives how many.
fn remove_matching(editor: &mut Editor<'_>, pattern: &[u8]) -> Result<usize, BuilderError> {
    // Only what lies below the part without wildcards need be looked at.
    let names = components(pattern);
    let wild = |name: &[u8]| name.iter().any(|byte| b"*?[\\".contains(byte));
    let fixed: Vec<Vec<u8>> = names
        .iter()
        .take_while(|name| !wild(name))
        .cloned()
        .collect();
    if fixed.len() == names.len() {
        return Ok(usize::from(editor.remove(pattern)?));
    }
    let mut removed = 0;
    let mut todo = vec![fixed.join(&b'/')];
    while let Some(dir) = todo.pop() {
        for (name, kind) in editor.list(&dir)? {
            let path = join(&dir, &name);
            if matches(pattern, &path) {
                editor.remove(&path)?;
                removed += 1;
            } else if matches!(kind, Kind::Dir) {
                todo.push(path);
            }
        }
    }
    editor.build.log(&format!(
        "cleanup: {removed} paths match `/{}`",
        shown(pattern)
    ));
    Ok(removed)
}
