//! `sos provision`: devices that become what a recipe says.

use std::path::PathBuf;

use sos_builders::disk::provision::{Device, Plan, Sources, Spec, Wish, used_by};
use sos_builders::disk::sign::Signer;
use sos_engine::BuilderError;
use sos_formats::diagnostic::{Class, Diagnostic};

use crate::args::{LockFlags, TargetArgs};
use crate::commands::export;
use crate::commands::secure_boot::SignFlags;
use crate::failure::Failure;
use crate::render::output;
use crate::session::Session;

/// Partition a device as a recipe says, bring it to a new version, compare the two
#[derive(Debug, clap::Args)]
pub(crate) struct ProvisionArgs {
    #[command(subcommand)]
    command: ProvisionCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ProvisionCommand {
    /// Say what `apply` would do
    Plan(PlanArgs),
    /// Do it: the whole layout on an empty device, a new version in the slot that is free, or what `drift` finds
    Apply(ApplyArgs),
    /// Say which version is in which slot of a device, and in what it differs from the recipe; exit code 1 when it does
    Drift(DriftArgs),
}

/// What all of them take.
#[derive(Debug, clap::Args)]
struct CommonArgs {
    /// A block device, or a file in the place of one
    #[arg(value_name = "DEVICE")]
    device: PathBuf,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    lock: LockFlags,
}

/// How a device is changed.
#[derive(Debug, clap::Args)]
struct HowFlags {
    /// Take the device whatever is on it; all of that is lost
    #[arg(long)]
    wipe: bool,
    /// Write the recipe's root over one that has started and differs from it: the device is damaged, and the recipe has not changed
    #[arg(long, conflicts_with = "wipe")]
    repair: bool,
    #[command(flatten)]
    sign: SignFlags,
}

impl HowFlags {
    fn wish(&self, signer: Option<&Signer>) -> Wish<'static> {
        Wish {
            wipe: self.wipe,
            repairs: self.repair,
            signs: signer.is_some(),
            ..Wish::default()
        }
    }
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "It is a difference when the version of the recipe is in no slot, did not start, or is there and another one starts in its place. Another version in another slot is none: that is what the slot is for.\n\nCompared are the partition table, with the id of the disk and the size that it was made for, what the recipe puts on the EFI system partition, and the root of the version if nothing may write to it; of an ext4 only which file system it is. What is not compared is said on standard error: files in roots that a running system writes to, the other slots, partitions that no update writes, and further files on the EFI system partition. Signatures of EFI programs are no difference.\n\nExit codes: 0 the device is as the recipe says, 1 it is not, 4 it cannot be read."
)]
struct DriftArgs {
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Nothing is written. What does not fit is refused as `apply` would refuse it: the device is too small for the layout, the slot for the version, or the EFI system partition for its files; the exit code is 4 then."
)]
struct PlanArgs {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    how: HowFlags,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  truncate -s 4G disk.raw && sos provision apply disk.raw .#disk --yes   a disk of its own size\n  sos provision apply /dev/sdb ./web.rootfs.toml#disk --yes             the next version, into the free slot\n  sos provision drift /dev/sdb ./web.rootfs.toml#disk                    what is different\n\nA target is a disk, or its `provision`. Mounted devices are refused. Without `--yes` the plan is shown and nothing is done; the exit code is 2 then, unless there was nothing to do, and `done` of `--json` is false. The slot with the least to lose is written over: what did not start, then what has not proven itself yet. Where the version is there already, files that differ are written anew. A root that a system writes to stays, so another kernel needs a higher `version`, as does another root in the place of one that has started."
)]
struct ApplyArgs {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    how: HowFlags,
    /// Do it
    #[arg(long)]
    yes: bool,
}

/// Runs the verb.
///
/// # Errors
/// Problems of the recipe and of building; `provision-…` for what is wrong with the device.
pub(crate) fn run(session: &Session, args: &ProvisionArgs) -> Result<(), Failure> {
    match &args.command {
        ProvisionCommand::Plan(args) => {
            let device = Device::open(&args.common.device, false).map_err(refused)?;
            // Read as `apply` reads it: a key that cannot sign is told now.
            let signer = args.how.sign.signer().map_err(refused)?;
            let spec = spec(session, &args.common)?;
            let wish = args.how.wish(signer.as_ref());
            let mut plan = planned(session, &spec, &device, wish)?;
            plan.notes.splice(0..0, in_use(&args.common, &plan));
            show(session, &spec, &device, &plan, false)
        }
        ProvisionCommand::Apply(args) => apply(session, args),
        ProvisionCommand::Drift(args) => drift(session, &args.common),
    }
}

