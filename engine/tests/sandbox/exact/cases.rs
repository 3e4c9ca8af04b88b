//! Single cases that chance meets seldom.

use std::path::Path;

use sos_engine::sandbox::{Control, SandboxError, StepMount, StepSpec, run_step};
use sos_formats::hash::Blake3;
use sos_store::rootfs::{FileSpec, KindView, SpecKind};

use crate::support::{EPOCH, Lab, meta};

/// The content and the number of names of a file.
fn file(lab: &Lab, root: &Blake3, path: &str) -> (String, usize) {
    let tree = lab.load(root);
    let content = tree.read_file(path).unwrap();
    let names = tree.names_of(path).unwrap();
    (String::from_utf8(content).unwrap(), names.len())
}

fn mode(lab: &Lab, root: &Blake3, path: &str) -> u16 {
    lab.load(root).get(path).unwrap().unwrap().meta.mode
}

/// A root with one file under three names, in a lower layer of every step on it.
fn three_names(lab: &Lab) -> Blake3 {
    let script = "cd /home; echo one >a; busybox mkdir d; busybox ln a b; busybox ln a d/c; busybox chmod 640 a";
    lab.step(lab.base, script).0
}

pub(crate) fn links_that_are_written() {
    let lab = Lab::new();
    let root = three_names(&lab);
    // The overlay gives a name that is written a file of its own. The others keep the old one, and belong together.
    let (written, log) = lab.step(
        root,
        "cd /home; echo two >>b; busybox cat a b d/c; busybox stat -c %h b",
    );
    assert_eq!(log, "one\none\ntwo\none\n1\n");
    assert_eq!(file(&lab, &written, "home/b"), ("one\ntwo\n".to_owned(), 1));
    assert_eq!(file(&lab, &written, "home/a"), ("one\n".to_owned(), 2));
    assert_eq!(file(&lab, &written, "home/d/c"), ("one\n".to_owned(), 2));
    let probe = "cd /home; busybox stat -c %h a b d/c; busybox cat a b d/c";
    assert_eq!(lab.step(written, probe).1, "2\n1\n2\none\none\ntwo\none\n");
    // Two of three: what is left is a file with one name.
    let (alone, _) = lab.step(written, "cd /home; echo three >d/c");
    assert_eq!(file(&lab, &alone, "home/a"), ("one\n".to_owned(), 1));
    assert_eq!(lab.step(alone, "busybox stat -c %h /home/a").1, "1\n");
    // All of them written with the same are no longer one file.
    let script = "cd /home; for f in a b d/c; do echo same >$f; done";
    let (same, _) = lab.step(root, script);
    for path in ["home/a", "home/b", "home/d/c"] {
        assert_eq!(file(&lab, &same, path), ("same\n".to_owned(), 1));
    }
}

pub(crate) fn links_that_are_replaced() {
    let lab = Lab::new();
    let root = three_names(&lab);
    // A new file in the place of one name, with the same content: its mode is its own.
    let script = "cd /home; busybox cp b n; busybox chmod 4755 n; busybox mv n b";
    let (replaced, _) = lab.step(root, script);
    assert_eq!(mode(&lab, &replaced, "home/b"), 0o4755);
    assert_eq!(mode(&lab, &replaced, "home/a"), 0o640);
    assert_eq!(file(&lab, &replaced, "home/b").1, 1);
    assert_eq!(file(&lab, &replaced, "home/a").1, 2);
    // New times of all names: they stay together.
    let script = "busybox find /home -type f -exec busybox touch -d @5 {} +";
    let (touched, _) = lab.step(root, script);
    assert_eq!(file(&lab, &touched, "home/a").1, 3);
    let tree = lab.load(&touched);
    assert_eq!(tree.get("home/d/c").unwrap().unwrap().meta.mtime_secs, 5);
    // A name that moves is the other file from then on; a name that is made joins the file that it was made of.
    let script = "cd /home; busybox mv a z; busybox ln b y";
    let (moved, log) = lab.step(root, &format!("{script}; busybox stat -c %h z b y d/c"));
    assert_eq!(log, "1\n2\n2\n3\n");
    assert_eq!(file(&lab, &moved, "home/z").1, 1);
    assert_eq!(file(&lab, &moved, "home/y").1, 2);
    assert_eq!(file(&lab, &moved, "home/d/c").1, 1);
}

