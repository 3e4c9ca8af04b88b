//! Where the nodes of a graph lie: in columns, what is needed left of what needs it.
//!
//! The usual steps: a column for each node (as near as possible to what needs it), places for edges in the columns that they
//! pass, few crossings, straight lines. All edges from one node share their way, so an input of everything costs one place a column.
//! The crates that do this were measured: long edges, which graphs of builds are full of, take them many seconds at 300 nodes, and
//! they do not tell where the edges run.

use super::Graph;

/// Room between two columns.
const COLUMN_GAP: f64 = 56.0;
/// Room between two nodes of a column.
const NODE_GAP: f64 = 14.0;
/// Height of the place of an edge.
const LANE: f64 = 9.0;
/// Sweeps over the columns that look for fewer crossings, and those that straighten.
const SWEEPS: usize = 12;
/// With more places than this fewer sweeps are made, so that the time stays in proportion.
const MANY: usize = 20_000;
/// With more places for edges than this, edges get none and run as they may.
const LANES_MAX: usize = 400_000;

/// A drawing of a graph.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    pub(crate) width: f64,
    pub(crate) height: f64,
    /// For each node its middle; x, y.
    pub(crate) places: Vec<(f64, f64)>,
    /// Pieces of edges; each is drawn once, however many edges run there.
    pub(crate) pieces: Vec<Piece>,
}

/// A piece of the edges that lead from one node.
#[derive(Debug, PartialEq)]
pub(crate) struct Piece {
    /// The node that is needed.
    pub(crate) from: usize,
    /// Those that need it and whose edges run here.
    pub(crate) to: Vec<usize>,
    /// Its two ends, to be joined with a curve that is level at both; then, to be joined with a straight line, the end of the place.
    pub(crate) start: (f64, f64),
    pub(crate) end: (f64, f64),
    pub(crate) level_to: Option<f64>,
}

/// A node, or the place of an edge in a column.
struct Vertex {
    /// The node, or the one from which the edge leads.
    node: usize,
    is_lane: bool,
    column: usize,
    height: f64,
    /// Those in the next columns to the left and to the right.
    left: Vec<usize>,
    right: Vec<usize>,
}

/// Lays out a graph whose nodes have these sizes.
pub(crate) fn layout(graph: &Graph, sizes: &[(f64, f64)]) -> Layout {
    if graph.nodes.is_empty() {
        return Layout::default();
    }
    let columns = columns(graph);
    let count = columns.iter().max().map_or(1, |last| last + 1);
    let mut vertices = vertices(&columns, sizes);
    let lanes = lanes(graph, &columns, &mut vertices);
    let mut order = first_order(&vertices, count);
    let effort = if vertices.len() > MANY { 3 } else { SWEEPS };
    uncross(&vertices, &mut order, effort);
    let y = straighten(&vertices, &order, effort);
    drawn(graph, sizes, &vertices, &lanes, &y, count)
}

/// One for each node, not joined yet.
fn vertices(columns: &[usize], sizes: &[(f64, f64)]) -> Vec<Vertex> {
    let of = |(node, column): (usize, &usize)| Vertex {
        node,
        is_lane: false,
        column: *column,
        height: sizes[node].1 + NODE_GAP,
        left: Vec::new(),
        right: Vec::new(),
    };
    columns.iter().enumerate().map(of).collect()
}

/// The column of each node: what was asked for is in the last one, everything else just left of the first that needs it.
fn columns(graph: &Graph) -> Vec<usize> {
    let order = graph.order();
    let mut place = vec![0; graph.nodes.len()];
    for (at, id) in order.iter().enumerate() {
        place[*id] = at;
    }
    let mut distance = vec![0_usize; graph.nodes.len()];
    for id in order.iter().rev() {
        for need in &graph.needs[*id] {
            // Those that lead back in a circle are left out.
            if place[*need] < place[*id] {
                distance[*need] = distance[*need].max(distance[*id] + 1);
            }
        }
    }
    let last = distance.iter().max().copied().unwrap_or(0);
    distance.into_iter().map(|d| last - d).collect()
}

