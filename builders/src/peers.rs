//! Programs that tests compare with.

use std::ffi::OsStr;
use std::process::{Command, Output};

/// Says why a test is skipped; fails instead under `SOS_REQUIRE_PEERS=1`.
pub(crate) fn skip(why: &str) {
    assert!(!required(), "SOS_REQUIRE_PEERS=1, but: {why}");
    println!("skipped: {why}");
}

/// Whether every peer must be there.
pub(crate) fn required() -> bool {
    #[allow(
        clippy::disallowed_methods,
        reason = "a switch of the tests, never of the program"
    )]
    let value = std::env::var_os("SOS_REQUIRE_PEERS");
    value.is_some_and(|value| value == "1")
}

/// Runs a peer; the test is skipped where it is not installed.
pub(crate) fn peer<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Option<Output> {
    match Command::new(program).args(args).output() {
        Ok(output) => Some(output),
        Err(error) => {
            skip(&format!("no {program}: {error}"));
            None
        }
    }
}

/// All that a program has said.
pub(crate) fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).into_owned()
}
