//! The program `hg` over one repository, with nothing of this machine's settings.
//!
//! # Source
//! `hg help environment`, `hg help revisions`, `hg help archive`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::flake_ref;
use sos_formats::hash::Sha256;

use super::{Answer, Settings, io, problem};
use crate::fetch::offline;
use crate::vcs;

/// What `hg archive` writes about a revision beside its files; Nix leaves out whatever has this name.
const ARCHIVAL: &str = ".hg_archival.txt";

/// One revision.
pub(super) struct Changeset {
    pub(super) node: String,
    pub(super) number: u64,
    pub(super) branch: String,
}

/// The program `hg` over a repository of this machine, or over the copy of a remote one, with nothing of this machine's settings.
#[derive(Debug)]
pub(super) struct Hg {
    place: PathBuf,
    url: String,
    remote: bool,
    settings: Settings,
}

impl Hg {
    /// A repository of this machine.
    pub(super) fn local(path: &Path, url: &str, settings: &Settings) -> Answer<Self> {
        let none = || {
            Box::new(
                Diagnostic::error(
                    "hg-no-repository",
                    Class::Recipe,
                    format!("'{url}' is not a Mercurial repository"),
                )
                .help("name the directory that holds `.hg`"),
            )
        };
        let place = std::fs::canonicalize(path).map_err(|e| {
            if e.kind() == std::io::ErrorKind::NotFound {
                return none();
            }
            io("look at", path, &e)
        })?;
        if !place.join(".hg").is_dir() {
            return Err(none());
        }
        Ok(Self {
            place,
            url: url.to_owned(),
            remote: false,
            settings: settings.clone(),
        })
    }

    /// The copy of a remote repository; made when there is none.
    pub(super) fn remote(url: &str, settings: &Settings) -> Answer<Self> {
        let all = settings.cache.join("hg");
        let name = Sha256::of(url.as_bytes()).to_hex();
        let repository = Self {
            place: all.join(&name),
            url: url.to_owned(),
            remote: true,
            settings: settings.clone(),
        };
        if !repository.place.join(".hg").is_dir() {
            repository.online()?;
            std::fs::create_dir_all(&all).map_err(|e| io("make", &all, &e))?;
            let making = all.join(format!("{name}.{}", std::process::id()));
            let mut clone = repository.plain();
            clone
                .args(["clone", "--quiet", "--noupdate", "--", url])
                .arg(&making);
            let cloned = repository.finish(clone);
            if cloned.is_err() || std::fs::rename(&making, &repository.place).is_err() {
                // It failed, or another process was faster.
                let _gone = std::fs::remove_dir_all(&making);
            }
            cloned?;
        }
        Ok(repository)
    }

    pub(super) fn is_remote(&self) -> bool {
        self.remote
    }

    pub(super) fn place(&self) -> &Path {
        &self.place
    }

    /// `hg` with an environment of its own, on no repository.
    fn plain(&self) -> Command {
        let mut command = vcs::program("hg", &self.settings.environment);
        command
            .envs([
                ("LC_ALL", "C"),
                ("HGENCODING", "UTF-8"),
                ("HGPLAIN", "+strictflags"),
                // Neither files of this machine nor those of the repository say how `hg` works, or what it runs.
                ("HGRCPATH", ""),
                ("HGRCSKIPREPO", "1"),
            ])
            .arg("--noninteractive")
            .args(["--config", "ui.ssh=ssh -oBatchMode=yes"])
            // A server may name another one that has most of a repository.
            .args(["--config", "ui.clonebundles=false"]);
        command
    }

    /// `hg` on this repository.
    fn command(&self) -> Command {
        let mut command = self.plain();
        command
            .arg("--repository")
            .arg(&self.place)
            .current_dir(&self.place);
        command
    }

    fn run<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Answer<Vec<u8>> {
        let mut command = self.command();
        command.args(args);
        self.finish(command).map(|o| o.stdout)
    }

    fn finish(&self, mut command: Command) -> Answer<Output> {
        let out = command.output().map_err(|e| no_hg(&e))?;
        if out.status.success() {
            return Ok(out);
        }
        Err(self.failed(&out))
    }

    fn failed(&self, out: &Output) -> Box<Diagnostic> {
        let said = String::from_utf8_lossy(&out.stderr);
        if vcs::has_no_room(&said) {
            return super::no_room("hg", &self.place, &said);
        }
        let class = if self.remote {
            Class::Fetch
        } else {
            Class::Recipe
        };
        let message = format!("Mercurial failed on the repository '{}'", self.url);
        let mut d = Diagnostic::error("hg-failed", class, message);
        for line in said.lines().filter(|l| !l.trim().is_empty()).take(8) {
            d = d.note(line.trim().to_owned());
        }
        Box::new(d)
    }

