//! A conversation with the evaluator.

mod complete;
mod input;
mod names;
mod show;

use std::cell::RefCell;
use std::io::{BufRead as _, IsTerminal as _};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_lang::Host as _;

use crate::evaluate::Interactive;
use crate::failure::Failure;
use crate::render::diagnostic;
use crate::render::output;
use crate::session::Session;
use complete::Helper;
use input::{Command, is_open};
use names::Names;

/// Lines of history that are kept.
const HISTORY: usize = 5000;

/// What the commands are.
const HELP: &str = "  EXPR          evaluate and print it
  NAME = EXPR   give a value a name
  :a EXPR       make the attributes of a set names
  :b EXPR       build the derivations of a value, print their paths
  :l FILE       load a file: its attributes become names
  :p EXPR       evaluate all of a value and print it
  :q            leave
  :r            load the files again
  :t EXPR       print the type of a value
  :?            this";

/// Why the conversation went on or ended.
enum Next {
    Go,
    Quit,
}

/// Talks until the input ends.
///
/// # Errors
/// When the terminal or the standard output cannot be used.
pub(crate) fn talk(
    session: &Session,
    world: &Interactive,
    files: &[String],
    expression: Option<&str>,
) -> Result<(), Failure> {
    let talk = Talk {
        session,
        world,
        names: Rc::new(RefCell::new(Names::new())),
        asked: Arc::default(),
    };
    for file in files {
        talk.answer(&Command::Load(file.clone()))?;
    }
    if let Some(expression) = expression {
        talk.answer(&Command::Add(expression.to_owned()))?;
    }
    if std::io::stdin().is_terminal() {
        crate::interrupt::only_evaluation(world.evaluator.interrupter(), talk.asked.clone());
        talk.on_terminal()
    } else {
        talk.on_lines()
    }
}

struct Talk<'a> {
    session: &'a Session,
    world: &'a Interactive,
    names: Rc<RefCell<Names>>,
    /// Not zero while what is evaluated has been asked to stop.
    asked: Arc<AtomicU8>,
}

