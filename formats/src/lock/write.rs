//! The canonical text of a lock.

use std::fmt::Write as _;

use super::{ImageEntry, LOCK_VERSION, LockedPackage, LockedSuite, RootfsEntry, SosLock, UrlEntry};

const HEADER: &str =
    "# Written by sos and read by it; `sos lock --update` moves what is pinned here.\n";

pub(super) fn to_text(lock: &SosLock) -> String {
    let mut out = String::from(HEADER);
    let _ = writeln!(out, "version = {LOCK_VERSION}");
    for entry in &lock.rootfs {
        rootfs(&mut out, entry);
    }
    for entry in &lock.url {
        url(&mut out, entry);
    }
    for entry in &lock.image {
        image(&mut out, entry);
    }
    out
}

fn rootfs(out: &mut String, entry: &RootfsEntry) {
    out.push_str("\n[[rootfs]]\n");
    line(out, "recipe", &string(&entry.recipe));
    line(out, "arch", &string(&entry.arch));
    line(out, "digest", &string(&entry.digest));
    line(out, "solver", &string(&entry.locked.solver));
    for s in &entry.locked.suites {
        suite(out, s);
    }
    for p in &entry.locked.packages {
        package(out, p);
    }
}

fn suite(out: &mut String, s: &LockedSuite) {
    out.push_str("\n[[rootfs.suite]]\n");
    line(out, "uri", &string(&s.uri));
    line(out, "suite", &string(&s.suite));
    line(out, "components", &strings(&s.components));
    let r = &s.inrelease;
    let release = format!(
        "{{ sha256 = {}, size = {}, date = {}, keys = {} }}",
        string(&r.sha256.to_string()),
        r.size,
        string(&r.date),
        strings(&r.keys)
    );
    line(out, "inrelease", &release);
    out.push_str("index = [\n");
    for i in &s.index {
        let sha256 = string(&i.sha256.to_string());
        let _ = writeln!(
            out,
            "  {{ path = {}, sha256 = {sha256}, size = {} }},",
            string(&i.path),
            i.size
        );
    }
    out.push_str("]\n");
    if let Some(snapshot) = &s.snapshot {
        line(out, "snapshot", &string(snapshot));
    }
}

fn package(out: &mut String, p: &LockedPackage) {
    out.push_str("\n[[rootfs.package]]\n");
    line(out, "name", &string(&p.name));
    line(out, "version", &string(&p.version));
    line(out, "arch", &string(&p.arch));
    line(out, "sha256", &string(&p.sha256.to_string()));
    line(out, "size", &p.size.to_string());
    line(out, "path", &string(&p.path));
    if let Some(suite) = p.suite {
        line(out, "suite", &suite.to_string());
    }
    line(out, "phase", &string(p.phase.as_str()));
    line(out, "batch", &p.batch.to_string());
    line(out, "reason", &string(&p.reason));
    line(out, "auto", if p.auto { "true" } else { "false" });
}

fn image(out: &mut String, entry: &ImageEntry) {
    out.push_str("\n[[image]]\n");
    line(out, "ref", &string(&entry.reference));
    line(out, "digest", &string(&format!("sha256:{}", entry.digest)));
}

fn url(out: &mut String, entry: &UrlEntry) {
    out.push_str("\n[[url]]\n");
    line(out, "url", &string(&entry.url));
    line(out, "sha256", &string(&entry.sha256.to_string()));
    line(out, "size", &entry.size.to_string());
}

fn line(out: &mut String, key: &str, value: &str) {
    let _ = writeln!(out, "{key} = {value}");
}

fn strings(list: &[String]) -> String {
    let items: Vec<_> = list.iter().map(|s| string(s)).collect();
    format!("[{}]", items.join(", "))
}

/// A TOML basic string: one spelling for each text.
fn string(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if u32::from(c) < 0x20 || c == '\u{7f}' => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