    fn online(&self) -> Answer<()> {
        if !self.settings.offline {
            return Ok(());
        }
        Err(Box::new(offline(&self.url, Vec::new())))
    }

    /// Brings the copy of a remote repository up to date.
    pub(super) fn update(&self) -> Answer<()> {
        if !self.remote {
            return Ok(());
        }
        self.online()?;
        let pull = ["pull", "--quiet", "--", &self.url];
        let done = self.run(pull).map(drop);
        if done.is_err() && self.place.join(".hg/store/journal").exists() {
            // An earlier run was stopped in the middle.
            self.run(["recover"])?;
            return self.run(pull).map(drop);
        }
        done
    }

    /// What a name or an id means here, if anything.
    pub(super) fn changeset(&self, name: &str) -> Answer<Option<Changeset>> {
        if !flake_ref::is_hg_ref(name) {
            let message = format!("invalid Mercurial branch/tag name '{name}'");
            return Err(problem("hg-no-revision", Class::Recipe, message));
        }
        let mut command = self.command();
        // In quotes it is a name, and no expression over revisions.
        command.arg("log").arg(format!("--rev=\"{name}\""));
        command.args(["--template", "{node}\\n{rev}\\n{branch}\\n"]);
        let out = command.output().map_err(|e| no_hg(&e))?;
        if !out.status.success() {
            let unknown = String::from_utf8_lossy(&out.stderr).contains("unknown revision");
            return if unknown {
                Ok(None)
            } else {
                Err(self.failed(&out))
            };
        }
        let said = String::from_utf8_lossy(&out.stdout);
        let lines: Vec<&str> = said.lines().collect();
        let odd = || {
            let message = format!("hg answered '{}' on '{}'", said.trim(), self.url);
            problem("hg-failed", Class::Other, message)
        };
        let [node, number, branch] = lines[..] else {
            return Err(odd());
        };
        if !flake_ref::is_rev(node) {
            return Err(odd());
        }
        Ok(Some(Changeset {
            node: node.to_owned(),
            number: number.parse().map_err(|_not_a_number| odd())?,
            branch: branch.to_owned(),
        }))
    }

    /// Whether the working copy differs from its parent in what is tracked.
    pub(super) fn is_dirty(&self) -> Answer<bool> {
        let out = self.run(["status", "--modified", "--added", "--removed"])?;
        Ok(!out.is_empty())
    }

    /// What is tracked in the working copy and there, with `/` between the parts.
    pub(super) fn tracked(&self) -> Answer<BTreeSet<Vec<u8>>> {
        let out = self.run([
            "status",
            "--clean",
            "--modified",
            "--added",
            "--no-status",
            "--print0",
        ])?;
        let files = out.split(|b| *b == 0).filter(|f| !f.is_empty());
        Ok(files.map(<[u8]>::to_vec).collect())
    }

    /// The branch of the working copy.
    pub(super) fn branch(&self) -> Answer<String> {
        let out = self.run(["branch"])?;
        Ok(String::from_utf8_lossy(&out)
            .trim_end_matches('\n')
            .to_owned())
    }

    /// Writes the files of a revision below a directory, and says where.
    pub(super) fn archive(&self, node: &str, dir: &Path) -> Answer<PathBuf> {
        let mut command = self.command();
        // The name of the place is a pattern to `hg`: a short one holds nothing special.
        command
            .current_dir(dir)
            .args(["archive", "--type=files", "--rev", node, "--", "tree"]);
        self.finish(command)?;
        let out = dir.join("tree");
        let archival = out.join(ARCHIVAL);
        match std::fs::remove_file(&archival) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io("remove", &archival, &e)),
            _ => Ok(out),
        }
    }
}

fn no_hg(error: &std::io::Error) -> Box<Diagnostic> {
    if error.kind() == std::io::ErrorKind::NotFound {
        return Box::new(
            Diagnostic::error(
                "hg-missing",
                Class::Machine,
                "mercurial is not installed: there is no program `hg`",
            )
            .help("install mercurial, or name an archive instead of the repository"),
        );
    }
    problem(
        "hg-failed",
        Class::Machine,
        format!("cannot run hg: {error}"),
    )
}
