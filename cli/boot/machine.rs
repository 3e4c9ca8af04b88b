//! The command line of QEMU for an image.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::payload;

use crate::failure::Failure;

/// Where distributions have the firmware: code and empty variables.
const OVMF: &[(&str, &str)] = &[
    (
        "/usr/share/OVMF/OVMF_CODE_4M.fd",
        "/usr/share/OVMF/OVMF_VARS_4M.fd",
    ),
    (
        "/usr/share/OVMF/OVMF_CODE.fd",
        "/usr/share/OVMF/OVMF_VARS.fd",
    ),
    (
        "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
        "/usr/share/edk2/x64/OVMF_VARS.4m.fd",
    ),
    (
        "/usr/share/edk2/ovmf/OVMF_CODE.fd",
        "/usr/share/edk2/ovmf/OVMF_VARS.fd",
    ),
];
/// The same with Secure Boot: code that enforces it, and variables without any keys, so that a loader may enrol some.
const OVMF_SECURE: &[(&str, &str)] = &[
    (
        "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
        "/usr/share/OVMF/OVMF_VARS_4M.fd",
    ),
    (
        "/usr/share/OVMF/OVMF_CODE.secboot.fd",
        "/usr/share/OVMF/OVMF_VARS.fd",
    ),
    (
        "/usr/share/edk2/x64/OVMF_CODE.secboot.4m.fd",
        "/usr/share/edk2/x64/OVMF_VARS.4m.fd",
    ),
    (
        "/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd",
        "/usr/share/edk2/ovmf/OVMF_VARS.fd",
    ),
];
const QEMU: &str = "qemu-system-x86_64";

/// What can be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Image {
    /// A disk with a partition table, as `raw` or `qcow2`.
    Disk { file: PathBuf, format: &'static str },
    /// A disk of which a BIOS starts the first sector, without a partition table that UEFI knows.
    Sectors(PathBuf),
    /// An EFI program or a kernel.
    Kernel(PathBuf),
    /// A directory with `boot.ipxe`.
    Netboot(PathBuf),
    /// An image for an optical drive.
    Iso(PathBuf),
}

/// Whether a file begins as a payload image does, which a machine that has started from something else imports.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn is_payload(path: &Path) -> io::Result<bool> {
    if !holds_bytes(path)? {
        return Ok(false);
    }
    let mut head = Vec::new();
    File::open(path)?
        .take(payload::MAGIC.len() as u64)
        .read_to_end(&mut head)?;
    Ok(head == payload::MAGIC)
}

/// Whether something is a file or a block device: what else can be opened may keep who reads it waiting.
fn holds_bytes(path: &Path) -> io::Result<bool> {
    let kind = std::fs::metadata(path)?.file_type();
    Ok(kind.is_file() || kind.is_block_device())
}

/// A disk beside the one that is started. It is never written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Payload {
    pub(crate) file: PathBuf,
    /// As of the machine's own image.
    pub(crate) is_built: bool,
}

impl Image {
    /// Looks at the first bytes of a file, or into a directory. None when it is nothing that starts.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn find(path: &Path) -> io::Result<Option<Self>> {
        if path.is_dir() {
            let is_netboot = path.join("boot.ipxe").is_file() && path.join("vmlinuz").is_file();
            return Ok(is_netboot.then(|| Self::Netboot(path.to_owned())));
        }
        if !holds_bytes(path)? {
            return Ok(None);
        }
        let mut head = Vec::new();
        File::open(path)?.take(0x8006).read_to_end(&mut head)?;
        let at = |place: usize, bytes: &[u8]| head.get(place..place + bytes.len()) == Some(bytes);
        Ok(if at(0, b"QFI\xfb") {
            Some(Self::Disk {
                file: path.to_owned(),
                format: "qcow2",
            })
        } else if at(0x8001, b"CD001") {
            Some(Self::Iso(path.to_owned()))
        } else if at(510, &[0x55, 0xaa]) && at(512, b"EFI PART") {
            Some(Self::Disk {
                file: path.to_owned(),
                format: "raw",
            })
        } else if at(0x202, b"HdrS") {
            // A kernel as it is built, which looks like a sector to start from, too (Linux: Documentation/arch/x86/boot.rst).
            Some(Self::Kernel(path.to_owned()))
        } else if at(510, &[0x55, 0xaa]) {
            Some(Self::Sectors(path.to_owned()))
        } else if at(0, b"MZ") {
            Some(Self::Kernel(path.to_owned()))
        } else {
            None
        })
    }
}

