//! Literals that are allowed, but that a project may not want: what the options say about them.

use super::SyntaxError;
use super::parser::{Parser, Res};
use crate::host::Lint;

impl Parser<'_, '_> {
    fn lint(&self, level: Lint, message: &str, span: std::ops::Range<usize>) -> Res<()> {
        match level {
            Lint::Ignore => Ok(()),
            Lint::Warn => {
                (self.warn)(message, span.start);
                Ok(())
            }
            Lint::Fatal => Err(SyntaxError::new(message, span)),
        }
    }

    /// A URL without quotes.
    pub(super) fn lint_url(&self, text: &str, span: std::ops::Range<usize>) -> Res<()> {
        let level = self.dialect.url_literals;
        let verdict = if level == Lint::Fatal {
            "disallowed"
        } else {
            "discouraged"
        };
        let message = format!(
            "URL literals are {verdict}. Consider using a string literal \"{text}\" instead (lint-url-literals)"
        );
        self.lint(level, &message, span)
    }

    /// A path that does not say that it is relative, or one that leads to a fixed place of this machine.
    pub(super) fn lint_path(&self, span: std::ops::Range<usize>) -> Res<()> {
        let text = &self.text[span.clone()];
        let kind = match text.as_bytes() {
            [b'.', ..] => return Ok(()),
            [b'/', ..] => "absolute",
            [b'~', ..] => "home",
            _ => {
                let message = format!(
                    "relative path literal '{text}' should be prefixed with '.' for clarity: './{text}' (lint-short-path-literals)"
                );
                return self.lint(self.dialect.short_path_literals, &message, span);
            }
        };
        let message = format!(
            "{kind} path literals are not portable. Consider replacing path literal '{text}' by a string, relative path, or parameter (lint-absolute-path-literals)"
        );
        self.lint(self.dialect.absolute_path_literals, &message, span)
    }
}
