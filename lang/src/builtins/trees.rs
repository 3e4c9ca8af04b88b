//! `fetchGit`, `fetchMercurial`, `fetchTree` and what takes or gives references of flakes.

use sos_formats::flake_ref::{self, Attr, Attrs, FlakeRef};

use super::{Prim, p};
use crate::error::{Error, Kind, R};
use crate::eval::{Coerce, Vm};
use crate::flake::{Wants, attr_of_value, shown};
use crate::heap::{Attrs as Set, Sym, Value};
use crate::host::ContextElem;
use crate::ir::Pos;

pub(super) static TABLE: &[Prim] = &[
    p(
        "fetchGit",
        1,
        1,
        fetch_git,
        "Fetches a revision of a git repository.",
    ),
    p(
        "fetchTree",
        1,
        1,
        fetch_tree,
        "Fetches a tree of files that a URL or a set of attributes names.",
    ),
    p(
        "fetchMercurial",
        1,
        1,
        fetch_mercurial,
        "Fetches a revision, branch or tag of a Mercurial repository.",
    ),
    p(
        "fetchClosure",
        1,
        1,
        |_, _, pos| Err(switched_off("fetch-closure", pos)),
        "Not supported: needs an experimental feature.",
    ),
    p(
        "getFlake",
        1,
        1,
        get_flake,
        "Evaluates a flake and returns its outputs.",
    ),
    p(
        "parseFlakeRef",
        1,
        1,
        parse_flake_ref,
        "Returns the attributes of a flake reference.",
    ),
    p(
        "flakeRefToString",
        1,
        1,
        flake_ref_to_string,
        "Returns the URL for the attributes of a flake reference.",
    ),
    p(
        "outputOf",
        2,
        0,
        output_of,
        "Returns the path of an output of a derivation that is named by its file.",
    ),
];

#[cold]
fn switched_off(feature: &str, pos: Pos) -> Box<Error> {
    Error::new(
        Kind::Value,
        pos,
        format!(
            "experimental Nix feature '{feature}' is disabled; add '--extra-experimental-features {feature}' to enable it"
        ),
    )
    .help("sos does not have this feature")
}

/// The URL of a repository, from a text that may name it in the ways that git takes.
fn repository_url(vm: &Vm, v: Value, pos: Pos) -> R<String> {
    let text = plain_text(vm, v, pos)?;
    if text.starts_with('/') {
        return Ok(format!("file://{text}"));
    }
    if text.contains("://") {
        return Ok(text);
    }
    if let Some(rest) = text.strip_prefix("file:")
        && rest.starts_with('/')
    {
        return Ok(format!("file://{rest}"));
    }
    // `user@host:path`
    if let Some((user, rest)) = text.split_once('@')
        && let Some((host, path)) = rest.split_once(':')
        && !user.contains('/')
    {
        return Ok(format!(
            "ssh://{user}@{host}/{}",
            path.trim_start_matches('/')
        ));
    }
    Err(not_a_url(vm, &text, pos))
}

/// The error of a text that names no repository: a relative path in quotes says nothing of the directory that it starts at.
#[cold]
fn not_a_url(vm: &Vm, text: &str, pos: Pos) -> Box<Error> {
    let e = Error::new(Kind::Value, pos, format!("'{text}' is not a valid URL"))
        .label("neither a URL nor an absolute path");
    let below = text.strip_prefix("file:").unwrap_or(text);
    let below = below.strip_prefix("./").unwrap_or(below);
    let is_path = |b: u8| b.is_ascii_alphanumeric() || b"._-+/".contains(&b);
    if below.is_empty() || !below.bytes().all(is_path) {
        return e;
    }
    let here = vm
        .path_beside(pos, below)
        .map_or_else(String::new, |path| format!(": `{path}`"));
    e.help(format!(
        "write `./{below}` without quotes for the path beside this file{here}"
    ))
}

