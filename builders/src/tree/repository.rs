//! The program `git` over one repository, with nothing of this machine's settings.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Sha256;

use super::{Answer, Settings, io, problem};
use crate::fetch::offline;
use crate::vcs;

/// A repository of this machine, or the copy of a remote one.
#[derive(Debug)]
pub(super) struct Repository {
    git_dir: PathBuf,
    work: Option<PathBuf>,
    url: String,
    remote: bool,
    settings: Settings,
}

impl Repository {
    /// A repository of this machine.
    pub(super) fn local(path: &Path, url: &str, settings: &Settings) -> Answer<Self> {
        let path = std::fs::canonicalize(path).map_err(|e| {
            if e.kind() == std::io::ErrorKind::NotFound {
                return no_repository(url).into();
            }
            io("look at", path, &e)
        })?;
        let dot = path.join(".git");
        let (git_dir, work) = if dot.exists() {
            (dot, Some(path))
        } else if path.join("HEAD").is_file() && path.join("objects").is_dir() {
            (path, None)
        } else {
            return Err(no_repository(url).into());
        };
        let repository = Self {
            git_dir,
            work,
            url: url.to_owned(),
            remote: false,
            settings: settings.clone(),
        };
        // A repository of somebody else is refused by git itself: say so before anything else fails for it.
        repository.run(["rev-parse", "--git-dir"])?;
        Ok(repository)
    }

    /// The copy of a remote repository; made when there is none. What is fetched without its history is kept apart: a repository
    /// that lacks some of it cannot count commits.
    pub(super) fn remote(url: &str, shallow: bool, settings: &Settings) -> Answer<Self> {
        let mut name = Sha256::of(url.as_bytes()).to_hex();
        if shallow {
            name.push_str("-shallow");
        }
        let all = settings.cache.join("git");
        let repository = Self {
            git_dir: all.join(&name),
            work: None,
            url: url.to_owned(),
            remote: true,
            settings: settings.clone(),
        };
        if !repository.git_dir.join("HEAD").is_file() {
            std::fs::create_dir_all(&all).map_err(|e| io("make", &all, &e))?;
            let making = all.join(format!("{name}.{}", std::process::id()));
            let mut init = repository.plain();
            init.args(["init", "--quiet", "--bare", "--template="])
                .arg(&making);
            repository.finish(init)?;
            if std::fs::rename(&making, &repository.git_dir).is_err() {
                // Another process was faster.
                let _gone = std::fs::remove_dir_all(&making);
            }
        }
        Ok(repository)
    }

