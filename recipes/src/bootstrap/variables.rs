//! The variables of a run: a list, as upstream's generator keeps it, and not a map.

use sos_formats::diagnostic::SourceFile;

use crate::problems::Problems;

/// Names and values, in the order in which they are written to `bootstrap.cfg`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Variables(Vec<(String, String)>);

impl Variables {
    /// Takes a list as it is.
    pub fn new(list: Vec<(String, String)>) -> Self {
        Self(list)
    }

    /// Returns the value of the first variable of that name; one that is not there is empty.
    pub fn get(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(n, _)| n == name);
        found.map_or("", |(_, value)| value)
    }

    /// Says whether there is a variable of that name.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(n, _)| n == name)
    }

    /// Gives a variable a value before the manifest is read: in its place, or at the end.
    pub fn set(&mut self, name: &str, value: &str) {
        if !self.has(name) {
            self.0.push((name.to_owned(), value.to_owned()));
        }
        // A file may have it twice: the shell takes the last, and predicates the first.
        for (_, old) in self.0.iter_mut().filter(|(n, _)| n == name) {
            value.clone_into(old);
        }
    }

    /// What `define:` does. It never replaces the first variable of the list but adds another one of its name, which nobody finds;
    /// on an empty list it adds two. Upstream's generator is like that, and its output is what every plan has to agree with.
    pub fn define(&mut self, name: &str, value: &str) {
        let new = || (name.to_owned(), value.to_owned());
        if self.0.is_empty() {
            self.0.push(new());
        }
        match self.0.iter_mut().skip(1).find(|(n, _)| n == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.0.push(new()),
        }
    }

    /// Iterates in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    /// The variables that `wanted` says yes to, in the same order.
    pub(crate) fn only(&self, wanted: impl Fn(&str) -> bool) -> Self {
        let kept = self.0.iter().filter(|(name, _)| wanted(name));
        Self(kept.cloned().collect())
    }

    /// The variables as steps get them. The number of jobs is one, and mirrors are none: both are of a machine and must not get into
    /// what is built. Steps are told of its cores when they run, and files from outside are there before they do.
    pub(crate) fn of_no_machine(&self) -> Self {
        let mut out = self.only(|name| !matches!(name, "MIRRORS" | "MIRRORS_LEN"));
        let counts = |name: &str| matches!(name, "JOBS" | "FINAL_JOBS");
        for (_, value) in out.0.iter_mut().filter(|(name, _)| counts(name)) {
            "1".clone_into(value);
        }
        out
    }

    /// Returns the text of a `bootstrap.cfg`: one `NAME=value` a line.
    pub fn to_cfg(&self) -> String {
        self.iter().map(|(n, v)| format!("{n}={v}\n")).collect()
    }
}

/// Where upstream's `rootfs.py` runs what it prepares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// In a chroot.
    #[default]
    Chroot,
    /// In bubblewrap.
    Bwrap,
    /// In QEMU, with a kernel.
    Qemu,
    /// In QEMU, with no kernel.
    Kernel,
    /// On a machine, with no kernel.
    Bare,
}

impl Mode {
    /// The names of all modes.
    pub const NAMES: [&str; 5] = ["chroot", "bwrap", "qemu", "kernel", "bare"];

    /// Reads the name of a mode.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "chroot" => Self::Chroot,
            "bwrap" => Self::Bwrap,
            "qemu" => Self::Qemu,
            "kernel" => Self::Kernel,
            "bare" => Self::Bare,
            _ => return None,
        })
    }
}

/// The name of the directory of an architecture, as stage0-posix has it.
pub(crate) fn arch_dir(arch: &str) -> &str {
    match arch {
        "amd64" => "AMD64",
        other => other,
    }
}

