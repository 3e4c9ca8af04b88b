use std::fs;
use std::path::Path;
use std::sync::Arc;

use sos_formats::diagnostic::Diagnostic;
use sos_lang::{ExtCall, Plain};

use crate::plain::text;
use crate::test_host::{TestHost, TestPins};
use crate::{Change, Context, LockMode, Session};

struct Project {
    dir: tempfile::TempDir,
    pins: Arc<TestPins>,
}

const RECIPE: &str = "suite = \"bookworm\"\ninclude = [\"nginx\"]\n";

impl Project {
    fn new() -> Self {
        let project = Self {
            dir: tempfile::tempdir().unwrap(),
            pins: Arc::new(TestPins::at("1.0")),
        };
        project.write("web.rootfs.toml", RECIPE);
        project
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn lock(&self) -> Option<String> {
        fs::read_to_string(self.dir.path().join("sos.lock")).ok()
    }

    fn session(&self, mode: LockMode) -> Session {
        let path = self.dir.path().canonicalize().unwrap();
        Session::new(Context {
            project_dir: path.clone(),
            shown_from: path,
            mode,
            lock_command: "sos lock web.rootfs.toml".to_owned(),
            pins: Arc::clone(&self.pins) as _,
            systems: Vec::new(),
        })
    }

    fn plan(&self, session: &Session) -> Result<Plain, Box<Diagnostic>> {
        call(
            session,
            "__sosRootfsPlan",
            attrs("file", Plain::Path(self.dir.path().join("web.rootfs.toml"))),
        )
    }
}

fn attrs(name: &str, value: Plain) -> Plain {
    Plain::Attrs([(name.to_owned(), value)].into())
}

fn call(session: &Session, name: &str, argument: Plain) -> Result<Plain, Box<Diagnostic>> {
    let host = TestHost::new();
    let builtin = session
        .extension()
        .builtins
        .into_iter()
        .find(|b| b.name == name)
        .unwrap();
    (builtin.fun)(
        &ExtCall {
            label: None,
            places: Default::default(),
            host: &host,
            made: Default::default(),
        },
        argument,
    )
}

#[test]
fn first_build_writes_the_lock_and_later_ones_use_it() {
    let p = Project::new();
    let session = p.session(LockMode::Create);
    let first = p.plan(&session).unwrap();
    assert_eq!(p.lock(), None, "written at the end, not in between");
    let reports = session.finish().unwrap();
    assert_eq!(reports.len(), 1);
    assert!(reports[0].created);
    assert_eq!(
        reports[0].changes[0].summary(),
        "web.rootfs.toml: 4 packages pinned"
    );
    assert_eq!(p.pins.asked(), ["web"]);
    let text = p.lock().unwrap();

    *p.pins.version.lock().unwrap() = "2.0".to_owned();
    for mode in [LockMode::Create, LockMode::Locked, LockMode::Preview] {
        let session = p.session(mode);
        assert_eq!(p.plan(&session).unwrap(), first);
        assert!(session.finish().unwrap().is_empty());
    }
    assert!(p.pins.asked().is_empty());
    assert_eq!(p.lock().unwrap(), text);
    let leftovers: Vec<_> = fs::read_dir(p.dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(leftovers.len(), 2, "{leftovers:?}");
}

#[test]
fn locked_refuses_what_is_missing_or_stale() {
    let p = Project::new();
    let missing = p.plan(&p.session(LockMode::Locked)).unwrap_err();
    assert_eq!(missing.code, "lock-missing");
    let advice = ["run `sos lock web.rootfs.toml` and commit the file"];
    assert_eq!(missing.helps, advice);

    let session = p.session(LockMode::Create);
    p.plan(&session).unwrap();
    session.finish().unwrap();
    p.write(
        "web.rootfs.toml",
        "suite = \"bookworm\"\ninclude = [\"nginx\", \"curl\"]\n",
    );
    let stale = p.plan(&p.session(LockMode::Locked)).unwrap_err();
    assert_eq!(stale.code, "lock-stale");
    assert_eq!(stale.helps, advice);
    p.pins.asked();

    // What resolves to the same packages is not stale.
    p.write(
        "web.rootfs.toml",
        &format!("{RECIPE}hostname = \"other\"\n"),
    );
    p.plan(&p.session(LockMode::Locked)).unwrap();
    assert!(p.pins.asked().is_empty());
}

#[test]
fn a_stale_entry_is_locked_again_and_the_others_stay() {
    let p = Project::new();
    let session = p.session(LockMode::Create);
    p.plan(&session).unwrap();
    call(
        &session,
        "__sosPinUrl",
        attrs("url", text("https://a.example/x")),
    )
    .unwrap();
    session.finish().unwrap();
    p.pins.asked();
    *p.pins.version.lock().unwrap() = "2.0".to_owned();
    p.write(
        "web.rootfs.toml",
        "suite = \"bookworm\"\ninclude = [\"curl\"]\n",
    );
    let session = p.session(LockMode::Create);
    p.plan(&session).unwrap();
    call(
        &session,
        "__sosPinUrl",
        attrs("url", text("https://a.example/x")),
    )
    .unwrap();
    let reports = session.finish().unwrap();
    assert_eq!(p.pins.asked(), ["web"]);
    assert!(!reports[0].created);
    let [change @ Change::Rootfs { .. }] = reports[0].changes.as_slice() else {
        panic!("{reports:?}")
    };
    assert_eq!(
        change.summary(),
        "web.rootfs.toml: packages: 1 added, 1 removed, 3 changed"
    );
    assert_eq!(change.details()[0], "+ curl 2.0");
    assert!(change.details().contains(&"~ dpkg 1.0 -> 2.0".to_owned()));
}

#[test]
fn update_moves_what_is_named_once() {
    let p = Project::new();
    let run = |mode| {
        let session = p.session(mode);
        p.plan(&session).unwrap();
        p.plan(&session).unwrap();
        call(
            &session,
            "__sosPinUrl",
            attrs("url", text("https://a.example/x")),
        )
        .unwrap();
        (session.finish().unwrap(), p.pins.asked())
    };
    run(LockMode::Create);
    let before = p.lock().unwrap();
    // Nothing moved outside: the same bytes, and nothing to say.
    let (reports, asked) = run(LockMode::Update(vec![]));
    assert!(reports.is_empty());
    assert_eq!(asked, ["web", "https://a.example/x"]);
    assert_eq!(p.lock().unwrap(), before);

    *p.pins.version.lock().unwrap() = "2.0".to_owned();
    let (reports, asked) = run(LockMode::Update(vec!["https://a.example/x".to_owned()]));
    assert_eq!(asked, ["https://a.example/x"]);
    assert_eq!(
        reports[0].changes[0].summary(),
        "https://a.example/x: content changed"
    );
}

#[test]
fn preview_asks_nobody_and_writes_nothing() {
    let p = Project::new();
    let session = p.session(LockMode::Preview);
    p.plan(&session).unwrap();
    call(
        &session,
        "__sosPinUrl",
        attrs("url", text("https://a.example/x")),
    )
    .unwrap();
    assert!(session.finish().unwrap().is_empty());
    assert!(p.pins.asked().is_empty());
    assert_eq!(p.lock(), None);
    // The recipe is still checked.
    p.write("web.rootfs.toml", "suit = \"bookworm\"\nhostname = 1\n");
    let session = p.session(LockMode::Preview);
    assert_eq!(p.plan(&session).unwrap_err().code, "recipe-unknown-field");
    let further: Vec<_> = session
        .take_further_problems()
        .iter()
        .map(|d| d.code)
        .collect();
    assert_eq!(further, ["recipe-missing-field", "recipe-wrong-type"]);
}

#[test]
fn damaged_locks_are_refused_with_a_place() {
    let p = Project::new();
    p.write("sos.lock", "version = 1\n[[rootfs]]\nrecipe = 1\n");
    let e = p.plan(&p.session(LockMode::Create)).unwrap_err();
    assert_eq!(e.code, "lock-damaged");
    assert_eq!(e.labels[0].file.line_column(e.labels[0].span.start).0, 3);
    p.write("sos.lock", "version = 7\n");
    let e = p.plan(&p.session(LockMode::Create)).unwrap_err();
    assert!(e.message.contains("version 7"), "{}", e.message);
}

#[test]
fn problems_of_the_resolver_point_into_the_recipe() {
    let p = Project::new();
    p.write(
        "web.rootfs.toml",
        "suite = \"bookworm\"\ninclude = [\n  \"no-such-a\",\n  \"no-such-b\",\n]\n",
    );
    let session = p.session(LockMode::Create);
    let first = p.plan(&session).unwrap_err();
    let further = session.take_further_problems();
    assert_eq!(
        first.to_string(),
        "web.rootfs.toml:3:3: error[deb-unknown-package]: no package `no-such-a` in bookworm"
    );
    assert_eq!(further.len(), 1);
    assert!(session.finish().unwrap().is_empty());
    assert_eq!(p.lock(), None, "a failed lock leaves nothing behind");
}

#[test]
fn files_that_cannot_be_read() {
    let p = Project::new();
    p.write(
        "web.rootfs.toml",
        "suite = \"bookworm\"\nkeyring = \"keys/a.gpg\"\ndebs = [\"b.deb\"]\n",
    );
    let session = p.session(LockMode::Create);
    let first = p.plan(&session).unwrap_err();
    assert_eq!(
        (first.code, session.take_further_problems().len()),
        ("recipe-file-missing", 1)
    );
    p.write(
        "web.rootfs.toml",
        "suite = \"bookworm\"\n[[file]]\npath = \"/etc/a\"\nsource = \"a.conf\"\n",
    );
    let first = p.plan(&session).unwrap_err();
    assert_eq!(
        first.to_string(),
        "web.rootfs.toml:4:10: error[recipe-file-missing]: `a.conf` cannot be placed at `/etc/a`: there is no such file"
    );
    let gone = call(
        &session,
        "__sosRootfsPlan",
        attrs("file", Plain::Path(Path::new("/no/such.toml").into())),
    )
    .unwrap_err();
    assert_eq!(gone.code, "recipe-file-missing");
}

#[test]
fn what_was_read_is_known() {
    let p = Project::new();
    let session = p.session(LockMode::Create);
    p.plan(&session).unwrap();
    let names: Vec<_> = session
        .files_read()
        .iter()
        .map(|f| f.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(names, ["sos.lock", "web.rootfs.toml"]);
}

#[test]
fn images_of_registries_are_pinned() {
    let p = Project::new();
    let name = "r.example/os/web:1";
    let pin = |session: &Session| call(session, "__sosPinImage", attrs("ref", text(name)));
    let missing = pin(&p.session(LockMode::Locked)).unwrap_err();
    assert_eq!(missing.code, "lock-missing");
    assert!(missing.message.contains(name), "{}", missing.message);
    // Nothing will be built, so nothing is asked.
    pin(&p.session(LockMode::Preview)).unwrap();
    assert!(p.pins.asked().is_empty());
    let session = p.session(LockMode::Create);
    let first = pin(&session).unwrap();
    assert_eq!(pin(&session).unwrap(), first);
    let said = session.finish().unwrap()[0].changes[0].summary();
    assert!(
        said.starts_with("r.example/os/web:1: pinned to sha256:"),
        "{said}"
    );
    assert_eq!(p.pins.asked(), [name]);
    // The tag moves on; the lock stays until it is told.
    *p.pins.version.lock().unwrap() = "2.0".to_owned();
    for mode in [LockMode::Create, LockMode::Locked] {
        assert_eq!(pin(&p.session(mode)).unwrap(), first);
    }
    assert_eq!(
        pin(&p.session(LockMode::Update(vec!["other".to_owned()]))).unwrap(),
        first
    );
    assert!(p.pins.asked().is_empty());
    let session = p.session(LockMode::Update(vec![name.to_owned()]));
    assert_ne!(pin(&session).unwrap(), first);
    let said = session.finish().unwrap()[0].changes[0].summary();
    assert!(said.contains(" -> sha256:"), "{said}");
}
