//! What firmware starts is signed with a key that the store never sees.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use super::disk::{build, content, world};
use crate::support::{Run, World, peer, run};

/// Makes `key.pem` and `cert.pem` in the directory of the test, if openssl is installed.
fn secure_boot_key(w: &World) -> Option<[String; 4]> {
    let mut command = Command::new(peer("openssl")?);
    command.current_dir(w.project());
    run(command.args([
        "req", "-newkey", "rsa:2048", "-nodes", "-x509", "-subj", "/CN=test", "-keyout", "key.pem",
        "-out", "cert.pem",
    ]))
    .ok();
    Some(
        [
            "--secure-boot-key",
            "key.pem",
            "--secure-boot-cert",
            "cert.pem",
        ]
        .map(str::to_owned),
    )
}

/// `sos` with words and the options of the key behind them.
fn sos_signing(w: &World, words: &[&str], key: &[String; 4]) -> Run {
    w.sos(words.iter().copied().chain(key.iter().map(String::as_str)))
}

#[test]
fn an_exported_disk_is_signed_and_has_its_holes() {
    let Some(w) = world() else { return };
    if secure_boot_key(&w).is_none() {
        return;
    }
    let (key, cert) = ("key.pem", "cert.pem");
    w.sos([
        "export",
        ".#disk",
        "disk:signed.raw",
        "--secure-boot-key",
        key,
        "--secure-boot-cert",
        cert,
    ])
    .ok()
    .says(&[
        "signed `EFI/BOOT/BOOTX64.EFI`",
        "signed `EFI/Linux/test_1.efi`",
    ]);
    let file = w.project().join("signed.raw");
    let meta = std::fs::metadata(&file).expect("the disk");
    assert!(meta.blocks() * 512 < meta.size() / 2);
    w.sos(["export", ".#disk", "disk:signed.raw"])
        .fails(2)
        .says(&["is there already"]);
    for dest in ["dir:d", "oci:d"] {
        w.sos([
            "export",
            ".#disk",
            dest,
            "--secure-boot-key",
            key,
            "--secure-boot-cert",
            cert,
        ])
        .fails(2)
        .says(&["error[export-sign]", "disk:FILE"]);
    }
    assert!(!w.project().join("d").exists());
    w.sos([
        "export",
        ".#qcow2",
        "disk:signed.qcow2",
        "--secure-boot-key",
        key,
        "--secure-boot-cert",
        cert,
    ])
    .fails(2)
    .says(&["is a qcow2 image: only raw disks can be signed"]);
    assert!(!w.project().join("signed.qcow2").exists());
    let at = format!("{}@@1M", file.display());
    let out = w.project().join("uki.efi");
    let out = out.to_str().expect("plain");
    if content("mcopy", &["-i", &at, "::EFI/Linux/test_1.efi", out]).is_none() {
        return;
    }
    content(
        "sbverify",
        &[
            "--cert",
            w.project().join(cert).to_str().expect("plain"),
            out,
        ],
    );
    if let Some(said) = content("sgdisk", &["-v", file.to_str().expect("plain")]) {
        assert!(said.contains("No problems found"), "{said}");
    }
    // Signatures are no difference, and the next version gets its own.
    w.sos(["provision", "drift", "signed.raw", ".#disk"]).ok();
    w.sos([
        "provision",
        "apply",
        "signed.raw",
        ".#next",
        "--yes",
        "--secure-boot-key",
        key,
        "--secure-boot-cert",
        cert,
    ])
    .ok();
    w.sos(["provision", "drift", "signed.raw", ".#next"]).ok();
    content("mcopy", &["-o", "-i", &at, "::EFI/Linux/test_2+3.efi", out]);
    content(
        "sbverify",
        &[
            "--cert",
            w.project().join(cert).to_str().expect("plain"),
            out,
        ],
    );
}

