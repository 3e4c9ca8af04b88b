//! What is known about a run from its events, and the lines that say it.

use std::collections::BTreeMap;
use std::time::Duration;

use sos_engine::{Causes, Event, Status, Text};

use crate::render::size;

/// One build or fetch that runs.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) name: String,
    pub(super) fetch: bool,
    pub(super) cause: Causes,
    pub(super) started: Duration,
    pub(super) expected_ms: Option<u64>,
    pub(super) phase: String,
    pub(super) line: String,
    pub(super) done: u64,
    pub(super) total: u64,
}

/// Something that has not begun.
#[derive(Debug, Default)]
struct Waiting {
    name: String,
    /// How many others must end before.
    needs: usize,
}

/// The state of a run. Times are durations since the run began, so that tests need no clock.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) to_build: usize,
    pub(super) to_fetch: usize,
    pub(super) built: usize,
    pub(super) fetched: usize,
    pub(super) fetched_bytes: u64,
    pub(super) cached: usize,
    pub(super) failed: usize,
    pub(super) eta_ms: Option<u64>,
    /// By path of the derivation.
    pub(super) running: BTreeMap<String, Running>,
    /// What waits, by path of the derivation.
    waiting: BTreeMap<Text, Waiting>,
    /// Who waits for a derivation.
    needed_by: BTreeMap<Text, Vec<Text>>,
}

impl Model {
    /// Takes an event in and gives back the line that a scrolling display shows for it, if any.
    pub(super) fn apply(&mut self, event: &Event, now: Duration) -> Option<Line> {
        match event {
            Event::Plan {
                build,
                fetch,
                cached,
                eta_ms,
            } => {
                (self.to_build, self.to_fetch, self.cached, self.eta_ms) =
                    (*build, *fetch, *cached, *eta_ms);
                None
            }
            Event::BuildQueued {
                drv, name, needs, ..
            } => {
                self.waiting.insert(
                    drv.clone(),
                    Waiting {
                        name: name.as_str().to_owned(),
                        needs: needs.len(),
                    },
                );
                for need in needs {
                    self.needed_by
                        .entry(need.clone())
                        .or_default()
                        .push(drv.clone());
                }
                None
            }
            Event::BuildStarted {
                drv,
                name,
                cause,
                expected_ms,
                ..
            } => {
                self.waiting.remove(drv);
                self.start(drv, name, false, cause, *expected_ms, now);
                None
            }
            Event::FetchStarted { drv, name, cause } => {
                self.waiting.remove(drv);
                self.start(drv, name, true, cause, None, now);
                None
            }
            Event::BuildPhase { drv, phase, .. } => {
                if let Some(r) = self.running.get_mut(drv.as_str()) {
                    r.phase.clone_from(phase);
                }
                None
            }
            Event::BuildProgress {
                drv, done, total, ..
            }
            | Event::FetchProgress {
                drv, done, total, ..
            } => {
                if let Some(r) = self.running.get_mut(drv.as_str()) {
                    (r.done, r.total) = (*done, *total);
                }
                None
            }
            Event::BuildLog { drv, name, line } => {
                if let Some(r) = self.running.get_mut(drv.as_str()) {
                    r.line.clone_from(line);
                }
                Some(Line::Log {
                    name: name.as_str().to_owned(),
                    line: line.clone(),
                })
            }
            Event::BuildWaiting {
                name, pid, command, ..
            } => Some(Line::Waiting {
                name: name.as_str().to_owned(),
                pid: *pid,
                command: command.as_ref().map(|text| text.as_str().to_owned()),
            }),
            Event::BuildFinished {
                drv,
                name,
                status,
                duration_ms,
                ..
            } => {
                self.over(drv, *status);
                self.finished(drv.as_str(), name.as_str(), *status, *duration_ms, 0, false)
            }
            Event::FetchFinished {
                drv,
                name,
                status,
                duration_ms,
                bytes,
                ..
            } => {
                self.over(drv, *status);
                self.finished(
                    drv.as_str(),
                    name.as_str(),
                    *status,
                    *duration_ms,
                    *bytes,
                    true,
                )
            }
            Event::Summary {
                built,
                fetched,
                fetched_bytes,
                cached,
                failed,
                skipped,
                elapsed_ms,
                ..
            } => Some(Line::Summary(summary(
                *built,
                *fetched,
                *fetched_bytes,
                *cached,
                *failed,
                *skipped,
                Duration::from_millis(*elapsed_ms),
            ))),
            _ => None,
        }
    }

