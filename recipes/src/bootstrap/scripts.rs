//! The scripts that upstream's generator writes for a plan, as texts: what a person compares with a run of upstream's; and what each
//! step runs in a shell of its own, which is the beginning and some lines of them.
//!
//! # Source
//! `fosslinux/live-bootstrap`, `seed/script-generator.c`.

use std::collections::BTreeMap;
use std::path::Path;

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_lang::Host;

use super::checkout::{Checkout, Result};
use super::manifest::Kind;
use super::plan::{Plan, Step};
use super::variables::Variables;

/// Where the generator is in a checkout.
const GENERATOR: &str = "seed/script-generator.c";

impl Plan {
    /// Returns the texts of the generated files by path, `steps/0.sh` among them, and `steps/bootstrap.cfg` as it is afterwards.
    /// A file that the generator writes anew for a tree that comes later, `init.1`, has the name of that tree behind its path.
    /// `root` is the checkout that the plan is of.
    ///
    /// # Errors
    /// `bootstrap-missing` without `steps/env`, or, for runs with a person, without the generator whose traps they have.
    pub fn scripts(
        &self,
        host: &dyn Host,
        root: &Path,
        shown: &str,
    ) -> std::result::Result<BTreeMap<String, String>, Vec<Diagnostic>> {
        let one = |e: Box<Diagnostic>| vec![*e];
        let checkout = Checkout::open(host, root, shown).map_err(one)?;
        let mut trees: Vec<&str> = vec!["steps"];
        for step in &self.steps {
            if !trees.contains(&step.tree.as_str()) {
                trees.push(&step.tree);
            }
        }
        let mut out = BTreeMap::new();
        for tree in trees {
            let files = Writer::new(&checkout, self, tree)
                .and_then(Writer::write)
                .map_err(one)?;
            for (path, text) in files {
                let again = out.contains_key(&path);
                let path = if again {
                    format!("{path} of {tree}")
                } else {
                    path
                };
                out.insert(path, text);
            }
        }
        let cfg = "steps/bootstrap.cfg".to_owned();
        out.insert(cfg, self.variables.to_cfg());
        Ok(out)
    }
}

/// Writes the scripts of one tree.
struct Writer<'a> {
    plan: &'a Plan,
    tree: &'a str,
    env: String,
    /// What an early bash and a later one do when a step fails, for runs with a person.
    traps: Option<[String; 2]>,
    files: BTreeMap<String, String>,
}

impl<'a> Writer<'a> {
    fn new(checkout: &Checkout<'_>, plan: &'a Plan, tree: &'a str) -> Result<Self> {
        let interactive = plan.variables.get("INTERACTIVE") == "True";
        let bash = plan
            .steps
            .iter()
            .any(|step| step.generation > 0 || step.name.starts_with("bash-"));
        let traps = if interactive && bash {
            let source = checkout.need_text(GENERATOR)?;
            let texts = strings(&source.text);
            let find = |late: bool| {
                let is_it = |text: &&String| text.contains("TRAP") && text.contains("ERR") == late;
                texts.iter().find(is_it).cloned().ok_or_else(|| {
                    let message = format!(
                        "`{}` writes no trap for scripts, which INTERACTIVE=True asks for",
                        checkout.shown(GENERATOR)
                    );
                    Box::new(Diagnostic::error(
                        "bootstrap-missing",
                        Class::Recipe,
                        message,
                    ))
                })
            };
            Some([find(false)?, find(true)?])
        } else {
            None
        };
        Ok(Self {
            plan,
            tree,
            env: checkout.need_text("steps/env")?.text.clone(),
            traps,
            files: BTreeMap::new(),
        })
    }

    /// What a script begins with.
    fn head(&self, generation: usize) -> String {
        let tree = self.tree;
        if generation == 0 {
            return format!(
                "set -ex\ncd /{tree}\n{}{}",
                self.plan.variables.to_cfg(),
                self.env
            );
        }
        let trap = match &self.traps {
            Some([early, _]) if generation == 1 => early,
            Some([_, late]) => late,
            None => "set -e\n",
        };
        format!("#!/bin/bash\n{trap}cd /{tree}\n. ./bootstrap.cfg\n. ./env\n. ./helpers.sh\n")
    }

    fn write(mut self) -> Result<BTreeMap<String, String>> {
        let tree = self.tree;
        let steps = self.plan.steps.iter().filter(|step| step.tree == tree);
        let steps: Vec<&Step> = steps.collect();
        let mut generation = steps.first().map_or(0, |step| step.generation);
        let mut number = 0;
        let mut text = self.head(generation);
        for step in steps {
            text.push_str(&lines(step));
            let next = format!("/{tree}/{}.sh", number + 1);
            let is_bash = step.kind == Kind::Build && step.name.starts_with("bash-");
            if is_bash {
                if generation == 0 {
                    let jump = format!("set -ex\nPATH=/usr/bin\nbash {next}\n");
                    self.files.insert("preseed-jump.kaem".to_owned(), jump);
                }
                generation += 1;
                text.push_str(&format!("bash {next}\n"));
            } else if step.kind == Kind::Jump {
                let (name, after) = next_start(step);
                self.files
                    .insert(name.trim_start_matches('/').to_owned(), after);
            } else {
                continue;
            }
            let done = std::mem::replace(&mut text, self.head(generation));
            self.files.insert(format!("{tree}/{number}.sh"), done);
            number += 1;
        }
        self.files.insert(format!("{tree}/{number}.sh"), text);
        Ok(self.files)
    }
}

