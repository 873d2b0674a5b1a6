//! Triggers in the place of a slot: what `setup`, `check` and `drop-slot` do about them.

use std::collections::BTreeMap;

use postgres_protocol::escape::escape_identifier;
use syncdata_formats::name::TableName;
use syncdata_formats::snapshot::Seen;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::Config;
use syncdata_service::faults;
use syncdata_service::finding::Finding;
use syncdata_service::postgres::{PinnedSettings, ServerContext as _, Session, sqlstate};

use crate::capture::watch::{self, Watched};
use crate::capture::{Capture, CatalogTable, Making, Memory};
use crate::source::catalog;
use crate::source::connection::Connection;
use crate::source::pinned::APPLICATION_NAME;
use crate::source::triggers::keys::{self, Table};
use crate::source::triggers::noted::Noted;
use crate::source::triggers::{self, objects, reader};
use crate::spool::Spool;

pub(crate) const SUBJECT: &str = "triggers";

/// Makes what is missing, a table at a time; what our role may not is printed for whoever may.
pub(crate) async fn create(config: &Config) -> Result<Vec<Finding>> {
    let session = Session::open(config.postgres()?, APPLICATION_NAME, &PinnedSettings::new()).await?;
    let (client, slot) = (session.client(), &config.slot_name);
    let owner = &config.postgres()?.user;
    let mut findings = Vec::new();
    let is_missing = reader::read(client).await?.is_none();
    if is_missing || reader::is_blown(client).await? {
        let sql = objects::creation(owner, slot);
        findings.push(match in_one(&session, &sql).await {
            Ok(()) => Finding::ok(SUBJECT, "the schema syncdata is there, and notes from now on"),
            Err(error) => lacks(SUBJECT, &error)?
                .remedy("run the statements as somebody who may; scripts/triggers.sql has the same to read")
                .statement(format!("BEGIN; {} COMMIT;", one_line(&sql))),
        });
        faults::hit("triggers.objects_made")?;
    }
    for table in objects::for_tables(client, owner, slot, &unnoted(config, &session).await?).await? {
        let statement = match table {
            Ok(statement) => statement,
            Err(refusal) => {
                let finding = Finding::fail(SUBJECT, refusal);
                findings.push(finding.remedy("give it a primary key, or take it out of `tables`"));
                continue;
            }
        };
        // A transaction of its own, with a short patience: somebody may hold the table.
        match client.batch_execute(&statement).await.context(|| "making triggers".to_owned()) {
            Ok(()) => {
                faults::hit("triggers.table_done")?;
                findings.push(Finding::ok(SUBJECT, first_table(&statement)));
            }
            Err(error) => {
                client.batch_execute("ROLLBACK").await.context(|| "giving a table up".to_owned())?;
                let finding = lacks(SUBJECT, &error)?
                    .remedy("run the same command again, or the statements as the table's owner");
                findings.push(finding.statement(format!("{};", one_line(&statement))));
            }
        }
    }
    Ok(findings)
}

/// Whether all that is captured is noted.
pub(crate) async fn check(config: &Config, connection: &Connection) -> Result<Vec<Finding>> {
    let client = connection.session.client();
    let make = "run `syncdata-archiver setup --create-triggers`";
    if reader::read(client).await?.is_none() {
        return Ok(vec![Finding::of_error(SUBJECT, &reader::missing(&config.slot_name))]);
    }
    let mut findings = Vec::new();
    if reader::is_blown(client).await? {
        let message = "they have stopped to note, because nobody read what they had noted";
        findings.push(Finding::fail(SUBJECT, message).remedy(make));
    }
    let unnoted = unnoted_of(config, connection).await?;
    findings.extend(
        unnoted
            .keys()
            .map(|table| Finding::fail(SUBJECT, format!("not all is noted of {table}")).remedy(make)),
    );
    if findings.is_empty() {
        findings.push(Finding::ok(SUBJECT, "every captured table is noted"));
    }
    findings.extend(unreadable(config, client).await?);
    Ok(findings)
}

/// The captured tables whose rows our role does not see, or not all of them.
async fn unreadable(config: &Config, client: &tokio_postgres::Client) -> Result<Vec<Finding>> {
    let (schemas, tables) = catalog::catalog(client, None).await?;
    let capture = Capture::resolve(&config.tables, &schemas, &tables, &Memory::default())?;
    let oids: Vec<u32> = capture.captured(&tables).map(|(relation, _)| relation.oid).collect();
    let names = keys::unreadable(client, &oids).await?;
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let user = escape_identifier(&config.postgres()?.user);
    let message = format!("our role may not read all rows of {}", names.join(", "));
    Ok(vec![
        Finding::fail("role", message)
            .remedy("run the statements as superuser")
            .statement(format!("GRANT pg_read_all_data TO {user};"))
            .statement(format!("ALTER ROLE {user} BYPASSRLS;")),
    ])
}

