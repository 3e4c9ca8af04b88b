//! Random expressions: the same value as real Nix, or an error in both.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::generate::Generator;
use crate::host::MemoryHost;
use crate::peer::{has_nix, search_path};
use crate::random::{Random, setting};

/// Expressions that one run of Nix evaluates.
const BATCH: u64 = 40;

fn ours(text: &str) -> Result<String, String> {
    sos_lang::with_big_stack(|| {
        let e = sos_lang::Evaluator::new(MemoryHost::new(&[]), sos_lang::Options::default());
        e.eval_str(text, "same.nix", Path::new("/"))
            .and_then(|v| e.force_deep(v))
            .map(|v| e.print(v).replace("\\$", "$"))
            .map_err(|d| format!("{}: {}", d.code, d.message))
    })
}

fn theirs(text: &str, home: &Path) -> Result<String, String> {
    let out = Command::new("nix-instantiate")
        .args(["--eval", "--strict", "-E", text])
        .env_clear()
        .env("PATH", search_path())
        .env("HOME", home)
        .env("NIX_REMOTE", "dummy://")
        .env("NIX_PATH", "")
        .current_dir(home)
        .output()
        .unwrap();
    if out.status.success() {
        // In names of attributes, 2.8 escapes every dollar.
        let printed = String::from_utf8_lossy(&out.stdout).replace("\\$", "$");
        Ok(printed.trim_end().to_owned())
    } else {
        Err(String::from_utf8_lossy(&out.stderr).into_owned())
    }
}

fn expression(seed: u64) -> String {
    Generator::new(&mut Random::new(seed), 1).expression()
}

fn differ(text: &str, home: &Path) -> Option<String> {
    let (ours, theirs) = (ours(text), theirs(text, home));
    match (&ours, &theirs) {
        (Err(_), Err(_)) => None,
        (Ok(a), Ok(b)) if a == b => None,
        _ => Some(format!("{text}\n  sos {ours:?}\n  nix {theirs:?}")),
    }
}

#[test]
#[allow(clippy::print_stderr, reason = "says how much was compared")]
fn random_expressions_have_the_values_of_nix() {
    if !has_nix() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let until = super::now() + Duration::from_secs(super::seconds() / 3);
    let first = setting("SOS_FUZZ_SEED", 1);
    let mut seed = first;
    let mut wrong = Vec::new();
    while super::now() < until && wrong.len() < 10 {
        let batch: Vec<String> = (seed..seed + BATCH).map(expression).collect();
        seed += BATCH;
        // What fails here would fail the whole list.
        let good: Vec<&String> = batch.iter().filter(|text| ours(text).is_ok()).collect();
        let mut list = String::from("[\n");
        for text in &good {
            writeln!(list, "({text})").unwrap();
        }
        list.push(']');
        if differ(&list, home.path()).is_some() {
            wrong.extend(good.iter().filter_map(|text| differ(text, home.path())));
        }
        let bad = batch.iter().filter(|text| !good.contains(text));
        wrong.extend(bad.filter_map(|text| differ(text, home.path())));
    }
    eprintln!("{} expressions", seed - first);
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n\n")
    );
}
