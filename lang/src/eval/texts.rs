//! Texts: from the bytes of a program to code that runs, and back to what a message shows of it.

use std::borrow::Cow;
use std::sync::Arc;

use sos_formats::diagnostic::SourceFile;

use super::{R, Vm};
use crate::error::{Error, Kind};
use crate::heap::{Attrs, Env, Value};
use crate::ir::{self, LowerError, Pos};
use crate::parse::Names;
use crate::parse::ast::Ast;

/// A piece of code to load.
pub(crate) struct Text<'a> {
    pub(crate) bytes: Cow<'a, [u8]>,
    /// The name shown in messages.
    pub(crate) name: String,
    /// The file it came from.
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) around: Surroundings<'a>,
}

/// What the code of a text can refer to.
pub(crate) struct Surroundings<'a> {
    /// Directory of relative paths.
    pub(crate) dir: &'a [u8],
    /// Names put around it.
    pub(crate) extra: Option<Attrs>,
}

/// A text whose places are known.
struct Registered {
    file: Arc<SourceFile>,
    /// Whether it has characters that stand for bytes.
    foreign: bool,
    /// Position of its first byte.
    base: u32,
}

impl Vm {
    /// Registers a text, so that its places can be shown.
    fn register(&self, bytes: Cow<'_, [u8]>, name: String, path: Option<Vec<u8>>) -> R<Registered> {
        let (text, foreign) = crate::parse::decode(bytes);
        let file = SourceFile::new(name, text);
        let base = self.sources.borrow_mut().add(file.clone(), path, foreign);
        match base {
            Some(base) => Ok(Registered {
                file,
                foreign,
                base,
            }),
            None => Err(Error::new(
                Kind::Syntax,
                Pos::NONE,
                "more than 4 GiB of source text were loaded",
            )),
        }
    }

    /// Parses a text and hands its tree to `f`.
    fn parse_text<T>(&self, t: &Registered, f: impl FnOnce(&Ast<'_>) -> R<T>) -> R<T> {
        let base = t.base;
        let warn = |m: &str, at: usize| {
            let place = self.show_pos(Pos(base + at as u32));
            self.host.warn(&format!("{m} at {place}"));
        };
        let mut work = self.workspace.take().unwrap_or_default();
        let dialect = self.options.dialect;
        let r = crate::parse::parse(&t.file.text, t.foreign, dialect, &warn, &mut work)
            .map_err(|e| self.syntax_error(*e, base))
            .and_then(|ast| f(&ast));
        work.clear();
        self.workspace.set(Some(work));
        r
    }

    #[cold]
    fn syntax_error(&self, e: crate::parse::SyntaxError, base: u32) -> Box<Error> {
        let mut x = Error::new(
            if e.too_deep {
                Kind::Nesting
            } else {
                Kind::Syntax
            },
            Pos(base + e.span.start as u32),
            e.message,
        );
        x.end = Pos(base + e.span.end as u32);
        x.label = e.label;
        if let Some((at, text)) = e.with {
            x = x.other(Pos(base + at as u32), text);
        }
        match e.other {
            Some(o) => {
                let old = Pos(base + o as u32);
                x.message = format!("{} at {}", x.message, self.show_pos(old));
                x.other(old, "first defined here")
            }
            None => x,
        }
    }

    /// A text in canonical form; names must be defined.
    pub(crate) fn parse_canonical(&self, t: Text<'_>) -> R<Vec<u8>> {
        let text = self.register(t.bytes, t.name, t.path)?;
        self.parse_text(&text, |ast| {
            self.lower_text(ast, None, text.base, &t.around)?;
            let home = self.host.env("HOME").unwrap_or_default();
            let place = crate::print::ast::Place {
                dir: t.around.dir,
                home: home.as_bytes(),
            };
            Ok(crate::print::ast::show(ast, &place))
        })
    }

    /// Parses, lowers and runs a text.
    pub(crate) fn run_text(&self, t: Text<'_>) -> R {
        let text = self.register(t.bytes, t.name, t.path)?;
        let lower = |ast: &Ast<'_>, names: Option<&Names>| {
            self.lower_text(ast, names, text.base, &t.around)
        };
        let parsed = self.ahead.borrow_mut().as_mut().and_then(|ahead| {
            ahead.with(&text.file.text, text.foreign, |ast, names| {
                lower(ast, Some(names))
            })
        });
        let code = match parsed {
            Some(code) => code?,
            None => self.parse_text(&text, |ast| lower(ast, None))?,
        };
        self.eval(code, Env::NONE)
    }

