//! Kernel modules: which ones a module needs, in the order in which they are loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use sos_engine::BuilderError;
use sos_formats::Bytes;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_store::rootfs::RootTree;

use super::input::InputFile;
use super::kernel::Kernel;
use crate::build::Build;

/// The largest module after decompression.
const MAX_MODULE: u64 = 256 << 20;

/// What `depmod` wrote about the modules of a kernel.
#[derive(Debug, Default)]
pub(super) struct Modules {
    /// The directory they are in.
    dir: String,
    /// Path and needs, by name with `_`.
    known: BTreeMap<String, (String, Vec<String>)>,
    /// Names that are built into the kernel.
    builtin: BTreeSet<String>,
    /// What should be loaded before, by name.
    soft: BTreeMap<String, Vec<String>>,
    /// Other names, without patterns.
    aliases: BTreeMap<String, Vec<String>>,
}

impl Modules {
    /// Reads the tables of a kernel; of one without modules they are empty.
    pub(super) fn read(
        build: &dyn Build,
        tree: &RootTree,
        kernel: &Kernel,
    ) -> Result<Self, BuilderError> {
        let dir = kernel.modules_dir();
        let table = |name: &str| -> Result<String, BuilderError> {
            let file = InputFile::look_up(build, tree, &format!("{dir}/{name}"))?;
            let bytes = file
                .map(|file| file.read())
                .transpose()?
                .unwrap_or_default();
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let mut modules = Self::parse(
            &table("modules.dep")?,
            &table("modules.builtin")?,
            &table("modules.softdep")?,
            &table("modules.alias")?,
        );
        modules.dir = dir;
        Ok(modules)
    }

    fn parse(dep: &str, builtin: &str, softdep: &str, alias: &str) -> Self {
        let mut modules = Self::default();
        for line in dep.lines() {
            let Some((path, needs)) = line.split_once(':') else {
                continue;
            };
            let needs = needs.split_whitespace().map(name_of).collect();
            modules
                .known
                .insert(name_of(path), (path.to_owned(), needs));
        }
        modules.builtin = builtin.lines().map(name_of).collect();
        for line in softdep.lines() {
            let mut words = line.split_whitespace().skip(1);
            let Some(name) = words.next() else { continue };
            let before = words
                .skip_while(|word| *word != "pre:")
                .skip(1)
                .take_while(|word| *word != "post:");
            let list = modules.soft.entry(plain(name)).or_default();
            list.extend(before.map(plain));
        }
        for line in alias.lines() {
            let mut words = line.split_whitespace().skip(1);
            if let (Some(other), Some(name)) = (words.next(), words.next())
                && !other.contains(['*', '?', '[', ':'])
            {
                modules
                    .aliases
                    .entry(plain(other))
                    .or_default()
                    .push(plain(name));
            }
        }
        modules
    }

    /// The paths of the modules that are needed, those that others need first.
    ///
    /// # Errors
    /// When one of the `required` is neither a module nor built in; of the `useful` ones those that exist are taken.
    pub(super) fn closure(
        &self,
        required: &[String],
        useful: &[&str],
    ) -> Result<Vec<String>, BuilderError> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for name in required {
            let wanted = plain(name);
            if !self.known.contains_key(&wanted) && !self.builtin.contains(&wanted) {
                let message = format!("the kernel has no module `{name}`");
                let names = self.known.keys().chain(&self.builtin);
                return Err(Diagnostic::error("disk-no-module", Class::Recipe, message)
                    .suggest(&wanted, names.map(String::as_str))
                    .into());
            }
        }
        let wanted = required
            .iter()
            .map(String::as_str)
            .chain(useful.iter().copied());
        for name in wanted {
            self.visit(&plain(name), &mut seen, &mut order);
        }
        Ok(order)
    }

    /// Adds a module behind all that it needs. The stack is explicit: a table may be of any depth.
    fn visit(&self, name: &str, seen: &mut BTreeSet<String>, order: &mut Vec<String>) {
        let mut stack = vec![(name.to_owned(), false)];
        while let Some((name, is_ready)) = stack.pop() {
            let Some((path, needs)) = self.known.get(&name) else {
                // Built in, or only a useful one; or another name for several.
                if !self.builtin.contains(&name) && seen.insert(name.clone()) {
                    let others = self.aliases.get(&name).into_iter().flatten();
                    stack.extend(others.map(|other| (other.clone(), false)));
                }
                continue;
            };
            if is_ready {
                order.push(path.clone());
            } else if seen.insert(name.clone()) {
                stack.push((name.clone(), true));
                let soft = self.soft.get(&name).into_iter().flatten();
                // What comes off the stack first is loaded first: of the needs the last one.
                stack.extend(soft.map(|before| (before.clone(), false)));
                stack.extend(needs.iter().map(|need| (need.clone(), false)));
            }
        }
    }

