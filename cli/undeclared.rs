//! Files from outside that a failed bootstrap step looked for without declaring them.

use std::collections::BTreeSet;
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

/// Says for each failure which files of other steps its last lines name: a step sees none but its own, and what its programs say
/// is only that a file is missing.
pub(crate) fn notes(graph: &Steps, dir: &StoreDir, failures: &[Diagnostic]) -> Vec<String> {
    let named: Vec<(&Diagnostic, BTreeSet<&str>)> = failures
        .iter()
        .map(|failure| {
            (
                failure,
                failure.notes.iter().flat_map(|n| files(n)).collect(),
            )
        })
        .filter(|(_, files): &(_, BTreeSet<&str>)| !files.is_empty())
        .collect();
    if named.is_empty() {
        return Vec::new();
    }
    let mut out = Vec::new();
    // Name and attributes of every step, and which step declares which file.
    let mut steps = Vec::new();
    let mut declared = Vec::new();
    for (path, text) in &graph.0 {
        let Some(attrs) = Derivation::parse_aterm(text, dir)
            .ok()
            .and_then(|drv| json(&drv))
        else {
            continue;
        };
        if let Some(step) = attrs["distfile"].as_str() {
            declared.push((
                path.name().trim_end_matches(".drv").to_owned(),
                step.to_owned(),
            ));
        } else if attrs["mounts"].is_object() {
            steps.push((path.name().trim_end_matches(".drv").to_owned(), attrs));
        }
    }
    for (failure, files) in named {
        let is_it = |(name, _): &&(String, Value)| failure.message.contains(&format!("`{name}`"));
        let Some((step, attrs)) = steps.iter().find(is_it) else {
            continue;
        };
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
    use super::files;

    #[test]
    fn names_end_where_a_message_goes_on() {
        let text = "tar: /external/distfiles/a-1.0.tar.gz: no such file\ncp /external/distfiles/b.c. /external/distfiles/";
        assert_eq!(files(text).collect::<Vec<_>>(), ["a-1.0.tar.gz", "b.c"]);
    }
}
