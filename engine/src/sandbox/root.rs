//! The root directory of a run, built by init in its own mount namespace.
//!
//! Every target is opened *below* the new root (`openat2` with `RESOLVE_IN_ROOT`) and mounted on by descriptor, so a
//! symbolic link in a root filesystem or a shown directory cannot lead a mount elsewhere.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use super::protocol::{Failure, Naming};
use super::spec::{Bind, InlineFile, Input, Shape, Spec};
use super::sys;
use super::sys::{ATTR_NODEV, ATTR_NOSUID, ATTR_RDONLY};
use super::vary::Reordered;

const NODES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Parts of `/proc` through which a process with the machine's user 0 could change the machine.
const PROC_READ_ONLY: [&str; 12] = [
    "sys",
    "sysrq-trigger",
    "irq",
    "bus",
    "fs",
    "acpi",
    "scsi",
    "asound",
    "driver",
    "tty",
    "mtrr",
    "pressure",
];
/// Parts of `/proc` that show the machine's memory to its user 0, and to nobody else.
const PROC_COVERED: [&str; 4] = ["kcore", "kpagecount", "kpageflags", "kpagecgroup"];
/// What `statfs` calls a memory filesystem.
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;
/// The group `tty` of Debian and everybody else, which owns terminals.
const TTY_GROUP: u32 = 5;

/// Builds the root of `spec` and makes it the root of this process.
pub(super) fn build(spec: &Spec) -> Result<(), Failure> {
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .naming(|| "make mounts private".to_owned())?;
    let top = spec.scratch.join("root");
    make_dir(CWD, &top, 0o755).naming(|| format!("create {}", top.display()))?;
    let root = match &spec.shape {
        Shape::Nix {
            store_dir,
            outputs,
            inputs,
            build_dir,
        } => {
            let root = nix_root(spec, &top)?;
            let (build_dir, inputs) = match &spec.vary.reordered {
                Some(chosen) => reordered(&spec.scratch, chosen, build_dir, inputs)?,
                None => (build_dir.clone(), inputs.clone()),
            };
            bind(&root, &build_dir, &spec.cwd, 0)?;
            place_store(&root, outputs, store_dir)?;
            root.show_inputs(store_dir, &inputs)?;
            root
        }
        Shape::Step {
            lower,
            upper,
            work,
            writable,
        } => step_root(spec, &top, lower, upper, work, writable)?,
    };
    for shown in &spec.binds {
        show(&root, shown)?;
    }
    enter(&root.fd)
}

/// Mounts inputs below a directory of this machine, for runs that begin with this namespace.
pub(super) fn prepare(dir: &Path, inputs: &[Input]) -> Result<(), Failure> {
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .naming(|| "make mounts private".to_owned())?;
    let root = Root::open(Path::new("/"), false)?;
    // A mount of its own, which runs take as it is.
    bind(&root, dir, dir, 0)?;
    root.show_inputs(dir, inputs)
}

/// The new root while it is being built.
struct Root {
    fd: OwnedFd,
    /// Missing mount points are made anywhere; otherwise only in memory filesystems, because those of a root
    /// filesystem come from a layer of their own and must not show as changes.
    create: bool,
}

fn nix_root(spec: &Spec, top: &Path) -> Result<Root, Failure> {
    rustix::mount::mount(
        "none",
        top,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        c"mode=0755",
    )
    .naming(|| "mount the root directory".to_owned())?;
    let root = Root::open(top, true)?;
    for dir in &spec.tmpfs {
        root.directory(dir, 0o1777)?;
    }
    root.directory(Path::new("/dev"), 0o755)?;
    let privileged = rustix::process::getuid().is_root() || outside_is_root();
    root.proc(privileged)?;
    root.devices(spec, None)?;
    for file in &spec.files {
        root.write(file)?;
    }
    Ok(root)
}

