//! The records that apt keeps, for a root file system whose packages were installed without it.

use sos_engine::BuilderError;

use super::attrs::AutoInstalled;
use super::database::Users;
use super::editor::{Editor, Kind};
use super::problem;

/// Directories that apt downloads into as the user `_apt`.
const PARTIAL: [&str; 2] = [
    "var/lib/apt/lists/partial",
    "var/cache/apt/archives/partial",
];
/// Locks that apt makes on first use.
const LOCKS: [&str; 2] = ["var/lib/apt/lists/lock", "var/cache/apt/archives/lock"];

/// Writes which packages apt may remove when nothing needs them, and leaves apt's directories as its first run does.
pub(super) fn apply(editor: &mut Editor<'_>, states: &[AutoInstalled]) -> Result<(), BuilderError> {
    let mut states = states.to_vec();
    states.sort();
    states.dedup();
    let mut text = String::new();
    for AutoInstalled { package, arch } in &states {
        if [package, arch]
            .iter()
            .any(|word| word.is_empty() || word.contains(char::is_whitespace))
        {
            let message = format!(
                "`{}` is not a package of an architecture",
                package.escape_debug()
            );
            return Err(problem("rootfs-package", message).into());
        }
        text += &format!("Package: {package}\nArchitecture: {arch}\nAuto-Installed: 1\n\n");
    }
    // Without apt nobody would read it.
    let Some((_, Kind::Dir)) = editor.get(b"var/lib/apt")? else {
        return Ok(());
    };
    let meta = editor.meta(0o644, (0, 0));
    if !text.is_empty() {
        editor.rewrite(b"var/lib/apt/extended_states", text.as_bytes(), meta)?;
    }
    let Some(apt) = Users::read(editor)?.find("_apt").map(|user| user.uid) else {
        return Ok(());
    };
    for dir in PARTIAL {
        editor.directory(dir.as_bytes(), Some(0o700), Some((apt, 0)))?;
    }
    for lock in LOCKS {
        if !editor.exists(lock.as_bytes())? {
            let meta = editor.meta(0o640, (0, 0));
            editor.write(lock.as_bytes(), b"", meta)?;
        }
    }
    Ok(())
}
