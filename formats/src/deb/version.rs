//! Package versions and their order, as dpkg compares them (deb-version(7)).

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// Why a text is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VersionError {
    /// Nothing at all, or nothing after the epoch.
    #[error("the version is empty")]
    Empty,
    /// The part before the colon is no number that dpkg accepts.
    #[error("the epoch `{epoch}` is not a number below 2^31")]
    Epoch {
        /// The text before the colon.
        epoch: String,
    },
    /// A hyphen at the end.
    #[error("the revision after the last `-` is empty")]
    EmptyRevision,
    /// A character that no version has.
    #[error("invalid character `{found}`")]
    Character {
        /// The character.
        found: char,
    },
}

/// A checked version. Equality and order are dpkg's, so `1.0` and `1.0-0` are equal.
#[derive(Debug, Clone)]
pub struct Version(String);

impl Version {
    /// Gives the text as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        check(text)?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.0, &other.0)
    }
}

/// Checks that a text is a version.
pub fn check(text: &str) -> Result<(), VersionError> {
    if text.is_empty() {
        return Err(VersionError::Empty);
    }
    let rest = match text.split_once(':') {
        None => text,
        Some((epoch, rest)) => {
            let digits = !epoch.is_empty() && epoch.bytes().all(|b| b.is_ascii_digit());
            if !digits || epoch.parse::<i32>().is_err() {
                return Err(VersionError::Epoch {
                    epoch: epoch.into(),
                });
            }
            rest
        }
    };
    let (upstream, revision) = rest
        .rsplit_once('-')
        .map_or((rest, None), |(u, r)| (u, Some(r)));
    if upstream.is_empty() {
        return Err(VersionError::Empty);
    }
    if revision == Some("") {
        return Err(VersionError::EmptyRevision);
    }
    let invalid =
        |set: &'static str| move |c: &char| !c.is_ascii_alphanumeric() && !set.contains(*c);
    let found = upstream
        .chars()
        .find(invalid(".+-~:"))
        .or_else(|| revision.and_then(|r| r.chars().find(invalid(".+~"))));
    found.map_or(Ok(()), |found| Err(VersionError::Character { found }))
}

/// Compares two versions without checking them first: any two texts have an order.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (epoch_a, upstream_a, revision_a) = split(a);
    let (epoch_b, upstream_b, revision_b) = split(b);
    compare_number(epoch_a.as_bytes(), epoch_b.as_bytes())
        .then_with(|| compare_part(upstream_a.as_bytes(), upstream_b.as_bytes()))
        .then_with(|| compare_part(revision_a.as_bytes(), revision_b.as_bytes()))
}

fn split(text: &str) -> (&str, &str, &str) {
    let (epoch, rest) = text.split_once(':').unwrap_or(("", text));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch, upstream, revision)
}

/// Compares one part: runs of non-digits and runs of digits take turns.
fn compare_part(mut a: &[u8], mut b: &[u8]) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        let (text_a, rest_a) = a.split_at(run(a, |c| !c.is_ascii_digit()));
        let (text_b, rest_b) = b.split_at(run(b, |c| !c.is_ascii_digit()));
        let (number_a, rest_a) = rest_a.split_at(run(rest_a, |c| c.is_ascii_digit()));
        let (number_b, rest_b) = rest_b.split_at(run(rest_b, |c| c.is_ascii_digit()));
        let order = compare_text(text_a, text_b).then_with(|| compare_number(number_a, number_b));
        if order.is_ne() {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
    Ordering::Equal
}

fn run(bytes: &[u8], pred: impl Fn(u8) -> bool) -> usize {
    bytes.iter().position(|c| !pred(*c)).unwrap_or(bytes.len())
}

/// Compares non-digits: `~` before the end, the end before letters, letters before the rest.
fn compare_text(a: &[u8], b: &[u8]) -> Ordering {
    fn weight(byte: Option<&u8>) -> u16 {
        match byte {
            Some(b'~') => 0,
            None => 1,
            Some(c) if c.is_ascii_alphabetic() => u16::from(*c) + 2,
            Some(c) => u16::from(*c) + 0x100,
        }
    }
    (0..a.len().max(b.len()))
        .map(|i| weight(a.get(i)).cmp(&weight(b.get(i))))
        .find(|o| o.is_ne())
        .unwrap_or(Ordering::Equal)
}

