//! Builds in the Nix shape.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sos_engine::Cancel;
use sos_engine::sandbox::{Control, Exit, Input, PreparedSets, SandboxError};

use crate::support::{Lab, nix_plan};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("nix::identity_and_environment", identity_and_environment),
    (
        "nix::inputs_are_read_only_and_outputs_appear",
        inputs_and_outputs,
    ),
    ("nix::no_setuid_bits", no_setuid_bits),
    ("nix::no_network_and_no_machine", no_network_and_no_machine),
    ("nix::ends", ends),
    ("nix::limits", limits),
    ("nix::cancel", cancel),
    ("nix::a_missing_program_is_told", missing_program),
    ("nix::background_processes_do_not_outlive_it", background),
    ("nix::network_namespaces_are_reused_only_when_clean", reuse),
    ("nix::a_closure_of_500_paths", many_inputs),
    ("nix::prepared_inputs", prepared_inputs),
    ("nix::device_nodes_are_those_of_the_machine", device_nodes),
];

#[track_caller]
fn check(script: &str, exit: Exit, log: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (outcome, said) = nix_plan(dir.path(), script)
        .run(&Control::default())
        .unwrap();
    assert_eq!((outcome.exit, said.as_str()), (exit, log));
    assert_eq!(outcome.log_bytes, log.len() as u64);
}

fn identity_and_environment() {
    let ok = Exit::Code(0);
    check("id -u; id -g", ok, "1000\n100\n");
    check(
        "umask; pwd; hostname; ulimit -c",
        ok,
        "0022\n/build\nlocalhost\n0\n",
    );
    check(
        "env | grep -v -e SHLVL -e OLDPWD | sort",
        ok,
        "HOME=/homeless-shelter\nNIX_BUILD_CORES=1\nNIX_BUILD_TOP=/build\nNIX_LOG_FD=2\nNIX_STORE=/nix/store\nPATH=/path-not-set\nPWD=/build\nTEMP=/build\nTEMPDIR=/build\nTERM=xterm-256color\nTMP=/build\nTMPDIR=/build\n",
    );
    check("ls /", ok, "bin\nbuild\ndev\netc\nnix\nproc\ntmp\n");
    check("cd /proc/self/fd && echo *", ok, "0 1 2 3\n");
    check("cat /proc/self/personality", ok, "00040000\n");
    check(
        "grep -e ^CapEff -e ^CapBnd -e ^NoNew /proc/self/status | cut -f2",
        ok,
        "0000000000000000\n0000000000000000\n1\n",
    );
    check("cat <&0; echo end", ok, "end\n");
}

fn inputs_and_outputs() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("tree")).unwrap();
    std::fs::write(at("tree/f"), "in the tree").unwrap();
    std::fs::write(at("file"), "a file").unwrap();
    std::os::unix::fs::symlink("/nix/store/t/f", at("link")).unwrap();
    let mut plan = nix_plan(
        dir.path(),
        "cd /nix/store; cat t/f f l; echo; echo x 2>/dev/null >t/f || echo refused; echo y 2>/dev/null >f || echo refused
         rm -rf t 2>/dev/null || echo refused; echo new >out; mkdir dir; ln -s t dir/link; ls",
    );
    let sosshape = |base: &str, name: &str| Input {
        base: base.to_owned(),
        physical: at(name),
    };
    if let sos_engine::sandbox::Shape::Nix { inputs, .. } = &mut plan.spec.shape {
        *inputs = vec![
            sosshape("t", "tree"),
            sosshape("f", "file"),
            sosshape("l", "link"),
        ];
    }
    let (outcome, log) = plan.run(&Control::default()).unwrap();
    assert_eq!(
        (outcome.exit, log.as_str()),
        (
            Exit::Code(0),
            "in the treea filein the tree\nrefused\nrefused\nrefused\ndir\nf\nl\nout\nt\n"
        )
    );
    assert_eq!(
        std::fs::read_to_string(plan.outputs.join("out")).unwrap(),
        "new\n"
    );
    assert_eq!(
        std::fs::read_link(plan.outputs.join("dir/link")).unwrap(),
        Path::new("t")
    );
    assert_eq!(
        std::fs::read_to_string(at("tree/f")).unwrap(),
        "in the tree"
    );
}

