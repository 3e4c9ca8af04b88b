//! What is said of a failed bootstrap step besides its failure: its script, and whose the files are that it looked for without
//! having declared them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use memchr::memmem::Finder;
use serde_json::Value;
use sos_engine::Graph;
use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::Diagnostic;
use sos_formats::store_path::{StoreDir, StorePath};

/// Where steps look for files from outside.
const DIR: &str = "/external/distfiles/";
/// What a jump does before its script runs.
const MOVED: &str = "mv /init /init.bak\n";
/// The longest list of sources that is read.
const SOURCES_BYTES_MAX: u64 = 1 << 20;

/// The derivations of bootstrap steps and of their files: what of a graph is kept while it is built.
pub(crate) struct Steps(Vec<(StorePath, Arc<[u8]>)>);

/// Takes them out of a graph; of most graphs nothing.
pub(crate) fn steps(graph: &Graph) -> Steps {
    let words = ["distfile", "copies"].map(Finder::new);
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

/// Says for each failed step which script it ran, and whose the files are that its last lines name or that it was seen to look for:
/// a step sees none but its own, and what its programs say is only that a file is missing.
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
        let tree = tree_of(failure);
        let script = attrs["script"].as_str().and_then(script);
        if let (Some(tree), Some(script)) = (tree, &script) {
            out.push(script_note(step, tree, script, &failure.notes));
            let text = attrs["script"].as_str().unwrap_or_default();
            if text.contains(MOVED) && failure.notes.iter().any(|note| note.contains("/init")) {
                out.push(format!(
                    "note: before it `{step}` moves `/init` to `/init.bak`, as upstream's generator writes it: a step before makes one"
                ));
            }
        }
        let own = script.as_deref().and_then(own);
        let named: BTreeSet<&str> = failure.notes.iter().flat_map(|n| files(n)).collect();
        for file in named {
            let is_own = attrs["copies"].get(format!("{DIR}{file}")).is_some();
            let in_graph = || declared.iter().find(|(name, _)| name == file);
            let owner = match in_graph() {
                _ if is_own => None,
                Some((_, owner)) => Some(owner.clone()),
                None => tree.and_then(|tree| declaring(tree, file)),
            };
            if let Some(owner) = owner {
                let whose = own.map_or("NAME", |own| own.name);
                // What it was seen to look for was listed with its owner.
                let listed = format!("  {DIR}{file}, of `");
                let is_listed = failure.notes.iter().any(|note| note.contains(&listed));
                let begin = if is_listed {
                    "a step sees the files from outside that it declares".to_owned()
                } else {
                    format!(
                        "`{step}` names `{DIR}{file}`, which it does not declare and `{owner}` does"
                    )
                };
                // A script alone has no `sources`.
                let advice = if own.is_some_and(|own| own.is_script) {
                    "show it to the step".to_owned()
                } else {
                    format!("have `{step}` declare it in its `sources`, or show it to the step")
                };
                out.push(format!(
                    "note: {begin}: {advice}: `extraDistfiles.\"{whose}\" = [ \"{file}\" ];` of sos.bootstrap"
                ));
            }
        }
        if let Some(tree) = tree {
            out.extend(others(step, tree, own, &failure.notes));
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
        } else if attrs["copies"].is_object() {
            steps.push((name, attrs));
        }
    }
    (steps, declared)
}

/// The directory of the steps of a failure that is shown at its line of the manifest.
fn tree_of(failure: &Diagnostic) -> Option<&Path> {
    let manifest = Path::new(&failure.labels.first()?.file.name);
    manifest.parent().filter(|_| manifest.ends_with("manifest"))
}

/// What a step has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Own<'a> {
    /// Its name in the manifest.
    name: &'a str,
    /// It is one script of `improve` or `jump`, and not a directory.
    is_script: bool,
}

/// Reads that off the path of a script below the directory of its tree.
fn own(script: &str) -> Option<Own<'_>> {
    let (dir, file) = script.split_once('/')?;
    let is_script = matches!(dir, "improve" | "jump");
    let name = if is_script {
        file.strip_suffix(".sh").unwrap_or(file)
    } else {
        dir
    };
    Some(Own { name, is_script })
}

/// Names the script of a step. What an extension does not bring is that of the main tree.
fn script_note(step: &str, tree: &Path, script: &str, notes: &[String]) -> String {
    let below = tree.file_name().unwrap_or_default().to_string_lossy();
    let inside = format!("`/{below}/{script}`");
    // The engine says which files of a step its root had itself.
    let is_of_root =
        |note: &String| note.contains(" as an earlier step left them: ") && note.contains(&inside);
    if notes.iter().any(is_of_root) {
        return format!(
            "note: `{step}` runs {inside} as an earlier step left it in the root, and not `{}`",
            tree.join(script).display()
        );
    }
    let main = tree.with_file_name("steps");
    let is_script = own(script).is_some_and(|own| own.is_script);
    let mut files = vec![tree.join(script)];
    if is_script {
        files.push(main.join(script));
    }
    if let Some(file) = files.iter().find(|file| file.is_file()) {
        return format!("note: `{step}` runs `{}`", file.display());
    }
    let helpers = [tree, &main].map(|tree| tree.join("helpers.sh"));
    let helpers = helpers.iter().find(|file| file.is_file());
    let helpers = helpers.map_or_else(
        || "helpers.sh".to_owned(),
        |file| file.display().to_string(),
    );
    format!(
        "note: `{step}` has no `{}`: it runs the usual stages of `{helpers}`",
        tree.join(script).display()
    )
}

