//! Which task runs next. Pure bookkeeping: no thread, no process, no clock.
//!
//! Tasks take slots of their pool; among those that are ready the one with the longest expected way to the end of
//! the run goes first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::builder::Pool;

/// A task as the schedule sees it; tasks are numbered by their place in the list.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    /// Tasks that must be done before.
    pub(crate) needs: Vec<usize>,
    /// Whose slot it takes.
    pub(crate) pool: Pool,
    /// Milliseconds that it is expected to take.
    pub(crate) cost_ms: u64,
    /// Its output is known beforehand: it is still tried after another one of that kind had the wrong content.
    pub(crate) fixed: bool,
}

/// What may still be started.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Mode {
    /// Everything.
    All,
    /// Only fixed-output tasks, so that one run finds every wrong hash.
    FixedOnly,
    /// Nothing: a task failed, or the run was stopped.
    Nothing,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Waiting,
    Ready,
    Running,
    Parked,
    Done,
    Failed,
    Skipped,
}

struct Node {
    waits_for: usize,
    wanted_by: Vec<usize>,
    pool: Pool,
    fixed: bool,
    priority: u64,
    state: State,
}

/// The state of one run.
pub(crate) struct Schedule {
    nodes: Vec<Node>,
    ready: [BinaryHeap<(u64, Reverse<usize>)>; 2],
    running: [usize; 2],
    slots: [usize; 2],
    parked: usize,
    mode: Mode,
    order: Vec<usize>,
}

fn index(pool: Pool) -> usize {
    match pool {
        Pool::Build => 0,
        Pool::Io => 1,
    }
}

impl Schedule {
    /// Makes the schedule of a list of tasks; gives the tasks of a cycle if there is one, each needing the next.
    pub(crate) fn new(
        tasks: &[Task],
        build_slots: usize,
        io_slots: usize,
    ) -> Result<Self, Vec<usize>> {
        let mut nodes: Vec<Node> = tasks
            .iter()
            .map(|task| Node {
                waits_for: task.needs.len(),
                wanted_by: Vec::new(),
                pool: task.pool,
                fixed: task.fixed,
                priority: task.cost_ms,
                state: State::Waiting,
            })
            .collect();
        for (id, task) in tasks.iter().enumerate() {
            for need in &task.needs {
                nodes[*need].wanted_by.push(id);
            }
        }
        let order = topological(tasks, &nodes)?;
        for id in order.iter().rev().copied() {
            let behind = nodes[id]
                .wanted_by
                .iter()
                .map(|by| nodes[*by].priority)
                .max()
                .unwrap_or(0);
            nodes[id].priority = nodes[id].priority.saturating_add(behind);
        }
        let mut schedule = Self {
            nodes,
            ready: [BinaryHeap::new(), BinaryHeap::new()],
            running: [0, 0],
            slots: [build_slots.max(1), io_slots.max(1)],
            parked: 0,
            mode: Mode::All,
            order,
        };
        for id in 0..schedule.nodes.len() {
            if schedule.nodes[id].waits_for == 0 {
                schedule.make_ready(id);
            }
        }
        Ok(schedule)
    }

    /// Takes the next task that may run now.
    pub(crate) fn start_next(&mut self) -> Option<usize> {
        for pool in 0..self.ready.len() {
            if self.running[pool] >= self.slots[pool] {
                continue;
            }
            while let Some((_, Reverse(id))) = self.ready[pool].pop() {
                if self.may_start(id) {
                    self.running[pool] += 1;
                    self.nodes[id].state = State::Running;
                    return Some(id);
                }
            }
        }
        None
    }

    /// Notes that a running task succeeded.
    pub(crate) fn succeed(&mut self, id: usize) {
        self.release(id, State::Done);
        for by in self.nodes[id].wanted_by.clone() {
            self.nodes[by].waits_for -= 1;
            if self.nodes[by].waits_for == 0 && self.nodes[by].state == State::Waiting {
                self.make_ready(by);
            }
        }
    }

