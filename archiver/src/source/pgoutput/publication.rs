//! The publication that our slot is read through: kept equal to what is captured, and looked at for what others did to it.
//!
//! A published UPDATE or DELETE of a table without a usable identity fails in production itself. So only tables with one
//! are published, each by itself, a partitioned table only with a key of its own, which every partition has too. A table
//! without one is not captured: nobody would say what was updated in it.

use std::collections::{BTreeMap, BTreeSet};

use postgres_protocol::escape::escape_identifier;
use syncdata_formats::name::{SlotName, TableName};
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::{Config, Source};
use syncdata_service::postgres::{ServerContext as _, sqlstate};
use tokio_postgres::types::Type;
use tracing::{info, warn};

use super::{guard, publication_of};
use crate::capture::{Capture, CatalogTable, Memory, RelationKind};
use crate::source::ask::{Asked, many};
use crate::source::catalog;
use crate::source::connection::Connection;

/// The publication that decides what is in the stream, where one does.
pub(crate) fn of(config: &Config) -> Option<String> {
    (config.source == Source::Pgoutput).then(|| publication_of(&config.slot_name))
}

/// Whatever the settings say.
pub(crate) fn of_slot(slot: &SlotName) -> String {
    publication_of(slot)
}

/// What would make the publication that of the captured tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub add: Vec<TableName>,
    pub remove: Vec<TableName>,
}

impl Plan {
    pub(crate) fn of(capture: &Capture, catalog: &[CatalogTable]) -> Plan {
        let by_oid: BTreeMap<u32, &CatalogTable> = catalog.iter().map(|table| (table.oid, table)).collect();
        let mut parts: BTreeMap<&TableName, Vec<&CatalogTable>> = BTreeMap::new();
        for (relation, target) in capture.captured(catalog) {
            parts.entry(&target.table).or_default().push(relation);
        }
        let mut wanted = BTreeSet::new();
        let mut carried = BTreeSet::new();
        for (table, parts) in &parts {
            let is_carried = |part: &&&CatalogTable| part.kind == RelationKind::Table;
            carried.extend(parts.iter().filter(is_carried).map(|part| part.oid));
            let root = parts.iter().find(|part| part.name == **table);
            let has_key = |root: &&&CatalogTable| {
                root.kind == RelationKind::Partitioned
                    && root.identity_usable
                    && !parts.iter().any(|part| matches!(part.kind, RelationKind::NotCaptured(_)))
            };
            match root.filter(has_key) {
                Some(root) => drop(wanted.insert(root.oid)),
                None => wanted.extend(parts.iter().filter(is_carried).map(|part| part.oid)),
            }
        }
        let members = catalog.iter().filter(|table| table.is_published()).map(|table| table.oid);
        let members: BTreeSet<u32> = members.collect();
        let names = |oids: &mut dyn Iterator<Item = &u32>| -> Vec<TableName> {
            oids.filter_map(|oid| by_oid.get(oid)).map(|table| table.name.clone()).collect()
        };
        // What is published twice, with its parent too, harms nobody, and one of them may not count yet.
        let surplus = |oid: &&u32| !wanted.contains(oid) && !carried.contains(oid);
        Plan {
            add: names(&mut wanted.difference(&members)),
            remove: names(&mut members.iter().filter(surplus)),
        }
    }

    /// Each by itself: what one of them lacks keeps no other away. Those that go, go last.
    pub(crate) fn statements(&self, publication: &str) -> Vec<String> {
        let alter = |verb: &str, table: &TableName| {
            format!("ALTER PUBLICATION {} {verb} TABLE ONLY {};", escape_identifier(publication), table.sql())
        };
        self.changes().map(|(verb, table)| alter(verb, table)).collect()
    }

