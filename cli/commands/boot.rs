//! `sos boot`: starts what was built.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use sos_builders::disk::provision::used_by;
use sos_engine::Cancel;
use sos_formats::diagnostic::{Class, Diagnostic};

use crate::args::{LockFlags, TargetArgs, quoted};
use crate::boot::{self, Bus, Image, Machine, Outcome, Payload, Watch};
use crate::commands::export;
use crate::failure::Failure;
use crate::interrupt;
use crate::run;
use crate::session::Session;
use crate::target::Target;

/// Start what was built, in a virtual machine
#[derive(Debug, clap::Args)]
pub(crate) struct BootArgs {
    #[command(subcommand)]
    command: BootCommand,
}

#[derive(Debug, clap::Subcommand)]
enum BootCommand {
    Run(RunArgs),
}

/// Build a target and start it in QEMU, with its serial line as the console
///
/// A target is a disk (`#disk`, `#qcow2`), an image for an optical drive (`#iso`), a kernel image (`#uki`), a directory to boot
/// from over the network (`#netboot`), or the image that a bootstrap without a kernel begins from (`#builder-hex0-image`); a file with
/// one of them will do too. With --expect the machine ends when its console has shown that, and the exit code says whether it
/// has; without, the terminal is the console until the machine ends (Ctrl-A X ends it).
///
/// A payload image (`#payload-image`) does not start by itself: --payload makes it the second disk of `#builder-hex0-image`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sos boot run .#disk --uefi                      a console; log in\n  sos boot run .#disk --expect 'login:'           a test: exit code 0 if it comes\n  sos boot run ./web.rootfs.toml#netboot --expect 'login:' --timeout 300\n  sos boot run disk.raw --write --reboot          a file of this machine, and what the guest writes stays in it\n  sos boot run tree#builder-hex0-image --payload tree#payload-image\n                                                  a bootstrap without a kernel, and the files that it imports later\n\nKVM is used where it runs unmodified kernels; else everything is emulated, which takes ten times as long."
)]
struct RunArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    lock: LockFlags,
    /// Start with UEFI firmware; disks and kernel images always do
    #[arg(long, conflicts_with = "bios")]
    uefi: bool,
    /// Let the firmware look at signatures; without keys in its variables it takes everything
    #[arg(long, conflicts_with = "bios")]
    secure_boot: bool,
    /// A file in which the variables of the firmware stay, made when it is missing [default: they are gone at the end]
    #[arg(long, value_name = "FILE", conflicts_with = "bios")]
    vars: Option<PathBuf>,
    /// Start a disk with a BIOS
    #[arg(long)]
    bios: bool,
    /// End when this regular expression is on the console; several must come in this order
    #[arg(long, value_name = "REGEX")]
    expect: Vec<String>,
    /// Fail when this is on the console before [default: a kernel panic or an emergency shell, unless the guest may restart]
    #[arg(long, value_name = "REGEX")]
    reject: Vec<String>,
    /// Wait until the machine ends by itself
    #[arg(long)]
    until_end: bool,
    /// Seconds after which what was expected will not come any more
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// The second disk of a machine that starts from `#builder-hex0-image`: a payload image as a target or a file; it is not written to
    #[arg(long, value_name = "TARGET")]
    payload: Option<String>,
    /// Let what the guest writes stay in the image, which must be a file outside the store
    #[arg(long)]
    write: bool,
    /// Let the guest restart; else a restart is the end
    #[arg(long)]
    reboot: bool,
    /// What the disk hangs on
    #[arg(long, value_enum, default_value = "nvme")]
    bus: Bus,
    /// Memory of the machine in MiB [default: 1024; 2560 where the root stays in memory, 4096 for a disk that only a BIOS starts]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(64..))]
    memory: Option<u32>,
    /// Processors of the machine
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u32).range(1..))]
    cpus: u32,
    /// What a kernel is told, as a target that is one
    #[arg(long, value_name = "ARGUMENTS", allow_hyphen_values = true)]
    append: Option<String>,
    /// A further argument of QEMU
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    qemu: Vec<String>,
}

const MEMORY_MIB: u32 = 1024;
/// For a root that is loaded whole: once packed in the initrd, and once as what the kernel unpacks of it.
const IN_MEMORY_MIB: u32 = 2560;
/// For a disk that only a BIOS starts: a bootstrap keeps its files in memory.
const SECTORS_MIB: u32 = 4096;

