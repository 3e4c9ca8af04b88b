//! The media that a machine without a kernel boots.

use std::process::Command;

use super::{upstream, write_tree};
use crate::support::{World, peer, run, say};

const DIGEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const OTHER: &str = "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752";

const THIRD: &str = "fd61a03af4f77d870fc21e05e7e80678095c92d808cfb3b5c279ee04c74aca13";
const FOURTH: &str = "a4e624d686e03ed2767c0abd85c14426b0b1157d2ce81d27bb4fe4f6f01d688a";

/// As hex0: prints the first eight bytes of the second disk on the screen, and stops.
fn boot_sector() -> String {
    let code = "31 C0 8E D8 8E C0 B4 42 BA 81 00 BE 23 7C CD 13 BE 00 7E B9 08 00 FC AC B4 0E BB 07 00 CD 10 E2 F6 EB FE";
    let packet = "10 00 01 00 00 7E 00 00 00 00 00 00 00 00 00 00";
    let rest = 510 - 35 - 16;
    format!("{code}\n{packet}\n{}55 AA\n", "00 ".repeat(rest))
}

/// A tree with a boot loader and two files from outside, the second of which is for the payload.
fn world() -> World {
    let mut w = World::new();
    let manifest = "build: a\nimprove: import_payload\nbuild: b\nbuild: a\n";
    let early = format!("f http://127.0.0.1:9/x.txt {DIGEST}\n");
    let late = format!("{early}f http://127.0.0.1:9/y.txt {OTHER}\n");
    write_tree(
        &w,
        &[
            ("steps/manifest", manifest),
            ("steps/a/pass1.kaem", ""),
            ("steps/a/pass2.kaem", ""),
            ("steps/a/sources", &early),
            ("steps/b/pass1.kaem", ""),
            ("steps/b/sources", &late),
            ("steps/improve/import_payload.sh", ""),
            ("steps/env", ""),
            ("seed/seed.kaem", "set -ex\n"),
            ("seed/stage0-posix/kaem.x86", "echo\n"),
            ("seed/stage0-posix/kaem.amd64", "echo\n"),
            ("seed/stage0-posix/x86/hex0_x86.hex0", "00\n"),
            ("seed/stage0-posix/M2libc/x.h", ""),
            ("seed/stage0-posix/bootstrap-seeds/POSIX/x86/hex0-seed", "x"),
            (
                "seed/stage0-posix/bootstrap-seeds/POSIX/x86/kaem-optional-seed",
                "x",
            ),
            (
                "seed/stage0-posix/bootstrap-seeds/POSIX/AMD64/kaem-optional-seed",
                "x",
            ),
            ("builder-hex0/builder-hex0-x86-stage1.hex0", &boot_sector()),
            ("builder-hex0/builder-hex0-x86-stage2.hex0", "stage 2\n"),
        ],
    );
    w.write("mirror/x.txt", "test");
    w.write("mirror/y.txt", "test2");
    w.set(
        "SOS_MIRRORS_DISTFILES",
        &format!("file://{}", w.project().join("mirror").display()),
    );
    w
}

/// The content of a result.
#[track_caller]
fn built(w: &World, target: &str) -> Vec<u8> {
    let path = w.sos(["build", "--no-link", target]).ok().stdout;
    let path = path
        .trim()
        .replace("/nix/store", &w.store().join("tree").display().to_string());
    std::fs::read(path).expect("as the test has it")
}

fn position(image: &[u8], part: &str) -> Option<usize> {
    image.windows(part.len()).position(|w| w == part.as_bytes())
}