    /// Notes that a running task failed: whatever needs it is skipped.
    pub(crate) fn fail(&mut self, id: usize) {
        self.release(id, State::Failed);
        let mut stack = self.nodes[id].wanted_by.clone();
        while let Some(by) = stack.pop() {
            if self.nodes[by].state == State::Waiting {
                self.nodes[by].state = State::Skipped;
                stack.extend_from_slice(&self.nodes[by].wanted_by);
            }
        }
    }

    /// Gives the slot of a running task back while it waits for something outside.
    pub(crate) fn park(&mut self, id: usize) {
        self.release(id, State::Parked);
        self.parked += 1;
    }

    /// Lets a parked task compete for a slot again.
    pub(crate) fn unpark(&mut self, id: usize) {
        if self.nodes[id].state == State::Parked {
            self.parked -= 1;
            self.make_ready(id);
        }
    }

    /// Narrows what may still be started; it is never widened.
    pub(crate) fn narrow(&mut self, mode: Mode) {
        self.mode = self.mode.max(mode);
    }

    /// Tells whether nothing runs, nothing is parked, and nothing can be started any more.
    pub(crate) fn is_over(&self) -> bool {
        self.running == [0, 0]
            && (self.parked == 0 || self.mode == Mode::Nothing)
            && !self
                .ready
                .iter()
                .any(|heap| heap.iter().any(|(_, Reverse(id))| self.may_start(*id)))
    }

    /// Returns the tasks that never ran.
    pub(crate) fn never_ran(&self) -> impl Iterator<Item = usize> + '_ {
        self.nodes.iter().enumerate().filter_map(|(id, node)| {
            matches!(
                node.state,
                State::Waiting | State::Ready | State::Skipped | State::Parked
            )
            .then_some(id)
        })
    }

    /// Returns all tasks so that each comes after what it needs.
    pub(crate) fn order(&self) -> impl Iterator<Item = usize> + '_ {
        self.order.iter().copied()
    }

    /// Returns the expected milliseconds from the start of the most urgent task to the end.
    pub(crate) fn critical_path_ms(&self) -> u64 {
        self.nodes.iter().map(|n| n.priority).max().unwrap_or(0)
    }

    fn may_start(&self, id: usize) -> bool {
        self.nodes[id].state == State::Ready
            && match self.mode {
                Mode::All => true,
                Mode::FixedOnly => self.nodes[id].fixed,
                Mode::Nothing => false,
            }
    }

    fn make_ready(&mut self, id: usize) {
        let node = &mut self.nodes[id];
        node.state = State::Ready;
        self.ready[index(node.pool)].push((node.priority, Reverse(id)));
    }

    fn release(&mut self, id: usize, state: State) {
        let node = &mut self.nodes[id];
        node.state = state;
        self.running[index(node.pool)] -= 1;
    }
}

