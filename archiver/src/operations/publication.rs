//! What pgoutput needs beside a slot: a publication, made before the slot, and an event trigger.

use std::time::Duration;

use syncdata_formats::name::TableName;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::Config;
use syncdata_service::faults;
use syncdata_service::finding::Finding;
use syncdata_service::postgres::{ServerContext as _, Session, sqlstate};
use tokio_postgres::types::Type;
use tracing::debug;

use crate::capture::{Capture, CatalogTable, Memory, NO_IDENTITY};
use crate::source::catalog;
use crate::source::pgoutput::guard;
use crate::source::pgoutput::publication::{self, Plan};
use crate::source::role::ROLE;

pub(crate) const SUBJECT: &str = "publication";
const TRIGGERS: &str = "event trigger";
/// What is said of them has these words.
pub(crate) const SUBJECTS: [&str; 2] = [SUBJECT, TRIGGERS];

/// What an operator accepts who goes without the event trigger.
const RULE: &str = "without them, an UPDATE or DELETE of a published table that loses its primary key or replica identity fails \
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
        && !accept_rule
    {
        return Err(Error::new(Kind::Refused, "the event triggers that protect production are not there").hint(
            format!("{RULE}; run the statements as superuser, then this command again, or say --accept-publication-rule"),
        ));
    }
    let (schemas, tables) = catalog::catalog(client, Some(&name)).await?;
    let capture = Capture::resolve(&config.tables, &schemas, &tables, &Memory::default())?;
    let plan = Plan::of(&capture, &tables);
    if publication::exists(client, &name).await? {
        for statement in plan.commands(client, &name).await? {
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
    // As a superuser. Else whoever is one makes it, or the tables' owners add what is made later: `check` says so.
    let users = roles(config, session).await?;
    let permission = guard::permission(&name, users.iter().map(String::as_str));
    if let Err(error) = client.batch_execute(&permission.join("\n")).await {
        debug!(%error, "the function that changes the publication is not made by us");
    }
    faults::hit("setup.publication_made")?;
    wait_for_older(session).await?;
    Ok(findings)
}

/// PostgreSQL cuts longer names: what is made beside the publication has one more word.
const NAME_MAX: usize = 63 - "_pub".len() - guard::SUFFIX_MAX;

/// Who may have to change the publication: whoever we are, and the role that is made for us.
async fn roles(config: &Config, session: &Session) -> Result<Vec<String>> {
    let sql = "SELECT rolname::text FROM pg_roles WHERE rolname IN ($1, $2) ORDER BY 1";
    let user = config.postgres()?.user.as_str();
    let rows = session.client().query_typed(sql, &[(&user, Type::TEXT), (&ROLE, Type::TEXT)]).await;
    Ok(rows.context(|| "asking for our roles".to_owned())?.iter().map(|row| row.get(0)).collect())
}

/// A transaction that was open when the publication was made may go on without it. The slot would wait for it as well.
pub(crate) async fn wait_for_older(session: &Session) -> Result<()> {
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
        true => Finding::ok(TRIGGERS, "a table that loses its identity leaves the publication at once"),
        false => unguarded(&name),
    });
    findings.extend(unable(config, session, &name).await?);
    let without = tables.iter().filter(|table| table.kind == NO_IDENTITY && capture.asks_for(table));
    findings.extend(without.map(|table| no_identity(&table.name)));
    Ok(findings)
}

fn no_identity(table: &TableName) -> Finding {
    Finding::warn("replica identity", format!("{table} has none that can be published: it is not captured"))
        .remedy("give it a primary key, or run the statement as its owner; source = \"wal2json\" captures its inserts")
        .statement(format!("ALTER TABLE {} REPLICA IDENTITY FULL;", table.sql()))
}

/// Tables of others can be published by their owner or through the function of a superuser, not by our role.
async fn unable(config: &Config, session: &Session, publication: &str) -> Result<Option<Finding>> {
    let sql = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user";
    let rows = session.client().query_typed(sql, &[]).await;
    let rows = rows.context(|| "reading the role's rights".to_owned())?;
    let is_superuser = rows.first().is_some_and(|row| row.get(0));
    if is_superuser || guard::may_change(session.client(), publication).await? {
        return Ok(None);
    }
    let users = roles(config, session).await?;
    let finding = Finding::warn(
        SUBJECT,
        "tables that are made later cannot be published by our role: until somebody does it, their changes are a gap",
    )
    .remedy("run the statements as superuser: they let our role change this publication, and nothing else");
    let permission = guard::permission(publication, users.iter().map(String::as_str));
    Ok(Some(permission.into_iter().fold(finding, Finding::statement)))
}

fn unguarded(publication: &str) -> Finding {
    let finding = Finding::warn(TRIGGERS, format!("{RULE}; SET UNLOGGED is refused"))
        .remedy("run the statements as superuser");
    guard::creation(publication).into_iter().fold(finding, Finding::statement)
}

/// What pgoutput had beside the slot goes with it. What our role may not remove is said.
pub(crate) async fn remove(config: &Config, session: &Session) -> Result<Option<Finding>> {
    let Some(name) = publication::of(config) else { return Ok(None) };
    let mut left = Vec::new();
    for statement in guard::removal(&name).into_iter().chain([publication::removal(&name)]) {
        let removal = format!("SET TRANSACTION READ WRITE; {statement}");
        match session.client().batch_execute(&removal).await.context(|| format!("removing {name}")) {
            Ok(()) => {}
            Err(error) if sqlstate(&error).is_some() => left.push(statement),
            Err(error) => return Err(error.hint("run the same command again: some of it is gone")),
        }
        faults::hit("publication.part_removed")?;
    }
    if left.is_empty() {
        return Ok(None);
    }
    let finding = Finding::warn(
        SUBJECT,
        "nobody needs any more what a superuser made beside the slot, and our role may not remove it",
    );
    Ok(Some(left.into_iter().fold(finding.remedy("run the statements as superuser"), Finding::statement)))
}
