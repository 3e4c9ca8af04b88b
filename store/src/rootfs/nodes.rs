//! Manifest nodes and roots on the disk: `man/ab/cdef…`, zstd, named by the BLAKE3 of what is compressed.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use sos_formats::hash::Blake3;
use sos_formats::manifest::{Node, Root};

use crate::cas::create_private;
use crate::error::{IoContext, Result, StoreError};
use crate::store::Store;

/// The largest manifest node that is read: a directory with some two million names.
pub const MAX_NODE_BYTES: u64 = 256 << 20;

pub(super) const LEVEL: i32 = 3;

impl Store {
    /// Stores one directory of a manifest.
    ///
    /// # Errors
    /// When it breaks the rules of the format, or writing fails.
    pub fn put_node(&self, node: &Node) -> Result<Blake3> {
        node.check().map_err(|err| StoreError::Corrupt {
            path: PathBuf::from("man"),
            detail: err.to_string(),
        })?;
        self.put_manifest(&node.encode())
    }

    /// Stores the top of a manifest; its id is the identity of the rootfs.
    ///
    /// # Errors
    /// When writing fails.
    pub fn put_root(&self, root: &Root) -> Result<Blake3> {
        root.meta.check().map_err(|err| StoreError::Corrupt {
            path: PathBuf::from("man"),
            detail: err.to_string(),
        })?;
        self.put_manifest(&root.encode())
    }

    /// Reads one directory of a manifest.
    ///
    /// # Errors
    /// [`StoreError::MissingNode`] when it is not here, [`StoreError::Corrupt`] when its bytes are not what its id says.
    pub fn get_node(&self, id: &Blake3) -> Result<Node> {
        self.get_node_sized(id).map(|(node, _)| node)
    }

    /// Reads one directory of a manifest, and tells how many bytes it has.
    pub(super) fn get_node_sized(&self, id: &Blake3) -> Result<(Node, usize)> {
        let bytes = self.get_manifest(id)?;
        let node = Node::decode(&bytes).map_err(|err| self.damaged(id, err.to_string()))?;
        Ok((node, bytes.len()))
    }

    /// Reads the top of a manifest.
    ///
    /// # Errors
    /// As [`Store::get_node`].
    pub fn get_root(&self, id: &Blake3) -> Result<Root> {
        Root::decode(&self.get_manifest(id)?).map_err(|err| self.damaged(id, err.to_string()))
    }

    pub(crate) fn manifest_path(&self, id: &Blake3) -> PathBuf {
        let hex = id.to_hex();
        let (shard, rest) = hex.split_at(2);
        let mut path = self.root().join("man");
        path.push(shard);
        path.push(rest);
        path
    }

    fn put_manifest(&self, bytes: &[u8]) -> Result<Blake3> {
        let id = Blake3::of(bytes);
        let session = self.session()?;
        session.pin([id])?;
        let path = self.manifest_path(&id);
        let packed = self.nodes().compress(bytes).at("compress", &path)?;
        // A file cut short by a power failure is replaced, one that is there in full is left alone.
        if std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.len() == packed.len() as u64) {
            return Ok(id);
        }
        let staged = session.new_file();
        let mut file = create_private(&staged)?;
        file.write_all(&packed).at("write", &staged)?;
        match std::fs::rename(&staged, &path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent).at("make the directory", parent)?;
                }
                std::fs::rename(&staged, &path).at("make", &path)?;
            }
            other => other.at("make", &path)?,
        }
        Ok(id)
    }

    /// Reads a manifest file and checks it against its name.
    pub(crate) fn get_manifest(&self, id: &Blake3) -> Result<Vec<u8>> {
        let path = self.manifest_path(id);
        let mut attempts = 0;
        let mut file = loop {
            match std::fs::File::open(&path) {
                Ok(file) => break file,
                Err(err) if err.kind() == io::ErrorKind::NotFound => {
                    // As with blobs: a collection that has it in its hands puts pinned ones back.
                    let pinned = self
                        .current_session()
                        .is_some_and(|session| session.is_pinned(id));
                    if !pinned || attempts >= 100 {
                        return Err(StoreError::MissingNode { hash: *id });
                    }
                    attempts += 1;
                    crate::cas::put_back(&path).ok();
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
                Err(err) => return Err(StoreError::io("open", path, err)),
            }
        };
        let mut packed = Vec::new();
        Read::take(&mut file, MAX_NODE_BYTES + 1)
            .read_to_end(&mut packed)
            .at("read", &path)?;
        let size = zstd::zstd_safe::get_frame_content_size(&packed)
            .map_err(|_no_frame| self.damaged(id, "it is not compressed".to_owned()))?;
        // What we write says its size.
        let size = size
            .filter(|size| *size <= MAX_NODE_BYTES)
            .and_then(|size| usize::try_from(size).ok());
        let Some(size) = size else {
            return Err(self.damaged(id, "it is larger than a manifest can be".to_owned()));
        };
        let bytes = self
            .nodes()
            .decompress(&packed, size)
            .map_err(|err| self.damaged(id, err.to_string()))?;
        let found = Blake3::of(&bytes);
        if found != *id {
            return Err(self.damaged(id, format!("its content has hash {found}")));
        }
        Ok(bytes)
    }

    fn damaged(&self, id: &Blake3, detail: String) -> StoreError {
        StoreError::Corrupt {
            path: self.manifest_path(id),
            detail,
        }
    }
}
