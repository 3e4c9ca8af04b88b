//! `builtin:netboot`: a directory that a machine boots from over the network: kernel, initrd, root, a script for iPXE, and one
//! EFI program that is all of it, for firmware that loads by HTTP.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::diagnostic::{Class, Diagnostic};

use super::cpio::{Archive, Content};
use super::input::{InputFile, whole_rootfs};
use super::kernel::Kernel;
use super::pe;
use super::uki::{self, STUB};
use crate::build::Build;
use crate::filesystem::{self, Acls, FileImage, Kind, Options};

/// Where the first program looks for the root.
const ROOT_IN_INITRD: &str = "rootfs.img";

/// Makes a directory to boot from.
#[derive(Clone, Copy, Debug, Default)]
pub struct NetbootBuilder;

impl Builder for NetbootBuilder {
    fn name(&self) -> &'static str {
        "builtin:netboot"
    }
    fn pool(&self) -> Pool {
        Pool::Build
    }
    fn revision(&self) -> u32 {
        3
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let attrs: NetbootAttrs = ctx.attrs_as()?;
        let out = ctx.out_path("out");
        make(ctx, &attrs, &out)
    }
}

/// What a recipe says about the directory.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct NetbootAttrs {
    /// Has the kernel, and is the root.
    pub(super) rootfs: String,
    pub(super) kernel: Option<String>,
    /// Made by `builtin:initrd`; mounts the root that comes with the kernel.
    pub(super) initrd: String,
    pub(super) filesystem: Kind,
    pub(super) stub: Option<String>,
    pub(super) cmdline: String,
    #[serde(default)]
    pub(super) os_release: BTreeMap<String, String>,
    /// Without, there is no EFI program.
    pub(super) uki: Option<String>,
    pub(super) epoch: i64,
    #[serde(default)]
    pub(super) filesystem_uuid: String,
    #[serde(default)]
    pub(super) acls: Acls,
}

/// Writes the directory.
pub(super) fn make(
    build: &dyn Build,
    attrs: &NetbootAttrs,
    out: &Path,
) -> Result<(), BuilderError> {
    uki::check_cmdline(&attrs.cmdline)?;
    let io = |what: &'static str| move |e| BuilderError::io(what, e);
    if attrs.filesystem == Kind::Ext4 {
        return Err(Diagnostic::error(
            "disk-layout",
            Class::Recipe,
            "a root that is loaded over the network cannot be ext4",
        )
        .help("choose `squashfs` or `erofs`: changes stay in memory beside it")
        .into());
    }
    let tree = whole_rootfs(build, &attrs.rootfs)?;
    let kernel = Kernel::find(&tree, attrs.kernel.as_deref())?;
    fs::create_dir(out).map_err(io("cannot make the directory"))?;
    let linux = InputFile::in_rootfs(build, &tree, &kernel.path)?.read()?;
    fs::write(out.join("vmlinuz"), &linux).map_err(io("cannot write the kernel"))?;
    let initrd = InputFile::find(build, &attrs.initrd)?.read()?;
    fs::write(out.join("initrd"), &initrd).map_err(io("cannot write the initrd"))?;
    let root_name = format!("rootfs.{}", attrs.filesystem.name());
    let image =
        FileImage::create(&out.join(&root_name)).map_err(io("cannot make the root image"))?;
    let options = Options {
        uuid: attrs
            .filesystem_uuid
            .parse()
            .map_or([0; 16], |uuid: sos_formats::uuid::Uuid| uuid.0),
        epoch: attrs.epoch,
        acls: attrs.acls,
        ..Options::default()
    };
    let root = build.rootfs(&attrs.rootfs)?;
    filesystem::write(build, attrs.filesystem, &root, &options, &image)?;
    drop(image);
    fs::write(out.join("boot.ipxe"), script(attrs, &root_name))
        .map_err(io("cannot write the script"))?;
    let Some(name) = &attrs.uki else {
        return Ok(());
    };
    let data = fs::read(out.join(&root_name)).map_err(io("cannot read the root image"))?;
    let mut archive = Archive::default();
    archive.add(
        ROOT_IN_INITRD,
        Content::File {
            data,
            executable: false,
        },
    );
    let mut initrds = initrd;
    initrds.resize(initrds.len().next_multiple_of(4), 0);
    initrds.extend(archive.encode(attrs.epoch));
    drop(archive);
    let stub = match &attrs.stub {
        Some(path) => InputFile::find(build, path)?,
        None => InputFile::in_rootfs(build, &tree, STUB)?,
    };
    let release = uki::os_release(build, &tree, &attrs.os_release)?;
    let cmdline = cmdline(attrs);
    let parts = uki::Parts {
        release: &release,
        cmdline: &cmdline,
        version: &kernel.version,
        initrd: &initrds,
        linux: &linux,
    };
    let bytes = pe::append(&stub.read()?, &parts.sections())?;
    fs::write(out.join(format!("{name}.efi")), bytes).map_err(io("cannot write the kernel image"))
}

