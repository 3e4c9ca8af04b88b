//! Credentials, where container tools keep them.
//!
//! # Source
//! containers-auth.json(5) of containers/image; docker's `config.json`; docker/docker-credential-helpers.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sos_formats::diagnostic::{Class, Diagnostic};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// A larger file holds no credentials.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// How long a helper may take: it may ask a person.
const HELPER: Duration = Duration::from_secs(60);
/// The user name that helpers give with an identity token.
const TOKEN_USER: &str = "<token>";

/// Who asks. Not to be shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    /// A name and a password.
    Password { user: String, password: String },
    /// A token that is exchanged for others.
    Identity(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

/// The files that may hold credentials, in the order in which they are asked.
#[derive(Clone, Debug, Default)]
pub struct AuthFiles {
    files: Vec<PathBuf>,
}

impl AuthFiles {
    /// Names the files; those that are not there are passed by.
    #[must_use]
    pub fn new(files: Vec<PathBuf>) -> Self {
        Self { files }
    }

    /// Whether there are none at all.
    pub(super) fn names(&self) -> String {
        let names: Vec<String> = self
            .files
            .iter()
            .map(|file| format!("`{}`", file.display()))
            .collect();
        names.join(", ")
    }

    /// Finds the credentials for a repository, and where they are from.
    pub(super) async fn find(
        &self,
        host: &str,
        name: &str,
    ) -> Result<Option<(Credentials, String)>, Box<Diagnostic>> {
        let asked = |file: &Path, helper: &str| {
            format!(
                "the helper `docker-credential-{helper}`, which `{}` names",
                file.display()
            )
        };
        for file in &self.files {
            let Some(text) = read(file)? else { continue };
            let config: Value =
                serde_json::from_str(&text).map_err(|error| bad(file, &error.to_string()))?;
            if let Some(helper) = config["credHelpers"][host].as_str()
                && let Some(found) = ask(file, helper, host).await?
            {
                return Ok(Some((found, asked(file, helper))));
            }
            if let Some((found, key)) = listed(file, &config["auths"], host, name)? {
                return Ok(Some((found, format!("`{key}` in `{}`", file.display()))));
            }
            if let Some(helper) = config["credsStore"].as_str()
                && let Some(found) = ask(file, helper, host).await?
            {
                return Ok(Some((found, asked(file, helper))));
            }
        }
        Ok(None)
    }
}

fn bad(file: &Path, what: &str) -> Box<Diagnostic> {
    let message = format!(
        "the credentials in `{}` cannot be used: {what}",
        file.display()
    );
    Box::new(
        Diagnostic::error("registry-credentials", Class::Machine, message)
            .help("log in anew with `podman login` or `docker login`, or correct the file"),
    )
}

fn read(file: &Path) -> Result<Option<String>, Box<Diagnostic>> {
    match std::fs::metadata(file) {
        Ok(meta) if meta.len() > MAX_FILE_BYTES => return Err(bad(file, "it is too large")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        _ => {}
    }
    let text = std::fs::read_to_string(file).map_err(|error| bad(file, &error.to_string()))?;
    Ok((!text.trim().is_empty()).then_some(text))
}

/// Finds the entry with the longest name that the repository begins with, and its key.
fn listed(
    file: &Path,
    auths: &Value,
    host: &str,
    name: &str,
) -> Result<Option<(Credentials, String)>, Box<Diagnostic>> {
    let mut wanted = format!("{host}/{name}");
    loop {
        let entries = auths.as_object().into_iter().flatten();
        let mut entries = entries.filter(|(key, _)| plain(key) == wanted);
        let found = entries.find_map(|(key, entry)| {
            let found = entry_of(file, entry).transpose()?;
            Some(found.map(|found| (found, key.clone())))
        });
        if let Some(found) = found {
            return found.map(Some);
        }
        match wanted.rfind('/') {
            Some(at) => wanted.truncate(at),
            None => return Ok(None),
        }
    }
}

/// docker writes some keys as URLs, with the version of the interface.
fn plain(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or(key.strip_prefix("http://"));
    match rest {
        Some(url) => url.split('/').next().unwrap_or(url),
        None => key.trim_end_matches('/'),
    }
}

fn entry_of(file: &Path, entry: &Value) -> Result<Option<Credentials>, Box<Diagnostic>> {
    if let Some(token) = entry["identitytoken"].as_str().filter(|t| !t.is_empty()) {
        return Ok(Some(Credentials::Identity(token.to_owned())));
    }
    let Some(auth) = entry["auth"].as_str().filter(|auth| !auth.is_empty()) else {
        return Ok(None);
    };
    let decoded = STANDARD.decode(auth).ok();
    let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = text.as_deref().and_then(|text| text.split_once(':'));
    let (user, password) =
        pair.ok_or_else(|| bad(file, "an `auth` is not base64 of `user:password`"))?;
    Ok(Some(of(user, password.trim_end_matches('\0'))))
}

fn of(user: &str, secret: &str) -> Credentials {
    if user == TOKEN_USER {
        return Credentials::Identity(secret.to_owned());
    }
    Credentials::Password {
        user: user.to_owned(),
        password: secret.to_owned(),
    }
}

/// Asks the program `docker-credential-<helper>`.
async fn ask(
    file: &Path,
    helper: &str,
    host: &str,
) -> Result<Option<Credentials>, Box<Diagnostic>> {
    let word = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if helper.is_empty() || !helper.chars().all(word) {
        return Err(bad(
            file,
            &format!("`{helper}` is not the name of a helper"),
        ));
    }
    let program = format!("docker-credential-{helper}");
    let failed = |what: &str| bad(file, &format!("the helper `{program}` {what}"));
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(&format!("cannot be started: {error}")))?;
    if let Some(mut input) = child.stdin.take() {
        // A helper that does not read its input tells why in its answer.
        let _written = input.write_all(host.as_bytes()).await.is_ok();
    }
    let output = tokio::time::timeout(HELPER, child.wait_with_output())
        .await
        .map_err(|_elapsed| failed("does not answer"))?
        .map_err(|error| failed(&error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        // The one failure that all helpers word the same.
        if text.contains("credentials not found") {
            return Ok(None);
        }
        return Err(failed(&format!("failed: {}", text.trim())));
    }
    let answer: Value =
        serde_json::from_str(&text).map_err(|_error| failed("did not answer with JSON"))?;
    match (answer["Username"].as_str(), answer["Secret"].as_str()) {
        (Some(user), Some(secret)) if !secret.is_empty() => Ok(Some(of(user, secret))),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(json: &str, host: &str, name: &str) -> Option<Credentials> {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("auth.json");
        std::fs::write(&file, json).expect("write");
        let files = AuthFiles::new(vec![dir.path().join("none"), file]);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let found = runtime.block_on(files.find(host, name)).expect("sound");
        found.map(|(found, from)| {
            assert!(from.contains("auth.json"), "{from}");
            found
        })
    }

    fn password(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }

    #[test]
    fn the_longest_name_wins() {
        // base64 of a:1, b:2, c:3.
        let json = r#"{"auths":{"r.example":{"auth":"YToxRA=="},"r.example/os":{"auth":"Yjoy"},"r.example/os/web":{},"https://d.example/v1/":{"auth":"Yzoz"},"t.example":{"identitytoken":"tok"}}}"#;
        assert_eq!(found(json, "r.example", "os/web"), password("b", "2"));
        assert_eq!(found(json, "r.example", "osx/web"), password("a", "1D"));
        assert_eq!(found(json, "d.example", "x"), password("c", "3"));
        assert_eq!(
            found(json, "t.example", "x"),
            Some(Credentials::Identity("tok".to_owned()))
        );
        assert_eq!(found(json, "r.example:5000", "os/web"), None);
        assert_eq!(found("", "r.example", "os/web"), None);
    }

    #[test]
    fn what_is_broken_is_told_without_the_secret() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("auth.json");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        for json in [
            r#"{"auths":{"r.example":{"auth":"c2VjcmV0"}}}"#,
            "{secret",
            r#"{"credsStore":"../secret"}"#,
            r#"{"credHelpers":{"r.example":"of-nobody-here"}}"#,
        ] {
            std::fs::write(&file, json).expect("write");
            let files = AuthFiles::new(vec![file.clone()]);
            let error = runtime
                .block_on(files.find("r.example", "x"))
                .expect_err("broken");
            assert_eq!(error.code, "registry-credentials");
            assert!(!error.message.contains("c2VjcmV0"), "{}", error.message);
        }
    }
}
