//! What the tests share: a store in a temporary directory, a root filesystem of busybox, runs of shell scripts.

use std::path::{Path, PathBuf};
use std::process::Command;

use sos_engine::sandbox::{
    self, Bind, Control, NamespaceRemover, Outcome, SandboxError, Spec, StepOutcome, StepSpec,
    run_step, spec,
};
use sos_formats::hash::Blake3;
use sos_formats::manifest::Meta;
use sos_formats::store_path::StoreDir;
use sos_store::rootfs::{FileSpec, RootTree, SpecKind};
use sos_store::{OpenOptions, Store};

/// The time that steps of the tests are given.
pub(crate) const EPOCH: i64 = 1_700_000_000;

pub(crate) fn busybox() -> PathBuf {
    ["/bin/busybox", "/usr/bin/busybox"]
        .map(PathBuf::from)
        .into_iter()
        .find(|p| p.is_file())
        .unwrap_or_default()
}

/// Says why something is skipped; fails instead under `SOS_REQUIRE_PEERS=1`.
pub(crate) fn skip(why: &str) {
    assert!(
        std::env::var_os("SOS_REQUIRE_PEERS").is_none_or(|value| value != "1"),
        "SOS_REQUIRE_PEERS=1, but: {why}"
    );
    println!("skipped: {why}");
}

/// Says why the tests cannot run here.
pub(crate) fn possible() -> Result<(), String> {
    let busybox = busybox();
    let is_static = Command::new("ldd")
        .arg(&busybox)
        .output()
        .is_ok_and(|o| !o.status.success());
    if !is_static {
        return Err("no static busybox".to_owned());
    }
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    match nix_plan(dir.path(), "exit 0").run(&Control::default()) {
        Ok(_) => Ok(()),
        Err(SandboxError::Machine(d)) => Err(d.message),
        Err(other) => panic!("{other:?}"),
    }
}

/// Says why steps cannot run here although builds can: they need more ids.
pub(crate) fn steps_possible() -> Result<(), String> {
    let lab = Lab::new();
    let plan = lab.plan(lab.base, ":");
    match run_step(&lab.store, &plan, &mut |_| {}, &Control::default()) {
        Err(SandboxError::Machine(d)) => Err(d.message),
        _ => Ok(()),
    }
}

/// A plan in the Nix shape and where its outputs appear.
pub(crate) struct NixPlan {
    pub(crate) spec: Spec,
    pub(crate) outputs: PathBuf,
}

pub(crate) fn nix_plan(dir: &Path, script: &str) -> NixPlan {
    let (outputs, build) = (dir.join("outputs"), dir.join("build"));
    std::fs::create_dir_all(&outputs).unwrap();
    std::fs::create_dir_all(&build).unwrap();
    let mut spec = Spec::nix(
        dir,
        Path::new("/nix/store"),
        &outputs,
        &build,
        spec::BUILD_DIR,
        Vec::new(),
    );
    spec.binds
        .push(Bind::read_only(Path::new("/bin/sh"), &busybox()));
    spec.program = b"/bin/sh".to_vec();
    spec.argv = ["sh", "-c", script].map(|a| a.as_bytes().to_vec()).into();
    spec.env = spec::nix_base_env("/nix/store", 1);
    spec.env.extend(spec::nix_directories(spec::BUILD_DIR));
    spec.env.extend(spec::nix_terminal());
    NixPlan { spec, outputs }
}

impl NixPlan {
    pub(crate) fn run(&self, control: &Control) -> Result<(Outcome, String), SandboxError> {
        let mut log = Vec::new();
        let outcome = sandbox::run(&self.spec, &mut |b| log.extend_from_slice(b), control)?;
        Ok((outcome, String::from_utf8_lossy(&log).into_owned()))
    }
}

/// A store of its own with a root filesystem of busybox in it.
pub(crate) struct Lab {
    pub(crate) store: Store,
    pub(crate) base: Blake3,
    pub(crate) dir: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

pub(crate) fn meta(mode: u16) -> Meta {
    Meta {
        mode,
        mtime_secs: 1_000_000,
        ..Meta::default()
    }
}

impl Lab {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let lab = Self::at(dir.path());
        Self {
            _temporary: Some(dir),
            ..lab
        }
    }

