//! The local server: can it be reached, and may we do there what we have to.

use postgres_protocol::escape::escape_identifier;
use syncdata_formats::error::Result;
use syncdata_service::config::Config;
use syncdata_service::finding::Finding;
use syncdata_service::postgres::ServerContext as _;

use super::archive::Newest;
use crate::target::postgres::cursor::Checkpoint;
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
    findings.push(role(local).await?);
    findings.push(replica_role(config, local)?);
    findings.push(own_tables(config, local, newest).await?);
    Ok(())
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
    if meta::exists(&local.session, schema).await? {
        let checkpoint = Checkpoint::read(local.session.client(), schema).await?;
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
