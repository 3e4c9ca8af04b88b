//! One evaluation: the builtins behind the `sos` library, and the locks that they read and change.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sos_formats::architecture::{ARCHITECTURES, Architecture};
use sos_formats::diagnostic::{Class, Diagnostic, SourceFile};
use sos_formats::file_name;
use sos_formats::hash::{Hash, HashAlgo};
use sos_formats::lock::Variant;
use sos_formats::uuid::Uuid;
use sos_lang::{ExtBuiltin, ExtCall, Extension, Plain};

use crate::bootstrap;
use crate::library::LIBRARY;
use crate::locks::{LockMode, Locks, Pins};
use crate::plain::{Set, int, text, texts};
use crate::problems::{Problems, not_utf8};
use crate::report::LockReport;
use crate::rootfs;
use crate::tree::{self, Places};

/// The largest recipe that is read.
const MAX_RECIPE_BYTES: usize = 4 << 20;

/// What an evaluation needs to know about its surroundings.
#[derive(Clone)]
pub struct Context {
    /// The directory of the target: where the lock of inline recipes and of URLs is, and what relative names in inline recipes
    /// are relative to.
    pub project_dir: PathBuf,
    /// Paths below this directory are shown relative to it.
    pub shown_from: PathBuf,
    /// What may happen to the locks.
    pub mode: LockMode,
    /// The command that pins what this evaluation leaves open, for advice.
    pub lock_command: String,
    /// The way to the outside.
    pub pins: Arc<dyn Pins>,
    /// The systems that this machine builds for, when what is evaluated is to be built here; else empty.
    pub systems: Vec<String>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("project_dir", &self.project_dir)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// The state of one evaluation. Clones share it.
#[derive(Debug, Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    context: Context,
    locks: Mutex<Locks>,
    read: Mutex<BTreeSet<PathBuf>>,
    /// A builtin can fail with one problem; the others of the same recipe wait here.
    further: Mutex<Vec<Diagnostic>>,
}

impl Session {
    /// Starts an evaluation.
    pub fn new(context: Context) -> Self {
        let locks = Mutex::new(Locks::new(context.mode.clone(), &context.lock_command));
        Self {
            inner: Arc::new(Inner {
                context,
                locks,
                read: Mutex::default(),
                further: Mutex::default(),
            }),
        }
    }

