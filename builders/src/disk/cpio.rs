//! Archives for the kernel's initial file system: cpio in the `newc` form, without times, owners or inode numbers of any machine.

use std::collections::BTreeMap;

/// What an archive holds under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    File { data: Vec<u8>, executable: bool },
    Link(String),
    Dir,
    CharDev { major: u32, minor: u32 },
}

/// An archive in the making; names have no `/` at the front.
#[derive(Debug, Default)]
pub(super) struct Archive {
    entries: BTreeMap<String, Content>,
}

/// What the kernel asks of the size of an archive.
const ALIGN: usize = 4;

impl Archive {
    /// Adds an entry, and the directories above it.
    pub(super) fn add(&mut self, name: &str, content: Content) {
        let mut at = 0;
        while let Some(slash) = name[at..].find('/') {
            at += slash;
            self.entries
                .entry(name[..at].to_owned())
                .or_insert(Content::Dir);
            at += 1;
        }
        self.entries.insert(name.to_owned(), content);
    }

    /// The bytes, padded so that another archive may follow.
    pub(super) fn encode(&self, epoch: i64) -> Vec<u8> {
        let mut out = Vec::new();
        // 32 bits are what the format has for a time.
        let time = u32::try_from(epoch).unwrap_or_default();
        for (i, (name, content)) in self.entries.iter().enumerate() {
            let (mode, data, device): (u32, &[u8], (u32, u32)) = match content {
                Content::File { data, executable } => (
                    0o100_644 | if *executable { 0o111 } else { 0 },
                    data,
                    (0, 0),
                ),
                Content::Link(target) => (0o120_777, target.as_bytes(), (0, 0)),
                Content::Dir => (0o040_755, &[], (0, 0)),
                Content::CharDev { major, minor } => (0o020_600, &[], (*major, *minor)),
            };
            let links = if *content == Content::Dir { 2 } else { 1 };
            let inode = u32::try_from(i + 1).unwrap_or(u32::MAX);
            header(
                &mut out,
                &[inode, mode, 0, 0, links, time],
                data.len(),
                device,
                name,
            );
            out.extend_from_slice(data);
            pad(&mut out);
        }
        header(&mut out, &[0, 0, 0, 0, 1, 0], 0, (0, 0), "TRAILER!!!");
        out
    }
}

fn header(out: &mut Vec<u8>, first: &[u32; 6], size: usize, device: (u32, u32), name: &str) {
    out.extend_from_slice(b"070701");
    let size = u32::try_from(size).unwrap_or(u32::MAX);
    let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
    let rest = [size, 0, 0, device.0, device.1, name_size, 0];
    for field in first.iter().chain(&rest) {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(ALIGN), 0);
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::peers;

    #[test]
    fn cpio_lists_what_was_added() {
        let mut archive = Archive::default();
        archive.add(
            "lib/modules/a.ko",
            Content::File {
                data: b"abcde".to_vec(),
                executable: false,
            },
        );
        archive.add(
            "init",
            Content::File {
                data: b"#!".to_vec(),
                executable: true,
            },
        );
        archive.add("bin/sh", Content::Link("busybox".to_owned()));
        let bytes = archive.encode(86_400);
        assert_eq!(bytes.len() % 4, 0);
        if peers::peer("cpio", &["--version"]).is_none() {
            return;
        }
        let mut child = Command::new("cpio")
            .args(["--list", "--verbose", "--numeric-uid-gid", "--quiet"])
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cpio starts");
        child
            .stdin
            .take()
            .expect("its input")
            .write_all(&bytes)
            .expect("written");
        let output = child.wait_with_output().expect("cpio ends");
        assert!(output.status.success());
        let lines: Vec<String> = String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "drwxr-xr-x 2 0 0 0 Jan 2 1970 bin",
                "lrwxrwxrwx 1 0 0 7 Jan 2 1970 bin/sh -> busybox",
                "-rwxr-xr-x 1 0 0 2 Jan 2 1970 init",
                "drwxr-xr-x 2 0 0 0 Jan 2 1970 lib",
                "drwxr-xr-x 2 0 0 0 Jan 2 1970 lib/modules",
                "-rw-r--r-- 1 0 0 5 Jan 2 1970 lib/modules/a.ko",
            ]
        );
    }
}
