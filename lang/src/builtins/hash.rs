//! Hashes.

use sos_formats::hash::{Hash, HashAlgo};

use super::{Prim, p};
use crate::error::{Error, Kind, R};
use crate::eval::Vm;
use crate::heap::Value;
use crate::ir::Pos;

pub(super) static TABLE: &[Prim] = &[
    p(
        "hashString",
        2,
        3,
        hash_string,
        "Returns the hash of a string in base 16.",
    ),
    p(
        "hashFile",
        2,
        3,
        hash_file,
        "Returns the hash of a file in base 16.",
    ),
    p(
        "convertHash",
        1,
        1,
        convert_hash,
        "Writes a hash in another notation.",
    ),
];

fn algo(vm: &Vm, v: Value, pos: Pos) -> R<HashAlgo> {
    let name = String::from_utf8_lossy(vm.force_str_no_ctx(v, pos)?).into_owned();
    name.parse().map_err(|_e| {
        Error::new(Kind::Value, pos, format!("unknown hash algorithm '{name}', expect 'blake3', 'md5', 'sha1', 'sha256', or 'sha512'"))
    })
}

fn hash_string(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let algo = algo(vm, a[0], pos)?;
    let s = vm.force_str(a[1], pos)?;
    Ok(Value::string(Hash::of(algo, s.bytes()).to_hex().as_bytes()))
}

fn hash_file(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let algo = algo(vm, a[0], pos)?;
    let p = vm.path_arg(a[1], pos)?;
    let bytes = vm.read_file(&p).map_err(|e| vm.io_error(&e, &p, pos))?;
    Ok(Value::string(Hash::of(algo, &bytes).to_hex().as_bytes()))
}

fn convert_hash(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let set = vm.force_attrs(a[0], pos)?;
    let need = |s| set.get(s).ok_or_else(|| vm.missing(set, s, pos));
    let text = String::from_utf8_lossy(vm.force_str_no_ctx(need(vm.s.hash)?, pos)?).into_owned();
    let algo = match set.get(vm.s.hash_algo) {
        Some(v) => Some(algo(vm, v, pos)?),
        None => None,
    };
    let hash =
        Hash::parse_any(&text, algo).map_err(|e| Error::new(Kind::Value, pos, e.to_string()))?;
    let format = vm.force_str_no_ctx(need(vm.s.to_hash_format)?, pos)?;
    let out = match format {
        b"base16" => hash.to_hex(),
        b"nix32" => hash.to_nix32(),
        b"base32" => {
            vm.host
                .warn("\"base32\" is a deprecated alias for hash format \"nix32\".");
            hash.to_nix32()
        }
        b"base64" => hash.to_base64(),
        b"sri" => hash.to_sri(),
        f => {
            return Err(Error::new(
                Kind::Value,
                pos,
                format!(
                    "unknown hash format '{}', expect 'base16', 'base32', 'base64', or 'sri'",
                    String::from_utf8_lossy(f)
                ),
            ));
        }
    };
    Ok(Value::string(out.as_bytes()))
}
