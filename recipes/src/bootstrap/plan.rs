//! The plan of a run: which steps there are, in which shell, with which script, files from outside and pins.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_lang::{FileType, Host};

use super::arch::system;
use super::asks;
use super::checkout::Checkout;
use super::files::{Files, Shown};
use super::manifest::{self, Directive, Kind};
use super::pins;
use super::sources::{self, Digests, Distfile};
use super::variables::{self, Mode, Variables};
use crate::problems::Problems;

/// The settings of a plan, beyond what the checkout says.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Whose default variables are taken when the checkout has no `steps/bootstrap.cfg`; none is the chroot.
    pub mode: Option<Mode>,
    /// The architecture, as upstream names it; none is that of `bootstrap.cfg`, or else x86.
    pub arch: Option<String>,
    /// Variables in place of the defaults, in order.
    pub set: Vec<(String, String)>,
    /// The first step is run by bash, in a root that brings it.
    pub bash: bool,
}

/// The plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The variables before the manifest.
    pub settings: Variables,
    /// The variables after the manifest: what is in `bootstrap.cfg` while steps run.
    pub variables: Variables,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Where it comes in the order, from 0.
    pub index: usize,
    /// Directory of the manifest: `steps`, or that of an extension.
    pub tree: String,
    /// Line of the manifest, from 1.
    pub line: usize,
    /// What it does.
    pub kind: Kind,
    /// The argument of the directive.
    pub name: String,
    /// Number of the generated script that it is in.
    pub script_index: usize,
    /// 0 while kaem runs the steps; then the number of the bash that does.
    pub generation: usize,
    /// How often this name has come, this time included; for builds.
    pub pass: Option<usize>,
    /// File name of the script; of an `improve` and a `jump` with its directory.
    pub script: Option<String>,
    /// Path of that script in the checkout, links followed; none where the default stages of the helpers do all.
    pub script_real: Option<String>,
    /// What it finds of the checkout: its directory or its script, what links in there lead to, and in bash the helpers.
    pub inputs: Vec<Shown>,
    /// It looks at all files from outside that there are, and not at those of its own alone.
    pub lists_distfiles: bool,
    /// What it removes of packages: the files that list what is in them.
    pub removed: Vec<String>,
    /// Files from outside.
    pub distfiles: Vec<Distfile>,
    /// What bash packs: file name, revision and digest.
    pub package: Option<Package>,
    /// The directory of patches, links followed.
    pub patch_dir: Option<String>,
    /// What kaem installs: digests by absolute path, as `*.checksums` has them.
    pub outputs: Option<BTreeMap<String, String>>,
}

/// The package that a step in bash makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// How many packages there were before whose names begin alike.
    pub revision: usize,
    /// The file name.
    pub file: String,
    /// The digest that it has to have; none when there is no line for it.
    pub sha256: Option<String>,
}

impl Step {
    /// The shell that runs it.
    pub fn shell(&self) -> &'static str {
        if self.generation == 0 { "kaem" } else { "bash" }
    }

    /// The name below `steps` by which it is asked for.
    pub fn target(&self) -> String {
        match self.kind {
            Kind::Build => self.name.clone(),
            Kind::Improve | Kind::Jump => format!("{}-{}", self.kind.as_str(), self.name),
            Kind::Uninstall => format!("uninstall-{}", self.name.replace([' ', '/'], "-")),
        }
    }
}

/// Reads the plan of the checkout at `root`, which messages call `shown`.
///
/// # Errors
/// Every problem of the files that the plan comes from, each with its place.
pub fn plan(
    host: &dyn Host,
    root: &Path,
    shown: &str,
    settings: &Settings,
) -> Result<Plan, Vec<Diagnostic>> {
    let checkout = Checkout::open(host, root, shown).map_err(|e| vec![*e])?;
    of_checkout(&checkout, settings)
}

