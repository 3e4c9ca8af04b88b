//! The plan as what the library builds it from.

use std::collections::{BTreeMap, BTreeSet};

use sos_formats::diagnostic::{Class, Diagnostic, Label, SourceFile};
use sos_lang::{FileType, Plain};

use super::arch::system;
use super::checkout::{Checkout, Result};
use super::files::{at_source, at_text};
use super::kaem::{Reader, Shell};
use super::manifest::Kind;
use super::plan::{Plan, Step};
use super::scripts::{next_start, of_bash, of_kaem};
use super::sources::Distfile;
use super::stage0::{self, Input, Stage0};
use super::variables::Variables;
use crate::plain::{Set, text, texts};
use crate::rootfs::places::Made;

/// Where distfiles are, for steps.
const DISTFILES: &str = "/external/distfiles";
/// Scripts of steps run with these names, and no others, from outside.
const KAEM: &str = "/usr/bin/kaem";
const BASH: &str = "/usr/bin/bash";

/// Distfiles that a step opens although it does not declare them, by name of the step.
pub(crate) type Extra = BTreeMap<String, Vec<String>>;

/// Returns what `bootstrap.nix` takes; `made` gets the places of its `places`, where the manifest has each step.
///
/// # Errors
/// Problems of stage0's scripts and of links in steps.
pub(crate) fn lower(
    checkout: &Checkout<'_>,
    plan: &Plan,
    extra: &Extra,
    made: &mut Made,
) -> std::result::Result<Plain, Vec<Diagnostic>> {
    let one = |e: Box<Diagnostic>| vec![*e];
    let arch = plan.settings.get("ARCH").to_owned();
    let arch_dir = plan.settings.get("ARCH_DIR").to_owned();
    let seeded = checkout.kind("seed/seed.kaem").map_err(one)?.is_some();
    let lowerer = Lowerer {
        checkout,
        plan,
        extra,
        pins: of_packages(plan),
        variables: plan.variables.of_no_machine(),
        seeded,
    };
    let mut set = Set::new()
        .with("arch", text(&arch))
        .with("system", text(system(checkout, &arch).map_err(one)?));
    let kaem = if seeded {
        let stage0 = stage0::read(checkout, &arch, &arch_dir).map_err(one)?;
        stage0::has_seed(checkout, &arch, &arch_dir).map_err(one)?;
        let (seed, variables) = lowerer.seed(&stage0, &arch_dir).map_err(one)?;
        set = set
            .with(
                "stage0",
                lowerer.stage0(&stage0, &arch, &arch_dir).map_err(one)?,
            )
            .with("seed", seed);
        variables
    } else {
        BTreeMap::new()
    };
    let mut steps = Vec::new();
    let mut problems = unknown_steps(checkout, plan, extra).map_err(one)?;
    for step in &plan.steps {
        match lowerer.step(step, &kaem) {
            Ok(step) => steps.push(step),
            // What every step reads is missed by each.
            Err(problem) if problems.contains(&problem) => {}
            Err(problem) => problems.push(*problem),
        }
    }
    if problems.is_empty() {
        let pins = lowerer.pins(&arch, seeded)?;
        let config = lowerer.config().map_err(one)?;
        Ok(set
            .with("config", Plain::List(config))
            .with("steps", Plain::List(steps))
            .with("pins", Plain::List(pins))
            .with("places", places(checkout, plan, made).map_err(one)?)
            .done())
    } else {
        Err(problems)
    }
}

/// Complains of files that are given to steps that are not there. A step that the variables leave out is one.
fn unknown_steps(checkout: &Checkout<'_>, plan: &Plan, extra: &Extra) -> Result<Vec<Diagnostic>> {
    let known: BTreeSet<&str> = plan.steps.iter().map(|s| s.name.as_str()).collect();
    let mut found = Vec::new();
    for name in extra.keys().filter(|name| !known.contains(name.as_str())) {
        let is_plain = !name.contains('/') && !matches!(name.as_str(), "" | "." | "..");
        // These hold scripts, each of which is a step.
        let of_scripts = [Kind::Improve, Kind::Jump].map(Kind::as_str);
        let holds_scripts = of_scripts.contains(&name.as_str());
        let mut places = of_scripts
            .map(|dir| format!("steps/{dir}/{name}.sh"))
            .to_vec();
        if !holds_scripts {
            places.push(format!("steps/{name}"));
        }
        let mut is_there = false;
        for place in places {
            is_there |= is_plain && checkout.resolve(&place)?.is_some();
        }
        if is_there {
            continue;
        }
        let message =
            format!("`extraDistfiles` gives files to `{name}`, and there is no such step");
        let mut problem = Diagnostic::error("bootstrap-missing", Class::Recipe, message);
        problem = if holds_scripts {
            problem.help(format!(
                "give them to one of the steps whose scripts are in `steps/{name}`, by the name in the manifest"
            ))
        } else {
            problem.suggest(name, known.iter().copied())
        };
        found.push(problem);
    }
    Ok(found)
}

