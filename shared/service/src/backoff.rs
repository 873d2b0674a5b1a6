//! How long to wait before the next attempt: exponential, bounded, with jitter. A pure value: it neither
//! sleeps nor counts on a clock.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// Waits double from `first` up to `most`.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    attempts_max: Option<u32>,
    attempt: u32,
}

impl Backoff {
    /// Never gives up: for a daemon, whose next attempt is always due.
    pub fn endless(first: Duration, most: Duration) -> Backoff {
        Backoff { first, most, attempts_max: None, attempt: 0 }
    }

    /// Gives up after `attempts` waits.
    pub fn bounded(first: Duration, most: Duration, attempts: u32) -> Backoff {
        Backoff { first, most, attempts_max: Some(attempts), attempt: 0 }
    }

    /// The next wait, or `None` when it is time to give up. Between half of the full wait and all of it, as
    /// `dice` falls: clients that lost the same server do not come back in step.
    pub fn next(&mut self, dice: Dice) -> Option<Duration> {
        if self.attempts_max.is_some_and(|most| self.attempt >= most) {
            return None;
        }
        // Past 2^31 any first wait of a millisecond is weeks; the bound below cuts it anyway.
        let full = self.first.saturating_mul(1 << self.attempt.min(31)).min(self.most);
        self.attempt = self.attempt.saturating_add(1);
        let half = full / 2;
        let share = u32::from(dice.0);
        Some(half + (full - half).saturating_mul(share) / u32::from(u16::MAX))
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

/// A throw that spreads waits; not for secrets.
#[derive(Clone, Copy, Debug)]
pub struct Dice(pub u16);

impl Dice {
    /// From the random keys that the standard library gives every hash map.
    pub fn roll() -> Dice {
        let [low, high, ..] = RandomState::new().hash_one(0_u8).to_le_bytes();
        Dice(u16::from_le_bytes([low, high]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn doubles_up_to_the_bound_and_starts_over_after_a_success() {
        let mut backoff = Backoff::endless(SECOND, 10 * SECOND);
        let waits: Vec<_> = (0..6).filter_map(|_| backoff.next(Dice(u16::MAX))).collect();
        assert_eq!(waits, [1, 2, 4, 8, 10, 10].map(|n| n * SECOND));
        backoff.reset();
        assert_eq!(backoff.next(Dice(u16::MAX)), Some(SECOND));
    }

    #[test]
    fn jitter_takes_away_at_most_half() {
        for dice in [0, 1, 1000, 40000, u16::MAX] {
            let wait = Backoff::endless(SECOND, SECOND).next(Dice(dice)).expect("endless");
            assert!((SECOND / 2..=SECOND).contains(&wait), "{dice}: {wait:?}");
        }
    }

    #[test]
    fn gives_up_when_bounded() {
        let mut backoff = Backoff::bounded(SECOND, SECOND, 2);
        assert!(backoff.next(Dice(0)).is_some() && backoff.next(Dice(0)).is_some());
        assert_eq!(backoff.next(Dice(0)), None);
    }

    #[test]
    fn never_overflows() {
        let mut backoff = Backoff::endless(Duration::MAX, Duration::MAX);
        for _ in 0..100 {
            assert!(backoff.next(Dice(u16::MAX)).is_some());
        }
    }
}
