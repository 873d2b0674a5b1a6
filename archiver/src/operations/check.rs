//! `check`: everything that could be wrong, looked at without changing anything. (One file is written into the archive, and
//! removed again.)

mod backup_host;
mod follow;
mod leftover;
mod partitions;

use std::collections::BTreeSet;
use syncdata_service::postgres::ServerContext as _;

use syncdata_formats::name::{SlotName, TableName};
use syncdata_formats::time::Timestamp;
use syncdata_formats::{Error, Result};
use syncdata_service::checks;
use syncdata_service::config::{Config, Source};
use syncdata_service::finding::Finding;
use syncdata_service::postgres::Session;
use tokio_postgres::types::{ToSql, Type};

use crate::capture::Capture;
use crate::operations::remembered::remembered;
use crate::operations::triggers;
use crate::source::catalog::{self, Slot};
use crate::source::connection::{Connection, is_slot_in_use, while_in_use};
use crate::source::pgoutput::{self, publication};
use crate::source::pinned::APPLICATION_NAME;
use crate::source::production::{About, Production};
use crate::source::role;
use crate::source::slot;

/// Source, backup host and our own disk.
pub(crate) async fn check(config: &Config) -> Vec<Finding> {
    let mut findings = source(config).await;
    findings.extend(backup_host::look(config).await);
    findings.extend(backup_host::spool(config).await.unwrap_or_else(|error| vec![failed("spool", &error)]));
    findings
}

/// Looks at the source only.
pub(crate) async fn source(config: &Config) -> Vec<Finding> {
    let mut connection = match Connection::open(config).await {
        Ok(connection) => connection,
        Err(error) => return vec![unreachable(config, &error)],
    };
    let mut findings = vec![reached(config, &connection)];
    if config.source == Source::Triggers {
        let found = triggers::check(config, &connection).await;
        findings.extend(found.unwrap_or_else(|error| vec![failed(triggers::SUBJECT, &error)]));
        let around = connection_itself(config, &connection.session).await;
        findings.extend(around.unwrap_or_else(|error| vec![failed("server", &error)]));
        return findings;
    }
    if config.source == Source::Pgoutput {
        let refused = pgoutput::check_server(connection.facts.server_version_num).err();
        findings.extend(refused.map(|error| failed("server", &error)));
    }
    findings.extend(
        server(config, &connection.session).await.unwrap_or_else(|error| vec![failed("server", &error)]),
    );
    findings.extend(
        surroundings(config, &connection.session)
            .await
            .unwrap_or_else(|error| vec![failed("server", &error)]),
    );
    findings.push(role(config, &connection.session).await.unwrap_or_else(|error| failed("role", &error)));
    findings.extend(
        gate(config, &connection.session).await.unwrap_or_else(|error| Some(failed("plugin", &error))),
    );
    findings.extend(follow::look(config, &connection).await);
    findings.extend(slot(config, &mut connection).await.unwrap_or_else(|error| vec![failed("slot", &error)]));
    findings.extend(
        leftover::look(config, &connection).await.unwrap_or_else(|error| Some(failed("slot", &error))),
    );
    findings.extend(tables(config, &connection).await.unwrap_or_else(|error| vec![failed("tables", &error)]));
    findings
}

fn failed(subject: &str, error: &Error) -> Finding {
    Finding::of_error(subject, error)
}

pub(crate) fn unreachable(config: &Config, error: &Error) -> Finding {
    let finding = Finding::of_error("source", error);
    let Ok(postgres) = config.postgres() else { return finding };
    match hba_line(&error.one_line(), &postgres.database, &postgres.user) {
        Some(line) => finding
            .remedy("put the line into pg_hba.conf, above any line that rejects us, and run the statement")
            .statement(format!("-- in pg_hba.conf: {line}"))
            .statement("SELECT pg_reload_conf();"),
        None => finding,
    }
}

