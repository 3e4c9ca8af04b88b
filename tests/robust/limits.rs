//! Builds that take too long, say nothing, or say too much; and what a machine cannot do.

use super::{job, world_with_busybox};
use crate::support::process::{all_gone, descendants, pid};
use crate::support::server::Server;
use crate::support::{World, finish, left_nothing, peer, start};

/// Builds `f.nix`, which must be stopped for what `why` says.
#[track_caller]
fn stopped(w: &World, script: &str, options: &[&str], why: &[&str]) {
    ended(w, script, options, (101, "error[build-timeout]"), why);
}

#[track_caller]
fn ended(w: &World, script: &str, options: &[&str], (exit, code): (i32, &str), why: &[&str]) {
    w.write("f.nix", &job("greedy", script));
    let child = start(
        w.command()
            .args(["build", "--no-link", "f.nix"])
            .args(options),
    );
    let family = descendants(pid(&child));
    finish(child, std::time::Duration::from_secs(120))
        .fails(exit)
        .says(&[code, "`greedy`"])
        .says(why);
    all_gone(&family, w.root());
    left_nothing(w, "greedy");
}

#[test]
fn a_build_that_takes_too_long() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let script = "while :; do echo busy; /bin/busybox sleep 0.1; done";
    stopped(
        &w,
        script,
        &["--timeout", "1"],
        &["took longer than 1 second,", "--timeout", "busy"],
    );
}

/// A server that answers never, or too slowly, is no reason to wait for longer; `git` that waits for it ends, too.
#[test]
fn a_download_that_takes_too_long() {
    let w = World::new();
    let server = Server::start(w.root());
    server.hold();
    let fetch = |from: &str| {
        format!(
            "derivation {{ name = \"slow\"; system = \"builtin\"; builder = \"builtin:fetch\"; __structuredAttrs = true; {from} outputHashMode = \"flat\"; outputHashAlgo = \"sha256\"; outputHash = \"{}\"; }}",
            "0".repeat(64)
        )
    };
    let url = server.url();
    let mut ways = vec![format!("urls = [ \"{url}/slow\" ];")];
    if peer("git").is_some() {
        ways.push(format!("urls = [ ]; git = \"{url}/slow.git~v1\";"));
    }
    for way in ways {
        w.write("f.nix", &fetch(&way));
        w.sos(["build", "--no-link", "--timeout", "1", "f.nix"])
            .fails(101)
            .says(&[
                "error[build-timeout]",
                "`slow` took longer than 1 second, and was stopped",
                "failed 1",
            ]);
    }
}

#[test]
fn a_build_that_says_nothing() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let script = "echo first; /bin/busybox sleep 500";
    let why = [
        "wrote nothing for 1 second,",
        "build.silent-timeout",
        "first",
    ];
    stopped(&w, script, &["--silent-timeout", "1"], &why);
    stopped(&w, script, &["--config", "build.silent-timeout=1"], &why);
    // The flag wins over the setting, and what talks may go on.
    w.write(
        "f.nix",
        &job(
            "talks",
            "for i in 1 2 3; do echo $i; /bin/busybox sleep 0.1; done; echo x > $out",
        ),
    );
    w.sos([
        "build",
        "--no-link",
        "f.nix",
        "--silent-timeout",
        "60",
        "--config",
        "build.silent-timeout=0",
    ])
    .ok();
}

#[test]
fn a_build_that_says_too_much() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let script = "while :; do echo 0123456789; done";
    let why = ["wrote more than 10000 bytes of log", "build.max-log-size"];
    let limit = (100, "error[build-log-limit]");
    ended(&w, script, &["--max-log-size", "10000"], limit, &why);
    let setting = ["--config", "build.max-log-size=10000"];
    ended(&w, script, &setting, limit, &why);
    // What came before the limit is in the log.
    let log = w.sos(["log", "--failed"]).ok().stdout;
    assert!(
        log.starts_with("0123456789\n") && log.len() <= 10_000 + 1,
        "{}",
        log.len()
    );
    // As much as is allowed is no failure.
    w.write("f.nix", &job("exact", "echo 0123456789; echo x > $out"));
    w.sos(["build", "--no-link", "f.nix", "--max-log-size", "11"])
        .ok();
}

/// A script that makes directories inside each other, and a file at the bottom.
fn nested(times: usize) -> String {
    let hundred = vec!["d"; 100].join("/");
    format!(
        "/bin/busybox mkdir $out; cd $out; i=0; while [ $i -lt {times} ]; do /bin/busybox mkdir -p {hundred}; cd {hundred}; i=$((i + 1)); done; echo deep > f"
    )
}

