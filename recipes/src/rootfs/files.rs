//! `[[file]]`: what a recipe places into the root filesystem.

use super::check;
use super::fields::{Fields, Known, Located, wrong_type};
use super::model::{FileKind, FileSpec};
use super::schema::{conforms, entries, file_ref, located};
use crate::problems::Problems;
use crate::tree::{Node, Value};

const FILE: Known = Known {
    names: &[
        "path",
        "source",
        "content",
        "symlink",
        "directory",
        "mode",
        "owner",
    ],
    aliases: &[],
};
const KINDS: [&str; 4] = ["source", "content", "symlink", "directory"];

pub(super) fn read(top: &Fields<'_>, problems: &mut Problems) -> Vec<FileSpec> {
    let mut out: Vec<FileSpec> = Vec::new();
    for (i, (key, node)) in entries(top, "file", problems).into_iter().enumerate() {
        let Some(file) = file(i, key, node, problems) else {
            continue;
        };
        if let Some(first) = out.iter().find(|f| f.path.value == file.path.value) {
            let message = format!("`{}` is placed twice", file.path.value);
            problems.duplicate(message, &file.path.place, &first.path.place);
            continue;
        }
        out.push(file);
    }
    out
}

fn file(
    i: usize,
    key: Option<Located<String>>,
    node: &Node,
    problems: &mut Problems,
) -> Option<FileSpec> {
    let what = key.as_ref().map_or_else(
        || format!("file {}", i + 1),
        |k| format!("file `{}`", k.value),
    );
    let fields = Fields::open(node, what, FILE, problems)?;
    let path = path(&fields, key, problems);
    let kind = kind(&fields, problems);
    let owner = located(&fields, "owner", check::owner, problems).unwrap_or_else(|| Located {
        value: "root:root".to_owned(),
        place: None,
    });
    let mode = mode(&fields, problems);
    if let (Some(FileKind::Symlink(_)), Some(field)) = (&kind, fields.field("mode")) {
        problems.bad_value("a symlink has no mode", &field.place, "remove it");
    }
    Some(FileSpec {
        path: path?,
        kind: kind?,
        mode,
        owner,
    })
}

fn path(
    fields: &Fields<'_>,
    key: Option<Located<String>>,
    problems: &mut Problems,
) -> Option<Located<String>> {
    let found = fields.text_or_key("path", key, problems)?;
    conforms("path", &found, check::absolute_path, problems).then_some(found)
}

fn kind(fields: &Fields<'_>, problems: &mut Problems) -> Option<FileKind> {
    let given: Vec<&str> = KINDS
        .into_iter()
        .filter(|k| fields.node(k).is_some())
        .collect();
    let [one] = given.as_slice() else {
        let message = format!(
            "{} needs exactly one of `source`, `content`, `symlink` and `directory`",
            fields.what()
        );
        let label = if given.is_empty() {
            "has none".to_owned()
        } else {
            format!("has {}", given.join(" and "))
        };
        let place = given
            .get(1)
            .and_then(|k| fields.field(k))
            .map_or(fields.place(), |f| &f.place);
        let problem = problems.error("recipe-missing-field", message, place, label);
        problems.add(problem);
        return None;
    };
    let node = fields.node(one)?;
    match *one {
        "source" => file_ref("source", node, problems).map(FileKind::Source),
        "content" => match &node.value {
            Value::Str(s, context) => Some(FileKind::Content(s.clone(), context.clone())),
            _ => {
                let problem = wrong_type(problems, "`content`", node, "a string");
                problems.add(problem);
                None
            }
        },
        "symlink" => {
            let target = fields.text("symlink", problems)?;
            let ok = !target.value.is_empty()
                && target.value.len() < 4096
                && !target.value.contains('\0');
            if !ok {
                problems.bad_value(
                    "bad `symlink`",
                    &target.place,
                    "expected the target of the link",
                );
            }
            ok.then_some(FileKind::Symlink(target.value))
        }
        _ => {
            if fields.flag("directory", problems)? {
                return Some(FileKind::Directory);
            }
            problems.bad_value(
                "`directory` can only be true",
                &node.place,
                "leave it out instead",
            );
            None
        }
    }
}

fn mode(fields: &Fields<'_>, problems: &mut Problems) -> Option<u16> {
    let node = fields.node("mode")?;
    if let Value::Int(n) = &node.value {
        // `mode = 644` would be another mode than the one meant, and TOML refuses `0644`. What was meant are the digits as
        // they were written, not the number: `0o644` is 420.
        let mut problem = wrong_type(problems, "`mode`", node, "a string of octal digits");
        let written = problems.written(&node.place).unwrap_or_default();
        let digits = match (written.strip_prefix("0o"), written.get(..2)) {
            (Some(digits), _) => digits.replace('_', ""),
            (None, Some("0x" | "0b")) => String::new(),
            (None, _) => n.to_string(),
        };
        let meant = match digits.len() {
            0 => digits,
            _ => format!("{digits:0>4}"),
        };
        if check::mode(&meant).is_ok() {
            problem = problem.help(format!("write `mode = \"{meant}\"`"));
        }
        problems.add(problem);
        return None;
    }
    let found = fields.text("mode", problems)?;
    match check::mode(&found.value) {
        Ok(mode) => Some(mode),
        Err(expected) => {
            let message = format!("bad `mode`: `{}`", found.value.escape_debug());
            problems.bad_value(message, &found.place, format!("expected {expected}"));
            None
        }
    }
}