/// What the disk of a machine hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Bus {
    /// As in most machines of today
    Nvme,
    /// As in most virtual machines
    Virtio,
    /// As on servers
    Scsi,
}

/// How a machine is made.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) image: Image,
    /// For one that starts from a bare sector: its second disk.
    pub(crate) payload: Option<Payload>,
    /// Whether it starts with UEFI firmware; else with a BIOS, or right with the kernel.
    pub(crate) uefi: bool,
    /// Whether the firmware looks at signatures, once it has keys.
    pub(crate) secure_boot: bool,
    /// Where the variables of the firmware stay; without, they are gone at the end.
    pub(crate) vars: Option<PathBuf>,
    pub(crate) bus: Bus,
    pub(crate) memory_mib: u32,
    pub(crate) cpus: u32,
    /// Whether what the guest writes stays in the image.
    pub(crate) write: bool,
    /// Whether the image is in the store, where nobody changes it; else QEMU sees to it that nobody does.
    pub(crate) is_built: bool,
    /// Whether a reset starts it again.
    pub(crate) reboot: bool,
    /// The console is that of the person, with QEMU's own keys.
    pub(crate) is_conversation: bool,
    /// For a kernel: what it is told.
    pub(crate) append: Option<String>,
    /// Further arguments of QEMU.
    pub(crate) extra: Vec<String>,
}

/// Looks for what is needed whatever is started: QEMU, and firmware where it is asked for.
///
/// # Errors
/// When it is not there.
pub(crate) fn look_for(uefi: bool, secure_boot: bool) -> Result<(), Failure> {
    if uefi {
        firmware(secure_boot)?;
    }
    let mut qemu = std::process::Command::new(QEMU);
    let told = qemu.arg("--version").stdin(Stdio::null()).output();
    match told {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(not_started(
            QEMU,
            String::from_utf8_lossy(&output.stderr).trim(),
        )),
        Err(error) => Err(not_started(QEMU, &error.to_string())),
    }
}

/// A machine whose program is not there, or does not run.
pub(super) fn not_started(program: &str, why: &str) -> Failure {
    let message = format!("`{program}` cannot be started: {why}");
    Failure::new(
        Diagnostic::error("boot-no-qemu", Class::Machine, message)
            .help("on Debian it is in the package `qemu-system-x86`"),
    )
}

