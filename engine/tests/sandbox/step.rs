//! Steps: a root filesystem in, a changed one or a tree out.

use std::path::{Path, PathBuf};

use sos_engine::sandbox::{
    Control, Exit, SandboxError, StepMount, StepOutput, Watched, remove_tree, reset_work_trees,
    run_step,
};
use sos_formats::hash::Blake3;
use sos_store::GcOptions;
use sos_store::rootfs::KindView;

use crate::support::{EPOCH, Lab, meta};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("step::what_changes_is_captured", captured),
    ("step::no_time_of_the_run_is_captured", future_epoch),
    ("step::nothing_changed_is_the_same_root", unchanged),
    ("step::metadata_survives_a_round_trip", round_trip),
    ("step::hard_links", hard_links),
    ("step::device_nodes_are_those_of_the_machine", device_nodes),
    ("step::mount_points_do_not_show", mounts),
    ("step::a_directory_made_anew_is_empty", opaque),
    ("step::trees_come_out_owned_by_the_caller", trees),
    ("step::the_inside", inside),
    ("step::users", users),
    ("step::cached_trees_move", trees_move),
    ("step::new_files_move_to_the_tree_of_the_next_step", adopted),
    ("step::a_kept_layer_is_for_one_root_alone", one_root_alone),
    ("step::metadata_alone_changes_in_place", metadata_alone),
    ("step::idle_trees_are_collected", idle_trees),
    ("step::a_killed_change_is_made_again", damaged),
    ("step::trees_of_other_ids_are_left_alone", other_ids),
    ("step::failures_give_no_root", failures),
    ("step::what_it_looks_for_in_vain_is_seen", watched),
    ("step::an_empty_root", empty),
    ("step::the_machine_is_probed", probed),
];

fn captured() {
    let lab = Lab::new();
    let before = lab.list(&lab.base);
    let (root, _) = lab.step(
        lab.base,
        "cd /etc; busybox rm a; echo changed >b; busybox mkdir -p new/deep; echo x >new/deep/f
         busybox ln -s ../b new/link; busybox mkfifo new/pipe; busybox chown 33:44 c; busybox chmod 4750 c
         busybox touch -d @5 new/old",
    );
    let after = lab.list(&root);
    let added: Vec<&String> = after.iter().filter(|l| !before.contains(l)).collect();
    let e = EPOCH;
    assert_eq!(
        added,
        [
            format!("etc 755 0:0 {e} dir").as_str(),
            &format!("etc/b 644 0:0 {e} file 8"),
            "etc/c 4750 33:44 1000000 file 1",
            &format!("etc/new 755 0:0 {e} dir"),
            &format!("etc/new/deep 755 0:0 {e} dir"),
            &format!("etc/new/deep/f 644 0:0 {e} file 2"),
            &format!("etc/new/link 777 0:0 {e} -> ../b"),
            "etc/new/old 644 0:0 5 file 0",
            &format!("etc/new/pipe 644 0:0 {e} fifo"),
        ]
    );
    assert!(!after.iter().any(|l| l.starts_with("etc/a ")));
    assert_eq!(lab.load(&root).read_file("etc/b").unwrap(), b"changed\n");
    // The same step again gives the same bytes.
    let again = lab.step(
        lab.base,
        "cd /etc; busybox rm a; echo changed >b; busybox mkdir -p new/deep; echo x >new/deep/f
         busybox ln -s ../b new/link; busybox mkfifo new/pipe; busybox chown 33:44 c; busybox chmod 4750 c
         busybox touch -d @5 new/old",
    );
    assert_eq!(again.0, root);
}

