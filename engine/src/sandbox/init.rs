//! Process 1 of a run: builds the root, starts the program, reaps, and ends when the program or `sos` ends.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, Signal, WaitOptions, getrlimit, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit, setsid, wait,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, LinkNameSpaceType, UnshareFlags, move_into_link_name_space,
};

use super::channel::Channel;
use super::network::Network;
use super::protocol::{Answer, Failure, Naming, Plan, Streams};
use super::spec::{Shape, Spec};
use super::watch::Watcher;
use super::{helper, root, seccomp, sys, vary};

/// The most files a program may have open unless it asks for more; the caller's own limit must not show.
const OPEN_FILES: u64 = 65_536;

/// What root keeps in a step: enough for package managers, not enough to undo the mounts or touch the network namespace.
const STEP_CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::IPC_OWNER)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::AUDIT_WRITE)
    .union(CapabilitySet::SETFCAP);

/// Where the standard streams of the program lead.
enum Console {
    /// No input; what this process writes to is the log.
    Log,
    /// These; what this process writes to takes the output.
    Pipes { input: OwnedFd, error: OwnedFd },
    /// A terminal, to be made once the root is there: none of the machine's may come in, since whoever has a terminal
    /// can type into it.
    Terminal { rows: u16, columns: u16 },
    /// The terminal that was made.
    Made(OwnedFd),
}

impl Console {
    /// Takes what has come along.
    fn of(streams: Streams, mut fds: impl Iterator<Item = OwnedFd>) -> Result<Self, Failure> {
        let mut next = || {
            fds.next()
                .ok_or(rustix::io::Errno::BADF)
                .naming(|| "find the streams of the program".to_owned())
        };
        Ok(match streams {
            Streams::Log => Self::Log,
            Streams::Pipes => Self::Pipes {
                input: next()?,
                error: next()?,
            },
            Streams::Terminal { rows, columns } => Self::Terminal { rows, columns },
        })
    }

    /// Makes the terminal in the new root and hands its other end to `sos`.
    fn make(self, channel: &Channel) -> Result<Self, Failure> {
        let Self::Terminal { rows, columns } = self else {
            return Ok(self);
        };
        let what = || "make a terminal".to_owned();
        let flags =
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
        let master =
            rustix::fs::open("/dev/pts/ptmx", flags, rustix::fs::Mode::empty()).naming(what)?;
        rustix::pty::unlockpt(&master).naming(what)?;
        let flags = rustix::pty::OpenptFlags::RDWR
            | rustix::pty::OpenptFlags::NOCTTY
            | rustix::pty::OpenptFlags::CLOEXEC;
        let terminal = rustix::pty::ioctl_tiocgptpeer(&master, flags).naming(what)?;
        let size = rustix::termios::Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&terminal, size).naming(what)?;
        channel
            .send(&Answer::Terminal, &[master.as_fd()])
            .naming(|| "speak with sos".to_owned())?;
        Ok(Self::Made(terminal))
    }

    /// Makes the streams those of this process, which leads a session.
    fn take(&self, spec: &Spec) -> Result<(), Failure> {
        let set = || "set the standard streams".to_owned();
        match self {
            Self::Log => {
                let null = rustix::fs::open(
                    "/dev/null",
                    rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
                    rustix::fs::Mode::empty(),
                )
                .naming(|| "open /dev/null".to_owned())?;
                sys::set_stdin(null.as_fd()).naming(set)
            }
            Self::Pipes { input, error } => {
                sys::set_stdin(input.as_fd()).naming(set)?;
                rustix::stdio::dup2_stderr(error).naming(set)
            }
            Self::Terminal { .. } => Err(rustix::io::Errno::NOTTY).naming(set),
            Self::Made(terminal) => {
                rustix::process::ioctl_tiocsctty(terminal)
                    .naming(|| "take the terminal".to_owned())?;
                if rustix::process::geteuid().as_raw() != spec.uid {
                    let owner = rustix::process::Uid::from_raw(spec.uid);
                    rustix::fs::fchown(terminal, Some(owner), None)
                        .naming(|| "give the terminal away".to_owned())?;
                }
                sys::set_stdin(terminal.as_fd()).naming(set)?;
                rustix::stdio::dup2_stdout(terminal).naming(set)?;
                rustix::stdio::dup2_stderr(terminal).naming(set)
            }
        }
    }
}

/// The namespaces that every run has for itself. The network comes later: making one takes longer than the rest.
pub(super) const NAMESPACES: UnshareFlags = UnshareFlags::NEWNS
    .union(UnshareFlags::NEWPID)
    .union(UnshareFlags::NEWIPC)
    .union(UnshareFlags::NEWUTS)
    .union(UnshareFlags::NEWCGROUP);

