//! One question to the source, whose parameters have types: a pooler may not know prepared statements.

use syncdata_formats::{Error, Kind, Result};
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{GenericClient, Row};

pub(super) async fn many(
    client: &impl GenericClient,
    doing: &str,
    sql: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Vec<Row>> {
    client.query_typed(sql, parameters).await.context(|| doing.to_owned())
}

pub(super) async fn one(
    client: &impl GenericClient,
    doing: &str,
    sql: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Row> {
    let mut rows = many(client, doing, sql, parameters).await?;
    rows.pop().ok_or_else(|| Error::new(Kind::NotFound, format!("{doing}: no answer")))
}