fn future_epoch() {
    let lab = Lab::new();
    let mut plan = lab.plan(
        lab.base,
        "cd /etc; echo x >b; busybox mkdir new; echo y >new/f; busybox ln -s f new/l; echo z >old; busybox touch -d @5 old
         echo z >later; busybox touch -d @3999999999 later",
    );
    plan.epoch = 4_000_000_000;
    let run = || {
        let (outcome, log) = lab.run(&plan);
        assert!(outcome.exit.success(), "{log}");
        outcome.root.unwrap()
    };
    let root = run();
    let before = lab.list(&lab.base);
    let after = lab.list(&root);
    let changed: Vec<&String> = after.iter().filter(|l| !before.contains(l)).collect();
    assert_eq!(
        changed,
        [
            "etc 755 0:0 4000000000 dir",
            "etc/b 644 0:0 4000000000 file 2",
            "etc/later 644 0:0 3999999999 file 2",
            "etc/new 755 0:0 4000000000 dir",
            "etc/new/f 644 0:0 4000000000 file 2",
            "etc/new/l 777 0:0 4000000000 -> f",
            "etc/old 644 0:0 5 file 2",
        ]
    );
    // The list shows every second there is; a later run has other nanoseconds, which it does not show.
    assert_eq!(run(), root);
}

fn unchanged() {
    let lab = Lab::new();
    assert_eq!(lab.step(lab.base, "busybox ls /etc").0, lab.base);
    // Copied up by the overlay, but the same in the end.
    let script = "busybox chmod 600 /etc/a; busybox chmod 644 /etc/a; busybox chown 0:0 /etc/b";
    assert_eq!(lab.step(lab.base, script).0, lab.base);
    let script = "echo x >/tmp/x; echo y >/run/y; echo z >/dev/shm/z";
    assert_eq!(lab.step(lab.base, script).0, lab.base);
}

fn round_trip() {
    let lab = Lab::new();
    let mut tree = lab.load(&lab.base);
    let mut odd = meta(0o4711);
    (odd.uid, odd.gid, odd.mtime_nsecs) = (65_535, 12_345, 123_456_789);
    odd.xattrs.insert(b"user.note".to_vec(), b"\0\xff".to_vec());
    // cap_net_raw=ep, revision 2
    let capability = [&[1, 0, 0, 2, 0, 32][..], &[0; 14]].concat();
    odd.xattrs
        .insert(b"security.capability".to_vec(), capability);
    tree.write_file("etc/odd", "odd", odd.clone()).unwrap();
    let mut secret = meta(0o2700);
    (secret.uid, secret.gid) = (7, 8);
    tree.mkdir_p("etc/secret", &secret).unwrap();
    tree.write_file("etc/secret/f\u{e4}\n", "x", meta(0))
        .unwrap();
    let root = tree.finish(&lab.store).unwrap();
    let (same, log) = lab.step(
        root,
        "cd /etc; busybox stat -c '%a %u %g %Y %n' odd secret secret/*; busybox cp -a secret other",
    );
    assert!(
        log.starts_with(
            "4711 65535 12345 1000000 odd\n2700 7 8 1000000 secret\n0 0 0 1000000 secret/f"
        ),
        "{log}"
    );
    let same = lab.load(&same);
    let view = same.get("etc/odd").unwrap().unwrap();
    assert_eq!(view.meta, &odd);
    // The step that comes after changes nothing but its own.
    let (touched, _) = lab.step(root, "busybox chmod 711 /etc/odd");
    let touched = lab.load(&touched);
    let view = touched.get("etc/odd").unwrap().unwrap();
    odd.mode = 0o711;
    assert_eq!(view.meta, &odd);
}

fn linked(lab: &Lab, root: &Blake3, path: &str) -> Option<[u8; 16]> {
    match lab.load(root).get(path).unwrap().unwrap().kind {
        KindView::File { hardlink, .. } => hardlink,
        other => panic!("{other:?}"),
    }
}

