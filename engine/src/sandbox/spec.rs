//! The plan of one sandboxed run: plain data that crosses to the helper process.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::bytes;
use super::vary::Vary;

/// The user id that a build in the Nix shape sees as its own.
pub const NIX_UID: u32 = 1000;
/// The group id that a build in the Nix shape sees as its own.
pub const NIX_GID: u32 = 100;

/// Where the build directory is, as a build in the Nix shape sees it.
pub const BUILD_DIR: &str = "/build";

/// Everything the helper must know to run one program in a sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// What the root directory is made of.
    pub shape: Shape,
    /// Private existing directory on the filesystem of the store; the sandbox puts its mount point `root` in it.
    pub scratch: PathBuf,
    /// The program, as a path inside the sandbox.
    #[serde(with = "bytes")]
    pub program: Vec<u8>,
    /// The arguments, beginning with `argv[0]`.
    #[serde(with = "bytes::list")]
    pub argv: Vec<Vec<u8>>,
    /// The whole environment; later entries of one name win.
    #[serde(with = "bytes::pairs")]
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// The working directory inside the sandbox.
    pub cwd: PathBuf,
    /// User id that the program runs as.
    pub uid: u32,
    /// Group id that the program runs as.
    pub gid: u32,
    /// Host name that the program sees.
    pub hostname: String,
    /// Keep the network of the machine (only for outputs whose hash is fixed).
    pub network: bool,
    /// Behave as a 32-bit machine.
    pub linux32: bool,
    /// Host paths to show.
    pub binds: Vec<Bind>,
    /// Small files to write in the root (Nix shape) or in the private `/run/sos` (step shape).
    pub files: Vec<InlineFile>,
    /// Directories to cover with a fresh memory filesystem.
    pub tmpfs: Vec<PathBuf>,
    /// Host device nodes to show besides the usual ones, for example `/dev/kvm`.
    pub devices: Vec<PathBuf>,
    /// Resource limits, off by default.
    pub limits: Limits,
    /// What is different from other runs, to see what depends on it.
    pub vary: Vary,
    /// Directories, inside, below which every name is reported that the program looks for in vain. It makes the run slower.
    pub watch: Vec<PathBuf>,
}

/// What the root directory of a run is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Shape {
    /// An empty root with a store directory; outputs are written in the store directory.
    Nix {
        /// The logical store directory, `/nix/store`.
        store_dir: PathBuf,
        /// Physical private directory that becomes the store directory; outputs appear in it by base name.
        outputs: PathBuf,
        /// The closure of the inputs.
        inputs: Vec<Input>,
        /// Physical private directory that becomes the working directory.
        build_dir: PathBuf,
    },
    /// A root filesystem under an overlay; what changes lands in `upper`.
    Step {
        /// Lower layers, topmost first.
        lower: Vec<PathBuf>,
        /// The directory that receives the changes.
        upper: PathBuf,
        /// Scratch directory of the overlay, on the filesystem of `upper`.
        work: PathBuf,
        /// Directories that the step may write and that are no part of the root: (inside, physical).
        writable: Vec<(PathBuf, PathBuf)>,
    },
}

/// One store object in the closure of a build in the Nix shape.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Input {
    /// The name in the store directory, `<hash>-<name>`.
    pub base: String,
    /// Where its bytes really are.
    pub physical: PathBuf,
}

/// One path of the machine that is shown inside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bind {
    /// Absolute path inside.
    pub inside: PathBuf,
    /// Path on the machine.
    pub outside: PathBuf,
    /// The program may write there.
    pub writable: bool,
    /// A missing `outside`, or a mount point that leads nowhere, is no error.
    pub optional: bool,
}

impl Bind {
    /// Shows `outside` at `inside`, read-only and required.
    #[must_use]
    pub fn read_only(inside: &Path, outside: &Path) -> Self {
        Self {
            inside: inside.to_owned(),
            outside: outside.to_owned(),
            writable: false,
            optional: false,
        }
    }
}

