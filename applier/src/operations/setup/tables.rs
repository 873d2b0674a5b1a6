//! `setup --create-tables`: tables of the archive that are not here.

use std::collections::{BTreeMap, BTreeSet};

use syncdata_formats::error::Result;
use syncdata_formats::name::TableName;
use syncdata_formats::printed::identifier;
use syncdata_service::config::Config;
use syncdata_service::finding::Finding;
use syncdata_service::postgres::ServerContext as _;
use syncdata_service::postgres::Session;
use tokio_postgres::types::Type;

use super::run;
use crate::archive::described::Described;
use crate::plan::offer::take_snapshot;
use crate::table::create::{self, Enum};
use crate::target::postgres::meta;

const SUBJECT: &str = "tables";

/// What nobody can know from an archive, of all tables.
const NOT_IN_AN_ARCHIVE: &str = "indexes, foreign keys, CHECK and unique constraints, triggers, views, sequences and \
    partitions are not in an archive: make those that you need from a dump of production (pg_dump --schema-only)";

/// Those of the tables that are here.
pub(super) async fn here(session: &Session, names: &[TableName]) -> Result<Vec<TableName>> {
    let schemas: Vec<&str> = names.iter().map(TableName::schema).collect();
    let tables: Vec<&str> = names.iter().map(TableName::name).collect();
    // What an archive calls a table and no catalog can hold cannot be asked for.
    let askable = |names: &[&str]| names.iter().map(|name| name.replace('\0', "?")).collect::<Vec<_>>();
    let sql = "SELECT wanted.place FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted(schema, name, place)
        JOIN pg_namespace n ON n.nspname = wanted.schema
        JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name ORDER BY 1";
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
        [(&askable(&schemas), Type::TEXT_ARRAY), (&askable(&tables), Type::TEXT_ARRAY)];
    let rows = session.client().query_typed(sql, &parameters).await;
    let rows = rows.context(|| "looking for the tables".to_owned())?;
    let place = |row: &tokio_postgres::Row| usize::try_from(row.get::<_, i64>(0) - 1).ok();
    Ok(rows.iter().filter_map(place).filter_map(|place| names.get(place).cloned()).collect())
}

/// Makes those that are missing; which are here then.
pub(super) async fn create(
    session: &Session,
    config: &Config,
    described: &Described,
    names: &[TableName],
    findings: &mut Vec<Finding>,
) -> Result<Vec<TableName>> {
    let there = here(session, names).await?;
    let missing: Vec<&TableName> = names.iter().filter(|name| !there.contains(name)).collect();
    if missing.is_empty() {
        let message = match names.len() {
            0 => "the archive has no table yet".to_owned(),
            count => format!("all {count} are here already"),
        };
        findings.push(Finding::ok(SUBJECT, message));
        return Ok(there);
    }

    let schemas = make_schemas(session, config, &missing, findings).await?;
    let mut made = 0;
    for name in missing {
        if !schemas.contains(name.schema()) {
            continue;
        }
        let finding = match described.relations.get(name) {
            _ if is_ours(config, name) => {
                Finding::fail(SUBJECT, format!("{name} is the name of a table of ours"))
            }
            None => {
                Finding::fail(SUBJECT, format!("{name}: the archive does not say what it looks like yet"))
                    .remedy(take_snapshot(name))
            }
            Some(relation) => make(session, name, relation).await?,
        };
        made += usize::from(finding.level != syncdata_service::finding::Level::Fail);
        findings.push(finding);
    }
    if made > 0 {
        findings.push(
            Finding::warn(SUBJECT, NOT_IN_AN_ARCHIVE).remedy("nothing of it is needed to keep rows in step"),
        );
    }
    here(session, names).await
}

fn is_ours(config: &Config, name: &TableName) -> bool {
    name.schema() == config.meta_schema && meta::TABLES.contains(&name.name())
}