fn no_setuid_bits() {
    check(
        "touch f; chmod 755 f; chmod 4755 f 2>&1; chmod g+s f 2>&1; stat -c %a f",
        Exit::Code(0),
        "chmod: f: Operation not permitted\nchmod: f: Operation not permitted\n755\n",
    );
}

fn no_network_and_no_machine() {
    let ok = Exit::Code(0);
    check("cat /proc/net/dev | sed 1,2d | cut -d: -f1", ok, "    lo\n");
    check("ip addr show lo 2>/dev/null | grep -c 127.0.0.1", ok, "1\n");
    check(
        // The shell itself counts: programs of a pipe may not have begun, or have ended, when /proc is read.
        "ls /home /usr 2>/dev/null; cd /proc; set -- [0-9]*; echo $#",
        ok,
        "2\n",
    );
    check(
        "echo core 2>/dev/null >/proc/sys/kernel/core_pattern || echo refused; kill -9 1; echo alive",
        ok,
        "refused\nalive\n",
    );
    check(
        "cat /proc/1/environ 2>/dev/null || echo hidden; cat /proc/1/fd/3 2>/dev/null || echo hidden; echo x 2>/dev/null >/proc/1/mem || echo hidden",
        ok,
        "hidden\nhidden\nhidden\n",
    );
}

fn ends() {
    check("exit 7", Exit::Code(7), "");
    check("kill -TERM $$", Exit::Signal(15), "");
    assert_eq!(Exit::Signal(9).status(), Some(137));
    assert_eq!(Exit::TimedOut.status(), None);
}

fn limits() {
    let dir = tempfile::tempdir().unwrap();
    let plan = nix_plan(dir.path(), "echo start; sleep 100");
    let ms = Duration::from_millis;
    let (outcome, log) = plan
        .run(&Control {
            timeout: Some(ms(300)),
            ..Control::default()
        })
        .unwrap();
    assert_eq!((outcome.exit, log.as_str()), (Exit::TimedOut, "start\n"));

    let dir = tempfile::tempdir().unwrap();
    let plan = nix_plan(
        dir.path(),
        "for i in 1 2 3; do echo $i; sleep 0.2; done; sleep 100",
    );
    let (outcome, log) = plan
        .run(&Control {
            silent_timeout: Some(ms(1500)),
            ..Control::default()
        })
        .unwrap();
    assert_eq!(
        (outcome.exit, log.as_str()),
        (Exit::SilentTooLong, "1\n2\n3\n")
    );

    let dir = tempfile::tempdir().unwrap();
    let plan = nix_plan(dir.path(), "while :; do echo 0123456789; done");
    let (outcome, log) = plan
        .run(&Control {
            max_log_bytes: Some(100_000),
            ..Control::default()
        })
        .unwrap();
    assert_eq!((outcome.exit, log.len()), (Exit::LogTooLong, 100_000));
}

fn cancel() {
    let dir = tempfile::tempdir().unwrap();
    let plan = nix_plan(dir.path(), "echo go; trap '' TERM INT HUP; sleep 100");
    let cancel = Cancel::new();
    let control = Control {
        cancel: cancel.clone(),
        ..Control::default()
    };
    let outcome = sos_engine::sandbox::run(&plan.spec, &mut |_| cancel.cancel(), &control).unwrap();
    assert_eq!(outcome.exit, Exit::Cancelled);
    // Asked for before it begins: nothing is started.
    assert!(matches!(plan.run(&control), Err(SandboxError::Cancelled)));
}

