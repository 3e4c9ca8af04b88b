//! A shell in the sandbox of a build: the same namespaces, mounts, environment and filter, with a person in place of the builder.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;
use sos_store::rootfs::RootTree;
use sos_store::{Lease, Store, TempDir};
use tokio::runtime::Handle;

use crate::builder::Pool;
use crate::cancel::Cancel;
use crate::choice::{Chosen, choose};
use crate::diagnose::{refuse_impure, store_failed, wrong_system};
use crate::engine::Engine;
use crate::event::{EventSink, Text};
use crate::executor::Job;
use crate::graph::{Graph, Wanted};
use crate::kept::{self, Kept};
use crate::needed::load;
use crate::output::Stop;
use crate::report::Reporter;
use crate::resolve::{for_builder, resolve};
use crate::sandbox::{
    Control, Exit, SandboxError, Session, Shape, Spec, StepMount, StepSpec, Streams, converse,
    converse_in_step,
};
use crate::verify::Conditions;
use crate::work::{Attempt, Worker, place_failed, systems};
use crate::{nix_shape, step};

mod lent;
mod program;

use program::{Program, quoted};

/// The file that runs the builder again, in the build directory of the Nix shape.
const RERUN: &str = ".sos-run";

/// What is asked of a shell.
#[derive(Clone, Debug, Default)]
pub struct ShellWish {
    /// The state that the failed build has left, instead of a fresh one.
    pub at_failure: bool,
    /// A program, or a store object with one; none means that of the build or of its inputs.
    pub shell: Option<String>,
    /// Run this and end.
    pub command: Option<String>,
    /// Directories of this machine with programs: a static shell of one of them is shown to a root filesystem that has none.
    pub programs: Vec<PathBuf>,
}

/// What a person may want to know before the shell begins.
#[derive(Clone, Debug)]
pub struct ShellFacts {
    /// Name of the derivation.
    pub name: String,
    /// The builder with its arguments, as a shell reads it.
    pub builder: String,
    /// What runs it again, as the shell reads it.
    pub rerun: String,
    /// What its inputs are called.
    pub inputs: Vec<String>,
    /// Objects that are shown, with what the inputs refer to.
    pub shown: usize,
    /// How the build whose state this is failed.
    pub failure: Option<String>,
    /// The program of this machine that is the shell, in a root filesystem that has none, and where it is there.
    pub lent: Option<(PathBuf, &'static str)>,
}

/// A shell that can be entered.
pub struct Shell {
    place: Place,
    facts: ShellFacts,
    control: Control,
    kept: Option<Kept>,
    store: Store,
    /// What launches it ends with this.
    _session: Session,
    // Removed last, and held until then.
    _dir: TempDir,
    _lease: Lease,
}

enum Place {
    Nix(Box<Spec>),
    Step(Box<StepSpec>),
}

impl Engine {
    /// Returns what must be there before a shell in the sandbox of `drv` can be made: its inputs.
    ///
    /// # Errors
    /// When the derivation is not known, is built without a sandbox, or has no state of a failure when that is wished for: nothing is to
    /// be built for a shell that cannot be.
    pub fn shell_inputs(
        &self,
        graph: &Graph,
        drv: &StorePath,
        wish: &ShellWish,
    ) -> Result<Vec<Wanted>, Box<Diagnostic>> {
        let found = load(self.store(), graph, drv)?;
        self.require_sandbox(drv, &found)?;
        if wish.at_failure && !kept::has_failed(self.store(), drv) {
            return Err(nothing_kept(self.store(), Derivation::name_from_path(drv)));
        }
        Ok(found
            .input_drvs
            .iter()
            .map(|(drv, outputs)| Wanted {
                drv: drv.clone(),
                outputs: outputs.iter().cloned().collect(),
            })
            .collect())
    }

    fn require_sandbox(&self, path: &StorePath, drv: &Derivation) -> Result<(), Box<Diagnostic>> {
        let name = Derivation::name_from_path(path);
        let Chosen::InProcess(builder) = choose(self.builders(), drv, name)? else {
            return Ok(());
        };
        let mut diagnostic = Diagnostic::error(
            "shell-no-sandbox",
            Class::Usage,
            format!(
                "`{name}` is made by `{}`, a part of sos: there is no sandbox that a shell could enter",
                builder.name()
            ),
        );
        let inputs: Vec<String> = drv
            .input_drvs
            .keys()
            .map(|input| format!("`{}`", Derivation::name_from_path(input)))
            .take(5)
            .collect();
        if !inputs.is_empty() {
            diagnostic = diagnostic.note(format!("it is made of {}", inputs.join(", ")));
        }
        Err(Box::new(diagnostic.help(
            "name a derivation whose builder is a program, or a step; `sos graph` shows what a target is made of",
        )))
    }

