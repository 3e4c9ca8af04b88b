//! stage0: from the two seeds to a compiler, one command after the other, as its own scripts say.

use std::collections::{BTreeMap, BTreeSet};

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_lang::FileType;

use super::checkout::{Checkout, Result};
use super::kaem::{Command, Reader, Shell};

/// Where stage0 is in a checkout; its content is the root directory of a run.
pub(crate) const DIR: &str = "seed/stage0-posix";
/// What runs after stage0; the seed has its own.
const AFTER: &str = "after.kaem";
/// What programs print their results to, in place of the path that the script says.
pub(crate) const OUT: &str = "/run/sos/out";

/// What a command needs at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// What an earlier command made, by its number.
    Made(usize),
    /// A file or directory of the tree, from the root of the checkout.
    Source(String),
}

/// One command that makes one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Made {
    /// The name of its target.
    pub(crate) name: String,
    /// Where the scripts put what it makes, without a slash at the beginning.
    pub(crate) path: String,
    /// The program by its absolute path, and its words; [`OUT`] stands for what is made.
    pub(crate) argv: Vec<String>,
    /// The absolute directory that it runs in.
    pub(crate) cwd: String,
    pub(crate) variables: BTreeMap<String, String>,
    /// By absolute path.
    pub(crate) inputs: BTreeMap<String, Input>,
    /// Directories for files of its own.
    pub(crate) scratch: Vec<String>,
}

/// All of stage0.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stage0 {
    pub(crate) commands: Vec<Made>,
    /// The directories that hold what is kept: of each path the last command that made it.
    pub(crate) bin: Vec<(String, usize)>,
    /// The variables of the last script, which the seed inherits.
    pub(crate) variables: BTreeMap<String, String>,
    /// The files of digests that the scripts check.
    pub(crate) answers: Vec<String>,
}

/// Reads stage0 for an architecture and the name of its directory.
///
/// # Errors
/// A missing script, or a command whose result cannot be told.
pub(crate) fn read(checkout: &Checkout<'_>, arch: &str, arch_dir: &str) -> Result<Stage0> {
    let mut reader = Reader {
        checkout,
        root: DIR,
        commands: Vec::new(),
        stop: &[AFTER],
    };
    fetched(checkout, arch)?;
    reader.script(&format!("kaem.{arch}"), &mut Shell::default(), 0)?;
    let mut out = Stage0::default();
    let mut finder = Finder {
        checkout,
        known: BTreeMap::new(),
        made: BTreeMap::new(),
        made_before: BTreeMap::new(),
        script: String::new(),
    };
    for command in reader.commands {
        out.variables.clone_from(&command.variables);
        if is_check(&command) {
            out.answers
                .extend(command.argv.last().and_then(|w| command.path(w)));
            continue;
        }
        let made = finder.command(&command, out.commands.len())?;
        out.commands.push(made);
    }
    let kept = format!("{arch_dir}/bin/");
    let bin = finder
        .made
        .iter()
        .filter(|(path, _)| path.starts_with(&kept));
    out.bin = bin.map(|(path, index)| (path.clone(), *index)).collect();
    name(&mut out, &kept);
    Ok(out)
}

/// How submodules of upstream's tree get their content.
const FETCH: &str = "stage0 is a submodule with submodules of its own: `git submodule update --init --recursive` in the checkout fetches all of them";

/// Looks whether the submodule, and those in it, were fetched: Git leaves their directories empty until it is asked for them.
///
/// # Errors
/// `bootstrap-missing`, with how to get what is missing.
fn fetched(checkout: &Checkout<'_>, arch: &str) -> Result<()> {
    let entries = checkout.list(DIR)?;
    let script = format!("{DIR}/kaem.{arch}");
    if checkout.resolve(&script)?.is_none() {
        let problem = checkout.missing(&script);
        let help = entries.is_empty().then_some(FETCH);
        return Err(Box::new(help.into_iter().fold(problem, Diagnostic::help)));
    }
    for (name, kind) in entries {
        let path = format!("{DIR}/{name}");
        if kind == FileType::Directory && checkout.list(&path)?.is_empty() {
            let message = format!("`{}` is empty", checkout.shown(&path));
            let problem = Diagnostic::error("bootstrap-missing", Class::Recipe, message);
            return Err(Box::new(problem.help(FETCH)));
        }
    }
    Ok(())
}

/// The first program of all, below the directory of stage0.
pub(super) fn seed(arch_dir: &str) -> String {
    format!("bootstrap-seeds/POSIX/{arch_dir}/kaem-optional-seed")
}

/// Looks for the first program.
///
/// # Errors
/// `bootstrap-missing`: upstream knows the directory of few architectures by itself, and takes the name of the others for that of theirs.
pub(super) fn has_seed(checkout: &Checkout<'_>, arch: &str, arch_dir: &str) -> Result<()> {
    let path = format!("{DIR}/{}", seed(arch_dir));
    if checkout.resolve(&path)?.is_some() {
        return Ok(());
    }
    let message = format!(
        "ARCH_DIR is `{arch_dir}`, and there is no `{}`",
        checkout.shown(&path)
    );
    let problem = Diagnostic::error("bootstrap-missing", Class::Recipe, message);
    let known = checkout.list(&format!("{DIR}/bootstrap-seeds/POSIX"))?;
    let known: Vec<&str> = known.iter().map(|(name, _)| name.as_str()).collect();
    let is = |wanted: &str| {
        let mut known = known.iter();
        known.find(|name| name.eq_ignore_ascii_case(wanted))
    };
    let problem = match known.as_slice() {
        [] => problem,
        known => problem.note(format!(
            "it names the directory of the first program, one of `{}`",
            known.join("`, `")
        )),
    };
    Err(Box::new(match is(arch_dir).or_else(|| is(arch)) {
        Some(name) => problem.help(format!(
            "`--set ARCH_DIR={name}` names the one that is there"
        )),
        None => problem,
    }))
}

