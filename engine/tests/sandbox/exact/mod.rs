//! Whether a step's result is exactly what the step saw: Python, which is not ours, changes a tree at random inside a step and says
//! what it finds there, before and after; the manifests must say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use sos_engine::sandbox::{Control, StepMount, StepSpec, reset_work_trees};
use sos_formats::hash::Blake3;
use sos_store::rootfs::KindView;

use crate::support::{EPOCH, Lab, skip};

mod cases;

pub(crate) const TESTS: &[(&str, fn())] = &[
    (
        "exact::links_that_are_written",
        cases::links_that_are_written,
    ),
    (
        "exact::links_that_are_replaced",
        cases::links_that_are_replaced,
    ),
    ("exact::devices", cases::devices),
    ("exact::attributes_of_nodes", cases::attributes_of_nodes),
    ("exact::sockets", cases::sockets),
    ("exact::closed_and_deep", cases::closed_and_deep),
    ("exact::owners", cases::owners),
    (
        "exact::everything_is_replaced",
        cases::everything_is_replaced,
    ),
    ("exact::random_changes", random_changes),
];

/// Steps of one chain, and changes in each.
const STEPS: u64 = 5;
const CHANGES: u64 = 40;

/// One entry below `/t`, as Python finds it or a manifest says it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Found {
    path: String,
    kind: String,
    value: String,
    mode: u32,
    uid: u32,
    gid: u32,
    secs: i64,
    nsecs: u32,
    /// Names of one file have the same number; 0 for what is no file.
    file: u64,
    ino: u64,
    links: u64,
    xattrs: BTreeMap<String, String>,
}

