//! Lines of `data_sync_table_state` that were copied from a dump, into the tables that are here. A trigger notes that as they
//! come (`meta_19.sql`); pg_dump's `--disable-triggers` switches it off, and does not know that it was always on.

use syncdata_formats::error::Result;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::GenericClient;

use crate::target::postgres::meta::MetaSchema;

const IS_WATCHING: &str = "SELECT EXISTS (
    SELECT FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = 'data_sync_table_state' AND t.tgname = 'data_sync_line_made' AND t.tgenabled = 'A')";

/// Where nobody has watched, all lines may have been copied.
pub(super) async fn look(client: &impl GenericClient, meta: &MetaSchema) -> Result<()> {
    let doing = || "looking whether our lines come from a dump".to_owned();
    if client.query_one(IS_WATCHING, &[&meta.name()]).await.context(doing)?.get(0) {
        return Ok(());
    }
    tracing::warn!(
        "somebody has written into data_sync_table_state with its trigger switched off, as pg_restore --disable-triggers does"
    );
    let watch = format!(
        "UPDATE {meta}.data_sync_table_state SET noted_in = 0;
         CREATE OR REPLACE TRIGGER data_sync_line_made BEFORE INSERT ON {meta}.data_sync_table_state
            FOR EACH ROW EXECUTE FUNCTION {meta}.data_sync_line_made();
         ALTER TABLE {meta}.data_sync_table_state ENABLE ALWAYS TRIGGER data_sync_line_made"
    );
    client.batch_execute(&watch).await.context(doing)
}
