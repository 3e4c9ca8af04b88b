//! Which kernel a root filesystem has, and what belongs to it.

use std::cmp::Ordering;

use sos_engine::BuilderError;
use sos_formats::deb;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_store::rootfs::RootTree;

/// A kernel in a root filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kernel {
    /// As `uname -r` prints it.
    pub(super) version: String,
    /// Where it is, with `/` at the front.
    pub(super) path: String,
}

impl Kernel {
    /// The newest kernel, where Debian and where image-based systems have theirs; or the one with the version that is given.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn find(tree: &RootTree, wanted: Option<&str>) -> Result<Self, BuilderError> {
        let mut found: Vec<Self> = Vec::new();
        for name in names(tree, "/boot") {
            if let Some(version) = name.strip_prefix("vmlinuz-") {
                found.push(Self {
                    version: version.to_owned(),
                    path: format!("/boot/{name}"),
                });
            }
        }
        for version in names(tree, MODULES) {
            let path = format!("{MODULES}/{version}/vmlinuz");
            if found.iter().all(|k| k.version != version) && tree.get(&path)?.is_some() {
                found.push(Self { version, path });
            }
        }
        found.sort_by(|a, b| compare(&a.version, &b.version));
        if let Some(wanted) = wanted {
            let Some(at) = found.iter().position(|k| k.version == wanted) else {
                let known = found.iter().map(|k| k.version.as_str());
                let message = format!("the root filesystem has no kernel `{wanted}`");
                return Err(Diagnostic::error("disk-no-kernel", Class::Recipe, message)
                    .suggest(wanted, known)
                    .into());
            };
            return Ok(found.swap_remove(at));
        }
        found.pop().ok_or_else(|| {
            Diagnostic::error(
                "disk-no-kernel",
                Class::Recipe,
                "the root filesystem has no kernel in `/boot` or `/usr/lib/modules`, so nothing can boot it",
            )
            .help("add `linux-image-amd64`, or `linux-image-cloud-amd64` for virtual machines, to `include`")
            .into()
        })
    }

    /// The directory of its modules.
    pub(super) fn modules_dir(&self) -> String {
        format!("{MODULES}/{}", self.version)
    }

    /// The initrd that the distribution made for it.
    pub(super) fn initrd(&self) -> [String; 2] {
        [
            format!("/boot/initrd.img-{}", self.version),
            format!("{}/initramfs.img", self.modules_dir()),
        ]
    }
}

const MODULES: &str = "/usr/lib/modules";

/// The names in a directory; none when it is not there.
fn names(tree: &RootTree, dir: &str) -> Vec<String> {
    let listed = tree
        .resolve(dir)
        .and_then(|dir| tree.list(dir))
        .unwrap_or_default();
    listed
        .into_iter()
        .filter_map(|name| String::from_utf8(name).ok())
        .collect()
}

/// Versions of kernels are near enough to those of packages.
fn compare(a: &str, b: &str) -> Ordering {
    deb::version::compare(a, b).then_with(|| a.cmp(b))
}
