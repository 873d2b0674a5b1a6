//! Everything that could be wrong, looked at without changing anything: what `check` prints and `setup` mends.

use std::collections::BTreeSet;

use postgres_protocol::escape::escape_identifier;
use syncdata_shared::archive::{self, ArchiveHandle};
use syncdata_shared::config::Config;
use syncdata_shared::error::Context as _;
use syncdata_shared::finding::Finding;
use syncdata_shared::postgres::Session;
use syncdata_shared::{Error, Result};
use tokio_postgres::types::Type;

use crate::capture::Capture;
use crate::connection::Connection;
use crate::shipper::Shipper;
use crate::slot::{self, Plugin};
use crate::source::{self, Slot};
use crate::spool::Spool;

/// Looks at the source only.
pub(crate) async fn source(config: &Config) -> Vec<Finding> {
    let mut connection = match Connection::open(config).await {
        Ok(connection) => connection,
        Err(error) => return vec![unreachable(config, &error)],
    };
    let mut findings = vec![reached(config, &connection)];
    findings.extend(server(&connection.session).await.unwrap_or_else(|error| vec![failed("server", &error)]));
    findings.push(role(config, &connection.session).await.unwrap_or_else(|error| failed("role", &error)));
    findings.extend(
        gate(config, &connection.session).await.unwrap_or_else(|error| Some(failed("plugin", &error))),
    );
    findings.extend(slot(config, &mut connection).await.unwrap_or_else(|error| vec![failed("slot", &error)]));
    findings.extend(tables(config, &connection).await.unwrap_or_else(|error| vec![failed("tables", &error)]));
    findings
}

/// Looks at the backup host and at our own disk.
pub(crate) async fn archive(config: &Config) -> Vec<Finding> {
    vec![
        backup_host(config).await.unwrap_or_else(|error| failed("archive", &error)),
        spool(config).unwrap_or_else(|error| failed("spool", &error)),
    ]
}

fn failed(subject: &str, error: &Error) -> Finding {
    Finding::of_error(subject, error)
}

fn unreachable(config: &Config, error: &Error) -> Finding {
    let finding = Finding::of_error("source", error);
    match config.postgres() {
        Ok(postgres) if error.one_line().contains("pg_hba.conf") => finding.remedy(format!(
            "add a line to pg_hba.conf for user {} and database {} from this host's address, then: SELECT pg_reload_conf();",
            postgres.user, postgres.database
        )),
        _ => finding,
    }
}

fn reached(config: &Config, connection: &Connection) -> Finding {
    let location = config.postgres().map(|postgres| postgres.location()).unwrap_or_default();
    let facts = &connection.facts;
    Finding::ok(
        "source",
        format!("{location}, PostgreSQL {}, encoding {}", facts.server_version, facts.encoding),
    )
}

async fn server(session: &Session) -> Result<Vec<Finding>> {
    let sql = "SELECT current_setting('wal_level'), current_setting('max_replication_slots')::int8,
        (SELECT count(*) FROM pg_replication_slots), current_setting('max_slot_wal_keep_size'),
        coalesce(current_setting('idle_replication_slot_timeout', true), '0'), pg_size_bytes(
          CASE WHEN current_setting('max_slot_wal_keep_size') = '-1' THEN '0'
            ELSE current_setting('max_slot_wal_keep_size') END)";
    let rows = session
        .client()
        .query_typed(sql, &[])
        .await
        .context(|| "reading the server's settings".to_owned())?;
    let Some(row) = rows.first() else { return Ok(Vec::new()) };
    let mut findings = Vec::new();
    let wal_level: &str = row.get(0);
    findings.push(match wal_level {
        "logical" => Finding::ok("wal_level", "logical"),
        other => Finding::fail("wal_level", format!("{other}, changes cannot be decoded"))
            .remedy("run the statement and restart the server")
            .statement("ALTER SYSTEM SET wal_level = 'logical';")
            .statement(restart(session)),
    });
    let (slots_max, slots): (i64, i64) = (row.get(1), row.get(2));
    findings.push(if slots < slots_max {
        Finding::ok("max_replication_slots", format!("{slots} of {slots_max} in use"))
    } else {
        Finding::warn("max_replication_slots", format!("all {slots_max} are in use"))
            .remedy("needed for a new slot: run the statement and restart the server")
            .statement(format!("ALTER SYSTEM SET max_replication_slots = {};", slots_max + 5))
            .statement(restart(session))
    });
    let idle: &str = row.get(4);
    if !matches!(idle, "0" | "0s" | "0ms" | "0min") {
        findings.push(
            Finding::warn(
                "idle_replication_slot_timeout",
                format!("{idle}: a slot that is idle longer is lost"),
            )
            .remedy("it must be well above data_sync_freq, also while the archiver is stopped"),
        );
    }
    Ok(findings)
}

