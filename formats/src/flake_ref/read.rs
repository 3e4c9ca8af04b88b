//! From a text to attributes.

use super::url::{Url, decode, decode_query};
use super::{Attr, Attrs, FlakeRef, RefError, check, is_id, is_ref, is_rev};

/// Endings of files that are archives.
const ARCHIVES: &[&str] = &[
    ".zip", ".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.bz2", ".tar.zst",
];

/// Parses a reference with its fragment.
pub(super) fn reference(whole: &str, tree: bool) -> Result<(FlakeRef, String), RefError> {
    let (before, fragment) = whole.split_once('#').unwrap_or((whole, ""));
    if let Some(attrs) = indirect(before) {
        let fragment = decode(fragment).ok_or_else(|| invalid(whole))?;
        let tree = check(attrs)?;
        return Ok((
            FlakeRef {
                tree,
                dir: String::new(),
            },
            fragment,
        ));
    }
    let scheme = before
        .split_once(':')
        .map_or("", |(scheme, _)| scheme)
        .as_bytes();
    if scheme.is_empty() || scheme.contains(&b'/') || before.starts_with('.') {
        return path(whole);
    }
    let mut url = Url::parse(whole)?;
    let fragment = std::mem::take(&mut url.fragment);
    let dir = url.query.remove("dir").unwrap_or_default();
    let tree = check(attributes(url, whole, tree)?)?;
    Ok((FlakeRef { tree, dir }, fragment))
}

fn invalid(text: &str) -> RefError {
    RefError(format!("'{text}' is not a valid URL"))
}

/// `id`, `id/ref`, `id/rev`, `id/ref/rev`: a name in a registry.
fn indirect(text: &str) -> Option<Attrs> {
    let mut parts = text.split('/');
    let id = parts.next().filter(|id| is_id(id))?;
    let rest: Vec<&str> = parts.collect();
    let mut attrs = Attrs::new();
    attrs.insert("type".into(), Attr::Str("indirect".into()));
    attrs.insert("id".into(), Attr::Str(id.into()));
    match rest.as_slice() {
        [] => {}
        [one] if is_rev(one) => {
            attrs.insert("rev".into(), Attr::Str((*one).into()));
        }
        [one] if is_ref(one) => {
            attrs.insert("ref".into(), Attr::Str((*one).into()));
        }
        [one, two] if is_ref(one) && is_rev(two) => {
            attrs.insert("ref".into(), Attr::Str((*one).into()));
            attrs.insert("rev".into(), Attr::Str((*two).into()));
        }
        _ => return None,
    }
    Some(attrs)
}

/// A path without a scheme.
fn path(whole: &str) -> Result<(FlakeRef, String), RefError> {
    let (rest, fragment) = whole.split_once('#').unwrap_or((whole, ""));
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if whole.contains('\0') {
        return Err(invalid(whole));
    }
    let mut query = decode_query(query).ok_or_else(|| invalid(whole))?;
    let dir = query.remove("dir").unwrap_or_default();
    let mut attrs = Attrs::new();
    attrs.insert("type".into(), Attr::Str("path".into()));
    attrs.insert("path".into(), Attr::Str(path.into()));
    known(&mut attrs, query, "path", whole)?;
    let fragment = decode(fragment).ok_or_else(|| invalid(whole))?;
    let tree = check(attrs)?;
    Ok((FlakeRef { tree, dir }, fragment))
}

/// Takes the parameters that lock a tree, and refuses others.
fn known(
    attrs: &mut Attrs,
    query: std::collections::BTreeMap<String, String>,
    scheme: &str,
    whole: &str,
) -> Result<(), RefError> {
    for (name, value) in query {
        if !pin(attrs, &name, &value, whole)? {
            return Err(RefError(format!(
                "{scheme} URL '{whole}' has unsupported parameter '{name}'"
            )));
        }
    }
    Ok(())
}

/// Takes one parameter that locks a tree; false for any other.
fn pin(attrs: &mut Attrs, name: &str, value: &str, whole: &str) -> Result<bool, RefError> {
    let attr = match name {
        "rev" | "narHash" => Attr::Str(value.into()),
        "revCount" | "lastModified" => {
            let number = value.parse().map_err(|_not_a_number| {
                RefError(format!(
                    "URL '{whole}' has invalid parameter '{name}={value}'"
                ))
            })?;
            Attr::Int(number)
        }
        _ => return Ok(false),
    };
    attrs.insert(name.into(), attr);
    Ok(true)
}

