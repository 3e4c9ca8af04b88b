//! How the language reaches the world. Implemented over the store by the command line, and in memory by tests.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sos_formats::Bytes;
use sos_formats::derivation::{Derivation, Method};
use sos_formats::diagnostic::{Diagnostic, Label};
use sos_formats::flake_ref::Attrs;
use sos_formats::hash::Hash;
use sos_formats::store_path::{StoreDir, StorePath};

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileType {
    /// A file with content.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Anything else: device, socket, pipe.
    Unknown,
}

impl FileType {
    /// The name that the language has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            FileType::Regular => "regular",
            FileType::Directory => "directory",
            FileType::Symlink => "symlink",
            FileType::Unknown => "unknown",
        }
    }
}

/// A file to download.
#[derive(Debug, Clone)]
pub struct FetchRequest {
    /// Where from.
    pub url: String,
    /// Name of the store object.
    pub name: String,
    /// What it must hash to: the file itself, or with `unpack` the NAR of the unpacked tree.
    pub sha256: Option<Hash>,
    /// The same as the recipe gives it, for messages in its notation.
    pub written: Option<String>,
    /// Whether it is an archive whose content is wanted.
    pub unpack: bool,
}

/// A tree of files to fetch.
#[derive(Debug, Clone)]
pub struct TreeRequest {
    /// What it is: the attributes of a flake reference.
    pub attrs: Attrs,
    /// Name of the store object.
    pub name: String,
    /// Where a relative path starts: a directory of the logical store.
    pub base: Option<PathBuf>,
}

/// A tree that is in the store.
#[derive(Debug, Clone)]
pub struct FetchedTree {
    /// Where it is.
    pub path: StorePath,
    /// The attributes of the request, with `narHash` and all that was learnt: `rev`, `lastModified`, ...
    pub attrs: Attrs,
}

/// What may happen to the lock of a flake that lacks something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FlakeLocks {
    /// It is completed and written where it can be.
    Write,
    /// It is completed in memory.
    #[default]
    Keep,
    /// That is an error.
    Refuse,
}

/// Why the host could not do what was asked.
#[derive(Debug)]
pub enum HostError {
    /// The file system said no.
    Io(io::Error),
    /// A problem that is described already.
    Diagnostic(Box<Diagnostic>),
    /// Any other reason, one line.
    Message(String),
}

impl From<io::Error> for HostError {
    fn from(e: io::Error) -> Self {
        HostError::Io(e)
    }
}

/// Decides which files of a tree are added to the store.
pub type PathFilter<'a> = &'a mut dyn FnMut(&Path, FileType) -> Result<bool, HostError>;

/// The world as the evaluator sees it. For a path inside the logical store directory the host finds the physical place.
pub trait Host {
    /// Reads a file.
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Lists a directory, in any order.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<(Bytes, FileType)>>;
    /// Says what a path is, without following a link at its end; `None` when there is nothing.
    fn file_type(&self, path: &Path) -> io::Result<Option<FileType>>;
    /// Resolves all links of a path.
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf>;
    /// Adds a file or tree to the store.
    fn add_path(
        &self,
        path: &Path,
        name: &str,
        method: Method,
        filter: Option<PathFilter<'_>>,
        expected: Option<&Hash>,
    ) -> Result<StorePath, HostError>;
    /// Adds a text to the store.
    fn add_text(
        &self,
        name: &str,
        contents: &[u8],
        references: &BTreeSet<StorePath>,
    ) -> Result<StorePath, HostError>;
    /// Learns of a derivation.
    fn add_derivation(&self, path: &StorePath, aterm: &[u8]) -> Result<(), HostError>;
    /// Reads a derivation.
    fn read_derivation(&self, path: &StorePath) -> Result<Derivation, HostError>;
    /// Builds outputs of derivations and returns their paths, in order.
    fn realise(&self, wanted: &[(StorePath, String)]) -> Result<Vec<StorePath>, HostError>;
    /// Says whether a path is in the store.
    fn is_valid_path(&self, path: &StorePath) -> Result<bool, HostError>;
    /// Downloads a file or archive into the store.
    fn fetch_url(&self, request: &FetchRequest) -> Result<StorePath, HostError>;
    /// Fetches a tree of files into the store; refuses one that does not have the `narHash` that is asked for.
    fn fetch_tree(&self, request: &TreeRequest) -> Result<FetchedTree, HostError> {
        Err(HostError::Message(format!(
            "cannot fetch '{}' here",
            sos_formats::flake_ref::to_json(&request.attrs)
        )))
    }
    /// Says that the evaluation has seen the name of the store object that holds this path: what it gives may depend on all of the
    /// object. Until then it depends only on what was read of it.
    fn object_named(&self, _path: &Path) {}
    /// Writes the lock of a local flake; in a git repository it becomes part of what the repository lists.
    fn write_flake_lock(&self, path: &Path, _text: &str) -> Result<(), HostError> {
        Err(HostError::Message(format!(
            "cannot write '{}' here",
            path.display()
        )))
    }
    /// Reads an environment variable.
    fn env(&self, name: &str) -> Option<String>;
    /// Seconds since 1970.
    fn current_time(&self) -> i64;
    /// The platform, `x86_64-linux`.
    fn system(&self) -> &str;
    /// The logical store directory.
    fn store_dir(&self) -> &StoreDir;
    /// Shows a message of `builtins.trace`.
    fn trace(&self, message: &str);
    /// Shows a warning.
    fn warn(&self, message: &str);
}

