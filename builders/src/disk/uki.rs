//! `builtin:uki`: a unified kernel image: one EFI program that is kernel, initrd and command line.

use std::collections::BTreeMap;

use serde::Deserialize;
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::Bytes;
use sos_formats::diagnostic::{Class, Diagnostic};

use super::input::{InputFile, whole_rootfs};
use super::kernel::Kernel;
use super::pe::{self, Section};
use crate::build::Build;

/// Where Debian and others have the stub.
pub(super) const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
/// Longest command line that kernels take.
const MAX_CMDLINE: usize = 2047;

/// Makes a unified kernel image.
#[derive(Clone, Copy, Debug, Default)]
pub struct UkiBuilder;

impl Builder for UkiBuilder {
    fn name(&self) -> &'static str {
        "builtin:uki"
    }
    fn pool(&self) -> Pool {
        Pool::Build
    }
    fn revision(&self) -> u32 {
        2
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let attrs: UkiAttrs = ctx.attrs_as()?;
        let bytes = make(ctx, &attrs)?;
        std::fs::write(ctx.out_path("out"), bytes)
            .map_err(|e| BuilderError::io("cannot write the kernel image", e))
    }
}

/// What a recipe says about an image.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct UkiAttrs {
    /// Has the kernel, and the stub unless that is given.
    pub(super) rootfs: String,
    /// The version of the kernel; the newest one when there are several.
    pub(super) kernel: Option<String>,
    pub(super) stub: Option<String>,
    /// Initrds in order; `distribution` is the one in the root filesystem.
    pub(super) initrds: Vec<String>,
    pub(super) cmdline: String,
    /// A file with the hash that protects the root; it becomes part of the command line.
    pub(super) roothash: Option<String>,
    /// Replaces what the root filesystem says about itself.
    pub(super) os_release: BTreeMap<String, String>,
}

/// What a kernel image is put together of.
pub(super) struct Parts<'a> {
    pub(super) release: &'a str,
    pub(super) cmdline: &'a str,
    pub(super) version: &'a str,
    /// Nothing, where there is none.
    pub(super) initrd: &'a [u8],
    pub(super) linux: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Gives the sections that the stub looks for.
    pub(super) fn sections(&self) -> Vec<Section<'a>> {
        let all = [
            (".osrel", self.release.as_bytes()),
            (".cmdline", self.cmdline.as_bytes()),
            (".uname", self.version.as_bytes()),
            (".initrd", self.initrd),
            // Last, so that the kernel may unpack itself behind its own end.
            (".linux", self.linux),
        ];
        let is_there = |(name, data): &(&str, &[u8])| *name != ".initrd" || !data.is_empty();
        let given = all.into_iter().filter(is_there);
        given.map(|(name, data)| Section { name, data }).collect()
    }
}

/// Makes the bytes of an image.
pub(super) fn make(build: &dyn Build, attrs: &UkiAttrs) -> Result<Bytes, BuilderError> {
    let mut cmdline = attrs.cmdline.clone();
    if let Some(path) = &attrs.roothash {
        cmdline.push_str(&format!(" roothash={}", root_hash(build, path)?));
    }
    check_cmdline(&cmdline)?;
    let tree = whole_rootfs(build, &attrs.rootfs)?;
    let kernel = Kernel::find(&tree, attrs.kernel.as_deref())?;
    let stub = match &attrs.stub {
        Some(path) => InputFile::find(build, path)?,
        None => InputFile::in_rootfs(build, &tree, STUB)?,
    };
    let linux = InputFile::in_rootfs(build, &tree, &kernel.path)?.read()?;
    let release = os_release(build, &tree, &attrs.os_release)?;
    let initrd = initrds(build, &tree, &kernel, &attrs.initrds)?;
    let parts = Parts {
        release: &release,
        cmdline: &cmdline,
        version: &kernel.version,
        initrd: &initrd,
        linux: &linux,
    };
    let sections = parts.sections();
    build.log(&format!(
        "kernel {}, {} bytes of initrd",
        kernel.version,
        initrd.len()
    ));
    pe::append(&stub.read()?, &sections)
}

/// The hash in a file that `builtin:verity` has written.
fn root_hash(build: &dyn Build, path: &str) -> Result<String, BuilderError> {
    let bytes = InputFile::find(build, path)?.read()?;
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    match !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(text),
        false => Err(Diagnostic::error(
            "disk-cmdline",
            Class::Recipe,
            format!("`{path}` is no hash of a root"),
        )
        .help("`sos.verity` writes one, as `roothash`")
        .into()),
    }
}

/// Reads initrds, one behind the other, each padded as the kernel wants it.
pub(super) fn initrds(
    build: &dyn Build,
    tree: &sos_store::rootfs::RootTree,
    kernel: &Kernel,
    wanted: &[String],
) -> Result<Bytes, BuilderError> {
    let mut all = Vec::new();
    for one in wanted {
        let file = if one == "distribution" {
            let mut found = None;
            for path in kernel.initrd() {
                found = found.or(InputFile::look_up(build, tree, &path)?);
            }
            found.ok_or_else(|| {
                let message = format!("the root filesystem has no initrd for the kernel {}", kernel.version);
                Diagnostic::error("disk-no-initrd", Class::Recipe, message)
                    .note(format!("looked for {}", kernel.initrd().join(" and ")))
                    .help("add `initramfs-tools` or `dracut` to `include`, or let sos make it: `initrd = \"own\"`")
            })?
        } else {
            InputFile::find(build, one)?
        };
        all.extend(file.read()?);
        all.resize(all.len().next_multiple_of(4), 0);
    }
    Ok(all)
}

/// What the root filesystem says about itself, with some fields replaced.
pub(super) fn os_release(
    build: &dyn Build,
    tree: &sos_store::rootfs::RootTree,
    replaced: &BTreeMap<String, String>,
) -> Result<String, BuilderError> {
    let mut found = InputFile::look_up(build, tree, "/usr/lib/os-release")?;
    if found.is_none() {
        found = InputFile::look_up(build, tree, "/etc/os-release")?;
    }
    let bytes = found
        .map(|file| file.read())
        .transpose()?
        .unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let kept = text.lines().filter(|line| {
        let name = line.split('=').next().unwrap_or_default();
        !line.is_empty() && !replaced.contains_key(name)
    });
    let mut out: String = kept.map(|line| format!("{line}\n")).collect();
    for (name, value) in replaced {
        let quoted = value.replace(['"', '\\', '`', '$', '\n'], "_");
        out.push_str(&format!("{name}=\"{quoted}\"\n"));
    }
    Ok(out)
}

/// Refuses what no kernel would take.
pub(super) fn check_cmdline(cmdline: &str) -> Result<(), BuilderError> {
    let problem = if cmdline.len() > MAX_CMDLINE {
        format!(
            "has {} characters; kernels take {MAX_CMDLINE}",
            cmdline.len()
        )
    } else if cmdline.chars().any(char::is_control) {
        "has control characters".to_owned()
    } else {
        return Ok(());
    };
    Err(Diagnostic::error(
        "disk-cmdline",
        Class::Recipe,
        format!("the kernel's command line {problem}"),
    )
    .into())
}
