//! Pins of packages that no step makes, whatever the settings: often those of a step that was removed or has another version now.

use std::collections::BTreeSet;
use std::path::Path;

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_lang::Host;

use super::checkout::Checkout;
use super::plan::Plan;

/// Returns a warning for each line of `SHA256SUMS.pkgs` with a package that no step of the plan makes, and whose name is nowhere in the
/// manifest: what is left out for the settings alone has its pin for others.
pub fn stale_pins(host: &dyn Host, root: &Path, shown: &str, plan: &Plan) -> Vec<Diagnostic> {
    let Ok(checkout) = Checkout::open(host, root, shown) else {
        return Vec::new();
    };
    let text = |path: String| checkout.text(&path).ok().flatten();
    let packages = plan.steps.iter().filter_map(|step| step.package.as_ref());
    let made: BTreeSet<&str> = packages.map(|package| package.file.as_str()).collect();
    let trees: BTreeSet<&str> = plan.steps.iter().map(|step| step.tree.as_str()).collect();
    let mut out = Vec::new();
    for tree in trees {
        let (Some(pins), Some(manifest)) = (
            text(format!("{tree}/SHA256SUMS.pkgs")),
            text(format!("{tree}/manifest")),
        ) else {
            continue;
        };
        let words: BTreeSet<&str> = manifest.text.split_whitespace().collect();
        let mut start = 0;
        for line in pins.text.split_inclusive('\n') {
            let end = start + line.trim_end().len();
            let place = start..end;
            start += line.len();
            let Some(file) = line.split_whitespace().nth(1) else {
                continue;
            };
            let step = file.rsplit_once('_').map_or(file, |(step, _)| step);
            if made.contains(file) || words.contains(step) {
                continue;
            }
            let message = format!("no step makes the package `{file}`, whose digest is pinned");
            let warning = Diagnostic::warning("bootstrap-stale-pin", Class::Recipe, message)
                .label(&pins, place, "nobody looks at this line")
                .help("remove the line, or give it the name of the package that is meant");
            out.push(warning);
        }
    }
    out
}
