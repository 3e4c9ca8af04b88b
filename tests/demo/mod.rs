//! `examples/web` with a real mirror: what comes out, what is done again after a change, and that everybody gets the same.

mod image;
mod inside;
mod layers;
mod rebuild;
mod same;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::support::{World, one_at_a_time, run, skip};

/// The example, built once for all tests of this module.
struct Demo {
    world: World,
    /// Store path of the image.
    image: String,
    /// Store paths of the other targets, as `sos.nix` names them.
    web: String,
    hello: String,
}

/// The tests that share one build; the last one removes it.
const TESTS: [&str; 2] = [
    "demo::the_example_is_an_image_that_everybody_takes",
    "demo::the_same_image_comes_out_everywhere",
];

/// How many of [`TESTS`] this run is asked for.
fn asked_for() -> usize {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let wanted = |test: &&&str| words.is_empty() || words.iter().any(|w| test.contains(w.as_str()));
    TESTS.iter().filter(wanted).count()
}

/// Where the shared build is between the tests.
static SHARED: Mutex<State> = Mutex::new(State {
    demo: None,
    served: 0,
});

struct State {
    demo: Option<Demo>,
    served: usize,
}

/// Calls `test` with the built example; the tests run one after the other.
fn with_demo(test: impl FnOnce(&mut Demo)) {
    let mut state = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let _alone = one_at_a_time();
    if state.demo.is_none() {
        state.demo = Demo::build();
    }
    state.served += 1;
    if let Some(demo) = &mut state.demo {
        // A failing test must not keep the gigabytes of the build.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(demo)));
        if state.served >= asked_for() {
            state.demo = None;
        }
        if let Err(reason) = result {
            std::panic::resume_unwind(reason);
        }
    }
}

/// Copies the example as git has it: without locks and links that a build left there.
pub(crate) fn copy_example(to: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/web");
    for entry in walkdir::WalkDir::new(&from).into_iter().flatten() {
        let relative = entry.path().strip_prefix(&from).expect("below the example");
        if entry.file_name() == "sos.lock" || entry.path_is_symlink() {
            continue;
        }
        let target = to.join(relative);
        if entry.file_type().is_dir() {
            std::fs::create_dir_all(target).expect("a directory");
        } else {
            std::fs::copy(entry.path(), target).expect("a file");
        }
    }
}

impl Demo {
    /// Builds the example for the first time; nothing where no mirror can be reached.
    fn build() -> Option<Self> {
        let mut world = World::new();
        // Where this machine's own sources do not say it.
        for name in ["SOS_MIRRORS_DEBIAN", "SOS_MIRRORS_DEBIAN_SECURITY"] {
            if let Ok(value) = std::env::var(name) {
                world.set(name, &value);
            }
        }
        copy_example(&world.project());
        let first = world.sos(["lock"]);
        if [4, 5].contains(&first.code)
            && ["mirror-unknown", "fetch-"]
                .iter()
                .any(|c| first.stderr.contains(c))
        {
            skip(&format!(
                "mirror://debian cannot be reached: {}",
                first.stderr
            ));
            return None;
        }
        first.ok().says(&["wrote sos.lock"]);
        let out = world
            .sos([
                "build",
                "--no-link",
                // What `same.rs` varies: here two at once, with three cores each.
                "-j",
                "2",
                "--config",
                "build.cores=3",
                ".#image",
                ".#web",
                ".#hello",
            ])
            .ok()
            .stdout;
        let [image, web, hello] = out.lines().collect::<Vec<_>>()[..] else {
            panic!("three paths: {out}")
        };
        Some(Self {
            image: image.into(),
            web: web.into(),
            hello: hello.into(),
            world,
        })
    }

    /// The image layout on disk.
    fn layout(&self) -> PathBuf {
        self.world.physical(&self.image)
    }

    /// The digest of the image's manifest.
    fn digest(&self) -> String {
        digest(&self.world, &self.image)
    }

    /// Changes the C program of the example.
    fn edit(&self, from: &str, to: &str) {
        let file = self.world.project().join("hello/main.c");
        let text = std::fs::read_to_string(&file).expect("the program");
        assert!(text.contains(from), "no `{from}` in the program");
        std::fs::write(file, text.replacen(from, to, 1)).expect("the program can be written");
    }
}

/// The digest of the manifest of an image layout.
fn digest(world: &World, image: &str) -> String {
    let index = world
        .sos(["store", "cat", &format!("{image}/index.json")])
        .ok()
        .stdout;
    let index: serde_json::Value = serde_json::from_str(&index).expect("JSON");
    index["manifests"][0]["digest"]
        .as_str()
        .expect("a digest")
        .to_owned()
}

/// Everything that one build of the example must be good for, in an order that lets each step find what it needs.
#[test]
fn the_example_is_an_image_that_everybody_takes() {
    with_demo(|demo| {
        image::peers_take_it(demo);
        image::it_holds_what_the_recipes_say(demo);
        inside::it_works(demo);
        rebuild::the_second_build_does_nothing(demo);
        rebuild::locked_and_offline_builds_work(demo);
        rebuild::a_changed_line_rebuilds_the_program_and_its_layer(demo);
        rebuild::a_changed_comment_stops_after_the_compiler(demo);
        crate::support::store_is_clean(&demo.world);
    });
}

/// One more build in another store, where nothing was built before, by another user, in another directory, time zone and language, with a strict umask and one job at
/// a time, gives the same image.
#[test]
fn the_same_image_comes_out_everywhere() {
    with_demo(|demo| same::another_user_gets_the_same_image(demo));
}

/// Runs a program of this machine that must succeed.
#[track_caller]
fn tool(program: &Path, args: &[&str]) -> String {
    let run = run(Command::new(program).args(args)).ok();
    run.stdout + &run.stderr
}
