//! The part of a trace that is shown without being asked for: what the user wrote, in a line each.

use sos_formats::diagnostic::{Diagnostic, Frame, Label};
use sos_formats::store_path::StoreDir;

use super::size;

/// Frames shown of those next to the error, and of those furthest from it.
const SHOWN: (usize, usize) = (3, 1);
/// Lines shown that the program itself adds to its errors.
const SAID: usize = 8;

/// Lines for the trace of a problem, the one next to the error first; the last one tells how much is not shown.
pub(super) fn short(problem: &Diagnostic) -> Vec<String> {
    let mut lines: Vec<(&str, usize)> = problem.labels.iter().map(line).collect();
    let mut users: Vec<usize> = Vec::new();
    for (i, frame) in problem.trace.iter().enumerate() {
        let Some(label) = frame.label.as_ref().filter(|label| is_users(label)) else {
            continue;
        };
        // One line is shown once.
        if !lines.contains(&line(label)) {
            lines.push(line(label));
            users.push(i);
        }
    }
    let (near, far) = SHOWN;
    if users.len() > near + far {
        users.drain(near..users.len() - far);
    }
    let said = problem.trace.iter().enumerate().filter(|(_, f)| f.said);
    users.extend(said.map(|(i, _)| i).take(SAID));
    users.sort_unstable();
    let mut shown: Vec<String> = users.iter().map(|i| text(&problem.trace[*i])).collect();
    match problem.trace.len() - shown.len() {
        0 => {}
        hidden => shown.push(format!(
            "{} of evaluation not shown; `--show-trace` shows them",
            size::count(
                hidden,
                if shown.is_empty() {
                    "frame"
                } else {
                    "more frame"
                }
            )
        )),
    }
    shown
}

fn text(frame: &Frame) -> String {
    match &frame.label {
        None => frame.message.clone(),
        Some(label) => {
            let (line, column) = label.file.line_column(label.span.start);
            format!("{}, {}:{line}:{column}", frame.message, label.file.name)
        }
    }
}

/// File and line of a place.
fn line(label: &Label) -> (&str, usize) {
    let (line, _) = label.file.line_column(label.span.start);
    (&label.file.name, line)
}

/// Whether a place is in a file that a user can edit. Those of the library that comes with the program are hidden in a directory that
/// does not exist.
fn is_users(label: &Label) -> bool {
    let name = &label.file.name;
    let store = StoreDir::default();
    let in_store = name.strip_prefix(store.as_str());
    !name.starts_with("/.sos") && !in_store.is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sos_formats::diagnostic::{Class, SourceFile};

    use super::*;

    fn at(file: &Arc<SourceFile>, line: usize) -> Label {
        let start = file
            .text
            .match_indices('\n')
            .nth(line - 1)
            .map_or(0, |m| m.0)
            - 1;
        Label::new(file, start..start + 1, "")
    }

    #[test]
    fn what_the_user_wrote_is_shown_and_the_rest_counted() {
        let mine = SourceFile::new("main.nix", "a\n".repeat(20));
        let theirs = SourceFile::new("/nix/store/x-lib/lib.nix", "a\n".repeat(20));
        let mut problem = Diagnostic::error("eval-throw", Class::Recipe, "no");
        problem.labels.push(at(&mine, 1));
        problem = problem
            .frame("on the same line", Some(at(&mine, 1)))
            .frame("two", Some(at(&mine, 2)))
            .frame("in a library", Some(at(&theirs, 3)))
            .frame("two again", Some(at(&mine, 2)))
            .frame("without a place", None);
        for line in 3..10 {
            problem = problem.frame(format!("line {line}"), Some(at(&mine, line)));
        }
        problem = problem.frame("words of the program", None);
        if let Some(last) = problem.trace.last_mut() {
            last.said = true;
        }
        assert_eq!(
            short(&problem),
            [
                "two, main.nix:2:1",
                "line 3, main.nix:3:1",
                "line 4, main.nix:4:1",
                "line 9, main.nix:9:1",
                "words of the program",
                "8 more frames of evaluation not shown; `--show-trace` shows them",
            ]
        );
        problem.trace.truncate(1);
        assert_eq!(
            short(&problem),
            ["1 frame of evaluation not shown; `--show-trace` shows them"]
        );
        problem.trace.clear();
        assert!(short(&problem).is_empty());
    }
}