impl Talk<'_> {
    fn on_terminal(&self) -> Result<(), Failure> {
        let broken = |e: &ReadlineError| {
            Failure::new(Diagnostic::error(
                "repl-terminal",
                Class::Machine,
                format!("the terminal cannot be used: {e}"),
            ))
        };
        let config = Config::builder()
            .max_history_size(HISTORY)
            .and_then(|b| b.history_ignore_dups(true))
            .map_err(|e| broken(&e))?
            .completion_type(rustyline::CompletionType::List)
            .build();
        let history = FileHistory::with_config(&config);
        let mut editor: Editor<Helper<'_>, FileHistory> =
            Editor::with_history(config, history).map_err(|e| broken(&e))?;
        editor.set_helper(Some(Helper::new(self.world, self.names.clone())));
        let file = self.history_file();
        if let Some(file) = &file {
            // There is none at first.
            let _absent = editor.load_history(file);
        }
        if !self.session.global.quiet {
            output::message("sos repl; :? lists the commands");
        }
        loop {
            match editor.readline("sos> ") {
                Ok(line) => {
                    // A line that is not remembered is no reason to stop.
                    let _full = editor.add_history_entry(line.trim_end());
                    if let Next::Quit = self.line(&line)? {
                        break;
                    }
                }
                Err(ReadlineError::Interrupted) => {}
                Err(ReadlineError::Eof) => break,
                Err(e) => return Err(broken(&e)),
            }
        }
        if let Some(file) = file {
            let dir = file.parent().map(std::fs::create_dir_all);
            let kept = dir.is_some_and(|made| made.is_ok()) && editor.save_history(&file).is_ok();
            if !kept {
                output::message(&format!(
                    "warning: the history could not be written to `{}`",
                    file.display()
                ));
            }
        }
        Ok(())
    }

    fn history_file(&self) -> Option<PathBuf> {
        let env = &self.session.env;
        let state = env.state_home.clone();
        let state = state.or_else(|| env.home.as_ref().map(|h| h.join(".local/state")))?;
        Some(state.join("sos/repl_history"))
    }

    /// Without a terminal: no prompt, and a line that is not complete goes on in the next one.
    fn on_lines(&self) -> Result<(), Failure> {
        let mut text = String::new();
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(|e| Failure::io("cannot read standard input", &e))?;
            text.push_str(&line);
            text.push('\n');
            if is_open(&self.world.evaluator, &text) {
                continue;
            }
            if let Next::Quit = self.line(&std::mem::take(&mut text))? {
                return Ok(());
            }
        }
        self.line(&text).map(|_| ())
    }

    fn line(&self, text: &str) -> Result<Next, Failure> {
        let command = match Command::parse(text) {
            Ok(command) => command,
            Err(problem) => {
                self.problem(&problem);
                return Ok(Next::Go);
            }
        };
        if let Command::Quit = command {
            return Ok(Next::Quit);
        }
        self.answer(&command)?;
        // What was asked to stop has stopped.
        self.asked.store(0, Ordering::SeqCst);
        self.world.evaluator.interrupter().clear();
        Ok(Next::Go)
    }

    /// Does what a line says; its problems are shown.
    fn answer(&self, command: &Command) -> Result<(), Failure> {
        match self.result(command) {
            Ok(text) if text.is_empty() => Ok(()),
            Ok(mut text) => {
                text.push(b'\n');
                output::bytes(&text)
            }
            Err(problem) => {
                self.problem(&problem);
                Ok(())
            }
        }
    }

    fn problem(&self, problem: &Diagnostic) {
        let text = diagnostic::render(problem, self.session.style());
        output::message(text.trim_end());
    }

    fn result(&self, command: &Command) -> Result<Vec<u8>, Box<Diagnostic>> {
        let (evaluator, names) = (&self.world.evaluator, &self.names);
        let value = |text: &str| names.borrow().eval(self.world, text);
        match command {
            Command::Nothing | Command::Quit => Ok(Vec::new()),
            Command::Help => Ok(HELP.as_bytes().to_vec()),
            Command::Print(text) => show::shallow(evaluator, value(text)?),
            Command::PrintAll(text) => {
                let value = evaluator.force_deep(value(text)?)?;
                Ok(evaluator.print_bytes(value))
            }
            Command::Type(text) => Ok(evaluator.type_of(value(text)?)?.as_bytes().to_vec()),
            Command::Build(text) => self.build(value(text)?),
            Command::Bind(text) => {
                let set = value(&format!("{{ {text}; }}"))?;
                names.borrow_mut().add(evaluator, set)?;
                Ok(Vec::new())
            }
            Command::Add(text) => {
                let set = value(text)?;
                let count = names.borrow_mut().add(evaluator, set)?;
                Ok(self.added(count))
            }
            Command::Load(file) => {
                let count = names.borrow_mut().load(self.world, file)?;
                Ok(self.added(count))
            }
            Command::Reload => {
                let count = names.borrow_mut().reload(self.world)?;
                Ok(self.added(count))
            }
        }
    }

    fn added(&self, count: usize) -> Vec<u8> {
        if !self.session.global.quiet {
            let s = if count == 1 { "" } else { "s" };
            output::message(&format!("{count} name{s} added"));
        }
        Vec::new()
    }

    fn build(&self, value: sos_lang::Value) -> Result<Vec<u8>, Box<Diagnostic>> {
        let found = self.world.evaluator.derivations(value)?;
        if found.is_empty() {
            return Err(Box::new(Diagnostic::error(
                "target-not-buildable",
                Class::Recipe,
                "there is no derivation in this value",
            )));
        }
        let wanted: Vec<_> = found
            .into_iter()
            .filter_map(|d| Some((d.drv_path, d.outputs.into_iter().next()?)))
            .collect();
        let built = self.world.host.realise(&wanted);
        let paths = built.map_err(|e| match e {
            sos_lang::HostError::Diagnostic(d) => d,
            sos_lang::HostError::Io(e) => plain(&e.to_string()),
            sos_lang::HostError::Message(m) => plain(&m),
        })?;
        let dir = self.world.host.store_dir();
        let lines: Vec<String> = paths.iter().map(|p| p.absolute(dir)).collect();
        Ok(lines.join("\n").into_bytes())
    }
}

fn plain(message: &str) -> Box<Diagnostic> {
    Box::new(Diagnostic::error(
        "build-failed",
        Class::BuildFailed,
        message,
    ))
}
