//! Our own tables in the local database: made on first start, brought to the newest version later.

use std::fmt;
use std::time::Duration;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_service::faults;
use syncdata_service::postgres::ServerContext as _;

use postgres_protocol::escape::{escape_identifier, escape_literal};
use syncdata_service::postgres::Session;
use tokio_postgres::GenericClient;

/// Each brings the tables one version further. What was released is never edited.
const MIGRATIONS: &[&str] = &[
    include_str!("meta.sql"),
    include_str!("meta_2.sql"),
    include_str!("meta_3.sql"),
    include_str!("meta_4.sql"),
    include_str!("meta_5.sql"),
    include_str!("meta_6.sql"),
    include_str!("meta_7.sql"),
    include_str!("meta_8.sql"),
    include_str!("meta_9.sql"),
    include_str!("meta_10.sql"),
    include_str!("meta_11.sql"),
    include_str!("meta_12.sql"),
    include_str!("meta_13.sql"),
    include_str!("meta_14.sql"),
    include_str!("meta_15.sql"),
    include_str!("meta_16.sql"),
    include_str!("meta_17.sql"),
    include_str!("meta_18.sql"),
    include_str!("meta_19.sql"),
    include_str!("meta_20.sql"),
    include_str!("meta_21.sql"),
    include_str!("meta_22.sql"),
    include_str!("meta_23.sql"),
    include_str!("meta_24.sql"),
    include_str!("meta_25.sql"),
];

/// Names of ours that are never synced.
pub const TABLES: &[&str] = &[
    "data_sync_logs",
    "data_sync_metrics",
    "tables_to_sync",
    "data_sync_checkpoint",
    "data_sync_table_state",
    "data_sync_quarantine",
    "data_sync_consistency",
    "data_sync_digests",
    "data_sync_drills",
    "data_sync_version",
    "sync_executions",
    "data_sync_alerts",
    "data_sync_writers",
    "sync_configurations",
    "data_sync_group_checkpoint",
];

/// Those whose rows a sequence numbers.
const NUMBERED: &[&str] =
    &["data_sync_metrics", "tables_to_sync", "data_sync_quarantine", "data_sync_drills"];

/// Names that other tools may have taken, and the version from which on they are ours.
const NEWER_NAMES: &[(&str, usize)] =
    &[("sync_executions", 14), ("data_sync_alerts", 16), ("sync_configurations", 25)];

/// Those of them that are ours in tables of that version: a name that is not one of `data_sync_…` may have been somebody
/// else's before.
pub(crate) fn tables_of(version: usize) -> impl Iterator<Item = &'static str> {
    let since =
        |table: &str| NEWER_NAMES.iter().find(|(name, _)| *name == table).map_or(0, |(_, since)| *since);
    TABLES.iter().copied().filter(move |table| version >= since(table))
}

/// The schema that holds our tables; prints as an identifier, quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaSchema(String);

impl MetaSchema {
    pub fn new(name: impl Into<String>) -> MetaSchema {
        MetaSchema(name.into())
    }

    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MetaSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape_identifier(&self.0))
    }
}

/// Whether our tables are there, of any version.
pub async fn exists(session: &Session, schema: &MetaSchema) -> Result<bool> {
    Ok(version(session, schema).await? > 0)
}

/// Reads what an earlier program left only as far as the version says so.
pub async fn check_current(session: &Session, schema: &MetaSchema) -> Result<()> {
    let (found, ours) = (version(session, schema).await?, MIGRATIONS.len());
    if found == ours {
        return Ok(());
    }
    let message = format!(
        "our tables in schema {schema} are of version {found}, and this program's of {ours}; older ones are brought on by: \
         syncdata-applier start, or sync"
    );
    Err(Error::new(Kind::Conflict, message))
}

/// Makes what is missing. Two programs may start at the same time: the second one waits.
pub async fn create(session: &mut Session, schema: &MetaSchema, stale_after: Duration) -> Result<()> {
    if version(session, schema).await? < MIGRATIONS.len() {
        migrate(session, schema).await?;
    }
    let found = version(session, schema).await?;
    if found > MIGRATIONS.len() {
        return Err(Error::new(
            Kind::StateDamaged,
            format!(
                "the tables in schema {schema} are of version {found}; this program knows {}",
                MIGRATIONS.len()
            ),
        )
        .hint("install the newer syncdata-applier again"));
    }
    bring_sequences_on(session, schema).await?;
    let seconds = i64::try_from(stale_after.as_secs()).unwrap_or(i64::MAX);
    let update = format!(
        "UPDATE {schema}.data_sync_checkpoint SET stale_after = make_interval(secs => $1::bigint) \
         WHERE stale_after <> make_interval(secs => $1::bigint)"
    );
    session.client().execute(&update, &[&seconds]).await.context(|| "noting stale_after".to_owned())?;
    Ok(())
}