    pub(super) fn is_local(&self) -> bool {
        !self.remote
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn working_tree(&self) -> Option<PathBuf> {
        self.work.clone()
    }

    /// `git` with an environment of its own, on no repository.
    fn plain(&self) -> Command {
        vcs::git(Some(&self.settings.environment))
    }

    /// `git` on this repository.
    pub(super) fn command(&self) -> Command {
        let mut command = self.plain();
        command.arg("--git-dir").arg(&self.git_dir);
        if let Some(work) = &self.work {
            command.arg("--work-tree").arg(work).current_dir(work);
        }
        command
    }

    fn run<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Answer<Vec<u8>> {
        let mut command = self.command();
        command.args(args);
        self.finish(command).map(|o| o.stdout)
    }

    fn text<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Answer<String> {
        let out = self.run(args)?;
        Ok(String::from_utf8_lossy(&out).trim().to_owned())
    }

    fn output(mut command: Command) -> Answer<Output> {
        command.output().map_err(|e| no_git(&e))
    }

    fn finish(&self, command: Command) -> Answer<Output> {
        let out = Self::output(command)?;
        if out.status.success() {
            return Ok(out);
        }
        Err(self.failed(&out))
    }

    pub(super) fn failed(&self, out: &Output) -> Box<Diagnostic> {
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        if vcs::has_no_room(&said) {
            return super::no_room("git", &self.git_dir, &said);
        }
        let (class, mut d) = if said.contains("dubious ownership") {
            let message = format!("the Git repository '{}' belongs to another user", self.url);
            (
                Class::Machine,
                Diagnostic::error("git-owner", Class::Machine, message),
            )
        } else {
            let class = if self.remote {
                Class::Fetch
            } else {
                Class::Recipe
            };
            let message = format!("git failed on the repository '{}'", self.url);
            (class, Diagnostic::error("git-failed", class, message))
        };
        for line in said.lines().filter(|l| !l.trim().is_empty()).take(8) {
            d = d.note(line.trim().to_owned());
        }
        if class == Class::Machine {
            d.notes.clear();
            d = d.help("run sos as its owner, or make a clone of your own");
        }
        Box::new(d)
    }

    /// Whether the working tree differs from the last commit, or there is none.
    pub(super) fn is_dirty(&self, _tree: &Path, submodules: bool) -> Answer<bool> {
        if self.current()?.is_none() {
            return Ok(true);
        }
        let mut command = self.command();
        command.args(["diff", "--quiet", "--no-ext-diff", "--no-textconv"]);
        if !submodules {
            command.arg("--ignore-submodules");
        }
        command.args(["HEAD", "--"]);
        let out = Self::output(command)?;
        match out.status.code() {
            Some(0) => Ok(false),
            Some(1) => Ok(true),
            _ => Err(self.failed(&out)),
        }
    }

    /// The commit of `HEAD`; none before the first one.
    pub(super) fn current(&self) -> Answer<Option<String>> {
        self.verify("HEAD")
    }

    fn verify(&self, name: &str) -> Answer<Option<String>> {
        let mut command = self.command();
        command.args(["rev-parse", "--verify", "--quiet", "--end-of-options"]);
        command.arg(format!("{name}^{{commit}}"));
        let out = Self::output(command)?;
        Ok(out
            .status
            .success()
            .then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned()))
    }

    /// What git tracks in the working tree, with `/` between the parts.
    pub(super) fn tracked(&self, _tree: &Path, submodules: bool) -> Answer<BTreeSet<Vec<u8>>> {
        let mut args = vec!["ls-files", "-z"];
        if submodules {
            args.push("--recurse-submodules");
        }
        let out = self.run(args)?;
        let files = out.split(|b| *b == 0).filter(|f| !f.is_empty());
        Ok(files.map(<[u8]>::to_vec).collect())
    }

    /// The branch that is meant when none is named.
    pub(super) fn head(&self) -> Answer<String> {
        if self.remote {
            self.online()?;
            let out = self.text(["ls-remote", "--symref", "--", &self.url, "HEAD"])?;
            let symref = out.lines().find_map(|l| l.strip_prefix("ref: "));
            let name = symref.and_then(|l| l.split_whitespace().next());
            return Ok(short(name.unwrap_or("HEAD")));
        }
        let mut command = self.command();
        command.args(["symbolic-ref", "--quiet", "HEAD"]);
        let out = Self::output(command)?;
        let name = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        Ok(if out.status.success() {
            short(&name)
        } else {
            "HEAD".into()
        })
    }

    /// Whether a commit is here.
    pub(super) fn has(&self, rev: &str) -> Answer<bool> {
        let mut command = self.command();
        command.args(["cat-file", "-e", &format!("{rev}^{{commit}}")]);
        Ok(Self::output(command)?.status.success())
    }

    fn online(&self) -> Answer<()> {
        if !self.settings.offline {
            return Ok(());
        }
        Err(Box::new(offline(&self.url, Vec::new())))
    }

    fn fetch(&self, what: &str, shallow: bool) -> Answer<bool> {
        self.online()?;
        let mut command = self.command();
        command.args([
            "fetch",
            "--quiet",
            "--force",
            "--no-tags",
            "--no-write-fetch-head",
        ]);
        if shallow {
            command.args(["--depth", "1"]);
        }
        command.args(["--", &self.url, what]);
        let out = Self::output(command)?;
        let said = String::from_utf8_lossy(&out.stderr);
        let refused = [
            "not our ref",
            "couldn't find remote ref",
            "unadvertised object",
        ];
        if !out.status.success() && !refused.iter().any(|r| said.contains(r)) {
            return Err(self.failed(&out));
        }
        Ok(out.status.success())
    }