fn apply(session: &Session, args: &ApplyArgs) -> Result<(), Failure> {
    // What is wrong with the device is told before anything is built for it.
    let device = Device::open(&args.common.device, args.yes).map_err(refused)?;
    let signer = args.how.sign.signer().map_err(refused)?;
    let spec = spec(session, &args.common)?;
    let wish = args.how.wish(signer.as_ref());
    let mut plan = planned(session, &spec, &device, wish)?;
    if !args.yes {
        plan.notes.splice(0..0, in_use(&args.common, &plan));
        let is_there = plan.steps.is_empty();
        show(session, &spec, &device, &plan, is_there)?;
        if is_there {
            return Ok(());
        }
        let device = args.common.device.display();
        return Err(Failure::new(
            Diagnostic::error(
                "provision-unconfirmed",
                Class::Usage,
                format!("nothing was done to `{device}`"),
            )
            .help("`--yes` does it; `sos provision plan` shows the same and ends well"),
        ));
    }
    let told = |line: &str| {
        if !session.global.quiet {
            output::message(line);
        }
    };
    plan.notes.iter().for_each(|note| told(note));
    let sources = sources(session, &told)?;
    sources
        .apply(&spec, &device, &plan, signer.as_ref())
        .map_err(refused)?;
    for left in &plan.left {
        told(&format!("not changed: {left}"));
    }
    if device.is_block() && plan.wipes {
        told("`partprobe` or a restart makes the kernel read the new partition table");
    }
    if session.global.json {
        return show(session, &spec, &device, &plan, true);
    }
    Ok(())
}

fn drift(session: &Session, args: &CommonArgs) -> Result<(), Failure> {
    let device = Device::open(&args.device, false).map_err(refused)?;
    let spec = spec(session, args)?;
    let sources = sources(session, &|_| {})?;
    let report = sources.drift(&spec, &device).map_err(refused)?;
    if session.global.json {
        let slots = report.slots.iter().map(|slot| {
            serde_json::json!({
                "name": slot.name, "version": slot.version, "triesLeft": slot.left, "isRecipe": slot.is_wanted, "isNext": slot.is_next,
                "isDraft": slot.is_draft,
            })
        });
        let differences = report.differences.iter();
        let differences =
            differences.map(|one| serde_json::json!({ "what": one.what, "how": one.how }));
        output::json(&serde_json::json!({
            "image": spec.image,
            "version": spec.version,
            "slots": slots.collect::<Vec<_>>(),
            "differences": differences.collect::<Vec<_>>(),
            "notCompared": report.not_compared,
        }))?;
    } else {
        output::line(&format!("recipe: {} version {}", spec.image, spec.version))?;
        let mut slots = report.slots.iter();
        slots.try_for_each(|slot| output::line(&slot.to_string()))?;
        let mut differences = report.differences.iter();
        differences.try_for_each(|one| output::line(&one.to_string()))?;
    }
    if !session.global.quiet && !session.global.json {
        for one in &report.not_compared {
            output::message(&format!("not compared: {one}"));
        }
    }
    if report.differences.is_empty() {
        return Ok(());
    }
    let message = format!(
        "`{}` is not as {} {} says",
        args.device.display(),
        spec.image,
        spec.version
    );
    Err(Failure::new(
        Diagnostic::error("provision-drift", Class::Other, message)
            .help("`sos provision plan` says what would be done about it"),
    ))
}

