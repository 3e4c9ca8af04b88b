//! Commands that messages name, with the options of this command line that they need to find the same store and the same settings.
//!
//! Messages of every crate write them as `` `sos log NAME` ``: only this program knows what it was called with, and adds it here.

use std::sync::OnceLock;

use sos_formats::diagnostic::Diagnostic;

use crate::args::{Global, quoted};

/// How a command begins in a message.
const BEGIN: &str = "`sos ";
/// Verbs that look at no store.
const ALONE: [&str; 7] = [
    "completions",
    "explain",
    "help",
    "init",
    "man",
    "parse",
    "schema",
];
/// Verbs that evaluate or build, for which every setting counts.
const BUILDING: [&str; 11] = [
    "boot", "build", "check", "eval", "export", "lock", "plan", "recipe", "serve", "shell",
    "verify",
];
/// Settings that only say how things look.
const LOOKS: [&str; 2] = ["color", "progress"];

static GIVEN: OnceLock<Again> = OnceLock::new();

/// What was given, as words of a command line, each ended by a blank.
#[derive(Debug, Default)]
struct Again {
    store: String,
    settings: String,
}

impl Again {
    fn of(global: &Global) -> Self {
        let mut again = Self::default();
        for setting in &global.config {
            let key = setting.split('=').next().unwrap_or_default().trim();
            if LOOKS.contains(&key) {
                continue;
            }
            let words = format!("--config {} ", quoted(setting));
            if key.starts_with("store.") {
                again.store.push_str(&words);
            } else {
                again.settings.push_str(&words);
            }
        }
        if let Some(store) = &global.store {
            let store = quoted(&store.display().to_string());
            again.store.push_str(&format!("--store {store} "));
        }
        again
    }

    fn text(&self, text: &str) -> String {
        let mut parts = text.split(BEGIN);
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            out.push_str(BEGIN);
            let verb = part.split([' ', '`']).next().unwrap_or_default();
            // What begins with an option has had them added.
            let is_verb = !verb.is_empty() && verb.bytes().all(|b| b.is_ascii_lowercase());
            if is_verb && !ALONE.contains(&verb) {
                out.push_str(&self.store);
                if BUILDING.contains(&verb) {
                    out.push_str(&self.settings);
                }
            }
            out.push_str(part);
        }
        out
    }
}

/// Remembers what this command line gives for all commands. The first call counts.
pub(crate) fn given(global: &Global) {
    // A second call has nothing else to say: a process has one command line.
    let _known = GIVEN.set(Again::of(global));
}

/// Returns a text of this program with its commands as they can be typed again.
pub(crate) fn text(text: &str) -> String {
    match GIVEN.get() {
        Some(again) => again.text(text),
        None => text.to_owned(),
    }
}

/// The same for the advice of a problem. Notes hold lines of logs, which stay as they are.
pub(crate) fn advice(diagnostic: &mut Diagnostic) {
    for help in &mut diagnostic.helps {
        *help = text(help);
    }
}

/// A problem as JSON.
pub(crate) fn json(diagnostic: &Diagnostic) -> serde_json::Value {
    let mut diagnostic = diagnostic.clone();
    advice(&mut diagnostic);
    diagnostic.to_json()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Cli;

    #[track_caller]
    fn check(flags: &[&str], given: &str, expect: &str) {
        let words = ["sos"].iter().chain(flags).chain(&["builds"]);
        let global = Cli::try_parse_from(words).expect("a command line").global;
        let again = Again::of(&global);
        assert_eq!(again.text(given), expect, "{flags:?}");
        // Who passes it on twice adds nothing.
        assert_eq!(again.text(expect), expect, "{flags:?}");
    }

    #[test]
    fn commands_are_what_can_be_typed_again() {
        let shell = "`sos shell b-1.0 --at-failure` opens one, `sos gc` frees it";
        check(&[], shell, shell);
        check(&["-v", "--config", "color=never"], shell, shell);
        check(
            &["--store", "a b"],
            shell,
            "`sos --store 'a b' shell b-1.0 --at-failure` opens one, `sos --store 'a b' gc` frees it",
        );
        check(
            &["--config", "store.dir=/s", "--config", "build.cores=2"],
            shell,
            "`sos --config store.dir=/s --config build.cores=2 shell b-1.0 --at-failure` opens one, `sos --config store.dir=/s gc` frees it",
        );
        for other in [
            "`sos explain x` and `sos init`",
            "sos log x",
            "`sos` is it",
            "`sos -h`",
        ] {
            check(&["--store", "x"], other, other);
        }
    }
}
