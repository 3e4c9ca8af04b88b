//! The same values as Nix itself, where it is installed.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "looks for the peer and says so when it is missing"
)]

use std::path::Path;
use std::process::{Command, Stdio};

use crate::host::MemoryHost;

fn ours(expr: &str, dir: &Path) -> Option<String> {
    sos_lang::with_big_stack(move || {
        let e = sos_lang::Evaluator::new(
            MemoryHost::new(&[("/tmp/x", "")]),
            sos_lang::Options::default(),
        );
        let v = e.eval_str(expr, "peer.nix", dir).ok()?;
        let v = e.force_deep(v).ok()?;
        Some(e.print(v))
    })
}

/// Where programs are.
pub(crate) fn search_path() -> std::ffi::OsString {
    std::env::var_os("PATH").unwrap_or_default()
}

/// Whether real Nix is there; a test that needs it says so and passes where it is not.
pub(crate) fn has_nix() -> bool {
    let found = Command::new("nix-instantiate")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if found.is_ok_and(|s| s.success()) {
        return true;
    }
    assert!(
        std::env::var_os("SOS_REQUIRE_PEERS").is_none_or(|v| v != "1"),
        "SOS_REQUIRE_PEERS=1, but: no nix-instantiate"
    );
    eprintln!("skipped: no nix-instantiate");
    false
}

#[test]
fn same_as_nix_instantiate() {
    if !has_nix() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let list: Vec<&str> = include_str!("../peer/expressions.txt")
        .lines()
        .filter(|l| !l.trim().is_empty() && !l.starts_with('#'))
        .collect();
    let path = home.path();
    let wrong: Vec<String> = std::thread::scope(|s| {
        let parts: Vec<_> = list
            .chunks(list.len().div_ceil(4))
            .map(|part| s.spawn(move || compare(part, path)))
            .collect();
        parts.into_iter().flat_map(|p| p.join().unwrap()).collect()
    });
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

fn compare(list: &[&str], home: &Path) -> Vec<String> {
    let mut wrong = Vec::new();
    for expr in list {
        let out = Command::new("nix-instantiate")
            .args(["--eval", "--strict", "-E", expr])
            .env_clear()
            .env("PATH", search_path())
            .env("HOME", home)
            .env("NIX_REMOTE", "dummy://")
            .env("NIX_PATH", "")
            .current_dir(home)
            .output()
            .unwrap();
        let theirs = out
            .status
            .success()
            .then(|| String::from_utf8_lossy(&out.stdout).trim_end().to_owned());
        let ours = ours(expr, home);
        if ours != theirs {
            wrong.push(format!("{expr}\n  sos {ours:?}\n  nix {theirs:?}"));
        }
    }
    wrong
}
