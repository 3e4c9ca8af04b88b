//! An ordinary user of this machine that lives as long as a test. Only root can make one.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{is_root, left_to_root, peer, run};

/// The account files have one lock, and `useradd` does not wait for it.
static ACCOUNTS: Mutex<()> = Mutex::new(());
/// How many users this process has asked for.
static MADE: AtomicU32 = AtomicU32::new(0);

/// A temporary user; it is removed when the value is dropped.
pub(crate) struct User {
    name: String,
    uid: u32,
    gid: u32,
}

impl User {
    /// Makes a user, with a range of subordinate ids or without.
    pub(crate) fn new(what: &str, subordinate_ids: bool) -> Option<Self> {
        if !is_root() {
            left_to_root("a second user");
            return None;
        }
        let useradd = peer("useradd")?;
        let guard = ACCOUNTS.lock().unwrap_or_else(PoisonError::into_inner);
        // Tests may ask for users of one kind at the same time.
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("sostest{what}{}-{number}", std::process::id());
        // A user of the system range gets no subordinate ids unless they are asked for.
        run(Command::new(useradd).args([
            "--system",
            "--no-create-home",
            "--home-dir",
            "/nonexistent",
            "--shell",
            "/bin/sh",
            &name,
        ]))
        .ok();
        let id = |flag: &str| {
            run(Command::new("id").args([flag, &name]))
                .ok()
                .stdout
                .trim()
                .parse()
                .expect("a number")
        };
        let user = Self {
            uid: id("-u"),
            gid: id("-g"),
            name,
        };
        if subordinate_ids {
            let first = free_range();
            let range = format!("{first}-{}", first + 65_535);
            run(Command::new("/usr/sbin/usermod").args([
                "--add-subuids",
                &range,
                "--add-subgids",
                &range,
                &user.name,
            ]))
            .ok();
        }
        drop(guard);
        Some(user)
    }

    /// Gives this user other subordinate ids than before, and returns a call that gives the first ones back.
    pub(crate) fn gets_other_ids(&self) -> impl Fn() {
        let of = |file: &str| {
            let text = std::fs::read_to_string(file).expect("there are ranges");
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(&format!("{}:", self.name)));
            let (first, count) = line.and_then(|line| line.split_once(':')).expect("a range");
            let number = |text: &str| text.parse::<u32>().expect("a number");
            (number(first), number(count))
        };
        let (old, count) = of("/etc/subuid");
        let _guard = ACCOUNTS.lock().unwrap_or_else(PoisonError::into_inner);
        let new = free_range();
        let change = move |name: &str, from: u32, to: u32| {
            let range = |first: u32| format!("{first}-{}", first + count - 1);
            let (from, to) = (range(from), range(to));
            run(Command::new("/usr/sbin/usermod").args([
                "--del-subuids",
                &from,
                "--del-subgids",
                &from,
                "--add-subuids",
                &to,
                "--add-subgids",
                &to,
                name,
            ]))
            .ok();
        };
        change(&self.name, old, new);
        let name = self.name.clone();
        move || {
            let _guard = ACCOUNTS.lock().unwrap_or_else(PoisonError::into_inner);
            change(&name, new, old);
        }
    }

    /// Makes a command run as this user.
    pub(crate) fn becomes<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.uid(self.uid).gid(self.gid)
    }

    /// The number of the user, and of its group.
    pub(crate) fn ids(&self) -> (u32, u32) {
        (self.uid, self.gid)
    }

    /// Gives a directory, and what is in it, to this user.
    pub(crate) fn owns(&self, dir: &Path) {
        for entry in walkdir::WalkDir::new(dir).into_iter().flatten() {
            std::os::unix::fs::lchown(entry.path(), Some(self.uid), Some(self.gid))
                .expect("root may give files away");
        }
    }

    /// Copies the program to `dir`, where this user may run it: the target directory may lie in a home that is closed to others.
    pub(crate) fn can_run(&self, dir: &Path) -> PathBuf {
        let place = dir.join("sos");
        std::fs::copy(env!("CARGO_BIN_EXE_sos"), &place).expect("the program");
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("its mode");
        std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o755)).expect("its mode");
        place
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _guard = ACCOUNTS.lock().unwrap_or_else(PoisonError::into_inner);
        // Fails only when the account is gone already.
        drop(Command::new("/usr/sbin/userdel").arg(&self.name).output());
    }
}

/// The first subordinate id behind every range that is given away.
fn free_range() -> u32 {
    ["/etc/subuid", "/etc/subgid"]
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .flat_map(|text| {
            let end = |line: &str| {
                let mut fields = line.split(':').skip(1);
                Some(fields.next()?.parse::<u32>().ok()? + fields.next()?.parse::<u32>().ok()?)
            };
            text.lines().filter_map(end).collect::<Vec<_>>()
        })
        .fold(200_000, u32::max)
}
