//! A build in the Nix shape: a program in a sandbox that sees its inputs and writes its outputs under the store directory.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;
use sos_store::{Known, ObjectKind};

use crate::attributes::Attributes;
use crate::checks;
use crate::diagnose::{
    build_failed, build_log_limit, build_no_builder, build_timeout, disk_full, store_failed,
};
use crate::engine::Engine;
use crate::environment::nix_environment;
use crate::features;
use crate::kept;
use crate::options::BuildOptions;
use crate::output::{Made, Stop};
use crate::references::{self, References};
use crate::report::{Excerpt, Reporter};
use crate::sandbox::{self, Bind, Control, Exit, Input, Limits, SandboxError, Spec};
use crate::work::{Attempt, place_failed};

/// Bumped when the sandbox changes in a way that changes what builders make.
pub(crate) const REVISION: u32 = 2;

/// Plans the sandbox of a build: all that its builder will see.
pub(crate) fn plan(attempt: &Attempt<'_>) -> Result<Spec, Stop> {
    let store = &attempt.worker.store;
    let options = &attempt.worker.options;
    let place = attempt.place.path();
    refuse_wishes(
        attempt.job.name.as_str(),
        &attempt.drv,
        &options.sandbox_paths,
    )
    .map_err(Stop::Problem)?;
    check_inputs(attempt)?;
    let outputs = place.join("out");
    let build_dir = place.join("build");
    fs::create_dir(&build_dir).map_err(|e| place_failed(attempt.place, &e))?;
    // Both are seen by the builder, and the mask of whoever runs sos must not be.
    for (dir, mode) in [(&build_dir, 0o700), (&outputs, 0o1775)] {
        fs::set_permissions(dir, fs::Permissions::from_mode(mode))
            .map_err(|e| place_failed(attempt.place, &e))?;
    }
    let inputs = attempt
        .closure
        .iter()
        .map(|path| Input {
            base: path.base(),
            physical: store.physical(path),
        })
        .collect();
    let store_dir = PathBuf::from(store.store_dir().as_str());
    let inside = attempt.conditions.build_dir();
    let mut spec = Spec::nix(place, &store_dir, &outputs, &build_dir, &inside, inputs);
    let references = References {
        store,
        inputs: attempt.closure,
    };
    let environment = nix_environment(
        &references,
        &attempt.drv,
        &attempt.resolved.building,
        options,
        &inside,
    )
    .map_err(|e| attempt.failed("build-bad-attributes", Class::BuildFailed, &e))?;
    for (name, content) in &environment.files {
        let file = build_dir.join(name);
        fs::write(&file, content)
            .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(0o644)))
            .map_err(|e| place_failed(attempt.place, &e))?;
    }
    spec.env = environment.env;
    spec.program = attempt.drv.builder.clone();
    let base = attempt
        .drv
        .builder
        .rsplit(|b| *b == b'/')
        .next()
        .unwrap_or_default();
    spec.argv = vec![base.to_vec()];
    spec.argv.extend(attempt.drv.args.iter().cloned());
    for (inside, outside) in &options.sandbox_paths {
        spec.binds.push(Bind::read_only(inside, outside));
    }
    let kvm = Path::new(features::KVM_DEVICE);
    let mut required = features::required(&attempt.job.drv).into_iter();
    if required.any(|feature| feature == features::KVM) && kvm.exists() {
        spec.devices.push(kvm.to_owned());
    }
    spec.linux32 = is_32_bit(&attempt.drv.system, &options.system);
    if attempt.drv.is_fixed() && !options.offline {
        spec.allow_network();
    }
    let conditions = &attempt.conditions;
    for (name, value) in conditions.environment(false) {
        spec.set_env(name, value);
    }
    if let Some(name) = conditions.host_name() {
        spec.hostname = name;
    }
    spec.vary = conditions.vary(attempt.usual_cores, || Engine::copied_inputs(attempt));
    Ok(spec)
}

