use std::path::Path;

use sos_formats::diagnostic::SourceFile;

use super::*;

/// Every problem of a recipe, one to a line: line, code, message, label, help.
fn problems(text: &str) -> String {
    let file = SourceFile::new("web.rootfs.toml", text);
    let (recipe, found) = parse_file(&file, "web");
    assert_eq!(
        recipe.is_some(),
        found.is_empty(),
        "a recipe exactly when there are no problems"
    );
    let mut out = String::new();
    for d in found {
        let place = d.labels.first().map_or_else(String::new, |l| {
            let (line, column) = l.file.line_column(l.span.start);
            format!("{line}:{column} ")
        });
        let label = d
            .labels
            .iter()
            .map(|l| format!(" | {}", l.text))
            .collect::<String>();
        let help = d
            .helps
            .iter()
            .chain(&d.notes)
            .map(|h| format!(" | {h}"))
            .collect::<String>();
        out.push_str(&format!("{place}{}: {}{label}{help}\n", d.code, d.message));
    }
    out
}

#[test]
fn smallest_recipe() {
    assert_eq!(problems("suite = \"bookworm\""), "");
    assert_eq!(
        problems("suite = [\"bookworm\", \"bookworm-security\"]"),
        ""
    );
}

#[test]
fn long_form() {
    let text = r#"
        [rootfs]
        name = "web"
        arch = "arm64"
        variant = "required"
        recommends = true
        epoch = 2026-07-11T10:16:37Z
        [[source]]
        uri = "mirror://debian"
        suites = ["bookworm", "bookworm-updates"]
        components = ["main", "non-free-firmware"]
        keyring = "keys/debian.gpg"
        snapshot = "https://snapshot.example/{timestamp}/debian"
        [packages]
        include = ["openssh-server", "nginx (>= 1.22)"]
        exclude = ["postfix"]
        debs = ["local/tool_1.0_amd64.deb"]
        debconf = ["tzdata tzdata/Areas select Etc"]
        [system]
        hostname = "web"
        locale = "C.UTF-8"
        timezone = "UTC"
        machine-id = "empty"
        [[user]]
        name = "deploy"
        uid = 1000
        groups = ["sudo"]
        [[group]]
        name = "ops"
        gid = 2000
        [[file]]
        path = "/etc/nginx/site.conf"
        source = "etc/nginx/site.conf"
        mode = "0644"
        owner = "root:root"
        [services]
        enable = ["nginx.service"]
        mask = ["apt-daily.timer"]
        [cleanup]
        ssh-host-keys = true
        logs = true
        apt-lists = true
    "#;
    assert_eq!(problems(text), "");
}