    /// The same in a directory that stays.
    pub(crate) fn at(dir: &Path) -> Self {
        let store = Store::open(OpenOptions {
            root: dir.join("store"),
            store_dir: StoreDir::default(),
            read_only: false,
        })
        .unwrap();
        store.set_remover(std::sync::Arc::new(NamespaceRemover::default()));
        let mut tree = RootTree::empty_in(&store, meta(0o755));
        for path in ["bin", "etc", "home", "var/lib"] {
            tree.mkdir_p(path, &meta(0o755)).unwrap();
        }
        let (blob, size) = store.put_blob_file(&busybox(), false).unwrap();
        let kind = SpecKind::File {
            size,
            blob,
            hardlink: None,
        };
        tree.insert(
            "bin/busybox",
            FileSpec {
                meta: meta(0o755),
                kind,
            },
        )
        .unwrap();
        tree.insert(
            "bin/sh",
            FileSpec {
                meta: meta(0o777),
                kind: SpecKind::Symlink {
                    target: b"busybox".to_vec(),
                },
            },
        )
        .unwrap();
        for name in ["a", "b", "c"] {
            tree.write_file(format!("etc/{name}"), name, meta(0o644))
                .unwrap();
        }
        let base = tree.finish(&store).unwrap();
        Self {
            store,
            base,
            dir: dir.to_owned(),
            _temporary: None,
        }
    }

    pub(crate) fn plan(&self, root: Blake3, script: &str) -> StepSpec {
        let mut spec = StepSpec::new(Some(root), Vec::new(), EPOCH);
        spec.set_script(&["/bin/sh", "-eu"], script.as_bytes());
        spec
    }

    pub(crate) fn run(&self, spec: &StepSpec) -> (StepOutcome, String) {
        let mut log = Vec::new();
        let outcome = run_step(
            &self.store,
            spec,
            &mut |b| log.extend_from_slice(b),
            &Control::default(),
        )
        .unwrap();
        (outcome, String::from_utf8_lossy(&log).into_owned())
    }

    /// Runs a script that must succeed and returns the new root and the log.
    #[track_caller]
    pub(crate) fn step(&self, root: Blake3, script: &str) -> (Blake3, String) {
        let (outcome, log) = self.run(&self.plan(root, script));
        assert!(outcome.exit.success(), "{:?}\n{log}", outcome.exit);
        (outcome.root.unwrap(), log)
    }

    /// How many directories of steps lie about.
    pub(crate) fn unfinished(&self) -> usize {
        let entries = std::fs::read_dir(self.store.root().join("tmp")).unwrap();
        let names = entries.flatten().map(|entry| entry.file_name());
        let steps = names.filter(|name| name.to_string_lossy().ends_with(".step"));
        steps.count()
    }

    pub(crate) fn load(&self, root: &Blake3) -> RootTree {
        RootTree::load(&self.store, root).unwrap()
    }

    /// Lists a root as `path mode uid:gid time`, one a line, with what the kinds say.
    pub(crate) fn list(&self, root: &Blake3) -> Vec<String> {
        use sos_store::rootfs::KindView;
        let mut lines = Vec::new();
        self.load(root)
            .walk(|path, meta, kind| {
                let what = match kind {
                    KindView::File { size, hardlink, .. } => {
                        format!(
                            "file {size}{}",
                            if hardlink.is_some() { " linked" } else { "" }
                        )
                    }
                    KindView::Dir => "dir".to_owned(),
                    KindView::Symlink { target } => {
                        format!("-> {}", String::from_utf8_lossy(target))
                    }
                    KindView::Fifo => "fifo".to_owned(),
                    other => format!("{other:?}"),
                };
                lines.push(format!(
                    "{} {:o} {}:{} {} {what}",
                    String::from_utf8_lossy(path),
                    meta.mode,
                    meta.uid,
                    meta.gid,
                    meta.mtime_secs
                ));
                Ok(())
            })
            .unwrap();
        lines
    }
}