/// A set with an attribute for each step, by its number, whose place is the line of the step.
fn places(checkout: &Checkout<'_>, plan: &Plan, made: &mut Made) -> Result<Plain> {
    let mut manifests: BTreeMap<&str, std::sync::Arc<SourceFile>> = BTreeMap::new();
    let mut set = Set::new();
    for step in &plan.steps {
        if !manifests.contains_key(step.tree.as_str()) {
            let manifest = checkout.need_text(&format!("{}/manifest", step.tree))?;
            manifests.insert(&step.tree, manifest);
        }
        let index = step.index.to_string();
        if let Some(manifest) = manifests.get(step.tree.as_str()) {
            let before = manifest
                .text
                .split_inclusive('\n')
                .take(step.line.saturating_sub(1));
            let start: usize = before.map(str::len).sum();
            let line = manifest.text[start..].lines().next().unwrap_or_default();
            let label = Label {
                file: std::sync::Arc::clone(manifest),
                span: start..start + line.len(),
                text: String::new(),
            };
            let path = ["places", &index, "name"].map(str::to_owned);
            made.insert(path.into(), label);
        }
        set = set.with(&index, Set::new().with("name", Plain::Null).done());
    }
    Ok(set.done())
}

/// What a step is called where one is told of: steps of extensions have the names of steps of the main tree, too.
fn name_of(step: &Step) -> String {
    let name = match step.kind {
        Kind::Build => format!("{}-pass{}", step.name, step.pass.unwrap_or(1)),
        Kind::Improve | Kind::Jump => format!("{}-{}", step.kind.as_str(), step.name),
        Kind::Uninstall => format!("uninstall-{}", step.name.split(' ').next().unwrap_or("")),
    };
    match step.tree.as_str() {
        "steps" => name,
        tree => format!("{tree}-{name}"),
    }
}

/// The line for each package in the list of pins that its step sees: a step must not depend on the pins of others.
fn of_packages(plan: &Plan) -> BTreeMap<usize, String> {
    let pinned = plan.steps.iter().filter_map(|step| {
        let package = step.package.as_ref()?;
        let digest = package.sha256.as_ref()?;
        Some((step.index, format!("{digest}  {}\n", package.file)))
    });
    pinned.collect()
}

struct Lowerer<'a> {
    checkout: &'a Checkout<'a>,
    plan: &'a Plan,
    extra: &'a Extra,
    pins: BTreeMap<usize, String>,
    /// As steps get them.
    variables: Variables,
    /// A seed of upstream's has left the variables in the root.
    seeded: bool,
}

/// A text as a file of a root.
fn placed_text(path: &str, content: &str) -> Plain {
    Set::new()
        .with("path", text(path))
        .with("content", text(content))
        .done()
}

fn variables_of(all: &BTreeMap<String, String>) -> Plain {
    let set = all.iter();
    Plain::Attrs(set.map(|(n, v)| (n.clone(), text(v))).collect())
}