#[test]
fn the_image_has_what_comes_before_the_payload_and_the_payload_the_rest() {
    let w = world();
    let image = built(&w, "tree#builder-hex0-image");
    assert_eq!(image.len(), 1 << 20);
    assert!(position(&image, "src 4 ./external/distfiles/x.txt\ntest").is_some());
    assert!(position(&image, "y.txt\n").is_none());
    assert!(position(&image, "KERNEL_BOOTSTRAP=True\n").is_some());
    assert!(position(&image, "src 0 ./bootstrap-seeds").is_none());
    let bare = built(&w, "tree#builder-hex0-image.bare");
    assert!(position(&bare, "x.txt\n").is_none());
    assert!(position(&bare, "src 0 ./external\n").is_some());
    assert!(position(&bare, "src 0 ./external/distfiles\n").is_some());
    let payload = built(&w, "tree#payload-image");
    assert_eq!(payload, b"LBPAYLD1\x01\0\0\0\x05\0\0\0\x05\0\0\0y.txttest2");
    w.write("payload.img", "");
    std::fs::write(w.project().join("payload.img"), &payload).expect("as the test has it");
    assert_eq!(
        w.sos(["recipe", "payload", "ls", "payload.img"])
            .ok()
            .stdout,
        "           5 y.txt\n"
    );
    let check = [
        "recipe",
        "payload",
        "check",
        "payload.img",
        "--tree",
        "tree",
    ];
    assert_eq!(
        w.sos(check).ok().stdout,
        "1 file, numbers of 32 bits; 1 digest is what the tree says\n"
    );
    assert_eq!(
        w.sos(&check[..4]).ok().stdout,
        "1 file, numbers of 32 bits; no digest was compared: `--tree DIR` names what has them\n"
    );
    let json = w.sos(check.into_iter().chain(["--json"])).ok().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(
        json,
        serde_json::json!({ "files": 1, "bits": 32, "compared": 1 })
    );
    // A name is one line.
    let odd = b"LBPAYLD1\x01\0\0\0\x03\0\0\0\0\0\0\0a\nb";
    std::fs::write(w.project().join("odd.img"), odd).expect("as the test has it");
    assert_eq!(
        w.sos(["recipe", "payload", "ls", "odd.img"]).ok().stdout,
        "           0 a\\nb\n"
    );
    // One byte of the content is another one.
    let mut wrong = payload.clone();
    *wrong.last_mut().expect("as the test has it") = b'3';
    std::fs::write(w.project().join("payload.img"), &wrong).expect("as the test has it");
    w.sos(check)
        .fails(102)
        .says(&["`y.txt`: expected sha256", OTHER]);
    // Nothing that the tree has may be lacking, and every problem is told at once.
    w.write(
        "tree/steps/b/sources",
        &format!("f http://127.0.0.1:9/y.txt {OTHER}\nf http://127.0.0.1:9/z.txt {THIRD}\n"),
    );
    w.sos(check).fails(102).says(&[
        "1 of 1 file of `payload.img` is not what `tree` says, and 1 file is lacking",
        "`y.txt`: expected sha256",
        &format!("`z.txt`: not there, sha256 {THIRD}"),
    ]);
    std::fs::write(w.project().join("payload.img"), &payload).expect("as the test has it");
    w.sos(check).fails(102).says(&[
        "`payload.img` lacks 1 file that `tree` has",
        &format!("`z.txt`: not there, sha256 {THIRD}"),
    ]);
    w.write(
        "tree/steps/b/sources",
        &format!("f http://127.0.0.1:9/y.txt {OTHER}\n"),
    );
    let wide = built(&w, "tree#payload-image.wide");
    std::fs::write(w.project().join("payload.img"), &wide).expect("as the test has it");
    assert_eq!(
        w.sos(check).ok().stdout,
        "1 file, numbers of 64 bits; 1 digest is what the tree says\n"
    );
    std::fs::write(w.project().join("payload.img"), b"something else").expect("as the test has it");
    w.sos(check)
        .fails(3)
        .says(&["payload-bad", "does not begin with"]);
}

