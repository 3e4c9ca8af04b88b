//! What is known about a run from its events.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sos_engine::{Causes, Event, Status, Text};

use super::work::{Left, Work};
use crate::render::size;

/// The time over which the speed of downloads is measured.
const SPEED_OVER: Duration = Duration::from_secs(3);

/// One build or fetch that runs.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) name: String,
    pub(super) fetch: bool,
    /// Another process builds it; what that says is shown.
    pub(super) elsewhere: bool,
    /// None as long as another process builds it.
    pub(super) cause: Option<Causes>,
    pub(super) started: Duration,
    pub(super) expected_ms: Option<u64>,
    pub(super) phase: String,
    pub(super) line: String,
    pub(super) done: u64,
    pub(super) total: u64,
}

impl Running {
    /// What another process builds: nothing is known of it but its name.
    fn elsewhere(name: &Text, now: Duration) -> Self {
        Self {
            name: name.to_string(),
            fetch: false,
            elsewhere: true,
            cause: None,
            started: now,
            expected_ms: None,
            phase: String::new(),
            line: String::new(),
            done: 0,
            total: 0,
        }
    }
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
    /// By path of the derivation.
    pub(super) running: BTreeMap<Text, Running>,
    /// What is left to do.
    pub(super) work: Work,
    /// Bytes that came lately, and when.
    came: VecDeque<(Duration, u64)>,
}

impl Model {
    /// Takes an event in and gives back the line that a scrolling display shows for it, if any.
    pub(super) fn apply(&mut self, event: Event, now: Duration) -> Option<Line> {
        match event {
            Event::Plan {
                build,
                fetch,
                cached,
                jobs,
                ..
            } => {
                (self.to_build, self.to_fetch, self.cached) = (build, fetch, cached);
                self.work.jobs(jobs);
            }
            Event::BuildQueued {
                drv,
                name,
                needs,
                expected_ms,
            } => self.work.queue(&drv, &name, &needs, expected_ms),
            Event::BuildStarted {
                drv,
                name,
                cause,
                expected_ms,
                ..
            } => self.start(drv, &name, false, cause, expected_ms, now),
            Event::FetchStarted { drv, name, cause } => {
                self.start(drv, &name, true, cause, None, now);
            }
            Event::BuildPhase { drv, phase, .. } => {
                if let Some(r) = self.running.get_mut(&drv) {
                    r.phase = phase;
                }
            }
            Event::BuildProgress {
                drv, done, total, ..
            } => {
                if let Some(r) = self.running.get_mut(&drv) {
                    (r.done, r.total) = (done, total);
                }
            }
            Event::FetchProgress {
                drv, done, total, ..
            } => {
                if let Some(r) = self.running.get_mut(&drv) {
                    // A download that begins again has brought nothing by that.
                    self.came.push_back((now, done.saturating_sub(r.done)));
                    (r.done, r.total) = (done, total);
                }
            }
            Event::BuildLog { drv, name, line } => {
                // A line that was drawn over itself shows its last state.
                let line = line.rsplit('\r').next().unwrap_or(&line).to_owned();
                if let Some(r) = self.running.get_mut(&drv) {
                    r.line.clone_from(&line);
                }
                return Some(Line::Log { name, line });
            }
            Event::BuildWaiting {
                drv,
                name,
                pid,
                command,
            } => {
                self.run(drv, Running::elsewhere(&name, now), now);
                return Some(Line::Waiting {
                    name: name.to_string(),
                    pid,
                    command: command.map(|text| text.to_string()),
                });
            }
            Event::BuildFinished {
                drv,
                name,
                status,
                duration_ms,
                ..
            } => return self.finished(&drv, &name, status, duration_ms, 0, false),
            Event::FetchFinished {
                drv,
                name,
                status,
                duration_ms,
                bytes,
                ..
            } => return self.finished(&drv, &name, status, duration_ms, bytes, true),
            Event::Summary {
                built,
                fetched,
                fetched_bytes,
                cached,
                failed,
                stopped,
                skipped,
                elapsed_ms,
                ..
            } => {
                return Some(Line::Summary(summary(
                    built,
                    fetched,
                    fetched_bytes,
                    cached,
                    [failed, stopped, skipped],
                    Duration::from_millis(elapsed_ms),
                )));
            }
            _ => {}
        }
        None
    }

    fn start(
        &mut self,
        drv: Text,
        name: &Text,
        fetch: bool,
        cause: Causes,
        expected_ms: Option<u64>,
        now: Duration,
    ) {
        let running = Running {
            fetch,
            elsewhere: false,
            cause: Some(cause),
            expected_ms,
            ..Running::elsewhere(name, now)
        };
        self.run(drv, running, now);
    }

    fn run(&mut self, drv: Text, running: Running, now: Duration) {
        self.work.start(&drv, now);
        self.running.insert(drv, running);
    }

