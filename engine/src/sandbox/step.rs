//! One step: a root filesystem, mounts and a command give a changed root filesystem or a tree.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sos_formats::hash::Blake3;
use sos_store::Store;

use super::outcome::{Control, Exit, SandboxError};

/// Where the private directory of a step is, as the step sees it.
pub const STEP_DIR: &str = "/run/sos";
/// The path that `$out` names in a step that makes a tree.
pub const STEP_OUT: &str = "/run/sos/out";
/// The path of the script of a step.
pub const STEP_SCRIPT: &str = "/run/sos/script";

/// One path shown read-only to a step.
#[derive(Clone, Debug)]
pub struct StepMount {
    /// Absolute path inside.
    pub inside: PathBuf,
    /// Physical path of a file or directory.
    pub outside: PathBuf,
}

/// What a step makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepOutput {
    /// The changed root filesystem.
    Rootfs,
    /// What the step puts at `$out`; the result is moved to this physical path, which must not exist, on the filesystem of the store.
    Tree(PathBuf),
}

/// What a step is.
#[derive(Clone, Debug)]
pub struct StepSpec {
    /// The root filesystem to start from; `None` is an empty one.
    pub rootfs: Option<Blake3>,
    /// The program and its arguments; a path that is absolute inside.
    pub argv: Vec<Vec<u8>>,
    /// Written to [`STEP_SCRIPT`] when given.
    pub script: Option<Vec<u8>>,
    /// Variables besides the default ones, which they override.
    pub env: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What is shown.
    pub mounts: Vec<StepMount>,
    /// Working directory.
    pub cwd: PathBuf,
    /// User and group id.
    pub user: (u32, u32),
    /// Times after this become this; also `SOURCE_DATE_EPOCH`.
    pub epoch: i64,
    /// Directories covered with memory filesystems.
    pub tmpfs: Vec<PathBuf>,
    /// Host name.
    pub hostname: String,
    /// Keep the network of the machine (only for outputs whose hash is fixed).
    pub network: bool,
    /// Behave as a 32-bit machine.
    pub linux32: bool,
    /// What it makes.
    pub output: StepOutput,
    /// Cores to tell the step of as `SOS_CORES`; `None` says nothing.
    pub cores: Option<usize>,
}

impl StepSpec {
    /// Plans a command in a root filesystem with the defaults of the step shape.
    #[must_use]
    pub fn new(rootfs: Option<Blake3>, argv: Vec<Vec<u8>>, epoch: i64) -> Self {
        Self {
            rootfs,
            argv,
            script: None,
            env: BTreeMap::new(),
            mounts: Vec::new(),
            cwd: PathBuf::from("/"),
            user: (0, 0),
            epoch,
            tmpfs: vec![PathBuf::from("/tmp"), PathBuf::from("/run")],
            hostname: "localhost".to_owned(),
            network: false,
            linux32: false,
            output: StepOutput::Rootfs,
            cores: None,
        }
    }

    /// Adds a script that `shell` (for example `["/bin/sh", "-eu"]`) runs.
    pub fn set_script(&mut self, shell: &[&str], script: &[u8]) {
        self.argv = shell.iter().map(|s| s.as_bytes().to_vec()).collect();
        self.argv.push(STEP_SCRIPT.into());
        self.script = Some(script.to_vec());
    }
}

/// The end of one step.
#[derive(Clone, Debug)]
pub struct StepOutcome {
    /// What ended it.
    pub exit: Exit,
    /// Bytes that it wrote to its log.
    pub log_bytes: u64,
    /// The new root filesystem, when the step succeeded and makes one.
    pub root: Option<Blake3>,
    /// What could not be kept, for people: skipped devices and sockets.
    pub notes: Vec<String>,
}

/// Runs a step and captures what it made. Blocks; call it from a thread that lives until it returns.
///
/// # Errors
/// Everything but a failing program, which is an [`Exit`].
pub fn run_step(
    store: &Store,
    spec: &StepSpec,
    log: &mut dyn FnMut(&[u8]),
    control: &Control,
) -> Result<StepOutcome, SandboxError>;