fn missing_program() {
    let dir = tempfile::tempdir().unwrap();
    let mut plan = nix_plan(dir.path(), "");
    plan.spec.program = b"/bin/none".to_vec();
    match plan.run(&Control::default()) {
        Err(SandboxError::Exec { program, source }) => {
            assert_eq!(program, "/bin/none");
            assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
        }
        other => panic!("{other:?}"),
    }
}

fn background() {
    // The sleeper keeps the log open; the run ends all the same, and so does the log.
    let begin = std::time::Instant::now();
    check(
        "sleep 1000 & (setsid sleep 1000 &) ; echo x",
        Exit::Code(0),
        "x\n",
    );
    assert!(begin.elapsed() < Duration::from_secs(100));
}

fn reuse() {
    // Whatever the first run leaves in its network namespace, the second one finds none of it.
    for _ in 0..3 {
        check(
            "cat /proc/net/tcp /proc/net/tcp6 | wc -l; (nc -l -p 8080 </dev/null >/dev/null 2>&1 &)
             n=0; until grep -q :1F90 /proc/net/tcp /proc/net/tcp6 || [ $n = 200 ]; do n=$((n+1)); sleep 0.05; done; echo hi | nc 127.0.0.1 8080; cat /proc/net/tcp /proc/net/tcp6 | wc -l | grep -v '^2$' >/dev/null || echo unused",
            Exit::Code(0),
            "2\n",
        );
    }
}

/// The closure of a large build: every input is there, and nothing else.
fn many_inputs() {
    const COUNT: usize = 500;
    let dir = tempfile::tempdir().unwrap();
    let mut plan = nix_plan(
        dir.path(),
        "cd /nix/store; n=0; for i in *; do read line < $i/f && [ \"$line\" = \"$i\" ] && n=$((n+1)); done; echo $n; echo x 2>/dev/null > input-499/f || echo refused; echo > out",
    );
    let inputs = dir.path().join("inputs");
    let all = (0..COUNT).map(|n| {
        let base = format!("input-{n}");
        let physical = inputs.join(&base);
        std::fs::create_dir_all(&physical).unwrap();
        std::fs::write(physical.join("f"), format!("{base}\n")).unwrap();
        Input { base, physical }
    });
    let all: Vec<Input> = all.collect();
    // In the store, but no input.
    std::fs::create_dir(inputs.join("other")).unwrap();
    if let sos_engine::sandbox::Shape::Nix { inputs, .. } = &mut plan.spec.shape {
        *inputs = all;
    }
    let (outcome, log) = plan.run(&Control::default()).unwrap();
    assert_eq!(
        (outcome.exit, log.as_str()),
        (Exit::Code(0), "500\nrefused\n")
    );
}