fn hard_links() {
    let lab = Lab::new();
    let (root, _) = lab.step(
        lab.base,
        "cd /home; echo one >a; busybox ln a b; busybox mkdir d; busybox ln a d/c; echo two >x; busybox ln /etc/a /etc/a2",
    );
    let group = linked(&lab, &root, "home/a");
    assert!(group.is_some());
    for path in ["home/b", "home/d/c"] {
        assert_eq!(linked(&lab, &root, path), group);
    }
    assert_eq!(linked(&lab, &root, "home/x"), None);
    assert_eq!(linked(&lab, &root, "etc/a"), linked(&lab, &root, "etc/a2"));
    // In the working tree they are one file, also when it was moved here by the difference.
    let (_, log) = lab.step(root, "busybox stat -c %h /home/a /home/d/c /home/x /etc/a2");
    assert_eq!(log, "3\n3\n1\n2\n");
    // Metadata of one name is that of all.
    let (changed, _) = lab.step(root, "busybox chmod 600 /home/b");
    for path in ["home/a", "home/b", "home/d/c"] {
        let tree = lab.load(&changed);
        assert_eq!(tree.get(path).unwrap().unwrap().meta.mode, 0o600);
    }
    assert!(linked(&lab, &changed, "home/d/c").is_some());
    // A new name in another directory joins those in directories that did not change.
    let (joined, _) = lab.step(root, "busybox rm /home/a");
    let (_, log) = lab.step(
        joined,
        "busybox stat -c %h /home/b /home/d/c; busybox cat /home/d/c",
    );
    assert_eq!(log, "2\n2\none\n");
}

fn mounts() {
    let lab = Lab::new();
    let outside = lab.dir.join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("f"), "shown").unwrap();
    let mut tree = lab.load(&lab.base);
    tree.mkdir_p("usr/lib", &meta(0o750)).unwrap();
    let link = sos_store::rootfs::FileSpec {
        meta: meta(0o777),
        kind: sos_store::rootfs::SpecKind::Symlink {
            target: b"/usr/lib".to_vec(),
        },
    };
    tree.insert("lib", link).unwrap();
    let root = tree.finish(&lab.store).unwrap();
    let mount = |inside: &str, outside: PathBuf| StepMount {
        inside: PathBuf::from(inside),
        outside,
    };
    let mut plan = lab.plan(
        root,
        "busybox cat /lib/sub/f /new/file /etc/a /tmp/in/f /new/dir/f; echo
         busybox stat -c '%a %u %Y' /usr/lib; echo x 2>/dev/null >/new/dir/f || echo refused; echo y >/usr/lib/mine",
    );
    plan.mounts = vec![
        mount("/lib/sub", outside.clone()),
        mount("/new/file", outside.join("f")),
        mount("/new/dir", outside.clone()),
        mount("/etc/a", outside.join("f")),
        mount("/tmp/in", outside.clone()),
    ];
    let (outcome, log) = lab.run(&plan);
    assert_eq!(
        (outcome.exit, log.as_str()),
        (
            Exit::Code(0),
            "shownshownshownshownshown\n750 0 1000000\nrefused\n"
        )
    );
    let before = lab.list(&root);
    let after = lab.list(&outcome.root.unwrap());
    let added: Vec<&String> = after.iter().filter(|l| !before.contains(l)).collect();
    assert_eq!(
        added,
        [
            &format!("usr/lib 750 0:0 {EPOCH} dir"),
            &format!("usr/lib/mine 644 0:0 {EPOCH} file 2")
        ]
    );
    // Mount points alone change nothing.
    plan.set_script(&["/bin/sh", "-eu"], b"busybox true");
    assert_eq!(lab.run(&plan).0.root, Some(root));
}

fn opaque() {
    let lab = Lab::new();
    let (root, _) = lab.step(
        lab.base,
        "busybox rm -r /etc; busybox mkdir /etc; echo n >/etc/n",
    );
    let names = lab.load(&root).list("etc").unwrap();
    assert_eq!(names, [b"n".to_vec()]);
    let (root, _) = lab.step(lab.base, "busybox rm -r /etc; echo file >/etc");
    assert_eq!(lab.load(&root).read_file("etc").unwrap(), b"file\n");
    let (root, _) = lab.step(root, "busybox rm /etc; busybox mkdir -p /etc/x/y");
    assert_eq!(lab.load(&root).list("etc").unwrap(), [b"x".to_vec()]);
}

