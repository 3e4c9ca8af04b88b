//! From attributes to a text.

use std::collections::BTreeMap;

use super::url::Url;
use super::{Attr, Attrs, RefError, kind, text, to_json};

/// The URL of a tree and the directory in it.
pub(super) fn url(tree: &Attrs, dir: &str) -> Result<String, RefError> {
    let get = |name: &str| {
        text(tree, name).ok_or_else(|| {
            RefError(format!(
                "input attribute '{name}' is missing in input '{}'",
                to_json(tree)
            ))
        })
    };
    let mut url = match kind(tree) {
        "path" => {
            let mut url = plain("path", get("path")?.to_owned());
            for (name, value) in tree {
                if !matches!(name.as_str(), "type" | "path" | "name" | "__final") {
                    url.query.insert(name.clone(), shown(value));
                }
            }
            url
        }
        outer @ ("git" | "hg") => {
            let mut url = Url::parse(get("url")?)?;
            if url.scheme != "git" {
                url.scheme = format!("{outer}+{}", url.scheme);
            }
            for name in ["rev", "ref"] {
                copy(&mut url, tree, name);
            }
            for name in ["shallow", "submodules", "allRefs", "exportIgnore", "lfs"] {
                if super::flag(tree, name) {
                    url.query.insert(name.into(), "1".into());
                }
            }
            url
        }
        outer @ ("tarball" | "file") => {
            let mut url = Url::parse(get("url")?)?;
            // What would be read as the other kind says which it is.
            let read = super::read::reference(&url.to_string(), false)?.0;
            if kind(&read.tree) != outer {
                url.scheme = format!("{outer}+{}", url.scheme);
            }
            copy(&mut url, tree, "narHash");
            url
        }
        forge @ ("github" | "gitlab" | "sourcehut") => {
            let mut path = format!("{}/{}", get("owner")?, get("repo")?);
            if let Some(at) = text(tree, "ref").or(text(tree, "rev")) {
                path = format!("{path}/{at}");
            }
            let mut url = plain(forge, path);
            for name in ["host", "narHash"] {
                copy(&mut url, tree, name);
            }
            url
        }
        "indirect" => {
            let mut path = get("id")?.to_owned();
            for name in ["ref", "rev"] {
                if let Some(value) = text(tree, name) {
                    path = format!("{path}/{value}");
                }
            }
            plain("flake", path)
        }
        _ => {
            return Err(RefError(format!(
                "cannot show unsupported input '{}'",
                to_json(tree)
            )));
        }
    };
    if !dir.is_empty() {
        url.query.insert("dir".into(), dir.into());
    }
    Ok(url.to_string())
}

fn plain(scheme: &str, path: String) -> Url {
    Url {
        scheme: scheme.into(),
        authority: None,
        path,
        query: BTreeMap::new(),
        fragment: String::new(),
    }
}

fn copy(url: &mut Url, tree: &Attrs, name: &str) {
    if let Some(value) = text(tree, name) {
        url.query.insert(name.into(), value.into());
    }
}

fn shown(value: &Attr) -> String {
    match value {
        Attr::Str(s) => s.clone(),
        Attr::Int(i) => i.to_string(),
        Attr::Bool(b) => u8::from(*b).to_string(),
    }
}
