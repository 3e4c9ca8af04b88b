//! The builders that make fixed outputs out of URLs: sos's own `builtin:fetch` and Nix's `builtin:fetchurl`.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::derivation::Output;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::file_name::of_store;

use super::fetcher::{FetchError, Fetcher};
use super::from_git::{self, NotMade};
use super::observer::Observer;
use super::output::{Unpack, Wish, fetch_output};
use crate::build::Build;

/// Makes a fixed output from `urls`.
#[derive(Clone, Debug)]
pub struct FetchBuilder {
    fetcher: Fetcher,
    /// The command that pins anew what is fetched.
    relock: String,
}

impl FetchBuilder {
    /// Makes the builder around the run's fetcher.
    pub fn new(fetcher: Fetcher) -> Self {
        Self::advising(fetcher, String::new())
    }

    /// Makes the builder, with the command that pins anew what is fetched.
    pub fn advising(fetcher: Fetcher, relock: String) -> Self {
        let relock = if relock.is_empty() {
            "sos lock --update".to_owned()
        } else {
            relock
        };
        Self { fetcher, relock }
    }
}

#[derive(Deserialize)]
struct FetchAttrs {
    urls: Vec<String>,
    #[serde(default)]
    executable: bool,
    /// Unpack an archive, without its single top directory.
    #[serde(default)]
    unpack: bool,
    /// The size of what is transferred, if it is known.
    size: Option<u64>,
    /// Name and version of the package that this is, when a lock names it.
    package: Option<String>,
    /// The bootstrap step that needs it: then the first address is a mirror, which nobody needs to have named.
    distfile: Option<String>,
    /// `REPOSITORY~REF`: the file is the archive of that revision, and can be made when nobody has it.
    git: Option<String>,
}

impl Builder for FetchBuilder {
    fn name(&self) -> &'static str {
        "builtin:fetch"
    }
    fn pool(&self) -> Pool {
        Pool::Io
    }
    fn revision(&self) -> u32 {
        1
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let mut attrs: FetchAttrs = ctx.attrs_as()?;
        // What `sources` calls it.
        let file = attrs.distfile.as_ref().map(|_| of_store(ctx.name));
        if attrs.distfile.is_some() {
            attrs.urls.retain(|url| self.fetcher.is_known(url));
        }
        let unpack = if attrs.unpack {
            Unpack::Archive
        } else {
            Unpack::Nothing
        };
        let done = run(
            ctx,
            &self.fetcher,
            &attrs.urls,
            attrs.executable,
            unpack,
            attrs.size,
        );
        let done = match (done, &attrs.git) {
            (Err(BuilderError::Diagnostic(why)), Some(git)) => {
                made_from_git(ctx, git, file.as_deref().unwrap_or(ctx.name), *why)
            }
            (done, _) => done,
        };
        match (done, &attrs.package) {
            (Err(BuilderError::Diagnostic(why)), Some(package)) => {
                let output = ctx.drv.outputs.get("out");
                Err(of_package(package, output, *why, &self.relock).into())
            }
            (Err(BuilderError::Diagnostic(why)), None) => match &attrs.distfile {
                Some(step) => {
                    let output = ctx.drv.outputs.get("out");
                    let name = file.as_deref().unwrap_or(ctx.name);
                    Err(of_step(step, name, output, &attrs.urls, *why).into())
                }
                None => Err(why.into()),
            },
            (done, _) => done,
        }
    }
}

/// Makes the archive that nobody has, or says also why that failed.
fn made_from_git(
    ctx: &BuilderCtx<'_>,
    git: &str,
    name: &str,
    mut why: Diagnostic,
) -> Result<(), BuilderError> {
    let Some(Output::Fixed { hash, .. }) = ctx.drv.outputs.get("out") else {
        return Err(why.into());
    };
    // No address was tried, so the repository is all that there is.
    if why.code == "fetch-failed" && why.notes.is_empty() {
        why.message = format!("cannot fetch `{name}`: its git repository gives no archive");
    }
    if ctx.options.offline {
        return Err(why.note(format!("git archive of {git}: offline")).into());
    }
    let (out, work) = (ctx.out_path("out"), ctx.work_dir()?);
    if let Err(error) = std::fs::remove_file(&out)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(io_error("cannot remove", &out, error));
    }
    from_git::write(ctx, git, name, hash, &out, &work).map_err(|not| match not {
        NotMade::Cancelled => BuilderError::Cancelled,
        NotMade::NoRoom(path) => io_error(
            "cannot write",
            &path,
            std::io::ErrorKind::StorageFull.into(),
        ),
        NotMade::Because(git) => why.note(git).into(),
    })
}

/// Puts the failure of a download into the words of the lock that asked for it.
fn of_package(
    package: &str,
    output: Option<&Output>,
    mut why: Diagnostic,
    relock: &str,
) -> Diagnostic {
    // Only a mirror that answers can say that it does not have a file; one that is down calls for no new lock.
    let gone = |note: &String| {
        ["404", "410", "No such file"]
            .iter()
            .any(|sign| note.contains(sign))
    };
    match why.code {
        "fetch-failed" if why.notes.iter().any(gone) => {
            not_to_be_had(package, output, &why, relock)
        }
        "fetch-hash-mismatch" => {
            why.helps = vec![format!(
                "the mirror delivers something else than was locked: try another one, or `{relock}` if the archive really changed it"
            )];
            why
        }
        _ => why,
    }
}

