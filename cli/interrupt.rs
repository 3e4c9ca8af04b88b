//! Ctrl-C: once stops the builds and ends with a summary, twice ends at once.

use sos_engine::Cancel;

/// Stops `cancel` at the first SIGINT, SIGTERM or SIGHUP and exits at the second; returns which one came first through `seen`.
pub(crate) async fn watch(cancel: Cancel, seen: std::sync::Arc<std::sync::atomic::AtomicU8>) {
    use std::sync::atomic::Ordering;
    use tokio::signal::unix::{SignalKind, signal};

    let (Ok(mut int), Ok(mut term), Ok(mut hup)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
        signal(SignalKind::hangup()),
    ) else {
        return;
    };
    loop {
        let number = tokio::select! {
            _ = int.recv() => 2,
            _ = term.recv() => 15,
            _ = hup.recv() => 1,
        };
        if seen.swap(number, Ordering::SeqCst) != 0 {
            // The sandboxes notice that this process is gone and end with it.
            #[allow(clippy::exit, reason = "the second interrupt asks for exactly this")]
            std::process::exit(128 + i32::from(number));
        }
        crate::render::output::message("stopping; a second signal stops at once");
        cancel.cancel();
    }
}