/// The same for a checkout that is open.
pub(crate) fn of_checkout(
    checkout: &Checkout<'_>,
    settings: &Settings,
) -> Result<Plan, Vec<Diagnostic>> {
    let start = starting_variables(checkout, settings)?;
    let mut planner = Planner {
        checkout,
        variables: start.clone(),
        found: Vec::new(),
        steps: Vec::new(),
        packages: Vec::new(),
        digests: Digests::default(),
        directories: BTreeMap::new(),
        generation: usize::from(settings.bash),
    };
    planner.tree("steps");
    let mut seen = BTreeSet::new();
    for extension in extensions(&planner.variables) {
        let known = if seen.insert(extension.clone()) {
            known_extension(checkout, &extension)
        } else {
            Err(twice(checkout, &extension).map_or_else(|error| error, Box::new))
        };
        match known {
            Ok(()) => planner.tree(&extension),
            Err(problem) => planner.found.push(*problem),
        }
    }
    if planner.found.is_empty() {
        Ok(Plan {
            settings: start,
            variables: planner.variables,
            steps: planner.steps,
        })
    } else {
        Err(planner.found)
    }
}

/// Manifests that run after the main one: `EXTRA_BUILDS` has the names, separated by commas.
pub(super) fn extensions(variables: &Variables) -> Vec<String> {
    let mut names: Vec<&str> = variables
        .get("EXTRA_BUILDS")
        .split([',', ' '])
        .filter(|name| !name.is_empty())
        .collect();
    if variables.get("BUILD_GUIX_ALSO") == "True" && !names.contains(&"guix") {
        names.push("guix");
    }
    names.iter().map(|name| format!("steps-{name}")).collect()
}

/// Looks for the manifest of an extension.
///
/// # Errors
/// `bootstrap-missing` when there is none, at the line that asks for it if a file of the checkout does, with the names of those that
/// there are.
pub(super) fn known_extension(checkout: &Checkout<'_>, tree: &str) -> super::checkout::Result<()> {
    let manifest = format!("{tree}/manifest");
    if checkout.resolve(&manifest)?.is_some() {
        return Ok(());
    }
    let name = tree.strip_prefix("steps-").unwrap_or(tree);
    let mut known = Vec::new();
    for (entry, _) in checkout.list("")? {
        let Some(extension) = entry.strip_prefix("steps-") else {
            continue;
        };
        if checkout.resolve(&format!("{entry}/manifest"))?.is_some() {
            known.push(extension.to_owned());
        }
    }
    let shown = checkout.shown(&manifest);
    let message = format!("there is no extension `{name}`: there is no `{shown}`");
    let mut problem = Diagnostic::error("bootstrap-missing", Class::Recipe, message);
    problem = asked_for(checkout, problem, |list| list.find(name), name.len())?;
    let known_names = known.iter().map(String::as_str);
    let near = problem.clone().suggest(name, known_names);
    if near.helps.len() > problem.helps.len() {
        problem = near;
    } else if known.is_empty() {
        problem = problem.note("this tree has none: an extension is a directory `steps-NAME` with a manifest, beside `steps`");
    } else {
        problem = problem.note(format!("this tree has `{}`", known.join("`, `")));
    }
    if problem.labels.is_empty() {
        problem = problem.note("the variables EXTRA_BUILDS and BUILD_GUIX_ALSO name extensions");
    }
    Err(Box::new(problem))
}

/// Says that an extension is asked for a second time: its steps would run again, as further passes that it does not have.
fn twice(checkout: &Checkout<'_>, tree: &str) -> super::checkout::Result<Diagnostic> {
    let name = tree.strip_prefix("steps-").unwrap_or(tree);
    let message = format!("the extension `{name}` is asked for twice");
    let problem = Diagnostic::error("bootstrap-syntax", Class::Recipe, message)
        .help(format!("name `{name}` once in EXTRA_BUILDS"));
    asked_for(checkout, problem, |list| list.rfind(name), name.len())
}