/// Runs the builder and collects the outputs that it made.
pub(crate) fn run(attempt: &Attempt<'_>) -> Result<BTreeMap<String, Made>, Stop> {
    let options = &attempt.worker.options;
    let outputs = attempt.place.path().join("out");
    check_builder(attempt)?;
    let spec = plan(attempt)?;
    let reporter = attempt.reporter.clone();
    let mut log = |bytes: &[u8]| reporter.write(bytes);
    let mut control = control(options, &attempt.reporter);
    control.prepared = Some(attempt.worker.prepared.clone());
    match sandbox::run(&spec, &mut log, &control) {
        Ok(outcome) => ended(attempt, outcome.exit, None),
        Err(SandboxError::Exec { source, .. }) if source.raw_os_error() == Some(libc::E2BIG) => {
            Err(Stop::Problem(Box::new(too_large_to_start(
                attempt.job.name.as_str(),
                &spec,
            ))))
        }
        Err(e) => Err(sandbox_failed(attempt, e)),
    }
    .map_err(|stop| kept::keep_build(attempt, stop))?;
    let mut made = BTreeMap::new();
    for (output, path) in &attempt.resolved.building {
        let place = outputs.join(path.as_str());
        if place.symlink_metadata().is_ok() {
            made.insert(output.clone(), Made::Tree(place, Known::new()));
        }
    }
    Ok(made)
}

/// Returns the limits under which a run is watched. As in Nix, a limit of 0 is none.
pub(crate) fn control(options: &BuildOptions, reporter: &Reporter) -> Control {
    Control {
        exe: Some(options.sos_exe.clone()),
        cancel: reporter.cancel().clone(),
        timeout: options
            .timeout_secs
            .filter(|n| *n > 0)
            .map(Duration::from_secs),
        silent_timeout: options
            .silent_timeout_secs
            .filter(|n| *n > 0)
            .map(Duration::from_secs),
        max_log_bytes: options.max_log_bytes.filter(|n| *n > 0),
        prepared: None,
        limits: Limits {
            memory_bytes: options.memory_max_bytes.filter(|n| *n > 0),
            processes: options.processes_max.filter(|n| *n > 0),
            file_size_bytes: None,
        },
    }
}

fn is_32_bit(system: &str, here: &str) -> bool {
    matches!(
        (system, here),
        ("i686-linux", "x86_64-linux") | ("armv7l-linux", "aarch64-linux")
    )
}

/// Turns the end of a sandboxed run into success or a problem. `own_limit` are the seconds that the derivation itself
/// allows, if that is less than what the options allow.
pub(crate) fn ended(attempt: &Attempt<'_>, exit: Exit, own_limit: Option<u64>) -> Result<(), Stop> {
    if exit.success() {
        return Ok(());
    }
    let name = attempt.job.name.as_str();
    let options = &attempt.worker.options;
    let log = attempt.reporter.finish();
    let stop = |diagnostic: Diagnostic| Err(Stop::Problem(Box::new(diagnostic)));
    // Looked at while what the builder wrote is still there.
    if matches!(exit, Exit::Code(_) | Exit::Signal(_))
        && let Some(diagnostic) = disk_full(name, attempt.worker.store.root(), &log)
    {
        return stop(diagnostic);
    }
    match exit {
        Exit::Code(code) => stop(build_failed(
            name,
            &format!("with exit status {code}"),
            attempt.took(),
            &log,
        )),
        Exit::Signal(signal) => {
            let diagnostic = build_failed(
                name,
                &format!("by signal {signal}{}", signal_name(signal)),
                attempt.took(),
                &log,
            );
            stop(match options.memory_max_bytes {
                Some(bytes) if signal == libc::SIGKILL => diagnostic.help(format!(
                    "it may have {bytes} bytes of memory: raise `build.memory-max` if that is what it needs"
                )),
                _ => diagnostic,
            })
        }
        Exit::TimedOut => {
            let (what, help) = match own_limit {
                Some(secs) => (
                    format!(
                        "took longer than the {} of its own `timeout`",
                        seconds(Some(secs))
                    ),
                    "raise `timeout` where the step is defined",
                ),
                None => return stop(build_took_too_long(name, options.timeout_secs, &log)),
            };
            stop(build_timeout(name, &what, help, &log))
        }
        Exit::SilentTooLong => stop(build_timeout(
            name,
            &format!("wrote nothing for {}", seconds(options.silent_timeout_secs)),
            "allow more with `--silent-timeout SECONDS`, or the setting `build.silent-timeout`",
            &log,
        )),
        Exit::LogTooLong => stop(build_log_limit(name, &limit(options.max_log_bytes), &log)),
        Exit::Cancelled => Err(Stop::Cancelled),
    }
}

