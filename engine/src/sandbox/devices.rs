//! Devices of a root filesystem while a step runs. Nobody may make one in a user namespace, so each is a socket there: it cannot be
//! opened either, and every program that moves, copies or removes files treats it like a device. What the sockets of an upper layer
//! stand for is told by where they are and by their metadata, which go with them.

use std::collections::BTreeMap;

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::manifest::Meta;
use sos_store::rootfs::{FileSpec, KindView, RootTree, SpecKind};

use super::files;
use super::outcome::SandboxError;

/// The most devices that a message names.
const NAMED: usize = 4;

/// Sockets that a step has left, with their metadata as it left them.
pub(super) type Sockets = BTreeMap<Vec<u8>, Meta>;

/// Finds for each socket the device that it stands for, if any. `before` is the root that the step began with, `after` the one that it
/// made, in which there is nothing yet at the paths of the sockets.
pub(super) fn stand_for(
    sockets: &Sockets,
    before: &RootTree,
    after: &RootTree,
) -> Result<BTreeMap<Vec<u8>, FileSpec>, SandboxError> {
    let mut found = BTreeMap::new();
    if sockets.is_empty() {
        return Ok(found);
    }
    let mut devices = Vec::new();
    for (path, device) in before.devices()? {
        let stays = match sockets.get(&path) {
            Some(left) => alike(left, &device.meta),
            None => matches!(
                after.get(&path)?.map(|entry| entry.kind),
                Some(KindView::CharDev { .. } | KindView::BlockDev { .. })
            ),
        };
        devices.push(Known {
            path,
            device,
            gone: !stays,
        });
    }
    for (path, left) in sockets {
        if let Some(known) = one(path, left, &devices)? {
            found.insert(path.clone(), known.device.clone());
        }
    }
    Ok(found)
}

/// A device of the root that a step began with.
struct Known {
    path: Vec<u8>,
    device: FileSpec,
    /// It is no longer where it was.
    gone: bool,
}

/// The device that one socket stands for: the surest sign decides.
fn one<'a>(
    path: &[u8],
    left: &Meta,
    devices: &'a [Known],
) -> Result<Option<&'a Known>, SandboxError> {
    let here = |known: &Known| known.path == path;
    let named = |known: &Known| files::split(&known.path).1 == files::split(path).1;
    let like = |known: &Known| alike(left, &known.device.meta);
    let signs: [&dyn Fn(&Known) -> bool; 7] = [
        &|known| here(known) && like(known),
        // Moved, under its name or another one.
        &|known| known.gone && like(known) && named(known),
        &|known| known.gone && like(known),
        // Its owner, mode or time was changed in its place.
        &here,
        // Copied with its metadata.
        &|known| like(known) && named(known),
        &like,
        // Moved, and then changed.
        &|known| known.gone && named(known),
    ];
    for sign in signs {
        let mut all = devices.iter().filter(|known| sign(known));
        let Some(first) = all.next() else { continue };
        if all.all(|other| other.device.kind == first.device.kind) {
            return Ok(Some(first));
        }
        let all: Vec<&Known> = devices.iter().filter(|known| sign(known)).collect();
        return Err(ambiguous(path, &all));
    }
    Ok(None)
}

/// Whether metadata is what it was, as far as every program keeps it.
fn alike(left: &Meta, device: &Meta) -> bool {
    let kept = |meta: &Meta| (meta.mode, meta.uid, meta.gid, meta.mtime_secs);
    kept(left) == kept(device)
}

/// The metadata of a device that a step has left as `left`; `time` says what becomes of a new time.
pub(super) fn meta_of(device: &Meta, left: &Meta, time: impl Fn(i64) -> i64) -> Meta {
    let mut meta = device.clone();
    (meta.mode, meta.uid, meta.gid) = (left.mode, left.uid, left.gid);
    if left.mtime_secs != device.mtime_secs {
        meta.mtime_secs = time(left.mtime_secs);
        meta.mtime_nsecs = 0;
    }
    meta
}