fn cmdline(attrs: &NetbootAttrs) -> String {
    format!("rootfstype={} {}", attrs.filesystem.name(), attrs.cmdline)
        .trim_end()
        .to_owned()
}

/// Names are relative: to where the script came from.
fn script(attrs: &NetbootAttrs, root: &str) -> String {
    // `initrd=` is for firmware of the EFI kind, which is told the names once more. iPXE makes an archive of what has a name
    // of its own in the initrd.
    format!(
        "#!ipxe\nkernel vmlinuz initrd=initrd initrd={root} {}\ninitrd initrd\ninitrd {root} /{ROOT_IN_INITRD} mode=644\nboot\n",
        cmdline(attrs)
    )
}

#[cfg(test)]
mod tests {
    use sos_formats::manifest::Meta;
    use sos_store::rootfs::RootTree;

    use super::super::assemble::{self, Format, PartitionAttrs};
    use super::super::tests::disk;
    use super::*;
    use crate::build::fake::Fake;

    /// The word of the recipe comes to the squashfs of a directory, and to that of a partition.
    #[test]
    fn access_control_lists_are_refused_or_dropped_as_the_recipe_says() {
        let mut fake = Fake::new();
        let meta = |mode| Meta {
            mode,
            ..Meta::default()
        };
        let mut tree = RootTree::empty_in(&fake.store, meta(0o755));
        tree.mkdir_p("boot", &meta(0o755)).expect("a directory");
        tree.write_file("boot/vmlinuz-6.1.0", "kernel", meta(0o644))
            .expect("a file");
        let mut journal = meta(0o755);
        // The owner, the group, its mask and all others, as programs see them.
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (tag, perm) in [(1_u16, 7_u16), (4, 5), (16, 5), (32, 5)] {
            list.extend([tag.to_le_bytes(), perm.to_le_bytes()].concat());
            list.extend(u32::MAX.to_le_bytes());
        }
        journal
            .xattrs
            .insert(b"system.posix_acl_access".to_vec(), list);
        tree.write_file("journal", "x", journal).expect("a file");
        let id = tree.finish(&fake.store).expect("a root");
        fake.roots.insert("root".to_owned(), id);
        let initrd = fake.path("initrd");
        fs::write(&initrd, "initrd").expect("written");
        fake.trees.insert("initrd".to_owned(), initrd);
        let refused = |made: Result<(), BuilderError>| {
            let Err(BuilderError::Diagnostic(problem)) = made else {
                panic!("{made:?}");
            };
            assert_eq!(problem.code, "filesystem-unfit");
            assert!(problem.notes[0].contains("`/journal`"), "{problem:?}");
        };
        for acls in [Acls::Refuse, Acls::Drop] {
            let attrs = NetbootAttrs {
                rootfs: "root".to_owned(),
                kernel: None,
                initrd: "initrd".to_owned(),
                filesystem: Kind::Squashfs,
                stub: None,
                cmdline: String::new(),
                os_release: BTreeMap::new(),
                uki: None,
                epoch: 1_700_000_000,
                filesystem_uuid: String::new(),
                acls,
            };
            let partition = PartitionAttrs {
                name: "root".to_owned(),
                kind: "linux".to_owned(),
                uuid: "0123abcd-0000-4000-8000-000000000001".to_owned(),
                filesystem: Some(Format::Root(Kind::Squashfs)),
                filesystem_uuid: "0123abcd-0000-4000-8000-000000000002".to_owned(),
                rootfs: Some("root".to_owned()),
                acls,
                ..PartitionAttrs::default()
            };
            let made = make(&fake, &attrs, &fake.path(&format!("{acls:?}")));
            let image = fake.path(&format!("{acls:?}.raw"));
            let on_disk = assemble::make(&fake, &disk(vec![partition]), &image).map(|_| ());
            match acls {
                Acls::Refuse => {
                    refused(made);
                    refused(on_disk);
                }
                Acls::Drop => {
                    made.expect("a directory");
                    on_disk.expect("a disk");
                }
            }
        }
        assert!(fake.logged("warning[filesystem-acl]"));
    }
}
