//! Other programs accept the image.

use std::process::Command;

use super::{Demo, tool};
use crate::support::{is_root, left_to_root, peer, run, shared};

/// skopeo copies it, podman pulls it, and an independent checker finds nothing.
pub(super) fn peers_take_it(demo: &Demo) {
    let layout = demo.layout().display().to_string();
    let scratch = demo.world.root().join("peers");
    std::fs::create_dir_all(&scratch).expect("a directory");
    if let (Some(python), Some(checker)) = (peer("python3"), shared("checks/oci_check.py")) {
        let found = tool(
            &python,
            &[
                &checker.display().to_string(),
                "--strict",
                "--epoch",
                "1782864000",
                &layout,
            ],
        );
        assert!(found.contains("problems=0 repro=0"), "{found}");
    }
    if let Some(skopeo) = peer("skopeo") {
        let archive = format!("oci-archive:{}", scratch.join("web.tar").display());
        tool(
            &skopeo,
            &[
                "--insecure-policy",
                "--tmpdir",
                &scratch.display().to_string(),
                "copy",
                &format!("oci:{layout}"),
                &archive,
            ],
        );
        let inspected = tool(&skopeo, &["inspect", &archive]);
        assert!(inspected.contains(&demo.digest()), "{inspected}");
    }
    if let Some(podman) = peer("podman") {
        if !is_root() {
            left_to_root("podman needs a set-up of its own");
            return;
        }
        let place = |name: &str| scratch.join(name).display().to_string();
        let mut command = Command::new(podman);
        command.args([
            "--storage-driver",
            "vfs",
            "--root",
            &place("root"),
            "--runroot",
            &place("runroot"),
            "--tmpdir",
            &place("tmp"),
        ]);
        // By a link in the project, as a person does: podman makes a name of the path and refuses dots and capitals in it.
        demo.world.sos(["build", ".#image", "-o", "image"]).ok();
        let pulled = run(command
            .args(["pull", "oci:image"])
            .env("TMPDIR", &scratch)
            .current_dir(demo.world.project()))
        .ok();
        assert_eq!(
            pulled.stdout.trim().len(),
            64,
            "an image id: {}",
            pulled.stdout
        );
    }
    std::fs::remove_dir_all(&scratch).expect("what the peers made");
}

/// The layers are the host and the program, and the configuration is that of the recipe.
pub(super) fn it_holds_what_the_recipes_say(demo: &Demo) {
    let blob = |digest: &str| -> serde_json::Value {
        let path = format!("{}/blobs/{}", demo.image, digest.replace(':', "/"));
        serde_json::from_str(&demo.world.sos(["store", "cat", &path]).ok().stdout).expect("JSON")
    };
    let manifest = blob(&demo.digest());
    assert_eq!(manifest["layers"].as_array().expect("layers").len(), 2);
    let config = blob(manifest["config"]["digest"].as_str().expect("a digest"));
    assert_eq!(
        config["config"]["Entrypoint"],
        serde_json::json!(["/usr/local/bin/hello"])
    );
    assert_eq!(config["architecture"], "amd64");
    let cat = |path: &str| {
        demo.world
            .sos(["store", "cat", &format!("{}/{path}", demo.web)])
            .ok()
            .stdout
    };
    assert!(cat("etc/passwd").contains("deploy:x:1000:"));
    assert_eq!(cat("etc/hostname"), "web\n");
    assert_eq!(cat("etc/motd"), "Built by sos.\n");
    assert!(cat("etc/nginx/conf.d/web.conf").contains("8080"));
    let wanted = demo
        .world
        .sos([
            "store",
            "ls",
            &format!("{}/etc/systemd/system/multi-user.target.wants", demo.web),
        ])
        .ok()
        .stdout;
    assert!(
        wanted.contains("hello.service\n") && wanted.contains("nginx.service\n"),
        "{wanted}"
    );
    let page = demo
        .world
        .sos(["store", "ls", "-l", &format!("{}/srv/www", demo.web)])
        .ok()
        .stdout;
    assert!(page.contains(" 1000:33        111\tindex.html"), "{page}");
}