    /// Fetches one commit: by its id where the server allows that, else with everything that may hold it.
    pub(super) fn fetch_commit(
        &self,
        rev: &str,
        branch: Option<&str>,
        all: bool,
        shallow: bool,
    ) -> Answer<()> {
        if !all && self.fetch(&format!("{rev}:refs/sos/{rev}"), shallow)? {
            return Ok(());
        }
        let what = match branch {
            _ if all => "refs/*:refs/sos/all/*".to_owned(),
            Some(b) if b.starts_with("refs/") || b == "HEAD" => format!("{b}:refs/sos/{b}"),
            Some(b) => format!("refs/heads/{b}:refs/sos/heads/{b}"),
            None => "refs/heads/*:refs/sos/heads/*".to_owned(),
        };
        self.fetch(&what, false).map(drop)
    }

    /// The commit that a branch or tag is now.
    pub(super) fn commit_of(&self, name: &str, shallow: bool) -> Answer<String> {
        let tries = if name.starts_with("refs/") || name == "HEAD" {
            vec![name.to_owned()]
        } else {
            vec![format!("refs/heads/{name}"), format!("refs/tags/{name}")]
        };
        for one in &tries {
            let here = format!("refs/sos/now/{one}");
            let found = if self.remote {
                if !self.fetch(&format!("{one}:{here}"), shallow)? {
                    continue;
                }
                self.verify(&here)?
            } else {
                self.verify(one)?
            };
            if let Some(rev) = found {
                return Ok(rev);
            }
        }
        let class = if self.remote {
            Class::Fetch
        } else {
            Class::Recipe
        };
        Err(problem(
            "git-no-ref",
            class,
            format!(
                "there is no branch or tag '{name}' in the Git repository '{}'",
                self.url
            ),
        ))
    }

    /// When a commit was made, in seconds since 1970.
    pub(super) fn commit_time(&self, rev: &str) -> Answer<u64> {
        let text = self.text([
            "log",
            "-1",
            "--format=%ct",
            "--no-show-signature",
            rev,
            "--",
        ])?;
        self.number(&text)
    }

    /// How many commits lead to one, itself included.
    pub(super) fn count(&self, rev: &str) -> Answer<u64> {
        let text = self.text(["rev-list", "--count", rev, "--"])?;
        self.number(&text)
    }

    fn number(&self, text: &str) -> Answer<u64> {
        text.parse().map_err(|_not_a_number| {
            problem(
                "git-failed",
                Class::Other,
                format!("git answered '{text}' on '{}', not a number", self.url),
            )
        })
    }

    pub(super) fn is_shallow(&self) -> Answer<bool> {
        Ok(self.text(["rev-parse", "--is-shallow-repository"])? == "true")
    }

