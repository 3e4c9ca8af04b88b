//! `builtin:step`: a command in a root filesystem. The result is the changed root, or a tree that the command wrote.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use sos_formats::derivation::{Method, Output};
use sos_formats::diagnostic::Class;
use sos_formats::hash::Blake3;
use sos_formats::store_path::StorePath;
use sos_store::{Known, ObjectKind};

use crate::attributes::as_json;
use crate::diagnose::store_failed;
use crate::kept;
use crate::nix_shape::{control, ended, sandbox_failed};
use crate::of_root;
use crate::output::{Made, Stop};
use crate::sandbox::{StepMount, StepOutput, StepSpec, run_step};
use crate::watched;
use crate::work::Attempt;

/// The name by which derivations ask for it.
pub(crate) const NAME: &str = "builtin:step";

/// Bumped when steps change in a way that changes what they make.
pub(crate) const REVISION: u32 = 5;

/// The attributes of a step; others, like `name` and `outputs`, are for everybody.
#[derive(Deserialize)]
struct StepAttrs {
    rootfs: Option<String>,
    script: Option<String>,
    shell: Option<Vec<String>>,
    command: Option<Vec<String>>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    mounts: BTreeMap<String, String>,
    #[serde(default)]
    layers: BTreeMap<String, String>,
    #[serde(default)]
    copies: BTreeMap<String, String>,
    #[serde(default)]
    bare: bool,
    cwd: Option<String>,
    user: Option<String>,
    #[serde(default)]
    epoch: i64,
    #[serde(default)]
    timeless: bool,
    timeout: Option<u64>,
    tmpfs: Option<Vec<String>>,
    hostname: Option<String>,
    #[serde(default)]
    parallel: bool,
    #[serde(default)]
    watch: Vec<PathBuf>,
}

/// A step as its attributes say.
pub(crate) struct Planned {
    /// What runs.
    pub(crate) spec: StepSpec,
    /// Its one output.
    output: String,
    /// Seconds that it allows itself.
    timeout_secs: Option<u64>,
    /// Directories below which it may look for what others hold.
    watch: Vec<PathBuf>,
}

/// Plans the step.
pub(crate) fn planned(attempt: &Attempt<'_>) -> Result<Planned, Stop> {
    let bad = |message: &str| attempt.failed("build-bad-attributes", Class::Recipe, message);
    let json = as_json(&attempt.drv).map_err(|e| bad(&e))?;
    let attrs: StepAttrs =
        serde_json::from_value(json).map_err(|e| bad(&format!("its attributes: {e}")))?;
    let mut outputs = attempt.drv.outputs.iter();
    let (Some((output, kind)), None) = (outputs.next(), outputs.next()) else {
        return Err(bad("a step has exactly one output"));
    };
    let is_rootfs = matches!(
        kind,
        Output::Fixed {
            method: Method::Rootfs,
            ..
        } | Output::Floating {
            method: Method::Rootfs,
            ..
        }
    );
    let timeout_secs = attrs.timeout;
    let watch = attrs.watch.clone();
    let mut spec = plan(attempt, attrs)?;
    let tree = attempt.place.path().join("out").join(output);
    if !is_rootfs {
        spec.output = StepOutput::Tree(tree);
    }
    let conditions = &attempt.conditions;
    for (name, value) in conditions.environment(true) {
        spec.env.insert(name.into(), value.into());
    }
    if let Some(name) = conditions.host_name() {
        spec.hostname = name;
    }
    spec.vary = conditions.vary(attempt.usual_cores, Vec::new);
    if let Some(dir) = conditions.temporary() {
        spec.env
            .insert("TMPDIR".into(), dir.as_str().to_owned().into());
        spec.vary.temporary = Some(dir.into());
    }
    spec.network = attempt.drv.is_fixed() && !attempt.worker.options.offline;
    Ok(Planned {
        spec,
        output: output.clone(),
        timeout_secs,
        watch,
    })
}

