//! `sos serve`: the store and targets as HTTP mirrors.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use sos_engine::{Cancel, EventSink, Graph};
use sos_formats::derivation::{Derivation, Method, Output};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::file_name::in_url;
use sos_formats::store_path::{StoreDir, StorePath};
use sos_serve::{
    Compression, Limits, Mirror, MirrorOptions, Offered, Offers, SecretKey, ServeError, Server,
    Target as Offer,
};

use crate::args::{LockFlags, TargetArgs};
use crate::commands::build;
use crate::evaluate::{self, Item, Mode};
use crate::failure::Failure;
use crate::interrupt;
use crate::render::output;
use crate::run::{self, RunOptions, Stream};
use crate::session::Session;
use crate::target;

/// Serve the store and targets over HTTP: binary cache, images, OSTree commits, distfiles, and a page that lists them
///
/// Without a target, every tree of the store is served as a Nix binary cache, and every file that is pinned by its hash under `/NAME`.
/// Targets are built first, and what they are decides where they are:
///
/// - an image (`sos.oci`) is `HOST/NAME:TAG` for podman and skopeo; NAME is that of the image, or what stands before the target
///   (`team/web=.#image`), TAG is its `tag`
///
/// - a commit (`sos.ostree`, mode `archive`) is the ref of its recipe in the repository `http://HOST/ostree`; with `--repository` that is a
///   directory in their place, with the signatures and static deltas that `sos export` has put there
///
/// - files that the recipes of the targets pin go before others of the same name
///
/// Nothing can be uploaded. A name that two files with different content have is refused when it is asked for.
///
/// The address is printed on standard output once the server listens. Ctrl-C or SIGTERM ends it, with exit code 0: answers under way get
/// ten seconds more.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sos serve                                        the store, on http://127.0.0.1:8089\n  sos serve .#image ./web.rootfs.toml#ostree       and an image and a commit\n  sos serve --repository /srv/repo                 a repository with its signatures and static deltas\n  sos serve team/web=.#image --listen 0.0.0.0:8089 under another name, for everybody\n  sos serve --key secret.key                       signed, as `nix copy --from` wants it"
)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    lock: LockFlags,
    /// Where to listen; port 0 picks a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8089")]
    listen: String,
    /// Sign what the binary cache says with the secret key in FILE, as `nix-store --generate-binary-cache-key` makes it
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Serve the OSTree repository in DIR, as it is; keys for signing are with `sos export`
    #[arg(long, value_name = "DIR")]
    repository: Option<PathBuf>,
    /// How the archives of the binary cache are compressed
    #[arg(long, value_name = "HOW", value_enum, default_value = "zstd")]
    compression: How,
}

/// Ways to compress archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum How {
    /// Not at all: nothing to do for either side, and downloads can be resumed
    None,
    /// Fast
    Zstd,
    /// Small and slow
    Xz,
}

