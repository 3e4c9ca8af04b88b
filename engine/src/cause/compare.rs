//! In what two derivations differ, both with every input a store path.
//!
//! Texts are compared without the store paths in them: an input that changed is told once, by its name, and not again by
//! every variable that mentions it.

use std::collections::{BTreeMap, BTreeSet};

use sos_formats::derivation::{Derivation, Output};
use sos_formats::store_path::{StoreDir, StorePath};

use super::pairing::{InCommon, Pairing};
use super::written::{Texts, unversioned, without_order};
use super::{Cause, Only, TextChange, text};

/// Attributes that hold what is run. Phases of a build are found by the end of their names.
const SCRIPTS: [&str; 5] = ["script", "command", "shell", "buildCommand", "args"];
/// Attributes that tell what the outputs are and how they are addressed, not how they are made.
const ADDRESS: [&str; 5] = [
    "outputHash",
    "outputHashAlgo",
    "outputHashMode",
    "outputs",
    "__contentAddressed",
];

/// Bytes of a value that is told; a longer one is only said to differ.
const VALUE_BYTES_MAX: usize = 100;

/// A derivation with its name.
pub(super) struct Side<'a> {
    pub(super) name: &'a str,
    pub(super) drv: &'a Derivation,
}

/// One difference.
pub(super) struct Difference {
    pub(super) cause: Cause,
    /// An input that is another one, or none any more: what it was.
    pub(super) old: Option<StorePath>,
    /// What it is.
    pub(super) new: Option<StorePath>,
}

impl From<Cause> for Difference {
    fn from(cause: Cause) -> Self {
        Self {
            cause,
            old: None,
            new: None,
        }
    }
}

/// Compares; what matters most comes first. Gives none if one is not an earlier form of the other. `in_common` tells how much two
/// inputs of one name have in common.
pub(super) fn compare(
    dir: &StoreDir,
    old: &Side<'_>,
    new: &Side<'_>,
    in_common: &InCommon<'_>,
) -> Option<Vec<Difference>> {
    let (old_drv, new_drv) = (without_order(dir, old.drv), without_order(dir, new.drv));
    let side = |name, drv| Side { name, drv };
    let (old, new) = (&side(old.name, &*old_drv), &side(new.name, &*new_drv));
    let (before, now) = (Texts::of(dir, old.drv), Texts::of(dir, new.drv));
    let inputs = Inputs::of(
        &Pairing::new(dir, old.drv, new.drv, in_common),
        old.drv,
        new.drv,
    );
    if !is_successor(old, new, &before, &now, &inputs) {
        return None;
    }
    let mut found: Vec<Difference> = Vec::new();
    if before.builder != now.builder {
        found.push(
            Cause::BuilderChanged {
                old: value(Some(&old.drv.builder)),
                new: value(Some(&new.drv.builder)),
            }
            .into(),
        );
    }
    found.extend(
        inputs
            .changed
            .iter()
            .map(|(old, new)| input(Some(old), Some(new))),
    );
    let differ = names(&before.attrs, &now.attrs);
    let (scripts, attrs): (Vec<&String>, Vec<&String>) =
        differ.into_iter().partition(|name| is_script(name));
    if before.args != now.args || !scripts.is_empty() {
        let (part, text) = match scripts.first() {
            Some(name) => (name.as_str(), attribute_change(&before, &now, name)),
            None => ("args", argument_change(&before.args, &now.args)),
        };
        found.push(recipe(part, text));
    }
    // The hash of the content is written twice, as an attribute and as the address.
    let (address, attrs): (Vec<&String>, Vec<&String>) = attrs.into_iter().partition(|name| {
        let is_output = |drv: &Derivation| drv.outputs.contains_key(name.as_str());
        ADDRESS.contains(&name.as_str()) || is_output(old.drv) || is_output(new.drv)
    });
    found.extend(attrs.into_iter().map(|name| {
        Difference::from(Cause::EnvChanged {
            name: name.clone(),
            old: value(before.attrs.get(name)),
            new: value(now.attrs.get(name)),
            text: attribute_change(&before, &now, name),
            only: match (
                before.attrs.contains_key(name),
                now.attrs.contains_key(name),
            ) {
                (false, true) => Some(Only::Now),
                (true, false) => Some(Only::Before),
                _ => None,
            },
        })
    }));
    let outputs = addresses(old.drv) != addresses(new.drv);
    if outputs || !address.is_empty() {
        found.push(recipe("outputs", None));
    }
    found.extend(inputs.added.iter().map(|path| input(None, Some(path))));
    found.extend(inputs.removed.iter().map(|path| input(Some(path), None)));
    Some(found)
}

