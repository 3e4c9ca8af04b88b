//! The ids of the namespace that steps run in, and where an ordinary user gets them from.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sos_formats::hash::Blake3;

use super::outcome::SandboxError;

/// Steps see the ids 0 to 65535 on every machine, no more, so that a bigger range does not show.
pub(crate) const STEP_IDS: u32 = 65_536;
/// Hexadecimal digits of the name of a map.
const NAME_CHARS: usize = 16;
/// Where distributions put the programs that write id maps.
const PROGRAM_DIRS: [&str; 4] = ["/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin"];

/// Lines of an id map: (first id inside, first id outside, count).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdMap(Vec<(u32, u32, u32)>);

impl IdMap {
    /// Returns the text that the kernel takes.
    pub(super) fn text(&self) -> String {
        self.0
            .iter()
            .map(|(inside, outside, count)| format!("{inside} {outside} {count}\n"))
            .collect()
    }

    /// Tells whether an id outside is one of the map.
    pub(super) fn has(&self, outside: u32) -> bool {
        self.0.iter().any(|(_, first, count)| {
            outside
                .checked_sub(*first)
                .is_some_and(|offset| offset < *count)
        })
    }

    /// Returns the arguments that `newuidmap` takes after the process id.
    pub(super) fn arguments(&self) -> Vec<String> {
        self.0
            .iter()
            .flat_map(|(inside, outside, count)| [inside, outside, count])
            .map(ToString::to_string)
            .collect()
    }
}

/// A range of subordinate ids: (first, count).
pub(crate) type Range = (u32, u32);

/// Reads the ranges of one user, named or by number, out of the text of `/etc/subuid` or `/etc/subgid`.
pub(crate) fn parse_ranges(text: &str, name: Option<&str>, uid: u32) -> Vec<Range> {
    let uid = uid.to_string();
    let mut ranges: Vec<Range> = text
        .lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next()?;
            let (start, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            let ours = owner == uid || Some(owner) == name;
            (ours && fields.next().is_none() && count > 0).then_some((start, count))
        })
        .collect();
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}

/// Where distributions begin to give out subordinate ids.
const FIRST_SUBORDINATE: u32 = 100_000;

/// Finds the first id after all ranges of the text of `/etc/subuid`, to propose it.
pub(crate) fn free_range(text: &str) -> u32 {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':').skip(1);
            let (start, count): (u32, u32) =
                (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            start.checked_add(count)
        })
        .filter(|end| *end <= u32::MAX / 2)
        .max()
        .map_or(FIRST_SUBORDINATE, |end| end.max(FIRST_SUBORDINATE))
}

/// Maps 0 to the caller and 1 to 65535 to subordinate ids; the error is how many ids there are.
fn user_map(caller: u32, ranges: &[Range]) -> Result<IdMap, u32> {
    let mut lines = vec![(0, caller, 1)];
    let mut next = 1;
    for &(start, count) in ranges {
        let count = count.min(STEP_IDS - next);
        if count == 0 {
            break;
        }
        lines.push((next, start, count));
        next += count;
    }
    if next < STEP_IDS {
        return Err(next - 1);
    }
    Ok(IdMap(lines))
}

/// Lines of an id map, as [`IdMap`] has them, cut where the map of the namespace around it changes: the kernel takes no line that
/// spans two of its lines. Ids that are not there at all are left out.
fn along(lines: &[(u32, u32, u32)], around: &str) -> Vec<(u32, u32, u32)> {
    let mut extents: Vec<Range> = around
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (first, count) = (fields.next()?, fields.nth(1)?);
            Some((first.parse().ok()?, count.parse().ok()?))
        })
        .collect();
    extents.sort_unstable();
    let mut cut = Vec::new();
    for &(inside, outside, count) in lines {
        for &(first, length) in &extents {
            let begin = first.max(outside);
            let end = first.saturating_add(length).min(outside + count);
            if begin < end {
                cut.push((inside + (begin - outside), begin, end - begin));
            }
        }
    }
    cut
}

/// Maps the ids of steps to the same ones of a namespace with this map; the error is how many of them it has.
fn root_map(around: &str) -> Result<IdMap, u32> {
    let lines = along(&[(0, 0, STEP_IDS)], around);
    match lines.iter().map(|(_, _, count)| count).sum() {
        STEP_IDS => Ok(IdMap(lines)),
        have => Err(have),
    }
}

/// Returns the map of ids of steps that root has, by its own; `file` is `uid_map` or `gid_map`.
pub(crate) fn of_root(file: &str) -> Result<IdMap, SandboxError> {
    root_map(&own_map(file)?).map_err(|have| {
        crate::probe::no_id_maps(&format!(
            "/proc/self/{file} has {have} of the ids 0 to {}",
            STEP_IDS - 1
        ))
    })
}

/// Reads a map of the namespace that this process is in.
fn own_map(file: &str) -> Result<String, SandboxError> {
    let path = format!("/proc/self/{file}");
    fs::read_to_string(&path).map_err(|e| SandboxError::io(format!("read {path}"), e))
}

