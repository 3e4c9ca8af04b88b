//! Files, paths, imports and the environment.

use std::collections::BTreeSet;
use std::path::Path;

use sos_formats::derivation::Method;
use sos_formats::hash::{Hash, HashAlgo};
use sos_formats::store_path::{self, StorePath};

use super::{Prim, p};
use crate::error::{Error, Kind, R, Traced};
use crate::eval::{Coerce, Vm, os_path, path_bytes};
use crate::heap::{Attrs, Sym, Value};
use crate::host::{ContextElem, FileType, HostError};
use crate::ir::Pos;

/// Variables without a value that are remembered for an error.
const MAX_NO_ENV: usize = 4;

pub(super) static TABLE: &[Prim] = &[
    p(
        "import",
        1,
        1,
        |vm, a, pos| import(vm, a[0], None, pos),
        "Evaluates a file; each file once.",
    ),
    p(
        "scopedImport",
        2,
        3,
        scoped_import,
        "Evaluates a file with additional names in scope.",
    ),
    p(
        "readFile",
        1,
        1,
        read_file,
        "Returns the content of a file.",
    ),
    p(
        "readDir",
        1,
        1,
        read_dir,
        "Returns the names in a directory with their types.",
    ),
    p(
        "readFileType",
        1,
        1,
        read_file_type,
        "Returns the type of a path.",
    ),
    p(
        "pathExists",
        1,
        1,
        path_exists,
        "Says whether a path exists.",
    ),
    p(
        "toPath",
        1,
        1,
        to_path,
        "Checks that a string is an absolute path, and normalises it.",
    ),
    p("toFile", 2, 3, to_file, "Adds a text to the store."),
    p(
        "path",
        1,
        1,
        path,
        "Adds a file or tree to the store, with name, filter and hash of one's choice.",
    ),
    p(
        "filterSource",
        2,
        0,
        filter_source,
        "Adds a tree to the store without the files that a function refuses.",
    ),
    p(
        "storePath",
        1,
        1,
        store_path_of,
        "Makes a string that refers to an existing store path.",
    ),
    p(
        "findFile",
        2,
        3,
        find_file,
        "Looks a name up in a search path.",
    ),
    p(
        "getEnv",
        1,
        1,
        get_env,
        "Returns an environment variable, or the empty string.",
    ),
];

fn import(vm: &Vm, v: Value, extra: Option<Attrs>, pos: Pos) -> R {
    let v = vm.force(v)?;
    // A path that is the file of a derivation gives a set like the one `derivation` gives.
    let p = vm.path_arg(v, pos)?;
    if p.ends_with(b".drv")
        && let Ok(path) =
            StorePath::from_absolute(vm.host.store_dir(), &String::from_utf8_lossy(&p))
        && path.is_derivation()
        && let Ok(drv) = vm.read_drv(&path, pos)
    {
        return Ok(imported_derivation(vm, &path, &drv));
    }
    match extra {
        None => vm.import_file(&p, pos),
        Some(_) => {
            let full = vm.resolve_import(&p, pos)?;
            vm.load_file(&full, extra, pos)
        }
    }
}

fn imported_derivation(
    vm: &Vm,
    path: &StorePath,
    drv: &sos_formats::derivation::Derivation,
) -> Value {
    let none = Pos::NONE;
    let name = sos_formats::derivation::Derivation::name_from_path(path).to_owned();
    let text = vm.absolute(path);
    let drv_path = Value::string_ctx(
        text.as_bytes(),
        vm.ctx_of([ContextElem::Closure(path.clone())]),
    );
    let mut common = vec![
        (vm.s.drv_path, drv_path, none),
        (
            vm.s.name,
            Value::string(
                drv.env
                    .get(b"name".as_slice())
                    .map_or(name.as_bytes(), |n| n),
            ),
            none,
        ),
        (vm.s.typ, Value::string(b"derivation"), none),
    ];
    let mut names = Vec::new();
    let mut outs = Vec::new();
    for o in drv.outputs.keys() {
        names.push(Value::string(o.as_bytes()));
        let text = match drv.output_path(vm.host.store_dir(), &name, o) {
            Some(p) => vm.absolute(&p),
            None => store_path::downstream_placeholder(path, o),
        };
        let ctx = vm.ctx_of([ContextElem::Built(path.clone(), o.clone())]);
        outs.push((o.clone(), Value::string_ctx(text.as_bytes(), ctx)));
    }
    common.push((vm.s.outputs, Value::list(&names), none));
    for (o, v) in &outs {
        let mut one = common.clone();
        one.push((vm.s.out_path, *v, none));
        one.push((vm.s.output_name, Value::string(o.as_bytes()), none));
        common.push((
            Sym::new(o.as_bytes()),
            Value::attrs(Attrs::from_pairs(one)),
            none,
        ));
    }
    if let Some((o, v)) = outs.first() {
        common.push((vm.s.out_path, *v, none));
        common.push((vm.s.output_name, Value::string(o.as_bytes()), none));
    }
    Value::attrs(Attrs::from_pairs(common))
}

