//! From a tree of values to a [`RootfsRecipe`], collecting every problem.
//!
//! # Shape
//!
//! The simple case is flat: `suite`, `include` and so on at the top. The fuller one groups them as `[rootfs]`, `[[source]]`,
//! `[packages]` and `[system]`; each field may stand in either place, but not in both.

use std::sync::Arc;

use sos_formats::diagnostic::{Diagnostic, SourceFile};
use sos_formats::lock::Variant;

use super::accounts;
use super::apt;
use super::bootc;
use super::check::{self, Checked};
use super::disk;
use super::fields::{Fields, Known, Located, wrong_type};
use super::files;
use super::model::{Cleanup, EditSpec, FileRef, MachineId, RootfsRecipe, Services};
use super::sources;
use crate::problems::{Problems, with_suggestion};
use crate::tree::{self, Node, Value};

const ROOTFS: &[&str] = &["name", "arch", "variant", "recommends", "epoch"];
const PACKAGES: &[&str] = &["include", "exclude", "debs", "debconf"];
const SYSTEM: &[&str] = &["hostname", "locale", "timezone", "machine-id"];

const TOP: Known = Known {
    names: &[
        // [rootfs]
        "name",
        "arch",
        "variant",
        "recommends",
        "epoch",
        // [[source]]
        "mirror",
        "suite",
        "components",
        "keyring",
        "snapshot",
        "apt",
        // [packages]
        "include",
        "exclude",
        "debs",
        "debconf",
        // [system]
        "hostname",
        "locale",
        "timezone",
        "machine-id",
        // tables
        "rootfs",
        "source",
        "packages",
        "system",
        "file",
        "user",
        "group",
        "services",
        "cleanup",
        "disk",
        "partition",
        "bootc",
    ],
    aliases: &[
        ("suites", "suite"),
        ("sources", "source"),
        ("files", "file"),
        ("users", "user"),
        ("groups", "group"),
        ("partitions", "partition"),
    ],
};
/// The fields of an edit of a root filesystem that is already there.
const EDIT: Known = Known {
    names: &[
        "hostname",
        "locale",
        "timezone",
        "machine-id",
        "file",
        "user",
        "group",
        "services",
        "cleanup",
    ],
    aliases: &[("files", "file"), ("users", "user"), ("groups", "group")],
};
const IN_ROOTFS: Known = Known {
    names: ROOTFS,
    aliases: &[],
};
const IN_PACKAGES: Known = Known {
    names: PACKAGES,
    aliases: &[],
};
const IN_SYSTEM: Known = Known {
    names: SYSTEM,
    aliases: &[],
};
const IN_SERVICES: Known = Known {
    names: &["enable", "disable", "mask"],
    aliases: &[],
};
const IN_CLEANUP: Known = Known {
    names: &["logs", "apt-lists", "ssh-host-keys", "docs", "paths"],
    aliases: &[],
};

/// Reads a recipe file. The second value holds every problem; the recipe is there only when there are none.
pub(crate) fn parse_file(
    file: &Arc<SourceFile>,
    default_name: &str,
) -> (Option<RootfsRecipe>, Vec<Diagnostic>) {
    match tree::from_toml(&file.text) {
        Ok(tree) => parse_tree(&tree, default_name, Problems::in_file(file)),
        Err(errors) => {
            let mut problems = Problems::in_file(file);
            for (message, place) in errors {
                let mut lines = message.lines();
                let first = lines.next().unwrap_or("not TOML").to_owned();
                let leading_zero = first.contains("leading zero");
                let mut problem = problems.error("recipe-syntax", first, &place, "here");
                if let Some(word) = problems.word_at(&place).filter(|_| leading_zero) {
                    problem = problem.help(format!("put it in quotes: \"{word}\""));
                }
                for line in lines {
                    problem = problem.note(line);
                }
                problems.add(problem);
            }
            (None, problems.finish())
        }
    }
}

