//! The smallest Debian that can install packages: one essential package with this machine's dpkg and a busybox for the rest.
//!
//! With it, root filesystems build in a second and without a network, through the same code as real ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::archive::{Archive, Package, Signer, TEST};
use super::{World, peer, run, skip};

/// Programs of this machine that dpkg is made of. The shell of busybox will not do: it takes its own `dpkg` and `tar` first.
const PROGRAMS: &[&str] = &[
    "dash",
    "dpkg",
    "dpkg-deb",
    "dpkg-query",
    "dpkg-split",
    "dpkg-divert",
    "dpkg-trigger",
    "update-alternatives",
    "tar",
];

/// What busybox stands in for.
const APPLETS: &[&str] = &[
    "cat",
    "chmod",
    "chown",
    "cp",
    "date",
    "diff",
    "echo",
    "env",
    "false",
    "find",
    "grep",
    "id",
    "ls",
    "ln",
    "mkdir",
    "mv",
    "printf",
    "readlink",
    "rm",
    "rmdir",
    "sed",
    "sleep",
    "sort",
    "start-stop-daemon",
    "stat",
    "test",
    "touch",
    "tr",
    "true",
    "wc",
];

/// An archive with the tiny system, its key, and a world that uses it.
pub(crate) struct Tiny {
    pub(crate) world: World,
    pub(crate) archive: Archive,
    pub(crate) signer: Signer,
}

impl Tiny {
    /// A published archive with `tiny-base`, `greeter` (which needs `greeter-data`), and nothing else; `mirror://debian` leads to it.
    pub(crate) fn new() -> Option<Self> {
        let mut world = World::new();
        let mut archive = Archive::new(&world.root().join("mirror"))?;
        archive.add(&base()?);
        let data = Package::new("greeter-data", "2:1.0~rc1+b2").file(
            "usr/share/greeter/text",
            0o644,
            "hello\n",
        );
        archive.add(&data);
        let greeter = Package::new("greeter", "1.5-2")
            .field("Depends", "greeter-data (>= 2:1.0~)")
            .file(
                "usr/bin/greeter",
                0o755,
                "#!/bin/sh\ncat /usr/share/greeter/text\n",
            )
            .script(
                "postinst",
                "[ \"$1\" != configure ] || greeter > /var/lib/greeter-was-configured",
            );
        archive.add(&greeter);
        let signer = Signer::new("archive");
        archive.publish(&signer, TEST);
        world.write("keys/archive.asc", &signer.public());
        world.set("SOS_MIRRORS_DEBIAN", &archive.file_url());
        Some(Self {
            world,
            archive,
            signer,
        })
    }

    /// Builds everything that the archive holds anew: the indexes, the release file and its signature.
    pub(crate) fn publish(&self) {
        self.archive.publish(&self.signer, TEST);
    }
}

/// A recipe of a root filesystem from the tiny archive.
pub(crate) fn recipe(include: &[&str], more: &str) -> String {
    let include: Vec<String> = include.iter().map(|p| format!("\"{p}\"")).collect();
    format!(
        "name = \"tiny\"\nsuite = \"test\"\nvariant = \"essential\"\nkeyring = \"keys/archive.asc\"\ninclude = [{}]\nepoch = 1700000000\n{more}",
        include.join(", ")
    )
}

/// The libraries that a program loads, by the path that it loads them from.
fn libraries(program: &Path, found: &mut BTreeMap<String, PathBuf>) {
    let listed = run(Command::new("ldd").arg(program)).ok().stdout;
    for word in listed.split_whitespace().filter(|w| w.starts_with('/')) {
        let real = std::fs::canonicalize(word).expect("ldd names files");
        // As packages name them: the loader where programs look for it, the rest below /usr.
        let inside = word.trim_start_matches('/');
        let inside = if inside.starts_with("lib/") {
            format!("usr/{inside}")
        } else {
            inside.to_owned()
        };
        found.insert(inside, real);
    }
}

fn base() -> Option<Package> {
    if std::env::consts::ARCH != "x86_64" {
        skip("the tiny system is made of amd64 programs");
        return None;
    }
    let busybox = peer("busybox")?;
    let mut package = Package::new("tiny-base", "1.0")
        .field("Essential", "yes")
        .field("Priority", "required");
    let mut needed = BTreeMap::new();
    for name in PROGRAMS {
        let program = peer(name)?;
        libraries(&program, &mut needed);
        package = package.file(
            &format!("usr/bin/{name}"),
            0o755,
            std::fs::read(program).expect("a program"),
        );
    }
    for (inside, real) in needed {
        package = package.file(&inside, 0o755, std::fs::read(real).expect("a library"));
    }
    package = package.file(
        "usr/bin/busybox",
        0o755,
        std::fs::read(busybox).expect("busybox"),
    );
    for applet in APPLETS {
        package = package.link(&format!("usr/bin/{applet}"), "busybox");
    }
    let package = package
        .link("usr/bin/sh", "dash")
        .file("usr/sbin/ldconfig", 0o755, "#!/bin/sh\nexit 0\n")
        .file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n")
        .file("etc/group", 0o644, "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n")
        .file("root/.keep", 0o600, "")
        .file("var/lib/dpkg/README", 0o644, "the database of dpkg\n");
    Some(package)
}
