//! Edits of a small Debian-like root.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};
use sos_engine::BuilderError;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::manifest::Meta;
use sos_store::rootfs::{FileSpec, KindView, RootTree, SpecKind};

use super::edit;
use crate::build::fake::Fake;
use crate::peers::{peer, said};

const EPOCH: i64 = 1_700_000_000;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
    daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
    _apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n\
    messagebus:x:100:101::/nonexistent:/usr/sbin/nologin\n";
const GROUP: &str =
    "root:x:0:\ndaemon:x:1:\nsudo:x:27:old\nshadow:x:42:\ncrontab:x:102:\nmessagebus:x:101:\n";
const SSH: &str =
    "[Unit]\nDescription=ssh\n[Install]\nWantedBy=multi-user.target\nAlias=sshd.service\n";

fn meta(mode: u16) -> Meta {
    Meta {
        mode,
        mtime_secs: EPOCH - 77,
        ..Meta::default()
    }
}

fn put(tree: &mut RootTree, path: &str, kind: SpecKind) {
    let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
    tree.mkdir_p(dir, &meta(0o755)).expect("mkdir");
    tree.insert(
        path,
        FileSpec {
            meta: meta(0o777),
            kind,
        },
    )
    .expect("insert");
}

fn write(tree: &mut RootTree, path: &str, mode: u16, text: &str) {
    let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
    tree.mkdir_p(dir, &meta(0o755)).expect("mkdir");
    tree.write_file(path, text.as_bytes(), meta(mode))
        .expect("write");
}

fn symlink(tree: &mut RootTree, path: &str, target: &str) {
    put(
        tree,
        path,
        SpecKind::Symlink {
            target: target.as_bytes().to_vec(),
        },
    );
}

fn debian(fake: &Fake) -> RootTree {
    let mut tree = RootTree::empty_in(&fake.store, meta(0o755));
    for (path, mode, text) in [
        ("etc/passwd", 0o644, PASSWD),
        ("etc/group", 0o644, GROUP),
        ("etc/shadow", 0o640, "root:*:19000:0:99999:7:::\n"),
        ("etc/gshadow", 0o640, "root:*::\nsudo:*::old\n"),
        ("etc/hosts", 0o644, "127.0.0.1\tlocalhost\n"),
        (
            "etc/machine-id",
            0o444,
            "0123456789abcdef0123456789abcdef\n",
        ),
        ("etc/resolv.conf", 0o644, "nameserver 192.0.2.1\n"),
        ("etc/skel/.profile", 0o644, "# profile\n"),
        ("etc/skel/.config/x", 0o600, "x\n"),
        ("etc/ssh/ssh_host_rsa_key", 0o600, "secret"),
        ("etc/ssh/ssh_host_rsa_key.pub", 0o644, "public"),
        ("etc/ssh/sshd_config", 0o644, "keep"),
        ("usr/lib/systemd/system/ssh.service", 0o644, SSH),
        (
            "usr/lib/systemd/system/getty@.service",
            0o644,
            "[Install]\nWantedBy=getty.target\nDefaultInstance=tty1\n",
        ),
        (
            "usr/lib/systemd/system/plain.service",
            0o644,
            "[Service]\nExecStart=/bin/true\n",
        ),
        (
            "usr/lib/systemd/system/two.service",
            0o644,
            "[Install]\nWantedBy=a.target\nAlso=two.socket gone.socket\n",
        ),
        (
            "usr/lib/systemd/system/two.socket",
            0o644,
            "[Install]\nRequiredBy=sockets.target\nAlias=two.service\n",
        ),
        (
            "usr/lib/systemd/system/evil.service",
            0o644,
            "[Install]\nWantedBy=../../../tmp/x\n",
        ),
        ("usr/share/zoneinfo/Europe/Berlin", 0o644, "TZif"),
        ("usr/share/doc/a/copyright", 0o644, "c"),
        ("usr/share/doc/a/README", 0o644, "r"),
        ("var/lib/apt/lists/mirror.example_dists", 0o644, "x"),
        ("var/lib/apt/lists/partial/half", 0o644, "x"),
        ("var/lib/apt/lists/lock", 0o640, ""),
        ("var/cache/apt/archives/x.deb", 0o644, "x"),
        ("var/cache/apt/pkgcache.bin", 0o644, "x"),
        ("var/cache/debconf/config.dat-old", 0o600, "x"),
        ("var/log/dpkg.log", 0o644, "x"),
        ("var/log/apt/term.log", 0o640, "x"),
        ("var/log/faillog", 0o644, ""),
        ("var/lib/dbus/machine-id", 0o644, "x"),
        ("var/lib/dpkg/status-old", 0o644, "x"),
        ("run/lock/x", 0o644, "x"),
        ("tmp/leftover", 0o644, "x"),
    ] {
        write(&mut tree, path, mode, text);
    }
    symlink(&mut tree, "lib", "usr/lib");
    symlink(
        &mut tree,
        "usr/lib/systemd/system/sshd.service",
        "ssh.service",
    );
    symlink(&mut tree, "usr/lib/systemd/system/off.service", "/dev/null");
    symlink(&mut tree, "var/run", "/run");
    symlink(&mut tree, "escape", "../../../../etc");
    tree
}

