//! Users and groups, made as Debian's `adduser` makes them, in the order of the recipe.
//!
//! An id that the recipe gives is used or is an error; nobody is moved away. One that it does not give is the lowest
//! free id from 100 (system) or 1000 (people) up, where an id is free only if neither a user nor a group has it and the recipe
//! gives it to nobody else.

use std::collections::BTreeSet;

use sos_engine::BuilderError;
use sos_formats::diagnostic::Diagnostic;
use sos_formats::manifest::Meta;

use super::attrs::{EditAttrs, GroupAttrs, UserAttrs};
use super::database::{Groups, Table, Users};
use super::editor::{Editor, Kind, recipe_path};
use super::files::copy_skel;
use super::problem;
use super::problems::Problems;

/// Ids for system accounts, as in Debian policy 9.2.
const SYSTEM_IDS: std::ops::RangeInclusive<u32> = 100..=999;
/// Ids for people.
const USER_IDS: std::ops::RangeInclusive<u32> = 1000..=59_999;
/// The mode of a new home, as in Debian 12.
const HOME_MODE: u16 = 0o700;
const SECONDS_A_DAY: i64 = 86_400;

/// Makes all groups and users of a recipe.
pub(super) fn apply(
    editor: &mut Editor<'_>,
    attrs: &EditAttrs,
    problems: &mut Problems,
) -> Result<(), BuilderError> {
    if attrs.users.is_empty() && attrs.groups.is_empty() {
        return Ok(());
    }
    let mut accounts = Accounts::read(editor)?;
    accounts.reserve(attrs);
    for (i, group) in attrs.groups.iter().enumerate() {
        problems.keep(|| format!("groups/{i}"), accounts.group(group))?;
    }
    let mut homes = Vec::new();
    for (i, user) in attrs.users.iter().enumerate() {
        let part = || format!("users/{i}");
        let Some(ids) = problems.keep(part, accounts.user(user, editor.epoch, &part()))? else {
            continue;
        };
        for (j, group) in user.groups.iter().enumerate() {
            let part = || format!("users/{i}/groups/{j}");
            problems.keep(part, accounts.join_group(&user.name, group))?;
        }
        if user.create_home.unwrap_or(!user.system) {
            homes.push((home(user), ids));
        }
    }
    accounts.write(editor)?;
    for (home, owner) in homes {
        make_home(editor, &home, owner)?;
    }
    Ok(())
}

struct Accounts {
    passwd: Table,
    group: Table,
    shadow: Table,
    /// Absent in a root that has none: a group needs no password.
    gshadow: Option<Table>,
    /// Ids that the recipe gives to somebody, who may come later: nobody else gets one of them.
    reserved: BTreeSet<u32>,
}

impl Accounts {
    fn read(editor: &Editor<'_>) -> Result<Self, BuilderError> {
        let has_gshadow = editor.exists(b"etc/gshadow")?;
        Ok(Self {
            passwd: Table::read(editor, "etc/passwd")?,
            group: Table::read(editor, "etc/group")?,
            shadow: Table::read(editor, "etc/shadow")?,
            gshadow: has_gshadow
                .then(|| Table::read(editor, "etc/gshadow"))
                .transpose()?,
            reserved: BTreeSet::new(),
        })
    }

    /// Keeps the ids that a recipe gives for those to whom it gives them; the own group of a user has the user's id.
    fn reserve(&mut self, attrs: &EditAttrs) {
        let users = attrs.users.iter().flat_map(|user| [user.uid, user.gid]);
        let groups = attrs.groups.iter().map(|group| group.gid);
        self.reserved.extend(users.chain(groups).flatten());
    }

