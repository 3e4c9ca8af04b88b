//! Kills in the middle of a root filesystem: fetching, unpacking, installing, editing, running, packing.

use super::rounds;
use crate::support::tiny::{Tiny, recipe};
use crate::support::{one_at_a_time, seed, slow};

#[test]
fn a_killed_build_of_a_root_filesystem_leaves_nothing_half_done() {
    let Some(tiny) = Tiny::new() else { return };
    let _alone = one_at_a_time();
    let w = &tiny.world;
    w.write("tiny.rootfs.toml", &recipe(&["greeter"], ""));
    w.sos(["lock", "tiny.rootfs.toml"]).ok();
    let lock = std::fs::read_to_string(w.project().join("sos.lock")).expect("the lock");
    let seed = seed("crash::rootfs");
    rounds(w, seed, if slow() { 40 } else { 20 }, &|round| {
        // Another epoch is another root filesystem from the unpacking on. Every fourth round downloads again as well.
        w.write(
            "tiny.rootfs.toml",
            &recipe(&["greeter"], &format!("hostname = \"h{round}\"\n"))
                .replace("1700000000", &format!("{}", 1_700_000_000 + round)),
        );
        w.write("sos.lock", &lock);
        w.write(
            "sos.nix",
            &format!(
                r#"{{ sos, ... }}:
let
  base = sos.debian.rootfs ./tiny.rootfs.toml;
  job = sos.run {{ name = "job"; rootfs = base; script = "for i in 1 2 3; do sleep 0.03; echo {round} >> /tmp/x; done; mkdir -p $out; cp /tmp/x $out/x"; }};
in
sos.oci {{ name = "image"; rootfs = base; layers = [ {{ files."/x" = "${{job}}/x"; }} ]; }}
"#
            ),
        );
        if round % 4 == 0 {
            w.sos(["gc", "-q"]).ok();
        }
        ["build", "--no-link"].map(str::to_owned).to_vec()
    });
}
