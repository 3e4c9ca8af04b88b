//! The helper: what `sos __sandbox` does. As a launcher, it stays and forks the first process of each run.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::Mode;
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::channel::Channel;
use super::protocol::{Answer, Failure, Launch, MapsWritten, Naming, Request, UsernsKind};
use super::spec::{Input, NIX_GID, NIX_UID};
use super::{init, root, sys, worker_child};

/// The argument that makes the program a helper.
pub const HELPER_ARGUMENT: &str = "__sandbox";

/// Does the work of `sos __sandbox`; the program must call this before it starts any thread.
pub fn child_main() -> ! {
    let status = match sys::take_stdin() {
        Ok(socket) => serve(Channel::new(socket)),
        Err(_) => 1,
    };
    sys::exit(status)
}

fn serve(channel: Channel) -> i32 {
    let result = match channel.receive::<Request>() {
        Ok(Some((Request::Launch(kind), fds))) => return launch(channel, kind, fds),
        // It waits for nothing but its channel.
        Ok(Some((Request::HoldUserns(kind), _))) => make_userns(&channel, kind),
        Ok(Some((Request::Work, fds))) => work(&channel, fds),
        Ok(Some((Request::Prepare { dir, inputs }, fds))) => prepare(&channel, &dir, &inputs, fds),
        Ok(None) => return 0,
        Err(e) => Err(Failure::new("read what to do", &e)),
    };
    ended(&channel, result)
}

fn ended(channel: &Channel, result: Result<(), Failure>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(failure) => {
            // Fails only when `sos` is gone, and then nobody wants to know.
            let _gone = channel.send(&Answer::Failed(failure), &[]);
            1
        }
    }
}

fn work(channel: &Channel, fds: Vec<OwnedFd>) -> Result<(), Failure> {
    enter_userns(fds)?;
    become_root()?;
    die_with_parent()?;
    worker_child::serve(channel)
}

/// Forks the first process of a run whenever it is asked to. The end of `sos` is the end of the channel, which is the end of
/// this process, and that kills every run: not the death of the thread that started it, which is only one of those that build.
fn launch(channel: Channel, kind: UsernsKind, fds: Vec<OwnedFd>) -> i32 {
    // Number 0 is free, and nothing that runs later may take it by chance.
    let prepared = File::open("/dev/null")
        .naming(|| "open /dev/null".to_owned())
        .and_then(|null| prepare_to_launch(&channel, kind, fds).map(|()| null));
    let _null = match prepared {
        Ok(null) => null,
        Err(failure) => return ended(&channel, Err(failure)),
    };
    loop {
        let fds = match channel.receive::<Launch>() {
            Ok(Some((Launch, fds))) => fds,
            Ok(None) => return 0,
            Err(e) => return ended(&channel, Err(Failure::new("read what to launch", &e))),
        };
        let mut fds = fds.into_iter();
        let (Some(socket), Some(output)) = (fds.next(), fds.next()) else {
            return 1;
        };
        let sent = match sys::clone_into(init::NAMESPACES) {
            Ok(sys::Cloned::Child) => {
                // Otherwise `sos` would not see the death of the launcher.
                drop(channel);
                init::main(&Channel::new(socket), &output);
            }
            Ok(sys::Cloned::Parent(pidfd)) => channel.send(&Answer::Launched, &[pidfd.as_fd()]),
            Err(e) => {
                let failure = Failure::new(init::CREATE_NAMESPACES, &e);
                channel.send(&Answer::Failed(failure), &[])
            }
        };
        if sent.is_err() {
            return 1;
        }
    }
}

fn prepare_to_launch(
    channel: &Channel,
    kind: UsernsKind,
    fds: Vec<OwnedFd>,
) -> Result<(), Failure> {
    match kind {
        UsernsKind::Single if fds.is_empty() => make_userns(channel, kind)?,
        UsernsKind::Single => enter_userns(fds)?,
        UsernsKind::Multi => {
            enter_userns(fds)?;
            become_root()?;
        }
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    sys::forget_children().naming(|| "forget children".to_owned())
}

/// Asks for death when the thread that started us dies. Changing credentials takes the request back: call it after.
fn die_with_parent() -> Result<(), Failure> {
    // A parent that died before this shows as the end of the channel, which every helper watches.
    set_parent_process_death_signal(Some(Signal::KILL))
        .naming(|| "ask for a death signal".to_owned())
}

/// Makes a user namespace, is in it from now on, and hands it over.
fn make_userns(channel: &Channel, kind: UsernsKind) -> Result<(), Failure> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    sys::unshare(UnshareFlags::NEWUSER).naming(|| "create a user namespace".to_owned())?;
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

fn enter_userns(fds: Vec<OwnedFd>) -> Result<(), Failure> {
    let fd = fds
        .into_iter()
        .next()
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

/// Mounts inputs in a namespace that outlives this process.
fn prepare(
    channel: &Channel,
    dir: &Path,
    inputs: &[Input],
    fds: Vec<OwnedFd>,
) -> Result<(), Failure> {
    enter_userns(fds)?;
    die_with_parent()?;
    sys::unshare(UnshareFlags::NEWNS).naming(|| "create namespaces".to_owned())?;
    root::prepare(dir, inputs)?;
    let namespace =
        File::open("/proc/self/ns/mnt").naming(|| "open /proc/self/ns/mnt".to_owned())?;
    channel
        .send(&Answer::Prepared, &[namespace.as_fd()])
        .naming(|| "hand over the mount namespace".to_owned())
}
