//! What `sos init` makes is built, each template whole: with the packages of the tiny archive here, with real ones in the slow rounds.

use crate::support::archive::Package;
use crate::support::tiny::Tiny;
use crate::support::{World, one_at_a_time, slow};

/// A compiler that makes a shell script of every program.
const GCC: &str = "#!/bin/sh\nwhile [ $# -gt 1 ]; do [ \"$1\" = -o ] && out=$2; shift; done\ngrep -q main \"$1\" || exit 1\nprintf '#!/bin/sh\\necho hello\\n' > \"$out\"\nchmod 755 \"$out\"\n";

/// A world with the tiny archive in which the packages that templates name stand too.
fn world() -> Option<Tiny> {
    let mut tiny = Tiny::new()?;
    let gcc = Package::new("gcc", "4:12.2").file("usr/bin/gcc", 0o755, GCC);
    tiny.archive.add(&gcc);
    for name in ["libc6-dev", "ca-certificates"] {
        let package = Package::new(name, "1").file(&format!("usr/share/{name}"), 0o644, "x");
        tiny.archive.add(&package);
    }
    tiny.publish();
    Some(tiny)
}

/// Makes a project and lets its recipes use the suite and the key of the tiny archive; nothing else of them is changed.
fn init(w: &World, template: &str) {
    w.sos(["init", ".", "--template", template]).ok();
    for entry in std::fs::read_dir(w.project())
        .expect("a directory")
        .flatten()
    {
        let path = entry.path();
        let end = match path.extension().and_then(|e| e.to_str()) {
            Some("toml") => "",
            Some("nix") => ";",
            _ => continue,
        };
        let keyring = if end.is_empty() {
            "\"keys/archive.asc\""
        } else {
            "./keys/archive.asc"
        };
        let text = std::fs::read_to_string(&path).expect("a recipe");
        let text = text.replace(
            &format!("suite = \"bookworm\"{end}"),
            &format!("suite = \"test\"{end}\nkeyring = {keyring}{end}"),
        );
        std::fs::write(&path, text).expect("the recipe can be written");
    }
}

#[test]
fn the_nix_template_builds() {
    let Some(tiny) = world() else { return };
    let w = &tiny.world;
    init(w, "nix");
    let counted = w
        .sos(["build", "--no-link", ".#counted"])
        .ok()
        .stdout
        .trim()
        .to_owned();
    let bytes = w.sos(["store", "cat", &format!("{counted}/bytes")]).ok();
    assert_eq!(bytes.stdout.trim(), "Hello, world!\n".len().to_string());
    w.sos(["build", "--no-link"]).ok();
}

#[test]
fn the_debian_template_builds() {
    let Some(tiny) = world() else { return };
    let w = &tiny.world;
    init(w, "debian");
    let image = w
        .sos(["build", "--no-link", ".#image"])
        .ok()
        .stdout
        .trim()
        .to_owned();
    let index = w.sos(["store", "cat", &format!("{image}/index.json")]).ok();
    assert!(index.stdout.contains("sha256:"), "{}", index.stdout);
    w.sos(["build", "--no-link"]).ok();
}

/// With real packages, where there is time.
#[test]
fn templates_build_with_real_packages() {
    if !slow() {
        return;
    }
    let _alone = one_at_a_time();
    for template in ["nix", "debian"] {
        let mut w = World::new();
        for name in ["SOS_MIRRORS_DEBIAN", "SOS_MIRRORS_DEBIAN_SECURITY"] {
            if let Ok(value) = std::env::var(name) {
                w.set(name, &value);
            }
        }
        w.sos(["init", ".", "--template", template]).ok();
        w.sos(["build", "--no-link"]).ok();
    }
}
