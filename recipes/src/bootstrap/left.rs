//! Variables that a step leaves in its shell and a later one reads: upstream runs both in one shell, and here each has its own.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use sos_formats::diagnostic::{Class, Diagnostic, SourceFile};
use sos_lang::Host;

use super::checkout::Checkout;
use super::manifest::Kind;
use super::plan::{Plan, Step};

/// What steps share besides the shell: a script that names one of these hands its variables on there.
const SHARED: [&str; 3] = ["/steps/env", "/steps/bootstrap.cfg", "${SRCDIR}/env"];

/// Returns a warning for each variable that the script of a step in bash sets, and that the script of a later step of the same
/// generated script reads without setting it. What `env`, `bootstrap.cfg` or `helpers.sh` set is there for every step, and so
/// is what a script writes to the first two. Names that scripts put together are not found.
pub fn left_behind(host: &dyn Host, root: &Path, shown: &str, plan: &Plan) -> Vec<Diagnostic> {
    let Ok(checkout) = Checkout::open(host, root, shown) else {
        return Vec::new();
    };
    let text = |path: &str| checkout.text(path).ok().flatten();
    let mut always: BTreeSet<String> = plan.variables.iter().map(|(n, _)| n.to_owned()).collect();
    for shared in ["steps/env", "steps/helpers.sh"] {
        if let Some(text) = text(shared) {
            always.extend(assigned(&text.text).map(|(_, name)| name.to_owned()));
        }
    }
    let mut left: BTreeMap<String, Left<'_>> = BTreeMap::new();
    let mut found = Vec::new();
    let mut told = BTreeSet::new();
    let mut script = ("", 0);
    for step in &plan.steps {
        // A new script is a new shell for upstream, too.
        if script != (step.tree.as_str(), step.script_index) {
            script = (&step.tree, step.script_index);
            left.clear();
        }
        let path = step.script_real.as_ref().filter(|_| step.generation > 0);
        let Some(text) = path.and_then(|path| text(path)) else {
            continue;
        };
        let own: BTreeSet<&str> = assigned(&text.text).map(|(_, name)| name).collect();
        let set = set_somehow(&text.text);
        for (place, name) in read(&text.text) {
            if set.contains(name) || always.contains(name) {
                continue;
            }
            let Some(from) = left.get(name) else { continue };
            if from.step.name == step.name || !told.insert((name.to_owned(), step.name.clone())) {
                continue;
            }
            let message = format!(
                "`{}: {}` leaves the variable `{name}`, which `{}: {}` reads and will not find",
                from.step.kind.as_str(),
                from.step.name,
                step.kind.as_str(),
                step.name
            );
            let warning = Diagnostic::warning("bootstrap-left-behind", Class::Recipe, message)
                .label(&text, place, "read here")
                .label(&from.text, from.place.clone(), "set here")
                .note("each step has a shell of its own: what lasts is what is in files")
                .help(format!(
                    "add it to what every step reads: `echo \"{name}=${{{name}}}\" >> /steps/env`"
                ));
            found.push(warning);
        }
        if SHARED.iter().any(|shared| text.text.contains(shared)) && step.kind != Kind::Build {
            always.extend(own.iter().map(|name| (*name).to_owned()));
        }
        let names: Vec<_> = assigned(&text.text).collect();
        for (place, name) in names {
            left.insert(
                name.to_owned(),
                Left {
                    step,
                    text: Arc::clone(&text),
                    place,
                },
            );
        }
        for name in unset(&text.text) {
            left.remove(name);
        }
    }
    found
}

/// Who set a variable, and where.
struct Left<'a> {
    step: &'a Step,
    text: Arc<SourceFile>,
    place: Range<usize>,
}

/// The lines of a script without those that are comments, each with its offset.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut start = 0;
    text.split_inclusive('\n').filter_map(move |line| {
        let offset = start;
        start += line.len();
        (!line.trim_start().starts_with('#')).then_some((offset, line))
    })
}

fn name_at(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let name = &text[..end.unwrap_or(text.len())];
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        ""
    } else {
        name
    }
}

