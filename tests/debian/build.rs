//! Root filesystems are what dpkg makes of their packages, with the changes that the recipe asks for.

use super::{FILE, with_recipe};
use crate::support::tiny::{Tiny, recipe};
use crate::support::{World, store_is_clean};

const CHANGES: &str = r#"
hostname = "tiny"
[[file]]
path = "/etc/motd"
content = "Built by a test.\n"
[[file]]
path = "/srv/page"
source = "files/page"
mode = "0640"
owner = "deploy:www-data"
[[user]]
name = "deploy"
uid = 1000
groups = ["www-data"]
"#;

fn cat(w: &World, path: &str) -> String {
    w.sos(["store", "cat", path]).ok().stdout
}

fn built() -> Option<(Tiny, String)> {
    let tiny = with_recipe(&[])?;
    tiny.world.write("files/page", "<p>page\n");
    tiny.world.write(FILE, &recipe(&["greeter"], CHANGES));
    let root = tiny
        .world
        .sos(["build", "--no-link", FILE])
        .ok()
        .stdout
        .trim()
        .to_owned();
    Some((tiny, root))
}

#[test]
fn a_link_to_a_root_filesystem_says_how_to_look_into_it() {
    let Some(tiny) = with_recipe(&["greeter"]) else {
        return;
    };
    let w = &tiny.world;
    let path = w.sos(["build", FILE, "-o", "kept"]).ok().stdout;
    let text = std::fs::read_to_string(w.project().join("kept")).expect("the link leads somewhere");
    assert!(
        text.contains(&format!("sos store ls {}", path.trim())),
        "{text}"
    );
    // It is a root all the same.
    w.sos(["gc", "-q"]).ok();
    let listed = w
        .sos(["store", "ls", "-l", &format!("{}/usr/bin", path.trim())])
        .ok()
        .stdout;
    let line = |name: &str| {
        let found = listed
            .lines()
            .find(|l| l.split('\t').nth(1).is_some_and(|n| n.starts_with(name)));
        found.unwrap_or_else(|| panic!("no {name}: {listed}"))
    };
    assert!(line("sh").ends_with("\tsh -> dash"), "{listed}");
    let size = "#!/bin/sh\ncat /usr/share/greeter/text\n".len();
    assert!(line("greeter").contains(&format!(" {size}\t")), "{listed}");
    std::fs::remove_file(w.project().join("kept")).expect("the link");
    w.sos(["gc", "-q"]).ok();
    w.sos(["store", "info", path.trim()]).fails(1);
}

#[test]
fn packages_are_installed_and_configured_and_the_recipe_is_applied() {
    let Some((tiny, root)) = built() else { return };
    let w = &tiny.world;
    let status = cat(w, &format!("{root}/var/lib/dpkg/status"));
    for name in ["tiny-base", "greeter", "greeter-data"] {
        let stanza = status
            .split("\n\n")
            .find(|s| s.starts_with(&format!("Package: {name}\n")))
            .unwrap_or_else(|| panic!("{name} in {status}"));
        assert!(
            stanza.contains("\nStatus: install ok installed\n"),
            "{stanza}"
        );
    }
    assert_eq!(
        cat(w, &format!("{root}/var/lib/greeter-was-configured")),
        "hello\n",
        "the maintainer script ran, in the root"
    );
    assert!(
        cat(w, &format!("{root}/var/lib/apt/extended_states")).contains("Package: greeter-data\n")
    );
    assert_eq!(cat(w, &format!("{root}/etc/motd")), "Built by a test.\n");
    assert_eq!(cat(w, &format!("{root}/etc/hostname")), "tiny\n");
    assert!(cat(w, &format!("{root}/etc/passwd")).contains("deploy:x:1000:"));
    assert!(
        cat(w, &format!("{root}/etc/group"))
            .lines()
            .any(|l| l == "www-data:x:33:deploy")
    );
    let listed = w
        .sos(["store", "ls", "-l", &format!("{root}/srv")])
        .ok()
        .stdout;
    assert!(
        listed.contains("- 0640 1000:33          8\tpage"),
        "{listed}"
    );
    // What the build needed is not in the result.
    let listed = w
        .sos(["store", "ls", &format!("{root}/usr/sbin")])
        .ok()
        .stdout;
    assert!(!listed.contains("policy-rc.d"), "{listed}");
    let listed = w.sos(["store", "ls", &root]).ok().stdout;
    assert!(
        !listed.lines().any(|l| l == "run"),
        "no mount point shows: {listed}"
    );
    store_is_clean(w);
}