fn is_check(command: &Command) -> bool {
    let program = command.argv.first().and_then(|w| w.rsplit('/').next());
    program == Some("sha256sum") && command.argv.iter().any(|w| w == "-c")
}

/// Names commands after what they make; what is kept comes first.
fn name(stage0: &mut Stage0, kept: &str) {
    let mut taken = BTreeSet::new();
    let is_kept = |made: &Made| made.path.starts_with(kept);
    let mut order: Vec<usize> = (0..stage0.commands.len()).collect();
    order.sort_by_key(|i| !is_kept(&stage0.commands[*i]));
    for index in order {
        let made = &mut stage0.commands[index];
        let mut parts = made.path.rsplit('/');
        let mut name = parts.next().unwrap_or_default().to_owned();
        while !taken.insert(name.clone()) {
            name = format!("{}-{name}", parts.next().unwrap_or("again"));
        }
        made.name = name;
    }
}

struct Finder<'a> {
    checkout: &'a Checkout<'a>,
    /// What was asked of the tree already.
    known: BTreeMap<String, Option<FileType>>,
    /// What was made so far, by path.
    made: BTreeMap<String, usize>,
    /// What was made when the script began that runs now.
    made_before: BTreeMap<String, usize>,
    script: String,
}

impl Finder<'_> {
    fn source(&mut self, path: &str) -> Result<Option<FileType>> {
        if let Some(known) = self.known.get(path) {
            return Ok(*known);
        }
        let found = self.checkout.kind(&format!("{DIR}/{path}"))?;
        self.known.insert(path.to_owned(), found);
        Ok(found)
    }

    fn input(&mut self, path: &str) -> Result<Option<Input>> {
        if let Some(index) = self.made.get(path) {
            return Ok(Some(Input::Made(*index)));
        }
        let is_file = self.source(path)? == Some(FileType::Regular);
        Ok(is_file.then(|| Input::Source(format!("{DIR}/{path}"))))
    }

    /// Finds out what a command makes: the one path in it that is neither in the tree nor made before.
    fn command(&mut self, command: &Command, index: usize) -> Result<Made> {
        if self.script != command.script {
            self.script.clone_from(&command.script);
            self.made_before.clone_from(&self.made);
        }
        let mut inputs = BTreeMap::new();
        let mut argv = Vec::new();
        let mut output: Option<String> = None;
        for (i, word) in command.argv.iter().enumerate() {
            let path = command.path(word);
            let input = match &path {
                Some(path) => self.input(path)?,
                None => None,
            };
            match (path, input) {
                (Some(path), Some(input)) => {
                    let absolute = format!("/{path}");
                    // A program is found from anywhere, a file from where the script says.
                    argv.push(if i == 0 {
                        absolute.clone()
                    } else {
                        word.clone()
                    });
                    inputs.insert(absolute, input);
                }
                (Some(path), None) if i > 0 && word.contains('/') && !word.starts_with('-') => {
                    if let Some(first) = &output {
                        let message = format!(
                            "it is not clear what this makes: neither `{first}` nor `{path}` is there"
                        );
                        return Err(Box::new(command.problem(message)));
                    }
                    argv.push(OUT.to_owned());
                    output = Some(path);
                }
                _ if i == 0 => {
                    let message = format!("no earlier command makes the program `{word}`");
                    return Err(Box::new(command.problem(message)));
                }
                _ => argv.push(word.clone()),
            }
        }
        let Some(path) = output else {
            return Err(Box::new(
                command.problem("no word of this names a new file"),
            ));
        };
        let mut scratch = Vec::new();
        // A program that is told where programs are runs some: those that were there before its script, and the files around it.
        if let Some(dir) = command
            .variables
            .get("PATH")
            .and_then(|dir| command.path(dir))
        {
            let tools = self.made_before.iter();
            let tools =
                tools.filter(|(path, _)| path.rsplit_once('/').is_some_and(|(d, _)| d == dir));
            for (path, index) in tools {
                inputs.insert(format!("/{path}"), Input::Made(*index));
            }
            for dir in [Some(command.cwd.clone()), library(command)]
                .into_iter()
                .flatten()
            {
                // The directory has the file in it that was named.
                inputs.retain(|_, input| !is_below(input, &dir));
                inputs.insert(format!("/{dir}"), Input::Source(format!("{DIR}/{dir}")));
            }
            let temporary = command
                .variables
                .get("TMPDIR")
                .and_then(|dir| command.path(dir));
            scratch.extend(temporary.map(|dir| format!("/{dir}")));
        }
        self.made.insert(path.clone(), index);
        Ok(Made {
            name: String::new(),
            path,
            argv,
            cwd: format!("/{}", command.cwd),
            variables: command.variables.clone(),
            inputs,
            scratch,
        })
    }
}

/// The directory of the C library, which the compiler is told of by a variable.
fn library(command: &Command) -> Option<String> {
    command.path(command.variables.get("M2LIBC_PATH")?)
}

fn is_below(input: &Input, dir: &str) -> bool {
    let Input::Source(path) = input else {
        return false;
    };
    let below = path.strip_prefix(DIR).and_then(|p| p.strip_prefix('/'));
    below
        .and_then(|path| path.strip_prefix(dir))
        .is_some_and(|rest| rest.starts_with('/'))
}