    /// Returns the builtins and the library for an evaluator.
    pub fn extension(&self) -> Extension {
        let builtin =
            |name, doc, f: fn(&Inner, &ExtCall<'_>, Plain) -> Result<Plain, Box<Diagnostic>>| {
                let inner = Arc::clone(&self.inner);
                ExtBuiltin {
                    name,
                    doc,
                    fun: Arc::new(move |call: &ExtCall<'_>, argument: Plain| {
                        f(&inner, call, argument)
                    }),
                }
            };
        Extension {
            builtins: vec![
                builtin(
                    "__sosRootfsPlan",
                    "Reads a rootfs recipe and its lock; returns what the library builds it from.",
                    Inner::rootfs_plan,
                ),
                builtin(
                    "__sosRootfsEdit",
                    "Checks an edit of a root filesystem; returns it as the builder takes it.",
                    Inner::rootfs_edit,
                ),
                builtin(
                    "__sosBootstrapPlan",
                    "Reads a tree of bootstrap steps; returns what the library builds it from.",
                    Inner::bootstrap_plan,
                ),
                builtin(
                    "__sosBootstrapImage",
                    "Reads a tree of bootstrap steps; returns what is on the disk that a machine without a kernel boots.",
                    Inner::bootstrap_image,
                ),
                builtin(
                    "__sosBootstrapPayload",
                    "Reads a tree of bootstrap steps; returns what is on the disk that such a machine imports later.",
                    Inner::bootstrap_payload,
                ),
                builtin(
                    "__sosFileName",
                    "Returns what a file of that name is called as a store path, `store`, and as a part of a URL, `url`.",
                    Inner::file_name,
                ),
                builtin(
                    "__sosPinUrl",
                    "Returns the digest of the content of `url` from the lock; `written` says where the URL was written.",
                    Inner::pin_url,
                ),
                builtin(
                    "__sosPinImage",
                    "Returns the digest of what `ref` names in its registry, from the lock; `written` says where it was written.",
                    Inner::pin_image,
                ),
                builtin(
                    "__sosCheckHash",
                    "Returns `hash` when it is one of SHA-256, in any notation.",
                    Inner::check_hash,
                ),
                builtin(
                    "__sosDisk",
                    "Checks the description of a disk; returns it with sizes in bytes.",
                    Inner::disk,
                ),
                builtin(
                    "__sosArchitectures",
                    "Returns every name of an architecture that images have, and by Debian's name the system of Nix; the argument is null.",
                    Inner::architectures,
                ),
                builtin(
                    "__sosUuid",
                    "Returns the UUID of the `role` of a part of what `seed` names.",
                    Inner::uuid,
                ),
                builtin(
                    "__sosRefuse",
                    "Fails with `message`, and `help` where there is one, at the place that the library hands on.",
                    Inner::refuse,
                ),
            ],
            search: vec![("sos".to_owned(), LIBRARY)],
        }
    }

    /// Writes the locks that changed, each at once, and says what changed. To be called when evaluation is over.
    ///
    /// # Errors
    /// When a lock cannot be written.
    pub fn finish(&self) -> Result<Vec<LockReport>, Box<Diagnostic>> {
        locked(&self.inner.locks).write()
    }

    /// Returns the problems beyond the one that the evaluation failed with, and forgets them.
    pub fn take_further_problems(&self) -> Vec<Diagnostic> {
        std::mem::take(&mut *locked(&self.inner.further))
    }

    /// Returns the text of every lock file that the evaluation took answers from, none for one that does not exist. To be called
    /// after [`Session::finish`]: an evaluation whose locks changed and were not written has no such texts.
    pub fn locks_read(&self) -> Option<Vec<(PathBuf, Option<String>)>> {
        locked(&self.inner.locks).texts()
    }

    /// Returns the recipe and lock files that the evaluation depends on, locks that do not exist included.
    pub fn files_read(&self) -> Vec<PathBuf> {
        let mut all = locked(&self.inner.read).clone();
        all.extend(locked(&self.inner.locks).paths());
        all.into_iter().collect()
    }
}

