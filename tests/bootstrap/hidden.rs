//! The programs of the machine are no part of a run: poison lies in their places, and whoever opens it is named.

use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
use rustix::io::Errno;

use super::small::{recipe, world};
use crate::support::user::User;
use crate::support::{World, is_root, left_to_root, peer, run};

/// Where programs are found.
const PLACES: [&str; 6] = [
    "/usr/bin",
    "/usr/sbin",
    "/bin",
    "/sbin",
    "/usr/local/bin",
    "/usr/local/sbin",
];
/// What an ordinary user needs of the machine: programs that give a namespace more than one user.
const NEEDED: [&str; 2] = ["newuidmap", "newgidmap"];

/// A directory with poison under every name that a program of this machine has.
fn poison(w: &World) -> PathBuf {
    let dir = w.root().join("poison");
    fs::create_dir(&dir).expect("a directory");
    let bottle = dir.join(".bottle");
    fs::write(&bottle, "poison\n").expect("a file");
    fs::set_permissions(&bottle, fs::Permissions::from_mode(0o755)).expect("its mode");
    for place in PLACES {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            let to = dir.join(entry.file_name());
            if !to.exists() {
                fs::hard_link(&bottle, &to).expect("a link");
            }
        }
    }
    // These are shown as they are: each needs a file of its own to be put on.
    for name in NEEDED {
        let _absent = fs::remove_file(dir.join(name));
        fs::write(dir.join(name), "").expect("a file");
    }
    dir
}

/// Builds the tree where the programs of the machine are poison, as root or as an ordinary user. Returns the root, and what of the
/// poison was opened.
fn build_among_poison(w: &World, user: Option<&User>) -> (String, Vec<String>) {
    let dir = poison(w);
    let tools = w.root().join("tools");
    fs::create_dir(&tools).expect("a directory");
    for tool in ["busybox", "setpriv"] {
        fs::copy(peer(tool).expect("looked up before"), tools.join(tool)).expect("a copy");
    }
    let busybox = tools.join("busybox");
    let busybox = busybox.display();
    let mut script = String::from("set -e\n");
    for name in NEEDED {
        if let Some(real) = peer(name) {
            script += &format!(
                "{busybox} mount --bind {} {}\n",
                real.display(),
                dir.join(name).display()
            );
        }
    }
    for place in PLACES {
        if Path::new(place).is_dir() && !Path::new(place).is_symlink() {
            script += &format!("{busybox} mount --rbind {} {place}\n", dir.display());
        }
    }
    let as_whom = user.map_or(String::new(), |user| {
        let (uid, gid) = user.ids();
        format!(
            "{}/setpriv --reuid {uid} --regid {gid} --clear-groups ",
            tools.display()
        )
    });
    let sos = w.command();
    script += &format!(
        "exec {as_whom}{} build --no-link .#rootfs\n",
        sos.get_program().display()
    );
    let watch = init(CreateFlags::NONBLOCK).expect("a watch");
    add_watch(&watch, &dir, WatchFlags::OPEN | WatchFlags::ACCESS).expect("a watch");
    let mut command = Command::new(peer("unshare").expect("looked up before"));
    command
        .args(["--mount", "--propagation", "private", "--"])
        .arg(tools.join("busybox"))
        .args(["sh", "-c", &script])
        .env_clear()
        .current_dir(w.project());
    for (name, value) in sos.get_envs() {
        command.env(name, value.expect("nothing is taken away"));
    }
    let built = run(&mut command).ok();
    let mut opened = Vec::new();
    let mut buffer = [MaybeUninit::uninit(); 1 << 14];
    let mut reader = Reader::new(&watch, &mut buffer);
    loop {
        match reader.next() {
            // The directory itself has no name: looking into it is no harm.
            Ok(event) => opened.extend(
                event
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned()),
            ),
            Err(Errno::AGAIN) => break,
            Err(error) => panic!("the watch: {error}"),
        }
    }
    opened.retain(|name| !NEEDED.contains(&&**name));
    (built.stdout.trim().to_owned(), opened)
}

/// A world whose recipe takes busybox from the project, and not from where the machine has it.
fn own_world() -> Option<World> {
    let w = world()?;
    let busybox = peer("busybox")?;
    let own = w.project().join("busybox-own");
    fs::copy(&busybox, &own).expect("a copy");
    let text = recipe()?.replace(&busybox.display().to_string(), &own.display().to_string());
    w.write("sos.nix", &text);
    Some(w)
}

#[test]
fn no_program_of_the_machine_is_opened() {
    if !is_root() {
        left_to_root("poison in the places of programs");
        return;
    }
    if ["unshare", "setpriv", "busybox"]
        .iter()
        .any(|name| peer(name).is_none())
    {
        return;
    }
    let Some(w) = own_world() else { return };
    let (root, opened) = build_among_poison(&w, None);
    assert!(root.starts_with("/nix/store/"), "{root}");
    assert_eq!(opened, Vec::<String>::new());
    // It was the program that has built it: whoever asks again gets the same root. That the watch sees what is opened, the next test says.
    let clean = w
        .sos(["build", "--no-link", ".#rootfs"])
        .ok()
        .says(&["built 0,"]);
    assert_eq!(clean.stdout.trim(), root);

    let Some(user) = User::new("poison", true) else {
        return;
    };
    let Some(mut w) = own_world() else { return };
    let _program = w.with_program_for(&user);
    let (same, opened) = build_among_poison(&w, Some(&user));
    assert_eq!(same, root);
    assert_eq!(opened, Vec::<String>::new());
}

#[test]
fn the_watch_for_poison_sees_who_opens_it() {
    let w = World::new();
    let dir = poison(&w);
    let watch = init(CreateFlags::NONBLOCK).expect("a watch");
    add_watch(&watch, &dir, WatchFlags::OPEN).expect("a watch");
    // It cannot be run, and trying that opens it.
    let failed = Command::new(dir.join("ls")).output();
    assert!(failed.is_err());
    let mut buffer = [MaybeUninit::uninit(); 1 << 12];
    let mut reader = Reader::new(&watch, &mut buffer);
    let event = reader.next().expect("an event");
    let name = event.file_name().map(|name| name.to_bytes().to_vec());
    assert_eq!(name.as_deref(), Some(&b"ls"[..]));
}
