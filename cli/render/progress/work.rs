//! What is left to do: who waits for whom, and how long it takes.

use std::collections::BTreeMap;
use std::time::Duration;

use sos_engine::Text;

/// History is doubted when this run takes so many times more or less, after so long, with so much done.
const DOUBT_FACTOR: u64 = 10;
const DOUBT_AFTER: Duration = Duration::from_secs(15);
const DOUBT_DONE_PERCENT: usize = 5;

/// Those that wait for one that are counted: it is done for each frame, and a person sees no difference above.
const COUNTED: usize = 5000;

/// How far a derivation is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Named by another one, and there already or not announced yet.
    #[default]
    Absent,
    Waiting,
    Running(Duration),
    /// Done, failed, or never to be started.
    Over,
}

/// There may be 100,000 of them: each is small.
#[derive(Debug)]
struct Node {
    name: Text,
    state: State,
    /// How many others must end before.
    needs: u32,
    needed_by: Vec<u32>,
    expected_ms: Option<u64>,
}

/// How long is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing is left, or nothing is known to be.
    Nothing,
    /// More than half of it was never done before.
    Unknown,
    /// About so long.
    About(Duration),
}

/// The graph of a run, as its events tell it.
#[derive(Debug, Default)]
pub(super) struct Work {
    jobs: u64,
    ids: BTreeMap<Text, u32>,
    nodes: Vec<Node>,
    /// What each of them needs comes before it; made when it is first asked for.
    order: Vec<u32>,
    announced: usize,
    ended: usize,
    /// Sums over what has ended and had an expected duration: how many, expected, and found.
    compared: (u64, u64, u64),
}

impl Work {
    /// How many builds run at once.
    pub(super) fn jobs(&mut self, jobs: usize) {
        self.jobs = u64::try_from(jobs).unwrap_or(u64::MAX);
    }

    fn id(&mut self, drv: &Text) -> usize {
        if let Some(id) = self.ids.get(drv) {
            return *id as usize;
        }
        self.ids.insert(drv.clone(), small(self.nodes.len()));
        self.nodes.push(Node {
            name: drv.clone(),
            state: State::default(),
            needs: 0,
            needed_by: Vec::new(),
            expected_ms: None,
        });
        self.nodes.len() - 1
    }

    /// Something waits for others, or for a slot.
    pub(super) fn queue(&mut self, drv: &Text, name: &Text, needs: &[Text], expected: Option<u64>) {
        let id = self.id(drv);
        for need in needs {
            let need = self.id(need);
            self.nodes[need].needed_by.push(small(id));
        }
        let node = &mut self.nodes[id];
        node.name = name.clone();
        node.needs = small(needs.len());
        node.expected_ms = expected;
        node.state = State::Waiting;
        self.announced += 1;
        self.order.clear();
    }

    /// Something was started.
    pub(super) fn start(&mut self, drv: &Text, now: Duration) {
        let id = self.id(drv);
        self.nodes[id].state = State::Running(now);
    }

    /// Something has ended: what waited for it waits for one less, or for ever.
    pub(super) fn end(&mut self, drv: &Text, well: bool, took_ms: Option<u64>) {
        let id = self.id(drv);
        if self.nodes[id].state == State::Over {
            return;
        }
        self.nodes[id].state = State::Over;
        self.ended += 1;
        if let (Some(expected), Some(took)) = (self.nodes[id].expected_ms, took_ms) {
            let (count, before, found) = self.compared;
            self.compared = (count + 1, before + expected, found + took);
        }
        if well {
            // It is not asked for again: of what has ended, as little as possible is kept.
            for by in std::mem::take(&mut self.nodes[id].needed_by) {
                let node = &mut self.nodes[by as usize];
                node.needs = node.needs.saturating_sub(1);
            }
        } else {
            let mut open = vec![id];
            while let Some(id) = open.pop() {
                for by in self.nodes[id].needed_by.clone() {
                    let by = by as usize;
                    if self.nodes[by].state == State::Waiting {
                        self.nodes[by].state = State::Over;
                        self.ended += 1;
                        open.push(by);
                    }
                }
            }
        }
    }

    /// How many of those that wait cannot start before this one has ended, as far as it is counted.
    pub(super) fn waits_for(&self, drv: &Text) -> usize {
        let Some(id) = self.ids.get(drv) else {
            return 0;
        };
        let mut seen = vec![false; self.nodes.len()];
        let (mut open, mut count) = (vec![*id as usize], 0);
        while let Some(id) = open.pop() {
            for by in self.nodes[id].needed_by.iter().map(|by| *by as usize) {
                if !seen[by] && self.nodes[by].state == State::Waiting {
                    seen[by] = true;
                    count += 1;
                    if count == COUNTED {
                        return count;
                    }
                    open.push(by);
                }
            }
        }
        count
    }