/// A lock poisoned by a panic elsewhere still holds usable data: every change to it is complete or not made.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn rootfs_plan(&self, call: &ExtCall<'_>, argument: Plain) -> Result<Plain, Box<Diagnostic>> {
        let Plain::Attrs(mut argument) = argument else {
            return Err(misuse(call));
        };
        let (recipe, key, base, mut problems) =
            match (argument.remove("file"), argument.remove("recipe")) {
                (Some(Plain::Path(file)), _) => self.read_recipe(call, &file)?,
                (Some(Plain::Str { s, .. }), _) => {
                    let file = PathBuf::from(String::from_utf8_lossy(&s).into_owned());
                    self.read_recipe(call, &file)?
                }
                (_, Some(recipe)) => {
                    let places = Places::below(&call.places, &["recipe"]);
                    let problems = || Problems::in_call(call.label.clone(), &places);
                    let tree = tree::from_plain(recipe, &places);
                    let (recipe, found) = rootfs::parse_tree(&tree, "rootfs", problems());
                    let recipe = self.accept(recipe, found)?;
                    let key = format!("inline:{}", recipe.name);
                    (recipe, key, self.context.project_dir.clone(), problems())
                }
                _ => return Err(misuse(call)),
            };
        let anchor = problems.same_places();
        self.check_arch(&recipe, &mut problems);
        let request = rootfs::request(&recipe, &base, call.host, &mut problems);
        let request = self.accept(request, problems.finish())?;
        let dir = if base.starts_with(call.host.store_dir().as_str()) {
            &self.context.project_dir
        } else {
            &base
        };
        let pins = Arc::clone(&self.context.pins);
        let found = locked(&self.locks).rootfs(dir, &key, &request, &*pins);
        let packages = match found {
            Ok(packages) => packages,
            Err(found) => {
                let anchor = anchor.label(&recipe.anchor(), "");
                let placed = |d: Diagnostic| match d.labels.as_slice() {
                    [] => d.with_labels(anchor.clone()),
                    _ => d,
                };
                return self.accept(None, found.into_iter().map(placed).collect());
            }
        };
        let made = &mut *call.made.borrow_mut();
        let places = rootfs::places::recipe(&recipe, &packages, &anchor, made);
        Ok(with_places(
            rootfs::lower(&recipe, &packages, &base),
            places,
        ))
    }

    fn read_recipe(
        &self,
        call: &ExtCall<'_>,
        file: &Path,
    ) -> Result<(rootfs::RootfsRecipe, String, PathBuf, Problems), Box<Diagnostic>> {
        let unreadable = |why: String| {
            let message = format!("the recipe `{}` cannot be read: {why}", self.shown(file));
            Box::new(
                Diagnostic::error("recipe-file-missing", Class::Recipe, message)
                    .with_labels(call.label.clone()),
            )
        };
        let bytes = call
            .host
            .read_file(file)
            .map_err(|e| unreadable(e.to_string()))?;
        if bytes.len() > MAX_RECIPE_BYTES {
            return Err(unreadable(format!(
                "it is {} bytes long, the limit is {MAX_RECIPE_BYTES}",
                bytes.len()
            )));
        }
        let content = String::from_utf8(bytes).map_err(|e| not_utf8(&self.shown(file), &e))?;
        let name = file
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        let base = file.parent().unwrap_or(Path::new("/"));
        // The same recipe through a symlinked directory must not get a second lock.
        let base = call
            .host
            .canonicalize(base)
            .unwrap_or_else(|_e| base.to_owned());
        locked(&self.read).insert(base.join(&name));
        let source = SourceFile::new(self.shown(file), content);
        let stem = name.strip_suffix(".toml").unwrap_or(&name);
        let stem = stem.strip_suffix(".rootfs").unwrap_or(stem);
        let (recipe, found) = rootfs::parse_file(&source, stem);
        let recipe = self.accept(recipe, found)?;
        Ok((recipe, name, base, Problems::in_file(&source)))
    }

    /// Refuses an architecture whose programs do not run here: its packages could be fetched, but not configured.
    fn check_arch(&self, recipe: &rootfs::RootfsRecipe, problems: &mut Problems) {
        let here = &self.context.systems;
        let needed = rootfs::nix_system(&recipe.arch);
        let runs = here.is_empty() || here.iter().any(|system| system == needed);
        if runs || recipe.variant == Variant::Extract {
            return;
        }
        let message = format!(
            "packages for `{}` are configured by programs that do not run here: they need {needed}, and this machine builds {}",
            recipe.arch,
            here.join(", ")
        );
        let problem = Diagnostic::error("env-wrong-system", Class::Machine, message)
            .with_labels(problems.label(&recipe.arch_place, "another architecture"))
            .help(format!(
                "build on a machine that runs {needed}, or change `arch`; `sos lock` pins its packages from here"
            ));
        problems.add(problem);
    }

    fn bootstrap_plan(
        &self,
        call: &ExtCall<'_>,
        argument: Plain,
    ) -> Result<Plain, Box<Diagnostic>> {
        self.bootstrap(call, argument, |checkout, settings, extra| {
            let plan = bootstrap::of_checkout(checkout, settings)?;
            bootstrap::lower(checkout, &plan, extra, &mut call.made.borrow_mut())
        })
    }

    fn bootstrap_image(
        &self,
        call: &ExtCall<'_>,
        argument: Plain,
    ) -> Result<Plain, Box<Diagnostic>> {
        self.bootstrap(call, argument, |checkout, settings, _| {
            bootstrap::image(checkout, settings)
        })
    }

    fn bootstrap_payload(
        &self,
        call: &ExtCall<'_>,
        argument: Plain,
    ) -> Result<Plain, Box<Diagnostic>> {
        self.bootstrap(call, argument, |checkout, settings, _| {
            bootstrap::payload_image(checkout, settings)
        })
    }

    fn file_name(&self, call: &ExtCall<'_>, argument: Plain) -> Result<Plain, Box<Diagnostic>> {
        let Plain::Str { s, .. } = argument else {
            return Err(misuse(call));
        };
        let name = String::from_utf8(s).map_err(|_e| misuse(call))?;
        Ok(Set::new()
            .with("store", text(file_name::to_store(&name)))
            .with("url", text(file_name::in_url(&name)))
            .done())
    }

    /// Opens the tree that a call names, with the settings that it gives.
    fn bootstrap(
        &self,
        call: &ExtCall<'_>,
        argument: Plain,
        read: impl FnOnce(
            &bootstrap::Checkout<'_>,
            &bootstrap::Settings,
            &bootstrap::Extra,
        ) -> Result<Plain, Vec<Diagnostic>>,
    ) -> Result<Plain, Box<Diagnostic>> {
        let Plain::Attrs(mut argument) = argument else {
            return Err(misuse(call));
        };
        let tree = match argument.remove("tree") {
            Some(Plain::Path(tree)) => tree,
            Some(Plain::Str { s, .. }) => PathBuf::from(String::from_utf8_lossy(&s).into_owned()),
            _ => return Err(misuse(call)),
        };
        let texts = |list: Option<Plain>| -> Option<Vec<String>> {
            let Some(Plain::List(list)) = list else {
                return None;
            };
            let text = |one| match one {
                Plain::Str { s, .. } => String::from_utf8(s).ok(),
                _ => None,
            };
            list.into_iter().map(text).collect()
        };
        let bad = |message: String| {
            Box::new(
                Diagnostic::error("recipe-wrong-type", Class::Recipe, message)
                    .with_labels(call.label.clone()),
            )
        };
        let words = texts(argument.remove("settings")).ok_or_else(|| {
            bad(
                "`settings` of sos.bootstrap must be a list of strings such as \"ARCH=amd64\""
                    .to_owned(),
            )
        })?;
        let mut settings = bootstrap::Settings {
            bash: argument.remove("bash") == Some(Plain::Bool(true)),
            ..bootstrap::Settings::default()
        };
        for word in words {
            let Some((name, value)) = word.split_once('=').filter(|(name, _)| !name.is_empty())
            else {
                return Err(bad(format!(
                    "`{word}` in `settings` of sos.bootstrap is not `NAME=value`"
                )));
            };
            settings.set.push((name.to_owned(), value.to_owned()));
        }
        let mut extra = bootstrap::Extra::new();
        if let Some(Plain::Attrs(all)) = argument.remove("extraDistfiles") {
            for (step, names) in all {
                let names = texts(Some(names)).ok_or_else(|| {
                    bad(format!(
                        "`extraDistfiles.\"{step}\"` must be a list of names of files"
                    ))
                })?;
                extra.insert(step, names);
            }
        }
        let shown = self.shown(&tree);
        let shown = if shown.is_empty() {
            ".".to_owned()
        } else {
            shown
        };
        // What has no place in the tree is said without one: the call is in the library, where nobody can change anything.
        let checkout = bootstrap::Checkout::open(call.host, &tree, &shown)?;
        read(&checkout, &settings, &extra).or_else(|found| self.accept(None, found))
    }

    fn rootfs_edit(&self, call: &ExtCall<'_>, argument: Plain) -> Result<Plain, Box<Diagnostic>> {
        let places = Places::below(&call.places, &[]);
        let problems = || Problems::in_call(call.label.clone(), &places);
        let (edit, found) = rootfs::parse_edit(&tree::from_plain(argument, &places), problems());
        let edit = self.accept(edit, found)?;
        let mut problems = problems();
        let known = problems.same_places();
        rootfs::check_sources(
            &edit,
            &[],
            &self.context.project_dir,
            call.host,
            &mut problems,
        );
        let edit = self.accept(Some(edit), problems.finish())?;
        let made = &mut *call.made.borrow_mut();
        let places = rootfs::places::edit(&edit, &None, &known, &["places"], made);
        Ok(with_places(
            rootfs::edit(&edit, &self.context.project_dir),
            places,
        ))
    }

    fn disk(&self, call: &ExtCall<'_>, argument: Plain) -> Result<Plain, Box<Diagnostic>> {
        let places = Places::below(&call.places, &[]);
        let problems = Problems::in_call(call.label.clone(), &places);
        let (disk, found) = rootfs::parse_disk(&tree::from_plain(argument, &places), problems);
        let disk = self.accept(disk, found)?;
        Ok(rootfs::lower_disk(&disk, &self.context.project_dir))
    }

    #[allow(clippy::unused_self, reason = "as the table of builtins calls it")]
    #[allow(
        clippy::unnecessary_wraps,
        clippy::needless_pass_by_value,
        reason = "as the table of builtins calls it"
    )]
    fn architectures(
        &self,
        _call: &ExtCall<'_>,
        _argument: Plain,
    ) -> Result<Plain, Box<Diagnostic>> {
        let systems = ARCHITECTURES
            .iter()
            .fold(Set::new(), |set, one| set.with(one.debian, text(one.nix)));
        Ok(Set::new()
            .with(
                "names",
                texts(ARCHITECTURES.iter().flat_map(Architecture::names)),
            )
            .with("systems", systems.done())
            .done())
    }

    fn uuid(&self, call: &ExtCall<'_>, argument: Plain) -> Result<Plain, Box<Diagnostic>> {
        let Plain::Attrs(mut argument) = argument else {
            return Err(misuse(call));
        };
        let (Some(Plain::Str { s: seed, .. }), Some(Plain::Str { s: role, .. })) =
            (argument.remove("seed"), argument.remove("role"))
        else {
            return Err(misuse(call));
        };
        let (seed, role) = (
            String::from_utf8_lossy(&seed),
            String::from_utf8_lossy(&role),
        );
        Ok(text(Uuid::derived(seed.as_bytes(), &role).to_string()))
    }

    fn pin_url(&self, call: &ExtCall<'_>, argument: Plain) -> Result<Plain, Box<Diagnostic>> {
        let Plain::Attrs(mut argument) = argument else {
            return Err(misuse(call));
        };
        let Some(Plain::Str { s, .. }) = argument.remove("url") else {
            return Err(misuse(call));
        };
        let url = String::from_utf8_lossy(&s).into_owned();
        let pins = Arc::clone(&self.context.pins);
        let entry = locked(&self.locks).url(&self.context.project_dir, &url, &*pins);
        let entry = entry.map_err(|e| Box::new((*e).with_labels(call.label.clone())))?;
        let (sha256, size) = match entry {
            Some(entry) => (entry.sha256.to_string(), entry.size),
            // Only when nothing will be built: see LockMode::Preview.
            None => ("0".repeat(64), 0),
        };
        Ok(Set::new()
            .with("sha256", text(sha256))
            .with("size", int(size))
            .done())
    }

    fn pin_image(&self, call: &ExtCall<'_>, argument: Plain) -> Result<Plain, Box<Diagnostic>> {
        let Plain::Attrs(mut argument) = argument else {
            return Err(misuse(call));
        };
        let Some(Plain::Str { s, .. }) = argument.remove("ref") else {
            return Err(misuse(call));
        };
        let reference = String::from_utf8_lossy(&s).into_owned();
        let pins = Arc::clone(&self.context.pins);
        let entry = locked(&self.locks).image(&self.context.project_dir, &reference, &*pins);
        let entry = entry.map_err(|e| Box::new((*e).with_labels(call.label.clone())))?;
        // None only when nothing will be built: see LockMode::Preview.
        let digest = entry.map_or_else(|| "0".repeat(64), |entry| entry.digest.to_string());
        Ok(text(format!("sha256:{digest}")))
    }

    fn check_hash(&self, call: &ExtCall<'_>, argument: Plain) -> Result<Plain, Box<Diagnostic>> {
        let Plain::Attrs(mut argument) = argument else {
            return Err(misuse(call));
        };
        let hash = argument.remove("hash");
        let why = match &hash {
            Some(Plain::Str { s, .. }) => {
                let text = String::from_utf8_lossy(s);
                match Hash::parse_any(&text, Some(HashAlgo::Sha256)) {
                    Ok(found) if found.algo() == HashAlgo::Sha256 => {
                        return hash.ok_or_else(|| misuse(call));
                    }
                    Ok(found) => format!("`{text}` is a hash of {}, not of sha256", found.algo()),
                    Err(e) => format!("`{text}` is no hash: {e}"),
                }
            }
            _ => "a hash must be a string".to_owned(),
        };
        Err(Box::new(
            Diagnostic::error("recipe-bad-hash", Class::Recipe, why)
                .with_labels(call.label.clone())
                .help("leave it out to have `sos.lock` pin the content, or write `sha256-` and 44 characters of base64, or 64 hexadecimal digits"),
        ))
    }

    fn refuse(&self, call: &ExtCall<'_>, argument: Plain) -> Result<Plain, Box<Diagnostic>> {
        let Plain::Attrs(argument) = argument else {
            return Err(misuse(call));
        };
        let text = |name: &str| match argument.get(name) {
            Some(Plain::Str { s, .. }) => Some(String::from_utf8_lossy(s).into_owned()),
            _ => None,
        };
        // What else is wrong with the same call; each is shown where its own part was written.
        let rest: Vec<&Plain> = match argument.get("more") {
            Some(Plain::List(all)) => all.iter().collect(),
            _ => Vec::new(),
        };
        // Codes are a closed set of words of the program's own.
        let code = match text("code").as_deref() {
            Some("recipe-wrong-type") => "recipe-wrong-type",
            Some("recipe-file-missing") => "recipe-file-missing",
            _ => "recipe-bad-value",
        };
        let message = text("message").unwrap_or_default();
        let at = |path: &[&str]| {
            let within =
                |place: &Vec<String>| path.iter().zip(place).all(|(a, b)| *a == b.as_str());
            let mut places = call.places.iter();
            let found = places.find(|(place, _)| place.len() > path.len() && within(place));
            found.map(|(_, label)| label.clone())
        };
        let own = match rest.is_empty() {
            true => call.label.clone(),
            false => at(&["__place"]).or_else(|| call.label.clone()),
        };
        let problem = Diagnostic::error(code, Class::Recipe, message).with_labels(own);
        let mut problems = vec![match text("help") {
            Some(help) => problem.help(help),
            None => problem,
        }];
        for (i, one) in rest.into_iter().enumerate() {
            let Plain::Attrs(one) = one else { continue };
            let Some(Plain::Str { s, .. }) = one.get("message") else {
                continue;
            };
            let message = String::from_utf8_lossy(s).into_owned();
            let label = at(&["more", &i.to_string(), "__place"]).or_else(|| call.label.clone());
            problems.push(Diagnostic::error(code, Class::Recipe, message).with_labels(label));
        }
        self.accept(None, problems)
    }

    /// Returns the value, or fails with the first problem and keeps the others.
    fn accept<T>(&self, value: Option<T>, problems: Vec<Diagnostic>) -> Result<T, Box<Diagnostic>> {
        let mut problems = problems.into_iter();
        match (value, problems.next()) {
            (Some(value), None) => Ok(value),
            (_, Some(first)) => {
                locked(&self.further).extend(problems);
                Err(Box::new(first))
            }
            (None, None) => Err(Box::new(Diagnostic::error(
                "recipe-failed",
                Class::Bug,
                "a recipe was refused without a reason",
            ))),
        }
    }

    fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.context.shown_from)
            .unwrap_or(path)
            .display()
            .to_string()
    }
}

/// Adds to an answer where its parts were written.
fn with_places(answer: Plain, places: Plain) -> Plain {
    match answer {
        Plain::Attrs(mut all) => {
            all.insert("places".to_owned(), places);
            Plain::Attrs(all)
        }
        other => other,
    }
}

fn misuse(call: &ExtCall<'_>) -> Box<Diagnostic> {
    let message = "a builtin of the sos library was called with something that it does not take";
    Box::new(
        Diagnostic::error("recipe-bad-call", Class::Recipe, message)
            .with_labels(call.label.clone()),
    )
}