/// Makes places for the edges that pass columns and joins everything; returns for each node its places, from left to right.
fn lanes(graph: &Graph, columns: &[usize], vertices: &mut Vec<Vertex>) -> Vec<Vec<usize>> {
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); graph.nodes.len()];
    for (id, needs) in graph.needs.iter().enumerate() {
        for need in needs.iter().filter(|need| columns[**need] < columns[id]) {
            users[*need].push(id);
        }
    }
    let far = |node: usize| {
        let last = users[node].iter().map(|user| columns[*user]).max();
        last.map_or(0, |last| (last - columns[node]).saturating_sub(1))
    };
    let all: usize = (0..users.len()).map(far).sum();
    let has_lanes = all <= LANES_MAX;
    let mut lanes = vec![Vec::new(); graph.nodes.len()];
    for node in 0..users.len() {
        let mut before = node;
        for step in 0..if has_lanes { far(node) } else { 0 } {
            let lane = vertices.len();
            vertices.push(Vertex {
                node,
                is_lane: true,
                column: columns[node] + 1 + step,
                height: LANE,
                left: vec![before],
                right: Vec::new(),
            });
            vertices[before].right.push(lane);
            lanes[node].push(lane);
            before = lane;
        }
        for user in &users[node] {
            let between = columns[*user] - columns[node] - 1;
            if between > 0 && !has_lanes {
                continue;
            }
            let from = between
                .checked_sub(1)
                .map_or(node, |last| lanes[node][last]);
            vertices[from].right.push(*user);
            vertices[*user].left.push(from);
        }
    }
    lanes
}

/// The vertices of each column, in the order in which a walk from what was asked for meets them: what belongs together lies together.
fn first_order(vertices: &[Vertex], columns: usize) -> Vec<Vec<usize>> {
    let mut order = vec![Vec::new(); columns];
    let mut met = vec![false; vertices.len()];
    let mut starts: Vec<usize> = (0..vertices.len()).collect();
    starts.sort_by_key(|id| (std::cmp::Reverse(vertices[*id].column), *id));
    let mut todo = Vec::new();
    for start in starts {
        todo.push(start);
        while let Some(id) = todo.pop() {
            if std::mem::replace(&mut met[id], true) {
                continue;
            }
            order[vertices[id].column].push(id);
            todo.extend(vertices[id].left.iter().rev().filter(|left| !met[**left]));
        }
    }
    order
}

/// Orders the columns so that few edges cross: each vertex goes to the middle of its neighbours, from both sides in turn.
fn uncross(vertices: &[Vertex], order: &mut Vec<Vec<usize>>, effort: usize) {
    let mut place = vec![0_usize; vertices.len()];
    let note = |column: &[usize], place: &mut Vec<usize>| {
        column
            .iter()
            .enumerate()
            .for_each(|(at, id)| place[*id] = at);
    };
    order.iter().for_each(|column| note(column, &mut place));
    let mut best = (crossings(vertices, order, &place), order.clone());
    for sweep in 0..effort {
        if best.0 == 0 {
            break;
        }
        let to_right = sweep % 2 == 1;
        let columns: Vec<usize> = if to_right {
            (0..order.len()).collect()
        } else {
            (0..order.len()).rev().collect()
        };
        for column in columns {
            let middle = |id: usize| {
                let vertex = &vertices[id];
                let near = if to_right {
                    &vertex.left
                } else {
                    &vertex.right
                };
                mean(near.iter().map(|n| place[*n])).unwrap_or_else(|| float(place[id]))
            };
            let mut sorted: Vec<(f64, usize)> =
                order[column].iter().map(|id| (middle(*id), *id)).collect();
            sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
            order[column] = sorted.into_iter().map(|(_, id)| id).collect();
            note(&order[column], &mut place);
        }
        let now = crossings(vertices, order, &place);
        if now < best.0 {
            best = (now, order.clone());
        }
    }
    *order = best.1;
}

/// Counts the crossings between all columns.
fn crossings(vertices: &[Vertex], order: &[Vec<usize>], place: &[usize]) -> u64 {
    let mut all = 0;
    for column in order.windows(2) {
        // Of two edges that leave in one order, those arrive in the other that have been counted before at a higher place.
        let mut tree = vec![0_u64; column[1].len() + 1];
        let mut so_far = 0;
        for id in &column[0] {
            let mut ends: Vec<usize> = vertices[*id].right.iter().map(|r| place[*r]).collect();
            ends.sort_unstable();
            for end in &ends {
                let (mut at, mut lower) = (end + 1, 0);
                while at > 0 {
                    lower += tree[at];
                    at &= at - 1;
                }
                all += so_far - lower;
            }
            for end in ends {
                let mut at = end + 1;
                while at < tree.len() {
                    tree[at] += 1;
                    at += at & at.wrapping_neg();
                }
                so_far += 1;
            }
        }
    }
    all
}