/// The variables that lines of a script set, each with its place: `NAME=...` alone or behind `export`, `for NAME`, `read NAME`.
/// `local` is none, since it ends with its function.
fn assigned(text: &str) -> impl Iterator<Item = (Range<usize>, &str)> {
    lines(text).filter_map(|(offset, line)| {
        let begin = line.trim_start();
        let mut rest = begin;
        let mut sets = false;
        for word in ["export ", "for ", "read "] {
            if let Some(after) = rest.strip_prefix(word) {
                rest = after.trim_start();
                sets = word != "export ";
            }
        }
        let name = name_at(rest);
        let after = &rest[name.len()..];
        if name.is_empty() || !(sets || after.starts_with('=') || after.starts_with("+=")) {
            return None;
        }
        if !sets && is_for_one_command(&after[after.find('=')? + 1..]) {
            return None;
        }
        let at = offset + (line.len() - begin.len()) + (begin.len() - rest.len());
        Some((at..at + name.len(), name))
    })
}

/// Every name that a script may set in any way, anywhere in a line: who reads one of these does not rely on others.
fn set_somehow(text: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    for (_, line) in lines(text) {
        let words = line.split(|c: char| c.is_whitespace() || ";()\"'".contains(c));
        let mut named = false;
        for word in words {
            named |= matches!(word, "local" | "declare" | "export" | "read" | "for");
            let name = name_at(word);
            if !name.is_empty() && (named || word[name.len()..].starts_with(['=', '+'])) {
                found.insert(name);
            }
        }
    }
    found
}

/// Tells whether a command stands behind a value: the variable is set for that alone then.
fn is_for_one_command(value: &str) -> bool {
    let mut quote = None;
    let mut depth = 0_usize;
    let mut chars = value.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => {
                chars.next();
            }
            (c, Some(open)) if c == open => quote = None,
            (_, Some('\'')) => {}
            ('\'' | '"', None) => quote = Some(c),
            ('(' | '{', _) => depth += 1,
            (')' | '}', _) => depth = depth.saturating_sub(1),
            (' ' | '\t', None) if depth == 0 => {
                let rest = value[at..].trim();
                return !(rest.is_empty() || rest.starts_with([';', '&', '|', '#', '\\']));
            }
            _ => {}
        }
    }
    false
}

/// The variables that a script reads, each with its place.
fn read(text: &str) -> impl Iterator<Item = (Range<usize>, &str)> {
    lines(text).flat_map(|(offset, line)| {
        line.match_indices('$').filter_map(move |(at, _)| {
            if line[..at].ends_with('\\') {
                return None;
            }
            let rest = &line[at + 1..];
            let (skip, name) = match rest.strip_prefix('{') {
                Some(rest) => {
                    let rest_name = name_at(rest);
                    // One that has a default is not missed.
                    let after = &rest[rest_name.len()..];
                    let has_default = [":-", "-", ":=", "=", ":+", "+"]
                        .iter()
                        .any(|with| after.starts_with(with));
                    (2, if has_default { "" } else { rest_name })
                }
                None => (1, name_at(rest)),
            };
            let at = offset + at + skip;
            (!name.is_empty()).then_some((at..at + name.len(), name))
        })
    })
}

/// The variables that a script removes.
fn unset(text: &str) -> impl Iterator<Item = &str> {
    lines(text)
        .filter_map(|(_, line)| line.trim().strip_prefix("unset "))
        .flat_map(str::split_whitespace)
}

#[cfg(test)]
mod tests {
    use super::{assigned, read, set_somehow, unset};

    #[test]
    fn what_is_set_and_what_is_read() {
        let text = "# N=1\nA=1\n  export B=\"x y\"\nC=1 make\nfor D in a; do\nlocal E=1\nF=$(ls -l)\nG='a b' ; H=2\nunset A B\n";
        let names: Vec<&str> = assigned(text).map(|(_, name)| name).collect();
        assert_eq!(names, ["A", "B", "D", "F", "G"]);
        assert!(assigned(text).all(|(place, name)| &text[place] == name));
        assert_eq!(unset(text).collect::<Vec<_>>(), ["A", "B"]);
        let text = "find | while read d; do\nlocal B=1 C\nmake D=2\n(E=3; echo $F)\n";
        let names: Vec<&str> = set_somehow(text).into_iter().collect();
        for name in ["d", "B", "C", "D", "E"] {
            assert!(names.contains(&name), "{names:?}");
        }
        assert!(!names.contains(&"F"), "{names:?}");
        let text = "echo $A \"${B}x\" \\$C ${D:-1} $1 ${E%.c} $(F)\n# $G\n";
        let names: Vec<&str> = read(text).map(|(_, name)| name).collect();
        assert_eq!(names, ["A", "B", "E"]);
        assert!(read(text).all(|(place, name)| &text[place] == name));
    }
}
