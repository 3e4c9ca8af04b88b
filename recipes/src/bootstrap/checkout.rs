//! The files of a checkout, read through the host of an evaluation, with symbolic links followed inside the checkout only.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sos_formats::diagnostic::{Class, Diagnostic, SourceFile};
use sos_lang::{FileType, Host};

/// The largest file that is read as a text.
const MAX_TEXT_BYTES: usize = 4 << 20;
/// Directories below a step.
const MAX_DEPTH: usize = 32;
/// The longest word that is taken for the name of a variable.
const MAX_WORD_BYTES: usize = 64;

/// What stands in a script that finds variables by names which are in no text: names are put together, or all there are is listed.
const INDIRECT: [&str; 9] = [
    "${!",
    "declare -n",
    "local -n",
    "typeset -n",
    "declare -p",
    "typeset -p",
    "set |",
    "set >",
    "$(set)",
];

/// A problem, boxed: it is large, and rare.
pub(crate) type Result<T> = std::result::Result<T, Box<Diagnostic>>;

/// A directory with `steps/manifest` in it.
pub(crate) struct Checkout<'h> {
    host: &'h dyn Host,
    root: PathBuf,
    /// How messages name the directory.
    shown: String,
}

impl<'h> Checkout<'h> {
    /// Opens the checkout at `root`, which messages call `shown`.
    ///
    /// # Errors
    /// `bootstrap-missing` when there is no `steps/manifest`.
    pub(crate) fn open(host: &'h dyn Host, root: &Path, shown: &str) -> Result<Self> {
        let canonical = host.canonicalize(root).unwrap_or_else(|_| root.to_owned());
        let found = Self {
            host,
            root: canonical,
            shown: shown.trim_end_matches('/').to_owned(),
        };
        match found.resolve("steps/manifest")? {
            Some(_) => Ok(found),
            None => Err(Box::new(found.missing("steps/manifest").help(
                "a tree of bootstrap steps has its list of steps there; name the directory that holds `steps`",
            ))),
        }
    }

    /// How messages name a file of the checkout.
    pub(crate) fn shown(&self, path: &str) -> String {
        match self.shown.as_str() {
            "" | "." => path.to_owned(),
            shown => format!("{shown}/{path}"),
        }
    }