/// Takes all of it away; what our role may not is for somebody else.
pub(crate) async fn remove(config: &Config) -> Result<Option<Finding>> {
    let session = Session::open(config.postgres()?, APPLICATION_NAME, &PinnedSettings::new()).await?;
    let client = session.client();
    let statements = objects::removal(client).await?;
    for (place, statement) in statements.iter().enumerate() {
        if let Err(error) = client.batch_execute(statement).await.context(|| "removing triggers".to_owned()) {
            client.batch_execute("ROLLBACK").await.context(|| "giving a table up".to_owned())?;
            let remedy = "run the command again, or the statements as somebody who may";
            let finding = lacks(SUBJECT, &error)?.remedy(remedy);
            // The schema goes last, when no table needs it.
            let left =
                statements[place..].iter().map(|left| format!("{};", one_line(left).trim_end_matches(';')));
            return Ok(Some(left.fold(finding, Finding::statement)));
        }
        faults::hit("triggers.removed")?;
    }
    Ok(None)
}

/// Notes that nobody has read would be lost.
pub(crate) async fn refuse_while_pending(config: &Config, connection: &Connection) -> Result<()> {
    let last = Spool::peek_state(&config.spool_dir)?.and_then(|state| state.last_batch);
    let reader = reader::read(connection.session.client()).await?;
    let since = last.and_then(|last| Seen::parse(&last.snapshot)).or(reader.map(|reader| reader.snapshot));
    let Some(since) = since else { return Ok(()) };
    if Noted::read(connection.session.client(), &since).await? == Noted::default() {
        return Ok(());
    }
    Err(Error::new(Kind::Refused, "changes are noted that nobody has read")
        .hint("run `syncdata-archiver run --once` first, or say --force: the changes are then lost"))
}

async fn in_one(session: &Session, sql: &str) -> Result<()> {
    let client = session.client();
    let made = client.batch_execute(&format!("BEGIN; {sql} COMMIT")).await;
    if made.is_err() {
        client.batch_execute("ROLLBACK").await.context(|| "making the schema syncdata".to_owned())?;
    }
    made.context(|| "making the schema syncdata".to_owned())
}

/// What the server refused stands among the findings; that it is not there does not.
fn lacks(subject: &str, error: &Error) -> Result<Finding> {
    match sqlstate(error) {
        Some(_) => Ok(Finding::of_error(subject, error)),
        None => Err(Error::new(error.kind(), error.one_line())),
    }
}

/// The captured tables that lack a trigger, by oid.
async fn unnoted(config: &Config, session: &Session) -> Result<Vec<u32>> {
    let (schemas, tables) = catalog::catalog(session.client(), None).await?;
    let found = missing(config, &schemas, &tables, session.client()).await?;
    Ok(found.into_values().collect())
}

async fn unnoted_of(config: &Config, connection: &Connection) -> Result<BTreeMap<TableName, u32>> {
    let client = connection.session.client();
    let (schemas, tables) = catalog::catalog(client, None).await?;
    missing(config, &schemas, &tables, client).await
}

async fn missing(
    config: &Config,
    schemas: &std::collections::BTreeSet<String>,
    tables: &[CatalogTable],
    client: &tokio_postgres::Client,
) -> Result<BTreeMap<TableName, u32>> {
    let capture = Capture::resolve(&config.tables, schemas, tables, &Memory::default())?;
    let triggers = triggers::catalog::triggers(client).await?;
    let (watched, unnoted) = watch::watched(&capture, tables, &triggers, &Making::as_parts(tables));
    let oids: Vec<u32> = watched.values().map(Watched::oid).collect();
    // What is noted may be another key than it has now.
    let fits = Table::read(client, &oids).await?;
    let lacks = |(table, watched): &(TableName, Watched)| {
        unnoted.contains(table) || fits.get(&watched.oid()).is_none_or(Option::is_none)
    };
    Ok(watched.into_iter().filter(lacks).map(|(table, watched)| (table, watched.oid())).collect())
}

fn first_table(statement: &str) -> String {
    let table = statement.split("AFTER INSERT OR UPDATE OR DELETE ON ").nth(1);
    let table = table.and_then(|rest| rest.split(" FOR EACH ROW").next()).unwrap_or_default();
    format!("rows of {table} are noted from now on")
}

/// Nothing in it depends on where its lines end, but the comments.
fn one_line(statement: &str) -> String {
    let lines = statement.lines().map(str::trim).filter(|line| !line.starts_with("--"));
    lines.collect::<Vec<_>>().join(" ")
}