#[test]
fn the_image_has_the_size_that_is_asked_for() {
    let w = world();
    let sized = |size: &str| {
        let words = ["build", "--no-link", "tree#builder-hex0-image"];
        w.sos(words.into_iter().chain(["--arg", "imageMebibytes", size]))
    };
    let large = w.physical(sized("300").ok().stdout.trim());
    let meta = std::fs::metadata(&large).expect("a file");
    assert_eq!(meta.len(), 300 << 20);
    // Nothing was written there.
    let room = std::os::unix::fs::MetadataExt::blocks(&meta) * 512;
    assert!(room < 8 << 20, "{room} bytes on the disk");
    let small = built(&w, "tree#builder-hex0-image");
    let mut same = vec![0; small.len()];
    let mut file = std::fs::File::open(&large).expect("a file");
    std::io::Read::read_exact(&mut file, &mut same).expect("bytes");
    assert!(same == small);
    for wrong in ["(-1)", "\"5\"", "9999999"] {
        sized(wrong)
            .fails(3)
            .says(&["`imageMebibytes` is a number of MiB"]);
    }
    // A recipe says it itself.
    w.write(
        "sized.nix",
        "{ sos }: sos.bootstrap { tree = ./tree; imageMebibytes = 2; }",
    );
    assert_eq!(built(&w, "sized.nix#builder-hex0-image").len(), 2 << 20);
    assert_eq!(
        built(&w, "sized.nix#builder-hex0-image.bare").len(),
        2 << 20
    );
}

#[test]
fn a_payload_is_the_second_disk_of_the_image() {
    if peer("qemu-system-x86_64").is_none() {
        return;
    }
    let w = world();
    let (first, second) = ("tree#builder-hex0-image", "tree#payload-image");
    let boot = |words: &[&str]| {
        let all = [&["boot", "run"][..], words, &["--expect", "LBPAYLD1"]];
        w.sos(all.concat())
    };
    let how = "`sos boot run tree#builder-hex0-image --payload tree#payload-image`";
    boot(&[second])
        .fails(2)
        .says(&["boot-nothing", "is a payload image", how]);
    let payload = built(&w, second);
    std::fs::write(w.project().join("payload.img"), &payload).expect("a file");
    boot(&["payload.img"]).fails(2).says(&[
        "`payload.img` is a payload image",
        "`sos boot run TREE#builder-hex0-image --payload payload.img`",
    ]);
    // What the image of this test does is to print what the second disk begins with.
    boot(&[first, "--payload", second]).ok();
    boot(&[first, "--payload", "payload.img"]).ok();
    let there = std::fs::read(w.project().join("payload.img")).expect("a file");
    assert!(there == payload, "nothing was written to it");
    boot(&[first, "--payload", first])
        .fails(2)
        .says(&["boot-payload", "is no payload image"]);
    w.write("other", "x");
    boot(&[first, "--payload", "other"])
        .fails(2)
        .says(&["`other` is no payload image"]);
}

#[test]
fn passes_of_an_extension_are_its_own() {
    let w = world();
    w.write("tree/steps-more/manifest", "build: a\nbuild: c\nbuild: c\n");
    w.write("tree/steps-more/a/pass1.kaem", "echo more\n");
    w.write("tree/steps-more/c/pass1.kaem", "");
    w.write("tree/steps-more/c/pass2.kaem", "");
    let drv = |attr: &str| {
        let attr = format!("tree#{attr}");
        let words = ["plan", "--json", "--set", "EXTRA_BUILDS=more", &attr];
        let plan = w.sos(words).ok().stdout;
        let plan: serde_json::Value = serde_json::from_str(&plan).expect("JSON");
        plan.to_string()
    };
    let same = |one: &str, other: &str| assert!(drv(one) == drv(other), "{one} is {other}");
    // The main tree has two passes of that name, the extension another one.
    same("a", "steps.a.2");
    same("steps-more.a", "steps-more.a.1");
    assert!(drv("steps.a.1") != drv("steps-more.a.1"));
    assert!(drv("a") != drv("steps-more.a"));
    // What only the extension has is found without its tree.
    same("c", "steps-more.c.2");
    same("c.1", "steps-more.c.1");
    w.sos(["plan", "--set", "EXTRA_BUILDS=more", "tree#steps-more.a.2"])
        .fails(3)
        .says(&["step `a` has no pass 2", "its only pass is 1"]);
}

