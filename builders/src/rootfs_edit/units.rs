//! systemd unit files: where they are, what their `[Install]` section says, how names of instances are made.

use sos_engine::BuilderError;

use super::editor::{Editor, Kind, join, shown};

/// Where unit files are, best first. `/run` is empty in an image.
pub(super) const UNIT_DIRS: [&str; 4] = [
    "etc/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];

const SUFFIXES: [&str; 11] = [
    ".service",
    ".socket",
    ".timer",
    ".path",
    ".mount",
    ".automount",
    ".swap",
    ".target",
    ".slice",
    ".scope",
    ".device",
];

/// Links followed from one name of a unit to its file.
const MAX_ALIASES: usize = 8;

/// A unit file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// The name it is started by, an alias resolved: `ssh.service`, `getty@tty1.service`.
    pub(super) name: String,
    /// The path of its file, with a leading slash.
    pub(super) file: String,
    pub(super) install: Install,
}

/// What a unit file wants when it is enabled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Install {
    pub(super) wanted_by: Vec<String>,
    pub(super) required_by: Vec<String>,
    pub(super) upheld_by: Vec<String>,
    pub(super) alias: Vec<String>,
    pub(super) also: Vec<String>,
    pub(super) default_instance: Option<String>,
}

impl Install {
    /// Tells whether enabling does anything.
    pub(super) fn is_empty(&self) -> bool {
        *self
            == Self {
                default_instance: self.default_instance.clone(),
                ..Self::default()
            }
    }
}

/// What a name leads to.
pub(super) enum Found {
    Unit(Unit),
    Masked,
    Nothing,
}

/// Gives a name its suffix: `ssh` is `ssh.service`.
pub(super) fn full_name(name: &str) -> String {
    if SUFFIXES
        .iter()
        .any(|suffix| name.len() > suffix.len() && name.ends_with(suffix))
    {
        name.to_owned()
    } else {
        format!("{name}.service")
    }
}

/// Tells whether a name can be that of a unit.
pub(super) fn is_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    !name.is_empty() && name.len() < 256 && name.bytes().all(good) && !name.starts_with('.')
}

/// Splits `getty@tty1.service` into `getty`, `tty1` and `.service`; the instance of a template is empty.
pub(super) fn instance(name: &str) -> Option<(&str, &str, &str)> {
    let (prefix, rest) = name.split_once('@')?;
    let (instance, _) = rest.rsplit_once('.')?;
    Some((prefix, instance, &rest[instance.len()..]))
}

/// Finds the unit of a full name.
pub(super) fn find(editor: &Editor<'_>, name: &str) -> Result<Found, BuilderError> {
    let mut name = name.to_owned();
    for _ in 0..MAX_ALIASES {
        // An instance has a file of its own or that of its template.
        let template = instance(&name).map(|(prefix, _, suffix)| format!("{prefix}@{suffix}"));
        let files = [Some(name.clone()), template];
        let mut alias = None;
        'files: for file in files.into_iter().flatten() {
            for dir in UNIT_DIRS {
                let path = join(dir.as_bytes(), file.as_bytes());
                match editor.get(&path)? {
                    None => {}
                    Some((_, Kind::File { .. })) => {
                        let text = editor.read(&path)?.unwrap_or_default();
                        let install = parse_install(&String::from_utf8_lossy(&text));
                        let file = format!("/{}", shown(&editor.resolve(&path)?));
                        return Ok(Found::Unit(Unit {
                            name,
                            file,
                            install,
                        }));
                    }
                    Some((_, Kind::Symlink { target })) => {
                        let target = String::from_utf8_lossy(&target).into_owned();
                        if target == "/dev/null" {
                            return Ok(Found::Masked);
                        }
                        let last = target.rsplit('/').next().unwrap_or_default().to_owned();
                        if last == file
                            || Some(&last)
                                == instance(&name).map(|(p, _, s)| format!("{p}@{s}")).as_ref()
                        {
                            // A link out of the search path to a file of the same name.
                            let text = editor.read(&path)?.unwrap_or_default();
                            let install = parse_install(&String::from_utf8_lossy(&text));
                            return Ok(Found::Unit(Unit {
                                name,
                                file: target,
                                install,
                            }));
                        }
                        alias = Some(last);
                        break 'files;
                    }
                    Some(_) => {}
                }
            }
        }
        match alias {
            // An alias of a template keeps the instance.
            Some(real) => {
                name = match (instance(&real), instance(&name)) {
                    (Some((prefix, "", suffix)), Some((_, wanted, _))) => {
                        format!("{prefix}@{wanted}{suffix}")
                    }
                    _ => real,
                };
            }
            None => return Ok(Found::Nothing),
        }
    }
    Ok(Found::Nothing)
}

