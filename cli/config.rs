//! Configuration: flag, environment, project file, user file, system file, default — in this order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sos_builders::mirrors;
use sos_builders::registry::PlainHttp;
use sos_formats::diagnostic::{Class, Diagnostic, SourceFile, suggest};

use crate::args::Global;
use crate::environment::Environment;
use crate::render::size;

/// The keys of `sos.toml` and `config.toml`, for suggestions.
const KEYS: &[&str] = &[
    "store.dir",
    "store.logical-dir",
    "build.jobs",
    "build.cores",
    "build.timeout",
    "build.silent-timeout",
    "build.keep-failed-states",
    "build.max-log-size",
    "build.system-features",
    "build.memory-max",
    "build.pids-max",
    "build.sandbox-paths",
    "build.system",
    "eval.cache",
    "mirrors",
    "registry.plain-http",
    "substituters",
    "trusted-keys",
    "progress",
    "color",
];

/// States of failed builds that are kept when nothing else is said.
const KEEP_FAILED_STATES: usize = 3;
/// What `progress` may be.
const PROGRESS: &[&str] = &["auto", "tty", "plain", "json", "none"];
/// What `color` may be.
const COLOR: &[&str] = &["auto", "always", "never"];

/// Merged configuration.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Physical store.
    pub(crate) store_dir: PathBuf,
    /// Store directory that builds see.
    pub(crate) logical_dir: String,
    /// Builds at once.
    pub(crate) jobs: usize,
    /// Cores that one build may use.
    pub(crate) cores: usize,
    /// Seconds that one build may take.
    pub(crate) timeout_secs: Option<u64>,
    /// Seconds that one build may be silent.
    pub(crate) silent_timeout_secs: Option<u64>,
    /// Builds that failed last and whose state is kept for `sos shell --at-failure`.
    pub(crate) keep_failed_states: usize,
    /// Bytes of log that one build may write.
    pub(crate) max_log_bytes: Option<u64>,
    /// What derivations may ask of this machine, if that is not to be found out.
    pub(crate) system_features: Option<Vec<String>>,
    /// Bytes of memory that one build may have.
    pub(crate) memory_max_bytes: Option<u64>,
    /// Processes that one build may have.
    pub(crate) pids_max: Option<u64>,
    /// Host paths that builds of the Nix shape see: inside, outside.
    pub(crate) sandbox_paths: Vec<(PathBuf, PathBuf)>,
    /// What this machine builds, `x86_64-linux`.
    pub(crate) system: String,
    /// Evaluations are answered from the cache when nothing has changed.
    pub(crate) eval_cache: bool,
    /// Mirrors by name, most wanted first.
    pub(crate) mirrors: BTreeMap<String, Vec<String>>,
    /// Registries with which plain http is spoken, besides those of this machine.
    pub(crate) plain_http: PlainHttp,
    /// Binary caches that are asked before something is built, most wanted first.
    pub(crate) substituters: Vec<String>,
    /// Public keys whose signatures are believed.
    pub(crate) trusted_keys: Vec<String>,
    /// Progress display when no flag says otherwise.
    pub(crate) progress: Option<String>,
    /// Colour when no flag says otherwise.
    pub(crate) color: Option<String>,
    /// Where each value came from, for `sos doctor`.
    pub(crate) origins: BTreeMap<&'static str, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    store: Option<StoreSection>,
    build: Option<BuildSection>,
    eval: Option<EvalSection>,
    mirrors: Option<BTreeMap<String, OneOrMany>>,
    registry: Option<RegistrySection>,
    substituters: Option<OneOrMany>,
    trusted_keys: Option<OneOrMany>,
    progress: Option<String>,
    color: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct StoreSection {
    dir: Option<PathBuf>,
    logical_dir: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct BuildSection {
    jobs: Option<usize>,
    cores: Option<usize>,
    timeout: Option<u64>,
    silent_timeout: Option<u64>,
    keep_failed_states: Option<usize>,
    max_log_size: Option<Size>,
    system_features: Option<Vec<String>>,
    memory_max: Option<Size>,
    pids_max: Option<u64>,
    sandbox_paths: Option<Vec<String>>,
    system: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct EvalSection {
    cache: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RegistrySection {
    plain_http: Option<OneOrMany>,
}

/// Bytes, as a number or with a unit: `4G`.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Size {
    Bytes(u64),
    Text(String),
}

impl Size {
    /// The bytes; `setting` is what has them.
    fn bytes(&self, setting: &str) -> Result<u64, Box<Diagnostic>> {
        match self {
            Self::Bytes(bytes) => Ok(*bytes),
            Self::Text(text) => size::parse(text).map_err(|_why| {
                invalid(format!(
                    "`{setting}` is `{text}`, not a number of bytes such as `2000000000`, `1.5M` or `4G`"
                ))
            }),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl From<OneOrMany> for Vec<String> {
    fn from(list: OneOrMany) -> Self {
        match list {
            // A text is a list, too: in `--config KEY=TEXT` there is no other.
            OneOrMany::One(text) => mirrors::each(&text).map(str::to_owned).collect(),
            OneOrMany::Many(many) => many,
        }
    }
}

impl Config {
    /// Merges all sources for a project in `project`.
    ///
    /// # Errors
    /// `config-invalid` for a file or `--config` value that does not parse, `store-no-home` when no place for the store is known.
    pub(crate) fn load(
        global: &Global,
        env: &Environment,
        project: &Path,
    ) -> Result<Self, Box<Diagnostic>> {
        let mut config = Self::defaults(env)?;
        let user = env
            .config_home
            .clone()
            .or_else(|| env.home.as_ref().map(|h| h.join(".config")))
            .map(|d| d.join("sos/config.toml"));
        let project_file = project
            .ancestors()
            .map(|d| d.join("sos.toml"))
            .find(|f| f.is_file());
        let files = [
            Some(PathBuf::from("/etc/sos/config.toml")),
            user,
            project_file.clone(),
        ];
        for path in files.into_iter().flatten() {
            match std::fs::read_to_string(&path) {
                Ok(text) => {
                    let file = parse(&path.display().to_string(), text)?;
                    if Some(&path) == project_file.as_ref() {
                        check_project(&path, &file)?;
                    }
                    config.apply(file, &path.display().to_string(), path.parent())?;
                }
                Err(e)
                    if matches!(
                        e.kind(),
                        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                    ) => {}
                Err(e) => return Err(invalid(format!("cannot read `{}`: {e}", path.display()))),
            }
        }
        if let Some(jobs) = &env.jobs {
            config.jobs =
                jobs.parse().ok().filter(|n| *n > 0).ok_or_else(|| {
                    invalid(format!("SOS_JOBS is `{jobs}`, not a number above 0"))
                })?;
            config.origin("build.jobs", "SOS_JOBS");
        }
        if let Some(store) = &env.store {
            config.store_dir.clone_from(store);
            config.origin("store.dir", "SOS_STORE");
        }
        if let Some(progress) = &env.progress {
            one_of("SOS_PROGRESS", progress, PROGRESS)?;
            config.progress = Some(progress.clone());
            config.origin("progress", "SOS_PROGRESS");
        }
        if let Some(hosts) = &env.plain_http {
            config.plain_http = plain_http("SOS_PLAIN_HTTP_REGISTRIES", hosts)?;
            config.origin("registry.plain-http", "SOS_PLAIN_HTTP_REGISTRIES");
        }
        for setting in &global.config {
            config.apply_setting(setting)?;
        }
        if let Some(store) = &global.store {
            config.store_dir.clone_from(store);
            config.origin("store.dir", "--store");
        }
        config.store_dir = std::path::absolute(&config.store_dir).unwrap_or(config.store_dir);
        Ok(config)
    }

    fn defaults(env: &Environment) -> Result<Self, Box<Diagnostic>> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        let data = env
            .data_home
            .clone()
            .or_else(|| env.home.as_ref().map(|h| h.join(".local/share")));
        let store_dir = match (data, &env.store) {
            (Some(d), _) => d.join("sos"),
            (None, Some(s)) => s.clone(),
            (None, None) => {
                return Err(Box::new(
                    Diagnostic::error(
                        "store-no-home",
                        Class::Machine,
                        "there is no place for the store: HOME is not set",
                    )
                    .help("set SOS_STORE, or pass `--store DIR`"),
                ));
            }
        };
        Ok(Self {
            store_dir,
            logical_dir: "/nix/store".to_owned(),
            jobs: cores,
            cores,
            timeout_secs: None,
            silent_timeout_secs: None,
            keep_failed_states: KEEP_FAILED_STATES,
            max_log_bytes: None,
            system_features: None,
            memory_max_bytes: None,
            pids_max: None,
            sandbox_paths: Vec::new(),
            system: format!("{}-linux", std::env::consts::ARCH),
            eval_cache: true,
            mirrors: BTreeMap::new(),
            plain_http: PlainHttp::default(),
            substituters: Vec::new(),
            trusted_keys: Vec::new(),
            progress: None,
            color: None,
            origins: BTreeMap::new(),
        })
    }

    fn origin(&mut self, key: &'static str, from: &str) {
        self.origins.insert(key, from.to_owned());
    }

    fn apply(
        &mut self,
        file: File,
        from: &str,
        base: Option<&Path>,
    ) -> Result<(), Box<Diagnostic>> {
        if let Some(store) = file.store {
            if let Some(dir) = store.dir {
                self.store_dir = base.map_or(dir.clone(), |b| b.join(dir));
                self.origin("store.dir", from);
            }
            if let Some(dir) = store.logical_dir {
                self.logical_dir = dir;
                self.origin("store.logical-dir", from);
            }
        }
        if let Some(build) = file.build {
            if let Some(jobs) = build.jobs {
                self.jobs = jobs.max(1);
                self.origin("build.jobs", from);
            }
            if let Some(cores) = build.cores {
                self.cores = cores.max(1);
                self.origin("build.cores", from);
            }
            if let Some(secs) = build.timeout {
                self.timeout_secs = Some(secs);
                self.origin("build.timeout", from);
            }
            if let Some(secs) = build.silent_timeout {
                self.silent_timeout_secs = Some(secs);
                self.origin("build.silent-timeout", from);
            }
            if let Some(states) = build.keep_failed_states {
                self.keep_failed_states = states;
                self.origin("build.keep-failed-states", from);
            }
            if let Some(size) = build.max_log_size {
                self.max_log_bytes = Some(size.bytes("build.max-log-size")?);
                self.origin("build.max-log-size", from);
            }
            if let Some(features) = build.system_features {
                self.system_features = Some(features);
                self.origin("build.system-features", from);
            }
            if let Some(size) = build.memory_max {
                self.memory_max_bytes = Some(size.bytes("build.memory-max")?);
                self.origin("build.memory-max", from);
            }
            if let Some(count) = build.pids_max {
                self.pids_max = Some(count);
                self.origin("build.pids-max", from);
            }
            if let Some(paths) = build.sandbox_paths {
                self.sandbox_paths = paths
                    .iter()
                    .map(|p| sandbox_path(p))
                    .collect::<Result<_, _>>()?;
                self.origin("build.sandbox-paths", from);
            }
            if let Some(system) = build.system {
                self.system = system;
                self.origin("build.system", from);
            }
        }
        if let Some(cache) = file.eval.and_then(|eval| eval.cache) {
            self.eval_cache = cache;
            self.origin("eval.cache", from);
        }
        for (name, urls) in file.mirrors.unwrap_or_default() {
            // As in a variable of the environment: no address of a mirror has a blank or a comma in it.
            let urls = Vec::<String>::from(urls);
            let urls = urls.iter().flat_map(|urls| mirrors::each(urls));
            self.mirrors.insert(name, urls.map(str::to_owned).collect());
            self.origin("mirrors", from);
        }
        if let Some(hosts) = file.registry.and_then(|registry| registry.plain_http) {
            self.plain_http = plain_http("registry.plain-http", &Vec::from(hosts))?;
            self.origin("registry.plain-http", from);
        }
        if let Some(urls) = file.substituters {
            self.substituters = urls.into();
            self.origin("substituters", from);
        }
        if let Some(keys) = file.trusted_keys {
            self.trusted_keys = keys.into();
            self.origin("trusted-keys", from);
        }
        if let Some(progress) = file.progress {
            one_of("progress", &progress, PROGRESS)?;
            self.progress = Some(progress);
            self.origin("progress", from);
        }
        if let Some(color) = file.color {
            one_of("color", &color, COLOR)?;
            self.color = Some(color);
            self.origin("color", from);
        }
        Ok(())
    }

    /// Applies one `KEY=VALUE` of `--config`.
    fn apply_setting(&mut self, setting: &str) -> Result<(), Box<Diagnostic>> {
        let Some((key, value)) = setting.split_once('=') else {
            return Err(invalid(format!("`--config {setting}` has no `=`")));
        };
        let key = key.trim();
        if !KEYS.contains(&key) && !key.starts_with("mirrors.") {
            let mut d = *invalid(format!("unknown configuration key `{key}`"));
            // `jobs` means `build.jobs`: the section is what people leave out.
            let last = |k: &'static str| k.rsplit('.').next().unwrap_or(k);
            let near = suggest(key, KEYS.iter().copied());
            let by_last = suggest(key, KEYS.iter().map(|k| last(k)));
            for known in KEYS {
                if near.iter().any(|n| n == known) || by_last.iter().any(|n| n == last(known)) {
                    d = d.help(format!("a similar key exists: `{known}`"));
                }
            }
            return Err(Box::new(d));
        }
        // A value that is no TOML by itself is a string: `--config build.system=x86_64-linux`.
        let text = format!("{key} = {value}\n");
        let text = if toml::from_str::<toml::Table>(&text).is_ok() {
            text
        } else {
            format!("{key} = {}\n", toml::Value::String(value.to_owned()))
        };
        let file = parse("--config", text)?;
        self.apply(file, "--config", None)
    }
}

/// Parses `INSIDE[=OUTSIDE]`; one path stands for both.
///
/// # Errors
/// `config-invalid` when a path is not absolute.
pub(crate) fn sandbox_path(text: &str) -> Result<(PathBuf, PathBuf), Box<Diagnostic>> {
    let (inside, outside) = text.split_once('=').unwrap_or((text, text));
    if !inside.starts_with('/') || !outside.starts_with('/') {
        return Err(Box::new(
            Diagnostic::error(
                "config-invalid",
                Class::Usage,
                format!("sandbox path `{text}` is not absolute"),
            )
            .help("write `/path` or `/inside=/outside`"),
        ));
    }
    Ok((inside.into(), outside.into()))
}

/// Reads the registries that `setting` names.
fn plain_http(setting: &str, hosts: &[String]) -> Result<PlainHttp, Box<Diagnostic>> {
    PlainHttp::new(hosts).map_err(|bad| {
        let message = format!("`{setting}` has `{bad}`, which is not `HOST` or `HOST:PORT`");
        Box::new(invalid(message).help("write it as in `registry.example:5000`"))
    })
}

/// Refuses what a project may not decide for the person who builds it: a file of somebody else's in a parent directory, and keys
/// that show parts of this machine to builds, move the store, let others listen, or tell whom to believe.
fn check_project(path: &Path, file: &File) -> Result<(), Box<Diagnostic>> {
    use std::os::unix::fs::MetadataExt as _;
    let owner = std::fs::metadata(path).map_or(u32::MAX, |m| m.uid());
    let me = rustix::process::geteuid().as_raw();
    if owner != me && owner != 0 {
        return Err(Box::new(
            (*invalid(format!(
                "`{}` belongs to another user (id {owner}) and is not read",
                path.display()
            )))
            .help("remove it, take it over with `chown`, or build elsewhere"),
        ));
    }
    let forbidden = [
        (
            "store.dir",
            file.store.as_ref().is_some_and(|s| s.dir.is_some()),
        ),
        (
            "store.logical-dir",
            file.store.as_ref().is_some_and(|s| s.logical_dir.is_some()),
        ),
        (
            "build.sandbox-paths",
            file.build
                .as_ref()
                .is_some_and(|b| b.sandbox_paths.is_some()),
        ),
        (
            "registry.plain-http",
            file.registry
                .as_ref()
                .is_some_and(|r| r.plain_http.is_some()),
        ),
        ("trusted-keys", file.trusted_keys.is_some()),
    ];
    match forbidden.iter().find(|(_, set)| *set) {
        None => Ok(()),
        Some((key, _)) => Err(Box::new(
            (*invalid(format!(
                "`{}` sets `{key}`, which a project may not decide",
                path.display()
            )))
            .help(format!(
                "set it in `~/.config/sos/config.toml`, or pass `--config {key}=...`"
            )),
        )),
    }
}

fn parse(name: &str, text: String) -> Result<File, Box<Diagnostic>> {
    toml::from_str(&text).map_err(|e| {
        // Serde knows types of Rust, which are none of the reader's business.
        let message = e.message().lines().next().unwrap_or_default();
        let message = message
            .replace("expected usize", "expected a whole number")
            .replace("expected u64", "expected a whole number")
            .replace("expected path string", "expected a path");
        let mut d = Diagnostic::error("config-invalid", Class::Usage, message);
        if let Some(span) = e.span() {
            d = d.label(&SourceFile::new(name, text), span, "");
        }
        Box::new(d)
    })
}

/// Refuses a value that is none of the known ones.
fn one_of(key: &str, value: &str, known: &[&str]) -> Result<(), Box<Diagnostic>> {
    if known.contains(&value) {
        return Ok(());
    }
    let d = *invalid(format!(
        "`{key}` is `{value}`, expected one of {}",
        known.join(", ")
    ));
    Err(Box::new(d.suggest(value, known.iter().copied())))
}

fn invalid(message: String) -> Box<Diagnostic> {
    Box::new(Diagnostic::error("config-invalid", Class::Usage, message))
}
