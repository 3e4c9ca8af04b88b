//! Names of steps that mean something else, too, where a target is asked for by name. Nothing is wrong with the tree.

use std::collections::BTreeMap;
use std::path::Path;

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_lang::Host;

use super::attr::is_own;
use super::checkout::Checkout;
use super::plan::{Plan, Step};

/// Returns a warning for each step that is not what its name alone leads to: the tree has something of that name, or a step of another
/// kind is asked for by it.
pub fn taken_names(host: &dyn Host, root: &Path, shown: &str, plan: &Plan) -> Vec<Diagnostic> {
    let checkout = Checkout::open(host, root, shown).ok();
    let at = |warning: Diagnostic, step: &Step| {
        let path = format!("{}/manifest", step.tree);
        let text = checkout.as_ref().and_then(|c| c.text(&path).ok().flatten());
        let Some(text) = text else { return warning };
        let mut start = 0;
        for (number, line) in (1..).zip(text.text.split_inclusive('\n')) {
            if number == step.line {
                let end = start + line.trim_end().len();
                return warning.label(&text, start..end, "this step");
            }
            start += line.len();
        }
        warning
    };
    let warning = |message| Diagnostic::warning("bootstrap-name-taken", Class::Recipe, message);
    let mut out = Vec::new();
    let mut first: BTreeMap<(&str, String), &Step> = BTreeMap::new();
    for step in &plan.steps {
        let target = step.target();
        let known = first
            .entry((step.tree.as_str(), target.clone()))
            .or_insert(step);
        if known.index == step.index && is_own(&target) {
            let message = format!("`#{target}` is no step, but what every tree has of that name");
            let help = format!("`#{}.{target}` is the step", step.tree);
            out.push(at(warning(message), step).help(help));
        } else if known.kind != step.kind {
            let message = format!(
                "`#{target}` is both `{}: {}` and `{}: {}`",
                known.kind.as_str(),
                known.name,
                step.kind.as_str(),
                step.name
            );
            let note = "as passes of one name, of which the last one is meant where none is named";
            out.push(
                at(warning(message), step)
                    .note(note)
                    .help("give one of them another name"),
            );
        }
    }
    out
}
