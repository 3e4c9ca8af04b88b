//! Enabling, disabling and masking units as `systemctl --root` does, from their `[Install]` sections.

use std::collections::BTreeSet;

use sos_engine::BuilderError;
use sos_formats::diagnostic::Diagnostic;

use super::attrs::ServiceAttrs;
use super::editor::{Editor, Kind, join, shown};
use super::problem;
use super::problems::Problems;
use super::units::{Found, Unit, expand, find, full_name, instance, is_name, names};

/// Where the links go.
const CONFIG: &str = "etc/systemd/system";

/// Applies the changes; masks come last, because a masked unit can no longer be read.
pub(super) fn apply(
    editor: &mut Editor<'_>,
    services: &ServiceAttrs,
    problems: &mut Problems,
) -> Result<(), BuilderError> {
    let mut done = BTreeSet::new();
    for (i, name) in services.enable.iter().enumerate() {
        let enabled = checked(name).and_then(|name| enable(editor, &name, &mut done));
        problems.keep(|| format!("services/enable/{i}"), enabled)?;
    }
    for (i, name) in services.disable.iter().enumerate() {
        let disabled = checked(name).and_then(|name| disable(editor, &name));
        problems.keep(|| format!("services/disable/{i}"), disabled)?;
    }
    for (i, name) in services.mask.iter().enumerate() {
        let masked = checked(name).and_then(|name| mask(editor, &name));
        problems.keep(|| format!("services/mask/{i}"), masked)?;
    }
    Ok(())
}

fn checked(name: &str) -> Result<String, BuilderError> {
    if is_name(name) {
        return Ok(full_name(name));
    }
    Err(problem(
        "rootfs-unit",
        format!("`{}` is not the name of a unit", name.escape_debug()),
    )
    .into())
}

fn enable(
    editor: &mut Editor<'_>,
    name: &str,
    done: &mut BTreeSet<String>,
) -> Result<(), BuilderError> {
    if !done.insert(name.to_owned()) {
        return Ok(());
    }
    let unit = match find(editor, name)? {
        Found::Unit(unit) => unit,
        Found::Nothing => return Err(unknown(editor, name)?.into()),
        Found::Masked => {
            let message = format!("unit `{name}` cannot be enabled: it is masked");
            return Err(problem("rootfs-unit", message).into());
        }
    };
    if unit.install.is_empty() {
        editor.build.log(&format!(
            "warning: unit `{name}` has nothing to enable: no `[Install]` section"
        ));
        return Ok(());
    }
    // A template is enabled as one instance; without a default there is none.
    let name = match (instance(&unit.name), &unit.install.default_instance) {
        (Some((prefix, "", suffix)), Some(default)) => format!("{prefix}@{default}{suffix}"),
        (Some((prefix, "", _)), None) => {
            let message = format!("unit `{name}` is a template without a default instance");
            return Err(problem("rootfs-unit", message)
                .help(format!("name an instance: `{prefix}@NAME`"))
                .into());
        }
        _ => unit.name.clone(),
    };
    let lists = [
        (&unit.install.wanted_by, "wants"),
        (&unit.install.required_by, "requires"),
        (&unit.install.upheld_by, "upholds"),
    ];
    for (targets, kind) in lists {
        for target in targets {
            let target = install_name(&unit, target, &name)?;
            link(
                editor,
                &format!("{CONFIG}/{target}.{kind}/{name}"),
                &unit.file,
            )?;
        }
    }
    for alias in &unit.install.alias {
        let alias = install_name(&unit, alias, &name)?;
        if alias == name {
            continue;
        }
        if !may_alias(&name, &alias) {
            editor.build.log(&format!(
                "warning: unit `{name}` cannot have the alias `{alias}`"
            ));
            continue;
        }
        link(editor, &format!("{CONFIG}/{alias}"), &unit.file)?;
    }
    for also in &unit.install.also {
        let also = install_name(&unit, also, &name)?;
        match find(editor, &also)? {
            Found::Unit(_) => enable(editor, &also, done)?,
            _ => editor.build.log(&format!(
                "warning: unit `{name}` wants `{also}` enabled too, which does not exist"
            )),
        }
    }
    Ok(())
}

/// Tells whether systemd lets a unit have an alias: same type, and of an instance only the same instance.
fn may_alias(name: &str, alias: &str) -> bool {
    let kind = |name: &str| name.rsplit_once('.').map(|(_, kind)| kind.to_owned());
    let wanted = |name: &str| instance(name).map(|(_, wanted, _)| wanted.to_owned());
    kind(name) == kind(alias) && wanted(name) == wanted(alias)
}

