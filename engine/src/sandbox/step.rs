//! One step: a root filesystem, mounts and a command give a changed root filesystem or a tree.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sos_formats::hash::Blake3;
use sos_formats::manifest::Meta;
use sos_store::rootfs::RootTree;
use sos_store::{PlainRemover, Remover, Store, TempDir};

use crate::clock::{Clock, SystemClock};

use super::capture::{self, Times};
use super::converse::{Streams, converse};
use super::layer::{self, Below, Places};
use super::outcome::{Control, Exit, SandboxError};
use super::place::place_of;
use super::protocol::Op;
use super::run::run;
use super::spec::{Bind, InlineFile, Limits, Shape, Spec};
use super::tree::{self, WorkTree};
use super::vary::Vary;
use super::watch::Watched;
use super::worker::Worker;

/// Where the private directory of a step is, as the step sees it.
pub const STEP_DIR: &str = "/run/sos";
/// The path that `$out` names in a step that makes a tree.
pub const STEP_OUT: &str = "/run/sos/out";
/// The path of the script of a step.
pub const STEP_SCRIPT: &str = "/run/sos/script";

/// Where programs are found in a step that is told nothing else.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What every step covers besides its own list.
const ALWAYS_COVERED: [&str; 3] = ["/proc", "/dev", "/sys"];

