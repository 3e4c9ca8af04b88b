//! The environment of a build in the Nix shape.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::{Map, Value, json};
use sos_formats::derivation::Derivation;
use sos_formats::hash::{Hash, HashAlgo};
use sos_formats::store_path::{StoreDir, StorePath};

use crate::attributes::Attributes;
use crate::options::BuildOptions;
use crate::sandbox::spec::nix_base_env;

/// Where the build directory is, as the build sees it.
const BUILD_DIR: &str = "/build";

/// Environment and files that a builder gets.
pub(crate) struct Environment {
    /// Variables; later ones of a name win.
    pub(crate) env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Files to put in the build directory, by name.
    pub(crate) files: Vec<(String, Vec<u8>)>,
}

/// Makes the environment of `drv`, in which own placeholders are replaced already.
pub(crate) fn nix_environment(
    dir: &StoreDir,
    drv: &Derivation,
    outputs: &BTreeMap<String, StorePath>,
    options: &BuildOptions,
) -> Result<Environment, String> {
    let attributes = Attributes::of(drv)?;
    if attributes.has("exportReferencesGraph") {
        return Err(
            "`exportReferencesGraph` is not supported; pass the closure's paths as inputs"
                .to_owned(),
        );
    }
    let mut env = nix_base_env(dir.as_str(), options.cores);
    let mut files = Vec::new();
    let mut set = |name: &[u8], value: &[u8]| env.push((name.to_vec(), value.to_vec()));
    if let Some(map) = attributes.structured() {
        let map = with_outputs(map, dir, outputs);
        files.push((".attrs.sh".to_owned(), to_shell(&map).into_bytes()));
        files.push((
            ".attrs.json".to_owned(),
            Value::Object(map).to_string().into_bytes(),
        ));
        let sh = format!("{BUILD_DIR}/.attrs.sh");
        let json = format!("{BUILD_DIR}/.attrs.json");
        set(b"NIX_ATTRS_SH_FILE", sh.as_bytes());
        set(b"NIX_ATTRS_JSON_FILE", json.as_bytes());
    } else {
        for (name, path) in outputs {
            set(name.as_bytes(), path.absolute(dir).as_bytes());
        }
        let as_files: BTreeSet<String> = attributes
            .list("passAsFile")
            .unwrap_or_default()
            .into_iter()
            .collect();
        for (name, value) in &drv.env {
            let text = String::from_utf8_lossy(name);
            if as_files.contains(text.as_ref()) {
                let file = format!(".attr-{}", Hash::of(HashAlgo::Sha256, name).to_nix32());
                let variable = format!("{text}Path");
                set(
                    variable.as_bytes(),
                    format!("{BUILD_DIR}/{file}").as_bytes(),
                );
                files.push((file, value.clone()));
            } else {
                set(name, value);
            }
        }
    }
    if drv.is_fixed() {
        // What else the machine has may only reach a build whose result is known.
        set(b"NIX_OUTPUT_CHECKED", b"1");
        for name in attributes.list("impureEnvVars").unwrap_or_default() {
            let value = options.impure_env.get(&name).map_or("", String::as_str);
            set(name.as_bytes(), value.as_bytes());
        }
    }
    Ok(Environment { env, files })
}

fn with_outputs(
    map: &Map<String, Value>,
    dir: &StoreDir,
    outputs: &BTreeMap<String, StorePath>,
) -> Map<String, Value> {
    // Sorted by name, as every reader of these files has seen them so far.
    let mut sorted: BTreeMap<String, Value> =
        map.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    let paths: Map<String, Value> = outputs
        .iter()
        .map(|(name, path)| (name.clone(), json!(path.absolute(dir))))
        .collect();
    sorted.insert("outputs".to_owned(), Value::Object(paths));
    sorted.into_iter().collect()
}