    fn start(
        &mut self,
        drv: &Text,
        name: &Text,
        fetch: bool,
        cause: &Causes,
        expected_ms: Option<u64>,
        now: Duration,
    ) {
        self.running.insert(
            drv.to_string(),
            Running {
                name: name.to_string(),
                fetch,
                cause: cause.clone(),
                started: now,
                expected_ms,
                phase: String::new(),
                line: String::new(),
                done: 0,
                total: 0,
            },
        );
    }

    fn finished(
        &mut self,
        drv: &str,
        name: &str,
        status: Status,
        ms: u64,
        bytes: u64,
        fetch: bool,
    ) -> Option<Line> {
        let cause = self.running.remove(drv).map(|running| running.cause);
        let took = Duration::from_millis(ms);
        match status {
            Status::Built | Status::Fetched if fetch => {
                self.fetched += 1;
                self.fetched_bytes += bytes;
            }
            Status::Built | Status::Fetched => self.built += 1,
            Status::Cached => {
                self.cached += 1;
                return None;
            }
            Status::Failed => self.failed += 1,
            Status::Cancelled | Status::Skipped => return None,
        }
        Some(Line::Finished {
            name: name.to_owned(),
            fetch,
            failed: status == Status::Failed,
            cause: cause.map(|cause| cause.to_string()),
            took,
            bytes,
            done: self.done(),
            total: self.total(),
        })
    }

    /// Notes that something has ended: what waited for it waits for one less.
    fn over(&mut self, drv: &Text, status: Status) {
        self.waiting.remove(drv);
        if matches!(status, Status::Failed | Status::Cancelled | Status::Skipped) {
            // What waits for it goes on waiting, and is never started.
            return;
        }
        for waiter in self.needed_by.remove(drv).unwrap_or_default() {
            if let Some(waiting) = self.waiting.get_mut(&waiter) {
                waiting.needs = waiting.needs.saturating_sub(1);
            }
        }
    }

    /// The line below the live region: `next: image waits for 3 · rootfs waits for 1 · 38 more`; none when nothing waits.
    pub(super) fn next(&self, dot: &str) -> Option<String> {
        /// Names on the line.
        const SHOWN: usize = 2;
        let mut first: Vec<&Waiting> = self.waiting.values().collect();
        first.sort_by(|a, b| (a.needs, &a.name).cmp(&(b.needs, &b.name)));
        if first.is_empty() {
            return None;
        }
        let mut parts: Vec<String> = first
            .iter()
            .take(SHOWN)
            .map(|waiting| match waiting.needs {
                0 => format!("{} waits for a slot", waiting.name),
                needs => format!("{} waits for {needs}", waiting.name),
            })
            .collect();
        if first.len() > SHOWN {
            parts.push(format!("{} more", first.len() - SHOWN));
        }
        Some(format!("next: {}", parts.join(dot)))
    }

    /// Builds and fetches that have ended.
    pub(super) fn done(&self) -> usize {
        self.built + self.fetched + self.failed
    }

    /// Builds and fetches of the plan, never less than what has ended or runs.
    pub(super) fn total(&self) -> usize {
        (self.to_build + self.to_fetch).max(self.done() + self.running.len())
    }

    /// The line above the live region: `14/87 built · 204 cached · 3 fetching · 0 failed   3m 41s`.
    pub(super) fn headline(&self, now: Duration, dot: &str) -> String {
        let fetching = self.running.values().filter(|r| r.fetch).count();
        let mut parts = vec![format!("{}/{} done", self.done(), self.total())];
        if self.cached > 0 {
            parts.push(format!("{} cached", self.cached));
        }
        if fetching > 0 {
            parts.push(format!("{fetching} fetching"));
        }
        if self.failed > 0 {
            parts.push(format!("{} failed", self.failed));
        }
        let mut line = format!("{}   {}", parts.join(dot), size::duration(now));
        if let Some(left) = self
            .eta_ms
            .map(Duration::from_millis)
            .and_then(|eta| eta.checked_sub(now))
        {
            line.push_str(&format!("{dot}about {} left", size::duration(left)));
        }
        line
    }
}

/// A line that scrolls away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// A build or fetch ended.
    Finished {
        name: String,
        fetch: bool,
        failed: bool,
        /// Why it was built; none when it failed before its builder was started.
        cause: Option<String>,
        took: Duration,
        bytes: u64,
        done: usize,
        total: usize,
    },
    /// Another process builds what this one needs.
    Waiting {
        name: String,
        pid: Option<u32>,
        command: Option<String>,
    },
    /// A line that a build wrote.
    Log { name: String, line: String },
    /// The end.
    Summary(String),
}

