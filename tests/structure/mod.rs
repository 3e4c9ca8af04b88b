//! What holds for the tree itself: arrows between crates, codes of problems, licences, words that must not stand in it.

mod arrows;
mod codes;
mod licences;
mod words;

use std::process::Command;

/// `cargo metadata` of this workspace, with every dependency when `deep`.
fn metadata(deep: bool) -> serde_json::Value {
    let mut command = Command::new(env!("CARGO"));
    // Only what this machine compiles: crates for other platforms need not have been downloaded.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    command
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(["--filter-platform", &platform])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    if !deep {
        command.arg("--no-deps");
    }
    let out = command.output().expect("cargo runs");
    assert!(
        out.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    serde_json::from_slice(&out.stdout).expect("cargo prints JSON")
}