impl Lowerer<'_> {
    fn path(&self, path: &str) -> Plain {
        Plain::Path(self.checkout.absolute(path))
    }

    /// A file or directory of the checkout at an absolute path.
    fn at(&self, at: &str, source: &str) -> Plain {
        at_source(self.checkout, at, source)
    }

    fn stage0(&self, stage0: &Stage0, arch: &str, arch_dir: &str) -> Result<Plain> {
        let commands = stage0.commands.iter().map(|made| self.command(made));
        let entries = self.checkout.list(stage0::DIR)?;
        let entries = entries.iter().filter(|(name, _)| !name.starts_with(".git"));
        let entries = entries
            .map(|(name, _)| self.at(&format!("/{name}"), &format!("{}/{name}", stage0::DIR)));
        let whole = [
            format!("/{}", stage0::seed(arch_dir)),
            format!("/kaem.{arch}"),
        ];
        let check = stage0.answers.iter().map(|path| {
            Set::new()
                .with("name", text(path))
                .with("source", self.path(&format!("{}/{path}", stage0::DIR)))
                .done()
        });
        Ok(Set::new()
            .with("commands", Plain::List(commands.collect()))
            .with("entries", Plain::List(entries.collect()))
            .with("whole", texts(whole))
            .with("check", Plain::List(check.collect()))
            .with("sha256sum", text(format!("/{arch_dir}/bin/sha256sum")))
            .done())
    }

    fn command(&self, made: &stage0::Made) -> Plain {
        let inputs = made.inputs.iter().map(|(at, input)| match input {
            Input::Made(index) => Set::new()
                .with("at", text(at))
                .with("made", crate::plain::int(*index))
                .done(),
            Input::Source(path) => self.at(at, path),
        });
        Set::new()
            .with("name", text(&made.name))
            .with("path", text(format!("/{}", made.path)))
            .with("command", texts(&made.argv))
            .with("cwd", text(&made.cwd))
            .with("env", variables_of(&made.variables))
            .with("tmpfs", texts(&made.scratch))
            .with("inputs", Plain::List(inputs.collect()))
            .done()
    }

    /// The root that steps begin with, and the run of the seed in it; also the variables that it hands on.
    fn seed(&self, stage0: &Stage0, arch_dir: &str) -> Result<(Plain, BTreeMap<String, String>)> {
        let mut files: Vec<Plain> = stage0
            .bin
            .iter()
            .map(|(path, index)| {
                Set::new()
                    .with("path", text(format!("/{path}")))
                    .with("made", crate::plain::int(*index))
                    .with("mode", text("0700"))
                    .done()
            })
            .collect();
        let placed = |path: &str, source: &str| {
            Set::new()
                .with("path", text(path))
                .with("source", self.path(source))
                .done()
        };
        for (name, kind) in self.checkout.list("seed")? {
            if kind == FileType::Regular {
                files.push(placed(&format!("/{name}"), &format!("seed/{name}")));
            }
        }
        // What the compiler of the seed and of the first steps is told of, beside the programs.
        files.push(placed("/M2libc", &format!("{}/M2libc", stage0::DIR)));
        files.push(placed(
            "/init",
            &format!("{}/{}", stage0::DIR, stage0::seed(arch_dir)),
        ));
        files.extend(self.config()?);
        let mut layers = vec![
            // The seed runs what it generates. With nothing in the manifest that is nothing, and every step is a run of its own.
            at_text("/steps/manifest", "\n"),
        ];
        if self.checkout.resolve("steps/configurator")?.is_some() {
            layers.push(self.at("/steps/configurator", "steps/configurator"));
        }
        let run = Set::new()
            .with(
                "command",
                texts([
                    &format!("/{arch_dir}/bin/kaem"),
                    "--verbose",
                    "--strict",
                    "--file",
                    "/after.kaem",
                ]),
            )
            .with("env", variables_of(&stage0.variables))
            .with("layers", Plain::List(layers))
            .with("files", Plain::List(files))
            .with(
                "cfg",
                Plain::List(vec![placed_text(
                    "/steps/bootstrap.cfg",
                    &self.variables.to_cfg(),
                )]),
            )
            .done();
        // What the seed sets, steps inherit.
        let seed = self.checkout.need_text("seed/seed.kaem")?;
        let env = self.checkout.need_text("steps/env")?;
        let whole = format!("{}{}{}", self.variables.to_cfg(), env.text, seed.text);
        let mut reader = Reader {
            checkout: self.checkout,
            root: "seed",
            commands: Vec::new(),
            stop: &["0.sh"],
        };
        let mut shell = Shell::with(stage0.variables.clone());
        reader.text(
            "seed.kaem",
            &SourceFile::new(&seed.name, whole),
            &mut shell,
            0,
        )?;
        Ok((run, shell.variables))
    }

    /// What steps read before they begin, and may change for those after them. Where no seed has been, each step gets the variables
    /// for itself: see [`Lowerer::variables`]. A seed of upstream's puts all of them into its root: it copies the file whole into the
    /// script that it runs, its generator writes them to the next one, and its steps read and change the one file. From the seed on
    /// they are in every key; stage0, its answers and the files of the seed are without them.
    fn config(&self) -> Result<Vec<Plain>> {
        let env = self.checkout.need_text("steps/env")?;
        Ok(vec![placed_text("/steps/env", &env.text)])
    }

    /// The variables that a step in bash can use: those that it, or what every step reads, has the names of. A changed variable is
    /// then no change for the others. A step that names the file itself, to change it for those after it, gets all of it. So does one
    /// that may put names together, and so does every step when the helpers or `env` may: upstream's do not.
    ///
    /// Nobody else can see one. What bash reads from `bootstrap.cfg` is not exported unless a script says so, which names it. That is
    /// why this is for bash alone: kaem has no variables but those of the environment, so that each program a step in kaem runs,
    /// `make` for one, is given all of them, and may use any.
    fn variables(&self, step: &Step) -> Result<Variables> {
        let mut of: BTreeSet<String> = ["env", "helpers.sh"]
            .iter()
            .flat_map(|file| [format!("steps/{file}"), format!("{}/{file}", step.tree)])
            .collect();
        match step.kind {
            Kind::Build => {
                of.insert(format!("{}/{}", step.tree, step.name));
            }
            Kind::Improve | Kind::Jump => of.extend(step.script_real.clone()),
            Kind::Uninstall => {}
        }
        let mut words = BTreeSet::new();
        for path in of {
            self.checkout.words(&path, 0, &mut words)?;
        }
        let mut whole = words.contains("bootstrap") && words.contains("cfg");
        // What they write to `env` each step after them reads.
        let earlier = self.plan.steps[..step.index].iter();
        let scripts = earlier.filter(|step| matches!(step.kind, Kind::Improve | Kind::Jump));
        for script in scripts.filter_map(|step| step.script_real.as_ref()) {
            let mut of_script = BTreeSet::new();
            self.checkout.words(script, 0, &mut of_script)?;
            if of_script.contains("env") {
                words.extend(of_script);
            }
        }
        whole |= words.contains(Checkout::INDIRECT_WORD);
        let all = &self.variables;
        Ok(all.only(|name| whole || words.contains(name)))
    }

    fn step(&self, step: &Step, kaem: &BTreeMap<String, String>) -> Result<Plain> {
        let tree = format!("/{}", step.tree);
        let bash = step.generation > 0;
        let mut layers = Vec::new();
        if bash {
            if self.checkout.resolve("steps/helpers.sh")?.is_none() {
                let problem = self.checkout.missing("steps/helpers.sh").help(
                    "steps in bash are run by the function `build` of it; a tree whose first steps are for bash has it, too",
                );
                return Err(Box::new(problem));
            }
            let pin = self.pins.get(&step.index).map_or("", String::as_str);
            layers.push(at_text(&format!("{tree}/SHA256SUMS.pkgs"), pin));
        }
        let shown = step.inputs.iter();
        layers.extend(shown.map(|shown| shown.to_plain(self.checkout)));
        // It runs the generator again, which must not find the steps after it.
        if step.kind == Kind::Improve && step.name == "reconfigure" {
            layers.push(at_text(&format!("{tree}/manifest"), "\n"));
        }
        if step.kind == Kind::Jump {
            let (at, content) = next_start(step);
            layers.push(at_text(&at, &content));
        }
        if bash && !self.seeded {
            let cfg = self.variables(step)?.to_cfg();
            layers.push(at_text("/steps/bootstrap.cfg", &cfg));
        }
        let own_env = format!("{}/env", step.tree);
        let has_own_env = step.tree != "steps" && self.checkout.resolve(&own_env)?.is_some();
        if has_own_env && bash {
            layers.push(self.at(&format!("/{own_env}"), &own_env));
        }
        let env = if has_own_env { &own_env } else { "steps/env" };
        let env = self.checkout.need_text(env)?;
        let script = if bash {
            of_bash(step, has_own_env)
        } else {
            of_kaem(step, &self.variables, &env.text)
        };
        let mut environment = BTreeMap::new();
        if bash {
            environment.insert("PATH".to_owned(), "/usr/bin".to_owned());
        } else {
            environment.clone_from(kaem);
        }
        let shell = if bash {
            texts([BASH])
        } else {
            texts([KAEM, "--verbose", "--strict", "--file"])
        };
        let distfiles = self.distfiles(step)?;
        Ok(Set::new()
            .with("name", text(name_of(step)))
            .with("index", text(step.index.to_string()))
            .with("tree", text(&step.tree))
            .with("target", text(step.target()))
            .with("pass", text(key(step, self.plan)))
            .with("line", crate::plain::int(step.line))
            .with("script", text(script))
            .with("shell", shell)
            .with("env", variables_of(&environment))
            .with("parallel", Plain::Bool(bash && step.kind == Kind::Build))
            .with("layers", Plain::List(layers))
            .with("watch", texts(watched(step)))
            .with(
                "distfiles",
                Plain::List(distfiles.iter().map(distfile).collect()),
            )
            .with_some(
                "package",
                step.package
                    .as_ref()
                    .map(|p| text(format!("/external/repo/{}", p.file))),
            )
            .done())
    }

    /// Every digest that the checkout says a result has; `step` is the number of the step that makes it, `seed` says that the
    /// seed does, and what has neither is of stage0.
    fn pins(&self, arch: &str, seeded: bool) -> std::result::Result<Vec<Plain>, Vec<Diagnostic>> {
        let mut out = Vec::new();
        let pin = |kind: &str, path: &str, sha256: &str| {
            let path = format!("/{}", path.trim_start_matches('/'));
            Set::new()
                .with("kind", text(kind))
                .with("path", text(path))
                .with("sha256", text(sha256))
        };
        let read = |path: &str| -> std::result::Result<_, Vec<Diagnostic>> {
            match self.checkout.text(path).map_err(|e| vec![*e])? {
                Some(file) => super::pins::read(&file),
                None => Ok(BTreeMap::new()),
            }
        };
        if seeded {
            for (path, digest) in read(&format!("{}/{arch}.answers", stage0::DIR))? {
                out.push(pin("stage0", &path, &digest).done());
            }
            for tool in ["configurator", "script-generator"] {
                for (path, digest) in read(&format!("seed/{tool}.{arch}.checksums"))? {
                    out.push(pin("seed", &path, &digest).done());
                }
            }
        }
        let mut seen = BTreeSet::new();
        for step in &self.plan.steps {
            for file in step.distfiles.iter().filter(|f| seen.insert(&f.name)) {
                let pin = pin(
                    "source",
                    &format!("{DISTFILES}/{}", file.name),
                    &file.sha256,
                );
                out.push(
                    pin.with("of", text(name_of(step)))
                        .with("file", distfile(file))
                        .done(),
                );
            }
            let index = || crate::plain::int(step.index);
            let installed = step.outputs.iter().flatten();
            for (path, digest) in installed {
                out.push(pin("file", path, digest).with("step", index()).done());
            }
            let package = step.package.as_ref();
            if let Some((package, digest)) = package.and_then(|p| Some((p, p.sha256.as_ref()?))) {
                let path = format!("/external/repo/{}", package.file);
                out.push(pin("package", &path, digest).with("step", index()).done());
            }
        }
        Ok(out)
    }

    /// The files from outside that a step sees: its own, and those that it was given. Who looks at all that there are sees those
    /// of the steps before it: they are here, and the others are not to be fetched for its sake.
    fn distfiles(&self, step: &Step) -> Result<Vec<Distfile>> {
        let mut all = step.distfiles.clone();
        if step.lists_distfiles {
            let mut seen = BTreeSet::new();
            let earlier = self.plan.steps[..step.index].iter();
            let earlier = earlier.flat_map(|earlier| &earlier.distfiles);
            all.extend(earlier.filter(|file| seen.insert(&file.name)).cloned());
        }
        for name in self.extra.get(&step.name).into_iter().flatten() {
            let mut known = self.plan.steps.iter().flat_map(|s| &s.distfiles);
            match known.find(|d| d.name == *name) {
                Some(found) if !all.contains(found) => all.push(found.clone()),
                Some(_) => {}
                None => {
                    let message = format!(
                        "`extraDistfiles` gives `{}` the file `{name}`, which no step declares",
                        step.name
                    );
                    let names = self.plan.steps.iter().flat_map(|s| &s.distfiles);
                    let names: BTreeSet<&str> = names.map(|d| d.name.as_str()).collect();
                    let problem = Diagnostic::error("bootstrap-missing", Class::Recipe, message)
                        .suggest(name, names.into_iter());
                    return Err(Box::new(problem));
                }
            }
        }
        Ok(all)
    }
}

pub(super) fn distfile(file: &Distfile) -> Plain {
    Set::new()
        .with("name", text(&file.name))
        .with("at", text(format!("{DISTFILES}/{}", file.name)))
        .with("sha256", text(&file.sha256))
        .with("urls", texts(&file.urls))
        .with_some("git", file.git.as_ref().map(text))
        .done()
}

/// Which of the steps of one target it is: builds by their pass, others by how often they came.
fn key(step: &Step, plan: &Plan) -> String {
    match step.pass {
        Some(pass) => pass.to_string(),
        None => {
            let same = plan.steps[..step.index].iter();
            let same = same.filter(|s| s.kind == step.kind && s.name == step.name);
            (same.count() + 1).to_string()
        }
    }
}

/// Directories that others have files in, which a step may look for without having declared them.
fn watched(step: &Step) -> Vec<String> {
    let mut dirs = vec![DISTFILES.to_owned(), "/steps".to_owned()];
    if step.tree != "steps" {
        dirs.push(format!("/{}", step.tree));
    }
    dirs
}