/// Says whose the paths are that a step was seen to look for in the directories of others.
fn others(step: &str, tree: &Path, own: Option<Own<'_>>, notes: &[String]) -> Vec<String> {
    let Some(name) = tree.file_name().and_then(|name| name.to_str()) else {
        return Vec::new();
    };
    let below = format!("/{name}/");
    let seen = notes.iter().flat_map(|note| note.lines());
    let seen = seen.filter_map(|line| line.strip_prefix("  ")?.strip_prefix(&below));
    let seen = seen.map(|line| line.rsplit_once(", of `").map_or(line, |(path, _)| path));
    let mut told = BTreeSet::new();
    let mut out = Vec::new();
    for path in seen {
        let owner = path.split('/').next().unwrap_or(path);
        let is_own = own.is_some_and(|own| !own.is_script && own.name == owner);
        if is_own || !tree.join(owner).exists() || !told.insert(owner) {
            continue;
        }
        let there = tree.join(path);
        // The path that it has for the step was listed with its owner.
        out.push(if there.exists() {
            match own {
                Some(own) if own.is_script => format!(
                    "note: `{step}` sees its own script and no directory: a step of its own, by `build`, with a link to `{}` in its directory sees that",
                    there.display()
                ),
                Some(own) => format!(
                    "note: `{step}` sees its own directory and no other: a link to `{}` in `{}` shows it there",
                    there.display(),
                    tree.join(own.name).display()
                ),
                None => format!(
                    "note: `{step}` sees its own directory and no other: `{}` is not for it",
                    there.display()
                ),
            }
        } else {
            format!(
                "note: nothing is at `{}`, and no step before left it",
                there.display()
            )
        });
    }
    out
}

/// Says which step has a path, or may have made it, that a step written in `manifest` looked for in vain; nobody else has one.
pub(crate) fn whose(manifest: &str, path: &str) -> Option<String> {
    let tree = Path::new(manifest).parent()?;
    if let Some(file) = path.strip_prefix(DIR) {
        let mut trees = vec![tree.to_owned()];
        if !tree.ends_with("steps") {
            trees.push(tree.with_file_name("steps"));
        }
        return trees.iter().find_map(|tree| declaring(tree, file));
    }
    // The first part is the tree, and the second one of its steps, or a file that all of them share.
    let mut parts = path.strip_prefix('/')?.splitn(3, '/');
    let (in_tree, owner) = (parts.next()?, parts.next()?);
    tree.with_file_name(in_tree)
        .join(owner)
        .exists()
        .then(|| owner.to_owned())
}

/// The step of a tree whose `sources` has a file of this name.
fn declaring(tree: &Path, file: &str) -> Option<String> {
    let mut steps: Vec<_> = std::fs::read_dir(tree).ok()?.flatten().collect();
    steps.sort_by_key(std::fs::DirEntry::file_name);
    let declares = |dir: &Path| {
        let sources = dir.join("sources");
        let small = sources.metadata().ok()?.len() <= SOURCES_BYTES_MAX;
        let text = small.then(|| std::fs::read_to_string(&sources).ok())??;
        let is_it = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.iter().skip(1).any(|word| {
                *word == file || word.rsplit_once('/').is_some_and(|(_, name)| name == file)
            })
        };
        text.lines().any(is_it).then_some(())
    };
    let found = steps.iter().find(|step| declares(&step.path()).is_some())?;
    found.file_name().into_string().ok()
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
            // An extension reads these of the main tree first.
            if !matches!(path, "steps/bootstrap.cfg" | "steps/env") {
                return below(path);
            }
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
    use super::{files, script, whose};

    #[test]
    fn names_end_where_a_message_goes_on() {
        let text = "tar: /external/distfiles/a-1.0.tar.gz: no such file\ncp /external/distfiles/b.c. /external/distfiles/";
        assert_eq!(files(text).collect::<Vec<_>>(), ["a-1.0.tar.gz", "b.c"]);
    }

    #[test]
    fn a_path_is_of_the_step_that_has_its_directory_or_declares_it() {
        let dir = tempfile::tempdir().unwrap();
        for step in ["steps/a", "steps-more/b"] {
            std::fs::create_dir_all(dir.path().join(step)).unwrap();
        }
        std::fs::write(dir.path().join("steps/a/sources"), "f http://h/x.txt 0\n").unwrap();
        let manifest = dir.path().join("steps-more/manifest");
        let of = |path: &str| whose(manifest.to_str().unwrap(), path).unwrap_or_default();
        assert_eq!(of("/steps-more/b/run"), "b");
        assert_eq!(of("/steps/a"), "a");
        assert_eq!(of("/external/distfiles/x.txt"), "a");
        for nobodys in [
            "/steps",
            "/steps/include/x.h",
            "/steps-more/a/run",
            "/external/distfiles/y",
        ] {
            assert_eq!(of(nobodys), "", "{nobodys}");
        }
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
        assert_eq!(
            of(". /steps/bootstrap.cfg\n. /steps/env\n. ./helpers.sh\nbuild c-3 pass1.sh\n"),
            "c-3/pass1.sh"
        );
        assert_eq!(of("uninstall a\n"), "");
    }
}
