//! Comparison with apt itself, on this machine's own package lists and from an empty system.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::*;
use crate::peers::{required, skip};

const LISTS: &str = "/var/lib/apt/lists";

/// Sets that between them reach alternatives, virtual packages, conflicts and thousands of packages.
const SETS: &[&str] = &[
    "nginx",
    "nginx-light",
    "openssh-server",
    "postgresql",
    "gcc make libc6-dev",
    "build-essential",
    "systemd-sysv",
    "python3",
    "podman",
    "network-manager",
    "gnome-core",
    "linux-image-cloud-amd64",
    "systemd systemd-sysv openssh-server linux-image-cloud-amd64 python3 nginx",
    "default-mta",
    "mailutils postfix",
    "apache2 php mariadb-server",
    "task-xfce-desktop",
    "kde-standard",
    "default-jdk-headless",
    "texlive-latex-recommended",
    "sysvinit-core",
    "emacs vim",
];

struct Peer {
    directory: PathBuf,
    lists: Vec<String>,
}

impl Peer {
    /// Finds apt and its lists; `None` where there are none.
    fn find() -> Option<Self> {
        let lists: Vec<String> = [
            "bookworm",
            "bookworm-updates",
            "bookworm-security",
            "trixie",
            "trixie-updates",
            "trixie-security",
        ]
        .iter()
        .filter_map(|suite| {
            let mut files: Vec<_> = std::fs::read_dir(LISTS)
                .ok()?
                .filter_map(Result::ok)
                .map(|e| e.path())
                .collect();
            files.sort();
            let wanted = format!("_dists_{suite}_main_binary-amd64_Packages");
            files
                .into_iter()
                .find(|f| f.to_string_lossy().contains(&wanted))
        })
        .filter_map(|file| {
            let output = Command::new("/usr/lib/apt/apt-helper")
                .arg("cat-file")
                .arg(&file)
                .output()
                .ok()?;
            String::from_utf8(output.stdout)
                .ok()
                .filter(|text| !text.is_empty())
        })
        .collect();
        let directory = std::env::temp_dir().join(format!("sos-apt-peer-{}", std::process::id()));
        std::fs::create_dir_all(directory.join("cache/archives/partial")).ok()?;
        std::fs::write(directory.join("status"), "").ok()?;
        (!lists.is_empty()).then_some(Self { directory, lists })
    }

    /// Gives `name version` of everything that apt would install, sorted; `None` when it refuses.
    fn install(&self, set: &[&str], recommends: bool) -> Option<Vec<String>> {
        let option = |name: &str, value: &Path| format!("{name}={}", value.display());
        let output = Command::new("apt-get")
            .args([
                "-s",
                "-q",
                "-o",
                "Debug::NoLocking=1",
                "-o",
                "APT::Architectures=amd64",
            ])
            .args([
                "-o",
                &option("Dir::State::status", &self.directory.join("status")),
            ])
            .args([
                "-o",
                &option(
                    "Dir::State::extended_states",
                    &self.directory.join("extended_states"),
                ),
            ])
            .args(["-o", &option("Dir::Cache", &self.directory.join("cache"))])
            .args([
                "-o",
                &format!("APT::Install-Recommends={recommends}"),
                "install",
            ])
            .args(set)
            .env("LC_ALL", "C")
            .output()
            .ok()?;
        if !output.status.success() {
            return None;
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines: Vec<String> = text
            .lines()
            .filter_map(|line| {
                let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
                let version = rest.strip_prefix('(')?.split(' ').next()?;
                Some(format!("{name} {version}"))
            })
            .collect();
        lines.sort();
        Some(lines)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // A leftover in the temporary directory harms nothing.
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

fn ours(universe: &Universe<'_>, set: &[&str], recommends: bool) -> Option<(Vec<String>, bool)> {
    let candidate = |name: &&str| {
        let package = universe.find(name)?;
        let only = || match universe.providing(package)[..] {
            [only] => Some(only),
            _ => None,
        };
        universe.default_candidate(package).or_else(only)
    };
    let wanted = set.iter().map(candidate).collect::<Option<Vec<_>>>()?;
    let choice = solve(
        universe,
        &Wish {
            wanted,
            recommends,
            ..Wish::default()
        },
    )
    .ok()?;
    let mut lines: Vec<_> = choice
        .versions
        .iter()
        .map(|v| format!("{} {}", universe.name_of(*v), universe.version(*v).version))
        .collect();
    lines.sort();
    Some((lines, choice.greedy))
}

#[test]
#[allow(clippy::disallowed_methods, reason = "switches of the test run itself")]
fn apt_chooses_the_same() {
    let Some(peer) = Peer::find() else {
        return skip("no apt, or no lists of it");
    };
    let mut universe = Universe::new("amd64");
    for (i, text) in peer.lists.iter().enumerate() {
        universe
            .add_index(text, i, 500)
            .expect("apt's lists are valid");
    }
    // All of them take minutes, so an ordinary run asks about the first few.
    let thorough = required() || std::env::var_os("SOS_APT_SETS").is_some();
    let count = if thorough { SETS.len() } else { 5 };
    let mut sets: Vec<Vec<&str>> = SETS
        .iter()
        .take(count)
        .map(|set| set.split(' ').collect())
        .collect();
    // More of them, at random but always the same: single packages, and pairs that may not fit together.
    let random: usize = std::env::var("SOS_APT_SETS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(if thorough { 6 } else { 0 });
    let names: Vec<_> = universe.real_names().collect();
    let mut state = 42_u64;
    let mut pick = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        names[usize::try_from(state >> 33).unwrap_or(0) % names.len()]
    };
    for i in 0..random {
        sets.push(if i % 2 == 0 {
            vec![pick()]
        } else {
            vec![pick(), pick(), pick()]
        });
    }
    let (mut same, mut greedy, mut differences) = (0, 0, Vec::new());
    for set in &sets {
        for recommends in [false, true] {
            let (theirs, ours) = (
                peer.install(set, recommends),
                ours(&universe, set, recommends),
            );
            greedy += usize::from(ours.as_ref().is_some_and(|(_, greedy)| *greedy));
            let ours = ours.map(|(lines, _)| lines);
            if theirs == ours {
                same += 1;
                continue;
            }
            let (a, b) = (
                theirs.clone().unwrap_or_default(),
                ours.clone().unwrap_or_default(),
            );
            let missing: Vec<_> = a.iter().filter(|l| !b.contains(l)).take(8).collect();
            let extra: Vec<_> = b.iter().filter(|l| !a.contains(l)).take(8).collect();
            let solved = (theirs.is_some(), ours.is_some());
            differences.push(format!("{} recommends={recommends} solved(apt, sos)={solved:?}: only apt {missing:?}, only sos {extra:?}", set.join(" ")));
        }
    }
    println!(
        "{same} of {} sets as apt chooses, {greedy} without search",
        sets.len() * 2
    );
    for line in &differences {
        println!("{line}");
    }
    assert!(
        differences.is_empty(),
        "{} sets differ:\n{}",
        differences.len(),
        differences.join("\n")
    );
}