/// Says of a file from outside which step needs it, and exactly what it is.
fn of_step(
    step: &str,
    name: &str,
    output: Option<&Output>,
    urls: &[String],
    mut why: Diagnostic,
) -> Diagnostic {
    if why.code == "fetch-hash-mismatch" {
        why.message = format!("the file `{name}`, which `{step}` needs, does not match its hash");
        why.hashes.clear();
        // The digest is the tree's, which says what the step is: it is no answer to what a mirror happens to deliver.
        why.helps = vec![format!(
            "`{step}` needs `{name}` as its `sources` has it: name a mirror that has that file with `SOS_MIRRORS_DISTFILES=http://mirror.example`, or `mirrors.distfiles` in the configuration"
        )];
        return why;
    }
    let message = format!("the file `{name}`, which `{step}` needs, cannot be fetched");
    let mut diagnostic = Diagnostic::error("bootstrap-distfile-missing", Class::Fetch, message);
    if let Some(Output::Fixed { hash, .. }) = output {
        diagnostic = diagnostic.note(format!("{} {}", hash.algo(), hash.to_hex()));
    }
    for source in &why.notes {
        diagnostic = diagnostic.note(source.clone());
    }
    // An address that was not tried is still where the file may be had.
    for url in urls {
        if !why.notes.iter().any(|note| note.contains(url.as_str())) && !url.starts_with("mirror:")
        {
            diagnostic = diagnostic.note(url.clone());
        }
    }
    // The same words for every file: of many that are missing it is said once.
    diagnostic.help(
        "name a mirror that has it under its name, as `<mirror>/NAME`: `SOS_MIRRORS_DISTFILES=http://mirror.example`, or `mirrors.distfiles` in the configuration",
    )
}

/// Says of a package what the failure of its download does not: that a lock asks for it, for exactly what, and the way out.
fn not_to_be_had(
    package: &str,
    output: Option<&Output>,
    why: &Diagnostic,
    relock: &str,
) -> Diagnostic {
    let message = format!("the locked package `{package}` cannot be fetched");
    let mut diagnostic = Diagnostic::error("lock-package-missing", Class::Fetch, message);
    if let Some(Output::Fixed { hash, .. }) = output {
        diagnostic = diagnostic.note(format!("{} {}", hash.algo(), hash.to_hex()));
    }
    for source in &why.notes {
        diagnostic = diagnostic.note(source.clone());
    }
    diagnostic.help(format!(
        "archives drop old versions: `{relock}` pins what the mirrors have now"
    ))
}

/// Makes a fixed output from `url`, as Nix's builder of the same name does.
#[derive(Clone, Debug)]
pub struct FetchUrlBuilder {
    fetcher: Fetcher,
}

impl FetchUrlBuilder {
    /// Makes the builder around the run's fetcher.
    pub fn new(fetcher: Fetcher) -> Self {
        Self { fetcher }
    }
}

impl Builder for FetchUrlBuilder {
    fn name(&self) -> &'static str {
        "builtin:fetchurl"
    }
    fn pool(&self) -> Pool {
        Pool::Io
    }
    fn revision(&self) -> u32 {
        1
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let Some(url) = ctx
            .attrs
            .get("url")
            .and_then(Value::as_str)
            .map(str::to_owned)
        else {
            return Err(BuilderError::failed(format!(
                "`{}` has no attribute `url`",
                ctx.name
            )));
        };
        let executable = flag(&ctx.attrs, "executable");
        let unpack = if flag(&ctx.attrs, "unpack") {
            Unpack::Nar
        } else {
            Unpack::Nothing
        };
        run(ctx, &self.fetcher, &[url], executable, unpack, None)
    }
}

/// Reads a boolean as an environment variable (`1`) or as JSON has it.
fn flag(attrs: &Value, name: &str) -> bool {
    match attrs.get(name) {
        Some(Value::Bool(value)) => *value,
        Some(Value::String(text)) => text == "1",
        _ => false,
    }
}

/// Tells a build what happens to its transfer.
struct OfBuild<'a>(&'a dyn Build);

impl Observer for OfBuild<'_> {
    fn progress(&self, done: u64, total: Option<u64>) {
        self.0.progress(done, total.unwrap_or(0));
    }
    fn note(&self, text: &str) {
        self.0.log(text);
    }
    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}

fn run(
    ctx: &BuilderCtx<'_>,
    fetcher: &Fetcher,
    urls: &[String],
    executable: bool,
    unpack: Unpack,
    size: Option<u64>,
) -> Result<(), BuilderError> {
    let Some(Output::Fixed { method, hash }) = ctx
        .drv
        .outputs
        .get("out")
        .filter(|_| ctx.drv.outputs.len() == 1)
    else {
        let message = format!(
            "`{}` fetches, so it must have one output with a known hash",
            ctx.name
        );
        return Err(Diagnostic::error("fetch-not-fixed", Class::Recipe, message)
            .help("add `outputHash`, `outputHashAlgo` and `outputHashMode`")
            .into());
    };
    let written = sos_engine::written_hash(ctx.drv);
    let wish = Wish {
        name: ctx.name,
        written: written.as_deref(),
        urls,
        method: *method,
        hash: *hash,
        executable,
        unpack,
        size,
        offline: ctx.options.offline,
    };
    let (out, work) = (ctx.out_path("out"), ctx.work_dir()?);
    let fetched = fetch_output(fetcher, &wish, &out, &work, &OfBuild(ctx))?;
    ctx.log(&format!("{}: {} bytes", fetched.url, fetched.size));
    Ok(())
}

impl From<FetchError> for BuilderError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Cancelled => Self::Cancelled,
            FetchError::Failed(diagnostic) => Self::Diagnostic(diagnostic),
        }
    }
}

/// Makes a path of the file system the subject of an I/O error.
pub(super) fn io_error(what: &str, path: &Path, error: std::io::Error) -> BuilderError {
    BuilderError::io(format!("{what} `{}`", path.display()), error)
}