#[test]
fn what_the_network_starts_is_signed_too() {
    let Some(w) = world() else { return };
    if peer("busybox").is_none() {
        return;
    }
    let Some(key) = secure_boot_key(&w) else {
        return;
    };
    let cert = w.project().join("cert.pem");
    let sound = |file: &Path| {
        let args = ["--cert", cert.to_str().expect("plain")];
        content(
            "sbverify",
            &[&args[..], &[file.to_str().expect("plain")]].concat(),
        );
    };
    sos_signing(&w, &["export", ".#program.netboot", "dir:net"], &key)
        .ok()
        .says(&["signed `program_1.efi`", "signed `vmlinuz`"]);
    let net = w.project().join("net");
    for name in ["program_1.efi", "vmlinuz"] {
        sound(&net.join(name));
    }
    // Everything else is as it was built, and the signature is all that was added.
    let built = w.physical(&build(&w, ".#program.netboot"));
    for name in ["boot.ipxe", "initrd", "rootfs.squashfs"] {
        let read = |dir: &Path| std::fs::read(dir.join(name)).expect("a file");
        assert!(read(&net) == read(&built), "{name}");
    }
    // Of the kernel itself it is the place of the signature alone, which has 8 bytes.
    let read = |dir: &Path| std::fs::read(dir.join("vmlinuz")).expect("a file");
    let (signed, bare) = (read(&net), read(&built));
    let others = bare.iter().zip(&signed).filter(|(a, b)| a != b).count();
    assert!((1..=8).contains(&others), "{others} bytes are others");
    // A kernel that an entry of the loader names.
    sos_signing(&w, &["export", ".#program", "disk:program.raw"], &key)
        .ok()
        .says(&["signed `EFI/program/1-linux`"]);
    let at = format!("{}@@1M", w.project().join("program.raw").display());
    let kernel = w.project().join("kernel");
    let taken = ["-i", &at, "::EFI/program/1-linux"];
    let taken = [&taken[..], &[kernel.to_str().expect("plain")]].concat();
    if content("mcopy", &taken).is_some() {
        sound(&kernel);
    }
    // What is no program is told with its name, and nothing is left of the directory.
    sos_signing(&w, &["export", ".#plain.netboot", "dir:plain"], &key)
        .fails(2)
        .says(&["error[boot-sign]", "`vmlinuz`"]);
    assert!(!w.project().join("plain").exists());
}

#[test]
fn a_version_without_signatures_beside_one_with_them_is_told() {
    let Some(w) = world() else { return };
    let Some(key) = secure_boot_key(&w) else {
        return;
    };
    let warning = "`EFI/Linux/test_1.efi` is signed, and `EFI/Linux/test_2.efi` will not be";
    sos_signing(&w, &["export", ".#disk", "disk:signed"], &key).ok();
    w.sos(["export", ".#disk", "disk:unsigned"]).ok();
    for verb in ["plan", "apply"] {
        // Without `--yes` the plan is all that happens.
        let code = if verb == "plan" { 0 } else { 2 };
        let told = |device: &str| {
            let told = w.sos(["provision", verb, device, ".#next"]);
            assert_eq!(told.code, code, "{}", told.stderr);
            told
        };
        assert!(told("signed").stdout.contains(warning));
        assert!(!told("unsigned").stdout.contains("is signed"));
        let signing = sos_signing(&w, &["provision", verb, "signed", ".#next"], &key);
        assert_eq!(signing.code, code, "{}", signing.stderr);
        assert!(!signing.stdout.contains("is signed"), "{}", signing.stdout);
    }
    // A key that cannot sign is told before anything is done.
    w.sos([
        "provision",
        "plan",
        "signed",
        ".#next",
        "--secure-boot-key",
        "cert.pem",
        "--secure-boot-cert",
        "cert.pem",
    ])
    .fails(2)
    .says(&["error[boot-sign]", "no RSA key"]);
    // Done all the same, it is told again.
    w.sos(["provision", "apply", "signed", ".#next", "--yes"])
        .ok()
        .says(&[warning]);
}