/// A build took longer than all builds may.
pub(crate) fn build_took_too_long(name: &str, secs: Option<u64>, log: &Excerpt) -> Diagnostic {
    let what = format!("took longer than {}", seconds(secs));
    let help = "allow more with `--timeout SECONDS`, or the setting `build.timeout`";
    build_timeout(name, &what, help, log)
}

/// `1 second`, `30 seconds`.
fn seconds(limit: Option<u64>) -> String {
    match limit {
        None => "the allowed time".to_owned(),
        Some(1) => "1 second".to_owned(),
        Some(secs) => format!("{secs} seconds"),
    }
}

fn limit(limit: Option<u64>) -> String {
    limit.map_or_else(|| "the allowed".to_owned(), |n| n.to_string())
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        libc::SIGABRT => " (aborted)",
        libc::SIGKILL => " (killed; often the machine ran out of memory)",
        libc::SIGSEGV => " (segmentation fault)",
        libc::SIGBUS => " (bus error)",
        libc::SIGILL => " (illegal instruction)",
        libc::SIGFPE => " (arithmetic error)",
        libc::SIGTERM => " (terminated)",
        _ => "",
    }
}

/// The arguments and the environment of a builder are more than the kernel passes on.
fn too_large_to_start(name: &str, spec: &Spec) -> Diagnostic {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let diagnostic = Diagnostic::error(
        "build-exec",
        Class::BuildFailed,
        format!(
            "`{name}` cannot be started: its variables and arguments are larger than the kernel allows"
        ),
    )
    .note("one of them may have 128 KiB on most machines, all together 2 MiB");
    // Of two with one name the later one counts, as it does when they are passed on.
    let env: BTreeMap<&[u8], &[u8]> = spec
        .env
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    let variable = env.into_iter().max_by_key(|(_, value)| value.len());
    let argument = spec.argv.iter().map(Vec::len).max().unwrap_or(0);
    match variable {
        Some((variable, value)) if value.len() >= argument => {
            let variable = text(variable);
            diagnostic
                .note(format!(
                    "the largest is the variable `{variable}` with {} bytes",
                    value.len()
                ))
                .help(format!(
                    "`passAsFile = [ \"{variable}\" ];` puts it into a file, whose path the builder finds in `${variable}Path`"
                ))
        }
        _ => diagnostic
            .note(format!("the largest is an argument with {argument} bytes"))
            .help("write it to a file with `builtins.toFile` and pass the path of that"),
    }
}

/// Turns a sandbox that could not be made into a problem.
pub(crate) fn sandbox_failed(attempt: &Attempt<'_>, error: SandboxError) -> Stop {
    match error {
        SandboxError::Cancelled => Stop::Cancelled,
        error => {
            let diagnostic = error.into_diagnostic();
            Stop::Problem(Box::new(
                diagnostic.note(format!("while building `{}`", attempt.job.name)),
            ))
        }
    }
}

/// Attributes that may be such that a derivation cannot be built here.
const WISHES: [&str; 4] = [
    "__noChroot",
    "__impureHostDeps",
    "__json",
    references::ATTRIBUTE,
];

/// Tells, without reading much of it, whether [`refuse_wishes`] may have something to say about a derivation.
pub(crate) fn may_wish(drv: &Derivation) -> bool {
    !drv.builder.starts_with(b"builtin:")
        && WISHES
            .iter()
            .any(|name| drv.env.contains_key(name.as_bytes()))
}

/// Refuses what would let the machine into the build, and attributes that make no sense. `sandbox_paths` are those that builds
/// see of this machine: inside, outside.
pub(crate) fn refuse_wishes(
    name: &str,
    drv: &Derivation,
    sandbox_paths: &[(PathBuf, PathBuf)],
) -> Result<(), Box<Diagnostic>> {
    let refusal = |problem: &str| {
        Diagnostic::error(
            "build-bad-attributes",
            Class::Recipe,
            format!("`{name}` cannot be built: {problem}"),
        )
    };
    let refused = |problem: &str| Err(Box::new(refusal(problem)));
    let attributes = match Attributes::of(drv) {
        Ok(attributes) => attributes,
        Err(e) => return refused(&e),
    };
    match attributes.flag("__noChroot") {
        Err(e) => return refused(&e),
        Ok(true) => {
            let problem =
                "it asks for no sandbox with `__noChroot`, and sos builds nothing without one";
            return Err(Box::new(refusal(problem).help(
                "remove it; `build.sandbox-paths` shows the build what it needs of this machine",
            )));
        }
        Ok(false) => {}
    }
    if let Err(e) = checks::readable(&attributes, drv) {
        return refused(&e.to_string());
    }
    if attributes.structured().is_none()
        && let Err(e) = references::pairs(drv)
    {
        return refused(&e.to_string());
    }
    // Nix refuses them here, too, unless its configuration lists them; `build.sandbox-paths` is what does so for sos.
    let wanted = attributes.list("__impureHostDeps").unwrap_or_default();
    let shown = |path: &str| {
        let mut paths = sandbox_paths.iter();
        paths.any(|(inside, _)| Path::new(path).starts_with(inside))
    };
    if let Some(path) = wanted.iter().find(|path| !shown(path)) {
        return refused(&format!(
            "it asks for `{path}` of this machine with `__impureHostDeps`, which `build.sandbox-paths` does not show"
        ));
    }
    Ok(())
}