    /// Prepares a shell in the sandbox of `drv`, whose inputs have these outputs. To be called where a runtime of tokio is at hand.
    ///
    /// # Errors
    /// When the sandbox cannot be planned, there is no shell to run in it, or no state was kept that is asked for.
    pub fn shell(
        &self,
        graph: &Graph,
        path: &StorePath,
        inputs: &BTreeMap<StorePath, BTreeMap<String, StorePath>>,
        wish: &ShellWish,
    ) -> Result<Shell, Box<Diagnostic>> {
        let store = self.store();
        let drv = load(store, graph, path)?;
        let name = Derivation::name_from_path(path);
        refuse_impure(name, &drv)?;
        self.require_sandbox(path, &drv)?;
        let is_step = matches!(choose(self.builders(), &drv, name)?, Chosen::Step);
        if !self.options().can_build(&drv.system) {
            let wrong = [(name.to_owned(), drv.system.clone())];
            if let Some(diagnostic) = wrong_system(&wrong, &systems(self.options())) {
                return Err(Box::new(diagnostic));
            }
        }
        if is_step {
            crate::probe::require_step_ids()?;
        }
        let kept = if wish.at_failure {
            Some(kept::take(store, path)?.ok_or_else(|| nothing_kept(store, name))?)
        } else {
            None
        };
        let resolved = resolve(store.store_dir(), path, &drv, inputs).map_err(|e| {
            Box::new(Diagnostic::error(
                "build-unresolved",
                Class::Bug,
                format!("`{name}` cannot be resolved: {e}"),
            ))
        })?;
        let runtime = Handle::try_current()
            .map_err(|e| Box::new(Diagnostic::error("bug", Class::Bug, e.to_string())))?;
        let mut worker =
            self.worker_for_rebuild(&runtime, self.options().clone(), &Cancel::new())?;
        worker.events = EventSink::null();
        let mut roots: Vec<StorePath> = resolved.drv.input_srcs.iter().cloned().collect();
        let chosen = wish.shell.as_deref().filter(|_| !is_step);
        roots.extend(chosen.and_then(|shell| program::object(store, shell)));
        worker.lease.hold(&roots).map_err(store_failed)?;
        for root in &roots {
            if !store.is_present(root).map_err(store_failed)? {
                return Err(missing(name, &root.absolute(store.store_dir())));
            }
        }
        let closure = store.closure(&roots).map_err(store_failed)?;
        let dir = store.temp_dir("shell").map_err(store_failed)?;
        fs::create_dir(dir.path().join("out")).map_err(|e| place_failed(&dir, &e))?;
        let text = Text::from(name);
        let job = Job {
            path: path.clone(),
            drv: drv.clone(),
            outputs: drv.outputs.keys().cloned().collect(),
            inputs: inputs.clone(),
            shown: path.absolute(store.store_dir()).into(),
            name: text.clone(),
            pool: Pool::Build,
            expected_ms: None,
            forced: false,
            place: None,
        };
        let reporter = Reporter::new(
            store.clone(),
            path.clone(),
            job.shown.clone(),
            text,
            job.pool,
            worker.events.clone(),
            worker.cancel.clone(),
        );
        // The log of the build stays.
        reporter.keep_nothing();
        let control = Control {
            prepared: None,
            ..nix_shape::control(self.options(), &reporter)
        };
        let attempt = Attempt {
            worker: &worker,
            job: &job,
            resolved: &resolved,
            drv: for_builder(store.store_dir(), &resolved),
            closure: &closure,
            place: &dir,
            reporter,
            since: worker.clock.monotonic(),
            conditions: Conditions::default(),
            usual_cores: self.options().cores,
        };
        let mut lent = None;
        let (place, builder, rerun) = if is_step {
            let mut spec = step::planned(&attempt)
                .map_err(|stop| in_words(name, stop))?
                .spec;
            let builder = words(&spec.argv);
            let shell = match shell_of_step(store, &spec, wish)? {
                Some(shell) => shell,
                None => {
                    let program = lend(name, &mut spec, &dir, wish)?;
                    lent = Some((program, lent::PLACE));
                    Program::of(format!("{}/sh", lent::PLACE).as_bytes())
                }
            };
            spec.argv = shell.argv(wish.command.as_deref());
            (Place::Step(Box::new(spec)), builder.clone(), builder)
        } else {
            let mut spec = nix_shape::plan(&attempt).map_err(|stop| in_words(name, stop))?;
            let mut argv = vec![spec.program.clone()];
            argv.extend(spec.argv.drain(..).skip(1));
            let shell = program::of_build(&attempt, wish)?;
            let build_dir = occupy(&mut spec, kept.as_ref());
            // A command sees the build directory as the builder does: nobody is there to call the file.
            let rerun = match &wish.command {
                Some(_) => words(&argv),
                None => write_rerun(&build_dir, &shell, &argv),
            };
            spec.program = shell.path().to_vec();
            spec.argv = shell.argv(wish.command.as_deref());
            (Place::Nix(Box::new(spec)), words(&argv), rerun)
        };
        let facts = ShellFacts {
            name: name.to_owned(),
            builder,
            rerun,
            inputs: resolved
                .drv
                .input_srcs
                .iter()
                .map(|path| path.name().to_owned())
                .collect(),
            shown: closure.len(),
            failure: kept.as_ref().map(|kept| kept.state.message.clone()),
            lent,
        };
        drop(attempt);
        let Worker {
            lease, _session, ..
        } = worker;
        Ok(Shell {
            place,
            facts,
            control,
            kept,
            store: store.clone(),
            _session,
            _dir: dir,
            _lease: lease,
        })
    }
}

impl Shell {
    /// Returns what a person may want to know.
    #[must_use]
    pub fn facts(&self) -> &ShellFacts {
        &self.facts
    }

