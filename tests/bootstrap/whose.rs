//! Whose the files of a store are when more than one user asks it for steps.

use std::os::unix::fs::MetadataExt as _;

use super::small::{content, world};
use crate::support::user::User;
use crate::support::{World, peer, run};

#[test]
fn root_leaves_nothing_in_the_store_of_a_user() {
    let Some(mut w) = world() else { return };
    let Some(user) = User::new("whose", true) else {
        return;
    };
    let _program = w.with_program_for(&user);
    let build = ["build", "--no-link", ".#rootfs"];
    let store = w.store();
    let first = run(user.becomes(&mut w.command_of(&build))).ok().stdout;
    // Root with the home of the user: it finds what is there, and makes nothing.
    assert_eq!(content(&w, first.trim(), "usr/x"), "x\n");
    w.sos(build).ok().says(&["built 0,"]);
    // Who only looks leaves nothing there either.
    let lock = store.join("work/lock");
    std::fs::remove_file(&lock).expect("a lock");
    w.sos(["gc", "--dry-run"]).ok();
    assert!(!lock.exists());
    let collected = w.sos(["gc"]).fails(4).says(&["error[store-foreign]:"]);
    assert!(
        !collected.stderr.contains("freeing"),
        "{}",
        collected.stderr
    );
    let seen = w.sos(["doctor"]).stdout;
    assert!(
        seen.contains("warn  store  ") && !seen.contains("reflink"),
        "{seen}"
    );
    // A link that keeps it would be written down there.
    w.sos(["build", ".#rootfs", "-o", "link"])
        .fails(4)
        .says(&["error[store-foreign]:"]);
    let see = "ls -lnd /usr /usr/* /bin /steps > ${PREFIX}/x\n";
    w.write("tree/steps/improve/x.sh", see);
    let said = format!("the store at {} is of user ", store.display());
    w.sos(build).fails(4).says(&[
        "error[store-foreign]:",
        &said,
        "run it as that user, or give root a store of its own with `--store`",
    ]);
    for entry in walkdir::WalkDir::new(&store) {
        let entry = entry.expect("root may look");
        let owner = entry.metadata().expect("it is there").uid();
        assert_ne!(owner, 0, "{}", entry.path().display());
    }
    // An older sos let root do so; this is what it left of the trees of roots, for root alone.
    for slot in std::fs::read_dir(store.join("work")).expect("root may look") {
        let slot = slot.expect("root may look").path();
        if slot.is_dir() {
            for path in [slot.join("lock"), slot.join("state"), slot] {
                std::os::unix::fs::lchown(&path, Some(0), Some(0)).expect("root may do that");
            }
        }
    }
    std::fs::write(&lock, "").expect("root may do that");
    // The user goes on, and nobody but root is in the root.
    let next = run(user.becomes(&mut w.command_of(&build))).ok().stdout;
    let seen = content(&w, next.trim(), "usr/x");
    let owners = seen
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2));
    assert!(owners.clone().count() > 3, "{seen}");
    assert!(owners.clone().all(|owner| owner == "0"), "{seen}");
}

#[test]
fn root_makes_no_store_in_a_place_of_a_user() {
    let Some(mut w) = world() else { return };
    let Some(user) = User::new("place", false) else {
        return;
    };
    let _program = w.with_program_for(&user);
    let store = w.store();
    let said = format!(
        " is of user {} and there is no store at {} yet",
        user.ids().0,
        store.display()
    );
    let build = ["build", "--no-link", ".#rootfs"];
    let refused = || {
        w.sos(build).fails(4).says(&[
            "error[store-foreign]:",
            &said,
            "a directory that root makes itself, with `--store DIR`, or the home of root, with `sudo -H`",
        ]);
    };
    // The home of the user has none, or an empty directory.
    std::fs::remove_dir_all(&store).expect("that of the test whether steps can run");
    refused();
    assert!(!store.exists());
    let seen = w.sos(["doctor"]).stdout;
    assert!(
        seen.contains("warn  store  ") && seen.contains(&said),
        "{seen}"
    );
    std::fs::create_dir_all(&store).expect("root may do that");
    user.owns(store.parent().expect("a home"));
    refused();
    assert_eq!(std::fs::read_dir(&store).expect("it is there").count(), 0);
    // A directory that root has made there is root's, and so is what root makes in it.
    std::fs::remove_dir(&store).expect("it is empty");
    std::fs::create_dir(&store).expect("root may do that");
    let root = w.sos(build).ok().stdout;
    assert_eq!(content(&w, root.trim(), "usr/x"), "x\n");
    let elsewhere = tempfile::tempdir().expect("a directory");
    let elsewhere = elsewhere.path().join("not/yet");
    let elsewhere = elsewhere.display().to_string();
    w.sos(["--store", &elsewhere, "build", "--no-link", ".#rootfs"])
        .ok();
}

