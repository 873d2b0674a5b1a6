//! The document that the page shows.

use serde_json::json;
use syncdata_formats::time::Timestamp;
use syncdata_service::config::Program;
use syncdata_service::page;
use syncdata_service::points::{Point, Sample};

use super::status::Status;
use crate::spool::executions::Execution;

pub(crate) type Dashboard = page::Dashboard<Status>;

pub(crate) fn dashboard(status: Status, points: Vec<Point>, executions: &[Execution]) -> Dashboard {
    let dashboard = page::Dashboard::of(Program::Archiver, status, points);
    Dashboard {
        executions: executions.iter().map(|execution| json!(execution)).collect(),
        alerts: dashboard.status.alerts.iter().map(|alert| json!(alert)).collect(),
        ..dashboard
    }
}

/// One minute of the curves: what is the oldest that has not come through here.
pub(crate) fn sample(status: &Status, now: Timestamp) -> Sample {
    let spool = status.spool.as_ref();
    let unread = spool.and_then(|spool| spool.covered_at).map(|at| now.since(at).as_secs());
    Sample {
        lag_seconds: unread.map(|unread| spool.map_or(unread, |spool| unread.max(spool.unshipped_seconds))),
        records: status.records_archived,
        waiting: spool.and_then(|spool| u64::try_from(spool.unshipped_segments).ok()),
    }
}