/// Rows that were copied into tables that were made anew (a logical replica) have numbers that their sequences would give again.
/// One that this role may not set stays where it is.
async fn bring_sequences_on(session: &Session, schema: &MetaSchema) -> Result<()> {
    let newest = NUMBERED.iter().map(|table| {
        let name = escape_literal(&format!("{schema}.{table}"));
        format!(
            "SELECT pg_catalog.pg_get_serial_sequence({name}, 'id')::regclass AS name, \
             (SELECT max(id)::int8 FROM {schema}.{table}) AS newest"
        )
    });
    let bring_on = format!(
        "SELECT pg_catalog.setval(name, newest) FROM ({}) AS s \
         WHERE CASE WHEN pg_catalog.has_sequence_privilege(name, 'UPDATE') AND pg_catalog.has_sequence_privilege(name, 'SELECT') \
             THEN newest > coalesce(pg_catalog.pg_sequence_last_value(name), 0) ELSE false END",
        newest.collect::<Vec<_>>().join(" UNION ALL ")
    );
    let done = session.client().query(&bring_on, &[]).await;
    done.context(|| "looking whether the numbers of our rows go on".to_owned())?;
    Ok(())
}

async fn migrate(session: &mut Session, schema: &MetaSchema) -> Result<()> {
    let doing = || format!("making our tables in schema {schema}");
    let transaction = session.client_mut().transaction().await.context(doing)?;
    // The number spells "sync"; held until the commit.
    transaction.batch_execute("SELECT pg_advisory_xact_lock(1937337955, 0)").await.context(doing)?;
    let there = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)";
    let there: bool = transaction.query_one(there, &[&schema.name()]).await.context(doing)?.get(0);
    if !there {
        transaction.batch_execute(&format!("CREATE SCHEMA {schema}")).await.context(doing)?;
    }
    let versions = format!("CREATE TABLE IF NOT EXISTS {schema}.data_sync_version (version INT NOT NULL)");
    transaction.batch_execute(&versions).await.context(doing)?;
    let newest = format!("SELECT coalesce(max(version), 0) FROM {schema}.data_sync_version");
    let newest: i32 = transaction.query_one(&newest, &[]).await.context(doing)?.get(0);
    let done = usize::try_from(newest).unwrap_or(0);
    for (name, since) in NEWER_NAMES.iter().filter(|(_, since)| *since > done) {
        refuse_strangers(&transaction, schema, name, done)
            .await
            .map_err(|error| error.context(format!("bringing our tables from version {done} to {since}")))?;
    }
    for (place, migration) in MIGRATIONS.iter().enumerate().skip(done) {
        transaction.batch_execute(&migration.replace("{s}", &schema.to_string())).await.context(doing)?;
        let version = i32::try_from(place + 1).expect("few migrations");
        let note = format!("INSERT INTO {schema}.data_sync_version VALUES ($1)");
        transaction.execute(&note, &[&version]).await.context(doing)?;
        faults::hit("meta.migrated")?;
    }
    transaction.commit().await.context(doing)?;
    tracing::info!(schema = %schema.name(), version = MIGRATIONS.len(), "our tables are made");
    Ok(())
}

/// A table that somebody else made is left as it is.
async fn refuse_strangers(
    client: &impl GenericClient,
    schema: &MetaSchema,
    name: &str,
    done: usize,
) -> Result<()> {
    let doing = || format!("looking for our tables in schema {schema}");
    let there = "SELECT pg_catalog.to_regclass($1) IS NOT NULL";
    let place = format!("{schema}.{name}");
    let is_there: bool = client.query_one(there, &[&place]).await.context(doing)?.get(0);
    if !is_there {
        return Ok(());
    }
    let message = format!("there is a table {place} that is not ours, and we need one of that name");
    let hint = match done {
        0 => "set meta_schema to a schema of our own: meta_schema = \"syncdata\"".to_owned(),
        _ => format!(
            "nothing was changed; rename that one: ALTER TABLE {place} RENAME TO {name}_old. Or set meta_schema to a schema \
             of our own: the tables there begin anew, with an empty whitelist"
        ),
    };
    Err(Error::new(Kind::Conflict, message).hint(hint))
}

/// 0: there are none.
pub(crate) async fn version(session: &Session, schema: &MetaSchema) -> Result<usize> {
    let doing = || format!("looking for our tables in schema {schema}");
    let there = "SELECT pg_catalog.to_regclass($1) IS NOT NULL";
    let name = format!("{schema}.data_sync_version");
    let there: bool = session.client().query_one(there, &[&name]).await.context(doing)?.get(0);
    if !there {
        return Ok(0);
    }
    let newest = format!("SELECT coalesce(max(version), 0) FROM {schema}.data_sync_version");
    let newest: i32 = session.client().query_one(&newest, &[]).await.context(doing)?.get(0);
    Ok(usize::try_from(newest).unwrap_or(0))
}