/// What `rootfs.py` writes for a mode and an architecture, in its order. The number of jobs is one: a number of this machine must
/// not get into what is built, and steps are told of its cores when they run.
///
/// # Source
/// `fosslinux/live-bootstrap`, `rootfs.py`.
pub(super) fn defaults(mode: Mode, arch: &str) -> Variables {
    let flag = |on: bool| if on { "True" } else { "False" };
    let bare = mode == Mode::Bare;
    let no_kernel = bare || mode == Mode::Kernel;
    let list = [
        ("ARCH", arch),
        ("ARCH_DIR", arch_dir(arch)),
        ("FORCE_TIMESTAMPS", "False"),
        ("CHROOT", flag(matches!(mode, Mode::Chroot | Mode::Bwrap))),
        ("UPDATE_CHECKSUMS", "False"),
        ("JOBS", "1"),
        ("SWAP_SIZE", "0"),
        ("FINAL_JOBS", "1"),
        ("INTERNAL_CI", "False"),
        ("INTERACTIVE", "False"),
        ("QEMU", flag(matches!(mode, Mode::Qemu | Mode::Kernel))),
        ("BARE_METAL", flag(bare)),
        ("DISK", if no_kernel { "sda" } else { "sda1" }),
        ("KERNEL_BOOTSTRAP", flag(no_kernel)),
        ("BUILD_KERNELS", "False"),
        ("CONFIGURATOR", "False"),
    ];
    Variables(list.map(|(n, v)| (n.to_owned(), v.to_owned())).into())
}

/// Reads a `bootstrap.cfg`: `NAME=value` lines and nothing else.
pub(crate) fn read_cfg(file: &SourceFile, problems: &mut Problems) -> Variables {
    let mut list = Vec::new();
    if file.text.is_empty() {
        let message = "`bootstrap.cfg` is empty: upstream's programs take no such file";
        let problem = problems.error("bootstrap-syntax", message, &Some(0..0), "nothing is here");
        problems.add(problem.help("remove it: what upstream writes for a chroot is taken then"));
    }
    let mut start = 0;
    for line in file.text.split('\n') {
        let place = start..start + line.len();
        start += line.len() + 1;
        let last = start > file.text.len();
        if line.is_empty() && last {
            break;
        }
        let wrong = match line.split_once('=') {
            _ if line.starts_with('#') => "comments are not allowed here",
            _ if line.ends_with('\r') => "it ends with a carriage return",
            Some((name, value)) => match wrong(name, value) {
                Some(why) => why,
                None => {
                    list.push((name.to_owned(), value.to_owned()));
                    continue;
                }
            },
            None if line.is_empty() => "empty lines are not allowed here",
            None => "there is no `=` in it",
        };
        let message = format!("a line of `bootstrap.cfg` is not `NAME=value`: {wrong}");
        let problem = problems.error("bootstrap-syntax", message, &Some(place), "this line");
        problems.add(if line.ends_with('\r') {
            problem.help("lines end with a line feed alone: `sed -i 's/\\r$//'` repairs the file")
        } else {
            problem
        });
    }
    Variables(list)
}

/// Says why a line of this name and value would be more to a shell, or to kaem, than a variable with that value. A value in double
/// quotes may have blanks, as that of MIRRORS has.
pub(super) fn wrong(name: &str, value: &str) -> Option<&'static str> {
    if !is_name(name) {
        return Some("what is before `=` is no name of a variable");
    }
    let quoted = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
    let special = |c: char| match quoted {
        Some(_) => "\"`$\\".contains(c),
        None => " \t;&|<>()$`\\\"'*?[]#!{}".contains(c),
    };
    let text = quoted.unwrap_or(value);
    if text.chars().any(char::is_control) {
        return Some("there is a control character in the value");
    }
    if text.chars().any(special) || (quoted.is_none() && text.starts_with('~')) {
        return Some("the value has what means something to a shell");
    }
    None
}

/// Says whether `name` can be the name of a variable of a shell.
pub(crate) fn is_name(name: &str) -> bool {
    let first = name.bytes().next();
    first.is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::Variables;

    #[test]
    fn numbers_of_a_machine_stay_there() {
        let list = [
            ("A", "8"),
            ("JOBS", "8"),
            ("MIRRORS", "http://h:1"),
            ("MIRRORS_LEN", "1"),
            ("FINAL_JOBS", "4"),
            ("JOBS", "2"),
        ];
        let vars = Variables::new(list.map(|(n, v)| (n.to_owned(), v.to_owned())).into());
        assert_eq!(
            vars.of_no_machine().to_cfg(),
            "A=8\nJOBS=1\nFINAL_JOBS=1\nJOBS=1\n"
        );
    }

    #[test]
    fn define_never_replaces_the_first() {
        let mut vars = Variables::default();
        vars.define("A", "1");
        assert_eq!(vars.to_cfg(), "A=1\nA=1\n");
        vars.define("A", "2");
        assert_eq!(vars.to_cfg(), "A=1\nA=2\n");
        assert_eq!(vars.get("A"), "1");
        vars.define("B", "x");
        vars.define("B", "y");
        assert_eq!(vars.to_cfg(), "A=1\nA=2\nB=y\n");
    }
}
