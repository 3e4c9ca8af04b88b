//! What a verb gives back when it does not succeed, and the exit code that this means.

use sos_formats::diagnostic::{Class, Diagnostic};

/// One or more problems that ended a verb.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Every problem, in the order in which it was found.
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// The problems were shown already, as they happened.
    pub(crate) shown: bool,
    /// An exit code that does not follow from the problems: 128 and the signal.
    code: Option<u8>,
}

impl Failure {
    /// A failure of one problem.
    pub(crate) fn new(diagnostic: Diagnostic) -> Self {
        Self::from(vec![diagnostic])
    }

    /// The end of a build whose problems the display has shown.
    pub(crate) fn shown(diagnostics: Vec<Diagnostic>, code: i32) -> Self {
        Self {
            diagnostics,
            shown: true,
            code: u8::try_from(code).ok(),
        }
    }

    /// The same, with the exit code of a program that this one stands in for.
    pub(crate) fn with_code(mut self, code: u8) -> Self {
        self.code = Some(code);
        self
    }

    /// The same, when the problems stand in the output already.
    pub(crate) fn already_shown(mut self) -> Self {
        self.shown = true;
        self
    }

    /// The end after a signal.
    pub(crate) fn interrupted(signal: u8) -> Self {
        let diagnostic = Diagnostic::error(
            "interrupted",
            Class::Interrupted,
            "interrupted; nothing unfinished was added to the store",
        );
        Self {
            diagnostics: vec![diagnostic],
            shown: false,
            code: Some(128 + signal),
        }
    }

    /// A failure for an input/output error of the program's own files.
    pub(crate) fn io(what: &str, error: &std::io::Error) -> Self {
        if matches!(
            error.kind(),
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
        ) {
            return Self::new(
                Diagnostic::error(
                    "env-disk-full",
                    Class::Machine,
                    format!("{what}: the disk is full"),
                )
                .help("`sos gc -n` tells what can be freed"),
            );
        }
        Self::new(Diagnostic::error(
            "io",
            Class::Other,
            format!("{what}: {error}"),
        ))
    }

    /// The first problem, for callers that can pass on only one.
    pub(crate) fn into_first(self) -> Box<Diagnostic> {
        let first = self.diagnostics.into_iter().next();
        Box::new(first.unwrap_or_else(|| {
            Diagnostic::error("bug", Class::Bug, "something failed without a reason")
        }))
    }

    /// The exit code: build failures are OR-ed together as Nix does, anything else wins.
    pub(crate) fn code(&self) -> u8 {
        if let Some(code) = self.code {
            return code;
        }
        let codes = self.diagnostics.iter().map(|d| d.class.exit_code());
        let of_build = |code: &u8| (100..=104).contains(code);
        // What is wrong with the machine or the recipe explains more than what failed because of it.
        let other = codes.clone().find(|code| !of_build(code));
        match other.unwrap_or_else(|| codes.fold(0, |all, code| all | code)) {
            0 => 1,
            code => code,
        }
    }
}

impl From<Diagnostic> for Failure {
    fn from(d: Diagnostic) -> Self {
        Self::new(d)
    }
}

impl From<Box<Diagnostic>> for Failure {
    fn from(d: Box<Diagnostic>) -> Self {
        Self::new(*d)
    }
}

impl From<Vec<Diagnostic>> for Failure {
    fn from(diagnostics: Vec<Diagnostic>) -> Self {
        Self {
            diagnostics,
            shown: false,
            code: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(classes: &[Class]) -> u8 {
        Failure::from(
            classes
                .iter()
                .map(|c| Diagnostic::error("x", *c, "y"))
                .collect::<Vec<_>>(),
        )
        .code()
    }

    #[test]
    fn build_failures_are_or_ed_together() {
        assert_eq!(code(&[Class::BuildFailed]), 100);
        assert_eq!(code(&[Class::BuildFailed, Class::TimedOut]), 101);
        assert_eq!(code(&[Class::TimedOut, Class::HashMismatch]), 103);
    }

    #[test]
    fn anything_else_keeps_its_own_code() {
        assert_eq!(code(&[Class::Recipe, Class::Fetch]), 3);
        assert_eq!(code(&[Class::Machine]), 4);
        assert_eq!(Failure::interrupted(15).code(), 143);
    }
}
