//! Compared with the programs that others look at disks with.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use sos_formats::gpt::Table;
use sos_formats::manifest::Meta;
use sos_formats::uuid::Uuid;
use sos_store::rootfs::{FileSpec, RootTree, SpecKind};

use super::assemble::{self, Attribute, DiskAttrs, Format, PartitionAttrs};
use super::esp::FileFrom;
use super::initrd::{self, Compression, InitrdAttrs};
use super::iso::{self, IsoAttrs};
use super::provision::Device;
use super::qcow2;
use super::sign::{Signer, sign_disk};
use super::uki::{self, UkiAttrs};
use crate::build::fake::Fake;
use crate::peers::{peer, said};

const EPOCH: i64 = 1_782_864_000;
/// A root filesystem by the name that store paths have.
const ROOT: &str = "/nix/store/00000000000000000000000000000000-root";

fn text(text: &str) -> FileFrom {
    FileFrom::Text {
        text: text.to_owned(),
    }
}

fn esp(size: Option<u64>, files: BTreeMap<String, FileFrom>) -> PartitionAttrs {
    PartitionAttrs {
        name: "esp".to_owned(),
        kind: "esp".to_owned(),
        uuid: Uuid::derived("test", "esp").to_string(),
        size,
        filesystem: Some(Format::Vfat),
        filesystem_uuid: Uuid::derived("test", "esp volume").to_string(),
        label: "ESP".to_owned(),
        files,
        ..PartitionAttrs::default()
    }
}

/// A disk of these, as large as it must be.
pub(super) fn disk(partitions: Vec<PartitionAttrs>) -> DiskAttrs {
    DiskAttrs {
        size: None,
        uuid: Uuid::derived("test", "disk").to_string(),
        partitions,
        epoch: EPOCH,
    }
}

/// Lets xorriso, where there is one, write the files of an image into a directory.
fn is_extracted(image: &Path, dir: &Path) -> bool {
    let args = [
        "-osirrox",
        "on",
        "-indev",
        shown(image),
        "-extract",
        "/",
        shown(dir),
    ];
    content("xorriso", &args).is_some()
}

/// Runs a peer that must be content.
fn content(program: &str, args: &[&str]) -> Option<String> {
    let output = peer(program, args)?;
    let said = said(&output);
    assert!(output.status.success(), "{program} {args:?}: {said}");
    Some(said)
}

