//! One derivation a feature, built by both.

use std::process::Command;

use super::Both;
use crate::support::{left_nothing, peer, run};

const FILE: &str = "builds.nix";

fn both() -> Option<Both> {
    let mut both = Both::new()?;
    both.world.write(FILE, include_str!("builds.nix"));
    both.world.set("WORD", "from outside");
    Some(both)
}

/// The names of the attributes in a set of the file.
#[track_caller]
fn names(both: &Both, set: &str) -> Vec<String> {
    let expression = format!("builtins.attrNames (import ./{FILE}).{set}");
    let text = both
        .world
        .sos(["--json", "eval", "-E", &expression])
        .ok()
        .stdout;
    serde_json::from_str(&text).expect("a list of names")
}

#[test]
fn what_a_builder_gets_and_makes_is_that_of_nix() {
    let Some(both) = both() else { return };
    for name in names(&both, "fine") {
        let drv = both.instantiate(FILE, &format!("fine.{name}"), &[]);
        both.same(&drv);
    }
    both.world.sos(["store", "check"]).ok();
}

#[test]
fn a_channel_is_unpacked_as_nix_does() {
    let Some(both) = both() else { return };
    let Some(tar) = peer("tar") else { return };
    both.world.write("c/release-1/default.nix", "{ }: { }\n");
    both.world.write("c/release-1/lib/x", "x\n");
    run(Command::new(tar)
        .current_dir(both.world.project().join("c"))
        .args(["-cf", "../channel.tar", "release-1"]))
    .ok();
    both.same(&both.instantiate(FILE, "channel", &[]));
}

/// The attribute, and what our message says.
const REFUSED: [(&str, &[&str]); 20] = [
    (
        "references",
        &[
            "output `out` refers to",
            "-lib`, which `allowedReferences` does not allow",
            "in `$out/named`",
        ],
    ),
    (
        "itself",
        &[
            "-itself`, which `allowedReferences` does not allow",
            "in `$out`",
        ],
    ),
    (
        "requisites",
        &[
            "output `out` needs",
            "-naming`",
            "`allowedRequisites`",
            "needed through `/nix/store/",
            "-lib-dev`, `/nix/store/",
        ],
    ),
    (
        "disallowed",
        &[
            "-lib-dev`, which `disallowedReferences` does not allow",
            "in `$out/x`",
        ],
    ),
    (
        "disallowed-requisites",
        &["-text`, which `disallowedRequisites` does not allow"],
    ),
    (
        "specifier",
        &[
            "`nothing` in `allowedReferences` is neither an output of the derivation nor a store path",
        ],
    ),
    (
        "size",
        &["the archive of output `out` has 120 bytes, and `maxSize` allows 100"],
    ),
    (
        "closure-size",
        &[
            "the closure of output `out` has ",
            " bytes, and `maxClosureSize` allows 600",
        ],
    ),
    (
        "own-requisites",
        &["-own-requisites`, which `allowedRequisites` does not allow"],
    ),
    (
        "list",
        &["`outputChecks.out.allowedReferences` is not a list of texts"],
    ),
    ("no-sandbox", &["`__noChroot`"]),
    (
        "host",
        &[
            "`/etc/hostname`",
            "`__impureHostDeps`",
            "`build.sandbox-paths`",
        ],
    ),
    (
        "odd",
        &["`exportReferencesGraph` has an odd number of words: `g`"],
    ),
    (
        "graph-name",
        &["`../g` in `exportReferencesGraph` is no file name"],
    ),
    (
        "graph-path",
        &["`/etc/passwd` in `exportReferencesGraph` is no store path"],
    ),
    (
        "graph-input",
        &["-lib-doc` in `exportReferencesGraph` is not among the inputs"],
    ),
    (
        "fixed-reference",
        &[
            "output `out` has a fixed hash and may not refer to",
            "-text`",
        ],
    ),
    (
        "circle",
        &["outputs dev and out refer to each other in a circle"],
    ),
    ("pipe", &["`$out` is a pipe"]),
    (
        "executable",
        &["a flat hash needs a regular file that is not executable"],
    ),
];