/// Puts copies that list in another order in place of the build directory and of the chosen inputs.
fn reordered(
    scratch: &Path,
    chosen: &[String],
    build_dir: &Path,
    inputs: &[Input],
) -> Result<(PathBuf, Vec<Input>), Failure> {
    let copies = Reordered::mount(scratch)?;
    let build_dir = copies.copy(build_dir, OsStr::new("build"))?;
    let mut inputs = inputs.to_vec();
    for input in inputs.iter_mut().filter(|i| chosen.contains(&i.base)) {
        if rustix::fs::lstat(&input.physical)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        {
            input.physical = copies.copy(&input.physical, OsStr::new(&input.base))?;
        }
    }
    Ok((build_dir, inputs))
}

/// Tells whether this user namespace's caller is the machine's user 0.
fn outside_is_root() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
        map.lines()
            .any(|line| line.split_ascii_whitespace().nth(1) == Some("0"))
    })
}

fn step_root(
    spec: &Spec,
    top: &Path,
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    writable: &[(PathBuf, PathBuf)],
) -> Result<Root, Failure> {
    mount_overlay(top, lower, upper, work)?;
    let root = Root::open(top, false)?;
    root.proc(true)?;
    root.mount_tmpfs(Path::new("/dev"), "mode=0755")?;
    root.devices(spec, Some(TTY_GROUP))?;
    // Nothing can be made in it: its one inode is the directory. For reading only it would have one more error for those who set
    // the times of all files.
    root.mount_tmpfs(Path::new("/sys"), "mode=0555,nr_inodes=1")?;
    for dir in &spec.tmpfs {
        let below = root.open_at(dir)?;
        let mode = rustix::fs::fstat(&below)
            .naming(|| format!("stat {}", dir.display()))?
            .st_mode
            & 0o7777;
        root.mount_tmpfs(dir, &format!("mode={mode:o}"))?;
    }
    if let Some(dir) = &spec.vary.temporary {
        root.directory(dir, 0o1777)?;
    }
    let private = Root {
        fd: root
            .fd
            .try_clone()
            .naming(|| "copy a descriptor".to_owned())?,
        create: true,
    };
    for (inside, outside) in writable {
        bind(&private, outside, inside, 0)?;
    }
    for file in &spec.files {
        private.write(file)?;
    }
    Ok(root)
}

fn mount_overlay(top: &Path, lower: &[PathBuf], upper: &Path, work: &Path) -> Result<(), Failure> {
    // By descriptor: no character of a path needs escaping, and no path of the machine shows in /proc/mounts.
    let open = |path: &Path| {
        rustix::fs::open(
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .naming(|| format!("open {}", path.display()))
    };
    let fds = lower
        .iter()
        .map(|p| open(p))
        .collect::<Result<Vec<_>, _>>()?;
    let (upper, work) = (open(upper)?, open(work)?);
    let layers: Vec<String> = fds.iter().map(fd_path).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={},userxattr,xino=off",
        layers.join(":"),
        fd_path(&upper),
        fd_path(&work)
    );
    let mount = |options: &str| {
        let options = CString::new(options).map_err(io::Error::other)?;
        let flags = MountFlags::NODEV;
        Ok(rustix::mount::mount(
            "overlay",
            top,
            "overlay",
            flags,
            options.as_c_str(),
        )?)
    };
    // The store is synchronised when all of it is there; until then nothing is, and no file waits for the disk when it is copied up.
    // Kernels before 5.10 do not know the option.
    mount(&format!("{options},volatile"))
        .or_else(|_: io::Error| mount(&options))
        .naming(|| "mount the overlay of the root filesystem".to_owned())
}