type Tree = BTreeMap<String, Found>;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse(text: &str) -> Tree {
    text.lines()
        .map(|line| serde_json::from_str::<Found>(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .map(|found| (found.path.clone(), found))
        .collect()
}

/// What a manifest says of `/t`.
fn told(lab: &Lab, root: &Blake3) -> Tree {
    let tree = lab.load(root);
    let mut all = Tree::new();
    let mut groups: BTreeMap<[u8; 16], u64> = BTreeMap::new();
    tree.walk(|path, meta, kind| {
        if path != b"t" && !path.starts_with(b"t/") {
            return Ok(());
        }
        let mut file = 0;
        let (kind, value) = match kind {
            KindView::File { hardlink, .. } => {
                if let Some(group) = hardlink {
                    let next = groups.len() as u64 + 1;
                    file = *groups.entry(group).or_insert(next);
                }
                ("file", hex(&tree.read_file(path)?))
            }
            KindView::Dir => ("dir", String::new()),
            KindView::Symlink { target } => ("symlink", hex(target)),
            KindView::Fifo => ("fifo", String::new()),
            _ => ("other", String::new()),
        };
        let xattrs = meta.xattrs.iter();
        let found = Found {
            path: hex(path),
            kind: kind.to_owned(),
            value,
            mode: meta.mode.into(),
            uid: meta.uid,
            gid: meta.gid,
            secs: meta.mtime_secs,
            nsecs: meta.mtime_nsecs,
            file,
            ino: 0,
            links: 0,
            xattrs: xattrs
                .map(|(name, value)| (hex(name), hex(value)))
                .collect(),
        };
        all.insert(found.path.clone(), found);
        Ok(())
    })
    .unwrap();
    all
}

/// The paths of each file with several names; `before` is what the step that is looked at began with.
fn groups(tree: &Tree, before: &Tree) -> BTreeSet<BTreeSet<String>> {
    let mut by_number: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for (path, found) in tree.iter().filter(|(_, found)| found.file != 0) {
        by_number
            .entry(found.file)
            .or_default()
            .insert(path.clone());
    }
    // An overlay numbers a name that it copied up as in the layer below, and names that were added later as in the upper one.
    // So names with more links than were found are put together when they are alike to the nanosecond.
    let mut alike: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut all = BTreeSet::new();
    for names in by_number.into_values() {
        let Some(first) = names.first().map(|name| &tree[name]) else {
            continue;
        };
        let lower = before
            .get(&first.path)
            .is_some_and(|old| old.links > 1 && old.ino == first.ino);
        if (names.len() as u64) < first.links && !lower {
            let key = Found {
                path: String::new(),
                file: 0,
                ino: 0,
                ..first.clone()
            };
            alike.entry(format!("{key:?}")).or_default().extend(names);
        } else {
            all.insert(names);
        }
    }
    all.extend(alike.into_values());
    all.retain(|names| names.len() > 1);
    all
}

/// The entries without the numbers of files, which say nothing by themselves.
fn plain(tree: &Tree) -> Vec<Found> {
    let plain = |found: &Found| Found {
        file: 0,
        ino: 0,
        links: 0,
        ..found.clone()
    };
    tree.values().map(plain).collect()
}

#[track_caller]
fn same(what: &str, expected: &[Found], found: &[Found]) {
    let show = |these: &[Found], those: &[Found]| -> String {
        let different = these.iter().filter(|one| !those.contains(one));
        different.map(|one| format!("{one:?}\n")).collect()
    };
    let (missing, more) = (show(expected, found), show(found, expected));
    assert!(
        missing.is_empty() && more.is_empty(),
        "{what}\nexpected:\n{missing}found:\n{more}"
    );
}

/// The python of this machine as mounts of a step.
fn python() -> Option<Vec<StepMount>> {
    let program = Path::new("/usr/bin/python3").canonicalize().ok()?;
    let mut mounts = vec![StepMount {
        inside: PathBuf::from("/usr/bin/python3"),
        outside: program,
    }];
    for dir in ["/usr/lib", "/lib", "/lib64"] {
        if let Ok(outside) = Path::new(dir).canonicalize() {
            mounts.push(StepMount {
                inside: PathBuf::from(dir),
                outside,
            });
        }
    }
    Some(mounts)
}

fn scripts(lab: &Lab) -> Option<Vec<StepMount>> {
    let Some(mut mounts) = python() else {
        skip("no /usr/bin/python3");
        return None;
    };
    let dir = lab.dir.join("scripts");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("scan.py"), include_str!("scan.py")).unwrap();
    std::fs::write(dir.join("change.py"), include_str!("change.py")).unwrap();
    mounts.push(StepMount {
        inside: PathBuf::from("/scripts"),
        outside: dir,
    });
    Some(mounts)
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

/// What a step must make of the tree `after`, which it left, when it began with `before` at the second `since`.
fn expected(before: &Tree, after: &Tree, since: i64) -> Vec<Found> {
    let mut all = plain(after);
    all.retain(|found| found.kind != "socket");
    for found in &mut all {
        let untouched = before
            .get(&found.path)
            .is_some_and(|old| (old.secs, old.nsecs) == (found.secs, found.nsecs));
        if !untouched {
            if found.secs >= since - 1 || found.secs > EPOCH {
                found.secs = EPOCH;
            }
            found.nsecs = 0;
        }
    }
    all
}

/// The groups of the result: those that the step saw, and names of a file that the overlay separated although they are alike.
fn expected_groups(before: &Tree, after: &Tree) -> BTreeSet<BTreeSet<String>> {
    let mut all = groups(after, before);
    for names in groups(before, before) {
        let now = names.iter().filter_map(|name| after.get(name));
        let (kept, changed): (Vec<&Found>, Vec<&Found>) =
            now.partition(|found| found.ino == before[&found.path].ino);
        let separated: Vec<&Found> = changed
            .into_iter()
            .filter(|found| {
                let old = &before[&found.path];
                found.kind == "file" && found.links == 1 && found.value == old.value
            })
            .collect();
        let Some(first) = separated.first() else {
            continue;
        };
        let alike = |found: &&Found| {
            let meta = |f: &Found| (f.mode, f.uid, f.gid, f.secs, f.nsecs, f.xattrs.clone());
            meta(found) == meta(first)
        };
        let old = &before[&first.path];
        let untouched = (old.secs, old.nsecs) == (first.secs, first.nsecs);
        if separated.iter().all(alike) && (untouched || kept.is_empty()) {
            let path = |found: &&Found| found.path.clone();
            let left: BTreeSet<String> = kept.iter().map(path).collect();
            all.remove(&left);
            all.insert(left.into_iter().chain(separated.iter().map(path)).collect());
        }
    }
    all.retain(|names| names.len() > 1);
    all
}

fn chain(seed: u64) {
    let lab = Lab::new();
    let Some(mounts) = scripts(&lab) else { return };
    let run = |root: &Blake3, script: &str| {
        let mut plan: StepSpec = lab.plan(*root, script);
        plan.mounts.clone_from(&mounts);
        let (outcome, log) = lab.run(&plan);
        assert!(
            outcome.exit.success(),
            "seed {seed}: {:?}\n{log}",
            outcome.exit
        );
        (outcome.root.unwrap(), log, outcome.notes)
    };
    let (mut root, ..) = run(&lab.base, "busybox mkdir /t");
    let mut all = vec![root];
    for step in 0..STEPS {
        let since = now();
        let number = seed * STEPS + step;
        let (next, log, notes) = run(
            &root,
            &format!(
                "python3 /scripts/scan.py /t; echo --; python3 /scripts/change.py /t {number} {CHANGES}; python3 /scripts/scan.py /t"
            ),
        );
        let (before, after) = log.split_once("--\n").unwrap();
        let (before, after) = (parse(before), parse(after));
        let what = |what: &str| format!("seed {seed}, step {step}: {what}");
        same(
            &what("the working tree"),
            &plain(&told(&lab, &root)),
            &plain(&before),
        );
        assert_eq!(
            groups(&told(&lab, &root), &Tree::new()),
            groups(&before, &before),
            "{}",
            what("links of the working tree")
        );
        let told = told(&lab, &next);
        same(
            &what("the result"),
            &expected(&before, &after, since),
            &plain(&told),
        );
        let links = expected_groups(&before, &after);
        for names in links.symmetric_difference(&groups(&told, &Tree::new())) {
            for name in names {
                println!(
                    "before {:?}\nafter {:?}\nresult {:?}",
                    before.get(name),
                    after.get(name),
                    told.get(name)
                );
            }
        }
        assert_eq!(
            links,
            groups(&told, &Tree::new()),
            "{}",
            what("links of the result")
        );
        let sockets = after
            .values()
            .filter(|found| found.kind == "socket")
            .count();
        assert_eq!(notes.len(), sockets, "{notes:?}");
        root = next;
        all.push(root);
    }
    // To any of them from any other, and made from nothing, the files are those of the manifest.
    let mut order: Vec<Blake3> = all.iter().rev().step_by(2).copied().collect();
    order.extend(&all);
    for (at, root) in order.iter().enumerate() {
        if at + 2 == order.len() {
            reset_work_trees(&lab.store, &Control::default()).unwrap();
        }
        let (same_root, log, _) = run(root, "python3 /scripts/scan.py /t");
        assert_eq!(same_root, *root);
        same(
            &format!("seed {seed}: the tree of a manifest"),
            &plain(&told(&lab, root)),
            &plain(&parse(&log)),
        );
        assert_eq!(
            groups(&told(&lab, root), &Tree::new()),
            groups(&parse(&log), &Tree::new())
        );
    }
}

fn random_changes() {
    let slow = std::env::var_os("SOS_TEST_SLOW").is_some();
    let seeds = match std::env::var("SOS_TEST_SEED") {
        Ok(seed) => {
            let seed: u64 = seed.parse().unwrap();
            seed..seed + 1
        }
        Err(_) => 0..if slow { 60 } else { 4 },
    };
    for seed in seeds {
        chain(seed);
    }
}
