use super::*;
use crate::debian::universe::tests::index;

/// Solves and shows the outcome as sorted names, or the reasons.
#[track_caller]
fn check(packages: &[&str], wanted: &[&str], expected: &str) {
    check_with(packages, wanted, &[], false, expected);
}

#[track_caller]
fn check_with(
    packages: &[&str],
    wanted: &[&str],
    excluded: &[&str],
    recommends: bool,
    expected: &str,
) {
    let text = index(packages);
    let mut universe = Universe::new("amd64");
    universe.add_index(&text, 0, 500).expect("valid index");
    let find = |name: &&str| universe.find(name).expect("known package");
    let wish = Wish {
        wanted: wanted
            .iter()
            .map(|n| universe.default_candidate(find(n)).expect("has a version"))
            .collect(),
        excluded: excluded.iter().map(find).collect(),
        recommends,
        ..Wish::default()
    };
    let shown = match solve(&universe, &wish) {
        Ok(choice) => {
            let mut names: Vec<_> = choice
                .versions
                .iter()
                .map(|v| universe.name_of(*v))
                .collect();
            names.sort_unstable();
            format!(
                "{}{}",
                if choice.greedy { "" } else { "search: " },
                names.join(" ")
            )
        }
        Err(err) => format!("error: {}", err.reasons.join("; ")),
    };
    assert_eq!(shown, expected);
}

#[test]
fn the_first_alternative_wins_unless_another_is_chosen_already() {
    let packages = ["a 1 ; Depends: x | y", "x 1", "y 1", "b 1 ; Depends: y"];
    check(&packages, &["a"], "a x");
    check(&packages, &["b", "a"], "a b y");
    // The user's own choice is known before any need is looked at.
    check(&packages, &["a", "y"], "a y");
}

#[test]
fn a_real_package_comes_before_one_that_provides_its_name() {
    check(
        &["a 1 ; Depends: mta", "exim 1 ; Provides: mta", "mta 1"],
        &["a"],
        "a mta",
    );
    check(
        &[
            "a 1 ; Depends: mta",
            "exim 1 ; Provides: mta ; Priority: optional",
            "postfix 1 ; Provides: mta ; Priority: standard",
        ],
        &["a"],
        "a postfix",
    );
    check(
        &[
            "a 1 ; Depends: mta (>= 2)",
            "exim 1 ; Provides: mta",
            "new 1 ; Provides: mta (= 2)",
        ],
        &["a"],
        "a new",
    );
}

#[test]
fn recommendations_are_followed_only_on_request_and_never_fatal() {
    let packages = ["a 1 ; Recommends: r, gone", "r 1 ; Depends: s", "s 1"];
    check(&packages, &["a"], "a");
    check_with(&packages, &["a"], &[], true, "a r s");
}

#[test]
fn what_a_wanted_package_conflicts_with_is_avoided() {
    let packages = ["a 1 ; Depends: x | y", "w 1 ; Conflicts: x", "x 1", "y 1"];
    check(&packages, &["w", "a"], "a w y");
    check_with(&packages, &["a"], &["x"], false, "a y");
}

#[test]
fn a_package_does_not_conflict_with_what_it_provides_itself() {
    check(
        &[
            "exim 1 ; Provides: mta ; Conflicts: mta",
            "other 1 ; Provides: mta",
        ],
        &["exim"],
        "exim",
    );
}

#[test]
fn what_turned_out_to_be_unneeded_is_dropped() {
    // `x` is tried first, brings `helper`, and then fails on `gone`.
    check(
        &[
            "a 1 ; Depends: x | y",
            "x 1 ; Depends: helper, deep",
            "deep 1 ; Depends: gone",
            "helper 1",
            "y 1",
        ],
        &["a"],
        "a y",
    );
}

#[test]
fn the_search_goes_back_where_greed_fails() {
    // Greedy takes x1 for a; b's only way forbids it.
    let packages = [
        "a 1 ; Depends: x1 | x2",
        "b 1 ; Depends: c",
        "c 1 ; Depends: d",
        "d 1 ; Conflicts: x1",
        "x1 1",
        "x2 1",
    ];
    check(&packages, &["a", "b"], "search: a b c d x2");
    check_with(
        &[
            "a 1 ; Depends: x1 | x2 ; Recommends: r",
            "b 1 ; Depends: c",
            "c 1 ; Conflicts: x1",
            "x1 1",
            "x2 1",
            "r 1 ; Recommends: c",
        ],
        &["a", "b"],
        &[],
        true,
        "search: a b c r x2",
    );
}

#[test]
fn of_two_that_exclude_each_other_the_lesser_is_left_out() {
    check_with(
        &[
            "a 1 ; Recommends: small, big",
            "small 1",
            "big 1 ; Breaks: small",
            "c 1 ; Depends: big",
        ],
        &["a", "c"],
        &[],
        true,
        "a big c",
    );
}

#[test]
fn impossible_wishes_come_with_the_chain_of_reasons() {
    check(
        &["a 1 ; Depends: b", "b 2 ; Depends: gone"],
        &["a"],
        "error: `a` 1 needs `b`; `b` 2 needs `gone`, which no package provides",
    );
    check(
        &["a 1 ; Depends: b (>= 3)", "b 2"],
        &["a"],
        "error: `a` 1 needs `b (>= 3)`, but only version 2 is available",
    );
    check(
        &[
            "a 1 ; Depends: x",
            "b 1 ; Depends: y",
            "x 1",
            "y 1 ; Conflicts: x",
        ],
        &["a", "b"],
        "error: `b` 1 needs `y`; `a` 1 needs `x`; `y` 1 conflicts with `x`",
    );
}

#[test]
fn cycles_end() {
    check(&["a 1 ; Depends: b", "b 1 ; Depends: a"], &["a"], "a b");
    check(&["a 1 ; Depends: a"], &["a"], "a");
}

mod peer;
