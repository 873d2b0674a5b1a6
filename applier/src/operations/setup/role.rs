//! The role that writes the copy: what it is made with, and the rights that it takes here. It owns nothing but what it
//! makes itself.

use syncdata_formats::error::Result;
use syncdata_formats::name::TableName;
use syncdata_formats::printed::{identifier, literal, unless};
use syncdata_service::config::{Config, LocalWrites};
use syncdata_service::finding::Finding;
use syncdata_service::postgres::ServerContext as _;
use syncdata_service::postgres::{PostgresSettings, Session, new_password};
use tokio_postgres::types::Type;

use super::{Wanted, run};

/// A role that may have to be made.
#[derive(Clone, Debug)]
pub(super) struct New {
    name: String,
    statement: String,
}

impl New {
    /// `None`: it was not asked for. The password that the settings have is taken: then the two agree.
    pub(super) fn of(config: &Config, wanted: &Wanted, say: impl Fn(&str)) -> Result<Option<New>> {
        if !wanted.role {
            return Ok(None);
        }
        let settings = config.postgres()?;
        let password = match (&wanted.password_file, &settings.password) {
            (None, Some(known)) => known.expose().to_owned(),
            (file, _) => new_password::find(file.as_deref(), &settings.user, say)?,
        };
        let name = settings.user.clone();
        let verifier = new_password::verifier(&password);
        let statement = format!("CREATE ROLE {} LOGIN PASSWORD {verifier};", identifier(&name));
        Ok(Some(New { name, statement }))
    }

    pub(super) fn statement_unless_there(&self) -> String {
        let there = format!("SELECT FROM pg_roles WHERE rolname = {}", literal(&self.name));
        unless(&self.statement, &there)
    }

    pub(super) async fn create(&self, session: &Session) -> Result<Finding> {
        let sql = "SELECT rolcanlogin FROM pg_roles WHERE rolname = $1";
        let found = session.client().query_typed(sql, &[(&self.name, Type::TEXT)]).await;
        let found = found.context(|| format!("looking for the role {}", self.name))?;
        let statement = match found.first().map(|row| row.get::<_, bool>(0)) {
            Some(true) => return Ok(Finding::ok("role", format!("{} exists already", self.name))),
            Some(false) => format!("ALTER ROLE {} LOGIN;", identifier(&self.name)),
            None => self.statement.clone(),
        };
        Ok(match run(session, std::slice::from_ref(&statement)).await? {
            true => Finding::ok("role", format!("{} created", self.name)),
            false => Finding::fail("role", format!("{} cannot be created by this role", self.name))
                .remedy("run the statement as superuser, then this command again; or name a DBA's role: --as")
                .statement(statement),
        })
    }
}

const REPLICA: &str = "GRANT SET ON PARAMETER session_replication_role TO";

/// What it lacks in this database, as grants; for psql, without looking.
pub(super) fn all_rights(config: &Config, settings: &PostgresSettings) -> Vec<String> {
    let (role, meta) = (identifier(&settings.user), identifier(&config.meta_schema));
    let version = "SELECT WHERE current_setting('server_version_num')::int < 150000";
    vec![
        format!("GRANT CONNECT, TEMPORARY ON DATABASE {} TO {role};", identifier(&settings.database)),
        format!("CREATE SCHEMA IF NOT EXISTS {meta};"),
        format!("GRANT USAGE, CREATE ON SCHEMA {meta} TO {role};"),
        unless(&format!("{REPLICA} {role}"), version),
    ]
}

/// Gives the role of the settings what it lacks, or says what a DBA has to run.
pub(super) async fn give(session: &Session, config: &Config, tables: &[TableName]) -> Result<Finding> {
    let role = &config.postgres()?.user;
    let there = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)";
    let there = session.client().query_typed_one(there, &[(role, Type::TEXT)]).await;
    if !there.context(|| format!("looking for the role {role}"))?.get::<_, bool>(0) {
        return Ok(Finding::fail("rights", format!("{role} does not exist"))
            .remedy("setup --create-role makes it, with the rights that it needs"));
    }
    let lacking = missing(session, config, tables).await?;
    if lacking.is_empty() {
        return Ok(Finding::ok("rights", format!("{role} has what it needs")));
    }
    // A grant of what we may not give is a warning to the server: so the rights are looked at again.
    run(session, &lacking).await?;
    let lacking = missing(session, config, tables).await?;
    if lacking.is_empty() {
        return Ok(Finding::ok("rights", format!("{role} was given what it lacked")));
    }
    let finding = Finding::fail("rights", format!("{role} lacks rights, and this role may not give them"))
        .remedy("run the statements as superuser, in this database");
    Ok(lacking.into_iter().fold(finding, Finding::statement))
}

