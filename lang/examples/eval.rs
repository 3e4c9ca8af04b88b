//! Evaluates a Nix file on the real file system: `eval [--strict] [--xml] [--json] [-A ATTR] [-I NAME=DIR] [-E] FILE|EXPR`, `eval --parse -`.
//!
//! A small front end for benchmarks and for the conformance suite; nothing is written to any store: the paths of sources are
//! computed, and derivations are kept in memory.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a command line program of its own"
)]

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use sos_formats::derivation::{Derivation, Method};
use sos_formats::diagnostic::Diagnostic;
use sos_formats::hash::{Hash, HashAlgo, Sha256};
use sos_formats::store_path::{self, StoreDir, StorePath};
use sos_lang::{Evaluator, FetchRequest, FileType, Host, HostError, Options, PathFilter, Value};

// The allocator of the real program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct RealHost {
    dir: StoreDir,
    drvs: RefCell<HashMap<StorePath, Vec<u8>>>,
}

fn kind(t: std::fs::FileType) -> FileType {
    if t.is_symlink() {
        FileType::Symlink
    } else if t.is_dir() {
        FileType::Directory
    } else if t.is_file() {
        FileType::Regular
    } else {
        FileType::Unknown
    }
}

fn nar_str(out: &mut Vec<u8>, s: &[u8]) {
    out.extend_from_slice(&(s.len() as u64).to_le_bytes());
    out.extend_from_slice(s);
    out.resize(out.len().next_multiple_of(8), 0);
}

fn nar(
    path: &Path,
    out: &mut Vec<u8>,
    filter: &mut Option<PathFilter<'_>>,
) -> Result<(), HostError> {
    let meta = std::fs::symlink_metadata(path)?;
    nar_str(out, b"(");
    nar_str(out, b"type");
    if meta.is_symlink() {
        nar_str(out, b"symlink");
        nar_str(out, b"target");
        nar_str(out, &std::fs::read_link(path)?.into_os_string().into_vec());
    } else if meta.is_dir() {
        nar_str(out, b"directory");
        let mut names = Vec::new();
        for e in std::fs::read_dir(path)? {
            let e = e?;
            names.push((e.file_name().into_vec(), e.path(), kind(e.file_type()?)));
        }
        names.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, child, kind) in names {
            if let Some(f) = filter
                && !f(&child, kind)?
            {
                continue;
            }
            for s in [&b"entry"[..], b"(", b"name", &name, b"node"] {
                nar_str(out, s);
            }
            nar(&child, out, filter)?;
            nar_str(out, b")");
        }
    } else {
        nar_str(out, b"regular");
        if meta.permissions().mode() & 0o100 != 0 {
            nar_str(out, b"executable");
            nar_str(out, b"");
        }
        nar_str(out, b"contents");
        nar_str(out, &std::fs::read(path)?);
    }
    nar_str(out, b")");
    Ok(())
}

impl Host for RealHost {
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<(Vec<u8>, FileType)>> {
        std::fs::read_dir(path)?
            .map(|e| e.and_then(|e| Ok((e.file_name().into_vec(), kind(e.file_type()?)))))
            .collect()
    }
    fn file_type(&self, path: &Path) -> io::Result<Option<FileType>> {
        match std::fs::symlink_metadata(path) {
            Ok(m) => Ok(Some(kind(m.file_type()))),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        std::fs::canonicalize(path)
    }
    fn add_path(
        &self,
        path: &Path,
        name: &str,
        method: Method,
        mut filter: Option<PathFilter<'_>>,
        expected: Option<&Hash>,
    ) -> Result<StorePath, HostError> {
        let hash = if method == Method::Flat {
            Hash::of(HashAlgo::Sha256, &std::fs::read(path)?)
        } else {
            let mut out = Vec::new();
            nar_str(&mut out, b"nix-archive-1");
            nar(path, &mut out, &mut filter)?;
            Hash::of(HashAlgo::Sha256, &out)
        };
        if expected.is_some_and(|e| *e != hash) {
            return Err(HostError::Message(format!(
                "store path mismatch in (possibly filtered) path added from '{}'",
                path.display()
            )));
        }
        store_path::make_fixed(&self.dir, name, method, &hash, &BTreeSet::new(), false)
            .map_err(|e| HostError::Message(e.to_string()))
    }
    fn add_text(
        &self,
        name: &str,
        contents: &[u8],
        references: &BTreeSet<StorePath>,
    ) -> Result<StorePath, HostError> {
        store_path::make_text(&self.dir, name, &Sha256::of(contents), references)
            .map_err(|e| HostError::Message(e.to_string()))
    }
    fn add_derivation(&self, path: &StorePath, aterm: &[u8]) -> Result<(), HostError> {
        self.drvs.borrow_mut().insert(path.clone(), aterm.to_vec());
        Ok(())
    }
    fn read_derivation(&self, path: &StorePath) -> Result<Derivation, HostError> {
        let drvs = self.drvs.borrow();
        let aterm = drvs
            .get(path)
            .ok_or_else(|| HostError::Message(format!("path '{path}' is not valid")))?;
        Derivation::parse_aterm(aterm, &self.dir).map_err(|e| HostError::Message(e.to_string()))
    }
    fn realise(&self, _wanted: &[(StorePath, String)]) -> Result<Vec<StorePath>, HostError> {
        Err(HostError::Message("this program builds nothing".into()))
    }
    fn is_valid_path(&self, path: &StorePath) -> Result<bool, HostError> {
        Ok(Path::new(&path.absolute(&self.dir)).exists())
    }
    fn fetch_url(&self, request: &FetchRequest) -> Result<StorePath, HostError> {
        Err(HostError::Message(format!(
            "this program downloads nothing, so not '{}'",
            request.url
        )))
    }
    fn env(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
    fn current_time(&self) -> i64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
    }
    fn system(&self) -> &'static str {
        "x86_64-linux"
    }
    fn store_dir(&self) -> &StoreDir {
        &self.dir
    }
    fn trace(&self, message: &str) {
        eprintln!("trace: {message}");
    }
    fn warn(&self, message: &str) {
        eprintln!("evaluation warning: {message}");
    }
}

