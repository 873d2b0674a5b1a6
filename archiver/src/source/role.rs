//! The role that reads production: the rights that it takes, and the statements that give them.
//!
//! Reading the slot takes REPLICATION alone, and shows every row of the database already. A snapshot reads tables
//! in SQL on top of that, with row_security = off: under a policy it would be refused, never filtered.

use std::path::Path;
use syncdata_service::postgres::ServerContext as _;

use postgres_protocol::escape::escape_identifier;
use syncdata_formats::Result;
use syncdata_formats::printed::{literal, unless};
use syncdata_service::config::Config;
use syncdata_service::finding::Finding;
use syncdata_service::postgres::{Session, new_password};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

/// The role that `setup --create-user` makes.
pub(crate) const ROLE: &str = "syncdata_user";

/// What a role has of what it needs.
#[derive(Clone, Copy, Debug)]
struct Rights {
    attributes: bool,
    reads_tables: bool,
    connects: bool,
    may_load_plugin: bool,
}

/// Makes the role, or gives it what it lacks; what we may not run is left to a DBA. Without `goes_on` nothing is made.
pub(crate) async fn create(
    config: &Config,
    session: &Session,
    password_file: Option<&Path>,
    goes_on: bool,
    say: impl Fn(&str),
) -> Result<Finding> {
    let settings = config.postgres()?;
    let gate = has_gate(session).await?;
    let found = rights(session, gate).await?;
    let may_make_roles = may_make_roles(session).await?;
    if !goes_on && may_make_roles {
        return Ok(match found.map(|rights| missing(rights, &settings.database)) {
            Some(statements) if statements.is_empty() => {
                Finding::ok("role", format!("{ROLE} exists already"))
            }
            _ => Finding::warn("role", format!("{ROLE} is not made, or not given what it lacks, yet"))
                .remedy("the same command does it once nothing else is in the way"),
        });
    }
    let (statements, done) = match found {
        Some(rights) => (missing(rights, &settings.database), "exists already, and was given what it lacked"),
        None => {
            let password = new_password::find(password_file, ROLE, say)?;
            (new_role(&settings.database, &password, gate), "created")
        }
    };
    if statements.is_empty() {
        return Ok(Finding::ok("role", format!("{ROLE} exists already")));
    }
    if may_make_roles {
        match session.client().batch_execute(&statements.join("\n")).await {
            // Servers that others run have rules of their own; then it is for those to do.
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {}
            run => {
                run.context(|| format!("creating the role {ROLE}"))?;
                return Ok(Finding::ok("role", format!("{ROLE} {done}")));
            }
        }
    }
    let finding =
        Finding::fail("role", format!("{ROLE} cannot be created or given its rights by {}", settings.user))
            .remedy("run the statements as superuser");
    Ok(statements.into_iter().fold(finding, Finding::statement))
}

/// Nobody lets us in yet: what makes the role, for psql, which passes over what is there.
pub(crate) fn script(
    config: &Config,
    password_file: Option<&Path>,
    say: impl Fn(&str),
) -> Result<Vec<String>> {
    let database = &config.postgres()?.database;
    let mut statements = new_role(database, &new_password::find(password_file, ROLE, say)?, true).into_iter();
    let there = format!("SELECT FROM pg_roles WHERE rolname = {}", literal(ROLE));
    let gate = "SELECT WHERE current_setting('output_plugin_libraries', true) IS NULL";
    let conditional = |(place, statement): (usize, String)| match (place, statement == allow_plugin(ROLE)) {
        (0, _) => unless(&statement, &there),
        (_, true) => unless(&statement, gate),
        (_, false) => statement,
    };
    Ok(statements.by_ref().enumerate().map(conditional).collect())
}

/// `None` when there is no such role.
async fn rights(session: &Session, gate: bool) -> Result<Option<Rights>> {
    let sql = "SELECT rolcanlogin AND (rolsuper OR rolreplication AND rolbypassrls),
          pg_has_role(oid, 'pg_read_all_data', 'USAGE'),
          has_database_privilege(oid, current_database(), 'CONNECT'),
          EXISTS (SELECT FROM unnest(rolconfig) AS c WHERE c LIKE 'output\\_plugin\\_libraries=%wal2json%')
        FROM pg_roles WHERE rolname = $1";
    let rows = session.client().query_typed(sql, &[(&ROLE, Type::TEXT)]).await;
    let rows = rows.context(|| format!("reading the rights of {ROLE}"))?;
    Ok(rows.first().map(|row| Rights {
        attributes: row.get(0),
        reads_tables: row.get(1),
        connects: row.get(2),
        may_load_plugin: !gate || row.get(3),
    }))
}

