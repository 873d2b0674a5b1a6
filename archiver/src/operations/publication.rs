//! What pgoutput needs beside a slot: a publication, made before the slot, and an event trigger.

use std::time::Duration;

use syncdata_formats::name::TableName;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::Config;
use syncdata_service::faults;
use syncdata_service::finding::Finding;
use syncdata_service::postgres::{ServerContext as _, Session};

use crate::capture::{Capture, CatalogTable, Memory, NO_IDENTITY};
use crate::source::catalog;
use crate::source::pgoutput::guard;
use crate::source::pgoutput::publication::{self, Plan};

pub(crate) const SUBJECT: &str = "publication";

/// What an operator accepts who goes without the event trigger.
const RULE: &str = "without it, an UPDATE or DELETE of a published table that loses its primary key or replica identity fails \
    in production, until the next poll takes it out of the publication";

/// A slot that was made before its publication can never be read through it, nor what older transactions wrote.
pub(crate) async fn create(config: &Config, session: &Session, accept_rule: bool) -> Result<Vec<Finding>> {
    let Some(name) = publication::of(config) else { return Ok(Vec::new()) };
    let client = session.client();
    let mut findings = Vec::new();
    if config.slot_name.as_str().len() > NAME_MAX {
        return Err(Error::new(Kind::BadInput, "slot_name is too long for a publication of that name")
            .hint(format!("with source = \"pgoutput\" it has {NAME_MAX} characters at most")));
    }
    if !guard::exists(client, &name).await?
        && client.batch_execute(&guard::creation(&name).join("\n")).await.is_err()
    {
        if !accept_rule {
            return Err(Error::new(Kind::Refused, "the event trigger that protects production is not there")
                .hint(format!("{RULE}; run the statements as superuser, or say --accept-publication-rule")));
        }
        findings.push(unguarded(&name));
    }
    let (schemas, tables) = catalog::catalog(client, Some(&name)).await?;
    let capture = Capture::resolve(&config.tables, &schemas, &tables, &Memory::default())?;
    let plan = Plan::of(&capture, &tables);
    if publication::exists(client, &name).await? {
        for statement in plan.statements(&name) {
            client
                .batch_execute(&statement)
                .await
                .context(|| format!("changing the publication: {statement}"))?;
        }
        findings.push(Finding::ok(SUBJECT, format!("{name} exists already")));
    } else {
        let statement = publication::creation(&name, &plan.add, session.version().major());
        client.batch_execute(&statement).await.context(|| format!("creating the publication {name}"))?;
        findings.push(Finding::ok(SUBJECT, format!("{name} created")));
    }
    faults::hit("setup.publication_made")?;
    wait_for_older(session).await?;
    Ok(findings)
}

/// PostgreSQL cuts longer names: the publication's has `_pub_guard` after it.
const NAME_MAX: usize = 63 - "_pub_guard".len();

/// A transaction that was open when the publication was made may go on without it. The slot would wait for it as well.
async fn wait_for_older(session: &Session) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(100);
    let ask = async || {
        let sql = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::int8, pg_snapshot_xmax(pg_current_snapshot())::text::int8";
        let row = session.client().query_typed_one(sql, &[]).await;
        let row = row.context(|| "asking which transactions are open".to_owned())?;
        Ok::<(i64, i64), Error>((row.get(0), row.get(1)))
    };
    let (_, open_before) = ask().await?;
    while ask().await?.0 < open_before {
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Is it there, and as it has to be?
pub(crate) async fn check(
    config: &Config,
    session: &Session,
    capture: &Capture,
    tables: &[CatalogTable],
) -> Result<Vec<Finding>> {
    let Some(name) = publication::of(config) else { return Ok(Vec::new()) };
    let client = session.client();
    let mut findings = Vec::new();
    let plan = Plan::of(capture, tables);
    if !publication::exists(client, &name).await? {
        let statement = publication::creation(&name, &plan.add, session.version().major());
        findings.push(
            Finding::fail(SUBJECT, format!("{name} does not exist"))
                .remedy("run `syncdata-archiver setup --create-slot`, which makes it before the slot")
                .statement(format!("{statement};")),
        );
    } else if plan == Plan::default() {
        findings.push(Finding::ok(SUBJECT, format!("{name} has what is captured")));
    } else {
        let finding = Finding::warn(SUBJECT, format!("{name} has not just what is captured"))
            .remedy("the next poll changes it where it may; else run the statements as superuser");
        findings.push(plan.statements(&name).into_iter().fold(finding, Finding::statement));
    }
    findings.push(match guard::exists(client, &name).await? {
        true => {
            Finding::ok("event trigger", "a table that loses its identity leaves the publication at once")
        }
        false => unguarded(&name),
    });
    let without = tables.iter().filter(|table| table.kind == NO_IDENTITY && capture.asks_for(table));
    findings.extend(without.map(|table| no_identity(&table.name)));
    Ok(findings)
}

fn no_identity(table: &TableName) -> Finding {
    Finding::warn("replica identity", format!("{table} has none that can be published: it is not captured"))
        .remedy("give it a primary key, or run the statement as its owner; source = \"wal2json\" captures its inserts")
        .statement(format!("ALTER TABLE {} REPLICA IDENTITY FULL;", table.sql()))
}

fn unguarded(publication: &str) -> Finding {
    let finding = Finding::warn("event trigger", RULE).remedy("run the statements as superuser");
    guard::creation(publication).into_iter().fold(finding, Finding::statement)
}

/// What pgoutput had beside the slot goes with it. What our role may not remove is said.
pub(crate) async fn remove(config: &Config, session: &Session) -> Result<Vec<String>> {
    let Some(name) = publication::of(config) else { return Ok(Vec::new()) };
    let publication = publication::removal(&name);
    let mut left = Vec::new();
    for statement in guard::removal(&name).into_iter().chain([publication]) {
        let removal = format!("SET TRANSACTION READ WRITE; {statement}");
        if session.client().batch_execute(&removal).await.is_err() {
            left.push(statement);
        }
    }
    Ok(left)
}