#[test]
fn the_list_of_digests_of_stage0_is_found_by_its_name() {
    let w = world();
    w.write(
        "tree/seed/stage0-posix/kaem.x86",
        "./x86/bin/sha256sum -c x86.answers\n",
    );
    w.write("tree/seed/stage0-posix/x86.answers", "");
    for attr in ["stage0.x86.answers", "stage0.\"x86.answers\""] {
        let name = w.sos(["eval", "--raw", &format!("tree#{attr}.name")]).ok();
        assert_eq!(name.stdout.trim(), "stage0-x86.answers", "{attr}");
    }
    // What every pin of stage0 is looked for in is that root, and so is what the seed begins with.
    let plan = w.sos(["plan", "tree#rootfs"]).ok().stdout;
    assert!(plan.contains("stage0-x86.answers"), "{plan}");
}

#[test]
fn a_pipe_is_not_waited_for() {
    let w = World::new();
    let pipe = w.project().join("pipe");
    run(Command::new("mkfifo").arg(&pipe)).ok();
    // Who reads it all the same is given something, or the test would not end.
    let writer = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::write(pipe, "x")
    });
    for verb in ["ls", "check"] {
        w.sos(["recipe", "payload", verb, "pipe"])
            .fails(3)
            .says(&["`pipe` is no payload image: it is no file"]);
    }
    w.sos(["recipe", "payload", "ls", "/dev/null"])
        .fails(3)
        .says(&["it is no file"]);
    // The writer waits for a reader; what it writes is of no interest.
    let reader = std::fs::File::open(&pipe).expect("a pipe");
    let _written = writer.join().expect("the writer");
    drop(reader);
}

#[test]
fn without_its_directive_there_is_no_payload() {
    let w = world();
    w.write("tree/steps/manifest", "build: a\n");
    w.sos(["build", "--no-link", "tree#payload-image"])
        .fails(3)
        .says(&[
            "`tree/steps/manifest` has no `improve: import_payload`",
            "help: without it `#builder-hex0-image` has every file",
        ]);
    std::fs::write(w.project().join("payload.img"), b"LBPAYLD1\0\0\0\0").expect("a file");
    let check = ["recipe", "payload", "check", "payload.img"];
    w.sos(check.into_iter().chain(["--tree", "tree"]))
        .fails(3)
        .says(&["`tree/steps/manifest` has no `improve: import_payload`"]);
    w.sos([
        "build",
        "--no-link",
        "--set",
        "ARCH=amd64",
        "tree#builder-hex0-image",
    ])
    .fails(3)
    .says(&["builder-hex0 boots x86 alone"]);
}

#[test]
fn who_lacks_a_submodule_is_told_how_to_get_it() {
    let w = world();
    let check = |target: &str, words: &[&str]| {
        let target = format!("tree{target}");
        let run = w.sos(["build", "--no-link", &target]).fails(3).says(words);
        assert!(!run.stderr.contains("sos-builtin"), "{}", run.stderr);
        assert!(!run.stderr.contains("frames"), "{}", run.stderr);
    };
    let remove = |dir: &str| {
        let dir = w.project().join("tree").join(dir);
        std::fs::remove_dir_all(&dir).expect("a directory");
        std::fs::create_dir(&dir).expect("a directory");
    };
    remove("builder-hex0");
    // The payload is read by what boots, and does not have it.
    w.sos(["build", "--no-link", "tree#payload-image"]).ok();
    check(
        "#builder-hex0-image",
        &[
            "there is no `tree/builder-hex0/builder-hex0-x86-stage1.hex0`",
            "`git submodule update --init builder-hex0`",
        ],
    );
    let fetch = "help: stage0 is a submodule with submodules of its own: `git submodule update --init --recursive` in the checkout fetches all of them";
    for part in ["bootstrap-seeds", "M2libc"] {
        remove(&format!("seed/stage0-posix/{part}"));
        let message = format!("`tree/seed/stage0-posix/{part}` is empty");
        check("#stage0", &[&message, fetch]);
    }
    remove("seed/stage0-posix");
    check(
        "#stage0",
        &["there is no `tree/seed/stage0-posix/kaem.x86`", fetch],
    );
}