/// Reads a recipe from a tree. The second value holds every problem; the recipe is there only when there are none.
pub(crate) fn parse_tree(
    tree: &Node,
    default_name: &str,
    mut problems: Problems,
) -> (Option<RootfsRecipe>, Vec<Diagnostic>) {
    let recipe = read(tree, default_name, &mut problems);
    let clean = problems.count() == 0;
    (recipe.filter(|_| clean), problems.finish())
}

/// Reads an edit from a tree. The second value holds every problem; the edit is there only when there are none.
pub(crate) fn parse_edit(
    tree: &Node,
    mut problems: Problems,
) -> (Option<EditSpec>, Vec<Diagnostic>) {
    let found = Fields::open(tree, "the edit", EDIT, &mut problems)
        .map(|top| edit(&top, None, &mut problems));
    let clean = problems.count() == 0;
    (found.filter(|_| clean), problems.finish())
}

/// The places that a field may stand in.
struct Groups<'t> {
    top: Fields<'t>,
    rootfs: Option<Fields<'t>>,
    packages: Option<Fields<'t>>,
    system: Option<Fields<'t>>,
}

fn read(tree: &Node, default_name: &str, problems: &mut Problems) -> Option<RootfsRecipe> {
    let top = Fields::open(tree, "the recipe", TOP, problems)?;
    let mut group = |name: &str, known: Known| {
        let node = top.node(name)?;
        Fields::open(node, format!("`[{name}]`"), known, problems)
    };
    let rootfs = group("rootfs", IN_ROOTFS);
    let packages = group("packages", IN_PACKAGES);
    let system = group("system", IN_SYSTEM);
    let groups = Groups {
        top,
        rootfs,
        packages,
        system,
    };
    for (nested, names) in [
        (&groups.rootfs, ROOTFS),
        (&groups.packages, PACKAGES),
        (&groups.system, SYSTEM),
    ] {
        let Some(nested) = nested else { continue };
        for name in names {
            given_twice(&groups.top, nested, name, problems);
        }
    }

    let g = pick(&groups.top, groups.rootfs.as_ref(), "name");
    let name =
        checked(g, "name", check::store_name, problems).unwrap_or_else(|| default_name.to_owned());
    let g = pick(&groups.top, groups.rootfs.as_ref(), "arch");
    let arch = checked(g, "arch", check::arch, problems).unwrap_or_else(|| "amd64".to_owned());
    let arch_place = g.node("arch").and_then(|node| node.place.clone());
    let variant = variant(
        pick(&groups.top, groups.rootfs.as_ref(), "variant"),
        problems,
    );
    let recommends = pick(&groups.top, groups.rootfs.as_ref(), "recommends")
        .flag("recommends", problems)
        .unwrap_or(false);
    let epoch = epoch(pick(&groups.top, groups.rootfs.as_ref(), "epoch"), problems);
    let sources = sources::read(&groups.top, problems);

    let p = |name| pick(&groups.top, groups.packages.as_ref(), name);
    let include = checked_list(p("include"), "include", check::wanted_package, problems);
    let exclude = checked_list(p("exclude"), "exclude", check::package, problems);
    for wanted in &include {
        if exclude.iter().any(|e| e.value == wanted.value) {
            let message = format!("`{}` is both included and excluded", wanted.value);
            let problem =
                problems.error("recipe-conflict", message, &wanted.place, "included here");
            problems.add(problem);
        }
    }
    let debs = p("debs")
        .list("debs", problems)
        .iter()
        .filter_map(|n| file_ref("debs", n, problems))
        .collect();
    let debconf = checked_list(p("debconf"), "debconf", check::line, problems)
        .into_iter()
        .map(|l| l.value)
        .collect();

    let mut edit = edit(&groups.top, groups.system.as_ref(), problems);
    edit.cleanup.get_or_insert_default();
    apt::add(
        sources.as_deref().unwrap_or_default(),
        &mut edit.files,
        problems,
    );
    Some(RootfsRecipe {
        name,
        arch,
        arch_place,
        variant,
        recommends,
        epoch,
        sources: sources?,
        include,
        exclude,
        debs,
        debconf,
        disk: disk::read(&groups.top, problems),
        bootc: bootc::read(&groups.top, problems),
        edit,
    })
}

