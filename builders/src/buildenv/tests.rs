//! What real Nix makes of the same packages is compared in the black-box tests; here is what only errors show.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use sos_formats::derivation::Method;

use super::packages::Package;
use super::{environment, write};
use crate::build::fake::Fake;

fn package(fake: &Fake, name: &str, fill: impl FnOnce(&Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let path = fake
        .store
        .add_path(dir.path(), name, Method::Recursive, None)
        .unwrap();
    path.absolute(fake.store.store_dir())
}

fn made(fake: &Fake, list: &[(&str, i64)]) -> Result<Vec<String>, String> {
    let list = list
        .iter()
        .map(|(path, priority)| Package {
            path: (*path).to_owned(),
            active: true,
            priority: *priority,
        })
        .collect();
    let root = environment(fake, list).map_err(|e| e.to_string())?;
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("out");
    write(&root, &place).unwrap();
    let mut lines = Vec::new();
    let mut left = vec![place.clone()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            let inside = path.strip_prefix(&place).unwrap().display().to_string();
            if entry.file_type().unwrap().is_dir() {
                left.push(path);
                lines.push(format!("{inside}/"));
            } else {
                let target = fs::read_link(&path).unwrap().display().to_string();
                lines.push(format!("{inside} {}", &target[44..]));
            }
        }
    }
    lines.sort();
    Ok(lines)
}

#[test]
fn packages_lie_over_each_other() {
    let fake = Fake::new();
    let pulled = package(&fake, "pulled", |dir| {
        fs::create_dir(dir.join("lib")).unwrap();
        fs::write(dir.join("lib/p"), "").unwrap();
    });
    let first = package(&fake, "first", |dir| {
        fs::create_dir_all(dir.join("bin")).unwrap();
        fs::create_dir_all(dir.join("nix-support")).unwrap();
        fs::create_dir_all(dir.join("share/a")).unwrap();
        fs::write(dir.join("bin/x"), "1").unwrap();
        fs::write(dir.join(".hidden"), "").unwrap();
        fs::write(
            dir.join("nix-support/propagated-user-env-packages"),
            format!(" {pulled}\n"),
        )
        .unwrap();
        symlink("/nowhere", dir.join("dangling")).unwrap();
    });
    let second = package(&fake, "second", |dir| {
        fs::create_dir(dir.join("bin")).unwrap();
        fs::write(dir.join("bin/x"), "2").unwrap();
        fs::write(dir.join("bin/y"), "2").unwrap();
    });
    assert_eq!(
        made(&fake, &[(&second, 7), (&first, 5)]).unwrap(),
        [
            "bin/",
            "bin/x first/bin/x",
            "bin/y second/bin/y",
            "lib pulled/lib",
            "share first/share"
        ]
    );
    assert!(
        made(&fake, &[(&second, 5), (&first, 5)])
            .unwrap_err()
            .contains("the same priority 5")
    );
    let file = package(&fake, "file", |dir| fs::write(dir.join("bin"), "").unwrap());
    // As in Nix: a file that counts less than a whole directory of its name is left out.
    assert!(made(&fake, &[(&first, 1), (&file, 2)]).is_ok());
    let error = made(&fake, &[(&file, 1), (&first, 2)]).unwrap_err();
    assert!(error.contains("in the way"), "{error}");
}