/// Returns the tasks so that each comes after what it needs.
fn topological(tasks: &[Task], nodes: &[Node]) -> Result<Vec<usize>, Vec<usize>> {
    let mut left: Vec<usize> = nodes.iter().map(|n| n.waits_for).collect();
    let mut order: Vec<usize> = (0..nodes.len()).filter(|id| left[*id] == 0).collect();
    let mut at = 0;
    while let Some(id) = order.get(at).copied() {
        at += 1;
        for by in &nodes[id].wanted_by {
            left[*by] -= 1;
            if left[*by] == 0 {
                order.push(*by);
            }
        }
    }
    if order.len() == nodes.len() {
        return Ok(order);
    }
    // Every task that is left needs another one that is left: following them must come back.
    let mut seen = vec![usize::MAX; nodes.len()];
    let mut way = Vec::new();
    let mut id = (0..nodes.len()).find(|id| left[*id] > 0).unwrap_or(0);
    while seen[id] == usize::MAX {
        seen[id] = way.len();
        way.push(id);
        match tasks[id].needs.iter().find(|need| left[**need] > 0) {
            Some(need) => id = *need,
            None => break,
        }
    }
    Err(way.split_off(seen[id].min(way.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(needs: &[usize], cost_ms: u64) -> Task {
        Task {
            needs: needs.to_vec(),
            pool: Pool::Build,
            cost_ms,
            fixed: false,
        }
    }

    fn io(needs: &[usize]) -> Task {
        Task {
            pool: Pool::Io,
            fixed: true,
            ..task(needs, 1)
        }
    }

    /// Runs everything with one slot and returns the order.
    fn order(tasks: &[Task]) -> Vec<usize> {
        let mut schedule = Schedule::new(tasks, 1, 1).unwrap();
        let mut order = Vec::new();
        while let Some(id) = schedule.start_next() {
            order.push(id);
            schedule.succeed(id);
        }
        assert!(schedule.is_over());
        order
    }

    #[test]
    fn the_critical_path_goes_first() {
        // 0 is quick but 2 and 4 wait behind it; 1 is long alone; 3 is short and alone.
        let tasks = [
            task(&[], 1),
            task(&[], 50),
            task(&[0], 60),
            task(&[], 2),
            task(&[2], 1),
        ];
        assert_eq!(order(&tasks), [0, 2, 1, 3, 4]);
    }

    #[test]
    fn equals_go_in_the_order_given() {
        assert_eq!(
            order(&[task(&[], 1), task(&[], 1), task(&[], 1)]),
            [0, 1, 2]
        );
    }

    #[test]
    fn pools_have_their_own_slots() {
        let tasks = [task(&[], 1), task(&[], 1), io(&[]), io(&[]), io(&[])];
        let mut schedule = Schedule::new(&tasks, 1, 2).unwrap();
        let mut started = Vec::new();
        while let Some(id) = schedule.start_next() {
            started.push(id);
        }
        assert_eq!(started, [0, 2, 3]);
        schedule.succeed(2);
        assert_eq!(schedule.start_next(), Some(4));
        assert_eq!(schedule.start_next(), None);
    }

    #[test]
    fn a_failure_skips_what_needs_it_and_nothing_else() {
        let tasks = [task(&[], 9), task(&[0], 1), task(&[1], 1), task(&[], 1)];
        let mut schedule = Schedule::new(&tasks, 1, 1).unwrap();
        assert_eq!(schedule.start_next(), Some(0));
        schedule.fail(0);
        assert_eq!(schedule.start_next(), Some(3));
        schedule.succeed(3);
        assert!(schedule.is_over());
        assert_eq!(schedule.never_ran().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn after_a_wrong_hash_only_fixed_outputs_are_tried() {
        let tasks = [io(&[]), io(&[]), task(&[], 100), io(&[2])];
        let mut schedule = Schedule::new(&tasks, 1, 1).unwrap();
        assert_eq!(schedule.start_next(), Some(2));
        assert_eq!(schedule.start_next(), Some(0));
        schedule.fail(0);
        schedule.narrow(Mode::FixedOnly);
        assert_eq!(schedule.start_next(), Some(1));
        schedule.succeed(2);
        schedule.succeed(1);
        assert_eq!(schedule.start_next(), Some(3));
        schedule.narrow(Mode::Nothing);
        schedule.narrow(Mode::All);
        assert_eq!(schedule.mode, Mode::Nothing);
        assert!(!schedule.is_over());
        schedule.succeed(3);
        assert!(schedule.is_over());
    }

    #[test]
    fn a_parked_task_gives_its_slot_away() {
        let tasks = [task(&[], 2), task(&[], 1)];
        let mut schedule = Schedule::new(&tasks, 1, 1).unwrap();
        assert_eq!(schedule.start_next(), Some(0));
        schedule.park(0);
        assert_eq!(schedule.start_next(), Some(1));
        schedule.unpark(0);
        assert_eq!(schedule.start_next(), None);
        schedule.succeed(1);
        assert_eq!(schedule.start_next(), Some(0));
        schedule.succeed(0);
        assert!(schedule.is_over());
    }

    #[test]
    fn cycles_are_named() {
        let tasks = [task(&[1], 1), task(&[2], 1), task(&[3], 1), task(&[1], 1)];
        assert_eq!(Schedule::new(&tasks, 1, 1).err(), Some(vec![1, 2, 3]));
        assert_eq!(Schedule::new(&[task(&[0], 1)], 1, 1).err(), Some(vec![0]));
    }
}