/// What a jump puts in the place of what the machine starts with: the file that the generator leaves in the root for it, and its content,
/// which runs the script that follows.
pub(super) fn next_start(step: &Step) -> (String, String) {
    let n = step.script_index + 1;
    let next = format!("/{}/{n}.sh", step.tree);
    if step.generation > 0 {
        (format!("/init.{n}"), format!("#!/bin/bash\nbash {next}\n"))
    } else {
        (
            format!("/kaem.run.{n}"),
            format!("set -ex\nkaem --file {next}\n"),
        )
    }
}

/// The lines of one step.
fn lines(step: &Step) -> String {
    let (tree, bash) = (&step.tree, step.generation > 0);
    let script = step.script.as_deref().unwrap_or_default();
    match step.kind {
        Kind::Build if bash => format!("build {} {script}\n", step.name),
        Kind::Build => format!(
            "pkg={}\ncd ${{pkg}}\nkaem --file {script}\ncd ..\n",
            step.name
        ),
        Kind::Improve if bash => format!(". /{tree}/{script}\n"),
        Kind::Improve => format!("kaem --file /{tree}/{script}\n"),
        Kind::Uninstall => format!("uninstall {}\n", step.name),
        Kind::Jump => {
            let (from, _) = next_start(step);
            if bash {
                format!(
                    "mv /init /init.bak\ncp {from} /init\nchmod 755 /init\n. /{tree}/{script}\n"
                )
            } else {
                format!(
                    "cp {from} /kaem.run\ncp /usr/bin/kaem /init\nchmod 755 /init\nkaem --file /{tree}/{script}\n"
                )
            }
        }
    }
}

/// What a step in kaem runs: the beginning of the script that upstream generates, and its own lines of it.
pub(super) fn of_kaem(step: &Step, variables: &Variables, env: &str) -> String {
    let mut header = format!("set -ex\ncd /{}\n{}{env}", step.tree, variables.to_cfg());
    if step.tree != "steps" {
        header.push_str(&format!("SRCDIR=/{}\n", step.tree));
    }
    header + &lines(step)
}

/// The same for bash. The number of jobs is set between what is read: it is of this machine, and in no file. An extension reads the
/// variables of the main tree, and its `env` if it brings none; its steps are where `SRCDIR` says.
pub(super) fn of_bash(step: &Step, own_env: bool) -> String {
    let tree = &step.tree;
    let (from, env, dir) = if tree == "steps" {
        (".", ".", String::new())
    } else {
        (
            "/steps",
            if own_env { "." } else { "/steps" },
            format!("SRCDIR=/{tree}\n"),
        )
    };
    let header = format!(
        "#!/bin/bash\nset -e\ncd /{tree}\n. {from}/bootstrap.cfg\n[ -z \"${{SOS_CORES}}\" ] || JOBS=${{SOS_CORES}}\nunset SOS_CORES\n. {env}/env\n{dir}. ./helpers.sh\n"
    );
    header + &lines(step)
}

/// The strings of a text in C, those that stand side by side put together.
fn strings(source: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut chars = source.chars().peekable();
    // Whether only blanks have come since the end of a string.
    let mut goes_on = false;
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                let mut text = String::new();
                while let Some(c) = chars.next() {
                    match c {
                        '"' => break,
                        '\\' => text.extend(chars.next().map(|c| match c {
                            'n' => '\n',
                            't' => '\t',
                            c => c,
                        })),
                        c => text.push(c),
                    }
                }
                match out.last_mut().filter(|_| goes_on) {
                    Some(last) => last.push_str(&text),
                    None => out.push(text),
                }
                goes_on = true;
            }
            // A character, which may be a quote.
            '\'' => {
                if chars.next() == Some('\\') {
                    chars.next();
                }
                chars.next();
                goes_on = false;
            }
            '/' if chars.peek() == Some(&'*') => {
                let mut last = ' ';
                chars.next();
                for c in chars.by_ref() {
                    if last == '*' && c == '/' {
                        break;
                    }
                    last = c;
                }
            }
            '/' if chars.peek() == Some(&'/') => {
                for c in chars.by_ref() {
                    if c == '\n' {
                        break;
                    }
                }
            }
            c if c.is_whitespace() => {}
            _ => goes_on = false,
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::strings;

    #[test]
    fn strings_of_c() {
        let source = r#"a("x\n" "y\"z", 'q', '"', '\'', "w"); /* "no" */ // "no"
b("last")"#;
        assert_eq!(strings(source), ["x\ny\"z", "w", "last"]);
        assert_eq!(strings("\"open"), ["open"]);
        assert_eq!(strings("'"), [""; 0]);
    }
}
