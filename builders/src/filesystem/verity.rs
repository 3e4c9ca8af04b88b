//! dm-verity: a tree of hashes over an image, whose top is all that has to be trusted.
//!
//! # Format
//! A superblock of 512 bytes in a block of its own, then the levels of the tree, the top first. A block has 128 hashes of 32 bytes;
//! each is SHA-256 of the salt and of a block of the level below, or of the data. The last block of a level ends with zeros.
//!
//! # Source
//! The kernel's `Documentation/admin-guide/device-mapper/verity.rst`; the superblock is cryptsetup's.

use sha2::Digest as _;
use sos_engine::BuilderError;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Sha256;

use super::data::{BLOCK, put};
use super::image::Image;
use super::parallel::each;
use crate::build::Build;

const BLOCK_BYTES: usize = 4096;
const HASH_BYTES: usize = 32;
/// Hashes of a block.
const HASHES: u64 = BLOCK / HASH_BYTES as u64;
/// The longest salt.
const MAX_SALT_BYTES: usize = 256;
/// Blocks that one thread hashes at once.
const PART_BLOCKS: u64 = 1024;

/// What a tree of hashes is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verity {
    /// The UUID in its written order.
    pub uuid: [u8; 16],
    /// At most 256 bytes, possibly none.
    pub salt: Vec<u8>,
}

/// A tree that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashed {
    /// The hash of the top: what `roothash=` says.
    pub root: Sha256,
    /// The length of superblock and tree in bytes, a multiple of 4096.
    pub len: u64,
}

impl Verity {
    /// The length of superblock and tree over an image of `data_len` bytes.
    #[must_use]
    pub fn len_over(data_len: u64) -> u64 {
        let levels = levels(data_len / BLOCK);
        (1 + levels.iter().sum::<u64>()) * BLOCK
    }

    /// Writes superblock and tree over the first `data_len` bytes of `data` into `hashes`, an image of its own.
    ///
    /// # Errors
    /// When the length is no multiple of 4096 or 0, the salt is too long, and when reading or writing fails.
    pub(crate) fn write(
        &self,
        build: &dyn Build,
        data: &dyn Image,
        data_len: u64,
        hashes: &dyn Image,
    ) -> Result<Hashed, BuilderError> {
        let refused = |message: String| -> BuilderError {
            Diagnostic::error("verity-attrs", Class::Recipe, message).into()
        };
        if data_len == 0 || !data_len.is_multiple_of(BLOCK) {
            return Err(refused(format!(
                "dm-verity protects whole blocks of {BLOCK} bytes, and this image has {data_len} bytes"
            )));
        }
        if self.salt.len() > MAX_SALT_BYTES {
            return Err(refused(format!(
                "the salt has {} bytes; at most {MAX_SALT_BYTES} are possible",
                self.salt.len()
            )));
        }
        let blocks = data_len / BLOCK;
        let len = Self::len_over(data_len);
        hashes
            .set_len(len)
            .map_err(|error| BuilderError::io("cannot write the hashes", error))?;
        put(hashes, 0, &self.superblock(blocks))?;
        let mut level = self.data_hashes(build, data, blocks)?;
        let mut end = len;
        // From the level over the data up to the top.
        for blocks in levels(blocks).into_iter().rev() {
            level.resize(level.len().next_multiple_of(BLOCK_BYTES), 0);
            end -= blocks * BLOCK;
            put(hashes, end, &level)?;
            let above = level.chunks(BLOCK_BYTES).map(|block| self.hash(block).0);
            level = above.flatten().collect();
        }
        let root = level
            .first_chunk::<HASH_BYTES>()
            .ok_or_else(|| BuilderError::failed("the tree of hashes has no top"))?;
        Ok(Hashed {
            root: Sha256(*root),
            len,
        })
    }

    /// Hashes all blocks of data, one hash after the other.
    fn data_hashes(
        &self,
        build: &dyn Build,
        data: &dyn Image,
        blocks: u64,
    ) -> Result<Vec<u8>, BuilderError> {
        let parts: Vec<u64> = (0..blocks.div_ceil(PART_BLOCKS)).collect();
        // Long stretches of nothing are common.
        let zeros = self.hash(&[0; BLOCK_BYTES]);
        let hashed = each(build, &parts, &|_| PART_BLOCKS * BLOCK, &|part, buffer| {
            let begin = part * PART_BLOCKS;
            let count = PART_BLOCKS.min(blocks - begin);
            buffer.resize(usize::try_from(count * BLOCK).unwrap_or(0), 0);
            data.read_at(begin * BLOCK, buffer)
                .map_err(|error| BuilderError::io("cannot read what is to be hashed", error))?;
            let mut out = Vec::with_capacity(buffer.len() / BLOCK_BYTES * HASH_BYTES);
            for block in buffer.chunks(BLOCK_BYTES) {
                let is_zero = *block == [0; BLOCK_BYTES];
                let hash = if is_zero { zeros } else { self.hash(block) };
                out.extend_from_slice(&hash.0);
            }
            Ok(out)
        })?;
        Ok(hashed.concat())
    }

