//! What is said of a failed bootstrap step besides its failure: its script, and the files from outside that it looked for without
//! declaring them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use memchr::memmem::Finder;
use serde_json::Value;
use sos_engine::Graph;
use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::Diagnostic;
use sos_formats::store_path::{StoreDir, StorePath};

/// Where steps look for them.
const DIR: &str = "/external/distfiles/";

/// The derivations of bootstrap steps and of their files: what of a graph is kept while it is built.
pub(crate) struct Steps(Vec<(StorePath, Arc<[u8]>)>);

/// Takes them out of a graph; of most graphs nothing.
pub(crate) fn steps(graph: &Graph) -> Steps {
    let words = ["distfile", "mounts"].map(Finder::new);
    let texts = graph.texts.iter();
    let of_steps = texts.filter(|(_, text)| words.iter().any(|word| word.find(text).is_some()));
    Steps(
        of_steps
            .map(|(path, text)| (path.clone(), text.clone()))
            .collect(),
    )
}

/// A step by the name of its derivation, with its attributes.
type Named = (String, Value);

/// Says for each failed step which script it ran, and which files of other steps its last lines name: a step sees none but its
/// own, and what its programs say is only that a file is missing.
pub(crate) fn notes(graph: &Steps, dir: &StoreDir, failures: &[Diagnostic]) -> Vec<String> {
    if failures.is_empty() || graph.0.is_empty() {
        return Vec::new();
    }
    let (steps, declared) = read(graph, dir);
    let mut out = Vec::new();
    for failure in failures {
        let is_it = |(name, _): &&Named| failure.message.starts_with(&format!("`{name}`"));
        let Some((step, attrs)) = steps.iter().find(is_it) else {
            continue;
        };
        out.extend(script_note(step, attrs, failure));
        let files: BTreeSet<&str> = failure.notes.iter().flat_map(|n| files(n)).collect();
        for file in files {
            let own = attrs["mounts"].get(format!("{DIR}{file}")).is_some();
            let owner = declared.iter().find(|(name, _)| name == file);
            if let (false, Some((_, owner))) = (own, owner) {
                out.push(format!(
                    "note: `{step}` names `{DIR}{file}`, which it does not declare and `{owner}` does; `extraDistfiles` of sos.bootstrap shows it to the step"
                ));
            }
        }
    }
    out
}

/// Name and attributes of every step, and which step declares which file.
fn read(graph: &Steps, dir: &StoreDir) -> (Vec<Named>, Vec<(String, String)>) {
    let mut steps = Vec::new();
    let mut declared = Vec::new();
    for (path, text) in &graph.0 {
        let drv = Derivation::parse_aterm(text, dir).ok();
        let Some(attrs) = drv.and_then(|drv| json(&drv)) else {
            continue;
        };
        let name = path.name().trim_end_matches(".drv").to_owned();
        if let Some(step) = attrs["distfile"].as_str() {
            declared.push((name, step.to_owned()));
        } else if attrs["mounts"].is_object() {
            steps.push((name, attrs));
        }
    }
    (steps, declared)
}

/// Names the script of a step whose failure is shown at its line of the manifest.
fn script_note(step: &str, attrs: &Value, failure: &Diagnostic) -> Option<String> {
    let manifest = Path::new(&failure.labels.first()?.file.name);
    let tree = manifest
        .parent()
        .filter(|_| manifest.ends_with("manifest"))?;
    let script = script(attrs["script"].as_str()?)?;
    let file = tree.join(&script);
    Some(if file.is_file() {
        format!("note: `{step}` runs `{}`", file.display())
    } else {
        format!(
            "note: `{step}` has no `{}`: it runs the usual stages of `{}`",
            file.display(),
            tree.join("helpers.sh").display()
        )
    })
}

/// The script that a step runs, below the directory of its tree, read off what is generated to run it.
fn script(generated: &str) -> Option<String> {
    let below = |path: &str| Some(path.split_once('/')?.1.to_owned());
    let mut package = "";
    for line in generated.lines() {
        if let Some(name) = line.strip_prefix("pkg=") {
            package = name;
        } else if let Some(path) = line.strip_prefix("kaem --file /") {
            return below(path);
        } else if let Some(script) = line.strip_prefix("kaem --file ") {
            return Some(format!("{package}/{script}"));
        } else if let Some(path) = line.strip_prefix(". /") {
            return below(path);
        } else if let Some((name, script)) =
            line.strip_prefix("build ").and_then(|l| l.split_once(' '))
        {
            return Some(format!("{name}/{script}"));
        }
    }
    None
}

fn json(drv: &Derivation) -> Option<Value> {
    let text = drv.env.get(b"__json".as_slice())?;
    serde_json::from_slice(text).ok()
}

/// The names of files in the directory that a text mentions.
fn files(text: &str) -> impl Iterator<Item = &str> {
    text.split(DIR).skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "._+-~".contains(c)));
        let name = rest[..end.unwrap_or(rest.len())].trim_end_matches('.');
        (!name.is_empty()).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::{files, script};

    #[test]
    fn names_end_where_a_message_goes_on() {
        let text = "tar: /external/distfiles/a-1.0.tar.gz: no such file\ncp /external/distfiles/b.c. /external/distfiles/";
        assert_eq!(files(text).collect::<Vec<_>>(), ["a-1.0.tar.gz", "b.c"]);
    }

    #[test]
    fn the_script_is_the_one_that_is_run() {
        let of = |text: &str| script(text).unwrap_or_default();
        assert_eq!(
            of("set -ex\ncd /steps\npkg=a-1\ncd ${pkg}\nkaem --file pass2.kaem\ncd ..\n"),
            "a-1/pass2.kaem"
        );
        assert_eq!(of("kaem --file /steps/jump/fiwix.sh\n"), "jump/fiwix.sh");
        assert_eq!(
            of(". ./env\n. ./helpers.sh\nbuild a-1 pass1.sh\n"),
            "a-1/pass1.sh"
        );
        assert_eq!(of(". ./env\n. /steps/improve/x.sh\n"), "improve/x.sh");
        assert_eq!(of("uninstall a\n"), "");
    }
}