#[test]
fn root_of_a_namespace_is_who_made_it() {
    let (mut w, Some(unshare)) = (World::new(), peer("unshare")) else {
        return;
    };
    let Some(user) = User::new("inner", false) else {
        return;
    };
    let _program = w.with_program_for(&user);
    w.write("x", "x");
    // A place below a directory of the machine's root, who is nobody known there.
    let gone = tempfile::tempdir().expect("a directory");
    let place = gone.path().to_owned();
    drop(gone);
    let shown = place.display().to_string();
    let sos = w.command_of(&["--store", &shown, "store", "add", "x"]);
    let mut command = std::process::Command::new(unshare);
    command.args(["--user", "--map-root-user"]);
    command.arg(sos.get_program()).args(sos.get_args());
    command.current_dir(w.project()).env("HOME", w.project());
    let added = run(user.becomes(&mut command));
    let made = std::fs::metadata(&place).map(|meta| meta.uid());
    drop(std::fs::remove_dir_all(&place));
    added.ok();
    assert_eq!(made.expect("a store"), user.ids().0);
}

#[test]
fn files_of_other_subordinate_ids_are_left_alone() {
    let Some(mut w) = world() else { return };
    let Some(user) = User::new("ids", true) else {
        return;
    };
    let own = |dir: &str| {
        format!(
            "mkdir -p {dir}/deep; echo x > {dir}/deep/f; chown -R 5:5 {dir}; chmod -R 700 {dir};"
        )
    };
    w.write("tree/steps/a/pass1.sh", &own("/usr/own"));
    let fails = own("/usr/left") + " cat /usr/own/deep/f; exit 3\n";
    w.write("tree/steps/improve/x.sh", &fails);
    let _program = w.with_program_for(&user);
    let sos = |arguments: &[&str]| run(user.becomes(&mut w.command_of(arguments)));
    let build = ["build", "--no-link", ".#rootfs"];
    let shell = [
        "shell",
        ".#improve-x",
        "--at-failure",
        "-c",
        "ls -ln /usr/left",
    ];
    sos(&build).fails(100).says(&["failed with exit status 3"]);
    assert!(sos(&shell).ok().stdout.contains(" 5 "));
    // As if it was another container, or somebody had written other ranges down.
    let store = w.store();
    let trees = || -> Vec<String> {
        let dirs = ["work", "failed"].map(|dir| std::fs::read_dir(store.join(dir)));
        let entries = dirs.into_iter().flat_map(|dir| dir.expect("root may look"));
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths
            .filter(|path| path.is_dir())
            .map(|path| path.display().to_string())
            .collect()
    };
    let give_back = user.gets_other_ids();
    let before = trees();
    sos(&shell).fails(1).says(&[
        "error[shell-state-foreign]: the state of the failed build of `improve-x` is of other subordinate ids",
        "build it again",
    ]);
    let kept = sos(&["gc"]).ok().says(&[
        "with files of subordinate ids that this user does not have now; root of the machine can remove: ",
    ]);
    let left: Vec<&String> = before
        .iter()
        .filter(|path| kept.stderr.contains(path.as_str()))
        .collect();
    // One of them at least, and that of the failed step.
    assert!(left.len() >= 2, "{}", kept.stderr);
    let is_same = |path: &&String| trees().contains(path);
    assert!(left.iter().all(is_same), "{:?} {left:?}", trees());
    // The step before can be used as before, and the new failure is told for itself.
    sos(&build).fails(100).says(&["failed with exit status 3"]);
    assert!(sos(&shell).ok().stdout.contains(" 5 "));
    give_back();
    let kept = sos(&["gc", "--json"]).ok().stdout;
    let kept: serde_json::Value = serde_json::from_str(&kept).expect("JSON");
    assert_eq!(kept["problems"], serde_json::json!([]));
    assert!(
        kept["left"].as_array().is_some_and(|all| all.len() >= 2),
        "{kept}"
    );
    assert!(!left.iter().any(is_same), "{:?} {left:?}", trees());
}