/// Program and arguments. `scratch` is a directory for what the firmware writes.
///
/// # Errors
/// When there is no firmware.
pub(crate) fn command(
    machine: &Machine,
    scratch: &Path,
) -> Result<(OsString, Vec<OsString>), Failure> {
    let mut args: Vec<OsString> = Vec::new();
    let mut add = |words: &[&str]| args.extend(words.iter().map(OsString::from));
    // An unmodified kernel under a module that only looks like KVM is slower than in software.
    let (accel, cpu) = if has_real_kvm() {
        ("kvm", "host")
    } else {
        ("tcg", "qemu64")
    };
    // What starts from a bare sector talks to the BIOS: to a disk that is there without a driver, and to the text screen, which goes
    // to the serial line when there is no other. It stays in protected mode without pages, where nested machines fail.
    let is_bare = matches!(machine.image, Image::Sectors(_));
    let (board, accel, cpu) = if is_bare {
        ("pc,graphics=off,kernel-irqchip=split", "tcg", "qemu64")
    } else {
        ("q35", accel, cpu)
    };
    add(&[
        "-M",
        if machine.secure_boot {
            // The code that guards the variables runs where the system cannot see it.
            "q35,smm=on"
        } else {
            board
        },
        "-accel",
        accel,
        "-cpu",
        cpu,
        "-nodefaults",
        "-display",
        "none",
    ]);
    add(&[
        "-m",
        &machine.memory_mib.to_string(),
        "-smp",
        &machine.cpus.to_string(),
    ]);
    add(&["-device", "virtio-rng-pci"]);
    add(&[
        "-serial",
        if machine.is_conversation {
            "mon:stdio"
        } else {
            "stdio"
        },
    ]);
    if !machine.reboot {
        add(&["-no-reboot"]);
    }
    if machine.uefi && !is_bare {
        let (code, vars) = firmware(machine.secure_boot)?;
        let own = match &machine.vars {
            Some(file) => file.clone(),
            None => scratch.join("vars.fd"),
        };
        if own.exists() {
            check_variables(&own)?;
        } else {
            std::fs::copy(vars, &own).map_err(|e| {
                let message = format!(
                    "cannot write the variables of the firmware to `{}`: {e}",
                    own.display()
                );
                Diagnostic::error("boot-unreadable", Class::Machine, message)
                    .help("name a file in a directory that this user may write to")
            })?;
        }
        let own = text(&own)?;
        add(&[
            "-drive",
            &format!("if=pflash,format=raw,unit=0,readonly=on,file={code}"),
        ]);
        add(&["-drive", &format!("if=pflash,format=raw,unit=1,file={own}")]);
        if machine.secure_boot {
            add(&["-global", "driver=cfi.pflash01,property=secure,value=on"]);
        }
    }
    let mut snapshot = format!("snapshot={}", if machine.write { "off" } else { "on" });
    if machine.is_built {
        snapshot += ",file.locking=off";
    }
    match &machine.image {
        Image::Disk { file, format } => {
            let file = text(file)?;
            let device = match machine.bus {
                Bus::Nvme => "nvme,drive=d0,serial=sos0,bootindex=1",
                Bus::Virtio => "virtio-blk-pci,drive=d0,bootindex=1",
                Bus::Scsi => "scsi-hd,drive=d0,bootindex=1",
            };
            if machine.bus == Bus::Scsi {
                add(&["-device", "virtio-scsi-pci"]);
            }
            add(&[
                "-drive",
                &format!("if=none,id=d0,format={format},file={file},{snapshot}"),
            ]);
            add(&["-device", device]);
        }
        Image::Sectors(file) => {
            let file = text(file)?;
            add(&[
                "-drive",
                &format!("if=ide,format=raw,file={file},{snapshot}"),
            ]);
            if let Some(payload) = &machine.payload {
                let file = text(&payload.file)?;
                let locking = if payload.is_built {
                    ",file.locking=off"
                } else {
                    ""
                };
                add(&[
                    "-drive",
                    &format!("if=ide,index=1,format=raw,file={file},snapshot=on{locking}"),
                ]);
            }
        }
        Image::Iso(file) => {
            let file = text(file)?;
            add(&[
                "-drive",
                &format!("if=none,id=cd,media=cdrom,readonly=on,format=raw,file={file}"),
            ]);
            add(&["-device", "ide-cd,drive=cd,bootindex=1"]);
        }
        Image::Kernel(file) => {
            add(&["-kernel", &text(file)?]);
            if let Some(append) = &machine.append {
                add(&["-append", append]);
            }
        }
        Image::Netboot(dir) => {
            let dir = text(dir)?;
            add(&[
                "-netdev",
                &format!("user,id=n0,tftp={dir},bootfile=boot.ipxe"),
            ]);
            add(&["-device", "virtio-net-pci,netdev=n0,bootindex=0"]);
        }
    }
    args.extend(machine.extra.iter().map(OsString::from));
    Ok((QEMU.into(), args))
}

/// A path inside an option of QEMU, where commas are doubled.
fn text(path: &Path) -> Result<String, Failure> {
    let text = path.to_str().ok_or_else(|| {
        Diagnostic::error(
            "boot-path",
            Class::Machine,
            format!("`{}` is no name that QEMU takes", path.display()),
        )
        .help("move it to a path in UTF-8")
    })?;
    Ok(text.replace(',', ",,"))
}