/// Writes attributes as declarations for bash; what bash cannot hold is left out.
fn to_shell(map: &Map<String, Value>) -> String {
    let mut out = String::new();
    for (name, value) in map {
        if !is_shell_name(name) {
            continue;
        }
        // Writing to a string cannot fail.
        let _infallible = match value {
            Value::Array(list) => match list.iter().map(simple).collect::<Option<Vec<_>>>() {
                Some(items) => {
                    let items: String = items.iter().map(|i| format!("{i} ")).collect();
                    writeln!(out, "declare -a {name}=({items})")
                }
                None => continue,
            },
            Value::Object(inner) => {
                let sorted: BTreeMap<&String, &Value> = inner.iter().collect();
                let items: Option<Vec<String>> = sorted
                    .into_iter()
                    .map(|(key, v)| Some(format!("[{}]={} ", quoted(key), simple(v)?)))
                    .collect();
                match items {
                    Some(items) => writeln!(out, "declare -A {name}=({})", items.concat()),
                    None => continue,
                }
            }
            other => match simple(other) {
                Some(text) => writeln!(out, "declare {name}={text}"),
                None => continue,
            },
        };
    }
    out
}

fn is_shell_name(name: &str) -> bool {
    let ok = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(ok) && name.chars().next().is_some_and(|c| !c.is_ascii_digit())
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn simple(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(quoted(s)),
        Value::Null => Some("''".to_owned()),
        Value::Bool(b) => Some(if *b { "1" } else { "" }.to_owned()),
        Value::Number(n) => match (n.as_i64(), n.as_f64()) {
            (Some(i), _) => Some(i.to_string()),
            // A float that is a whole number is written as one; others cannot be used in bash.
            (None, Some(f)) if f.fract() == 0.0 && f.abs() < 1e15 => Some(format!("{f:.0}")),
            _ => None,
        },
        Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn options() -> BuildOptions {
        let mut options = BuildOptions::new("x86_64-linux", PathBuf::from("/bin/sos"));
        options.impure_env = [("http_proxy".to_owned(), "p".to_owned())].into();
        options
    }

    fn drv(env: &[(&str, &str)]) -> Derivation {
        Derivation {
            env: env
                .iter()
                .map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec()))
                .collect(),
            ..Derivation::default()
        }
    }

    fn outputs() -> BTreeMap<String, StorePath> {
        let path = StorePath::from_base("11111111111111111111111111111111-x").unwrap();
        [("out".to_owned(), path)].into()
    }

    #[track_caller]
    fn made(env: &[(&str, &str)]) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
        let made =
            nix_environment(&StoreDir::default(), &drv(env), &outputs(), &options()).unwrap();
        let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
        (
            made.env
                .into_iter()
                .map(|(k, v)| (text(k), text(v)))
                .collect(),
            made.files.into_iter().map(|(k, v)| (k, text(v))).collect(),
        )
    }

    #[test]
    fn variables_and_files() {
        let (env, files) = made(&[
            ("HOME", "/mine"),
            ("big", "text"),
            ("passAsFile", "big"),
            ("impureEnvVars", "http_proxy"),
        ]);
        assert_eq!(env["HOME"], "/mine");
        assert_eq!(env["TMPDIR"], "/build");
        assert_eq!(env["out"], "/nix/store/11111111111111111111111111111111-x");
        assert!(!env.contains_key("big") && !env.contains_key("http_proxy"));
        // The file name is the hash of the variable's name, as in Nix.
        let file = env["bigPath"].strip_prefix("/build/").unwrap();
        assert_eq!(files[file], "text");
    }

    #[test]
    fn structured_attributes() {
        let json =
            r#"{"b":[1,"x y"],"a":{"k":"v'"},"n":null,"t":true,"deep":[[1]],"no-name":1,"f":1.5}"#;
        let (env, files) = made(&[("__json", json)]);
        assert!(!env.contains_key("out") && !env.contains_key("__json"));
        assert_eq!(env["NIX_ATTRS_SH_FILE"], "/build/.attrs.sh");
        assert_eq!(
            files[".attrs.sh"],
            "declare -A a=(['k']='v'\\''' )\ndeclare -a b=(1 'x y' )\ndeclare n=''\n\
             declare -A outputs=(['out']='/nix/store/11111111111111111111111111111111-x' )\ndeclare t=1\n"
        );
        let attrs: Value = serde_json::from_str(&files[".attrs.json"]).unwrap();
        assert_eq!(attrs["b"][1], "x y");
    }

    #[test]
    fn what_is_not_supported_says_so() {
        let drv = drv(&[("exportReferencesGraph", "g /nix/store/x")]);
        let error = nix_environment(&StoreDir::default(), &drv, &outputs(), &options()).err();
        assert!(error.unwrap().contains("exportReferencesGraph"));
    }
}
