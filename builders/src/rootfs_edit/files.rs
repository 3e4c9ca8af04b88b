//! Files, directories and links that a recipe places.

use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sos_engine::BuilderError;
use sos_formats::manifest::Meta;

use super::attrs::{EditAttrs, FileAttrs};
use super::database::{Groups, Users};
use super::editor::{Editor, Kind, Owner, join, recipe_path};
use super::problem;

/// Entries of one placed tree.
const MAX_ENTRIES: usize = 1 << 20;

/// Places one thing.
pub(super) fn place(editor: &mut Editor<'_>, file: &FileAttrs) -> Result<(), BuilderError> {
    let path = recipe_path(&file.path)?;
    let mode = file
        .mode
        .as_deref()
        .map(|text| mode(&file.path, text))
        .transpose()?;
    let owner = match &file.owner {
        Some(text) => Some(owner(editor, &file.path, text)?),
        None => None,
    };
    let given = [
        file.source.is_some(),
        file.content.is_some(),
        file.symlink.is_some(),
        file.dir,
    ];
    if given.iter().filter(|given| **given).count() != 1 {
        let message = format!(
            "`{}` needs exactly one of `source`, `content`, `symlink` and `dir`",
            file.path
        );
        return Err(problem("rootfs-file", message).into());
    }
    let own = owner.unwrap_or((0, 0));
    if let Some(content) = &file.content {
        let meta = editor.meta(mode.unwrap_or(0o644), own);
        return editor.write(&path, content.as_bytes(), meta);
    }
    if let Some(target) = &file.symlink {
        if target.is_empty() || target.contains('\0') {
            return Err(problem(
                "rootfs-file",
                format!("the link `{}` has no usable target", file.path),
            )
            .into());
        }
        let meta = editor.meta(0o777, own);
        return editor.put(
            &path,
            meta,
            Kind::Symlink {
                target: target.clone().into_bytes(),
            },
        );
    }
    let Some(source) = &file.source else {
        let mode = if editor.exists(&path)? {
            mode
        } else {
            Some(mode.unwrap_or(0o755))
        };
        return editor
            .directory(&path, mode, owner.or(Some((0, 0))))
            .map(|_| ());
    };
    let source = editor.build.tree(source)?;
    let meta = fs::symlink_metadata(&source).map_err(|error| cannot_read(&source, error))?;
    if meta.is_dir() && mode.is_some() {
        let message = format!(
            "`{}` is a directory: its files keep their executable bits",
            file.path
        );
        return Err(problem("rootfs-file", message)
            .help("leave out `mode`, or place the files one by one")
            .into());
    }
    copy(editor, &source, path, mode, own)
}

/// Tells whether a file is to belong to a user or group that the recipe makes.
pub(super) fn is_of_new_account(file: &FileAttrs, attrs: &EditAttrs) -> bool {
    let names = || file.owner.iter().flat_map(|owner| owner.split(':'));
    let mut made = attrs.users.iter().map(|user| &user.name);
    let mut groups = attrs.groups.iter().map(|group| &group.name);
    made.any(|made| names().any(|name| name == made))
        || groups.any(|made| names().any(|name| name == made))
}