fn trees() {
    let lab = Lab::new();
    let to = lab.dir.join("result");
    let mut plan = lab.plan(
        lab.base,
        "echo $out; busybox mkdir $out; busybox mkdir $out/d; echo x >$out/d/f; busybox chown -R 55:66 $out; busybox chmod 4000 $out/d/f; busybox chmod 0 $out/d",
    );
    plan.output = StepOutput::Tree(to.clone());
    let (outcome, log) = lab.run(&plan);
    assert_eq!(
        (outcome.exit, log.as_str()),
        (Exit::Code(0), "/run/sos/out\n")
    );
    assert!(outcome.root.is_none());
    // Readable and removable without any namespace.
    assert_eq!(std::fs::read_to_string(to.join("d/f")).unwrap(), "x\n");
    std::fs::remove_dir_all(&to).unwrap();
    // A user of the step may make it, and it may be a file; a step that makes none leaves none.
    let mut plan = lab.plan(lab.base, "echo one >$out");
    plan.user = (33, 33);
    plan.output = StepOutput::Tree(to.clone());
    assert_eq!(lab.run(&plan).0.exit, Exit::Code(0));
    assert_eq!(std::fs::read_to_string(&to).unwrap(), "one\n");
    std::fs::remove_file(&to).unwrap();
    plan.set_script(&["/bin/sh"], b":");
    lab.run(&plan);
    assert!(!to.exists());
}

fn inside() {
    let lab = Lab::new();
    let (_, log) = lab.step(
        lab.base,
        "busybox id; busybox hostname; busybox env | busybox grep -v -e SHLVL -e PWD | busybox sort; echo /sys/* /dev/pts/*
         busybox ls /dev; busybox cat /proc/sys/kernel/ostype; echo x 2>/dev/null >/proc/sys/kernel/domainname || echo refused
         busybox mount -t tmpfs none /etc 2>/dev/null || echo refused; busybox umount /proc/sys 2>/dev/null || echo refused
         busybox mknod /etc/dev c 1 3 2>/dev/null || echo refused; busybox sync; busybox dd if=/dev/zero of=/etc/s bs=1 count=1 conv=fsync 2>/dev/null && echo synced
         busybox grep -c . /proc/mounts >/dev/null; busybox stat -c %a /tmp /run; busybox cat /proc/self/uid_map | busybox tr -s ' ' | busybox cut -d' ' -f2 | busybox head -1
         busybox su -s /bin/sh nobody -c 'busybox id -u' 2>/dev/null || echo no su; busybox cat /proc/self/personality",
    );
    let expect = format!(
        "uid=0 gid=0 groups=0\nlocalhost\nHOME=/root\nLC_ALL=C.UTF-8\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nSOURCE_DATE_EPOCH={EPOCH}\nTZ=UTC\n/sys/* /dev/pts/ptmx
fd\nfull\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\nLinux\nrefused\nrefused\nrefused\nrefused\nsynced\n755\n755\n0\nno su\n00040000\n"
    );
    assert_eq!(
        log,
        expect
            .replace("groups=0\n", "\n")
            .replace("gid=0 \n", "gid=0\n")
    );
}

fn device_nodes() {
    let before = crate::nix::nodes_of_the_machine();
    let lab = Lab::new();
    let (_, log) = lab.step(lab.base, crate::nix::SPOIL);
    assert_eq!(log, crate::nix::SPOILED);
    assert_eq!(crate::nix::nodes_of_the_machine(), before);
}

fn users() {
    let lab = Lab::new();
    let mut plan = lab.plan(lab.base, "busybox id -u; busybox id -g; busybox touch /etc/x 2>/dev/null || echo refused; busybox cat /proc/self/status | busybox grep CapEff | busybox cut -f2");
    plan.user = (65_535, 1234);
    let (outcome, log) = lab.run(&plan);
    assert_eq!(
        (outcome.exit, log.as_str()),
        (Exit::Code(0), "65535\n1234\nrefused\n0000000000000000\n")
    );
}

