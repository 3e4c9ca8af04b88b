//! Where the parts of a recipe were written, by the names that the builders use for them: `users/0/groups/1`.
//!
//! What can only be found out while building, such as a group that no package makes, is then shown where it was written.

use std::collections::BTreeMap;

use sos_formats::diagnostic::Label;
use sos_formats::lock::{LockedPackage, RootfsLocked};
use sos_lang::Plain;

use super::model::{EditSpec, FileKind, RootfsRecipe};
use crate::plain::Set;
use crate::problems::Problems;
use crate::tree::Place;

/// Attributes of an answer, by path, and their places.
pub(crate) type Made = BTreeMap<Vec<String>, Label>;

/// Names of parts, all below one attribute of an answer.
struct Parts<'a> {
    problems: &'a Problems,
    below: &'a [&'a str],
    set: Set,
    made: &'a mut Made,
}

impl Parts<'_> {
    fn add(&mut self, name: &str, place: &Place) {
        // Without a place of its own a part is shown where that which holds it is.
        let Some(label) = place.as_ref().and_then(|_| self.problems.label(place, "")) else {
            return;
        };
        let below = self.below.iter().map(|s| (*s).to_owned());
        self.made
            .insert(below.chain([name.to_owned()]).collect(), label);
        self.set = std::mem::take(&mut self.set).with(name, Plain::Null);
    }
}

/// The parts of an edit; `made` gets their places, below `below`.
pub(crate) fn edit(
    edit: &EditSpec,
    anchor: &Place,
    problems: &Problems,
    below: &[&str],
    made: &mut Made,
) -> Plain {
    let mut parts = Parts {
        problems,
        below,
        set: Set::new(),
        made,
    };
    parts.add("name", anchor);
    for (i, file) in edit.files.iter().enumerate() {
        parts.add(&format!("files/{i}"), &file.path.place);
        parts.add(&format!("files/{i}/owner"), &file.owner.place);
        if let FileKind::Source(source) = &file.kind {
            parts.add(&format!("files/{i}/source"), &source.place);
        }
    }
    for (i, user) in edit.users.iter().enumerate() {
        parts.add(&format!("users/{i}"), &user.name.place);
        if let Some(uid) = &user.uid {
            parts.add(&format!("users/{i}/uid"), &uid.place);
        }
        if let Some(group) = &user.group {
            parts.add(&format!("users/{i}/group"), &group.place);
        }
        for (j, group) in user.groups.iter().enumerate() {
            parts.add(&format!("users/{i}/groups/{j}"), &group.place);
        }
    }
    for (i, group) in edit.groups.iter().enumerate() {
        parts.add(&format!("groups/{i}"), &group.name.place);
        if let Some(gid) = &group.gid {
            parts.add(&format!("groups/{i}/gid"), &gid.place);
        }
    }
    let services = &edit.services;
    for (verb, units) in [
        ("enable", &services.enable),
        ("disable", &services.disable),
        ("mask", &services.mask),
    ] {
        for (i, unit) in units.iter().enumerate() {
            parts.add(&format!("services/{verb}/{i}"), &unit.place);
        }
    }
    if let Some(zone) = &edit.timezone {
        parts.add("timezone", &zone.place);
    }
    parts.set.done()
}

/// The places of a whole recipe: `recipe` for all of it, `edit`, and `debs`, one for each locked package.
pub(crate) fn recipe(
    recipe: &RootfsRecipe,
    locked: &RootfsLocked,
    problems: &Problems,
    made: &mut Made,
) -> Plain {
    let mut at = |place: &Place, below: &[&str]| {
        let mut parts = Parts {
            problems,
            below,
            set: Set::new(),
            made,
        };
        parts.add("name", place);
        parts.set.done()
    };
    let whole = at(&recipe.anchor(), &["places", "recipe"]);
    let debs = locked.packages.iter().enumerate();
    let debs = debs
        .map(|(i, p)| {
            let place = asked_for(recipe, locked, p);
            at(&place, &["places", "debs", &i.to_string()])
        })
        .collect();
    let edit = edit(
        &recipe.edit,
        &recipe.anchor(),
        problems,
        &["places", "edit"],
        made,
    );
    Set::new()
        .with("recipe", whole)
        .with("debs", Plain::List(debs))
        .with("edit", edit)
        .done()
}

/// Where a package was asked for: itself, or that which needs it; what comes with the variant is placed at the suite.
fn asked_for(recipe: &RootfsRecipe, locked: &RootfsLocked, package: &LockedPackage) -> Place {
    let mut package = package;
    // A reason could go in a circle in a lock that was edited by hand.
    for _ in 0..locked.packages.len() {
        let of = |reason: &str| {
            let (_, parent) = reason.split_once(':')?;
            locked.packages.iter().find(|p| p.name == parent)
        };
        match of(&package.reason) {
            Some(parent) => package = parent,
            None => break,
        }
    }
    let asks = |text: &str| {
        let end = text.find([':', ' ', '(', '=']).unwrap_or(text.len());
        text[..end] == package.name
    };
    let include = recipe.include.iter().find(|w| asks(&w.value));
    let local = recipe.debs.iter().find(|d| d.value.shown() == package.path);
    include
        .map(|w| w.place.clone())
        .or_else(|| local.map(|d| d.place.clone()))
        .unwrap_or_else(|| recipe.anchor())
}
