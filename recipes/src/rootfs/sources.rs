//! The archives of a recipe: `suite` and its company at the top, or `[[source]]`.

use super::check;
use super::fields::{Fields, Known, Located};
use super::model::SourceSpec;
use super::schema::{checked, checked_list, conforms, file_ref, located};
use crate::problems::Problems;
use crate::tree::{Node, Value};

const SOURCE: &[&str] = &["uri", "suites", "components", "keyring", "snapshot", "apt"];
const IN_SOURCE: Known = Known {
    names: SOURCE,
    aliases: &[("suite", "suites"), ("mirror", "uri")],
};

/// The archive that a recipe without `mirror` takes its packages from.
const DEFAULT_MIRROR: &str = "mirror://debian";
/// The archive of the security suites, which is another one.
const SECURITY_MIRROR: &str = "mirror://debian-security";

/// Reads the archives, in the order of the recipe.
pub(super) fn read(top: &Fields<'_>, problems: &mut Problems) -> Option<Vec<SourceSpec>> {
    const SHORT: [&str; 6] = [
        "suite",
        "components",
        "mirror",
        "keyring",
        "snapshot",
        "apt",
    ];
    if top.node("source").is_none() {
        return short_sources(top, problems);
    }
    for name in SHORT {
        if let Some(field) = top.field(name) {
            let message = format!("`{}` cannot stand beside `[[source]]`", field.name);
            let problem = problems.error(
                "recipe-conflict",
                message,
                &field.place,
                "move it into the source that it belongs to",
            );
            problems.add(problem);
        }
    }
    let list = top.list("source", problems);
    if list.is_empty() {
        problems.bad_value(
            "`source` names no archive",
            top.place(),
            "expected at least one",
        );
    }
    let mut out = Vec::new();
    for (i, node) in list.iter().enumerate() {
        let Some(fields) = Fields::open(node, format!("source {}", i + 1), IN_SOURCE, problems)
        else {
            continue;
        };
        if fields.required("suites", problems).is_some() {
            out.extend(source(&fields, "uri", "suites", problems));
        }
    }
    Some(out)
}

fn short_sources(top: &Fields<'_>, problems: &mut Problems) -> Option<Vec<SourceSpec>> {
    top.required("suite", problems)?;
    let all = source(top, "mirror", "suite", problems)?;
    if top.node("mirror").is_some() {
        return Some(vec![all]);
    }
    // `bookworm-security` is in another archive than the rest; a recipe that names no mirror need not know.
    let (security, main): (Vec<_>, Vec<_>) = all
        .suites
        .iter()
        .cloned()
        .partition(|s| s.value.ends_with("-security"));
    if let (Some(apt), false, false) = (&all.apt, security.is_empty(), main.is_empty()) {
        problems.bad_value(
            "`apt` is one address, and the suites are in two archives",
            &apt.place,
            "write a `[[source]]` with its `apt` for each archive",
        );
    }
    let mut out = Vec::new();
    for (uri, suites) in [(DEFAULT_MIRROR, main), (SECURITY_MIRROR, security)] {
        if !suites.is_empty() {
            out.push(SourceSpec {
                uri: uri.to_owned(),
                suites,
                ..all.clone()
            });
        }
    }
    Some(out)
}

fn source(
    fields: &Fields<'_>,
    uri: &str,
    suites: &str,
    problems: &mut Problems,
) -> Option<SourceSpec> {
    let uri = checked(fields, uri, check::archive_uri, problems);
    let snapshot = checked(fields, "snapshot", check::snapshot_uri, problems);
    let apt = located(fields, "apt", check::apt_uri, problems);
    let names = one_or_more(fields, suites, problems);
    let names: Vec<_> = names
        .into_iter()
        .filter(|s| conforms(suites, s, check::suite, problems))
        .collect();
    let mut components = checked_list(fields, "components", check::component, problems);
    match fields.node("components") {
        None => components.push(Located {
            value: "main".to_owned(),
            place: None,
        }),
        Some(Node {
            value: Value::List(list),
            place,
        }) if list.is_empty() => problems.bad_value(
            "`components` is empty",
            place,
            "expected at least one, such as `main`",
        ),
        Some(_) => {}
    }
    let keyring = match fields.node("keyring") {
        Some(Node {
            value: Value::Str(s, _),
            ..
        }) if s == "debian" => None,
        Some(node) => Some(file_ref("keyring", node, problems)?),
        None => None,
    };
    if names.is_empty() {
        return None;
    }
    Some(SourceSpec {
        uri: uri.unwrap_or_else(|| DEFAULT_MIRROR.to_owned()),
        suites: names,
        components,
        keyring,
        snapshot,
        apt,
    })
}

/// A suite may be one text or a list.
fn one_or_more(fields: &Fields<'_>, name: &str, problems: &mut Problems) -> Vec<Located<String>> {
    let Some(node) = fields.node(name) else {
        return Vec::new();
    };
    if let Value::List(list) = &node.value {
        if list.is_empty() {
            problems.bad_value(
                format!("`{name}` is empty"),
                &node.place,
                "expected at least one",
            );
        }
        return fields.texts(name, problems);
    }
    fields.text(name, problems).into_iter().collect()
}