fn fd_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Makes a directory with exactly this mode unless there is one already.
fn make_dir(at: BorrowedFd<'_>, path: impl AsRef<OsStr>, mode: u32) -> io::Result<()> {
    let path = path.as_ref();
    match rustix::fs::mkdirat(at, path, Mode::from_raw_mode(mode)) {
        Ok(()) if mode & !0o755 != 0 => {
            rustix::fs::chmodat(at, path, Mode::from_raw_mode(mode), AtFlags::empty())?;
            Ok(())
        }
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

impl Root {
    fn open(top: &Path, create: bool) -> Result<Self, Failure> {
        let fd = rustix::fs::open(
            top,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .naming(|| "open the new root directory".to_owned())?;
        Ok(Self { fd, create })
    }

    /// Opens a path below the new root without access to its content.
    fn open_at(&self, inside: &Path) -> Result<OwnedFd, Failure> {
        self.find(inside)
            .naming(|| format!("find the mount point {}", inside.display()))
    }

    fn find(&self, inside: &Path) -> Result<OwnedFd, Errno> {
        let relative = inside.strip_prefix("/").unwrap_or(inside);
        let relative = if relative.as_os_str().is_empty() {
            Path::new(".")
        } else {
            relative
        };
        rustix::fs::openat2(
            &self.fd,
            relative,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    }

    /// Opens the directory of `inside`, making what is missing, and returns it with the last name.
    fn parent<'a>(&self, inside: &'a Path) -> Result<(OwnedFd, &'a OsStr), Failure> {
        let bad = || format!("use the path {}", inside.display());
        let (Some(parent), Some(name)) = (inside.parent(), inside.file_name()) else {
            return Err(Errno::INVAL).naming(bad);
        };
        if inside
            .components()
            .any(|c| matches!(c, Component::ParentDir))
        {
            return Err(Errno::INVAL).naming(bad);
        }
        let fd = match self.find(parent) {
            Err(Errno::NOENT) => self.directory(parent, 0o755)?,
            other => other.naming(|| format!("open {}", parent.display()))?,
        };
        Ok((fd, name))
    }

    fn may_create(&self, parent: &OwnedFd, inside: &Path) -> Result<(), Failure> {
        let in_memory = || rustix::fs::fstatfs(parent).is_ok_and(|fs| fs.f_type == TMPFS_MAGIC);
        if self.create || in_memory() {
            Ok(())
        } else {
            Err(Errno::NOENT).naming(|| format!("find the mount point {}", inside.display()))
        }
    }

    /// Opens a directory, making what is missing of it.
    fn directory(&self, inside: &Path, mode: u32) -> Result<OwnedFd, Failure> {
        match self.find(inside) {
            Err(Errno::NOENT) => {
                let (parent, name) = self.parent(inside)?;
                self.may_create(&parent, inside)?;
                make_dir(parent.as_fd(), name, mode)
                    .naming(|| format!("create {}", inside.display()))?;
                self.open_at(inside)
            }
            other => other.naming(|| format!("open {}", inside.display())),
        }
    }

    /// Opens a file, making an empty one if it is missing.
    fn file(&self, inside: &Path) -> Result<OwnedFd, Failure> {
        match self.find(inside) {
            Err(Errno::NOENT) => {
                let (parent, name) = self.parent(inside)?;
                self.may_create(&parent, inside)?;
                rustix::fs::openat(
                    &parent,
                    name,
                    OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
                    Mode::from_raw_mode(0o444),
                )
                .naming(|| format!("create {}", inside.display()))?;
                self.open_at(inside)
            }
            other => other.naming(|| format!("open {}", inside.display())),
        }
    }

    fn write(&self, file: &InlineFile) -> Result<(), Failure> {
        let what = || format!("write {}", file.path.display());
        let (parent, name) = self.parent(&file.path)?;
        let fd = rustix::fs::openat(
            &parent,
            name,
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o600),
        )
        .naming(what)?;
        let mut fd = File::from(fd);
        fd.write_all(&file.content).naming(what)?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(file.mode)).naming(what)
    }

    fn symlink(&self, target: &OsStr, inside: &Path) -> Result<(), Failure> {
        let (parent, name) = self.parent(inside)?;
        rustix::fs::symlinkat(target, &parent, name)
            .naming(|| format!("create {}", inside.display()))
    }

    fn mount_tmpfs(&self, inside: &Path, options: &str) -> Result<(), Failure> {
        let target = self.directory(inside, 0o755)?;
        let options = CString::new(options)
            .map_err(io::Error::other)
            .naming(|| "write mount options".to_owned())?;
        rustix::mount::mount(
            "none",
            fd_path(&target),
            "tmpfs",
            MountFlags::NOSUID | MountFlags::NODEV,
            options.as_c_str(),
        )
        .naming(|| format!("mount a memory filesystem at {}", inside.display()))
    }

    fn proc(&self, protect: bool) -> Result<(), Failure> {
        let target = self.directory(Path::new("/proc"), 0o755)?;
        rustix::mount::mount(
            "proc",
            fd_path(&target),
            "proc",
            MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
            None,
        )
        .naming(|| "mount /proc".to_owned())?;
        if protect {
            for part in PROC_READ_ONLY {
                let inside = Path::new("/proc").join(part);
                if let Ok(source) = self.find(&inside) {
                    let mount = clone_tree(source.as_fd(), Path::new(""), ATTR_RDONLY)?;
                    attach(&mount, &source, &inside)?;
                }
            }
            for part in PROC_COVERED {
                let inside = Path::new("/proc").join(part);
                if let Ok(target) = self.find(&inside) {
                    let mount = clone_tree(CWD, Path::new("/dev/null"), ATTR_RDONLY)?;
                    attach(&mount, &target, &inside)?;
                }
            }
        }
        Ok(())
    }

    fn devices(&self, spec: &Spec, tty_group: Option<u32>) -> Result<(), Failure> {
        // What is in `/dev` is ours in both shapes: an empty memory filesystem.
        let dev = Self {
            fd: self
                .fd
                .try_clone()
                .naming(|| "copy a descriptor".to_owned())?,
            create: true,
        };
        let nodes = NODES
            .iter()
            .map(|name| Path::new("/dev").join(name))
            .chain(spec.devices.iter().cloned());
        for node in nodes {
            let target = dev.file(&node)?;
            // The node itself is that of the machine: its owner, mode and times are not for builds to change, and those of root
            // could. What is written to a device is no write to the file system that it lies in.
            let mount = clone_tree(CWD, &node, ATTR_RDONLY)?;
            attach(&mount, &target, &node)?;
        }
        for (target, link) in [
            ("/proc/self/fd", "/dev/fd"),
            ("/proc/self/fd/0", "/dev/stdin"),
            ("/proc/self/fd/1", "/dev/stdout"),
            ("/proc/self/fd/2", "/dev/stderr"),
            ("pts/ptmx", "/dev/ptmx"),
        ] {
            dev.symlink(OsStr::new(target), Path::new(link))?;
        }
        dev.mount_tmpfs(Path::new("/dev/shm"), "mode=1777")?;
        let pts = dev.directory(Path::new("/dev/pts"), 0o755)?;
        let mut options = "newinstance,mode=0620,ptmxmode=0666".to_owned();
        if let Some(group) = tty_group {
            options.push_str(&format!(",gid={group}"));
        }
        let options = CString::new(options)
            .map_err(io::Error::other)
            .naming(|| "write mount options".to_owned())?;
        rustix::mount::mount(
            "none",
            fd_path(&pts),
            "devpts",
            MountFlags::NOSUID | MountFlags::NOEXEC,
            options.as_c_str(),
        )
        .naming(|| "mount /dev/pts".to_owned())
    }

    /// Shows each input below the store directory, which is writable itself.
    fn show_inputs(&self, store_dir: &Path, inputs: &[Input]) -> Result<(), Failure> {
        let store = self.open_at(store_dir)?;
        for input in inputs {
            let what = || format!("show the input {}", input.physical.display());
            let stat = rustix::fs::lstat(&input.physical).naming(what)?;
            let name = OsStr::new(&input.base);
            match FileType::from_raw_mode(stat.st_mode) {
                // A link cannot be mounted on; a copy of it is the same thing.
                FileType::Symlink => {
                    let target = rustix::fs::readlink(&input.physical, Vec::new()).naming(what)?;
                    rustix::fs::symlinkat(target, &store, name).naming(what)?;
                    continue;
                }
                FileType::Directory => make_dir(store.as_fd(), name, 0o755).naming(what)?,
                _ => drop(
                    rustix::fs::openat(
                        &store,
                        name,
                        OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
                        Mode::from_raw_mode(0o444),
                    )
                    .naming(what)?,
                ),
            }
            let target = rustix::fs::openat(
                &store,
                name,
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .naming(what)?;
            let mount = clone_tree(CWD, &input.physical, ATTR_RDONLY)?;
            attach(&mount, &target, &input.physical)?;
        }
        Ok(())
    }
}

/// Clones a host path as a detached mount with these attributes besides nosuid.
fn clone_tree(at: BorrowedFd<'_>, path: &Path, attributes: u64) -> Result<OwnedFd, Failure> {
    let what = || format!("show {}", path.display());
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    if path.as_os_str().is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    let mount = rustix::mount::open_tree(at, path, flags).naming(what)?;
    // Device nodes of the machine are shown on purpose, everything else loses them.
    let nodev = if path.starts_with("/dev") {
        0
    } else {
        ATTR_NODEV
    };
    sys::mount_setattr(mount.as_fd(), true, attributes | ATTR_NOSUID | nodev, 0).naming(what)?;
    Ok(mount)
}

fn attach(mount: &OwnedFd, target: &OwnedFd, name: &Path) -> Result<(), Failure> {
    rustix::mount::move_mount(
        mount,
        "",
        target,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
    .naming(|| format!("mount {}", name.display()))
}

fn bind(root: &Root, outside: &Path, inside: &Path, attributes: u64) -> Result<(), Failure> {
    let mount = clone_tree(CWD, outside, attributes)?;
    let target = root.directory(inside, 0o755)?;
    attach(&mount, &target, inside)
}

/// Mounts the directory of the outputs; a prepared one is a mount already, and moves with all that is mounted in it.
fn place_store(root: &Root, outputs: &Path, store_dir: &Path) -> Result<(), Failure> {
    let prepared = rustix::fs::open(
        outputs,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .naming(|| format!("open {}", outputs.display()))?;
    let target = root.directory(store_dir, 0o755)?;
    match attach(&prepared, &target, store_dir) {
        Err(failure) if failure.errno == libc::EINVAL => bind(root, outputs, store_dir, 0),
        other => other,
    }
}

fn show(root: &Root, shown: &Bind) -> Result<(), Failure> {
    let stat = match rustix::fs::stat(&shown.outside) {
        Err(Errno::NOENT | Errno::NOTDIR) if shown.optional => return Ok(()),
        other => other.naming(|| format!("find {}", shown.outside.display()))?,
    };
    let target = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        root.directory(&shown.inside, 0o755)
    } else {
        root.file(&shown.inside)
    };
    let target = match target {
        Err(failure) if shown.optional && failure.errno == libc::ENOENT => return Ok(()),
        other => other?,
    };
    let attributes = if shown.writable { 0 } else { ATTR_RDONLY };
    let mount = clone_tree(CWD, &shown.outside, attributes)?;
    attach(&mount, &target, &shown.inside)
}

/// Makes the new root the root of this process and lets go of the old one.
fn enter(root: &OwnedFd) -> Result<(), Failure> {
    let what = || "enter the new root directory".to_owned();
    rustix::process::fchdir(root).naming(what)?;
    // The old root is stacked on the new one, and then taken off.
    rustix::process::pivot_root(".", ".").naming(what)?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).naming(what)?;
    rustix::process::chdir("/").naming(what)
}