/// Reads what can be changed in a root filesystem after its packages are there.
fn edit(top: &Fields<'_>, nested: Option<&Fields<'_>>, problems: &mut Problems) -> EditSpec {
    let system = |name| pick(top, nested, name);
    let groups = accounts::groups(top, problems);
    EditSpec {
        files: files::read(top, problems),
        users: accounts::users(top, &groups, problems),
        groups,
        services: services(top, problems),
        hostname: checked(system("hostname"), "hostname", check::hostname, problems),
        locale: checked(system("locale"), "locale", check::locale, problems),
        timezone: located(system("timezone"), "timezone", check::timezone, problems),
        machine_id: word(
            system("machine-id"),
            "machine-id",
            MachineId::NAMES,
            problems,
        ),
        cleanup: cleanup(top, problems),
    }
}

/// Returns the table that a field stands in: the nested one only when the field is there.
fn pick<'a, 't>(top: &'a Fields<'t>, nested: Option<&'a Fields<'t>>, name: &str) -> &'a Fields<'t> {
    nested.filter(|n| n.field(name).is_some()).unwrap_or(top)
}

fn given_twice(top: &Fields<'_>, nested: &Fields<'_>, name: &str, problems: &mut Problems) {
    let (Some(first), Some(second)) = (top.field(name), nested.field(name)) else {
        return;
    };
    let message = format!(
        "`{name}` stands both in {} and in {}",
        top.what(),
        nested.what()
    );
    problems.duplicate(message, &second.place, &first.place);
}

/// Reads a text and checks it.
pub(super) fn checked(
    fields: &Fields<'_>,
    name: &str,
    rule: fn(&str) -> Checked,
    problems: &mut Problems,
) -> Option<String> {
    located(fields, name, rule, problems).map(|found| found.value)
}

/// The same, with its place.
pub(super) fn located(
    fields: &Fields<'_>,
    name: &str,
    rule: fn(&str) -> Checked,
    problems: &mut Problems,
) -> Option<Located<String>> {
    let found = fields.text(name, problems)?;
    conforms(name, &found, rule, problems).then_some(found)
}

/// Reads a list of texts and checks each; what does not conform is left out.
pub(super) fn checked_list(
    fields: &Fields<'_>,
    name: &str,
    rule: fn(&str) -> Checked,
    problems: &mut Problems,
) -> Vec<Located<String>> {
    let mut found = fields.texts(name, problems);
    found.retain(|f| conforms(name, f, rule, problems));
    found
}

/// Checks a text, and reports what was expected when it does not conform.
pub(super) fn conforms(
    name: &str,
    found: &Located<String>,
    rule: fn(&str) -> Checked,
    problems: &mut Problems,
) -> bool {
    match rule(&found.value) {
        Ok(()) => true,
        Err(expected) => {
            problems.bad_value(
                format!("bad `{name}`: `{}`", found.value.escape_debug()),
                &found.place,
                format!("expected {expected}"),
            );
            false
        }
    }
}

/// Reads the name of a file beside the recipe, or a path of the Nix language.
pub(super) fn file_ref(
    name: &str,
    node: &Node,
    problems: &mut Problems,
) -> Option<Located<FileRef>> {
    let value = match &node.value {
        Value::Path(p) => FileRef::Path(p.clone()),
        Value::Str(s, context) if !context.is_empty() => FileRef::Store(s.clone(), context.clone()),
        Value::Str(s, _) => {
            let found = Located {
                value: s.clone(),
                place: node.place.clone(),
            };
            if !conforms(name, &found, check::relative_path, problems) {
                return None;
            }
            FileRef::Relative(s.strip_prefix("./").unwrap_or(s).to_owned())
        }
        _ => {
            let problem = wrong_type(problems, &format!("`{name}`"), node, "the path of a file");
            problems.add(problem);
            return None;
        }
    };
    Some(Located {
        value,
        place: node.place.clone(),
    })
}