    fn lower_text(
        &self,
        ast: &Ast<'_>,
        names: Option<&Names>,
        base: u32,
        t: &Surroundings<'_>,
    ) -> R<ir::E> {
        let cur_pos = |p: Pos| self.pos_value(p);
        let home = self.host.env("HOME").map(String::into_bytes);
        let scope = ir::Scope {
            globals: self.globals(),
            extra: t.extra,
            names,
            base,
            dir: t.dir,
            home: if self.options.pure { None } else { home },
            cur_pos: &cur_pos,
        };
        let mut scopes = self.scopes.take();
        let lowered = ir::lower(ast, &scope, &mut scopes);
        self.scopes.set(scopes);
        lowered.map_err(|e| match e {
            LowerError::Undefined(s, pos, known) => {
                let e = Error::new(
                    Kind::Undefined,
                    pos,
                    format!("undefined variable '{}'", s.text()),
                )
                .label("not defined");
                if self.options.pure
                    && let Some(help) = super::select::hidden_when_pure(&s.text())
                {
                    return e.help(help);
                }
                let known: Vec<String> = known.iter().map(|k| k.text().into_owned()).collect();
                super::vm::suggest(
                    e,
                    &s.text(),
                    known
                        .iter()
                        .map(String::as_str)
                        .filter(|k| !k.starts_with("__")),
                )
            }
            LowerError::TooDeep(pos) => {
                Error::new(Kind::Nesting, pos, "the expression is nested too deeply")
            }
            LowerError::NoHome(pos) => Error::new(
                Kind::Pure,
                pos,
                "home-relative paths need the variable HOME, and cannot be used in pure evaluation",
            ),
        })
    }

    /// The error of an assertion: shows the condition in canonical form.
    #[cold]
    pub(crate) fn assertion_failed(&self, pos: Pos, end: Pos) -> Box<Error> {
        let shown = self.canonical(pos, end);
        let mut e = Error::new(
            Kind::Assert,
            pos,
            shown.map_or_else(
                || "assertion failed".into(),
                |s| format!("assertion '{s}' failed"),
            ),
        );
        e.end = end;
        e.label("this is false")
    }

    /// The error of an assertion that two values are equal: shows the first difference.
    #[cold]
    pub(crate) fn not_equal(&self, x: Value, y: Value, pos: Pos, end: Pos) -> Box<Error> {
        let whole = self.assertion_failed(pos, end);
        match self.assert_equal(x, y, pos) {
            Ok(()) => whole,
            Err(mut e) => {
                e.end = end;
                let shown = self.canonical(pos, end).unwrap_or_default();
                e.frame(
                    format!("while evaluating the condition of the assertion '{shown}'"),
                    pos,
                )
            }
        }
    }

    /// The text between two places, parsed again and printed canonically.
    fn canonical(&self, pos: Pos, end: Pos) -> Option<String> {
        let (file, start, foreign, dir) = {
            let sources = self.sources.borrow();
            let (s, start) = sources.find(pos)?;
            let dir = s
                .path
                .as_ref()
                .map(|p| p[..memchr::memrchr(b'/', p).unwrap_or(0)].to_vec());
            (s.file.clone(), start, s.foreign, dir.unwrap_or_default())
        };
        let text = file
            .text
            .get(start..start + (end.0.checked_sub(pos.0)?) as usize)?;
        let mut work = crate::parse::Workspace::default();
        let dialect = self.options.dialect;
        let ast = crate::parse::parse(text, foreign, dialect, &|_, _| {}, &mut work).ok()?;
        let home = self.host.env("HOME").unwrap_or_default();
        let place = crate::print::ast::Place {
            dir: &dir,
            home: home.as_bytes(),
        };
        Some(String::from_utf8_lossy(&crate::print::ast::show(&ast, &place)).into_owned())
    }
}
