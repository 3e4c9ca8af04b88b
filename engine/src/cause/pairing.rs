//! Which new input stands in the place of which old one.
//!
//! A name is enough where one old and one new input bear it. Of several (every source may be called `source`) the variable that
//! holds them tells first, then what they have in common, then in which order they stand. What is left then may have got another name:
//! it is the same one if it stands alone where the other one stood alone.

use std::cell::OnceCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use sos_formats::derivation::Derivation;
use sos_formats::store_path::{StoreDir, StorePath};

use super::written::{mask, raw_attrs, unversioned};

/// Pairs of one name that are compared by what is in them; of more only their places tell.
const COMPARED: usize = 1024;

/// How much an old and a new input have in common; 0 when that is nothing, or not known.
pub(super) type InCommon<'a> = dyn Fn(&StorePath, &StorePath) -> usize + 'a;

/// Two derivations, both with every input a store path, whose inputs are paired.
pub(super) struct Pairing<'a> {
    dir: &'a StoreDir,
    old: &'a Derivation,
    new: &'a Derivation,
    in_common: &'a InCommon<'a>,
    slots: OnceCell<(Slots, Slots)>,
}

/// The texts of a derivation, by the variables or arguments that they are.
type Slots = BTreeMap<String, Slot>;

struct Slot {
    masked: Vec<u8>,
    /// The store paths in it, in order.
    paths: Vec<StorePath>,
}

/// What speaks for a pair, what weighs most first.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Evidence {
    /// Variables that hold nothing else of this name on both sides, and whose text is the same but for the paths.
    alone: usize,
    in_common: usize,
    /// The same place among several in such a text.
    in_order: usize,
    /// The same place in a text that differs otherwise, too.
    in_other_text: usize,
}

impl<'a> Pairing<'a> {
    pub(super) fn new(
        dir: &'a StoreDir,
        old: &'a Derivation,
        new: &'a Derivation,
        in_common: &'a InCommon<'a>,
    ) -> Self {
        Self {
            dir,
            old,
            new,
            in_common,
            slots: OnceCell::new(),
        }
    }

    /// Pairs inputs that are on the old side only with such that are on the new side only, and takes them out of both lists.
    pub(super) fn pair(
        &self,
        removed: &mut Vec<StorePath>,
        added: &mut Vec<StorePath>,
    ) -> Vec<(StorePath, StorePath)> {
        let mut found = Vec::new();
        // Equal names first, so that `x-1` is not taken for an earlier `x-2` while `x-2` is there.
        for key in [(|name| name) as fn(&str) -> &str, unversioned] {
            let mut groups: BTreeMap<&str, (Vec<&StorePath>, Vec<&StorePath>)> = BTreeMap::new();
            for path in removed.iter() {
                groups.entry(key(path.name())).or_default().0.push(path);
            }
            for path in added.iter() {
                groups.entry(key(path.name())).or_default().1.push(path);
            }
            let mut pairs = Vec::new();
            for (name, (olds, news)) in groups {
                match (olds.as_slice(), news.as_slice()) {
                    ([], _) | (_, []) => {}
                    ([old], [new]) => pairs.push(((*old).clone(), (*new).clone())),
                    _ => pairs.extend(self.of_one_name(&|path| key(path) == name, &olds, &news)),
                }
            }
            let olds: BTreeSet<&StorePath> = pairs.iter().map(|(old, _)| old).collect();
            let news: BTreeSet<&StorePath> = pairs.iter().map(|(_, new)| new).collect();
            removed.retain(|path| !olds.contains(path));
            added.retain(|path| !news.contains(path));
            found.extend(pairs);
        }
        if !removed.is_empty() && !added.is_empty() {
            for (old, new) in self.renamed(removed, added) {
                removed.retain(|path| *path != old);
                added.retain(|path| *path != new);
                found.push((old, new));
            }
        }
        found
    }

    /// Pairs what a text holds alone on both sides, where the text is the same but for the path; nothing that has two such places
    /// with different ones.
    fn renamed(&self, removed: &[StorePath], added: &[StorePath]) -> Vec<(StorePath, StorePath)> {
        let (before, now) = self.slots();
        let mut pairs: BTreeSet<(&StorePath, &StorePath)> = BTreeSet::new();
        for (slot, was) in before {
            let Some(is) = now.get(slot).filter(|is| is.masked == was.masked) else {
                continue;
            };
            if let ([old], [new]) = (was.paths.as_slice(), is.paths.as_slice())
                && removed.contains(old)
                && added.contains(new)
            {
                pairs.insert((old, new));
            }
        }
        let is_only = |(old, new): &&(&StorePath, &StorePath)| {
            let shares = |pair: &&(&StorePath, &StorePath)| pair.0 == *old || pair.1 == *new;
            pairs.iter().filter(shares).count() == 1
        };
        let only = pairs.iter().filter(is_only);
        only.map(|(old, new)| ((*old).clone(), (*new).clone()))
            .collect()
    }