/// For whoever pastes the statements into psql: a comment, because it is no SQL.
fn restart(session: &Session) -> String {
    let major = session.version().major();
    format!(
        "-- then restart: systemctl restart postgresql@{major}-main (systemd), brew services restart postgresql@{major} (Homebrew)"
    )
}

async fn role(config: &Config, session: &Session) -> Result<Finding> {
    let sql = "SELECT rolreplication OR rolsuper, rolsuper FROM pg_roles WHERE rolname = current_user";
    let rows =
        session.client().query_typed(sql, &[]).await.context(|| "reading the role's rights".to_owned())?;
    let user = config.postgres()?.user.as_str();
    Ok(match rows.first().map(|row| (row.get::<_, bool>(0), row.get::<_, bool>(1))) {
        Some((_, true)) => Finding::warn("role", format!("{user} is a superuser: more than is needed"))
            .remedy("`setup --create-user` makes a role that can do only this"),
        Some((true, false)) => Finding::ok("role", format!("{user} may read the slot")),
        _ => Finding::fail("role", format!("{user} may not use replication slots"))
            .remedy("run the statement as superuser")
            .statement(format!("ALTER ROLE {} REPLICATION;", escape_identifier(user))),
    })
}

/// Only newer minor releases have the setting, and they show it to privileged roles only: the view leaves it out
/// where current_setting is an error. For any other role the slot's own finding says whether wal2json loads.
async fn gate(config: &Config, session: &Session) -> Result<Option<Finding>> {
    let sql = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'output_plugin_libraries'";
    let rows = session
        .client()
        .query_typed(sql, &[])
        .await
        .context(|| "reading output_plugin_libraries".to_owned())?;
    let Some(list) = rows.first().and_then(|row| row.get::<_, Option<String>>(0)) else { return Ok(None) };
    let is_listed = list.split(',').any(|name| name.trim().trim_matches('"') == "wal2json");
    Ok(Some(if is_listed {
        Finding::ok("output_plugin_libraries", list)
    } else {
        Finding::fail(
            "output_plugin_libraries",
            format!("wal2json is not listed ({list}): the server refuses it"),
        )
        .remedy("run the statement as superuser")
        .statement(allow_plugin(&config.postgres()?.user))
    }))
}

pub(crate) fn allow_plugin(role: &str) -> String {
    let role = escape_identifier(role);
    // An unquoted list: one quoted string would be a single name.
    format!("ALTER ROLE {role} SET output_plugin_libraries = pgoutput, test_decoding, wal2json;")
}

