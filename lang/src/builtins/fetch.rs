//! Downloads; the host does them.

use sos_formats::hash::{Hash, HashAlgo};
use sos_formats::store_path::StorePath;

use super::{Prim, p};
use crate::error::{Error, Kind, R};
use crate::eval::Vm;
use crate::heap::Value;
use crate::host::{ContextElem, FetchRequest};
use crate::ir::Pos;

pub(super) static TABLE: &[Prim] = &[
    p(
        "fetchurl",
        1,
        1,
        |vm, a, pos| fetch(vm, a[0], false, pos),
        "Downloads a file.",
    ),
    p(
        "fetchTarball",
        1,
        1,
        |vm, a, pos| fetch(vm, a[0], true, pos),
        "Downloads an archive and unpacks it.",
    ),
];

fn fetch(vm: &Vm, v: Value, unpack: bool, pos: Pos) -> R {
    let who = if unpack { "fetchTarball" } else { "fetchurl" };
    let v = vm.force(v)?;
    let mut url = None;
    let mut name = None;
    let mut sha256 = None;
    let mut written = None;
    let text = |v: Value, pos: Pos| -> R<String> {
        Ok(String::from_utf8_lossy(vm.force_str_no_ctx(v, pos)?).into_owned())
    };
    if let Some(set) = v.as_attrs() {
        for (i, (s, v)) in set.iter().enumerate() {
            let at = set.shape().pos_at(i).or(pos);
            if s == vm.s.url {
                url = Some(text(v, at)?);
            } else if s == vm.s.name {
                name = Some(text(v, at)?);
            } else if s == vm.s.sha256 {
                let t = text(v, at)?;
                sha256 = Some(if t.is_empty() {
                    super::derivation::unknown_hash(vm, HashAlgo::Sha256, at)?
                } else {
                    Hash::parse_any(&t, Some(HashAlgo::Sha256))
                        .map_err(|e| Error::new(Kind::Value, at, e.to_string()))?
                });
                written = Some(t);
            } else {
                return Err(Error::new(
                    Kind::Value,
                    at,
                    format!("unsupported argument '{}' to '{who}'", s.text()),
                ));
            }
        }
    } else {
        url = Some(text(v, pos)?);
    }
    let Some(url) = url else {
        return Err(Error::new(
            Kind::Value,
            pos,
            format!("'url' argument required by '{who}'"),
        ));
    };
    if vm.options.pure && sha256.is_none() {
        return Err(Error::new(
            Kind::Pure,
            pos,
            format!("in pure evaluation mode, '{who}' requires a 'sha256' argument"),
        )
        .help("name the hash of the content (`sha256`), or use `--impure`"));
    }
    let given = name.is_some();
    let name = name.unwrap_or_else(|| {
        if unpack {
            "source".to_owned()
        } else {
            url.rsplit('/').next().unwrap_or("file").to_owned()
        }
    });
    if let Some(why) = super::name_problem(&name) {
        let advice = match (v.as_attrs(), given) {
            (Some(_), true) => format!(
                "Please change the value for the 'name' attribute passed to '{who}', so that it can create a valid store path."
            ),
            (Some(_), false) => format!(
                "Please add a valid 'name' attribute to the argument for '{who}', so that it can create a valid store path."
            ),
            (None, _) => format!(
                "Please pass an attribute set with 'url' and 'name' attributes to '{who}',  so that it can create a valid store path."
            ),
        };
        return Err(Error::new(
            Kind::Value,
            pos,
            format!("invalid store path name when fetching URL '{url}': {why}. {advice}"),
        ));
    }
    let p = download(
        vm,
        &FetchRequest {
            url,
            name,
            sha256,
            written,
            unpack,
        },
        pos,
    )?;
    let text = vm.absolute(&p);
    Ok(Value::string_ctx(
        text.as_bytes(),
        vm.ctx_of([ContextElem::Opaque(p)]),
    ))
}

/// Downloads; what has no hash once an evaluation, so that all of it sees the same.
fn download(vm: &Vm, request: &FetchRequest, pos: Pos) -> R<StorePath> {
    let key = (request.url.clone(), request.name.clone(), request.unpack);
    let open = request.sha256.is_none();
    if open && let Some(p) = vm.trees.urls().borrow().get(&key) {
        return Ok(p.clone());
    }
    vm.admit_url(&request.url, pos)?;
    let p = vm
        .host
        .fetch_url(request)
        .map_err(|e| vm.host_error(e, pos, &format!("cannot fetch '{}'", request.url)))?;
    vm.allow_object(&p);
    if open {
        vm.trees.urls().borrow_mut().insert(key, p.clone());
    }
    Ok(p)
}

impl Vm {
    /// The tree behind an entry of the search path that is a URL.
    pub(crate) fn search_url(&self, url: &str, pos: Pos) -> R<Vec<u8>> {
        if let Some(reference) = url.strip_prefix("flake:") {
            let tree = self.search_flake(reference, pos)?;
            return Ok(self.absolute(&tree).into_bytes());
        }
        let url = match url.strip_prefix("channel:") {
            Some(_) => {
                return Err(Error::new(
                    Kind::Value,
                    pos,
                    format!("the search path names the channel '{url}'"),
                )
                .help("sos knows no server of channels: give the address of an archive"));
            }
            None => url.to_owned(),
        };
        let request = FetchRequest {
            url,
            name: "source".to_owned(),
            sha256: None,
            written: None,
            unpack: true,
        };
        let p = download(self, &request, pos)?;
        Ok(self.absolute(&p).into_bytes())
    }

    fn search_flake(&self, reference: &str, pos: Pos) -> R<StorePath> {
        let (reference, _) = sos_formats::flake_ref::FlakeRef::parse(reference, true)
            .map_err(|e| Error::new(Kind::Value, pos, e.0))?;
        let tree = self.fetch_tree(&reference.tree, &crate::flake::Wants::default(), pos)?;
        Ok(tree.path.clone())
    }
}