/// Tells whether two derivations of the same attribute path in two directories are forms of one: the project was moved or copied, and
/// is not another one with a target of these words.
pub(super) fn is_same_elsewhere(
    dir: &StoreDir,
    old: &Side<'_>,
    new: &Side<'_>,
    in_common: &InCommon<'_>,
) -> bool {
    if unversioned(old.name) != unversioned(new.name) {
        return false;
    }
    let Some(found) = compare(dir, old, new, in_common) else {
        return false;
    };
    let kept = old.drv.input_srcs.intersection(&new.drv.input_srcs).count();
    let is_pair = |one: &&Difference| one.old.is_some() && one.new.is_some();
    let changed = found.iter().filter(is_pair).count();
    // What has no input at all has nothing by which it could be known again.
    if kept + changed == 0 {
        return false;
    }
    let (before, now) = (Texts::of(dir, old.drv), Texts::of(dir, new.drv));
    let is_equal = |name: &&String| before.attrs.get(*name) == now.attrs.get(*name);
    let attrs = before.attrs.keys().filter(|name| !is_told_by_all(name));
    let equal = attrs.filter(is_equal).count() + usize::from(before.args == now.args);
    found.len() - changed <= kept + equal
}

/// Attributes that are equal in derivations which have nothing to do with each other.
fn is_told_by_all(name: &str) -> bool {
    name == "name" || name == "out" || ADDRESS.contains(&name)
}

fn input(old: Option<&StorePath>, new: Option<&StorePath>) -> Difference {
    let name = new.or(old).map_or("", StorePath::name);
    Difference {
        cause: Cause::InputChanged {
            input: name.to_owned(),
            file: None,
            files: Vec::new(),
            more_files: 0,
            text: None,
            old: None,
            new: None,
            from: None,
        },
        old: old.cloned(),
        new: new.cloned(),
    }
}

fn recipe(part: &str, text: Option<TextChange>) -> Difference {
    Difference::from(Cause::RecipeChanged {
        part: Some(part.to_owned()),
        text,
    })
}

/// What changed in the first argument that is another one.
fn argument_change(old: &[Vec<u8>], new: &[Vec<u8>]) -> Option<TextChange> {
    let (was, is) = old.iter().zip(new).find(|(was, is)| was != is)?;
    Some(text::between(
        str::from_utf8(was).ok()?,
        str::from_utf8(is).ok()?,
    ))
}

/// What changed in an attribute that both have, unless both values can be told whole.
fn attribute_change(old: &Texts, new: &Texts, name: &str) -> Option<TextChange> {
    let (was, is) = (old.attrs.get(name)?, new.attrs.get(name)?);
    if !is_script(name) && value(Some(was)).is_some() && value(Some(is)).is_some() {
        return None;
    }
    Some(text::between(&old.text(was)?, &new.text(is)?))
}

/// A value for a person, if it is short.
fn value(bytes: Option<&Vec<u8>>) -> Option<String> {
    let text = String::from_utf8(bytes?.clone()).ok()?;
    let is_short = text.len() <= VALUE_BYTES_MAX && !text.contains(char::is_control);
    is_short.then_some(text)
}

/// Tells whether one can be an earlier form of the other: a name alone is shared by too much.
fn is_successor(
    old: &Side<'_>,
    new: &Side<'_>,
    before: &Texts,
    now: &Texts,
    inputs: &Inputs,
) -> bool {
    if new.drv.is_fixed() || old.drv.is_fixed() {
        // Every download has the same builder; it is the same one if it comes from the same place, or tells its version.
        let same = |name: &str| {
            before.attrs.contains_key(name) && before.attrs.get(name) == now.attrs.get(name)
        };
        return same("url") || same("urls") || same("outputHash") || old.name != new.name;
    }
    before.builder == now.builder
        || (before.args == now.args && !now.args.is_empty())
        || inputs.kept
        || !inputs.changed.is_empty()
}

fn is_script(name: &str) -> bool {
    SCRIPTS.contains(&name) || name.ends_with("Phase")
}

