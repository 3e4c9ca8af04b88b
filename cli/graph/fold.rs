//! Large graphs: what a person looks for is drawn, the rest is counted.

use std::collections::{BTreeMap, BTreeSet};

use super::{Graph, Node, State, word};

/// The most nodes that are drawn one by one.
pub(crate) const MAX_DRAWN: usize = 300;
/// Of these, how many may be there for one reason; the rest is for their neighbours.
const MAX_OF_A_KIND: usize = 90;
/// The most groups; more are put together.
const MAX_GROUPS: usize = 100;

/// Folds a graph of more than [`MAX_DRAWN`] nodes: what was asked for, what failed, what runs, the longest way and the neighbours of all
/// of these stay; others become groups. Nothing leads in a circle that did not before.
pub(crate) fn fold(graph: &Graph) -> Graph {
    if graph.nodes.len() <= MAX_DRAWN {
        return graph.clone();
    }
    let kept = kept(graph);
    let group_of = groups(graph, &kept);
    let mut folded = Graph {
        title: graph.title.clone(),
        ..Graph::default()
    };
    // Where each node is in the new graph: in the order of the old one, so that the same graph folds the same way.
    let mut place: Vec<usize> = vec![0; graph.nodes.len()];
    let mut place_of_group: BTreeMap<usize, usize> = BTreeMap::new();
    for (id, node) in graph.nodes.iter().enumerate() {
        if kept[id] {
            place[id] = folded.nodes.len();
            folded.nodes.push(node.clone());
            continue;
        }
        let at = *place_of_group.entry(group_of[id]).or_insert_with(|| {
            folded.nodes.push(Node {
                key: String::new(),
                name: String::new(),
                state: State::Unneeded,
                ms: None,
                bytes: 0,
                critical: false,
                hidden: 0,
                members: Vec::new(),
            });
            folded.nodes.len() - 1
        });
        place[id] = at;
        let group = &mut folded.nodes[at];
        group.state = group.state.min(node.state);
        group.bytes += node.bytes;
        group.hidden += node.hidden;
        if let Some(ms) = node.ms {
            group.ms = Some(group.ms.unwrap_or(0).saturating_add(ms));
        }
        group.members.push(id);
    }
    for (number, at) in place_of_group.values().enumerate() {
        let members = &folded.nodes[*at].members;
        let mut counts: BTreeMap<State, usize> = BTreeMap::new();
        for id in members {
            *counts.entry(graph.nodes[*id].state).or_default() += 1;
        }
        let words: Vec<String> = counts
            .iter()
            .map(|(state, count)| format!("{count} {}", word(*state)))
            .collect();
        let group = &mut folded.nodes[*at];
        group.key = format!("group {}", number + 1);
        group.name = words.join(", ");
    }
    let mut needs: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); folded.nodes.len()];
    for (id, old) in graph.needs.iter().enumerate() {
        let of = old.iter().map(|need| place[*need]);
        needs[place[id]].extend(of.filter(|need| *need != place[id]));
    }
    folded.needs = needs.into_iter().map(|n| n.into_iter().collect()).collect();
    let roots: BTreeSet<usize> = graph.roots.iter().map(|id| place[*id]).collect();
    folded.roots = roots.into_iter().collect();
    folded
}

/// Chooses what is drawn by itself.
fn kept(graph: &Graph) -> Vec<bool> {
    let mut kept = vec![false; graph.nodes.len()];
    let mut chosen: Vec<usize> = Vec::new();
    let mut take = |ids: &mut dyn Iterator<Item = usize>, most: usize, chosen: &mut Vec<usize>| {
        for id in ids.filter(|id| !kept[*id]).take(most).collect::<Vec<_>>() {
            kept[id] = true;
            chosen.push(id);
        }
    };
    let all = || 0..graph.nodes.len();
    let of = |state| all().filter(move |id| graph.nodes[*id].state == state);
    take(
        &mut graph.roots.iter().copied(),
        MAX_OF_A_KIND / 2,
        &mut chosen,
    );
    take(&mut of(State::Failed), MAX_OF_A_KIND, &mut chosen);
    take(&mut of(State::Running), MAX_OF_A_KIND / 2, &mut chosen);
    let mut critical: Vec<usize> = all().filter(|id| graph.nodes[*id].critical).collect();
    // Of a way that is too long, the slowest parts.
    critical.sort_by_key(|id| (std::cmp::Reverse(graph.nodes[*id].ms), *id));
    take(&mut critical.into_iter(), MAX_OF_A_KIND, &mut chosen);
    // Neighbours of those that were chosen first come first.
    let mut wanted_by: Vec<Vec<usize>> = vec![Vec::new(); graph.nodes.len()];
    for (id, needs) in graph.needs.iter().enumerate() {
        needs.iter().for_each(|need| wanted_by[*need].push(id));
    }
    for id in chosen.clone() {
        let left = MAX_DRAWN - chosen.len();
        let mut near = graph.needs[id].iter().chain(&wanted_by[id]).copied();
        take(&mut near, left, &mut chosen);
    }
    kept
}

