//! Layers by packages on a real Debian: what a new version of one package changes, and what earlier builds change, which is nothing.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use super::{Demo, digest, tool};
use crate::support::{peer, run};

/// The example's host, and the same with a new version of one package.
const RECIPE: &str = r#"
{ sos, ... }:
let
  inherit (import ./sos.nix { inherit sos; }) web;
  image = rootfs: sos.oci { name = "packages"; inherit rootfs; layering = "packages"; };
in
{
  one = image web;
  two = image (sos.run {
    name = "changed-rootfs";
    rootfs = web;
    result = "rootfs";
    mounts."/run/new.deb" = ./new.deb;
    tmpfs = [ "/tmp" ];
    script = ''
      dpkg --install /run/new.deb
      # As with every step that installs: the time of the run is in these.
      rm -f /var/log/dpkg.log /var/log/alternatives.log /var/cache/ldconfig/aux-cache
    '';
  });
}
"#;
/// The package that gets a new version: small, essential, and without scripts of its own.
const PACKAGE: &str = "hostname";

/// Writes the recipe, and the package out of the store with another version and another file; false without the tools for that.
pub(super) fn write(demo: &Demo) -> bool {
    let Some(dpkg) = peer("dpkg-deb") else {
        return false;
    };
    let dir = demo.world.project();
    demo.world.write("layers.nix", RECIPE);
    let listed = demo.world.sos(["store", "ls"]).ok().stdout;
    let is_it = |line: &&str| {
        let name = line
            .rsplit('/')
            .next()
            .and_then(|base| base.split_once('-'));
        name.is_some_and(|(_, name)| {
            name.starts_with(&format!("{PACKAGE}_")) && name.ends_with(".deb")
        })
    };
    let deb = listed.lines().find(is_it).expect("the package");
    let deb = demo.world.physical(deb);
    let unpacked = dir.join("unpacked");
    let at = unpacked.to_str().expect("plain");
    tool(&dpkg, &["-R", deb.to_str().expect("plain"), at]);
    let control = unpacked.join("DEBIAN/control");
    let text = std::fs::read_to_string(&control).expect("a control file");
    let raised: String = text
        .lines()
        .map(|line| match line.strip_prefix("Version: ") {
            Some(version) => format!("Version: {version}+new1\n"),
            None => format!("{line}\n"),
        })
        .collect();
    std::fs::write(&control, raised).expect("written");
    let file = unpacked.join(format!("usr/share/doc/{PACKAGE}/copyright"));
    let text = std::fs::read_to_string(&file).expect("a file") + "And more.\n";
    std::fs::write(&file, text).expect("written");
    let mut build = Command::new(&dpkg);
    build.env("SOURCE_DATE_EPOCH", "1782864000");
    let new = dir.join("new.deb");
    run(build.args(["--root-owner-group", "-b", at]).arg(new)).ok();
    std::fs::remove_dir_all(unpacked).expect("removed");
    true
}

/// Builds the second image after the first; gives the digest of its manifest. At most two layers are others: that of the package, and
/// that of what dpkg writes down.
pub(super) fn one_changed_package_changes_two_layers(demo: &Demo) -> String {
    let layers = |target: &str| {
        let out = demo.world.sos(["build", "--no-link", target]).ok().stdout;
        let image = out.trim().to_owned();
        let manifest = digest(&demo.world, &image);
        let blob = manifest.replace(':', "/");
        let text = demo
            .world
            .sos(["store", "cat", &format!("{image}/blobs/{blob}")])
            .ok()
            .stdout;
        let text: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let all = text["layers"].as_array().expect("layers").iter();
        let all: BTreeSet<String> = all.map(|layer| layer["digest"].to_string()).collect();
        (manifest, all)
    };
    let (first, one) = layers("./layers.nix#one");
    let (second, two) = layers("./layers.nix#two");
    assert_ne!(first, second);
    assert!(one.len() > 10, "{} layers", one.len());
    assert_eq!(one.len(), two.len());
    let others = two.difference(&one).count();
    assert!((1..=2).contains(&others), "{others} of {}", two.len());
    second
}

/// Takes what [`write`] has written to another place.
pub(super) fn copy(demo: &Demo, to: &Path) {
    for name in ["layers.nix", "new.deb"] {
        std::fs::copy(demo.world.project().join(name), to.join(name)).expect("a file");
    }
}
