//! From a recipe and its lock to the data that the Nix library makes derivations of.
//!
//! Everything that decides bytes is in this data: nothing of the machine, and no address that a mirror name resolves to.

use std::path::Path;

use sos_formats::architecture::Architecture;
use sos_formats::lock::{LockedPackage, LockedSuite, Phase, RootfsLocked};
use sos_lang::Plain;

use super::bootc;
use super::check;
use super::disk;
use super::fields::Located;
use super::model::{EditSpec, FileKind, FileRef, FileSpec, RootfsRecipe};
use crate::plain::{Set, int, text, text_with, texts};

/// Releases whose root has `/bin`, `/sbin` and `/lib` as directories of their own.
const SPLIT_USR: &[&str] = &["wheezy", "jessie", "stretch", "trusty", "xenial"];

/// Makes the plan of a recipe.
///
/// # Shape
/// `name`, `arch`, `system`, `suite`, `variant`, `epoch`, `mergedUsr`; `debs`: all packages in install order, each with `name`, `version`,
/// `arch`, `file`, `sha256` and `urls` or `local`; `essential`: indexes into `debs`; `batches`: lists of indexes; `auto`: packages
/// that were only pulled in; `debconf`: one text; `edit`: see [`edit`]; `disk`: what `[disk]` and `[[partition]]` say;
/// `bootc`: what `[bootc]` says.
pub(crate) fn lower(recipe: &RootfsRecipe, locked: &RootfsLocked, base: &Path) -> Plain {
    let epoch = recipe.epoch.or_else(|| newest(&locked.suites)).unwrap_or(0);
    let debs = locked
        .packages
        .iter()
        .map(|p| deb(p, recipe, locked, base))
        .collect();
    let index = |(i, _): (usize, &LockedPackage)| int(i);
    let essential = locked
        .packages
        .iter()
        .enumerate()
        .filter(|(_, p)| p.phase == Phase::Essential)
        .map(index)
        .collect();
    let mut numbers: Vec<u32> = locked
        .packages
        .iter()
        .filter(|p| p.phase == Phase::Rest)
        .map(|p| p.batch)
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    let batch = |n: u32| {
        let members = locked
            .packages
            .iter()
            .enumerate()
            .filter(|(_, p)| p.phase == Phase::Rest && p.batch == n);
        Plain::List(members.map(index).collect())
    };
    let suite = recipe
        .sources
        .first()
        .and_then(|s| s.suites.first())
        .map(|s| &s.value);
    let split = locked
        .suites
        .iter()
        .any(|s| SPLIT_USR.contains(&s.suite.as_str()));
    let auto = locked.packages.iter().filter(|p| p.auto);
    // apt records the architecture of the root for packages of all architectures, too.
    let arch = |p: &LockedPackage| {
        if p.arch == "all" {
            recipe.arch.clone()
        } else {
            p.arch.clone()
        }
    };
    let auto = auto
        .map(|p| {
            Set::new()
                .with("package", text(&p.name))
                .with("arch", text(arch(p)))
                .done()
        })
        .collect();
    let debconf: String = recipe.debconf.iter().map(|l| format!("{l}\n")).collect();
    Set::new()
        .with("name", text(&recipe.name))
        .with("arch", text(&recipe.arch))
        .with("system", text(nix_system(&recipe.arch)))
        .with(
            "suite",
            text(store_name(suite.map_or("debian", String::as_str))),
        )
        .with("variant", text(recipe.variant.as_str()))
        .with("epoch", Plain::Int(epoch))
        .with("mergedUsr", Plain::Bool(!split))
        .with("debs", Plain::List(debs))
        .with("essential", Plain::List(essential))
        .with(
            "batches",
            Plain::List(numbers.into_iter().map(batch).collect()),
        )
        .with("auto", Plain::List(auto))
        .with_some("debconf", (!debconf.is_empty()).then(|| text(debconf)))
        .with("edit", edit(&recipe.edit, base))
        .with("disk", disk::lower(&recipe.disk, base))
        .with("bootc", bootc::lower(&recipe.bootc))
        .done()
}

/// Makes the attributes of an edit of a root filesystem, as `builtin:rootfs-edit` takes them; `source`s are paths or texts, which
/// the library brings into the store.
pub(crate) fn edit(edit: &EditSpec, base: &Path) -> Plain {
    let users = edit.users.iter().map(|u| {
        Set::new()
            .with("name", text(&u.name.value))
            .with_some("uid", u.uid.as_ref().map(|id| int(id.value)))
            .with_some("gid", u.gid.map(int))
            .with_some("group", u.group.as_ref().map(|g| text(&g.value)))
            .with("groups", located_texts(&u.groups))
            .with("home", text(&u.home))
            .with("shell", text(&u.shell))
            .with("system", Plain::Bool(u.system))
            .with("comment", text(&u.comment))
            .with("create_home", Plain::Bool(u.create_home))
            .done()
    });
    let groups = edit.groups.iter().map(|g| {
        Set::new()
            .with("name", text(&g.name.value))
            .with_some("gid", g.gid.as_ref().map(|id| int(id.value)))
            .with("system", Plain::Bool(g.system))
            .done()
    });
    let s = &edit.services;
    let any_service = !(s.enable.is_empty() && s.disable.is_empty() && s.mask.is_empty());
    let services = any_service.then(|| {
        Set::new()
            .with("enable", located_texts(&s.enable))
            .with("disable", located_texts(&s.disable))
            .with("mask", located_texts(&s.mask))
            .done()
    });
    let cleanup = edit.cleanup.as_ref().map(|c| {
        Set::new()
            .with("logs", Plain::Bool(c.logs))
            .with("apt_lists", Plain::Bool(c.apt_lists))
            .with("ssh_host_keys", Plain::Bool(c.ssh_host_keys))
            .with("docs", Plain::Bool(c.docs))
            .with("paths", texts(&c.paths))
            .done()
    });
    Set::new()
        .with_list("files", edit.files.iter().map(|f| file(f, base)).collect())
        .with_list("users", users.collect())
        .with_list("groups", groups.collect())
        .with_some("services", services)
        .with_some("hostname", edit.hostname.as_ref().map(text))
        .with_some("timezone", edit.timezone.as_ref().map(|z| text(&z.value)))
        .with_some("locale", edit.locale.as_ref().map(text))
        .with_some("machine_id", edit.machine_id.map(|m| text(m.as_str())))
        .with_some("cleanup", cleanup)
        .done()
}