/// Lists the names of all unit files, for suggestions.
pub(super) fn names(editor: &Editor<'_>) -> Result<Vec<String>, BuilderError> {
    let mut names = Vec::new();
    for dir in UNIT_DIRS {
        for (name, kind) in editor.list(dir.as_bytes())? {
            if !matches!(kind, Kind::Dir) {
                names.push(String::from_utf8_lossy(&name).into_owned());
            }
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Reads the `[Install]` section.
fn parse_install(text: &str) -> Install {
    let mut install = Install::default();
    let mut inside = false;
    let mut pending = String::new();
    for line in text.lines() {
        let line = line.trim();
        // Comments are left out even in the middle of a continued line.
        if line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(begun) = line.strip_suffix('\\') {
            pending.push_str(begun);
            pending.push(' ');
            continue;
        }
        pending.push_str(line);
        let line = std::mem::take(&mut pending);
        if line.starts_with('[') {
            inside = line.trim() == "[Install]";
            continue;
        }
        let Some((key, value)) = line.split_once('=').filter(|_| inside) else {
            continue;
        };
        let words = || {
            value
                .split_whitespace()
                .map(|word| word.trim_matches('"').to_owned())
        };
        let list = match key.trim() {
            "WantedBy" => &mut install.wanted_by,
            "RequiredBy" => &mut install.required_by,
            "UpheldBy" => &mut install.upheld_by,
            "Alias" => &mut install.alias,
            "Also" => &mut install.also,
            "DefaultInstance" => {
                install.default_instance = words().next();
                continue;
            }
            _ => continue,
        };
        if value.trim().is_empty() {
            list.clear();
        }
        list.extend(words());
    }
    install
}

/// Replaces the specifiers that an `[Install]` section may hold.
pub(super) fn expand(text: &str, unit: &str) -> String {
    let stem = unit.rsplit_once('.').map_or(unit, |(stem, _)| stem);
    let (prefix, wanted) = match instance(unit) {
        Some((prefix, wanted, _)) => (prefix, wanted),
        None => (stem, ""),
    };
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('i') => out.push_str(wanted),
            Some('p') => out.push_str(prefix),
            Some('n') => out.push_str(unit),
            Some('N') => out.push_str(stem),
            Some('j') => out.push_str(prefix.rsplit('-').next().unwrap_or(prefix)),
            Some('%') => out.push('%'),
            other => {
                out.push('%');
                out.extend(other);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn install_sections() {
        let install = parse_install(
            "[Unit]\nWantedBy=no.target\n[Install]\n# c\nWantedBy=a.target b.target \\\n; c\n c.target\nAlias=x.service\n\
             RequiredBy=gone.target\nRequiredBy=\nAlso = y.socket\nDefaultInstance=one\n[X]\nAlias=no.service\n",
        );
        assert_eq!(install.wanted_by, ["a.target", "b.target", "c.target"]);
        assert_eq!(install.alias, ["x.service"]);
        assert!(install.required_by.is_empty());
        assert_eq!(install.also, ["y.socket"]);
        assert_eq!(install.default_instance.as_deref(), Some("one"));
        assert!(!install.is_empty());
        assert!(parse_install("[Install]\nDefaultInstance=x").is_empty());
    }

    #[test]
    fn names_of_units() {
        assert_eq!(full_name("ssh"), "ssh.service");
        assert_eq!(full_name("a.timer"), "a.timer");
        assert_eq!(full_name("a.b"), "a.b.service");
        assert_eq!(
            instance("getty@tty1.service"),
            Some(("getty", "tty1", ".service"))
        );
        assert_eq!(instance("getty@.service"), Some(("getty", "", ".service")));
        assert_eq!(instance("ssh.service"), None);
        assert_eq!(
            expand("%p-%i-%n-%N-%%", "a-b@c.service"),
            "a-b-c-a-b@c.service-a-b@c-%"
        );
    }
}