/// Reads a word out of a closed set.
pub(super) fn word<T: Copy>(
    fields: &Fields<'_>,
    name: &str,
    words: &[(&'static str, T)],
    problems: &mut Problems,
) -> Option<T> {
    let found = fields.text(name, problems)?;
    let known = words
        .iter()
        .find(|(w, _)| *w == found.value)
        .map(|(_, v)| *v);
    if known.is_none() {
        let problem = problems.error(
            "recipe-bad-value",
            format!("unknown {name} `{}`", found.value),
            &found.place,
            "not known",
        );
        problems.add(with_suggestion(
            problem,
            &found.value,
            words.iter().map(|(w, _)| *w),
        ));
    }
    known
}

fn variant(fields: &Fields<'_>, problems: &mut Problems) -> Variant {
    word(fields, "variant", Variant::NAMES, problems).unwrap_or(Variant::Minbase)
}

fn epoch(fields: &Fields<'_>, problems: &mut Problems) -> Option<i64> {
    let node = fields.node("epoch")?;
    let parsed = match &node.value {
        Value::Int(n) if (0..=253_402_300_799).contains(n) => return Some(*n),
        Value::Int(_) | Value::HugeInt(_) => Err("seconds since 1970, up to the year 9999"),
        Value::Str(s, _) | Value::Date(s) => check::date(s),
        _ => {
            let problem = wrong_type(problems, "`epoch`", node, "seconds since 1970 or a date");
            problems.add(problem);
            return None;
        }
    };
    match parsed {
        Ok(n) => Some(n),
        Err(expected) => {
            problems.bad_value("bad `epoch`", &node.place, format!("expected {expected}"));
            None
        }
    }
}

fn services(top: &Fields<'_>, problems: &mut Problems) -> Services {
    let Some(node) = top.node("services") else {
        return Services::default();
    };
    let Some(fields) = Fields::open(node, "`[services]`", IN_SERVICES, problems) else {
        return Services::default();
    };
    let enable = checked_list(&fields, "enable", check::unit, problems);
    let disable = checked_list(&fields, "disable", check::unit, problems);
    let mask = checked_list(&fields, "mask", check::unit, problems);
    let mut clash = |a: &[Located<String>], b: &[Located<String>], verbs: &str| {
        for unit in b.iter().filter(|u| a.iter().any(|v| v.value == u.value)) {
            let message = format!("`{}` is {verbs}", unit.value);
            let problem =
                problems.error("recipe-conflict", message, &unit.place, "also listed here");
            problems.add(problem);
        }
    };
    clash(&enable, &disable, "both enabled and disabled");
    clash(&enable, &mask, "both enabled and masked");
    Services {
        enable,
        disable,
        mask,
    }
}

fn cleanup(top: &Fields<'_>, problems: &mut Problems) -> Option<Cleanup> {
    let fields = Fields::open(top.node("cleanup")?, "`[cleanup]`", IN_CLEANUP, problems)?;
    let default = Cleanup::default();
    let mut flag = |name: &str, default: bool| fields.flag(name, problems).unwrap_or(default);
    let logs = flag("logs", default.logs);
    let apt_lists = flag("apt-lists", default.apt_lists);
    let ssh_host_keys = flag("ssh-host-keys", default.ssh_host_keys);
    let docs = flag("docs", default.docs);
    let paths = checked_list(&fields, "paths", check::absolute_path, problems)
        .into_iter()
        .map(|p| p.value)
        .collect();
    Some(Cleanup {
        logs,
        apt_lists,
        ssh_host_keys,
        docs,
        paths,
    })
}

/// Returns the elements of a list of tables, or of a table of tables whose keys fill in the field `key`.
pub(super) fn entries<'t>(
    top: &Fields<'t>,
    name: &str,
    problems: &mut Problems,
) -> Vec<(Option<Located<String>>, &'t Node)> {
    match top.node(name) {
        Some(Node {
            value: Value::Table(fields),
            ..
        }) => fields
            .iter()
            .map(|f| {
                (
                    Some(Located {
                        value: f.name.clone(),
                        place: f.place.clone(),
                    }),
                    &f.node,
                )
            })
            .collect(),
        _ => top.list(name, problems).iter().map(|n| (None, n)).collect(),
    }
}