fn plain_text(vm: &Vm, v: Value, pos: Pos) -> R<String> {
    let s = vm.coerce(v, Coerce::PLAIN, pos)?;
    let bytes = vm.realise_path_string(s, pos)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn reference_error(e: &flake_ref::RefError, pos: Pos) -> Box<Error> {
    Error::new(Kind::Value, pos, e.0.clone())
}

/// Refuses what can change, under pure evaluation.
fn only_locked(vm: &Vm, tree: &Attrs, who: &str, pos: Pos) -> R<()> {
    if !vm.options.pure || flake_ref::is_locked(tree) || flake_ref::text(tree, "narHash").is_some()
    {
        return Ok(());
    }
    let url = shown(&FlakeRef {
        tree: tree.clone(),
        dir: String::new(),
    });
    Err(Error::new(
        Kind::Pure,
        pos,
        format!("in pure evaluation mode, '{who}' will not fetch unlocked input '{url}'"),
    )
    .help("name a revision (`rev`) or the hash of the content (`narHash`), or use `--impure`"))
}

fn fetch_git(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let v = vm.force(a[0])?;
    let mut attrs = Attrs::new();
    let mut name = "source".to_owned();
    match v.as_attrs().filter(|s| s.get(vm.s.out_path).is_none()) {
        Some(set) => {
            for (key, v, at) in set.entries() {
                let at = at.or(pos);
                let key = key.text().into_owned();
                match key.as_str() {
                    "url" => {
                        attrs.insert(key, Attr::Str(repository_url(vm, v, at)?));
                    }
                    "name" => name = plain_text(vm, v, at)?,
                    _ => {
                        let attr = attr_of_value(vm, &key, v, "fetchGit", at)?;
                        attrs.insert(key, attr);
                    }
                }
            }
            if !attrs.contains_key("url") {
                return Err(Error::new(
                    Kind::Value,
                    pos,
                    "'url' argument required by 'fetchGit'",
                ));
            }
        }
        None => {
            attrs.insert("url".into(), Attr::Str(repository_url(vm, v, pos)?));
        }
    }
    if let Some(why) = super::name_problem(&name) {
        return Err(Error::new(
            Kind::Value,
            pos,
            format!("invalid store path name when fetching a git tree: {why}"),
        ));
    }
    attrs.insert("type".into(), Attr::Str("git".into()));
    // An empty name is what programs pass that have none.
    for key in ["ref", "rev"] {
        if flake_ref::text(&attrs, key) == Some("") {
            attrs.remove(key);
        }
    }
    if !attrs.contains_key("exportIgnore") && !flake_ref::flag(&attrs, "submodules") {
        attrs.insert("exportIgnore".into(), Attr::Bool(true));
    }
    let tree = FlakeRef::from_attrs(attrs)
        .map_err(|e| reference_error(&e, pos))?
        .tree;
    only_locked(vm, &tree, "fetchGit", pos)?;
    let wants = Wants {
        name: &name,
        base: None,
    };
    let tree = vm.fetch_tree(&tree, &wants, pos)?;
    Ok(vm.tree_value(&tree, true, false))
}

fn fetch_mercurial(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let v = vm.force(a[0])?;
    let (mut url, mut rev) = (String::new(), None);
    let mut name = "source".to_owned();
    let text = |v, at| -> R<String> {
        let bytes = vm.force_str_no_ctx(v, at)?;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    };
    if let Some(set) = v.as_attrs() {
        for (key, v, at) in set.entries() {
            let at = at.or(pos);
            match key.text().as_ref() {
                "url" => url = plain_text(vm, v, at)?,
                "rev" => rev = Some(text(v, at)?),
                "name" => name = text(v, at)?,
                other => {
                    return Err(Error::new(
                        Kind::Value,
                        at,
                        format!("unsupported argument '{other}' to 'fetchMercurial'"),
                    )
                    .help("it takes `url`, `rev` and `name`"));
                }
            }
        }
    } else {
        url = plain_text(vm, v, pos)?;
    }
    if url.is_empty() {
        return Err(Error::new(
            Kind::Value,
            pos,
            "'url' argument required by 'fetchMercurial'",
        ));
    }
    if url.starts_with('/') {
        url = format!("file://{url}");
    } else if !url.contains("://") {
        return Err(not_a_url(vm, &url, pos));
    }
    if let Some(why) = super::name_problem(&name) {
        return Err(Error::new(
            Kind::Value,
            pos,
            format!("invalid store path name when fetching a Mercurial tree: {why}"),
        ));
    }
    let mut attrs = Attrs::new();
    attrs.insert("type".into(), Attr::Str("hg".into()));
    attrs.insert("url".into(), Attr::Str(url));
    if let Some(rev) = rev {
        // What is no whole id is the name of a branch or tag.
        let id = rev.to_ascii_lowercase();
        if id.len() == 40 && flake_ref::is_rev(&id) {
            attrs.insert("rev".into(), Attr::Str(id));
        } else {
            attrs.insert("ref".into(), Attr::Str(rev));
        }
    }
    if vm.options.pure && !attrs.contains_key("rev") {
        return Err(Error::new(
            Kind::Pure,
            pos,
            "in pure evaluation mode, 'fetchMercurial' requires a Mercurial revision",
        )
        .help("name a whole revision id (`rev`), or use `--impure`"));
    }
    let tree = FlakeRef::from_attrs(attrs)
        .map_err(|e| reference_error(&e, pos))?
        .tree;
    let wants = Wants {
        name: &name,
        base: None,
    };
    let tree = vm.fetch_tree(&tree, &wants, pos)?;
    Ok(vm.mercurial_value(&tree))
}

/// The reference in an argument that is a URL or a set of attributes.
fn attrs_of(vm: &Vm, set: Set, who: &str, pos: Pos) -> R<Attrs> {
    let mut attrs = Attrs::new();
    for (key, v, at) in set.entries() {
        let key = key.text().into_owned();
        let attr = attr_of_value(vm, &key, v, who, at.or(pos))?;
        attrs.insert(key, attr);
    }
    Ok(attrs)
}

fn fetch_tree(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let v = vm.force(a[0])?;
    let reference = match v.as_attrs().filter(|s| s.get(vm.s.out_path).is_none()) {
        Some(set) => {
            let attrs = attrs_of(vm, set, "fetchTree", pos)?;
            if !attrs.contains_key("type") {
                return Err(Error::new(
                    Kind::Value,
                    pos,
                    "argument 'type' is missing in call to 'fetchTree'",
                ));
            }
            if attrs.contains_key("name") {
                return Err(Error::new(
                    Kind::Value,
                    pos,
                    "argument 'name' isn't supported in call to 'fetchTree'",
                ));
            }
            FlakeRef::from_attrs(attrs)
        }
        None => {
            let text = plain_text(vm, v, pos)?;
            FlakeRef::parse(&text, false).map(|r| r.0)
        }
    };
    let tree = reference.map_err(|e| reference_error(&e, pos))?.tree;
    only_locked(vm, &tree, "fetchTree", pos)?;
    let fetched = vm.fetch_tree(&tree, &Wants::default(), pos)?;
    Ok(vm.tree_value(&fetched, false, false))
}

fn get_flake(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let text = vm.force_str(a[0], pos)?;
    let text = vm.realise_path_string(text, pos)?;
    vm.get_flake(&String::from_utf8_lossy(&text), pos)
}

fn parse_flake_ref(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let text = String::from_utf8_lossy(vm.force_str_no_ctx(a[0], pos)?).into_owned();
    let (reference, fragment) =
        FlakeRef::parse(&text, true).map_err(|e| reference_error(&e, pos))?;
    if !fragment.is_empty() {
        return Err(Error::new(
            Kind::Value,
            pos,
            format!("unexpected fragment '{fragment}' in flake reference '{text}'"),
        ));
    }
    let attrs = reference.to_attrs().into_iter().map(|(name, attr)| {
        let v = match attr {
            Attr::Str(s) => Value::string(s.as_bytes()),
            Attr::Int(i) => Value::int(i as i64),
            Attr::Bool(b) => Value::bool(b),
        };
        (Sym::new(name.as_bytes()), v, Pos::NONE)
    });
    Ok(Value::attrs(Set::from_pairs(attrs.collect())))
}

fn flake_ref_to_string(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let set = vm.force_attrs(a[0], pos)?;
    let mut attrs = Attrs::new();
    for (key, v, at) in set.entries() {
        let at = at.or(pos);
        let key = key.text().into_owned();
        let v = vm.force(v)?;
        if v.as_str().is_none() && v.as_int().is_none() && v.as_bool().is_none() {
            return Err(Error::new(
                Kind::Type,
                at,
                format!(
                    "flake reference attribute sets may only contain integers, Booleans, and strings, but attribute '{key}' is {}",
                    vm.show_type(v)
                ),
            ));
        }
        let attr = attr_of_value(vm, &key, v, "flakeRefToString", at)?;
        attrs.insert(key, attr);
    }
    let url = FlakeRef::from_attrs(attrs)
        .and_then(|r| r.to_url())
        .map_err(|e| reference_error(&e, pos))?;
    Ok(Value::string(url.as_bytes()))
}

fn output_of(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let file = vm.coerce(a[0], Coerce::PLAIN, pos)?;
    let output = String::from_utf8_lossy(vm.force_str_no_ctx(a[1], pos)?).into_owned();
    let elems = vm.ctx_elems(file.ctx());
    let drv = match elems.as_slice() {
        [ContextElem::Opaque(p) | ContextElem::Closure(p)] if p.is_derivation() => p.clone(),
        // A derivation that makes derivations.
        [ContextElem::Built(..)] => return Err(switched_off("dynamic-derivations", pos)),
        _ => {
            return Err(Error::new(
                Kind::Context,
                pos,
                format!(
                    "string '{}' does not name exactly one derivation",
                    String::from_utf8_lossy(file.bytes())
                ),
            ));
        }
    };
    let made = vm.read_drv(&drv, pos)?;
    let name = sos_formats::derivation::Derivation::name_from_path(&drv);
    let text = match made.output_path(vm.host.store_dir(), name, &output) {
        Some(path) => vm.absolute(&path),
        None if made.outputs.contains_key(&output) => {
            sos_formats::store_path::downstream_placeholder(&drv, &output)
        }
        None => {
            return Err(Error::new(
                Kind::Value,
                pos,
                format!(
                    "derivation '{}' has no output '{output}'",
                    vm.absolute(&drv)
                ),
            ));
        }
    };
    let ctx = vm.ctx_of([ContextElem::Built(drv, output)]);
    Ok(Value::string_ctx(text.as_bytes(), ctx))
}
