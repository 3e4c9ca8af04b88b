//! `builtin:initrd`: what the kernel unpacks before it has a root: modules, and a program that finds the root.

use serde::Deserialize;
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::Bytes;
use sos_formats::diagnostic::{Class, Diagnostic};

use super::cpio::{Archive, Content};
use super::elf::{self, Needs};
use super::input::{InputFile, rootfs_of, whole_rootfs};
use super::kernel::Kernel;
use super::modules::{Modules, file_name};
use crate::build::Build;

/// What the first program runs, all of it in one static program.
const APPLETS: &[&str] = &[
    "cat",
    "dd",
    "echo",
    "findfs",
    "grep",
    "insmod",
    "mkdir",
    "mount",
    "od",
    "readlink",
    "sh",
    "sleep",
    "switch_root",
    "tr",
];
/// What disks of real and virtual machines hang on; a kernel need not have all of it.
const BUSES: &[&str] = &[
    "nvme",
    "virtio_pci",
    "virtio_blk",
    "virtio_scsi",
    "sd_mod",
    "ahci",
    "ata_piix",
    "usb_storage",
    "xhci_pci",
];
/// Where Debian has it.
const BUSYBOX: &str = "/bin/busybox";
const INIT: &str = include_str!("init.sh");
/// High enough; a level that takes minutes saves little.
const ZSTD_LEVEL: i32 = 9;

/// Makes an initrd.
#[derive(Clone, Copy, Debug, Default)]
pub struct InitrdBuilder;

impl Builder for InitrdBuilder {
    fn name(&self) -> &'static str {
        "builtin:initrd"
    }
    fn pool(&self) -> Pool {
        Pool::Build
    }
    fn revision(&self) -> u32 {
        1
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let attrs: InitrdAttrs = ctx.attrs_as()?;
        let bytes = make(ctx, &attrs)?;
        std::fs::write(ctx.out_path("out"), bytes)
            .map_err(|e| BuilderError::io("cannot write the initrd", e))
    }
}

/// What a recipe says about an initrd.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct InitrdAttrs {
    /// Has the kernel and its modules.
    pub(super) rootfs: String,
    /// The version of the kernel; the newest one when there are several.
    pub(super) kernel: Option<String>,
    /// Modules that must be there.
    pub(super) modules: Vec<String>,
    /// The file systems that the root may have.
    pub(super) filesystems: Vec<String>,
    /// Modules that are taken if the kernel has them.
    pub(super) useful: Vec<String>,
    /// Programs of the root filesystem, which come with their libraries.
    pub(super) programs: Vec<String>,
    /// A static busybox; that of the root filesystem when it is not given.
    pub(super) busybox: Option<String>,
    /// Runs in place of the script of this builder.
    pub(super) init: Option<String>,
    pub(super) compression: Compression,
    pub(super) epoch: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Compression {
    #[default]
    Zstd,
    None,
}

/// Makes the bytes of an initrd.
pub(super) fn make(build: &dyn Build, attrs: &InitrdAttrs) -> Result<Bytes, BuilderError> {
    let tree = whole_rootfs(build, &attrs.rootfs)?;
    let kernel = Kernel::find(&tree, attrs.kernel.as_deref())?;
    let modules = Modules::read(build, &tree, &kernel)?;
    let useful: Vec<&str> = attrs
        .filesystems
        .iter()
        .chain(&attrs.useful)
        .map(String::as_str)
        .chain(BUSES.iter().copied())
        .collect();
    let needed = modules.closure(&attrs.modules, &useful)?;
    let mut archive = Archive::default();
    let executable = |data| Content::File {
        data,
        executable: true,
    };
    let busybox = match &attrs.busybox {
        Some(path) => match rootfs_of(build, path) {
            // A whole root filesystem was named: the program in it is meant.
            Some((_, "")) => InputFile::find(build, &format!("{path}{BUSYBOX}"))?,
            _ => InputFile::find(build, path)?,
        },
        None => InputFile::in_rootfs(build, &tree, BUSYBOX)?,
    };
    archive.add("bin/busybox", executable(static_program(busybox.read()?)?));
    for applet in APPLETS {
        archive.add(
            &format!("bin/{applet}"),
            Content::Link("busybox".to_owned()),
        );
    }
    for program in &attrs.programs {
        let name = program.rsplit('/').next().unwrap_or(program);
        for (path, data) in elf::closure(build, &tree, program)? {
            let place = match path == *program {
                true => format!("bin/{name}"),
                false => path.trim_start_matches('/').to_owned(),
            };
            archive.add(&place, executable(data));
        }
    }
    let init = match &attrs.init {
        Some(path) => InputFile::find(build, path)?.read()?,
        None => INIT.as_bytes().to_vec(),
    };
    archive.add("init", executable(init));
    for dir in ["dev", "proc", "root", "sys", "modules"] {
        archive.add(dir, Content::Dir);
    }
    archive.add("dev/console", Content::CharDev { major: 5, minor: 1 });
    let mut order = String::new();
    for path in &needed {
        let name = file_name(path);
        order.push_str(&name);
        order.push('\n');
        let data = modules.load(build, &tree, path)?;
        archive.add(
            &format!("modules/{name}"),
            Content::File {
                data,
                executable: false,
            },
        );
    }
    let data = order.into_bytes();
    archive.add(
        "modules/order",
        Content::File {
            data,
            executable: false,
        },
    );
    build.log(&format!(
        "kernel {}: {} modules",
        kernel.version,
        needed.len()
    ));
    pack(&archive.encode(attrs.epoch), attrs.compression)
}

/// Compresses an archive; the result is padded so that another one may follow.
pub(super) fn pack(archive: &[u8], compression: Compression) -> Result<Bytes, BuilderError> {
    let mut bytes = match compression {
        Compression::None => archive.to_vec(),
        Compression::Zstd => zstd::bulk::compress(archive, ZSTD_LEVEL)
            .map_err(|e| BuilderError::io("cannot compress the initrd", e))?,
    };
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Ok(bytes)
}

/// Refuses a program that would look for a loader: there is no library in an initrd.
fn static_program(bytes: Bytes) -> Result<Bytes, BuilderError> {
    let wrong = match Needs::of(&bytes) {
        Some(needs) => needs.loader.map(|_| "it needs shared libraries"),
        None => Some("it is no program for 64 bits"),
    };
    match wrong {
        None => Ok(bytes),
        Some(why) => Err(Diagnostic::error(
            "disk-busybox",
            Class::Recipe,
            format!("the `busybox` of the initrd cannot be used: {why}"),
        )
        .help("Debian has a static one in the package `busybox-static`")
        .into()),
    }
}
