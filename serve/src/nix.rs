//! A Nix binary cache of every tree of the store.
//!
//! The name of an archive says everything that is needed to find it, `<hash of the path>-<hash of the archive>.nar`, so that nothing is
//! looked up by content and an archive that has changed is another one.

use std::io::{self, Write};

use sos_formats::hash::{Hash, HashAlgo, Sha256};
use sos_formats::narinfo::{Compression, NarInfo};
use sos_formats::nix32;
use sos_store::{ObjectKind, PathInfo};

use crate::answer::{Answer, Cache};
use crate::mirror::Mirror;

/// Speed matters more: it must keep up with the network.
const ZSTD_LEVEL: i32 = 3;
/// The same for xz, which is slow at any level.
const XZ_LEVEL: u32 = 1;

/// `/nix-cache-info`.
pub(crate) fn about(mirror: &Mirror) -> Answer {
    let dir = mirror.store.store_dir().as_str();
    let text = format!("StoreDir: {dir}\nWantMassQuery: 1\nPriority: 30\n");
    Answer::bytes(text, "text/x-nix-cache-info").keep(Cache::Short)
}

/// `/<hash>.narinfo`.
pub(crate) fn info(mirror: &Mirror, hash: &str) -> Answer {
    match describe(mirror, hash) {
        Ok(Some(info)) => {
            let text = info.to_text(mirror.store.store_dir());
            let tag = Sha256::of(text.as_bytes()).to_hex();
            Answer::bytes(text, "text/x-nix-narinfo")
                .keep(Cache::Short)
                .tagged(&tag)
        }
        Ok(None) => Answer::missing(),
        Err(error) => Answer::broken(&error.to_string()),
    }
}

/// The tree with a hash in its path, and the hash of its archive.
fn tree(mirror: &Mirror, hash: &str) -> sos_store::Result<Option<(PathInfo, Sha256)>> {
    let digest = nix32::decode(hash).ok().and_then(|d| d.try_into().ok());
    let Some(digest) = digest else {
        return Ok(None);
    };
    let found = mirror.store.query_digest(&digest)?;
    let Some(info) = found.filter(|info| info.kind == ObjectKind::Tree) else {
        return Ok(None);
    };
    let nar = mirror.store.nar_sha256(&info)?;
    Ok(Some((info, nar)))
}

fn describe(mirror: &Mirror, hash: &str) -> sos_store::Result<Option<NarInfo>> {
    let Some((found, nar)) = tree(mirror, hash)? else {
        return Ok(None);
    };
    let compression = mirror.options.compression;
    let plain = compression == Compression::None;
    let hash = Hash::from(nar);
    let mut info = NarInfo {
        url: format!(
            "nar/{}-{}.nar{}",
            found.path.hash_str(),
            hash.to_nix32(),
            compression.suffix()
        ),
        compression,
        // Of what is compressed while it is sent nobody knows them beforehand.
        file_hash: plain.then_some(hash),
        file_size: plain.then_some(found.nar_size),
        nar_hash: nar,
        nar_size: found.nar_size,
        references: found.references,
        deriver: found.deriver,
        signatures: mirror.store.signatures(&found.path)?,
        ca: found.ca,
        path: found.path,
    };
    if let Some(key) = &mirror.options.key {
        let signature = key.sign(&info.fingerprint(mirror.store.store_dir()));
        // One of that name which is another cannot be good.
        info.signatures.retain(|other| other.key != key.name());
        info.signatures.push(signature);
    }
    Ok(Some(info))
}

/// `/realisations/sha256:<hash>!<output>.doi`.
pub(crate) fn realisation(mirror: &Mirror, name: &str) -> Answer {
    let id = name.strip_suffix(".doi").unwrap_or_default();
    let Some(path) = mirror.offers.realisations.get(id) else {
        return Answer::missing();
    };
    // What is signed is this text, keys in order, without the signatures.
    let mut value = serde_json::json!({
        "dependentRealisations": {}, "id": id, "outPath": path.as_str(),
    });
    let key = mirror.options.key.as_ref();
    let signature = key.map(|key| key.sign(&value.to_string()).to_string());
    value["signatures"] = signature.into_iter().collect();
    Answer::bytes(value.to_string(), "application/json").keep(Cache::Short)
}

/// `/nar/<hash>-<hash>.nar[.zst|.xz]`.
pub(crate) fn archive(mirror: &Mirror, name: &str) -> Answer {
    let forms = [Compression::None, Compression::Zstd, Compression::Xz];
    let named = forms.into_iter().find_map(|form| {
        let base = name.strip_suffix(&format!(".nar{}", form.suffix()))?;
        let (path, nar) = base.split_once('-')?;
        let digest = nix32::decode(nar).ok()?;
        let nar = Hash::new(HashAlgo::Sha256, &digest).ok()?.as_sha256()?;
        Some((form, path, nar))
    });
    let Some((form, hash, nar)) = named else {
        return Answer::missing();
    };
    let first = match tree(mirror, hash) {
        Ok(Some((info, found))) if found == nar => info,
        Ok(_) => return Answer::missing(),
        Err(error) => return Answer::broken(&error.to_string()),
    };
    // Held, and then looked at again: it may have been collected in between.
    let lease = mirror.protect(&first.path);
    match mirror.store.is_present(&first.path) {
        Ok(true) => {}
        Ok(false) => return Answer::missing(),
        Err(error) => return Answer::broken(&error.to_string()),
    }
    let store = mirror.store.clone();
    let path = first.path;
    let size = (form == Compression::None).then_some(first.nar_size);
    let tag = format!("{}{}", nar.to_hex(), form.suffix());
    Answer::written(size, "application/x-nix-nar", move |out| {
        let dump = |out: &mut dyn Write| store.nar_dump(&path, out).map_err(io::Error::other);
        let done = match form {
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?;
                dump(&mut encoder).and_then(|()| encoder.finish().map(drop))
            }
            Compression::Xz => {
                let mut encoder = liblzma::write::XzEncoder::new(out, XZ_LEVEL);
                dump(&mut encoder).and_then(|()| encoder.finish().map(drop))
            }
            _ => dump(out),
        };
        drop(lease);
        done
    })
    .keep(Cache::Immutable)
    .tagged(&tag)
}