/// The guest cannot go on by itself after these.
const LOST: &[&str] = &[
    "Kernel panic - not syncing",
    "You are in emergency mode",
    "Give root password for maintenance",
    r"^\(initramfs\)",
    "No bootable (device|option)",
];

/// Runs the verb.
///
/// # Errors
/// Problems of the recipe and of building; `boot-not-seen` when the machine did something else than was expected.
pub(crate) fn run(session: &Session, args: &BootArgs) -> Result<(), Failure> {
    match &args.command {
        BootCommand::Run(args) => start(session, args),
    }
}

fn start(session: &Session, args: &RunArgs) -> Result<(), Failure> {
    // What is missing is told before anything is built for it.
    boot::look_for(
        args.uefi || args.secure_boot || args.vars.is_some(),
        args.secure_boot,
    )?;
    let (image, is_built) = image(session, args)?;
    if args.append.is_some() && !matches!(image, Image::Kernel(_)) {
        return Err(Failure::new(
            Diagnostic::error(
                "boot-append",
                Class::Usage,
                "`--append` is for a kernel that is started by itself, and this is none",
            )
            .help("name a kernel image (`#uki`), or write the arguments into the recipe: `cmdline` of the disk"),
        ));
    }
    let payload = match &args.payload {
        None => None,
        Some(_) if !matches!(image, Image::Sectors(_)) => {
            let message = "only a machine that starts from `#builder-hex0-image` imports a payload";
            return Err(Failure::new(
                Diagnostic::error("boot-payload", Class::Usage, message)
                    .help("leave `--payload` out, or name that image as the target"),
            ));
        }
        Some(word) => Some(payload(session, args, word)?),
    };
    let is_watched = !args.expect.is_empty() || args.until_end;
    let machine = Machine {
        uefi: !args.bios
            && (args.uefi
                || args.secure_boot
                || args.vars.is_some()
                || matches!(image, Image::Disk { .. } | Image::Kernel(_) | Image::Iso(_))),
        secure_boot: args.secure_boot,
        vars: args.vars.clone(),
        memory_mib: args.memory.unwrap_or(match image {
            Image::Sectors(_) => SECTORS_MIB,
            Image::Netboot(_) | Image::Iso(_) => IN_MEMORY_MIB,
            Image::Disk { .. } | Image::Kernel(_) => MEMORY_MIB,
        }),
        image,
        payload,
        bus: args.bus,
        cpus: args.cpus,
        write: args.write,
        is_built,
        reboot: args.reboot || !is_watched,
        is_conversation: !is_watched,
        append: args.append.clone(),
        extra: args.qemu.clone(),
    };
    let scratch = session.store()?.temp_dir("boot")?;
    let (program, arguments) = boot::command(&machine, scratch.path())?;
    if !is_watched {
        let status = boot::converse(&program, &arguments)?;
        return if status.success() {
            Ok(())
        } else {
            Err(Failure::new(Diagnostic::error(
                "boot-failed",
                Class::Other,
                format!("QEMU ended with {status}"),
            )))
        };
    }
    let mut reject = args.reject.clone();
    if reject.is_empty() && !args.reboot {
        reject.extend(LOST.iter().map(|s| (*s).to_owned()));
    }
    let wanted = Watch {
        expect: args.expect.clone(),
        reject,
        timeout: Duration::from_secs(args.timeout),
        until_end: args.until_end,
        show: !session.global.quiet && !session.global.json,
    };
    let (cancel, seen) = (Cancel::new(), Arc::new(AtomicU8::new(0)));
    let runtime = run::runtime()?;
    let (outcome, tail) = runtime.block_on(async {
        let signals = tokio::spawn(interrupt::watch(
            cancel.clone(),
            seen.clone(),
            interrupt::First::Stops,
            false,
            |_| {},
        ));
        let result = boot::watch(&program, &arguments, &wanted, &cancel).await;
        signals.abort();
        result
    })?;
    match outcome {
        Outcome::Seen => Ok(()),
        Outcome::Cancelled => Err(Failure::interrupted(seen.load(Ordering::SeqCst))),
        Outcome::Rejected(what) => Err(not_seen(
            Class::Other,
            &format!("the console showed `{what}`"),
            &tail,
        )),
        Outcome::Ended(what) => Err(not_seen(
            Class::Other,
            &format!("the machine ended before the console showed `{what}`"),
            &tail,
        )),
        Outcome::Failed(said) => Err(failed(&said)),
        Outcome::TimedOut(what) => Err(not_seen(
            Class::TimedOut,
            &format!(
                "the console did not show `{what}` within {} seconds",
                args.timeout
            ),
            &tail,
        )),
    }
}

