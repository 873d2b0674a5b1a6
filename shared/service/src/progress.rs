//! How far a long job is: a bar with rate and time left where a person looks on, and a log line now and then
//! elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// A journal of a night's resync stays readable.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Rows,
}

/// One job's progress. Dropped unfinished, the bar is left as it stands: the error comes below it.
#[derive(Debug)]
pub struct Progress {
    job: String,
    unit: Unit,
    total: Option<u64>,
    done: u64,
    started: Instant,
    shown: Shown,
}

#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    Lines { last: Instant },
}

impl Progress {
    /// `total` is `None` where nobody knows it.
    pub fn start(job: impl Into<String>, unit: Unit, total: Option<u64>) -> Progress {
        let (job, now) = (job.into(), Instant::now());
        let shown = if std::io::stderr().is_terminal() {
            Shown::Bar(bar(&job, unit, total))
        } else {
            Shown::Lines { last: now }
        };
        Progress { job, unit, total, done: 0, started: now, shown }
    }

    pub fn add(&mut self, amount: u64) {
        self.add_at(amount, Instant::now());
    }

    pub fn done(&self) -> u64 {
        self.done
    }

    /// The job is done: the bar goes, and the log says what it took.
    pub fn finish(self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
        self.log(Instant::now(), "finished");
    }

    fn add_at(&mut self, amount: u64, now: Instant) {
        self.done = self.done.saturating_add(amount);
        match &mut self.shown {
            Shown::Bar(bar) => bar.set_position(self.done),
            Shown::Lines { last } if now.saturating_duration_since(*last) >= LINE_EVERY => {
                *last = now;
                self.log(now, "in progress");
            }
            Shown::Lines { .. } => {}
        }
    }

    fn log(&self, now: Instant, event: &'static str) {
        let pace = Pace::of(self.done, self.total, now.saturating_duration_since(self.started));
        let (job, done, total) = (self.job.as_str(), self.done, self.total);
        let (per_second, seconds_left) = (pace.per_second, pace.seconds_left);
        match self.unit {
            Unit::Bytes => tracing::info!(job, bytes = done, total, per_second, seconds_left, "{event}"),
            Unit::Rows => tracing::info!(job, rows = done, total, per_second, seconds_left, "{event}"),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Pace {
    per_second: u64,
    /// `None` while nothing has moved, or when nobody knows the total.
    seconds_left: Option<u64>,
}

impl Pace {
    fn of(done: u64, total: Option<u64>, elapsed: Duration) -> Pace {
        let milliseconds = elapsed.as_millis().max(1);
        let of_wide = |wide: u128| u64::try_from(wide).unwrap_or(u64::MAX);
        let per_second = of_wide(u128::from(done) * 1000 / milliseconds);
        // From the whole and not from the rounded rate: slow jobs are those whose end one wants to know.
        let left = total.and_then(|total| {
            let to_do = u128::from(total.saturating_sub(done));
            (to_do * milliseconds).div_ceil(1000).checked_div(u128::from(done))
        });
        Pace { per_second, seconds_left: left.map(of_wide) }
    }
}

fn bar(job: &str, unit: Unit, total: Option<u64>) -> ProgressBar {
    let template = match (unit, total.is_some()) {
        (Unit::Bytes, true) => "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left",
        (Unit::Bytes, false) => "{msg} {spinner} {bytes} {bytes_per_sec}, {elapsed}",
        (Unit::Rows, true) => "{msg} {wide_bar} {human_pos}/{human_len} rows {rows_per_sec}, {eta} left",
        (Unit::Rows, false) => "{msg} {spinner} {human_pos} rows {rows_per_sec}, {elapsed}",
    };
    let style = ProgressStyle::with_template(template).expect("the four templates above are sound");
    let style = style.with_key("rows_per_sec", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        // Nothing can be done where a terminal takes no more.
        let _ = write!(out, "{:.0}/s", state.per_sec());
    });
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr()).with_style(style);
    bar.with_message(syncdata_formats::error::escape_control(job))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn tells_rate_and_time_left() {
        let second = Duration::from_secs(1);
        for (done, total, elapsed, per_second, seconds_left) in [
            (0, None, Duration::ZERO, 0, None),
            (0, Some(100), second, 0, None),
            (50, Some(100), 5 * second, 10, Some(5)),
            (1, Some(3), 10 * second, 0, Some(20)),
            (100, Some(100), second, 100, Some(0)),
            (200, Some(100), second, 200, Some(0)),
            (10, None, second, 10, None),
            (u64::MAX, Some(u64::MAX), second, u64::MAX, Some(0)),
        ] {
            let expected = Pace { per_second, seconds_left };
            assert_eq!(Pace::of(done, total, elapsed), expected, "{done} of {total:?} in {elapsed:?}");
        }
    }

    #[test]
    fn every_template_can_be_drawn() {
        for (unit, total) in
            [(Unit::Bytes, Some(9)), (Unit::Bytes, None), (Unit::Rows, Some(9)), (Unit::Rows, None)]
        {
            assert_eq!(bar("resync users", unit, total).length(), total);
        }
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn logs_at_most_every_ten_seconds_and_at_the_end() {
        let (lines, start) = (Lines::default(), Instant::now());
        let sink = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || sink.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            let mut progress = Progress {
                job: "resync users".into(),
                unit: Unit::Rows,
                total: Some(1000),
                done: 0,
                started: start,
                shown: Shown::Lines { last: start },
            };
            (1..=25).for_each(|second| progress.add_at(10, start + Duration::from_secs(second)));
            assert_eq!(progress.done(), 250);
            progress.finish();
        });
        let text = String::from_utf8(lines.0.lock().expect("no panic").clone()).expect("UTF-8");
        assert_eq!(text.matches("in progress").count(), 2, "{text}");
        assert_eq!(text.matches("finished").count(), 1, "{text}");
        assert!(text.contains("rows=200") && text.contains("per_second=10 seconds_left=80"), "{text}");
    }
}
