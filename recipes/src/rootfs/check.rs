//! The rules for single values: names, paths, modes, dates. Each says what it expects in a few words.

use sos_formats::calendar::days_since_1970;

/// What a value must look like, in words for a message; `Ok` when it does.
pub(crate) type Checked = Result<(), &'static str>;

/// A name of a store object.
pub(crate) fn store_name(s: &str) -> Checked {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b"+-._?=".contains(&b);
    rule(
        !s.is_empty() && s.len() <= 200 && !s.starts_with('.') && s.bytes().all(ok),
        "letters, digits and `+-._?=`, not starting with `.`",
    )
}

/// The name of a Debian package.
pub(crate) fn package(s: &str) -> Checked {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b);
    let first = s
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    rule(
        first && s.len() >= 2 && s.bytes().all(ok),
        "a package name: lower-case letters, digits and `+-.`",
    )
}

/// A package with an optional architecture and version: `nginx`, `libc6:i386`, `nginx (>= 1.22)`, `nginx=1.22-1`.
pub(crate) fn wanted_package(s: &str) -> Checked {
    const EXPECTED: &str =
        "a package as in `nginx`, `nginx:amd64`, `nginx (>= 1.22)` or `nginx=1.22-9`";
    let (head, versioned) =
        if let Some((head, rest)) = s.split_once('=').filter(|(h, _)| !h.contains('(')) {
            (head, version(rest).is_ok())
        } else if let Some((head, rest)) = s.split_once('(') {
            let inner = rest.strip_suffix(')').and_then(|r| {
                let r = r.trim();
                let op = ["<<", "<=", ">=", ">>", "="]
                    .into_iter()
                    .find(|op| r.starts_with(op))?;
                Some(version(r[op.len()..].trim()).is_ok())
            });
            (head.trim_end(), inner == Some(true))
        } else {
            (s, true)
        };
    let (name, arch_ok) = match head.split_once(':') {
        Some((name, qualifier)) => (name, qualifier == "any" || arch(qualifier).is_ok()),
        None => (head, true),
    };
    rule(versioned && arch_ok && package(name).is_ok(), EXPECTED)
}

fn version(s: &str) -> Checked {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b".+-~:".contains(&b);
    rule(
        s.starts_with(|c: char| c.is_ascii_digit()) && s.bytes().all(ok),
        "a version",
    )
}

/// Architectures of Debian that a recipe can name.
pub(crate) const ARCHITECTURES: &[&str] = &[
    "amd64", "arm64", "armel", "armhf", "i386", "loong64", "mips64el", "ppc64el", "riscv64",
    "s390x",
];

/// A Debian architecture.
pub(crate) fn arch(s: &str) -> Checked {
    rule(
        ARCHITECTURES.contains(&s),
        "a Debian architecture such as `amd64` or `arm64`",
    )
}

/// The name of a suite or a codename, with at most one slash (`bookworm/updates`).
pub(crate) fn suite(s: &str) -> Checked {
    rule(
        s.split('/').count() <= 2 && s.split('/').all(path_word),
        "a suite such as `bookworm` or `bookworm-updates`",
    )
}

/// The name of a component.
pub(crate) fn component(s: &str) -> Checked {
    rule(
        s.split('/').all(path_word),
        "a component such as `main` or `non-free-firmware`",
    )
}

fn path_word(s: &str) -> bool {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b"+-._~".contains(&b);
    !s.is_empty() && s != "." && s != ".." && s.bytes().all(ok)
}

/// The address of an archive.
pub(crate) fn archive_uri(s: &str) -> Checked {
    const EXPECTED: &str =
        "an address such as `mirror://debian`, with `mirror`, `http`, `https` or `file`";
    let Some((scheme, rest)) = s.split_once("://") else {
        return Err(EXPECTED);
    };
    let ok = ["mirror", "http", "https", "file"].contains(&scheme) && !rest.is_empty();
    rule(
        ok && !rest.contains("..") && s.bytes().all(|b| b.is_ascii_graphic()),
        EXPECTED,
    )
}

/// The address of an archive as apt in an image knows it.
pub(crate) fn apt_uri(s: &str) -> Checked {
    const EXPECTED: &str = "an address that the image can reach, with `http`, `https` or `file`: `mirror://` names mean something only here";
    rule(
        archive_uri(s).is_ok() && !s.starts_with("mirror:"),
        EXPECTED,
    )
}

/// The address of a snapshot service.
pub(crate) fn snapshot_uri(s: &str) -> Checked {
    archive_uri(s)?;
    rule(
        s.contains("{timestamp}"),
        "an address with `{timestamp}` in it, such as `https://snapshot.example/{timestamp}/debian`",
    )
}