/// Runs the verb.
///
/// # Errors
/// Problems of the recipe, of building, of the key, and of the address.
pub(crate) fn run(session: &Session, args: &ServeArgs) -> Result<(), Failure> {
    let key = args.key.as_deref().map(read_key).transpose()?;
    // Before anything is built: an address that is taken is the more likely mistake.
    let server = Server::bind(&args.listen, Limits::default())?;
    let (names, target) = names(&args.target);
    let nothing = target.targets.is_empty()
        && target.file.is_none()
        && target.expression.is_none()
        && target.attr.is_empty();
    let built = if nothing {
        Built::default()
    } else {
        built(session, &target, args.lock)?
    };
    let store = session.store()?;
    let mut offers = Offers::new(built.pins);
    for (hash, output, path) in built.realised {
        offers.realised(&hash, &output, path);
    }
    if let Some(dir) = &args.repository {
        let offered = offers.add_repository(dir)?;
        tell(session, &server, &dir.display().to_string(), &offered)?;
    }
    for (at, paths) in built.paths.into_iter().enumerate() {
        let name = names.get(at).cloned().flatten();
        let mut images = 0;
        for path in paths {
            let offered = offers.add(
                store,
                &Offer {
                    path: path.clone(),
                    name: name.clone(),
                },
            )?;
            images += offered.iter().filter(|one| is_image(one)).count();
            let shown = path.absolute(store.store_dir());
            tell(session, &server, &shown, &offered)?;
        }
        if let (Some(name), 0) = (&name, images) {
            return Err(unused(name, target.targets.get(at)));
        }
    }
    let address = server.address();
    let options = MirrorOptions {
        key,
        compression: match args.compression {
            How::None => Compression::None,
            How::Zstd => Compression::Zstd,
            How::Xz => Compression::Xz,
        },
        address: address.to_string(),
    };
    if !address.ip().is_loopback() && !session.global.quiet {
        output::message(&format!(
            "everybody who reaches {address} can read the trees of this store"
        ));
    }
    let mirror = Mirror::new(store.clone(), offers, options);
    let runtime = run::runtime()?;
    runtime.block_on(async {
        let cancel = Cancel::new();
        let told = Arc::new(tokio::sync::Notify::new());
        let notify = Arc::clone(&told);
        let subscription = cancel.on_cancel(move || notify.notify_one());
        let seen = Arc::new(AtomicU8::new(0));
        let watch = tokio::spawn(interrupt::watch(
            cancel,
            seen,
            interrupt::First::Stops,
            false,
            |_| {},
        ));
        announce(session, &format!("http://{address}/"))?;
        let ended = server.run(mirror, told.notified()).await;
        watch.abort();
        drop(subscription);
        ended.map_err(|e| Failure::io("cannot take connections", &e))
    })
}

fn is_image(offered: &Offered) -> bool {
    matches!(offered, Offered::Image { .. })
}

/// A name that would be ignored looks to its writer as if it counted.
fn unused(name: &str, target: Option<&String>) -> Failure {
    let target = target.map_or("the target", String::as_str);
    let message = format!("`{target}` is no image, so nothing would be called `{name}`");
    Failure::new(
        Diagnostic::error("serve-name-unused", Class::Usage, message)
            .note("commits are served under their ref, files under their own name, trees under their path")
            .help(format!("leave `{name}=` out, or name an image (`sos.oci`)")),
    )
}

/// Prints where the server is: a script reads that line and goes on.
fn announce(session: &Session, url: &str) -> Result<(), Failure> {
    if session.global.json {
        return output::line(&serde_json::json!({ "url": url }).to_string());
    }
    output::line(url)
}

fn read_key(file: &Path) -> Result<SecretKey, Failure> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::new(
            Diagnostic::error(
                "serve-no-key",
                Class::Usage,
                format!("cannot read the key in `{shown}`: {error}"),
            )
            .help("name the file with the secret half of a pair of keys"),
        )
    })?;
    SecretKey::parse(&text).map_err(|error| {
        let diagnostic = Diagnostic::from(error).note(format!("in `{shown}`"));
        Failure::new(diagnostic)
    })
}

/// Splits `NAME=TARGET`; a target that begins like that is written with `./`.
fn names(args: &TargetArgs) -> (Vec<Option<String>>, TargetArgs) {
    let mut target = args.clone();
    let mut names = Vec::new();
    for word in &mut target.targets {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
        let name = word.split_once('=').filter(|(name, _)| {
            name.chars().all(plain) && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        });
        match name.map(|(name, rest)| (name.to_owned(), rest.to_owned())) {
            Some((name, rest)) => {
                names.push(Some(name));
                *word = rest;
            }
            None => names.push(None),
        }
    }
    (names, target)
}

/// Targets that are built.
#[derive(Default)]
struct Built {
    /// The results of each target.
    paths: Vec<Vec<StorePath>>,
    /// Where the files are that the recipes pin.
    pins: BTreeSet<StorePath>,
    /// What came out of content-addressed derivations: the hash that stands for each, the output, and its path.
    realised: Vec<(String, String, StorePath)>,
}

