//! Disks of root filesystems, without a network and without starting them: `tests/boot` does that.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::steps::ROOTFS;
use crate::support::user::User;
use crate::support::{World, is_root, peer, run, skip};

const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// A system with what a disk looks at: a kernel of no use, and the loader and stub of this machine.
const RECIPE: &str = r##"{ sos, ... }: let
  edit = import ./rootfs.nix "rootfs-edit";
  system = version: edit {
    name = "system-${version}";
    files = [
      { path = "/boot/vmlinuz-6.1.0-1"; content = "kernel ${version}"; }
      { path = "/usr/lib/os-release"; content = "ID=test\nPRETTY_NAME=Test\n"; }
      { path = "/etc/motd"; content = "version ${version}\n"; }
    ];
  };
  efi = name: builtins.path { path = /. + "/usr/lib/systemd/boot/efi/${name}"; };
  of = version: more: sos.disk ({
    name = "test";
    rootfs = system version;
    epoch = 1782864000;
    inherit version;
    slots = 2;
    root-size = "24M";
    esp-size = "64M";
    cmdline = [ "quiet" ];
    loader = efi "systemd-bootx64.efi";
    stub = efi "linuxx64.efi.stub";
  } // more);
in rec {
  disk = of "1" { };
  entries = of "1" { boot = "entries"; };
  next-entries = of "2" { boot = "entries"; };
  next = of "2" { };
  third = of "3" { };
  # Layouts of their own.
  laid-out = roots: version: sos.disk {
    name = "test";
    rootfs = system version;
    epoch = 1782864000;
    inherit version;
    loader = efi "systemd-bootx64.efi";
    stub = efi "linuxx64.efi.stub";
    partitions = [ { name = "esp"; type = "esp"; filesystem = "vfat"; size = "64M"; } ] ++ roots;
  };
  one-slot = type: laid-out [ ({ name = "root"; filesystem = "ext4"; rootfs = true; size = "32M"; } // type) ];
  plain-root = one-slot { } "1";
  plain-root2 = one-slot { } "2";
  uuid-root = one-slot { type = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"; } "1";
  uuid-root2 = one-slot { type = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"; } "2";
  # The second is a slot by its type alone.
  two-slots = laid-out [
    { name = "root-a"; filesystem = "ext4"; rootfs = true; size = "24M"; }
    { name = "root-b"; type = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"; size = "24M"; }
  ];
  two-slots1 = two-slots "1";
  two-slots2 = two-slots "2";
  inherit (disk) qcow2 uki;
  # What an initrd needs is built into the kernel.
  starting = name: kernel: sos.disk {
    inherit name;
    epoch = 1782864000;
    rootfs = edit {
      inherit name;
      files = [
        ({ path = "/boot/vmlinuz-6.1.0-1"; } // kernel)
        { path = "/usr/lib/os-release"; content = "ID=test\nPRETTY_NAME=Test\n"; }
        {
          path = "/usr/lib/modules/6.1.0-1/modules.builtin";
          content = builtins.concatStringsSep "" (map (one: "kernel/${one}.ko\n") [ "loop" "overlay" "squashfs" ]);
        }
      ];
    };
    boot = "entries";
    busybox = builtins.path { path = /. + "/bin/busybox"; };
    loader = efi "systemd-bootx64.efi";
    stub = efi "linuxx64.efi.stub";
  };
  # An EFI program, as kernels are, and none.
  program = starting "program" { source = efi "linuxx64.efi.stub"; };
  plain = starting "plain" { content = "kernel"; };
  # An initrd of no use: nothing here starts.
  hashed = version: of version { filesystem = "erofs"; verity = true; initrd = ./sos.nix; };
  hashed1 = hashed "1";
  hashed2 = hashed "2";
  bad.verity = of "1" { verity = true; };
  bad.entries = (hashed "1" // (of "1" { filesystem = "erofs"; verity = true; boot = "entries"; })).uki;
  bad.overlay = of "1" { filesystem = "erofs"; initrd = "none"; volatile = "overlay"; };
  bad.word = of "1" { boot = "grub"; };
  bad.size = of "1" { root-size = "24X"; };
  bad.field = of "1" { root-sise = "24M"; };
  bad.module = (of "1" { initrd = "own"; modules = [ "nonsense" ]; boot = "uki"; }).uki;
  bad.kernel = sos.disk { name = "none"; epoch = 1; rootfs = edit { name = "empty"; files = [ ]; }; loader = efi "systemd-bootx64.efi"; };
}
"##;

pub(super) fn world() -> Option<World> {
    if !Path::new(STUB).exists() {
        skip("no systemd-boot-efi");
        return None;
    }
    let w = World::new();
    w.write("sos.nix", RECIPE);
    w.write("rootfs.nix", ROOTFS);
    Some(w)
}

pub(super) fn build(w: &World, target: &str) -> String {
    w.sos(["build", "--no-link", target])
        .ok()
        .stdout
        .trim()
        .to_owned()
}

/// Runs a program that must be content, if it is installed.
pub(super) fn content(program: &str, args: &[&str]) -> Option<String> {
    let found = run(Command::new(peer(program)?).args(args)).ok();
    Some(found.stdout + &found.stderr)
}

#[test]
fn a_disk_is_sound_sparse_and_the_same_for_everybody() {
    let Some(w) = world() else { return };
    let path = build(&w, ".#disk");
    let disk = w.physical(&path);
    let plain = disk.to_str().expect("plain");
    if let Some(said) = content("sgdisk", &["-v", plain]) {
        assert!(said.contains("No problems found"), "{said}");
    }
    if let Some(said) = content("mdir", &["-b", "-/", "-i", &format!("{plain}@@1M"), "::"]) {
        for part in [
            "EFI/BOOT/BOOTX64.EFI",
            "EFI/Linux/test_1.efi",
            "loader/loader.conf",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    let meta = std::fs::metadata(&disk).expect("the disk");
    assert_eq!(meta.size(), (1 + 64 + 24 + 24 + 1) << 20);
    assert!(
        meta.blocks() * 512 < meta.size() / 2,
        "{} of {} bytes",
        meta.blocks() * 512,
        meta.size()
    );
    // Another user, another place, another umask, one core.
    let user = if is_root() {
        User::new("disk", true)
    } else {
        None
    };
    let mut other = World::new();
    other.write("sos.nix", RECIPE);
    other.write("rootfs.nix", ROOTFS);
    other.set("TZ", "Pacific/Kiritimati");
    other.set("SOURCE_DATE_EPOCH", "1");
    let _copy = user.as_ref().map(|user| other.with_program_for(user));
    let sos = other.command();
    let mut command = Command::new("sh");
    command
        .args(["-c", "umask 077; exec \"$@\"", "sh"])
        .arg(sos.get_program());
    command.args([
        "build",
        "--no-link",
        "-j",
        "1",
        "--config",
        "build.cores=1",
        ".#disk",
        ".#qcow2",
    ]);
    command
        .env_clear()
        .envs(sos.get_envs().filter_map(|(k, v)| Some((k, v?))))
        .current_dir(other.project());
    if let Some(user) = &user {
        user.becomes(&mut command);
    }
    let made = run(&mut command).ok().stdout;
    assert_eq!(
        made.lines().next(),
        Some(path.as_str()),
        "the address follows from the content"
    );
    let qcow2 = build(&w, ".#qcow2");
    assert_eq!(made.lines().nth(1), Some(qcow2.as_str()));
    content(
        "qemu-img",
        &[
            "compare",
            plain,
            w.physical(&qcow2).to_str().expect("plain"),
        ],
    );
}

#[test]
fn a_device_gets_one_version_after_the_other() {
    let Some(w) = world() else { return };
    let file = w.project().join("device");
    std::fs::File::create(&file)
        .and_then(|f| f.set_len(200 << 20))
        .expect("a device");
    // The plan is all that happens without `--yes`.
    w.sos(["provision", "apply", "device", ".#disk"])
        .fails(2)
        .says(&["nothing was done"]);
    let plan = w.sos(["provision", "plan", "device", ".#disk"]).ok().stdout;
    assert!(
        plan.contains("everything on the device") && plan.contains("root-a"),
        "{plan}"
    );
    assert_eq!(std::fs::metadata(&file).expect("there").blocks(), 0);
    w.sos(["provision", "apply", "device", ".#disk", "--yes"])
        .ok();
    w.sos(["provision", "drift", "device", ".#disk"]).ok();
    let again = w.sos(["provision", "plan", "device", ".#disk"]).ok().stdout;
    assert_eq!(again, "test 1 is there already\n");
    w.sos(["provision", "drift", "device", ".#next"])
        .fails(1)
        .says(&["is not as test 2 says"]);
    w.sos(["provision", "apply", "device", ".#next", "--yes"])
        .ok();
    w.sos(["provision", "drift", "device", ".#next"])
        .ok()
        .says(&["not compared: files in `root-a` and `root-b`"]);
    // The second version was never started: it goes, and the first one stays.
    let plan = w
        .sos(["provision", "plan", "device", ".#third"])
        .ok()
        .stdout;
    for part in [
        "`root-b` is written over: test 2, which has not proven itself yet; what stays: test 1",
        "`EFI/Linux/test_3+3.efi`",
    ] {
        assert!(plan.contains(part), "{plan}");
    }
    let at = format!("{}@@1M", file.display());
    if let Some(said) = content("mdir", &["-b", "-i", &at, "::EFI/Linux"]) {
        assert!(
            said.contains("test_1.efi") && said.contains("test_2+3.efi"),
            "{said}"
        );
    }
    if let Some(said) = content("sgdisk", &["-v", file.to_str().expect("plain")]) {
        assert!(said.contains("No problems found"), "{said}");
    }
    // The slot has the file system of the new version.
    if let (Some(_), Some(dd)) = (peer("e2fsck"), peer("dd")) {
        let root = w.project().join("root-b");
        let mut cut = Command::new(dd);
        cut.arg(format!("if={}", file.display()))
            .arg(format!("of={}", root.display()));
        run(cut.args(["bs=1M", "skip=89", "count=24", "status=none"])).ok();
        content("e2fsck", &["-fn", root.to_str().expect("plain")]);
        let motd = content(
            "debugfs",
            &["-R", "cat /etc/motd", root.to_str().expect("plain")],
        );
        assert!(motd.is_none_or(|motd| motd.contains("version 2")));
    }
    std::fs::write(w.project().join("other"), vec![1; 8 << 20]).expect("written");
    w.sos(["provision", "plan", "other", ".#disk"])
        .fails(4)
        .says(&["--wipe"]);
    w.sos(["provision", "plan", "nowhere", ".#disk"])
        .fails(4)
        .says(&["truncate"]);
}

/// One partition of an image: offset and length in bytes, as `sfdisk` reads them.
fn partition(image: &Path, name: &str) -> Option<(u64, u64)> {
    let dump = content("sfdisk", &["--dump", image.to_str().expect("plain")])?;
    let line = dump
        .lines()
        .find(|line| line.contains(&format!("name=\"{name}\"")))
        .unwrap_or_else(|| panic!("no partition {name}: {dump}"));
    let field = |key: &str| -> u64 {
        let (_, rest) = line.split_once(key).expect(key);
        let digits = rest.split(',').next().expect("a number");
        digits.trim().parse().expect("a number")
    };
    Some((field("start=") * 512, field("size=") * 512))
}

fn bytes_of(image: &Path, (offset, len): (u64, u64)) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(len).expect("small")];
    std::fs::File::open(image)
        .and_then(|file| file.read_exact_at(&mut bytes, offset))
        .expect("the partition");
    bytes
}

/// What `veritysetup` says of a root of an image and of the hashes beside it.
pub(super) fn verify(w: &World, image: &Path, root: &str, uki: &Path) -> Option<i32> {
    let dir = w.project();
    for (name, file) in [
        (root.to_owned(), "data"),
        (format!("{root}-verity"), "hashes"),
    ] {
        let bytes = bytes_of(image, partition(image, &name)?);
        std::fs::write(dir.join(file), bytes).expect("written");
    }
    let program = std::fs::read(uki).expect("the kernel image");
    let mark = b"roothash=";
    let at = program.windows(mark.len()).position(|part| part == mark);
    let at = at.expect("the hash is on the command line") + mark.len();
    let hash = std::str::from_utf8(&program[at..at + 64]).expect("digits");
    let mut command = Command::new(peer("veritysetup")?);
    Some(
        run(command
            .args(["verify", "data", "hashes", hash])
            .current_dir(&dir))
        .code,
    )
}

#[test]
fn a_root_with_hashes_is_what_the_kernel_image_says() {
    let Some(w) = world() else { return };
    let disk = w.physical(&build(&w, ".#hashed1"));
    let uki = w.physical(&build(&w, ".#hashed1.uki"));
    let Some(code) = verify(&w, &disk, "root-a", &uki) else {
        return;
    };
    assert_eq!(code, 0);
    // The second version goes into the second slot, with hashes of its own.
    let device = w.project().join("device");
    std::fs::File::create(&device)
        .and_then(|file| file.set_len(200 << 20))
        .expect("a device");
    for target in [".#hashed1", ".#hashed2"] {
        w.sos(["provision", "apply", "device", target, "--yes"])
            .ok();
        w.sos(["provision", "drift", "device", target]).ok();
    }
    let taken = w.project().join("taken.efi");
    let at = format!("{}@@1M", device.display());
    let words = [
        "-o",
        "-i",
        &at,
        "::EFI/Linux/test_2+3.efi",
        taken.to_str().expect("plain"),
    ];
    if content("mcopy", &words).is_none() {
        return;
    }
    assert_eq!(verify(&w, &device, "root-b", &taken), Some(0));
    assert_eq!(verify(&w, &device, "root-a", &uki), Some(0));
    // One byte of it, and both say so; `drift` says where.
    let (offset, _) = partition(&device, "root-b").expect("there");
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&device);
    let file = file.expect("the device");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset + 1030).expect("read");
    file.write_all_at(&[!byte[0]], offset + 1030)
        .expect("written");
    assert_ne!(verify(&w, &device, "root-b", &taken), Some(0));
    let found = w
        .sos(["provision", "drift", "device", ".#hashed2"])
        .fails(1);
    assert_eq!(
        found.stdout,
        "recipe: test version 2\n\
         slot root-a: version 1\n\
         slot root-b: version 2, the recipe's; not proven yet, 3 starts left; starts next\n\
         root-b: has other content from byte 1030 on\n"
    );
    // It is written anew, and so is a loader that was changed.
    let other = w.project().join("other");
    std::fs::write(&other, "other").expect("written");
    let other = other.to_str().expect("plain");
    content("mcopy", &["-o", "-i", &at, other, "::EFI/BOOT/BOOTX64.EFI"]);
    let plan = w
        .sos(["provision", "apply", "device", ".#hashed2", "--yes"])
        .ok();
    plan.says(&["`root-b`", "`EFI/BOOT/BOOTX64.EFI`"]);
    w.sos(["provision", "drift", "device", ".#hashed2"]).ok();
    assert_eq!(verify(&w, &device, "root-b", &taken), Some(0));
}

/// `kill -9` behind every step of an update: the version that was there is untouched, and the next try ends well.
#[test]
fn what_is_killed_leaves_the_version_before() {
    let Some(w) = world() else { return };
    let device = w.project().join("device");
    let first = w.project().join("first");
    std::fs::File::create(&first)
        .and_then(|file| file.set_len(200 << 20))
        .expect("a device");
    w.sos(["provision", "apply", "first", ".#entries", "--yes"])
        .ok();
    let steps = w
        .sos(["provision", "plan", "first", ".#next-entries"])
        .ok()
        .stdout;
    let steps = steps.lines().count();
    assert!(steps >= 3, "{steps}");
    let Some(root) = partition(&first, "root-a") else {
        return;
    };
    let before = bytes_of(&first, root);
    for told in 1..=steps {
        std::fs::copy(&first, &device).expect("copied");
        let mut command =
            w.command_of(&["provision", "apply", "device", ".#next-entries", "--yes"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("started");
        let lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let mut done = 0;
        for line in lines.map_while(Result::ok) {
            // What the step is, and not what the file system says of itself.
            done += usize::from(
                line.contains("EFI system partition") || line.contains("to the partition"),
            );
            if done == told {
                child.kill().expect("killed");
            }
        }
        child.wait().expect("ended");
        assert!(done >= told, "{done} of {told}");
        assert!(
            bytes_of(&device, root) == before,
            "killed after step {told}"
        );
        let at = format!("{}@@1M", device.display());
        for path in [
            "EFI/BOOT/BOOTX64.EFI",
            "EFI/test/1-linux",
            "loader/entries/test_1.conf",
        ] {
            let read = |image: &str| content("mtype", &["-i", image, &format!("::{path}")]);
            let there = format!("{}@@1M", first.display());
            assert_eq!(read(&at), read(&there), "{path}, killed after step {told}");
        }
        w.sos(["provision", "apply", "device", ".#next-entries", "--yes"])
            .ok();
        w.sos(["provision", "drift", "device", ".#next-entries"])
            .ok();
    }
}

/// A real block device: refused while something uses it, and taken when nothing does.
#[test]
fn a_device_in_use_is_refused() {
    let Some(w) = world() else { return };
    if !is_root() {
        skip("only root has loop devices");
        return;
    }
    let file = w.project().join("device");
    std::fs::File::create(&file)
        .and_then(|file| file.set_len(200 << 20))
        .expect("a device");
    let plain = file.to_str().expect("plain");
    let Some(device) = Loop::of(&["-P", plain]) else {
        return;
    };
    // The file is the disk of somebody now.
    w.sos(["provision", "apply", plain, ".#disk", "--yes"])
        .fails(4)
        .says(&["is in use", &device.name]);
    w.sos(["provision", "apply", &device.name, ".#disk", "--yes"])
        .ok();
    w.sos(["provision", "drift", &device.name, ".#disk"]).ok();
    let (offset, _) = partition(&file, "root-a").expect("a root");
    let at = w.project().join("mounted");
    std::fs::create_dir(&at).expect("a directory");
    // As a file system of the whole device: partitions of loop devices are not everywhere.
    let over = |of: &str, offset: u64| {
        Loop::of(&["-o", &offset.to_string(), of]).expect("another loop device")
    };
    let second = over(plain, offset);
    let mounted = run(Command::new("mount")
        .args(["-o", "ro", &second.name])
        .arg(&at));
    if mounted.code != 0 {
        skip(&format!("nothing can be mounted: {}", mounted.stderr));
        return;
    }
    let motd = std::fs::read_to_string(at.join("etc/motd"));
    let apply = |name: &str| w.sos(["provision", "apply", name, ".#disk", "--yes", "--wipe"]);
    let refused = apply(&second.name);
    // What is mounted is made of the same file as the first device.
    let beside = apply(&device.name);
    run(Command::new("umount").arg(&at)).ok();
    refused.fails(4).says(&["is in use", "is mounted at"]);
    beside
        .fails(4)
        .says(&["of which it is made, is in use", &second.name]);
    assert_eq!(motd.expect("the kernel reads the root"), "version 1\n");
    drop(second);
    apply(&device.name).ok();
    let third = over(&device.name, offset);
    apply(&device.name)
        .fails(4)
        .says(&["it is behind", &third.name]);
    // In a mount namespace of its own, which the list of mounts of this one does not show.
    let mut away = Command::new("unshare");
    away.args(["--mount", "sh", "-c"])
        .arg("mount -o ro \"$0\" \"$1\" && echo mounted && read -r _line")
        .args([Path::new(&third.name), &at])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut away = away.spawn().expect("started");
    let mut told = String::new();
    BufReader::new(away.stdout.as_mut().expect("a pipe"))
        .read_line(&mut told)
        .expect("read");
    let refused = apply(&third.name);
    let planned = w.sos(["provision", "plan", &third.name, ".#disk", "--wipe"]);
    drop(away.stdin.take());
    away.wait().expect("ended");
    assert_eq!(told, "mounted\n", "a mount namespace of its own");
    let says = ["is in use", "in another mount namespace"];
    refused.fails(4).says(&says);
    assert!(planned.ok().stdout.contains(says[1]));
    drop(third);
    apply(&device.name).ok();
    // A file has another name than the one that its loop device knows, which nobody has any more.
    let name = |name: &str| w.project().join(name);
    std::fs::File::create(name("one"))
        .and_then(|file| file.set_len(200 << 20))
        .expect("a device");
    std::fs::hard_link(name("one"), name("two")).expect("a link");
    let fourth = over(name("one").to_str().expect("plain"), 0);
    std::fs::remove_file(name("one")).expect("removed");
    for file in ["two", &fourth.name] {
        let told = apply(file);
        match file {
            "two" => told.fails(4).says(&["it is behind", &fourth.name]),
            _ => told.ok(),
        };
    }
    drop(fourth);
    apply("two").ok();
}

/// Only root may ask the kernel what a loop device is made of; anybody sees how large that is.
#[test]
fn a_file_that_may_be_behind_a_loop_device_is_refused() {
    let Some(mut w) = world() else { return };
    let Some(user) = User::new("loop", false) else {
        return;
    };
    let name = |name: &str| w.project().join(name);
    let (first, other) = (name("first"), name("other"));
    for (path, size) in [(&first, 200 << 20), (&other, 201 << 20)] {
        let made = std::fs::File::create(path).and_then(|file| file.set_len(size));
        made.expect("a device");
    }
    std::fs::hard_link(&first, name("second")).expect("a link");
    let Some(device) = Loop::of(&[first.to_str().expect("plain")]) else {
        return;
    };
    std::fs::remove_file(&first).expect("removed");
    let _copy = w.with_program_for(&user);
    let apply = |file: &str| {
        let args = ["provision", "apply", file, ".#disk", "--yes"];
        run(user.becomes(&mut w.command_of(&args)))
    };
    apply("second").fails(4).says(&[
        "is in use: it may be behind",
        &device.name,
        "only root is told",
    ]);
    apply("other").ok();
    drop(device);
    apply("second").ok();
}

/// A loop device, which goes with the test.
struct Loop {
    losetup: PathBuf,
    name: String,
}

impl Loop {
    /// Attaches what the words say, where there are such devices.
    fn of(words: &[&str]) -> Option<Self> {
        let losetup = peer("losetup")?;
        let attached = run(Command::new(&losetup).args(["-f", "--show"]).args(words));
        if attached.code != 0 {
            skip(&format!("no loop device: {}", attached.stderr));
            return None;
        }
        let name = attached.stdout.trim().to_owned();
        Some(Self { losetup, name })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ended = Command::new(&self.losetup)
            .args(["-d", &self.name])
            .status();
    }
}

#[test]
fn what_is_wrong_is_told_where_it_was_written() {
    let Some(w) = world() else { return };
    for (target, parts) in [
        ("word", &["unknown boot `grub`", "uki, entries, none"][..]),
        (
            "size",
            &["`root-size` of the disk is \"24X\": `X` is no unit", "512M"],
        ),
        ("field", &["unknown field `root-sise`", "root-size"]),
        ("verity", &["has `verity`", "filesystem = \"erofs\""]),
        ("entries", &["has `verity`", "leave `boot` at \"uki\""]),
        (
            "overlay",
            &["has `volatile = \"overlay\"`", "initrd = \"own\""],
        ),
    ] {
        w.sos(["build", "--no-link", &format!(".#bad.{target}")])
            .fails(3)
            .says(parts);
    }
    w.sos(["build", "--no-link", ".#bad.kernel"])
        .fails(3)
        .says(&["no kernel", "linux-image-amd64"]);
    w.sos(["build", "--no-link", ".#bad.module"])
        .fails(3)
        .says(&["no module `nonsense`"]);
    if peer("qemu-system-x86_64").is_none() {
        return;
    }
    w.sos(["boot", "run", ".#bad.kernel"]).fails(3);
    w.sos([
        "boot", "run", "sos.nix", "-A", "uki", "--write", "--expect", "x",
    ])
    .fails(2)
    .says(&["disk:FILE"]);
}

#[test]
fn an_image_has_to_fit_into_its_partition() {
    let w = World::new();
    w.write("rootfs.nix", ROOTFS);
    w.write("large", &"x".repeat(2 << 20));
    w.write(
        "sos.nix",
        r#"{ sos, ... }: {
  disk = sos.disk {
    name = "disk";
    boot = "none";
    rootfs = import ./rootfs.nix "rootfs-edit" { name = "os"; files = [ ]; };
    partitions = [
      { name = "root"; type = "root"; filesystem = "ext4"; rootfs = true; }
      { name = "data"; type = "linux"; image = ./large; size = "1M"; }
    ];
  };
}
"#,
    );
    let told = w.sos(["build", "--no-link", ".#disk"]);
    assert_ne!(told.code, 0, "{told:?}");
    told.says(&[
        "error[disk-full]",
        "the partition `data` has 1048576 bytes, and its image",
        "needs 2097152",
        "give it `size = 2097152` or more",
    ]);
}
