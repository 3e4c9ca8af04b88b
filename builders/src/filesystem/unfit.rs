//! What a file system cannot hold.

use sos_engine::BuilderError;
use sos_formats::diagnostic::{Class, Diagnostic};

use super::options::Kind;
use super::tree::Inode;

/// Files that one message names.
const SHOWN: usize = 10;

/// Files that break a rule of a file system, with the rule.
pub(super) struct Unfit {
    kind: Kind,
    found: Vec<String>,
    more: usize,
    /// What else would help, besides changing the files.
    help: Option<&'static str>,
}

impl Unfit {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            found: Vec::new(),
            more: 0,
            help: None,
        }
    }

    /// Notes a file and the rule that it breaks.
    pub(super) fn push(&mut self, inode: &Inode, rule: &str) {
        if self.found.len() < SHOWN {
            let path = String::from_utf8_lossy(&inode.path);
            self.found.push(format!("`/{path}`: {rule}"));
        } else {
            self.more += 1;
        }
    }

    /// Says what would help, besides changing the files.
    pub(super) fn help(&mut self, help: &'static str) {
        self.help = Some(help);
    }

    /// Ends with an error if anything was noted.
    pub(super) fn finish(mut self) -> Result<(), BuilderError> {
        if self.found.is_empty() {
            return Ok(());
        }
        if self.more > 0 {
            self.found.push(format!("and {} files more", self.more));
        }
        let message = format!(
            "{} cannot hold everything that is in this root filesystem",
            self.kind.name()
        );
        let mut problem = Diagnostic::error("filesystem-unfit", Class::Recipe, message);
        for line in self.found {
            problem = problem.note(line);
        }
        if let Some(help) = self.help {
            problem = problem.help(help);
        }
        Err(problem
            .help("change or remove these files before the file system is made, or choose another kind")
            .into())
    }
}