    /// The first of those that wait, by name and how many others they wait for, the next one first; and how many wait in all.
    pub(super) fn next(&self, at_most: usize) -> (Vec<(&str, u32)>, usize) {
        let mut first: Vec<(u32, &str)> = Vec::with_capacity(at_most + 1);
        let mut all = 0;
        let waiting = self.nodes.iter().filter(|n| n.state == State::Waiting);
        for one in waiting.map(|node| (node.needs, node.name.as_str())) {
            all += 1;
            // Nearly all of them come after those that are shown.
            if first.len() < at_most || first.last().is_some_and(|last| one < *last) {
                let at = first.partition_point(|before| *before <= one);
                first.insert(at, one);
                first.truncate(at_most);
            }
        }
        let named = first.into_iter().map(|(needs, name)| (name, needs));
        (named.collect(), all)
    }

    /// The time until everything is done: that of the longest way, or of all work by the slots, whichever is longer. What runs has
    /// done what it has run for; what was never done before counts as much as the others do on average.
    pub(super) fn left(&mut self, now: Duration) -> Left {
        let doubted = self.doubted(now);
        let (mut known, mut unknown, mut sum) = (0u64, 0u64, 0u64);
        for node in &self.nodes {
            match (node.state, node.expected_ms) {
                (State::Absent | State::Over, _) => {}
                (_, Some(ms)) => {
                    known += 1;
                    sum += ms;
                }
                (_, None) => unknown += 1,
            }
        }
        if known + unknown == 0 {
            return Left::Nothing;
        }
        if known < unknown {
            return Left::Unknown;
        }
        let usual = doubted.unwrap_or(sum / known.max(1));
        let (mut longest, mut all) = (0, 0);
        self.sort();
        let mut ways = vec![0u64; self.nodes.len()];
        for id in self.order.iter().rev() {
            let id = *id as usize;
            let node = &self.nodes[id];
            let whole = match doubted {
                Some(usual) => usual,
                None => node.expected_ms.unwrap_or(usual),
            };
            let cost = match node.state {
                State::Absent | State::Over => continue,
                State::Waiting => whole,
                State::Running(since) => whole.saturating_sub(millis(now.saturating_sub(since))),
            };
            let behind = node.needed_by.iter().map(|by| ways[*by as usize]).max();
            ways[id] = cost + behind.unwrap_or(0);
            longest = longest.max(ways[id]);
            all += cost;
        }
        Left::About(Duration::from_millis(longest.max(all / self.jobs.max(1))))
    }

    /// The mean duration in this run, if that is nothing like what the past tells.
    fn doubted(&self, now: Duration) -> Option<u64> {
        let (count, before, found) = self.compared;
        if now < DOUBT_AFTER || count == 0 || self.ended * 100 < self.announced * DOUBT_DONE_PERCENT
        {
            return None;
        }
        let differs = found > before.saturating_mul(DOUBT_FACTOR)
            || before > found.saturating_mul(DOUBT_FACTOR);
        differs.then(|| found / count)
    }

    fn sort(&mut self) {
        if self.order.len() == self.nodes.len() {
            return;
        }
        let mut left = vec![0u32; self.nodes.len()];
        for by in self.nodes.iter().flat_map(|node| &node.needed_by) {
            left[*by as usize] += 1;
        }
        self.order = (0..small(left.len()))
            .filter(|id| left[*id as usize] == 0)
            .collect();
        let mut at = 0;
        while let Some(id) = self.order.get(at).copied() {
            at += 1;
            for by in &self.nodes[id as usize].needed_by {
                left[*by as usize] -= 1;
                if left[*by as usize] == 0 {
                    self.order.push(*by);
                }
            }
        }
    }
}