/// Puts every node that is not kept into a group, by number.
///
/// Each node has a level, which never falls from what is needed to what needs it, and rises wherever a kept node is passed. Nodes of one
/// level that are connected are one group, and so are those of a level that the same kept node needs first: between groups of one level
/// there is no edge, so no circle comes about.
fn groups(graph: &Graph, kept: &[bool]) -> Vec<usize> {
    let order = graph.order();
    let mut level = vec![0; graph.nodes.len()];
    let mut parent: Vec<usize> = (0..graph.nodes.len()).collect();
    for id in &order {
        for need in &graph.needs[*id] {
            let step = usize::from(kept[*id] || kept[*need]);
            level[*id] = level[*id].max(level[*need] + step);
        }
    }
    let joined = |a: usize, b: usize, parent: &mut Vec<usize>| {
        let (a, b) = (top(parent, a), top(parent, b));
        parent[a.max(b)] = a.min(b);
    };
    for (id, needs) in graph.needs.iter().enumerate() {
        for need in needs {
            if !kept[id] && !kept[*need] && level[id] == level[*need] {
                joined(id, *need, &mut parent);
            }
        }
    }
    // The first kept node that needs something of a connected part.
    let mut first_use: BTreeMap<usize, usize> = BTreeMap::new();
    for (id, needs) in graph.needs.iter().enumerate().filter(|(id, _)| kept[*id]) {
        for need in needs.iter().filter(|need| !kept[**need]) {
            first_use.entry(top(&mut parent, *need)).or_insert(id);
        }
    }
    let mut keys: Vec<(usize, usize)> = Vec::with_capacity(graph.nodes.len());
    for (id, level) in level.into_iter().enumerate() {
        let part = top(&mut parent, id);
        let user = first_use.get(&part).copied().unwrap_or(usize::MAX);
        keys.push((level, user));
    }
    let distinct: BTreeSet<(usize, usize)> = keys
        .iter()
        .zip(kept)
        .filter(|(_, kept)| !**kept)
        .map(|(key, _)| *key)
        .collect();
    if distinct.len() > MAX_GROUPS {
        keys.iter_mut().for_each(|key| key.1 = 0);
    }
    let mut numbers: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    keys.into_iter()
        .map(|key| {
            let next = numbers.len();
            *numbers.entry(key).or_insert(next)
        })
        .collect()
}

/// The first node of a connected part, with the way there made shorter.
fn top(parent: &mut [usize], mut id: usize) -> usize {
    while parent[id] != id {
        parent[id] = parent[parent[id]];
        id = parent[id];
    }
    id
}

#[cfg(test)]
mod tests {
    use super::super::tests::{graph, large};
    use super::*;

    /// Tells whether everything comes after what it needs.
    fn is_acyclic(graph: &Graph) -> bool {
        let mut place = vec![0; graph.nodes.len()];
        for (at, id) in graph.order().into_iter().enumerate() {
            place[id] = at;
        }
        let fine = |(id, needs): (usize, &Vec<usize>)| needs.iter().all(|n| place[*n] < place[id]);
        graph.needs.iter().enumerate().all(fine)
    }

    #[test]
    fn small_graphs_stay_as_they_are() {
        let small = graph(&[&[1], &[]]);
        assert_eq!(fold(&small).nodes.len(), 2);
    }

    #[test]
    fn what_matters_is_drawn_and_nothing_is_lost() {
        for count in [301, 1000, 20_000] {
            let mut graph = large(count);
            for id in [7, count / 2, count - 2] {
                graph.nodes[id].state = State::Failed;
            }
            let folded = fold(&graph);
            assert!(is_acyclic(&folded));
            let groups = folded.nodes.iter().filter(|n| !n.members.is_empty());
            let members: usize = groups.clone().map(|n| n.members.len()).sum();
            let drawn = folded.nodes.len() - groups.clone().count();
            assert!(drawn <= MAX_DRAWN, "{drawn}");
            assert_eq!(drawn + members, count);
            let failed = |n: &&Node| n.state == State::Failed && n.members.is_empty();
            assert_eq!(folded.nodes.iter().filter(failed).count(), 3);
            assert!(folded.roots.len() == 1 && folded.nodes[folded.roots[0]].name == "n0");
            for group in groups {
                assert!(group.name.contains(&group.members.len().to_string()));
            }
        }
    }

    #[test]
    fn everything_of_one_kind_is_bounded() {
        let needs: Vec<usize> = (1..5000).collect();
        let mut all: Vec<&[usize]> = vec![&[]; 5000];
        all[0] = &needs;
        let mut star = graph(&all);
        star.nodes.iter_mut().for_each(|n| n.state = State::Failed);
        let folded = fold(&star);
        assert!(
            folded.nodes.len() <= MAX_DRAWN + 2,
            "{}",
            folded.nodes.len()
        );
    }
}
