//! What the loader of a device offers: entries and kernel images, the root that each starts, and its counter.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use sos_engine::BuilderError;
use sos_formats::deb;
use sos_formats::uuid::Uuid;

use super::super::pe;
use super::volume::{DRAFT, Volume};

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

/// Where the loader looks for an entry of this path; none for other files.
pub(super) fn place_of(path: &str) -> Option<&'static str> {
    let (dir, _) = path.rsplit_once('/')?;
    let mut places = PLACES.iter().map(|(place, _)| *place);
    places.find(|place| same(place, dir))
}

/// One entry of the loader.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// Where it is on the EFI system partition, or would be if it were finished.
    pub(super) path: String,
    /// Its name without counter and suffix: `web_2`.
    pub(super) id: String,
    /// What of the id is the version.
    version: String,
    /// Starts that are left; absent when nobody counts any more.
    pub(super) left: Option<u32>,
    /// The partition that it names as root, or must have named.
    pub(super) root: Option<Uuid>,
    /// Other files that belong to it.
    pub(super) files: Vec<String>,
    /// Whether it is whole but has the name of a draft, because an update was stopped: the loader does not see it.
    pub(super) is_draft: bool,
    /// Whether nothing is in it, because an update was stopped: the loader passes over it.
    pub(super) is_empty: bool,
}

impl Entry {
    /// All entries of a system, by its name. Of a draft beside its entry nothing is said.
    pub(super) fn of(volume: &Volume, image: &str) -> Result<Vec<Self>, BuilderError> {
        let mut found = Vec::new();
        let mut drafts = Vec::new();
        for (dir, suffix) in PLACES {
            for name in volume.list(dir) {
                let (whole, is_draft) = match undrafted(&name) {
                    Some(whole) => (whole, true),
                    None => (name.as_str(), false),
                };
                let Some((id, left)) = parse_name(whole, suffix) else {
                    continue;
                };
                let Some(version) = version_in(&id, image) else {
                    continue;
                };
                let bytes = volume.read(&format!("{dir}/{name}"))?.unwrap_or_default();
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
                let one = Self {
                    path: format!("{dir}/{whole}"),
                    version: version.to_owned(),
                    id,
                    left,
                    root: cmdline.as_deref().and_then(root_of),
                    files,
                    is_draft,
                    is_empty: bytes.is_empty(),
                };
                match is_draft {
                    true => drafts.push(one),
                    false => found.push(one),
                }
            }
        }
        for draft in drafts {
            let is_there = |one: &Self| same(&one.id, &draft.id) && one.root.is_some();
            if draft.root.is_some() && !found.iter().any(is_there) {
                // The empty file that it was to become.
                found.retain(|one: &Self| !(same(&one.path, &draft.path) && one.is_empty));
                found.push(draft);
            }
        }
        Ok(found)
    }

    /// The version behind the name of the system.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// System and version, for people.
    pub(super) fn shown(&self) -> String {
        let image = self.id.len() - self.version.len();
        format!(
            "{} {}",
            self.id[..image].trim_end_matches('_'),
            self.version
        )
    }

    /// The file that it is in.
    pub(super) fn place(&self) -> String {
        match self.is_draft {
            true => format!("{}{DRAFT}", self.path),
            false => self.path.clone(),
        }
    }

    /// Whether the loader would try to start it.
    pub(super) fn starts(&self) -> bool {
        self.left != Some(0) && !self.is_draft && !self.is_empty
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
        self.starts()
            .cmp(&other.starts())
            .then_with(|| deb::version::compare(self.version(), other.version()))
    }
}

/// The name that a draft is to have; none for other files.
pub(super) fn undrafted(name: &str) -> Option<&str> {
    let at = name.len().checked_sub(DRAFT.len())?;
    let whole = name.get(..at)?;
    name[at..].eq_ignore_ascii_case(DRAFT).then_some(whole)
}

/// The version in the id of an entry of a system: what is behind its name and `_`. Both may have more of that.
fn version_in<'i>(id: &'i str, image: &str) -> Option<&'i str> {
    let own = id.get(..image.len()).filter(|own| same(own, image))?;
    id[own.len()..].strip_prefix('_')
}

/// Drafts that an update has left, other than those that `entries` knows: of entries of a system, and of what is in its directory.
pub(super) fn leftovers(volume: &Volume, image: &str, entries: &[Entry]) -> Vec<String> {
    let mut found = Vec::new();
    let own = format!("EFI/{image}");
    for dir in PLACES.iter().map(|(dir, _)| *dir).chain([own.as_str()]) {
        let suffix = PLACES.iter().find(|(place, _)| *place == dir);
        for name in volume.list(dir) {
            let Some(whole) = undrafted(&name) else {
                continue;
            };
            let is_own = suffix.is_none_or(|(_, suffix)| {
                parse_name(whole, suffix).is_some_and(|(id, _)| version_in(&id, image).is_some())
            });
            let path = format!("{dir}/{name}");
            if is_own
                && !entries
                    .iter()
                    .any(|one| one.is_draft && one.place() == path)
            {
                found.push(path);
            }
        }
    }
    found
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
    // As the loader reads it: `+LEFT` or `+LEFT-DONE`, in numbers, at the end and nowhere else.
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| text.parse::<u32>().unwrap_or(u32::MAX))
    };
    let counter = stem.rsplit_once('+').and_then(|(id, counter)| {
        let left = match counter.split_once('-') {
            Some((left, done)) => number(done).and(number(left))?,
            None => number(counter)?,
        };
        Some((id.to_owned(), Some(left)))
    });
    Some(counter.unwrap_or_else(|| (stem.to_owned(), None)))
}

/// Options and other files of an entry of the first type.
fn parse_entry(text: &str) -> (Option<String>, Vec<String>) {
    let (mut options, mut files) = (None::<String>, Vec::new());
    for line in text.lines() {
        let Some((key, value)) = line.trim().split_once(char::is_whitespace) else {
            continue;
        };
        match key {
            // There may be several, which the loader joins.
            "options" => match &mut options {
                Some(before) => before.extend([" ", value.trim()]),
                None => options = Some(value.trim().to_owned()),
            },
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
            ("a+3-b_1.efi", Some(("a+3-b_1", None))),
            ("a+3_1+2-1.efi", Some(("a+3_1", Some(2)))),
            ("web_2+3-.efi", Some(("web_2+3-", None))),
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
    fn a_version_is_what_is_behind_the_name() {
        for (id, image, version) in [
            ("web_2", "web", Some("2")),
            ("WEB_2", "web", Some("2")),
            ("a_b_2", "a_b", Some("2")),
            ("a_b_2_1", "a_b", Some("2_1")),
            ("a+b_2", "a+b", Some("2")),
            ("web2_1", "web", None),
            ("we", "web", None),
            ("ab\u{e9}_1", "abc", None),
        ] {
            assert_eq!(version_in(id, image), version, "{id} {image}");
        }
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
            id: id.to_owned(),
            version: id[4..].to_owned(),
            left,
            ..Entry::default()
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
