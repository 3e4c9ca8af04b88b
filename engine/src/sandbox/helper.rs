//! The helper: what `sos __sandbox` does, from its first instruction to the start of init.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{
    Pid, Signal, WaitOptions, kill_process, set_parent_process_death_signal, waitpid,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::channel::{Channel, read_message};
use super::init::Console;
use super::protocol::{
    Answer, Failure, InitReport, MapsWritten, Naming, Request, Streams, UsernsKind,
};
use super::spec::{NIX_GID, NIX_UID, Shape, Spec};
use super::{init, sys, worker_child};

/// The argument that makes the program a helper.
pub const HELPER_ARGUMENT: &str = "__sandbox";

/// Does the work of `sos __sandbox`; the program must call this before it starts any thread.
pub fn child_main() -> ! {
    let status = match sys::take_stdin() {
        Ok(socket) => serve(&Channel::new(socket)),
        Err(_) => 1,
    };
    sys::exit(status)
}

fn serve(channel: &Channel) -> i32 {
    let result = match channel.receive::<Request>() {
        Ok(Some((request, fds))) => handle(channel, request, fds),
        Ok(None) => return 0,
        Err(e) => Err(Failure::new("read the plan of the run", &e)),
    };
    match result {
        Ok(()) => 0,
        Err(failure) => {
            // Fails only when `sos` is gone, and then nobody wants to know.
            let _gone = channel.send(&Answer::Failed(failure), &[]);
            1
        }
    }
}

fn handle(channel: &Channel, request: Request, fds: Vec<OwnedFd>) -> Result<(), Failure> {
    let mut fds = fds.into_iter();
    match request {
        Request::HoldUserns(kind) => hold_userns(channel, kind),
        Request::Run(spec) => {
            let userns = fds.next();
            run(channel, &spec, Console::Log, userns, fds.next())
        }
        Request::Converse(spec, streams) => {
            let userns = fds.next();
            let console = match streams {
                Streams::Terminal { rows, columns } => Console::Terminal { rows, columns },
                Streams::Pipes => Console::Pipes(
                    fds.next()
                        .ok_or(rustix::io::Errno::BADF)
                        .naming(|| "find the input of the program".to_owned())?,
                ),
            };
            run(channel, &spec, console, userns, None)
        }
        Request::Work => {
            enter_userns(fds.next())?;
            become_root()?;
            die_with_parent()?;
            worker_child::serve(channel)
        }
    }
}

/// Asks for death when the thread that started us dies. Changing credentials takes the request back: call it after.
fn die_with_parent() -> Result<(), Failure> {
    // A parent that died before this shows as the end of the channel, which every helper watches.
    set_parent_process_death_signal(Some(Signal::KILL))
        .naming(|| "ask for a death signal".to_owned())
}

fn hold_userns(channel: &Channel, kind: UsernsKind) -> Result<(), Failure> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    sys::unshare(UnshareFlags::NEWUSER).naming(|| "create a user namespace".to_owned())?;
    die_with_parent()?;
    match kind {
        UsernsKind::Single => {
            let write = |file: &str, text: String| {
                fs::write(format!("/proc/self/{file}"), text)
                    .naming(|| format!("write /proc/self/{file}"))
            };
            write("setgroups", "deny".to_owned())?;
            write("uid_map", format!("{NIX_UID} {} 1", uid.as_raw()))?;
            write("gid_map", format!("{NIX_GID} {} 1", gid.as_raw()))?;
        }
        UsernsKind::Multi => {
            let answer = |e: io::Error| Failure::new("speak with sos", &e);
            channel.send(&Answer::NeedMaps, &[]).map_err(answer)?;
            if channel.receive::<MapsWritten>().map_err(answer)?.is_none() {
                return Ok(());
            }
        }
    }
    let namespace =
        File::open("/proc/self/ns/user").naming(|| "open /proc/self/ns/user".to_owned())?;
    channel
        .send(&Answer::Userns, &[namespace.as_fd()])
        .naming(|| "hand over the user namespace".to_owned())
}

fn enter_userns(fd: Option<OwnedFd>) -> Result<(), Failure> {
    let fd = fd
        .ok_or(rustix::io::Errno::BADF)
        .naming(|| "find the user namespace".to_owned())?;
    move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::User))
        .naming(|| "enter the user namespace".to_owned())
}

/// Becomes user and group 0 of the namespace, without other groups.
pub(super) fn become_root() -> Result<(), Failure> {
    become_user(0, 0)
}

pub(super) fn become_user(uid: u32, gid: u32) -> Result<(), Failure> {
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let (uid, gid) = (
        rustix::process::Uid::from_raw(uid),
        rustix::process::Gid::from_raw(gid),
    );
    set_thread_groups(&[]).naming(|| "leave the caller's groups".to_owned())?;
    set_thread_res_gid(gid, gid, gid).naming(|| format!("become group {}", gid.as_raw()))?;
    set_thread_res_uid(uid, uid, uid).naming(|| format!("become user {}", uid.as_raw()))
}