#[test]
fn an_extension_comes_with_its_files() {
    let w = world();
    w.write("tree/steps-more/manifest", "build: a\nbuild: c\n");
    // A step of the main tree is called so as well.
    w.write("tree/steps-more/a/pass1.kaem", "echo more\n");
    w.write("tree/steps-more/c/pass1.kaem", "");
    w.write(
        "tree/steps-more/c/sources",
        &format!("f http://127.0.0.1:9/z.txt {THIRD}\n"),
    );
    w.write(
        "tree/steps-more/a/sources",
        &format!("f http://127.0.0.1:9/w.txt {FOURTH}\n"),
    );
    w.write("mirror/z.txt", "test3");
    w.write("mirror/w.txt", "test4");
    let asked = |target: &str, set: &[&str]| {
        let words = [&["build", "--no-link", target][..], set].concat();
        let path = w.sos(words).ok().stdout;
        std::fs::read(w.physical(path.trim())).expect("a file")
    };
    let names = |image: &[u8]| {
        std::fs::write(w.project().join("payload.img"), image).expect("a file");
        let listed = w
            .sos(["recipe", "payload", "ls", "payload.img"])
            .ok()
            .stdout;
        let words = listed.split_whitespace().map(str::to_owned);
        words.collect::<Vec<String>>().join(" ")
    };
    let without = asked("tree#builder-hex0-image.bare", &[]);
    assert!(position(&without, "steps-more").is_none());
    assert_eq!(names(&asked("tree#payload-image", &[])), "5 y.txt");
    let more = ["--set", "EXTRA_BUILDS=more"];
    let image = asked("tree#builder-hex0-image", &more);
    assert!(position(&image, "src 0 ./steps-more\n").is_some());
    assert!(position(&image, "src 10 ./steps-more/a/pass1.kaem\necho more\n").is_some());
    assert!(position(&image, "EXTRA_BUILDS=more\n").is_some());
    assert!(position(&image, "z.txt\n").is_none());
    let all = "5 w.txt 5 y.txt 5 z.txt";
    assert_eq!(names(&asked("tree#payload-image", &more)), all);
    // It is compared with what it was made of, and not with the tree as it is without its extension.
    let check = "recipe payload check payload.img --tree tree";
    let check: Vec<&str> = check.split(' ').collect();
    assert_eq!(
        w.sos([&check[..], &more[..]].concat()).ok().stdout,
        "3 files, numbers of 32 bits; 3 digests are what the tree says\n"
    );
    w.sos(&check).fails(102).says(&[
        "`w.txt`: no step declares it",
        "`z.txt`: no step declares it",
    ]);
    w.sos([&check[..4], &more[..]].concat())
        .fails(2)
        .says(&["--tree <DIR>"]);
    // The manifest may ask for one itself. Without a payload the image has all.
    w.write(
        "tree/steps/manifest",
        "define: EXTRA_BUILDS = more\nbuild: a\n",
    );
    let image = asked("tree#builder-hex0-image", &[]);
    assert!(position(&image, "src 5 ./external/distfiles/z.txt\ntest3").is_some());
    // Nobody can reach the network before the main tree has it, and its extensions come later.
    w.write("tree/steps/manifest", "build: a\nimprove: get_network\n");
    w.write("tree/steps/improve/get_network.sh", "");
    let image = asked("tree#builder-hex0-image", &more);
    assert!(position(&image, "src 0 ./steps-more\n").is_some());
    assert!(position(&image, "z.txt\n").is_none());
    w.sos([
        "build",
        "--no-link",
        "--set",
        "EXTRA_BUILDS=none",
        "tree#builder-hex0-image",
    ])
    .fails(3)
    .says(&[
        "there is no extension `none`: there is no `tree/steps-none/manifest`",
        "this tree has `more`",
    ]);
}