/// What failed when they cannot be made.
pub(super) const CREATE_NAMESPACES: &str = "create namespaces";

/// Runs as process 1 and never returns; `output` is where it and its program write.
pub(super) fn main(channel: &Channel, output: &OwnedFd) -> ! {
    let answer = live(channel, output).unwrap_or_else(Answer::Failed);
    // Fails only when `sos` is gone.
    let _gone = channel.send(&answer, &[]);
    sys::exit(0)
}

fn live(channel: &Channel, output: &OwnedFd) -> Result<Answer, Failure> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .naming(|| "ask for a death signal".to_owned())?;
    let children = sys::child_signal_fd().naming(|| "watch children".to_owned())?;
    sys::set_output(output.as_fd()).naming(|| "set standard output".to_owned())?;
    let plan = channel
        .receive::<Plan>()
        .naming(|| "read the plan of the run".to_owned())?;
    let Some((Plan { spec, given }, fds)) = plan else {
        // Nobody wants it any more.
        sys::exit(0)
    };
    let mut fds = fds.into_iter();
    let net = if given.net { fds.next() } else { None };
    let mounts = if given.mounts { fds.next() } else { None };
    if let Some(mounts) = mounts {
        enter_mounts(&mounts)?;
    }
    let console = Console::of(given.streams, fds)?;
    if let Some(secs) = spec.vary.uptime_secs {
        vary::move_uptime(secs).naming(|| "move the clock of the uptime".to_owned())?;
    }
    let network = if spec.network {
        None
    } else {
        enter_network(channel, net)?;
        Some(Network::open()?)
    };
    root::build(&spec)?;
    rustix::system::sethostname(spec.hostname.as_bytes())
        .naming(|| "set the host name".to_owned())?;
    rustix::system::setdomainname(b"(none)").naming(|| "set the domain name".to_owned())?;
    let console = console.make(channel)?;
    // The program has the same user: it must not look into this process, which holds the channel.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .naming(|| "hide from the program".to_owned())?;
    let watcher = Watcher::start(&spec.watch)?;
    let mut failure = None;
    let program = sys::start(&mut || failure = exec(&spec, &console, watcher.as_ref()))
        .naming(|| "start a process".to_owned())?;
    // The end of the program must show as the end of its streams.
    drop(console);
    if let Some(failure) = failure {
        return Err(failure);
    }
    let status = reap(channel, &children, program)?;
    // Whatever the program left running: what comes next must find it gone.
    sys::kill_all_others();
    while !matches!(wait(WaitOptions::empty()), Err(e) if e != rustix::io::Errno::INTR) {}
    Ok(Answer::Ended {
        status,
        net_clean: network.is_some_and(|network| network.is_clean()),
        watched: watcher.map(Watcher::finish).unwrap_or_default(),
    })
}

/// Begins with a copy of the mounts that were prepared for this run.
fn enter_mounts(prepared: &OwnedFd) -> Result<(), Failure> {
    move_into_link_name_space(prepared.as_fd(), Some(LinkNameSpaceType::Mount))
        .naming(|| "enter the mount namespace".to_owned())?;
    sys::unshare(UnshareFlags::NEWNS).naming(|| CREATE_NAMESPACES.to_owned())
}

/// Enters the network namespace that came along, or a new one.
fn enter_network(channel: &Channel, kept: Option<OwnedFd>) -> Result<(), Failure> {
    if let Some(net) = kept {
        return move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network))
            .naming(|| "enter the network namespace".to_owned());
    }
    sys::unshare(UnshareFlags::NEWNET).naming(|| CREATE_NAMESPACES.to_owned())?;
    sys::loopback_up().naming(|| "switch the loopback interface on".to_owned())?;
    let made = File::open("/proc/self/ns/net").naming(|| "open /proc/self/ns/net".to_owned())?;
    channel
        .send(&Answer::Network, &[made.as_fd()])
        .naming(|| "speak with sos".to_owned())
}

/// Waits for the program and for whatever else becomes a child of process 1.
fn reap(channel: &Channel, children: &OwnedFd, program: Pid) -> Result<i32, Failure> {
    loop {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == program => return Ok(status.as_raw()),
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) | Err(_) => break,
            }
        }
        let mut fds = [
            PollFd::new(children, PollFlags::IN),
            PollFd::new(channel, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.naming(|| "wait for the program".to_owned())?,
        };
        // Nothing is ever sent to a run but its plan: readable means closed, and nobody waits for this run any more. The
        // kernel kills the rest with us.
        if !fds[1].revents().is_empty() {
            sys::exit(1);
        }
        let mut info = [0u8; 1024];
        // Only empties the descriptor; what happened is asked from `waitpid`.
        let _drained = rustix::io::read(children, &mut info);
    }
}