#[test]
fn what_nix_refuses_is_refused_and_the_message_says_why() {
    let Some(both) = both() else { return };
    let mut known: Vec<&str> = REFUSED.iter().map(|(name, _)| *name).collect();
    known.sort_unstable();
    assert_eq!(known, names(&both, "bad"));
    for (name, parts) in REFUSED {
        let drv = both.instantiate(FILE, &format!("bad.{name}"), &[]);
        let ours = both.sos_builds(&drv).says(parts);
        assert!([3, 100].contains(&ours.code), "{name}: {ours:?}");
        let theirs = both.nix_builds(&drv);
        assert!(theirs.code != 0, "{name}: Nix builds it");
        left_nothing(&both.world, name);
    }
}

#[test]
fn what_only_newer_versions_of_nix_know() {
    let Some(both) = both() else { return };
    let drv = both.instantiate(FILE, "discards", &[]);
    let path = both.sos_builds(&drv).ok().stdout;
    assert_eq!(both.info(path.trim())["references"], serde_json::json!([]));
    let drv = both.instantiate(FILE, "own-allowed", &[]);
    both.sos_builds(&drv).ok();
}

#[test]
fn files_that_are_not_what_their_name_says_are_refused() {
    let Some(both) = both() else { return };
    let drv = both.instantiate(FILE, "fine.sources", &[]);
    let file = both.in_nix(&drv);
    let copy = both.world.project().join(file.file_name().expect("a name"));
    let text = std::fs::read_to_string(&file).expect("a derivation");
    let build = || {
        let file = copy.display().to_string();
        both.world.sos(["build", "--no-link", &file])
    };
    std::fs::write(&copy, text.replace("cut -c1-10", "cut -c1-11")).expect("a file");
    build()
        .fails(1)
        .says(&["drv-wrong-name", "does not follow from what is in it"]);
    std::fs::write(&copy, "no derivation").expect("a file");
    build().fails(1).says(&["drv-malformed"]);
    // Its inputs are not beside it.
    std::fs::write(&copy, &text).expect("a file");
    build()
        .fails(1)
        .says(&["drv-missing-input", "`sources` needs it"]);
    // A source that somebody changed; all others are as they should be.
    both.world.sos(["store", "add", "tools"]).ok();
    for entry in std::fs::read_dir(both.in_nix("/nix/store"))
        .expect("a store")
        .flatten()
    {
        let place = both.world.project().join(entry.file_name());
        if entry.file_type().expect("a type").is_file() && !place.exists() {
            std::fs::copy(entry.path(), &place).expect("a copy");
        }
        if entry.file_name().to_string_lossy().ends_with("-text") {
            std::fs::remove_file(&place).expect("the source");
            std::fs::write(place, "other text\n").expect("a file");
        }
    }
    build().fails(1).says(&["drv-unproven-source", "-text`"]);
    let listed = both.world.sos(["store", "ls"]).ok().stdout;
    assert!(!listed.contains("-sources\n"), "{listed}");
}

#[test]
fn a_failed_build_leaves_no_process_and_no_mount() {
    let Some(both) = both() else { return };
    both.world.write(
        "fails.nix",
        "derivation { name = \"fails\"; system = \"x86_64-linux\"; builder = \"${./tools}/bin/busybox\"; args = [ \"sh\" \"-c\" ''
          bb=${./tools}/bin/busybox; ($bb setsid $bb sleep 86431 </dev/null >/dev/null 2>&1 &); $bb sleep 86431 & $bb mkdir $out; echo half > $out/x; exit 3'' ]; }",
    );
    both.world
        .sos(["build", "--no-link", "fails.nix"])
        .fails(100)
        .says(&["exit status 3"]);
    assert!(!super::probe::runs("86431"), "a process is left");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    let root = both.world.root().display().to_string();
    assert!(!mounts.contains(&root), "{mounts}");
    left_nothing(&both.world, "fails");
}
