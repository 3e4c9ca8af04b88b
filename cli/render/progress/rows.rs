//! The rows of the live region: a headline, what runs, what comes next.

use std::time::Duration;

use super::model::{Model, Running};
use super::work::Left;
use crate::render::size;
use crate::render::text::{columns, cut, one_row, pad};

/// Rows of the live region at most, the headline among them.
const MAX_ROWS: usize = 10;
/// Smaller windows get the headline only.
const MIN_ROWS: usize = 8;
const MIN_COLUMNS: usize = 60;
/// Names are cut in the middle to this width.
pub(super) const NAME_COLUMNS: usize = 28;
const PHASE_COLUMNS: usize = 12;
/// The shortest bar that says anything.
const BAR_COLUMNS: usize = 8;
/// Names of what waits.
const NEXT_SHOWN: usize = 2;

const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
const ASCII_SPINNER: [&str; 4] = ["|", "/", "-", "\\"];

/// A window and what may be drawn in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) unicode: bool,
    pub(super) color: bool,
}

impl Window {
    /// Between two facts.
    fn dot(self) -> &'static str {
        if self.unicode { " · " } else { ", " }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.color && !text.is_empty() {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Draws the region. No row is wider than the window less one column: in the last one, some terminals wrap and some do not.
pub(super) fn rows(model: &mut Model, now: Duration, window: Window) -> Vec<String> {
    let width = window.columns.saturating_sub(1);
    let mut rows = vec![headline(model, now, window, width)];
    if window.rows < MIN_ROWS || window.columns < MIN_COLUMNS {
        return rows;
    }
    let room = (window.rows / 3).min(MAX_ROWS) - 1;
    let next = next(model, window, width);
    // Longest first: what hangs is there to be seen.
    let mut running: Vec<_> = model.running.iter().collect();
    running.sort_by_key(|(_, r)| r.started);
    let blocks = blocking(model, &running);
    let for_next = usize::from(next.is_some() && room > 1);
    let mut shown = running.len().min(room - for_next);
    // The line about those that are left out takes the place of one of them.
    if shown < running.len() && shown > 1 {
        shown -= 1;
    }
    let hidden = running.len() - shown;
    let name = running[..shown].iter().map(|(_, r)| columns(&r.name)).max();
    let phase = running[..shown]
        .iter()
        .map(|(_, r)| columns(&phase(r, window)))
        .max();
    let (name, phase) = (
        name.unwrap_or(0).min(NAME_COLUMNS),
        phase.unwrap_or(0).min(PHASE_COLUMNS),
    );
    for (at, (_, r)) in running[..shown].iter().enumerate() {
        rows.push(row(
            r,
            now,
            window,
            (name, phase, width),
            blocks == Some(at),
        ));
    }
    if hidden > 0 && rows.len() <= room - for_next {
        rows.push(format!("   and {hidden} more"));
    }
    if let Some(next) = next.filter(|_| rows.len() <= room) {
        rows.push(next);
    }
    rows
}

/// Which of those that run keeps most others waiting; none when nothing is kept, or nothing else runs.
fn blocking(model: &Model, running: &[(&sos_engine::Text, &Running)]) -> Option<usize> {
    if running.len() < 2 {
        return None;
    }
    let mut most = (0, None);
    for (at, (drv, _)) in running.iter().enumerate() {
        let waits = model.work.waits_for(drv);
        if waits > most.0 {
            most = (waits, Some(at));
        }
    }
    most.1
}

/// `━ 14/87 done · 204 cached · 3 fetching 18.0 MiB/s · 0 failed ━━━━━━───── 3m 41s · about 9m left`, and less of it where there is
/// less room.
fn headline(model: &mut Model, now: Duration, window: Window, width: usize) -> String {
    let (full, empty, dot) = if window.unicode {
        ("━", "─", " · ")
    } else {
        ("=", "-", ", ")
    };
    let (done, total) = (model.done(), model.total());
    let fetching = model.running.values().filter(|r| r.fetch).count();
    let counts = format!("{done}/{total} done");
    let cached = (model.cached > 0).then(|| format!("{} cached", model.cached));
    let speed = model.speed(now).filter(|_| fetching > 0);
    let speed = speed.map_or(String::new(), |b| format!(" {}/s", size::bytes(b)));
    let fetching = (fetching > 0).then(|| format!("{fetching} fetching{speed}"));
    let failed = format!("{} failed", model.failed);
    let time = size::seconds(now);
    let left = match model.left(now) {
        Left::Nothing => None,
        Left::Unknown => Some("? left".to_owned()),
        Left::About(left) => Some(format!("about {} left", size::seconds(left))),
    };
    let join = |parts: &[&Option<String>]| {
        let there: Vec<&str> = parts.iter().filter_map(|p| p.as_deref()).collect();
        there.join(dot)
    };
    let (counts, failed, time) = (Some(counts), Some(failed), Some(time));
    let right = join(&[&time, &left]);
    // What matters least goes first.
    let lefts = [
        join(&[&counts, &cached, &fetching, &failed]),
        join(&[&counts, &fetching, &failed]),
        join(&[&counts, &failed]),
    ];
    let fitting = lefts
        .iter()
        .find(|left| columns(left) + columns(&right) + 4 <= width)
        .unwrap_or(&lefts[2]);
    let failed_code = if model.failed > 0 { "31" } else { "" };
    let paint_failed = |text: &str| {
        let failed = failed.as_deref().unwrap_or_default();
        match text.strip_suffix(failed) {
            Some(start) if !failed_code.is_empty() => {
                format!("{start}{}", window.paint(failed_code, failed))
            }
            _ => text.to_owned(),
        }
    };
    let used = columns(fitting) + columns(&right) + 4;
    if used > width {
        let text = format!("{full} {fitting} {right}");
        return cut(&text, width).to_owned();
    }
    let room = width - used;
    if room < BAR_COLUMNS {
        return format!("{full} {}  {right}", paint_failed(fitting));
    }
    let filled = (done * room).checked_div(total).unwrap_or(0).min(room);
    format!(
        "{} {} {}{} {right}",
        window.paint("32", full),
        paint_failed(fitting),
        window.paint("32", &full.repeat(filled)),
        window.paint("2", &empty.repeat(room - filled)),
    )
}

/// The name of a phase as it is shown: builders of Nix call them `buildPhase`.
fn phase(r: &Running, window: Window) -> String {
    if r.fetch {
        return "fetch".to_owned();
    }
    if r.elsewhere {
        return "elsewhere".to_owned();
    }
    let name = one_row(&r.phase, window.unicode);
    match name.strip_suffix("Phase").unwrap_or(&name) {
        "" => "build".to_owned(),
        short => short.to_owned(),
    }
}

fn row(
    r: &Running,
    now: Duration,
    window: Window,
    (name, phase_columns, width): (usize, usize, usize),
    blocks: bool,
) -> String {
    let frame = usize::try_from(now.as_millis() / 100).unwrap_or(0);
    let mark = match (r.fetch, window.unicode) {
        (true, true) => "↓",
        (true, false) => "v",
        (false, true) => SPINNER[frame % SPINNER.len()],
        (false, false) => ASCII_SPINNER[frame % ASCII_SPINNER.len()],
    };
    let first = match (blocks, window.unicode) {
        (true, true) => "»",
        (true, false) => ">",
        (false, _) => " ",
    };
    let took = size::seconds(now.saturating_sub(r.started));
    let percent = r
        .done
        .saturating_mul(100)
        .checked_div(r.total)
        .map_or(String::new(), |p| format!("{}%", p.min(100)));
    let rest = if r.fetch {
        let sizes = if r.total == 0 {
            size::bytes(r.done)
        } else {
            size::of(r.done, r.total)
        };
        format!("{percent:>4}  {sizes}")
    } else {
        let expected = r.expected_ms.map_or("?".to_owned(), |ms| {
            format!("~{}", size::seconds(Duration::from_millis(ms)))
        });
        let percent = if percent.is_empty() {
            percent
        } else {
            format!("  {percent}")
        };
        format!(
            "{took:>7} / {expected:<8}{percent}  {}",
            one_row(&r.line, window.unicode)
        )
    };
    let name = pad(&one_row(&r.name, window.unicode), name);
    let phase = pad(&phase(r, window), phase_columns);
    let before = columns(first) + columns(mark) + 1;
    let room = width.saturating_sub(before);
    let text = format!("{name}  {phase} {rest}");
    let text = cut(&text, room).trim_end();
    // Only whole names are painted.
    let text = match text.strip_prefix(name.as_str()) {
        Some(rest) => format!("{}{rest}", window.paint("36", &name)),
        None => text.to_owned(),
    };
    format!("{}{mark} {text}", window.paint("33", first))
}

/// The last row: `next: image waits for 3 · rootfs waits for 1 · 38 more`; none when nothing waits.
fn next(model: &Model, window: Window, width: usize) -> Option<String> {
    let (first, waiting) = model.work.next(NEXT_SHOWN);
    if waiting == 0 {
        return None;
    }
    let mut parts: Vec<String> = first
        .iter()
        .map(|(name, needs)| {
            let name = pad(name, columns(name).min(NAME_COLUMNS));
            match needs {
                0 => format!("{name} waits for a slot"),
                needs => format!("{name} waits for {needs}"),
            }
        })
        .collect();
    if waiting > first.len() {
        parts.push(format!("{} more", waiting - first.len()));
    }
    let text = format!("   next: {}", parts.join(window.dot()));
    Some(cut(&text, width).to_owned())
}

#[cfg(test)]
mod tests {
    use sos_engine::{Cause, Event, Status};

    use super::*;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn window(rows: usize, columns: usize) -> Window {
        Window {
            rows,
            columns,
            unicode: true,
            color: false,
        }
    }

    fn queued(name: &str, needs: &[&str], expected_secs: Option<u64>) -> Event {
        Event::BuildQueued {
            drv: name.into(),
            name: name.into(),
            needs: needs.iter().map(|n| (*n).into()).collect(),
            expected_ms: expected_secs.map(|s| s * 1000),
        }
    }

    fn started(name: &str, expected_secs: Option<u64>) -> Event {
        Event::BuildStarted {
            drv: name.into(),
            name: name.into(),
            builder: "sandbox".into(),
            cause: Cause::NeverBuilt.into(),
            expected_ms: expected_secs.map(|s| s * 1000),
        }
    }

    fn log(name: &str, line: &str) -> Event {
        Event::BuildLog {
            drv: name.into(),
            name: name.into(),
            line: line.to_owned(),
        }
    }

    /// The run of the example in the design: two builds, one download, two that wait.
    fn example() -> Model {
        let mut m = Model::default();
        let mut at = |time: u64, event: Event| {
            m.apply(event, secs(time));
        };
        at(
            0,
            Event::Plan {
                build: 7,
                fetch: 1,
                cached: 204,
                eta_ms: None,
                jobs: 2,
            },
        );
        at(0, queued("done-1", &[], Some(60)));
        at(0, queued("linux-6.6.31", &[], Some(510)));
        at(0, queued("gcc-13.2", &[], None));
        at(0, queued("qt-6.7", &[], None));
        at(0, queued("rootfs", &["linux-6.6.31"], Some(30)));
        at(
            0,
            queued("image-os", &["rootfs", "gcc-13.2", "qt-6.7"], Some(60)),
        );
        at(0, started("done-1", Some(60)));
        at(
            89,
            Event::BuildFinished {
                drv: "done-1".into(),
                name: "done-1".into(),
                status: Status::Built,
                duration_ms: 89_000,
                outputs: std::collections::BTreeMap::new(),
            },
        );
        at(90, started("linux-6.6.31", Some(510)));
        at(180, started("gcc-13.2", None));
        at(
            181,
            Event::BuildPhase {
                drv: "gcc-13.2".into(),
                name: "gcc-13.2".into(),
                phase: "checkPhase".to_owned(),
            },
        );
        at(
            190,
            Event::FetchStarted {
                drv: "qt-6.7".into(),
                name: "qt-6.7".into(),
                cause: Cause::NeverBuilt.into(),
            },
        );
        at(200, log("linux-6.6.31", "CC drivers/net/\u{1b}[31me1000e"));
        at(
            219,
            Event::FetchProgress {
                drv: "qt-6.7".into(),
                name: "qt-6.7".into(),
                done: 11_744_051,
                total: 18_874_368,
            },
        );
        m
    }

    #[test]
    fn a_usual_window_shows_everything() {
        assert_eq!(
            rows(&mut example(), secs(221), window(24, 110)),
            [
                "━ 1/8 done · 204 cached · 1 fetching 3.7 MiB/s · 0 failed ━━━───────────────────── 3m 41s · about 7m 49s left",
                "»⠋ linux-6.6.31  build  2m 11s / ~8m 30s   CC drivers/net/e1000e",
                " ⠋ gcc-13.2      check     41s / ?",
                " ↓ qt-6.7        fetch  62%  11.1/18.0 MiB",
                "   next: rootfs waits for 1 · image-os waits for 3",
            ]
        );
    }

    #[test]
    fn without_unicode_everything_is_ascii() {
        let ascii = Window {
            unicode: false,
            ..window(24, 110)
        };
        assert_eq!(
            rows(&mut example(), secs(221), ascii),
            [
                "= 1/8 done, 204 cached, 1 fetching 3.7 MiB/s, 0 failed ===------------------------- 3m 41s, about 7m 49s left",
                ">- linux-6.6.31  build  2m 11s / ~8m 30s   CC drivers/net/e1000e",
                " - gcc-13.2      check     41s / ?",
                " v qt-6.7        fetch  62%  11.1/18.0 MiB",
                "   next: rootfs waits for 1, image-os waits for 3",
            ]
        );
    }

    #[test]
    fn small_windows_show_the_headline_only() {
        for (height, width) in [(7, 200), (24, 59), (5, 40), (1, 1), (1, 20)] {
            let rows = rows(&mut example(), secs(221), window(height, width));
            assert_eq!(rows.len(), 1, "{rows:?}");
            assert!(columns(&rows[0]) < width.max(2), "{rows:?}");
        }
        let narrow = rows(&mut example(), secs(221), window(24, 50));
        assert_eq!(
            narrow,
            ["━ 1/8 done · 0 failed  3m 41s · about 7m 49s left"]
        );
    }

    #[test]
    fn never_more_than_a_third_or_ten_rows_and_none_too_wide() {
        for height in 1..70 {
            for width in [1, 30, 59, 60, 80, 200] {
                for many in [0, 1, 2, 5, 30] {
                    let mut m = example();
                    for n in 0..many {
                        let name = format!("日本語-very-long-name-of-a-derivation-{n}");
                        m.apply(started(&name, None), secs(200));
                        m.apply(log(&name, &"日本\t".repeat(200)), secs(200));
                    }
                    let rows = rows(&mut m, secs(221), window(height, width));
                    let limit = if height < 8 || width < 60 {
                        1
                    } else {
                        (height / 3).min(10)
                    };
                    assert!(rows.len() <= limit, "{height}x{width}: {rows:#?}");
                    for row in rows {
                        assert!(columns(&row) < width.max(2), "{height}x{width}: {row}");
                    }
                }
            }
        }
    }

    #[test]
    fn those_that_are_left_out_are_counted() {
        let mut m = example();
        for n in 0..30 {
            m.apply(started(&format!("n{n}"), None), secs(200));
        }
        let rows = rows(&mut m, secs(221), window(24, 110));
        assert_eq!(rows.len(), 8);
        assert_eq!(rows[6], "   and 28 more");
        assert!(rows[7].starts_with("   next: "), "{rows:#?}");
    }
}
