//! `sos store`: looks into the store and verifies it.

use std::borrow::Cow;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use sos_formats::derivation::Method;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;
use sos_store::rootfs::{KindView, RootTree};
use sos_store::{CheckOptions, ObjectKind, PathInfo, Store};

use crate::failure::Failure;
use crate::render::{output, size, text};
use crate::session::Session;

/// Look into the store, add to it, verify it
#[derive(Debug, clap::Args)]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, clap::Subcommand)]
enum StoreCommand {
    /// List the objects of the store, or the entries of a directory in one
    Ls {
        /// `/nix/store/...`, or a path in it
        path: Option<String>,
        /// With type, mode, owner and size
        #[arg(short, long)]
        long: bool,
    },
    /// Print a file of a store object
    Cat {
        /// `/nix/store/.../file`
        path: String,
    },
    /// Say what is known of store objects
    Info {
        /// `/nix/store/...`
        #[arg(required = true)]
        paths: Vec<String>,
        /// Sizes of whole closures as well
        #[arg(short = 'S', long)]
        closure_size: bool,
        /// Print only where the object is on disk
        #[arg(long, conflicts_with = "closure_size")]
        physical: bool,
        /// Print only the size
        #[arg(long, conflicts_with_all = ["closure_size", "physical"])]
        size: bool,
    },
    /// Add files or directories as sources; print their paths
    Add {
        /// What to add
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Name of the object [default: that of the file]
        #[arg(long)]
        name: Option<String>,
        /// Hash a file by its content, not as an archive
        #[arg(long)]
        flat: bool,
    },
    /// Verify the store: every object, every blob, the database
    Check {
        /// Trust the content of files; check only that everything is there
        #[arg(long)]
        no_contents: bool,
    },
    /// Remove what `check` finds damaged, so that the next build makes it again; print what is gone
    Repair,
}

/// Runs the verb.
///
/// # Errors
/// `store-not-valid` for a path that is not there; `store-corrupt` when verification finds something.
pub(crate) fn run(session: &Session, args: &StoreArgs) -> Result<(), Failure> {
    match &args.command {
        StoreCommand::Ls { path: None, long } => list(session, *long),
        StoreCommand::Ls {
            path: Some(path),
            long,
        } => entries(session, path, *long),
        StoreCommand::Cat { path } => cat(session, path),
        StoreCommand::Info {
            paths,
            closure_size,
            physical,
            size,
        } => info(session, paths, *closure_size, *physical, *size),
        StoreCommand::Add { files, name, flat } => add(session, files, name.as_deref(), *flat),
        StoreCommand::Check { no_contents } => check(session, !no_contents),
        StoreCommand::Repair => repair(session),
    }
}

fn list(session: &Session, long: bool) -> Result<(), Failure> {
    let store = session.store()?;
    let all = store.list()?;
    if session.global.json {
        let list: Vec<_> = all.iter().map(|i| describe(store, i)).collect();
        return output::json(&serde_json::json!(list));
    }
    let mut text = String::new();
    for info in &all {
        if long {
            text.push_str(&format!(
                "{:7} {:>10}  ",
                kind(info),
                size::bytes(info.nar_size)
            ));
        }
        text.push_str(&info.path.absolute(store.store_dir()));
        text.push('\n');
    }
    output::bytes(text.as_bytes())
}

/// The name in the store of a path on disk that lies in it, as what the links of `sos build -o` lead to; any other path as it is.
pub(super) fn logical(store: &Store, text: &str) -> String {
    let inside = || {
        let real = std::fs::canonicalize(text).ok()?;
        let root = std::fs::canonicalize(store.root()).ok()?;
        // Objects lie in one directory of the store, the texts that stand for root filesystems in another.
        let mut parts = real.strip_prefix(root).ok()?.components();
        parts.next()?;
        let rest = parts.as_path().to_str()?;
        Some(format!("{}/{rest}", store.store_dir()))
    };
    if text.starts_with(store.store_dir().as_str()) {
        return text.to_owned();
    }
    inside().unwrap_or_else(|| text.to_owned())
}

