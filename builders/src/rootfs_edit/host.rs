//! Host name, machine id, time zone and locale.

use sos_engine::BuilderError;

use super::attrs::{EditAttrs, MachineId};
use super::editor::{Editor, Kind, join, recipe_path};
use super::problem;

/// `/etc/hosts` of a root that has none, as Debian's installer writes it.
const HOSTS: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    ff02::1\tip6-allnodes\n\
    ff02::2\tip6-allrouters\n";
/// The address by which a Debian host finds its own name.
const OWN_ADDRESS: &str = "127.0.1.1";
const ZONES: &str = "usr/share/zoneinfo";

/// Writes the settings that the recipe has.
pub(super) fn apply(editor: &mut Editor<'_>, attrs: &EditAttrs) -> Result<(), BuilderError> {
    if let Some(name) = &attrs.hostname {
        hostname(editor, name)?;
    }
    if let Some(state) = attrs.machine_id {
        machine_id(editor, state)?;
    }
    if let Some(zone) = &attrs.timezone {
        timezone(editor, zone)?;
    }
    if let Some(name) = &attrs.locale {
        locale(editor, name)?;
    }
    Ok(())
}

/// Writes `/etc/hostname`, and the name into `/etc/hosts`: without that line every program that looks up its own host
/// waits for a name server.
fn hostname(editor: &mut Editor<'_>, name: &str) -> Result<(), BuilderError> {
    let label = |label: &str| {
        let inner = label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        inner
            && !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        let message = format!("`{}` is not a host name", name.escape_debug());
        return Err(problem("rootfs-hostname", message)
            .help("use letters, digits, `-` and `.`")
            .into());
    }
    let meta = editor.meta(0o644, (0, 0));
    editor.rewrite(
        b"etc/hostname",
        format!("{name}\n").as_bytes(),
        meta.clone(),
    )?;
    let old = editor.read(b"etc/hosts")?;
    let old = old.map_or_else(
        || HOSTS.to_owned(),
        |bytes| String::from_utf8_lossy(&bytes).into_owned(),
    );
    editor.rewrite(b"etc/hosts", hosts(&old, name).as_bytes(), meta)
}

/// Puts a host's own name into the text of `/etc/hosts`.
fn hosts(old: &str, name: &str) -> String {
    let own = match name.split_once('.') {
        Some((short, _)) => format!("{OWN_ADDRESS}\t{name} {short}"),
        None => format!("{OWN_ADDRESS}\t{name}"),
    };
    let address = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let mut lines: Vec<String> = old.lines().map(str::to_owned).collect();
    if let Some(line) = lines
        .iter_mut()
        .find(|line| address(line).as_deref() == Some(OWN_ADDRESS))
    {
        *line = own;
    } else {
        let after = lines
            .iter()
            .position(|line| address(line).as_deref() == Some("127.0.0.1"));
        lines.insert(after.map_or(0, |at| at + 1), own);
    }
    lines.join("\n") + "\n"
}

fn machine_id(editor: &mut Editor<'_>, state: MachineId) -> Result<(), BuilderError> {
    let path = b"etc/machine-id";
    let meta = editor.meta(0o444, (0, 0));
    match state {
        MachineId::Empty => editor.rewrite(path, b"", meta)?,
        MachineId::Uninitialized => editor.rewrite(path, b"uninitialized\n", meta)?,
        MachineId::Absent => {
            editor.remove(path)?;
        }
    }
    // dbus has its own copy unless it is a link.
    if let Some((_, Kind::File { .. })) = editor.get(b"var/lib/dbus/machine-id")? {
        editor.remove(b"var/lib/dbus/machine-id")?;
    }
    Ok(())
}

fn timezone(editor: &mut Editor<'_>, zone: &str) -> Result<(), BuilderError> {
    let file = format!("{ZONES}/{zone}");
    let path = recipe_path(&format!("/{file}"))?;
    let known = matches!(
        editor.get(&editor.resolve(&path)?)?,
        Some((_, Kind::File { .. }))
    );
    // A root without time zones is in UTC.
    if !known && !matches!(zone, "UTC" | "Etc/UTC") {
        let mut names = Vec::new();
        collect_zones(editor, &mut names)?;
        let message = format!("the root file system has no time zone `{zone}`");
        let error =
            problem("rootfs-timezone", message).suggest(zone, names.iter().map(String::as_str));
        return Err(if names.is_empty() {
            error.help("install `tzdata`")
        } else {
            error
        }
        .into());
    }
    let meta = editor.meta(0o644, (0, 0));
    editor.rewrite(b"etc/timezone", format!("{zone}\n").as_bytes(), meta)?;
    if !known {
        return Ok(());
    }
    let meta = editor.meta(0o777, (0, 0));
    editor.put(
        b"etc/localtime",
        meta,
        Kind::Symlink {
            target: format!("/{file}").into_bytes(),
        },
    )
}

/// Lists the zones for suggestions, two levels deep as they are.
fn collect_zones(editor: &Editor<'_>, names: &mut Vec<String>) -> Result<(), BuilderError> {
    for (area, kind) in editor.list(ZONES.as_bytes())? {
        let area_text = String::from_utf8_lossy(&area).into_owned();
        if matches!(kind, Kind::Dir) {
            for (city, _) in editor.list(&join(ZONES.as_bytes(), &area))? {
                names.push(format!("{area_text}/{}", String::from_utf8_lossy(&city)));
            }
        } else {
            names.push(area_text);
        }
    }
    Ok(())
}

fn locale(editor: &mut Editor<'_>, name: &str) -> Result<(), BuilderError> {
    if name.is_empty()
        || !name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.@-".contains(&byte))
    {
        return Err(problem(
            "rootfs-locale",
            format!("`{}` is not a locale", name.escape_debug()),
        )
        .into());
    }
    let builtin = matches!(name, "C" | "POSIX" | "C.UTF-8" | "C.utf8");
    let has = |path: &str| editor.exists(path.as_bytes());
    if !builtin
        && !has("usr/lib/locale/locale-archive")?
        && !has(&format!("usr/lib/locale/{name}"))?
    {
        editor.build.log(&format!(
            "warning: locale `{name}` is set but not in the image; install `locales-all`"
        ));
    }
    let meta = editor.meta(0o644, (0, 0));
    editor.rewrite(
        b"etc/default/locale",
        format!("LANG={name}\n").as_bytes(),
        meta,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_name_in_hosts() {
        assert_eq!(
            hosts("127.0.0.1 localhost\n::1 localhost\n", "web"),
            "127.0.0.1 localhost\n127.0.1.1\tweb\n::1 localhost\n"
        );
        assert_eq!(
            hosts("127.0.0.1 localhost\n127.0.1.1 old\n", "web.example.org"),
            "127.0.0.1 localhost\n127.0.1.1\tweb.example.org web\n"
        );
        assert_eq!(hosts("# nothing\n", "web"), "127.0.1.1\tweb\n# nothing\n");
    }
}
