//! What polls write into the log: a state that lasts is logged when it begins, when it changes and when it ends, not
//! at every poll.

use syncdata_formats::{Error, Kind};
use tracing::{debug, error, info, warn};

use crate::poll::guard::Pressure;
use crate::poll::outcome::Outcome;

/// What the log last said, so that only changes are logged.
#[derive(Debug, Default)]
pub(crate) struct PollLog {
    /// Of one cause the words may change from try to try.
    away: Option<Kind>,
    held_back: Option<String>,
    mistake: Option<String>,
    pressure: Pressure,
}

impl PollLog {
    /// Logs what is new in the outcome of a poll.
    pub(crate) fn note(&mut self, outcome: &Outcome) {
        let words = |error: &Option<Error>| error.as_ref().map(Error::one_line);
        match (change(&mut self.away, outcome.away.as_ref().map(Error::kind)), &outcome.away) {
            (Some(_), Some(error)) => warn!(
                error = %error.one_line(), hint = error.hint_text(),
                "the backup host does not have everything yet"
            ),
            (Some(_), None) => info!("the backup host has everything again"),
            (None, Some(error)) => {
                debug!(error = %error.one_line(), "the backup host does not have everything yet")
            }
            (None, None) => {}
        }
        match change(&mut self.held_back, words(&outcome.held_back)) {
            Some(Some(reason)) => error!(
                error = %reason, hint = outcome.held_back.as_ref().and_then(Error::hint_text),
                "not everything could be read"
            ),
            Some(None) => info!("everything is read again"),
            None => {}
        }
        if let Some(Some(reason)) = change(&mut self.mistake, words(&outcome.mistake)) {
            error!(
                error = %reason, hint = outcome.mistake.as_ref().and_then(Error::hint_text),
                "the slot kept more WAL than wal_guard because of a name in `tables`: the other tables are read without it"
            );
        }
        match change(&mut self.pressure, outcome.pressure) {
            Some(Pressure::None) => info!("the WAL guard is at rest again"),
            Some(Pressure::ConfirmFromSpool) => {
                warn!("the WAL guard acts: production forgets what is in the spool only");
            }
            Some(Pressure::GiveUp) => {
                error!("the WAL guard acts: changes were given up to save production's disk, see the gap");
            }
            None => {}
        }
    }
}

/// The new value, if it is another one.
fn change<T: PartialEq + Clone>(before: &mut T, now: T) -> Option<T> {
    (*before != now).then(|| {
        *before = now.clone();
        now
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changes_is_logged() {
        let mut before = None;
        assert_eq!(change(&mut before, None::<&str>), None);
        assert_eq!(change(&mut before, Some("away")), Some(Some("away")));
        assert_eq!(change(&mut before, Some("away")), None);
        assert_eq!(change(&mut before, None), Some(None));
    }
}