/// Compares digits by value, however many there are.
fn compare_number(a: &[u8], b: &[u8]) -> Ordering {
    let strip = |n: &[u8]| run(n, |c| c == b'0');
    let (a, b) = (&a[strip(a)..], &b[strip(b)..]);
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    #[track_caller]
    fn check_order(a: &str, expected: Ordering, b: &str) {
        assert_eq!(compare(a, b), expected, "{a} against {b}");
        assert_eq!(compare(b, a), expected.reverse(), "{b} against {a}");
    }

    #[test]
    fn the_table_of_the_reference() {
        use Ordering::{Equal, Greater, Less};
        check_order("1.0~rc1", Less, "1.0");
        check_order("1.0~~", Less, "1.0~");
        check_order("1.0+b1", Greater, "1.0");
        check_order("1.0a", Less, "1.0+");
        check_order("1.0-0", Equal, "1.0");
        check_order("1.02", Equal, "1.2");
        check_order("0:1", Equal, "1");
        check_order("1:0.1", Greater, "9");
        check_order("1.0.a", Greater, "1.0.1");
        check_order(
            "99999999999999999999999999",
            Less,
            "100000000000000000000000000",
        );
        check_order("1-1-1", Less, "1-2-0");
    }

    #[test]
    fn what_is_no_version() {
        assert_eq!(check(""), Err(VersionError::Empty));
        assert_eq!(check("1:"), Err(VersionError::Empty));
        assert_eq!(check("x:1"), Err(VersionError::Epoch { epoch: "x".into() }));
        assert_eq!(
            check("9999999999:1"),
            Err(VersionError::Epoch {
                epoch: "9999999999".into()
            })
        );
        assert_eq!(check("1-"), Err(VersionError::EmptyRevision));
        assert_eq!(check("1 2"), Err(VersionError::Character { found: ' ' }));
        assert_eq!(
            check("1:1-1:2"),
            Err(VersionError::Character { found: ':' })
        );
        check("1:2:3-4-5~6+b1").expect("a colon may follow an epoch");
    }

    proptest! {
        #[test]
        fn order_is_total(a in "[0-9a-zA-Z.+~:-]{0,12}", b in "[0-9a-z.+~-]{0,12}", c in "[01a.~-]{0,6}") {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
                prop_assert!(compare(&a, &c).is_le());
            }
        }
    }

    /// A small generator, so that the same versions are compared on every run.
    fn random_version(state: &mut u64) -> String {
        let mut next = |n: u64| {
            *state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (*state >> 33) % n
        };
        let mut text = String::new();
        if next(4) == 0 {
            text.push_str(["0:", "1:", "00:", "10:"][usize::try_from(next(4)).expect("small")]);
        }
        text.push_str(["0", "1", "10", "01"][usize::try_from(next(4)).expect("small")]);
        for _ in 0..next(7) {
            let parts = [
                "0",
                "1",
                "9",
                "10",
                ".",
                "~",
                "+",
                "a",
                "Z",
                "-",
                "00",
                "rc",
                "~~",
                "9999999999999999999999",
            ];
            text.push_str(parts[usize::try_from(next(14)).expect("small")]);
        }
        if text.ends_with('-') {
            text + "1"
        } else {
            text
        }
    }

    #[test]
    fn dpkg_agrees() {
        let mut state = 7;
        // One process per pair is slow, so one shell asks dpkg about all of them.
        let mut script = String::new();
        let mut pairs = Vec::new();
        for _ in 0..400 {
            let (a, b) = (random_version(&mut state), random_version(&mut state));
            script.push_str(&format!("if dpkg --compare-versions {a} lt {b}; then echo lt; elif dpkg --compare-versions {a} eq {b}; then echo eq; else echo gt; fi\n"));
            pairs.push((a, b));
        }
        let found = Command::new("dpkg")
            .arg("--version")
            .output()
            .is_ok_and(|o| o.status.success());
        if !found {
            #[allow(clippy::disallowed_methods, reason = "a switch of the test run itself")]
            let required = std::env::var_os("SOS_REQUIRE_PEERS").is_some_and(|v| v == "1");
            assert!(!required, "SOS_REQUIRE_PEERS=1, but: no dpkg");
            println!("skipped: no dpkg");
            return;
        }
        let output = Command::new("sh")
            .args(["-c", &script])
            .output()
            .expect("sh runs");
        let text = String::from_utf8(output.stdout).expect("text");
        let answers: Vec<_> = text.lines().collect();
        assert_eq!(answers.len(), pairs.len());
        for ((a, b), answer) in pairs.iter().zip(answers) {
            let ours = match compare(a, b) {
                Ordering::Less => "lt",
                Ordering::Equal => "eq",
                Ordering::Greater => "gt",
            };
            assert_eq!(ours, answer, "{a} against {b}");
        }
    }
}