    fn write(&self, editor: &mut Editor<'_>) -> Result<(), BuilderError> {
        let public = editor.meta(0o644, (0, 0));
        // Debian gives the group `shadow` read access; without that group only root has it.
        let secret = match Groups::of(&self.group).find("shadow") {
            Some(group) => editor.meta(0o640, (0, group.gid)),
            None => editor.meta(0o600, (0, 0)),
        };
        let empty = Table::default();
        let gshadow = self.gshadow.as_ref().unwrap_or(&empty);
        for (path, table, meta) in [
            ("etc/passwd", &self.passwd, &public),
            ("etc/group", &self.group, &public),
            ("etc/shadow", &self.shadow, &secret),
            ("etc/gshadow", gshadow, &secret),
        ] {
            let text = table.text();
            // An edit of groups only must not leave empty files of users.
            if !text.is_empty() {
                editor.rewrite(path.as_bytes(), text.as_bytes(), meta.clone())?;
            }
        }
        Ok(())
    }

    fn group(&mut self, wanted: &GroupAttrs) -> Result<(), BuilderError> {
        check_name(&wanted.name)?;
        let groups = Groups::of(&self.group);
        let gid = match (groups.find(&wanted.name), wanted.gid) {
            (Some(found), Some(gid)) if found.gid != gid => {
                return Err(collision(
                    "group",
                    &wanted.name,
                    &format!("has gid {} already, not {gid}", found.gid),
                )
                .into());
            }
            (Some(_), _) => return Ok(()),
            (None, Some(gid)) => gid,
            (None, None) => self.free_id(wanted.system)?,
        };
        self.add_group(&wanted.name, gid)
    }

    fn add_group(&mut self, name: &str, gid: u32) -> Result<(), BuilderError> {
        if let Some(other) = Groups::of(&self.group).by_gid(gid) {
            let what = format!("would have gid {gid}, which is that of `{}`", other.name);
            return Err(collision("group", name, &what).into());
        }
        self.group.set(vec![
            name.to_owned(),
            "x".into(),
            gid.to_string(),
            String::new(),
        ]);
        if let Some(gshadow) = &mut self.gshadow {
            gshadow.set(vec![
                name.to_owned(),
                "!".into(),
                String::new(),
                String::new(),
            ]);
        }
        Ok(())
    }

    /// Makes a user and gives its ids.
    fn user(
        &mut self,
        wanted: &UserAttrs,
        epoch: i64,
        part: &str,
    ) -> Result<(u32, u32), BuilderError> {
        check_name(&wanted.name)?;
        for text in [&wanted.comment, &shell(wanted), &home(wanted)] {
            if text.contains([':', '\n', '\0']) {
                let message = format!(
                    "`{}` cannot be in an entry of `/etc/passwd`",
                    text.escape_debug()
                );
                return Err(problem("rootfs-account", message).into());
            }
        }
        let users = Users::of(&self.passwd);
        let uid = match (users.find(&wanted.name), wanted.uid) {
            (Some(found), Some(uid)) if found.uid != uid => {
                let what = format!("has uid {} already, not {uid}", found.uid);
                return Err(collision("user", &wanted.name, &what)
                    .about(format!("{part}/uid"), "")
                    .help("leave out `uid`, or use the one that a package has given it")
                    .into());
            }
            (Some(found), _) => found.uid,
            (None, Some(uid)) => uid,
            (None, None) => self.free_id(wanted.system)?,
        };
        if let Some(other) = users.by_uid(uid).filter(|other| other.name != wanted.name) {
            let what = format!("would have uid {uid}, which is that of `{}`", other.name);
            let problem = collision("user", &wanted.name, &what);
            return Err(problem.about(format!("{part}/uid"), "").into());
        }
        let gid = self.primary_group(wanted, uid, part)?;
        let (uid_text, gid_text) = (uid.to_string(), gid.to_string());
        let name = wanted.name.clone();
        self.passwd.set(vec![
            name.clone(),
            "x".into(),
            uid_text,
            gid_text,
            wanted.comment.clone(),
            home(wanted),
            shell(wanted),
        ]);
        if self.shadow.find(&name).is_none() {
            let day = epoch.max(0) / SECONDS_A_DAY;
            let ages = if wanted.system {
                ["", "", ""]
            } else {
                ["0", "99999", "7"]
            };
            let mut line = vec![name.clone(), "!".into(), day.to_string()];
            line.extend(ages.map(str::to_owned));
            line.extend(["", "", ""].map(str::to_owned));
            self.shadow.set(line);
        }
        Ok((uid, gid))
    }

