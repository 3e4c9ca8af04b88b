//! What an EFI system partition holds: files of inputs, texts, and the kernel of a root filesystem.

use std::collections::BTreeMap;
use std::io::Cursor;

use serde::Deserialize;
use sos_engine::BuilderError;

use super::fat::{Source, Volume};
use super::input::{InputFile, whole_rootfs};
use super::kernel::Kernel;
use super::uki;
use crate::build::Build;

/// Where the bytes of one file come from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(in crate::disk) enum FileFrom {
    /// The path of a file in a tree or root filesystem.
    Path(String),
    Text {
        text: String,
    },
    /// The kernel of a root filesystem.
    Kernel {
        kernel_of: String,
        version: Option<String>,
    },
    /// A directory of a root filesystem, with all that is in it; links are followed.
    Directory {
        directory: String,
    },
    /// The initrd that a distribution made for it.
    Initrd {
        initrd_of: String,
        version: Option<String>,
    },
}

/// The volume that holds these files; size, label and times are to be set.
pub(in crate::disk) fn volume<'a>(
    build: &'a dyn Build,
    files: &BTreeMap<String, FileFrom>,
) -> Result<Volume<'a>, BuilderError> {
    let mut found = BTreeMap::new();
    for (path, from) in files {
        let path = path.trim_matches('/');
        if let FileFrom::Directory { directory } = from {
            for (below, file) in InputFile::all_below(build, directory)? {
                let name = if path.is_empty() {
                    below
                } else {
                    format!("{path}/{below}")
                };
                found.insert(name, of_file(file));
            }
        } else {
            found.insert(path.to_owned(), source(build, from)?);
        }
    }
    Ok(Volume {
        size: 0,
        label: *b"NO NAME    ",
        serial: 0,
        epoch: 0,
        files: found,
        hidden: 0,
        align: 512,
    })
}

/// Finds the bytes of one file.
pub(in crate::disk) fn source<'a>(
    build: &'a dyn Build,
    from: &FileFrom,
) -> Result<Source<'a>, BuilderError> {
    let file = match from {
        FileFrom::Path(path) => InputFile::find(build, path)?,
        FileFrom::Directory { directory } => {
            return Err(BuilderError::failed(format!(
                "`{directory}` is a directory and no file"
            )));
        }
        FileFrom::Text { text } => return Ok(bytes(text.clone().into_bytes())),
        FileFrom::Kernel { kernel_of, version } => {
            let tree = whole_rootfs(build, kernel_of)?;
            let kernel = Kernel::find(&tree, version.as_deref())?;
            InputFile::in_rootfs(build, &tree, &kernel.path)?
        }
        FileFrom::Initrd { initrd_of, version } => {
            let tree = whole_rootfs(build, initrd_of)?;
            let kernel = Kernel::find(&tree, version.as_deref())?;
            let one = ["distribution".to_owned()];
            return Ok(bytes(uki::initrds(build, &tree, &kernel, &one)?));
        }
    };
    Ok(of_file(file))
}

fn of_file<'a>(file: InputFile) -> Source<'a> {
    Source {
        size: file.size,
        open: Box::new(move || file.open()),
    }
}

fn bytes<'a>(data: Vec<u8>) -> Source<'a> {
    Source {
        size: data.len() as u64,
        open: Box::new(move || Ok(Box::new(Cursor::new(data.clone())))),
    }
}
