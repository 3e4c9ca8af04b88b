use std::path::Path;

use serde_json::{Map, Value, json};
use sos_formats::diagnostic::SourceFile;
use sos_formats::hash::Sha256;
use sos_formats::lock::{LockedPackage, LockedRelease, LockedSuite, Phase, RootfsLocked};
use sos_lang::Plain;

use super::*;

/// A value as JSON; paths are marked.
fn show(plain: &Plain) -> Value {
    match plain {
        Plain::Null => Value::Null,
        Plain::Bool(b) => json!(b),
        Plain::Int(n) => json!(n),
        Plain::Float(f) => json!(f),
        Plain::Str { s, .. } => json!(String::from_utf8_lossy(s)),
        Plain::Path(p) => json!(format!("path:{}", p.display())),
        Plain::List(list) => Value::Array(list.iter().map(show).collect()),
        Plain::Attrs(set) => Value::Object(
            set.iter()
                .map(|(k, v)| (k.clone(), show(v)))
                .collect::<Map<_, _>>(),
        ),
    }
}

fn recipe(text: &str) -> RootfsRecipe {
    let (recipe, found) = parse_file(&SourceFile::new("web.rootfs.toml", text), "web");
    assert!(found.is_empty(), "{found:?}");
    recipe.unwrap()
}

fn package(name: &str, phase: Phase, batch: u32) -> LockedPackage {
    LockedPackage {
        name: name.to_owned(),
        version: "1~rc".to_owned(),
        arch: "amd64".to_owned(),
        sha256: Sha256([7; 32]),
        size: 5,
        path: format!("pool/{name}_1~rc_amd64.deb"),
        suite: Some(0),
        phase,
        batch,
        reason: "requested".to_owned(),
        auto: name == "b",
    }
}

fn locked(packages: Vec<LockedPackage>) -> RootfsLocked {
    let suite = |suite: &str, date: &str| LockedSuite {
        uri: "mirror://debian".to_owned(),
        suite: suite.to_owned(),
        components: vec!["main".to_owned()],
        inrelease: LockedRelease {
            sha256: Sha256([1; 32]),
            size: 1,
            date: date.to_owned(),
            keys: vec![],
        },
        index: vec![],
        snapshot: Some("20260711T101637Z".to_owned()),
    };
    let suites = vec![
        suite("bookworm", "2026-07-11T10:16:37Z"),
        suite("bookworm-updates", "2026-07-12T00:00:00Z"),
    ];
    RootfsLocked {
        solver: "test".to_owned(),
        suites,
        packages,
    }
}

fn plan(text: &str, packages: Vec<LockedPackage>) -> Value {
    show(&lower(
        &recipe(text),
        &locked(packages),
        Path::new("/project"),
    ))
}