fn c_string(bytes: &[u8]) -> Result<CString, Failure> {
    CString::new(bytes)
        .map_err(io::Error::other)
        .naming(|| "use a string with a NUL byte".to_owned())
}

/// Becomes the program; returns why that failed, and nothing for a trial run.
fn exec(spec: &Spec, console: &Console, watcher: Option<&Watcher>) -> Option<Failure> {
    match prepare(spec, console, watcher) {
        // A trial run, which only wants to know that everything up to here works.
        Ok((program, ..)) if program.is_empty() => None,
        Ok((program, argv, env)) => {
            let error = sys::exec(&program, &argv, &env);
            Some(Failure {
                exec: true,
                ..Failure::new(String::from_utf8_lossy(&spec.program), &error)
            })
        }
        Err(failure) => Some(failure),
    }
}

type Image = (CString, Vec<CString>, Vec<CString>);

fn prepare(spec: &Spec, console: &Console, watcher: Option<&Watcher>) -> Result<Image, Failure> {
    let program = c_string(&spec.program)?;
    let argv = spec
        .argv
        .iter()
        .map(|a| c_string(a))
        .collect::<Result<_, _>>()?;
    let mut env: Vec<(&[u8], &[u8])> = Vec::new();
    for (name, value) in &spec.env {
        env.retain(|(n, _)| n != name);
        env.push((name, value));
    }
    let env = env
        .iter()
        .map(|(name, value)| c_string(&[name, &b"="[..], value].concat()))
        .collect::<Result<_, _>>()?;

    setsid().naming(|| "start a session".to_owned())?;
    sys::reset_signals().naming(|| "reset signals".to_owned())?;
    limit(spec)?;
    console.take(spec)?;
    rustix::process::chdir(&spec.cwd).naming(|| {
        format!(
            "change to the directory {}",
            String::from_utf8_lossy(spec.cwd.as_os_str().as_bytes())
        )
    })?;
    let nix = matches!(spec.shape, Shape::Nix { .. });
    if spec.network {
        // An old kernel cannot: then the network is as open as Nix leaves it.
        let _supported = sys::landlock_scope();
    }
    let filter = if nix {
        rustix::thread::set_no_new_privs(true).naming(|| "forbid new privileges".to_owned())?;
        seccomp::Filter::Nix
    } else {
        seccomp::Filter::Step
    };
    if let Some(count) = spec.vary.processors {
        vary::confine(count).naming(|| "choose processors".to_owned())?;
    }
    if let Some(mask) = spec.vary.umask {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
    }
    sys::set_personality(
        spec.linux32,
        spec.vary.random_addresses,
        spec.vary.old_kernel,
    )
    .naming(|| "set the personality".to_owned())?;
    sys::install_filter(&seccomp::program(filter))
        .naming(|| "install the system call filter".to_owned())?;
    // Afterwards a step may load no filter.
    if let Some(watcher) = watcher {
        watcher.show_own_calls();
    }
    drop_capabilities(nix)?;
    if !nix && (spec.uid, spec.gid) != (0, 0) {
        helper::become_user(spec.uid, spec.gid)?;
    }
    sys::close_on_exec_above_stderr().naming(|| "close descriptors".to_owned())?;
    Ok((program, argv, env))
}

fn drop_capabilities(nix: bool) -> Result<(), Failure> {
    let keep = if nix {
        CapabilitySet::empty()
    } else {
        STEP_CAPABILITIES
    };
    for capability in CapabilitySet::all().difference(keep) {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // A kernel older than the capability.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(e) => return Err(e).naming(|| "drop capabilities".to_owned()),
        }
    }
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: keep,
            permitted: keep,
            inheritable: CapabilitySet::empty(),
        },
    )
    .naming(|| "drop capabilities".to_owned())
}

fn limit(spec: &Spec) -> Result<(), Failure> {
    let set = |resource: Resource, soft: Option<u64>, hard: Option<u64>| {
        setrlimit(
            resource,
            Rlimit {
                current: soft,
                maximum: hard,
            },
        )
        .naming(|| format!("set the limit {resource:?}"))
    };
    set(Resource::Core, Some(0), Some(0))?;
    let hard = getrlimit(Resource::Nofile).maximum;
    set(
        Resource::Nofile,
        Some(hard.map_or(OPEN_FILES, |h| h.min(OPEN_FILES))),
        hard,
    )?;
    for (resource, wanted) in [
        (Resource::As, spec.limits.memory_bytes),
        (Resource::Nproc, spec.limits.processes),
        (Resource::Fsize, spec.limits.file_size_bytes),
    ] {
        if let Some(wanted) = wanted {
            let most = getrlimit(resource)
                .maximum
                .map_or(wanted, |h| h.min(wanted));
            set(resource, Some(most), Some(most))?;
        }
    }
    Ok(())
}
