//! `[disk]` and `[[partition]]`: how a root filesystem becomes a bootable disk.

use sos_lang::{ContextElem, Plain};

use super::check::{self, Checked};
use super::fields::{Fields, Known, Located, wrong_type};
use super::ids::{self, Ids};
use super::lower::file_ref as lower_file;
use super::model::FileRef;
use super::schema::{checked, conforms, entries, file_ref};
use super::size::{self, Least};
use crate::plain::{Set, text_with};
use crate::problems::{Problems, with_suggestion};
use crate::tree::{Node, Value};
use std::path::Path;

/// The fields of `[disk]`.
pub(super) const DISK: &[&str] = &[
    "size",
    "version",
    "boot",
    "cmdline",
    "console",
    "timeout",
    "initrd",
    "modules",
    "kernel",
    "slots",
    "tries",
    "filesystem",
    "acls",
    "verity",
    "volatile",
    "root-size",
    "esp-size",
    "free",
    "seed",
    "busybox",
    "loader",
    "stub",
];
const IN_DISK: Known = Known {
    names: DISK,
    aliases: &[],
};
const IN_PARTITION: Known = Known {
    names: &[
        "name",
        "type",
        "size",
        "rest",
        "attributes",
        "filesystem",
        "label",
        "rootfs",
        "free",
        "uuid",
        "filesystem-uuid",
        "image",
        "files",
    ],
    aliases: &[],
};
const BOOT: &[&str] = &["uki", "entries", "none"];
const INITRD: &[&str] = &["none", "own", "distribution"];
const FILESYSTEMS: &[&str] = &["ext4", "erofs", "squashfs", "vfat"];
const VOLATILE: &[&str] = &["overlay", "state", "none"];
const ACLS: &[&str] = &["refuse", "drop"];
const ROOTS: &[&str] = &["ext4", "erofs", "squashfs"];
const ATTRIBUTES: &[&str] = &["read-only", "no-auto", "grow"];