    fn finished(
        &mut self,
        drv: &Text,
        name: &Text,
        status: Status,
        ms: u64,
        bytes: u64,
        fetch: bool,
    ) -> Option<Line> {
        let cause = self.running.remove(drv).and_then(|running| running.cause);
        let well = matches!(status, Status::Built | Status::Fetched | Status::Cached);
        let ran = matches!(status, Status::Built | Status::Fetched);
        self.work.end(drv, well, ran.then_some(ms));
        match status {
            Status::Built | Status::Fetched if fetch => {
                self.fetched += 1;
                self.fetched_bytes += bytes;
            }
            Status::Built | Status::Fetched => self.built += 1,
            Status::Cached => {
                self.cached += 1;
                let planned = if fetch {
                    &mut self.to_fetch
                } else {
                    &mut self.to_build
                };
                *planned = planned.saturating_sub(1);
                return None;
            }
            Status::Failed => self.failed += 1,
            Status::Cancelled | Status::Skipped => return None,
        }
        Some(Line::Finished {
            name: name.to_string(),
            fetch,
            failed: status == Status::Failed,
            cause: cause.map(|cause| cause.to_string()),
            took: Duration::from_millis(ms),
            bytes,
            done: self.done(),
            total: self.total(),
        })
    }

    /// Builds and fetches that have ended.
    pub(super) fn done(&self) -> usize {
        self.built + self.fetched + self.failed
    }

    /// Builds and fetches of the plan, never less than what has ended or runs.
    pub(super) fn total(&self) -> usize {
        (self.to_build + self.to_fetch).max(self.done() + self.running.len())
    }

    /// Bytes a second that downloads brought lately; none when nothing came.
    pub(super) fn speed(&mut self, now: Duration) -> Option<u64> {
        while self
            .came
            .front()
            .is_some_and(|(when, _)| now.saturating_sub(*when) > SPEED_OVER)
        {
            self.came.pop_front();
        }
        let bytes: u64 = self.came.iter().map(|(_, bytes)| bytes).sum();
        let over = SPEED_OVER.min(now).as_millis().max(1);
        let speed = u128::from(bytes) * 1000 / over;
        (bytes > 0).then(|| u64::try_from(speed).unwrap_or(u64::MAX))
    }

    /// How long is left.
    pub(super) fn left(&mut self, now: Duration) -> Left {
        self.work.left(now)
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
    Log { name: Text, line: String },
    /// The end.
    Summary(String),
}

/// The last line of every run: `built 14, fetched 3 (41.0 MiB), cached 204, failed 1 in 12m 5s`.
pub(super) fn summary(
    built: usize,
    fetched: usize,
    bytes: u64,
    cached: usize,
    [failed, stopped, skipped]: [usize; 3],
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
    if stopped > 0 {
        parts.push(format!("stopped {stopped}"));
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

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn finished(drv: &str, fetch: bool, status: Status) -> Event {
        let (drv, name, outputs) = (drv.into(), drv.into(), BTreeMap::new());
        if fetch {
            Event::FetchFinished {
                drv,
                name,
                status,
                duration_ms: 5,
                bytes: 2048,
                outputs,
            }
        } else {
            Event::BuildFinished {
                drv,
                name,
                status,
                duration_ms: 5,
                outputs,
            }
        }
    }

    #[test]
    fn counts_follow_the_events() {
        let mut m = Model::default();
        m.apply(
            Event::Plan {
                build: 2,
                fetch: 1,
                cached: 7,
                eta_ms: None,
                jobs: 1,
            },
            secs(0),
        );
        m.apply(
            Event::FetchStarted {
                drv: "f".into(),
                name: "f".into(),
                cause: Cause::NeverBuilt.into(),
            },
            secs(0),
        );
        assert_eq!((m.done(), m.total(), m.cached), (0, 3, 7));
        let line = m.apply(finished("f", true, Status::Fetched), secs(1));
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
        // What turns out to be there is not built any more.
        let line = m.apply(finished("b", false, Status::Cached), secs(1));
        assert_eq!((line, m.cached, m.total()), (None, 8, 2));
        m.apply(finished("c", false, Status::Failed), secs(1));
        assert_eq!((m.done(), m.failed), (2, 1));
    }

    #[test]
    fn speed_is_that_of_the_last_seconds() {
        let mut m = Model::default();
        m.apply(
            Event::FetchStarted {
                drv: "f".into(),
                name: "f".into(),
                cause: Cause::NeverBuilt.into(),
            },
            secs(10),
        );
        let came = |done| Event::FetchProgress {
            drv: "f".into(),
            name: "f".into(),
            done,
            total: 9000,
        };
        assert_eq!(m.speed(secs(10)), None);
        m.apply(came(1500), secs(11));
        m.apply(came(3000), secs(12));
        assert_eq!(m.speed(secs(12)), Some(1000));
        // It began anew, from another mirror.
        m.apply(came(600), secs(14));
        m.apply(came(1200), secs(15));
        assert_eq!(m.speed(secs(15)), Some(700));
        assert_eq!(m.speed(secs(30)), None);
    }

    #[test]
    fn the_summary_leaves_out_what_did_not_happen() {
        assert_eq!(
            summary(14, 3, 43_000_000, 204, [1, 0, 0], secs(725)),
            "built 14, fetched 3 (41.0 MiB), cached 204, failed 1 in 12m 5s"
        );
        assert_eq!(
            summary(0, 0, 0, 1, [0; 3], Duration::from_millis(9)),
            "built 0, cached 1 in 9ms"
        );
    }
}