/// Runs the step and gives its one output.
pub(crate) fn run(attempt: &Attempt<'_>) -> Result<BTreeMap<String, Made>, Stop> {
    let Planned {
        mut spec,
        output,
        timeout_secs,
        watch,
    } = planned(attempt)?;
    if attempt.worker.options.watch_steps {
        spec.watch.clone_from(&watch);
    }
    let mut control = control(&attempt.worker.options, &attempt.reporter);
    // Named in the message only if it is the one that ends the step.
    let own_limit = timeout_secs.filter(|secs| {
        *secs > 0
            && control
                .timeout
                .is_none_or(|limit| Duration::from_secs(*secs) < limit)
    });
    if let Some(secs) = own_limit {
        control.timeout = Some(Duration::from_secs(secs));
    }
    spec.keep_failed = kept::place_for_step(attempt)?;
    let reporter = attempt.reporter.clone();
    let mut log = |bytes: &[u8]| reporter.write(bytes);
    let outcome = run_step(&attempt.worker.store, &spec, &mut log, &control)
        .map_err(|e| sandbox_failed(attempt, e))?;
    for note in &outcome.notes {
        attempt.reporter.log(&format!("sos: {note}"));
    }
    let (exit, seen) = (outcome.exit, outcome.watched);
    if exit.success() {
        watched::warn(attempt, &spec, seen);
    } else {
        ended(attempt, exit, own_limit)
            .map_err(|stop| of_root::explain(&attempt.worker.store, &spec, stop))
            .map_err(|stop| watched::explain(attempt, &spec, &watch, exit, seen, stop))
            .map_err(|stop| kept::keep_step(attempt, &spec, outcome.kept.as_deref(), stop))?;
    }
    let mut made = BTreeMap::new();
    match spec.output {
        StepOutput::Rootfs => {
            if let Some(root) = outcome.root {
                made.insert(output, Made::Rootfs(root));
            }
        }
        StepOutput::Tree(tree) => {
            if tree.symlink_metadata().is_ok() {
                made.insert(output, Made::Tree(tree, Known::new()));
            }
        }
    }
    Ok(made)
}

fn plan(attempt: &Attempt<'_>, attrs: StepAttrs) -> Result<StepSpec, Stop> {
    let bad = |message: &str| attempt.failed("build-bad-attributes", Class::Recipe, message);
    let rootfs = match &attrs.rootfs {
        Some(path) => Some(rootfs_of(attempt, path)?),
        None => None,
    };
    let mut spec = StepSpec::new(rootfs, Vec::new(), attrs.epoch);
    match (&attrs.script, &attrs.command) {
        (Some(script), None) => {
            let shell = attrs
                .shell
                .unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-eu".to_owned()]);
            let shell: Vec<&str> = shell.iter().map(String::as_str).collect();
            if shell.is_empty() {
                return Err(bad("`shell` is empty"));
            }
            spec.set_script(&shell, script.as_bytes());
        }
        (None, Some(command)) if !command.is_empty() => {
            spec.argv = command.iter().map(|arg| arg.as_bytes().to_vec()).collect();
        }
        (None, Some(_)) => return Err(bad("`command` is empty")),
        (Some(_), Some(_)) => return Err(bad("it has both `script` and `command`")),
        (None, None) => return Err(bad("it has neither `script` nor `command`")),
    }
    spec.env = attrs
        .env
        .into_iter()
        .map(|(name, value)| (name.into_bytes(), value.into_bytes()))
        .collect();
    let shown = |all: &BTreeMap<String, String>| {
        let mount = |(inside, source): (&String, &String)| {
            // The place is made by hand for a layer, and must not lead out of it.
            let parts = Path::new(inside).components();
            let is_plain = parts
                .skip(1)
                .all(|part| matches!(part, Component::Normal(_)));
            if !inside.starts_with('/') || !is_plain {
                let message =
                    format!("the mount point `{inside}` is not absolute, or has `..` in it");
                return Err(bad(&message));
            }
            Ok(StepMount {
                inside: PathBuf::from(inside),
                outside: physical(attempt, source)?,
            })
        };
        all.iter().map(mount).collect::<Result<Vec<_>, _>>()
    };
    spec.mounts = shown(&attrs.mounts)?;
    spec.layers = shown(&attrs.layers)?;
    spec.copies = shown(&attrs.copies)?;
    spec.bare = attrs.bare;
    spec.timeless = attrs.timeless;
    if let Some(cwd) = attrs.cwd {
        spec.cwd = PathBuf::from(cwd);
    }
    if let Some(user) = &attrs.user {
        spec.user = parse_user(user)
            .ok_or_else(|| bad(&format!("`user` is `{user}`, expected numbers as in `0:0`")))?;
    }
    if let Some(tmpfs) = attrs.tmpfs {
        spec.tmpfs = tmpfs.into_iter().map(PathBuf::from).collect();
    }
    if let Some(hostname) = attrs.hostname {
        spec.hostname = hostname;
    }
    // A number of cores that a build is told can reach its output, so it must be asked for.
    spec.cores = attrs.parallel.then_some(attempt.worker.options.cores);
    Ok(spec)
}