struct Edited {
    fake: Fake,
    tree: RootTree,
}

impl Edited {
    fn text(&self, path: &str) -> String {
        String::from_utf8(self.tree.read_file(path).expect(path)).expect("UTF-8")
    }
    fn link(&self, path: &str) -> Option<String> {
        match self.tree.get(path).expect("get")?.kind {
            KindView::Symlink { target } => Some(String::from_utf8_lossy(target).into_owned()),
            _ => None,
        }
    }
    fn has(&self, path: &str) -> bool {
        self.tree.get(path).expect("get").is_some()
    }
    /// Mode and owner.
    fn stat(&self, path: &str) -> String {
        let view = self.tree.get(path).expect("get").expect(path);
        assert!(view.meta.mtime_secs <= EPOCH, "{path}");
        format!("{:04o} {}:{}", view.meta.mode, view.meta.uid, view.meta.gid)
    }
}

fn run_on(fake: Fake, attrs: Value) -> Result<Edited, BuilderError> {
    let mut attrs = attrs;
    attrs["epoch"] = json!(EPOCH);
    let attrs = serde_json::from_value(attrs).expect("attributes");
    let id = edit(&fake, &attrs)?;
    let tree = RootTree::load(&fake.store, &id).expect("load");
    Ok(Edited { fake, tree })
}

fn run(attrs: Value) -> Result<Edited, BuilderError> {
    let mut fake = Fake::new();
    let id = debian(&fake).finish(&fake.store).expect("finish");
    fake.roots.insert("base".into(), id);
    let top = fake.path("src");
    fs::create_dir_all(top.join("bin")).expect("mkdir");
    fs::write(top.join("bin/tool"), "tool").expect("write");
    fs::set_permissions(top.join("bin/tool"), fs::Permissions::from_mode(0o755)).expect("chmod");
    fs::write(top.join("data"), "data").expect("write");
    fake.trees.insert("src".into(), top.clone());
    fake.trees.insert("data".into(), top.join("data"));
    let mut attrs = attrs;
    attrs["rootfs"] = json!("base");
    run_on(fake, attrs)
}

#[track_caller]
fn good(attrs: Value) -> Edited {
    run(attrs).expect("a good edit")
}

