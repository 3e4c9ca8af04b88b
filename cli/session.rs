//! What every verb starts from: options, environment, configuration, terminal, and the store once it is asked for.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use sos_builders::mirrors::Mirrors;
use sos_builders::registry::{Access, AuthFiles};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StoreDir;
use sos_store::{OpenOptions, Store};

use crate::args::Global;
use crate::config::Config;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::render::diagnostic::Style;
use crate::render::terminal::Terminal;

/// One run of the program; clones share it.
#[derive(Clone)]
pub(crate) struct Session(Arc<State>);

/// What a session holds.
pub(crate) struct State {
    pub(crate) global: Global,
    pub(crate) env: Environment,
    pub(crate) config: Config,
    pub(crate) terminal: Terminal,
    store: OnceLock<Store>,
}

impl Session {
    /// Reads the configuration; nothing is opened yet.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub(crate) fn new(global: Global, env: Environment) -> Result<Self, Failure> {
        let project = std::env::current_dir()
            .map_err(|e| Failure::io("cannot tell the current directory", &e))?;
        let config = Config::load(&global, &env, &project)?;
        let terminal = Terminal::decide(&global, Some(&config), &env);
        Ok(Self(Arc::new(State {
            global,
            env,
            config,
            terminal,
            store: OnceLock::new(),
        })))
    }

    /// How diagnostics look.
    pub(crate) fn style(&self) -> Style {
        Style {
            color: self.terminal.color,
            show_trace: self.global.show_trace,
        }
    }

    /// The store directory that builds and recipes see.
    ///
    /// # Errors
    /// `config-invalid` when the configured one is not an absolute path.
    pub(crate) fn store_dir(&self) -> Result<StoreDir, Failure> {
        StoreDir::new(&self.config.logical_dir).map_err(|e| {
            Failure::new(
                Diagnostic::error(
                    "config-invalid",
                    Class::Usage,
                    format!("`store.logical-dir` is `{}`: {e}", self.config.logical_dir),
                )
                .help("it is an absolute path such as `/nix/store`"),
            )
        })
    }

    /// The store, opened for writing at the first call.
    ///
    /// # Errors
    /// Whatever opening it says.
    pub(crate) fn store(&self) -> Result<&Store, Failure> {
        if let Some(store) = self.store.get() {
            return Ok(store);
        }
        let store = Store::open(OpenOptions {
            root: self.config.store_dir.clone(),
            store_dir: self.store_dir()?,
            read_only: false,
        })?;
        store.set_remover(Arc::new(sos_engine::sandbox::NamespaceRemover::default()));
        Ok(self.store.get_or_init(|| store))
    }

    /// The mirrors: environment before configuration before the machine's own package sources.
    pub(crate) fn mirrors(&self) -> Mirrors {
        Mirrors::new(&self.config.mirrors, &self.env.mirrors, Path::new("/"))
    }

    /// How registries are spoken with: the files that hold credentials, and who is asked in clear text.
    pub(crate) fn registries(&self) -> Access {
        Access {
            auth: AuthFiles::new(self.env.auth_files.clone()),
            plain_http: self.config.plain_http.clone(),
        }
    }

    /// The program itself, which is its own sandbox child. Through `/proc`, so that replacing or removing the file while a build
    /// runs changes nothing: the child that is about to execute it is still this program.
    pub(crate) fn exe() -> PathBuf {
        PathBuf::from("/proc/self/exe")
    }
}

impl Deref for Session {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

impl From<sos_store::StoreError> for Failure {
    fn from(error: sos_store::StoreError) -> Self {
        Self::new(Diagnostic::from(error))
    }
}
