//! The document that the page shows: the status, and what else is worth seeing at one glance.

use serde::Serialize;
use serde_json::{Value, json};
use syncdata_formats::error::Result;
use syncdata_formats::time::Timestamp;
use syncdata_service::config::Program;
use syncdata_service::page;
use syncdata_service::points::{Point, Sample};

use super::status::Status;
use crate::target::postgres::local::Local;
use crate::target::postgres::{alerts, executions, quarantine};

/// Of each list.
const LISTED_MAX: u16 = 50;

pub type Dashboard = page::Dashboard<Status>;

/// What the database knows beside the status.
#[derive(Clone, Debug, Default)]
pub struct Lists {
    executions: Vec<Value>,
    alerts: Vec<Value>,
    dead_letters: Vec<Value>,
}

impl Lists {
    pub async fn read(local: &Local) -> Result<Lists> {
        let (client, meta) = (local.session.client(), &local.meta);
        let (executions, _) = executions::list(local, LISTED_MAX, None).await?;
        let alerts = alerts::newest(client, meta, i64::from(LISTED_MAX)).await?;
        let mut dead_letters = quarantine::list(client, meta, None, false).await?;
        dead_letters.truncate(usize::from(LISTED_MAX));
        Ok(Lists {
            executions: documents(executions),
            alerts: documents(alerts),
            dead_letters: documents(dead_letters),
        })
    }
}

fn documents(items: Vec<impl Serialize>) -> Vec<Value> {
    items.into_iter().map(|item| json!(item)).collect()
}

/// `lists` may be missing, with the reason.
pub fn dashboard(status: Status, points: Vec<Point>, lists: Result<Lists, String>) -> Dashboard {
    let dashboard = page::Dashboard::of(Program::Applier, status, points);
    match lists {
        Ok(Lists { executions, alerts, dead_letters }) => {
            Dashboard { executions, alerts, dead_letters, ..dashboard }
        }
        Err(why) => Dashboard {
            alerts: dashboard.status.alerts.iter().map(|alert| json!(alert)).collect(),
            not_known: vec![format!("executions, dead letters and alerts that are over: {why}")],
            ..dashboard
        },
    }
}

/// One minute of the curves.
pub fn sample(status: &Status, now: Timestamp) -> Sample {
    Sample {
        lag_seconds: status.copy.data_as_of.map(|as_of| now.since(as_of).as_secs()),
        records: status.records_synced,
        waiting: status.waiting_segments,
    }
}
