//! The scripts of kaem, read for the plan: which programs they run, with which words, where, and with which variables.
//!
//! What is read is what stage0 and the seed use: words in blanks, double quotes, `${NAME}` and `${NAME:-word}`, `NAME=value`, `cd`,
//! `set`, `alias`, `if ... fi`, and other scripts. Nothing here runs anything: the scripts are run by the kaem that the seed builds.
//!
//! # Source
//! `oriansj/mescc-tools`, `Kaem/kaem.c`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use sos_formats::diagnostic::{Class, Diagnostic, SourceFile};

use super::checkout::{Checkout, Result};

/// Scripts in scripts.
const MAX_DEPTH: usize = 16;
/// Commands of all scripts together.
const MAX_COMMANDS: usize = 10_000;

/// One program that a script runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Command {
    /// The program and its arguments, as kaem hands them on.
    pub(crate) argv: Vec<String>,
    /// The directory, without a slash at either end.
    pub(crate) cwd: String,
    /// The variables of the script.
    pub(crate) variables: BTreeMap<String, String>,
    /// The script, from the root of the tree.
    pub(crate) script: String,
    /// Where it stands.
    pub(crate) file: Arc<SourceFile>,
    /// Byte range in that file.
    pub(crate) place: Range<usize>,
}

impl Command {
    /// The path that a word of it leads to, without a slash at the beginning; nothing when that is outside of the root.
    pub(crate) fn path(&self, word: &str) -> Option<String> {
        join(&self.cwd, word)
    }

    /// A problem with this command.
    pub(crate) fn problem(&self, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error("bootstrap-kaem", Class::Recipe, message).label(
            &self.file,
            self.place.clone(),
            "this command",
        )
    }
}

/// A reader of scripts of one tree.
pub(crate) struct Reader<'a> {
    pub(crate) checkout: &'a Checkout<'a>,
    /// The directory of the checkout that is the root directory.
    pub(crate) root: &'a str,
    /// The programs that were found, in order.
    pub(crate) commands: Vec<Command>,
    /// Scripts that are not gone into.
    pub(crate) stop: &'a [&'a str],
}

/// The state of one run of kaem.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shell {
    pub(crate) variables: BTreeMap<String, String>,
    cwd: String,
    aliases: BTreeMap<String, Vec<String>>,
}

impl Shell {
    /// A kaem that is started in the root directory with these variables.
    pub(crate) fn with(variables: BTreeMap<String, String>) -> Self {
        Self {
            variables,
            ..Self::default()
        }
    }
}

impl Reader<'_> {
    /// Reads a script of the tree and all that it calls.
    ///
    /// # Errors
    /// A script that is missing, or that uses what is not known here.
    pub(crate) fn script(&mut self, path: &str, shell: &mut Shell, depth: usize) -> Result<()> {
        let file = self.checkout.need_text(&format!("{}/{path}", self.root))?;
        if depth > MAX_DEPTH {
            let message = format!("`{}` is a script in {MAX_DEPTH} others", file.name);
            return Err(Box::new(Diagnostic::error(
                "bootstrap-kaem",
                Class::Recipe,
                message,
            )));
        }
        self.text(path, &file, shell, depth)
    }

    /// Reads a text as if it was a script at `path`.
    ///
    /// # Errors
    /// As [`Reader::script`].
    pub(crate) fn text(
        &mut self,
        path: &str,
        file: &Arc<SourceFile>,
        shell: &mut Shell,
        depth: usize,
    ) -> Result<()> {
        // What is between `if` and `fi` depends on what programs say, and is not looked at.
        let mut conditions = 0_usize;
        for (words, place) in split(&file.text) {
            // One blank is what a variable has that stands for no word at all.
            let words = words.iter().map(|w| expand(w, &shell.variables));
            let words: Vec<String> = words.filter(|word| word != " ").collect();
            if words.is_empty() {
                continue;
            }
            let words = match shell.aliases.get(words[0].as_str()) {
                Some(alias) => [alias, &words[1..]].concat(),
                None => words,
            };
            match words[0].as_str() {
                "if" => conditions += 1,
                "fi" => conditions = conditions.saturating_sub(1),
                _ if conditions > 0 => {}
                "set" | "echo" | "pwd" | "unset" => {}
                "cd" => {
                    let to = words.get(1).map_or("/", String::as_str);
                    shell.cwd = join(&shell.cwd, to).unwrap_or_default();
                }
                "alias" => {
                    let (name, value) = words
                        .get(1)
                        .and_then(|w| w.split_once('='))
                        .unwrap_or_default();
                    let value = value.split(' ').filter(|w| !w.is_empty());
                    shell
                        .aliases
                        .insert(name.to_owned(), value.map(str::to_owned).collect());
                }
                word if is_assignment(word) && words.len() == 1 => {
                    let (name, value) = word.split_once('=').unwrap_or_default();
                    shell.variables.insert(name.to_owned(), value.to_owned());
                }
                _ => {
                    let argv = if words[0] == "exec" {
                        words[1..].to_vec()
                    } else {
                        words
                    };
                    let command = Command {
                        argv,
                        cwd: shell.cwd.clone(),
                        variables: shell.variables.clone(),
                        script: path.to_owned(),
                        file: Arc::clone(file),
                        place,
                    };
                    self.command(command, shell, depth)?;
                }
            }
        }
        Ok(())
    }

    fn command(&mut self, command: Command, shell: &Shell, depth: usize) -> Result<()> {
        if let Some(script) = called(&command) {
            let name = script.rsplit('/').next().unwrap_or(script);
            if self.stop.contains(&name) {
                return Ok(());
            }
            let Some(path) = command.path(script) else {
                return Err(Box::new(
                    command.problem(format!("`{script}` leads out of the tree")),
                ));
            };
            // Another process: what it sets is not seen here, and it knows no aliases.
            let mut inner = Shell {
                aliases: BTreeMap::new(),
                ..shell.clone()
            };
            return self.script(&path, &mut inner, depth + 1);
        }
        if self.commands.len() >= MAX_COMMANDS {
            return Err(Box::new(
                command.problem(format!("more than {MAX_COMMANDS} commands")),
            ));
        }
        self.commands.push(command);
        Ok(())
    }
}

