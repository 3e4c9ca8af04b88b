//! Files: reading, importing, searching, and the virtual files of extensions.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use sos_formats::store_path::StorePath;

use super::delay::named;
use super::{Coerce, R, Surroundings, Text, Vm, canon_path};
use crate::error::{Error, Kind};
use crate::heap::{Attrs, Native, Str, Value};
use crate::host::{ContextElem, FileType, VirtualFiles};
use crate::ir::Pos;

/// Where the virtual files of extensions appear.
pub(super) const VIRTUAL: &[u8] = b"/.sos-builtin/";

/// Virtual files that are always there.
const CORE: &[(&str, VirtualFiles)] = &[(
    "nix",
    &[
        ("fetchurl.nix", include_str!("../builtins/fetchurl.nix")),
        ("call-flake.nix", include_str!("../flake/call-flake.nix")),
    ],
)];

/// The line of a place, given as a number.
static LINE: Native = Native {
    run: |vm, a| Ok(Value::int(line_column(vm, a[0]).0 as i64)),
};
/// The column of a place.
static COLUMN: Native = Native {
    run: |vm, a| Ok(Value::int(line_column(vm, a[0]).1 as i64)),
};

fn line_column(vm: &Vm, at: Value) -> (usize, usize) {
    let pos = at.small_int().and_then(|p| u32::try_from(p).ok());
    let sources = vm.sources.borrow();
    let found = pos.and_then(|p| sources.line_column(Pos(p)));
    found.map_or((0, 0), |(_, line, column)| (line, column))
}

/// Where the virtual files appear.
pub(crate) fn virtual_root() -> &'static [u8] {
    VIRTUAL
}

/// The host's form of a path.
pub(crate) fn os_path(p: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(p))
}

/// Our form of a host path.
pub(crate) fn path_bytes(p: PathBuf) -> Vec<u8> {
    p.into_os_string().into_vec()
}

impl Vm {
    fn virtual_files(&self, p: &[u8]) -> Option<(VirtualFiles, String)> {
        let rest = std::str::from_utf8(p.strip_prefix(VIRTUAL)?).ok()?;
        let (name, file) = rest.split_once('/').unwrap_or((rest, ""));
        let files = self
            .options
            .extensions
            .iter()
            .flat_map(|e| &e.search)
            .find(|s| s.0 == name)
            .map(|s| s.1);
        let files = files.or_else(|| CORE.iter().find(|c| c.0 == name).map(|c| c.1))?;
        Some((files, file.to_owned()))
    }

    /// Reads a file.
    pub(crate) fn read_file(&self, p: &[u8]) -> io::Result<Vec<u8>> {
        if p.starts_with(VIRTUAL) {
            let (files, name) = self.virtual_files(p).ok_or(io::ErrorKind::NotFound)?;
            let f = files
                .iter()
                .find(|f| f.0 == name)
                .ok_or(io::ErrorKind::NotFound)?;
            return Ok(f.1.as_bytes().to_vec());
        }
        self.admit(p)?;
        let os = os_path(p);
        self.files_read.borrow_mut().insert(os.clone());
        self.host.read_file(&os)
    }

    /// What a path is, without following a last link.
    pub(crate) fn file_type(&self, p: &[u8]) -> io::Result<Option<FileType>> {
        if p.starts_with(VIRTUAL) {
            let Some((files, name)) = self.virtual_files(p) else {
                return Ok(None);
            };
            if files.iter().any(|f| f.0 == name) {
                return Ok(Some(FileType::Regular));
            }
            let dir = if name.is_empty() {
                String::new()
            } else {
                format!("{name}/")
            };
            return Ok(files
                .iter()
                .any(|f| f.0.starts_with(&dir))
                .then_some(FileType::Directory));
        }
        self.admit(p)?;
        self.host.file_type(&os_path(p))
    }

