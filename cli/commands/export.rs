//! `sos export`: results outside the store, as other programs take them.

mod image;
mod place;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use sos_builders::disk::provision::Device;
use sos_builders::disk::sign::{Signer, sign_directory, sign_disk};
use sos_builders::export::{self, AddOptions, Draft, OnWait, Owners, Signers};
use sos_engine::BuilderError;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Blake3;
use sos_store::{ObjectKind, PathInfo};

use self::image::{ImageDest, ImageFlags};
use self::place::{Above, check_file, check_new, check_place};
use crate::args::{LockFlags, TargetArgs};
use crate::commands::build;
use crate::commands::secure_boot::SignFlags;
use crate::evaluate::{self, Item, Mode};
use crate::failure::Failure;
use crate::render::{output, size};
use crate::run::{self, RunOptions, Stream};
use crate::session::Session;
use crate::target;

/// Build a target and write it outside the store
///
/// DEST is `dir:DIR`, a directory that is not there yet: of a root filesystem with its owners when root does it, else with yours. Or
/// `disk:FILE`: a disk image or another single file, with its holes. What firmware starts of a disk, of an EFI program or of a netboot
/// directory is signed with `--secure-boot-key`.
/// `ostree:REPO[:REF]`: the commits of a target made by `sos.ostree` go into the repository REPO, which is made when it is not there. Or
/// `sysroot:DIR[:OS]`: libostree deploys the commit into a system root, as the next one that boots; only root may do that.
/// An image goes to `oci:DIR[:TAG]`, a layout to which it is added, to `oci-archive:FILE[:TAG]`, or to a registry: `docker://HOST/NAME[:TAG]`.
/// Without TAG it keeps that of its recipe. What is written has its name only when it is whole.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "sos export [OPTIONS] [TARGET] DEST",
    after_help = "Examples:\n  sos export .#web dir:web                            a root filesystem as a directory\n  sos export .#netboot dir:tftp --secure-boot-key key.pem --secure-boot-cert cert.pem\n  sos export ./web.rootfs.toml#ostree ostree:repo     its commit, into a repository to be served\n  sos export .#commit ostree:/srv/repo:os/amd64/main  under another name\n  sos export .#image oci:images:1.0                   an image, into a layout\n  sos export .#image oci-archive:image.tar            in one file\n  sos export .#image docker://registry.example/web:1  into a registry"
)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    lock: LockFlags,
    #[command(flatten)]
    sign: SignFlags,
    /// A repository of the same registry that may have layers of the image: they are taken over from there and not sent
    #[arg(long, value_name = "NAME")]
    mount_from: Vec<String>,
    /// Sign commits and the summary with the OpenPGP secret key in FILE
    #[arg(long, value_name = "FILE")]
    sign_gpg: Vec<PathBuf>,
    /// Sign commits and the summary with the Ed25519 secret key in FILE: PEM, or 64 bytes (seed, public key) in base 64
    #[arg(long, value_name = "FILE")]
    sign_ed25519: Vec<PathBuf>,
    /// Write static deltas of the commit too: from nothing, and from the one before
    #[arg(long)]
    deltas: bool,
    /// Check every object of the repository with libostree afterwards
    #[arg(long)]
    fsck: bool,
}

/// Where results go.
enum Dest {
    Dir(PathBuf),
    Disk(PathBuf),
    Ostree {
        repo: PathBuf,
        branch: Option<String>,
    },
    Image(ImageDest),
    Sysroot {
        dir: PathBuf,
        os: String,
    },
}