/// The schemas in which we may make tables.
async fn make_schemas(
    session: &Session,
    config: &Config,
    missing: &[&TableName],
    findings: &mut Vec<Finding>,
) -> Result<BTreeSet<String>> {
    let mut usable = BTreeSet::new();
    let schemas: BTreeSet<&str> = missing.iter().map(|name| name.schema()).collect();
    for schema in schemas {
        if schema.contains('\0') || schema.starts_with("pg_") || schema == "information_schema" {
            findings
                .push(Finding::fail(SUBJECT, format!("no table is made in schema {}", identifier(schema))));
            continue;
        }
        let sql = "SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = $1";
        let rows = session.client().query_typed(sql, &[(&schema, Type::TEXT)]).await;
        let rows = rows.context(|| format!("looking for the schema {schema}"))?;
        let create = format!("CREATE SCHEMA {};", identifier(schema));
        let statements = match rows.first().map(|row| row.get::<_, bool>(0)) {
            Some(true) => Vec::new(),
            Some(false) => vec![grant(config, schema)?],
            None => match run(session, std::slice::from_ref(&create)).await? {
                true => Vec::new(),
                false => vec![create, grant(config, schema)?],
            },
        };
        if statements.is_empty() {
            usable.insert(schema.to_owned());
            continue;
        }
        let finding =
            Finding::fail(SUBJECT, format!("no table may be made in schema {}", identifier(schema)))
                .remedy("run the statements as superuser, in this database, then this command again");
        findings.push(statements.into_iter().fold(finding, Finding::statement));
    }
    Ok(usable)
}

fn grant(config: &Config, schema: &str) -> Result<String> {
    let role = identifier(&config.postgres()?.user);
    Ok(format!("GRANT USAGE, CREATE ON SCHEMA {} TO {role};", identifier(schema)))
}

async fn make(
    session: &Session,
    name: &TableName,
    relation: &syncdata_formats::manifest::Relation,
) -> Result<Finding> {
    let enums = missing_enums(session, create::enums(relation)).await?;
    // Types first, in a transaction of their own: the table is asked of the server by their names.
    let statements: Vec<String> = enums.values().map(Enum::statement).collect();
    if !statements.is_empty() {
        match run(session, &statements).await {
            Ok(true) => {}
            Ok(false) => return Ok(not_allowed(name, statements)),
            Err(error) => return Ok(cannot(name, &error.one_line())),
        }
    }
    let mut known = BTreeSet::new();
    for type_name in create::types(relation) {
        if resolves(session, &type_name).await {
            known.insert(type_name);
        }
    }
    let creation = match create::table(name, relation, &known) {
        Ok(creation) => creation,
        Err(reason) => return Ok(cannot(name, &reason)),
    };
    match run(session, &creation.statements).await {
        Ok(true) => {}
        Ok(false) => return Ok(not_allowed(name, creation.statements)),
        Err(error) => return Ok(cannot(name, &error.one_line())),
    }
    let types: Vec<String> = enums.keys().map(|name| format!("the type {name}")).collect();
    let with = if types.is_empty() { String::new() } else { format!(", with {}", types.join(", ")) };
    if creation.without.is_empty() {
        return Ok(Finding::ok(SUBJECT, format!("{name} created{with}")));
    }
    let message = format!("{name} created{with}, without {}", creation.without.join("; "));
    Ok(Finding::warn(SUBJECT, message).remedy("what is missing is not needed to keep its rows in step"))
}

fn cannot(name: &TableName, reason: &str) -> Finding {
    Finding::fail(SUBJECT, format!("{name} is not made: {reason}"))
        .remedy("make it by hand as it is at the source (pg_dump --schema-only --table), or leave it out")
}

fn not_allowed(name: &TableName, statements: Vec<String>) -> Finding {
    let finding = Finding::fail(SUBJECT, format!("{name} may not be made by this role"))
        .remedy("run the statements as superuser, in this database, then this command again");
    statements.into_iter().fold(finding, Finding::statement)
}

/// Whether the server has a type of that name. Before 16 it is an error when it cannot even be read as one.
async fn resolves(session: &Session, type_name: &str) -> bool {
    let sql = "SELECT EXISTS (SELECT FROM pg_type WHERE oid = to_regtype($1) AND typtype <> 'p')";
    let asked = session.client().query_typed_one(sql, &[(&type_name, Type::TEXT)]).await;
    asked.is_ok_and(|row| row.get(0))
}

async fn missing_enums(session: &Session, enums: Vec<Enum>) -> Result<BTreeMap<TableName, Enum>> {
    let mut missing = create::by_name(enums);
    let mut there = Vec::new();
    for name in missing.keys() {
        let sql = "SELECT EXISTS (SELECT FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
            WHERE n.nspname = $1 AND t.typname = $2)";
        let names: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
            [(&name.schema(), Type::TEXT), (&name.name(), Type::TEXT)];
        let row = session.client().query_typed_one(sql, &names).await;
        if row.context(|| format!("looking for the type {name}"))?.get(0) {
            there.push(name.clone());
        }
    }
    missing.retain(|name, one| !there.contains(name) && !one.labels.iter().any(|label| label.contains('\0')));
    Ok(missing)
}
