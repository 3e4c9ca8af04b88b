//! A private world for one test: own HOME, own store, a fixed environment, the real binary.

#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod archive;
pub(crate) mod process;
pub(crate) mod server;

pub(crate) mod steps;
pub(crate) mod terminal;
pub(crate) mod tiny;
pub(crate) mod user;

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What any one run may take; a run that takes longer hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(900);

/// What one run of a program gave.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: i32,
}

impl Run {
    /// The run, after checking that it succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(
            self.code, 0,
            "exit {}\nstdout:\n{}\nstderr:\n{}",
            self.code, self.stdout, self.stderr
        );
        self
    }

    /// The run, after checking its exit code.
    #[track_caller]
    pub(crate) fn fails(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "stdout:\n{}\nstderr:\n{}",
            self.stdout, self.stderr
        );
        self
    }

    /// The run, after checking that standard error holds every one of `parts`.
    #[track_caller]
    pub(crate) fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(
                self.stderr.contains(part),
                "no `{part}` in stderr:\n{}",
                self.stderr
            );
        }
        self
    }
}

/// A temporary home with a project directory in it.
pub(crate) struct World {
    dir: tempfile::TempDir,
    environment: Vec<(String, String)>,
    program: PathBuf,
}

impl World {
    pub(crate) fn new() -> Self {
        // No capital letters: podman takes an image layout only from a directory without.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let dir = (0..1000).find_map(|_| {
            let name = format!(
                "sos-test-{}-{}",
                std::process::id(),
                NUMBER.fetch_add(1, Ordering::Relaxed)
            );
            tempfile::Builder::new()
                .prefix(&name)
                .rand_bytes(0)
                .tempdir()
                .ok()
        });
        let dir = dir.expect("a temporary directory");
        std::fs::create_dir_all(dir.path().join("home")).expect("home");
        std::fs::create_dir_all(dir.path().join("project")).expect("project");
        Self {
            dir,
            environment: Vec::new(),
            program: env!("CARGO_BIN_EXE_sos").into(),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn project(&self) -> PathBuf {
        self.dir.path().join("project")
    }

    /// The physical store of this world.
    pub(crate) fn store(&self) -> PathBuf {
        self.dir.path().join("home/.local/share/sos")
    }

    /// Sets a variable for every later run.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Runs another copy of the program from now on.
    pub(crate) fn use_program(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    /// Gives everything in this world to another user.
    pub(crate) fn hand_over(&self, user: &user::User) {
        user.owns(self.root());
    }

    /// The same, with a copy of the program that this user may run; it goes with the directory.
    #[must_use]
    pub(crate) fn with_program_for(&mut self, user: &user::User) -> tempfile::TempDir {
        let copy = tempfile::Builder::new().prefix("sos-bin-").tempdir();
        let copy = copy.expect("a directory");
        self.use_program(&user.can_run(copy.path()));
        self.hand_over(user);
        copy
    }

    /// Writes a file of the project and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.project().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        std::fs::write(&path, text).expect("a file");
        path
    }

    /// `sos` with a fixed environment, in the project directory.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path().join("home"))
            .env("LANG", "C.UTF-8")
            .env("TERM", "dumb")
            .current_dir(self.project())
            .stdin(Stdio::null());
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        command
    }

    /// The same with arguments.
    pub(crate) fn command_of(&self, args: &[&str]) -> Command {
        let mut command = self.command();
        command.args(args);
        command
    }

    /// Runs `sos` to its end.
    pub(crate) fn sos<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Run {
        run(self.command().args(args))
    }

    /// Builds with the event stream on standard output; the run must succeed.
    #[track_caller]
    pub(crate) fn events(&self, args: &[&str]) -> Events {
        let run = self
            .sos(
                ["build", "--no-link", "--progress", "json"]
                    .iter()
                    .chain(args),
            )
            .ok();
        Events(
            run.stdout
                .lines()
                .map(|l| serde_json::from_str(l).expect("a JSON object a line"))
                .collect(),
        )
    }

    /// Where a store object lies on disk.
    #[track_caller]
    pub(crate) fn physical(&self, path: &str) -> PathBuf {
        PathBuf::from(
            self.sos(["store", "info", "--physical", path])
                .ok()
                .stdout
                .trim_end(),
        )
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if is_root() {
            return;
        }
        // Trees in the store have no write permission, and root filesystems that are being built belong to subordinate ids. Where this
        // fails, what belongs to the user goes with the directory itself.
        drop(
            Command::new("unshare")
                .args(["--map-root-user", "--map-auto", "rm", "-rf"])
                .arg(self.dir.path())
                .output(),
        );
    }
}

/// A world whose builds see the machine's static busybox as `/bin/busybox`.
pub(crate) fn world_with_busybox() -> Option<World> {
    let busybox = peer("busybox")?;
    let w = World::new();
    w.write(
        "../home/.config/sos/config.toml",
        &format!(
            "[build]\nsandbox-paths = [\"/bin/busybox={}\"]\n",
            busybox.display()
        ),
    );
    Some(w)
}

/// A pipe of this world that its builds see as `/go`: a builder can wait for what is written there, so that nothing depends on time.
pub(crate) fn gate(w: &World) -> PathBuf {
    let pipe = w.project().join("go");
    run(Command::new("mkfifo").arg(&pipe)).ok();
    let config = w.root().join("home/.config/sos/config.toml");
    let text = std::fs::read_to_string(&config).expect("a configuration");
    let text = text.replace("\"]", &format!("\", \"/go={}\"]", pipe.display()));
    std::fs::write(&config, text).expect("a configuration");
    pipe
}