/// Runs the verb.
///
/// # Errors
/// Problems of the recipe, of building, and of what is at the destination.
pub(crate) fn run(session: &Session, args: &ExportArgs) -> Result<(), Failure> {
    let mut target = args.target.clone();
    let dest = Dest::parse(target.targets.pop().as_deref())?;
    dest.check()?;
    let signers = signers(args)?;
    if !matches!(dest, Dest::Ostree { .. }) && (args.deltas || args.fsck || !signers.is_empty()) {
        return Err(Failure::new(
            Diagnostic::error(
                "export-destination",
                Class::Usage,
                "only a repository can be signed, packed and checked",
            )
            .help("write `ostree:REPO[:REF]` behind the target, or leave these options out"),
        ));
    }
    if !matches!(dest, Dest::Image(ImageDest::Registry(_))) && !args.mount_from.is_empty() {
        return Err(Failure::new(
            Diagnostic::error(
                "export-destination",
                Class::Usage,
                "layers are taken over with `--mount-from` only in a registry",
            )
            .help("write `docker://HOST/NAME[:TAG]` behind the target, or leave the option out"),
        ));
    }
    #[cfg(not(feature = "libostree"))]
    if args.fsck {
        return Err(not_built_in("cannot check the repository"));
    }
    let signer = args.sign.signer().map_err(refused)?;
    if signer.is_some() && !matches!(dest, Dest::Disk(_) | Dest::Dir(_)) {
        return Err(not_signed());
    }
    let info = &built(session, &target, args.lock, "export", &|many| {
        Diagnostic::error(
            "export-many",
            Class::Usage,
            format!("{many} results cannot go to one destination"),
        )
        .help("name one target, and one output of it: `TARGET^OUTPUT`")
    })?;
    match dest {
        Dest::Dir(dir) => to_dir(session, info, &dir, signer.as_ref()),
        Dest::Disk(file) => to_file(session, info, &file, signer.as_ref()),
        Dest::Image(image) => {
            let flags = ImageFlags {
                offline: args.lock.offline,
                mount_from: args.mount_from.clone(),
            };
            image.write(session, info, &flags)
        }
        Dest::Sysroot { dir, os } => to_sysroot(session, info, &dir, &os),
        Dest::Ostree { repo, branch } => {
            let options = AddOptions {
                branch: branch.as_deref(),
                signers,
                deltas: args.deltas,
                cores: std::thread::available_parallelism().map_or(1, usize::from),
                on_wait: OnWait(Some(&|repo| tell_waiting(session, repo))),
            };
            to_ostree(session, info, &repo, &options)?;
            #[cfg(feature = "libostree")]
            if args.fsck {
                check(session, &repo)?;
            }
            Ok(())
        }
    }
}

impl Dest {
    fn parse(text: Option<&str>) -> Result<Self, Failure> {
        let bad = |what: String| {
            Failure::new(
                Diagnostic::error("export-destination", Class::Usage, what)
                    .help("write `dir:DIR`, `disk:FILE`, `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, `docker://HOST/NAME[:TAG]`, `ostree:REPO[:REF]` or `sysroot:DIR[:OS]` behind the target"),
            )
        };
        let Some(text) = text else {
            return Err(bad("no destination is named".to_owned()));
        };
        match text.split_once(':') {
            Some(("dir", dir)) if !dir.is_empty() => Ok(Self::Dir(dir.into())),
            Some(("disk", file)) if !file.is_empty() => Ok(Self::Disk(file.into())),
            Some(("ostree", rest)) if !rest.is_empty() => Ok(match rest.split_once(':') {
                Some((repo, branch)) if !repo.is_empty() && !branch.is_empty() => Self::Ostree {
                    repo: repo.into(),
                    branch: Some(branch.to_owned()),
                },
                Some(_) => return Err(bad(format!("`{text}` is no destination"))),
                None => Self::Ostree {
                    repo: rest.into(),
                    branch: None,
                },
            }),
            Some(("sysroot", rest)) if !rest.is_empty() => {
                let (dir, os) = rest.rsplit_once(':').unwrap_or((rest, "os"));
                if dir.is_empty() || !sos_builders::ostree::is_ref(os) || os.contains('/') {
                    return Err(bad(format!("`{text}` is no destination")));
                }
                Ok(Self::Sysroot {
                    dir: dir.into(),
                    os: os.to_owned(),
                })
            }
            Some((scheme, rest)) if !rest.is_empty() => ImageDest::parse(scheme, rest)
                .ok_or_else(|| bad(format!("`{text}` is no destination")))?
                .map(Self::Image),
            _ => Err(bad(format!("`{text}` is no destination"))),
        }
    }

    /// Looks before anything is built.
    fn check(&self) -> Result<(), Failure> {
        match self {
            Self::Ostree {
                branch: Some(branch),
                ..
            } if !sos_builders::ostree::is_ref(branch) => {
                let message = format!("`{branch}` is not a ref");
                let problem = Diagnostic::error("export-destination", Class::Usage, message);
                let most = sos_builders::ostree::MAX_REF_BYTES;
                Err(Failure::new(if branch.len() > most {
                    problem.help(format!(
                        "write a shorter one: it has {} letters, and may have {most}",
                        branch.len()
                    ))
                } else {
                    problem.help("write letters, digits, `.`, `_` and `-`, in parts joined by `/`: `os/amd64/main`")
                }))
            }
            Self::Ostree { repo, .. } => {
                check_place(repo, Above::IsThere)?;
                export::check_repository(repo).map_err(refused)
            }
            Self::Disk(file) => check_file(file, "disk"),
            Self::Dir(dir) if std::fs::symlink_metadata(dir).is_ok() => {
                Err(Failure::new(export::taken(dir, true)))
            }
            Self::Dir(dir) => check_new(dir, "dir"),
            Self::Image(image) => image.check(),
            Self::Sysroot { dir, .. } => check_sysroot(dir),
        }
    }
}