fn ambiguous(path: &[u8], devices: &[&Known]) -> SandboxError {
    let shown = |path: &[u8]| format!("`/{}`", String::from_utf8_lossy(path));
    let message = format!(
        "{} may be one of {} devices, and they are alike",
        shown(path),
        devices.len()
    );
    let mut lines: Vec<String> = devices
        .iter()
        .take(NAMED)
        .map(|known| match known.device.kind {
            SpecKind::BlockDev { major, minor } => {
                format!("{} is block device {major}:{minor}", shown(&known.path))
            }
            SpecKind::CharDev { major, minor } => {
                format!("{} is character device {major}:{minor}", shown(&known.path))
            }
            _ => shown(&known.path),
        })
        .collect();
    if devices.len() > NAMED {
        lines.push(format!("and {} more", devices.len() - NAMED));
    }
    SandboxError::Machine(Box::new(
        Diagnostic::error("build-device-unclear", Class::Recipe, message)
            .note(lines.join("\n"))
            .note("a step has sockets in the place of devices, which nobody may make in a sandbox")
            .help("let the step keep their names, or give them another name one step at a time"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(mode: u16, secs: i64) -> Meta {
        Meta {
            mode,
            mtime_secs: secs,
            ..Meta::default()
        }
    }

    fn known(path: &str, minor: u32, mode: u16, gone: bool) -> Known {
        Known {
            path: path.as_bytes().to_vec(),
            device: FileSpec {
                meta: meta(mode, 5),
                kind: SpecKind::CharDev { major: 1, minor },
            },
            gone,
        }
    }

    #[track_caller]
    fn check(path: &str, left: &Meta, devices: &[Known], expect: Option<&str>) {
        let found = one(path.as_bytes(), left, devices).unwrap();
        let found = found.map(|known| String::from_utf8_lossy(&known.path).into_owned());
        assert_eq!(found.as_deref(), expect);
    }

    #[test]
    fn the_surest_sign_decides() {
        let there = [
            known("a/null", 3, 0o666, false),
            known("a/zero", 5, 0o666, false),
            known("a/mem", 1, 0o640, false),
        ];
        // In its place: as it was, with the mode of others, with a new time.
        check("a/null", &meta(0o666, 5), &there, Some("a/null"));
        check("a/mem", &meta(0o666, 5), &there, Some("a/mem"));
        check("a/zero", &meta(0o666, 9), &there, Some("a/zero"));
        // A copy in another directory, or of the only one that looks so.
        check("b/null", &meta(0o666, 5), &there, Some("a/null"));
        check("b/x", &meta(0o640, 5), &there, Some("a/mem"));
        // A socket.
        check("run/x", &meta(0o755, 5), &there, None);
        check("b/null", &meta(0o755, 9), &there, None);
        let moved = [
            known("a/null", 3, 0o666, true),
            known("a/zero", 5, 0o666, false),
        ];
        check("a/void", &meta(0o666, 5), &moved, Some("a/null"));
        check("b/null", &meta(0o600, 9), &moved, Some("a/null"));
        // Over another one: what is there has the metadata of what came.
        check("a/zero", &meta(0o666, 5), &moved, Some("a/zero"));
        let over = [
            known("a/mem", 1, 0o640, true),
            known("a/zero", 5, 0o666, true),
        ];
        check("a/zero", &meta(0o640, 5), &over, Some("a/mem"));
    }

    #[test]
    fn what_may_be_several_is_told() {
        let both = [
            known("a/null", 3, 0o666, true),
            known("a/zero", 5, 0o666, true),
        ];
        let error = one(b"b/x", &meta(0o666, 5), &both).err().unwrap();
        let SandboxError::Machine(told) = error else {
            panic!("{error:?}")
        };
        assert_eq!(told.code, "build-device-unclear");
        assert!(
            told.message.contains("`/b/x` may be one of 2"),
            "{}",
            told.message
        );
        assert!(told.notes[0].contains("`/a/zero` is character device 1:5"));
        // The same device under two names is one.
        let same = [
            known("a/null", 3, 0o666, true),
            known("c/nul", 3, 0o666, true),
        ];
        check("b/x", &meta(0o666, 5), &same, Some("a/null"));
    }

    #[test]
    fn what_a_step_changes_of_a_device_is_kept() {
        let mut device = meta(0o666, 5);
        device.mtime_nsecs = 7;
        let same = meta_of(&device, &meta(0o666, 5), |_| 1);
        assert_eq!(same, device);
        let changed = meta_of(&device, &meta(0o600, 6), |secs| secs + 1);
        assert_eq!(
            (changed.mode, changed.mtime_secs, changed.mtime_nsecs),
            (0o600, 7, 0)
        );
    }
}
