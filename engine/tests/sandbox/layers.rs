//! Files that are no part of the root that a step begins with: its own directory below, and what it is lent.

use std::path::PathBuf;

use sos_engine::sandbox::{Control, StepMount, run_step};
use sos_formats::hash::Blake3;

use crate::support::{EPOCH, Lab};

pub(crate) const TESTS: &[(&str, fn())] = &[
    (
        "layers::what_lies_below_the_root_counts_when_it_is_changed",
        below,
    ),
    ("layers::copies_are_the_step_s_own_and_in_no_root", copies),
    (
        "layers::copies_are_there_whatever_the_root_has",
        copies_above,
    ),
    (
        "layers::copies_are_there_whatever_leads_to_them",
        copies_behind,
    ),
    (
        "layers::what_is_in_the_way_of_a_copy_is_told",
        copies_blocked,
    ),
    ("layers::a_copy_of_a_directory_is_whole", whole_copy),
    ("layers::times_of_all_files_can_be_set", times_of_all),
    ("layers::no_time_but_the_epoch_is_left", timeless),
];

/// Files of the machine in a directory, to be shown to a step.
fn files_of(lab: &Lab, files: &[(&str, &str)]) -> PathBuf {
    let dir = lab.dir.join("shown");
    for (name, text) in files {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

fn shown(inside: &str, outside: PathBuf) -> StepMount {
    StepMount {
        inside: inside.into(),
        outside,
    }
}

/// What a root has that another one has not, without what a program of busybox is.
fn added(lab: &Lab, before: &Blake3, after: &Blake3) -> Vec<String> {
    let old = lab.list(before);
    let new = lab.list(after).into_iter();
    new.filter(|line| !old.contains(line)).collect()
}

fn below() {
    let lab = Lab::new();
    let dir = files_of(
        &lab,
        &[("a/same", "1"), ("a/other", "2"), ("b/deep/x", "3")],
    );
    let run = |script: &str| {
        let mut spec = lab.plan(lab.base, script);
        spec.layers = vec![
            shown("/own/a", dir.join("a")),
            shown("/own/b", dir.join("b")),
        ];
        let (outcome, log) = lab.run(&spec);
        assert!(outcome.exit.success(), "{log}");
        outcome.root.unwrap()
    };
    // Copied up, and as it was.
    let touched = run("busybox find /own -exec busybox touch -h {} +");
    assert_eq!(added(&lab, &lab.base, &touched), [""; 0]);
    let removed = run("busybox rm -r /own/b /own/a/same");
    assert_eq!(added(&lab, &lab.base, &removed), [""; 0]);
    let changed =
        run("busybox touch /own/a/same; echo more >>/own/a/other; busybox mkdir /own/b/new");
    let e = EPOCH;
    assert_eq!(
        added(&lab, &lab.base, &changed),
        [
            format!("own 755 0:0 {e} dir"),
            format!("own/a 755 0:0 {e} dir"),
            format!("own/a/other 644 0:0 {e} file 6"),
            format!("own/b 755 0:0 {e} dir"),
            format!("own/b/new 755 0:0 {e} dir"),
        ]
    );
    let closed = run(
        "busybox chmod 700 /own/b; busybox chmod 600 /own/a/same; busybox touch -d @7 /own/a/other",
    );
    assert_eq!(
        added(&lab, &lab.base, &closed),
        [
            format!("own 755 0:0 {e} dir"),
            format!("own/a 755 0:0 {e} dir"),
            "own/a/other 644 0:0 7 file 1".to_owned(),
            format!("own/a/same 600 0:0 {e} file 1"),
            format!("own/b 700 0:0 {e} dir"),
        ]
    );
    // Made anew, and empty: that is a change of what was below it.
    let anew = run("busybox rm -r /own/b; busybox mkdir /own/b");
    let anew = added(&lab, &lab.base, &anew);
    assert_eq!(anew.last(), Some(&format!("own/b 755 0:0 {e} dir")));
}

fn copies() {
    let lab = Lab::new();
    let dir = files_of(
        &lab,
        &[
            ("one", "1"),
            ("two", "22"),
            ("three", "333"),
            ("four", "4444"),
        ],
    );
    let mut spec = lab.plan(
        lab.base,
        "cd /lent; busybox chmod 600 one; busybox rm two; busybox mv three /etc/moved; echo x >>one
         busybox ln four /etc/linked; busybox mkdir two; echo x >two/x; echo new >own; busybox ls",
    );
    spec.copies = ["one", "two", "three", "four"]
        .iter()
        .map(|name| shown(&format!("/lent/{name}"), dir.join(name)))
        .collect();
    let (outcome, log) = lab.run(&spec);
    assert!(outcome.exit.success(), "{log}");
    assert_eq!(log, "four\none\nown\ntwo\n");
    let root = outcome.root.unwrap();
    let e = EPOCH;
    assert_eq!(
        added(&lab, &lab.base, &root),
        [
            format!("etc 755 0:0 {e} dir"),
            format!("etc/linked 644 0:0 {e} file 4"),
            format!("etc/moved 644 0:0 {e} file 3"),
            format!("lent 755 0:0 {e} dir"),
            format!("lent/own 644 0:0 {e} file 4"),
        ]
    );
    // The next one has them again, and those on the machine are as they were.
    spec.rootfs = Some(root);
    spec.set_script(
        &["/bin/sh", "-eu"],
        b"cd /lent; busybox cat one two three four; busybox chmod 600 *; busybox rm one",
    );
    let (outcome, log) = lab.run(&spec);
    assert_eq!(log, "1223334444");
    let after = outcome.root.unwrap();
    let kept = added(&lab, &root, &after);
    assert_eq!(kept, [format!("lent/own 600 0:0 {e} file 4")]);
    for (name, text) in [("one", "1"), ("two", "22")] {
        assert_eq!(std::fs::read_to_string(dir.join(name)).unwrap(), text);
    }
    // Of copies alone nothing is left, not even the directory.
    spec.rootfs = Some(lab.base);
    spec.set_script(
        &["/bin/sh", "-eu"],
        b"busybox rm /lent/*; busybox touch /lent",
    );
    let (outcome, _) = lab.run(&spec);
    assert_eq!(outcome.root, Some(lab.base));
}

/// A root in which these commands have run.
fn after(lab: &Lab, script: &str) -> Blake3 {
    lab.step(lab.base, script).0
}

fn copies_above() {
    let lab = Lab::new();
    let dir = files_of(&lab, &[("x", "good"), ("y", "good too")]);
    // Another file, a link elsewhere, a directory: in a directory with an owner, a mode and a time of its own.
    for bad in [
        "echo bad >/lent/x",
        "busybox ln -s /etc/a /lent/x",
        "busybox mkdir -p /lent/x/deep; echo bad >/lent/x/deep/f",
        "busybox ln /etc/b /lent/x",
    ] {
        let make = format!(
            "busybox mkdir /lent; {bad}; echo own >/lent/own; busybox chown 33:44 /lent; busybox chmod 751 /lent; busybox touch -d @9 /lent"
        );
        let root = after(&lab, &make);
        let run = |script: &str| {
            let mut spec = lab.plan(root, script);
            spec.copies = ["x", "y"]
                .map(|name| shown(&format!("/lent/{name}"), dir.join(name)))
                .into();
            let (outcome, log) = lab.run(&spec);
            assert!(outcome.exit.success(), "{bad}: {log}");
            (outcome.root.unwrap(), log)
        };
        let (same, log) =
            run("busybox stat -c '%a %u:%g %Y' /lent; busybox cat /lent/x /lent/y /lent/own");
        assert_eq!(log, "751 33:44 9\ngoodgood tooown\n", "{bad}");
        assert_eq!(same, root, "{bad}");
        // Whatever becomes of it, the root keeps what it has, and the next one has the copy again.
        for what in [
            "echo more >>/lent/x; busybox chmod 600 /lent/x",
            "busybox rm /lent/x",
            "busybox rm /lent/x; busybox mkdir /lent/x; echo >/lent/x/f",
        ] {
            let (same, _) = run(&format!("{what}; busybox touch -d @9 /lent"));
            assert_eq!(same, root, "{bad}: {what}");
        }
        let (moved, _) = run("busybox mv /lent/x /etc/x; busybox touch -d @9 /lent");
        let e = EPOCH;
        assert_eq!(
            added(&lab, &root, &moved),
            [
                format!("etc 755 0:0 {e} dir"),
                format!("etc/x 644 0:0 {e} file 4"),
            ],
            "{bad}"
        );
    }
}

fn copies_behind() {
    let lab = Lab::new();
    let dir = files_of(&lab, &[("x", "good")]);
    let e = EPOCH;
    let real = |mode: &str| format!("real {mode} 0:0 {e} dir");
    let deep = [
        format!("real 755 0:0 {e} dir"),
        format!("real/deep 711 0:0 {e} dir"),
        format!("real/deep/own 644 0:0 {e} file 1"),
    ];
    // The directory is a link to another one, to one that is missing, to one in a directory that is missing.
    for (bad, left) in [
        (
            "busybox mkdir /real; echo bad >/real/x; busybox ln -s real /lent",
            vec![real("711"), format!("real/own 644 0:0 {e} file 1")],
        ),
        (
            "busybox mkdir /real; busybox ln -s real /lent",
            vec![real("711"), format!("real/own 644 0:0 {e} file 1")],
        ),
        (
            "busybox ln -s real /lent",
            vec![real("711"), format!("real/own 644 0:0 {e} file 1")],
        ),
        ("busybox ln -s /real/deep /lent", deep.to_vec()),
        (
            "busybox ln -s far /lent; busybox ln -s /real/deep /far",
            deep.to_vec(),
        ),
    ] {
        let root = after(&lab, bad);
        let run = |script: &str| {
            let mut spec = lab.plan(root, script);
            spec.copies = vec![shown("/lent/x", dir.join("x"))];
            let (outcome, log) = lab.run(&spec);
            assert!(outcome.exit.success(), "{bad}: {log}");
            assert_eq!(log, "good", "{bad}");
            outcome.root.unwrap()
        };
        assert_eq!(run("busybox cat /lent/x"), root, "{bad}");
        let changed = run("busybox cat /lent/x; echo >>/lent/x");
        assert_eq!(added(&lab, &root, &changed), [""; 0], "{bad}");
        // The directory itself has another time where a file of it is removed.
        let removed = added(&lab, &root, &run("busybox cat /lent/x; busybox rm /lent/x"));
        assert!(
            removed.iter().all(|line| *line == real("755")),
            "{bad}: {removed:?}"
        );
        // What the step makes there is where it was led to, and the links stay.
        let kept = run(
            "busybox cat /lent/x; busybox rm /lent/x; echo >/lent/own; busybox chmod 711 /lent/",
        );
        assert_eq!(added(&lab, &root, &kept), left, "{bad}");
        let links = |root: &Blake3| -> Vec<String> {
            let all = lab.list(root).into_iter();
            all.filter(|line| line.starts_with("lent ") || line.starts_with("far "))
                .collect()
        };
        assert_eq!(links(&kept), links(&root), "{bad}");
    }
}

fn copies_blocked() {
    let lab = Lab::new();
    let dir = files_of(&lab, &[("x", "good")]);
    for (bad, why) in [
        (
            "echo file >/lent",
            "`/lent/x` cannot be shown to the step: `/lent` of its root is not a directory",
        ),
        (
            "echo file >/file; busybox ln -s /file/deep /lent",
            "`/lent/x` cannot be shown to the step: `/file` of its root is not a directory",
        ),
        (
            "busybox ln -s lent /lent",
            "`/lent/x` cannot be shown to the step: `/lent` of its root is a link that leads in a circle, or too far",
        ),
        (
            "busybox ln -s gone/../etc /lent",
            "`/lent/x` cannot be shown to the step: `/gone` of its root is missing, and a link leads over it",
        ),
        (
            "busybox ln -s dev/shm/lent /lent",
            "`/lent/x` cannot be shown to the step: it would lie in `/dev`, which is covered while a step runs",
        ),
    ] {
        let mut spec = lab.plan(after(&lab, bad), "busybox cat /lent/x");
        spec.copies = vec![shown("/lent/x", dir.join("x"))];
        let error = run_step(&lab.store, &spec, &mut |_| {}, &Control::default());
        let diagnostic = error.expect_err(bad).into_diagnostic();
        assert_eq!(diagnostic.message, why);
        assert_eq!(diagnostic.code, "build-place-blocked");
    }
    // What a step is only shown is in the same way, unless it is in the place of the file itself.
    let root = after(&lab, "echo file >/shown; busybox mkdir /dir");
    let mounted = |inside: &str| {
        let mut spec = lab.plan(root, &format!("busybox cat {inside}; echo >/dir/new"));
        spec.mounts = vec![shown(inside, dir.join("x"))];
        run_step(&lab.store, &spec, &mut |_| {}, &Control::default())
    };
    let blocked = mounted("/shown/x").expect_err("a file is in the way");
    assert_eq!(
        blocked.to_string(),
        "`/shown/x` cannot be shown to the step: `/shown` of its root is not a directory"
    );
    let covered = mounted("/shown").unwrap().root.unwrap();
    assert!(
        lab.list(&covered)
            .contains(&format!("shown 644 0:0 {EPOCH} file 5"))
    );
}

fn whole_copy() {
    let lab = Lab::new();
    let dir = files_of(&lab, &[("x/good", "1"), ("x/deep/good", "2")]);
    let root = after(
        &lab,
        "busybox mkdir -p /lent/x/deep; echo >/lent/x/deep/bad; echo >/lent/x/bad",
    );
    let mut spec = lab.plan(
        root,
        "cd /lent; busybox find x | busybox sort; busybox rm -r x/deep; echo >x/new",
    );
    spec.copies = vec![shown("/lent/x", dir.join("x"))];
    let (outcome, log) = lab.run(&spec);
    assert_eq!(log, "x\nx/deep\nx/deep/good\nx/good\n");
    assert_eq!(outcome.root, Some(root));
}

fn times_of_all() {
    let lab = Lab::new();
    let dir = files_of(&lab, &[("a/x", "1"), ("lent", "2")]);
    let mut spec = lab.plan(
        lab.base,
        "busybox find / -xdev -exec busybox touch -h -d @0 {} +
         busybox touch /sys/x 2>/dev/null || echo refused; busybox mkdir /sys/x 2>/dev/null || echo refused",
    );
    spec.layers = vec![shown("/own/a", dir.join("a"))];
    spec.copies = vec![shown("/lent/x", dir.join("lent"))];
    spec.epoch = 0;
    let (outcome, log) = lab.run(&spec);
    assert!(outcome.exit.success(), "{log}");
    assert_eq!(log, "refused\nrefused\n");
    let list = lab.list(&outcome.root.unwrap());
    assert!(
        list.iter().all(|line| line.contains(" 0:0 0 ")),
        "{list:#?}"
    );
    // It is the same root but for the times: nothing that lay below it, and no mount point.
    let names = |list: Vec<String>| -> Vec<String> {
        let name = |line: &String| line.split(' ').next().unwrap().to_owned();
        list.iter().map(name).collect()
    };
    assert_eq!(names(list), names(lab.list(&lab.base)));
}

fn timeless() {
    let lab = Lab::new();
    let dir = files_of(&lab, &[("a/x", "1")]);
    let root = after(&lab, "echo >/etc/old; busybox touch -d @77 /etc/old");
    let run = |timeless: bool, script: &str| {
        let mut spec = lab.plan(root, script);
        spec.layers = vec![shown("/own/a", dir.join("a"))];
        spec.timeless = timeless;
        let (outcome, log) = lab.run(&spec);
        assert!(outcome.exit.success(), "{log}");
        added(&lab, &root, &outcome.root.unwrap())
    };
    let e = EPOCH;
    let script = "echo >/etc/past; echo >/etc/before; busybox touch -d @50 /etc/past; busybox touch -d @-5 /etc/before /own/a/x
         busybox chmod 600 /etc/old";
    let settled = [
        format!("etc/before 644 0:0 {e} file 1"),
        // Nobody has set it.
        "etc/old 600 0:0 77 file 1".to_owned(),
        format!("etc/past 644 0:0 {e} file 1"),
    ];
    // And what lies below the root is as it was.
    assert_eq!(run(true, script), settled);
    let with = run(false, script);
    for kept in [
        "etc/before 644 0:0 -5 file 1",
        "etc/past 644 0:0 50 file 1",
        "own/a/x 644 0:0 -5 file 1",
    ] {
        assert!(with.iter().any(|line| line == kept), "{kept}: {with:?}");
    }
}
