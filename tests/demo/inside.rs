//! What is in the image works when it is unpacked.

use std::path::Path;
use std::process::Command;

use super::{Demo, tool};
use crate::support::{Run, is_root, peer, run, skip};

/// What makes an ordinary user root of a namespace with all the ids of a system.
const AS_ROOT: [&str; 2] = ["--map-root-user", "--map-auto"];

/// Runs a program in the unpacked root, as its root.
fn chroot(root: &Path, command: &[&str]) -> Run {
    let mut run_in = Command::new("unshare");
    // A network of its own: nginx tries its ports, which others may have.
    run_in.arg("--net");
    if !is_root() {
        run_in.args(AS_ROOT);
    }
    run_in.arg("/usr/sbin/chroot");
    run_in
        .arg(root)
        .args(command)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8");
    run(&mut run_in)
}

/// umoci unpacks the image; dpkg is content with it, the program runs, and nginx takes its configuration.
pub(super) fn it_works(demo: &Demo) {
    let Some(umoci) = peer("umoci") else { return };
    if !is_root() && run(Command::new("unshare").args(AS_ROOT).arg("true")).code != 0 {
        return skip("no user namespace to unpack an image in");
    }
    let bundle = demo.world.root().join("bundle");
    let image = format!("{}:latest", demo.layout().display());
    let mut arguments = vec!["unpack", "--image", &image];
    if !is_root() {
        arguments.push("--rootless");
    }
    let place = bundle.display().to_string();
    arguments.push(&place);
    tool(&umoci, &arguments);
    let root = bundle.join("rootfs");

    let audit = chroot(&root, &["dpkg", "--audit"]).ok();
    assert_eq!(
        (audit.stdout.as_str(), audit.stderr.as_str()),
        ("", ""),
        "dpkg --audit"
    );
    let verify = chroot(&root, &["dpkg", "--verify"]).ok();
    assert_eq!(
        (verify.stdout.as_str(), verify.stderr.as_str()),
        ("", ""),
        "dpkg --verify"
    );
    let check = chroot(
        &root,
        &["apt-get", "check", "-o", "APT::Sandbox::User=root"],
    )
    .ok();
    assert!(!check.stderr.contains("E:"), "{}", check.stderr);
    let said = chroot(&root, &["/usr/local/bin/hello"]).ok().stdout;
    assert!(
        said.starts_with("Hello from Debian GNU/Linux 12 (bookworm), ")
            && said.ends_with(" packages\n"),
        "{said}"
    );
    assert_eq!(
        std::fs::read(root.join("usr/local/bin/hello")).expect("the program"),
        std::fs::read(demo.world.physical(&demo.hello).join("bin/hello")).expect("the program")
    );
    let tested = chroot(&root, &["nginx", "-t"]).ok();
    assert!(
        tested.stderr.contains("test is successful"),
        "{}",
        tested.stderr
    );
    // Directories that nginx closed to everybody else belong to its user, which only the root of the namespace can be.
    let mut remove = Command::new(if is_root() { "rm" } else { "unshare" });
    if !is_root() {
        remove.args(AS_ROOT).arg("rm");
    }
    run(remove.arg("-rf").arg(&bundle)).ok();
}
