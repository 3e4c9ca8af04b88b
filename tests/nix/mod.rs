//! Derivations that real Nix wrote, built by both: paths, content, and what a builder finds in its sandbox.

mod builds;
mod closure;
mod probe;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Run, World, peer, run};

/// Options under which Nix builds as strictly as it can, from a store of its own.
const STRICT: [&str; 15] = [
    "--option",
    "substitute",
    "false",
    "--option",
    "sandbox",
    "true",
    "--option",
    "sandbox-paths",
    "",
    "--option",
    "build-users-group",
    "",
    "--option",
    "extra-experimental-features",
    "ca-derivations",
];

/// A world with a tree of static programs, and a store of real Nix beside that of sos.
struct Both {
    world: World,
    instantiate: PathBuf,
    store: PathBuf,
    hash: PathBuf,
}

impl Both {
    fn new() -> Option<Self> {
        Self::over(World::new())
    }

    fn over(world: World) -> Option<Self> {
        let busybox = peer("busybox")?;
        let this = Self {
            instantiate: peer("nix-instantiate")?,
            store: peer("nix-store")?,
            hash: peer("nix-hash")?,
            world,
        };
        let bin = this.world.project().join("tools/bin");
        std::fs::create_dir_all(&bin).expect("directories");
        std::fs::copy(busybox, bin.join("busybox")).expect("busybox");
        Some(this)
    }

    fn nix(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env("HOME", self.world.root().join("home"))
            .env("WORD", "from outside")
            .env("NIX_STATE_DIR", self.world.root().join("state"))
            .env_remove("NIX_REMOTE")
            .env_remove("NIX_PATH")
            .current_dir(self.world.project())
            .args(STRICT)
            .args(["--option", "cores", "1", "--store"])
            .arg(self.nix_root());
        command
    }

    fn nix_root(&self) -> PathBuf {
        self.world.root().join("nix")
    }

    /// Where real Nix keeps a path.
    fn in_nix(&self, path: &str) -> PathBuf {
        self.nix_root().join(path.trim_start_matches('/'))
    }

    /// Lets real Nix evaluate an attribute of a file of the project; the name of the derivation.
    #[track_caller]
    fn instantiate(&self, file: &str, attr: &str, arguments: &[&str]) -> String {
        let mut command = self.nix(&self.instantiate);
        let file = self.world.project().join(file);
        command.arg(file).args(["-A", attr]).args(arguments);
        run(&mut command).ok().stdout.trim().to_owned()
    }

    /// Builds a derivation with sos; the text is that which `nix-instantiate` gives.
    fn sos_builds(&self, drv: &str) -> Run {
        let file = self.in_nix(drv).display().to_string();
        self.world
            .sos(["--config", "build.cores=1", "build", "--no-link", &file])
    }

    /// Builds a derivation with real Nix.
    fn nix_builds(&self, drv: &str) -> Run {
        run(self.nix(&self.store).args(["--realise", drv]))
    }

    /// Asks real Nix about a path.
    #[track_caller]
    fn nix_query(&self, what: &str, path: &str) -> Vec<String> {
        let answer = run(self.nix(&self.store).args(["--query", what, path])).ok();
        let mut lines: Vec<String> = answer.stdout.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// Builds with both and compares paths, archives and references of the outputs, which are returned.
    #[track_caller]
    fn same(&self, drv: &str) -> Vec<String> {
        let sorted = |run: Run| {
            let mut lines: Vec<String> = run.ok().stdout.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        // In this order: a builder may change its inputs in the store of Nix, see the probe.
        let ours = sorted(self.sos_builds(drv));
        let theirs = sorted(self.nix_builds(drv));
        assert_eq!(ours, theirs, "{drv}");
        for path in &ours {
            self.same_object(path);
        }
        ours
    }

    #[track_caller]
    fn same_object(&self, path: &str) {
        let mut hash = Command::new(&self.hash);
        hash.args(["--type", "sha256", "--base32"])
            .arg(self.world.physical(path));
        let ours = format!("sha256:{}", run(&mut hash).ok().stdout.trim());
        assert_eq!(vec![ours], self.nix_query("--hash", path), "{path}");
        assert_eq!(
            self.info(path)["references"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|r| r.as_str().expect("a path").to_owned())
                .collect::<Vec<_>>(),
            self.nix_query("--references", path),
            "{path}"
        );
    }

    /// What sos knows of a path.
    #[track_caller]
    fn info(&self, path: &str) -> serde_json::Value {
        let text = self
            .world
            .sos(["--json", "store", "info", path])
            .ok()
            .stdout;
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        match value {
            serde_json::Value::Array(mut list) => list.remove(0),
            other => other,
        }
    }
}
