//! The local server: can it be reached, and may we do there what we have to.

use postgres_protocol::escape::escape_identifier;
use syncdata_formats::error::Result;
use syncdata_formats::printed::identifier;
use syncdata_formats::time::Timestamp;
use syncdata_service::checks;
use syncdata_service::config::Config;
use syncdata_service::finding::Finding;
use syncdata_service::postgres::ServerContext as _;

use super::archive::Newest;
use crate::target::postgres::collations::{self, Moved};
use crate::target::postgres::cursor::Cursor;
use crate::target::postgres::local::Local;
use crate::target::postgres::meta;

pub(super) async fn look(
    config: &Config,
    local: &Local,
    newest: &Newest,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let location = config.postgres()?.location();
    let message = format!("{location}, PostgreSQL {}", local.session.version().text);
    findings.push(Finding::ok("local server", message));
    findings.extend(versions(local, newest));
    if let Some(lossy) = local.lossy_encoding().await? {
        let finding = Finding::fail("encoding", format!("the local database {lossy}"));
        let remedy = "make the local database anew, in UTF8: nothing is applied to this one";
        findings.push(finding.remedy(remedy));
    }
    if closed_tables(local).await?.is_none()
        && meta::exists(&local.session, &local.meta).await?
        && let Some(Moved { what, remedy }) = collations::moved(local.session.client(), &local.meta).await?
    {
        findings.push(Finding::fail("collations", what).remedy(remedy));
    }
    findings.push(clock(local).await?);
    findings.push(checks::tls(config.postgres()?, &local.session).await?);
    findings.push(role(local).await?);
    findings.push(temporary(local).await?);
    findings.push(replica_role(config, local)?);
    findings.push(own_tables(config, local, newest).await?);
    Ok(())
}

/// What a newer server has in types and functions an older one has not.
fn versions(local: &Local, newest: &Newest) -> Option<Finding> {
    let theirs = newest.server_version.as_deref()?;
    let major: u32 = theirs.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    let ours = local.session.version();
    let message = format!("production has PostgreSQL {theirs}, this server {}", ours.text);
    Some(match ours.major() < major {
        true => Finding::warn(
            "versions",
            format!("{message}: types and labels that only the newer one has cannot be kept here"),
        )
        .remedy("upgrade this server to the version of production, or a newer one"),
        false => Finding::ok("versions", message),
    })
}

async fn clock(local: &Local) -> Result<Finding> {
    let asked = Timestamp::now();
    let row = local.session.client().query_one("SELECT clock_timestamp()::text", &[]).await;
    let row = row.context(|| "reading the server's clock".to_owned())?;
    Ok(checks::clocks("the local server's clock", Timestamp::from_postgres(row.get(0))?, asked))
}

/// Loads and passes bring rows in through temporary tables.
async fn temporary(local: &Local) -> Result<Finding> {
    const SUBJECT: &str = "temporary tables";
    let select = "SELECT has_database_privilege(current_database(), 'TEMPORARY'), current_database()::text, current_user::text";
    let row = local.session.client().query_one(select, &[]).await;
    let row = row.context(|| "reading the rights on the database".to_owned())?;
    let (may, database, user): (bool, &str, &str) = (row.get(0), row.get(1), row.get(2));
    if may {
        return Ok(Finding::ok(SUBJECT, "may be made: loads and passes bring rows in through them"));
    }
    Ok(Finding::fail(
        SUBJECT,
        format!("{user} may not make any in {database}: nothing can be loaded or applied"),
    )
    .remedy("run the statement as the database's owner")
    .statement(format!("GRANT TEMPORARY ON DATABASE {} TO {};", identifier(database), identifier(user))))
}

async fn role(local: &Local) -> Result<Finding> {
    let select = "SELECT rolname::text, rolsuper FROM pg_roles WHERE rolname = current_user";
    let row = local.session.client().query_one(select, &[]).await;
    let row = row.context(|| "reading the role's rights".to_owned())?;
    let (name, is_super): (&str, bool) = (row.get(0), row.get(1));
    Ok(if is_super {
        Finding::warn(
            "role",
            format!("{name} is a superuser: triggers and CHECK expressions of the tables' owners run as it"),
        )
        .remedy("a role that may write the synced tables is enough")
    } else {
        Finding::ok("role", name)
    })
}

