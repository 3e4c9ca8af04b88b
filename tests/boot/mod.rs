//! What was built starts: in emulated machines, one after the other.
//!
//! `make test` starts the disk of `examples/web`; with `SOS_TEST_BOOT=1` (`make test-boot`) everything starts: slots that fall back,
//! initrds, the network, a disk that was provisioned.

mod disk;
mod provision;
mod trust;

use std::sync::{Mutex, PoisonError};

use crate::demo::copy_example;
use crate::support::{Run, World, one_at_a_time, skip};

/// What a boot may take on a machine that does other things too, in seconds.
const LIMIT: &str = "600";
/// What the example says on its console when `systemctl is-system-running` says so.
const RUNNING: &str = "the system is running";

/// The example, locked once for all tests of this module.
struct Machine {
    world: World,
}

/// The tests that share it, the quick one first; the last one removes it.
const TESTS: [&str; 11] = [
    "boot::disk::the_disk_of_the_example_starts",
    "boot::disk::an_initrd_of_our_own_finds_the_root",
    "boot::disk::a_bad_slot_falls_back",
    "boot::disk::the_network_is_enough",
    "boot::disk::ostree_systems_start_from_one_disk",
    "boot::disk::the_optical_drive_is_enough",
    "boot::disk::a_root_for_reading_only_starts",
    "boot::trust::a_root_with_hashes_starts_and_a_changed_one_does_not",
    "boot::trust::firmware_with_keys_starts_what_is_signed",
    "boot::provision::a_device_starts_one_version_after_the_other",
    "boot::provision::what_is_killed_leaves_the_version_before",
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

    /// Starts a target or a file; the machine must show what the words say.
    #[track_caller]
    fn starts(&self, what: &str, words: &[&str]) -> Run {
        let first = ["boot", "run", what, "--timeout", LIMIT];
        self.world.sos(first.iter().chain(words)).ok()
    }

    /// A file of the EFI system partition, the first one of an image, as a file of its own.
    fn uki_of(&self, image: &std::path::Path, path: &str) -> std::path::PathBuf {
        let out = self.world.project().join("taken.efi");
        let mut command = std::process::Command::new("mcopy");
        command.args([
            "-o",
            "-i",
            &format!("{}@@1M", image.display()),
            &format!("::{path}"),
        ]);
        crate::support::run(command.arg(&out)).ok();
        out
    }
}
