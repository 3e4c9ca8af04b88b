//! The library as the language sees it: which derivations come out, and what changes when one file does.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use sos_formats::derivation::{Derivation, Method, Output};
use sos_formats::diagnostic::{Diagnostic, Label};
use sos_formats::hash::HashAlgo;
use sos_formats::store_path::StorePath;
use sos_lang::{Evaluator, Options};

use crate::test_host::{TestHost, TestPins};
use crate::{Context, LockMode, Session, entry_expression};

/// A project in a directory of its own.
struct Project {
    dir: tempfile::TempDir,
}

/// What an expression evaluates to: the wanted derivations and all that they need.
struct Graph {
    wanted: Vec<StorePath>,
    all: BTreeMap<StorePath, Derivation>,
    /// Where the user wrote the wanted ones.
    places: Vec<Label>,
}

impl Project {
    fn new(files: &[(&str, &str)]) -> Self {
        let project = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for (name, text) in files {
            project.write(name, text);
        }
        project
    }

    /// A copy of an example of this repository.
    fn example(name: &str) -> Self {
        fn copy(from: &Path, to: &Path) {
            for entry in fs::read_dir(from).unwrap() {
                let (from, name) = entry.map(|e| (e.path(), e.file_name())).unwrap();
                let to = to.join(name);
                if from.is_dir() {
                    fs::create_dir(&to).unwrap();
                    copy(&from, &to);
                // A link to a result may lead nowhere by now.
                } else if from.is_file() && !from.ends_with("sos.lock") {
                    fs::copy(&from, &to).unwrap();
                }
            }
        }
        let project = Self::new(&[]);
        copy(
            &Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../examples")
                .join(name),
            project.dir.path(),
        );
        project
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn replace(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.dir.path().join(name)).unwrap();
        assert!(text.contains(from), "{name} has `{from}`");
        self.write(name, &text.replace(from, to));
    }

    /// Evaluates an expression in which `sos` is the library and `project` is `sos.nix`, called.
    fn evaluate(&self, expression: &str) -> Result<Graph, Box<Diagnostic>> {
        self.evaluate_all(expression).0
    }

    /// The same, with the problems behind the first one.
    fn evaluate_all(&self, expression: &str) -> (Result<Graph, Box<Diagnostic>>, Vec<Diagnostic>) {
        let dir = self.dir.path().canonicalize().unwrap();
        let pins = Arc::new(TestPins::at("1.0"));
        let session = Session::new(Context {
            project_dir: dir.clone(),
            shown_from: dir.clone(),
            mode: LockMode::Create,
            lock_command: "sos lock".to_owned(),
            pins,
            systems: Vec::new(),
        });
        let text = format!(
            "let sos = import <sos>; project = import ./sos.nix {{ inherit sos; }}; in {expression}"
        );
        let result = sos_lang::with_big_stack(|| {
            let host = Rc::new(TestHost::new());
            let options = Options {
                extensions: vec![session.extension()],
                ..Options::default()
            };
            let evaluator = Evaluator::new(Rc::clone(&host) as _, options);
            let value = evaluator.eval_str(&text, "test", &dir)?;
            let wanted = evaluator
                .derivations(value)?
                .into_iter()
                .map(|d| d.drv_path)
                .collect::<Vec<_>>();
            let all = host.derivations.borrow().clone();
            let place = |drv| evaluator.drv_position(drv);
            let places = wanted.iter().filter_map(place).collect();
            Ok(Graph {
                wanted,
                all,
                places,
            })
        });
        let further = session.take_further_problems();
        session.finish().unwrap();
        (result, further)
    }

    #[track_caller]
    fn graph(&self, expression: &str) -> Graph {
        match self.evaluate(expression) {
            Ok(graph) => graph,
            Err(e) => panic!("{e} {:?} {:?}", e.notes, e.helps),
        }
    }

    #[track_caller]
    fn one(&self, expression: &str) -> Derivation {
        let graph = self.graph(expression);
        assert_eq!(graph.wanted.len(), 1);
        graph.all[&graph.wanted[0]].clone()
    }

    #[track_caller]
    fn fails(&self, expression: &str) -> String {
        match self.evaluate(expression) {
            Ok(_) => panic!("`{expression}` evaluates"),
            Err(e) => e.to_string(),
        }
    }
}

impl Graph {
    /// The derivations that the wanted ones need, themselves included, by name.
    fn closure(&self) -> BTreeMap<String, StorePath> {
        let mut out = BTreeMap::new();
        let mut open = self.wanted.clone();
        while let Some(path) = open.pop() {
            if out
                .insert(path.name().to_owned(), path.clone())
                .is_none_or(|old| old != path)
            {
                open.extend(self.all[&path].input_drvs.keys().cloned());
            }
        }
        out
    }
}

fn json(drv: &Derivation) -> serde_json::Value {
    serde_json::from_slice(&drv.env[b"__json".as_slice()]).unwrap()
}

fn changed(before: &Graph, after: &Graph) -> Vec<String> {
    let (before, after) = (before.closure(), after.closure());
    assert_eq!(
        before.keys().collect::<Vec<_>>(),
        after.keys().collect::<Vec<_>>()
    );
    after
        .into_iter()
        .filter(|(name, path)| before[name] != *path)
        .map(|(name, _)| name)
        .collect()
}

const IMAGE: &str = "project.image";

/// The time in the logs of one stage would reach the name of the next.
#[test]
fn stages_of_packages_leave_no_file_with_the_time() {
    let graph = Project::example("web").graph(IMAGE);
    let scripts: Vec<String> = graph
        .closure()
        .values()
        .map(|path| &graph.all[path])
        .filter(|drv| drv.builder == b"builtin:step")
        .filter_map(|drv| json(drv)["script"].as_str().map(str::to_owned))
        .filter(|script| script.contains("dpkg "))
        .collect();
    assert!(scripts.len() >= 2, "{scripts:?}");
    for script in scripts {
        let last = script.trim_end().lines().last().unwrap();
        assert!(last.starts_with("rm -f "), "{script}");
        for file in [
            "/var/log/dpkg.log",
            "/var/log/alternatives.log",
            "/var/log/apt/term.log",
            "/var/cache/ldconfig/aux-cache",
        ] {
            assert!(last.split(' ').any(|word| word == file), "{script}");
        }
    }
}

