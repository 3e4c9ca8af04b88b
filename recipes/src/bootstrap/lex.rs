//! Lines of a manifest as words with places, cut exactly as upstream's generator cuts them.

use std::ops::Range;

use crate::problems::Problems;

/// The longest word in bytes: upstream's generator keeps words in 64 bytes with their end.
pub(crate) const MAX_WORD_BYTES: usize = 63;

/// One word of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word<'t> {
    pub(crate) text: &'t str,
    /// Byte range in the file.
    pub(crate) place: Range<usize>,
}

/// One line that says something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line<'t> {
    /// Counted from 1.
    pub(crate) number: usize,
    pub(crate) words: Vec<Word<'t>>,
    /// Byte offset of its end.
    pub(crate) end: usize,
}

/// Cuts `text` into lines of words. Lines that are empty, or whose first byte is `#`, say nothing. Words end at one blank or at
/// `#`, which ends the line too; two blanks have an empty word between them, and a tab is a byte like others.
///
/// Words that are too long and carriage returns are recorded in `problems`.
pub(crate) fn lines<'t>(text: &'t str, problems: &mut Problems) -> Vec<Line<'t>> {
    let mut out = Vec::new();
    let mut start = 0;
    for (index, line) in text.split('\n').enumerate() {
        let offset = start;
        start += line.len() + 1;
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(at) = line.find('\r') {
            let at = offset + at;
            let problem = problems
                .error(
                    "bootstrap-syntax",
                    "a carriage return in a manifest is part of the word before it",
                    &Some(at..at + 1),
                    "here",
                )
                .help("lines end with a line feed alone: `sed -i 's/\\r$//'` repairs the file");
            problems.add(problem);
            continue;
        }
        let words = words(line, offset);
        for word in words.iter().filter(|w| w.text.len() > MAX_WORD_BYTES) {
            let message = format!(
                "a word of {} bytes is too long: upstream's generator takes {MAX_WORD_BYTES}",
                word.text.len()
            );
            let problem = problems.error(
                "bootstrap-syntax",
                message,
                &Some(word.place.clone()),
                "too long",
            );
            problems.add(problem);
        }
        // Said once: what the rest of the line means is not known.
        if words.iter().any(|w| w.text.len() > MAX_WORD_BYTES) {
            continue;
        }
        out.push(Line {
            number: index + 1,
            words,
            end: offset + line.len(),
        });
    }
    out
}

fn words(line: &str, offset: usize) -> Vec<Word<'_>> {
    let bytes = line.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &line[at..];
        let end = at + rest.find([' ', '#']).unwrap_or(rest.len());
        out.push(Word {
            text: &line[at..end],
            place: offset + at..offset + end,
        });
        at = end;
        if bytes.get(at) == Some(&b' ') {
            at += 1;
        }
        if bytes.get(at) == Some(&b'#') {
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use sos_formats::diagnostic::SourceFile;

    use super::lines;
    use crate::problems::Problems;

    #[track_caller]
    fn check(text: &str, expect: &[(usize, &[&str])]) {
        let mut problems = Problems::in_file(&SourceFile::new("manifest", text));
        let found = lines(text, &mut problems);
        let found: Vec<(usize, Vec<&str>)> = found
            .iter()
            .map(|line| (line.number, line.words.iter().map(|w| w.text).collect()))
            .collect();
        let expect: Vec<(usize, Vec<&str>)> = expect
            .iter()
            .map(|(n, words)| (*n, words.to_vec()))
            .collect();
        assert_eq!(found, expect);
        assert_eq!(problems.count(), 0);
    }

    #[test]
    fn words_end_at_one_blank_or_at_a_hash() {
        check("build: a", &[(1, &["build:", "a"])]);
        check("\n#x\nbuild: a\n", &[(3, &["build:", "a"])]);
        check("build:  a", &[(1, &["build:", "", "a"])]);
        check("build: a#b c", &[(1, &["build:", "a"])]);
        check("build: a #b", &[(1, &["build:", "a"])]);
        check("build: a  #b", &[(1, &["build:", "a", ""])]);
        check("build: a\tb", &[(1, &["build:", "a\tb"])]);
        check(" a ", &[(1, &["", "a"])]);
    }
}
