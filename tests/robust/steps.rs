//! Working trees of steps: shared between processes, bounded, and no obstacle on a full disk.

use std::time::Duration;

use super::{text, unshared};
use crate::support::steps::{chain, possible, steps};
use crate::support::{World, finish, is_root, left_to_root, run, start, store_is_clean};

#[test]
fn two_processes_take_their_own_working_trees() {
    let w = World::new();
    if possible(&w).is_none() {
        return;
    }
    // Two chains of their own and twice the same one, all at once.
    let salts = ["one", "two", "one"];
    for (at, salt) in salts.iter().enumerate() {
        w.write(&format!("{at}.nix"), &chain(salt, 6).expect("busybox"));
    }
    let runs: Vec<_> = (0..salts.len())
        .map(|at| {
            start(
                w.command()
                    .args(["build", "--no-link", &format!("{at}.nix")]),
            )
        })
        .collect();
    let made: Vec<String> = runs
        .into_iter()
        .map(|child| finish(child, Duration::from_secs(300)).ok().stdout)
        .collect();
    assert_eq!(made[0], made[2]);
    let other = w.root().join("other-store");
    let other = other.to_str().expect("a plain path");
    for (at, made) in made.iter().enumerate().take(2) {
        let file = format!("{at}.nix");
        let alone = w.sos(["--store", other, "build", "--no-link", &file]).ok();
        assert_eq!(alone.stdout, *made, "{file}");
    }
    store_is_clean(&w);
}

fn working_trees(w: &World) -> usize {
    let dir = std::fs::read_dir(w.store().join("work"));
    let names = dir.expect("the working trees").flatten();
    names.filter(|e| e.path().is_dir()).count()
}

#[test]
fn working_trees_are_bounded_and_collected() {
    let w = World::new();
    if possible(&w).is_none() {
        return;
    }
    for salt in 0..8 {
        let name = format!("{salt}.nix");
        w.write(&name, &chain(&salt.to_string(), 1).expect("busybox"));
        w.sos(["build", "--no-link", "-q", &name]).ok();
    }
    let trees = working_trees(&w);
    assert!((1..=4).contains(&trees), "{trees} working trees");
    w.sos(["gc", "-q"]).ok();
    assert_eq!(working_trees(&w), 0);
    w.sos(["build", "--no-link", "-q", "7.nix"]).ok();
    store_is_clean(&w);
}

#[test]
fn a_step_that_fills_the_disk() {
    if !is_root() {
        left_to_root("steps on a small disk");
        return;
    }
    let w = World::new();
    if possible(&w).is_none() {
        return;
    }
    let big = r#"step "big" { rootfs = "${base "x"}"; script = "busybox dd if=/dev/zero of=/etc/zeros bs=65536 count=4000"; }"#;
    w.write("big.nix", &steps(big).expect("busybox"));
    w.write("chain.nix", &chain("y", 3).expect("busybox"));
    std::fs::remove_dir_all(w.store()).expect("the store of the probe");
    std::fs::create_dir_all(w.store()).expect("the place of the store");
    let script = format!(
        "set -u
        step() {{ n=$1; shift; \"$@\" >../$n.out 2>../$n.err; echo $? >../$n.code; }}
        mount -t tmpfs -o size=48m,mode=0700 none {0}
        step big $SOS build --no-link big.nix
        cat /dev/zero > {0}/filler 2>/dev/null
        step full $SOS build --no-link chain.nix
        rm {0}/filler
        step check $SOS store check
        step chain $SOS build --no-link chain.nix
        step gc $SOS gc
        step after $SOS store check
        ls -A {0}/tmp {0}/work >../left",
        w.store().display()
    );
    let Some(mut command) = unshared(&w, &["-m"], &script) else {
        return;
    };
    run(&mut command).ok();
    let at = |file: &str| text(&w.root().join(file));
    for name in ["big", "full"] {
        let said = at(&format!("{name}.err"));
        assert_eq!(at(&format!("{name}.code")), "4\n", "{said}");
        assert!(said.contains("error[env-disk-full]"), "{said}");
    }
    let (said, place) = (at("big.err"), w.store().display().to_string());
    assert!(said.contains(&place), "{said}");
    for name in ["check", "chain", "gc", "after"] {
        assert_eq!(
            at(&format!("{name}.code")),
            "0\n",
            "{}",
            at(&format!("{name}.err"))
        );
    }
    let left = at("left");
    assert!(
        !left.contains(".step") && !left.contains(".build"),
        "{left}"
    );
}