/// The height of the middle of each vertex: near those of its neighbours, in the order of its column.
fn straighten(vertices: &[Vertex], order: &[Vec<usize>], effort: usize) -> Vec<f64> {
    let mut y = vec![0.0; vertices.len()];
    for column in order {
        let mut top = 0.0;
        for id in column {
            y[*id] = top + vertices[*id].height / 2.0;
            top += vertices[*id].height;
        }
    }
    for sweep in 0..effort {
        let is_last = sweep + 2 >= effort;
        let to_right = sweep % 2 == 1;
        for step in 0..order.len() {
            let column = if to_right {
                step
            } else {
                order.len() - 1 - step
            };
            let wish = |id: usize| {
                let vertex = &vertices[id];
                let (near, other) = if to_right {
                    (&vertex.left, &vertex.right)
                } else {
                    (&vertex.right, &vertex.left)
                };
                let both = near
                    .iter()
                    .chain(other.iter().filter(|_| is_last || near.is_empty()));
                mean_of(both.map(|n| y[*n])).unwrap_or(y[id])
            };
            let wishes: Vec<f64> = order[column].iter().map(|id| wish(*id)).collect();
            for (id, at) in order[column]
                .iter()
                .zip(spread(vertices, &order[column], &wishes))
            {
                y[*id] = at;
            }
        }
    }
    let top = vertices
        .iter()
        .zip(&y)
        .map(|(vertex, y)| y - vertex.height / 2.0)
        .fold(f64::INFINITY, f64::min);
    y.iter().map(|y| y - top).collect()
}

/// The places nearest to the wishes, in the sum of squares, at which nothing overlaps: neighbours whose wishes collide are moved together.
fn spread(vertices: &[Vertex], column: &[usize], wishes: &[f64]) -> Vec<f64> {
    // With the room that is needed taken out, "in order" is all that is asked.
    let mut offset = Vec::with_capacity(column.len());
    let mut top = 0.0;
    for id in column {
        offset.push(top + vertices[*id].height / 2.0);
        top += vertices[*id].height;
    }
    // Sum of wishes, weight, and number of those that have become one.
    let mut blocks: Vec<(f64, f64, usize)> = Vec::new();
    for (at, id) in column.iter().enumerate() {
        // Edges shall be straight before nodes are where they wish.
        let weight = if vertices[*id].is_lane { 3.0 } else { 1.0 };
        let mut block = (weight * (wishes[at] - offset[at]), weight, 1);
        while let Some(last) = blocks.last()
            && last.0 / last.1 > block.0 / block.1
        {
            block = (block.0 + last.0, block.1 + last.1, block.2 + last.2);
            blocks.pop();
        }
        blocks.push(block);
    }
    let mut places = Vec::with_capacity(column.len());
    for (sum, weight, count) in blocks {
        for _ in 0..count {
            places.push(sum / weight + offset[places.len()]);
        }
    }
    places
}

fn drawn(
    graph: &Graph,
    sizes: &[(f64, f64)],
    vertices: &[Vertex],
    lanes: &[Vec<usize>],
    y: &[f64],
    count: usize,
) -> Layout {
    let mut widths = vec![0.0_f64; count];
    for vertex in vertices.iter().filter(|vertex| !vertex.is_lane) {
        let width = &mut widths[vertex.column];
        *width = width.max(sizes[vertex.node].0);
    }
    let mut lefts = Vec::with_capacity(count);
    let mut x = 0.0;
    for width in &widths {
        lefts.push(x);
        x += width + COLUMN_GAP;
    }
    let middle = |column: usize| lefts[column] + widths[column] / 2.0;
    let places: Vec<(f64, f64)> = (0..graph.nodes.len())
        .map(|node| (middle(vertices[node].column), y[node]))
        .collect();
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); graph.nodes.len()];
    for (id, needs) in graph.needs.iter().enumerate() {
        needs.iter().for_each(|need| users[*need].push(id));
    }
    let mut pieces = Vec::new();
    for (node, users) in users.iter().enumerate() {
        let out = |node: usize| (places[node].0 + sizes[node].0 / 2.0, places[node].1);
        let into = |node: usize| (places[node].0 - sizes[node].0 / 2.0, places[node].1);
        let mut at = out(node);
        for lane in &lanes[node] {
            let column = vertices[*lane].column;
            let end = (lefts[column], y[*lane]);
            let right = lefts[column] + widths[column];
            let beyond = users.iter().filter(|user| vertices[**user].column > column);
            pieces.push(Piece {
                from: node,
                to: beyond.copied().collect(),
                start: at,
                end,
                level_to: Some(right),
            });
            at = (right, y[*lane]);
        }
        for user in users {
            let between = vertices[*user].column.saturating_sub(vertices[node].column);
            let lane = between
                .checked_sub(2)
                .and_then(|last| lanes[node].get(last));
            let start = lane.map_or(out(node), |lane| {
                let column = vertices[*lane].column;
                (lefts[column] + widths[column], y[*lane])
            });
            pieces.push(Piece {
                from: node,
                to: vec![*user],
                start,
                end: into(*user),
                level_to: None,
            });
        }
    }
    let bottom = vertices
        .iter()
        .zip(y)
        .map(|(vertex, y)| y + vertex.height / 2.0);
    Layout {
        width: x - COLUMN_GAP,
        height: bottom.fold(0.0, f64::max),
        places,
        pieces,
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "places are far below what a float holds exactly"
)]
fn float(n: usize) -> f64 {
    n as f64
}

