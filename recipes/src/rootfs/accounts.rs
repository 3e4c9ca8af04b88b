//! `[[user]]` and `[[group]]`.

use super::check;
use super::fields::{Fields, Known, Located};
use super::model::{Account, GroupSpec};
use super::schema::{checked, checked_list, conforms, entries, located};
use crate::problems::Problems;
use crate::tree::Node;

const USER: Known = Known {
    names: &[
        "name",
        "uid",
        "gid",
        "group",
        "groups",
        "home",
        "shell",
        "system",
        "comment",
        "create-home",
    ],
    aliases: &[],
};
const GROUP: Known = Known {
    names: &["name", "gid", "system"],
    aliases: &[],
};

pub(super) fn groups(top: &Fields<'_>, problems: &mut Problems) -> Vec<GroupSpec> {
    let mut out: Vec<GroupSpec> = Vec::new();
    for (i, (key, node)) in entries(top, "group", problems).into_iter().enumerate() {
        let what = key.as_ref().map_or_else(
            || format!("group {}", i + 1),
            |k| format!("group `{}`", k.value),
        );
        let Some(fields) = Fields::open(node, what, GROUP, problems) else {
            continue;
        };
        let name = name(&fields, key, problems);
        let gid = id(&fields, "gid", problems);
        let system = fields.flag("system", problems).unwrap_or(false);
        let Some(name) = name else { continue };
        let same_id = out.iter().find_map(|g| {
            Some((g, g.gid.as_ref()?, gid.as_ref()?)).filter(|(_, a, b)| a.value == b.value)
        });
        if let Some(first) = out.iter().find(|g| g.name.value == name.value) {
            problems.duplicate(
                format!("group `{}` is given twice", name.value),
                &name.place,
                &first.name.place,
            );
        } else if let Some((first, first_gid, gid)) = same_id {
            let message = format!(
                "`{}` and `{}` have the same gid {}",
                first.name.value, name.value, gid.value
            );
            problems.duplicate(message, &gid.place, &first_gid.place);
        } else {
            out.push(GroupSpec { name, gid, system });
        }
    }
    out
}

pub(super) fn users(
    top: &Fields<'_>,
    groups: &[GroupSpec],
    problems: &mut Problems,
) -> Vec<Account> {
    let mut out: Vec<Account> = Vec::new();
    for (i, (key, node)) in entries(top, "user", problems).into_iter().enumerate() {
        let Some(user) = user(i, key, node, problems) else {
            continue;
        };
        if let Some(first) = out.iter().find(|u| u.name.value == user.name.value) {
            problems.duplicate(
                format!("user `{}` is given twice", user.name.value),
                &user.name.place,
                &first.name.place,
            );
            continue;
        }
        let Some(uid) = &user.uid else {
            out.push(user);
            continue;
        };
        let same_id = out
            .iter()
            .find_map(|u| Some((u, u.uid.as_ref()?)).filter(|(_, id)| id.value == uid.value));
        if let Some((first, first_uid)) = same_id {
            let message = format!(
                "`{}` and `{}` have the same uid {}",
                first.name.value, user.name.value, uid.value
            );
            problems.duplicate(message, &uid.place, &first_uid.place);
            continue;
        }
        let own_gid = user.gid.unwrap_or(uid.value);
        let taken = groups
            .iter()
            .filter(|g| user.group.is_none() && g.name.value != user.name.value);
        let mut taken = taken
            .filter_map(|g| Some((g, g.gid.as_ref()?)))
            .filter(|(_, gid)| gid.value == own_gid);
        if let Some((other, gid)) = taken.next() {
            let message = format!(
                "the group of user `{}` would have gid {own_gid}, which is that of `{}`",
                user.name.value, other.name.value
            );
            problems.duplicate(message, &uid.place, &gid.place);
            continue;
        }
        out.push(user);
    }
    out
}

fn user(
    i: usize,
    key: Option<Located<String>>,
    node: &Node,
    problems: &mut Problems,
) -> Option<Account> {
    let what = key.as_ref().map_or_else(
        || format!("user {}", i + 1),
        |k| format!("user `{}`", k.value),
    );
    let fields = Fields::open(node, what, USER, problems)?;
    let name = name(&fields, key, problems);
    let uid = id(&fields, "uid", problems);
    let gid = id(&fields, "gid", problems).map(|g| g.value);
    let group = located(&fields, "group", check::user_name, problems);
    if let (Some(_), Some(field)) = (&group, fields.field("gid")) {
        problems.bad_value(
            "`gid` belongs to a group of the user's own",
            &field.place,
            "remove it or `group`",
        );
    }
    let groups = checked_list(&fields, "groups", check::user_name, problems);
    let system = fields.flag("system", problems).unwrap_or(false);
    let home = checked(&fields, "home", check::absolute_path, problems);
    let shell = checked(&fields, "shell", check::absolute_path, problems);
    let comment = checked(&fields, "comment", check::passwd_field, problems).unwrap_or_default();
    let create_home = fields.flag("create-home", problems).unwrap_or(!system);
    let name = name?;
    // A service account has no home and no shell unless the recipe says otherwise.
    let default_home = if system {
        "/nonexistent".to_owned()
    } else {
        format!("/home/{}", name.value)
    };
    let default_shell = if system {
        "/usr/sbin/nologin"
    } else {
        "/bin/bash"
    };
    Some(Account {
        uid,
        gid,
        group,
        groups,
        home: home.unwrap_or(default_home),
        shell: shell.unwrap_or_else(|| default_shell.to_owned()),
        system,
        comment,
        create_home,
        name,
    })
}

fn name(
    fields: &Fields<'_>,
    key: Option<Located<String>>,
    problems: &mut Problems,
) -> Option<Located<String>> {
    let found = fields.text_or_key("name", key, problems)?;
    conforms("name", &found, check::user_name, problems).then_some(found)
}

fn id(fields: &Fields<'_>, name: &str, problems: &mut Problems) -> Option<Located<u32>> {
    let found = fields.int(name, problems)?;
    match check::id(found.value) {
        Ok(value) => Some(Located {
            value,
            place: found.place,
        }),
        Err(expected) => {
            problems.bad_value(
                format!("bad `{name}`: {}", found.value),
                &found.place,
                format!("expected {expected}"),
            );
            None
        }
    }
}