#[test]
fn an_output_may_be_as_deep_as_paths_go() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("f.nix", &job("deep", &nested(5)));
    let built = w.sos(["build", "--no-link", "f.nix"]).ok().stdout;
    let file = format!("{}/{}/f", built.trim(), vec!["d"; 500].join("/"));
    assert_eq!(w.sos(["store", "cat", &file]).ok().stdout, "deep\n");
    w.sos(["verify", "f.nix"]).ok();
    w.sos(["store", "check"]).ok();
    let bottomless = job("bottomless", &nested(15));
    let failing = job("failing", "exit 3");
    let unknown = "derivation { name = \"unknown\"; system = \"x86_64-linux\"; builder = \"builtin:nosuch\"; }";
    w.write(
        "f.nix",
        &format!("[ ({bottomless}) ({failing}) ({unknown}) ]"),
    );
    let run = w
        .sos(["build", "--no-link", "-k", "f.nix"])
        .fails(100)
        .says(&[
            "error[build-bad-output]",
            "`$out/d/d/.../d` is deeper than 1024 directories",
            "error[build-failed]",
            "error[build-unknown-builtin]",
        ]);
    assert!(!run.stderr.contains("/tmp/"), "{}", run.stderr);
    w.sos(["gc"]).ok();
    left_nothing(&w, "bottomless");
}

#[test]
fn limits_are_or_ed_with_failures_as_nix_does() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let failing = job("failing", "exit 3");
    let endless = job("endless", "/bin/busybox sleep 500");
    w.write("f.nix", &format!("[ ({failing}) ({endless}) ]"));
    w.sos([
        "build",
        "--no-link",
        "-k",
        "-j",
        "2",
        "--timeout",
        "1",
        "f.nix",
    ])
    .fails(101)
    .says(&["error[build-failed]", "error[build-timeout]"]);
}

/// A derivation with an attribute more.
fn job_with(name: &str, attribute: &str) -> String {
    job(name, "echo x > $out").replace("derivation {", &format!("derivation {{ {attribute}"))
}

#[test]
fn features_that_the_machine_lacks_are_told_at_once() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let first = job("first", "echo x > $out");
    let gpu = job_with(
        "render",
        &format!("requiredSystemFeatures = [ \"gpu\" ]; dep = {first};"),
    );
    let tpu = job_with(
        "train",
        "requiredSystemFeatures = [ \"tpu\" \"big-parallel\" ];",
    );
    w.write("f.nix", &format!("[ ({gpu}) ({tpu}) ]"));
    w.sos(["build", "--no-link", "f.nix"]).fails(4).says(&[
        "error[env-missing-feature]",
        "`render` needs a machine with the feature `gpu`",
        "`tpu` is needed by `train`",
        "`big-parallel`",
        "build.system-features",
    ]);
    // Nothing was built for something that cannot be.
    left_nothing(&w, "first");
    let all = "build.system-features=[\"gpu\", \"tpu\", \"big-parallel\"]";
    w.sos(["build", "--no-link", "f.nix", "--config", all])
        .ok()
        .says(&["built 3"]);
}

#[test]
fn what_every_machine_has_and_local_builds_are_accepted() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let job = job_with(
        "plain",
        "requiredSystemFeatures = [ \"benchmark\" \"big-parallel\" \"nixos-test\" ]; preferLocalBuild = true; allowSubstitutes = false;",
    );
    w.write("f.nix", &job);
    w.sos(["build", "--no-link", "f.nix"])
        .ok()
        .says(&["built 1"]);
}

#[test]
fn what_is_there_asks_nothing_of_the_machine() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write(
        "f.nix",
        &job_with("render", "requiredSystemFeatures = [ \"gpu\" ];"),
    );
    let gpu = "build.system-features=[\"gpu\"]";
    w.sos(["build", "--no-link", "f.nix", "--config", gpu]).ok();
    w.sos(["build", "--no-link", "f.nix"]).ok();
}

#[test]
fn only_what_asks_for_kvm_sees_it() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let asks = "requiredSystemFeatures = [ \"kvm\" ];";
    let sees = |name: &str| job(name, "[ -c /dev/kvm ] && echo yes > $out || echo no > $out");
    let asking = sees("asking").replace("derivation {", &format!("derivation {{ {asks}"));
    w.write(
        "f.nix",
        &format!("{{ asking = {asking}; other = {}; }}", sees("other")),
    );
    let mut opening = std::fs::File::options();
    if opening.read(true).write(true).open("/dev/kvm").is_err() {
        w.sos(["build", "--no-link", "f.nix#asking"])
            .fails(4)
            .says(&["error[env-missing-feature]", "`kvm`", "/dev/kvm"]);
        return;
    }
    for (target, said) in [("f.nix#asking", "yes\n"), ("f.nix#other", "no\n")] {
        let output = w.sos(["build", "--no-link", target]).ok().stdout;
        let text = std::fs::read_to_string(w.physical(output.trim_end()));
        assert_eq!(text.expect("a file"), said, "{target}");
    }
}
