//! Users and groups that no file of `sysusers.d` declares: a host merges `/etc` by files, and would never get them.
//!
//! Source: `sysusers.d(5)`.

use std::collections::BTreeSet;

use sos_engine::BuilderError;
use sos_store::rootfs::{KindView, RootTree};

/// The largest file that is looked at.
const MAX_BYTES: u64 = 1 << 20;

/// Lines of `sysusers.d` that would declare what nothing declares, in the order of `passwd` and `group`.
pub(super) fn undeclared(tree: &RootTree, etc: &str) -> Result<Vec<String>, BuilderError> {
    let (mut users, mut groups) = (BTreeSet::new(), BTreeSet::new());
    for dir in ["usr/lib/sysusers.d".to_owned(), format!("{etc}/sysusers.d")] {
        for name in super::layout::names_in(tree, &dir)? {
            let path = super::layout::below(&dir, &name);
            for line in text_of(tree, &path)?.unwrap_or_default().lines() {
                let mut words = line.split_whitespace();
                let (Some(kind), Some(name)) = (words.next(), words.next()) else {
                    continue;
                };
                let name = name.trim_matches('"').to_owned();
                // A user brings a group of the same name; `!` locks the account, `-` and `$` are further marks.
                match kind.trim_end_matches(['!', '-', '$']) {
                    "u" => {
                        groups.insert(name.clone());
                        users.insert(name);
                    }
                    "g" => {
                        groups.insert(name);
                    }
                    "m" => {
                        users.insert(name);
                        groups.extend(words.next().map(str::to_owned));
                    }
                    _ => {}
                }
            }
        }
    }
    let mut lines = Vec::new();
    let passwd = text_of(tree, format!("{etc}/passwd").as_bytes())?.unwrap_or_default();
    for line in passwd.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if let [name, _, uid, _, about, home, shell] = fields.as_slice()
            && *uid != "0"
            && !users.contains(*name)
        {
            groups.insert((*name).to_owned());
            lines.push(format!("u {name} {uid} {} {home} {shell}", quoted(about)));
        }
    }
    let group = text_of(tree, format!("{etc}/group").as_bytes())?.unwrap_or_default();
    for line in group.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if let [name, _, gid, ..] = fields.as_slice()
            && *gid != "0"
            && !groups.contains(*name)
        {
            lines.push(format!("g {name} {gid}"));
        }
    }
    Ok(lines)
}

/// What is said of a user, as a field of a line.
fn quoted(about: &str) -> String {
    if about.is_empty() {
        return "-".to_owned();
    }
    let mut text = String::from("\"");
    for c in about.chars() {
        match c {
            '%' => text.push_str("%%"),
            '"' | '\\' => text.extend(['\\', c]),
            c => text.push(c),
        }
    }
    text + "\""
}

/// Reads a file of text; links are followed.
pub(super) fn text_of(tree: &RootTree, path: &[u8]) -> Result<Option<String>, BuilderError> {
    // What leads nowhere is as if it was not there.
    let Ok(path) = tree.resolve(path) else {
        return Ok(None);
    };
    match tree.get(&path)?.map(|view| view.kind) {
        Some(KindView::File { size, .. }) if size <= MAX_BYTES => {
            let bytes = tree.read_file(&path)?;
            Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use sos_formats::manifest::Meta;

    use super::*;
    use crate::build::fake::Fake;

    #[test]
    fn what_is_said_of_a_user_stays() {
        let fake = Fake::new();
        let meta = |mode| Meta {
            mode,
            ..Meta::default()
        };
        let mut tree = RootTree::empty_in(&fake.store, meta(0o755));
        tree.mkdir_p("etc", &meta(0o755)).expect("a directory");
        let passwd = "jane:x:1000:1000:Jane \"J\" Doe,5%,,:/home/jane:/bin/sh\nweb:x:980:980::/:/bin/false\n";
        tree.write_file("etc/passwd", passwd, meta(0o644))
            .expect("a file");
        assert_eq!(
            undeclared(&tree, "etc").expect("read"),
            [
                r#"u jane 1000 "Jane \"J\" Doe,5%%,," /home/jane /bin/sh"#,
                "u web 980 - / /bin/false"
            ]
        );
    }
}