async fn slot(config: &Config, connection: &mut Connection) -> Result<Vec<Finding>> {
    let name = &config.slot_name;
    let Some(found) = Slot::read(connection.session.client(), name).await? else {
        return Ok(vec![
            Finding::fail("slot", format!("{name} does not exist"))
                .remedy("run `syncdata-archiver setup --create-slot`; changes are kept from then on"),
        ]);
    };
    if let Some(reason) = found.lost_because() {
        return Ok(vec![
            Finding::fail("slot", format!("{name} is lost ({reason}): its changes are gone")).remedy(
                "run `drop-slot --force`, `setup --create-slot`, then a snapshot; the loss is published as a gap",
            ),
        ]);
    }
    if found.plugin != "wal2json" || found.database != connection.facts.database {
        let message = format!("{name} is a slot of {} in database {}", found.plugin, found.database);
        return Ok(vec![
            Finding::fail("slot", message).remedy("set slot_name to a slot of wal2json in pg_database"),
        ]);
    }
    let position = found.confirmed_flush_lsn.map_or_else(|| "-".to_owned(), |lsn| lsn.to_string());
    Ok(vec![
        Finding::ok("slot", format!("{name} stands at {position}, WAL {}", found.wal_status)),
        plugin(config, connection).await,
    ])
}

async fn plugin(config: &Config, connection: &mut Connection) -> Finding {
    match Plugin::probe(connection, &config.slot_name).await {
        Ok(plugin) if plugin.numbers_as_text => Finding::ok("wal2json", plugin.name),
        Ok(plugin) => Finding::warn(
            "wal2json",
            format!(
                "{}: NaN and infinities of numeric and float columns arrive as NULL (numeric-nan)",
                plugin.name
            ),
        )
        .remedy("install wal2json 2.6 or newer"),
        Err(error) => {
            let user = config.postgres().map_or("", |postgres| postgres.user.as_str());
            failed("wal2json", &slot::explain(error, user))
        }
    }
}

async fn tables(config: &Config, connection: &Connection) -> Result<Vec<Finding>> {
    let (schemas, catalog) = source::catalog(connection.session.client()).await?;
    let remembered = Spool::peek_state(&config.spool_dir)?.map(|state| state.remembered).unwrap_or_default();
    let capture = Capture::resolve(&config.tables, &schemas, &catalog, &remembered)?;
    let mut findings = vec![Finding::ok("tables", format!("{} are captured", capture.tables.len()))];
    findings.extend(capture.vanished.iter().map(|table| {
        Finding::warn("tables", format!("{table} is listed, but was dropped"))
            .remedy("take it out of `tables`")
    }));
    findings.extend(capture.without_identity.iter().map(|table| {
        Finding::warn(
            "replica identity",
            format!("{table} has none: an UPDATE or DELETE on it would be a gap"),
        )
        .remedy("give it a primary key, or run the statement as its owner")
        .statement(format!("ALTER TABLE {} REPLICA IDENTITY FULL;", table.sql()))
    }));
    let not_captured: BTreeSet<String> = capture.passed_over(&catalog).collect();
    findings.extend(
        not_captured.into_iter().map(|what| {
            Finding::warn("tables", format!("{what}: logical decoding does not carry its changes"))
        }),
    );
    Ok(findings)
}

async fn backup_host(config: &Config) -> Result<Finding> {
    let shipper = Shipper::new(ArchiveHandle::spawn(archive::open(config.archive()?)?)?);
    let location = shipper.location().to_owned();
    Ok(match shipper.identity().await? {
        Some(identity) => Finding::ok("archive", format!("{location}, archive {}", identity.archive_id)),
        None => Finding::ok("archive", format!("{location}, empty: the first poll founds the archive")),
    })
}

fn spool(config: &Config) -> Result<Finding> {
    let path = config.spool_dir.display();
    Ok(match Spool::peek_state(&config.spool_dir)? {
        Some(state) => Finding::ok("spool", format!("{path}, up to {}", state.covered_lsn)),
        None => Finding::ok("spool", format!("{path}, never used")),
    })
}

/// A tool of `setup`: is the role there, and may we make one?
pub(crate) async fn role_exists(session: &Session, role: &str) -> Result<bool> {
    let rows =
        session.client().query_typed("SELECT FROM pg_roles WHERE rolname = $1", &[(&role, Type::TEXT)]).await;
    Ok(!rows.context(|| "looking for the role".to_owned())?.is_empty())
}