/// A store object and the path inside it, without a slash at either end.
fn locate(store: &Store, text: &str) -> Result<(PathInfo, String), Failure> {
    let text = &logical(store, text);
    let (path, rest) = StorePath::split_absolute(store.store_dir(), text)?;
    let info = store.query(&path)?.ok_or_else(|| {
        Diagnostic::error(
            "store-not-valid",
            Class::Other,
            format!("`{}` is not in the store", path.absolute(store.store_dir())),
        )
        .help("`sos store ls` lists what is there")
    })?;
    let rest = rest.trim_matches('/').to_owned();
    if rest.split('/').any(|part| part == "..") {
        return Err(Failure::new(Diagnostic::error(
            "store-bad-path",
            Class::Usage,
            format!("`{text}` leads out of its object"),
        )));
    }
    Ok((info, rest))
}

/// Where an entry of a tree is on disk.
fn place(store: &Store, info: &PathInfo, rest: &str) -> PathBuf {
    let object = store.physical(&info.path);
    // Joined with nothing it would end in a slash, and an object that is a file is not found by that name.
    if rest.is_empty() {
        object
    } else {
        object.join(rest)
    }
}

fn missing(text: &str) -> Failure {
    Failure::new(Diagnostic::error(
        "store-no-entry",
        Class::Other,
        format!("there is no `{text}`"),
    ))
}

fn entries(session: &Session, text: &str, long: bool) -> Result<(), Failure> {
    let store = session.store()?;
    let (info, rest) = locate(store, text)?;
    let mut out = Vec::new();
    if let Some(root) = info.root {
        let tree = RootTree::load(store, &root)?;
        let path = tree.resolve(&rest)?;
        let entry = tree.get(&path)?.ok_or_else(|| missing(text))?;
        let names = if entry.kind == KindView::Dir {
            tree.list(&path)?
        } else {
            vec![Vec::new()]
        };
        for name in names {
            let full = [path.as_slice(), &name]
                .into_iter()
                .filter(|p| !p.is_empty())
                .collect::<Vec<_>>()
                .join(&b'/');
            let entry = tree.get(&full)?.ok_or_else(|| missing(text))?;
            if long {
                let meta = entry.meta;
                out.extend_from_slice(
                    format!(
                        "{} {:04o} {}:{} {:>10}\t",
                        letter(entry.kind),
                        meta.mode,
                        meta.uid,
                        meta.gid,
                        match entry.kind {
                            KindView::File { size, .. } => size,
                            _ => 0,
                        }
                    )
                    .as_bytes(),
                );
            }
            out.extend_from_slice(&name_of(
                full.rsplit(|b| *b == b'/').next().unwrap_or_default(),
            ));
            if let (true, KindView::Symlink { target }) = (long, entry.kind) {
                out.extend_from_slice(b" -> ");
                out.extend_from_slice(&name_of(target));
            }
            out.push(b'\n');
        }
        return output::bytes(&out);
    }
    let place = place(store, &info, &rest);
    let meta = std::fs::symlink_metadata(&place).map_err(|_e| missing(text))?;
    let mut names: Vec<_> = if meta.is_dir() {
        let listed = std::fs::read_dir(&place).and_then(|d| {
            d.map(|e| e.map(|e| e.file_name()))
                .collect::<Result<_, _>>()
        });
        listed.map_err(|e| Failure::io(&format!("cannot list `{text}`"), &e))?
    } else {
        vec![place.file_name().unwrap_or_default().to_owned()]
    };
    names.sort();
    for name in names {
        use std::os::unix::ffi::OsStrExt as _;
        let path = if meta.is_dir() {
            place.join(&name)
        } else {
            place.clone()
        };
        if long {
            let meta = std::fs::symlink_metadata(&path)
                .map_err(|e| Failure::io(&format!("cannot look at `{text}`"), &e))?;
            let letter = if meta.is_dir() {
                'd'
            } else if meta.is_symlink() {
                'l'
            } else {
                '-'
            };
            out.extend_from_slice(format!("{letter} {:>10}\t", meta.len()).as_bytes());
        }
        out.extend_from_slice(&name_of(name.as_bytes()));
        if long && let Ok(target) = std::fs::read_link(&path) {
            out.extend_from_slice(b" -> ");
            out.extend_from_slice(&name_of(target.as_os_str().as_bytes()));
        }
        out.push(b'\n');
    }
    output::bytes(&out)
}