/// The names whose values differ.
fn names<'a>(
    old: &'a BTreeMap<String, Vec<u8>>,
    new: &'a BTreeMap<String, Vec<u8>>,
) -> Vec<&'a String> {
    let all: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    all.into_iter()
        .filter(|name| old.get(*name) != new.get(*name))
        .collect()
}

/// Inputs that are not on both sides.
struct Inputs {
    changed: Vec<(StorePath, StorePath)>,
    added: Vec<StorePath>,
    removed: Vec<StorePath>,
    /// Some are on both sides.
    kept: bool,
}

impl Inputs {
    fn of(pairing: &Pairing<'_>, old: &Derivation, new: &Derivation) -> Self {
        let only = |of: &Derivation, other: &Derivation| -> Vec<StorePath> {
            of.input_srcs
                .difference(&other.input_srcs)
                .cloned()
                .collect()
        };
        let (mut removed, mut added) = (only(old, new), only(new, old));
        added.sort_by(|a, b| a.name().cmp(b.name()));
        Self {
            changed: pairing.pair(&mut removed, &mut added),
            added,
            removed,
            kept: !old.input_srcs.is_disjoint(&new.input_srcs),
        }
    }
}

/// How each output is addressed, without paths that follow from everything else.
fn addresses(drv: &Derivation) -> BTreeMap<&String, Option<&Output>> {
    drv.outputs
        .iter()
        .map(|(name, output)| {
            let told = matches!(output, Output::Fixed { .. } | Output::Floating { .. });
            (name, told.then_some(output))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(digit: char, name: &str) -> String {
        format!("/nix/store/{}-{name}", digit.to_string().repeat(32))
    }

    fn side(
        name: &str,
        inputs: &[String],
        args: &[&str],
        env: &[(&str, &str)],
    ) -> (String, Derivation) {
        let dir = StoreDir::default();
        (
            name.to_owned(),
            Derivation {
                outputs: [("out".to_owned(), Output::Deferred)].into(),
                input_srcs: inputs
                    .iter()
                    .map(|p| StorePath::from_absolute(&dir, p).unwrap())
                    .collect(),
                builder: b"/bin/sh".to_vec(),
                args: args.iter().map(|a| a.as_bytes().to_vec()).collect(),
                env: env
                    .iter()
                    .map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec()))
                    .collect(),
                ..Derivation::default()
            },
        )
    }

    fn of((name, drv): &(String, Derivation)) -> Side<'_> {
        Side { name, drv }
    }

    #[track_caller]
    fn check(old: &(String, Derivation), new: &(String, Derivation), expect: &[&str]) {
        let found: Vec<String> = compare(&StoreDir::default(), &of(old), &of(new), &|_, _| 0)
            .expect("an earlier form")
            .iter()
            .map(|one| one.cause.to_string())
            .collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn an_input_is_told_once_and_not_by_what_mentions_it() {
        let at = |digit, version: &str| {
            let (src, libc) = (
                path(digit, "main.c"),
                path(digit, &format!("libc-{version}")),
            );
            let script = format!("cc {src} -L{libc}/lib");
            let out = path(digit, "x");
            side(
                "x",
                &[src.clone(), libc],
                &[&script],
                &[("src", &src), ("out", &out)],
            )
        };
        check(
            &at('1', "1"),
            &at('2', "1"),
            &["libc-1 changed", "main.c changed"],
        );
        check(
            &at('1', "1"),
            &at('2', "2"),
            &["main.c changed", "libc-2 changed"],
        );
    }

    #[test]
    fn texts_are_told_by_their_names() {
        let old = side("x", &[], &["a"], &[("A", "1"), ("B", "1")]);
        check(
            &old,
            &side("x", &[], &["a"], &[("A", "2")]),
            &["`A` changed", "`B` changed"],
        );
        check(
            &old,
            &side("x", &[], &["b"], &[("A", "1"), ("B", "1")]),
            &["recipe changed"],
        );
        let mut other = side("x", &[], &["a"], &[("A", "1"), ("B", "1")]);
        other.1.builder = b"/bin/bash".to_vec();
        other
            .1
            .env
            .insert(b"builder".to_vec(), b"/bin/bash".to_vec());
        check(&old, &other, &["builder changed"]);
    }

    #[test]
    fn how_an_output_is_addressed_is_told_as_recipe() {
        let (known, unknown) = (path('1', "x"), format!("/{}", "1".repeat(52)));
        let at = |out: &str| {
            let prefix = format!("--prefix={out}");
            side("x", &[], &["a"], &[("out", out), ("flags", &prefix)])
        };
        let mut new = at(&unknown);
        check(&at(&known), &new, &[]);
        new.1.env.insert(b"outputs".to_vec(), b"out".to_vec());
        check(&at(&known), &new, &["recipe changed"]);
    }

    #[test]
    fn a_variable_on_one_side_and_builders_are_told_as_such() {
        let old = side("x", &[], &["a"], &[("A", "1")]);
        let mut new = side("x", &[], &["a"], &[("B", "2")]);
        new.1.builder = b"/bin/bash".to_vec();
        let found = compare(&StoreDir::default(), &of(&old), &of(&new), &|_, _| 0)
            .expect("an earlier form");
        let found: Vec<Cause> = found.into_iter().map(|one| one.cause).collect();
        let variable = |name: &str, old: Option<&str>, new: Option<&str>, only| Cause::EnvChanged {
            name: name.to_owned(),
            old: old.map(str::to_owned),
            new: new.map(str::to_owned),
            only: Some(only),
            text: None,
        };
        assert_eq!(
            found,
            [
                Cause::BuilderChanged {
                    old: Some("/bin/sh".to_owned()),
                    new: Some("/bin/bash".to_owned()),
                },
                variable("A", Some("1"), None, Only::Before),
                variable("B", None, Some("2"), Only::Now),
            ]
        );
    }

    #[test]
    fn structured_attributes_are_looked_into() {
        let json = |text: &str| side("x", &[], &[], &[("__json", text)]);
        let old = json(r#"{"script":"a","env":{"V":"1"},"mounts":{}}"#);
        check(
            &old,
            &json(r#"{"script":"a","env":{"V":"2"},"mounts":{}}"#),
            &["`V` changed"],
        );
        check(
            &old,
            &json(r#"{"script":"b","env":{"V":"1"},"mounts":{}}"#),
            &["recipe changed"],
        );
        check(
            &old,
            &json(r#"{"script":"a","env":{"V":"1"},"mounts":{"a":"b"}}"#),
            &["`mounts` changed"],
        );
    }

    #[test]
    fn inputs_that_come_and_go_are_named() {
        let (a, b) = (path('1', "a"), path('2', "b"));
        let old = side("x", std::slice::from_ref(&a), &["x"], &[]);
        check(
            &old,
            &side("x", &[a, b.clone()], &["x"], &[]),
            &["b changed"],
        );
        check(
            &old,
            &side("x", &[b], &["x"], &[]),
            &["b changed", "a changed"],
        );
    }

    #[test]
    fn what_only_comes_before_a_download_is_no_cause() {
        let (root, other, key) = (path('1', "root"), path('2', "root"), path('3', "key"));
        let fetch = |before: &[&String], attrs: &str| {
            let inputs: Vec<String> = before.iter().map(|p| (*p).clone()).collect();
            let after = serde_json::to_string(before).unwrap();
            let json = format!(r#"{{"after":{after},"outputHash":"x"{attrs}}}"#);
            let (name, mut drv) = side("f.tar", &inputs, &[], &[("__json", &json)]);
            drv.builder = b"builtin:fetch".to_vec();
            (name, drv)
        };
        let old = fetch(&[&root], "");
        check(&old, &fetch(&[&other], ""), &[]);
        check(&old, &fetch(&[], ""), &[]);
        let urls = r#","urls":["u"]"#;
        check(&old, &fetch(&[&other], urls), &["`urls` changed"]);
        // What is named for something else, too, counts.
        let with_key = format!(r#","key":"{key}""#);
        check(
            &fetch(&[&root], &with_key),
            &fetch(&[&root, &key], &with_key),
            &["key changed"],
        );
        // Another builder may read what it finds there.
        let of = |builder: &[u8], (name, mut drv): (String, Derivation)| {
            drv.builder = builder.to_vec();
            (name, drv)
        };
        let (was, is) = (fetch(&[&root], ""), fetch(&[&other], ""));
        check(&of(b"/bin/sh", was), &of(b"/bin/sh", is), &["root changed"]);
    }

    #[test]
    fn what_shares_but_its_name_is_no_earlier_form() {
        let dir = StoreDir::default();
        let old = side("x", &[], &["a"], &[]);
        let mut new = side("x", &[], &["b"], &[]);
        new.1.builder = b"builtin:other".to_vec();
        assert!(compare(&dir, &of(&old), &of(&new), &|_, _| 0).is_none());
    }
}
