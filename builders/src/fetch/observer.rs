//! How a transfer tells about itself and learns that nobody waits for it any more.

/// Receives what happens during a transfer.
pub trait Observer {
    /// Reports the bytes that have arrived of the current source, and their total when it is known.
    fn progress(&self, done: u64, total: Option<u64>);
    /// Reports something worth a line in the log: a retry, a source given up.
    fn note(&self, text: &str);
    /// Tells whether the transfer should stop.
    fn cancelled(&self) -> bool;
}

/// An observer that hears nothing and never cancels.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl Observer for Quiet {
    fn progress(&self, _done: u64, _total: Option<u64>) {}
    fn note(&self, text: &str) {
        tracing::debug!(text, "fetch");
    }
    fn cancelled(&self) -> bool {
        false
    }
}
