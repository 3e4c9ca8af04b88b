//! A program that tries to leave its sandbox in every way it knows, under sos and under real Nix.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;

use super::Both;
use crate::support::user::User;
use crate::support::{peer, run};

/// Where the sandbox of sos differs from that of Nix 2.8: the name (with `*`: how names begin), what sos answers, and why
/// that is the tighter one. Whatever else differs is a failure.
const DIFFERENCES: &[(&str, &str, &str)] = &[
    (
        "status.SigIgn",
        "0000000000000000",
        "what the caller of sos ignores does not show",
    ),
    (
        "status.CapBnd",
        "0000000000000000",
        "no program can gain a capability, whatever it executes",
    ),
    (
        "fd.TIOCSTI2",
        "ENOTTY",
        "the log is a pipe: there is no terminal to type into",
    ),
    (
        "dir./dev",
        "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero",
        "/dev/kvm is there for derivations that require it",
    ),
    ("open./dev/kvm", "ENOENT", "as above"),
    (
        "mode./",
        "40755 1000:100",
        "the root directory cannot be told from that of a system",
    ),
    ("mode./etc/passwd", "100444 1000:100", "identity is fixed"),
    ("mode./etc/group", "100444 1000:100", "identity is fixed"),
    ("mode./etc/hosts", "100444 1000:100", "identity is fixed"),
    ("place.passwd", "EACCES", "identity is fixed"),
    (
        "input.file.chmod",
        "EROFS",
        "inputs are mounted read-only; under Nix a builder with the owner's id changes them",
    ),
    ("input.file.times", "EROFS", "as above"),
    ("input.file.unlink", "EROFS", "as above"),
    ("input.create", "EROFS", "as above"),
    ("input.mkdir", "EROFS", "as above"),
    (
        "input.single.chmod",
        "EROFS",
        "as above: Nix links files into the sandbox, and what is written there is in its store",
    ),
    ("input.single.times", "EROFS", "as above"),
    ("input.single.truncate", "EACCES", "as above"),
    (
        "open./proc/1/*",
        "EACCES",
        "process 1 belongs to sos and hides",
    ),
    (
        "kernel.setns-init",
        "EACCES",
        "process 1 belongs to sos and hides",
    ),
    (
        "pidfd.getfd-init",
        "EPERM",
        "process 1 belongs to sos and hides; under Nix the builder is process 1",
    ),
    (
        "open./proc/irq/*",
        "EROFS",
        "when root builds, the builder is the machine's user 0, and /proc/sys believes that",
    ),
    ("open./proc/sys/*", "EROFS", "as above"),
    ("open./proc/mtrr", "EROFS", "as above"),
    ("nested.core-pattern", "EROFS", "as above"),
    ("read./proc/k*", "0", "as above: the memory of the machine"),
    ("open./proc/k*", "ok", "as above: covered by /dev/null"),
    (
        "mount./",
        "* rw nosuid nodev",
        "every mount forbids setuid programs, and devices where there are none",
    ),
    ("mount./proc", "proc rw nosuid nodev noexec", "as above"),
    (
        "mount./proc/k*",
        "devtmpfs ro nosuid",
        "covers the memory of the machine",
    ),
    (
        "mount./proc/*",
        "proc ro nosuid nodev noexec",
        "what changes the machine is read-only",
    ),
    ("mount./dev/shm", "tmpfs rw nosuid nodev", "as above"),
    ("mount./dev/pts", "devpts rw nosuid noexec", "as above"),
    (
        "mount./dev/kvm",
        "",
        "/dev/kvm is there for derivations that require it",
    ),
    ("mount./dev/*", "devtmpfs rw nosuid", "as above"),
    ("mount./build", "* rw nosuid nodev", "as above"),
    ("mount./nix/store", "* rw nosuid nodev", "as above"),
    (
        "mount.INPUT",
        "* ro nosuid nodev",
        "inputs are mounted read-only",
    ),
    (
        "nested.remount-input",
        "EPERM",
        "inputs are read-only to whoever makes himself root of a namespace, too",
    ),
    ("nested.remount-bound", "EPERM", "as above"),
    ("nested.write-input", "EACCES", "as above"),
    (
        "setuid.fchmodat2.*",
        "EPERM",
        "Nix 2.8 does not know this call",
    ),
    (
        "setgid.fchmodat2.*",
        "EPERM",
        "Nix 2.8 does not know this call",
    ),
    (
        "setuid.openat2.*",
        "ENOSYS",
        "its mode lies in memory, where no filter can look",
    ),
    ("setgid.openat2.*", "ENOSYS", "as above"),
    ("plain.openat2.*", "ENOSYS", "as above"),
    (
        "setuid.*",
        "EPERM",
        "Nix 2.8 forbids to give a file these bits, and not to make it with them",
    ),
    ("setgid.*", "EPERM", "as above"),
    ("setid.by-open", "-2", "as above: there is no such file"),
    (
        "xattr.*",
        "EOPNOTSUPP",
        "Nix forbids to set them, which shows whether the file system has some",
    ),
    (
        "net.vsock.*",
        "EAFNOSUPPORT",
        "no network namespace holds it back: it leads to the host of a virtual machine",
    ),
    (
        "kernel.add_key.*",
        "EPERM",
        "keys are shared with the other processes of the user",
    ),
    ("kernel.request_key.*", "EPERM", "as above"),
    ("kernel.keyctl.*", "EPERM", "as above"),
    (
        "kernel.bpf.*",
        "EPERM",
        "a way into the kernel that no build needs",
    ),
    (
        "kernel.perf_event_open.*",
        "EPERM",
        "as above, and its numbers are those of the machine",
    ),
    ("kernel.userfaultfd.*", "EPERM", "as above"),
    (
        "kernel.io_uring_setup.*",
        "ENOSYS",
        "its requests pass by the filter",
    ),
    ("kernel.kexec_*", "EPERM", "the kernel of the machine"),
];