/// Expands a name of an `[Install]` section. It comes out of a package, and must not lead out of the directory.
fn install_name(unit: &Unit, text: &str, name: &str) -> Result<String, BuilderError> {
    let expanded = expand(text, name);
    if is_name(&expanded) {
        return Ok(expanded);
    }
    let message = format!(
        "`{}` names `{}`, which is not a unit",
        unit.file,
        expanded.escape_debug()
    );
    Err(problem("rootfs-unit", message).into())
}

/// Makes a link, unless there is one that leads to a file of the same name.
fn link(editor: &mut Editor<'_>, path: &str, target: &str) -> Result<(), BuilderError> {
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    match editor.get(path.as_bytes())? {
        Some((_, Kind::Symlink { target: old })) if last(&shown(&old)) == last(target) => {
            return Ok(());
        }
        None | Some((_, Kind::Symlink { .. })) => {}
        Some(_) => {
            let message = format!("`/{path}` is in the way of a link to `{target}`");
            return Err(problem("rootfs-unit", message).into());
        }
    }
    let meta = editor.meta(0o777, (0, 0));
    editor.put(
        path.as_bytes(),
        meta,
        Kind::Symlink {
            target: target.as_bytes().to_vec(),
        },
    )
}

/// Removes every link that enables a unit: those of its name, and aliases that lead to its file.
fn disable(editor: &mut Editor<'_>, name: &str) -> Result<(), BuilderError> {
    let unit = match find(editor, name)? {
        Found::Unit(unit) => Some(unit),
        Found::Masked => None,
        Found::Nothing => return Err(unknown(editor, name)?.into()),
    };
    let mut doomed = BTreeSet::from([name.to_owned()]);
    if let Some(unit) = &unit {
        doomed.insert(unit.name.clone());
        for also in &unit.install.also {
            doomed.insert(install_name(unit, also, &unit.name)?);
        }
    }
    let file = unit
        .as_ref()
        .and_then(|unit| unit.file.rsplit('/').next())
        .unwrap_or(name)
        .to_owned();
    for (entry, kind) in editor.list(CONFIG.as_bytes())? {
        let path = join(CONFIG.as_bytes(), &entry);
        let text = shown(&entry).into_owned();
        match kind {
            Kind::Dir
                if [".wants", ".requires", ".upholds"]
                    .iter()
                    .any(|end| text.ends_with(end)) =>
            {
                for (child, kind) in editor.list(&path)? {
                    let child_name = shown(&child).into_owned();
                    // All instances go with their template.
                    let of_template =
                        instance(&child_name).is_some_and(|(p, _, s)| format!("{p}@{s}") == name);
                    if matches!(kind, Kind::Symlink { .. })
                        && (doomed.contains(&child_name) || of_template)
                    {
                        editor.remove(&join(&path, &child))?;
                    }
                }
                if editor.list(&path)?.is_empty() {
                    editor.remove(&path)?;
                }
            }
            Kind::Symlink { target } => {
                let target = shown(&target).into_owned();
                let is_alias = target.rsplit('/').next() == Some(file.as_str()) && text != file;
                if is_alias && target != "/dev/null" {
                    editor.remove(&path)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes a unit impossible to start.
fn mask(editor: &mut Editor<'_>, name: &str) -> Result<(), BuilderError> {
    if matches!(find(editor, name)?, Found::Nothing) {
        return Err(unknown(editor, name)?.into());
    }
    let path = format!("{CONFIG}/{name}");
    if let Some((_, Kind::File { .. })) = editor.get(path.as_bytes())? {
        let message = format!(
            "unit `{name}` cannot be masked: its file is `/{path}`, where the mask would be"
        );
        return Err(problem("rootfs-unit", message)
            .help("remove that file instead")
            .into());
    }
    let meta = editor.meta(0o777, (0, 0));
    editor.put(
        path.as_bytes(),
        meta,
        Kind::Symlink {
            target: b"/dev/null".to_vec(),
        },
    )
}

fn unknown(editor: &Editor<'_>, name: &str) -> Result<Diagnostic, BuilderError> {
    let known = names(editor)?;
    let message = format!("the root file system has no unit `{name}`");
    let error =
        problem("rootfs-unknown-unit", message).suggest(name, known.iter().map(String::as_str));
    Ok(if known.is_empty() {
        error.note("it has no units at all: is systemd installed?")
    } else {
        error
    })
}
