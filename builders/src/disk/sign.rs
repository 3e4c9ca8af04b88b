//! Signatures of EFI programs (Authenticode), for firmware with Secure Boot.
//!
//! The key is read when a program leaves the store, and nothing that was signed comes back into it. A signature has no time in it:
//! the same program, key and certificate give the same bytes.

use std::fs;
use std::path::Path;

use rsa::pkcs1::DecodeRsaPrivateKey as _;
use rsa::pkcs8::DecodePrivateKey as _;
use rsa::{Pkcs1v15Sign, RsaPrivateKey};
use sos_engine::BuilderError;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::gpt;
use sos_formats::hash::{HashAlgo, Hasher};

use super::iso;
use super::pe::{self, Layout};
use super::provision::volume::Volume;
use super::provision::{Device, entry_kernels};

const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
const INDIRECT_DATA: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x04];
const PE_IMAGE_DATA: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x0f];
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const CONTENT_TYPE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x03];
const MESSAGE_DIGEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x04];
/// Directories of EFI programs that a loader starts.
const PROGRAMS: &[&str] = &["EFI/BOOT", "EFI/Linux", "EFI/systemd"];

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const CONTEXT_0: u8 = 0xa0;

/// A key and the certificate that firmware knows it by.
#[derive(Debug)]
pub struct Signer {
    key: RsaPrivateKey,
    certificate: Vec<u8>,
    /// Issuer and serial number, as they stand in the certificate.
    issuer: Vec<u8>,
    serial: Vec<u8>,
}

impl Signer {
    /// Reads an RSA key and a certificate, both in PEM.
    ///
    /// # Errors
    /// When one of them is something else, or they do not belong together.
    pub fn read(key: &Path, certificate: &Path) -> Result<Self, BuilderError> {
        let text = |path: &Path| {
            fs::read_to_string(path)
                .map_err(|e| BuilderError::io(format!("cannot read `{}`", path.display()), e))
        };
        Self::parse(&text(key)?, &text(certificate)?)
    }

    fn parse(key: &str, certificate: &str) -> Result<Self, BuilderError> {
        let key = RsaPrivateKey::from_pkcs8_pem(key)
            .ok()
            .or_else(|| RsaPrivateKey::from_pkcs1_pem(key).ok())
            .ok_or_else(|| wrong("the key is no RSA key in PEM without a password"))?;
        let certificate =
            pem(certificate).ok_or_else(|| wrong("the certificate is none in PEM"))?;
        let (serial, issuer, public) =
            parts_of(&certificate).ok_or_else(|| wrong("the certificate cannot be read"))?;
        let modulus = rsa::traits::PublicKeyParts::n(&key).to_bytes_be();
        if !public
            .windows(modulus.len())
            .any(|window| window == modulus)
        {
            return Err(wrong("the certificate is for another key"));
        }
        Ok(Self {
            key,
            certificate,
            issuer,
            serial,
        })
    }

    /// Signs an EFI program. A signature that is there is replaced.
    ///
    /// # Errors
    /// When it is no EFI program.
    pub fn sign(&self, program: &[u8]) -> Result<Vec<u8>, BuilderError> {
        let none = || {
            let message =
                "cannot sign for Secure Boot: it is no EFI program (PE32+) that can be signed";
            Diagnostic::error("boot-sign", Class::Usage, message).help(
                "name a disk, or an EFI program such as `#uki` makes: the key is not the problem",
            )
        };
        let layout = pe::layout(program).ok_or_else(none)?;
        let mut out = program[..layout.end].to_vec();
        // The table of signatures begins at a multiple of 8, and what fills up to it is signed too.
        out.resize(out.len().next_multiple_of(8), 0);
        let start = u32::try_from(out.len()).map_err(|_e| none())?;
        let mut content = self.signature(&digest(&out, &layout))?;
        let len = u32::try_from(content.len() + 8).map_err(|_e| none())?;
        content.resize(content.len().next_multiple_of(8), 0);
        let padded = u32::try_from(content.len() + 8).map_err(|_e| none())?;
        out[layout.table..layout.table + 4].copy_from_slice(&start.to_le_bytes());
        out[layout.table + 4..layout.table + 8].copy_from_slice(&padded.to_le_bytes());
        out.extend_from_slice(&len.to_le_bytes());
        // Revision 2, PKCS #7.
        out.extend_from_slice(&[0x00, 0x02, 0x02, 0x00]);
        out.extend_from_slice(&content);
        Ok(out)
    }

