//! Mirrors that lie, forget, or are not there.

use std::process::Command;

use super::{FILE, flip, nothing_happened, with_recipe};
use crate::support::archive::Package;
use crate::support::server::Server;
use crate::support::{left_nothing, peer, run, skip, store_is_clean};

/// An address of loopback where nothing listens.
const DEAD: &str = "http://127.0.0.1:9/debian";

#[test]
fn a_package_altered_on_the_mirror() {
    let Some(tiny) = with_recipe(&["greeter"]) else {
        return;
    };
    let deb = tiny
        .archive
        .dir()
        .join("pool/main/g/greeter/greeter_1.5-2_amd64.deb");
    flip(&deb);
    tiny.world.sos(["build", FILE]).fails(102).says(&[
        "error[fetch-hash-mismatch]",
        "greeter_1.5-2_amd64.deb",
        "tiny.rootfs.toml:5:12",
        "expected",
        "found",
    ]);
    left_nothing(&tiny.world, "greeter_1.5-2_amd64.deb");
    left_nothing(&tiny.world, "tiny-rootfs");
}

#[test]
fn a_misspelt_suite_is_named_with_the_mirror_and_a_way_out() {
    let Some(tiny) = with_recipe(&["greeter"]) else {
        return;
    };
    let server = Server::start(tiny.archive.dir());
    let mut w = tiny.world;
    w.set("SOS_MIRRORS_DEBIAN", &server.url());
    let recipe = crate::support::tiny::recipe(&["greeter"], "").replace("\"test\"", "\"bookwrm\"");
    w.write(FILE, &recipe);
    w.sos(["build", FILE]).fails(5).says(&[
        "error[deb-unknown-suite]",
        "no suite `bookwrm`",
        &server.url(),
        "404",
        "did you mean `bookworm`?",
        "tiny.rootfs.toml:2:",
    ]);
    nothing_happened(&w);
}

#[test]
fn a_package_cut_short_on_the_mirror() {
    let Some(tiny) = with_recipe(&["greeter"]) else {
        return;
    };
    let server = Server::start(tiny.archive.dir());
    let deb = tiny
        .archive
        .dir()
        .join("pool/main/g/greeter/greeter_1.5-2_amd64.deb");
    let bytes = std::fs::read(&deb).expect("the package");
    std::fs::write(&deb, &bytes[..bytes.len() / 2]).expect("write");
    let mut world = tiny.world;
    world.set("SOS_MIRRORS_DEBIAN", &server.url());
    let run = world
        .sos(["build", FILE])
        .says(&["greeter_1.5-2_amd64.deb", "tiny.rootfs.toml:5:12"]);
    assert!(run.code == 102 || run.code == 5, "exit {}", run.code);
    left_nothing(&world, "greeter_1.5-2_amd64.deb");
}

#[test]
fn every_locked_package_that_the_mirror_no_longer_has_is_in_one_error() {
    let Some(mut tiny) = with_recipe(&["greeter"]) else {
        return;
    };
    tiny.world.sos(["lock", FILE]).ok();
    let kept = tiny.world.project().join("sos.lock");
    let lock = std::fs::read_to_string(&kept).expect("the lock");
    let digest = lock
        .lines()
        .skip_while(|l| !l.contains("name = \"greeter\""))
        .find_map(|l| l.strip_prefix("sha256 = "))
        .expect("a digest")
        .trim_matches('"')
        .to_owned();
    tiny.archive.remove("greeter");
    tiny.archive.remove("greeter-data");
    tiny.publish();
    let url = tiny.archive.file_url();
    let run = tiny.world.sos(["build", FILE]).fails(5);
    let run = run.says(&["error[lock-package-missing]"]).says(&[
        "greeter",
        "1.5-2",
        &digest,
        "greeter-data",
        "2:1.0~rc1+b2",
        &url,
        "sos lock tiny.rootfs.toml --update",
        "tiny.rootfs.toml:5:12",
    ]);
    assert_eq!(
        run.stderr.matches("error[").count(),
        1,
        "one error:\n{}",
        run.stderr
    );
    assert_eq!(
        std::fs::read_to_string(&kept).expect("the lock"),
        lock,
        "the lock is untouched"
    );
    left_nothing(&tiny.world, "tiny-rootfs");
}

#[test]
fn a_snapshot_service_is_tried_when_the_mirror_fails() {
    let Some(tiny) = with_recipe(&["greeter"]) else {
        return;
    };
    // The service has everything; the mirror forgets a package.
    let old = tiny.world.root().join("snapshot/20240701T100000Z");
    std::fs::create_dir_all(old.parent().expect("a parent")).expect("directories");
    run(Command::new("cp")
        .arg("-a")
        .arg(tiny.archive.dir())
        .arg(&old))
    .ok();
    let service = format!(
        "file://{}/snapshot/{{timestamp}}",
        tiny.world.root().display()
    );
    tiny.world.write(
        FILE,
        &crate::support::tiny::recipe(&["greeter"], &format!("snapshot = \"{service}\"\n")),
    );
    std::fs::remove_file(
        tiny.archive
            .dir()
            .join("pool/main/g/greeter/greeter_1.5-2_amd64.deb"),
    )
    .expect("the package");
    tiny.world.sos(["build", "--no-link", FILE]).ok();
}

