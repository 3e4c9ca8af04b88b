//! Names, labels and ids of partitions: what a table and file systems can hold, and that none is there twice.

use sos_formats::label;
use sos_formats::uuid::{Uuid, UuidError};

use super::fields::{Fields, Located};
use crate::problems::Problems;

/// Characters of a name, as a partition table has them.
const MAX_NAME: usize = 36;
const NAME: &str = "expected 1 to 36 letters, digits and `._-`";

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-".contains(c)
}

/// Whether a partition can be called so; says what is wrong if not. Names are words of files and messages, too: they have fewer
/// characters than a table allows.
pub(super) fn is_name(found: &Located<String>, problems: &mut Problems) -> bool {
    let name = &found.value;
    let long = name.chars().count();
    let bad = name.chars().find(|c| !is_plain(*c));
    let what = match bad {
        None if name.is_empty() => "it is empty".to_owned(),
        None if long > MAX_NAME => {
            format!("it has {long} characters, and a partition table has room for {MAX_NAME}")
        }
        None => return true,
        Some(c) => format!("`{}` cannot stand in it", c.escape_debug()),
    };
    let message = format!(
        "`{}` cannot be the name of a partition: {what}",
        name.escape_debug()
    );
    let mut problem = problems.error("recipe-bad-value", message, &found.place, NAME);
    let instead: String = name
        .chars()
        .map(|c| if is_plain(c) { c } else { '-' })
        .take(MAX_NAME)
        .collect();
    if !instead.is_empty() {
        problem = problem.help(format!("call it `{instead}`"));
    }
    problems.add(problem);
    false
}

/// Reads the label of a partition's file system, which has a name as in `mount -t`; without one the label goes nowhere.
pub(super) fn label(
    fields: &Fields<'_>,
    partition: &str,
    filesystem: Option<&str>,
    problems: &mut Problems,
) -> Option<String> {
    let found = fields.text("label", problems)?;
    let Err(wrong) = label::check(filesystem.unwrap_or_default(), &found.value) else {
        return Some(found.value);
    };
    let message = format!("bad `label` of the partition `{partition}`: {wrong}");
    let mut problem = problems.error("recipe-bad-value", message, &found.place, "not a label");
    problem = problem.help(match wrong.instead() {
        Some(instead) => format!("write `label = \"{instead}\"`"),
        None => "leave `label` out".to_owned(),
    });
    problems.add(problem);
    None
}

/// The ids that the partitions so far were given.
#[derive(Debug, Default)]
pub(super) struct Ids {
    /// Field, id, and the partition that has it first.
    taken: Vec<(&'static str, Uuid, Located<String>)>,
}

impl Ids {
    /// Reads an id of a partition that no other one has.
    pub(super) fn read(
        &mut self,
        fields: &Fields<'_>,
        field: &'static str,
        partition: &str,
        problems: &mut Problems,
    ) -> Option<String> {
        let found = fields.text(field, problems)?;
        let id = match Uuid::parse_id(&found.value) {
            Ok(id) => id,
            Err(wrong) => {
                let message = format!("bad `{field}` of the partition `{partition}`: {wrong}");
                let expected = "expected a UUID such as `6a1c3a50-3a2b-8c1d-9e4f-0123456789ab`";
                let problem = problems.error(
                    "recipe-bad-value",
                    message,
                    &found.place,
                    match wrong {
                        UuidError::Nil => "all zeros",
                        _ => expected,
                    },
                );
                problems.add(problem.help(format!(
                    "leave `{field}` out: it follows from the names of the disk and the partition then"
                )));
                return None;
            }
        };
        let mut taken = self.taken.iter();
        if let Some((_, _, first)) = taken.find(|(name, other, _)| *name == field && *other == id) {
            let message = format!(
                "the partitions `{}` and `{partition}` have the same `{field}`",
                first.value
            );
            problems.duplicate(message, &found.place, &first.place);
            return None;
        }
        let owner = Located {
            value: partition.to_owned(),
            place: found.place,
        };
        self.taken.push((field, id, owner));
        Some(found.value)
    }
}