#[test]
fn the_graph_of_the_example() {
    let graph = Project::example("web").graph(IMAGE);
    let lines: Vec<_> = graph
        .closure()
        .iter()
        .map(|(name, path)| {
            let drv = &graph.all[path];
            let output = match &drv.outputs["out"] {
                Output::Fixed { method, .. } => format!("fixed {method:?}"),
                Output::Floating { method, algo } => format!("floating {method:?} {algo}"),
                other => format!("{other:?}"),
            };
            let mut inputs: Vec<_> = drv
                .input_drvs
                .keys()
                .map(|p| p.name().trim_end_matches(".drv"))
                .collect();
            inputs.sort_unstable();
            format!(
                "{name}: {} {} {output} <- {}",
                drv.system,
                String::from_utf8_lossy(&drv.builder),
                inputs.join(" ")
            )
            .trim_end()
            .to_owned()
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    bookworm-essential-unpacked.drv: builtin builtin:debian-unpack floating Rootfs blake3 <- dpkg_1.0_1_amd64.deb libc6_1.0_1_amd64.deb
    bookworm-essential.drv: x86_64-linux builtin:step floating Rootfs blake3 <- bookworm-essential-unpacked dpkg_1.0_1_amd64.deb libc6_1.0_1_amd64.deb
    dpkg_1.0_1_amd64.deb.drv: builtin builtin:fetch fixed Flat <-
    gcc_1.0_1_amd64.deb.drv: builtin builtin:fetch fixed Flat <-
    hello.drv: x86_64-linux builtin:step floating Recursive sha256 <- toolchain-rootfs
    libc6-dev_1.0_1_amd64.deb.drv: builtin builtin:fetch fixed Flat <-
    libc6_1.0_1_amd64.deb.drv: builtin builtin:fetch fixed Flat <-
    libssl3_1.0_1_amd64.deb.drv: builtin builtin:fetch fixed Flat <-
    make_1.0_1_amd64.deb.drv: builtin builtin:fetch fixed Flat <-
    nginx-light_1.0_1_amd64.deb.drv: builtin builtin:fetch fixed Flat <-
    toolchain-packages-1.drv: x86_64-linux builtin:step floating Rootfs blake3 <- bookworm-essential libssl3_1.0_1_amd64.deb
    toolchain-packages-2.drv: x86_64-linux builtin:step floating Rootfs blake3 <- gcc_1.0_1_amd64.deb libc6-dev_1.0_1_amd64.deb make_1.0_1_amd64.deb toolchain-packages-1
    toolchain-rootfs.drv: builtin builtin:rootfs-edit floating Rootfs blake3 <- toolchain-packages-2
    web-image-layer-0.drv: builtin builtin:oci-layer floating Rootfs blake3 <- web-rootfs
    web-image-layer-1.drv: builtin builtin:oci-layer floating Rootfs blake3 <- hello web-rootfs
    web-image.drv: builtin builtin:oci floating Tree blake3 <- web-image-layer-0 web-image-layer-1
    web-packages-1.drv: x86_64-linux builtin:step floating Rootfs blake3 <- bookworm-essential libssl3_1.0_1_amd64.deb
    web-packages-2.drv: x86_64-linux builtin:step floating Rootfs blake3 <- nginx-light_1.0_1_amd64.deb web-packages-1
    web-rootfs.drv: builtin builtin:rootfs-edit floating Rootfs blake3 <- web-packages-2
    "#);
}

#[test]
fn two_evaluations_are_equal() {
    let (a, b) = (Project::example("web"), Project::example("web"));
    assert_eq!(
        a.graph(IMAGE).wanted,
        b.graph(IMAGE).wanted,
        "another directory, the same derivations"
    );
}

#[test]
fn an_edit_changes_what_depends_on_it_and_nothing_else() {
    let p = Project::example("web");
    let first = p.graph(IMAGE);

    p.replace("hello/main.c", "Hello from", "Greetings from");
    let program = p.graph(IMAGE);
    insta::assert_snapshot!(changed(&first, &program).join(" "), @"hello.drv web-image-layer-1.drv web-image.drv");

    p.replace("files/web.conf", "8080", "8081");
    let site = p.graph(IMAGE);
    insta::assert_snapshot!(changed(&program, &site).join(" "), @"web-image-layer-0.drv web-image-layer-1.drv web-image.drv web-rootfs.drv");

    p.write("hello-notes.txt", "beside the sources");
    assert_eq!(changed(&site, &p.graph(IMAGE)), Vec::<String>::new());
}

#[test]
fn a_disk_that_cannot_start_says_why_before_anything_is_fetched() {
    let p = Project::new(&[("sos.nix", "{ ... }: null")]);
    let of = |include: &str, more: &str| {
        format!(
            "(sos.debian.rootfs {{ name = \"web\"; suite = \"bookworm\"; epoch = 5; include = [ {include} ]; {more} }})"
        )
    };
    let both = "\"linux-image-amd64\" \"systemd-boot-efi\"";
    let loader = "\"systemd-boot-efi\"";
    for form in ["disk", "uki", "netboot", "iso", "provision"] {
        let message = p.fails(&format!("{}.{form}", of(loader, "")));
        assert!(
            message.contains("the disk `web` cannot start: no package of the recipe is a kernel"),
            "{form}: {message}"
        );
        let message = p.fails(&format!("{}.{form}", of("\"linux-image-amd64\"", "")));
        assert!(message.contains("brings systemd-boot"), "{form}: {message}");
        p.graph(&format!("{}.{form}", of(both, "")));
    }
    let no_esp = "partition = [ { name = \"root\"; type = \"root\"; filesystem = \"ext4\"; rootfs = true; } ];";
    let message = p.fails(&format!("{}.disk", of(both, no_esp)));
    assert!(
        message.contains("no partition of type \"esp\""),
        "{message}"
    );
    // Nothing starts it, and nothing has to.
    p.graph(&format!(
        "{}.disk",
        of("", &format!("disk.boot = \"none\"; {no_esp}"))
    ));
    // The type may be written as a UUID, and gets what starts the disk all the same.
    let by_uuid = p.graph(&format!(
        "{}.disk",
        of(both, "partition = [ { name = \"esp\"; type = \"C12A7328-F81F-11D2-BA4B-00A0C93EC93B\"; size = \"64M\"; } { name = \"root\"; filesystem = \"ext4\"; rootfs = true; } ];")
    ));
    let disk = json(&by_uuid.all[&by_uuid.wanted[0]]);
    assert!(
        disk["partitions"][0]["files"]["EFI/BOOT/BOOTX64.EFI"].is_string(),
        "{disk}"
    );
    // A file may be a kernel, and a package from a file anything.
    let kernel = "file = [ { path = \"/boot/vmlinuz-6.1\"; content = \"x\"; } ];";
    p.graph(&format!("{}.disk", of(loader, kernel)));
}

#[test]
fn recipes_of_one_suite_share_the_essential_stage() {
    let p = Project::example("web");
    let both = p.graph("[ project.toolchain project.web ]");
    let essential: Vec<_> = both
        .all
        .keys()
        .filter(|p| p.name() == "bookworm-essential.drv")
        .collect();
    assert_eq!(essential.len(), 1);
}

#[test]
fn a_recipe_file_is_a_target() {
    let p = Project::new(&[
        ("web.rootfs.toml", "suite = \"bookworm\"\nepoch = 5"),
        (
            "machine.rootfs.toml",
            "suite = \"bookworm\"\nname = \"web\"\nepoch = 5\ninclude = [\"linux-image-amd64\", \"systemd-boot-efi\"]\n",
        ),
        ("sos.nix", "{ ... }: null"),
    ]);
    let place = |name: &str| p.dir.path().canonicalize().unwrap().join(name);
    let machine = entry_expression(&place("machine.rootfs.toml")).unwrap();
    let expression = entry_expression(&place("web.rootfs.toml")).unwrap();
    let graph = p.graph(&expression);
    assert_eq!(graph.wanted[0].name(), "web-rootfs.drv");
    assert_eq!(
        graph.wanted,
        p.graph(&format!("({expression}).rootfs")).wanted
    );
    assert_eq!(
        p.graph(&format!("({expression}).oci")).wanted[0].name(),
        "web.drv"
    );
    assert_eq!(
        p.graph(&format!("({expression}).ostree")).wanted[0].name(),
        "web-ostree.drv"
    );
    for (form, name) in [
        ("disk", "web.raw.drv"),
        ("qcow2", "web.qcow2.drv"),
        ("uki", "web_1.efi.drv"),
        ("netboot", "web-netboot.drv"),
        ("iso", "web.iso.drv"),
        ("provision", "web-provision.drv"),
    ] {
        let found = p.graph(&format!("({machine}).{form}"));
        assert_eq!(found.wanted[0].name(), name);
    }
    for kind in ["ext4", "erofs", "squashfs"] {
        assert_eq!(
            p.graph(&format!("({expression}).{kind}")).wanted[0].name(),
            format!("web.{kind}.drv")
        );
    }
    // One word for every squashfs that is made by itself.
    for (word, acls) in [("", "refuse"), ("disk.acls = \"drop\";", "drop")] {
        let recipe = format!(
            "sos.debian.rootfs {{ name = \"web\"; suite = \"bookworm\"; epoch = 5; include = [ \"linux-image-cloud-amd64\" \"systemd-boot-efi\" ]; {word} }}"
        );
        let attribute = |form: &str| {
            let graph = p.graph(&format!("({recipe}).{form}"));
            json(&graph.all[&graph.wanted[0]])
        };
        assert_eq!(attribute("squashfs")["acls"], acls);
        let passed = match word {
            "" => serde_json::Value::Null,
            _ => acls.into(),
        };
        assert_eq!(attribute("netboot")["acls"], passed);
        for partition in attribute("provision")["partitions"].as_array().unwrap() {
            assert_eq!(partition["acls"], passed, "{partition}");
        }
    }
    let spoken = "(sos.debian.rootfs { name = \"web\"; suite = \"bookworm\"; epoch = 5; \
         bootc = { name = \"os\"; layout = \"ostree\"; strict = true; ref = \"os/stable\"; version = \"7\"; }; }).bootc";
    let graph_of = p.graph(spoken);
    let arranged = json(&graph_of.all[&graph_of.wanted[0]]);
    assert_eq!(
        (&arranged["name"], &arranged["layout"], &arranged["strict"]),
        (&"os".into(), &"ostree".into(), &true.into())
    );
    let committed = p.graph(&format!("{spoken}.ostree"));
    let commit = json(&committed.all[&committed.wanted[0]]);
    assert_eq!(
        (&commit["ref"], &commit["version"]),
        (&"os/stable".into(), &"7".into())
    );
    for (attribute, name) in [
        ("bootc", "web-bootc.drv"),
        ("bootc.oci", "web-bootc.drv"),
        ("bootc.ostree", "web-bootc-commit.drv"),
        ("bootc.ostree.container", "web-bootc-commit-container.drv"),
    ] {
        let graph = p.graph(&format!("({expression}).{attribute}"));
        assert_eq!(graph.wanted[0].name(), name, "{attribute}");
    }
    assert_eq!(
        graph.wanted,
        p.graph("sos.debian.rootfs { name = \"web\"; suite = \"bookworm\"; epoch = 5; }")
            .wanted
    );
}

#[test]
fn fetchurl() {
    let p = Project::new(&[("sos.nix", "{ ... }: null")]);
    let zeros = "0".repeat(64);
    let drv = p.one(&format!(
        "sos.fetchurl {{ url = \"https://a.example/x y.tar\"; sha256 = \"{zeros}\"; }}"
    ));
    let Output::Fixed {
        method: Method::Flat,
        hash,
    } = &drv.outputs["out"]
    else {
        panic!("{:?}", drv.outputs)
    };
    assert_eq!(
        (hash.algo(), hash.to_hex()),
        (HashAlgo::Sha256, zeros.clone())
    );
    assert_eq!(json(&drv)["name"], "x-y.tar");
    assert_eq!(json(&drv)["urls"][0], "https://a.example/x y.tar");

    let pinned = p.one("sos.fetchurl { urls = [ \"https://a.example/z\" \"mirror://m/z\" ]; }");
    assert_eq!(json(&pinned)["size"], 7);
    assert!(
        fs::read_to_string(p.dir.path().join("sos.lock"))
            .unwrap()
            .contains("https://a.example/z")
    );

    let executable = p.one(&format!(
        "sos.fetchurl {{ url = \"https://a.example/x\"; executable = true; sha256 = \"{zeros}\"; }}"
    ));
    assert!(matches!(
        executable.outputs["out"],
        Output::Fixed {
            method: Method::Recursive,
            ..
        }
    ));
    assert_eq!(json(&executable)["executable"], true);

    assert!(
        p.fails("sos.fetchurl { url = \"https://a.example/x\"; executable = true; }")
            .contains("needs a `hash`")
    );
    assert!(p.fails("sos.fetchurl { }").contains("needs `url`"));
}

#[test]
fn run() {
    let p = Project::new(&[("sos.nix", "{ ... }: null"), ("src/a.c", "int a;")]);
    let rootfs = "sos.debian.rootfs { suite = \"bookworm\"; epoch = 9; }";
    let drv = p.one(&format!(
        "sos.run {{ name = \"x\"; rootfs = {rootfs}; mounts.\"/src\" = ./src; script = \"make\"; env = {{ A = true; B = 3; C = \"c\"; }}; }}"
    ));
    let json = json(&drv);
    assert_eq!(
        (&json["env"]["A"], &json["env"]["B"], &json["env"]["C"]),
        (&"1".into(), &"3".into(), &"c".into())
    );
    assert_eq!(
        (&json["epoch"], &json["script"]),
        (&9.into(), &"make".into())
    );
    assert!(json["mounts"]["/src"].as_str().unwrap().ends_with("-src"));
    assert!(json.get("command").is_none() && json.get("cwd").is_none());
    assert_eq!(drv.system, "x86_64-linux");
    assert!(matches!(
        drv.outputs["out"],
        Output::Floating {
            method: Method::Recursive,
            algo: HashAlgo::Sha256
        }
    ));

    let changed = p.one(&format!("sos.run {{ name = \"x\"; rootfs = {rootfs}; command = [ \"/bin/true\" ]; result = \"rootfs\"; }}"));
    assert!(matches!(
        changed.outputs["out"],
        Output::Floating {
            method: Method::Rootfs,
            algo: HashAlgo::Blake3
        }
    ));

    assert!(
        p.fails(&format!("sos.run {{ name = \"x\"; rootfs = {rootfs}; }}"))
            .contains("either `script` or `command`")
    );
    assert!(
        p.fails(&format!(
            "sos.run {{ name = \"x\"; rootfs = {rootfs}; script = \"\"; result = \"disk\"; }}"
        ))
        .contains("\"disk\"")
    );
    assert!(
        p.fails(&format!(
            "sos.run {{ name = \"x\"; rootfs = {rootfs}; scirpt = \"\"; }}"
        ))
        .contains("scirpt")
    );
    for (wrong, words) in [
        (
            "script = [ \"id\" ];",
            "`script` of sos.run { name = \"x\"; } must be a string",
        ),
        (
            "script = \"id\"; timeout = \"5\";",
            "must be a whole number, and is a string",
        ),
        (
            "command = \"id\";",
            "`command` of sos.run { name = \"x\"; } must be a list of strings",
        ),
    ] {
        let said = p.fails(&format!(
            "sos.run {{ name = \"x\"; rootfs = {rootfs}; {wrong} }}"
        ));
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn edit() {
    let p = Project::new(&[("sos.nix", "{ ... }: null"), ("motd", "hi")]);
    let base = "sos.debian.rootfs { name = \"base\"; suite = \"bookworm\"; epoch = 9; }";
    let drv = p.one(&format!(
        "sos.rootfs.edit {{ rootfs = {base}; hostname = \"h\"; files.\"/etc/motd\".source = ./motd; files.\"/etc/a\".source = {base}; }}"
    ));
    let json = json(&drv);
    assert_eq!(
        (&json["hostname"], &json["epoch"]),
        (&"h".into(), &9.into())
    );
    assert!(json.get("cleanup").is_none() && json.get("machine_id").is_none());
    assert!(
        json["files"]
            .as_array()
            .unwrap()
            .iter()
            .any(|f| f["source"].as_str().unwrap().ends_with("-motd"))
    );
    assert!(
        p.fails(&format!(
            "sos.rootfs.edit {{ rootfs = {base}; hostnam = \"h\"; }}"
        ))
        .contains("unknown field `hostnam`")
    );
}

#[test]
fn problems_point_at_what_the_user_wrote() {
    let p = Project::new(&[("sos.nix", "{ ... }: null")]);
    let base = "sos.debian.rootfs { name = \"base\"; suite = \"bookworm\"; epoch = 9; }";
    for (expression, at) in [
        (
            "sos.debian.rootfs { suite = \"bookworm\"; inclde = [ ]; }".to_owned(),
            "inclde",
        ),
        (
            "sos.debian.rootfs { suite = \"bookworm\"; user = [ { name = \"u\"; shll = \"/bin/sh\"; } ]; }".to_owned(),
            "shll",
        ),
        ("sos.debian.rootfs { suite = 3; }".to_owned(), "suite"),
        (
            format!("sos.rootfs.edit {{ rootfs = {base}; hostnam = \"h\"; }}"),
            "hostnam",
        ),
        (
            "sos.fetchurl { name = \"n\"; url = \"https://a.example/missing\"; }".to_owned(),
            "url",
        ),
        (
            "sos.fetchurl { url = \"https://a.example/x\"; hash = \"sha256-AAAA\"; }".to_owned(),
            "hash",
        ),
        (
            format!("sos.oci {{ name = \"i\"; rootfs = {base}; config.entrpoint = [ ]; }}"),
            "config",
        ),
        (
            format!("sos.oci {{ name = \"i\"; rootfs = {base}; config = {{ env = \"x\"; }}; }}"),
            "env",
        ),
        (
            format!("sos.oci {{ name = \"i\"; rootfs = {base}; layers = [ {{ fils = {{ }}; }} ]; }}"),
            "fils",
        ),
        (
            format!("sos.oci {{ rootfs = {base}; name = \"x y\"; }}"),
            "name",
        ),
        (
            format!("sos.ostree {{ rootfs = {base}; name = \"o\"; mode = \"bear\"; }}"),
            "mode",
        ),
        (
            format!("sos.ostree {{ rootfs = {base}; name = \"o\"; empty-xattrs = \"keep\"; }}"),
            "empty-xattrs",
        ),
        (
            format!("sos.ostree {{ rootfs = {base}; name = \"o\"; bootable = 1; }}"),
            "bootable",
        ),
        (
            format!("sos.ext4 {{ rootfs = {base}; labl = \"x\"; }}"),
            "labl",
        ),
        (
            format!("sos.ext4 {{ rootfs = {base}; size = \"2 GB\"; }}"),
            "size",
        ),
        (
            format!("sos.squashfs {{ rootfs = {base}; label = \"x\"; }}"),
            "label",
        ),
        (
            format!("sos.ostreeDisk {{ name = \"d\"; deployments = [ {{ rootfs = {base}; commit = {base} // {{ ref = \"x\"; }}; }} ]; size = -5; }}"),
            "size",
        ),
        (
            format!("sos.disk {{ rootfs = {base}; boot = \"none\"; name = \"\"; }}"),
            "name",
        ),
        (
            format!("sos.ostreeDisk {{ deployments = [ {{ rootfs = {base}; commit = {base} // {{ ref = \"x\"; }}; }} ]; name = \"\"; }}"),
            "name",
        ),
        (
            format!("sos.ostreeDisk {{ name = \"d\"; deployments = [ {{ rootfs = {base}; commit = {base} // {{ ref = \"x\"; }}; }} ]; default = \"nope*\"; }}"),
            "default",
        ),
        (
            format!("sos.erofs {{ rootfs = {base}; uuid = 5; }}"),
            "uuid",
        ),
        (
            format!("sos.bootc {{ rootfs = {base}; layout = \"disk\"; }}"),
            "layout",
        ),
        (
            format!("sos.bootc {{ rootfs = {base}; strict = \"yes\"; }}"),
            "strict",
        ),
        (
            format!("sos.ostree.container {{ repository = {base}; }}"),
            "repository",
        ),
        (
            "sos.ostree.pull { url = 5; commit = \"ab\"; }".to_owned(),
            "url",
        ),
        (
            format!("sos.run {{ rootfs = {base}; name = \"r\"; }}"),
            "name",
        ),
        (
            format!("sos.run {{ name = \"r\"; rootfs = {base}; script = \"\"; timeout = \"5\"; }}"),
            "timeout",
        ),
        (
            format!("sos.run {{ name = \"r\"; rootfs = {base}; script = \"\"; mounts = {{ \"/a\" = ./nosuch; }}; }}"),
            "\"/a\"",
        ),
        (
            format!("sos.ociLayer {{ base = {base}; files.\"/a\" = ./nosuch; }}"),
            "files",
        ),
        (
            format!("sos.ostreeDisk {{ name = \"d\"; deployments = [ {{ rootfs = {base}; commit = {base} // {{ ref = \"x\"; }}; }} ]; cmdline = [ \"a b\" ]; }}"),
            "cmdline",
        ),
        (
            format!("sos.ostreeDisk {{ name = \"d\"; deployments = [ {{ rootfs = {base}; commit = {base} // {{ ref = \"x\"; }}; }} ]; console = \"a\\nb\"; }}"),
            "console",
        ),
        (
            format!("sos.ostreeDisk {{ name = \"d\"; deployments = [ {{ rootfs = {base}; commit = {base} // {{ ref = \"x\"; }}; }} ]; timeout = \"5\"; }}"),
            "timeout",
        ),
        (
            format!("sos.ostreeDisk {{ name = \"d\"; deployments = [ {{ rootfs = {base}; commit = {base} // {{ ref = \"x\"; }}; }} ]; default = 5; }}"),
            "default",
        ),
        (
            format!("sos.ostreeDisk {{ name = \"d\"; deployments = [ {{ rootfs = {base}; commit = {base} // {{ ref = \"x\"; }}; }} ]; os = 5; }}"),
            "os",
        ),
        (
            format!("sos.ostreeDisk {{ name = \"d\"; deployments = [ {{ rootfs = {base}; commit = {base} // {{ ref = \"x\"; }}; }} ]; os = \"a\\nb\"; }}"),
            "os",
        ),
        (
            format!("sos.ostreeDisk {{ name = \"d\"; deployments = [ {{ rootfs = {base}; commit = {base} // {{ ref = \"x\"; }}; }} ]; epoch = \"x\"; }}"),
            "epoch",
        ),
        (
            format!("sos.ostreeDisk {{ deployments = [ {{ rootfs = {base}; commit = {base} // {{ ref = \"x\"; }}; }} ]; name = 5; }}"),
            "name",
        ),
        (
            format!("sos.ostreeDisk {{ name = \"d\"; deployments = [ {{ rootfs = {base}; commit = {base}; ref = \"a\\nb\"; }} ]; }}"),
            "ref",
        ),
        (
            format!("sos.disk {{ rootfs = {base}; boot = \"entries\"; loader = ./sos.nix; name = \"Boot\"; }}"),
            "name",
        ),
        (
            "sos.ostree.checkout { repository = ./.; }".to_owned(),
            "repository",
        ),
        (
            "sos.ostree.container { ref = \"x\"; repository = ./.; }".to_owned(),
            "repository",
        ),
        (
            "sos.oci.index { name = \"two\"; images = [ (sos.oci.index { name = \"one\"; images = [ ]; }) ]; }".to_owned(),
            "images",
        ),
        (
            "sos.debian.rootfs ./nosuch.rootfs.toml".to_owned(),
            "sos",
        ),
    ] {
        let Err(e) = p.evaluate(&expression) else {
            panic!("`{expression}` evaluates")
        };
        let shown: Vec<_> = e
            .labels
            .iter()
            .map(|l| (l.file.name.as_str(), &l.file.text[l.span.clone()]))
            .collect();
        assert_eq!(shown, [("test", at)], "{expression}");
    }
}

/// The words, where the place alone does not say what is wrong.
#[test]
fn disks_and_what_holds_others_say_what_they_are_about() {
    let p = Project::new(&[("sos.nix", "{ ... }: null")]);
    let base = "sos.debian.rootfs { name = \"base\"; suite = \"bookworm\"; epoch = 9; }";
    let ostree = |more: &str| {
        format!(
            "sos.ostreeDisk {{ name = \"d\"; deployments = [ {{ rootfs = {base}; commit = {base} // {{ ref = \"x\"; }}; }} ]; {more} }}"
        )
    };
    for (expression, part) in [
        (ostree("cmdline = [ \"a\\nb\" ];"), "bad `cmdline`: `a\\nb`"),
        (ostree("modules = [ \"a b\" ];"), "bad `modules`: `a b`"),
        (ostree("seed = \"a\\nb\";"), "bad `seed`"),
        (
            ostree("default = 5;"),
            "`default` of sos.ostreeDisk { name = \"d\"; } must be a string, and is a int: 5",
        ),
        (
            ostree("os = \"a/b\";"),
            "cannot be the name of an OSTree system",
        ),
        (
            format!("sos.disk {{ rootfs = {base}; boot = \"entries\"; loader = ./sos.nix; name = \"boot\"; }}"),
            "its kernels cannot be in `EFI/boot`",
        ),
        (
            "(sos.debian.rootfs { name = \"systemd\"; suite = \"bookworm\"; epoch = 5; include = [ \"linux-image-amd64\" \"systemd-boot-efi\" ]; disk.boot = \"entries\"; }).disk".to_owned(),
            "its kernels cannot be in `EFI/systemd`",
        ),
        (
            "sos.ostree.checkout { repository = ./.; }".to_owned(),
            "must be what `sos.ostree` makes",
        ),
        (
            "sos.oci.index { name = \"two\"; images = [ (sos.oci.index { name = \"one\"; images = [ ]; }) ]; }".to_owned(),
            "element 0 of `images` of sos.oci.index is an index",
        ),
    ] {
        let said = p.fails(&expression);
        assert!(said.contains(part), "{expression}: {said}");
    }
    // The system has the name of the disk, whose problem is told once.
    let (told, further) = p.evaluate_all(&ostree("").replace("name = \"d\"", "name = 5"));
    assert!(told.is_err_and(|e| {
        e.message
            .starts_with("`name` of sos.ostreeDisk must be a string")
    }));
    assert_eq!(further.len(), 0, "{further:?}");
    // Another directory than that of the entries has no such names.
    let image = format!("sos.disk {{ rootfs = {base}; boot = \"none\"; name = \"boot\"; }}");
    assert!(p.evaluate(&image).is_ok());
    let sound = ostree("cmdline = [ \"quiet\" ]; console = \"none\"; timeout = 3; os = \"web_1\";");
    assert!(p.evaluate(&sound).is_ok());
}

/// As the loader takes it: a pattern, of whatever case.
#[test]
fn the_entry_that_starts_is_one_of_those_there() {
    let p = Project::new(&[("sos.nix", "{ ... }: null")]);
    let base = "sos.debian.rootfs { name = \"base\"; suite = \"bookworm\"; epoch = 9; }";
    let one = format!("{{ rootfs = {base}; commit = {base} // {{ ref = \"x\"; }}; }}");
    let disk = |default: &str| {
        format!(
            "sos.ostreeDisk {{ name = \"web\"; deployments = [ {one} {one} ]; default = \"{default}\"; }}"
        )
    };
    for default in [
        "ostree-1-web.conf",
        "OSTREE-?-*",
        "*[1-2]-we[a-b].conf",
        "@saved",
        "*",
    ] {
        assert!(p.evaluate(&disk(default)).is_ok(), "{default}");
    }
    for default in [
        "nope*",
        "ostree-3-web.conf",
        "ostree-1-web",
        "",
        "ostree-1-web[conf",
        "ostree-.-web.conf",
    ] {
        let Err(told) = p.evaluate(&disk(default)) else {
            panic!("`{default}` is taken")
        };
        let says = format!(
            "`default` of sos.ostreeDisk {{ name = \"web\"; }} is `{default}`, and no entry of the loader is called so"
        );
        assert_eq!(told.message, says);
        assert!(
            told.helps[0].contains("`ostree-2-web.conf`, `ostree-1-web.conf`"),
            "{told:?}"
        );
    }
}

#[test]
fn derivations_of_the_library_are_placed_where_the_user_called() {
    let p = Project::new(&[("sos.nix", "{ ... }: null")]);
    let zeros = "0".repeat(64);
    let base = "sos.debian.rootfs { name = \"base\"; suite = \"bookworm\"; epoch = 9; }";
    for (expression, at) in [
        (
            format!("sos.fetchurl {{ sha256 = \"{zeros}\"; url = \"https://a.example/x\"; }}"),
            "sha256",
        ),
        (
            format!("sos.run {{ rootfs = {base}; name = \"r\"; script = \"\"; }}"),
            "name",
        ),
        (
            format!("sos.rootfs.edit {{ rootfs = {base}; hostname = \"h\"; }}"),
            "rootfs",
        ),
        (
            format!("sos.oci {{ rootfs = {base}; name = \"o\"; }}"),
            "name",
        ),
    ] {
        let graph = p.graph(&expression);
        let shown: Vec<_> = graph
            .places
            .iter()
            .map(|l| (l.file.name.as_str(), &l.file.text[l.span.clone()]))
            .collect();
        assert_eq!(shown, [("test", at)], "{expression}");
        assert!(!format!("{:?}", graph.all).contains("__place"));
    }
}

#[test]
fn oci() {
    let p = Project::new(&[("sos.nix", "{ ... }: null"), ("motd", "hi")]);
    let base =
        "sos.debian.rootfs { name = \"base\"; suite = \"bookworm\"; epoch = 9; arch = \"arm64\"; }";
    let layers = "[ { files.\"/etc/motd\" = ./motd; } { rootfs = sos.rootfs.edit { rootfs = base; hostname = \"h\"; }; } ]";
    let text = format!(
        "let base = {base}; in sos.oci {{ name = \"i\"; rootfs = base; layers = {layers}; config = {{ cmd = [ \"/bin/sh\" ]; env.A = \"b\"; }}; }}"
    );
    let graph = p.graph(&text);
    let image = json(&graph.all[&graph.wanted[0]]);
    assert_eq!(
        (&image["arch"], &image["tag"], &image["epoch"]),
        (&"arm64".into(), &"latest".into(), &9.into())
    );
    assert_eq!(image["layers"].as_array().unwrap().len(), 3);
    assert_eq!(
        image["config"],
        serde_json::json!({"cmd": ["/bin/sh"], "env": {"A": "b"}})
    );
    let layer = |name: &str| json(&graph.all[&graph.closure()[name]]);
    assert!(layer("i-layer-0.drv").get("base").is_none());
    assert!(
        layer("i-layer-1.drv").get("diff").is_none() && layer("i-layer-1.drv")["base"].is_string()
    );
    assert_eq!(layer("i-layer-2.drv")["diff"], true);
    assert!(
        p.fails(&format!(
            "sos.oci {{ name = \"i\"; rootfs = {base}; config.entrypont = [ ]; }}"
        ))
        .contains("entrypont")
    );
}

/// All wrong types of an image are told at once, each where it was written.
#[test]
fn oci_problems_are_told_at_once() {
    let p = Project::new(&[("sos.nix", "{ ... }: null")]);
    let base = "sos.debian.rootfs { name = \"base\"; suite = \"bookworm\"; epoch = 9; }";
    let text = format!(
        "sos.oci {{ name = \"i\"; rootfs = {base}; tag = 7; level = \"x\"; layering = \"odd\"; layers = [ 3 ]; config = {{ user = 8; env = \"x\"; }}; }}"
    );
    let (result, further) = p.evaluate_all(&text);
    let Err(first) = result else {
        panic!("it evaluates");
    };
    let mut places: Vec<&str> = Vec::new();
    for one in std::iter::once(&*first).chain(&further) {
        let place = one.labels.first().expect("a place");
        places.push(&place.file.text[place.span.clone()]);
    }
    places.sort_unstable();
    assert_eq!(
        places,
        ["env", "layering", "layers", "level", "tag", "user"]
    );
    for (expression, part) in [
        (
            "sos.oci { name = \"i\"; }".to_owned(),
            "needs `rootfs` or `from`",
        ),
        (
            "sos.oci.pull { ref = \"r.example/x\"; digest = \"sha256:1\"; }".to_owned(),
            "64 digits",
        ),
        (
            format!(
                "sos.oci.pull {{ ref = \"r.example/x@sha256:{}\"; digest = \"sha256:{}\"; }}",
                "0".repeat(64),
                "1".repeat(64)
            ),
            "two digests",
        ),
        (
            "sos.oci.pull { ref = \"r.example/x@sha256:1\"; }".to_owned(),
            "64 digits",
        ),
        (
            "sos.oci.pull { ref = 3; digest = \"x\"; }".to_owned(),
            "`ref`",
        ),
        (
            "sos.oci.index { name = \"n\"; images = 3; }".to_owned(),
            "`images`",
        ),
        (
            format!(
                "sos.oci {{ name = \"i\"; rootfs = {base}; from = ./x; layering = \"packages\"; }}"
            ),
            "does not go with `from`",
        ),
    ] {
        let said = p.fails(&expression);
        assert!(said.contains(part), "{expression}: {said}");
    }
    // What is said of values, without a build.
    for (given, part) in [
        ("compression = \"xz\";", "and is a string: \"xz\""),
        (
            "layering = \"package\";",
            "a string: \"package\"; did you mean `packages`?",
        ),
        (
            "config.env = [ \"A=1\" \"NOEQ\" ];",
            "is a list; element 1 is a string: \"NOEQ\"",
        ),
        ("config.env = { A = 1; };", "is a set; `A` is a int: 1"),
        (
            "config.cmd = [ \"a\" 2 ];",
            "is a list; element 1 is a int: 2",
        ),
        (
            "config.entrypont = [ ];",
            "has no `entrypont`; did you mean `entrypoint`?",
        ),
        (
            "level = 42;",
            "`level` is 42; the compression \"gzip\" has 1 to 9",
        ),
        (
            "compression = \"zstd\"; level = 20;",
            "\"zstd\" has 1 to 19",
        ),
        (
            "layers = [ { files = { }; level = 10; } ];",
            "`level` is 10",
        ),
        ("tag = \"a b\";", "`a b` is not a tag"),
        ("arch = \"vax\";", "`vax` is no architecture"),
        ("arch = \"aarch46\";", "did you mean `aarch64`?"),
        (
            "config.exposedPorts = [ \"80/tcp\" \"70000\" ];",
            "`70000` in `exposedPorts`",
        ),
        ("config.workdir = \"srv\";", "such as `/srv`"),
        (
            "layering = \"packages\"; maxLayers = 0;",
            "`maxLayers` is 0; it can be 1 to 400",
        ),
    ] {
        let expression = format!("sos.oci {{ name = \"i\"; rootfs = {base}; {given} }}");
        let said = p.fails(&expression);
        assert!(said.contains(part), "{expression}: {said}");
    }
}

/// What is made of an image that was pulled has its date, which the builder reads; one that is given goes before it.
#[test]
fn dates_of_what_an_image_becomes() {
    let p = Project::new(&[("sos.nix", "{ ... }: null")]);
    let digest = format!("sha256:{}", "0".repeat(64));
    let root = format!(
        "sos.oci.rootfs {{ image = sos.oci.pull {{ ref = \"r.example/x\"; digest = \"{digest}\"; }}; }}"
    );
    let edited = format!("sos.rootfs.edit {{ rootfs = {root}; hostname = \"h\"; }}");
    for (make, name) in [
        ("sos.ostree", "name = \"c\";"),
        ("sos.ext4", ""),
        ("sos.erofs", ""),
        ("sos.squashfs", ""),
        ("sos.oci", "name = \"i\";"),
    ] {
        for rootfs in [&root, &edited] {
            let of = |more: &str| {
                json(&p.one(&format!("{make} {{ {name} rootfs = {rootfs}; {more} }}")))
            };
            let found = of("");
            assert!(found.get("epoch").is_none(), "{make}: {found}");
            assert!(found["epochOf"].is_string(), "{make}: {found}");
            let given = of("epoch = 77;");
            assert_eq!(given["epoch"], 77, "{make}");
            assert!(given.get("epochOf").is_none(), "{make}: {given}");
        }
        // Of anything else it is known here.
        let known = "sos.debian.rootfs { name = \"base\"; suite = \"bookworm\"; epoch = 9; }";
        let known = json(&p.one(&format!("{make} {{ {name} rootfs = {known}; }}")));
        assert_eq!(known["epoch"], 9, "{make}");
    }
}

#[test]
fn layers_of_an_image_follow_steps_packages_or_the_image_below() {
    let p = Project::new(&[("sos.nix", "{ ... }: null")]);
    let digest = format!("sha256:{}", "0".repeat(64));
    let chain = "rec { base = sos.debian.rootfs { name = \"base\"; suite = \"bookworm\"; epoch = 9; }; \
         one = sos.rootfs.edit { rootfs = base; name = \"one\"; hostname = \"h\"; }; \
         two = sos.run { name = \"two\"; rootfs = one; script = \"\"; result = \"rootfs\"; }; }";
    let steps = p.graph(&format!(
        "let c = {chain}; in sos.oci {{ name = \"i\"; rootfs = c.two; layering = \"steps\"; }}"
    ));
    let image = json(&steps.all[&steps.wanted[0]]);
    assert_eq!(image["layers"].as_array().map(Vec::len), Some(3));
    let layer = json(&steps.all[&steps.closure()["i-layer-2.drv"]]);
    assert_eq!(layer["diff"], true);
    let packages = p.graph(&format!(
        "let c = {chain}; in sos.oci {{ name = \"i\"; rootfs = c.two; layering = \"packages\"; maxLayers = 20; }}"
    ));
    let image = json(&packages.all[&packages.wanted[0]]);
    assert_eq!(image["layers"].as_array().map(Vec::len), Some(1));
    let chunks = json(&packages.all[&packages.closure()["i-layers.drv"]]);
    assert_eq!(
        (&chunks["builder"], &chunks["maxLayers"]),
        (&"builtin:oci-chunks".into(), &20.into())
    );
    // Over an image of a registry: only what was done since is a layer.
    let above = p.graph(&format!(
        "let pulled = sos.oci.pull {{ ref = \"r.example/os/web:1\"; digest = \"{digest}\"; }}; files = sos.oci.rootfs {{ image = pulled; }}; \
         in sos.oci {{ name = \"i\"; from = pulled; layering = \"steps\"; \
         rootfs = sos.rootfs.edit {{ rootfs = sos.rootfs.edit {{ rootfs = files; name = \"a\"; hostname = \"h\"; }}; name = \"b\"; hostname = \"i\"; }}; }}"
    ));
    let image = json(&above.all[&above.wanted[0]]);
    assert_eq!(image["layers"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        image["annotations"]["org.opencontainers.image.base.digest"],
        digest.as_str()
    );
    let names: Vec<String> = above.closure().into_keys().collect();
    assert!(names.contains(&"web.drv".to_owned()), "{names:?}");
    let alone = p.graph(&format!(
        "sos.oci {{ name = \"i\"; from = sos.oci.pull {{ ref = \"r.example/web\"; digest = \"{digest}\"; }}; config.cmd = [ \"x\" ]; }}"
    ));
    let image = json(&alone.all[&alone.wanted[0]]);
    assert_eq!(image["layers"].as_array().map(Vec::len), Some(0));
    // Its date is that of the image below, unless one is given.
    let layer = json(&above.all[&above.closure()["i-layer-1.drv"]]);
    for one in [&image, &layer] {
        assert!(
            one["epochOf"].is_string() && one.get("epoch").is_none(),
            "{one}"
        );
    }
    let dated = p.graph(&format!(
        "sos.oci {{ name = \"i\"; epoch = 5; from = sos.oci.pull {{ ref = \"r.example/web\"; digest = \"{digest}\"; }}; }}"
    ));
    let image = json(&dated.all[&dated.wanted[0]]);
    assert!(
        image["epoch"] == 5 && image.get("epochOf").is_none(),
        "{image}"
    );
    let whole = p.graph(&format!(
        "sos.oci {{ name = \"i\"; rootfs = sos.oci.rootfs {{ image = sos.oci.pull {{ ref = \"r.example/web\"; digest = \"{digest}\"; }}; }}; layering = \"packages\"; }}"
    ));
    let chunks = json(&whole.all[&whole.closure()["i-layers.drv"]]);
    assert!(
        chunks["epochOf"].is_string() && chunks.get("epoch").is_none(),
        "{chunks}"
    );
    // The digest may stand in the name; without one it comes from the lock.
    let named = p.graph(&format!(
        "sos.oci.pull {{ ref = \"r.example/web@{digest}\"; }}"
    ));
    assert_eq!(
        json(&named.all[&named.wanted[0]])["digest"],
        digest.as_str()
    );
    let locked = p.graph("sos.oci.pull { ref = \"r.example/web:1\"; }");
    let found = json(&locked.all[&locked.wanted[0]])["digest"].to_string();
    let lock = fs::read_to_string(p.dir.path().join("sos.lock")).expect("a lock");
    assert!(
        lock.contains(&format!(
            "\n[[image]]\nref = \"r.example/web:1\"\ndigest = {found}\n"
        )),
        "{found}: {lock}"
    );
    let index = p.graph(&format!(
        "let c = {chain}; in sos.oci.index {{ name = \"all\"; images = [ (sos.oci {{ name = \"i\"; rootfs = c.two; }}) ]; }}"
    ));
    let all = json(&index.all[&index.wanted[0]]);
    assert_eq!(all["images"].as_array().map(Vec::len), Some(1));
}

#[test]
fn templates_evaluate() {
    for template in crate::templates::TEMPLATES {
        let p = Project::new(template.files);
        let names: Vec<_> = p
            .graph("project")
            .wanted
            .iter()
            .map(|d| d.name().to_owned())
            .collect();
        assert!(names.len() >= 3, "{}: {names:?}", template.name);
    }
}
