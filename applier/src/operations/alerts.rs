//! What is bad enough in a status to wake somebody.

use std::time::Duration;

use syncdata_formats::time::Timestamp;
use syncdata_service::alerts::{AlertKind, Bad};
use syncdata_service::config::{Config, Percent};

use super::status::Status;
use crate::plan::state::State;

/// Where it begins to be worth a message.
#[derive(Clone, Debug)]
pub struct Limits {
    lag: Duration,
    score: Percent,
    queue: u64,
}

impl Limits {
    pub fn of(config: &Config) -> Limits {
        Limits {
            lag: config.lag_that_is_an_alert(),
            score: config.consistency_score_alert_threshold,
            queue: u64::from(config.dead_letter_queue_alert_threshold.get()),
        }
    }
}

/// All that is bad, in a status.
pub fn conditions(status: &Status, limits: &Limits, now: Timestamp) -> Vec<Bad> {
    let mut bad = Vec::new();
    let minutes = |time: Duration| (time.as_secs() / 60).to_string();
    let mut lags = |subject: &str, as_of: Option<Timestamp>| {
        let lag = as_of.map(|time| now.since(time));
        if let Some(lag) = lag.filter(|lag| *lag >= limits.lag) {
            bad.push(Bad::new(AlertKind::SyncLag, subject, minutes(lag), minutes(limits.lag)));
        }
    };
    let live = status.tables.iter().filter(|table| table.state == State::Live);
    lags("*", live.filter_map(|table| table.data_as_of).min());
    for table in &status.tables {
        if table.state.needs_operator() {
            lags(&table.table, table.data_as_of);
        }
    }
    for table in status.tables.iter().filter(|table| table.differs) {
        let score = table.score.as_deref().and_then(Percent::read);
        if let Some(score) = score.filter(|score| *score < limits.score) {
            bad.push(Bad::new(AlertKind::ConsistencyScore, &table.table, score, limits.score));
        }
    }
    if let Some(queue) = status.dead_letter_queue.filter(|queue| *queue >= limits.queue) {
        bad.push(Bad::new(AlertKind::DeadLetterQueue, "*", queue, limits.queue));
    }
    bad
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use serde_json::json;

    use super::*;

    fn status(more: serde_json::Value) -> Status {
        let mut table = json!({
            "table": "users", "state": "live", "data_as_of": "2026-02-05T10:00:00Z", "lsn": null, "stale": false,
            "reason": null,
        });
        table.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        Status {
            tables: vec![serde_json::from_value(table).expect("a table")],
            dead_letter_queue: Some(3),
            ..Status::default()
        }
    }

    fn said(more: serde_json::Value, now: &str, queue: u32) -> Vec<String> {
        let queue = u64::from(NonZeroU32::new(queue).expect("a count").get());
        let score = Percent::read("90.0").expect("a percentage");
        let limits = Limits { lag: Duration::from_secs(1800), score, queue };
        let bad = conditions(&status(more), &limits, now.parse().expect("a time"));
        bad.iter().map(|bad| format!("{} {} {}", bad.kind.as_str(), bad.subject, bad.value)).collect()
    }

    #[test]
    fn what_is_bad_is_found_at_its_threshold() {
        let live = json!({});
        assert!(said(live.clone(), "2026-02-05T10:29:59Z", 4).is_empty());
        assert_eq!(said(live.clone(), "2026-02-05T10:30:00Z", 4), ["sync_lag * 30"]);
        assert!(said(live.clone(), "2026-02-05T09:00:00Z", 4).is_empty(), "a clock that went back is no lag");
        assert_eq!(said(live, "2026-02-05T10:00:00Z", 3), ["dead_letter_queue * 3"]);
        let quarantined = json!({"state": "quarantined"});
        assert_eq!(said(quarantined, "2026-02-05T12:00:00Z", 4), ["sync_lag users 120"]);
        let now = "2026-02-05T10:00:00Z";
        let differs = |score: &str| json!({"differs": true, "score": score});
        assert_eq!(said(differs("89.99"), now, 4), ["consistency_score users 89.99"]);
        assert!(said(differs("90.00"), now, 4).is_empty());
        assert!(said(json!({"score": "10.00"}), now, 4).is_empty(), "somebody has cleared it");
    }
}
