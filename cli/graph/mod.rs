//! Graphs for people: what is drawn, what is folded away, where everything lies. Of the engine only the states are known here.

pub(crate) mod dot;
mod fold;
pub(crate) mod html;
pub(crate) mod layout;
pub(crate) mod svg;

pub(crate) use fold::{MAX_DRAWN, fold};

/// What is known of a node.
pub(crate) use sos_engine::DagState as State;

/// The word for a state.
pub(crate) fn word(state: State) -> &'static str {
    match state {
        State::Failed => "failed",
        State::Running => "running",
        State::ToBuild => "to build",
        State::ToFetch => "to fetch",
        State::Built => "built",
        State::Cached => "cached",
        State::Unneeded => "not needed",
    }
}

/// The word as a name in JSON and CSS.
pub(crate) fn key(state: State) -> &'static str {
    match state {
        State::ToBuild => "to-build",
        State::ToFetch => "to-fetch",
        State::Unneeded => "not-needed",
        other => word(other),
    }
}

/// One thing of a graph, or several that are drawn as one.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// What tells it from all others: its path.
    pub(crate) key: String,
    /// What it is called.
    pub(crate) name: String,
    pub(crate) state: State,
    /// Milliseconds that it took, or is expected to take.
    pub(crate) ms: Option<u64>,
    /// Bytes of it that are there.
    pub(crate) bytes: u64,
    /// It is on the way that takes longest.
    pub(crate) critical: bool,
    /// What it needs and that is not drawn, because it lies too deep.
    pub(crate) hidden: usize,
    /// Those that it stands for; none is itself.
    pub(crate) members: Vec<usize>,
}

/// A graph; what a node needs is given by place in the list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Graph {
    pub(crate) title: String,
    pub(crate) nodes: Vec<Node>,
    pub(crate) needs: Vec<Vec<usize>>,
    /// Those that were asked for.
    pub(crate) roots: Vec<usize>,
}

/// Milliseconds that something takes of which nothing is known, as the scheduler assumes.
const UNKNOWN_MS: u64 = 1000;

impl Graph {
    /// Returns the nodes so that each comes after what it needs. Where they need each other in a circle, some come before.
    pub(crate) fn order(&self) -> Vec<usize> {
        let mut left: Vec<usize> = vec![0; self.nodes.len()];
        let mut wanted_by: Vec<Vec<usize>> = vec![Vec::new(); self.nodes.len()];
        for (id, needs) in self.needs.iter().enumerate() {
            for need in needs.iter().filter(|need| **need != id) {
                left[id] += 1;
                wanted_by[*need].push(id);
            }
        }
        let mut order: Vec<usize> = (0..left.len()).filter(|id| left[*id] == 0).collect();
        let mut placed = vec![false; left.len()];
        order.iter().for_each(|id| placed[*id] = true);
        let (mut at, mut stuck) = (0, 0);
        while order.len() < left.len() || at < order.len() {
            if at == order.len() {
                // A circle: it is cut at its first node.
                while placed[stuck] {
                    stuck += 1;
                }
                placed[stuck] = true;
                order.push(stuck);
            }
            let id = order[at];
            at += 1;
            for by in &wanted_by[id] {
                left[*by] -= 1;
                if left[*by] == 0 && !placed[*by] {
                    placed[*by] = true;
                    order.push(*by);
                }
            }
        }
        order
    }

    /// Marks the way that takes longest: of what is to be done, or if nothing is, of what was done.
    pub(crate) fn mark_critical(&mut self) {
        let any_open = self.nodes.iter().any(|node| node.state.is_open());
        let cost = |node: &Node| match node.ms {
            _ if any_open && !node.state.is_open() => 0,
            Some(ms) => ms,
            None if any_open => UNKNOWN_MS,
            None => 0,
        };
        let order = self.order();
        let mut best: Vec<(u64, Option<usize>)> = vec![(0, None); self.nodes.len()];
        for id in order {
            let before = self.needs[id]
                .iter()
                .filter(|need| best[**need].0 > 0)
                .max_by_key(|need| (best[**need].0, std::cmp::Reverse(**need)));
            let (ms, from) = before.map_or((0, None), |need| (best[*need].0, Some(*need)));
            best[id] = (ms.saturating_add(cost(&self.nodes[id])), from);
        }
        let last = (0..best.len()).max_by_key(|id| (best[*id].0, std::cmp::Reverse(*id)));
        let mut at = last.filter(|id| best[*id].0 > 0);
        // A circle cannot lead back: what comes later has no smaller sum.
        for _ in 0..best.len() {
            let Some(id) = at else { break };
            self.nodes[id].critical = true;
            at = best[id].1;
        }
    }

