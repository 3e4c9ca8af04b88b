//! `sos store ls` and `cat`.

use std::borrow::Cow;
use std::io::IsTerminal as _;

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_store::rootfs::{KindView, RootTree};

use super::info::{describe, kind};
use super::place::{locate, missing, place};
use crate::failure::Failure;
use crate::render::{output, size, text};
use crate::session::Session;

pub(super) fn list(session: &Session, long: bool) -> Result<(), Failure> {
    let store = session.store()?;
    let all = store.list()?;
    if session.global.json {
        let list: Vec<_> = all.iter().map(|i| describe(store, i)).collect();
        return output::json(&serde_json::json!(list));
    }
    let mut text = String::new();
    for info in &all {
        if long {
            text.push_str(&format!(
                "{:7} {:>10}  ",
                kind(info),
                size::bytes(info.nar_size)
            ));
        }
        text.push_str(&info.path.absolute(store.store_dir()));
        text.push('\n');
    }
    output::bytes(text.as_bytes())
}

pub(super) fn entries(session: &Session, text: &str, long: bool) -> Result<(), Failure> {
    let store = session.store()?;
    let (info, rest) = locate(store, text)?;
    let mut out = Vec::new();
    if let Some(root) = info.root {
        let tree = RootTree::load(store, &root)?;
        let path = tree.resolve(&rest)?;
        let entry = tree.get(&path)?.ok_or_else(|| missing(text))?;
        let names = if entry.kind == KindView::Dir {
            tree.list(&path)?
        } else {
            vec![Vec::new()]
        };
        for name in names {
            let full = [path.as_slice(), &name]
                .into_iter()
                .filter(|p| !p.is_empty())
                .collect::<Vec<_>>()
                .join(&b'/');
            let entry = tree.get(&full)?.ok_or_else(|| missing(text))?;
            if long {
                let meta = entry.meta;
                out.extend_from_slice(
                    format!(
                        "{} {:04o} {}:{} {:>10}\t",
                        letter(entry.kind),
                        meta.mode,
                        meta.uid,
                        meta.gid,
                        match entry.kind {
                            KindView::File { size, .. } => size,
                            _ => 0,
                        }
                    )
                    .as_bytes(),
                );
            }
            out.extend_from_slice(&name_of(
                full.rsplit(|b| *b == b'/').next().unwrap_or_default(),
            ));
            if let (true, KindView::Symlink { target }) = (long, entry.kind) {
                out.extend_from_slice(b" -> ");
                out.extend_from_slice(&name_of(target));
            }
            out.push(b'\n');
        }
        return output::bytes(&out);
    }
    let place = place(store, &info, &rest);
    let meta = std::fs::symlink_metadata(&place).map_err(|_e| missing(text))?;
    let mut names: Vec<_> = if meta.is_dir() {
        let listed = std::fs::read_dir(&place).and_then(|d| {
            d.map(|e| e.map(|e| e.file_name()))
                .collect::<Result<_, _>>()
        });
        listed.map_err(|e| Failure::io(&format!("cannot list `{text}`"), &e))?
    } else {
        vec![place.file_name().unwrap_or_default().to_owned()]
    };
    names.sort();
    for name in names {
        use std::os::unix::ffi::OsStrExt as _;
        let path = if meta.is_dir() {
            place.join(&name)
        } else {
            place.clone()
        };
        if long {
            let meta = std::fs::symlink_metadata(&path)
                .map_err(|e| Failure::io(&format!("cannot look at `{text}`"), &e))?;
            let letter = if meta.is_dir() {
                'd'
            } else if meta.is_symlink() {
                'l'
            } else {
                '-'
            };
            out.extend_from_slice(format!("{letter} {:>10}\t", meta.len()).as_bytes());
        }
        out.extend_from_slice(&name_of(name.as_bytes()));
        if long && let Ok(target) = std::fs::read_link(&path) {
            out.extend_from_slice(b" -> ");
            out.extend_from_slice(&name_of(target.as_os_str().as_bytes()));
        }
        out.push(b'\n');
    }
    output::bytes(&out)
}

/// A name as it is for programs, and harmless for a terminal: who builds something chooses the names in it.
fn name_of(name: &[u8]) -> Cow<'_, [u8]> {
    if std::io::stdout().is_terminal() {
        text::file_name(name).into_bytes().into()
    } else {
        name.into()
    }
}

fn letter(kind: KindView<'_>) -> char {
    match kind {
        KindView::Dir => 'd',
        KindView::File { .. } => '-',
        KindView::Symlink { .. } => 'l',
        KindView::Fifo => 'p',
        KindView::CharDev { .. } => 'c',
        KindView::BlockDev { .. } => 'b',
    }
}

pub(super) fn cat(session: &Session, text: &str) -> Result<(), Failure> {
    let store = session.store()?;
    let (info, rest) = locate(store, text)?;
    if let Some(root) = info.root {
        let tree = RootTree::load(store, &root)?;
        return output::bytes(&tree.read_file(tree.resolve(&rest)?)?);
    }
    let place = place(store, &info, &rest);
    let inside = std::fs::canonicalize(&place).map_err(|_e| missing(text))?;
    // A link that leads elsewhere in the store is followed there by name, never to a file of the machine.
    if !inside.starts_with(store.root().join("tree")) {
        return Err(missing(text));
    }
    let mut file = std::fs::File::open(&inside)
        .map_err(|e| Failure::io(&format!("cannot read `{text}`"), &e))?;
    if file.metadata().is_ok_and(|m| m.is_dir()) {
        return Err(Failure::new(
            Diagnostic::error(
                "store-is-a-directory",
                Class::Other,
                format!("`{text}` is a directory"),
            )
            .help(format!("`sos store ls {text}` lists it")),
        ));
    }
    let mut chunk = vec![0; 1 << 20];
    loop {
        let n = std::io::Read::read(&mut file, &mut chunk)
            .map_err(|e| Failure::io(&format!("cannot read `{text}`"), &e))?;
        if n == 0 {
            return Ok(());
        }
        output::bytes(&chunk[..n])?;
    }
}
