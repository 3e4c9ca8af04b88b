//! Revisions of git repositories, and working trees with changes.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use sos_formats::derivation::Method;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::flake_ref::{self, Attr, Attrs, Url};

use super::repository::Repository;
use super::{Answer, Found, Request, Trees, of_store, problem};

/// How deep submodules may nest.
const MAX_SUBMODULES: usize = 16;

/// What is exported of a revision.
#[derive(Debug, Clone, Copy)]
struct Export {
    submodules: bool,
    ignore: bool,
}

impl Trees {
    pub(super) fn git(&self, request: &Request) -> Answer<Found> {
        let text = |name| flake_ref::text(&request.attrs, name);
        let url = text("url").unwrap_or_default();
        let export = Export {
            submodules: flake_ref::flag(&request.attrs, "submodules"),
            ignore: flake_ref::flag(&request.attrs, "exportIgnore"),
        };
        let mut attrs = request.attrs.clone();
        if attrs.get("shallow") == Some(&Attr::Bool(false)) {
            attrs.remove("shallow");
        }
        let shallow = flake_ref::flag(&attrs, "shallow");
        // A commit that was exported before needs neither its repository nor the network.
        if let Some(rev) = text("rev")
            && let Some((path, known)) = self.remembered(&key(rev, export, shallow), &request.name)
        {
            attrs.extend(known);
            return Ok(found(path, attrs));
        }
        let repository = self.repository(url, shallow)?;
        if repository.is_local()
            && text("rev").is_none()
            && text("ref").is_none()
            && let Some(tree) = repository.working_tree()
            && repository.is_dirty(&tree, export.submodules)?
        {
            return self.dirty(&repository, &tree, request, export, attrs);
        }
        let rev = self.resolve(&repository, &mut attrs)?;
        attrs.insert("rev".into(), Attr::Str(rev.clone()));
        if let Some((path, known)) = self.remembered(&key(&rev, export, shallow), &request.name) {
            attrs.extend(known);
            return Ok(found(path, attrs));
        }
        let mut known = Attrs::new();
        let modified = repository.commit_time(&rev)?;
        known.insert("lastModified".into(), Attr::Int(modified));
        if !shallow {
            if repository.is_shallow()? {
                return Err(Box::new(
                    Diagnostic::error(
                        "git-shallow",
                        Class::Recipe,
                        format!("'{url}' is a shallow Git repository, but shallow repositories are only allowed when `shallow = true;` is specified"),
                    )
                    .help("`git fetch --unshallow` completes it"),
                ));
            }
            known.insert("revCount".into(), Attr::Int(repository.count(&rev)?));
        }
        let dir = self.store.temp_dir("git").map_err(of_store)?;
        let out = dir.path().join("tree");
        self.export(&repository, &rev, &out, export, 0)?;
        let path = self.add(&out, &request.name)?;
        self.remember(&key(&rev, export, shallow), &path, &known)?;
        attrs.extend(known);
        Ok(found(path, attrs))
    }

    /// The repository behind a URL: the one of this machine, or a copy of a remote one.
    fn repository(&self, url: &str, shallow: bool) -> Answer<Repository> {
        let parsed =
            Url::parse(url).map_err(|e| problem("git-url", Class::Recipe, e.to_string()))?;
        if parsed.scheme == "file" {
            return Repository::local(Path::new(&parsed.path), url, &self.settings);
        }
        if parsed.scheme == "ext" || parsed.scheme == "fd" {
            return Err(problem(
                "git-url",
                Class::Recipe,
                format!("git repositories are not fetched over '{}'", parsed.scheme),
            ));
        }
        Repository::remote(url, shallow, &self.settings)
    }

    /// Finds the commit that the attributes mean, and fetches it.
    fn resolve(&self, repository: &Repository, attrs: &mut Attrs) -> Answer<String> {
        let rev = flake_ref::text(attrs, "rev").map(str::to_owned);
        let shallow = flake_ref::flag(attrs, "shallow");
        let branch = flake_ref::text(attrs, "ref").map(str::to_owned);
        if let Some(rev) = rev {
            let all = flake_ref::flag(attrs, "allRefs");
            if !repository.has(&rev)? && !repository.is_local() {
                repository.fetch_commit(&rev, branch.as_deref(), all, shallow)?;
            }
            if !repository.has(&rev)? {
                let branch = match branch {
                    Some(branch) => branch,
                    None => repository.head()?,
                };
                return Err(Box::new(Diagnostic::error(
                    "git-no-revision",
                    Class::Fetch,
                    format!(
                        "Cannot find Git revision '{rev}' in ref '{branch}' of repository '{}'! Please make sure that the rev exists on the ref you've specified or add allRefs = true; to fetchGit.",
                        repository.url()
                    ),
                )));
            }
            if branch.is_none() && repository.is_local() {
                attrs.insert("ref".into(), Attr::Str(repository.head()?));
            }
            return Ok(rev);
        }
        let branch = match branch {
            Some(branch) => branch,
            None => repository.head()?,
        };
        let rev = repository.commit_of(&branch, shallow)?;
        attrs.insert("ref".into(), Attr::Str(branch));
        Ok(rev)
    }