/// The engine gives its nodes numbers of this size, too.
fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(s: &str) -> Text {
        s.into()
    }

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// Announces derivations, each with what it needs and the seconds that it took before.
    fn work(jobs: usize, graph: &[(&str, &[&str], Option<u64>)]) -> Work {
        let mut work = Work::default();
        work.jobs(jobs);
        for (name, needs, expected) in graph {
            let needs: Vec<Text> = needs.iter().map(|n| text(n)).collect();
            work.queue(&text(name), &text(name), &needs, expected.map(|s| s * 1000));
        }
        work
    }

    #[test]
    fn the_longest_way_counts_or_all_work_by_the_slots() {
        // One after the other: the way is what it takes, however many slots there are.
        let way: &[(&str, &[&str], _)] = &[
            ("c", &["b"], Some(5)),
            ("a", &[], Some(10)),
            ("b", &["a"], Some(20)),
        ];
        assert_eq!(work(8, way).left(secs(0)), Left::About(secs(35)));
        // Side by side: the slots.
        let side: &[(&str, &[&str], _)] = &[
            ("a", &[], Some(10)),
            ("b", &[], Some(10)),
            ("c", &[], Some(10)),
        ];
        assert_eq!(work(1, side).left(secs(0)), Left::About(secs(30)));
        assert_eq!(work(2, side).left(secs(0)), Left::About(secs(15)));
        assert_eq!(work(8, side).left(secs(0)), Left::About(secs(10)));
    }

    #[test]
    fn what_runs_has_done_what_it_ran_for() {
        let mut w = work(1, &[("a", &[], Some(10)), ("b", &["a"], Some(4))]);
        w.start(&text("a"), secs(1));
        assert_eq!(w.left(secs(4)), Left::About(secs(11)));
        // It takes longer than before: it may end at any moment.
        assert_eq!(w.left(secs(60)), Left::About(secs(4)));
        w.end(&text("a"), true, Some(60_000));
        w.start(&text("b"), secs(61));
        w.end(&text("b"), true, Some(1));
        assert_eq!(w.left(secs(62)), Left::Nothing);
    }

    #[test]
    fn nothing_is_said_until_half_of_what_is_left_is_known() {
        let mut w = work(
            1,
            &[("a", &[], None), ("b", &[], None), ("c", &[], Some(10))],
        );
        assert_eq!(w.left(secs(0)), Left::Unknown);
        w.end(&text("a"), true, Some(1));
        // What is not known is taken for as long as the rest.
        assert_eq!(w.left(secs(0)), Left::About(secs(20)));
    }

    #[test]
    fn history_that_does_not_fit_is_not_believed() {
        let mut graph: Vec<(String, Option<u64>)> = Vec::new();
        for n in 0..20 {
            graph.push((format!("n{n}"), Some(100)));
        }
        let make = || {
            let mut w = Work::default();
            w.jobs(1);
            for (name, expected) in &graph {
                let (drv, expected) = (text(name), expected.map(|s| s * 1000));
                w.queue(&drv, &drv, &[], expected);
            }
            w
        };
        let mut w = make();
        w.end(&text("n0"), true, Some(1000));
        // Not yet: too early.
        assert_eq!(w.left(secs(14)), Left::About(secs(1900)));
        // One in twenty is done after 15 seconds, and took a hundredth: so will the others.
        assert_eq!(w.left(secs(15)), Left::About(secs(19)));
        let mut near = make();
        near.end(&text("n0"), true, Some(10_000));
        assert_eq!(near.left(secs(15)), Left::About(secs(1900)), "not over 10x");
        let mut slow = make();
        slow.end(&text("n0"), true, Some(1_001_000));
        assert_eq!(slow.left(secs(1100)), Left::About(secs(19 * 1001)));
    }

    #[test]
    fn what_needs_a_failure_is_never_done() {
        let mut w = work(
            1,
            &[
                ("a", &[], Some(1)),
                ("b", &["a"], Some(50)),
                ("c", &["b"], Some(50)),
                ("d", &[], Some(7)),
            ],
        );
        w.start(&text("a"), secs(0));
        assert_eq!(w.waits_for(&text("a")), 2);
        assert_eq!(w.next(9).0, [("d", 0), ("b", 1), ("c", 1)]);
        assert_eq!(w.next(2), (vec![("d", 0), ("b", 1)], 3));
        w.end(&text("a"), false, None);
        assert_eq!(w.left(secs(1)), Left::About(secs(7)));
        assert_eq!(w.next(9).0, [("d", 0)]);
    }

    #[test]
    fn what_comes_next_is_what_waits_for_least() {
        let mut w = work(
            1,
            &[
                ("a", &[], None),
                ("b", &["a"], None),
                ("c", &["a", "b"], None),
                ("d", &["c"], None),
            ],
        );
        w.start(&text("a"), secs(0));
        assert_eq!(w.next(9).0, [("b", 1), ("d", 1), ("c", 2)]);
        w.end(&text("a"), true, Some(1));
        assert_eq!(w.next(9).0, [("b", 0), ("c", 1), ("d", 1)]);
        for drv in ["b", "c", "d"] {
            w.start(&text(drv), secs(1));
        }
        assert_eq!(w.next(9).0, []);
    }
}
