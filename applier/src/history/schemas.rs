//! Schemas for copies of tables.

use postgres_protocol::escape::escape_identifier;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::Client;

/// Makes it, if nobody has. Who may not is told the statement that allows it.
pub(super) async fn make_schema(client: &Client, name: &str) -> Result<()> {
    let schema = escape_identifier(name);
    let doing = || format!("making schema {schema}");
    let row = client.query_one("SELECT to_regnamespace($1) IS NOT NULL", &[&schema]).await.context(doing)?;
    if row.get(0) {
        return Ok(());
    }
    check_right_to_make(client, name).await?;
    client.batch_execute(&format!("CREATE SCHEMA IF NOT EXISTS {schema}")).await.context(doing)
}

pub(super) async fn check_right_to_make(client: &Client, name: &str) -> Result<()> {
    let schema = escape_identifier(name);
    let asking = "SELECT has_database_privilege(current_database(), 'CREATE'), \
                  format('GRANT CREATE ON DATABASE %I TO %I;', current_database(), current_user)";
    let row = client.query_one(asking, &[]).await.context(|| format!("making schema {schema}"))?;
    if row.get(0) {
        return Ok(());
    }
    let statement: &str = row.get(1);
    Err(Error::new(Kind::Refused, format!("pg_user may not make schemas, and {schema} is needed"))
        .hint(format!("run as the database's owner: {statement}")))
}