    /// The PKCS #7 structure over the digest of a program.
    fn signature(&self, digest: &[u8]) -> Result<Vec<u8>, BuilderError> {
        let sha256 = || der(SEQUENCE, &[der(OID, SHA256), vec![5, 0]].concat());
        // What Authenticode says of the file: nothing, in a form that everybody writes.
        let obsolete: Vec<u8> = "<<<Obsolete>>>"
            .encode_utf16()
            .flat_map(u16::to_be_bytes)
            .collect();
        let link = der(CONTEXT_0, &der(0xa2, &der(0x80, &obsolete)));
        let image = der(SEQUENCE, &[der(BIT_STRING, &[0]), link].concat());
        let data = der(SEQUENCE, &[der(OID, PE_IMAGE_DATA), image].concat());
        let message = der(SEQUENCE, &[sha256(), der(OCTET_STRING, digest)].concat());
        let content = [data, message].concat();
        let attribute =
            |oid: &[u8], value: Vec<u8>| der(SEQUENCE, &[der(OID, oid), der(SET, &value)].concat());
        let attributes = [
            attribute(CONTENT_TYPE, der(OID, INDIRECT_DATA)),
            attribute(MESSAGE_DIGEST, der(OCTET_STRING, &sha256_of(&content))),
        ]
        .concat();
        let hash = sha256_of(&der(SET, &attributes));
        let signed = self
            .key
            .sign(Pkcs1v15Sign::new::<rsa::sha2::Sha256>(), &hash);
        let signed = signed.map_err(|e| wrong(&format!("the key cannot sign: {e}")))?;
        let signer = der(
            SEQUENCE,
            &[
                der(INTEGER, &[1]),
                der(SEQUENCE, &[&self.issuer[..], &self.serial].concat()),
                sha256(),
                der(CONTEXT_0, &attributes),
                der(SEQUENCE, &[der(OID, RSA), vec![5, 0]].concat()),
                der(OCTET_STRING, &signed),
            ]
            .concat(),
        );
        let signed_data = der(
            SEQUENCE,
            &[
                der(INTEGER, &[1]),
                der(SET, &sha256()),
                der(
                    SEQUENCE,
                    &[
                        der(OID, INDIRECT_DATA),
                        der(CONTEXT_0, &der(SEQUENCE, &content)),
                    ]
                    .concat(),
                ),
                der(CONTEXT_0, &self.certificate),
                der(SET, &signer),
            ]
            .concat(),
        );
        Ok(der(
            SEQUENCE,
            &[der(OID, SIGNED_DATA), der(CONTEXT_0, &signed_data)].concat(),
        ))
    }
}

/// Whether a file on an EFI system partition is a program that a loader or firmware starts: one of the directories that they look
/// into, or a kernel where the disks of the library have those that an entry names.
pub(super) fn is_program(path: &str) -> bool {
    let Some((dir, name)) = path.rsplit_once('/') else {
        return false;
    };
    let below = dir.split_once('/');
    name.to_ascii_lowercase().ends_with(".efi")
        && PROGRAMS.iter().any(|known| dir.eq_ignore_ascii_case(known))
        || name.ends_with("-linux") && below.is_some_and(|(top, _)| top == "EFI")
        || name.starts_with("vmlinuz-") && below.is_some_and(|(top, _)| top == "ostree")
}

/// The EFI programs that are on a volume, the kernels that entries of the loader name with them.
fn programs_on(volume: &Volume) -> Result<Vec<String>, BuilderError> {
    let mut found = Vec::new();
    for dir in PROGRAMS {
        let paths = volume.list(dir).into_iter();
        let paths = paths.map(|name| format!("{dir}/{name}"));
        found.extend(paths.filter(|path| is_program(path)));
    }
    found.extend(entry_kernels(volume)?);
    Ok(found)
}

