//! Which of the varied conditions a build depends on: builds with fewer and fewer of them.

use std::collections::BTreeSet;

use super::conditions::Condition;

/// What makes builds differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Culprit {
    /// It was not looked for, or the search was stopped.
    Unknown,
    /// Nothing that was varied on purpose: the time, chance, or what runs beside what.
    Itself,
    /// Each of these sets of conditions; more than one condition in a set matter only together.
    Conditions(Vec<BTreeSet<Condition>>),
}

/// Looks for what makes builds differ. `differs` builds under some conditions; all of them together are known to differ.
pub(super) fn find<E>(
    all: &BTreeSet<Condition>,
    differs: &mut dyn FnMut(&BTreeSet<Condition>) -> Result<bool, E>,
) -> Result<Culprit, E> {
    let nothing = BTreeSet::new();
    if all.is_empty() || differs(&nothing)? {
        return Ok(Culprit::Itself);
    }
    let mut left = all.clone();
    let mut found: Vec<BTreeSet<Condition>> = Vec::new();
    loop {
        let culprit = narrow(left.clone(), differs)?;
        left.retain(|condition| !culprit.contains(condition));
        found.push(culprit);
        if left.is_empty() || !differs(&left)? {
            break;
        }
    }
    // What differs now and then would be blamed on whatever was varied just then.
    if differs(&nothing)? {
        return Ok(Culprit::Itself);
    }
    Ok(Culprit::Conditions(found))
}

/// The most builds that [`find`] takes when one of so many conditions is at fault.
pub(super) fn builds(conditions: usize) -> usize {
    // With nothing, twice a halving, with all others, and with nothing again.
    match conditions.checked_sub(1) {
        None => 0,
        Some(0) => 2,
        Some(more) => 3 + 2 * (more.ilog2() as usize + 1),
    }
}

/// Halves a set that makes a difference until it can be made no smaller.
fn narrow<E>(
    mut set: BTreeSet<Condition>,
    differs: &mut dyn FnMut(&BTreeSet<Condition>) -> Result<bool, E>,
) -> Result<BTreeSet<Condition>, E> {
    while set.len() > 1 {
        let middle = set.len() / 2;
        let first: BTreeSet<Condition> = set.iter().copied().take(middle).collect();
        let second: BTreeSet<Condition> = set.iter().copied().skip(middle).collect();
        if differs(&first)? {
            set = first;
        } else if differs(&second)? {
            set = second;
        } else {
            break;
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn look(guilty: &[&[Condition]]) -> (Culprit, usize) {
        let all = BTreeSet::from(Condition::ALL);
        let mut builds = 0;
        let found = find::<Infallible>(&all, &mut |set| {
            builds += 1;
            Ok(guilty.iter().any(|g| g.iter().all(|c| set.contains(c))))
        });
        (found.unwrap(), builds)
    }

    #[test]
    fn each_condition_is_found_alone_and_with_others() {
        for condition in Condition::ALL {
            let (found, builds) = look(&[&[condition]]);
            assert_eq!(found, Culprit::Conditions(vec![[condition].into()]));
            assert!(builds <= super::builds(Condition::ALL.len()), "{builds}");
        }
        let (found, _) = look(&[&[Condition::Cores], &[Condition::Kernel]]);
        let expected = vec![[Condition::Cores].into(), [Condition::Kernel].into()];
        assert_eq!(found, Culprit::Conditions(expected));
    }

    #[test]
    fn conditions_that_matter_only_together_stay_together() {
        let (found, _) = look(&[&[Condition::Cores, Condition::Addresses]]);
        let Culprit::Conditions(sets) = found else {
            panic!("{found:?}");
        };
        assert!(sets[0].contains(&Condition::Cores) && sets[0].contains(&Condition::Addresses));
    }

    #[test]
    fn chance_is_not_blamed_on_a_condition() {
        assert_eq!(look(&[&[]]).0, Culprit::Itself);
        let mut builds = 0;
        let all = BTreeSet::from(Condition::ALL);
        // Differs every other time.
        let found = find::<Infallible>(&all, &mut |_| {
            builds += 1;
            Ok(builds % 2 == 0)
        });
        assert_eq!(found.unwrap(), Culprit::Itself);
    }
}