    /// Makes a user a member of a group.
    fn join_group(&mut self, user: &str, group: &str) -> Result<(), BuilderError> {
        let groups = Groups::of(&self.group);
        if groups.find(group).is_none() {
            let message =
                format!("user `{user}` shall be in `{group}`, a group that does not exist");
            return Err(problem("rootfs-unknown-group", message)
                .suggest(group, groups.names())
                .into());
        }
        self.group.add_member(group, user);
        if let Some(gshadow) = &mut self.gshadow {
            gshadow.add_member(group, user);
        }
        Ok(())
    }

    /// Finds or makes the primary group of a user.
    fn primary_group(
        &mut self,
        wanted: &UserAttrs,
        uid: u32,
        part: &str,
    ) -> Result<u32, BuilderError> {
        let groups = Groups::of(&self.group);
        if let Some(name) = &wanted.group {
            let found = groups.find(name).ok_or_else(|| {
                let message = format!(
                    "the primary group `{name}` of user `{}` does not exist",
                    wanted.name
                );
                problem("rootfs-unknown-group", message)
                    .about(format!("{part}/group"), "")
                    .suggest(name, groups.names())
            })?;
            return Ok(found.gid);
        }
        match (groups.find(&wanted.name), wanted.gid) {
            (Some(found), Some(gid)) if found.gid != gid => Err(collision(
                "group",
                &wanted.name,
                &format!("has gid {} already, not {gid}", found.gid),
            )
            .into()),
            (Some(found), _) => Ok(found.gid),
            (None, gid) => {
                let gid = gid.unwrap_or(uid);
                self.add_group(&wanted.name, gid)?;
                Ok(gid)
            }
        }
    }

    fn free_id(&self, system: bool) -> Result<u32, BuilderError> {
        let (users, groups) = (Users::of(&self.passwd), Groups::of(&self.group));
        let mut range = if system { SYSTEM_IDS } else { USER_IDS };
        range
            .find(|id| {
                !self.reserved.contains(id)
                    && users.by_uid(*id).is_none()
                    && groups.by_gid(*id).is_none()
            })
            .ok_or_else(|| problem("rootfs-account", "no user or group id is free").into())
    }
}

fn home(user: &UserAttrs) -> String {
    let usual = || {
        if user.system {
            "/nonexistent".to_owned()
        } else {
            format!("/home/{}", user.name)
        }
    };
    user.home.clone().unwrap_or_else(usual)
}

fn shell(user: &UserAttrs) -> String {
    let usual = if user.system {
        "/usr/sbin/nologin"
    } else {
        "/bin/bash"
    };
    user.shell.clone().unwrap_or_else(|| usual.to_owned())
}

/// Makes a home from `/etc/skel`. One that exists keeps what is in it, and changes hands if it was root's.
fn make_home(editor: &mut Editor<'_>, home: &str, owner: (u32, u32)) -> Result<(), BuilderError> {
    let path = recipe_path(home)?;
    match editor.get(&path)? {
        None => {
            let real = editor.directory(&path, Some(HOME_MODE), Some(owner))?;
            copy_skel(editor, &real, owner)
        }
        Some((meta, Kind::Dir)) if meta.uid == 0 && path != b"root" && !path.is_empty() => editor
            .set_meta(
                &path,
                Meta {
                    uid: owner.0,
                    gid: owner.1,
                    ..meta
                },
            ),
        Some(_) => Ok(()),
    }
}

fn check_name(name: &str) -> Result<(), BuilderError> {
    let first = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let rest = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    if first && rest && name.len() <= 32 {
        return Ok(());
    }
    let message = format!(
        "`{}` is not a name for a user or group",
        name.escape_debug()
    );
    Err(problem("rootfs-account", message)
        .help("begin with a small letter; use letters, digits, `-`, `_`")
        .into())
}

fn collision(kind: &str, name: &str, what: &str) -> Diagnostic {
    let code = if kind == "user" {
        "rootfs-user-collision"
    } else {
        "rootfs-group-collision"
    };
    problem(code, format!("{kind} `{name}` {what}"))
}
