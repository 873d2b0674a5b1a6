//! The last 24 hours, minute by minute: lag and throughput, kept on this host's disk so that a restart loses one minute at
//! most. For people who look at a curve: a file that cannot be read begins anew, and so says the log.

use std::collections::VecDeque;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::time::Timestamp;
use tracing::warn;

use crate::config::Program;
use crate::daemon::Stop;
use crate::{own_files, small_file};

/// 24 hours.
const KEPT_MAX: usize = 24 * 60;

/// Of a full ring, with the longest numbers there are.
const BYTES_MAX: usize = 256 << 10;

const FORMAT: u32 = 1;

const MICROS_A_MINUTE: i64 = 60_000_000;

/// One minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Row", into = "Row")]
pub struct Point {
    /// Since 1970; the minute's beginning.
    pub minute: i64,
    /// How old the oldest data are; `None`: nobody knows.
    pub lag_seconds: Option<u64>,
    /// That came in this minute.
    pub records: u64,
    /// Segments that wait.
    pub waiting: Option<u64>,
}

/// As it is written: 1440 of them are sent to every page.
type Row = (i64, Option<u64>, u64, Option<u64>);

impl From<Row> for Point {
    fn from((minute, lag_seconds, records, waiting): Row) -> Point {
        Point { minute, lag_seconds, records, waiting }
    }
}

impl From<Point> for Row {
    fn from(point: Point) -> Row {
        (point.minute, point.lag_seconds, point.records, point.waiting)
    }
}

/// What a daemon knows of itself at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    pub lag_seconds: Option<u64>,
    /// Since the start.
    pub records: u64,
    pub waiting: Option<u64>,
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    format: u32,
    program: String,
    points: VecDeque<Point>,
}

/// See the module.
#[derive(Debug)]
pub struct Points {
    file: PathBuf,
    program: &'static str,
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    points: VecDeque<Point>,
    /// The number of records when the newest minute was noted.
    records: u64,
}

impl Points {
    /// With what an earlier daemon has left.
    pub fn at(file: PathBuf, program: Program, now: Timestamp) -> Points {
        let program = program.name();
        let points = read(&file, program).unwrap_or_else(|error| {
            warn!(
                file = %file.display(), error = %error.one_line(),
                "the curves of the last 24 hours cannot be read and begin anew"
            );
            VecDeque::new()
        });
        let mut ring = Ring { points, records: 0 };
        ring.tidy(minute_of(now));
        Points { file, program, ring: Mutex::new(ring) }
    }

    /// The oldest first.
    pub fn all(&self) -> Vec<Point> {
        self.ring().points.iter().copied().collect()
    }

    /// Notes the minute, in the memory and on the disk.
    pub fn add(&self, sample: Sample, now: Timestamp) -> Result<()> {
        let points = {
            let mut ring = self.ring();
            ring.add(sample, minute_of(now));
            ring.points.clone()
        };
        let kept = Kept { format: FORMAT, program: self.program.to_owned(), points };
        let bytes = serde_json::to_vec(&kept).expect("points are JSON");
        own_files::replace(&self.file, &bytes, "points.before_rename")
    }

    /// Minute by minute, until somebody asks to stop.
    pub async fn keep<F: Future<Output = Sample>>(&self, stop: &Stop, sample: impl Fn() -> F) {
        let mut is_said = false;
        while !stop.is_asked() {
            tokio::select! {
                () = tokio::time::sleep(until_the_next_minute(Timestamp::now())) => {}
                () = stop.asked() => return,
            }
            match self.add(sample().await, Timestamp::now()) {
                Ok(()) => is_said = false,
                Err(error) if is_said => tracing::debug!(error = %error.one_line(), "still not kept"),
                Err(error) => {
                    warn!(error = %error.one_line(), "the curves of the last 24 hours are not kept");
                    is_said = true;
                }
            }
        }
    }

    /// A panic elsewhere leaves points that are at worst old.
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn add(&mut self, sample: Sample, minute: i64) {
        let records = sample.records.saturating_sub(self.records);
        self.records = sample.records;
        self.tidy(minute);
        let point = Point { minute, lag_seconds: sample.lag_seconds, records, waiting: sample.waiting };
        match self.points.back_mut() {
            // A clock that went back, or a restart within the minute.
            Some(last) if last.minute == minute => *last = Point { records: last.records + records, ..point },
            _ => self.points.push_back(point),
        }
        while self.points.len() > KEPT_MAX {
            self.points.pop_front();
        }
    }

    /// Minutes that are to come belong to a clock that was wrong, and older ones than a day to nobody.
    fn tidy(&mut self, minute: i64) {
        let oldest = minute - i64::try_from(KEPT_MAX).expect("a day") + 1;
        self.points.retain(|point| (oldest..=minute).contains(&point.minute));
        let mut newest = i64::MIN;
        self.points.retain(|point| {
            let is_in_order = newest < point.minute;
            newest = newest.max(point.minute);
            is_in_order
        });
    }
}

