//! Content-addressed outputs that hold their own names get the paths that Nix 2.8 gives them.
//!
//! The expected paths are from `nix-build` with `ca-derivations` of derivations that write the same bytes.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;

use sos_formats::derivation::Derivation;
use sos_store::{Known, TempDir};

use super::*;
use crate::builder::Pool;
use crate::resolve::{OutputPaths, resolve};
use crate::test_store::test_store;

struct Bench {
    store: Store,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let (dir, store) = test_store();
        Self { store, _dir: dir }
    }

    /// Registers what `write` makes; it is given the places and the paths in use during the build.
    fn finish(
        &self,
        name: &str,
        outputs: &[&str],
        write: impl Fn(&dyn Fn(&str) -> PathBuf, &dyn Fn(&str) -> String),
    ) -> Result<BTreeMap<String, Registered>, Stop> {
        let output = Output::Floating {
            method: Method::Recursive,
            algo: HashAlgo::Sha256,
        };
        let drv = Derivation {
            outputs: outputs
                .iter()
                .map(|o| ((*o).to_owned(), output.clone()))
                .collect(),
            ..Derivation::default()
        };
        let path = StorePath::from_base(&format!("{}-{name}.drv", "1".repeat(32))).unwrap();
        let dir = self.store.store_dir();
        let resolved = resolve(dir, &path, &drv, &OutputPaths::new()).unwrap();
        let place: TempDir = self.store.temp_dir("test").unwrap();
        write(&|output| place.path().join(output), &|output| {
            resolved.building[output].absolute(dir)
        });
        let job = Job {
            path,
            drv: Arc::new(drv),
            outputs: BTreeSet::new(),
            inputs: OutputPaths::new(),
            shown: "".into(),
            name: name.into(),
            pool: Pool::Build,
            expected_ms: None,
            forced: false,
            place: None,
        };
        let made = outputs
            .iter()
            .map(|o| {
                (
                    (*o).to_owned(),
                    Made::Tree(place.path().join(o), Known::new()),
                )
            })
            .collect();
        Finish {
            store: &self.store,
            job: &job,
            resolved: &resolved,
            closure: &BTreeSet::new(),
            knows_own_paths: true,
            cancel: &Cancel::new(),
        }
        .register(&made)
    }
}

#[track_caller]
fn paths(registered: Result<BTreeMap<String, Registered>, Stop>) -> Vec<String> {
    let Ok(registered) = registered else {
        panic!("refused");
    };
    registered.values().map(|one| one.path.base()).collect()
}

#[test]
fn a_tree_with_its_own_path_is_addressed_without_it() {
    let bench = Bench::new();
    let made = bench.finish("self", &["out"], |place, path| {
        let (place, path) = (place("out"), path("out"));
        fs::create_dir(&place).unwrap();
        fs::write(place.join("self"), format!("{path}/bin\n")).unwrap();
        symlink(format!("{path}/self"), place.join("link")).unwrap();
    });
    let paths = paths(made);
    assert_eq!(paths, ["hs9xsm8w9dpkz0bkz9limq35x79xmgkm-self"]);
    let path = StorePath::from_base(&paths[0]).unwrap();
    let info = bench.store.query(&path).unwrap().unwrap();
    assert_eq!(info.references, [path.clone()].into());
    let text = fs::read_to_string(bench.store.physical(&path).join("self")).unwrap();
    assert_eq!(
        text,
        "/nix/store/hs9xsm8w9dpkz0bkz9limq35x79xmgkm-self/bin\n"
    );
}

#[test]
fn outputs_that_name_each_other_are_addressed_in_order() {
    let bench = Bench::new();
    let made = bench.finish("multi", &["dev", "out"], |place, path| {
        let dev = path("dev");
        fs::write(place("out"), format!("{dev}\n")).unwrap();
        fs::create_dir(place("dev")).unwrap();
        fs::write(place("dev").join("me"), format!("dev {dev}\n")).unwrap();
    });
    assert_eq!(
        paths(made),
        [
            "bfl9yqi2kbyrf5arx1nn2s8k4apfmya8-multi-dev",
            "69n0wx6kcccf15ms4igk8ax1jvx926xl-multi"
        ]
    );
}

#[test]
fn a_circle_of_outputs_is_refused() {
    let made = Bench::new().finish("multi", &["dev", "out"], |place, path| {
        fs::write(place("out"), path("dev")).unwrap();
        fs::write(place("dev"), path("out")).unwrap();
    });
    let Err(Stop::Problem(problem)) = made else {
        panic!("accepted");
    };
    assert!(
        problem
            .message
            .contains("outputs dev and out refer to each other")
    );
}
