//! The recipes that this repository ships are free of problems.

use std::fs;
use std::path::Path;

use sos_formats::diagnostic::SourceFile;

use crate::rootfs;
use crate::templates::{TEMPLATES, find};

#[track_caller]
fn check(name: &str, text: &str) {
    let (_, found) = rootfs::parse_file(&SourceFile::new(name, text), "x");
    assert!(found.is_empty(), "{name}: {found:?}");
}

#[test]
fn templates() {
    for template in TEMPLATES {
        assert_eq!(find(template.name), Some(template));
        assert!(template.files.iter().any(|(name, _)| *name == "sos.nix"));
        for (name, text) in template.files {
            assert!(!text.is_empty(), "{name}");
            if name.ends_with(crate::ROOTFS_SUFFIX) {
                check(name, text);
            }
        }
    }
    assert_eq!(find("nonsense"), None);
}

#[test]
fn examples() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut seen = 0;
    for example in fs::read_dir(examples).unwrap() {
        let example = example.unwrap().path();
        let Ok(files) = fs::read_dir(&example) else {
            continue;
        };
        for file in files {
            let file = file.unwrap().path();
            if file.to_string_lossy().ends_with(crate::ROOTFS_SUFFIX) {
                check(&file.to_string_lossy(), &fs::read_to_string(&file).unwrap());
                seen += 1;
            }
        }
    }
    assert!(seen >= 2);
}