/// Copies a file, a link or a whole tree. Directories that exist keep their owner and mode.
fn copy(
    editor: &mut Editor<'_>,
    source: &Path,
    path: Vec<u8>,
    mode: Option<u16>,
    owner: Owner,
) -> Result<(), BuilderError> {
    let mut todo = vec![(source.to_owned(), path)];
    let mut done = 0;
    while let Some((source, path)) = todo.pop() {
        done += 1;
        if done > MAX_ENTRIES {
            return Err(BuilderError::failed(format!(
                "more than {MAX_ENTRIES} files in one placed tree"
            )));
        }
        if editor.build.cancelled() {
            return Err(BuilderError::Cancelled);
        }
        let error = |error| cannot_read(&source, error);
        let found = fs::symlink_metadata(&source).map_err(error)?;
        if found.is_symlink() {
            let target = fs::read_link(&source)
                .map_err(error)?
                .into_os_string()
                .into_vec();
            let meta = editor.meta(0o777, owner);
            editor.put(&path, meta, Kind::Symlink { target })?;
        } else if found.is_file() {
            let executable = found.permissions().mode() & 0o111 != 0;
            let meta = editor.meta(
                mode.unwrap_or(if executable { 0o755 } else { 0o644 }),
                owner,
            );
            let (blob, size) = editor.build.store().put_blob_file(&source, false)?;
            editor.put(
                &path,
                meta,
                Kind::File {
                    size,
                    blob,
                    hardlink: None,
                },
            )?;
        } else if found.is_dir() {
            let real = if editor.exists(&path)? {
                editor.directory(&path, None, None)?
            } else {
                editor.directory(&path, Some(0o755), Some(owner))?
            };
            for child in fs::read_dir(&source).map_err(error)? {
                let child = child.map_err(error)?;
                todo.push((child.path(), join(&real, child.file_name().as_bytes())));
            }
        } else {
            return Err(BuilderError::failed(format!(
                "`{}` is neither file, link nor directory",
                source.display()
            )));
        }
    }
    Ok(())
}

fn cannot_read(path: &Path, error: std::io::Error) -> BuilderError {
    BuilderError::io(format!("cannot read `{}`", path.display()), error)
}

fn mode(path: &str, text: &str) -> Result<u16, BuilderError> {
    let parsed = u16::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777);
    let bad = || {
        problem(
            "rootfs-file",
            format!("the mode `{text}` of `{path}` is not octal, such as `0644`"),
        )
        .into()
    };
    parsed.ok_or_else(bad)
}

/// Reads `user:group`, by number or by the names that the root file system has.
fn owner(editor: &Editor<'_>, path: &str, text: &str) -> Result<Owner, BuilderError> {
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    let users = Users::read(editor)?;
    let uid = match user.parse() {
        Ok(uid) => uid,
        Err(_) => users.find(user).map(|found| found.uid).ok_or_else(|| {
            problem(
                "rootfs-unknown-user",
                format!("`{path}` belongs to `{user}`, a user that does not exist"),
            )
            .suggest(user, users.names())
        })?,
    };
    let gid = match group.parse() {
        Ok(gid) => gid,
        // `user:` and `user` mean the user's own group.
        Err(_) if group.is_empty() => users.by_uid(uid).map_or(uid, |found| found.gid),
        Err(_) => {
            let groups = Groups::read(editor)?;
            groups.find(group).map(|found| found.gid).ok_or_else(|| {
                problem(
                    "rootfs-unknown-group",
                    format!("`{path}` belongs to `{group}`, a group that does not exist"),
                )
                .suggest(group, groups.names())
            })?
        }
    };
    Ok((uid, gid))
}

/// Copies `/etc/skel` into a new home.
pub(super) fn copy_skel(
    editor: &mut Editor<'_>,
    home: &[u8],
    owner: Owner,
) -> Result<(), BuilderError> {
    let mut todo = vec![(b"etc/skel".to_vec(), home.to_vec())];
    while let Some((from, to)) = todo.pop() {
        for (name, kind) in editor.list(&from)? {
            let (source, target) = (join(&from, &name), join(&to, &name));
            let Some((meta, _)) = editor.get(&source)? else {
                continue;
            };
            let meta = Meta {
                uid: owner.0,
                gid: owner.1,
                ..meta
            };
            match kind {
                Kind::Dir => {
                    editor.directory(&target, Some(meta.mode), Some(owner))?;
                    todo.push((source, target));
                }
                // Another name of the same file would tie the homes together.
                Kind::File { size, blob, .. } => editor.put(
                    &target,
                    meta,
                    Kind::File {
                        size,
                        blob,
                        hardlink: None,
                    },
                )?,
                Kind::Symlink { .. } => editor.put(&target, meta, kind)?,
                _ => {}
            }
        }
    }
    Ok(())
}