/// Settings of an evaluation.
#[derive(Clone)]
pub struct Options {
    /// What `<name>` means: prefix (possibly empty) and path, first match wins.
    pub nix_path: Vec<(String, PathBuf)>,
    /// Whether clock, environment and search path are out of reach.
    pub pure: bool,
    /// Whether only `nix_path`, `roots` and `allowed_uris` may be read.
    pub restricted: bool,
    /// What pure and restricted evaluation may read besides what was fetched.
    pub roots: Vec<PathBuf>,
    /// Beginnings of the URLs that restricted evaluation may use.
    pub allowed_uris: Vec<String>,
    /// What the recipes add to the language.
    pub extensions: Vec<Extension>,
    /// How deep calls may nest.
    pub max_call_depth: u32,
    /// Which parts of the syntax are accepted, and with what remarks.
    pub dialect: Dialect,
    /// Whether `fromTOML` reads dates and times.
    pub toml_timestamps: bool,
}

/// Which parts of the syntax are accepted, and with what remarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dialect {
    /// Whether `|>` and `<|` are operators.
    pub pipe_operators: bool,
    /// URLs without quotes.
    pub url_literals: Lint,
    /// Relative paths that do not begin with a dot: `a/b`.
    pub short_path_literals: Lint,
    /// Paths that begin with `/` or `~/`.
    pub absolute_path_literals: Lint,
}

/// What is done about something that is allowed but seldom meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lint {
    /// Nothing.
    #[default]
    Ignore,
    /// A warning.
    Warn,
    /// It is an error.
    Fatal,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            nix_path: Vec::new(),
            pure: false,
            restricted: false,
            roots: Vec::new(),
            allowed_uris: Vec::new(),
            extensions: Vec::new(),
            max_call_depth: 10_000,
            dialect: Dialect::default(),
            toml_timestamps: false,
        }
    }
}

/// A virtual directory below `<name>`: path and text of each file.
pub type VirtualFiles = &'static [(&'static str, &'static str)];

/// Builtins and virtual files from outside.
#[derive(Clone, Default)]
pub struct Extension {
    /// Builtins to add.
    pub builtins: Vec<ExtBuiltin>,
    /// What `<name>` and `<name/path>` find: a name, and the virtual files below it. `<name>` imports `default.nix`.
    pub search: Vec<(String, VirtualFiles)>,
}

/// The code of a builtin from outside: plain data in, plain data out.
pub type ExtFn = Arc<dyn Fn(&ExtCall<'_>, Plain) -> Result<Plain, Box<Diagnostic>>>;

/// A builtin from outside. It takes one argument, which arrives completely evaluated.
#[derive(Clone)]
pub struct ExtBuiltin {
    /// A global name; no attribute of `builtins`, so that programs that list these see what Nix has.
    pub name: &'static str,
    /// What it does.
    pub doc: &'static str,
    /// The code.
    pub fun: ExtFn,
}

/// Where a builtin from outside was called, and what it may use.
pub struct ExtCall<'a> {
    /// The place for diagnostics: the call, or when a library makes it, the first place in the argument that its user wrote.
    pub label: Option<Label>,
    /// Where the attributes of the argument were written, by attribute path; an index stands for an element of a list. Places
    /// in libraries are left out.
    pub places: BTreeMap<Vec<String>, Label>,
    /// The world.
    pub host: &'a dyn Host,
    /// For the builtin to fill: where the attributes of its answer were written, by attribute path as in `places`. What a
    /// library makes of them is then shown there.
    pub made: RefCell<BTreeMap<Vec<String>, Label>>,
}

/// What a string depends on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContextElem {
    /// A store path as it is.
    Opaque(StorePath),
    /// An output of a derivation.
    Built(StorePath, String),
    /// A derivation with everything it needs.
    Closure(StorePath),
}

/// A completely evaluated value without functions.
#[derive(Debug, Clone, PartialEq)]
pub enum Plain {
    /// null
    Null,
    /// A truth value.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A floating point number.
    Float(f64),
    /// A string and what it depends on.
    Str {
        /// The bytes.
        s: Bytes,
        /// What it depends on, sorted.
        context: Vec<ContextElem>,
    },
    /// A path.
    Path(PathBuf),
    /// A list.
    List(Vec<Plain>),
    /// An attribute set.
    Attrs(BTreeMap<String, Plain>),
}
