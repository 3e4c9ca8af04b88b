//! `kill -9` of `sos` at random moments: nothing survives, the store is clean, and the next build succeeds.

mod graph;
mod rootfs;
mod steps;

use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::process::{all_gone, descendants, pid, signal};
use crate::support::{World, finish, start};

/// The moments of a run at which it is killed, as parts of the whole: one in each of equal parts of it, in random order.
fn moments(seed: u64, rounds: u32) -> Vec<f64> {
    let mut state = seed;
    let mut random = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut at: Vec<f64> = (0..rounds)
        .map(|i| {
            let inside = f64::from(u32::try_from(random() >> 40).unwrap_or(0)) / f64::from(1 << 24);
            (f64::from(i) + inside) / f64::from(rounds)
        })
        .collect();
    for i in (1..at.len()).rev() {
        at.swap(i, usize::try_from(random() % (i as u64 + 1)).unwrap_or(0));
    }
    at
}

/// How one round ended.
enum Killed {
    /// It was killed in the middle, with this many processes below it.
    Yes(usize),
    /// It had ended before.
    TooLate,
}

/// Waits, kills the run, and checks that no process of it survives.
#[track_caller]
fn kill_after(w: &World, mut child: Child, moment: Duration) -> Killed {
    let until = Instant::now() + moment;
    while Instant::now() < until {
        if child.try_wait().expect("a child").is_some() {
            return Killed::TooLate;
        }
        std::thread::sleep(
            Duration::from_millis(2).min(until.saturating_duration_since(Instant::now())),
        );
    }
    // Stopped first, so that the list of what it started is complete.
    signal(&child, Signal::STOP);
    let family = descendants(pid(&child));
    signal(&child, Signal::KILL);
    let run = finish(child, Duration::from_secs(30));
    all_gone(&family, w.root());
    // It may have been on its way out when the signal came.
    if run.code == 0 {
        return Killed::TooLate;
    }
    run.fails(-1);
    Killed::Yes(family.len())
}

/// Kills builds at `rounds` moments spread over the time that one takes undisturbed. `prepare` makes what the round of that number
/// builds and gives the arguments of `sos`; `expected` is what a build of it prints.
fn rounds(w: &World, seed: u64, rounds: u32, prepare: &dyn Fn(u32) -> Vec<String>) {
    // The first, unkilled run fills the caches of the machine, the second is the measure.
    w.sos(prepare(0)).ok();
    let begin = Instant::now();
    w.sos(prepare(1)).ok();
    let mut whole = begin.elapsed();
    let mut killed = 0;
    let mut with_builders = 0;
    for (round, part) in (2..).zip(moments(seed, rounds)) {
        let moment = whole.mul_f64(part);
        let arguments = prepare(round);
        let child = start(w.command().args(&arguments));
        match kill_after(w, child, moment) {
            Killed::Yes(below) => {
                killed += 1;
                with_builders += u32::from(below > 0);
            }
            // The machine had more to do when the measure was taken.
            Killed::TooLate => whole = moment,
        }
        let check = w.sos(["store", "check"]);
        assert_eq!(
            check.code, 0,
            "round {round}, killed after {moment:?} of {whole:?}:\n{}",
            check.stderr
        );
        // The next build goes on where this one was killed.
        w.sos(&arguments).ok();
    }
    assert!(
        killed * 2 >= rounds,
        "only {killed} of {rounds} runs were killed before their end"
    );
    assert!(
        with_builders * 4 >= rounds,
        "only {with_builders} of {rounds} runs were killed while a builder ran"
    );
    w.sos(prepare(rounds + 1)).ok();
    crate::support::store_is_clean(w);
}