/// What the target is: a file of this machine, or what is built of a recipe, which is told.
fn image(session: &Session, args: &RunArgs) -> Result<(Image, bool), Failure> {
    let many = |many: usize| {
        let message = format!("{many} results cannot be started at once");
        Diagnostic::error("boot-many", Class::Usage, message).help("name one target")
    };
    let words = &args.target.targets;
    let is_image = |word: &String| Path::new(word).is_file() && !Target::is_recipe(Path::new(word));
    if words.len() > 1 && words.iter().any(is_image) {
        return Err(Failure::new(many(words.len())));
    }
    if let [word] = args.target.targets.as_slice()
        && args.target.file.is_none()
        && args.target.expression.is_none()
    {
        let path = Path::new(word);
        let is_file = std::fs::metadata(path).is_ok_and(|meta| !meta.is_dir());
        let is_here = path.exists() && path.extension().is_none_or(|e| e != "drv");
        match Image::find(path) {
            Ok(Some(found)) if is_here => {
                unused(args, path)?;
                if args.write && sos_store::store_of(path).is_some() {
                    return Err(unwritable());
                }
                return Ok((found, false));
            }
            // It was not meant as a recipe: that would be told of one.
            Err(error) if is_file => return Err(unreadable(path, &error)),
            Ok(None) if is_file && boot::is_payload(path).unwrap_or(false) => {
                return Err(only_payload(word, &args.target));
            }
            Ok(None) if is_file && !Target::is_recipe(path) => return Err(nothing(path)),
            _ => {}
        }
    }
    if args.write {
        return Err(unwritable());
    }
    let info = export::built(session, &args.target, args.lock, "boot run", &many)?;
    let store = session.store()?;
    let place = store.physical(&info.path);
    let found = if info.root.is_some() {
        Ok(None)
    } else {
        Image::find(&place)
    };
    let found = found.map_err(|e| Failure::io("cannot read what was built", &e))?;
    let found = found.ok_or_else(|| {
        let path = info.path.absolute(store.store_dir());
        if info.root.is_none() && boot::is_payload(&place).unwrap_or(false) {
            return only_payload(&path, &args.target);
        }
        let what = match info.root.is_some() {
            true => "is a root filesystem, which does not start by itself",
            false => "is nothing that starts",
        };
        Failure::new(
            Diagnostic::error("boot-nothing", Class::Usage, format!("`{path}` {what}"))
                .help("name a disk, an image for an optical drive, a kernel image or a netboot directory: `#disk`, `#qcow2`, `#iso`, `#uki`, `#netboot`"),
        )
    })?;
    Ok((found, true))
}

fn unwritable() -> Failure {
    let message = "nothing may write into what was built";
    Failure::new(
        Diagnostic::error("boot-write", Class::Usage, message).help(
            "`sos export TARGET disk:FILE` makes a file of a disk; start that with `--write`",
        ),
    )
}

/// The second disk, which is a file of this machine, or built.
fn payload(session: &Session, args: &RunArgs, word: &str) -> Result<Payload, Failure> {
    let no_payload = |shown: &str| {
        let message = format!("`{shown}` is no payload image");
        Failure::new(
            Diagnostic::error("boot-payload", Class::Usage, message)
                .help("`#payload-image` of a tree of bootstrap steps is one; another disk is attached with `--qemu`"),
        )
    };
    let path = Path::new(word);
    if std::fs::metadata(path).is_ok_and(|meta| !meta.is_dir()) && !Target::is_recipe(path) {
        return match boot::is_payload(path) {
            Ok(true) => Ok(Payload {
                file: path.to_owned(),
                is_built: false,
            }),
            Ok(false) => Err(no_payload(word)),
            Err(error) => Err(unreadable(path, &error)),
        };
    }
    let target = TargetArgs {
        targets: vec![word.to_owned()],
        file: None,
        expression: None,
        attr: Vec::new(),
        ..args.target.clone()
    };
    let info = export::built(session, &target, args.lock, "boot run --payload", &|many| {
        let message = format!("{many} results are no payload");
        Diagnostic::error("boot-many", Class::Usage, message).help("name one target")
    })?;
    let store = session.store()?;
    let file = store.physical(&info.path);
    if info.root.is_some()
        || !boot::is_payload(&file).map_err(|e| Failure::io("cannot read what was built", &e))?
    {
        return Err(no_payload(&info.path.absolute(store.store_dir())));
    }
    Ok(Payload {
        file,
        is_built: true,
    })
}