fn read(file: &std::path::Path, program: &str) -> Result<VecDeque<Point>> {
    let Some(bytes) = small_file::read_own_if_there(file, BYTES_MAX)? else { return Ok(VecDeque::new()) };
    let kept: Kept = serde_json::from_slice(&bytes)
        .map_err(|error| Error::new(Kind::Corrupt, "these are no points").caused_by(error))?;
    if kept.format != FORMAT || kept.program != program {
        let message = format!("points of format {} of {}", kept.format, kept.program);
        return Err(Error::new(Kind::Foreign, message));
    }
    Ok(kept.points)
}

fn minute_of(now: Timestamp) -> i64 {
    now.as_micros().div_euclid(MICROS_A_MINUTE)
}

/// A little after it has begun, so that a timer that wakes early does not note the one before twice.
fn until_the_next_minute(now: Timestamp) -> Duration {
    let left = MICROS_A_MINUTE - now.as_micros().rem_euclid(MICROS_A_MINUTE);
    Duration::from_micros(left.unsigned_abs() + 50_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_micros(minute * MICROS_A_MINUTE + 7).expect("a time")
    }

    fn sample(records: u64) -> Sample {
        Sample { lag_seconds: Some(records), records, waiting: None }
    }

    fn minutes(points: &Points) -> Vec<(i64, u64)> {
        points.all().iter().map(|point| (point.minute, point.records)).collect()
    }

    fn file() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("points.json");
        (folder, file)
    }

    #[test]
    fn minutes_are_kept_for_a_day_and_survive_a_restart() {
        let (_folder, file) = file();
        let points = Points::at(file.clone(), Program::Applier, at(0));
        for minute in 1..=1500 {
            points.ring().add(sample(2 * u64::try_from(minute).expect("small")), minute);
        }
        assert_eq!((points.all().len(), points.all()[0].minute), (KEPT_MAX, 61));
        points.add(sample(3007), at(1501)).expect("writable");
        let again = Points::at(file.clone(), Program::Applier, at(1502));
        assert_eq!(again.all(), points.all()[1..], "a day has gone by for the first one");
        again.add(sample(5), at(1502)).expect("writable");
        assert_eq!(
            minutes(&again)[KEPT_MAX - 2..],
            [(1501, 7), (1502, 5)],
            "the count begins anew, and is whole"
        );
        assert!(std::fs::read(&file).expect("kept").len() < BYTES_MAX / 4);
    }

    #[test]
    fn a_clock_that_goes_back_leaves_no_minute_twice_and_none_to_come() {
        let (_folder, file) = file();
        let points = Points::at(file.clone(), Program::Applier, at(0));
        for (minute, records) in [(10, 1), (11, 2), (90, 3), (11, 5), (11, 6), (12, 6)] {
            points.add(sample(records), at(minute)).expect("writable");
        }
        assert_eq!(minutes(&points), [(10, 1), (11, 4), (12, 0)]);
        let later = Points::at(file, Program::Applier, at(5));
        assert_eq!(minutes(&later), [], "all of them are to come");
    }

    #[test]
    fn what_is_damaged_or_of_somebody_else_begins_anew() {
        let (_folder, file) = file();
        let points = Points::at(file.clone(), Program::Archiver, at(1));
        points.add(sample(1), at(1)).expect("writable");
        assert_eq!(read(&file, "syncdata-applier").map_err(|e| e.kind()), Err(Kind::Foreign));
        let whole = std::fs::read(&file).expect("kept");
        for bytes in [&whole[..whole.len() - 1], b"", b"{\"format\":1}", b"[[1,2,3,4]]", b"\0\0\0"] {
            std::fs::write(&file, bytes).expect("ours");
            assert_eq!(read(&file, Program::Archiver.name()).map_err(|e| e.kind()), Err(Kind::Corrupt));
            let anew = Points::at(file.clone(), Program::Archiver, at(2));
            assert_eq!(anew.all(), []);
            anew.add(sample(4), at(2)).expect("it is made anew");
            assert_eq!(minutes(&Points::at(file.clone(), Program::Archiver, at(2))), [(2, 4)]);
        }
        let forged = r#"{"format":1,"program":"syncdata-archiver","points":[[3,1,1,1],[2,1,1,1],[3,9,9,9],[4,1,1,null]]}"#;
        std::fs::write(&file, forged).expect("ours");
        assert_eq!(minutes(&Points::at(file, Program::Archiver, at(5))), [(3, 1), (4, 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn every_minute_is_noted_until_somebody_asks_to_stop() {
        let (_folder, file) = file();
        let points = Points::at(file, Program::Applier, Timestamp::now());
        let stop = Stop::new();
        let (asks, asked) = (std::cell::Cell::new(0), stop.clone());
        points
            .keep(&stop, || {
                asks.set(asks.get() + 1);
                if asks.get() == 3 {
                    asked.ask();
                }
                std::future::ready(sample(7))
            })
            .await;
        assert_eq!(asks.get(), 3);
        assert_eq!(points.all().iter().map(|point| point.records).sum::<u64>(), 7);
    }
}