/// A name as it is for programs, and harmless for a terminal: who builds something chooses the names in it.
fn name_of(name: &[u8]) -> Cow<'_, [u8]> {
    if std::io::stdout().is_terminal() {
        text::file_name(name).into_bytes().into()
    } else {
        name.into()
    }
}

fn letter(kind: KindView<'_>) -> char {
    match kind {
        KindView::Dir => 'd',
        KindView::File { .. } => '-',
        KindView::Symlink { .. } => 'l',
        KindView::Fifo => 'p',
        KindView::CharDev { .. } => 'c',
        KindView::BlockDev { .. } => 'b',
    }
}

fn cat(session: &Session, text: &str) -> Result<(), Failure> {
    let store = session.store()?;
    let (info, rest) = locate(store, text)?;
    if let Some(root) = info.root {
        let tree = RootTree::load(store, &root)?;
        return output::bytes(&tree.read_file(tree.resolve(&rest)?)?);
    }
    let place = place(store, &info, &rest);
    let inside = std::fs::canonicalize(&place).map_err(|_e| missing(text))?;
    // A link that leads elsewhere in the store is followed there by name, never to a file of the machine.
    if !inside.starts_with(store.root().join("tree")) {
        return Err(missing(text));
    }
    let mut file = std::fs::File::open(&inside)
        .map_err(|e| Failure::io(&format!("cannot read `{text}`"), &e))?;
    if file.metadata().is_ok_and(|m| m.is_dir()) {
        return Err(Failure::new(
            Diagnostic::error(
                "store-is-a-directory",
                Class::Other,
                format!("`{text}` is a directory"),
            )
            .help(format!("`sos store ls {text}` lists it")),
        ));
    }
    let mut chunk = vec![0; 1 << 20];
    loop {
        let n = std::io::Read::read(&mut file, &mut chunk)
            .map_err(|e| Failure::io(&format!("cannot read `{text}`"), &e))?;
        if n == 0 {
            return Ok(());
        }
        output::bytes(&chunk[..n])?;
    }
}

/// The word for what an object is.
pub(super) fn kind(info: &PathInfo) -> &'static str {
    match info.kind {
        ObjectKind::Tree => "tree",
        ObjectKind::Rootfs => "rootfs",
    }
}

fn describe(store: &Store, info: &PathInfo) -> serde_json::Value {
    let dir = store.store_dir();
    serde_json::json!({
        "path": info.path.absolute(dir),
        "kind": kind(info),
        "narHash": info.nar_sha256.map(|h| format!("sha256:{h}")),
        "size": info.nar_size,
        "rootfs": info.root.map(|r| format!("blake3:{r}")),
        "references": info.references.iter().map(|r| r.absolute(dir)).collect::<Vec<_>>(),
        "deriver": info.deriver.as_ref().map(|d| d.absolute(dir)),
        "ca": info.ca,
        "physical": (info.kind == ObjectKind::Tree).then(|| store.physical(&info.path)),
    })
}

/// How an object came to be here: every build that gave it, what came out when it was built again, and other results of the
/// same derivation.
fn history(store: &Store, info: &PathInfo, value: &mut serde_json::Value) -> Result<(), Failure> {
    let dir = store.store_dir();
    let traces = store.traces_of(&info.path)?;
    let time = |secs: i64| sos_engine::rfc3339(u64::try_from(secs).unwrap_or(0) * 1000);
    let built = |trace: &sos_store::Trace| {
        serde_json::json!({
            "drv": trace.drv.absolute(dir), "output": trace.output, "builder": trace.builder, "host": trace.host,
            "started": time(trace.started_secs), "durationMs": trace.duration_ms,
            "log": trace.log.as_ref().map(|log| log.absolute(dir)),
        })
    };
    let mut others = Vec::new();
    let mut keys: Vec<&[u8; 32]> = Vec::new();
    for record in &traces {
        if keys.contains(&&record.trace.key) {
            continue;
        }
        keys.push(&record.trace.key);
        for other in store.traces_of_key(&record.trace.key)? {
            if other.trace.output == record.trace.output && other.trace.path != info.path {
                let mut value = built(&other.trace);
                value["path"] = other.trace.path.absolute(dir).into();
                others.push(value);
            }
        }
    }
    let rebuilds: Vec<serde_json::Value> = store
        .rebuilds_of(&info.path)?
        .into_iter()
        .map(|record| {
            let one = record.rebuild;
            serde_json::json!({
                "same": one.same, "found": one.found, "varied": one.conditions, "host": one.host,
                "started": time(one.started_secs), "durationMs": one.duration_ms,
            })
        })
        .collect();
    value["builds"] = traces.iter().map(|record| built(&record.trace)).collect();
    value["rebuilds"] = rebuilds.into();
    value["otherResults"] = others.into();
    Ok(())
}