fn attributes(mut url: Url, whole: &str, tree: bool) -> Result<Attrs, RefError> {
    let mut attrs = Attrs::new();
    let (outer, inner) = url.layers();
    let (outer, inner) = (outer.map(str::to_owned), inner.to_owned());
    let mut kind = |kind: &str| attrs.insert("type".into(), Attr::Str(kind.into()));
    match (outer.as_deref(), inner.as_str()) {
        (None, "path") => {
            kind("path");
            if url.authority.as_ref().is_some_and(|a| !a.is_empty()) {
                return Err(RefError(format!(
                    "path URL '{whole}' should not have an authority ('{}')",
                    url.authority.unwrap_or_default()
                )));
            }
            attrs.insert("path".into(), Attr::Str(url.path));
            known(&mut attrs, url.query, "path", whole)?;
        }
        (None, "git") | (Some("git"), "file" | "http" | "https" | "ssh" | "git") => {
            kind("git");
            for (name, value) in std::mem::take(&mut url.query) {
                match name.as_str() {
                    "ref" => {
                        attrs.insert(name, Attr::Str(value));
                    }
                    "shallow" | "submodules" | "allRefs" | "exportIgnore" | "lfs" => {
                        attrs.insert(name, Attr::Bool(value == "1"));
                    }
                    _ if pin(&mut attrs, &name, &value, whole)? => {}
                    _ => {
                        url.query.insert(name, value);
                    }
                }
            }
            url.scheme = inner;
            attrs.insert("url".into(), Attr::Str(url.to_string()));
        }
        (Some("hg"), _) => {
            kind("hg");
            for (name, value) in std::mem::take(&mut url.query) {
                if name == "ref" {
                    attrs.insert(name, Attr::Str(value));
                } else if !pin(&mut attrs, &name, &value, whole)? {
                    url.query.insert(name, value);
                }
            }
            url.scheme = inner;
            attrs.insert("url".into(), Attr::Str(url.to_string()));
        }
        (layer @ (None | Some("tarball" | "file")), "file" | "http" | "https") => {
            let archive = match layer {
                Some(layer) => layer == "tarball",
                None => tree || is_archive(&url.path),
            };
            kind(if archive { "tarball" } else { "file" });
            for (name, value) in std::mem::take(&mut url.query) {
                // A server may have a parameter of its own by the name of a commit: only what is one is taken.
                let own = name == "rev" && !is_rev(&value);
                if own || !pin(&mut attrs, &name, &value, whole)? {
                    url.query.insert(name, value);
                }
            }
            url.scheme = inner;
            attrs.insert("url".into(), Attr::Str(url.to_string()));
        }
        (None, forge @ ("github" | "gitlab" | "sourcehut")) => {
            kind(forge);
            repository(&mut attrs, &url, whole)?;
        }
        (None, "flake") => {
            attrs = indirect(&url.path)
                .ok_or_else(|| RefError(format!("'{}' is not a valid flake ID", url.path)))?;
            known(&mut attrs, url.query, "flake", whole)?;
        }
        _ => {
            return Err(RefError(format!("input '{whole}' is unsupported")));
        }
    }
    Ok(attrs)
}

fn is_archive(path: &str) -> bool {
    ARCHIVES.iter().any(|end| path.ends_with(end))
}

/// `github:owner/repo[/commit or branch]`
fn repository(attrs: &mut Attrs, url: &Url, whole: &str) -> Result<(), RefError> {
    let mut parts = url.path.splitn(3, '/');
    let (Some(owner), Some(repo)) = (parts.next(), parts.next()) else {
        return Err(RefError(format!("URL '{whole}' is invalid")));
    };
    if owner.is_empty() || repo.is_empty() || url.authority.is_some() {
        return Err(RefError(format!("URL '{whole}' is invalid")));
    }
    let mut rev = None;
    let mut branch = None;
    match parts.next().filter(|p| !p.is_empty()) {
        Some(one) if is_rev(one) => rev = Some(one.to_owned()),
        Some(one) if is_ref(one) => branch = Some(one.to_owned()),
        Some(one) => {
            return Err(RefError(format!(
                "in URL '{whole}', '{one}' is not a commit hash or branch/tag name"
            )));
        }
        None => {}
    }
    for (name, value) in &url.query {
        match name.as_str() {
            "rev" if rev.is_some() => {
                return Err(RefError(format!(
                    "URL '{whole}' contains multiple commit hashes"
                )));
            }
            "rev" => rev = Some(value.clone()),
            "ref" if branch.is_some() => {
                return Err(RefError(format!(
                    "URL '{whole}' contains multiple branch/tag names"
                )));
            }
            "ref" => branch = Some(value.clone()),
            "host" => {
                let ok = !value.is_empty()
                    && value
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"-.:".contains(&b));
                if !ok {
                    return Err(RefError(format!(
                        "URL '{whole}' contains an invalid instance host"
                    )));
                }
                attrs.insert("host".into(), Attr::Str(value.clone()));
            }
            "narHash" | "lastModified" => {
                pin(attrs, name, value, whole)?;
            }
            _ => {
                return Err(RefError(format!(
                    "URL '{whole}' has unsupported parameter '{name}'"
                )));
            }
        }
    }
    if let (Some(rev), Some(branch)) = (&rev, &branch) {
        return Err(RefError(format!(
            "URL '{whole}' contains both a commit hash and a branch/tag name {branch} {rev}"
        )));
    }
    attrs.insert("owner".into(), Attr::Str(owner.into()));
    attrs.insert("repo".into(), Attr::Str(repo.into()));
    attrs.extend(rev.map(|r| ("rev".to_owned(), Attr::Str(r))));
    attrs.extend(branch.map(|r| ("ref".to_owned(), Attr::Str(r))));
    Ok(())
}
