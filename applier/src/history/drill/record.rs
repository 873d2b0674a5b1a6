//! What our tables say of drills, and the schemas that they work in.

use postgres_protocol::escape::{escape_identifier, escape_literal};
use syncdata_formats::error::Result;
use syncdata_formats::name::TableName;
use syncdata_formats::proof::ProofManifest;
use syncdata_service::postgres::ServerContext as _;

use super::Drill;
use crate::history::schemas;
use crate::target::postgres::local::Local;

/// Tells our schemas from those that somebody else has called so.
const COMMENT: &str = "syncdata-applier drill";

/// A row of data_sync_drills, and the schema that goes with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry(i64);

impl Entry {
    pub(super) async fn begin(notes: &Local, table: &TableName, proof: &ProofManifest) -> Result<Entry> {
        let insert = format!(
            "INSERT INTO {}.data_sync_drills (table_name, proof_id, cut_lsn) VALUES ($1, $2, $3::text::pg_lsn) \
             RETURNING id",
            notes.meta
        );
        let (table, lsn) = (table.to_string(), proof.cut.end_lsn.to_string());
        let row = notes.session.client().query_one(&insert, &[&table, &proof.id.as_str(), &lsn]).await;
        Ok(Entry(row.context(|| "noting that a drill has begun".to_owned())?.get(0)))
    }

    pub(super) fn schema(self) -> String {
        format!("syncdata_drill_{}", self.0)
    }

    pub(super) async fn make_schema(self, notes: &Local) -> Result<()> {
        let schema = escape_identifier(&self.schema());
        let make =
            format!("CREATE SCHEMA {schema}; COMMENT ON SCHEMA {schema} IS {}", escape_literal(COMMENT));
        let client = notes.session.client();
        schemas::check_right_to_make(client, &self.schema()).await?;
        client.batch_execute(&make).await.context(|| format!("making schema {schema}"))
    }

    /// From now on somebody could read the rows.
    pub(super) async fn restored(self, notes: &Local, drill: &Drill) -> Result<()> {
        let update = format!(
            "UPDATE {}.data_sync_drills SET restored_at = clock_timestamp(), base = $2, rows = $3, bytes = $4 \
             WHERE id = $1",
            notes.meta
        );
        let number = |number: Option<u64>| number.and_then(|number| i64::try_from(number).ok());
        let (rows, bytes) = (number(drill.rows), number(drill.bytes));
        let done = notes.session.client().execute(&update, &[&self.0, &drill.base, &rows, &bytes]).await;
        done.context(|| "noting what a drill has restored".to_owned())?;
        Ok(())
    }

    pub(super) async fn finish(self, notes: &Local, verdict: &str, detail: Option<&str>) -> Result<()> {
        let update = format!(
            "UPDATE {}.data_sync_drills SET verdict = $2, detail = $3, finished_at = clock_timestamp() WHERE id = $1",
            notes.meta
        );
        let done = notes.session.client().execute(&update, &[&self.0, &verdict, &detail]).await;
        done.context(|| "noting what a drill has found".to_owned())?;
        Ok(())
    }
}

/// What drills that were killed have left: schemas, and rows that say nothing. Nobody else drills meanwhile.
pub(super) async fn sweep(notes: &Local) -> Result<()> {
    drop_schemas(notes).await;
    let update = format!(
        "UPDATE {}.data_sync_drills SET verdict = 'not_proved', detail = 'interrupted', finished_at = clock_timestamp() \
         WHERE finished_at IS NULL",
        notes.meta
    );
    let done = notes.session.client().execute(&update, &[]).await;
    done.context(|| "noting that drills were interrupted".to_owned())?;
    Ok(())
}

/// One that stays is the next drill's to drop: nothing is wrong with what was found.
pub(super) async fn drop_schemas(notes: &Local) {
    if let Err(error) = try_to_drop_schemas(notes).await {
        tracing::warn!(error = %error.one_line(), "the schema of a drill could not be dropped; the next drill tries again");
    }
}

async fn try_to_drop_schemas(notes: &Local) -> Result<()> {
    let client = notes.session.client();
    let ours = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'syncdata\\_drill\\_%' \
                AND obj_description(oid, 'pg_namespace') = $1";
    let rows = client.query(ours, &[&COMMENT]).await;
    for row in rows.context(|| "looking for schemas of drills".to_owned())? {
        let schema = escape_identifier(row.get(0));
        let dropped = client.batch_execute(&format!("DROP SCHEMA IF EXISTS {schema} CASCADE")).await;
        dropped.context(|| format!("dropping schema {schema}"))?;
    }
    Ok(())
}
