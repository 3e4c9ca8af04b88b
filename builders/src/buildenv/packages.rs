//! The attribute `derivations`: packages as words.

/// One output of a package.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Package {
    /// Absolute path in the store.
    pub(super) path: String,
    /// Whether it is part of the environment.
    pub(super) active: bool,
    /// The lower, the more it counts.
    pub(super) priority: i64,
}

/// Reads `active priority count path...`, over and over; the error says what is wrong.
pub(super) fn packages(text: &str) -> Result<Vec<Package>, String> {
    let mut words = text.split_ascii_whitespace();
    let mut list = Vec::new();
    while let Some(active) = words.next() {
        let mut number = |what: &str| {
            let word = words.next().ok_or_else(|| format!("ends before {what}"))?;
            word.parse::<i64>()
                .map_err(|_bad| format!("has `{word}` where {what} should be"))
        };
        let priority = number("a priority")?;
        let count = number("a number of outputs")?;
        for _ in 0..count {
            let path = words
                .next()
                .ok_or_else(|| "ends before all outputs are named".to_owned())?;
            list.push(Package {
                path: path.to_owned(),
                active: active != "false",
                priority,
            });
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let list = packages("true 5 2 /a /b false -3 1 /c 1 0 0").unwrap();
        let shown: Vec<_> = list
            .iter()
            .map(|p| (p.path.as_str(), p.active, p.priority))
            .collect();
        assert_eq!(shown, [("/a", true, 5), ("/b", true, 5), ("/c", false, -3)]);
        for bad in ["true", "true x", "true 5 2 /a", "true 5 y"] {
            assert!(packages(bad).is_err(), "{bad}");
        }
    }
}