    /// Lists a directory.
    pub(crate) fn read_dir(&self, p: &[u8]) -> io::Result<Vec<(Vec<u8>, FileType)>> {
        if p.starts_with(VIRTUAL) {
            let (files, name) = self.virtual_files(p).ok_or(io::ErrorKind::NotFound)?;
            let dir = if name.is_empty() {
                String::new()
            } else {
                format!("{name}/")
            };
            let mut out: Vec<(Vec<u8>, FileType)> = Vec::new();
            for f in files.iter().filter_map(|f| f.0.strip_prefix(dir.as_str())) {
                let (n, kind) = match f.split_once('/') {
                    Some((d, _)) => (d, FileType::Directory),
                    None => (f, FileType::Regular),
                };
                if out.iter().all(|o| o.0 != n.as_bytes()) {
                    out.push((n.as_bytes().to_vec(), kind));
                }
            }
            return Ok(out);
        }
        self.admit(p)?;
        let os = os_path(p);
        self.files_read.borrow_mut().insert(os.clone());
        self.host.read_dir(&os)
    }

    /// Where a path is without links; it has to be there.
    pub(crate) fn real_path(&self, p: &[u8]) -> io::Result<Vec<u8>> {
        self.host.canonicalize(&os_path(p)).map(path_bytes)
    }

    /// Resolves a path that is a link.
    pub(crate) fn resolve_link(&self, p: &[u8]) -> io::Result<Vec<u8>> {
        if !p.starts_with(VIRTUAL) && self.file_type(p)? == Some(FileType::Symlink) {
            return self.real_path(p);
        }
        Ok(p.to_vec())
    }

    pub(crate) fn io_error(&self, e: &io::Error, p: &[u8], pos: Pos) -> Box<Error> {
        let shown = String::from_utf8_lossy(p);
        if let Some(text) = super::access::refusal(e) {
            return Error::new(Kind::Pure, pos, text);
        }
        if e.kind() == io::ErrorKind::NotFound {
            return Error::new(Kind::Io, pos, format!("path '{shown}' does not exist"));
        }
        Error::new(
            Kind::Io,
            pos,
            format!("cannot read '{shown}': {}", crate::builtins::io_text(e)),
        )
    }

    /// A place as `file:line:column`.
    pub(crate) fn show_pos(&self, p: Pos) -> String {
        let sources = self.sources.borrow();
        sources
            .line_column(p)
            .map_or_else(String::new, |(s, line, col)| {
                format!("{}:{line}:{col}", s.file.name)
            })
    }

    /// `{ file, line, column }` of a place, or null. Many ask for places and few for lines, so these are counted when needed.
    pub(crate) fn pos_value(&self, p: Pos) -> Value {
        let sources = self.sources.borrow();
        let Some((s, _)) = sources.find(p) else {
            return Value::NULL;
        };
        let file = s
            .path
            .clone()
            .unwrap_or_else(|| s.file.name.clone().into_bytes());
        let at = Value::int(i64::from(p.0));
        let later = |what| Value::thunk_native(what, at, Value::NULL);
        Value::attrs(Attrs::from_pairs(vec![
            (
                self.s.file,
                named(Value::string(&file), Value::string(&file)),
                Pos::NONE,
            ),
            (self.s.line, later(&LINE), Pos::NONE),
            (self.s.column, later(&COLUMN), Pos::NONE),
        ]))
    }

    /// Follows a link and adds `default.nix` to a directory.
    pub(crate) fn resolve_import(&self, p: &[u8], pos: Pos) -> R<Vec<u8>> {
        let mut p = self
            .resolve_link(p)
            .map_err(|e| self.io_error(&e, p, pos))?;
        if self.file_type(&p).map_err(|e| self.io_error(&e, &p, pos))? == Some(FileType::Directory)
        {
            p.extend_from_slice(b"/default.nix");
            p = self
                .resolve_link(&p)
                .map_err(|e| self.io_error(&e, &p, pos))?;
        }
        Ok(p)
    }

    /// Directories are listed anew: a person at work changes them between two inputs.
    pub(crate) fn forget_dirs(&self) {
        self.dirs.borrow_mut().clear();
    }

    /// `import` of a file, cached.
    pub(crate) fn import_file(&self, p: &[u8], pos: Pos) -> R {
        if let Some(v) = self.imports.borrow().get(p) {
            return Ok(*v);
        }
        let full = self.resolve_import(p, pos)?;
        let known = self.imports.borrow().get(&full).copied();
        let v = match known {
            Some(v) => v,
            None => self.load_once(&full, pos)?,
        };
        let mut imports = self.imports.borrow_mut();
        if full != p {
            imports.insert(p.to_vec(), v);
        }
        imports.insert(full, v);
        Ok(v)
    }

