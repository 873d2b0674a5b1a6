//! Which segments go into a roll-up together, as values.

use std::time::Duration;

use syncdata_formats::layout::SegmentName;
use syncdata_formats::rollup::SEGMENTS_MAX;
use syncdata_formats::time::Timestamp;

/// It is written to this host's disk first, and sent in one piece.
const BYTES_MAX: u64 = 64 << 20;
/// A closed hour of fewer segments waits until its day is over: with a poll every ten minutes the archive of a day gets
/// one tar, and none that would have to be made again.
pub(super) const BUSY_HOUR: usize = 60;
/// What committed at the end of an hour is in the archive somewhat later.
const SLACK: Duration = Duration::from_secs(300);

const HOUR_MICROS: i64 = 3_600_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub name: SegmentName,
    /// Of all its files.
    pub bytes: u64,
}

/// The hour in which we are, by its number, once the one before is closed.
pub(crate) fn hour_of(now: Timestamp) -> i64 {
    let slack = i64::try_from(SLACK.as_micros()).expect("minutes");
    (now.as_micros() - slack).div_euclid(HOUR_MICROS)
}

/// Runs without a hole, each within the limits of one roll-up. One segment alone is no shorter in a tar.
pub(super) fn runs(pieces: &[Piece]) -> Vec<Vec<SegmentName>> {
    let (mut runs, mut bytes) = (Vec::<Vec<SegmentName>>::new(), 0);
    for piece in pieces {
        let fits = runs.last().and_then(|run| run.last().map(|last| (run.len(), *last))).is_some_and(
            |(length, last)| {
                piece.name.seq == last.seq.next() && length < SEGMENTS_MAX && bytes + piece.bytes <= BYTES_MAX
            },
        );
        match runs.last_mut().filter(|_| fits) {
            Some(run) => run.push(piece.name),
            None => {
                runs.push(vec![piece.name]);
                bytes = 0;
            }
        }
        bytes += piece.bytes;
    }
    runs.retain(|run| run.len() > 1);
    runs
}

/// The busy hours that are over, of segments with the time of their last commit (a gap alone has none). Clocks go back:
/// no segment is of an earlier hour than the one before it.
pub(super) fn busy_hours(pieces: &[(Piece, Option<Timestamp>)], now: Timestamp) -> Vec<Vec<Piece>> {
    let mut hours: Vec<(i64, Vec<Piece>)> = Vec::new();
    for (piece, last_commit) in pieces {
        let before = hours.last().map(|(hour, _)| *hour);
        let own = last_commit.map(|at| at.as_micros().div_euclid(HOUR_MICROS));
        let hour = own.max(before).unwrap_or(i64::MIN);
        match hours.last_mut().filter(|(last, _)| *last == hour) {
            Some((_, pieces)) => pieces.push(*piece),
            None => hours.push((hour, vec![*piece])),
        }
    }
    let is_over = |hour: i64| hour < hour_of(now);
    hours.retain(|(hour, pieces)| is_over(*hour) && pieces.len() >= BUSY_HOUR);
    hours.into_iter().map(|(_, pieces)| pieces).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use syncdata_formats::layout::SegmentSeq;
    use syncdata_formats::lsn::Lsn;

    fn piece(seq: u64, bytes: u64) -> Piece {
        let name = SegmentName { seq: SegmentSeq::new(seq).expect("a number"), end_lsn: Lsn::from_u64(seq) };
        Piece { name, bytes }
    }

    fn numbers(runs: &[Vec<SegmentName>]) -> Vec<Vec<u64>> {
        runs.iter().map(|run| run.iter().map(|name| name.seq.get()).collect()).collect()
    }

    #[test]
    fn a_run_has_no_hole_and_one_segment_is_none() {
        let pieces = [1, 2, 4, 6, 7, 8].map(|seq| piece(seq, 100));
        assert_eq!(numbers(&runs(&pieces)), [vec![1, 2], vec![6, 7, 8]]);
        assert_eq!(runs(&[]), Vec::<Vec<SegmentName>>::new());
    }

    #[test]
    fn a_run_keeps_to_the_limits() {
        let pieces = [(1, BYTES_MAX - 1), (2, 1), (3, 1), (4, BYTES_MAX), (5, 1), (6, 1)];
        let pieces = pieces.map(|(seq, bytes)| piece(seq, bytes));
        assert_eq!(numbers(&runs(&pieces)), [vec![1, 2], vec![5, 6]]);
        let many: Vec<Piece> = (1..=2 * SEGMENTS_MAX as u64).map(|seq| piece(seq, 1)).collect();
        let lengths: Vec<usize> = runs(&many).iter().map(Vec::len).collect();
        assert_eq!(lengths, [SEGMENTS_MAX, SEGMENTS_MAX]);
    }

    #[test]
    fn only_busy_hours_that_are_over_go_by_themselves() {
        let at = |text: &str| -> Timestamp { text.parse().expect("a time") };
        let mut pieces = Vec::new();
        let mut add = |count: usize, ts: Option<&str>| {
            for _ in 0..count {
                pieces.push((piece(pieces.len() as u64 + 1, 1), ts.map(at)));
            }
        };
        add(BUSY_HOUR - 1, Some("2026-02-05T08:10:00Z"));
        add(BUSY_HOUR - 1, Some("2026-02-05T09:59:59.999999Z"));
        // A gap, and a clock that went back: they are of the hour before them.
        add(1, None);
        add(1, Some("2026-02-05T07:00:00Z"));
        add(BUSY_HOUR, Some("2026-02-05T10:00:00Z"));
        let lengths =
            |now: &str| -> Vec<usize> { busy_hours(&pieces, at(now)).iter().map(Vec::len).collect() };
        assert_eq!(lengths("2026-02-05T10:04:59Z"), [0; 0]);
        assert_eq!(lengths("2026-02-05T10:05:00Z"), [BUSY_HOUR + 1]);
        assert_eq!(lengths("2026-02-05T11:05:00Z"), [BUSY_HOUR + 1, BUSY_HOUR]);
    }
}