#[derive(Default)]
struct Args {
    strict: bool,
    xml: bool,
    no_location: bool,
    json: bool,
    expr: bool,
    parse: bool,
    stats: bool,
    attr: String,
    args: Vec<(String, String, bool)>,
    search: Vec<(String, PathBuf)>,
    file: Option<String>,
}

fn search_entry(s: &str) -> (String, PathBuf) {
    let (prefix, path) = s.split_once('=').unwrap_or(("", s));
    (
        prefix.to_owned(),
        std::path::absolute(path).unwrap_or_else(|_| path.into()),
    )
}

fn arguments() -> Args {
    let mut a = Args::default();
    let mut it = std::env::args().skip(1);
    while let Some(x) = it.next() {
        match x.as_str() {
            "--strict" => a.strict = true,
            "--xml" => a.xml = true,
            "--no-location" => a.no_location = true,
            "--json" => a.json = true,
            "--parse" => a.parse = true,
            "--stats" => a.stats = true,
            "-E" | "--expr" => a.expr = true,
            "-A" | "--attr" => a.attr = it.next().unwrap_or_default(),
            "--arg" | "--argstr" => {
                let name = it.next().unwrap_or_default();
                a.args
                    .push((name, it.next().unwrap_or_default(), x == "--argstr"));
            }
            "-I" => a.search.extend(it.next().map(|s| search_entry(&s))),
            "--eval" | "--show-trace" | "--instantiate" => {}
            _ => a.file = Some(x),
        }
    }
    if let Ok(p) = std::env::var("NIX_PATH") {
        a.search
            .extend(p.split(':').filter(|s| !s.is_empty()).map(search_entry));
    }
    a
}

fn report(d: &Diagnostic) {
    for f in d.trace.iter().rev() {
        eprint!("… {}", f.message);
        if let Some(l) = &f.label {
            let (line, column) = l.file.line_column(l.span.start);
            eprint!("  at {}:{line}:{column}", l.file.name);
        }
        eprintln!();
    }
    eprintln!("error: {}", d.message);
    if let Some(l) = d.labels.first() {
        let (line, column) = l.file.line_column(l.span.start);
        eprintln!("  at {}:{line}:{column}", l.file.name);
    }
    for h in &d.helps {
        eprintln!("  {h}");
    }
}

fn run(a: &Args) -> Result<Vec<u8>, Box<Diagnostic>> {
    let host = RealHost {
        dir: StoreDir::default(),
        drvs: RefCell::default(),
    };
    let options = Options {
        nix_path: a.search.clone(),
        ..Options::default()
    };
    let e = Evaluator::new(Rc::new(host), options);
    let cwd = std::env::current_dir().unwrap_or_else(|_| "/".into());
    let file = a.file.clone().unwrap_or_else(|| "default.nix".into());
    let mut stdin = Vec::new();
    if file == "-" && io::stdin().read_to_end(&mut stdin).is_err() {
        stdin.clear();
    }
    if a.parse {
        let mut out = e.parse_canonical(&stdin, "«stdin»", &cwd)?;
        out.push(b'\n');
        return Ok(out);
    }
    let mut v: Value = if a.expr {
        e.eval_str(&file, "«string»", &cwd)?
    } else if file == "-" {
        e.eval_bytes(&stdin, "«stdin»", &cwd)?
    } else {
        e.eval_file(&cwd.join(&file))?
    };
    let mut args = sos_lang::Arguments::default();
    for (name, text, string) in &a.args {
        let x = if *string {
            e.from_plain(&sos_lang::Plain::Str {
                s: text.clone().into(),
                context: vec![],
            })
        } else {
            e.eval_str(text, "«arg»", &cwd)?
        };
        args.given.insert(name.clone(), x);
    }
    v = e.select_with(v, &a.attr, &args)?;
    v = e.auto_call(v, &args)?;
    if a.strict || a.xml || a.json {
        v = e.force_deep(v)?;
    }
    let mut out = if a.xml {
        return e.to_xml(v, !a.no_location);
    } else if a.json {
        e.to_json(v)?.into_bytes()
    } else {
        e.print_bytes(v)
    };
    out.push(b'\n');
    if a.stats {
        eprintln!("heap: {} KiB", e.heap_bytes() / 1024);
    }
    Ok(out)
}

fn main() -> std::process::ExitCode {
    let code = sos_lang::with_big_stack(|| {
        let a = arguments();
        match run(&a) {
            Ok(out) => u8::from(io::stdout().write_all(&out).is_err()),
            Err(d) => {
                report(&d);
                1
            }
        }
    });
    std::process::ExitCode::from(code)
}