fn located_texts(list: &[Located<String>]) -> Plain {
    texts(list.iter().map(|l| &l.value))
}

fn file(f: &FileSpec, base: &Path) -> Plain {
    let set = Set::new()
        .with("path", text(&f.path.value))
        .with("owner", text(&f.owner.value))
        .with_some("mode", f.mode.map(|m| text(format!("{m:04o}"))));
    match &f.kind {
        FileKind::Source(source) => set.with("source", file_ref(&source.value, base)),
        FileKind::Content(s, context) => set.with("content", text_with(s, context)),
        FileKind::Symlink(target) => set.with("symlink", text(target)),
        FileKind::Directory => set.with("dir", Plain::Bool(true)),
    }
    .done()
}

pub(super) fn file_ref(file: &FileRef, base: &Path) -> Plain {
    match file {
        FileRef::Store(s, context) => text_with(s, context),
        FileRef::Relative(_) | FileRef::Path(_) => Plain::Path(file.locate(base)),
    }
}

fn deb(p: &LockedPackage, recipe: &RootfsRecipe, locked: &RootfsLocked, base: &Path) -> Plain {
    let file_name = p.path.rsplit('/').next().unwrap_or(&p.path);
    let set = Set::new()
        .with("name", text(&p.name))
        .with("version", text(&p.version))
        .with("arch", text(&p.arch))
        .with("file", text(store_name(file_name)))
        .with("sha256", text(p.sha256.to_string()))
        .with("size", int(p.size));
    let Some(suite) = p.suite.and_then(|i| locked.suites.get(i)) else {
        let local = recipe.debs.iter().find(|d| d.value.shown() == p.path);
        let local = local.map_or_else(
            || Plain::Path(base.join(&p.path)),
            |d| file_ref(&d.value, base),
        );
        return set.with("local", local).done();
    };
    let path = in_url(&p.path);
    let mut urls = vec![format!("{}/{path}", suite.uri.trim_end_matches('/'))];
    let source = recipe.sources.iter().find(|s| s.uri == suite.uri);
    if let (Some(service), Some(timestamp)) =
        (source.and_then(|s| s.snapshot.as_ref()), snapshot(suite))
    {
        urls.push(format!(
            "{}/{path}",
            service
                .replace("{timestamp}", &timestamp)
                .trim_end_matches('/')
        ));
    }
    set.with("urls", texts(urls)).done()
}

/// The moment at which a snapshot service has what was locked: that of the release file, even if no service was named then.
fn snapshot(suite: &LockedSuite) -> Option<String> {
    let dated = || suite.inrelease.date.replace(['-', ':'], "");
    Some(suite.snapshot.clone().unwrap_or_else(dated)).filter(|t| !t.is_empty())
}

/// Writes a path of an archive as part of a URL. Names of files may hold a percent sign themselves: an epoch is often written `%3a`.
fn in_url(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~+/:=@,!$&'()*;".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02x}"));
        }
    }
    out
}

/// Replaces what a store path cannot hold; `~` is common in versions.
fn store_name(file: &str) -> String {
    let ok = |c: char| c.is_ascii_alphanumeric() || "+-._?=".contains(c);
    let name: String = file.chars().map(|c| if ok(c) { c } else { '_' }).collect();
    let name = name.trim_start_matches('.');
    if check::store_name(name).is_ok() {
        name.to_owned()
    } else {
        "package.deb".to_owned()
    }
}

/// The newest date of the locked archives: the same for everybody who builds from this lock.
fn newest(suites: &[LockedSuite]) -> Option<i64> {
    suites
        .iter()
        .filter_map(|s| check::date(&s.inrelease.date).ok())
        .max()
}

/// The Nix name of the machine that runs programs of a Debian architecture.
pub(crate) fn nix_system(arch: &str) -> &'static str {
    Architecture::named(arch).map_or("x86_64-linux", |found| found.nix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_with_a_percent_sign_is_encoded_once_more() {
        assert_eq!(
            in_url("pool/main/g/g/g_2%3a1.0~rc1+b2_amd64.deb"),
            "pool/main/g/g/g_2%253a1.0~rc1+b2_amd64.deb"
        );
        assert_eq!(in_url("a b#c?d\u{e9}"), "a%20b%23c%3fd%c3%a9");
    }
}