/// What is asked to start is what another machine reads.
fn only_payload(shown: &str, target: &TargetArgs) -> Failure {
    let message = format!(
        "`{shown}` is a payload image, which does not start by itself: a machine that has started from another disk imports it"
    );
    let second = target.targets.first().map_or("TARGET", String::as_str);
    let first = match second.split_once("#payload-image") {
        Some((tree, _)) => format!("{tree}#builder-hex0-image"),
        None => "TREE#builder-hex0-image".to_owned(),
    };
    let options = TargetArgs {
        targets: Vec::new(),
        ..target.clone()
    };
    Failure::new(
        Diagnostic::error("boot-nothing", Class::Usage, message).help(format!(
            "`sos boot run{} {} --payload {}` starts that machine, with this as its second disk",
            options.words(),
            quoted(&first),
            quoted(second)
        )),
    )
}

fn nothing(path: &Path) -> Failure {
    let message = format!("`{}` is nothing that starts", path.display());
    Failure::new(
        Diagnostic::error("boot-nothing", Class::Usage, message)
            .note("it has no partition table and no boot sector, is no image for an optical drive and no EFI program, and its name is that of no recipe")
            .help(format!(
                "`sos export .#disk disk:{0}` writes a disk, `sos provision apply {0} .#disk` makes one of a file",
                path.display()
            )),
    )
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    let message = format!("cannot read `{}`: {error}", path.display());
    Failure::new(
        Diagnostic::error("boot-unreadable", Class::Machine, message)
            .help(format!("`ls -l {}` shows who may", path.display())),
    )
}

/// Refuses to let a guest write to what somebody else uses, or may not be written to.
fn unused(args: &RunArgs, path: &Path) -> Result<(), Failure> {
    if !args.write {
        return Ok(());
    }
    if let Err(error) = std::fs::File::options().write(true).open(path) {
        let message = format!("cannot write to `{}`: {error}", path.display());
        return Err(Failure::new(
            Diagnostic::error("boot-unreadable", Class::Machine, message).help(format!(
                "`ls -l {}` shows who may; without `--write` it only has to be read",
                path.display()
            )),
        ));
    }
    match used_by(path) {
        None => Ok(()),
        Some(by) => {
            let message = format!("`{}` is in use: {by}", path.display());
            Err(Failure::new(
                Diagnostic::error("boot-in-use", Class::Machine, message)
                    .help("end what uses it first: two that write to one disk destroy it"),
            ))
        }
    }
}

/// QEMU ended before there was a machine.
fn failed(said: &str) -> Failure {
    // QEMU has locks of its own: the one for a virtual machine that writes, and those of all others.
    let is_locked = ["Failed to get", "Failed to lock"]
        .iter()
        .any(|words| said.contains(words) && said.contains("lock"));
    if is_locked {
        return Failure::new(
            Diagnostic::error("boot-in-use", Class::Machine, "the image is in use")
                .note(format!("QEMU says:\n{said}"))
                .help("end the virtual machine that writes to it first"),
        );
    }
    Failure::new(
        Diagnostic::error(
            "boot-failed",
            Class::Other,
            "QEMU did not start the machine",
        )
        .note(format!("QEMU says:\n{said}")),
    )
}

fn not_seen(class: Class, message: &str, tail: &str) -> Failure {
    let problem = Diagnostic::error("boot-not-seen", class, message);
    Failure::new(match tail.is_empty() {
        true => problem,
        false => problem.note(format!("the end of the console:\n{tail}")),
    })
}
