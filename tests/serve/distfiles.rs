//! Files by name, as `download-distfiles.sh` and the like ask for them.

use std::process::Command;

use rustix::process::Signal;

use super::Serving;
use crate::support::server::Server;
use crate::support::{World, peer, run};

#[test]
fn curl_takes_a_file_and_goes_on_where_it_stopped() {
    let w = World::new();
    let content: Vec<u8> = (0..3_000_000u32).flat_map(|n| n.to_le_bytes()).collect();
    std::fs::write(w.project().join("bash-5.2.tar"), &content).expect("a file");
    w.sos(["store", "add", "--flat", "bash-5.2.tar"]).ok();
    w.write("notes+1?.txt", "notes\n");
    w.sos(["store", "add", "--flat", "notes+1?.txt"]).ok();
    w.write("tree/x", "");
    w.sos(["store", "add", "tree"]).ok();
    let serving = Serving::start(&w, &[]);
    let odd = serving.get("/notes+1%3F.txt", &[]).is(200);
    assert_eq!(odd.text(), "notes\n");
    let whole = serving.get("/bash-5.2.tar", &[]).is(200);
    assert!(whole.body == content, "the bytes of the file");
    // A tree is no file, whatever its name.
    serving.get("/tree", &[]).is(404);
    serving.get("/absent.tar", &[]).is(404);
    let tag = whole.header("etag").expect("a tag").to_owned();
    let same = format!("If-Range: {tag}");
    let part = serving
        .get("/bash-5.2.tar", &["Range: bytes=-4", &same])
        .is(206);
    assert_eq!(part.body, content[content.len() - 4..]);
    // The rest of another file would not fit.
    serving
        .get("/bash-5.2.tar", &["Range: bytes=-4", "If-Range: \"x\""])
        .is(200);
    let Some(curl) = peer("curl") else { return };
    let file = w.project().join("got");
    // Of a whole file there is no rest: then 416 is what tells so, which only newer versions take for success under `--fail`.
    for (start, fail) in [(content.len() / 3, Some("--fail")), (content.len(), None)] {
        std::fs::write(&file, &content[..start]).expect("a beginning");
        let mut command = Command::new(&curl);
        command.args(["--silent", "--show-error", "-C", "-", "-o"]);
        command.arg(&file).args(fail);
        command.arg(format!("{}/bash-5.2.tar", serving.url));
        run(&mut command).ok();
        assert!(
            std::fs::read(&file).expect("a file") == content,
            "from {start}"
        );
    }
}

#[test]
fn a_name_that_the_server_has_itself_is_told() {
    let w = World::new();
    for name in ["v2", "x.narinfo", "nix-cache-info", "tiny.txt"] {
        w.write(name, "tiny\n");
        w.sos(["store", "add", "--flat", name]).ok();
    }
    let serving = Serving::start(&w, &[]);
    let page = serving.get("/", &[]).is(200).text();
    for name in ["v2", "x.narinfo", "nix-cache-info"] {
        let told =
            format!("<code>{name} (not to be had: something else is at this address)</code>");
        assert!(page.contains(&told), "{page}");
        let linked = format!("href=\"/{name}\"");
        assert!(!page.contains(&linked), "{page}");
    }
    assert!(page.contains("<a href=\"/tiny.txt\">"), "{page}");
    assert!(
        page.contains("/tiny.txt\n") || page.contains("/tiny.txt</pre>"),
        "{page}"
    );
    // The file, and not an archive of it.
    assert!(page.contains("<td class=\"n\">5 B</td>"), "{page}");
    assert_eq!(serving.get("/tiny.txt", &[]).is(200).text(), "tiny\n");
    drop(serving);
    // A target of such a name is built, and not announced.
    w.write("files/x.narinfo", "one");
    let mirror = Server::start(&w.project().join("files"));
    w.write(
        "sos.nix",
        &format!(
            "{{ sos, ... }}: sos.fetchurl {{ url = \"{}/x.narinfo\"; sha256 = builtins.hashString \"sha256\" \"one\"; }}",
            mirror.url()
        ),
    );
    let told = Serving::start(&w, &["."]).stop(Signal::INT);
    told.says(&["warning: `x.narinfo` is not served as a file: at http://"]);
}

#[test]
fn a_name_with_two_hashes_is_refused_unless_a_recipe_says_which() {
    let w = World::new();
    w.write("files/a.tar", "one");
    let mirror = Server::start(&w.project().join("files"));
    w.write(
        "sos.nix",
        &format!(
            "{{ sos, ... }}: sos.fetchurl {{ url = \"{}/a.tar\"; sha256 = builtins.hashString \"sha256\" \"one\"; }}",
            mirror.url()
        ),
    );
    w.write("two", "two");
    w.sos(["store", "add", "--flat", "two", "--name", "a.tar"])
        .ok();
    let first = Serving::start(&w, &[]);
    assert_eq!(first.get("/a.tar", &[]).is(200).text(), "two");
    w.sos(["build", "--no-link"]).ok();
    let both = first.get("/a.tar", &[]).is(409).text();
    assert!(both.contains("2 files with different content"), "{both}");
    assert_eq!(both.matches("sha256:").count(), 2, "{both}");
    // As sha256sum and lists of sources have them.
    for digest in [
        "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed",
        "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3",
    ] {
        assert!(both.contains(digest), "{both}");
    }
    drop(first);
    let second = Serving::start(&w, &["."]);
    assert_eq!(second.get("/a.tar", &[]).is(200).text(), "one");
}