#[track_caller]
fn bad(attrs: Value) -> Box<Diagnostic> {
    match run(attrs).err().expect("must be refused") {
        BuilderError::Diagnostic(diagnostic) => diagnostic,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_empty_edit_changes_nothing() {
    let edited = good(json!({}));
    assert_eq!(
        Some(
            &edited
                .tree
                .clone()
                .finish(&edited.fake.store)
                .expect("finish")
        ),
        edited.fake.roots.get("base")
    );
}

#[test]
fn files_of_every_kind() {
    let edited = good(json!({"files": [
        {"path": "/etc/motd", "content": "hi\n", "owner": "daemon:sudo"},
        {"path": "/opt/x/secret", "content": "s", "mode": "0600", "owner": "5:6"},
        {"path": "/opt/data", "source": "data"},
        {"path": "/opt/tree", "source": "src", "owner": "1:1"},
        {"path": "/lib/link", "symlink": "../x"},
        {"path": "/srv/dir", "dir": true, "mode": "2770", "owner": "root:sudo"},
        {"path": "/etc/ssh", "dir": true},
        {"path": "/escape/inside", "content": ""},
        {"path": "/lib", "dir": true},
    ]}));
    assert_eq!(edited.stat("etc/motd"), "0644 1:27");
    assert_eq!(edited.text("etc/motd"), "hi\n");
    assert_eq!(edited.stat("opt/x/secret"), "0600 5:6");
    assert_eq!(edited.stat("opt/x"), "0755 0:0");
    assert_eq!(edited.stat("opt/data"), "0644 0:0");
    assert_eq!(edited.stat("opt/tree"), "0755 1:1");
    assert_eq!(edited.stat("opt/tree/bin/tool"), "0755 1:1");
    assert_eq!(edited.stat("opt/tree/data"), "0644 1:1");
    assert_eq!(edited.link("usr/lib/link").as_deref(), Some("../x"));
    assert_eq!(edited.stat("srv/dir"), "2770 0:27");
    assert_eq!(edited.text("etc/ssh/sshd_config"), "keep");
    assert!(
        edited.has("etc/inside"),
        "a link that climbs stays inside the root"
    );
    assert_eq!(edited.link("lib").as_deref(), Some("usr/lib"));
    assert_eq!(edited.text("etc/resolv.conf"), "nameserver 192.0.2.1\n");
}

#[test]
fn files_that_make_no_sense() {
    for (file, code) in [
        (json!({"path": "etc/x", "content": ""}), "rootfs-bad-path"),
        (
            json!({"path": "/a/../../x", "content": ""}),
            "rootfs-bad-path",
        ),
        (json!({"path": "/", "content": ""}), "rootfs-bad-path"),
        (json!({"path": "/etc", "content": ""}), "rootfs-path-clash"),
        (
            json!({"path": "/etc/passwd/x", "content": ""}),
            "rootfs-path-clash",
        ),
        (json!({"path": "/x"}), "rootfs-file"),
        (
            json!({"path": "/x", "content": "", "dir": true}),
            "rootfs-file",
        ),
        (
            json!({"path": "/x", "content": "", "mode": "888"}),
            "rootfs-file",
        ),
        (
            json!({"path": "/x", "content": "", "mode": "17777"}),
            "rootfs-file",
        ),
        (
            json!({"path": "/x", "source": "src", "mode": "0600"}),
            "rootfs-file",
        ),
        (json!({"path": "/x", "symlink": ""}), "rootfs-file"),
        (
            json!({"path": "/x", "content": "", "owner": "deamon:root"}),
            "rootfs-unknown-user",
        ),
        (
            json!({"path": "/x", "content": "", "owner": "root:sodu"}),
            "rootfs-unknown-group",
        ),
    ] {
        let error = bad(json!({"files": [file]}));
        assert_eq!(error.code, code, "{file}: {error}");
    }
    let error = bad(json!({"files": [{"path": "/x", "content": "", "owner": "deamon:root"}]}));
    assert_eq!(error.helps, ["did you mean `daemon`?"]);
}

#[test]
fn users_and_groups() {
    let edited = good(json!({
        "groups": [{"name": "web", "gid": 2000}, {"name": "sys", "system": true}],
        "users": [
            {"name": "deploy", "uid": 1000, "groups": ["sudo", "web"], "comment": "Deploy"},
            {"name": "app", "system": true, "home": "/srv/app", "create_home": true},
            {"name": "www", "uid": 33, "group": "web", "shell": "/bin/false", "create_home": false},
        ],
        "files": [{"path": "/home/deploy/.ssh/authorized_keys", "content": "key", "mode": "0600", "owner": "deploy:"}],
    }));
    // 100 is the uid of messagebus, 101 and 102 are gids.
    let passwd = "deploy:x:1000:1000:Deploy:/home/deploy:/bin/bash\n\
        app:x:104:104::/srv/app:/usr/sbin/nologin\n\
        www:x:33:2000::/home/www:/bin/false\n";
    assert_eq!(edited.text("etc/passwd"), format!("{PASSWD}{passwd}"));
    let group = GROUP.replace("sudo:x:27:old", "sudo:x:27:old,deploy");
    assert_eq!(
        edited.text("etc/group"),
        format!("{group}web:x:2000:deploy\nsys:x:103:\ndeploy:x:1000:\napp:x:104:\n")
    );
    assert_eq!(
        edited.text("etc/shadow"),
        "root:*:19000:0:99999:7:::\ndeploy:!:19675:0:99999:7:::\napp:!:19675::::::\nwww:!:19675:0:99999:7:::\n"
    );
    assert_eq!(
        edited.text("etc/gshadow"),
        "root:*::\nsudo:*::old,deploy\nweb:!::deploy\nsys:!::\ndeploy:!::\napp:!::\n"
    );
    assert_eq!(
        edited.stat("etc/shadow"),
        "0640 0:0",
        "an existing file keeps its mode and owner"
    );
    assert_eq!(edited.stat("home"), "0755 0:0");
    assert_eq!(edited.stat("home/deploy"), "0700 1000:1000");
    assert_eq!(edited.stat("home/deploy/.profile"), "0644 1000:1000");
    assert_eq!(edited.stat("home/deploy/.config/x"), "0600 1000:1000");
    assert_eq!(edited.stat("home/deploy/.ssh"), "0755 1000:1000");
    assert_eq!(
        edited.stat("home/deploy/.ssh/authorized_keys"),
        "0600 1000:1000"
    );
    assert_eq!(edited.stat("srv/app"), "0700 104:104");
    assert!(!edited.has("home/www"));
}

#[test]
fn accounts_in_an_empty_root() {
    let attrs = json!({"users": [{"name": "app", "uid": 7, "create_home": false}]});
    let edited = run_on(Fake::new(), attrs).expect("a good edit");
    assert_eq!(
        edited.text("etc/passwd"),
        "app:x:7:7::/home/app:/bin/bash\n"
    );
    assert_eq!(edited.stat("etc/shadow"), "0600 0:0");
    assert!(!edited.has("etc/gshadow"));
}

#[test]
fn an_existing_user_is_changed_in_place() {
    let edited = good(
        json!({"users": [{"name": "daemon", "uid": 1, "shell": "/bin/sh", "create_home": false}]}),
    );
    let line = "daemon:x:1:1::/home/daemon:/bin/sh\n";
    assert_eq!(
        edited.text("etc/passwd").lines().nth(1),
        line.lines().next()
    );
    assert_eq!(edited.text("etc/group"), GROUP);
}

/// The group of `deploy` has the id of `deploy`, which `ops` must not take before.
#[test]
fn an_id_that_a_recipe_gives_is_nobody_elses() {
    let edited = good(json!({
        "users": [{"name": "first"}, {"name": "deploy", "uid": 1000}],
        "groups": [{"name": "ops"}],
    }));
    let group = edited.text("etc/group");
    assert!(group.contains("deploy:x:1000:"), "{group}");
    assert!(group.contains("ops:x:1001:"), "{group}");
    assert!(edited.text("etc/passwd").contains("first:x:1002:1002:"));
}

/// Finding out takes a whole build: all of it is told, each at its part of the recipe, and nothing that only follows from it.
#[test]
fn everything_that_does_not_fit_is_told_at_once() {
    let error = bad(json!({
        "users": [
            {"name": "x", "uid": 1000, "groups": ["sudo", "sduo"]},
            {"name": "y", "uid": 1},
        ],
        "files": [
            {"path": "/etc/y", "content": "", "owner": "y:y"},
            {"path": "/etc", "content": ""},
            {"path": "/etc/z", "content": "", "owner": "nosuch"},
        ],
        "timezone": "Mars/Base",
        "services": {"enable": ["nosuch.service"], "mask": ["neither.timer"]},
    }));
    assert_eq!((error.code, error.class), ("rootfs-edit", Class::Recipe));
    let about: Vec<_> = error
        .subjects
        .iter()
        .map(|(part, _)| part.as_str())
        .collect();
    assert_eq!(
        about,
        [
            "users/0/groups/1",
            "users/1/uid",
            "files/1",
            "files/2",
            "timezone",
            "services/enable/0",
            "services/mask/0"
        ]
    );
    assert!(error.subjects[0].1.contains("did you mean `sudo`?"));
}

#[test]
fn accounts_that_collide() {
    for (attrs, code) in [
        (
            json!({"users": [{"name": "x", "uid": 1}]}),
            "rootfs-user-collision",
        ),
        (
            json!({"users": [{"name": "daemon", "uid": 5}]}),
            "rootfs-user-collision",
        ),
        (
            json!({"users": [{"name": "x", "uid": 27}]}),
            "rootfs-group-collision",
        ),
        (
            json!({"users": [{"name": "sudo", "uid": 1000, "gid": 1000}]}),
            "rootfs-group-collision",
        ),
        (
            json!({"groups": [{"name": "x", "gid": 27}]}),
            "rootfs-group-collision",
        ),
        (
            json!({"groups": [{"name": "sudo", "gid": 28}]}),
            "rootfs-group-collision",
        ),
        (
            json!({"users": [{"name": "x", "uid": 1000, "group": "sodu"}]}),
            "rootfs-unknown-group",
        ),
        (
            json!({"users": [{"name": "x", "uid": 1000, "groups": ["sodu"]}]}),
            "rootfs-unknown-group",
        ),
        (
            json!({"users": [{"name": "a:b", "uid": 1000}]}),
            "rootfs-account",
        ),
        (
            json!({"users": [{"name": "x", "uid": 1000, "comment": "a:b"}]}),
            "rootfs-account",
        ),
        (
            json!({"users": [{"name": "x", "uid": 1000, "comment": "a\nroot2:x:0"}]}),
            "rootfs-account",
        ),
    ] {
        let error = bad(attrs.clone());
        assert_eq!(error.code, code, "{attrs}: {error}");
    }
}

#[test]
fn host_settings() {
    let edited = good(json!({
        "hostname": "web.example.org", "machine_id": "uninitialized", "timezone": "Europe/Berlin", "locale": "C.UTF-8",
    }));
    assert_eq!(edited.text("etc/hostname"), "web.example.org\n");
    assert_eq!(
        edited.text("etc/hosts"),
        "127.0.0.1\tlocalhost\n127.0.1.1\tweb.example.org web\n"
    );
    assert_eq!(edited.text("etc/machine-id"), "uninitialized\n");
    assert_eq!(edited.stat("etc/machine-id"), "0444 0:0");
    assert!(!edited.has("var/lib/dbus/machine-id"));
    assert_eq!(edited.text("etc/timezone"), "Europe/Berlin\n");
    assert_eq!(
        edited.link("etc/localtime").as_deref(),
        Some("/usr/share/zoneinfo/Europe/Berlin")
    );
    assert_eq!(edited.text("etc/default/locale"), "LANG=C.UTF-8\n");
    assert_eq!(
        good(json!({"machine_id": "empty"})).text("etc/machine-id"),
        ""
    );
    assert!(!good(json!({"machine_id": "absent"})).has("etc/machine-id"));
    let utc = good(json!({"timezone": "UTC"}));
    assert_eq!(
        (utc.text("etc/timezone").as_str(), utc.link("etc/localtime")),
        ("UTC\n", None)
    );
    assert!(
        good(json!({"locale": "de_DE.UTF-8"}))
            .fake
            .logged("locales-all")
    );
    for (attrs, code) in [
        (json!({"hostname": "a b"}), "rootfs-hostname"),
        (json!({"hostname": "-a"}), "rootfs-hostname"),
        (json!({"timezone": "../../etc/passwd"}), "rootfs-bad-path"),
        (json!({"timezone": "Europe"}), "rootfs-timezone"),
        (json!({"locale": "x\ny"}), "rootfs-locale"),
    ] {
        assert_eq!(bad(attrs).code, code);
    }
    assert_eq!(
        bad(json!({"timezone": "Europe/Berlim"})).helps,
        ["did you mean `Europe/Berlin`?"]
    );
}

#[test]
fn services_are_enabled_and_disabled() {
    let edited = good(json!({
        "files": [{"path": "/etc/systemd/system/own.timer", "content": "[Install]\nWantedBy=timers.target\n"}],
        "services": {"enable": ["sshd", "own.timer", "getty@", "getty@ttyS0", "two", "plain"]},
    }));
    let wants = |target: &str, unit: &str| {
        edited.link(&format!("etc/systemd/system/{target}.wants/{unit}"))
    };
    let file = |unit: &str| Some(format!("/usr/lib/systemd/system/{unit}"));
    assert_eq!(
        wants("multi-user.target", "ssh.service"),
        file("ssh.service")
    );
    assert_eq!(
        edited.link("etc/systemd/system/sshd.service"),
        file("ssh.service")
    );
    assert_eq!(
        wants("timers.target", "own.timer").as_deref(),
        Some("/etc/systemd/system/own.timer")
    );
    assert_eq!(
        wants("getty.target", "getty@tty1.service"),
        file("getty@.service")
    );
    assert_eq!(
        wants("getty.target", "getty@ttyS0.service"),
        file("getty@.service")
    );
    assert_eq!(wants("a.target", "two.service"), file("two.service"));
    assert_eq!(
        edited.link("etc/systemd/system/sockets.target.requires/two.socket"),
        file("two.socket")
    );
    assert!(edited.fake.logged("`plain.service` has nothing to enable"));
    assert!(edited.fake.logged("wants `gone.socket`"));

    // The same root again, now with everything taken back.
    let Edited { mut fake, mut tree } = edited;
    let id = tree.finish(&fake.store).expect("finish");
    fake.roots.insert("base".into(), id);
    let attrs = json!({"rootfs": "base", "services": {"disable": ["ssh", "getty@", "two"], "mask": ["plain", "ssh"]}});
    let edited = run_on(fake, attrs).expect("a good edit");
    let names = edited.tree.list("etc/systemd/system").expect("list");
    let names: Vec<_> = names
        .iter()
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    assert_eq!(
        names,
        [
            "own.timer",
            "plain.service",
            "ssh.service",
            "timers.target.wants"
        ]
    );
    assert_eq!(
        edited.link("etc/systemd/system/plain.service").as_deref(),
        Some("/dev/null")
    );
}

#[test]
fn services_that_make_no_sense() {
    for (services, part) in [
        (json!({"enable": ["shs"]}), "no unit `shs.service`"),
        (json!({"disable": ["nothing"]}), "no unit `nothing.service`"),
        (json!({"mask": ["nothing"]}), "no unit `nothing.service`"),
        (json!({"enable": ["off"]}), "masked"),
        (json!({"enable": ["../x"]}), "not the name of a unit"),
        (json!({"enable": ["evil"]}), "which is not a unit"),
    ] {
        let error = bad(json!({"services": services}));
        assert!(error.message.contains(part), "{error}");
    }
    let error = bad(json!({"services": {"enable": ["shs"]}}));
    assert!(
        error.helps[0].contains("`ssh.service`"),
        "{:?}",
        error.helps
    );
}

#[test]
fn cleaning_up() {
    let edited = good(json!({"cleanup": {
        "logs": true, "apt_lists": true, "ssh_host_keys": true, "docs": true,
        "paths": ["/var/log/fail*", "/var/**/*-old", "/nowhere/*"],
    }}));
    for gone in [
        "etc/ssh/ssh_host_rsa_key",
        "etc/ssh/ssh_host_rsa_key.pub",
        "usr/share/doc/a/README",
        "var/lib/apt/lists/mirror.example_dists",
        "var/lib/apt/lists/partial/half",
        "var/cache/apt/archives/x.deb",
        "var/cache/apt/pkgcache.bin",
        "var/log/dpkg.log",
        "var/log/apt/term.log",
        "var/log/faillog",
        "var/lib/dbus/machine-id",
        "var/cache/debconf/config.dat-old",
        "var/lib/dpkg/status-old",
        "run/lock/x",
        "tmp/leftover",
    ] {
        assert!(!edited.has(gone), "{gone}");
    }
    for kept in [
        "etc/ssh/sshd_config",
        "usr/share/doc/a/copyright",
        "var/lib/apt/lists/partial",
        "var/lib/apt/lists/lock",
        "var/log/apt",
        "run/lock",
        "tmp",
        "etc/machine-id",
    ] {
        assert!(edited.has(kept), "{kept}");
    }
    assert_eq!(edited.text("etc/machine-id"), "");
    assert!(edited.fake.logged("`/nowhere/*` matches nothing"));
    let gentle = good(json!({"cleanup": {}}));
    assert!(
        gentle.has("var/log/dpkg.log")
            && gentle.has("etc/ssh/ssh_host_rsa_key")
            && !gentle.has("tmp/leftover")
    );
    assert_eq!(
        bad(json!({"cleanup": {"paths": ["../x"]}})).code,
        "rootfs-bad-path"
    );
}

#[test]
fn records_of_apt() {
    let states =
        json!([{"package": "zlib1g", "arch": "amd64"}, {"package": "adduser", "arch": "amd64"}]);
    let edited = good(json!({"extended_states": states}));
    assert_eq!(
        edited.text("var/lib/apt/extended_states"),
        "Package: adduser\nArchitecture: amd64\nAuto-Installed: 1\n\n\
         Package: zlib1g\nArchitecture: amd64\nAuto-Installed: 1\n\n"
    );
    assert_eq!(edited.stat("var/lib/apt/lists/partial"), "0700 42:0");
    assert_eq!(edited.stat("var/cache/apt/archives/partial"), "0700 42:0");
    assert_eq!(edited.stat("var/cache/apt/archives/lock"), "0640 0:0");
}

#[test]
fn times_are_clamped() {
    let mut fake = Fake::new();
    let mut tree = debian(&fake);
    let late = Meta {
        mtime_secs: EPOCH + 9,
        mtime_nsecs: 5,
        ..meta(0o644)
    };
    tree.write_file("etc/late", *b"", late).expect("write");
    let id = tree.finish(&fake.store).expect("finish");
    fake.roots.insert("base".into(), id);
    let edited = run_on(fake, json!({"rootfs": "base"})).expect("a good edit");
    let view = edited.tree.get("etc/late").expect("get").expect("there");
    assert_eq!((view.meta.mtime_secs, view.meta.mtime_nsecs), (EPOCH, 0));
    let view = edited.tree.get("etc/passwd").expect("get").expect("there");
    assert_eq!(view.meta.mtime_secs, EPOCH - 77);
}

/// The links below a directory: path and the last name of the target.
fn links(top: &Path, dir: &Path, found: &mut BTreeMap<String, String>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries {
        let path = entry.expect("entry").path();
        let name = path.strip_prefix(top).expect("below").display().to_string();
        if let Ok(target) = fs::read_link(&path) {
            let target = target
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            found.insert(name, target);
        } else if path.is_dir() {
            links(top, &path, found);
        }
    }
}

#[test]
fn systemctl_makes_the_same_links() {
    let units = [
        ("ssh.service", SSH),
        (
            "getty@.service",
            "[Install]\nWantedBy=getty.target\nDefaultInstance=tty1\n",
        ),
        (
            "two.service",
            "[Install]\nWantedBy=a.target b.target\nAlso=two.socket\n",
        ),
        (
            "two.socket",
            "[Install]\nRequiredBy=sockets.target\nAlias=zwei.socket\n",
        ),
        (
            "inst@.service",
            "[Install]\nWantedBy=x-%i.target\nAlias=alias-%p@%i.service\n",
        ),
        (
            "fold.timer",
            "[Install]\nWantedBy=timers.target \\\n  other.target\n",
        ),
        (
            "gone.service",
            "[Install]\nWantedBy=a.target\nWantedBy=\nRequiredBy=b.target\n",
        ),
    ];
    let enable = [
        "ssh",
        "getty@ttyS0",
        "getty@",
        "two",
        "inst@one",
        "fold.timer",
        "gone",
    ];
    let disable = ["getty@ttyS0", "fold.timer"];
    let dir = tempfile::tempdir().expect("temp dir");
    let system = dir.path().join("usr/lib/systemd/system");
    fs::create_dir_all(&system).expect("mkdir");
    fs::create_dir_all(dir.path().join("etc")).expect("mkdir");
    let mut fake = Fake::new();
    let mut tree = RootTree::empty_in(&fake.store, meta(0o755));
    for (name, text) in units {
        // Without a command a service is not valid for systemctl.
        let text = format!(
            "[Service]\nExecStart=/bin/true\n[Socket]\nListenStream=1\n[Timer]\nOnBootSec=1\n{text}"
        );
        fs::write(system.join(name), &text).expect("write");
        write(
            &mut tree,
            &format!("usr/lib/systemd/system/{name}"),
            0o644,
            &text,
        );
    }
    let id = tree.finish(&fake.store).expect("finish");
    fake.roots.insert("base".into(), id);
    for (verb, names) in [("enable", &enable[..]), ("disable", &disable[..])] {
        let root = format!("--root={}", dir.path().display());
        let args = [&[root.as_str(), verb], names].concat();
        let Some(output) = peer("systemctl", &args) else {
            return;
        };
        assert!(output.status.success(), "{}", said(&output));
    }
    let mut theirs = BTreeMap::new();
    links(
        dir.path(),
        &dir.path().join("etc/systemd/system"),
        &mut theirs,
    );
    let services = json!({"enable": enable, "disable": disable});
    let edited =
        run_on(fake, json!({"rootfs": "base", "services": services})).expect("a good edit");
    let mut ours = BTreeMap::new();
    edited
        .tree
        .walk(|path, _, kind| {
            if let KindView::Symlink { target } = kind {
                let target = String::from_utf8_lossy(target).into_owned();
                let last = target.rsplit('/').next().unwrap_or_default().to_owned();
                ours.insert(String::from_utf8_lossy(path).into_owned(), last);
            }
            Ok(())
        })
        .expect("walk");
    assert_eq!(ours, theirs);
}
