//! What is bad enough in a status to wake somebody.

use std::time::Duration;

use syncdata_service::alerts::{AlertKind, Bad, Look, unreachable};

use super::status::Status;

/// All that is bad, in a status as of now. `lag` is where it begins to be worth a message.
pub(crate) fn conditions(status: &Status, lag: Duration) -> Look {
    let mut bad = Vec::new();
    if let Some(spool) = &status.spool {
        let hops =
            [("source", spool.behind_source_seconds.unwrap_or(0)), ("archive", spool.unshipped_seconds)];
        let late = hops.into_iter().filter(|(_, seconds)| *seconds >= lag.as_secs());
        bad.extend(
            late.map(|(hop, seconds)| Bad::new(AlertKind::SyncLag, hop, seconds / 60, lag.as_secs() / 60)),
        );
    }
    if let Some(source) = &status.source
        && source.retained_bytes >= source.wal_guard_bytes
    {
        let (retained, guard) = (source.retained_bytes, source.wal_guard_bytes);
        bad.push(Bad::new(AlertKind::WalGuard, &source.slot, retained, guard));
    }
    if !status.gaps.is_empty() {
        bad.push(Bad::new(AlertKind::Gap, "*", status.gaps.len(), 1));
    }
    let (out_of_reach, not_good) = unreachable(&status.circuits);
    bad.extend(out_of_reach);
    Look { bad, not_good, is_whole: true }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use syncdata_formats::time::Timestamp;
    use syncdata_service::circuit::Circuit;

    use super::*;

    fn said(more: serde_json::Value, now: i64) -> Vec<String> {
        let mut document = json!(Status::default());
        document.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let status: Status = serde_json::from_value(document).expect("a status");
        let now = Timestamp::from_micros(now * 1_000_000).expect("a time");
        let look = conditions(&status.seen_at(now), Duration::from_secs(900));
        let words =
            |bad: &Bad| format!("{} {} {} {}", bad.kind.as_str(), bad.subject, bad.value, bad.threshold);
        look.bad
            .iter()
            .map(words)
            .chain(look.not_good.iter().map(|bad| format!("not good: {}", words(bad))))
            .collect()
    }

    #[test]
    fn what_is_bad_is_found_at_its_threshold() {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000).expect("a time").to_string();
        let spool = json!({"spool": {
            "segments": 1, "bytes": 1, "unshipped_segments": 1, "unshipped_bytes": 1, "max_bytes": 1, "covered_lsn": "0/1",
            "covered_at": at(1000), "behind_source_bytes": 0, "behind_source_seconds": null, "unshipped_seconds": 0,
            "unshipped_since": at(1060),
        }});
        assert!(said(spool.clone(), 1899).is_empty());
        assert_eq!(said(spool.clone(), 1900), ["sync_lag source 15 15"]);
        assert_eq!(said(spool, 1960), ["sync_lag source 16 15", "sync_lag archive 15 15"]);
        let source = |retained: u64| {
            json!({"source": {
                "slot": "s", "seen_at": at(1), "wal_status": "reserved", "confirmed_flush_lsn": null, "restart_lsn": null,
                "flush_lsn": "0/1", "retained_bytes": retained, "wal_guard_bytes": 10, "seconds_until_guard": null,
                "guard": "", "spilled_bytes": null, "server_version": "", "plugin": "", "oldest_transaction": null,
            }})
        };
        assert!(said(source(9), 2).is_empty());
        assert_eq!(said(source(10), 2), ["wal_guard s 10 10"]);
        let circuit = |failures| {
            let circuit = Circuit { failures, ..Circuit::default() };
            json!({"circuits": {"archive": circuit}})
        };
        assert_eq!(said(circuit(4), 2), ["not good: unreachable archive 4 5"], "a restart wakes nobody");
        assert_eq!(said(circuit(5), 2), ["unreachable archive 5 5"]);
    }
}
