//! Moving what a distribution laid out for a disk to where an image-based host has it.
//!
//! `/usr` is replaced by every update, `/etc` is merged, `/var` belongs to the machine: it is filled at the first boot only. So
//! kernels go below `/usr/lib/modules`, homes become links into `/var`, and `/var` itself is described in `tmpfiles.d`.

use sos_engine::BuilderError;
use sos_formats::manifest::Meta;
use sos_store::rootfs::{FileSpec, KindView, RootTree, SpecKind};

use super::{Layout, volatile};
use crate::build::Build;

/// Directories that every image has, with their modes.
const BASE_DIRS: [(&str, u16); 8] = [
    ("boot", 0o755),
    ("dev", 0o755),
    ("proc", 0o755),
    ("run", 0o755),
    ("sys", 0o755),
    ("sysroot", 0o755),
    ("tmp", 0o1777),
    ("var", 0o755),
];
/// Directories whose content belongs to the running machine.
const EMPTIED: [&str; 5] = ["dev", "proc", "run", "sys", "tmp"];
/// Top directories that are links into `/var`.
const LINKED: [(&str, &str); 5] = [
    ("home", "var/home"),
    ("mnt", "var/mnt"),
    ("opt", "var/opt"),
    ("root", "var/roothome"),
    ("srv", "var/srv"),
];
/// What kernels bring to `/boot`, and what it is called beside the modules.
const KERNEL_FILES: [(&str, &str); 4] = [
    ("vmlinuz-", "vmlinuz"),
    ("initrd.img-", "initramfs.img"),
    ("config-", "config"),
    ("System.map-", "System.map"),
];
/// Links of the top directory that lead to the kernel in `/boot`.
const KERNEL_LINKS: [&str; 4] = ["vmlinuz", "vmlinuz.old", "initrd.img", "initrd.img.old"];

/// Makes the metadata of something new that belongs to root.
pub(super) fn plain(mode: u16, epoch: i64) -> Meta {
    Meta {
        mode,
        mtime_secs: epoch,
        ..Meta::default()
    }
}

/// Lays the tree out.
pub(super) fn arrange(
    build: &dyn Build,
    tree: &mut RootTree,
    layout: Layout,
    epoch: i64,
) -> Result<(), BuilderError> {
    for (dir, mode) in BASE_DIRS {
        // What is there and no directory is left to the lints.
        if tree.get(dir)?.is_none() {
            let (meta, kind) = (plain(mode, epoch), SpecKind::Dir);
            tree.insert(dir, FileSpec { meta, kind })?;
        }
    }
    kernels(build, tree)?;
    for dir in EMPTIED {
        let names = names_in(tree, dir)?;
        for name in &names {
            tree.remove(below(dir, name))?;
        }
        if !names.is_empty() {
            build.log(&format!("emptied /{dir}: it belongs to the running system"));
        }
    }
    for (dir, place) in LINKED {
        link_into_var(tree, dir, place, epoch)?;
    }
    volatile::describe(build, tree, layout, epoch)?;
    if tree.get("ostree")?.is_none() {
        put_link(tree, "ostree", "sysroot/ostree", epoch)?;
    }
    if layout == Layout::Ostree && is_dir(tree, "etc")? && tree.get("usr/etc")?.is_none() {
        tree.mkdir_p("usr", &plain(0o755, epoch))?;
        tree.rename("etc", "usr/etc")?;
    }
    Ok(())
}

/// Moves kernels beside their modules.
fn kernels(build: &dyn Build, tree: &mut RootTree) -> Result<(), BuilderError> {
    for name in names_in(tree, "boot")? {
        let Some((version, new)) = KERNEL_FILES.iter().find_map(|(prefix, new)| {
            let version = name.strip_prefix(prefix.as_bytes())?;
            Some((version.to_vec(), *new))
        }) else {
            continue;
        };
        let modules = below("usr/lib/modules", &version);
        let to = [&modules, b"/".as_slice(), new.as_bytes()].concat();
        let fits = matches!(tree.get(&modules)?, Some(view) if view.kind == KindView::Dir);
        if fits && tree.get(&to)?.is_none() {
            build.log(&format!(
                "moved /boot/{} to /{}",
                String::from_utf8_lossy(&name),
                String::from_utf8_lossy(&to)
            ));
            tree.rename(below("boot", &name), &to)?;
        }
    }
    for name in KERNEL_LINKS {
        let dead = match tree.get(name)?.map(|view| view.kind) {
            Some(KindView::Symlink { target }) => {
                target.starts_with(b"boot/") || target.starts_with(b"/boot/")
            }
            _ => false,
        };
        if dead {
            tree.remove(name)?;
        }
    }
    Ok(())
}

/// Makes a directory of the top a link; what was in it goes along.
fn link_into_var(
    tree: &mut RootTree,
    dir: &str,
    place: &str,
    epoch: i64,
) -> Result<(), BuilderError> {
    match tree.get(dir)?.map(|view| view.kind) {
        Some(KindView::Dir) if tree.get(place)?.is_none() => tree.rename(dir, place)?,
        Some(KindView::Dir) if names_in(tree, dir)?.is_empty() => {
            tree.remove(dir)?;
        }
        None if tree.get(place)?.is_none() => {
            let (meta, kind) = (plain(0o755, epoch), SpecKind::Dir);
            tree.insert(place, FileSpec { meta, kind })?;
        }
        None => {}
        // A link already, or two directories with something in both.
        _ => return Ok(()),
    }
    put_link(tree, dir, place, epoch)
}

/// Makes a link that belongs to root.
pub(super) fn put_link(
    tree: &mut RootTree,
    path: &str,
    target: &str,
    epoch: i64,
) -> Result<(), BuilderError> {
    let spec = FileSpec {
        meta: plain(0o777, epoch),
        kind: SpecKind::Symlink {
            target: target.as_bytes().to_vec(),
        },
    };
    Ok(tree.insert(path, spec)?)
}

/// The names in a directory; none when there is no such directory.
pub(super) fn names_in(tree: &RootTree, dir: &str) -> Result<Vec<Vec<u8>>, BuilderError> {
    Ok(if is_dir(tree, dir)? {
        tree.list(dir)?
    } else {
        Vec::new()
    })
}

/// Whether a path is a directory itself.
pub(super) fn is_dir(tree: &RootTree, path: &str) -> Result<bool, BuilderError> {
    Ok(matches!(tree.get(path)?, Some(view) if view.kind == KindView::Dir))
}

/// Joins a directory and a name.
pub(super) fn below(dir: &str, name: &[u8]) -> Vec<u8> {
    [dir.as_bytes(), b"/", name].concat()
}
