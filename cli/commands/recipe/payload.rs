//! `sos recipe payload`: what a payload image holds, and whether that is what a tree says.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::{HashAlgo, Hasher};
use sos_formats::payload::{self, PayloadError, PayloadFile, Width};
use sos_recipes::bootstrap::{self, Settings};

use crate::failure::Failure;
use crate::render::output;
use crate::render::text::file_name;
use crate::session::Session;

/// Look into a payload image
#[derive(Debug, clap::Args)]
pub(super) struct PayloadArgs {
    #[command(subcommand)]
    command: PayloadCommand,
}

/// Files that a failed check lists.
const LISTED_MAX: usize = 50;

#[derive(Debug, clap::Subcommand)]
enum PayloadCommand {
    /// List its files: size and name
    Ls {
        /// The image, or a disk that begins with it
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Read all of it, and compare its files and their digests with those that a tree says
    Check {
        /// The image, or a disk that begins with it
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The tree of bootstrap steps whose `sources` have the digests
        #[arg(long, value_name = "DIR")]
        tree: Option<PathBuf>,
        /// Give a variable of that tree a value, as it was built with: `--set EXTRA_BUILDS=more`
        #[arg(long, value_name = "NAME=VALUE", requires = "tree")]
        set: Vec<String>,
    },
}

/// Runs the verb.
///
/// # Errors
/// `payload-bad` for something that is no image; `hash-mismatch` for files that are not what the tree says.
pub(super) fn run(session: &Session, args: &PayloadArgs) -> Result<(), Failure> {
    match &args.command {
        PayloadCommand::Ls { file } => ls(session, file),
        PayloadCommand::Check { file, tree, set } => check(session, file, tree.as_deref(), set),
    }
}

fn ls(session: &Session, file: &Path) -> Result<(), Failure> {
    let mut files = Vec::new();
    // Content is passed over by reading it, so that a file that ends early is found.
    let (width, _) = read(file, |found, _| {
        files.push(found.clone());
        Ok(())
    })?;
    if session.global.json {
        let list: Vec<_> = files
            .iter()
            .map(|f| serde_json::json!({ "name": f.name, "size": f.size, "offset": f.offset }))
            .collect();
        let bits = if width == Width::Wide { 64 } else { 32 };
        return output::json(&serde_json::json!({ "bits": bits, "files": list }));
    }
    let text: String = files
        .iter()
        .map(|f| format!("{:>12} {}\n", f.size, file_name(f.name.as_bytes())))
        .collect();
    output::bytes(text.as_bytes())
}

fn check(
    session: &Session,
    file: &Path,
    tree: Option<&Path>,
    set: &[String],
) -> Result<(), Failure> {
    let mut pins: BTreeMap<String, String> = BTreeMap::new();
    let mut wanted: BTreeMap<String, String> = BTreeMap::new();
    if let Some(tree) = tree {
        let settings = Settings {
            set: super::pairs(set)?,
            ..Settings::default()
        };
        let found = super::plan(session, tree, &settings)?;
        // What the image is to hold does not depend on predicates, and what is declared only by steps that are not built counts.
        let payload = bootstrap::payload(&found.host, &found.root, &found.shown, &found.settings)?;
        let Some(payload) = payload else {
            let message = format!(
                "`{}` has no `improve: import_payload`, and without it nothing reads a payload",
                Path::new(&found.shown).join("steps/manifest").display()
            );
            let problem = Diagnostic::error("bootstrap-missing", Class::Recipe, message);
            return Err(Failure::new(problem));
        };
        let files = found.plan.steps.into_iter().flat_map(|step| step.distfiles);
        let files = files.chain(payload.iter().cloned());
        pins.extend(files.map(|f| (f.name, f.sha256)));
        wanted.extend(payload.into_iter().map(|f| (f.name, f.sha256)));
    }
    let mut wrong = Vec::new();
    let mut compared = 0;
    let (width, count) = read(file, |found, content| {
        let mut hasher = Sum(Hasher::new(HashAlgo::Sha256));
        io::copy(content, &mut hasher)?;
        let digest = hasher.0.finish().to_hex();
        compared += usize::from(pins.contains_key(&found.name));
        wanted.remove(&found.name);
        match pins.get(&found.name) {
            Some(pin) if *pin != digest => wrong.push(format!(
                "`{}`: expected sha256 {pin}, found {digest}",
                file_name(found.name.as_bytes())
            )),
            None if tree.is_some() => wrong.push(format!(
                "`{}`: no step declares it",
                file_name(found.name.as_bytes())
            )),
            _ => {}
        }
        Ok(())
    })?;
    if let Some(tree) = tree.filter(|_| !wrong.is_empty() || !wanted.is_empty()) {
        let (file, tree) = (file.display(), tree.display());
        let message = match (wrong.len(), wanted.len()) {
            (0, lacks) => format!(
                "`{file}` lacks {} that `{tree}` has",
                files_of(lacks as u64)
            ),
            (bad, lacks) => {
                let are = if bad == 1 { "is" } else { "are" };
                let mut message = format!(
                    "{bad} of {} of `{file}` {are} not what `{tree}` says",
                    files_of(count)
                );
                if lacks > 0 {
                    message.push_str(&format!(", and {} lacking", files_are(lacks)));
                }
                message
            }
        };
        let mut problem = Diagnostic::error("hash-mismatch", Class::HashMismatch, message);
        let lacking = wanted.iter().map(|(name, pin)| {
            format!("`{}`: not there, sha256 {pin}", file_name(name.as_bytes()))
        });
        let all: Vec<String> = wrong.into_iter().chain(lacking).collect();
        for note in all.iter().take(LISTED_MAX) {
            problem = problem.note(note.as_str());
        }
        if all.len() > LISTED_MAX {
            problem = problem.note(format!("and {} more", all.len() - LISTED_MAX));
        }
        return Err(Failure::new(problem));
    }
    let bits = if width == Width::Wide { 64 } else { 32 };
    if session.global.json {
        return output::json(&serde_json::json!({
            "files": count,
            "bits": bits,
            "compared": compared,
        }));
    }
    let digests = match (tree, compared) {
        (Some(_), 1) => "1 digest is".to_owned(),
        (Some(_), n) => format!("{n} digests are"),
        (None, _) => {
            return output::line(&format!(
                "{}, numbers of {bits} bits; no digest was compared: `--tree DIR` names what has them",
                files_of(count)
            ));
        }
    };
    output::line(&format!(
        "{}, numbers of {bits} bits; {digests} what the tree says",
        files_of(count)
    ))
}

/// A number of files in words.
fn files_of(count: u64) -> String {
    if count == 1 {
        "1 file".to_owned()
    } else {
        format!("{count} files")
    }
}

/// The same with a verb.
fn files_are(count: usize) -> String {
    let are = if count == 1 { "is" } else { "are" };
    format!("{} {are}", files_of(count as u64))
}

/// A digest in the making, as something to write to.
struct Sum(Hasher);

impl Write for Sum {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn read(
    file: &Path,
    content: impl FnMut(&PayloadFile, &mut dyn Read) -> io::Result<()>,
) -> Result<(Width, u64), Failure> {
    let failed = |e: io::Error| Failure::io(&format!("cannot read `{}`", file.display()), &e);
    // A pipe would be waited for, perhaps for ever.
    let kind = std::fs::metadata(file).map_err(failed)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        let message = format!("`{}` is no payload image: it is no file", file.display());
        let problem = Diagnostic::error("payload-bad", Class::Recipe, message)
            .help("write what is to be looked at to a file");
        return Err(Failure::new(problem));
    }
    let opened = File::open(file).map_err(failed)?;
    payload::read(&mut BufReader::with_capacity(1 << 20, opened), content).map_err(|e| match e {
        PayloadError::Io(e) => failed(e),
        other => {
            let message = format!("`{}` is no payload image: {other}", file.display());
            Failure::new(Diagnostic::error("payload-bad", Class::Recipe, message))
        }
    })
}