/// Shown to steps that keep the network.
const RESOLVER: &str = "/etc/resolv.conf";

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
    /// What lies below the root filesystem and can be changed: what the step leaves as it is, is no part of the result.
    pub layers: Vec<StepMount>,
    /// The same for what the step is lent: whatever it makes of it, nothing at or below these places is in the result.
    pub copies: Vec<StepMount>,
    /// The variables of `env` are all that there are.
    pub bare: bool,
    /// Working directory.
    pub cwd: PathBuf,
    /// User and group id.
    pub user: (u32, u32),
    /// Times after this and times of the run become this; also `SOURCE_DATE_EPOCH`.
    pub epoch: i64,
    /// Times that the step sets before it become the epoch, too: what it writes has no other time.
    pub timeless: bool,
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
    /// Where what a failing program has written is moved; must not exist, on the filesystem of the store.
    pub keep_failed: Option<PathBuf>,
    /// What is different from other runs, to see what depends on it.
    pub vary: Vary,
    /// Directories, inside, below which names are reported that the step looks for in vain; see [`Watched`].
    pub watch: Vec<PathBuf>,
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
            layers: Vec::new(),
            copies: Vec::new(),
            bare: false,
            cwd: PathBuf::from("/"),
            user: (0, 0),
            epoch,
            timeless: false,
            tmpfs: vec![PathBuf::from("/tmp"), PathBuf::from("/run")],
            hostname: "localhost".to_owned(),
            network: false,
            linux32: false,
            output: StepOutput::Rootfs,
            cores: None,
            keep_failed: None,
            vary: Vary::default(),
            watch: Vec::new(),
        }
    }

    /// Puts the step on the root that `shape` describes.
    pub(super) fn lower_to(&self, shape: Shape, scratch: &Path) -> Spec {
        let epoch = self.epoch.to_string();
        let mut env: Vec<(Vec<u8>, Vec<u8>)> = [
            ("PATH", PATH),
            ("HOME", "/root"),
            ("LC_ALL", "C.UTF-8"),
            ("TZ", "UTC"),
            ("SOURCE_DATE_EPOCH", &epoch),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .into();
        if self.bare {
            env.clear();
        }
        if let Some(cores) = self.cores {
            env.push((b"SOS_CORES".to_vec(), cores.to_string().into()));
        }
        if self.output != StepOutput::Rootfs {
            env.push((b"out".to_vec(), STEP_OUT.into()));
        }
        env.extend(self.env.clone());
        let files = self.script.iter().map(|script| InlineFile {
            path: PathBuf::from(STEP_SCRIPT),
            content: script.clone(),
            mode: 0o555,
        });
        let mut binds: Vec<Bind> = self
            .mounts
            .iter()
            .map(|m| Bind::read_only(&m.inside, &m.outside))
            .collect();
        if self.network {
            let path = Path::new(RESOLVER);
            binds.push(Bind {
                optional: true,
                ..Bind::read_only(path, path)
            });
        }
        // A mount below another one comes after it.
        binds.sort_by(|a, b| a.inside.cmp(&b.inside));
        Spec {
            shape,
            scratch: scratch.to_owned(),
            program: self.argv.first().cloned().unwrap_or_default(),
            argv: self.argv.clone(),
            env,
            cwd: self.cwd.clone(),
            uid: self.user.0,
            gid: self.user.1,
            hostname: self.hostname.clone(),
            network: self.network,
            linux32: self.linux32,
            binds,
            files: files.collect(),
            tmpfs: self.tmpfs.clone(),
            devices: Vec::new(),
            limits: Limits::default(),
            vary: self.vary.clone(),
            watch: self.watch.clone(),
        }
    }

    /// The directories that the step finds memory in, or what the kernel shows.
    pub(super) fn covered(&self) -> Vec<&Path> {
        let own = self.tmpfs.iter().map(PathBuf::as_path);
        ALWAYS_COVERED.iter().map(Path::new).chain(own).collect()
    }

    /// Lists the mount points that the root filesystem may lack, and which of them are directories.
    fn mount_points(&self) -> Result<Vec<(Vec<u8>, bool)>, SandboxError> {
        let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
        let covered = self.covered();
        // Below a covered directory mount points are made in memory.
        let below_covered = |path: &Path| covered.iter().any(|c| path.starts_with(c) && path != *c);
        let mut points: Vec<(Vec<u8>, bool)> = covered
            .iter()
            .filter(|path| !below_covered(path))
            .map(|path| (bytes(path), true))
            .collect();
        if !below_covered(Path::new(STEP_DIR)) {
            points.push((bytes(Path::new(STEP_DIR)), true));
        }
        for mount in &self.mounts {
            let meta = fs::metadata(&mount.outside)
                .map_err(|e| SandboxError::io(format!("show {}", mount.outside.display()), e))?;
            if !below_covered(&mount.inside) {
                points.push((bytes(&mount.inside), meta.is_dir()));
            }
        }
        if self.network {
            points.push((RESOLVER.into(), false));
        }
        Ok(points)
    }

    /// Lets programs be found in one more directory, after all others.
    pub(crate) fn add_to_path(&mut self, dir: &str) {
        let usual = if self.bare { "" } else { PATH };
        let path = self
            .env
            .entry(b"PATH".to_vec())
            .or_insert_with(|| usual.into());
        if !path.is_empty() {
            path.push(b':');
        }
        path.extend(dir.as_bytes());
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
    /// Where what a failing program has written is, if it was to be kept: `upper` and `private`.
    pub kept: Option<PathBuf>,
    /// What it looked for in vain, if it was to be watched.
    pub watched: Watched,
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
) -> Result<StepOutcome, SandboxError> {
    let mut worker = Worker::start(control)?;
    let root = first_root(store, spec)?;
    let tree = tree::acquire(store, &root, &mut worker, control)?;
    let place = Place::new(store.temp_dir("step")?)?;
    let outcome = in_tree(store, spec, &root, &tree, &place, &mut worker, log, control);
    if let Ok(outcome) = &outcome
        && let Some(made) = outcome.root.filter(|made| *made != root)
    {
        tree.keep_next(store, &made, &place.upper(), &place.overlay, control)?;
    }
    // The directory is removed here, by the worker that can, and not by what drops it.
    let removed = worker.remove_tree(&place.overlay);
    let outcome = outcome?;
    removed?;
    Ok(outcome)
}

/// Removes a path with all below it, whoever owns it.
///
/// # Errors
/// When it cannot be removed, or the namespace of its owners cannot be made.
pub fn remove_tree(path: &Path) -> Result<(), SandboxError> {
    remove_tree_with(path, &Control::default())
}

pub(super) fn remove_tree_with(path: &Path, control: &Control) -> Result<(), SandboxError> {
    // Most trees hold nothing of other ids: no namespace is needed then.
    if PlainRemover.remove_tree(path).is_ok() {
        return Ok(());
    }
    Worker::start(control)?.remove_tree(path)
}

/// Removes trees for the store, those of other ids too.
#[derive(Clone, Default)]
pub struct NamespaceRemover {
    control: Control,
}

impl NamespaceRemover {
    /// Removes with helpers started as `control` says.
    #[must_use]
    pub fn new(control: Control) -> Self {
        Self { control }
    }
}

impl Remover for NamespaceRemover {
    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        remove_tree_with(path, &self.control).map_err(io::Error::other)
    }

    fn idle_caches(
        &self,
        work: &Path,
        before: Option<SystemTime>,
        take: bool,
    ) -> io::Result<Vec<PathBuf>> {
        tree::idle(work, before, take, &self.control).map_err(io::Error::other)
    }

    fn can_remove(&self, tree: &Path) -> bool {
        tree::can_remove(tree)
    }
}