#[test]
fn smallest_plan() {
    let plan = plan(
        "suite = \"bookworm\"",
        vec![
            package("a", Phase::Essential, 0),
            package("b", Phase::Rest, 3),
        ],
    );
    insta::assert_snapshot!(serde_json::to_string_pretty(&plan).unwrap(), @r#"
    {
      "arch": "amd64",
      "auto": [
        {
          "arch": "amd64",
          "package": "b"
        }
      ],
      "batches": [
        [
          1
        ]
      ],
      "bootc": {},
      "debs": [
        {
          "arch": "amd64",
          "file": "a_1_rc_amd64.deb",
          "name": "a",
          "sha256": "0707070707070707070707070707070707070707070707070707070707070707",
          "size": 5,
          "urls": [
            "mirror://debian/pool/a_1~rc_amd64.deb"
          ],
          "version": "1~rc"
        },
        {
          "arch": "amd64",
          "file": "b_1_rc_amd64.deb",
          "name": "b",
          "sha256": "0707070707070707070707070707070707070707070707070707070707070707",
          "size": 5,
          "urls": [
            "mirror://debian/pool/b_1~rc_amd64.deb"
          ],
          "version": "1~rc"
        }
      ],
      "disk": {},
      "edit": {
        "cleanup": {
          "apt_lists": true,
          "docs": false,
          "logs": true,
          "paths": [],
          "ssh_host_keys": true
        }
      },
      "epoch": 1783814400,
      "essential": [
        0
      ],
      "mergedUsr": true,
      "name": "web",
      "suite": "bookworm",
      "system": "x86_64-linux",
      "variant": "minbase"
    }
    "#);
}

#[test]
fn epoch_is_of_the_recipe_or_of_the_newest_archive() {
    assert_eq!(
        plan("suite = \"bookworm\"\nepoch = 12", vec![])["epoch"],
        12
    );
    assert_eq!(
        plan("suite = \"bookworm\"\nepoch = \"1970-01-02\"", vec![])["epoch"],
        86_400
    );
    assert_eq!(plan("suite = \"bookworm\"", vec![])["epoch"], 1_783_814_400);
}

#[test]
fn batches_keep_the_order_of_the_lock() {
    let list = vec![
        package("e", Phase::Essential, 0),
        package("late", Phase::Rest, 7),
        LockedPackage {
            arch: "all".to_owned(),
            ..package("b", Phase::Rest, 2)
        },
        package("a", Phase::Rest, 2),
    ];
    let plan = plan("suite = \"bookworm\"", list);
    assert_eq!(plan["essential"], json!([0]));
    assert_eq!(plan["batches"], json!([[2, 3], [1]]));
    assert_eq!(
        plan["auto"],
        json!([{"package": "b", "arch": "amd64"}]),
        "as apt records packages of all architectures"
    );
}

#[test]
fn snapshot_service_is_the_second_address() {
    let text = "suite = \"bookworm\"\nsnapshot = \"https://snapshot.example/debian/{timestamp}/\"";
    let plan = plan(text, vec![package("a", Phase::Rest, 0)]);
    assert_eq!(
        plan["debs"][0]["urls"],
        json!([
            "mirror://debian/pool/a_1~rc_amd64.deb",
            "https://snapshot.example/debian/20260711T101637Z/pool/a_1~rc_amd64.deb"
        ])
    );
}

#[test]
fn a_snapshot_service_can_be_named_after_locking() {
    let text = "suite = \"bookworm\"\nsnapshot = \"https://snapshot.example/{timestamp}\"";
    let mut locked = locked(vec![package("a", Phase::Rest, 0)]);
    locked.suites[0].snapshot = None;
    let plan = show(&lower(&recipe(text), &locked, Path::new("/project")));
    assert_eq!(
        plan["debs"][0]["urls"][1],
        json!("https://snapshot.example/20260711T101637Z/pool/a_1~rc_amd64.deb")
    );
}

#[test]
fn local_packages_are_paths() {
    let mut local = package("tool", Phase::Rest, 0);
    local.suite = None;
    local.path = "local/tool.deb".to_owned();
    let plan = plan(
        "suite = \"bookworm\"\ndebs = [\"./local/tool.deb\"]",
        vec![local],
    );
    assert_eq!(plan["debs"][0]["local"], "path:/project/local/tool.deb");
    assert_eq!(plan["debs"][0]["urls"], Value::Null);
}

#[test]
fn old_releases_are_not_merged() {
    let mut old = locked(vec![]);
    old.suites[0].suite = "stretch".to_owned();
    let plan = show(&lower(&recipe("suite = \"stretch\""), &old, Path::new("/")));
    assert_eq!(plan["mergedUsr"], false);
}

#[test]
fn whole_edit() {
    let text = r#"
        suite = "bookworm"
        hostname = "web"
        timezone = "UTC"
        locale = "C.UTF-8"
        machine-id = "absent"
        [[file]]
        path = "/etc/a"
        source = "files/a"
        mode = "640"
        owner = "root:www-data"
        [[file]]
        path = "/etc/b"
        content = "text"
        [[file]]
        path = "/etc/c"
        symlink = "b"
        [[file]]
        path = "/srv/d"
        directory = true
        [[user]]
        name = "deploy"
        uid = 1000
        groups = ["www-data"]
        [[user]]
        name = "daemon2"
        uid = 200
        system = true
        group = "nogroup"
        [[group]]
        name = "ops"
        gid = 2000
        [services]
        enable = ["nginx.service"]
        mask = ["apt-daily.timer"]
        [cleanup]
        logs = false
        paths = ["/usr/share/doc"]
    "#;
    insta::assert_snapshot!(serde_json::to_string_pretty(&plan(text, vec![])["edit"]).unwrap(), @r#"
    {
      "cleanup": {
        "apt_lists": true,
        "docs": false,
        "logs": false,
        "paths": [
          "/usr/share/doc"
        ],
        "ssh_host_keys": true
      },
      "files": [
        {
          "mode": "0640",
          "owner": "root:www-data",
          "path": "/etc/a",
          "source": "path:/project/files/a"
        },
        {
          "content": "text",
          "owner": "root:root",
          "path": "/etc/b"
        },
        {
          "owner": "root:root",
          "path": "/etc/c",
          "symlink": "b"
        },
        {
          "dir": true,
          "owner": "root:root",
          "path": "/srv/d"
        }
      ],
      "groups": [
        {
          "gid": 2000,
          "name": "ops",
          "system": false
        }
      ],
      "hostname": "web",
      "locale": "C.UTF-8",
      "machine_id": "absent",
      "services": {
        "disable": [],
        "enable": [
          "nginx.service"
        ],
        "mask": [
          "apt-daily.timer"
        ]
      },
      "timezone": "UTC",
      "users": [
        {
          "comment": "",
          "create_home": true,
          "groups": [
            "www-data"
          ],
          "home": "/home/deploy",
          "name": "deploy",
          "shell": "/bin/bash",
          "system": false,
          "uid": 1000
        },
        {
          "comment": "",
          "create_home": false,
          "group": "nogroup",
          "groups": [],
          "home": "/nonexistent",
          "name": "daemon2",
          "shell": "/usr/sbin/nologin",
          "system": true,
          "uid": 200
        }
      ]
    }
    "#);
}
