//! What kind of terminal, if any, stands behind the two output streams.

use std::io::IsTerminal as _;

use crate::args::{Global, ProgressMode, When};
use crate::config::Config;
use crate::environment::Environment;
use crate::render::live;

/// How to speak to the person.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terminal {
    /// Colour on standard error.
    pub(crate) color: bool,
    /// Draw marks beyond ASCII.
    pub(crate) unicode: bool,
    /// The terminal shows progress in the taskbar when told.
    pub(crate) taskbar: bool,
    /// The sink of the event stream.
    pub(crate) progress: ProgressMode,
    /// Print `::error` lines for GitHub.
    pub(crate) github: bool,
}

impl Terminal {
    /// Decides once from flags, configuration and environment.
    pub(crate) fn decide(global: &Global, config: Option<&Config>, env: &Environment) -> Self {
        let tty = std::io::stderr().is_terminal();
        let wanted = global.color.or_else(|| {
            let configured = config?.color.as_deref()?;
            // The configuration was checked when it was read.
            <When as clap::ValueEnum>::from_str(configured, false).ok()
        });
        let color = match wanted.unwrap_or(When::Auto) {
            When::Always => true,
            When::Never => false,
            When::Auto if env.no_color => false,
            When::Auto if env.force_color => true,
            When::Auto => tty && !env.dumb_terminal,
        };
        let wanted = global
            .progress
            .or_else(|| match config.and_then(|c| c.progress.as_deref()) {
                Some("tty") => Some(ProgressMode::Tty),
                Some("plain") => Some(ProgressMode::Plain),
                Some("json") => Some(ProgressMode::Json),
                Some("none") => Some(ProgressMode::None),
                _ => None,
            });
        let progress = match wanted.unwrap_or(ProgressMode::Auto) {
            _ if global.json => ProgressMode::None,
            ProgressMode::Auto if global.quiet => ProgressMode::None,
            ProgressMode::Auto if tty && !env.ci && !env.dumb_terminal => ProgressMode::Tty,
            ProgressMode::Auto => ProgressMode::Plain,
            // Nothing can be drawn again on what is no terminal.
            ProgressMode::Tty if !tty || env.dumb_terminal => ProgressMode::Plain,
            other => other,
        };
        live::can_show(color, env.utf8 || !tty);
        Self {
            color,
            unicode: env.utf8,
            taskbar: tty && env.taskbar,
            progress,
            github: env.github_actions,
        }
    }
}