/// Builds the target; tells of its one result. If there are several, or none, `not_one` says why that will not do, and nothing is built.
pub(super) fn built(
    session: &Session,
    args: &TargetArgs,
    lock: LockFlags,
    verb: &str,
    not_one: &dyn Fn(usize) -> Diagnostic,
) -> Result<PathInfo, Failure> {
    let targets = evaluate::targets(session, args)?;
    let stream = Stream::start(session, false);
    let mode = Mode::building(lock);
    let evaluated = match build::evaluated(session, args, &mode, &targets, &stream) {
        Ok(evaluated) => evaluated,
        Err(failure) => return Err(stream.fail(session, failure)),
    };
    let items = evaluated.values.iter().flatten();
    let results = items.map(|item| match item {
        Item::Object(_) => 1,
        Item::Derivation { outputs, .. } => outputs.len(),
    });
    match results.sum() {
        1 => {}
        many => return Err(stream.fail(session, Failure::new(not_one(many)))),
    }
    let wanted = build::wanted(&evaluated.values);
    let options = RunOptions {
        offline: lock.offline,
        spent: stream.spent(),
        command: format!("{verb}{}", args.words()),
        project: target::project(&targets),
        attrs: target::attrs(&targets, &evaluated.values),
        locks: evaluated.locks.clone(),
        ..RunOptions::default()
    };
    let report = run::build(session, evaluated.graph, &wanted, &options, stream)?;
    if !report.success() {
        return Err(Failure::shown(report.failures.clone(), report.exit_code()));
    }
    let paths = build::paths(&evaluated.values, &report);
    let Some((path, _)) = paths.first() else {
        return Err(Failure::new(not_one(0)));
    };
    let found = session.store()?.query(path)?;
    found.ok_or_else(|| Failure::new(not_one(0)))
}

fn not_signed() -> Failure {
    Failure::new(
        Diagnostic::error(
            "export-sign",
            Class::Usage,
            "only disks, EFI programs and directories for booting over the network are signed for Secure Boot",
        )
        .help("write `disk:FILE` behind a disk or a program, `dir:DIR` behind `.#netboot`"),
    )
}

fn to_dir(
    session: &Session,
    info: &PathInfo,
    dir: &Path,
    signer: Option<&Signer>,
) -> Result<(), Failure> {
    let store = session.store()?;
    let place = store.physical(&info.path);
    if signer.is_some() && (info.kind != ObjectKind::Tree || !place.is_dir()) {
        return Err(not_signed());
    }
    if info.kind == ObjectKind::Tree {
        let draft = Draft::beside(dir).map_err(refused)?;
        let written = export::write_tree(&place, draft.path()).and_then(|()| {
            signer.map_or(Ok(Vec::new()), |signer| {
                sign_directory(draft.path(), signer)
            })
        });
        let signed = written.map_err(|error| refused(draft.named(error)))?;
        draft.finish().map_err(refused)?;
        tell_signed(session, &signed);
        return Ok(());
    }
    let Some(root) = &info.root else {
        return Ok(());
    };
    let owners = if rustix::process::geteuid().is_root() {
        Owners::Kept
    } else {
        Owners::Caller
    };
    let draft = Draft::beside(dir).map_err(refused)?;
    let written = export::write_rootfs(store, root, draft.path(), owners);
    let left_out = written.map_err(|error| refused(draft.named(error)))?;
    draft.finish().map_err(refused)?;
    if left_out != export::LeftOut::default() && !session.global.quiet {
        output::message(&format!(
            "only root can write the owners of files; without the rights of {} and without {}",
            size::count(left_out.rights, "program"),
            size::count(left_out.devices, "device")
        ));
    }
    Ok(())
}