    /// Reads a module, decompressed.
    pub(super) fn load(
        &self,
        build: &dyn Build,
        tree: &RootTree,
        path: &str,
    ) -> Result<Bytes, BuilderError> {
        let full = format!("{}/{path}", self.dir);
        let bytes = InputFile::in_rootfs(build, tree, &full)?.read()?;
        let mut plain = Vec::new();
        let mut decode = |reader: &mut dyn Read| {
            let read = reader.take(MAX_MODULE + 1).read_to_end(&mut plain);
            read.map_err(|e| BuilderError::io(format!("cannot decompress `{full}`"), e))
        };
        let size = match path.rsplit('.').next() {
            Some("xz") => decode(&mut liblzma::read::XzDecoder::new(&bytes[..]))?,
            Some("gz") => decode(&mut flate2::read::GzDecoder::new(&bytes[..]))?,
            Some("zst") => {
                let mut reader = zstd::stream::read::Decoder::new(&bytes[..])
                    .map_err(|e| BuilderError::io(format!("cannot decompress `{full}`"), e))?;
                decode(&mut reader)?
            }
            _ => return Ok(bytes),
        };
        if size as u64 > MAX_MODULE {
            return Err(BuilderError::failed(format!(
                "`{full}` is larger than {MAX_MODULE} bytes when decompressed"
            )));
        }
        Ok(plain)
    }
}

/// The file name in an initrd: without directories and without a suffix of compression.
pub(super) fn file_name(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    let end = name.find(".ko").map_or(name.len(), |at| at + 3);
    name[..end].to_owned()
}

fn name_of(path: &str) -> String {
    let name = file_name(path);
    plain(name.strip_suffix(".ko").unwrap_or(&name))
}

fn plain(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules() -> Modules {
        Modules::parse(
            "kernel/a/virtio_blk.ko: kernel/a/virtio.ko kernel/a/virtio_ring.ko\n\
             kernel/a/virtio.ko: kernel/a/virtio_ring.ko\n\
             kernel/a/virtio_ring.ko:\n\
             kernel/fs/ext4.ko.xz: kernel/fs/jbd2.ko.xz kernel/fs/mbcache.ko.xz\n\
             kernel/fs/jbd2.ko.xz:\nkernel/fs/mbcache.ko.xz:\n\
             kernel/crypto/crc32c_generic.ko.xz:\n\
             kernel/loop/x-y.ko: kernel/loop/z.ko\nkernel/loop/z.ko: kernel/loop/x-y.ko\n",
            "kernel/drivers/nvme/nvme.ko\n",
            "# Soft dependencies\nsoftdep ext4 pre: crc32c post: never\n",
            "alias crc32c crc32c_generic\nalias pci:v* virtio\n",
        )
    }

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let found = modules().closure(&["virtio-blk".to_owned()], &["ext4", "nvme", "missing"]);
        let names: Vec<String> = found
            .expect("modules")
            .iter()
            .map(|p| file_name(p))
            .collect();
        let at = |name: &str| names.iter().position(|n| n == name).expect(name);
        assert!(at("virtio_ring.ko") < at("virtio.ko") && at("virtio.ko") < at("virtio_blk.ko"));
        assert!(at("crc32c_generic.ko") < at("ext4.ko") && at("jbd2.ko") < at("ext4.ko"));
        assert_eq!(names.len(), 7, "{names:?}");
    }

    #[test]
    fn circles_end() {
        let found = modules()
            .closure(&["x_y".to_owned()], &[])
            .expect("modules");
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn what_is_built_in_needs_nothing_and_what_is_unknown_is_told() {
        let modules = modules();
        assert!(
            modules
                .closure(&["nvme".to_owned()], &[])
                .expect("none")
                .is_empty()
        );
        let error = modules
            .closure(&["virtio_blq".to_owned()], &[])
            .expect_err("unknown");
        assert!(format!("{error:?}").contains("virtio_blk"), "{error:?}");
    }
}
