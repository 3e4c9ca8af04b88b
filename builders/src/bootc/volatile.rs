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
///
/// Up to version 252 at least, systemd takes the backslash away in a path and leaves the rest, so control characters stand there as
/// they are. A line break cannot, and has the escape that later versions read.
fn quoted(path: &[u8]) -> String {
    let mut text = String::new();
    let mut is_bare = true;
    for c in String::from_utf8_lossy(path).chars() {
        is_bare &= c != ' ' && (!c.is_control() || c == '\n');
        match c {
            '\n' => text.push_str("\\n"),
            c if c.is_control() => text.push(c),
            c => text.push_str(&escaped(c.encode_utf8(&mut [0; 4]).as_bytes())),
        }
    }
    match is_bare {
        true => text,
        false => format!("\"{text}\""),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::{peer, said};

    #[test]
    fn systemd_reads_the_paths() {
        let dir = tempfile::tempdir().expect("a directory");
        let names = [
            "a\tb",
            "it's",
            "\"q\"",
            "back\\slash",
            "100%",
            "a b",
            "\u{1}c",
        ];
        let lines = names.map(|name| {
            let place = quoted(format!("/var/{name}").as_bytes());
            let link = quoted(format!("/var/to {name}").as_bytes());
            let target = escaped(name.as_bytes());
            format!("d {place} 0755 - - -\nL {link} - - - - {target}\n")
        });
        assert_eq!(quoted(b"/a\tb"), "\"/a\tb\"");
        assert_eq!(quoted(b"/a\nb"), "/a\\nb");
        let config = dir.path().join("t.conf");
        std::fs::write(&config, lines.concat()).expect("written");
        let root = dir.path().join("root");
        std::fs::create_dir(&root).expect("a directory");
        let at = format!("--root={}", root.display());
        let args = ["--create", &at, config.to_str().expect("plain")];
        let Some(output) = peer("systemd-tmpfiles", &args) else {
            return;
        };
        for name in names {
            let told = || format!("{name:?}: {}", said(&output));
            assert!(root.join("var").join(name).is_dir(), "{}", told());
            let link = std::fs::read_link(root.join("var").join(format!("to {name}")));
            assert_eq!(
                link.ok().as_deref(),
                Some(std::path::Path::new(name)),
                "{}",
                told()
            );
        }
    }
}