/// An absolute path inside a root filesystem, without `.`, `..`, double or trailing slashes.
pub(crate) fn absolute_path(s: &str) -> Checked {
    const EXPECTED: &str = "an absolute path without `.`, `..`, `//` or a slash at the end";
    let Some(rest) = s.strip_prefix('/') else {
        return Err(EXPECTED);
    };
    rule(s.len() < 4096 && clean(rest), EXPECTED)
}

/// A path of a file beside the recipe.
pub(crate) fn relative_path(s: &str) -> Checked {
    rule(
        s.len() < 4096 && clean(s.strip_prefix("./").unwrap_or(s)),
        "a path below the directory of the recipe, without `..`",
    )
}

fn clean(s: &str) -> bool {
    let part_ok = |p: &str| !p.is_empty() && p != "." && p != ".." && p.len() <= 255;
    s.split('/').all(part_ok) && !s.bytes().any(|b| b == 0 || b == b'\n')
}

/// The name of a user or group.
pub(crate) fn user_name(s: &str) -> Checked {
    let first = s
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b);
    rule(
        first && s.len() <= 32 && s.bytes().all(ok),
        "at most 32 of `a-z`, `0-9`, `_` and `-`, starting with a letter or `_`",
    )
}

/// The highest id that a recipe can give: 65534 and 65535 mean "nobody" and "no id".
pub(crate) const MAX_ID: u32 = 65533;

/// A user or group id.
pub(crate) fn id(n: i64) -> Result<u32, &'static str> {
    u32::try_from(n)
        .ok()
        .filter(|n| *n <= MAX_ID)
        .ok_or("a number from 0 to 65533")
}

/// `user:group` or only `user`, each a name or a number.
pub(crate) fn owner(s: &str) -> Checked {
    const EXPECTED: &str =
        "`user:group` with names or numbers, such as `root:root`, `0:0` or `deploy`";
    let part_ok = |p: &str| {
        user_name(p).is_ok()
            || p.parse::<u32>()
                .is_ok_and(|n| n <= MAX_ID && n.to_string() == p)
    };
    match s.split_once(':') {
        Some((user, group)) => rule(part_ok(user) && part_ok(group), EXPECTED),
        None => rule(part_ok(s), EXPECTED),
    }
}

/// A file mode in octal.
pub(crate) fn mode(s: &str) -> Result<u16, &'static str> {
    const EXPECTED: &str = "three or four octal digits in quotes, such as \"0644\"";
    if !(3..=5).contains(&s.len()) || !s.bytes().all(|b| (b'0'..=b'7').contains(&b)) {
        return Err(EXPECTED);
    }
    u16::from_str_radix(s, 8)
        .ok()
        .filter(|m| *m <= 0o7777)
        .ok_or(EXPECTED)
}

/// A host name.
pub(crate) fn hostname(s: &str) -> Checked {
    let label_ok = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    rule(
        s.len() <= 64 && s.split('.').all(label_ok),
        "a host name: letters, digits and `-`, at most 64 characters",
    )
}

/// The name of a time zone.
pub(crate) fn timezone(s: &str) -> Checked {
    let word_ok = |p: &str| {
        !p.is_empty()
            && p.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"+-_".contains(&b))
    };
    rule(
        s.split('/').all(word_ok),
        "a time zone such as `UTC` or `Europe/Berlin`",
    )
}

/// The name of a locale.
pub(crate) fn locale(s: &str) -> Checked {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b"_.@-".contains(&b);
    rule(
        !s.is_empty() && s.bytes().all(ok),
        "a locale such as `C.UTF-8`",
    )
}

/// Suffixes of systemd units that can be enabled.
const UNIT_KINDS: &[&str] = &[
    "service",
    "socket",
    "timer",
    "path",
    "target",
    "mount",
    "automount",
    "swap",
    "slice",
];

/// The name of a systemd unit.
pub(crate) fn unit(s: &str) -> Checked {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b":_.\\@-".contains(&b);
    let kind_ok = s
        .rsplit_once('.')
        .is_some_and(|(stem, kind)| !stem.is_empty() && UNIT_KINDS.contains(&kind));
    rule(
        kind_ok && s.len() <= 255 && s.bytes().all(ok),
        "a unit with its suffix, such as `nginx.service`",
    )
}

/// One line of text.
pub(crate) fn line(s: &str) -> Checked {
    rule(
        !s.chars().any(char::is_control),
        "one line without control characters",
    )
}

/// A field of `/etc/passwd`.
pub(crate) fn passwd_field(s: &str) -> Checked {
    rule(line(s).is_ok() && !s.contains(':'), "one line without `:`")
}

