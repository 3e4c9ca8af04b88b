//! Very long source lines: only what is around the place is shown of them.

use std::ops::Range;
use std::sync::Arc;

use sos_formats::diagnostic::{Diagnostic, Label, SourceFile};

/// Bytes of a line that is shown whole.
const WHOLE: usize = 400;
/// Bytes that are shown on either side of a place in a longer one.
const AROUND: usize = 60;
/// What stands for the rest.
const REST: &str = "...";

/// One line, before and after.
struct Line {
    start: usize,
    /// What is kept of it, in the old text.
    kept: Range<usize>,
    /// Where that begins in the new text.
    at: usize,
}

/// Cuts the long lines of every source that the labels are in. Returns places as they would be named now, with their true names:
/// a cut moves the column.
pub(super) fn narrow(diagnostic: &mut Diagnostic) -> Vec<(String, String)> {
    let mut labels: Vec<&mut Label> = diagnostic
        .labels
        .iter_mut()
        .chain(diagnostic.trace.iter_mut().filter_map(|f| f.label.as_mut()))
        .collect();
    let mut files: Vec<Arc<SourceFile>> = Vec::new();
    for label in &labels {
        let long = label.file.text.lines().any(|line| line.len() > WHOLE);
        if long && !files.iter().any(|file| file.name == label.file.name) {
            files.push(Arc::clone(&label.file));
        }
    }
    let mut places = Vec::new();
    for file in files {
        let spans: Vec<Range<usize>> = labels
            .iter()
            .filter(|label| label.file.name == file.name)
            .map(|label| label.span.clone())
            .collect();
        let (text, lines) = cut(&file.text, &spans);
        let short = SourceFile::new(file.name.as_str(), text);
        for label in labels.iter_mut().filter(|l| l.file.name == file.name) {
            let span = moved(&lines, label.span.start)..moved(&lines, label.span.end);
            let (line, column) = file.line_column(label.span.start);
            let (_, shown) = short.line_column(span.start);
            if shown != column {
                places.push((
                    format!("{}:{line}:{shown}\n", file.name),
                    format!("{}:{line}:{column}\n", file.name),
                ));
            }
            label.span = span;
            label.file = Arc::clone(&short);
        }
    }
    places
}

fn cut(text: &str, spans: &[Range<usize>]) -> (String, Vec<Line>) {
    let mut out = String::new();
    let mut lines = Vec::new();
    let mut start = 0;
    for whole in text.split_inclusive('\n') {
        let line = whole.trim_end_matches('\n');
        let end = start + line.len();
        let kept = if line.len() <= WHOLE {
            start..end
        } else {
            let place = spans.iter().find(|s| (start..=end).contains(&s.start));
            let (from, to) = place.map_or((start, start), |s| {
                (s.start, s.end.min(s.start + 2 * AROUND).max(s.start))
            });
            let from = fit(text, from.saturating_sub(AROUND).max(start));
            from..fit(text, (to + AROUND).min(end)).max(from)
        };
        if kept.start > start {
            out.push_str(REST);
        }
        let at = out.len();
        out.push_str(text.get(kept.clone()).unwrap_or_default());
        if kept.end < end {
            out.push_str(REST);
        }
        if whole.len() > line.len() {
            out.push('\n');
        }
        lines.push(Line { start, kept, at });
        start += whole.len();
    }
    (out, lines)
}

/// The last boundary of a character at or before `at`.
fn fit(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn moved(lines: &[Line], offset: usize) -> usize {
    let behind = lines.partition_point(|line| line.start <= offset);
    let Some(line) = lines.get(behind.saturating_sub(1)) else {
        return 0;
    };
    line.at + offset.clamp(line.kept.start, line.kept.end) - line.kept.start
}

#[cfg(test)]
mod tests {
    use sos_formats::diagnostic::Class;

    use super::*;

    #[test]
    fn a_long_line_keeps_what_is_around_the_place() {
        let text = format!("{}here{}\nshort\n", "é".repeat(40_000), "y".repeat(40_000));
        let file = SourceFile::new("x", text);
        let mut d = Diagnostic::error("x", Class::Recipe, "y")
            .label(&file, 80_000..80_004, "")
            .label(&file, 120_005..120_010, "");
        let places = narrow(&mut d);
        let shown = &d.labels[0].file.text;
        assert!(shown.len() < 400, "{shown}");
        assert_eq!(&shown[d.labels[0].span.clone()], "here");
        assert_eq!(&shown[d.labels[1].span.clone()], "short");
        assert_eq!(places.len(), 1);
        assert_eq!(places[0].1, "x:1:40001\n");
    }
}
