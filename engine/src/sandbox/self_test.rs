//! Trial runs that show whether this machine can make both kinds of sandbox.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::outcome::{Control, Exit, SandboxError};
use super::run::run;
use super::spec::{Shape, Spec};
use super::step::{StepSpec, remove_tree_with};

/// A private directory that is gone afterwards, whoever owns what is in it.
struct Scratch<'a>(PathBuf, &'a Control);

impl<'a> Scratch<'a> {
    fn new(parent: &Path, control: &'a Control) -> Result<Self, SandboxError> {
        let pid = std::process::id();
        for n in 0..1000 {
            let path = parent.join(format!(".sos-probe-{pid}-{n}"));
            match fs::DirBuilder::new().mode(0o755).create(&path) {
                Ok(()) => return Ok(Self(path, control)),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => {
                    return Err(SandboxError::io(format!("create {}", path.display()), e));
                }
            }
        }
        Err(SandboxError::io(
            format!("create a private directory in {}", parent.display()),
            std::io::Error::from(std::io::ErrorKind::AlreadyExists),
        ))
    }

    fn dir(&self, name: &str) -> Result<PathBuf, SandboxError> {
        let path = self.0.join(name);
        fs::create_dir_all(&path)
            .map_err(|e| SandboxError::io(format!("create {}", path.display()), e))?;
        Ok(path)
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        // What stays behind is a small directory with a telling name.
        let _left = remove_tree_with(&self.0, self.1);
    }
}

/// Builds the sandbox of an ordinary build, and lets a program that does nothing run in it.
pub(crate) fn nix(control: &Control) -> Result<Exit, SandboxError> {
    let scratch = Scratch::new(&std::env::temp_dir(), control)?;
    let spec = Spec::nix(
        &scratch.0,
        Path::new("/nix/store"),
        &scratch.dir("outputs")?,
        &scratch.dir("build")?,
        super::spec::BUILD_DIR,
        Vec::new(),
    );
    Ok(run(&spec, &mut |_| {}, control)?.exit)
}

/// Builds the sandbox of a step where the store is, and lets a program that does nothing run in it.
pub(crate) fn step(store_root: &Path, control: &Control) -> Result<Exit, SandboxError> {
    let parent = store_root
        .ancestors()
        .find(|p| p.is_dir())
        .unwrap_or(Path::new("/"));
    let scratch = Scratch::new(parent, control)?;
    for name in ["proc", "dev", "sys", "tmp", "run"] {
        scratch.dir(&format!("lower/{name}"))?;
    }
    let plan = StepSpec::new(None, Vec::new(), 0);
    let shape = Shape::Step {
        lower: vec![scratch.dir("lower")?],
        upper: scratch.dir("upper")?,
        work: scratch.dir("work")?,
        writable: Vec::new(),
    };
    let spec = plan.lower_to(shape, &scratch.0);
    Ok(run(&spec, &mut |_| {}, control)?.exit)
}