/// What differs between a root that builds and an ordinary user, and may.
const BY_CALLER: &[&str] = &[
    // The owner of devices and of /proc is the machine's user 0.
    "mode./dev/null",
    "mode./proc",
    "id.uid_map",
    "id.gid_map",
    "open./proc/",
    "read./proc/k",
    "mount./proc/",
    "nested.core-pattern",
];

/// True when a process has this in its command line.
pub(super) fn runs(mark: &str) -> bool {
    std::fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .any(|line| {
            line.split(|byte| *byte == 0)
                .any(|word| word == mark.as_bytes())
        })
}

/// Things of the machine that the probe must not reach.
struct Machine {
    _port: TcpListener,
    _socket: UnixListener,
    arguments: Vec<String>,
    mark: String,
}

impl Machine {
    fn new(both: &Both) -> Self {
        let file = both.world.root().join("secret");
        std::fs::write(&file, "secret\n").expect("a file");
        let port = TcpListener::bind("127.0.0.1:0").expect("a port");
        let number = port.local_addr().expect("an address").port();
        let name = format!("sos-probe-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("an address");
        let socket = UnixListener::bind_addr(&address).expect("a socket");
        let mark = format!("sos-mark-{}", std::process::id());
        let arguments = [
            ("hostFile", file.display().to_string()),
            ("hostPid", std::process::id().to_string()),
            ("hostPort", number.to_string()),
            ("hostSocket", name),
            ("mark", mark.clone()),
        ];
        Self {
            _port: port,
            _socket: socket,
            arguments: arguments
                .into_iter()
                .flat_map(|(name, value)| ["--argstr".to_owned(), name.to_owned(), value])
                .collect(),
            mark,
        }
    }
}

type Findings = BTreeMap<String, String>;

fn findings(text: &str) -> Findings {
    text.lines()
        .map(|line| line.split_once('=').expect("a name and a value"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The names that are not the same in both, with both values.
fn compared<'a>(ours: &'a Findings, theirs: &'a Findings) -> Vec<(&'a str, &'a str, &'a str)> {
    let value = |of: &'a Findings, name: &str| of.get(name).map_or("", String::as_str);
    let mut names: Vec<&String> = ours.keys().chain(theirs.keys()).collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .map(|name| (name.as_str(), value(ours, name), value(theirs, name)))
        .filter(|(_, ours, theirs)| ours != theirs)
        .collect()
}

/// What is known of a difference: the first entry that fits tells what sos answers.
fn known(name: &str) -> Option<&'static str> {
    DIFFERENCES
        .iter()
        .find(|(known, ..)| match known.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => *known == name,
        })
        .map(|(_, ours, _)| *ours)
}

/// Devices are shown read-only and nosuid, whatever they lie in: under Nix a build of root changes the modes of the machine's own.
fn is_device_kept(name: &str, ours: &str, theirs: &str) -> bool {
    let first = |value: &str| value.split(' ').next().map(str::to_owned);
    let kept = ours.split(' ').any(|flag| flag == "ro");
    name.starts_with("mount./dev/") && kept && first(ours) == first(theirs)
}

fn prepare(both: &Both) -> Option<()> {
    let gcc = peer("gcc")?;
    let source = both.world.write("probe.c", include_str!("probe.c"));
    run(Command::new(gcc)
        .args(["-static", "-O1", "-Wall", "-Werror", "-o"])
        .arg(both.world.project().join("probe"))
        .arg(source))
    .ok();
    both.world.write("probe.nix", include_str!("probe.nix"));
    both.world.write("dir/file", "in a directory\n");
    both.world.write("file", "a file\n");
    both.world.write("other", "not an input\n");
    Some(())
}

#[test]
fn a_probe_finds_no_way_out_and_less_than_under_nix() {
    let Some(mut both) = Both::new() else { return };
    if std::env::consts::ARCH != "x86_64" {
        crate::support::skip("the probe is made of x86-64 calls");
        return;
    }
    if prepare(&both).is_none() {
        return;
    }
    let machine = Machine::new(&both);
    let arguments: Vec<&str> = machine.arguments.iter().map(String::as_str).collect();
    let drv = both.instantiate("probe.nix", "probe", &arguments);
    both.world.sos(["store", "add", "other"]).ok();
    let before = both.world.sos(["store", "ls"]).ok().stdout;
    assert!(before.contains("-other\n"), "{before}");

    // Ours first: under Nix the probe changes its inputs.
    let path = both.sos_builds(&drv).ok().stdout;
    assert!(!runs(&machine.mark), "the probe left a process");
    let ours = findings(&both.world.sos(["store", "cat", path.trim()]).ok().stdout);
    // All sockets of an i386 C library come from this call, so what it gives besides is a limit that is known.
    for (name, expected) in [
        ("net.vsock.x86_64", "EAFNOSUPPORT"),
        ("net.vsock.i386", "EAFNOSUPPORT"),
        ("net.socketcall.unix", "ok"),
        ("net.socketcall.inet", "ok"),
    ] {
        assert_eq!(ours[name], expected, "{name}");
    }
    both.world.sos(["store", "check"]).ok();
    let user = by_an_ordinary_user(&mut both, &drv);

    let path = both.nix_builds(&drv).ok().stdout;
    let text = std::fs::read_to_string(both.in_nix(path.trim())).expect("what Nix built");
    let theirs = findings(&text);
    assert!(theirs.len() > 300, "{text}");
    let mut wrong = Vec::new();
    for (name, ours, theirs) in compared(&ours, &theirs) {
        if known(name) != Some(ours) && !is_device_kept(name, ours, theirs) {
            wrong.push(format!("{name}: sos `{ours}`, Nix `{theirs}`"));
        }
    }
    assert!(
        wrong.is_empty(),
        "differences from Nix:\n{}",
        wrong.join("\n")
    );

    let Some(user) = user else { return };
    let wrong: Vec<String> = compared(&ours, &user)
        .into_iter()
        .filter(|(name, ..)| !BY_CALLER.iter().any(|known| name.starts_with(known)))
        .map(|(name, root, user)| format!("{name}: root `{root}`, an ordinary user `{user}`"))
        .collect();
    assert!(
        wrong.is_empty(),
        "who builds is seen:\n{}",
        wrong.join("\n")
    );
    // What root finds closed is closed to the user as well.
    for (name, root, user) in compared(&ours, &user) {
        let open = |value: &str| value == "ok" || value == "1";
        assert!(
            !open(user) || open(root),
            "{name}: root `{root}`, an ordinary user `{user}`"
        );
    }
}

/// The findings when somebody else than root builds; only root can try that.
fn by_an_ordinary_user(both: &mut Both, drv: &str) -> Option<Findings> {
    let user = User::new("probe", false)?;
    let dir = both.world.root().join("program");
    std::fs::create_dir(&dir).expect("a directory");
    let program = user.can_run(&dir);
    let home = both.world.root().join("user-home");
    std::fs::create_dir(&home).expect("a directory");
    user.owns(&home);
    for dir in [both.world.root().to_owned(), both.world.project()] {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    }
    let sos = |args: &[&str]| {
        let mut command = Command::new(&program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &home)
            .env("LANG", "C.UTF-8")
            .current_dir(&home)
            .args(args);
        run(user.becomes(&mut command)).ok().stdout
    };
    let other = both.world.project().join("other").display().to_string();
    sos(&["store", "add", &other]);
    let file = both.in_nix(drv).display().to_string();
    let path = sos(&["--config", "build.cores=1", "build", "--no-link", &file]);
    Some(findings(&sos(&["store", "cat", path.trim()])))
}