/// Finds the name of a user in the text of `/etc/passwd`.
fn user_name(passwd: &str, uid: u32) -> Option<&str> {
    let uid = uid.to_string();
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then_some(name)
    })
}

/// Returns the caller's subordinate user or group ids; `file` is `/etc/subuid` or `/etc/subgid`.
pub(crate) fn caller_ranges(file: &str) -> Vec<Range> {
    let uid = rustix::process::geteuid().as_raw();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let text = fs::read_to_string(file).unwrap_or_default();
    parse_ranges(&text, user_name(&passwd, uid), uid)
}

/// Returns the caller's name for commands that are shown, or its number.
pub(crate) fn caller_name() -> String {
    let uid = rustix::process::geteuid().as_raw();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    user_name(&passwd, uid).map_or_else(|| uid.to_string(), ToOwned::to_owned)
}

/// Returns the user and group maps of the namespace that steps run in.
pub(crate) fn step_maps() -> Result<(IdMap, IdMap), SandboxError> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if uid.is_root() {
        return Ok((of_root("uid_map")?, of_root("gid_map")?));
    }
    for program in ["newuidmap", "newgidmap"] {
        if find_map_program(program).is_none() {
            return Err(crate::probe::no_map_program(program));
        }
    }
    let map = |file: &'static str, id: u32| {
        user_map(id, &caller_ranges(file))
            .map_err(|have| crate::probe::no_subordinate_ids(file, have))
    };
    Ok((
        map("/etc/subuid", uid.as_raw())?,
        map("/etc/subgid", gid.as_raw())?,
    ))
}

/// Names the ids that files of steps belong to, as this machine sees them: two processes with the same name can use each other's
/// working trees and states of failed steps. It is what the maps say, and what the ids outside are to who wrote them.
pub(crate) fn map_name() -> Result<&'static str, SandboxError> {
    static NAME: OnceLock<String> = OnceLock::new();
    if let Some(name) = NAME.get() {
        return Ok(name);
    }
    let (users, groups) = step_maps()?;
    let maps = [
        users.text(),
        own_map("uid_map")?,
        groups.text(),
        own_map("gid_map")?,
    ];
    Ok(NAME.get_or_init(|| name_of(&maps)))
}

/// Makes one word of maps.
fn name_of(maps: &[String; 4]) -> String {
    let mut name = Blake3::of(maps.join("\0").as_bytes()).to_hex();
    name.truncate(NAME_CHARS);
    name
}

/// Finds `newuidmap` or `newgidmap` where only root could have put it.
pub(crate) fn find_map_program(name: &str) -> Option<PathBuf> {
    PROGRAM_DIRS
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| fs::metadata(path).is_ok_and(|m| m.is_file() && m.uid() == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_by_name_and_number() {
        let text = "alice:100000:65536\n# bob:1:2\n1001:300000:10\nbob:200000:65536:x\nalice:100000:65536\nalice:5:0\n";
        assert_eq!(parse_ranges(text, Some("alice"), 7), [(100_000, 65536)]);
        assert_eq!(parse_ranges(text, Some("bob"), 1001), [(300_000, 10)]);
        assert_eq!(parse_ranges(text, None, 8), []);
        assert_eq!(
            user_name("root:x:0:0::/:\nbob:x:1001:1:\n", 1001),
            Some("bob")
        );
    }

    #[test]
    fn maps_are_the_same_size_everywhere() {
        let map = user_map(1000, &[(100_000, 200_000)]).unwrap();
        assert_eq!(map.text(), "0 1000 1\n1 100000 65535\n");
        let map = user_map(1000, &[(1, 60_000), (100_000, 9_999)]).unwrap();
        assert_eq!(map.text(), "0 1000 1\n1 1 60000\n60001 100000 5535\n");
        assert_eq!(map.arguments().len(), 9);
        for (outside, has) in [
            (1000, true),
            (60_001, false),
            (109_999 - 4465, true),
            (105_535, false),
        ] {
            assert_eq!(map.has(outside), has, "{outside}");
        }
        assert_eq!(user_map(1000, &[(100_000, 1000)]), Err(1000));
        assert_eq!(user_map(1000, &[]), Err(0));
    }
    #[test]
    fn the_map_of_root_is_cut_where_the_one_around_it_is() {
        let text = |around: &str| root_map(around).map(|map| map.text());
        // What names the working trees of root of a machine, so it stays.
        assert_eq!(text("0 0 4294967295\n"), Ok("0 0 65536\n".to_owned()));
        let container = "         0       1001          1\n         1     100000      65536\n";
        assert_eq!(text(container), Ok("0 0 1\n1 1 65535\n".to_owned()));
        let backwards = "1 100000 70000\n0 5 1\n";
        assert_eq!(text(backwards), Ok("0 0 1\n1 1 65535\n".to_owned()));
        assert_eq!(text("0 1001 1\n"), Err(1));
        assert_eq!(text("0 1001 1\n2 100000 65536\n"), Err(65_535));
        assert_eq!(text(""), Err(0));
    }
}