fn idle_trees() {
    let lab = Lab::new();
    let (changed, _) = lab.step(
        lab.base,
        "echo x >/etc/x; busybox chown 33:44 /etc/x; busybox chmod 0 /etc/x",
    );
    let script =
        "busybox rm -rf /etc /var; for n in 1 2 3 4 5 6 7 8 9; do busybox cp -r /bin /b$n; done";
    let (other, _) = lab.step(changed, script);
    lab.step(other, ":");
    let slots = || {
        let names = std::fs::read_dir(lab.store.work_dir()).unwrap();
        let mut names: Vec<String> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let before = slots();
    assert!(before.len() >= 2, "{before:?}");
    std::fs::create_dir(lab.store.work_dir().join("gone-0")).unwrap();
    let gc = |dry_run| {
        let options = GcOptions {
            dry_run,
            ..GcOptions::default()
        };
        lab.store.gc(options).unwrap()
    };
    // A step that runs keeps its tree.
    let go = lab.dir.join("go");
    let (running, wait) = std::sync::mpsc::channel();
    std::fs::create_dir(&go).unwrap();
    std::thread::scope(|scope| {
        let go = &go;
        let lab = &lab;
        let step = scope.spawn(move || {
            let mut plan = lab.plan(
                other,
                "echo on; while ! busybox test -e /go/on; do busybox sleep 0.05; done",
            );
            plan.mounts = vec![StepMount {
                inside: PathBuf::from("/go"),
                outside: go.clone(),
            }];
            let mut log = |_: &[u8]| running.send(()).unwrap();
            run_step(&lab.store, &plan, &mut log, &Control::default()).unwrap()
        });
        wait.recv().unwrap();
        let report = gc(false);
        assert_eq!(report.problems, [""; 0]);
        std::fs::write(go.join("on"), "").unwrap();
        assert!(step.join().unwrap().exit.success());
        assert_eq!(slots().len(), 2, "{:?}", slots());
    });
    let planned = gc(true);
    assert_eq!(slots().len(), 2);
    let done = gc(false);
    assert_eq!(done.problems, [""; 0]);
    assert_eq!(slots(), ["lock"]);
    assert!(done.freed_bytes >= 1 << 20, "{done:?}");
    assert_eq!(planned.freed_bytes, done.freed_bytes);
    // Made anew when it is needed again.
    assert_eq!(lab.step(other, ":").0, other);
}

fn trees_move() {
    let lab = Lab::new();
    let mut roots = vec![lab.base];
    for n in 0..8 {
        let last = *roots.last().unwrap();
        let script = format!(
            "echo {n} >/etc/n{n}; busybox rm -f /etc/n{}; busybox chmod 70{n} /home; busybox rm -rf /var/{n}; busybox mkdir /var/d; busybox mv /var/d /var/k{n}",
            n - 2
        );
        roots.push(lab.step(last, &script).0);
    }
    assert!(std::fs::read_dir(lab.store.work_dir()).unwrap().count() <= 5);
    // Wherever a tree comes from, it says the same as a fresh one.
    let probe =
        "busybox find /etc /home /var -exec busybox stat -c '%n %a %u %Y %s' {} + | busybox sort";
    let seen: Vec<String> = roots.iter().map(|r| lab.step(*r, probe).1).collect();
    reset_work_trees(&lab.store, &Control::default()).unwrap();
    for (root, seen) in roots.iter().zip(&seen).rev().step_by(3) {
        assert_eq!(&lab.step(*root, probe).1, seen);
    }
}

/// The upper layers that are kept beside trees.
fn kept(lab: &Lab) -> Vec<PathBuf> {
    let slots = std::fs::read_dir(lab.store.work_dir()).unwrap();
    let all = slots.flatten().map(|slot| slot.path());
    let mut found = Vec::new();
    for slot in all.filter(|path| path.is_dir()) {
        let names = std::fs::read_dir(slot).unwrap().flatten();
        let paths = names.map(|entry| entry.path());
        found.extend(paths.filter(|path| path.to_string_lossy().contains("/next-")));
    }
    found
}

/// All that a program can see of a root, and of which of its files are one.
const PROBE: &str = "busybox find / -xdev -exec busybox stat -c '%n %F %a %u:%g %Y %s %h' {} + | busybox grep -v '^/proc\\|^/dev\\|^/sys\\|^/run\\|^/tmp' | busybox sort; busybox find /etc /srv /var -type f -exec busybox sha256sum {} + | busybox sort; busybox readlink /srv/link";

fn inode(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::symlink_metadata(path).unwrap().ino()
}

fn adopted() {
    let lab = Lab::new();
    let script = "busybox mkdir -p /srv/deep/deeper /srv/void; echo text >/srv/deep/deeper/file
        busybox cp /bin/busybox /srv/deep/tool; busybox chown 33:44 /srv/deep/tool; busybox chmod 4751 /srv/deep/tool
        echo old >/srv/old; busybox touch -d '2001-01-01 01:01:01' /srv/old /srv/void
        echo two >/srv/one; busybox ln /srv/one /srv/deep/two; busybox ln -s deep/two /srv/link; busybox mkfifo /srv/fifo
        : >/srv/empty; busybox chmod 0 /srv/empty
        busybox mv /etc/a /etc/moved; busybox rm /etc/b; echo changed >/etc/c
        busybox rm -r /var; busybox mkdir /var; echo anew >/var/x; busybox chmod 700 /srv/deep";
    let (root, _) = lab.step(lab.base, script);
    let [next] = &kept(&lab)[..] else {
        panic!("{:?}", kept(&lab));
    };
    assert!(next.to_string_lossy().ends_with(&root.to_string()));
    let left = inode(&next.join("srv/old"));
    let tree = next.parent().unwrap().join("tree");
    // The probe changes nothing, so that nothing is kept of it.
    let (same, seen) = lab.step(root, PROBE);
    assert_eq!((same, kept(&lab).len()), (root, 0));
    assert_eq!(inode(&tree.join("srv/old")), left, "it was written again");
    let moved = std::ffi::CString::new(tree.join("etc/moved").to_str().unwrap()).unwrap();
    let mut names = [0_u8; 1024];
    let many = rustix::fs::llistxattr(moved, &mut names[..]).unwrap();
    let names = String::from_utf8_lossy(&names[..many]);
    assert!(!names.contains("overlay"), "{names}");
    for line in ["/etc/moved", "/srv/deep/tool regular file 4751 33:44"] {
        assert!(seen.contains(line), "{line}: {seen}");
    }
    reset_work_trees(&lab.store, &Control::default()).unwrap();
    assert_eq!(lab.step(root, PROBE).1, seen);
}

fn one_root_alone() {
    let lab = Lab::new();
    let (one, _) = lab.step(lab.base, "echo 1 >/srv1; echo 1 >/both");
    let (two, _) = lab.step(lab.base, "echo 2 >/srv2; echo 2 >/both");
    // The last one is kept, and is no use for the other.
    assert!(kept(&lab)[0].to_string_lossy().ends_with(&two.to_string()));
    let look = "busybox cat /srv? /both; busybox ls /";
    let (_, first) = lab.step(one, look);
    assert_eq!(kept(&lab).len(), 0);
    let (_, second) = lab.step(two, look);
    assert!(
        first.starts_with("1\n1\n") && second.starts_with("2\n2\n"),
        "{first}{second}"
    );
    // Files that somebody took away are missed, and the next one begins with an empty tree.
    let (three, _) = lab.step(two, "echo 3 >/srv3; echo 3 >/srv4");
    let [next] = &kept(&lab)[..] else {
        panic!("{:?}", kept(&lab));
    };
    std::fs::remove_file(next.join("srv3")).unwrap();
    let plan = lab.plan(three, look);
    let error = run_step(&lab.store, &plan, &mut |_| {}, &Control::default()).unwrap_err();
    assert!(format!("{error}").contains("srv3"), "{error}");
    let (_, log) = lab.step(three, look);
    assert!(log.starts_with("2\n3\n3\n2\n"), "{log}");
    assert_eq!(kept(&lab).len(), 0);
}

fn metadata_alone() {
    let lab = Lab::new();
    // No file that is changed waits for the disk: the store is synchronised as a whole.
    let (_, log) = lab.step(lab.base, "busybox grep ' / overlay' /proc/mounts");
    assert!(log.contains("volatile"), "{log}");
    let files = ["a", "b", "c"].map(|name| {
        let tree = lab.store.work_dir().join("0/tree/etc");
        tree.join(name)
    });
    let before = files.each_ref().map(|file| inode(file));
    let (root, _) = lab.step(
        lab.base,
        "cd /etc; busybox chmod 4751 a; busybox chown 33:44 b; busybox touch -d @7 c; busybox mkdir -p /srv /var; busybox ln -s a /srv/link",
    );
    let (_, seen) = lab.step(root, PROBE);
    assert_eq!(files.each_ref().map(|file| inode(file)), before);
    for line in ["/etc/a regular file 4751", "33:44"] {
        assert!(seen.contains(line), "{line}: {seen}");
    }
    reset_work_trees(&lab.store, &Control::default()).unwrap();
    assert_eq!(lab.step(root, PROBE).1, seen);
}

fn damaged() {
    let lab = Lab::new();
    lab.step(lab.base, "busybox true");
    let work = lab.store.work_dir();
    let state = std::fs::read_to_string(work.join("0/state")).unwrap();
    let map = state.strip_prefix(&format!("ready-2 {} ", lab.base));
    // What `kill -9` in the middle of a change leaves.
    let changing = format!("changing {} {}", lab.base, map.expect("the id map"));
    std::fs::write(work.join("0/state"), changing).unwrap();
    std::fs::remove_file(work.join("0/tree/etc/a")).unwrap();
    let (_, log) = lab.step(lab.base, "busybox cat /etc/a");
    assert_eq!(log, "a");
    assert!(!work.join("1").exists());
}

fn other_ids() {
    let lab = Lab::new();
    lab.step(lab.base, "busybox true");
    let work = lab.store.work_dir();
    // As somebody with other subordinate ids has made it, whose files cannot be moved or removed here.
    let state = std::fs::read_to_string(work.join("0/state")).unwrap();
    let map = state.trim_end().rsplit(' ').next().unwrap();
    for kind in ["ready-2", "changing"] {
        let of_others = format!("{kind} {} {}\n", lab.base, map.replace(['0', '1'], "2"));
        assert_ne!(of_others, state);
        std::fs::write(work.join("0/state"), &of_others).unwrap();
        std::fs::write(work.join("0/tree/etc/a"), "of others").unwrap();
        let (_, log) = lab.step(lab.base, "busybox cat /etc/a");
        assert_eq!(log, "a");
        // Nor is it the one that moves, however near it is.
        lab.step(lab.base, "echo >/etc/new");
        let text = |path: &str| std::fs::read_to_string(work.join(path)).unwrap();
        assert_eq!(text("0/state"), of_others);
        assert_eq!(text("0/tree/etc/a"), "of others");
    }
}

fn failures() {
    let lab = Lab::new();
    let (outcome, log) = lab.run(&lab.plan(lab.base, "echo no; exit 3"));
    assert_eq!(
        (outcome.exit, outcome.root, log.as_str()),
        (Exit::Code(3), None, "no\n")
    );
    // Nothing of it is left but the cached tree.
    assert_eq!(lab.unfinished(), 0);
    // Files of other ids are no obstacle.
    let dir = lab.dir.join("foreign");
    std::fs::create_dir_all(dir.join("a/b")).unwrap();
    remove_tree(&dir).unwrap();
    assert!(!dir.exists());
    remove_tree(Path::new("/nonexistent/sos")).unwrap();
}

fn empty() {
    let lab = Lab::new();
    let mut plan = lab.plan(lab.base, "");
    plan.rootfs = None;
    plan.argv = vec![b"/tool".to_vec(), b"mkdir".to_vec(), b"/made".to_vec()];
    plan.script = None;
    plan.mounts = vec![StepMount {
        inside: PathBuf::from("/tool"),
        outside: crate::support::busybox(),
    }];
    // Busybox goes by its name.
    plan.argv[0] = b"/tool".to_vec();
    let (outcome, log) = lab.run(&plan);
    assert_eq!(outcome.exit, Exit::Code(127), "{log}");
    plan.mounts[0].inside = PathBuf::from("/mkdir");
    plan.argv = vec![b"/mkdir".to_vec(), b"/made".to_vec()];
    let (outcome, log) = lab.run(&plan);
    assert_eq!(outcome.exit, Exit::Code(0), "{log}");
    assert_eq!(
        lab.list(&outcome.root.unwrap()),
        [format!("made 755 0:0 {EPOCH} dir")]
    );
}

fn probed() {
    let lab = Lab::new();
    let checks = sos_engine::probe::run(&lab.dir.join("not/yet/there"), &Control::default());
    for check in &checks {
        assert_ne!(check.health, sos_engine::probe::Health::Bad, "{check:?}");
    }
    let names: Vec<&str> = checks.iter().map(|c| c.name).collect();
    for name in ["user-namespaces", "overlayfs", "seccomp", "free-space"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let left = std::fs::read_dir(&lab.dir)
        .unwrap()
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with(".sos-probe"))
        .count();
    assert_eq!(left, 0);
}

fn watched() {
    let lab = Lab::new();
    let script = "cd /etc
        for f in /steps/b/run ../steps/c ./b; do test -e $f || :; done
        busybox cat /steps/d/x 2>/dev/null || :
        (cd / && exec steps/e 2>/dev/null) || :
        busybox mkdir /steps; echo made > /steps/own; busybox cat /steps/own
        busybox mknod /node c 1 3 2>/dev/null || busybox mkfifo /pipe
        exit 3";
    let mut spec = lab.plan(lab.base, script);
    let (outcome, log) = lab.run(&spec);
    assert_eq!(outcome.exit, Exit::Code(3), "{log}");
    assert_eq!(outcome.watched, Watched::default());
    spec.watch = vec![PathBuf::from("/steps")];
    let (outcome, same) = lab.run(&spec);
    assert_eq!(outcome.exit, Exit::Code(3), "{same}");
    assert_eq!(log, same);
    assert_eq!(
        outcome.watched,
        Watched {
            missing: ["/steps/b/run", "/steps/c", "/steps/d/x", "/steps/e"]
                .map(str::to_owned)
                .into(),
            devices: vec!["/node".to_owned()],
        }
    );
    // Who succeeds gives the same root with and without somebody watching.
    let script = "test -e /steps/x || echo no > /etc/b";
    let mut spec = lab.plan(lab.base, script);
    let (unwatched, _) = lab.run(&spec);
    spec.watch = vec![PathBuf::from("/steps")];
    let (outcome, _) = lab.run(&spec);
    assert!(outcome.root.is_some());
    assert_eq!(outcome.root, unwatched.root);
    assert_eq!(outcome.watched.missing, ["/steps/x"]);
    // A program that is not there is said to be so by whoever watches, too.
    spec.argv = vec![b"/nonexistent".to_vec()];
    let failed = run_step(&lab.store, &spec, &mut |_| {}, &Control::default());
    assert!(matches!(failed, Err(SandboxError::Exec { .. })));
}