    /// Evaluates a file whose value is asked for by its path alone: one that needs itself for that has none.
    fn load_once(&self, full: &[u8], pos: Pos) -> R {
        let mut loading = self.loading.borrow_mut();
        if let Some(first) = loading.iter().position(|file| file == full) {
            return Err(super::cycle::of_files(&loading[first..], pos));
        }
        loading.push(full.to_vec());
        drop(loading);
        let r = self.load_file(full, None, pos);
        self.loading.borrow_mut().pop();
        r
    }

    /// Evaluates a file.
    pub(crate) fn load_file(&self, full: &[u8], extra: Option<Attrs>, pos: Pos) -> R {
        // Files that import each other without end must not go on until memory is full.
        self.deeper(pos, || self.run_file(full, extra, pos))
    }

    fn run_file(&self, full: &[u8], extra: Option<Attrs>, pos: Pos) -> R {
        let bytes = self
            .read_file(full)
            .map_err(|e| self.io_error(&e, full, pos))?;
        let dir = &full[..memchr::memrchr(b'/', full).unwrap_or(0)];
        let name = self.shown_name(full);
        let r = self.run_text(Text {
            bytes: bytes.into(),
            name,
            path: Some(full.to_vec()),
            around: Surroundings { dir, extra },
        });
        r.map_err(|e| {
            // A place in the file says as much.
            if self.is_in(e.pos, full) {
                return e;
            }
            let shown = String::from_utf8_lossy(full);
            e.frame(format!("while evaluating the file '{shown}'"), Pos::NONE)
        })
    }

    /// The name of a file for messages: of the copy of a directory that of the file which was copied, since that is what a person edits.
    fn shown_name(&self, full: &[u8]) -> String {
        let text = String::from_utf8_lossy(full).into_owned();
        let origins = self.trees.origins.borrow();
        let found = origins.iter().find_map(|(object, origin)| {
            let rest = full.strip_prefix(object.as_bytes())?;
            let rest = rest.starts_with(b"/").then_some(rest)?;
            Some([origin.as_slice(), rest].concat())
        });
        found.map_or(text, |place| String::from_utf8_lossy(&place).into_owned())
    }

    /// `<name>`: the first entry of the search path that has it.
    pub(crate) fn find_file(&self, paths: &[Value], name: Str, pos: Pos) -> R {
        let wanted = name.bytes();
        for entry in paths {
            let set = self.force_attrs(*entry, pos)?;
            let prefix = match set.get(self.s.prefix) {
                Some(p) => self.force_str(p, pos)?.bytes(),
                None => b"",
            };
            let Some(path) = set.get(self.s.path) else {
                return Err(self.missing(set, self.s.path, pos));
            };
            let rest = if prefix.is_empty() {
                wanted
            } else {
                match wanted.strip_prefix(prefix) {
                    Some(b"") => b"",
                    Some(r) if r.starts_with(b"/") => &r[1..],
                    _ => continue,
                }
            };
            let s = self.coerce(path, Coerce::PLAIN, pos)?;
            let mut dir = self.realise_path_string(s, pos)?;
            if let Ok(url) = std::str::from_utf8(&dir)
                && !url.starts_with("/")
                && url.contains(':')
            {
                dir = self.search_url(url, pos)?;
            }
            if !dir.starts_with(b"/") {
                continue;
            }
            let full = canon_path(&[&dir, b"/".as_slice(), rest].concat());
            if self.exists(&full) {
                return Ok(Value::path(&full));
            }
        }
        if let Ok(n) = std::str::from_utf8(wanted) {
            let (first, rest) = n.split_once('/').unwrap_or((n, ""));
            let known = self
                .options
                .extensions
                .iter()
                .flat_map(|e| &e.search)
                .any(|s| s.0 == first);
            if known || CORE.iter().any(|c| c.0 == first) {
                let full = canon_path(&[VIRTUAL, first.as_bytes(), b"/", rest.as_bytes()].concat());
                if self.exists(&full) {
                    return Ok(Value::path(&full));
                }
            }
        }
        let shown = String::from_utf8_lossy(wanted);
        Err(Error::new(
            Kind::NotFound,
            pos,
            if self.options.pure {
                format!(
                    "cannot look up '<{shown}>' in pure evaluation mode (use '--impure' to override)"
                )
            } else {
                format!(
                    "file '{shown}' was not found in the Nix search path (add it using $NIX_PATH or -I)"
                )
            },
        ))
    }

