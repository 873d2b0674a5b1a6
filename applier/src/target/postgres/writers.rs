//! That it is the applier who writes. Triggers that refuse local writes (`local_writes`) do not fire under the replica role. Where
//! that is not to be had, a transaction says of itself that it is ours, in a table that nobody else may write; no later one, and
//! no other client of the same server process, is taken for it.

use syncdata_formats::error::Result;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::GenericClient;

use crate::target::postgres::meta::MetaSchema;

/// What the triggers call, in the schema of our tables.
pub(crate) const FUNCTION: &str = "data_sync_refuse_write";

/// For the transaction that is open: they do not fire in it.
pub(super) const UNDER_REPLICA: &str = "SET LOCAL session_replication_role = replica";

const STAND: &str = "SELECT EXISTS (
    SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_proc'::regclass AND d.refobjid = p.oid
        AND d.classid = 'pg_catalog.pg_trigger'::regclass
    WHERE n.nspname = $1 AND p.proname = $2)";

/// A statement for people, with its comment: where their writes are refused it has to be run under the replica role.
pub(super) async fn as_ours(
    client: &impl GenericClient,
    meta: &MetaSchema,
    statement: String,
) -> Result<String> {
    if !triggers_stand(client, meta).await? {
        return Ok(statement);
    }
    // A value may look like the beginning of a comment.
    let is_whole = |place: &usize| statement[..*place].matches('\'').count().is_multiple_of(2);
    let comment = statement.rfind("  -- ").filter(is_whole).unwrap_or(statement.len());
    let (written, comment) = statement.split_at(comment);
    Ok(format!("BEGIN; {UNDER_REPLICA}; {written}; COMMIT{comment}"))
}

/// Whether there are such triggers.
pub(super) async fn triggers_stand(client: &impl GenericClient, meta: &MetaSchema) -> Result<bool> {
    let row = client.query_one(STAND, &[&meta.name(), &FUNCTION]).await;
    Ok(row.context(|| "asking whether local writes are refused".to_owned())?.get(0))
}

/// The transaction that is open is ours. Whatever other line is to be seen is of one that is over, and goes.
pub(super) async fn register(client: &impl GenericClient, meta: &MetaSchema) -> Result<()> {
    let register = format!(
        "WITH over_now AS (SELECT w.transaction FROM {meta}.data_sync_writers w \
             WHERE w.transaction <> pg_catalog.pg_current_xact_id() FOR UPDATE SKIP LOCKED), \
         gone AS (DELETE FROM {meta}.data_sync_writers w USING over_now o WHERE w.transaction = o.transaction) \
         INSERT INTO {meta}.data_sync_writers (transaction, pid) \
         VALUES (pg_catalog.pg_current_xact_id(), pg_catalog.pg_backend_pid()) \
         ON CONFLICT (transaction) DO UPDATE SET pid = excluded.pid"
    );
    let registered = client.batch_execute(&register).await;
    registered.context(|| "noting that the applier writes".to_owned())
}