/// The history of an object, a line each.
fn history_lines(value: &serde_json::Value) -> String {
    let mut text = String::new();
    let list = |key: &str| value[key].as_array().cloned().unwrap_or_default();
    let word = |one: &serde_json::Value, key: &str| one[key].as_str().unwrap_or("?").to_owned();
    for one in list("builds") {
        let (at, host) = (word(&one, "started"), word(&one, "host"));
        text.push_str(&format!(
            "{:<12} {at} on {host} by {}, {} ms\n",
            "built",
            word(&one, "builder"),
            one["durationMs"]
        ));
    }
    for one in list("rebuilds") {
        let same = if one["same"] == true {
            "equal".to_owned()
        } else {
            format!("DIFFERENT: {}", word(&one, "found"))
        };
        let (at, host) = (word(&one, "started"), word(&one, "host"));
        text.push_str(&format!(
            "{:<12} {at} on {host}, varied {}: {same}\n",
            "built again",
            word(&one, "varied")
        ));
    }
    for one in list("otherResults") {
        text.push_str(&format!(
            "{:<12} {} of {}: the same derivation gave something else\n",
            "other result",
            word(&one, "path"),
            word(&one, "started")
        ));
    }
    text
}

fn info(
    session: &Session,
    paths: &[String],
    closure: bool,
    physical: bool,
    only_size: bool,
) -> Result<(), Failure> {
    let store = session.store()?;
    let mut all = Vec::new();
    for text in paths {
        let (info, _) = locate(store, text)?;
        if physical {
            output::line(&store.physical(&info.path).display().to_string())?;
            continue;
        }
        if only_size {
            output::line(&size::bytes(info.nar_size))?;
            continue;
        }
        let mut value = describe(store, &info);
        history(store, &info, &mut value)?;
        if closure {
            let members = store.closure(std::slice::from_ref(&info.path))?;
            let mut total = 0;
            for member in &members {
                total += store.query(member)?.map_or(0, |i| i.nar_size);
            }
            value["closureSize"] = total.into();
        }
        all.push(value);
    }
    if physical || only_size {
        return Ok(());
    }
    if session.global.json {
        return output::json(&serde_json::json!(all));
    }
    let mut text = String::new();
    for value in &all {
        for (key, value) in value.as_object().into_iter().flatten().filter(|(k, v)| {
            !v.is_null() && !["builds", "rebuilds", "otherResults"].contains(&k.as_str())
        }) {
            let shown = match value {
                serde_json::Value::String(s) => s.clone(),
                serde_json::Value::Array(list) => list
                    .iter()
                    .filter_map(|v| v.as_str())
                    .collect::<Vec<_>>()
                    .join("\n             "),
                serde_json::Value::Number(n) => {
                    n.as_u64().map_or_else(|| n.to_string(), size::bytes)
                }
                other => other.to_string(),
            };
            text.push_str(&format!("{key:<12} {shown}\n"));
        }
        text.push_str(&history_lines(value));
        text.push('\n');
    }
    output::bytes(text.trim_end_matches('\n').as_bytes())?;
    output::line("")
}

