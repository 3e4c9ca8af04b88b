//! Random derivations: the same store as real Nix makes, to the byte. `SOS_DRV_SEED` begins elsewhere, `SOS_DRV_ROUNDS` does more.

pub(crate) mod disk;
mod generate;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::peer::{has_nix, search_path};
use crate::random::{Random, setting};

/// Derivations of one evaluation.
const BATCH: usize = 60;

/// What a store holds: base names, with the text of derivations.
type Objects = BTreeMap<String, Option<Vec<u8>>>;

/// The derivations in their order, and the whole store.
type Made = (Vec<String>, Objects);

fn ours(text: &[u8], dir: &Path) -> Result<Made, String> {
    sos_lang::with_big_stack(|| {
        let host = disk::DiskHost::new();
        let evaluator = sos_lang::Evaluator::new(host.clone(), sos_lang::Options::default());
        let all = evaluator
            .eval_bytes(text, "random.nix", dir)
            .and_then(|list| evaluator.list_items(list))
            .and_then(|items| {
                items
                    .into_iter()
                    .map(|d| {
                        evaluator
                            .derivations(d)
                            .map(|found| found[0].drv_path.base())
                    })
                    .collect()
            });
        let list: Vec<String> = all.map_err(|d| format!("{}: {}", d.code, d.message))?;
        Ok((list, host.objects.take()))
    })
}

fn theirs(file: &Path, root: &Path) -> Result<Made, String> {
    let out = Command::new("nix-instantiate")
        .arg("--store")
        .arg(root)
        .arg(file)
        .env_clear()
        .env("PATH", search_path())
        .env("HOME", root)
        .env("NIX_PATH", "")
        .env(
            "NIX_CONFIG",
            "experimental-features = ca-derivations impure-derivations\nbuild-users-group =",
        )
        .output()
        .unwrap();
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).into_owned());
    }
    let mut objects = Objects::new();
    for entry in fs::read_dir(root.join("nix/store")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name == ".links" {
            continue;
        }
        let text = name.ends_with(".drv").then(|| fs::read(&path).unwrap());
        objects.insert(name, text);
    }
    let list = String::from_utf8_lossy(&out.stdout);
    let base = |line: &str| {
        let path = line.split('!').next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default().to_owned()
    };
    Ok((list.lines().map(base).collect(), objects))
}

/// The first derivation that differs, or else what else does.
fn difference((my_list, ours): &Made, (your_list, theirs): &Made) -> Option<String> {
    for (mine, yours) in my_list.iter().zip(your_list) {
        if mine != yours {
            let text = |all: &Objects, name: &String| {
                let text = all.get(name).cloned().flatten().unwrap_or_default();
                format!("{name} {}", String::from_utf8_lossy(&text))
            };
            return Some(format!(
                "sos: {}\n\nnix: {}",
                text(ours, mine),
                text(theirs, yours)
            ));
        }
    }
    let only = |a: &Objects, b: &Objects| -> Vec<String> {
        let gone = a.iter().filter(|(k, v)| b.get(*k) != Some(v));
        gone.map(|(k, v)| {
            let text = v.as_deref().map(String::from_utf8_lossy);
            format!("{k} {}", text.unwrap_or_default())
        })
        .collect()
    };
    let (mine, yours) = (only(ours, theirs), only(theirs, ours));
    if mine.is_empty() && yours.is_empty() {
        return None;
    }
    Some(format!(
        "only sos makes\n{}\n\nonly nix makes\n{}",
        mine.join("\n\n"),
        yours.join("\n\n")
    ))
}

#[test]
#[allow(clippy::print_stderr, reason = "says how to repeat a failure")]
fn random_derivations_are_those_of_nix() {
    if !has_nix() {
        return;
    }
    let first = setting("SOS_DRV_SEED", 1);
    for seed in first..first + setting("SOS_DRV_ROUNDS", 4) {
        let home = tempfile::tempdir().unwrap();
        let dir = fs::canonicalize(home.path()).unwrap();
        sources(&dir);
        let text = generate::derivations(&mut Random::new(seed), BATCH);
        let file = dir.join("random.nix");
        fs::write(&file, &text).unwrap();
        let theirs = theirs(&file, &dir.join("root"));
        let ours = ours(&text, &dir);
        let problem = match (&ours, &theirs) {
            (Ok(ours), Ok(theirs)) => difference(ours, theirs),
            (Err(_), Err(_)) => Some(format!("the generator made nonsense: {theirs:?}")),
            (ours, theirs) => Some(format!(
                "sos {:?}\nnix {:?}",
                ours.as_ref().err(),
                theirs.as_ref().err()
            )),
        };
        if let Some(problem) = problem {
            let kept = home.keep();
            panic!("SOS_DRV_SEED={seed} {}\n{problem}", kept.display());
        }
        assert!(ours.is_ok_and(|(list, all)| list.len() == BATCH && all.len() > BATCH));
    }
}

/// A tree to copy: a text, a program, a link, a directory.
fn sources(dir: &Path) {
    let src = dir.join("src");
    fs::create_dir_all(src.join("sub")).unwrap();
    fs::write(src.join("text"), "hello\n").unwrap();
    fs::write(src.join("tool"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(src.join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("../text", src.join("sub/link")).unwrap();
}