fn replica_role(config: &Config, local: &Local) -> Result<Finding> {
    const SUBJECT: &str = "session_replication_role";
    if local.replica {
        return Ok(Finding::ok(
            SUBJECT,
            "foreign keys and ordinary triggers are off while changes are applied",
        ));
    }
    let finding = Finding::warn(
        SUBJECT,
        "may not be set: foreign keys and triggers of the synced tables act on what is applied; cascades make \
         changes row by row, and slower",
    );
    Ok(if local.session.version().major() >= 15 {
        let user = escape_identifier(&config.postgres()?.user);
        finding
            .remedy("run the statement as superuser")
            .statement(format!("GRANT SET ON PARAMETER session_replication_role TO {user};"))
    } else {
        finding.remedy("before PostgreSQL 15 only a superuser may")
    })
}

async fn own_tables(config: &Config, local: &Local, newest: &Newest) -> Result<Finding> {
    const SUBJECT: &str = "own tables";
    let schema = &local.meta;
    // First: what is closed cannot even be looked for.
    if let Some(closed) = closed_tables(local).await? {
        return Ok(closed);
    }
    if meta::exists(&local.session, schema).await? {
        let checkpoint = Cursor::of(schema).read(local.session.client()).await?;
        return Ok(match (checkpoint.archive_id, newest.archive_id) {
            (Some(ours), Some(found)) if ours != found => Finding::fail(
                SUBJECT,
                format!("this copy belongs to archive {ours}, archive_dir holds {found}"),
            )
            .remedy("check archive_dir; if production really has a new archive: resync --all --adopt"),
            _ => Finding::ok(SUBJECT, format!("in schema {schema}, at segment {}", checkpoint.seq())),
        });
    }
    let select =
        "SELECT coalesce((SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = $1),
        has_database_privilege(current_database(), 'CREATE')), to_regnamespace(quote_ident($1)) IS NOT NULL,
        current_database()::text";
    let row = local.session.client().query_one(select, &[&schema.name()]).await;
    let row = row.context(|| "reading the rights on the schema".to_owned())?;
    let (may_create, has_schema): (bool, bool) = (row.get(0), row.get(1));
    if may_create {
        return Ok(Finding::ok(
            SUBJECT,
            format!("not there yet; add-tables or start makes them in schema {schema}"),
        ));
    }
    let user = escape_identifier(&config.postgres()?.user);
    let statement = match has_schema {
        true => format!("GRANT CREATE, USAGE ON SCHEMA {schema} TO {user};"),
        false => format!("CREATE SCHEMA {schema} AUTHORIZATION {user};"),
    };
    Ok(Finding::fail(SUBJECT, format!("may not be made in schema {schema}"))
        .remedy("run the statement as superuser, or choose another meta_schema")
        .statement(statement))
}

/// Made by another role, they may be closed to ours.
async fn closed_tables(local: &Local) -> Result<Option<Finding>> {
    // `sync_executions` may be another tool's: ours is known by what we note in it. So is `sync_configurations`.
    let select = "SELECT c.oid::regclass::text, current_user::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v') AND (c.relname = 'tables_to_sync' OR starts_with(c.relname, 'data_sync_')
            OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid
                AND (c.relname, a.attname) IN (('sync_executions', 'server_process'), ('sync_configurations', 'number'))))
        AND NOT (has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
            AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE')) ORDER BY 1";
    let rows = local.session.client().query(select, &[&local.meta.name()]).await;
    let rows = rows.context(|| "reading the rights on our own tables".to_owned())?;
    let closed: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    let Some(user) = rows.first().map(|row| row.get::<_, &str>(1)) else { return Ok(None) };
    let closed = closed.join(", ");
    let statement =
        format!("GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE {closed} TO {};", identifier(user));
    Ok(Some(
        Finding::fail("own tables", format!("{user} may not read and write {closed}"))
            .remedy("run the statement as their owner")
            .statement(statement),
    ))
}
