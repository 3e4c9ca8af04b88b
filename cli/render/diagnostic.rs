//! Draws diagnostics for people, and writes them as JSON.

use std::fmt::Write as _;
use std::sync::Arc;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Patch, Renderer, Snippet};
use sos_formats::diagnostic::{Diagnostic, Label, Severity, SourceFile};

use super::again;
use super::narrow::narrow;
use super::text::printable;
use super::trace;

/// At most this many diagnostics of one run are drawn.
pub(crate) const MAX_DIAGNOSTICS: usize = 50;

/// How diagnostics look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    /// Use colours.
    pub(crate) color: bool,
    /// Print every frame of evaluation traces.
    pub(crate) show_trace: bool,
}

/// Renders one diagnostic, ended by a newline. The trace stands above, so that the error itself is last.
pub(crate) fn render(diagnostic: &Diagnostic, style: Style) -> String {
    // Notes hold lines of logs and names from mirrors: they must not drive the terminal.
    let mut diagnostic = harmless(diagnostic);
    let places = narrow(&mut diagnostic);
    let mut text = draw(&diagnostic, style);
    for (shown, true_place) in places {
        text = text.replacen(&shown, &true_place, 1);
    }
    text
}

fn draw(diagnostic: &Diagnostic, style: Style) -> String {
    let renderer = if style.color {
        Renderer::styled()
    } else {
        Renderer::plain()
    }
    .decor_style(DecorStyle::Ascii);
    let mut out = String::new();
    for frame in diagnostic.trace.iter().filter(|_| style.show_trace) {
        let mut group = Group::with_title(Level::NOTE.secondary_title(frame.message.as_str()));
        if let Some(label) = &frame.label {
            group = group.element(snippet(std::slice::from_ref(label), &label.file));
        }
        let _ = writeln!(out, "{}", renderer.render(&[group]));
    }
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::NOTE,
    };
    let mut main = level
        .primary_title(diagnostic.message.as_str())
        .id(diagnostic.code)
        .elements(Vec::<Snippet<'_, annotate_snippets::Annotation<'_>>>::new());
    for file in files(&diagnostic.labels) {
        let labels: Vec<Label> = diagnostic
            .labels
            .iter()
            .filter(|l| l.file.name == file.name)
            .cloned()
            .collect();
        main = main.element(snippet_owned(&labels, &file));
    }
    let mut notes = diagnostic.notes.clone();
    if !style.show_trace {
        notes.extend(trace::short(diagnostic));
    }
    // Without a place there is no margin that the notes could hang from.
    let margin = !diagnostic.labels.is_empty();
    let mut report = Vec::new();
    if margin {
        for note in notes {
            main = main.element(Level::NOTE.message(note));
        }
        report.push(main);
    } else {
        report.push(main);
        report.extend(
            notes
                .into_iter()
                .map(|note| Group::with_title(Level::NOTE.secondary_title(note))),
        );
    }
    for help in &diagnostic.helps {
        report.push(Group::with_title(
            Level::HELP.secondary_title(help.as_str()),
        ));
    }
    for fix in &diagnostic.fixes {
        let mut group = Group::with_title(Level::HELP.secondary_title(fix.description.as_str()));
        for (file, span, text) in &fix.edits {
            group = group.element(
                Snippet::source(file.text.as_str())
                    .path(file.name.as_str())
                    .patch(Patch::new(clamp(span, &file.text), text.as_str())),
            );
        }
        report.push(group);
    }
    if margin {
        let _ = writeln!(out, "{}", renderer.render(&report));
    } else {
        for group in report {
            let _ = writeln!(out, "{}", renderer.render(&[group]));
        }
    }
    out
}

