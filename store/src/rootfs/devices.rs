//! The devices of a [`RootTree`].

use sos_formats::Bytes;

use super::entry::{FileSpec, SpecKind};
use super::tree::{Dir, ItemKind, MAX_DEPTH, RootTree};
use crate::error::{Result, StoreError};

impl RootTree {
    /// Lists the devices with their paths, in the order of a walk. Saved directories without any are not looked into.
    ///
    /// # Errors
    /// When a directory cannot be read, or they are nested too deeply.
    pub fn devices(&self) -> Result<Vec<(Bytes, FileSpec)>> {
        let mut found = Vec::new();
        // Depth costs memory, not stack.
        let mut pending: Vec<(Bytes, &Dir, usize)> = vec![(Bytes::new(), &self.top, 0)];
        while let Some((path, dir, depth)) = pending.pop() {
            if depth >= MAX_DEPTH {
                use std::os::unix::ffi::OsStrExt as _;
                return Err(StoreError::TooDeep {
                    path: std::ffi::OsStr::from_bytes(&path).into(),
                    limit: MAX_DEPTH,
                });
            }
            if let (Some(store), Some(node)) = (&self.store, &dir.saved)
                && !store.below(node)?.has_devices()
            {
                continue;
            }
            for (name, item) in dir.entries(self.store.as_ref())? {
                let mut path = path.clone();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(name);
                let kind = match &item.kind {
                    ItemKind::CharDev { major, minor } => SpecKind::CharDev {
                        major: *major,
                        minor: *minor,
                    },
                    ItemKind::BlockDev { major, minor } => SpecKind::BlockDev {
                        major: *major,
                        minor: *minor,
                    },
                    ItemKind::Dir(below) => {
                        pending.push((path, below, depth + 1));
                        continue;
                    }
                    _ => continue,
                };
                let meta = item.meta.clone();
                found.push((path, FileSpec { meta, kind }));
            }
        }
        Ok(found)
    }
}
