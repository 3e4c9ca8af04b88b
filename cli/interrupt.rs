//! Ctrl-C: once starts no more builds, twice stops those that run, both end with a summary; once more ends at once. Ctrl-Z: leaves a
//! clean terminal to the shell.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::process::{Pid, Signal, getpid, kill_process};
use sos_engine::Cancel;
use tokio::signal::unix::{self, SignalKind, signal};

use crate::render::{live, output};

/// What the first Ctrl-C is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    /// Nothing more is started, and what runs comes to its end, if nobody asks again.
    StartsNoMore,
    /// What runs ends.
    Stops,
}

/// Stops `cancel` at SIGINT, SIGTERM or SIGHUP, and exits at the next one; returns which one came first through `seen`. Who ends
/// programs waits for none of them: with [`First::StartsNoMore`] only SIGINT leaves them time. With `draws`, what is drawn is taken
/// away while the program is stopped.
///
/// `told` is called with the first signal before anything stops.
pub(crate) async fn watch(
    cancel: Cancel,
    seen: Arc<AtomicU8>,
    first: First,
    draws: bool,
    told: impl Fn(u8) + Send,
) {
    let (Ok(mut int), Ok(mut term), Ok(mut hup)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
        signal(SignalKind::hangup()),
    ) else {
        return;
    };
    // Without anything drawn, stopping is as it always is: the kernel does it, and only where a shell waits to go on.
    let stop = Signal::TSTP.as_raw();
    let mut stop = draws
        .then(|| signal(SignalKind::from_raw(stop)).ok())
        .flatten();
    loop {
        let number = tokio::select! {
            _ = int.recv() => 2,
            _ = term.recv() => 15,
            _ = hup.recv() => 1,
            () = came(stop.as_mut()) => {
                // Nobody draws until the program goes on; the next frame shows everything again.
                live::without(|| {
                    wake_children();
                    let _refused = kill_process(getpid(), Signal::STOP).is_err();
                });
                continue;
            }
        };
        let is_first = seen.swap(number, Ordering::SeqCst) == 0;
        if cancel.is_cancelled() {
            live::clear_at_once();
            // The sandboxes notice that this process is gone and end with it.
            #[allow(clippy::exit, reason = "the second interrupt asks for exactly this")]
            std::process::exit(128 + i32::from(number));
        }
        let drains = first == First::StartsNoMore && number == 2 && !cancel.is_stopping();
        output::message(if drains {
            "starting nothing more, what runs comes to its end; Ctrl-C once more stops it"
        } else {
            "stopping; one more signal ends sos at once"
        });
        if is_first {
            told(number);
        }
        if drains {
            cancel.stop_starting_by(number);
        } else {
            cancel.cancel_by(number);
        }
    }
}

/// From now on Ctrl-C stops what an evaluator does, not the program; a second one, before that has stopped, ends it.
pub(crate) fn only_evaluation(interrupter: sos_lang::Interrupter, asked: Arc<AtomicU8>) {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let wait = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async {
            let Ok(mut int) = signal(SignalKind::interrupt()) else {
                return;
            };
            let _nobody_waits = ready.send(()).is_err();
            while int.recv().await.is_some() {
                if asked.swap(2, Ordering::SeqCst) != 0 {
                    #[allow(clippy::exit, reason = "the second interrupt asks for exactly this")]
                    std::process::exit(130);
                }
                interrupter.interrupt();
            }
        });
    };
    // Without the thread Ctrl-C does what it always does.
    let _none = std::thread::Builder::new()
        .name("interrupts".into())
        .spawn(wait)
        .is_err();
    // What reads lines puts the handler back that it has found: it must find this one.
    let _never = is_ready.recv().is_err();
}

/// Ctrl-Z stops the whole group of this process, and so a child that is about to become a sandbox of its own and has not left the
/// group yet. The thread that makes it cannot stop before it is made, and without that thread this process does not: whoever waits
/// for it to stop would wait for ever.
fn wake_children() {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else {
        return;
    };
    for thread in threads.flatten() {
        let children = std::fs::read_to_string(thread.path().join("children"));
        for child in children.unwrap_or_default().split_whitespace() {
            let child = child.parse().ok().and_then(Pid::from_raw);
            let _gone = child.is_some_and(|child| kill_process(child, Signal::CONT).is_err());
        }
    }
}

/// Waits for a signal, or for ever.
async fn came(signal: Option<&mut unix::Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}
