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

/// A component that the archive does not have is underlined itself, and an essential package that is excluded.
#[test]
fn words_that_only_the_archive_can_judge_are_underlined() {
    let Some(tiny) = with_recipe(&[]) else { return };
    tiny.world
        .write(FILE, &recipe(&[], "components = [\"mian\"]\n"));
    tiny.world.sos(["build", FILE]).fails(3).says(&[
        "error[deb-unknown-component]",
        "`mian`",
        "`main`",
        "tiny.rootfs.toml:7:15",
    ]);
    tiny.world
        .write(FILE, &recipe(&[], "exclude = [\"tiny-base\"]\n"));
    tiny.world.sos(["build", FILE]).fails(3).says(&[
        "error[deb-excluded]",
        "`tiny-base`",
        "tiny.rootfs.toml:7:12",
    ]);
    nothing_happened(&tiny.world);
}

#[test]
fn an_architecture_that_does_not_run_here_is_refused_before_anything_is_fetched() {
    let Some(mut tiny) = with_recipe(&[]) else {
        return;
    };
    tiny.world.set("SOS_MIRRORS_DEBIAN", "http://127.0.0.1:9");
    tiny.world.write(FILE, &recipe(&[], "arch = \"s390x\"\n"));
    for verb in ["check", "build"] {
        tiny.world.sos([verb, FILE]).fails(4).says(&[
            "error[env-wrong-system]",
            "s390x-linux",
            "`arch`",
            "tiny.rootfs.toml:7:8",
        ]);
    }
    nothing_happened(&tiny.world);
}

#[test]
fn an_attribute_that_no_recipe_has_is_refused_before_anything_is_fetched() {
    let Some(mut tiny) = with_recipe(&[]) else {
        return;
    };
    tiny.world.set("SOS_MIRRORS_DEBIAN", "http://127.0.0.1:9");
    tiny.world
        .sos(["build", &format!("{FILE}#oic")])
        .fails(3)
        .says(&[
            "error[eval-attr-missing]",
            "`oic`",
            "`rootfs`, `oci`",
            "`disk`, `qcow2`, `uki`, `netboot`, `iso`, `provision`",
            "did you mean `oci`?",
        ]);
    nothing_happened(&tiny.world);
}

/// Found without a network, both in one run.
#[test]
fn paths_that_cannot_be_together_are_told_by_check() {
    let Some(tiny) = with_recipe(&[]) else { return };
    tiny.world.write(
        FILE,
        &recipe(
            &[],
            "[files]\n\"/etc/x\".content = \"\"\n\"/etc/x/y\".content = \"\"\n\"/etc\".content = \"\"\n",
        ),
    );
    tiny.world.sos(["check", FILE]).fails(3).says(&[
        "error[recipe-path-clash]",
        "`/etc/x/y` cannot be placed below `/etc/x`",
        "tiny.rootfs.toml:9:1",
        "`/etc` is placed as a file",
        "tiny.rootfs.toml:10:1",
    ]);
    nothing_happened(&tiny.world);
}

/// What only the packages can tell is told after them, but all at once, and where it was written.
#[test]
fn accounts_services_and_owners_that_the_packages_do_not_have() {
    let Some(tiny) = with_recipe(&[]) else { return };
    tiny.world.write(
        FILE,
        &recipe(
            &[],
            "timezone = \"Mars/Base\"\n[[user]]\nname = \"deploy\"\nuid = 1000\ngroups = [\"www-data\", \"wheel\"]\n[[user]]\nname = \"web\"\nuid = 33\n[[file]]\npath = \"/etc/motd\"\ncontent = \"\"\nowner = \"nosuch\"\n[services]\nenable = [\"nginx.service\"]\n",
        ),
    );
    tiny.world.sos(["build", FILE]).fails(3).says(&[
        "error[rootfs-edit]",
        "5 things",
        "tiny.rootfs.toml:",
        "a group that does not exist",
        "`nosuch`, a user that does not exist",
        "no time zone `Mars/Base`",
        "no unit `nginx.service`",
        "gid 33, which is that of `www-data`",
        "11 | groups = [\"www-data\", \"wheel\"]",
    ]);
    tiny.world.write(
        FILE,
        &recipe(&[], "[[user]]\nname = \"deploy\"\ngroups = [\"wheel\"]\n"),
    );
    tiny.world
        .sos(["build", FILE])
        .fails(3)
        .says(&["error[rootfs-unknown-group]", "tiny.rootfs.toml:9:11"]);
    crate::support::left_nothing(&tiny.world, "tiny-rootfs");
}

/// The same of a root filesystem that a Nix expression edits.
#[test]
fn an_edit_written_in_nix_is_placed_in_nix() {
    let Some(tiny) = with_recipe(&[]) else { return };
    tiny.world.write(
        "sos.nix",
        &format!(
            "{{ sos, ... }}:\nsos.rootfs.edit {{\n  rootfs = sos.debian.rootfs ./{FILE};\n  users.deploy = {{ uid = 1000; groups = [ \"wheel\" ]; }};\n}}\n"
        ),
    );
    tiny.world
        .sos(["build"])
        .fails(3)
        .says(&["error[rootfs-unknown-group]", "sos.nix:4:32"]);
}