/// Shows a problem at the line of the checkout that asks for extensions, if there is one and `find` finds the place in its list.
fn asked_for(
    checkout: &Checkout<'_>,
    problem: Diagnostic,
    find: impl Fn(&str) -> Option<usize>,
    length: usize,
) -> super::checkout::Result<Diagnostic> {
    for path in ["steps/bootstrap.cfg", "steps/manifest"] {
        let Some(file) = checkout.text(path)? else {
            continue;
        };
        let mut start = 0;
        for line in file.text.split_inclusive('\n') {
            let asks = ["EXTRA_BUILDS=", "define: EXTRA_BUILDS = "];
            let asks = asks.iter().find(|words| line.starts_with(**words));
            let at = asks.and_then(|words| Some(words.len() + find(&line[words.len()..])?));
            if let Some(at) = at {
                let place = start + at..start + at + length;
                return Ok(problem.label(&file, place, "asked for here"));
            }
            start += line.len();
        }
    }
    Ok(problem)
}

pub(super) fn starting_variables(
    checkout: &Checkout<'_>,
    settings: &Settings,
) -> Result<Variables, Vec<Diagnostic>> {
    let of_settings = || {
        let arch = settings.set.iter().rev().find(|(name, _)| name == "ARCH");
        let arch = arch.map(|(_, value)| value).or(settings.arch.as_ref());
        let arch = arch.map_or("x86", String::as_str);
        variables::defaults(settings.mode.unwrap_or_default(), arch)
    };
    let file = checkout.text("steps/bootstrap.cfg").map_err(|e| vec![*e])?;
    let mut start = match file {
        Some(file) if settings.mode.is_none() => {
            let mut problems = Problems::in_file(&file);
            let mut read = variables::read_cfg(&file, &mut problems);
            let found = problems.finish();
            if !found.is_empty() {
                return Err(found);
            }
            if let Some(arch) = &settings.arch {
                read.set("ARCH", arch);
                read.set("ARCH_DIR", variables::arch_dir(arch));
            }
            read
        }
        _ => of_settings(),
    };
    let wrong = settings.set.iter().filter_map(|(name, value)| {
        let why = variables::wrong(name, value)?;
        let message = format!(
            "`{}` cannot be a line of `bootstrap.cfg`: {why}",
            format!("{name}={value}").escape_debug()
        );
        Some(Diagnostic::error("usage-bad-value", Class::Usage, message))
    });
    let wrong: Vec<Diagnostic> = wrong.collect();
    if !wrong.is_empty() {
        return Err(wrong);
    }
    known_names(checkout, &start, settings)?;
    for (name, value) in &settings.set {
        start.set(name, value);
        // The directory goes with the architecture unless it is given, too.
        if name == "ARCH" && !settings.set.iter().any(|(name, _)| name == "ARCH_DIR") {
            start.set("ARCH_DIR", variables::arch_dir(value));
        }
    }
    if start.has("ARCH") {
        system(checkout, start.get("ARCH")).map_err(|e| vec![*e])?;
    }
    if !matches!(start.get("CONFIGURATOR"), "" | "False") {
        let message = "CONFIGURATOR is not False: the configurator would ask for values while the system is built";
        let problem = Diagnostic::error("bootstrap-configurator", Class::Recipe, message)
            .help("give the values with `--set NAME=VALUE`, and leave CONFIGURATOR as it is");
        return Err(vec![problem]);
    }
    Ok(start)
}

/// Variables that are read here, whether or not a tree names them.
const READ_HERE: [&str; 2] = ["EXTRA_BUILDS", "BUILD_GUIX_ALSO"];

