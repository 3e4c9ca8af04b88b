//! The rules of `bootc container lint`, and what OSTree needs besides.
//!
//! Source: the lints of `bootc-dev/bootc`, `crates/lib/src/lints.rs`, and `ostree-prepare-root(1)`.

use sos_engine::BuilderError;
use sos_store::rootfs::{KindView, RootTree};

use super::Layout;
use super::accounts::{text_of, undeclared};
use super::layout::{below, is_dir, names_in};

/// Paths and names that one finding lists.
const LISTED: usize = 5;

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Severity {
    /// Such a system does not boot, or cannot be installed or updated.
    Error,
    /// It boots, and may surprise.
    Warning,
}

/// A rule that is broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Finding {
    pub(super) severity: Severity,
    /// The stable name of the rule.
    pub(super) rule: &'static str,
    /// What is wrong, with the path.
    pub(super) what: String,
    /// What to do.
    pub(super) fix: String,
}

/// Collects findings.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(
        &mut self,
        severity: Severity,
        rule: &'static str,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.0.push(Finding {
            severity,
            rule,
            what: what.into(),
            fix: fix.into(),
        });
    }
    fn error(&mut self, rule: &'static str, what: impl Into<String>, fix: impl Into<String>) {
        self.add(Severity::Error, rule, what, fix);
    }
    fn warn(&mut self, rule: &'static str, what: impl Into<String>, fix: impl Into<String>) {
        self.add(Severity::Warning, rule, what, fix);
    }
}

/// Checks a tree against every rule.
pub(super) fn check(tree: &RootTree, layout: Layout) -> Result<Vec<Finding>, BuilderError> {
    let mut found = Findings::default();
    let etc = match layout {
        Layout::Container => "etc",
        Layout::Ostree => "usr/etc",
    };
    top(tree, layout, &mut found)?;
    kernel(tree, &mut found)?;
    kargs(tree, &mut found)?;
    contents(tree, &mut found)?;
    config(tree, etc, &mut found)?;
    Ok(found.0)
}

/// The top directories and links.
fn top(tree: &RootTree, layout: Layout, found: &mut Findings) -> Result<(), BuilderError> {
    for dir in ["boot", "dev", "proc", "run", "sys", "sysroot", "tmp", "var"] {
        if !is_dir(tree, dir)? {
            let there = if tree.get(dir)?.is_some() {
                "is no directory"
            } else {
                "is missing"
            };
            found.error(
                "bootc-base-dirs",
                format!("`/{dir}` {there}"),
                "hosts mount something there: make it a directory",
            );
        }
    }
    match tree.get("ostree")?.map(|view| view.kind) {
        Some(KindView::Symlink {
            target: b"sysroot/ostree",
        }) => {}
        other => found.error(
            "bootc-ostree-link",
            match other {
                None => "`/ostree` is missing".to_owned(),
                Some(KindView::Symlink { target }) => {
                    format!("`/ostree` leads to `{}`", String::from_utf8_lossy(target))
                }
                Some(_) => "`/ostree` is no link".to_owned(),
            },
            "make it a link to `sysroot/ostree`",
        ),
    }
    let (etc, usr_etc) = (tree.get("etc")?.is_some(), tree.get("usr/etc")?.is_some());
    if etc && usr_etc {
        found.error(
            "bootc-two-etc",
            "both `/etc` and `/usr/etc` are there",
            "bring what is in `/usr/etc` to `/etc`, and remove it",
        );
    } else if layout == Layout::Ostree && !usr_etc {
        found.error(
            "bootc-no-usr-etc",
            "`/usr/etc` is missing",
            "a host makes its `/etc` of it: move `/etc` there",
        );
    }
    if let Some(view) = tree.get("var/run")?
        && !matches!(view.kind, KindView::Symlink { .. })
    {
        found.error(
            "bootc-var-run",
            "`/var/run` is no link",
            "make it a link to `/run`: what is in it would not be there at the next boot",
        );
    }
    Ok(())
}

fn kernel(tree: &RootTree, found: &mut Findings) -> Result<(), BuilderError> {
    const MODULES: &str = "usr/lib/modules";
    let mut kernels = Vec::new();
    for version in names_in(tree, MODULES)? {
        let dir = below(MODULES, &version);
        if tree.get([&dir, b"/vmlinuz".as_slice()].concat())?.is_some() {
            kernels.push(dir);
        }
    }
    match kernels.as_slice() {
        [] => found.error(
            "bootc-kernel",
            format!("there is no kernel: looked for `/{MODULES}/<version>/vmlinuz`"),
            "install a package with a kernel, such as `linux-image-cloud-amd64`",
        ),
        [dir] => {
            if tree
                .get([dir, b"/initramfs.img".as_slice()].concat())?
                .is_none()
            {
                found.warn(
                    "bootc-initramfs",
                    format!("`/{}/initramfs.img` is missing", shown(dir)),
                    "hosts need one to boot: make it with `dracut --no-hostonly --reproducible --add ostree`",
                );
            }
        }
        many => found.error(
            "bootc-kernel",
            format!("there are {} kernels: {}", many.len(), listed(many)),
            "keep one: it is not defined which of them boots",
        ),
    }
    Ok(())
}

/// `kargs.d`: arguments of the kernel.
fn kargs(tree: &RootTree, found: &mut Findings) -> Result<(), BuilderError> {
    const DIR: &str = "usr/lib/bootc/kargs.d";
    for name in names_in(tree, DIR)? {
        let path = below(DIR, &name);
        if !name.ends_with(b".toml") {
            continue;
        }
        let problem = match text_of(tree, &path)? {
            None => Some("it is no file, or larger than 1 MiB".to_owned()),
            Some(text) => karg_problem(&text),
        };
        if let Some(problem) = problem {
            found.error(
                "bootc-kargs",
                format!("`/{}` is not understood: {problem}", shown(&path)),
                "it holds `kargs = [\"...\"]`, and `match-architectures = [\"x86_64\"]` if it is not for all",
            );
        }
    }
    Ok(())
}