/// Forgets all cached working trees of a store; no step may run.
///
/// # Errors
/// When they cannot be removed.
pub fn reset_work_trees(store: &Store, control: &Control) -> Result<(), SandboxError> {
    remove_tree_with(&store.work_dir(), control)
}

/// What a step begins with: its root filesystem, or one with nothing in it.
fn first_root(store: &Store, spec: &StepSpec) -> Result<Blake3, SandboxError> {
    if let Some(root) = spec.rootfs {
        return Ok(root);
    }
    let meta = Meta {
        mode: 0o755,
        mtime_secs: spec.epoch,
        ..Meta::default()
    };
    Ok(RootTree::empty_in(store, meta).finish(store)?)
}

/// Seconds since 1970: what must not reach the result.
fn clock_secs() -> i64 {
    i64::try_from(SystemClock::new().unix_ms() / 1000).unwrap_or(i64::MAX)
}

/// Runs a program where the step would run, and throws away what it changes. With `kept`, it finds what a failed run of the
/// step has left there (see [`StepSpec::keep_failed`]), and changes that.
///
/// # Errors
/// As [`run_step`].
pub fn converse_in_step(
    store: &Store,
    spec: &StepSpec,
    kept: Option<&Path>,
    streams: &Streams<'_>,
    control: &Control,
) -> Result<Exit, SandboxError> {
    let mut worker = Worker::start(control)?;
    let root = first_root(store, spec)?;
    let tree = tree::acquire(store, &root, &mut worker, control)?;
    let place = Place::with(store.temp_dir("shell")?, kept)?;
    let exit = prepare(store, spec, &root, &tree, &place, &mut worker)
        .and_then(|(plan, _)| converse(&plan, streams, control));
    let removed = worker.remove_tree(&place.overlay);
    let exit = exit?;
    removed?;
    Ok(exit)
}

/// The private directories of one step.
struct Place {
    dir: TempDir,
    overlay: PathBuf,
    /// What a failed run has left, in place of own directories for what is written.
    kept: Option<PathBuf>,
}

impl Place {
    fn new(dir: TempDir) -> Result<Self, SandboxError> {
        Self::with(dir, None)
    }

    fn with(dir: TempDir, kept: Option<&Path>) -> Result<Self, SandboxError> {
        let overlay = dir.path().join("overlay");
        let place = Self {
            dir,
            overlay,
            kept: kept.map(Path::to_owned),
        };
        let mut own = vec![
            place.overlay.clone(),
            place.stubs(),
            place.layer(),
            place.work(),
        ];
        if kept.is_none() {
            own.extend([place.upper(), place.private()]);
        }
        for path in own {
            fs::create_dir(&path)
                .map_err(|e| SandboxError::io(format!("create {}", path.display()), e))?;
        }
        Ok(place)
    }

    /// Where what is written goes.
    fn written(&self) -> &Path {
        self.kept.as_deref().unwrap_or(&self.overlay)
    }

    /// Moves what the step has written to a lasting place. The files keep their owners in the namespace of steps.
    fn keep(&self, to: &Path, worker: &mut Worker) -> Result<(), SandboxError> {
        for path in [self.stubs(), self.layer(), self.work()] {
            worker.remove_tree(&path)?;
        }
        fs::rename(&self.overlay, to)
            .map_err(|e| SandboxError::io(format!("move it to {}", to.display()), e))
    }

    fn stubs(&self) -> PathBuf {
        self.overlay.join("stubs")
    }