/// Refuses a variable that nothing in the tree knows and that is called nearly as one that is known: it would change nothing.
fn known_names(
    checkout: &Checkout<'_>,
    start: &Variables,
    settings: &Settings,
) -> Result<(), Vec<Diagnostic>> {
    let names = settings.set.iter().map(|(name, _)| name.as_str());
    let is_new = |name: &&str| !start.has(name) && !READ_HERE.contains(name);
    let asked: Vec<&str> = names.filter(is_new).collect();
    if asked.is_empty() {
        return Ok(());
    }
    let mut words = BTreeSet::new();
    for (tree, _) in checkout.list("").map_err(|e| vec![*e])? {
        if tree == "steps" || tree.starts_with("steps-") {
            checkout.words(&tree, 0, &mut words).map_err(|e| vec![*e])?;
        }
    }
    // Scripts have many words; those of predicates are like this.
    let is_variable = |word: &&str| {
        let mut letters = word.bytes();
        word.contains('_') && letters.all(|b| matches!(b, b'A'..=b'Z' | b'0'..=b'9' | b'_'))
    };
    let of_tree = words.iter().map(String::as_str).filter(is_variable);
    let known: Vec<&str> = start
        .iter()
        .map(|(known, _)| known)
        .chain(READ_HERE)
        .chain(of_tree)
        .collect();
    let mut found = Vec::new();
    for name in asked.into_iter().filter(|name| !words.contains(*name)) {
        let problem = Diagnostic::error(
            "usage-bad-value",
            Class::Usage,
            format!("nothing in this tree reads the variable `{name}`"),
        );
        let problem = problem.suggest(name, known.iter().copied());
        // One that is called like none may be for what sos does not see.
        if !problem.helps.is_empty() {
            found.push(problem);
        }
    }
    if found.is_empty() { Ok(()) } else { Err(found) }
}

struct Planner<'a> {
    checkout: &'a Checkout<'a>,
    variables: Variables,
    found: Vec<Diagnostic>,
    steps: Vec<Step>,
    /// File names of the packages so far.
    packages: Vec<String>,
    digests: Digests,
    /// What is in the directories of steps, by path.
    directories: BTreeMap<String, Vec<Shown>>,
    generation: usize,
}

