//! The files in `tests/lang`, by the beginning of their names:
//!
//! * `eval-okay-*.nix`: the printed value is in `.exp`; `eval-fail-*.nix`: code, message and place of the error are in `.err`
//! * `parse-okay-*.nix`: the canonical form is in `.exp`; `parse-fail-*.nix`: as `eval-fail`
//!
//! Options stand in `.opt`, one `name value` a line. With `SOS_BLESS=1` what is found is written as what is expected.
#![allow(clippy::disallowed_methods, reason = "SOS_BLESS")]

use std::path::{Path, PathBuf};

use sos_lang::{Evaluator, Lint, Options};

use crate::host::MemoryHost;

fn options(text: &str) -> Options {
    let mut o = Options {
        nix_path: vec![("lib".into(), PathBuf::from("/lang/lib.nix"))],
        ..Options::default()
    };
    for line in text.lines() {
        let (name, value) = line.split_once(' ').unwrap_or((line, ""));
        let lint = if value == "fatal" {
            Lint::Fatal
        } else {
            Lint::Warn
        };
        match name {
            "pipe-operators" => o.dialect.pipe_operators = true,
            "toml-timestamps" => o.toml_timestamps = true,
            "lint-url" => o.dialect.url_literals = lint,
            "lint-short-path" => o.dialect.short_path_literals = lint,
            "lint-absolute-path" => o.dialect.absolute_path_literals = lint,
            "depth" => o.max_call_depth = value.parse().unwrap(),
            "pure" => o.pure = true,
            _ => panic!("unknown option {name}"),
        }
    }
    o
}

/// Has a text parsed on the other thread, and waits until it is.
fn parse_ahead(e: &Evaluator, text: &[u8]) {
    let (text, (done, wait)) = (text.to_owned(), std::sync::mpsc::channel());
    // Whoever is asked for the second file is done with the first.
    e.parse_ahead(vec!["first".into(), "second".into()], move |file| {
        if file == Path::new("first") {
            return Ok(text.clone());
        }
        done.send(()).unwrap();
        Err(std::io::ErrorKind::NotFound.into())
    });
    wait.recv().unwrap();
}

/// What becomes of a text, and how many trees of the other thread were used.
fn outcome(name: &str, text: &[u8], opt: &str, ahead: bool) -> (bool, String, usize) {
    let (name, text, opt) = (name.to_owned(), text.to_owned(), opt.to_owned());
    sos_lang::with_big_stack(move || {
        let files = [
            ("/lang/lib.nix", "{ double = x: x * 2; }"),
            ("/lang/dir/default.nix", "\"dir\""),
            ("/lang/data.txt", "text\n"),
            ("/lang/broken.nix", "{ a = ; }"),
        ];
        let e = Evaluator::new(MemoryHost::new(&files), options(&opt));
        let dir = Path::new("/lang");
        if ahead {
            parse_ahead(&e, &text);
        }
        let printed = if name.starts_with("parse") {
            e.parse_canonical(&text, &name, dir)
                .map(|b| String::from_utf8_lossy(&b).into_owned())
        } else {
            e.eval_bytes(&text, &name, dir)
                .and_then(|v| e.force_deep(v))
                .map(|v| e.print(v))
        };
        let used = e.parsed_ahead();
        match printed {
            Ok(text) => (true, format!("{text}\n"), used),
            Err(d) => {
                let place = d.labels.first().map_or_else(String::new, |l| {
                    let (a, b) = l.file.line_column(l.span.start);
                    let (c, d) = l.file.line_column(l.span.end);
                    format!("{}:{a}:{b}-{c}:{d}", l.file.name)
                });
                (false, format!("{}\n{}\n{place}\n", d.code, d.message), used)
            }
        }
    })
}

#[test]
fn files() {
    let bless = std::env::var_os("SOS_BLESS").is_some();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lang");
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    cases.retain(|p| p.extension().is_some_and(|x| x == "nix"));
    cases.sort();
    assert!(!cases.is_empty());
    let (mut wrong, mut used) = (Vec::new(), 0);
    for case in cases {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let okay = name.contains("-okay-");
        let path = case.with_extension(if okay { "exp" } else { "err" });
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        let opt = std::fs::read_to_string(case.with_extension("opt")).unwrap_or_default();
        let text = std::fs::read(&case).unwrap();
        let (ok, got, _) = outcome(&name, &text, &opt, false);
        // The same with a tree that another thread made.
        let (ok_ahead, got_ahead, used_ahead) = outcome(&name, &text, &opt, true);
        used += used_ahead;
        if (ok, &got) != (ok_ahead, &got_ahead) {
            wrong.push(format!("{name}\n--- found\n{got}--- ahead\n{got_ahead}"));
        }
        if ok == okay && got != expected && bless {
            std::fs::write(&path, &got).unwrap();
        } else if ok != okay || got != expected {
            wrong.push(format!("{name}\n--- expected\n{expected}--- found\n{got}"));
        }
    }
    // All but those with an error or a warning of syntax.
    assert!(used > 150, "{used}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