/// Runs with many inputs share mounts, and nothing else.
fn prepared_inputs() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = dir.path().join("inputs");
    std::fs::create_dir(&inputs).unwrap();
    for n in 0..120 {
        let place = inputs.join(format!("input-{n}"));
        match n {
            0 => {
                std::fs::write(place, "0\n").unwrap();
            }
            1 => std::os::unix::fs::symlink("input-0", place).unwrap(),
            _ => {
                std::fs::create_dir_all(&place).unwrap();
                std::fs::write(place.join("f"), format!("{n}\n")).unwrap();
            }
        }
    }
    let store = Lab::at(&dir.path().join("lab")).store;
    let control = Control {
        prepared: Some(Arc::new(PreparedSets::new(store.clone()))),
        ..Control::default()
    };
    let mut round = 0;
    let mut run = |wanted: std::ops::Range<usize>, script: &str| {
        round += 1;
        let place = dir.path().join(format!("run-{round}"));
        std::fs::create_dir(&place).unwrap();
        let mut plan = nix_plan(&place, &format!("cd /nix/store; ls | wc -l; {script}"));
        if let sos_engine::sandbox::Shape::Nix { inputs: list, .. } = &mut plan.spec.shape {
            list.extend(wanted.map(|n| Input {
                base: format!("input-{n}"),
                physical: inputs.join(format!("input-{n}")),
            }));
        }
        let (outcome, log) = plan.run(&control).unwrap();
        assert_eq!(outcome.exit, Exit::Code(0), "{log}");
        (plan.outputs, log)
    };
    let count = || {
        std::fs::read_dir(store.root().join("tmp"))
            .unwrap()
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().ends_with(".inputs"))
            .count()
    };
    let dirty = "mkdir out; echo made >out/x; chmod 555 out; rm input-1; echo false >input-1; echo lies 2>/dev/null >input-2/f; rmdir input-3 2>/dev/null; mv input-4 moved 2>/dev/null; chmod 700 .; umount input-5 2>/dev/null; exit 0";
    let check = "cat input-0 input-1 input-2/f input-3/f input-4/f input-5/f; stat -c %a .";
    let clean = "0\n0\n2\n3\n4\n5\n1775\n";
    run(0..100, dirty);
    assert_eq!(count(), 0);
    // From the second one on it pays, and what a run does to its directory is not there in the next one.
    for _ in 0..3 {
        let (outputs, log) = run(0..100, dirty);
        assert_eq!(log, "100\n");
        assert_eq!(count(), 1);
        assert_eq!(
            std::fs::read_to_string(outputs.join("out/x")).unwrap(),
            "made\n"
        );
        let (_, log) = run(0..100, check);
        assert_eq!(log.strip_prefix("100\n"), Some(clean));
    }
    // More than is prepared, and less: nothing shows that is no input.
    let (_, log) = run(0..120, "cat input-119/f");
    assert_eq!(log, "120\n119\n");
    let (_, log) = run(0..99, "cat input-99/f 2>/dev/null || echo none");
    assert_eq!(log, "99\nnone\n");
    // Somebody repaired an input.
    std::fs::rename(inputs.join("input-2"), dir.path().join("broken")).unwrap();
    std::fs::create_dir(inputs.join("input-2")).unwrap();
    std::fs::write(inputs.join("input-2/f"), "new\n").unwrap();
    for _ in 0..2 {
        let (_, log) = run(0..100, "cat input-2/f");
        assert_eq!(log, "100\nnew\n");
    }
    drop(control);
    assert_eq!(count(), 0);
}

/// Owner, group and mode of the machine's device nodes that builds see.
pub(crate) fn nodes_of_the_machine() -> Vec<(String, u32, u32, u32)> {
    use std::os::unix::fs::MetadataExt as _;
    let look = |name: &&str| {
        let meta = std::fs::symlink_metadata(Path::new("/dev").join(name)).unwrap();
        ((*name).to_owned(), meta.uid(), meta.gid(), meta.mode())
    };
    ["null", "zero", "full", "random", "urandom", "tty"]
        .iter()
        .map(look)
        .collect()
}

/// Tries to change every device node, then uses them. What is set is what there is: where it succeeds, the machine takes no harm.
pub(crate) const SPOIL: &str = "for n in null zero full random urandom tty; do
    busybox chmod 666 /dev/$n && echo changed; busybox chown $(busybox stat -c %u:%g /dev/$n) /dev/$n && echo changed
    busybox touch -r /dev/$n /dev/$n && echo changed; busybox rm -f /dev/$n && echo changed; done 2>/tmp/said
    echo x >/dev/null && echo written; echo y 2>/dev/null >/dev/full || echo full; busybox head -c 2 /dev/zero | busybox wc -c
    busybox head -c 3 /dev/urandom | busybox wc -c";
/// What it prints.
pub(crate) const SPOILED: &str = "written\nfull\n2\n3\n";

fn device_nodes() {
    let before = nodes_of_the_machine();
    check(&SPOIL.replace("busybox ", ""), Exit::Code(0), SPOILED);
    assert_eq!(nodes_of_the_machine(), before);
}
