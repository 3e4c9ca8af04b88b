use std::process::Command;

use sos_formats::flake_ref::FlakeRef;
use sos_formats::store_path::StoreDir;
use sos_store::OpenOptions;

use super::*;
use crate::mirrors::Mirrors;
use crate::peers::peer;

fn trees(dir: &Path) -> Trees {
    let store = Store::open(OpenOptions {
        root: dir.join("store"),
        store_dir: StoreDir::default(),
        read_only: false,
    })
    .unwrap();
    let settings = Settings {
        cache: dir.join("cache"),
        environment: [("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())].into(),
        offline: true,
        forges: [(
            "github".to_owned(),
            format!("file://{}/{{owner}}-{{repo}}-{{rev}}.tar", dir.display()),
        )]
        .into(),
    };
    Trees::new(store, Fetcher::new(Mirrors::default(), true), settings)
}

fn request(url: &str) -> Request {
    Request {
        attrs: FlakeRef::parse(url, true).unwrap().0.tree,
        name: "source".into(),
        base: None,
    }
}

fn git(dir: &Path, args: &[&str]) {
    let done = Command::new("git")
        .args(["-c", "user.name=n", "-c", "user.email=e"])
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_COMMITTER_DATE", "2024-01-02T03:04:05Z")
        .env("GIT_AUTHOR_DATE", "2024-01-02T03:04:05Z")
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
}

fn have_git() -> bool {
    peer("git", &["--version"]).is_some()
}

#[test]
fn a_tree_with_another_hash_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("d")).unwrap();
    std::fs::write(dir.path().join("d/f"), "x").unwrap();
    let trees = trees(dir.path());
    let url = format!("path:{}/d", dir.path().display());
    let found = trees.fetch(&request(&url)).unwrap();
    let hash = flake_ref::text(&found.attrs, "narHash").unwrap().to_owned();
    let mut again = request(&url);
    again.attrs.insert("narHash".into(), Attr::Str(hash));
    assert_eq!(trees.fetch(&again).unwrap().path, found.path);
    let zero = Hash::new(HashAlgo::Sha256, &[0; 32]).unwrap().to_sri();
    again.attrs.insert("narHash".into(), Attr::Str(zero));
    let error = trees.fetch(&again).unwrap_err();
    assert_eq!(
        (error.code, error.class),
        ("tree-hash-mismatch", Class::HashMismatch)
    );
}

#[test]
fn a_commit_is_exported_byte_for_byte() {
    if !have_git() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let repo = dir.path().join("r");
    std::fs::create_dir_all(repo.join("sub")).unwrap();
    git(&repo, &["init", "-q", "-b", "main"]);
    std::fs::write(repo.join("s"), "$Format:%H$\n").unwrap();
    std::fs::write(repo.join("sub/ign"), "x").unwrap();
    std::fs::write(
        repo.join(".gitattributes"),
        "s export-subst eol=crlf\nign export-ignore\n",
    )
    .unwrap();
    git(&repo, &["add", "-A"]);
    git(&repo, &["commit", "-qm", "1"]);
    let trees = trees(dir.path());
    let url = format!("git+file://{}", repo.display());
    let found = trees.fetch(&request(&url)).unwrap();
    let place = trees.store.physical(&found.path);
    assert_eq!(std::fs::read(place.join("s")).unwrap(), b"$Format:%H$\n");
    assert!(place.join("sub/ign").is_file());
    assert_eq!(
        flake_ref::text(&found.attrs, "ref"),
        Some("main"),
        "{:?}",
        found.attrs
    );
    let mut less = request(&url);
    less.attrs.insert("exportIgnore".into(), Attr::Bool(true));
    let found = trees.fetch(&less).unwrap();
    assert!(!trees.store.physical(&found.path).join("sub").exists());
}

#[test]
fn a_repository_of_a_forge_is_an_archive_that_names_its_commit() {
    if !have_git() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let repo = dir.path().join("r");
    std::fs::create_dir(&repo).unwrap();
    git(&repo, &["init", "-q", "-b", "main"]);
    std::fs::write(repo.join("f"), "x").unwrap();
    git(&repo, &["add", "-A"]);
    git(&repo, &["commit", "-qm", "1"]);
    let archive = dir.path().join("o-r-main.tar").display().to_string();
    git(
        &repo,
        &["archive", "--prefix=r-main/", "-o", &archive, "HEAD"],
    );
    let found = trees(dir.path())
        .fetch(&request("github:o/r/main"))
        .unwrap();
    assert_eq!(
        found.attrs.get("lastModified"),
        Some(&Attr::Int(1_704_164_645))
    );
    assert!(flake_ref::is_rev(
        flake_ref::text(&found.attrs, "rev").unwrap()
    ));
    assert_eq!(flake_ref::text(&found.attrs, "ref"), None);
}

#[test]
fn offline_means_no_remote_repository() {
    if !have_git() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let trees = trees(dir.path());
    let error = trees
        .fetch(&request("git+http://127.0.0.1:1/r"))
        .unwrap_err();
    assert_eq!((error.code, error.class), ("fetch-offline", Class::Fetch));
}