/// The script that a command has kaem run, if it is one: the smallest kaem takes it as its word, the full one behind `--file`.
fn called(command: &Command) -> Option<&str> {
    let program = command.argv.first()?.rsplit('/').next()?;
    let words = &command.argv[1..];
    match program {
        "kaem-optional-seed" | "kaem-0" => words.first().map(String::as_str),
        "kaem" => {
            let at = words.iter().position(|w| w == "--file" || w == "-f")?;
            words.get(at + 1).map(String::as_str)
        }
        _ => None,
    }
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=')
        .is_some_and(|(name, _)| super::variables::is_name(name))
}

/// Joins a directory and a word to a path without slashes at the ends; nothing when it leads above the root.
pub(crate) fn join(cwd: &str, word: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    if !word.starts_with('/') {
        parts.extend(cwd.split('/').filter(|p| !p.is_empty()));
    }
    for part in word.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Cuts a script into commands of words, variables not replaced. A quote at its end ends the word, too, and a `#` begins a comment
/// wherever it stands; a word of nothing is none.
fn split(text: &str) -> Vec<(Vec<String>, Range<usize>)> {
    let mut out = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    let mut start = None;
    let mut end = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if !c.is_whitespace() && c != '#' {
            start.get_or_insert(at);
            end = at + c.len_utf8();
        }
        let mut over = matches!(c, ' ' | '\t' | '\n' | ';');
        match c {
            '\\' => {
                // A line that goes on.
                if let Some((_, next)) = chars.next().filter(|(_, next)| *next != '\n') {
                    word.push(next);
                }
            }
            '#' => {
                while chars.peek().is_some_and(|(_, next)| *next != '\n') {
                    chars.next();
                }
            }
            '"' => {
                over = true;
                while let Some((at, c)) = chars.next() {
                    end = at + c.len_utf8();
                    match c {
                        '"' => break,
                        '\\' => word.extend(chars.next().map(|(_, next)| next)),
                        c => word.push(c),
                    }
                }
            }
            _ if over => {}
            c => word.push(c),
        }
        if over && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if matches!(c, '\n' | ';') {
            if !words.is_empty() {
                out.push((std::mem::take(&mut words), start.unwrap_or(at)..end));
            }
            start = None;
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    if !words.is_empty() {
        out.push((words, start.unwrap_or(0)..end));
    }
    out
}

fn expand(word: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some(at) = rest.find("${") {
        out.push_str(&rest[..at]);
        let inner = &rest[at + 2..];
        let Some(end) = inner.find('}') else {
            break;
        };
        let (name, default) = inner[..end].split_once(":-").unwrap_or((&inner[..end], ""));
        let value = variables.get(name).map(String::as_str);
        out.push_str(value.unwrap_or(default));
        rest = &inner[end + 1..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{expand, join, split};

    #[track_caller]
    fn check(text: &str, expect: &[&[&str]]) {
        let variables = BTreeMap::from([("A".to_owned(), "x".to_owned())]);
        let found: Vec<Vec<String>> = split(text)
            .iter()
            .map(|(words, _)| words.iter().map(|w| expand(w, &variables)).collect())
            .collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn words_and_variables() {
        check("a b\nc", &[&["a", "b"], &["c"]]);
        check("# a\n\na # b\n", &[&["a"]]);
        check("a b\\\n\t-o c", &[&["a", "b", "-o", "c"]]);
        check("a \\\n b", &[&["a", "b"]]);
        check("${A}${B}y \"${A} z\" ${B}", &[&["xy", "x z", ""]]);
        check("${B:-d} a#b c\ne", &[&["d", "a"], &["e"]]);
        check("x\"a\"b \"\" c", &[&["xa", "b", "c"]]);
        check("F=\" \"\n", &[&["F= "]]);
        check("alias c=\"a -f\"", &[&["alias", "c=a -f"]]);
    }

    #[test]
    fn paths() {
        assert_eq!(join("a/b", "../c").as_deref(), Some("a/c"));
        assert_eq!(join("", "./c").as_deref(), Some("c"));
        assert_eq!(join("a", "/c").as_deref(), Some("c"));
        assert_eq!(join("a", "../../c"), None);
    }
}