/// A disk as it was read: values by field, as the library takes them.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct DiskSpec {
    fields: Vec<(&'static str, Given)>,
    /// Absent: the library lays the disk out.
    partitions: Option<Vec<Vec<(&'static str, Given)>>>,
}

#[derive(Debug, Clone, PartialEq)]
enum Given {
    Int(i64),
    Flag(bool),
    Text(String, Vec<ContextElem>),
    Texts(Vec<String>),
    File(FileRef),
    Files(Vec<(String, FileRef)>),
}

/// Reads `[disk]` and `[[partition]]` out of the table that has both.
pub(super) fn read(top: &Fields<'_>, problems: &mut Problems) -> DiskSpec {
    let mut spec = DiskSpec::default();
    if let Some(node) = top.node("disk")
        && let Some(fields) = Fields::open(node, "`[disk]`", IN_DISK, problems)
    {
        spec.fields = disk(&fields, problems);
    }
    spec.partitions = partitions(top, problems);
    spec
}

/// Reads what a Nix expression gives to `sos.disk`: the fields of both in one set.
pub(crate) fn read_flat(
    tree: &Node,
    mut problems: Problems,
) -> (Option<DiskSpec>, Vec<sos_formats::diagnostic::Diagnostic>) {
    const NAMES: [&str; DISK.len() + 1] = {
        let mut names = ["partition"; DISK.len() + 1];
        names.split_at_mut(DISK.len()).0.copy_from_slice(DISK);
        names
    };
    const FLAT: Known = Known {
        names: &NAMES,
        aliases: &[("partitions", "partition")],
    };
    let spec = Fields::open(tree, "the disk", FLAT, &mut problems).map(|fields| DiskSpec {
        fields: disk(&fields, &mut problems),
        partitions: partitions(&fields, &mut problems),
    });
    let clean = problems.count() == 0;
    (spec.filter(|_| clean), problems.finish())
}

fn disk(fields: &Fields<'_>, problems: &mut Problems) -> Vec<(&'static str, Given)> {
    let mut out = Vec::new();
    for (name, least) in [
        ("size", Least::Disk),
        ("root-size", Least::Partition),
        ("esp-size", Least::Partition),
        ("free", Least::Nothing),
    ] {
        let found = size::read(fields, name, "the disk", least, problems);
        out.extend(found.map(|n| (name, Given::Int(n))));
    }
    for (name, rule) in [
        ("version", version as fn(&str) -> Checked),
        ("console", console),
        ("kernel", kernel),
        ("seed", check::line),
    ] {
        out.extend(
            checked(fields, name, rule, problems).map(|s| (name, Given::Text(s, Vec::new()))),
        );
    }
    for (name, words) in [
        ("boot", BOOT),
        ("filesystem", ROOTS),
        ("acls", ACLS),
        ("volatile", VOLATILE),
    ] {
        out.extend(word(fields, name, words, problems).map(|s| (name, Given::Text(s, Vec::new()))));
    }
    out.extend(
        fields
            .flag("verity", problems)
            .map(|flag| ("verity", Given::Flag(flag))),
    );
    for (name, least, most) in [("timeout", 0, 3600), ("slots", 1, 2), ("tries", 1, 9)] {
        out.extend(number(fields, name, least, most, problems).map(|n| (name, Given::Int(n))));
    }
    for (name, rule) in [
        ("cmdline", argument as fn(&str) -> Checked),
        ("modules", module),
    ] {
        if fields.node(name).is_some() {
            let mut all = fields.texts(name, problems);
            all.retain(|one| conforms(name, one, rule, problems));
            out.push((
                name,
                Given::Texts(all.into_iter().map(|one| one.value).collect()),
            ));
        }
    }
    if let Some(node) = fields.node("initrd") {
        out.extend(initrd(node, problems).map(|given| ("initrd", given)));
    }
    for name in ["busybox", "loader", "stub"] {
        let file = fields
            .node(name)
            .and_then(|node| file_ref(name, node, problems));
        out.extend(file.map(|file| (name, Given::File(file.value))));
    }
    out
}

fn initrd(node: &Node, problems: &mut Problems) -> Option<Given> {
    match &node.value {
        Value::Str(s, context) if context.is_empty() && !s.contains(['/', '.']) => {
            let found = Located {
                value: s.clone(),
                place: node.place.clone(),
            };
            known("initrd", &found, INITRD, problems).then(|| Given::Text(s.clone(), Vec::new()))
        }
        _ => file_ref("initrd", node, problems).map(|file| Given::File(file.value)),
    }
}

fn partitions(
    top: &Fields<'_>,
    problems: &mut Problems,
) -> Option<Vec<Vec<(&'static str, Given)>>> {
    top.node("partition")?;
    let mut out = Vec::new();
    let mut names: Vec<Located<String>> = Vec::new();
    let mut taken = Ids::default();
    for (i, (key, node)) in entries(top, "partition", problems).into_iter().enumerate() {
        let what = key.as_ref().map_or_else(
            || format!("partition {}", i + 1),
            |k| format!("partition `{}`", k.value),
        );
        let Some(fields) = Fields::open(node, what, IN_PARTITION, problems) else {
            continue;
        };
        let name = match key {
            Some(key) => Some(key),
            None => fields
                .required("name", problems)
                .and_then(|_| fields.text("name", problems)),
        };
        let Some(name) = name.filter(|name| ids::is_name(name, problems)) else {
            continue;
        };
        if let Some(first) = names.iter().find(|n| n.value == name.value) {
            let message = format!("two partitions are called `{}`", name.value);
            problems.duplicate(message, &name.place, &first.place);
            continue;
        }
        out.push(partition(&name.value, &fields, &mut taken, problems));
        names.push(name);
    }
    Some(out)
}

fn partition(
    name: &str,
    fields: &Fields<'_>,
    taken: &mut Ids,
    problems: &mut Problems,
) -> Vec<(&'static str, Given)> {
    let plain = |s: String| Given::Text(s, Vec::new());
    let mut out = vec![("name", plain(name.to_owned()))];
    let mut filesystem = None;
    if let Some(kind) = fields.text("type", problems) {
        let words: Vec<&str> = sos_formats::gpt::TYPES
            .iter()
            .map(|(word, _)| *word)
            .collect();
        let found = sos_formats::gpt::type_of(&kind.value);
        // Firmware reads nothing else there.
        if found.is_some() && found == sos_formats::gpt::type_of("esp") {
            filesystem = Some("vfat".to_owned());
        }
        // One way to write it, so that nothing behind this has to know the others.
        if let Some(found) = found {
            out.push(("type", plain(sos_formats::gpt::type_name(found))));
        } else {
            known("type", &kind, &words, problems);
        }
    }
    let of = format!("the partition `{name}`");
    for (field, least) in [("size", Least::Partition), ("free", Least::Nothing)] {
        let found = size::read(fields, field, &of, least, problems);
        out.extend(found.map(|n| (field, Given::Int(n))));
    }
    out.extend(
        fields
            .flag("rest", problems)
            .map(|flag| ("rest", Given::Flag(flag))),
    );
    if let Some(word) = word(fields, "filesystem", FILESYSTEMS, problems) {
        out.push(("filesystem", plain(word.clone())));
        filesystem = Some(word);
    }
    let label = ids::label(fields, name, filesystem.as_deref(), problems);
    out.extend(label.map(|s| ("label", plain(s))));
    for field in ["uuid", "filesystem-uuid"] {
        let id = taken.read(fields, field, name, problems);
        out.extend(id.map(|s| (field, plain(s))));
    }
    if fields.node("attributes").is_some() {
        let mut all = fields.texts("attributes", problems);
        all.retain(|one| known("attribute", one, ATTRIBUTES, problems));
        out.push((
            "attributes",
            Given::Texts(all.into_iter().map(|one| one.value).collect()),
        ));
    }
    match fields.node("rootfs").map(|node| (node, &node.value)) {
        None => {}
        Some((_, Value::Bool(flag))) => out.push(("rootfs", Given::Flag(*flag))),
        Some((_, Value::Str(s, context))) if !context.is_empty() => {
            out.push(("rootfs", Given::Text(s.clone(), context.clone())));
        }
        Some((node, _)) => {
            let problem = wrong_type(
                problems,
                "`rootfs`",
                node,
                "true, or a root filesystem in quotes: \"${…}\"",
            );
            problems.add(problem);
        }
    }
    if let Some(node) = fields.node("image") {
        out.extend(
            file_ref("image", node, problems).map(|file| ("image", Given::File(file.value))),
        );
    }
    if let Some(node) = fields.node("files") {
        out.extend(files(node, problems).map(|files| ("files", Given::Files(files))));
    }
    out
}

/// What a FAT partition holds besides what boots.
fn files(node: &Node, problems: &mut Problems) -> Option<Vec<(String, FileRef)>> {
    let Value::Table(fields) = &node.value else {
        let problem = wrong_type(problems, "`files`", node, "a table of paths and files");
        problems.add(problem);
        return None;
    };
    let found = fields.iter().filter_map(|field| {
        let file = file_ref("files", &field.node, problems)?;
        Some((field.name.clone(), file.value))
    });
    Some(found.collect())
}

fn number(
    fields: &Fields<'_>,
    name: &str,
    least: i64,
    most: i64,
    problems: &mut Problems,
) -> Option<i64> {
    let found = fields.int(name, problems)?;
    if (least..=most).contains(&found.value) {
        return Some(found.value);
    }
    problems.bad_value(
        format!("bad `{name}`: {}", found.value),
        &found.place,
        format!("expected a number from {least} to {most}"),
    );
    None
}

fn word(
    fields: &Fields<'_>,
    name: &str,
    words: &[&str],
    problems: &mut Problems,
) -> Option<String> {
    let found = fields.text(name, problems)?;
    known(name, &found, words, problems).then_some(found.value)
}

fn known(name: &str, found: &Located<String>, words: &[&str], problems: &mut Problems) -> bool {
    if words.contains(&found.value.as_str()) {
        return true;
    }
    let message = format!("unknown {name} `{}`", found.value);
    let label = format!("expected one of {}", words.join(", "));
    let problem = problems.error("recipe-bad-value", message, &found.place, label);
    problems.add(with_suggestion(
        problem,
        &found.value,
        words.iter().copied(),
    ));
    false
}

/// The disk as the library takes it.
pub(crate) fn lower(spec: &DiskSpec, base: &Path) -> Plain {
    let set = |fields: &[(&'static str, Given)]| {
        fields.iter().fold(Set::new(), |set, (name, given)| {
            set.with(name, plain(given, base))
        })
    };
    let partitions = spec
        .partitions
        .as_ref()
        .map(|all| Plain::List(all.iter().map(|one| set(one).done()).collect()));
    set(&spec.fields).with_some("partitions", partitions).done()
}

fn plain(given: &Given, base: &Path) -> Plain {
    match given {
        Given::Int(n) => Plain::Int(*n),
        Given::Flag(flag) => Plain::Bool(*flag),
        Given::Text(s, context) => text_with(s, context),
        Given::Texts(all) => crate::plain::texts(all),
        Given::File(file) => lower_file(file, base),
        Given::Files(files) => files
            .iter()
            .fold(Set::new(), |set, (path, file)| {
                set.with(path, lower_file(file, base))
            })
            .done(),
    }
}

fn version(s: &str) -> Checked {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b"._~^-".contains(&b);
    if !s.is_empty() && s.len() <= 64 && s.bytes().all(ok) {
        Ok(())
    } else {
        Err("a version: letters, digits and `._~^-`")
    }
}

fn console(s: &str) -> Checked {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b == b',';
    if !s.is_empty() && s.bytes().all(ok) {
        Ok(())
    } else {
        Err("a serial line such as `ttyS0` or `ttyS0,115200`")
    }
}

fn kernel(s: &str) -> Checked {
    if check::store_name(s).is_ok() {
        Ok(())
    } else {
        Err("the version of a kernel, as `uname -r` prints it")
    }
}

fn argument(s: &str) -> Checked {
    if !s.is_empty() && s.len() <= 1024 && !s.chars().any(|c| c.is_control() || c == ' ') {
        Ok(())
    } else {
        Err("one argument of the kernel, without blanks")
    }
}

fn module(s: &str) -> Checked {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
    if !s.is_empty() && s.bytes().all(ok) {
        Ok(())
    } else {
        Err("the name of a kernel module, such as `virtio_blk`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Option<Plain>, Vec<String>) {
        let file = sos_formats::diagnostic::SourceFile::new("x.rootfs.toml", text);
        let (recipe, found) = super::super::schema::parse_file(&file, "x");
        let disk = recipe.map(|recipe| lower(&recipe.disk, Path::new("/recipe")));
        (
            disk,
            found.into_iter().map(|problem| problem.message).collect(),
        )
    }

    #[test]
    fn a_layout_is_read() {
        let (disk, problems) = parse(
            "suite = \"bookworm\"\n[disk]\nsize = \"4G\"\ncmdline = [\"quiet\"]\ninitrd = \"own\"\nslots = 2\n\
             [[partition]]\nname = \"esp\"\ntype = \"esp\"\n\
             [[partition]]\nname = \"data\"\nfilesystem = \"ext4\"\nrest = true\nimage = \"data.img\"\n",
        );
        assert_eq!(problems, Vec::<String>::new());
        let Some(Plain::Attrs(disk)) = disk else {
            panic!("a set")
        };
        assert_eq!(disk["size"], Plain::Int(4 << 30));
        assert_eq!(disk["slots"], Plain::Int(2));
        let Plain::List(partitions) = &disk["partitions"] else {
            panic!("a list")
        };
        let Plain::Attrs(data) = &partitions[1] else {
            panic!("a set")
        };
        assert_eq!(data["rest"], Plain::Bool(true));
        assert_eq!(data["image"], Plain::Path("/recipe/data.img".into()));
    }

    #[test]
    fn every_wrong_value_is_told() {
        let (disk, problems) = parse(
            "suite = \"bookworm\"\n[disk]\nboot = \"lilo\"\ncmdline = [\"a b\"]\ntries = 0\nsiez = 1\n\
             [[partition]]\nname = \"a\"\ntype = \"rot\"\nuuid = \"x\"\nattributes = [\"read\"]\n\
             [[partition]]\nname = \"a\"\n[[partition]]\ntype = \"esp\"\n",
        );
        assert!(disk.is_none());
        for part in [
            "unknown field `siez`",
            "unknown boot `lilo`",
            "bad `tries`",
            "bad `cmdline`",
            "unknown type `rot`",
            "bad `uuid`",
            "unknown attribute `read`",
            "two partitions are called `a`",
            "needs the field `name`",
        ] {
            assert!(
                problems.iter().any(|p| p.contains(part)),
                "{part}: {problems:?}"
            );
        }
    }
}
