//! Repositories of forges, fetched as archives of one commit.

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::flake_ref::{self, Attr};

use super::{Answer, Found, Request, Trees};

/// Where the archives of each forge are, when no mirror is configured: what the scheme itself means.
const ARCHIVES: &[(&str, &str, &str)] = &[
    (
        "github",
        "github.com",
        "https://{host}/{owner}/{repo}/archive/{rev}.tar.gz",
    ),
    (
        "gitlab",
        "gitlab.com",
        "https://{host}/{owner}/{repo}/-/archive/{rev}/{repo}-{rev}.tar.gz",
    ),
    (
        "sourcehut",
        "git.sr.ht",
        "https://{host}/{owner}/{repo}/archive/{rev}.tar.gz",
    ),
];

impl Trees {
    pub(super) fn forge(&self, request: &Request) -> Answer<Found> {
        let kind = flake_ref::kind(&request.attrs);
        let text = |name| flake_ref::text(&request.attrs, name);
        let (owner, repo) = (
            text("owner").unwrap_or_default(),
            text("repo").unwrap_or_default(),
        );
        let rev = text("rev");
        let remembered = rev.map(|rev| format!("tree 1 {kind} {owner} {repo} {rev}"));
        if let Some(what) = &remembered
            && let Some((path, known)) = self.remembered(what, &request.name)
        {
            let mut attrs = request.attrs.clone();
            attrs.extend(known);
            return Ok(Found {
                path,
                attrs,
                warnings: Vec::new(),
            });
        }
        let (_, host, template) = ARCHIVES
            .iter()
            .find(|a| a.0 == kind)
            .copied()
            .unwrap_or_default();
        let template = self
            .settings
            .forges
            .get(kind)
            .map_or(template, String::as_str);
        // An archive can be had of a branch or a tag as of a commit; it says itself which commit it is.
        let wanted = rev.or(text("ref")).unwrap_or("HEAD");
        let url = template
            .replace("{host}", text("host").unwrap_or(host))
            .replace("{owner}", owner)
            .replace("{repo}", repo)
            .replace("{rev}", wanted);
        let (mut found, opened) = self.archive_at(std::slice::from_ref(&url), request)?;
        let commit = match (rev, opened.commit) {
            (Some(rev), Some(commit)) if rev != commit => {
                return Err(Box::new(
                    Diagnostic::error(
                        "tree-wrong-commit",
                        Class::Fetch,
                        format!("`{url}` is an archive of commit {commit}, not of {rev}"),
                    )
                    .help("the mirror delivers something else than was asked for: try another one"),
                ));
            }
            (Some(rev), _) => rev.to_owned(),
            (None, Some(commit)) => commit,
            (None, None) => {
                return Err(Box::new(
                    Diagnostic::error(
                        "tree-no-commit",
                        Class::Fetch,
                        format!("the archive `{url}` does not say which commit it was made from"),
                    )
                    .help("name the commit in the input"),
                ));
            }
        };
        found.attrs.remove("ref");
        found.attrs.insert("rev".into(), Attr::Str(commit));
        let modified = u64::try_from(opened.modified).unwrap_or(0);
        found
            .attrs
            .insert("lastModified".into(), Attr::Int(modified));
        if let Some(what) = &remembered {
            let known = [("lastModified".to_owned(), Attr::Int(modified))].into();
            self.remember(what, &found.path, &known)?;
        }
        Ok(found)
    }
}