    /// The paths of a commit that its attributes keep out of exports. `index` is where git may put an index of it: only since 2.40
    /// can it read the attributes of a commit without one.
    pub(super) fn ignored(&self, rev: &str, index: &Path) -> Answer<BTreeSet<Vec<u8>>> {
        let listed = self.run([
            "ls-tree",
            "-r",
            "-t",
            "-z",
            "--name-only",
            "--full-tree",
            rev,
        ])?;
        let rules = b".gitattributes";
        let any = listed
            .split(|b| *b == 0)
            .any(|p| p == rules || p.strip_suffix(rules).is_some_and(|d| d.ends_with(b"/")));
        if !any {
            return Ok(BTreeSet::new());
        }
        let mut read = self.command();
        read.args(["read-tree", rev]).env("GIT_INDEX_FILE", index);
        self.finish(read)?;
        let mut command = self.command();
        command
            .args(["check-attr", "--cached", "-z", "--stdin", "export-ignore"])
            .env("GIT_INDEX_FILE", index)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| no_git(&e))?;
        let input = child.stdin.take();
        // Both directions at once: neither pipe may fill up while the other waits.
        let out = std::thread::scope(|scope| {
            scope.spawn(move || {
                use std::io::Write as _;
                // A write that fails shows in the exit status.
                input.map(|mut i| i.write_all(&listed))
            });
            child.wait_with_output()
        });
        let out = out.map_err(|e| no_git(&e))?;
        if !out.status.success() {
            return Err(self.failed(&out));
        }
        let parts: Vec<&[u8]> = out.stdout.split(|b| *b == 0).collect();
        let set = parts.chunks_exact(3).filter(|c| c[2] == b"set");
        Ok(set.map(|c| c[0].to_vec()).collect())
    }

    /// The URLs of the submodules of a commit, by path.
    pub(super) fn modules(&self, rev: &str) -> Answer<BTreeMap<Vec<u8>, String>> {
        let out = self.run([
            "config",
            "--blob",
            &format!("{rev}:.gitmodules"),
            "-z",
            "--list",
        ])?;
        let mut paths: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let mut urls: BTreeMap<Vec<u8>, String> = BTreeMap::new();
        for entry in out.split(|b| *b == 0) {
            let mut parts = entry.splitn(2, |b| *b == b'\n');
            let (Some(key), Some(value)) = (parts.next(), parts.next()) else {
                continue;
            };
            let Some(key) = key.strip_prefix(b"submodule.") else {
                continue;
            };
            if let Some(name) = key.strip_suffix(b".path") {
                paths.insert(name.to_vec(), value.to_vec());
            } else if let Some(name) = key.strip_suffix(b".url") {
                urls.insert(name.to_vec(), String::from_utf8_lossy(value).into_owned());
            }
        }
        Ok(paths
            .into_iter()
            .filter_map(|(name, path)| Some((path, urls.remove(&name)?)))
            .collect())
    }

    /// Makes git list a file that it does not track, so that it is seen; nothing is committed.
    pub(super) fn intend_to_add(&self, file: &Path) -> Answer<()> {
        let mut command = self.command();
        command
            .args(["add", "--force", "--intent-to-add", "--"])
            .arg(file);
        self.finish(command).map(drop)
    }
}

impl super::Trees {
    /// Makes a git repository around a new file list it; nothing happens where there is none.
    ///
    /// # Errors
    /// When git fails.
    pub fn track(&self, file: &Path) -> Result<(), Box<Diagnostic>> {
        let Some(top) = file.ancestors().skip(1).find(|d| d.join(".git").exists()) else {
            return Ok(());
        };
        let url = format!("file://{}", top.display());
        Repository::local(top, &url, &self.settings)?.intend_to_add(file)
    }

    /// The files that git tracks in a working tree, each with a NUL after it.
    ///
    /// # Errors
    /// When there is no repository there, or git fails.
    pub fn tracked(&self, place: &Path) -> Result<Vec<u8>, Box<Diagnostic>> {
        let url = format!("file://{}", place.display());
        Repository::local(place, &url, &self.settings)?.run(["ls-files", "-z"])
    }
}

/// `refs/heads/main` as people write it.
fn short(name: &str) -> String {
    name.strip_prefix("refs/heads/").unwrap_or(name).to_owned()
}

fn no_repository(url: &str) -> Diagnostic {
    Diagnostic::error(
        "git-no-repository",
        Class::Recipe,
        format!("'{url}' is not a Git repository"),
    )
}

pub(super) fn no_git(error: &std::io::Error) -> Box<Diagnostic> {
    if error.kind() == std::io::ErrorKind::NotFound {
        return Box::new(
            Diagnostic::error(
                "git-missing",
                Class::Machine,
                "the program `git` is not installed",
            )
            .help("install git, or name an archive instead of the repository"),
        );
    }
    problem(
        "git-failed",
        Class::Machine,
        format!("cannot run git: {error}"),
    )
}