    /// The files of a working tree that git tracks, as they are now.
    fn dirty(
        &self,
        repository: &Repository,
        tree: &Path,
        request: &Request,
        export: Export,
        mut attrs: Attrs,
    ) -> Answer<Found> {
        let files: BTreeSet<Vec<u8>> = repository.tracked(tree, export.submodules)?;
        let mut filter = super::only(tree, &files);
        let path = self
            .store
            .add_path(tree, &request.name, Method::Recursive, Some(&mut filter))
            .map_err(of_store)?;
        let mut modified = 0;
        if let Some(rev) = repository.current()? {
            modified = repository.commit_time(&rev)?;
            let short = rev.get(..7).unwrap_or(&rev);
            attrs.insert("dirtyRev".into(), Attr::Str(format!("{rev}-dirty")));
            attrs.insert("dirtyShortRev".into(), Attr::Str(format!("{short}-dirty")));
        }
        attrs.insert("lastModified".into(), Attr::Int(modified));
        let mut found = found(path, attrs);
        found
            .warnings
            .push(format!("Git tree '{}' is dirty", tree.display()));
        Ok(found)
    }

    /// Writes the files of a commit, and of its submodules.
    fn export(
        &self,
        repository: &Repository,
        rev: &str,
        out: &Path,
        export: Export,
        depth: usize,
    ) -> Answer<()> {
        let ignored = if export.ignore {
            let dir = self.store.temp_dir("index").map_err(of_store)?;
            repository.ignored(rev, &dir.path().join("index"))?
        } else {
            BTreeSet::new()
        };
        let links = super::export::write(repository, rev, out, &ignored)?;
        if !export.submodules || links.is_empty() {
            return Ok(());
        }
        if depth >= MAX_SUBMODULES {
            return Err(problem(
                "git-submodules",
                Class::Recipe,
                format!("submodules of '{}' are nested too deeply", repository.url()),
            ));
        }
        let modules = repository.modules(rev)?;
        for (place, commit) in links {
            let Some(url) = modules.get(&place) else {
                return Err(problem(
                    "git-submodules",
                    Class::Recipe,
                    format!(
                        "'.gitmodules' of '{}' says nothing about the submodule '{}'",
                        repository.url(),
                        String::from_utf8_lossy(&place)
                    ),
                ));
            };
            let url = whole_url(&relative_url(repository.url(), url));
            if !repository.is_local() && url.starts_with("file:") {
                return Err(problem(
                    "git-submodules",
                    Class::Recipe,
                    format!("a remote repository names a submodule of this machine: '{url}'"),
                ));
            }
            let inner = self.repository(&url, false)?;
            let mut attrs: Attrs = [("rev".to_owned(), Attr::Str(commit))].into();
            let commit = self.resolve(&inner, &mut attrs)?;
            let place: PathBuf = out.join(std::ffi::OsStr::from_bytes(&place));
            // The revision has an empty directory where the submodule goes.
            std::fs::remove_dir(&place).map_err(|e| super::io("replace", &place, &e))?;
            self.export(&inner, &commit, &place, export, depth + 1)?;
        }
        Ok(())
    }
}

fn found(path: sos_formats::store_path::StorePath, mut attrs: Attrs) -> Found {
    // It says how the files were chosen, not what they are.
    attrs.remove("exportIgnore");
    Found {
        path,
        attrs,
        warnings: Vec::new(),
    }
}

/// The name under which a commit is remembered.
fn key(rev: &str, export: Export, shallow: bool) -> String {
    format!(
        "tree 1 git {rev} submodules={} ignore={} shallow={shallow}",
        export.submodules, export.ignore
    )
}

/// The URL of a submodule, which may start at that of its parent.
fn relative_url(parent: &str, url: &str) -> String {
    if !url.starts_with("./") && !url.starts_with("../") {
        return url.to_owned();
    }
    let (mut base, mut rest) = (parent.trim_end_matches('/'), url);
    loop {
        if let Some(r) = rest.strip_prefix("./") {
            rest = r;
        } else if let Some(r) = rest.strip_prefix("../") {
            rest = r;
            base = base.rsplit_once('/').map_or(base, |(up, _)| up);
        } else {
            return format!("{base}/{rest}");
        }
    }
}

/// The URL for the short forms that git takes: a path, and `user@host:path`.
fn whole_url(text: &str) -> String {
    if text.contains("://") || text.starts_with("file:") {
        return text.to_owned();
    }
    match text.split_once(':') {
        Some((host, path)) if !host.contains('/') => {
            format!("ssh://{host}/{}", path.trim_start_matches('/'))
        }
        _ => format!("file://{text}"),
    }
}

#[cfg(test)]
mod url_tests {
    use super::{relative_url, whole_url};

    #[test]
    fn short_forms_are_urls_too() {
        assert_eq!(
            whole_url("git@mirror.example:a/b"),
            "ssh://git@mirror.example/a/b"
        );
        assert_eq!(whole_url("/a:b"), "file:///a:b");
        assert_eq!(
            whole_url("https://mirror.example/a"),
            "https://mirror.example/a"
        );
    }

    #[test]
    fn urls_of_submodules_start_at_the_parent() {
        let parent = "https://mirror.example/a/b";
        assert_eq!(relative_url(parent, "../c"), "https://mirror.example/a/c");
        assert_eq!(relative_url(parent, "./c"), "https://mirror.example/a/b/c");
        assert_eq!(relative_url(parent, "/c"), "/c");
    }
}