fn to_file(
    session: &Session,
    info: &PathInfo,
    file: &Path,
    signer: Option<&Signer>,
) -> Result<(), Failure> {
    let store = session.store()?;
    let place = store.physical(&info.path);
    if info.root.is_some() || !place.is_file() {
        let path = info.path.absolute(store.store_dir());
        return Err(Failure::new(
            Diagnostic::error(
                "export-no-file",
                Class::Usage,
                format!("`{path}` is not one file"),
            )
            .help("name a disk, as in `.#disk` or `.#qcow2`; a directory goes to `dir:DIR`"),
        ));
    }
    if signer.is_some() {
        only_raw(info, &place)?;
    }
    let draft = Draft::beside(file).map_err(refused)?;
    let written = export::write_sparse(&place, draft.path())
        .and_then(|()| signer.map_or(Ok(Vec::new()), |signer| signed(draft.path(), file, signer)));
    let signed = written.map_err(|error| refused(draft.named(error)))?;
    draft.finish().map_err(refused)?;
    tell_signed(session, &signed);
    Ok(())
}

fn tell_signed(session: &Session, signed: &[String]) {
    if !session.global.quiet {
        signed
            .iter()
            .for_each(|path| output::message(&format!("signed `{path}`")));
    }
}

/// Says why nothing happens for now.
fn tell_waiting(session: &Session, dir: &Path) {
    if !session.global.quiet {
        output::message(&format!(
            "waiting for another export into `{}` to end",
            dir.display()
        ));
    }
}

/// What a disk begins with that is kept in another form than raw.
const OTHER_FORMS: [(&[u8], &str); 5] = [
    (b"QFI\xfb", "a qcow2 image"),
    (b"vhdxfile", "a VHDX image"),
    (b"conectix", "a VHD image"),
    (b"KDMV", "a VMDK image"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
];

/// Refuses to sign what has no EFI programs that could be replaced where they are.
fn only_raw(info: &PathInfo, place: &Path) -> Result<(), Failure> {
    let mut begin = Vec::new();
    let read = std::fs::File::open(place)
        .and_then(|file| std::io::Read::read_to_end(&mut std::io::Read::take(file, 8), &mut begin));
    read.map_err(|e| {
        refused(BuilderError::io(
            format!("cannot read `{}`", place.display()),
            e,
        ))
    })?;
    let found = OTHER_FORMS
        .iter()
        .find(|(magic, _)| begin.starts_with(magic));
    let Some((_, form)) = found else {
        return Ok(());
    };
    let message = format!(
        "`{}` is {form}: only raw disks can be signed",
        info.path.name()
    );
    Err(Failure::new(
        Diagnostic::error("export-sign", Class::Usage, message)
            .help("sign the raw disk, as in `.#disk`; `qemu-img convert -f raw -O qcow2 DISK IMAGE` makes an image of it afterwards"),
    ))
}

/// Signs the EFI programs of a disk, or the one that the file is, which messages call `shown`.
fn signed(file: &Path, shown: &Path, signer: &Signer) -> Result<Vec<String>, BuilderError> {
    let io = |e| BuilderError::io(format!("cannot sign `{}`", file.display()), e);
    let mut magic = [0; 2];
    std::io::Read::read_exact(&mut std::fs::File::open(file).map_err(io)?, &mut magic)
        .map_err(io)?;
    if magic == *b"MZ" {
        let program = std::fs::read(file).map_err(io)?;
        std::fs::write(file, signer.sign(&program)?).map_err(io)?;
        return Ok(vec![shown.display().to_string()]);
    }
    sign_disk(&Device::open(file, true)?, signer)
}

fn to_ostree(
    session: &Session,
    info: &PathInfo,
    repo: &Path,
    options: &AddOptions<'_>,
) -> Result<(), Failure> {
    let store = session.store()?;
    let root = repository_of(session, info)?;
    let exported = export::add_to_repository(store, root, repo, options).map_err(refused)?;
    if exported.unsigned {
        output::message(
            "warning: the summary of the repository was signed and is not any more: hosts that ask for a signature refuse it; run the command again with `--sign-gpg` or `--sign-ed25519`",
        );
    }
    if !session.global.quiet && !session.global.json {
        output::message(&format!(
            "wrote {}, {} were there",
            size::count(
                usize::try_from(exported.objects).unwrap_or(usize::MAX),
                "object"
            ),
            exported.present
        ));
        if options.deltas {
            output::message(&format!(
                "wrote static deltas of {}",
                size::bytes(exported.deltas)
            ));
        }
    }
    if session.global.json {
        let refs: serde_json::Map<String, serde_json::Value> = exported
            .refs
            .iter()
            .map(|(name, commit)| (name.clone(), commit.to_string().into()))
            .collect();
        return output::json(&serde_json::json!({ "refs": refs, "objects": exported.objects }));
    }
    exported
        .refs
        .iter()
        .try_for_each(|(name, commit)| output::line(&format!("{commit} {name}")))
}

/// The manifest of a result that may hold a repository.
fn repository_of<'a>(session: &Session, info: &'a PathInfo) -> Result<&'a Blake3, Failure> {
    if let Some(root) = &info.root {
        return Ok(root);
    }
    let path = info.path.absolute(session.store()?.store_dir());
    Err(Failure::new(
        Diagnostic::error(
            "export-no-commit",
            Class::Usage,
            format!("`{path}` is no OSTree commit"),
        )
        .help("`sos.ostree { name; rootfs; }` makes one of a root filesystem"),
    ))
}

