//! What the loader of a device offers: entries and kernel images, the root that each starts, and its counter.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use sos_engine::BuilderError;
use sos_formats::deb;
use sos_formats::uuid::Uuid;

use super::super::pe;
use super::volume::Volume;

/// Where entries are, and how their names end.
const PLACES: [(&str, &str); 2] = [("EFI/Linux", ".efi"), ("loader/entries", ".conf")];

/// Whether two names are one on a FAT volume, which has no letters of two sizes.
pub(super) fn same(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// The path of an entry without its counter; others stay as they are.
pub(super) fn uncounted(path: &str) -> String {
    for (dir, suffix) in PLACES {
        let name = path
            .strip_prefix(dir)
            .and_then(|rest| rest.strip_prefix('/'));
        if let Some((id, _)) = name.and_then(|name| parse_name(name, suffix)) {
            return format!("{dir}/{id}{suffix}");
        }
    }
    path.to_owned()
}

/// One entry of the loader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Where it is on the EFI system partition.
    pub(super) path: String,
    /// Its name without counter and suffix: `web_2`.
    pub(super) id: String,
    /// Starts that are left; absent when nobody counts any more.
    pub(super) left: Option<u32>,
    /// The partition that it names as root.
    pub(super) root: Option<Uuid>,
    /// Other files that belong to it.
    pub(super) files: Vec<String>,
}

impl Entry {
    /// All entries of a system, by its name.
    pub(super) fn of(volume: &Volume, image: &str) -> Result<Vec<Self>, BuilderError> {
        let mut found = Vec::new();
        for (dir, suffix) in PLACES {
            for name in volume.list(dir) {
                let Some((id, left)) = parse_name(&name, suffix) else {
                    continue;
                };
                if id.split_once('_').is_none_or(|(own, _)| !same(own, image)) {
                    continue;
                }
                let path = format!("{dir}/{name}");
                let bytes = volume.read(&path)?.unwrap_or_default();
                let (cmdline, files) = if suffix == ".efi" {
                    let sections = pe::sections(&bytes).unwrap_or_default();
                    let line = sections.iter().find(|(name, _)| name == ".cmdline");
                    (
                        line.map(|(_, data)| String::from_utf8_lossy(data).into_owned()),
                        Vec::new(),
                    )
                } else {
                    parse_entry(&String::from_utf8_lossy(&bytes))
                };
                found.push(Self {
                    path,
                    id,
                    left,
                    root: cmdline.as_deref().and_then(root_of),
                    files,
                });
            }
        }
        Ok(found)
    }

    /// The version behind the name of the system.
    pub(super) fn version(&self) -> &str {
        self.id.split_once('_').map_or("", |(_, version)| version)
    }

    /// How much there is to lose with it: nothing when it did not start, little while it is still tried, all when it is good.
    pub(super) fn worth(&self) -> u8 {
        match self.left {
            Some(0) => 0,
            Some(_) => 1,
            None => 2,
        }
    }

    /// Which of two the loader prefers: the greater one.
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        let works = |entry: &Self| entry.left != Some(0);
        works(self)
            .cmp(&works(other))
            .then_with(|| deb::version::compare(self.version(), other.version()))
    }
}

/// The kernels on a volume that entries of the loader name, of whatever system.
pub(in crate::disk) fn entry_kernels(volume: &Volume) -> Result<Vec<String>, BuilderError> {
    const ENTRIES: &str = "loader/entries";
    let mut found = BTreeSet::new();
    for name in volume.list(ENTRIES) {
        let bytes = volume.read(&format!("{ENTRIES}/{name}"))?;
        let text = String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
        let kernels = text.lines().filter_map(|line| {
            let (key, value) = line.trim().split_once(char::is_whitespace)?;
            (key == "linux").then(|| value.trim().trim_start_matches('/').to_owned())
        });
        found.extend(kernels);
    }
    let mut there = Vec::new();
    for path in found {
        if volume.read(&path)?.is_some() {
            there.push(path);
        }
    }
    Ok(there)
}

/// Id and counter of `web_2+3-1.efi`.
fn parse_name(name: &str, suffix: &str) -> Option<(String, Option<u32>)> {
    let end = name.len().checked_sub(suffix.len())?;
    let stem = name
        .get(..end)
        .filter(|_| name[end..].eq_ignore_ascii_case(suffix))?;
    let Some((id, counter)) = stem.rsplit_once('+') else {
        return Some((stem.to_owned(), None));
    };
    let left = counter.split('-').next().unwrap_or_default();
    Some(match left.parse() {
        Ok(left) => (id.to_owned(), Some(left)),
        Err(_) => (stem.to_owned(), None),
    })
}

