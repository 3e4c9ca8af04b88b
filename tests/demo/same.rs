//! The same image for everybody.

use std::path::Path;
use std::process::Command;

use super::{Demo, copy_example, digest, layers};
use crate::support::user::User;
use crate::support::{World, is_root, run};

/// Makes a mirror of exactly the packages that the lock names, out of the store that has them.
fn mirror_of(demo: &Demo, to: &Path) {
    let lock = std::fs::read_to_string(demo.world.project().join("sos.lock")).expect("the lock");
    let lock: toml::Table = lock.parse().expect("TOML");
    let rootfs = lock["rootfs"].as_array().expect("recipes");
    let packages = rootfs
        .iter()
        .flat_map(|r| r["package"].as_array().expect("packages"));
    let listed = demo.world.sos(["store", "ls"]).ok().stdout;
    let first = listed
        .lines()
        .find(|l| l.ends_with(".deb"))
        .expect("packages in the store");
    let trees = demo
        .world
        .physical(first)
        .parent()
        .expect("the place of all objects")
        .to_owned();
    for package in packages {
        let path = package["path"].as_str().expect("a path");
        let name = path.rsplit('/').next().expect("a name");
        // Store names cannot hold every character of a version.
        let stored = |line: &str| {
            let base = line.rsplit('/').next().unwrap_or_default();
            base.split_once('-').is_some_and(|(_, n)| {
                n.len() == name.len()
                    && n.chars().zip(name.chars()).all(|(a, b)| a == b || a == '_')
            })
        };
        // The lock also has what only the disk of the example needs. Were one of the others missing, nothing could be built.
        let Some(object) = listed.lines().find(|l| stored(l)) else {
            continue;
        };
        let target = to.join(path);
        std::fs::create_dir_all(target.parent().expect("a parent")).expect("directories");
        if !target.exists() {
            std::fs::copy(
                trees.join(object.rsplit('/').next().expect("a base")),
                target,
            )
            .expect("a package");
        }
    }
}

pub(super) fn another_user_gets_the_same_image(demo: &Demo) {
    // Root can be somebody else; an ordinary user can only be in another place.
    let user = if is_root() {
        User::new("same", true)
    } else {
        None
    };
    let mut world = World::new();
    mirror_of(demo, &world.root().join("mirror"));
    let deep = world.project().join("another/place for it");
    copy_example(&deep);
    std::fs::copy(demo.world.project().join("sos.lock"), deep.join("sos.lock")).expect("the lock");
    let by_packages = layers::write(demo);
    if by_packages {
        layers::copy(demo, &deep);
    }
    // A checkout that was made with a strict umask.
    run(Command::new("chmod").args(["-R", "go="]).arg(&deep)).ok();
    world.set(
        "SOS_MIRRORS_DEBIAN",
        &format!("file://{}", world.root().join("mirror").display()),
    );
    world.set("TZ", "Pacific/Kiritimati");
    world.set("LANG", "tr_TR.UTF-8");
    world.set("LC_ALL", "tr_TR.UTF-8");
    world.set("SOURCE_DATE_EPOCH", "1");
    let _copy = user.as_ref().map(|user| world.with_program_for(user));
    let as_user = |arguments: &[&str]| {
        let sos = world.command();
        let mut command = Command::new("sh");
        command
            .args(["-c", "umask 077; exec \"$@\"", "sh"])
            .arg(sos.get_program())
            .args(arguments)
            .env_clear();
        command
            .envs(sos.get_envs().filter_map(|(k, v)| Some((k, v?))))
            .current_dir(&deep);
        if let Some(user) = &user {
            user.becomes(&mut command);
        }
        run(&mut command)
    };
    let store = world.root().join("home/elsewhere").display().to_string();
    let path = as_user(&[
        "--store",
        &store,
        "build",
        "--no-link",
        "--locked",
        "-j",
        "1",
        "--config",
        "build.cores=1",
        ".#image",
    ])
    .ok()
    .stdout
    .trim()
    .to_owned();
    assert_eq!(path, demo.image, "the same store path");
    let digest_of = |path: &str| {
        let index = as_user(&[
            "--store",
            &store,
            "store",
            "cat",
            &format!("{path}/index.json"),
        ])
        .ok()
        .stdout;
        let index: serde_json::Value = serde_json::from_str(&index).expect("JSON");
        let digest = index["manifests"][0]["digest"].as_str();
        digest.expect("a digest").to_owned()
    };
    assert_eq!(
        digest_of(&path),
        digest(&demo.world, &demo.image),
        "the same image"
    );
    // Which package is in which layer follows from the packages: here, what was there before the change was never built.
    if by_packages {
        let second = layers::one_changed_package_changes_two_layers(demo);
        let path = as_user(&["--store", &store, "build", "--no-link", "./layers.nix#two"]);
        assert_eq!(digest_of(path.ok().stdout.trim()), second);
    }
    as_user(&["--store", &store, "store", "check"]).ok();
}