/// The line that lets us in, from the server's words about the one that is missing.
fn hba_line(said: &str, database: &str, user: &str) -> Option<String> {
    let (_, rest) = said.split_once("pg_hba.conf ").filter(|(_, rest)| rest.contains("for host \""))?;
    let (_, rest) = rest.split_once("for host \"")?;
    let (host, _) = rest.split_once('"')?;
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let who = format!("{} {}", quoted(database), quoted(user));
    Some(match host {
        "[local]" => format!("local {who} scram-sha-256"),
        host => format!("host {who} {host}/{} scram-sha-256", if host.contains(':') { 128 } else { 32 }),
    })
}

fn reached(config: &Config, connection: &Connection) -> Finding {
    let location = config.postgres().map(|postgres| postgres.location()).unwrap_or_default();
    let facts = &connection.facts;
    Finding::ok(
        "source",
        format!("{location}, PostgreSQL {}, encoding {}", facts.server_version, facts.encoding),
    )
}

async fn server(config: &Config, session: &Session) -> Result<Vec<Finding>> {
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
            .remedy(
                "run the statement and restart the server; or set source = \"triggers\", which needs neither",
            )
            .statement("ALTER SYSTEM SET wal_level = 'logical';")
            .statement(restart(session).await?),
    });
    let (slots_max, slots): (i64, i64) = (row.get(1), row.get(2));
    findings.push(if slots < slots_max {
        Finding::ok("max_replication_slots", format!("{slots} of {slots_max} in use"))
    } else {
        Finding::warn("max_replication_slots", format!("all {slots_max} are in use"))
            .remedy("needed for a new slot: run the statement and restart the server")
            .statement(format!("ALTER SYSTEM SET max_replication_slots = {};", slots_max + 5))
            .statement(restart(session).await?)
    });
    let (kept, kept_bytes): (&str, i64) = (row.get(3), row.get(5));
    let guard = config.wal_guard.as_u64();
    if kept != "-1" && kept_bytes.unsigned_abs() <= guard {
        findings.push(
            Finding::warn(
                "max_slot_wal_keep_size",
                format!(
                    "{kept}: the server gives the slot up before the WAL guard ({}) acts",
                    config.wal_guard
                ),
            )
            .remedy("set wal_guard well below it, or run the statements")
            .statement(format!("ALTER SYSTEM SET max_slot_wal_keep_size = '{}MB';", guard / 500_000))
            .statement("SELECT pg_reload_conf();"),
        );
    }
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

/// What it is not about, and how the connection to it is.
async fn surroundings(config: &Config, session: &Session) -> Result<Vec<Finding>> {
    let sql = "SELECT current_setting('archive_mode'), current_setting('archive_timeout')";
    let row = session.client().query_typed_one(sql, &[]).await;
    let row = row.context(|| "reading the server's settings".to_owned())?;
    let (mode, timeout): (&str, &str) = (row.get(0), row.get(1));
    let mode = Finding::ok(
        "archive_mode",
        format!("{mode}, archive_timeout {timeout}: not needed, changes come through the slot"),
    );
    Ok([vec![mode], connection_itself(config, session).await?].concat())
}

async fn connection_itself(config: &Config, session: &Session) -> Result<Vec<Finding>> {
    let asked = Timestamp::now();
    let row = session.client().query_typed_one("SELECT clock_timestamp()::text", &[]).await;
    let row = row.context(|| "reading the server's clock".to_owned())?;
    let theirs = Timestamp::from_postgres(row.get(0))?;
    Ok(vec![
        checks::clocks("the source's clock", theirs, asked),
        checks::tls(config.postgres()?, session).await?,
    ])
}

/// A slot that standbys are to have: they fetch it over a connection of their own.
pub(crate) async fn failover(session: &Session) -> Result<Option<Finding>> {
    let sql = "SELECT current_setting('max_wal_senders')::int8";
    let rows = session
        .client()
        .query_typed(sql, &[])
        .await
        .context(|| "reading the server's settings".to_owned())?;
    let Some(senders) = rows.first().map(|row| row.get::<_, i64>(0)) else { return Ok(None) };
    Ok(Some(if senders > 0 {
        Finding::ok("max_wal_senders", senders.to_string())
    } else {
        Finding::fail("max_wal_senders", "0, no standby can follow")
            .remedy("run the statement and restart the server")
            .statement("ALTER SYSTEM SET max_wal_senders = 10;")
            .statement(restart(session).await?)
    }))
}