fn scoped_import(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let scope = vm.force_attrs(a[0], pos)?;
    import(vm, a[1], Some(scope), pos)
}

fn read_file(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let p = vm.path_arg(a[0], pos)?;
    let bytes = vm.read_file(&p).map_err(|e| vm.io_error(&e, &p, pos))?;
    if bytes.contains(&0) {
        return Err(Error::new(
            Kind::Value,
            pos,
            format!(
                "the contents of the file '{}' cannot be represented as a Nix string",
                String::from_utf8_lossy(&p)
            ),
        ));
    }
    // What the file itself refers to is not known; a store path read keeps nothing either, as the string is no longer a path.
    Ok(Value::string(&bytes))
}

fn read_dir(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let given = vm.path_arg(a[0], pos)?;
    // Package collections list the same directories for each of their package sets.
    if let Some(known) = vm.dirs.borrow().get(&given) {
        return Ok(*known);
    }
    let p = vm
        .resolve_link(&given)
        .map_err(|e| vm.io_error(&e, &given, pos))?;
    let entries = vm.read_dir(&p).map_err(|e| {
        if e.kind() == std::io::ErrorKind::NotADirectory {
            return Error::new(
                Kind::Io,
                pos,
                format!("'{}' is not a directory", String::from_utf8_lossy(&p)),
            );
        }
        vm.io_error(&e, &p, pos)
    })?;
    let all = entries
        .into_iter()
        .map(|(n, t)| {
            (
                Sym::new(&n),
                Value::string(t.as_str().as_bytes()),
                Pos::NONE,
            )
        })
        .collect();
    let found = Value::attrs(Attrs::from_pairs(all));
    vm.dirs.borrow_mut().insert(given, found);
    Ok(found)
}

fn read_file_type(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let p = vm.path_arg(a[0], pos)?;
    match vm.file_type(&p).map_err(|e| vm.io_error(&e, &p, pos))? {
        Some(t) => Ok(Value::string(t.as_str().as_bytes())),
        None => Err(Error::new(
            Kind::Io,
            pos,
            format!("path '{}' does not exist", String::from_utf8_lossy(&p)),
        )),
    }
}

fn path_exists(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let v = vm.force(a[0])?;
    let must_be_dir = v
        .as_str()
        .is_some_and(|s| s.bytes().ends_with(b"/") || s.bytes().ends_with(b"/."));
    let p = vm.path_arg(v, pos)?;
    if must_be_dir {
        let target = vm.resolve_link(&p).unwrap_or(p);
        return Ok(Value::bool(matches!(
            vm.file_type(&target),
            Ok(Some(FileType::Directory))
        )));
    }
    // A dangling link exists.
    Ok(Value::bool(matches!(vm.file_type(&p), Ok(Some(_)))))
}

fn to_path(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let s = vm.coerce(a[0], Coerce::PLAIN, pos)?;
    if !s.bytes().starts_with(b"/") {
        return Err(vm.not_absolute(s.bytes(), pos));
    }
    Ok(Value::string_ctx(
        &crate::eval::canon_path(s.bytes()),
        s.ctx(),
    ))
}

fn opaque(vm: &Vm, p: StorePath) -> Value {
    vm.allow_object(&p);
    let text = vm.absolute(&p);
    Value::string_ctx(text.as_bytes(), vm.ctx_of([ContextElem::Opaque(p)]))
}