impl Planner<'_> {
    /// Plans what one manifest says. Passes are counted anew for each.
    fn tree(&mut self, tree: &str) {
        let manifest = match self.checkout.need_text(&format!("{tree}/manifest")) {
            Ok(manifest) => manifest,
            Err(problem) => return self.found.push(*problem),
        };
        let pins = match pins::packages(self.checkout, tree) {
            Ok(pins) => pins,
            Err(problems) => {
                self.found.extend(problems);
                BTreeMap::new()
            }
        };
        let mut problems = Problems::in_file(&manifest);
        let directives = manifest::interpret(&manifest.text, &mut self.variables, &mut problems);
        let mut passes: BTreeMap<&str, usize> = BTreeMap::new();
        let mut sources: BTreeMap<&str, Vec<Distfile>> = BTreeMap::new();
        let mut script_index = 0;
        for directive in &directives {
            // Every directive counts, of whatever kind.
            let pass = passes.entry(&directive.argument).or_insert(0);
            *pass += 1;
            let mut step = Step {
                index: self.steps.len(),
                tree: tree.to_owned(),
                line: directive.line,
                kind: directive.kind,
                name: directive.argument.clone(),
                script_index,
                generation: self.generation,
                pass: None,
                script: None,
                script_real: None,
                inputs: Vec::new(),
                lists_distfiles: false,
                removed: Vec::new(),
                distfiles: Vec::new(),
                package: None,
                patch_dir: None,
                outputs: None,
            };
            let done = named(directive, &problems).and_then(|()| match directive.kind {
                Kind::Build => {
                    let known = sources.get(directive.argument.as_str()).cloned();
                    let done = self.build(&mut step, *pass, known, &pins);
                    sources.insert(&directive.argument, step.distfiles.clone());
                    done
                }
                Kind::Improve | Kind::Jump => self.script(&mut step, directive, &mut problems),
                Kind::Uninstall => {
                    step.removed = self.removed(&step.name);
                    Ok(())
                }
            });
            let done = done.and_then(|()| self.inputs(&mut step));
            if let Err(problem) = done {
                problems.add(located(*problem, directive, &problems));
            }
            self.steps.push(step);
            if directive.kind == Kind::Build && directive.argument.starts_with("bash-") {
                self.generation += 1;
                script_index += 1;
            }
            if directive.kind == Kind::Jump {
                script_index += 1;
            }
        }
        self.found.extend(problems.finish());
    }

    fn build(
        &mut self,
        step: &mut Step,
        pass: usize,
        sources: Option<Vec<Distfile>>,
        pins: &BTreeMap<String, String>,
    ) -> super::checkout::Result<()> {
        let dir = format!("{}/{}", step.tree, step.name);
        if self.checkout.resolve(&dir)?.is_none() {
            let entries = self.checkout.list(&step.tree)?;
            let dirs = entries
                .iter()
                .filter(|(_, kind)| *kind == FileType::Directory);
            let problem = self.checkout.missing(&dir);
            return Err(Box::new(
                problem.suggest(&step.name, dirs.map(|(name, _)| name.as_str())),
            ));
        }
        let script = format!(
            "pass{pass}.{}",
            if self.generation == 0 { "kaem" } else { "sh" }
        );
        let path = format!("{dir}/{script}");
        step.script_real = self.checkout.resolve(&path)?;
        step.pass = Some(pass);
        step.script = Some(script);
        if self.generation == 0 && step.script_real.is_none() {
            return Err(Box::new(self.checkout.missing(&path).note(format!(
                "this is pass {pass} of `{}`: every earlier directive of that name counts, and kaem has no default for a pass",
                step.name
            ))));
        }
        if let Some(real) = &step.script_real {
            self.checkout.script(real)?;
        }
        step.distfiles = match sources {
            Some(known) => known,
            None => self.sources(&dir)?,
        };
        if self.generation == 0 {
            let arch = self.variables.get("ARCH");
            step.outputs = pins::outputs(self.checkout, &dir, &step.name, arch).map_err(first)?;
        } else {
            // By the beginning of the name, as the helpers count.
            let alike = self.packages.iter().filter(|p| p.starts_with(&step.name));
            let revision = alike.count();
            let file = format!("{}_{revision}.tar.bz2", step.name);
            self.packages.push(file.clone());
            step.package = Some(Package {
                revision,
                sha256: pins.get(&file).cloned(),
                file,
            });
            let own = self
                .checkout
                .resolve(&format!("{dir}/patches-pass{pass}"))?;
            step.patch_dir = match own {
                Some(own) => Some(own),
                None => self.checkout.resolve(&format!("{dir}/patches"))?,
            };
        }
        Ok(())
    }

    /// Finds what a step is shown of the checkout; a link there that leads nowhere or elsewhere is found here.
    fn inputs(&mut self, step: &mut Step) -> super::checkout::Result<()> {
        let tree = format!("/{}", step.tree);
        if step.generation > 0 {
            let own = format!("{}/helpers.sh", step.tree);
            let own = self.checkout.resolve(&own)?;
            let helpers = own.unwrap_or_else(|| "steps/helpers.sh".to_owned());
            step.inputs
                .push(Shown::new(format!("{tree}/helpers.sh"), helpers));
        }
        match step.kind {
            Kind::Build => {
                let dir = format!("{}/{}", step.tree, step.name);
                if !self.directories.contains_key(&dir) {
                    let mut files = Files::new(self.checkout);
                    files.dir(&format!("/{dir}"), &dir, 0)?;
                    self.directories.insert(dir.clone(), files.found);
                }
                step.inputs.extend(self.directories[&dir].iter().cloned());
            }
            Kind::Improve | Kind::Jump => {
                if let (Some(script), Some(real)) = (&step.script, &step.script_real) {
                    step.inputs
                        .push(Shown::new(format!("{tree}/{script}"), real));
                }
                let configurator = "steps/configurator";
                if step.name == "reconfigure" {
                    if self.checkout.resolve(configurator)?.is_some() {
                        let at = format!("{tree}/configurator");
                        step.inputs.push(Shown::new(at, configurator));
                    }
                } else if let Some(real) = &step.script_real {
                    let asks = asks::of(&self.checkout.lossy(real)?);
                    step.lists_distfiles = asks.distfiles;
                    step.inputs.extend(asks.shown(self.checkout, &step.tree)?);
                }
            }
            Kind::Uninstall => {}
        }
        Ok(())
    }

    /// The newest package of each name that is no path, counted as the helpers count.
    fn removed(&self, names: &str) -> Vec<String> {
        let packages = names.split(' ').filter(|name| !name.starts_with('/'));
        let newest = packages.filter_map(|name| {
            let alike = self.packages.iter().filter(|p| p.starts_with(name)).count();
            Some(format!("{name}_{}.tar.bz2", alike.checked_sub(1)?))
        });
        newest.collect()
    }

    fn sources(&mut self, dir: &str) -> super::checkout::Result<Vec<Distfile>> {
        let Some(file) = self.checkout.text(&format!("{dir}/sources"))? else {
            return Ok(Vec::new());
        };
        let mut problems = Problems::in_file(&file);
        let read = sources::read(&file, &mut self.digests, &mut problems);
        self.found.extend(problems.finish());
        Ok(read)
    }

    fn script(
        &mut self,
        step: &mut Step,
        directive: &Directive,
        problems: &mut Problems,
    ) -> super::checkout::Result<()> {
        let script = format!("{}/{}.sh", step.kind.as_str(), step.name);
        let path = format!("{}/{script}", step.tree);
        // Extensions use the scripts of the main tree, too.
        let shared = format!("steps/{script}");
        step.script_real = match self.checkout.resolve(&path)? {
            Some(real) => Some(real),
            None => self.checkout.resolve(&shared)?,
        };
        step.script = Some(script);
        if let Some(real) = &step.script_real {
            self.checkout.script(real)?;
        } else {
            let message = format!("there is no `{}`", self.checkout.shown(&path));
            let problem = problems.error(
                "bootstrap-missing",
                message,
                &directive.place,
                "needed here",
            );
            let dir = format!("{}/{}", step.tree, step.kind.as_str());
            let entries = match self.checkout.resolve(&dir)? {
                Some(dir) => self.checkout.list(&dir)?,
                None => Vec::new(),
            };
            let known = entries
                .iter()
                .filter_map(|(name, _)| name.strip_suffix(".sh"));
            return Err(Box::new(problem.suggest(&step.name, known)));
        }
        Ok(())
    }
}

