//! `data_sync_alerts`: what people, and a daemon on another host, know of alerts.

use std::collections::BTreeSet;

use serde_json::json;
use syncdata_formats::error::{Error, Result};
use syncdata_formats::time::Timestamp;
use syncdata_service::alerts::Alert;
use syncdata_service::postgres::OwnTablesContext as _;
use tokio_postgres::{GenericClient, Row};

use crate::target::postgres::meta::MetaSchema;

/// As it is now; the id stays.
pub async fn keep(client: &impl GenericClient, meta: &MetaSchema, alert: &Alert) -> Result<()> {
    let upsert = format!(
        "INSERT INTO {meta}.data_sync_alerts \
         (id, kind, subject, value, threshold, since, resolved_at, delivered_at, delivered) \
         VALUES ($1::text::uuid, $2, $3, $4::text::numeric, $5::text::numeric, $6::text::timestamptz, \
           $7::text::timestamptz, $8::text::timestamptz, $9) \
         ON CONFLICT (id) DO UPDATE SET value = EXCLUDED.value, resolved_at = EXCLUDED.resolved_at, \
         delivered_at = EXCLUDED.delivered_at, delivered = EXCLUDED.delivered"
    );
    let time = |time: Option<Timestamp>| time.map(|time| time.to_string());
    let delivered: Vec<&String> = alert.delivered.iter().collect();
    client
        .execute(
            &upsert,
            &[
                &alert.id.to_string(),
                &alert.kind.as_str(),
                &alert.subject,
                &alert.value,
                &alert.threshold,
                &alert.since.to_string(),
                &time(alert.resolved_at),
                &time(alert.delivered_at),
                &delivered,
            ],
        )
        .await
        .context(|| "keeping an alert in data_sync_alerts".to_owned())?;
    Ok(())
}

/// Those that are open, or of which somebody has heard and not that they are over.
pub async fn unfinished(client: &impl GenericClient, meta: &MetaSchema) -> Result<Vec<Alert>> {
    let select = format!(
        "SELECT {COLUMNS} FROM {meta}.data_sync_alerts WHERE resolved_at IS NULL OR (delivered_at IS NULL AND delivered <> '{{}}') ORDER BY since LIMIT 1000"
    );
    let rows = client.query(&select, &[]).await.context(|| "reading data_sync_alerts".to_owned())?;
    rows.iter().map(alert).collect()
}

/// The newest, also those that are over.
pub async fn newest(client: &impl GenericClient, meta: &MetaSchema, limit: i64) -> Result<Vec<Alert>> {
    let select = format!(
        "SELECT {COLUMNS} FROM {meta}.data_sync_alerts ORDER BY resolved_at IS NULL DESC, since DESC, id LIMIT $1"
    );
    let rows = client.query(&select, &[&limit]).await.context(|| "reading data_sync_alerts".to_owned())?;
    rows.iter().map(alert).collect()
}

const COLUMNS: &str = "id::text, kind, subject, value::text, threshold::text, (extract(epoch FROM since) * 1000000)::int8, \
    (extract(epoch FROM resolved_at) * 1000000)::int8, (extract(epoch FROM delivered_at) * 1000000)::int8, delivered";

fn alert(row: &Row) -> Result<Alert> {
    let bad = |what: &str| Error::bad_input(what, "data_sync_alerts'");
    let time = |micros: Option<i64>| micros.map(Timestamp::from_micros).transpose();
    Ok(Alert {
        id: row.get::<_, &str>(0).parse().map_err(|_| bad("a uuid"))?,
        kind: serde_json::from_value(json!(row.get::<_, &str>(1))).map_err(|_| bad("a kind of alert"))?,
        subject: row.get(2),
        value: row.get(3),
        threshold: row.get(4),
        since: Timestamp::from_micros(row.get(5))?,
        resolved_at: time(row.get(6))?,
        delivered_at: time(row.get(7))?,
        delivered: row.get::<_, Vec<String>>(8).into_iter().collect::<BTreeSet<String>>(),
        good_checks: 0,
    })
}
