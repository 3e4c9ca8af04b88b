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

fn outcome(name: &str, text: &[u8], opt: &str) -> (bool, String) {
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
        let printed = if name.starts_with("parse") {
            e.parse_canonical(&text, &name, dir)
                .map(|b| String::from_utf8_lossy(&b).into_owned())
        } else {
            e.eval_bytes(&text, &name, dir)
                .and_then(|v| e.force_deep(v))
                .map(|v| e.print(v))
        };
        match printed {
            Ok(text) => (true, format!("{text}\n")),
            Err(d) => {
                let place = d.labels.first().map_or_else(String::new, |l| {
                    let (a, b) = l.file.line_column(l.span.start);
                    let (c, d) = l.file.line_column(l.span.end);
                    format!("{}:{a}:{b}-{c}:{d}", l.file.name)
                });
                (false, format!("{}\n{}\n{place}\n", d.code, d.message))
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
    let mut wrong = Vec::new();
    for case in cases {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let okay = name.contains("-okay-");
        let path = case.with_extension(if okay { "exp" } else { "err" });
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        let opt = std::fs::read_to_string(case.with_extension("opt")).unwrap_or_default();
        let (ok, got) = outcome(&name, &std::fs::read(&case).unwrap(), &opt);
        if ok == okay && got != expected && bless {
            std::fs::write(&path, &got).unwrap();
        } else if ok != okay || got != expected {
            wrong.push(format!("{name}\n--- expected\n{expected}--- found\n{got}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
