//! Roots that are compared with hashes, and firmware that looks at signatures.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use super::{Machine, RUNNING, all_wanted, with_machine};
use crate::support::{peer, run};

/// One partition of an image, as `sfdisk` reads it: offset and length in bytes.
fn partition(image: &Path, name: &str) -> (u64, u64) {
    let dump = run(Command::new("sfdisk").arg("--dump").arg(image))
        .ok()
        .stdout;
    let line = dump
        .lines()
        .find(|line| line.contains(&format!("name=\"{name}\"")))
        .unwrap_or_else(|| panic!("no partition {name}: {dump}"));
    let field = |key: &str| -> u64 {
        let (_, rest) = line.split_once(key).expect(key);
        let digits = rest.trim_start().split(',').next().expect("a number");
        digits.trim().parse().expect("a number")
    };
    (field("start=") * 512, field("size=") * 512)
}

/// Copies a partition into a file of its own.
fn cut_out(image: &Path, name: &str, to: &Path) {
    let (offset, len) = partition(image, name);
    let mut from = File::open(image).expect("the image");
    std::io::Seek::seek(&mut from, std::io::SeekFrom::Start(offset)).expect("inside");
    std::io::copy(&mut from.take(len), &mut File::create(to).expect("a file")).expect("copied");
}

/// Where a text first is in a range of a file.
fn find(file: &File, (offset, len): (u64, u64), text: &[u8]) -> Option<u64> {
    const PIECE: u64 = 1 << 20;
    let mut at = offset;
    while at < offset + len {
        let want =
            usize::try_from((PIECE + text.len() as u64).min(offset + len - at)).expect("small");
        let mut piece = vec![0; want];
        file.read_exact_at(&mut piece, at).expect("read");
        if let Some(found) = piece.windows(text.len()).position(|window| window == text) {
            return Some(at + found as u64);
        }
        at += PIECE;
    }
    None
}

/// The root is EROFS with a tree of hashes, whose top is in the kernel image. A byte of a file that the start reads, changed: the
/// kernel stops when it comes to it.
#[test]
fn a_root_with_hashes_starts_and_a_changed_one_does_not() {
    if !all_wanted() {
        return;
    }
    with_machine(|machine| {
        machine.starts(".#verified", &["--expect", RUNNING]);
        machine
            .world
            .sos(["export", ".#verified", "disk:verified.raw"])
            .ok();
        let dir = machine.world.project();
        let image = dir.join("verified.raw");
        let uki = machine.uki_of(&image, "EFI/Linux/web_1.efi");
        let bytes = std::fs::read(uki).expect("the kernel image");
        let at = bytes
            .windows(9)
            .position(|window| window == b"roothash=")
            .expect("the hash is on the command line");
        let hash = std::str::from_utf8(&bytes[at + 9..at + 9 + 64]).expect("digits");
        cut_out(&image, "root", &dir.join("data"));
        cut_out(&image, "root-verity", &dir.join("hashes"));
        let verify = |holds: bool| {
            let mut command = Command::new("veritysetup");
            command
                .args(["verify", "data", "hashes", hash])
                .current_dir(&dir);
            assert_eq!(run(&mut command).code == 0, holds);
        };
        verify(true);
        let text = b"Write what this host is to /run/hello";
        let disk = File::options()
            .read(true)
            .write(true)
            .open(&image)
            .expect("the image");
        let place = find(&disk, partition(&image, "root"), text).expect("the file of the service");
        disk.write_all_at(b"w", place).expect("changed");
        cut_out(&image, "root", &dir.join("data"));
        verify(false);
        machine.starts(
            "verified.raw",
            &[
                "--expect",
                "Kernel panic - not syncing: dm-verity device corrupted",
                "--reject",
                RUNNING,
            ],
        );
        for name in ["data", "hashes", "verified.raw"] {
            std::fs::remove_file(dir.join(name)).expect("removed");
        }
    });
}