    fn layer(&self) -> PathBuf {
        self.overlay.join("layer")
    }

    fn upper(&self) -> PathBuf {
        self.written().join("upper")
    }

    fn work(&self) -> PathBuf {
        self.overlay.join("work")
    }

    /// What the step sees as [`STEP_DIR`].
    fn private(&self) -> PathBuf {
        self.written().join("private")
    }
}

/// Makes what the sandbox of a step needs, and plans it; also what lies below the root.
fn prepare(
    store: &Store,
    spec: &StepSpec,
    root: &Blake3,
    tree: &WorkTree,
    place: &Place,
    worker: &mut Worker,
) -> Result<(Spec, Below), SandboxError> {
    let root = RootTree::load(store, root)?;
    let points = spec.mount_points()?;
    for (point, _) in &points {
        place_of(&root, Path::new(OsStr::from_bytes(point)), &[])?;
    }
    worker.ask(&Op::Stubs {
        tree: tree.path(),
        stubs: place.stubs(),
        upper: place.upper(),
        points,
        epoch: spec.epoch,
    })?;
    // A tree may be made by any user of the step; a step that changes the root has nothing to put there.
    let mode = if spec.output == StepOutput::Rootfs {
        0o755
    } else {
        0o1777
    };
    fs::set_permissions(place.private(), fs::Permissions::from_mode(mode))
        .map_err(|e| SandboxError::io("set up the directory of the output", e))?;
    let mut lower = vec![place.stubs(), tree.path()];
    let mut below = Below::default();
    if !spec.layers.is_empty() || !spec.copies.is_empty() {
        let places = Places {
            below: &place.layer(),
            above: &place.stubs(),
            root: &root,
        };
        below = layer::fill(worker, &places, spec)?;
        lower.push(place.layer());
    }
    let shape = Shape::Step {
        lower,
        upper: place.upper(),
        work: place.work(),
        writable: vec![(PathBuf::from(STEP_DIR), place.private())],
    };
    if place.kept.is_some() {
        // It is written again, in the sandbox, and in nobody's place.
        let script = place.private().join("script");
        worker.remove_tree(&script)?;
    }
    Ok((spec.lower_to(shape, place.dir.path()), below))
}

#[allow(
    clippy::too_many_arguments,
    reason = "the parts of one step, used once"
)]
fn in_tree(
    store: &Store,
    spec: &StepSpec,
    root: &Blake3,
    tree: &WorkTree,
    place: &Place,
    worker: &mut Worker,
    log: &mut dyn FnMut(&[u8]),
    control: &Control,
) -> Result<StepOutcome, SandboxError> {
    let since = clock_secs();
    let (plan, below) = prepare(store, spec, root, tree, place, worker)?;
    let outcome = run(&plan, log, control)?;
    let mut result = StepOutcome {
        exit: outcome.exit,
        log_bytes: outcome.log_bytes,
        root: None,
        notes: Vec::new(),
        kept: None,
        watched: outcome.watched,
    };
    if !outcome.exit.success() {
        if let Some(to) = &spec.keep_failed
            && outcome.exit != Exit::Cancelled
        {
            match place.keep(to, worker) {
                Ok(()) => result.kept = Some(to.clone()),
                Err(e) => result
                    .notes
                    .push(format!("what it wrote could not be kept: {e}")),
            }
        }
        return Ok(result);
    }
    match &spec.output {
        StepOutput::Rootfs => {
            // The kernel stamps files with a clock that may lag a little, so the second before counts, too.
            let times = Times {
                epoch: spec.epoch,
                run: since.saturating_sub(1)..=clock_secs(),
                all: spec.timeless,
            };
            let (root, notes) = capture::apply(store, root, worker, &place.upper(), &below, times)?;
            result.root = Some(root);
            result.notes = notes;
        }
        StepOutput::Tree(to) => {
            let made = place.private().join("out");
            if fs::symlink_metadata(&made).is_ok() {
                worker.ask(&Op::Own { path: made.clone() })?;
                fs::rename(&made, to).map_err(|e| {
                    SandboxError::io(format!("move the output to {}", to.display()), e)
                })?;
            }
        }
    }
    Ok(result)
}
