//! Fetching trees, and what the language sees of them.

use std::rc::Rc;

use sos_formats::calendar::Moment;
use sos_formats::flake_ref::{self, Attr, Attrs, FlakeRef};

use super::{fail, shown};
use crate::error::{Error, Kind, R};
use crate::eval::{Coerce, Vm, canon_path, named, os_path};
use crate::heap::{Attrs as Set, Sym, Value};
use crate::host::{ContextElem, FetchedTree, TreeRequest};
use crate::ir::Pos;

/// The revision of what has none.
const NO_REV: &str = "0000000000000000000000000000000000000000";

/// How a tree is fetched.
pub(crate) struct Wants<'a> {
    /// Name of the store object.
    pub(crate) name: &'a str,
    /// Where relative paths start.
    pub(crate) base: Option<&'a [u8]>,
}

impl Default for Wants<'_> {
    fn default() -> Self {
        Wants {
            name: "source",
            base: None,
        }
    }
}

/// What is to be done about a tree that only a registry would know.
pub(super) fn no_registry(attrs: &Attrs) -> String {
    format!(
        "`{}` is the name of a flake in a registry, and sos has none: write where the flake is, as in `github:owner/name` or `path:/directory`",
        flake_ref::text(attrs, "id").unwrap_or_default()
    )
}

impl Vm {
    /// Where a tree is, for the code that calls flakes: the program has not seen it yet.
    pub(super) fn tree_place(&self, tree: &FetchedTree) -> Value {
        let path = self.absolute(&tree.path);
        let ctx = self.ctx_of([ContextElem::Opaque(tree.path.clone())]);
        Value::string_ctx(path.as_bytes(), ctx)
    }

    /// Fetches a tree, once.
    pub(crate) fn fetch_tree(
        &self,
        attrs: &Attrs,
        wants: &Wants<'_>,
        pos: Pos,
    ) -> R<Rc<FetchedTree>> {
        let relative = flake_ref::kind(attrs) == "path"
            && !flake_ref::text(attrs, "path").is_some_and(|p| p.starts_with('/'));
        let base = wants.base.filter(|_| relative);
        let key = (
            wants.name.to_owned(),
            base.map(<[u8]>::to_vec),
            attrs.clone(),
        );
        if let Some(found) = self.trees.fetched.borrow().get(&key) {
            return Ok(found.clone());
        }
        let url = shown(&FlakeRef {
            tree: attrs.clone(),
            dir: String::new(),
        });
        if flake_ref::kind(attrs) == "indirect" {
            return Err(fail(
                pos,
                format!("cannot find flake '{url}' in the flake registries"),
            )
            .help(no_registry(attrs)));
        }
        if relative && base.is_none() {
            return Err(fail(
                pos,
                format!("cannot fetch input '{url}' because it uses a relative path"),
            ));
        }
        match flake_ref::kind(attrs) {
            "git" | "hg" | "tarball" | "file" => {
                self.admit_url(flake_ref::text(attrs, "url").unwrap_or_default(), pos)?;
            }
            "path" if !relative => {
                self.admit_url(flake_ref::text(attrs, "path").unwrap_or_default(), pos)?;
            }
            "path" => {}
            _ => self.admit_url(&url, pos)?,
        }
        let request = TreeRequest {
            attrs: attrs.clone(),
            name: wants.name.to_owned(),
            base: base.map(os_path),
        };
        let tree = self
            .host
            .fetch_tree(&request)
            .map_err(|e| self.host_error(e, pos, &format!("cannot fetch '{url}'")))?;
        self.allow_object(&tree.path);
        if let Some(origin) = origin(attrs, base) {
            let mut origins = self.trees.origins.borrow_mut();
            origins.insert(self.absolute(&tree.path), origin);
        }
        let tree = Rc::new(tree);
        self.trees.fetched.borrow_mut().insert(key, tree.clone());
        Ok(tree)
    }

    /// Forgets what was fetched, because the world has changed.
    pub(super) fn forget_tree(&self, attrs: &Attrs) {
        // Whatever else was asked of it.
        let place = |a: &Attrs| (a.get("url").cloned(), a.get("path").cloned());
        let gone = place(attrs);
        let mut fetched = self.trees.fetched.borrow_mut();
        fetched.retain(|key, _| place(&key.2) != gone);
    }