/// The last line of every run: `built 14, fetched 3 (41.0 MiB), cached 204, failed 1 in 12m 5s`.
pub(super) fn summary(
    built: usize,
    fetched: usize,
    bytes: u64,
    cached: usize,
    failed: usize,
    skipped: usize,
    took: Duration,
) -> String {
    let mut parts = vec![format!("built {built}")];
    if fetched > 0 {
        parts.push(format!("fetched {fetched} ({})", size::bytes(bytes)));
    }
    parts.push(format!("cached {cached}"));
    if failed > 0 {
        parts.push(format!("failed {failed}"));
    }
    if skipped > 0 {
        parts.push(format!("not tried {skipped}"));
    }
    format!("{} in {}", parts.join(", "), size::duration(took))
}

#[cfg(test)]
mod tests {
    use sos_engine::Cause;

    use super::*;

    #[test]
    fn counts_follow_the_events() {
        let mut m = Model::default();
        m.apply(
            &Event::Plan {
                build: 2,
                fetch: 1,
                cached: 7,
                eta_ms: None,
            },
            Duration::ZERO,
        );
        m.apply(
            &Event::FetchStarted {
                drv: "f".into(),
                name: "src".into(),
                cause: Cause::NeverBuilt.into(),
            },
            Duration::ZERO,
        );
        assert_eq!(
            m.headline(Duration::from_secs(1), " · "),
            "0/3 done · 7 cached · 1 fetching   1.0s"
        );
        let line = m.apply(
            &Event::FetchFinished {
                drv: "f".into(),
                name: "src".into(),
                status: Status::Fetched,
                duration_ms: 5,
                bytes: 2048,
                outputs: BTreeMap::new(),
            },
            Duration::from_secs(1),
        );
        assert!(matches!(
            line,
            Some(Line::Finished {
                done: 1,
                total: 3,
                fetch: true,
                bytes: 2048,
                ..
            })
        ));
        let line = m.apply(
            &Event::BuildFinished {
                drv: "b".into(),
                name: "x".into(),
                status: Status::Cached,
                duration_ms: 0,
                outputs: BTreeMap::new(),
            },
            Duration::from_secs(1),
        );
        assert_eq!((line, m.cached), (None, 8));
    }

    #[test]
    fn what_comes_next_is_what_waits_for_least() {
        let mut m = Model::default();
        for (drv, needs) in [
            ("a", &[][..]),
            ("b", &["a"]),
            ("c", &["a", "b"]),
            ("d", &["c"]),
        ] {
            m.apply(
                &Event::BuildQueued {
                    drv: drv.into(),
                    name: drv.into(),
                    needs: needs.iter().map(|n| (*n).into()).collect(),
                    expected_ms: None,
                },
                Duration::ZERO,
            );
        }
        let started = |drv: &str| Event::BuildStarted {
            drv: drv.into(),
            name: drv.into(),
            builder: "sandbox".into(),
            cause: Cause::NeverBuilt.into(),
            expected_ms: None,
        };
        m.apply(&started("a"), Duration::ZERO);
        assert_eq!(
            m.next(" · ").as_deref(),
            Some("next: b waits for 1 · d waits for 1 · 1 more")
        );
        m.apply(
            &Event::BuildFinished {
                drv: "a".into(),
                name: "a".into(),
                status: Status::Built,
                duration_ms: 1,
                outputs: BTreeMap::new(),
            },
            Duration::ZERO,
        );
        assert_eq!(
            m.next(" · ").as_deref(),
            Some("next: b waits for a slot · c waits for 1 · 1 more")
        );
        for drv in ["b", "c", "d"] {
            m.apply(&started(drv), Duration::ZERO);
        }
        assert_eq!(m.next(" · "), None);
    }

    #[test]
    fn the_summary_leaves_out_what_did_not_happen() {
        assert_eq!(
            summary(14, 3, 43_000_000, 204, 1, 0, Duration::from_secs(725)),
            "built 14, fetched 3 (41.0 MiB), cached 204, failed 1 in 12m 5s"
        );
        assert_eq!(
            summary(0, 0, 0, 1, 0, 0, Duration::from_millis(9)),
            "built 0, cached 1 in 9ms"
        );
    }
}
