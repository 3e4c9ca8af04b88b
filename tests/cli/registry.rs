//! Images go to a registry that others wrote, and come from it.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use super::export_image;
use crate::support::server::Server;
use crate::support::{
    LIMIT, World, finish, is_root, left_to_root, peer, process, run as run_command, start,
};

/// `user:secret`, as `htpasswd -B` writes it.
const HTPASSWD: &str = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
/// base64 of `user:secret`.
const AUTH: &str = "dXNlcjpzZWNyZXQ=";

/// docker's own registry on a port of its own.
struct Registry {
    child: Child,
    host: String,
}

impl Registry {
    fn start(w: &World, with_password: bool) -> Option<Self> {
        let program = peer("docker-registry")?;
        let data = w.root().join("registry");
        std::fs::create_dir_all(&data).expect("a directory");
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:0\"}}\n",
            data.join("data").display()
        );
        if with_password {
            let file = data.join("htpasswd");
            std::fs::write(&file, HTPASSWD).expect("write");
            config.push_str(&format!(
                "auth: {{htpasswd: {{realm: sos, path: {}}}}}\n",
                file.display()
            ));
        }
        let file = data.join("config.yml");
        std::fs::write(&file, config).expect("write");
        let mut child = Command::new(program)
            .arg("serve")
            .arg(file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a registry");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let host = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let rest = line.split("listening on ").nth(1)?;
            Some(rest.trim_end_matches('"').split('"').next()?.to_owned())
        });
        // What it says later goes nowhere, but must go.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Some(Self {
            child,
            host: host.expect("it listens"),
        })
    }

    fn name(&self, name: &str) -> String {
        format!("docker://{}/{name}", self.host)
    }

    /// The same under an address that is this machine and does not say so.
    fn elsewhere(&self) -> String {
        self.host.replace("127.0.0.1", "0.0.0.0")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn skopeo(w: &World, args: &[&str]) -> Option<String> {
    let mut command = Command::new(peer("skopeo")?);
    command
        .arg("--insecure-policy")
        .args(args)
        .current_dir(w.project());
    Some(run_command(&mut command).ok().stdout)
}

fn add(w: &World, text: &str) {
    let old = std::fs::read_to_string(w.project().join("sos.nix")).expect("the recipe");
    let end = old.rfind('}').expect("a set");
    w.write("sos.nix", &format!("{}{text}}}\n", &old[..end]));
}

#[test]
fn images_go_to_a_registry_and_come_from_it() {
    let w = export_image::world();
    let Some(registry) = Registry::start(&w, false) else {
        return;
    };
    let to = registry.name("os/web:1.0");
    let told = w
        .sos(["export", ".#image", &to])
        .ok()
        .says(&["sent 3 blobs, manifests among them"]);
    let digest = told
        .stdout
        .split_whitespace()
        .next()
        .expect("a digest")
        .to_owned();
    w.sos(["export", ".#image", &to])
        .ok()
        .says(&["sent 0 blobs", "3 were there"]);
    // Into another repository, from where it is.
    let again = w.sos([
        "export",
        ".#image",
        &registry.name("os/copy"),
        "--mount-from",
        "os/web",
    ]);
    again.ok().says(&["sent 1 blob", "2 taken over"]);
    if let Some(found) = skopeo(&w, &["inspect", "--tls-verify=false", &to]) {
        assert!(found.contains(&digest), "{found}");
        skopeo(&w, &["copy", "--src-tls-verify=false", &to, "oci:copied:x"]);
        assert!(w.project().join("copied/index.json").exists());
    }
    let reference = to.trim_start_matches("docker://").to_owned();
    add(
        &w,
        &format!(
            r#"
  pulled = sos.oci.pull {{ ref = "{reference}"; digest = "{digest}"; }};
  files = sos.oci.rootfs {{ image = pulled; }};
  above = sos.oci {{ name = "above"; from = pulled; layers = [ {{ files."/etc/new" = ./rootfs.nix; }} ]; }};
  newest = sos.oci.pull {{ ref = "{reference}"; }};
  wrong = sos.oci.pull {{ ref = "{reference}"; digest = "sha256:{}"; }};
"#,
            "0".repeat(64)
        ),
    );
    // What came back is what was sent.
    let files = w
        .sos(["build", "--no-link", ".#files", ".#base"])
        .ok()
        .stdout;
    let mut paths = files.lines();
    let (a, b) = (paths.next().expect("a path"), paths.next().expect("a path"));
    w.sos(["diff", a, b]);
    let cat = w
        .sos(["store", "cat", &format!("{a}/etc/motd")])
        .ok()
        .stdout;
    assert_eq!(cat, "hello\n");
    // Without a digest the lock has it, and a tag that moves on changes nothing.
    w.sos(["build", "--no-link", "--locked", ".#newest"])
        .fails(3)
        .says(&["error[lock-missing]", &reference, "sos lock"]);
    w.sos(["lock", ".#newest"])
        .ok()
        .says(&[&format!("{reference}: pinned to {digest}")]);
    w.sos(["export", ".#above", &to]).ok();
    let pinned = w.sos(["build", "--no-link", "--locked", ".#newest", ".#pulled"]);
    let pinned = pinned.ok().stdout;
    let (a, b) = pinned.trim_end().split_once('\n').expect("two paths");
    let index = |path: &str| std::fs::read(w.physical(path).join("index.json")).expect("an image");
    assert_eq!(index(a), index(b));
    w.sos(["lock", "--update", &reference, ".#newest"])
        .ok()
        .says(&[&format!("{reference}: {digest} -> sha256:")]);
    w.sos(["export", ".#image", &to]).ok();
    // Its layers and its configuration: all of it went to another name before.
    let above = w
        .sos(["export", ".#above", &registry.name("os/above:1")])
        .ok();
    above.says(&["3 taken over"]);
    w.sos(["build", "--no-link", ".#wrong"])
        .fails(5)
        .says(&["error[registry-failed]", "did not give the manifest"]);
    if let (Some(podman), true) = (peer("podman"), is_root()) {
        let place = |name: &str| w.root().join(name).display().to_string();
        let mut command = Command::new(podman);
        command.args([
            "--storage-driver",
            "vfs",
            "--root",
            &place("root"),
            "--runroot",
            &place("run"),
        ]);
        command.args(["--tmpdir", &place("tmp"), "pull", "--tls-verify=false"]);
        let pulled = run_command(
            command
                .arg(registry.name("os/above:1"))
                .env("TMPDIR", w.root()),
        )
        .ok();
        assert_eq!(pulled.stdout.trim().len(), 64, "{}", pulled.stdout);
    } else {
        left_to_root("podman needs a set-up of its own");
    }
}

#[test]
fn a_registry_with_a_password_wants_it() {
    let mut w = export_image::world();
    let Some(registry) = Registry::start(&w, true) else {
        return;
    };
    let to = registry.name("os/web:1.0");
    w.sos(["export", ".#image", &to]).fails(5).says(&[
        "error[registry-denied]",
        "podman login",
        "without credentials",
    ]);
    let host = &registry.host;
    let file = w.write(
        "auth.json",
        &format!(r#"{{"auths":{{"{host}":{{"auth":"{AUTH}"}}}}}}"#),
    );
    w.set("REGISTRY_AUTH_FILE", &file.display().to_string());
    let told = w.sos(["export", ".#image", &to]).ok();
    let digest = told
        .stdout
        .split_whitespace()
        .next()
        .expect("a digest")
        .to_owned();
    let reference = to.trim_start_matches("docker://").to_owned();
    add(
        &w,
        &format!(
            "\n  pulled = sos.oci.pull {{ ref = \"{reference}\"; digest = \"{digest}\"; }};\n"
        ),
    );
    w.sos(["build", "--no-link", ".#pulled"]).ok();
    let wrong = w.write(
        "wrong.json",
        &format!(r#"{{"auths":{{"{host}":{{"auth":"dXNlcjp3cm9uZw=="}}}}}}"#),
    );
    w.set("REGISTRY_AUTH_FILE", &wrong.display().to_string());
    w.sos(["export", ".#image", &registry.name("os/x")])
        .fails(5)
        .says(&[
            "error[registry-denied]",
            "with the credentials that are there",
            &format!("the credentials are from `{host}` in `{}`", wrong.display()),
        ]);
}

#[test]
fn plain_http_is_spoken_elsewhere_when_somebody_says_so() {
    let mut w = export_image::world();
    let Some(registry) = Registry::start(&w, false) else {
        return;
    };
    let host = registry.elsewhere();
    let to = format!("docker://{host}/os/web:1.0");
    w.sos(["export", ".#image", &to]).fails(5).says(&[
        "error[registry-failed]",
        "it speaks http, not https",
        &format!("plain-http = [\"{host}\"]` below `[registry]`"),
        &format!("SOS_PLAIN_HTTP_REGISTRIES={host}"),
    ]);
    // Not for the project to say: others could listen.
    let file = w.write(
        "sos.toml",
        &format!("[registry]\nplain-http = [\"{host}\"]\n"),
    );
    w.sos(["export", ".#image", &to]).fails(2).says(&[
        "error[config-invalid]",
        "sets `registry.plain-http`, which a project may not decide",
    ]);
    std::fs::remove_file(file).expect("removed");
    let setting = format!("registry.plain-http={host}");
    let told = w.sos(["--config", &setting, "export", ".#image", &to]).ok();
    let digest = told.stdout.split_whitespace().next().expect("a digest");
    // Another port is another server.
    w.set("SOS_PLAIN_HTTP_REGISTRIES", "0.0.0.0:1, registry.example");
    w.sos(["export", ".#image", &to])
        .fails(5)
        .says(&["it speaks http, not https"]);
    w.set(
        "SOS_PLAIN_HTTP_REGISTRIES",
        &format!("registry.example,{host}"),
    );
    let all = w.sos(["doctor", "config"]).ok().stdout;
    let row = all
        .lines()
        .find(|row| row.starts_with("registry.plain-http"));
    let row = row.expect("it is listed");
    assert!(
        row.contains(&format!("{host} registry.example:80")),
        "{row}"
    );
    assert!(row.ends_with("SOS_PLAIN_HTTP_REGISTRIES"), "{row}");
    add(
        &w,
        &format!("\n  pulled = sos.oci.pull {{ ref = \"{host}/os/web:1.0\"; }};\n"),
    );
    w.sos(["lock", ".#pulled"]).ok().says(&[digest]);
    w.sos(["build", "--no-link", "--locked", ".#pulled"]).ok();
    w.set("SOS_PLAIN_HTTP_REGISTRIES", "http://registry.example");
    w.sos(["build", "--no-link", ".#pulled"]).fails(2).says(&[
        "error[config-invalid]",
        "`SOS_PLAIN_HTTP_REGISTRIES` has `http://registry.example`, which is not `HOST` or `HOST:PORT`",
    ]);
}

#[test]
fn a_registry_whose_disk_is_damaged_is_found_out() {
    let w = export_image::world();
    let Some(registry) = Registry::start(&w, false) else {
        return;
    };
    let to = registry.name("os/web:1.0");
    let told = w.sos(["export", ".#image", &to]).ok().stdout;
    let digest = told.split_whitespace().next().expect("a digest");
    let reference = to.trim_start_matches("docker://");
    add(
        &w,
        &format!(
            "\n  pulled = sos.oci.pull {{ ref = \"{reference}\"; digest = \"{digest}\"; }};\n"
        ),
    );
    let top = digest.trim_start_matches("sha256:");
    // Each blob, as docker's registry keeps it.
    let blobs: Vec<_> = walkdir::WalkDir::new(w.root().join("registry/data"))
        .into_iter()
        .map(|entry| entry.expect("an entry").into_path())
        .filter(|path| path.ends_with("data") && path.is_file())
        .filter(|path| !path.to_string_lossy().contains(top))
        .collect();
    assert_eq!(blobs.len(), 2, "{blobs:?}");
    let wrong = |what: &[&str]| {
        let mut parts = vec!["error[oci-bad-image]", "name another registry in `ref`"];
        parts.extend(what);
        let told = w.sos(["build", "--no-link", ".#pulled"]).fails(5);
        let told = told.says(&parts);
        assert!(!told.stderr.contains("`urls`"), "{}", told.stderr);
        assert!(!told.stderr.contains("if you trust"), "{}", told.stderr);
    };
    for blob in blobs {
        let bytes = std::fs::read(&blob).expect("a blob");
        let mut other = bytes.clone();
        other[5] ^= 1;
        std::fs::write(&blob, &other).expect("write");
        wrong(&["sent other bytes than their digest says", digest_of(&blob)]);
        other.push(0);
        std::fs::write(&blob, &other).expect("write");
        let (found, said) = (other.len(), bytes.len());
        wrong(&[&format!(
            "sent {found} bytes, where its manifest says {said}"
        )]);
        std::fs::write(&blob, &bytes).expect("write");
    }
    w.sos(["build", "--no-link", ".#pulled"]).ok();
}

/// As with URLs, whose content is pinned when it has come.
#[test]
fn an_image_that_cannot_be_pulled_is_not_pinned() {
    let w = export_image::world();
    let Some(registry) = Registry::start(&w, false) else {
        return;
    };
    let names = ["os/good:1", "os/bad:1"].map(|name| registry.name(name));
    for name in &names {
        w.sos(["export", ".#image", name]).ok();
    }
    // Both images have the one layer, which loses its bytes for a while.
    let layer = walkdir::WalkDir::new(w.root().join("registry/data"))
        .into_iter()
        .map(|entry| entry.expect("an entry").into_path())
        .filter(|path| path.ends_with("data") && path.is_file())
        // The others are JSON.
        .find(|path| !std::fs::read(path).expect("a blob").starts_with(b"{"));
    let layer = layer.expect("a layer");
    let [good, bad] = names.map(|name| name.trim_start_matches("docker://").to_owned());
    add(
        &w,
        &format!(
            r#"
  good = sos.oci.pull {{ ref = "{good}"; }};
  bad = sos.oci.pull {{ ref = "{bad}"; }};
  # Another failure, behind a pull that went well.
  later = sos.oci.rootfs {{ image = bad; tag = "nonsense"; }};
  program = derivation {{ name = "program"; system = builtins.currentSystem; builder = "/bin/sh"; image = "${{bad}}"; }};
"#
        ),
    );
    let lock = w.project().join("sos.lock");
    let pinned = || std::fs::read_to_string(&lock).unwrap_or_default();
    w.sos(["lock", ".#good"]).ok();
    let before = pinned();
    let bytes = std::fs::read(&layer).expect("a blob");
    let mut other = bytes.clone();
    other[5] ^= 1;
    std::fs::write(&layer, &other).expect("write");
    let away = |args: &[&str]| {
        w.sos(args).fails(5).says(&[
            "error[oci-bad-image]",
            &format!("{bad}: pinned to sha256:"),
            &format!("`{bad}` is not pinned any more: it could not be pulled"),
        ]);
    };
    away(&["build", "--no-link", ".#bad"]);
    away(&["build", "--no-link", ".#later"]);
    assert_eq!(pinned(), before);
    // What was pinned before this run is not its to take back.
    w.sos(["build", "--no-link", ".#good"]).fails(5);
    assert_eq!(pinned(), before);
    // A lock that was made for it goes with it.
    std::fs::remove_file(&lock).expect("removed");
    for args in [
        &["build", "--no-link", ".#bad"][..],
        &["export", ".#bad", "dir:image"],
        &["verify", ".#later"],
        &["shell", ".#program", "-c", "true"],
    ] {
        away(args);
        assert!(!lock.exists(), "{args:?}");
    }
    std::fs::write(&layer, &bytes).expect("write");
    w.sos(["build", "--no-link", ".#later"])
        .fails(1)
        .says(&["none of its images has a tag"]);
    assert!(pinned().contains(&bad), "{}", pinned());
    w.sos(["build", "--no-link", "--locked", ".#bad"]).ok();
}

/// Nobody has seen what the name stands for.
#[test]
fn an_image_whose_pull_is_stopped_is_not_pinned() {
    let w = export_image::world();
    w.sos(["export", ".#image", "oci:layout"]).ok();
    // A registry, as far as pulling goes, whose blobs do not come.
    let served = w.root().join("served");
    let blobs = w.project().join("layout/blobs/sha256");
    let index = std::fs::read_to_string(w.project().join("layout/index.json")).expect("an index");
    let index: serde_json::Value = serde_json::from_str(&index).expect("JSON");
    let digest = index["manifests"][0]["digest"].as_str().expect("a digest");
    let manifest = blobs.join(digest.trim_start_matches("sha256:"));
    for dir in ["manifests", "blobs"] {
        std::fs::create_dir_all(served.join("v2/os/web").join(dir)).expect("a directory");
    }
    for name in ["1", digest] {
        let to = served.join("v2/os/web/manifests").join(name);
        std::fs::copy(&manifest, to).expect("copied");
    }
    for blob in std::fs::read_dir(&blobs).expect("a directory") {
        let blob = blob.expect("a file");
        let name = format!("sha256:{}", blob.file_name().to_string_lossy());
        std::fs::copy(blob.path(), served.join("v2/os/web/blobs").join(name)).expect("copied");
    }
    let server = Server::start(&served);
    let reference = format!("{}/os/web:1", server.url().trim_start_matches("http://"));
    add(
        &w,
        &format!("\n  web = sos.oci.pull {{ ref = \"{reference}\"; }};\n"),
    );
    server.hold_at("/blobs/");
    let build = start(&mut w.command_of(&["build", "--no-link", ".#web"]));
    while !server.asked().iter().any(|path| path.contains("/blobs/")) {
        std::thread::yield_now();
    }
    let lock = w.project().join("sos.lock");
    assert!(std::fs::read_to_string(&lock).is_ok_and(|text| text.contains(&reference)));
    rustix::process::kill_process(process::pid(&build), rustix::process::Signal::TERM)
        .expect("it runs");
    finish(build, LIMIT).fails(143).says(&[&format!(
        "`{reference}` is not pinned any more: it has not come"
    )]);
    assert!(!lock.exists());
    server.open();
    // Who pins learns what it is.
    let other =
        serde_json::from_slice::<serde_json::Value>(&std::fs::read(&manifest).expect("a manifest"));
    let mut other = other.expect("JSON");
    other["config"]["mediaType"] = "application/vnd.example.thing".into();
    std::fs::write(served.join("v2/os/web/manifests/2"), other.to_string()).expect("written");
    w.write(
        "other.nix",
        &format!(
            "{{ sos, ... }}: {{ other = sos.oci.pull {{ ref = \"{}\"; }}; }}",
            reference.replace(":1", ":2")
        ),
    );
    w.sos(["lock", "./other.nix#other"]).ok().says(&[
        "warning: `",
        "/os/web:2` is perhaps no image: its configuration sha256:",
        "of the kind `application/vnd.example.thing`",
    ]);
    std::fs::remove_file(&lock).expect("removed");
    w.sos(["build", "--no-link", ".#web"]).ok();
    w.sos(["build", "--no-link", "--locked", ".#web"]).ok();
}

/// The name of the directory that a blob of docker's registry is in.
fn digest_of(blob: &std::path::Path) -> &str {
    let dir = blob.parent().and_then(|dir| dir.file_name());
    dir.and_then(|name| name.to_str()).expect("digits")
}

#[test]
fn names_that_are_none_are_refused_before_anything_is_built() {
    let w = export_image::world();
    let long = |name: usize, tag: usize| {
        let (name, tag) = ("n".repeat(name), "t".repeat(tag));
        format!("docker://registry.example/{name}:{tag}")
    };
    for (name, what) in [
        ("docker://web", "no host"),
        ("docker://os/web", "must begin with the host"),
        ("docker://https://registry.example/web", "`https://`"),
        ("docker://registry.example:0/web", "from 1 to 65535"),
        ("docker://registry.example/Web", "`Web` in the repository"),
        ("docker://registry.example/web:a b", "the tag `a b` has ` `"),
        (&long(239, 1), "have 256 bytes, and may have 255"),
        (&long(238, 129), "has 129 characters, and may have 128"),
    ] {
        w.sos(["export", ".#image", name]).fails(2).says(&[
            "error[registry-reference]",
            what,
            "registry.example:5000",
        ]);
    }
}