/// A small file written before the program starts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InlineFile {
    /// Absolute path inside.
    pub path: PathBuf,
    /// Its content.
    #[serde(with = "bytes")]
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// Resource limits of a run; `None` leaves the limit of the caller. Where no control group can be had, they are those of
/// each process.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory; without a control group, of address space.
    pub memory_bytes: Option<u64>,
    /// Processes and threads; without a control group, those that the user has at all.
    pub processes: Option<u64>,
    /// Bytes of one file.
    pub file_size_bytes: Option<u64>,
}

impl Spec {
    /// Plans a build in the Nix shape: `/etc` files, ids and directories as Nix has them; the caller adds program, argv, env and binds.
    /// `inside` is what the build calls its directory: [`BUILD_DIR`] in every build that counts.
    #[must_use]
    pub fn nix(
        scratch: &Path,
        store_dir: &Path,
        outputs: &Path,
        build_dir: &Path,
        inside: &str,
        inputs: Vec<Input>,
    ) -> Self {
        let file = |path: &str, content: String| InlineFile {
            path: PathBuf::from(path),
            content: content.into_bytes(),
            mode: 0o444,
        };
        Self {
            shape: Shape::Nix {
                store_dir: store_dir.to_owned(),
                outputs: outputs.to_owned(),
                inputs,
                build_dir: build_dir.to_owned(),
            },
            scratch: scratch.to_owned(),
            program: Vec::new(),
            argv: Vec::new(),
            env: Vec::new(),
            cwd: PathBuf::from(inside),
            uid: NIX_UID,
            gid: NIX_GID,
            hostname: "localhost".to_owned(),
            network: false,
            linux32: false,
            binds: Vec::new(),
            files: vec![
                file(
                    "/etc/passwd",
                    format!(
                        "root:x:0:0:Nix build user:{inside}:/noshell\nnixbld:x:{NIX_UID}:{NIX_GID}:Nix build user:{inside}:/noshell\nnobody:x:65534:65534:Nobody:/:/noshell\n"
                    ),
                ),
                file(
                    "/etc/group",
                    format!("root:x:0:\nnixbld:!:{NIX_GID}:\nnogroup:x:65534:\n"),
                ),
                file(
                    "/etc/hosts",
                    "127.0.0.1 localhost\n::1 localhost\n".to_owned(),
                ),
            ],
            tmpfs: vec![PathBuf::from("/tmp")],
            devices: Vec::new(),
            limits: Limits::default(),
            vary: Vary::default(),
            watch: Vec::new(),
        }
    }

    /// Keeps the network of the machine and shows what name resolution and TLS need, as Nix does for fixed outputs.
    pub fn allow_network(&mut self) {
        self.network = true;
        self.files.retain(|f| f.path != Path::new("/etc/hosts"));
        self.files.push(InlineFile {
            path: PathBuf::from("/etc/nsswitch.conf"),
            content: b"hosts: files dns\nservices: files\n".to_vec(),
            mode: 0o444,
        });
        for path in [
            "/etc/resolv.conf",
            "/etc/services",
            "/etc/hosts",
            "/etc/ssl/certs/ca-certificates.crt",
        ] {
            self.binds.push(Bind {
                optional: true,
                ..Bind::read_only(Path::new(path), Path::new(path))
            });
        }
    }

    /// Appends one variable to the environment.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.env.push((name.into(), value.into()));
    }
}

/// Returns the variables that Nix sets before those of the derivation, which may say otherwise.
#[must_use]
pub fn nix_base_env(store_dir: &str, cores: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let cores = cores.to_string();
    variables(&[
        ("PATH", "/path-not-set"),
        ("HOME", "/homeless-shelter"),
        ("NIX_STORE", store_dir),
        ("NIX_BUILD_CORES", &cores),
    ])
}

/// Returns the variables that name the build directory, whatever the derivation says.
#[must_use]
pub fn nix_directories(inside: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    ["NIX_BUILD_TOP", "TMPDIR", "TEMPDIR", "TMP", "TEMP", "PWD"]
        .iter()
        .flat_map(|name| variables(&[(*name, inside)]))
        .collect()
}

/// Returns the variables about the log, whatever the derivation says.
#[must_use]
pub fn nix_terminal() -> Vec<(Vec<u8>, Vec<u8>)> {
    variables(&[("NIX_LOG_FD", "2"), ("TERM", "xterm-256color")])
}

fn variables(list: &[(&str, &str)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    list.iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect()
}