fn to_file(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let name = String::from_utf8_lossy(vm.force_str_no_ctx(a[0], pos)?).into_owned();
    if let Some(why) = super::name_problem(&name) {
        let message = format!("invalid name for a file in the store: {why}");
        return Err(Error::new(Kind::Value, pos, message)
            .help("names have letters, digits and `+-._?=`, and do not begin as `.` and `..` do"));
    }
    let text = vm.force_str(a[1], pos)?;
    let mut refs = BTreeSet::new();
    for e in vm.ctx_elems(text.ctx()) {
        match e {
            ContextElem::Opaque(p) => {
                refs.insert(p);
            }
            e => {
                return Err(Error::new(
                    Kind::Context,
                    pos,
                    format!(
                        "files created by builtins.toFile may not reference derivations, but {name} references {}",
                        vm.show_context(&e)
                    ),
                ));
            }
        }
    }
    let p = vm
        .host
        .add_text(&name, text.bytes(), &refs)
        .map_err(|e| vm.host_error(e, pos, &format!("cannot add '{name}' to the store")))?;
    if !refs.is_empty() {
        vm.text_refs.borrow_mut().insert(p.clone(), refs);
    }
    Ok(opaque(vm, p))
}

/// What `path` and `filterSource` add.
struct Source {
    path: Vec<u8>,
    name: String,
    filter: Option<Value>,
    method: Method,
    expected: Option<Hash>,
    /// The same as the recipe gives it.
    written: Option<String>,
}

fn add_source(vm: &Vm, s: &Source, pos: Pos) -> R {
    let mut raised: Option<Box<Error>> = None;
    let mut call = |path: &Path, kind: FileType| -> Result<bool, HostError> {
        let Some(f) = s.filter else { return Ok(true) };
        let args = [
            Value::string(&path_bytes(path.to_path_buf())),
            Value::string(kind.as_str().as_bytes()),
        ];
        match vm.call(f, &args, pos).and_then(|v| vm.force_bool(v, pos)) {
            Ok(b) => Ok(b),
            Err(e) => {
                let message = e.message.clone();
                raised = Some(e);
                Err(HostError::Message(message))
            }
        }
    };
    let filter: Option<crate::host::PathFilter<'_>> = if s.filter.is_some() {
        Some(&mut call)
    } else {
        None
    };
    vm.admit(&s.path)
        .map_err(|e| vm.io_error(&e, &s.path, pos))?;
    let os = os_path(&s.path);
    let r = vm
        .host
        .add_path(&os, &s.name, s.method, filter, s.expected.as_ref());
    match (r, raised) {
        (_, Some(e)) => Err(e.frame(
            format!("while adding path '{}'", String::from_utf8_lossy(&s.path)),
            pos,
        )),
        (Ok(p), None) => {
            vm.files_read.borrow_mut().insert(os);
            Ok(opaque(vm, p))
        }
        (Err(e), None) => Err(vm.host_error(
            as_written(e, s.written.as_deref()),
            pos,
            &format!(
                "cannot add '{}' to the store",
                String::from_utf8_lossy(&s.path)
            ),
        )),
    }
}

/// Says wrong hashes in the notation in which the recipe has the right one.
fn as_written(e: HostError, written: Option<&str>) -> HostError {
    let HostError::Diagnostic(mut d) = e else {
        return e;
    };
    for hash in &mut d.hashes {
        if let (Some(written), Ok(found)) = (written, Hash::parse_any(&hash.found, None)) {
            hash.found = found.in_notation_of(written);
            written.clone_into(&mut hash.expected);
        }
        d.notes.push(format!("expected {}", hash.expected));
        d.notes.push(format!("found    {}", hash.found));
    }
    HostError::Diagnostic(d)
}

fn base_name(p: &[u8]) -> String {
    String::from_utf8_lossy(p.rsplit(|b| *b == b'/').next().unwrap_or_default()).into_owned()
}

