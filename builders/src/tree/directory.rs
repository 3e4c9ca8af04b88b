//! Directories of this machine.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use sos_formats::diagnostic::Class;
use sos_formats::flake_ref::{self, Attr};
use sos_formats::store_path::StorePath;

use super::{Answer, Found, Request, Trees, io, problem, shown};

impl Trees {
    pub(super) fn directory(&self, request: &Request) -> Answer<Found> {
        let text = flake_ref::text(&request.attrs, "path").unwrap_or_default();
        let (place, in_store) = self.place(text, request)?;
        let outside = || {
            problem(
                "tree-outside",
                Class::Recipe,
                format!(
                    "relative path '{text}' of input '{}' leads out of the tree that names it",
                    shown(&request.attrs)
                ),
            )
        };
        let relative = !text.starts_with('/');
        if relative && in_store.is_none() {
            return Err(outside());
        }
        let place = std::fs::canonicalize(&place).map_err(|e| {
            if e.kind() == std::io::ErrorKind::NotFound {
                return problem(
                    "tree-not-found",
                    Class::Recipe,
                    format!("path '{text}' does not exist"),
                );
            }
            io("look at", &place, &e)
        })?;
        if let Some(object) = &in_store {
            // A relative path must stay in the tree that names it.
            let top = self.store.physical(object);
            let top = std::fs::canonicalize(&top).map_err(|e| io("look at", &top, &e))?;
            if !place.starts_with(&top) {
                return Err(outside());
            }
        }
        let path = self.add(&place, &request.name)?;
        let mut attrs = request.attrs.clone();
        // Files of the store have no time of their own.
        let modified = if in_store.is_some() {
            1
        } else {
            newest(&place)?
        };
        attrs.insert("lastModified".into(), Attr::Int(modified));
        Ok(Found {
            path,
            attrs,
            warnings: Vec::new(),
        })
    }

    /// Where a path is on disk, and the store object that it lies in.
    fn place(&self, text: &str, request: &Request) -> Answer<(PathBuf, Option<StorePath>)> {
        let logical = match &request.base {
            Some(base) if !text.starts_with('/') => base.join(text),
            _ if text.starts_with('/') => PathBuf::from(text),
            _ => {
                return Err(problem(
                    "tree-relative",
                    Class::Recipe,
                    format!(
                        "cannot fetch input '{}' because it uses a relative path",
                        shown(&request.attrs)
                    ),
                ));
            }
        };
        let dir = self.store.store_dir();
        // `..` is taken away before anything is looked up: it must not climb out of an object through a link.
        let mut tidy = PathBuf::new();
        for part in logical.components() {
            match part {
                std::path::Component::ParentDir => drop(tidy.pop()),
                std::path::Component::CurDir => {}
                other => tidy.push(other),
            }
        }
        let logical = tidy;
        let Some(text) = logical.to_str() else {
            return Ok((logical, None));
        };
        match StorePath::split_absolute(dir, text) {
            Ok((object, rest)) if self.store.is_valid(&object).unwrap_or(false) => {
                let mut place = self.store.physical(&object);
                let rest = rest.trim_start_matches('/');
                if !rest.is_empty() {
                    place.push(rest);
                }
                Ok((place, Some(object)))
            }
            _ => Ok((logical, None)),
        }
    }
}

/// The time of the newest file or directory of a tree.
fn newest(top: &Path) -> Answer<u64> {
    let mut latest = 0;
    for entry in walkdir::WalkDir::new(top).follow_links(false) {
        let meta = entry.and_then(|e| e.metadata());
        let meta = meta.map_err(|e| io("look at", top, &e.into()))?;
        latest = latest.max(meta.mtime());
    }
    Ok(u64::try_from(latest).unwrap_or(0))
}
