//! A bar for work that is no build: one number that grows towards another.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::args::ProgressMode;
use crate::session::Session;

/// Frames a second.
const FRAMES: u8 = 10;

/// A bar at the foot of the terminal, gone when it is dropped; nothing where nobody looks.
pub(crate) struct Bar(Option<ProgressBar>);

impl Bar {
    /// Draws a bar of bytes.
    pub(crate) fn bytes(session: &Session, what: &'static str, total: u64) -> Self {
        let terminal = session.terminal;
        let seen =
            terminal.progress == ProgressMode::Tty && !session.global.quiet && !session.global.json;
        Self(seen.then(|| {
            let target = ProgressDrawTarget::stderr_with_hz(FRAMES);
            let template = "{msg} {bar:24} {bytes}/{total_bytes}";
            let style = ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars(if terminal.unicode { "━╸ " } else { "=> " });
            ProgressBar::with_draw_target(Some(total.max(1)), target)
                .with_style(style)
                .with_message(what)
        }))
    }

    /// Tells how much is done.
    pub(crate) fn at(&self, done: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(done);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