fn parse_user(text: &str) -> Option<(u32, u32)> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

/// Splits a path of an input and refuses what is none.
fn input<'p>(attempt: &Attempt<'_>, path: &'p str) -> Result<(StorePath, &'p str), Stop> {
    let dir = attempt.worker.store.store_dir();
    let bad = |message: String| attempt.failed("build-bad-input", Class::Recipe, &message);
    let (object, rest) = StorePath::split_absolute(dir, path).map_err(|e| bad(e.to_string()))?;
    if !attempt.closure.contains(&object) {
        return Err(bad(format!("`{path}` is not one of its inputs")));
    }
    Ok((object, rest))
}

fn rootfs_of(attempt: &Attempt<'_>, path: &str) -> Result<Blake3, Stop> {
    let (object, rest) = input(attempt, path)?;
    let info = attempt.worker.store.query(&object).map_err(store_failed)?;
    match info.and_then(|info| info.root) {
        Some(root) if rest.is_empty() => Ok(root),
        _ => Err(attempt.failed(
            "build-bad-input",
            Class::Recipe,
            &format!("`{path}` is not a root filesystem"),
        )),
    }
}

fn physical(attempt: &Attempt<'_>, path: &str) -> Result<PathBuf, Stop> {
    let store = &attempt.worker.store;
    let (object, rest) = input(attempt, path)?;
    let info = store.query(&object).map_err(store_failed)?;
    let is_tree = info.is_some_and(|info| info.kind == ObjectKind::Tree);
    let base = store.physical(&object);
    let rest = rest.trim_start_matches('/');
    let full = if rest.is_empty() {
        base.clone()
    } else {
        base.join(rest)
    };
    // Links are followed here, and must not lead out of the input: what is mounted has to be what the key names.
    let is_link = base.symlink_metadata().is_ok_and(|meta| meta.is_symlink());
    let inside = full
        .canonicalize()
        .ok()
        .zip(base.canonicalize().ok())
        .is_some_and(|(full, base)| full.starts_with(base));
    if is_tree && inside && !is_link {
        return Ok(full);
    }
    Err(attempt.failed(
        "build-bad-input",
        Class::Recipe,
        &format!("`{path}`, which it mounts, is not a file or directory of that input"),
    ))
}

#[cfg(test)]
mod tests {
    use super::parse_user;

    #[test]
    fn users() {
        assert_eq!(parse_user("0:0"), Some((0, 0)));
        assert_eq!(parse_user("33"), Some((33, 33)));
        assert_eq!(parse_user("root"), None);
        assert_eq!(parse_user("1:-1"), None);
    }
}
