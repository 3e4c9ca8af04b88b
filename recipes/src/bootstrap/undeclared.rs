//! Files from outside that a script names and its step does not declare: the step will not find them, and may not say so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_lang::Host;

use super::checkout::Checkout;
use super::plan::{Plan, Step};

/// Returns a warning for each file from outside that the script of a step names behind a slash, as in
/// `/external/distfiles/x-1.0.tar.gz`, and that other steps declare, but not this one. `granted` has the files that
/// `extraDistfiles` gives, by name of the step. A name that a script puts together from variables is not found.
pub fn undeclared(
    host: &dyn Host,
    root: &Path,
    shown: &str,
    plan: &Plan,
    granted: &BTreeMap<String, Vec<String>>,
) -> Vec<Diagnostic> {
    let Ok(checkout) = Checkout::open(host, root, shown) else {
        return Vec::new();
    };
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    for step in &plan.steps {
        for file in &step.distfiles {
            owners.entry(&file.name).or_insert(&step.name);
        }
    }
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for step in &plan.steps {
        let Some(script) = step.script_real.as_ref().filter(|s| seen.insert(*s)) else {
            continue;
        };
        // What cannot be read as a text is no script that this could say anything of.
        let Ok(Some(text)) = checkout.text(script) else {
            continue;
        };
        let mut told = BTreeSet::new();
        for (place, name) in names(&text.text) {
            let Some(owner) = owners.get(name) else {
                continue;
            };
            let given = granted.get(&step.name).into_iter().flatten();
            if declares(step, name) || given.into_iter().any(|g| g == name) || !told.insert(name) {
                continue;
            }
            let message = format!(
                "`{}` names the file `{name}`, which it does not declare and `{owner}` does",
                step.name
            );
            found.push(
                Diagnostic::warning("bootstrap-undeclared", Class::Recipe, message)
                    .label(&text, place..place + name.len(), "not there for this step")
                    .help(format!(
                        "declare it in its `sources`, or show it to the step: `extraDistfiles.\"{}\" = [ \"{name}\" ];` of sos.bootstrap",
                        step.name
                    )),
            );
        }
    }
    found
}

fn declares(step: &Step, name: &str) -> bool {
    step.distfiles.iter().any(|file| file.name == name)
}

/// The last parts of paths in a script, each with its offset; comments are passed by.
fn names(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut start = 0;
    text.split_inclusive('\n').flat_map(move |line| {
        let offset = start;
        start += line.len();
        let begin = line.trim_start();
        // Who removes a file does without it.
        let passed_by = begin.starts_with('#') || begin.starts_with("rm ");
        let line = if passed_by { "" } else { line };
        line.match_indices('/').map(move |(slash, _)| {
            let rest = &line[slash + 1..];
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "._+-~".contains(c)));
            (offset + slash + 1, &rest[..end.unwrap_or(rest.len())])
        })
    })
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn names_stand_behind_a_slash() {
        let text = "# /x/no.gz\nrm /x/a\ncat \"${DISTFILES}/a-1.0.tar.gz\" || /b\n";
        let found: Vec<(usize, &str)> = names(text).collect();
        assert_eq!(found, [(37, "a-1.0.tar.gz"), (55, "b")]);
        assert!(found.iter().all(|(at, name)| text[*at..].starts_with(name)));
    }
}
