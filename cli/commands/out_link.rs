//! Links to results: `result`, `-o LINK`.

use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;
use sos_store::{ObjectKind, StoreError};

use crate::failure::Failure;
use crate::render::{again, output};
use crate::session::Session;

/// Refuses a link that could not be made, before anything is built.
pub(super) fn check(link: &Path) -> Result<(), Failure> {
    let dir = match link.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    if !dir.is_dir() {
        let message = format!(
            "no directory `{}` for the link `{}`",
            dir.display(),
            link.display()
        );
        return Err(Failure::new(
            Diagnostic::error("link-no-directory", Class::Usage, message)
                .help(format!("`mkdir -p {}` makes it", dir.display())),
        ));
    }
    match link.symlink_metadata() {
        // One that is there may lead to the result already: then nothing is written.
        Ok(meta) if meta.is_symlink() => Ok(()),
        Ok(_) => {
            let path = link.to_owned();
            Err(Diagnostic::from(StoreError::NotALink { path }).into())
        }
        Err(_) if accessat(CWD, dir, Access::WRITE_OK, AtFlags::EACCESS).is_err() => {
            let (link, dir) = (link.display(), dir.display());
            let message = format!("the link `{link}` cannot be made: `{dir}` is not writable");
            Err(Failure::new(
                Diagnostic::error("link-not-writable", Class::Usage, message).help(
                    "name another link with `-o`, or `--no-link` for none: the path is printed",
                ),
            ))
        }
        Err(_) => Ok(()),
    }
}

/// Links `result`, `result-2`, ... and `result-dev`, as nix-build does. A root filesystem is no directory that a link could lead to:
/// it gets one only when asked for, to keep it.
pub(super) fn make(
    session: &Session,
    link: Option<&Path>,
    paths: &[(StorePath, String)],
) -> Result<(), Failure> {
    let store = session.store()?;
    let mut number = 0;
    for (path, output) in paths {
        if link.is_none()
            && store
                .query(path)?
                .is_some_and(|info| info.kind == ObjectKind::Rootfs)
        {
            if !session.global.quiet && !session.global.json {
                let path = path.absolute(store.store_dir());
                output::message(&again::text(&format!(
                    "`sos store ls {path}` looks into the root filesystem; `-o NAME` keeps it from `sos gc`"
                )));
            }
            continue;
        }
        let mut name = link.unwrap_or(Path::new("result")).as_os_str().to_owned();
        if output == "out" {
            number += 1;
            if number > 1 {
                name.push(format!("-{number}"));
            }
        } else {
            name.push(format!("-{output}"));
        }
        let name = Path::new(&name);
        if let Err(error) = store.add_indirect_root(name, path) {
            // Other files, and directories that are not writable: told as before a build.
            check(name)?;
            return Err(error.into());
        }
    }
    Ok(())
}