fn run(
    channel: &Channel,
    spec: &Spec,
    console: Console,
    userns: Option<OwnedFd>,
    net: Option<OwnedFd>,
) -> Result<(), Failure> {
    enter_userns(userns)?;
    if matches!(spec.shape, Shape::Step { .. }) {
        become_root()?;
    }
    die_with_parent()?;
    rustix::process::umask(Mode::from_raw_mode(0o022));

    let mut flags = UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    let fresh_net = !spec.network && net.is_none();
    flags.set(UnshareFlags::NEWNET, fresh_net);
    sys::unshare(flags).naming(|| "create namespaces".to_owned())?;
    if let Some(net) = net.filter(|_| !spec.network) {
        move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network))
            .naming(|| "enter the network namespace".to_owned())?;
    }
    let made = if fresh_net {
        sys::loopback_up().naming(|| "switch the loopback interface on".to_owned())?;
        Some(File::open("/proc/self/ns/net").naming(|| "open /proc/self/ns/net".to_owned())?)
    } else {
        None
    };
    let with: Vec<BorrowedFd<'_>> = made.iter().map(AsFd::as_fd).collect();
    channel
        .send(&Answer::Started, &with)
        .naming(|| "speak with sos".to_owned())?;

    // By descriptor: init takes this process along when it changes the root directory.
    let tables = rustix::fs::open(
        "/proc/self/net",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .naming(|| "open /proc/self/net".to_owned())?;
    let (reader, writer) = io::pipe().naming(|| "make a pipe".to_owned())?;
    let pid = match sys::fork().naming(|| "fork".to_owned())? {
        sys::Fork::Child => {
            drop(reader);
            init::main(channel, spec, console, writer);
        }
        sys::Fork::Parent(pid) => pid,
    };
    drop(writer);
    drop(console);
    let report = watch(channel, pid, reader)?;
    let answer = match report {
        InitReport::Ended(status) => Answer::Ended {
            status,
            net_clean: !spec.network && network_is_clean(&tables),
        },
        InitReport::Failed(failure) => Answer::Failed(failure),
    };
    channel
        .send(&answer, &[])
        .naming(|| "speak with sos".to_owned())
}

/// Waits until init is gone, and ends it when `sos` is gone or asks for it by closing its end.
fn watch(channel: &Channel, init: Pid, mut reader: io::PipeReader) -> Result<InitReport, Failure> {
    let mut report = None;
    loop {
        let mut fds = [
            PollFd::new(&reader, PollFlags::IN),
            PollFd::new(channel, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.naming(|| "wait for the run".to_owned())?,
        };
        let (from_init, from_sos) = (fds[0].revents(), fds[1].revents());
        // Nothing is ever sent to a helper that runs: readable means closed.
        if !from_sos.is_empty() {
            // Fails only when init is dead already.
            let _dead = kill_process(init, Signal::KILL);
            wait_for(init);
            sys::exit(0);
        }
        if !from_init.is_empty() {
            match read_message::<InitReport>(&mut reader) {
                // The first report tells why: an exec that failed is followed by the end of the process that tried.
                Ok(Some(message)) => report = report.or(Some(message)),
                Ok(None) | Err(_) => break,
            }
        }
    }
    // All writers are gone, so init is too, or about to be; with it goes every process of its namespace.
    let status = wait_for(init);
    Ok(report.unwrap_or(InitReport::Failed(Failure {
        what: format!("keep init alive (it ended with wait status {status})"),
        errno: libc::ECHILD,
        exec: false,
    })))
}

fn wait_for(pid: Pid) -> i32 {
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => return status.as_raw(),
            Err(rustix::io::Errno::INTR) | Ok(None) => {}
            Err(_) => return 0,
        }
    }
}

/// Tells whether the current network namespace holds nothing of the run: no socket, not even one that waits out its
/// time. Asked from the counters: the tables of sockets take milliseconds to read, however empty they are.
fn network_is_clean(tables: &OwnedFd) -> bool {
    ["sockstat", "sockstat6"].iter().all(|table| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(tables, *table, flags, Mode::empty()) {
            Ok(file) => io::read_to_string(File::from(file)).is_ok_and(|text| no_socket(&text)),
            // A kernel without IPv6.
            Err(e) => e == rustix::io::Errno::NOENT && *table == "sockstat6",
        }
    })
}

/// Reads `TCP: inuse 0 orphan 0 tw 0 alloc 1 mem 72` and the like; an old kernel counts `tw` for the whole machine,
/// which only makes the answer more careful.
fn no_socket(counters: &str) -> bool {
    counters.lines().all(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            if matches!(name, "inuse" | "tw") && value != "0" {
                return false;
            }
        }
        true
    })
}

#[cfg(test)]
mod tests {
    use super::no_socket;

    #[test]
    fn counters_of_sockets() {
        let clean =
            "sockets: used 2\nTCP: inuse 0 orphan 3 tw 0 alloc 1 mem 72\nUDP: inuse 0 mem 0\n";
        assert!(no_socket(clean));
        assert!(!no_socket(&clean.replace("tw 0", "tw 1")));
        assert!(!no_socket(&clean.replace("UDP: inuse 0", "UDP: inuse 1")));
    }
}