    /// Runs it to its end. Blocks; call it from a thread that lives until it returns. Nothing of it is kept, but what it changes
    /// in the state of a failed build.
    ///
    /// # Errors
    /// When the sandbox cannot be made or the shell not be started.
    pub fn enter(self, streams: &Streams<'_>, cancel: Cancel) -> Result<Exit, Box<Diagnostic>> {
        let control = Control {
            cancel,
            ..self.control.clone()
        };
        let kept = self.kept.as_ref().map(|kept| kept.dir.as_path());
        match &self.place {
            Place::Nix(spec) => converse(spec, streams, &control),
            Place::Step(spec) => converse_in_step(&self.store, spec, kept, streams, &control),
        }
        .map_err(|e| {
            let exec = matches!(e, SandboxError::Exec { .. });
            let diagnostic = e.into_diagnostic();
            Box::new(if exec {
                diagnostic.help("name another shell with `--shell`")
            } else {
                diagnostic
            })
        })
    }
}

/// The shell of a step: that of its script, else one of its root filesystem.
fn shell_of_step(
    store: &Store,
    spec: &StepSpec,
    wish: &ShellWish,
) -> Result<Option<Program>, Box<Diagnostic>> {
    if let Some(shell) = &wish.shell {
        return Ok(Some(Program::of(shell.as_bytes())));
    }
    if let Some(found) = Program::known(&spec.argv) {
        return Ok(Some(found));
    }
    let tree = match &spec.rootfs {
        Some(root) => Some(RootTree::load(store, root).map_err(store_failed)?),
        None => None,
    };
    let places = ["/bin/bash", "/usr/bin/bash", "/bin/sh", "/usr/bin/sh"];
    let found = tree.and_then(|tree| {
        places.into_iter().find(|place| {
            let real = tree.resolve(place);
            real.is_ok_and(|real| tree.get(real).is_ok_and(|entry| entry.is_some()))
        })
    });
    Ok(found.map(|place| Program::of(place.as_bytes())))
}

/// Shows a shell of this machine to a step that has none, and returns which.
fn lend(
    name: &str,
    spec: &mut StepSpec,
    dir: &TempDir,
    wish: &ShellWish,
) -> Result<PathBuf, Box<Diagnostic>> {
    let Some(program) = lent::find(&wish.programs) else {
        return Err(no_shell(
            name,
            "its root filesystem has neither `/bin/bash` nor `/bin/sh`, and no directory of PATH has a shell that needs no other file",
            "install one, as Debian's package `busybox-static` has it: it is shown to such a sandbox; or name a program of the root filesystem that can be a shell with `--shell PATH`",
        ));
    };
    let shown = dir.path().join("shell");
    lent::lay_out(&program, &shown).map_err(|e| place_failed(dir, &e))?;
    spec.mounts.push(StepMount {
        inside: PathBuf::from(lent::PLACE),
        outside: shown,
    });
    spec.add_to_path(lent::PLACE);
    Ok(program)
}

fn no_shell(name: &str, note: &str, help: &str) -> Box<Diagnostic> {
    Box::new(
        Diagnostic::error(
            "shell-none",
            Class::Other,
            format!("the sandbox of `{name}` has no shell"),
        )
        .note(note)
        .help(help),
    )
}

/// The name up to its version, which begins with a digit.
fn without_version(name: &str) -> &str {
    let version = name
        .match_indices('-')
        .find(|(at, _)| name[at + 1..].starts_with(|c: char| c.is_ascii_digit()));
    version.map_or(name, |(at, _)| &name[..at])
}

fn nothing_kept(store: &Store, name: &str) -> Box<Diagnostic> {
    if let Some(other) = kept::failed_named(store, without_version(name)) {
        let other = Derivation::name_from_path(&other);
        return Box::new(
            Diagnostic::error(
                "shell-no-state",
                Class::Other,
                format!("no state of a failed build of `{name}`, as it is now, is kept"),
            )
            .note(format!(
                "the state that is kept of `{other}` is that of another derivation: the recipe, or one of its inputs, has changed since"
            ))
            .help(format!(
                "`sos shell {other} --at-failure` opens the kept one; `sos build` builds what the recipe says now"
            )),
        );
    }
    let kept = kept::names(store);
    let note = if kept.is_empty() {
        "none is kept of any build".to_owned()
    } else {
        format!("kept are those of `{}`", kept.join("`, `"))
    };
    Box::new(
        Diagnostic::error(
            "shell-no-state",
            Class::Other,
            format!("no state of a failed build of `{name}` is kept"),
        )
        .note(note)
        .note("the states of the builds that failed last are kept, as many as `build.keep-failed-states` says, until `sos gc`")
        .help("build it, and when it has failed try again; without `--at-failure` the shell begins before the build"),
    )
}

fn missing(name: &str, path: &str) -> Box<Diagnostic> {
    Box::new(
        Diagnostic::error(
            "build-missing-source",
            Class::Other,
            format!("`{path}`, an input of `{name}`, is not in the store"),
        )
        .help("name the recipe instead: evaluating it adds its sources"),
    )
}

fn in_words(name: &str, stop: Stop) -> Box<Diagnostic> {
    match stop {
        Stop::Problem(diagnostic) => diagnostic,
        Stop::Mismatch(_) | Stop::Cancelled => Box::new(Diagnostic::error(
            "interrupted",
            Class::Interrupted,
            format!("the sandbox of `{name}` was not planned"),
        )),
    }
}

/// Puts what a failed build has left in place of fresh directories, and returns the build directory.
fn occupy(spec: &mut Spec, kept: Option<&Kept>) -> PathBuf {
    let Shape::Nix {
        outputs,
        build_dir,
        inputs,
        ..
    } = &mut spec.shape
    else {
        return PathBuf::new();
    };
    if let Some(kept) = kept {
        *outputs = kept.dir.join("out");
        *build_dir = kept.dir.join("build");
        for input in inputs {
            let old = outputs.join(&input.base);
            // Links are made again; they would be in their own way.
            if old.symlink_metadata().is_ok_and(|meta| meta.is_symlink()) {
                // If it cannot be removed, the sandbox says so.
                let _told_later = fs::remove_file(&old);
            }
        }
    }
    build_dir.clone()
}

/// Writes the file that runs the builder, and returns how a shell calls it; without the file, the whole command.
fn write_rerun(build_dir: &Path, shell: &Program, argv: &[Vec<u8>]) -> String {
    let file = build_dir.join(RERUN);
    // What a builder has put there is no place to write to: it may be a link.
    let _not_there = fs::remove_file(&file);
    let mut text = b"#!".to_vec();
    text.extend(shell.interpreter());
    text.extend(b"\ncd /build\nexec");
    for word in argv {
        text.push(b' ');
        text.extend(quoted(word));
    }
    text.push(b'\n');
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o755)
        .open(&file)
        .and_then(|mut file| file.write_all(&text));
    match written {
        Ok(()) => format!("/build/{RERUN}"),
        Err(_) => words(argv),
    }
}

fn words(argv: &[Vec<u8>]) -> String {
    let words: Vec<Vec<u8>> = argv.iter().map(|word| quoted(word)).collect();
    String::from_utf8_lossy(&words.join(&b' ')).into_owned()
}