/// A rootfs object has no files that could be mounted.
fn check_inputs(attempt: &Attempt<'_>) -> Result<(), Stop> {
    let store = &attempt.worker.store;
    for path in &attempt.resolved.drv.input_srcs {
        if store.physical(path).symlink_metadata().is_ok() {
            continue;
        }
        let info = store.query(path).map_err(store_failed)?;
        let absolute = path.absolute(store.store_dir());
        let problem = if info.is_some_and(|info| info.kind == ObjectKind::Rootfs) {
            format!(
                "its input `{absolute}` is a root filesystem, which only steps (`sos.run`) can use"
            )
        } else {
            format!("its input `{absolute}` is not in the store")
        };
        return Err(attempt.failed("build-bad-input", Class::Recipe, &problem));
    }
    Ok(())
}

/// Says early and clearly that a builder is not there.
fn check_builder(attempt: &Attempt<'_>) -> Result<(), Stop> {
    let store = &attempt.worker.store;
    let builder = String::from_utf8_lossy(&attempt.drv.builder).into_owned();
    let in_closure = match StorePath::split_absolute(store.store_dir(), &builder) {
        Ok((path, rest)) => {
            attempt.closure.contains(&path) && may_exist(&store.physical(&path), rest)
        }
        Err(_) => false,
    };
    let shown = || {
        let mut paths = attempt.worker.options.sandbox_paths.iter();
        paths.any(|(inside, outside)| {
            Path::new(&builder)
                .strip_prefix(inside)
                .is_ok_and(|rest| may_exist(outside, &rest.to_string_lossy()))
        })
    };
    let exists = in_closure || shown();
    if exists {
        return Ok(());
    }
    let base = Path::new(&builder)
        .file_name()
        .map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned())
        .unwrap_or_default();
    let providers: Vec<String> = attempt
        .closure
        .iter()
        .filter(|path| {
            !base.is_empty()
                && store
                    .physical(path)
                    .join("bin")
                    .join(&base)
                    .symlink_metadata()
                    .is_ok()
        })
        .map(|path| format!("{}/bin/{base}", path.absolute(store.store_dir())))
        .collect();
    Err(Stop::Problem(Box::new(build_no_builder(
        attempt.job.name.as_str(),
        &builder,
        attempt.closure.len(),
        &providers,
    ))))
}

/// Tells whether a path can exist inside: a link on the way may lead to another input, which only the sandbox sees.
pub(crate) fn may_exist(base: &Path, rest: &str) -> bool {
    let mut path = base.to_owned();
    let mut left = rest.split('/').filter(|part| !part.is_empty());
    loop {
        let Ok(meta) = path.symlink_metadata() else {
            return false;
        };
        let Some(part) = left.next() else {
            return true;
        };
        if meta.is_symlink() {
            return true;
        }
        path.push(part);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn builders_behind_links_are_left_to_the_sandbox() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        fs::write(dir.path().join("bin/sh"), "").unwrap();
        symlink("/nix/store/elsewhere", dir.path().join("libexec")).unwrap();
        let check = |rest, expect| assert_eq!(may_exist(dir.path(), rest), expect, "{rest}");
        check("", true);
        check("/bin/sh", true);
        check("/bin/bash", false);
        check("/libexec/tool", true);
        check("/bin/sh/x", false);
        assert!(may_exist(&dir.path().join("bin/sh"), ""));
    }
}
