//! Revisions of Mercurial repositories, and working copies with changes.
//!
//! # Source
//! NixOS/nix `src/libfetchers/mercurial.cc`.

use std::path::Path;

use sos_formats::derivation::Method;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::flake_ref::{self, Attr, Attrs, Url};
use sos_formats::store_path::StorePath;

use super::hg::Hg;
use super::{Answer, Found, Request, Trees, of_store, problem};

impl Trees {
    pub(super) fn mercurial(&self, request: &Request) -> Answer<Found> {
        let text = |name| flake_ref::text(&request.attrs, name);
        let url = text("url").unwrap_or_default();
        let wanted = text("rev");
        let mut attrs = request.attrs.clone();
        let parsed =
            Url::parse(url).map_err(|e| problem("hg-url", Class::Recipe, e.to_string()))?;
        let repository = match parsed.scheme.as_str() {
            "file" => Hg::local(Path::new(&parsed.path), url, &self.settings)?,
            "http" | "https" | "ssh" => {
                // A revision that was exported before needs neither its repository nor the network.
                if let Some(rev) = wanted
                    && let Some((path, known)) = self.remembered(&key(url, rev), &request.name)
                {
                    attrs.extend(known);
                    return Ok(found(path, attrs));
                }
                Hg::remote(url, &self.settings)?
            }
            other => {
                return Err(problem(
                    "hg-url",
                    Class::Recipe,
                    format!("Mercurial repositories are not fetched over '{other}'"),
                ));
            }
        };
        if !repository.is_remote()
            && wanted.is_none()
            && text("ref").is_none()
            && repository.is_dirty()?
        {
            return self.unclean(&repository, request, attrs);
        }
        let name = wanted.or(text("ref")).unwrap_or("default");
        if !(wanted.is_some() && repository.changeset(name)?.is_some()) {
            repository.update()?;
        }
        let Some(changeset) = repository.changeset(name)? else {
            return Err(Box::new(
                Diagnostic::error(
                    "hg-no-revision",
                    if repository.is_remote() {
                        Class::Fetch
                    } else {
                        Class::Recipe
                    },
                    format!("unknown revision '{name}' of the Mercurial repository '{url}'"),
                )
                .help("`hg branches` and `hg tags` list the names that a repository has"),
            ));
        };
        // The files come from the memory of earlier runs, the number of the revision from this repository.
        let known: Attrs = [
            ("ref".to_owned(), Attr::Str(changeset.branch)),
            ("revCount".to_owned(), Attr::Int(changeset.number)),
        ]
        .into();
        attrs.insert("rev".into(), Attr::Str(changeset.node.clone()));
        let key = key(url, &changeset.node);
        if let Some((path, _)) = self.remembered(&key, &request.name) {
            attrs.extend(known);
            return Ok(found(path, attrs));
        }
        let dir = self.store.temp_dir("hg").map_err(of_store)?;
        let out = repository.archive(&changeset.node, dir.path())?;
        let path = self.add(&out, &request.name)?;
        self.remember(&key, &path, &known)?;
        attrs.extend(known);
        Ok(found(path, attrs))
    }

    /// The files of a working copy that Mercurial tracks, as they are now.
    fn unclean(&self, repository: &Hg, request: &Request, mut attrs: Attrs) -> Answer<Found> {
        let top = repository.place();
        let files = repository.tracked()?;
        let mut filter = super::only(top, &files);
        let path = self
            .store
            .add_path(top, &request.name, Method::Recursive, Some(&mut filter))
            .map_err(of_store)?;
        attrs.insert("ref".into(), Attr::Str(repository.branch()?));
        let mut found = found(path, attrs);
        found
            .warnings
            .push(format!("Mercurial tree '{}' is unclean", top.display()));
        Ok(found)
    }
}

fn found(path: StorePath, attrs: Attrs) -> Found {
    Found {
        path,
        attrs,
        warnings: Vec::new(),
    }
}

/// The name under which a revision is remembered: repositories number the same revision in their own ways.
fn key(url: &str, rev: &str) -> String {
    format!("tree 1 hg {rev} {url}")
}