/// For whoever pastes the statements into psql: a comment, because it is no SQL. Debian names a cluster after its
/// unit.
async fn restart(session: &Session) -> Result<String> {
    let major = session.version().major();
    let sql = "SELECT current_setting('cluster_name')";
    let rows =
        session.client().query_typed(sql, &[]).await.context(|| "reading the cluster's name".to_owned())?;
    let named = rows.first().map(|row| row.get::<_, &str>(0)).unwrap_or_default();
    let cluster = named.strip_prefix(&format!("{major}/")).filter(|name| !name.is_empty()).unwrap_or("main");
    Ok(format!(
        "-- then restart: systemctl restart postgresql@{major}-{cluster} (systemd), brew services restart postgresql@{major} (Homebrew)"
    ))
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
            .statement(role::use_slots(user)),
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
    let plugin = config.source.as_str();
    let is_listed = list.split(',').any(|name| name.trim().trim_matches('"') == plugin);
    Ok(Some(if is_listed {
        Finding::ok("output_plugin_libraries", list)
    } else {
        Finding::fail(
            "output_plugin_libraries",
            format!("{plugin} is not listed ({list}): the server refuses it"),
        )
        .remedy("run the statement as superuser")
        .statement(role::allow_plugin(&config.postgres()?.user))
    }))
}

async fn slot(config: &Config, connection: &mut Connection) -> Result<Vec<Finding>> {
    let name = &config.slot_name;
    let Some(found) = Slot::read(connection.session.client(), name).await? else {
        let nearest = slot::nearest(connection.session.client(), name).await?;
        let remedy = slot::remedy_for_none(nearest.as_deref());
        return Ok(vec![Finding::fail("slot", format!("{name} does not exist")).remedy(remedy)]);
    };
    if let Some(reason) = found.lost_because() {
        return Ok(vec![
            Finding::fail("slot", format!("{name} is lost ({reason}): its changes are gone")).remedy(
                "run `drop-slot --force`, `setup --create-slot`, then a snapshot; the loss is published as a gap",
            ),
        ]);
    }
    if found.plugin != config.source.as_str() || found.database != connection.facts.database {
        let message = format!("{name} is a slot of {} in database {}", found.plugin, found.database);
        return Ok(vec![Finding::fail("slot", message).remedy(format!(
            "set slot_name to a slot of {} in pg_database, or change source",
            config.source.as_str()
        ))]);
    }
    let standbys = standbys(connection, name).await?;
    if !standbys.is_empty() {
        // The plugin's own question would wait for them.
        return Ok(standbys);
    }
    let position = found.confirmed_flush_lsn.map_or_else(|| "-".to_owned(), |lsn| lsn.to_string());
    Ok(vec![
        Finding::ok("slot", format!("{name} stands at {position}, WAL {}", found.wal_status)),
        plugin(config, connection).await,
    ])
}

