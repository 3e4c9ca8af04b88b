//! Machines on which the sandbox cannot be made.

use std::io::{Read as _, Write as _};
use std::process::Stdio;

use super::{job, unshared, world_with_busybox};
use crate::support::tiny::{Tiny, recipe};
use crate::support::user::User;
use crate::support::{is_root, left_nothing, left_to_root, run};

#[test]
fn no_user_namespaces() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("f.nix", &job("boxed", "echo x > $out"));
    let script = "echo 0 > /proc/sys/user/max_user_namespaces; exec $SOS build --no-link f.nix";
    let Some(mut command) = unshared(&w, &["-r"], script) else {
        return;
    };
    run(&mut command).fails(4).says(&[
        "error[env-no-user-namespaces]",
        "sysctl -w user.max_user_namespaces=15000",
    ]);
    left_nothing(&w, "boxed");
}

#[test]
fn no_user_namespaces_for_a_root_filesystem() {
    let Some(tiny) = Tiny::new() else { return };
    let w = &tiny.world;
    w.write("tiny.rootfs.toml", &recipe(&["greeter"], ""));
    let script =
        "echo 0 > /proc/sys/user/max_user_namespaces; exec $SOS build --no-link tiny.rootfs.toml";
    let Some(mut command) = unshared(w, &["-r"], script) else {
        return;
    };
    run(&mut command)
        .fails(4)
        .says(&["error[env-no-user-namespaces]", "sysctl"]);
    left_nothing(w, "tiny-rootfs");
}

#[test]
fn an_ordinary_user_without_subordinate_ids() {
    let Some(tiny) = Tiny::new() else { return };
    let mut w = tiny.world;
    w.write("tiny.rootfs.toml", &recipe(&["greeter"], ""));
    let help = "usermod --add-subuids";
    if is_root() {
        let Some(user) = User::new("bare", false) else {
            return;
        };
        let _copy = w.with_program_for(&user);
        let mut command = w.command();
        run(user.becomes(command.args(["build", "--no-link", "tiny.rootfs.toml"])))
            .fails(4)
            .says(&["error[env-no-subordinate-ids]", "/etc/subuid", help]);
        let mut command = w.command();
        let doctor = run(user.becomes(command.arg("doctor"))).fails(4);
        assert!(doctor.stdout.contains(help), "{}", doctor.stdout);
        return;
    }
    let ids = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
    if !ids.is_empty() {
        return left_to_root("this user, or another, has subordinate ids");
    }
    w.sos(["build", "--no-link", "tiny.rootfs.toml"])
        .fails(4)
        .says(&["error[env-no-subordinate-ids]"]);
    left_nothing(&w, "tiny-rootfs");
}

#[test]
fn root_of_a_namespace_with_one_id_only() {
    let Some(tiny) = Tiny::new() else { return };
    let w = &tiny.world;
    w.write("tiny.rootfs.toml", &recipe(&["greeter"], ""));
    let Some(mut command) = unshared(w, &["-r"], "exec $SOS build --no-link tiny.rootfs.toml")
    else {
        return;
    };
    run(&mut command)
        .fails(4)
        .says(&["error[env-no-subordinate-ids]"]);
    left_nothing(w, "tiny-rootfs");
}

/// As rootless containers have it by default: one id of the user, the others of its subordinate ones.
#[test]
fn root_of_a_container_whose_ids_are_in_two_pieces() {
    let Some(tiny) = Tiny::new() else { return };
    let w = &tiny.world;
    w.write("tiny.rootfs.toml", &recipe(&["greeter"], ""));
    if !is_root() {
        return left_to_root("a map of ids in two pieces");
    }
    let script = "echo; read -r go; $SOS doctor; exec $SOS build --no-link tiny.rootfs.toml";
    let Some(mut command) = unshared(w, &["--user"], script) else {
        return;
    };
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = piped.stderr(Stdio::piped()).spawn().expect("unshare");
    // Its first line: it is in the namespace, and waits.
    let mut line = [0];
    let out = child.stdout.as_mut().expect("a pipe");
    out.read_exact(&mut line).expect("a line");
    for file in ["uid_map", "gid_map"] {
        let path = format!("/proc/{}/{file}", child.id());
        std::fs::write(path, "0 0 1\n1 100001 65536\n").expect("root may write maps");
    }
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(b"\n").expect("it reads");
    drop(input);
    let done = child.wait_with_output().expect("its end");
    let said = String::from_utf8_lossy(&done.stdout);
    let problems = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}{problems}");
    assert!(
        said.contains("a root filesystem under an overlay works"),
        "{said}{problems}"
    );
}
