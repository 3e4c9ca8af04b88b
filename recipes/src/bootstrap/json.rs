//! The plan as JSON.

use serde_json::{Map, Value, json};

use super::manifest::Kind;
use super::plan::{Plan, Step};

impl Plan {
    /// Returns the plan as `sos recipe show --json` prints it: `variables`, a list of pairs, and `steps`. Of each step, `inputs` has
    /// what it finds of the checkout: `source` there, and the path `at` which it finds it.
    pub fn to_json(&self) -> Value {
        let variables: Vec<Value> = self.variables.iter().map(|(n, v)| json!([n, v])).collect();
        let steps: Vec<Value> = self.steps.iter().map(step).collect();
        json!({ "variables": variables, "steps": steps })
    }
}

fn step(step: &Step) -> Value {
    let mut out = Map::new();
    let mut put = |name: &str, value: Value| {
        out.insert(name.to_owned(), value);
    };
    put("index", json!(step.index));
    put("tree", json!(step.tree));
    put("line", json!(step.line));
    put("kind", json!(step.kind.as_str()));
    put("name", json!(step.name));
    put("target", json!(step.target()));
    put("script_index", json!(step.script_index));
    put("shell", json!(step.shell()));
    put("bash_generation", json!(step.generation));
    if let Some(pass) = step.pass {
        put("pass", json!(pass));
    }
    if let Some(script) = &step.script {
        put("script", json!(script));
        put("script_real", json!(step.script_real));
    }
    let inputs: Vec<Value> = step
        .inputs
        .iter()
        .map(|shown| json!({ "at": shown.at, "source": shown.source }))
        .collect();
    put("inputs", json!(inputs));
    match step.kind {
        Kind::Build => {
            let files: Vec<Value> = step
                .distfiles
                .iter()
                .map(
                    |d| json!({ "name": d.name, "sha256": d.sha256, "urls": d.urls, "git": d.git }),
                )
                .collect();
            put("distfiles", json!(files));
            match &step.package {
                Some(package) => {
                    put("revision", json!(package.revision));
                    put("package", json!(package.file));
                    put("package_sha256", json!(package.sha256));
                    put("patch_dir", json!(step.patch_dir));
                }
                None => put("outputs", json!(step.outputs)),
            }
        }
        Kind::Uninstall => {
            let names: Vec<&str> = step.name.split(' ').collect();
            put("removes", json!(names));
            put("packages", json!(step.removed));
        }
        Kind::Improve | Kind::Jump => {}
    }
    Value::Object(out)
}