/// Has upstream's own code write the image, and prints both as sorted records: order is that of the directory there.
const PEER: &str = r#"
import os, shutil, sys, types
tree, ours, work = sys.argv[1:4]
sys.modules["requests"] = types.ModuleType("requests")
sys.path.insert(0, tree)
os.chdir(tree)
from lib.generator import Generator
g = Generator.__new__(Generator)
g.arch, g.target_dir = "x86", os.path.join(work, "init")
os.makedirs(g.target_dir)
g.stage0_posix(True)
g.seed()
shutil.copytree(os.path.join(g.git_dir, "steps"), os.path.join(g.target_dir, "steps"))
os.makedirs(os.path.join(g.target_dir, "external/distfiles"))
def records(data):
    at = len(data[:512]) + size
    at += -at % 512
    out = [data[:at]]
    while data[at:at + 1] not in (b"\0", b""):
        end = data.index(b"\n", at)
        line = data[at:end]
        at = end + 1
        words = line.split(b" ", 2)
        if words[0] == b"src" and int(words[1]) > 0:
            line += b"\n" + data[at:at + int(words[1])]
            at += int(words[1])
        out.append(line)
    assert not data[at:].strip(b"\0")
    return out
size = os.path.getsize("builder-hex0/builder-hex0-x86-stage2.hex0")
mine = open(ours, "rb").read()
cfg = [r for r in records(mine) if b"./steps/bootstrap.cfg\n" in r][0]
open(os.path.join(g.target_dir, "steps/bootstrap.cfg"), "wb").write(cfg.split(b"\n", 1)[1])
g.create_builder_hex0_disk_image(os.path.join(work, "init.img"), 0)
theirs = open(os.path.join(work, "init.img"), "rb").read()
a, b = records(mine), records(theirs)
assert a[-7:] == b[-7:], "the commands"
assert sorted(a) == sorted(b), [x[:80] for x in set(a) ^ set(b)][:5]
assert len(mine) == len(theirs)
print(len(a))
"#;

#[test]
fn the_image_of_upstream_has_the_records_that_upstream_writes() {
    let Some(tree) = upstream() else { return };
    let Some(python) = peer("python3") else {
        return;
    };
    let w = World::new();
    let target = format!("{}#builder-hex0-image.bare", tree.display());
    let image = built(&w, &target);
    std::fs::write(w.root().join("ours.img"), &image).expect("as the test has it");
    std::fs::create_dir(w.root().join("work")).expect("as the test has it");
    let run = Command::new(python)
        .args(["-B", "-c", PEER])
        .arg(&tree)
        .arg(w.root().join("ours.img"))
        .arg(w.root().join("work"))
        .output()
        .expect("as the test has it");
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let records: usize = String::from_utf8_lossy(&run.stdout)
        .trim()
        .parse()
        .expect("as the test has it");
    assert!(records > 500, "{records}");
}

/// Minutes in an emulated machine: the loader names on the screen what it takes out of the image, and the programs of the image what
/// they run: up to the compiler of C, which `cc_x86` has made and which compiles the next program.
#[test]
fn the_image_of_upstream_starts_without_a_kernel() {
    let Some(tree) = upstream() else { return };
    if std::env::var("SOS_TEST_BOOT").as_deref() != Ok("1") {
        say("skipped: SOS_TEST_BOOT=1 starts the image in an emulated machine");
        return;
    }
    if peer("qemu-system-x86_64").is_none() {
        return;
    }
    let w = World::new();
    let target = format!("{}#builder-hex0-image.bare", tree.display());
    w.sos([
        "boot",
        "run",
        &target,
        "--timeout",
        "2400",
        "--expect",
        r"\./steps",
        "--expect",
        r"\./AMD64/GAS/cc_amd64\.S",
        "--expect",
        // The screen breaks lines after 80 characters.
        r"\+> \./x86/artifact/hex0 \./x86/hex1_x86\.hex0",
        "--expect",
        r"\+> \./x86/artifact/M2 --architecture x86 -f \./M2libc/x86/linux/bootstrap\.c",
    ])
    .ok();
}
