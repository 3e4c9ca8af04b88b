//! The environment of a build in the Nix shape.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use sos_formats::derivation::Derivation;
use sos_formats::hash::{Hash, HashAlgo};
use sos_formats::store_path::{StoreDir, StorePath};

use crate::attributes::Attributes;
use crate::options::BuildOptions;
use crate::references::References;
use crate::sandbox::spec::{nix_base_env, nix_directories, nix_terminal};
use crate::structured::{to_json, to_shell};

/// Environment and files that a builder gets.
pub(crate) struct Environment {
    /// Variables; later ones of a name win.
    pub(crate) env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Files to put in the build directory, by name.
    pub(crate) files: Vec<(String, Vec<u8>)>,
}

/// Makes the environment of `drv`, in which own placeholders are replaced already. `inside` is what it calls its directory.
pub(crate) fn nix_environment(
    references: &References<'_>,
    drv: &Derivation,
    outputs: &BTreeMap<String, StorePath>,
    options: &BuildOptions,
    inside: &str,
) -> Result<Environment, String> {
    let dir = references.store.store_dir();
    let attributes = Attributes::of(drv)?;
    let mut env = nix_base_env(dir.as_str(), options.cores);
    let mut files = Vec::new();
    let mut set = |name: &[u8], value: &[u8]| env.push((name.to_vec(), value.to_vec()));
    if let Some(map) = attributes.structured() {
        let mut map = with_outputs(map, dir, outputs);
        map.extend(
            references
                .attributes(&attributes)
                .map_err(|e| e.to_string())?,
        );
        files.push((".attrs.sh".to_owned(), to_shell(&map).into_bytes()));
        let json = to_json(&Value::Object(map));
        files.push((".attrs.json".to_owned(), json.into_bytes()));
        let sh = format!("{inside}/.attrs.sh");
        let json = format!("{inside}/.attrs.json");
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
                set(variable.as_bytes(), format!("{inside}/{file}").as_bytes());
                files.push((file, value.clone()));
            } else {
                set(name, value);
            }
        }
        files.extend(references.files(drv).map_err(|e| e.to_string())?);
    }
    for (name, value) in nix_directories(inside) {
        set(&name, &value);
    }
    if drv.is_fixed() {
        // What else the machine has may only reach a build whose result is known.
        set(b"NIX_OUTPUT_CHECKED", b"1");
        for name in attributes.list("impureEnvVars").unwrap_or_default() {
            let value = options.impure_env.get(&name).map_or("", String::as_str);
            set(name.as_bytes(), value.as_bytes());
        }
    }
    for (name, value) in nix_terminal() {
        set(&name, &value);
    }
    Ok(Environment { env, files })
}

fn with_outputs(
    map: &Map<String, Value>,
    dir: &StoreDir,
    outputs: &BTreeMap<String, StorePath>,
) -> Map<String, Value> {
    let mut map = map.clone();
    let paths: Map<String, Value> = outputs
        .iter()
        .map(|(name, path)| (name.clone(), json!(path.absolute(dir))))
        .collect();
    map.insert("outputs".to_owned(), Value::Object(paths));
    map
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::sandbox::spec::BUILD_DIR;
    use crate::test_store::test_store;

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
        let (_dir, store) = test_store();
        let references = References {
            store: &store,
            inputs: &BTreeSet::new(),
        };
        let made =
            nix_environment(&references, &drv(env), &outputs(), &options(), BUILD_DIR).unwrap();
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
    fn what_tells_the_place_of_the_build_is_not_the_derivations_to_say() {
        let (env, _) = made(&[
            ("PATH", "/p"),
            ("HOME", "/h"),
            ("NIX_STORE", "/s"),
            ("NIX_BUILD_CORES", "77"),
            ("TMPDIR", "/t"),
            ("PWD", "/w"),
            ("NIX_LOG_FD", "9"),
            ("TERM", "dumb"),
        ]);
        let get = |name: &str| env[name].as_str();
        assert_eq!(
            ["PATH", "HOME", "NIX_STORE", "NIX_BUILD_CORES"].map(get),
            ["/p", "/h", "/s", "77"]
        );
        assert_eq!(
            ["TMPDIR", "PWD", "NIX_LOG_FD", "TERM"].map(get),
            ["/build", "/build", "2", "xterm-256color"]
        );
    }
}