fn new_role(database: &str, password: &str, gate: bool) -> Vec<String> {
    let create = format!(
        "CREATE ROLE {} LOGIN REPLICATION BYPASSRLS PASSWORD {};",
        escape_identifier(ROLE),
        new_password::verifier(password)
    );
    let nothing = Rights { attributes: true, reads_tables: false, connects: false, may_load_plugin: !gate };
    [vec![create], missing(nothing, database)].concat()
}

fn missing(rights: Rights, database: &str) -> Vec<String> {
    let role = escape_identifier(ROLE);
    let mut statements = Vec::new();
    if !rights.attributes {
        statements.push(format!("ALTER ROLE {role} LOGIN REPLICATION BYPASSRLS;"));
    }
    if !rights.reads_tables {
        statements.push(read_tables(ROLE));
    }
    if !rights.connects {
        statements.push(format!("GRANT CONNECT ON DATABASE {} TO {role};", escape_identifier(database)));
    }
    if !rights.may_load_plugin {
        statements.push(allow_plugin(ROLE));
    }
    statements
}

pub(crate) fn use_slots(role: &str) -> String {
    format!("ALTER ROLE {} REPLICATION;", escape_identifier(role))
}

/// Tables made later under a pattern are among them, which no list of grants would have.
pub(crate) fn read_tables(role: &str) -> String {
    format!("GRANT pg_read_all_data TO {};", escape_identifier(role))
}

pub(crate) fn pass_row_security(role: &str) -> String {
    format!("ALTER ROLE {} BYPASSRLS;", escape_identifier(role))
}

pub(crate) fn allow_plugin(role: &str) -> String {
    let role = escape_identifier(role);
    // An unquoted list: one quoted string would be a single name.
    format!("ALTER ROLE {role} SET output_plugin_libraries = pgoutput, test_decoding, wal2json;")
}

async fn may_make_roles(session: &Session) -> Result<bool> {
    // Since 16 a role may give away only what it has itself.
    let sql = "SELECT rolsuper OR rolcreaterole AND rolreplication AND rolbypassrls
          AND current_setting('server_version_num')::int >= 160000
          AND pg_has_role(oid, 'pg_read_all_data', 'MEMBER WITH ADMIN OPTION')
        FROM pg_roles WHERE rolname = current_user";
    let rows =
        session.client().query_typed(sql, &[]).await.context(|| "reading the role's rights".to_owned())?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

/// A role that may not see the setting is told so, which it is not where there is none.
async fn has_gate(session: &Session) -> Result<bool> {
    let sql = "SELECT current_setting('output_plugin_libraries', true) IS NOT NULL";
    match session.client().query_typed(sql, &[]).await {
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(true),
        answer => {
            let rows = answer.context(|| "reading the server's settings".to_owned())?;
            Ok(rows.first().is_some_and(|row| row.get(0)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statements_never_hold_the_password() {
        let statements = new_role("my\"db", "canary-password", true).join("\n");
        assert!(!statements.contains("canary-password"), "{statements}");
        assert!(statements.contains("'SCRAM-SHA-256$4096:"), "{statements}");
        assert!(statements.contains("\"my\"\"db\""), "{statements}");
        assert!(statements.contains("output_plugin_libraries = pgoutput, test_decoding, wal2json;"));
    }

    #[test]
    fn only_what_a_role_lacks_is_given() {
        let all = Rights { attributes: true, reads_tables: true, connects: true, may_load_plugin: true };
        assert!(missing(all, "app").is_empty());
        let old = Rights { attributes: false, reads_tables: false, ..all };
        assert_eq!(
            missing(old, "app"),
            [
                "ALTER ROLE \"syncdata_user\" LOGIN REPLICATION BYPASSRLS;",
                "GRANT pg_read_all_data TO \"syncdata_user\";"
            ]
        );
    }
}
