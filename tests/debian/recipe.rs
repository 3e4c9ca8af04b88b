//! Mistakes of the person who writes the recipe.

use super::{FILE, nothing_happened, with_recipe};
use crate::support::archive::Package;
use crate::support::tiny::recipe;

#[test]
fn an_unknown_package_is_named_with_its_line_and_the_nearest_names() {
    let Some(tiny) = with_recipe(&["greter"]) else {
        return;
    };
    tiny.world.sos(["build", FILE]).fails(3).says(&[
        "error[deb-unknown-package]",
        "`greter`",
        "test main (amd64)",
        "tiny.rootfs.toml:5:12",
        "`greeter`",
        "packages searched",
    ]);
    nothing_happened(&tiny.world);
}

#[test]
fn every_unknown_package_of_a_recipe_is_reported() {
    let Some(tiny) = with_recipe(&["nowhere", "greeter", "neverwas"]) else {
        return;
    };
    tiny.world
        .sos(["build", FILE])
        .fails(3)
        .says(&["`nowhere`", "`neverwas`"]);
    nothing_happened(&tiny.world);
}

#[test]
fn a_misspelt_key_is_an_error_before_anything_is_asked_of_a_mirror() {
    let Some(mut tiny) = with_recipe(&[]) else {
        return;
    };
    tiny.world.set("SOS_MIRRORS_DEBIAN", "http://127.0.0.1:9");
    tiny.world.write(
        FILE,
        &recipe(&[], "inclde = [\"greeter\"]\n[cleanup]\nlog = true\n"),
    );
    tiny.world.sos(["build", FILE]).fails(3).says(&[
        "error[recipe-unknown-field]",
        "`inclde`",
        "`include`",
        "tiny.rootfs.toml:7:1",
        "`log`",
        "`logs`",
        "tiny.rootfs.toml:9:1",
    ]);
    nothing_happened(&tiny.world);
}

#[test]
fn a_version_that_is_not_there_is_said() {
    let Some(tiny) = with_recipe(&["greeter (>= 9)"]) else {
        return;
    };
    tiny.world.sos(["build", FILE]).fails(3).says(&[
        "greeter",
        "9",
        "1.5-2",
        "tiny.rootfs.toml:5:12",
    ]);
    nothing_happened(&tiny.world);
}

#[test]
fn a_dependency_that_cannot_be_met_is_explained() {
    let Some(mut tiny) = with_recipe(&["needy"]) else {
        return;
    };
    tiny.archive
        .add(&Package::new("needy", "1.0").field("Depends", "greeter (>= 2), greeter-data"));
    tiny.publish();
    tiny.world.sos(["build", FILE]).fails(3).says(&[
        "error[deb-unsatisfiable]",
        "`needy` 1.0 needs `greeter (>= 2)`",
        "1.5-2",
        "tiny.rootfs.toml:5:12",
    ]);
    nothing_happened(&tiny.world);
}

#[test]
fn packages_that_exclude_each_other_are_named() {
    let Some(mut tiny) = with_recipe(&["left", "right"]) else {
        return;
    };
    tiny.archive
        .add(&Package::new("left", "1").field("Conflicts", "right"));
    tiny.archive.add(&Package::new("right", "1"));
    tiny.publish();
    tiny.world.sos(["build", FILE]).fails(3).says(&[
        "error[deb-unsatisfiable]",
        "`left`",
        "conflicts with",
        "`right`",
    ]);
    nothing_happened(&tiny.world);
}

#[test]
fn a_suite_that_the_archive_does_not_have() {
    let Some(tiny) = with_recipe(&[]) else { return };
    tiny.world.write(
        FILE,
        &recipe(&[], "").replace("suite = \"test\"", "suite = \"tset\""),
    );
    tiny.world
        .sos(["build", FILE])
        .fails(5)
        .says(&["tset", "InRelease"]);
    nothing_happened(&tiny.world);
}

#[test]
fn a_file_that_is_not_beside_the_recipe() {
    let Some(tiny) = with_recipe(&[]) else { return };
    tiny.world.write(
        FILE,
        &recipe(
            &[],
            "[[file]]\npath = \"/etc/motd\"\nsource = \"files/motd\"\n",
        ),
    );
    tiny.world.sos(["build", FILE]).fails(3).says(&[
        "error[recipe-file-missing]",
        "files/motd",
        "tiny.rootfs.toml:9:",
    ]);
    nothing_happened(&tiny.world);
}

#[test]
fn a_maintainer_script_that_fails_is_a_failed_build_with_its_output() {
    let Some(mut tiny) = with_recipe(&["broken"]) else {
        return;
    };
    tiny.archive
        .add(&Package::new("broken", "1.0").script("postinst", "echo this will not do; exit 7"));
    tiny.publish();
    tiny.world.sos(["build", FILE]).fails(100).says(&[
        "error[build-failed]",
        "this will not do",
        "broken",
        "sos log",
    ]);
    crate::support::left_nothing(&tiny.world, "tiny-rootfs");
    assert!(
        tiny.world
            .sos(["log", "tiny-packages"])
            .ok()
            .stdout
            .contains("this will not do")
    );
}