fn path(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let set = vm.force_attrs(a[0], pos)?;
    let mut s = Source {
        path: Vec::new(),
        name: String::new(),
        filter: None,
        method: Method::Recursive,
        expected: None,
        written: None,
    };
    for (i, (key, v)) in set.iter().enumerate() {
        let at = set.shape().pos_at(i).or(pos);
        if key == vm.s.path {
            s.path = vm.path_arg(v, at).traced(
                || "while evaluating the 'path' attribute passed to 'builtins.path'".into(),
                at,
            )?;
        } else if key == vm.s.name {
            s.name = String::from_utf8_lossy(vm.force_str_no_ctx(v, at)?).into_owned();
        } else if key == vm.s.filter {
            s.filter = Some(vm.force_fun(v, at)?);
        } else if key == vm.s.recursive {
            s.method = if vm.force_bool(v, at)? {
                Method::Recursive
            } else {
                Method::Flat
            };
        } else if key == vm.s.sha256 {
            let text = String::from_utf8_lossy(vm.force_str_no_ctx(v, at)?).into_owned();
            let h = Hash::parse_any(&text, Some(HashAlgo::Sha256))
                .map_err(|e| Error::new(Kind::Value, at, e.to_string()))?;
            s.expected = Some(h);
            s.written = Some(text);
        } else {
            return Err(Error::new(
                Kind::Value,
                at,
                format!("unsupported argument '{}' to 'builtins.path'", key.text()),
            ));
        }
    }
    if s.path.is_empty() {
        return Err(Error::new(
            Kind::Value,
            pos,
            "missing required 'path' attribute in the first argument to 'builtins.path'",
        ));
    }
    if s.name.is_empty() {
        s.name = base_name(&s.path);
    }
    add_source(vm, &s, pos)
}

fn filter_source(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let path = vm.path_arg(a[1], pos)?;
    let f = vm.force_fun(a[0], pos)?;
    let name = base_name(&path);
    add_source(
        vm,
        &Source {
            path,
            name,
            filter: Some(f),
            method: Method::Recursive,
            expected: None,
            written: None,
        },
        pos,
    )
}

fn store_path_of(vm: &Vm, a: &[Value], pos: Pos) -> R {
    if vm.options.pure {
        return Err(Error::new(
            Kind::Pure,
            pos,
            "'builtins.storePath' is not allowed in pure evaluation mode",
        )
        .help("use `--impure`"));
    }
    let s = vm.coerce(a[0], Coerce::PLAIN, pos)?;
    let mut place = s.bytes().to_vec();
    let mut text = String::from_utf8_lossy(&place).into_owned();
    // An object may be a link itself; any other path is where it leads to.
    if text.starts_with('/') && StorePath::from_absolute(vm.host.store_dir(), &text).is_err() {
        let real = vm.admit(&place).and_then(|()| vm.real_path(&place));
        place = real.map_err(|e| vm.io_error(&e, &place, pos))?;
        text = String::from_utf8_lossy(&place).into_owned();
    }
    let split = StorePath::split_absolute(vm.host.store_dir(), &text);
    let Ok((path, _)) = split else {
        return Err(Error::new(
            Kind::Value,
            pos,
            format!("path '{text}' is not in the Nix store"),
        ));
    };
    match vm.host.is_valid_path(&path) {
        Ok(true) => {}
        Ok(false) => {
            return Err(Error::new(
                Kind::Value,
                pos,
                format!("path '{}' is not valid", vm.absolute(&path)),
            ));
        }
        Err(e) => return Err(vm.host_error(e, pos, "cannot ask the store")),
    }
    let ctx = vm.ctx_union(s.ctx(), vm.ctx_of([ContextElem::Opaque(path)]));
    Ok(Value::string_ctx(&place, ctx))
}

fn find_file(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let paths = vm.force_list(a[0], pos)?;
    let name = vm.force_str(a[1], pos)?;
    vm.find_file(paths, name, pos)
}

fn get_env(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let name = String::from_utf8_lossy(vm.force_str_no_ctx(a[0], pos)?).into_owned();
    let v = if vm.options.pure || vm.options.restricted {
        None
    } else {
        vm.host.env(&name)
    };
    if v.is_none() {
        let mut all = vm.no_env.borrow_mut();
        if all.len() < MAX_NO_ENV && !all.iter().any(|known| known.0 == name) {
            all.push((name, pos));
        }
    }
    Ok(Value::string(v.unwrap_or_default().as_bytes()))
}