    fn slots(&self) -> &(Slots, Slots) {
        self.slots.get_or_init(|| {
            let slots = |drv| slots(self.dir, drv);
            (slots(self.old), slots(self.new))
        })
    }

    fn of_one_name(
        &self,
        is_named: &dyn Fn(&str) -> bool,
        olds: &[&StorePath],
        news: &[&StorePath],
    ) -> Vec<(StorePath, StorePath)> {
        let (before, now) = self.slots();
        let (olds, news) = (in_order(before, olds), in_order(now, news));
        let rank = |all: &[&StorePath]| -> BTreeMap<StorePath, usize> {
            let numbered = all.iter().enumerate();
            numbered.map(|(at, path)| ((*path).clone(), at)).collect()
        };
        let (old_at, new_at) = (rank(&olds), rank(&news));
        let mut evidence: BTreeMap<(usize, usize), Evidence> = BTreeMap::new();
        for (slot, was) in before {
            let Some(is) = now.get(slot) else { continue };
            let named = |slot: &'_ Slot| -> Vec<StorePath> {
                let paths = slot.paths.iter().filter(|path| is_named(path.name()));
                paths.cloned().collect()
            };
            let (was_there, is_there) = (named(was), named(is));
            if was_there.len() != is_there.len() {
                continue;
            }
            let is_alone = was_there.len() == 1;
            for (old, new) in was_there.iter().zip(&is_there) {
                let (Some(old), Some(new)) = (old_at.get(old), new_at.get(new)) else {
                    continue;
                };
                let one = evidence.entry((*old, *new)).or_default();
                match (was.masked == is.masked, is_alone) {
                    (true, true) => one.alone += 1,
                    (true, false) => one.in_order += 1,
                    (false, _) => one.in_other_text += 1,
                }
            }
        }
        if olds.len().saturating_mul(news.len()) <= COMPARED {
            for (i, old) in olds.iter().enumerate() {
                for (j, new) in news.iter().enumerate() {
                    let in_common = (self.in_common)(old, new);
                    evidence.entry((i, j)).or_default().in_common = in_common;
                }
            }
        }
        let mut ranked: Vec<((usize, usize), Evidence)> = evidence.into_iter().collect();
        ranked.sort_by_key(|(at, evidence)| (Reverse(*evidence), *at));
        let mut found = Vec::new();
        let (mut olds_left, mut news_left) = (vec![true; olds.len()], vec![true; news.len()]);
        // Where nothing tells, the order does.
        let rest = (0..olds.len().min(news.len())).map(|at| (at, at));
        for (i, j) in ranked.into_iter().map(|(at, _)| at).chain(rest) {
            if olds_left[i] && news_left[j] {
                (olds_left[i], news_left[j]) = (false, false);
                found.push((olds[i].clone(), news[j].clone()));
            }
        }
        found
    }
}

/// Sorts paths by where they are met first.
fn in_order<'a>(slots: &Slots, paths: &[&'a StorePath]) -> Vec<&'a StorePath> {
    let mut first: BTreeMap<&StorePath, usize> = BTreeMap::new();
    for (at, path) in slots.values().flat_map(|slot| &slot.paths).enumerate() {
        first.entry(path).or_insert(at);
    }
    let mut sorted = paths.to_vec();
    sorted.sort_by_key(|path| (first.get(path).copied().unwrap_or(usize::MAX), *path));
    sorted
}

