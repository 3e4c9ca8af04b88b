//! Which task runs next. Pure bookkeeping: no thread, no process, no clock.
//!
//! Tasks take slots of their pool; among those that are ready the one with the longest expected way to the end of
//! the run goes first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use crate::builder::Pool;

/// A task as the schedule sees it; tasks are numbered by their place in the list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task<'a> {
    /// Tasks that must be done before.
    pub(crate) needs: &'a [u32],
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
    waits_for: u32,
    pool: Pool,
    fixed: bool,
    state: State,
    priority: u64,
}

/// Who needs each task, in one list: a task has the part of it between its own number and the next.
struct WantedBy {
    begins: Vec<u32>,
    ids: Vec<u32>,
}

impl WantedBy {
    fn new(tasks: &[Task<'_>]) -> Self {
        let mut begins = vec![0; tasks.len() + 1];
        for need in tasks.iter().flat_map(|task| task.needs) {
            begins[*need as usize + 1] += 1;
        }
        for at in 1..begins.len() {
            begins[at] += begins[at - 1];
        }
        let mut next = begins.clone();
        let mut ids = vec![0; begins[tasks.len()] as usize];
        for (id, task) in (0..).zip(tasks) {
            for need in task.needs {
                let slot = &mut next[*need as usize];
                ids[*slot as usize] = id;
                *slot += 1;
            }
        }
        Self { begins, ids }
    }

    fn of(&self, id: usize) -> Range<usize> {
        self.begins[id] as usize..self.begins[id + 1] as usize
    }
}

/// The state of one run.
pub(crate) struct Schedule {
    nodes: Vec<Node>,
    wanted_by: WantedBy,
    ready: [BinaryHeap<(u64, Reverse<u32>)>; 2],
    running: [usize; 2],
    slots: [usize; 2],
    parked: usize,
    /// Tasks that could start if there were a slot, and those among them that are fixed.
    startable: [usize; 2],
    mode: Mode,
    order: Vec<u32>,
    /// Tasks and needs that were looked at: what a run costs.
    steps: u64,
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
        tasks: &[Task<'_>],
        build_slots: usize,
        io_slots: usize,
    ) -> Result<Self, Vec<usize>> {
        let mut nodes: Vec<Node> = tasks
            .iter()
            .map(|task| Node {
                waits_for: u32::try_from(task.needs.len()).unwrap_or(u32::MAX),
                pool: task.pool,
                fixed: task.fixed,
                state: State::Waiting,
                priority: task.cost_ms,
            })
            .collect();
        let wanted_by = WantedBy::new(tasks);
        let order = topological(tasks, &nodes, &wanted_by)?;
        for id in order.iter().rev().map(|id| *id as usize) {
            let behind = wanted_by.ids[wanted_by.of(id)]
                .iter()
                .map(|by| nodes[*by as usize].priority)
                .max()
                .unwrap_or(0);
            nodes[id].priority = nodes[id].priority.saturating_add(behind);
        }
        let mut schedule = Self {
            steps: (tasks.len() + wanted_by.ids.len()) as u64,
            nodes,
            wanted_by,
            ready: [BinaryHeap::new(), BinaryHeap::new()],
            running: [0, 0],
            slots: [build_slots.max(1), io_slots.max(1)],
            parked: 0,
            startable: [0, 0],
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
                self.steps += 1;
                let id = id as usize;
                if self.may_start(id) {
                    self.running[pool] += 1;
                    self.no_longer_ready(id);
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
        for at in self.wanted_by.of(id) {
            self.steps += 1;
            let by = self.wanted_by.ids[at] as usize;
            self.nodes[by].waits_for -= 1;
            if self.nodes[by].waits_for == 0 && self.nodes[by].state == State::Waiting {
                self.make_ready(by);
            }
        }
    }

    /// Notes that a running task failed: whatever needs it is skipped.
    pub(crate) fn fail(&mut self, id: usize) {
        self.release(id, State::Failed);
        let mut stack = vec![id];
        while let Some(id) = stack.pop() {
            for at in self.wanted_by.of(id) {
                self.steps += 1;
                let by = self.wanted_by.ids[at] as usize;
                if self.nodes[by].state == State::Waiting {
                    self.nodes[by].state = State::Skipped;
                    stack.push(by);
                }
            }
        }
    }

    /// Takes a success back; nothing that needs it may have started. Whatever was waiting for it waits again.
    pub(crate) fn take_back(&mut self, id: usize) {
        for at in self.wanted_by.of(id) {
            let by = self.wanted_by.ids[at] as usize;
            self.nodes[by].waits_for += 1;
            if self.nodes[by].state == State::Ready {
                self.no_longer_ready(by);
                self.nodes[by].state = State::Waiting;
            }
        }
        self.make_ready(id);
    }

    /// Takes the start of a task back.
    pub(crate) fn put_back(&mut self, id: usize) {
        self.release(id, State::Waiting);
        if self.nodes[id].waits_for == 0 {
            self.make_ready(id);
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
            && match self.mode {
                Mode::All => self.startable[0] == 0,
                Mode::FixedOnly => self.startable[1] == 0,
                Mode::Nothing => true,
            }
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
        self.order.iter().map(|id| *id as usize)
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
        self.steps += 1;
        let node = &mut self.nodes[id];
        node.state = State::Ready;
        self.startable[0] += 1;
        self.startable[1] += usize::from(node.fixed);
        // There are as many tasks as their numbers can count.
        let number = Reverse(u32::try_from(id).unwrap_or(u32::MAX));
        self.ready[index(node.pool)].push((node.priority, number));
    }

    fn no_longer_ready(&mut self, id: usize) {
        self.startable[0] -= 1;
        self.startable[1] -= usize::from(self.nodes[id].fixed);
    }

    fn release(&mut self, id: usize, state: State) {
        let node = &mut self.nodes[id];
        node.state = state;
        self.running[index(node.pool)] -= 1;
    }
}

/// Returns the tasks so that each comes after what it needs.
fn topological(
    tasks: &[Task<'_>],
    nodes: &[Node],
    wanted_by: &WantedBy,
) -> Result<Vec<u32>, Vec<usize>> {
    let mut left: Vec<u32> = nodes.iter().map(|n| n.waits_for).collect();
    let mut order = Vec::with_capacity(nodes.len());
    order.extend(
        (0..)
            .zip(&left)
            .filter(|(_, left)| **left == 0)
            .map(|(id, _)| id),
    );
    let mut at = 0;
    while let Some(id) = order.get(at).copied() {
        at += 1;
        let id: u32 = id;
        for by in &wanted_by.ids[wanted_by.of(id as usize)] {
            left[*by as usize] -= 1;
            if left[*by as usize] == 0 {
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
        let mut needs = tasks[id].needs.iter().map(|need| *need as usize);
        match needs.find(|need| left[*need] > 0) {
            Some(need) => id = need,
            None => break,
        }
    }
    Err(way.split_off(seen[id].min(way.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(needs: &[u32], cost_ms: u64) -> Task<'_> {
        Task {
            needs,
            pool: Pool::Build,
            cost_ms,
            fixed: false,
        }
    }

    fn io(needs: &[u32]) -> Task<'_> {
        Task {
            pool: Pool::Io,
            fixed: true,
            ..task(needs, 1)
        }
    }

    /// Runs everything with one slot and returns the order.
    fn order(tasks: &[Task<'_>]) -> Vec<usize> {
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

    #[test]
    fn what_is_taken_back_is_done_again_before_what_needs_it() {
        let tasks = [task(&[], 1), task(&[0], 1), task(&[], 1)];
        let mut schedule = Schedule::new(&tasks, 1, 1).unwrap();
        assert_eq!(schedule.start_next(), Some(0));
        schedule.succeed(0);
        schedule.take_back(0);
        let mut order = Vec::new();
        while let Some(id) = schedule.start_next() {
            order.push(id);
            schedule.succeed(id);
        }
        assert_eq!(order, [0, 1, 2]);
        assert!(schedule.is_over());
    }

    /// Layers of `width`, each task needing three of the layer before, every tenth one a fetch.
    fn layers(count: u32, width: u32) -> Vec<Vec<u32>> {
        (0..count)
            .map(|id| match id.checked_sub(width) {
                None => Vec::new(),
                Some(above) => {
                    let first = above / width * width;
                    (0..3).map(|k| first + (id * 7 + k * 13) % width).collect()
                }
            })
            .collect()
    }

    fn steps_of(count: u32, width: u32, slots: usize) -> u64 {
        let needs = layers(count, width);
        let tasks: Vec<Task<'_>> = (0..)
            .zip(&needs)
            .map(|(id, needs): (u64, _)| Task {
                pool: if id % 10 == 0 { Pool::Io } else { Pool::Build },
                ..task(needs, id % 17)
            })
            .collect();
        let mut schedule = Schedule::new(&tasks, slots, slots).unwrap();
        let mut running = std::collections::VecDeque::new();
        let mut done = 0;
        loop {
            while let Some(id) = schedule.start_next() {
                running.push_back(id);
            }
            if schedule.is_over() {
                break;
            }
            schedule.succeed(running.pop_front().unwrap());
            done += 1;
        }
        assert_eq!(done, count);
        schedule.steps
    }

    #[test]
    fn work_grows_as_the_graph_does() {
        let (small, large) = (steps_of(1_000, 30, 4), steps_of(100_000, 300, 4));
        // A hundred times the tasks, a hundred times the work: the first layer has no needs, which makes the difference.
        assert!(
            large <= small * 104,
            "{small} steps for 1,000, {large} for 100,000"
        );
        // Each task is made ready and started once, and each need is looked at twice.
        assert!(large <= 100_000 * (1 + 3 + 2 + 3), "{large}");
    }
}
