//! The files in `tests/lang`: `eval-okay-*.nix` with the printed value in `.exp`, `eval-fail-*.nix` with code, message and place in `.err`.

use std::path::{Path, PathBuf};

use crate::host::MemoryHost;

fn outcome(name: &str, text: &[u8]) -> (bool, String) {
    let (name, text) = (name.to_owned(), text.to_owned());
    sos_lang::with_big_stack(move || {
        let files = [
            ("/lang/lib.nix", "{ double = x: x * 2; }"),
            ("/lang/dir/default.nix", "\"dir\""),
        ];
        let options = sos_lang::Options {
            nix_path: vec![("lib".into(), PathBuf::from("/lang/lib.nix"))],
            ..Default::default()
        };
        let e = sos_lang::Evaluator::new(MemoryHost::new(&files), options);
        match e
            .eval_bytes(&text, &name, Path::new("/lang"))
            .and_then(|v| e.force_deep(v))
        {
            Ok(v) => (true, format!("{}\n", e.print(v))),
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
        let okay = name.starts_with("eval-okay-");
        let expected =
            std::fs::read_to_string(case.with_extension(if okay { "exp" } else { "err" }))
                .unwrap_or_default();
        let (ok, got) = outcome(&name, &std::fs::read(&case).unwrap());
        if ok != okay || got != expected {
            wrong.push(format!("{name}\n--- expected\n{expected}--- found\n{got}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