    /// What the language sees of a tree. Old programs rely on a `rev` of `fetchGit` even where there is none: `fallback`.
    pub(crate) fn tree_value(&self, tree: &FetchedTree, fallback: bool, dirty: bool) -> Value {
        let attrs = &tree.attrs;
        let mut out: Vec<(Sym, Value, Pos)> = Vec::new();
        let path = self.absolute(&tree.path);
        let place = Value::string(path.as_bytes());
        // Whoever looks at one of these depends on all of the tree; before that, on the files that were read.
        let mut add = |name: &str, v: Value| {
            let v = named(place, v);
            out.push((Sym::new(name.as_bytes()), v, Pos::NONE));
        };
        let ctx = self.ctx_of([ContextElem::Opaque(tree.path.clone())]);
        add("outPath", Value::string_ctx(path.as_bytes(), ctx));
        let text = |name| flake_ref::text(attrs, name);
        if let Some(hash) = text("narHash") {
            add("narHash", Value::string(hash.as_bytes()));
        }
        if flake_ref::kind(attrs) == "git" {
            let on = flake_ref::flag(attrs, "submodules");
            add("submodules", Value::bool(on));
        }
        if !dirty {
            if let Some(rev) = text("rev").or(fallback.then_some(NO_REV)) {
                add("rev", Value::string(rev.as_bytes()));
                let short = rev.get(..7).unwrap_or(rev);
                add("shortRev", Value::string(short.as_bytes()));
            }
            match attrs.get("revCount") {
                Some(Attr::Int(n)) => add("revCount", Value::int(*n as i64)),
                _ if fallback => add("revCount", Value::int(0)),
                _ => {}
            }
        }
        for name in ["dirtyRev", "dirtyShortRev"] {
            if let Some(rev) = text(name) {
                add(name, Value::string(rev.as_bytes()));
            }
        }
        if let Some(Attr::Int(secs)) = attrs.get("lastModified") {
            add("lastModified", Value::int(*secs as i64));
            let date = compact_date(*secs);
            add("lastModifiedDate", Value::string(date.as_bytes()));
        }
        Value::attrs(Set::from_pairs(out))
    }
}

impl Vm {
    /// What `fetchMercurial` says of a tree: a working copy with changes has a revision of zeros, and no number.
    pub(crate) fn mercurial_value(&self, tree: &FetchedTree) -> Value {
        let path = self.absolute(&tree.path);
        let place = Value::string(path.as_bytes());
        let ctx = self.ctx_of([ContextElem::Opaque(tree.path.clone())]);
        let text = |name| flake_ref::text(&tree.attrs, name);
        let rev = text("rev").unwrap_or(NO_REV);
        let mut out = vec![
            ("outPath", Value::string_ctx(path.as_bytes(), ctx)),
            ("rev", Value::string(rev.as_bytes())),
            (
                "shortRev",
                Value::string(rev.get(..12).unwrap_or(rev).as_bytes()),
            ),
        ];
        if let Some(branch) = text("ref") {
            out.push(("branch", Value::string(branch.as_bytes())));
        }
        if let Some(Attr::Int(n)) = tree.attrs.get("revCount") {
            out.push(("revCount", Value::int(*n as i64)));
        }
        let out = out.into_iter();
        let named = out.map(|(name, v)| (Sym::new(name.as_bytes()), named(place, v), Pos::NONE));
        Value::attrs(Set::from_pairs(named.collect()))
    }
}

/// The directory of this machine that a tree is a copy of.
fn origin(attrs: &Attrs, base: Option<&[u8]>) -> Option<Vec<u8>> {
    let is_open = !attrs.contains_key("rev") && !attrs.contains_key("narHash");
    let place = match flake_ref::kind(attrs) {
        "path" => flake_ref::text(attrs, "path")?,
        "git" => flake_ref::text(attrs, "url")?.strip_prefix("file://")?,
        _ => return None,
    };
    let full = [base.unwrap_or_default(), b"/", place.as_bytes()].concat();
    (is_open && (base.is_some() || place.starts_with('/'))).then(|| canon_path(&full))
}

/// An attribute of a reference from a value of the language.
pub(crate) fn attr_of_value(vm: &Vm, name: &str, v: Value, who: &str, pos: Pos) -> R<Attr> {
    let v = vm.force(v)?;
    if let Some(b) = v.as_bool() {
        return Ok(Attr::Bool(b));
    }
    if let Some(i) = v.as_int() {
        let Ok(i) = u64::try_from(i) else {
            return Err(Error::new(
                Kind::Value,
                pos,
                format!("negative value given for {who} argument '{name}': {i}"),
            ));
        };
        return Ok(Attr::Int(i));
    }
    if v.as_str().is_some() || v.as_path().is_some() {
        let s = vm.coerce(v, Coerce::PLAIN, pos)?;
        let bytes = vm.realise_path_string(s, pos)?;
        return Ok(Attr::Str(String::from_utf8_lossy(&bytes).into_owned()));
    }
    Err(Error::new(
        Kind::Type,
        pos,
        format!(
            "argument '{name}' to '{who}' is {} while a string, Boolean or Integer is expected",
            vm.show_type(v)
        ),
    ))
}

/// `20240102030405`, in UTC.
fn compact_date(secs: u64) -> String {
    let Moment {
        year,
        month,
        day,
        hour,
        minute,
        second,
    } = Moment::of(secs.try_into().unwrap_or(i64::MAX));
    format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}")
}

#[cfg(test)]
mod tests {
    use super::compact_date;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (secs, date) in [
            (0, "19700101000000"),
            (951_782_399, "20000228235959"),
            (951_782_400, "20000229000000"),
            (1_704_164_645, "20240102030405"),
            (4_107_542_400, "21000301000000"),
        ] {
            assert_eq!(compact_date(secs), date);
        }
    }
}