/// Builds the description of the disk.
fn spec(session: &Session, args: &CommonArgs) -> Result<Spec, Failure> {
    let mut target = args.target.clone();
    // What a person names is the disk; the description hangs on it.
    let is_named = target.file.is_some() || target.expression.is_some();
    for word in &mut target.targets {
        if word.ends_with("provision") || word.starts_with("/nix/store/") {
            continue;
        }
        if word.contains('#') || is_named {
            word.push_str(".provision");
        } else if word.ends_with(sos_recipes::ROOTFS_SUFFIX) {
            word.push_str("#provision");
        }
    }
    let built = export::built(session, &target, args.lock, "provision", &|_many| {
        Diagnostic::error(
            "provision-many",
            Class::Usage,
            "a device is made from one description",
        )
        .help("name one disk, as in `sos provision plan /dev/sdb .#disk`")
    });
    let info = built.map_err(|failure| no_disk(&args.target, failure))?;
    let store = session.store()?;
    let shown = info.path.absolute(store.store_dir());
    Spec::read(&store.physical(&info.path), &shown.to_string()).map_err(refused)
}

/// Says of a target without a layout that it is no disk: nobody has asked for the attribute that it lacks.
fn no_disk(target: &TargetArgs, failure: Failure) -> Failure {
    let is_it = |one: &Diagnostic| {
        one.code == "eval-attr-missing" && one.message.starts_with("attribute `provision` of ")
    };
    if failure.shown || !failure.diagnostics.iter().any(is_it) {
        return failure;
    }
    let message = format!("`{}` has no layout", target.words().trim());
    Failure::new(
        Diagnostic::error("provision-no-layout", Class::Usage, message)
            .note("a device is made from the layout of a disk: from its `provision`, which `sos.disk` and recipes give, and this has not")
            .help("name a disk, as in `.#disk` or `./web.rootfs.toml#disk`; another disk, as `sos.ostreeDisk` makes, is written whole: `sos export TARGET disk:FILE`"),
    )
}

/// What `apply` would refuse a device for, however good the plan.
fn in_use(args: &CommonArgs, plan: &Plan) -> Option<String> {
    let by = used_by(&args.device).filter(|_| !plan.steps.is_empty())?;
    let device = args.device.display();
    Some(format!(
        "warning: `{device}` is in use: {by}; `apply` refuses it as long as it is"
    ))
}

fn planned(
    session: &Session,
    spec: &Spec,
    device: &Device,
    wish: Wish<'_>,
) -> Result<Plan, Failure> {
    let running = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let wish = Wish {
        running: &running,
        ..wish
    };
    let sources = sources(session, &|_| {})?;
    sources.plan(spec, device, wish).map_err(refused)
}

/// Tells a plan; `is_done` when the device has become what it says.
fn show(
    session: &Session,
    spec: &Spec,
    device: &Device,
    plan: &Plan,
    is_done: bool,
) -> Result<(), Failure> {
    let steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
    if session.global.json {
        return output::json(&serde_json::json!({
            "version": spec.version, "bytes": device.size, "wipes": plan.wipes, "slot": plan.slot, "steps": steps,
            "notes": plan.notes, "left": plan.left, "done": is_done,
        }));
    }
    let left = || {
        let mut left = plan.left.iter();
        left.try_for_each(|one| output::line(&format!("not changed: {one}")))
    };
    if steps.is_empty() && !plan.left.is_empty() {
        let known = "is there already; `--wipe` would make the whole layout anew";
        output::line(&format!("{} {} {known}", spec.image, spec.version))?;
        return left();
    }
    if steps.is_empty() {
        return output::line(&format!("{} {} is there already", spec.image, spec.version));
    }
    if plan.wipes {
        output::line(&format!(
            "everything on the device ({} bytes) is lost",
            device.size
        ))?;
    }
    plan.notes.iter().try_for_each(|note| output::line(note))?;
    steps.iter().try_for_each(|step| output::line(step))?;
    left()
}

fn sources<'a>(session: &'a Session, told: &'a dyn Fn(&str)) -> Result<Sources<'a>, Failure> {
    Ok(Sources {
        store: session.store()?,
        cores: session.config.cores,
        told,
    })
}

fn refused(error: BuilderError) -> Failure {
    match error {
        BuilderError::Diagnostic(diagnostic) => Failure::new(*diagnostic),
        BuilderError::Store(error) => error.into(),
        other => Failure::new(Diagnostic::error(
            "provision-failed",
            Class::Machine,
            other.to_string(),
        )),
    }
}
