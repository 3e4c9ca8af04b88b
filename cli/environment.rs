//! The one place where the process environment is read.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// What sos takes from the environment, read once at start.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    /// Home directory; absent for accounts without one.
    pub(crate) home: Option<PathBuf>,
    /// `XDG_DATA_HOME`.
    pub(crate) data_home: Option<PathBuf>,
    /// `XDG_STATE_HOME`.
    pub(crate) state_home: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`.
    pub(crate) config_home: Option<PathBuf>,
    /// `SOS_STORE`: the physical store.
    pub(crate) store: Option<PathBuf>,
    /// `SOS_MIRRORS_<NAME>`, by lower-case name, `_` read as `-`.
    pub(crate) mirrors: BTreeMap<String, String>,
    /// `SOS_PLAIN_HTTP_REGISTRIES`: `HOST[:PORT]`, between commas or blanks.
    pub(crate) plain_http: Option<Vec<String>>,
    /// `SOS_LOG`: a tracing filter.
    pub(crate) log: Option<String>,
    /// `SOS_PROGRESS`.
    pub(crate) progress: Option<String>,
    /// `SOS_JOBS`.
    pub(crate) jobs: Option<String>,
    /// Files that may hold credentials for registries, in the order in which container tools ask them.
    pub(crate) auth_files: Vec<PathBuf>,
    /// `NIX_PATH`.
    pub(crate) nix_path: Option<String>,
    /// `NO_COLOR` is set and not empty.
    pub(crate) no_color: bool,
    /// `CLICOLOR_FORCE` is set and not `0`.
    pub(crate) force_color: bool,
    /// `TERM=dumb`.
    pub(crate) dumb_terminal: bool,
    /// `CI` is set.
    pub(crate) ci: bool,
    /// `GITHUB_ACTIONS` is set.
    pub(crate) github_actions: bool,
    /// The locale is UTF-8.
    pub(crate) utf8: bool,
    /// The terminal is one of those that show progress in the taskbar (OSC 9;4) and do nothing else with it.
    pub(crate) taskbar: bool,
    /// Everything, for `builtins.getEnv`.
    pub(crate) all: BTreeMap<String, String>,
}

impl Environment {
    /// Reads the environment of this process.
    pub(crate) fn read() -> Self {
        let all: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .collect();
        Self::from_map(all)
    }

    fn from_map(all: BTreeMap<String, String>) -> Self {
        let get = |k: &str| all.get(k).filter(|v| !v.is_empty()).cloned();
        let path = |k: &str| get(k).map(PathBuf::from).filter(|p| p.is_absolute());
        let mirrors = all
            .iter()
            .filter_map(|(k, v)| {
                let name = k.strip_prefix("SOS_MIRRORS_")?;
                (!v.is_empty()).then(|| (name.to_lowercase().replace('_', "-"), v.clone()))
            })
            .collect();
        let home = path("HOME");
        let config_home =
            path("XDG_CONFIG_HOME").or(home.as_ref().map(|home| home.join(".config")));
        let auth_files = [
            get("REGISTRY_AUTH_FILE").map(PathBuf::from),
            path("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
            config_home.map(|dir| dir.join("containers/auth.json")),
            path("DOCKER_CONFIG")
                .or(home.map(|home| home.join(".docker")))
                .map(|dir| dir.join("config.json")),
        ];
        let plain_http = get("SOS_PLAIN_HTTP_REGISTRIES").map(|all| {
            let words = all.split([',', ' ']).filter(|word| !word.is_empty());
            words.map(str::to_owned).collect()
        });
        let locale = get("LC_ALL")
            .or_else(|| get("LC_CTYPE"))
            .or_else(|| get("LANG"));
        Self {
            home: path("HOME"),
            data_home: path("XDG_DATA_HOME"),
            state_home: path("XDG_STATE_HOME"),
            config_home: path("XDG_CONFIG_HOME"),
            store: get("SOS_STORE").map(PathBuf::from),
            mirrors,
            plain_http,
            log: get("SOS_LOG"),
            progress: get("SOS_PROGRESS"),
            jobs: get("SOS_JOBS"),
            auth_files: auth_files.into_iter().flatten().collect(),
            nix_path: get("NIX_PATH"),
            no_color: get("NO_COLOR").is_some(),
            force_color: get("CLICOLOR_FORCE").is_some_and(|v| v != "0"),
            dumb_terminal: get("TERM").is_none_or(|v| v == "dumb"),
            ci: get("CI").is_some(),
            github_actions: get("GITHUB_ACTIONS").is_some(),
            utf8: locale.is_some_and(|l| {
                let l = l.to_ascii_lowercase();
                l.contains("utf-8") || l.contains("utf8")
            }),
            taskbar: has_taskbar(&all),
            all,
        }
    }
}

/// Some terminals take OSC 9 for a notification with that text: only those are told that are known to take it for progress.
fn has_taskbar(all: &BTreeMap<String, String>) -> bool {
    let is = |name: &str, value: &str| all.get(name).is_some_and(|v| v == value);
    let vte = || all.get("VTE_VERSION")?.parse::<u32>().ok();
    all.contains_key("WT_SESSION")
        || is("ConEmuANSI", "ON")
        || is("TERM_PROGRAM", "WezTerm")
        || is("TERM_PROGRAM", "ghostty")
        || vte().is_some_and(|version| version >= 8000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_named_in_lower_case() {
        let env = Environment::from_map(
            [(
                "SOS_MIRRORS_DEBIAN_SECURITY".to_owned(),
                "http://mirror.example/s".to_owned(),
            )]
            .into(),
        );
        assert_eq!(env.mirrors["debian-security"], "http://mirror.example/s");
    }

    #[test]
    fn registries_stand_between_commas_or_blanks() {
        let read = |text: &str| {
            let name = "SOS_PLAIN_HTTP_REGISTRIES".to_owned();
            Environment::from_map([(name, text.to_owned())].into()).plain_http
        };
        let two = ["a.lan:5000".to_owned(), "b.lan".to_owned()];
        for text in [
            "a.lan:5000,b.lan",
            "a.lan:5000 b.lan",
            " a.lan:5000, b.lan,",
        ] {
            assert_eq!(read(text).as_deref(), Some(&two[..]), "{text}");
        }
        assert_eq!(read(""), None);
    }

    #[test]
    fn a_relative_home_is_no_home() {
        let env = Environment::from_map([("HOME".to_owned(), "x".to_owned())].into());
        assert_eq!(env.home, None);
    }
}