    /// How many nodes there are of each state, those that others stand for included.
    pub(crate) fn counts(&self) -> Vec<(State, usize)> {
        let count = |state| {
            let of = |node: &&Node| node.state == state && node.members.is_empty();
            self.nodes.iter().filter(of).count()
        };
        State::ALL
            .into_iter()
            .map(|state| (state, count(state)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

/// The second line of a node.
pub(crate) fn about(node: &Node) -> String {
    let mut words = Vec::new();
    if node.members.is_empty() {
        words.push(word(node.state).to_owned());
    }
    if let Some(ms) = node.ms {
        let time = crate::render::size::duration(std::time::Duration::from_millis(ms));
        let about = if node.state.is_open() { "about " } else { "" };
        words.push(format!("{about}{time}"));
    }
    if node.bytes > 0 {
        words.push(crate::render::size::bytes(node.bytes));
    }
    if node.hidden > 0 {
        words.push(format!("{} deeper", node.hidden));
    }
    words.join(" · ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What is written as text.
    pub(crate) fn text_of(
        write: impl FnOnce(&mut dyn std::io::Write) -> std::io::Result<()>,
    ) -> String {
        let mut bytes = Vec::new();
        write(&mut bytes).expect("memory can be written");
        String::from_utf8(bytes).expect("text")
    }

    /// A graph of nodes `n0`, `n1`, ... with these needs.
    pub(crate) fn graph(needs: &[&[usize]]) -> Graph {
        Graph {
            title: "a test".to_owned(),
            nodes: (0..needs.len()).map(|id| node(&format!("n{id}"))).collect(),
            needs: needs.iter().map(|n| n.to_vec()).collect(),
            roots: vec![0],
        }
    }

    pub(crate) fn node(name: &str) -> Node {
        Node {
            key: format!("/nix/store/{name}.drv"),
            name: name.to_owned(),
            state: State::Built,
            ms: Some(10),
            bytes: 0,
            critical: false,
            hidden: 0,
            members: Vec::new(),
        }
    }

    /// A graph like those of real builds: everything needs something near and a few things far away. Node 0 is wanted.
    pub(crate) fn large(count: usize) -> Graph {
        let mut seed = 42_u64;
        let mut random = move |below: usize| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(seed >> 33).unwrap_or(0) % below.max(1)
        };
        let mut needs: Vec<Vec<usize>> = vec![Vec::new(); count];
        for (id, needs) in needs.iter_mut().enumerate() {
            let left = count - id - 1;
            if left == 0 {
                continue;
            }
            let mut of = vec![id + 1 + random(left.min(40))];
            for _ in 0..random(4) {
                of.push(id + 1 + random(left));
            }
            of.sort_unstable();
            of.dedup();
            *needs = of;
        }
        let slices: Vec<&[usize]> = needs.iter().map(Vec::as_slice).collect();
        let mut graph = graph(&slices);
        for (id, node) in graph.nodes.iter_mut().enumerate() {
            node.ms = Some(1 + id as u64 % 7);
        }
        graph.mark_critical();
        graph
    }

    #[test]
    fn the_longest_way_is_marked() {
        let mut graph = graph(&[&[1, 2], &[3], &[3], &[]]);
        graph.nodes[2].ms = Some(50);
        graph.mark_critical();
        let critical: Vec<bool> = graph.nodes.iter().map(|n| n.critical).collect();
        assert_eq!(critical, [true, false, true, true]);
        // With something to do, only that counts.
        graph.nodes.iter_mut().for_each(|n| n.critical = false);
        graph.nodes[0].state = State::ToBuild;
        graph.nodes[1].state = State::ToBuild;
        graph.mark_critical();
        let critical: Vec<bool> = graph.nodes.iter().map(|n| n.critical).collect();
        assert_eq!(critical, [true, true, false, false]);
    }

    #[test]
    fn circles_are_no_end() {
        let mut circle = graph(&[&[1], &[2], &[0, 2], &[0]]);
        assert_eq!(circle.order().len(), 4);
        circle.mark_critical();
    }
}
