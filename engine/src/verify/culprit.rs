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

/// Builds under some conditions and tells whether something else came out; the number is that of the builds in all, unless
/// another condition turns out to be at fault as well.
type Differs<'a, E> = &'a mut dyn FnMut(&BTreeSet<Condition>, usize) -> Result<bool, E>;

/// Looks for what makes builds differ. All conditions together are known to.
pub(super) fn find<E>(all: &BTreeSet<Condition>, differs: Differs<'_, E>) -> Result<Culprit, E> {
    let mut done = 0;
    // `after` builds are still to come at most.
    let mut differs = |set: &BTreeSet<Condition>, after: usize| {
        done += 1;
        differs(set, done + after)
    };
    let nothing = BTreeSet::new();
    if all.is_empty() || differs(&nothing, halvings(all.len()) + last(all.len()))? {
        return Ok(Culprit::Itself);
    }
    let mut left = all.clone();
    let mut found: Vec<BTreeSet<Condition>> = Vec::new();
    loop {
        let culprit = narrow(left.clone(), last(left.len()), &mut differs)?;
        left.retain(|condition| !culprit.contains(condition));
        found.push(culprit);
        if left.is_empty() || !differs(&left, 1)? {
            break;
        }
    }
    // What differs now and then would be blamed on whatever was varied just then.
    if differs(&nothing, 0)? {
        return Ok(Culprit::Itself);
    }
    Ok(Culprit::Conditions(found))
}

/// The most builds by which [`narrow`] finds one condition among so many.
fn halvings(conditions: usize) -> usize {
    match conditions {
        0 | 1 => 0,
        more => 2 * ((more - 1).ilog2() as usize + 1),
    }
}

/// The builds after that: with all others, if there are any, and with nothing.
fn last(conditions: usize) -> usize {
    1 + usize::from(conditions > 1)
}

/// Halves a set that makes a difference until it can be made no smaller.
fn narrow<E>(
    mut set: BTreeSet<Condition>,
    after: usize,
    differs: Differs<'_, E>,
) -> Result<BTreeSet<Condition>, E> {
    while set.len() > 1 {
        let middle = set.len() / 2;
        let first: BTreeSet<Condition> = set.iter().copied().take(middle).collect();
        let second: BTreeSet<Condition> = set.iter().copied().skip(middle).collect();
        let then = halvings(second.len()) + after;
        if differs(&first, 1 + then)? {
            set = first;
        } else if differs(&second, then)? {
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
        let found = find::<Infallible>(&all, &mut |set, expected| {
            builds += 1;
            assert!(builds <= expected, "build {builds} of {expected}");
            Ok(guilty.iter().any(|g| g.iter().all(|c| set.contains(c))))
        });
        (found.unwrap(), builds)
    }

    #[test]
    fn each_condition_is_found_alone_and_with_others() {
        for condition in Condition::ALL {
            let (found, builds) = look(&[&[condition]]);
            assert_eq!(found, Culprit::Conditions(vec![[condition].into()]));
            assert!(builds <= 11, "{builds}");
        }
        let (found, builds) = look(&[&[Condition::Cores], &[Condition::Kernel]]);
        let expected = vec![[Condition::Cores].into(), [Condition::Kernel].into()];
        assert_eq!(found, Culprit::Conditions(expected));
        assert!(builds > 11, "the second one takes more: {builds}");
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
        let found = find::<Infallible>(&all, &mut |_, _| {
            builds += 1;
            Ok(builds % 2 == 0)
        });
        assert_eq!(found.unwrap(), Culprit::Itself);
    }
}