/// Seconds since 1970 of a date such as `2026-07-11T10:16:37Z` (also with a space, or without a time).
pub(crate) fn date(s: &str) -> Result<i64, &'static str> {
    parse_date(s).ok_or("a date such as `2026-07-11T10:16:37Z`")
}

fn parse_date(s: &str) -> Option<i64> {
    let number = |t: &str, len: usize| -> Option<i64> {
        (t.len() == len && t.bytes().all(|b| b.is_ascii_digit()))
            .then(|| t.parse().ok())
            .flatten()
    };
    let (day, time) = s.split_once(['T', ' ']).unwrap_or((s, "00:00:00Z"));
    let mut ymd = day.split('-');
    let (y, m, d) = (
        number(ymd.next()?, 4)?,
        number(ymd.next()?, 2)?,
        number(ymd.next()?, 2)?,
    );
    let mut hms = time.strip_suffix('Z')?.split(':');
    let (h, min, sec) = (
        number(hms.next()?, 2)?,
        number(hms.next()?, 2)?,
        number(hms.next()?, 2)?,
    );
    let leap = y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
    let days_in_month = match m {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    let ok = y >= 1970 && (1..=days_in_month).contains(&d) && h < 24 && min < 60 && sec < 60;
    if !ok || ymd.next().is_some() || hms.next().is_some() {
        return None;
    }
    let days = days_since_1970(y, m, d);
    Some(((days * 24 + h) * 60 + min) * 60 + sec)
}

fn rule(holds: bool, expected: &'static str) -> Checked {
    if holds { Ok(()) } else { Err(expected) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(date("1970-01-01T00:00:00Z"), Ok(0));
        assert_eq!(date("2026-07-11T10:16:37Z"), Ok(1_783_764_997));
        assert_eq!(date("2000-02-29 12:00:00Z"), Ok(951_825_600));
        assert_eq!(date("2026-01-01"), Ok(1_767_225_600));
        for bad in [
            "2026-02-29",
            "2026-13-01",
            "2026-1-1",
            "1969-12-31",
            "2026-07-11T24:00:00Z",
            "2026-07-11T10:00:00",
            "x",
        ] {
            assert!(date(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn packages() {
        for good in [
            "nginx",
            "g++",
            "libc6:i386",
            "nginx (>= 1.22)",
            "nginx (>=1.22)",
            "nginx=1.22-9+deb12u1",
            "python3:any",
            "0ad",
        ] {
            assert_eq!(wanted_package(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "n",
            "Nginx",
            "nginx ",
            "nginx (1.22)",
            "nginx (>= )",
            "nginx=",
            "-o",
            "nginx:pdp11",
            "a b",
            "nginx (>= 1",
            "../x",
        ] {
            assert!(wanted_package(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths() {
        for good in ["/etc/motd", "/usr/lib/a b", "/x"] {
            assert_eq!(absolute_path(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "/",
            "etc",
            "/etc/",
            "//etc",
            "/etc/../x",
            "/./x",
            "/a\nb",
            "/a\0b",
        ] {
            assert!(absolute_path(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "./a/b", "etc/nginx/site.conf", "..a"] {
            assert_eq!(relative_path(good), Ok(()), "{good}");
        }
        for bad in ["", "/a", "../a", "a/../b", "a//b", "./", "a/."] {
            assert!(relative_path(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(mode("0644"), Ok(0o644));
        assert_eq!(mode("4755"), Ok(0o4755));
        assert_eq!(mode("04755"), Ok(0o4755));
        for bad in ["", "64", "0648", "17777", "rw-r", "-644", "+644"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
        for good in ["root:root", "0:0", "www-data:33", "root", "0"] {
            assert_eq!(owner(good), Ok(()), "{good}");
        }
        for bad in ["", "root:", ":", "a:b:c", "00:0", "65534:0", "Root:root"] {
            assert!(owner(bad).is_err(), "{bad}");
        }
        assert!(
            hostname("web-1.example").is_ok()
                && hostname("-web").is_err()
                && hostname("").is_err()
                && hostname("a_b").is_err()
        );
        assert!(
            unit("nginx.service").is_ok()
                && unit("getty@tty1.service").is_ok()
                && unit("nginx").is_err()
                && unit("../x.service").is_err()
        );
        assert!(
            timezone("Europe/Berlin").is_ok()
                && timezone("../etc").is_err()
                && timezone("/x").is_err()
        );
        assert!(
            suite("bookworm/updates").is_ok() && suite("../x").is_err() && suite("a/b/c").is_err()
        );
        assert!(
            archive_uri("mirror://debian").is_ok()
                && archive_uri("ftp://x").is_err()
                && archive_uri("debian").is_err()
        );
    }
}