#[test]
fn unknown_fields() {
    insta::assert_snapshot!(problems("suite = \"bookworm\"\nincludes = []\nmachine_id = \"x\"\nzzz = 1\n[services]\nenabled = []\n[[file]]\npath = \"/a\"\nsuorce = \"x\""), @r#"
    2:1 recipe-unknown-field: unknown field `includes` in the recipe | not a field | did you mean `include`?
    3:1 recipe-unknown-field: unknown field `machine_id` in the recipe | not a field | did you mean `machine-id`?
    4:1 recipe-unknown-field: unknown field `zzz` in the recipe | not a field | known here: `name`, `arch`, `variant`, `recommends`, `epoch`, `mirror`, `suite`, `components`, `keyring`, `snapshot`, `apt`, `include`, `exclude`, `debs`, `debconf`, `hostname`, `locale`, `timezone`, `machine-id`, `rootfs`, `source`, `packages`, `system`, `file`, `user`, `group`, `services`, `cleanup`, `disk`, `partition`, `bootc`
    6:1 recipe-unknown-field: unknown field `enabled` in `[services]` | not a field | did you mean `enable`?
    7:1 recipe-missing-field: file 1 needs exactly one of `source`, `content`, `symlink` and `directory` | has none
    9:1 recipe-unknown-field: unknown field `suorce` in file 1 | not a field | did you mean `source`?
    "#);
}

#[test]
fn wrong_types() {
    insta::assert_snapshot!(problems(
        "suite = 12\ncomponents = \"main\"\nrecommends = \"true\"\ninclude = [1, \"curl\", true]\nepoch = 1.5\nhostname = [\"a\"]\nservices = []\nfile = 3\n[[user]]\nname = \"a\"\nuid = \"1000\""
    ), @r#"
    1:9 recipe-wrong-type: `suite` must be a string, not an integer | expected a string | put it in quotes: "12"
    2:14 recipe-wrong-type: `components` must be a list of strings, not a string | expected a list of strings | write `components = ["main"]`
    3:14 recipe-wrong-type: `recommends` must be a boolean, not a string | expected a boolean | write `recommends = true` without quotes
    4:12 recipe-wrong-type: an element of `include` must be a string, not an integer | expected a string | put it in quotes: "1"
    4:23 recipe-wrong-type: an element of `include` must be a string, not a boolean | expected a string
    5:9 recipe-wrong-type: `epoch` must be seconds since 1970 or a date, not a float | expected seconds since 1970 or a date
    6:12 recipe-wrong-type: `hostname` must be a string, not a list | expected a string
    7:12 recipe-wrong-type: `[services]` must be a table, not a list | expected a table
    8:8 recipe-wrong-type: `file` must be a list, not an integer | expected a list
    11:7 recipe-wrong-type: `uid` must be an integer, not a string | expected an integer
    "#);
}

#[test]
fn bad_values() {
    insta::assert_snapshot!(problems(
        r#"
name = "a b"
suite = "../etc"
arch = "amd46"
variant = "minibase"
mirror = "debian"
include = ["Nginx", "nginx (~ 1)"]
exclude = ["a b"]
debs = ["../x.deb"]
debconf = ["a\nb"]
epoch = -1
hostname = "a_b"
timezone = "../x"
machine-id = "none"
services = { enable = ["nginx"] }
cleanup = { paths = ["relative"] }
"#
    ), @r#"
    2:8 recipe-bad-value: bad `name`: `a b` | expected letters, digits and `+-._?=`, not starting with `.`
    3:9 recipe-bad-value: bad `suite`: `../etc` | expected a suite such as `bookworm` or `bookworm-updates`
    4:8 recipe-bad-value: bad `arch`: `amd46` | expected a Debian architecture such as `amd64` or `arm64`
    5:11 recipe-bad-value: unknown variant `minibase` | not known | did you mean `minbase`?
    6:10 recipe-bad-value: bad `mirror`: `debian` | expected an address such as `mirror://debian`, with `mirror`, `http`, `https` or `file`
    7:12 recipe-bad-value: bad `include`: `Nginx` | expected a package as in `nginx`, `nginx:amd64`, `nginx (>= 1.22)` or `nginx=1.22-9`
    7:21 recipe-bad-value: bad `include`: `nginx (~ 1)` | expected a package as in `nginx`, `nginx:amd64`, `nginx (>= 1.22)` or `nginx=1.22-9`
    8:12 recipe-bad-value: bad `exclude`: `a b` | expected a package name: lower-case letters, digits and `+-.`
    9:9 recipe-bad-value: bad `debs`: `../x.deb` | expected a path below the directory of the recipe, without `..`
    10:12 recipe-bad-value: bad `debconf`: `a\nb` | expected one line without control characters
    11:9 recipe-bad-value: bad `epoch` | expected seconds since 1970, up to the year 9999
    12:12 recipe-bad-value: bad `hostname`: `a_b` | expected a host name: letters, digits and `-`, at most 64 characters
    13:12 recipe-bad-value: bad `timezone`: `../x` | expected a time zone such as `UTC` or `Europe/Berlin`
    14:14 recipe-bad-value: unknown machine-id `none` | not known | known here: `empty`, `uninitialized`, `absent`
    15:24 recipe-bad-value: bad `enable`: `nginx` | expected a unit with its suffix, such as `nginx.service`
    16:22 recipe-bad-value: bad `paths`: `relative` | expected an absolute path without `.`, `..`, `//` or a slash at the end
    "#);
}

#[test]
fn bad_files() {
    insta::assert_snapshot!(problems(
        r#"
suite = "bookworm"
[[file]]
path = "etc/motd"
content = ""
[[file]]
path = "/etc/../x"
content = ""
[[file]]
content = ""
[[file]]
path = "/a"
[[file]]
path = "/b"
content = ""
source = "b"
[[file]]
path = "/c"
content = ""
mode = 644
[[file]]
path = "/d"
content = ""
mode = "0999"
owner = "root:"
[[file]]
path = "/e"
source = "/abs"
[[file]]
path = "/f"
symlink = "g"
mode = "0777"
[[file]]
path = "/g"
content = ""
[[file]]
path = "/g"
directory = true
"#
    ), @r#"
    4:8 recipe-bad-value: bad `path`: `etc/motd` | expected an absolute path without `.`, `..`, `//` or a slash at the end
    7:8 recipe-bad-value: bad `path`: `/etc/../x` | expected an absolute path without `.`, `..`, `//` or a slash at the end
    9:1 recipe-missing-field: file 3 needs the field `path` | no `path`
    11:1 recipe-missing-field: file 4 needs exactly one of `source`, `content`, `symlink` and `directory` | has none
    15:1 recipe-missing-field: file 5 needs exactly one of `source`, `content`, `symlink` and `directory` | has source and content
    20:8 recipe-wrong-type: `mode` must be a string of octal digits, not an integer | expected a string of octal digits | write `mode = "0644"`
    24:8 recipe-bad-value: bad `mode`: `0999` | expected three or four octal digits in quotes, such as "0644"
    25:9 recipe-bad-value: bad `owner`: `root:` | expected `user:group` with names or numbers, such as `root:root`, `0:0` or `deploy`
    28:10 recipe-bad-value: bad `source`: `/abs` | expected a path below the directory of the recipe, without `..`
    32:1 recipe-bad-value: a symlink has no mode | remove it
    37:8 recipe-duplicate: `/g` is placed twice | given again | first given here
    "#);
}

/// Advice repeats the digits that were written: `0o644` is 420, and `0420` would be another mode.
#[test]
fn modes_without_quotes() {
    let file = |mode: &str| {
        problems(&format!(
            "suite = \"bookworm\"\n[[file]]\npath = \"/c\"\ncontent = \"\"\nmode = {mode}\n"
        ))
    };
    assert!(file("0o644").ends_with("| write `mode = \"0644\"`\n"));
    assert!(file("0o4755").ends_with("| write `mode = \"4755\"`\n"));
    assert!(file("644").ends_with("| write `mode = \"0644\"`\n"));
    assert!(!file("999").contains("write `mode"));
    assert!(!file("0x1ff").contains("write `mode"), "{}", file("0x1ff"));
    assert!(
        file("0644").contains("put it in quotes: \"0644\""),
        "{}",
        file("0644")
    );
}

#[test]
fn an_empty_list_of_components_and_a_snapshot_service_without_a_time() {
    insta::assert_snapshot!(problems("suite = \"bookworm\"\ncomponents = []\nsnapshot = \"https://s.example/debian\""), @r#"
    2:14 recipe-bad-value: `components` is empty | expected at least one, such as `main`
    3:12 recipe-bad-value: bad `snapshot`: `https://s.example/debian` | expected an address with `{timestamp}` in it, such as `https://snapshot.example/{timestamp}/debian`
    "#);
}

#[test]
fn the_apt_of_an_image_gets_its_sources() {
    let text = r#"
[[source]]
suites = ["bookworm", "bookworm-updates"]
components = ["main", "contrib"]
apt = "https://deb.example/debian"
[[source]]
uri = "https://here.example/own"
suites = "own"
keyring = "keys/own.asc"
apt = "https://there.example/own"
[[source]]
uri = "https://unseen.example/x"
suites = "x"
"#;
    let (recipe, found) = parse_file(&SourceFile::new("web.rootfs.toml", text), "web");
    assert!(found.is_empty(), "{found:?}");
    let files = recipe.unwrap().edit.files;
    let paths: Vec<_> = files.iter().map(|f| f.path.value.as_str()).collect();
    assert_eq!(
        paths,
        [
            "/etc/apt/keyrings/1-own.asc",
            "/etc/apt/sources.list.d/sos.sources"
        ]
    );
    let model::FileKind::Content(content, _) = &files[1].kind else {
        panic!("{:?}", files[1].kind)
    };
    assert_eq!(
        content,
        "Types: deb\nURIs: https://deb.example/debian\nSuites: bookworm bookworm-updates\nComponents: main contrib\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
         Types: deb\nURIs: https://there.example/own\nSuites: own\nComponents: main\nSigned-By: /etc/apt/keyrings/1-own.asc\n"
    );
    insta::assert_snapshot!(problems("suites = [\"bookworm\", \"bookworm-security\"]\napt = \"https://deb.example/debian\""), @"2:7 recipe-bad-value: `apt` is one address, and the suites are in two archives | write a `[[source]]` with its `apt` for each archive");
    insta::assert_snapshot!(problems("suite = \"bookworm\"\napt = \"mirror://debian\""), @"2:7 recipe-bad-value: bad `apt`: `mirror://debian` | expected an address that the image can reach, with `http`, `https` or `file`: `mirror://` names mean something only here");
    insta::assert_snapshot!(problems("suite = \"bookworm\"\napt = \"https://deb.example\"\n[files]\n\"/etc/apt/sources.list.d/sos.sources\".content = \"\""), @"4:1 recipe-duplicate: `/etc/apt/sources.list.d/sos.sources` is placed, and made from `apt` | given again | first given here");
}

#[test]
fn bad_accounts() {
    insta::assert_snapshot!(problems(
        r#"
suite = "bookworm"
[[user]]
name = "deploy"
[[user]]
name = "Deploy"
uid = 70000
[[user]]
name = "a"
uid = 1000
group = "a"
gid = 5
[[user]]
name = "a"
uid = 1001
[[user]]
name = "b"
uid = 1000
[[user]]
name = "c"
uid = 2000
comment = "a:b"
shell = "bash"
[[group]]
name = "ops"
gid = 2000
[[group]]
name = "ops2"
gid = 2000
"#
    ), @r#"
    6:8 recipe-bad-value: bad `name`: `Deploy` | expected at most 32 of `a-z`, `0-9`, `_` and `-`, starting with a letter or `_`
    7:7 recipe-bad-value: bad `uid`: 70000 | expected a number from 0 to 65533
    12:1 recipe-bad-value: `gid` belongs to a group of the user's own | remove it or `group`
    14:8 recipe-duplicate: user `a` is given twice | given again | first given here
    18:7 recipe-duplicate: `a` and `b` have the same uid 1000 | given again | first given here
    21:7 recipe-duplicate: the group of user `c` would have gid 2000, which is that of `ops` | given again | first given here
    22:11 recipe-bad-value: bad `comment`: `a:b` | expected one line without `:`
    23:9 recipe-bad-value: bad `shell`: `bash` | expected an absolute path without `.`, `..`, `//` or a slash at the end
    29:7 recipe-duplicate: `ops` and `ops2` have the same gid 2000 | given again | first given here
    "#);
}

#[test]
fn conflicts() {
    insta::assert_snapshot!(problems(
        r#"
suite = "bookworm"
suites = ["bookworm"]
name = "a"
include = ["curl"]
exclude = ["curl"]
[rootfs]
name = "b"
[[source]]
suites = "bookworm"
[[source]]
uri = "mirror://debian"
[services]
enable = ["a.service", "b.service"]
disable = ["a.service"]
mask = ["b.service"]
"#
    ), @r#"
    2:1 recipe-conflict: `suite` cannot stand beside `[[source]]` | move it into the source that it belongs to
    3:1 recipe-duplicate: `suite` and `suites` in the recipe are the same field | given again | first given here
    5:12 recipe-conflict: `curl` is both included and excluded | included here
    8:1 recipe-duplicate: `name` stands both in the recipe and in `[rootfs]` | given again | first given here
    11:1 recipe-missing-field: source 2 needs the field `suites` | no `suites`
    15:12 recipe-conflict: `a.service` is both enabled and disabled | also listed here
    16:9 recipe-conflict: `b.service` is both enabled and masked | also listed here
    "#);
}

#[test]
fn missing_suite() {
    insta::assert_snapshot!(problems("include = [\"curl\"]"), @"1:1 recipe-missing-field: the recipe needs the field `suite` | no `suite`");
}

#[test]
fn syntax_errors_are_all_reported() {
    insta::assert_snapshot!(problems("suite = \nname = \"a\ninclude = [\"x\" \"y\"]\n"), @r#"
    1:9 recipe-syntax: string values must be quoted, expected literal string | here
    2:10 recipe-syntax: invalid basic string, expected `"` | here
    3:16 recipe-syntax: missing comma between array elements, expected `,` | here
    "#);
}

#[test]
fn problems_are_capped() {
    let many: String = (0..80).map(|i| format!("bad{i} = 1\n")).collect();
    let text = problems(&format!("suite = \"bookworm\"\n{many}"));
    assert_eq!(text.lines().count(), 50);
    assert!(
        text.ends_with("| 30 more problems are not shown\n"),
        "{text}"
    );
}

#[test]
fn tables_by_key() {
    let text = r#"
        suite = "bookworm"
        [files]
        "/etc/motd" = { content = "hi" }
        "/etc/issue" = { symlink = "motd" }
        [users.deploy]
        uid = 1000
    "#;
    let file = SourceFile::new("web.rootfs.toml", text);
    let (recipe, found) = parse_file(&file, "web");
    assert!(found.is_empty(), "{found:?}");
    let recipe = recipe.unwrap();
    assert_eq!(
        recipe
            .edit
            .files
            .iter()
            .map(|f| f.path.value.as_str())
            .collect::<Vec<_>>(),
        ["/etc/motd", "/etc/issue"]
    );
    assert_eq!(recipe.edit.users[0].home, "/home/deploy");
}

#[test]
fn security_suites_are_in_their_own_archive() {
    let file = SourceFile::new(
        "web.rootfs.toml",
        "suites = [\"bookworm\", \"bookworm-security\", \"bookworm-updates\"]",
    );
    let recipe = parse_file(&file, "web").0.unwrap();
    let shape: Vec<_> = recipe
        .sources
        .iter()
        .map(|s| {
            (
                s.uri.as_str(),
                s.suites
                    .iter()
                    .map(|s| s.value.as_str())
                    .collect::<Vec<_>>(),
            )
        })
        .collect();
    assert_eq!(
        shape,
        [
            ("mirror://debian", vec!["bookworm", "bookworm-updates"]),
            ("mirror://debian-security", vec!["bookworm-security"])
        ]
    );
}

#[test]
fn values_of_the_nix_language() {
    use sos_lang::Plain;
    let set = |pairs: Vec<(&str, Plain)>| {
        Plain::Attrs(pairs.into_iter().map(|(n, v)| (n.to_owned(), v)).collect())
    };
    let text = |s: &str| Plain::Str {
        s: s.as_bytes().to_vec(),
        context: vec![],
    };
    let good = set(vec![
        ("suite", text("bookworm")),
        ("hostname", Plain::Null),
        (
            "files",
            set(vec![(
                "/etc/a",
                set(vec![("source", Plain::Path("/p/a".into()))]),
            )]),
        ),
    ]);
    let (recipe, found) = parse_tree(
        &crate::tree::from_plain(good, &Default::default()),
        "x",
        crate::problems::Problems::in_call(None, &Default::default()),
    );
    assert!(found.is_empty(), "{found:?}");
    let plan = edit(&recipe.unwrap().edit, Path::new("/base"));
    let Plain::Attrs(plan) = plan else {
        panic!("a set")
    };
    let Plain::List(files) = &plan["files"] else {
        panic!("a list")
    };
    let Plain::Attrs(file) = &files[0] else {
        panic!("a set")
    };
    assert_eq!(file["source"], Plain::Path("/p/a".into()));

    let bad = set(vec![("suite", text("bookworm")), ("hostnam", text("a"))]);
    let (recipe, found) = parse_tree(
        &crate::tree::from_plain(bad, &Default::default()),
        "x",
        crate::problems::Problems::in_call(None, &Default::default()),
    );
    assert!(recipe.is_none());
    assert_eq!(found[0].code, "recipe-unknown-field");
}
