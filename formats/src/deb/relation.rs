//! Relations between packages: `Depends`, `Conflicts`, `Provides` and the like (deb-control(5), Policy 7).

use std::cmp::Ordering;
use std::fmt;

use super::version;

/// Why a relation field is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem} in `{text}`")]
pub struct RelationError {
    /// What is wrong.
    pub problem: &'static str,
    /// The relation it is wrong in.
    pub text: String,
}

/// How a version is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RelationOp {
    /// `<<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `=`
    Equal,
    /// `>=`
    GreaterOrEqual,
    /// `>>`
    Greater,
}

impl RelationOp {
    /// Says whether `have OP want` holds.
    pub fn holds(self, have: &str, want: &str) -> bool {
        self.accepts(version::compare(have, want))
    }

    /// Says whether the operator holds for things of that order.
    pub fn accepts(self, order: Ordering) -> bool {
        match self {
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Equal => order.is_eq(),
            Self::GreaterOrEqual => order.is_ge(),
            Self::Greater => order.is_gt(),
        }
    }

    /// Gives the operator as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Less => "<<",
            Self::LessOrEqual => "<=",
            Self::Equal => "=",
            Self::GreaterOrEqual => ">=",
            Self::Greater => ">>",
        }
    }
}

/// One package name with its conditions: `name[:arch] [(op version)]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Relation<'a> {
    /// The name.
    pub name: &'a str,
    /// The architecture after the colon: `any`, `native` or a real one.
    pub arch: Option<&'a str>,
    /// The version condition.
    pub version: Option<(RelationOp, &'a str)>,
}

/// What `|` joins: any one of them will do, the first is preferred.
pub type Group<'a> = Vec<Relation<'a>>;

impl<'a> Relation<'a> {
    /// Parses a single relation.
    pub fn parse(text: &'a str) -> Result<Self, RelationError> {
        let whole = text.trim_ascii();
        let fail = |problem| RelationError {
            problem,
            text: whole.to_owned(),
        };
        let name_end = whole
            .find(|c: char| c.is_ascii_whitespace() || c == '(')
            .unwrap_or(whole.len());
        let (qualified, rest) = (&whole[..name_end], whole[name_end..].trim_ascii_start());
        let (name, arch) = qualified
            .split_once(':')
            .map_or((qualified, None), |(n, a)| (n, Some(a)));
        if !is_package_name(name) {
            return Err(fail("invalid package name"));
        }
        if arch.is_some_and(|a| {
            a.is_empty() || !a.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        }) {
            return Err(fail("invalid architecture"));
        }
        let version = match rest {
            "" => None,
            _ => {
                let inner = rest
                    .strip_prefix('(')
                    .and_then(|r| r.strip_suffix(')'))
                    .ok_or_else(|| fail("expected `(operator version)`"))?;
                Some(parse_condition(inner).map_err(fail)?)
            }
        };
        Ok(Self {
            name,
            arch,
            version,
        })
    }

    /// Parses a whole field: groups by `,`, alternatives by `|`. An empty field has no groups.
    pub fn parse_list(text: &'a str) -> Result<Vec<Group<'a>>, RelationError> {
        // Fields may end with a comma, and lines break anywhere.
        let groups = text
            .split(',')
            .map(str::trim_ascii)
            .filter(|group| !group.is_empty());
        groups
            .map(|group| group.split('|').map(Self::parse).collect())
            .collect()
    }

    /// Says whether a version satisfies the condition; none is satisfied by all.
    pub fn accepts_version(&self, have: &str) -> bool {
        self.version.is_none_or(|(op, want)| op.holds(have, want))
    }

    /// Says whether a `Provides` entry satisfies the condition: only a versioned one satisfies a versioned relation.
    pub fn accepts_provided(&self, provided: Option<&str>) -> bool {
        match (self.version, provided) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some((op, want)), Some(have)) => op.holds(have, want),
        }
    }
}

impl fmt::Display for Relation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        if let Some(arch) = self.arch {
            write!(f, ":{arch}")?;
        }
        if let Some((op, version)) = self.version {
            write!(f, " ({} {version})", op.as_str())?;
        }
        Ok(())
    }
}

/// Says whether a text can name a package: Policy's rule, with the capitals and underscores that dpkg lets pass.
pub fn is_package_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"+-._".contains(&b))
}

fn parse_condition(inner: &str) -> Result<(RelationOp, &str), &'static str> {
    let inner = inner.trim_ascii();
    // The single signs are obsolete and mean "or equal"; longer signs must be tried first.
    const OPS: [(&str, RelationOp); 7] = [
        ("<<", RelationOp::Less),
        ("<=", RelationOp::LessOrEqual),
        (">=", RelationOp::GreaterOrEqual),
        (">>", RelationOp::Greater),
        ("=", RelationOp::Equal),
        ("<", RelationOp::LessOrEqual),
        (">", RelationOp::GreaterOrEqual),
    ];
    let found = OPS.iter().find_map(|(sign, op)| {
        inner
            .strip_prefix(sign)
            .map(|rest| (*op, rest.trim_ascii()))
    });
    let (op, text) = found.ok_or("expected one of `<<`, `<=`, `=`, `>=`, `>>`")?;
    let dense = !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"(),|".contains(&b));
    if dense {
        Ok((op, text))
    } else {
        Err("invalid version")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let shown = match Relation::parse_list(text) {
            Ok(groups) => {
                let show = |group: &Group<'_>| {
                    group
                        .iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .join(" | ")
                };
                groups.iter().map(show).collect::<Vec<_>>().join(", ")
            }
            Err(err) => format!("error: {err}"),
        };
        assert_eq!(shown, expected);
    }

    #[test]
    fn the_grammar() {
        check("", "");
        check(
            "libc6 (>= 2.36), python3:any|perl",
            "libc6 (>= 2.36), python3:any | perl",
        );
        check("a(=1),\n b ( <<2 ) ,", "a (= 1), b (<< 2)");
        check("a (< 1), b (> 1)", "a (<= 1), b (>= 1)");
        check("a:arm64 (= 1:2~3)", "a:arm64 (= 1:2~3)");
    }

    #[test]
    fn what_is_refused() {
        check("a |", "error: invalid package name in ``");
        check("-a", "error: invalid package name in `-a`");
        check("a:", "error: invalid architecture in `a:`");
        check("a b", "error: expected `(operator version)` in `a b`");
        check(
            "a (1)",
            "error: expected one of `<<`, `<=`, `=`, `>=`, `>>` in `a (1)`",
        );
        check("a (=)", "error: invalid version in `a (=)`");
        check("a (= 1", "error: expected `(operator version)` in `a (= 1`");
        check("a (= 1) (= 2)", "error: invalid version in `a (= 1) (= 2)`");
    }

    #[test]
    fn provides_satisfy_only_what_they_version() {
        let versioned = Relation::parse("x (>= 2)").expect("valid");
        let plain = Relation::parse("x").expect("valid");
        assert!(plain.accepts_provided(None) && plain.accepts_provided(Some("1")));
        assert!(!versioned.accepts_provided(None) && !versioned.accepts_provided(Some("1")));
        assert!(versioned.accepts_provided(Some("2")) && versioned.accepts_version("3"));
    }
}