/// What a slot that standbys are to have waits for before anything is read from it, from PostgreSQL 17 on.
async fn standbys(connection: &Connection, name: &SlotName) -> Result<Vec<Finding>> {
    let sql = "SELECT wanted.name, s.active FROM pg_replication_slots ours,
          unnest(string_to_array(coalesce(current_setting('synchronized_standby_slots', true), ''), ',')) listed(name),
          LATERAL (SELECT trim(listed.name, ' \"') AS name) wanted
        LEFT JOIN pg_replication_slots s ON s.slot_name = wanted.name AND s.slot_type = 'physical'
        WHERE ours.slot_name = $1 AND to_jsonb(ours)->>'failover' = 'true' AND s.active IS NOT TRUE";
    let rows = connection.session.client().query_typed(sql, &[(&name.as_str(), Type::TEXT)]).await;
    let rows = rows.context(|| "asking the source for its standbys".to_owned())?;
    let finding = |row: &tokio_postgres::Row| {
        let standby: &str = row.get(0);
        let what = match row.get::<_, Option<bool>>(1) {
            None => "does not exist",
            Some(_) => "is not used by any standby now",
        };
        Finding::fail(
            "synchronized_standby_slots",
            format!("the slot {standby} {what}: nothing can be read from {name} before that standby has received it"),
        )
        .remedy(
            "bring the standby back; or, for one that does not come back, take its slot out of the list: ALTER SYSTEM SET \
             synchronized_standby_slots, then SELECT pg_reload_conf()",
        )
    };
    Ok(rows.iter().map(finding).collect())
}

async fn plugin(config: &Config, connection: &mut Connection) -> Finding {
    let (subject, name) = (config.source.as_str(), &config.slot_name);
    match follow::followed(connection, name).await {
        Ok(Some(pid)) => {
            return Finding::ok(
                subject,
                format!("{name} is followed just now (process {pid} of the server)"),
            );
        }
        Ok(None) => {}
        Err(error) => return Finding::of_error(subject, &error),
    }
    let probed = match Production::probe(connection, config).await {
        Err(error) if is_slot_in_use(&error) => match poll_under_way(connection, name).await {
            Ok(Some(pid)) => {
                let message =
                    format!("a poll is reading {name} with it just now (process {pid} of the server)");
                return Finding::ok(subject, message);
            }
            Ok(None) => while_in_use(async || Production::probe(connection, config).await).await,
            Err(error) => Err(error),
        },
        probed => probed,
    };
    match probed.map(|source| source.about()) {
        Ok(About { name, degraded }) if degraded.is_empty() => Finding::ok(subject, name),
        Ok(About { name, degraded }) => Finding::warn(
            subject,
            format!(
                "{name}: NaN and infinities of numeric and float columns arrive as NULL ({})",
                degraded.join(", ")
            ),
        )
        .remedy(
            "install wal2json 2.6 or newer; or do without it: stop the archiver and run `syncdata-archiver setup \
             --switch-source pgoutput`",
        ),
        Err(error) => plugin_failure(subject, config, connection.facts.major(), error),
    }
}

/// The server's process that reads the slot for an archiver of ours.
async fn poll_under_way(connection: &Connection, slot: &SlotName) -> Result<Option<i32>> {
    let sql = "SELECT a.pid FROM pg_replication_slots s JOIN pg_stat_activity a ON a.pid = s.active_pid \
        WHERE s.slot_name = $1 AND a.application_name = $2";
    let parameters: [(&(dyn ToSql + Sync), Type); 2] =
        [(&slot.as_str(), Type::TEXT), (&APPLICATION_NAME, Type::TEXT)];
    let rows = connection.session.client().query_typed(sql, &parameters).await;
    let rows = rows.context(|| format!("asking who reads the slot {slot}"))?;
    Ok(rows.first().map(|row| row.get(0)))
}

/// The server does not let the plugin be used: with the statement that mends it, where there is one.
pub(crate) fn plugin_failure(subject: &str, config: &Config, major: u32, error: Error) -> Finding {
    let user = config.postgres().map_or("", |postgres| postgres.user.as_str());
    let is_gate = slot::is_gate(&error);
    let finding = failed(subject, &slot::explain(error, user, major));
    if is_gate { finding.statement(role::allow_plugin(user)) } else { finding }
}