fn built(session: &Session, args: &TargetArgs, lock: LockFlags) -> Result<Built, Failure> {
    let targets = evaluate::targets(session, args)?;
    let stream = Stream::start(session, false);
    // Files that recipes pin are served, whatever is made of them.
    let mode = Mode::building(lock).with_whole_graph();
    let evaluated = match build::evaluated(session, args, &mode, &targets, &stream) {
        Ok(evaluated) => evaluated,
        Err(failure) => return Err(stream.fail(session, failure)),
    };
    let pins = pins(&evaluated.graph, &session.store_dir()?);
    let wanted = build::wanted(&evaluated.values);
    let options = RunOptions {
        offline: lock.offline,
        spent: stream.spent(),
        command: format!("serve{}", args.words()),
        project: target::project(&targets),
        attrs: target::attrs(&targets, &evaluated.values),
        locks: evaluated.locks.clone(),
        ..RunOptions::default()
    };
    let report = run::build(session, evaluated.graph.clone(), &wanted, &options, stream)?;
    if !report.success() {
        return Err(Failure::shown(report.failures.clone(), report.exit_code()));
    }
    let results = build::paths(&evaluated.values, &report);
    let realised = realised(session, &options, &evaluated, &results)?;
    let mut all = results.into_iter();
    let count = |items: &Vec<Item>| -> usize {
        let count = |item: &Item| match item {
            Item::Object(_) => 1,
            Item::Derivation { outputs, .. } => outputs.len(),
        };
        items.iter().map(count).sum()
    };
    let paths = evaluated.values.iter().map(|items| {
        let part = all.by_ref().take(count(items));
        part.map(|(path, _)| path).collect()
    });
    Ok(Built {
        paths: paths.collect(),
        pins,
        realised,
    })
}

/// What Nix asks a binary cache before it can ask for the path of an output.
fn realised(
    session: &Session,
    options: &RunOptions,
    evaluated: &evaluate::Evaluated<Vec<Item>>,
    results: &[(StorePath, String)],
) -> Result<Vec<(String, String, StorePath)>, Failure> {
    let engine = run::engine(session, options, EventSink::null())?;
    let mut results = results.iter();
    let mut found = Vec::new();
    for item in evaluated.values.iter().flatten() {
        let Item::Derivation { drv, outputs } = item else {
            results.next();
            continue;
        };
        let hash = engine.realisation_hash(&evaluated.graph, drv);
        let hash = hash.map_err(|problem| Failure::new(*problem))?;
        for (path, output) in results.by_ref().take(outputs.len()) {
            found.extend(
                hash.iter()
                    .map(|hash| (hash.clone(), output.clone(), path.clone())),
            );
        }
    }
    Ok(found)
}

/// The paths of files whose content a recipe pins.
fn pins(graph: &Graph, dir: &StoreDir) -> BTreeSet<StorePath> {
    let mut found = BTreeSet::new();
    let mut take = |path: &StorePath, drv: &Derivation| {
        let flat = |output: &Output| {
            let method = match output {
                Output::Fixed { method, .. } => Some(method),
                _ => None,
            };
            method == Some(&Method::Flat)
        };
        let name = Derivation::name_from_path(path);
        let outputs = drv.outputs.iter().filter(|(_, output)| flat(output));
        found.extend(outputs.filter_map(|(output, _)| drv.output_path(dir, name, output)));
    };
    for (path, drv) in &graph.drvs {
        take(path, drv);
    }
    for (path, text) in &graph.texts {
        if let Ok(drv) = Derivation::parse_aterm(text, dir) {
            take(path, &drv);
        }
    }
    found
}

/// Says what a target is offered as.
fn tell(
    session: &Session,
    server: &Server,
    shown: &str,
    offered: &[Offered],
) -> Result<(), Failure> {
    if session.global.quiet {
        return Ok(());
    }
    let address = server.address();
    for one in offered {
        output::message(&match one {
            Offered::Image { name, tag, digest } => {
                format!("image  {address}/{name}:{tag}  {digest}")
            }
            Offered::Ref { branch, commit } => {
                format!("ref    {branch}  in http://{address}/ostree  {commit}")
            }
            Offered::File { name } => format!("file   http://{address}/{}", in_url(name)),
            Offered::Hidden { name } => format!(
                "warning: `{name}` is not served as a file: at http://{address}/{} is something else; give it another name",
                in_url(name)
            ),
            Offered::Tree => format!("path   {shown}"),
            Offered::Nothing => format!(
                "warning: `{shown}` is a root filesystem, which no protocol here carries; serve an image (`sos.oci`) or a commit \
                 (`sos.ostree`, mode `archive`) of it"
            ),
        });
    }
    Ok(())
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        Self::new(Diagnostic::from(error))
    }
}