fn slots(dir: &StoreDir, drv: &Derivation) -> Slots {
    let args = drv.args.iter().enumerate();
    let args = args.map(|(at, arg)| (format!("argument {at}"), arg.clone()));
    let attrs = raw_attrs(drv).into_iter();
    let attrs = attrs.map(|(name, value)| (format!("variable {name}"), value));
    let mut all = Slots::new();
    for (slot, text) in args.chain(attrs) {
        let mut paths = Vec::new();
        let masked = mask(dir, &text, &mut |base| {
            paths.extend(StorePath::from_base(base).ok());
        });
        if !paths.is_empty() {
            all.insert(slot, Slot { masked, paths });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(digit: char, name: &str) -> StorePath {
        StorePath::from_base(&format!("{}-{name}", digit.to_string().repeat(32))).unwrap()
    }

    /// A derivation with the inputs of these digits, all called `source`, in variables.
    fn drv(variables: &[(&str, &str)]) -> Derivation {
        let dir = StoreDir::default();
        let mut drv = Derivation::default();
        for (name, digits) in variables {
            let paths = digits.chars().map(|digit| path(digit, "source"));
            let paths: Vec<String> = paths.map(|path| path.absolute(&dir)).collect();
            let value = paths.join(" ").into_bytes();
            drv.env.insert(name.as_bytes().to_vec(), value);
            let all = digits.chars().map(|digit| path(digit, "source"));
            drv.input_srcs.extend(all);
        }
        drv
    }

    #[track_caller]
    fn check(
        old: &Derivation,
        new: &Derivation,
        in_common: &dyn Fn(char, char) -> usize,
        expect: &str,
    ) {
        let digit = |path: &StorePath| path.as_str().chars().next().unwrap();
        let (mut removed, mut added): (Vec<StorePath>, Vec<StorePath>) = (
            old.input_srcs
                .difference(&new.input_srcs)
                .cloned()
                .collect(),
            new.input_srcs
                .difference(&old.input_srcs)
                .cloned()
                .collect(),
        );
        let dir = StoreDir::default();
        let in_common = |a: &StorePath, b: &StorePath| in_common(digit(a), digit(b));
        let found = Pairing::new(&dir, old, new, &in_common).pair(&mut removed, &mut added);
        let mut found: Vec<String> = found
            .iter()
            .map(|(old, new)| format!("{}{}", digit(old), digit(new)))
            .chain(removed.iter().map(|old| format!("{}-", digit(old))))
            .chain(added.iter().map(|new| format!("-{}", digit(new))))
            .collect();
        found.sort();
        assert_eq!(found.join(" "), expect);
    }

    #[test]
    fn the_variable_tells_of_equal_names() {
        let nothing = |_, _| 0;
        let old = drv(&[("data", "1"), ("src", "2")]);
        check(
            &old,
            &drv(&[("data", "9"), ("src", "3")]),
            &nothing,
            "19 23",
        );
        check(
            &old,
            &drv(&[("data", "3"), ("src", "9")]),
            &nothing,
            "13 29",
        );
        // It weighs more than what is alike.
        let crossed = |a, b| usize::from((a, b) == ('1', '3'));
        check(
            &old,
            &drv(&[("data", "9"), ("src", "3")]),
            &crossed,
            "19 23",
        );
        // One of them is gone.
        check(&old, &drv(&[("src", "3")]), &nothing, "1- 23");
        check(
            &drv(&[("src", "2")]),
            &drv(&[("data", "3"), ("src", "4")]),
            &nothing,
            "-3 24",
        );
    }

    #[test]
    fn in_a_list_what_is_alike_tells_and_then_the_order() {
        let nothing = |_, _| 0;
        let old = drv(&[("srcs", "213")]);
        check(&old, &drv(&[("srcs", "978")]), &nothing, "17 29 38");
        let alike = |a, b| usize::from((a, b) == ('2', '8')) + usize::from((a, b) == ('3', '9'));
        check(&old, &drv(&[("srcs", "978")]), &alike, "17 28 39");
        // One came in front.
        let alike = |a, b| usize::from((a, b) == ('2', '8'));
        check(
            &drv(&[("srcs", "2")]),
            &drv(&[("srcs", "98")]),
            &alike,
            "-9 28",
        );
    }

    #[test]
    fn too_many_are_paired_by_their_places() {
        let digits: Vec<char> = "0123456789abcdfghijklmnpqrsvwxyz".chars().collect();
        let side = |swap: usize| {
            let mut drv = Derivation::default();
            for n in 0..COMPARED {
                let base: String = [n % 32, n / 32 % 32, swap]
                    .map(|at| digits[at])
                    .iter()
                    .collect();
                let path = StorePath::from_base(&format!("{base}{}-source", "0".repeat(29)));
                let path = path.unwrap();
                let text = path.absolute(&StoreDir::default());
                drv.env
                    .insert(format!("v{n}").into_bytes(), text.into_bytes());
                drv.input_srcs.insert(path);
            }
            drv
        };
        let (old, new) = (side(1), side(2));
        let (mut removed, mut added): (Vec<StorePath>, Vec<StorePath>) = (
            old.input_srcs.iter().cloned().collect(),
            new.input_srcs.iter().cloned().collect(),
        );
        let in_common = |_: &StorePath, _: &StorePath| panic!("nothing is compared");
        let dir = StoreDir::default();
        let found = Pairing::new(&dir, &old, &new, &in_common).pair(&mut removed, &mut added);
        assert_eq!(found.len(), COMPARED);
        assert!(
            found
                .iter()
                .all(|(a, b)| a.as_str()[..2] == b.as_str()[..2])
        );
    }
}
