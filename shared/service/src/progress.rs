//! How far a long job is: a bar with rate and time left where a person looks on, and a log line now and then
//! elsewhere.

use std::fmt;
use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use serde::{Deserialize, Serialize};

/// A journal of a night's resync stays readable.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Bytes,
    Rows,
}

/// One job's progress. Dropped unfinished, the bar is left as it stands: the error comes below it.
#[derive(Debug)]
pub struct Progress {
    moving: Arc<Moving>,
    shown: Shown,
}

#[derive(Debug)]
struct Moving {
    job: String,
    unit: Unit,
    total: Option<u64>,
    done: AtomicU64,
    rows: AtomicU64,
    started: Instant,
}

/// The jobs of this process, for those who wait for them elsewhere. One goes with its `Progress`.
static JOBS: Mutex<Vec<Weak<Moving>>> = Mutex::new(Vec::new());

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub job: String,
    pub unit: Unit,
    pub done: u64,
    pub total: Option<u64>,
    /// Of a job that counts bytes.
    pub rows: u64,
    pub per_second: u64,
    pub seconds_left: Option<u64>,
}

/// Those that are under way, oldest first.
pub fn jobs() -> Vec<Job> {
    let mut jobs = JOBS.lock().unwrap_or_else(PoisonError::into_inner);
    jobs.retain(|job| job.strong_count() > 0);
    jobs.iter().filter_map(Weak::upgrade).map(|moving| moving.job(Instant::now())).collect()
}

impl Moving {
    fn job(&self, now: Instant) -> Job {
        let done = self.done.load(Ordering::Relaxed);
        let pace = Pace::of(done, self.total, now.saturating_duration_since(self.started));
        let Pace { per_second, seconds_left } = pace;
        let rows = self.rows.load(Ordering::Relaxed);
        Job {
            job: self.job.clone(),
            unit: self.unit,
            done,
            total: self.total,
            rows,
            per_second,
            seconds_left,
        }
    }
}

/// For people: `loading users from …: 500 rows, 6.1 KiB of 12.0 KiB, 1.0 KiB/s, 6 s left`.
impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let amount = |amount: u64| match self.unit {
            Unit::Bytes => ByteSize(amount).to_string(),
            Unit::Rows => amount.to_string(),
        };
        write!(f, "{}: ", self.job)?;
        if self.rows > 0 {
            write!(f, "{} rows, ", self.rows)?;
        }
        write!(f, "{}", amount(self.done))?;
        if let Some(total) = self.total {
            write!(f, " of {}", amount(total))?;
        }
        let unit = if self.unit == Unit::Rows { " rows" } else { "" };
        write!(f, "{unit}, {}{unit}/s", amount(self.per_second))?;
        self.seconds_left.map_or(Ok(()), |seconds| write!(f, ", {seconds} s left"))
    }
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
        Progress::showing(job, unit, total, now, shown)
    }

    fn showing(job: String, unit: Unit, total: Option<u64>, started: Instant, shown: Shown) -> Progress {
        let (done, rows) = (AtomicU64::new(0), AtomicU64::new(0));
        let moving = Arc::new(Moving { job, unit, total, done, rows, started });
        let mut jobs = JOBS.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.retain(|job| job.strong_count() > 0);
        jobs.push(Arc::downgrade(&moving));
        Progress { moving, shown }
    }

    /// Rows that the bytes of [`Progress::add`] were.
    pub fn add_rows(&mut self, rows: u64) {
        self.moving.rows.fetch_add(rows, Ordering::Relaxed);
    }

    pub fn add(&mut self, amount: u64) {
        self.add_at(amount, Instant::now());
    }

    pub fn done(&self) -> u64 {
        self.moving.done.load(Ordering::Relaxed)
    }

    /// The job is done: the bar goes, and the log says what it took.
    pub fn finish(self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
        self.log(Instant::now(), "finished");
    }

    fn add_at(&mut self, amount: u64, now: Instant) {
        let done = self.done().saturating_add(amount);
        self.moving.done.store(done, Ordering::Relaxed);
        match &mut self.shown {
            Shown::Bar(bar) => bar.set_position(done),
            Shown::Lines { last } if now.saturating_duration_since(*last) >= LINE_EVERY => {
                *last = now;
                self.log(now, "in progress");
            }
            Shown::Lines { .. } => {}
        }
    }

    fn log(&self, now: Instant, event: &'static str) {
        let Job { job, unit, done, total, per_second, seconds_left, .. } = self.moving.job(now);
        match unit {
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
        (Unit::Bytes, true) => "{msg} {wide_bar} {bytes}/{total_bytes} {pace}, {eta} left",
        (Unit::Bytes, false) => "{msg} {spinner} {bytes} {pace}, {elapsed}",
        (Unit::Rows, true) => "{msg} {wide_bar} {human_pos}/{human_len} rows {pace}, {eta} left",
        (Unit::Rows, false) => "{msg} {spinner} {human_pos} rows {pace}, {elapsed}",
    };
    let style = ProgressStyle::with_template(template).expect("the four templates above are sound");
    let style = style.with_key("pace", move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        // Nothing can be done where a terminal takes no more.
        let _ = out.write_str(&pace_in_words(unit, state.per_sec()));
    });
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr()).with_style(style);
    bar.with_message(syncdata_formats::error::escape_control(job))
}

/// `65,830/s`, `1.2 MiB/s`: nobody reads more digits of what changes every moment.
fn pace_in_words(unit: Unit, per_second: f64) -> String {
    let whole = per_second.max(0.0).round() as u64;
    match unit {
        Unit::Bytes => format!("{}/s", ByteSize(whole)),
        Unit::Rows => format!("{}/s", indicatif::HumanCount(whole)),
    }
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

    #[test]
    fn a_pace_has_no_digits_that_nobody_reads() {
        for (unit, per_second, words) in [
            (Unit::Rows, 65_830.153_9, "65,830/s"),
            (Unit::Rows, 0.4, "0/s"),
            (Unit::Rows, f64::NAN, "0/s"),
            (Unit::Bytes, 1_234_567.891, "1.2 MiB/s"),
            (Unit::Bytes, 0.0, "0 B/s"),
        ] {
            assert_eq!(pace_in_words(unit, per_second), words, "{per_second}");
        }
    }

    #[test]
    fn a_job_can_be_asked_for_while_it_is_under_way() {
        let mut progress = Progress::start("loading this_one", Unit::Bytes, Some(4096));
        progress.add(2048);
        progress.add_rows(7);
        let ours = || jobs().into_iter().find(|job| job.job == "loading this_one");
        let job = ours().expect("it is under way");
        assert_eq!((job.done, job.total, job.rows), (2048, Some(4096), 7));
        let words = Job { per_second: 1024, seconds_left: Some(2), ..job }.to_string();
        assert_eq!(words, "loading this_one: 7 rows, 2.0 KiB of 4.0 KiB, 1.0 KiB/s, 2 s left");
        progress.finish();
        assert_eq!(ours(), None);
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
            let shown = Shown::Lines { last: start };
            let mut progress = Progress::showing("resync users".into(), Unit::Rows, Some(1000), start, shown);
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