    /// Whether a path exists; links are followed.
    pub(crate) fn exists(&self, p: &[u8]) -> bool {
        match self.file_type(p) {
            Ok(Some(FileType::Symlink)) => self.host.canonicalize(&os_path(p)).is_ok(),
            Ok(t) => t.is_some(),
            Err(_) => false,
        }
    }

    /// The search path as the language sees it.
    pub(crate) fn nix_path_value(&self) -> Value {
        let entries: Vec<Value> = self
            .options
            .nix_path
            .iter()
            .map(|(prefix, path)| {
                Value::attrs(Attrs::from_pairs(vec![
                    (self.s.prefix, Value::string(prefix.as_bytes()), Pos::NONE),
                    (
                        self.s.path,
                        Value::string(path.as_os_str().as_bytes()),
                        Pos::NONE,
                    ),
                ]))
            })
            .collect();
        Value::list(&entries)
    }

    /// A value that names a file: path, string or set with `outPath`; what its context needs is built first.
    pub(crate) fn path_arg(&self, v: Value, pos: Pos) -> R<Vec<u8>> {
        let v = self.force(v)?;
        if let Some(p) = v.as_path() {
            return Ok(p.to_vec());
        }
        let s = self.coerce(v, Coerce::PLAIN, pos)?;
        let p = self.realise_path_string(s, pos)?;
        if !p.starts_with(b"/") {
            return Err(self.not_absolute(&p, pos));
        }
        Ok(canon_path(&p))
    }

    /// The error of a text that is no path. An empty one is often that of a variable that is not set.
    #[cold]
    pub(crate) fn not_absolute(&self, text: &[u8], pos: Pos) -> Box<Error> {
        let shown = String::from_utf8_lossy(text);
        let message = format!("string '{shown}' doesn't represent an absolute path");
        let e = Error::new(Kind::Value, pos, message);
        if !text.is_empty() {
            return e;
        }
        let (why, help) = if self.options.pure {
            (
                "pure evaluation hides it",
                "`--impure` shows the environment",
            )
        } else if self.options.restricted {
            (
                "restricted evaluation hides it",
                "pass what it needs with `--argstr`",
            )
        } else {
            (
                "it is not set",
                "set it, or pass what it needs with `--argstr`",
            )
        };
        let asked = self.no_env.borrow();
        let outside = asked.iter().filter(|(_, at)| self.is_outside(*at));
        let e = outside.fold(e, |e, (name, at)| {
            e.other(*at, format!("`{name}` is empty here: {why}"))
        });
        if e.others.is_empty() { e } else { e.help(help) }
    }

    /// Builds what a string refers to and returns the string with real paths in it.
    pub(crate) fn realise_path_string(&self, s: Str, pos: Pos) -> R<Vec<u8>> {
        if s.ctx() == 0 {
            return Ok(s.bytes().to_vec());
        }
        let mut wanted: Vec<(StorePath, String)> = Vec::new();
        for e in self.ctx_elems(s.ctx()) {
            match e {
                ContextElem::Built(drv, out) => wanted.push((drv, out)),
                ContextElem::Opaque(_) | ContextElem::Closure(_) => {}
            }
        }
        if wanted.is_empty() {
            return Ok(s.bytes().to_vec());
        }
        let paths = self
            .host
            .realise(&wanted)
            .map_err(|e| self.host_error(e, pos, "cannot build during evaluation"))?;
        let mut text = s.bytes().to_vec();
        for ((drv, out), real) in wanted.iter().zip(paths) {
            self.allow_object(&real);
            let hole = sos_formats::store_path::downstream_placeholder(drv, out);
            let real = self.absolute(&real);
            text = replace(&text, hole.as_bytes(), real.as_bytes());
        }
        Ok(text)
    }
}

fn replace(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    for i in memchr::memmem::find_iter(text, from) {
        out.extend_from_slice(&text[at..i]);
        out.extend_from_slice(to);
        at = i + from.len();
    }
    out.extend_from_slice(&text[at..]);
    out
}
