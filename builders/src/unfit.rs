//! What a file system or a layer cannot hold of a root filesystem.

use sos_engine::BuilderError;
use sos_formats::diagnostic::{Class, Diagnostic};

/// Files that one message names.
const SHOWN: usize = 10;

/// Files that break a rule of what should hold them, each with the rule.
pub(crate) struct Unfit {
    code: &'static str,
    /// What should hold them, in a message.
    holder: &'static str,
    /// What would help.
    fix: &'static str,
    found: Vec<String>,
    more: usize,
    /// What else would help, besides changing the files.
    help: Option<&'static str>,
}

impl Unfit {
    pub(crate) fn new(code: &'static str, holder: &'static str, fix: &'static str) -> Self {
        Self {
            code,
            holder,
            fix,
            found: Vec::new(),
            more: 0,
            help: None,
        }
    }

    /// Notes a file and the rule that it breaks.
    pub(crate) fn push(&mut self, path: &[u8], rule: &str) {
        if self.found.len() < SHOWN {
            let path = String::from_utf8_lossy(path);
            self.found.push(format!("`/{path}`: {rule}"));
        } else {
            self.more += 1;
        }
    }

    /// Says what would help, besides changing the files.
    pub(crate) fn help(&mut self, help: &'static str) {
        self.help = Some(help);
    }

    /// Ends with an error if anything was noted.
    pub(crate) fn finish(mut self) -> Result<(), BuilderError> {
        if self.found.is_empty() {
            return Ok(());
        }
        if self.more > 0 {
            self.found.push(format!("and {} files more", self.more));
        }
        let message = format!(
            "{} cannot hold everything that is in this root filesystem",
            self.holder
        );
        let mut problem = Diagnostic::error(self.code, Class::Recipe, message);
        for line in self.found {
            problem = problem.note(line);
        }
        if let Some(help) = self.help {
            problem = problem.help(help);
        }
        Err(problem.help(self.fix).into())
    }
}
