//! What was built starts: in emulated machines, one after the other.
//!
//! `make test` starts the disk of `examples/web`; with `SOS_TEST_BOOT=1` (`make test-boot`) everything starts: slots that fall back,
//! initrds, the network, a disk that was provisioned.

mod disk;

use std::sync::{Mutex, PoisonError};

use crate::demo::copy_example;
use crate::support::{World, one_at_a_time, skip};

/// The example, locked once for all tests of this module.
struct Machine {
    world: World,
}

/// The tests that share it, the quick one first; the last one removes it.
const TESTS: [&str; 5] = [
    "boot::disk::the_disk_of_the_example_starts",
    "boot::disk::an_initrd_of_our_own_finds_the_root",
    "boot::disk::a_bad_slot_falls_back",
    "boot::disk::the_network_is_enough",
    "boot::disk::ostree_systems_start_from_one_disk",
];

/// How many of [`TESTS`] this run is asked for.
fn asked_for() -> usize {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let wanted = |test: &&&str| words.is_empty() || words.iter().any(|w| test.contains(w.as_str()));
    let run = if all_wanted() { TESTS.len() } else { 1 };
    TESTS[..run].iter().filter(wanted).count()
}

static SHARED: Mutex<State> = Mutex::new(State {
    machine: None,
    served: 0,
});

struct State {
    machine: Option<Machine>,
    served: usize,
}

/// Calls `test` with the example; nothing where no mirror can be reached or no QEMU is installed.
fn with_machine(test: impl FnOnce(&Machine)) {
    let mut state = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let _alone = one_at_a_time();
    if state.machine.is_none() {
        state.machine = Machine::prepare();
    }
    state.served += 1;
    if let Some(machine) = &state.machine {
        // A failing test must not keep the gigabytes of the build.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(machine)));
        if state.served >= asked_for() {
            state.machine = None;
        }
        if let Err(reason) = result {
            std::panic::resume_unwind(reason);
        }
    }
}

/// Whether the boots that take long were asked for.
fn all_wanted() -> bool {
    std::env::var("SOS_TEST_BOOT").is_ok_and(|value| value == "1")
}

impl Machine {
    fn prepare() -> Option<Self> {
        let has_qemu = std::process::Command::new("qemu-system-x86_64")
            .arg("--version")
            .output()
            .is_ok();
        if !has_qemu || !std::path::Path::new("/usr/share/OVMF").is_dir() {
            skip("no QEMU or no OVMF");
            return None;
        }
        let mut world = World::new();
        for name in ["SOS_MIRRORS_DEBIAN", "SOS_MIRRORS_DEBIAN_SECURITY"] {
            if let Ok(value) = std::env::var(name) {
                world.set(name, &value);
            }
        }
        copy_example(&world.project());
        let locked = world.sos(["lock"]);
        let out_of_reach = ["mirror-unknown", "fetch-"]
            .iter()
            .any(|c| locked.stderr.contains(c));
        if [4, 5].contains(&locked.code) && out_of_reach {
            skip(&format!(
                "mirror://debian cannot be reached: {}",
                locked.stderr
            ));
            return None;
        }
        locked.ok();
        Some(Self { world })
    }

    /// Builds a target; returns its store path.
    fn build(&self, target: &str) -> String {
        let out = self.world.sos(["build", "--no-link", target]).ok().stdout;
        out.trim().to_owned()
    }
}