fn shown(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Copies one partition into a file of its own.
fn cut_out(disk: &Path, table: &Table, number: usize, to: &Path) {
    let partition = &table.partitions[number];
    let file = fs::File::open(disk).expect("the disk");
    let mut bytes = vec![0; usize::try_from(partition.size()).expect("small")];
    file.read_exact_at(&mut bytes, partition.offset())
        .expect("the partition");
    fs::write(to, bytes).expect("written");
}

fn sample_files() -> BTreeMap<String, FileFrom> {
    let mut files = BTreeMap::new();
    for (path, body) in [
        ("EFI/BOOT/BOOTX64.EFI", "loader"),
        ("EFI/systemd/systemd-bootx64.efi", "loader"),
        ("loader/loader.conf", "timeout 0\n"),
        ("loader/entries/web_1+3.conf", "title web\n"),
        ("a", ""),
        ("name with blanks and ä ö ü.txt", "umlauts"),
        ("exactly13char", "no end mark"),
        ("many.dots.in.name", "x"),
    ] {
        files.insert(path.to_owned(), text(body));
    }
    // More than a cluster of entries, whose short names need numbers of several digits.
    for number in 0..150 {
        files.insert(
            format!("many/a long name {number:03}"),
            text(&"y".repeat(number * 7)),
        );
    }
    files
}

#[test]
fn a_disk_has_the_size_that_is_asked_for() {
    let fake = Fake::new();
    let out = fake.path("disk.raw");
    let made = |size, out: &Path| {
        let attrs = DiskAttrs {
            size: Some(size),
            ..disk(vec![PartitionAttrs {
                name: "rest".to_owned(),
                kind: "linux".to_owned(),
                uuid: Uuid::derived("test", "rest").to_string(),
                rest: true,
                ..PartitionAttrs::default()
            }])
        };
        assemble::make(&fake, &attrs, out)
    };
    // No whole MiB: partitions end at one, and the table is where the disk ends.
    let size = (8 << 20) + 512;
    let table = made(size, &out).expect("a disk");
    assert_eq!(fs::metadata(&out).expect("there").len(), size);
    assert_eq!(table.partitions[0].size(), 6 << 20);
    if let Some(said) = content("sgdisk", &["-v", shown(&out)]) {
        assert!(said.contains("No problems found"), "{said}");
    }
    let told = made(size + 1, &fake.path("none")).expect_err("no such disk");
    let told = told.to_string();
    assert!(told.contains("sectors of 512 bytes"), "{told}");
}

#[test]
fn the_table_and_the_volume_are_sound() {
    let fake = Fake::new();
    let out = fake.path("disk.raw");
    let mut data = esp(None, sample_files());
    data.attributes = vec![Attribute::NoAuto];
    let swap = PartitionAttrs {
        name: "auslagerung-ä".to_owned(),
        kind: "swap".to_owned(),
        uuid: Uuid::derived("test", "swap").to_string(),
        size: Some(5 << 20),
        ..PartitionAttrs::default()
    };
    let table = assemble::make(&fake, &disk(vec![data, swap]), &out).expect("a disk");
    assert_eq!(table.partitions[0].offset(), 1 << 20);
    if let Some(said) = content("sgdisk", &["-v", shown(&out)]) {
        assert!(said.contains("No problems found"), "{said}");
    }
    if let Some(said) = content("sfdisk", &["--verify", shown(&out)]) {
        assert!(said.contains("No errors detected"), "{said}");
    }
    if let Some(said) = content("sfdisk", &["--dump", shown(&out)]) {
        let id = table.disk.to_string().to_uppercase();
        for part in [
            &id[..],
            "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
            "auslagerung-",
            "GUID:63",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    let volume = fake.path("esp.fat");
    cut_out(&out, &table, 0, &volume);
    content("fsck.vfat", &["-n", "-v", shown(&volume)]);
    // Every name, by a library that nobody here wrote.
    let file = fs::File::options().read(true).write(true).open(&volume);
    let read = fatfs::FileSystem::new(file.expect("the volume"), fatfs::FsOptions::new());
    let read = read.expect("a volume");
    for (path, from) in sample_files() {
        let FileFrom::Text { text } = from else {
            continue;
        };
        let mut file = read.root_dir().open_file(&path).expect(&path);
        let mut found = String::new();
        std::io::Read::read_to_string(&mut file, &mut found).expect(&path);
        assert_eq!(found, text, "{path}");
    }
    let back = fake.path("back");
    fs::create_dir(&back).expect("a directory");
    let at = format!("{}@@1M", shown(&out));
    let args = [
        "-s",
        "-m",
        "-i",
        &at,
        "::EFI",
        "::loader",
        "::many",
        shown(&back),
    ];
    if content("mcopy", &args).is_none() {
        return;
    }
    for (path, from) in sample_files() {
        // What mtools makes of other names depends on the locale.
        let FileFrom::Text { text } = from else {
            continue;
        };
        if path.contains('/') {
            let found = fs::read(back.join(&path)).unwrap_or_else(|e| panic!("{path}: {e}"));
            assert_eq!(found, text.as_bytes(), "{path}");
        }
    }
    let meta = fs::metadata(back.join("loader/loader.conf")).expect("there");
    let modified = meta
        .modified()
        .expect("a time")
        .duration_since(std::time::UNIX_EPOCH);
    // mtools reads times as local ones.
    let seconds = modified.expect("after 1970").as_secs();
    assert!(seconds.abs_diff(1_782_864_000) < 86_400, "{seconds}");
}

/// As a drive, as a stick, and as a volume of FAT: the same files.
#[test]
fn an_image_for_optical_drives_is_sound_in_every_way() {
    let fake = Fake::new();
    for (name, padding) in [("small", 1), ("large", 150 << 20)] {
        let mut files = sample_files();
        let zeros = fake.path("padding");
        fs::File::create(&zeros)
            .and_then(|file| file.set_len(padding))
            .expect("zeros");
        let mut fake = Fake::new();
        fake.trees.insert(ROOT.to_owned(), zeros);
        files.insert("padding".to_owned(), FileFrom::Path(ROOT.to_owned()));
        let out = fake.path(name);
        let attrs = IsoAttrs {
            label: "web-1".to_owned(),
            uuid: Uuid::derived("test", "iso").to_string(),
            partition_uuid: Uuid::derived("test", "iso esp").to_string(),
            filesystem_uuid: Uuid::derived("test", "iso fat").to_string(),
            files: files.clone(),
            epoch: EPOCH,
        };
        iso::make(&fake, &attrs, &out).expect("an image");
        if let Some(said) = content("sgdisk", &["-v", shown(&out)]) {
            assert!(said.contains("No problems found"), "{said}");
        }
        let file = fs::File::open(&out).expect("the image");
        let len = file.metadata().expect("there").len();
        let (mut head, mut tail) = (vec![0; 34 * 512], vec![0; 33 * 512]);
        file.read_exact_at(&mut head, 0).expect("read");
        file.read_exact_at(&mut tail, len - 33 * 512).expect("read");
        let table = Table::decode(&head, &tail, len / 512).expect("a table");
        let volume = fake.path("volume");
        cut_out(&out, &table, 0, &volume);
        content("fsck.vfat", &["-n", "-v", shown(&volume)]);
        let sector = table.partitions[0].offset() / 2048;
        let args = ["-indev", shown(&out), "-report_el_torito", "plain"];
        if let Some(said) = content("xorriso", &args) {
            let image = said
                .lines()
                .find(|line| line.contains("El Torito boot img"));
            let image = said
                .lines()
                .find(|line| line.starts_with("El Torito boot img :   1"))
                .or(image)
                .expect("a boot image");
            assert!(
                image.contains("UEFI") && image.trim_end().ends_with(&sector.to_string()),
                "{sector}: {image}"
            );
            assert!(said.contains("WEB_1"), "{said}");
        }
        if let Some(said) = content("isoinfo", &["-R", "-f", "-i", shown(&out)]) {
            for path in files.keys().filter(|path| path.is_ascii()) {
                assert!(
                    said.lines().any(|line| line == format!("/{path}")),
                    "{path}"
                );
            }
        }
        let back = fake.path("back");
        if !is_extracted(&out, &back) {
            return;
        }
        for (path, from) in files {
            let FileFrom::Text { text } = from else {
                assert_eq!(
                    fs::metadata(back.join(&path)).expect("there").len(),
                    padding
                );
                continue;
            };
            let found = fs::read(back.join(&path)).unwrap_or_else(|e| panic!("{path}: {e}"));
            assert_eq!(found, text.as_bytes(), "{path}");
        }
    }
}

/// The signature is behind the program, which both directories of the image have to know.
#[test]
fn an_image_for_optical_drives_can_be_signed() {
    let mut fake = Fake::new();
    let loader = Path::new("/usr/lib/systemd/boot/efi/systemd-bootx64.efi");
    if !loader.exists() {
        crate::peers::skip("no systemd-boot-efi");
        return;
    }
    fake.trees.insert(ROOT.to_owned(), loader.to_owned());
    let mut files = BTreeMap::new();
    files.insert(
        "EFI/BOOT/BOOTX64.EFI".to_owned(),
        FileFrom::Path(ROOT.to_owned()),
    );
    files.insert("loader/loader.conf".to_owned(), text("timeout 0\n"));
    files.insert("zz/other.efi".to_owned(), text("no program of ours"));
    let attrs = IsoAttrs {
        label: "web".to_owned(),
        uuid: Uuid::derived("test", "iso").to_string(),
        partition_uuid: Uuid::derived("test", "iso esp").to_string(),
        filesystem_uuid: Uuid::derived("test", "iso fat").to_string(),
        files,
        epoch: EPOCH,
    };
    let out = fake.path("image.iso");
    iso::make(&fake, &attrs, &out).expect("an image");
    let (key, cert) = (fake.path("key.pem"), fake.path("cert.pem"));
    let args = [
        "req",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-x509",
        "-subj",
        "/CN=test",
        "-keyout",
        shown(&key),
        "-out",
        shown(&cert),
    ];
    if content("openssl", &args).is_none() {
        return;
    }
    let signer = Signer::read(&key, &cert).expect("a signer");
    let device = Device::open(&out, true).expect("the image");
    let signed = sign_disk(&device, &signer).expect("signed");
    assert_eq!(signed, ["EFI/BOOT/BOOTX64.EFI"]);
    // One at a time has the image.
    drop(device);
    let once = fs::read(&out).expect("read");
    sign_disk(&Device::open(&out, true).expect("the image"), &signer).expect("signed again");
    assert!(
        once == fs::read(&out).expect("read"),
        "the same key gives the same image"
    );
    if let Some(said) = content("sgdisk", &["-v", shown(&out)]) {
        assert!(said.contains("No problems found"), "{said}");
    }
    let (back, of_fat) = (fake.path("back"), fake.path("of-fat.efi"));
    if !is_extracted(&out, &back) {
        return;
    }
    let of_iso = back.join("EFI/BOOT/BOOTX64.EFI");
    content("sbverify", &["--cert", shown(&cert), shown(&of_iso)]);
    let at = format!("{}@@1M", shown(&out));
    content(
        "mcopy",
        &["-i", &at, "::EFI/BOOT/BOOTX64.EFI", shown(&of_fat)],
    );
    assert!(fs::read(&of_iso).expect("there") == fs::read(&of_fat).expect("there"));
    let config = fs::read(back.join("loader/loader.conf")).expect("there");
    assert_eq!(config, b"timeout 0\n");
}

#[test]
fn volumes_of_all_cluster_sizes_are_sound() {
    let fake = Fake::new();
    // Below and above the sizes at which clusters become larger.
    for mib in [34, 64, 65, 66, 130, 132, 260, 264, 600] {
        let out = fake.path(&format!("{mib}.raw"));
        let attrs = disk(vec![esp(Some(mib << 20), sample_files())]);
        let table = assemble::make(&fake, &attrs, &out).unwrap_or_else(|e| panic!("{mib}: {e}"));
        let volume = fake.path("volume");
        cut_out(&out, &table, 0, &volume);
        if let Some(said) = content("fsck.vfat", &["-n", "-v", shown(&volume)]) {
            assert!(
                said.contains("32 bits per FAT")
                    || said.contains("FAT32")
                    || said.contains("32 bit"),
                "{said}"
            );
        }
        fs::remove_file(&out).expect("removed");
    }
}

#[test]
fn what_does_not_fit_is_told_with_the_size_that_would() {
    let fake = Fake::new();
    let refused = |attrs: DiskAttrs, name: &str| {
        let error = assemble::make(&fake, &attrs, &fake.path(name)).expect_err("refused");
        format!("{error:?}")
    };
    let mut files = BTreeMap::new();
    files.insert("large".to_owned(), text(&"z".repeat(40 << 20)));
    let said = refused(disk(vec![esp(Some(36 << 20), files)]), "a");
    assert!(said.contains("give it `size = "), "{said}");
    let said = refused(disk(vec![esp(Some(10 << 20), BTreeMap::new())]), "b");
    assert!(said.contains("at least"), "{said}");
    let mut twice = BTreeMap::new();
    twice.insert("EFI/x".to_owned(), text(""));
    twice.insert("efi/y".to_owned(), text(""));
    let said = refused(disk(vec![esp(None, twice)]), "c");
    assert!(said.contains("twice"), "{said}");
    let mut small = disk(vec![esp(Some(64 << 20), BTreeMap::new())]);
    small.size = Some(60 << 20);
    let said = refused(small, "d");
    assert!(said.contains("raise `size`"), "{said}");
    let mut same = disk(vec![esp(None, BTreeMap::new()), esp(None, BTreeMap::new())]);
    same.partitions[1].name = "other".to_owned();
    assert!(refused(same, "e").contains("same UUID"));
    assert!(refused(disk(Vec::new()), "f").contains("no partitions"));
}

#[test]
fn qcow2_images_hold_the_same() {
    let fake = Fake::new();
    for (name, size, places) in [
        ("empty", 1 << 20, vec![]),
        ("odd", (3 << 20) + 512, vec![0, 65_535, 65_536, 3 << 20]),
        ("large", 3 << 30, vec![1 << 20, 1 << 29, (3 << 30) - 4096]),
    ] {
        let (raw, out) = (
            fake.path(&format!("{name}.raw")),
            fake.path(&format!("{name}.qcow2")),
        );
        let file = fs::File::create_new(&raw).expect("a file");
        file.set_len(size).expect("a size");
        for place in places {
            file.write_all_at(b"data", place).expect("written");
        }
        qcow2::write(&raw, &out, &|_, _| true).expect("an image");
        assert!(fs::metadata(&out).expect("there").len() < 1 << 20);
        if let Some(said) = content("qemu-img", &["check", shown(&out)]) {
            assert!(said.contains("No errors"), "{said}");
        }
        content("qemu-img", &["compare", shown(&raw), shown(&out)]);
    }
}

/// A root filesystem with a kernel of no use, modules and programs, under [`ROOT`].
fn plant(fake: &mut Fake, files: &[(&str, &[u8])]) {
    let mut tree = RootTree::empty_in(
        &fake.store,
        Meta {
            mode: 0o755,
            ..Meta::default()
        },
    );
    let meta = Meta {
        mode: 0o755,
        ..Meta::default()
    };
    for (path, data) in files {
        if let Some((dir, _)) = path.rsplit_once('/') {
            tree.mkdir_p(dir, &meta).expect("a directory");
        }
        let kind = match data.strip_prefix(b"-> ") {
            Some(target) => SpecKind::Symlink {
                target: target.to_vec(),
            },
            None => {
                let blob = fake.store.put_blob_bytes(data).expect("a blob");
                SpecKind::File {
                    size: data.len() as u64,
                    blob,
                    hardlink: None,
                }
            }
        };
        tree.insert(
            path,
            FileSpec {
                meta: meta.clone(),
                kind,
            },
        )
        .expect("placed");
    }
    let root = tree.finish(&fake.store).expect("a manifest");
    fake.roots.insert(ROOT.to_owned(), root);
}

/// The smallest thing that says of itself that it is static.
fn static_elf() -> Vec<u8> {
    let mut elf = vec![0; 64];
    elf[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
    elf
}

#[test]
fn an_initrd_has_the_modules_in_order() {
    let mut fake = Fake::new();
    let elf = static_elf();
    let packed = zstd::bulk::compress(b"module b", 3).expect("compressed");
    plant(
        &mut fake,
        &[
            ("bin", b"-> usr/bin"),
            ("usr/bin/busybox", &elf),
            ("boot/vmlinuz-6.1.0-9", b"old"),
            ("boot/vmlinuz-6.1.0-10", b"new"),
            (
                "usr/lib/modules/6.1.0-10/modules.dep",
                b"k/a.ko: k/b.ko.zst\nk/b.ko.zst:\n",
            ),
            ("usr/lib/modules/6.1.0-10/k/a.ko", b"module a"),
            ("usr/lib/modules/6.1.0-10/k/b.ko.zst", &packed),
        ],
    );
    let mut attrs = InitrdAttrs {
        rootfs: ROOT.to_owned(),
        modules: vec!["a".to_owned()],
        compression: Compression::None,
        epoch: EPOCH,
        ..InitrdAttrs::default()
    };
    let bytes = initrd::make(&fake, &attrs).expect("an initrd");
    assert!(fake.logged("kernel 6.1.0-10: 2 modules"));
    assert_eq!(bytes, initrd::make(&fake, &attrs).expect("the same"));
    attrs.compression = Compression::Zstd;
    let zstd = initrd::make(&fake, &attrs).expect("an initrd");
    assert_eq!(&zstd[..4], &[0x28, 0xb5, 0x2f, 0xfd]);
    attrs.modules = vec!["c".to_owned()];
    assert!(initrd::make(&fake, &attrs).is_err());
    let archive = fake.path("initrd");
    fs::write(&archive, bytes).expect("written");
    let dir = fake.path("unpacked");
    fs::create_dir(&dir).expect("a directory");
    let line = format!(
        "cd '{}' && cpio -idm --quiet --no-absolute-filenames bin/\\* init modules/\\* <'{}'",
        shown(&dir),
        shown(&archive)
    );
    if content("cpio", &["--version"]).is_none() || content("sh", &["-c", &line]).is_none() {
        return;
    }
    let read = |name: &str| fs::read_to_string(dir.join(name)).expect(name);
    assert_eq!(read("modules/order"), "b.ko\na.ko\n");
    assert_eq!(read("modules/b.ko"), "module b");
    assert!(read("init").starts_with("#!/bin/sh\n"));
    assert_eq!(
        fs::read_link(dir.join("bin/mount")).expect("a link"),
        Path::new("busybox")
    );
}

#[test]
fn an_initrd_refuses_a_program_that_needs_libraries() {
    let mut fake = Fake::new();
    let mut elf = static_elf();
    // One program header, of the kind that names a loader, whose name is behind it.
    elf[32] = 64;
    elf[54] = 56;
    elf[56] = 1;
    let mut header = [0; 56];
    (header[0], header[8], header[32]) = (3, 120, 8);
    elf.extend_from_slice(&header);
    elf.extend_from_slice(b"/lib/ld\0");
    plant(
        &mut fake,
        &[("bin/busybox", &elf), ("boot/vmlinuz-1", b"k")],
    );
    let attrs = InitrdAttrs {
        rootfs: ROOT.to_owned(),
        ..InitrdAttrs::default()
    };
    let said = format!("{:?}", initrd::make(&fake, &attrs).expect_err("refused"));
    assert!(said.contains("busybox-static"), "{said}");
}

#[test]
fn a_kernel_image_holds_its_parts() {
    let stub = Path::new("/usr/lib/systemd/boot/efi/linuxx64.efi.stub");
    let Ok(stub) = fs::read(stub) else {
        crate::peers::skip("no systemd-boot-efi");
        return;
    };
    let mut fake = Fake::new();
    plant(
        &mut fake,
        &[
            ("boot/vmlinuz-6.1.0-10", b"the kernel"),
            ("boot/initrd.img-6.1.0-10", b"first"),
            (
                "usr/lib/os-release",
                b"ID=debian\nIMAGE_ID=old\nPRETTY_NAME=\"Debian\"\n",
            ),
            ("usr/lib/systemd/boot/efi/linuxx64.efi.stub", &stub),
        ],
    );
    let mut attrs = UkiAttrs {
        rootfs: ROOT.to_owned(),
        initrds: vec!["distribution".to_owned()],
        cmdline: "root=/dev/sda ro".to_owned(),
        ..UkiAttrs::default()
    };
    attrs
        .os_release
        .insert("IMAGE_ID".to_owned(), "web".to_owned());
    let image = uki::make(&fake, &attrs).expect("an image");
    let sections = super::pe::sections(&image).expect("sections");
    let section = |name: &str| {
        sections
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, data)| *data)
            .expect(name)
    };
    assert_eq!(section(".linux"), b"the kernel");
    assert_eq!(section(".initrd"), b"first\0\0\0");
    assert_eq!(section(".cmdline"), b"root=/dev/sda ro");
    assert_eq!(
        section(".osrel"),
        b"ID=debian\nPRETTY_NAME=\"Debian\"\nIMAGE_ID=\"web\"\n"
    );
    let before = super::pe::sections(&stub).expect("sections of the stub");
    assert_eq!(sections.len(), before.len() + 5);
    assert_eq!(sections[..before.len()], before[..]);
    let file = fake.path("uki.efi");
    fs::write(&file, &image).expect("written");
    if let Some(said) = content("objdump", &["-h", shown(&file)]) {
        assert!(said.contains(".linux") && said.contains(".uname"), "{said}");
    }
    let part = fake.path("cmdline");
    let args = ["-O", "binary", "-j", ".cmdline", shown(&file), shown(&part)];
    if let Some(output) = peer("objcopy", &args) {
        assert!(output.status.success(), "{}", said(&output));
        let text = fs::read(&part).expect("what objcopy took out");
        assert_eq!(text, b"root=/dev/sda ro");
    }
    // The image is a stub with all its sections: it cannot be one again.
    plant(
        &mut fake,
        &[
            ("boot/vmlinuz-1", b"k"),
            ("usr/lib/systemd/boot/efi/linuxx64.efi.stub", &image),
        ],
    );
    attrs.initrds.clear();
    assert!(uki::make(&fake, &attrs).is_err());
    attrs.cmdline = "x".repeat(3000);
    assert!(uki::make(&fake, &attrs).is_err());
}

#[test]
fn damaged_stubs_are_refused() {
    let Ok(stub) = fs::read("/usr/lib/systemd/boot/efi/linuxx64.efi.stub") else {
        crate::peers::skip("no systemd-boot-efi");
        return;
    };
    let part = super::pe::Section {
        name: ".linux",
        data: b"k",
    };
    for end in [0, 1, 63, 64, 130, 300, 1000] {
        assert!(
            super::pe::append(&stub[..end], &[super::pe::Section { ..part }]).is_err(),
            "{end}"
        );
    }
    // Every single byte of the headers, damaged: an answer of any kind, and no panic.
    for at in 0..1024 {
        let mut bad = stub.clone();
        bad[at] ^= 0xff;
        let _answer = super::pe::append(
            &bad,
            &[super::pe::Section {
                name: ".linux",
                data: b"k",
            }],
        )
        .is_ok();
    }
}
