//! Exports into one repository at the same time.

use std::fs;

use super::tests::{attrs, plant};
use super::*;
use crate::build::fake::Fake;
use crate::export::waiting::meanwhile;
use crate::export::{AddOptions, add_to_repository};

#[test]
fn the_summary_tells_of_what_came_while_an_export_waited() {
    let mut fake = Fake::new();
    let root = plant(&fake, 7, false);
    fake.roots.insert("root".into(), root);
    let repository = make(&fake, &attrs(Mode::Archive)).expect("a repository");
    let dir = fake.path("repo");
    // Not the whole of `fake`, which is of one thread.
    let store = &fake.store;
    let add = |branch: &str| {
        let options = AddOptions {
            branch: Some(branch),
            ..AddOptions::default()
        };
        add_to_repository(store, &repository, &dir, &options).expect("an export")
    };
    add("first");
    let has = |name: &str| {
        let summary = fs::read(dir.join("summary")).expect("a summary");
        summary
            .windows(name.len())
            .any(|part| part == name.as_bytes())
    };
    assert!(has("first"));
    let heads = dir.join("refs/heads");
    meanwhile(
        &dir,
        || add("second"),
        || {
            fs::copy(heads.join("first"), heads.join("other")).expect("copied");
        },
    );
    assert!(has("second") && has("other"));
}
