//! Features of a machine that a derivation asks for, `requiredSystemFeatures`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::{Class, Diagnostic};

use crate::attributes::Attributes;

const ATTRIBUTE: &str = "requiredSystemFeatures";
/// What every machine has, as Nix says: they only tell a scheduler of many machines where to go.
const COMMON: [&str; 3] = ["benchmark", "big-parallel", "nixos-test"];
/// The device that virtual machines run on.
pub(crate) const KVM_DEVICE: &str = "/dev/kvm";
/// The feature of a machine where it can be opened.
pub(crate) const KVM: &str = "kvm";
/// Names that one message lists.
const LISTED_MAX: usize = 10;

/// Returns the features that this machine has unless the user says otherwise.
#[must_use]
pub fn of_this_machine() -> BTreeSet<String> {
    let mut features: BTreeSet<String> = COMMON.iter().map(|&name| name.to_owned()).collect();
    let mut opening = std::fs::File::options();
    if opening.read(true).write(true).open(KVM_DEVICE).is_ok() {
        features.insert(KVM.to_owned());
    }
    features
}

/// Returns the features that a derivation asks for. Attributes that cannot be read ask for none: what builds it complains.
pub(crate) fn required(drv: &Derivation) -> Vec<String> {
    // Most derivations never say the word, and JSON takes long to read.
    let says = |text: &[u8]| std::str::from_utf8(text).is_ok_and(|text| text.contains(ATTRIBUTE));
    let structured = drv.env.get(b"__json".as_slice());
    if !structured.is_some_and(|text| says(text)) && !drv.env.contains_key(ATTRIBUTE.as_bytes()) {
        return Vec::new();
    }
    let attributes = Attributes::of(drv);
    attributes
        .ok()
        .and_then(|attributes| attributes.list(ATTRIBUTE))
        .unwrap_or_default()
}

/// Complains about features that this machine lacks: `asked` holds names of derivations, each with what it asks for.
pub(crate) fn missing(
    asked: &[(String, Vec<String>)],
    here: &BTreeSet<String>,
) -> Option<Diagnostic> {
    let mut lacking: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, features) in asked {
        for feature in features.iter().filter(|f| !here.contains(*f)) {
            lacking.entry(feature).or_default().push(name);
        }
    }
    let (first, names) = lacking.first_key_value()?;
    let has = if here.is_empty() {
        "none".to_owned()
    } else {
        let quoted: Vec<String> = here.iter().map(|one| format!("`{one}`")).collect();
        quoted.join(", ")
    };
    let mut diagnostic = Diagnostic::error(
        "env-missing-feature",
        Class::Machine,
        format!(
            "`{}` needs a machine with the feature `{first}`; this one has {has}",
            names.first().copied().unwrap_or("?")
        ),
    );
    for (at, (feature, names)) in lacking.iter().enumerate() {
        let others = if at == 0 { &names[1..] } else { &names[..] };
        if others.is_empty() {
            continue;
        }
        let mut note = format!("`{feature}` is also needed by");
        if at > 0 {
            note = format!("`{feature}` is needed by");
        }
        for (at, name) in others.iter().take(LISTED_MAX).enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let _infallible = write!(note, "{comma} `{name}`");
        }
        if others.len() > LISTED_MAX {
            let _infallible = write!(note, " and {} more", others.len() - LISTED_MAX);
        }
        diagnostic = diagnostic.note(note);
    }
    if lacking.contains_key(KVM) {
        diagnostic = diagnostic.note(format!(
            "`{KVM}` is there when `{KVM_DEVICE}` can be opened for reading and writing"
        ));
    }
    let list: Vec<String> = here
        .iter()
        .map(String::as_str)
        .chain(lacking.keys().copied())
        .map(|one| format!("\"{one}\""))
        .collect();
    Some(diagnostic.help(format!(
        "if this machine can do it, say so in the configuration: `build.system-features = [{}]`",
        list.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drv(env: &[(&str, &str)]) -> Derivation {
        let mut drv = Derivation::default();
        for (key, value) in env {
            drv.env
                .insert(key.as_bytes().to_vec(), value.as_bytes().to_vec());
        }
        drv
    }

    #[test]
    fn features_are_words_or_a_list() {
        assert_eq!(required(&drv(&[])), [""; 0]);
        assert_eq!(
            required(&drv(&[(ATTRIBUTE, "kvm  big-parallel")])),
            ["kvm", "big-parallel"]
        );
        let json = r#"{"requiredSystemFeatures":["kvm"],"n":1}"#;
        assert_eq!(required(&drv(&[("__json", json)])), ["kvm"]);
        assert_eq!(required(&drv(&[("__json", "{}")])), [""; 0]);
        assert_eq!(
            required(&drv(&[("__json", "requiredSystemFeatures")])),
            [""; 0]
        );
    }

    #[test]
    fn all_that_is_missing_is_one_message() {
        let here: BTreeSet<String> = ["big-parallel".to_owned()].into();
        let asks = |name: &str, features: &[&str]| {
            (
                name.to_owned(),
                features.iter().map(|&f| f.to_owned()).collect(),
            )
        };
        assert!(missing(&[asks("a", &["big-parallel"])], &here).is_none());
        let found = missing(
            &[
                asks("a", &["gpu"]),
                asks("b", &["gpu", "big-parallel"]),
                asks("c", &["tpu"]),
            ],
            &here,
        )
        .unwrap();
        assert_eq!(
            found.message,
            "`a` needs a machine with the feature `gpu`; this one has `big-parallel`"
        );
        assert_eq!(
            found.notes,
            ["`gpu` is also needed by `b`", "`tpu` is needed by `c`"]
        );
    }
}