/// A kernel on a volume that has a signature, if there is any. Loaders do not count: distributions sign theirs.
pub(super) fn signed_on(volume: &Volume) -> Result<Option<String>, BuilderError> {
    let is_loader =
        |path: &String| path.starts_with("EFI/BOOT/") || path.starts_with("EFI/systemd/");
    for path in programs_on(volume)? {
        if !is_loader(&path) && is_signed(&volume.read(&path)?.unwrap_or_default()) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Signs what starts out of a directory for booting over the network, each in its place: `vmlinuz` and the EFI programs, as
/// `builtin:netboot` names them. Returns their names.
///
/// # Errors
/// When there is none, or one of them cannot be signed.
pub fn sign_directory(dir: &Path, signer: &Signer) -> Result<Vec<String>, BuilderError> {
    let failed = |what: &str, path: &Path| {
        let what = format!("cannot {what} `{}`", path.display());
        move |e| BuilderError::io(what, e)
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed("read", dir))? {
        let entry = entry.map_err(failed("read", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let starts = name == "vmlinuz" || name.ends_with(".efi");
        if starts && entry.file_type().map_err(failed("read", dir))?.is_file() {
            names.push(name);
        }
    }
    if names.is_empty() {
        return Err(wrong("there is no `vmlinuz` and no EFI program in it"));
    }
    names.sort();
    for name in &names {
        let path = dir.join(name);
        let program = fs::read(&path).map_err(failed("read", &path))?;
        let signed = signer.sign(&program).map_err(|why| of(name, why))?;
        // Beside it first: the file may be one that nobody writes to.
        let draft = dir.join(format!("{name}.signed"));
        let mode = fs::metadata(&path).map_err(failed("read", &path))?;
        fs::write(&draft, signed)
            .and_then(|()| fs::set_permissions(&draft, mode.permissions()))
            .and_then(|()| fs::rename(&draft, &path))
            .map_err(failed("write", &path))?;
    }
    Ok(names)
}

/// Signs every EFI program on the EFI system partition of a disk or of an image for optical drives, in its place. Returns their paths.
///
/// # Errors
/// When the disk has no such partition, or no room for the signatures.
pub fn sign_disk(device: &Device, signer: &Signer) -> Result<Vec<String>, BuilderError> {
    if iso::is_on(device)? {
        return iso::sign(device, signer);
    }
    let table = device.table()?;
    let kind = gpt::type_of("esp");
    let esp = table
        .iter()
        .flat_map(|table| &table.partitions)
        .find(|partition| Some(partition.kind) == kind);
    let esp = esp.ok_or_else(|| wrong("the disk has no EFI system partition"))?;
    let volume = Volume::open(device, esp)?;
    let done = programs_on(&volume)?;
    for path in &done {
        let program = volume.read(path)?.unwrap_or_default();
        let signed = signer.sign(&program).map_err(|why| of(path, why))?;
        volume.write(path, &mut &signed[..])?;
    }
    volume.close()?;
    device.sync()?;
    Ok(done)
}

/// Whether two EFI programs are the same but for signatures, as firmware computes it.
pub(super) fn is_same_program(a: &[u8], b: &[u8]) -> bool {
    let of = |program: &[u8]| {
        let layout = pe::layout(program)?;
        let mut bare = program[..layout.end].to_vec();
        bare.resize(bare.len().next_multiple_of(8), 0);
        Some(digest(&bare, &layout))
    };
    of(a).is_some_and(|digest| of(b) == Some(digest))
}

/// Whether an EFI program has a signature.
pub(super) fn is_signed(program: &[u8]) -> bool {
    pe::layout(program).is_some_and(|layout| layout.end < program.len())
}

/// The digest that firmware computes: of all but the checksum, the place of the signatures, and these.
fn digest(program: &[u8], layout: &Layout) -> [u8; 32] {
    let mut hasher = Hasher::new(HashAlgo::Sha256);
    hasher.update(&program[..layout.checksum]);
    hasher.update(&program[layout.checksum + 4..layout.table]);
    hasher.update(&program[layout.table + 8..]);
    hasher
        .finish()
        .as_sha256()
        .map_or([0; 32], |sha256| sha256.0)
}

fn sha256_of(bytes: &[u8]) -> [u8; 32] {
    sos_formats::hash::Sha256::of(bytes).0
}

/// One element of DER.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let len = content.len().to_be_bytes();
    let short: Vec<u8> = len.iter().copied().skip_while(|byte| *byte == 0).collect();
    match content.len() {
        0..128 => out.push(short.first().copied().unwrap_or(0)),
        _ => {
            out.push(0x80 | u8::try_from(short.len()).unwrap_or(8));
            out.extend_from_slice(&short);
        }
    }
    out.extend_from_slice(content);
    out
}

/// Reads one element: its whole bytes, its content, and what follows.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8], &[u8])> {
    let (found, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    if *found != tag {
        return None;
    }
    let (len, head) = match first {
        0..128 => (usize::from(*first), 2),
        _ => {
            let count = usize::from(first & 0x7f);
            let digits = rest.get(..count).filter(|_| (1..=4).contains(&count))?;
            (
                digits
                    .iter()
                    .fold(0, |len, digit| len << 8 | usize::from(*digit)),
                2 + count,
            )
        }
    };
    let whole = bytes.get(..head.checked_add(len)?)?;
    Some((whole, &whole[head..], &bytes[whole.len()..]))
}

/// Serial number, issuer and public key of a certificate, the first two as whole elements.
fn parts_of(certificate: &[u8]) -> Option<(Vec<u8>, Vec<u8>, Vec<u8>)> {
    let (_, outer, _) = element(certificate, SEQUENCE)?;
    let (_, inner, _) = element(outer, SEQUENCE)?;
    let rest = element(inner, CONTEXT_0).map_or(inner, |(_, _, rest)| rest);
    let (serial, _, rest) = element(rest, INTEGER)?;
    let (_, _, rest) = element(rest, SEQUENCE)?;
    let (issuer, _, rest) = element(rest, SEQUENCE)?;
    let (_, _, rest) = element(rest, SEQUENCE)?;
    let (_, _, rest) = element(rest, SEQUENCE)?;
    let (public, _, _) = element(rest, SEQUENCE)?;
    Some((serial.to_vec(), issuer.to_vec(), public.to_vec()))
}

/// The bytes of the first certificate of a PEM file.
fn pem(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    let (_, rest) = text.split_once("-----BEGIN CERTIFICATE-----")?;
    let (body, _) = rest.split_once("-----END CERTIFICATE-----")?;
    let body: String = body.split_whitespace().collect();
    base64::engine::general_purpose::STANDARD.decode(body).ok()
}

/// Says which program it is that cannot be signed.
fn of(path: &str, why: BuilderError) -> BuilderError {
    match why {
        BuilderError::Diagnostic(diagnostic) => {
            (*diagnostic).note(format!("this is about `{path}`")).into()
        }
        other => other,
    }
}

fn wrong(why: &str) -> BuilderError {
    Diagnostic::error("boot-sign", Class::Usage, format!("cannot sign for Secure Boot: {why}"))
        .help("`openssl req -newkey rsa:2048 -nodes -x509 -subj /CN=boot -keyout key.pem -out cert.pem` makes a key and a certificate")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::{peer, said};

    #[test]
    fn sbverify_accepts_what_was_signed_and_nothing_else() {
        let Ok(stub) = fs::read("/usr/lib/systemd/boot/efi/linuxx64.efi.stub") else {
            crate::peers::skip("no systemd-boot-efi");
            return;
        };
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name).to_str().expect("plain").to_owned();
        for name in ["a", "b"] {
            let (key, cert) = (path(&format!("{name}.key")), path(&format!("{name}.pem")));
            let args = [
                "req", "-newkey", "rsa:2048", "-nodes", "-x509", "-subj", "/CN=test", "-keyout",
                &key, "-out", &cert,
            ];
            let Some(output) = peer("openssl", &args) else {
                return;
            };
            assert!(output.status.success(), "{}", said(&output));
        }
        let read =
            |key: &str, cert: &str| Signer::read(Path::new(&path(key)), Path::new(&path(cert)));
        let signer = read("a.key", "a.pem").expect("a signer");
        assert!(read("a.key", "b.pem").is_err());
        assert!(read("a.pem", "a.pem").is_err());
        let refused = match signer.sign(b"text") {
            Err(BuilderError::Diagnostic(refused)) => refused,
            other => panic!("{other:?}"),
        };
        assert!(refused.helps[0].contains("the key is not the problem"));
        let linux = vec![7; 4099];
        let sections = [pe::Section {
            name: ".linux",
            data: &linux,
        }];
        let program = pe::append(&stub, &sections).expect("a program");
        let signed = signer.sign(&program).expect("signed");
        assert_eq!(signed, signer.sign(&program).expect("signed"));
        // Signed again it is the same: the old signature goes.
        assert_eq!(signed, signer.sign(&signed).expect("signed"));
        let file = path("signed.efi");
        fs::write(&file, &signed).expect("written");
        let verify = |cert: &str| peer("sbverify", &["--cert", &path(cert), &file]);
        let Some(output) = verify("a.pem") else {
            return;
        };
        assert!(output.status.success(), "{}", said(&output));
        assert!(!verify("b.pem").expect("there").status.success());
        let mut changed = signed;
        changed[5000] ^= 1;
        fs::write(&file, &changed).expect("written");
        assert!(!verify("a.pem").expect("there").status.success());
        assert!(signer.sign(b"MZ").is_err());
    }
}
