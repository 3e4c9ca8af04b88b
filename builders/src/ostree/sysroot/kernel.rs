//! What the loader starts of a system: its kernel, and the entry that says which system it is for.

use std::collections::BTreeMap;

use sos_engine::BuilderError;
use sos_formats::hash::{HashAlgo, Hasher, Sha256};
use sos_store::rootfs::RootTree;

use super::{Sysroot, dir_meta, wrong};

impl Sysroot<'_> {
    /// Puts kernel and initramfs where the loader finds them, and writes the entry.
    pub(super) fn kernel(
        &mut self,
        number: usize,
        tree: &RootTree,
        commit: &Sha256,
        serials: &mut BTreeMap<Sha256, u32>,
    ) -> Result<(), BuilderError> {
        let os = &self.attrs.os;
        let versions = tree.list("usr/lib/modules").unwrap_or_default();
        let versions: Vec<String> = versions
            .into_iter()
            .filter_map(|v| String::from_utf8(v).ok())
            .collect();
        let mut with_kernel = Vec::new();
        for version in &versions {
            if tree
                .get(format!("usr/lib/modules/{version}/vmlinuz"))?
                .is_some()
            {
                with_kernel.push(version);
            }
        }
        let [version] = with_kernel[..] else {
            return Err(wrong(&format!(
                "a system that starts has one kernel, `/usr/lib/modules/<version>/vmlinuz`, and this one has {}",
                with_kernel.len()
            )));
        };
        let dir = format!("usr/lib/modules/{version}");
        let kernel = tree.read_file(format!("{dir}/vmlinuz"))?;
        let inside = format!("{dir}/initramfs.img");
        let initramfs = match (&self.attrs.initrd, tree.get(&inside)?) {
            (_, Some(_)) => tree.read_file(&inside)?,
            (Some(path), None) => {
                let place = self.build.tree(path)?;
                std::fs::read(&place)
                    .map_err(|e| BuilderError::io(format!("cannot read `{path}`"), e))?
            }
            (None, None) => {
                return Err(wrong(&format!(
                    "there is no `/{inside}` and no `initrd`, so nothing would find the system"
                )));
            }
        };
        let mut hasher = Hasher::new(HashAlgo::Sha256);
        hasher.update(&kernel);
        hasher.update(&initramfs);
        let sum = hasher
            .finish()
            .as_sha256()
            .ok_or_else(|| BuilderError::failed("no SHA-256"))?;
        let boot = format!("ostree/{os}-{sum}");
        let serial = *serials
            .entry(sum)
            .and_modify(|serial| *serial += 1)
            .or_insert(0);
        if serial == 0 {
            self.tree.mkdir_p(format!("boot/{boot}"), &dir_meta())?;
            self.bytes(&format!("boot/{boot}/vmlinuz-{version}"), &kernel)?;
            self.bytes(&format!("boot/{boot}/initramfs-{version}.img"), &initramfs)?;
        }
        let place = format!("ostree/boot.1.1/{os}/{sum}");
        self.tree.mkdir_p(&place, &dir_meta())?;
        self.link(
            &format!("{place}/{serial}"),
            &format!("../../../deploy/{os}/deploy/{commit}.0"),
        )?;
        let order = self.attrs.deployments.len() - number;
        let entry = format!(
            "title {os} {order} (ostree:{number})\nversion {order}\noptions {} ostree=/ostree/boot.1/{os}/{sum}/{serial}\n\
             linux /{boot}/vmlinuz-{version}\ninitrd /{boot}/initramfs-{version}.img\n",
            self.attrs.options
        );
        self.tree.mkdir_p("boot/loader.1/entries", &dir_meta())?;
        self.text(
            &format!("boot/loader.1/entries/ostree-{order}-{os}.conf"),
            &entry,
        )
    }
}