/// Refuses a name that leads elsewhere: it would be looked for there. Only what is removed may also be a path, from the root.
fn named(directive: &Directive, problems: &Problems) -> super::checkout::Result<()> {
    let mut start = directive.place.as_ref().map_or(0, |place| place.start);
    let is_removal = directive.kind == Kind::Uninstall;
    let words = directive.argument.split(' ');
    for word in words {
        let is_path = is_removal && word.starts_with('/');
        let leads = word.contains('/') || matches!(word, "." | "..");
        if (leads && !is_path) || word.contains(char::is_control) {
            let what = match directive.kind {
                Kind::Build => "a step",
                Kind::Improve | Kind::Jump => "a script",
                Kind::Uninstall => "a package",
            };
            let message = format!("`{}` cannot be the name of {what}", word.escape_debug());
            let place = Some(start..start + word.len());
            let problem = problems.error("bootstrap-syntax", message, &place, "no name");
            return Err(Box::new(problem));
        }
        start += word.len() + 1;
    }
    Ok(())
}

fn first(mut problems: Vec<Diagnostic>) -> Box<Diagnostic> {
    let problem = problems.drain(..).next();
    Box::new(problem.unwrap_or_else(|| {
        Diagnostic::error(
            "recipe-failed",
            Class::Bug,
            "a file was refused without a reason",
        )
    }))
}

/// Shows a problem at its directive, unless it has a place of its own.
fn located(problem: Diagnostic, directive: &Directive, problems: &Problems) -> Diagnostic {
    if problem.labels.is_empty() {
        let label = problems.label(&directive.place, "needed here");
        problem.with_labels(label)
    } else {
        problem
    }
}