/// The diagnostic without control characters, its files named as seen from here.
fn harmless(diagnostic: &Diagnostic) -> Diagnostic {
    let clean = |text: &String| {
        text.split('\n')
            .map(printable)
            .collect::<Vec<_>>()
            .join("\n")
    };
    let mut out = diagnostic.clone();
    again::advice(&mut out);
    out.message = clean(&out.message);
    out.notes = out.notes.iter().map(clean).collect();
    out.helps = out.helps.iter().map(clean).collect();
    for fix in &mut out.fixes {
        fix.description = clean(&fix.description);
    }
    for frame in &mut out.trace {
        frame.message = clean(&frame.message);
    }
    let here = std::env::current_dir()
        .map(|dir| format!("{}/", dir.display()))
        .unwrap_or_default();
    let labels = out.labels.iter_mut().chain(
        out.trace
            .iter_mut()
            .filter_map(|frame| frame.label.as_mut()),
    );
    for label in labels {
        label.text = clean(&label.text);
        let near = label.file.name.strip_prefix(&here);
        let near = near.filter(|_| !here.is_empty());
        let name = printable(near.unwrap_or(&label.file.name));
        if name != label.file.name {
            label.file = SourceFile::new(name.as_str(), label.file.text.as_str());
        }
    }
    out
}

/// The distinct source files of `labels`, in order of first use.
fn files(labels: &[Label]) -> Vec<Arc<SourceFile>> {
    let mut out: Vec<Arc<SourceFile>> = Vec::new();
    for label in labels {
        if !out.iter().any(|f| f.name == label.file.name) {
            out.push(Arc::clone(&label.file));
        }
    }
    out
}

fn snippet<'a>(
    labels: &'a [Label],
    file: &'a SourceFile,
) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
    let mut snippet = Snippet::source(file.text.as_str()).path(file.name.as_str());
    for (i, label) in labels.iter().enumerate() {
        let kind = if i == 0 {
            AnnotationKind::Primary
        } else {
            AnnotationKind::Context
        };
        let mut annotation = kind.span(clamp(&label.span, &file.text));
        if !label.text.is_empty() {
            annotation = annotation.label(label.text.as_str());
        }
        snippet = snippet.annotation(annotation);
    }
    snippet
}

fn snippet_owned(
    labels: &[Label],
    file: &SourceFile,
) -> Snippet<'static, annotate_snippets::Annotation<'static>> {
    let mut snippet = Snippet::source(file.text.clone()).path(file.name.clone());
    for (i, label) in labels.iter().enumerate() {
        let kind = if i == 0 {
            AnnotationKind::Primary
        } else {
            AnnotationKind::Context
        };
        let mut annotation = kind.span(clamp(&label.span, &file.text));
        if !label.text.is_empty() {
            annotation = annotation.label(label.text.clone());
        }
        snippet = snippet.annotation(annotation);
    }
    snippet
}

/// A span that lies inside `text` and on character boundaries, so that drawing cannot panic.
fn clamp(span: &std::ops::Range<usize>, text: &str) -> std::ops::Range<usize> {
    let fit = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = fit(span.start);
    start..fit(span.end).max(start)
}

/// One line per diagnostic in the form that GitHub's log reader turns into an annotation.
fn github(diagnostic: &Diagnostic) -> String {
    let diagnostic = harmless(diagnostic);
    let data = |text: &str| {
        text.replace('%', "%25")
            .replace('\r', "%0D")
            .replace('\n', "%0A")
    };
    let place = diagnostic.labels.first().map_or(String::new(), |l| {
        let (line, column) = l.file.line_column(l.span.start);
        let name = data(&l.file.name).replace(':', "%3A").replace(',', "%2C");
        format!(" file={name},line={line},col={column}")
    });
    let severity = match diagnostic.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "notice",
    };
    format!(
        "::{severity}{place}::{} [{}]\n",
        data(&diagnostic.message),
        diagnostic.code
    )
}

/// What is shown of a problem, ended by a newline: in a job of GitHub also its annotation.
pub(crate) fn shown(diagnostic: &Diagnostic, style: Style, github_actions: bool) -> String {
    let text = render(diagnostic, style);
    if !github_actions {
        return text;
    }
    no_commands(&text) + &github(diagnostic)
}