async fn tables(config: &Config, connection: &Connection) -> Result<Vec<Finding>> {
    let (schemas, catalog) =
        catalog::catalog(connection.session.client(), publication::of(config).as_deref()).await?;
    let memory = remembered(config).await?.map(|state| state.memory).unwrap_or_default();
    let capture = Capture::resolve(&config.tables, &schemas, &catalog, &memory)?;
    let mut findings = vec![Finding::ok("tables", format!("{} are captured", capture.tables.len()))];
    findings.extend(partitions::look(&capture, &catalog, &memory));
    findings.extend(super::publication::check(config, &connection.session, &capture, &catalog).await?);
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
    findings.extend(capture.heirs_left_out.iter().map(|what| {
        Finding::warn("tables", what)
            .remedy("list that table in `tables` too, and sync both; SELECT … FROM ONLY reads the rows of one of them")
    }));
    findings.push(snapshots(config, connection, &capture).await?);
    let not_captured: BTreeSet<String> = capture.passed_over(&catalog).collect();
    findings.extend(
        not_captured.into_iter().map(|what| {
            Finding::warn("tables", format!("{what}: logical decoding does not carry its changes"))
        }),
    );
    Ok(findings)
}

/// A snapshot reads tables in SQL. What it may not read, or would see through a policy, stops it.
async fn snapshots(config: &Config, connection: &Connection, capture: &Capture) -> Result<Finding> {
    let sql = "SELECT n.nspname::text, c.relname::text,
          has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'), row_security_active(c.oid)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          JOIN unnest($1::text[], $2::text[]) AS wanted(nspname, relname)
            ON wanted.nspname = n.nspname AND wanted.relname = c.relname
        WHERE c.relkind IN ('r', 'p')";
    let (schemas, names): (Vec<&str>, Vec<&str>) =
        capture.tables.iter().map(|table| (table.schema(), table.name())).unzip();
    let rows = connection
        .session
        .client()
        .query_typed(sql, &[(&schemas, Type::TEXT_ARRAY), (&names, Type::TEXT_ARRAY)])
        .await
        .context(|| "reading the role's rights".to_owned())?;
    let (mut closed, mut hidden) = (BTreeSet::new(), BTreeSet::new());
    for row in &rows {
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))?;
        if !row.get::<_, bool>(2) {
            closed.insert(table.to_string());
        }
        if row.get(3) {
            hidden.insert(table.to_string());
        }
    }
    if closed.is_empty() && hidden.is_empty() {
        return Ok(Finding::ok("snapshot", "every captured table can be read"));
    }
    let user = config.postgres()?.user.as_str();
    let mut words = Vec::new();
    let mut finding = Vec::new();
    if !closed.is_empty() {
        words.push(format!("{user} may not read {}", some(&closed)));
        finding.push(role::read_tables(user));
    }
    if !hidden.is_empty() {
        words.push(format!("row level security hides rows of {} from {user}", some(&hidden)));
        finding.push(role::pass_row_security(user));
    }
    let warning =
        Finding::warn("snapshot", format!("{}: changes travel, a snapshot cannot be made", words.join("; ")))
            .remedy("run the statement as superuser");
    Ok(finding.into_iter().fold(warning, Finding::statement))
}

/// Names for a person: a few say more than thousands.
pub(crate) fn some(names: &BTreeSet<String>) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_for_pg_hba_is_made_from_the_servers_own_words() {
        for (said, line) in [
            (
                r#"no pg_hba.conf entry for host "10.0.0.7", user "u", database "d", no encryption"#,
                Some(r#"host "d" "u" 10.0.0.7/32 scram-sha-256"#),
            ),
            (
                r#"pg_hba.conf rejects connection for host "fd00::7", user "u", database "d", SSL encryption"#,
                Some(r#"host "d" "u" fd00::7/128 scram-sha-256"#),
            ),
            (
                r#"no pg_hba.conf entry for host "[local]", user "u", database "d", no encryption"#,
                Some(r#"local "d" "u" scram-sha-256"#),
            ),
            ("password authentication failed", None),
        ] {
            assert_eq!(hba_line(said, "d", "u").as_deref(), line, "{said}");
        }
    }

    #[test]
    fn many_names_are_shortened() {
        let names: BTreeSet<String> = (0..7).map(|n| format!("t{n}")).collect();
        assert_eq!(some(&names), "t0, t1, t2, t3, t4 and 2 more");
    }
}