#[test]
fn a_dead_mirror_before_a_living_one_costs_nothing_but_a_try() {
    let Some(mut tiny) = with_recipe(&["greeter"]) else {
        return;
    };
    let server = Server::start(tiny.archive.dir());
    tiny.world
        .set("SOS_MIRRORS_DEBIAN", &format!("{DEAD} {}", server.url()));
    tiny.world.sos(["build", "--no-link", FILE]).ok();
    assert!(
        server
            .asked()
            .iter()
            .any(|p| p.ends_with("/greeter_1.5-2_amd64.deb")),
        "{:?}",
        server.asked()
    );
    assert!(
        server
            .asked()
            .iter()
            .any(|p| p.contains("/by-hash/SHA256/")),
        "indexes are asked for by hash: {:?}",
        server.asked()
    );
    let lock = std::fs::read_to_string(tiny.world.project().join("sos.lock")).expect("the lock");
    assert!(
        !lock.contains("127.0.0.1"),
        "the lock names no host: {lock}"
    );
}

#[test]
fn a_mirror_that_breaks_between_two_is_skipped() {
    let Some(mut tiny) = with_recipe(&["greeter"]) else {
        return;
    };
    let ill = Server::start(tiny.archive.dir());
    let well = Server::start(tiny.archive.dir());
    ill.break_down();
    tiny.world.set(
        "SOS_MIRRORS_DEBIAN",
        &format!("{},{}", ill.url(), well.url()),
    );
    tiny.world.sos(["build", "--no-link", FILE]).ok();
    assert!(!ill.asked().is_empty() && !well.asked().is_empty());
}

#[test]
fn a_mirror_name_that_nobody_knows() {
    let Some(tiny) = with_recipe(&[]) else { return };
    tiny.world.write(
        FILE,
        &crate::support::tiny::recipe(&[], "mirror = \"mirror://debain\"\n"),
    );
    tiny.world.sos(["build", FILE]).fails(4).says(&[
        "error[mirror-unknown]",
        "mirror://debain",
        "SOS_MIRRORS_DEBAIN",
        "`debian`",
    ]);
    nothing_happened(&tiny.world);
}

#[test]
fn a_machine_without_any_mirror_says_how_to_name_one() {
    let Some(unshare) = peer("unshare") else {
        return;
    };
    let w = crate::support::World::new();
    w.write(
        FILE,
        "suite = \"bookworm\"\nvariant = \"essential\"\nepoch = 1\n",
    );
    if !run(Command::new(&unshare).args(["-rm", "true"]))
        .stderr
        .is_empty()
    {
        return skip("no namespaces for mounts here");
    }
    // A machine that has no package sources of its own.
    let sos = w.command();
    let mut command = Command::new(unshare);
    command
        .args([
            "-rm",
            "sh",
            "-c",
            "[ ! -d /etc/apt ] || mount -t tmpfs none /etc/apt; exec \"$@\"",
            "sh",
        ])
        .arg(sos.get_program())
        .args(["build", FILE]);
    command
        .env_clear()
        .envs(sos.get_envs().filter_map(|(k, v)| Some((k, v?))))
        .current_dir(w.project());
    run(&mut command).fails(4).says(&[
        "error[mirror-unknown]",
        "SOS_MIRRORS_DEBIAN",
        "mirrors.debian",
    ]);
    nothing_happened(&w);
}

#[test]
fn what_is_fetched_once_is_not_fetched_again() {
    let Some(mut tiny) = with_recipe(&["greeter"]) else {
        return;
    };
    let server = Server::start(tiny.archive.dir());
    tiny.world.set("SOS_MIRRORS_DEBIAN", &server.url());
    let first = tiny.world.events(&[FILE]);
    let asked = server.asked().len();
    // Neither the same build again, nor one of another recipe with one more package, asks for anything that is there.
    let again = tiny.world.events(&[FILE]);
    assert_eq!(again.output(), first.output());
    assert_eq!(again.summary()["built"], 0);
    assert_eq!(server.asked().len(), asked, "{:?}", server.asked());
    tiny.archive
        .add(&Package::new("more", "1").file("usr/share/more", 0o644, "x"));
    tiny.publish();
    tiny.world.write(
        FILE,
        &crate::support::tiny::recipe(&["greeter", "more"], ""),
    );
    tiny.world.events(&[FILE]);
    let pool: Vec<String> = server
        .asked()
        .into_iter()
        .skip(asked)
        .filter(|p| p.starts_with("/pool"))
        .collect();
    assert_eq!(pool, ["/pool/main/m/more/more_1_amd64.deb"]);
    // After that, no network at all.
    drop(server);
    tiny.world
        .sos(["build", "--no-link", "--offline", FILE])
        .ok()
        .says(&["built 0"]);
    store_is_clean(&tiny.world);
}