/// Refuses to let firmware write over a file that is not of it (UEFI PI 1.8, volume 3, 3.2.1: the header of a firmware volume).
fn check_variables(file: &Path) -> Result<(), Failure> {
    const SIGNATURE: std::ops::Range<usize> = 40..44;
    let unreadable = |e: io::Error| {
        let message = format!("cannot read `{}`: {e}", file.display());
        Diagnostic::error("boot-unreadable", Class::Machine, message)
            .help("name a file that this user may read and write, or one that is not there yet")
    };
    let mut head = Vec::new();
    if holds_bytes(file).map_err(unreadable)? {
        let opened = File::open(file).map_err(unreadable)?;
        opened
            .take(SIGNATURE.end as u64)
            .read_to_end(&mut head)
            .map_err(unreadable)?;
    }
    if head.get(SIGNATURE) == Some(b"_FVH") && sos_store::store_of(file).is_none() {
        return Ok(());
    }
    let message = format!(
        "`{}` holds no variables of a firmware that may be changed",
        file.display()
    );
    Err(Diagnostic::error("boot-vars", Class::Usage, message)
        .help("name a file that is not there yet: it begins with the variables that the firmware comes with")
        .into())
}

fn firmware(secure_boot: bool) -> Result<(&'static str, &'static str), Failure> {
    let known = if secure_boot { OVMF_SECURE } else { OVMF };
    let found = known
        .iter()
        .find(|(code, vars)| Path::new(code).exists() && Path::new(vars).exists());
    found.copied().ok_or_else(|| {
        Failure::new(
            Diagnostic::error(
                "boot-no-firmware",
                Class::Machine,
                "there is no UEFI firmware for virtual machines here",
            )
            .note(format!(
                "looked for {}",
                known
                    .iter()
                    .map(|(code, _)| format!("`{code}`"))
                    .collect::<Vec<_>>()
                    .join(", ")
            ))
            .help("on Debian it is in the package `ovmf`"),
        )
    })
}

/// Whether `/dev/kvm` runs unmodified kernels on the processor itself.
fn has_real_kvm() -> bool {
    if Path::new("/sys/module/kvm_pvm").is_dir() {
        return false;
    }
    let may = rustix::fs::access(
        "/dev/kvm",
        rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK,
    )
    .is_ok();
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut flags = flags.lines().filter(|line| line.starts_with("flags"));
    may && flags.any(|line| {
        line.split_whitespace()
            .any(|flag| flag == "vmx" || flag == "svm")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_the_second_disk_and_not_written_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let machine = Machine {
            image: Image::Sectors("/a.img".into()),
            payload: Some(Payload {
                file: "/b,c.img".into(),
                is_built: true,
            }),
            uefi: false,
            secure_boot: false,
            vars: None,
            bus: Bus::Nvme,
            memory_mib: 64,
            cpus: 1,
            write: true,
            is_built: false,
            reboot: false,
            is_conversation: false,
            append: None,
            extra: Vec::new(),
        };
        let (_, words) = command(&machine, dir.path()).expect("a command");
        let drives: Vec<&str> = words
            .iter()
            .filter_map(|word| word.to_str())
            .filter(|word| word.starts_with("if=ide"))
            .collect();
        assert_eq!(
            drives,
            [
                "if=ide,format=raw,file=/a.img,snapshot=off",
                "if=ide,index=1,format=raw,file=/b,,c.img,snapshot=on,file.locking=off",
            ]
        );
    }

    #[test]
    fn images_are_told_by_their_bytes() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("image");
        let mut disk = vec![0; 1024];
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        let sector = disk.clone();
        let mut kernel = disk.clone();
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        disk[512..520].copy_from_slice(b"EFI PART");
        for (bytes, expected) in [
            (
                disk,
                Some(Image::Disk {
                    file: file.clone(),
                    format: "raw",
                }),
            ),
            (
                b"QFI\xfb...".to_vec(),
                Some(Image::Disk {
                    file: file.clone(),
                    format: "qcow2",
                }),
            ),
            (sector, Some(Image::Sectors(file.clone()))),
            (kernel, Some(Image::Kernel(file.clone()))),
            (b"MZ".to_vec(), Some(Image::Kernel(file.clone()))),
            (b"{ }".to_vec(), None),
            (Vec::new(), None),
        ] {
            std::fs::write(&file, bytes).expect("written");
            assert_eq!(Image::find(&file).expect("read"), expected);
        }
        assert_eq!(Image::find(dir.path()).expect("read"), None);
    }
}
