//! The circuit breaker: a dead server costs one timeout a run, not one a file.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::failure::Failure;

/// What is known about one server.
#[derive(Debug, Default)]
struct State {
    answered: bool,
    strikes: u32,
    closed: Option<String>,
}

/// Remembers for one run which servers answer.
///
/// A server that never answered is closed by its first failure; one that did answer gets several in a row, because a
/// long build must survive a short outage of its only mirror.
#[derive(Debug, Default)]
pub(super) struct Health {
    servers: Mutex<BTreeMap<String, State>>,
}

impl Health {
    /// Gives the reason why a server is not to be asked again.
    pub(super) fn closed(&self, server: &str) -> Option<String> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.get(server).and_then(|state| state.closed.clone())
    }

    /// Notes that a server delivered, or at least answered sensibly.
    pub(super) fn answered(&self, server: &str) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let state = servers.entry(server.to_owned()).or_default();
        *state = State {
            answered: true,
            strikes: 0,
            closed: None,
        };
    }

    /// Notes a failure that is the server's own; closes it when that is one too many.
    pub(super) fn failed(&self, server: &str, failure: &Failure, strikes: u32) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let state = servers.entry(server.to_owned()).or_default();
        state.answered |= failure.is_answer();
        state.strikes += 1;
        if !state.answered || state.strikes >= strikes {
            tracing::info!(server, %failure, "server given up for this run");
            state.closed = Some(failure.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Failure {
        Failure::Connect {
            reason: "refused".into(),
        }
    }

    #[test]
    fn a_server_that_never_answered_is_closed_at_once() {
        let health = Health::default();
        health.failed("http://a", &failure(), 3);
        assert_eq!(
            health.closed("http://a").as_deref(),
            Some("cannot connect: refused")
        );
        assert_eq!(health.closed("http://b"), None);
    }

    #[test]
    fn a_server_that_answered_gets_three_strikes_in_a_row() {
        let health = Health::default();
        health.answered("http://a");
        health.failed("http://a", &failure(), 3);
        health.failed("http://a", &failure(), 3);
        assert_eq!(health.closed("http://a"), None);
        health.answered("http://a");
        for _ in 0..2 {
            health.failed("http://a", &failure(), 3);
        }
        assert_eq!(health.closed("http://a"), None);
        health.failed("http://a", &failure(), 3);
        assert!(health.closed("http://a").is_some());
    }
}