fn karg_problem(text: &str) -> Option<String> {
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => return Some(error.to_string().trim_end().replace('\n', " ")),
    };
    let mut problem = (!table.contains_key("kargs")).then(|| "`kargs` is missing".to_owned());
    for (key, value) in &table {
        let texts = value
            .as_array()
            .is_some_and(|list| list.iter().all(toml::Value::is_str));
        let wrong = match key.as_str() {
            "kargs" | "match-architectures" if texts => continue,
            "kargs" | "match-architectures" => format!("`{key}` is no list of strings"),
            other => format!("there is no key `{other}`"),
        };
        problem.get_or_insert(wrong);
    }
    problem
}

/// Names and kinds of everything, and directories that should be empty.
fn contents(tree: &RootTree, found: &mut Findings) -> Result<(), BuilderError> {
    let (mut names, mut special, mut logs, mut state) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    tree.walk(|path, _, kind| {
        let bad_target =
            matches!(kind, KindView::Symlink { target } if std::str::from_utf8(target).is_err());
        if std::str::from_utf8(path).is_err() || bad_target {
            names.push(path.to_vec());
        }
        match kind {
            KindView::Fifo | KindView::CharDev { .. } | KindView::BlockDev { .. } => {
                special.push(path.to_vec());
            }
            KindView::File { .. } if path.starts_with(b"var/log/") => logs.push(path.to_vec()),
            KindView::File { .. } if path.starts_with(b"var/") => state.push(path.to_vec()),
            _ => {}
        }
        Ok(())
    })?;
    if !names.is_empty() {
        found.error(
            "bootc-utf8",
            format!("names or link targets are not UTF-8: {}", listed(&names)),
            "rename or remove them",
        );
    }
    if !special.is_empty() {
        found.warn(
            "bootc-special",
            format!("OSTree cannot hold devices and pipes: {}", listed(&special)),
            "remove them: they are made when the system boots",
        );
    }
    if !logs.is_empty() {
        found.warn(
            "bootc-var-log",
            format!("there are logs: {}", listed(&logs)),
            "remove them",
        );
    }
    if !state.is_empty() {
        found.warn(
            "bootc-var",
            format!("there are files in `/var`: {}", listed(&state)),
            "they reach a host at its installation only: move them below `/usr`, or make them with `tmpfiles.d`",
        );
    }
    for dir in ["boot", "run", "tmp"] {
        let mut inside = names_in(tree, dir)?;
        // Firmware updates may lie there.
        inside.retain(|name| dir != "boot" || name != b"EFI");
        if !inside.is_empty() {
            let inside: Vec<Vec<u8>> = inside.iter().map(|name| below(dir, name)).collect();
            found.warn(
                "bootc-not-empty",
                format!("`/{dir}` is not empty: {}", listed(&inside)),
                "remove what is in it: hosts mount something over it",
            );
        }
    }
    Ok(())
}

/// Files of the configuration.
fn config(tree: &RootTree, etc: &str, found: &mut Findings) -> Result<(), BuilderError> {
    for name in ["hostname", "resolv.conf"] {
        let path = format!("{etc}/{name}");
        if matches!(tree.get(&path)?, Some(view) if matches!(view.kind, KindView::File { size: 0, .. }))
        {
            found.warn(
                "bootc-empty-config",
                format!("`/{path}` is empty, as programs that build containers leave it"),
                "remove it",
            );
        }
    }
    let prepare = [format!("{etc}/ostree"), "usr/lib/ostree".to_owned()];
    let mut text = None;
    for dir in prepare {
        if text.is_none() {
            text = text_of(tree, format!("{dir}/prepare-root.conf").as_bytes())?;
        }
    }
    if !text.is_some_and(|text| has_composefs(&text)) {
        found.warn(
            "bootc-prepare-root",
            "no `prepare-root.conf` turns composefs on",
            "write `/usr/lib/ostree/prepare-root.conf` with `[composefs]` and `enabled = true`, if the ostree of the image knows it",
        );
    }
    let lines = undeclared(tree, etc)?;
    if !lines.is_empty() {
        let more = lines.len().saturating_sub(LISTED);
        let mut first = lines[..lines.len() - more].join(", ");
        if more > 0 {
            first.push_str(&format!(" and {more} more"));
        }
        found.warn(
            "bootc-sysusers",
            format!("{} users and groups are in no file of `sysusers.d`", lines.len()),
            format!("hosts with an `/etc/passwd` of their own lack them; write these lines to `/usr/lib/sysusers.d/accounts.conf`: {first}"),
        );
    }
    if text_of(tree, b"usr/lib/os-release")?.is_none() {
        found.warn(
            "bootc-os-release",
            "`/usr/lib/os-release` is missing",
            "boot menus take the name of the system from it",
        );
    }
    Ok(())
}

fn has_composefs(text: &str) -> bool {
    let mut section = "";
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if let Some((key, value)) = line.split_once('=')
            && section == "[composefs]"
            && key.trim() == "enabled"
        {
            return !matches!(value.trim(), "false" | "no" | "0");
        }
    }
    false
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).escape_debug().to_string()
}

fn listed(paths: &[Vec<u8>]) -> String {
    let mut names: Vec<String> = paths
        .iter()
        .take(LISTED)
        .map(|path| format!("`/{}`", shown(path)))
        .collect();
    if paths.len() > LISTED {
        names.push(format!("{} more", paths.len() - LISTED));
    }
    names.join(", ")
}
