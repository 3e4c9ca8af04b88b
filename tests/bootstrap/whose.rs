//! Whose the files of a store are when more than one user asks it for steps.

use std::os::unix::fs::MetadataExt as _;

use super::small::{content, world};
use crate::support::run;
use crate::support::user::User;

#[test]
fn root_leaves_nothing_in_the_store_of_a_user() {
    let Some(mut w) = world() else { return };
    let Some(user) = User::new("whose", true) else {
        return;
    };
    let _program = w.with_program_for(&user);
    let build = ["build", "--no-link", ".#rootfs"];
    let first = run(user.becomes(&mut w.command_of(&build))).ok().stdout;
    // Root with the home of the user: it finds what is there, and makes nothing.
    assert_eq!(content(&w, first.trim(), "usr/x"), "x\n");
    w.sos(build).ok().says(&["built 0,"]);
    // A link that keeps it would be written down there.
    w.sos(["build", ".#rootfs", "-o", "link"])
        .fails(4)
        .says(&["error[store-foreign]:"]);
    let see = "ls -lnd /usr /usr/* /bin /steps > ${PREFIX}/x\n";
    w.write("tree/steps/improve/x.sh", see);
    let store = w.store();
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
    // The user goes on, and nobody but root is in the root.
    let next = run(user.becomes(&mut w.command_of(&build))).ok().stdout;
    let seen = content(&w, next.trim(), "usr/x");
    let owners = seen
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2));
    assert!(owners.clone().count() > 3, "{seen}");
    assert!(owners.clone().all(|owner| owner == "0"), "{seen}");
}