/// Nobody can make devices in a user namespace: a step has sockets in their place, and does with them what it wants.
pub(crate) fn devices() {
    let lab = Lab::new();
    let mut tree = lab.load(&lab.base);
    tree.mkdir_p("srv/dev/deep", &meta(0o755)).unwrap();
    let device = |kind| FileSpec {
        meta: meta(0o620),
        kind,
    };
    let (null, disk) = (
        SpecKind::CharDev { major: 1, minor: 3 },
        SpecKind::BlockDev { major: 8, minor: 1 },
    );
    // An overlay would take this one for a note of its own.
    let white = SpecKind::CharDev { major: 0, minor: 0 };
    tree.insert("srv/dev/null", device(null.clone())).unwrap();
    tree.insert("srv/dev/white", device(white)).unwrap();
    tree.insert("srv/dev/deep/disk", device(disk)).unwrap();
    tree.insert("srv/null", device(null)).unwrap();
    let root = tree.finish(&lab.store).unwrap();
    let kind = |root: &Blake3, path: &str| {
        let tree = lab.load(root);
        tree.get(path).unwrap().map(|e| format!("{:?}", e.kind))
    };
    let null = Some("CharDev { major: 1, minor: 3 }".to_owned());
    let white = Some("CharDev { major: 0, minor: 0 }".to_owned());
    let disk = Some("BlockDev { major: 8, minor: 1 }".to_owned());
    let (kept, log) = lab.step(
        root,
        "busybox ls -A /srv /srv/dev/deep; echo x >/srv/dev/x; busybox chmod 700 /srv/dev; busybox chmod 600 /srv/null
         echo y 2>/dev/null >/srv/dev/null || echo closed; busybox rmdir /srv/dev/deep 2>/dev/null || echo full",
    );
    assert_eq!(
        log,
        "/srv:\ndev\nnull\n\n/srv/dev/deep:\ndisk\nclosed\nfull\n"
    );
    assert_eq!(kind(&kept, "srv/dev/null"), null);
    assert_eq!(kind(&kept, "srv/dev/white"), white);
    assert_eq!(kind(&kept, "srv/dev/deep/disk"), disk);
    assert_eq!(kind(&kept, "srv/null"), null);
    assert_eq!(mode(&lab, &kept, "srv/null"), 0o600);
    assert_eq!(mode(&lab, &kept, "srv/dev/null"), 0o620);
    // They move with their directory and by themselves, and are copied.
    let script =
        "cd /srv; busybox mv dev moved; busybox mv null nothing; busybox cp -a moved/deep copy";
    let (moved, log) = lab.step(kept, script);
    assert_eq!(log, "");
    let after = |root: &Blake3| {
        assert_eq!(kind(root, "srv/moved/null"), null);
        assert_eq!(kind(root, "srv/moved/white"), white);
        assert_eq!(kind(root, "srv/moved/deep/disk"), disk);
        assert_eq!(kind(root, "srv/nothing"), null);
        assert_eq!(mode(&lab, root, "srv/nothing"), 0o600);
        assert_eq!(kind(root, "srv/copy/disk"), disk);
        assert_eq!(kind(root, "srv/dev"), None);
        assert_eq!(kind(root, "srv/null"), None);
        let tree = lab.load(root);
        let disk = tree.get("srv/moved/deep/disk").unwrap().unwrap();
        assert_eq!(disk.meta, &meta(0o620));
    };
    after(&moved);
    // So do those that other programs move.
    if let Some(mut plan) = with_coreutils(
        &lab,
        kept,
        "gnu-mv dev moved && gnu-mv null nothing && gnu-cp -a moved/deep copy",
    ) {
        plan.cwd = "/srv".into();
        let (outcome, log) = lab.run(&plan);
        assert!(outcome.exit.success(), "{log}");
        after(&outcome.root.unwrap());
    }
    // They go with their directory, and give way to what is made in their place.
    let script = "busybox rm /srv/null; echo file >/srv/null; busybox rm -r /srv/dev; busybox mkdir /srv/dev";
    let (gone, _) = lab.step(kept, script);
    assert_eq!(lab.load(&gone).read_file("srv/null").unwrap(), b"file\n");
    assert_eq!(
        lab.load(&gone).list("srv/dev").unwrap(),
        Vec::<Vec<u8>>::new()
    );
    // In the place of a file, in a working tree that was moved here and back.
    let mut tree = lab.load(&gone);
    let null = SpecKind::CharDev { major: 1, minor: 3 };
    tree.insert("srv/null", device(null)).unwrap();
    let again = tree.finish(&lab.store).unwrap();
    let probe = "busybox ls -A /srv; busybox test -S /srv/null && echo socket";
    assert_eq!(lab.step(again, probe).1, "dev\nnull\nsocket\n");
    assert_eq!(lab.step(gone, "busybox cat /srv/null").1, "file\n");
    // Two that are alike and get new names at once could be either.
    let plan = lab.plan(root, "cd /srv/dev; busybox mv null a; busybox mv white b");
    let error = run_step(&lab.store, &plan, &mut |_| {}, &Control::default());
    let Err(SandboxError::Machine(diagnostic)) = error else {
        panic!("{error:?}")
    };
    assert_eq!(diagnostic.code, "build-device-unclear");
}