/// The text without lines that GitHub's log reader would obey: logs of builds are quoted in it.
fn no_commands(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let words = line.trim_start();
        if words.starts_with("::") || words.starts_with("##[") {
            out.push_str(&line[..line.len() - words.len()]);
            out.push_str("> ");
            out.push_str(words);
        } else {
            out.push_str(line);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use sos_formats::diagnostic::Class;

    use super::*;

    const PLAIN: Style = Style {
        color: false,
        show_trace: false,
    };

    #[test]
    fn an_error_names_place_cause_and_fix() {
        let file = Arc::new(SourceFile {
            name: "site.nix".into(),
            text: "{\n  name = s.pakage.name;\n}\n".into(),
        });
        let d = Diagnostic::error(
            "eval-attr-missing",
            Class::Recipe,
            "attribute `pakage` not found",
        )
        .label(&file, 13..19, "no such attribute")
        .help("a similar attribute exists: `package`");
        insta::assert_snapshot!(render(&d, PLAIN), @r"
        error[eval-attr-missing]: attribute `pakage` not found
         --> site.nix:2:12
          |
        2 |   name = s.pakage.name;
          |            ^^^^^^ no such attribute
          |
        help: a similar attribute exists: `package`
        ");
    }

    #[test]
    fn without_a_place_there_is_no_margin() {
        let d = Diagnostic::error("x", Class::Fetch, "y")
            .note("first\nsecond")
            .help("do this");
        insta::assert_snapshot!(render(&d, PLAIN), @r"
        error[x]: y
        note: first
              second
        help: do this
        ");
        let bare = Diagnostic::error("x", Class::Fetch, "y");
        assert_eq!(render(&bare, PLAIN), "error[x]: y\n");
    }

    #[test]
    fn a_very_long_line_is_cut_and_its_place_is_true() {
        let text = format!("{} bad {}", "a".repeat(50_000), "b".repeat(50_000));
        let file = SourceFile::new("x.nix", text);
        let d = Diagnostic::error("x", Class::Recipe, "y").label(&file, 50_001..50_004, "here");
        let shown = render(&d, PLAIN);
        assert!(shown.len() < 1000, "{} bytes", shown.len());
        assert!(shown.contains("x.nix:1:50002\n"), "{shown}");
        assert!(shown.contains("a bad b"), "{shown}");
    }

    #[test]
    fn a_log_in_a_note_cannot_drive_the_terminal() {
        let d = Diagnostic::error("x", Class::BuildFailed, "y")
            .note("a\u{1b}[2J\u{1b}]0;title\u{7}b\nc");
        let text = render(&d, PLAIN);
        assert!(
            text.contains("ab\n") && !text.contains('\u{1b}'),
            "{text:?}"
        );
    }

    #[test]
    fn a_log_cannot_command_the_runner() {
        let text = "error: x\n  ::add-mask::a\n##[error]b\n  a::b\n";
        assert_eq!(
            no_commands(text),
            "error: x\n  > ::add-mask::a\n> ##[error]b\n  a::b\n"
        );
        let file = SourceFile::new("a,b:c.nix", "x\ny");
        let d = Diagnostic::error("x", Class::Other, "50%\nof it").label(&file, 2..3, "");
        assert_eq!(
            github(&d),
            "::error file=a%2Cb%3Ac.nix,line=2,col=1::50%25%0Aof it [x]\n"
        );
    }

    #[test]
    fn spans_outside_the_text_do_not_panic() {
        let file = Arc::new(SourceFile {
            name: "x".into(),
            text: "é".into(),
        });
        let d = Diagnostic::error("x", Class::Recipe, "y").label(&file, 1..900, "");
        assert!(render(&d, PLAIN).contains("error[x]: y"));
    }
}
