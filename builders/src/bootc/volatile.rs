//! `/var` as `tmpfiles.d` describes it: a host makes it once, and no update touches it afterwards.
//!
//! Directories and links become lines; files go to `/usr/share/factory/var`, from where they are copied when they are missing. Caches,
//! logs and temporary files go. dpkg's database describes `/usr`, so it lives there.
//!
//! Source: `tmpfiles.d(5)`.

use std::fmt::Write as _;

use sos_engine::BuilderError;
use sos_formats::manifest::Meta;
use sos_store::rootfs::{KindView, RootTree};

use super::Layout;
use super::layout::{is_dir, plain, put_link};
use crate::build::Build;

/// Where the lines go.
pub(super) const TMPFILES: &str = "usr/lib/tmpfiles.d/sos-bootc.conf";
/// Where files wait for the first boot.
const FACTORY: &str = "usr/share/factory";
/// What the machine makes itself.
const DROPPED: [&[u8]; 3] = [b"var/cache/", b"var/log/", b"var/tmp/"];
const DPKG: (&str, &str) = ("var/lib/dpkg", "usr/lib/sysimage/dpkg");

/// One entry of `/var`.
enum Item {
    Dir(Meta),
    File(Meta),
    Link(Vec<u8>),
}

/// Describes `/var`, and takes the files out of it.
pub(super) fn describe(
    build: &dyn Build,
    tree: &mut RootTree,
    layout: Layout,
    epoch: i64,
) -> Result<(), BuilderError> {
    if is_dir(tree, DPKG.0)? && tree.get(DPKG.1)?.is_none() {
        tree.mkdir_p("usr/lib/sysimage", &plain(0o755, epoch))?;
        tree.rename(DPKG.0, DPKG.1)?;
        put_link(tree, DPKG.0, &format!("../../{}", DPKG.1), epoch)?;
    }
    let (mut items, mut dropped) = (Vec::new(), Vec::new());
    tree.walk(|path, meta, kind| {
        if !path.starts_with(b"var/") {
            return Ok(());
        }
        match kind {
            KindView::Dir => items.push((path.to_vec(), Item::Dir(meta.clone()))),
            KindView::Symlink { target } => {
                items.push((path.to_vec(), Item::Link(target.to_vec())));
            }
            KindView::File { .. } if DROPPED.iter().any(|dir| path.starts_with(dir)) => {
                dropped.push(path.to_vec());
            }
            KindView::File { .. } => items.push((path.to_vec(), Item::File(meta.clone()))),
            // The lints name them.
            _ => {}
        }
        Ok(())
    })?;
    if items.is_empty() && dropped.is_empty() {
        return Ok(());
    }
    for path in &dropped {
        tree.remove(path)?;
    }
    let mut lines = String::from("# What /var begins with; made by sos.bootc.\n");
    let mut moved = 0_usize;
    for (path, item) in &items {
        let place = quoted(&[b"/", path.as_slice()].concat());
        // Writing to a string cannot fail.
        let _infallible = match item {
            Item::Dir(meta) => {
                let (mode, uid, gid) = (meta.mode, meta.uid, meta.gid);
                writeln!(lines, "d {place} {mode:04o} {uid} {gid} -")
            }
            Item::Link(target) => writeln!(lines, "L {place} - - - - {}", escaped(target)),
            Item::File(meta) => {
                let factory = [FACTORY.as_bytes(), b"/", path].concat();
                keep_in_factory(tree, path, &factory, epoch)?;
                moved += 1;
                let (mode, uid, gid) = (meta.mode, meta.uid, meta.gid);
                let from = escaped(&[b"/", factory.as_slice()].concat());
                writeln!(lines, "C {place} {mode:04o} {uid} {gid} - {from}")
            }
        };
    }
    tree.mkdir_p("usr/lib/tmpfiles.d", &plain(0o755, epoch))?;
    tree.write_file(TMPFILES, lines, plain(0o644, epoch))?;
    build.log(&format!(
        "described /var in /{TMPFILES}: {} entries, {moved} files in /{FACTORY}, {} caches and logs gone",
        items.len(),
        dropped.len()
    ));
    if layout == Layout::Ostree {
        // What a commit has there reaches no host that has been deployed before.
        for name in tree.list("var")? {
            tree.remove([b"var/", name.as_slice()].concat())?;
        }
    }
    Ok(())
}

fn keep_in_factory(
    tree: &mut RootTree,
    path: &[u8],
    factory: &[u8],
    epoch: i64,
) -> Result<(), BuilderError> {
    let parent = factory.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    tree.mkdir_p(&factory[..parent], &plain(0o755, epoch))?;
    if tree.get(factory)?.is_none() {
        tree.rename(path, factory)?;
    } else {
        tree.remove(path)?;
    }
    Ok(())
}

/// A path as a field of a line: specifiers begin with `%`, and fields end at white space.
fn quoted(path: &[u8]) -> String {
    let text = escaped(path);
    if text.contains(' ') {
        format!("\"{text}\"")
    } else {
        text
    }
}

/// A text in the C-like escapes of the format.
fn escaped(text: &[u8]) -> String {
    let mut out = String::new();
    for c in String::from_utf8_lossy(text).chars() {
        match c {
            '%' => out.push_str("%%"),
            '"' | '\'' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    let _infallible = write!(out, "\\x{byte:02x}");
                }
            }
            c => out.push(c),
        }
    }
    out
}