/// The loader enrols keys that lie beside it into firmware that has none. From then on that starts what is signed with them, and
/// refuses the same disk without signatures.
#[test]
fn firmware_with_keys_starts_what_is_signed() {
    if !all_wanted() {
        return;
    }
    with_machine(|machine| {
        if peer("sbvarsign").is_none() || peer("openssl").is_none() {
            return;
        }
        keys(machine);
        machine
            .world
            .write("loader.conf", "timeout 0\nsecure-boot-enroll force\n");
        machine.world.write("secure.nix", SECURE);
        for (file, sign) in [("signed.raw", true), ("unsigned.raw", false)] {
            let mut words = vec![
                "export".to_owned(),
                "./secure.nix#disk".to_owned(),
                format!("disk:{file}"),
            ];
            if sign {
                words.extend(
                    [
                        "--secure-boot-key",
                        "key.pem",
                        "--secure-boot-cert",
                        "cert.pem",
                    ]
                    .map(str::to_owned),
                );
            }
            machine.world.sos(&words).ok();
        }
        let signed = machine.uki_of(
            &machine.world.project().join("signed.raw"),
            "EFI/Linux/secure_1.efi",
        );
        run(Command::new("sbverify")
            .arg("--cert")
            .arg(machine.world.project().join("cert.pem"))
            .arg(&signed))
        .ok();
        let secure = ["--secure-boot", "--vars", "vars.fd"];
        // The first start enrols, and the second one is the one that counts.
        machine.starts(
            "signed.raw",
            &[
                &secure[..],
                &[
                    "--reboot",
                    "--expect",
                    "[Ee]nroll",
                    "--expect",
                    "Secure boot enabled",
                    "--expect",
                    RUNNING,
                ],
            ]
            .concat(),
        );
        machine.starts(
            "unsigned.raw",
            &[
                &secure[..],
                &[
                    "--expect",
                    "Access Denied|Security Violation",
                    "--reject",
                    "Linux version|the system is",
                ],
            ]
            .concat(),
        );
        for name in ["signed.raw", "unsigned.raw", "vars.fd"] {
            std::fs::remove_file(machine.world.project().join(name)).expect("removed");
        }
    });
}

/// Makes a key, its certificate, and the variables that a loader enrols, by programs of others.
fn keys(machine: &Machine) {
    let dir = machine.world.project();
    let tool = |program: &str, args: &[&str]| {
        run(Command::new(program).args(args).current_dir(&dir)).ok();
    };
    tool(
        "openssl",
        &[
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-x509",
            "-days",
            "36500",
            "-subj",
            "/CN=sos test",
            "-keyout",
            "key.pem",
            "-out",
            "cert.pem",
        ],
    );
    tool(
        "openssl",
        &[
            "x509", "-in", "cert.pem", "-outform", "DER", "-out", "cert.der",
        ],
    );
    tool(
        "sbsiglist",
        &[
            "--owner",
            "6a1c3a50-3a2b-4c1d-9e4f-0123456789ab",
            "--type",
            "x509",
            "--output",
            "cert.esl",
            "cert.der",
        ],
    );
    for name in ["PK", "KEK", "db"] {
        tool(
            "sbvarsign",
            &[
                // All but that what is there is added to, which nobody may do to these.
                "--attr",
                "NON_VOLATILE,BOOTSERVICE_ACCESS,RUNTIME_ACCESS,TIME_BASED_AUTHENTICATED_WRITE_ACCESS",
                "--key",
                "key.pem",
                "--cert",
                "cert.pem",
                "--output",
                &format!("{name}.auth"),
                name,
                "cert.esl",
            ],
        );
    }
}

const SECURE: &str = r#"
{ sos, ... }:
{
  disk = sos.disk {
    name = "secure";
    rootfs = (import ./sos.nix { inherit sos; }).machine;
    # Not quiet: the kernel says what it found.
    cmdline = [ "mitigations=off" ];
    partitions = [
      {
        name = "esp";
        type = "esp";
        size = "256M";
        files = {
          "loader/loader.conf" = ./loader.conf;
          "loader/keys/auto/PK.auth" = ./PK.auth;
          "loader/keys/auto/KEK.auth" = ./KEK.auth;
          "loader/keys/auto/db.auth" = ./db.auth;
        };
      }
      { name = "root"; type = "root"; filesystem = "ext4"; rootfs = true; free = "64M"; }
    ];
  };
}
"#;