/// Deploys a commit into a system root; by way of a repository of its own, since the one of a system root keeps files otherwise.
#[cfg(feature = "libostree")]
fn to_sysroot(session: &Session, info: &PathInfo, dir: &Path, os: &str) -> Result<(), Failure> {
    let store = session.store()?;
    let root = repository_of(session, info)?;
    let staged = store.temp_dir("deploy")?;
    let repo = staged.path().join("repo");
    let exported = export::add_to_repository(store, root, &repo, &AddOptions::default());
    let exported = exported.map_err(refused)?;
    for name in exported.refs.keys() {
        let commit = sos_builders::libostree::deploy(&repo, name, dir, os, &[]).map_err(refused)?;
        output::line(&format!("{commit} {name}"))?;
    }
    Ok(())
}

/// Whether somebody could deploy there.
#[cfg(feature = "libostree")]
fn check_sysroot(dir: &Path) -> Result<(), Failure> {
    let bad = |what: &str, help: String| {
        let message = format!("cannot deploy into `{}`: {what}", dir.display());
        Err(Failure::new(
            Diagnostic::error("export-deploy", Class::Machine, message).help(help),
        ))
    };
    if std::fs::metadata(dir).is_ok_and(|there| !there.is_dir()) {
        return bad(
            "it is no directory",
            "name the root of a system, or a directory for a new one".to_owned(),
        );
    }
    check_place(dir, Above::IsThere)?;
    if !rustix::process::geteuid().is_root() {
        return bad(
            "only root may do that",
            format!(
                "run it as root, or write `ostree:REPO` behind the target and deploy from there: `ostree admin deploy --sysroot={} REF`",
                dir.display()
            ),
        );
    }
    Ok(())
}

#[cfg(not(feature = "libostree"))]
fn check_sysroot(dir: &Path) -> Result<(), Failure> {
    Err(not_built_in(&format!(
        "cannot deploy into `{}`",
        dir.display()
    )))
}

#[cfg(not(feature = "libostree"))]
fn to_sysroot(_session: &Session, _info: &PathInfo, dir: &Path, _os: &str) -> Result<(), Failure> {
    check_sysroot(dir)
}

/// Reads the keys, before anything is built.
fn signers(args: &ExportArgs) -> Result<Signers, Failure> {
    let mut signers = Signers::default();
    for file in &args.sign_gpg {
        signers.add_gpg(file).map_err(refused)?;
    }
    for file in &args.sign_ed25519 {
        signers.add_ed25519(file).map_err(refused)?;
    }
    Ok(signers)
}

#[cfg(feature = "libostree")]
fn check(session: &Session, repo: &Path) -> Result<(), Failure> {
    let objects = sos_builders::libostree::fsck(repo).map_err(refused)?;
    if !session.global.quiet && !session.global.json {
        output::message(&format!("checked {objects} objects: all are sound"));
    }
    Ok(())
}

#[cfg(not(feature = "libostree"))]
fn not_built_in(what: &str) -> Failure {
    let message = format!("{what}: this sos was built without libostree");
    Failure::new(
        Diagnostic::error("export-not-built-in", Class::Machine, message)
            .help("install libostree-dev and pkg-config, and build it with `cargo build --release --features libostree`"),
    )
}

fn refused(error: BuilderError) -> Failure {
    match error {
        BuilderError::Diagnostic(diagnostic) => Failure::new(*diagnostic),
        BuilderError::Store(error) => error.into(),
        other => {
            let problem = Diagnostic::error("export-failed", Class::Machine, other.to_string());
            Failure::new(match &other {
                BuilderError::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
                    problem.help("name a place that you may write to")
                }
                BuilderError::Io { source, .. } if sos_store::is_disk_full(source) => {
                    problem.help("make room there, or name a place on another disk")
                }
                _ => problem,
            })
        }
    }
}