/// Tries to give every device node of the sandbox extended attributes; prints a line for each that was not refused by the mount. What is
/// set is taken away again.
const MARK_NODES: &str = r#"python3 - <<'END'
import errno, os, struct
access = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in
    [(1, 6, 0xffffffff), (2, 6, 1), (4, 6, 0xffffffff), (16, 6, 0xffffffff), (32, 6, 0xffffffff)])
for node in ["null", "zero", "full", "random", "urandom", "tty"]:
    for name in ["user.sos", "trusted.sos", "security.sos", "security.capability", "system.posix_acl_access"]:
        path = "/dev/" + node
        for change in [lambda: os.setxattr(path, name, access), lambda: os.removexattr(path, name)]:
            try:
                change()
                print(node, name, "changed")
            except OSError as e:
                if e.errno != errno.EROFS: print(node, name, os.strerror(e.errno))
print("done")
END"#;

/// Who builds as root owns the nodes, and an owner may set access lists on what he owns: that the nodes are mounted read-only keeps
/// them as they are.
pub(crate) fn attributes_of_nodes() {
    let Some(mounts) = super::python() else {
        crate::support::skip("no /usr/bin/python3");
        return;
    };
    let attributes = || {
        ["null", "zero", "full", "random", "urandom", "tty"].map(|node| {
            let mut names = vec![0; 1 << 16];
            let path = Path::new("/dev").join(node);
            let length = rustix::fs::llistxattr(&path, names.as_mut_slice()).unwrap();
            names.truncate(length);
            names
        })
    };
    let before = attributes();
    let lab = Lab::new();
    let mut plan = lab.plan(lab.base, MARK_NODES);
    plan.mounts = mounts;
    let (outcome, log) = lab.run(&plan);
    assert!(outcome.exit.success(), "{log}");
    assert_eq!(log, "done\n");
    assert_eq!(attributes(), before);
}

/// A step that finds the programs of coreutils of this machine as `gnu-mv` and `gnu-cp`.
fn with_coreutils(lab: &Lab, root: Blake3, script: &str) -> Option<StepSpec> {
    let mut plan = lab.plan(root, script);
    plan.mounts = super::python()?;
    for name in ["mv", "cp"] {
        plan.mounts.push(StepMount {
            inside: format!("/usr/bin/gnu-{name}").into(),
            outside: ["/usr/bin", "/bin"]
                .map(|dir| Path::new(dir).join(name))
                .into_iter()
                .find(|path| path.is_file())?,
        });
    }
    Some(plan)
}

pub(crate) fn sockets() {
    let lab = Lab::new();
    let (outcome, log) = lab.run(&lab.plan(
        lab.base,
        "busybox rm /etc/a; busybox nc -l -s local:/etc/a & busybox mkfifo /etc/p
         busybox syslogd -n -l 1 -O /dev/null & while ! busybox test -S /dev/log; do :; done; busybox mv /dev/log /etc/log; kill %2; kill %1 || :",
    ));
    assert!(outcome.exit.success(), "{log}");
    let tree = lab.load(&outcome.root.unwrap());
    assert!(tree.get("etc/log").unwrap().is_none());
    assert!(tree.get("etc/a").unwrap().is_none());
    assert_eq!(tree.get("etc/p").unwrap().unwrap().kind, KindView::Fifo);
}