#[test]
fn an_edit_repeats_no_package_work() {
    let Some((tiny, before)) = built() else {
        return;
    };
    let w = &tiny.world;
    w.write("files/page", "<p>another page\n");
    let events = w.events(&[FILE]);
    assert_eq!(events.names("build.started"), ["tiny-rootfs"]);
    assert_ne!(events.output(), before);
}

#[test]
fn commands_run_in_it_and_what_they_leave_is_captured() {
    let Some(tiny) = with_recipe(&["greeter"]) else {
        return;
    };
    let w = &tiny.world;
    w.write("src/input", "from the tree\n");
    w.write(
        "sos.nix",
        r#"{ sos, ... }: rec {
  base = sos.debian.rootfs ./tiny.rootfs.toml;
  tool = sos.run {
    name = "tool";
    rootfs = base;
    mounts."/src" = ./src;
    script = ''
      mkdir -p $out/bin
      cat /src/input > $out/bin/tool
      greeter >> $out/bin/tool
      chmod 755 $out/bin/tool
      if touch /src/x 2>/dev/null; then echo the source is writable; exit 1; fi
      test ! -e /nix
    '';
  };
  changed = sos.run {
    name = "changed";
    rootfs = base;
    result = "rootfs";
    script = "rm /usr/bin/greeter; ln -s /nowhere /usr/bin/greeter; mkdir /opt; chmod 1777 /opt; echo x > /tmp/gone";
  };
  image = sos.oci { name = "tiny-image"; rootfs = changed; layers = [ { files."/usr/local/bin/tool" = "${tool}/bin/tool"; } ]; config.entrypoint = [ "/usr/local/bin/tool" ]; };
}
"#,
    );
    let out = w
        .sos(["build", "--no-link", ".#tool", ".#changed", ".#image"])
        .ok()
        .stdout;
    let [tool, changed, image] = out.lines().collect::<Vec<_>>()[..] else {
        panic!("three paths: {out}")
    };
    assert_eq!(
        cat(w, &format!("{tool}/bin/tool")),
        "from the tree\nhello\n"
    );
    let listed = w
        .sos(["store", "ls", "-l", &format!("{changed}/usr/bin")])
        .ok()
        .stdout;
    assert!(
        listed
            .lines()
            .any(|l| l.starts_with('l') && l.ends_with("\tgreeter -> /nowhere")),
        "{listed}"
    );
    let listed = w.sos(["store", "ls", "-l", changed]).ok().stdout;
    assert!(listed.contains("d 1777 0:0          0\topt"), "{listed}");
    assert_eq!(
        w.sos(["store", "ls", &format!("{changed}/tmp")])
            .ok()
            .stdout,
        ""
    );
    let index: serde_json::Value =
        serde_json::from_str(&cat(w, &format!("{image}/index.json"))).expect("JSON");
    assert_eq!(index["manifests"].as_array().expect("manifests").len(), 1);
    store_is_clean(w);
}

#[test]
fn a_command_that_fails_or_lies_leaves_nothing() {
    let Some(tiny) = with_recipe(&[]) else { return };
    let w = &tiny.world;
    let run = |script: &str| {
        format!(
            "{{ sos, ... }}: sos.run {{ name = \"job\"; rootfs = sos.debian.rootfs ./tiny.rootfs.toml; script = ''{script}''; timeout = 3; }}"
        )
    };
    for (script, code, says) in [
        (
            "echo about to fail; mkdir $out; exit 9",
            100,
            "exit status 9",
        ),
        ("true", 100, "error[build-no-output]"),
        ("sleep 100", 101, "error[build-timeout]"),
        ("mkdir $out; kill -9 $$", 100, "error[build-failed]"),
    ] {
        w.write("sos.nix", &run(script));
        w.sos(["build"]).fails(code).says(&[says, "job"]);
        crate::support::left_nothing(w, "job");
    }
}

#[test]
fn an_image_whose_apt_knows_its_archive() {
    let Some(tiny) = with_recipe(&[]) else { return };
    tiny.world.write(
        FILE,
        &recipe(&[], "apt = \"https://archive.example/debian\"\n"),
    );
    let path = tiny
        .world
        .sos(["build", "--no-link", FILE])
        .ok()
        .stdout
        .trim()
        .to_owned();
    let cat = |file: &str| {
        tiny.world
            .sos(["store", "cat", &format!("{path}{file}")])
            .ok()
            .stdout
    };
    assert_eq!(
        cat("/etc/apt/sources.list.d/sos.sources"),
        "Types: deb\nURIs: https://archive.example/debian\nSuites: test\nComponents: main\nSigned-By: /etc/apt/keyrings/0-archive.asc\n"
    );
    assert_eq!(cat("/etc/apt/keyrings/0-archive.asc"), tiny.signer.public());
}