    /// The same for our role: through the function that a superuser made for it, where there is one.
    pub(crate) async fn commands(&self, client: &impl Asked, publication: &str) -> Result<Vec<String>> {
        if !guard::may_change(client, publication).await? {
            return Ok(self.statements(publication));
        }
        let call = |(verb, table): (&str, &TableName)| guard::call(publication, verb, &table.sql());
        Ok(self.changes().map(call).collect())
    }

    fn changes(&self) -> impl Iterator<Item = (&'static str, &TableName)> {
        let (add, remove) = (self.add.iter(), self.remove.iter());
        add.map(|table| ("ADD", table)).chain(remove.map(|table| ("DROP", table)))
    }
}

/// Makes the publication that of the captured tables, as far as our role may. What it may not is named by `check`, and is
/// a gap until somebody does it. The catalog that it saw, where that is still so.
pub(crate) async fn keep(
    connection: &mut Connection,
    config: &Config,
    memory: &Memory,
) -> Result<Option<Vec<CatalogTable>>> {
    let Some(publication) = of(config) else { return Ok(None) };
    let (schemas, catalog) = catalog::catalog(&connection.asked(), Some(&publication)).await?;
    // What is wrong with the settings is said where the stream is read.
    let Ok(capture) = Capture::resolve(&config.tables, &schemas, &catalog, memory) else { return Ok(None) };
    let plan = Plan::of(&capture, &catalog);
    let client = &connection.asked();
    let statements = match exists(client, &publication).await? {
        true => plan.commands(client, &publication).await?,
        // Somebody dropped it. What was written meanwhile is missing.
        false => vec![creation(&publication, &plan.add, connection.facts.major())],
    };
    if statements.is_empty() {
        return Ok(Some(catalog));
    }
    for statement in statements {
        match change(connection, &publication, &statement).await {
            Ok(()) => info!(statement, "the publication was changed"),
            Err(error) if sqlstate(&error).is_some() || error.kind() == Kind::Refused => {
                warn!(statement, error = %error.one_line(), "the publication could not be changed: somebody who may has to do it");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Without waiting for a standby: nobody else could see what was changed meanwhile.
async fn change(connection: &mut Connection, publication: &str, statement: &str) -> Result<()> {
    const LIMITS: &str = "SET LOCAL lock_timeout = '2s'; SET LOCAL statement_timeout = '10s'; SET LOCAL synchronous_commit = local";
    let doing = || "changing the publication".to_owned();
    let tx = connection.session.client_mut().build_transaction().read_only(false).start().await;
    let tx = tx.context(|| "starting a transaction on the source".to_owned())?;
    tx.batch_execute(LIMITS).await.context(doing)?;
    let endangered = guard::endangered(&tx, publication).await?;
    tx.batch_execute(statement).await.context(doing)?;
    // It may have lost its identity since we looked, and then production's updates would fail.
    if guard::endangered(&tx, publication).await? > endangered {
        return Err(Error::new(Kind::Refused, "a table of it has no replica identity that can be published"));
    }
    tx.commit().await.context(doing)
}

/// What makes the publication, with the tables that are captured now.
pub(crate) fn creation(publication: &str, tables: &[TableName], major: u32) -> String {
    let tables: Vec<String> = tables.iter().map(|table| format!("ONLY {}", table.sql())).collect();
    let of = if tables.is_empty() { String::new() } else { format!(" FOR TABLE {}", tables.join(", ")) };
    let generated = if major >= 18 { ", publish_generated_columns = stored" } else { "" };
    format!(
        "CREATE PUBLICATION {}{of} WITH (publish = 'insert, update, delete, truncate'{generated})",
        escape_identifier(publication)
    )
}

pub(crate) async fn exists(client: &impl Asked, publication: &str) -> Result<bool> {
    let sql = "SELECT FROM pg_publication WHERE pubname = $1";
    Ok(!many(client, "reading the publication", sql, &[(&publication, Type::TEXT)]).await?.is_empty())
}

pub(crate) fn removal(publication: &str) -> String {
    format!("DROP PUBLICATION IF EXISTS {};", escape_identifier(publication))
}