fn mean(places: impl Iterator<Item = usize>) -> Option<f64> {
    mean_of(places.map(float))
}

fn mean_of(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / float(count))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{graph, large};
    use super::*;

    fn laid_out(graph: &Graph) -> Layout {
        layout(graph, &vec![(100.0, 30.0); graph.nodes.len()])
    }

    #[test]
    fn inputs_are_left_of_what_needs_them_and_nothing_overlaps() {
        for count in [1, 2, 30, 400] {
            let graph = large(count);
            let layout = laid_out(&graph);
            for (id, needs) in graph.needs.iter().enumerate() {
                for need in needs {
                    assert!(layout.places[*need].0 + 100.0 < layout.places[id].0);
                }
            }
            let mut places = layout.places.clone();
            places.sort_by(|a, b| (a.0, a.1).partial_cmp(&(b.0, b.1)).unwrap());
            for pair in places.windows(2) {
                let apart = pair[1].1 - pair[0].1;
                assert!(pair[0].0 < pair[1].0 || apart >= 30.0, "{pair:?}");
            }
            for (x, y) in places {
                assert!(x >= 50.0 && x <= layout.width - 50.0);
                assert!(y >= 15.0 && y <= layout.height - 15.0);
            }
        }
    }

    #[test]
    fn edges_lead_from_node_to_node_and_around_others() {
        // 0 needs 1 and 3; 1 needs 2; 2 needs 3: the edge from 3 to 0 passes two columns.
        let graph = graph(&[&[1, 3], &[2], &[3], &[]]);
        let layout = laid_out(&graph);
        let of_3: Vec<&Piece> = layout.pieces.iter().filter(|p| p.from == 3).collect();
        assert_eq!(of_3.len(), 4);
        assert_eq!(of_3.iter().filter(|p| p.level_to.is_some()).count(), 2);
        let arrives = of_3.iter().find(|p| p.to == [0] && p.level_to.is_none());
        assert_eq!(
            arrives.unwrap().end,
            (layout.places[0].0 - 50.0, layout.places[0].1)
        );
        for piece in of_3.iter().filter(|p| p.level_to.is_some()) {
            for (x, y) in &layout.places {
                let beside = piece.end.0 > x + 50.0 || piece.level_to.unwrap() < x - 50.0;
                assert!(
                    beside || (piece.end.1 - y).abs() > 15.0,
                    "it runs through a node"
                );
            }
        }
    }

    #[test]
    fn crossings_are_counted_and_avoided() {
        // Two pairs that cross as they are met first.
        let graph = graph(&[&[1, 2], &[3], &[4], &[], &[]]);
        let columns = columns(&graph);
        assert_eq!(columns, [2, 1, 1, 0, 0]);
        let mut vertices = vertices(&columns, &[(100.0, 40.0); 5]);
        lanes(&graph, &columns, &mut vertices);
        let mut order = vec![vec![4, 3], vec![1, 2], vec![0]];
        let places = |order: &[Vec<usize>]| {
            let mut place = vec![0; 5];
            for column in order {
                column
                    .iter()
                    .enumerate()
                    .for_each(|(at, id)| place[*id] = at);
            }
            place
        };
        assert_eq!(crossings(&vertices, &order, &places(&order)), 1);
        uncross(&vertices, &mut order, SWEEPS);
        assert_eq!(crossings(&vertices, &order, &places(&order)), 0);
    }

    #[test]
    fn circles_are_laid_out_as_well() {
        let graph = graph(&[&[1], &[2], &[0]]);
        assert_eq!(laid_out(&graph).places.len(), 3);
        assert_eq!(laid_out(&Graph::default()).places.len(), 0);
    }

    #[test]
    fn it_is_always_the_same() {
        let graph = large(250);
        assert_eq!(
            format!("{:?}", laid_out(&graph)),
            format!("{:?}", laid_out(&graph))
        );
    }
}