async fn missing(session: &Session, config: &Config, tables: &[TableName]) -> Result<Vec<String>> {
    let (settings, client) = (config.postgres()?, session.client());
    let (role, meta) = (&settings.user, &config.meta_schema);
    let quoted = identifier(role);
    let doing = || format!("reading the rights of {role}");
    let mut statements = Vec::new();

    let sql = "SELECT has_database_privilege($1, current_database(), 'CONNECT')
          AND has_database_privilege($1, current_database(), 'TEMPORARY'),
        EXISTS (SELECT FROM pg_namespace WHERE nspname = $2),
        EXISTS (SELECT FROM pg_namespace n WHERE nspname = $2 AND has_schema_privilege($1, n.oid, 'USAGE')
          AND has_schema_privilege($1, n.oid, 'CREATE'))";
    let row = client.query_typed_one(sql, &[(role, Type::NAME), (meta, Type::TEXT)]).await.context(doing)?;
    let (connects, there, creates): (bool, bool, bool) = (row.get(0), row.get(1), row.get(2));
    if !connects {
        statements.push(format!(
            "GRANT CONNECT, TEMPORARY ON DATABASE {} TO {quoted};",
            identifier(&settings.database)
        ));
    }
    if !there {
        statements.push(format!("CREATE SCHEMA {};", identifier(meta)));
    }
    if !creates {
        statements.push(format!("GRANT USAGE, CREATE ON SCHEMA {} TO {quoted};", identifier(meta)));
    }
    if session.version().major() >= 15 {
        let sql = "SELECT has_parameter_privilege($1, 'session_replication_role', 'SET')";
        let may = client.query_typed_one(sql, &[(role, Type::NAME)]).await.context(doing)?;
        if !may.get::<_, bool>(0) {
            statements.push(format!("{REPLICA} {quoted};"));
        }
    }

    let (schemas, names): (Vec<&str>, Vec<&str>) =
        tables.iter().map(|table| (table.schema(), table.name())).unzip();
    let sql = "SELECT DISTINCT n.nspname::text FROM unnest($2::text[]) AS wanted(schema)
        JOIN pg_namespace n ON n.nspname = wanted.schema
        WHERE NOT has_schema_privilege($1, n.oid, 'USAGE') ORDER BY 1";
    let rows = client.query_typed(sql, &[(role, Type::NAME), (&schemas, Type::TEXT_ARRAY)]).await;
    for row in rows.context(doing)? {
        statements.push(format!("GRANT USAGE ON SCHEMA {} TO {quoted};", identifier(row.get(0))));
    }
    let sql =
        "SELECT n.nspname::text, c.relname::text FROM unnest($2::text[], $3::text[]) AS wanted(schema, name)
        JOIN pg_namespace n ON n.nspname = wanted.schema
        JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name AND c.relkind IN ('r', 'p')
        WHERE NOT (has_table_privilege($1, c.oid, 'SELECT') AND has_table_privilege($1, c.oid, 'INSERT')
          AND has_table_privilege($1, c.oid, 'UPDATE') AND has_table_privilege($1, c.oid, 'DELETE')
          AND has_table_privilege($1, c.oid, 'TRUNCATE')) ORDER BY 1, 2";
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
        [(role, Type::NAME), (&schemas, Type::TEXT_ARRAY), (&names, Type::TEXT_ARRAY)];
    for row in client.query_typed(sql, &parameters).await.context(doing)? {
        let table = TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1))?;
        let rights = "SELECT, INSERT, UPDATE, DELETE, TRUNCATE";
        statements.push(format!("GRANT {rights} ON TABLE {} TO {quoted};", table.sql()));
    }

    if config.local_writes == LocalWrites::Block {
        // Of the partitions too: each has its own.
        let sql = "SELECT DISTINCT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(part.relname)
            FROM unnest($2::text[], $3::text[]) AS wanted(schema, name)
            JOIN pg_namespace of_table ON of_table.nspname = wanted.schema
            JOIN pg_class c ON c.relnamespace = of_table.oid AND c.relname = wanted.name AND c.relkind IN ('r', 'p')
            CROSS JOIN LATERAL (SELECT c.oid UNION SELECT relid FROM pg_partition_tree(c.oid)) AS tree(oid)
            JOIN pg_class part ON part.oid = tree.oid JOIN pg_namespace n ON n.oid = part.relnamespace
            WHERE NOT has_table_privilege($1, part.oid, 'TRIGGER') ORDER BY 1";
        for row in client.query_typed(sql, &parameters).await.context(doing)? {
            statements.push(format!("GRANT TRIGGER ON TABLE {} TO {quoted};", row.get::<_, &str>(0)));
        }
    }
    Ok(statements)
}