/// Options and other files of an entry of the first type.
fn parse_entry(text: &str) -> (Option<String>, Vec<String>) {
    let (mut options, mut files) = (None, Vec::new());
    for line in text.lines() {
        let Some((key, value)) = line.trim().split_once(char::is_whitespace) else {
            continue;
        };
        match key {
            "options" => options = Some(value.trim().to_owned()),
            "linux" | "initrd" => files.push(value.trim().trim_start_matches('/').to_owned()),
            _ => {}
        }
    }
    (options, files)
}

/// The partition that a command line names as root, or as what its root is read from.
pub(super) fn root_of(cmdline: &str) -> Option<Uuid> {
    const NAMES: [&str; 2] = ["root=PARTUUID=", "systemd.verity_root_data=PARTUUID="];
    cmdline
        .split_whitespace()
        .find_map(|word| NAMES.iter().find_map(|name| word.strip_prefix(name)))
        .and_then(|uuid| uuid.to_lowercase().parse().ok())
}

/// The name of an entry with a counter: `EFI/Linux/web_2.efi` becomes `EFI/Linux/web_2+3.efi`. None for other files.
pub(super) fn counted(path: &str, tries: u32) -> Option<String> {
    let stem = path
        .strip_prefix("EFI/Linux/")
        .and_then(|name| name.strip_suffix(".efi"))
        .map(|_| &path[..path.len() - 4])
        .or_else(|| {
            path.strip_prefix("loader/entries/")
                .and_then(|_| path.strip_suffix(".conf"))
        })?;
    Some(format!("{stem}+{tries}{}", &path[stem.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_part_of_the_name() {
        for (name, expected) in [
            ("web_2.efi", Some(("web_2", None))),
            ("web_2+3.efi", Some(("web_2", Some(3)))),
            ("web_2+0-1.EFI", Some(("web_2", Some(0)))),
            ("web_1.0+b1.efi", Some(("web_1.0+b1", None))),
            ("web.conf", None),
            ("é", None),
        ] {
            let expected = expected.map(|(id, left)| (id.to_owned(), left));
            assert_eq!(parse_name(name, ".efi"), expected, "{name}");
        }
        assert_eq!(
            counted("EFI/Linux/web_2.efi", 3).as_deref(),
            Some("EFI/Linux/web_2+3.efi")
        );
        assert_eq!(
            counted("loader/entries/web_2.conf", 1).as_deref(),
            Some("loader/entries/web_2+1.conf")
        );
        assert_eq!(counted("EFI/web/2/linux", 1), None);
    }

    #[test]
    fn a_name_without_its_counter() {
        for (path, expected) in [
            ("EFI/Linux/web_2+3-1.efi", "EFI/Linux/web_2.efi"),
            ("EFI/Linux/WEB_2.EFI", "EFI/Linux/WEB_2.efi"),
            ("loader/entries/web_2+0.conf", "loader/entries/web_2.conf"),
            ("EFI/web/2+1/linux", "EFI/web/2+1/linux"),
        ] {
            assert_eq!(uncounted(path), expected);
        }
    }

    #[test]
    fn the_root_is_found_in_a_command_line() {
        let uuid = Uuid::derived("a", "b");
        assert_eq!(
            root_of(&format!(
                "quiet root=PARTUUID={} ro",
                uuid.to_string().to_uppercase()
            )),
            Some(uuid)
        );
        assert_eq!(
            root_of(&format!(
                "root=/dev/mapper/root systemd.verity_root_data=PARTUUID={uuid}"
            )),
            Some(uuid)
        );
        assert_eq!(root_of("root=/dev/sda1"), None);
    }

    #[test]
    fn used_up_entries_come_last() {
        let entry = |id: &str, left| Entry {
            path: String::new(),
            id: id.to_owned(),
            left,
            root: None,
            files: Vec::new(),
        };
        let best = [
            entry("web_1", None),
            entry("web_3", Some(0)),
            entry("web_2", Some(1)),
        ];
        let best = best
            .iter()
            .max_by(|a, b| a.compare(b))
            .map(|e| e.id.as_str());
        assert_eq!(best, Some("web_2"));
    }
}