pub(crate) fn closed_and_deep() {
    let lab = Lab::new();
    let deep: Vec<String> = (0..150)
        .map(|n| format!("directory-number-{n:03}"))
        .collect();
    let deep = deep.join("/");
    let script = format!(
        "busybox mkdir -p /var/{deep}; echo x >/var/{deep}/f; busybox mkdir /var/closed; echo y >/var/closed/f; busybox chmod 0 /var/closed/f /var/closed"
    );
    let (root, _) = lab.step(lab.base, &script);
    assert_eq!(mode(&lab, &root, "var/closed"), 0);
    assert_eq!(mode(&lab, &root, "var/closed/f"), 0);
    let probe = format!("busybox cat /var/{deep}/f /var/closed/f; echo z >/var/closed/g");
    let (more, log) = lab.step(root, &probe);
    assert_eq!(log, "x\ny\n");
    assert_eq!(lab.load(&more).read_file("var/closed/g").unwrap(), b"z\n");
    let (less, _) = lab.step(more, "busybox rm -r /var/closed /var/directory-number-000");
    assert_eq!(lab.load(&less).list("var").unwrap(), [b"lib".to_vec()]);
    // Back and forth: the working tree loses and gets it again.
    assert_eq!(
        lab.step(root, &probe.replace("; echo z >/var/closed/g", ""))
            .1,
        "x\ny\n"
    );
    // Deeper than a path can be long is told, and nothing is left of it.
    let script = format!(
        "busybox mkdir -p /var/{deep} /home/{deep}; busybox mv /home/directory-number-000 /var/{deep}/below"
    );
    let plan = lab.plan(lab.base, &script);
    let error = run_step(&lab.store, &plan, &mut |_| {}, &Control::default()).unwrap_err();
    let message = error.into_diagnostic().message;
    assert!(message.contains("File name too long"), "{message}");
    let left = std::fs::read_dir(lab.store.root().join("tmp")).unwrap();
    let left = left
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().ends_with(".step"));
    assert_eq!(left.count(), 0);
}

pub(crate) fn owners() {
    let lab = Lab::new();
    let script = "cd /etc; busybox chown 65534:65534 a; busybox chown 65535:1 b; busybox chown 65536 c 2>/dev/null || echo refused";
    let (root, log) = lab.step(lab.base, script);
    assert_eq!(log, "refused\n");
    let owner = |path: &str| {
        let tree = lab.load(&root);
        let meta = tree.get(path).unwrap().unwrap().meta;
        (meta.uid, meta.gid)
    };
    assert_eq!(owner("etc/a"), (65_534, 65_534));
    assert_eq!(owner("etc/b"), (65_535, 1));
    assert_eq!(owner("etc/c"), (0, 0));
    // An owner that no step has is named, and where.
    let mut tree = lab.load(&lab.base);
    let mut far = meta(0o600);
    far.gid = 70_000;
    tree.write_file("etc/far", "x", far).unwrap();
    let root = tree.finish(&lab.store).unwrap();
    let error = run_step(
        &lab.store,
        &lab.plan(root, ":"),
        &mut |_| {},
        &Control::default(),
    );
    let Err(SandboxError::Machine(diagnostic)) = error else {
        panic!("{error:?}")
    };
    assert_eq!(diagnostic.code, "build-owner-out-of-range");
    assert!(
        diagnostic.message.contains("/etc/far") && diagnostic.message.contains("0:70000"),
        "{}",
        diagnostic.message
    );
    // The same without it works.
    lab.step(lab.base, ":");
}

pub(crate) fn everything_is_replaced() {
    let lab = Lab::new();
    let script = "for d in /etc /home /var; do busybox rm -rf $d; done; busybox mkdir /etc; echo n >/etc/a; busybox ln -s /etc /home; echo f >/var";
    let (root, _) = lab.step(lab.base, script);
    let names: Vec<String> = lab.list(&root);
    let e = EPOCH;
    for line in [
        format!("etc 755 0:0 {e} dir"),
        format!("etc/a 644 0:0 {e} file 2"),
        format!("home 777 0:0 {e} -> /etc"),
        format!("var 644 0:0 {e} file 2"),
    ] {
        assert!(names.contains(&line), "{line} in {names:?}");
    }
    assert!(!names.iter().any(|line| line.starts_with("etc/b ")));
    let (back, _) = lab.step(
        root,
        "busybox rm /home /var; busybox mkdir -p /home /var/lib; echo again >/home/x",
    );
    assert_eq!(lab.load(&back).list("home").unwrap(), [b"x".to_vec()]);
    assert_eq!(lab.load(&back).list("var").unwrap(), [b"lib".to_vec()]);
    // A lower directory cannot be renamed in an overlay: mv copies it, with all that is in it.
    let (moved, log) = lab.step(
        lab.base,
        "busybox chmod 711 /etc; busybox mv /etc /cfg; busybox ls /cfg; busybox mv /cfg /etc; busybox touch -d @1000000 /etc",
    );
    assert_eq!(log, "a\nb\nc\n");
    let of_etc = |root: &Blake3| -> Vec<String> {
        let all = lab.list(root).into_iter();
        all.filter(|line| line.starts_with("etc")).collect()
    };
    let mut expected = of_etc(&lab.base);
    expected[0] = expected[0].replace("755", "711");
    assert_eq!(of_etc(&moved), expected);
}