fn add(
    session: &Session,
    files: &[PathBuf],
    name: Option<&str>,
    flat: bool,
) -> Result<(), Failure> {
    let store = session.store()?;
    let method = if flat {
        Method::Flat
    } else {
        Method::Recursive
    };
    for file in files {
        addable(file)?;
        let own = std::path::absolute(file)
            .ok()
            .and_then(|p| p.file_name().map(|n| n.to_string_lossy().into_owned()));
        let Some(name) = name.map(str::to_owned).or(own) else {
            return Err(Failure::new(
                Diagnostic::error(
                    "store-bad-path",
                    Class::Usage,
                    format!("`{}` has no name", file.display()),
                )
                .help("give one with `--name`"),
            ));
        };
        let path = store
            .add_path(Path::new(file), &name, method, None)
            .map_err(|error| {
                let mut diagnostic = Diagnostic::from(error);
                // There is no recipe here that could be wrong.
                if diagnostic.class == Class::Recipe {
                    diagnostic.class = Class::Other;
                }
                diagnostic
            })?;
        output::line(&path.absolute(store.store_dir()))?;
    }
    Ok(())
}

/// Refuses what is no file, directory or link, before the store is asked, which would blame the machine or a recipe.
fn addable(file: &Path) -> Result<(), Failure> {
    let shown = file.display();
    let meta = std::fs::symlink_metadata(file).map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            Failure::new(
                Diagnostic::error(
                    "store-no-file",
                    Class::Other,
                    format!("there is no `{shown}` to add"),
                )
                .help("name a file or a directory that exists"),
            )
        } else {
            Failure::new(Diagnostic::error(
                "store-no-file",
                Class::Other,
                format!("cannot look at `{shown}`: {error}"),
            ))
        }
    })?;
    if meta.is_file() || meta.is_dir() || meta.is_symlink() {
        return Ok(());
    }
    Err(Failure::new(
        Diagnostic::error(
            "store-special-file",
            Class::Other,
            format!("`{shown}` is neither a file, a directory nor a symlink"),
        )
        .help("the store keeps nothing else"),
    ))
}

/// Takes away what is damaged.
fn repair(session: &Session) -> Result<(), Failure> {
    let store = session.store()?;
    let found = store.check(CheckOptions { contents: true })?;
    let done = store.repair(&found)?;
    for path in &done.paths {
        output::line(&path.absolute(store.store_dir()))?;
    }
    if !session.global.quiet {
        output::message(&if found.problems.is_empty() {
            "nothing is damaged".to_owned()
        } else {
            format!(
                "removed {} and {}; `sos build` makes them again",
                size::count(done.paths.len(), "object"),
                size::count(done.files, "damaged file")
            )
        });
    }
    if done.left.is_empty() {
        return Ok(());
    }
    let diagnostic = done.left.iter().fold(
        Diagnostic::error(
            "store-corrupt",
            Class::Machine,
            "the database of the store is damaged, which cannot be repaired",
        ),
        |diagnostic, problem| diagnostic.note(problem.to_string()),
    );
    Err(Failure::new(diagnostic.help(format!(
        "move `{}` away; `sos build` makes a new store",
        store.root().display()
    ))))
}

fn check(session: &Session, contents: bool) -> Result<(), Failure> {
    let store = session.store()?;
    let report = store.check(CheckOptions { contents })?;
    if session.global.json {
        let problems: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
        output::json(
            &serde_json::json!({ "paths": report.paths, "blobs": report.blobs, "problems": problems }),
        )?;
    } else if !session.global.quiet {
        output::message(&format!(
            "checked {} and {}",
            size::count(report.paths, "path"),
            size::count(report.blobs, "blob")
        ));
    }
    if report.problems.is_empty() {
        return Ok(());
    }
    let mut diagnostic = Diagnostic::error(
        "store-corrupt",
        Class::Other,
        format!(
            "the store has {}",
            size::count(report.problems.len(), "problem")
        ),
    );
    for problem in report
        .problems
        .iter()
        .take(crate::render::diagnostic::MAX_DIAGNOSTICS)
    {
        diagnostic = diagnostic.note(problem.to_string());
    }
    Err(Failure::new(diagnostic.help(
        "`sos store repair` removes what is damaged, then `sos build` makes it again",
    )))
}