    /// The absolute path of a file of the checkout.
    pub(crate) fn absolute(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// What [`Self::words`] finds besides words. No variable is called so.
    pub(crate) const INDIRECT_WORD: &'static str = "${!";

    /// A problem with a file that has to be there.
    pub(crate) fn missing(&self, path: &str) -> Diagnostic {
        let message = format!("there is no `{}`", self.shown(path));
        Diagnostic::error("bootstrap-missing", Class::Recipe, message)
    }

    /// Returns the path, inside the checkout, of what `path` leads to; nothing when there is nothing.
    ///
    /// # Errors
    /// `bootstrap-bad-link` when links go in a circle, out of the checkout, or from a directory of steps to what is in none.
    pub(crate) fn resolve(&self, path: &str) -> Result<Option<String>> {
        let bad = |what: &str| {
            if let Some(top) = self.linked_top(path) {
                return Err(Box::new(top));
            }
            let message = format!("`{}` {what}", self.shown(path));
            Err(Box::new(
                Diagnostic::error("bootstrap-bad-link", Class::Recipe, message)
                    .help("a step may only use files of its own tree: make the link lead to one"),
            ))
        };
        let real = match self.host.canonicalize(&self.root.join(path)) {
            Ok(real) => real,
            Err(e) if is_absent(&e) => return Ok(None),
            // Only a circle of links is told apart by its number alone.
            Err(e) if e.raw_os_error() == Some(40) => return bad("is a circle of links"),
            Err(e) => return Err(Box::new(self.unreadable(path, &e))),
        };
        let Ok(inside) = real.strip_prefix(&self.root) else {
            return bad("leads out of the tree");
        };
        // Upstream copies the directories of steps, and what links in there lead to must be in one of them.
        if is_of_steps(Path::new(path)) && !is_of_steps(inside) {
            return bad("leads out of `steps`");
        }
        Ok(inside.to_str().map(str::to_owned))
    }

    /// Says so if the directory of steps that a path begins with is itself a link.
    fn linked_top(&self, path: &str) -> Option<Diagnostic> {
        let top = path
            .split('/')
            .next()
            .filter(|_| is_of_steps(Path::new(path)))?;
        let place = self.root.join(top);
        let is_link = self.host.canonicalize(&place).ok()? != place;
        is_link.then(|| {
            let message = format!("`{}` is a link, and must be a directory", self.shown(top));
            Diagnostic::error("bootstrap-bad-link", Class::Recipe, message)
                .note("steps are known by where their files are in the tree")
                .help("put the directory itself there, or name the tree that it is in")
        })
    }

    /// Returns the text of a file, or nothing when there is none.
    ///
    /// # Errors
    /// As [`Checkout::resolve`]; `recipe-not-utf8`, and `bootstrap-unreadable` for a directory or a file that is too large.
    pub(crate) fn text(&self, path: &str) -> Result<Option<Arc<SourceFile>>> {
        let Some(real) = self.resolve(path)? else {
            return Ok(None);
        };
        let bytes = match self.host.read_file(&self.root.join(&real)) {
            Ok(bytes) => bytes,
            Err(e) => return Err(Box::new(self.unreadable(path, &e))),
        };
        if bytes.len() > MAX_TEXT_BYTES {
            let why = format!(
                "it has {} bytes, the limit is {MAX_TEXT_BYTES}",
                bytes.len()
            );
            return Err(Box::new(self.unreadable(path, &why)));
        }
        let shown = self.shown(path);
        match String::from_utf8(bytes) {
            Ok(text) => {
                let file = SourceFile::new(shown, text);
                without_mark(&file)?;
                Ok(Some(file))
            }
            Err(e) => Err(crate::problems::not_utf8(&shown, &e)),
        }
    }

    /// Returns the text of a script, whose path in the checkout is `real`, as far as it is one: a script need not be UTF-8.
    ///
    /// # Errors
    /// `bootstrap-unreadable`.
    pub(crate) fn lossy(&self, real: &str) -> Result<String> {
        let bytes = self.host.read_file(&self.root.join(real));
        let bytes = bytes.map_err(|e| Box::new(self.unreadable(real, &e)))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Looks at a script, whose path in the checkout is `real`, before anything runs it.
    ///
    /// # Errors
    /// `bootstrap-syntax` for what is no file, or begins with a byte order mark; `bootstrap-unreadable`.
    pub(crate) fn script(&self, real: &str) -> Result<()> {
        if self.kind(real)? == Some(FileType::Directory) {
            let message = format!("`{}` is a directory, and no script", self.shown(real));
            let problem = Diagnostic::error("bootstrap-syntax", Class::Recipe, message);
            return Err(Box::new(problem));
        }
        let bytes = self.host.read_file(&self.root.join(real));
        let bytes = bytes.map_err(|e| Box::new(self.unreadable(real, &e)))?;
        if bytes.starts_with(MARK.as_bytes()) {
            // A script need not be UTF-8.
            let text = String::from_utf8_lossy(&bytes);
            without_mark(&SourceFile::new(self.shown(real), text))?;
        }
        Ok(())
    }

    /// Adds to `found` the words of a file, or of every file below a directory, that are names of variables: letters, digits and `_`;
    /// and [`Self::INDIRECT_WORD`] where names are put together. Links are followed; what is too large to be a script is not looked at.
    ///
    /// # Errors
    /// As [`Checkout::resolve`] and [`Checkout::list`].
    pub(crate) fn words(
        &self,
        path: &str,
        depth: usize,
        found: &mut BTreeSet<String>,
    ) -> Result<()> {
        let Some(real) = self.resolve(path)? else {
            return Ok(());
        };
        if self.kind(&real)? == Some(FileType::Directory) {
            if depth < MAX_DEPTH {
                for (name, _) in self.list(&real)? {
                    self.words(&format!("{real}/{name}"), depth + 1, found)?;
                }
            }
            return Ok(());
        }
        let bytes = match self.host.read_file(&self.root.join(&real)) {
            Ok(bytes) => bytes,
            Err(e) => return Err(Box::new(self.unreadable(path, &e))),
        };
        if bytes.len() <= MAX_TEXT_BYTES {
            let words = bytes.split(|b| !b.is_ascii_alphanumeric() && *b != b'_');
            let words = words.filter(|word| !word.is_empty() && word.len() <= MAX_WORD_BYTES);
            found.extend(words.map(|word| String::from_utf8_lossy(word).into_owned()));
            let text = String::from_utf8_lossy(&bytes);
            let by_word = ["eval", "compgen"].iter().any(|word| found.contains(*word));
            if by_word || INDIRECT.iter().any(|part| text.contains(part)) {
                found.insert(Self::INDIRECT_WORD.to_owned());
            }
        }
        Ok(())
    }

    /// The same for a file that has to be there.
    ///
    /// # Errors
    /// As [`Checkout::text`], and `bootstrap-missing`.
    pub(crate) fn need_text(&self, path: &str) -> Result<Arc<SourceFile>> {
        self.text(path)?.ok_or_else(|| Box::new(self.missing(path)))
    }

    /// Lists a directory, sorted by name; nothing when there is none. Links in it are not followed.
    ///
    /// # Errors
    /// As [`Checkout::resolve`]; `bootstrap-unreadable`, also for a name that is not UTF-8.
    pub(crate) fn list(&self, path: &str) -> Result<Vec<(String, FileType)>> {
        let Some(real) = self.resolve(path)? else {
            return Ok(Vec::new());
        };
        let entries = self.host.read_dir(&self.root.join(&real));
        let entries = entries.map_err(|e| Box::new(self.unreadable(path, &e)))?;
        let mut out = Vec::with_capacity(entries.len());
        for (name, kind) in entries {
            let Ok(name) = String::from_utf8(name) else {
                let why = "it holds a name that is not UTF-8";
                return Err(Box::new(self.unreadable(path, &why)));
            };
            out.push((name, kind));
        }
        out.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(out)
    }

    /// What is at a path, without following a link at its end; nothing when there is nothing.
    ///
    /// # Errors
    /// `bootstrap-unreadable`.
    pub(crate) fn kind(&self, path: &str) -> Result<Option<FileType>> {
        match self.host.file_type(&self.root.join(path)) {
            Ok(kind) => Ok(kind),
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(Box::new(self.unreadable(path, &e))),
        }
    }

    fn unreadable(&self, path: &str, why: &dyn std::fmt::Display) -> Diagnostic {
        let message = format!("`{}` cannot be read: {why}", self.shown(path));
        Diagnostic::error("bootstrap-unreadable", Class::Recipe, message)
    }
}

/// The byte order mark, which some editors put before a text and none of them shows.
const MARK: &str = "\u{feff}";

/// Refuses a text that begins with a byte order mark: it is a part of the first word for everything that reads the file.
fn without_mark(file: &Arc<SourceFile>) -> Result<()> {
    if !file.text.starts_with(MARK) {
        return Ok(());
    }
    let message = format!("`{}` begins with a byte order mark", file.name);
    Err(Box::new(
        Diagnostic::error("bootstrap-syntax", Class::Recipe, message)
            .label(
                file,
                0..MARK.len(),
                "the three bytes before this, which are not seen",
            )
            .note("the mark would be a part of the first word")
            .help(format!(
                "`sed -i '1s/^\\xef\\xbb\\xbf//' {}` removes it",
                file.name
            )),
    ))
}

/// Tells whether a path, from the top of the checkout, is in a directory of steps.
fn is_of_steps(path: &Path) -> bool {
    let first = path.components().next();
    let first = first.and_then(|part| part.as_os_str().to_str());
    first.is_some_and(|name| name == "steps" || name.starts_with("steps-"))
}

fn is_absent(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