    fn hash(&self, block: &[u8]) -> Sha256 {
        let hasher = sha2::Sha256::new_with_prefix(&self.salt);
        Sha256(hasher.chain_update(block).finalize().into())
    }

    fn superblock(&self, blocks: u64) -> Vec<u8> {
        let mut out = vec![0; BLOCK_BYTES];
        let salt_len = u16::try_from(self.salt.len()).unwrap_or(u16::MAX);
        let fields: [(usize, &[u8]); 10] = [
            (0, b"verity\0\0"),
            // The version of this superblock, and of the hashes: the salt comes first.
            (8, &[1, 0, 0, 0]),
            (12, &[1, 0, 0, 0]),
            (16, &self.uuid),
            (32, b"sha256"),
            (64, &[0, 0x10, 0, 0]),
            (68, &[0, 0x10, 0, 0]),
            (72, &blocks.to_le_bytes()),
            (80, &salt_len.to_le_bytes()),
            (88, &self.salt),
        ];
        for (at, bytes) in fields {
            out[at..at + bytes.len()].copy_from_slice(bytes);
        }
        out
    }
}

/// Blocks of each level over so many blocks of data, the top first. Over one block there is none: its hash is the root.
fn levels(blocks: u64) -> Vec<u64> {
    let mut levels = Vec::new();
    let mut below = blocks;
    while below > 1 {
        below = below.div_ceil(HASHES);
        levels.insert(0, below);
    }
    levels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::fake::Fake;
    use crate::filesystem::image::FileImage;
    use crate::peers::{peer, said};

    #[test]
    fn the_same_bytes_as_veritysetup() {
        for (blocks, salt) in [
            (1_u64, vec![]),
            (2, vec![0xab; 32]),
            (128, vec![1; 32]),
            (129, vec![2; 256]),
            (128 * 128 + 1, vec![3; 16]),
        ] {
            let fake = Fake::new();
            let (data, mine, theirs) = (fake.path("data"), fake.path("mine"), fake.path("theirs"));
            let image = FileImage::create(&data).expect("an image");
            image.set_len(blocks * BLOCK).expect("a length");
            for block in (0..blocks).step_by(7) {
                image
                    .write_at(block * BLOCK, &block.to_be_bytes())
                    .expect("bytes");
            }
            let uuid = *b"0123456789abcdef";
            let hex: String = salt.iter().map(|byte| format!("{byte:02x}")).collect();
            let verity = Verity { uuid, salt };
            let hashes = FileImage::create(&mine).expect("an image");
            let made = verity
                .write(&fake, &image, blocks * BLOCK, &hashes)
                .expect("a tree");
            let args = [
                "format".to_owned(),
                data.display().to_string(),
                theirs.display().to_string(),
                format!("--salt={}", if hex.is_empty() { "-" } else { &hex }),
                "--uuid=30313233-3435-3637-3839-616263646566".to_owned(),
            ];
            let Some(output) = peer("veritysetup", &args) else {
                return;
            };
            assert!(output.status.success(), "{}", said(&output));
            let shown = said(&output);
            assert!(shown.contains(&made.root.to_string()), "{shown}");
            let (mine_bytes, their_bytes) = (std::fs::read(&mine), std::fs::read(&theirs));
            assert!(
                mine_bytes.expect("ours") == their_bytes.expect("theirs"),
                "{blocks} blocks"
            );
            let args = [
                "verify".to_owned(),
                data.display().to_string(),
                mine.display().to_string(),
                made.root.to_string(),
            ];
            let output = peer("veritysetup", &args).expect("it is there");
            assert!(output.status.success(), "{}", said(&output));
        }
    }

    #[test]
    fn only_whole_blocks() {
        let fake = Fake::new();
        let image = FileImage::create(&fake.path("data")).expect("an image");
        for len in [0, 100] {
            let error = Verity::default().write(&fake, &image, len, &image);
            assert!(
                error
                    .expect_err("refused")
                    .to_string()
                    .contains("whole blocks")
            );
        }
    }
}