/// The events of one run.
#[derive(Debug)]
pub(crate) struct Events(pub(crate) Vec<serde_json::Value>);

impl Events {
    /// The names of the derivations that have an event of this type, sorted.
    pub(crate) fn names(&self, kind: &str) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .0
            .iter()
            .filter(|e| e["type"] == kind)
            .filter_map(|e| e["name"].as_str())
            .collect();
        names.sort_unstable();
        names
    }

    /// The last event.
    #[track_caller]
    pub(crate) fn summary(&self) -> &serde_json::Value {
        let last = self.0.last().expect("events");
        assert_eq!(last["type"], "summary");
        last
    }

    /// The first output of the run.
    #[track_caller]
    pub(crate) fn output(&self) -> String {
        self.summary()["outputs"][0]
            .as_str()
            .expect("an output")
            .to_owned()
    }
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Run {
    finish(start(command), LIMIT)
}

/// Starts a command with its output kept for [`finish`].
pub(crate) fn start(command: &mut Command) -> Child {
    start_to(command, Stdio::piped())
}

/// The same with a standard output of its own.
pub(crate) fn start_to(command: &mut Command, stdout: impl Into<Stdio>) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(Stdio::piped());
    command
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"))
}

/// Waits for the end of a command; one that takes longer than `limit` is killed and fails the test.
pub(crate) fn finish(child: Child, limit: Duration) -> Run {
    let pid = process::pid(&child);
    let (done, wait) = std::sync::mpsc::channel();
    let waiter = std::thread::spawn(move || done.send(child.wait_with_output()));
    let out = match wait.recv_timeout(limit) {
        Ok(out) => out.expect("the output of a child"),
        Err(_late) => {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            let shown = wait
                .recv_timeout(Duration::from_secs(5))
                .ok()
                .and_then(Result::ok);
            let shown = shown
                .map(|o| String::from_utf8_lossy(&o.stderr).into_owned())
                .unwrap_or_default();
            panic!(
                "still running after {} s; stderr so far:\n{shown}",
                limit.as_secs()
            );
        }
    };
    drop(waiter.join());
    Run {
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        code: out.status.code().unwrap_or(-1),
    }
}

/// No store object of that name is registered, the store is clean, and nothing unfinished lies about.
#[track_caller]
pub(crate) fn left_nothing(w: &World, name: &str) {
    let listed = w.sos(["store", "ls"]).ok().stdout;
    assert!(
        !listed.lines().any(|l| l.ends_with(&format!("-{name}"))),
        "{listed}"
    );
    store_is_clean(w);
}

/// `sos store check` finds nothing, and no temporary file is left.
#[track_caller]
pub(crate) fn store_is_clean(w: &World) {
    w.sos(["store", "check"]).ok();
    let tmp = w.store().join("tmp");
    let left: Vec<_> = std::fs::read_dir(&tmp)
        .map(|d| d.flatten().map(|e| e.file_name()).collect())
        .unwrap_or_default();
    assert!(left.is_empty(), "left in tmp: {left:?}");
}

/// Tests that load the machine run one after the other.
pub(crate) fn one_at_a_time() -> MutexGuard<'static, ()> {
    static HEAVY: Mutex<()> = Mutex::new(());
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What random choices start from: `SOS_TEST_SEED`, or a fixed number. Printed, so that a failure can be met again.
pub(crate) fn seed(test: &str) -> u64 {
    let seed = match std::env::var("SOS_TEST_SEED") {
        Ok(text) => text.parse().expect("SOS_TEST_SEED is a number"),
        Err(_unset) => 0x5eed,
    };
    say(&format!("{test}: SOS_TEST_SEED={seed}"));
    seed
}

/// True when the rounds that take long are asked for.
pub(crate) fn slow() -> bool {
    std::env::var_os("SOS_TEST_SLOW").is_some_and(|v| v == "1")
}

/// Looks a peer up on PATH. A missing one is a skip with a printed reason, or a failure under `SOS_REQUIRE_PEERS=1`.
pub(crate) fn peer(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|d| d.join(name))
        .find(|p| p.is_file());
    if found.is_none() {
        skip(&format!("no {name}"));
    }
    found
}

/// Says why a test is skipped; fails instead where peers are required.
pub(crate) fn skip(reason: &str) {
    assert!(
        std::env::var_os("SOS_REQUIRE_PEERS").is_none_or(|v| v != "1"),
        "SOS_REQUIRE_PEERS=1, but: {reason}"
    );
    say(&format!("skipped: {reason}"));
}

/// Prints a line that is seen also when the test passes: the test runner keeps what `eprintln!` prints of those to itself.
pub(crate) fn say(line: &str) {
    let _closed = writeln!(std::io::stderr().lock(), "{line}");
}

/// Says what an ordinary user cannot try; root does, so this is no failure where peers are required.
pub(crate) fn left_to_root(what: &str) {
    say(&format!("skipped for an ordinary user: {what}"));
}

/// The folder of independent checkers beside the checkout, when there is one.
pub(crate) fn shared(file: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../shared")
        .join(file);
    if path.is_file() {
        return Some(path);
    }
    say(&format!("skipped: no ../shared/{file}"));
    None
}

/// True when this process is root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
