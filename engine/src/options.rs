//! How the engine may use the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use crate::features;
use crate::watched::Whose;
use sos_formats::store_path::StorePath;

/// Settings of one engine. None of them may change what is built, only whether, how fast and with what limits.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// Builds at once.
    pub jobs: usize,
    /// Cores that one build is told to use.
    pub cores: usize,
    /// Fetches at once.
    pub io_jobs: usize,
    /// After a failure, go on with what does not depend on it.
    pub keep_going: bool,
    /// Build what is wanted even if it is there; what that is made from is built only if it is missing.
    pub rebuild: bool,
    /// Keep what a failed build has left until the next garbage collection, and say where.
    pub keep_failed: bool,
    /// Watch every step that says what to watch, and warn of what it looks for in vain: it is slower.
    pub watch_steps: bool,
    /// Says whose the files are that a step looked for in vain; without it all of them are told.
    pub whose: Option<Whose>,
    /// Builds that failed last and whose state is kept for a shell.
    pub keep_failed_states: usize,
    /// Seconds that one build may take.
    pub timeout_secs: Option<u64>,
    /// Seconds that one build may be silent.
    pub silent_timeout_secs: Option<u64>,
    /// Bytes of log that one build may write.
    pub max_log_bytes: Option<u64>,
    /// Bytes of memory that one build may have.
    pub memory_max_bytes: Option<u64>,
    /// Processes and threads that one build may have.
    pub processes_max: Option<u64>,
    /// Paths of the machine shown to sandboxed builds: (inside, outside).
    pub sandbox_paths: Vec<(PathBuf, PathBuf)>,
    /// Builders may not use the network.
    pub offline: bool,
    /// The system that builds here, `x86_64-linux`.
    pub system: String,
    /// Other systems whose programs run here.
    pub extra_platforms: Vec<String>,
    /// What derivations may ask of a machine with `requiredSystemFeatures`.
    pub system_features: BTreeSet<String>,
    /// The `sos` program, which is its own sandbox child.
    pub sos_exe: PathBuf,
    /// What the run has taken before the engine is asked, for evaluation: the summary tells the time of all of it.
    pub spent: Duration,
    /// What the user asked for, as the journal shows it.
    pub command: String,
    /// Which project the build is for: the cause of a build is told by what the same project built before.
    pub project: String,
    /// The attribute paths by which the user asked for derivations.
    pub attrs: BTreeMap<StorePath, String>,
    /// The name of the machine, for the journal only.
    pub host: String,
    /// Environment that `impureEnvVars` of fixed-output derivations may copy.
    pub impure_env: BTreeMap<String, String>,
}

impl BuildOptions {
    /// Returns settings for one system, with one build at a time and no limits.
    #[must_use]
    pub fn new(system: &str, sos_exe: PathBuf) -> Self {
        Self {
            jobs: 1,
            cores: 1,
            io_jobs: 16,
            keep_going: false,
            rebuild: false,
            keep_failed: false,
            watch_steps: false,
            whose: None,
            keep_failed_states: 0,
            timeout_secs: None,
            silent_timeout_secs: None,
            max_log_bytes: None,
            memory_max_bytes: None,
            processes_max: None,
            sandbox_paths: Vec::new(),
            offline: false,
            system: system.to_owned(),
            extra_platforms: Vec::new(),
            system_features: features::of_this_machine(),
            sos_exe,
            spent: Duration::ZERO,
            command: String::new(),
            project: String::new(),
            attrs: BTreeMap::new(),
            host: String::new(),
            impure_env: BTreeMap::new(),
        }
    }

    /// Tells whether derivations for `system` can be built here.
    #[must_use]
    pub fn can_build(&self, system: &str) -> bool {
        system == "builtin"
            || system == self.system
            || self.extra_platforms.iter().any(|p| p == system)
    }
}
