//! `sos recipe payload`: what a payload image holds, and whether that is what a tree says.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::{HashAlgo, Hasher};
use sos_formats::payload::{self, PayloadError, PayloadFile, Width};
use sos_recipes::bootstrap::Settings;

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

#[derive(Debug, clap::Subcommand)]
enum PayloadCommand {
    /// List its files: size and name
    Ls {
        /// The image, or a disk that begins with it
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Read all of it, and compare the digests of its files with those that a tree says
    Check {
        /// The image, or a disk that begins with it
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The tree of bootstrap steps whose `sources` have the digests
        #[arg(long, value_name = "DIR")]
        tree: Option<PathBuf>,
    },
}

/// Runs the verb.
///
/// # Errors
/// `payload-bad` for something that is no image; `hash-mismatch` for files that are not what the tree says.
pub(super) fn run(session: &Session, args: &PayloadArgs) -> Result<(), Failure> {
    match &args.command {
        PayloadCommand::Ls { file } => ls(session, file),
        PayloadCommand::Check { file, tree } => check(session, file, tree.as_deref()),
    }
}

fn ls(session: &Session, file: &Path) -> Result<(), Failure> {
    let mut files = Vec::new();
    // Content is passed over by reading it: a pipe has no other way.
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

fn check(session: &Session, file: &Path, tree: Option<&Path>) -> Result<(), Failure> {
    let mut pins: BTreeMap<String, String> = BTreeMap::new();
    if let Some(tree) = tree {
        let plan = super::plan(session, tree, &Settings::default())?.plan;
        let files = plan.steps.into_iter().flat_map(|step| step.distfiles);
        pins.extend(files.map(|f| (f.name, f.sha256)));
    }
    let mut wrong = Vec::new();
    let mut compared = 0;
    let (width, count) = read(file, |found, content| {
        let mut hasher = Sum(Hasher::new(HashAlgo::Sha256));
        io::copy(content, &mut hasher)?;
        let digest = hasher.0.finish().to_hex();
        compared += usize::from(pins.contains_key(&found.name));
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
    if let Some(tree) = tree.filter(|_| !wrong.is_empty()) {
        let message = format!(
            "{} of {count} files of `{}` are not what `{}` says",
            wrong.len(),
            file.display(),
            tree.display()
        );
        let problem = Diagnostic::error("hash-mismatch", Class::HashMismatch, message);
        return Err(Failure::new(
            wrong.into_iter().fold(problem, Diagnostic::note),
        ));
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
                "{count} files, numbers of {bits} bits; no digest was compared: `--tree DIR` names what has them"
            ));
        }
    };
    output::line(&format!(
        "{count} files, numbers of {bits} bits; {digests} what the tree says"
    ))
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
    let opened = File::open(file)
        .map_err(|e| Failure::io(&format!("cannot read `{}`", file.display()), &e))?;
    payload::read(&mut BufReader::with_capacity(1 << 20, opened), content).map_err(|e| match e {
        PayloadError::Io(e) => Failure::io(&format!("cannot read `{}`", file.display()), &e),
        other => {
            let message = format!("`{}` is no payload image: {other}", file.display());
            Failure::new(Diagnostic::error("payload-bad", Class::Recipe, message))
        }
    })
}
