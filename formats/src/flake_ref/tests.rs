use super::*;

/// The attributes as JSON, and the URL that they print as.
#[track_caller]
fn check(text: &str, attrs: &str, url: &str) {
    let (found, _) = FlakeRef::parse(text, false).unwrap();
    assert_eq!(to_json(&found.to_attrs()).to_string(), attrs);
    assert_eq!(found.to_url().unwrap(), url);
    assert_eq!(FlakeRef::from_attrs(found.to_attrs()).unwrap(), found);
}

#[test]
fn every_scheme_has_its_attributes() {
    let rev = "6fed4a6b5ca343cf68e12c14507e901269c67c21";
    check(
        "path:/a/b?lastModified=7",
        r#"{"lastModified":7,"path":"/a/b","type":"path"}"#,
        "path:/a/b?lastModified=7",
    );
    check("./x", r#"{"path":"./x","type":"path"}"#, "path:./x");
    check(
        "git+file:///r?ref=main&submodules=1&dir=d",
        r#"{"dir":"d","ref":"main","submodules":true,"type":"git","url":"file:///r"}"#,
        "git+file:///r?dir=d&ref=main&submodules=1",
    );
    check(
        "https://mirror.example/a.tar.gz?x=1",
        r#"{"type":"tarball","url":"https://mirror.example/a.tar.gz?x=1"}"#,
        "https://mirror.example/a.tar.gz?x=1",
    );
    check(
        "https://mirror.example/a",
        r#"{"type":"file","url":"https://mirror.example/a"}"#,
        "https://mirror.example/a",
    );
    check(
        "tarball+https://mirror.example/a",
        r#"{"type":"tarball","url":"https://mirror.example/a"}"#,
        "tarball+https://mirror.example/a",
    );
    check(
        "github:o/r/main?dir=lib",
        r#"{"dir":"lib","owner":"o","ref":"main","repo":"r","type":"github"}"#,
        "github:o/r/main?dir=lib",
    );
    check(
        &format!("github:o/r/{rev}"),
        &format!(r#"{{"owner":"o","repo":"r","rev":"{rev}","type":"github"}}"#),
        &format!("github:o/r/{rev}"),
    );
    check(
        "nixpkgs/unstable",
        r#"{"id":"nixpkgs","ref":"unstable","type":"indirect"}"#,
        "flake:nixpkgs/unstable",
    );
}

#[test]
fn fragments_are_split_off() {
    let (_, fragment) = FlakeRef::parse("path:/a#x.%22y%22", false).unwrap();
    assert_eq!(fragment, "x.\"y\"");
}

#[test]
fn an_archive_may_be_asked_for() {
    let (found, _) = FlakeRef::parse("https://mirror.example/a", true).unwrap();
    assert_eq!(kind(&found.tree), "tarball");
}

#[test]
fn what_is_no_reference_is_refused() {
    for (text, why) in [
        ("x+y:z", "input 'x+y:z' is unsupported"),
        ("github:o", "URL 'github:o' is invalid"),
        ("git+file:///r?rev=12", "invalid Git commit hash '12'"),
        (
            "git+file:///r?ref=a..b",
            "invalid Git branch/tag name 'a..b'",
        ),
        (
            "hg+file:///r?ref=-x",
            "invalid Mercurial branch/tag name '-x'",
        ),
        ("path:/a%2", "'path:/a%2' is not a valid URL"),
        ("path:/a%00", "'path:/a%00' is not a valid URL"),
        (
            "path:/a?x=1",
            "path URL 'path:/a?x=1' has unsupported parameter 'x'",
        ),
        (
            "path:/a?lastModified=x",
            "URL 'path:/a?lastModified=x' has invalid parameter 'lastModified=x'",
        ),
    ] {
        assert_eq!(FlakeRef::parse(text, false).unwrap_err().0, why);
    }
}

#[test]
fn what_can_change_is_told_from_what_cannot() {
    let locked = |text: &str| is_locked(&FlakeRef::parse(text, false).unwrap().0.tree);
    assert!(!locked("path:/a"));
    assert!(locked("path:/a?narHash=sha256-x"));
    assert!(!locked("git+file:///r?ref=main"));
    assert!(locked(
        "git+file:///r?rev=6fed4a6b5ca343cf68e12c14507e901269c67c21"
    ));
}
